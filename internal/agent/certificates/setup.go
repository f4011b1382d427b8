package certificates

import (
	"context"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent/evidence"
	"github.com/isthmus-mesh/isthmus/internal/agent/vault"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/kube/hublink"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// DefaultProjection is how late kubelets project a changed ConfigMap with their defaults: once a minute, from a cache that may be
// half a minute old.
const DefaultProjection = 90 * time.Second

// Options of the agent's certificates.
type Options struct {
	// Cluster is the registered name of this cluster.
	Cluster string
	// Namespace of the agent in this cluster.
	Namespace string
	// RootNamespaces of Istio in this cluster.
	RootNamespaces []string
	// Projection is how late kubelets of this cluster may project a changed ConfigMap.
	Projection time.Duration
	// Vault says which Vault servers this cluster lets the agent ask, and with what.
	Vault vault.Options
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Cached says of which Secrets the agent's manager keeps metadata: its own, and cacerts of each root namespace.
func Cached(namespace string, rootNamespaces []string) cache.ByObject {
	namespaces := map[string]cache.Config{namespace: {}}
	for _, ns := range rootNamespaces {
		namespaces[ns] = cache.Config{FieldSelector: fields.OneTermEqualSelector("metadata.name", CACertsName)}
	}
	return cache.ByObject{Namespaces: namespaces}
}

// Setup adds both halves to the agent's manager, the one that needs the hub by the link.
func Setup(mgr ctrl.Manager, link *hublink.Link, o Options) error {
	if o.Now == nil {
		o.Now = time.Now
	}
	a := &agent{Options: o, reports: NewReports()}
	a.store = &store{Client: mgr.GetClient(), reader: mgr.GetAPIReader(), namespace: o.Namespace}
	var err error
	o.Vault.Cluster = o.Cluster
	if a.vault, err = vault.New(o.Vault, o.Namespace, mgr.GetClient(), mgr.GetAPIReader()); err != nil {
		return err
	}
	link.Setup(a.setupRequesting, &v1alpha1.IssuedCertificate{}, &v1alpha1.CertificateRequest{}, &v1alpha1.Mesh{})
	link.Setup(a.setupAuthority, &v1alpha1.Mesh{})
	link.Setup(a.setupVault, &v1alpha1.Mesh{}, &v1alpha1.VirtualMesh{})
	return a.setupInstalling(mgr)
}

type agent struct {
	Options
	store   *store
	reports *Reports
	vault   *vault.Client
}

// setupInstalling adds the half that works without the hub.
func (a *agent) setupInstalling(mgr ctrl.Manager) error {
	i := &Installer{
		Client: mgr.GetClient(), Reader: mgr.GetAPIReader(), Recorder: mgr.GetEventRecorder(managedBy), Now: a.Now,
		store: a.store, reports: a.reports, single: len(a.RootNamespaces) == 1, projection: a.Projection,
	}
	return builder.ControllerManagedBy(mgr).Named("installing").
		WithOptions(controller.Options{RateLimiter: kube.Retries[reconcile.Request]()}).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
			if mesh := o.GetAnnotations()[AnnotationMesh]; o.GetNamespace() == a.Namespace && strings.HasPrefix(o.GetName(), WantedPrefix) && mesh != "" {
				return requestFor(mesh)
			}
			return a.meshOf(o)
		})).
		Watches(&appsv1.Deployment{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
			return a.meshOf(o)
		})).
		Watches(&corev1.Pod{}, a.pods(), builder.WithPredicates(podMatters())).
		Complete(i)
}

// gatewaysOf are the orders for gateways to which a pod may belong.
func (a *agent) gatewaysOf(o client.Object) (out []reconcile.Request) {
	if o.GetLabels()[v1alpha1.LabelGateway] == "" {
		return nil
	}
	for _, ns := range a.RootNamespaces {
		out = append(out, requestFor(membership.GatewayOrder(kube.MeshName(ns, a.Cluster)))...)
	}
	return out
}

