// Package pkitest makes certificate authorities for tests: good ones, in every
// form of Secret, and bad ones of every kind.
package pkitest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// CA is a certificate with its key and what issued it.
type CA struct {
	Cert   *x509.Certificate
	Key    crypto.Signer
	Parent *CA // nil for a root
	now    time.Time
}

// NewRoot makes a self-signed ECDSA root that is valid from an hour before now
// for ten years. The edits are applied to the template before it is signed.
func NewRoot(t testing.TB, name string, now time.Time, edits ...func(*x509.Certificate)) *CA {
	t.Helper()
	return newCA(t, name, ECKey(t), nil, now, edits)
}

// NewRootOf is [NewRoot] with a key of choice.
func NewRootOf(t testing.TB, name string, key crypto.Signer, now time.Time, edits ...func(*x509.Certificate)) *CA {
	t.Helper()
	return newCA(t, name, key, nil, now, edits)
}

// Intermediate makes a CA below this one, valid for a year.
func (c *CA) Intermediate(t testing.TB, name string, edits ...func(*x509.Certificate)) *CA {
	t.Helper()
	return newCA(t, name, ECKey(t), c, c.now, append([]func(*x509.Certificate){func(x *x509.Certificate) {
		x.NotAfter = c.now.AddDate(1, 0, 0)
	}}, edits...))
}

// Leaf makes the key and certificate of a workload with a SPIFFE identity below
// this CA, valid for a day.
func (c *CA) Leaf(t testing.TB, name string, edits ...func(*x509.Certificate)) *CA {
	t.Helper()
	return newCA(t, name, ECKey(t), c, c.now, append([]func(*x509.Certificate){func(x *x509.Certificate) {
		x.NotAfter = c.now.AddDate(0, 0, 1)
		x.IsCA = false
		x.KeyUsage = x509.KeyUsageDigitalSignature
		x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}}, edits...))
}

func newCA(t testing.TB, name string, key crypto.Signer, parent *CA, now time.Time, edits []func(*x509.Certificate)) *CA {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"Test"}, CommonName: name},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(10, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	for _, edit := range edits {
		edit(template)
	}
	issuer, issuerKey := template, key
	if parent != nil {
		issuer, issuerKey = parent.Cert, parent.Key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), issuerKey)
	if err != nil {
		t.Fatalf("creating certificate %s: %v", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("parsing certificate %s: %v", name, err)
	}
	return &CA{Cert: cert, Key: key, Parent: parent, now: now}
}

// PathLength is an edit that limits the number of CAs below.
func PathLength(n int) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = n, n == 0 }
}

// PEM is the certificate.
func (c *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Cert.Raw})
}

