package network

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
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
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/kube/hublink"
)

// Names of the controllers.
const (
	viewController   = "network-view"
	ownController    = "network-destination"
	importController = "network-import"
	meshController   = "network-mesh"
	externController = "network-external"
	reachController  = "network-reach"
	nameController   = "network-virtualdestination"
	controllers      = 7
)

var all = ctrl.Request{NamespacedName: types.NamespacedName{Name: "all"}}

// addControllers adds the controllers to the running manager.
func (n *network) addControllers() error {
	istio, hub := n.istio.GetCache(), n.hub.GetCache()
	own := func(o client.Object) bool { return o.GetNamespace() == n.namespace }

	destinations, err := n.add(ownController, 4, n.reconcileOwn,
		watch(hub, &v1alpha1.Destination{}, exportChanged, func(o *v1alpha1.Destination) []ctrl.Request {
			if !own(o) {
				return nil
			}
			return requestOf(o)
		}),
		watch(istio, &securityv1.AuthorizationPolicy{}, versionChanged, func(o *securityv1.AuthorizationPolicy) []ctrl.Request {
			if !isOurs(o) {
				return n.blocked.by(ownController, o)
			}
			return n.madeFor(o, true)
		}),
		watch(istio, &networkingv1.DestinationRule{}, versionChanged, func(o *networkingv1.DestinationRule) []ctrl.Request {
			if isOurs(o) {
				return nil
			}
			return n.ofNativeHost(o)
		}),
		watch(istio, &networkingv1.Gateway{}, versionChanged, func(o *networkingv1.Gateway) []ctrl.Request { return n.madeOrBlocked(ownController, o, true) }),
		watch(istio, &networkingv1.VirtualService{}, versionChanged, func(o *networkingv1.VirtualService) []ctrl.Request { return n.madeOrBlocked(ownController, o, true) }),
	)
	if err != nil {
		return err
	}
	n.addFlat = func() error {
		return destinations.Watch(watch(istio, &discoveryv1.EndpointSlice{}, versionChanged, func(o *discoveryv1.EndpointSlice) []ctrl.Request {
			return []ctrl.Request{{NamespacedName: types.NamespacedName{
				Namespace: n.namespace, Name: kube.Qualified(o.Labels[discoveryv1.LabelServiceName], o.Namespace),
			}}}
		}))
	}
	if _, err := n.add(importController, 4, n.reconcileImport,
		watch(hub, &v1alpha1.Destination{}, importChanged, func(o *v1alpha1.Destination) []ctrl.Request {
			if own(o) {
				return nil
			}
			return requestOf(o)
		}),
		watch(istio, &networkingv1.ServiceEntry{}, versionChanged, func(o *networkingv1.ServiceEntry) []ctrl.Request {
			if isOurs(o) {
				return n.madeFor(o, false)
			}
			n.reserve(client.ObjectKeyFromObject(o))
			return append(n.imports.ofHosts(o.Spec.Hosts), n.blocked.by(importController, o)...)
		}),
		watch(istio, &networkingv1.DestinationRule{}, versionChanged, func(o *networkingv1.DestinationRule) []ctrl.Request {
			if isOurs(o) {
				return n.madeFor(o, false)
			}
			return append(n.imports.covered(o.Spec.Host), n.blocked.by(importController, o)...)
		}),
		watch(istio, &networkingv1.Gateway{}, versionChanged, func(o *networkingv1.Gateway) []ctrl.Request { return n.madeOrBlocked(importController, o, false) }),
		watch(istio, &networkingv1.VirtualService{}, versionChanged, func(o *networkingv1.VirtualService) []ctrl.Request {
			return n.madeOrBlocked(importController, o, false)
		}),
		watch(istio, &securityv1.AuthorizationPolicy{}, versionChanged, func(o *securityv1.AuthorizationPolicy) []ctrl.Request {
			return n.madeOrBlocked(importController, o, false)
		}),
	); err != nil {
		return err
	}
	if _, err := n.add(meshController, 1, n.reconcileMesh,
		watch(hub, &v1alpha1.Mesh{}, versionChanged, func(o *v1alpha1.Mesh) []ctrl.Request {
			if !own(o) {
				return nil
			}
			return requestOf(o)
		}),
		watch(hub, &v1alpha1.Workload{}, specChanged, func(o *v1alpha1.Workload) []ctrl.Request {
			if o.Spec.DataPlane != v1alpha1.DataPlaneGateway {
				return nil
			}
			return n.ownMeshes()
		}),
		watch(istio, &networkingv1.Gateway{}, versionChanged, func(o *networkingv1.Gateway) []ctrl.Request {
			if isOurs(o) && o.Annotations[v1alpha1.AnnotationDestination] != "" {
				return nil
			}
			return n.ownMeshes()
		}),
		watch(istio, &securityv1.PeerAuthentication{}, versionChanged, func(*securityv1.PeerAuthentication) []ctrl.Request { return n.ownMeshes() }),
		watch(istio, &securityv1.AuthorizationPolicy{}, versionChanged, func(o *securityv1.AuthorizationPolicy) []ctrl.Request {
			if !isOurs(o) {
				return n.blocked.by(meshController, o)
			}
			if o.Annotations[v1alpha1.AnnotationDestination] != "" {
				return nil
			}
			return n.ownMeshes()
		}),
	); err != nil {
		return err
	}
	if _, err := n.add(externController, 1, n.reconcileExternal,
		watch(istio, &networkingv1.ServiceEntry{}, versionChanged, func(o *networkingv1.ServiceEntry) []ctrl.Request {
			if isOurs(o) {
				return nil
			}
			return requestOf(o)
		}),
		watch(istio, &networkingv1.DestinationRule{}, versionChanged, func(o *networkingv1.DestinationRule) []ctrl.Request {
			key, ok := strings.CutPrefix(o.Annotations[v1alpha1.AnnotationDestination], externalPrefix)
			namespace, name, _ := strings.Cut(key, "/")
			if !isOurs(o) {
				return append(n.blocked.by(externController, o), n.externalOf(o)...)
			}
			if !ok {
				return nil
			}
			return []ctrl.Request{{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}}}
		}),
	); err != nil {
		return err
	}
	if _, err := n.add(reachController, 1, n.reconcileReach,
		watch(hub, &v1alpha1.Mesh{}, specChanged, func(*v1alpha1.Mesh) []ctrl.Request { return n.ownMeshes() }),
	); err != nil {
		return err
	}
	if err := n.addNames(); err != nil {
		return err
	}
	once := func(client.Object) []ctrl.Request { return []ctrl.Request{all} }
	_, err = n.add(viewController, 1, n.reconcileView,
		watch(hub, &v1alpha1.VirtualMesh{}, versionChanged, func(o *v1alpha1.VirtualMesh) []ctrl.Request { return once(o) }),
		watch(hub, &v1alpha1.Mesh{}, versionChanged, func(o *v1alpha1.Mesh) []ctrl.Request { return once(o) }),
		watch(hub, &v1alpha1.AccessPolicy{}, versionChanged, func(o *v1alpha1.AccessPolicy) []ctrl.Request { return once(o) }),
	)
	return err
}

