// Package accepting judges what users write and puts the outcome into status: what is in force, what is wrong and what to
// do about it. It decides nothing itself: it reads what there is, asks package accept, and writes what package summary makes
// of the answer.
package accepting

import (
	"context"
	"errors"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/hub/roots"
	"github.com/isthmus-mesh/isthmus/internal/hub/summary"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

const (
	owner         = "isthmus-accepting"
	actionAccept  = "Accept"
	actionDelete  = "Delete"
	reasonChanged = "Accepted"
)

// VirtualMeshes judges VirtualMeshes and sums up what became of them.
type VirtualMeshes struct {
	Client client.Client
	// Reader reads from the API server itself, past any cache: two VirtualMeshes must not both accept a mesh.
	Reader    client.Reader
	Events    events.EventRecorder
	Roots     roots.Store
	Namespace string
}

// SetupWithManager registers the controller. One worker only: who is accepted first keeps a mesh.
func (r *VirtualMeshes) SetupWithManager(mgr ctrl.Manager) error {
	all := handler.EnqueueRequestsFromMapFunc(r.all)
	return ctrl.NewControllerManagedBy(mgr).Named("accepting-virtualmeshes").
		For(&v1alpha1.VirtualMesh{}).
		Watches(&v1alpha1.VirtualMesh{}, all). // a mesh that one gives up may be taken by another
		Watches(&v1alpha1.Mesh{}, all).
		Watches(&v1alpha1.KubernetesCluster{}, all).
		Watches(&v1alpha1.Settings{}, all).
		Watches(&v1alpha1.Destination{}, later(r.ofDestination)).
		Watches(&v1alpha1.IssuedCertificate{}, handler.EnqueueRequestsFromMapFunc(ofOrder)).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(r.ofSecret)).
		WithOptions(controller.Options{MaxConcurrentReconciles: 1}).
		Complete(r)
}

// Reconcile judges one VirtualMesh.
func (r *VirtualMeshes) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	vm := &v1alpha1.VirtualMesh{}
	if err := r.Reader.Get(ctx, req.NamespacedName, vm); err != nil || vm.Namespace != r.Namespace {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	fleet, err := fleetOf(ctx, r.Client, r.Namespace)
	if err != nil {
		return reconcile.Result{}, err
	}
	if !vm.DeletionTimestamp.IsZero() {
		return reconcile.Result{}, r.deleting(ctx, vm, fleet)
	}
	world, orders, again, err := r.world(ctx, vm, fleet)
	if err != nil {
		return reconcile.Result{}, err
	}
	accepted, findings := accept.VirtualMesh(vm.Status.Accepted, vm, world)
	destinations, err := r.destinations(ctx, vm, accepted)
	if err != nil {
		return reconcile.Result{}, err
	}
	status, conditions := summary.Of(summary.Input{
		VirtualMesh: vm, Accepted: accepted, Findings: findings, Orders: orders, Away: fleet.away(), Meshes: asAccepted(vm, accepted, fleet.meshes), Destinations: destinations,
	})
	status.ObservedGeneration = vm.Generation
	status.Accepted = accepted
	status.Conditions = finding.Conditions(vm.Status.Conditions, vm.Generation, conditions...)
	want := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Name: vm.Name, Namespace: vm.Namespace}, Status: status}
	if err := kube.ApplyStatus(ctx, r.Client, owner, vm, want); err != nil {
		return reconcile.Result{}, err
	}
	if accepted != nil && (vm.Status.Accepted == nil || vm.Status.Accepted.Generation != accepted.Generation) {
		log.FromContext(ctx).Info("Accepted", "acceptedGeneration", accepted.Generation, "members", len(accepted.Spec.Meshes))
		r.Events.Eventf(vm, nil, corev1.EventTypeNormal, reasonChanged, actionAccept, "generation %d is in force, with %d members", accepted.Generation, len(accepted.Spec.Meshes))
	}
	ready := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady)
	finding.Announce(r.Events, vm, vm.Status.Conditions, actionAccept, *ready)
	return reconcile.Result{RequeueAfter: again}, nil
}

