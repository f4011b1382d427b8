package federation

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// Limits. Honest agents keep to those of our API by themselves.
const (
	maxName       = 253
	maxSNI        = 255 // of Envoy's UpstreamTlsContext.sni; a longer one would have it refuse all clusters of a proxy
	maxPorts      = 128 // of endpoints in Istio's ServiceEntry
	maxPortName   = 62  // the same
	maxIdentities = 64
)

// service is what of a destination is fit to be written into objects of Istio.
type service struct {
	cluster string
	// hostname in other meshes, and host in its own.
	hostname, host string
	ports          []port
	identities     []string
}

type port struct {
	// name in objects of Istio, and of is that in the home mesh's endpoints.
	name, of string
	number   uint32
	target   string // of the pods, a number or a name
	protocol string // of Istio; empty for Istio to find out
}

// sni is the server name by which a pass-through gateway finds a subset of a port of the service.
func (s *service) sni(number uint32, subset string) string {
	return fmt.Sprintf("outbound_.%d_.%s_.%s", number, subset, s.host)
}

// describe judges what the home mesh says of a destination. Findings without a result say why it is unfit.
func describe(vm *membership.VirtualMesh, home *v1alpha1.Mesh, d *v1alpha1.Destination) (*service, finding.Findings) {
	k := &d.Spec.KubeService
	refuse := func(field, reason, format string, args ...any) (*service, finding.Findings) {
		return nil, finding.Findings{{Field: field, Reason: reason, Message: fmt.Sprintf(format, args...)}}
	}
	s := &service{
		cluster:  membership.Cluster(d.Namespace),
		hostname: Hostname(vm, d),
		host:     k.Name + "." + k.Namespace + ".svc." + clusterDomain(home),
	}
	for _, label := range []struct{ field, value string }{
		{"metadata.namespace", s.cluster}, {"spec.kubeService.name", k.Name}, {"spec.kubeService.namespace", k.Namespace},
	} {
		if len(validation.IsDNS1123Label(label.value)) > 0 {
			return refuse(label.field, ReasonInvalidName, "%q is no DNS label (RFC 1123), so it cannot be part of a hostname", label.value)
		}
	}
	if d.Name != k.Name+"."+k.Namespace {
		return refuse("metadata.name", ReasonInvalidName, "the Destination of Service %s in namespace %s must be named %s.%s", k.Name, k.Namespace, k.Name, k.Namespace)
	}
	if !isFQDN(s.hostname) {
		return refuse("spec.federation.hostnameSuffix", ReasonInvalidName,
			"%s is no hostname, of at most %d characters in DNS labels: choose a shorter hostnameSuffix, or rename the Service", s.hostname, maxName)
	}
	if name := s.tooLong(); vm.Limited() && name != "" {
		return refuse("spec.federation.hostnameSuffix", ReasonInvalidName, "limited trust needs the name %s, which has more than %d characters: "+
			"choose a shorter hostnameSuffix, or rename the Service", name, maxName)
	}
	if !isFQDN(s.host) {
		return refuse("spec.istio.clusterDomain", ReasonInvalidName,
			"%s is no hostname, of at most %d characters in DNS labels: correct the cluster domain of mesh %s", s.host, maxName, home.Name)
	}
	switch {
	case isGateway(home, k.Name, k.Namespace):
		return refuse("spec.kubeService", ReasonGatewayService, "the Service is a gateway's, and gateways are never federated: leave it out of spec.federation.selectors")
	case k.Type == "ExternalName":
		return refuse("spec.kubeService.type", ReasonExternalName, "a Service of type ExternalName has no pods: leave it out of spec.federation.selectors")
	case k.Type == "Headless":
		return refuse("spec.kubeService.type", ReasonHeadless,
			"a pass-through gateway has no endpoints of a headless Service: select the pods by a second Service that has a cluster IP, and federate that")
	case slices.Contains(d.Spec.DataPlanes, v1alpha1.DataPlaneAmbient):
		return refuse("spec.dataPlanes", ReasonAmbient,
			"workloads behind the Service are in the ambient data plane, to which a pass-through gateway does not lead in this version: give them sidecars, or leave the Service out of spec.federation.selectors")
	}

	problem := s.takePorts(k)
	if problem != nil {
		return nil, finding.Findings{*problem}
	}
	fs := s.takeIdentities(home, d)
	if len(s.identities) == 0 {
		return nil, append(fs, finding.Finding{Field: "spec.identities", Reason: ReasonNoIdentity, Message: "no service account is known to " +
			"serve it, so clients could not verify who answers: run pods of the mesh behind it"})
	}
	return s, fs
}

