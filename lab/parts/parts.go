//go:build parts

// Package parts pins the programs of other projects that the lab runs.
//
// It is a module of its own, and a single one for all of them: what
// Kubernetes, Istio, containerd, CoreDNS and etcd have in common (client-go,
// grpc, protobuf, OpenTelemetry ...) is then compiled once, at one version.
// The imports below make "go mod tidy" keep what the programs need; nothing is
// ever compiled under the tag.
//
// Several replaces in go.mod are needed: Kubernetes names v0.0.0 of its own
// libraries, Istio's pins of Envoy's protocol are commits that the module proxy
// does not serve, and CoreDNS would raise etcd's libraries above etcd for a
// plugin that is not built. containerd is of the minor that was released with
// this minor of Kubernetes: they share the container runtime interface.
package parts

import (
	_ "github.com/containerd/containerd/v2/cmd/containerd"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
	_ "github.com/containerd/containerd/v2/cmd/ctr"
	_ "github.com/containernetworking/plugins/plugins/ipam/host-local"
	_ "github.com/containernetworking/plugins/plugins/main/bridge"
	_ "github.com/containernetworking/plugins/plugins/main/loopback"
	_ "github.com/containernetworking/plugins/plugins/meta/portmap"
	_ "istio.io/istio/istioctl/cmd/istioctl"
	_ "istio.io/istio/pilot/cmd/pilot-agent"
	_ "istio.io/istio/pilot/cmd/pilot-discovery"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-proxy"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/cmd/kubelet"
)
