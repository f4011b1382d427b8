package rotation

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// The model: meshes as Istio 1.31 makes them behave, the agents, the hub as Next steers it, people, and accidents. A state is
// a comparable value; what can happen in it is in func moves.
//
// What is known of Istio, and modelled:
//   - a replica of istiod takes a changed Secret at a moment of its own, if the set of roots is equal to, a subset or a
//     superset of the one it has; any other change it drops whole until it is restarted. Without ISTIO_MULTIROOT_MESH it
//     takes a change that leaves the bytes of the bundle as they are, and drops any other. One that started self-signed
//     notices nothing;
//   - the roots by which it lets clients in are fixed at its start;
//   - a live proxy is pushed the bundle by the replica that it is connected to, whenever the bytes differ, and then asks for
//     a leaf, which any replica may answer. It trusts the roots of the last push and of the last answer. One that is not live
//     is pushed nothing. Any proxy may renew its leaf or reconnect at any moment;
//   - any replica may publish its roots in the ConfigMaps, by which pods that start find out whether istiod is to be trusted.

// set is a set of roots.
type set uint8

const (
	x   set = 1 << iota // the root at the beginning
	w                   // the one that is wanted
	v                   // the one that is wanted in its place
	own                 // that of a mesh which joins
)

func rootOf(one set) pki.RootID {
	if one == 0 {
		return pki.RootID{}
	}
	return pki.RootID{byte(bits.TrailingZeros8(uint8(one)) + 1)}
}

func setOf(ids ...pki.RootID) (s set) {
	for _, id := range ids {
		if !id.IsZero() {
			s |= 1 << (id[0] - 1)
		}
	}
	return s
}

func (s set) ids() (out []pki.RootID) {
	for i := range 4 {
		if one := set(1) << i; s&one != 0 {
			out = append(out, rootOf(one))
		}
	}
	return out
}

func (s set) String() string {
	var out strings.Builder
	for i, name := range []string{"x", "w", "v", "o"} {
		if s&(1<<i) != 0 {
			out.WriteString(name)
		}
	}
	return out.String()
}

// form is an order without its serial and its nudge, as a number; 0 is none.
type form uint8

// placed is an order.
type placed struct {
	form          form
	serial, nudge uint8
}

type replica struct {
	signer, cross, roots set
	nudge                uint8
	clients              set
	self                 bool // started self-signed
}

type proxy struct {
	leaf, cross set
	push, reply set   // roots of the last push, and of the last answer
	nudge       uint8 // of the last push
	asks        bool  // was pushed and has not been answered
	cut         bool  // is out of istiod's reach, and the agent's
}

func (p proxy) trusts() set  { return p.push | p.reply }
func (p proxy) anchors() set { return p.leaf | p.cross }

// seenReplica is what an agent has seen of a replica; clients are those of the root that was dropped.
type seenReplica struct{ signer, roots, clients set }

// seen is what an agent has reported last.
type seen struct {
	carried                      placed
	replicas                     [2]seenReplica
	published                    bool
	leaf, trust, refuse, laggard uint8
}

type meshState struct {
	order, carried placed
	replicas       [2]replica
	proxies        [2]proxy
	configMaps     set
	seen           seen
	away           bool
}

type state struct {
	meshes [3]meshState
	extra
	common
}

type common struct {
	words  uint32
	intent uint8
	// What is left of accidents.
	cuts, absences, rollbacks, restores, leaders uint8
}

// extra are the orders of a hub that was thought dead and writes yet, and those in a backup of the hub.
type extra struct {
	late, backup [3]placed
	lateBase     [3]uint8
	lateSeen     [3]seen
}

// meshSetup is what does not change of a mesh.
type meshSetup struct {
	replicas, proxies int
	multiRoot         bool
	live, deaf        uint8 // bits of proxies; the deaf are live and do not follow
	joins, key        bool
}

// wanted is what the user wants.
type wanted struct {
	root set
	id   string
}