// takePorts takes the TCP ports.
func (s *service) takePorts(k *v1alpha1.KubeService) *finding.Finding {
	const field = "spec.kubeService.ports"
	problem := func(reason, format string, args ...any) *finding.Finding {
		return &finding.Finding{Field: field, Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	names, numbers := map[string]struct{}{}, map[uint32]struct{}{}
	for i := range k.Ports {
		p := &k.Ports[i]
		protocol := protocolOf(p)
		if cmp.Or(p.Protocol, "TCP") != "TCP" || protocol == "UDP" {
			continue
		}
		if p.Port < 1 || p.Port > 65535 {
			return problem(ReasonInvalidPorts, "%d is no port number", p.Port)
		}
		numbered := fmt.Sprintf("port-%d", p.Port)
		of := cmp.Or(p.Name, numbered)
		name := of
		if len(name) > maxPortName {
			name = numbered
		}
		if len(validation.IsDNS1123Label(name)) > 0 {
			return problem(ReasonInvalidPorts, "%q is no DNS label (RFC 1123), as names of ports must be", name)
		}
		number := uint32(p.Port)
		_, twice := names[name]
		if _, again := numbers[number]; again || twice {
			return problem(ReasonInvalidPorts, "port %d, %s, is there twice", number, name)
		}
		names[name], numbers[number] = struct{}{}, struct{}{}
		s.ports = append(s.ports, port{name: name, of: of, number: number, target: cmp.Or(p.TargetPort, strconv.Itoa(int(p.Port))), protocol: protocol})
		if sni := s.sni(number, ""); len(sni) > maxSNI {
			return problem(ReasonInvalidName, "the server name %s has more than %d characters: rename the Service", sni, maxSNI)
		}
	}
	if len(s.ports) == 0 {
		return problem(ReasonNoPorts, "the Service has no TCP port: add one, or leave it out of spec.federation.selectors")
	}
	if len(s.ports) > maxPorts {
		return problem(ReasonTooMany, "%d ports are more than the %d that are possible", len(s.ports), maxPorts)
	}
	return nil
}

// protocols of Istio by what its istiod reads as such, in lower case (Istio: pkg/config/protocol/instance.go).
var protocols = map[string]string{
	"tcp": "TCP", "udp": "UDP", "grpc": "GRPC", "grpc-web": "GRPC-Web", "http": "HTTP", "http_proxy": "HTTP_PROXY", "http2": "HTTP2",
	"https": "HTTPS", "tls": "TLS", "mongo": "Mongo", "redis": "Redis", "mysql": "MySQL",
	"kubernetes.io/h2c": "HTTP2", "kubernetes.io/ws": "HTTP", "kubernetes.io/wss": "HTTPS",
}

// protocolOf is the protocol that the home istiod takes a port for, which the client's must take it for too: that of its
// appProtocol, else that by which its name begins (Istio: pkg/config/kube/conversion.go).
func protocolOf(p *v1alpha1.KubeServicePort) string {
	name := strings.ToLower(cmp.Or(p.AppProtocol, p.Name))
	if strings.HasPrefix(name, "grpc-web") {
		return protocols["grpc-web"]
	}
	prefix, _, _ := strings.Cut(name, "-")
	if protocol, ok := protocols[prefix]; ok {
		return protocol
	}
	switch p.Port {
	case 25, 53, 3306, 27017: // where the server speaks first, sniffing would wait for the client
		return "TCP"
	}
	return ""
}

var trustDomain = regexp.MustCompile(`^[a-z0-9._-]{1,255}$`) // as in the SPIFFE ID specification, 2.1

// takeIdentities takes those identities that the home mesh can have given to pods behind the service: of its own trust
// domain, and of the service's namespace.
func (s *service) takeIdentities(home *v1alpha1.Mesh, d *v1alpha1.Destination) (fs finding.Findings) {
	const field = "spec.identities"
	td := home.Spec.Istio.TrustDomain
	prefix := "spiffe://" + td + "/ns/" + d.Spec.KubeService.Namespace + "/sa/"
	for _, id := range d.Spec.Identities {
		sa, ok := strings.CutPrefix(id, prefix)
		if !ok || !trustDomain.MatchString(td) || len(validation.IsDNS1123Subdomain(sa)) > 0 {
			fs = append(fs, finding.Finding{Field: field, Reason: ReasonInvalidIdentity, Message: fmt.Sprintf(
				"%q is left out: identities behind the Service have the form %s<service account>", id, prefix)})
			continue
		}
		s.identities = append(s.identities, id)
	}
	slices.Sort(s.identities)
	s.identities = slices.Compact(s.identities)
	if len(s.identities) >= maxIdentities {
		s.identities = s.identities[:maxIdentities]
		fs = append(fs, finding.Finding{Field: field, Reason: ReasonTooMany, Message: fmt.Sprintf(
			"clients accept the first %d service accounts behind the Service and no others: split it if it has more", maxIdentities)})
	}
	return fs
}

// isGateway reports whether a Service is that of a gateway of the mesh.
func isGateway(home *v1alpha1.Mesh, name, namespace string) bool {
	return slices.ContainsFunc(home.Spec.Istio.Gateways, func(g v1alpha1.IngressGateway) bool {
		return g.Name == name && g.Namespace == namespace
	})
}

// isFQDN reports whether a name is one of DNS labels in lower case, the last no number, and at most 253 characters long.
func isFQDN(name string) bool {
	if len(name) > maxName || strings.Trim(name[strings.LastIndexByte(name, '.')+1:], "0123456789") == "" {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if len(validation.IsDNS1123Label(label)) > 0 {
			return false
		}
	}
	return true
}

func clusterDomain(m *v1alpha1.Mesh) string {
	return cmp.Or(m.Spec.Istio.ClusterDomain, defaultClusterDomain)
}

// Entrance is how gateways of the home mesh let a client mesh in to the first port of a destination: the server name to ask for, and
// the identities of which one is shown. Under limited trust that is the gateway's own; elsewhere it lets TLS pass to the destination.
// The server name is "" if there is no such port.
func Entrance(vm *membership.VirtualMesh, client, home *v1alpha1.Mesh, d *v1alpha1.Destination) (serverName string, identities []string) {
	k := &d.Spec.KubeService
	i := slices.IndexFunc(k.Ports, func(p v1alpha1.KubeServicePort) bool { return p.Protocol == "" || p.Protocol == "TCP" })
	if i < 0 {
		return "", nil
	}
	s, number := &service{host: k.Name + "." + k.Namespace + ".svc." + clusterDomain(home), hostname: Hostname(vm, d)}, uint32(k.Ports[i].Port)
	if vm.Limited() {
		return s.admittedName(number, refTo(client)), []string{membership.GatewayIdentity(vm.Name, refTo(home))}
	}
	return s.sni(number, ""), d.Spec.Identities
}
