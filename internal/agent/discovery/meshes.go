package discovery

import (
	"context"
	"maps"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/istio"
	"github.com/isthmus-mesh/isthmus/internal/kube"
)

// meshes keeps the Meshes, of which a cluster has one or a few, and the view that all else depends on. Whatever changes,
// it looks at all of it.
type meshes struct {
	*discovery
	changed []signal
	had     []string // the names of the hub's Meshes when it was last looked at
}

func (d *discovery) addMeshes(mgr ctrl.Manager, local, hub cache.Cache, changed ...signal) error {
	r := &meshes{discovery: d, changed: changed}
	c, err := newController(mgr, "discovery-mesh", 1, r)
	if err != nil {
		return err
	}
	d.gateways.changed = newSignal()
	always := []request{{}}
	for _, s := range []reconcileSource{
		watch(local, &appsv1.Deployment{}, planeChanged, func(_ context.Context, o *appsv1.Deployment) []request {
			if istio.IsControlPlane(o) {
				return always
			}
			return nil
		}),
		watch(local, &corev1.ConfigMap{}, versionChanged, func(context.Context, *corev1.ConfigMap) []request { return always }),
		watch(local, &admissionv1.MutatingWebhookConfiguration{}, versionChanged,
			func(context.Context, *admissionv1.MutatingWebhookConfiguration) []request { return always }),
		watch(local, &corev1.Namespace{}, labelsChanged, func(_ context.Context, o *corev1.Namespace) []request {
			if r.isRoot(o.Name) {
				return always
			}
			return nil
		}),
		watch(local, &corev1.Service{}, versionChanged, func(_ context.Context, o *corev1.Service) []request {
			if r.view.Load() == nil || r.isRoot(o.Namespace) || r.gateways.has(client.ObjectKeyFromObject(o)) {
				return always
			}
			return nil
		}),
		d.gateways.changed.source(func(context.Context) []request { return always }),
		watch(local, &corev1.Pod{}, podMoved, func(_ context.Context, o *corev1.Pod) []request {
			if istio.ProxyOf(o, &corev1.Namespace{}).DataPlane == v1alpha1.DataPlaneGateway {
				return always
			}
			return nil
		}),
		watch(local, &corev1.Node{}, nodeMoved, func(context.Context, *corev1.Node) []request { return always }),
		watchOwn(d, hub, &v1alpha1.Mesh{}, specChanged, func(context.Context, *v1alpha1.Mesh) []request { return always }),
		watch(hub, &v1alpha1.Settings{}, versionChanged, func(context.Context, *v1alpha1.Settings) []request { return always }),
	} {
		if err := c.Watch(s); err != nil {
			return err
		}
	}
	return nil
}

func planeChanged(was, is *appsv1.Deployment) bool {
	return templateChanged(was, is) || !equality.Semantic.DeepEqual(was.Spec.Replicas, is.Spec.Replicas) || labelsChanged(was, is)
}

func podMoved(was, is *corev1.Pod) bool {
	return was.Spec.NodeName != is.Spec.NodeName || podChanged(was, is)
}

func nodeMoved(was, is *corev1.Node) bool {
	return !equality.Semantic.DeepEqual(was.Status.Addresses, is.Status.Addresses)
}

// isRoot reports whether a namespace is the root namespace of a mesh, or is not known not to be.
func (r *meshes) isRoot(namespace string) bool {
	v := r.view.Load()
	if v == nil || slices.Contains(v.Incomplete, namespace) {
		return true
	}
	_, ok := v.Mesh(namespace)
	return ok
}

