// Package diagnosis judges the state of a hub and its clusters: what is wrong, how bad it is, and what to do about it. It is
// functions over values that were read before; every finding has a code that stays the same between versions.
package diagnosis

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilversion "k8s.io/apimachinery/pkg/util/version"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
)

// Severity of a finding.
type Severity string

// Severities.
const (
	// Error: something does not work, or will not for long.
	Error Severity = "error"
	// Warning: it works, but something should be done.
	Warning Severity = "warning"
	// Info is worth knowing.
	Info Severity = "info"
)

// Finding is one thing that was found.
type Finding struct {
	// Code stays the same between versions: docs/check.md explains it.
	Code string `json:"code"`
	// Severity says how bad it is.
	Severity Severity `json:"severity"`
	// Object that it is about.
	Object string `json:"object"`
	// Message says what is wrong.
	Message string `json:"message"`
	// Hint says what to do.
	Hint string `json:"hint,omitempty"`
}

// Findings are several of them.
type Findings []Finding

// Failed reports whether an error is among them.
func (fs Findings) Failed() bool {
	return slices.ContainsFunc(fs, func(f Finding) bool { return f.Severity == Error })
}

func (fs *Findings) add(code string, severity Severity, object, message, hint string) {
	*fs = append(*fs, Finding{code, severity, object, message, hint})
}

// State is what is judged.
type State struct {
	// Now is the time of judgement.
	Now time.Time
	// Namespace of the hub.
	Namespace string
	// Version of the program that judges.
	Version string
	// Unreachable is why the hub's API server did not answer; nothing else is known then.
	Unreachable error
	// Unreadable is what could not be read.
	Unreadable []error
	// Kubernetes is the version of the hub's cluster.
	Kubernetes string
	// Kinds of Isthmus that are installed, as "<plural>.<group>".
	Kinds map[string]bool
	// Policies are the bindings of admission policies that exist.
	Policies map[string]bool
	// Hub is nil if it is not installed.
	Hub *appsv1.Deployment
	// HubVersion is the tag of its image.
	HubVersion string

	Clusters       []v1alpha1.KubernetesCluster
	Meshes         []v1alpha1.Mesh
	VirtualMeshes  []v1alpha1.VirtualMesh
	Orders         []v1alpha1.IssuedCertificate
	Destinations   []v1alpha1.Destination
	AccessPolicies []v1alpha1.AccessPolicy
	Settings       []v1alpha1.Settings

	VirtualDestinations []v1alpha1.VirtualDestination

	// SupportedKubernetes and SupportedIstio return an error for a version that is not supported.
	SupportedKubernetes, SupportedIstio func(version string) error
}

// Kinds that must be there, and the admission policies without which agents could write what they must not.
var (
	kinds = []string{
		"accesspolicies", "certificaterequests", "certificateverifications", "destinations", "issuedcertificates",
		"kubernetesclusters", "meshes", "settings", "virtualdestinations", "virtualmeshes", "workloads",
	}
	policies = []string{"isthmus-agent-boundary", "isthmus-agent-finalizers", "isthmus-agent-token", "isthmus-cluster-name"}
)

// Examine returns what is wrong, from the hub down to certificates.
func Examine(s State) Findings {
	var fs Findings
	if s.Unreachable != nil {
		fs.add("ISTH1001", Error, "hub", s.Unreachable.Error(), "Is --context that of the hub's cluster, and its API server up?")
		return fs
	}
	for _, err := range s.Unreadable {
		fs.add("ISTH1002", Error, "hub", err.Error(), "Use a context that may read this; the rest was checked.")
	}
	s.examineHub(&fs)
	s.examineClusters(&fs)
	s.examineMeshes(&fs)
	s.examineVirtualMeshes(&fs)
	s.examineOrders(&fs)
	s.examineFederation(&fs)
	s.examineLimited(&fs)
	s.examinePolicies(&fs)
	return fs
}

