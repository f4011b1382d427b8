package build

import (
	"bytes"
	"fmt"
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
		{"half as fast, half of it believed", 0, 10, 20 * time.Second, 135 * time.Second},
		{"half as fast, all of it believed", 0, 50, 100 * time.Second, 100 * time.Second},
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

// testMeter returns a function that starts meters of one version.
func testMeter(t *testing.T) func(packages []string, whole bool) *meter {
	t.Helper()
	b := &builder{parts: at(t.TempDir() + "/version"), report: newReporter(nil)}
	if err := os.MkdirAll(b.parts.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return func(packages []string, whole bool) *meter {
		t.Helper()
		m, err := b.startMeter(packages, whole)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
}

// What one build has compiled the next one need not, whether the first was
// interrupted or was one of other parts.
func TestMeterResumes(t *testing.T) {
	start := testMeter(t)
	m := start([]string{"errors", "io", "fmt"}, true)
	if m.first != 0 {
		t.Errorf("the first build starts after %d packages", m.first)
	}
	m.compiling("errors")
	m.compiling("io")
	if err := m.stop(false); err != nil {
		t.Fatal(err)
	}
	if m := start([]string{"errors", "io", "fmt"}, true); m.first != 2 {
		t.Errorf("the resumed build starts after %d packages, want 2", m.first)
	}
	if m := start([]string{"io", "os"}, false); m.first != 1 {
		t.Errorf("a build of another part starts after %d packages, want 1", m.first)
	}
}

// A whole build from nothing is what the next one is estimated by; no other is.
func TestMeterLearns(t *testing.T) {
	packages := make([]string, usualPace.Packages)
	for i := range packages {
		packages[i] = fmt.Sprint("p", i)
	}
	for _, test := range []struct {
		name             string
		whole, succeeded bool
		compiled         []string
		learns           bool
	}{
		{"whole", true, true, packages, true},
		{"whole, most of it cached", true, true, packages[:100], false},
		{"whole, failed at the end", true, false, packages, false},
		{"of one part", false, true, packages, false},
	} {
		start := testMeter(t)
		m := start(packages, test.whole)
		for _, p := range test.compiled {
			m.compiling(p)
		}
		if err := m.stop(test.succeeded); err != nil {
			t.Fatal(err)
		}
		// Nothing was compiled here, so a pace that was learned is a fast one.
		if learned := start(packages, true).pace.Total < time.Minute; learned != test.learns {
			t.Errorf("%s: learned is %v, want %v", test.name, learned, test.learns)
		}
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
