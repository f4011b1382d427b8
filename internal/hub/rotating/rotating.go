// Package rotating carries out what package rotation decides: it makes the roots of virtual meshes and writes the orders to
// their members, one IssuedCertificate each.
//
// Nothing is remembered: roots, orders, signatures and what agents report are read anew each time, past any cache where
// acting on old news would do harm. Each write leaves a state from which the next reconciliation goes on.
package rotating

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/hub/roots"
	"github.com/isthmus-mesh/isthmus/internal/hub/summary"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/rotation"
)

const owner = "isthmus-rotating"

// Reasons of events.
const (
	ReasonRootGenerated = "RootGenerated"
	ReasonRootCopied    = "RootCopied"
	ReasonRootFound     = "RootFound" // at Vault
	ReasonRootErased    = "RootErased"
	ReasonDeleted       = "Deleted"
	ReasonNoGateway     = "NoGateway" // a member has no gateways of limited trust
	// Steps of rotations.
	ReasonRotationStep       = "RotationStep"
	ReasonRotationFinished   = "RotationFinished"
	ReasonRotationRolledBack = "RotationRolledBack"
)

// Reconciler reconciles the trust of VirtualMeshes.
type Reconciler struct {
	Client client.Client
	// Reader reads from the API server itself, past any cache.
	Reader    client.Reader
	Events    events.EventRecorder
	Roots     roots.Store
	Namespace string
	Now       func() time.Time
}

// SetupWithManager registers the controller. One worker only: a root is generated once.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named("rotating").
		For(&v1alpha1.VirtualMesh{}).
		Watches(&v1alpha1.Mesh{}, handler.EnqueueRequestsFromMapFunc(r.ofMesh)).
		Watches(&v1alpha1.KubernetesCluster{}, handler.EnqueueRequestsFromMapFunc(r.ofCluster)).
		Watches(&v1alpha1.IssuedCertificate{}, handler.EnqueueRequestsFromMapFunc(ofOrder)).
		Watches(&v1alpha1.CertificateRequest{}, handler.EnqueueRequestsFromMapFunc(r.ofRequest)).
		Watches(&v1alpha1.CertificateVerification{}, handler.EnqueueRequestsFromMapFunc(ofWord), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(r.ofSecret)).
		WithOptions(controller.Options{MaxConcurrentReconciles: 1}).
		Complete(r)
}

// Reconcile makes roots and orders be as one VirtualMesh wants them. Orders of a VirtualMesh that is gone, or of a mesh that
// is no member any more, are kept in force: what is left in place must not expire.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	vm := &v1alpha1.VirtualMesh{}
	err := r.Reader.Get(ctx, req.NamespacedName, vm)
	if client.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, err
	}
	gone := apierrors.IsNotFound(err)
	switch {
	case gone:
	case !vm.DeletionTimestamp.IsZero():
		if err := r.delete(ctx, vm); err != nil {
			return reconcile.Result{}, err
		}
	case controllerutil.AddFinalizer(vm, v1alpha1.Finalizer):
		if err := r.Client.Update(ctx, vm); err != nil {
			return reconcile.Result{}, err
		}
	}
	if !gone && vm.DeletionTimestamp.IsZero() && vm.Status.Accepted == nil {
		return reconcile.Result{}, nil // not known what is wanted: change nothing
	}

	s, err := r.observe(ctx, req.NamespacedName, vm)
	if err != nil {
		return reconcile.Result{}, err
	}
	if a := s.accepted; a != nil && a.Spec.Suspend {
		return reconcile.Result{}, errors.Join(r.suspend(ctx, s), r.report(ctx, s, nil, s.problem(nil)))
	}
	problem, err := r.provideRoot(ctx, s)
	if err != nil {
		return reconcile.Result{}, err
	}
	plan, err := r.steer(ctx, s, problem)
	switch {
	case isOutdated(err):
		return reconcile.Result{RequeueAfter: time.Millisecond}, nil
	case err != nil:
		return reconcile.Result{}, err
	}
	if !gone && vm.DeletionTimestamp.IsZero() {
		if err := r.report(ctx, s, plan, problem); err != nil {
			return reconcile.Result{}, err
		}
		if plan != nil {
			if err := r.erase(ctx, s); err != nil {
				return reconcile.Result{}, err
			}
		}
	}
	return s.again(plan), nil
}

