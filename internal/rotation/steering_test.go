package rotation

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

var start = time.Unix(1e9, 0)

// world is one in which every order is carried out at once, and everything is as ordered then.
type world struct {
	Intent
	evidence map[MeshID]Evidence
	now      time.Time
	lines    []string
}

// newWorld with meshes under root x.
func newWorld(names ...string) *world {
	w := &world{
		Intent:   Intent{Root: rootOf(x), Members: map[MeshID]Member{}, Rotation: &Rotation{ID: "r"}},
		evidence: map[MeshID]Evidence{}, now: start,
	}
	for _, name := range names {
		w.Members[id(name)] = Member{Contents: Contents{Organization: "o", TTLDays: 10}, Ratio: 0.1}
		o := Order{Issuance: 1, Contents: w.Members[id(name)].Contents, Signer: rootOf(x), Roots: x.ids(), Serial: 1}
		w.evidence[id(name)] = answered(Evidence{Order: &o, MultiRoot: true, Proxies: &Proxies{Total: 3, Live: 3}}, start)
	}
	return w
}

func id(name string) MeshID { return MeshID{Namespace: "isthmus-" + name, Name: name} }

// answered is the evidence of a mesh that is as ordered.
func answered(e Evidence, now time.Time) Evidence {
	o := *e.Order
	e.Carried, e.Held, e.Since, e.Published = &o, &Held{Issuance: o.Issuance, Signer: o.Signer}, now, true
	e.Replicas = []Replica{{Signer: o.Signer, Roots: o.Roots, Clients: o.Roots}}
	e.LastIssuance = max(e.LastIssuance, o.latest())
	n := e.Proxies.Total
	e.Proxies = &Proxies{Total: n, Live: e.Proxies.Live, Leaf: n, Trust: n, Refuse: n}
	return e
}

func (w *world) edit(name string, edit func(*Evidence)) {
	e := w.evidence[id(name)]
	edit(&e)
	w.evidence[id(name)] = e
}

func (w *world) next() Plan { return Next(w.Intent, w.evidence, w.now) }

// carryOut carries out a plan, as do those whose evidence is not held back.
func (w *world) carryOut(plan Plan) {
	for _, mesh := range plan.Changed {
		o := plan.Orders[mesh]
		e := w.evidence[mesh]
		e.Order = &o
		if e.Proxies == nil {
			e.Proxies = &Proxies{}
		}
		if !e.Away {
			e = answered(e, w.now)
		}
		w.evidence[mesh] = e
	}
}

// play carries out plans until nothing changes, and writes down what was ordered.
func (w *world) play(t *testing.T) Plan {
	t.Helper()
	w.lines = nil
	for range 100 {
		plan := w.next()
		if len(plan.Changed) == 0 {
			w.lines = append(w.lines, string(plan.Step))
			return plan
		}
		for _, mesh := range plan.Changed {
			w.lines = append(w.lines, fmt.Sprintf("%s: %s %s", plan.Step, mesh.Name, text(plan.Orders[mesh])))
		}
		w.carryOut(plan)
	}
	t.Fatalf("it does not end:\n%s", strings.Join(w.lines, "\n"))
	return Plan{}
}

// text of an order: signer and issuance, roots, and what else there is.
func text(o Order) string {
	out := fmt.Sprintf("%s%d %s", setOf(o.Signer), o.Issuance, setOf(o.Roots...))
	if o.Prepared != nil {
		out += fmt.Sprintf(" beside %s%d", setOf(o.Prepared.Signer), o.Prepared.Issuance)
	}
	if o.Cross {
		out += " cross"
	}
	if o.Nudge > 0 {
		out += fmt.Sprintf(" nudge %d", o.Nudge)
	}
	if o.Restart.Istiod {
		out += " istiod"
	}
	if o.Restart.Workloads {
		out += " workloads"
	}
	return out
}

