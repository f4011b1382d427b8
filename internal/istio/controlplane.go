package istio

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/yaml"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

const (
	discoveryContainer = "discovery"
	meshConfigKey      = "mesh"
	meshConfigMap      = "istio"
	injectorConfigMap  = "istio-sidecar-injector"

	maxRevisions = 16
)

// controlPlane is an istiod.
type controlPlane struct {
	*appsv1.Deployment
	container *corev1.Container
}

// IsControlPlane reports whether a Deployment runs istiod, whatever its name.
func IsControlPlane(d *appsv1.Deployment) bool { return Discovery(&d.Spec.Template.Spec) != nil }

// Discovery returns the container of a pod that is istiod (pilot-discovery), or nil: it runs the command "discovery" and
// has its usual name or image.
func Discovery(pod *corev1.PodSpec) *corev1.Container {
	for i := range pod.Containers {
		c := &pod.Containers[i]
		image := c.Image[strings.LastIndex(c.Image, "/")+1:]
		if slices.Contains(c.Args, "discovery") && (c.Name == discoveryContainer || strings.Contains(image, "pilot")) {
			return c
		}
	}
	return nil
}

// Revision of a control plane.
func (c controlPlane) revision() string {
	return cmp.Or(env(c.container, "REVISION"), c.Spec.Template.Labels[LabelRevision], c.Labels[LabelRevision], DefaultRevision)
}

// local describes the mesh of control planes that run in one namespace of this cluster. False: the configuration of a
// revision is missing.
func (o *Objects) local(root string, planes []controlPlane) (v1alpha1.IstioMesh, bool) {
	slices.SortFunc(planes, func(a, b controlPlane) int {
		return cmp.Or(cmp.Compare(a.revision(), b.revision()), cmp.Compare(a.Name, b.Name))
	})
	planes = slices.CompactFunc(planes, func(a, b controlPlane) bool { return a.revision() == b.revision() })
	if len(planes) > maxRevisions {
		planes = planes[:maxRevisions]
	}
	// What the mesh has only one of is the default revision's, else that of the first.
	lead := max(0, slices.IndexFunc(planes, func(c controlPlane) bool { return c.revision() == DefaultRevision }))
	mesh := v1alpha1.IstioMesh{
		RootNamespace:           root,
		ClusterDomain:           clusterDomain(planes[lead].container),
		IstiodServiceAccount:    serviceAccount(&planes[lead].Spec.Template.Spec),
		CertificateAuthority:    v1alpha1.CertificateAuthorityIstiod,
		Topology:                v1alpha1.TopologyLocal,
		SmartDNSProxyingEnabled: true,
		Network:                 o.network(root),
	}
	for i, plane := range planes {
		revision := plane.revision()
		cfg, ok := o.meshConfig(root, revision)
		if !ok {
			return mesh, false
		}
		if i == lead {
			mesh.TrustDomain, mesh.TrustDomainAliases = cfg.trustDomain(), cfg.aliases()
		}
		mesh.SmartDNSProxyingEnabled = mesh.SmartDNSProxyingEnabled && cfg.flag("ISTIO_META_DNS_CAPTURE")
		replicas := int32(1)
		if plane.Spec.Replicas != nil {
			replicas = *plane.Spec.Replicas
		}
		mesh.Revisions = append(mesh.Revisions, v1alpha1.IstioRevision{
			Name:                revision,
			Deployment:          plane.Name,
			Version:             cmp.Or(imageVersion(plane.container.Image), digestVersion(plane)),
			Replicas:            replicas,
			MultiRootMesh:       isTrue(env(plane.container, "ISTIO_MULTIROOT_MESH")),
			ProxyConfigXDSAgent: cfg.flag("PROXY_CONFIG_XDS_AGENT"),
		})
		if why := o.externalCA(root, plane, cfg); why != "" && mesh.CertificateAuthorityMessage == "" {
			mesh.CertificateAuthority, mesh.CertificateAuthorityMessage = v1alpha1.CertificateAuthorityExternal, clip(why, 1024)
		}
	}
	return mesh, true
}

