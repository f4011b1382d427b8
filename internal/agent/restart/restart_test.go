package restart

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

func TestPlan(t *testing.T) {
	cluster := testenv.Start(t)
	ctx := context.Background()
	c := cluster.Client
	template := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "x"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	selector := &metav1.LabelSelector{MatchLabels: template.Labels}
	deployment := func(name string) Target {
		t.Helper()
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: appsv1.DeploymentSpec{Selector: selector, Template: template}}
		if err := c.Create(ctx, d); err != nil {
			t.Fatal(err)
		}
		return Target{Deployment, "default", name}
	}
	get := func(target Target) client.Object {
		t.Helper()
		o := target.object()
		if err := c.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
			t.Fatal(err)
		}
		return o
	}
	// roll does what the controller does: it replaces every pod.
	roll := func(target Target) {
		t.Helper()
		switch o := get(target).(type) {
		case *appsv1.Deployment:
			o.Status = appsv1.DeploymentStatus{ObservedGeneration: o.Generation, Replicas: 1, UpdatedReplicas: 1, ReadyReplicas: 1, AvailableReplicas: 1}
			if err := c.Status().Update(ctx, o); err != nil {
				t.Fatal(err)
			}
		case *appsv1.StatefulSet:
			o.Status = appsv1.StatefulSetStatus{ObservedGeneration: o.Generation, Replicas: 1, UpdatedReplicas: 1, ReadyReplicas: 1, CurrentRevision: "b", UpdateRevision: "b"}
			if err := c.Status().Update(ctx, o); err != nil {
				t.Fatal(err)
			}
		case *appsv1.DaemonSet:
			o.Status = appsv1.DaemonSetStatus{ObservedGeneration: o.Generation, DesiredNumberScheduled: 1, UpdatedNumberScheduled: 1, NumberAvailable: 1}
			if err := c.Status().Update(ctx, o); err != nil {
				t.Fatal(err)
			}
		}
	}
	advance := func(p Plan) Report {
		t.Helper()
		r, err := p.Advance(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	expect := func(r Report, complete, rolling, waiting int) {
		t.Helper()
		if len(r.Complete) != complete || len(r.Rolling) != rolling || len(r.Waiting) != waiting {
			t.Fatalf("complete %v, rolling %v, waiting %v, blocked %v; want %d, %d, %d", r.Complete, r.Rolling, r.Waiting, r.Blocked, complete, rolling, waiting)
		}
	}

	t.Run("wave after wave, few at a time, each once", func(t *testing.T) {
		istiod, a, b := deployment("istiod"), deployment("a"), deployment("b")
		stateful := Target{StatefulSet, "default", "s"}
		daemon := Target{DaemonSet, "default", "d"}
		for _, o := range []client.Object{
			&appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Spec: appsv1.StatefulSetSpec{Selector: selector, Template: template}},
			&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "d"}, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}},
		} {
			if err := c.Create(ctx, o); err != nil {
				t.Fatal(err)
			}
		}
		gone := Target{Deployment, "default", "gone"}
		plan := Plan{Waves: [][]Target{{istiod}, {a, b, stateful, daemon, gone}}, Token: "one", Limit: 3}
		expect(advance(plan), 0, 1, 4)
		expect(advance(plan), 0, 1, 4) // nothing is restarted while istiod rolls
		if g := get(istiod).GetGeneration(); g != 2 {
			t.Fatalf("istiod was changed %d times", g-1)
		}
		roll(istiod)
		expect(advance(plan), 1, 3, 1)
		roll(a)
		expect(advance(plan), 2, 3, 0)
		roll(b)
		roll(stateful)
		roll(daemon)
		r := advance(plan)
		expect(r, 5, 0, 0)
		if !r.Done() {
			t.Fatal("not done")
		}
		if g := get(a).GetGeneration(); g != 2 {
			t.Fatalf("a was changed %d times", g-1)
		}
		plan.Token = "two"
		expect(advance(plan), 0, 1, 4)
	})

	t.Run("at a pace of its own, which is undone", func(t *testing.T) {
		istiod := deployment("paced")
		before := get(istiod).(*appsv1.Deployment).Spec
		plan := Plan{Waves: [][]Target{{istiod}}, Token: "one", MinReady: 10}
		expect(advance(plan), 0, 1, 0)
		pace := func() (seconds int32, u appsv1.RollingUpdateDeployment) {
			spec := get(istiod).(*appsv1.Deployment).Spec
			return spec.MinReadySeconds, *spec.Strategy.RollingUpdate
		}
		setBack := func() {
			t.Helper()
			if err := SetBack(ctx, c, istiod, Target{Deployment, "default", "gone"}); err != nil {
				t.Fatal(err)
			}
		}
		setBack()
		if seconds, u := pace(); seconds != 10 || u.MaxSurge.IntValue() != 1 || u.MaxUnavailable.String() != "0" {
			t.Fatalf("while it rolls, minReadySeconds is %d, strategy %v", seconds, u)
		}
		plan.Token = "two" // again, before it was set back
		expect(advance(plan), 0, 1, 0)
		roll(istiod)
		expect(advance(plan), 1, 0, 0)
		setBack()
		if seconds, u := pace(); seconds != 0 || !reflect.DeepEqual(u, *before.Strategy.RollingUpdate) || get(istiod).GetAnnotations()[AnnotationPace] != "" {
			t.Fatalf("afterwards, minReadySeconds is %d, strategy %v, want %v", seconds, u, *before.Strategy.RollingUpdate)
		}
	})

	t.Run("a rollout that breaks stops what follows", func(t *testing.T) {
		first, second := deployment("first"), deployment("second")
		plan := Plan{Waves: [][]Target{{first, second}}, Token: "x"}
		expect(advance(plan), 0, 1, 1)
		d := get(first).(*appsv1.Deployment)
		d.Status.ObservedGeneration = d.Generation
		d.Status.Conditions = []appsv1.DeploymentCondition{{
			Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: "ProgressDeadlineExceeded", Message: "timed out",
		}}
		if err := c.Status().Update(ctx, d); err != nil {
			t.Fatal(err)
		}
		r := advance(plan)
		expect(r, 0, 0, 1)
		if !strings.Contains(r.Blocked[first], "timed out") || !r.Done() {
			t.Fatalf("blocked = %v", r.Blocked)
		}
	})

	t.Run("what cannot roll by itself is said and not touched", func(t *testing.T) {
		paused := deployment("paused")
		d := get(paused).(*appsv1.Deployment)
		d.Spec.Paused = true
		if err := c.Update(ctx, d); err != nil {
			t.Fatal(err)
		}
		onDelete := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "on-delete"}, Spec: appsv1.DaemonSetSpec{
			Selector: selector, Template: template, UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType},
		}}
		if err := c.Create(ctx, onDelete); err != nil {
			t.Fatal(err)
		}
		next := deployment("next")
		r := advance(Plan{Waves: [][]Target{{paused, {DaemonSet, "default", "on-delete"}}, {next}}, Token: "x", Limit: 5})
		expect(r, 0, 1, 0) // the next wave goes on
		if len(r.Blocked) != 2 || r.Done() {
			t.Fatalf("report = %+v", r)
		}
		if g := get(paused).GetGeneration(); g != d.Generation {
			t.Fatal("a paused Deployment was changed")
		}
	})
}

