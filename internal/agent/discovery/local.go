package discovery

import (
	"context"
	"strings"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/istio"
	"github.com/isthmus-mesh/isthmus/internal/kube"
)

// Local answers what discovery holds to be true of its cluster, whatever the hub has: a hub that was restored may lack what
// is there.
type Local struct{ running atomic.Pointer[destinations] }

// Calls reports whether this cluster calls for a Destination of a name, or it cannot be told.
func (l *Local) Calls(ctx context.Context, name string) (bool, error) {
	r := l.running.Load()
	service, namespace, ok := strings.Cut(name, ".")
	if r == nil || !ok {
		return r == nil, nil
	}
	v := r.view.Load()
	if v == nil {
		return true, nil
	}
	o, err := r.inspect(ctx, v, types.NamespacedName{Namespace: namespace, Name: service})
	return o.state != istio.Outside, err
}

// Missing returns the names of Destinations that this cluster calls for and the hub does not have yet. It looks at every
// Service.
func (l *Local) Missing(ctx context.Context) (names []string, err error) {
	r := l.running.Load()
	if r == nil || r.view.Load() == nil {
		return []string{"all"}, nil
	}
	v := r.view.Load()
	for _, req := range r.services(ctx) {
		name := kube.Qualified(req.Name, req.Namespace)
		err := r.hub.Get(ctx, types.NamespacedName{Namespace: r.namespace, Name: name}, &v1alpha1.Destination{})
		if err == nil {
			continue
		}
		if !apierrors.IsNotFound(err) {
			return nil, err
		}
		o, err := r.inspect(ctx, v, types.NamespacedName{Namespace: req.Namespace, Name: req.Name})
		if err != nil {
			return nil, err
		}
		if o.state == istio.Inside {
			names = append(names, name)
		}
	}
	return names, nil
}
