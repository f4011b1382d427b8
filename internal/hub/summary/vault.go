package summary

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// vaultReachable sums up whether members find what Vault signs under, and are let in; nil if Vault signs for none. That one does not is no matter
// of Ready before something has to be signed.
func (in Input) vaultReachable() *metav1.Condition {
	trust := accept.TrustIn(in.Accepted)
	if trust == nil || trust.Vault == nil {
		return nil
	}
	c := &metav1.Condition{Type: v1alpha1.ConditionVaultReachable, Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonWaitingForAgents,
		Message: "no member has asked Vault yet"}
	var problems []string
	for _, ref := range in.Accepted.Spec.Meshes {
		mesh := in.mesh(ref)
		if mesh == nil || mesh.Status.Vault == nil || mesh.Status.Vault.VirtualMesh != accept.MeshKey(in.VirtualMesh.Name, in.VirtualMesh.Namespace) {
			continue
		}
		switch v := mesh.Status.Vault; {
		case v.Reason != "":
			if len(problems) == 0 {
				c.Status, c.Reason = metav1.ConditionFalse, v.Reason
			}
			problems = append(problems, "mesh "+membership.MeshKey(mesh)+": "+finding.Short(v.Message, maxError))
		case len(problems) == 0:
			c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1alpha1.ReasonReady, "every member that has asked Vault has found its root"
		}
	}
	if len(problems) > 0 {
		c.Message = finding.Join(problems)
	}
	return c
}
