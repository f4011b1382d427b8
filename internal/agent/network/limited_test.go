package network_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/istio/istiotest"
)

// limitedGateways are those of the chart isthmus-gateways.
func (m *member) limitedGateways(address string) {
	m.w.Helper()
	m.create(istiotest.Namespace(v1alpha1.GatewaysNamespace, map[string]string{"istio-injection": "enabled"}))
	for _, role := range []string{v1alpha1.GatewayRoleIngress, v1alpha1.GatewayRoleEgress} {
		name, labels := "isthmus-"+role, map[string]string{v1alpha1.LabelGateway: role}
		s := istiotest.Service(v1alpha1.GatewaysNamespace, name, labels)
		s.Labels = labels
		s.Spec.Ports = []corev1.ServicePort{{Name: "tls", Port: 15443, TargetPort: intstr.FromInt32(15443)}}
		d := istiotest.Deployment(v1alpha1.GatewaysNamespace, name, labels, name)
		d.Spec.Template.Labels["sidecar.istio.io/inject"] = "true"
		d.Spec.Template.Annotations = map[string]string{"inject.istio.io/templates": "gateway"}
		if role == v1alpha1.GatewayRoleIngress {
			s.Spec.Type = corev1.ServiceTypeLoadBalancer
		}
		m.create(s, d)
		if role == v1alpha1.GatewayRoleIngress {
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: address}}
			m.w.must(m.Client.Status().Update(m.w.ctx, s))
		}
	}
}

// certified has a mesh report that its gateways use a certificate of the virtual mesh, which no gateway that runs here could.
func (m *member) certified(root string) {
	m.w.Helper()
	m.w.eventually("the certificate of "+m.name, func() error {
		mesh := &v1alpha1.Mesh{}
		m.w.must(m.w.hub.Client.Get(m.w.ctx, m.meshKey(), mesh))
		mesh.Status.GatewayCertificate = &v1alpha1.MeshGatewayCertificate{VirtualMesh: "vm.isthmus-system", Signer: root, Roots: []string{root}}
		return m.w.hub.Client.Status().Update(m.w.ctx, mesh)
	})
}

// made lists what the agent made among the gateways of limited trust, without versions.
func (m *member) beside() (out []string) {
	m.w.Helper()
	for what := range m.versions(&networkingv1.ServiceEntryList{}, &networkingv1.DestinationRuleList{}, &networkingv1.GatewayList{}, &networkingv1.VirtualServiceList{},
		&securityv1.AuthorizationPolicyList{}) {
		kind, name, _ := strings.Cut(strings.TrimPrefix(what, "*v1."), " ")
		if key, ok := strings.CutPrefix(name, v1alpha1.GatewaysNamespace+"/"); ok && !strings.Contains(name, "isthmus-canary-") && !strings.Contains(name, "isthmus-credential-") {
			out = append(out, kind+" "+key)
		}
	}
	slices.Sort(out)
	return out
}

// imported lists what there is of a host of another cluster under limited trust.
func imported(service string) []string {
	host := service + ".global"
	return []string{"DestinationRule " + host, "DestinationRule " + host + ".isthmus.invalid", "Gateway " + host, "ServiceEntry " + host, "ServiceEntry " + host + ".isthmus.invalid", "VirtualService p9080." + host}
}

func exported(service string) []string {
	return []string{"Gateway " + service + ".global.isthmus-ingress", "VirtualService p9080." + service + ".global"}
}

// has waits until a cluster has just this among its gateways. Names of Gateways, which have a hash, are told by what they are made of.
func (m *member) has(what string, lists ...[]string) {
	m.w.Helper()
	want := slices.Sorted(slices.Values(slices.Concat(lists...)))
	m.w.eventually(what, func() error {
		got := m.beside()
		same := len(got) == len(want)
		for i := 0; same && i < len(got); i++ {
			w := want[i]
			if of, ok := strings.CutPrefix(w, "Gateway "); ok {
				name := "Gateway isthmus-" + strings.ReplaceAll(of, ".", "-")
				same = strings.HasPrefix(got[i], name[:min(len(name), len("Gateway ")+52)]+"-")
			} else {
				same = got[i] == w
			}
		}
		if !same {
			return fmt.Errorf("%s has %q, want %q; it reports %q", m.name, got, want, m.status().Errors)
		}
		return nil
	})
}

