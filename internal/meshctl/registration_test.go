package meshctl_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/hub/registration"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// jwt matches a ServiceAccount token.
var jwt = regexp.MustCompile(`eyJ[\w-]+\.[\w-]+\.[\w-]+`)

// TestRegistration is the life of a registration, on real API servers, with the real hub, its charts and its rights.
func TestRegistration(t *testing.T) {
	w := newWorld(t)
	images := []string{"--image-registry", "lab.local", "--image-tag", "dev"}
	member := []string{"--member-context", "member", "--hub-server", w.hub.Config.Host}
	register := func(name string, more ...string) []string {
		return append(append(append([]string{"cluster", "register", name}, member...), images...), more...)
	}

	if dry := w.ok(t, "install", "--dry-run"); !strings.Contains(dry, "kind: CustomResourceDefinition") || !strings.Contains(dry, "name: isthmus-hub") {
		t.Fatal("install --dry-run does not print the kinds and the hub")
	}
	if dry := w.ok(t, "install", "--dry-run", "--set", "legacy.enabled=true"); !strings.Contains(dry, "name: virtualmeshes.networking.zephyr.solo.io") || !strings.Contains(dry, "--legacy") {
		t.Fatal("install --set legacy.enabled=true does not print the kinds of older generations and a hub that follows them")
	}
	if err := exists(w.hub.Client, &appsv1.Deployment{}, "isthmus-system", "isthmus-hub"); !apierrors.IsNotFound(err) {
		t.Fatalf("install --dry-run installed the hub: %v", err)
	}
	w.ok(t, append([]string{"install"}, images...)...)
	w.ok(t, "install", "--set", "replicas=2") // again, with what was given before
	deployment := &appsv1.Deployment{}
	if err := exists(w.hub.Client, deployment, "isthmus-system", "isthmus-hub"); err != nil {
		t.Fatal(err)
	}
	if image := deployment.Spec.Template.Spec.Containers[0].Image; image != "lab.local/isthmus-hub:dev" || *deployment.Spec.Replicas != 2 {
		t.Fatalf("image %s, %d replicas", image, *deployment.Spec.Replicas)
	}

	w.startHub(t)
	go w.agent(t.Context(), "east")

	w.fails(t, 2, "--hub-server", "cluster", "register", "east", "--member-context", "member")
	w.fails(t, 2, "--member-context is required", "cluster", "register", "east")
	w.fails(t, 1, "does not exist", "cluster", "register", "east", "--member-context", "nowhere")
	w.fails(t, 1, "install Istio first", register("east")...)
	w.member.Namespace(t, "istio-system", nil)
	w.fails(t, 1, "metadata.name", register("East!")...)

	printed := w.ok(t, register("east", "--output", "-")...)
	for _, want := range []string{"kind: KubernetesCluster", "kind: Deployment", "--cluster=east", "lab.local/isthmus-agent:dev", "rotate-credentials"} {
		if !strings.Contains(printed, want) {
			t.Errorf("register --output - does not print %q", want)
		}
	}
	if jwt.MatchString(printed) {
		t.Error("register --output prints a token that nobody asked for")
	}
	if err := exists(w.hub.Client, &v1alpha1.KubernetesCluster{}, "isthmus-system", "east"); !apierrors.IsNotFound(err) {
		t.Fatalf("register --output registered: %v", err)
	}

	w.ok(t, register("east")...)
	if out := w.ok(t, "cluster", "list"); !regexp.MustCompile(`(?m)^east +True +True +0\.1\.0 `).MatchString(out) {
		t.Fatalf("cluster list:\n%s", out)
	}
	if out := w.ok(t, "cluster", "list", "-o", "json"); !strings.Contains(out, `"kind": "KubernetesClusterList"`) {
		t.Fatalf("cluster list -o json:\n%s", out)
	}
	first, err := w.asAgent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := first.List(t.Context(), &v1alpha1.MeshList{}, client.InNamespace("isthmus-east")); err != nil {
		t.Fatalf("the agent's credential: %v", err)
	}
	if err := first.List(t.Context(), &corev1.SecretList{}, client.InNamespace("isthmus-system")); !apierrors.IsForbidden(err) {
		t.Fatalf("the agent's credential reads Secrets of the hub: %v", err)
	}

	w.ok(t, register("east")...)
	w.fails(t, 1, `registered as "east"`, register("west")...)
	if err := exists(w.hub.Client, &v1alpha1.KubernetesCluster{}, "isthmus-system", "west"); !apierrors.IsNotFound(err) {
		t.Fatalf("a refused registration left something behind: %v", err)
	}

	dir := filepath.Join(t.TempDir(), "out")
	w.ok(t, register("east", "--output", dir, "--include-credential")...)
	if data, err := os.ReadFile(filepath.Join(dir, "member.yaml")); err != nil || !strings.Contains(string(data), "isthmus-hub-credential") {
		t.Fatalf("member.yaml: %v", err)
	}

	rotate := func(name, context string) []string {
		return []string{"cluster", "rotate-credentials", name, "--member-context", context, "--hub-server", w.hub.Config.Host}
	}
	w.fails(t, 2, "it names cluster east", rotate("west", "member")...)
	w.fails(t, 2, "has no agent", rotate("east", "hub")...)
	if err := first.List(t.Context(), &v1alpha1.MeshList{}, client.InNamespace("isthmus-east")); err != nil {
		t.Fatalf("a refused call has revoked the credential: %v", err)
	}
	w.ok(t, rotate("east", "member")...)
	testenv.Eventually(t, "the old credential is refused", func() error { return unauthorized(first) })
	second, err := w.asAgent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := second.List(t.Context(), &v1alpha1.MeshList{}, client.InNamespace("isthmus-east")); err != nil {
		t.Fatalf("the new credential: %v", err)
	}

	w.fails(t, 1, "clusters are registered: east", "uninstall")
	w.fails(t, 2, "--member-context is required", "cluster", "deregister", "east")
	w.fails(t, 2, `"east"`, "cluster", "deregister", "west", "--member-context", "member")
	w.ok(t, "cluster", "deregister", "east", "--member-context", "member")
	if err := deregistered(w); err != nil {
		t.Fatal(err)
	}
	w.ok(t, "cluster", "deregister", "east", "--member-context", "member") // again
	w.ok(t, "install", "--set", "legacy.enabled=true")
	old := &unstructured.Unstructured{}
	old.SetAPIVersion("networking.smh.solo.io/v1alpha2")
	old.SetKind("VirtualMesh")
	old.SetNamespace("default")
	old.SetName("virtual-mesh")
	old.SetFinalizers([]string{v1alpha1.Finalizer}) // as of a hub that followed it
	testenv.Eventually(t, "object of an older generation", func() error { return w.hub.Client.Create(t.Context(), old) })
	w.ok(t, "uninstall")
	if err := w.hub.Client.Delete(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	if err := w.hub.Client.Get(t.Context(), client.ObjectKeyFromObject(old), old); !apierrors.IsNotFound(err) {
		t.Errorf("nobody lets go of what the hub followed: %v, finalizers %v", err, old.GetFinalizers())
	}
	if err := exists(w.hub.Client, &appsv1.Deployment{}, "isthmus-system", "isthmus-hub"); !apierrors.IsNotFound(err) {
		t.Fatalf("the hub after uninstall: %v", err)
	}
	if err := w.hub.Client.List(t.Context(), &v1alpha1.VirtualMeshList{}); err != nil {
		t.Fatalf("the kinds must stay: %v", err)
	}
}

// deregistered returns an error that names what is left of cluster east.
func deregistered(w *world) error {
	var errs []error
	for _, left := range []struct {
		c               client.Client
		obj             client.Object
		namespace, name string
	}{
		{w.hub.Client, &v1alpha1.KubernetesCluster{}, "isthmus-system", "east"},
		{w.member.Client, &appsv1.Deployment{}, "isthmus-agent", "isthmus-agent"},
		{w.member.Client, &corev1.Secret{}, "isthmus-agent", "isthmus-hub-credential"},
	} {
		if err := exists(left.c, left.obj, left.namespace, left.name); !apierrors.IsNotFound(err) {
			errs = append(errs, errors.New(left.name+" is left"))
		}
	}
	for c, name := range map[client.Client]string{w.hub.Client: "isthmus-east", w.member.Client: "isthmus-agent"} {
		ns := &corev1.Namespace{} // nobody here finishes the deletion of namespaces
		if err := exists(c, ns, "", name); err != nil || ns.DeletionTimestamp == nil {
			errs = append(errs, errors.New("namespace "+name+" is not being deleted"))
		}
	}
	return errors.Join(errs...)
}

// TestTakenName: a name under which another cluster is connected is not taken over.
func TestTakenName(t *testing.T) {
	w := newWorld(t)
	w.hub.Namespace(t, "isthmus-system", nil)
	w.member.Namespace(t, "istio-system", nil)
	w.startHub(t)
	ctx := context.Background()
	if err := w.hub.Client.Create(ctx, &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-system", Name: "east"}}); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the hub registers east", func() error {
		return exists(w.hub.Client, &corev1.Secret{}, "isthmus-east", registration.CredentialName)
	})
	if err := heartbeat(ctx, w.hub.Client, "east"); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "east is connected", func() error {
		kc := &v1alpha1.KubernetesCluster{}
		err := w.hub.Client.Get(ctx, client.ObjectKey{Namespace: "isthmus-system", Name: "east"}, kc)
		if err == nil && !meta.IsStatusConditionTrue(kc.Status.Conditions, v1alpha1.ConditionConnected) {
			err = fmt.Errorf("conditions are %+v", kc.Status.Conditions)
		}
		return err
	})
	w.fails(t, 1, "is taken", "cluster", "register", "east", "--member-context", "member", "--hub-server", w.hub.Config.Host)
	if err := exists(w.member.Client, &corev1.Namespace{}, "", "isthmus-agent"); !apierrors.IsNotFound(err) {
		t.Fatalf("the member was changed: %v", err)
	}
}