// meshOf is the mesh of an object in a root namespace.
func (a *agent) meshOf(o client.Object) []reconcile.Request {
	if !slices.Contains(a.RootNamespaces, o.GetNamespace()) {
		return nil
	}
	return requestFor(kube.MeshName(o.GetNamespace(), a.Cluster))
}

func requestFor(mesh string) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: mesh}}}
}

// settle is how long changes of pods are gathered: a rollout changes many.
const settle = 3 * time.Second

// pods leads from a pod to its mesh: at once from a pod of istiod's namespace, after a while from a proxy anywhere.
func (a *agent) pods() handler.EventHandler {
	enqueue := func(o client.Object, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		for _, r := range append(a.meshOf(o), a.gatewaysOf(o)...) {
			q.Add(r)
		}
		pod, ok := o.(*corev1.Pod)
		if !ok || evidence.ProxyContainer(&pod.Spec) == nil {
			return
		}
		for _, ns := range a.RootNamespaces {
			q.AddAfter(requestFor(kube.MeshName(ns, a.Cluster))[0], settle)
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			enqueue(e.Object, q)
		},
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			enqueue(e.ObjectNew, q)
		},
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			enqueue(e.Object, q)
		},
	}
}

// podMatters passes changes of what a proxy or istiod is reached at, and of whether it runs.
func podMatters() predicate.Predicate {
	type facts struct {
		ip       string
		phase    corev1.PodPhase
		ready    bool
		deleting bool
	}
	of := func(o client.Object) facts {
		pod, ok := o.(*corev1.Pod)
		if !ok {
			return facts{}
		}
		f := facts{ip: pod.Status.PodIP, phase: pod.Status.Phase, deleting: pod.DeletionTimestamp != nil}
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady {
				f.ready = c.Status == corev1.ConditionTrue
			}
		}
		return f
	}
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool { return of(e.ObjectOld) != of(e.ObjectNew) }}
}

// setupRequesting adds the half that needs the hub.
func (a *agent) setupRequesting(_ context.Context, mgr ctrl.Manager, hub cluster.Cluster) error {
	r := &Requester{
		Hub: hub.GetClient(), HubReader: hub.GetAPIReader(), Cluster: a.Cluster, RootNamespaces: a.RootNamespaces,
		Now: a.Now, store: a.store, reports: a.reports, vault: newVaultSigner(a.vault),
	}
	namespace := kube.ClusterNamespace(a.Cluster)
	order := func(name string) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}}}
	}
	return builder.ControllerManagedBy(mgr).Named("requesting").
		WithOptions(controller.Options{RateLimiter: kube.Retries[reconcile.Request]()}).
		WatchesRawSource(source.Kind(hub.GetCache(), &v1alpha1.IssuedCertificate{}, &handler.TypedEnqueueRequestForObject[*v1alpha1.IssuedCertificate]{})).
		WatchesRawSource(source.Kind(hub.GetCache(), &v1alpha1.CertificateRequest{}, handler.TypedEnqueueRequestsFromMapFunc(
			func(_ context.Context, r *v1alpha1.CertificateRequest) []reconcile.Request {
				return order(r.Spec.IssuedCertificate)
			}))).
		WatchesRawSource(source.Kind(hub.GetCache(), &v1alpha1.Mesh{}, handler.TypedEnqueueRequestsFromMapFunc(
			func(_ context.Context, m *v1alpha1.Mesh) []reconcile.Request {
				return order(membership.GatewayOrder(m.Name))
			}),
			predicate.NewTypedPredicateFuncs(func(m *v1alpha1.Mesh) bool { return m.Namespace == namespace && m.Status.GatewayCertificate == nil }))).
		WatchesRawSource(source.Channel(a.reports.changed, handler.TypedEnqueueRequestsFromMapFunc(
			func(_ context.Context, mesh string) []reconcile.Request { return order(mesh) }))).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
			return a.ofToken(o, order)
		})).
		Complete(r)
}

