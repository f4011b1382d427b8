package network_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

const (
	reviewsName = "reviews.shop.svc.global"
	ownReviews  = "isthmus-own-" + reviewsName
)

// virtualDestination makes one for the service "reviews".
func (w *world) virtualDestination(name string, clusters ...string) *v1alpha1.VirtualDestination {
	w.Helper()
	vd := &v1alpha1.VirtualDestination{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name}}
	vd.Spec = v1alpha1.VirtualDestinationSpec{
		VirtualMesh: v1alpha1.ObjectRef{Name: "vm"}, Service: v1alpha1.ServiceRef{Name: "reviews", Namespace: "shop"}, Clusters: clusters, Ports: []int32{9080},
	}
	w.must(w.hub.Client.Create(w.ctx, vd))
	return vd
}

// state waits until a virtual destination has a state for its present generation.
func (w *world) state(vd *v1alpha1.VirtualDestination, want v1alpha1.State) {
	w.Helper()
	w.eventually(vd.Name+" to be "+string(want), func() error {
		w.must(w.hub.Client.Get(w.ctx, client.ObjectKeyFromObject(vd), vd))
		if vd.Status.State != want || vd.Status.ObservedGeneration != vd.Generation {
			return fmt.Errorf("status is %+v", vd.Status)
		}
		return nil
	})
}

// named returns the ServiceEntry of a name in a namespace.
func (m *member) named(namespace, name string) (*networkingv1.ServiceEntry, error) {
	e := &networkingv1.ServiceEntry{}
	return e, m.Client.Get(m.w.ctx, client.ObjectKey{Namespace: namespace, Name: name}, e)
}