// add adds a controller.
func (n *network) add(name string, concurrent int, f reconcile.Func, sources ...source.Source) (controller.Controller, error) {
	c, err := controller.New(name, n.mgr, controller.Options{
		Reconciler:              f,
		MaxConcurrentReconciles: concurrent,
		RateLimiter:             kube.Retries[ctrl.Request](),
	})
	if err != nil {
		return nil, err
	}
	// The queue is kept, so that a change of the view can put into it what it concerns.
	queue := source.Func(func(_ context.Context, q workqueue.TypedRateLimitingInterface[ctrl.Request]) error {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.queueOf[name] = q
		if len(n.queueOf) == controllers {
			close(n.allQueues)
		}
		return nil
	})
	for _, s := range append([]source.Source{queue}, sources...) {
		if err := c.Watch(s); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// enqueue has a controller look at something.
func (n *network) enqueue(controller string, after time.Duration, requests ...ctrl.Request) {
	n.mu.Lock()
	q := n.queueOf[controller]
	n.mu.Unlock()
	if q == nil {
		return
	}
	for _, r := range requests {
		q.AddAfter(r, after)
	}
}

// reserve leaves a ServiceEntry of somebody else the addresses that the cache shows it to have.
func (n *network) reserve(key types.NamespacedName) {
	var e networkingv1.ServiceEntry
	// An error is that it is gone, or the end.
	_ = n.istio.GetCache().Get(context.Background(), key, &e, &client.GetOptions{UnsafeDisableDeepCopy: new(true)})
	n.lookAtHosts(n.addresses.reserve(key.String(), e.Spec.Addresses))
}

// lookAtHosts has what has hostnames of ours looked at.
func (n *network) lookAtHosts(hosts []string) {
	n.enqueue(importController, 0, n.imports.ofHosts(hosts)...)
	n.enqueue(nameController, 0, n.names.ofHosts(hosts)...)
}

func (n *network) lookAtMeshes(after time.Duration) {
	n.enqueue(meshController, after, n.ownMeshes()...)
}

func (n *network) ownMeshes() (out []ctrl.Request) {
	v := n.view.Load()
	if v == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(v.own)) {
		out = append(out, ctrl.Request{NamespacedName: types.NamespacedName{Namespace: n.namespace, Name: name}})
	}
	return out
}

// madeFor is the Destination for which an object of ours was made: one of this cluster, or one of another.
func (n *network) madeFor(o client.Object, own bool) []ctrl.Request {
	namespace, name, ok := strings.Cut(o.GetAnnotations()[v1alpha1.AnnotationDestination], "/")
	if !ok || !isOurs(o) || (namespace == n.namespace) != own || isPrefixed(namespace) {
		return nil
	}
	return []ctrl.Request{{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}}}
}

