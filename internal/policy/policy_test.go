package policy_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	securityapi "istio.io/api/security/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/policy"
)

const hub = "isthmus-system"

func mesh(cluster, trustDomain string, aliases ...string) *v1alpha1.Mesh {
	m := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Name: "istiod-istio-system-" + cluster, Namespace: "isthmus-" + cluster}}
	m.Spec.Istio = v1alpha1.IstioMesh{RootNamespace: "istio-system", TrustDomain: trustDomain, TrustDomainAliases: aliases}
	return m
}

func virtualMesh(members ...*v1alpha1.Mesh) *membership.VirtualMesh {
	vm := &membership.VirtualMesh{Name: "all." + hub, Generation: 1, Spec: &v1alpha1.VirtualMeshSpec{}, Members: members}
	for _, m := range members {
		vm.Spec.Meshes = append(vm.Spec.Meshes, v1alpha1.ObjectRef{Name: m.Name, Namespace: m.Namespace})
	}
	return vm
}

func destination(cluster, service string) *v1alpha1.Destination {
	d := &v1alpha1.Destination{ObjectMeta: metav1.ObjectMeta{Name: service + ".shop", Namespace: "isthmus-" + cluster}}
	d.Spec.KubeService = v1alpha1.KubeService{Name: service, Namespace: "shop", Selector: map[string]string{"app": service}}
	return d
}

func accepted(name string, spec v1alpha1.AccessPolicySpec) policy.Accepted {
	return policy.Accepted{Name: name + "." + hub, Spec: &spec}
}

func from(selectors ...v1alpha1.IdentitySelector) v1alpha1.AccessPolicySpec {
	return v1alpha1.AccessPolicySpec{SourceSelector: selectors}
}

func identities(namespaces, clusters []string) v1alpha1.IdentitySelector {
	return v1alpha1.IdentitySelector{KubeIdentityMatcher: &v1alpha1.KubeIdentityMatcher{Namespaces: namespaces, Clusters: clusters}}
}

// accounts are "<namespace>/<name>" or "<namespace>/<name>@<cluster>".
func accounts(refs ...string) v1alpha1.IdentitySelector {
	s := v1alpha1.IdentitySelector{KubeServiceAccountRefs: &v1alpha1.KubeServiceAccountRefs{}}
	for _, r := range refs {
		id, cluster, _ := strings.Cut(r, "@")
		namespace, name, _ := strings.Cut(id, "/")
		s.KubeServiceAccountRefs.ServiceAccounts = append(s.KubeServiceAccountRefs.ServiceAccounts,
			v1alpha1.ClusterObjectRef{Name: name, Namespace: namespace, ClusterName: cluster})
	}
	return s
}

func tokens(principals, not []string) v1alpha1.IdentitySelector {
	return v1alpha1.IdentitySelector{RequestIdentityMatcher: &v1alpha1.RequestIdentityMatcher{RequestPrincipals: principals, NotRequestPrincipals: not}}
}

// both are the criteria of two selectors in one.
func both(a, b v1alpha1.IdentitySelector) v1alpha1.IdentitySelector {
	for _, f := range []struct{ to, from any }{
		{&a.KubeIdentityMatcher, b.KubeIdentityMatcher}, {&a.KubeServiceAccountRefs, b.KubeServiceAccountRefs},
		{&a.RequestIdentityMatcher, b.RequestIdentityMatcher},
	} {
		if to := reflect.ValueOf(f.to).Elem(); to.IsNil() {
			to.Set(reflect.ValueOf(f.from))
		}
	}
	return a
}

