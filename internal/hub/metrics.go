package hub

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// collector tells of certificates and clusters as they are in the cache at the moment of a scrape, so that no series outlives
// what it is about.
type collector struct {
	mu        sync.RWMutex
	reader    client.Reader
	namespace string
}

var (
	rootExpiry = prometheus.NewDesc("isthmus_root_expiry_timestamp_seconds",
		"End of the validity of a root, in seconds since the epoch.", []string{"virtual_mesh", "generation", "role"}, nil)
	intermediateExpiry = prometheus.NewDesc("isthmus_intermediate_expiry_timestamp_seconds",
		"End of the validity of what a mesh has in its Secret, in seconds since the epoch: the intermediate (purpose MeshCA), or the certificate of its gateways (Gateway).",
		[]string{"namespace", "mesh", "purpose"}, nil)
	clusterConnected = prometheus.NewDesc("isthmus_cluster_connected",
		"1 if the agent of a registered cluster renews its lease, else 0.", []string{"cluster"}, nil)
	rotationStep = prometheus.NewDesc("isthmus_rotation_step",
		"1 for the step that the rotation of the root is in.", []string{"virtual_mesh", "step"}, nil)
	proxies = prometheus.NewDesc("isthmus_proxies",
		"Proxies of a mesh, as its agent saw them last: all of them (total), and those that accept leaves under every ordered root (trusting), "+
			"have a leaf under the ordered signer (signed), refuse leaves under the root that is dropped (refusing), could not be seen (unknown), or are behind.",
		[]string{"namespace", "mesh", "state"}, nil)
	scraped = &collector{}
)

func init() { metrics.Registry.MustRegister(scraped) }

// registerMetrics makes the collector read from here on. Metrics are one per process.
func registerMetrics(reader client.Reader, namespace string) error {
	scraped.mu.Lock()
	defer scraped.mu.Unlock()
	scraped.reader, scraped.namespace = reader, namespace
	return nil
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- rootExpiry
	ch <- intermediateExpiry
	ch <- clusterConnected
	ch <- rotationStep
	ch <- proxies
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	c.mu.RLock()
	reader, namespace := c.reader, c.namespace
	c.mu.RUnlock()
	if reader == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var (
		virtualMeshes v1alpha1.VirtualMeshList
		orders        v1alpha1.IssuedCertificateList
		clusters      v1alpha1.KubernetesClusterList
	)
	if err := errors.Join(
		reader.List(ctx, &virtualMeshes, client.InNamespace(namespace)), reader.List(ctx, &orders), reader.List(ctx, &clusters, client.InNamespace(namespace)),
	); err != nil {
		ch <- prometheus.NewInvalidMetric(rootExpiry, err)
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, vm := range virtualMeshes.Items {
		for _, r := range vm.Status.Roots {
			gauge(rootExpiry, float64(r.NotAfter.Unix()), vm.Name, strconv.FormatInt(r.Generation, 10), string(r.Role))
		}
		if r := vm.Status.Rotation; r != nil && r.Step != "" {
			gauge(rotationStep, 1, vm.Name, string(r.Step))
		}
	}
	for _, ic := range orders.Items {
		mesh, purpose := membership.OrderedFor(ic.Name)
		if cert := ic.Status.Certificate; cert != nil {
			gauge(intermediateExpiry, float64(cert.NotAfter.Unix()), ic.Namespace, mesh, string(purpose))
		}
		if p := ic.Status.Proxies; p != nil && purpose == v1alpha1.PurposeMeshCA { // no proxy is asked for the gateways' sake
			for state, n := range map[string]int32{
				"total": p.Total, "trusting": p.TrustsNew, "signed": p.SignedByNew, "refusing": p.RefusesOld, "unknown": p.Unknown, "behind": p.Behind,
			} {
				gauge(proxies, float64(n), ic.Namespace, mesh, state)
			}
		}
	}
	for _, kc := range clusters.Items {
		connected := 0.0
		if meta.IsStatusConditionTrue(kc.Status.Conditions, v1alpha1.ConditionConnected) {
			connected = 1
		}
		gauge(clusterConnected, connected, kc.Name)
	}
}
