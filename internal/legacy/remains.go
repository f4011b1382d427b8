package legacy

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// LabelOutput is on every object that an installation of the second or third generation applied in a member cluster.
const LabelOutput = "cluster.multicluster.solo.io"

// ownerLabels are on the objects of Istio that such an installation made, with its namespace as value.
var ownerLabels = []string{"owner.networking.smh.solo.io", "owner.networking.mesh.gloo.solo.io"}

// caCertsTypes are the types that each generation gave to Secret cacerts.
var caCertsTypes = []string{
	"solo.io/ca-intermediate",
	"certificates.smh.solo.io/issued_certificate",
	"certificates.mesh.gloo.solo.io/issued_certificate",
}

// rootTypes are the types that each generation gave to the Secrets of the roots that it generated.
var rootTypes = []string{
	"solo.io/ca-root",
	"certificates.smh.solo.io/generated_signing_cert",
	"certificates.mesh.gloo.solo.io/generated_signing_cert",
}

var controllers = []string{"csr-agent", "cert-agent", "enterprise-agent"}

// OutputKinds are the kinds of Istio of which such installations made objects in member clusters.
func OutputKinds() []schema.GroupVersionKind { return slices.Clone(outputKinds) }

var outputKinds = []schema.GroupVersionKind{
	{Group: "networking.istio.io", Version: "v1", Kind: "ServiceEntry"},
	{Group: "networking.istio.io", Version: "v1", Kind: "DestinationRule"},
	{Group: "networking.istio.io", Version: "v1", Kind: "VirtualService"},
	{Group: "networking.istio.io", Version: "v1", Kind: "Gateway"},
	{Group: "networking.istio.io", Version: "v1alpha3", Kind: "EnvoyFilter"},
	{Group: "security.istio.io", Version: "v1", Kind: "AuthorizationPolicy"},
	{Group: "security.istio.io", Version: "v1", Kind: "PeerAuthentication"},
}

// Controllers are the names of the Deployments that older generations ran in member clusters.
func Controllers() []string { return slices.Clone(controllers) }

// IsOutput reports whether an object of Istio was made by an installation of an older generation.
func IsOutput(o metav1.Object) bool {
	return slices.ContainsFunc(ownerLabels, func(l string) bool { return o.GetLabels()[l] != "" })
}

// IsFederatedName reports whether a ServiceEntry or a DestinationRule in a root namespace has the name that the first generation,
// which set no labels, gave to a service of another cluster: "<service>.<namespace>.<cluster>", where the cluster is one of those.
func IsFederatedName(name string, clusters []string) bool {
	parts := strings.SplitN(name, ".", 3)
	return len(parts) == 3 && slices.Contains(clusters, parts[2])
}

// IsImport reports whether a ServiceEntry of a name, which is its host, stands for a service of another cluster than the given
// one: "<service>.<namespace>.svc.<cluster>.<suffix>", or "<service>.<namespace>.<cluster>" in the first generation.
func IsImport(name, cluster string) bool {
	parts := strings.Split(name, ".")
	switch {
	case len(parts) > 4 && parts[2] == "svc":
		return parts[3] != cluster
	case len(parts) == 3:
		return parts[2] != cluster
	}
	return false
}

// IsCACerts reports whether a Secret cacerts of a type was made by an installation of an older generation.
func IsCACerts(secretType string) bool { return slices.Contains(caCertsTypes, secretType) }

// IsRoot reports whether a Secret of a type holds a root that an installation of an older generation generated.
func IsRoot(secretType string) bool { return slices.Contains(rootTypes, secretType) }

// IsController reports whether a Deployment of a name is what an older generation ran in member clusters, by the images of its
// containers.
func IsController(name string, images []string) bool {
	return slices.Contains(controllers, name) && slices.ContainsFunc(images, func(image string) bool { return strings.Contains(image, name) })
}
