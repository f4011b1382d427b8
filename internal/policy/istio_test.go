package policy_test

import (
	"regexp"
	"slices"
	"strings"

	securityapi "istio.io/api/security/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
)

// server is a mesh that enforces AuthorizationPolicies, as Istio 1.31 does: pilot/pkg/security/authz and
// pilot/pkg/security/trustdomain, for the attributes that we use.
type server struct {
	trustDomains []string // its own first, then its aliases
}

// fataler is what the model needs of a test.
type fataler interface {
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// request as the server sees it.
type request struct {
	principal       string // "<td>/ns/<ns>/sa/<sa>"; "" without mTLS
	issuer, subject string // of a token; "" without
	http            bool
	path, method    string
	port            string
	sni             string
}

// allows decides over the policies that select a workload (Istio: concepts/security, "Implicit enablement").
func (s server) allows(t fataler, policies []*securityv1.AuthorizationPolicy, r request) bool {
	allowing, allowed := false, false
	for _, p := range policies {
		matches := slices.ContainsFunc(p.Spec.Rules, func(rule *securityapi.Rule) bool { return s.matches(t, rule, r, p.Spec.Action) })
		switch p.Spec.Action {
		case securityapi.AuthorizationPolicy_DENY:
			if matches {
				return false
			}
		case securityapi.AuthorizationPolicy_ALLOW:
			allowing, allowed = true, allowed || matches
		default:
			t.Fatalf("action %v", p.Spec.Action)
		}
	}
	return !allowing || allowed
}

func (s server) matches(t fataler, rule *securityapi.Rule, r request, action securityapi.AuthorizationPolicy_Action) bool {
	if !r.http && httpOnly(rule) {
		if action != securityapi.AuthorizationPolicy_ALLOW {
			t.Fatal("what Istio makes of a denial that only HTTP has is not modelled")
		}
		return false // Model.Generate fails, the rule is skipped
	}
	if rule.From != nil && len(rule.From) == 0 || rule.To != nil && len(rule.To) == 0 {
		t.Fatalf("Istio refuses an empty from or to: %v", rule)
	}
	if len(rule.From) > 0 && !slices.ContainsFunc(rule.From, func(f *securityapi.Rule_From) bool { return s.from(t, f.Source, r) }) {
		return false
	}
	if len(rule.To) > 0 && !slices.ContainsFunc(rule.To, func(to *securityapi.Rule_To) bool { return operation(t, to.Operation, r) }) {
		return false
	}
	for _, w := range rule.When {
		if w.Key == "connection.sni" && len(w.Values) > 0 && len(w.NotValues) == 0 {
			if !slices.Contains(w.Values, r.sni) {
				return false
			}
			continue
		}
		if w.Key != "source.principal" || len(w.Values) == 0 || len(w.NotValues) > 0 {
			t.Fatalf("condition %v", w)
		}
		if !s.principal(w.Values, r) {
			return false
		}
	}
	return true
}

func httpOnly(rule *securityapi.Rule) bool {
	return slices.ContainsFunc(rule.From, func(f *securityapi.Rule_From) bool {
		return len(f.Source.RequestPrincipals)+len(f.Source.NotRequestPrincipals) > 0
	}) || slices.ContainsFunc(rule.To, func(to *securityapi.Rule_To) bool { return len(to.Operation.Paths)+len(to.Operation.Methods) > 0 })
}

// from: all fields that are given must match.
func (s server) from(t fataler, src *securityapi.Source, r request) bool {
	if src == nil || len(src.Principals)+len(src.NotPrincipals)+len(src.Namespaces)+len(src.NotNamespaces)+len(src.RequestPrincipals)+len(src.NotRequestPrincipals) == 0 {
		t.Fatalf("Istio refuses an empty source: %v", src)
	}
	if len(src.Principals) > 0 && !s.principal(src.Principals, r) || s.principal(src.NotPrincipals, r) {
		return false
	}
	within := func(namespaces []string) bool {
		return slices.ContainsFunc(namespaces, func(ns string) bool {
			return authenticated(r, regexp.MustCompile("^(?:.*/ns/"+strings.ReplaceAll(regexp.QuoteMeta(ns), `\*`, ".*")+"/.*)$").MatchString)
		})
	}
	if len(src.Namespaces) > 0 && !within(src.Namespaces) || within(src.NotNamespaces) {
		return false
	}
	has := func(values []string) bool {
		return slices.ContainsFunc(values, func(v string) bool {
			if v == "*" {
				return r.issuer != "" && r.subject != ""
			}
			return v == r.issuer+"/"+r.subject // other wildcards are not generated
		})
	}
	return (len(src.RequestPrincipals) == 0 || has(src.RequestPrincipals)) && !has(src.NotRequestPrincipals)
}

func authenticated(r request, match func(string) bool) bool {
	return r.principal != "" && match("spiffe://"+r.principal)
}

// principal is Bundle.ReplaceTrustDomainAliases, then matcher.StringMatcherWithPrefix.
func (s server) principal(values []string, r request) bool {
	var expanded []string
	for _, v := range values {
		parts := strings.Split(v, "/")
		if len(parts) == 5 && parts[0] != "*" && (slices.Contains(s.trustDomains, parts[0]) || parts[0] == "cluster.local") {
			for _, td := range s.trustDomains {
				expanded = append(expanded, td+"/"+strings.Join(parts[1:], "/"))
			}
		} else {
			expanded = append(expanded, v)
		}
	}
	return slices.ContainsFunc(expanded, func(v string) bool { return authenticated(r, wildcard(v, "spiffe://")) })
}

func wildcard(v, prefix string) func(string) bool {
	return func(s string) bool {
		switch {
		case v == "*":
			return s != ""
		case strings.HasPrefix(v, "*"):
			return strings.HasPrefix(s, prefix) && strings.HasSuffix(s[len(prefix):], v[1:])
		case strings.HasSuffix(v, "*"):
			return strings.HasPrefix(s, prefix+v[:len(v)-1])
		}
		return s == prefix+v
	}
}

func operation(t fataler, o *securityapi.Operation, r request) bool {
	if o == nil || len(o.Paths)+len(o.Methods)+len(o.Ports) == 0 {
		t.Fatalf("Istio refuses an empty operation: %v", o)
	}
	some := func(values []string, s string) bool {
		return len(values) == 0 || slices.ContainsFunc(values, func(v string) bool { return wildcard(v, "")(s) })
	}
	return some(o.Paths, r.path) && some(o.Methods, r.method) && (len(o.Ports) == 0 || slices.Contains(o.Ports, r.port))
}
