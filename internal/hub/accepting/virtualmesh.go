// Package accepting judges what users write and puts the outcome into status: what is in force, what is wrong and what to
// do about it. It decides nothing itself: it reads what there is, asks package accept, and writes what package summary makes
// of the answer.
package accepting

import (
	"context"
	"errors"

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
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

const (
	owner         = "isthmus-accepting"
	actionAccept  = "Accept"
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
		Watches(&v1alpha1.IssuedCertificate{}, handler.EnqueueRequestsFromMapFunc(ofOrder)).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(r.ofSecret)).
		WithOptions(controller.Options{MaxConcurrentReconciles: 1}).
		Complete(r)
}

// Reconcile judges one VirtualMesh.
func (r *VirtualMeshes) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	vm := &v1alpha1.VirtualMesh{}
	if err := r.Reader.Get(ctx, req.NamespacedName, vm); err != nil || !vm.DeletionTimestamp.IsZero() || vm.Namespace != r.Namespace {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	world, orders, err := r.world(ctx, vm)
	if err != nil {
		return reconcile.Result{}, err
	}
	accepted, findings := accept.VirtualMesh(vm.Status.Accepted, vm, world)
	away, err := r.away(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	status, conditions := summary.Of(summary.Input{
		VirtualMesh: vm, Accepted: accepted, Findings: findings, Orders: orders, Away: away,
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
	return reconcile.Result{}, nil
}

// world reads all that vm is judged against, and the orders made for it.
func (r *VirtualMeshes) world(ctx context.Context, vm *v1alpha1.VirtualMesh) (w accept.World, own []v1alpha1.IssuedCertificate, err error) {
	w.Namespace = r.Namespace
	var meshes v1alpha1.MeshList
	if err := r.Client.List(ctx, &meshes); err != nil {
		return w, nil, err
	}
	for i := range meshes.Items {
		m := &meshes.Items[i]
		// The namespace proves which cluster it is of; what its agent says otherwise is of no account.
		if cluster, ok := kube.ClusterOf(m.Namespace); ok && m.Name == kube.MeshName(m.Spec.Istio.RootNamespace, cluster) {
			w.Meshes = append(w.Meshes, *m)
		}
	}
	var virtualMeshes v1alpha1.VirtualMeshList
	if err := r.Reader.List(ctx, &virtualMeshes, client.InNamespace(r.Namespace)); err != nil {
		return w, nil, err
	}
	var orders v1alpha1.IssuedCertificateList
	if err := r.Client.List(ctx, &orders); err != nil {
		return w, nil, err
	}
	for i := range orders.Items {
		if ref := orders.Items[i].Spec.VirtualMesh; ref.Name == vm.Name && ref.Namespace == vm.Namespace {
			own = append(own, orders.Items[i])
		}
	}
	w.Holders = accept.Holders(vm, virtualMeshes.Items, w.Meshes, orders.Items)
	return w, own, r.trust(ctx, vm, &w, own)
}

// trust adds what is known of the root in use and of the one that the spec provides.
func (r *VirtualMeshes) trust(ctx context.Context, vm *v1alpha1.VirtualMesh, w *accept.World, orders []v1alpha1.IssuedCertificate) error {
	list, err := r.Roots.List(ctx, client.ObjectKeyFromObject(vm))
	if err != nil {
		return err
	}
	inUse := rootsInUse(vm, orders, w.Meshes)
	for i := range list {
		if root := &list[i]; root.Source.Known() && inUse[root.ID().String()] {
			w.Root = &root.Source
		}
	}
	m := vm.Spec.MTLSConfig
	if m == nil || m.Shared == nil || m.Shared.RootCertificateAuthority == nil || m.Shared.RootCertificateAuthority.Secret == nil {
		return nil
	}
	material, err := r.Roots.Provided(ctx, *m.Shared.RootCertificateAuthority.Secret)
	if unusable, ok := errors.AsType[*roots.ProblemError](err); ok {
		w.ProvidedCAProblem = unusable.Error()
		return nil
	}
	if err != nil {
		return err
	}
	w.ProvidedCA = pki.RootOf(material.Certificate).ID().String()
	return nil
}

// rootsInUse are the fingerprints of the roots that orders name, or, without any, that agents report as made for vm.
func rootsInUse(vm *v1alpha1.VirtualMesh, orders []v1alpha1.IssuedCertificate, meshes []v1alpha1.Mesh) map[string]bool {
	out := map[string]bool{}
	for i := range orders {
		out[orders[i].Spec.Signer] = true
	}
	if len(out) > 0 {
		return out
	}
	for i := range meshes {
		if ca := meshes[i].Status.CertificateAuthority; ca != nil && ca.Source == v1alpha1.CASourceIsthmus && ca.VirtualMesh == accept.MeshKey(vm.Name, vm.Namespace) {
			out[ca.Signer] = true
		}
	}
	return out
}

// away are the namespaces of clusters that are registered and not connected, or not registered at all.
func (r *VirtualMeshes) away(ctx context.Context) (map[string]bool, error) {
	var clusters v1alpha1.KubernetesClusterList
	if err := r.Client.List(ctx, &clusters, client.InNamespace(r.Namespace)); err != nil {
		return nil, err
	}
	away := map[string]bool{}
	for i := range clusters.Items {
		if !meta.IsStatusConditionTrue(clusters.Items[i].Status.Conditions, v1alpha1.ConditionConnected) {
			away[kube.ClusterNamespace(clusters.Items[i].Name)] = true
		}
	}
	return away, nil
}

func (r *VirtualMeshes) all(ctx context.Context, _ client.Object) []reconcile.Request {
	return r.which(ctx, func(*v1alpha1.VirtualMesh) bool { return true })
}

func ofOrder(_ context.Context, o client.Object) []reconcile.Request {
	ref := o.(*v1alpha1.IssuedCertificate).Spec.VirtualMesh
	return []reconcile.Request{{NamespacedName: client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}}}
}

// ofSecret maps a Secret to the VirtualMeshes that refer to it, and a root to the one that it is of.
func (r *VirtualMeshes) ofSecret(ctx context.Context, secret client.Object) []reconcile.Request {
	if _, agents := kube.ClusterOf(secret.GetNamespace()); agents {
		return nil
	}
	return r.which(ctx, func(vm *v1alpha1.VirtualMesh) bool {
		if secret.GetLabels()[v1alpha1.LabelVirtualMesh] == kube.VirtualMeshLabel(vm.Name, vm.Namespace) {
			return true
		}
		m := vm.Spec.MTLSConfig
		if m == nil || m.Shared == nil || m.Shared.RootCertificateAuthority == nil || m.Shared.RootCertificateAuthority.Secret == nil {
			return false
		}
		ref := accept.SecretRef(*m.Shared.RootCertificateAuthority.Secret, r.Namespace)
		return ref.Name == secret.GetName() && ref.Namespace == secret.GetNamespace()
	})
}

func (r *VirtualMeshes) which(ctx context.Context, fits func(*v1alpha1.VirtualMesh) bool) (out []reconcile.Request) {
	list := &v1alpha1.VirtualMeshList{}
	if err := r.Client.List(ctx, list, client.InNamespace(r.Namespace)); err != nil {
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
