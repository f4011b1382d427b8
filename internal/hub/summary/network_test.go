package summary_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/hub/summary"
)

const name = "one.isthmus-system"

func mesh(cluster, trustDomain string, edits ...func(*v1alpha1.MeshStatus)) v1alpha1.Mesh {
	m := v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Name: "m", Namespace: "isthmus-" + cluster}}
	m.Spec.Istio.TrustDomain = trustDomain
	for _, edit := range edits {
		edit(&m.Status)
	}
	return m
}

func applied(generation int64) func(*v1alpha1.MeshStatus) {
	return func(s *v1alpha1.MeshStatus) {
		s.AppliedVirtualMeshes = append(s.AppliedVirtualMeshes, v1alpha1.AppliedVirtualMesh{Name: name, Generation: generation})
	}
}

func complaining(s *v1alpha1.MeshStatus) {
	s.Errors = []string{"reviews.default of cluster b: refused", strings.Repeat("x", 10000)}
}

func exclusive(status metav1.ConditionStatus, reason, message string) func(*v1alpha1.MeshStatus) {
	return func(s *v1alpha1.MeshStatus) {
		s.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionGatewayExclusive, Status: status, Reason: reason, Message: message}}
	}
}

// input is that of a virtual mesh of which generation 4 is in force.
func input(spec v1alpha1.VirtualMeshSpec, meshes ...v1alpha1.Mesh) summary.Input {
	in := summary.Input{
		VirtualMesh: &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Name: "one", Namespace: "isthmus-system"}},
		Accepted:    &v1alpha1.AcceptedVirtualMesh{Generation: 4, Spec: spec}, Meshes: meshes,
	}
	for _, m := range meshes {
		in.Accepted.Spec.Meshes = append(in.Accepted.Spec.Meshes, ref(m))
	}
	return in
}

func ref(m v1alpha1.Mesh) v1alpha1.ObjectRef {
	return v1alpha1.ObjectRef{Name: m.Name, Namespace: m.Namespace}
}

func TestApplied(t *testing.T) {
	federation := v1alpha1.VirtualMeshSpec{Federation: &v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{{}}}}
	denial := v1alpha1.VirtualMeshSpec{GlobalAccessPolicy: v1alpha1.GlobalAccessPolicyEnabled}
	byDefault := v1alpha1.VirtualMeshSpec{GlobalAccessPolicy: v1alpha1.GlobalAccessPolicyMeshDefault}
	away := map[string]bool{"isthmus-b": true}
	accepted, pending := v1alpha1.StateAccepted, v1alpha1.StatePending
	yes, no, unknown := metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown
	for what, tc := range map[string]struct {
		spec   v1alpha1.VirtualMeshSpec
		b      []func(*v1alpha1.MeshStatus)
		away   map[string]bool
		state  v1alpha1.State
		ready  metav1.ConditionStatus
		reason string
		says   string
	}{
		"applied":                             {federation, []func(*v1alpha1.MeshStatus){applied(4)}, nil, accepted, yes, v1alpha1.ReasonReady, ""},
		"nothing reported":                    {federation, nil, nil, pending, no, v1alpha1.ReasonProgressing, "m.isthmus-b: federation and policies of generation 4"},
		"nothing reported of a denial":        {denial, nil, nil, pending, no, v1alpha1.ReasonProgressing, "m.isthmus-b"},
		"nothing reported, nothing wanted":    {byDefault, nil, nil, accepted, yes, v1alpha1.ReasonReady, ""},
		"nothing wanted, the last generation": {byDefault, []func(*v1alpha1.MeshStatus){applied(3)}, nil, pending, no, v1alpha1.ReasonProgressing, "m.isthmus-b"},
		"the last generation":                 {federation, []func(*v1alpha1.MeshStatus){applied(3)}, nil, pending, no, v1alpha1.ReasonProgressing, "m.isthmus-b"},
		"of another": {federation, []func(*v1alpha1.MeshStatus){func(s *v1alpha1.MeshStatus) {
			s.AppliedVirtualMeshes = []v1alpha1.AppliedVirtualMesh{{Name: "two.isthmus-system", Generation: 4}}
		}}, nil, pending, no, v1alpha1.ReasonProgressing, "m.isthmus-b"},
		"away":             {federation, []func(*v1alpha1.MeshStatus){applied(3)}, away, pending, unknown, v1alpha1.ReasonNotConnected, "m.isthmus-b"},
		"away and applied": {federation, []func(*v1alpha1.MeshStatus){applied(4)}, away, accepted, unknown, v1alpha1.ReasonNotConnected, "m.isthmus-b"},
		"with errors":      {federation, []func(*v1alpha1.MeshStatus){applied(4), complaining}, nil, accepted, yes, v1alpha1.ReasonReady, ""},
	} {
		t.Run(what, func(t *testing.T) {
			in := input(tc.spec, mesh("a", "cluster.local", applied(4)), mesh("b", "cluster.local", tc.b...))
			in.Away = tc.away
			status, conditions := summary.Of(in)
			if status.State != tc.state || status.Meshes["m.isthmus-a"].State != accepted || status.Meshes["m.isthmus-b"].State != tc.state {
				t.Errorf("state %s, meshes %v, want %s", status.State, status.Meshes, tc.state)
			}
			ready := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady)
			if ready.Status != tc.ready || ready.Reason != tc.reason || !strings.Contains(ready.Message, tc.says) || strings.Contains(ready.Message, "isthmus-a") {
				t.Errorf("Ready is %+v, want %s %s that says %q", ready, tc.ready, tc.reason, tc.says)
			}
		})
	}
	status, _ := summary.Of(input(federation, mesh("a", "cluster.local", applied(4), complaining)))
	if errs := status.Meshes["m.isthmus-a"].Errors; len(errs) != 2 || errs[0] != "reviews.default of cluster b: refused" || len(errs[1]) > 512 {
		t.Errorf("errors %.1000v", errs)
	}
}

