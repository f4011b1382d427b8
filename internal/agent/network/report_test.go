package network

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-mesh/isthmus/internal/finding"
)

// TestReportsAreFair: however many problems one cluster has, and whatever they are called, those of others are seen.
func TestReportsAreFair(t *testing.T) {
	changes := 0
	r := newReports(func() { changes++ })
	key := func(cluster string, i int) types.NamespacedName {
		return types.NamespacedName{Namespace: "isthmus-" + cluster, Name: fmt.Sprintf("s%05d.shop", i)}
	}
	found := func(format string, args ...any) finding.Findings {
		return finding.Findings{{Field: "spec", Reason: "X", Message: fmt.Sprintf(format, args...)}}
	}
	const many = 20_000
	for i := range many {
		r.set("mesh", key("a-hostile", i), append(found("\x1b[2J%d %s", i, strings.Repeat("x", 10_000)), found("another")...))
	}
	r.set("mesh", key("north", 1), found("of north"))
	r.set("mesh", key("south", 1), found("of south"))
	r.set("mesh", key("south", 2), found("of south"))
	r.setReach("mesh", map[string][]string{"isthmus-a-hostile": slices.Repeat([]string{"unreachable"}, 5000), "isthmus-south": {"gateway does not answer"}})

	lines := r.of("mesh", 50)
	if len(lines) != 50 {
		t.Errorf("%d lines", len(lines))
	}
	size := 0
	for _, line := range lines {
		size += len(line)
		if len(line) > maxLine || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' }) {
			t.Errorf("line %.60q… of %d bytes", line, len(line))
		}
	}
	for _, want := range []string{"s00001.shop of cluster north: spec: of north", "s00001.shop, s00002.shop of cluster south: spec: of south", "gateway does not answer"} {
		if !slices.Contains(lines, want) {
			t.Errorf("%q is not said", want)
		}
	}
	if kept := len(r.byMesh["mesh"]["isthmus-a-hostile"].told); kept != maxTold {
		t.Errorf("of %d findings are kept", kept)
	}
	if all := r.of("mesh", 1<<20); !slices.ContainsFunc(all, func(s string) bool {
		return strings.HasPrefix(s, fmt.Sprintf("%d more destinations of cluster a-hostile", many-maxTold))
	}) {
		t.Error("it is not said that there are more")
	}

	// The same again is no change, and what is mended goes.
	changes = 0
	r.set("mesh", key("north", 1), found("of north"))
	r.set("mesh", key("a-hostile", many-1), found("of one that is only counted"))
	r.set("mesh", key("a-hostile", many), nil)
	if changes != 0 {
		t.Errorf("%d changes", changes)
	}
	for i := range many {
		r.set("mesh", key("a-hostile", i), nil)
	}
	r.setReach("mesh", nil)
	if lines := r.of("mesh", 50); changes != many+1 || len(lines) != 2 {
		t.Errorf("%d changes, %q is said", changes, lines)
	}
}

func TestFairly(t *testing.T) {
	for _, tc := range []struct {
		lists map[string][]string
		limit int
		want  []string
	}{
		{nil, 5, nil},
		{map[string][]string{"a": {"a1", "a2", "a3", "a4"}, "b": {"b1"}, "c": {"c1", "c2"}}, 5, []string{"a1", "a2", "b1", "c1", "c2"}},
		{map[string][]string{"a": {"a1", "a2", "a3", "a4"}, "b": {"b1"}}, 4, []string{"a1", "a2", "a3", "b1"}},
		{map[string][]string{"a": {"a1"}, "b": {"b1"}}, 1, []string{"a1"}},
		{map[string][]string{"a": {"a1"}}, 0, nil},
		{map[string][]string{"a": {"a1"}}, -1, nil},
	} {
		if got := fairly(tc.lists, tc.limit); !slices.Equal(got, tc.want) {
			t.Errorf("of %v %d are %v, want %v", tc.lists, tc.limit, got, tc.want)
		}
	}
}
