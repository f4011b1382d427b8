package federation

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networkingapi "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/naming"
)

// Reasons for which a cluster does not serve a virtual destination, beside those for which a destination is not imported.
const (
	// ReasonNotImported says that what the cluster has is not imported into the client mesh.
	ReasonNotImported = "NotImported"
	// ReasonNoSelector says that the Service has no selector by which istiod could find its pods.
	ReasonNoSelector = "NoSelector"
	// ReasonPortMissing says that the Service lacks a port of the virtual destination.
	ReasonPortMissing = "PortMissing"
	// ReasonLimitedTrust says that under limited trust no other cluster can serve it.
	ReasonLimitedTrust = "LimitedTrust"
	// ReasonServerNameDiffers says that gateways of several clusters cannot be reached by one server name.
	ReasonServerNameDiffers = "ServerNameDiffers"
)

// Virtual is a virtual destination in force.
type Virtual struct {
	Hostname string
	Spec     *v1alpha1.VirtualDestinationSpec
}

// Member is what is known of the service of a virtual destination in one of the clusters that it names.
type Member struct {
	Cluster string
	// Home and Destination are nil if they are not known.
	Home        *v1alpha1.Mesh
	Destination *v1alpha1.Destination
	// Imported says that the client mesh has imported the destination. Nothing else of another cluster is taken, so that all
	// that holds for imports holds here.
	Imported bool
}

// Joined is what a client mesh needs to reach a virtual destination.
type Joined struct {
	DestinationRule *networkingv1.DestinationRule
	// Own has the pods of the client's own cluster, which istiod finds by the Service's selector, and Others lead to those of other
	// clusters. They have the same host and lie in one namespace, which has istiod take them for one service. One of them may be
	// nil.
	Own, Others *networkingv1.ServiceEntry
	// Clusters that serve it, the client's own first.
	Clusters []string
}

// Join makes the objects by which a client mesh reaches a virtual destination. Findings say which clusters do not serve it and
// why; if none does there are no objects. The result is nil if the client could not use the name. was is Others as it is at
// present, nil if there is none: of a cluster of which is not known what it has now, what was known stays.
func Join(vm *membership.VirtualMesh, client Client, v Virtual, members []Member, was *networkingv1.ServiceEntry) (*Joined, finding.Findings) {
	j := join{vm: vm, client: client, virtual: v, was: was, ports: map[uint32]*port{}}
	if f := j.unusable(); f != nil {
		return nil, finding.Findings{*f}
	}
	for _, n := range slices.Compact(slices.Sorted(slices.Values(v.Spec.Ports))) {
		j.ports[uint32(n)] = &port{name: fmt.Sprintf("virtual-destination-%d", n), number: uint32(n)}
		j.numbers = append(j.numbers, uint32(n))
	}
	for _, m := range members {
		if m.Home != nil && refTo(m.Home) == refTo(client.Mesh) && m.Destination != nil {
			j.takeOwn(m)
		}
	}
	others := j.others(members)
	domain := j.serverDomain(others)
	for _, o := range others {
		j.takeOther(o, domain)
	}
	if len(j.clusters) == 0 {
		return &Joined{}, append(j.fs, finding.Finding{Field: "spec.clusters", Reason: ReasonNoEndpoints, Message: fmt.Sprintf(
			"no cluster serves %s in this mesh", v.Hostname)})
	}
	return j.result(), j.fs
}

const (
	// maxJoinedIdentities of all clusters together.
	maxJoinedIdentities = 1024
	// firstVirtual begins names of objects of ours that no hostname may begin with.
	firstVirtual = "isthmus-"
)

// failoverLabel is on endpoints of other clusters, and on no pod: "<key>=" has Istio send to endpoints without it first.
const failoverLabel = v1alpha1.LabelCluster

// join gathers what serves a virtual destination.
type join struct {
	vm      *membership.VirtualMesh
	client  Client
	virtual Virtual
	was     *networkingv1.ServiceEntry
	// ports by number, and the numbers sorted.
	ports   map[uint32]*port
	numbers []uint32

	namespace  string // of ServiceEntries
	own        *service
	selector   map[string]string
	targets    map[uint32]uint32 // ports of pods, where they are numbers
	endpoints  []*networkingapi.WorkloadEntry
	byName     bool
	host       string // by which gateways know the service
	identities []string
	protocols  map[uint32][]string // that other clusters have
	clusters   []string
	fs         finding.Findings
}

// other is another cluster that has the service.
type other struct {
	cluster string
	home    *v1alpha1.Mesh
	d       *v1alpha1.Destination
	service *service // nil if it is not known what the cluster has now
	why     string   // it is not
}

