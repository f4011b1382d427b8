package kube

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/csaupgrade"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// Outcome says what Apply did.
type Outcome string

// Outcomes of Apply.
const (
	Unchanged Outcome = "Unchanged"
	Created   Outcome = "Created"
	Updated   Outcome = "Updated"
)

// ForeignObjectError says that an object of the wanted name exists and is not ours. It goes away only when somebody
// deletes or renames that object.
type ForeignObjectError struct {
	Kind, Namespace, Name string
}

func (e *ForeignObjectError) Error() string {
	return fmt.Sprintf("%s %s/%s exists and was not made by Isthmus; delete or rename it", e.Kind, e.Namespace, e.Name)
}

// Apply makes the object be as obj says and writes nothing where it is so already. It creates by POST and afterwards
// applies (server side, as owner) to the UID of the object that carries the label isthmus.dev/managed-by, so an object of
// somebody else is never merged into: that yields a *ForeignObjectError. obj must carry the label, apiVersion and kind,
// and no status. A conflict with a concurrent writer is returned as it is and is worth a retry.
func Apply(ctx context.Context, c client.Client, owner string, obj *unstructured.Unstructured) (Outcome, error) {
	if obj.GetLabels()[v1alpha1.LabelManagedBy] == "" {
		return "", fmt.Errorf("applying %s %s: label %s is missing", obj.GetKind(), obj.GetName(), v1alpha1.LabelManagedBy)
	}
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(obj.GroupVersionKind())
	err := c.Get(ctx, client.ObjectKeyFromObject(obj), live)
	if apierrors.IsNotFound(err) {
		return Created, c.Create(ctx, obj.DeepCopy(), client.FieldOwner(owner))
	}
	if err != nil {
		return "", err
	}
	if live.GetLabels()[v1alpha1.LabelManagedBy] == "" {
		return "", &ForeignObjectError{Kind: obj.GetKind(), Namespace: obj.GetNamespace(), Name: obj.GetName()}
	}
	if upToDate(live, obj, owner, "") {
		return Unchanged, nil
	}
	// What was created by POST is owned by the operation Update; hand it to Apply, or nothing could ever be removed.
	patch, err := csaupgrade.UpgradeManagedFieldsPatch(live, sets.New(owner), owner)
	if err != nil {
		return "", err
	}
	if patch != nil {
		if err := c.Patch(ctx, live, client.RawPatch(types.JSONPatchType, patch)); err != nil {
			return "", err
		}
	}
	want := obj.DeepCopy()
	want.SetUID(live.GetUID())
	want.SetManagedFields(nil)
	return Updated, c.Apply(ctx, client.ApplyConfigurationFromUnstructured(want), client.FieldOwner(owner), client.ForceOwnership)
}

// HandOver makes an object of somebody else one of owner's, as if owner had applied it as it is: it gets the label
// isthmus.dev/managed-by, and what others have written of it is owner's, so that the next Apply changes it in place and leaves
// nothing of what it does not want. live is the object as it was read; that it was changed since is a conflict, and worth a retry.
//
// All of that is one write, by somebody else than owner: what is left for owner to write is what it wants alone, which an admission
// policy may demand of it.
func HandOver(ctx context.Context, c client.Client, owner string, live *unstructured.Unstructured) error {
	writers := sets.New[string]()
	for _, m := range live.GetManagedFields() {
		if m.Subresource == "" {
			writers.Insert(m.Manager)
		}
	}
	was := live.DeepCopy()
	if err := csaupgrade.UpgradeManagedFields(live, writers, owner); err != nil {
		return err
	}
	labels := live.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[v1alpha1.LabelManagedBy] = owner
	live.SetLabels(labels)
	return c.Patch(ctx, live, client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{}), client.FieldOwner(handingOver))
}

// handingOver is the field manager of what is written to hand an object over: the label.
const handingOver = "isthmus-hand-over"

// ToUnstructured converts obj to what Apply takes: with apiVersion and kind, without status.
func ToUnstructured(scheme *runtime.Scheme, obj client.Object) (*unstructured.Unstructured, error) {
	gvk, err := apiutil.GVKForObject(obj, scheme)
	if err != nil {
		return nil, err
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return nil, err
	}
	delete(content, "status")
	u := &unstructured.Unstructured{Object: content}
	u.SetGroupVersionKind(gvk)
	unstructured.RemoveNestedField(content, "metadata", "creationTimestamp")
	return u, nil
}

// ApplyStatus applies (server side, as owner) the status of obj, and only that; live is the object as it was read. Each
// owner sets the fields and conditions that are its own and removes them by leaving them out. Nothing is written if
// nothing would change.
func ApplyStatus(ctx context.Context, c client.Client, owner string, live, obj client.Object) error {
	gvk, err := c.GroupVersionKindFor(obj)
	if err != nil {
		return err
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return err
	}
	liveContent, err := runtime.DefaultUnstructuredConverter.ToUnstructured(live)
	if err != nil {
		return err
	}
	want := &unstructured.Unstructured{Object: map[string]any{"status": prune(content["status"])}}
	want.SetGroupVersionKind(gvk)
	want.SetName(obj.GetName())
	want.SetNamespace(obj.GetNamespace())
	if upToDate(&unstructured.Unstructured{Object: liveContent}, want, owner, "status") {
		return nil
	}
	want.SetUID(live.GetUID())
	if status, ok := want.Object["status"].(map[string]any); ok && len(status) == 0 {
		delete(want.Object, "status") // as an empty one it would be made null if nobody else has fields in it
	}
	return c.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(want), client.FieldOwner(owner), client.ForceOwnership)
}

// prune removes nulls, as of unset times, which an applied status would otherwise claim.
func prune(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if e == nil {
				delete(v, k)
			} else {
				v[k] = prune(e)
			}
		}
	case []any:
		for i := range v {
			v[i] = prune(v[i])
		}
	case nil:
		return map[string]any{}
	}
	return v
}
