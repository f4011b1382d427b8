package build

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Versions that the programs report of themselves. The modules are pinned in
// lab/parts/go.mod; Istio is pinned by commit there.
const (
	kubernetesVersion = "1.36.3"
	istioVersion      = "1.31.1"
	corednsVersion    = "1.15.0"

	baoVersion         = "2.7.2"  // in lab/wheels
	certManagerVersion = "1.21.2" // in lab/certmanager
)

// tags leave code out that a lab has no use for: the validators of Envoy's
// protocol (which are half of it, and which Istio leaves out too), request
// tracing pages, and snapshotters that need other file systems.
const tags = "disable_pgv,grpcnotrace,retrynotrace,no_btrfs,no_devmapper,no_zfs,no_aufs"

// compilerFlags: no DWARF is made, since the linker would strip it; paths and
// the checkout's commit do not get into a program.
var compilerFlags = []string{"-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false"}

func linkerFlags() string {
	flags := []string{"-s", "-w"}
	set := func(pkg, name, value string) { flags = append(flags, "-X", pkg+"."+name+"="+value) }
	major, rest, _ := strings.Cut(kubernetesVersion, ".")
	minor, _, _ := strings.Cut(rest, ".")
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		set(pkg, "gitVersion", "v"+kubernetesVersion)
		set(pkg, "gitMajor", major)
		set(pkg, "gitMinor", minor)
		set(pkg, "gitTreeState", "clean")
	}
	istio := "istio.io/istio/pkg/version"
	set(istio, "buildVersion", istioVersion)
	set(istio, "buildTag", istioVersion)
	set(istio, "buildHub", imageHub)
	set(istio, "buildStatus", "Clean")
	return strings.Join(flags, " ")
}

// compile builds the programs among the targets with one call of go build: links
// then run beside the compiling of what is still missing.
func (b *builder) compile(ctx context.Context, programs []target) error {
	staging := filepath.Join(b.parts.Dir, "staging")
	if err := os.RemoveAll(staging); err != nil {
		return err
	}
	defer os.RemoveAll(staging)
	if err := os.MkdirAll(staging, 0o755); err != nil {
		return err
	}
	if err := b.stageFormer(staging, programs); err != nil {
		return err
	}
	packages, err := b.listPackages(ctx, programs)
	if err != nil {
		return err
	}
	b.report.say("compiling %d programs into %s", len(programs), b.parts.Bin)
	args := []string{"build", "-v", "-tags=" + tags, "-ldflags=" + linkerFlags(), "-o", staging + "/"}
	args = append(args, compilerFlags...)
	meter, err := b.startMeter(packages, len(programs) == len(ofKind(targets, program, plugin)))
	if err != nil {
		return err
	}
	err = runGo(ctx, b.source.pins(), append(args, goPackages(programs)...), nil, meter.compiling)
	if err := errors.Join(err, meter.stop(err == nil)); err != nil {
		return err
	}
	for _, p := range programs {
		dst := filepath.Join(b.parts.Dir, p.files()[0])
		if err := os.Rename(filepath.Join(staging, p.name), dst); err != nil {
			return err
		}
	}
	return nil
}

