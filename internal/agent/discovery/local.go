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

// look returns what runs and its view, each nil as long as there is none.
func (l *Local) look() (*destinations, *view) {
	r := l.running.Load()
	if r == nil {
		return nil, nil
	}
	return r, r.view.Load()
}

// State says what a Destination of a name is to this cluster: Inside if it calls for one, Outside if it does not.
func (l *Local) State(ctx context.Context, name string) (istio.Membership, error) {
	o, err := l.inspect(ctx, name)
	return o.state, err
}

// Seen returns a Destination of this cluster that the hub has, with what this cluster sees in place of what is written there: of a
// Service with nothing behind it that is the Service alone. Identities that are written there stay as long as they may be true, as
// those that left have their grace. It returns nil if the cluster calls for no such Destination. d is not changed.
func (l *Local) Seen(ctx context.Context, d *v1alpha1.Destination) (*v1alpha1.Destination, error) {
	o, err := l.inspect(ctx, d.Name)
	k := &d.Spec.KubeService
	switch {
	case err != nil || o.state == istio.Outside:
		return nil, err
	case o.state == istio.Inside:
		o.spec.Identities = append(own(d.Spec.Identities, o.mesh, o.key.Namespace), o.spec.Identities...)
		slices.Sort(o.spec.Identities)
		o.spec.Identities = slices.Compact(o.spec.Identities)
	case o.service != nil:
		o.spec = *d.Spec.DeepCopy()
		o.spec.KubeService = istio.KubeService(o.service)
		o.spec.KubeService.Subsets = k.Subsets
	case d.Name != kube.Qualified(k.Name, k.Namespace):
		return nil, nil //nolint:nilnil // none is called for, as documented
	default:
		return d, nil
	}
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

// Workload is what this cluster sees of a controller, whatever the hub has; its spec is that of one that is Inside.
func (l *Local) Workload(ctx context.Context, kind, namespace, name string) (spec v1alpha1.WorkloadSpec, state istio.Membership, err error) {
	if emptyOf(kind) == nil {
		return spec, istio.Outside, nil
	}
	r, v := l.look()
	if v == nil {
		return spec, istio.Unknown, nil
	}
	w := workloads{r.discovery}
	return w.observe(ctx, v, request{Kind: kind, Namespace: namespace, Name: name}, nil)
}

// inspect looks at the Service that a Destination is named for.
func (l *Local) inspect(ctx context.Context, name string) (observed, error) {
	r, v := l.look()
	if r == nil {
		return observed{state: istio.Unknown}, nil
	}
	service, namespace, ok := strings.Cut(name, ".")
	if !ok {
		return observed{state: istio.Outside}, nil
	}
	if v == nil {
		return observed{state: istio.Unknown}, nil
	}
	return r.inspect(ctx, v, types.NamespacedName{Namespace: namespace, Name: service})
}

// Missing returns the names of Destinations that this cluster calls for and the hub does not have yet. It looks at every
// Service.
func (l *Local) Missing(ctx context.Context) (names []string, err error) {
	r, v := l.look()
	if v == nil || r.meshes.Load() == nil {
		return []string{"all"}, nil
	}
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
