package federation_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/federation"
)

func TestHosts(t *testing.T) {
	home, client := mesh("east"), mesh("west")
	in := func(namespaces ...string) v1alpha1.FederationSelector {
		return v1alpha1.FederationSelector{DestinationSelectors: []v1alpha1.DestinationSelector{{KubeServiceMatcher: &v1alpha1.KubeServiceMatcher{Namespaces: namespaces}}}}
	}
	labelled := v1alpha1.FederationSelector{DestinationSelectors: []v1alpha1.DestinationSelector{{KubeServiceMatcher: &v1alpha1.KubeServiceMatcher{Labels: map[string]string{"a": "b"}}}}}
	to := func(s v1alpha1.FederationSelector, refs ...v1alpha1.ObjectRef) v1alpha1.FederationSelector {
		s.Meshes = refs
		return s
	}
	names := []string{"a-b.x.svc.cluster.local", "a.x-y.svc.cluster.local", "a.x.svc.cluster.local", "b.y.svc.cluster.local", "gw.istio-gateways.svc.cluster.local"}
	for name, tc := range map[string]struct {
		selectors []v1alpha1.FederationSelector
		want      []string
	}{
		"single ones":                 {[]v1alpha1.FederationSelector{labelled}, names},
		"a namespace":                 {[]v1alpha1.FederationSelector{labelled, in("x")}, []string{"*.x.svc.cluster.local", "a.x-y.svc.cluster.local", "b.y.svc.cluster.local", "gw.istio-gateways.svc.cluster.local"}},
		"a namespace to somebody":     {[]v1alpha1.FederationSelector{labelled, to(in("y"), ref(client))}, slices.Concat([]string{"*.y.svc.cluster.local"}, names[:3], names[4:])},
		"a namespace to nobody":       {[]v1alpha1.FederationSelector{labelled, to(in("y"), ref(home))}, names},
		"a namespace without exports": {[]v1alpha1.FederationSelector{labelled, in("z")}, names},
		"everything, but a gateway's": {everything, []string{"*.x-y.svc.cluster.local", "*.x.svc.cluster.local", "*.y.svc.cluster.local", "gw.istio-gateways.svc.cluster.local"}},
	} {
		t.Run(name, func(t *testing.T) {
			vm := virtualMesh(&v1alpha1.Federation{Selectors: tc.selectors}, home, client)
			var e federation.Exports
			if hosts := e.Hosts(vm, home); len(hosts) > 0 {
				t.Errorf("of nothing: %v", hosts)
			}
			for _, s := range [][2]string{{"b", "y"}, {"a", "x"}, {"a", "x-y"}, {"gw", "istio-gateways"}, {"a-b", "x"}} {
				if !e.Set(s[0]+"."+s[1], s[0], s[1]) {
					t.Errorf("%v changes nothing", s)
				}
			}
			if got := e.Hosts(vm, home); !slices.Equal(got, tc.want) {
				t.Errorf("%v\nwant %v", got, tc.want)
			}
		})
	}
}

// services of the tests of exports, and labels that select some of them.
var (
	serviceNames = rapid.SampledFrom([]string{"a", "b", "a-b", "c"})
	namespaces   = rapid.SampledFrom([]string{"x", "y", "x-y", "istio-gateways"})
	labels       = rapid.SampledFrom([]map[string]string{nil, {"app": "a"}, {"app": "b"}, {"app": "a", "tier": "x"}})
)

// selector draws any federation selector of a few words.
func selector(meshes ...v1alpha1.ObjectRef) *rapid.Generator[v1alpha1.FederationSelector] {
	some := func(g *rapid.Generator[string]) *rapid.Generator[[]string] {
		return rapid.SliceOfNDistinct(g, 0, 2, rapid.ID[string])
	}
	clusters := some(rapid.SampledFrom([]string{"east", "west", "north"}))
	one := rapid.Custom(func(t *rapid.T) (s v1alpha1.DestinationSelector) {
		if rapid.Bool().Draw(t, "matcher") {
			s.KubeServiceMatcher = &v1alpha1.KubeServiceMatcher{Labels: labels.Draw(t, "labels"), Namespaces: some(namespaces).Draw(t, "namespaces"), Clusters: clusters.Draw(t, "clusters")}
		}
		if rapid.Bool().Draw(t, "refs") {
			s.KubeServiceRefs = &v1alpha1.KubeServiceRefs{Services: []v1alpha1.ClusterObjectRef{{
				Name: serviceNames.Draw(t, "name"), Namespace: namespaces.Draw(t, "namespace"), ClusterName: rapid.SampledFrom([]string{"", "east", "west"}).Draw(t, "cluster")}}}
		}
		return s
	})
	return rapid.Custom(func(t *rapid.T) v1alpha1.FederationSelector {
		return v1alpha1.FederationSelector{
			DestinationSelectors: rapid.SliceOfN(one, 0, 3).Draw(t, "selectors"),
			Meshes:               rapid.SliceOfN(rapid.SampledFrom(meshes), 0, 2).Draw(t, "meshes"),
		}
	})
}