// ofToken leads from a Secret of this namespace that somebody else writes, which may be a token of Vault, to what each mesh
// has asked of that.
func (a *agent) ofToken(o client.Object, of func(mesh string) []reconcile.Request) (out []reconcile.Request) {
	if o.GetNamespace() != a.Namespace || o.GetLabels()[v1alpha1.LabelManagedBy] != "" {
		return nil
	}
	for _, ns := range a.RootNamespaces {
		out = append(out, of(kube.MeshName(ns, a.Cluster))...)
	}
	return out
}

// setupVault adds the report on Vault's root and the credential for it.
func (a *agent) setupVault(_ context.Context, mgr ctrl.Manager, hub cluster.Cluster) error {
	r := &VaultReporter{Hub: hub.GetClient(), RootNamespaces: a.RootNamespaces, Now: a.Now, vault: newVaultSigner(a.vault)}
	namespace := kube.ClusterNamespace(a.Cluster)
	mesh := func(name string) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}}}
	}
	return builder.ControllerManagedBy(mgr).Named("vault").
		WithOptions(controller.Options{RateLimiter: kube.Retries[reconcile.Request]()}).
		WatchesRawSource(source.Kind(hub.GetCache(), &v1alpha1.Mesh{}, &handler.TypedEnqueueRequestForObject[*v1alpha1.Mesh]{},
			predicate.NewTypedPredicateFuncs(func(m *v1alpha1.Mesh) bool { return m.Namespace == namespace }),
			predicate.TypedGenerationChangedPredicate[*v1alpha1.Mesh]{})).
		WatchesRawSource(source.Kind(hub.GetCache(), &v1alpha1.VirtualMesh{}, handler.TypedEnqueueRequestsFromMapFunc(
			func(_ context.Context, _ *v1alpha1.VirtualMesh) (out []reconcile.Request) {
				for _, ns := range a.RootNamespaces {
					out = append(out, mesh(kube.MeshName(ns, a.Cluster))...)
				}
				return out
			}), predicate.TypedFuncs[*v1alpha1.VirtualMesh]{UpdateFunc: func(e event.TypedUpdateEvent[*v1alpha1.VirtualMesh]) bool {
			return !equality.Semantic.DeepEqual(e.ObjectOld.Status.Accepted, e.ObjectNew.Status.Accepted)
		}})).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
			return a.ofToken(o, mesh)
		})).
		Complete(r)
}

// setupAuthority adds the report on each mesh's CA.
func (a *agent) setupAuthority(_ context.Context, mgr ctrl.Manager, hub cluster.Cluster) error {
	r := &AuthorityReporter{Hub: hub.GetClient(), Client: mgr.GetClient(), Reader: mgr.GetAPIReader(), RootNamespaces: a.RootNamespaces, Now: a.Now}
	namespace := kube.ClusterNamespace(a.Cluster)
	local := func(o client.Object) []reconcile.Request {
		reqs := a.meshOf(o)
		for i := range reqs {
			reqs[i].Namespace = namespace
		}
		return reqs
	}
	return builder.ControllerManagedBy(mgr).Named("authority").
		WithOptions(controller.Options{RateLimiter: kube.Retries[reconcile.Request]()}).
		WatchesRawSource(source.Kind(hub.GetCache(), &v1alpha1.Mesh{}, &handler.TypedEnqueueRequestForObject[*v1alpha1.Mesh]{},
			predicate.NewTypedPredicateFuncs(func(m *v1alpha1.Mesh) bool { return m.Namespace == namespace }))).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request { return local(o) })).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request { return local(o) }),
			builder.WithPredicates(podMatters(), predicate.NewPredicateFuncs(func(o client.Object) bool {
				pod, ok := o.(*corev1.Pod)
				return ok && len(evidence.Replicas([]corev1.Pod{*pod})) > 0
			}))).
		Complete(r)
}
