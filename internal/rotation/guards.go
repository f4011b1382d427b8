package rotation

// guard is one of the conditions that keep a rotation safe, or keep it from getting stuck. All of them hold, always; the
// model in the tests takes out one at a time, and must then find what it is there for.
type guard uint32

const (
	// guardFresh: evidence counts only if it answers the order that stands.
	guardFresh guard = 1 << iota
	// guardReplicas: every replica of every revision serves what was ordered, not just one.
	guardReplicas
	// guardPublished: the ConfigMaps of roots have followed.
	guardPublished
	// guardTrust: every proxy accepts leaves under every ordered root.
	guardTrust
	// guardLeaf: every proxy's own leaf is under the ordered signer.
	guardLeaf
	// guardRefusal: every proxy refuses leaves under the root that was dropped.
	guardRefusal
	// guardClients: every istiod was restarted, and refuses client certificates under the root that was dropped.
	guardClients
	// guardBarrier: no mesh goes on to the next step before all have completed this one.
	guardBarrier
	// guardVerified: between two steps, the verification that was chosen.
	guardVerified
	// guardWord: a person's word counts for the rotation and the step that it names.
	guardWord
	// guardSignerFirst: a nudge is a write of its own, after every replica signs under the new root.
	guardSignerFirst
	// guardNudge: proxies are nudged to take leaves under a new signer.
	guardNudge
	// guardLaggards: laggards are nudged again.
	guardLaggards
	// guardRestart: laggards that nudges do not move are restarted.
	guardRestart
	// guardCross: who signs under a root that is not trusted everywhere yet has it cross-signed by the one that is.
	guardCross
	// guardOnePair: a rotation is brought to one of its ends before another begins.
	guardOnePair
	// guardBetween: a mesh joins between rotations.
	guardBetween
	// guardCarried: what an agent has carried out stands, if the order is older: it came out of a backup.
	guardCarried
	// guardReturn: a rotation that is turned round goes back one step, and the barrier holds again.
	guardReturn
	// guardTold: when a rotation is turned round, every order is written anew before anything else happens.
	guardTold

	allGuards = 1<<iota - 1
)

// guards are those that are out.
type guards guard

// takenOut are those that are out in every rotation: none, unless it was built with the tag premature.
var takenOut guards

func (g guards) hold(one guard) bool { return guard(g)&one == 0 }