// remote describes the mesh of control planes in another cluster, as far as the configuration of their revisions is here.
func (o *Objects) remote(root string, revisions []string) v1alpha1.IstioMesh {
	mesh := v1alpha1.IstioMesh{
		RootNamespace:               root,
		TrustDomain:                 defaultTrustDomain,
		ClusterDomain:               defaultClusterDomain,
		IstiodServiceAccount:        "istiod",
		CertificateAuthority:        v1alpha1.CertificateAuthorityExternal,
		CertificateAuthorityMessage: "the injection webhook calls a control plane in another cluster, which signs the certificates of this one",
		Topology:                    v1alpha1.TopologyRemote,
		Network:                     o.network(root),
	}
	// The default revision's trust domain counts, else that of the first.
	order := func(revision string) string {
		if revision == DefaultRevision {
			return ""
		}
		return revision
	}
	slices.SortFunc(revisions, func(a, b string) int { return cmp.Compare(order(a), order(b)) })
	found := 0
	for _, revision := range slices.Compact(revisions) {
		cfg, ok := o.meshConfig(root, revision)
		if !ok {
			continue
		}
		if found++; found == 1 {
			mesh.TrustDomain, mesh.TrustDomainAliases = cfg.trustDomain(), cfg.aliases()
			mesh.SmartDNSProxyingEnabled = true
		}
		mesh.SmartDNSProxyingEnabled = mesh.SmartDNSProxyingEnabled && cfg.flag("ISTIO_META_DNS_CAPTURE")
	}
	return mesh
}

func (o *Objects) network(root string) string {
	for i := range o.Namespaces {
		if o.Namespaces[i].Name == root {
			return o.Namespaces[i].Labels[LabelNetwork]
		}
	}
	return ""
}

func (o *Objects) configMap(namespace, name string) (*corev1.ConfigMap, bool) {
	for i := range o.ConfigMaps {
		if cm := &o.ConfigMaps[i]; cm.Name == name && cm.Namespace == namespace {
			return cm, true
		}
	}
	return nil, false
}

// meshConfig is the part of Istio's MeshConfig that matters here
// (https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/).
type meshConfig struct {
	TrustDomain        string   `json:"trustDomain"`
	TrustDomainAliases []string `json:"trustDomainAliases"`
	DefaultConfig      struct {
		ProxyMetadata map[string]string `json:"proxyMetadata"`
	} `json:"defaultConfig"`
	CA struct {
		Address string `json:"address"`
	} `json:"ca"`
}

// meshConfig reads the configuration of a revision; false if there is none or it cannot be read.
func (o *Objects) meshConfig(namespace, revision string) (meshConfig, bool) {
	var cfg meshConfig
	cm, ok := o.configMap(namespace, withRevision(meshConfigMap, revision))
	if !ok {
		return cfg, false
	}
	return cfg, yaml.Unmarshal([]byte(cm.Data[meshConfigKey]), &cfg) == nil
}

func (c *meshConfig) trustDomain() string { return cmp.Or(c.TrustDomain, defaultTrustDomain) }

func (c *meshConfig) aliases() []string {
	a := slices.Clone(c.TrustDomainAliases)
	slices.Sort(a)
	return slices.Compact(a)
}

// flag is an environment variable that proxies get by default.
func (c *meshConfig) flag(name string) bool { return isTrue(c.DefaultConfig.ProxyMetadata[name]) }

