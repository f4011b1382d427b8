// Package workloads deploys sample services under the names of Istio's Bookinfo, with sidecars, in the namespace default.
// They are the lab's own program, lab/cmd/sample.
package workloads

import (
	"bytes"
	"context"
	_ "embed"
	"text/template"

	"github.com/isthmus-mesh/isthmus/lab/internal/cluster"
)

// Namespace is where the workloads live.
const Namespace = "default"

// Image is the reference of the program that all of them run.
const Image = "lab.local/sample:1"

// workload is one Deployment.
type workload struct {
	Name, Version string
	// Calls are the services that each of its answers is put together from.
	Calls []string
}

// Deployment is the name of the workload's Deployment.
func (w workload) Deployment() string { return w.Name + "-" + w.Version }

// ServiceAccount is shared by the versions of a service.
func (w workload) ServiceAccount() string { return "bookinfo-" + w.Name }

// of says what a cluster runs: the first everything but reviews-v3, the others what calls and answers to that.
func of(first bool) []workload {
	ratings := workload{Name: "ratings", Version: "v1"}
	if first {
		return []workload{
			ratings,
			{Name: "details", Version: "v1"},
			{Name: "reviews", Version: "v1"}, // v1 of Bookinfo shows no ratings
			{Name: "reviews", Version: "v2", Calls: []string{"ratings"}},
			{Name: "productpage", Version: "v1", Calls: []string{"details", "reviews"}},
		}
	}
	return []workload{ratings, {Name: "reviews", Version: "v3", Calls: []string{"ratings"}}}
}

//go:embed workload.yaml
var text string

var manifest = template.Must(template.New("workload").Parse(text))

//go:embed ratings.yaml
var ratings []byte

func manifests(cluster string, ws []workload) ([]byte, error) {
	var b bytes.Buffer
	seen := map[string]bool{}
	for _, w := range ws {
		data := struct {
			workload
			Cluster, Image string
		}{w, cluster, Image}
		if !seen[w.Name] {
			if err := manifest.ExecuteTemplate(&b, "service", data); err != nil {
				return nil, err
			}
		}
		seen[w.Name] = true
		if err := manifest.ExecuteTemplate(&b, "deployment", data); err != nil {
			return nil, err
		}
	}
	b.WriteString("\n")
	b.Write(ratings)
	return b.Bytes(), nil
}

// Install has sidecars injected in the namespace, deploys the workloads of a cluster (the first of a lab runs others
// than the rest) and waits until they are ready.
func Install(ctx context.Context, c cluster.Cluster, first bool) error {
	if _, err := c.Kubectl(ctx, "label", "namespace", Namespace, "istio-injection=enabled", "--overwrite"); err != nil {
		return err
	}
	ws := of(first)
	m, err := manifests(c.Cluster.Name, ws)
	if err != nil {
		return err
	}
	if err := c.Apply(ctx, m); err != nil {
		return err
	}
	var deployments []string
	for _, w := range ws {
		deployments = append(deployments, w.Deployment())
	}
	return c.WaitAvailable(ctx, Namespace, deployments...)
}
