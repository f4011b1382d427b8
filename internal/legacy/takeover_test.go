package legacy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/internal/legacy"
)

// oldWorld is what an installation of the third generation leaves in cluster east, which calls ratings of west and is called for
// reviews.
func oldWorld() []legacy.Item {
	old := func(kind, namespace, name string, hosts ...string) legacy.Item {
		return legacy.Item{Kind: kind, Namespace: namespace, Name: name, Hosts: hosts, Old: true}
	}
	const imported, exported = "ratings.shop.svc.west.global", "reviews.shop.svc.east.global"
	local := old("ServiceEntry", "istio-system", exported, exported)
	local.Private = true
	return []legacy.Item{
		old("AuthorizationPolicy", "istio-system", "global-access-control"),
		old("Gateway", "istio-system", "istio-ingressgateway-istio-system"),
		old("EnvoyFilter", "istio-system", "vm.gloo-mesh"),
		old("VirtualService", "shop", "reviews"),
		old("DestinationRule", "shop", "reviews", "reviews.shop.svc.cluster.local"),
		local,
		old("DestinationRule", "istio-system", exported, exported),
		old("ServiceEntry", "istio-system", imported, imported),
		old("DestinationRule", "istio-system", "ratings-shop-west", imported),
		{Kind: "Gateway", Namespace: "istio-system", Name: "of-a-user"},
	}
}

func plan(steps []legacy.Step) string {
	var out []string
	for _, s := range steps {
		out = append(out, fmt.Sprintf("%s %s %s", s.Act, s.Kind, s.Name))
	}
	return strings.Join(out, "\n")
}

// nobody wants a hostname of the first generation.
func nobody(string) bool { return false }

// TestTakeover goes through a takeover to its end: nothing is removed before something of ours is in its place.
func TestTakeover(t *testing.T) {
	items := oldWorld()
	is := func(what string, callers []string, want ...string) []legacy.Step {
		t.Helper()
		steps := legacy.Takeover(items, callers, nobody)
		if got := plan(steps); got != strings.Join(want, "\n") {
			t.Errorf("%s:\n%s\nwant\n%s", what, got, strings.Join(want, "\n"))
		}
		return steps
	}
	kept := []string{"keep AuthorizationPolicy global-access-control", "keep VirtualService reviews", "keep DestinationRule reviews"}
	is("nothing of ours is there", []string{"west"},
		"wait DestinationRule ratings-shop-west", "wait DestinationRule reviews.shop.svc.east.global", "wait ServiceEntry reviews.shop.svc.east.global",
		"wait Gateway istio-ingressgateway-istio-system", "wait EnvoyFilter vm.gloo-mesh",
		"keep AuthorizationPolicy global-access-control", "keep VirtualService reviews", "keep DestinationRule reviews", "keep ServiceEntry ratings.shop.svc.west.global")

	const host = "ratings.shop.svc.west.global"
	items = append(items, legacy.Item{Kind: "DestinationRule", Namespace: "istio-system", Name: host, Hosts: []string{host}, Ours: true})
	is("the agent wants the host", []string{"west"}, append([]string{"hand over ServiceEntry " + host,
		"wait DestinationRule ratings-shop-west", "wait DestinationRule reviews.shop.svc.east.global", "wait ServiceEntry reviews.shop.svc.east.global",
		"wait Gateway istio-ingressgateway-istio-system", "wait EnvoyFilter vm.gloo-mesh"}, kept...)...)

	for i := range items {
		if items[i].Kind == "ServiceEntry" && items[i].Name == host {
			items[i].Ours = true
		}
	}
	is("it has it", []string{"west"}, append([]string{"remove DestinationRule ratings-shop-west",
		"wait DestinationRule reviews.shop.svc.east.global", "wait ServiceEntry reviews.shop.svc.east.global",
		"wait Gateway istio-ingressgateway-istio-system", "wait EnvoyFilter vm.gloo-mesh"}, kept...)...)
	steps := is("nobody calls it any more", nil, append([]string{"remove DestinationRule ratings-shop-west",
		"remove DestinationRule reviews.shop.svc.east.global", "remove ServiceEntry reviews.shop.svc.east.global",
		"remove Gateway istio-ingressgateway-istio-system", "remove EnvoyFilter vm.gloo-mesh"}, kept...)...)
	for _, s := range steps {
		if s.Act == legacy.Remove {
			items = slices.DeleteFunc(items, func(i legacy.Item) bool { return i.Kind == s.Kind && i.Name == s.Name && i.Namespace == s.Namespace })
		}
	}
	is("the end", nil, kept...)
}