func (s *State) examineHub(fs *Findings) {
	if err := s.SupportedKubernetes(s.Kubernetes); err != nil {
		fs.add("ISTH1003", Warning, "hub", "Kubernetes "+err.Error(), "Upgrade the hub's cluster, or use a version of Isthmus that supports it.")
	}
	if s.Kinds != nil {
		var missing []string
		for _, kind := range kinds {
			if name := kind + "." + v1alpha1.GroupVersion.Group; !s.Kinds[name] {
				missing = append(missing, name)
			}
		}
		if len(missing) > 0 {
			fs.add("ISTH1004", Error, "hub", "kinds are missing: "+strings.Join(missing, ", "), "Run `meshctl install`.")
		}
	}
	switch {
	case s.Hub == nil && !s.unreadable():
		fs.add("ISTH1005", Error, "hub", "is not installed in namespace "+s.Namespace, "Run `meshctl install`, or give the right --context or -n.")
	case s.Hub != nil && s.Hub.Status.ReadyReplicas == 0:
		fs.add("ISTH1006", Error, "hub", fmt.Sprintf("no replica of %d is ready", replicas(s.Hub)),
			fmt.Sprintf("See `kubectl -n %s describe pod -l app.kubernetes.io/name=isthmus-hub`. What is in force goes on meanwhile.", s.Namespace))
	case s.Hub != nil && s.Hub.Status.ReadyReplicas < replicas(s.Hub):
		fs.add("ISTH1006", Warning, "hub", fmt.Sprintf("%d of %d replicas are ready", s.Hub.Status.ReadyReplicas, replicas(s.Hub)), "")
	}
	if s.Policies != nil && s.Hub != nil {
		for _, name := range policies {
			if !s.Policies[name] {
				fs.add("ISTH1007", Error, "hub", "ValidatingAdmissionPolicyBinding "+name+" is missing: agents are held by RBAC alone", "Run `meshctl install`.")
			}
		}
	}
	if s.Hub != nil && skew(s.Version, s.HubVersion) != 0 {
		fs.add("ISTH1008", Warning, "hub", fmt.Sprintf("is of version %s, meshctl of %s", s.HubVersion, s.Version), "Use the meshctl of the hub's version, or run `meshctl install` to upgrade.")
	}
}

func (s *State) unreadable() bool { return len(s.Unreadable) > 0 }

func (s *State) examineClusters(fs *Findings) {
	if len(s.Clusters) == 0 && s.Hub != nil {
		fs.add("ISTH2001", Info, "hub", "no cluster is registered", "Run `meshctl cluster register NAME --member-context CONTEXT`.")
	}
	for i := range s.Clusters {
		kc := &s.Clusters[i]
		object := "cluster " + kc.Name
		if reason := kc.Annotations[AnnotationEvicted]; reason != "" {
			fs.add("ISTH2005", Warning, object, "was evicted: "+reason, "Run `meshctl cluster deregister "+kc.Name+" --force` when it is done with; or `meshctl cluster register "+kc.Name+"` when it is sound again.")
			continue
		}
		if c := unmet(kc.Status.Conditions, v1alpha1.ConditionReady); c != nil {
			fs.add("ISTH2002", Error, object, c.Message, "Is the hub ready? The hub's log says more.")
		}
		if c := unmet(kc.Status.Conditions, v1alpha1.ConditionConnected); c != nil {
			fs.add("ISTH2003", Error, object, c.Message,
				"See `kubectl -n isthmus-agent logs deploy/isthmus-agent` in that cluster. A revoked or expired credential is replaced by `meshctl cluster register "+kc.Name+"`.")
		}
		if agent := kc.Status.AgentVersion; agent != "" && s.HubVersion != "" {
			switch d := skew(agent, s.HubVersion); {
			case d > 0:
				fs.add("ISTH2004", Error, object, fmt.Sprintf("its agent (%s) is newer than the hub (%s)", agent, s.HubVersion), "Upgrade the hub first: `meshctl install`.")
			case d < -1:
				fs.add("ISTH2004", Error, object, fmt.Sprintf("its agent (%s) is more than one minor version older than the hub (%s)", agent, s.HubVersion), "Run `meshctl cluster register "+kc.Name+"` to upgrade it.")
			case d < 0:
				fs.add("ISTH2004", Warning, object, fmt.Sprintf("its agent (%s) is older than the hub (%s)", agent, s.HubVersion), "Run `meshctl cluster register "+kc.Name+"` to upgrade it.")
			}
		}
	}
}