func TestRules(t *testing.T) {
	// east and west have trust domains of their own, north and south share one.
	vm := virtualMesh(mesh("east", "east.example", "west.example", "cluster.local"), mesh("west", "west.example"),
		mesh("north", "cluster.local"), mesh("south", "cluster.local"))
	const everywhere = `"when": [{"key": "source.principal", "values": ["cluster.local/*", "east.example/*", "west.example/*"]}]`
	anywhere := func(account string) string {
		var out []string
		for _, td := range []string{"cluster.local", "east.example", "west.example"} {
			out = append(out, strconv.Quote(td+account))
		}
		return strings.Join(out, ",")
	}
	for name, tc := range map[string]struct {
		spec  v1alpha1.AccessPolicySpec
		rules string
	}{
		"anyone":      {from(), `[{}]`},
		"an identity": {from(identities(nil, nil)), `[{"from": [{"source": {"principals": ["*"]}}]}]`},
		"namespaces":  {from(identities([]string{"a", "b"}, nil)), `[{"from": [{"source": {"namespaces": ["a", "b"]}}]}]`},
		"clusters":    {from(identities(nil, []string{"west", "east"})), `[{"from": [{"source": {"principals": ["east.example/*", "west.example/*"]}}]}]`},
		"namespaces of clusters": {from(identities([]string{"a", "b"}, []string{"east"})),
			`[{"from": [{"source": {"principals": ["east.example/ns/a/*", "east.example/ns/b/*"]}}]}]`},
		"clusters that share a trust domain": {from(identities(nil, []string{"south", "north"})), `[{"from": [{"source": {"principals": ["cluster.local/*"]}}]}]`},
		"a cluster that is no member":        {from(identities(nil, []string{"east", "elsewhere"})), `[{"from": [{"source": {"principals": ["east.example/*"]}}]}]`},
		"a service account": {from(accounts("a/x")),
			`[{"from": [{"source": {"principals": [` + anywhere("/ns/a/sa/x") + `]}}], ` + everywhere + `}]`},
		"a service account of a cluster": {from(accounts("a/x@east")),
			`[{"from": [{"source": {"principals": ["east.example/ns/a/sa/x"]}}], "when": [{"key": "source.principal", "values": ["east.example/*"]}]}]`},
		"a service account of clusters that share a trust domain": {from(accounts("a/x@north", "a/x@south")),
			`[{"from": [{"source": {"principals": ["cluster.local/ns/a/sa/x"]}}], "when": [{"key": "source.principal", "values": ["cluster.local/*"]}]}]`},
		"everywhere after all": {from(accounts("a/x@north", "a/x", "a/x@east")),
			`[{"from": [{"source": {"principals": [` + anywhere("/ns/a/sa/x") + `]}}], ` + everywhere + `}]`},
		"service accounts of different clusters": {from(accounts("a/x@east", "a/y@west", "b/z@east")), `[
			{"from": [{"source": {"principals": ["east.example/ns/a/sa/x", "east.example/ns/b/sa/z"]}}], "when": [{"key": "source.principal", "values": ["east.example/*"]}]},
			{"from": [{"source": {"principals": ["west.example/ns/a/sa/y"]}}], "when": [{"key": "source.principal", "values": ["west.example/*"]}]}]`},
		"tokens":                               {from(tokens([]string{"i/s"}, []string{"i/t"})), `[{"from": [{"source": {"requestPrincipals": ["i/s"], "notRequestPrincipals": ["i/t"]}}]}]`},
		"any token":                            {from(tokens(nil, nil)), `[{"from": [{"source": {"requestPrincipals": ["*"]}}]}]`},
		"several add, those with tokens apart": {from(tokens([]string{"i/s"}, nil), identities([]string{"a"}, nil)), `[{"from": [{"source": {"namespaces": ["a"]}}]}, {"from": [{"source": {"requestPrincipals": ["i/s"]}}]}]`},
		"several add, accounts last": {from(accounts("a/x@east"), identities([]string{"a"}, nil)), `[
			{"from": [{"source": {"namespaces": ["a"]}}]},
			{"from": [{"source": {"principals": ["east.example/ns/a/sa/x"]}}], "when": [{"key": "source.principal", "values": ["east.example/*"]}]}]`},
		"namespaces and tokens": {from(both(identities([]string{"a"}, nil), tokens([]string{"i/s"}, nil))),
			`[{"from": [{"source": {"namespaces": ["a"], "requestPrincipals": ["i/s"]}}]}]`},
		"accounts within namespaces": {from(both(accounts("a/x@east", "b/x@east"), identities([]string{"b"}, nil))),
			`[{"from": [{"source": {"principals": ["east.example/ns/b/sa/x"]}}], "when": [{"key": "source.principal", "values": ["east.example/*"]}]}]`},
		"accounts within clusters": {from(both(accounts("a/x", "b/x@west"), identities(nil, []string{"east"}))),
			`[{"from": [{"source": {"principals": ["east.example/ns/a/sa/x"]}}], "when": [{"key": "source.principal", "values": ["east.example/*"]}]}]`},
		"accounts and tokens": {from(both(accounts("a/x@east"), tokens(nil, []string{"i/s"}))),
			`[{"from": [{"source": {"principals": ["east.example/ns/a/sa/x"], "notRequestPrincipals": ["i/s"]}}], "when": [{"key": "source.principal", "values": ["east.example/*"]}]}]`},
		"contradiction": {from(both(accounts("a/x"), identities([]string{"b"}, nil))), `null`},
		"operations": {v1alpha1.AccessPolicySpec{AllowedPaths: []string{"/a", "/b/*"}, AllowedMethods: []string{"GET"}, AllowedPorts: []int32{80, 9080}},
			`[{"to": [{"operation": {"paths": ["/a", "/b/*"], "methods": ["GET"], "ports": ["80", "9080"]}}]}]`},
		"of identities": {v1alpha1.AccessPolicySpec{SourceSelector: []v1alpha1.IdentitySelector{identities(nil, nil), accounts("a/x@east")}, AllowedPorts: []int32{80}}, `[
			{"from": [{"source": {"principals": ["*"]}}], "to": [{"operation": {"ports": ["80"]}}]},
			{"from": [{"source": {"principals": ["east.example/ns/a/sa/x"]}}], "to": [{"operation": {"ports": ["80"]}}], "when": [{"key": "source.principal", "values": ["east.example/*"]}]}]`},
	} {
		t.Run(name, func(t *testing.T) {
			got, verdicts := policy.For(vm, vm.Members[0], destination("east", "reviews"), []policy.Accepted{accepted("p", tc.spec)}, false)
			if len(verdicts) != 1 || verdicts[0].Policy != "p."+hub || len(verdicts[0].Errors) > 0 {
				t.Fatalf("verdicts %+v", verdicts)
			}
			if got.Name != "isthmus-reviews" || got.Namespace != "shop" || got.Kind != "AuthorizationPolicy" || got.Spec.Selector.MatchLabels["app"] != "reviews" ||
				got.Annotations[v1alpha1.AnnotationDestination] != "isthmus-east/reviews.shop" {
				t.Errorf("made %+v", got)
			}
			same(t, got.Spec.Rules, tc.rules)
		})
	}
}

// same wants rules as JSON.
func same(t *testing.T, got []*securityapi.Rule, want string) {
	t.Helper()
	b, err := (&securityapi.AuthorizationPolicy{Rules: got}).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var g, w struct{ Rules []any }
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(`{"rules": `+want+`}`), &w); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(g, w) {
		t.Errorf("rules %s, want %s", b, want)
	}
}

