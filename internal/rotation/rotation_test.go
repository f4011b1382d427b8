package rotation_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/rotation"
)

const day = 24 * time.Hour

var (
	epoch    = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	rootA    = pki.RootID{0xa}
	rootB    = pki.RootID{0xb}
	east     = rotation.MeshID{Namespace: "isthmus-east", Name: "m"}
	contents = rotation.Contents{Hosts: []string{"spiffe://a/ns/b/sa/c"}, Organization: "Istio", TTLDays: 100, KeyBits: 2048}
)

func intent(edits ...func(*rotation.Intent)) rotation.Intent {
	in := rotation.Intent{
		Root: rootA, RootPeriod: rotation.Period{SignedAt: epoch, NotAfter: epoch.Add(1000 * day)}, RootRatio: 0.1,
		Members: map[rotation.MeshID]rotation.Member{east: {Contents: contents, Ratio: 0.1}},
	}
	for _, edit := range edits {
		edit(&in)
	}
	return in
}

func order(issuance int64, signer pki.RootID) *rotation.Order {
	return &rotation.Order{Issuance: issuance, Contents: contents, Signer: signer, Roots: []pki.RootID{signer}}
}

// signed for an issuance at a day, for 100 days.
func signed(at int) *rotation.Period {
	return &rotation.Period{SignedAt: epoch.Add(time.Duration(at) * day), NotAfter: epoch.Add(time.Duration(at+100) * day)}
}

func TestNext(t *testing.T) {
	other := contents
	other.Organization = "Example"
	named := contents
	named.Hosts = []string{"spiffe://a/ns/b/sa/d"}
	both := other
	both.Hosts = named.Hosts
	for name, tc := range map[string]struct {
		in       rotation.Intent
		evidence rotation.Evidence
		day      float64
		issuance int64
		why      rotation.Why
		next     float64 // day, or 0
	}{
		"new":                      {intent(), rotation.Evidence{}, 0, 1, rotation.FirstIssuance, 0},
		"order lost":               {intent(), rotation.Evidence{LastIssuance: 4}, 0, 5, rotation.FirstIssuance, 0},
		"not signed yet":           {intent(), rotation.Evidence{Order: order(1, rootA)}, 500, 1, "", 0},
		"signed":                   {intent(), rotation.Evidence{Order: order(1, rootA), Signed: signed(0), LastIssuance: 1}, 1, 1, "", 90},
		"in its grace period":      {intent(), rotation.Evidence{Order: order(1, rootA), Signed: signed(0), LastIssuance: 1}, 90, 2, rotation.Renewal, 0},
		"expired":                  {intent(), rotation.Evidence{Order: order(1, rootA), Signed: signed(0), LastIssuance: 1}, 200, 2, rotation.Renewal, 0},
		"already renewed":          {intent(), rotation.Evidence{Order: order(2, rootA), LastIssuance: 1}, 90, 2, "", 0},
		"other signer":             {intent(), rotation.Evidence{Order: order(1, rootB), Signed: signed(0)}, 1, 2, rotation.SignerChanged, 0},
		"other signer, unsigned":   {intent(), rotation.Evidence{Order: order(1, rootB)}, 1, 2, rotation.SignerChanged, 0},
		"other contents":           {intent(member(other)), rotation.Evidence{Order: order(1, rootA), Signed: signed(0)}, 1, 2, rotation.ContentsChanged, 0},
		"other identity":           {intent(member(named)), rotation.Evidence{Order: order(1, rootA), Signed: signed(0), LastSigned: signed(0).SignedAt}, 1, 2, rotation.ContentsChanged, 0},
		"other identity at once":   {intent(member(named)), rotation.Evidence{Order: order(1, rootA), Signed: signed(1), LastSigned: signed(1).SignedAt}, 1, 1, "", 1 + 5.0/24/60},
		"and again, unsigned":      {intent(member(named)), rotation.Evidence{Order: order(2, rootA), LastIssuance: 1, LastSigned: signed(1).SignedAt}, 1, 2, "", 1 + 5.0/24/60},
		"and options, at once":     {intent(member(both)), rotation.Evidence{Order: order(1, rootA), Signed: signed(1), LastSigned: signed(1).SignedAt}, 1, 2, rotation.ContentsChanged, 1 + 5.0/24/60},
		"restored":                 {intent(), rotation.Evidence{Order: order(1, rootA), LastIssuance: 3}, 1, 4, rotation.Restored, 0},
		"restored, and held":       {intent(), rotation.Evidence{Order: order(1, rootA), LastIssuance: 3, Held: &rotation.Held{Issuance: 3, Signer: rootA}}, 1, 3, "", 0},
		"restored, held before":    {intent(), rotation.Evidence{Order: order(1, rootA), LastIssuance: 3, Held: &rotation.Held{Issuance: 2, Signer: rootA}}, 1, 4, rotation.Restored, 0},
		"restored, other signer":   {intent(), rotation.Evidence{Order: order(1, rootA), LastIssuance: 3, Held: &rotation.Held{Issuance: 3, Signer: rootB}}, 1, 4, rotation.Restored, 0},
		"key lost":                 {intent(), rotation.Evidence{Order: order(3, rootA), Signed: signed(0), KeyLost: 3, LastIssuance: 3}, 1, 4, rotation.KeyLost, 0},
		"key lost at once":         {intent(), rotation.Evidence{Order: order(3, rootA), Signed: signed(1), KeyLost: 3, LastIssuance: 3}, 1, 3, "", 1 + 5.0/24/60},
		"key lost before signed":   {intent(), rotation.Evidence{Order: order(3, rootA), KeyLost: 3}, 1, 3, "", 0},
		"an earlier key lost":      {intent(), rotation.Evidence{Order: order(3, rootA), Signed: signed(0), KeyLost: 2, LastIssuance: 3}, 1, 3, "", 90},
		"a later key lost":         {intent(), rotation.Evidence{Order: order(3, rootA), Signed: signed(0), KeyLost: 9, LastIssuance: 3}, 1, 3, "", 90},
		"as long as the root":      {intent(rootEnds(100)), rotation.Evidence{Order: order(1, rootA), Signed: signed(0), LastIssuance: 1}, 95, 1, "", 0},
		"in the root's grace time": {intent(rootEnds(300), ratio(0.9999)), rotation.Evidence{Order: order(1, rootA), Signed: &rotation.Period{SignedAt: epoch.Add(280 * day), NotAfter: epoch.Add(281 * day)}}, 280.5, 1, "", 281},
		"of a ratio near 1":        {intent(ratio(0.9999)), rotation.Evidence{Order: order(1, rootA), Signed: signed(0), LastIssuance: 1}, 0, 1, "", 0.01},
	} {
		t.Run(name, func(t *testing.T) {
			now := epoch.Add(time.Duration(tc.day * float64(day)))
			plan := rotation.Next(tc.in, map[rotation.MeshID]rotation.Evidence{east: tc.evidence}, now)
			if got := plan.Orders[east]; got.Issuance != tc.issuance || plan.Issued[east] != tc.why {
				t.Errorf("issuance %d for %q, want %d for %q", got.Issuance, plan.Issued[east], tc.issuance, tc.why)
			}
			want := time.Time{}
			if tc.next != 0 {
				want = epoch.Add(time.Duration(tc.next * float64(day)))
			}
			if d := plan.Next.Sub(want); d.Abs() > time.Second {
				t.Errorf("looks again at %v, want %v", plan.Next, want)
			}
		})
	}
}

