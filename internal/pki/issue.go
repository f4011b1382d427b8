package pki

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/url"
	"time"
)

// Chain is a certificate followed by the intermediates above it, nearest first,
// without the root.
type Chain []*x509.Certificate

// ParseChain reads a chain from PEM.
func ParseChain(text []byte) (Chain, error) {
	certs, err := parseCertificates("", text)
	if err != nil {
		return nil, err
	}
	return certs, nil
}

// PEM is the chain as PEM blocks in its order.
func (c Chain) PEM() []byte { return encodeCertificates(c...) }

// Template is what an issuer puts into the certificate of a mesh's intermediate
// CA. Nothing but the public key comes from the request.
type Template struct {
	// Organization and Mesh are the subject's O and OU.
	Organization string
	Mesh         string
	// URIs are the subject alternative names, as
	// spiffe://<trust domain>/ns/<namespace>/sa/<service account>.
	URIs []string
	// TTL is the lifetime that is wanted; the issuer's own end limits it.
	TTL time.Duration
	// Leaf asks for a certificate that signs nothing, of a TLS server and client, in place of a CA.
	Leaf bool
}

// Issuer signs the intermediate CAs of meshes.
type Issuer interface {
	// Issue returns the new certificate with the intermediates above it. The
	// request must have passed [CheckRequest].
	Issue(ctx context.Context, csr *x509.CertificateRequest, t Template) (Chain, error)
}

// SignerIssuer is an [Issuer] that holds the signing key itself.
type SignerIssuer struct {
	Material Material
	// Now is the clock.
	Now func() time.Time
}

var _ Issuer = SignerIssuer{}

// Issue implements [Issuer]. The certificate is a CA with path length 0, may
// sign certificates and revocation lists, and outlives none of those above it;
// or a leaf, if the template asks for one. It has no name constraints.
func (s SignerIssuer) Issue(ctx context.Context, csr *x509.CertificateRequest, t Template) (Chain, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkRequest(csr); err != nil {
		return nil, err
	}
	uris, err := parseURIs(t.URIs)
	if err != nil {
		return nil, err
	}
	if t.TTL <= 0 {
		return nil, fmt.Errorf("ttlDays: an intermediate that is valid for %v: must be at least 1", t.TTL)
	}
	notBefore, notAfter, err := s.Material.validity(s.Now(), t.TTL)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               subject(t.Organization, t.Mesh),
		URIs:                  uris,
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		BasicConstraintsValid: true,
	}
	if t.Leaf {
		template.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	} else {
		template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
		template.IsCA, template.MaxPathLenZero = true, true
	}
	cert, err := createCertificate(template, s.Material.Certificate, csr.PublicKey, s.Material.Key)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of %s: %w", t.Mesh, err)
	}
	return append(Chain{cert}, s.Material.Chain()...), nil
}

// parseURIs insists on absolute URIs: a relative one names nobody.
func parseURIs(names []string) ([]*url.URL, error) {
	if len(names) == 0 {
		return nil, fmt.Errorf("hosts: empty: name the identity of the certificate, as spiffe://<trust domain>/ns/<namespace>/sa/<service account>")
	}
	uris := make([]*url.URL, len(names))
	for i, name := range names {
		u, err := url.Parse(name)
		if err != nil || u.Scheme == "" || u.Host == "" {
			return nil, fmt.Errorf("hosts: %q: must be a URI, as spiffe://<trust domain>/ns/<namespace>/sa/<service account>", name)
		}
		uris[i] = u
	}
	return uris, nil
}

// validity is the lifetime of something signed now: it lies within that of
// every certificate on the signer's path.
func (m Material) validity(now time.Time, ttl time.Duration) (notBefore, notAfter time.Time, err error) {
	first, last := m.NotBefore(), m.NotAfter()
	if now.Before(first) || !now.Before(last) {
		return first, last, fmt.Errorf("%v is valid from %s to %s and cannot sign now: give it a valid certificate", m, rfc3339(first), rfc3339(last))
	}
	notBefore, notAfter = now.Add(-ClockSkew), now.Add(ttl)
	if notBefore.Before(first) {
		notBefore = first
	}
	if notAfter.After(last) {
		notAfter = last
	}
	return notBefore, notAfter, nil
}

// CrossSign certifies another root under the signer's: same subject, same key,
// issued by the signer. Appended to a chain under the other root, it makes that
// chain acceptable to those who trust the signer's root only.
func CrossSign(other Root, signer Material, now time.Time) (*x509.Certificate, error) {
	for i, c := range signer.path() {
		if hasPathLength(c) && c.MaxPathLen < i+2 {
			return nil, fmt.Errorf("path length %d of %s leaves no room for another root and a mesh's CA below", c.MaxPathLen, describe(c))
		}
	}
	root := other.cert
	left := root.NotAfter.Sub(now)
	if left <= 0 {
		return nil, fmt.Errorf("%s expired at %s and cannot be certified", describe(root), rfc3339(root.NotAfter))
	}
	notBefore, notAfter, err := signer.validity(now, left)
	if err != nil {
		return nil, err
	}
	cross, err := createCertificate(&x509.Certificate{
		SerialNumber:          newSerial(),
		RawSubject:            root.RawSubject,
		SubjectKeyId:          root.SubjectKeyId,
		AuthorityKeyId:        signer.Certificate.SubjectKeyId, // of the same subject, it would else pass for a root
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            root.MaxPathLen,
		MaxPathLenZero:        root.MaxPathLenZero,
	}, signer.Certificate, root.PublicKey, signer.Key)
	if err != nil {
		return nil, fmt.Errorf("cross-signing %s: %w", describe(root), err)
	}
	return cross, nil
}

// ParseCross reads a certificate that certifies a root under one of others (PEM), as [CrossSign] makes it.
func ParseCross(text []byte, root Root, others Bundle) (*x509.Certificate, error) {
	chain, err := ParseChain(text)
	if err != nil {
		return nil, err
	}
	if len(chain) != 1 || !isCrossOf(chain[0], root) {
		return nil, fmt.Errorf("it is not a single certificate of %s under another root", describe(root.cert))
	}
	for _, signer := range others.Roots() {
		if signer.ID() != root.ID() && chain[0].CheckSignatureFrom(signer.cert) == nil {
			return chain[0], nil
		}
	}
	return nil, fmt.Errorf("%s is signed by none of the other roots", describe(chain[0]))
}

// isCrossOf tells whether a certificate is for a root's subject and key and
// signed by another one: it is neither that root nor a re-issued one.
func isCrossOf(c *x509.Certificate, r Root) bool {
	return RootOf(c).SameAnchor(r) && !isSelfSigned(c)
}
