package discovery

import (
	"context"
	"maps"
	"slices"
	"sync/atomic"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/istio"
	"github.com/isthmus-mesh/isthmus/internal/kube"
)

// discovery is what the reconcilers share.
type discovery struct {
	cluster   string
	namespace string        // of the cluster, in the hub
	local     client.Reader // the stripped caches of the cluster
	live      client.Reader // the cluster's API server itself
	hub       client.Client
	view      atomic.Pointer[view]
	meshes    atomic.Pointer[map[string]v1alpha1.MeshSpec] // by name
	gateways  gatewaySet
	leaving   leaving
}

// view is what every answer depends on. Reconcilers of services and workloads wait for the first one and are told of each
// change.
type view struct {
	*istio.Installation
	excluded []string
	detector istio.GatewayDetector
}

func (v *view) equal(other *view) bool {
	return other != nil && v.Installation.Equal(other.Installation) && slices.Equal(v.excluded, other.excluded) &&
		v.detector.Equal(other.detector)
}

// excludes reports whether a namespace is not to be looked at.
func (v *view) excludes(namespace string) bool {
	return slices.Contains(istio.SystemNamespaces, namespace) || slices.Contains(v.excluded, namespace)
}

// request names an object of the cluster. Kind is empty for what needs none.
type request struct {
	Kind, Namespace, Name string
	// Stray is the name of an object in the hub that speaks of this one without having its name.
	Stray string
}

// controllers lists the kinds that make pods from templates.
var controllers = []struct {
	kind    string
	newList func() client.ObjectList
	newOne  func() client.Object
}{
	{"Deployment", func() client.ObjectList { return &appsv1.DeploymentList{} }, func() client.Object { return &appsv1.Deployment{} }},
	{"StatefulSet", func() client.ObjectList { return &appsv1.StatefulSetList{} }, func() client.Object { return &appsv1.StatefulSet{} }},
	{"DaemonSet", func() client.ObjectList { return &appsv1.DaemonSetList{} }, func() client.Object { return &appsv1.DaemonSet{} }},
}

// emptyOf returns an empty controller of a kind, nil if it is none of those.
func emptyOf(kind string) client.Object {
	for _, c := range controllers {
		if c.kind == kind {
			return c.newOne()
		}
	}
	return nil
}

// kindOf a Deployment, StatefulSet or DaemonSet.
func kindOf(o client.Object) string {
	switch o.(type) {
	case *appsv1.StatefulSet:
		return "StatefulSet"
	case *appsv1.DaemonSet:
		return "DaemonSet"
	}
	return "Deployment"
}

func asController(o client.Object) istio.Controller {
	return istio.Controller{Kind: kindOf(o), Name: o.GetName(), Selector: selector(o), Template: template(o)}
}

// items of a list of controllers, without copying them.
func items(list client.ObjectList) []client.Object {
	var out []client.Object
	switch l := list.(type) {
	case *appsv1.DeploymentList:
		for i := range l.Items {
			out = append(out, &l.Items[i])
		}
	case *appsv1.StatefulSetList:
		for i := range l.Items {
			out = append(out, &l.Items[i])
		}
	case *appsv1.DaemonSetList:
		for i := range l.Items {
			out = append(out, &l.Items[i])
		}
	}
	return out
}

// namespaceOf returns a namespace from the cache; one that is not there has no labels.
func (d *discovery) namespaceOf(ctx context.Context, name string) (*corev1.Namespace, error) {
	ns := &corev1.Namespace{}
	err := d.local.Get(ctx, types.NamespacedName{Name: name}, ns)
	ns.Name = name
	return ns, client.IgnoreNotFound(err)
}

// backends finds what a Service selects.
func (d *discovery) backends(ctx context.Context, s *corev1.Service) (istio.Backends, error) {
	var b istio.Backends
	if len(s.Spec.Selector) == 0 {
		return b, nil
	}
	opts := []client.ListOption{
		client.InNamespace(s.Namespace), client.MatchingFields{byLabel: selectivePair(s.Spec.Selector)}, client.UnsafeDisableDeepCopy,
	}
	var pods corev1.PodList
	if err := d.local.List(ctx, &pods, opts...); err != nil {
		return b, err
	}
	for i := range pods.Items {
		if pod := &pods.Items[i]; istio.Selects(s, pod.Labels) {
			b.Pods = append(b.Pods, pod)
		}
	}
	for _, kind := range controllers {
		list := kind.newList()
		if err := d.local.List(ctx, list, opts...); err != nil {
			return b, err
		}
		for _, o := range items(list) {
			if c := asController(o); istio.Selects(s, c.Template.Labels) {
				b.Controllers = append(b.Controllers, c)
			}
		}
	}
	return b, nil
}

// servicesFor returns the Services that select given labels.
func (d *discovery) servicesFor(ctx context.Context, namespace string, l map[string]string) []request {
	var out []request
	for _, pair := range pairs(l) {
		var list corev1.ServiceList
		if d.local.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{bySelector: pair}, client.UnsafeDisableDeepCopy) != nil {
			return nil // only the end of ctx
		}
		for i := range list.Items {
			if s := &list.Items[i]; istio.Selects(s, l) {
				out = append(out, request{Namespace: s.Namespace, Name: s.Name})
			}
		}
	}
	return out
}

// meshName is the name of the Mesh of a root namespace.
func (d *discovery) meshName(m *v1alpha1.IstioMesh) string {
	return kube.MeshName(m.RootNamespace, d.cluster)
}