func member(c rotation.Contents) func(*rotation.Intent) {
	return func(in *rotation.Intent) { in.Members[east] = rotation.Member{Contents: c, Ratio: 0.1} }
}

func ratio(r pki.Ratio) func(*rotation.Intent) {
	return func(in *rotation.Intent) {
		in.Members[east] = rotation.Member{Contents: in.Members[east].Contents, Ratio: r}
	}
}

func rootEnds(days int) func(*rotation.Intent) {
	return func(in *rotation.Intent) { in.RootPeriod.NotAfter = epoch.Add(time.Duration(days) * day) }
}

func TestProven(t *testing.T) {
	held := &rotation.Held{Issuance: 1, Signer: rootA}
	good := rotation.Replica{Signer: rootA, Roots: []pki.RootID{rootB, rootA}}
	for name, tc := range map[string]struct {
		e    rotation.Evidence
		want bool
	}{
		"all replicas":               {rotation.Evidence{Held: held, Replicas: []rotation.Replica{good, good}}, true},
		"an earlier issuance":        {rotation.Evidence{Held: &rotation.Held{Signer: rootA}, Replicas: []rotation.Replica{good}}, true},
		"nothing seen":               {rotation.Evidence{Held: held}, false},
		"nothing held":               {rotation.Evidence{Replicas: []rotation.Replica{good}}, false},
		"held under another":         {rotation.Evidence{Held: &rotation.Held{Signer: rootB}, Replicas: []rotation.Replica{good}}, false},
		"one serves under another":   {rotation.Evidence{Held: held, Replicas: []rotation.Replica{good, {Signer: rootB, Roots: good.Roots}}}, false},
		"one was not seen":           {rotation.Evidence{Held: held, Replicas: []rotation.Replica{good, {}}}, false},
		"one does not hold the root": {rotation.Evidence{Held: held, Replicas: []rotation.Replica{{Signer: rootA}}}, false},
	} {
		if got := rotation.Proven(*order(2, rootA), tc.e); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestIssuances plays hub, agent and time at random: whatever happens, issuances only rise, each by a signature at least
// five minutes old unless the order itself has changed, and a plan that is carried out is not followed by another.
func TestIssuances(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := intent()
		now := epoch
		e := rotation.Evidence{}
		carry := func() {
			plan := rotation.Next(in, map[rotation.MeshID]rotation.Evidence{east: e}, now)
			o, why := plan.Orders[east], plan.Issued[east]
			switch {
			case e.Order == nil:
				if why != rotation.FirstIssuance || o.Issuance != e.LastIssuance+1 {
					t.Fatalf("first issuance is %d for %q", o.Issuance, why)
				}
			case why == "":
				same := *e.Order
				if same.Issuance < e.LastIssuance { // restored from a backup, and the mesh holds the latest
					same.Issuance = e.Held.Issuance
				}
				if !o.Equal(same) {
					t.Fatalf("%+v became %+v for nothing", *e.Order, o)
				}
			case o.Issuance <= e.Order.Issuance || o.Issuance <= e.LastIssuance:
				t.Fatalf("issuance fell from %d to %d for %q", e.Order.Issuance, o.Issuance, why)
			case why == rotation.KeyLost || why == rotation.Renewal:
				if e.Signed == nil || why == rotation.KeyLost && now.Sub(e.Signed.SignedAt) < rotation.ReportInterval {
					t.Fatalf("%q of issuance %d, which was signed %+v, at %v", why, e.Order.Issuance, e.Signed, now)
				}
			}
			if why != "" {
				e.Signed = nil
			}
			if e.Order != nil && !slices.Equal(o.Contents.Hosts, e.Order.Contents.Hosts) && now.Sub(e.LastSigned) < rotation.ReportInterval {
				t.Fatalf("ordered for %v, although it was signed at %v for %v", o.Contents.Hosts, e.LastSigned, e.Order.Contents.Hosts)
			}
			if o.Signer != in.Root || len(o.Roots) != 1 || o.Roots[0] != o.Signer {
				t.Fatalf("order %+v under root %s", o, in.Root)
			}
			if why == "" && !plan.Next.IsZero() && !plan.Next.After(now) {
				t.Fatalf("to be asked again at once, at %v", plan.Next)
			}
			e.Order = &o
			if again := rotation.Next(in, map[rotation.MeshID]rotation.Evidence{east: e}, now); len(again.Issued) != 0 || !again.Orders[east].Equal(o) {
				t.Fatalf("%+v is followed by %+v", plan, again)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.Int64Range(0, int64(30*day)).Draw(t, "passes")))
				if now.After(in.RootPeriod.NotAfter) {
					t.Skip("the root has expired")
				}
			},
			"signature": func(t *rapid.T) {
				if e.Order == nil || e.Signed != nil {
					t.Skip("nothing to sign")
				}
				end := now.Add(time.Duration(e.Order.Contents.TTLDays) * day)
				if end.After(in.RootPeriod.NotAfter) {
					end = in.RootPeriod.NotAfter
				}
				e.Signed, e.LastSigned, e.LastIssuance = &rotation.Period{SignedAt: now, NotAfter: end}, now, e.Order.Issuance
			},
			"installation": func(t *rapid.T) {
				if e.Signed == nil {
					t.Skip("nothing to install")
				}
				e.Held = &rotation.Held{Issuance: e.Order.Issuance, Signer: e.Order.Signer}
			},
			"key lost":      func(t *rapid.T) { e.KeyLost = rapid.Int64Range(0, 20).Draw(t, "issuance") },
			"order lost":    func(*rapid.T) { e.Order, e.Signed = nil, nil },
			"older backup":  func(t *rapid.T) { restore(t, &e) },
			"other options": func(t *rapid.T) { change(t, &in) },
			"other root":    func(t *rapid.T) { in.Root = rapid.SampledFrom([]pki.RootID{rootA, rootB}).Draw(t, "root") },
			"":              func(*rapid.T) { carry() },
		})
	})
}

func restore(t *rapid.T, e *rotation.Evidence) {
	if e.Order == nil || e.Order.Issuance == 1 {
		t.Skip("no older one")
	}
	older := *e.Order
	older.Issuance = rapid.Int64Range(1, older.Issuance-1).Draw(t, "issuance")
	e.Order, e.Signed = &older, nil
}

func change(t *rapid.T, in *rotation.Intent) {
	m := in.Members[east]
	m.Contents.Organization = fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "organisation"))
	m.Contents.Hosts = []string{fmt.Sprint("spiffe://a/ns/b/sa/", rapid.IntRange(0, 1).Draw(t, "account"))}
	m.Contents.TTLDays = int32(rapid.IntRange(1, 200).Draw(t, "days"))
	m.Ratio = pki.Ratio(rapid.Float64Range(0.0001, 0.9999).Draw(t, "ratio"))
	in.Members[east] = m
}