// unusable says why the client mesh could not use the hostname.
func (j *join) unusable() *finding.Finding {
	const field = "spec.hostname"
	host, domain := j.virtual.Hostname, clusterDomain(j.client.Mesh)
	f := finding.Finding{Field: field, Reason: ReasonInvalidName, Mesh: membership.MeshKey(j.client.Mesh)}
	switch suffix := suffix(j.vm); {
	case UnfitHostname(host, suffix) != "":
		f.Message = UnfitHostname(host, suffix)
	case strings.HasSuffix(host, "."+domain):
		f.Message = fmt.Sprintf("%s lies in the cluster domain of mesh %s, %s: choose another hostname", host, j.client.Mesh.Name, domain)
	case !strings.HasSuffix(host, "."+defaultSuffix) && !j.client.Mesh.Spec.Istio.SmartDNSProxyingEnabled:
		f.Reason, f.Message = ReasonSmartDNSRequired, fmt.Sprintf("proxies of mesh %s resolve no names but those that end in %s: set meshConfig.defaultConfig."+
			"proxyMetadata.ISTIO_META_DNS_CAPTURE to \"true\" there, or choose such a hostname", j.client.Mesh.Name, defaultSuffix)
	case len(validation.IsDNS1123Label(j.client.Mesh.Spec.Istio.RootNamespace)) > 0:
		f.Field, f.Message = "spec.istio.rootNamespace", fmt.Sprintf("%q is no namespace", j.client.Mesh.Spec.Istio.RootNamespace)
	default:
		return nil
	}
	return &f
}

// VirtualHostname is the hostname of a virtual destination that names none.
func VirtualHostname(service v1alpha1.ServiceRef, hostnameSuffix string) string {
	return service.Name + "." + service.Namespace + ".svc." + cmp.Or(hostnameSuffix, defaultSuffix)
}

// UnfitHostname says what speaks against a hostname of a virtual destination; "" if nothing does. Agents may write no other than
// those of services, so that one that was taken over cannot take the place of a host of the internet. A federated hostname has
// one label more than that of a virtual destination that names none, the cluster.
func UnfitHostname(host, hostnameSuffix string) string {
	hostnameSuffix = cmp.Or(hostnameSuffix, defaultSuffix)
	rest, suffixed := strings.CutSuffix(host, "."+hostnameSuffix)
	labels := strings.Split(rest, ".")
	switch {
	case !isFQDN(host) || !strings.Contains(host, "."):
		return fmt.Sprintf("%q is no hostname: it has at least two DNS labels (RFC 1123) and at most %d characters", host, maxName)
	case strings.HasPrefix(host, firstVirtual):
		return fmt.Sprintf("%s begins with %q, as names of objects of Isthmus do: choose another hostname", host, firstVirtual)
	case len(strings.Split(host, ".")) < 4 || strings.Split(host, ".")[2] != "svc" || strings.HasSuffix(host, ".svc."+defaultClusterDomain):
		return fmt.Sprintf("%s does not have the form <name>.<namespace>.svc.<suffix>, with another suffix than %s: choose another hostname", host, defaultClusterDomain)
	case suffixed && len(labels) == 4 && labels[2] == "svc":
		return fmt.Sprintf("%s has the form of federated hostnames, <service>.<namespace>.svc.<cluster>.%s: choose another hostname", host, hostnameSuffix)
	}
	return ""
}

func (j *join) leave(cluster, field, reason, format string, args ...any) {
	j.fs = append(j.fs, finding.Finding{Field: field, Reason: reason, Message: "cluster " + cluster + " does not serve it: " + fmt.Sprintf(format, args...)})
}

