package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	securityapi "istio.io/api/security/v1beta1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// How Istio takes principals (pilot/pkg/security/trustdomain/bundle.go and pilot/pkg/security/authz/model of Istio 1.31):
//
//   - A principal of exactly five parts, "<td>/ns/<ns>/sa/<sa>", whose trust domain is that of the server's mesh, one of its
//     aliases, or "cluster.local", is replaced by one for the trust domain and for each alias of the server's mesh
//     (Bundle.ReplaceTrustDomainAliases). So exact principals cannot tell apart trust domains that are aliases of each other,
//     as those of the members of a virtual mesh are.
//   - A principal of another number of parts, such as "<td>/ns/<ns>/*" or "<td>/*", is taken as it is
//     (isTrustDomainBeingEnforced), and so is one of five parts that begins with "*/".
//   - The same holds for the values of the condition source.principal (Model.MigrateTrustDomain).
//   - A * at the beginning or at the end of a value is a wildcard (authz/matcher/string.go), so no name that somebody else
//     chooses may contain one.
//   - The values of Source.namespaces match the namespace in any trust domain (srcNamespaceGenerator).
//
// So a trust domain is enforced by "<td>/…/*", and exact principals come with the condition source.principal "<td>/*".

// clusterLocal is the trust domain by which Istio means that of the server's mesh, whatever it is.
const clusterLocal = "cluster.local"

