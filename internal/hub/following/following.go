// Package following keeps a VirtualMesh for each VirtualMesh of an older generation of the API, in whatever namespace that is,
// and writes back in that generation's own shape what became of it. What an object means and what its status says is decided by
// package legacy; how it is taken, by the same acceptance as that of any VirtualMesh.
//
// The kinds of older generations may be there or not, be somebody else's, come and go while the hub runs. So they are watched by
// informers of their own, and only while their CustomResourceDefinition is Isthmus's, or carries the annotation isthmus.dev/follow.
package following

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/legacy"
)

// owner is the field manager of what is written here, and the value of isthmus.dev/managed-by on VirtualMeshes.
const owner = "isthmus-following"

// Reasons of events.
const (
	// ReasonConverted says that a VirtualMesh was made or changed to be what an object is.
	ReasonConverted = "Converted"
	// ReasonNotConverted says what of an object could not be converted.
	ReasonNotConverted = "NotConverted"
	// ReasonWithdrawn says that the VirtualMesh of a deleted object is gone.
	ReasonWithdrawn = "Withdrawn"
	// ReasonLeftInPlace says that the VirtualMesh stays although the object goes.
	ReasonLeftInPlace = "LeftInPlace"
)

// Reconciler follows the objects of older generations.
type Reconciler struct {
	Client client.Client
	// Reader reads from the API server itself: the objects are few, and watched without their content.
	Reader client.Reader
	Events events.EventRecorder
	// Namespace of the hub.
	Namespace string

	metadata metadata.Interface
	queue    workqueue.TypedRateLimitingInterface[request]
	running  context.Context // of the controller, for watches that begin later
	told     map[*legacy.Generation]string

	mu       sync.Mutex
	followed map[*legacy.Generation]watch
}

// request names an object of a generation, or, without a name, the definition of the generation's kind.
type request struct {
	generation *legacy.Generation
	types.NamespacedName
}

// SetupWithManager registers the controller. One worker only: what is watched changes with what is found.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) (err error) {
	if r.metadata, err = metadata.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient()); err != nil {
		return err
	}
	r.followed, r.told = map[*legacy.Generation]watch{}, map[*legacy.Generation]string{}
	c, err := controller.NewTyped("following", mgr, controller.TypedOptions[request]{
		Reconciler:              r,
		MaxConcurrentReconciles: 1,
		RateLimiter:             kube.Retries[request](),
	})
	if err != nil {
		return err
	}
	return errors.Join(
		c.Watch(source.TypedFunc[request](func(ctx context.Context, queue workqueue.TypedRateLimitingInterface[request]) error {
			r.running, r.queue = ctx, queue
			return r.watchDefinitions()
		})),
		c.Watch(source.TypedKind(mgr.GetCache(), &v1alpha1.VirtualMesh{}, handler.TypedEnqueueRequestsFromMapFunc(r.named))),
	)
}

// Reconcile looks at one object, or at the definition of a kind.
func (r *Reconciler) Reconcile(ctx context.Context, req request) (reconcile.Result, error) {
	if req.Name == "" {
		return reconcile.Result{}, r.define(ctx, req.generation)
	}
	if _, followed := r.watchOf(req.generation); !followed {
		return reconcile.Result{}, nil
	}
	old := &unstructured.Unstructured{}
	old.SetGroupVersionKind(kindOf(req.generation))
	if err := r.Reader.Get(ctx, req.NamespacedName, old); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if old.GetDeletionTimestamp() != nil {
		return reconcile.Result{}, r.release(ctx, req.generation, old)
	}
	return reconcile.Result{}, r.follow(ctx, req.generation, old)
}

