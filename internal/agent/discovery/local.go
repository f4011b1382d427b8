package discovery

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/api/equality"
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
	o, err := l.inspect(ctx, name)
	return o.state != istio.Outside, err
}

// Seen returns a Destination of this cluster that the hub has, with what this cluster sees in place of what is written there, but
// for the identities, of which those that left stay for a while. It returns nil if the cluster calls for no such Destination, and d
// if it cannot be told. d is not changed.
func (l *Local) Seen(ctx context.Context, d *v1alpha1.Destination) (*v1alpha1.Destination, error) {
	o, err := l.inspect(ctx, d.Name)
	switch {
	case err != nil || o.state == istio.Outside:
		return nil, err
	case o.state == istio.Unknown:
		return d, nil
	}
	o.spec.Identities = append(own(d.Spec.Identities, o.mesh, o.key.Namespace), o.spec.Identities...)
	slices.Sort(o.spec.Identities)
	o.spec.Identities = slices.Compact(o.spec.Identities)
	if equality.Semantic.DeepEqual(o.spec, d.Spec) {
		return d, nil
	}
	seen := d.DeepCopy()
	seen.Spec = o.spec
	return seen, nil
}

// Mesh is what this cluster sees of a Mesh of its own, which the hub may have otherwise; ok is false if it sees none. It is not to be
// changed.
func (l *Local) Mesh(name string) (spec v1alpha1.MeshSpec, ok bool) {
	if r := l.running.Load(); r != nil {
		if specs := r.meshes.Load(); specs != nil {
			spec, ok = (*specs)[name]
		}
	}
	return spec, ok
}

// Workload is what this cluster sees of a controller, whatever the hub has; nil if it is gone, or in no mesh. known is false if it
// cannot be told.
func (l *Local) Workload(ctx context.Context, kind, namespace, name string) (spec *v1alpha1.WorkloadSpec, known bool, err error) {
	r := l.running.Load()
	if r == nil {
		return nil, false, nil
	}
	v := r.view.Load()
	if v == nil {
		return nil, false, nil
	}
	w := workloads{r.discovery}
	is, state, err := w.observe(ctx, v, request{Kind: kind, Namespace: namespace, Name: name}, nil)
	if err != nil || state != istio.Inside {
		return nil, state == istio.Outside, err
	}
	return &is, true, nil
}

// inspect looks at the Service that a Destination is named for.
func (l *Local) inspect(ctx context.Context, name string) (observed, error) {
	r := l.running.Load()
	if r == nil {
		return observed{state: istio.Unknown}, nil
	}
	service, namespace, ok := strings.Cut(name, ".")
	if !ok {
		return observed{state: istio.Outside}, nil
	}
	v := r.view.Load()
	if v == nil {
		return observed{state: istio.Unknown}, nil
	}
	return r.inspect(ctx, v, types.NamespacedName{Namespace: namespace, Name: service})
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
