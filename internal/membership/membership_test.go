package membership_test

import (
	"cmp"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

func mesh(name, namespace string) v1alpha1.Mesh {
	return v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
}

func TestOf(t *testing.T) {
	vm := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Name: "all", Namespace: "isthmus-system", Generation: 7}}
	vm.Spec.Meshes = []v1alpha1.ObjectRef{{Name: "c", Namespace: "isthmus-c"}}
	meshes := []v1alpha1.Mesh{mesh("a", "isthmus-a"), mesh("b", "isthmus-b"), mesh("c", "isthmus-c"), mesh("a", "isthmus-b")}
	if got := membership.Of(vm, meshes); got != nil {
		t.Fatalf("nothing was accepted, and in force is %+v", got)
	}
	accepted := v1alpha1.VirtualMeshSpec{Meshes: []v1alpha1.ObjectRef{
		{Name: "a", Namespace: "isthmus-a"}, {Name: "b", Namespace: "isthmus-b"}, {Name: "gone", Namespace: "isthmus-gone"},
	}}
	vm.Status.Accepted = &v1alpha1.AcceptedVirtualMesh{Generation: 5, Spec: accepted}
	got := membership.Of(vm, meshes)
	if got.Name != "all.isthmus-system" || got.Generation != 5 || got.Spec != &vm.Status.Accepted.Spec {
		t.Errorf("not what was accepted: %+v", got)
	}
	if len(got.Members) != 2 || got.Members[0] != &meshes[0] || got.Members[1] != &meshes[1] {
		t.Errorf("members %v", got.Members)
	}
	for i, want := range []bool{true, true, false, false} {
		if got.Lists(&meshes[i]) != want {
			t.Errorf("%s is listed: %v", membership.MeshKey(&meshes[i]), !want)
		}
	}
}

// TestTrustDomains: others go by that with which a mesh was accepted.
func TestTrustDomains(t *testing.T) {
	vm := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Name: "all", Namespace: "isthmus-system"}}
	refs := map[string]v1alpha1.ObjectRef{}
	var meshes []v1alpha1.Mesh
	accepted := &v1alpha1.AcceptedVirtualMesh{}
	for _, name := range []string{"honest", "liar", "unknown", "stranger"} {
		refs[name] = v1alpha1.ObjectRef{Name: name, Namespace: "isthmus-" + name}
		meshes = append(meshes, mesh(name, "isthmus-"+name))
		meshes[len(meshes)-1].Spec.Istio.TrustDomain = cmp.Or(map[string]string{"liar": "honest"}[name], name) + ".example"
		if name != "stranger" {
			accepted.Spec.Meshes = append(accepted.Spec.Meshes, refs[name])
		}
	}
	vm.Status.Accepted = accepted
	check := func(want map[string]string) {
		t.Helper()
		got := membership.Of(vm, meshes)
		for name, td := range want {
			if is := got.TrustDomain(refs[name]); is != td {
				t.Errorf("%s has %q, want %q", name, is, td)
			}
		}
		for _, m := range got.Members {
			if m.Spec.Istio.TrustDomain != want[m.Name] {
				t.Errorf("member %s has %q, want %q", m.Name, m.Spec.Istio.TrustDomain, want[m.Name])
			}
		}
		if is := got.AsAccepted(&meshes[3]); is != &meshes[3] {
			t.Errorf("the stranger is taken for %+v", is)
		}
	}
	// A hub that does not say yet, or had nothing reported.
	check(map[string]string{"honest": "honest.example", "liar": "honest.example", "unknown": "unknown.example", "stranger": ""})
	for _, name := range []string{"honest", "liar", "gone"} {
		accepted.TrustDomains = append(accepted.TrustDomains, v1alpha1.AcceptedTrustDomain{Name: name, Namespace: "isthmus-" + name, TrustDomain: name + ".example"})
	}
	refs["gone"] = v1alpha1.ObjectRef{Name: "gone", Namespace: "isthmus-gone"}
	accepted.Spec.Meshes = append(accepted.Spec.Meshes, refs["gone"])
	check(map[string]string{"honest": "honest.example", "liar": "liar.example", "unknown": "", "gone": "gone.example", "stranger": ""})
	if meshes[1].Spec.Istio.TrustDomain != "honest.example" {
		t.Error("the report was changed")
	}
}

func TestCluster(t *testing.T) {
	for namespace, want := range map[string]string{
		"isthmus-east": "east", "isthmus-isthmus-x": "isthmus-x", "isthmus-systems": "systems", "isthmus-system": "", "isthmus-agent": "", "isthmus-": "", "isthmus": "",
		"default": "", "xisthmus-east": "", "": "",
	} {
		if got := membership.Cluster(namespace); got != want {
			t.Errorf("%q: %q, want %q", namespace, got, want)
		}
	}
}

