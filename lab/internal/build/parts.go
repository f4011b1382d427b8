// Package build makes the parts that a lab runs: the programs of Kubernetes,
// containerd, etcd and Istio, Envoy, and the container images, once for every
// set of pinned versions.
//
// What is pinned lies in lab/parts of the checkout: a Go module (go.mod,
// go.sum) and the requirements of Python's package index for Envoy, which is
// published there as a wheel; and in lab/wheels and lab/certmanager for what tests
// run beside clusters or in them: OpenBao and cert-manager. Compiled packages are kept in Go's own build
// cache, so that an interrupted build goes on where it stopped and a changed
// pin compiles only what depends on it. Only Debian's packages are taken in the
// version that the machine has.
//
// The package knows nothing about clusters.
package build

import (
	"os"
	"path/filepath"
)

// Parts says where the built things lie.
type Parts struct {
	Dir    string // everything of one set of pins
	Bin    string // etcd, kube-apiserver, kubelet, containerd, runc, kubectl, istioctl, envoy, bao-VERSION, cert-manager-VERSION ...
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

// Missing returns the names of the parts of a lab that are not there yet, as
// Options.Only takes them.
func (p Parts) Missing() []string {
	all, _ := selected(nil)
	return p.missing(all)
}

func (p Parts) missing(ts []target) []string {
	var missing []string
	for _, t := range ts {
		for _, f := range t.files() {
			if _, err := os.Stat(filepath.Join(p.Dir, f)); err != nil {
				missing = append(missing, t.name)
				break
			}
		}
	}
	return missing
}
