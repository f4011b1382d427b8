package istio

import (
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/lab/internal/topology"
)

func TestOperator(t *testing.T) {
	for _, tt := range []struct {
		why     string
		options topology.Options
		has     []string
		hasNot  []string
	}{
		{
			"as a lab usually is", topology.Options{},
			[]string{"PROXY_CONFIG_XDS_AGENT: \"true\"", "{name: ISTIO_MULTIROOT_MESH, value: \"true\"}", "replicaCount: 1", "trustDomain: cluster.local", "network: b", "clusterName: b"},
			nil,
		},
		{
			"with Istio's own defaults", topology.Options{IstioDefaults: true},
			[]string{"ISTIO_META_DNS_CAPTURE"},
			[]string{"PROXY_CONFIG_XDS_AGENT", "ISTIO_MULTIROOT_MESH"},
		},
		{
			"with replicas and a trust domain", topology.Options{IstiodReplicas: 2, TrustDomains: map[string]string{"b": "b.example"}},
			[]string{"replicaCount: 2", "trustDomain: b.example"},
			nil,
		},
	} {
		lab, err := topology.Plan("default", 0, []string{"a", "b"}, tt.options)
		if err != nil {
			t.Fatal(err)
		}
		got, err := operator(lab.Clusters[1], lab.Options)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range tt.has {
			if !strings.Contains(string(got), text) {
				t.Errorf("%s: lacks %q:\n%s", tt.why, text, got)
			}
		}
		for _, text := range tt.hasNot {
			if strings.Contains(string(got), text) {
				t.Errorf("%s: must not have %q:\n%s", tt.why, text, got)
			}
		}
	}
}
