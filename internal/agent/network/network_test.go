package network_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	networkingapi "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/istio/istiotest"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/legacy"
)

const (
	reviewsWest = "reviews.shop.svc.west.global"
	ratingsWest = "ratings.shop.svc.west.global"
	detailsEast = "details.shop.svc.east.global"
)

// only is a federation of services by name.
func only(names ...string) *v1alpha1.Federation {
	refs := &v1alpha1.KubeServiceRefs{}
	for _, name := range names {
		refs.Services = append(refs.Services, v1alpha1.ClusterObjectRef{Name: name, Namespace: "shop"})
	}
	return &v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{{DestinationSelectors: []v1alpha1.DestinationSelector{{KubeServiceRefs: refs}}}}}
}

// status of a mesh.
func (m *member) status() v1alpha1.MeshStatus {
	m.w.Helper()
	mesh := &v1alpha1.Mesh{}
	m.w.must(m.w.hub.Client.Get(m.w.ctx, m.meshKey(), mesh))
	return mesh.Status
}

// reports waits until the mesh reports an error that says something, or for "" none.
func (m *member) reports(says string) {
	m.w.Helper()
	m.w.eventually("mesh "+m.name+" to report "+says, func() error {
		found := m.status().Errors
		if says == "" && len(found) == 0 || says != "" && slices.ContainsFunc(found, func(e string) bool { return strings.Contains(e, says) }) {
			return nil
		}
		return fmt.Errorf("it reports %q", found)
	})
}

func (w *world) destination(cluster, name string) (*v1alpha1.Destination, error) {
	d := &v1alpha1.Destination{}
	return d, w.hub.Client.Get(w.ctx, client.ObjectKey{Namespace: "isthmus-" + cluster, Name: name}, d)
}

// made lists what the agents made in a cluster.
func (m *member) made() map[string]string {
	m.w.Helper()
	return m.versions(&networkingv1.ServiceEntryList{}, &networkingv1.DestinationRuleList{}, &networkingv1.GatewayList{},
		&securityv1.AuthorizationPolicyList{}, &securityv1.PeerAuthenticationList{})
}