func (w *world) expect(t *testing.T, want string) {
	t.Helper()
	var lines []string
	for line := range strings.Lines(want) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	if !slices.Equal(w.lines, lines) {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(w.lines, "\n"), strings.Join(lines, "\n"))
	}
}

func TestTwoMeshes(t *testing.T) {
	world := newWorld("a", "b")
	world.Root = rootOf(w)
	world.play(t)
	world.expect(t, `
		ADDING_NEW_ROOT: a x1 xw beside w2
		ADDING_NEW_ROOT: b x1 xw beside w2
		VERIFIED: a w2 xw beside x1
		PROPAGATING_NEW_INTERMEDIATE: a w2 xw beside x1 nudge 1
		PROPAGATING_NEW_INTERMEDIATE: b w2 xw beside x1
		PROPAGATING_NEW_INTERMEDIATE: b w2 xw beside x1 nudge 1
		VERIFIED: a w2 w beside x1 nudge 1 istiod
		DELETING_OLD_ROOT: b w2 w beside x1 nudge 1 istiod
		FINISHED: a w2 w nudge 1
		FINISHED: b w2 w nudge 1
		FINISHED`)
	world.Root, world.Rotation.ID = rootOf(v), "s"
	plan := world.next()
	if o := plan.Orders[id("a")]; !slices.Equal(o.Roots, []pki.RootID{rootOf(w), rootOf(v)}) || plan.Step != v1alpha1.StepAddingNewRoot {
		t.Errorf("two in a row: %s, %s", plan.Step, text(o))
	}
}

func TestIstiosDefaults(t *testing.T) {
	world := newWorld("a")
	world.Root = rootOf(w)
	world.edit("a", func(e *Evidence) { e.MultiRoot, e.Proxies.Live = false, 0 })
	world.play(t)
	world.expect(t, `
		ADDING_NEW_ROOT: a x1 xw beside w2 istiod workloads
		VERIFIED: a w2 xw beside x1 workloads
		VERIFIED: a w2 w beside x1 istiod
		FINISHED: a w2 w
		FINISHED`)

	world = newWorld("a", "b")
	world.Root, world.Rotation.Keys = rootOf(w), x.ids()
	world.edit("a", func(e *Evidence) { e.MultiRoot, e.Proxies.Live = false, 0 })
	world.play(t)
	world.expect(t, `
		ADDING_NEW_ROOT: a w2 xw beside x1 cross istiod workloads
		ADDING_NEW_ROOT: b x1 xw beside w2
		VERIFIED: a w2 xw beside x1 cross
		PROPAGATING_NEW_INTERMEDIATE: b w2 xw beside x1
		PROPAGATING_NEW_INTERMEDIATE: b w2 xw beside x1 nudge 1
		VERIFIED: a w2 w beside x1 istiod
		DELETING_OLD_ROOT: b w2 w beside x1 nudge 1 istiod
		FINISHED: a w2 w
		FINISHED: b w2 w nudge 1
		FINISHED`)
}

func TestStrategyNone(t *testing.T) {
	world := newWorld("a", "b")
	world.Root, world.Rotation.Strategy = rootOf(w), v1alpha1.RotationNone
	world.edit("b", func(e *Evidence) { e.Proxies.Live = 0 })
	if plan := world.next(); len(plan.Findings.With(ReasonDowntime)) != 1 {
		t.Errorf("no warning: %v", plan.Findings)
	}
	world.play(t)
	world.expect(t, `
		DELETING_OLD_ROOT: a w2 w beside x1 istiod
		DELETING_OLD_ROOT: b w2 w beside x1 istiod workloads
		FINISHED: a w2 w
		FINISHED: b w2 w
		FINISHED`)
}

