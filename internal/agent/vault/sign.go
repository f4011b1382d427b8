package vault

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// An issuer is a CA of a PKI engine.
type issuer struct {
	path  string // that signs with it
	chain pki.Chain
	root  pki.Root
}

// Root returns the root that the chain of the signing CA ends in. It needs no token: these endpoints of Vault are public. An
// error that is worth telling people is an *Error.
func (c *Client) Root(ctx context.Context, ca *v1alpha1.VaultCA, now time.Time) (pki.Root, error) {
	s, done, err := c.open(ca)
	if err != nil {
		return pki.Root{}, err
	}
	defer done()
	i, err := s.issuer(ctx, s.at.Issuer)
	if err != nil {
		return pki.Root{}, err
	}
	if err := pki.CheckRoot(i.root, now); err != nil {
		return pki.Root{}, failed(ReasonInvalidAnswer, "the root of %s at %s cannot be that of meshes: %v", s.at.Mount, s.at.Server, err)
	}
	return i.root, nil
}

// Sign has an intermediate signed under a root, for the key of a signing request (PEM). Nothing else of the request matters. The
// chain begins with the new certificate and does not have the root. An error that is worth telling people is an *Error.
func (c *Client) Sign(ctx context.Context, ca *v1alpha1.VaultCA, csr []byte, t pki.Template, root pki.RootID, now time.Time) (pki.Chain, pki.Root, error) {
	s, done, err := c.open(ca)
	if err != nil {
		return nil, pki.Root{}, err
	}
	defer done()
	i, err := s.issuerUnder(ctx, root)
	if err != nil {
		return nil, pki.Root{}, err
	}
	logout, err := s.login(ctx)
	if err != nil {
		return nil, pki.Root{}, err
	}
	defer logout()
	var signed struct {
		Certificate string   `json:"certificate"`
		CAChain     []string `json:"ca_chain"`
	}
	err = s.write(ctx, i.path, map[string]any{
		// As texts, which is how Vault's own command sends them, so that a policy can compare them.
		"use_csr_values":       "false",
		"max_path_length":      "0",
		"csr":                  string(csr),
		"common_name":          commonName(t.Mesh),
		"exclude_cn_from_sans": true,
		"organization":         t.Organization,
		"ou":                   t.Mesh,
		"uri_sans":             strings.Join(t.URIs, ","),
		"ttl":                  lifetime(t.TTL, i, now).String(),
		"not_before_duration":  pki.ClockSkew.String(),
		"format":               "pem",
	}, &signed)
	if err != nil {
		return nil, pki.Root{}, s.refused(err, "update")
	}
	chain, err := parseChain(append([]string{signed.Certificate}, signed.CAChain...))
	if err != nil {
		return nil, pki.Root{}, failed(ReasonInvalidAnswer, "what %s signed at %s cannot be read: %v", i.path, s.at.Server, err)
	}
	above := chain[1:]
	if len(above) == 0 { // a server leaves it out that does not know it
		above = i.chain
	}
	chain = append(chain[:1:1], slices.DeleteFunc(slices.Clone(above), i.root.Certificate().Equal)...)
	return chain, i.root, nil
}

// GenerateKey has Vault make an RSA key and hand it out, for csrPath. An error that is worth telling people is an *Error.
func (c *Client) GenerateKey(ctx context.Context, ca *v1alpha1.VaultCA, bits int, t pki.Template) (crypto.Signer, error) {
	s, done, err := c.open(ca)
	if err != nil {
		return nil, err
	}
	defer done()
	logout, err := s.login(ctx)
	if err != nil {
		return nil, err
	}
	defer logout()
	var made struct {
		PrivateKey string `json:"private_key"`
	}
	err = s.write(ctx, s.at.Generate, map[string]any{
		"common_name": commonName(t.Mesh), "exclude_cn_from_sans": true, "organization": t.Organization, "uri_sans": strings.Join(t.URIs, ","),
		"key_type": "rsa", "key_bits": bits, "format": "pem",
	}, &made)
	if err != nil {
		return nil, s.refused(err, "update")
	}
	key, err := pki.ParseKey([]byte(made.PrivateKey))
	if err != nil {
		return nil, failed(ReasonInvalidAnswer, "the key that %s at %s has exported cannot be used: %v", s.at.Generate, s.at.Server, err)
	}
	return key, nil
}