// places waits until the ServiceEntries of the virtual destination are those, each "<namespace>/<name>", and no others.
func (m *member) places(want ...string) {
	m.w.Helper()
	m.w.eventually("ServiceEntries in "+m.name, func() error {
		var list networkingv1.ServiceEntryList
		m.w.must(m.Client.List(m.w.ctx, &list))
		var got []string
		for _, e := range list.Items {
			if slices.Contains(e.Spec.Hosts, reviewsName) {
				got = append(got, e.Namespace+"/"+e.Name)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("they are %v, want %v", got, want)
		}
		err := m.Client.Get(m.w.ctx, client.ObjectKey{Namespace: "istio-system", Name: reviewsName}, &networkingv1.DestinationRule{})
		if (len(want) > 0) != (err == nil) {
			return fmt.Errorf("DestinationRule: %w", errors.Join(err))
		}
		return nil
	})
}

func (m *member) service(namespace, name string) (*corev1.Service, error) {
	s := &corev1.Service{}
	return s, m.Client.Get(m.w.ctx, client.ObjectKey{Namespace: namespace, Name: name}, s)
}

func (m *member) endpoints(namespace string) (out []string) {
	e, err := m.named(namespace, reviewsName)
	if err != nil {
		return nil
	}
	for _, e := range e.Spec.Endpoints {
		out = append(out, e.Labels["isthmus.dev/cluster"]+" "+e.Address)
	}
	return out
}

func TestVirtualDestination(t *testing.T) {
	w := newWorld(t, "east", "west")
	east, west := w.members["east"], w.members["west"]
	east.app("shop", "reviews")
	west.app("shop", "reviews")
	vm := w.virtualMesh(everything(), "east", "west")
	w.ready(vm)
	vd := w.virtualDestination("reviews", "east", "west")

	w.story("each mesh sends to its own pods, and to those of the other when they fail", func(t *testing.T) {
		w.state(vd, v1alpha1.StateAccepted)
		if !meta.IsStatusConditionTrue(vd.Status.Conditions, v1alpha1.ConditionReady) || vd.Status.Accepted.Hostname != reviewsName {
			t.Errorf("status is %+v", vd.Status)
		}
		for m, want := range map[*member][]string{east: {"east", "west"}, west: {"west", "east"}} {
			m.places("shop/"+ownReviews, "shop/"+reviewsName)
			i := slices.IndexFunc(vd.Status.Meshes, func(s v1alpha1.VirtualDestinationMesh) bool {
				return s.Name == m.meshKey().Name+"."+m.meshKey().Namespace
			})
			if i < 0 || !slices.Equal(vd.Status.Meshes[i].Clusters, want) {
				t.Errorf("meshes are %+v", vd.Status.Meshes)
			}
		}
		own, err := east.named("shop", ownReviews)
		w.must(err)
		others, err := east.named("shop", reviewsName)
		w.must(err)
		if own.Spec.WorkloadSelector.Labels["app"] != "reviews" || own.Spec.Ports[0].TargetPort != 9080 || !slices.Equal(own.Spec.Addresses, others.Spec.Addresses) ||
			!strings.HasPrefix(own.Spec.Addresses[0], "241.") {
			t.Errorf("%v, %v", &own.Spec, &others.Spec)
		}
		if got := east.endpoints("shop"); !slices.Equal(got, []string{"west 203.0.113.2"}) {
			t.Errorf("endpoints %v", got)
		}
		// What finds it again, to take it back, is in it from the beginning.
		if by := own.ManagedFields; own.Annotations[v1alpha1.AnnotationDestination] == "" || len(by) != 1 || by[0].Operation != metav1.ManagedFieldsOperationUpdate {
			t.Errorf("it was written again: %+v", own)
		}
	})

	w.story("one change costs work for one virtual destination, and pods cost none", func(t *testing.T) {
		before := map[*member]map[string]string{east: east.made(), west: west.made()}
		east.app("shop", "unrelated")
		w.eventually("unrelated", func() error { _, err := west.entry("unrelated.shop.svc.east.global"); return err })
		for m, was := range before {
			now := m.made()
			for key, version := range was {
				if strings.Contains(key, "reviews") && now[key] != version {
					t.Errorf("%s: %s was written", m.name, key)
				}
			}
		}
	})

	w.story("what is changed or deleted by hand is put right", func(*testing.T) {
		own, err := east.named("shop", ownReviews)
		w.must(err)
		edit(w, east.Cluster, own, func(e *networkingv1.ServiceEntry) { e.Spec.WorkloadSelector.Labels = map[string]string{"app": "evil"} })
		w.eventually("the selector", func() error {
			e, err := east.named("shop", ownReviews)
			if err == nil && e.Spec.WorkloadSelector.Labels["app"] != "reviews" {
				return errors.New("it is still wrong")
			}
			return err
		})
		others, err := east.named("shop", reviewsName)
		w.must(err)
		east.delete(others)
		east.places("shop/"+ownReviews, "shop/"+reviewsName)
	})

	w.story("an invalid edit changes nothing, and says why", func(t *testing.T) {
		was := east.made()
		edit(w, w.hub, vd, func(vd *v1alpha1.VirtualDestination) { vd.Spec.Clusters = []string{"east", "north"} })
		w.state(vd, v1alpha1.StateInvalid)
		if len(vd.Status.Errors) != 1 || !strings.Contains(vd.Status.Errors[0], "spec.clusters[1]") || vd.Status.Accepted == nil {
			t.Errorf("status is %+v", vd.Status)
		}
		second := w.virtualDestination("second", "east")
		w.state(second, v1alpha1.StateInvalid)
		if len(second.Status.Errors) != 1 || !strings.Contains(second.Status.Errors[0], "spec.hostname: VirtualDestination reviews has the hostname") {
			t.Errorf("status is %+v", second.Status)
		}
		for key, version := range was {
			if now := east.made(); strings.Contains(key, reviewsName) && now[key] != version {
				t.Errorf("%s was written", key)
			}
		}
		w.must(w.hub.Client.Delete(w.ctx, second))
		edit(w, w.hub, vd, func(vd *v1alpha1.VirtualDestination) { vd.Spec.Clusters = []string{"east", "west"} })
		w.state(vd, v1alpha1.StateAccepted)
	})

	w.story("the agent starts over, and writes nothing", func(t *testing.T) {
		was := east.made()
		east.stop()
		east.start()
		east.app("shop", "sign")
		w.eventually("sign of life", func() error { _, err := west.entry("sign.shop.svc.east.global"); return err })
		now := east.made()
		for key, version := range was {
			if now[key] != version {
				t.Errorf("%s was written: %q, now %q", key, version, now[key])
			}
		}
	})

	w.story("a gateway moves", func(t *testing.T) {
		s, err := west.service("istio-system", "istio-eastwestgateway")
		w.must(err)
		s.Status.LoadBalancer.Ingress[0].IP = "203.0.113.77"
		w.must(west.Client.Status().Update(w.ctx, s))
		w.eventually("endpoints", func() error {
			if got := east.endpoints("shop"); !slices.Equal(got, []string{"west 203.0.113.77"}) {
				return fmt.Errorf("they are %v", got)
			}
			return nil
		})
	})

	w.story("the service goes from one cluster and comes back", func(t *testing.T) {
		s, err := east.service("shop", "reviews")
		w.must(err)
		east.delete(s)
		east.places("istio-system/" + reviewsName)
		w.state(vd, v1alpha1.StateFailed)
		west.places("shop/" + ownReviews)
		if e, err := west.named("shop", ownReviews); err != nil || len(e.Spec.SubjectAltNames) != 1 {
			t.Errorf("%v, %v", e, err)
		}
		east.app("shop", "reviews")
		east.places("shop/"+ownReviews, "shop/"+reviewsName)
		west.places("shop/"+ownReviews, "shop/"+reviewsName)
		w.state(vd, v1alpha1.StateAccepted)
	})

	w.story("what is not federated to a mesh, the mesh does not get", func(*testing.T) {
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.Federation = only("other") })
		w.ready(vm)
		east.places("shop/" + ownReviews)
		west.places("shop/" + ownReviews)
		w.state(vd, v1alpha1.StateFailed)
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.Federation = everything() })
		w.ready(vm)
		w.state(vd, v1alpha1.StateAccepted)
		east.places("shop/"+ownReviews, "shop/"+reviewsName)
	})

	w.story("an object of somebody else stays, and is named", func(*testing.T) {
		edit(w, w.hub, vd, func(vd *v1alpha1.VirtualDestination) { vd.Spec.Hostname = "reviews.everywhere.svc.global" })
		w.state(vd, v1alpha1.StateAccepted)
		east.places()
		foreign := &networkingv1.ServiceEntry{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: ownReviews}}
		foreign.Spec.Hosts = []string{"theirs.example.org"}
		east.create(foreign)
		edit(w, w.hub, vd, func(vd *v1alpha1.VirtualDestination) { vd.Spec.Hostname = "" })
		w.state(vd, v1alpha1.StateFailed)
		w.eventually("the name of the object", func() error {
			w.must(w.hub.Client.Get(w.ctx, client.ObjectKeyFromObject(vd), vd))
			for _, m := range vd.Status.Meshes {
				if strings.Contains(strings.Join(m.Errors, " "), "shop/"+ownReviews) {
					return nil
				}
			}
			return fmt.Errorf("meshes are %+v", vd.Status.Meshes)
		})
		east.delete(foreign)
		w.state(vd, v1alpha1.StateAccepted)
		east.places("shop/"+ownReviews, "shop/"+reviewsName)
	})

	w.story("one that is deleted while everything stays as it is goes afterwards", func(*testing.T) {
		const host = "reviews.paused.svc.global"
		paused := &v1alpha1.VirtualDestination{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "paused"}, Spec: *vd.Spec.DeepCopy()}
		paused.Spec.Hostname = host
		w.must(w.hub.Client.Create(w.ctx, paused))
		w.state(paused, v1alpha1.StateAccepted)
		suspend := func(is bool) {
			edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) { vm.Spec.Suspend = is })
			w.eventually("suspend", func() error {
				w.must(w.hub.Client.Get(w.ctx, client.ObjectKeyFromObject(vm), vm))
				if vm.Status.Accepted.Spec.Suspend != is {
					return errors.New("it is not accepted yet")
				}
				return nil
			})
		}
		suspend(true)
		w.must(w.hub.Client.Delete(w.ctx, paused))
		suspend(false)
		for _, m := range w.members {
			w.eventually("no "+host+" in "+m.name, func() error {
				if _, err := m.named("shop", host); !apierrors.IsNotFound(err) {
					return fmt.Errorf("it is there: %w", errors.Join(err))
				}
				return nil
			})
		}
	})

	w.story("a cluster that is not named does not serve, whatever it has", func(*testing.T) {
		north := w.join("north", "203.0.113.66")
		north.app("shop", "reviews")
		edit(w, w.hub, vm, func(vm *v1alpha1.VirtualMesh) {
			vm.Spec.Meshes = append(vm.Spec.Meshes, v1alpha1.ObjectRef{Name: north.meshKey().Name})
		})
		w.ready(vm)
		east.hasEntry("reviews.shop.svc.north.global")
		w.state(vd, v1alpha1.StateAccepted)
		// It gets the name, like every member, and is a client and nothing else.
		north.places("istio-system/" + reviewsName)
		w.eventually("both endpoints in north", func() error {
			if got := north.endpoints("istio-system"); len(got) != 2 {
				return fmt.Errorf("they are %v", got)
			}
			return nil
		})
		for _, m := range []*member{east, west} {
			if got := strings.Join(m.endpoints("shop"), " "); strings.Contains(got, "203.0.113.66") || got == "" {
				w.Errorf("endpoints in %s: %v", m.name, got)
			}
		}
	})

	w.story("the virtual destination is deleted, and only then its objects go", func(*testing.T) {
		crd := &unstructured.Unstructured{}
		crd.SetGroupVersionKind(crdKind)
		crd.SetName("virtualdestinations.isthmus.dev")
		w.must(w.hub.Client.Get(w.ctx, client.ObjectKeyFromObject(crd), crd))
		w.must(w.hub.Client.Delete(w.ctx, vd))
		for _, m := range w.members {
			m.places()
		}
		w.eventually("the report", func() error {
			if got := east.status().AppliedVirtualDestinations; len(got) > 0 {
				return fmt.Errorf("it is %+v", got)
			}
			return nil
		})
		again := w.virtualDestination("again", "east", "west")
		w.state(again, v1alpha1.StateAccepted)
		w.must(w.hub.Client.Delete(w.ctx, crd)) // nobody has deleted what was of it
		w.eventually("the kind to go", func() error {
			if err := w.hub.Client.Get(w.ctx, client.ObjectKeyFromObject(crd), crd); !apierrors.IsNotFound(err) {
				return fmt.Errorf("still there: %w", errors.Join(err))
			}
			return nil
		})
		east.app("shop", "after") // a sign that the agents are at work
		west.hasEntry("after.shop.svc.east.global")
		for m, namespace := range map[*member]string{east: "shop", west: "shop", w.members["north"]: "istio-system"} {
			if len(m.endpoints(namespace)) == 0 {
				w.Errorf("%s: what was made of it was taken away with the kind", m.name)
			}
		}
	})
}