func TestJoining(t *testing.T) {
	world := newWorld("a")
	for _, name := range []string{"b", "c"} {
		world.Members[id(name)] = world.Members[id("a")]
	}
	world.evidence[id("b")] = Evidence{Own: &Own{Signer: rootOf(own), Roots: own.ids()}, MultiRoot: true, Proxies: &Proxies{Total: 1, Live: 1}}
	world.play(t)
	world.expect(t, `
		ADDING_NEW_ROOT: b o0 xo beside x1 istiod
		ADDING_NEW_ROOT: c x1 x
		VERIFIED: b x1 xo beside o0
		PROPAGATING_NEW_INTERMEDIATE: b x1 xo beside o0 nudge 1
		VERIFIED: b x1 x beside o0 nudge 1 istiod
		FINISHED: b x1 x nudge 1
		NOT_ROTATING`)

	t.Run("between rotations", func(t *testing.T) {
		world := newWorld("a")
		world.Root = rootOf(w)
		world.Members[id("b")] = world.Members[id("a")]
		world.evidence[id("b")] = Evidence{Own: &Own{Signer: rootOf(own), Roots: own.ids()}}
		for world.next().Step != v1alpha1.StepFinished {
			plan := world.next()
			if _, ok := plan.Orders[id("b")]; ok || len(plan.Findings.With(ReasonJoining)) == 0 && plan.Step != v1alpha1.StepAddingNewRoot {
				t.Fatalf("%s: %+v, %v", plan.Step, plan.Orders[id("b")], plan.Findings)
			}
			world.carryOut(plan)
		}
	})
	t.Run("rolled back", func(t *testing.T) {
		world := newWorld()
		world.Members[id("b")] = Member{}
		world.evidence[id("b")] = Evidence{Own: &Own{Signer: rootOf(own), Roots: own.ids()}, MultiRoot: true, Proxies: &Proxies{Total: 1, Live: 1}}
		plan := world.until(t, v1alpha1.StepAddingNewRoot)
		world.carryOut(plan)
		world.say(plan, v1alpha1.VerificationRollback)
		plan = world.play(t)
		world.expect(t, `
			PREVIOUS_CA: b o0 o beside x1 istiod
			PREVIOUS_CA: b o0 o
			NOT_ROTATING`)
		if len(plan.Findings.With(ReasonRolledBack)) != 1 {
			t.Errorf("found %v", plan.Findings)
		}
		world.Rotation.ID = "again"
		if plan = world.next(); plan.Step != v1alpha1.StepAddingNewRoot {
			t.Errorf("tried again: %s", plan.Step)
		}
	})
	t.Run("the order was lost", func(t *testing.T) {
		world := newWorld("a")
		world.Members[id("b")] = world.Members[id("a")]
		world.evidence[id("b")] = Evidence{LastIssuance: 4, Own: &Own{Signer: rootOf(x), Roots: x.ids()}}
		if o := world.next().Orders[id("b")]; o.Signer != rootOf(x) || o.Issuance != 5 || o.Position != nil {
			t.Errorf("ordered %s", text(o))
		}
	})
}

// until carries out plans until one shows the step.
func (w *world) until(t *testing.T, step v1alpha1.RotationStep) Plan {
	t.Helper()
	for range 100 {
		plan := w.next()
		if plan.Step == step {
			return plan
		}
		if len(plan.Changed) == 0 {
			t.Fatalf("stands still at %s: %v", plan.Step, plan.Findings)
		}
		w.carryOut(plan)
	}
	t.Fatalf("%s does not come", step)
	return Plan{}
}

func (w *world) say(plan Plan, action v1alpha1.VerificationAction, waive ...MeshID) {
	w.Rotation.Words = append(w.Rotation.Words, Word{RotationID: plan.RotationID, Step: plan.Place, Action: action, Waive: waive})
}