// takeOwn takes what the client's own cluster has.
func (j *join) takeOwn(m Member) {
	d := m.Destination
	j.namespace = j.virtual.Spec.Service.Namespace // where istiod looks for pods, also when it has none for a while
	s, notes := describe(j.vm, j.client.Mesh, d)
	if s == nil {
		f := refusal(notes)
		j.leave(m.Cluster, f.Field, f.Reason, "%s", f.Message)
		return
	}
	if len(d.Spec.KubeService.Selector) == 0 {
		j.leave(m.Cluster, "spec.kubeService.selector", ReasonNoSelector, "its Service has no selector, so istiod does not know its pods: add one")
		return
	}
	if missing := j.missing(s); missing != nil {
		j.leave(m.Cluster, "spec.ports", ReasonPortMissing, "%s", lacks(missing))
		return
	}
	names, targets := map[uint32]string{}, map[uint32]uint32{}
	for i := range d.Spec.KubeService.Ports {
		p := &d.Spec.KubeService.Ports[i]
		number := uint32(p.Port)
		if j.ports[number] == nil || cmp.Or(p.Protocol, "TCP") != "TCP" {
			continue
		}
		target, err := strconv.ParseUint(cmp.Or(p.TargetPort, "0"), 10, 16)
		switch {
		case err == nil && target == 0:
			targets[number] = number
		case err == nil:
			targets[number] = uint32(target)
		case len(validation.IsValidPortName(p.TargetPort)) > 0:
			j.leave(m.Cluster, "spec.kubeService.ports", ReasonInvalidPorts, "%q is no name of a port", p.TargetPort)
			return
		default:
			for n, name := range names {
				if name == p.TargetPort {
					j.leave(m.Cluster, "spec.kubeService.ports", ReasonInvalidPorts,
						"ports %d and %d lead to the same port of pods, %s, by its name: give one of them the number as targetPort", n, number, name)
					return
				}
			}
			// istiod finds the port of a pod that has a name by the name of the ServiceEntry's (Istio: pilot/pkg/serviceregistry/
			// serviceentry/conversion.go). No other name of ours is as short as those of pods' ports.
			names[number] = p.TargetPort
		}
	}
	for n, name := range names {
		j.ports[n].name = name
	}
	for _, p := range s.ports {
		if j.ports[p.number] != nil {
			j.ports[p.number].protocol = p.protocol
		}
	}
	j.own, j.selector, j.targets, j.identities = s, d.Spec.KubeService.Selector, targets, s.identities
	j.host = s.host
	j.clusters = append(j.clusters, m.Cluster)
}

// missing are the ports of the virtual destination that a service does not have.
func (j *join) missing(s *service) (out []uint32) {
	for _, n := range j.numbers {
		if !slices.ContainsFunc(s.ports, func(p port) bool { return p.number == n }) {
			out = append(out, n)
		}
	}
	return out
}

func lacks(ports []uint32) string {
	return fmt.Sprintf("its Service lacks the TCP port %s: add it there, or leave it out of spec.ports", strings.Trim(strings.Join(strings.Fields(fmt.Sprint(ports)), ", "), "[]"))
}

// others are the clusters beside the client's own that may serve it.
func (j *join) others(members []Member) (out []other) {
	for _, m := range members {
		o := other{cluster: m.Cluster, home: m.Home, d: m.Destination}
		if m.Home != nil && m.Home.Namespace == j.client.Mesh.Namespace || m.Home == nil && m.Cluster == membership.Cluster(j.client.Mesh.Namespace) {
			if m.Destination == nil {
				j.leave(m.Cluster, "spec.service", ReasonNoEndpoints, "it has no such Service in the mesh")
			} else if m.Home == nil || refTo(m.Home) != refTo(j.client.Mesh) {
				j.leave(m.Cluster, "spec.service", ReasonForeignDestination, "its Service is in another mesh of the cluster")
			}
			continue
		}
		if j.vm.Limited() {
			j.leave(m.Cluster, "spec.mtlsConfig.limited", ReasonLimitedTrust, "a virtual destination has one server name in all clusters, and gateways of limited trust one for each: "+
				"call the service there by its federated hostname, or use mtlsConfig.shared in VirtualMesh %s", j.vm.Name)
			continue
		}
		if !m.Imported {
			why := "it federates no such Service to this mesh, or it is not imported yet: see spec.federation.selectors of VirtualMesh " + j.vm.Name
			if m.Home != nil && m.Destination != nil {
				if r := notFor(j.vm, j.client.Mesh, m.Home, m.Destination); r != nil {
					why = r.Message
				}
			}
			j.leave(m.Cluster, "spec.clusters", ReasonNotImported, "%s", why)
			continue
		}
		if m.Home == nil || m.Destination == nil {
			o.why = "it does not report the Service any more"
			out = append(out, o)
			continue
		}
		if r := notFor(j.vm, j.client.Mesh, m.Home, m.Destination); r != nil {
			if r.Withdraw {
				j.leave(m.Cluster, r.Field, r.Reason, "%s", r.Message)
				continue
			}
			o.why = r.Message
		} else if s, notes := describe(j.vm, m.Home, m.Destination); s == nil {
			o.why = refusal(notes).Message
		} else {
			o.service = s
		}
		out = append(out, o)
	}
	return out
}

