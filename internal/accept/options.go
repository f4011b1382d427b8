package accept

import (
	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// Defaults of certificate options.
const (
	defaultTTLDays         = 365
	defaultRatio           = "0.10"
	defaultRootOrg         = "isthmus"
	defaultIntermediateOrg = "Istio"
)

// RootOptions returns the options of a generated root with every default filled in; o may be nil.
func RootOptions(o *v1alpha1.CertOptions) v1alpha1.CertOptions {
	return withDefaults(o, defaultRootOrg)
}

// IntermediateOptions returns the options of an intermediate with every default filled in; o may be nil.
func IntermediateOptions(o *v1alpha1.CertOptions) v1alpha1.CertOptions {
	return withDefaults(o, defaultIntermediateOrg)
}

// withDefaults also writes key sizes in bits, so that the two ways to write one are the same options.
func withDefaults(o *v1alpha1.CertOptions, org string) v1alpha1.CertOptions {
	ttl, bits := int32(defaultTTLDays), int32(pki.DefaultKeyBits)
	out := v1alpha1.CertOptions{TTLDays: &ttl, RSAKeySizeBytes: &bits, OrgName: org, SecretRotationGracePeriodRatio: defaultRatio}
	if o == nil {
		return out
	}
	if o.TTLDays != nil {
		ttl = *o.TTLDays
	}
	if o.RSAKeySizeBytes != nil {
		bits = *o.RSAKeySizeBytes
		if n, err := pki.KeyBits(bits); err == nil {
			bits = int32(n) // at most 8192
		}
	}
	if o.OrgName != "" {
		out.OrgName = o.OrgName
	}
	if o.SecretRotationGracePeriodRatio != "" {
		out.SecretRotationGracePeriodRatio = o.SecretRotationGracePeriodRatio
	}
	return out
}

// checkOptions finds what the schema of CertOptions cannot rule out.
func checkOptions(field string, o *v1alpha1.CertOptions) (fs finding.Findings) {
	if o == nil {
		return nil
	}
	if o.RSAKeySizeBytes != nil {
		if _, err := pki.KeyBits(*o.RSAKeySizeBytes); err != nil {
			fs = append(fs, finding.Finding{Field: field, Reason: v1alpha1.ReasonInvalid, Message: err.Error()})
		}
	}
	if _, err := pki.ParseRatio(o.SecretRotationGracePeriodRatio); err != nil {
		fs = append(fs, finding.Finding{Field: field, Reason: v1alpha1.ReasonInvalid, Message: err.Error()})
	}
	return fs
}