func (s *State) examineMeshes(fs *Findings) {
	for i := range s.Meshes {
		m := &s.Meshes[i]
		object, istio := "mesh "+kube.Qualified(m.Name, m.Namespace), &m.Spec.Istio
		member := s.isMember(m)
		byCA := member && !s.isLimited(m) // its CA is what the others trust
		for _, r := range istio.Revisions {
			if err := s.SupportedIstio(r.Version); err != nil {
				fs.add("ISTH3001", Warning, object, fmt.Sprintf("revision %s: Istio %v", r.Name, err), "Upgrade Istio, or use a version of Isthmus that supports it.")
			}
			if byCA && istio.CertificateAuthority == v1alpha1.CertificateAuthorityIstiod && (!r.MultiRootMesh || !r.ProxyConfigXDSAgent) {
				fs.add("ISTH3002", Info, object, "revision "+r.Name+" does not take changed roots without restarts", s.savings(m, r))
			}
		}
		if byCA && istio.CertificateAuthority == v1alpha1.CertificateAuthorityExternal {
			fs.add("ISTH3003", Error, object, "its certificates do not come from istiod: "+istio.CertificateAuthorityMessage, "Shared trust needs istiod as CA; take the mesh out of the VirtualMesh, have istiod sign, or use limited trust: "+limitedGuide+".")
		}
		ca := m.Status.CertificateAuthority
		if ca == nil && (byCA || member && istio.CertificateAuthority != v1alpha1.CertificateAuthorityExternal) {
			fs.add("ISTH3004", Warning, object, "its CA has not been seen yet", "If this lasts, see the agent's log.")
		}
		if ca != nil && ca.NotAfter != nil {
			s.examineEnd(fs, object+", CA certificate", ca.NotAfter.Time, "Give the mesh a new CA before that; one that Isthmus has made it renews while hub and agent work.")
		}
		if ca != nil && ca.Source == v1alpha1.CASourceIsthmus && len(ca.InUse) > 0 && ca.Signer != "" && slices.ContainsFunc(ca.InUse, func(r string) bool { return r != ca.Signer }) {
			fs.add("ISTH3005", Error, object, "istiod serves under another root than cacerts holds: it has not taken up the change",
				"Run `meshctl mesh restart "+m.Name+"`.")
		}
		examinePredecessor(fs, object, m.Status.Predecessor, member)
		for _, e := range m.Status.Errors {
			examineReport(fs, m, e)
		}
	}
}

// examinePredecessor tells what an installation of an older generation of the API has left in the cluster of a mesh.
func examinePredecessor(fs *Findings, object string, p *v1alpha1.PredecessorStatus, member bool) {
	if p == nil {
		return
	}
	const guide = "docs/guides/migration.md#from-a-running-installation"
	if len(p.Running) > 0 {
		severity := Warning
		if member {
			severity = Error
		}
		fs.add("ISTH3007", severity, object, "an older installation still runs in its cluster, and writes the same cacerts: "+strings.Join(p.Running, ", "),
			"Scale these Deployments to 0: "+guide)
	}
	var left []string
	for _, k := range p.Kinds {
		left = append(left, fmt.Sprintf("%d of kind %s", k.Count, k.Kind))
	}
	if p.CACerts {
		left = append(left, "Secret cacerts")
	}
	if len(left) == 0 {
		return
	}
	examples := ""
	if len(p.Objects) > 0 {
		examples = ", such as " + strings.Join(p.Objects[:min(len(p.Objects), 3)], ", ")
	}
	fs.add("ISTH3008", Warning, object, "an older installation has left in its cluster: "+strings.Join(left, ", ")+examples,
		"When what takes its place is in force, remove it: "+guide)
}

// isMember reports whether a VirtualMesh has accepted the mesh.
func (s *State) isMember(m *v1alpha1.Mesh) bool {
	for i := range s.VirtualMeshes {
		if accepted := s.VirtualMeshes[i].Status.Accepted; accepted != nil && slices.Contains(accepted.Spec.Meshes, v1alpha1.ObjectRef{Name: m.Name, Namespace: m.Namespace}) {
			return true
		}
	}
	return false
}

