package discovery

import (
	"context"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/istio"
	"github.com/isthmus-mesh/isthmus/internal/kube"
)

type reconcileSource = source.TypedSource[request]

// workloads keeps one Workload per controller whose pods are in a mesh.
type workloads struct{ *discovery }

// WorkloadName is the name of the Workload of a controller.
func WorkloadName(kind, name, namespace string) string {
	return kube.ShortName(strings.ToLower(kind)+"."+name+"."+namespace, 253)
}

func (d *discovery) addWorkloads(mgr ctrl.Manager, local, hub cache.Cache) (signal, error) {
	r := &workloads{d}
	c, err := newController(mgr, "discovery-workload", 4, r)
	if err != nil {
		return nil, err
	}
	all := newSignal()
	itself := func(o client.Object) []request {
		return []request{{Kind: kindOf(o), Namespace: o.GetNamespace(), Name: o.GetName()}}
	}
	for _, s := range []reconcileSource{
		watch(local, &appsv1.Deployment{}, templateChanged, func(_ context.Context, o *appsv1.Deployment) []request { return itself(o) }),
		watch(local, &appsv1.StatefulSet{}, templateChanged, func(_ context.Context, o *appsv1.StatefulSet) []request { return itself(o) }),
		watch(local, &appsv1.DaemonSet{}, templateChanged, func(_ context.Context, o *appsv1.DaemonSet) []request { return itself(o) }),
		watch(local, &corev1.Pod{}, podChanged, func(_ context.Context, p *corev1.Pod) []request {
			if owner, ok := istio.OwnerOf(p); ok {
				return []request{{Kind: owner.Kind, Namespace: p.Namespace, Name: owner.Name}}
			}
			return nil
		}),
		watch(local, &corev1.Namespace{}, labelsChanged, func(ctx context.Context, ns *corev1.Namespace) []request {
			return r.controllers(ctx, client.InNamespace(ns.Name))
		}),
		watchOwn(d, hub, &v1alpha1.Workload{}, specChanged, func(_ context.Context, o *v1alpha1.Workload) []request {
			ref := o.Spec.Controller
			req := request{Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name}
			if o.Name != WorkloadName(ref.Kind, ref.Name, ref.Namespace) {
				req.Stray = o.Name
			}
			return []request{req}
		}),
		all.source(func(ctx context.Context) []request { return append(r.controllers(ctx), r.known(ctx)...) }),
	} {
		if err := c.Watch(s); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func templateChanged[T client.Object](was, is T) bool {
	return !equality.Semantic.DeepEqual(template(was), template(is))
}

// controllers lists controllers of the cluster.
func (r *workloads) controllers(ctx context.Context, opts ...client.ListOption) []request {
	var out []request
	for _, kind := range controllers {
		list := kind.newList()
		if r.local.List(ctx, list, append(opts, client.UnsafeDisableDeepCopy)...) != nil {
			return nil // only the end of ctx
		}
		for _, o := range items(list) {
			out = append(out, request{Kind: kind.kind, Namespace: o.GetNamespace(), Name: o.GetName()})
		}
	}
	return out
}

// known lists the controllers that the hub has Workloads of.
func (r *workloads) known(ctx context.Context) []request {
	var list v1alpha1.WorkloadList
	if r.hub.List(ctx, &list, client.InNamespace(r.namespace), client.UnsafeDisableDeepCopy) != nil {
		return nil // only the end of ctx
	}
	var out []request
	for i := range list.Items {
		c := &list.Items[i].Spec.Controller
		out = append(out, request{Kind: c.Kind, Namespace: c.Namespace, Name: c.Name})
	}
	return out
}

// workloadKind is how Workloads are kept.
var workloadKind = kind[v1alpha1.WorkloadSpec]{
	empty: func() client.Object { return &v1alpha1.Workload{} },
	spec:  func(o client.Object) *v1alpha1.WorkloadSpec { return &o.(*v1alpha1.Workload).Spec },
	mesh:  func(s *v1alpha1.WorkloadSpec) string { return s.Mesh },
	gone:  "the controller is gone or in no mesh",
}

// Reconcile makes the hub have what is true of one controller.
func (r *workloads) Reconcile(ctx context.Context, req request) (reconcile.Result, error) {
	return keep(ctx, r.discovery, workloadKind, req, WorkloadName(req.Kind, req.Name, req.Namespace), r.observe)
}

// observe describes a controller. That it is gone is believed of the API server only, not of the cache.
func (r *workloads) observe(ctx context.Context, v *view, req request, _ *v1alpha1.WorkloadSpec) (v1alpha1.WorkloadSpec, istio.Membership, error) {
	var none v1alpha1.WorkloadSpec
	if v.excludes(req.Namespace) {
		return none, istio.Outside, nil
	}
	obj := emptyOf(req.Kind)
	if obj == nil { // written by another version, which knew more kinds
		return none, istio.Unknown, nil
	}
	key := types.NamespacedName{Namespace: req.Namespace, Name: req.Name}
	if err := r.local.Get(ctx, key, obj); err != nil {
		state, err := r.absent(ctx, err, key, obj)
		return none, state, err
	}
	ns, err := r.namespaceOf(ctx, req.Namespace)
	if err != nil {
		return none, istio.Unknown, err
	}
	var list corev1.PodList
	err = r.local.List(ctx, &list, client.InNamespace(req.Namespace),
		client.MatchingFields{byOwner: ownerKey(istio.Owner{Kind: req.Kind, Name: req.Name})}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return none, istio.Unknown, err
	}
	pods := make([]*corev1.Pod, len(list.Items))
	for i := range list.Items {
		pods[i] = &list.Items[i]
	}
	spec, mesh, state := v.Workload(asController(obj), ns, pods)
	if state == istio.Inside {
		spec.Cluster, spec.Mesh = r.cluster, r.meshName(mesh)
	}
	return spec, state, nil
}
