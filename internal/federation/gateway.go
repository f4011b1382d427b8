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

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/naming"
)

const (
	apiVersion         = "networking.istio.io/v1"
	defaultTLSPort     = "tls"
	gatewaySelectors   = "spec.federation.ingressGatewaySelectors"
	maxGatewayNameSize = 63 // istiod refuses Gateways whose name is no DNS label
)

// Gateway is a gateway through which traffic to a mesh enters, with the port for TLS pass-through.
type Gateway struct {
	*v1alpha1.IngressGateway
	TLSPort v1alpha1.GatewayPort
}

func (g Gateway) String() string { return g.Namespace + "/" + g.Name }

// ChosenGateways returns the gateways of a mesh by which others enter it: those of limited trust under that, and never otherwise.
// Findings without a result say what is missing.
func ChosenGateways(vm *membership.VirtualMesh, home *v1alpha1.Mesh) ([]Gateway, finding.Findings) {
	f := vm.Spec.Federation
	if f == nil || !vm.Lists(home) {
		return nil, nil
	}
	if vm.Limited() {
		return chosenIngress(home)
	}
	if len(f.IngressGatewaySelectors) > 0 {
		return selectedGateways(f.IngressGatewaySelectors, home)
	}
	var lacking []string
	for _, class := range []v1alpha1.GatewayClass{v1alpha1.GatewayEastWest, v1alpha1.GatewayIngress} {
		var chosen []Gateway
		for i := range home.Spec.Istio.Gateways {
			g := &home.Spec.Istio.Gateways[i]
			if g.Class != class {
				continue
			}
			usable, lack := use(g, cmp.Or(g.TLSPortName, defaultTLSPort))
			if lack != "" {
				lacking = append(lacking, lack)
				continue
			}
			chosen = append(chosen, usable)
		}
		if chosen != nil {
			return chosen, nil
		}
	}
	if lacking == nil {
		lacking = []string{"no gateway's Service or pods are labelled istio=eastwestgateway or istio=ingressgateway"}
	}
	return nil, noGateway(home, "", lacking)
}

// isLimited reports whether a gateway is one of limited trust.
func isLimited(g *v1alpha1.IngressGateway) bool {
	return g.Class == v1alpha1.GatewayLimitedIngress || g.Class == v1alpha1.GatewayLimitedEgress
}

// selectedGateways are the gateways that selectors choose, whatever their class, but for those of limited trust.
func selectedGateways(selectors []v1alpha1.IngressGatewaySelector, home *v1alpha1.Mesh) (chosen []Gateway, fs finding.Findings) {
	var lacking []string
	for i := range home.Spec.Istio.Gateways {
		g := &home.Spec.Istio.Gateways[i]
		if isLimited(g) {
			continue
		}
		for _, s := range selectors {
			if !membership.SelectsService(s.DestinationSelectors, membership.Cluster(home.Namespace), g.Name, g.Namespace, g.Labels) {
				continue
			}
			usable, lack := use(g, cmp.Or(s.PortName, defaultTLSPort))
			if lack == "" {
				chosen = append(chosen, usable)
				break
			}
			lacking = append(lacking, lack)
		}
	}
	if chosen != nil {
		return chosen, nil
	}
	if lacking == nil {
		lacking = []string{"none of its gateways is selected"}
	}
	return nil, noGateway(home, gatewaySelectors, lacking)
}

func noGateway(home *v1alpha1.Mesh, field string, lacking []string) finding.Findings {
	return finding.Findings{{Field: field, Reason: ReasonNoGateway, Mesh: membership.MeshKey(home), Message: fmt.Sprintf(
		"mesh %s has no gateway through which others can enter: %s", home.Name, strings.Join(lacking, "; "))}}
}

