package kube_test

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

func configMap(name string, labels map[string]any, data map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": name, "namespace": "default", "labels": labels},
		"data":     data,
	}}
}

func TestApply(t *testing.T) {
	cluster := testenv.Start(t)
	ctx := context.Background()
	c := cluster.Client
	ours := map[string]any{v1alpha1.LabelManagedBy: "test"}
	get := func(name string) *unstructured.Unstructured {
		t.Helper()
		live := configMap(name, nil, nil)
		if err := c.Get(ctx, client.ObjectKeyFromObject(live), live); err != nil {
			t.Fatal(err)
		}
		return live
	}
	apply := func(obj *unstructured.Unstructured, want kube.Outcome) {
		t.Helper()
		before := ""
		if want == kube.Unchanged {
			before = get(obj.GetName()).GetResourceVersion()
		}
		got, err := kube.Apply(ctx, c, "isthmus-test", obj)
		if err != nil || got != want {
			t.Fatalf("Apply = %q, %v; want %q", got, err, want)
		}
		if want == kube.Unchanged && get(obj.GetName()).GetResourceVersion() != before {
			t.Fatal("something was written")
		}
	}
	t.Run("creates, updates, removes what is left out, and writes nothing when nothing changes", func(t *testing.T) {
		apply(configMap("a", ours, map[string]any{"x": "1", "y": "1"}), kube.Created)
		apply(configMap("a", ours, map[string]any{"x": "1", "y": "1"}), kube.Unchanged)
		apply(configMap("a", ours, map[string]any{"x": "2"}), kube.Updated)
		if data := get("a").Object["data"].(map[string]any); len(data) != 1 || data["x"] != "2" {
			t.Fatalf("data = %v", data)
		}
		apply(configMap("a", ours, map[string]any{"x": "2"}), kube.Unchanged)
	})
	t.Run("leaves fields of others alone and repairs its own", func(t *testing.T) {
		apply(configMap("b", ours, map[string]any{"x": "1"}), kube.Created)
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"data":{"x":"changed","theirs":"1"}}`))
		if err := c.Patch(ctx, get("b"), patch); err != nil {
			t.Fatal(err)
		}
		apply(configMap("b", ours, map[string]any{"x": "1"}), kube.Updated)
		if data := get("b").Object["data"].(map[string]any); data["theirs"] != "1" || data["x"] != "1" {
			t.Fatalf("data = %v", data)
		}
	})
	t.Run("does not touch an object of somebody else", func(t *testing.T) {
		if err := c.Create(ctx, configMap("c", nil, map[string]any{"x": "theirs"})); err != nil {
			t.Fatal(err)
		}
		_, err := kube.Apply(ctx, c, "isthmus-test", configMap("c", ours, map[string]any{"x": "ours"}))
		if _, ok := errors.AsType[*kube.ForeignObjectError](err); !ok {
			t.Fatalf("err = %v", err)
		}
		if get("c").Object["data"].(map[string]any)["x"] != "theirs" {
			t.Fatal("overwritten")
		}
	})
	t.Run("refuses an object without the label", func(t *testing.T) {
		if _, err := kube.Apply(ctx, c, "isthmus-test", configMap("d", nil, nil)); err == nil {
			t.Fatal("no error")
		}
	})
}

func TestApplyStatus(t *testing.T) {
	cluster := testenv.Start(t)
	ctx := context.Background()
	c := cluster.Client
	kc := &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Name: "east", Namespace: "default"}}
	if err := c.Create(ctx, kc); err != nil {
		t.Fatal(err)
	}
	// status applies as owner what f sets and returns whether anything was written.
	status := func(owner string, f func(*v1alpha1.KubernetesClusterStatus)) bool {
		t.Helper()
		live := &v1alpha1.KubernetesCluster{}
		if err := c.Get(ctx, client.ObjectKeyFromObject(kc), live); err != nil {
			t.Fatal(err)
		}
		want := &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Name: "east", Namespace: "default"}}
		f(&want.Status)
		if err := kube.ApplyStatus(ctx, c, owner, live, want); err != nil {
			t.Fatal(err)
		}
		before := live.ResourceVersion
		if err := c.Get(ctx, client.ObjectKeyFromObject(kc), live); err != nil {
			t.Fatal(err)
		}
		kc.Status = live.Status
		return live.ResourceVersion != before
	}
	now := metav1.Now().Rfc3339Copy()
	ready := func(s *v1alpha1.KubernetesClusterStatus) {
		s.Namespace, s.AgentVersion = "isthmus-east", "1"
		s.Conditions = []metav1.Condition{{Type: "Ready", Status: "True", Reason: "Ready", LastTransitionTime: now}}
	}
	connected := func(s *v1alpha1.KubernetesClusterStatus) {
		s.Conditions = []metav1.Condition{{Type: "Connected", Status: "True", Reason: "Ready", LastTransitionTime: now}}
	}
	if !status("one", ready) || status("one", ready) {
		t.Fatal("want one write")
	}
	if !status("two", connected) || status("two", connected) || status("one", ready) {
		t.Fatal("two owners disturb each other")
	}
	if len(kc.Status.Conditions) != 2 {
		t.Fatalf("conditions = %v", kc.Status.Conditions)
	}
	if !status("one", func(s *v1alpha1.KubernetesClusterStatus) { s.Namespace = "isthmus-east" }) {
		t.Fatal("want a write that removes")
	}
	if kc.Status.AgentVersion != "" || len(kc.Status.Conditions) != 1 || kc.Status.Conditions[0].Type != "Connected" {
		t.Fatalf("status = %+v", kc.Status)
	}
	if !status("two", func(*v1alpha1.KubernetesClusterStatus) {}) || !status("one", func(*v1alpha1.KubernetesClusterStatus) {}) {
		t.Fatal("want writes that leave nothing")
	}
	if status("one", func(*v1alpha1.KubernetesClusterStatus) {}) || kc.Status.Namespace != "" || len(kc.Status.Conditions) != 0 {
		t.Fatalf("status = %+v", kc.Status)
	}
}

// TestHandOver: what somebody else made becomes ours in place, and nothing is left of what we do not want.
func TestHandOver(t *testing.T) {
	cluster := testenv.Start(t)
	c, ctx := cluster.Client, context.Background()
	theirs := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "default", Labels: map[string]string{"theirs": "yes"}}, Data: map[string]string{"a": "1", "b": "1"}}
	if err := c.Create(ctx, theirs, client.FieldOwner("networking")); err != nil {
		t.Fatal(err)
	}
	theirs.Data["c"] = "1"
	if err := c.Update(ctx, theirs, client.FieldOwner("somebody")); err != nil {
		t.Fatal(err)
	}
	want := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": "x", "namespace": "default", "labels": map[string]any{v1alpha1.LabelManagedBy: "us"}},
		"data":     map[string]any{"b": "2", "d": "2"},
	}}
	if _, err := kube.Apply(ctx, c, "us", want); err == nil {
		t.Fatal("an object of somebody else was applied to")
	}
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(want.GroupVersionKind())
	if err := c.Get(ctx, client.ObjectKeyFromObject(want), live); err != nil {
		t.Fatal(err)
	}
	stale := live.DeepCopy()
	if err := kube.HandOver(ctx, c, "us", live); err != nil {
		t.Fatal(err)
	}
	if err := kube.HandOver(ctx, c, "us", stale); !apierrors.IsConflict(err) && !apierrors.IsInvalid(err) {
		t.Errorf("of an object that was changed: %v", err)
	}
	// An admission policy may demand of us that what we write is as we want it: so we write nothing else.
	counting := &patches{Client: c}
	if outcome, err := kube.Apply(ctx, counting, "us", want); err != nil || outcome != kube.Updated || counting.n > 0 {
		t.Fatalf("%s, %v; %d patches", outcome, err, counting.n)
	}
	got := &corev1.ConfigMap{}
	if err := c.Get(ctx, client.ObjectKeyFromObject(want), got); err != nil {
		t.Fatal(err)
	}
	if got.UID != theirs.UID || !maps.Equal(got.Data, map[string]string{"b": "2", "d": "2"}) || len(got.Labels) != 1 {
		t.Errorf("labels %v, data %v", got.Labels, got.Data)
	}
	if outcome, err := kube.Apply(ctx, c, "us", want); err != nil || outcome != kube.Unchanged {
		t.Errorf("again: %s, %v", outcome, err)
	}
}

// patches counts them.
type patches struct {
	client.Client
	n int
}

func (p *patches) Patch(ctx context.Context, o client.Object, patch client.Patch, opts ...client.PatchOption) error {
	p.n++
	return p.Client.Patch(ctx, o, patch, opts...)
}

func TestShortName(t *testing.T) {
	long := strings.Repeat("a", 62) + ".b"
	for _, tc := range []struct {
		in    string
		limit int
		same  bool
	}{{"short", 63, true}, {strings.Repeat("x", 63), 63, true}, {long, 63, false}} {
		got := kube.ShortName(tc.in, tc.limit)
		if (got == tc.in) != tc.same || len(got) > tc.limit {
			t.Errorf("ShortName(%q) = %q", tc.in, got)
		}
	}
	if kube.ShortName(long, 63) == kube.ShortName(long+"c", 63) {
		t.Error("two long names became one")
	}
}

func TestClusterOf(t *testing.T) {
	for ns, want := range map[string]string{"isthmus-east": "east", "isthmus-system": "", "isthmus-agent": "", "isthmus-": "", "default": ""} {
		got, ok := kube.ClusterOf(ns)
		if ok != (want != "") || ok && got != want {
			t.Errorf("ClusterOf(%q) = %q, %v", ns, got, ok)
		}
	}
}
