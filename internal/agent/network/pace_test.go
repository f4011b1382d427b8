package network

import (
	"fmt"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

func TestPace(t *testing.T) {
	now := time.Unix(0, 0)
	p := pace{interval: time.Second, atOnce: 3}
	var waits []time.Duration
	for range 5 {
		waits = append(waits, p.take("west", now))
	}
	if want := []time.Duration{0, 0, 0, time.Second, 2 * time.Second}; !slices.Equal(waits, want) {
		t.Errorf("waits %v, want %v", waits, want)
	}
	if wait := p.take("north", now); wait != 0 {
		t.Errorf("another waits %v", wait)
	}
	// Turns come back with time, and not more than are let happen at once.
	now = now.Add(time.Hour)
	waits = nil
	for range 5 {
		waits = append(waits, p.try("west", now))
	}
	if want := []time.Duration{0, 0, 0, time.Second, time.Second}; !slices.Equal(waits, want) {
		t.Errorf("waits %v, want %v", waits, want)
	}
	if wait := p.try("west", now.Add(time.Second)); wait != 0 {
		t.Errorf("after the wait it waits %v", wait)
	}
	var free pace
	for range 1000 {
		if free.take("x", now)+free.try("x", now) > 0 {
			t.Fatal("the zero value waits")
		}
	}
}

// TestTurns: a cluster whose destinations change without end is followed, one after the other, at the pace of one cluster.
func TestTurns(t *testing.T) {
	now := time.Unix(0, 0)
	turns := turns{pace: &pace{interval: time.Second, atOnce: 10}}
	key := func(i int) types.NamespacedName {
		return types.NamespacedName{Namespace: "isthmus-west", Name: fmt.Sprint(i)}
	}
	const destinations = 100
	writes := 0
	next := [destinations]time.Time{} // when the queue looks at one again
	for second := range 60 {
		at := now.Add(time.Duration(second) * time.Second)
		for i := range destinations {
			if at.Before(next[i]) {
				continue
			}
			if wait := turns.take(key(i), at); wait > 0 {
				next[i] = at.Add(wait)
				continue
			}
			writes++ // and it changes again at once
		}
	}
	if writes < 60 || writes > 10+60 {
		t.Errorf("%d writes in a minute", writes)
	}
	if wait := turns.take(types.NamespacedName{Namespace: "isthmus-north", Name: "reviews.shop"}, now); wait != 0 {
		t.Errorf("another waits %v", wait)
	}
	if wait := turns.take(key(1), now.Add(time.Hour)); wait != 0 {
		t.Errorf("after an hour it waits %v", wait)
	}
}

// TestPatience: one cluster whose Meshes change without end is taken as it was, and the others as they are.
func TestPatience(t *testing.T) {
	now := time.Unix(0, 0)
	n := &network{Options: Options{Now: func() time.Time { return now }}, namespace: "isthmus-east"}
	n.views.interval, n.views.atOnce = time.Minute, 5
	meshesAt := func(i int) []v1alpha1.Mesh {
		out := make([]v1alpha1.Mesh, 3)
		for j, cluster := range []string{"east", "west", "north"} {
			out[j].ObjectMeta = metav1.ObjectMeta{Name: "istiod", Namespace: "isthmus-" + cluster}
			out[j].Spec.Istio.TrustDomain = fmt.Sprint(i)
		}
		out[2].Spec.Istio.TrustDomain = fmt.Sprint(i / 90) // north changes seldom
		return out
	}
	old := newView(n.namespace, nil, meshesAt(0), nil)
	seen := map[string]map[string]bool{}
	for i := 1; i <= 100; i++ {
		now = now.Add(time.Millisecond)
		meshes, wait := n.patient(old, meshesAt(i))
		if len(meshes) != 3 || (wait > 0) != (i > 5) || wait > time.Minute {
			t.Fatalf("change %d: %d meshes, wait %v", i, len(meshes), wait)
		}
		old = newView(n.namespace, nil, meshes, nil)
		for key, m := range old.meshes {
			if seen[key] == nil {
				seen[key] = map[string]bool{}
			}
			seen[key][m.Spec.Istio.TrustDomain] = true
		}
	}
	for key, want := range map[string]int{"istiod.isthmus-east": 100, "istiod.isthmus-west": 5, "istiod.isthmus-north": 2} {
		if got := len(seen[key]); got != want {
			t.Errorf("%s was seen in %d states, want %d", key, got, want)
		}
	}
	now = now.Add(time.Minute)
	meshes, wait := n.patient(old, meshesAt(100))
	if got := newView(n.namespace, nil, meshes, nil).meshes["istiod.isthmus-west"].Spec.Istio.TrustDomain; got != "100" || wait != 0 {
		t.Errorf("in the end it is taken to be %s, wait %v", got, wait)
	}
	// One that is gone is gone at once, unless it comes and goes.
	if meshes, _ := n.patient(old, meshesAt(100)[:1]); len(meshes) != 2 { // west waits, north does not
		t.Errorf("%d meshes are left", len(meshes))
	}
}
