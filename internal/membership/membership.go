// Package membership is what federation and access policy have in common: which meshes are in a virtual mesh, and what a
// selector selects. It is functions over values and knows neither Istio's objects nor clients.
//
// From which cluster something is follows from the namespace of the hub that it lies in, and from nothing that it says.
package membership

import (
	"regexp"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// VirtualMesh is a virtual mesh in force.
type VirtualMesh struct {
	// Name, in the form "<name>.<namespace>".
	Name string
	// Generation of the spec that was accepted.
	Generation int64
	// Spec that was accepted: every reference to a mesh has its namespace.
	Spec *v1alpha1.VirtualMeshSpec
	// Members are the Meshes that the spec lists, as their agents report them but for their trust domains, which are those with
	// which they were accepted. One that is listed and not reported is absent.
	Members []*v1alpha1.Mesh
	// TrustDomains are those with which meshes were accepted; nil if the hub does not say.
	TrustDomains map[v1alpha1.ObjectRef]string
}

// Of returns the virtual mesh that is in force by a VirtualMesh; nil if nothing is.
func Of(vm *v1alpha1.VirtualMesh, meshes []v1alpha1.Mesh) *VirtualMesh {
	if vm.Status.Accepted == nil {
		return nil
	}
	out := &VirtualMesh{
		Name: vm.Name + "." + vm.Namespace, Generation: vm.Status.Accepted.Generation, Spec: &vm.Status.Accepted.Spec,
		TrustDomains: trustDomains(vm.Status.Accepted),
	}
	for i := range meshes {
		if m := &meshes[i]; out.Lists(m) {
			out.Members = append(out.Members, out.AsAccepted(m))
		}
	}
	return out
}

func trustDomains(a *v1alpha1.AcceptedVirtualMesh) map[v1alpha1.ObjectRef]string {
	if len(a.TrustDomains) == 0 {
		return nil
	}
	out := make(map[v1alpha1.ObjectRef]string, len(a.TrustDomains))
	for _, m := range a.TrustDomains {
		out[v1alpha1.ObjectRef{Name: m.Name, Namespace: m.Namespace}] = m.TrustDomain
	}
	return out
}

// AsAccepted returns a mesh as others know it: with the trust domain with which it was accepted, if it is a member.
func (vm *VirtualMesh) AsAccepted(m *v1alpha1.Mesh) *v1alpha1.Mesh {
	td := vm.TrustDomains[ref(m)]
	if vm.TrustDomains == nil || m.Spec.Istio.TrustDomain == td || !vm.Lists(m) {
		return m
	}
	out := *m // nothing of it is changed but this
	out.Spec.Istio.TrustDomain = td
	return &out
}

// TrustDomain returns the one by which others know the workloads of a mesh that the spec lists: that with which it was
// accepted, whatever it reports and whether it is reported; "" if it is not known.
func (vm *VirtualMesh) TrustDomain(mesh v1alpha1.ObjectRef) string {
	if vm.TrustDomains != nil {
		return vm.TrustDomains[mesh]
	}
	for _, m := range vm.Members {
		if ref(m) == mesh {
			return m.Spec.Istio.TrustDomain
		}
	}
	return ""
}

func ref(m *v1alpha1.Mesh) v1alpha1.ObjectRef {
	return v1alpha1.ObjectRef{Name: m.Name, Namespace: m.Namespace}
}

// Lists reports whether the spec lists a mesh.
func (vm *VirtualMesh) Lists(m *v1alpha1.Mesh) bool {
	return slices.Contains(vm.Spec.Meshes, ref(m))
}

// Cluster returns the registered cluster whose namespace in the hub is given; "" for any other namespace.
func Cluster(namespace string) string {
	cluster, ok := strings.CutPrefix(namespace, v1alpha1.ClusterNamespacePrefix)
	if !ok || namespace == v1alpha1.SystemNamespace || namespace == v1alpha1.AgentNamespace {
		return ""
	}
	return cluster
}

// MeshKey is the form "<name>.<namespace>" that names a mesh in status fields.
func MeshKey(m *v1alpha1.Mesh) string { return m.Name + "." + m.Namespace }

// Selects reports whether one of the selectors selects a destination. No selectors select everything.
func Selects(selectors []v1alpha1.DestinationSelector, d *v1alpha1.Destination) bool {
	return len(selectors) == 0 || slices.ContainsFunc(selectors, func(s v1alpha1.DestinationSelector) bool {
		return selects(s, Cluster(d.Namespace), d.Spec.KubeService.Name, d.Spec.KubeService.Namespace, d.Spec.KubeService.Labels)
	})
}

// SelectsService is Selects for a Service of a cluster of which there need not be a Destination.
func SelectsService(selectors []v1alpha1.DestinationSelector, cluster, name, namespace string, labels map[string]string) bool {
	return len(selectors) == 0 || slices.ContainsFunc(selectors, func(s v1alpha1.DestinationSelector) bool {
		return selects(s, cluster, name, namespace, labels)
	})
}

// SelectsNamespace reports whether one of the selectors selects every service that a namespace of a cluster has or will ever
// have.
func SelectsNamespace(selectors []v1alpha1.DestinationSelector, cluster, namespace string) bool {
	return len(selectors) == 0 || slices.ContainsFunc(selectors, func(s v1alpha1.DestinationSelector) bool {
		m := s.KubeServiceMatcher
		if m == nil {
			return s.KubeServiceRefs == nil
		}
		return len(m.Labels) == 0 && oneOf(m.Namespaces, namespace) && oneOf(m.Clusters, cluster)
	})
}

// selects holds if the matcher or one of the references does; a selector that has neither selects everything.
func selects(s v1alpha1.DestinationSelector, cluster, name, namespace string, labels map[string]string) bool {
	if s.KubeServiceMatcher == nil && s.KubeServiceRefs == nil {
		return true
	}
	if m := s.KubeServiceMatcher; m != nil && oneOf(m.Namespaces, namespace) && oneOf(m.Clusters, cluster) && within(m.Labels, labels) {
		return true
	}
	return s.KubeServiceRefs != nil && slices.ContainsFunc(s.KubeServiceRefs.Services, func(r v1alpha1.ClusterObjectRef) bool {
		return r.Name == name && r.Namespace == namespace && (r.ClusterName == "" || r.ClusterName == cluster)
	})
}

// oneOf reports whether a list that restricts names v; an empty list restricts nothing.
func oneOf(list []string, v string) bool { return len(list) == 0 || slices.Contains(list, v) }

// within reports whether m has all pairs of want. An empty value is one, and not the absence of the key.
func within(want, m map[string]string) bool {
	for k, v := range want {
		if got, ok := m[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// trustDomain is the form of the SPIFFE ID specification, section 2.1.
var trustDomain = regexp.MustCompile(`^[a-z0-9._-]{1,255}$`)

// IsTrustDomain reports whether a trust domain can be part of an identity. One that cannot, such as "*", must not get into
// what is matched against identities.
func IsTrustDomain(td string) bool { return trustDomain.MatchString(td) }
