package build

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// emptyCache sets a cache without parts, but with what Go has compiled: Go's own
// cache follows XDG_CACHE_HOME too.
func emptyCache(t *testing.T) {
	t.Helper()
	compiled, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOCACHE", strings.TrimSpace(string(compiled)))
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
}

// Ensure for real, with the smallest program there is.
func TestEnsure(t *testing.T) {
	emptyCache(t)
	only := []string{"pause-image"}
	var said bytes.Buffer
	parts, err := Ensure(t.Context(), Options{Progress: &said, Only: only})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said.String(), "writing image lab.local/pause:1") {
		t.Errorf("the image is not spoken of:\n%s", said.String())
	}
	image := filepath.Join(parts.Images, "pause.tar")
	if ref, err := os.ReadFile(image + ".ref"); err != nil || string(ref) != "lab.local/pause:1\n" {
		t.Errorf("reference %q, %v", ref, err)
	}
	for _, name := range parts.Missing() {
		if name == "pause" || name == "pause-image" {
			t.Errorf("%s counts as missing", name)
		}
	}
	before := times(t, image, filepath.Join(parts.Bin, "pause"))

	said.Reset()
	if _, err := Ensure(t.Context(), Options{Progress: &said, Only: only}); err != nil {
		t.Fatal(err)
	}
	if said.Len() > 0 {
		t.Errorf("with everything in place it did this:\n%s", said.String())
	}
	for file, at := range times(t, image, filepath.Join(parts.Bin, "pause")) {
		if !at.Equal(before[file]) {
			t.Errorf("%s was written again", file)
		}
	}
}

func times(t *testing.T, files ...string) map[string]time.Time {
	t.Helper()
	at := map[string]time.Time{}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		at[f] = info.ModTime()
	}
	return at
}

// Whoever comes second waits until the first is done, or until it is told not to.
func TestLock(t *testing.T) {
	var said bytes.Buffer
	b := &builder{parts: at(t.TempDir()), report: newReporter(&said)}
	unlock, err := b.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.lock(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second lock gave %v", err)
	}
	if !strings.Contains(said.String(), "waiting for it") {
		t.Errorf("the one that waits said %q", said.String())
	}
	unlock()
	unlock, err = b.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

// What the go command complains about reaches the user.
func TestRunGoFails(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"go.mod": "module x\n\ngo 1.26\n", "main.go": "package main\n\nfunc main() { missing() }\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	err := runGo(t.Context(), dir, []string{"build", "-o", os.DevNull, "."}, nil, func(string) {})
	if err == nil || !strings.Contains(err.Error(), "undefined: missing") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := runGo(ctx, dir, []string{"build", "."}, nil, func(string) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled, got %v", err)
	}
}

func TestPrune(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	current, err := Default()
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Dir(current.Dir)
	old, other := filepath.Join(root, "0123456789ab"), filepath.Join(root, "not-a-version")
	for _, file := range []string{filepath.Join(current.Dir, "lock"), filepath.Join(old, "lock"), filepath.Join(other, "file")} {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	removed, err := Prune()
	if err != nil || len(removed) != 1 || removed[0] != old {
		t.Errorf("removed %q, %v", removed, err)
	}
	for dir, want := range map[string]bool{current.Dir: true, old: false, other: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// A program of former pins is taken over if it would come out the same, and is
// itself left alone if it would not.
func TestFormerPrograms(t *testing.T) {
	emptyCache(t)
	build := func() string {
		t.Helper()
		parts, err := Ensure(t.Context(), Options{Only: []string{"pause"}})
		if err != nil {
			t.Fatal(err)
		}
		return filepath.Join(parts.Bin, "pause")
	}
	current := build()
	version := filepath.Dir(filepath.Dir(current))
	former := filepath.Join(filepath.Dir(version), "0123456789ab")
	if err := os.Rename(version, former); err != nil {
		t.Fatal(err)
	}
	same := func() bool {
		t.Helper()
		a, err := os.Stat(build())
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.Stat(filepath.Join(former, "bin", "pause"))
		if err != nil {
			t.Fatal(err)
		}
		return os.SameFile(a, b)
	}
	if !same() {
		t.Error("the same program was built again")
	}

	if err := os.RemoveAll(version); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(former, "bin", "pause"), other, 0o755); err != nil {
		t.Fatal(err)
	}
	if same() {
		t.Error("another program was taken over")
	}
	if now, err := os.ReadFile(filepath.Join(former, "bin", "pause")); err != nil || !bytes.Equal(now, other) {
		t.Errorf("the former program was changed: %d bytes, %v", len(now), err)
	}
}
