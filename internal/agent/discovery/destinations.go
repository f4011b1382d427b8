package discovery

import (
	"context"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/istio"
	"github.com/isthmus-mesh/isthmus/internal/kube"
)

// destinations keeps one Destination per Service of a mesh.
type destinations struct{ *discovery }

func (d *discovery) addDestinations(mgr ctrl.Manager, local, hub cache.Cache) (signal, error) {
	d.leaving.grace = identityGrace
	r := &destinations{d}
	c, err := newController(mgr, "discovery-destination", 4, r)
	if err != nil {
		return nil, err
	}
	all := newSignal()
	behind := func(ctx context.Context, o client.Object) []request {
		return d.servicesFor(ctx, o.GetNamespace(), template(o).Labels)
	}
	for _, s := range []reconcileSource{
		watch(local, &corev1.Service{}, versionChanged, func(_ context.Context, s *corev1.Service) []request {
			return []request{{Namespace: s.Namespace, Name: s.Name}}
		}),
		watch(local, &corev1.Pod{}, podChanged, func(ctx context.Context, p *corev1.Pod) []request {
			return d.servicesFor(ctx, p.Namespace, p.Labels)
		}),
		watch(local, &appsv1.Deployment{}, templateChanged, func(ctx context.Context, o *appsv1.Deployment) []request { return behind(ctx, o) }),
		watch(local, &appsv1.StatefulSet{}, templateChanged, func(ctx context.Context, o *appsv1.StatefulSet) []request { return behind(ctx, o) }),
		watch(local, &appsv1.DaemonSet{}, templateChanged, func(ctx context.Context, o *appsv1.DaemonSet) []request { return behind(ctx, o) }),
		watch(local, &corev1.Namespace{}, labelsChanged, func(ctx context.Context, ns *corev1.Namespace) []request {
			return r.services(ctx, client.InNamespace(ns.Name))
		}),
		watchOwn(d, hub, &v1alpha1.Destination{}, specChanged, func(_ context.Context, o *v1alpha1.Destination) []request {
			req := request{Namespace: o.Spec.KubeService.Namespace, Name: o.Spec.KubeService.Name}
			if o.Name != kube.Qualified(req.Name, req.Namespace) {
				req.Stray = o.Name
			}
			return []request{req}
		}),
		all.source(func(ctx context.Context) []request { return append(r.services(ctx), r.known(ctx)...) }),
	} {
		if err := c.Watch(s); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// services lists Services of the cluster.
func (r *destinations) services(ctx context.Context, opts ...client.ListOption) []request {
	var list corev1.ServiceList
	if r.local.List(ctx, &list, append(opts, client.UnsafeDisableDeepCopy)...) != nil {
		return nil // only the end of ctx
	}
	out := make([]request, len(list.Items))
	for i := range list.Items {
		out[i] = request{Namespace: list.Items[i].Namespace, Name: list.Items[i].Name}
	}
	return out
}

// known lists the Services that the hub has Destinations of.
func (r *destinations) known(ctx context.Context) []request {
	var list v1alpha1.DestinationList
	if r.hub.List(ctx, &list, client.InNamespace(r.namespace), client.UnsafeDisableDeepCopy) != nil {
		return nil // only the end of ctx
	}
	var out []request
	for i := range list.Items {
		s := &list.Items[i].Spec.KubeService
		out = append(out, request{Namespace: s.Namespace, Name: s.Name})
	}
	return out
}

// destinationKind is how Destinations are kept.
var destinationKind = kind[v1alpha1.DestinationSpec]{
	empty: func() client.Object { return &v1alpha1.Destination{} },
	spec:  func(o client.Object) *v1alpha1.DestinationSpec { return &o.(*v1alpha1.Destination).Spec },
	mesh:  func(s *v1alpha1.DestinationSpec) string { return s.Mesh },
	gone:  "the Service is gone or in no mesh",
}

// Reconcile makes the hub have what is true of one Service, but for identities that are still in their grace.
func (r *destinations) Reconcile(ctx context.Context, req request) (reconcile.Result, error) {
	name := kube.Qualified(req.Name, req.Namespace)
	var again time.Duration
	result, err := keep(ctx, r.discovery, destinationKind, req, name,
		func(ctx context.Context, v *view, req request, published *v1alpha1.DestinationSpec) (v1alpha1.DestinationSpec, istio.Membership, error) {
			o, err := r.inspect(ctx, v, types.NamespacedName{Namespace: req.Namespace, Name: req.Name})
			if err != nil {
				return o.spec, o.state, err
			}
			switch o.state {
			case istio.Outside:
				r.leaving.forget(name)
				r.gateways.set(o.key, false)
			case istio.Inside:
				r.gateways.set(o.key, o.gateway != "")
				if published != nil {
					o.spec.Identities, again = r.leaving.keep(name, own(published.Identities, o.mesh, req.Namespace), o.spec.Identities, time.Now())
				}
			}
			return o.spec, o.state, nil
		})
	if err == nil && result.RequeueAfter == 0 {
		result.RequeueAfter = again
	}
	return result, err
}

// own returns those identities that a mesh gives in a namespace. Others were never true of a Service there, or are refused by
// every other mesh since the trust domain is another.
func own(identities []string, mesh *v1alpha1.IstioMesh, namespace string) []string {
	return slices.DeleteFunc(slices.Clone(identities), func(id string) bool {
		return !strings.HasPrefix(id, istio.Identity(mesh.TrustDomain, namespace, ""))
	})
}

// observed is what is true of a Service.
type observed struct {
	key     types.NamespacedName
	state   istio.Membership
	spec    v1alpha1.DestinationSpec
	mesh    *v1alpha1.IstioMesh
	gateway v1alpha1.GatewayClass // empty if it is not a gateway's
	service *corev1.Service
	behind  istio.Backends
}

// inspect looks at a Service and what is behind it. That it is gone is believed of the API server only, not of the cache: one that the
// cache does not have yet is taken from there.
func (d *discovery) inspect(ctx context.Context, v *view, key types.NamespacedName) (observed, error) {
	o := observed{key: key, state: istio.Unknown}
	if v.excludes(key.Namespace) {
		o.state = istio.Outside
		return o, nil
	}
	s := &corev1.Service{}
	if err := d.local.Get(ctx, key, s); err != nil {
		if o.state, err = d.absent(ctx, err, key, s); err != nil || o.state == istio.Outside {
			return o, err
		}
	}
	ns, err := d.namespaceOf(ctx, s.Namespace)
	if err != nil {
		return o, err
	}
	if o.behind, err = d.backends(ctx, s); err != nil {
		return o, err
	}
	o.service = s
	o.spec, o.mesh, o.state = v.Destination(s, ns, o.behind)
	if o.state == istio.Inside {
		o.spec.Cluster, o.spec.Mesh = d.cluster, d.meshName(o.mesh)
		o.gateway = v.GatewayClass(v.detector, s, ns, o.behind)
	}
	return o, nil
}
