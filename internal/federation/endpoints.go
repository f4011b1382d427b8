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
	add := func(field, address string, named bool, ports map[string]uint32) {
		a, name, problem := client.judge(address)
		if problem == "" && name && !named {
			problem = "it is no IP address"
		}
		if problem != "" {
			fs = append(fs, finding.Finding{Field: field, Reason: ReasonForbiddenAddress, Message: fmt.Sprintf("address %q is left out: %s", address, problem)})
			return
		}
		out = append(out, &networkingapi.WorkloadEntry{Address: a, Ports: ports})
		byName = byName || name
	}

	field := "status.appliedFederation.endpoints"
	if vm.Spec.Federation.FlatNetwork {
		if applied := d.Status.AppliedFederation; applied != nil {
			for _, e := range applied.Endpoints {
				if ports, ok := s.portsOf(e); ok {
					add(field, e.Address, false, ports)
				} else {
					fs = append(fs, finding.Finding{Field: field, Reason: ReasonInvalidPorts, Message: fmt.Sprintf(
						"address %q is left out: it does not have all ports of the Service", e.Address)})
				}
			}
		}
	} else {
		gateways, problems := ChosenGateways(vm, home)
		fs, field = append(fs, problems...), "spec.istio.gateways"
		for _, g := range gateways {
			if g.TLSPort.ExternalPort < 1 || g.TLSPort.ExternalPort > 65535 {
				fs = append(fs, finding.Finding{Field: field, Reason: ReasonInvalidPorts, Message: fmt.Sprintf(
					"gateway %s is left out: %d is no port number", g, g.TLSPort.ExternalPort)})
				continue
			}
			for _, address := range g.Addresses {
				ports := make(map[string]uint32, len(s.ports))
				for _, p := range s.ports {
					ports[p.name] = uint32(g.TLSPort.ExternalPort)
				}
				add(field, address, true, ports)
			}
		}
	}

	byAddress := func(a, b *networkingapi.WorkloadEntry) int {
		first := s.ports[0].name // two gateways at one address differ in all ports, two pods cannot have one
		return cmp.Or(strings.Compare(a.Address, b.Address), cmp.Compare(a.Ports[first], b.Ports[first]))
	}
	slices.SortStableFunc(out, byAddress)
	out = slices.CompactFunc(out, func(a, b *networkingapi.WorkloadEntry) bool { return byAddress(a, b) == 0 })
	if limit := maxEndpointPorts / len(s.ports); len(out) > limit {
		out = out[:limit]
		fs = append(fs, finding.Finding{Field: field, Reason: ReasonTooMany, Message: fmt.Sprintf(
			"only %d addresses are used: no more are possible for a Service of %d ports", limit, len(s.ports))})
	}
	switch {
	case len(out) > 0 || len(fs.With(ReasonNoGateway)) > 0:
	case len(fs) == 0:
		fs = finding.Findings{{Field: field, Reason: ReasonNoEndpoints, Message: "no pod is known: see that pods behind the Service run and are ready"}}
	default:
		fs = append(fs, finding.Finding{Field: field, Reason: fs[0].Reason, Message: "nothing is left to send to: " + finding.Join(fs.Errors())})
	}
	return out, byName, fs
}

// portsOf returns the ports of a pod, by name of the service's port; false unless it has all.
func (s *service) portsOf(e v1alpha1.FederatedEndpoint) (map[string]uint32, bool) {
	ports := make(map[string]uint32, len(s.ports))
	for _, p := range s.ports {
		n := e.Ports[p.name]
		if n < 1 || n > 65535 {
			return nil, false
		}
		ports[p.name] = uint32(n)
	}
	return ports, true
}

// judge says in what form an address is written, whether it is a name, and what speaks against sending to it: it would
// lead back to the client's own host or cluster.
func (c Client) judge(address string) (canonical string, name bool, problem string) {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		canonical = strings.ToLower(strings.TrimSuffix(address, "."))
		return canonical, true, misnamed(canonical, clusterDomain(c.Mesh))
	}
	ip = ip.Unmap()
	if ip.Zone() != "" {
		return "", false, "it has a zone"
	}
	for _, a := range append(embedded(ip), ip) {
		if internal(a) || c.Forbidden != nil && c.Forbidden(a.String()) {
			return "", false, "it is none at which another cluster can be"
		}
	}
	return ip.String(), false, ""
}

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
