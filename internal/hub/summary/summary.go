// Package summary makes the status of a VirtualMesh out of what was found when it was accepted, the state of its root, the
// evidence that its members give, what their agents have applied and the state of their clusters; and that of an AccessPolicy
// in the same way. It is functions over values.
package summary

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/rotation"
)

// ReasonRotationFailed says in the condition Rotating that a rotation holds until somebody helps.
const ReasonRotationFailed = "RotationFailed"

// ReasonWasShared says in the condition MembersRetained that members still have CAs under a root that they shared before trust was
// limited.
const ReasonWasShared = "WasShared"

// Input is what there is to sum up.
type Input struct {
	// VirtualMesh as it was read. Of its status, only roots and the conditions RootReady and Rotating are used.
	VirtualMesh *v1alpha1.VirtualMesh
	// Accepted is what is in force; nil if nothing is.
	Accepted *v1alpha1.AcceptedVirtualMesh
	// Findings of its acceptance.
	Findings finding.Findings
	// Orders made for this VirtualMesh.
	Orders []v1alpha1.IssuedCertificate
	// Away are the namespaces of clusters that are not connected.
	Away map[string]bool
	// Meshes are all that agents report.
	Meshes []v1alpha1.Mesh
	// Destinations of members.
	Destinations *Destinations
}

// member is how one mesh stands.
type member struct {
	name     string
	state    v1alpha1.State
	findings finding.Findings
	reported []string // errors that its agent has found in the mesh
	proven   bool
	trusted  bool
	waits    string // for what, if it is pending
	away     bool
}

// errors are findings and reports, as many as a status takes.
func (m *member) errors() []string {
	out := append(m.findings.Errors(), m.reported...)
	return out[:min(len(out), maxErrors)]
}

// Of returns state, errors, meshes and conditions. Conditions have neither generation nor time yet.
func Of(in Input) (s v1alpha1.VirtualMeshStatus, conditions []metav1.Condition) {
	members := in.members()
	root := meta.FindStatusCondition(in.VirtualMesh.Status.Conditions, v1alpha1.ConditionRootReady)
	trust := accept.TrustIn(in.Accepted)

	s.Errors = in.Findings.About("").Without(v1alpha1.ReasonSuspended).Errors()
	s.Meshes = map[string]v1alpha1.ApprovalStatus{}
	for _, m := range members {
		s.Meshes[m.name] = v1alpha1.ApprovalStatus{State: m.state, Errors: m.errors()}
	}
	s.Destinations, s.DestinationCounts = in.Destinations.Status(), in.Destinations.Counts()
	s.State = in.state(members)

	v := in.verdict(members, root, trust != nil)
	conditions = append(conditions, v.conditions()...)
	if trust != nil {
		conditions = append(conditions, trustEstablished(members, trust))
	}
	conditions = append(conditions, in.restartPending())
	for _, c := range []*metav1.Condition{in.retained(), in.vaultReachable(), in.gatewayExclusive(), in.clientMeshEnforced()} {
		if c != nil {
			conditions = append(conditions, *c)
		}
	}
	return s, conditions
}

// members are all meshes that were accepted or could not be, in the order of their names.
func (in Input) members() []member {
	byName := map[string]*member{}
	get := func(name string) *member {
		if byName[name] == nil {
			byName[name] = &member{name: name, state: v1alpha1.StateAccepted}
		}
		return byName[name]
	}
	orders := map[string]*v1alpha1.IssuedCertificate{}
	for i := range in.Orders {
		orders[accept.MeshKey(in.Orders[i].Name, in.Orders[i].Namespace)] = &in.Orders[i]
	}
	if in.Accepted != nil {
		for _, ref := range in.Accepted.Spec.Meshes {
			m := get(accept.MeshKey(ref.Name, ref.Namespace))
			m.away = in.Away[ref.Namespace]
			if trust := accept.TrustIn(in.Accepted); trust != nil {
				user := "istiod"
				if trust.ByGateways() {
					user = "every gateway"
				}
				m.judge(orders[accept.MeshKey(trust.Order(ref.Name), ref.Namespace)], in.VirtualMesh.Status.Roots, user)
			}
			in.judgeNetwork(m, in.mesh(ref))
			if m.away {
				m.findings = append(m.findings, finding.Finding{Reason: v1alpha1.ReasonNotConnected, Message: "the cluster is not connected: what is said here is what was last heard of it"})
			}
		}
	}
	for _, f := range in.Findings {
		if f.Mesh != "" {
			m := get(f.Mesh)
			m.state = v1alpha1.StateInvalid
			m.findings = append(m.findings, f)
		}
	}
	out := make([]member, 0, len(byName))
	for _, m := range byName {
		out = append(out, *m)
	}
	slices.SortFunc(out, func(a, b member) int { return strings.Compare(a.name, b.name) })
	return out
}