func TestRollback(t *testing.T) {
	for step, want := range map[v1alpha1.RotationStep]string{
		v1alpha1.StepAddingNewRoot: `
			PREVIOUS_CA: a x1 x beside w2 istiod
			PREVIOUS_CA: b x1 x beside w2
			PREVIOUS_CA: a x1 x
			PREVIOUS_CA: b x1 x
			PREVIOUS_CA`,
		v1alpha1.StepPropagatingNewIntermediate: `
			ROLLING_BACK: a x1 xw beside w2
			ROLLING_BACK: b x1 xw beside w2
			ROLLING_BACK: a x1 xw beside w2 nudge 1
			VERIFYING`,
		v1alpha1.StepDeletingOldRoot: `
			ROLLING_BACK: a w2 xw beside x1 nudge 1
			ROLLING_BACK: b w2 xw beside x1 nudge 1
			VERIFYING`,
	} {
		t.Run(string(step), func(t *testing.T) {
			world := newWorld("a", "b")
			world.Root = rootOf(w)
			if step == v1alpha1.StepAddingNewRoot { // the plan that shows it first has ordered nothing yet
				world.carryOut(world.next())
			}
			world.say(world.until(t, step), v1alpha1.VerificationRollback)
			plan := world.play(t)
			world.expect(t, want)
			if plan.Step == v1alpha1.StepPreviousCA {
				if len(plan.Findings.With(ReasonRolledBack)) == 0 {
					t.Error("it is not said that it was rolled back")
				}
				return
			}
			if len(plan.Findings.With(ReasonAwaitsWord)) != 1 || plan.RotationID != "r.1" {
				t.Fatalf("%s: %v", plan.RotationID, plan.Findings)
			}
			world.say(plan, v1alpha1.VerificationContinue)
			if plan := world.play(t); plan.Step != v1alpha1.StepFinished {
				t.Errorf("forth again ends in %s:\n%s", plan.Step, strings.Join(world.lines, "\n"))
			}
		})
	}
}

func TestThirdRoot(t *testing.T) {
	for step, meets := range map[v1alpha1.RotationStep]string{
		v1alpha1.StepAddingNewRoot:              "PREVIOUS_CA",
		v1alpha1.StepPropagatingNewIntermediate: "DELETING_OLD_ROOT",
		v1alpha1.StepDeletingOldRoot:            "DELETING_OLD_ROOT",
	} {
		world := newWorld("a", "b")
		world.Root = rootOf(w)
		world.carryOut(world.next())
		world.until(t, step)
		world.Root, world.Rotation.ID = rootOf(v), "s"
		plan := world.play(t)
		if plan.Step != v1alpha1.StepFinished || plan.Orders[id("a")].Signer != rootOf(v) || !strings.Contains(strings.Join(world.lines, "\n"), meets) {
			t.Errorf("from %s:\n%s", step, strings.Join(world.lines, "\n"))
		}
	}
}

