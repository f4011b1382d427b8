package rotation

import (
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// Spacing of issuances that evidence alone calls for. Whoever has taken over an agent can make up evidence, and must not
// have a new signature for each report.
const (
	// ReportInterval lies at least between a signature and the order that replaces it because of what an agent alone reports: that
	// its key was lost, that istiod has another identity, that the mesh holds a later one.
	ReportInterval = 5 * time.Minute
	// GraceInterval lies at least between two renewals under a root that is in its own grace period.
	GraceInterval = 24 * time.Hour
)

// MeshID names a Mesh in the hub.
type MeshID struct{ Namespace, Name string }

// String is "<name>.<namespace>".
func (id MeshID) String() string { return id.Name + "." + id.Namespace }

// Order is what one mesh is told to hold.
type Order struct {
	// Issuance counts the intermediates ordered, from 1. There is one signature per issuance.
	Issuance int64
	// Contents of the intermediate.
	Contents Contents
	// Signer is the root under which the intermediate is; one of Roots.
	Signer pki.RootID
	// Roots to distribute, in order.
	Roots []pki.RootID

	// Serial rises with every order of a mesh whose rotations are steered. An agent carries out none that is below the one
	// that it carried out last, and gives evidence for the one that it carried out.
	Serial int64
	// Prepared is an intermediate to have at hand beside the one in use, for canaries and for the next step; nil outside of
	// rotations.
	Prepared *Intermediate
	// Latest is the highest issuance ever ordered for the mesh, if it is none of these.
	Latest int64
	// Cross asks for a certificate of the new root under the old one in the chain.
	Cross bool
	// Nudge is written into the bundle, so that its bytes change and live proxies take new leaves.
	Nudge int64
	// Restart says what has to be restarted for the order to be in force.
	Restart Restart
	// Position in a rotation, the last one if none is under way; nil if there never was one.
	Position *Position
}

// Intermediate is one that was ordered.
type Intermediate struct {
	// Issuance is 0 for the mesh's own CA, which it had before.
	Issuance int64
	Signer   pki.RootID
}

// Restart is what has to be restarted, after the order has been written and one after the other.
type Restart struct {
	// Istiod, every replica: it does not take the change live, or has to forget a root by which it lets clients in.
	Istiod bool
	// Workloads, those that are not as ordered: they do not follow live.
	Workloads bool
}

// Equal reports whether two orders are the same.
func (o Order) Equal(p Order) bool {
	return o.Issuance == p.Issuance && o.Contents.Equal(p.Contents) && o.Signer == p.Signer && slices.Equal(o.Roots, p.Roots) &&
		o.Serial == p.Serial && o.Latest == p.Latest && equal(o.Prepared, p.Prepared) && o.Cross == p.Cross && o.Nudge == p.Nudge && o.Restart == p.Restart &&
		equal(o.Position, p.Position)
}

func equal[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// answeredBy tells whether an order that was carried out is this one. The serial alone does not tell: it may have been given
// twice, by a hub that came out of a backup.
func (o Order) answeredBy(c *Order) bool {
	return c != nil && o.Serial == c.Serial && o.Signer == c.Signer && slices.Equal(o.Roots, c.Roots) && o.Cross == c.Cross &&
		o.Nudge == c.Nudge && equal(o.Position, c.Position)
}

// latest is the highest issuance that the order knows of.
func (o Order) latest() int64 {
	if o.Prepared != nil {
		return max(o.Issuance, o.Prepared.Issuance, o.Latest)
	}
	return max(o.Issuance, o.Latest)
}

// Contents is what an intermediate says, apart from its key and its signer.
type Contents struct {
	// Hosts are the URI SANs.
	Hosts []string
	// Organization is the O of the subject.
	Organization string
	// TTLDays is the lifetime in days.
	TTLDays int32
	// KeyBits is the size of the RSA key.
	KeyBits int32
}

// Equal reports whether two contents are the same.
func (c Contents) Equal(d Contents) bool {
	return slices.Equal(c.Hosts, d.Hosts) && c.Organization == d.Organization && c.TTLDays == d.TTLDays && c.KeyBits == d.KeyBits
}

// Period is the validity of a certificate, counted from its signature and not from its NotBefore, which allows for skew.
type Period struct{ SignedAt, NotAfter time.Time }

// graceBegins is when no more than the given part of the period is left.
func (p Period) graceBegins(r pki.Ratio) time.Time {
	return p.NotAfter.Add(-time.Duration(float64(p.NotAfter.Sub(p.SignedAt)) * float64(r)))
}

// Intent is what is wanted of a virtual mesh.
type Intent struct {
	// Root that signs.
	Root pki.RootID
	// RootPeriod is its validity, RootRatio the part of it that is left when its grace period begins.
	RootPeriod Period
	RootRatio  pki.Ratio
	// Members are the meshes that hold an intermediate.
	Members map[MeshID]Member
	// Rotation says how to come to Root from another one. Without it, every member is told to hold Root at once, and the
	// orders have no serial: that is for as long as nobody can want another root.
	Rotation *Rotation
}

// Rotation is how a root is to be replaced.
type Rotation struct {
	// ID of the rotation that leads to the wanted root; any other rotation has another one.
	ID string
	// Strategy; the zero value is MULTI_ROOT.
	Strategy v1alpha1.RotationStrategy
	// Verification between steps.
	Verification Verification
	// Words that people have spoken, all of them: one that is about another rotation or step is stale and moves nothing.
	Words []Word
	// Keys are the roots whose key is at hand, so that a new root can be cross-signed.
	Keys []pki.RootID
	// Periods are the validities of the other roots that the hub can sign under: what is under these is renewed as well.
	Periods map[pki.RootID]Period

	guards guards
}

// Verification says what is demanded of a step beside the evidence of the control planes.
type Verification struct {
	Method Method
	// Soak is how long the evidence must have held, if the method is automatic.
	Soak time.Duration
}

// Method of verification.
type Method int

// Methods.
const (
	Automatic Method = iota // the evidence of every proxy
	Manual                  // a person's word
	None                    // nothing
)

// Word is what a person has said of a step.
type Word struct {
	RotationID string
	Step       v1alpha1.RotationStep
	Action     v1alpha1.VerificationAction
	// Waive are meshes that are not waited for in that step.
	Waive []MeshID
}

// Member is what is wanted of one mesh.
type Member struct {
	// Contents of its intermediate.
	Contents Contents
	// Ratio is the part of the intermediate's validity that is left when it is renewed.
	Ratio pki.Ratio
	// Retained: it is no member any more. What it holds is renewed; in rotations, it takes no part.
	Retained bool
	// Replicas is what the mesh's replicas are called; empty stands for istiod.
	Replicas string
}

// Evidence is what is known of one mesh.
type Evidence struct {
	// Order that stands; nil if there is none.
	Order *Order
	// Signed is the validity of the intermediate that was signed for the order's issuance; nil as long as there is none.
	Signed *Period
	// LastIssuance is the highest for which a signature is known. It exceeds that of the order if the latter comes out of a
	// backup or was lost.
	LastIssuance int64
	// LastSigned is when the hub last signed for the mesh, by its own record; zero if there is none.
	LastSigned time.Time
	// Held is what the agent reports to be in the mesh's Secret; nil if nothing.
	Held *Held
	// KeyLost is the issuance whose key the agent has lost, or 0.
	KeyLost int64
	// Replicas are the mesh's control planes as seen by handshakes.
	Replicas []Replica

	// What follows matters to rotations only.

	// Away: the agent's Lease is not fresh.
	Away bool
	// Carried is the order that the agent carried out last, in its own words; all that it saw is about this one.
	Carried *Order
	// Failed is what keeps the agent from carrying the order out.
	Failed string
	// Since is when the evidence was first as it is.
	Since time.Time
	// Own is the CA of a mesh that has no order yet; nil if it has none.
	Own *Own
	// PreparedSigned is the validity of the prepared intermediate, as Signed.
	PreparedSigned *Period
	// MultiRoot: every istiod takes a changed bundle without a restart.
	MultiRoot bool
	// Published: every ConfigMap of roots has held the ordered ones for longer than kubelets take to project it.
	Published bool
	// Proxies of the mesh; nil if they were not looked at.
	Proxies *Proxies
}

// Own is a CA that a mesh came with.
type Own struct {
	Signer pki.RootID
	Roots  []pki.RootID
	// Key: its key is at hand in the mesh, so that it can cross-sign a new root.
	Key bool
}

// Proxies counts what was seen of the proxies of a mesh.
type Proxies struct {
	Total int
	// Live are those that take a changed bundle, and a leaf with it, without a restart.
	Live int
	// Leaf counts those whose leaf is under the ordered signer, Trust those that accept leaves under every ordered root,
	// Refuse those that refuse leaves under the other root of the rotation. Those of which nothing could be seen are in none
	// of them, unless they are proven otherwise.
	Leaf, Trust, Refuse int
	// Laggards are live ones that are seen not to be as ordered, although they have had the time.
	Laggards int
}

// Held is an intermediate in a mesh's Secret.
type Held struct {
	Issuance int64
	Signer   pki.RootID
}

// Replica is one replica of istiod.
type Replica struct {
	// Signer is the root that its serving certificate chains to; zero if it was not seen.
	Signer pki.RootID
	// Roots that it was seen to hold.
	Roots []pki.RootID
	// Clients are the roots under which it lets clients in, fixed at its start.
	Clients []pki.RootID
}

// Why says what a new issuance is for; it is the reason of the event.
type Why string

// What new issuances are for.
const (
	FirstIssuance   Why = "FirstIssuance"
	SignerChanged   Why = "SignerChanged"
	ContentsChanged Why = "ContentsChanged"
	KeyLost         Why = "KeyLost"
	Renewal         Why = "Renewal"
	Restored        Why = "Restored"
	NextSigner      Why = "NextSigner" // an intermediate under the other root of a rotation
)

// Plan is what is to be done. Wherever the writer is interrupted, the next plan goes on from there.
type Plan struct {
	// Step of the rotation.
	Step v1alpha1.RotationStep
	// RotationID and Place are what a person has to name who speaks of it; empty if there never was a rotation.
	RotationID string
	Place      v1alpha1.RotationStep
	// Words are what comes of those of the intent, in their order. VERIFIED may be written after the orders, not before;
	// what was judged once is not judged anew.
	Words []v1alpha1.VerificationState
	// Findings say what is waited for, or has gone wrong.
	Findings finding.Findings
	// Orders for every member, but for those that have none yet and have to wait for it.
	Orders map[MeshID]Order
	// Changed are the members whose orders are not those that stand, in the order in which they have to be written: each
	// only if it is as it was read, and after a failure none of the rest.
	Changed []MeshID
	// Issued says for which members the plan orders a new intermediate.
	Issued map[MeshID]Why
	// Waiting are the members in which the orders are not seen to be in force.
	Waiting []MeshID
	// Next is when time alone calls for another plan; zero if it does not.
	Next time.Time
}

// Next plans. Members without evidence are new.
func Next(in Intent, evidence map[MeshID]Evidence, now time.Time) Plan {
	plan := Plan{Step: v1alpha1.StepNotRotating, Orders: map[MeshID]Order{}, Issued: map[MeshID]Why{}}
	members := in.members(evidence)
	if in.Rotation == nil {
		for _, m := range members {
			m.want = &Order{Signer: in.Root, Roots: []pki.RootID{in.Root}}
		}
	} else {
		steer(in, members, now, &plan)
	}
	for _, m := range members {
		if m.want == nil {
			continue
		}
		plan.lookAgain(m.settle(now))
		order, why, again := in.issue(m, now)
		plan.Orders[m.id] = order
		if m.Order == nil || !order.Equal(*m.Order) {
			plan.Changed = append(plan.Changed, m.id)
		}
		if why != "" {
			plan.Issued[m.id] = why
		}
		if in.Rotation == nil && !Proven(order, m.Evidence) {
			plan.Waiting = append(plan.Waiting, m.id)
		}
		plan.lookAgain(again)
	}
	return plan
}

// lookAgain asks for another plan at a time, if it is one.
func (p *Plan) lookAgain(at time.Time) {
	if !at.IsZero() && (p.Next.IsZero() || at.Before(p.Next)) {
		p.Next = at
	}
}

// member is one mesh.
type member struct {
	id MeshID
	Member
	Evidence
	// order that stands, whoever knows of it; nil if there is none.
	order *Order
	// want is the order that shall stand; nil if there shall be none yet.
	want *Order
}

// members in the order of their names.
func (in Intent) members(evidence map[MeshID]Evidence) []*member {
	out := make([]*member, 0, len(in.Members))
	for id, wanted := range in.Members {
		m := &member{id: id, Member: wanted, Evidence: evidence[id]}
		m.order = m.Order
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *member) int {
		return slices.Compare([]string{a.id.Namespace, a.id.Name}, []string{b.id.Namespace, b.id.Name})
	})
	return out
}

// settle has a mesh keep the identity that was ordered if its agent reports another one shortly after a signature. It returns when
// that is to be asked again.
func (m *member) settle(now time.Time) (again time.Time) {
	if m.Order == nil || slices.Equal(m.Order.Contents.Hosts, m.Contents.Hosts) || !m.fresh(now) {
		return again
	}
	m.Contents.Hosts = m.Order.Contents.Hosts
	return m.LastSigned.Add(ReportInterval)
}

// fresh tells whether the hub has signed for the mesh just now.
func (e *Evidence) fresh(now time.Time) bool {
	return now.Before(e.LastSigned.Add(ReportInterval))
}

// Doubtful tells whether an agent's word that it has an intermediate of a later issuance is not taken yet: only a hub that came out
// of a backup does not know what it has ordered, and this one has signed for the mesh just now. That an agent has carried out a
// later order is taken at once: otherwise a hub that came out of a backup would order what is older.
func (e *Evidence) Doubtful(issuance int64, now time.Time) bool {
	return e.Ahead(issuance) && e.fresh(now)
}

// Ahead tells whether an issuance is a later one than the hub has ordered or signed, of all that it knows.
func (e *Evidence) Ahead(issuance int64) bool {
	return issuance > max(e.Order.latest(), e.LastIssuance)
}

// issue makes the wanted order one that can be carried out: with the intermediates that it needs, new ones if need be.
func (in Intent) issue(m *member, now time.Time) (o Order, why Why, again time.Time) {
	o = *m.want
	if o.Position == nil || o.Position.Closed || m.order == nil {
		o.Contents = m.Contents
	} // else the rotation goes first
	stands := m.order
	if stands == nil {
		stands = &Order{}
	}
	latest := max(stands.latest(), m.LastIssuance)
	switch {
	case m.isOwn(o.Signer):
		o.Issuance = 0
	case stands.Prepared != nil && stands.Signer != o.Signer && stands.Prepared.Signer == o.Signer && stands.Contents.Equal(o.Contents):
		o.Issuance = stands.Prepared.Issuance
	default:
		why, again = in.reissue(o, m, now)
		switch {
		case why != "":
			latest++
			o.Issuance = latest
		case m.LastIssuance > stands.latest():
			o.Issuance = m.LastIssuance
		default:
			o.Issuance = stands.Issuance
		}
	}
	if in.Rotation == nil {
		return o, why, again
	}
	if o.Prepared = nil; o.Position != nil && !o.Position.Closed {
		var prepared bool
		var retry time.Time
		o.Prepared, prepared, retry = m.prepare(stands, o.Position.other(o.Signer), latest, now)
		if prepared && why == "" {
			why = NextSigner
		}
		if again.IsZero() || !retry.IsZero() && retry.Before(again) {
			again = retry
		}
	}
	o.Latest = 0
	if highest := stands.latest(); highest > o.latest() {
		o.Latest = highest
	}
	if o.Serial = stands.Serial; m.order == nil || !o.Equal(*stands) {
		o.Serial++
	}
	return o, why, again
}

// prepare finds or orders the intermediate under the other root of the rotation.
func (m *member) prepare(stands *Order, root pki.RootID, latest int64, now time.Time) (i *Intermediate, ordered bool, again time.Time) {
	switch {
	case m.isOwn(root):
		return &Intermediate{Signer: root}, false, again
	case stands.Signer == root && stands.Issuance > 0:
		return &Intermediate{Issuance: stands.Issuance, Signer: root}, false, again
	case stands.Prepared != nil && stands.Prepared.Signer == root:
		if m.PreparedSigned == nil || m.KeyLost != stands.Prepared.Issuance {
			return stands.Prepared, false, again
		}
		if again = m.PreparedSigned.SignedAt.Add(ReportInterval); now.Before(again) {
			return stands.Prepared, false, again
		}
	}
	return &Intermediate{Issuance: latest + 1, Signer: root}, true, time.Time{}
}

// isOwn tells whether nothing is issued under a root, since the mesh came with a CA under it.
func (m *member) isOwn(root pki.RootID) bool {
	switch o := m.order; {
	case root.IsZero():
		return false
	case o == nil:
		return m.want.Position != nil && m.Own != nil && m.Own.Signer == root
	case o.Signer == root:
		return o.Issuance == 0
	case o.Prepared != nil && o.Prepared.Signer == root:
		return o.Prepared.Issuance == 0
	}
	return false
}

// reissue says why a mesh needs a new intermediate, or when that is to be asked again.
func (in Intent) reissue(want Order, m *member, now time.Time) (why Why, again time.Time) {
	o := m.order
	switch {
	case o == nil || o.latest() == 0:
		return FirstIssuance, again
	case o.Signer != want.Signer:
		return SignerChanged, again
	case !o.Contents.Equal(want.Contents):
		return ContentsChanged, again
	case m.LastIssuance > o.latest():
		// The order is older than what was signed: it came out of a backup. If the mesh holds the latest, that will do.
		if m.Held != nil && m.Held.Issuance == m.LastIssuance && m.Held.Signer == want.Signer {
			return "", again
		}
		return Restored, again
	case m.Signed == nil:
		return "", again // not used up: a lost key is simply replaced by another one
	case m.KeyLost == o.Issuance:
		if again = m.Signed.SignedAt.Add(ReportInterval); now.Before(again) {
			return "", again
		}
		return KeyLost, time.Time{}
	}
	root, ok := in.period(want.Signer)
	if !ok {
		return "", again
	}
	if again = in.renewAt(*m.Signed, root, m.Ratio, want.Contents.TTLDays, now); !again.IsZero() && !now.Before(again) {
		return Renewal, time.Time{}
	}
	return "", again
}

// period is the validity of a root, if the hub can sign under it.
func (in Intent) period(root pki.RootID) (Period, bool) {
	if root == in.Root {
		return in.RootPeriod, true
	}
	if in.Rotation == nil {
		return Period{}, false
	}
	p, ok := in.Rotation.Periods[root]
	return p, ok
}

// renewAt is when an intermediate is to be renewed; zero if a new one would not live longer.
func (in Intent) renewAt(p, root Period, ratio pki.Ratio, ttlDays int32, now time.Time) time.Time {
	at := p.graceBegins(ratio)
	if spaced := p.SignedAt.Add(GraceInterval); at.After(root.graceBegins(in.RootRatio)) && at.Before(spaced) {
		at = spaced
	}
	if now.After(at) {
		at = now
	}
	// Certificates are dated in whole seconds.
	if end := earlier(at.Add(time.Duration(ttlDays)*24*time.Hour), root.NotAfter); end.Sub(p.NotAfter) < time.Second {
		return time.Time{}
	}
	return at
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Proven reports whether an order was seen to be in force: the Secret holds an intermediate under the signer, and every
// replica serves under it and holds every root.
func Proven(o Order, e Evidence) bool {
	if e.Held == nil || e.Held.Signer != o.Signer || len(e.Replicas) == 0 {
		return false
	}
	return !slices.ContainsFunc(e.Replicas, func(r Replica) bool {
		return r.Signer != o.Signer || slices.ContainsFunc(o.Roots, func(id pki.RootID) bool { return !slices.Contains(r.Roots, id) })
	})
}
