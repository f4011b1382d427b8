package labs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/isthmus-mesh/isthmus/lab/internal/network"
	"github.com/isthmus-mesh/isthmus/lab/internal/topology"
)

// Down takes a lab down, whatever state it is in, and removes everything of it from the machine.
func Down(name string) error {
	if err := topology.CheckName("lab", name); err != nil {
		return err
	}
	unlock, err := lock(dirOf(name), false)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("lab %q: %w", name, ErrNotFound)
	}
	if err != nil {
		return err
	}
	defer unlock()
	l, err := Open(name)
	if errors.Is(err, ErrNotFound) { // killed before anything was made
		return os.RemoveAll(dirOf(name))
	}
	if err != nil {
		return err
	}
	return l.remove()
}

func (l *Lab) remove() error {
	// Without the mark a crash in here leaves a lab that says what it is: incomplete.
	if err := os.RemoveAll(filepath.Join(l.Dir(), readyFile)); err != nil {
		return err
	}
	clusters, err := l.Select("")
	if err != nil {
		return err
	}
	errs := make([]error, len(clusters))
	var wg sync.WaitGroup
	for i, c := range clusters {
		wg.Go(func() { errs[i] = c.Kill() })
	}
	wg.Wait()
	if err := errors.Join(append(errs, network.RemoveBridge(l.Lab))...); err != nil {
		return err
	}
	return os.RemoveAll(l.Dir())
}
