// Package topology says what a lab consists of: its clusters, their names and their addresses. It is pure: given the
// same arguments it always plans the same lab, and it touches nothing.
//
// Every lab has a /24 of node addresses on a bridge of its own, 172.31.INDEX.0/24. Every cluster has one node in it, a
// /16 of pod addresses and a /16 of Service addresses. Those two repeat from lab to lab, because they are known only to
// the network namespaces of one lab's nodes.
package topology

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"time"
)

const (
	// MaxLabs is how many labs one machine has addresses for.
	MaxLabs = 255
	// MaxClusters is how many clusters one lab has addresses for.
	MaxClusters = 50

	// ClusterDomain is the DNS domain of every cluster.
	ClusterDomain = "cluster.local"
	// DefaultTrustDomain is Istio's own default.
	DefaultTrustDomain = "cluster.local"
	// APIServerPort is where every API server listens on its node's address.
	APIServerPort = 6443
)

// Options are the choices that `lab up` offers; the zero value of each is the usual lab.
type Options struct {
	// ControlPlaneOnly starts etcd and kube-apiserver and nothing else: no node, no pods.
	ControlPlaneOnly bool `json:"controlPlaneOnly,omitempty"`
	// NoIstio leaves out Istio, and with it the workloads.
	NoIstio bool `json:"noIstio,omitempty"`
	// NoWorkloads leaves out the sample workloads.
	NoWorkloads bool `json:"noWorkloads,omitempty"`
	// IstioDefaults leaves the flags for live rotation of roots at Istio's defaults: off.
	IstioDefaults bool `json:"istioDefaults,omitempty"`
	// KubeletDefaults leaves the kubelet's sync periods at Kubernetes' defaults, as production has them.
	KubeletDefaults bool `json:"kubeletDefaults,omitempty"`
	// IstiodReplicas is the number of istiod's pods; 0 means 1.
	IstiodReplicas int `json:"istiodReplicas,omitempty"`
	// TrustDomains are those of the clusters whose trust domain is not DefaultTrustDomain.
	TrustDomains map[string]string `json:"trustDomains,omitempty"`
}

// Lab is the plan of one lab.
type Lab struct {
	Name     string       `json:"name"`
	Index    int          `json:"index"`
	Subnet   netip.Prefix `json:"subnet"`
	Bridge   string       `json:"bridge"`
	Gateway  netip.Addr   `json:"gateway"`
	Options  Options      `json:"options"`
	Clusters []Cluster    `json:"clusters"`
	// CreatedAt is when the lab was allocated.
	CreatedAt time.Time `json:"createdAt"`
}

// Cluster is the plan of one cluster. Its only node has the cluster's name.
type Cluster struct {
	Name        string       `json:"name"`
	Context     string       `json:"context"`
	Network     string       `json:"network"`
	TrustDomain string       `json:"trustDomain"`
	Veth        string       `json:"veth"`
	NodeIP      netip.Addr   `json:"nodeIP"`
	PodCIDR     netip.Prefix `json:"podCIDR"`
	ServiceCIDR netip.Prefix `json:"serviceCIDR"`
	// KubernetesIP and DNSIP are the addresses of the Services kubernetes and kube-dns.
	KubernetesIP netip.Addr `json:"kubernetesIP"`
	DNSIP        netip.Addr `json:"dnsIP"`
}

// Server is the address of the cluster's API server, good on the machine and in the pods of every cluster of the lab.
func (c Cluster) Server() string {
	return fmt.Sprintf("https://%s:%d", c.NodeIP, APIServerPort)
}

// name is a DNS label short enough for cgroup names and the 108 bytes of a Unix socket's path.
var name = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,22}[a-z0-9])?$`)

// CheckName says what is wrong with the name of a lab or a cluster.
func CheckName(what, s string) error {
	if !name.MatchString(s) {
		return fmt.Errorf("%s %q: use at most 24 lower-case letters, digits and dashes, beginning with a letter", what, s)
	}
	return nil
}

// Subnet is the range of node addresses of the lab with that index.
func Subnet(index int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 31, byte(index), 0}), 24)
}

// FreeIndex chooses the lowest index that no lab has taken and whose subnet overlaps nothing that is busy on the machine.
func FreeIndex(taken []int, busy []netip.Prefix) (int, error) {
	for i := range MaxLabs {
		overlaps := func(p netip.Prefix) bool { return p.Overlaps(Subnet(i)) }
		if !slices.Contains(taken, i) && !slices.ContainsFunc(busy, overlaps) {
			return i, nil
		}
	}
	return 0, fmt.Errorf("no free subnet in 172.31.0.0/16: take labs down with `lab down`")
}

// Plan lays out a lab.
func Plan(labName string, index int, clusters []string, o Options) (Lab, error) {
	if err := CheckName("lab", labName); err != nil {
		return Lab{}, err
	}
	if index < 0 || index >= MaxLabs {
		return Lab{}, fmt.Errorf("index %d: must be between 0 and %d", index, MaxLabs-1)
	}
	if len(clusters) == 0 || len(clusters) > MaxClusters {
		return Lab{}, fmt.Errorf("clusters: name between 1 and %d, not %d", MaxClusters, len(clusters))
	}
	if o.IstiodReplicas < 0 {
		return Lab{}, fmt.Errorf("istiod replicas: %d is not a number of pods", o.IstiodReplicas)
	}
	for c := range o.TrustDomains {
		if !slices.Contains(clusters, c) {
			return Lab{}, fmt.Errorf("trust domain: the lab has no cluster %q, only %q", c, clusters)
		}
	}
	l := Lab{
		Name:    labName,
		Index:   index,
		Subnet:  Subnet(index),
		Bridge:  fmt.Sprintf("isthmus%d", index),
		Gateway: netip.AddrFrom4([4]byte{172, 31, byte(index), 1}),
		Options: o,
	}
	for i, c := range clusters {
		if err := CheckName("cluster", c); err != nil {
			return Lab{}, err
		}
		if slices.Contains(clusters[:i], c) {
			return Lab{}, fmt.Errorf("cluster %q: named twice", c)
		}
		l.Clusters = append(l.Clusters, l.cluster(i, c))
	}
	return l, nil
}

func (l Lab) cluster(i int, name string) Cluster {
	trustDomain := l.Options.TrustDomains[name]
	if trustDomain == "" {
		trustDomain = DefaultTrustDomain
	}
	n := byte(i)
	return Cluster{
		Name:         name,
		Context:      name + "-context",
		Network:      name,
		TrustDomain:  trustDomain,
		Veth:         fmt.Sprintf("%s-%d", l.Bridge, i),
		NodeIP:       netip.AddrFrom4([4]byte{172, 31, byte(l.Index), 11 + n}),
		PodCIDR:      netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 50 + n, 0, 0}), 16),
		ServiceCIDR:  netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 150 + n, 0, 0}), 16),
		KubernetesIP: netip.AddrFrom4([4]byte{10, 150 + n, 0, 1}),
		DNSIP:        netip.AddrFrom4([4]byte{10, 150 + n, 0, 10}),
	}
}

// Cluster finds a cluster by name.
func (l Lab) Cluster(name string) (Cluster, error) {
	var names []string
	for _, c := range l.Clusters {
		if c.Name == name {
			return c, nil
		}
		names = append(names, c.Name)
	}
	return Cluster{}, fmt.Errorf("cluster %q: lab %q has only %q", name, l.Name, names)
}

// Others are the clusters of the lab but for the named one.
func (l Lab) Others(name string) []Cluster {
	return slices.DeleteFunc(slices.Clone(l.Clusters), func(c Cluster) bool { return c.Name == name })
}