func TestFederation(t *testing.T) {
	w := newWorld(t, "east", "west")
	east, west := w.members["east"], w.members["west"]
	west.app("shop", "reviews")
	ratings := west.app("shop", "ratings")
	east.app("shop", "details")
	vm := w.virtualMesh(everything(), "east", "west")

	w.story("everything is federated to everyone", func(t *testing.T) {
		w.ready(vm)
		for m, hosts := range map[*member][]string{east: {reviewsWest, ratingsWest}, west: {detailsEast}} {
			for _, host := range hosts {
				m.hasEntry(host)
			}
			if got := m.hosts(); !slices.Equal(got, []string{"*.shop.svc.cluster.local"}) {
				t.Errorf("gateway of %s admits %v", m.name, got)
			}
		}
		e, err := east.entry(reviewsWest)
		w.must(err)
		if len(e.Spec.Addresses) != 1 || !strings.HasPrefix(e.Spec.Addresses[0], "241.") || e.Spec.Endpoints[0].Address != "203.0.113.2" ||
			!slices.Equal(e.Spec.SubjectAltNames, []string{"spiffe://cluster.local/ns/shop/sa/reviews"}) {
			t.Errorf("entry is %v", &e.Spec)
		}
		d, err := w.destination("west", "reviews.shop")
		w.must(err)
		if f := d.Status.AppliedFederation; f == nil || f.FederatedHostname != reviewsWest || !slices.Equal(f.FederatedToMeshes, []string{"*"}) ||
			d.Labels[v1alpha1.LabelFederated] == "" || !meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ConditionReady) {
			t.Errorf("destination is %+v %+v", d.Labels, d.Status)
		}
		if d, err := w.destination("west", "istio-eastwestgateway.istio-system"); err == nil && d.Status.AppliedFederation != nil {
			t.Error("a gateway is federated through itself")
		}
	})

	w.story("what is changed or deleted by hand is put right", func(*testing.T) {
		e, err := east.entry(reviewsWest)
		w.must(err)
		address := e.Spec.Addresses[0]
		edit(w, east.Cluster, e, func(e *networkingv1.ServiceEntry) {
			e.Spec.SubjectAltNames = []string{"spiffe://cluster.local/ns/evil/sa/evil"}
		})
		w.eventually("the identities to be right", func() error {
			e, err := east.entry(reviewsWest)
			if err == nil && e.Spec.SubjectAltNames[0] != "spiffe://cluster.local/ns/shop/sa/reviews" {
				return fmt.Errorf("they are %v", e.Spec.SubjectAltNames)
			}
			return err
		})
		east.delete(e)
		w.eventually("the entry with its address", func() error {
			e, err := east.entry(reviewsWest)
			if err == nil && e.Spec.Addresses[0] != address {
				return fmt.Errorf("the address was %s and is %s", address, e.Spec.Addresses[0])
			}
			return err
		})
	})

	w.story("narrowed and widened again", func(*testing.T) {
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.Federation = only("reviews") })
		w.ready(vm)
		east.hasEntry(reviewsWest)
		east.lacksEntry(ratingsWest)
		west.lacksEntry(detailsEast)
		if got := west.hosts(); !slices.Equal(got, []string{"reviews.shop.svc.cluster.local"}) {
			w.Errorf("the gateway admits %v", got)
		}
		if got := east.hosts(); got != nil {
			w.Errorf("the gateway of east admits %v", got)
		}
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.Federation = only("reviews", "ratings", "details") })
		w.ready(vm)
		east.hasEntry(ratingsWest)
		west.hasEntry(detailsEast)
	})

	w.story("an address of the gateway changes", func(*testing.T) {
		s := istiotest.Service("istio-system", "istio-eastwestgateway", nil)
		w.must(west.Client.Get(w.ctx, client.ObjectKeyFromObject(s), s))
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: "gw.west.example.com"}}
		w.must(west.Client.Status().Update(w.ctx, s))
		w.eventually("the new address", func() error {
			e, err := east.entry(reviewsWest)
			if err == nil && (e.Spec.Endpoints[0].Address != "gw.west.example.com" || e.Spec.Resolution != networkingapi.ServiceEntry_DNS) {
				return fmt.Errorf("endpoints %v, %s", e.Spec.Endpoints, e.Spec.Resolution)
			}
			return err
		})
		// Without any address nothing is taken away.
		s.Status.LoadBalancer.Ingress = nil
		w.must(west.Client.Status().Update(w.ctx, s))
		east.reports("no address")
		east.hasEntry(reviewsWest)
		if got := west.hosts(); len(got) != 2 {
			w.Errorf("the gateway admits %v", got)
		}
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.2"}}
		w.must(west.Client.Status().Update(w.ctx, s))
		east.reports("")
	})

	w.story("an object of somebody else is in the way", func(*testing.T) {
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.Federation = only("reviews") })
		w.ready(vm)
		east.lacksEntry(ratingsWest)
		theirs := &networkingv1.ServiceEntry{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: ratingsWest}}
		theirs.Spec.Hosts, theirs.Spec.Resolution = []string{"theirs.example.com"}, networkingapi.ServiceEntry_DNS
		theirs.Spec.Ports = []*networkingapi.ServicePort{{Number: 443, Name: "https", Protocol: "TLS"}}
		east.create(theirs)
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.Federation = only("reviews", "ratings", "details") })
		east.reports("ServiceEntry istio-system/" + ratingsWest)
		if e, err := east.entry(ratingsWest); err != nil || e.Spec.Hosts[0] != "theirs.example.com" {
			w.Fatalf("it was touched: %v %v", e, err)
		}
		east.delete(theirs)
		east.hasEntry(ratingsWest)
		east.reports("")
		w.ready(vm)
	})

	w.story("what an older installation made is handed over, and changed in place", func(*testing.T) {
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.Federation = only("reviews") })
		w.ready(vm)
		east.lacksEntry(ratingsWest)
		theirs := &networkingv1.ServiceEntry{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: ratingsWest, Labels: map[string]string{
			legacy.LabelOutput: "east", "owner.networking.mesh.gloo.solo.io": "gloo-mesh",
		}, Annotations: map[string]string{"parents.networking.mesh.gloo.solo.io": "{}"}}}
		theirs.Spec.Hosts, theirs.Spec.Addresses = []string{ratingsWest}, []string{"244.80.133.147"}
		theirs.Spec.Location, theirs.Spec.Resolution = networkingapi.ServiceEntry_MESH_INTERNAL, networkingapi.ServiceEntry_STATIC
		theirs.Spec.Ports = []*networkingapi.ServicePort{{Number: 9080, Name: "theirs", Protocol: "TCP"}}
		theirs.Spec.Endpoints = []*networkingapi.WorkloadEntry{{Address: "203.0.113.9", Ports: map[string]uint32{"theirs": 15443}, Labels: map[string]string{"app": "ratings"}}}
		w.must(east.Client.Create(w.ctx, theirs, client.FieldOwner("networking")))
		theirRule := &networkingv1.DestinationRule{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "ratings-default-west", Labels: theirs.Labels}}
		theirRule.Spec.Host = ratingsWest
		theirRule.Spec.TrafficPolicy = &networkingapi.TrafficPolicy{Tls: &networkingapi.ClientTLSSettings{Mode: networkingapi.ClientTLSSettings_ISTIO_MUTUAL}}
		w.must(east.Client.Create(w.ctx, theirRule))
		// exportTo of our rule: as theirs, so that istiod merges them and the older counts, or to all.
		exported := func(to ...string) {
			w.Helper()
			w.eventually("our rule's exportTo", func() error {
				rule := &networkingv1.DestinationRule{}
				if err := east.Client.Get(w.ctx, client.ObjectKeyFromObject(theirs), rule); err != nil {
					return err
				}
				if !slices.Equal(rule.Spec.ExportTo, to) {
					return fmt.Errorf("it is %v", rule.Spec.ExportTo)
				}
				return nil
			})
		}
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.Federation = only("reviews", "ratings", "details") })
		east.reports("ServiceEntry istio-system/" + ratingsWest)
		exported()

		live := &unstructured.Unstructured{}
		live.SetGroupVersionKind(networkingv1.SchemeGroupVersion.WithKind("ServiceEntry"))
		w.must(east.Client.Get(w.ctx, client.ObjectKeyFromObject(theirs), live))
		w.must(kube.HandOver(w.ctx, east.Client, "isthmus-agent-network", live))
		w.eventually("ours in its place", func() error {
			e, err := east.entry(ratingsWest)
			switch {
			case err != nil:
				return err
			case e.UID != theirs.UID:
				return errors.New("it was deleted and made anew")
			case e.Annotations[v1alpha1.AnnotationDestination] == "":
				return errors.New("it is as it was")
			}
			return nil
		})
		e, err := east.entry(ratingsWest)
		w.must(err)
		if len(e.Spec.Ports) != 1 || e.Spec.Ports[0].Name == "theirs" || e.Spec.Endpoints[0].Address != "203.0.113.2" || len(e.Spec.SubjectAltNames) != 1 ||
			legacy.IsOutput(e) || !slices.Equal(e.Spec.Addresses, theirs.Spec.Addresses) { // callers have looked that up
			w.Errorf("something is left of theirs: %v %v", e.Labels, &e.Spec)
		}
		exported("*")
		w.must(east.Client.Delete(w.ctx, theirRule))
		east.reports("")
	})

	w.story("a foreign pass-through server is reported", func(*testing.T) {
		sample := &networkingv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "cross-network-gateway"}}
		sample.Spec.Selector = map[string]string{"istio": "eastwestgateway"}
		sample.Spec.Servers = []*networkingapi.Server{{
			Port: &networkingapi.Port{Number: 15443, Name: "tls", Protocol: "TLS"}, Hosts: []string{"*.local"},
			Tls: &networkingapi.ServerTLSSettings{Mode: networkingapi.ServerTLSSettings_AUTO_PASSTHROUGH},
		}}
		exclusive := func(want metav1.ConditionStatus, says string) {
			w.Helper()
			w.eventually("GatewayExclusive", func() error {
				c := meta.FindStatusCondition(west.status().Conditions, v1alpha1.ConditionGatewayExclusive)
				if c == nil || c.Status != want || !strings.Contains(c.Message, says) {
					return fmt.Errorf("it is %+v", c)
				}
				return nil
			})
		}
		exclusive(metav1.ConditionTrue, "")
		west.create(sample)
		exclusive(metav1.ConditionFalse, "istio-system/cross-network-gateway")
		west.delete(sample)
		exclusive(metav1.ConditionTrue, "")
	})

	w.story("a DestinationRule that takes the place of ours is reported, and subsets of the home mesh are known", func(*testing.T) {
		rule := &networkingv1.DestinationRule{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "mine"}}
		rule.Spec.Host = "*.global"
		rule.Spec.TrafficPolicy = &networkingapi.TrafficPolicy{Tls: &networkingapi.ClientTLSSettings{Mode: networkingapi.ClientTLSSettings_DISABLE}}
		east.create(rule)
		east.reports("shop/mine")
		east.delete(rule)
		east.reports("")

		subsets := func(n int, hosts ...string) {
			w.Helper()
			w.eventually("subsets", func() error {
				for _, host := range hosts {
					r := &networkingv1.DestinationRule{}
					if err := east.Client.Get(w.ctx, client.ObjectKey{Namespace: "istio-system", Name: host}, r); err != nil {
						return err
					}
					if len(r.Spec.Subsets) != n {
						return fmt.Errorf("those of %s are %v", host, r.Spec.Subsets)
					}
				}
				return nil
			})
		}
		for host, concerned := range map[string][]string{"reviews": {reviewsWest}, "*.shop.svc.cluster.local": {reviewsWest, ratingsWest}} {
			native := &networkingv1.DestinationRule{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "reviews"}}
			native.Spec.Host = host
			native.Spec.Subsets = []*networkingapi.Subset{{Name: "v3", Labels: map[string]string{"version": "v3"}}}
			west.create(native)
			subsets(1, concerned...)
			west.delete(native)
			subsets(0, concerned...)
		}
	})

	w.story("agents that start again, and a hub that was away, write nothing", func(*testing.T) {
		before := map[*member]map[string]string{east: east.made(), west: west.made()}
		versions := func() map[string]string {
			return (&member{Cluster: w.hub, w: w}).versions(&v1alpha1.MeshList{}, &v1alpha1.DestinationList{})
		}
		inHub := versions()
		for _, m := range []*member{east, west} {
			m.stop()
			m.start()
		}
		west.proxy.Cut()
		west.proxy.Restore()
		shipping := west.app("shop", "shipping") // arrives when both are at work
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.Federation = only("reviews", "ratings", "details", "shipping") })
		w.ready(vm)
		east.hasEntry("shipping.shop.svc.west.global")
		for m, was := range before {
			for name, version := range was {
				if is := m.made()[name]; is != version && !strings.Contains(name, "Gateway") {
					w.Errorf("%s: %s was written", m.name, name)
				}
			}
		}
		for name, version := range inHub {
			if is := versions()[name]; is != version && !strings.Contains(name, "Mesh") {
				w.Errorf("hub: %s was written", name)
			}
		}
		west.delete(shipping)
		east.lacksEntry("shipping.shop.svc.west.global")
	})

	w.story("a hub that lost a Destination loses no import", func(*testing.T) {
		e, err := east.entry(ratingsWest)
		w.must(err)
		west.stop()
		d, err := w.destination("west", "ratings.shop")
		w.must(err)
		w.must(w.hub.Client.Delete(w.ctx, d))
		west.start()
		w.eventually("the destination to be back", func() error {
			back, err := w.destination("west", "ratings.shop")
			if err == nil && (back.UID == d.UID || back.Labels[v1alpha1.LabelFederated] == "") {
				err = errors.New("not yet")
			}
			return err
		})
		if is, err := east.entry(ratingsWest); err != nil || is.UID != e.UID {
			w.Errorf("the import was deleted: %v", err)
		}
	})

	w.story("a Service that is gone goes everywhere, and not while its cluster is away", func(*testing.T) {
		west.proxy.Cut()
		west.delete(ratings)
		d, err := w.destination("west", "ratings.shop")
		w.must(err)
		w.must(w.hub.Client.Delete(w.ctx, d)) // as if the hub had lost it: its home cannot say so
		other := east.app("shop", "other")    // a sign that east is at work
		w.eventually("other", func() error { _, err := w.destination("east", "other.shop"); return err })
		if _, err := east.entry(ratingsWest); err != nil {
			w.Errorf("deleted on partial information: %v", err)
		}
		west.proxy.Restore()
		east.lacksEntry(ratingsWest)
		east.delete(other)
	})

	w.story("suspended, nothing changes", func(*testing.T) {
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.Suspend, vm.Spec.Federation = true, nil })
		w.eventually("suspension", func() error {
			w.must(w.hub.Client.Get(w.ctx, client.ObjectKeyFromObject(vm), vm))
			if vm.Status.Accepted == nil || !vm.Status.Accepted.Spec.Suspend {
				return errors.New("not accepted yet")
			}
			return nil
		})
		e, err := east.entry(reviewsWest)
		w.must(err)
		east.delete(e) // even this stays
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) {
			vm.Spec.Suspend, vm.Spec.Federation = false, only("reviews", "details")
		})
		w.ready(vm)
		east.hasEntry(reviewsWest)
	})

	w.story("a VirtualMesh that is deleted takes all of it along", func(*testing.T) {
		w.must(w.hub.Client.Delete(w.ctx, vm))
		w.eventually("all of it to go", func() error {
			for _, m := range []*member{east, west} {
				if left := slices.Collect(maps.Keys(m.made())); len(left) > 0 {
					return fmt.Errorf("%s still has %v", m.name, left)
				}
			}
			err := w.hub.Client.Get(w.ctx, client.ObjectKeyFromObject(vm), vm)
			if !apierrors.IsNotFound(err) {
				return fmt.Errorf("the VirtualMesh is still there: %w", errors.Join(err))
			}
			return nil
		})
		w.eventually("destinations to be as before", func() error {
			d, err := w.destination("west", "reviews.shop")
			if err == nil && (d.Labels[v1alpha1.LabelFederated] != "" || d.Status.AppliedFederation != nil) {
				return fmt.Errorf("it is %v %+v", d.Labels, d.Status)
			}
			return err
		})
	})
}

