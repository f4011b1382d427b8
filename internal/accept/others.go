package accept

import (
	"fmt"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
)

// Settings returns the settings that are in force from now on: an edit that contradicts a virtual mesh in force leaves them as
// they were.
func Settings(s *v1alpha1.Settings, virtualMeshes []v1alpha1.VirtualMesh) (*v1alpha1.AcceptedSettings, finding.Findings) {
	var fs finding.Findings
	mode := tlsMode(&s.Spec)
	for i := range virtualMeshes {
		vm := &virtualMeshes[i]
		if vm.Status.Accepted == nil || !vm.DeletionTimestamp.IsZero() {
			continue
		}
		for _, c := range conflicts(vm.Status.Accepted.Spec.Federation, mode) {
			fs = append(fs, finding.Finding{Field: tlsModeField, Reason: v1alpha1.ReasonInvalid, Message: fmt.Sprintf(
				"%s, and in %s of VirtualMesh %s, which is in force, %s: %s; change one of the two",
				is(mode), c.field, MeshKey(vm.Name, vm.Namespace), c.value, c.why)})
		}
	}
	if len(fs) > 0 {
		return s.Status.Accepted, fs
	}
	return &v1alpha1.AcceptedSettings{Generation: s.Generation, Spec: *s.Spec.DeepCopy()}, nil
}
