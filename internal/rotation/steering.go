package rotation

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// Reasons of findings.
const (
	ReasonNotCarriedOut = "NotCarriedOut" // the agent has not carried out its latest order yet
	ReasonControlPlane  = "ControlPlane"  // an istiod is not as ordered
	ReasonRoots         = "Roots"         // ConfigMaps of roots have not followed
	ReasonProxies       = "Proxies"       // proxies are not as ordered, or cannot be seen
	ReasonAwaitsWord    = "AwaitsWord"    // a person has to speak
	ReasonSoaking       = "Soaking"       // the evidence has not held for long enough
	ReasonJoining       = "Joining"       // a mesh joins, and a rotation waits for it, or it for the rotation
	ReasonDowntime      = "Downtime"      // strategy NONE
	ReasonRolledBack    = "RolledBack"    // the rotation that leads to the wanted root was rolled back
	ReasonContradiction = "Contradiction" // orders that are not of one rotation
	ReasonWaived        = "Waived"        // a mesh is not waited for
)

// steering is one plan for the rotations of a virtual mesh.
type steering struct {
	Rotation
	root    pki.RootID // that is wanted
	members []*member
	now     time.Time
	plan    *Plan
	heard   map[int]bool   // words that the plan follows
	shown   map[place]bool // what can be spoken of
}

// place is what a person speaks of.
type place struct {
	rotationID string
	step       v1alpha1.RotationStep
}

// steer says what every member shall hold next.
func steer(in Intent, members []*member, now time.Time, plan *Plan) {
	s := &steering{Rotation: *in.Rotation, root: in.Root, members: members, now: now, plan: plan, heard: map[int]bool{}, shown: map[place]bool{}}
	s.guards |= takenOut
	for _, m := range members {
		if m.isAhead() && s.guards.hold(guardCarried) {
			m.order = m.Carried
		}
		m.want = m.order
	}
	s.members = slices.DeleteFunc(slices.Clone(members), func(m *member) bool { return m.Retained })
	if p, ok := s.underWay(); !ok {
		s.rest()
	} else if group, ok := s.group(p); ok {
		s.rotate(p, group)
		if !s.guards.hold(guardBetween) {
			s.joinNow(p.Old)
		}
	}
	for _, m := range s.members {
		switch {
		case m.want == nil:
			s.find(m, ReasonJoining, "it joins when the rotation that is under way has ended")
			fallthrough
		case m.order == nil || s.lacks(m) != nil:
			plan.Waiting = append(plan.Waiting, m.id)
		}
	}
	for i, w := range s.Words {
		state := v1alpha1.VerificationInvalid
		switch {
		case s.heard[i]:
			state = v1alpha1.VerificationVerified
		case s.shown[place{w.RotationID, w.Step}]:
			state = v1alpha1.VerificationPending
		}
		plan.Words = append(plan.Words, state)
	}
}

// underWay is where the rotation of the virtual mesh has come to, as the hub has ordered it. What agents say does not move
// it: one of them could move all the others.
func (s *steering) underWay() (Position, bool) {
	var furthest *Position
	for _, m := range s.members {
		if m.Order == nil || !isOpen(m.Order.Position) || m.Order.Position.Alone {
			continue
		}
		switch p := m.Order.Position; {
		case furthest == nil || p.Turn > furthest.Turn:
			furthest = p
		case p.Turn == furthest.Turn && p.Stage != furthest.Stage && !p.reached(furthest.Stage):
			furthest = p
		}
	}
	if furthest == nil {
		return Position{}, false
	}
	return *furthest, true
}

func isOpen(p *Position) bool { return p != nil && !p.Closed }

// joins tells whether the mesh is in a rotation of its own.
func (m *member) joins() bool {
	return m.order != nil && isOpen(m.order.Position) && m.order.Position.Alone
}

// staysOut tells whether the mesh was to join and was rolled back.
func (m *member) staysOut() bool {
	return m.order != nil && m.order.Position != nil && m.order.Position.Alone && m.order.Position.Back && m.order.Position.Closed
}

