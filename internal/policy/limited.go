package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	securityapi "istio.io/api/security/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// Under limited trust a server does not see who calls from another mesh: it sees the ingress gateway of its own. And the egress
// gateway of the client's mesh sees who calls, and not what for: what goes through it is opaque. So callers of other meshes are
// told apart where they leave, by Egress, and what they may do is enforced where they arrive, by For: there it is the same for
// all of them. Policies that admit callers of other meshes to one destination must therefore say the same about paths, methods and
// tokens. The oldest says what; those that say otherwise admit nobody of other meshes. Ports are told by both.

// ReasonDiffers says that a policy cannot be told from another for callers of other meshes.
const ReasonDiffers = "OperationsDiffer"

// Gateway is the egress gateway of a client mesh, and the ports of a destination that it leads to.
type Gateway struct {
	Namespace string
	Selector  map[string]string
	// Name of the policy.
	Name  string
	Ports []Port
}

// Port of a destination.
type Port struct {
	// Name is the server name by which the gateway knows it.
	Name string
	// Target is the port of the pods, a number or a name.
	Target string
}

// Ingress are the identities of the gateways by which callers of other meshes enter a mesh under limited trust.
func Ingress(home *v1alpha1.Mesh) (out []string) {
	for i := range home.Spec.Istio.Gateways {
		g := &home.Spec.Istio.Gateways[i]
		if g.Class != v1alpha1.GatewayLimitedIngress {
			continue
		}
		for _, id := range g.Identities {
			if account, ok := strings.CutPrefix(id, "spiffe://"+home.Spec.Istio.TrustDomain+"/ns/"+g.Namespace+"/sa/"); ok && subdomain.MatchString(account) {
				out = append(out, id)
			}
		}
	}
	return sorted(out)
}

// withoutIngress has rules not hold for callers of other meshes: the gateways by which they enter have identities too.
func withoutIngress(rules []*securityapi.Rule, ingress []string) []*securityapi.Rule {
	if len(ingress) == 0 {
		return rules
	}
	var not []string
	for _, id := range ingress {
		_, path, _ := strings.Cut(strings.TrimPrefix(id, "spiffe://"), "/")
		not = append(not, "*/"+path) // whatever the trust domain: it may be an alias
	}
	not = sorted(not)
	for _, r := range rules {
		if len(r.From) == 0 {
			r.From = []*securityapi.Rule_From{{Source: &securityapi.Source{}}}
		}
		for _, f := range r.From {
			f.Source.NotPrincipals = append(f.Source.NotPrincipals, not...)
		}
	}
	return rules
}

// ofIngress makes the rules of a policy for callers of other meshes.
func ofIngress(spec *v1alpha1.AccessPolicySpec, says *terms, ingress []string) []*securityapi.Rule {
	source := &securityapi.Source{RequestPrincipals: slices.Clone(says.tokens), NotRequestPrincipals: slices.Clone(says.notTokens)}
	for _, id := range ingress {
		source.Principals = append(source.Principals, strings.TrimPrefix(id, "spiffe://"))
	}
	return []*securityapi.Rule{{From: []*securityapi.Rule_From{{Source: source}}, To: operation(spec)}}
}

// terms are what a policy allows callers of other meshes, but for ports. All of it is sorted.
type terms struct{ paths, methods, tokens, notTokens []string }

func (t *terms) equal(o *terms) bool {
	return slices.Equal(t.paths, o.paths) && slices.Equal(t.methods, o.methods) && slices.Equal(t.tokens, o.tokens) && slices.Equal(t.notTokens, o.notTokens)
}

