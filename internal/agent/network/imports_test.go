package network

import (
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// TestNothingToImport: a destination that went before the hub knew of this mesh is waited for by nobody, as nobody would look at
// it again.
func TestNothingToImport(t *testing.T) {
	mesh := &v1alpha1.Mesh{}
	mesh.Name, mesh.Namespace = "istiod-istio-system-east", "isthmus-east"
	vm := &membership.VirtualMesh{Name: "vm.isthmus-system", Spec: &v1alpha1.VirtualMeshSpec{}}
	one := importing{
		network: &network{reports: newReports(func() {}), announced: map[string]string{}},
		view:    &view{byMesh: map[string]virtualMesh{membership.MeshKey(mesh): {VirtualMesh: vm}}},
		key:     types.NamespacedName{Namespace: "isthmus-west", Name: "reviews.shop"}, mesh: mesh,
	}
	if out, err := one.run(t.Context()); err != nil || !out.settled {
		t.Errorf("nothing there: %+v, %v", out, err)
	}
	one.destination = &v1alpha1.Destination{}
	if out, err := one.run(t.Context()); err != nil || out.settled {
		t.Errorf("a destination that is to be imported: %+v, %v", out, err)
	}
}
