package rotation

import (
	"cmp"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// Nudges.
const (
	// MaxNudges is how often laggards of one step are nudged before they have to be restarted.
	MaxNudges = 3
	// NudgeInterval lies at least between the evidence of laggards and another nudge.
	NudgeInterval = 10 * time.Second
)

// complete tells whether all these meshes are as ordered, and says of those that are not what they lack.
func (s *steering) complete(members []*member) bool {
	complete := true
	for _, m := range members {
		lack := s.lacks(m)
		if lack == nil {
			continue
		}
		complete = false
		s.plan.Findings = append(s.plan.Findings, *lack)
		if m.Failed != "" {
			s.plan.Step = v1alpha1.StepFailed
		}
	}
	return complete
}

// lacks is what a mesh is short of what it was ordered; nil if it is as ordered. It is the same question at every step: does
// the mesh answer to its order, in full?
func (s *steering) lacks(m *member) *finding.Finding {
	lack := func(reason, message string) *finding.Finding {
		return &finding.Finding{Mesh: m.id.String(), Reason: reason, Message: message}
	}
	o, g := m.order, s.guards
	switch {
	case m.Away:
		return lack(v1alpha1.ReasonNotConnected, "its cluster is not connected; if it is lost for good, evict it, or waive it in a CertificateVerification")
	case m.Failed != "":
		return lack(v1alpha1.ReasonInvalid, m.Failed)
	case g.hold(guardFresh) && !o.answeredBy(m.Carried):
		return lack(ReasonNotCarriedOut, "its agent has not carried out the order yet")
	case !controlPlane(o, m.Evidence, g):
		return lack(ReasonControlPlane, "not every "+cmp.Or(m.Member.Replicas, "istiod")+" is seen to use what was ordered")
	case g.hold(guardPublished) && !m.Published:
		return lack(ReasonRoots, "not every namespace holds the ordered roots yet")
	case s.firstNudge(m):
		return lack(ReasonProxies, "proxies are told to take leaves under the new root")
	case s.Verification.Method == Automatic && !proxies(o, m.Proxies, g):
		return lack(ReasonProxies, "not every proxy is seen to be as ordered")
	}
	return nil
}

// controlPlane tells whether every replica serves under the ordered signer, holds the ordered roots and no others, and lets
// in no clients under a root that was dropped.
func controlPlane(o *Order, e Evidence, g guards) bool {
	if e.Held == nil || e.Held.Signer != o.Signer || len(e.Replicas) == 0 {
		return false
	}
	good := func(r Replica) bool {
		if !g.hold(guardClients) {
			r.Clients = nil
		}
		return r.AsOrdered(o)
	}
	if !g.hold(guardReplicas) {
		return slices.ContainsFunc(e.Replicas, good)
	}
	return !slices.ContainsFunc(e.Replicas, func(r Replica) bool { return !good(r) })
}

// AsOrdered tells whether a replica serves under the ordered signer, holds the ordered roots and no others, and lets in no clients
// under a root that was dropped.
func (r Replica) AsOrdered(o *Order) bool {
	root, drops := o.Dropped()
	return r.Signer == o.Signer && sameSet(r.Roots, o.Roots) && !(drops && slices.Contains(r.Clients, root))
}

// Dropped is the root that an order drops.
func (o *Order) Dropped() (pki.RootID, bool) {
	if !isOpen(o.Position) {
		return pki.RootID{}, false
	}
	return o.Position.dropped()
}

func sameSet(a, b []pki.RootID) bool {
	in := func(set []pki.RootID) func(pki.RootID) bool {
		return func(r pki.RootID) bool { return !slices.Contains(set, r) }
	}
	return !slices.ContainsFunc(a, in(b)) && !slices.ContainsFunc(b, in(a))
}

// proxies tells whether every proxy has a leaf under the ordered signer, and trusts the ordered roots and no others.
func proxies(o *Order, p *Proxies, g guards) bool {
	if p == nil {
		return false
	}
	_, drops := o.Dropped()
	return (!g.hold(guardLeaf) || p.Leaf == p.Total) && (!g.hold(guardTrust) || p.Trust == p.Total) &&
		(!g.hold(guardRefusal) || !drops || p.Refuse == p.Total)
}

// firstNudge tells whether the mesh waits for the nudge that takes its leaves to a new signer, or, where nobody looks for
// laggards, makes all forget the root that was dropped.
func (s *steering) firstNudge(m *member) bool {
	p := m.order.Position
	if !isOpen(p) || p.Nudges > 0 || m.Proxies != nil && m.Proxies.Live == 0 || !s.guards.hold(guardNudge) {
		return false
	}
	_, drops := p.dropped()
	return p.movesLeaves() && !m.order.Cross || drops && s.Verification.Method != Automatic
}

// nudge nudges those whose control planes are as ordered and whose proxies are not. A nudge is a write of its own: a proxy
// that is nudged by one replica may be signed by another, and then that one has to be there already.
func (s *steering) nudge(members []*member) {
	for _, m := range members {
		lack, p := s.lacks(m), m.order.Position
		if lack == nil || lack.Reason != ReasonProxies || !isOpen(p) {
			continue
		}
		o, q := *m.order, *p
		most := int32(MaxNudges)
		if p.movesLeaves() {
			most++
		}
		switch at := m.Since.Add(NudgeInterval); {
		case s.firstNudge(m):
		case !s.guards.hold(guardLaggards) || m.Proxies == nil || m.Proxies.Laggards == 0:
			continue
		case s.now.Before(at):
			s.plan.lookAgain(at)
			continue
		case p.Nudges >= most:
			o.Restart.Workloads = s.guards.hold(guardRestart)
			m.want = &o
			continue
		}
		o.Nudge++
		q.Nudges++
		o.Position = &q
		m.want = &o
	}
}
