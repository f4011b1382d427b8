package build

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
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
// packages in elapsed. It trusts the pace at the beginning and what it sees of
// this machine more and more.
func (p pace) remaining(first, now int, elapsed time.Duration) time.Duration {
	from, to := p.share(first), p.share(now)
	total := float64(p.Total)
	if to > from && from < 1 {
		trust := (to - from) / (1 - from)
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
		p.Shares = append(p.Shares, float64(at[(len(at)-1)*i/parts])/float64(total))
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

// A meter follows one go build by its lines. Of a whole compilation it keeps, in
// the cache, how far it got (for the next one, if this one is interrupted) and how
// it went.
type meter struct {
	report *reporter
	whole  bool
	pace   pace
	dir    string // of this version
	root   string // of all versions: the pace outlives a change of pins
	start  time.Time
	first  int // packages that an interrupted compilation has left
	at     []time.Duration
	saved  time.Time
}

// startMeter begins to measure a compilation of so many packages, cached ones
// included.
func (b *builder) startMeter(packages int, whole bool) *meter {
	m := &meter{
		report: b.report, whole: whole,
		dir: b.parts.Dir, root: filepath.Dir(b.parts.Dir),
		pace: usualPace, start: time.Now(),
	}
	if data, err := os.ReadFile(m.paceFile()); err == nil {
		var p pace
		if json.Unmarshal(data, &p) == nil && p.Packages > 0 {
			m.pace = p
		}
	}
	m.pace = m.pace.scaled(packages)
	if data, err := os.ReadFile(m.countFile()); err == nil && whole {
		if n, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil {
			m.first = min(n, packages)
		}
	}
	return m
}

func (m *meter) paceFile() string  { return filepath.Join(m.root, "pace.json") }
func (m *meter) countFile() string { return filepath.Join(m.dir, "compiled") }

// compiling takes the name of the next package.
func (m *meter) compiling(pkg string) {
	elapsed := time.Since(m.start)
	m.at = append(m.at, elapsed)
	done := m.first + len(m.at)
	left := m.pace.remaining(m.first, done, elapsed)
	m.report.pass("compiling: %2.0f%%, about %s left: %s", 100*m.pace.share(done), clock(left), pkg)
	if m.whole && time.Since(m.saved) > time.Second {
		m.saved = time.Now()
		_ = os.WriteFile(m.countFile(), []byte(strconv.Itoa(done)), 0o644) // only an estimate depends on it
	}
}

// stop ends the measurement of a compilation that has succeeded. If it was whole
// and began with nothing, the next one is estimated by it.
func (m *meter) stop() error {
	if !m.whole {
		return nil
	}
	if m.first == 0 && len(m.at) > m.pace.Packages*9/10 {
		data, err := json.Marshal(newPace(m.at, time.Since(m.start)))
		if err == nil {
			err = os.WriteFile(m.paceFile(), append(data, '\n'), 0o644)
		}
		if err != nil {
			return err
		}
	}
	if err := os.Remove(m.countFile()); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