func (s *State) examineVirtualMeshes(fs *Findings) {
	for i := range s.VirtualMeshes {
		vm := &s.VirtualMeshes[i]
		object := "virtual mesh " + vm.Name
		if vm.Namespace != s.Namespace {
			fs.add("ISTH4001", Warning, object, "lies in namespace "+vm.Namespace+", where the hub does not look", "Move it to "+s.Namespace+".")
			continue
		}
		stalled := meta.FindStatusCondition(vm.Status.Conditions, v1alpha1.ConditionStalled)
		ready := unmet(vm.Status.Conditions, v1alpha1.ConditionReady)
		switch {
		case vm.Status.State == v1alpha1.StateInvalid:
			conflicts, errors := conflicting(vm.Status.Errors)
			if len(errors) > 0 || len(conflicts) == 0 {
				fs.add("ISTH4002", Error, object, cmp.Or(strings.Join(errors, "; "), message(ready)), "What was accepted before stays in force until this is put right.")
			}
			tellConflicts(fs, object, conflicts)
		case stalled != nil && stalled.Status == metav1.ConditionTrue:
			fs.add("ISTH4003", Error, object, stalled.Reason+": "+stalled.Message, "")
		case ready != nil && meta.IsStatusConditionTrue(vm.Status.Conditions, v1alpha1.ConditionRestartPending):
			// ISTH4005 says it.
		case ready != nil:
			fs.add("ISTH4004", Warning, object, "is not ready: "+message(ready), "")
		}
		if c := meta.FindStatusCondition(vm.Status.Conditions, v1alpha1.ConditionRestartPending); c != nil && c.Status == metav1.ConditionTrue {
			fs.add("ISTH4005", Warning, object, c.Message, "")
		}
		for _, name := range sorted(vm.Status.Meshes) {
			for _, e := range s.unreported(name, vm.Status.Meshes[name].Errors) {
				fs.add("ISTH4006", Error, object, "mesh "+name+": "+e, "")
			}
		}
		if c := meta.FindStatusCondition(vm.Status.Conditions, v1alpha1.ConditionVaultReachable); c != nil && c.Status == metav1.ConditionFalse {
			fs.add("ISTH4010", Warning, object, c.Message, "What is in use goes on being used; nothing is renewed until then: docs/guides/vault.md.")
		}
		s.examineRotation(fs, vm)
		for _, root := range vm.Status.Roots {
			if root.Role != v1alpha1.RootRetired {
				s.examineEnd(fs, fmt.Sprintf("%s, root %d", object, root.Generation), root.NotAfter.Time, "Replace the root before that.")
			}
		}
	}
}

// unreported leaves out of the errors of a member those that its agent reports: they are told of the mesh. The hub shortens them.
func (s *State) unreported(mesh string, errors []string) []string {
	return slices.DeleteFunc(slices.Clone(errors), func(e string) bool {
		return slices.ContainsFunc(s.Meshes, func(m v1alpha1.Mesh) bool {
			return kube.Qualified(m.Name, m.Namespace) == mesh && slices.ContainsFunc(m.Status.Errors, func(told string) bool {
				return strings.HasPrefix(told, strings.TrimSuffix(e, "..."))
			})
		})
	})
}

func (s *State) examineOrders(fs *Findings) {
	for i := range s.Orders {
		o := &s.Orders[i]
		object := "certificate of " + kube.Qualified(o.Name, o.Namespace)
		if o.Status.State == v1alpha1.IssuedCertificateFailed {
			fs.add("ISTH5001", Error, object, cmp.Or(o.Status.Error, "failed"), "")
		}
		if o.Spec.Purpose == v1alpha1.PurposeGateway {
			continue // the rest is told of the mesh, as it was seen
		}
		if c := o.Status.Certificate; c != nil {
			s.examineEnd(fs, object, c.NotAfter.Time, "Isthmus renews it while hub and agent work.")
		}
		examineLaggards(fs, o)
		if cp := o.Status.ControlPlane; cp != nil && o.Status.State == v1alpha1.IssuedCertificateFinished {
			for _, r := range cp.Replicas {
				if r.Signer != "" && r.Signer != o.Spec.Signer {
					fs.add("ISTH5002", Error, object, fmt.Sprintf("istiod %s serves under root %.16s…, ordered is %.16s…", r.Pod, r.Signer, o.Spec.Signer), "Run `meshctl mesh restart "+o.Name+"`.")
				}
			}
		}
	}
}

