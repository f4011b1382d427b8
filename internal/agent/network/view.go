package network

import (
	"cmp"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/policy"
)

// view is what every answer depends on. It is a value: a change makes another one.
type view struct {
	// sequence counts the views.
	sequence uint64
	// meshes are all that agents report, by "<name>.<namespace>".
	meshes map[string]*v1alpha1.Mesh
	// own are those of this cluster, by name.
	own map[string]*v1alpha1.Mesh
	// virtualMeshes exist in the hub, by the value of the label that their objects carry.
	virtualMeshes map[string]virtualMesh
	// byMesh are the virtual meshes in force, by their members.
	byMesh map[string]virtualMesh
	// members of these, as they were accepted, by "<name>.<namespace>".
	members map[string]*v1alpha1.Mesh
	// policies in force, in the order of their creation.
	policies []acceptedPolicy
	accepted []policy.Accepted // of these
}

// virtualMesh is one that exists.
type virtualMesh struct {
	// VirtualMesh is nil if none is in force: then nothing is known of what is wanted.
	*membership.VirtualMesh
	// deleting says that its user has deleted it.
	deleting bool
}

// label is the value of the label by which its objects are found.
func (vm virtualMesh) frozen() bool { return vm.VirtualMesh != nil && vm.Spec.Suspend && !vm.deleting }

type acceptedPolicy struct {
	policy.Accepted
	generation int64
}

// newView makes a view of what the hub holds.
func newView(namespace string, virtualMeshes []v1alpha1.VirtualMesh, meshes []v1alpha1.Mesh, policies []acceptedPolicy) *view {
	v := &view{
		meshes: map[string]*v1alpha1.Mesh{}, own: map[string]*v1alpha1.Mesh{},
		virtualMeshes: map[string]virtualMesh{}, byMesh: map[string]virtualMesh{}, members: map[string]*v1alpha1.Mesh{}, policies: policies,
	}
	for i := range policies {
		v.accepted = append(v.accepted, policies[i].Accepted)
	}
	for i := range meshes {
		m := &meshes[i]
		v.meshes[membership.MeshKey(m)] = m
		if m.Namespace == namespace {
			v.own[m.Name] = m
		}
	}
	for i := range virtualMeshes {
		vm := virtualMesh{membership.Of(&virtualMeshes[i], meshes), !virtualMeshes[i].DeletionTimestamp.IsZero()}
		v.virtualMeshes[kube.VirtualMeshLabel(virtualMeshes[i].Name, virtualMeshes[i].Namespace)] = vm
		if vm.VirtualMesh == nil || vm.deleting {
			continue
		}
		for _, m := range vm.Members {
			v.byMesh[membership.MeshKey(m)], v.members[membership.MeshKey(m)] = vm, m
		}
	}
	return v
}

// of returns the virtual mesh in force for a mesh of this cluster; nil if there is none.
func (v *view) of(mesh *v1alpha1.Mesh) *membership.VirtualMesh {
	return v.byMesh[membership.MeshKey(mesh)].VirtualMesh
}

// home returns a mesh of another cluster as it was accepted, or as it is reported if it is no member; nil if it is neither.
func (v *view) home(key string) *v1alpha1.Mesh { return cmp.Or(v.members[key], v.meshes[key]) }

// limited reports whether a mesh of this cluster is in a virtual mesh of limited trust.
func (v *view) limited() bool {
	for _, mesh := range v.own {
		if vm := v.of(mesh); vm != nil && vm.Limited() {
			return true
		}
	}
	return false
}

// frozen reports whether nothing may be changed for a mesh.
func (v *view) frozen(mesh *v1alpha1.Mesh) bool { return v.byMesh[membership.MeshKey(mesh)].frozen() }

// given reports whether users want something that was made for a virtual mesh, by its label, in one of its meshes to be
// taken back: the virtual mesh was deleted, or it does not list the mesh any more. Of a virtual mesh that is not there, or of
// which nothing is in force, nothing is known.
func (v *view) givenUp(label string, mesh *v1alpha1.Mesh) bool {
	vm, ok := v.virtualMeshes[label]
	switch {
	case !ok:
		return false
	case vm.deleting:
		return true
	case vm.VirtualMesh == nil || vm.frozen():
		return false
	}
	return !vm.Lists(mesh)
}

// difference says what has to be looked at again when one view follows another.
type difference struct {
	// everything of this cluster and to it.
	everything bool
	// destinations of this cluster.
	own bool
	// policies that are in force.
	policies bool
	// homes are namespaces of clusters whose destinations have to be looked at again.
	homes map[string]bool
}

func (v *view) since(old *view) difference {
	if old == nil {
		return difference{everything: true}
	}
	d := difference{homes: map[string]bool{}}
	d.everything = !maps.EqualFunc(v.virtualMeshes, old.virtualMeshes, sameVirtualMesh) ||
		!maps.EqualFunc(v.own, old.own, sameMesh)
	d.policies = !slices.EqualFunc(v.policies, old.policies, func(a, b acceptedPolicy) bool {
		return a.Name == b.Name && a.generation == b.generation && (a.Spec == b.Spec || equality.Semantic.DeepEqual(a.Spec, b.Spec))
	})
	d.own = d.policies
	for key := range v.meshes {
		m := v.home(key)
		if was := old.home(key); was == nil || !sameMesh(was, m) {
			d.homes[m.Namespace] = true
			d.own = d.own || was == nil || was.Spec.Istio.TrustDomain != m.Spec.Istio.TrustDomain // policies go by those of all members
		}
	}
	for key, m := range old.meshes {
		if v.meshes[key] == nil {
			d.homes[m.Namespace], d.own = true, true
		}
	}
	return d
}

// none reports whether nothing has to be looked at.
func (d difference) none() bool { return !d.everything && !d.own && len(d.homes) == 0 }

func sameVirtualMesh(a, b virtualMesh) bool {
	if a.deleting != b.deleting || (a.VirtualMesh == nil) != (b.VirtualMesh == nil) {
		return false
	}
	return a.VirtualMesh == nil || a.Generation == b.Generation && equality.Semantic.DeepEqual(a.Spec, b.Spec) && maps.Equal(a.TrustDomains, b.TrustDomains)
}

// sameMesh compares what federation goes by.
func sameMesh(a, b *v1alpha1.Mesh) bool {
	return a == b || equality.Semantic.DeepEqual(a.Spec, b.Spec) &&
		equality.Semantic.DeepEqual(a.Status.CertificateAuthority, b.Status.CertificateAuthority) &&
		sameTrust(a.Status.GatewayCertificate, b.Status.GatewayCertificate)
}

// sameTrust compares of certificates what others go by.
func sameTrust(a, b *v1alpha1.MeshGatewayCertificate) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.VirtualMesh == b.VirtualMesh && a.Signer == b.Signer && slices.Equal(a.Roots, b.Roots)
}
