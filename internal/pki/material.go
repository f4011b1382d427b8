package pki

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Material is a certificate authority that can sign: its certificate, its key,
// and the way up to the roots.
type Material struct {
	// Certificate is the signing certificate: a root or an intermediate.
	Certificate *x509.Certificate
	// Intermediates lie between Certificate and Root, nearest first.
	Intermediates []*x509.Certificate
	// Root is the root that Certificate chains to; it may be Certificate.
	Root Root
	// Key is the private key of Certificate.
	Key crypto.Signer `json:"-"`
	// Roots is the bundle that comes with the authority; it contains Root.
	Roots Bundle
}

// String identifies the authority without its key.
func (m Material) String() string {
	if m.Certificate == nil {
		return "no certificate authority"
	}
	return fmt.Sprintf("certificate authority %q under root %s", m.Certificate.Subject, m.Root.ID().Short())
}

// GoString keeps the key out of %#v.
func (m Material) GoString() string { return m.String() }

// Chain leads from the signing certificate to the root, without the root: it is
// empty if the signing certificate is the root.
func (m Material) Chain() Chain {
	if m.isRoot() {
		return nil
	}
	return append(Chain{m.Certificate}, m.Intermediates...)
}

func (m Material) isRoot() bool {
	return bytes.Equal(m.Certificate.Raw, m.Root.cert.Raw)
}

// path is the chain with the root.
func (m Material) path() []*x509.Certificate { return append(m.Chain(), m.Root.cert) }

// NotBefore is when the last certificate of the path to the root becomes valid.
func (m Material) NotBefore() time.Time {
	return slices.MaxFunc(m.path(), func(a, b *x509.Certificate) int { return a.NotBefore.Compare(b.NotBefore) }).NotBefore
}

// NotAfter is when the first certificate of the path to the root expires.
func (m Material) NotAfter() time.Time {
	return slices.MinFunc(m.path(), func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) }).NotAfter
}

// Data is the authority as the data of a Secret, from which [ReadMaterial] reads
// it: ca-cert.pem, ca-key.pem, cert-chain.pem and root-cert.pem.
func (m Material) Data() (map[string][]byte, error) { return CACerts{Material: m}.Data() }

// NewMaterial puts an authority together from its chain (the signing
// certificate, then intermediates, without the root), its key and its roots. It
// makes sure that the key is the certificate's and that the chain leads to one
// of the roots at the given time. The error is an [*InvalidError].
func NewMaterial(chain Chain, key crypto.Signer, roots Bundle, now time.Time) (Material, error) {
	if len(chain) == 0 {
		return Material{}, invalid("", ReasonMissing, "the certificate chain is empty")
	}
	if !samePublicKey(chain[0].PublicKey, key.Public()) {
		return Material{}, invalid("", ReasonKeyMismatch, "the private key is not that of %s", describe(chain[0]))
	}
	path, err := buildPath(chain, roots, x509.ExtKeyUsageServerAuth, now)
	if err != nil {
		return Material{}, invalid("", ReasonChainBroken, "%s does not chain to a trusted root: %v", describe(chain[0]), err)
	}
	return newMaterial(path, key, roots), nil
}

// newMaterial is the authority at the lower end of a path that ends in a root.
func newMaterial(path []*x509.Certificate, key crypto.Signer, roots Bundle) Material {
	last := len(path) - 1
	m := Material{Certificate: path[0], Root: RootOf(path[last]), Key: key, Roots: roots}
	if last > 1 {
		m.Intermediates = path[1:last]
	}
	return m
}

