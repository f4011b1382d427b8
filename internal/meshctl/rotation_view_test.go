package meshctl

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// TestAsked: a stage is shown to ask of proxies what a rotation waits for there, on both ways.
func TestAsked(t *testing.T) {
	for name, c := range map[string]struct {
		rotation *v1alpha1.OrderRotation
		asks     string
	}{
		"at rest":                {nil, "have a leaf under the root"},
		"over":                   {&v1alpha1.OrderRotation{Stage: v1alpha1.StageNewOnly, Closed: true}, "have a leaf under the root"},
		"both roots":             {&v1alpha1.OrderRotation{Stage: v1alpha1.StageOldSigns}, "accept both roots"},
		"the new signer":         {&v1alpha1.OrderRotation{Stage: v1alpha1.StageNewSigns}, "have a leaf under the new root"},
		"without the old root":   {&v1alpha1.OrderRotation{Stage: v1alpha1.StageNewOnly}, "refuse the old root"},
		"both roots again":       {&v1alpha1.OrderRotation{Stage: v1alpha1.StageNewSigns, Back: true}, "accept both roots"},
		"the old signer again":   {&v1alpha1.OrderRotation{Stage: v1alpha1.StageOldSigns, Back: true}, "have a leaf under the old root"},
		"half of the way back":   {&v1alpha1.OrderRotation{Stage: v1alpha1.StageOldOnly, Back: true, Half: true}, "have a leaf under the old root"},
		"without the new root":   {&v1alpha1.OrderRotation{Stage: v1alpha1.StageOldOnly, Back: true}, "refuse the new root"},
		"taken back and at rest": {&v1alpha1.OrderRotation{Stage: v1alpha1.StageOldOnly, Back: true, Closed: true}, "have a leaf under the root"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := asked(c.rotation); got != c.asks {
				t.Errorf("asks to %s, want %s", got, c.asks)
			}
		})
	}
}

// TestViewLimited: under limited trust the rotation is that of the gateways; a mesh that gets a root of its own is shown beside, as
// what it is, and the rotation is not over before that is. What other virtual meshes ordered is not shown.
func TestViewLimited(t *testing.T) {
	mesh := v1alpha1.ObjectRef{Name: "istiod-istio-system-east", Namespace: "isthmus-east"}
	vm := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Name: "vm", Namespace: "isthmus-system"}}
	vm.Status.Accepted = &v1alpha1.AcceptedVirtualMesh{Spec: v1alpha1.VirtualMeshSpec{
		Meshes: []v1alpha1.ObjectRef{mesh}, MTLSConfig: &v1alpha1.MTLSConfig{Limited: &v1alpha1.LimitedTrust{OwnRoots: true}},
	}}
	vm.Status.Rotation = &v1alpha1.RotationStatus{Step: v1alpha1.StepFinished, RotationID: "r-1"}
	order := func(name, virtualMesh string, closed bool) v1alpha1.IssuedCertificate {
		o := v1alpha1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: mesh.Namespace}}
		o.Spec.VirtualMesh = v1alpha1.ObjectRef{Name: virtualMesh, Namespace: vm.Namespace}
		o.Spec.Rotation = &v1alpha1.OrderRotation{Stage: v1alpha1.StageNewOnly, Closed: closed}
		o.Status.ControlPlane = &v1alpha1.ControlPlaneEvidence{Replicas: []v1alpha1.IstiodReplica{{Pod: "p"}}}
		return o
	}
	shown := func(ca v1alpha1.IssuedCertificate) (*rotationView, string) {
		v := viewRotation(vm, &v1alpha1.IssuedCertificateList{Items: []v1alpha1.IssuedCertificate{
			order(membership.GatewayOrder(mesh.Name), "vm", true), ca, order("istiod-other", "other", false),
		}})
		var out bytes.Buffer
		if err := v.print(&out); err != nil {
			t.Fatal(err)
		}
		return v, out.String()
	}

	v, text := shown(order(mesh.Name, "vm", false))
	if !v.UnderWay {
		t.Error("a mesh turns to a root of its own, and the rotation is over")
	}
	if want := []string{
		"istiod-istio-system-east.isthmus-east: NewOnly (over), carried out, gateways 0/1",
		"istiod-istio-system-east.isthmus-east: NewOnly, carried out, istiod 0/1",
	}; !slices.Equal(v.lines()[1:], want) {
		t.Errorf("lines %q, want %q", v.lines()[1:], want)
	}
	gateways, authorities, ok := strings.Cut(text, "Progress:")
	if !ok || !strings.Contains(gateways, "GATEWAYS") || strings.Contains(gateways, "ISTIOD") || !strings.Contains(authorities, "ISTIOD") {
		t.Errorf("tables are\n%s", text)
	}
	if v, _ := shown(order(mesh.Name, "vm", true)); v.UnderWay {
		t.Error("the rotation is over in each, and is under way")
	}
}

// TestScreen: a terminal is drawn anew when something has changed, and only then; what members say cannot move its cursor.
func TestScreen(t *testing.T) {
	var out bytes.Buffer
	s := &screen{w: &out, live: true}
	v := &rotationView{VirtualMesh: "vm", RotationID: "r-1", Step: v1alpha1.StepAddingNewRoot, Waits: []string{"a\x1b[2Jb"}}
	for range 2 {
		if err := s.show(v); err != nil {
			t.Fatal(err)
		}
	}
	v.Step = v1alpha1.StepVerifying
	if err := s.show(v); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\x1b[2J"); n != 2 {
		t.Errorf("the terminal was cleared %d times, want 2:\n%q", n, out.String())
	}
}