// isAhead tells whether the agent has carried out a later order than the one that stands, or another one of the same serial:
// the hub has come out of a backup.
func (m *member) isAhead() bool {
	return m.Carried != nil && m.Order != nil && !m.Order.answeredBy(m.Carried) &&
		m.Carried.Serial >= m.Order.Serial && m.Carried.Serial < m.Order.Serial+maxAhead
}

// maxAhead bounds how far an agent's word alone can move the serial.
const maxAhead = 1 << 20

// group is who takes part in the rotation of p; false if somebody's order is of another rotation, which nobody can account
// for.
func (s *steering) group(p Position) (out []*member, ok bool) {
	ok = true
	for _, m := range s.members {
		switch _, placed := p.stage(m.order); {
		case m.order == nil || m.joins():
		case placed:
			out = append(out, m)
		case (isOpen(m.order.Position) || m.isAhead()) && !s.waived(m, p):
			s.contradicts(m)
			ok = false
		}
	}
	return out, ok
}

func (s *steering) contradicts(m *member) {
	s.plan.Step = v1alpha1.StepFailed
	s.find(m, ReasonContradiction, "it holds what belongs to no rotation that the hub knows of, signer %s: nothing is moved until that is cleared up; waive or evict it if it cannot be", m.order.Signer.Short())
}

// rest is what happens between rotations of the virtual mesh: another one begins, or meshes join.
func (s *steering) rest() {
	current := s.current()
	var resting, joining, strange []*member
	p := Position{ID: s.ID, Old: current, New: s.root}
	p.Stage = s.after(p, OldOnly)
	due := s.root != current
	for _, m := range s.members {
		switch _, placed := p.stage(m.order); {
		case m.order == nil:
		case m.joins():
			joining = append(joining, m)
		case m.order.Signer == current, due && placed && m.isAhead():
			resting = append(resting, m)
		case m.isAhead():
			strange = append(strange, m)
		}
	}
	s.reportRest(resting)
	for _, m := range strange {
		s.contradicts(m)
	}
	if len(strange) > 0 {
		return
	}
	if due = due && len(resting) > 0; due && s.rolledBack(resting) {
		s.findAll(ReasonRolledBack, "the rotation to root %s was rolled back; another one begins when the root or rotationTrigger changes", s.root.Short())
		due = false
	}
	joined := true
	for _, m := range joining {
		if due && !s.waived(m, *m.order.Position) {
			s.find(m, ReasonJoining, "the rotation to root %s begins when this mesh has joined", s.root.Short())
			joined = false
		}
		s.rotate(*m.order.Position, []*member{m})
	}
	switch {
	case !due:
		s.join(current)
	case joined:
		s.rotate(p, resting)
	}
}

// joinNow is what is wrong while the virtual mesh rotates.
func (s *steering) joinNow(current pki.RootID) {
	for _, m := range s.members {
		if m.joins() {
			s.rotate(*m.order.Position, []*member{m})
		} else if m.order == nil && m.Own != nil {
			s.joinOne(m, current)
		}
	}
}

// current is the root under which the virtual mesh rests. That is what all say; else, by the hub's own orders, the wanted root
// if any mesh is under it, or that of most: one agent must not be able to tell the others where they are.
func (s *steering) current() pki.RootID {
	said, count := map[pki.RootID]bool{}, map[pki.RootID]int{}
	for _, m := range s.members {
		if m.order != nil && !m.joins() && !m.staysOut() {
			said[m.order.Signer] = true
			count[m.Order.Signer]++
		}
	}
	if len(count) == 0 { // all are on their way to it
		for _, m := range s.members {
			if m.joins() {
				return m.order.Position.New
			}
		}
	}
	if len(said) == 1 {
		for root := range said {
			return root
		}
	}
	best := s.root
	for _, m := range s.members { // in their order, so that a draw is always decided alike
		if m.order != nil && !m.joins() && !m.staysOut() && count[s.root] == 0 && count[m.Order.Signer] > count[best] {
			best = m.Order.Signer
		}
	}
	return best
}

// rolledBack tells whether the rotation to the wanted root was taken back by a person's word.
func (s *steering) rolledBack(resting []*member) bool {
	return slices.ContainsFunc(resting, func(m *member) bool {
		p := m.order.Position
		return p != nil && p.Closed && p.Back && p.ID == s.ID && p.New == s.root
	})
}