// serverDomain is the cluster domain of server names: the client's own if one of the others has it too, or else that which
// most of them have.
func (j *join) serverDomain(others []other) (domain string) {
	count := map[string]int{}
	for _, o := range others {
		if o.service == nil {
			continue
		}
		d := clusterDomain(o.home)
		if count[d]++; d == clusterDomain(j.client.Mesh) {
			return d
		}
		if count[d] > count[domain] {
			domain = d
		}
	}
	return domain
}

// takeOther takes what another cluster has.
func (j *join) takeOther(o other, domain string) {
	s := o.service
	if s == nil {
		j.keep(o.cluster, o.why)
		return
	}
	if missing := j.missing(s); missing != nil {
		j.leave(o.cluster, "spec.ports", ReasonPortMissing, "%s", lacks(missing))
		return
	}
	if d := clusterDomain(o.home); d != domain {
		j.leave(o.cluster, "spec.istio.clusterDomain", ReasonServerNameDiffers,
			"its cluster domain is %s, and that of others is %s: their gateways cannot be reached by one server name", d, domain)
		return
	}
	protocols := map[uint32]string{}
	var ports []port
	for _, p := range s.ports {
		if j.ports[p.number] != nil {
			protocols[p.number] = p.protocol
			p.name = j.ports[p.number].name
			ports = append(ports, p)
		}
	}
	s.ports = ports
	endpoints, byName, fs := s.endpoints(j.vm, j.client, o.home, o.d)
	if len(endpoints) == 0 {
		j.keep(o.cluster, refusal(fs).Message)
		return
	}
	if !j.identify(o.cluster, s.identities) {
		return
	}
	j.host, j.byName = s.host, j.byName || byName
	if j.protocols == nil {
		j.protocols = map[uint32][]string{}
	}
	for n, p := range protocols {
		j.protocols[n] = append(j.protocols[n], p)
	}
	j.add(o.cluster, endpoints)
}

// identify takes identities behind the service; false if there are too many, which is said.
func (j *join) identify(cluster string, identities []string) bool {
	union := slices.Compact(slices.Sorted(slices.Values(slices.Concat(j.identities, identities))))
	if len(union) > maxJoinedIdentities {
		j.leave(cluster, "spec.identities", ReasonTooMany, "all clusters together have more than %d service accounts behind the Service", maxJoinedIdentities)
		return false
	}
	j.identities = union
	return true
}

// add adds endpoints of a cluster, no more than its share of what is possible.
func (j *join) add(cluster string, endpoints []*networkingapi.WorkloadEntry) {
	share := max(1, min(maxEndpoints, maxEndpointPorts/len(j.numbers))/len(j.virtual.Spec.Clusters))
	for _, e := range endpoints[:min(len(endpoints), share)] {
		e.Labels = map[string]string{failoverLabel: cluster}
		j.endpoints = append(j.endpoints, e)
	}
	j.clusters = append(j.clusters, cluster)
}

// keep leaves a cluster as it is of which is not known what it has now.
func (j *join) keep(cluster, why string) {
	var kept []*networkingapi.WorkloadEntry
	byName := false
	if j.was != nil {
		for _, e := range j.was.Spec.Endpoints {
			if e.GetLabels()[failoverLabel] != cluster {
				continue
			}
			if e = j.renumbered(e); e != nil {
				kept = append(kept, e)
			}
		}
		byName = j.was.Spec.Resolution == networkingapi.ServiceEntry_DNS
	}
	if len(kept) == 0 {
		j.leave(cluster, "spec.clusters", ReasonNoEndpoints, "%s", why)
		return
	}
	if !j.identify(cluster, j.was.Spec.SubjectAltNames) {
		return
	}
	j.fs = append(j.fs, finding.Finding{Field: "spec.clusters", Reason: ReasonNoEndpoints, Message: "cluster " + cluster + " serves it as it did before: " + why})
	j.byName = j.byName || byName
	if j.host == "" {
		j.host = j.virtual.Spec.Service.Name + "." + j.virtual.Spec.Service.Namespace + ".svc." + clusterDomain(j.client.Mesh)
	}
	j.add(cluster, kept)
}

// renumbered is an endpoint as it was, with the present names of ports; nil if it lacks one of them.
func (j *join) renumbered(e *networkingapi.WorkloadEntry) *networkingapi.WorkloadEntry {
	byNumber := map[uint32]uint32{}
	for _, p := range j.was.Spec.Ports {
		byNumber[p.GetNumber()] = e.GetPorts()[p.GetName()]
	}
	out := &networkingapi.WorkloadEntry{Address: e.GetAddress(), Ports: map[string]uint32{}}
	for _, n := range j.numbers {
		if byNumber[n] == 0 {
			return nil
		}
		out.Ports[j.ports[n].name] = byNumber[n]
	}
	return out
}

