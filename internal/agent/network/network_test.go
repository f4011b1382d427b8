package network_test

import (
	"fmt"
	"slices"
	"testing"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func TestFederation(t *testing.T) {
	w := newWorld(t, "east", "west")
	east, west := w.members["east"], w.members["west"]
	reviews := west.app("shop", "reviews")
	west.app("shop", "ratings")
	east.app("shop", "details")
	vm := w.virtualMesh(everything(), "east", "west")
	w.ready(vm)

	east.hasEntry("reviews.shop.svc.west.global")
	east.hasEntry("ratings.shop.svc.west.global")
	west.hasEntry("details.shop.svc.east.global")
	if hosts := west.hosts(); !slices.Equal(hosts, []string{"*.shop.svc.cluster.local"}) {
		t.Errorf("hosts %v", hosts)
	}
	rule := &networkingv1.DestinationRule{}
	w.must(east.Client.Get(w.ctx, client.ObjectKey{Namespace: "istio-system", Name: "reviews.shop.svc.west.global"}, rule))
	fmt.Println(rule.Spec.String())

	west.delete(reviews)
	east.lacksEntry("reviews.shop.svc.west.global")
	east.hasEntry("ratings.shop.svc.west.global")
}
