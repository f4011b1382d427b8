package meshctl

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// What was decided on a spec is written if that spec stands, whatever was written to the status meanwhile.
func TestEdit(t *testing.T) {
	env := testenv.Start(t)
	env.Namespace(t, v1alpha1.SystemNamespace, nil)
	watching, err := client.NewWithWatch(env.Config, client.Options{Scheme: env.Client.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	hub := &cluster{WithWatch: watching}
	vm := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "all"}}
	vm.Spec.Meshes = []v1alpha1.ObjectRef{{Name: "istiod-istio-system-east"}}
	vm.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{}}
	if err := hub.Create(t.Context(), vm); err != nil {
		t.Fatal(err)
	}
	read := func() (was, is *v1alpha1.VirtualMesh) {
		t.Helper()
		was = &v1alpha1.VirtualMesh{}
		if err := hub.Get(t.Context(), client.ObjectKeyFromObject(vm), was); err != nil {
			t.Fatal(err)
		}
		return was, was.DeepCopy()
	}
	trigger := func(vm *v1alpha1.VirtualMesh) *string { return &vm.Spec.MTLSConfig.Shared.RotationTrigger }

	was, ours := read()
	_, status := read()
	status.Status.State = v1alpha1.StatePending
	if err := hub.Status().Update(t.Context(), status); err != nil {
		t.Fatal(err)
	}
	*trigger(ours) = "ours"
	if err := hub.edit(t.Context(), was, ours); err != nil {
		t.Fatal(err)
	}
	was, ours = read()
	if got := *trigger(was); got != "ours" || was.Status.State != v1alpha1.StatePending {
		t.Fatalf("rotationTrigger is %q, state %q", got, was.Status.State)
	}

	_, theirs := read()
	*trigger(theirs), *trigger(ours) = "theirs", "ours again"
	if err := hub.Update(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	if err := hub.edit(t.Context(), was, ours); err == nil || !strings.Contains(err.Error(), "was edited meanwhile") {
		t.Errorf("error %v, want that it was edited", err)
	}
	if now, _ := read(); *trigger(now) != "theirs" {
		t.Errorf("rotationTrigger is %q", *trigger(now))
	}
}
