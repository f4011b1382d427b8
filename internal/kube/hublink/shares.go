package hublink

import (
	"runtime"
	"sync"
	"sync/atomic"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube/compact"
)

const (
	// largeSize is from how many bytes on a Destination of another cluster is large. An honest one is, where the network is flat
	// and it has many pods.
	largeSize = 1 << 10
	// largeLimit is how many bytes the large ones of one cluster may take together, twice over while all are listed again.
	largeLimit = 128 << 20
	// annotationNotHeld marks a Destination of which the cache holds no more than whose it is.
	annotationNotHeld = "isthmus.dev/not-held"
)

// IsHeld reports whether the hub's cache holds a Destination whole. Of a cluster whose Destinations take too much memory it
// does not hold all: what they say is not known then.
func IsHeld(d *v1alpha1.Destination) bool { return d.Annotations[annotationNotHeld] == "" }

// shares keeps the memory that the Destinations of each cluster take within a limit.
type shares struct {
	limit int64

	mu    sync.Mutex
	taken map[word]*atomic.Int64 // by namespace
}

func newShares(limit int64) *shares { return &shares{limit: limit, taken: map[word]*atomic.Int64{}} }

// pack packs an object as Pack does, and without what it says if its cluster's share is used up. What is not in use any more is
// given back when its memory is.
func (s *shares) pack(o client.Object) compact.Packed {
	whole := Pack(o)
	p, ok := whole.(*packed)
	if !ok {
		return whole
	}
	size := p.size()
	if size <= largeSize {
		return p
	}
	taken := s.of(p.namespace)
	if taken.Add(size) > s.limit {
		taken.Add(-size)
		return p.bare()
	}
	runtime.AddCleanup(p, func(size int64) { taken.Add(-size) }, size)
	return p
}

func (s *shares) of(namespace word) *atomic.Int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[namespace] == nil {
		s.taken[namespace] = &atomic.Int64{}
	}
	return s.taken[namespace]
}

// size is about how many bytes it takes beside those that all do.
func (p *packed) size() int64 {
	const text, entry = 16, 48
	n := 0
	for _, l := range p.labels {
		n += text + text + len(l.key.Value()) + len(l.value)
	}
	for _, q := range p.ports {
		n += entry + len(q.name.Value()) + len(q.app.Value())
	}
	for _, id := range p.identities {
		n += text + len(id)
	}
	if f := p.federation; f != nil {
		for _, s := range f.Subsets {
			n += text + len(s)
		}
		for _, e := range f.Endpoints {
			n += entry + len(e.Address)
			for name := range e.Ports {
				n += entry + len(name)
			}
		}
	}
	return int64(n)
}

// bare is what is left of it where there is no room.
func (p *packed) bare() *packed {
	return &packed{
		namespace: p.namespace, cluster: p.cluster, mesh: p.mesh, serviceIn: p.serviceIn, kind: p.kind,
		name: p.name, service: p.service, version: p.version, created: p.created, generation: p.generation, notHeld: true,
	}
}
