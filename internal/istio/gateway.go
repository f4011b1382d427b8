package istio

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

const (
	maxGateways  = 64
	maxAddresses = 64
)

// gatewayLabels mark gateways where Settings say nothing else, the preferred first.
var gatewayLabels = []map[string]string{
	{LabelGateway: "eastwestgateway"},
	{LabelGateway: "ingressgateway"},
}

// GatewayDetector recognises the Services of gateways.
type GatewayDetector struct {
	labels []map[string]string
}

// NewGatewayDetector makes the detector for a cluster from Settings, in which "*" stands for all clusters that are not
// named.
func NewGatewayDetector(s *v1alpha1.IstioDiscoverySettings, cluster string) GatewayDetector {
	if s != nil {
		d, ok := s.IngressGatewayDetectors[cluster]
		if !ok {
			d = s.IngressGatewayDetectors["*"]
		}
		if len(d.GatewayWorkloadLabels) > 0 {
			return GatewayDetector{[]map[string]string{d.GatewayWorkloadLabels}}
		}
	}
	return GatewayDetector{gatewayLabels}
}

// Equal reports whether two detectors recognise the same.
func (d GatewayDetector) Equal(other GatewayDetector) bool {
	return slices.EqualFunc(d.labels, other.labels, maps.Equal)
}

// Rank is the place of a Service in the order of preference, from 0; false if it is not a gateway's. A gateway's Service
// selects its pods by the detector's labels or carries them itself.
func (d GatewayDetector) Rank(s *corev1.Service) (int, bool) {
	i := slices.IndexFunc(d.labels, func(want map[string]string) bool {
		return len(s.Spec.Selector) > 0 && (within(want, s.Spec.Selector) || within(want, s.Labels))
	})
	return i, i >= 0
}

// within reports whether m has all pairs of want.
func within(want, m map[string]string) bool {
	for k, v := range want {
		if m[k] != v {
			return false
		}
	}
	return true
}

// Gateway is a gateway's Service with what is behind it.
type Gateway struct {
	Service *corev1.Service
	// Pods of the gateway.
	Pods []*corev1.Pod
	// Nodes of these pods.
	Nodes []*corev1.Node
	// Rank in the order of preference.
	Rank int
}

// Gateways describes the gateways of a mesh, the preferred first.
func Gateways(gateways []Gateway) []v1alpha1.IngressGateway {
	slices.SortFunc(gateways, func(a, b Gateway) int {
		return cmp.Or(cmp.Compare(a.Rank, b.Rank), cmp.Compare(a.Service.Namespace, b.Service.Namespace), cmp.Compare(a.Service.Name, b.Service.Name))
	})
	var out []v1alpha1.IngressGateway
	for _, g := range gateways[:min(len(gateways), maxGateways)] {
		out = append(out, g.describe())
	}
	return out
}

// describe finds the addresses at which a gateway is reachable from outside: those of its load balancer and its
// externalIPs, at the Service's ports; where it has none of these, its nodes, at the node ports.
func (g *Gateway) describe() v1alpha1.IngressGateway {
	s := g.Service
	out := v1alpha1.IngressGateway{Name: s.Name, Namespace: s.Namespace, Selector: atMost(s.Spec.Selector, 32)}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		for _, in := range s.Status.LoadBalancer.Ingress {
			out.Addresses = append(out.Addresses, cmp.Or(in.IP, in.Hostname))
		}
	}
	out.Addresses = append(out.Addresses, s.Spec.ExternalIPs...)
	byNode := len(out.Addresses) == 0 && s.Spec.Type == corev1.ServiceTypeNodePort
	if byNode {
		for _, n := range g.Nodes {
			if a := nodeAddress(n); a != "" {
				out.Addresses = append(out.Addresses, a)
			}
		}
	}
	slices.Sort(out.Addresses)
	out.Addresses = slices.Compact(out.Addresses)
	out.Addresses = out.Addresses[:min(len(out.Addresses), maxAddresses)]
	for _, p := range s.Spec.Ports[:min(len(s.Spec.Ports), 64)] {
		port := v1alpha1.GatewayPort{Name: p.Name, Port: p.Port, ExternalPort: p.Port, TargetPort: g.targetPort(&p)}
		if byNode && p.NodePort != 0 {
			port.ExternalPort = p.NodePort
		}
		out.Ports = append(out.Ports, port)
	}
	return out
}

// targetPort is the number of the pods' port, which the Service may name; 0 if no pod has a port of that name.
func (g *Gateway) targetPort(p *corev1.ServicePort) int32 {
	if p.TargetPort.Type == intstr.Int {
		return cmp.Or(p.TargetPort.IntVal, p.Port)
	}
	for _, pod := range g.Pods {
		for i := range pod.Spec.Containers {
			for _, cp := range pod.Spec.Containers[i].Ports {
				if cp.Name == p.TargetPort.StrVal {
					return cp.ContainerPort
				}
			}
		}
	}
	return 0
}

// nodeAddress is the address at which a node can best be reached from outside of the cluster.
func nodeAddress(n *corev1.Node) string {
	for _, kind := range []corev1.NodeAddressType{corev1.NodeExternalIP, corev1.NodeExternalDNS, corev1.NodeInternalIP} {
		for _, a := range n.Status.Addresses {
			if a.Type == kind {
				return a.Address
			}
		}
	}
	return ""
}