// issuer reads one of the engine's CAs.
func (s *session) issuer(ctx context.Context, name string) (issuer, error) {
	i := issuer{path: s.at.Mount + "/issuer/" + name + "/sign-intermediate"}
	if name == s.at.Issuer {
		i.path = s.at.Sign
	}
	var data struct {
		Certificate string   `json:"certificate"`
		CAChain     []string `json:"ca_chain"`
	}
	endpoint := s.at.Mount + "/issuer/" + name + "/json"
	if err := s.get(ctx, endpoint, &data); err != nil {
		if e, ok := errors.AsType[*statusError](err); ok {
			return i, failed(ReasonRefused, "%s does not tell its CA at %s (%d%s): see that caPath of the VirtualMesh names a PKI engine with an issuer, and namespace the one that it is in",
				s.at.Server, endpoint, e.code, e.said)
		}
		return i, err
	}
	var err error
	if i.chain, err = parseChain(append([]string{data.Certificate}, data.CAChain...)); err != nil {
		return i, failed(ReasonInvalidAnswer, "the CA at %s of %s cannot be read: %v", endpoint, s.at.Server, err)
	}
	last := pki.RootOf(i.chain[len(i.chain)-1])
	if cert := last.Certificate(); cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) != nil {
		return i, failed(ReasonInvalidAnswer, "the chain of the CA at %s of %s does not end in a root: import the root, and what is between, into that engine", endpoint, s.at.Server)
	}
	i.root = last
	return i, nil
}

// maxIssuers are looked at, of an engine that has more.
const maxIssuers = 100

// issuerUnder finds the CA that signs under a root: the one that caPath means, or else, while a root is being replaced, another
// one of the same engine.
func (s *session) issuerUnder(ctx context.Context, root pki.RootID) (issuer, error) {
	first, err := s.issuer(ctx, s.at.Issuer)
	if err != nil || first.root.ID() == root {
		return first, err
	}
	var list struct {
		Keys []string `json:"keys"`
	}
	if err := s.get(ctx, s.at.Mount+"/issuers?list=true", &list); err == nil {
		for _, name := range list.Keys[:min(len(list.Keys), maxIssuers)] {
			i, err := s.issuer(ctx, name)
			if e, ok := errors.AsType[*Error](err); ok && (e.Reason == ReasonRefused || e.Reason == ReasonInvalidAnswer) {
				continue // it has no chain to a root
			}
			if err != nil || i.root.ID() == root {
				return i, err
			}
		}
	}
	return issuer{}, failed(ReasonRootChanged,
		"%s of %s signs under root %s, and no issuer of it under %s, which is ordered: import the former issuer again until the root is replaced, or wait until every member has found the new one",
		s.at.Mount, s.at.Server, first.root.ID().Short(), root.Short())
}

// parseChain reads certificates, each once.
func parseChain(texts []string) (chain pki.Chain, err error) {
	for _, text := range texts {
		certs, err := pki.ParseChain([]byte(text))
		if err != nil {
			return nil, err
		}
		for _, c := range certs {
			if !slices.ContainsFunc(chain, c.Equal) {
				chain = append(chain, c)
			}
		}
	}
	return chain, nil
}

// lifetime is what is asked for: no longer than the CA lives, since Vault would refuse that. How much of it a server gives is
// for that to say.
func lifetime(wanted time.Duration, i issuer, now time.Time) time.Duration {
	first := slices.MinFunc(i.chain, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
	return max(min(wanted, first.NotAfter.Sub(now)-time.Minute), time.Minute).Truncate(time.Second) // clocks differ
}

// commonName fits the name of a mesh, which Vault demands, into 64 characters (RFC 5280, appendix A).
func commonName(mesh string) string { return mesh[:min(len(mesh), 64)] }

// refused says what a refusal of a request with a token means.
func (s *session) refused(err error, capability string) error {
	e, ok := errors.AsType[*statusError](err)
	switch {
	case !ok:
		return err
	case e.code == http.StatusForbidden || e.code == http.StatusUnauthorized:
		return failed(ReasonDenied, "%s denies the agent %s (%d%s): %s", s.at.Server, e.path, e.code, e.said, s.renewal(e.path, capability))
	}
	return failed(ReasonRefused, "%s refuses %s (%d%s): see caPath, csrPath and intermediateCertOptions of the VirtualMesh, and the settings of that engine", s.at.Server, e.path, e.code, e.said)
}

// renewal says what to do about a token that is not good.
func (s *session) renewal(path, capability string) string {
	policy := fmt.Sprintf("a policy with capability %s on %s", capability, path)
	if ref := s.ca.TokenSecretRef; ref != nil {
		return fmt.Sprintf("put a token that is valid and has %s into Secret %s/%s", policy, s.namespace, ref.Name)
	}
	return fmt.Sprintf("give role %s of %s %s", s.ca.KubernetesAuth.Role, strings.TrimSuffix(s.at.Login, "/login"), policy)
}
