package build

import (
	"bytes"
	"math"
	"os"
	"testing"
	"time"
)

var even = pace{Packages: 100, Total: 100 * time.Second, Shares: []float64{0.25, 0.5, 0.75, 1}}

func TestShare(t *testing.T) {
	slowEnd := pace{Packages: 100, Total: time.Minute, Shares: []float64{0.1, 1}}
	for _, test := range []struct {
		name     string
		pace     pace
		packages int
		want     float64
	}{
		{"nothing", even, 0, 0},
		{"inside a part", even, 10, 0.1},
		{"border", even, 50, 0.5},
		{"all", even, 100, 1},
		{"more than all", even, 150, 1},
		{"half of a fast part", slowEnd, 25, 0.05},
		{"half of a slow part", slowEnd, 75, 0.55},
		{"unknown pace", pace{}, 10, 0},
	} {
		if got := test.pace.share(test.packages); math.Abs(got-test.want) > 1e-9 {
			t.Errorf("%s: share %v, want %v", test.name, got, test.want)
		}
	}
}

func TestRemaining(t *testing.T) {
	for _, test := range []struct {
		name       string
		first, now int
		elapsed    time.Duration
		want       time.Duration
	}{
		{"at the start the pace is all there is", 0, 0, 0, 100 * time.Second},
		{"as fast as the pace", 0, 40, 40 * time.Second, 60 * time.Second},
		{"half as fast, half of it believed", 0, 50, 100 * time.Second, 75 * time.Second},
		{"half as fast, nearly all of it believed", 0, 90, 180 * time.Second, 19 * time.Second},
		{"resumed", 60, 60, 0, 40 * time.Second},
		{"resumed, at the pace", 60, 80, 20 * time.Second, 20 * time.Second},
		{"done", 0, 100, time.Hour, 0},
		{"more packages than last time", 0, 120, time.Hour, 0},
	} {
		got := even.remaining(test.first, test.now, test.elapsed)
		if d := got - test.want; d < -time.Second/2 || d > time.Second/2 {
			t.Errorf("%s: %v left, want %v", test.name, got, test.want)
		}
	}
}

// A build that goes exactly as the one that was measured is predicted exactly
// at the borders of the parts.
func TestNewPace(t *testing.T) {
	var at []time.Duration
	for i := range 1000 {
		at = append(at, time.Duration(i*i)*time.Microsecond)
	}
	total := time.Second
	p := newPace(at, total)
	if p.Packages != 1000 || p.Total != total || p.Shares[len(p.Shares)-1] != 1 {
		t.Fatalf("pace %+v", p)
	}
	for i := 50; i < 1000; i += 50 {
		if got, want := p.remaining(0, i, at[i]), total-at[i]; (got - want).Abs() > 3*time.Millisecond {
			t.Errorf("after %d packages %v left, want %v", i, got, want)
		}
	}
}

func TestUsualPace(t *testing.T) {
	last := 0.0
	for i, s := range usualPace.Shares {
		if s < last {
			t.Errorf("share %d is less than the one before", i)
		}
		last = s
	}
	if last != 1 || usualPace.Packages == 0 || usualPace.Total == 0 {
		t.Errorf("usual pace %+v", usualPace)
	}
}

func TestScaled(t *testing.T) {
	if p := even.scaled(105); p.Packages != 105 || p.Total != 105*time.Second || len(p.Shares) != len(even.Shares) {
		t.Errorf("a few packages more: %+v", p)
	}
	if p := even.scaled(10); p.Packages != 10 || p.Total != 10*time.Second || len(p.Shares) != 1 {
		t.Errorf("a small part: %+v", p)
	}
}

func testMeter(t *testing.T) func(packages int, whole bool) *meter {
	t.Helper()
	b := &builder{parts: at(t.TempDir() + "/version"), report: newReporter(nil)}
	if err := os.MkdirAll(b.parts.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return b.startMeter
}

// An interrupted compilation leaves how far it got, and the next one goes on
// from there.
func TestMeterResumes(t *testing.T) {
	start := testMeter(t)
	if m := start(1000, true); m.first != 0 {
		t.Errorf("the first meter starts at %d", m.first)
	} else {
		m.compiling("errors")
	}
	if m := start(10, false); m.first != 0 {
		t.Errorf("one of a part starts at %d", m.first)
	}
	m := start(1000, true)
	if m.first != 1 {
		t.Errorf("resumed after %d packages, want 1", m.first)
	}
	if err := m.stop(); err != nil {
		t.Fatal(err)
	}
	if m := start(1000, true); m.first != 0 {
		t.Errorf("after a complete one the next starts at %d", m.first)
	}
}

// A whole compilation from nothing is what the next one is estimated by; one
// that found most packages compiled is not.
func TestMeterLearns(t *testing.T) {
	start := testMeter(t)
	m := start(1000, true)
	m.compiling("errors")
	if err := m.stop(); err != nil {
		t.Fatal(err)
	}
	if m := start(1000, true); m.pace.Total < time.Minute {
		t.Errorf("one package of a thousand taught a pace of %v", m.pace.Total)
	}
	m = start(1000, true)
	for range 1000 {
		m.compiling("errors")
	}
	if err := m.stop(); err != nil {
		t.Fatal(err)
	}
	if m := start(1000, true); m.pace.Total > time.Minute {
		t.Errorf("a thousand packages in no time taught a pace of %v", m.pace.Total)
	}
}

func TestReporterWithoutTerminal(t *testing.T) {
	var out bytes.Buffer
	r := newReporter(&out)
	r.pass("first")
	r.pass("too soon after it")
	r.say("this stays")
	if got, want := out.String(), "0:00 first\n0:00 this stays\n"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
}

func TestIsProgress(t *testing.T) {
	for line, want := range map[string]bool{
		"k8s.io/api/core/v1":                 true,
		"errors":                             true,
		"go: downloading k8s.io/api v0.36.3": true,
		"":                                   false,
		"# k8s.io/api/core/v1":               false,
		"main.go:1:2: undefined: x":          false,
		"go: updates to go.mod needed":       false,
		"note: module requires Go 1.30":      false,
	} {
		if got := isProgress(line); got != want {
			t.Errorf("isProgress(%q) = %v", line, got)
		}
	}
}
