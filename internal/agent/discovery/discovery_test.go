package discovery_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/cluster"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent/discovery"
	"github.com/isthmus-mesh/isthmus/internal/istio"
	"github.com/isthmus-mesh/isthmus/internal/istio/istiotest"
	"github.com/isthmus-mesh/isthmus/internal/kube/hublink"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// grace of identities that are gone.
const grace = time.Second

const (
	hubNamespace = "isthmus-east"
	meshName     = "istiod-istio-system-east"
)

// world is a hub and a member cluster with Istio in it.
type world struct {
	*testing.T  // of the present story
	whole       *testing.T
	ctx         context.Context
	hub, member *testenv.Cluster
	// writes to the hub, counted in the agent's client.
	writes atomic.Int64
	// lag of the hub's watches, as testenv.Lag takes it.
	lag time.Duration
	// stale is what the metrics of managers that have ended still show as work.
	stale float64
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, whole: t, ctx: context.Background(), hub: testenv.Start(t), member: testenv.Start(t)}
	for _, ns := range []string{hubNamespace, v1alpha1.SystemNamespace} {
		w.hub.Namespace(t, ns, nil)
	}
	w.member.Namespace(t, v1alpha1.AgentNamespace, nil)
	w.create(istiotest.Manifest("sidecar")...)
	w.create(istiotest.Namespace("shop", map[string]string{"istio-injection": "enabled"}), istiotest.Namespace("plain", nil))
	return w
}

// story runs a part of a test that goes on from where the last one ended.
func (w *world) story(name string, f func(*testing.T)) {
	w.whole.Run(name, func(t *testing.T) {
		w.T = t
		defer func() { w.T = w.whole }()
		f(t)
	})
}

// create makes objects in the member cluster, with a ServiceAccount for each that pods need.
func (w *world) create(objs ...client.Object) {
	w.Helper()
	for _, o := range objs {
		if p, ok := o.(*corev1.Pod); ok {
			sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Spec.ServiceAccountName}}
			if err := client.IgnoreAlreadyExists(w.member.Client.Create(w.ctx, sa)); err != nil {
				w.Fatal(err)
			}
		}
		if err := w.member.Client.Create(w.ctx, o); err != nil {
			w.Fatalf("creating %T %s: %v", o, o.GetName(), err)
		}
	}
}

func (w *world) delete(objs ...client.Object) {
	w.Helper()
	for _, o := range objs {
		if err := w.member.Client.Delete(w.ctx, o, client.GracePeriodSeconds(0)); err != nil {
			w.Fatal(err)
		}
	}
}

// edit changes an object of the member cluster.
func (w *world) edit(o client.Object, f func()) {
	w.Helper()
	if err := w.member.Client.Get(w.ctx, client.ObjectKeyFromObject(o), o); err != nil {
		w.Fatal(err)
	}
	f()
	if err := w.member.Client.Update(w.ctx, o); err != nil {
		w.Fatal(err)
	}
}

// app is a Service with a Deployment and one pod, injected.
func (w *world) app(namespace, name string) (*corev1.Service, *appsv1.Deployment, *corev1.Pod) {
	w.Helper()
	labels := map[string]string{"app": name}
	s, d := istiotest.Service(namespace, name, labels), istiotest.Deployment(namespace, name, labels, name)
	p := istiotest.Injected(istiotest.Pod(d, "aaa", "1"), "default", true)
	w.create(s, d, p)
	return s, d, p
}

// agent runs discovery until the function that is returned is called.
func (w *world) agent() (stop func()) {
	w.Helper()
	mgr := w.manager()
	hub, err := cluster.New(testenv.Lag(w.hub.Config, w.lag), func(o *cluster.Options) {
		o.Scheme = testenv.Scheme()
		o.Cache = cache.Options{
			DefaultNamespaces: map[string]cache.Config{hubNamespace: {}},
			ByObject: map[client.Object]cache.ByObject{
				&v1alpha1.Settings{}: {Namespaces: map[string]cache.Config{v1alpha1.SystemNamespace: {}}},
			},
		}
		o.NewClient = func(cfg *rest.Config, o client.Options) (client.Client, error) {
			c, err := client.NewWithWatch(cfg, o)
			if err != nil {
				return nil, err
			}
			return w.counting(c), nil
		}
	})
	if err != nil {
		w.Fatal(err)
	}
	if err := mgr.Add(hub); err != nil {
		w.Fatal(err)
	}
	if err := discovery.AddWithGrace(w.ctx, mgr, hub, "east", grace); err != nil {
		w.Fatal(err)
	}
	return w.run(mgr)
}

