package discovery

import (
	"slices"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/istio"
)

// identityGrace is for how long an identity is still published after the last pod and the last template that had it are gone.
// What is published follows the end of pods, and proxies of other meshes follow what is published, both at their own pace: for
// a while they reach, by connections that they have or by a gateway that is behind, a pod that was there a moment ago. Were its
// identity gone already they would take it for an impostor.
const identityGrace = time.Minute

// leaving remembers since when identities that are published are gone. It does so in memory only: after a restart the grace
// begins anew.
type leaving struct {
	grace time.Duration

	mu    sync.Mutex
	since map[string]map[string]time.Time // by Destination and identity
}

// keep says which identities a Destination is to have: those that are present, and of those that are published those whose
// grace is not over. again is when that will be, 0 if there is none.
func (l *leaving) keep(destination string, published, present []string, now time.Time) (identities []string, again time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	identities, missing, again := retain(l.since[destination], published, present, now, l.grace)
	switch {
	case len(missing) == 0:
		delete(l.since, destination)
	case l.since == nil:
		l.since = map[string]map[string]time.Time{destination: missing}
	default:
		l.since[destination] = missing
	}
	return identities, again
}

// forget is for a Destination that is gone.
func (l *leaving) forget(destination string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.since, destination)
}

// retain returns the identities to publish; those that are published and not present, with the time at which they were first
// missed, due or not, as the hub's cache may still show what was written over; and when the next is due.
func retain(since map[string]time.Time, published, present []string, now time.Time, grace time.Duration) ([]string, map[string]time.Time, time.Duration) {
	identities := slices.Clone(present)
	var missing map[string]time.Time
	var again time.Duration
	for _, id := range published {
		if slices.Contains(present, id) {
			continue
		}
		missed, ok := since[id]
		if !ok {
			missed = now
		}
		if missing == nil {
			missing = map[string]time.Time{}
		}
		missing[id] = missed
		left := grace - now.Sub(missed)
		if left <= 0 || len(identities) >= istio.MaxIdentities {
			continue
		}
		identities = append(identities, id)
		if again == 0 || left < again {
			again = left
		}
	}
	slices.Sort(identities)
	return identities, missing, again
}
