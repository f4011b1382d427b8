// Package rotation decides which certificate authority each mesh of a virtual mesh is to hold: who signs, which roots are
// distributed, and when an intermediate is issued anew. It knows no client and no clock.
//
// It is a function, [Next], from what is wanted and what was observed to orders. The position is never stored: it follows
// from the orders that stand and from the evidence that answers them, so a hub that was killed, has lost its status or came
// out of a backup goes on from there. Nothing advances because time has passed.
//
// # How a root is replaced
//
// In steps, so that at every instant each workload accepts each of its peers ([Safe]):
//
//	stage     signer  roots     step forth                    step back
//	OldOnly   old     old       -                             PREVIOUS_CA
//	OldSigns  old     old, new  ADDING_NEW_ROOT               ROLLING_BACK
//	NewSigns  new     old, new  PROPAGATING_NEW_INTERMEDIATE  ROLLING_BACK
//	NewOnly   new     new       DELETING_OLD_ROOT             -
//
// Two laws make it safe in both directions: nobody signs under a root before everybody trusts it, and nobody ceases to trust
// a root before everybody has ceased to use it. From them follow the rules of the machine:
//
//   - A step is complete when every mesh is, in full, what its order says: every replica of istiod, every ConfigMap of roots,
//     every proxy's leaf and every proxy's trust. That is one question, the same at every stage. Only evidence that answers
//     the order that stands counts.
//   - Only when all are complete, and verified as the user has chosen, does the first mesh take the next step; then one mesh
//     after the other.
//   - A signer that changes under unchanged roots moves no leaf. So once every replica signs under it, live proxies are
//     nudged, by an order of its own; laggards again, three times, then they are restarted.
//   - At either end, every istiod is restarted, since until then it lets clients in under the root that was dropped.
//   - A rotation that is turned round, by a person's word or by another wish, goes back one step at once, since all that held
//     there holds still; from there on the rules above apply. If a third root is wanted, the nearer end comes first.
//   - A mesh whose proxies or istiods take no roots live may sign under new at once, in ADDING_NEW_ROOT, if the old root's
//     key is at hand to cross-sign the new one: that saves a round of restarts. It keeps to the table otherwise.
//   - A mesh that joins goes through the same steps alone, from the root that it came with to that of the virtual mesh, while
//     the virtual mesh rests.
//   - Who is waived in a person's word is not waited for and not moved; it comes after, alone. Who is no member any more has
//     no part in it.
//
// # How that is known
//
// A model in the tests visits every state that meshes, agents, the hub, people and accidents can reach, checks the invariant
// in each, and that the rotation can still be finished from it. It is seen to fail with each of the guards taken out.
// ISTHMUS_DEEP_MODEL=1 makes it go further, for a quarter of an hour and some gigabytes. Left out of the model, and left to
// tables, are waivers, strategy NONE, soaking, issuances, and three meshes with more than one istiod and one proxy each.
//
// What the machine asks of those around it, and the model takes for granted:
//
//   - The hub writes the orders of a plan as [Plan].Changed says, each on condition that it stands as it was read.
//   - An agent carries out no order whose serial is below that of the last one that it carried out, and says which order
//     that was in full ([Evidence].Carried). What it reports was seen after that order was written, over all replicas and
//     proxies that there are.
//   - The hub gives every rotation an ID of its own, and keeps the keys of both roots until it is over.
//
// # How it is used
//
// The hub always calls [Next] with [Intent].Rotation: issuing, renewing, joining and replacing a root are one plan. Without it,
// there is one root, and every member is told to hold it at once.
package rotation