func (j *join) result() *Joined {
	root := j.client.Mesh.Spec.Istio.RootNamespace
	namespace, name := cmp.Or(j.namespace, root), ObjectName(j.virtual.Hostname)
	out := &Joined{Clusters: j.clusters, DestinationRule: j.destinationRule(metav1.ObjectMeta{Namespace: root, Name: name})}
	if len(j.endpoints) > 0 {
		out.Others = j.serviceEntry(metav1.ObjectMeta{Namespace: namespace, Name: name})
		out.Others.Spec.Endpoints = j.endpoints
	}
	if j.own != nil {
		out.Own = j.serviceEntry(metav1.ObjectMeta{Namespace: namespace, Name: naming.Short(firstVirtual+"own-"+j.virtual.Hostname, maxName)})
		out.Own.Spec.WorkloadSelector = &networkingapi.WorkloadSelector{Labels: j.selector}
		for _, p := range out.Own.Spec.Ports {
			p.TargetPort = j.targets[p.GetNumber()]
		}
	}
	return out
}

func (j *join) serviceEntry(meta metav1.ObjectMeta) *networkingv1.ServiceEntry {
	s := &service{hostname: j.virtual.Hostname, identities: j.identities}
	for _, n := range j.numbers {
		p := *j.ports[n]
		if j.own == nil { // what all say, or else what istiod finds out
			if said := slices.Compact(slices.Sorted(slices.Values(j.protocols[n]))); len(said) == 1 {
				p.protocol = said[0]
			}
		}
		s.ports = append(s.ports, p)
	}
	return s.serviceEntry(meta, j.client.Address, nil, j.byName)
}

func (j *join) destinationRule(meta metav1.ObjectMeta) *networkingv1.DestinationRule {
	s := &service{hostname: j.virtual.Hostname, host: j.host}
	for _, n := range j.numbers {
		s.ports = append(s.ports, *j.ports[n])
	}
	out := s.destinationRule(j.vm, meta, nil)
	policy := out.Spec.TrafficPolicy
	policy.OutlierDetection, policy.LoadBalancer = outlierDetection(j.virtual.Spec.OutlierDetection), ownFirst()
	for _, p := range policy.PortLevelSettings {
		p.OutlierDetection, p.LoadBalancer = outlierDetection(j.virtual.Spec.OutlierDetection), ownFirst()
	}
	return out
}

// ownFirst has proxies send to the pods of their own cluster, and to other clusters if there are none that work.
func ownFirst() *networkingapi.LoadBalancerSettings {
	return &networkingapi.LoadBalancerSettings{LocalityLbSetting: &networkingapi.LocalityLoadBalancerSetting{
		Enabled: wrapperspb.Bool(true), FailoverPriority: []string{failoverLabel + "="},
	}}
}

// Defaults of outlier detection.
const (
	defaultConsecutiveErrors  = 5
	defaultInterval           = 5 * time.Second
	defaultBaseEjectionTime   = 30 * time.Second
	defaultMaxEjectionPercent = 100
)

// outlierDetection counts failed connections and answers of gateways. Other answers 5xx are the service's own: they would be
// the same elsewhere, and one caller could have a whole cluster ejected.
func outlierDetection(o *v1alpha1.OutlierDetection) *networkingapi.OutlierDetection {
	if o == nil {
		o = &v1alpha1.OutlierDetection{}
	}
	number := func(n *int32, otherwise int32) int32 {
		if n == nil || *n <= 0 {
			return otherwise
		}
		return *n
	}
	duration := func(d *metav1.Duration, otherwise time.Duration) *durationpb.Duration {
		if d == nil || d.Duration < time.Millisecond {
			return durationpb.New(otherwise)
		}
		return durationpb.New(d.Duration)
	}
	return &networkingapi.OutlierDetection{
		ConsecutiveGatewayErrors: wrapperspb.UInt32(uint32(number(o.ConsecutiveErrors, defaultConsecutiveErrors))),
		Consecutive_5XxErrors:    wrapperspb.UInt32(0),
		Interval:                 duration(o.Interval, defaultInterval),
		BaseEjectionTime:         duration(o.BaseEjectionTime, defaultBaseEjectionTime),
		MaxEjectionPercent:       number(o.MaxEjectionPercent, defaultMaxEjectionPercent),
	}
}
