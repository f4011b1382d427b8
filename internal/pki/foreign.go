package pki

import (
	"crypto"
	"slices"
	"time"
)

// CheckRoot makes sure that intermediates of meshes can be under a root of which nobody here has the key. The error is an
// [*InvalidError].
func CheckRoot(r Root, now time.Time) error {
	switch err := checkAuthority("", r.cert, now); {
	case err != nil:
		return err
	case !isSelfSigned(r.cert):
		return invalid("", ReasonNotSelfSigned, "%s is not self-signed: a root is the end of its chain", describe(r.cert))
	case hasPathLength(r.cert) && r.cert.MaxPathLen < 1:
		return invalid("", ReasonPathLength, "path length %d of %s leaves no room for the intermediate CA of a mesh: issue it with at least 1, or without", r.cert.MaxPathLen, describe(r.cert))
	}
	return nil
}

// NewForeign puts an intermediate together that an authority outside has signed, from its chain (the certificate, then those
// above it, with or without the root). It makes sure of all that a [SignerIssuer] sees to itself: the key, the way to the
// root, a CA with path length 0 and these URIs and no other names, and nothing on the way that proxies refuse. The error is
// an [*InvalidError].
func NewForeign(chain Chain, key crypto.Signer, root Root, uris []string, now time.Time) (Material, error) {
	m, err := NewMaterial(chain, key, NewBundle(root), now)
	if err != nil {
		return Material{}, err
	}
	for i, c := range m.path() {
		if err := checkAuthority("", c, now); err != nil {
			return Material{}, err
		}
		if i > 0 && hasPathLength(c) && c.MaxPathLen < i {
			return Material{}, invalid("", ReasonPathLength, "path length %d of %s leaves no room for the CAs below: issue it with at least %d, or without", c.MaxPathLen, describe(c), i)
		}
	}
	c := m.Certificate
	names := make([]string, len(c.URIs))
	for i, u := range c.URIs {
		names[i] = u.String()
	}
	switch {
	case !hasPathLength(c) || c.MaxPathLen != 0:
		return Material{}, invalid("", ReasonPathLength, "%s may have further CAs below: it has to be signed with path length 0", describe(c))
	case !slices.Equal(names, uris) || len(c.DNSNames)+len(c.EmailAddresses)+len(c.IPAddresses) > 0:
		return Material{}, invalid("", ReasonNames, "%s is for other names than %v: URIs %v, DNS names %v", describe(c), uris, names, c.DNSNames)
	}
	return m, nil
}