func TestFlatNetworkAndKeepalive(t *testing.T) {
	w := newWorld(t, "east", "west")
	east, west := w.members["east"], w.members["west"]
	west.app("shop", "reviews")
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: "reviews-1", Labels: map[string]string{discoveryv1.LabelServiceName: "reviews"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080)), Protocol: new(corev1.ProtocolTCP)}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.2.0.7"}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}}},
	}
	west.create(slice)
	external := &networkingv1.ServiceEntry{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "api"}}
	external.Spec.Hosts, external.Spec.Resolution = []string{"api.example.com"}, networkingapi.ServiceEntry_DNS
	external.Spec.Ports = []*networkingapi.ServicePort{{Number: 443, Name: "tls", Protocol: "TLS"}}
	east.create(external)
	f := everything()
	f.FlatNetwork = true
	f.TCPKeepalive = &v1alpha1.TCPKeepalive{Probes: new(int32(3)), Time: &metav1.Duration{Duration: 75e9}, Interval: &metav1.Duration{Duration: 10e9}}
	vm := w.virtualMesh(f, "east", "west")
	w.ready(vm)
	endpoints := func(want ...string) {
		t.Helper()
		w.eventually("endpoints", func() error {
			e, err := east.entry(reviewsWest)
			if err != nil {
				return err
			}
			var got []string
			for _, ep := range e.Spec.Endpoints {
				got = append(got, fmt.Sprintf("%s:%d", ep.Address, ep.Ports["http"]))
			}
			if !slices.Equal(got, want) {
				return fmt.Errorf("they are %v", got)
			}
			return nil
		})
	}
	endpoints("10.2.0.7:8080")
	if got := west.hosts(); got != nil {
		t.Errorf("a gateway admits %v", got)
	}
	edit(w, west.Cluster, slice, func(s *discoveryv1.EndpointSlice) {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{"10.2.0.9"}}, discoveryv1.Endpoint{
			Addresses: []string{"10.2.0.11"}, Conditions: discoveryv1.EndpointConditions{Ready: new(false)},
		})
	})
	endpoints("10.2.0.7:8080", "10.2.0.9:8080")

	var rules networkingv1.DestinationRuleList
	keepalive := func(want int) {
		t.Helper()
		w.eventually("keepalive", func() error {
			w.must(east.Client.List(w.ctx, &rules))
			n := 0
			for _, r := range rules.Items {
				if r.Spec.Host == "api.example.com" && r.Spec.TrafficPolicy.ConnectionPool.Tcp.TcpKeepalive.Probes == 3 {
					n++
				}
			}
			if n != want {
				return fmt.Errorf("%d rules have it", n)
			}
			return nil
		})
	}
	keepalive(1)
	theirs := &networkingv1.DestinationRule{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "external"}}
	theirs.Spec.Host = "*.example.com"
	east.create(theirs)
	keepalive(0) // theirs speaks for the host, and would not beside a more specific one
	east.delete(theirs)
	keepalive(1)
	edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.Federation.TCPKeepalive = nil })
	w.ready(vm)
	keepalive(0)
}

