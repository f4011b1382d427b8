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
	maxGateways          = 64
	maxAddresses         = 64
	maxGatewayIdentities = 8
)

// limitedLabels mark the gateways of limited trust, whatever Settings say and whatever else is marked.
var limitedLabels = []marked{
	{v1alpha1.GatewayLimitedIngress, map[string]string{v1alpha1.LabelGateway: v1alpha1.GatewayRoleIngress}},
	{v1alpha1.GatewayLimitedEgress, map[string]string{v1alpha1.LabelGateway: v1alpha1.GatewayRoleEgress}},
}

// gatewayLabels mark gateways where Settings say nothing else.
var gatewayLabels = []marked{
	{v1alpha1.GatewayEastWest, map[string]string{LabelGateway: "eastwestgateway"}},
	{v1alpha1.GatewayIngress, map[string]string{LabelGateway: "ingressgateway"}},
}

// gatewayClasses, the preferred first. Those of limited trust are few, and must not be cut off by the limit of the API: they are
// made room for.
var gatewayClasses = []v1alpha1.GatewayClass{
	v1alpha1.GatewayEastWest, v1alpha1.GatewayIngress, v1alpha1.GatewayOther, v1alpha1.GatewayLimitedIngress, v1alpha1.GatewayLimitedEgress,
}

type marked struct {
	class  v1alpha1.GatewayClass
	labels map[string]string
}

// GatewayDetector recognises the Services of gateways.
type GatewayDetector struct {
	marks       []marked
	tlsPortName string
}

// NewGatewayDetector makes the detector for a cluster from Settings, in which "*" stands for all clusters that are not
// named.
func NewGatewayDetector(s *v1alpha1.IstioDiscoverySettings, cluster string) GatewayDetector {
	out := GatewayDetector{marks: slices.Concat(limitedLabels, gatewayLabels)}
	if s == nil {
		return out
	}
	d, ok := s.IngressGatewayDetectors[cluster]
	if !ok {
		d = s.IngressGatewayDetectors["*"]
	}
	if len(d.GatewayWorkloadLabels) > 0 {
		out.marks = append(slices.Clone(limitedLabels), marked{v1alpha1.GatewayEastWest, d.GatewayWorkloadLabels})
	}
	out.tlsPortName = d.GatewayTLSPortName
	return out
}

// Equal reports whether two detectors say the same.
func (d GatewayDetector) Equal(other GatewayDetector) bool {
	return d.tlsPortName == other.tlsPortName && slices.EqualFunc(d.marks, other.marks, func(a, b marked) bool {
		return a.class == b.class && maps.Equal(a.labels, b.labels)
	})
}

// Class is what a Service is marked as; empty if it is not marked as a gateway's. A gateway's Service selects its pods by the
// detector's labels or carries them itself.
func (d GatewayDetector) Class(s *corev1.Service) v1alpha1.GatewayClass {
	for _, m := range d.marks {
		if len(s.Spec.Selector) > 0 && (within(m.labels, s.Spec.Selector) || within(m.labels, s.Labels)) {
			return m.class
		}
	}
	return ""
}

// GatewayClass is what a Service is, marked or not, whose backends are given; empty if it is not a gateway's. Not marked but a
// gateway's is a Service with proxies behind it that stand alone: a pod that is one, or a template that makes them.
func (in *Installation) GatewayClass(d GatewayDetector, s *corev1.Service, ns *corev1.Namespace, b Backends) v1alpha1.GatewayClass {
	if class := d.Class(s); class != "" {
		return class
	}
	if slices.ContainsFunc(b.Pods, func(p *corev1.Pod) bool { return Live(p) && ProxyOf(p, ns).DataPlane == v1alpha1.DataPlaneGateway }) ||
		slices.ContainsFunc(b.Controllers, func(c Controller) bool { return in.Expected(c.Template, ns).DataPlane == v1alpha1.DataPlaneGateway }) {
		return v1alpha1.GatewayOther
	}
	return ""
}

// within reports whether m has all pairs of want.
func within(want, m map[string]string) bool {
	for k, v := range want {
		if have, ok := m[k]; !ok || have != v {
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
	// Class of the gateway.
	Class v1alpha1.GatewayClass
	// Identities of these pods, and of those that will be.
	Identities []string
}

// limited reports whether a class is of limited trust.
func limited(class v1alpha1.GatewayClass) bool {
	return class == v1alpha1.GatewayLimitedIngress || class == v1alpha1.GatewayLimitedEgress
}

// Preferred sorts gateways, the preferred first, and leaves out those beyond the limit of the API.
func Preferred(gateways []v1alpha1.IngressGateway) []v1alpha1.IngressGateway {
	rank := func(g v1alpha1.IngressGateway) int { return slices.Index(gatewayClasses, g.Class) }
	slices.SortFunc(gateways, func(a, b v1alpha1.IngressGateway) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	first := slices.IndexFunc(gateways, func(g v1alpha1.IngressGateway) bool { return limited(g.Class) })
	if over := len(gateways) - maxGateways; over > 0 && first >= 0 {
		gateways = slices.Delete(gateways, max(0, first-over), first)
	}
	return gateways[:min(len(gateways), maxGateways)]
}

// Describe describes a gateway with the addresses at which it is reachable from outside: those of its load balancer and its
// externalIPs, at the Service's ports; where it has none of these, its nodes, at the node ports.
func (d GatewayDetector) Describe(g Gateway) v1alpha1.IngressGateway {
	s := g.Service
	out := v1alpha1.IngressGateway{
		Name: s.Name, Namespace: s.Namespace, Class: g.Class, Labels: atMost(s.Labels, 32), TLSPortName: d.tlsPortName,
		Selector: atMost(s.Spec.Selector, 32),
	}
	if limited(g.Class) {
		out.Identities = g.Identities[:min(len(g.Identities), maxGatewayIdentities)]
	}
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
