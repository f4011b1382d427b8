package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Options of Ensure.
type Options struct {
	// Progress takes what a person wants to see; nil means nothing is shown. A
	// terminal gets a line that is rewritten, anything else a line now and then.
	Progress io.Writer
	// Only names the parts to build, such as "etcd" or "sample-image"; what they
	// need is built too. Empty means all.
	Only []string
}

// Ensure builds the parts that are missing and returns where they lie. The
// programs of the checkout and the images are also brought up to date with what they are made of.
// With everything in place it takes about a second. Only one Ensure works at a
// time on one version; others wait for it.
func Ensure(ctx context.Context, o Options) (Parts, error) {
	src, err := findSource()
	if err != nil {
		return Parts{}, err
	}
	chosen, err := selected(o.Only)
	if err != nil {
		return Parts{}, err
	}
	parts, err := src.parts()
	if err != nil {
		return Parts{}, err
	}
	for _, dir := range []string{parts.CNI, parts.Images} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return Parts{}, err
		}
	}
	b := &builder{source: src, parts: parts, report: newReporter(o.Progress)}
	unlock, err := b.lock(ctx)
	if err != nil {
		return Parts{}, err
	}
	defer unlock()
	return parts, b.ensure(ctx, chosen)
}

// A builder does the work of one Ensure.
type builder struct {
	source source
	parts  Parts
	report *reporter
	istio  string // the directory of Istio's module, once it is known
}

// ensure compiles while packages and wheels are being fetched, and writes the
// images when all is there.
func (b *builder) ensure(ctx context.Context, chosen []target) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var work sync.WaitGroup
	start := func(f func() error) {
		work.Go(func() {
			if err := f(); err != nil {
				cancel(err)
			}
		})
	}
	missing := b.missing(chosen)
	if slices.ContainsFunc(missing, func(t target) bool { return t.machine }) {
		start(func() error {
			if err := b.installPackages(ctx); err != nil {
				return err
			}
			return b.fetch(ctx, ofKind(missing, debian, wheel))
		})
	}
	if programs := ofKind(missing, program, plugin); len(programs) > 0 {
		start(func() error { return b.compile(ctx, programs) })
	}
	work.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	for _, t := range ofKind(chosen, own) {
		if err := b.compileOwn(ctx, t); err != nil {
			return err
		}
	}
	for _, t := range ofKind(chosen, picture) {
		if err := b.writeImage(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) fetch(ctx context.Context, ts []target) error {
	for _, t := range ts {
		var err error
		switch t.kind {
		case debian:
			err = b.copyRunc(t)
		case wheel:
			b.report.say("fetching %s", t.name)
			err = b.fetchWheel(ctx, t)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// missing returns those targets of which a file is not there.
func (b *builder) missing(ts []target) []target {
	names := b.parts.missing(ts)
	var found []target
	for _, t := range ts {
		if slices.Contains(names, t.name) {
			found = append(found, t)
		}
	}
	return found
}

// lock waits until no other process builds this version.
func (b *builder) lock(ctx context.Context) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(b.parts.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	const interval = 200 * time.Millisecond
	for told := false; ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
		}
		if !told {
			b.report.say("another lab build is at work on %s: waiting for it", b.parts.Dir)
			told = true
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(interval):
		}
	}
}

// Prune removes the parts of other pins than this checkout's from the cache, and
// returns their directories. A running lab that was started from one of them
// cannot restart its programs afterwards.
func Prune() ([]string, error) {
	current, err := Default()
	if err != nil {
		return nil, err
	}
	locks, err := filepath.Glob(filepath.Join(filepath.Dir(current.Dir), "*", "lock"))
	if err != nil {
		return nil, err
	}
	var removed []string
	for _, lock := range locks {
		dir := filepath.Dir(lock)
		if dir == current.Dir {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return removed, err
		}
		removed = append(removed, dir)
	}
	return removed, nil
}
