package accept

import (
	"cmp"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// RootSource is all that a root was made from. It is kept beside the root, so that a later edit can be told from none even
// where every status was lost.
type RootSource struct {
	// Generated are the options of a generated root, with every default filled in; nil for a provided one.
	Generated *v1alpha1.CertOptions `json:"generated,omitempty"`
	// Secret is where a provided root came from, with its namespace.
	Secret *v1alpha1.SecretRef `json:"secret,omitempty"`
	// Vault is what signs under a root of which the hub has no key, as the spec had it when the root was found there.
	Vault *v1alpha1.VaultCA `json:"vault,omitempty"`
	// Certificate is the fingerprint of the signing certificate in that Secret, or of Vault's root.
	Certificate string `json:"certificate,omitempty"`
	// RotationTrigger as it was when the root was made.
	RotationTrigger string `json:"rotationTrigger,omitempty"`
	// Mesh of which alone it is the root, "<name>.<namespace>"; empty if it is that of all members.
	Mesh string `json:"mesh,omitempty"`
	// Purpose of what is under the root; empty stands for MeshCA. A root has one for ever: what knows those under it by one
	// must not come to know others by it.
	Purpose v1alpha1.CertificatePurpose `json:"purpose,omitempty"`
}

// Known reports whether s says what the root was made from.
func (s RootSource) Known() bool { return s.Generated != nil || s.Secret != nil || s.Vault != nil }

// For reports whether a root is for what a trust is for.
func (s RootSource) For(t *Trust) bool { return cmp.Or(s.Purpose, v1alpha1.PurposeMeshCA) == t.Purpose }

// SourceOf returns the source of the root that a trust asks for; certificate is the fingerprint of what the provided
// Secret holds now, or of the root that Vault signs under, if there is one. hubNamespace completes the reference to the Secret.
func SourceOf(t *Trust, certificate, hubNamespace string) RootSource {
	s := RootSource{RotationTrigger: t.RotationTrigger}
	if t.Purpose != v1alpha1.PurposeMeshCA { // which is not written, as it was before there was another one
		s.Purpose = t.Purpose
	}
	if t.Vault != nil {
		s.Vault, s.Certificate = t.Vault.DeepCopy(), certificate
		return s
	}
	if t.Root != nil && t.Root.Secret != nil {
		ref := SecretRef(*t.Root.Secret, hubNamespace)
		s.Secret, s.Certificate = &ref, certificate
		return s
	}
	var options *v1alpha1.CertOptions
	if t.Root != nil {
		options = t.Root.Generated
	}
	generated := RootOptions(options)
	s.Generated = &generated
	return s
}

// SecretRef completes a reference to a Secret.
func SecretRef(ref v1alpha1.SecretRef, hubNamespace string) v1alpha1.SecretRef {
	if ref.Namespace == "" {
		ref.Namespace = hubNamespace
	}
	return ref
}

// Same reports whether a root made from s is what want asks for. A provided one is, as long as the Secret holds the same
// certificate authority, wherever it lies, and one of Vault as long as that signs under it: no trigger makes another of it.
func (s RootSource) Same(want RootSource) bool {
	switch {
	case cmp.Or(s.Purpose, v1alpha1.PurposeMeshCA) != cmp.Or(want.Purpose, v1alpha1.PurposeMeshCA), s.Mesh != want.Mesh:
		return false
	case s.Secret != nil && want.Secret != nil:
		return s.Certificate == want.Certificate
	case s.Vault != nil && want.Vault != nil:
		return s.Certificate == want.Certificate
	case s.Generated != nil && want.Generated != nil:
		a, b := s.Generated, want.Generated
		return *a.TTLDays == *b.TTLDays && *a.RSAKeySizeBytes == *b.RSAKeySizeBytes && a.OrgName == b.OrgName &&
			s.RotationTrigger == want.RotationTrigger
	}
	return false
}
