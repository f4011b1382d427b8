package build

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A pace is the course of one cold compilation: how many packages there were,
// how long it took, and how time went by over the packages. Time is not
// proportional to packages: those that others wait for are small and come first.
type pace struct {
	Packages int           `json:"packages"`
	Total    time.Duration `json:"total"` // nanoseconds
	// Shares[i] is the share of Total that had passed when i+1 of len(Shares)
	// equal parts of the packages were compiled. It ends with 1.
	Shares []float64 `json:"shares"`
}

// share returns the part of the time, 0 to 1, that a number of packages stands
// for.
func (p pace) share(packages int) float64 {
	if p.Packages == 0 || len(p.Shares) == 0 || packages <= 0 {
		return 0
	}
	x := float64(packages) / float64(p.Packages) * float64(len(p.Shares))
	i := int(x)
	if i >= len(p.Shares) {
		return 1
	}
	low := 0.0
	if i > 0 {
		low = p.Shares[i-1]
	}
	return low + (p.Shares[i]-low)*(x-float64(i))
}

// remaining estimates what is still to come, having compiled from first to now
// packages in elapsed. At the beginning it trusts the pace, after a fifth of the
// way what it has seen of this machine.
func (p pace) remaining(first, now int, elapsed time.Duration) time.Duration {
	from, to := p.share(first), p.share(now)
	total := float64(p.Total)
	if to > from && from < 1 {
		trust := min(1, 5*(to-from)/(1-from))
		total = (1-trust)*total + trust*float64(elapsed)/(to-from)
	}
	return time.Duration(total * (1 - to))
}

// scaled returns the pace of a compilation of another number of packages. Of a
// small part of them nothing is known but the number.
func (p pace) scaled(packages int) pace {
	if p.Packages == 0 || packages == 0 {
		return p
	}
	factor := float64(packages) / float64(p.Packages)
	p.Packages, p.Total = packages, time.Duration(factor*float64(p.Total))
	if factor < 0.9 {
		p.Shares = []float64{1}
	}
	return p
}

// newPace sums up a compilation whose packages were compiled at these times
// after its start.
func newPace(at []time.Duration, total time.Duration) pace {
	const parts = 20
	p := pace{Packages: len(at), Total: total}
	for i := 1; i < parts && len(at) > 0; i++ {
		p.Shares = append(p.Shares, float64(at[len(at)*i/parts])/float64(total))
	}
	p.Shares = append(p.Shares, 1)
	return p
}

// A reporter tells a person what goes on: on a terminal in one line that is
// rewritten, else in a line now and then.
type reporter struct {
	mu       sync.Mutex
	w        io.Writer
	terminal bool
	open     bool // the last line on the terminal is going to be rewritten
	last     time.Time
	start    time.Time
}

func newReporter(w io.Writer) *reporter {
	if w == nil {
		w = io.Discard
	}
	r := &reporter{w: w, start: time.Now()}
	if f, ok := w.(*os.File); ok {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		r.terminal = err == nil
	}
	return r
}

// say prints a line that stays.
func (r *reporter) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open {
		fmt.Fprint(r.w, "\r\x1b[K")
		r.open = false
	}
	fmt.Fprintf(r.w, "%s %s\n", clock(time.Since(r.start)), fmt.Sprintf(format, args...))
}

// pass prints a line that the next one replaces; where lines cannot be replaced
// it prints one every ten seconds.
func (r *reporter) pass(format string, args ...any) {
	interval := 10 * time.Second
	if r.terminal {
		interval = 100 * time.Millisecond
	}
	r.mu.Lock()
	due := time.Since(r.last) >= interval
	if due {
		r.last = time.Now()
	}
	r.mu.Unlock()
	switch {
	case !due:
	case !r.terminal:
		r.say(format, args...)
	default:
		r.mu.Lock()
		defer r.mu.Unlock()
		const width = 100
		line := fmt.Sprintf("%s %s", clock(time.Since(r.start)), fmt.Sprintf(format, args...))
		fmt.Fprintf(r.w, "\r\x1b[K%.*s", width, line)
		r.open = true
	}
}

// clock writes a duration as minutes and seconds.
func clock(d time.Duration) string {
	s := int(d.Round(time.Second).Seconds())
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}

// A meter follows one go build by the packages that it names. It keeps their
// names with the version, so that the next build (after an interruption, or of
// other parts) knows what is in Go's cache, and the pace of a build from nothing
// for all versions.
type meter struct {
	report *reporter
	known  *os.File // names of compiled packages, one a line
	pacing string   // the file of the pace
	pace   pace
	start  time.Time
	whole  bool
	first  int // packages that were compiled before
	at     []time.Duration
}

// startMeter begins to measure a build that consists of these packages. A whole
// build is one of all programs.
func (b *builder) startMeter(packages []string, whole bool) (*meter, error) {
	m := &meter{
		report: b.report,
		pacing: filepath.Join(filepath.Dir(b.parts.Dir), "pace.json"),
		pace:   usualPace,
		start:  time.Now(),
		whole:  whole,
	}
	if data, err := os.ReadFile(m.pacing); err == nil {
		var p pace
		if json.Unmarshal(data, &p) == nil && p.Packages > 0 {
			m.pace = p
		}
	}
	m.pace = m.pace.scaled(len(packages))

	known := filepath.Join(b.parts.Dir, "compiled")
	names, err := os.ReadFile(known)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	compiled := map[string]bool{}
	for name := range strings.Lines(string(names)) {
		compiled[strings.TrimSuffix(name, "\n")] = true
	}
	for _, p := range packages {
		if compiled[p] {
			m.first++
		}
	}
	m.known, err = os.OpenFile(known, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	return m, err
}

// compiling takes the name of the next package.
func (m *meter) compiling(pkg string) {
	elapsed := time.Since(m.start)
	m.at = append(m.at, elapsed)
	done := m.first + len(m.at)
	left := m.pace.remaining(m.first, done, elapsed)
	m.report.pass("compiling: %2.0f%%, about %s left: %s", 100*m.pace.share(done), clock(left), pkg)
	fmt.Fprintln(m.known, pkg) // only an estimate depends on it
}

// stop ends the measurement. The next build is estimated by this one if it was
// whole, began with nothing and has succeeded.
func (m *meter) stop(succeeded bool) error {
	if err := m.known.Close(); err != nil {
		return err
	}
	if !succeeded || !m.whole || len(m.at) < m.pace.Packages*9/10 {
		return nil
	}
	data, err := json.Marshal(newPace(m.at, time.Since(m.start)))
	if err != nil {
		return err
	}
	return os.WriteFile(m.pacing, append(data, '\n'), 0o644)
}
