package membership_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

func TestGatewayIdentity(t *testing.T) {
	mesh := v1alpha1.ObjectRef{Name: "istiod-istio-system-east", Namespace: "isthmus-east"}
	if got := membership.GatewayIdentity("shop.isthmus-system", mesh); got != "spiffe://shop.isthmus-system.gateways.isthmus.dev/cluster/east/mesh/istiod-istio-system-east" {
		t.Errorf("identity %s", got)
	}
	a, b := strings.Repeat("a", 253)+".isthmus-system", strings.Repeat("a", 253)+".other"
	seen := map[string]bool{}
	for _, vm := range []string{a, b} {
		id := membership.GatewayIdentity(vm, mesh)
		u, err := url.Parse(id)
		if err != nil || len(u.Host) > 255 {
			t.Errorf("%s: %v", id, err)
		}
		seen[id] = true
	}
	if len(seen) != 2 {
		t.Error("two virtual meshes with long names have one identity")
	}
}

func TestOrderedFor(t *testing.T) {
	for order, want := range map[string]v1alpha1.CertificatePurpose{"istiod-x": v1alpha1.PurposeMeshCA, membership.GatewayOrder("istiod-x"): v1alpha1.PurposeGateway} {
		if mesh, purpose := membership.OrderedFor(order); mesh != "istiod-x" || purpose != want {
			t.Errorf("%s: %s, %s", order, mesh, purpose)
		}
	}
}