// judge tells from an order and its evidence how far the trust has come in the mesh. user is who shall use the certificate.
func (m *member) judge(ic *v1alpha1.IssuedCertificate, roots []v1alpha1.RootStatus, user string) {
	m.state, m.waits = v1alpha1.StatePending, "a certificate is being ordered"
	if ic == nil {
		return
	}
	evidence, err := rotation.Observe(ic)
	m.proven = err == nil && rotation.Proven(*evidence.Order, evidence)
	m.trusted = err == nil && trusted(evidence, roots)
	switch {
	case ic.Status.State == v1alpha1.IssuedCertificateFailed:
		m.state = v1alpha1.StateFailed
		m.findings = append(m.findings, finding.Finding{Reason: readyReason(ic), Message: finding.Short(ic.Status.Error, maxError)})
	case m.proven && !meta.IsStatusConditionFalse(ic.Status.Conditions, v1alpha1.ConditionReady):
		m.state, m.waits = v1alpha1.StateAccepted, ""
	case m.proven: // by the control planes; proxies follow
		m.waits = finding.Short(meta.FindStatusCondition(ic.Status.Conditions, v1alpha1.ConditionReady).Message, maxError)
	case err == nil && evidence.Carried != nil && evidence.Carried.Serial > evidence.Order.Serial:
		m.waits = "its agent has carried out a later order, which this hub does not know: the hub came out of a backup, and catches up; if the mesh went to another VirtualMesh since, apply that again"
	case ic.Status.State == v1alpha1.IssuedCertificateRequested:
		m.waits = "the certificate is being signed"
	case ic.Status.State == v1alpha1.IssuedCertificateIssued, ic.Status.State == v1alpha1.IssuedCertificateFinished:
		m.waits = "the certificate is in place and " + user + " is not seen to use it yet"
	default:
		m.waits = "the certificate is ordered"
	}
}

// trusted tells whether a mesh is under the root that its virtual mesh shares. While that root is replaced, either will do: no
// step is taken before everybody trusts both. A mesh that joins has to have come to the root of the others.
func trusted(e rotation.Evidence, roots []v1alpha1.RootStatus) bool {
	p := e.Order.Position
	switch {
	case p == nil || p.Closed:
		return rotation.Proven(*e.Order, e) && isShared(e.Order.Signer, roots)
	case p.Alone:
		return rotation.Proven(rotation.Order{Signer: p.New, Roots: []pki.RootID{p.New}}, e)
	}
	strange := func(id pki.RootID) bool { return id != p.Old && id != p.New }
	return e.Held != nil && !strange(e.Held.Signer) && !slices.ContainsFunc(e.Replicas, func(r rotation.Replica) bool {
		return !r.Signer.IsZero() && strange(r.Signer) // one that restarts is not seen
	})
}

// isShared tells whether a root is one of the virtual mesh. A member may still be under that of another one.
func isShared(id pki.RootID, roots []v1alpha1.RootStatus) bool {
	return len(roots) == 0 || slices.ContainsFunc(roots, func(r v1alpha1.RootStatus) bool {
		return r.Fingerprint == id.String() && r.Role != v1alpha1.RootRetired
	})
}

// readyReason is why an agent cannot carry an order out, in its word. That it is not connected is for the hub to say.
func readyReason(ic *v1alpha1.IssuedCertificate) string {
	if c := meta.FindStatusCondition(ic.Status.Conditions, v1alpha1.ConditionReady); c != nil && c.Reason != "" && c.Reason != v1alpha1.ReasonNotConnected {
		return c.Reason
	}
	return "Failed"
}

// invalid is what is wrong with the spec as a whole, or with an entry that is about no member.
func (in Input) invalid() finding.Findings {
	return in.Findings.About("").Without(v1alpha1.ReasonSuspended)
}

// state is the worst of all.
func (in Input) state(members []member) v1alpha1.State {
	has := func(s v1alpha1.State) bool {
		return slices.ContainsFunc(members, func(m member) bool { return m.state == s })
	}
	switch {
	case len(in.invalid()) > 0 || has(v1alpha1.StateInvalid):
		return v1alpha1.StateInvalid
	case has(v1alpha1.StateFailed):
		return v1alpha1.StateFailed
	case in.Accepted == nil || has(v1alpha1.StatePending):
		return v1alpha1.StatePending
	}
	return v1alpha1.StateAccepted
}

