package hub_test

import (
	"errors"
	"testing"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// TestAcceptedIsReplacedAsAWhole edits objects so that parts of them become empty. Merged field by field, as server-side
// apply does it by default, an empty struct becomes null, which its own schema refuses.
func TestAcceptedIsReplacedAsAWhole(t *testing.T) {
	w := start(t)
	w.register("east")
	vm := virtualMesh("one", "east")
	vm.Spec.MTLSConfig = nil
	w.create(vm)
	everything := []v1alpha1.FederationSelector{{}}
	for _, f := range []*v1alpha1.Federation{
		{Selectors: everything}, {}, {Permissive: &v1alpha1.Empty{}}, {}, {Selectors: everything}, nil,
	} {
		update(w, vm, system, "one", func(vm *v1alpha1.VirtualMesh) { vm.Spec.Federation = f.DeepCopy() })
		w.sees("one", "acceptance", func(vm *v1alpha1.VirtualMesh) error {
			a := vm.Status.Accepted
			if a == nil {
				return errors.New("nothing is accepted")
			}
			return errors.Join(want(a.Generation, vm.Generation), want(a.Spec.Federation == nil, f == nil))
		})
	}
}