// KeyPEM is the key as PKCS #8.
func (c *CA) KeyPEM(t testing.TB) []byte {
	t.Helper()
	text, err := pki.EncodeKey(c.Key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Top is the root above this CA, or itself.
func (c *CA) Top() *CA {
	for c.Parent != nil {
		c = c.Parent
	}
	return c
}

// Root is the root above this CA as a [pki.Root].
func (c *CA) Root() pki.Root { return pki.RootOf(c.Top().Cert) }

// chainPEM is everything from this CA to the root.
func (c *CA) chainPEM() []byte {
	text := c.PEM()
	for up := c.Parent; up != nil; up = up.Parent {
		text = append(text, up.PEM()...)
	}
	return text
}

// Material is the CA as a signer.
func (c *CA) Material(t testing.TB) pki.Material {
	t.Helper()
	m, err := pki.ReadMaterial(c.IstioSecret(t), c.now)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// RootSecret is a root as root-cert.pem and key.pem.
func (c *CA) RootSecret(t testing.TB) map[string][]byte {
	t.Helper()
	return map[string][]byte{pki.RootCertKey: c.PEM(), pki.RootKeyKey: c.KeyPEM(t)}
}

// IstioSecret is a CA as ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem.
func (c *CA) IstioSecret(t testing.TB) map[string][]byte {
	t.Helper()
	return map[string][]byte{
		pki.CACertKey:    c.PEM(),
		pki.CAKeyKey:     c.KeyPEM(t),
		pki.CertChainKey: c.chainPEM(),
		pki.RootCertKey:  c.Top().PEM(),
	}
}

// CertManagerSecret is a CA as tls.crt, tls.key, ca.crt.
func (c *CA) CertManagerSecret(t testing.TB) map[string][]byte {
	t.Helper()
	crt := c.PEM()
	for up := c.Parent; up != nil && up.Parent != nil; up = up.Parent {
		crt = append(crt, up.PEM()...)
	}
	return map[string][]byte{pki.TLSCertKey: crt, pki.TLSKeyKey: c.KeyPEM(t), pki.TLSRootKey: c.Top().PEM()}
}

// SelfSignedSecret is a root as istiod writes its own, istio-ca-secret.
func (c *CA) SelfSignedSecret(t testing.TB) map[string][]byte {
	t.Helper()
	return map[string][]byte{
		pki.CACertKey:    c.PEM(),
		pki.CAKeyKey:     c.KeyPEM(t),
		pki.CertChainKey: {},
		pki.RootKeyKey:   {},
		pki.RootCertKey:  c.PEM(),
	}
}

// ECKey makes a P-256 key.
func ECKey(t testing.TB) crypto.Signer {
	t.Helper()
	return ECKeyOn(t, elliptic.P256())
}

// ECKeyOn makes a key on a curve.
func ECKeyOn(t testing.TB, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

var rsaKeys sync.Map // bits to func() *rsa.PrivateKey

// RSAKey is an RSA key of so many bits, the same at every call: generating one
// takes up to seconds.
func RSAKey(t testing.TB, bits int) crypto.Signer {
	t.Helper()
	key, _ := rsaKeys.LoadOrStore(bits, sync.OnceValues(func() (*rsa.PrivateKey, error) {
		return rsa.GenerateKey(rand.Reader, bits)
	}))
	k, err := key.(func() (*rsa.PrivateKey, error))()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Wrong is the data of a Secret that must be refused.
type Wrong struct {
	Name   string
	Data   map[string][]byte
	Key    string // the Secret key at fault
	Reason pki.Reason
}

// WrongSecrets are certificate authorities that must not sign for a mesh.
func WrongSecrets(t testing.TB, now time.Time) []Wrong {
	t.Helper()
	root := NewRoot(t, "root", now)
	other := NewRoot(t, "other", now)
	mid := root.Intermediate(t, "intermediate")
	low := mid.Intermediate(t, "lower")

	with := func(data map[string][]byte, key string, value []byte) map[string][]byte {
		data[key] = value
		return data
	}
	edited := func(edit func(*x509.Certificate)) map[string][]byte {
		return NewRoot(t, "edited", now, edit).RootSecret(t)
	}
	return []Wrong{
		{"empty", map[string][]byte{}, "", pki.ReasonMissing},
		{"no certificate", map[string][]byte{pki.RootKeyKey: root.KeyPEM(t)}, pki.RootCertKey, pki.ReasonMissing},
		{"no key", with(mid.IstioSecret(t), pki.CAKeyKey, nil), pki.CAKeyKey, pki.ReasonMissing},
		{"no root", with(mid.IstioSecret(t), pki.RootCertKey, nil), pki.RootCertKey, pki.ReasonMissing},
		{"two forms", with(mid.IstioSecret(t), pki.TLSKeyKey, mid.KeyPEM(t)), "", pki.ReasonAmbiguous},
		{"certificate not PEM", with(root.RootSecret(t), pki.RootCertKey, []byte("hello")), pki.RootCertKey, pki.ReasonMalformed},
		{"key not PEM", with(root.RootSecret(t), pki.RootKeyKey, []byte("hello")), pki.RootKeyKey, pki.ReasonMalformed},
		{"key in place of the certificate", with(root.RootSecret(t), pki.RootCertKey, root.KeyPEM(t)), pki.RootCertKey, pki.ReasonMalformed},
		{"two keys", with(root.RootSecret(t), pki.RootKeyKey, slices.Concat(root.KeyPEM(t), other.KeyPEM(t))), pki.RootKeyKey, pki.ReasonMalformed},
		{"encrypted key", with(root.RootSecret(t), pki.RootKeyKey, pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte{1}})), pki.RootKeyKey, pki.ReasonEncrypted},
		{"not a CA", root.Leaf(t, "leaf").IstioSecret(t), pki.CACertKey, pki.ReasonNotCA},
		{"no keyCertSign", edited(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), pki.RootCertKey, pki.ReasonKeyUsage},
		{"for servers only", edited(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), pki.RootCertKey, pki.ReasonKeyUsage},
		{"key of another", with(mid.IstioSecret(t), pki.CAKeyKey, other.KeyPEM(t)), pki.CAKeyKey, pki.ReasonKeyMismatch},
		{"root's key of another", with(root.RootSecret(t), pki.RootKeyKey, other.KeyPEM(t)), pki.RootKeyKey, pki.ReasonKeyMismatch},
		{"expired", edited(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }), pki.RootCertKey, pki.ReasonExpired},
		{"not yet valid", edited(func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) }), pki.RootCertKey, pki.ReasonNotYetValid},
		{"path length 0", edited(PathLength(0)), pki.RootCertKey, pki.ReasonPathLength},
		{"path length 0 of an intermediate", root.Intermediate(t, "last", PathLength(0)).IstioSecret(t), pki.CACertKey, pki.ReasonPathLength},
		{"path length 1 above an intermediate", NewRoot(t, "short", now, PathLength(1)).Intermediate(t, "i").IstioSecret(t), pki.RootCertKey, pki.ReasonPathLength},
		{"path length 1 between", root.Intermediate(t, "between", PathLength(1)).Intermediate(t, "below").IstioSecret(t), pki.CertChainKey, pki.ReasonPathLength},
		{"name constraints", edited(func(c *x509.Certificate) { c.PermittedURIDomains = []string{"cluster.local"} }), pki.RootCertKey, pki.ReasonNameConstraints},
		{"small RSA key", NewRootOf(t, "weak", RSAKey(t, 1024), now).RootSecret(t), pki.RootKeyKey, pki.ReasonWeakKey},
		{"P-521", NewRootOf(t, "p521", ECKeyOn(t, elliptic.P521()), now).RootSecret(t), pki.RootKeyKey, pki.ReasonWeakKey},
		{"SHA-1", NewRootOf(t, "sha1", RSAKey(t, 2048), now, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA1WithRSA }).RootSecret(t), pki.RootCertKey, pki.ReasonWeakSignature},
		{"root of another", with(mid.IstioSecret(t), pki.RootCertKey, other.PEM()), pki.CACertKey, pki.ReasonChainBroken},
		{"intermediate missing", with(low.IstioSecret(t), pki.CertChainKey, low.PEM()), pki.CACertKey, pki.ReasonChainBroken},
		{"intermediate as the root", with(low.CertManagerSecret(t), pki.TLSRootKey, mid.PEM()), pki.TLSRootKey, pki.ReasonNotSelfSigned},
		{"broken certificate in the bundle", with(root.RootSecret(t), pki.RootCertKey, append(root.PEM(), other.PEM()[:200]...)), pki.RootCertKey, pki.ReasonMalformed},
		{"expired certificate in the chain", with(low.IstioSecret(t), pki.CertChainKey, append(low.chainPEM(),
			root.Intermediate(t, "old", func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }).PEM()...)), pki.CertChainKey, pki.ReasonExpired},
	}
}