// TestWithoutHub: what nobody does is not waited for in silence.
func TestWithoutHub(t *testing.T) {
	w := newWorld(t)
	w.hub.Namespace(t, "isthmus-system", nil)
	w.member.Namespace(t, "istio-system", nil)
	w.givesUp(t, "see that isthmus-hub runs in namespace isthmus-system", "cluster", "register", "east",
		"--member-context", "member", "--hub-server", w.hub.Config.Host)

	// What stands in the way may go away, and is told if it does not.
	kc := &v1alpha1.KubernetesCluster{}
	if err := exists(w.hub.Client, kc, "isthmus-system", "east"); err != nil {
		t.Fatal(err)
	}
	const taken = "Namespace /isthmus-east exists and was not made by Isthmus"
	for kind, status := range map[string]metav1.ConditionStatus{v1alpha1.ConditionReady: metav1.ConditionFalse, v1alpha1.ConditionStalled: metav1.ConditionTrue} {
		meta.SetStatusCondition(&kc.Status.Conditions, metav1.Condition{
			Type: kind, Status: status, Reason: registration.ReasonNamespaceTaken, Message: taken, ObservedGeneration: kc.Generation,
		})
	}
	kc.Status.ObservedGeneration = kc.Generation
	if err := w.hub.Client.Status().Update(t.Context(), kc); err != nil {
		t.Fatal(err)
	}
	w.givesUp(t, "waiting for the hub to register the cluster: "+taken, "cluster", "register", "east",
		"--member-context", "member", "--hub-server", w.hub.Config.Host)
}
