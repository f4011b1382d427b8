package discovery

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/isthmus-mesh/isthmus/internal/istio"
)

// kind is a kind of object that discovery keeps in the hub, one for each source of the cluster; S is its spec.
type kind[S any] struct {
	// empty object of the kind.
	empty func() client.Object
	// spec of an object of the kind.
	spec func(client.Object) *S
	// mesh that a spec names.
	mesh func(*S) string
	// gone is why an object is deleted whose source was seen to be gone, or outside of every mesh.
	gone string
}

// keep makes the hub have, under the given name, what is observed of one source, given what the hub has of it, nil for
// nothing. What is unknown changes nothing, unless the mesh itself is gone.
func keep[S any](ctx context.Context, d *discovery, k kind[S], req request, name string,
	observe func(context.Context, *view, request, *S) (S, istio.Membership, error),
) (reconcile.Result, error) {
	v := d.view.Load()
	if v == nil {
		return reconcile.Result{}, nil
	}
	have := k.empty()
	err := d.hub.Get(ctx, types.NamespacedName{Namespace: d.namespace, Name: name}, have)
	exists := err == nil
	if client.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, err
	}
	var published *S
	if exists {
		published = k.spec(have)
	}
	want, state, err := observe(ctx, v, req, published)
	if err != nil {
		return reconcile.Result{}, err
	}
	if req.Stray != "" {
		return d.removeStray(ctx, req.Stray, k.empty(), exists || state == istio.Outside)
	}
	switch {
	case state == istio.Inside && !exists:
		obj := k.empty()
		obj.SetName(name)
		*k.spec(obj) = want
		return reconcile.Result{}, d.put(ctx, nil, obj)
	case state == istio.Inside && !equality.Semantic.DeepEqual(*k.spec(have), want):
		obj := have.DeepCopyObject().(client.Object)
		*k.spec(obj) = want
		return reconcile.Result{}, d.put(ctx, have, obj)
	case state == istio.Outside && exists:
		return reconcile.Result{}, d.remove(ctx, have, k.gone)
	case state == istio.Unknown && exists:
		gone, err := d.orphaned(ctx, v, k.mesh(k.spec(have)))
		if err == nil && gone {
			err = d.remove(ctx, have, "its mesh is gone")
		}
		return reconcile.Result{}, err
	}
	return reconcile.Result{}, nil
}

// absent says what may be concluded from an error of reading an object from the cache: that the object is gone, if the API
// server says so too. If it has the object the cache is behind, and its event will come.
func (d *discovery) absent(ctx context.Context, cached error, key types.NamespacedName, obj client.Object) (istio.Membership, error) {
	if !apierrors.IsNotFound(cached) {
		return istio.Unknown, cached
	}
	err := d.live.Get(ctx, key, obj)
	if apierrors.IsNotFound(err) {
		return istio.Outside, nil
	}
	return istio.Unknown, err
}

// removeStray deletes an object whose name discovery does not give, once nothing is lost by it: the one with the right
// name exists, or none is called for.
func (d *discovery) removeStray(ctx context.Context, name string, obj client.Object, replaced bool) (reconcile.Result, error) {
	if !replaced {
		return reconcile.Result{RequeueAfter: 5 * time.Second}, nil
	}
	if err := d.hub.Get(ctx, types.NamespacedName{Namespace: d.namespace, Name: name}, obj); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	return reconcile.Result{}, d.remove(ctx, obj, "its name is not the one that its source has now")
}
