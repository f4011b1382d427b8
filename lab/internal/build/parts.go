// Package build makes the parts that a lab runs: the programs of Kubernetes,
// containerd, etcd and Istio, Envoy, and the container images, once for every
// set of pinned versions.
//
// What is pinned lies in lab/parts of the checkout: a Go module (go.mod,
// go.sum) and the requirements of Python's package index for Envoy, which is
// published there as a wheel. Compiled packages are kept in Go's own build
// cache, so that an interrupted build goes on where it stopped and a changed
// pin compiles only what depends on it. Only Debian's packages are taken in the
// version that the machine has.
//
// The package knows nothing about clusters.
package build

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Parts says where the built things lie.
type Parts struct {
	Dir    string // everything of one set of pins
	Bin    string // etcd, kube-apiserver, kubelet, containerd, runc, kubectl, istioctl, envoy ...
	CNI    string // the network plugins: bridge, host-local, loopback, portmap
	Images string // NAME.tar, and its reference in NAME.tar.ref
}

// Default returns where the parts of this checkout lie, whether they have been
// built or not: $XDG_CACHE_HOME/isthmus-lab/VERSION.
func Default() (Parts, error) {
	src, err := findSource()
	if err != nil {
		return Parts{}, err
	}
	return src.parts()
}

func at(dir string) Parts {
	return Parts{
		Dir:    dir,
		Bin:    filepath.Join(dir, "bin"),
		CNI:    filepath.Join(dir, "bin", "cni"),
		Images: filepath.Join(dir, "images"),
	}
}

// Version names the set of pins: two checkouts that pin the same share their
// parts.
func (p Parts) Version() string { return filepath.Base(p.Dir) }

// Missing returns the names of the parts that are not there yet, as Options.Only
// takes them.
func (p Parts) Missing() []string {
	var missing []string
	for _, t := range targets {
		for _, f := range t.files() {
			if _, err := os.Stat(filepath.Join(p.Dir, f)); err != nil {
				missing = append(missing, t.name)
				break
			}
		}
	}
	return missing
}

// source is the checkout's directory lab, a Go module with the module of the
// parts below it.
type source string

// findSource looks for the checkout upwards from the program's file (bin/lab)
// and from the working directory (go test, go run).
func findSource() (source, error) {
	var starts []string
	if exe, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(exe))
	}
	if wd, err := os.Getwd(); err == nil {
		starts = append(starts, wd)
	}
	for _, dir := range starts {
		for ; ; dir = filepath.Dir(dir) {
			lab := filepath.Join(dir, "lab")
			if _, err := os.Stat(filepath.Join(lab, "parts", "go.mod")); err == nil {
				return source(lab), nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", fmt.Errorf("lab/parts/go.mod not found above %s: run lab from its checkout", strings.Join(starts, " or "))
}

func (s source) pins() string { return filepath.Join(string(s), "parts") }

func (s source) parts() (Parts, error) {
	version, err := hash(os.DirFS(s.pins()), recipe())
	if err != nil {
		return Parts{}, fmt.Errorf("reading the pins: %w", err)
	}
	root, err := cacheRoot()
	if err != nil {
		return Parts{}, err
	}
	return at(filepath.Join(root, version)), nil
}

// cacheRoot is the directory below which every version has its own.
func cacheRoot() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no place for the built parts, set XDG_CACHE_HOME: %w", err)
	}
	return filepath.Join(cache, "isthmus-lab"), nil
}

// hash returns twelve hexadecimal digits that stand for the content of all pinned
// files (Go's and pip's, whatever else lies there) and for the words of the recipe.
func hash(files fs.FS, recipe []string) (string, error) {
	h := sha256.New()
	for _, word := range recipe {
		fmt.Fprintf(h, "%q\n", word)
	}
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !slices.Contains(pinned, path.Ext(name)) {
			return err
		}
		content, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %x\n", name, sha256.Sum256(content))
		return nil
	})
	return fmt.Sprintf("%x", h.Sum(nil))[:12], err
}

// pinned are the extensions of the files that hash reads.
var pinned = []string{".go", ".mod", ".sum", ".txt"}

// recipe is what decides, besides the pinned files, about what is built.
func recipe() []string {
	return slices.Concat([]string{runtime.GOOS, runtime.GOARCH, linkerFlags(), tags}, compilerFlags)
}