// verdict is what the conditions Ready, Reconciling and Stalled say together.
type verdict struct {
	ready           metav1.ConditionStatus
	stalled         bool // or else, if not ready, reconciling
	reason, message string
}

// stalling are the reasons for which a rotation waits for a person.
var stalling = []string{ReasonRotationFailed, rotation.ReasonAwaitsWord, rotation.ReasonRolledBack, v1alpha1.ReasonRestartRequired}

// verdict takes the first of these that holds, so that the message is about what has to be done first.
func (in Input) verdict(members []member, root *metav1.Condition, trust bool) verdict {
	stalled := func(reason, message string) verdict {
		return verdict{ready: metav1.ConditionFalse, stalled: true, reason: reason, message: message}
	}
	whole := in.Findings.About("")
	if fs := whole.With(v1alpha1.ReasonSuspended); len(fs) > 0 {
		return stalled(v1alpha1.ReasonSuspended, finding.Join(fs.Errors()))
	}
	if fs := in.invalid(); len(fs) > 0 {
		return stalled(fs[0].Reason, finding.Join(fs.Errors()))
	}
	if trust && root != nil && root.Status == metav1.ConditionFalse && root.Reason != v1alpha1.ReasonWaitingForAgents {
		return stalled(root.Reason, root.Message)
	}
	for _, s := range []v1alpha1.State{v1alpha1.StateFailed, v1alpha1.StateInvalid} {
		for _, m := range members {
			if worst := m.findings.Without(v1alpha1.ReasonNotConnected); m.state == s && len(worst) > 0 {
				return stalled(worst[0].Reason, "mesh "+m.name+": "+finding.Join(worst.Errors()))
			}
		}
	}
	if c := in.restartPending(); c.Status == metav1.ConditionTrue {
		return stalled(v1alpha1.ReasonRestartRequired, c.Message)
	}
	rotating := meta.FindStatusCondition(in.VirtualMesh.Status.Conditions, v1alpha1.ConditionRotating)
	if trust && rotating != nil && slices.Contains(stalling, rotating.Reason) {
		return stalled(rotating.Reason, rotating.Message)
	}
	if in.Accepted == nil {
		return stalled(v1alpha1.ReasonInvalid, "no member is valid")
	}
	if trust && root != nil && root.Status == metav1.ConditionFalse {
		return verdict{ready: metav1.ConditionFalse, reason: root.Reason, message: root.Message}
	}
	if trust && rotating != nil && rotating.Reason == v1alpha1.ReasonProgressing {
		return verdict{ready: metav1.ConditionFalse, reason: v1alpha1.ReasonProgressing, message: rotating.Message}
	}
	var waits, away []string
	for _, m := range members {
		if m.waits != "" {
			waits = append(waits, m.name+": "+m.waits)
		}
		if m.away {
			away = append(away, m.name)
		}
	}
	switch {
	case len(waits) > 0:
		return verdict{ready: metav1.ConditionFalse, reason: v1alpha1.ReasonProgressing, message: finding.Join(waits)}
	case len(whole) > 0:
		return stalled(whole[0].Reason, finding.Join(whole.Errors()))
	case len(away) > 0:
		return verdict{ready: metav1.ConditionUnknown, reason: v1alpha1.ReasonNotConnected,
			message: fmt.Sprintf("the clusters of these meshes are not connected: %s", strings.Join(away, ", "))}
	}
	return verdict{ready: metav1.ConditionTrue, reason: v1alpha1.ReasonReady, message: fmt.Sprintf("in force in %d meshes", len(members))}
}

func (v verdict) conditions() []metav1.Condition {
	of := func(conditionType string, holds bool) metav1.Condition {
		c := metav1.Condition{Type: conditionType, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonReady}
		if v.ready != metav1.ConditionTrue {
			c.Reason = v.reason
		}
		if holds {
			c.Status, c.Message = metav1.ConditionTrue, v.message
		}
		return c
	}
	return []metav1.Condition{
		{Type: v1alpha1.ConditionReady, Status: v.ready, Reason: v.reason, Message: v.message},
		of(v1alpha1.ConditionReconciling, v.ready != metav1.ConditionTrue && !v.stalled),
		of(v1alpha1.ConditionStalled, v.stalled),
	}
}

