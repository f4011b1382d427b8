package summary

import (
	"fmt"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// Reasons of conditions.
const (
	// ReasonClientMeshNotEnforceable says that a mesh to which something is not federated cannot be kept from calling it.
	ReasonClientMeshNotEnforceable = "ClientMeshNotEnforceable"
	// ReasonDeleting says that what was applied for a deleted object is being taken back.
	ReasonDeleting = "Deleting"
)

func (in Input) mesh(ref v1alpha1.ObjectRef) *v1alpha1.Mesh {
	for i := range in.Meshes {
		if m := &in.Meshes[i]; m.Name == ref.Name && m.Namespace == ref.Namespace {
			return m
		}
	}
	return nil
}

// judgeNetwork tells from what the agent reports how far federation and policies have come in a mesh.
func (in Input) judgeNetwork(m *member, mesh *v1alpha1.Mesh) {
	if mesh == nil {
		return
	}
	for _, e := range mesh.Status.Errors {
		m.reported = append(m.reported, finding.Short(e, maxError))
	}
	applied := mesh.Status.AppliedVirtualMeshes
	if !networked(&in.Accepted.Spec) && len(applied) == 0 {
		return
	}
	name := accept.MeshKey(in.VirtualMesh.Name, in.VirtualMesh.Namespace)
	if slices.Contains(applied, v1alpha1.AppliedVirtualMesh{Name: name, Generation: in.Accepted.Generation}) {
		return
	}
	if m.state == v1alpha1.StateAccepted {
		m.state = v1alpha1.StatePending
	}
	if m.waits == "" && !m.away {
		m.waits = fmt.Sprintf("federation and policies of generation %d are being applied", in.Accepted.Generation)
	}
}

// networked reports whether a spec asks for more than trust.
func networked(s *v1alpha1.VirtualMeshSpec) bool {
	return s.Federation != nil || s.GlobalAccessPolicy != "" && s.GlobalAccessPolicy != v1alpha1.GlobalAccessPolicyMeshDefault
}

// gatewayExclusive sums up the condition of that name of the members; nil if none has it.
func (in Input) gatewayExclusive() *metav1.Condition {
	if in.Accepted == nil {
		return nil
	}
	var out *metav1.Condition
	var problems []string
	for _, ref := range in.Accepted.Spec.Meshes {
		mesh := in.mesh(ref)
		if mesh == nil {
			continue
		}
		c := meta.FindStatusCondition(mesh.Status.Conditions, v1alpha1.ConditionGatewayExclusive)
		switch {
		case c == nil:
		case c.Status == metav1.ConditionFalse:
			if len(problems) == 0 {
				out = &metav1.Condition{Type: v1alpha1.ConditionGatewayExclusive, Status: metav1.ConditionFalse, Reason: c.Reason}
			}
			problems = append(problems, "mesh "+membership.MeshKey(mesh)+": "+finding.Short(c.Message, maxError))
		case out == nil:
			out = &metav1.Condition{Type: v1alpha1.ConditionGatewayExclusive, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady,
				Message: "the gateways let pass what is federated and nothing else"}
		}
	}
	if len(problems) > 0 {
		out.Message = finding.Join(problems)
	}
	return out
}

// clientMeshEnforced says whether the members that get no name for a destination are kept from calling it all the same; nil if
// every member gets everything that is federated.
func (in Input) clientMeshEnforced() *metav1.Condition {
	if in.Accepted == nil || in.Accepted.Spec.Federation == nil {
		return nil
	}
	selectors := in.Accepted.Spec.Federation.Selectors
	var members []*v1alpha1.Mesh
	for _, ref := range in.Accepted.Spec.Meshes {
		if m := in.mesh(ref); m != nil {
			members = append(members, m)
		}
	}
	restricted := false
	limited := accept.TrustIn(in.Accepted).ByGateways() // they are told apart by their certificates
	var problems []string
	for i, s := range selectors {
		admitted := admittedBy(selectors, s)
		if admitted == nil {
			continue
		}
		for _, home := range members {
			if !mayBeIn(s.DestinationSelectors, membership.Cluster(home.Namespace)) {
				continue
			}
			in, out := apart(members, home, admitted)
			restricted = restricted || len(out) > 0
			for _, m := range out {
				if as := sameTrustDomain(m, in); as != nil && !limited {
					problems = append(problems, fmt.Sprintf("spec.federation.selectors[%d] leaves out %s, which has the trust domain %s of %s",
						i, membership.MeshKey(m), m.Spec.Istio.TrustDomain, membership.MeshKey(as)))
				}
			}
		}
	}
	slices.Sort(problems)
	problems = slices.Compact(problems)
	switch {
	case len(problems) > 0:
		return &metav1.Condition{Type: v1alpha1.ConditionClientMeshEnforced, Status: metav1.ConditionFalse, Reason: ReasonClientMeshNotEnforceable,
			Message: "a mesh that is left out gets no name for what is federated, but is not kept from calling it: say by AccessPolicies who may call, or give it a trust domain of its own: " + finding.Join(problems)}
	case restricted && limited:
		return &metav1.Condition{Type: v1alpha1.ConditionClientMeshEnforced, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady,
			Message: "the certificates of their gateways tell the meshes that are left out from the others"}
	case restricted:
		return &metav1.Condition{Type: v1alpha1.ConditionClientMeshEnforced, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady,
			Message: "the trust domains tell the meshes that are left out from the others"}
	}
	return nil
}

// admittedBy returns the meshes that get whatever a selector selects: its own, and those of selectors that select at least as
// much. nil stands for all.
func admittedBy(selectors []v1alpha1.FederationSelector, s v1alpha1.FederationSelector) (out []v1alpha1.ObjectRef) {
	for _, other := range selectors {
		if len(other.DestinationSelectors) > 0 && !reflect.DeepEqual(other.DestinationSelectors, s.DestinationSelectors) {
			continue
		}
		if len(other.Meshes) == 0 {
			return nil
		}
		out = append(out, other.Meshes...)
	}
	return out
}

// mayBeIn reports whether selectors can select anything in a cluster.
func mayBeIn(selectors []v1alpha1.DestinationSelector, cluster string) bool {
	return len(selectors) == 0 || slices.ContainsFunc(selectors, func(s v1alpha1.DestinationSelector) bool {
		m, refs := s.KubeServiceMatcher, s.KubeServiceRefs
		return m == nil && refs == nil || m != nil && (len(m.Clusters) == 0 || slices.Contains(m.Clusters, cluster)) ||
			refs != nil && slices.ContainsFunc(refs.Services, func(r v1alpha1.ClusterObjectRef) bool { return r.ClusterName == "" || r.ClusterName == cluster })
	})
}

// apart parts the members into those that may call what home federates to the admitted ones, and the others.
func apart(members []*v1alpha1.Mesh, home *v1alpha1.Mesh, admitted []v1alpha1.ObjectRef) (in, out []*v1alpha1.Mesh) {
	for _, m := range members {
		if m == home || slices.Contains(admitted, v1alpha1.ObjectRef{Name: m.Name, Namespace: m.Namespace}) {
			in = append(in, m)
		} else {
			out = append(out, m)
		}
	}
	return in, out
}

func sameTrustDomain(m *v1alpha1.Mesh, others []*v1alpha1.Mesh) *v1alpha1.Mesh {
	for _, o := range others {
		if o.Spec.Istio.TrustDomain == m.Spec.Istio.TrustDomain {
			return o
		}
	}
	return nil
}

// StillApplied are the meshes, each "<name>.<namespace>", of registered clusters in which something applied for a VirtualMesh of
// a name "<name>.<namespace>" is left, by what their agents say.
func StillApplied(name string, meshes []v1alpha1.Mesh, clusters []v1alpha1.KubernetesCluster) (out []string) {
	for i := range meshes {
		m := &meshes[i]
		registered := slices.ContainsFunc(clusters, func(kc v1alpha1.KubernetesCluster) bool {
			return kc.Name == membership.Cluster(m.Namespace) && kc.DeletionTimestamp.IsZero()
		})
		if registered && slices.ContainsFunc(m.Status.AppliedVirtualMeshes, func(a v1alpha1.AppliedVirtualMesh) bool { return a.Name == name }) {
			out = append(out, membership.MeshKey(m))
		}
	}
	slices.Sort(out)
	return out
}

// Deleting are the conditions of a deleted VirtualMesh of which something is still applied in meshes.
func Deleting(meshes []string) []metav1.Condition {
	return verdict{ready: metav1.ConditionFalse, reason: ReasonDeleting, message: "federation and policies are being taken back in " +
		finding.Join(meshes) + "; if a cluster is gone for good, deregister it (`meshctl cluster deregister`)"}.conditions()
}
