package labs

import (
	"context"
	"time"

	"github.com/isthmus-mesh/isthmus/lab/internal/cluster"
	"github.com/isthmus-mesh/isthmus/lab/internal/network"
	"github.com/isthmus-mesh/isthmus/lab/internal/node"
	"github.com/isthmus-mesh/isthmus/lab/internal/topology"
)

// Phase says in one word how a lab is.
type Phase string

// The phases of a lab.
const (
	// Starting: a command is bringing it up or taking it down at this moment.
	Starting Phase = "Starting"
	// Running: it was completed and its nodes run.
	Running Phase = "Running"
	// Incomplete: bringing it up failed or was killed.
	Incomplete Phase = "Incomplete"
	// Broken: it was completed, but a node has ended since.
	Broken Phase = "Broken"
)

// Phase tells how the lab is.
func (l *Lab) Phase() (Phase, error) {
	busy, err := locked(l.Dir())
	if err != nil {
		return "", err
	}
	if busy {
		return Starting, nil
	}
	if !l.Ready() {
		return Incomplete, nil
	}
	clusters, err := l.Select("")
	for _, c := range clusters {
		if c.PID() == 0 {
			return Broken, err
		}
	}
	return Running, err
}

// Status is what `lab status` tells.
type Status struct {
	Name       string           `json:"name"`
	Phase      Phase            `json:"phase"`
	CreatedAt  time.Time        `json:"createdAt"`
	Kubeconfig string           `json:"kubeconfig"`
	Dir        string           `json:"dir"`
	Bin        string           `json:"bin"`
	Options    topology.Options `json:"options"`
	Clusters   []ClusterStatus  `json:"clusters"`
}

// ClusterStatus is the part of a Status that concerns one cluster.
type ClusterStatus struct {
	topology.Cluster
	Server string `json:"server"`
	// PID is that of the node's init on the machine; 0: the node does not run.
	PID int `json:"pid"`
	// Ready: the API server answers that it is.
	Ready bool `json:"ready"`
	// CutFrom are the clusters that `lab partition` has cut it off from.
	CutFrom    []string         `json:"cutFrom,omitempty"`
	Components []node.Component `json:"components"`
	// Dir holds the cluster's logs (log/), certificates and state.
	Dir string `json:"dir"`
}

// Status asks every node how it is.
func (l *Lab) Status(ctx context.Context) (Status, error) {
	phase, err := l.Phase()
	if err != nil {
		return Status{}, err
	}
	st := Status{Name: l.Name, Phase: phase, CreatedAt: l.CreatedAt, Kubeconfig: l.Kubeconfig(), Dir: l.Dir(), Bin: l.Parts.Bin, Options: l.Options}
	clusters, err := l.Select("")
	for _, c := range clusters {
		st.Clusters = append(st.Clusters, clusterStatus(ctx, c))
	}
	return st, err
}

// clusterStatus leaves out what a node that is not well cannot tell.
func clusterStatus(ctx context.Context, c cluster.Cluster) ClusterStatus {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	st := ClusterStatus{Cluster: c.Cluster, Server: c.Cluster.Server(), PID: c.PID(), Dir: c.Dir}
	if st.PID == 0 {
		return st
	}
	st.Components, _ = node.NewControl(c.Dir).Components(ctx)
	st.CutFrom, _ = network.Cuts(ctx, c.InNetwork)
	if api, err := c.Client("admin"); err == nil {
		st.Ready = api.Ready(ctx) == nil
	}
	return st
}
