package legacy_test

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/internal/legacy"
)

// TestRemains: what an older installation made is told from what others did.
func TestRemains(t *testing.T) {
	for label, want := range map[string]bool{
		"owner.networking.mesh.gloo.solo.io": true,
		"owner.networking.smh.solo.io":       true,
		"owner.discovery.mesh.gloo.solo.io":  false,
		"agent.gloo.solo.io":                 false, // of a product that came later
	} {
		if got := legacy.IsOutput(&metav1.ObjectMeta{Labels: map[string]string{label: "gloo-mesh", legacy.LabelOutput: ""}}); got != want {
			t.Errorf("%s: %t", label, got)
		}
	}
	for name, want := range map[string]bool{
		"ratings.default.new-remote-cluster":             true,
		"ratings.default.other":                          false,
		"api.example.com":                                false,
		"reviews.bookinfo.svc.new-remote-cluster.global": false,
		"new-remote-cluster":                             false,
		"":                                               false,
	} {
		if got := legacy.IsFederatedName(name, []string{"new-remote-cluster", "management-plane"}); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
	for name, want := range map[string]bool{
		"reviews.bookinfo.svc.west.global": true, "reviews.bookinfo.svc.west.mesh.example": true, "reviews.bookinfo.west": true,
		"reviews.bookinfo.svc.east.global": false, "reviews.bookinfo.east": false, "reviews": false, "reviews.bookinfo.svc.cluster": false,
	} {
		if got := legacy.IsImport(name, "east"); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
	for secretType, want := range map[string]bool{
		"solo.io/ca-intermediate": true, "certificates.mesh.gloo.solo.io/issued_certificate": true,
		"istio.io/ca-root": false, "Opaque": false, "": false,
	} {
		if got := legacy.IsCACerts(secretType); got != want {
			t.Errorf("%s: %t", secretType, got)
		}
	}
	for _, tc := range []struct {
		name  string
		image string
		want  bool
	}{
		{"cert-agent", "gcr.io/gloo-mesh/cert-agent:1.0.0", true},
		{"csr-agent", "soloio/csr-agent:0.5.0", true},
		{"cert-agent", "example.com/other", false},
		{"discovery", "gcr.io/gloo-mesh/discovery", false},
	} {
		if got := legacy.IsController(tc.name, []string{"sidecar", tc.image}); got != tc.want {
			t.Errorf("%s of %s: %t", tc.name, tc.image, got)
		}
	}
}