// steer makes orders, roles of roots and words be as they are planned; there is no plan if there is no root.
func (r *Reconciler) steer(ctx context.Context, s *state, p *problem) (*rotation.Plan, error) {
	if p != nil {
		return nil, nil //nolint:nilnil // nothing is changed
	}
	if s.root == nil {
		return nil, r.answer(ctx, s, nil)
	}
	plan := rotation.Next(s.intent(), s.evidence, s.now)
	if err := r.separate(ctx, s, &plan); err != nil {
		return nil, err
	}
	plan.Findings = append(plan.Findings, s.held...)
	for i, f := range plan.Findings {
		plan.Findings[i].Mesh = meshKey(f.Mesh)
	}
	for _, f := range s.held {
		plan.Waiting = append(plan.Waiting, meshID(f.Mesh))
	}
	if err := r.order(ctx, s, &plan); err != nil {
		return nil, err
	}
	return &plan, errors.Join(r.answer(ctx, s, &plan), r.assignRoles(ctx, s, plan))
}

// meshKey names the mesh whose order is named, both in the form "<name>.<namespace>".
func meshKey(order string) string {
	if order == "" {
		return ""
	}
	id := meshID(order)
	id.Name, _ = membership.OrderedFor(id.Name)
	return id.String()
}

// eraseAgain is after how long it is looked whether orders of others still need a root that is retired: nobody tells.
const eraseAgain = time.Minute

// again is when time alone calls for another look: as planned, when the root is to be replaced, or for a root that is to be erased.
func (s *state) again(plan *rotation.Plan) reconcile.Result {
	var at time.Time
	if s.passes {
		at = s.now.Add(roots.LookAgain)
	}
	if plan == nil {
		return after(at, s.now)
	}
	at = earlier(earlier(at, plan.Next), s.doubted)
	if s.needed {
		at = earlier(at, s.now.Add(eraseAgain))
	}
	for _, root := range append(slices.Collect(maps.Values(s.own)), s.root) {
		if old := s.replaceAt(root); s.now.Before(old) {
			at = earlier(at, old)
		}
	}
	return after(at, s.now)
}

// earlier is the earlier one of two times, of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func after(at, now time.Time) reconcile.Result {
	if at.IsZero() {
		return reconcile.Result{}
	}
	return reconcile.Result{RequeueAfter: max(time.Second, at.Sub(now))}
}

// delete lets a VirtualMesh go when nothing is left in its members of what was applied for it: from then on nobody would know
// that it is to be taken back. Certificates and roots stay, and the orders with them.
func (r *Reconciler) delete(ctx context.Context, vm *v1alpha1.VirtualMesh) error {
	if !controllerutil.ContainsFinalizer(vm, v1alpha1.Finalizer) {
		return nil
	}
	waits, err := r.stillApplied(ctx, vm)
	if err != nil {
		return err
	}
	if len(waits) > 0 {
		return nil // the condition Ready says so
	}
	controllerutil.RemoveFinalizer(vm, v1alpha1.Finalizer)
	if accept.TrustIn(vm.Status.Accepted) != nil {
		r.Events.Eventf(vm, nil, corev1.EventTypeNormal, ReasonDeleted, "Delete",
			"the members keep their certificates and their root, and the hub goes on renewing them; nothing is revoked")
	}
	return client.IgnoreNotFound(r.Client.Update(ctx, vm))
}