// buildPath finds the shortest path from the first certificate over the others
// to a root; among equals, which lead to a root and to the same one re-issued,
// the one whose root comes first among the others, else first in the bundle.
// istiod verifies a CA for server authentication.
func buildPath(certs []*x509.Certificate, roots Bundle, usage x509.ExtKeyUsage, now time.Time) ([]*x509.Certificate, error) {
	intermediates := x509.NewCertPool()
	for _, c := range certs[1:] {
		if !oversized(c.PublicKey) {
			intermediates.AddCert(c)
		}
	}
	paths, err := certs[0].Verify(x509.VerifyOptions{
		Roots:         roots.Pool(),
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return nil, err
	}
	named := func(path []*x509.Certificate) int {
		if i := slices.IndexFunc(certs, path[len(path)-1].Equal); i >= 0 {
			return i
		}
		return len(certs)
	}
	return slices.MinFunc(paths, func(a, b []*x509.Certificate) int {
		return cmp.Or(
			cmp.Compare(len(a), len(b)),
			cmp.Compare(named(a), named(b)),
			cmp.Compare(roots.index(RootOf(a[len(a)-1]).ID()), roots.index(RootOf(b[len(b)-1]).ID())),
		)
	}), nil
}

// ReadMaterial reads a certificate authority that shall sign the intermediates
// of meshes, from the data of a Secret in one of these forms:
//
//   - root-cert.pem and key.pem: a root;
//   - ca-cert.pem, ca-key.pem, root-cert.pem and, if there are intermediates
//     above the authority, cert-chain.pem: a root or an intermediate;
//   - tls.crt, tls.key, ca.crt, as cert-manager writes them: likewise, the
//     intermediates following in tls.crt.
//
// An empty key counts as absent; without root-cert.pem or ca.crt the authority
// has to be a root itself.
//
// Everything in the Secret is checked before anything is used: that it parses,
// every certificate is a CA that may sign certificates and is valid now, path
// lengths leave room for the CA of a mesh below, there are no name constraints
// (ztunnel rejects them), keys and signatures are strong, the roots are
// self-signed, the key belongs to the certificate and the certificate chains to
// a root. The error is an [*InvalidError].
func ReadMaterial(data map[string][]byte, now time.Time) (Material, error) {
	m, err := readMaterial(data, now)
	if err != nil {
		return Material{}, err
	}
	return m, nil
}

func readMaterial(data map[string][]byte, now time.Time) (Material, *InvalidError) {
	f, err := detectForm(data)
	if err != nil {
		return Material{}, err
	}
	p, err := f.parse(data)
	if err != nil {
		return Material{}, err
	}
	for _, in := range []struct {
		field string
		certs []*x509.Certificate
	}{
		{f.cert, p.certs},
		{f.chain, p.chain},
		{f.roots, p.roots.certificates()},
	} {
		for _, c := range in.certs {
			if err := checkAuthority(in.field, c, now); err != nil {
				return Material{}, err
			}
		}
	}
	for _, c := range p.roots.certificates() {
		if !isSelfSigned(c) {
			return Material{}, invalid(f.roots, ReasonNotSelfSigned, "%s is not self-signed: put the root at the end of its chain here, and intermediates into %s", describe(c), f.chain)
		}
	}
	m, err := f.verify(p, now)
	if err != nil {
		return Material{}, err
	}
	path := m.path()
	for i, c := range path {
		field := f.chain
		switch i {
		case 0:
			field = f.cert
		case len(path) - 1:
			field = f.roots
		}
		if hasPathLength(c) && c.MaxPathLen <= i {
			return Material{}, invalid(field, ReasonPathLength, "path length %d of %s leaves no room for the intermediate CA of a mesh: issue it with at least %d, or without", c.MaxPathLen, describe(c), i+1)
		}
	}
	return m, nil
}

// form is a way to lay out a certificate authority in a Secret: the keys under
// which its parts are found.
type form struct {
	cert, key, chain, roots string
}

var (
	rootForm        = form{cert: RootCertKey, key: RootKeyKey, chain: RootCertKey, roots: RootCertKey}
	istioForm       = form{cert: CACertKey, key: CAKeyKey, chain: CertChainKey, roots: RootCertKey}
	certManagerForm = form{cert: TLSCertKey, key: TLSKeyKey, chain: TLSCertKey, roots: TLSRootKey}
)

// detectForm goes by the keys that belong to one form alone.
func detectForm(data map[string][]byte) (form, *InvalidError) {
	const choose = "put root-cert.pem and key.pem, or ca-cert.pem, ca-key.pem, cert-chain.pem and root-cert.pem, or tls.crt, tls.key and ca.crt into it"
	found := map[form]string{}
	for _, own := range []struct {
		field string
		form  form
	}{
		{RootKeyKey, rootForm},
		{CACertKey, istioForm}, {CAKeyKey, istioForm},
		{TLSCertKey, certManagerForm}, {TLSKeyKey, certManagerForm},
	} {
		if len(data[own.field]) > 0 {
			found[own.form] = own.field
		}
	}
	switch len(found) {
	case 0:
		return form{}, invalid("", ReasonMissing, "the Secret holds no certificate authority: %s", choose)
	case 1:
		for f := range found {
			return f, nil
		}
	}
	return form{}, invalid("", ReasonAmbiguous, "the Secret has %s, which belong to different forms: %s, and nothing of another form",
		strings.Join(slices.Sorted(maps.Values(found)), " and "), choose)
}

// parts are what is found in a Secret, parsed.
type parts struct {
	certs []*x509.Certificate // the signing certificate, and what follows it
	chain []*x509.Certificate // what has a key of its own in the Secret
	key   crypto.Signer
	roots Bundle
}

func (f form) parse(data map[string][]byte) (p parts, err *InvalidError) {
	for _, field := range []string{f.cert, f.key} {
		if len(data[field]) == 0 {
			return p, invalid(field, ReasonMissing, "is missing or empty: the certificate goes into %s, its private key into %s", f.cert, f.key)
		}
	}
	if p.key, err = parseKey(f.key, data[f.key]); err != nil {
		return p, err
	}
	if p.certs, err = parseCertificates(f.cert, data[f.cert]); err != nil {
		return p, err
	}
	if f == rootForm {
		// Of several roots, the one whose key it is signs.
		if i := slices.IndexFunc(p.certs, func(c *x509.Certificate) bool { return samePublicKey(c.PublicKey, p.key.Public()) }); i >= 0 {
			p.certs = p.certs[i : i+1]
		}
	}
	if f.chain != f.cert && len(data[f.chain]) > 0 {
		if p.chain, err = parseCertificates(f.chain, data[f.chain]); err != nil {
			return p, err
		}
	}
	switch {
	case len(data[f.roots]) > 0:
		p.roots, err = parseBundle(f.roots, data[f.roots])
		return p, err
	case isSelfSigned(p.certs[0]):
		p.roots = NewBundle(RootOf(p.certs[0]))
		return p, nil
	}
	return p, invalid(f.roots, ReasonMissing, "is missing or empty: put the root that %s chains to here", f.cert)
}

// verify makes sure that key and certificate belong together and that the
// certificate chains to a root.
func (f form) verify(p parts, now time.Time) (Material, *InvalidError) {
	cert := p.certs[0]
	if !samePublicKey(cert.PublicKey, p.key.Public()) {
		return Material{}, invalid(f.key, ReasonKeyMismatch, "is not the private key of the certificate in %s: store the two that were made together", f.cert)
	}
	path, err := buildPath(slices.Concat(p.certs, p.chain), p.roots, x509.ExtKeyUsageServerAuth, now)
	if err != nil {
		return Material{}, invalid(f.cert, ReasonChainBroken, "%s does not chain to a root in %s (%v): put the missing intermediates into %s, or the right root into %s", describe(cert), f.roots, err, f.chain, f.roots)
	}
	return newMaterial(path, p.key, p.roots), nil
}

func parseCertificates(field string, text []byte) ([]*x509.Certificate, *InvalidError) {
	b, err := parseBundle(field, text)
	return b.certificates(), err
}

// checkAuthority makes sure of everything that can be said of a CA certificate
// by itself.
func checkAuthority(field string, c *x509.Certificate, now time.Time) *InvalidError {
	switch {
	case !c.BasicConstraintsValid || !c.IsCA:
		return invalid(field, ReasonNotCA, "%s is not a CA: issue it with the basic constraint CA:TRUE", describe(c))
	case c.KeyUsage&x509.KeyUsageCertSign == 0:
		return invalid(field, ReasonKeyUsage, "%s may not sign certificates: issue it with key usage keyCertSign", describe(c))
	case !permitsTLS(c):
		return invalid(field, ReasonKeyUsage, "%s is limited by its extended key usage: issue it without, or with both serverAuth and clientAuth", describe(c))
	case now.After(c.NotAfter):
		return invalid(field, ReasonExpired, "%s expired at %s: renew it", describe(c), rfc3339(c.NotAfter))
	case now.Before(c.NotBefore):
		return invalid(field, ReasonNotYetValid, "%s is not valid before %s: check the clock, or wait", describe(c), rfc3339(c.NotBefore))
	case slices.ContainsFunc(c.Extensions, isNameConstraints):
		return invalid(field, ReasonNameConstraints, "%s has name constraints, which ztunnel rejects: issue it without", describe(c))
	case !strongSignature(c.SignatureAlgorithm):
		return invalid(field, ReasonWeakSignature, "%s is signed with %s: sign it with SHA-256 or better", describe(c), c.SignatureAlgorithm)
	}
	if weak := keyWeakness(c.PublicKey); weak != "" {
		return invalid(field, ReasonWeakKey, "%s has %s: %s", describe(c), weak, acceptedKeys)
	}
	return nil
}

// permitsTLS tells whether the extended key usage of a CA, which limits all that
// is below it, lets leaves be both servers and clients.
func permitsTLS(c *x509.Certificate) bool {
	if len(c.ExtKeyUsage) == 0 && len(c.UnknownExtKeyUsage) == 0 || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return true
	}
	return slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
}

// isNameConstraints tells an extension of RFC 5280, 4.2.1.10.
func isNameConstraints(e pkix.Extension) bool {
	return e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 30})
}

// hasPathLength tells whether a CA limits the number of CAs below it.
func hasPathLength(c *x509.Certificate) bool {
	return c.BasicConstraintsValid && (c.MaxPathLen > 0 || c.MaxPathLenZero)
}

func describe(c *x509.Certificate) string {
	return fmt.Sprintf("the certificate %q", c.Subject)
}

func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }
