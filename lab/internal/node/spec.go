// Package node runs one Kubernetes node, control plane included, as a process tree in Linux namespaces of its own: its
// init is PID 1 of new mount, PID, network, UTS, IPC and cgroup namespaces, so that one SIGKILL ends everything in it,
// and the kernel takes the mounts and interfaces along.
//
// From outside the package offers Start, Kill and Enter; inside, Init builds the root file system, brings the network up
// and supervises the components. A Unix socket in the cluster's directory connects the two: Control. The package knows
// nothing of what is deployed to the cluster.
package node

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/isthmus-mesh/isthmus/lab/internal/topology"
)

// PauseImage is the image of the container that holds a pod's namespaces.
const PauseImage = "lab.local/pause:1"

// Spec is all that a node needs to know.
type Spec struct {
	// Lab is the name of the lab.
	Lab string `json:"lab"`
	// Dir is the cluster's directory on the machine, and at the same path in the node.
	Dir string `json:"dir"`
	// Bin is the directory of the built programs, at the same path in the node; CNI that of the network plugins.
	Bin string `json:"bin"`
	CNI string `json:"cni"`

	Cluster topology.Cluster   `json:"cluster"`
	Peers   []topology.Cluster `json:"peers"`
	Gateway string             `json:"gateway"`
	Bridge  string             `json:"bridge"`
	Options topology.Options   `json:"options"`
	// Cgroups are the node's control groups. They are written down before they are made: a crash leaves no unknown one.
	Cgroups []Cgroup `json:"cgroups"`
}

// PKI is the directory of the certificates and keys of the components.
func (s Spec) PKI() string { return filepath.Join(s.Dir, "pki") }

// Logs is the directory of the components' logs, one file each.
func (s Spec) Logs() string { return filepath.Join(s.Dir, "log") }

// Kubeconfig is the file by which the user (a component, or "admin") talks to the API server.
func (s Spec) Kubeconfig(user string) string {
	return filepath.Join(s.Dir, "kubeconfig", user)
}

func (s Spec) conf(name string) string { return filepath.Join(s.Dir, "conf", name) }

func (s Spec) pki(name string) string { return filepath.Join(s.PKI(), name) }

// ClusterDomain is the DNS domain of every cluster, for templates.
func (Spec) ClusterDomain() string { return topology.ClusterDomain }

// PauseImage is the constant of that name, for templates.
func (Spec) PauseImage() string { return PauseImage }

const specFile = "node.json"

// ReadSpec reads what Prepare wrote.
func ReadSpec(dir string) (Spec, error) {
	b, err := os.ReadFile(filepath.Join(dir, specFile))
	if err != nil {
		return Spec{}, err
	}
	var s Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return Spec{}, fmt.Errorf("%s: %w", filepath.Join(dir, specFile), err)
	}
	return s, nil
}
