package network

import (
	"encoding/json"
	"testing"

	networkingapi "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// A stub that is packed and unpacked says all that is read of it.
func TestPacked(t *testing.T) {
	meta := func(labels, annotations map[string]string) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Namespace: "istio-system", Name: "reviews.shop.svc.west.global", ResourceVersion: "7", UID: "u", Labels: labels, Annotations: annotations,
		}
	}
	ours := map[string]string{v1alpha1.LabelManagedBy: fieldOwner, v1alpha1.LabelVirtualMesh: "vm.isthmus-system", v1alpha1.LabelCluster: "west"}
	made := map[string]string{v1alpha1.AnnotationDestination: "isthmus-west/reviews.shop", annotationMesh: "m.isthmus-west", "of": "somebody"}
	limited := map[string]string{v1alpha1.AnnotationDestination: "isthmus-west/reviews.shop", annotationMesh: "m.isthmus-west", annotationClient: "m.isthmus-east"}
	entry := func(m metav1.ObjectMeta, hosts ...string) *networkingv1.ServiceEntry {
		return &networkingv1.ServiceEntry{ObjectMeta: m, Spec: networkingapi.ServiceEntry{Hosts: hosts, Addresses: []string{"241.0.0.1"}, ExportTo: []string{"*"}}}
	}
	for name, tc := range map[string]struct {
		object client.Object
		packed bool
	}{
		"a ServiceEntry":                         {entry(meta(ours, made), "reviews.shop.svc.west.global"), true},
		"one of a long hostname":                 {entry(meta(ours, made), "r.shop.svc.west.global"), true},
		"one that was changed":                   {entry(meta(ours, made), "a", "b"), true},
		"a DestinationRule":                      {&networkingv1.DestinationRule{ObjectMeta: meta(ours, made), Spec: networkingapi.DestinationRule{Host: "a"}}, true},
		"an AuthorizationPolicy":                 {&securityv1.AuthorizationPolicy{ObjectMeta: meta(ours, made)}, true},
		"a ServiceEntry of somebody else":        {entry(meta(map[string]string{"of": "somebody"}, made), "a"), false},
		"an AuthorizationPolicy of a whole mesh": {&securityv1.AuthorizationPolicy{ObjectMeta: meta(ours, map[string]string{annotationMesh: "m.isthmus-west"})}, false},
		"a Gateway of a whole mesh":              {&networkingv1.Gateway{ObjectMeta: meta(ours, map[string]string{annotationMesh: "m.isthmus-west"})}, false},
		"a Gateway of limited trust":             {&networkingv1.Gateway{ObjectMeta: meta(ours, limited)}, true},
		"a VirtualService":                       {&networkingv1.VirtualService{ObjectMeta: meta(ours, limited)}, true},
	} {
		t.Run(name, func(t *testing.T) {
			obj, err := stub(tc.object)
			if err != nil {
				t.Fatal(err)
			}
			o := obj.(client.Object)
			p := pack(o)
			if (p != nil) != tc.packed {
				t.Fatalf("packed: %v", p != nil)
			}
			if p == nil {
				return
			}
			got, err := json.Marshal(p.Unpack())
			if err != nil {
				t.Fatal(err)
			}
			if want, _ := json.Marshal(o); string(got) != string(want) {
				t.Errorf("%s\nwant %s", got, want)
			}
			key, err := cache.MetaNamespaceKeyFunc(p)
			if want, _ := cache.MetaNamespaceKeyFunc(o); err != nil || key != want {
				t.Errorf("key %s, %v; want %s", key, err, want)
			}
		})
	}
}