// madeOrBlocked are the Destinations that an object concerns: that for which it was made, or if somebody else has made it that of a
// controller which waits for it to go.
func (n *network) madeOrBlocked(controller string, o client.Object, own bool) []ctrl.Request {
	if !isOurs(o) {
		return n.blocked.by(controller, o)
	}
	return n.madeFor(o, own)
}

// ofNativeHost are the Destinations of this cluster that a DestinationRule of somebody else is about.
func (n *network) ofNativeHost(rule *networkingv1.DestinationRule) (out []ctrl.Request) {
	if strings.HasPrefix(rule.Spec.Host, "*") {
		v := n.view.Load()
		if v == nil {
			return nil
		}
		for d := range n.destinations(n.namespace) {
			if mesh := v.own[d.Spec.Mesh]; mesh != nil && slices.Contains(nativeHosts(mesh, &d.Spec.KubeService), rule.Spec.Host) {
				out = append(out, requestOf(d)...)
			}
		}
		return out
	}
	parts := strings.Split(rule.Spec.Host, ".")
	service, namespace := parts[0], rule.Namespace
	if len(parts) > 1 {
		namespace = parts[1]
	}
	if service == "" || strings.Contains(service, "*") {
		return nil
	}
	return []ctrl.Request{{NamespacedName: types.NamespacedName{Namespace: n.namespace, Name: kube.Qualified(service, namespace)}}}
}

func requestOf(o client.Object) []ctrl.Request {
	return []ctrl.Request{{NamespacedName: client.ObjectKeyFromObject(o)}}
}

// watch makes a source that asks which requests an object concerns: when it comes, goes, and, as it was and is, when it
// changed.
func watch[T client.Object](c cache.Cache, kind T, changed func(was, is T) bool, concerns func(T) []ctrl.Request) source.Source {
	matters := predicate.TypedFuncs[T]{UpdateFunc: func(e event.TypedUpdateEvent[T]) bool { return changed(e.ObjectOld, e.ObjectNew) }}
	// Each is added once: what a worker has begun with already would be done again, with a cache that lacks what he wrote.
	return source.Kind(c, kind, handler.TypedEnqueueRequestsFromMapFunc(func(_ context.Context, o T) []ctrl.Request { return concerns(o) }), matters)
}

// What counts as a change.

func versionChanged[T client.Object](was, is T) bool {
	return was.GetResourceVersion() != is.GetResourceVersion()
}

func specChanged[T client.Object](was, is T) bool {
	return was.GetGeneration() != is.GetGeneration() || !maps.Equal(was.GetLabels(), is.GetLabels())
}

// exportChanged also sees that somebody has changed what is reported.
func exportChanged(was, is *v1alpha1.Destination) bool {
	return specChanged(was, is) || !equality.Semantic.DeepEqual(was.Status, is.Status)
}

func importChanged(was, is *v1alpha1.Destination) bool {
	return specChanged(was, is) || hublink.IsHeld(was) != hublink.IsHeld(is) ||
		!equality.Semantic.DeepEqual(was.Status.AppliedFederation, is.Status.AppliedFederation)
}