func TestNotEnforceable(t *testing.T) {
	east, north := mesh("east", "east.example"), mesh("north", "cluster.local")
	vm := virtualMesh(east, north, mesh("south", "cluster.local"))
	unknown := virtualMesh(east, north)
	unknown.Spec.Meshes = append(unknown.Spec.Meshes, v1alpha1.ObjectRef{Name: "m", Namespace: "isthmus-dark"})
	for name, tc := range map[string]struct {
		vm                  *membership.VirtualMesh
		spec                v1alpha1.AccessPolicySpec
		field, reason, says string
	}{
		"a cluster of a shared trust domain": {vm, from(identities(nil, nil), identities(nil, []string{"east", "north"})),
			"spec.sourceSelector[1].kubeIdentityMatcher.clusters", policy.ReasonNotTellable, "identities do not tell east, north from south"},
		"an account of a cluster of a shared trust domain": {vm, from(accounts("a/x@north")),
			"spec.sourceSelector[0].kubeServiceAccountRefs.serviceAccounts", policy.ReasonNotTellable, "cluster.local"},
		"accounts within such a cluster": {vm, from(both(accounts("a/x@north", "a/x@south"), identities(nil, []string{"north"}))),
			"spec.sourceSelector[0].kubeIdentityMatcher.clusters", policy.ReasonNotTellable, "do not tell north from south"},
		"an unknown member may share it": {unknown, from(identities(nil, []string{"east"})),
			"spec.sourceSelector[0].kubeIdentityMatcher.clusters", policy.ReasonMeshNotReported, "isthmus-dark/m"},
		"an unknown member": {unknown, from(identities(nil, []string{"dark"})),
			"spec.sourceSelector[0].kubeIdentityMatcher.clusters", policy.ReasonMeshNotReported, "dark"},
		"a wildcard as namespace": {vm, from(identities([]string{"a", "*"}, nil)),
			"spec.sourceSelector[0].kubeIdentityMatcher.namespaces[1]", v1alpha1.ReasonInvalid, `"*"`},
		"a wildcard as account": {vm, from(accounts("a/x*")),
			"spec.sourceSelector[0].kubeServiceAccountRefs.serviceAccounts[0]", v1alpha1.ReasonInvalid, `"x*"`},
		"no criterion": {vm, from(v1alpha1.IdentitySelector{}), "spec.sourceSelector[0]", v1alpha1.ReasonInvalid, "kubeIdentityMatcher"},
	} {
		t.Run(name, func(t *testing.T) {
			got, verdicts := policy.For(tc.vm, east, destination("east", "reviews"), []policy.Accepted{accepted("p", tc.spec)}, false)
			if got == nil || len(got.Spec.Rules) > 0 || got.Spec.Action != securityapi.AuthorizationPolicy_ALLOW {
				t.Fatalf("it must deny everything: %+v", got)
			}
			if (server{trustDomains: []string{"east.example"}}).allows(t, []*securityv1.AuthorizationPolicy{got}, request{principal: "east.example/ns/a/sa/x", http: true}) {
				t.Error("it allows")
			}
			if fs := verdicts[0].Errors; len(fs) != 1 || fs[0].Field != tc.field || fs[0].Reason != tc.reason || !strings.Contains(fs[0].Message, tc.says) {
				t.Errorf("found %v (%+v)", fs, fs)
			}
		})
	}
}

func TestSeveralPolicies(t *testing.T) {
	east, north := mesh("east", "cluster.local"), mesh("north", "cluster.local")
	vm := virtualMesh(east, north)
	elsewhere := from()
	elsewhere.DestinationSelector = []v1alpha1.DestinationSelector{{KubeServiceMatcher: &v1alpha1.KubeServiceMatcher{Namespaces: []string{"other"}}}}
	policies := []policy.Accepted{
		accepted("two", from(identities([]string{"b"}, nil))), accepted("elsewhere", elsewhere),
		accepted("rejected", from(identities([]string{"c"}, nil), identities(nil, []string{"east"}))), accepted("one", from(identities([]string{"a"}, nil))),
	}
	got, verdicts := policy.For(vm, east, destination("east", "reviews"), policies, false)
	same(t, got.Spec.Rules, `[{"from": [{"source": {"namespaces": ["b"]}}]}, {"from": [{"source": {"namespaces": ["a"]}}]}]`)
	var names []string
	for _, v := range verdicts {
		names = append(names, v.Policy)
		if rejected := v.Policy == "rejected."+hub; rejected != (len(v.Errors) > 0) {
			t.Errorf("verdict %+v", v)
		}
	}
	if !slices.Equal(names, []string{"two." + hub, "rejected." + hub, "one." + hub}) {
		t.Errorf("verdicts on %v", names)
	}
	if got, verdicts := policy.For(vm, east, destination("east", "reviews"), policies[1:2], false); got != nil || verdicts != nil {
		t.Errorf("selected by none: %v, %v", got, verdicts)
	}
}

func TestServiceWithoutSelector(t *testing.T) {
	east := mesh("east", "cluster.local")
	d := destination("east", "external")
	d.Spec.KubeService.Selector = nil
	got, verdicts := policy.For(virtualMesh(east), east, d, []policy.Accepted{accepted("p", from())}, false)
	if got != nil {
		t.Errorf("without a selector it would be about the whole namespace: %+v", got)
	}
	if len(verdicts) != 1 || len(verdicts[0].Errors) != 1 || verdicts[0].Errors[0].Reason != policy.ReasonServiceWithoutSelector {
		t.Errorf("verdicts %+v", verdicts)
	}
}

