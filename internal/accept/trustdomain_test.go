package accept_test

import (
	"slices"
	"testing"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
)

// TestTrustDomains follows a virtual mesh through what its members report: who reports another trust domain than before, or
// joins with that of somebody else, is the only one that is the worse for it.
func TestTrustDomains(t *testing.T) {
	aliases := []string{"east.example", "west.example", "north.example", "new.example", "cluster.local"}
	report := func(cluster, td string) v1alpha1.Mesh {
		return mesh("m-"+cluster, "isthmus-"+cluster, domain(td, aliases...))
	}
	own := []v1alpha1.Mesh{report("east", "east.example"), report("west", "west.example")}
	common := []v1alpha1.Mesh{report("east", "cluster.local"), report("west", "cluster.local")}
	mixed := append(slices.Clone(common), report("north", "north.example"))

	type step struct {
		clusters     string // that are listed, each by its first letter
		meshes       []v1alpha1.Mesh
		suspend      bool
		domains      []string // "<cluster> <trust domain>" of what is accepted then
		reason, says string   // of the only finding
	}
	e, w := "east east.example", "west west.example"
	for name, steps := range map[string][]step{
		"trust domains of their own": {
			{"ew", own, false, []string{e, w}, "", ""},
			{"ewn", append(slices.Clone(own), report("north", "north.example")), false, []string{e, w, "north north.example"}, "", ""},
		},
		"one that reports that of another": {
			{"ew", own, false, []string{e, w}, "", ""},
			{"ew", []v1alpha1.Mesh{own[0], report("west", "east.example")}, false, []string{e, w}, accept.ReasonTrustDomainChanged, `accepted with "west.example"`},
			{"ew", own, false, []string{e, w}, "", ""},
		},
		"one that reports what nobody has": {
			{"ew", own, false, []string{e, w}, "", ""},
			{"ew", []v1alpha1.Mesh{own[0], report("west", "evil.example")}, false, []string{e, w}, accept.ReasonTrustDomainChanged, `reports the trust domain "evil.example"`},
		},
		"one that reports what is none": {
			{"ew", own, false, []string{e, w}, "", ""},
			{"ew", []v1alpha1.Mesh{own[0], report("west", "*")}, false, []string{e, w}, v1alpha1.ReasonInvalid, "SPIFFE"},
		},
		"one that is away, and back with another": {
			{"ew", own, false, []string{e, w}, "", ""},
			{"ew", own[:1], false, []string{e, w}, accept.ReasonMeshNotFound, "kept"},
			{"ew", []v1alpha1.Mesh{own[0], report("west", "new.example")}, false, []string{e, w}, accept.ReasonTrustDomainChanged, "status.accepted"},
		},
		"one that has really changed": {
			{"ew", own, false, []string{e, w}, "", ""},
			{"ew", []v1alpha1.Mesh{own[0], report("west", "new.example")}, false, []string{e, w}, accept.ReasonTrustDomainChanged, "list it again"},
			{"e", []v1alpha1.Mesh{own[0], report("west", "new.example")}, false, []string{e}, "", ""},
			{"ew", []v1alpha1.Mesh{own[0], report("west", "new.example")}, false, []string{e, "west new.example"}, "", ""},
		},
		"one that joins with that of another": {
			{"ew", own, false, []string{e, w}, "", ""},
			{"new", append(slices.Clone(own), report("north", "east.example")), false, []string{e, w}, accept.ReasonTrustDomainTaken, "m-east.isthmus-east"},
			{"new", append(slices.Clone(own), report("north", "north.example")), false, []string{"north north.example", e, w}, "", ""},
		},
		"one in the place of another": {
			{"ew", own, false, []string{e, w}, "", ""},
			{"wn", append(slices.Clone(own), report("north", "east.example")), false, []string{w, "north east.example"}, "", ""},
		},
		"one for all": {
			{"ew", common, false, []string{"east cluster.local", "west cluster.local"}, "", ""},
			{"ewn", append(slices.Clone(common), report("north", "cluster.local")), false, []string{"east cluster.local", "west cluster.local", "north cluster.local"}, "", ""},
		},
		"one of its own beside": {
			{"ew", common, false, []string{"east cluster.local", "west cluster.local"}, "", ""},
			{"ewn", mixed, false, []string{"east cluster.local", "west cluster.local", "north north.example"}, "", ""},
		},
		"both from the start": {
			{"ewn", mixed, false, []string{"east cluster.local", "west cluster.local", "north north.example"}, "", ""},
		},
		"as before": {
			{"ew", own, false, []string{e, w}, "", ""},
			{"e", []v1alpha1.Mesh{own[0], report("west", "new.example")}, true, []string{e, w}, v1alpha1.ReasonSuspended, ""},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var prev *v1alpha1.AcceptedVirtualMesh
			for i, s := range steps {
				vm := virtualMesh()
				for _, c := range s.clusters {
					vm.Spec.Meshes = append(vm.Spec.Meshes, ref(map[rune]string{'e': "m-east", 'w': "m-west", 'n': "m-north"}[c]))
				}
				vm.Spec.Suspend = s.suspend
				got, fs := accept.VirtualMesh(prev, vm, world(s.meshes...))
				expect(t, fs, s.reason, s.says)
				var domains []string
				for _, d := range got.TrustDomains {
					domains = append(domains, d.Namespace[len("isthmus-"):]+" "+d.TrustDomain)
				}
				if !slices.Equal(domains, s.domains) {
					t.Errorf("step %d: trust domains %v, want %v", i, domains, s.domains)
				}
				prev = got
			}
		})
	}
}

// TestTrustDomainsOfOld: of members that were accepted before trust domains were noted, those are noted that are reported.
func TestTrustDomainsOfOld(t *testing.T) {
	east, west := mesh("m-east", "isthmus-east"), mesh("m-west", "isthmus-west")
	prev := accepted(ref("m-east", "isthmus-east"), ref("m-west", "isthmus-west"))
	got, _ := accept.VirtualMesh(prev, virtualMesh(ref("m-east"), ref("m-west")), world(east))
	if len(got.TrustDomains) != 1 || got.TrustDomains[0].Name != "m-east" {
		t.Errorf("noted %v", got.TrustDomains)
	}
	got, _ = accept.VirtualMesh(got, virtualMesh(ref("m-east"), ref("m-west")), world(east, west))
	if len(got.TrustDomains) != 2 || got.TrustDomains[1].TrustDomain != "cluster.local" {
		t.Errorf("noted %v", got.TrustDomains)
	}
	w := world(east, west)
	w.Leaving = map[string]bool{"isthmus-west": true}
	got, _ = accept.VirtualMesh(got, virtualMesh(), w)
	if len(got.TrustDomains) != 1 || got.TrustDomains[0].Name != "m-east" {
		t.Errorf("a cluster leaves, and noted are %v", got.TrustDomains)
	}
}
