package evidence

import (
	"context"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// concurrency bounds the handshakes that are under way at a time.
const concurrency = 64

// Seen is what was seen of one server. Err is set if nothing was.
type Seen struct {
	Presented
	Err error
}

// AskReplicas asks every replica of istiod and returns what was seen, in their order.
func AskReplicas(ctx context.Context, replicas []Replica) []Seen {
	return each(replicas, func(r Replica) Seen {
		p, err := Istiod(ctx, r.Pod.Status.PodIP)
		return Seen{p, err}
	})
}

// SignedBy reports whether the leaf chains to the root, and was issued since the root is this certificate, should it be a
// re-issued one.
func (s Seen) SignedBy(root pki.Root, now time.Time) bool {
	if s.Err != nil {
		return false
	}
	candidates := pki.NewBundle(root)
	for _, c := range s.Chain[1:] {
		if other := pki.RootOf(c); other.Reissues(root) {
			candidates = candidates.Append(other)
		}
	}
	signer, ok := s.Signer(candidates, now)
	return ok && signer == root.ID()
}

// each calls f for every item, several at a time.
func each[T, R any](items []T, f func(T) R) []R {
	out := make([]R, len(items))
	slots := make(chan struct{}, concurrency)
	var all sync.WaitGroup
	for i := range items {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			out[i] = f(items[i])
		})
	}
	all.Wait()
	return out
}