func limitedTrust(vm *v1alpha1.VirtualMesh) {
	vm.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Limited: &v1alpha1.LimitedTrust{}}
}

func (m *member) get(o client.Object, name string) error {
	return m.Client.Get(m.w.ctx, client.ObjectKey{Namespace: v1alpha1.GatewaysNamespace, Name: name}, o)
}

// callers are the identities that the ingress gateway of a mesh admits to a service.
func (m *member) callers(service string) (out []string) {
	var list networkingv1.GatewayList
	m.w.must(m.Client.List(m.w.ctx, &list, client.InNamespace(v1alpha1.GatewaysNamespace)))
	for _, g := range list.Items {
		for _, s := range g.Spec.Servers {
			if slices.ContainsFunc(s.Hosts, func(h string) bool {
				return strings.HasPrefix(h, "p9080.") && strings.HasSuffix(h, "."+service+".global")
			}) {
				out = append(out, s.GetTls().GetSubjectAltNames()...)
			}
		}
	}
	return out
}

const (
	ratings = "ratings.shop.svc.west"
	reviews = "reviews.shop.svc.west"
	details = "details.shop.svc.east"
)

func TestLimitedTrust(t *testing.T) {
	w := newWorld(t, "east", "west")
	east, west := w.members["east"], w.members["west"]
	west.app("shop", "reviews")
	west.app("shop", "ratings")
	east.app("shop", "details")
	vm := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "vm"}}
	vm.Spec.Federation = everything()
	limitedTrust(vm)
	for _, name := range []string{"east", "west"} {
		vm.Spec.Meshes = append(vm.Spec.Meshes, v1alpha1.ObjectRef{Name: w.members[name].meshKey().Name})
	}
	w.must(w.hub.Client.Create(w.ctx, vm))

	w.story("gateways are missing", func(*testing.T) {
		w.eventually("the remedy at the destination", func() error {
			d, err := w.destination("west", "reviews.shop")
			if err == nil && (d.Status.AppliedFederation != nil || !strings.Contains(fmt.Sprint(d.Status.Errors), "chart isthmus-gateways")) {
				err = fmt.Errorf("status is %+v", d.Status)
			}
			return err
		})
		for i, m := range []*member{east, west} {
			m.limitedGateways(fmt.Sprintf("203.0.113.10%d", i+1))
		}
	})
	w.story("home admits, and clients wait until gateways were seen to trust each other", func(t *testing.T) {
		west.has("what west admits", exported(reviews), exported(ratings))
		east.has("what east admits", exported(details))
		want := "spiffe://vm.isthmus-system.gateways.isthmus.dev/cluster/east/mesh/istiod-istio-system-east"
		if got := west.callers(reviews); !slices.Equal(got, []string{want}) {
			t.Errorf("admitted are %v", got)
		}
		if got := west.hosts(); got != nil {
			t.Errorf("what passes through is %v", got)
		}
		east.certified("root")
		west.certified("root")
	})
	w.story("imported", func(t *testing.T) {
		east.has("what east imports", exported(details), imported(reviews), imported(ratings))
		west.has("what west imports", exported(reviews), exported(ratings), imported(details))
		w.ready(vm)
		e := &networkingv1.ServiceEntry{}
		w.must(east.get(e, reviewsWest))
		if !strings.HasPrefix(e.Spec.Addresses[0], "241.") || e.Spec.WorkloadSelector.Labels[v1alpha1.LabelGateway] != "egress" ||
			!slices.Equal(e.Spec.SubjectAltNames, []string{"spiffe://cluster.local/ns/isthmus-gateways/sa/isthmus-egress"}) {
			t.Errorf("entry is %v", &e.Spec)
		}
		w.must(east.get(e, reviewsWest+".isthmus.invalid"))
		if e.Spec.Endpoints[0].Address != "203.0.113.102" {
			t.Errorf("endpoints are %v", e.Spec.Endpoints)
		}
		if _, err := east.entry(reviewsWest); !apierrors.IsNotFound(err) {
			t.Errorf("an entry in the root namespace: %v", err)
		}
	})
	w.story("what is changed or deleted by hand is put right", func(*testing.T) {
		v := &networkingv1.VirtualService{}
		w.must(east.get(v, "p9080."+reviewsWest))
		east.delete(v)
		w.eventually("the route", func() error { return east.get(&networkingv1.VirtualService{}, "p9080."+reviewsWest) })
		w.must(west.get(v, "p9080."+reviewsWest))
		edit(w, west.Cluster, v, func(v *networkingv1.VirtualService) { v.Spec.Hosts = []string{"p9080.evil.example"} })
		w.eventually("the route at home", func() error {
			if err := west.get(v, "p9080."+reviewsWest); err != nil || v.Spec.Hosts[0] == "p9080.evil.example" {
				return fmt.Errorf("%v %w", v.Spec.Hosts, err)
			}
			return nil
		})
	})
	w.story("an agent that starts writes nothing", func(t *testing.T) {
		before := map[string]map[string]string{}
		all := func(m *member) map[string]string {
			out := m.made()
			maps.Copy(out, m.versions(&networkingv1.VirtualServiceList{}))
			maps.DeleteFunc(out, func(key, _ string) bool { return strings.Contains(key, "/isthmus-credential-") }) // of package certificates
			return out
		}
		for _, m := range []*member{east, west} {
			before[m.name] = all(m)
			m.stop()
		}
		for _, m := range []*member{east, west} {
			m.start()
		}
		ratingsOwn := east.app("shop", "later") // by which it is seen to be at work
		west.has("what west imports", exported(reviews), exported(ratings), imported(details), imported("later.shop.svc.east"))
		east.delete(ratingsOwn)
		west.has("what west imports", exported(reviews), exported(ratings), imported(details))
		east.has("what east imports", exported(details), imported(reviews), imported(ratings))
		w.ready(vm)
		for _, m := range []*member{east, west} {
			if after := all(m); !maps.Equal(after, before[m.name]) {
				t.Errorf("%s: %v\nwas %v", m.name, after, before[m.name])
			}
		}
	})
	w.story("a policy is enforced where callers leave and where they arrive", func(t *testing.T) {
		p := &v1alpha1.AccessPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "p"}}
		p.Spec.DestinationSelector = []v1alpha1.DestinationSelector{{KubeServiceRefs: &v1alpha1.KubeServiceRefs{Services: []v1alpha1.ClusterObjectRef{{Name: "reviews", Namespace: "shop"}}}}}
		p.Spec.SourceSelector = []v1alpha1.IdentitySelector{{KubeIdentityMatcher: &v1alpha1.KubeIdentityMatcher{Namespaces: []string{"front"}, Clusters: []string{"east"}}}}
		p.Spec.AllowedMethods = []string{"GET"}
		w.must(w.hub.Client.Create(w.ctx, p))
		east.has("the denial", exported(details), imported(reviews), imported(ratings), []string{"AuthorizationPolicy " + reviewsWest})
		a := &securityv1.AuthorizationPolicy{}
		w.must(east.get(a, reviewsWest))
		if a.Spec.Action.String() != "DENY" || !slices.Equal(a.Spec.Rules[0].From[0].Source.NotNamespaces, []string{"front"}) || a.Spec.Rules[0].When[0].Values[0] != "p9080."+reviewsWest {
			t.Errorf("denied: %v", &a.Spec)
		}
		w.eventually("the policy at home", func() error {
			err := west.Client.Get(w.ctx, client.ObjectKey{Namespace: "shop", Name: "isthmus-reviews"}, a)
			if err == nil && (len(a.Spec.Rules) != 1 || !slices.Equal(a.Spec.Rules[0].From[0].Source.Principals, []string{"cluster.local/ns/isthmus-gateways/sa/isthmus-ingress"})) {
				err = fmt.Errorf("it is %v", &a.Spec)
			}
			return err
		})
		w.must(w.hub.Client.Delete(w.ctx, p))
		east.has("no denial", exported(details), imported(reviews), imported(ratings))
	})
	w.story("withdrawn", func(*testing.T) {
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.Federation = only("reviews") })
		w.ready(vm)
		east.has("what is left", imported(reviews))
		west.has("what is left", exported(reviews))
	})
	w.story("to shared trust and back, make before break", func(t *testing.T) {
		address := func(namespace string) string {
			e := &networkingv1.ServiceEntry{}
			w.must(east.Client.Get(w.ctx, client.ObjectKey{Namespace: namespace, Name: reviewsWest}, e))
			return e.Spec.Addresses[0]
		}
		was := address(v1alpha1.GatewaysNamespace)
		west.stop() // which has not let in yet those who come the new way
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.MTLSConfig = nil })
		east.hasEntry(reviewsWest)
		east.has("the former way beside the new one", imported(reviews))
		if is := address("istio-system"); is != was {
			t.Errorf("the address was %s and is %s", was, is)
		}
		west.startAndBeat()
		w.ready(vm)
		east.has("the new way alone")
		west.has("nothing of the former way")
		if got := west.hosts(); !slices.Equal(got, []string{"reviews.shop.svc.cluster.local"}) {
			t.Errorf("hosts are %v", got)
		}

		east.stop()
		edit(w, w.hub, vm, limitedTrust)
		west.has("the new way of home", exported(reviews))
		if got := west.hosts(); !slices.Equal(got, []string{"reviews.shop.svc.cluster.local"}) {
			t.Errorf("the former way is gone before others have left it: hosts are %v", got)
		}
		east.startAndBeat()
		w.ready(vm)
		east.has("the new way alone", imported(reviews))
		east.lacksEntry(reviewsWest)
		if is := address(v1alpha1.GatewaysNamespace); is != was {
			t.Errorf("the address was %s and is %s", was, is)
		}
		w.eventually("nothing of the former way", func() error {
			if got := west.hosts(); got != nil {
				return fmt.Errorf("hosts are %v", got)
			}
			var rules networkingv1.DestinationRuleList
			return errors.Join(east.Client.List(w.ctx, &rules, client.InNamespace("istio-system")), func() error {
				if len(rules.Items) > 0 {
					return fmt.Errorf("rules are %v", rules.Items)
				}
				return nil
			}())
		})
	})
	w.story("a member comes and goes", func(*testing.T) {
		north := w.join("north", "203.0.113.3")
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) {
			vm.Spec.Meshes = append(vm.Spec.Meshes, v1alpha1.ObjectRef{Name: north.meshKey().Name})
		})
		admitted := func(n int) {
			w.Helper()
			w.eventually(fmt.Sprintf("%d admitted", n), func() error {
				if got := west.callers(reviews); len(got) != n {
					return fmt.Errorf("they are %v", got)
				}
				return nil
			})
		}
		admitted(2)
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.Meshes = vm.Spec.Meshes[:2] })
		admitted(1)
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.Meshes = vm.Spec.Meshes[1:2] })
		west.has("nobody is admitted")
		east.has("nothing is imported")
	})
	w.story("the virtual mesh is deleted", func(*testing.T) {
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) {
			vm.Spec.Meshes = append(vm.Spec.Meshes[:1], v1alpha1.ObjectRef{Name: east.meshKey().Name})
		})
		east.has("imported again", imported(reviews))
		w.must(w.hub.Client.Delete(w.ctx, vm))
		east.has("nothing")
		west.has("nothing")
		w.eventually("the virtual mesh to be gone", func() error {
			err := w.hub.Client.Get(w.ctx, client.ObjectKeyFromObject(vm), vm)
			if apierrors.IsNotFound(err) {
				return nil
			}
			return fmt.Errorf("it is there: %w", errors.Join(err))
		})
	})
}
