package legacy

import (
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// glooSpec is the spec of networking.mesh.gloo.solo.io/v1.
type glooSpec struct {
	Meshes     []objectRef `json:"meshes" max:"256"`
	MTLSConfig *struct {
		Shared                     *sharedTrust `json:"shared"`
		Limited                    *struct{}    `json:"limited"`
		AutoRestartPods            bool         `json:"autoRestartPods"`
		RotationVerificationMethod *struct {
			None   *struct{} `json:"none"`
			Manual *struct{} `json:"manual"`
		} `json:"rotationVerificationMethod"`
		RotationStrategy rotationStrategy `json:"rotationStrategy"`
	} `json:"mtlsConfig"`
	Federation         *federation  `json:"federation" exact:"true"`
	GlobalAccessPolicy accessPolicy `json:"globalAccessPolicy"`
}

type sharedTrust struct {
	RootCertificateAuthority *struct {
		Generated *ratedCertOptions `json:"generated"`
		Secret    *objectRef        `json:"secret"`
	} `json:"rootCertificateAuthority"`
	IntermediateCertificateAuthority *struct {
		Vault *vault `json:"vault"`
	} `json:"intermediateCertificateAuthority"`
	IntermediateCertOptions *ratedCertOptions `json:"intermediateCertOptions"`
}

// ratedCertOptions also say when the certificate is renewed.
type ratedCertOptions struct {
	certOptions
	Ratio ratio `json:"secretRotationGracePeriodRatio"`
}

func (o *ratedCertOptions) convert() *v1alpha1.CertOptions {
	if o == nil {
		return nil
	}
	out := o.certOptions.convert()
	out.SecretRotationGracePeriodRatio = string(o.Ratio)
	return out
}

type vault struct {
	CAPath         string     `json:"caPath" required:"true" max:"256"`
	CSRPath        string     `json:"csrPath" max:"256"`
	Server         address    `json:"server" required:"true"`
	CABundle       octets     `json:"caBundle"`
	Namespace      string     `json:"namespace" max:"256"`
	TokenSecretRef *objectRef `json:"tokenSecretRef"`
	KubernetesAuth *struct {
		MountPath         string     `json:"mountPath" max:"256"`
		Role              string     `json:"role" required:"true" max:"256"`
		SecretTokenKey    string     `json:"secretTokenKey" max:"253"`
		ServiceAccountRef *objectRef `json:"serviceAccountRef"`
		MountedSAPath     string     `json:"mountedSaPath" max:"256"`
	} `json:"kubernetesAuth"`
}

type federation struct {
	Selectors []struct {
		DestinationSelectors []destinationSelector `json:"destinationSelectors" max:"64"`
		Meshes               []objectRef           `json:"meshes" max:"256"`
	} `json:"selectors" max:"64"`
	Permissive     *struct{} `json:"permissive"`
	FlatNetwork    bool      `json:"flatNetwork"`
	HostnameSuffix suffix    `json:"hostnameSuffix"`
	TCPKeepalive   *struct {
		Probes   uint32    `json:"probes" max:"100"`
		Time     *duration `json:"time"`
		Interval *duration `json:"interval"`
	} `json:"tcpKeepalive"`
	IngressGatewaySelectors []struct {
		DestinationSelectors []destinationSelector `json:"destinationSelectors" max:"64"`
		PortName             string                `json:"portName" max:"63"`
	} `json:"ingressGatewaySelectors" alias:"eastWestIngressGatewaySelectors" max:"16"`
	TLSEnforcementSettings *struct {
		EnforcementMode enforcementMode `json:"enforcementMode"`
	} `json:"tlsEnforcementSettings"`
}

type destinationSelector struct {
	KubeServiceMatcher *struct {
		Labels     map[string]string `json:"labels" max:"32"`
		Namespaces []label           `json:"namespaces" max:"64"`
		Clusters   []label           `json:"clusters" max:"64"`
	} `json:"kubeServiceMatcher"`
	KubeServiceRefs *struct {
		Services []struct {
			Name        string `json:"name" required:"true" max:"253"`
			Namespace   string `json:"namespace" required:"true" max:"63"`
			ClusterName string `json:"clusterName" required:"true" max:"63"` // none means every cluster here, and meant no service
		} `json:"services" required:"true" max:"256"`
	} `json:"kubeServiceRefs"`
}

func (s *glooSpec) members() []objectRef { return s.Meshes }

func (s *glooSpec) convert(c *conversion) v1alpha1.VirtualMeshSpec {
	return v1alpha1.VirtualMeshSpec{
		Meshes:             c.membersOf(s.Meshes),
		MTLSConfig:         s.trust(c),
		Federation:         s.Federation.convert(c),
		GlobalAccessPolicy: v1alpha1.GlobalAccessPolicy(s.GlobalAccessPolicy),
	}
}

func (s *glooSpec) trust(c *conversion) *v1alpha1.MTLSConfig {
	m := s.MTLSConfig
	if m == nil || !c.trustModel(m.Shared != nil, m.Limited != nil) {
		return nil
	}
	out := &v1alpha1.MTLSConfig{
		AutoRestartPods:  m.AutoRestartPods,
		RotationStrategy: v1alpha1.RotationStrategy(m.RotationStrategy),
	}
	if v := m.RotationVerificationMethod; v != nil && (v.None != nil || v.Manual != nil) {
		const field = "spec.mtlsConfig.rotationVerificationMethod"
		c.only(field+".none", v.None != nil, field+".manual", v.Manual != nil)
		out.RotationVerificationMethod = &v1alpha1.RotationVerificationMethod{None: empty(v.None), Manual: empty(v.Manual)}
	}
	if m.Limited != nil {
		out.Limited = &v1alpha1.LimitedTrust{RootCertificateAuthority: c.root("", nil, nil, orgGlooMesh)}
	} else {
		out.Shared = m.Shared.convert(c)
	}
	return out
}

func (s *sharedTrust) convert(c *conversion) *v1alpha1.SharedTrust {
	const rootField, intermediateField = sharedField + ".rootCertificateAuthority", sharedField + ".intermediateCertificateAuthority"
	out := &v1alpha1.SharedTrust{IntermediateCertOptions: s.IntermediateCertOptions.convert()}
	c.only(rootField, s.RootCertificateAuthority != nil, intermediateField, s.IntermediateCertificateAuthority != nil)
	switch root, intermediate := s.RootCertificateAuthority, s.IntermediateCertificateAuthority; {
	case root != nil:
		out.RootCertificateAuthority = c.root(rootField, root.Generated.convert(), root.Secret, orgGlooMesh)
	case intermediate == nil:
		out.RootCertificateAuthority = c.root(rootField, nil, nil, orgGlooMesh)
	case intermediate.Vault == nil:
		c.invalid(intermediateField+".vault", "is missing: no other signer of intermediates is possible in this version")
	default:
		out.IntermediateCertificateAuthority = &v1alpha1.IntermediateCertificateAuthority{Vault: intermediate.Vault.convert(c, intermediateField+".vault")}
	}
	return out
}

func (v *vault) convert(c *conversion, field string) v1alpha1.VaultCA {
	c.only(field+".tokenSecretRef", v.TokenSecretRef != nil, field+".kubernetesAuth", v.KubernetesAuth != nil)
	out := v1alpha1.VaultCA{
		CAPath:         v.CAPath,
		CSRPath:        v.CSRPath,
		Server:         string(v.Server),
		CABundle:       v.CABundle,
		Namespace:      v.Namespace,
		TokenSecretRef: c.local(field+".tokenSecretRef", "Secret", v.TokenSecretRef),
	}
	k := v.KubernetesAuth
	if k == nil {
		if v.TokenSecretRef == nil {
			c.invalid(field, "needs tokenSecretRef or kubernetesAuth: say how to log in")
		}
		return out
	}
	field += ".kubernetesAuth"
	c.only(field+".serviceAccountRef", k.ServiceAccountRef != nil, field+".mountedSaPath", k.MountedSAPath != "")
	out.KubernetesAuth = &v1alpha1.VaultKubernetesAuth{
		MountPath:         k.MountPath,
		Role:              k.Role,
		SecretTokenKey:    k.SecretTokenKey,
		ServiceAccountRef: c.local(field+".serviceAccountRef", "ServiceAccount", k.ServiceAccountRef),
		MountedSAPath:     k.MountedSAPath,
	}
	return out
}

func (f *federation) convert(c *conversion) *v1alpha1.Federation {
	if f == nil {
		return nil
	}
	out := &v1alpha1.Federation{FlatNetwork: f.FlatNetwork, HostnameSuffix: string(f.HostnameSuffix)}
	for i, s := range f.Selectors {
		field := fmt.Sprintf("spec.federation.selectors[%d]", i)
		out.Selectors = append(out.Selectors, v1alpha1.FederationSelector{
			DestinationSelectors: c.destinations(field, s.DestinationSelectors),
			Meshes:               c.meshes(field+".meshes", s.Meshes),
		})
	}
	switch {
	case f.Permissive == nil:
	case len(out.Selectors) == 0:
		out.Selectors = everything().Selectors
	default:
		c.note(ReasonChanged, "spec.federation.permissive", "is left out: it had no effect beside selectors")
	}
	for i, s := range f.IngressGatewaySelectors {
		out.IngressGatewaySelectors = append(out.IngressGatewaySelectors, v1alpha1.IngressGatewaySelector{
			DestinationSelectors: c.destinations(fmt.Sprintf("spec.federation.ingressGatewaySelectors[%d]", i), s.DestinationSelectors),
			PortName:             s.PortName,
		})
	}
	if k := f.TCPKeepalive; k != nil {
		out.TCPKeepalive = &v1alpha1.TCPKeepalive{Probes: positive(k.Probes), Time: k.Time.convert(), Interval: k.Interval.convert()}
	}
	if t := f.TLSEnforcementSettings; t != nil {
		out.TLSEnforcementSettings = &v1alpha1.TLSEnforcementSettings{EnforcementMode: v1alpha1.TLSEnforcementMode(t.EnforcementMode)}
	}
	return out
}

func (d *duration) convert() *metav1.Duration {
	if d == nil {
		return nil
	}
	return &metav1.Duration{Duration: time.Duration(*d)}
}

// destinations are the destinationSelectors of a field.
func (c *conversion) destinations(field string, selectors []destinationSelector) (out []v1alpha1.DestinationSelector) {
	for i, s := range selectors {
		if s.KubeServiceMatcher == nil && s.KubeServiceRefs == nil {
			c.invalid(fmt.Sprintf("%s.destinationSelectors[%d]", field, i),
				"selected nothing, and would select everything here: take it out, or write kubeServiceMatcher: {} if everything is meant")
		}
		var d v1alpha1.DestinationSelector
		if m := s.KubeServiceMatcher; m != nil {
			d.KubeServiceMatcher = &v1alpha1.KubeServiceMatcher{Labels: m.Labels, Namespaces: set(m.Namespaces), Clusters: set(m.Clusters)}
		}
		if s.KubeServiceRefs != nil {
			d.KubeServiceRefs = &v1alpha1.KubeServiceRefs{}
			for _, ref := range s.KubeServiceRefs.Services {
				d.KubeServiceRefs.Services = append(d.KubeServiceRefs.Services, v1alpha1.ClusterObjectRef(ref))
			}
		}
		out = append(out, d)
	}
	return out
}

// set is each name once.
func set(names []label) (out []string) {
	for _, n := range names {
		if !slices.Contains(out, string(n)) {
			out = append(out, string(n))
		}
	}
	return out
}

// glooStatus is the status of networking.mesh.gloo.solo.io/v1.
type glooStatus struct {
	approval            `json:",inline"`
	Destinations        map[string]v1alpha1.ApprovalStatus      `json:"destinations,omitempty"`
	Conditions          []v1alpha1.CertificateRotationCondition `json:"conditions,omitempty"`
	DeployedSharedTrust map[string]any                          `json:"deployedSharedTrust,omitempty"`
}

func glooStatusOf(a *account) any {
	status := &glooStatus{approval: a.approval(), Destinations: a.destinations()}
	if a.VirtualMesh == nil {
		return status
	}
	if r := a.VirtualMesh.Status.Rotation; r != nil {
		status.Conditions = r.Conditions
	}
	if d := a.VirtualMesh.Status.DeployedSharedTrust; d != nil && d.SharedTrust != nil {
		status.DeployedSharedTrust = glooSharedTrust(d.SharedTrust)
	}
	return status
}

// glooSharedTrust writes a shared trust as this generation does: a ratio is a number, and there is no trigger.
func glooSharedTrust(trust *v1alpha1.SharedTrust) map[string]any {
	out, err := runtime.DefaultUnstructuredConverter.ToUnstructured(trust)
	if err != nil {
		return nil // a struct of ours can be written
	}
	delete(out, "rotationTrigger")
	for _, path := range [][]string{{"rootCertificateAuthority", "generated"}, {"intermediateCertOptions"}} {
		path = append(path, "secretRotationGracePeriodRatio")
		if text, found, _ := unstructured.NestedString(out, path...); found {
			if n, err := number(text); err == nil {
				_ = unstructured.SetNestedField(out, n, path...)
			}
		}
	}
	return out
}