// termsOf returns what a policy allows callers of the other members than home; nil if it admits none of them, or cannot be
// enforced. ok is false if it does not allow all of them the same.
//
// It goes by what was accepted and nothing else, so that all clusters come to the same.
func termsOf(vm *membership.VirtualMesh, home v1alpha1.ObjectRef, spec *v1alpha1.AccessPolicySpec) (out *terms, ok bool) {
	of := func(s v1alpha1.IdentitySelector) *terms {
		t := &terms{paths: sorted(spec.AllowedPaths), methods: sorted(spec.AllowedMethods)}
		if s.RequestIdentityMatcher != nil {
			source := request(s.RequestIdentityMatcher)
			t.tokens, t.notTokens = sorted(source.RequestPrincipals), sorted(source.NotRequestPrincipals)
		}
		return t
	}
	if len(spec.SourceSelector) == 0 {
		return of(v1alpha1.IdentitySelector{}), true
	}
	for i := range spec.SourceSelector {
		if !valid(vm, spec.SourceSelector[i]) {
			return nil, true
		}
	}
	ok = true
	for _, s := range spec.SourceSelector {
		if !slices.ContainsFunc(vm.Spec.Meshes, func(r v1alpha1.ObjectRef) bool {
			return r != home && !callersIn(vm, s, membership.Cluster(r.Namespace)).none()
		}) {
			continue
		}
		t := of(s)
		ok = ok && (out == nil || out.equal(t))
		out = t
	}
	return out, ok
}

// abroad says of each policy that selects a destination what it allows callers of other meshes than home, nil for nothing, and of
// those that admit some and are not enforced for them why.
func abroad(vm *membership.VirtualMesh, home v1alpha1.ObjectRef, policies []Accepted) (holds []*terms, why []*finding.Finding) {
	holds, why = make([]*terms, len(policies)), make([]*finding.Finding, len(policies))
	var said *terms
	by := ""
	differ := func(format string, args ...any) *finding.Finding {
		return &finding.Finding{Field: "spec.sourceSelector", Reason: ReasonDiffers, Message: fmt.Sprintf(format, args...)}
	}
	for i, p := range policies {
		t, ok := termsOf(vm, home, p.Spec)
		switch {
		case !ok:
			why[i] = differ("it allows callers of other meshes nothing: under limited trust the server cannot tell them apart, and selectors that admit them say different things " +
				"about requestPrincipals: have them say the same, or make policies for callers of this cluster only")
		case t == nil:
		case said == nil:
			said, by, holds[i] = t, p.Name, t
		case said.equal(t):
			holds[i] = t
		default:
			why[i] = differ("it allows callers of other meshes nothing: under limited trust the server cannot tell them apart, and AccessPolicy %s, which is older and admits "+
				"callers of other meshes too, says something else about allowedPaths, allowedMethods or requestPrincipals: have both say the same, or select callers of this cluster only", by)
		}
	}
	return holds, why
}

// selecting returns the policies that select a destination.
func selecting(d *v1alpha1.Destination, policies []Accepted) (out []Accepted) {
	for _, p := range policies {
		if membership.Selects(p.Spec.DestinationSelector, d) {
			out = append(out, p)
		}
	}
	return out
}

// callers are those of one cluster whom a selector admits.
type callers struct {
	all        bool
	namespaces []string
	accounts   []string // "<namespace>/sa/<name>"
}

func (c callers) none() bool { return !c.all && len(c.namespaces)+len(c.accounts) == 0 }

func (c callers) and(o callers) callers {
	return callers{c.all || o.all, sorted(append(slices.Clone(c.namespaces), o.namespaces...)), sorted(append(slices.Clone(c.accounts), o.accounts...))}
}

// valid reports whether a selector can be enforced.
func valid(vm *membership.VirtualMesh, s v1alpha1.IdentitySelector) bool {
	c := compiler{vm: vm}
	if s.KubeIdentityMatcher != nil {
		c.namespaces(s.KubeIdentityMatcher)
	}
	if s.KubeServiceAccountRefs != nil {
		c.accounts("", s.KubeServiceAccountRefs.ServiceAccounts)
	} else if s.KubeIdentityMatcher == nil && s.RequestIdentityMatcher == nil {
		return false
	}
	return len(c.findings) == 0
}

// callersIn are those of a cluster whom a valid selector admits.
func callersIn(vm *membership.VirtualMesh, s v1alpha1.IdentitySelector, cluster string) (out callers) {
	k := s.KubeIdentityMatcher
	if k != nil && len(k.Clusters) > 0 && !slices.Contains(k.Clusters, cluster) {
		return out
	}
	switch {
	case s.KubeServiceAccountRefs != nil:
		c := compiler{vm: vm}
		accounts := c.accounts("", s.KubeServiceAccountRefs.ServiceAccounts)
		if k != nil {
			accounts = within(accounts, k)
		}
		for _, a := range accounts {
			if a.clusters == nil || slices.Contains(a.clusters, cluster) {
				out.accounts = append(out.accounts, a.namespace+"/sa/"+a.name)
			}
		}
	case k != nil && len(k.Namespaces) > 0:
		out.namespaces = k.Namespaces
	default:
		out.all = true
	}
	return out
}