func TestGatewayExclusive(t *testing.T) {
	federation := v1alpha1.VirtualMeshSpec{Federation: &v1alpha1.Federation{}}
	yes := exclusive(metav1.ConditionTrue, v1alpha1.ReasonReady, "fine")
	no := exclusive(metav1.ConditionFalse, "ForeignPassThrough", "Gateway istio-system/cross-network-gateway lets pass *.local")
	for what, tc := range map[string]struct {
		meshes []v1alpha1.Mesh
		status metav1.ConditionStatus
		says   []string
	}{
		"nobody says":    {[]v1alpha1.Mesh{mesh("a", "a"), mesh("b", "b")}, "", nil},
		"one says so":    {[]v1alpha1.Mesh{mesh("a", "a"), mesh("b", "b", yes)}, metav1.ConditionTrue, nil},
		"one has others": {[]v1alpha1.Mesh{mesh("a", "a", yes), mesh("b", "b", no), mesh("c", "c", yes)}, metav1.ConditionFalse, []string{"mesh m.isthmus-b", "istio-system/cross-network-gateway"}},
		"two have":       {[]v1alpha1.Mesh{mesh("a", "a", no), mesh("b", "b", no)}, metav1.ConditionFalse, []string{"mesh m.isthmus-a", "mesh m.isthmus-b"}},
	} {
		t.Run(what, func(t *testing.T) {
			_, conditions := summary.Of(input(federation, tc.meshes...))
			judge(t, meta.FindStatusCondition(conditions, v1alpha1.ConditionGatewayExclusive), tc.status, "ForeignPassThrough", tc.says...)
		})
	}
}

// judge wants a condition, of a reason if it is False; "" for none.
func judge(t *testing.T, c *metav1.Condition, status metav1.ConditionStatus, reason string, says ...string) {
	t.Helper()
	if c == nil && status == "" {
		return
	}
	if c == nil || c.Status != status || c.Reason == "" || status == metav1.ConditionFalse && c.Reason != reason {
		t.Fatalf("condition %+v, want %q", c, status)
	}
	for _, s := range says {
		if !strings.Contains(c.Message, s) {
			t.Errorf("it does not say %q: %s", s, c.Message)
		}
	}
}

