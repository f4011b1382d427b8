package evidence

import (
	"encoding/json"
	"net"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-mesh/isthmus/internal/agent/restart"
	"github.com/isthmus-mesh/isthmus/internal/istio"
)

// Replica is a running pod of istiod.
type Replica struct {
	Pod      *corev1.Pod
	Revision string
	// MultiRoot says that it takes changed roots without a restart (ISTIO_MULTIROOT_MESH).
	MultiRoot bool
}

// MultiRoot tells whether there are replicas, and all of them take changed roots without a restart.
func MultiRoot(replicas []Replica) bool {
	return len(replicas) > 0 && !slices.ContainsFunc(replicas, func(r Replica) bool { return !r.MultiRoot })
}

// Replicas finds the replicas of istiod among the pods of a root namespace, those that are being deleted included: they
// sign until they are gone.
func Replicas(pods []corev1.Pod) []Replica {
	var out []Replica
	for i := range pods {
		p := &pods[i]
		c := istio.Discovery(&p.Spec)
		if c == nil || p.Status.Phase != corev1.PodRunning || p.Status.PodIP == "" {
			continue
		}
		revision := p.Labels["istio.io/rev"]
		if revision == "" {
			revision = "default"
		}
		out = append(out, Replica{Pod: p, Revision: revision, MultiRoot: isTrue(env(c, "ISTIO_MULTIROOT_MESH"))})
	}
	slices.SortFunc(out, func(a, b Replica) int { return strings.Compare(a.Pod.Name, b.Pod.Name) })
	return out
}

// ProxyKind is how a proxy is run.
type ProxyKind string

// Kinds of proxies, as the agent in their container is told.
const (
	Sidecar ProxyKind = "sidecar"
	Gateway ProxyKind = "router"
	Ztunnel ProxyKind = "ztunnel"
)

// ProxyPod is a pod with a proxy of the mesh.
type ProxyPod struct {
	types.NamespacedName
	UID            types.UID
	IP             string
	Labels         map[string]string
	ServiceAccount string
	Kind           ProxyKind
	// Started is when the proxy began to run; zero if it does not yet, or no more.
	Started time.Time
	// Leaves is when the pod is gone at the latest, if it is on its way out: nobody new calls it, but it still calls others. Zero for
	// those that stay.
	Leaves time.Time
	// Live says that the proxy takes changed roots, and with them a new leaf, without a restart (PROXY_CONFIG_XDS_AGENT).
	Live bool
	// LeafTTL is the lifetime of the leaves that it asks for (SECRET_TTL).
	LeafTTL time.Duration
	// Controller that can be restarted; HasController is false for pods that have none.
	Controller    restart.Target
	HasController bool
}

// Leaving tells whether the pod is on its way out.
func (p ProxyPod) Leaving() bool { return !p.Leaves.IsZero() }

