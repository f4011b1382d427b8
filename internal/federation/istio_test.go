package federation_test

import (
	"encoding/json"
	"fmt"
	"net"
	"regexp"
	"slices"
	"time"

	networkingapi "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// refused says why an object would be refused: by the API server, by Istio's CRDs (istio.io/api, kubernetes/), by istiod
// (pkg/config/validation), or by Envoy once istiod has made clusters of it.
func refused(o any) (problems []string) {
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	var name string
	switch o := o.(type) {
	case *networkingv1.ServiceEntry:
		name = o.Name
		serviceEntryProblems(&o.Spec, add)
	case *networkingv1.DestinationRule:
		name = o.Name
		if !wildcardFQDN.MatchString(o.Spec.Host) {
			add("host %q", o.Spec.Host)
		}
		policies := []*networkingapi.TrafficPolicy{o.Spec.TrafficPolicy}
		seen := map[string]bool{}
		for _, s := range o.Spec.Subsets {
			if !label.MatchString(s.Name) || seen[s.Name] {
				add("subset %q", s.Name)
			}
			seen[s.Name] = true
			policies = append(policies, s.TrafficPolicy)
		}
		for _, p := range policies {
			trafficPolicyProblems(p, add)
		}
	case *networkingv1.Gateway:
		name = o.Name
		if !label.MatchString(name) {
			add("name %q is no DNS label", name)
		}
		for _, s := range o.Spec.Servers {
			if n := s.GetPort().GetNumber(); n < 1 || n > 65535 || s.GetPort().GetName() == "" {
				add("port %v", s.GetPort())
			}
			for _, h := range s.Hosts {
				if !wildcardFQDN.MatchString(h) || len(h) > 255 {
					add("host %q", h)
				}
			}
			if len(s.Hosts) == 0 {
				add("no hosts")
			}
		}
	case *networkingv1.VirtualService:
		name = o.Name
		virtualServiceProblems(&o.Spec, add)
	default:
		add("a %T is not made here", o)
	}
	for _, problem := range validation.IsDNS1123Subdomain(name) {
		add("name %q: %s", name, problem)
	}

	raw, err := json.Marshal(o)
	if err != nil {
		add("%v", err)
	}
	if len(raw) > 1<<20 {
		add("%d bytes are too many", len(raw))
	}
	return problems
}

const dnsLabel = `[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?`

var (
	label        = regexp.MustCompile(`^` + dnsLabel + `$`)
	fqdn         = regexp.MustCompile(`^` + dnsLabel + `([.]` + dnsLabel + `)+$`)
	wildcardFQDN = regexp.MustCompile(`^([*]|` + dnsLabel + `)([.]` + dnsLabel + `)*$`)
)

func serviceEntryProblems(e *networkingapi.ServiceEntry, add func(string, ...any)) {
	for _, h := range e.Hosts {
		if !fqdn.MatchString(h) || len(h) > 253 {
			add("host %q", h)
		}
	}
	names := map[string]bool{}
	numbers := map[uint32]bool{}
	for _, p := range e.Ports {
		if names[p.Name] || numbers[p.Number] || !label.MatchString(p.Name) || p.Number < 1 || p.Number > 65535 {
			add("port %v", p)
		}
		names[p.Name], numbers[p.Number] = true, true
		if !slices.Contains([]string{"", "TCP", "GRPC", "GRPC-Web", "HTTP", "HTTP_PROXY", "HTTP2", "HTTPS", "TLS", "Mongo", "Redis", "MySQL"}, p.Protocol) {
			add("protocol %q", p.Protocol)
		}
	}
	if len(e.Ports) == 0 || len(e.Endpoints) == 0 && e.WorkloadSelector == nil || len(e.SubjectAltNames) == 0 || len(e.Endpoints) > 4096 {
		add("%d ports, %d endpoints, %d subjectAltNames", len(e.Ports), len(e.Endpoints), len(e.SubjectAltNames))
	}
	for _, w := range e.Endpoints {
		if net.ParseIP(w.Address) == nil && (e.Resolution != networkingapi.ServiceEntry_DNS || !fqdn.MatchString(w.Address)) {
			add("endpoint %q", w.Address)
		}
		if len(w.Ports) != len(e.Ports) || len(w.Ports) > 128 {
			add("endpoint %q has %d ports", w.Address, len(w.Ports))
		}
		for name, n := range w.Ports {
			if !names[name] || n < 1 || n > 65535 || len(name) >= 63 {
				add("port %s of endpoint %q: %d", name, w.Address, n)
			}
		}
	}
}

func virtualServiceProblems(v *networkingapi.VirtualService, add func(string, ...any)) {
	if len(v.Hosts) == 0 || len(v.Gateways) == 0 || len(v.Tcp) == 0 {
		add("hosts %v, gateways %v, %d routes", v.Hosts, v.Gateways, len(v.Tcp))
	}
	for _, h := range v.Hosts {
		if !fqdn.MatchString(h) || len(h) > 253 {
			add("host %q", h)
		}
	}
	for _, r := range v.Tcp {
		for _, to := range r.Route {
			if n := to.Destination.GetPort().GetNumber(); !fqdn.MatchString(to.Destination.GetHost()) || n < 1 || n > 65535 {
				add("route %v", to)
			}
		}
	}
}

func trafficPolicyProblems(p *networkingapi.TrafficPolicy, add func(string, ...any)) {
	pool := func(c *networkingapi.ConnectionPoolSettings) {
		if c == nil {
			return
		}
		k := c.GetTcp().GetTcpKeepalive()
		lasts := c.GetTcp().GetMaxConnectionDuration()
		if k == nil && lasts == nil || c.Http != nil || lasts != nil && lasts.AsDuration() < time.Millisecond {
			add("connection pool %v", c)
		}
		for _, d := range []int64{k.GetTime().GetSeconds(), k.GetInterval().GetSeconds()} {
			if d < 0 || d > 32767 {
				add("keepalive of %d seconds", d)
			}
		}
		if k.GetTime().GetNanos() != 0 || k.GetInterval().GetNanos() != 0 || k.GetProbes() > 127 {
			add("keepalive %v", k)
		}
	}
	pool(p.GetConnectionPool())
	seen := map[uint32]bool{}
	for _, s := range p.GetPortLevelSettings() {
		n := s.GetPort().GetNumber()
		if seen[n] || s.GetTls() == nil || len(s.GetTls().GetSni()) > 255 {
			add("port level settings %v", s)
		}
		seen[n] = true
		pool(s.GetConnectionPool())
	}
}
