// Package charts embeds the Helm charts, so that meshctl installs exactly what it was released with.
package charts

import (
	"embed"
	"fmt"
	"io/fs"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
)

// Names of the charts.
const (
	// CRDs are the kinds of Isthmus, for the hub's cluster.
	CRDs = "isthmus-crds"
	// Hub is the hub.
	Hub = "isthmus"
	// Agent is the agent of a member cluster.
	Agent = "isthmus-agent"
	// Gateways are the gateways of a member cluster under limited trust.
	Gateways = "isthmus-gateways"
)

//go:embed all:isthmus all:isthmus-crds all:isthmus-agent all:isthmus-gateways
var files embed.FS

// Load returns one of the charts.
func Load(name string) (*chart.Chart, error) {
	var loaded []*loader.BufferedFile
	err := fs.WalkDir(files, name, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := files.ReadFile(path)
		loaded = append(loaded, &loader.BufferedFile{Name: strings.TrimPrefix(path, name+"/"), Data: data})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", name, err)
	}
	return loader.LoadFiles(loaded)
}
