package pki

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"strconv"
	"time"
)

// RootID identifies a root certificate: the SHA-256 of its DER encoding. Its
// text is 64 lower-case hexadecimal digits.
type RootID [sha256.Size]byte

// ParseRootID reads the text of a RootID.
func ParseRootID(s string) (RootID, error) {
	var id RootID
	err := id.UnmarshalText([]byte(s))
	return id, err
}

// RootIDOrZero reads the text of a RootID, and takes what is none for no root at all.
func RootIDOrZero(s string) RootID {
	id, err := ParseRootID(s)
	if err != nil {
		return RootID{}
	}
	return id
}

func (id RootID) String() string { return hex.EncodeToString(id[:]) }

// Short is the first half of the text, which fits a label's value.
func (id RootID) Short() string { return hex.EncodeToString(id[:len(id)/2]) }

// IsZero tells whether id identifies no certificate at all.
func (id RootID) IsZero() bool { return id == RootID{} }

// MarshalText implements [encoding.TextMarshaler].
func (id RootID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (id *RootID) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(id)) {
		return fmt.Errorf("root fingerprint of %d characters: must be %d hexadecimal digits (SHA-256)", len(text), hex.EncodedLen(len(id)))
	}
	if _, err := hex.Decode(id[:], text); err != nil {
		return fmt.Errorf("root fingerprint %q: must be %d hexadecimal digits (SHA-256)", text, hex.EncodedLen(len(id)))
	}
	return nil
}

// Root is a trust anchor's certificate. The zero Root is none.
type Root struct {
	cert *x509.Certificate
}

// RootOf is the certificate taken as a root.
func RootOf(cert *x509.Certificate) Root { return Root{cert} }

// ParseRoot reads exactly one certificate from PEM.
func ParseRoot(text []byte) (Root, error) {
	b, err := ParseBundle(text)
	if err != nil {
		return Root{}, err
	}
	if b.Len() != 1 {
		return Root{}, fmt.Errorf("%d certificates: exactly one root is expected", b.Len())
	}
	return b.Roots()[0], nil
}

// Certificate is the parsed certificate; it is shared and must not be changed.
func (r Root) Certificate() *x509.Certificate { return r.cert }

// ID is the root's fingerprint.
func (r Root) ID() RootID { return RootID(sha256.Sum256(r.cert.Raw)) }

// PEM is the certificate as one PEM block that ends with a newline.
func (r Root) PEM() []byte { return encodeCertificates(r.cert) }

// SameAnchor tells whether two roots have the same subject and key, so that
// whatever verifies under one verifies under the other: a root and its renewal.
func (r Root) SameAnchor(o Root) bool {
	return bytes.Equal(r.cert.RawSubject, o.cert.RawSubject) &&
		bytes.Equal(r.cert.RawSubjectPublicKeyInfo, o.cert.RawSubjectPublicKeyInfo)
}

// Reissues tells whether two roots are different certificates of one anchor.
func (r Root) Reissues(o Root) bool {
	return r.SameAnchor(o) && !bytes.Equal(r.cert.Raw, o.cert.Raw) && isSelfSigned(r.cert) && isSelfSigned(o.cert)
}

// MayCertify tells whether proxies take a certificate of another root under this one for that, as [CrossSign] makes it: those of one
// subject they tell by their key identifiers alone, and a root that was re-issued would certify itself.
func (r Root) MayCertify(o Root) bool {
	if !bytes.Equal(r.cert.RawSubject, o.cert.RawSubject) {
		return true
	}
	return !r.SameAnchor(o) && len(r.cert.SubjectKeyId) > 0 && len(o.cert.SubjectKeyId) > 0 && !bytes.Equal(r.cert.SubjectKeyId, o.cert.SubjectKeyId)
}

// RootOptions says what a new root shall be.
type RootOptions struct {
	// Organization is the subject's O.
	Organization string
	// VirtualMesh names the mesh that the root is for, and Generation counts
	// its roots from 1. Together they are the subject's CN.
	VirtualMesh string
	Generation  int
	// TTL is how long the root is valid from now on.
	TTL time.Duration
}

// NewRoot makes a self-signed root of a key. Proxies name the roots they trust
// by subject alone, so every root has a subject of its own: its serialNumber
// attribute is taken from the key.
func NewRoot(key crypto.Signer, o RootOptions, now time.Time) (Material, error) {
	if o.TTL <= 0 {
		return Material{}, fmt.Errorf("ttlDays: a root that is valid for %v: must be at least 1", o.TTL)
	}
	if weak := keyWeakness(key.Public()); weak != "" {
		return Material{}, fmt.Errorf("key of the root: %s: %s", weak, acceptedKeys)
	}
	name, err := PublicKeyName(key.Public())
	if err != nil {
		return Material{}, err
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(),
		Subject: pkix.Name{
			Organization: attributes(o.Organization),
			CommonName:   attribute(o.VirtualMesh + "." + strconv.Itoa(o.Generation)),
			SerialNumber: name,
		},
		NotBefore:             now.Add(-ClockSkew),
		NotAfter:              now.Add(o.TTL),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	cert, err := createCertificate(template, template, key.Public(), key)
	if err != nil {
		return Material{}, fmt.Errorf("creating a root: %w", err)
	}
	root := RootOf(cert)
	return Material{Certificate: cert, Root: root, Key: key, Roots: NewBundle(root)}, nil
}

// createCertificate signs a template and parses the result.
func createCertificate(template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// newSerial is a positive random number of 127 bits, which DER encodes in 16
// octets (RFC 5280, 4.1.2.2 allows 20).
func newSerial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // crypto/rand never fails
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:])
}

// attributes is the value of a subject's O or OU, absent if empty.
func attributes(name string) []string {
	if name == "" {
		return nil
	}
	return []string{attribute(name)}
}

// maxAttribute is the upper bound of O, OU and CN in characters (RFC 5280,
// appendix A).
const maxAttribute = 64

// attribute fits a name into a subject attribute: what is too long is cut and
// ends with a hash of the whole.
func attribute(name string) string {
	runes := []rune(name)
	if len(runes) <= maxAttribute {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	hash := hex.EncodeToString(sum[:4])
	return string(runes[:maxAttribute-len(hash)-1]) + "-" + hash
}

func encodeCertificates(certs ...*x509.Certificate) []byte {
	var text []byte
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return text
}