// join lets those in that are under another root than the current one, and those that have none.
func (s *steering) join(current pki.RootID) {
	for _, m := range s.members {
		if !m.joins() {
			s.joinOne(m, current)
		}
	}
}

func (s *steering) joinOne(m *member, current pki.RootID) {
	from := m.order
	if from == nil && m.Own != nil {
		from = &Order{Signer: m.Own.Signer, Roots: m.Own.Roots}
	}
	switch {
	case from == nil: // it has no CA, and no workloads that trust one
		m.want = &Order{Signer: current, Roots: []pki.RootID{current}}
	case from.Signer == current:
		m.want = from // if it has no order, that was lost
	case !m.Away:
		p := Position{ID: s.joinID(m), Old: from.Signer, New: current, Alone: true}
		if m.staysOut() && from.Position.ID == p.ID {
			s.find(m, ReasonRolledBack, "it was to join and was rolled back; it is tried again when the root or rotationTrigger changes")
			return
		}
		if m.order != nil && s.lacks(m) != nil {
			return
		}
		p.Stage = s.after(p, OldOnly)
		m.want = s.order(m, from, p, p.Stage)
		s.report(p, p.Step())
	}
}

// joinID identifies the rotation by which a mesh joins.
func (s *steering) joinID(m *member) string {
	sum := sha256.Sum256([]byte(s.ID + "/" + m.id.String()))
	return "join-" + hex.EncodeToString(sum[:6])
}

// heading is where a rotation goes from where it is.
type heading int

const (
	onward heading = iota
	round
	hold
)

func (s *steering) heading(p Position) heading {
	root, id := s.root, s.ID
	if p.Alone { // what is wanted of the virtual mesh is another matter
		root, id = p.New, p.ID
	}
	var back bool
	switch {
	case root == p.New && id == p.ID && p.Back: // by a person's word, and so it goes on
		switch {
		case p.Stage == OldOnly || s.said(p, v1alpha1.VerificationRollback):
			return onward
		case s.said(p, v1alpha1.VerificationContinue):
			return round
		}
		return hold
	case root == p.New && id == p.ID:
		back = s.said(p, v1alpha1.VerificationRollback)
	case root == p.New:
	case root == p.Old:
		back = true
	default: // a third root: first to the nearer end
		back = p.Stage <= OldSigns
	}
	if back == p.Back {
		return onward
	}
	return round
}

// rotate takes the next step of the rotation that has come to p.
func (s *steering) rotate(p Position, group []*member) {
	heading := s.heading(p)
	if !p.Alone && s.root != p.Old && s.root != p.New && !s.guards.hold(guardOnePair) {
		p, heading = Position{ID: s.ID, Turn: p.Turn + 1, Old: p.Old, New: s.root, Stage: OldSigns}, onward
	}
	if heading == round {
		p = s.turn(p)
	}
	var there, behind []*member
	for _, m := range group {
		stage, _ := p.stage(m.order)
		switch {
		case s.waived(m, p):
			s.find(m, ReasonWaived, "it is not waited for, and stays where it is")
		case !p.reached(stage), p.Back && m.order.Position != nil && (m.order.Position.Half || m.order.Cross && p.signer() == p.Old):
			behind = append(behind, m)
		default:
			there = append(there, m)
		}
	}
	s.report(p, p.Step())
	if s.comeRound(p, there, behind) {
		return
	}
	if len(behind) > 0 {
		if s.complete(there) || !s.guards.hold(guardBarrier) {
			s.moveOne(p, behind)
		}
		s.nudge(there)
		return
	}
	s.nudge(there)
	complete := s.complete(there)
	if !complete && s.guards.hold(guardBarrier) {
		return
	}
	if heading == hold {
		s.report(p, v1alpha1.StepVerifying)
		s.findAll(ReasonAwaitsWord, "it was rolled back to here: a CertificateVerification of rotation %s and step %s says whether to CONTINUE or to ROLLBACK further", p.RotationID(), p.place())
		return
	}
	if !s.verified(p, there) {
		s.report(p, v1alpha1.StepVerifying)
		return
	}
	if p.Stage == p.end() {
		if complete {
			s.close(p, group)
		}
		return
	}
	s.report(p, v1alpha1.StepVerified)
	p.Stage = s.after(p, p.Stage)
	behind = slices.DeleteFunc(there, func(m *member) bool {
		stage, _ := p.stage(m.order)
		return p.reached(stage)
	})
	if len(behind) == 0 { // the hub came out of a backup: all are there already
		s.rotate(p, group)
		return
	}
	s.moveOne(p, behind)
}

