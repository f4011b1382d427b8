package topology

import (
	"net/netip"
	"strings"
	"testing"
)

func TestPlanGivesEveryClusterAddressesOfItsOwn(t *testing.T) {
	var names []string
	for i := range MaxClusters {
		names = append(names, "c"+strings.Repeat("x", i%20)+string(rune('a'+i/20)))
	}
	lab, err := Plan("big", MaxLabs-1, names, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var ranges []netip.Prefix
	for _, c := range lab.Clusters {
		if !lab.Subnet.Contains(c.NodeIP) || c.NodeIP == lab.Gateway {
			t.Errorf("%s: node address %s is not one of %s for nodes", c.Name, c.NodeIP, lab.Subnet)
		}
		if !c.ServiceCIDR.Contains(c.KubernetesIP) || !c.ServiceCIDR.Contains(c.DNSIP) {
			t.Errorf("%s: %s and %s are not both in %s", c.Name, c.KubernetesIP, c.DNSIP, c.ServiceCIDR)
		}
		if len(c.Veth) > 15 {
			t.Errorf("%s: the kernel takes no interface name longer than 15 bytes: %q", c.Name, c.Veth)
		}
		ranges = append(ranges, netip.PrefixFrom(c.NodeIP, 32), c.PodCIDR, c.ServiceCIDR)
	}
	for i, a := range ranges {
		for _, b := range ranges[:i] {
			if a.Overlaps(b) {
				t.Errorf("%s and %s overlap", a, b)
			}
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	for _, tt := range []struct {
		why, lab string
		clusters []string
		options  Options
		want     string
	}{
		{"a name that is no DNS label", "Default", []string{"a"}, Options{}, `lab "Default"`},
		{"a name too long for a socket's path", "default", []string{strings.Repeat("a", 25)}, Options{}, "at most 24"},
		{"a name that climbs out of the state directory", "..", []string{"a"}, Options{}, `lab ".."`},
		{"a cluster named twice", "default", []string{"a", "b", "a"}, Options{}, "named twice"},
		{"no cluster", "default", nil, Options{}, "name between 1 and 50"},
		{"more clusters than addresses", "default", make([]string, MaxClusters+1), Options{}, "not 51"},
		{"a trust domain for nobody", "default", []string{"a"}, Options{TrustDomains: map[string]string{"b": "b.example"}}, `no cluster "b"`},
		{"a negative number of pods", "default", []string{"a"}, Options{IstiodReplicas: -1}, "istiod replicas"},
	} {
		if _, err := Plan(tt.lab, 0, tt.clusters, tt.options); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got error %v, want one that says %q", tt.why, err, tt.want)
		}
	}
}

func TestTrustDomains(t *testing.T) {
	lab, err := Plan("default", 0, []string{"a", "b"}, Options{TrustDomains: map[string]string{"b": "b.example"}})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := lab.Clusters[0].TrustDomain, lab.Clusters[1].TrustDomain; a != DefaultTrustDomain || b != "b.example" {
		t.Errorf("got trust domains %q and %q", a, b)
	}
}

func TestFreeIndex(t *testing.T) {
	prefix := netip.MustParsePrefix
	all := make([]int, MaxLabs)
	for i := range all {
		all[i] = i
	}
	for _, tt := range []struct {
		why   string
		taken []int
		busy  []netip.Prefix
		want  int // -1: none
	}{
		{"an empty machine", nil, nil, 0},
		{"the gap that a lab left", []int{0, 2}, nil, 1},
		{"an address of the machine lies in the first two", nil, []netip.Prefix{prefix("172.31.0.9/24"), prefix("172.31.1.1/32")}, 2},
		{"the default route is not a network", nil, []netip.Prefix{prefix("10.0.0.0/8")}, 0},
		{"everything taken", all, nil, -1},
		{"the machine itself lives in 172.31.0.0/16", nil, []netip.Prefix{prefix("172.31.0.0/16")}, -1},
	} {
		got, err := FreeIndex(tt.taken, tt.busy)
		if err != nil {
			got = -1
		}
		if got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.why, got, tt.want)
		}
	}
}
