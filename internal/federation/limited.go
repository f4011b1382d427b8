package federation

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	networkingapi "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/naming"
)

// Under limited trust no proxy of one mesh trusts the root of another. A connection goes through two gateways, and is one of TLS
// three times over: from the client's sidecar to the egress gateway by the client's mesh, from there to the ingress gateway by
// certificates that the virtual mesh has issued to gateways, and on to the server by the home mesh. Both gateways pass on what is
// in it as it is, so that HTTP, gRPC and TCP are alike. The server name tells the port of the service in all three.

const (
	// onwards ends the host by which the egress gateway alone knows a service. The domain "invalid" is nobody's (RFC 6761, 6.4).
	onwards = ".isthmus.invalid"
	// noPortTranslation has istiod, where it looks for the port at which a Gateway's server is to listen, not take the ports of a
	// ServiceEntry for those of the gateway's pods that it selects (Istio: pilot/pkg/model/gateway.go, resolvePorts).
	noPortTranslation = "experimental.istio.io/disable-gateway-port-translation"

	gatewaysRemedy = "install the chart isthmus-gateways in its cluster"
)

// Admission is what lets the gateways of other meshes reach a destination of home under limited trust.
type Admission struct {
	Gateways        []*networkingv1.Gateway
	VirtualServices []*networkingv1.VirtualService
}

// Egress is what a client mesh needs under limited trust beside what Imported has: the way through its egress gateway.
type Egress struct {
	Through Gateway
	// ServerNames by which the egress gateway knows the ports of the service.
	ServerNames []ServerName
	// ServiceEntry and DestinationRule are of the host by which the egress gateway reaches the home mesh.
	ServiceEntry    *networkingv1.ServiceEntry
	DestinationRule *networkingv1.DestinationRule
	Gateway         *networkingv1.Gateway
	VirtualServices []*networkingv1.VirtualService
}

// ServerName stands for a port of a service.
type ServerName struct {
	Name string
	// Target is the port of the pods, a number or a name, as the Service has it.
	Target string
}

// IsOnward reports whether a host is one by which an egress gateway alone knows a service.
func IsOnward(host string) bool { return strings.HasSuffix(host, onwards) }

// serverName is the server name by which workloads ask their egress gateway for a port of the service.
func (s *service) serverName(number uint32) string { return fmt.Sprintf("p%d.%s", number, s.hostname) }

// admittedName is the server name by which the gateways of a mesh ask those of the home mesh for a port of the service. Each mesh has
// one of its own: Envoy ends connections, requests under way and all, some time after the settings for their server name have changed,
// and nobody's are to end because another mesh comes or goes.
func (s *service) admittedName(number uint32, client v1alpha1.ObjectRef) string {
	return fmt.Sprintf("p%d.%s.%s", number, naming.Short(client.Name, maxLabel), s.hostname)
}

const maxLabel = 63 // of a DNS name (RFC 1035, 2.3.4)

// tooLong says that names that limited trust needs are too long; "" if they are not.
func (s *service) tooLong() string {
	for _, name := range []string{s.admittedName(65535, v1alpha1.ObjectRef{Name: strings.Repeat("x", maxLabel)}), s.hostname + onwards} {
		if !isFQDN(name) {
			return name
		}
	}
	return ""
}

// limitedGateways are the gateways of a class of limited trust that can be used, and what others of the class lack.
func limitedGateways(m *v1alpha1.Mesh, class v1alpha1.GatewayClass) (usable []Gateway, lacking []string) {
	for i := range m.Spec.Istio.Gateways {
		g := &m.Spec.Istio.Gateways[i]
		if g.Class != class {
			continue
		}
		port := slices.IndexFunc(g.Ports, func(p v1alpha1.GatewayPort) bool { return p.Name == defaultTLSPort })
		var lack string
		switch {
		case port < 0:
			lack = "has no port named " + defaultTLSPort
		case len(g.Selector) == 0:
			lack = "has no selector"
		case len(validation.IsDNS1123Label(g.Namespace)) > 0:
			lack = "is in no namespace"
		case g.Namespace == m.Spec.Istio.RootNamespace:
			lack = "is in the root namespace of the mesh, where objects would be those of all namespaces: give it a namespace of its own"
		case class == v1alpha1.GatewayLimitedIngress && len(g.Addresses) == 0:
			lack = "has no address: it needs a load balancer, externalIPs, or type NodePort"
		case class == v1alpha1.GatewayLimitedEgress && len(identitiesOf(m, g)) == 0:
			lack = "has no pods whose identity is known: see that they run"
		default:
			usable = append(usable, Gateway{g, g.Ports[port]})
			continue
		}
		lacking = append(lacking, fmt.Sprintf("Service %s/%s %s", g.Namespace, g.Name, lack))
	}
	slices.SortStableFunc(usable, func(a, b Gateway) int { return strings.Compare(a.String(), b.String()) })
	return usable, lacking
}