// after is the stage that follows.
func (s *steering) after(p Position, stage Stage) Stage {
	if s.Strategy == v1alpha1.RotationNone {
		return p.end()
	}
	return p.toward(stage)
}

// turn takes the rotation of p round, to the stage that it came from.
func (s *steering) turn(p Position) Position {
	p = p.turned()
	if s.Strategy == v1alpha1.RotationNone || !s.guards.hold(guardReturn) {
		p.Stage = p.end()
	}
	if !p.Alone && s.root == p.New {
		p.ID = s.ID
	}
	return p
}

// comeRound lets those return, all at once, that came from the stage of p: all that holds there still holds. The others are
// told of the turn as well, so that what a hub that is thought dead has planned before it comes too late for them. With
// strategy NONE nobody waits for anybody anyway.
func (s *steering) comeRound(p Position, there, behind []*member) (moved bool) {
	for _, m := range behind {
		q := m.order.Position
		returns := p.samePair(q) && !q.Closed && q.Back != p.Back && (p.toward(q.Stage) == p.Stage || q.Stage == p.Stage)
		if !m.Away && (returns || s.Strategy == v1alpha1.RotationNone || !s.guards.hold(guardReturn)) {
			m.want, moved = s.order(m, m.order, p, p.Stage), true
		}
	}
	for _, m := range there {
		q := m.order.Position
		if p.Turn == 0 || p.samePair(q) && q.Turn == p.Turn || !s.guards.hold(guardTold) {
			continue
		}
		o, told := *m.order, p
		told.Stage, _ = p.stage(m.order)
		told.Nudges = 1 // nothing has changed that a nudge would be for
		o.Position = &told
		m.want, moved = &o, true
	}
	return moved
}

// moveOne moves the first mesh that can be moved by one stage towards that of p: a change of the bundle makes every proxy
// of a mesh ask for a leaf at once. Where something is amiss is seen in one mesh, not in all.
func (s *steering) moveOne(p Position, behind []*member) {
	for _, m := range behind {
		stage, _ := p.stage(m.order)
		if m.Away || s.lacks(m) != nil {
			continue
		}
		m.want = s.order(m, m.order, p, s.after(p, stage))
		return
	}
	s.complete(behind) // to say what they lack
}

// order is that which takes the mesh from an order to a stage of the rotation of p.
func (s *steering) order(m *member, from *Order, p Position, to Stage) *Order {
	o := *from
	o.Cross = to == NewSigns && from.Cross && !p.Back
	if to == OldSigns && !p.Back && s.crosses(m, p) {
		o.Cross = true
	}
	p.Stage, p.Nudges, p.Closed = to, 0, false
	p.Half = p.Back && from.Cross && to == OldOnly
	o.Signer, o.Roots = p.signer(), p.roots(from.Roots)
	if o.Cross {
		o.Signer = p.New
		o.Cross = s.guards.hold(guardCross)
	}
	if p.movesLeaves() && !s.guards.hold(guardSignerFirst) {
		o.Nudge, p.Nudges = o.Nudge+1, 1
	}
	_, ends := p.dropped()
	o.Restart = Restart{
		Istiod:    ends || from.Issuance == 0 && !p.samePair(from.Position) || !m.MultiRoot && len(o.Roots) != len(from.Roots),
		Workloads: !m.live() && (!ends || s.Strategy == v1alpha1.RotationNone) && !(p.Stage == NewSigns && from.Cross),
	}
	o.Position = &p
	return &o
}

// crosses tells whether the mesh takes the short way of those that take no roots live: leaves under new at once, with a
// certificate of new under old, and one round of restarts for both.
func (s *steering) crosses(m *member, p Position) bool {
	return !m.live() && (slices.Contains(s.Keys, p.Old) || m.Own != nil && m.Own.Key && m.Own.Signer == p.Old)
}