func TestNames(t *testing.T) {
	east := mesh("east", "a.example")
	vm := virtualMesh(east, mesh("west", "b.example"))
	vm.Spec.GlobalAccessPolicy = v1alpha1.GlobalAccessPolicyEnabled
	long := strings.Repeat("a", 63)
	taken := map[string]string{}
	take := func(what string, p *securityv1.AuthorizationPolicy) {
		if other := taken[p.Name]; other != "" || len(p.Name) > 63 {
			t.Errorf("%s has the name %s of %s", what, p.Name, other)
		}
		taken[p.Name] = what
	}
	for _, service := range []string{"reviews", "global-access", "federation-reviews", "gateway-x", "gateway", "gateway-x.daemonset", long, long[:62] + "b", "federation-" + long[:52]} {
		d := destination("east", service)
		p, _ := policy.For(vm, east, d, []policy.Accepted{accepted("p", from())}, false)
		take(service, p)
		p, _ = policy.ClientMeshes(vm, east, d, &v1alpha1.AppliedFederation{})
		take(service+", federated", p)
	}
	for _, c := range []v1alpha1.ControllerRef{{Kind: "Deployment", Name: "x"}, {Kind: "DaemonSet", Name: "x"}, {Kind: "Deployment", Name: long}, {Kind: "Deployment", Name: "reviews"}} {
		take(c.Kind+" "+c.Name, policy.GatewayAllowance(vm, &v1alpha1.WorkloadSpec{Controller: c, PodLabels: map[string]string{"a": "b"}}))
	}
	take("denial", policy.GlobalDenial(vm, east))
	if taken["isthmus-reviews"] != "reviews" || taken["isthmus-federation-reviews"] != "reviews, federated" || taken["isthmus-gateway-x"] != "Deployment x" {
		t.Errorf("%v", taken)
	}
}

func TestGlobal(t *testing.T) {
	m := mesh("east", "cluster.local")
	m.Spec.Istio.RootNamespace = "root"
	vm := virtualMesh(m)
	gateway := &v1alpha1.WorkloadSpec{
		Controller:  v1alpha1.ControllerRef{Kind: "Deployment", Name: "eastwest", Namespace: "gateways"},
		PodSelector: map[string]string{"istio": "eastwestgateway"}, PodLabels: map[string]string{"istio": "eastwestgateway", "version": "7"},
	}
	for _, p := range []v1alpha1.GlobalAccessPolicy{"", v1alpha1.GlobalAccessPolicyMeshDefault, v1alpha1.GlobalAccessPolicyDisabled} {
		vm.Spec.GlobalAccessPolicy = p
		if policy.GlobalDenial(vm, m) != nil || policy.GatewayAllowance(vm, gateway) != nil {
			t.Errorf("%q denies", p)
		}
	}
	vm.Spec.GlobalAccessPolicy = v1alpha1.GlobalAccessPolicyEnabled
	denial, allowance := policy.GlobalDenial(vm, m), policy.GatewayAllowance(vm, gateway)
	if denial.Name != "isthmus-global-access" || denial.Namespace != "root" || denial.Spec.Selector != nil {
		t.Errorf("denial %+v", denial)
	}
	if allowance.Name != "isthmus-gateway-eastwest" || allowance.Namespace != "gateways" || !reflect.DeepEqual(allowance.Spec.Selector.MatchLabels, gateway.PodSelector) {
		t.Errorf("allowance %+v", allowance)
	}
	anyone := request{principal: "cluster.local/ns/a/sa/x", http: true}
	for name, tc := range map[string]struct {
		policies []*securityv1.AuthorizationPolicy
		allowed  bool
	}{
		"service": {[]*securityv1.AuthorizationPolicy{denial}, false},
		"gateway": {[]*securityv1.AuthorizationPolicy{denial, allowance}, true},
	} {
		if got := (server{trustDomains: []string{"cluster.local"}}).allows(t, tc.policies, anyone); got != tc.allowed {
			t.Errorf("%s: allowed is %v", name, got)
		}
	}
	gateway.PodSelector = nil
	if got := policy.GatewayAllowance(vm, gateway); !reflect.DeepEqual(got.Spec.Selector.MatchLabels, gateway.PodLabels) {
		t.Errorf("allowance %+v", got)
	}
	gateway.PodLabels = nil
	if got := policy.GatewayAllowance(vm, gateway); got != nil {
		t.Errorf("it allows everything in the namespace: %+v", got)
	}
}

func TestPeerAuthentication(t *testing.T) {
	m := mesh("east", "cluster.local")
	vm := virtualMesh(m)
	for _, f := range []*v1alpha1.Federation{nil, {}, {TLSEnforcementSettings: &v1alpha1.TLSEnforcementSettings{}}, {TLSEnforcementSettings: &v1alpha1.TLSEnforcementSettings{EnforcementMode: "UNSET"}}} {
		vm.Spec.Federation = f
		if got := policy.PeerAuthentication(vm, m); got != nil {
			t.Errorf("%+v: %+v", f, got)
		}
	}
	for mode, want := range map[v1alpha1.TLSEnforcementMode]securityapi.PeerAuthentication_MutualTLS_Mode{
		"DISABLE": securityapi.PeerAuthentication_MutualTLS_DISABLE, "PERMISSIVE": securityapi.PeerAuthentication_MutualTLS_PERMISSIVE,
		"STRICT": securityapi.PeerAuthentication_MutualTLS_STRICT,
	} {
		vm.Spec.Federation = &v1alpha1.Federation{TLSEnforcementSettings: &v1alpha1.TLSEnforcementSettings{EnforcementMode: mode}}
		got := policy.PeerAuthentication(vm, m)
		if got.Name != "isthmus" || got.Namespace != "istio-system" || got.Kind != "PeerAuthentication" || got.Spec.Selector != nil || got.Spec.Mtls.Mode != want {
			t.Errorf("%s: %+v", mode, got)
		}
	}
}