// asAccepted returns meshes as other members know them.
func asAccepted(vm *v1alpha1.VirtualMesh, accepted *v1alpha1.AcceptedVirtualMesh, meshes []v1alpha1.Mesh) []v1alpha1.Mesh {
	inForce := membership.Of(&v1alpha1.VirtualMesh{ObjectMeta: vm.ObjectMeta, Status: v1alpha1.VirtualMeshStatus{Accepted: accepted}}, nil)
	if inForce == nil {
		return meshes
	}
	out := make([]v1alpha1.Mesh, len(meshes))
	for i := range meshes {
		out[i] = *inForce.AsAccepted(&meshes[i])
	}
	return out
}

// deleting says what the deletion of vm waits for. All else of its status stays as it was: members may have to be told.
func (r *VirtualMeshes) deleting(ctx context.Context, vm *v1alpha1.VirtualMesh, f fleet) error {
	waits := summary.StillApplied(accept.MeshKey(vm.Name, vm.Namespace), f.meshes, f.clusters)
	if len(waits) == 0 {
		return nil
	}
	conditions := summary.Deleting(waits)
	for _, c := range vm.Status.Conditions {
		if c.Type != v1alpha1.ConditionRootReady && c.Type != v1alpha1.ConditionRotating && meta.FindStatusCondition(conditions, c.Type) == nil {
			conditions = append(conditions, c)
		}
	}
	s := &vm.Status
	want := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Name: vm.Name, Namespace: vm.Namespace}, Status: v1alpha1.VirtualMeshStatus{
		ConditionedStatus: v1alpha1.ConditionedStatus{
			ObservedGeneration: vm.Generation,
			Conditions:         finding.Conditions(s.Conditions, vm.Generation, conditions...),
		},
		State: s.State, Errors: s.Errors, Accepted: s.Accepted, Meshes: s.Meshes, Destinations: s.Destinations, DestinationCounts: s.DestinationCounts,
	}}
	if err := kube.ApplyStatus(ctx, r.Client, owner, vm, want); err != nil {
		return client.IgnoreNotFound(err)
	}
	finding.Announce(r.Events, vm, s.Conditions, actionDelete, *meta.FindStatusCondition(want.Status.Conditions, v1alpha1.ConditionReady))
	return nil
}

// destinations sums up how those of the members received vm. They may be as many as the fleet has Services, so they are
// neither copied nor looked at for each change of one of them.
func (r *VirtualMeshes) destinations(ctx context.Context, vm *v1alpha1.VirtualMesh, accepted *v1alpha1.AcceptedVirtualMesh) (*summary.Destinations, error) {
	var sum summary.Destinations
	if accepted == nil {
		return &sum, nil
	}
	for _, ref := range accepted.Spec.Meshes {
		list := &v1alpha1.DestinationList{}
		if err := r.Client.List(ctx, list, client.InNamespace(ref.Namespace), client.UnsafeDisableDeepCopy); err != nil {
			return nil, err
		}
		for i := range list.Items {
			if d := &list.Items[i]; d.Spec.Mesh == ref.Name {
				sum.AddFor(accept.MeshKey(vm.Name, vm.Namespace), d)
			}
		}
	}
	return &sum, nil
}

// world reads all that vm is judged against, and the orders made for it. It says when to look again, if time alone changes anything.
func (r *VirtualMeshes) world(ctx context.Context, vm *v1alpha1.VirtualMesh, f fleet) (w accept.World, own []v1alpha1.IssuedCertificate, again time.Duration, err error) {
	w.Namespace, w.Meshes, w.Leaving = r.Namespace, f.meshes, f.leaving()
	settings := &v1alpha1.Settings{}
	err = r.Reader.Get(ctx, client.ObjectKey{Namespace: r.Namespace, Name: v1alpha1.SettingsName}, settings)
	if client.IgnoreNotFound(err) != nil {
		return w, nil, 0, err
	}
	if a := settings.Status.Accepted; a != nil {
		w.Settings = &a.Spec
	}
	var virtualMeshes v1alpha1.VirtualMeshList
	if err := r.Reader.List(ctx, &virtualMeshes, client.InNamespace(r.Namespace)); err != nil {
		return w, nil, 0, err
	}
	var orders v1alpha1.IssuedCertificateList
	if err := r.Client.List(ctx, &orders); err != nil {
		return w, nil, 0, err
	}
	for i := range orders.Items {
		if ref := orders.Items[i].Spec.VirtualMesh; ref.Name == vm.Name && ref.Namespace == vm.Namespace {
			own = append(own, orders.Items[i])
		}
	}
	w.Holders = accept.Holders(vm, virtualMeshes.Items, w.Meshes, orders.Items)
	again, err = r.trust(ctx, vm, &w, own)
	return w, own, again, err
}

