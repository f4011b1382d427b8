package legacy

import "github.com/isthmus-mesh/isthmus/api/v1alpha1"

// zephyrSpec is the spec of networking.zephyr.solo.io/v1alpha1.
type zephyrSpec struct {
	DisplayName          string      `json:"displayName" max:"256"`
	Meshes               []objectRef `json:"meshes" max:"256"`
	CertificateAuthority struct {
		Builtin  *certOptions `json:"builtin"`
		Provided *struct {
			Certificate *objectRef `json:"certificate"`
		} `json:"provided"`
	} `json:"certificateAuthority"`
	Federation struct {
		Mode federationMode `json:"mode"`
	} `json:"federation" exact:"true"`
	Shared               *struct{}         `json:"shared"`
	Limited              *struct{}         `json:"limited"`
	EnforceAccessControl enforcementPolicy `json:"enforceAccessControl"`
}

func (s *zephyrSpec) convert(c *conversion) v1alpha1.VirtualMeshSpec {
	c.only("spec.shared", s.Shared != nil, "spec.limited", s.Limited != nil)
	root := s.root(c)
	trust := &v1alpha1.MTLSConfig{}
	if s.Limited != nil {
		trust.Limited = &v1alpha1.LimitedTrust{RootCertificateAuthority: root}
	} else { // this generation took shared where neither was given
		trust.Shared = &v1alpha1.SharedTrust{RootCertificateAuthority: root}
	}
	c.note(ReasonChanged, "spec.federation", "callers in other clusters have to use other names: what was SERVICE.NAMESPACE.CLUSTER is SERVICE.NAMESPACE.svc.CLUSTER.global here")
	return v1alpha1.VirtualMeshSpec{
		DisplayName:        s.DisplayName,
		Meshes:             c.members(s.Meshes),
		MTLSConfig:         trust,
		Federation:         everything(), // the one mode there was, and the default
		GlobalAccessPolicy: v1alpha1.GlobalAccessPolicy(s.EnforceAccessControl),
	}
}

func (s *zephyrSpec) root(c *conversion) *v1alpha1.RootCertificateAuthority {
	const field = "spec.certificateAuthority"
	ca := s.CertificateAuthority
	c.only(field+".builtin", ca.Builtin != nil, field+".provided", ca.Provided != nil)
	switch {
	case ca.Provided == nil:
		return c.root(field, ca.Builtin.convert(), nil, orgServiceMeshHub)
	case ca.Provided.Certificate == nil:
		c.invalid(field+".provided.certificate", "is missing: name the Secret that holds the root")
		return nil
	}
	return c.provided(field+".provided.certificate", *ca.Provided.Certificate)
}
