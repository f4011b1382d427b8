package rotating

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

func TestHosts(t *testing.T) {
	mesh := &v1alpha1.Mesh{
		ObjectMeta: metav1.ObjectMeta{Name: "m", Namespace: "isthmus-west"},
		Spec:       v1alpha1.MeshSpec{Istio: v1alpha1.IstioMesh{TrustDomain: "east.example", RootNamespace: "istio-system", IstiodServiceAccount: "istiod"}},
	}
	for name, tc := range map[string]struct {
		noted []v1alpha1.AcceptedTrustDomain
		want  []string
	}{
		"accepted with another": {
			[]v1alpha1.AcceptedTrustDomain{{Name: "m", Namespace: "isthmus-west", TrustDomain: "west.example"}},
			[]string{"spiffe://west.example/ns/istio-system/sa/istiod"},
		},
		"accepted with none": {[]v1alpha1.AcceptedTrustDomain{{Name: "m", Namespace: "isthmus-east", TrustDomain: "east.example"}}, nil},
		"nothing is noted":   {nil, []string{"spiffe://east.example/ns/istio-system/sa/istiod"}},
	} {
		vm := &v1alpha1.VirtualMesh{Status: v1alpha1.VirtualMeshStatus{Accepted: &v1alpha1.AcceptedVirtualMesh{
			Spec: v1alpha1.VirtualMeshSpec{
				Meshes:     []v1alpha1.ObjectRef{{Name: "m", Namespace: "isthmus-west"}},
				MTLSConfig: &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{}},
			},
			TrustDomains: tc.noted,
		}}}
		s := &state{known: membership.Of(vm, nil), trust: accept.TrustIn(vm.Status.Accepted)}
		if got := s.hosts(mesh); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
