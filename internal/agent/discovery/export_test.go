package discovery

import (
	"context"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cluster"
)

// AddWithGrace is Add with another grace for identities that are gone. The manager must not have been started.
func AddWithGrace(ctx context.Context, mgr ctrl.Manager, hub cluster.Cluster, clusterName string, grace time.Duration) error {
	d, err := add(ctx, mgr, hub, clusterName)
	if err == nil {
		d.leaving.grace = grace
	}
	return err
}