// Egress returns the AuthorizationPolicy by which the egress gateway of a client mesh denies a destination of home to those whom no
// policy admits; nil if everybody is admitted.
//
// It denies by what is admitted: were it to allow, the gateway would need a rule for each destination, also for those that no policy
// is about, and Istio repeats all rules of a gateway for each server name that it has.
func Egress(vm *membership.VirtualMesh, client, home *v1alpha1.Mesh, d *v1alpha1.Destination, policies []Accepted, g Gateway) *securityv1.AuthorizationPolicy {
	policies = selecting(d, policies)
	if len(policies) == 0 && vm.Spec.GlobalAccessPolicy != v1alpha1.GlobalAccessPolicyEnabled {
		return nil
	}
	homeRef := v1alpha1.ObjectRef{Name: home.Name, Namespace: home.Namespace}
	holds, _ := abroad(vm, homeRef, policies)
	cluster := membership.Cluster(client.Namespace)
	var rules []*securityapi.Rule
	var admits []callers // by rule
	for _, port := range g.Ports {
		var admitted callers
		for i, p := range policies {
			if holds[i] == nil || !allowsPort(p.Spec, port.Target) {
				continue
			}
			if len(p.Spec.SourceSelector) == 0 {
				admitted.all = true
			}
			for _, s := range p.Spec.SourceSelector {
				admitted = admitted.and(callersIn(vm, s, cluster))
			}
		}
		if admitted.all {
			continue
		}
		if j := slices.IndexFunc(admits, func(c callers) bool {
			return slices.Equal(c.namespaces, admitted.namespaces) && slices.Equal(c.accounts, admitted.accounts)
		}); j >= 0 {
			rules[j].When[0].Values = append(rules[j].When[0].Values, port.Name)
			continue
		}
		rules, admits = append(rules, denial(admitted, port.Name)), append(admits, admitted)
	}
	if rules == nil {
		return nil
	}
	out := authorizationPolicy(g.Name, g.Namespace, g.Selector)
	out.Annotations = map[string]string{v1alpha1.AnnotationDestination: d.Namespace + "/" + d.Name}
	out.Spec.Action, out.Spec.Rules = securityapi.AuthorizationPolicy_DENY, rules
	return out
}

// denial denies a server name to all but some of the gateway's own mesh: nobody else gets as far, as the gateway knows no other
// roots.
func denial(admitted callers, serverName string) *securityapi.Rule {
	rule := &securityapi.Rule{When: []*securityapi.Condition{{Key: "connection.sni", Values: []string{serverName}}}}
	if !admitted.none() {
		source := &securityapi.Source{NotNamespaces: admitted.namespaces}
		for _, a := range admitted.accounts {
			source.NotPrincipals = append(source.NotPrincipals, "*/ns/"+a)
		}
		rule.From = []*securityapi.Rule_From{{Source: source}}
	}
	return rule
}

// allowsPort reports whether a policy allows a port of pods. One that has a name could be any.
func allowsPort(spec *v1alpha1.AccessPolicySpec, target string) bool {
	if len(spec.AllowedPorts) == 0 {
		return true
	}
	n, err := strconv.ParseInt(target, 10, 32)
	return err == nil && slices.Contains(spec.AllowedPorts, int32(n))
}

// nameless finds that a policy allows ports of a service of which one is only known by name: who calls it from another mesh cannot
// be told.
func nameless(spec *v1alpha1.AccessPolicySpec, k *v1alpha1.KubeService) *finding.Finding {
	if len(spec.AllowedPorts) == 0 {
		return nil
	}
	for i := range k.Ports {
		if _, err := strconv.ParseInt(k.Ports[i].TargetPort, 10, 32); k.Ports[i].TargetPort != "" && err != nil {
			return &finding.Finding{Field: "spec.allowedPorts", Reason: ReasonDiffers, Message: fmt.Sprintf("under limited trust callers of other meshes may not use port %d of Service %s/%s by it, as "+
				"they cannot tell which port of pods %q is: give the number as its targetPort", k.Ports[i].Port, k.Namespace, k.Name, k.Ports[i].TargetPort)}
		}
	}
	return nil
}