var (
	dnsLabel  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	subdomain = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$`)
)

// rulesOf makes the rules of a policy: none with findings, and none if its selectors contradict each other or select callers of
// clusters that are no members only. notes say who of the selected is left out.
//
// They are for callers of some meshes of the virtual mesh.
func rulesOf(vm *membership.VirtualMesh, of []v1alpha1.ObjectRef, home *v1alpha1.Mesh, spec *v1alpha1.AccessPolicySpec) (rules []*securityapi.Rule, notes, fs finding.Findings) {
	to := operation(spec)
	if len(spec.SourceSelector) == 0 {
		return []*securityapi.Rule{{To: to}}, nil, nil
	}
	var plain, tokens []*securityapi.Rule_From // apart, as Istio ignores a rule with tokens as a whole where it is not HTTP
	var conditional []*securityapi.Rule
	for i, s := range spec.SourceSelector {
		c := compiler{vm: vm, of: of, home: home, field: fmt.Sprintf("spec.sourceSelector[%d]", i)}
		switch {
		case s.KubeServiceAccountRefs != nil:
			conditional = append(conditional, c.serviceAccounts(s)...)
		case s.RequestIdentityMatcher != nil:
			if source := c.identities(s); source != nil {
				tokens = append(tokens, &securityapi.Rule_From{Source: source})
			}
		default:
			if source := c.identities(s); source != nil {
				plain = append(plain, &securityapi.Rule_From{Source: source})
			}
		}
		fs, notes = append(fs, c.findings...), append(notes, c.notes...)
	}
	if len(fs) > 0 {
		return nil, notes, fs
	}
	for _, from := range [][]*securityapi.Rule_From{plain, tokens} {
		if len(from) > 0 {
			rules = append(rules, &securityapi.Rule{From: from, To: to})
		}
	}
	for _, r := range conditional {
		r.To = to
		rules = append(rules, r)
	}
	return rules, notes, nil
}

// operation is what a policy allows; nil for everything. Istio ignores the rules with paths or methods, which only HTTP has,
// for ports that are not HTTP: they allow nothing there.
func operation(spec *v1alpha1.AccessPolicySpec) []*securityapi.Rule_To {
	if len(spec.AllowedPaths)+len(spec.AllowedMethods)+len(spec.AllowedPorts) == 0 {
		return nil
	}
	o := &securityapi.Operation{Paths: slices.Clone(spec.AllowedPaths), Methods: slices.Clone(spec.AllowedMethods)}
	for _, p := range spec.AllowedPorts {
		o.Ports = append(o.Ports, strconv.Itoa(int(p)))
	}
	return []*securityapi.Rule_To{{Operation: o}}
}

// compiler makes the sources of one selector.
type compiler struct {
	vm       *membership.VirtualMesh
	of       []v1alpha1.ObjectRef // the meshes of whose callers it makes sources
	home     *v1alpha1.Mesh
	field    string
	findings finding.Findings
	// notes say who is left out, as his cluster is no member: nobody else is the worse for it.
	notes finding.Findings
}

func (c *compiler) find(field, reason, format string, args ...any) {
	c.findings = append(c.findings, finding.Finding{Field: c.field + field, Reason: reason, Message: fmt.Sprintf(format, args...)})
}

func (c *compiler) note(field, format string, args ...any) {
	c.notes = append(c.notes, finding.Finding{Field: c.field + field, Reason: ReasonNoMember, Message: fmt.Sprintf(format, args...)})
}

// identities makes the source of a selector without service accounts; nil with findings, or if it selects nobody.
func (c *compiler) identities(s v1alpha1.IdentitySelector) *securityapi.Source {
	source := request(s.RequestIdentityMatcher)
	k := s.KubeIdentityMatcher
	switch {
	case k == nil && s.RequestIdentityMatcher == nil: // the schema does not allow it
		c.find("", v1alpha1.ReasonInvalid, "selects by nothing: give kubeIdentityMatcher, kubeServiceAccountRefs or requestIdentityMatcher")
		return nil
	case k == nil:
		return source
	}
	c.namespaces(k)
	switch {
	case len(k.Clusters) > 0:
		for _, td := range c.trustDomainsOf(".kubeIdentityMatcher.clusters", k.Clusters) {
			if len(k.Namespaces) == 0 {
				source.Principals = append(source.Principals, td+"/*")
			}
			for _, ns := range k.Namespaces {
				source.Principals = append(source.Principals, td+"/ns/"+ns+"/*")
			}
		}
		if len(source.Principals) == 0 {
			return nil // a source without principals would be anyone
		}
	case len(k.Namespaces) > 0:
		source.Namespaces = slices.Clone(k.Namespaces)
	default:
		source.Principals = []string{"*"} // whoever has an identity
	}
	if len(c.findings) > 0 {
		return nil
	}
	return source
}

// request is the source that a matcher of requests alone makes.
func request(m *v1alpha1.RequestIdentityMatcher) *securityapi.Source {
	if m == nil {
		return &securityapi.Source{}
	}
	if len(m.RequestPrincipals)+len(m.NotRequestPrincipals) == 0 {
		return &securityapi.Source{RequestPrincipals: []string{"*"}} // whoever has a token
	}
	return &securityapi.Source{RequestPrincipals: slices.Clone(m.RequestPrincipals), NotRequestPrincipals: slices.Clone(m.NotRequestPrincipals)}
}

func (c *compiler) namespaces(k *v1alpha1.KubeIdentityMatcher) {
	for j, ns := range k.Namespaces {
		if !dnsLabel.MatchString(ns) {
			c.find(fmt.Sprintf(".kubeIdentityMatcher.namespaces[%d]", j), v1alpha1.ReasonInvalid, "%q is no name of a namespace", ns)
		}
	}
}

// account is a service account of some clusters; nil stands for all.
type account struct {
	namespace, name string
	clusters        []string
}

// serviceAccounts makes the rules of a selector with service accounts: one for each set of trust domains that they may have.
func (c *compiler) serviceAccounts(s v1alpha1.IdentitySelector) []*securityapi.Rule {
	field := ".kubeServiceAccountRefs.serviceAccounts"
	accounts := c.accounts(field, s.KubeServiceAccountRefs.ServiceAccounts)
	if k := s.KubeIdentityMatcher; k != nil {
		c.namespaces(k)
		accounts = within(accounts, k)
		if len(k.Clusters) > 0 {
			field = ".kubeIdentityMatcher.clusters"
		}
	}
	var rules []*securityapi.Rule
	byDomains := map[string]*securityapi.Rule{}
	for _, a := range accounts {
		domains := c.allTrustDomains()
		if a.clusters != nil {
			domains = c.trustDomainsOf(field, a.clusters)
		}
		if len(domains) == 0 {
			continue
		}
		key := strings.Join(domains, " ")
		rule := byDomains[key]
		if rule == nil {
			condition := &securityapi.Condition{Key: "source.principal"}
			for _, td := range domains {
				condition.Values = append(condition.Values, td+"/*")
			}
			rule = &securityapi.Rule{
				From: []*securityapi.Rule_From{{Source: request(s.RequestIdentityMatcher)}},
				When: []*securityapi.Condition{condition},
			}
			byDomains[key] = rule
			rules = append(rules, rule)
		}
		source := rule.From[0].Source
		for _, td := range domains {
			source.Principals = append(source.Principals, c.principal(td, a))
		}
	}
	if len(c.findings) > 0 {
		return nil
	}
	return rules
}

// principal is that of a service account, in the form in which the server's mesh does not lose its trust domain.
func (c *compiler) principal(td string, a account) string {
	if i := c.home.Spec.Istio; td == clusterLocal && i.TrustDomain != td && !slices.Contains(i.TrustDomainAliases, td) {
		td = "*" // or Istio puts others in its place; the condition says which it is
	}
	return td + "/ns/" + a.namespace + "/sa/" + a.name
}

// accounts returns each service account once, with all clusters in which it is selected.
func (c *compiler) accounts(field string, refs []v1alpha1.ClusterObjectRef) (out []account) {
	for j, r := range refs {
		at := fmt.Sprintf("%s[%d]", field, j)
		if !dnsLabel.MatchString(r.Namespace) || !subdomain.MatchString(r.Name) {
			c.find(at, v1alpha1.ReasonInvalid, "%q in namespace %q is no name of a service account", r.Name, r.Namespace)
			continue
		}
		if r.ClusterName != "" && !c.hasMember(r.ClusterName) {
			c.note(at+".clusterName", "the cluster %s of service account %s/%s has no mesh in VirtualMesh %s, so nobody is allowed by it: "+
				"correct the name, leave clusterName out, or add its mesh", r.ClusterName, r.Namespace, r.Name, c.vm.Name)
			continue
		}
		i := slices.IndexFunc(out, func(a account) bool { return a.namespace == r.Namespace && a.name == r.Name })
		switch {
		case i < 0 && r.ClusterName == "":
			out = append(out, account{namespace: r.Namespace, name: r.Name})
		case i < 0:
			out = append(out, account{namespace: r.Namespace, name: r.Name, clusters: []string{r.ClusterName}})
		case r.ClusterName == "":
			out[i].clusters = nil
		case out[i].clusters != nil:
			out[i].clusters = append(out[i].clusters, r.ClusterName)
		}
	}
	return out
}

// within returns what of the accounts a matcher selects too.
func within(accounts []account, k *v1alpha1.KubeIdentityMatcher) (out []account) {
	for _, a := range accounts {
		if len(k.Namespaces) > 0 && !slices.Contains(k.Namespaces, a.namespace) {
			continue
		}
		switch {
		case len(k.Clusters) == 0:
		case a.clusters == nil:
			a.clusters = k.Clusters
		default:
			a.clusters = slices.DeleteFunc(slices.Clone(a.clusters), func(cluster string) bool { return !slices.Contains(k.Clusters, cluster) })
			if len(a.clusters) == 0 {
				continue
			}
		}
		out = append(out, a)
	}
	return out
}

// hasMember reports whether a mesh of a cluster is a member.
func (c *compiler) hasMember(cluster string) bool {
	return slices.ContainsFunc(c.vm.Spec.Meshes, func(r v1alpha1.ObjectRef) bool { return membership.Cluster(r.Namespace) == cluster })
}

// trustDomains are those that workloads of a listed mesh may have: the one with which it was accepted, and of the home mesh, where
// the agent need not take anybody's word for it, the one that it has now. There is none if it is not known.
func (c *compiler) trustDomains(mesh v1alpha1.ObjectRef) (out []string) {
	if td := c.vm.TrustDomain(mesh); td != "" {
		out = append(out, td)
	}
	if mesh.Name == c.home.Name && mesh.Namespace == c.home.Namespace {
		out = append(out, c.home.Spec.Istio.TrustDomain)
	}
	return out
}

// allTrustDomains are those of all meshes that sources are made of. One that could not be part of an identity is nobody's.
func (c *compiler) allTrustDomains() []string {
	return c.trustDomainsWhere(func(v1alpha1.ObjectRef) bool { return true })
}

func (c *compiler) trustDomainsWhere(is func(v1alpha1.ObjectRef) bool) (out []string) {
	for _, r := range c.of {
		if is(r) {
			out = append(out, c.trustDomains(r)...)
		}
	}
	return slices.DeleteFunc(sorted(out), func(td string) bool { return !membership.IsTrustDomain(td) })
}

// trustDomainsOf are the trust domains that stand for clusters; none, with a finding, if they do not tell these clusters from
// the others of the virtual mesh.
func (c *compiler) trustDomainsOf(field string, clusters []string) []string {
	selected := func(r v1alpha1.ObjectRef) bool { return slices.Contains(clusters, membership.Cluster(r.Namespace)) }
	if !slices.ContainsFunc(c.of, selected) && slices.ContainsFunc(clusters, c.hasMember) {
		return nil // callers of whom there are other rules
	}
	domains := c.trustDomainsWhere(selected)
	if len(domains) == 0 {
		names := strings.Join(sorted(clusters), ", ")
		if slices.ContainsFunc(clusters, c.hasMember) {
			c.find(field, ReasonMeshNotReported, "no mesh of %s is reported in VirtualMesh %s: see to their agents", names, c.vm.Name)
		} else {
			c.note(field, "no mesh of %s is in VirtualMesh %s, so nobody is allowed by it: correct the names, or add a mesh of theirs", names, c.vm.Name)
		}
		return nil
	}
	var others, shared []string
	for _, r := range c.of {
		for _, td := range c.trustDomains(r) {
			if !selected(r) && slices.Contains(domains, td) {
				others, shared = append(others, membership.Cluster(r.Namespace)), append(shared, td)
			}
		}
	}
	if len(others) > 0 {
		c.find(field, ReasonNotTellable, "identities do not tell %s from %s, whose meshes have the same trust domain (%s): "+
			"select these clusters too, do not select by cluster, or give the meshes different trust domains",
			strings.Join(sorted(clusters), ", "), strings.Join(sorted(others), ", "), strings.Join(sorted(shared), ", "))
		return nil
	}
	for _, r := range c.of {
		if len(c.trustDomains(r)) == 0 && !selected(r) {
			c.find(field, ReasonMeshNotReported, "the Mesh %s/%s is a member and is not reported, so it is not known whether identities tell its "+
				"cluster apart: see to its agent, or remove it from spec.meshes of VirtualMesh %s", r.Namespace, r.Name, c.vm.Name)
			return nil
		}
	}
	return domains
}