// trust adds what is known of the root in use and of the one that the spec provides.
func (r *VirtualMeshes) trust(ctx context.Context, vm *v1alpha1.VirtualMesh, w *accept.World, orders []v1alpha1.IssuedCertificate) (again time.Duration, err error) {
	list, err := r.Roots.List(ctx, client.ObjectKeyFromObject(vm))
	if err != nil {
		return 0, err
	}
	inUse := rootsInUse(vm, orders, w.Meshes)
	trust := accept.TrustOf(vm.Spec.MTLSConfig)
	for i := range list {
		if root := &list[i]; trust != nil && root.Source.For(trust) && root.Source.Known() && inUse[root.ID().String()] {
			w.Root = &root.Source
		}
	}
	secret := trust.Secret()
	if secret == nil {
		return 0, nil
	}
	_, err = r.Roots.Provided(ctx, *secret)
	if unusable, ok := errors.AsType[*roots.ProblemError](err); ok {
		if w.ProvidedCAProblem = unusable.Error(); unusable.Passes {
			again = roots.LookAgain
		}
		return again, nil
	}
	return 0, err
}

// rootsInUse are the fingerprints of the roots that orders distribute, or, without any, that agents report as made for vm.
func rootsInUse(vm *v1alpha1.VirtualMesh, orders []v1alpha1.IssuedCertificate, meshes []v1alpha1.Mesh) map[string]bool {
	out := map[string]bool{}
	for i := range orders {
		for _, root := range orders[i].Spec.Roots {
			out[root.Fingerprint] = true
		}
	}
	if len(out) > 0 {
		return out
	}
	for i := range meshes {
		if ca := meshes[i].Status.CertificateAuthority; ca != nil && ca.Source == v1alpha1.CASourceIsthmus && ca.VirtualMesh == accept.MeshKey(vm.Name, vm.Namespace) {
			out[ca.Signer] = true
		}
		if c := meshes[i].Status.GatewayCertificate; c != nil && c.VirtualMesh == accept.MeshKey(vm.Name, vm.Namespace) {
			out[c.Signer] = true
		}
	}
	return out
}

func (r *VirtualMeshes) all(ctx context.Context, _ client.Object) []reconcile.Request {
	return r.which(ctx, func(*v1alpha1.VirtualMesh) bool { return true })
}

// ofDestination maps a Destination to the VirtualMeshes that have its mesh.
func (r *VirtualMeshes) ofDestination(ctx context.Context, d *v1alpha1.Destination) []reconcile.Request {
	return r.which(ctx, func(vm *v1alpha1.VirtualMesh) bool {
		return vm.Status.Accepted != nil && slices.Contains(vm.Status.Accepted.Spec.Meshes, v1alpha1.ObjectRef{Name: d.Spec.Mesh, Namespace: d.Namespace})
	})
}

func ofOrder(_ context.Context, o client.Object) []reconcile.Request {
	ref := o.(*v1alpha1.IssuedCertificate).Spec.VirtualMesh
	return []reconcile.Request{{NamespacedName: client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}}}
}

// ofSecret maps a Secret to the VirtualMeshes that refer to it, and a root to the one that it is of.
func (r *VirtualMeshes) ofSecret(ctx context.Context, secret client.Object) []reconcile.Request {
	return r.which(ctx, func(vm *v1alpha1.VirtualMesh) bool {
		if secret.GetLabels()[v1alpha1.LabelVirtualMesh] == kube.VirtualMeshLabel(vm.Name, vm.Namespace) {
			return true
		}
		provided := accept.TrustOf(vm.Spec.MTLSConfig).Secret()
		if provided == nil {
			return false
		}
		ref := accept.SecretRef(*provided, r.Namespace)
		return ref.Name == secret.GetName() && ref.Namespace == secret.GetNamespace()
	})
}

func (r *VirtualMeshes) which(ctx context.Context, fits func(*v1alpha1.VirtualMesh) bool) (out []reconcile.Request) {
	list := &v1alpha1.VirtualMeshList{}
	if err := r.Client.List(ctx, list, client.InNamespace(r.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		log.FromContext(ctx).Error(err, "VirtualMeshes are not looked at again")
		return nil
	}
	for i := range list.Items {
		if fits(&list.Items[i]) {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	return out
}