// use takes the port of a gateway that has a name, or says what the gateway lacks.
func use(g *v1alpha1.IngressGateway, portName string) (usable Gateway, lack string) {
	i := slices.IndexFunc(g.Ports, func(p v1alpha1.GatewayPort) bool { return p.Name == portName })
	switch {
	case i < 0:
		return Gateway{}, fmt.Sprintf("Service %s/%s has no port named %s", g.Namespace, g.Name, portName)
	case len(g.Addresses) == 0:
		return Gateway{}, fmt.Sprintf("Service %s/%s has no address: it needs a load balancer, externalIPs, or type NodePort", g.Namespace, g.Name)
	}
	return Gateway{g, g.Ports[i]}, ""
}

// GatewayObject is the Istio Gateway by which one gateway of the home mesh admits hosts; nil if there are none.
func GatewayObject(vm *membership.VirtualMesh, home *v1alpha1.Mesh, g Gateway, hosts []string) *networkingv1.Gateway {
	if f := vm.Spec.Federation; len(hosts) == 0 || f == nil || f.FlatNetwork || vm.Limited() {
		return nil
	}
	return &networkingv1.Gateway{
		TypeMeta:   metav1.TypeMeta{APIVersion: apiVersion, Kind: "Gateway"},
		ObjectMeta: metav1.ObjectMeta{Namespace: g.Namespace, Name: naming.Short("isthmus-"+g.Name, maxGatewayNameSize)},
		Spec: networkingapi.Gateway{
			Selector: maps.Clone(g.Selector),
			Servers: []*networkingapi.Server{{
				Port:  &networkingapi.Port{Number: uint32(serverPort(home, g)), Name: "tls-isthmus", Protocol: "TLS"},
				Hosts: slices.Clone(hosts),
				Tls:   &networkingapi.ServerTLSSettings{Mode: networkingapi.ServerTLSSettings_AUTO_PASSTHROUGH},
			}},
		},
	}
}

// serverPort is the number by which a Gateway's server gets to listen at the target port. For a Gateway with a selector
// istiod looks for a Service of the pod that has a port of that number, and listens at the target port of the first it finds;
// where there is none it listens at the number itself (Istio: pilot/pkg/model/gateway.go, resolvePorts). So it is the target
// port, which no other Service can change, unless a Service has a port of the same number that leads elsewhere.
func serverPort(home *v1alpha1.Mesh, g Gateway) int32 {
	target := g.TLSPort.TargetPort
	if target == 0 {
		return g.TLSPort.Port
	}
	leadsElsewhere := func(p v1alpha1.GatewayPort) bool { return p.Port == target && p.TargetPort != target }
	if slices.ContainsFunc(g.Ports, leadsElsewhere) || slices.ContainsFunc(home.Spec.Istio.Gateways, func(other v1alpha1.IngressGateway) bool {
		return other.Namespace == g.Namespace && (within(other.Selector, g.Selector) || within(g.Selector, other.Selector)) &&
			slices.ContainsFunc(other.Ports, leadsElsewhere)
	}) {
		return g.TLSPort.Port
	}
	return target
}

// PassThrough finds servers of a Gateway of somebody else that let more pass through gateway g than is federated: it returns
// a finding that names it, or nil.
func PassThrough(g Gateway, other *networkingv1.Gateway) *finding.Finding {
	if !within(other.Spec.Selector, g.Selector) {
		return nil
	}
	for _, s := range other.Spec.Servers {
		n := s.GetPort().GetNumber()
		if s.GetTls().GetMode() == networkingapi.ServerTLSSettings_AUTO_PASSTHROUGH && slices.ContainsFunc(g.Ports, func(p v1alpha1.GatewayPort) bool {
			return uint32(p.Port) == n || uint32(p.TargetPort) == n
		}) {
			return &finding.Finding{Reason: ReasonForeignPassThrough, Message: fmt.Sprintf(
				"Gateway %s/%s admits [%s] at port %d of gateway %s, federated or not: remove its server of mode AUTO_PASSTHROUGH, or give it other pods",
				other.Namespace, other.Name, strings.Join(s.Hosts, ", "), n, g)}
		}
	}
	return nil
}

// within reports whether m has all pairs of want.
func within(want, m map[string]string) bool {
	for k, v := range want {
		if got, ok := m[k]; !ok || got != v {
			return false
		}
	}
	return true
}