// Proxies finds the proxies of the mesh of a root namespace among pods, in the order of their names. Pods that are over are left out,
// those on their way out are not.
func Proxies(pods []corev1.Pod, rootNamespace string) []ProxyPod {
	var out []ProxyPod
	for i := range pods {
		p := &pods[i]
		c := ProxyContainer(&p.Spec)
		if c == nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		if ns := controlPlaneNamespace(c); ns != "" && ns != rootNamespace {
			continue
		}
		proxy := ProxyPod{
			NamespacedName: types.NamespacedName{Namespace: p.Namespace, Name: p.Name},
			UID:            p.UID, IP: p.Status.PodIP, Labels: p.Labels, ServiceAccount: p.Spec.ServiceAccountName,
			Kind: proxyKind(c), Live: isTrue(env(c, "PROXY_CONFIG_XDS_AGENT")), LeafTTL: leafTTL(c),
		}
		if p.DeletionTimestamp != nil { // with the grace period included
			proxy.Leaves = p.DeletionTimestamp.Time
		}
		for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			if s.Name == c.Name && s.State.Running != nil {
				proxy.Started = s.State.Running.StartedAt.Time
			}
		}
		proxy.Controller, proxy.HasController = restart.Of(p)
		out = append(out, proxy)
	}
	slices.SortFunc(out, func(a, b ProxyPod) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// ProxyContainer returns the container of a pod that runs Istio's proxy, also as a native sidecar, or nil.
func ProxyContainer(spec *corev1.PodSpec) *corev1.Container {
	for _, list := range [][]corev1.Container{spec.Containers, spec.InitContainers} {
		for i := range list {
			if c := &list[i]; c.Name == "istio-proxy" && len(c.Args) > 0 && c.Args[0] == "proxy" {
				return c
			}
		}
	}
	return nil
}

func proxyKind(c *corev1.Container) ProxyKind {
	for _, k := range []ProxyKind{Gateway, Ztunnel} {
		if slices.Contains(c.Args, string(k)) {
			return k
		}
	}
	return Sidecar
}

// defaultLeafTTL is the lifetime of the leaves that a proxy asks for if its settings say nothing, or nonsense.
const defaultLeafTTL = 24 * time.Hour

func leafTTL(c *corev1.Container) time.Duration {
	if ttl, err := time.ParseDuration(env(c, "SECRET_TTL")); err == nil && ttl > 0 {
		return ttl
	}
	return defaultLeafTTL
}

// controlPlaneNamespace is the namespace of the istiod that serves a proxy, or "" if its settings do not tell.
func controlPlaneNamespace(c *corev1.Container) string {
	address := env(c, "CA_ADDR")
	if address == "" {
		address = env(c, "CA_ADDRESS")
	}
	if address == "" {
		var cfg struct {
			DiscoveryAddress string `json:"discoveryAddress"`
		}
		if json.Unmarshal([]byte(env(c, "PROXY_CONFIG")), &cfg) == nil {
			address = cfg.DiscoveryAddress
		}
	}
	host, _, err := net.SplitHostPort(strings.TrimPrefix(address, "https://"))
	if err != nil {
		return ""
	}
	// <service>.<namespace>.svc…
	if labels := strings.Split(host, "."); len(labels) >= 3 && labels[2] == "svc" {
		return labels[1]
	}
	return ""
}

func env(c *corev1.Container, name string) string {
	for _, e := range c.Env {
		if e.Name == name {
			return e.Value
		}
	}
	return ""
}

func isTrue(s string) bool { return strings.EqualFold(s, "true") || s == "1" }

// Waves orders everything of a mesh that can be restarted: istiod first, then gateways, then workloads.
func Waves(pods []corev1.Pod, rootNamespace string) [][]restart.Target {
	waves := make([][]restart.Target, 3)
	for i := range pods {
		if p := &pods[i]; p.Namespace == rootNamespace && istio.Discovery(&p.Spec) != nil {
			if t, ok := restart.Of(p); ok {
				waves[0] = append(waves[0], t)
			}
		}
	}
	for _, p := range Proxies(pods, rootNamespace) {
		switch {
		case !p.HasController:
		case p.Kind == Sidecar:
			waves[2] = append(waves[2], p.Controller)
		default:
			waves[1] = append(waves[1], p.Controller)
		}
	}
	for i := range waves {
		waves[i] = restart.Sort(waves[i])
	}
	return waves
}

// StripPod is a transform for a cache: it leaves of a pod what this package and package restart read.
func StripPod(obj any) (any, error) {
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil
	}
	stripped := &corev1.Pod{
		TypeMeta: p.TypeMeta, ObjectMeta: p.ObjectMeta,
		Spec: corev1.PodSpec{
			ServiceAccountName: p.Spec.ServiceAccountName,
			Containers:         stripContainers(p.Spec.Containers),
			InitContainers:     stripContainers(p.Spec.InitContainers),
		},
		Status: corev1.PodStatus{
			Phase: p.Status.Phase, PodIP: p.Status.PodIP, Conditions: p.Status.Conditions,
			ContainerStatuses: p.Status.ContainerStatuses, InitContainerStatuses: p.Status.InitContainerStatuses,
		},
	}
	stripped.ManagedFields = nil
	return stripped, nil
}

// stripContainers keeps of the containers of Istio what tells them apart, and of others the name.
func stripContainers(in []corev1.Container) []corev1.Container {
	var out []corev1.Container
	for _, c := range in {
		short := corev1.Container{Name: c.Name}
		if len(c.Args) > 0 && (c.Args[0] == "proxy" || slices.Contains(c.Args, "discovery")) {
			short.Image, short.Args = c.Image, c.Args
			for _, e := range c.Env {
				switch e.Name {
				case "CA_ADDR", "CA_ADDRESS", "PROXY_CONFIG", "PROXY_CONFIG_XDS_AGENT", "SECRET_TTL", "ISTIO_MULTIROOT_MESH":
					short.Env = append(short.Env, e)
				}
			}
		}
		out = append(out, short)
	}
	return out
}