func TestPolicy(t *testing.T) {
	w := newWorld(t, "east")
	east := w.members["east"]
	east.app("shop", "reviews")
	vm := w.virtualMesh(nil, "east")
	w.ready(vm)
	policy := func(namespace, name string) (*securityv1.AuthorizationPolicy, error) {
		p := &securityv1.AuthorizationPolicy{}
		return p, east.Client.Get(w.ctx, client.ObjectKey{Namespace: namespace, Name: name}, p)
	}
	accessPolicy := func(name, namespace string) *v1alpha1.AccessPolicy {
		p := &v1alpha1.AccessPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name}}
		p.Spec.SourceSelector = []v1alpha1.IdentitySelector{{KubeIdentityMatcher: &v1alpha1.KubeIdentityMatcher{Namespaces: []string{namespace}}}}
		return p
	}
	rules := func(want int) {
		w.Helper()
		w.eventually("rules", func() error {
			p, err := policy("shop", "isthmus-reviews")
			if want < 0 && apierrors.IsNotFound(err) {
				return nil
			}
			if err == nil && len(p.Spec.Rules) != want {
				err = fmt.Errorf("there are %d", len(p.Spec.Rules))
			}
			return err
		})
	}

	w.story("what allows is there before what denies", func(*testing.T) {
		one := accessPolicy("one", "shop")
		w.must(w.hub.Client.Create(w.ctx, one))
		w.eventually("acceptance", func() error {
			err := w.hub.Client.Get(w.ctx, client.ObjectKeyFromObject(one), one)
			if err == nil && one.Status.Accepted == nil {
				err = errors.New("not accepted")
			}
			return err
		})
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.GlobalAccessPolicy = v1alpha1.GlobalAccessPolicyEnabled })
		w.ready(vm)
		rules(1)
		denial, err := policy("istio-system", "isthmus-global-access")
		w.must(err)
		for namespace, name := range map[string]string{"shop": "isthmus-reviews", "istio-system": "isthmus-gateway-istio-eastwestgateway"} {
			p, err := policy(namespace, name)
			w.must(err)
			if len(p.ResourceVersion) > len(denial.ResourceVersion) || len(p.ResourceVersion) == len(denial.ResourceVersion) && p.ResourceVersion > denial.ResourceVersion {
				w.Errorf("%s was written after the denial", name)
			}
		}
	})

	w.story("two policies add up, and each goes alone", func(*testing.T) {
		two := accessPolicy("two", "other")
		w.must(w.hub.Client.Create(w.ctx, two))
		rules(2)
		w.eventually("the report", func() error {
			d, err := w.destination("east", "reviews.shop")
			if err == nil && !slices.Equal(d.Status.AppliedAccessPolicies, []string{"one.isthmus-system", "two.isthmus-system"}) {
				return fmt.Errorf("applied are %v", d.Status.AppliedAccessPolicies)
			}
			return err
		})
		w.must(w.hub.Client.Delete(w.ctx, two))
		rules(1)
	})

	w.story("objects go by what the cluster sees, whatever is written in the hub", func(*testing.T) {
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) {
			vm.Spec.Federation = &v1alpha1.Federation{Permissive: &v1alpha1.Empty{}}
		})
		w.ready(vm)
		objects := func() map[string]string { // and what each is a version of
			w.Helper()
			out := map[string]string{}
			for _, list := range []client.ObjectList{&securityv1.AuthorizationPolicyList{}, &networkingv1.GatewayList{}} {
				w.must(east.Client.List(w.ctx, list))
				items, err := meta.ExtractList(list)
				w.must(err)
				for _, item := range items {
					o := item.(client.Object)
					out[fmt.Sprintf("%T %s/%s", o, o.GetNamespace(), o.GetName())] = fmt.Sprint(o.GetUID(), o.GetGeneration())
				}
			}
			return out
		}
		var was map[string]string
		w.eventually("all of them", func() error {
			if was = objects(); len(was) != 5 { // of the Service, of the gateway and its Service, the denial, and what is let in
				return fmt.Errorf("there are %v", was)
			}
			return nil
		})
		d, mesh, workload := &v1alpha1.Destination{}, &v1alpha1.Mesh{}, &v1alpha1.Workload{}
		for o, name := range map[client.Object]string{d: "reviews.shop", mesh: east.meshKey().Name, workload: "deployment.reviews.shop"} {
			o.SetNamespace(east.meshKey().Namespace)
			o.SetName(name)
		}
		for i := range 20 {
			wrong := map[string]string{"app": fmt.Sprintf("other-%d", i)}
			edit(w, w.hub, d, func(d *v1alpha1.Destination) { d.Spec.KubeService.Selector = wrong })
			edit(w, w.hub, mesh, func(m *v1alpha1.Mesh) { m.Spec.Istio.Gateways[0].Selector = wrong })
			edit(w, w.hub, workload, func(w *v1alpha1.Workload) { w.Spec.DataPlane = v1alpha1.DataPlaneGateway })
			w.eventually("the hub to have what is so", func() error {
				var err error
				for _, o := range []client.Object{d, mesh, workload} {
					err = errors.Join(err, w.hub.Client.Get(w.ctx, client.ObjectKeyFromObject(o), o))
				}
				if err == nil && (d.Spec.KubeService.Selector["app"] != "reviews" || d.Status.ObservedGeneration != d.Generation ||
					mesh.Spec.Istio.Gateways[0].Selector["app"] == wrong["app"] || workload.Spec.DataPlane != v1alpha1.DataPlaneSidecar) {
					err = fmt.Errorf("observed generation %d, of %d, specs %+v, %+v and %+v", d.Status.ObservedGeneration, d.Generation, d.Spec, mesh.Spec.Istio.Gateways, workload.Spec)
				}
				return err
			})
		}
		if is := objects(); !maps.Equal(is, was) {
			w.Errorf("there were %v, there are %v", was, is)
		}
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.Federation = nil })
		w.ready(vm)
	})

	w.story("a Service with nothing behind it opens nothing else", func(*testing.T) {
		dead := istiotest.Service("shop", "dead", map[string]string{"app": "dead"})
		east.create(dead)
		lie := func(namespace string) *v1alpha1.Destination {
			d := &v1alpha1.Destination{ObjectMeta: metav1.ObjectMeta{Namespace: east.meshKey().Namespace, Name: "dead.shop"}}
			d.Spec.Cluster, d.Spec.Mesh = "east", east.meshKey().Name
			d.Spec.KubeService = v1alpha1.KubeService{Name: "dead", Namespace: namespace, Type: "ClusterIP", Selector: map[string]string{"app": "reviews"}}
			d.Spec.KubeService.Ports = []v1alpha1.KubeServicePort{{Name: "http", Port: 9080, Protocol: "TCP"}}
			w.must(w.hub.Client.Create(w.ctx, d))
			return d
		}
		d := lie("istio-system")
		w.eventually("its end", func() error {
			if err := w.hub.Client.Get(w.ctx, client.ObjectKeyFromObject(d), d); !apierrors.IsNotFound(err) {
				return fmt.Errorf("there is %+v: %w", d, err)
			}
			return nil
		})
		lie("shop")
		w.eventually("its policy", func() error {
			p, err := policy("shop", "isthmus-dead")
			if err == nil && p.Spec.Selector.MatchLabels["app"] != "dead" {
				w.Errorf("it selects %v", p.Spec.Selector.MatchLabels)
			}
			return err
		})
		if p, err := policy("istio-system", "isthmus-dead"); !apierrors.IsNotFound(err) {
			w.Errorf("there is %+v, %v", p, err)
		}
		east.delete(dead)
		w.eventually("the end of its policy", func() error {
			if _, err := policy("shop", "isthmus-dead"); !apierrors.IsNotFound(err) {
				return fmt.Errorf("there is one: %w", err)
			}
			return nil
		})
	})

	w.story("a gateway that is not looked at any more goes on", func(*testing.T) {
		settings := &v1alpha1.Settings{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: v1alpha1.SettingsName}}
		settings.Spec.Discovery = &v1alpha1.DiscoverySettings{ExcludedNamespaces: []string{"istio-system"}}
		w.must(w.hub.Client.Create(w.ctx, settings))
		gateway := client.ObjectKey{Namespace: east.meshKey().Namespace, Name: "deployment.istio-eastwestgateway.istio-system"}
		w.eventually("its Workload to go", func() error {
			if err := w.hub.Client.Get(w.ctx, gateway, &v1alpha1.Workload{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("it is there: %w", err)
			}
			return nil
		})
		for _, tls := range []*v1alpha1.Federation{
			{TLSEnforcementSettings: &v1alpha1.TLSEnforcementSettings{EnforcementMode: v1alpha1.TLSEnforcementPermissive}}, nil,
		} {
			edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.Federation = tls })
			w.ready(vm)
		}
		if _, err := policy("istio-system", "isthmus-gateway-istio-eastwestgateway"); err != nil {
			w.Errorf("what lets it answer: %v", err)
		}
		w.must(w.hub.Client.Delete(w.ctx, settings))
		w.eventually("its Workload to come back", func() error { return w.hub.Client.Get(w.ctx, gateway, &v1alpha1.Workload{}) })
	})

	// inForce waits for a Destination to report that the policy is in force, or that it is not, for a reason.
	inForce := func(service, not string) {
		w.Helper()
		w.eventually("policy of "+service, func() error {
			d, err := w.destination("east", service+".shop")
			if err != nil {
				return err
			}
			said := strings.Join(d.Status.Errors, " ")
			if in := slices.Equal(d.Status.AppliedAccessPolicies, []string{"one.isthmus-system"}); in != (not == "") || !strings.Contains(said, not) || in == (len(d.Status.RejectedAccessPolicies) > 0) {
				return fmt.Errorf("status is %+v", d.Status)
			}
			return nil
		})
	}
	w.story("a policy in whose place there is somebody else's is not in force", func(*testing.T) {
		theirs := &securityv1.AuthorizationPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "isthmus-guarded"}}
		east.create(theirs)
		east.app("shop", "guarded")
		inForce("guarded", "AuthorizationPolicy shop/isthmus-guarded")
		inForce("reviews", "")
		east.delete(theirs)
		inForce("guarded", "")
	})

	w.story("what is refused is said, and holds up nothing else", func(*testing.T) {
		refuse := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "refuse"}}
		refuse.Spec.MatchConstraints = &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
			Operations: []admissionv1.OperationType{admissionv1.Create},
			Rule:       admissionv1.Rule{APIGroups: []string{"security.istio.io"}, APIVersions: []string{"*"}, Resources: []string{"authorizationpolicies"}},
		}}}}
		refuse.Spec.Validations = []admissionv1.Validation{{Expression: "object.metadata.name != 'isthmus-refused'", Message: "we do not want this"}}
		binding := &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "refuse"}}
		binding.Spec.PolicyName, binding.Spec.ValidationActions = "refuse", []admissionv1.ValidationAction{admissionv1.Deny}
		east.create(refuse)
		east.create(binding)
		w.eventually("refusal", func() error {
			err := east.Client.Create(w.ctx, &securityv1.AuthorizationPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "isthmus-refused"}}, client.DryRunAll)
			if err == nil {
				return errors.New("it is not refused")
			}
			return nil
		})
		east.app("shop", "refused")
		inForce("refused", "we do not want this")
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) {
			vm.Spec.Federation = &v1alpha1.Federation{Permissive: &v1alpha1.Empty{}}
		})
		w.ready(vm)
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.Federation = nil })
		w.ready(vm)
	})

	w.story("what cannot be enforced fails closed, and is said", func(*testing.T) {
		p := accessPolicy("one", "")
		edit(w, w.hub, p, func(p *v1alpha1.AccessPolicy) {
			p.Spec.SourceSelector = []v1alpha1.IdentitySelector{{KubeIdentityMatcher: &v1alpha1.KubeIdentityMatcher{Clusters: []string{"east"}}}}
		})
		rules(1) // the only cluster of its trust domain can be told
		west := w.join("west", "203.0.113.9")
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) {
			vm.Spec.Meshes = append(vm.Spec.Meshes, v1alpha1.ObjectRef{Name: west.meshKey().Name})
		})
		rules(0)
		w.eventually("the report", func() error {
			d, err := w.destination("east", "reviews.shop")
			if err == nil && (len(d.Status.RejectedAccessPolicies) != 1 || !strings.Contains(strings.Join(d.Status.Errors, " "), "trust domain")) {
				return fmt.Errorf("status is %+v", d.Status)
			}
			return err
		})
	})

	w.story("the kind of policies is deleted", func(*testing.T) {
		crd := &unstructured.Unstructured{}
		crd.SetGroupVersionKind(crdKind)
		crd.SetName("accesspolicies.isthmus.dev")
		w.must(w.hub.Client.Delete(w.ctx, crd))
		w.eventually("the kind to go", func() error {
			if err := w.hub.Client.Get(w.ctx, client.ObjectKeyFromObject(crd), crd); !apierrors.IsNotFound(err) {
				return fmt.Errorf("still there: %w", errors.Join(err))
			}
			return nil
		})
		east.app("shop", "after") // a sign that the agent is at work
		w.eventually("after", func() error { _, err := w.destination("east", "after.shop"); return err })
		if _, err := policy("shop", "isthmus-reviews"); err != nil {
			w.Errorf("what protects was taken away: %v", err)
		}
	})

	w.story("everything is taken back in the reverse order", func(*testing.T) {
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.GlobalAccessPolicy = v1alpha1.GlobalAccessPolicyDisabled })
		w.ready(vm)
		for _, name := range []string{"isthmus-global-access", "isthmus-gateway-istio-eastwestgateway"} {
			if _, err := policy("istio-system", name); !apierrors.IsNotFound(err) {
				w.Errorf("%s is still there: %v", name, err)
			}
		}
	})
}
