package accepting_test

import (
	"context"
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/hub/accepting"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// TestStaleStatus: the cache still has the status of before the last write, and what is to be written is as that was. It is written
// nevertheless.
func TestStaleStatus(t *testing.T) {
	ctx := context.Background()
	env := testenv.Start(t)
	env.Namespace(t, v1alpha1.SystemNamespace, nil)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.NewWithWatch(env.Config, client.Options{Scheme: testenv.Scheme()})
	must(err)
	one := metav1.ObjectMeta{Name: "one", Namespace: v1alpha1.SystemNamespace}
	vd := &v1alpha1.VirtualDestination{ObjectMeta: one, Spec: v1alpha1.VirtualDestinationSpec{
		VirtualMesh: v1alpha1.ObjectRef{Name: "one"}, Service: v1alpha1.ServiceRef{Name: "a", Namespace: "b"}, Clusters: []string{"east"}, Ports: []int32{80},
	}}
	must(c.Create(ctx, vd))
	vm := &v1alpha1.VirtualMesh{ObjectMeta: one, Spec: v1alpha1.VirtualMeshSpec{Meshes: []v1alpha1.ObjectRef{{Name: "m"}}}}
	// judged is the status after a hub has judged whose cache has another one.
	judged := func(cached *v1alpha1.VirtualDestination) *v1alpha1.VirtualDestination {
		t.Helper()
		cache := interceptor.NewClient(c, interceptor.Funcs{
			Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
				if out, ok := o.(*v1alpha1.VirtualDestination); ok {
					cached.DeepCopyInto(out)
					return nil
				}
				return c.Get(ctx, key, o, opts...)
			},
		})
		r := &accepting.VirtualDestinations{Client: cache, Reader: c, Events: events.NewFakeRecorder(100), Namespace: v1alpha1.SystemNamespace}
		_, err := r.Reconcile(ctx, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(vd)})
		must(err)
		out := &v1alpha1.VirtualDestination{}
		must(c.Get(ctx, client.ObjectKeyFromObject(vd), out))
		return out
	}
	without := judged(vd)
	must(c.Create(ctx, vm))
	with := judged(without)
	must(c.Delete(ctx, vm))
	after := judged(without)
	if was, is := fmt.Sprint(without.Status.Errors), fmt.Sprint(after.Status.Errors); fmt.Sprint(with.Status.Errors) == was || is != was {
		t.Errorf("it says %s, and before %v and %s", is, with.Status.Errors, was)
	}
}