func TestClientMeshes(t *testing.T) {
	home := mesh("home", "home.example", "in.example", "out.example", "away.example", "stranger.example")
	key := func(cluster string) string { return "istiod-istio-system-" + cluster + ".isthmus-" + cluster }
	members := []*v1alpha1.Mesh{
		home, mesh("in", "in.example"), mesh("out", "out.example"), mesh("away", "away.example"),
		mesh("twin", "home.example"), mesh("pair", "in.example"), mesh("hostile", "*"),
	}
	vm := virtualMesh(members...)
	d := destination("home", "reviews")
	for name, tc := range map[string]struct {
		to            []string // nil: not federated
		admitted      []string // nil: nobody is kept out
		unenforceable []string
	}{
		"not federated":       {nil, nil, nil},
		"to everyone":         {[]string{"*"}, nil, nil},
		"to one":              {[]string{key("in")}, []string{"home.example", "in.example"}, []string{key("pair"), key("twin")}},
		"to nobody":           {[]string{}, []string{"home.example"}, []string{key("twin")}},
		"to all by name":      {[]string{key("away"), key("hostile"), key("in"), key("out"), key("pair"), key("twin")}, []string{"away.example", "home.example", "in.example", "out.example"}, nil},
		"to all but the twin": {[]string{key("away"), key("hostile"), key("in"), key("out"), key("pair")}, []string{"away.example", "home.example", "in.example", "out.example"}, []string{key("twin")}},
	} {
		t.Run(name, func(t *testing.T) {
			var f *v1alpha1.AppliedFederation
			if tc.to != nil {
				f = &v1alpha1.AppliedFederation{FederatedToMeshes: tc.to}
			}
			got, unenforceable := policy.ClientMeshes(vm, home, d, f)
			if !slices.Equal(unenforceable, tc.unenforceable) {
				t.Errorf("unenforceable %v, want %v", unenforceable, tc.unenforceable)
			}
			if (got == nil) != (tc.admitted == nil) {
				t.Fatalf("made %+v", got)
			}
			if got == nil {
				return
			}
			if got.Name != "isthmus-federation-reviews" || got.Namespace != "shop" || got.Spec.Action != securityapi.AuthorizationPolicy_DENY ||
				got.Annotations[v1alpha1.AnnotationDestination] != "isthmus-home/reviews.shop" || got.Spec.Selector.MatchLabels["app"] != "reviews" {
				t.Errorf("made %+v", got)
			}
			s := server{trustDomains: append([]string{"home.example"}, home.Spec.Istio.TrustDomainAliases...)}
			for _, td := range append([]string{"home.example", "never-heard-of.example", "cluster.local", "home.example.evil"}, home.Spec.Istio.TrustDomainAliases...) {
				for _, http := range []bool{true, false} {
					id := td + "/ns/a/sa/x"
					if let := s.allows(t, []*securityv1.AuthorizationPolicy{got}, request{principal: id, http: http}); let != slices.Contains(tc.admitted, td) {
						t.Errorf("%s is allowed: %v", id, let)
					}
				}
			}
			if !s.allows(t, []*securityv1.AuthorizationPolicy{got}, request{http: true}) {
				t.Error("plain text is denied")
			}
		})
	}
	restricted := &v1alpha1.AppliedFederation{FederatedToMeshes: []string{key("in")}}
	// Where all members have the same trust domain, and the mesh accepts no other, there is nobody to keep out.
	east, west, north := mesh("east", "cluster.local"), mesh("west", "cluster.local"), mesh("north", "cluster.local")
	if got, unenforceable := policy.ClientMeshes(virtualMesh(east, west, north), east, destination("east", "reviews"),
		&v1alpha1.AppliedFederation{FederatedToMeshes: []string{key("west")}}); got != nil || !slices.Equal(unenforceable, []string{key("north")}) {
		t.Errorf("under one trust domain: %+v, %v", got, unenforceable)
	}
	// A mesh that changes its trust domain has workloads of both.
	vm.TrustDomains = map[v1alpha1.ObjectRef]string{{Name: home.Name, Namespace: home.Namespace}: "old.example"}
	if got, _ := policy.ClientMeshes(vm, home, d, restricted); !slices.Equal(got.Spec.Rules[0].From[0].Source.NotPrincipals, []string{"home.example/*", "old.example/*"}) {
		t.Errorf("made %+v", got)
	}
	vm.TrustDomains = nil
	d.Spec.KubeService.Selector = nil
	if got, unenforceable := policy.ClientMeshes(vm, home, d, restricted); got != nil || len(unenforceable) != 5 {
		t.Errorf("without a selector it would be about the whole namespace: %+v, %v", got, unenforceable)
	}
}

