package accepting

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// TestLater: however many Destinations change, and however often, what they concern is looked at once in a while.
func TestLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
		defer q.ShutDown()
		concerned := 0
		h := later(func(context.Context, *v1alpha1.Destination) []reconcile.Request {
			concerned++
			return []reconcile.Request{{NamespacedName: client.ObjectKey{Namespace: "isthmus-system", Name: "one"}}}
		})
		destination := func(errs ...string) *v1alpha1.Destination {
			return &v1alpha1.Destination{ObjectMeta: metav1.ObjectMeta{Name: "reviews.default"}, Status: v1alpha1.DestinationStatus{Errors: errs}}
		}
		update := func(was, is *v1alpha1.Destination) {
			h.Update(t.Context(), event.UpdateEvent{ObjectOld: was, ObjectNew: is}, q)
		}

		relabelled := destination("a")
		relabelled.Labels = map[string]string{"a": "b"}
		update(destination("a"), relabelled)
		update(destination(), destination())
		h.Create(t.Context(), event.CreateEvent{Object: destination()}, q)
		h.Delete(t.Context(), event.DeleteEvent{Object: destination()}, q)
		if concerned > 0 {
			t.Fatal("what says nothing is looked at")
		}
		moved := destination("a")
		moved.Spec.Mesh = "other"
		if update(destination("a"), moved); concerned != 2 {
			t.Errorf("of one that is of another mesh now, %d are looked at", concerned)
		}
		concerned = 0

		looked := 0
		for range 100 { // ten seconds of churn
			for range 100 {
				update(destination("a"), destination("b"))
				update(destination(), destination("a"))
				update(destination("a"), destination())
				h.Create(t.Context(), event.CreateEvent{Object: destination("a")}, q)
				h.Delete(t.Context(), event.DeleteEvent{Object: destination("a")}, q)
			}
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			for q.Len() > 0 {
				req, _ := q.Get()
				q.Done(req)
				looked++
			}
		}
		if concerned != 100*100*6 {
			t.Errorf("%d changes were seen", concerned)
		}
		if want := int(10 * time.Second / gather); looked < want-1 || looked > want {
			t.Errorf("looked at %d times in ten seconds, want %d", looked, want)
		}
		update(destination("a"), destination("b"))
		time.Sleep(gather)
		synctest.Wait()
		if q.Len() != 1 {
			t.Error("the last change is not looked at")
		}
	})
}

func TestDifference(t *testing.T) {
	applied := func(generations map[string]int64) (out []v1alpha1.AppliedAccessPolicy) {
		for name, g := range generations {
			out = append(out, v1alpha1.AppliedAccessPolicy{Name: name, Generation: g})
		}
		return out
	}
	got := map[string]bool{}
	was := &v1alpha1.MeshStatus{AppliedAccessPolicies: applied(map[string]int64{"same.x": 1, "changed.x": 1, "gone.x": 1})}
	is := &v1alpha1.MeshStatus{AppliedAccessPolicies: applied(map[string]int64{"same.x": 1, "changed.x": 2, "new.x": 0})}
	for _, name := range changedPolicies(was, is) {
		got[name] = true
	}
	if len(got) != 3 || !got["changed.x"] || !got["gone.x"] || !got["new.x"] {
		t.Errorf("difference %v", got)
	}
}
