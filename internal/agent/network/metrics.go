package network

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var (
	exportsMetric = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "isthmus_agent_exported_destinations",
		Help: "Destinations that a mesh of this cluster federates.",
	}, []string{"mesh"})
	importsMetric = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "isthmus_agent_imported_destinations",
		Help: "Destinations of other clusters that are imported.",
	})
	errorsMetric = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "isthmus_agent_network_errors",
		Help: "Errors of federation and policy that a mesh of this cluster reports, 50 at most.",
	}, []string{"mesh"})
	pendingMetric = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "isthmus_agent_network_pending",
		Help: "Destinations, of this cluster and of others, that were not looked at since what is accepted has changed.",
	})
)

func init() { metrics.Registry.MustRegister(exportsMetric, importsMetric, errorsMetric, pendingMetric) }

// measure sets the metrics of a mesh.
func (m *meshWork) measure(problems int) {
	m.mu.Lock()
	exports := m.exportsOf(m.mesh.Name).Len()
	m.mu.Unlock()
	exportsMetric.WithLabelValues(m.mesh.Name).Set(float64(exports))
	importsMetric.Set(float64(m.imports.len()))
	errorsMetric.WithLabelValues(m.mesh.Name).Set(float64(problems))
	pendingMetric.Set(float64(m.progress.len()))
}