// Reconcile looks at all control planes, tells the other reconcilers if their answers may have changed, and makes the hub
// have the Meshes.
func (r *meshes) Reconcile(ctx context.Context, _ request) (reconcile.Result, error) {
	v, err := r.look(ctx)
	for err == nil && !v.equal(r.view.Load()) {
		// Afterwards the reconciler of Destinations says what changes.
		if err := r.scan(ctx, v); err != nil {
			return reconcile.Result{}, err
		}
		r.view.Store(v)
		r.tell()
		v, err = r.look(ctx) // once more: what came meanwhile was judged by the old view to be no concern of ours
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	var list v1alpha1.MeshList
	if err := r.hub.List(ctx, &list, client.InNamespace(r.namespace), client.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, err
	}
	have := map[string]*v1alpha1.Mesh{}
	for i := range list.Items {
		have[list.Items[i].Name] = &list.Items[i]
	}
	// What was in a Mesh goes with it, and only now does the cache, of which the others ask whether it is gone, say so.
	if slices.ContainsFunc(r.had, func(name string) bool { return have[name] == nil }) {
		r.tell()
	}
	r.had = slices.Collect(maps.Keys(have))
	gateways, again, err := r.findGateways(ctx, v, list.Items)
	if err != nil {
		return reconcile.Result{}, err
	}
	specs := map[string]v1alpha1.MeshSpec{}
	for _, mesh := range v.Meshes {
		mesh.Gateways = istio.Preferred(gateways[mesh.RootNamespace])
		specs[r.meshName(&mesh)] = v1alpha1.MeshSpec{Cluster: r.cluster, Istio: mesh}
	}
	r.remember(specs, have)
	for name, want := range specs {
		old := have[name]
		delete(have, name)
		switch {
		case old == nil:
			obj := &v1alpha1.Mesh{Spec: *want.DeepCopy()} // into which the answer is read
			obj.Name = name
			err = r.put(ctx, nil, obj)
		case !equality.Semantic.DeepEqual(old.Spec, want):
			obj := old.DeepCopy()
			obj.Spec = *want.DeepCopy()
			err = r.put(ctx, old, obj)
		}
		if err != nil {
			return reconcile.Result{}, err
		}
	}
	for _, mesh := range have {
		if err := r.prune(ctx, mesh); err != nil {
			return reconcile.Result{}, err
		}
	}
	return reconcile.Result{RequeueAfter: again}, nil
}

// tell has the other reconcilers look at everything again.
func (r *meshes) tell() {
	for _, s := range r.changed {
		s.send()
	}
}

// remember keeps what is seen of the Meshes, and what was seen of those that the hub has and of which nothing can be said at present.
func (r *meshes) remember(specs map[string]v1alpha1.MeshSpec, have map[string]*v1alpha1.Mesh) {
	next := map[string]v1alpha1.MeshSpec{}
	if last := r.discovery.meshes.Load(); last != nil {
		maps.Copy(next, *last)
		maps.DeleteFunc(next, func(name string, _ v1alpha1.MeshSpec) bool { return have[name] == nil })
	}
	maps.Copy(next, specs)
	r.discovery.meshes.Store(&next)
}

// look reads the view from the caches.
func (r *meshes) look(ctx context.Context) (*view, error) {
	o, err := r.objects(ctx, r.local, client.MatchingFields{byRole: roleControlPlane}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, err
	}
	v := &view{Installation: istio.Read(o)}
	var settings v1alpha1.Settings
	err = r.hub.Get(ctx, types.NamespacedName{Namespace: v1alpha1.SystemNamespace, Name: v1alpha1.SettingsName}, &settings)
	if client.IgnoreNotFound(err) != nil {
		return nil, err
	}
	var discovery v1alpha1.DiscoverySettings
	switch accepted := settings.Status.Accepted; {
	case accepted != nil && accepted.Spec.Discovery != nil:
		discovery = *accepted.Spec.Discovery
	case err == nil && accepted == nil:
		// Settings that nobody has judged yet change nothing.
		if old := r.view.Load(); old != nil {
			v.excluded, v.detector = old.excluded, old.detector
			return v, nil
		}
	}
	v.excluded = slices.Sorted(slices.Values(discovery.ExcludedNamespaces))
	v.detector = istio.NewGatewayDetector(discovery.Istio, r.cluster)
	return v, nil
}

// objects reads what package istio wants to know of the control planes.
func (d *discovery) objects(ctx context.Context, from client.Reader, deployments ...client.ListOption) (istio.Objects, error) {
	var (
		o       istio.Objects
		istiods appsv1.DeploymentList
		configs corev1.ConfigMapList
		hooks   admissionv1.MutatingWebhookConfigurationList
	)
	if err := from.List(ctx, &istiods, deployments...); err != nil {
		return o, err
	}
	if err := from.List(ctx, &configs, client.HasLabels{istio.LabelRevision}); err != nil {
		return o, err
	}
	if err := from.List(ctx, &hooks); err != nil {
		return o, err
	}
	o.Deployments, o.ConfigMaps, o.Webhooks = istiods.Items, configs.Items, hooks.Items
	roots := map[string]bool{}
	for i := range o.Deployments {
		roots[o.Deployments[i].Namespace] = true
	}
	for i := range o.ConfigMaps {
		roots[o.ConfigMaps[i].Namespace] = true
	}
	called := map[types.NamespacedName]bool{}
	for i := range o.Webhooks {
		for j := range o.Webhooks[i].Webhooks {
			if ref := o.Webhooks[i].Webhooks[j].ClientConfig.Service; ref != nil {
				called[types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}] = true
				roots[ref.Namespace] = true
			}
		}
	}
	for key := range called {
		var s corev1.Service
		if err := from.Get(ctx, key, &s); err == nil {
			o.Services = append(o.Services, s)
		} else if client.IgnoreNotFound(err) != nil {
			return o, err
		}
	}
	for root := range roots {
		var ns corev1.Namespace
		if err := from.Get(ctx, types.NamespacedName{Name: root}, &ns); err == nil {
			o.Namespaces = append(o.Namespaces, ns)
		} else if client.IgnoreNotFound(err) != nil {
			return o, err
		}
	}
	return o, nil
}

// prune deletes a Mesh from the hub if the API server has nothing left of its control planes, configuration or webhooks.
func (r *meshes) prune(ctx context.Context, mesh *v1alpha1.Mesh) error {
	root := mesh.Spec.Istio.RootNamespace
	o, err := r.objects(ctx, r.live)
	if err != nil {
		return err
	}
	in := istio.Read(o)
	if _, there := in.Mesh(root); (there || slices.Contains(in.Incomplete, root)) && mesh.Name == kube.MeshName(root, r.cluster) {
		return nil
	}
	return r.remove(ctx, mesh, "nothing of Istio is left in its root namespace")
}