// soon is before what part of the year an end is told.
const soon = 14 * 24 * time.Hour

// examineEnd tells of a certificate that has ended or will soon.
func (s *State) examineEnd(fs *Findings, object string, end time.Time, hint string) {
	s.examineEndWithin(fs, object, end, soon, hint)
}

func (s *State) examineEndWithin(fs *Findings, object string, end time.Time, soon time.Duration, hint string) {
	if end.IsZero() {
		return
	}
	at := end.UTC().Format(time.RFC3339)
	switch left := end.Sub(s.Now); {
	case left <= 0:
		fs.add("ISTH5003", Error, object, "has ended at "+at, hint)
	case left < soon:
		fs.add("ISTH5004", Warning, object, "ends at "+at, hint)
	}
}

// Member is what a member cluster says itself.
type Member struct {
	// Name of the cluster for messages.
	Name string
	// Unreachable is why it did not answer.
	Unreachable error
	// Unreadable is what could not be read.
	Unreadable error
	// Kubernetes is its version.
	Kubernetes string
	// Agent is nil if none is installed.
	Agent *appsv1.Deployment
	// Gateways are the Deployments of those of limited trust.
	Gateways []appsv1.Deployment
	// Credential says that the agent has one.
	Credential bool
	// Cluster is the registered name under which the agent was installed.
	Cluster string
	// Hosts are those of other clusters that the agent has made, as "<namespace>/" and the annotation isthmus.dev/destination;
	// nil if they are not known.
	Hosts map[string]bool
	// SupportedKubernetes returns an error for a version that is not supported.
	SupportedKubernetes func(version string) error
}

// ExamineMember returns what is wrong with a member cluster, seen from itself, beside the state of its hub.
func ExamineMember(m Member, s State) Findings {
	var fs Findings
	object := "member " + m.Name
	if m.Unreachable != nil {
		fs.add("ISTH6001", Error, object, m.Unreachable.Error(), "Is --member-context right, and its API server up?")
		return fs
	}
	if m.Unreadable != nil {
		fs.add("ISTH6002", Error, object, m.Unreadable.Error(), "Use a context that may read this.")
	}
	if err := m.SupportedKubernetes(m.Kubernetes); err != nil {
		fs.add("ISTH6003", Warning, object, "Kubernetes "+err.Error(), "")
	}
	switch {
	case m.Agent == nil && m.Unreadable == nil:
		fs.add("ISTH6004", Error, object, "no agent is installed", "Run `meshctl cluster register`.")
	case m.Agent != nil && m.Agent.Status.ReadyReplicas == 0:
		fs.add("ISTH6005", Error, object, "the agent is not ready", "See `kubectl -n isthmus-agent describe pod -l app.kubernetes.io/name=isthmus-agent`.")
	}
	if !m.Credential && m.Agent != nil && m.Unreadable == nil {
		fs.add("ISTH6006", Error, object, "the agent has no credential for the hub", "Run `meshctl cluster register`.")
	}
	m.examineGateways(&fs)
	m.examineHosts(&fs, &s)
	return fs
}

// unmet returns a condition that is not true.
func unmet(conditions []metav1.Condition, conditionType string) *metav1.Condition {
	c := meta.FindStatusCondition(conditions, conditionType)
	if c == nil {
		return &metav1.Condition{Type: conditionType, Message: "the hub has not looked at it yet"}
	}
	if c.Status == metav1.ConditionTrue {
		return nil
	}
	return c
}

func message(c *metav1.Condition) string {
	if c == nil {
		return ""
	}
	return c.Message
}

func replicas(d *appsv1.Deployment) int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

// skew is by how many minor versions a is ahead of b; 0 also if either is no release, as of builds of one's own.
func skew(a, b string) int {
	va, errA := utilversion.ParseSemantic(a)
	vb, errB := utilversion.ParseSemantic(b)
	if errA != nil || errB != nil {
		return 0
	}
	const major = 1000
	return int(va.Major()*major+va.Minor()) - int(vb.Major()*major+vb.Minor())
}

func sorted(m map[string]v1alpha1.ApprovalStatus) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
