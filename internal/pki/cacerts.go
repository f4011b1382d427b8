package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"time"
)

// CACerts is the content of istiod's plug-in CA Secret, cacerts. What its files
// mean is in Istio's documentation ("Plug in CA Certificates") and, to the
// letter, in security/pkg/pki of its source.
type CACerts struct {
	// Material is istiod's certificate authority: the intermediate that signs
	// leaves, or the self-signed root of an istiod that has no other.
	Material
	// Cross are certificates for Root under other roots (see [CrossSign]).
	Cross []*x509.Certificate
	// CRL is the PEM of the revocation lists, if there are any.
	CRL []byte
}

// CertChain is what istiod sends after each leaf, the content of cert-chain.pem:
// the signing certificate, the intermediates, the root as Istio's own tools
// write it, and the other roots of the bundle, from which a TLS client sees which
// bundle an istiod has loaded; or, in place of all roots, the cross-certificates,
// since a verifier that met the root first would look no further.
func (c CACerts) CertChain() Chain {
	chain := c.Chain()
	if len(c.Cross) > 0 {
		return append(chain, c.Cross...)
	}
	chain = append(chain, c.Root.cert)
	for _, r := range c.Roots.Roots() {
		if r.ID() != c.Root.ID() {
			chain = append(chain, r.cert)
		}
	}
	return chain
}

// Data is the content of the Secret. Of equal CACerts it is equal to the byte.
func (c CACerts) Data() (map[string][]byte, error) {
	key, err := EncodeKey(c.Key)
	if err != nil {
		return nil, err
	}
	data := map[string][]byte{
		CACertKey:    encodeCertificates(c.Certificate),
		CAKeyKey:     key,
		CertChainKey: c.CertChain().PEM(),
		RootCertKey:  c.Roots.PEM(),
	}
	if len(c.CRL) > 0 {
		data[CACRLKey] = bytes.Clone(c.CRL)
	}
	return data, nil
}

// Verify makes sure that istiod will take what [CACerts.Data] yields.
func (c CACerts) Verify(now time.Time) error {
	data, err := c.Data()
	if err != nil {
		return err
	}
	_, err = ReadCACerts(data, now)
	return err
}

// ReadCACerts reads the certificate authority of an istiod: a cacerts Secret in
// either of the forms that istiod takes, or the istio-ca-secret of its
// self-signed CA, which has no chain. It demands what istiod demands when it
// loads them and no more: the certificate is a CA, its key fits and is of a kind
// that is accepted, it chains to a root in the bundle at the given time, and, if
// there are revocation lists, every certificate of cert-chain.pem has issued
// one (Envoy refuses all connections otherwise). The error is an
// [*InvalidError].
func ReadCACerts(data map[string][]byte, now time.Time) (CACerts, error) {
	c, err := readCACerts(data, now)
	if err != nil {
		return CACerts{}, err
	}
	return c, nil
}

// ReadLeaf reads a certificate that signs nothing, from what [Material.Data]
// yields. It demands that the key fits and that the certificate chains to a root
// of the bundle at the given time. The error is an [*InvalidError].
func ReadLeaf(data map[string][]byte, now time.Time) (Material, error) {
	m, err := readLeaf(data, now)
	if err != nil {
		return Material{}, err
	}
	return m, nil
}

func readLeaf(data map[string][]byte, now time.Time) (Material, *InvalidError) {
	p, err := istioForm.parse(data)
	if err != nil {
		return Material{}, err
	}
	p.certs = p.certs[:1]
	if p.certs[0].IsCA {
		return Material{}, invalid(CACertKey, ReasonKeyUsage, "%s is a CA: what signs nothing must not be able to", describe(p.certs[0]))
	}
	return istioForm.verify(p, now)
}

func readCACerts(data map[string][]byte, now time.Time) (CACerts, *InvalidError) {
	f, err := detectForm(data)
	if err != nil {
		return CACerts{}, err
	}
	if f == rootForm {
		return CACerts{}, invalid(CACertKey, ReasonMissing, "is missing or empty: istiod takes the certificate from here and its private key from %s", CAKeyKey)
	}
	p, err := f.parse(data)
	if err != nil {
		return CACerts{}, err
	}
	if f == istioForm {
		p.certs = p.certs[:1] // istiod looks no further
	}
	if !p.certs[0].IsCA {
		return CACerts{}, invalid(f.cert, ReasonNotCA, "%s is not a CA: issue it with the basic constraint CA:TRUE", describe(p.certs[0]))
	}
	m, err := f.verify(p, now)
	if err != nil {
		return CACerts{}, err
	}
	c := CACerts{Material: m, CRL: bytes.Clone(data[CACRLKey])}
	for _, cert := range p.chain {
		if isCrossOf(cert, m.Root) {
			c.Cross = append(c.Cross, cert)
		}
	}
	if len(c.CRL) > 0 {
		if err := checkRevocation(c.CRL, p.chain); err != nil {
			return CACerts{}, err
		}
	}
	return c, nil
}

// checkRevocation makes sure that each of the issuers signed one of the lists.
func checkRevocation(text []byte, issuers []*x509.Certificate) *InvalidError {
	var lists []*x509.RevocationList
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return invalid(CACRLKey, ReasonRevocation, "revocation list %d cannot be parsed (%v): put PEM blocks of type X509 CRL here, or remove the key", len(lists)+1, err)
		}
		lists = append(lists, list)
	}
	for _, issuer := range issuers {
		if !slices.ContainsFunc(lists, func(l *x509.RevocationList) bool { return l.CheckSignatureFrom(issuer) == nil }) {
			return invalid(CACRLKey, ReasonRevocation, "holds no revocation list of %s: Envoy wants one of every CA in %s, or none at all", describe(issuer), CertChainKey)
		}
	}
	return nil
}