func TestOf(t *testing.T) {
	pod := func(apiVersion, kind, name, hash string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Labels: map[string]string{}}}
		if hash != "" {
			p.Labels["pod-template-hash"] = hash
		}
		if kind != "" {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: apiVersion, Kind: kind, Name: name, Controller: new(true)}}
		}
		return p
	}
	for _, tc := range []struct {
		pod  *corev1.Pod
		want string
	}{
		{pod("apps/v1", "ReplicaSet", "reviews-v1-5f4d", "5f4d"), "deployment/reviews-v1.ns"},
		{pod("apps/v1", "StatefulSet", "db", ""), "statefulset/db.ns"},
		{pod("apps/v1", "DaemonSet", "ztunnel", ""), "daemonset/ztunnel.ns"},
		{pod("apps/v1", "ReplicaSet", "bare", ""), ""},
		{pod("batch/v1", "Job", "once", ""), ""},
		{pod("example.com/v1", "StatefulSet", "theirs", ""), ""},
		{pod("", "", "", ""), ""},
	} {
		got := ""
		if target, ok := Of(tc.pod); ok {
			got = target.String()
		}
		if got != tc.want {
			t.Errorf("Of(%v) = %q, want %q", tc.pod.OwnerReferences, got, tc.want)
		}
	}
}

func TestSort(t *testing.T) {
	a, b := Target{Deployment, "x", "a"}, Target{Deployment, "x", "b"}
	if got := Sort([]Target{b, a, b}); !slices.Equal(got, []Target{a, b}) {
		t.Errorf("Sort = %v", got)
	}
}