// TestAcceptedTrustDomains: what a member reports, or whether it does, changes nothing of what others are allowed and denied.
func TestAcceptedTrustDomains(t *testing.T) {
	east, north := mesh("east", "east.example", "west.example", "north.example"), mesh("north", "north.example")
	d := destination("east", "reviews")
	applied := &v1alpha1.AppliedFederation{FederatedToMeshes: []string{membership.MeshKey(north)}}
	policies := []policy.Accepted{accepted("p", from(identities(nil, []string{"north"}), accounts("a/x@north"), accounts("b/y")))}
	made := func(meshes ...v1alpha1.Mesh) []*securityv1.AuthorizationPolicy {
		t.Helper()
		vm := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Name: "all", Namespace: hub}}
		vm.Status.Accepted = &v1alpha1.AcceptedVirtualMesh{}
		for _, cluster := range []string{"east", "west", "north"} {
			m := mesh(cluster, cluster+".example")
			vm.Status.Accepted.Spec.Meshes = append(vm.Status.Accepted.Spec.Meshes, v1alpha1.ObjectRef{Name: m.Name, Namespace: m.Namespace})
			vm.Status.Accepted.TrustDomains = append(vm.Status.Accepted.TrustDomains,
				v1alpha1.AcceptedTrustDomain{Name: m.Name, Namespace: m.Namespace, TrustDomain: m.Spec.Istio.TrustDomain})
		}
		inForce := membership.Of(vm, append(meshes, *east, *north))
		allow, verdicts := policy.For(inForce, east, d, policies, false)
		deny, unenforceable := policy.ClientMeshes(inForce, east, d, applied)
		if len(verdicts[0].Errors)+len(verdicts[0].Notes)+len(unenforceable) > 0 || deny == nil {
			t.Fatalf("verdicts %v, made %v, unenforceable %v", verdicts, deny, unenforceable)
		}
		return []*securityv1.AuthorizationPolicy{allow, deny}
	}
	want := made(*mesh("west", "west.example"))
	for _, td := range []string{"north.example", "east.example", "cluster.local", "never-heard-of.example", "*"} {
		if got := made(*mesh("west", td)); !reflect.DeepEqual(got, want) {
			t.Errorf("as west reports %q: %v", td, got)
		}
	}
	if got := made(); !reflect.DeepEqual(got, want) {
		t.Errorf("as west is not reported: %v", got)
	}
	// East itself, which is about to change its trust domain, has workloads of both.
	east.Spec.Istio.TrustDomain = "new.example"
	moving := made(*mesh("west", "west.example"))
	for _, principal := range []string{"new.example/ns/b/sa/y", "east.example/ns/b/sa/y"} {
		s := server{trustDomains: []string{"new.example", "east.example", "west.example", "north.example"}}
		if !s.allows(t, moving, request{principal: principal, http: true}) {
			t.Errorf("%s is denied in its own mesh", principal)
		}
	}
	s := server{trustDomains: []string{"east.example", "west.example", "north.example"}}
	for principal, allowed := range map[string]bool{
		"north.example/ns/c/sa/z": true, "east.example/ns/b/sa/y": true, "east.example/ns/c/sa/z": false, "west.example/ns/b/sa/y": false,
		"never-heard-of.example/ns/b/sa/y": false,
	} {
		if let := s.allows(t, want, request{principal: principal, http: true}); let != allowed {
			t.Errorf("%s is allowed: %v", principal, let)
		}
	}
}

// world is a random virtual mesh, and who is in it in truth: a listed mesh need not be reported.
type world struct {
	vm     *membership.VirtualMesh
	home   *v1alpha1.Mesh
	meshes []*v1alpha1.Mesh
}

var (
	domains    = rapid.SampledFrom([]string{"cluster.local", "a.example", "b.example", "c.example"})
	clusters   = rapid.SampledFrom([]string{"c0", "c1", "c2", "c3", "gone"})
	namespaces = rapid.SampledFrom([]string{"n", "m"})
	names      = rapid.SampledFrom([]string{"x", "y"})
	principals = rapid.SampledFrom([]string{"i/s", "i/t", "j/s"})
)

func some[T comparable](t *rapid.T, g *rapid.Generator[T], label string) []T {
	return rapid.SliceOfNDistinct(g, 0, 3, rapid.ID[T]).Draw(t, label)
}

func drawWorld(t *rapid.T) world {
	var w world
	for _, c := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"c0", "c1", "c2", "c3"}), 1, 4, rapid.ID[string]).Draw(t, "clusters") {
		for _, root := range []string{"istio-system", "other"}[:rapid.IntRange(1, 2).Draw(t, "meshes")] {
			m := mesh(c, domains.Draw(t, "trust domain"), some(t, domains, "aliases")...)
			m.Name = root + "-" + c
			w.meshes = append(w.meshes, m)
		}
	}
	w.vm = virtualMesh(w.meshes...)
	if len(w.meshes) > 1 && rapid.Bool().Draw(t, "one is not reported") {
		w.vm.Members = slices.Delete(slices.Clone(w.vm.Members), 0, 1)
	}
	w.home = w.vm.Members[rapid.IntRange(0, len(w.vm.Members)-1).Draw(t, "home")]
	return w
}

func drawSpec(t *rapid.T) (spec v1alpha1.AccessPolicySpec) {
	for range rapid.IntRange(0, 3).Draw(t, "selectors") {
		var s v1alpha1.IdentitySelector
		kinds := rapid.IntRange(1, 7).Draw(t, "criteria")
		if kinds&1 != 0 {
			s.KubeIdentityMatcher = &v1alpha1.KubeIdentityMatcher{Namespaces: some(t, namespaces, "namespaces"), Clusters: some(t, clusters, "of clusters")}
		}
		if kinds&2 != 0 {
			s.KubeServiceAccountRefs = &v1alpha1.KubeServiceAccountRefs{}
			for range rapid.IntRange(1, 4).Draw(t, "accounts") {
				r := v1alpha1.ClusterObjectRef{Name: names.Draw(t, "name"), Namespace: namespaces.Draw(t, "namespace")}
				if rapid.Bool().Draw(t, "in a cluster") {
					r.ClusterName = clusters.Draw(t, "cluster")
				}
				s.KubeServiceAccountRefs.ServiceAccounts = append(s.KubeServiceAccountRefs.ServiceAccounts, r)
			}
		}
		if kinds&4 != 0 {
			s.RequestIdentityMatcher = &v1alpha1.RequestIdentityMatcher{RequestPrincipals: some(t, principals, "tokens"), NotRequestPrincipals: some(t, principals, "not tokens")}
		}
		spec.SourceSelector = append(spec.SourceSelector, s)
	}
	spec.AllowedPaths = some(t, rapid.SampledFrom([]string{"/a", "/b/*", "*.html"}), "paths")
	spec.AllowedMethods = some(t, rapid.SampledFrom([]string{"GET", "POST"}), "methods")
	spec.AllowedPorts = some(t, rapid.SampledFrom([]int32{80, 443}), "ports")
	return spec
}

