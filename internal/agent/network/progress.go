package network

import "sync"

// progress keeps what has not been looked at since the view changed. What is reported as applied waits for it.
type progress struct {
	mu      sync.Mutex
	pending map[work]uint64
	counts  map[workKind]int
	// idle is told when nothing is pending of some kind any more.
	idle func()
}

type workKind int

const (
	ownWork workKind = iota
	importWork
	nameWork
)

// work is a unit of work.
type work struct {
	kind            workKind
	namespace, name string
}

func newProgress(idle func()) *progress {
	return &progress{pending: map[work]uint64{}, counts: map[workKind]int{}, idle: idle}
}

// expect says that w has to be looked at by a view that is not older than sequence.
func (p *progress) expect(w work, sequence uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.pending[w]; !ok {
		p.counts[w.kind]++
	}
	p.pending[w] = sequence
}

// done says that w was looked at by a view.
func (p *progress) done(w work, sequence uint64) {
	p.mu.Lock()
	expected, ok := p.pending[w]
	ended := ok && expected <= sequence
	if ended {
		delete(p.pending, w)
		p.counts[w.kind]--
		ended = p.counts[w.kind] == 0
	}
	p.mu.Unlock()
	if ended {
		p.idle()
	}
}

// settled reports whether nothing of a kind is pending.
func (p *progress) settled(kinds ...workKind) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range kinds {
		if p.counts[k] > 0 {
			return false
		}
	}
	return true
}

func (p *progress) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.pending)
}
