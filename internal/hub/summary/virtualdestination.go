package summary

import (
	"cmp"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
)

// ReasonNotServed says that clusters do not serve a VirtualDestination that names them.
const ReasonNotServed = "NotServed"

// maxMeshes in the status of a VirtualDestination.
const maxMeshes = 256

// NameInput is what there is to sum up of a VirtualDestination.
type NameInput struct {
	// Accepted is what is in force; nil if nothing is.
	Accepted *v1alpha1.AcceptedVirtualDestination
	// Findings of its acceptance.
	Findings finding.Findings
	// Members of its virtual mesh.
	Members []NameMember
}

// NameMember is a mesh that gets the name.
type NameMember struct {
	// Name, "<name>.<namespace>".
	Name string
	// Applied is what its agent has made of it; nil for nothing yet.
	Applied *v1alpha1.AppliedVirtualDestination
	// Away says that its cluster is not connected.
	Away bool
}

// OfVirtualDestination returns state, errors, meshes and conditions. Conditions have neither generation nor time yet.
func OfVirtualDestination(in NameInput) (s v1alpha1.VirtualDestinationStatus, conditions []metav1.Condition) {
	s.Accepted, s.Errors = in.Accepted, in.Findings.Errors()
	members := slices.SortedFunc(slices.Values(in.Members), func(a, b NameMember) int { return cmp.Compare(a.Name, b.Name) })
	var waits, away, problems []string
	for _, m := range members {
		is := v1alpha1.VirtualDestinationMesh{Name: m.Name, State: v1alpha1.StatePending}
		current := in.Accepted != nil && m.Applied != nil && m.Applied.Generation == in.Accepted.Generation
		if m.Applied != nil {
			is.Clusters = m.Applied.Clusters
			for _, e := range m.Applied.Errors {
				is.Errors = append(is.Errors, finding.Short(e, maxError))
			}
		}
		switch {
		case !current && m.Away:
			away = append(away, m.Name)
		case !current:
			waits = append(waits, m.Name)
		case len(is.Errors) > 0 || len(is.Clusters) == 0:
			is.State = v1alpha1.StateFailed
			problems = append(problems, "mesh "+m.Name+": "+finding.Join(is.Errors))
		default:
			is.State = v1alpha1.StateAccepted
		}
		if len(s.Meshes) < maxMeshes {
			s.Meshes = append(s.Meshes, is)
		}
	}
	var v verdict
	switch {
	case len(in.Findings) > 0 || in.Accepted == nil:
		s.State, v = v1alpha1.StateInvalid, verdict{ready: metav1.ConditionFalse, stalled: true, reason: v1alpha1.ReasonInvalid, message: finding.Join(in.Findings.Errors())}
		if len(in.Findings) > 0 {
			v.reason = in.Findings[0].Reason
		}
	case len(problems) > 0:
		s.State, v = v1alpha1.StateFailed, verdict{ready: metav1.ConditionFalse, stalled: true, reason: ReasonNotServed, message: finding.Join(problems)}
	case len(waits) > 0:
		s.State, v = v1alpha1.StatePending, verdict{ready: metav1.ConditionFalse, reason: v1alpha1.ReasonProgressing,
			message: fmt.Sprintf("generation %d is being applied in %s", in.Accepted.Generation, finding.Join(waits))}
	case len(away) > 0:
		s.State, v = v1alpha1.StatePending, verdict{ready: metav1.ConditionUnknown, reason: v1alpha1.ReasonNotConnected,
			message: "the clusters of these meshes are not connected: " + finding.Join(away)}
	default:
		s.State, v = v1alpha1.StateAccepted, verdict{ready: metav1.ConditionTrue, reason: v1alpha1.ReasonReady,
			message: fmt.Sprintf("%s is in force in %d meshes", in.Accepted.Hostname, len(members))}
	}
	return s, v.conditions()
}
