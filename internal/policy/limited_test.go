package policy_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	securityapi "istio.io/api/security/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/policy"
)

// withIngress gives a mesh an ingress gateway of limited trust, in a namespace that policies may name.
func withIngress(m *v1alpha1.Mesh, account string) *v1alpha1.Mesh {
	m.Spec.Istio.Gateways = []v1alpha1.IngressGateway{{
		Name: "isthmus-ingress", Namespace: "n", Class: v1alpha1.GatewayLimitedIngress,
		Identities: []string{"spiffe://" + m.Spec.Istio.TrustDomain + "/ns/n/sa/" + account},
	}}
	return m
}

var reviewsPorts = []policy.Port{{Name: "p80.reviews", Target: "80"}, {Name: "p443.reviews", Target: "443"}, {Name: "p8080.reviews", Target: "8080"}}

// limitedEnforced is the property: under limited trust nobody gets, through both gateways, what no policy gives him, and whoever is
// given it by a policy that was not rejected gets it. In the course of a change from one trust to the other the first holds too.
func limitedEnforced(t *rapid.T) {
	w := drawWorld(t)
	withIngress(w.home, names.Draw(t, "ingress account"))
	vm := w.vm.WithTrust(true)
	vm.Spec.GlobalAccessPolicy = rapid.SampledFrom([]v1alpha1.GlobalAccessPolicy{"", v1alpha1.GlobalAccessPolicyEnabled}).Draw(t, "global access")
	var policies []policy.Accepted
	for i := range rapid.IntRange(0, 3).Draw(t, "policies") {
		policies = append(policies, accepted("p"+strconv.Itoa(i), drawSpec(t)))
	}
	d := destination(strings.TrimPrefix(w.home.Namespace, "isthmus-"), "reviews")
	got, verdicts := policy.For(vm, w.home, d, policies, false)
	changing, _ := policy.For(vm, w.home, d, policies, true)
	var at, meanwhile []*securityv1.AuthorizationPolicy
	if got != nil {
		at, meanwhile = append(at, got), append(meanwhile, changing)
	}
	domains := append([]string{w.home.Spec.Istio.TrustDomain}, w.home.Spec.Istio.TrustDomainAliases...)
	home := server{trustDomains: domains}
	for range 20 {
		c := drawCaller(t, w)
		if c.mesh == nil || c.principal == "" { // nobody gets as far as a gateway without an identity of its mesh
			continue
		}
		allowed, rejected := len(policies) == 0, false
		for i, p := range policies {
			if allowedBy(p.Spec, c) {
				allowed, rejected = true, rejected || len(verdicts[i].Errors) > 0
			}
		}
		abroad := c.mesh != w.home
		arrives := c.request
		left := true
		if abroad {
			leaves := policy.Egress(vm, c.mesh, w.home, d, policies, policy.Gateway{Namespace: "g", Name: "reviews", Ports: reviewsPorts})
			c.sni = "p" + c.port + ".reviews"
			if leaves != nil {
				if leaves.Spec.Action != securityapi.AuthorizationPolicy_DENY {
					t.Fatal("it allows")
				}
				opaque := request{principal: c.principal, port: "15443", sni: c.sni}
				left = server{trustDomains: append([]string{c.mesh.Spec.Istio.TrustDomain}, c.mesh.Spec.Istio.TrustDomainAliases...)}.allows(t, []*securityv1.AuthorizationPolicy{leaves}, opaque)
			}
			if len(policies) == 0 && vm.Spec.GlobalAccessPolicy == v1alpha1.GlobalAccessPolicyEnabled {
				allowed = false
			}
			arrives.principal = strings.TrimPrefix(policy.Ingress(w.home)[0], "spiffe://")
		}
		if !abroad && arrives.principal == strings.TrimPrefix(policy.Ingress(w.home)[0], "spiffe://") {
			continue // the gateway itself: what comes from it is from others
		}
		let := left && home.allows(t, at, arrives)
		if let && !allowed {
			t.Fatalf("let in: %+v by %v", c, got)
		}
		if !let && allowed && !rejected {
			t.Fatalf("kept out (left: %v): %+v by %v", left, c, got)
		}
		if left && abroad && home.allows(t, meanwhile, arrives) && !allowed {
			t.Fatalf("let in during the change: %+v by %v", c, changing)
		}
	}
}

