package istio

import (
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// MaxIdentities is how many identities a Destination has at most.
const MaxIdentities = 64

// Limits of the API.
const (
	maxSubsetKeys   = 32
	maxSubsetValues = 64
	maxPorts        = 256
	maxPodSelector  = 64
)

// volatileLabels differ from pod to pod, or from rollout to rollout, by themselves.
var volatileLabels = []string{
	appsv1.DefaultDeploymentUniqueLabelKey, // pod-template-hash
	appsv1.ControllerRevisionHashLabelKey,
	appsv1.StatefulSetPodNameLabel,
	appsv1.PodIndexLabel,
	"pod-template-generation",
	"service.istio.io/canonical-name",
	"service.istio.io/canonical-revision",
	LabelRevision,
}

// Backends are what is behind a Service. All of them lie in its namespace and match its selector.
type Backends struct {
	Pods        []*corev1.Pod
	Controllers []Controller
}

// Destination describes a Service and the identities behind it: those of its pods, ready or not, and those that the pods
// of the controllers behind it will have. The mesh is nil unless the answer is Inside. A Service with nothing behind it is
// Unknown: its backends may be on their way.
func (in *Installation) Destination(s *corev1.Service, ns *corev1.Namespace, b Backends) (v1alpha1.DestinationSpec, *v1alpha1.IstioMesh, Membership) {
	if s.Spec.Type == corev1.ServiceTypeExternalName || len(s.Spec.Selector) == 0 {
		return v1alpha1.DestinationSpec{}, nil, Outside
	}
	pods := map[Owner][]*corev1.Pod{}
	var bare []*corev1.Pod
	for _, pod := range b.Pods {
		owner, ok := OwnerOf(pod)
		switch {
		case !Live(pod):
		case ok && slices.ContainsFunc(b.Controllers, func(c Controller) bool { return c.Kind == owner.Kind && c.Name == owner.Name }):
			pods[owner] = append(pods[owner], pod)
		default:
			bare = append(bare, pod)
		}
	}
	var found backends
	for _, c := range b.Controllers {
		own := pods[Owner{c.Kind, c.Name}]
		m := in.controller(c, ns, own)
		found.add(m, c.Template.Labels)
		// A template that would be in a mesh counts even where its pods are not yet: its next one may serve at once.
		if m.state == Outside {
			m = in.place(in.Expected(c.Template, ns))
		}
		if m.state == Inside {
			found.identify(m.mesh, ns.Name, serviceAccount(&c.Template.Spec))
		}
		for _, pod := range own {
			if m := in.place(ProxyOf(pod, ns)); m.state == Inside {
				found.identify(m.mesh, ns.Name, serviceAccount(&pod.Spec))
			}
		}
	}
	for _, pod := range bare {
		m := in.place(ProxyOf(pod, ns))
		if found.add(m, pod.Labels); m.state == Inside {
			found.identify(m.mesh, ns.Name, serviceAccount(&pod.Spec))
		}
	}
	if found.mesh == nil {
		if found.unknown || !found.any {
			return v1alpha1.DestinationSpec{}, nil, Unknown
		}
		return v1alpha1.DestinationSpec{}, nil, Outside
	}
	service := KubeService(s)
	service.Subsets = subsets(found.labels)
	return v1alpha1.DestinationSpec{KubeService: service, Identities: found.identities(), DataPlanes: slices.Sorted(maps.Keys(found.planes))}, found.mesh, Inside
}

// backends adds up what is behind a Service.
type backends struct {
	any, unknown bool
	mesh         *v1alpha1.IstioMesh
	labels       []map[string]string
	ids          map[string]struct{}
	planes       map[v1alpha1.DataPlane]struct{}
}

// add counts a controller, or a pod without one. Of several meshes behind a Service the first by name is taken.
func (b *backends) add(m member, l map[string]string) {
	b.any = true
	switch m.state {
	case Unknown:
		b.unknown = true
	case Inside:
		if b.mesh == nil || m.mesh.RootNamespace < b.mesh.RootNamespace {
			b.mesh = m.mesh
		}
		b.labels = append(b.labels, l)
		if b.planes == nil {
			b.planes = map[v1alpha1.DataPlane]struct{}{}
		}
		b.planes[m.proxy.DataPlane] = struct{}{}
	}
}

func (b *backends) identify(mesh *v1alpha1.IstioMesh, namespace, serviceAccount string) {
	if b.ids == nil {
		b.ids = map[string]struct{}{}
	}
	b.ids[Identity(mesh.TrustDomain, namespace, serviceAccount)] = struct{}{}
}

func (b *backends) identities() []string {
	ids := slices.Sorted(maps.Keys(b.ids))
	return ids[:min(len(ids), MaxIdentities)]
}

// Identity is the SPIFFE ID that Istio gives to a service account
// (https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md).
func Identity(trustDomain, namespace, serviceAccount string) string {
	return "spiffe://" + trustDomain + "/ns/" + namespace + "/sa/" + serviceAccount
}

// Selects reports whether a Service selects pods with the given labels.
func Selects(s *corev1.Service, podLabels map[string]string) bool {
	return len(s.Spec.Selector) > 0 && labels.SelectorFromValidatedSet(s.Spec.Selector).Matches(labels.Set(podLabels))
}

// KubeService is what a Destination says of a Service, but for its subsets, which are of what is behind it.
func KubeService(s *corev1.Service) v1alpha1.KubeService {
	out := v1alpha1.KubeService{
		Name:      s.Name,
		Namespace: s.Namespace,
		Labels:    atMost(s.Labels, 64),
		Selector:  atMost(s.Spec.Selector, 64),
		Type:      string(s.Spec.Type),
	}
	if s.Spec.ClusterIP == corev1.ClusterIPNone {
		out.Type = "Headless"
	}
	for i := range s.Spec.Ports[:min(len(s.Spec.Ports), maxPorts)] {
		p := &s.Spec.Ports[i]
		port := v1alpha1.KubeServicePort{Name: p.Name, Port: p.Port, Protocol: string(p.Protocol), NodePort: p.NodePort}
		if p.AppProtocol != nil {
			port.AppProtocol = *p.AppProtocol
		}
		if t := p.TargetPort.String(); t != "" && t != "0" {
			port.TargetPort = t
		}
		out.Ports = append(out.Ports, port)
	}
	return out
}

// subsets are the labels by which sets of labels differ, with the values that occur.
func subsets(sets []map[string]string) map[string]v1alpha1.SubsetValues {
	if len(sets) < 2 {
		return nil
	}
	values := map[string]map[string]struct{}{}
	for _, set := range sets {
		for k, v := range set {
			if slices.Contains(volatileLabels, k) {
				continue
			}
			if values[k] == nil {
				values[k] = map[string]struct{}{}
			}
			values[k][v] = struct{}{}
		}
	}
	out := map[string]v1alpha1.SubsetValues{}
	for _, k := range slices.Sorted(maps.Keys(values)) {
		if v := slices.Sorted(maps.Keys(values[k])); len(v) > 1 && len(out) < maxSubsetKeys {
			out[k] = v1alpha1.SubsetValues{Values: v[:min(len(v), maxSubsetValues)]}
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// atMost returns a map with the first limit keys of m.
func atMost(m map[string]string, limit int) map[string]string {
	if len(m) <= limit {
		return m
	}
	out := make(map[string]string, limit)
	for _, k := range slices.Sorted(maps.Keys(m))[:limit] {
		out[k] = m[k]
	}
	return out
}
