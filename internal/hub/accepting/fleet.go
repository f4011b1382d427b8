package accepting

import (
	"context"
	"reflect"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
)

// fleet is what there is of clusters and meshes.
type fleet struct {
	clusters []v1alpha1.KubernetesCluster
	// meshes of registered clusters. What is left of one that was deregistered is of no account.
	meshes []v1alpha1.Mesh
}

func fleetOf(ctx context.Context, c client.Client, namespace string) (f fleet, err error) {
	var clusters v1alpha1.KubernetesClusterList
	if err := c.List(ctx, &clusters, client.InNamespace(namespace)); err != nil {
		return f, err
	}
	f.clusters = clusters.Items
	registered := map[string]bool{}
	for i := range f.clusters {
		registered[f.clusters[i].Name] = true
	}
	var meshes v1alpha1.MeshList
	if err := c.List(ctx, &meshes); err != nil {
		return f, err
	}
	for i := range meshes.Items {
		m := &meshes.Items[i]
		// The namespace proves which cluster it is of; what its agent says otherwise is of no account.
		if cluster, ok := kube.ClusterOf(m.Namespace); ok && registered[cluster] && m.Name == kube.MeshName(m.Spec.Istio.RootNamespace, cluster) {
			f.meshes = append(f.meshes, *m)
		}
	}
	return f, nil
}

// away are the namespaces of clusters that are not connected.
func (f fleet) away() map[string]bool {
	return f.which(func(kc *v1alpha1.KubernetesCluster) bool {
		return !meta.IsStatusConditionTrue(kc.Status.Conditions, v1alpha1.ConditionConnected)
	})
}

// leaving are the namespaces of clusters that are being deregistered.
func (f fleet) leaving() map[string]bool {
	return f.which(func(kc *v1alpha1.KubernetesCluster) bool { return !kc.DeletionTimestamp.IsZero() })
}

func (f fleet) which(is func(*v1alpha1.KubernetesCluster) bool) map[string]bool {
	out := map[string]bool{}
	for i := range f.clusters {
		if is(&f.clusters[i]) {
			out[kube.ClusterNamespace(f.clusters[i].Name)] = true
		}
	}
	return out
}

// gather is for how long changes of Destinations are gathered before they are summed up again: there may be many.
const gather = 5 * time.Second

// later handles Destinations that come, go, or change what they report or of which mesh they are: the requests that one concerns,
// as it was and as it is, are added after a while, and however many are added until then are one.
func later(concerns func(context.Context, *v1alpha1.Destination) []reconcile.Request) handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	add := func(ctx context.Context, o client.Object, q queue) {
		if d, ok := o.(*v1alpha1.Destination); ok && reported(d) {
			for _, req := range concerns(ctx, d) {
				q.AddAfter(req, gather)
			}
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { add(ctx, e.Object, q) },
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { add(ctx, e.Object, q) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			was, ok1 := e.ObjectOld.(*v1alpha1.Destination)
			is, ok2 := e.ObjectNew.(*v1alpha1.Destination)
			if ok1 && ok2 && (was.Spec.Mesh != is.Spec.Mesh || !reflect.DeepEqual(was.Status, is.Status)) {
				add(ctx, was, q)
				add(ctx, is, q)
			}
		},
	}
}

// reported reports whether a Destination says anything that is summed up.
func reported(d *v1alpha1.Destination) bool {
	s := &d.Status
	return s.AppliedFederation != nil || len(s.Errors)+len(s.AppliedAccessPolicies)+len(s.RejectedAccessPolicies) > 0
}