func TestVerification(t *testing.T) {
	t.Run("manual", func(t *testing.T) {
		world := newWorld("a")
		world.Root, world.Rotation.Verification = rootOf(w), Verification{Method: Manual}
		for _, place := range []v1alpha1.RotationStep{v1alpha1.StepAddingNewRoot, v1alpha1.StepPropagatingNewIntermediate, v1alpha1.StepDeletingOldRoot} {
			plan := world.until(t, v1alpha1.StepVerifying)
			if plan.Place != place || len(plan.Findings.With(ReasonAwaitsWord)) != 1 {
				t.Fatalf("asks for a word on %s: %v", plan.Place, plan.Findings)
			}
			world.say(plan, v1alpha1.VerificationContinue)
			world.Rotation.Words = append(world.Rotation.Words, Word{RotationID: "other", Step: place, Action: v1alpha1.VerificationContinue})
			if plan = world.next(); !slices.Equal(plan.Words[len(plan.Words)-2:], []v1alpha1.VerificationState{v1alpha1.VerificationVerified, v1alpha1.VerificationInvalid}) {
				t.Errorf("%s: words are %v", place, plan.Words)
			}
			world.carryOut(plan)
		}
		if plan := world.next(); plan.Step != v1alpha1.StepFinished {
			t.Errorf("ends in %s", plan.Step)
		}
	})
	t.Run("soak", func(t *testing.T) {
		world := newWorld("a")
		world.Root, world.Rotation.Verification = rootOf(w), Verification{Soak: time.Hour}
		plan := world.until(t, v1alpha1.StepVerifying)
		if !plan.Next.Equal(start.Add(time.Hour)) || len(plan.Changed) != 0 {
			t.Errorf("looks again at %v", plan.Next)
		}
		world.now = plan.Next
		if plan = world.next(); plan.Step != v1alpha1.StepVerified {
			t.Errorf("after that: %s", plan.Step)
		}
	})
	for name, tc := range map[string]struct {
		spoil  func(*Evidence)
		reason string
		step   v1alpha1.RotationStep
	}{
		"away":           {func(e *Evidence) { e.Away = true }, v1alpha1.ReasonNotConnected, v1alpha1.StepAddingNewRoot},
		"failed":         {func(e *Evidence) { e.Failed = "no" }, v1alpha1.ReasonInvalid, v1alpha1.StepFailed},
		"stale":          {func(e *Evidence) { e.Carried = nil }, ReasonNotCarriedOut, v1alpha1.StepAddingNewRoot},
		"a replica":      {func(e *Evidence) { e.Replicas = append(e.Replicas, Replica{}) }, ReasonControlPlane, v1alpha1.StepAddingNewRoot},
		"roots":          {func(e *Evidence) { e.Published = false }, ReasonRoots, v1alpha1.StepAddingNewRoot},
		"proxies unseen": {func(e *Evidence) { e.Proxies = nil }, ReasonProxies, v1alpha1.StepAddingNewRoot},
		"a proxy":        {func(e *Evidence) { e.Proxies.Trust-- }, ReasonProxies, v1alpha1.StepAddingNewRoot},
	} {
		t.Run("held by "+name, func(t *testing.T) {
			world := newWorld("a", "b")
			world.Root = rootOf(w)
			world.carryOut(world.next())
			world.carryOut(world.next())
			world.edit("b", tc.spoil)
			plan := world.next()
			held := plan.Findings.About(id("b").String())
			if len(plan.Changed) != 0 || plan.Step != tc.step || len(held.With(tc.reason)) != 1 || !slices.Equal(plan.Waiting, []MeshID{id("b")}) {
				t.Errorf("%s, %v, waits for %v, orders %v", plan.Step, plan.Findings, plan.Waiting, plan.Changed)
			}
		})
	}
}

func TestWaiver(t *testing.T) {
	world := newWorld("a", "b")
	world.Root = rootOf(w)
	world.edit("b", func(e *Evidence) { e.Away = true })
	for plan := world.play(t); plan.Step != v1alpha1.StepFinished; plan = world.play(t) {
		world.say(plan, v1alpha1.VerificationContinue, id("b"))
		if len(world.Rotation.Words) > 4 {
			t.Fatalf("stands still at %s: %v", plan.Step, plan.Findings)
		}
	}
	if a, b := world.evidence[id("a")].Order, world.evidence[id("b")].Order; a.Signer != rootOf(w) || b.Signer != rootOf(x) {
		t.Errorf("a: %s, b: %s", text(*a), text(*b))
	}
	world.edit("b", func(e *Evidence) { e.Away = false })
	world.play(t)
	if o := world.evidence[id("b")].Order; o.Signer != rootOf(w) || len(o.Roots) != 1 {
		t.Errorf("back, it does not come after: %s\n%s", text(*o), strings.Join(world.lines, "\n"))
	}
}

func TestLaggards(t *testing.T) {
	world := newWorld("a")
	world.Root = rootOf(w)
	world.until(t, v1alpha1.StepPropagatingNewIntermediate)
	var orders []string
	for range 8 {
		plan := world.next()
		if len(plan.Changed) == 0 && !plan.Next.IsZero() {
			world.now = plan.Next
			plan = world.next()
		}
		for range plan.Changed {
			orders = append(orders, text(plan.Orders[id("a")]))
		}
		world.carryOut(plan)
		world.edit("a", func(e *Evidence) { e.Proxies.Leaf, e.Proxies.Laggards = 2, 1 })
	}
	want := []string{
		"w2 xw beside x1 nudge 1", "w2 xw beside x1 nudge 2", "w2 xw beside x1 nudge 3", "w2 xw beside x1 nudge 4",
		"w2 xw beside x1 nudge 4 workloads",
	}
	if !slices.Equal(orders, want) {
		t.Errorf("ordered:\n%s", strings.Join(orders, "\n"))
	}
	if d := world.now.Sub(start); d < 4*NudgeInterval {
		t.Errorf("all within %v", d)
	}
}

