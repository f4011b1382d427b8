package meshctl_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/policy"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// TestDeregisterRemovesTheNetwork: what the agent made of Istio's kinds goes, the denial before what allows; what others made
// stays.
func TestDeregisterRemovesTheNetwork(t *testing.T) {
	w := newWorld(t, testenv.IstioCRDs(t))
	w.hub.Namespace(t, "isthmus-system", nil)
	for _, ns := range []string{"isthmus-agent", "istio-system"} {
		w.member.Namespace(t, ns, nil)
	}
	denial := policy.GlobalDenial(
		&membership.VirtualMesh{Spec: &v1alpha1.VirtualMeshSpec{GlobalAccessPolicy: v1alpha1.GlobalAccessPolicyEnabled}},
		&v1alpha1.Mesh{Spec: v1alpha1.MeshSpec{Istio: v1alpha1.IstioMesh{RootNamespace: "istio-system"}}})
	object := func(group, kind, name, manager string, spec map[string]any) *unstructured.Unstructured {
		o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": group + ".istio.io/v1", "kind": kind, "spec": spec}}
		o.SetNamespace("istio-system")
		o.SetName(name)
		if manager != "" {
			o.SetLabels(map[string]string{v1alpha1.LabelManagedBy: manager})
		}
		return o
	}
	const ours = "isthmus-agent-network"
	gateway := map[string]any{"servers": []any{map[string]any{
		"port": map[string]any{"number": int64(15443), "name": "tls", "protocol": "TLS"}, "hosts": []any{"a.b.svc.cluster.local"}, "tls": map[string]any{"mode": "AUTO_PASSTHROUGH"},
	}}}
	entry := map[string]any{"hosts": []any{"a.b.svc.west.global"}, "resolution": "STATIC", "ports": []any{map[string]any{"number": int64(80), "name": "http"}}}
	rule := map[string]any{"host": "a.b.svc.west.global"}
	allow := map[string]any{"rules": []any{map[string]any{}}}
	objects := []*unstructured.Unstructured{
		object("networking", "Gateway", "isthmus-gateway", ours, gateway),
		object("networking", "Gateway", "isthmus-canary-gateway", "isthmus-agent-evidence", gateway),
		object("networking", "ServiceEntry", "a", ours, entry),
		object("networking", "DestinationRule", "a", ours, rule),
		object("security", "AuthorizationPolicy", "a-before-the-denial-by-name", ours, allow),
		object("security", "AuthorizationPolicy", denial.Name, ours, map[string]any{}),
		object("security", "AuthorizationPolicy", "isthmus-z", ours, allow),
		object("security", "PeerAuthentication", "isthmus", ours, map[string]any{}),
	}
	stay := []*unstructured.Unstructured{
		object("networking", "Gateway", "mine", "", gateway),
		object("networking", "ServiceEntry", "mine", "somebody", entry),
		object("security", "AuthorizationPolicy", "isthmus-mine", "", allow),
	}
	for _, o := range slices.Concat(objects, stay) {
		if err := w.member.Client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	agent := deployment("isthmus-agent", "isthmus-agent", corev1.Container{Name: "agent", Image: "x", Args: []string{"--cluster=east"}})
	(&clusterOf{w.member}).create(t, agent)

	watching, err := client.NewWithWatch(w.member.Config, client.Options{Scheme: testenv.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(objects[4].GroupVersionKind())
	list.SetKind("AuthorizationPolicyList")
	if err := watching.List(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	events, err := watching.Watch(t.Context(), list, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.GetResourceVersion()}})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()

	w.fails(t, 2, `that of cluster "east"`, "cluster", "deregister", "west", "--member-context", "member")
	w.fails(t, 2, "see that --context names the hub", "cluster", "deregister", "east", "--member-context", "member") // as of another hub
	if err := exists(w.member.Client, &appsv1.Deployment{}, "isthmus-agent", "isthmus-agent"); err != nil {
		t.Fatalf("after it was refused: %v", err)
	}
	(&clusterOf{w.hub}).create(t, &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-system", Name: "east"}})
	_, said, code := w.meshctl(t, "cluster", "deregister", "east", "--member-context", "member")
	if code != 0 {
		t.Fatalf("exit code %d", code)
	}
	for _, want := range []string{"2 of kind Gateway", "1 of kind ServiceEntry", "1 of kind DestinationRule", "3 of kind AuthorizationPolicy", "1 of kind PeerAuthentication"} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	for e := range events.ResultChan() {
		if e.Type == watch.Deleted {
			if name := e.Object.(client.Object).GetName(); name != denial.Name {
				t.Errorf("%s was removed before the denial", name)
			}
			break
		}
	}
	for i, o := range slices.Concat(objects, stay) {
		gvk, err := apiutil.GVKForObject(o, testenv.Scheme())
		if err != nil {
			t.Fatal(err)
		}
		err = exists(w.member.Client, o.DeepCopy(), o.GetNamespace(), o.GetName())
		if gone := apierrors.IsNotFound(err); gone != (i < len(objects)) {
			t.Errorf("%s %s: %v", gvk.Kind, o.GetName(), err)
		}
	}
	if err := w.member.Client.Delete(t.Context(), agent); err != nil { // as its chart's release would have
		t.Fatal(err)
	}
	if out := w.ok(t, "cluster", "deregister", "east", "--member-context", "member"); strings.Contains(out, "of kind") {
		t.Errorf("the second time it removes something: %s", out)
	}
}

// TestDeregisterWaits for VirtualMeshes to let go of the cluster's meshes, and says so.
func TestDeregisterWaits(t *testing.T) {
	w := newWorld(t) // without Istio's kinds in the member, and without a hub that runs
	w.federated(t)
	h := &clusterOf{w.hub}
	h.create(t, &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-system", Name: "east", Finalizers: []string{v1alpha1.Finalizer}}})
	args := []string{"cluster", "deregister", "east", "--member-context", "member"}
	w.givesUp(t, "waiting for VirtualMesh virtual-mesh to let go of mesh "+eastMesh+": see that isthmus-hub runs", args...)

	vm := &v1alpha1.VirtualMesh{}
	if err := exists(w.hub.Client, vm, "isthmus-system", "virtual-mesh"); err != nil {
		t.Fatal(err)
	}
	vm.Status.Accepted.Spec.Meshes = vm.Status.Accepted.Spec.Meshes[1:]
	if err := w.hub.Client.Status().Update(t.Context(), vm); err != nil {
		t.Fatal(err)
	}
	w.givesUp(t, "waiting for the hub to take away the rights of the agent", args...)

	kc := &v1alpha1.KubernetesCluster{}
	if err := exists(w.hub.Client, kc, "isthmus-system", "east"); err != nil {
		t.Fatal(err)
	}
	if kc.DeletionTimestamp == nil {
		t.Fatal("it is not being deleted")
	}
	kc.Finalizers = nil
	if err := w.hub.Client.Update(t.Context(), kc); err != nil {
		t.Fatal(err)
	}
	w.ok(t, args...)
}

// TestDeregisterElsewhere: a member without an agent is not taken for a cluster whose agent is connected, but an agent that was
// removed just now is waited for.
func TestDeregisterElsewhere(t *testing.T) {
	w := newWorld(t)
	h := &clusterOf{w.hub}
	h.Namespace(t, "isthmus-system", nil)
	kc := &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-system", Name: "east"}}
	connected := func(is metav1.ConditionStatus) {
		kc := &v1alpha1.KubernetesCluster{}
		if err := exists(w.hub.Client, kc, "isthmus-system", "east"); err != nil {
			t.Error(err)
		}
		kc.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionConnected, Status: is, Reason: "X", LastTransitionTime: metav1.Now()}}
		if err := w.hub.Client.Status().Update(t.Context(), kc); err != nil {
			t.Error(err)
		}
	}
	args := []string{"cluster", "deregister", "east", "--member-context", "member"}
	h.create(t, kc)
	connected(metav1.ConditionTrue)
	w.givesUp(t, "has no agent, but that of east is connected", args...)
	if err := exists(w.hub.Client, kc, "isthmus-system", "east"); err != nil || kc.DeletionTimestamp != nil {
		t.Fatalf("the hub forgets a cluster whose agent stays: %v", err)
	}
	later := time.AfterFunc(time.Second, func() { connected(metav1.ConditionFalse) })
	defer later.Stop()
	w.ok(t, args...)

	h.create(t, &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-system", Name: "east"}})
	connected(metav1.ConditionTrue)
	w.ok(t, slices.Concat(args, []string{"--force"})...)
}
