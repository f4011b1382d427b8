package network

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// reportDelay is for how long findings are gathered before they are reported: there may be many at once.
const reportDelay = time.Second

// reports are what was found in importing, by own mesh.
type reports struct {
	changed func()

	mu     sync.Mutex
	byMesh map[string]map[types.NamespacedName]finding.Findings
	reach  map[string][]string
}

func newReports(changed func()) *reports {
	return &reports{changed: changed, byMesh: map[string]map[types.NamespacedName]finding.Findings{}, reach: map[string][]string{}}
}

// set says what was found of one destination; nothing takes back what was found before.
func (r *reports) set(mesh string, destination types.NamespacedName, found finding.Findings) {
	r.mu.Lock()
	was := r.byMesh[mesh][destination]
	same := slices.Equal(was, found)
	switch {
	case same:
	case len(found) == 0:
		delete(r.byMesh[mesh], destination)
	default:
		if r.byMesh[mesh] == nil {
			r.byMesh[mesh] = map[types.NamespacedName]finding.Findings{}
		}
		r.byMesh[mesh][destination] = found
	}
	r.mu.Unlock()
	if !same {
		r.changed()
	}
}

// setReach says which ways to other meshes lead nowhere.
func (r *reports) setReach(mesh string, problems []string) {
	r.mu.Lock()
	same := slices.Equal(r.reach[mesh], problems)
	r.reach[mesh] = problems
	r.mu.Unlock()
	if !same {
		r.changed()
	}
}

// of sums up what was found for a mesh: what is the same for many destinations of a cluster is said once.
func (r *reports) of(mesh string) []string {
	type problem struct{ cluster, text string }
	r.mu.Lock()
	byProblem := map[problem][]string{}
	for key, found := range r.byMesh[mesh] {
		for _, f := range found {
			p := problem{membership.Cluster(key.Namespace), f.String()}
			byProblem[p] = append(byProblem[p], key.Name)
		}
	}
	out := slices.Clone(r.reach[mesh])
	r.mu.Unlock()
	sorted := slices.SortedFunc(maps.Keys(byProblem), func(a, b problem) int {
		return cmp.Or(cmp.Compare(a.cluster, b.cluster), cmp.Compare(a.text, b.text))
	})
	for _, p := range sorted {
		names := byProblem[p]
		slices.Sort(names)
		what := strings.Join(names[:min(len(names), 3)], ", ")
		if more := len(names) - 3; more > 0 {
			what += fmt.Sprintf(" and %d more", more)
		}
		out = append(out, fmt.Sprintf("%s of cluster %s: %s", what, p.cluster, p.text))
	}
	return out
}
