package network

import (
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/lab/internal/topology"
)

func TestRuleset(t *testing.T) {
	lab, err := topology.Plan("default", 3, []string{"a", "b"}, topology.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := lab.Clusters[1]
	for _, tt := range []struct {
		apiServerOnly bool
		has, hasNot   []string
	}{
		{false, []string{"ip daddr { 172.31.3.12, 10.51.0.0/16 } drop", "ip saddr { 172.31.3.12, 10.51.0.0/16 } drop"}, []string{"6443"}},
		{true, []string{"ip daddr 172.31.3.12 tcp dport 6443 drop", "ip saddr 172.31.3.12 tcp sport 6443 drop"}, []string{"10.51.0.0/16"}},
	} {
		rules := ruleset(b, tt.apiServerOnly)
		for _, hook := range []string{"input", "forward", "output"} {
			if !strings.Contains(rules, "type filter hook "+hook+" ") {
				t.Errorf("API server only %v: nothing is dropped in %s:\n%s", tt.apiServerOnly, hook, rules)
			}
		}
		for _, rule := range tt.has {
			if n := strings.Count(rules, rule); n != 3 {
				t.Errorf("API server only %v: %q is there %d times, not once for each hook:\n%s", tt.apiServerOnly, rule, n, rules)
			}
		}
		for _, text := range tt.hasNot {
			if strings.Contains(rules, text) {
				t.Errorf("API server only %v: %q has no business here:\n%s", tt.apiServerOnly, text, rules)
			}
		}
	}
}

func TestParseTables(t *testing.T) {
	list := "table inet filter\ntable inet cut-remote-cluster\ntable inet cut-b\n"
	if got, want := parseTables(list), []string{"remote-cluster", "b"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
