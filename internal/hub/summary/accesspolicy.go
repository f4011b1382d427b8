package summary

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
)

// ReasonNotEnforceable says that a policy cannot be enforced at destinations: nobody is allowed by it there.
const ReasonNotEnforceable = "NotEnforceable"

// PolicyInput is what there is to sum up of an AccessPolicy.
type PolicyInput struct {
	// Accepted is what is in force; nil if nothing is.
	Accepted *v1alpha1.AcceptedAccessPolicy
	// Findings of its acceptance.
	Findings finding.Findings
	// Members of virtual meshes.
	Members []PolicyMember
	// Destinations that it selects.
	Destinations *Destinations
}

// PolicyMember is a mesh in which policies apply.
type PolicyMember struct {
	// Name, "<name>.<namespace>".
	Name string
	// Generation of the policy that its agent has applied; 0 for none.
	Generation int64
	// Away says that its cluster is not connected.
	Away bool
}

// OfPolicy returns state, errors, destinations and conditions. Conditions have neither generation nor time yet.
func OfPolicy(in PolicyInput) (s v1alpha1.AccessPolicyStatus, conditions []metav1.Condition) {
	s.Accepted, s.Errors, s.Destinations = in.Accepted, in.Findings.Errors(), in.Destinations.Status()
	var v verdict
	s.State, v = in.verdict()
	return s, v.conditions()
}

// verdict takes the first of these that holds.
func (in PolicyInput) verdict() (v1alpha1.State, verdict) {
	if len(in.Findings) > 0 || in.Accepted == nil {
		return v1alpha1.StateInvalid, verdict{ready: metav1.ConditionFalse, stalled: true, reason: v1alpha1.ReasonInvalid, message: finding.Join(in.Findings.Errors())}
	}
	if n := in.Destinations.Counts()[string(v1alpha1.StateInvalid)]; n > 0 {
		return v1alpha1.StateInvalid, verdict{ready: metav1.ConditionFalse, stalled: true, reason: ReasonNotEnforceable,
			message: fmt.Sprintf("nobody is allowed by it at %d destinations: %s", n, finding.Join(in.Destinations.problems()))}
	}
	var waits, away []string
	for _, m := range in.Members {
		switch {
		case m.Generation == in.Accepted.Generation:
		case m.Away:
			away = append(away, m.Name)
		default:
			waits = append(waits, m.Name)
		}
	}
	switch {
	case len(waits) > 0:
		return v1alpha1.StatePending, verdict{ready: metav1.ConditionFalse, reason: v1alpha1.ReasonProgressing,
			message: fmt.Sprintf("generation %d is being applied in %s", in.Accepted.Generation, finding.Join(waits))}
	case len(away) > 0:
		return v1alpha1.StatePending, verdict{ready: metav1.ConditionUnknown, reason: v1alpha1.ReasonNotConnected,
			message: fmt.Sprintf("the clusters of these meshes are not connected: %s", finding.Join(away))}
	case len(in.Members) == 0:
		return v1alpha1.StateAccepted, verdict{ready: metav1.ConditionTrue, reason: v1alpha1.ReasonReady,
			message: "no mesh is in a VirtualMesh, so there is nothing that it applies to"}
	}
	return v1alpha1.StateAccepted, verdict{ready: metav1.ConditionTrue, reason: v1alpha1.ReasonReady,
		message: fmt.Sprintf("in force in %d meshes", len(in.Members))}
}