// follow makes the VirtualMesh be what an object is, and reports.
func (r *Reconciler) follow(ctx context.Context, g *legacy.Generation, old *unstructured.Unstructured) error {
	want, findings := legacy.Convert(essence(old), r.Namespace)
	name := types.NamespacedName{Namespace: r.Namespace, Name: g.NameOf(old.GetNamespace(), old.GetName())}
	ours, problem, err := r.ours(ctx, name, g, old)
	if err != nil {
		return err
	}
	switch {
	case problem != nil:
		findings = append(findings, *problem)
	case want == nil || ours != nil && ours.DeletionTimestamp != nil: // it is made again when it is gone
	default:
		refused, err := r.apply(ctx, g, old, want)
		if err != nil {
			return err
		}
		findings = append(findings, refused...)
		if ours, _, err = r.ours(ctx, name, g, old); err != nil {
			return err
		}
	}
	return r.report(ctx, old, ours, findings)
}

// essence is of an object what it says. Its labels and annotations stay with it: tools that look after it by them would take the
// VirtualMesh for theirs.
func essence(old *unstructured.Unstructured) map[string]any {
	out := maps.Clone(old.Object)
	out["metadata"] = map[string]any{"name": old.GetName(), "namespace": old.GetNamespace()}
	delete(out, "status")
	return out
}

// ours is the VirtualMesh that follows an object; nil if there is none, with a problem if the name is taken.
func (r *Reconciler) ours(ctx context.Context, name types.NamespacedName, g *legacy.Generation, old *unstructured.Unstructured) (
	*v1alpha1.VirtualMesh, *finding.Finding, error,
) {
	vm := &v1alpha1.VirtualMesh{}
	if err := r.Reader.Get(ctx, name, vm); err != nil {
		return nil, nil, client.IgnoreNotFound(err)
	}
	taken := func(by string) *finding.Finding {
		return &finding.Finding{Field: "metadata.name", Reason: v1alpha1.ReasonInvalid, Message: fmt.Sprintf(
			"this object would be VirtualMesh %s, which %s: nothing is changed until one of the two is deleted or has another name", name, by)}
	}
	switch from := vm.Annotations[v1alpha1.AnnotationConvertedFrom]; {
	case vm.Labels[v1alpha1.LabelManagedBy] != owner:
		return nil, taken("was made by somebody else"), nil
	case from != sourceOf(g, old):
		return nil, taken("follows " + from), nil
	}
	return vm, nil, nil
}

// sourceOf is the value of AnnotationConvertedFrom.
func sourceOf(g *legacy.Generation, old *unstructured.Unstructured) string {
	return g.APIVersion() + "/" + old.GetNamespace() + "/" + old.GetName()
}

// apply makes or changes the VirtualMesh of an object. The findings are what the API server has against it.
func (r *Reconciler) apply(ctx context.Context, g *legacy.Generation, old *unstructured.Unstructured, want *v1alpha1.VirtualMesh) (finding.Findings, error) {
	if err := r.finalizer(ctx, old, controllerutil.AddFinalizer); err != nil {
		return nil, err
	}
	want.Labels = map[string]string{v1alpha1.LabelManagedBy: owner}
	if want.Annotations == nil {
		want.Annotations = map[string]string{}
	}
	want.Annotations[v1alpha1.AnnotationConvertedFrom] = sourceOf(g, old)
	manifest, err := kube.ToUnstructured(r.Client.Scheme(), want)
	if err != nil {
		return nil, err
	}
	outcome, err := kube.Apply(ctx, r.Client, owner, manifest)
	if apierrors.IsInvalid(err) {
		return finding.Findings{{Reason: v1alpha1.ReasonInvalid, Message: "the API server refuses what it was converted to: " + err.Error()}}, nil
	}
	if err != nil {
		return nil, err
	}
	if outcome != kube.Unchanged {
		log.FromContext(ctx).Info("Converted", "from", sourceOf(g, old), "virtualMesh", want.Name, "outcome", outcome)
		r.Events.Eventf(old, nil, corev1.EventTypeNormal, ReasonConverted, "Convert", "VirtualMesh %s/%s is what this object says", want.Namespace, want.Name)
	}
	return nil, nil
}

// finalizer adds or removes ours, if the object is still as it was read.
func (r *Reconciler) finalizer(ctx context.Context, old *unstructured.Unstructured, change func(client.Object, string) bool) error {
	was := old.DeepCopy()
	if !change(old, v1alpha1.Finalizer) {
		return nil
	}
	return r.Client.Patch(ctx, old, client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{}))
}