// orphaned reports whether a Mesh that something was said to belong to is gone: from the hub, whence it is deleted on
// evidence only, and from what is seen of the cluster.
func (d *discovery) orphaned(ctx context.Context, v *view, mesh string) (bool, error) {
	for i := range v.Meshes {
		if d.meshName(&v.Meshes[i]) == mesh {
			return false, nil
		}
	}
	for _, root := range v.Incomplete {
		if kube.MeshName(root, d.cluster) == mesh {
			return false, nil
		}
	}
	err := d.hub.Get(ctx, types.NamespacedName{Namespace: d.namespace, Name: mesh}, &v1alpha1.Mesh{})
	return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
}

// put writes an object to the hub whole: nobody else has a say in what was discovered. have is the object as it was read,
// or nil. Labels that others add stay. What is in the namespace of the cluster is discovery's, whatever its labels say: those are
// written by whoever has the agent's credential in the hub, and what he writes is not to outlive it.
func (d *discovery) put(ctx context.Context, have, want client.Object) error {
	gvk, err := d.hub.GroupVersionKindFor(want)
	if err != nil {
		return err
	}
	log := ctrl.LoggerFrom(ctx).V(1).WithValues("kind", gvk.Kind, "name", want.GetName())
	labels := map[string]string{}
	maps.Copy(labels, want.GetLabels())
	labels[v1alpha1.LabelManagedBy] = fieldOwner
	want.SetLabels(labels)
	if have == nil {
		want.SetNamespace(d.namespace)
		if err := d.hub.Create(ctx, want, client.FieldOwner(fieldOwner)); err != nil {
			return err
		}
		log.Info("created in the hub")
		return nil
	}
	if err := d.hub.Patch(ctx, want, client.MergeFrom(have), client.FieldOwner(fieldOwner)); err != nil {
		return err
	}
	log.Info("changed in the hub")
	return nil
}

// remove deletes an object from the hub, as it was read.
func (d *discovery) remove(ctx context.Context, obj client.Object, why string) error {
	uid := obj.GetUID()
	err := d.hub.Delete(ctx, obj, client.Preconditions{UID: &uid})
	if err == nil {
		ctrl.LoggerFrom(ctx).Info("deleted from the hub", "name", obj.GetName(), "why", why)
	}
	return client.IgnoreNotFound(err)
}

// newController makes a controller. A request that fails is tried again within half a minute: the hub may have been away.
func newController(mgr ctrl.Manager, name string, concurrent int, r reconcile.TypedReconciler[request]) (controller.TypedController[request], error) {
	return controller.NewTyped(name, mgr, controller.TypedOptions[request]{
		Reconciler:              r,
		MaxConcurrentReconciles: concurrent,
		RateLimiter:             kube.Retries[request](),
	})
}

// watch makes a source that asks which requests an object concerns: when it comes, goes, and, as it was and is, when it
// changed.
func watch[T client.Object](c cache.Cache, kind T, changed func(was, is T) bool, concerns func(context.Context, T) []request,
	which ...predicate.TypedPredicate[T],
) source.TypedSource[request] {
	matters := predicate.TypedFuncs[T]{UpdateFunc: func(e event.TypedUpdateEvent[T]) bool { return changed(e.ObjectOld, e.ObjectNew) }}
	// Each is added once: what a worker has begun with already would be done again, with a cache that lacks what he wrote.
	return source.TypedKind(c, kind, handler.TypedEnqueueRequestsFromMapFunc(handler.TypedMapFunc[T, request](concerns)), append(which, matters)...)
}

// watchOwn watches what lies in the cluster's namespace of the hub.
func watchOwn[T client.Object](d *discovery, hub cache.Cache, kind T, changed func(was, is T) bool,
	concerns func(context.Context, T) []request,
) source.TypedSource[request] {
	return watch(hub, kind, changed, concerns, predicate.NewTypedPredicateFuncs(func(o T) bool { return o.GetNamespace() == d.namespace }))
}

// signal is how one reconciler tells others that everything has to be looked at again.
type signal chan event.TypedGenericEvent[struct{}]

func newSignal() signal { return make(signal, 1) }

func (s signal) send() {
	select {
	case s <- event.TypedGenericEvent[struct{}]{}:
	default: // one is waiting already
	}
}

// source makes requests of all that is listed when the signal comes.
func (s signal) source(all func(context.Context) []request) source.TypedSource[request] {
	var in <-chan event.TypedGenericEvent[struct{}] = s
	return source.TypedChannel(in, handler.TypedFuncs[struct{}, request]{
		GenericFunc: func(ctx context.Context, _ event.TypedGenericEvent[struct{}], q workqueue.TypedRateLimitingInterface[request]) {
			for _, r := range all(ctx) {
				q.Add(r)
			}
		},
	})
}

// What counts as a change.

func specChanged[T client.Object](was, is T) bool {
	return was.GetGeneration() != is.GetGeneration() || !maps.Equal(was.GetLabels(), is.GetLabels())
}

func labelsChanged[T client.Object](was, is T) bool {
	return !maps.Equal(was.GetLabels(), is.GetLabels())
}

func podChanged(was, is *corev1.Pod) bool {
	return was.Status.Phase != is.Status.Phase || !maps.Equal(was.Labels, is.Labels) || !maps.Equal(was.Annotations, is.Annotations)
}

func versionChanged[T client.Object](was, is T) bool {
	return was.GetResourceVersion() != is.GetResourceVersion()
}
