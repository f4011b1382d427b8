package testenv

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// Journal keeps what the programs under test log, for tests to look into. A test that failed tells the end of it after all else, so
// that what failed is read before what led to it.
type Journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// NewJournal makes a journal of what is logged in this process. There can be but one: the first logger that controller-runtime is
// given stays.
func NewJournal() *Journal {
	j := &Journal{}
	log.SetLogger(logr.FromSlogHandler(slog.NewTextHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug})))
	return j
}

// toldLines is how many lines a failed test tells.
const toldLines = 200

// Of begins anew for a test, which tells the end of the journal if it failed.
func (j *Journal) Of(t testing.TB) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.text.Reset()
	t.Cleanup(func() {
		if t.Failed() {
			lines := strings.Split(j.String(), "\n")
			t.Logf("what was logged last:\n%s", strings.Join(lines[max(0, len(lines)-toldLines):], "\n"))
		}
	})
}

// Write adds to the journal.
func (j *Journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

// String is what was logged since the test began.
func (j *Journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}
