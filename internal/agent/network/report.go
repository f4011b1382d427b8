package network

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// reportDelay is for how long findings are gathered before they are reported: there may be many at once.
const reportDelay = time.Second

// Limits of what is kept and said: other clusters choose how many of their destinations have problems, and words of what is
// said about them.
const (
	// maxTold is of how many destinations of one cluster findings are kept; the others are counted.
	maxTold = 1000
	// maxFindings are kept of one destination.
	maxFindings = 64
	// maxKept is how much text is kept of one destination.
	maxKept = 4096
	// maxLine is the length of one error.
	maxLine = 1024
)

// reports are what was found in importing, by own mesh and by the namespace of the other cluster.
type reports struct {
	changed func()

	mu     sync.Mutex
	byMesh map[string]map[string]*clusterReports
	reach  map[string]map[string][]string
}

// clusterReports are what was found of the destinations of one cluster.
type clusterReports struct {
	told  map[string][]string // findings by the name of the Destination
	count map[string]struct{} // Destinations of which it is only known that there are findings
}

func newReports(changed func()) *reports {
	return &reports{changed: changed, byMesh: map[string]map[string]*clusterReports{}, reach: map[string]map[string][]string{}}
}

// set says what was found of one destination; nothing takes back what was found before.
func (r *reports) set(mesh string, destination types.NamespacedName, found finding.Findings) {
	texts := kept(found)
	r.mu.Lock()
	changed := r.clusterOf(mesh, destination.Namespace).set(destination.Name, texts)
	r.mu.Unlock()
	if changed {
		r.changed()
	}
}

// clusterOf returns what was found of a cluster. The caller holds r.mu.
func (r *reports) clusterOf(mesh, namespace string) *clusterReports {
	if r.byMesh[mesh] == nil {
		r.byMesh[mesh] = map[string]*clusterReports{}
	}
	if r.byMesh[mesh][namespace] == nil {
		r.byMesh[mesh][namespace] = &clusterReports{told: map[string][]string{}, count: map[string]struct{}{}}
	}
	return r.byMesh[mesh][namespace]
}

func (c *clusterReports) set(name string, texts []string) (changed bool) {
	was, told := c.told[name]
	_, counted := c.count[name]
	switch {
	case len(texts) == 0:
		delete(c.told, name)
		delete(c.count, name)
		return told || counted
	case told || len(c.told) < maxTold:
		delete(c.count, name)
		c.told[name] = texts
		return counted || !slices.Equal(was, texts)
	default:
		c.count[name] = struct{}{}
		return !counted
	}
}

// kept are the texts of findings, as many as are kept.
func kept(found finding.Findings) (texts []string) {
	size := 0
	for _, f := range found[:min(len(found), maxFindings)] {
		text := printable(f.String(), maxLine)
		if size += len(text); size > maxKept && len(texts) > 0 {
			break
		}
		texts = append(texts, text)
	}
	return texts
}

// printable is a text without what would not be shown or would do something to a terminal, and not longer than limit.
func printable(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
	return finding.Short(s, limit)
}

// setReach says which ways to other meshes lead nowhere, by the namespaces of their clusters.
func (r *reports) setReach(mesh string, problems map[string][]string) {
	r.mu.Lock()
	was, tried := r.reach[mesh]
	r.reach[mesh] = problems
	r.mu.Unlock()
	if !tried || !maps.EqualFunc(was, problems, slices.Equal) {
		r.changed()
	}
}

// tried reports whether it was found out since the agent started which ways to other meshes lead nowhere.
func (r *reports) tried(mesh string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, tried := r.reach[mesh]
	return tried
}

// of sums up what was found for a mesh, in so many lines at most, of which each cluster gets the same share. What is the same
// for many destinations of a cluster is said once.
func (r *reports) of(mesh string, limit int) []string {
	r.mu.Lock()
	byCluster := map[string][]string{}
	for namespace, problems := range r.reach[mesh] {
		for _, p := range problems {
			byCluster[namespace] = append(byCluster[namespace], printable(p, maxLine))
		}
	}
	for namespace, c := range r.byMesh[mesh] {
		byCluster[namespace] = append(byCluster[namespace], c.lines(membership.Cluster(namespace))...)
	}
	r.mu.Unlock()
	return fairly(byCluster, limit)
}

// lines are what was found of the destinations of a cluster, what concerns most of them first.
func (c *clusterReports) lines(cluster string) (out []string) {
	byText := map[string][]string{}
	for name, texts := range c.told {
		for _, text := range texts {
			byText[text] = append(byText[text], name)
		}
	}
	texts := slices.SortedFunc(maps.Keys(byText), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(byText[b]), len(byText[a])), cmp.Compare(a, b))
	})
	if n := len(c.count); n > 0 {
		out = append(out, fmt.Sprintf("%d more destinations of cluster %s: they have problems too, as can be seen when these are mended", n, cluster))
	}
	for _, text := range texts {
		names := byText[text]
		slices.Sort(names)
		what := strings.Join(names[:min(len(names), 3)], ", ")
		if more := len(names) - 3; more > 0 {
			what += fmt.Sprintf(" and %d more", more)
		}
		out = append(out, printable(fmt.Sprintf("%s of cluster %s: %s", what, cluster, text), maxLine))
	}
	return out
}

// fairly takes from each list in turn until the limit is reached; the result is in the order of their keys.
func fairly(lists map[string][]string, limit int) (out []string) {
	keys := slices.Sorted(maps.Keys(lists))
	shares := map[string]int{}
	for left := limit; left > 0; {
		before := left
		for _, k := range keys {
			if left > 0 && shares[k] < len(lists[k]) {
				shares[k]++
				left--
			}
		}
		if left == before {
			break
		}
	}
	for _, k := range keys {
		out = append(out, lists[k][:shares[k]]...)
	}
	return out
}