// scenario is what the model explores.
type scenario struct {
	name         string
	meshes       []meshSetup
	intents      []wanted
	verification Method
	keys         set
	// prompt: proxies follow a push at once. Where nobody looks at proxies, that is what it rests on.
	prompt bool
	// Accidents.
	cuts, absences, rollbacks, restores, leaders uint8
	// calm: pods are restarted and leaves renewed only when that is called for.
	calm bool
	// What is asked of hub and agents, and taken out in a test. unordered: agents carry out any order that they come across,
	// also an older one. anyhow: the hub writes orders in any order, and over whatever stands.
	unordered, anyhow bool
	// stale: also what an agent has said of an earlier order is kept.
	stale bool

	guards guards
	limit  int
}

// model explores a scenario. What states have in common is kept once, as numbers.
type model struct {
	scenario
	forms    []Order
	formOf   map[string]form
	words    []Word
	wordOf   map[string]int
	meshOf   table[meshState]
	viewOf   table[view]
	views    []uint32 // by number of mesh
	extraOf  table[extra]
	decision map[visible]decision
}

// table numbers values.
type table[T comparable] struct {
	number map[T]uint32
	values []T
}

func (t *table[T]) of(value T) uint32 {
	n, ok := t.number[value]
	if !ok {
		n = uint32(len(t.values))
		t.number[value], t.values = n, append(t.values, value)
	}
	return n
}

// view is what the hub sees of a mesh.
type view struct {
	order placed
	seen  seen
	away  bool
}

// visible is what the hub sees.
type visible struct {
	meshes [3]uint32
	words  uint32
	intent uint8
}

// packed is a state in numbers.
type packed struct {
	meshes [3]uint32
	extra  uint32
	common
}

func (m *model) pack(s *state) (p packed) {
	for i := range m.meshes {
		p.meshes[i] = m.mesh(s.meshes[i])
	}
	p.extra, p.common = m.extraOf.of(s.extra), s.common
	return p
}

// packNext packs what follows a state.
func (m *model) packNext(next, s *state, p packed) packed {
	for i := range m.meshes {
		if next.meshes[i] != s.meshes[i] || next.extra != s.extra {
			m.canonical(next, i)
			p.meshes[i] = m.mesh(next.meshes[i])
		}
	}
	if next.extra != s.extra {
		p.extra = m.extraOf.of(next.extra)
	}
	p.common = next.common
	return p
}

func (m *model) unpack(p packed) (s state) {
	for i := range m.meshes {
		s.meshes[i] = m.meshOf.values[p.meshes[i]]
	}
	s.extra, s.common = m.extraOf.values[p.extra], p.common
	return s
}

func (m *model) mesh(s meshState) uint32 {
	n := m.meshOf.of(s)
	if int(n) == len(m.views) {
		m.views = append(m.views, m.viewOf.of(view{s.order, s.seen, s.away}))
	}
	return n
}

// decision is what the hub makes of it.
type decision struct {
	orders  [3]placed
	waiting uint8
	step    v1alpha1.RotationStep
	id      string
	place   v1alpha1.RotationStep
	asks    bool // for a person's word
}

func newModel(s scenario) *model {
	return &model{scenario: s, forms: make([]Order, 1), formOf: map[string]form{}, wordOf: map[string]int{}, decision: map[visible]decision{},
		meshOf: table[meshState]{number: map[meshState]uint32{}}, viewOf: table[view]{number: map[view]uint32{}}, extraOf: table[extra]{number: map[extra]uint32{}}}
}

func meshID(i int) MeshID {
	return MeshID{Namespace: "isthmus-" + string(rune('a'+i)), Name: string(rune('A' + i))}
}