func TestLimitedEnforced(t *testing.T) { rapid.Check(t, limitedEnforced) }

func FuzzLimitedEnforced(f *testing.F) { f.Fuzz(rapid.MakeFuzz(limitedEnforced)) }

func TestLimitedPolicies(t *testing.T) {
	east, west := withIngress(mesh("east", "cluster.local"), "isthmus-ingress"), mesh("west", "cluster.local")
	vm := virtualMesh(east, west).WithTrust(true)
	get := v1alpha1.AccessPolicySpec{SourceSelector: []v1alpha1.IdentitySelector{identities([]string{"a"}, []string{"west"})}, AllowedMethods: []string{"GET"}}
	post := get
	post.AllowedMethods = []string{"POST"}
	const ingress, notIngress = `"principals": ["cluster.local/ns/n/sa/isthmus-ingress"]`, `"notPrincipals": ["*/ns/n/sa/isthmus-ingress"]`
	denied := func(from string) string {
		return `[{` + from + `"when": [{"key": "connection.sni", "values": ["p80.reviews", "p443.reviews", "p8080.reviews"]}]}]`
	}
	for name, tc := range map[string]struct {
		specs        []v1alpha1.AccessPolicySpec
		home, egress string
		rejected     int
	}{
		"by cluster, with one trust domain": {[]v1alpha1.AccessPolicySpec{get}, `[{"from": [{"source": {` + ingress + `}}], "to": [{"operation": {"methods": ["GET"]}}]}]`,
			denied(`"from": [{"source": {"notNamespaces": ["a"]}}], `), 0},
		"callers of the own cluster": {[]v1alpha1.AccessPolicySpec{from(identities(nil, []string{"east"}))},
			`[{"from": [{"source": {"principals": ["cluster.local/*"], ` + notIngress + `}}]}]`, denied(""), 0},
		"the gateways' own namespace": {[]v1alpha1.AccessPolicySpec{from(identities([]string{"n"}, []string{"east"}))},
			`[{"from": [{"source": {"principals": ["cluster.local/ns/n/*"], ` + notIngress + `}}]}]`, denied(""), 0},
		"anyone":           {[]v1alpha1.AccessPolicySpec{from()}, `[{"from": [{"source": {` + notIngress + `}}]}, {"from": [{"source": {` + ingress + `}}]}]`, `null`, 0},
		"two that differ":  {[]v1alpha1.AccessPolicySpec{get, post}, `[{"from": [{"source": {` + ingress + `}}], "to": [{"operation": {"methods": ["GET"]}}]}]`, denied(`"from": [{"source": {"notNamespaces": ["a"]}}], `), 1},
		"service accounts": {[]v1alpha1.AccessPolicySpec{from(accounts("a/x@west"))}, `[{"from": [{"source": {` + ingress + `}}]}]`, denied(`"from": [{"source": {"notPrincipals": ["*/ns/a/sa/x"]}}], `), 0},
	} {
		t.Run(name, func(t *testing.T) {
			var policies []policy.Accepted
			for i, s := range tc.specs {
				policies = append(policies, accepted("p"+strconv.Itoa(i), s))
			}
			got, verdicts := policy.For(vm, east, destination("east", "reviews"), policies, false)
			same(t, got.Spec.Rules, tc.home)
			egress := policy.Egress(vm, west, east, destination("east", "reviews"), policies, policy.Gateway{Namespace: "g", Name: "reviews", Ports: reviewsPorts})
			if egress == nil {
				egress = &securityv1.AuthorizationPolicy{}
			}
			same(t, egress.Spec.Rules, tc.egress)
			rejected := 0
			for _, v := range verdicts {
				rejected += len(v.Errors.With(policy.ReasonDiffers))
			}
			if rejected != tc.rejected {
				t.Errorf("verdicts %+v", verdicts)
			}
		})
	}
	if deny, others := policy.ClientMeshes(vm, east, destination("east", "reviews"), &v1alpha1.AppliedFederation{FederatedToMeshes: []string{"x"}}); deny != nil || slices.Contains(others, "x") || others != nil {
		t.Errorf("%v %v", deny, others)
	}
}