func TestPreparedKeyLost(t *testing.T) {
	world := newWorld("a")
	world.Root = rootOf(w)
	world.carryOut(world.next())
	world.edit("a", func(e *Evidence) {
		e.KeyLost, e.PreparedSigned, e.Proxies.Trust = 2, &Period{SignedAt: start, NotAfter: start.Add(time.Hour)}, 0
	})
	if plan := world.next(); len(plan.Changed) != 0 || !plan.Next.Equal(start.Add(ReportInterval)) {
		t.Errorf("orders %v, looks again at %v", plan.Changed, plan.Next)
	}
	world.now = start.Add(ReportInterval)
	if plan := world.next(); plan.Orders[id("a")].Prepared.Issuance != 3 || plan.Issued[id("a")] != NextSigner {
		t.Errorf("ordered %s for %q", text(plan.Orders[id("a")]), plan.Issued[id("a")])
	}
}

func TestContradiction(t *testing.T) {
	world := newWorld("a", "b")
	world.Root = rootOf(w)
	world.carryOut(world.next())
	world.edit("b", func(e *Evidence) {
		e.Order.Position = &Position{ID: "q", Old: rootOf(v), New: rootOf(own), Stage: OldSigns}
		e.Order.Signer, e.Order.Roots, e.Order.Prepared = rootOf(v), (v | own).ids(), &Intermediate{Issuance: 2, Signer: rootOf(own)}
		*e = answered(*e, start)
	})
	if plan := world.next(); plan.Step != v1alpha1.StepFailed || len(plan.Findings.With(ReasonContradiction)) != 1 || len(plan.Changed) != 0 {
		t.Errorf("%s: %v, orders %v", plan.Step, plan.Findings, plan.Changed)
	}
}

// ahead makes the orders of a world as old as they were at its beginning.
func (w *world) ahead(names ...string) {
	was := newWorld(names...)
	for _, name := range names {
		w.edit(name, func(e *Evidence) { e.Order = was.evidence[id(name)].Order })
	}
}

func TestOlderHub(t *testing.T) {
	for step := range map[v1alpha1.RotationStep]bool{
		v1alpha1.StepAddingNewRoot: true, v1alpha1.StepPropagatingNewIntermediate: true, v1alpha1.StepDeletingOldRoot: true, v1alpha1.StepFinished: true,
	} {
		world := newWorld("a", "b")
		world.Root = rootOf(w)
		world.carryOut(world.next())
		world.until(t, step)
		world.ahead("a", "b")
		plan := world.play(t)
		if a, b := plan.Orders[id("a")], plan.Orders[id("b")]; plan.Step != v1alpha1.StepFinished || a.Signer != rootOf(w) || b.Signer != rootOf(w) {
			t.Errorf("from %s, it ends in %s:\n%s", step, plan.Step, strings.Join(world.lines, "\n"))
		}
	}
	t.Run("that has not heard of the root", func(t *testing.T) {
		world := newWorld("a", "b")
		world.Root = rootOf(w)
		world.until(t, v1alpha1.StepFinished)
		world.carryOut(world.next())
		world.ahead("a", "b")
		world.Root = rootOf(x)
		if plan := world.next(); plan.Step != v1alpha1.StepAddingNewRoot || !slices.Equal(plan.Orders[id("a")].Roots, []pki.RootID{rootOf(w), rootOf(x)}) {
			t.Errorf("%s, %s, %v", plan.Step, text(plan.Orders[id("a")]), plan.Findings)
		}
		world.edit("b", func(e *Evidence) { // it is of the old times, too
			e.LastIssuance = 1
			*e = answered(*e, start)
		})
		if plan := world.next(); plan.Step != v1alpha1.StepFailed || len(plan.Changed) != 1 {
			t.Errorf("%s, orders %v, %v", plan.Step, plan.Changed, plan.Findings)
		}
	})
	t.Run("one agent alone moves nobody", func(t *testing.T) {
		world := newWorld("a", "b")
		world.edit("a", func(e *Evidence) {
			o := Order{Serial: 9, Issuance: 1, Signer: rootOf(w), Roots: w.ids(), Position: &Position{ID: "r", Turn: 7, Old: rootOf(x), New: rootOf(w), Stage: NewOnly, Closed: true}}
			e.Carried = &o
		})
		for _, root := range []set{x, w} {
			world.Root = rootOf(root)
			if plan := world.next(); plan.Orders[id("b")].Signer != rootOf(x) || !slices.Contains(plan.Orders[id("b")].Roots, rootOf(x)) {
				t.Errorf("%s is wanted: b gets %s", root, text(plan.Orders[id("b")]))
			}
		}
	})
}