// stillApplied are the meshes in which something is left of what was applied for vm.
func (r *Reconciler) stillApplied(ctx context.Context, vm *v1alpha1.VirtualMesh) ([]string, error) {
	var meshes v1alpha1.MeshList
	var clusters v1alpha1.KubernetesClusterList
	if err := errors.Join(r.Reader.List(ctx, &meshes), r.Reader.List(ctx, &clusters, client.InNamespace(r.Namespace))); err != nil {
		return nil, err
	}
	return summary.StillApplied(kube.Qualified(vm.Name, vm.Namespace), meshes.Items, clusters.Items), nil
}

func (r *Reconciler) ofMesh(ctx context.Context, mesh client.Object) []reconcile.Request {
	return r.virtualMeshes(ctx, func(vm *v1alpha1.VirtualMesh) bool {
		if !vm.DeletionTimestamp.IsZero() {
			return true
		}
		if vm.Status.Accepted == nil {
			return false
		}
		for _, m := range vm.Status.Accepted.Spec.Meshes {
			if m.Name == mesh.GetName() && m.Namespace == mesh.GetNamespace() {
				return true
			}
		}
		return false
	})
}

// ofCluster maps a cluster to the VirtualMeshes that it is a member of, and to those that are being deleted: they do not wait
// for one that is deregistered.
func (r *Reconciler) ofCluster(ctx context.Context, cluster client.Object) []reconcile.Request {
	return r.virtualMeshes(ctx, func(vm *v1alpha1.VirtualMesh) bool {
		return !vm.DeletionTimestamp.IsZero() || vm.Status.Accepted != nil && slices.ContainsFunc(vm.Status.Accepted.Spec.Meshes,
			func(m v1alpha1.ObjectRef) bool { return m.Namespace == kube.ClusterNamespace(cluster.GetName()) })
	})
}

func ofWord(_ context.Context, word client.Object) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: virtualMeshOf(word.(*v1alpha1.CertificateVerification))}}
}

func ofOrder(_ context.Context, o client.Object) []reconcile.Request {
	ref := o.(*v1alpha1.IssuedCertificate).Spec.VirtualMesh
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}}}
}

func (r *Reconciler) ofRequest(ctx context.Context, o client.Object) []reconcile.Request {
	cr := o.(*v1alpha1.CertificateRequest)
	ic := &v1alpha1.IssuedCertificate{}
	if cr.Status.State != v1alpha1.CertificateRequestFinished ||
		r.Client.Get(ctx, types.NamespacedName{Namespace: cr.Namespace, Name: cr.Spec.IssuedCertificate}, ic) != nil {
		return nil
	}
	return ofOrder(ctx, ic)
}

// ofSecret maps a root to all VirtualMeshes, and a Secret of a user to those that have their root from it. A root matters to more than
// the one that it is of: meshes that have gone to others may still be under it.
func (r *Reconciler) ofSecret(ctx context.Context, secret client.Object) []reconcile.Request {
	_, isRoot := secret.GetLabels()[v1alpha1.LabelRootFingerprint]
	return r.virtualMeshes(ctx, func(vm *v1alpha1.VirtualMesh) bool {
		if isRoot && secret.GetNamespace() == r.Namespace {
			return true
		}
		trust := accept.TrustIn(vm.Status.Accepted)
		if trust == nil {
			return false
		}
		ref := accept.SourceOf(trust, "", r.Namespace).Secret
		return ref != nil && ref.Name == secret.GetName() && ref.Namespace == secret.GetNamespace()
	})
}

func (r *Reconciler) virtualMeshes(ctx context.Context, which func(*v1alpha1.VirtualMesh) bool) (out []reconcile.Request) {
	list := &v1alpha1.VirtualMeshList{}
	if err := r.Client.List(ctx, list, client.InNamespace(r.Namespace)); err != nil {
		log.FromContext(ctx).Error(err, "VirtualMeshes are not looked at again")
		return nil
	}
	for i := range list.Items {
		if which(&list.Items[i]) {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	return out
}
