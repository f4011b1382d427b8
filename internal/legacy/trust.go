package legacy

import (
	"cmp"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// Organisations of roots where a manifest names none.
const (
	orgServiceMeshHub = "service-mesh-hub"
	orgGlooMesh       = "gloo-mesh"
)

const (
	sharedField  = "spec.mtlsConfig.shared"
	limitedField = "spec.mtlsConfig.limited"
)

// objectRef names an object.
type objectRef struct {
	Name      string `json:"name" required:"true" max:"253"`
	Namespace string `json:"namespace" max:"63"`
}

// certOptions are those of a certificate authority. Zero means the default, as does a field that is left out.
type certOptions struct {
	TTLDays         uint32  `json:"ttlDays" max:"36500"`
	RSAKeySizeBytes keySize `json:"rsaKeySizeBytes"`
	OrgName         string  `json:"orgName" max:"64"`
}

// convert says nothing that was not said: but for the organisation, the defaults are the same here.
func (o *certOptions) convert() *v1alpha1.CertOptions {
	if o == nil {
		return nil
	}
	return &v1alpha1.CertOptions{TTLDays: positive(o.TTLDays), RSAKeySizeBytes: positive(o.RSAKeySizeBytes), OrgName: o.OrgName}
}

// root is a root that lies in field: the one in the Secret, or else one that the hub makes with the options, which is also what
// is used where none was asked for. Its organisation is org where the options name none.
func (c *conversion) root(field string, options *v1alpha1.CertOptions, secret *objectRef, org string) *v1alpha1.RootCertificateAuthority {
	c.only(field+".generated", options != nil, field+".secret", secret != nil)
	if secret != nil {
		return c.provided(field+".secret", *secret)
	}
	if options == nil {
		options = &v1alpha1.CertOptions{}
	}
	options.OrgName = cmp.Or(options.OrgName, org)
	return &v1alpha1.RootCertificateAuthority{Generated: options}
}

// provided is a root in a Secret.
func (c *conversion) provided(field string, ref objectRef) *v1alpha1.RootCertificateAuthority {
	if ref.Namespace != "" && ref.Namespace != c.hub {
		c.note(ReasonChanged, field, "the hub reads Secrets of its own namespace, %s, only: copy %s there and change the reference, or list %s in secretNamespaces of its chart",
			c.hub, ref.Name, ref.Namespace)
	}
	return &v1alpha1.RootCertificateAuthority{Secret: &v1alpha1.SecretRef{Name: ref.Name, Namespace: ref.Namespace}}
}

// local is a reference to an object that the agent reads in its own namespace.
func (c *conversion) local(field, kind string, ref *objectRef) *v1alpha1.LocalSecretRef {
	if ref == nil {
		return nil
	}
	if ref.Namespace != "" {
		c.note(ReasonChanged, field+".namespace", "is left out: the agent of each member reads %s %s of its own namespace; see that it is there", kind, ref.Name)
	}
	return &v1alpha1.LocalSecretRef{Name: ref.Name}
}

// trustModel reports whether mtlsConfig chooses one.
func (c *conversion) trustModel(shared, limited bool) bool {
	c.only(sharedField, shared, limitedField, limited)
	if !shared && !limited {
		c.note(ReasonChanged, "spec.mtlsConfig", "is left out: it chooses neither shared nor limited trust, which leaves the meshes' trust as it is")
	}
	return shared || limited
}

// only finds that two fields are given of which one is possible.
func (c *conversion) only(field string, given bool, other string, otherGiven bool) {
	if given && otherGiven {
		c.invalid(field, "excludes %s: keep one of the two", other)
	}
}

// everything federates everything to everyone.
func everything() *v1alpha1.Federation {
	return &v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{{}}}
}

func empty(given *struct{}) *v1alpha1.Empty {
	if given == nil {
		return nil
	}
	return &v1alpha1.Empty{}
}

// positive is a number, or nil for zero, by which Protocol Buffers mean that it is left out.
func positive[N uint32 | keySize](n N) *int32 {
	if n == 0 {
		return nil
	}
	return new(int32(n))
}