func TestRetained(t *testing.T) {
	world := newWorld("a", "b")
	world.Root, world.RootPeriod = rootOf(w), Period{start, start.Add(1000 * time.Hour)}
	world.Rotation.Periods = map[pki.RootID]Period{rootOf(x): {start.Add(-time.Hour), start.Add(500 * time.Hour)}}
	b := world.Members[id("b")]
	b.Retained = true
	world.Members[id("b")] = b
	if plan := world.play(t); plan.Step != v1alpha1.StepFinished {
		t.Errorf("ends in %s", plan.Step)
	}
	world.edit("b", func(e *Evidence) {
		e.Away = true
		e.Signed = &Period{start.Add(-200 * time.Hour), start}
	})
	if plan := world.next(); plan.Issued[id("b")] != Renewal || plan.Orders[id("b")].Signer != rootOf(x) {
		t.Errorf("%q, %s", plan.Issued[id("b")], text(plan.Orders[id("b")]))
	}
	delete(world.Rotation.Periods, rootOf(x))
	if plan := world.next(); len(plan.Issued) != 0 {
		t.Errorf("without the root's key: %v", plan.Issued)
	}
}

func TestSafe(t *testing.T) {
	view := func(mesh string, anchors, trusts set) ProxyView {
		return ProxyView{Mesh: id(mesh), Name: "p", Anchors: anchors.ids(), Trusts: trusts.ids()}
	}
	all := func(MeshID, MeshID) bool { return true }
	none := func(MeshID, MeshID) bool { return false }
	for name, tc := range map[string]struct {
		views []ProxyView
		peers func(a, b MeshID) bool
		safe  bool
	}{
		"one root":             {[]ProxyView{view("a", x, x), view("b", x, x)}, all, true},
		"one trusts too few":   {[]ProxyView{view("a", w, x|w), view("b", x, x)}, all, false},
		"no peers":             {[]ProxyView{view("a", w, w), view("b", x, x)}, none, true},
		"within a mesh":        {[]ProxyView{view("a", w, w), view("a", x, x|w)}, none, false},
		"by a cross-signature": {[]ProxyView{view("a", w|x, x|w), view("b", x, x)}, all, true},
		"without a leaf":       {[]ProxyView{view("a", 0, x), view("b", x, x)}, all, true},
	} {
		if err := Safe(tc.views, tc.peers); (err == nil) != tc.safe {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPlans plays worlds at random in which agents answer late or not at all: whatever happens, a mesh moves by one stage,
// no order changes signer and nudge at once, serials and issuances only rise, what an agent has said of an earlier order
// changes nothing, and a plan that is carried out in part is followed by its rest.
func TestPlans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		world := newWorld("a", "b", "c")
		if rapid.Bool().Draw(t, "joins") {
			world.evidence[id("c")] = Evidence{Own: &Own{Signer: rootOf(own), Roots: own.ids()}, MultiRoot: true, Proxies: &Proxies{Total: 1, Live: 1}}
		}
		if rapid.Bool().Draw(t, "keys") {
			world.Rotation.Keys = x.ids()
		}
		world.Rotation.Verification.Method = rapid.SampledFrom([]Method{Automatic, Manual, None}).Draw(t, "method")
		mesh := rapid.SampledFrom([]string{"a", "b", "c"})
		t.Repeat(map[string]func(*rapid.T){
			"answer": func(t *rapid.T) {
				world.edit(mesh.Draw(t, "mesh"), func(e *Evidence) {
					if e.Order != nil {
						*e = answered(*e, world.now)
					}
				})
			},
			"live": func(t *rapid.T) {
				world.edit(mesh.Draw(t, "mesh"), func(e *Evidence) { e.MultiRoot = !e.MultiRoot })
			},
			"wish": func(t *rapid.T) {
				world.Root = rootOf(rapid.SampledFrom([]set{x, w, v}).Draw(t, "root"))
				world.Rotation.ID = "to-" + setOf(world.Root).String()
			},
			"word": func(t *rapid.T) {
				world.say(world.next(), rapid.SampledFrom([]v1alpha1.VerificationAction{v1alpha1.VerificationContinue, v1alpha1.VerificationRollback}).Draw(t, "action"))
			},
			"hub": func(t *rapid.T) {
				plan := world.next()
				if stale := spoiled(world.evidence); !same(plan, Next(world.Intent, stale, world.now)) {
					t.Fatalf("what was said of earlier orders changes the plan")
				}
				for _, mesh := range plan.Changed[:min(len(plan.Changed), rapid.IntRange(0, 3).Draw(t, "written"))] {
					o, e := plan.Orders[mesh], world.evidence[mesh]
					step(t, e, o)
					e.Order = &o
					e.LastIssuance = max(e.LastIssuance, o.latest())
					world.evidence[mesh] = e
				}
			},
		})
	})
}

