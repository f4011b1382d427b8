package accept

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
)

var (
	dnsLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	// method is a token (RFC 9110, 5.6.2) without what Istio would take for a wildcard, and in upper case as methods are.
	method = regexp.MustCompile("^[A-Z0-9!#$%&'+.^_`|~-]+$")
)

// AccessPolicy returns what of a policy is in force from now on: p itself, or prev, which may be nil, where it is refused.
// clusters are those that are registered.
func AccessPolicy(prev *v1alpha1.AcceptedAccessPolicy, p *v1alpha1.AccessPolicy, clusters []string) (*v1alpha1.AcceptedAccessPolicy, finding.Findings) {
	c := policyCheck{clusters: clusters}
	for i := range p.Spec.SourceSelector {
		c.source(fmt.Sprintf("spec.sourceSelector[%d]", i), &p.Spec.SourceSelector[i])
	}
	for i := range p.Spec.DestinationSelector {
		c.destination(fmt.Sprintf("spec.destinationSelector[%d]", i), &p.Spec.DestinationSelector[i])
	}
	for i, path := range p.Spec.AllowedPaths {
		c.path(fmt.Sprintf("spec.allowedPaths[%d]", i), path)
	}
	for i, m := range p.Spec.AllowedMethods {
		if !method.MatchString(m) {
			c.find(fmt.Sprintf("spec.allowedMethods[%d]", i), "%q is no method of HTTP: write it in upper case, such as GET", m)
		}
	}
	if len(c.findings) > 0 {
		return prev, c.findings
	}
	return &v1alpha1.AcceptedAccessPolicy{Generation: p.Generation, Spec: *p.Spec.DeepCopy()}, nil
}

// policyCheck gathers what is wrong with a policy.
type policyCheck struct {
	clusters []string
	findings finding.Findings
}

func (c *policyCheck) find(field, format string, args ...any) {
	c.findings = append(c.findings, finding.Finding{Field: field, Reason: v1alpha1.ReasonInvalid, Message: fmt.Sprintf(format, args...)})
}

func (c *policyCheck) source(field string, s *v1alpha1.IdentitySelector) {
	if k := s.KubeIdentityMatcher; k != nil {
		c.namespaces(field+".kubeIdentityMatcher", k.Namespaces)
		c.clusterNames(field+".kubeIdentityMatcher", k.Clusters)
	}
	if r := s.KubeServiceAccountRefs; r != nil {
		c.refs(field+".kubeServiceAccountRefs.serviceAccounts", "service account", r.ServiceAccounts)
	}
	if q := s.RequestIdentityMatcher; q != nil {
		c.principals(field+".requestIdentityMatcher.requestPrincipals", q.RequestPrincipals)
		c.principals(field+".requestIdentityMatcher.notRequestPrincipals", q.NotRequestPrincipals)
	}
}

func (c *policyCheck) destination(field string, s *v1alpha1.DestinationSelector) {
	if m := s.KubeServiceMatcher; m != nil {
		c.namespaces(field+".kubeServiceMatcher", m.Namespaces)
		c.clusterNames(field+".kubeServiceMatcher", m.Clusters)
	}
	if r := s.KubeServiceRefs; r != nil {
		c.refs(field+".kubeServiceRefs.services", "Service", r.Services)
	}
}

func (c *policyCheck) namespaces(field string, names []string) {
	for i, n := range names {
		if !dnsLabel.MatchString(n) {
			c.find(fmt.Sprintf("%s.namespaces[%d]", field, i), "%q is no name of a namespace; wildcards are not taken here: leave namespaces out to select all", n)
		}
	}
}

func (c *policyCheck) clusterNames(field string, names []string) {
	for i, n := range names {
		c.cluster(fmt.Sprintf("%s.clusters[%d]", field, i), n)
	}
}

func (c *policyCheck) cluster(field, name string) {
	if !slices.Contains(c.clusters, name) {
		c.find(field, "no cluster %s is registered: correct the name (`meshctl cluster list`), register it, or take it out", name)
	}
}

func (c *policyCheck) refs(field, what string, refs []v1alpha1.ClusterObjectRef) {
	for i, r := range refs {
		at := fmt.Sprintf("%s[%d]", field, i)
		if !dnsName.MatchString(r.Name) || !dnsLabel.MatchString(r.Namespace) {
			c.find(at, "%q in namespace %q is no name of a %s; wildcards are not taken here", r.Name, r.Namespace, what)
		}
		if r.ClusterName != "" {
			c.cluster(at+".clusterName", r.ClusterName)
		}
	}
}

// principals of tokens have a * at one end at most, or alone.
func (c *policyCheck) principals(field string, values []string) {
	for i, v := range values {
		if wildcards(v) {
			c.find(fmt.Sprintf("%s[%d]", field, i), "%q: a * may stand at the beginning or at the end, not at both and not inside", v)
		}
	}
}

func (c *policyCheck) path(field, path string) {
	switch {
	case wildcards(path):
		c.find(field, "%q: a * may stand at the beginning or at the end of a path, not at both and not inside", path)
	case !strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "*"):
		c.find(field, "%q: a path begins with / or *", path)
	}
}

// wildcards reports whether s has a * anywhere else than at one of its ends.
func wildcards(s string) bool {
	inner := strings.TrimSuffix(strings.TrimPrefix(s, "*"), "*")
	return strings.Contains(inner, "*") || s != "*" && strings.HasPrefix(s, "*") && strings.HasSuffix(s, "*")
}
