package accept

import (
	"fmt"
	"strings"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
)

// AccessPolicy returns what of a policy is in force from now on. Policies have no effect in this version; one is accepted so
// that its errors show.
func AccessPolicy(prev *v1alpha1.AcceptedAccessPolicy, p *v1alpha1.AccessPolicy) (*v1alpha1.AcceptedAccessPolicy, finding.Findings) {
	var fs finding.Findings
	for i, path := range p.Spec.AllowedPaths {
		if inner := strings.TrimSuffix(strings.TrimPrefix(path, "*"), "*"); strings.Contains(inner, "*") || strings.HasPrefix(path, "*") && strings.HasSuffix(path, "*") && path != "*" {
			fs = append(fs, finding.Finding{Field: fmt.Sprintf("spec.allowedPaths[%d]", i), Reason: v1alpha1.ReasonInvalid,
				Message: fmt.Sprintf("%q: a * may stand at the beginning or at the end of a path, not at both and not inside", path)})
		}
	}
	if len(fs) > 0 {
		return prev, fs
	}
	return &v1alpha1.AcceptedAccessPolicy{Generation: p.Generation, Spec: *p.Spec.DeepCopy()}, finding.Findings{{
		Field: "spec", Reason: v1alpha1.ReasonNotYetSupported,
		Message: "access policies have no effect in this version: nothing is allowed or denied by them",
	}}
}

// Settings returns the settings that are in force from now on.
func Settings(s *v1alpha1.Settings) (*v1alpha1.AcceptedSettings, finding.Findings) {
	var fs finding.Findings
	if m := s.Spec.MTLS; m != nil && m.Istio != nil && m.Istio.TLSMode != "" {
		fs = append(fs, finding.Finding{Field: "spec.mtls.istio.tlsMode", Reason: v1alpha1.ReasonNotYetSupported,
			Message: "has no effect in this version: no DestinationRule is made"})
	}
	return &v1alpha1.AcceptedSettings{Generation: s.Generation, Spec: *s.Spec.DeepCopy()}, fs
}

// CertificateVerification finds what is wrong with a person's word on a rotation. There are no rotations in this version, so
// none is valid.
func CertificateVerification(*v1alpha1.CertificateVerification) finding.Findings {
	return finding.Findings{{
		Field: "spec.rotationID", Reason: v1alpha1.ReasonNotYetSupported,
		Message: "no rotation is under way, as replacing a root is not supported in this version; delete this object",
	}}
}
