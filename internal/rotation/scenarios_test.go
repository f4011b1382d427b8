package rotation

import (
	"os"
	"strings"
	"testing"
	"time"
)

func live(replicas, proxies int) meshSetup {
	return meshSetup{replicas: replicas, proxies: proxies, multiRoot: true, live: 1<<proxies - 1}
}

// rolling is a mesh with Istio's defaults.
func rolling(replicas, proxies int) meshSetup { return meshSetup{replicas: replicas, proxies: proxies} }

// mixed is one whose second proxy is not live.
func mixed(replicas int) meshSetup {
	return meshSetup{replicas: replicas, proxies: 2, multiRoot: true, live: 1}
}

func (s meshSetup) joining() meshSetup { s.joins = true; return s }
func (s meshSetup) withKey() meshSetup { s.key = true; return s }
func (s meshSetup) hard() meshSetup    { s.deaf = 1; return s }

func meshes(ms ...meshSetup) []meshSetup { return ms }

var (
	toW       = []wanted{{w, "to-w"}}
	toWtoV    = []wanted{{w, "to-w"}, {v, "to-v"}}
	toWtoX    = []wanted{{w, "to-w"}, {x, "to-x"}}
	toWtoXtoW = []wanted{{w, "to-w"}, {x, "to-x"}, {w, "to-w-again"}}
	stayX     = []wanted{{x, "x"}}
	stayXtoW  = []wanted{{x, "x"}, {w, "to-w"}}
)

// scenarios, of growing size. The deep ones take minutes; in those that are calm, pods are restarted and leaves renewed only
// when that is called for, and the deep run lets them do so at any time.
var scenarios = []struct {
	scenario
	deep bool
}{
	{scenario: scenario{name: "one mesh", meshes: meshes(live(2, 2)), intents: toW}},
	{scenario: scenario{name: "stale evidence", meshes: meshes(live(2, 1)), intents: toWtoX, stale: true}},
	{scenario: scenario{name: "two meshes", meshes: meshes(live(1, 1), live(1, 1)), intents: toW, stale: true}},
	{scenario: scenario{name: "two meshes, two replicas", meshes: meshes(live(2, 1), live(1, 1)), intents: toW}},
	{scenario: scenario{name: "three meshes", meshes: meshes(live(1, 1), live(1, 1), live(1, 1)), intents: toW, calm: true}},
	{scenario: scenario{name: "two in a row", meshes: meshes(live(2, 1)), intents: toWtoV}},
	{scenario: scenario{name: "change of mind", meshes: meshes(live(1, 1), live(1, 1)), intents: toWtoV, calm: true}},
	{scenario: scenario{name: "taken back", meshes: meshes(live(1, 1), live(1, 1)), intents: toWtoX, calm: true}},
	{scenario: scenario{name: "taken back and forth", meshes: meshes(live(2, 1)), intents: toWtoXtoW}},
	{scenario: scenario{name: "rolled back", meshes: meshes(live(1, 1), live(1, 1)), intents: toW, rollbacks: 1, calm: true}},
	{scenario: scenario{name: "rolled back, two replicas", meshes: meshes(live(2, 1)), intents: toW, rollbacks: 1}},
	{scenario: scenario{name: "rolled back, and another wanted", meshes: meshes(live(1, 1)), intents: toWtoV, rollbacks: 2, calm: true}},
	{scenario: scenario{name: "a proxy is cut off", meshes: meshes(live(2, 1), live(1, 1)), intents: toW, cuts: 1, calm: true}},
	{scenario: scenario{name: "a cluster is away", meshes: meshes(live(1, 1), live(1, 1)), intents: toW, absences: 1}},
	{scenario: scenario{name: "manual", meshes: meshes(live(1, 1), live(1, 1)), intents: toW, verification: Manual, calm: true}},
	{scenario: scenario{name: "none", meshes: meshes(live(2, 2), live(1, 1)), intents: toW, verification: None, prompt: true}},
	{scenario: scenario{name: "rolling", meshes: meshes(rolling(2, 2), rolling(1, 1)), intents: toW}},
	{scenario: scenario{name: "rolling, cross-certificate", meshes: meshes(rolling(2, 2), rolling(1, 1)), intents: toW, keys: x}},
	{scenario: scenario{name: "live and rolling", meshes: meshes(live(1, 1), rolling(1, 1)), intents: toW, keys: x, rollbacks: 1, calm: true}},
	{scenario: scenario{name: "live and rolling, change of mind", meshes: meshes(live(1, 1), rolling(1, 1)), intents: toWtoV, keys: x}},
	{scenario: scenario{name: "proxies differ", meshes: meshes(mixed(1), live(1, 1)), intents: toW, keys: x}},
	{scenario: scenario{name: "a proxy does not follow", meshes: meshes(live(1, 1).hard(), live(1, 1)), intents: toW}},
	{scenario: scenario{name: "first adoption", meshes: meshes(live(2, 2).joining()), intents: stayX}},
	{scenario: scenario{name: "first adoption, rolled back", meshes: meshes(live(2, 1).joining()), intents: toW, rollbacks: 2, calm: true}},
	{scenario: scenario{name: "first adoption of two", meshes: meshes(live(1, 1).joining(), live(1, 1).joining()), intents: toW, calm: true}},
	{scenario: scenario{name: "first adoption, rolling", meshes: meshes(rolling(2, 2).joining().withKey()), intents: stayX}},
	{scenario: scenario{name: "a mesh joins", meshes: meshes(live(1, 1), live(1, 1).joining()), intents: stayXtoW}},
	{scenario: scenario{name: "a hub that was thought dead", meshes: meshes(live(1, 1), live(1, 1)), intents: toWtoX, leaders: 1, calm: true}},
	{scenario: scenario{name: "restored from a backup", meshes: meshes(live(1, 1), live(1, 1)), intents: toW, restores: 2, calm: true}},

	{deep: true, scenario: scenario{name: "manual, rolled back", meshes: meshes(live(1, 1), live(1, 1)), intents: toW, verification: Manual, rollbacks: 1}},
	{deep: true, scenario: scenario{name: "first adoption of two, rolled back", meshes: meshes(live(1, 1).joining(), live(1, 1).joining()), intents: toW, rollbacks: 1, calm: true}},
	{deep: true, scenario: scenario{name: "two meshes, two replicas, two proxies", meshes: meshes(live(2, 2), live(1, 1)), intents: toW}},
	{deep: true, scenario: scenario{name: "two meshes, two replicas each", meshes: meshes(live(2, 1), live(2, 1)), intents: toW}},
	{deep: true, scenario: scenario{name: "three meshes, change of mind", meshes: meshes(live(1, 1), live(1, 1), live(1, 1)), intents: toWtoV, calm: true}},
	{deep: true, scenario: scenario{name: "three meshes, one joins", meshes: meshes(live(1, 1), live(1, 1), live(1, 1).joining()), intents: stayXtoW, calm: true}},
}

