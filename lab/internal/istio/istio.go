// Package istio installs Istio by its own installer, so that upstream Envoy can be its proxy: what needs Istio's own
// build of Envoy is off. Every mesh starts with a self-signed root of its own, as Istio makes it.
package istio

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"text/template"

	"github.com/isthmus-mesh/isthmus/lab/internal/cluster"
	"github.com/isthmus-mesh/isthmus/lab/internal/topology"
)

const (
	// Namespace is Istio's root namespace.
	Namespace = "istio-system"

	// hub and tag make the references of Istio's images: HUB/pilot:TAG and HUB/proxyv2:TAG.
	hub = "lab.local/istio"
	tag = "1.31.1"
)

//go:embed operator.yaml
var operatorText string

var operatorTemplate = template.Must(template.New("operator").Parse(operatorText))

// operator writes the IstioOperator of a cluster (https://istio.io/latest/docs/reference/config/istio.operator.v1alpha1/).
func operator(c topology.Cluster, o topology.Options) ([]byte, error) {
	var b bytes.Buffer
	err := operatorTemplate.Execute(&b, struct {
		Hub, Tag     string
		Cluster      topology.Cluster
		LiveRotation bool
		Replicas     int
	}{hub, tag, c, !o.IstioDefaults, max(1, o.IstiodReplicas)})
	return b.Bytes(), err
}

// Install installs istiod and the two gateways and waits until all of them are ready.
func Install(ctx context.Context, c cluster.Cluster) error {
	namespace := fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {topology.istio.io/network: %s}}}", Namespace, c.Cluster.Network)
	if err := c.Apply(ctx, []byte(namespace)); err != nil {
		return err
	}
	spec, err := operator(c.Cluster, c.Options)
	if err != nil {
		return err
	}
	_, err = c.Run(ctx, bytes.NewReader(spec), "istioctl", "install", "--skip-confirmation", "--filename", "-")
	return err
}
