// Package discovery keeps the hub's picture of one cluster current: Meshes, Workloads and Destinations in the cluster's
// namespace of the hub.
//
// Every controller or Service of the cluster is a unit of work of its own: a change costs what concerns the changed object
// and no more. What has not changed is not written. An object is deleted from the hub only on evidence: its source was not
// found when the API server was asked, or was seen to be outside of every mesh. While the hub is away nothing is lost and
// nothing is concluded.
//
// The package holds its own caches, stripped to what package istio reads. It writes the spec of Meshes; their status is
// somebody else's.
package discovery

import (
	"context"
	"fmt"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/kube/hublink"
)

// Rights in the agent's own cluster (for charts/isthmus-agent):
//
// +kubebuilder:rbac:groups="",resources=configmaps;namespaces;nodes;pods;services,verbs=get;list;watch
// +kubebuilder:rbac:groups=apps,resources=daemonsets;deployments;statefulsets,verbs=get;list;watch
// +kubebuilder:rbac:groups=admissionregistration.k8s.io,resources=mutatingwebhookconfigurations,verbs=get;list;watch

// fieldOwner is the field manager of what discovery writes, and the value of its isthmus.dev/managed-by.
const fieldOwner = "isthmus-agent-discovery"

// Kinds are what discovery needs of the hub's cache: in the cluster's namespace, but for Settings.
func Kinds() []client.Object {
	return []client.Object{&v1alpha1.Mesh{}, &v1alpha1.Workload{}, &v1alpha1.Destination{}, &v1alpha1.Settings{}}
}

// Setup has discovery run whenever there is a hub. What it returns answers from then on.
func Setup(link *hublink.Link, clusterName string) *Local {
	local := &Local{}
	link.Setup(func(ctx context.Context, mgr ctrl.Manager, hub cluster.Cluster) error {
		d, err := add(ctx, mgr, hub, clusterName)
		local.running.Store(d)
		return err
	}, Kinds()...)
	return local
}

// Add adds the controllers of discovery to a manager of the cluster that is registered as clusterName.
func Add(ctx context.Context, mgr ctrl.Manager, hub cluster.Cluster, clusterName string) error {
	_, err := add(ctx, mgr, hub, clusterName)
	return err
}

func add(ctx context.Context, mgr ctrl.Manager, hub cluster.Cluster, clusterName string) (*destinations, error) {
	local, err := newLocal(ctx, mgr)
	if err != nil {
		return nil, fmt.Errorf("caching the cluster's objects: %w", err)
	}
	if err := mgr.Add(local); err != nil {
		return nil, err
	}
	d := &discovery{
		cluster:   clusterName,
		namespace: kube.ClusterNamespace(clusterName),
		local:     local.GetCache(),
		live:      local.GetAPIReader(),
		hub:       hub.GetClient(),
	}
	services, err := d.addDestinations(mgr, local.GetCache(), hub.GetCache())
	if err != nil {
		return nil, fmt.Errorf("discovery of destinations: %w", err)
	}
	workloads, err := d.addWorkloads(mgr, local.GetCache(), hub.GetCache())
	if err != nil {
		return nil, fmt.Errorf("discovery of workloads: %w", err)
	}
	if err := d.addMeshes(mgr, local.GetCache(), hub.GetCache(), services, workloads); err != nil {
		return nil, fmt.Errorf("discovery of meshes: %w", err)
	}
	return &destinations{d}, nil
}
