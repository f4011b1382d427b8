// Package rotation decides which certificate authority each mesh of a virtual mesh is to hold: who signs, which roots are
// distributed, and when an intermediate is issued anew.
//
// It is a function from what is wanted and what was observed to orders. The position is never stored: it follows from the
// evidence and the orders that stand, so a hub that was killed or restored converges. It knows no client and no clock.
package rotation

import (
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// Spacing of issuances that evidence alone calls for. Whoever has taken over an agent can make up evidence, and must not
// have a new signature for each report.
const (
	// KeyLostInterval lies at least between a signature and the order that replaces it because its key was lost.
	KeyLostInterval = 5 * time.Minute
	// GraceInterval lies at least between two renewals under a root that is in its own grace period.
	GraceInterval = 24 * time.Hour
)

// MeshID names a Mesh in the hub.
type MeshID struct{ Namespace, Name string }

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
}

// Equal reports whether two orders are the same.
func (o Order) Equal(p Order) bool {
	return o.Issuance == p.Issuance && o.Contents.Equal(p.Contents) && o.Signer == p.Signer && slices.Equal(o.Roots, p.Roots)
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
}

// Member is what is wanted of one mesh.
type Member struct {
	// Contents of its intermediate.
	Contents Contents
	// Ratio is the part of the intermediate's validity that is left when it is renewed.
	Ratio pki.Ratio
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
	// Held is what the agent reports to be in the mesh's Secret; nil if nothing.
	Held *Held
	// KeyLost is the issuance whose key the agent has lost, or 0.
	KeyLost int64
	// Replicas are the mesh's control planes as seen by handshakes.
	Replicas []Replica
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
)

// Plan is what is to be done.
type Plan struct {
	// Step of the rotation.
	Step v1alpha1.RotationStep
	// Orders for every member.
	Orders map[MeshID]Order
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
	for id, member := range in.Members {
		e := evidence[id]
		order := Order{Contents: member.Contents, Signer: in.Root, Roots: []pki.RootID{in.Root}}
		why, again := in.reissue(order, member.Ratio, e, now)
		switch {
		case e.Order == nil:
			order.Issuance = e.LastIssuance + 1
		case why != "":
			order.Issuance = max(e.Order.Issuance, e.LastIssuance) + 1
		default:
			order.Issuance = max(e.Order.Issuance, e.LastIssuance)
		}
		plan.Orders[id] = order
		if why != "" {
			plan.Issued[id] = why
		}
		if !Proven(order, e) {
			plan.Waiting = append(plan.Waiting, id)
		}
		if !again.IsZero() && (plan.Next.IsZero() || again.Before(plan.Next)) {
			plan.Next = again
		}
	}
	slices.SortFunc(plan.Waiting, func(a, b MeshID) int {
		return slices.Compare([]string{a.Namespace, a.Name}, []string{b.Namespace, b.Name})
	})
	return plan
}

// reissue says why a mesh needs a new intermediate, or when that is to be asked again.
func (in Intent) reissue(want Order, ratio pki.Ratio, e Evidence, now time.Time) (why Why, again time.Time) {
	switch {
	case e.Order == nil:
		return FirstIssuance, again
	case e.Order.Signer != want.Signer:
		return SignerChanged, again
	case !e.Order.Contents.Equal(want.Contents):
		return ContentsChanged, again
	case e.LastIssuance > e.Order.Issuance:
		// The order is older than what was signed: it came out of a backup. If the mesh holds the latest, that will do.
		if e.Held != nil && e.Held.Issuance == e.LastIssuance && e.Held.Signer == want.Signer {
			return "", again
		}
		return Restored, again
	case e.Signed == nil:
		return "", again // not used up: a lost key is simply replaced by another one
	case e.KeyLost == e.Order.Issuance:
		if again = e.Signed.SignedAt.Add(KeyLostInterval); now.Before(again) {
			return "", again
		}
		return KeyLost, time.Time{}
	}
	if again = in.renewAt(*e.Signed, ratio, want.Contents.TTLDays, now); !again.IsZero() && !now.Before(again) {
		return Renewal, time.Time{}
	}
	return "", again
}

// renewAt is when an intermediate is to be renewed; zero if a new one would not live longer.
func (in Intent) renewAt(p Period, ratio pki.Ratio, ttlDays int32, now time.Time) time.Time {
	at := p.graceBegins(ratio)
	if spaced := p.SignedAt.Add(GraceInterval); at.After(in.RootPeriod.graceBegins(in.RootRatio)) && at.Before(spaced) {
		at = spaced
	}
	if now.After(at) {
		at = now
	}
	// Certificates are dated in whole seconds.
	if end := earlier(at.Add(time.Duration(ttlDays)*24*time.Hour), in.RootPeriod.NotAfter); end.Sub(p.NotAfter) < time.Second {
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