// caller is a workload of a mesh, or of none.
type caller struct {
	mesh            *v1alpha1.Mesh
	namespace, name string
	request
}

func drawCaller(t *rapid.T, w world) caller {
	c := caller{namespace: namespaces.Draw(t, "namespace"), name: names.Draw(t, "name")}
	td := "foreign.example"
	if rapid.IntRange(0, 9).Draw(t, "whence") > 0 {
		c.mesh = w.meshes[rapid.IntRange(0, len(w.meshes)-1).Draw(t, "mesh")]
		td = c.mesh.Spec.Istio.TrustDomain
	}
	if rapid.IntRange(0, 9).Draw(t, "mTLS") > 0 {
		c.principal = td + "/ns/" + c.namespace + "/sa/" + c.name
	}
	if c.http = rapid.IntRange(0, 9).Draw(t, "HTTP") > 0; c.http {
		c.path = rapid.SampledFrom([]string{"/a", "/b/c", "/x.html", "/"}).Draw(t, "path")
		c.method = rapid.SampledFrom([]string{"GET", "POST", "PUT"}).Draw(t, "method")
		if rapid.Bool().Draw(t, "token") {
			c.issuer, c.subject, _ = strings.Cut(principals.Draw(t, "principal"), "/")
		}
	}
	c.port = rapid.SampledFrom([]string{"80", "443", "8080"}).Draw(t, "port")
	return c
}

// selected is what the API says that a selector means.
func selected(s v1alpha1.IdentitySelector, c caller) bool {
	cluster := ""
	if c.mesh != nil {
		cluster = membership.Cluster(c.mesh.Namespace)
	}
	in := func(list []string, v string) bool { return len(list) == 0 || slices.Contains(list, v) }
	if k := s.KubeIdentityMatcher; k != nil && (c.principal == "" || !in(k.Namespaces, c.namespace) || !in(k.Clusters, cluster)) {
		return false
	}
	if r := s.KubeServiceAccountRefs; r != nil && (c.principal == "" || cluster == "" || !slices.ContainsFunc(r.ServiceAccounts, func(r v1alpha1.ClusterObjectRef) bool {
		return r.Name == c.name && r.Namespace == c.namespace && (r.ClusterName == "" || r.ClusterName == cluster)
	})) {
		return false
	}
	if q := s.RequestIdentityMatcher; q != nil {
		token := c.issuer + "/" + c.subject
		if !c.http || slices.Contains(q.NotRequestPrincipals, token) {
			return false
		}
		if (len(q.RequestPrincipals) > 0 || len(q.NotRequestPrincipals) == 0) && (c.issuer == "" || !in(q.RequestPrincipals, token)) {
			return false
		}
	}
	return true
}

// allowedBy is what the API says that a policy means.
func allowedBy(spec *v1alpha1.AccessPolicySpec, c caller) bool {
	if len(spec.SourceSelector) > 0 && !slices.ContainsFunc(spec.SourceSelector, func(s v1alpha1.IdentitySelector) bool { return selected(s, c) }) {
		return false
	}
	path := func(p string) bool {
		return p == c.path || strings.HasSuffix(p, "*") && strings.HasPrefix(c.path, strings.TrimSuffix(p, "*")) ||
			strings.HasPrefix(p, "*") && strings.HasSuffix(c.path, strings.TrimPrefix(p, "*"))
	}
	port, _ := strconv.Atoi(c.port)
	return (len(spec.AllowedPaths) == 0 || c.http && slices.ContainsFunc(spec.AllowedPaths, path)) &&
		(len(spec.AllowedMethods) == 0 || c.http && slices.Contains(spec.AllowedMethods, c.method)) &&
		(len(spec.AllowedPorts) == 0 || slices.Contains(spec.AllowedPorts, int32(port)))
}

// enforced is the property: whoever Istio lets in is allowed by a policy, and whoever is allowed by a policy that was not
// rejected is let in.
func enforced(t *rapid.T) {
	w := drawWorld(t)
	var policies []policy.Accepted
	for i := range rapid.IntRange(1, 3).Draw(t, "policies") {
		policies = append(policies, accepted("p"+strconv.Itoa(i), drawSpec(t)))
	}
	home := membership.Cluster(w.home.Namespace)
	d := destination(home, "reviews")
	got, verdicts := policy.For(w.vm, w.home, d, policies, false)
	if again, v := policy.For(w.vm, w.home, d, policies, false); !reflect.DeepEqual(again, got) || !reflect.DeepEqual(v, verdicts) {
		t.Fatal("equal input, other output")
	}
	if len(verdicts) != len(policies) {
		t.Fatalf("verdicts %+v", verdicts)
	}
	s := server{trustDomains: append([]string{w.home.Spec.Istio.TrustDomain}, w.home.Spec.Istio.TrustDomainAliases...)}
	for range 20 {
		c := drawCaller(t, w)
		var allowed bool
		for i, p := range policies {
			allowed = allowed || len(verdicts[i].Errors) == 0 && allowedBy(p.Spec, c)
		}
		let := s.allows(t, []*securityv1.AuthorizationPolicy{got}, c.request)
		switch reported := c.mesh == nil || slices.Contains(w.vm.Members, c.mesh); {
		case let && !allowed:
			t.Fatalf("let in: %+v by %v", c, got.Spec.Rules)
		case !let && allowed && reported:
			t.Fatalf("kept out: %+v by %v", c, got.Spec.Rules)
		}
	}
}

