package meshctl

import (
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/term"
)

// progress tells on stderr what has been done and, on a terminal, what is being waited for.
type progress struct {
	mu   sync.Mutex
	w    io.Writer
	live bool
	// verbose tells details too.
	verbose bool
	last    string
}

func newProgress(w io.Writer) *progress {
	return &progress{w: w, live: isTerminal(w)}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// did reports a step that is complete.
func (p *progress) did(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	_, _ = fmt.Fprintf(p.w, format+"\n", args...)
}

// waits reports what is being waited for; it stays until the next report.
func (p *progress) waits(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.live || what == p.last {
		return
	}
	p.clear()
	p.last = what
	_, _ = fmt.Fprintf(p.w, "… %s", what)
}

// hide takes away what is being waited for, until the next report.
func (p *progress) hide() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
}

// clear removes the line of waits.
func (p *progress) clear() {
	if p.live && p.last != "" {
		_, _ = fmt.Fprint(p.w, "\r\x1b[K")
	}
	p.last = ""
}

// details reports what only somebody who looks for a fault wants to know.
func (p *progress) details(format string, args ...any) {
	if p.verbose {
		p.did("  "+format, args...)
	}
}
