package accept

import (
	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// Holders says to which VirtualMesh each mesh belongs, leaving out the one that is being judged: both in the form
// "<name>.<namespace>". A mesh belongs to the VirtualMesh that has accepted it. Where every status was lost, it belongs to
// the one for which an order or its own CA was made, if that one still lists it.
func Holders(judged *v1alpha1.VirtualMesh, all []v1alpha1.VirtualMesh, meshes []v1alpha1.Mesh, orders []v1alpha1.IssuedCertificate) map[string]string {
	accepted := map[string]string{}
	listed := map[string]*v1alpha1.VirtualMesh{}
	for i := range all {
		vm := &all[i]
		key := MeshKey(vm.Name, vm.Namespace)
		if !vm.DeletionTimestamp.IsZero() {
			continue
		}
		listed[key] = vm
		if vm.Status.Accepted != nil {
			for _, m := range vm.Status.Accepted.Spec.Meshes {
				accepted[MeshKey(m.Name, m.Namespace)] = key
			}
		}
	}
	made := func(mesh, name, vm string) {
		if _, ok := accepted[mesh]; ok || listed[vm] == nil || listed[vm].Status.Accepted != nil {
			return
		}
		for _, ref := range listed[vm].Spec.Meshes {
			if ref.Name == name {
				accepted[mesh] = vm
			}
		}
	}
	for i := range orders {
		o := &orders[i]
		mesh, _ := membership.OrderedFor(o.Name)
		made(MeshKey(mesh, o.Namespace), mesh, MeshKey(o.Spec.VirtualMesh.Name, o.Spec.VirtualMesh.Namespace))
	}
	for i := range meshes {
		if ca := meshes[i].Status.CertificateAuthority; ca != nil {
			made(MeshKey(meshes[i].Name, meshes[i].Namespace), meshes[i].Name, ca.VirtualMesh)
		}
	}
	self := MeshKey(judged.Name, judged.Namespace)
	for mesh, vm := range accepted {
		if vm == self {
			delete(accepted, mesh)
		}
	}
	return accepted
}
