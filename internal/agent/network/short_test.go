package network_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	networkingapi "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
)

// TestShortHostnames: services of other clusters are called as the first generation called them too, and nobody else's name is
// taken for that.
func TestShortHostnames(t *testing.T) {
	w := newWorld(t, "east", "west-1")
	east, west := w.members["east"], w.members["west-1"]
	const reviews, reviewsShort, ratings, ratingsShort = "reviews.shop.svc.west-1.global", "reviews.shop.west-1", "ratings.shop.svc.west-1.global", "ratings.shop.west-1"
	west.app("shop", "reviews")
	west.app("shop", "ratings")
	east.app("shop", "details")
	theirs := func(name, host string) *networkingv1.ServiceEntry {
		e := &networkingv1.ServiceEntry{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
		e.Spec.Hosts, e.Spec.Resolution = []string{"other.example.com", host}, networkingapi.ServiceEntry_DNS
		e.Spec.Ports = []*networkingapi.ServicePort{{Number: 443, Name: "https", Protocol: "TLS"}}
		return e
	}
	earlier := theirs("earlier", ratingsShort)
	east.create(earlier)
	asked := everything()
	asked.ShortHostnames = true
	vm := w.virtualMesh(asked, "east", "west-1")
	var address string
	rule := func(host string) error {
		return east.Client.Get(w.ctx, client.ObjectKey{Namespace: "istio-system", Name: host}, &networkingv1.DestinationRule{})
	}

	lacksRule := func(host string) {
		w.eventually("no rule for "+host, func() error {
			if err := rule(host); !apierrors.IsNotFound(err) {
				return errors.Join(errors.New("it is there"), err)
			}
			return nil
		})
	}

	w.story("beside the full hostname", func(t *testing.T) {
		w.ready(vm)
		for _, host := range []string{reviews, reviewsShort, ratings} {
			east.hasEntry(host)
			w.must(rule(host))
		}
		full, err := east.entry(reviews)
		w.must(err)
		short, err := east.entry(reviewsShort)
		w.must(err)
		address = short.Spec.Addresses[0]
		if !slices.Equal(short.Spec.Hosts, []string{reviewsShort}) || !strings.HasPrefix(address, "241.") || address == full.Spec.Addresses[0] ||
			short.Spec.Endpoints[0].Address != "203.0.113.2" {
			t.Errorf("entry is %v", &short.Spec)
		}
		d, err := w.destination("west-1", "reviews.shop")
		w.must(err)
		if f := d.Status.AppliedFederation; f == nil || f.ShortHostname != reviewsShort || f.FederatedHostname != reviews {
			t.Errorf("destination is federated as %+v", f)
		}
	})

	w.story("not where the name could be of the internet", func(t *testing.T) {
		west.hasEntry("details.shop.svc.east.global")
		west.reports("details.shop of cluster east: spec.federation.shortHostnames: services of cluster east are not called SERVICE.NAMESPACE.east here")
		west.lacksEntry("details.shop.east")
	})

	w.story("not where somebody else has the name", func(t *testing.T) {
		east.reports("ServiceEntry shop/earlier has the host " + ratingsShort)
		east.lacksEntry(ratingsShort)
		if rule(ratingsShort) == nil {
			t.Error("there is a DestinationRule for a host of somebody else")
		}
		east.delete(earlier)
		east.hasEntry(ratingsShort)
		east.reports("")
	})

	w.story("what is there stays when somebody else takes the name, which is said", func(*testing.T) {
		later := theirs("later", reviewsShort)
		east.create(later)
		east.reports("ServiceEntry shop/later has the host " + reviewsShort)
		east.hasEntry(reviewsShort)
		east.delete(later)
		east.reports("")
	})

	w.story("all stays as it is when the agent starts again", func(t *testing.T) {
		before := east.made()
		east.stop()
		east.start()
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.DisplayName = "another generation" })
		w.ready(vm)
		for name, version := range east.made() {
			if before[name] != version {
				t.Errorf("%s was written: %q, %q", name, before[name], version)
			}
		}
	})

	w.story("its address is given up for one of somebody else", func(*testing.T) {
		other := theirs("address", "third.example.com")
		other.Spec.Addresses = []string{address}
		east.create(other)
		w.eventually("another address", func() error {
			e, err := east.entry(reviewsShort)
			if err == nil && e.Spec.Addresses[0] == address {
				return fmt.Errorf("the address is still %s", address)
			}
			return err
		})
		east.delete(other)
	})

	w.story("what the first generation made is handed over, and changed in place", func(t *testing.T) {
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.Federation = only("ratings") })
		w.ready(vm)
		east.lacksEntry(reviewsShort)
		lacksRule(reviewsShort)
		e, r := theirs(reviewsShort, reviewsShort), &networkingv1.DestinationRule{}
		e.Namespace, e.Spec.Hosts = "istio-system", []string{reviewsShort}
		r.Namespace, r.Name, r.Spec.Host = "istio-system", reviewsShort, reviewsShort
		r.Spec.TrafficPolicy = &networkingapi.TrafficPolicy{Tls: &networkingapi.ClientTLSSettings{Mode: networkingapi.ClientTLSSettings_ISTIO_MUTUAL}}
		for _, o := range []client.Object{r, e} {
			w.must(east.Client.Create(w.ctx, o, client.FieldOwner("federation")))
		}
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.Federation = asked.DeepCopy() })
		w.ready(vm)
		east.hasEntry(reviews)
		east.reports("DestinationRule istio-system/" + reviewsShort)
		for _, kind := range []string{"ServiceEntry", "DestinationRule"} { // as `meshctl mesh takeover` does
			live := &unstructured.Unstructured{}
			live.SetGroupVersionKind(networkingv1.SchemeGroupVersion.WithKind(kind))
			w.must(east.Client.Get(w.ctx, client.ObjectKeyFromObject(e), live))
			w.must(kube.HandOver(w.ctx, east.Client, "isthmus-agent-network", live))
		}
		w.eventually("ours in their place", func() error {
			is, err := east.entry(reviewsShort)
			if err != nil || is.Annotations[v1alpha1.AnnotationDestination] == "" || len(is.Spec.Endpoints) != 1 {
				return errors.Join(fmt.Errorf("it is %v", is), err)
			}
			if is.UID != e.UID {
				t.Error("it was made anew")
			}
			return nil
		})
		is := &networkingv1.DestinationRule{}
		w.must(east.Client.Get(w.ctx, client.ObjectKeyFromObject(r), is))
		if is.UID != r.UID || len(is.Spec.TrafficPolicy.PortLevelSettings) == 0 {
			t.Errorf("the rule is %v", &is.Spec)
		}
		east.reports("")
	})

	w.story("it goes with the Service", func(*testing.T) {
		s, err := w.destination("west-1", "ratings.shop")
		w.must(err)
		o := west.app("shop", s.Spec.KubeService.Name)
		west.delete(o)
		east.lacksEntry(ratingsShort)
		east.lacksEntry(ratings)
		lacksRule(ratingsShort)
	})

	w.story("it goes when nobody asks for it any more, and the full hostname stays", func(t *testing.T) {
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.Federation.ShortHostnames = false })
		w.ready(vm)
		east.lacksEntry(reviewsShort)
		lacksRule(reviewsShort)
		east.hasEntry(reviews)
		d, err := w.destination("west-1", "reviews.shop")
		w.must(err)
		if f := d.Status.AppliedFederation; f == nil || f.ShortHostname != "" {
			t.Errorf("destination is federated as %+v", f)
		}
		west.reports("")
	})
}
