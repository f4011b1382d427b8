package summary_test

import (
	"testing"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/hub/summary"
)

func TestOfVirtualDestination(t *testing.T) {
	accepted := &v1alpha1.AcceptedVirtualDestination{Generation: 2, Hostname: "reviews.default.svc.global"}
	served := &v1alpha1.AppliedVirtualDestination{Generation: 2, Clusters: []string{"east", "west"}}
	left := &v1alpha1.AppliedVirtualDestination{Generation: 2, Clusters: []string{"east"}, Errors: []string{"cluster west does not serve it"}}
	old := &v1alpha1.AppliedVirtualDestination{Generation: 1, Clusters: []string{"east"}}
	for name, c := range map[string]struct {
		in     summary.NameInput
		state  v1alpha1.State
		ready  string
		reason string
		of     v1alpha1.State // the first mesh
	}{
		"refused, and nothing is in force": {summary.NameInput{Findings: finding.Findings{{Reason: "HostnameTaken", Message: "x"}}}, v1alpha1.StateInvalid, "False", "HostnameTaken", ""},
		"refused, and something is in force": {
			summary.NameInput{Accepted: accepted, Findings: finding.Findings{{Reason: "Invalid", Message: "x"}}, Members: []summary.NameMember{{Name: "a", Applied: served}}},
			v1alpha1.StateInvalid, "False", "Invalid", v1alpha1.StateAccepted,
		},
		"in force": {summary.NameInput{Accepted: accepted, Members: []summary.NameMember{{Name: "b", Applied: served}, {Name: "a", Applied: served}}}, v1alpha1.StateAccepted, "True", "Ready", v1alpha1.StateAccepted},
		"not yet":  {summary.NameInput{Accepted: accepted, Members: []summary.NameMember{{Name: "a", Applied: old}, {Name: "b", Applied: served}}}, v1alpha1.StatePending, "False", "Progressing", v1alpha1.StatePending},
		"away":     {summary.NameInput{Accepted: accepted, Members: []summary.NameMember{{Name: "a", Away: true}, {Name: "b", Applied: served}}}, v1alpha1.StatePending, "Unknown", "NotConnected", v1alpha1.StatePending},
		"away, and done before": {
			summary.NameInput{Accepted: accepted, Members: []summary.NameMember{{Name: "a", Away: true, Applied: served}}}, v1alpha1.StateAccepted, "True", "Ready", v1alpha1.StateAccepted,
		},
		"a cluster is left out": {summary.NameInput{Accepted: accepted, Members: []summary.NameMember{{Name: "a", Applied: left}, {Name: "b"}}}, v1alpha1.StateFailed, "False", "NotServed", v1alpha1.StateFailed},
		"nobody serves":         {summary.NameInput{Accepted: accepted, Members: []summary.NameMember{{Name: "a", Applied: &v1alpha1.AppliedVirtualDestination{Generation: 2}}}}, v1alpha1.StateFailed, "False", "NotServed", v1alpha1.StateFailed},
	} {
		t.Run(name, func(t *testing.T) {
			s, conditions := summary.OfVirtualDestination(c.in)
			if s.State != c.state || string(conditions[0].Status) != c.ready || conditions[0].Reason != c.reason {
				t.Errorf("%s, %+v", s.State, conditions)
			}
			if len(s.Meshes) > 0 && (s.Meshes[0].Name != "a" || s.Meshes[0].State != c.of) || len(s.Meshes) != len(c.in.Members) {
				t.Errorf("%+v", s.Meshes)
			}
		})
	}
}