// report writes the status of an object, if that changes it, and tells of what could not be converted when that changes.
func (r *Reconciler) report(ctx context.Context, old *unstructured.Unstructured, ours *v1alpha1.VirtualMesh, findings finding.Findings) error {
	status, err := legacy.Status(legacy.Account{Object: old.Object, Hub: r.Namespace, VirtualMesh: ours, Findings: findings})
	if err != nil || equality.Semantic.DeepEqual(old.Object["status"], any(status)) {
		return err
	}
	before, _, _ := unstructured.NestedStringSlice(old.Object, "status", "isthmus", "problems")
	now, _, _ := unstructured.NestedStringSlice(status, "isthmus", "problems")
	told := old.DeepCopy()
	told.Object["status"] = status
	if err := r.Client.Status().Patch(ctx, told, client.MergeFrom(old)); err != nil {
		return client.IgnoreNotFound(err)
	}
	if len(now) > 0 && !slices.Equal(before, now) {
		r.Events.Eventf(old, nil, corev1.EventTypeWarning, ReasonNotConverted, "Convert", "%s", finding.Join(now))
	}
	return nil
}

// release lets a deleted object go when its VirtualMesh is gone, which is deleted for it. An object that is deleted only because
// the definition of its kind is says nothing about what is to be in force, so what follows it stays.
func (r *Reconciler) release(ctx context.Context, g *legacy.Generation, old *unstructured.Unstructured) error {
	if !controllerutil.ContainsFinalizer(old, v1alpha1.Finalizer) {
		return nil
	}
	name := types.NamespacedName{Namespace: r.Namespace, Name: g.NameOf(old.GetNamespace(), old.GetName())}
	ours, _, err := r.ours(ctx, name, g, old)
	if err != nil {
		return err
	}
	reason, message := ReasonWithdrawn, fmt.Sprintf("VirtualMesh %s is gone", name)
	if ours != nil {
		deleted, err := r.undefined(ctx, g)
		if err != nil {
			return err
		}
		if !deleted {
			return r.withdraw(ctx, old, ours)
		}
		reason, message = ReasonLeftInPlace, fmt.Sprintf("VirtualMesh %s stays in force, since the CustomResourceDefinition %s was deleted and not this object", name, g.Definition())
	}
	if err := r.finalizer(ctx, old, controllerutil.RemoveFinalizer); err != nil {
		return client.IgnoreNotFound(err)
	}
	r.Events.Eventf(old, nil, corev1.EventTypeNormal, reason, "Release", "%s", message)
	return nil
}

// withdraw deletes the VirtualMesh of a deleted object. When it is gone the object is looked at again.
func (r *Reconciler) withdraw(ctx context.Context, old *unstructured.Unstructured, ours *v1alpha1.VirtualMesh) error {
	if ours.DeletionTimestamp == nil {
		if err := client.IgnoreNotFound(r.Client.Delete(ctx, ours, client.Preconditions{UID: &ours.UID})); err != nil {
			return err
		}
		log.FromContext(ctx).Info("Deleting a VirtualMesh, since the object that it follows is deleted", "virtualMesh", ours.Name)
	}
	return r.report(ctx, old, ours, nil)
}

// named are the objects that a VirtualMesh is, or would be if it were not there.
func (r *Reconciler) named(_ context.Context, vm *v1alpha1.VirtualMesh) (out []request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for g, w := range r.followed {
		for _, key := range w.ListKeys() {
			if namespace, name, err := toolscache.SplitMetaNamespaceKey(key); err == nil && g.NameOf(namespace, name) == vm.Name && vm.Namespace == r.Namespace {
				out = append(out, request{g, types.NamespacedName{Namespace: namespace, Name: name}})
			}
		}
	}
	return out
}

func kindOf(g *legacy.Generation) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: g.Group, Version: g.Version, Kind: "VirtualMesh"}
}