func TestMeshKey(t *testing.T) {
	m := mesh("istiod-istio-system-east", "isthmus-east")
	if got := membership.MeshKey(&m); got != "istiod-istio-system-east.isthmus-east" {
		t.Error(got)
	}
}

func matcher(m v1alpha1.KubeServiceMatcher) v1alpha1.DestinationSelector {
	return v1alpha1.DestinationSelector{KubeServiceMatcher: &m}
}

func refs(refs ...v1alpha1.ClusterObjectRef) v1alpha1.DestinationSelector {
	return v1alpha1.DestinationSelector{KubeServiceRefs: &v1alpha1.KubeServiceRefs{Services: refs}}
}

func TestSelects(t *testing.T) {
	d := &v1alpha1.Destination{ObjectMeta: metav1.ObjectMeta{Name: "reviews.shop", Namespace: "isthmus-east", Labels: map[string]string{"own": "no"}}}
	d.Spec.Cluster = "west" // as a hostile agent would say
	d.Spec.KubeService = v1alpha1.KubeService{Name: "reviews", Namespace: "shop", Labels: map[string]string{"app": "reviews", "tier": "1", "empty": ""}}
	list := func(s ...v1alpha1.DestinationSelector) []v1alpha1.DestinationSelector { return s }
	for name, tc := range map[string]struct {
		selectors     []v1alpha1.DestinationSelector
		it, namespace bool
	}{
		"none":                         {nil, true, true},
		"an empty one":                 {list(v1alpha1.DestinationSelector{}), true, true},
		"an empty matcher":             {list(matcher(v1alpha1.KubeServiceMatcher{})), true, true},
		"a label":                      {list(matcher(v1alpha1.KubeServiceMatcher{Labels: map[string]string{"app": "reviews"}})), true, false},
		"labels":                       {list(matcher(v1alpha1.KubeServiceMatcher{Labels: map[string]string{"app": "reviews", "tier": "1"}})), true, false},
		"an empty label":               {list(matcher(v1alpha1.KubeServiceMatcher{Labels: map[string]string{"empty": ""}})), true, false},
		"an empty label that it lacks": {list(matcher(v1alpha1.KubeServiceMatcher{Labels: map[string]string{"absent": ""}})), false, false},
		"one label of two":             {list(matcher(v1alpha1.KubeServiceMatcher{Labels: map[string]string{"app": "reviews", "tier": "2"}})), false, false},
		"a label of the object":        {list(matcher(v1alpha1.KubeServiceMatcher{Labels: map[string]string{"own": "no"}})), false, false},
		"a namespace":                  {list(matcher(v1alpha1.KubeServiceMatcher{Namespaces: []string{"x", "shop"}})), true, true},
		"another namespace":            {list(matcher(v1alpha1.KubeServiceMatcher{Namespaces: []string{"x"}})), false, false},
		"a namespace and a label":      {list(matcher(v1alpha1.KubeServiceMatcher{Namespaces: []string{"shop"}, Labels: map[string]string{"app": "reviews"}})), true, false},
		"its cluster":                  {list(matcher(v1alpha1.KubeServiceMatcher{Clusters: []string{"north", "east"}})), true, true},
		"the cluster that it says":     {list(matcher(v1alpha1.KubeServiceMatcher{Clusters: []string{"west"}})), false, false},
		"its name":                     {list(refs(v1alpha1.ClusterObjectRef{Name: "reviews", Namespace: "shop"})), true, false},
		"its name in its cluster":      {list(refs(v1alpha1.ClusterObjectRef{Name: "reviews", Namespace: "shop", ClusterName: "east"})), true, false},
		"its name elsewhere":           {list(refs(v1alpha1.ClusterObjectRef{Name: "reviews", Namespace: "shop", ClusterName: "west"})), false, false},
		"another namespace's":          {list(refs(v1alpha1.ClusterObjectRef{Name: "reviews", Namespace: "x"})), false, false},
		"another name":                 {list(refs(v1alpha1.ClusterObjectRef{Name: "x", Namespace: "shop"})), false, false},
		"no names":                     {list(refs()), false, false},
		"one of several":               {list(refs(v1alpha1.ClusterObjectRef{Name: "x", Namespace: "shop"}), matcher(v1alpha1.KubeServiceMatcher{Namespaces: []string{"x"}}), matcher(v1alpha1.KubeServiceMatcher{})), true, true},
		"a matcher or a name, by name": {list(v1alpha1.DestinationSelector{KubeServiceMatcher: &v1alpha1.KubeServiceMatcher{Namespaces: []string{"x"}},
			KubeServiceRefs: refs(v1alpha1.ClusterObjectRef{Name: "reviews", Namespace: "shop"}).KubeServiceRefs}), true, false},
		"a matcher or a name, by matcher": {list(v1alpha1.DestinationSelector{KubeServiceMatcher: &v1alpha1.KubeServiceMatcher{Namespaces: []string{"shop"}},
			KubeServiceRefs: refs(v1alpha1.ClusterObjectRef{Name: "x", Namespace: "shop"}).KubeServiceRefs}), true, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := membership.Selects(tc.selectors, d); got != tc.it {
				t.Errorf("selected: %v", got)
			}
			if got := membership.SelectsService(tc.selectors, "east", "reviews", "shop", d.Spec.KubeService.Labels); got != tc.it {
				t.Errorf("selected as a Service: %v", got)
			}
			if got := membership.SelectsNamespace(tc.selectors, "east", "shop"); got != tc.namespace {
				t.Errorf("the namespace is selected: %v", got)
			}
		})
	}
}

