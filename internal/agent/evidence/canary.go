package evidence

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// CanaryServiceAccount is the identity of canaries. No such account exists, and no policy has reason to name it.
const CanaryServiceAccount = "isthmus-canary"

// CanaryTTL is how long a canary is of use.
const CanaryTTL = 10 * time.Minute

// Canary is a client certificate under a root, to be offered to a server in order to see whether it trusts that root. Its
// key was made with it and is kept in memory only.
type Canary struct {
	Root        pki.Root
	certificate tls.Certificate
}

// NewCanary makes a canary that an intermediate of the mesh signs, with an identity in the mesh's trust domain. It comes with
// the intermediates, but with no cross-certificate: that would make it acceptable to those who know another root only.
func NewCanary(intermediate pki.Material, trustDomain, namespace string, now time.Time) (Canary, error) {
	if now.Before(intermediate.NotBefore()) || !now.Before(intermediate.NotAfter()) {
		return Canary{}, fmt.Errorf("%v is not valid now and cannot sign a canary: have it issued anew", intermediate)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Canary{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return Canary{}, err
	}
	leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial,
		URIs:         []*url.URL{identity(trustDomain, namespace, CanaryServiceAccount)},
		NotBefore:    later(now.Add(-pki.ClockSkew), intermediate.NotBefore()),
		NotAfter:     earlier(now.Add(CanaryTTL+pki.ClockSkew), intermediate.NotAfter()),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		// As the leaves of workloads: istiod, of all, demands serverAuth of its clients.
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}, intermediate.Certificate, key.Public(), intermediate.Key)
	if err != nil {
		return Canary{}, fmt.Errorf("signing a canary with %v: %w", intermediate, err)
	}
	chain := [][]byte{leaf}
	for _, c := range intermediate.Chain() {
		chain = append(chain, c.Raw)
	}
	return Canary{Root: intermediate.Root, certificate: tls.Certificate{Certificate: chain, PrivateKey: key}}, nil
}

// String identifies the canary without its key.
func (c Canary) String() string {
	if c.Root.Certificate() == nil {
		return "no canary"
	}
	return "canary under root " + c.Root.ID().Short()
}

// GoString keeps the key out of %#v.
func (c Canary) GoString() string { return c.String() }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
