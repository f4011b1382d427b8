package federation

import (
	"fmt"
	"slices"
	"strings"

	networkingapi "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// Limits of what is imported, so that each object stays well below the size that an API server takes.
const (
	maxSubsets = 32
	// maxPortSettings are ports, times one more than there are subsets, in a DestinationRule.
	maxPortSettings = 2048
	// maxEndpoints in a ServiceEntry, and maxEndpointPorts are endpoints times ports.
	maxEndpoints     = 1000
	maxEndpointPorts = 8192
	// maxNames are addresses of gateways that are names.
	maxNames = 8
)

// Named is what a client mesh needs to reach a destination of another mesh by one name.
type Named struct {
	ServiceEntry    *networkingv1.ServiceEntry
	DestinationRule *networkingv1.DestinationRule
}

// Imported is what a client mesh needs to reach a destination of another mesh.
type Imported struct {
	Named
	// Short is the same by the short hostname; nil where it has none.
	Short *Named
	// Egress is nil but under limited trust.
	Egress *Egress
	// Notes are worth knowing: what of the destination was left out, and why.
	Notes finding.Findings
}

// Refusal says why a destination is not imported.
type Refusal struct {
	finding.Finding
	// Withdraw says that what was imported before is taken back: by the users' own word it is not federated to this client any
	// more. Otherwise what is there stays as it is.
	Withdraw bool
}

// Client is what Import needs to know of the client mesh beside its Mesh.
type Client struct {
	Mesh *v1alpha1.Mesh
	// Address of the destination in this mesh, an IP address that nothing else has; "" for none.
	Address string
	// Forbidden reports whether a port of an IP address or of a DNS name must not be an endpoint, as those of API servers. nil
	// forbids none. Loopback, link-local, multicast and unspecified addresses never are.
	Forbidden func(address string, port int32) bool
	// ShortHostnameClusters are those whose services may have short hostnames although these could be names of the internet.
	ShortHostnameClusters []string
	// Imported says that the destination is imported already, in the way that the virtual mesh's trust calls for: whether the meshes
	// trust each other is not asked again.
	Imported bool
}

// Import makes the objects by which a client mesh reaches a destination of home, or says why not.
func Import(vm *membership.VirtualMesh, client Client, home *v1alpha1.Mesh, d *v1alpha1.Destination) (*Imported, *Refusal) {
	if r := notFor(vm, client.Mesh, home, d); r != nil {
		return nil, r
	}
	s, notes := describe(vm, home, d)
	if s == nil {
		return nil, refusal(notes)
	}
	if f := unreachable(vm, client.Mesh, s); f != nil {
		return nil, &Refusal{Finding: *f}
	}
	var through *Gateway
	if vm.Limited() {
		var f *finding.Finding
		if through, f = ChosenEgress(client.Mesh); f != nil {
			return nil, &Refusal{Finding: *f}
		}
	}
	endpoints, byName, more := s.endpoints(vm, client, home, d)
	if len(endpoints) == 0 {
		return nil, refusal(more)
	}
	notes = append(notes, more...)
	if !client.Imported {
		if f := TrustEachOther(vm, client.Mesh, home); f != nil {
			return nil, &Refusal{Finding: *f}
		}
	}
	subsets, more := s.subsets(vm, d)
	notes = append(notes, more...)

	named := func(hostname string) Named {
		meta := func() metav1.ObjectMeta {
			return madeFor(d, client.Mesh.Spec.Istio.RootNamespace, ObjectName(hostname))
		}
		s := *s
		s.hostname = hostname
		return Named{s.serviceEntry(meta(), client.Address, endpoints, byName), s.destinationRule(vm, meta(), subsets)}
	}
	out := &Imported{Notes: notes}
	if through != nil {
		named = func(hostname string) Named { return s.nameAtEgress(vm, client, *through, d, hostname) }
		out.Egress = s.throughEgress(vm, client, *through, home, d, endpoints, byName)
	}
	out.Named = named(s.hostname)
	if short := ShortHostname(vm, d); short != "" {
		if f := client.unfitShort(short); f != nil {
			out.Notes = append(out.Notes, *f)
		} else {
			out.Short = new(named(short))
		}
	}
	return out, nil
}

// refusal of the last of the findings: those before it say what led to it.
func refusal(fs finding.Findings) *Refusal { return &Refusal{Finding: fs[len(fs)-1]} }

// notFor says why a destination is not for a client mesh: by what users say, or because it is not what it is taken for.
func notFor(vm *membership.VirtualMesh, client, home *v1alpha1.Mesh, d *v1alpha1.Destination) *Refusal {
	refuse := func(withdraw bool, field, reason, format string, args ...any) *Refusal {
		return &Refusal{finding.Finding{Field: field, Reason: reason, Message: fmt.Sprintf(format, args...)}, withdraw}
	}
	for _, m := range []*v1alpha1.Mesh{client, home} {
		if !vm.Lists(m) {
			return refuse(true, "spec.meshes", ReasonNotMember, "VirtualMesh %s does not list mesh %s", vm.Name, membership.MeshKey(m))
		}
	}
	if !isOf(d, home) {
		return refuse(false, "spec.mesh", ReasonForeignDestination, "Destination %s/%s is none of mesh %s", d.Namespace, d.Name, membership.MeshKey(home))
	}
	if refTo(client) == refTo(home) {
		return refuse(true, "spec.federation.selectors", ReasonNotFederated, "a mesh imports nothing of itself")
	}
	if to := federatedTo(vm, home, d); !slices.Contains(to, everyMember) && !slices.Contains(to, membership.MeshKey(client)) {
		return refuse(true, "spec.federation.selectors", ReasonNotFederated,
			"VirtualMesh %s does not federate Destination %s/%s to mesh %s", vm.Name, d.Namespace, d.Name, membership.MeshKey(client))
	}
	if len(validation.IsDNS1123Label(client.Spec.Istio.RootNamespace)) > 0 {
		return refuse(false, "spec.istio.rootNamespace", ReasonInvalidName, "%q is no namespace", client.Spec.Istio.RootNamespace)
	}
	return nil
}

// unreachable says why a client mesh could not use the hostname of a service.
func unreachable(vm *membership.VirtualMesh, client *v1alpha1.Mesh, s *service) *finding.Finding {
	const field = "spec.federation.hostnameSuffix"
	f := finding.Finding{Field: field, Mesh: membership.MeshKey(client)}
	if domain := clusterDomain(client); strings.HasSuffix(s.hostname, "."+domain) {
		f.Reason, f.Message = ReasonInvalidName, fmt.Sprintf("%s lies in the cluster domain of mesh %s, %s: choose another hostnameSuffix", s.hostname, client.Name, domain)
		return &f
	}
	if suffix := suffix(vm); suffix != defaultSuffix && !client.Spec.Istio.SmartDNSProxyingEnabled {
		f.Reason, f.Message = ReasonSmartDNSRequired, fmt.Sprintf("proxies of mesh %s resolve no names that end in %s: set meshConfig.defaultConfig.proxyMetadata."+
			"ISTIO_META_DNS_CAPTURE to \"true\" there, or leave hostnameSuffix out", client.Name, suffix)
		return &f
	}
	return nil
}

// TrustEachOther says why connections between two meshes would not be trusted, or returns nil. Under shared trust each must
// have been seen to hold the roots under which the other's certificates are issued, and to use what it holds. Where trust is
// managed elsewhere it is taken for granted.
func TrustEachOther(vm *membership.VirtualMesh, client, home *v1alpha1.Mesh) *finding.Finding {
	if vm.Limited() {
		return gatewaysTrustEachOther(vm, client, home)
	}
	if vm.Spec.MTLSConfig == nil {
		return nil
	}
	wait := func(m *v1alpha1.Mesh, format string, args ...any) *finding.Finding {
		return &finding.Finding{Field: "status.certificateAuthority", Reason: ReasonNotTrusted, Mesh: membership.MeshKey(m), Message: fmt.Sprintf(format, args...)}
	}
	for _, m := range []*v1alpha1.Mesh{client, home} {
		ca := m.Status.CertificateAuthority
		switch {
		case ca == nil || ca.Signer == "" || len(ca.InUse) == 0:
			return wait(m, "which certificate authority mesh %s uses was not seen yet: import waits; see that its istiod runs and its agent is connected", m.Name)
		case slices.ContainsFunc(ca.InUse, func(root string) bool { return root != ca.Signer }):
			return wait(m, "istiod of mesh %s was not seen yet to use the certificate authority that it was given: import waits; it may need a restart (meshctl mesh restart)", m.Name)
		}
	}
	for _, pair := range [][2]*v1alpha1.Mesh{{client, home}, {home, client}} {
		if !slices.Contains(pair[0].Status.CertificateAuthority.Roots, pair[1].Status.CertificateAuthority.Signer) {
			return wait(pair[0], "mesh %s does not hold the root of mesh %s yet: import waits until shared trust is established", pair[0].Name, membership.MeshKey(pair[1]))
		}
	}
	return nil
}

// subsets takes the names of subsets. In a flat network no gateway tells them apart, and labels of pods are not known.
func (s *service) subsets(vm *membership.VirtualMesh, d *v1alpha1.Destination) (subsets []string, fs finding.Findings) {
	const field = "status.appliedFederation.subsets"
	applied := d.Status.AppliedFederation
	if applied == nil || len(applied.Subsets) == 0 {
		return nil, nil
	}
	leave := func(format string, args ...any) {
		fs = append(fs, finding.Finding{Field: field, Reason: ReasonSubsetsLeftOut, Message: fmt.Sprintf(format, args...)})
	}
	if vm.Limited() {
		leave("subsets are left out, as gateways of limited trust know the service as a whole: federate a Service for each version that others tell apart")
		return nil, fs
	}
	if vm.Spec.Federation.FlatNetwork {
		leave("subsets are left out, as nothing tells them apart in a flat network")
		return nil, fs
	}
	room := min(maxSubsets, maxPortSettings/len(s.ports)-1)
	for _, subset := range slices.Compact(slices.Sorted(slices.Values(applied.Subsets))) {
		last := s.sni(65535, subset)
		switch {
		case len(validation.IsDNS1123Label(subset)) > 0:
			leave("subset %q is left out: its name is no DNS label (RFC 1123)", subset)
		case len(last) > maxSNI:
			leave("subset %s is left out: the server name %s has more than %d characters", subset, last, maxSNI)
		case len(subsets) == room:
			leave("subset %s and those after it are left out: no more than %d are possible for a Service of %d ports", subset, room, len(s.ports))
			return subsets, fs
		default:
			subsets = append(subsets, subset)
		}
	}
	return subsets, fs
}

func (s *service) serviceEntry(meta metav1.ObjectMeta, address string, endpoints []*networkingapi.WorkloadEntry, byName bool) *networkingv1.ServiceEntry {
	out := &networkingv1.ServiceEntry{
		TypeMeta:   metav1.TypeMeta{APIVersion: apiVersion, Kind: "ServiceEntry"},
		ObjectMeta: meta,
		Spec: networkingapi.ServiceEntry{
			Hosts:           []string{s.hostname},
			Location:        networkingapi.ServiceEntry_MESH_INTERNAL,
			Resolution:      networkingapi.ServiceEntry_STATIC,
			Endpoints:       endpoints,
			ExportTo:        []string{"*"},
			SubjectAltNames: s.identities,
		},
	}
	if address != "" {
		out.Spec.Addresses = []string{address}
	}
	if byName {
		out.Spec.Resolution = networkingapi.ServiceEntry_DNS
	}
	for _, p := range s.ports {
		out.Spec.Ports = append(out.Spec.Ports, &networkingapi.ServicePort{Number: p.number, Name: p.name, Protocol: p.protocol})
	}
	return out
}

func (s *service) destinationRule(vm *membership.VirtualMesh, meta metav1.ObjectMeta, subsets []string) *networkingv1.DestinationRule {
	out := &networkingv1.DestinationRule{
		TypeMeta:   metav1.TypeMeta{APIVersion: apiVersion, Kind: "DestinationRule"},
		ObjectMeta: meta,
		Spec:       networkingapi.DestinationRule{Host: s.hostname, TrafficPolicy: s.trafficPolicy(vm, ""), ExportTo: []string{"*"}},
	}
	for _, subset := range subsets {
		out.Spec.Subsets = append(out.Spec.Subsets, &networkingapi.Subset{Name: subset, TrafficPolicy: s.trafficPolicy(vm, subset)})
	}
	return out
}

// trafficPolicy says how a subset of the service is connected to. What stands at the top level does not hold for a port that
// has settings of its own, so both have everything.
func (s *service) trafficPolicy(vm *membership.VirtualMesh, subset string) *networkingapi.TrafficPolicy {
	keepalive := vm.Spec.Federation.TCPKeepalive
	out := &networkingapi.TrafficPolicy{
		Tls:            &networkingapi.ClientTLSSettings{Mode: networkingapi.ClientTLSSettings_ISTIO_MUTUAL},
		ConnectionPool: connectionPool(keepalive),
	}
	if vm.Spec.Federation.FlatNetwork {
		return out
	}
	for _, p := range s.ports {
		out.PortLevelSettings = append(out.PortLevelSettings, &networkingapi.TrafficPolicy_PortTrafficPolicy{
			Port:           &networkingapi.PortSelector{Number: p.number},
			Tls:            &networkingapi.ClientTLSSettings{Mode: networkingapi.ClientTLSSettings_ISTIO_MUTUAL, Sni: s.sni(p.number, subset)},
			ConnectionPool: portConnectionPool(keepalive),
		})
	}
	return out
}