// Exports that are kept are those that are made from scratch; all that is exported is admitted; what is admitted beyond that
// is federated as soon as it exists.
func TestExports(t *testing.T) {
	home, client := mesh("east"), mesh("west")
	rapid.Check(t, func(t *rapid.T) {
		stranger := v1alpha1.ObjectRef{Name: "stranger", Namespace: "isthmus-elsewhere"}
		vm := virtualMesh(&v1alpha1.Federation{Selectors: rapid.SliceOfN(selector(ref(home), ref(client), stranger), 0, 3).Draw(t, "selectors")}, home, client)
		type service struct{ name, namespace string }
		model := map[string]service{}
		var kept federation.Exports
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			destination := rapid.SampledFrom([]string{"1", "2", "3", "4", "5"}).Draw(t, "destination")
			s := service{serviceNames.Draw(t, "name"), namespaces.Draw(t, "namespace")}
			was, known := model[destination]
			if rapid.IntRange(0, 2).Draw(t, "remove") == 0 {
				delete(model, destination)
				if changed := kept.Set(destination, "", rapid.SampledFrom([]string{"", "x"}).Draw(t, "of")); changed != known {
					t.Fatalf("removing a known one: %v, changed: %v", known, changed)
				}
				continue
			}
			model[destination] = s
			if changed := kept.Set(destination, s.name, s.namespace); changed != (!known || was != s) {
				t.Fatalf("%v after %v, changed: %v", s, was, changed)
			}
			if rapid.Bool().Draw(t, "look") {
				kept.Hosts(vm, home) // what is remembered must be forgotten
			}
		}

		var scratch federation.Exports
		for d, s := range model {
			scratch.Set(d, s.name, s.namespace)
		}
		hosts := kept.Hosts(vm, home)
		if !slices.Equal(hosts, scratch.Hosts(vm, home)) {
			t.Fatalf("kept %v, from scratch %v", hosts, scratch.Hosts(vm, home))
		}
		digest := kept.Digest()
		if keys := slices.Collect(maps.Keys(model)); digest != scratch.Digest() || digest != federation.DigestOf(keys) {
			t.Fatalf("digests %s, %s, %s", digest, scratch.Digest(), federation.DigestOf(keys))
		}

		if !slices.IsSorted(hosts) || len(slices.Compact(slices.Clone(hosts))) != len(hosts) {
			t.Fatalf("not sorted, or not unique: %v", hosts)
		}
		admits := func(host string) bool {
			return slices.ContainsFunc(hosts, func(h string) bool {
				suffix, wild := strings.CutPrefix(h, "*")
				return h == host || wild && strings.HasSuffix(host, suffix)
			})
		}
		for _, s := range model {
			if !admits(s.name + "." + s.namespace + ".svc.cluster.local") {
				t.Fatalf("%v is not admitted by %v", s, hosts)
			}
		}
		for _, h := range hosts {
			if h == "*" || strings.Contains(h, "/") || strings.Count(h, ".") < 3 {
				t.Fatalf("%s admits more than a namespace", h)
			}
			namespace, wild := strings.CutPrefix(strings.TrimSuffix(h, ".svc.cluster.local"), "*.")
			if !wild {
				continue
			}
			future := destination(home, called(rapid.StringMatching(`[a-z]{1,8}`).Draw(t, "future"), namespace), func(d *v1alpha1.Destination) {
				d.Spec.KubeService.Labels = labels.Draw(t, "its labels")
			})
			if got, fs := federation.Federate(vm, home, future); got == nil {
				t.Fatalf("%s admits %s, which is not federated: %v", h, future.Name, fs)
			}
			if admits("istio-eastwestgateway.istio-gateways.svc.cluster.local") {
				t.Fatalf("a gateway admits itself: %v", hosts)
			}
		}
	})
}

func TestDigest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfDistinct(rapid.String(), rapid.ID[string]).Draw(t, "names")
		other := rapid.SliceOfDistinct(rapid.String(), rapid.ID[string]).Draw(t, "other")
		if federation.DigestOf(names) != federation.DigestOf(rapid.Permutation(names).Draw(t, "permutation")) {
			t.Fatal("the order counts")
		}
		same := slices.Equal(slices.Sorted(slices.Values(names)), slices.Sorted(slices.Values(other)))
		if (federation.DigestOf(names) == federation.DigestOf(other)) != same {
			t.Fatalf("%q and %q: %s, %s", names, other, federation.DigestOf(names), federation.DigestOf(other))
		}
	})
	if a, b := federation.DigestOf(nil), federation.DigestOf([]string{}); a != b || a == "" {
		t.Errorf("%q, %q", a, b)
	}
}
