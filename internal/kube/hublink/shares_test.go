package hublink

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube/compact"
)

// TestShares: what one cluster says, however much it is, takes no more memory than its share; names stay. Another cluster's is
// held whole, and what was given back is held again.
func TestShares(t *testing.T) {
	const limit = 1 << 20
	s := newShares(limit)
	pack := func(cluster string, i, size int) *packed {
		d := &v1alpha1.Destination{}
		d.Namespace, d.Name = "isthmus-"+cluster, fmt.Sprintf("s%d.shop", i)
		d.Spec.Mesh = "istiod-istio-system-" + cluster
		d.Spec.KubeService.Name, d.Spec.KubeService.Namespace = fmt.Sprintf("s%d", i), "shop"
		d.Spec.Identities = []string{strings.Repeat("x", size)}
		return s.pack(d).(*packed)
	}
	whole := func(list []*packed) (n int) {
		for _, p := range list {
			if IsHeld(p.Unpack().(*v1alpha1.Destination)) {
				n++
			}
		}
		return n
	}
	func() {
		var hostile []*packed
		for i := range 1000 {
			hostile = append(hostile, pack("west", i, 10<<10))
		}
		if n := whole(hostile); n < 90 || n > limit/(10<<10) {
			t.Errorf("%d of 1000 are held whole", n)
		}
		for i, p := range hostile {
			d := p.Unpack().(*v1alpha1.Destination)
			if d.Name != fmt.Sprintf("s%d.shop", i) || d.Namespace != "isthmus-west" || d.Spec.Mesh != "istiod-istio-system-west" || IsHeld(d) != (len(d.Spec.Identities) > 0) {
				t.Fatalf("it is %+v", d)
			}
		}
		if n := whole([]*packed{pack("north", 1, 10<<10), pack("north", 2, 100), pack("west", 3, 100)}); n != 3 {
			t.Errorf("%d of three are held whole", n)
		}
		runtime.KeepAlive(hostile)
	}() // and it goes

	deadline := time.Now().Add(30 * time.Second)
	for !IsHeld(pack("west", 1, 500<<10).Unpack().(*v1alpha1.Destination)) {
		if time.Now().After(deadline) {
			t.Fatalf("nothing is given back: %d bytes", s.taken[pack("west", 1, 1).namespace].Load())
		}
		runtime.GC()
	}
}

// TestOtherKindsAreHeldAsTheyAre guards against a nil in an interface.
func TestOtherKindsAreHeldAsTheyAre(t *testing.T) {
	if p := newShares(1).pack(&v1alpha1.Mesh{}); p != compact.Packed(nil) {
		t.Errorf("a Mesh is packed as %v", p)
	}
	own := &v1alpha1.Destination{}
	own.UID = "1"
	if p := newShares(1).pack(own); p != nil {
		t.Errorf("an own Destination is packed as %v", p)
	}
}
