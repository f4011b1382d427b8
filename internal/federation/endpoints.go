package federation

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	networkingapi "istio.io/api/networking/v1alpha3"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// endpoints to which a client mesh sends for the service: the addresses of the gateways of its home, or in a flat network
// the pods themselves. Without any, the last finding says why. byName says that addresses are names.
func (s *service) endpoints(vm *membership.VirtualMesh, client Client, home *v1alpha1.Mesh, d *v1alpha1.Destination) (
	out []*networkingapi.WorkloadEntry, byName bool, fs finding.Findings,
) {
	var field string
	if isFlat(vm) {
		field = "status.appliedFederation.endpoints"
		out, fs = s.pods(client, field, d)
	} else {
		field = "spec.istio.gateways"
		out, byName, fs = s.gateways(vm, client, field, home)
	}
	byAddress := func(a, b *networkingapi.WorkloadEntry) int {
		first := s.ports[0].name // two gateways at one address differ in all ports, and two pods cannot have one
		return cmp.Or(strings.Compare(a.Address, b.Address), cmp.Compare(a.Ports[first], b.Ports[first]))
	}
	slices.SortStableFunc(out, byAddress)
	out = slices.CompactFunc(out, func(a, b *networkingapi.WorkloadEntry) bool { return byAddress(a, b) == 0 })
	if limit := min(maxEndpointPorts/len(s.ports), maxEndpoints); len(out) > limit {
		out = out[:limit]
		fs = append(fs, finding.Finding{Field: field, Reason: ReasonTooMany, Message: fmt.Sprintf(
			"only %d addresses are used: no more are possible for a Service of %d ports", limit, len(s.ports))})
	}
	if len(out) == 0 && len(fs) > 1 {
		fs = append(fs, finding.Finding{Field: field, Reason: fs[0].Reason, Message: "nothing is left to send to: " + first(fs, maxShown)})
	}
	return out, byName, few(fs, maxNotes)
}

// Limits of what is said of addresses: there may be thousands, of which another cluster chooses each.
const (
	maxShown = 3
	maxNotes = 48
)

// first joins the messages of the first findings, and says how many more there are.
func first(fs finding.Findings, limit int) string {
	var messages []string
	for _, f := range fs[:min(len(fs), limit)] {
		messages = append(messages, f.Message)
	}
	text := finding.Join(messages)
	if more := len(fs) - limit; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return text
}

// few keeps the last finding, and of those before it the first ones.
func few(fs finding.Findings, limit int) finding.Findings {
	if len(fs) <= limit {
		return fs
	}
	return append(fs[:limit-1:limit-1], fs[len(fs)-1])
}

// gateways are the endpoints of a service behind the gateways of its home: at each address one, with all ports at that for
// TLS.
func (s *service) gateways(vm *membership.VirtualMesh, client Client, field string, home *v1alpha1.Mesh) (
	out []*networkingapi.WorkloadEntry, byName bool, fs finding.Findings,
) {
	gateways, fs := ChosenGateways(vm, home)
	names := map[string]bool{}
	for _, g := range gateways {
		for _, address := range g.Addresses {
			a, name, problem := client.judge(address, g.TLSPort.ExternalPort)
			if problem != nil {
				problem.Field = field
				fs = append(fs, *problem)
				continue
			}
			if name && !names[a] && len(names) == maxNames {
				fs = append(fs, finding.Finding{Field: field, Reason: ReasonTooMany, Message: fmt.Sprintf(
					"address %q is left out: %d names are used, and each proxy asks for each name all the time", a, maxNames)})
				continue
			}
			if name {
				names[a] = true
			}
			ports := make(map[string]uint32, len(s.ports))
			for _, p := range s.ports {
				ports[p.name] = uint32(g.TLSPort.ExternalPort)
			}
			out = append(out, &networkingapi.WorkloadEntry{Address: a, Ports: ports})
		}
	}
	return out, len(names) > 0, fs
}

