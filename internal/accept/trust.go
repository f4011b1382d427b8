package accept

import (
	"cmp"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

const (
	sharedField  = "spec.mtlsConfig.shared"
	limitedField = "spec.mtlsConfig.limited"
)

// Trust is a trust for which the hub provides the root, be it that of the members' certificate authorities or that of their
// gateways.
type Trust struct {
	// Purpose of what is under the root.
	Purpose v1alpha1.CertificatePurpose
	// Root is its source; nil stands for a generated one with the default options.
	Root *v1alpha1.RootCertificateAuthority
	// Vault signs in place of the hub; nil if the hub does.
	Vault *v1alpha1.VaultCA
	// Options of what is under the root, with every default filled in.
	Options v1alpha1.CertOptions
	// RotationTrigger has another root made whenever it changes.
	RotationTrigger string

	// field of the spec, and that of the options.
	field, optionsField string
	options             *v1alpha1.CertOptions
}

// TrustOf returns the trust that a configuration asks for; nil if there is none for which the hub provides a root.
func TrustOf(m *v1alpha1.MTLSConfig) *Trust {
	switch {
	case m == nil:
		return nil
	case m.Shared != nil:
		t := &Trust{
			Purpose: v1alpha1.PurposeMeshCA, Root: m.Shared.RootCertificateAuthority, RotationTrigger: m.Shared.RotationTrigger,
			Options: IntermediateOptions(m.Shared.IntermediateCertOptions),
			field:   sharedField, optionsField: sharedField + ".intermediateCertOptions", options: m.Shared.IntermediateCertOptions,
		}
		if ca := m.Shared.IntermediateCertificateAuthority; ca != nil {
			t.Vault = &ca.Vault
		}
		return t
	case m.Limited != nil:
		return &Trust{
			Purpose: v1alpha1.PurposeGateway, Root: m.Limited.RootCertificateAuthority, RotationTrigger: m.Limited.RotationTrigger,
			Options: GatewayOptions(m.Limited.GatewayCertOptions),
			field:   limitedField, optionsField: limitedField + ".gatewayCertOptions", options: m.Limited.GatewayCertOptions,
		}
	}
	return nil
}

// TrustIn returns the trust of what was accepted; nil as that of TrustOf.
func TrustIn(a *v1alpha1.AcceptedVirtualMesh) *Trust {
	if a == nil {
		return nil
	}
	return TrustOf(a.Spec.MTLSConfig)
}

// Secret from which the root comes; nil if none was provided.
func (t *Trust) Secret() *v1alpha1.SecretRef {
	if t == nil || t.Root == nil {
		return nil
	}
	return t.Root.Secret
}

// rootField is the field of the source of the root.
func (t *Trust) rootField() string { return t.field + ".rootCertificateAuthority" }

// Problem says why the hub cannot provide what the trust calls for in a mesh, or returns nil.
func (t *Trust) Problem(m *v1alpha1.Mesh) *finding.Finding {
	if t.ByGateways() {
		return nil // it takes no more than gateways, and those may come later
	}
	return SharedTrustProblem(m)
}

// ByGateways reports whether members know each other by their gateways alone. t may be nil.
func (t *Trust) ByGateways() bool { return t != nil && t.Purpose == v1alpha1.PurposeGateway }

// Order is the name of the order (IssuedCertificate) of a mesh for what is under the root. t may be nil.
func (t *Trust) Order(mesh string) string {
	if t.ByGateways() {
		return membership.GatewayOrder(mesh)
	}
	return mesh
}

// Defaults of the certificates of gateways. They are short-lived, as the hub renews them by itself, and are renewed early, so that
// it may be away for two weeks.
const (
	defaultGatewayTTLDays = 30
	defaultGatewayRatio   = "0.5"
)

// GatewayOptions returns the options of the certificates of gateways with every default filled in; o may be nil.
func GatewayOptions(o *v1alpha1.CertOptions) v1alpha1.CertOptions {
	var with v1alpha1.CertOptions
	if o != nil {
		with = *o
	}
	if with.TTLDays == nil {
		with.TTLDays = new(int32(defaultGatewayTTLDays))
	}
	if with.RSAKeySizeBytes == nil {
		with.RSAKeySizeBytes = new(int32(defaultGatewayKeyBits))
	}
	with.SecretRotationGracePeriodRatio = cmp.Or(with.SecretRotationGracePeriodRatio, defaultGatewayRatio)
	return withDefaults(&with, defaultRootOrg)
}

// defaultGatewayKeyBits suffices for what lives for a month, and each handshake between gateways pays for it.
const defaultGatewayKeyBits = 2048