func TestClientMeshEnforced(t *testing.T) {
	a, b, c, d := mesh("a", "cluster.local"), mesh("b", "cluster.local"), mesh("c", "c.example"), mesh("d", "d.example")
	in := func(cluster string) []v1alpha1.DestinationSelector {
		return []v1alpha1.DestinationSelector{{KubeServiceMatcher: &v1alpha1.KubeServiceMatcher{Clusters: []string{cluster}}}}
	}
	of := func(cluster string) []v1alpha1.DestinationSelector {
		return []v1alpha1.DestinationSelector{{KubeServiceRefs: &v1alpha1.KubeServiceRefs{Services: []v1alpha1.ClusterObjectRef{{Name: "x", Namespace: "y", ClusterName: cluster}}}}}
	}
	to := func(destinations []v1alpha1.DestinationSelector, meshes ...v1alpha1.Mesh) (s v1alpha1.FederationSelector) {
		s.DestinationSelectors = destinations
		for _, m := range meshes {
			s.Meshes = append(s.Meshes, ref(m))
		}
		return s
	}
	for what, tc := range map[string]struct {
		selectors []v1alpha1.FederationSelector
		status    metav1.ConditionStatus
		says      []string
	}{
		"nothing":                       {nil, "", nil},
		"to everyone":                   {[]v1alpha1.FederationSelector{to(nil)}, "", nil},
		"to all by name":                {[]v1alpha1.FederationSelector{to(nil, a, b, c, d)}, "", nil},
		"to all by names in two":        {[]v1alpha1.FederationSelector{to(in("a"), a, b), to(in("a"), c, d)}, "", nil},
		"to all by another that adds":   {[]v1alpha1.FederationSelector{to(in("a"), b), to(nil)}, "", nil},
		"leaves out one of its own":     {[]v1alpha1.FederationSelector{to(in("a"), a, b, d)}, metav1.ConditionTrue, nil},
		"leaves out one like home":      {[]v1alpha1.FederationSelector{to(in("a"), c, d)}, metav1.ConditionFalse, []string{"selectors[0] leaves out m.isthmus-b", "cluster.local of m.isthmus-a"}},
		"by reference":                  {[]v1alpha1.FederationSelector{to(of("b"), c, d)}, metav1.ConditionFalse, []string{"leaves out m.isthmus-a"}},
		"by reference, its own":         {[]v1alpha1.FederationSelector{to(of("c"), a, b)}, metav1.ConditionTrue, nil},
		"leaves out one like another":   {[]v1alpha1.FederationSelector{to(in("c"), a, d)}, metav1.ConditionFalse, []string{"leaves out m.isthmus-b", "of m.isthmus-a"}},
		"in any home":                   {[]v1alpha1.FederationSelector{to(in("c"), a, b), to(nil, c)}, metav1.ConditionFalse, []string{"selectors[1] leaves out m.isthmus-a", "selectors[1] leaves out m.isthmus-b"}},
		"in a cluster that has no mesh": {[]v1alpha1.FederationSelector{to(in("elsewhere"), c)}, "", nil},
	} {
		t.Run(what, func(t *testing.T) {
			_, conditions := summary.Of(input(v1alpha1.VirtualMeshSpec{Federation: &v1alpha1.Federation{Selectors: tc.selectors}}, a, b, c, d))
			judge(t, meta.FindStatusCondition(conditions, v1alpha1.ConditionClientMeshEnforced), tc.status, summary.ReasonClientMeshNotEnforceable, tc.says...)
		})
	}
}

func TestFindingsOfOneEntry(t *testing.T) {
	in := input(v1alpha1.VirtualMeshSpec{}, mesh("a", "a"))
	in.Findings = finding.Findings{{Field: "spec.federation.selectors[0].meshes[0]", Reason: accept.ReasonMeshNotMember, Message: "no member"}}
	status, conditions := summary.Of(in)
	if status.State != v1alpha1.StateInvalid || len(status.Errors) != 1 {
		t.Errorf("state %s, errors %v", status.State, status.Errors)
	}
	if c := meta.FindStatusCondition(conditions, v1alpha1.ConditionStalled); c.Status != metav1.ConditionTrue || c.Reason != accept.ReasonMeshNotMember {
		t.Errorf("Stalled is %+v", c)
	}
}