func (w *world) counting(c client.WithWatch) client.Client {
	return interceptor.NewClient(c, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			w.writes.Add(1)
			return c.Create(ctx, o, opts...)
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			w.writes.Add(1)
			return c.Patch(ctx, o, p, opts...)
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			w.writes.Add(1)
			return c.Update(ctx, o, opts...)
		},
		Apply: func(ctx context.Context, c client.WithWatch, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
			w.writes.Add(1)
			return c.Apply(ctx, o, opts...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			w.writes.Add(1)
			return c.Delete(ctx, o, opts...)
		},
	})
}

func (w *world) manager() ctrl.Manager {
	w.Helper()
	mgr, err := ctrl.NewManager(w.member.Config, ctrl.Options{
		Scheme:     testenv.Scheme(),
		Metrics:    metricsserver.Options{BindAddress: "0"},
		Logger:     logr.FromSlogHandler(slog.NewTextHandler(w.whole.Output(), nil)),
		Controller: config.Controller{SkipNameValidation: new(true)},
	})
	if err != nil {
		w.Fatal(err)
	}
	return mgr
}

func (w *world) run(mgr ctrl.Manager) (stop func()) {
	w.stale, _ = work(w)
	ctx, cancel := context.WithCancel(w.ctx)
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			w.whole.Errorf("the manager ended with %v", err)
		}
	}
	w.whole.Cleanup(stop)
	return stop
}

// settle waits until discovery has nothing left to do, and returns the number of writes to the hub so far.
func (w *world) settle() int64 {
	w.Helper()
	last, since := float64(-1), time.Now()
	testenv.Eventually(w, "discovery comes to rest", func() error {
		busy, done := work(w)
		if busy -= w.stale; busy > 0 || done != last || done == 0 {
			last, since = done, time.Now()
			return fmt.Errorf("%v requests at work, %v done", busy, done)
		}
		if quiet := time.Since(since); quiet < 400*time.Millisecond {
			return fmt.Errorf("quiet for only %v", quiet)
		}
		return nil
	})
	return w.writes.Load()
}

// work sums up the metrics of discovery's controllers.
func work(t testing.TB) (busy, done float64) {
	t.Helper()
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if !strings.HasPrefix(l.GetValue(), "discovery-") {
					continue
				}
				switch f.GetName() {
				case "workqueue_depth", "controller_runtime_active_workers":
					busy += m.GetGauge().GetValue()
				case "controller_runtime_reconcile_total":
					done += m.GetCounter().GetValue()
				}
			}
		}
	}
	return busy, done
}

// reconciles counts what a controller was asked to do so far.
func reconciles(t testing.TB, controller string) (n float64) {
	t.Helper()
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "controller_runtime_reconcile_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "controller" && l.GetValue() == controller {
					n += m.GetCounter().GetValue()
				}
			}
		}
	}
	return n
}

// unchanged fails if f leads to a write to the hub.
func (w *world) unchanged(what string, f func()) {
	w.Helper()
	before := w.settle()
	f()
	if after := w.settle(); after != before {
		w.Errorf("%s led to %d writes to the hub", what, after-before)
	}
}

func (w *world) destination(name string, check func(*v1alpha1.Destination) error) {
	w.Helper()
	w.eventually(name, &v1alpha1.Destination{}, func(o client.Object) error { return check(o.(*v1alpha1.Destination)) })
}

func (w *world) eventually(name string, o client.Object, check func(client.Object) error) {
	w.Helper()
	testenv.Eventually(w, fmt.Sprintf("%T %s", o, name), func() error {
		if err := w.hub.Client.Get(w.ctx, types.NamespacedName{Namespace: hubNamespace, Name: name}, o); err != nil {
			return err
		}
		if check == nil {
			return nil
		}
		return check(o)
	})
}

func (w *world) gone(name string, o client.Object) {
	w.Helper()
	testenv.Eventually(w, fmt.Sprintf("%T %s goes", o, name), func() error {
		err := w.hub.Client.Get(w.ctx, types.NamespacedName{Namespace: hubNamespace, Name: name}, o)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("is still there"), err)
	})
}

