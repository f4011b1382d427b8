package meshctl

import (
	"bytes"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
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
