package network

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// What another cluster may cause here is bounded in how often it happens too, or one that changes its mind without end would
// keep API servers, istiod and this agent busy, and others waiting. What an honest one does stays far below.
const (
	// writeInterval is between writes that destinations of one cluster cause, after writesAtOnce for each one that it may have.
	writeInterval = 100 * time.Millisecond
	writesAtOnce  = 4
	leastWrites   = 1000
	// nameInterval is between writes of one virtual destination, after namesAtOnce.
	nameInterval = time.Second
	namesAtOnce  = 60
	// viewInterval is between changes of one cluster's Meshes that are looked at, after viewsAtOnce.
	viewInterval = 30 * time.Second
	viewsAtOnce  = 60
	// errorsInterval is between reports of other errors, after errorsAtOnce.
	errorsInterval = 5 * time.Second
	errorsAtOnce   = 200
)

// pace lets something happen so often at once, and later once in an interval, for each key (GCRA). The zero value lets it
// happen at any time.
type pace struct {
	interval time.Duration
	atOnce   int

	mu sync.Mutex
	// at is when, were it not for what is let happen at once, the next one would be due.
	at map[string]time.Time
}

// take takes the next turn, and returns how long to wait for it.
func (p *pace) take(key string, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	wait := p.wait(key, now)
	if p.interval > 0 {
		p.at[key] = later(p.at[key], now).Add(p.interval)
	}
	return wait
}

// try takes a turn if there is no need to wait for it; otherwise it returns how long to wait before trying again.
func (p *pace) try(key string, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	wait := p.wait(key, now)
	if wait == 0 && p.interval > 0 {
		p.at[key] = later(p.at[key], now).Add(p.interval)
	}
	return wait
}

func (p *pace) wait(key string, now time.Time) time.Duration {
	if p.at == nil {
		p.at = map[string]time.Time{}
	}
	return max(0, later(p.at[key], now).Sub(now)-p.interval*time.Duration(max(p.atOnce-1, 0)))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// turns are the turns that destinations have taken to be written, until they come.
type turns struct {
	pace *pace

	mu  sync.Mutex
	due map[types.NamespacedName]time.Time
}

// take returns how long a destination has to wait until it may be written; it takes a turn unless it has one.
func (t *turns) take(key types.NamespacedName, now time.Time) time.Duration {
	if t.pace == nil {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if due, ok := t.due[key]; ok {
		if wait := due.Sub(now); wait > 0 {
			return wait
		}
		delete(t.due, key)
		return 0
	}
	wait := t.pace.take(key.Namespace, now)
	if wait > 0 {
		if t.due == nil {
			t.due = map[types.NamespacedName]time.Time{}
		}
		t.due[key] = now.Add(wait)
	}
	return wait
}

// forget gives up what a destination waits for.
func (t *turns) forget(key types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.due, key)
}

// leaving keeps until when destinations wait before they leave the rest of a former way. The zero value keeps nothing.
type leaving struct {
	mu    sync.Mutex
	until map[types.NamespacedName]time.Time
}

func (l *leaving) set(key types.NamespacedName, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.until == nil {
		l.until = map[types.NamespacedName]time.Time{}
	}
	l.until[key] = until
}

// wait is how long a destination still has to wait.
func (l *leaving) wait(key types.NamespacedName, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	wait := l.until[key].Sub(now)
	if wait <= 0 {
		delete(l.until, key)
		return 0
	}
	return wait
}

// patient returns the Meshes to go by: those of another cluster that has changed them too often are taken as they were. It
// returns how long to wait before looking again; 0 if all are as they are.
func (n *network) patient(old *view, meshes []v1alpha1.Mesh) (out []v1alpha1.Mesh, wait time.Duration) {
	if old == nil {
		return meshes, 0
	}
	was, is := map[string][]*v1alpha1.Mesh{}, map[string][]*v1alpha1.Mesh{}
	for _, m := range old.meshes {
		was[m.Namespace] = append(was[m.Namespace], m)
		is[m.Namespace] = nil
	}
	for i := range meshes {
		is[meshes[i].Namespace] = append(is[meshes[i].Namespace], &meshes[i])
	}
	for namespace, list := range is {
		changed := len(list) != len(was[namespace])
		for _, m := range list {
			before := old.meshes[m.Name+"."+m.Namespace]
			changed = changed || before == nil || !sameMesh(before, m)
		}
		if changed && namespace != n.namespace {
			if w := n.views.try(namespace, n.Now()); w > 0 {
				list = was[namespace]
				wait = sooner(wait, w)
			}
		}
		for _, m := range list {
			out = append(out, *m)
		}
	}
	return out, wait
}