// pods are the endpoints of a service in a flat network. One that lacks a port of the Service is left out: Istio would take
// the number of the Service's port for it.
func (s *service) pods(client Client, field string, d *v1alpha1.Destination) (out []*networkingapi.WorkloadEntry, fs finding.Findings) {
	applied := d.Status.AppliedFederation
	if applied == nil || len(applied.Endpoints) == 0 {
		return nil, finding.Findings{{Field: field, Reason: ReasonNoEndpoints, Message: "no pod is known: see that pods behind the Service run and are ready"}}
	}
	for _, e := range applied.Endpoints {
		ports := make(map[string]uint32, len(s.ports))
		var numbers []int32
		for _, p := range s.ports {
			numbers = append(numbers, e.Ports[p.of])
			ports[p.name] = uint32(e.Ports[p.of])
		}
		a, name, problem := client.judge(e.Address, numbers...)
		if problem == nil && name {
			problem = leftOut(ReasonForbiddenAddress, e.Address, "it is no IP address")
		}
		if problem != nil {
			problem.Field = field
			fs = append(fs, *problem)
			continue
		}
		out = append(out, &networkingapi.WorkloadEntry{Address: a, Ports: ports})
	}
	return out, fs
}

func leftOut(reason, address, why string) *finding.Finding {
	return &finding.Finding{Reason: reason, Message: fmt.Sprintf("address %q is left out: %s", address, why)}
}

// judge says in what form an address is written, whether it is a name, and what speaks against sending to ports of it:
// above all that it would lead back to the client's own host or cluster.
func (c Client) judge(address string, ports ...int32) (canonical string, name bool, problem *finding.Finding) {
	for _, p := range ports {
		if p < 1 || p > 65535 {
			return "", false, leftOut(ReasonInvalidPorts, address, fmt.Sprintf("%d is no port number", p))
		}
	}
	ip, err := netip.ParseAddr(address)
	forbidden := func(address string) bool {
		return c.Forbidden != nil && slices.ContainsFunc(ports, func(p int32) bool { return c.Forbidden(address, p) })
	}
	if err != nil {
		canonical = strings.ToLower(strings.TrimSuffix(address, "."))
		if why := misnamed(canonical, clusterDomain(c.Mesh)); why != "" {
			return "", true, leftOut(ReasonForbiddenAddress, address, why)
		}
		if forbidden(canonical) {
			return "", true, leftOut(ReasonForbiddenAddress, address, nowhere)
		}
		return canonical, true, nil
	}
	ip = ip.Unmap()
	if ip.Zone() != "" {
		return "", false, leftOut(ReasonForbiddenAddress, address, "it has a zone")
	}
	for _, a := range append(embedded(ip), ip) {
		if internal(a) || forbidden(a.String()) {
			return "", false, leftOut(ReasonForbiddenAddress, address, nowhere)
		}
	}
	return ip.String(), false, nil
}

const nowhere = "it is none at which another cluster can be"

// internal reports whether an address leads to the host itself, to its link, or to what a cloud tells its machines.
func internal(ip netip.Addr) bool {
	return !ip.IsGlobalUnicast() || thisNetwork.Contains(ip) || slices.Contains(metadata, ip)
}

var (
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8") // RFC 1122, 3.2.1.3
	// metadata are addresses beside the link-local ones at which clouds keep credentials of their machines: AWS and Google over
	// IPv6, Azure, Alibaba, Oracle.
	metadata = []netip.Addr{
		netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("fd20:ce::254"), netip.MustParseAddr("168.63.129.16"),
		netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("192.0.0.192"),
	}
	nat64      = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052
	compatible = netip.MustParsePrefix("::/96")        // RFC 4291, 2.5.5.1
	sixToFour  = netip.MustParsePrefix("2002::/16")    // RFC 3056
)

// embedded returns the IPv4 address that an IPv6 address is translated to.
func embedded(ip netip.Addr) []netip.Addr {
	b := ip.As16()
	switch {
	case nat64.Contains(ip), compatible.Contains(ip):
		return []netip.Addr{netip.AddrFrom4([4]byte(b[12:16]))}
	case sixToFour.Contains(ip):
		return []netip.Addr{netip.AddrFrom4([4]byte(b[2:6]))}
	}
	return nil
}

// misnamed says what speaks against a name as an address. What has less than three labels, or ends as names of a cluster or
// of a cloud's inside do, resolvers look up in the client's own cluster first.
func misnamed(name, clusterDomain string) string {
	labels := strings.Split(name, ".")
	last := labels[len(labels)-1]
	switch {
	case !isFQDN(name) || last[0] < 'a': // an address of some form, if it begins with a digit
		return "it is neither an IP address nor a DNS name"
	case len(labels) < 3:
		return "a name needs at least three labels, so that it is not looked up in the client's own cluster"
	case slices.Contains([]string{"local", "localhost", "internal", "svc"}, last), strings.HasSuffix(name, "."+clusterDomain):
		return "the name leads into the client's own cluster"
	}
	return ""
}
