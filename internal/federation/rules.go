package federation

import (
	"cmp"
	"slices"
	"strings"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
)

// hostOf is the host of a rule as istiod reads it: a short one is that of a Service of the rule's own namespace (Istio:
// pilot/pkg/model/config.go, ResolveShortnameToFQDN).
func hostOf(rule *networkingv1.DestinationRule, clusterDomain string) string {
	if host := rule.Spec.Host; host == "*" || strings.Contains(host, ".") {
		return host
	}
	return rule.Spec.Host + "." + rule.Namespace + ".svc." + clusterDomain
}

// covers reports whether the host of a rule, which may begin with an asterisk, is or covers another.
func covers(rule, host string) bool {
	if suffix, wildcard := strings.CutPrefix(rule, "*"); wildcard {
		return strings.HasSuffix(strings.TrimPrefix(host, "*"), suffix)
	}
	return rule == host
}

// exportedTo reports whether a rule that is for all workloads is one for those of a namespace. Without exportTo it is: the
// default of the mesh is taken to be that of Istio.
func exportedTo(rule *networkingv1.DestinationRule, namespace string) bool {
	to := rule.Spec.ExportTo
	return len(to) == 0 || slices.ContainsFunc(to, func(e string) bool {
		return e == "*" || e == namespace || e == "." && rule.Namespace == namespace
	})
}

// private reports whether a rule is for its own namespace only, as one for some workloads always is.
func private(rule *networkingv1.DestinationRule) bool {
	to := rule.Spec.ExportTo
	return rule.Spec.WorkloadSelector != nil || len(to) == 1 && (to[0] == "." || to[0] == rule.Namespace)
}

// mostSpecific returns, of rules that cover a host, those with the host that does so most closely, the oldest first. istiod
// merges them (Istio: pilot/pkg/model/config.go, MostSpecificHostMatch; destination_rule.go).
func mostSpecific(rules []*networkingv1.DestinationRule, host, clusterDomain string) (out []*networkingv1.DestinationRule) {
	best := ""
	for _, r := range rules {
		h := hostOf(r, clusterDomain)
		if !covers(h, host) {
			continue
		}
		if len(out) == 0 || moreSpecific(h, best) {
			best, out = h, nil
		}
		if h == best {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b *networkingv1.DestinationRule) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name), strings.Compare(a.Namespace, b.Namespace))
	})
	return out
}

// moreSpecific compares two hosts that cover the same.
func moreSpecific(a, b string) bool {
	if aw, bw := strings.HasPrefix(a, "*"), strings.HasPrefix(b, "*"); aw != bw {
		return bw
	}
	return len(a) > len(b)
}