func TestStillApplied(t *testing.T) {
	clusters := []v1alpha1.KubernetesCluster{{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, {ObjectMeta: metav1.ObjectMeta{Name: "b"}},
		{ObjectMeta: metav1.ObjectMeta{Name: "leaving", DeletionTimestamp: new(metav1.Now())}}}
	other := func(s *v1alpha1.MeshStatus) {
		s.AppliedVirtualMeshes = []v1alpha1.AppliedVirtualMesh{{Name: "two.isthmus-system", Generation: 1}}
	}
	meshes := []v1alpha1.Mesh{mesh("b", "x", applied(0)), mesh("a", "x", applied(7)), mesh("leaving", "x", applied(4)), mesh("gone", "x", applied(4))}
	if got := summary.StillApplied(name, meshes, clusters); !slices.Equal(got, []string{"m.isthmus-a", "m.isthmus-b"}) {
		t.Errorf("still applied in %v", got)
	}
	if got := summary.StillApplied(name, []v1alpha1.Mesh{mesh("a", "x", other), mesh("b", "x")}, clusters); got != nil {
		t.Errorf("still applied in %v", got)
	}
	ready := meta.FindStatusCondition(summary.Deleting([]string{"m.isthmus-a"}), v1alpha1.ConditionReady)
	judge(t, ready, metav1.ConditionFalse, summary.ReasonDeleting, "m.isthmus-a", "meshctl cluster deregister")
}

func destination(service string, s v1alpha1.DestinationStatus) *v1alpha1.Destination {
	return &v1alpha1.Destination{ObjectMeta: metav1.ObjectMeta{Name: service + ".shop", Namespace: "isthmus-a"}, Status: s}
}

func TestDestinations(t *testing.T) {
	federated := v1alpha1.DestinationStatus{AppliedFederation: &v1alpha1.AppliedFederation{VirtualMesh: name}}
	warned := federated
	warned.Errors = []string{"subsets are left out"}
	rejecting := v1alpha1.DestinationStatus{
		Errors:                 []string{"AccessPolicy p.isthmus-system: spec.sourceSelector: no", "the Service is headless"},
		RejectedAccessPolicies: []v1alpha1.RejectedAccessPolicy{{Name: "p.isthmus-system", Errors: []string{"spec.sourceSelector: no"}}},
	}
	onlyRejecting := rejecting
	onlyRejecting.Errors = rejecting.Errors[:1]
	var ds summary.Destinations
	for service, s := range map[string]v1alpha1.DestinationStatus{
		"federated": federated, "warned": warned, "rejecting": rejecting, "only-rejecting": onlyRejecting, "unconcerned": {},
		"of-another": {AppliedFederation: &v1alpha1.AppliedFederation{VirtualMesh: "two.isthmus-system"}},
	} {
		ds.AddFor(name, destination(service, s))
	}
	want := map[string]v1alpha1.ApprovalStatus{
		"federated.shop.isthmus-a": {State: v1alpha1.StateAccepted},
		"warned.shop.isthmus-a":    {State: v1alpha1.StateAccepted, Errors: warned.Errors},
		"rejecting.shop.isthmus-a": {State: v1alpha1.StateInvalid, Errors: rejecting.Errors[1:]},
	}
	if got := ds.Status(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("destinations %v, want %v", got, want)
	}
	if got := ds.Counts(); len(got) != 2 || got["ACCEPTED"] != 2 || got["INVALID"] != 1 {
		t.Errorf("counts %v", got)
	}
	if got := (*summary.Destinations)(nil); got.Status() != nil || got.Counts() != nil {
		t.Error("of none there is something")
	}
}

func TestDestinationsOfLargeFleets(t *testing.T) {
	var ds summary.Destinations
	long := v1alpha1.DestinationStatus{Errors: slices.Repeat([]string{strings.Repeat("ä", 3000)}, 50)}
	for i := range 10000 {
		s := v1alpha1.DestinationStatus{AppliedFederation: &v1alpha1.AppliedFederation{VirtualMesh: name}}
		if i%50 == 7 {
			s = long
		}
		ds.AddFor(name, destination(fmt.Sprintf("s%05d", (i*7919)%10000), s))
	}
	status := ds.Status()
	if len(status) != 256 || ds.Counts()["INVALID"] != 200 || ds.Counts()["ACCEPTED"] != 9800 {
		t.Fatalf("%d destinations, counts %v", len(status), ds.Counts())
	}
	size := 0
	for what, s := range status {
		if s.State == v1alpha1.StateAccepted && what > "s00100" {
			t.Errorf("%s has no errors and is not among the first", what)
		}
		for _, e := range s.Errors {
			size += len(e)
		}
	}
	if size > 300_000 {
		t.Errorf("%d bytes of errors", size)
	}
}

func TestOfPolicy(t *testing.T) {
	const policy = "p.isthmus-system"
	in := v1alpha1.DestinationStatus{AppliedAccessPolicies: []string{"other.isthmus-system", policy}}
	rejected := v1alpha1.DestinationStatus{
		AppliedAccessPolicies:  []string{"other.isthmus-system"},
		RejectedAccessPolicies: []v1alpha1.RejectedAccessPolicy{{Name: policy, Errors: []string{"spec.sourceSelector[0]: not tellable"}}},
	}
	invalid := finding.Findings{{Field: "spec.allowedPaths[0]", Reason: v1alpha1.ReasonInvalid, Message: "wrong"}}
	here, late, away := summary.PolicyMember{Name: "m.isthmus-a", Generation: 4}, summary.PolicyMember{Name: "m.isthmus-b", Generation: 3}, summary.PolicyMember{Name: "m.isthmus-c", Away: true}
	gone := here
	gone.Away = true
	yes, no, unknown := metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown
	for what, tc := range map[string]struct {
		generation         int64 // in force
		findings           finding.Findings
		members            []summary.PolicyMember
		destinations       []v1alpha1.DestinationStatus
		state              v1alpha1.State
		ready, reconciling metav1.ConditionStatus
		reason, says       string
	}{
		"in force":            {4, nil, []summary.PolicyMember{here}, []v1alpha1.DestinationStatus{in}, v1alpha1.StateAccepted, yes, no, v1alpha1.ReasonReady, "1 meshes"},
		"no members":          {4, nil, nil, nil, v1alpha1.StateAccepted, yes, no, v1alpha1.ReasonReady, "no mesh"},
		"being applied":       {4, nil, []summary.PolicyMember{here, late, away}, []v1alpha1.DestinationStatus{in}, v1alpha1.StatePending, no, yes, v1alpha1.ReasonProgressing, "generation 4 is being applied in m.isthmus-b"},
		"away":                {4, nil, []summary.PolicyMember{here, away}, []v1alpha1.DestinationStatus{in}, v1alpha1.StatePending, unknown, yes, v1alpha1.ReasonNotConnected, "m.isthmus-c"},
		"away and applied":    {4, nil, []summary.PolicyMember{gone}, nil, v1alpha1.StateAccepted, yes, no, v1alpha1.ReasonReady, ""},
		"rejected somewhere":  {4, nil, []summary.PolicyMember{here, late}, []v1alpha1.DestinationStatus{in, rejected}, v1alpha1.StateInvalid, no, no, summary.ReasonNotEnforceable, "s1.shop.isthmus-a: spec.sourceSelector[0]: not tellable"},
		"an invalid edit":     {4, invalid, []summary.PolicyMember{here}, []v1alpha1.DestinationStatus{in}, v1alpha1.StateInvalid, no, no, v1alpha1.ReasonInvalid, "spec.allowedPaths[0]: wrong"},
		"invalid from before": {0, invalid, []summary.PolicyMember{here}, nil, v1alpha1.StateInvalid, no, no, v1alpha1.ReasonInvalid, "wrong"},
	} {
		t.Run(what, func(t *testing.T) {
			var ds summary.Destinations
			for i, s := range tc.destinations {
				ds.AddForPolicy(policy, destination(fmt.Sprintf("s%d", i), s))
			}
			input := summary.PolicyInput{Findings: tc.findings, Members: tc.members, Destinations: &ds}
			if tc.generation > 0 {
				input.Accepted = &v1alpha1.AcceptedAccessPolicy{Generation: tc.generation}
			}
			status, conditions := summary.OfPolicy(input)
			if status.State != tc.state || status.Accepted != input.Accepted || len(status.Errors) != len(tc.findings) {
				t.Errorf("status %+v", status)
			}
			for i, s := range tc.destinations {
				got := status.Destinations[fmt.Sprintf("s%d.shop.isthmus-a", i)]
				if len(s.RejectedAccessPolicies) > 0 && (got.State != v1alpha1.StateInvalid || len(got.Errors) != 1) ||
					len(s.RejectedAccessPolicies) == 0 && (got.State != v1alpha1.StateAccepted || got.AcceptanceOrder != 2) {
					t.Errorf("destination %d is %+v", i, got)
				}
			}
			ready := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady)
			if ready.Status != tc.ready || ready.Reason != tc.reason || !strings.Contains(ready.Message, tc.says) || strings.Contains(ready.Message, "s0.shop") {
				t.Errorf("Ready is %+v, want %s %s that says %q", ready, tc.ready, tc.reason, tc.says)
			}
			if c := meta.FindStatusCondition(conditions, v1alpha1.ConditionReconciling); c.Status != tc.reconciling {
				t.Errorf("Reconciling is %+v", c)
			}
			if c := meta.FindStatusCondition(conditions, v1alpha1.ConditionStalled); (c.Status == yes) != (tc.ready == no && tc.reconciling == no) {
				t.Errorf("Stalled is %+v", c)
			}
		})
	}
}
