// Package registration gives each registered cluster what it needs in the hub: a namespace of its own, an identity for its
// agent and the rights of that identity; and takes all of it away when the cluster is deregistered. It also tells from the
// agent's Lease whether the cluster is connected.
package registration

import (
	"context"
	"errors"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/kube"
)

const owner = "isthmus-registration"

// Names of the objects that go with a cluster. The ClusterRoles come with the hub's chart.
const (
	// CredentialName is the Secret to which the agent's tokens are bound: deleting it revokes them all.
	CredentialName = "isthmus-agent-credential" //nolint:gosec // a name
	// ClusterRoleAgent is what an agent may do in its own namespace.
	ClusterRoleAgent = "isthmus-agent"
	// ClusterRoleReaderAccepted is what an agent may read in the hub's namespace.
	ClusterRoleReaderAccepted = "isthmus-agent-reader-accepted"
	// ClusterRoleReader is what an agent may read in every namespace.
	ClusterRoleReader = "isthmus-agent-reader"
)

// Reasons of conditions and events.
const (
	ReasonNamespaceTaken = "NamespaceTaken"
	ReasonDeregistered   = "Deregistered"
	ReasonDeregistering  = "Deregistering"
)

// lookAgain is after how long it is looked whether what stands in the way of a cluster is gone: nothing else tells.
const lookAgain = 15 * time.Second

// Reconciler makes and takes away what registered clusters need.
type Reconciler struct {
	Client client.Client
	// Reader reads from the API server itself, past any cache: a mesh may have been accepted just now.
	Reader    client.Reader
	Events    events.EventRecorder
	Namespace string
}

// SetupWithManager registers the controller.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named("registration").
		For(&v1alpha1.KubernetesCluster{}).
		WatchesMetadata(&corev1.Secret{}, toCluster(r.Namespace), named(CredentialName)).
		Watches(&v1alpha1.VirtualMesh{}, handler.EnqueueRequestsFromMapFunc(r.leaving)).
		Complete(r)
}

// leaving are the clusters that are being deregistered: they may wait for a VirtualMesh.
func (r *Reconciler) leaving(ctx context.Context, _ client.Object) (out []reconcile.Request) {
	list := &v1alpha1.KubernetesClusterList{}
	if err := r.Client.List(ctx, list, client.InNamespace(r.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		log.FromContext(ctx).Error(err, "KubernetesClusters are not looked at again")
		return nil
	}
	for i := range list.Items {
		if !list.Items[i].DeletionTimestamp.IsZero() {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	return out
}

// named lets only objects of one name pass.
func named(name string) builder.Predicates {
	return builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool { return o.GetName() == name }))
}

// toCluster maps an object to the cluster whose namespace it is in.
func toCluster(hubNamespace string) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		cluster, ok := kube.ClusterOf(o.GetNamespace())
		if !ok {
			return nil
		}
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: hubNamespace, Name: cluster}}}
	})
}

// Reconcile makes the hub be as the registration of a cluster wants it.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	kc := &v1alpha1.KubernetesCluster{}
	if err := r.Client.Get(ctx, req.NamespacedName, kc); err != nil || req.Namespace != r.Namespace {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if !kc.DeletionTimestamp.IsZero() {
		return reconcile.Result{}, r.deregister(ctx, kc)
	}
	if controllerutil.AddFinalizer(kc, v1alpha1.Finalizer) {
		if err := r.Client.Update(ctx, kc); err != nil {
			return reconcile.Result{}, err
		}
	}

	ready, stalled, failed := r.prepare(ctx, kc)
	want := &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Name: kc.Name, Namespace: kc.Namespace}}
	want.Status.ObservedGeneration = kc.Generation
	want.Status.Namespace = kube.ClusterNamespace(kc.Name)
	want.Status.Conditions = finding.Conditions(kc.Status.Conditions, kc.Generation, ready, stalled)
	if err := kube.ApplyStatus(ctx, r.Client, owner, kc, want); err != nil {
		return reconcile.Result{}, errors.Join(failed, err)
	}
	finding.Announce(r.Events, kc, kc.Status.Conditions, "Register", ready)
	if failed == nil && stalled.Status == metav1.ConditionTrue {
		return reconcile.Result{RequeueAfter: lookAgain}, nil
	}
	return reconcile.Result{}, failed
}

// prepare makes namespace, identity and rights. What only a person can put right is told by the conditions alone.
func (r *Reconciler) prepare(ctx context.Context, kc *v1alpha1.KubernetesCluster) (ready, stalled metav1.Condition, err error) {
	ready = metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady,
		Message: "the namespace, the identity and the rights of the agent are in place",
	}
	stalled = metav1.Condition{Type: v1alpha1.ConditionStalled, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonReady}
	blocked := func(reason, message string) {
		ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, reason, message
		stalled.Status, stalled.Reason, stalled.Message = metav1.ConditionTrue, reason, message
	}
	if kube.ClusterNamespace(kc.Name) == r.Namespace {
		blocked(ReasonNamespaceTaken, "namespace "+r.Namespace+" is the hub's own: register the cluster under another name")
		return ready, stalled, nil
	}
	for _, obj := range r.objects(kc.Name) {
		u, err := kube.ToUnstructured(r.Client.Scheme(), obj)
		if err != nil {
			return ready, stalled, err
		}
		_, err = kube.Apply(ctx, r.Client, owner, u)
		if foreign, ok := errors.AsType[*kube.ForeignObjectError](err); ok {
			blocked(ReasonNamespaceTaken, foreign.Error())
			return ready, stalled, nil
		}
		if err != nil {
			ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, v1alpha1.ReasonProgressing, err.Error()
			return ready, stalled, err
		}
	}
	return ready, stalled, nil
}