var (
	clusters   = rapid.SampledFrom([]string{"east", "west"})
	names      = rapid.SampledFrom([]string{"a", "b"})
	namespaces = rapid.SampledFrom([]string{"x", "y"})
	labels     = rapid.MapOfN(rapid.SampledFrom([]string{"app", "tier"}), rapid.SampledFrom([]string{"", "1"}), 0, 2)
)

var selector = rapid.Custom(func(t *rapid.T) (s v1alpha1.DestinationSelector) {
	if rapid.Bool().Draw(t, "matcher") {
		s.KubeServiceMatcher = &v1alpha1.KubeServiceMatcher{
			Labels: labels.Draw(t, "labels"), Namespaces: rapid.SliceOfN(namespaces, 0, 2).Draw(t, "namespaces"), Clusters: rapid.SliceOfN(clusters, 0, 2).Draw(t, "clusters"),
		}
	}
	if rapid.Bool().Draw(t, "refs") {
		ref := rapid.Custom(func(t *rapid.T) v1alpha1.ClusterObjectRef {
			return v1alpha1.ClusterObjectRef{Name: names.Draw(t, "name"), Namespace: namespaces.Draw(t, "namespace"), ClusterName: rapid.OneOf(rapid.Just(""), clusters).Draw(t, "cluster")}
		})
		s.KubeServiceRefs = &v1alpha1.KubeServiceRefs{Services: rapid.SliceOfN(ref, 1, 2).Draw(t, "services")}
	}
	return s
})

func TestSelectorsProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		selectors := rapid.SliceOfN(selector, 0, 3).Draw(t, "selectors")
		cluster, name, namespace, l := clusters.Draw(t, "cluster"), names.Draw(t, "name"), namespaces.Draw(t, "namespace"), labels.Draw(t, "labels")
		selected := membership.SelectsService(selectors, cluster, name, namespace, l)

		d := &v1alpha1.Destination{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-" + cluster, Labels: labels.Draw(t, "labels of the object")}}
		d.Spec.Cluster, d.Spec.Mesh = clusters.Draw(t, "what it says"), "any"
		d.Spec.KubeService = v1alpha1.KubeService{Name: name, Namespace: namespace, Labels: l}
		if membership.Selects(selectors, d) != selected {
			t.Fatalf("as a Destination: %v, as a Service: %v", !selected, selected)
		}
		if len(selectors) == 0 && !selected {
			t.Fatal("no selectors select everything")
		}
		// Selectors add up.
		one := slices.ContainsFunc(selectors, func(s v1alpha1.DestinationSelector) bool {
			return membership.SelectsService([]v1alpha1.DestinationSelector{s}, cluster, name, namespace, l)
		})
		if len(selectors) > 0 && one != selected {
			t.Fatalf("one does: %v, all do: %v", one, selected)
		}
		// A namespace is selected if whatever it may have is.
		if membership.SelectsNamespace(selectors, cluster, namespace) {
			other := rapid.String().Draw(t, "another name")
			theirs := rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "any labels")
			if !selected || !membership.SelectsService(selectors, cluster, other, namespace, theirs) {
				t.Fatalf("a service %q with labels %v is not selected", other, theirs)
			}
		} else if len(selectors) == 1 && membership.SelectsService(selectors, cluster, "another", namespace, nil) {
			t.Fatal("a service is selected without name and labels, and its namespace is not")
		}
	})
}