func trustEstablished(members []member, trust *accept.Trust) metav1.Condition {
	what := "an intermediate under the shared root"
	if trust.ByGateways() {
		what = "gateway certificates under the root of this virtual mesh"
	}
	c := metav1.Condition{Type: v1alpha1.ConditionTrustEstablished, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady,
		Message: "every member was seen to use " + what}
	var not []string
	for _, m := range members {
		if !m.trusted {
			not = append(not, m.name)
		}
	}
	if len(not) > 0 || len(members) == 0 {
		c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonProgressing
		c.Message = "not seen to use " + what + ": " + finding.Join(not)
	}
	return c
}

func (in Input) restartPending() metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionRestartPending, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonReady}
	var pending []string
	for i := range in.Orders {
		ic := &in.Orders[i]
		if p := meta.FindStatusCondition(ic.Status.Conditions, v1alpha1.ConditionRestartPending); p != nil && p.Status == metav1.ConditionTrue {
			pending = append(pending, accept.MeshKey(ic.Name, ic.Namespace)+": "+finding.Short(p.Message, maxError))
		}
	}
	if len(pending) > 0 {
		slices.Sort(pending)
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1alpha1.ReasonRestartRequired, finding.Join(pending)
	}
	return c
}

// retained tells of certificates that no member needs by what is accepted, and that are renewed; nil if there are none.
func (in Input) retained() *metav1.Condition {
	trust := accept.TrustIn(in.Accepted)
	var removed, shared []string
	for i := range in.Orders {
		mesh, purpose := membership.OrderedFor(in.Orders[i].Name)
		ref := v1alpha1.ObjectRef{Name: mesh, Namespace: in.Orders[i].Namespace}
		switch listed := in.Accepted != nil && slices.Contains(in.Accepted.Spec.Meshes, ref); {
		case !listed:
			removed = append(removed, accept.MeshKey(ref.Name, ref.Namespace))
		case trust.ByGateways() && purpose == v1alpha1.PurposeMeshCA && in.sharesRoot(&in.Orders[i]):
			shared = append(shared, accept.MeshKey(ref.Name, ref.Namespace))
		}
	}
	slices.Sort(removed)
	slices.Sort(shared)
	c := &metav1.Condition{Type: v1alpha1.ConditionMembersRetained, Status: metav1.ConditionTrue, Reason: "Removed"}
	var texts []string
	if len(removed) > 0 {
		texts = append(texts, "no members any more, and still under a root of this virtual mesh: their certificates are renewed and nothing is revoked before the root is replaced: "+
			strings.Join(slices.Compact(removed), ", "))
	}
	if len(shared) > 0 {
		c.Reason = ReasonWasShared
		texts = append(texts, "members that shared a root before trust was limited, and still have CAs under it, which are renewed"+in.sharedUntil()+
			": until each has a root of its own (spec.mtlsConfig.limited.ownRoots), their workloads go on trusting each other: "+strings.Join(shared, ", "))
	}
	if len(texts) == 0 {
		return nil
	}
	c.Message = strings.Join(texts, "; ")
	return c
}

// sharesRoot tells whether a root that a mesh is ordered to trust is that of another one as well.
func (in Input) sharesRoot(ic *v1alpha1.IssuedCertificate) bool {
	return slices.ContainsFunc(in.Orders, func(other v1alpha1.IssuedCertificate) bool {
		_, purpose := membership.OrderedFor(other.Name)
		return purpose == v1alpha1.PurposeMeshCA && (other.Name != ic.Name || other.Namespace != ic.Namespace) &&
			slices.ContainsFunc(other.Spec.Roots, func(r v1alpha1.RootCertificate) bool {
				return slices.ContainsFunc(ic.Spec.Roots, func(own v1alpha1.RootCertificate) bool { return own.Fingerprint == r.Fingerprint })
			})
	})
}

// sharedUntil is until when CAs can be renewed under the root that was shared before trust was limited; "" if that is not known.
func (in Input) sharedUntil() string {
	for i := range in.Orders {
		if _, purpose := membership.OrderedFor(in.Orders[i].Name); purpose != v1alpha1.PurposeMeshCA {
			continue
		}
		for _, r := range in.VirtualMesh.Status.Roots {
			if r.Fingerprint == in.Orders[i].Spec.Signer {
				return " until it ends, on " + r.NotAfter.UTC().Format(time.DateOnly)
			}
		}
	}
	return ""
}
