// Package istio reads Istio: functions from the objects of one cluster to facts about its meshes, proxies, services and
// gateways, in the terms of the Isthmus API.
//
// It knows how Istio is installed and how pods get into a mesh. It imports no client and knows neither the hub nor any
// other cluster. It does not modify what it is given.
package istio

import corev1 "k8s.io/api/core/v1"

// Labels and annotations of Istio; see https://istio.io/latest/docs/reference/config/labels/ and …/annotations/.
const (
	LabelRevision   = "istio.io/rev"
	LabelTag        = "istio.io/tag"
	LabelNetwork    = "topology.istio.io/network"
	LabelDataPlane  = "istio.io/dataplane-mode"
	LabelGateway    = "istio"
	labelInject     = "sidecar.istio.io/inject"
	labelAppVersion = "app.kubernetes.io/version"

	AnnotationStatus    = "sidecar.istio.io/status"
	AnnotationTemplates = "inject.istio.io/templates"
	AnnotationAmbient   = "ambient.istio.io/redirection"
	AnnotationInject    = "sidecar.istio.io/inject" // preceded the label of the same name
)

const (
	// ProxyContainer is the name of the proxy's container in a pod.
	ProxyContainer = "istio-proxy"
	// DefaultRevision is the name of a revision that was given none.
	DefaultRevision = "default"

	defaultTrustDomain   = "cluster.local"
	defaultClusterDomain = "cluster.local"
	defaultNamespace     = "istio-system"
)

// SystemNamespaces are the namespaces that Istio never injects into.
var SystemNamespaces = []string{"kube-system", "kube-public", "kube-node-lease", "local-path-storage"}

// env returns the value that a container sets an environment variable to.
func env(c *corev1.Container, name string) string {
	for i := range c.Env {
		if c.Env[i].Name == name {
			return c.Env[i].Value
		}
	}
	return ""
}
