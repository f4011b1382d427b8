package issuing

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var issued = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "isthmus_certificates_issued_total",
	Help: "Intermediates signed for the meshes of a cluster, by the cluster's namespace in the hub.",
}, []string{"namespace"})

func init() { metrics.Registry.MustRegister(issued) }
