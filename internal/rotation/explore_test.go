package rotation

import (
	"fmt"
	"slices"
	"strings"
)

// result of an exploration.
type result struct {
	states, edges int
	rests         int
	err           error // with the shortest way there
	cut           bool  // the limit was reached
}

// explore visits every state that can be reached, the nearest first. Then it looks whether from each of them the hub can come
// to rest if nothing but what is willing happens from there on.
func (m *model) explore() (res result) {
	start := m.initial()
	states, parents := []packed{m.pack(&start)}, []int32{-1}
	index := map[packed]int32{states[0]: 0}
	var willing [][2]int32
	for at := 0; at < len(states); at++ {
		res.states = len(states)
		s := m.unpack(states[at])
		if err := m.check(&s); err != nil {
			res.err = fmt.Errorf("%w\n%s", err, m.trace(states, parents, at))
			return res
		}
		if m.limit > 0 && len(states) > m.limit {
			res.cut = true
			return res
		}
		m.moves(states[at], func(next successor) {
			to, ok := index[next.packed]
			if !ok {
				to = int32(len(states))
				index[next.packed] = to
				states, parents = append(states, next.packed), append(parents, int32(at))
			}
			res.edges++
			if next.willing {
				willing = append(willing, [2]int32{int32(at), to})
			}
		})
	}
	ends := m.canRest(states, willing, &res)
	if at := slices.Index(ends, false); at >= 0 {
		res.err = fmt.Errorf("a dead end: from here the hub cannot come to rest\n%s", m.trace(states, parents, at))
	}
	return res
}

// canRest marks the states from which what is willing leads to rest.
func (m *model) canRest(states []packed, willing [][2]int32, res *result) []bool {
	first := make([]int32, len(states)+1)
	for _, e := range willing {
		first[e[1]+1]++
	}
	for i := range states {
		first[i+1] += first[i]
	}
	back, fill := make([]int32, len(willing)), append([]int32(nil), first...)
	for _, e := range willing {
		back[fill[e[1]]] = e[0]
		fill[e[1]]++
	}
	ends := make([]bool, len(states))
	var queue []int32
	for i := range states {
		if s := m.unpack(states[i]); m.atRest(&s) {
			ends[i] = true
			queue = append(queue, int32(i))
		}
	}
	res.rests = len(queue)
	for len(queue) > 0 {
		to := queue[0]
		queue = queue[1:]
		for _, from := range back[first[to]:first[to+1]] {
			if !ends[from] {
				ends[from] = true
				queue = append(queue, from)
			}
		}
	}
	return ends
}

// trace tells how a state is reached.
func (m *model) trace(states []packed, parents []int32, at int) string {
	var way []int32
	for i := int32(at); i >= 0; i = parents[i] {
		way = append(way, i)
	}
	slices.Reverse(way)
	var out strings.Builder
	for k := range way[1:] {
		what := ""
		m.moves(states[way[k]], func(next successor) {
			if what == "" && next.packed == states[way[k+1]] {
				what = next.what()
			}
		})
		fmt.Fprintf(&out, "  %2d. %s\n", k+1, what)
	}
	s := m.unpack(states[at])
	out.WriteString(m.showState(&s))
	return out.String()
}
