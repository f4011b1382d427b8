package diagnosis

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent/reach"
	"github.com/isthmus-mesh/isthmus/internal/federation"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// maxNamed is how many objects a finding names of those that it is about.
const maxNamed = 3

// virtualMeshes are those in force, without those that hold everything as it is.
func (s *State) virtualMeshes() (out []*membership.VirtualMesh) {
	for i := range s.VirtualMeshes {
		vm := membership.Of(&s.VirtualMeshes[i], s.Meshes)
		if vm != nil && s.VirtualMeshes[i].Namespace == s.Namespace && !vm.Spec.Suspend {
			out = append(out, vm)
		}
	}
	return out
}

func (s *State) examineFederation(fs *Findings) {
	for _, vm := range s.virtualMeshes() {
		selected, hosts := s.federated(vm)
		for _, m := range vm.Members {
			if f := vm.Spec.Federation; selected[m] && f != nil && !f.FlatNetwork && !vm.Limited() {
				examineGateways(fs, vm, m)
			}
			examineDNS(fs, m, hosts[m])
			s.examineProgress(fs, vm, m)
			if c := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionGatewayExclusive); c != nil && c.Status == metav1.ConditionFalse {
				fs.add("ISTH7003", Error, meshObject(m), c.Message, "Until then every service behind the gateway can be called by whoever has a certificate that its mesh trusts, federated or not.")
			}
		}
	}
	for i := range s.VirtualMeshes {
		vm := &s.VirtualMeshes[i]
		if c := meta.FindStatusCondition(vm.Status.Conditions, v1alpha1.ConditionClientMeshEnforced); c != nil && c.Status == metav1.ConditionFalse {
			fs.add("ISTH7014", Warning, "virtual mesh "+vm.Name, c.Message, "")
		}
	}
	s.examineDestinations(fs)
	s.examineNames(fs)
}

// examineNames finds VirtualDestinations that are refused, or that not all of their clusters serve.
func (s *State) examineNames(fs *Findings) {
	for i := range s.VirtualDestinations {
		vd := &s.VirtualDestinations[i]
		object := "virtual destination " + vd.Name
		if len(vd.Status.Errors) > 0 {
			fs.add("ISTH7015", Error, object, strings.Join(vd.Status.Errors, "; "), "What was accepted before stays in force until this is put right.")
			continue
		}
		if c := meta.FindStatusCondition(vd.Status.Conditions, v1alpha1.ConditionReady); c == nil {
			fs.add("ISTH7016", Warning, object, "the hub has not looked at it yet", "Is it in namespace "+s.Namespace+", and the hub ready?")
		} else if c.Status != metav1.ConditionTrue {
			fs.add("ISTH7016", Warning, object, c.Message, "`meshctl describe virtualdestination "+vd.Name+"` says who serves it where.")
		}
	}
}

// federated finds which members have destinations that are to be federated, and which hosts each member has of others.
func (s *State) federated(vm *membership.VirtualMesh) (selected map[*v1alpha1.Mesh]bool, hosts map[*v1alpha1.Mesh][]string) {
	selected, hosts = map[*v1alpha1.Mesh]bool{}, map[*v1alpha1.Mesh][]string{}
	byKey := map[string]*v1alpha1.Mesh{}
	for _, m := range vm.Members {
		byKey[membership.MeshKey(m)] = m
	}
	for i := range s.Destinations {
		d := &s.Destinations[i]
		home := byKey[kube.Qualified(d.Spec.Mesh, d.Namespace)]
		if home == nil {
			continue
		}
		if !selected[home] {
			f, problems := federation.Federate(vm, home, d)
			selected[home] = f != nil || len(problems) > 0
		}
		for _, m := range vm.Members {
			if m != home && federatedTo(d, vm, m) {
				hosts[m] = append(hosts[m], d.Status.AppliedFederation.FederatedHostname)
			}
		}
	}
	return selected, hosts
}

// federatedTo reports whether the home agent federates a destination to a mesh.
func federatedTo(d *v1alpha1.Destination, vm *membership.VirtualMesh, m *v1alpha1.Mesh) bool {
	f := d.Status.AppliedFederation
	return f != nil && f.VirtualMesh == vm.Name && (slices.Contains(f.FederatedToMeshes, "*") || slices.Contains(f.FederatedToMeshes, membership.MeshKey(m)))
}