// stageFormer puts the programs of former pins where new ones will be written: go
// build leaves alone what would come out the same, and replaces the rest.
func (b *builder) stageFormer(staging string, programs []target) error {
	for _, p := range programs {
		former, err := filepath.Glob(filepath.Join(filepath.Dir(b.parts.Dir), "*", p.files()[0]))
		if err != nil {
			return err
		}
		if file := newest(former); file != "" {
			if err := os.Link(file, filepath.Join(staging, p.name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// listPackages returns the packages of which the programs consist, and downloads
// the modules that have them.
func (b *builder) listPackages(ctx context.Context, programs []target) ([]string, error) {
	var listed bytes.Buffer
	modules := 0
	args := append([]string{"list", "-deps", "-tags=" + tags}, goPackages(programs)...)
	err := runGo(ctx, b.source.pins(), args, &listed, func(line string) {
		modules++
		b.report.pass("downloading modules: %d, %s", modules, strings.TrimPrefix(line, "go: downloading "))
	})
	return strings.Fields(listed.String()), err
}

func goPackages(programs []target) []string {
	var pkgs []string
	for _, p := range programs {
		pkgs = append(pkgs, p.pkg)
	}
	return pkgs
}

// compileOwn builds a program of the checkout. It is built every time (a second
// or two if nothing has changed), and left alone when it comes out the same, so
// that its image is too.
func (b *builder) compileOwn(ctx context.Context, t target) error {
	dst := filepath.Join(b.parts.Dir, t.files()[0])
	if !isFile(dst) {
		b.report.say("compiling %s", t.name)
	}
	fresh := dst + ".new"
	defer os.Remove(fresh)
	dir, pkg := string(b.source), t.pkg
	if module := filepath.Join(dir, t.pkg); isFile(filepath.Join(module, "go.mod")) {
		dir, pkg = module, "."
	}
	// Tags as for the programs: what they have compiled of gRPC and Kubernetes is used again.
	args := append([]string{"build", "-tags=" + tags, "-ldflags=-s -w", "-o", fresh}, compilerFlags...)
	err := runGo(ctx, dir, append(args, pkg), nil, func(line string) {
		if module, downloads := strings.CutPrefix(line, "go: downloading "); downloads {
			b.report.pass("downloading %s", module)
		}
	})
	if err != nil {
		return err
	}
	if t.name == "cert-manager" {
		if err := b.copyDefinitions(ctx, dir, filepath.Join(b.parts.Dir, t.files()[1])); err != nil {
			return err
		}
	}
	if same, err := sameContent(fresh, dst); err != nil || same {
		return err
	}
	return os.Rename(fresh, dst)
}

// copyDefinitions writes cert-manager's custom resource definitions, which its
// module has, into one file.
func (b *builder) copyDefinitions(ctx context.Context, dir, dst string) error {
	var module bytes.Buffer
	const name = "github.com/cert-manager/cert-manager"
	if err := runGo(ctx, dir, []string{"list", "-m", "-f", "{{.Dir}}", name}, &module, func(string) {}); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(module.String()), "deploy", "crds", "*.yaml"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("the module %s has no deploy/crds/*.yaml: %w", name, err)
	}
	var all bytes.Buffer
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		fmt.Fprintf(&all, "---\n%s\n", content)
	}
	if old, err := os.ReadFile(dst); err == nil && bytes.Equal(old, all.Bytes()) {
		return nil
	}
	return os.WriteFile(dst, all.Bytes(), 0o644)
}

// runGo runs the go command in dir. Lines of its standard error that are not
// about progress are the reason if it fails. The caller's GOFLAGS do not apply:
// what comes out depends on the pins alone.
func runGo(ctx context.Context, dir string, args []string, stdout io.Writer, progress func(line string)) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second // compilers that go build has started
	cmd.Stdout = stdout
	r, w := io.Pipe()
	cmd.Stderr = w
	var complaint tail
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines := bufio.NewScanner(r); lines.Scan(); {
			if line := lines.Text(); isProgress(line) {
				progress(line)
			} else {
				complaint.add(line)
			}
		}
		_, _ = io.Copy(io.Discard, r) // after an overlong line
	})
	err := cmd.Run()
	w.Close()
	reading.Wait()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return errors.New("the go command is missing: install Go 1.26 or later (https://go.dev/dl)")
	case err != nil:
		return fmt.Errorf("go %s in %s: %w\n%s", args[0], dir, err, complaint.String())
	}
	return nil
}

// isProgress tells go build's "go: downloading ..." and package names from what
// it complains about.
func isProgress(line string) bool {
	return strings.HasPrefix(line, "go: downloading ") || line != "" && !strings.ContainsAny(line, " \t#")
}

// tail keeps the last lines of something long.
type tail []string

func (t *tail) add(line string) {
	const most = 30
	*t = append(*t, line)
	if n := len(*t); n > most {
		*t = (*t)[n-most:]
	}
}

func (t *tail) String() string { return strings.Join(*t, "\n") }