// A target is one thing that can be built by name.
type target struct {
	name  string
	kind  kind
	pkg   string   // the Go package of a program, as seen from lab/parts
	needs []string // targets that must be there before

	machine bool // made with programs of the machine
}

type kind int

const (
	program kind = iota // compiled from lab/parts
	plugin              // a program that goes to bin/cni
	sample              // the workload, compiled from the checkout's own lab/cmd/sample
	debian              // copied from the machine
	wheel               // from Python's package index
	picture             // a container image
)

var targets = []target{
	{name: "etcd", pkg: "./etcd"},
	{name: "kube-apiserver", pkg: "k8s.io/kubernetes/cmd/kube-apiserver"},
	{name: "kubectl", pkg: "k8s.io/kubernetes/cmd/kubectl"},
	{name: "kube-controller-manager", pkg: "k8s.io/kubernetes/cmd/kube-controller-manager"},
	{name: "kube-scheduler", pkg: "k8s.io/kubernetes/cmd/kube-scheduler"},
	{name: "kube-proxy", pkg: "k8s.io/kubernetes/cmd/kube-proxy"},
	{name: "kubelet", pkg: "k8s.io/kubernetes/cmd/kubelet"},
	{name: "containerd", pkg: "github.com/containerd/containerd/v2/cmd/containerd"},
	{name: "containerd-shim-runc-v2", pkg: "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"},
	{name: "ctr", pkg: "github.com/containerd/containerd/v2/cmd/ctr"},
	{name: "pilot-discovery", pkg: "istio.io/istio/pilot/cmd/pilot-discovery"},
	{name: "pilot-agent", pkg: "istio.io/istio/pilot/cmd/pilot-agent"},
	{name: "istioctl", pkg: "istio.io/istio/istioctl/cmd/istioctl"},
	{name: "coredns", pkg: "./coredns"},
	{name: "pause", pkg: "./pause"},
	{name: "bridge", kind: plugin, pkg: "github.com/containernetworking/plugins/plugins/main/bridge"},
	{name: "loopback", kind: plugin, pkg: "github.com/containernetworking/plugins/plugins/main/loopback"},
	{name: "host-local", kind: plugin, pkg: "github.com/containernetworking/plugins/plugins/ipam/host-local"},
	{name: "portmap", kind: plugin, pkg: "github.com/containernetworking/plugins/plugins/meta/portmap"},
	{name: "runc", kind: debian, machine: true},
	{name: "envoy", kind: wheel, machine: true},
	{name: "sample", kind: sample},
	{name: "pause-image", kind: picture, needs: []string{"pause"}},
	{name: "coredns-image", kind: picture, needs: []string{"coredns"}},
	{name: "pilot-image", kind: picture, needs: []string{"pilot-discovery"}},
	{name: "proxyv2-image", kind: picture, needs: []string{"pilot-agent", "envoy"}, machine: true},
	{name: "sample-image", kind: picture, needs: []string{"sample"}},
}

// files returns what the target consists of, relative to Parts.Dir.
func (t target) files() []string {
	switch t.kind {
	case plugin:
		return []string{"bin/cni/" + t.name}
	case picture:
		tar := "images/" + strings.TrimSuffix(t.name, "-image") + ".tar"
		return []string{tar, tar + ".ref"}
	default:
		return []string{"bin/" + t.name}
	}
}

// selected returns the targets of these names and what they need, in the order
// of the list; no names mean all.
func selected(names []string) ([]target, error) {
	if len(names) == 0 {
		return targets, nil
	}
	want := map[string]bool{}
	var unknown []error
	for _, name := range names {
		i := slices.IndexFunc(targets, func(t target) bool { return t.name == name })
		if i < 0 {
			unknown = append(unknown, fmt.Errorf("there is no part %q (see lab build --list)", name))
			continue
		}
		want[name] = true
		for _, need := range targets[i].needs {
			want[need] = true
		}
	}
	var chosen []target
	for _, t := range targets {
		if want[t.name] {
			chosen = append(chosen, t)
		}
	}
	return chosen, errors.Join(unknown...)
}

func ofKind(ts []target, kinds ...kind) []target {
	var found []target
	for _, t := range ts {
		if slices.Contains(kinds, t.kind) {
			found = append(found, t)
		}
	}
	return found
}