// place makes a number of an order. Issuances are not modelled.
func (m *model) placed(o Order) placed {
	p := placed{serial: uint8(o.Serial), nudge: uint8(o.Nudge)}
	o.Serial, o.Nudge, o.Latest, o.Issuance, o.Contents = 0, 0, 0, min(o.Issuance, 1), Contents{}
	if o.Prepared != nil {
		o.Prepared = &Intermediate{Issuance: min(o.Prepared.Issuance, 2), Signer: o.Prepared.Signer}
	}
	key := fmt.Sprint(o.Issuance, o.Signer, o.Roots, o.Cross, o.Restart)
	if o.Prepared != nil {
		key += fmt.Sprint(*o.Prepared)
	}
	if o.Position != nil {
		key += fmt.Sprintf("%#v", *o.Position)
	}
	f, ok := m.formOf[key]
	if !ok {
		if len(m.forms) > 255 {
			panic("too many orders")
		}
		f = form(len(m.forms))
		m.forms, m.formOf[key] = append(m.forms, o), f
	}
	p.form = f
	return p
}

func (m *model) order(p placed) *Order {
	if p.form == 0 {
		return nil
	}
	o := m.forms[p.form]
	o.Serial, o.Nudge = int64(p.serial), int64(p.nudge)
	return &o
}

func (m *model) initial() state {
	s := state{common: common{cuts: m.cuts, absences: m.absences, rollbacks: m.rollbacks, restores: m.restores, leaders: m.leaders}}
	for i, setup := range m.meshes {
		mesh := &s.meshes[i]
		root := x
		if setup.joins {
			root = own
		} else {
			mesh.order = m.placed(Order{Issuance: 1, Signer: rootOf(x), Roots: x.ids(), Serial: 1})
			mesh.carried = mesh.order
		}
		for r := range setup.replicas {
			mesh.replicas[r] = replica{signer: root, roots: root, clients: root, self: setup.joins}
		}
		for p := range setup.proxies {
			mesh.proxies[p] = proxy{leaf: root, reply: root}
			if setup.live>>p&1 == 1 {
				mesh.proxies[p].push = root
			}
		}
		mesh.configMaps = root
		mesh.seen = m.look(&s, i)
		m.canonical(&s, i)
	}
	return s
}

// look is what the agent of a mesh sees, all at one moment.
func (m *model) look(s *state, i int) seen {
	mesh, setup := &s.meshes[i], m.meshes[i]
	out := seen{carried: mesh.carried}
	o := m.order(mesh.carried)
	if o == nil {
		return out
	}
	roots, signer, other := setOf(o.Roots...), setOf(o.Signer), set(0)
	if root, ok := o.Dropped(); ok {
		other = setOf(root)
	}
	for r := range setup.replicas {
		rep := mesh.replicas[r]
		out.replicas[r] = seenReplica{rep.signer, rep.roots, rep.clients & other}
	}
	out.published = mesh.configMaps == roots
	for p := range setup.proxies {
		px := mesh.proxies[p]
		if px.cut {
			continue
		}
		good := px.leaf == signer && px.trusts() == roots
		out.leaf += one(px.leaf == signer)
		out.trust += one(px.trusts()&roots == roots)
		out.refuse += one(px.trusts()&other == 0)
		hadTime := !px.asks && px.push == roots && px.nudge == mesh.carried.nudge || setup.deaf>>p&1 == 1
		out.laggard += one(!good && hadTime && setup.live>>p&1 == 1)
	}
	return out
}

