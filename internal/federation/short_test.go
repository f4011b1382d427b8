package federation_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/federation"
)

// TestShortHostname: a destination has the name of the first generation beside its own, of which all else is the same.
func TestShortHostname(t *testing.T) {
	home, client := mesh("remote-cluster"), mesh("west")
	d := destination(home, applied(v1alpha1.AppliedFederation{Subsets: []string{"v2"}}))
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything, ShortHostnames: true}, home, client)
	got, refusal := federation.Import(vm, federation.Client{Mesh: client}, home, d)
	if refusal != nil || got.Short == nil {
		t.Fatalf("%+v %v", got, refusal)
	}
	checkReasons(t, got.Notes)
	checkAccepted(t, got.ServiceEntry, got.DestinationRule, got.Short.ServiceEntry, got.Short.DestinationRule)
	const host, full = "reviews.default.remote-cluster", "reviews.default.svc.remote-cluster.global"
	e, r := got.Short.ServiceEntry, got.Short.DestinationRule
	if e.Name != host || r.Name != host || !slices.Equal(e.Spec.Hosts, []string{host}) || r.Spec.Host != host {
		t.Errorf("names %s %s, hosts %v %s", e.Name, r.Name, e.Spec.Hosts, r.Spec.Host)
	}
	e, r = e.DeepCopy(), r.DeepCopy()
	e.Name, e.Spec.Hosts, r.Name, r.Spec.Host = full, []string{full}, full, full
	if asJSON(t, []any{e, r}) != asJSON(t, []any{got.ServiceEntry, got.DestinationRule}) {
		t.Errorf("beside the name, it differs: %s %s", asJSON(t, e), asJSON(t, r))
	}
	if f, fs := federation.Federate(vm, home, d); f == nil || f.ShortHostname != host || f.FederatedHostname != full || len(fs) > 0 {
		t.Errorf("federated as %+v, %v", f, fs)
	}

	vm.Spec.Federation.ShortHostnames = false
	got, refusal = federation.Import(vm, federation.Client{Mesh: client}, home, d)
	if f, _ := federation.Federate(vm, home, d); refusal != nil || got.Short != nil || f.ShortHostname != "" {
		t.Errorf("nobody has asked: %+v %v %+v", got, refusal, f)
	}
}

// TestShortHostnameLeftOut: what could be another's name is left out, and said; the full hostname is there.
func TestShortHostnameLeftOut(t *testing.T) {
	for cluster, tc := range map[string]struct {
		domain string // the client's cluster domain
		listed []string
		says   string // "" if it has the name
		home   bool   // the home does not say it either
	}{
		"east":     {"", nil, "could be of the internet, as east has letters only; if they are not, list it in federation.shortHostnameClusters", false},
		"com":      {"", []string{"east"}, "could be of the internet", false},
		"xn--p1ai": {"", nil, "could be of the internet", false},
		"local":    {"", []string{"local"}, "", false},
		"west":     {"", []string{"west"}, "", false},
		"svc":      {"", []string{"svc"}, "in each cluster SERVICE.NAMESPACE.svc is a Service of its own", true},
		"4711":     {"", []string{"4711"}, "the name of the cluster is a number", true},
		"k8s":      {"k8s", nil, "such names lie in the cluster domain of mesh istiod-istio-system-north, k8s", false},
		"k8s-1":    {"default.k8s-1", nil, "such names lie in the cluster domain of mesh istiod-istio-system-north, default.k8s-1", false},
		"east-1":   {"k8s", nil, "", false},
		"1a":       {"", nil, "", false},
	} {
		t.Run(cluster, func(t *testing.T) {
			home, client := mesh(cluster), mesh("north", func(m *v1alpha1.Mesh) { m.Spec.Istio.ClusterDomain = tc.domain })
			vm := virtualMesh(&v1alpha1.Federation{Selectors: everything, ShortHostnames: true}, home, client)
			importing := func(service string) *federation.Imported {
				got, refusal := federation.Import(vm, federation.Client{Mesh: client, ShortHostnameClusters: tc.listed}, home, destination(home, called(service, "default")))
				if refusal != nil {
					t.Fatal(refusal)
				}
				return got
			}
			got := importing("reviews")
			if f, _ := federation.Federate(vm, home, destination(home)); (f.ShortHostname == "") != tc.home {
				t.Errorf("the home says %q", f.ShortHostname)
			}
			if tc.says == "" {
				if checkReasons(t, got.Notes); got.Short == nil {
					t.Error("it is left out")
				}
				return
			}
			checkReasons(t, got.Notes, federation.ReasonShortHostnameLeftOut)
			if got.Short != nil || got.ServiceEntry == nil || !strings.Contains(got.Notes[0].Message, tc.says) {
				t.Errorf("%+v, notes %v", got.Short, got.Notes)
			}
			if other := importing("ratings"); !reflect.DeepEqual(other.Notes, got.Notes) {
				t.Errorf("of another service it says %v", other.Notes)
			}
		})
	}
}
