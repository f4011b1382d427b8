package federation_test

import (
	"fmt"
	"testing"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/federation"
)

func BenchmarkImport(b *testing.B) {
	home, client := mesh("east", trusting), mesh("west", trusting)
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything}, home, client)
	vm.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{}}
	for _, n := range []int{100, 10_000} {
		all := make([]*v1alpha1.Destination, n)
		for i := range all {
			all[i] = destination(home, called(fmt.Sprintf("service-%d", i), "default"))
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				for _, d := range all {
					if _, refusal := federation.Import(vm, federation.Client{Mesh: client, Address: "240.0.0.1"}, home, d); refusal != nil {
						b.Fatal(refusal)
					}
				}
			}
		})
	}
}

func BenchmarkExportsSet(b *testing.B) {
	home, client := mesh("east"), mesh("west")
	vm := virtualMesh(&v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{{DestinationSelectors: []v1alpha1.DestinationSelector{{
		KubeServiceMatcher: &v1alpha1.KubeServiceMatcher{Labels: map[string]string{"federated": "yes"}}}}}}}, home, client)
	for _, n := range []int{100, 10_000} {
		var e federation.Exports
		for i := range n {
			e.Set(fmt.Sprintf("service-%d.default", i), fmt.Sprintf("service-%d", i), "default")
		}
		for what, look := range map[string]func(){"set": func() {}, "set and hosts": func() { e.Hosts(vm, home) }} {
			b.Run(fmt.Sprintf("%s/%d", what, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					e.Set("service-7.default", "", "")
					e.Set("service-7.default", "service-7", "default")
					look()
				}
			})
		}
	}
}
