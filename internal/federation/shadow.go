package federation

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	networkingapi "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/isthmus-mesh/isthmus/internal/finding"
)

// maxShownPorts is how many ports a finding about a DestinationRule shows.
const maxShownPorts = 16

// Shadows finds that a DestinationRule of somebody else takes the place of ours for a federated host in some namespaces: it
// returns a finding that names the rule and the tls block to copy, or nil.
func Shadows(rule *networkingv1.DestinationRule, rootNamespace string, imported *networkingv1.DestinationRule) *finding.Finding {
	host := imported.Spec.Host
	if !covers(rule.Spec.Host, host) || connectsAs(rule.Spec.TrafficPolicy, imported.Spec.TrafficPolicy) {
		return nil
	}
	where := "in namespace " + rule.Namespace
	switch {
	case private(rule): // the first that proxies of its namespace look at, also where that is the root namespace
	case rule.Namespace == rootNamespace && imported.Namespace != rootNamespace: // comes after ours, which is in the service's namespace
		return nil
	case rule.Namespace == imported.Namespace:
		// Beside ours, istiod takes no less specific one. One for the same host it merges, if both are exported alike, and the older keeps
		// its say; else the later counts.
		if rule.Spec.Host != host || rule.Spec.TrafficPolicy == nil {
			return nil
		}
		where = "in all namespaces, if it is the older"
		if !slices.Equal(rule.Spec.ExportTo, imported.Spec.ExportTo) {
			where = "in all namespaces, if it is the later"
		}
	case !exportedTo(rule, rule.Namespace):
		return nil
	}
	return &finding.Finding{Reason: ReasonShadowed, Message: fmt.Sprintf(
		"DestinationRule %s/%s takes the place of ours for %s %s, so that connections to it fail: copy into its spec `trafficPolicy: {%s}`, or exclude the host from it",
		rule.Namespace, rule.Name, host, where, tlsBlock(imported.Spec.TrafficPolicy))}
}

// Shadowing finds what Shadows does, of several rules in which some take the place of others: in each namespace those count
// that cover the host most closely.
func Shadowing(rules []*networkingv1.DestinationRule, rootNamespace string, imported *networkingv1.DestinationRule) (fs finding.Findings) {
	byNamespace := map[string][]*networkingv1.DestinationRule{}
	for _, r := range rules {
		if exportedTo(r, r.Namespace) && r.Spec.WorkloadSelector == nil && (r.Namespace != rootNamespace || !private(r)) {
			byNamespace[r.Namespace] = append(byNamespace[r.Namespace], r)
		} else if f := Shadows(r, rootNamespace, imported); f != nil { // for some workloads of its namespace, or those of the root namespace
			fs = append(fs, *f)
		}
	}
	for _, namespace := range slices.Sorted(maps.Keys(byNamespace)) {
		merged := mostSpecific(byNamespace[namespace], imported.Spec.Host, defaultClusterDomain)
		i := slices.IndexFunc(merged, func(r *networkingv1.DestinationRule) bool { return r.Spec.TrafficPolicy != nil })
		if len(merged) == 0 {
			continue
		}
		if f := Shadows(merged[max(i, 0)], rootNamespace, imported); f != nil {
			fs = append(fs, *f)
		}
	}
	return fs
}

// connectsAs reports whether a traffic policy has the TLS settings that another one has.
func connectsAs(have, want *networkingapi.TrafficPolicy) bool {
	if len(want.GetPortLevelSettings()) == 0 {
		return have.GetTls().GetMode() == want.GetTls().GetMode()
	}
	for _, w := range want.GetPortLevelSettings() {
		tls := have.GetTls()
		for _, h := range have.GetPortLevelSettings() {
			if h.GetPort().GetNumber() == w.GetPort().GetNumber() {
				tls = h.GetTls()
			}
		}
		if tls.GetMode() != w.GetTls().GetMode() || tls.GetSni() != w.GetTls().GetSni() {
			return false
		}
	}
	return true
}

// tlsBlock is the TLS settings of a traffic policy, as YAML in one line.
func tlsBlock(p *networkingapi.TrafficPolicy) string {
	ports := p.GetPortLevelSettings()
	if len(ports) == 0 {
		return fmt.Sprintf("tls: {mode: %s}", p.GetTls().GetMode())
	}
	var list []string
	for i, s := range ports {
		if i == maxShownPorts {
			list = append(list, fmt.Sprintf("# and %d more as in ours", len(ports)-i))
			break
		}
		list = append(list, fmt.Sprintf("{port: {number: %d}, tls: {mode: %s, sni: %s}}", s.GetPort().GetNumber(), s.GetTls().GetMode(), s.GetTls().GetSni()))
	}
	return "portLevelSettings: [" + strings.Join(list, ", ") + "]"
}