// externalCA says by what it can be seen that somebody else than istiod signs the leaves, or "".
func (o *Objects) externalCA(root string, plane controlPlane, cfg meshConfig) string {
	rev := "revision " + plane.revision()
	switch enabled := env(plane.container, "ENABLE_CA_SERVER"); {
	case enabled != "" && !isTrue(enabled):
		return fmt.Sprintf("istiod of %s runs no CA (ENABLE_CA_SERVER=%s), as with istio-csr", rev, enabled)
	case env(plane.container, "EXTERNAL_CA") != "":
		return fmt.Sprintf("istiod of %s has leaves signed elsewhere (EXTERNAL_CA=%s)", rev, env(plane.container, "EXTERNAL_CA"))
	case cfg.CA.Address != "":
		return fmt.Sprintf("istiod of %s has leaves signed by %s (meshConfig.ca.address)", rev, cfg.CA.Address)
	}
	if p := env(plane.container, "PILOT_CERT_PROVIDER"); p != "" && p != "istiod" {
		return fmt.Sprintf("istiod of %s takes its own certificate from elsewhere (PILOT_CERT_PROVIDER=%s)", rev, p)
	}
	for _, name := range []string{"CA_ADDR", "CA_PROVIDER"} {
		if v := cfg.DefaultConfig.ProxyMetadata[name]; v != "" && v != "Citadel" && !ownAddress(v, root) {
			return fmt.Sprintf("proxies of %s get certificates elsewhere (meshConfig.defaultConfig.proxyMetadata.%s=%s)", rev, name, v)
		}
	}
	cm, ok := o.configMap(root, withRevision(injectorConfigMap, plane.revision()))
	if !ok {
		return ""
	}
	var values struct {
		Global struct {
			CAAddress string `json:"caAddress"`
			CAName    string `json:"caName"`
		} `json:"global"`
	}
	if json.Unmarshal([]byte(cm.Data["values"]), &values) == nil {
		if a := values.Global.CAAddress; a != "" && !ownAddress(a, root) {
			return fmt.Sprintf("proxies of %s ask %s for certificates (values.global.caAddress), as with istio-csr", rev, a)
		}
		if n := values.Global.CAName; n != "" && n != "Citadel" {
			return fmt.Sprintf("proxies of %s get certificates from %s (values.global.caName)", rev, n)
		}
	}
	if strings.Contains(cm.Data["config"], "csi.spiffe.io") {
		return fmt.Sprintf("an injection template of %s mounts the socket of a SPIFFE provider (csi.spiffe.io), as with SPIRE", rev)
	}
	return ""
}

// ownAddress reports whether an address is that of an istiod in the root namespace, such as istiod.istio-system.svc:15012.
func ownAddress(address, root string) bool {
	host, ns, ok := serviceHost(address)
	return ok && ns == root && strings.HasPrefix(host, "istiod")
}

// serviceHost splits the address of a Service, "<name>.<namespace>.svc…:<port>".
func serviceHost(address string) (name, namespace string, ok bool) {
	address = address[strings.LastIndex(address, "/")+1:]
	host, _, _ := strings.Cut(address, ":")
	parts := strings.Split(host, ".")
	if len(parts) < 3 || parts[2] != "svc" {
		return "", "", false
	}
	return parts[0], parts[1], true
}

// clusterDomain is the value of istiod's flag --domain.
func clusterDomain(c *corev1.Container) string {
	for i, arg := range c.Args {
		if v, ok := strings.CutPrefix(arg, "--domain="); ok && v != "" {
			return v
		}
		if arg == "--domain" && i+1 < len(c.Args) {
			return c.Args[i+1]
		}
	}
	return defaultClusterDomain
}

// imageVersion is the version of Istio in an image's tag, without the variant: 1.31.1 of "…/pilot:1.31.1-distroless". It
// is empty where the tag is no version.
func imageVersion(image string) string {
	image, _, _ = strings.Cut(image, "@")
	image = image[strings.LastIndex(image, "/")+1:]
	_, tag, _ := strings.Cut(image, ":")
	for _, variant := range []string{"-distroless", "-debug"} {
		tag = strings.TrimSuffix(tag, variant)
	}
	if v := strings.TrimPrefix(tag, "v"); v == "" || v[0] < '0' || v[0] > '9' {
		return ""
	}
	return tag
}

// digestVersion is the version that the charts wrote on istiod, where its image is named by digest alone.
func digestVersion(c controlPlane) string {
	if !strings.Contains(c.container.Image, "@") {
		return ""
	}
	return c.Spec.Template.Labels[labelAppVersion]
}

func serviceAccount(pod *corev1.PodSpec) string {
	return cmp.Or(pod.ServiceAccountName, pod.DeprecatedServiceAccount, "default")
}

func isTrue(s string) bool {
	v, err := strconv.ParseBool(s)
	return err == nil && v
}

func clip(s string, limit int) string {
	if len(s) > limit {
		return strings.ToValidUTF8(s[:limit], "")
	}
	return s
}

func semanticEqual(a, b any) bool { return equality.Semantic.DeepEqual(a, b) }