// there fails at once if an object is not in the hub.
func (w *world) there(name string, o client.Object) {
	w.Helper()
	if err := w.hub.Client.Get(w.ctx, types.NamespacedName{Namespace: hubNamespace, Name: name}, o); err != nil {
		w.Errorf("%T %s: %v", o, name, err)
	}
}

func identities(want ...string) func(*v1alpha1.Destination) error {
	return func(d *v1alpha1.Destination) error {
		if !slices.Equal(d.Spec.Identities, want) {
			return fmt.Errorf("identities = %v, want %v", d.Spec.Identities, want)
		}
		return nil
	}
}

const shop = "spiffe://cluster.local/ns/shop/sa/"

func TestDiscovery(t *testing.T) {
	w := newWorld(t)
	stop := w.agent()

	w.story("the mesh", func(t *testing.T) {
		w.eventually(meshName, &v1alpha1.Mesh{}, func(o client.Object) error {
			m := o.(*v1alpha1.Mesh).Spec
			if m.Cluster != "east" || len(m.Istio.Revisions) != 1 || !m.Istio.Revisions[0].MultiRootMesh || m.Istio.Network != "net1" {
				return fmt.Errorf("spec = %+v", m)
			}
			if len(m.Istio.Gateways) != 1 || m.Istio.Gateways[0].Name != "istio-eastwestgateway" {
				return fmt.Errorf("gateways = %+v", m.Istio.Gateways)
			}
			return nil
		})
	})

	var (
		service    *corev1.Service
		deployment *appsv1.Deployment
		pod        *corev1.Pod
	)
	w.story("a service comes and changes", func(t *testing.T) {
		service, deployment, pod = w.app("shop", "reviews")
		w.destination("reviews.shop", identities(shop+"reviews"))
		w.eventually("deployment.reviews.shop", &v1alpha1.Workload{}, func(o client.Object) error {
			s := o.(*v1alpha1.Workload).Spec
			if s.DataPlane != v1alpha1.DataPlaneSidecar || s.Revision != "default" || s.Mesh != meshName || s.ServiceAccount != "reviews" {
				return fmt.Errorf("spec = %+v", s)
			}
			return nil
		})
		w.edit(service, func() { service.Spec.Ports[0].AppProtocol = new("http") })
		w.destination("reviews.shop", func(d *v1alpha1.Destination) error {
			if len(d.Spec.KubeService.Ports) != 1 || d.Spec.KubeService.Ports[0].AppProtocol != "http" {
				return fmt.Errorf("ports = %+v", d.Spec.KubeService.Ports)
			}
			return nil
		})
	})

	w.story("what is outside of the mesh is not reported", func(t *testing.T) {
		labels := map[string]string{"app": "outsider"}
		d := istiotest.Deployment("plain", "outsider", labels, "outsider")
		w.create(istiotest.Service("plain", "outsider", labels), d, istiotest.Pod(d, "aaa", "1"))
		w.settle()
		var list v1alpha1.DestinationList
		if err := w.hub.Client.List(w.ctx, &list); err != nil {
			t.Fatal(err)
		}
		for _, d := range list.Items {
			if d.Spec.KubeService.Namespace == "plain" {
				t.Errorf("reported: %s", d.Name)
			}
		}
	})

	w.story("every gateway is listed, and nothing else makes gateways be looked at", func(t *testing.T) {
		w.member.Namespace(t, "edge", map[string]string{"istio-injection": "enabled"})
		labels := map[string]string{"app": "edge"}
		edge, d := istiotest.Service("edge", "edge", labels), istiotest.Deployment("edge", "edge", labels, "edge")
		d.Spec.Template.Annotations = map[string]string{istio.AnnotationTemplates: "gateway"}
		listed := func(what string, want func(*v1alpha1.IngressGateway) error) {
			t.Helper()
			w.eventually(meshName, &v1alpha1.Mesh{}, func(o client.Object) error {
				list := o.(*v1alpha1.Mesh).Spec.Istio.Gateways
				if len(list) == 0 || list[0].Class != v1alpha1.GatewayEastWest {
					return fmt.Errorf("gateways = %+v", list)
				}
				var other *v1alpha1.IngressGateway
				if len(list) > 1 {
					other = &list[1]
				}
				if err := want(other); err != nil {
					return fmt.Errorf("%s: %w: %+v", what, err, list)
				}
				return nil
			})
		}
		there := func(g *v1alpha1.IngressGateway) error {
			if g == nil || g.Name != "edge" || g.Namespace != "edge" || g.Class != v1alpha1.GatewayOther {
				return errors.New("it is not listed")
			}
			return nil
		}
		w.create(edge, d)
		listed("a template of gateways", there)
		p := istiotest.Injected(istiotest.Pod(d, "aaa", "1"), "default", true)
		w.create(p)
		w.edit(edge, func() { edge.Labels = map[string]string{"zone": "b"} })
		listed("its labels", func(g *v1alpha1.IngressGateway) error {
			if g == nil || g.Labels["zone"] != "b" {
				return errors.New("they are not there")
			}
			return nil
		})
		w.destination("edge.edge", identities("spiffe://cluster.local/ns/edge/sa/edge"))

		w.settle()
		before := reconciles(t, "discovery-mesh")
		w.edit(service, func() { service.Labels = map[string]string{"round": "1"} })
		w.edit(deployment, func() { deployment.Spec.Template.Annotations = map[string]string{"round": "1"} })
		w.settle()
		if after := reconciles(t, "discovery-mesh"); after != before {
			t.Errorf("a change of another Service had Meshes looked at %v times", after-before)
		}

		w.delete(p, d)
		w.settle()
		listed("nothing behind it for a moment", there)
		lie := &v1alpha1.Mesh{}
		w.there(meshName, lie)
		lie.Spec.Istio.Gateways[1].Selector = map[string]string{"app": "evil"}
		if err := w.hub.Client.Update(w.ctx, lie); err != nil {
			t.Fatal(err)
		}
		listed("what somebody writes of it", func(g *v1alpha1.IngressGateway) error {
			if err := there(g); err != nil || g.Selector["app"] != "edge" {
				return errors.Join(err, errors.New("its selector is another"))
			}
			return nil
		})
		w.unchanged("a restart then", func() {
			stop()
			stop = w.agent()
		})
		listed("after it", there)
		d = istiotest.Deployment("edge", "edge", labels, "edge")
		w.create(d)
		listed("an application in its place", func(g *v1alpha1.IngressGateway) error {
			if g != nil {
				return errors.New("it is still listed")
			}
			return nil
		})
		w.edit(d, func() { d.Spec.Template.Annotations = map[string]string{istio.AnnotationTemplates: "gateway"} })
		listed("a gateway again", there)
		w.delete(edge)
		listed("it is gone", func(g *v1alpha1.IngressGateway) error {
			if g != nil {
				return errors.New("it is still listed")
			}
			return nil
		})
		w.delete(d)
	})

	w.story("gateways of limited trust are listed with their identities", func(t *testing.T) {
		w.member.Namespace(t, v1alpha1.GatewaysNamespace, nil)
		labels := map[string]string{v1alpha1.LabelGateway: v1alpha1.GatewayRoleEgress}
		s, d := istiotest.Service(v1alpha1.GatewaysNamespace, "isthmus-egress", labels), istiotest.Deployment(v1alpha1.GatewaysNamespace, "isthmus-egress", labels, "first")
		d.Spec.Template.Annotations = map[string]string{istio.AnnotationTemplates: "gateway"}
		d.Spec.Template.Labels["sidecar.istio.io/inject"] = "true"
		listed := func(what string, accounts ...string) {
			t.Helper()
			var want []string
			for _, a := range accounts {
				want = append(want, istio.Identity("cluster.local", v1alpha1.GatewaysNamespace, a))
			}
			w.eventually(meshName, &v1alpha1.Mesh{}, func(o client.Object) error {
				list := o.(*v1alpha1.Mesh).Spec.Istio.Gateways
				g := list[len(list)-1]
				if g.Name != s.Name || g.Class != v1alpha1.GatewayLimitedEgress || !slices.Equal(g.Identities, want) {
					return fmt.Errorf("%s: %+v", what, g)
				}
				return nil
			})
		}
		w.create(s, d)
		listed("a template", "first")
		first := istiotest.Injected(istiotest.Pod(d, "aaa", "1"), "default", true)
		w.create(first)
		w.edit(d, func() { d.Spec.Template.Spec.ServiceAccountName = "second" })
		second := istiotest.Injected(istiotest.Pod(d, "bbb", "1"), "default", true)
		w.create(second)
		listed("a rollout to another ServiceAccount", "first", "second")
		w.delete(first)
		listed("its end, and that of the grace", "second")
		w.delete(second, d)
		w.settle()
		listed("nothing behind it for a moment", "second")
		w.delete(s)
		w.eventually(meshName, &v1alpha1.Mesh{}, func(o client.Object) error {
			if list := o.(*v1alpha1.Mesh).Spec.Istio.Gateways; len(list) != 1 {
				return fmt.Errorf("gateways = %+v", list)
			}
			return nil
		})
	})

	w.story("a rollout writes nothing", func(t *testing.T) {
		w.unchanged("a rollout", func() {
			w.edit(deployment, func() {
				deployment.Spec.Template.Spec.Containers[0].Image = "example.org/app:2"
				deployment.Spec.Template.Annotations = map[string]string{"kubectl.kubernetes.io/restartedAt": "now"}
			})
			next := istiotest.Injected(istiotest.Pod(deployment, "bbb", "1"), "default", true)
			w.create(next)
			for _, phase := range []corev1.PodPhase{corev1.PodPending, corev1.PodRunning} {
				next.Status.Phase = phase
				if err := w.member.Client.Status().Update(w.ctx, next); err != nil {
					t.Fatal(err)
				}
			}
			w.settle()
			w.delete(pod)
			pod = next
		})
		w.unchanged("the moment without pods", func() { w.delete(pod) })
	})

	w.story("a new service account is published before its first pod", func(t *testing.T) {
		old := istiotest.Injected(istiotest.Pod(deployment, "bbb", "2"), "default", true)
		w.create(old)
		w.edit(deployment, func() { deployment.Spec.Template.Spec.ServiceAccountName = "reviews-next" })
		w.destination("reviews.shop", identities(shop+"reviews", shop+"reviews-next"))
		w.create(istiotest.Injected(istiotest.Pod(deployment, "ccc", "1"), "default", true))
		w.settle()
		gone := time.Now()
		w.delete(old)
		w.destination("reviews.shop", identities(shop+"reviews-next"))
		if after := time.Since(gone); after < grace {
			t.Errorf("the old one was removed after %v, before %v had passed", after, grace)
		}
	})

	w.story("a change of the template alone publishes its identity", func(t *testing.T) {
		template := func(sa string) {
			w.edit(deployment, func() { deployment.Spec.Template.Spec.ServiceAccountName = sa })
		}
		template("reviews-other")
		w.destination("reviews.shop", identities(shop+"reviews-next", shop+"reviews-other"))
		template("reviews-next")
		w.destination("reviews.shop", identities(shop+"reviews-next"))
	})

	w.story("a restart of the agent writes nothing", func(t *testing.T) {
		w.unchanged("a restart", func() {
			stop()
			stop = w.agent()
		})
		w.there("reviews.shop", &v1alpha1.Destination{})
	})

	w.story("what somebody changes in the hub is put right, whatever labels he takes away", func(t *testing.T) {
		d := &v1alpha1.Destination{}
		w.there("reviews.shop", d)
		if err := w.hub.Client.Delete(w.ctx, d); err != nil {
			t.Fatal(err)
		}
		w.destination("reviews.shop", identities(shop+"reviews-next"))
		w.there("reviews.shop", d)
		delete(d.Labels, v1alpha1.LabelManagedBy)
		d.Spec.Identities = append(d.Spec.Identities, "spiffe://cluster.local/ns/evil/sa/evil")
		if err := w.hub.Client.Update(w.ctx, d); err != nil {
			t.Fatal(err)
		}
		w.destination("reviews.shop", identities(shop+"reviews-next"))
		stray := d.DeepCopy()
		stray.ObjectMeta = metav1.ObjectMeta{Namespace: hubNamespace, Name: "reviews-shop-east"}
		if err := w.hub.Client.Create(w.ctx, stray); err != nil {
			t.Fatal(err)
		}
		w.gone(stray.Name, stray)
		w.there("reviews.shop", d)
	})

	w.story("another revision keeps the mesh and everything in it", func(t *testing.T) {
		mesh, destination := &v1alpha1.Mesh{}, &v1alpha1.Destination{}
		w.there(meshName, mesh)
		w.there("reviews.shop", destination)
		for _, o := range istiotest.Manifest("revisions") {
			if _, ok := o.(*corev1.Namespace); !ok && strings.HasSuffix(o.GetName(), "1-31") {
				w.create(o)
			}
		}
		revisions := func(want ...string) {
			t.Helper()
			w.eventually(meshName, &v1alpha1.Mesh{}, func(o client.Object) error {
				var have []string
				for _, r := range o.(*v1alpha1.Mesh).Spec.Istio.Revisions {
					have = append(have, r.Name)
				}
				if o.GetUID() != mesh.UID || !slices.Equal(have, want) {
					return fmt.Errorf("uid %s, revisions %v", o.GetUID(), have)
				}
				return nil
			})
		}
		revisions("1-31", "default")
		istiod := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istiod"}}
		w.delete(istiod)
		revisions("1-31")
		w.settle()
		w.destination("reviews.shop", func(d *v1alpha1.Destination) error {
			if d.UID != destination.UID || d.ResourceVersion != destination.ResourceVersion {
				return errors.New("was written")
			}
			return nil
		})
	})

	w.story("half an installation concludes nothing", func(t *testing.T) {
		w.unchanged("istiod's disappearance", func() {
			w.delete(&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istiod-1-31"}})
		})
		w.there(meshName, &v1alpha1.Mesh{})
		w.there("reviews.shop", &v1alpha1.Destination{})
		w.unchanged("a restart then", func() {
			stop()
			stop = w.agent()
		})
		for _, o := range istiotest.Manifest("sidecar") {
			if d, ok := o.(*appsv1.Deployment); ok && d.Name == "istiod" {
				w.create(d)
			}
		}
		w.eventually(meshName, &v1alpha1.Mesh{}, func(o client.Object) error {
			if r := o.(*v1alpha1.Mesh).Spec.Istio.Revisions; len(r) != 1 || r[0].Name != "default" {
				return fmt.Errorf("revisions = %+v", r)
			}
			return nil
		})
	})

	w.story("namespaces are excluded by accepted settings only", func(t *testing.T) {
		w.member.Namespace(t, "quiet", map[string]string{"istio-injection": "enabled"})
		w.app("quiet", "hidden")
		w.destination("hidden.quiet", identities("spiffe://cluster.local/ns/quiet/sa/hidden"))
		settings := &v1alpha1.Settings{
			ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: v1alpha1.SettingsName},
			Spec:       v1alpha1.SettingsSpec{Discovery: &v1alpha1.DiscoverySettings{ExcludedNamespaces: []string{"quiet"}}},
		}
		w.unchanged("a setting that nobody accepted", func() {
			if err := w.hub.Client.Create(w.ctx, settings); err != nil {
				t.Fatal(err)
			}
		})
		settings.Status.Accepted = &v1alpha1.AcceptedSettings{Generation: settings.Generation, Spec: settings.Spec}
		if err := w.hub.Client.Status().Update(w.ctx, settings); err != nil {
			t.Fatal(err)
		}
		w.gone("hidden.quiet", &v1alpha1.Destination{})
		w.gone("deployment.hidden.quiet", &v1alpha1.Workload{})
		w.there("reviews.shop", &v1alpha1.Destination{})
	})

	w.story("what goes away while the agent is away is deleted later", func(t *testing.T) {
		ratings, ratingsDeployment, _ := w.app("shop", "ratings")
		w.destination("ratings.shop", identities(shop+"ratings"))
		w.eventually("deployment.ratings.shop", &v1alpha1.Workload{}, nil)
		w.settle()
		stop()
		w.delete(ratings, ratingsDeployment)
		stop = w.agent()
		w.gone("ratings.shop", &v1alpha1.Destination{})
		w.gone("deployment.ratings.shop", &v1alpha1.Workload{})
		w.delete(service)
		w.gone("reviews.shop", &v1alpha1.Destination{})
	})

	w.story("when nothing of Istio is left the mesh goes, with what was in it", func(t *testing.T) {
		// The Mesh is still in the agent's cache when the others are told first.
		stop()
		w.lag = 600 * time.Millisecond
		stop = w.agent()
		w.app("shop", "last")
		w.destination("last.shop", identities(shop+"last"))
		for _, o := range append(istiotest.Manifest("sidecar"), istiotest.Manifest("revisions")...) {
			if _, ok := o.(*corev1.Namespace); !ok {
				if err := client.IgnoreNotFound(w.member.Client.Delete(w.ctx, o)); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.gone(meshName, &v1alpha1.Mesh{})
		w.gone("last.shop", &v1alpha1.Destination{})
	})
}

// TestHubAway runs discovery over a link whose hub is taken away.
func TestHubAway(t *testing.T) {
	w := newWorld(t)
	proxy := testenv.NewProxy(t, w.hub, true)
	w.member.Namespace(t, v1alpha1.AgentNamespace, nil)
	w.create(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.AgentNamespace, Name: "hub"},
		Data:       map[string][]byte{hublink.KubeconfigKey: w.hub.Kubeconfig(t, w.hub.Config, proxy.Server)},
	})
	// What lies in other namespaces, and is in the cache of the link, is none of discovery's business.
	w.hub.Namespace(t, "isthmus-west", nil)
	foreign := metav1.ObjectMeta{Namespace: "isthmus-west", Name: "istiod-istio-system-west", Labels: map[string]string{
		v1alpha1.LabelManagedBy: "isthmus-agent-discovery", v1alpha1.LabelFederated: "true",
	}}
	theirs := []client.Object{
		&v1alpha1.Mesh{ObjectMeta: foreign, Spec: v1alpha1.MeshSpec{Cluster: "west", Istio: v1alpha1.IstioMesh{
			RootNamespace: "istio-system", TrustDomain: "cluster.local", ClusterDomain: "cluster.local", IstiodServiceAccount: "istiod",
			CertificateAuthority: v1alpha1.CertificateAuthorityIstiod, Topology: v1alpha1.TopologyLocal,
		}}},
		&v1alpha1.Destination{ObjectMeta: foreign, Spec: v1alpha1.DestinationSpec{
			Cluster: "west", Mesh: foreign.Name, KubeService: v1alpha1.KubeService{Name: "reviews", Namespace: "shop"},
		}},
	}
	for _, o := range theirs {
		if err := w.hub.Client.Create(w.ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	mgr := w.manager()
	link, err := hublink.New(mgr, hublink.Options{
		Cluster: "east", Identity: "test",
		Source: hublink.SecretSource{Manager: mgr, Key: types.NamespacedName{Namespace: v1alpha1.AgentNamespace, Name: "hub"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	discovery.Setup(link, "east")
	stop := w.run(mgr)
	reviews, _, _ := w.app("shop", "reviews")
	_, ratings, _ := w.app("shop", "ratings")
	proxy.Restore()
	w.destination("reviews.shop", identities(shop+"reviews"))
	w.destination("ratings.shop", identities(shop+"ratings"))
	w.eventually("deployment.ratings.shop", &v1alpha1.Workload{}, nil)
	w.eventually(meshName, &v1alpha1.Mesh{}, nil)
	w.settle()

	proxy.Cut()
	before := w.versions()
	w.delete(reviews)
	w.app("shop", "details")
	w.edit(ratings, func() { ratings.Spec.Template.Spec.Containers[0].Image = "example.org/app:2" })
	proxy.Restore()
	w.gone("reviews.shop", &v1alpha1.Destination{})
	w.destination("details.shop", identities(shop+"details"))
	w.eventually("deployment.details.shop", &v1alpha1.Workload{}, nil)
	w.settle()
	after := w.versions()
	for _, name := range []string{"Destination reviews.shop", "Destination details.shop", "Workload deployment.details.shop"} {
		delete(before, name)
		delete(after, name)
	}
	if !maps.Equal(before, after) {
		t.Errorf("more than the differences was written: before %v, after %v", before, after)
	}
	for _, o := range theirs {
		version := o.GetResourceVersion()
		if err := w.hub.Client.Get(w.ctx, client.ObjectKeyFromObject(o), o); err != nil || o.GetResourceVersion() != version {
			t.Errorf("%T of another cluster: version %s was %s: %v", o, o.GetResourceVersion(), version, err)
		}
	}
	stop()
}

// versions are the resource versions of what discovery has in the hub.
func (w *world) versions() map[string]string {
	w.Helper()
	out := map[string]string{}
	for _, list := range []client.ObjectList{&v1alpha1.MeshList{}, &v1alpha1.WorkloadList{}, &v1alpha1.DestinationList{}} {
		if err := w.hub.Client.List(w.ctx, list); err != nil {
			w.Fatal(err)
		}
		switch l := list.(type) {
		case *v1alpha1.MeshList:
			for _, o := range l.Items {
				out["Mesh "+o.Name] = o.ResourceVersion
			}
		case *v1alpha1.WorkloadList:
			for _, o := range l.Items {
				out["Workload "+o.Name] = o.ResourceVersion
			}
		case *v1alpha1.DestinationList:
			for _, o := range l.Items {
				out["Destination "+o.Name] = o.ResourceVersion
			}
		}
	}
	return out
}
