// Package pki makes the certificates of one Kubernetes cluster: a certificate authority and what it signs for the
// components (https://kubernetes.io/docs/setup/best-practices/certificates/). All keys are ECDSA P-256. It must not be
// confused with the trust of the mesh, of which it knows nothing.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/netip"
	"time"
)

// lifetime outlasts every lab.
const lifetime = 365 * 24 * time.Hour

// Pair is a certificate with its key, both PEM.
type Pair struct{ Cert, Key []byte }

// CA signs for one cluster.
type CA struct {
	Pair
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes a self-signed authority.
func NewCA(commonName string) (*CA, error) {
	t := template(commonName, nil)
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	pair, err := encode(der, key)
	return &CA{Pair: pair, cert: cert, key: key}, err
}

// Client signs a certificate for a user of the API server: Kubernetes takes the user's name from the common name and the
// groups from the organisations.
func (ca *CA) Client(user string, groups ...string) (Pair, error) {
	t := template(user, groups)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return ca.sign(t)
}

// Server signs a certificate for a server under these names and addresses.
func (ca *CA) Server(commonName string, names []string, addresses []netip.Addr) (Pair, error) {
	t := template(commonName, nil)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	t.DNSNames = names
	for _, a := range addresses {
		t.IPAddresses = append(t.IPAddresses, net.IP(a.AsSlice()))
	}
	return ca.sign(t)
}

func (ca *CA) sign(t *x509.Certificate) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca.cert, key.Public(), ca.key)
	if err != nil {
		return Pair{}, err
	}
	return encode(der, key)
}

// SigningKey makes the key pair by which the API server signs the tokens of service accounts, both PEM.
func SigningKey() (private, public []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	pair, err := encode(nil, key)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	return pair.Key, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), err
}

func template(commonName string, organisations []string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		Subject:   pkix.Name{CommonName: commonName, Organization: organisations},
		KeyUsage:  x509.KeyUsageDigitalSignature,
		NotBefore: now.Add(-time.Hour),
		NotAfter:  now.Add(lifetime),
	}
}

func encode(cert []byte, key *ecdsa.PrivateKey) (Pair, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return Pair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	}, err
}