// step checks an order against the one that it replaces.
func step(t *rapid.T, e Evidence, o Order) {
	if !slices.Contains(o.Roots, o.Signer) {
		t.Fatalf("%s: the signer is none of the roots", text(o))
	}
	if e.Order == nil {
		return
	}
	was := *e.Order
	switch {
	case o.Serial != was.Serial+1:
		t.Fatalf("serial %d after %d", o.Serial, was.Serial)
	case o.latest() < was.latest() && isOpen(o.Position):
		t.Fatalf("%s after %s: issuances fall", text(o), text(was))
	case o.Signer != was.Signer && o.Nudge != was.Nudge:
		t.Fatalf("%s after %s: signer and nudge at once", text(o), text(was))
	case o.Signer != was.Signer && !sameSet(o.Roots, was.Roots) && !o.Cross && !was.Cross:
		t.Fatalf("%s after %s: signer and roots at once", text(o), text(was))
	case o.Position.samePair(was.Position) && (o.Position.Stage-was.Position.Stage)*(o.Position.Stage-was.Position.Stage) > 1:
		t.Fatalf("from stage %d to %d", was.Position.Stage, o.Position.Stage)
	}
}

// spoiled is the evidence, of which all that is about earlier orders looks as good as can be.
func spoiled(evidence map[MeshID]Evidence) map[MeshID]Evidence {
	out := maps.Clone(evidence)
	for mesh, e := range out {
		if e.Order == nil || e.Carried == nil || e.Carried.Serial >= e.Order.Serial {
			continue
		}
		carried := e.Carried
		e = answered(e, e.Since)
		e.Carried = carried
		out[mesh] = e
	}
	return out
}

func same(a, b Plan) bool {
	return a.Step == b.Step && a.RotationID == b.RotationID && slices.Equal(a.Waiting, b.Waiting) && slices.Equal(a.Changed, b.Changed) &&
		maps.EqualFunc(a.Orders, b.Orders, Order.Equal)
}
