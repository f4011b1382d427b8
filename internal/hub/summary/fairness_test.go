package summary_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/hub/summary"
)

// TestOneClusterHidesNothingOfAnother: whatever one cluster says of its destinations, and however much it is, what another
// says is seen.
func TestOneClusterHidesNothingOfAnother(t *testing.T) {
	const policy = "p.isthmus-system"
	var ds summary.Destinations
	add := func(cluster, service string, s v1alpha1.DestinationStatus) {
		d := &v1alpha1.Destination{ObjectMeta: metav1.ObjectMeta{Name: service + ".shop", Namespace: "isthmus-" + cluster}, Status: s}
		ds.AddForPolicy(policy, d)
	}
	rejected := func(text string) v1alpha1.DestinationStatus {
		return v1alpha1.DestinationStatus{RejectedAccessPolicies: []v1alpha1.RejectedAccessPolicy{{Name: policy, Errors: slices.Repeat([]string{text}, 16)}}}
	}
	for i := range 1000 {
		add("a-hostile", fmt.Sprintf("a%04d", i), rejected(strings.Repeat("x", 5000)))
	}
	add("north", "reviews", rejected("spec.sourceSelector[0]: not tellable"))
	add("south", "ratings", rejected("spec.sourceSelector[0]: not tellable there"))
	add("south", "details", v1alpha1.DestinationStatus{AppliedAccessPolicies: []string{policy}})
	status := ds.Status()
	if len(status) != 256 {
		t.Errorf("%d destinations", len(status))
	}
	for name, state := range map[string]v1alpha1.State{
		"reviews.shop.isthmus-north": v1alpha1.StateInvalid, "ratings.shop.isthmus-south": v1alpha1.StateInvalid, "details.shop.isthmus-south": v1alpha1.StateAccepted,
	} {
		if s, ok := status[name]; !ok || s.State != state {
			t.Errorf("of %s it says %v", name, s)
		}
	}
	_, conditions := summary.OfPolicy(summary.PolicyInput{Accepted: &v1alpha1.AcceptedAccessPolicy{Generation: 1}, Destinations: &ds})
	for _, c := range conditions {
		if c.Type == v1alpha1.ConditionReady && (!strings.Contains(c.Message, "reviews.shop.isthmus-north") || !strings.Contains(c.Message, "ratings.shop.isthmus-south")) {
			t.Errorf("the condition says %s", c.Message)
		}
	}
}
