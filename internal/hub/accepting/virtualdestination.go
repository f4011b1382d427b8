package accepting

import (
	"context"

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

// VirtualDestinations judges VirtualDestinations and sums up what became of them.
type VirtualDestinations struct {
	Client client.Client
	// Reader reads from the API server itself: of two that ask for one hostname the second must see that the first has it; and as
	// that of AccessPolicies does.
	Reader    client.Reader
	Events    events.EventRecorder
	Namespace string
}

// SetupWithManager registers the controller.
func (r *VirtualDestinations) SetupWithManager(mgr ctrl.Manager) error {
	all := handler.EnqueueRequestsFromMapFunc(r.all)
	return ctrl.NewControllerManagedBy(mgr).Named("accepting-virtualdestinations").
		For(&v1alpha1.VirtualDestination{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		// One that gives up its hostname, by an edit or because it goes, may let another one have it.
		Watches(&v1alpha1.VirtualDestination{}, all, builder.WithPredicates(predicate.Funcs{
			CreateFunc: func(event.CreateEvent) bool { return false },
			UpdateFunc: func(e event.UpdateEvent) bool {
				was, ok1 := e.ObjectOld.(*v1alpha1.VirtualDestination)
				is, ok2 := e.ObjectNew.(*v1alpha1.VirtualDestination)
				return ok1 && ok2 && was.Status.Accepted != nil && (is.Status.Accepted == nil || was.Status.Accepted.Hostname != is.Status.Accepted.Hostname ||
					was.Status.Accepted.Spec.VirtualMesh != is.Status.Accepted.Spec.VirtualMesh)
			},
		})).
		Watches(&v1alpha1.VirtualMesh{}, all, builder.WithPredicates(acceptedChanged)).
		Watches(&v1alpha1.KubernetesCluster{}, all, builder.WithPredicates(connectedChanged)).
		Watches(&v1alpha1.Mesh{}, whatIsApplied(r.all, changedVirtualDestinations)).
		Complete(r)
}

// Reconcile judges one VirtualDestination.
func (r *VirtualDestinations) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	live := &v1alpha1.VirtualDestination{}
	if err := r.Reader.Get(ctx, req.NamespacedName, live); err != nil || !live.DeletionTimestamp.IsZero() {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	f, err := fleetOf(ctx, r.Client, r.Namespace)
	if err != nil {
		return reconcile.Result{}, err
	}
	names := accept.Names{Namespace: r.Namespace}
	for i := range f.clusters {
		names.Clusters = append(names.Clusters, f.clusters[i].Name)
	}
	var virtualMeshes v1alpha1.VirtualMeshList
	if err := r.Client.List(ctx, &virtualMeshes, client.InNamespace(r.Namespace)); err != nil {
		return reconcile.Result{}, err
	}
	names.VirtualMeshes = virtualMeshes.Items
	var others v1alpha1.VirtualDestinationList
	if err := r.Reader.List(ctx, &others, client.InNamespace(r.Namespace)); err != nil {
		return reconcile.Result{}, err
	}
	names.Others = others.Items

	in := summary.NameInput{}
	in.Accepted, in.Findings = accept.VirtualDestination(live.Status.Accepted, live, names)
	in.Members = members(f, virtualMeshes.Items, in.Accepted, kube.Qualified(live.Name, live.Namespace))
	want := &v1alpha1.VirtualDestination{ObjectMeta: metav1.ObjectMeta{Name: live.Name, Namespace: live.Namespace}}
	var conditions []metav1.Condition
	want.Status, conditions = summary.OfVirtualDestination(in)
	want.Status.ObservedGeneration = live.Generation
	want.Status.Conditions = finding.Conditions(live.Status.Conditions, live.Generation, conditions...)
	if err := kube.ApplyStatus(ctx, r.Client, owner, live, want); err != nil {
		return reconcile.Result{}, err
	}
	finding.Announce(r.Events, live, live.Status.Conditions, actionAccept, *meta.FindStatusCondition(conditions, v1alpha1.ConditionReady))
	return reconcile.Result{}, nil
}

// members are the meshes that get a name, with what they say of it.
func members(f fleet, virtualMeshes []v1alpha1.VirtualMesh, accepted *v1alpha1.AcceptedVirtualDestination, name string) (out []summary.NameMember) {
	if accepted == nil {
		return nil
	}
	away := f.away()
	for i := range virtualMeshes {
		vm := &virtualMeshes[i]
		if vm.Name != accepted.Spec.VirtualMesh.Name || vm.Namespace != accepted.Spec.VirtualMesh.Namespace || !vm.DeletionTimestamp.IsZero() {
			continue
		}
		in := membership.Of(vm, f.meshes)
		if in == nil {
			continue
		}
		for _, m := range in.Members {
			member := summary.NameMember{Name: membership.MeshKey(m), Away: away[m.Namespace]}
			for j := range m.Status.AppliedVirtualDestinations {
				if a := &m.Status.AppliedVirtualDestinations[j]; a.Name == name {
					member.Applied = a
				}
			}
			out = append(out, member)
		}
	}
	return out
}

func (r *VirtualDestinations) all(ctx context.Context, _ client.Object) (out []reconcile.Request) {
	list := &v1alpha1.VirtualDestinationList{}
	if err := r.Client.List(ctx, list, client.InNamespace(r.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		log.FromContext(ctx).Error(err, "VirtualDestinations are not looked at again")
		return nil
	}
	for i := range list.Items {
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return out
}

func changedVirtualDestinations(was, is *v1alpha1.MeshStatus) []string {
	return difference(was.AppliedVirtualDestinations, is.AppliedVirtualDestinations, func(a *v1alpha1.AppliedVirtualDestination) string { return a.Name })
}
