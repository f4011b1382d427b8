package accepting

import (
	"context"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/hub/summary"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// byPolicy indexes Destinations by the names of the AccessPolicies that they apply or reject.
const byPolicy = "accessPolicies"

// AccessPolicies judges AccessPolicies and sums up what became of them.
type AccessPolicies struct {
	Client client.Client
	// Reader reads from the API server itself: a status that is as it should be is not written, so by an old one from the cache
	// another would be left as it is, and nothing tells of that later.
	Reader    client.Reader
	Events    events.EventRecorder
	Namespace string
}

// SetupWithManager registers the controller.
func (r *AccessPolicies) SetupWithManager(mgr ctrl.Manager) error {
	if err := mgr.GetFieldIndexer().IndexField(context.Background(), &v1alpha1.Destination{}, byPolicy, func(o client.Object) []string {
		return policiesOf(o.(*v1alpha1.Destination))
	}); err != nil {
		return err
	}
	all := handler.EnqueueRequestsFromMapFunc(r.all)
	return ctrl.NewControllerManagedBy(mgr).Named("accepting-accesspolicies").
		For(&v1alpha1.AccessPolicy{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.VirtualMesh{}, all, builder.WithPredicates(acceptedChanged)).
		Watches(&v1alpha1.KubernetesCluster{}, all, builder.WithPredicates(connectedChanged)).
		Watches(&v1alpha1.Mesh{}, whatIsApplied(r.all, changedPolicies)).
		Watches(&v1alpha1.Destination{}, later(func(_ context.Context, d *v1alpha1.Destination) []reconcile.Request {
			return requests(policiesOf(d))
		})).
		Complete(r)
}

// Reconcile judges one AccessPolicy.
func (r *AccessPolicies) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	live := &v1alpha1.AccessPolicy{}
	if err := r.Reader.Get(ctx, req.NamespacedName, live); err != nil || !live.DeletionTimestamp.IsZero() {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	f, err := fleetOf(ctx, r.Client, r.Namespace)
	if err != nil {
		return reconcile.Result{}, err
	}
	var clusters []string
	for i := range f.clusters {
		clusters = append(clusters, f.clusters[i].Name)
	}
	name := kube.Qualified(live.Name, live.Namespace)
	in := summary.PolicyInput{}
	in.Accepted, in.Findings = accept.AccessPolicy(live.Status.Accepted, live, clusters)
	if in.Members, err = r.members(ctx, f, name); err != nil {
		return reconcile.Result{}, err
	}
	if in.Destinations, err = r.destinations(ctx, name); err != nil {
		return reconcile.Result{}, err
	}
	want := &v1alpha1.AccessPolicy{ObjectMeta: metav1.ObjectMeta{Name: live.Name, Namespace: live.Namespace}}
	var conditions []metav1.Condition
	want.Status, conditions = summary.OfPolicy(in)
	want.Status.ObservedGeneration = live.Generation
	want.Status.Conditions = finding.Conditions(live.Status.Conditions, live.Generation, conditions...)
	if err := kube.ApplyStatus(ctx, r.Client, owner, live, want); err != nil {
		return reconcile.Result{}, err
	}
	finding.Announce(r.Events, live, live.Status.Conditions, actionAccept, *meta.FindStatusCondition(conditions, v1alpha1.ConditionReady))
	return reconcile.Result{}, nil
}

// members are the meshes in which policies apply, with what they say of one.
func (r *AccessPolicies) members(ctx context.Context, f fleet, policy string) (out []summary.PolicyMember, err error) {
	var list v1alpha1.VirtualMeshList
	if err := r.Client.List(ctx, &list, client.InNamespace(r.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	away := f.away()
	for i := range list.Items {
		vm := membership.Of(&list.Items[i], f.meshes)
		if vm == nil || !list.Items[i].DeletionTimestamp.IsZero() {
			continue
		}
		for _, m := range vm.Members {
			member := summary.PolicyMember{Name: membership.MeshKey(m), Away: away[m.Namespace]}
			for _, a := range m.Status.AppliedAccessPolicies {
				if a.Name == policy {
					member.Generation = a.Generation
				}
			}
			out = append(out, member)
		}
	}
	return out, nil
}

// destinations sums up how those that a policy selects received it.
func (r *AccessPolicies) destinations(ctx context.Context, policy string) (*summary.Destinations, error) {
	list := &v1alpha1.DestinationList{}
	if err := r.Client.List(ctx, list, client.MatchingFields{byPolicy: policy}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	var sum summary.Destinations
	for i := range list.Items {
		sum.AddForPolicy(policy, &list.Items[i])
	}
	return &sum, nil
}

func policiesOf(d *v1alpha1.Destination) (names []string) {
	names = append(names, d.Status.AppliedAccessPolicies...)
	for _, rejected := range d.Status.RejectedAccessPolicies {
		names = append(names, rejected.Name)
	}
	return names
}

// requests are for policies of names "<name>.<namespace>".
func requests(names []string) (out []reconcile.Request) {
	for _, n := range names {
		if name, namespace, ok := kube.SplitQualified(n); ok {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKey{Namespace: namespace, Name: name}})
		}
	}
	return out
}

func (r *AccessPolicies) all(ctx context.Context, _ client.Object) (out []reconcile.Request) {
	list := &v1alpha1.AccessPolicyList{}
	if err := r.Client.List(ctx, list, client.InNamespace(r.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		log.FromContext(ctx).Error(err, "AccessPolicies are not looked at again")
		return nil
	}
	for i := range list.Items {
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return out
}

func changedPolicies(was, is *v1alpha1.MeshStatus) []string {
	return difference(was.AppliedAccessPolicies, is.AppliedAccessPolicies, func(a *v1alpha1.AppliedAccessPolicy) string { return a.Name })
}

// acceptedChanged lets a VirtualMesh pass that comes or goes, is deleted, or of which something else is in force.
var acceptedChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	was, ok1 := e.ObjectOld.(*v1alpha1.VirtualMesh)
	is, ok2 := e.ObjectNew.(*v1alpha1.VirtualMesh)
	return ok1 && ok2 && (was.DeletionTimestamp.IsZero() != is.DeletionTimestamp.IsZero() ||
		!equality.Semantic.DeepEqual(was.Status.Accepted, is.Status.Accepted))
}}

// connectedChanged lets a KubernetesCluster pass that comes or goes, or is connected or not any more.
var connectedChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	was, ok1 := e.ObjectOld.(*v1alpha1.KubernetesCluster)
	is, ok2 := e.ObjectNew.(*v1alpha1.KubernetesCluster)
	connected := func(kc *v1alpha1.KubernetesCluster) bool {
		return meta.IsStatusConditionTrue(kc.Status.Conditions, v1alpha1.ConditionConnected)
	}
	return ok1 && ok2 && connected(was) != connected(is)
}}
