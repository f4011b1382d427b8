package legacy

import "github.com/isthmus-mesh/isthmus/api/v1alpha1"

// smhSpec is the spec of networking.smh.solo.io/v1alpha2.
type smhSpec struct {
	Meshes     []objectRef `json:"meshes" max:"256"`
	MTLSConfig *struct {
		Shared          *rootTrust `json:"shared"`
		Limited         *rootTrust `json:"limited"`
		AutoRestartPods bool       `json:"autoRestartPods"`
	} `json:"mtlsConfig"`
	Federation *struct {
		Permissive *struct{} `json:"permissive"`
	} `json:"federation" exact:"true"`
	GlobalAccessPolicy accessPolicy `json:"globalAccessPolicy"`
}

// rootTrust is a trust model, of which the root is all that can be chosen.
type rootTrust struct {
	RootCertificateAuthority struct {
		Generated *certOptions `json:"generated"`
		Secret    *objectRef   `json:"secret"`
	} `json:"rootCertificateAuthority"`
}

func (t *rootTrust) root(c *conversion, field string) *v1alpha1.RootCertificateAuthority {
	ca := t.RootCertificateAuthority
	return c.root(field+".rootCertificateAuthority", ca.Generated.convert(), ca.Secret, orgServiceMeshHub)
}

func (s *smhSpec) members() []objectRef { return s.Meshes }

func (s *smhSpec) convert(c *conversion) v1alpha1.VirtualMeshSpec {
	if s.Federation == nil || s.Federation.Permissive == nil {
		c.note(ReasonDefaulted, "spec.federation", "this generation made every service known to every member where nothing else was asked for: take federation out of what was converted to make none known")
	}
	return v1alpha1.VirtualMeshSpec{
		Meshes:             c.membersOf(s.Meshes),
		MTLSConfig:         s.trust(c),
		Federation:         everything(),
		GlobalAccessPolicy: v1alpha1.GlobalAccessPolicy(s.GlobalAccessPolicy),
	}
}

func (s *smhSpec) trust(c *conversion) *v1alpha1.MTLSConfig {
	m := s.MTLSConfig
	if m == nil || !c.trustModel(m.Shared != nil, m.Limited != nil) {
		return nil
	}
	out := &v1alpha1.MTLSConfig{AutoRestartPods: m.AutoRestartPods}
	if m.Limited != nil {
		out.Limited = &v1alpha1.LimitedTrust{RootCertificateAuthority: m.Limited.root(c, limitedField)}
	} else {
		out.Shared = &v1alpha1.SharedTrust{RootCertificateAuthority: m.Shared.root(c, sharedField)}
	}
	return out
}

func smhStatusOf(a *account) any {
	status := a.approval()
	return &status
}
