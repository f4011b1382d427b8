package hub_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// TestAcceptedIsReplacedAsAWhole edits objects so that parts of them become empty. Merged field by field, as server-side
// apply does it by default, an empty struct becomes null, which its own schema refuses.
func TestAcceptedIsReplacedAsAWhole(t *testing.T) {
	w := start(t)
	w.register("east")
	vm := virtualMesh("one", "east")
	vm.Spec.MTLSConfig = nil
	w.create(vm)
	everything := []v1alpha1.FederationSelector{{}}
	for _, f := range []*v1alpha1.Federation{
		{Selectors: everything}, {}, {Permissive: &v1alpha1.Empty{}}, {}, {Selectors: everything}, nil,
	} {
		update(w, vm, system, "one", func(vm *v1alpha1.VirtualMesh) { vm.Spec.Federation = f.DeepCopy() })
		w.sees("one", "acceptance", func(vm *v1alpha1.VirtualMesh) error {
			a := vm.Status.Accepted
			if a == nil {
				return errors.New("nothing is accepted")
			}
			return errors.Join(want(a.Generation, vm.Generation), want(a.Spec.Federation == nil, f == nil))
		})
	}
}

// TestIntermediatesAreForTheAcceptedTrustDomain: a member that reports the trust domain of another is ordered no intermediate for
// it. The other things that it reports are followed, which shows that the hub has seen it.
func TestIntermediatesAreForTheAcceptedTrustDomain(t *testing.T) {
	w := start(t)
	reports := func(trustDomain, account string) {
		t.Helper()
		update(w, &v1alpha1.Mesh{}, "isthmus-west", meshName("west"), func(m *v1alpha1.Mesh) {
			m.Spec.Istio.TrustDomain, m.Spec.Istio.IstiodServiceAccount = trustDomain, account
		})
	}
	ordered := func(cluster, host string) {
		t.Helper()
		testenv.Eventually(t, "order for "+host, func() error {
			ic := &v1alpha1.IssuedCertificate{}
			if err := w.Get(t.Context(), client.ObjectKey{Namespace: "isthmus-" + cluster, Name: meshName(cluster)}, ic); err != nil {
				return err
			}
			if !slices.Equal(ic.Spec.Hosts, []string{host}) {
				return fmt.Errorf("it is for %v", ic.Spec.Hosts)
			}
			return nil
		})
	}
	w.register("east")
	w.register("west", func(m *v1alpha1.Mesh) { m.Spec.Istio.TrustDomain = "west.example" })
	vm := virtualMesh("one", "east", "west")
	w.create(vm)
	ordered("east", "spiffe://cluster.local/ns/istio-system/sa/istiod")
	ordered("west", "spiffe://west.example/ns/istio-system/sa/istiod")
	w.run("one that reports another's", func(*testing.T) {
		reports("cluster.local", "other")
		ordered("west", "spiffe://west.example/ns/istio-system/sa/other")
	})
	w.run("one that has really changed it leaves and joins again", func(t *testing.T) {
		reports("new.example", "istiod")
		ordered("west", "spiffe://west.example/ns/istio-system/sa/istiod")
		for _, members := range [][]string{{"east"}, {"east", "west"}} {
			update(w, vm, system, "one", func(vm *v1alpha1.VirtualMesh) { vm.Spec = virtualMesh("one", members...).Spec })
			w.sees("one", "acceptance", func(vm *v1alpha1.VirtualMesh) error {
				return want(len(vm.Status.Accepted.TrustDomains), len(members))
			})
		}
		ordered("west", "spiffe://new.example/ns/istio-system/sa/istiod")
	})
}
