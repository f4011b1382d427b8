//go:build premature

package rotation

// A hub that is built with this tag takes each step of a rotation without waiting for anything. It exists for one test: that
// traffic in which no request fails would have shown the failures.
func init() {
	takenOut = guards(guardFresh | guardReplicas | guardPublished | guardTrust | guardLeaf | guardRefusal | guardClients | guardBarrier | guardNudge)
}