// objects are what a cluster needs, in the order in which it is made.
func (r *Reconciler) objects(cluster string) []client.Object {
	namespace := kube.ClusterNamespace(cluster)
	labels := map[string]string{v1alpha1.LabelManagedBy: owner, v1alpha1.LabelCluster: cluster}
	meta := func(name, namespace string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: labels}
	}
	role := func(name string) rbacv1.RoleRef {
		return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name}
	}
	agent := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: v1alpha1.AgentName, Namespace: namespace}}
	return []client.Object{
		&corev1.Namespace{ObjectMeta: meta(namespace, "")},
		&corev1.ServiceAccount{ObjectMeta: meta(v1alpha1.AgentName, namespace)},
		&corev1.Secret{ObjectMeta: meta(CredentialName, namespace), Type: corev1.SecretTypeOpaque},
		&rbacv1.RoleBinding{ObjectMeta: meta(v1alpha1.AgentName, namespace), RoleRef: role(ClusterRoleAgent), Subjects: agent},
		&rbacv1.RoleBinding{ObjectMeta: meta(bindingName(cluster), r.Namespace), RoleRef: role(ClusterRoleReaderAccepted), Subjects: agent},
		&rbacv1.ClusterRoleBinding{ObjectMeta: meta(bindingName(cluster), ""), RoleRef: role(ClusterRoleReader), Subjects: agent},
	}
}

func bindingName(cluster string) string { return v1alpha1.AgentName + "-" + cluster }

// deregister takes away what was made for a cluster, as soon as no VirtualMesh in force has a mesh of it: then it is on record
// for the other members that it has left. Rights go first, so that nothing is written meanwhile. The finalizer goes when all of
// it is at least being deleted; the namespace's contents are then beyond anyone's use.
func (r *Reconciler) deregister(ctx context.Context, kc *v1alpha1.KubernetesCluster) error {
	if !controllerutil.ContainsFinalizer(kc, v1alpha1.Finalizer) {
		return nil
	}
	members, err := r.memberOf(ctx, kc)
	if err != nil {
		return err
	}
	if len(members) > 0 {
		return r.waits(ctx, kc, members)
	}
	for _, obj := range slices.Backward(r.objects(kc.Name)) {
		if err := r.remove(ctx, kc.Name, obj); err != nil {
			return err
		}
	}
	r.Events.Eventf(kc, nil, corev1.EventTypeNormal, ReasonDeregistered, "Deregister",
		"the rights of the agent and the namespace %s are removed; the mesh keeps the certificates that it has", kube.ClusterNamespace(kc.Name))
	controllerutil.RemoveFinalizer(kc, v1alpha1.Finalizer)
	return client.IgnoreNotFound(r.Client.Update(ctx, kc))
}

// memberOf are the VirtualMeshes in force that have a mesh of a cluster. One that is being deleted has none any more.
func (r *Reconciler) memberOf(ctx context.Context, kc *v1alpha1.KubernetesCluster) (names []string, err error) {
	var list v1alpha1.VirtualMeshList
	if err := r.Reader.List(ctx, &list, client.InNamespace(r.Namespace)); err != nil {
		return nil, err
	}
	for i := range list.Items {
		vm := &list.Items[i]
		if vm.DeletionTimestamp.IsZero() && vm.Status.Accepted != nil && slices.ContainsFunc(vm.Status.Accepted.Spec.Meshes, func(ref v1alpha1.ObjectRef) bool {
			return ref.Namespace == kube.ClusterNamespace(kc.Name)
		}) {
			names = append(names, vm.Name)
		}
	}
	return names, nil
}

// waits says for what deregistration waits.
func (r *Reconciler) waits(ctx context.Context, kc *v1alpha1.KubernetesCluster, virtualMeshes []string) error {
	ready := metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: ReasonDeregistering,
		Message: "meshes of the cluster are being taken out of VirtualMesh " + finding.Join(virtualMeshes),
	}
	want := &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Name: kc.Name, Namespace: kc.Namespace}}
	want.Status.ObservedGeneration = kc.Generation
	want.Status.Namespace = kube.ClusterNamespace(kc.Name)
	want.Status.Conditions = finding.Conditions(kc.Status.Conditions, kc.Generation, ready)
	if err := kube.ApplyStatus(ctx, r.Client, owner, kc, want); err != nil {
		return client.IgnoreNotFound(err)
	}
	finding.Announce(r.Events, kc, kc.Status.Conditions, "Deregister", ready)
	return nil
}

// remove deletes an object if it was made for the cluster.
func (r *Reconciler) remove(ctx context.Context, cluster string, obj client.Object) error {
	gvk, err := r.Client.GroupVersionKindFor(obj)
	if err != nil {
		return err
	}
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(gvk)
	if err := r.Client.Get(ctx, client.ObjectKeyFromObject(obj), live); err != nil {
		return client.IgnoreNotFound(err)
	}
	if live.GetLabels()[v1alpha1.LabelManagedBy] != owner || live.GetLabels()[v1alpha1.LabelCluster] != cluster || live.GetDeletionTimestamp() != nil {
		return nil
	}
	err = r.Client.Delete(ctx, live, client.Preconditions{UID: new(live.GetUID())})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