func one(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// decide is the hub's decision, by the code under test.
func (m *model) decide(s *state) decision {
	see := visible{intent: s.intent, words: s.words}
	for i := range m.meshes {
		see.meshes[i] = m.viewOf.of(view{s.meshes[i].order, s.meshes[i].seen, s.meshes[i].away})
	}
	if d, ok := m.decision[see]; ok {
		return d
	}
	want := m.intents[s.intent]
	in := Intent{Root: rootOf(want.root), Members: map[MeshID]Member{}, Rotation: &Rotation{
		ID: want.id, Verification: Verification{Method: m.verification}, Keys: m.keys.ids(), guards: m.guards,
	}}
	for i, word := range m.words {
		if s.words>>i&1 == 1 {
			in.Rotation.Words = append(in.Rotation.Words, word)
		}
	}
	evidence := map[MeshID]Evidence{}
	for i, setup := range m.meshes {
		in.Members[meshID(i)] = Member{}
		mesh := &s.meshes[i]
		e := Evidence{Order: m.order(mesh.order), Away: mesh.away, Carried: m.order(mesh.seen.carried), MultiRoot: setup.multiRoot, Published: mesh.seen.published}
		if setup.joins {
			e.Own = &Own{Signer: rootOf(own), Roots: own.ids(), Key: setup.key}
		}
		if e.Carried != nil {
			e.Held = &Held{Signer: e.Carried.Signer}
		}
		for r := range setup.replicas {
			seen := mesh.seen.replicas[r]
			e.Replicas = append(e.Replicas, Replica{Signer: rootOf(seen.signer), Roots: seen.roots.ids(), Clients: seen.clients.ids()})
		}
		e.Proxies = &Proxies{Total: setup.proxies, Live: bits.OnesCount8(setup.live), Leaf: int(mesh.seen.leaf), Trust: int(mesh.seen.trust), Refuse: int(mesh.seen.refuse), Laggards: int(mesh.seen.laggard)}
		evidence[meshID(i)] = e
	}
	plan := Next(in, evidence, time.Unix(1e9, 0))
	d := decision{step: plan.Step, id: plan.RotationID, place: plan.Place, asks: len(plan.Findings.With(ReasonAwaitsWord)) > 0}
	for i := range m.meshes {
		d.orders[i] = s.meshes[i].order
		if o, ok := plan.Orders[meshID(i)]; ok {
			d.orders[i] = m.placed(o)
		}
		if slices.Contains(plan.Waiting, meshID(i)) {
			d.waiting |= 1 << i
		}
	}
	m.decision[see] = d
	return d
}

// takes tells whether a replica takes what is in the Secret without a restart.
func (m *model) takes(i int, r replica, o *Order) bool {
	roots := setOf(o.Roots...)
	switch {
	case r.self:
		return false
	case m.meshes[i].multiRoot:
		return roots&r.roots == roots || roots&r.roots == r.roots
	}
	return roots == r.roots && uint8(o.Nudge) == r.nudge
}

func load(r replica, o *Order) replica {
	r.signer, r.roots, r.nudge, r.cross, r.self = setOf(o.Signer), setOf(o.Roots...), uint8(o.Nudge), 0, false
	if o.Cross {
		r.cross = setOf(o.Position.Old)
	}
	return r
}

// asOrdered tells whether everything in a mesh is as the Secret says: the truth, which no one sees at once.
func (m *model) asOrdered(s *state, i int) bool {
	mesh, setup := &s.meshes[i], m.meshes[i]
	o := m.order(mesh.carried)
	if o == nil || mesh.carried != mesh.order || mesh.configMaps != setOf(o.Roots...) {
		return false
	}
	for r := range setup.replicas {
		if load(mesh.replicas[r], o) != mesh.replicas[r] {
			return false
		}
	}
	for p := range setup.proxies {
		if px := mesh.proxies[p]; px.leaf != setOf(o.Signer) || px.trusts() != setOf(o.Roots...) {
			return false
		}
	}
	return true
}

// successor is a state that follows. What is willing happens by itself sooner or later; the rest may happen or not.
type successor struct {
	packed
	what    func() string
	willing bool
}

// moves are all that can happen.
func (m *model) moves(p packed, yield func(successor)) {
	was := m.unpack(p)
	s := &was
	emit := func(willing bool, next state, format string, args ...any) {
		if q := m.packNext(&next, s, p); q != p {
			yield(successor{q, func() string { return fmt.Sprintf(format, args...) }, willing})
		}
	}
	d := m.decide(s)
	for i := range m.meshes {
		m.hubMoves(s, d, i, emit)
		if !s.meshes[i].away {
			m.agentMoves(s, d, i, emit)
		}
		m.istiodMoves(s, i, emit)
		m.proxyMoves(s, i, emit)
	}
	m.people(s, d, emit)
}

type emit func(willing bool, next state, format string, args ...any)

func (m *model) hubMoves(s *state, d decision, i int, emit emit) {
	written := true // by the name of the mesh, one after the other
	for k := range i {
		written = written && d.orders[k] == s.meshes[k].order
	}
	if d.orders[i] != s.meshes[i].order && (written || m.anyhow) {
		next := *s
		next.meshes[i].order = d.orders[i]
		emit(true, next, "hub orders %s of %s", m.show(d.orders[i]), meshID(i).Name)
	}
	if s.late[i].form != 0 {
		next := *s
		next.late[i] = placed{}
		if s.lateBase[i] == s.meshes[i].order.serial || m.anyhow { // it overwrites what it has read, or nothing
			next.meshes[i].order = s.late[i]
		}
		next.lateBase[i] = 0
		emit(true, next, "a hub that was thought dead orders %s of %s", m.show(s.late[i]), meshID(i).Name)
	}
	if i > 0 {
		return
	}
	if s.leaders > 0 {
		next := *s
		next.leaders--
		for k := range m.meshes {
			if d.orders[k] != s.meshes[k].order {
				next.late[k], next.lateBase[k] = d.orders[k], s.meshes[k].order.serial
			}
		}
		if next.late != s.late {
			emit(false, next, "a hub plans and is thought dead")
		}
	}
	switch {
	case s.restores == 2 && d.step == v1alpha1.StepVerified: // a moment as good as any
		next := *s
		next.restores--
		for k := range m.meshes {
			next.backup[k], next.lateSeen[k] = s.meshes[k].order, s.meshes[k].seen
		}
		emit(false, next, "a backup is made")
	case s.restores == 1:
		next := *s
		next.restores--
		for k := range m.meshes {
			next.meshes[k].order, next.meshes[k].seen = s.backup[k], s.lateSeen[k]
			next.backup[k], next.lateSeen[k] = placed{}, seen{}
		}
		emit(false, next, "the hub is restored from the backup")
	}
}

func (m *model) agentMoves(s *state, d decision, i int, emit emit) {
	mesh := &s.meshes[i]
	if mesh.order.form != 0 && mesh.order != mesh.carried && (mesh.order.serial > mesh.carried.serial || m.unordered) {
		next := *s
		next.meshes[i].carried = mesh.order
		emit(true, next, "agent of %s writes %s", meshID(i).Name, m.show(mesh.order))
	}
	if mesh.carried.form == 0 || mesh.carried.serial < mesh.order.serial {
		return // it has not read its order; what it reported before stands
	}
	if o := m.order(mesh.carried); m.prompt && slices.ContainsFunc(mesh.replicas[:m.meshes[i].replicas], func(r replica) bool { return load(r, o) != r }) {
		return // it waits until kubelets have followed
	}
	next := *s
	next.meshes[i].seen = m.look(s, i)
	if next.meshes[i].seen == mesh.seen {
		return
	}
	m.canonical(&next, i)
	if then := m.decide(&next); then != d || next.meshes[i].seen.carried != mesh.seen.carried {
		emit(true, next, "agent of %s reports", meshID(i).Name)
	}
}

func (m *model) istiodMoves(s *state, i int, emit emit) {
	mesh, setup, name := &s.meshes[i], m.meshes[i], meshID(i).Name
	o := m.order(mesh.carried)
	for r := range setup.replicas {
		rep := mesh.replicas[r]
		if o != nil {
			if loaded := load(rep, o); m.takes(i, rep, o) && loaded != rep {
				next := *s
				next.meshes[i].replicas[r] = loaded
				m.follow(&next, i, r)
				emit(true, next, "istiod %d of %s loads", r, name)
			}
			fresh := load(rep, o)
			fresh.clients = fresh.roots
			if fresh != rep {
				next := *s
				next.meshes[i].replicas[r] = fresh
				m.follow(&next, i, r)
				wanted := !m.takes(i, rep, o) || o.Restart.Istiod && rep.clients&^setOf(o.Roots...) != 0
				if wanted || !m.calm {
					emit(wanted, next, "istiod %d of %s restarts", r, name)
				}
			}
		}
		if rep.roots != mesh.configMaps {
			next := *s
			next.meshes[i].configMaps = rep.roots
			emit(true, next, "istiod %d of %s publishes its roots", r, name)
		}
	}
}

// follow lets prompt proxies follow a replica that has changed.
func (m *model) follow(s *state, i, r int) {
	if !m.prompt {
		return
	}
	mesh, setup := &s.meshes[i], m.meshes[i]
	for p := range setup.proxies {
		px, rep := &mesh.proxies[p], mesh.replicas[r]
		if setup.live>>p&1 == 1 && p%setup.replicas == r && (px.push != rep.roots || px.nudge != rep.nudge) {
			px.push, px.nudge = rep.roots, rep.nudge
			other := mesh.replicas[(r+1)%setup.replicas]
			px.leaf, px.cross, px.reply = other.signer, other.cross, other.roots
		}
	}
}

func (m *model) proxyMoves(s *state, i int, emit emit) {
	mesh, setup, name := &s.meshes[i], m.meshes[i], meshID(i).Name
	o := m.order(mesh.carried)
	for p := range setup.proxies {
		px := mesh.proxies[p]
		live, deaf := setup.live>>p&1 == 1, setup.deaf>>p&1 == 1
		if px.cut {
			next := *s
			next.meshes[i].proxies[p].cut = false
			emit(true, next, "proxy %d of %s is back", p, name)
			continue
		}
		if s.cuts > 0 {
			next := *s
			next.cuts--
			next.meshes[i].proxies[p].cut = true
			emit(false, next, "proxy %d of %s is cut off", p, name)
		}
		for r := range setup.replicas {
			rep := mesh.replicas[r]
			if live && !deaf && !m.prompt && (px.push != rep.roots || px.nudge != rep.nudge) {
				next := *s
				n := &next.meshes[i].proxies[p]
				n.push, n.nudge, n.asks = rep.roots, rep.nudge, true
				emit(true, next, "istiod %d of %s pushes to proxy %d", r, name, p)
			}
			renewed := px
			renewed.leaf, renewed.cross, renewed.reply, renewed.asks = rep.signer, rep.cross, rep.roots, false
			next := *s
			next.meshes[i].proxies[p] = renewed
			if px.asks || !live || !m.calm {
				emit(px.asks || !live, next, "istiod %d of %s gives proxy %d a leaf", r, name, p)
			}
			if o != nil && o.Restart.Workloads && m.controlPlaneReady(mesh, setup, o) {
				if live {
					renewed.push, renewed.nudge = rep.roots, rep.nudge
				}
				next := *s
				next.meshes[i].proxies[p] = renewed
				emit(true, next, "proxy %d of %s is restarted", p, name)
			}
		}
	}
}

func (m *model) controlPlaneReady(mesh *meshState, setup meshSetup, o *Order) bool {
	for r := range setup.replicas {
		if load(mesh.replicas[r], o) != mesh.replicas[r] {
			return false
		}
	}
	return mesh.configMaps == setOf(o.Roots...)
}

// people change their minds, and speak.
func (m *model) people(s *state, d decision, emit emit) {
	if int(s.intent) < len(m.intents)-1 {
		next := *s
		next.intent++
		emit(false, next, "root %s is wanted", m.intents[next.intent].root)
	}
	speak := func(willing bool, next state, action v1alpha1.VerificationAction) {
		next.words |= 1 << m.word(Word{RotationID: d.id, Step: d.place, Action: action})
		emit(willing, next, "a person says %s to %s of %s", action, d.place, d.id)
	}
	if d.asks {
		good := true
		for i := range m.meshes {
			good = good && (s.meshes[i].order.form == 0 || m.asOrdered(s, i))
		}
		if good || m.verification != Manual {
			speak(true, *s, v1alpha1.VerificationContinue)
		}
	}
	if s.rollbacks > 0 && d.id != "" {
		next := *s
		next.rollbacks--
		speak(false, next, v1alpha1.VerificationRollback)
	}
	for i := range m.meshes {
		next := *s
		if s.meshes[i].away {
			next.meshes[i].away = false
			emit(true, next, "the cluster of %s is back", meshID(i).Name)
		} else if s.absences > 0 {
			next.absences--
			next.meshes[i].away = true
			emit(false, next, "the cluster of %s is away", meshID(i).Name)
		}
	}
}

func (m *model) word(word Word) int {
	key := fmt.Sprint(word)
	n, ok := m.wordOf[key]
	if !ok {
		n = len(m.words)
		if n > 31 {
			panic("too many words")
		}
		m.words, m.wordOf[key] = append(m.words, word), n
	}
	return n
}

// canonical makes one state of those that differ by names only: replicas and proxies are alike, of serials and nudges only
// the order matters. What an agent has said of an earlier order is left out, unless the scenario is about that.
func (m *model) canonical(s *state, i int) {
	mesh, setup := &s.meshes[i], m.meshes[i]
	if !m.stale && mesh.seen.carried.serial < mesh.order.serial {
		mesh.seen = seen{}
	}
	rank(&mesh.order.serial, &mesh.carried.serial, &mesh.seen.carried.serial, &s.late[i].serial, &s.lateBase[i], &s.backup[i].serial, &s.lateSeen[i].carried.serial)
	rank(&mesh.order.nudge, &mesh.carried.nudge, &mesh.seen.carried.nudge, &s.late[i].nudge, &s.backup[i].nudge, &s.lateSeen[i].carried.nudge,
		&mesh.replicas[0].nudge, &mesh.replicas[1].nudge, &mesh.proxies[0].nudge, &mesh.proxies[1].nudge)
	if setup.replicas == 2 && !m.prompt {
		a, b := &mesh.replicas[0], &mesh.replicas[1]
		if b.key() < a.key() {
			*a, *b = *b, *a
		}
		c, d := &mesh.seen.replicas[0], &mesh.seen.replicas[1]
		if d.key() < c.key() {
			*c, *d = *d, *c
		}
	}
	p, q := &mesh.proxies[0], &mesh.proxies[1]
	alike := setup.live&1 == setup.live>>1&1 && setup.deaf&1 == setup.deaf>>1&1
	if setup.proxies == 2 && alike && !m.prompt && q.key() < p.key() {
		*p, *q = *q, *p
	}
}

func (r replica) key() uint64 {
	return uint64(r.signer) | uint64(r.cross)<<8 | uint64(r.roots)<<16 | uint64(r.nudge)<<24 | uint64(r.clients)<<32 | uint64(one(r.self))<<40
}

func (p proxy) key() uint64 {
	return uint64(p.leaf) | uint64(p.cross)<<8 | uint64(p.push)<<16 | uint64(p.reply)<<24 | uint64(p.nudge)<<32 | uint64(one(p.asks))<<40 | uint64(one(p.cut))<<41
}

func (r seenReplica) key() uint32 {
	return uint32(r.signer) | uint32(r.roots)<<8 | uint32(r.clients)<<16
}

// rank replaces numbers by their rank from 1; 0 stays.
func rank(ns ...*uint8) {
	var has uint32
	for _, n := range ns {
		has |= 1 << *n
	}
	has &^= 1
	for _, n := range ns {
		if *n != 0 {
			*n = uint8(bits.OnesCount32(has&(1<<*n-1))) + 1
		}
	}
}

// check is all that must hold in every state.
func (m *model) check(s *state) error {
	var views []ProxyView
	for i, setup := range m.meshes {
		for p := range setup.proxies {
			px := s.meshes[i].proxies[p]
			views = append(views, ProxyView{Mesh: meshID(i), Name: fmt.Sprintf("proxy %d", p), Anchors: px.anchors().ids(), Trusts: px.trusts().ids()})
		}
	}
	if err := Safe(views, func(a, b MeshID) bool { return m.member(s, a) && m.member(s, b) }); err != nil {
		return err
	}
	for i, setup := range m.meshes {
		mesh := &s.meshes[i]
		for r := range setup.replicas {
			if rep := mesh.replicas[r]; (rep.signer|rep.cross)&mesh.configMaps == 0 {
				return fmt.Errorf("a pod that starts in %s does not trust istiod %d: roots %s, signer %s", meshID(i).Name, r, mesh.configMaps, rep.signer)
			}
		}
		if err := m.checkClosed(mesh, setup, i); err != nil {
			return err
		}
	}
	return nil
}

// member tells whether a mesh is one of those that trust each other: from the beginning, or since it has joined.
func (m *model) member(s *state, id MeshID) bool {
	for i, setup := range m.meshes {
		if meshID(i) == id {
			o := m.order(s.meshes[i].order)
			return !setup.joins || o != nil && o.Position != nil && o.Position.Closed && !o.Position.Back
		}
	}
	return false
}

// checkClosed: at the end of a rotation nothing is left of the root that was dropped, and no outage is latent.
func (m *model) checkClosed(mesh *meshState, setup meshSetup, i int) error {
	o := m.order(mesh.order)
	if o == nil || o.Position == nil || !o.Position.Closed {
		return nil
	}
	root, _ := o.Position.dropped()
	gone := setOf(root)
	for r := range setup.replicas {
		rep := mesh.replicas[r]
		if rep.clients&gone != 0 {
			return fmt.Errorf("istiod %d of %s lets clients in under root %s, which was dropped", r, meshID(i).Name, gone)
		}
		if rep.signer != setOf(o.Signer) || rep.roots != setOf(o.Roots...) {
			return fmt.Errorf("istiod %d of %s does not use what is in its Secret", r, meshID(i).Name)
		}
	}
	for p := range setup.proxies {
		if px := mesh.proxies[p]; (px.trusts()|px.leaf)&gone != 0 {
			return fmt.Errorf("proxy %d of %s has or trusts leaves under root %s, which was dropped", p, meshID(i).Name, gone)
		}
	}
	return nil
}

// atRest tells whether the hub has nothing left to do or to wait for.
func (m *model) atRest(s *state) bool {
	d := m.decide(s)
	for i := range m.meshes {
		o := m.order(s.meshes[i].order)
		if o == nil || isOpen(o.Position) || d.orders[i] != s.meshes[i].order || s.meshes[i].carried != s.meshes[i].order {
			return false
		}
	}
	return d.waiting == 0
}

func (m *model) show(p placed) string {
	o := m.order(p)
	if o == nil {
		return "nothing"
	}
	out := fmt.Sprintf("#%d signer %s roots %s", p.serial, setOf(o.Signer), setOf(o.Roots...))
	if o.Cross {
		out += " cross"
	}
	if o.Nudge > 0 {
		out += fmt.Sprintf(" nudge %d", o.Nudge)
	}
	if q := o.Position; q != nil {
		out += fmt.Sprintf(" (%s %s", q.RotationID(), q.Step())
		if q.Closed {
			out += ", closed"
		}
		out += ")"
	}
	return out
}

func (m *model) showState(s *state) string {
	var out strings.Builder
	for i, setup := range m.meshes {
		mesh := &s.meshes[i]
		fmt.Fprintf(&out, "      %s: ordered %s; holds %s; ConfigMaps %s", meshID(i).Name, m.show(mesh.order), m.show(mesh.carried), mesh.configMaps)
		for r := range setup.replicas {
			rep := mesh.replicas[r]
			fmt.Fprintf(&out, "; istiod %d signs %s%s roots %s clients %s", r, rep.signer, rep.cross, rep.roots, rep.clients)
		}
		for p := range setup.proxies {
			px := mesh.proxies[p]
			fmt.Fprintf(&out, "; proxy %d leaf %s trusts %s+%s", p, px.anchors(), px.push, px.reply)
			if px.cut {
				out.WriteString(" cut off")
			}
		}
		out.WriteString("\n")
	}
	d := m.decide(s)
	fmt.Fprintf(&out, "      hub: %s of %s, waits for %03b\n", d.step, d.id, d.waiting)
	return out.String()
}
