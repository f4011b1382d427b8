package accepting

import (
	"context"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// whatIsApplied handles Meshes: one that comes or goes concerns all objects of a kind, a change of what it has applied those
// that changed, by their names "<name>.<namespace>".
func whatIsApplied(all handler.MapFunc, changed func(was, is *v1alpha1.MeshStatus) []string) handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	add := func(reqs []reconcile.Request, q queue) {
		for _, req := range reqs {
			q.Add(req)
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { add(all(ctx, e.Object), q) },
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { add(all(ctx, e.Object), q) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) {
			was, ok1 := e.ObjectOld.(*v1alpha1.Mesh)
			is, ok2 := e.ObjectNew.(*v1alpha1.Mesh)
			if ok1 && ok2 {
				add(requests(changed(&was.Status, &is.Status)), q)
			}
		},
	}
}

// difference are the names of those of which one list says something else than the other.
func difference[T any](was, is []T, nameOf func(*T) string) (names []string) {
	said := map[string]*T{}
	for i := range was {
		said[nameOf(&was[i])] = &was[i]
	}
	for i := range is {
		name := nameOf(&is[i])
		if before, ok := said[name]; !ok || !equality.Semantic.DeepEqual(before, &is[i]) {
			names = append(names, name)
		}
		delete(said, name)
	}
	for name := range said {
		names = append(names, name)
	}
	return names
}