// TestTakeoverOfOldNames: the first generation called services by names that are not made known here.
func TestTakeoverOfOldNames(t *testing.T) {
	items := []legacy.Item{
		{Kind: "ServiceEntry", Namespace: "istio-system", Name: "ratings.shop.west", Hosts: []string{"ratings.shop.west"}, Old: true},
		{Kind: "ServiceEntry", Namespace: "istio-system", Name: "ratings.shop.svc.west.global", Hosts: []string{"ratings.shop.svc.west.global"}, Ours: true},
		{Kind: "ServiceEntry", Namespace: "elsewhere", Name: "a", Hosts: []string{"ratings.shop.svc.west.global"}, Old: true},
		{Kind: "ServiceEntry", Namespace: "istio-system", Name: "empty", Old: true},
	}
	steps := legacy.Takeover(items, nil, nobody)
	if got := plan(steps); got != "remove ServiceEntry a\nkeep ServiceEntry empty\nkeep ServiceEntry ratings.shop.west" {
		t.Error(got)
	}
	if why := steps[2].Why; !strings.Contains(why, "ratings.shop.svc.west.global") {
		t.Error(why)
	}
}

// TestTakeoverOfShortHostnames: where services have the names of the first generation, both objects of a name are handed over, in the
// order in which the agent then has both at once; and nothing of a service that is not made known, or of a name that is not taken.
func TestTakeoverOfShortHostnames(t *testing.T) {
	var items []legacy.Item
	for _, host := range []string{"ratings.shop.west", "unknown.shop.west", "details.shop.north"} {
		for _, kind := range []string{"DestinationRule", "ServiceEntry"} {
			items = append(items, legacy.Item{Kind: kind, Namespace: "istio-system", Name: host, Hosts: []string{host}, Old: true})
		}
	}
	for _, host := range []string{"ratings.shop.svc.west.global", "details.shop.svc.north.global"} {
		items = append(items, legacy.Item{Kind: "ServiceEntry", Namespace: "istio-system", Name: host, Hosts: []string{host}, Ours: true})
	}
	items = append(items, legacy.Item{Kind: "ServiceEntry", Namespace: "istio-system", Name: "another", Hosts: []string{"ratings.shop.west"}, Old: true})
	ofWest := func(host string) bool { return strings.HasSuffix(host, ".west") }
	rest := strings.Join([]string{
		"wait DestinationRule details.shop.north", "wait DestinationRule unknown.shop.west",
		"keep ServiceEntry another", "keep ServiceEntry details.shop.north", "keep ServiceEntry unknown.shop.west",
	}, "\n")
	if got, want := plan(legacy.Takeover(items, nil, ofWest)), "hand over ServiceEntry ratings.shop.west\nhand over DestinationRule ratings.shop.west\n"+rest; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for i := range items {
		if items[i].Name == "ratings.shop.west" {
			items[i].Old, items[i].Ours = false, true
		}
	}
	rest = strings.Replace(rest, "keep ServiceEntry another\n", "", 1)
	if got, want := plan(legacy.Takeover(items, nil, ofWest)), "remove ServiceEntry another\n"+rest; got != want {
		t.Errorf("then\n%s\nwant\n%s", got, want)
	}
}