// identitiesOf are those that pods of a gateway can have.
func identitiesOf(m *v1alpha1.Mesh, g *v1alpha1.IngressGateway) (out []string) {
	prefix := "spiffe://" + m.Spec.Istio.TrustDomain + "/ns/" + g.Namespace + "/sa/"
	for _, id := range g.Identities {
		if sa, ok := strings.CutPrefix(id, prefix); ok && membership.IsTrustDomain(m.Spec.Istio.TrustDomain) && len(validation.IsDNS1123Subdomain(sa)) == 0 {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// chosenIngress are the gateways by which others enter a mesh under limited trust.
func chosenIngress(home *v1alpha1.Mesh) ([]Gateway, finding.Findings) {
	usable, lacking := limitedGateways(home, v1alpha1.GatewayLimitedIngress)
	if usable == nil {
		return nil, finding.Findings{withoutGateway(home, "ingress gateway of limited trust through which others can enter", lacking)}
	}
	return usable, nil
}

// ChosenEgress is the gateway by which a mesh reaches others under limited trust; nil with a finding that says what is missing.
func ChosenEgress(client *v1alpha1.Mesh) (*Gateway, *finding.Finding) {
	usable, lacking := limitedGateways(client, v1alpha1.GatewayLimitedEgress)
	if usable == nil {
		f := withoutGateway(client, "egress gateway of limited trust through which it can reach others", lacking)
		return nil, &f
	}
	return &usable[0], nil
}

func withoutGateway(m *v1alpha1.Mesh, what string, lacking []string) finding.Finding {
	why := gatewaysRemedy
	if lacking != nil {
		why = strings.Join(lacking, "; ")
	}
	return finding.Finding{Field: "spec.istio.gateways", Reason: ReasonNoGateway, Mesh: membership.MeshKey(m), Message: fmt.Sprintf("mesh %s has no %s: %s", m.Name, what, why)}
}

// Admit makes what lets those other members reach a destination of home under limited trust to whom it is federated: nothing if
// there are none. The result is nil under other trust, and where the destination or the gateways are unfit.
func Admit(vm *membership.VirtualMesh, home *v1alpha1.Mesh, d *v1alpha1.Destination) *Admission {
	if !vm.Limited() {
		return nil
	}
	callers := admitted(vm, home, d)
	s, _ := describe(vm, home, d)
	gateways, _ := chosenIngress(home)
	if s == nil || len(gateways) == 0 {
		return nil
	}
	if len(callers) == 0 { // Istio would take this for everybody
		return &Admission{}
	}
	out := &Admission{}
	inNamespace := map[string][]string{}
	for _, g := range gateways {
		o := s.gateway(s.hostname+"."+g.Name, g)
		for _, p := range s.ports {
			for _, c := range callers {
				o.Spec.Servers = append(o.Spec.Servers, server(home, g, fmt.Sprintf("tls-%d-%s", p.number, c.Name), s.admittedName(p.number, c), &networkingapi.ServerTLSSettings{
					Mode: networkingapi.ServerTLSSettings_MUTUAL, CredentialName: v1alpha1.GatewaySecretName,
					SubjectAltNames: []string{membership.GatewayIdentity(vm.Name, c)},
				}))
			}
		}
		o.ObjectMeta = madeFor(d, o.Namespace, o.Name)
		out.Gateways = append(out.Gateways, o)
		inNamespace[g.Namespace] = append(inNamespace[g.Namespace], o.Name)
	}
	for _, namespace := range slices.Sorted(maps.Keys(inNamespace)) {
		out.VirtualServices = append(out.VirtualServices, s.routes(d, namespace, inNamespace[namespace], s.host, func(number uint32) (names []string) {
			for _, c := range callers {
				names = append(names, s.admittedName(number, c))
			}
			return names
		})...)
	}
	return out
}

// admitted are those members to whom a destination is federated, sorted.
func admitted(vm *membership.VirtualMesh, home *v1alpha1.Mesh, d *v1alpha1.Destination) (out []v1alpha1.ObjectRef) {
	to := federatedTo(vm, home, d)
	for _, r := range vm.Spec.Meshes {
		if r != refTo(home) && (slices.Contains(to, everyMember) || slices.Contains(to, r.Name+"."+r.Namespace)) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b v1alpha1.ObjectRef) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return slices.Compact(out)
}

// madeFor is the metadata of what is made for a destination.
func madeFor(d *v1alpha1.Destination, namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name,
		Labels:      map[string]string{v1alpha1.LabelCluster: membership.Cluster(d.Namespace)},
		Annotations: map[string]string{v1alpha1.AnnotationDestination: d.Namespace + "/" + d.Name},
	}
}

// gateway is of one gateway of a mesh, still without servers. Its name, a DNS label, is made of what is unique.
func (s *service) gateway(unique string, g Gateway) *networkingv1.Gateway {
	return &networkingv1.Gateway{
		TypeMeta:   metav1.TypeMeta{APIVersion: apiVersion, Kind: "Gateway"},
		ObjectMeta: metav1.ObjectMeta{Namespace: g.Namespace, Name: strings.ReplaceAll(naming.Hashed("isthmus-"+unique, maxGatewayNameSize), ".", "-")},
		Spec:       networkingapi.Gateway{Selector: maps.Clone(g.Selector)},
	}
}

// server ends TLS at a gateway of a mesh for one server name. portName is another one for each server of a Gateway.
func server(m *v1alpha1.Mesh, g Gateway, portName, name string, tls *networkingapi.ServerTLSSettings) *networkingapi.Server {
	return &networkingapi.Server{
		Port:  &networkingapi.Port{Number: uint32(serverPort(m, g)), Name: naming.Short(portName, maxPortName), Protocol: "TLS"},
		Hosts: []string{name},
		Tls:   tls,
	}
}

// routes lead from the servers of Gateways to a host. There is one for each port: of a VirtualService istiod takes, for a server
// that ends TLS, the first route, whatever the server name (Istio: pilot/pkg/networking/core/gateway.go,
// buildGatewayNetworkFiltersFromTCPRoutes).
func (s *service) routes(d *v1alpha1.Destination, namespace string, gateways []string, host string, names func(uint32) []string) (out []*networkingv1.VirtualService) {
	for _, p := range s.ports {
		out = append(out, &networkingv1.VirtualService{
			TypeMeta:   metav1.TypeMeta{APIVersion: apiVersion, Kind: "VirtualService"},
			ObjectMeta: madeFor(d, namespace, ObjectName(s.serverName(p.number))),
			Spec: networkingapi.VirtualService{
				Hosts: names(p.number), Gateways: slices.Clone(gateways), ExportTo: []string{"."},
				Tcp: []*networkingapi.TCPRoute{{Route: []*networkingapi.RouteDestination{{
					Destination: &networkingapi.Destination{Host: host, Port: &networkingapi.PortSelector{Number: p.number}},
				}}}},
			},
		})
	}
	return out
}

// throughEgress makes the way from the egress gateway of a client mesh to the endpoints of the home mesh. All of it lies in the
// namespace of the gateway.
func (s *service) throughEgress(vm *membership.VirtualMesh, client Client, through Gateway, home *v1alpha1.Mesh, d *v1alpha1.Destination,
	endpoints []*networkingapi.WorkloadEntry, byName bool,
) *Egress {
	namespace := through.Namespace
	onward := &service{cluster: s.cluster, hostname: s.hostname + onwards, identities: []string{membership.GatewayIdentity(vm.Name, refTo(home))}}
	out := &Egress{Through: through}
	for _, p := range s.ports {
		out.ServerNames = append(out.ServerNames, ServerName{s.serverName(p.number), p.target})
		onward.ports = append(onward.ports, port{name: p.name, number: p.number, protocol: "TCP"})
	}
	out.ServiceEntry = onward.serviceEntry(madeFor(d, namespace, ObjectName(onward.hostname)), "", endpoints, byName)
	out.ServiceEntry.Spec.ExportTo = []string{"."}
	admittedAs := func(number uint32) string { return s.admittedName(number, refTo(client.Mesh)) }
	out.DestinationRule = onward.limitedRule(vm, madeFor(d, namespace, ObjectName(onward.hostname)), admittedAs, &networkingapi.ClientTLSSettings{
		Mode: networkingapi.ClientTLSSettings_MUTUAL, CredentialName: v1alpha1.GatewaySecretName, SubjectAltNames: onward.identities,
	})
	out.DestinationRule.Spec.ExportTo = []string{"."}
	out.Gateway = s.gateway(s.hostname, through)
	out.Gateway.ObjectMeta = madeFor(d, namespace, out.Gateway.Name)
	for _, p := range s.ports {
		out.Gateway.Spec.Servers = append(out.Gateway.Spec.Servers, server(client.Mesh, through, fmt.Sprintf("tls-%d", p.number), s.serverName(p.number),
			&networkingapi.ServerTLSSettings{Mode: networkingapi.ServerTLSSettings_ISTIO_MUTUAL}))
	}
	out.VirtualServices = s.routes(d, namespace, []string{out.Gateway.Name}, onward.hostname, func(number uint32) []string {
		return []string{s.serverName(number)}
	})
	return out
}

// nameAtEgress makes a name by which workloads of a client mesh reach the service, which leads to the egress gateway. That knows the
// service by one server name, whatever it is called by.
func (s *service) nameAtEgress(vm *membership.VirtualMesh, client Client, through Gateway, d *v1alpha1.Destination, hostname string) Named {
	named := &service{cluster: s.cluster, hostname: hostname, identities: identitiesOf(client.Mesh, through.IngressGateway)}
	for _, p := range s.ports {
		// A port of the gateway's pods that has the name of one of these would come before targetPort (Istio: pilot/pkg/
		// serviceregistry/serviceentry/conversion.go, convertWorkloadInstanceToInstances). None has a name as long as this.
		named.ports = append(named.ports, port{name: fmt.Sprintf("federated-port-%d", p.number), number: p.number, protocol: p.protocol})
	}
	meta := func() metav1.ObjectMeta { return madeFor(d, through.Namespace, ObjectName(hostname)) }
	entry := named.serviceEntry(meta(), client.Address, nil, false)
	entry.Labels[noPortTranslation] = "true"
	entry.Spec.WorkloadSelector = &networkingapi.WorkloadSelector{Labels: maps.Clone(through.Selector)}
	for _, p := range entry.Spec.Ports {
		p.TargetPort = uint32(cmp.Or(through.TLSPort.TargetPort, through.TLSPort.Port))
	}
	rule := named.limitedRule(vm, meta(), s.serverName, &networkingapi.ClientTLSSettings{
		Mode: networkingapi.ClientTLSSettings_ISTIO_MUTUAL, SubjectAltNames: named.identities,
	})
	// The gateway knows of no requests within what it passes on, so it is the sidecar that leaves connections in time.
	for _, p := range rule.Spec.TrafficPolicy.PortLevelSettings {
		p.ConnectionPool = portConnectionPool(vm.Spec.Federation.TCPKeepalive)
	}
	return Named{entry, rule}
}

// limitedRule connects to each port as tls says, by the server name that it has. What stands at the top
// level does not hold for a port that has settings of its own, so both have everything.
func (s *service) limitedRule(vm *membership.VirtualMesh, meta metav1.ObjectMeta, serverName func(uint32) string, tls *networkingapi.ClientTLSSettings) *networkingv1.DestinationRule {
	keepalive := vm.Spec.Federation.TCPKeepalive
	settings := func(sni string) *networkingapi.ClientTLSSettings {
		return &networkingapi.ClientTLSSettings{
			Mode: tls.Mode, CredentialName: tls.CredentialName, SubjectAltNames: slices.Clone(tls.SubjectAltNames), Sni: sni,
		}
	}
	policy := &networkingapi.TrafficPolicy{Tls: settings(""), ConnectionPool: connectionPool(keepalive)}
	for _, p := range s.ports {
		policy.PortLevelSettings = append(policy.PortLevelSettings, &networkingapi.TrafficPolicy_PortTrafficPolicy{
			Port:           &networkingapi.PortSelector{Number: p.number},
			Tls:            settings(serverName(p.number)),
			ConnectionPool: connectionPool(keepalive),
		})
	}
	return &networkingv1.DestinationRule{
		TypeMeta:   metav1.TypeMeta{APIVersion: apiVersion, Kind: "DestinationRule"},
		ObjectMeta: meta,
		Spec:       networkingapi.DestinationRule{Host: s.hostname, TrafficPolicy: policy, ExportTo: []string{"*"}},
	}
}

// gatewaysTrustEachOther says why the gateways of two meshes would not trust each other, or returns nil: each must have been seen
// to use a certificate of this virtual mesh, and to know others by the root under which that of the other is issued.
func gatewaysTrustEachOther(vm *membership.VirtualMesh, client, home *v1alpha1.Mesh) *finding.Finding {
	wait := func(m *v1alpha1.Mesh, format string, args ...any) *finding.Finding {
		return &finding.Finding{Field: "status.gatewayCertificate", Reason: ReasonNotTrusted, Mesh: membership.MeshKey(m), Message: fmt.Sprintf(format, args...)}
	}
	for _, m := range []*v1alpha1.Mesh{client, home} {
		if c := m.Status.GatewayCertificate; c == nil || c.VirtualMesh != vm.Name || c.Signer == "" {
			return wait(m, "gateways of mesh %s were not seen yet to use a certificate of VirtualMesh %s: import waits; see that its gateways for limited trust run "+
				"(chart isthmus-gateways) and its agent is connected", m.Name, vm.Name)
		}
	}
	for _, pair := range [][2]*v1alpha1.Mesh{{client, home}, {home, client}} {
		if !slices.Contains(pair[0].Status.GatewayCertificate.Roots, pair[1].Status.GatewayCertificate.Signer) {
			return wait(pair[0], "gateways of mesh %s do not know the root of those of mesh %s yet: import waits until they were seen to", pair[0].Name, membership.MeshKey(pair[1]))
		}
	}
	return nil
}