func TestEnforced(t *testing.T) { rapid.Check(t, enforced) }

func FuzzEnforced(f *testing.F) { f.Fuzz(rapid.MakeFuzz(enforced)) }

// FuzzNames: no name that anybody chooses lets in somebody of another name.
func FuzzNames(f *testing.F) {
	f.Add("ns", "sa", "east", "a.example")
	f.Add("*", "*", "", "*")
	f.Add("victim/sa/victim", "x", "west", "a.example/ns/victim")
	f.Add("victim", "v*", "east", "spiffe://a.example")
	f.Fuzz(func(t *testing.T, namespace, name, cluster, trustDomain string) {
		east, west := mesh("east", "a.example", "b.example"), mesh("west", trustDomain)
		vm := virtualMesh(east, west)
		accounts := v1alpha1.IdentitySelector{KubeServiceAccountRefs: &v1alpha1.KubeServiceAccountRefs{
			ServiceAccounts: []v1alpha1.ClusterObjectRef{{Namespace: namespace, Name: name, ClusterName: cluster}}}}
		victim := request{principal: "a.example/ns/victim/sa/victim", http: true, path: "/", method: "GET", port: "80"}
		for what, tc := range map[string]struct {
			selector v1alpha1.IdentitySelector
			meant    bool
		}{
			"account":   {accounts, namespace == "victim" && name == "victim" && (cluster == "east" || cluster == "" || cluster == "west" && trustDomain == "a.example")},
			"namespace": {identities([]string{namespace}, nil), namespace == "victim"},
			"in west":   {identities([]string{namespace}, []string{"west"}), false},
			"west":      {identities(nil, []string{"west"}), false},
		} {
			p, _ := policy.For(vm, east, destination("east", "reviews"), []policy.Accepted{accepted("p", from(tc.selector))}, false)
			if (server{trustDomains: []string{"a.example", "b.example"}}).allows(t, []*securityv1.AuthorizationPolicy{p}, victim) && !tc.meant {
				t.Errorf("by %s: namespace %q, account %q, cluster %q, trust domain %q let in %s: %v", what, namespace, name, cluster, trustDomain, victim.principal, p.Spec.Rules)
			}
		}
		p, _ := policy.ClientMeshes(vm, east, destination("east", "reviews"), &v1alpha1.AppliedFederation{})
		if p != nil && !(server{trustDomains: []string{"a.example"}}).allows(t, []*securityv1.AuthorizationPolicy{p}, victim) {
			t.Errorf("trust domain %q keeps out the mesh itself: %v", trustDomain, p.Spec.Rules)
		}
	})
}

// TestLeftOut: a caller whose cluster is no member is left out, and nobody else is the worse for it.
func TestLeftOut(t *testing.T) {
	east := mesh("east", "east.example")
	vm := virtualMesh(east, mesh("west", "west.example"))
	for name, tc := range map[string]struct {
		spec        v1alpha1.AccessPolicySpec
		rules       int
		field, says string
	}{
		"one of two accounts": {from(accounts("a/x@east", "a/y@elsewhere")), 1,
			"spec.sourceSelector[0].kubeServiceAccountRefs.serviceAccounts[1].clusterName", "the cluster elsewhere of service account a/y has no mesh"},
		"the only account":          {from(accounts("a/y@elsewhere")), 0, "spec.sourceSelector[0].kubeServiceAccountRefs.serviceAccounts[0].clusterName", "elsewhere"},
		"the only cluster":          {from(identities(nil, []string{"elsewhere"})), 0, "spec.sourceSelector[0].kubeIdentityMatcher.clusters", "elsewhere"},
		"its namespaces":            {from(identities([]string{"a"}, []string{"elsewhere"})), 0, "spec.sourceSelector[0].kubeIdentityMatcher.clusters", "elsewhere"},
		"with tokens":               {from(both(identities(nil, []string{"elsewhere"}), tokens([]string{"i/s"}, nil))), 0, "spec.sourceSelector[0].kubeIdentityMatcher.clusters", "elsewhere"},
		"one of two selectors":      {from(identities(nil, []string{"elsewhere"}), identities([]string{"a"}, nil)), 1, "spec.sourceSelector[0].kubeIdentityMatcher.clusters", "elsewhere"},
		"accounts of such clusters": {from(both(accounts("a/x"), identities(nil, []string{"elsewhere"}))), 0, "spec.sourceSelector[0].kubeIdentityMatcher.clusters", "elsewhere"},
	} {
		t.Run(name, func(t *testing.T) {
			got, verdicts := policy.For(vm, east, destination("east", "reviews"), []policy.Accepted{accepted("p", tc.spec)}, false)
			if got == nil || len(got.Spec.Rules) != tc.rules || got.Spec.Action != securityapi.AuthorizationPolicy_ALLOW {
				t.Fatalf("policy %+v", got)
			}
			if (server{trustDomains: []string{"east.example"}}).allows(t, []*securityv1.AuthorizationPolicy{got}, request{principal: "west.example/ns/z/sa/z", http: true}) {
				t.Error("it allows somebody else")
			}
			v := verdicts[0]
			if len(v.Errors) != 0 || len(v.Notes) != 1 || v.Notes[0].Field != tc.field || v.Notes[0].Reason != policy.ReasonNoMember || !strings.Contains(v.Notes[0].Message, tc.says) {
				t.Errorf("errors %v, notes %v", v.Errors, v.Notes)
			}
		})
	}
}