// deepModel makes the model go further, for minutes.
const deepModel = "ISTHMUS_DEEP_MODEL"

// TestModel visits every state of each scenario.
func TestModel(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			if os.Getenv(deepModel) != "" {
				s.calm, s.limit = false, 10_000_000
			} else if s.deep {
				t.Skipf("takes minutes; set %s", deepModel)
			}
			begin := time.Now()
			r := newModel(s.scenario).explore()
			t.Logf("%d states, %d ways between them, %v", r.states, r.edges, time.Since(begin).Round(time.Millisecond))
			if r.cut {
				t.Log("no violation so far, and there are more states than memory: this was not exhaustive")
			}
			if r.err != nil {
				t.Error(r.err)
			}
		})
	}
}

// TestGuards takes out each guard in turn. The model has to find what it is there for.
func TestGuards(t *testing.T) {
	needs := map[guard]struct{ name, scenario, found string }{
		guardFresh:       {"fresh", "stale evidence", "does not use what is in its Secret"},
		guardReplicas:    {"replicas", "two in a row", "does not use what is in its Secret"},
		guardPublished:   {"published", "two meshes", "a pod that starts"},
		guardTrust:       {"trust", "two meshes", "refuses"},
		guardLeaf:        {"leaf", "two meshes", "refuses"},
		guardRefusal:     {"refusal", "two meshes", "has or trusts leaves"},
		guardClients:     {"clients", "two meshes", "lets clients in"},
		guardBarrier:     {"barrier", "two meshes", "refuses"},
		guardVerified:    {"verified", "manual", "refuses"},
		guardWord:        {"word", "manual", "refuses"},
		guardSignerFirst: {"signer first", "none", "refuses"},
		guardNudge:       {"nudge", "none", "refuses"},
		guardLaggards:    {"laggards", "a proxy does not follow", "dead end"},
		guardRestart:     {"restart", "a proxy does not follow", "dead end"},
		guardCross:       {"cross", "rolling, cross-certificate", "a pod that starts"},
		guardOnePair:     {"one pair", "change of mind", "refuses"},
		guardBetween:     {"between", "a mesh joins", "refuses"},
		guardCarried:     {"carried", "restored from a backup", "dead end"},
		guardReturn:      {"return", "rolled back", "refuses"},
		guardTold:        {"told", "a hub that was thought dead", "refuses"},
	}
	for g := guard(1); g < allGuards; g <<= 1 {
		need, ok := needs[g]
		if !ok {
			t.Errorf("no scenario for guard %b", g)
			continue
		}
		t.Run(need.name, func(t *testing.T) {
			t.Parallel()
			s := find(t, need.scenario)
			s.guards = guards(g)
			finds(t, s, need.found)
		})
	}
}

// TestDuties takes out what hub and agents have to see to, and Next cannot.
func TestDuties(t *testing.T) {
	t.Run("the hub writes by name, and what it has read", func(t *testing.T) {
		t.Parallel()
		s := find(t, "a hub that was thought dead")
		s.anyhow = true
		finds(t, s, "refuses")
	})
	t.Run("agents carry out no older order", func(t *testing.T) {
		t.Parallel()
		s := find(t, "restored from a backup")
		s.unordered = true
		finds(t, s, "a pod that starts")
	})
}

func find(t *testing.T, name string) scenario {
	t.Helper()
	for _, s := range scenarios {
		if s.name == name {
			return s.scenario
		}
	}
	t.Fatalf("no scenario %q", name)
	return scenario{}
}

func finds(t *testing.T, s scenario, what string) {
	t.Helper()
	r := newModel(s).explore()
	if r.err == nil || !strings.Contains(r.err.Error(), what) {
		t.Fatalf("%d states of %q, and the model has found %v, not %q", r.states, s.name, r.err, what)
	}
	t.Logf("found after %d states: %v", r.states, r.err)
}