// examineGateways finds that others cannot enter a mesh, or not by all of the gateways that are meant for it. A gateway is
// tried with an address to see whether that is what it lacks.
func examineGateways(fs *Findings, vm *membership.VirtualMesh, m *v1alpha1.Mesh) {
	chosen, problems := federation.ChosenGateways(vm, m)
	severity := Warning
	if chosen == nil {
		severity = Error
	}
	addressed := m.DeepCopy()
	for i := range addressed.Spec.Istio.Gateways {
		if g := &addressed.Spec.Istio.Gateways[i]; len(g.Addresses) == 0 {
			g.Addresses = []string{"192.0.2.1"}
		}
	}
	would, _ := federation.ChosenGateways(vm, addressed)
	told := false
	for _, g := range would {
		if slices.ContainsFunc(m.Spec.Istio.Gateways, func(o v1alpha1.IngressGateway) bool {
			return o.Name == g.Name && o.Namespace == g.Namespace && len(o.Addresses) == 0
		}) {
			told = true
			fs.add("ISTH7002", severity, meshObject(m), fmt.Sprintf("gateway %s has no address at which other clusters could reach it", g),
				"Give its Service a load balancer, externalIPs, or type NodePort; if it has type LoadBalancer, see why no address was assigned.")
		}
	}
	if chosen == nil && !told {
		fs.add("ISTH7001", Error, meshObject(m), reasons(problems.Errors()),
			"Label a gateway istio=eastwestgateway and give its Service a port named tls, or name one in spec.federation.ingressGatewaySelectors.")
	}
}

// examineDNS finds that proxies do not resolve the hosts of other clusters.
func examineDNS(fs *Findings, m *v1alpha1.Mesh, hosts []string) {
	if len(hosts) == 0 || m.Spec.Istio.SmartDNSProxyingEnabled {
		return
	}
	slices.Sort(hosts)
	fs.add("ISTH7004", Warning, meshObject(m),
		fmt.Sprintf("its proxies do not resolve the hosts of other clusters (%s): TCP by name does not work, and HTTP only for clients that resolve the name in another way, to whatever address", some(hosts)),
		`Set meshConfig.defaultConfig.proxyMetadata.ISTIO_META_DNS_CAPTURE: "true" and restart the workloads.`)
}

// examineProgress finds that the agent of a member has not applied what is in force.
func (s *State) examineProgress(fs *Findings, vm *membership.VirtualMesh, m *v1alpha1.Mesh) {
	i := slices.IndexFunc(m.Status.AppliedVirtualMeshes, func(a v1alpha1.AppliedVirtualMesh) bool { return a.Name == vm.Name })
	if !networked(vm.Spec) && len(m.Status.AppliedVirtualMeshes) == 0 || !s.connected(m.Namespace) {
		return // where the cluster is not connected, ISTH2003 says it
	}
	is := "nothing"
	if i >= 0 {
		if m.Status.AppliedVirtualMeshes[i].Generation == vm.Generation {
			return
		}
		is = fmt.Sprintf("generation %d", m.Status.AppliedVirtualMeshes[i].Generation)
	}
	message := fmt.Sprintf("has %s in force of the federation and the policies of VirtualMesh %s, of which generation %d is accepted", is, vm.Name, vm.Generation)
	var waits []string
	for _, home := range vm.Members {
		if home == m {
			continue
		}
		if f := federation.TrustEachOther(vm, m, home); f != nil {
			waits = append(waits, f.Message)
		}
	}
	slices.Sort(waits)
	if waits = slices.Compact(waits); len(waits) > 0 {
		message += ": " + reasons(waits)
	}
	fs.add("ISTH7005", Warning, meshObject(m), message, "If this lasts, see `kubectl -n isthmus-agent logs deploy/isthmus-agent` in that cluster.")
}

// networked reports whether a spec asks for more than trust.
func networked(s *v1alpha1.VirtualMeshSpec) bool {
	return s.Federation != nil || s.GlobalAccessPolicy == v1alpha1.GlobalAccessPolicyEnabled || s.GlobalAccessPolicy == v1alpha1.GlobalAccessPolicyDisabled
}

// connected reports whether the cluster of a namespace is connected.
func (s *State) connected(namespace string) bool {
	return slices.ContainsFunc(s.Clusters, func(kc v1alpha1.KubernetesCluster) bool {
		return kube.ClusterNamespace(kc.Name) == namespace && meta.IsStatusConditionTrue(kc.Status.Conditions, v1alpha1.ConditionConnected)
	})
}

// examineDestinations finds what keeps destinations from being federated as they should; what is the same for many of a cluster
// is said once.
func (s *State) examineDestinations(fs *Findings) {
	type problem struct {
		cluster, text string
		severity      Severity
	}
	names := map[problem][]string{}
	for i := range s.Destinations {
		d := &s.Destinations[i]
		for _, e := range d.Status.Errors {
			if slices.ContainsFunc(d.Status.RejectedAccessPolicies, func(r v1alpha1.RejectedAccessPolicy) bool {
				return strings.HasPrefix(e, "AccessPolicy "+r.Name+": ")
			}) {
				continue // ISTH8003 says it
			}
			p := problem{membership.Cluster(d.Namespace), e, Warning}
			if s.never(d, e) {
				p.severity = Info
			}
			names[p] = append(names[p], d.Name)
		}
	}
	for _, p := range slices.SortedFunc(maps.Keys(names), func(a, b problem) int { return strings.Compare(a.cluster+" "+a.text, b.cluster+" "+b.text) }) {
		slices.Sort(names[p])
		fs.add("ISTH7006", p.severity, "cluster "+p.cluster, "destination "+some(names[p])+": "+p.text, "")
	}
}

