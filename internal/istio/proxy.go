package istio

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// Proxy says how a pod is, or would be, in a mesh. The zero value says that it is in none.
type Proxy struct {
	// DataPlane is empty for a pod that is in no mesh.
	DataPlane v1alpha1.DataPlane
	// Revision of the control plane, or a tag of one; may be empty.
	Revision string
	// RootNamespace of the control plane, where the pod names it.
	RootNamespace string
}

// Meshed reports whether the pod is in a mesh.
func (p Proxy) Meshed() bool { return p.DataPlane != "" }

// ProxyOf says how a pod that exists is in a mesh: by the proxy that it runs, else by its being in the ambient data plane.
func ProxyOf(pod *corev1.Pod, ns *corev1.Namespace) Proxy {
	if c, _ := proxyContainer(&pod.Spec); c != nil {
		if slices.Contains(c.Args, "ztunnel") {
			return Proxy{}
		}
		return Proxy{
			DataPlane:     dataPlane(c, &pod.Spec, pod.Annotations),
			Revision:      podRevision(pod),
			RootNamespace: controlPlaneNamespace(c),
		}
	}
	if pod.Annotations[AnnotationAmbient] == "enabled" || ambient(pod.Labels, &pod.Spec, ns) {
		return Proxy{DataPlane: v1alpha1.DataPlaneAmbient, Revision: namespaceRevision(ns)}
	}
	return Proxy{}
}

// Expected says how the pods of a template would be in a mesh if they were created now. The injection webhooks decide, by
// their own selectors, unless the template brings a complete proxy.
func (in *Installation) Expected(t *corev1.PodTemplateSpec, ns *corev1.Namespace) Proxy {
	c, _ := proxyContainer(&t.Spec)
	if c != nil && len(c.Args) > 0 {
		if slices.Contains(c.Args, "ztunnel") {
			return Proxy{}
		}
		return Proxy{
			DataPlane:     dataPlane(c, &t.Spec, t.Annotations),
			Revision:      cmp.Or(t.Labels[LabelRevision], t.Annotations[LabelRevision]),
			RootNamespace: controlPlaneNamespace(c),
		}
	}
	if inj := in.injector(t, ns); inj != nil {
		p := Proxy{DataPlane: v1alpha1.DataPlaneSidecar, Revision: inj.Revision, RootNamespace: inj.RootNamespace}
		for name := range strings.SplitSeq(t.Annotations[AnnotationTemplates], ",") {
			switch strings.TrimSpace(name) {
			case "gateway", "waypoint", "kube-gateway":
				p.DataPlane = v1alpha1.DataPlaneGateway
			case "grpc-agent":
				p.DataPlane = v1alpha1.DataPlaneProxyless
			}
		}
		return p
	}
	if ambient(t.Labels, &t.Spec, ns) {
		return Proxy{DataPlane: v1alpha1.DataPlaneAmbient, Revision: namespaceRevision(ns)}
	}
	return Proxy{}
}

// injector returns the webhook that would inject pods of a template. Beyond the webhook's selectors istiod heeds the host
// network, system namespaces and the annotation that preceded the label.
func (in *Installation) injector(t *corev1.PodTemplateSpec, ns *corev1.Namespace) *Injector {
	if t.Spec.HostNetwork || slices.Contains(SystemNamespaces, ns.Name) {
		return nil
	}
	if _, labelled := t.Labels[labelInject]; !labelled && t.Annotations[AnnotationInject] == "false" {
		return nil
	}
	for i := range in.Injectors {
		inj := &in.Injectors[i]
		if inj.namespaces.Matches(namespaceLabels(ns)) && inj.pods.Matches(labels.Set(t.Labels)) {
			return inj
		}
	}
	return nil
}

// proxyContainer returns the proxy's container, native sidecars (init containers that go on running) included, and whether
// it is the pod's only one.
func proxyContainer(pod *corev1.PodSpec) (c *corev1.Container, alone bool) {
	for _, list := range [][]corev1.Container{pod.Containers, pod.InitContainers} {
		for i := range list {
			if list[i].Name == ProxyContainer {
				return &list[i], len(pod.Containers) == 1 && &list[i] == &pod.Containers[0]
			}
		}
	}
	return nil, false
}

func dataPlane(c *corev1.Container, pod *corev1.PodSpec, annotations map[string]string) v1alpha1.DataPlane {
	_, alone := proxyContainer(pod)
	templates := annotations[AnnotationTemplates]
	switch {
	case isTrue(env(c, "DISABLE_ENVOY")):
		return v1alpha1.DataPlaneProxyless
	case slices.Contains(c.Args, "router"), slices.Contains(c.Args, "waypoint"), strings.Contains(templates, "gateway"), alone:
		return v1alpha1.DataPlaneGateway
	}
	return v1alpha1.DataPlaneSidecar
}

// ambient reports whether labels ask for the ambient data plane: the pod's own, else its namespace's.
func ambient(podLabels map[string]string, pod *corev1.PodSpec, ns *corev1.Namespace) bool {
	mode, ok := podLabels[LabelDataPlane]
	if !ok {
		mode = ns.Labels[LabelDataPlane]
	}
	return mode == "ambient" && !pod.HostNetwork && !slices.Contains(SystemNamespaces, ns.Name)
}

// podRevision is the revision that injected a pod, else the one that it asks for.
func podRevision(pod *corev1.Pod) string {
	var status struct {
		Revision string `json:"revision"`
	}
	if s := pod.Annotations[AnnotationStatus]; s != "" && json.Unmarshal([]byte(s), &status) == nil && status.Revision != "" {
		return status.Revision
	}
	return cmp.Or(pod.Labels[LabelRevision], pod.Annotations[LabelRevision])
}

func namespaceRevision(ns *corev1.Namespace) string { return ns.Labels[LabelRevision] }

// namespaceLabels are the labels of a namespace with the one that the API server sets on each.
func namespaceLabels(ns *corev1.Namespace) labels.Set {
	if ns.Labels[corev1.LabelMetadataName] == ns.Name {
		return ns.Labels
	}
	set := labels.Set{corev1.LabelMetadataName: ns.Name}
	maps.Copy(set, ns.Labels)
	return set
}

// controlPlaneNamespace is the namespace of the istiod that a proxy was told to talk to, or "".
func controlPlaneNamespace(c *corev1.Container) string {
	var cfg struct {
		DiscoveryAddress string `json:"discoveryAddress"`
	}
	if s := env(c, "PROXY_CONFIG"); s != "" && json.Unmarshal([]byte(s), &cfg) == nil {
		if _, ns, ok := serviceHost(cfg.DiscoveryAddress); ok {
			return ns
		}
	}
	_, ns, _ := serviceHost(env(c, "CA_ADDR"))
	return ns
}