// live tells whether nothing in the mesh has to be restarted for a root or a leaf.
func (m *member) live() bool {
	return m.MultiRoot && m.Proxies != nil && m.Proxies.Live == m.Proxies.Total
}

// close ends the rotation of p. Who was waived is left to come after, alone.
func (s *steering) close(p Position, group []*member) {
	step := v1alpha1.StepFinished
	if p.Back {
		step = v1alpha1.StepPreviousCA
	}
	s.report(p, step)
	for _, m := range group {
		q := p
		o := *m.order
		if s.waived(m, p) {
			if !isOpen(o.Position) {
				continue
			}
			q = *o.Position
			q.ID, q.Alone = s.joinID(m), true
		} else {
			q.Closed, q.Nudges, o.Restart, o.Cross = true, 0, Restart{}, false
		}
		o.Position = &q
		m.want = &o
	}
}

// said tells whether a person has said something of the step of p.
func (s *steering) said(p Position, action v1alpha1.VerificationAction) bool {
	for i, w := range s.Words {
		if w.Action == action && s.about(w, p) {
			s.heard[i] = true
			return true
		}
	}
	return false
}

// about tells whether a word is about the step of p. There is no other way to speak of it.
func (s *steering) about(w Word, p Position) bool {
	return w.RotationID == p.RotationID() && w.Step == p.place() || !s.guards.hold(guardWord)
}

// waived tells whether a mesh is not waited for in the step of p.
func (s *steering) waived(m *member, p Position) bool {
	return slices.ContainsFunc(s.Words, func(w Word) bool { return s.about(w, p) && slices.Contains(w.Waive, m.id) })
}

// verified tells whether the verification that was chosen has been passed.
func (s *steering) verified(p Position, there []*member) bool {
	if !s.guards.hold(guardVerified) {
		return true
	}
	switch s.Verification.Method {
	case Manual:
		if s.said(p, v1alpha1.VerificationContinue) || p.Back && s.said(p, v1alpha1.VerificationRollback) {
			return true
		}
		s.findAll(ReasonAwaitsWord, "a CertificateVerification of rotation %s and step %s says whether to CONTINUE or to ROLLBACK", p.RotationID(), p.place())
		return false
	case Automatic:
		var since time.Time
		for _, m := range there {
			if m.Since.After(since) {
				since = m.Since
			}
		}
		if until := since.Add(s.Verification.Soak); s.now.Before(until) {
			s.plan.lookAgain(until)
			s.findAll(ReasonSoaking, "all is as ordered, and has to be so until %s", until.UTC().Format(time.RFC3339))
			return false
		}
	case None:
	}
	return true
}

// report says which step is shown. A later report replaces an earlier one, but for a failure.
func (s *steering) report(p Position, step v1alpha1.RotationStep) {
	s.shown[place{p.RotationID(), p.place()}] = true
	if s.plan.Step != v1alpha1.StepFailed {
		s.plan.Step, s.plan.RotationID, s.plan.Place = step, p.RotationID(), p.place()
	}
	if s.Strategy == v1alpha1.RotationNone && len(s.plan.Findings.With(ReasonDowntime)) == 0 && step != v1alpha1.StepFinished {
		s.plan.Findings = append(s.plan.Findings, finding.Finding{Field: "spec.mtlsConfig.shared.rotationStrategy", Reason: ReasonDowntime,
			Message: "strategy NONE replaces the root in one step: requests fail until all of it is done"})
	}
}

// reportRest says how the last rotation ended.
func (s *steering) reportRest(resting []*member) {
	for _, m := range resting {
		if p := m.order.Position; p != nil && !p.Alone {
			step := v1alpha1.StepFinished
			if p.Back {
				step = v1alpha1.StepPreviousCA
			}
			s.report(*p, step)
		}
	}
}

func (s *steering) find(m *member, reason, format string, args ...any) {
	s.plan.Findings = append(s.plan.Findings, finding.Finding{Mesh: m.id.String(), Reason: reason, Message: fmt.Sprintf(format, args...)})
}

func (s *steering) findAll(reason, format string, args ...any) {
	s.plan.Findings = append(s.plan.Findings, finding.Finding{Reason: reason, Message: fmt.Sprintf(format, args...)})
}