// never reports whether an error of a destination says that it is of a sort that is not federated: a selector of everything
// selects such ones too.
func (s *State) never(d *v1alpha1.Destination, text string) bool {
	sorts := []string{federation.ReasonGatewayService, federation.ReasonExternalName, federation.ReasonHeadless, federation.ReasonNoPorts}
	for _, vm := range s.virtualMeshes() {
		for _, home := range vm.Members {
			if home.Name != d.Spec.Mesh || home.Namespace != d.Namespace {
				continue
			}
			_, problems := federation.Federate(vm, home, d)
			for _, p := range problems {
				if p.String() == text && slices.Contains(sorts, p.Reason) {
					return true
				}
			}
		}
	}
	return false
}

// imported is the form in which an agent reports what it did not import, or not whole.
var imported = regexp.MustCompile(`^(\d+ more destinations|\S+(, \S+)*( and \d+ more)?) of cluster \S+: `)

// shadowing is what the report of a DestinationRule of somebody else says.
const shadowing = " takes the place of ours for "

// examineReport tells what an agent reports of its mesh.
func examineReport(fs *Findings, m *v1alpha1.Mesh, report string) {
	switch object := meshObject(m); reach.ProblemOf(report) {
	case reach.Unreachable:
		fs.add("ISTH7009", Error, object, report, "From a pod of that cluster, try a connection to the address. Firewalls, and a load balancer without healthy targets, are the usual reasons.")
	case reach.NotAdmitted:
		fs.add("ISTH7010", Warning, object, report, "If the mesh federates the service and pods are behind it, see Gateways isthmus-… there, and that the address leads to the gateway's port for TLS.")
	case reach.Untrusted:
		fs.add("ISTH7011", Error, object, report, "The meshes, or under limited trust their gateways, have no common root, or the address leads to something else. See `meshctl describe virtualmesh`.")
	case reach.Impostor:
		fs.add("ISTH7012", Error, object, report, "Requests are refused by the clients' proxies. See that the address is the gateway's, and which service account the pods behind the service have.")
	default:
		switch {
		case strings.Contains(report, shadowing):
			fs.add("ISTH7008", Error, object, report, "")
		case imported.MatchString(report):
			fs.add("ISTH7007", Warning, object, report, "This mesh does not have these services, or not all of them.")
		default:
			fs.add("ISTH3006", Error, object, report, "")
		}
	}
}

// examineHosts finds that a member does not have hosts of other clusters that it should have.
func (m *Member) examineHosts(fs *Findings, s *State) {
	if m.Cluster == "" || m.Hosts == nil {
		return
	}
	for _, vm := range s.virtualMeshes() {
		for _, mesh := range vm.Members {
			current := slices.Contains(mesh.Status.AppliedVirtualMeshes, v1alpha1.AppliedVirtualMesh{Name: vm.Name, Generation: vm.Generation})
			if membership.Cluster(mesh.Namespace) != m.Cluster || !current { // ISTH7005 says that it is not
				continue
			}
			var missing []string
			where := hostsOf(vm, mesh)
			for i := range s.Destinations {
				d := &s.Destinations[i]
				if d.Namespace+"/"+d.Spec.Mesh != mesh.Namespace+"/"+mesh.Name && federatedTo(d, vm, mesh) &&
					!m.Hosts[where+"/"+d.Namespace+"/"+d.Name] {
					missing = append(missing, d.Status.AppliedFederation.FederatedHostname)
				}
			}
			if len(missing) > 0 {
				slices.Sort(missing)
				fs.add("ISTH7013", Error, "member "+m.Name, fmt.Sprintf("%d hosts of other clusters are missing in namespace %s: %s", len(missing), where, some(missing)),
					"See status.errors of Mesh "+mesh.Name+", and `kubectl -n isthmus-agent logs deploy/isthmus-agent`.")
			}
		}
	}
}

// hostsOf is the namespace in which a member has the hosts of other clusters.
func hostsOf(vm *membership.VirtualMesh, mesh *v1alpha1.Mesh) string {
	if vm.Limited() {
		if egress, _ := federation.ChosenEgress(mesh); egress != nil {
			return egress.Namespace
		}
	}
	return mesh.Spec.Istio.RootNamespace
}

func meshObject(m *v1alpha1.Mesh) string { return "mesh " + membership.MeshKey(m) }

// some names the first of the names and counts the others.
func some(names []string) string {
	text := strings.Join(names[:min(len(names), maxNamed)], ", ")
	if more := len(names) - maxNamed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
