package network_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent"
	"github.com/isthmus-mesh/isthmus/internal/agent/network"
	"github.com/isthmus-mesh/isthmus/internal/hub"
	"github.com/isthmus-mesh/isthmus/internal/hub/hubtest"
	"github.com/isthmus-mesh/isthmus/internal/istio/istiotest"
	"github.com/isthmus-mesh/isthmus/internal/kube/hublink"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

func TestMain(m *testing.M) {
	level := slog.LevelError
	if os.Getenv("VERBOSE") != "" {
		level = slog.LevelInfo
	}
	ctrllog.SetLogger(logr.FromSlogHandler(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
	os.Exit(m.Run())
}

// world is a real hub, with the rights that its chart gives it, and member clusters with what an installer of Istio makes,
// Istio's own kinds, and a gateway.
type world struct {
	*testing.T // of the present story
	whole      *testing.T
	ctx        context.Context
	hub        *testenv.Cluster
	members    map[string]*member
}

type member struct {
	*testenv.Cluster
	w     *world
	name  string
	proxy *testenv.Proxy // to the hub
	stop  func()         // the agent
}

// istioKinds are Istio's CustomResourceDefinitions, of the version that go.mod names.
func istioKinds(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "istio.io/api").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "kubernetes")
}

func newWorld(t *testing.T, clusters ...string) *world {
	t.Helper()
	w := &world{T: t, whole: t, ctx: context.Background(), hub: testenv.Start(t), members: map[string]*member{}}
	hubtest.Install(t, w.hub)
	hubtest.Start(t, w.hub, hub.Options{})
	for i, name := range clusters {
		w.join(name, fmt.Sprintf("203.0.113.%d", i+1))
	}
	return w
}

// story runs a part of a test that goes on from where the last one ended.
func (w *world) story(name string, f func(*testing.T)) {
	if w.whole.Failed() {
		return
	}
	w.whole.Run(name, func(t *testing.T) {
		w.T = t
		defer func() { w.T = w.whole }()
		f(t)
	})
}

var crdKind = schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}

// join registers a cluster and starts its agent.
func (w *world) join(name, gateway string) *member {
	w.Helper()
	m := &member{Cluster: testenv.Start(w.whole, istioKinds(w.T)), w: w, name: name}
	w.members[name] = m
	var err error
	m.Client, err = client.New(m.Config, client.Options{Scheme: scheme()})
	w.must(err)
	w.must(w.hub.Client.Create(w.ctx, &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name}}))
	testenv.Eventually(w.T, "registration of "+name, func() error {
		kc := &v1alpha1.KubernetesCluster{}
		if err := w.hub.Client.Get(w.ctx, client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: name}, kc); err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(kc.Status.Conditions, v1alpha1.ConditionReady) {
			return fmt.Errorf("conditions: %+v", kc.Status.Conditions)
		}
		return nil
	})
	m.Namespace(w.T, v1alpha1.AgentNamespace, nil)
	m.create(istiotest.Manifest("sidecar")...)
	m.create(istiotest.Namespace("shop", map[string]string{"istio-injection": "enabled"}))
	m.gateway("istio-eastwestgateway", map[string]string{"istio": "eastwestgateway"}, gateway)

	token := &authenticationv1.TokenRequest{}
	w.must(w.hub.Client.SubResource("token").Create(w.ctx, &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-" + name, Name: v1alpha1.AgentName},
	}, token))
	m.proxy = testenv.NewProxy(w.whole, w.hub, true)
	m.proxy.Restore()
	m.create(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.AgentNamespace, Name: "hub"},
		Data:       map[string][]byte{hublink.KubeconfigKey: w.hub.Kubeconfig(w.T, &rest.Config{BearerToken: token.Status.Token}, m.proxy.Server)},
	})
	m.start()
	w.eventually("mesh of "+name, func() error { return w.hub.Client.Get(w.ctx, m.meshKey(), &v1alpha1.Mesh{}) })
	return m
}

// start starts the agent; it ends with m.stop or with the test.
func (m *member) start() {
	m.w.Helper()
	mgr, _, err := agent.NewManager(m.Config, agent.Options{Cluster: m.name, Identity: m.w.Name(), HubKubeconfigSecret: "hub"})
	m.w.must(err)
	ctx, cancel := context.WithCancel(m.w.ctx)
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	stopped := false
	m.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			m.w.Errorf("the agent of %s ended with %v", m.name, err)
		}
	}
	m.w.whole.Cleanup(m.stop)
}

// startAndBeat starts the agent and waits for its heartbeat: that it starts is not in the time that is given to what it does then.
func (m *member) startAndBeat() {
	m.w.Helper()
	since := time.Now()
	m.start()
	m.w.eventually("the agent of "+m.name, func() error {
		lease := &coordinationv1.Lease{}
		if err := m.w.hub.Client.Get(m.w.ctx, client.ObjectKey{Namespace: "isthmus-" + m.name, Name: v1alpha1.AgentName}, lease); err != nil {
			return err
		}
		if at := lease.Spec.RenewTime; at == nil || !at.After(since) {
			return fmt.Errorf("its last heartbeat was at %v", at)
		}
		return nil
	})
}

func (m *member) meshKey() client.ObjectKey {
	return client.ObjectKey{Namespace: "isthmus-" + m.name, Name: "istiod-istio-system-" + m.name}
}

func (m *member) create(objs ...client.Object) {
	m.w.Helper()
	for _, o := range objs {
		if p, ok := o.(*corev1.Pod); ok {
			sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Spec.ServiceAccountName}}
			m.w.must(client.IgnoreAlreadyExists(m.Client.Create(m.w.ctx, sa)))
		}
		if err := client.IgnoreAlreadyExists(m.Client.Create(m.w.ctx, o)); err != nil {
			m.w.Fatalf("creating %T %s: %v", o, o.GetName(), err)
		}
	}
}

func (m *member) delete(objs ...client.Object) {
	m.w.Helper()
	for _, o := range objs {
		m.w.must(m.Client.Delete(m.w.ctx, o, client.GracePeriodSeconds(0)))
	}
}

// app is a Service with a Deployment; its pods are to come.
func (m *member) app(namespace, name string) *corev1.Service {
	m.w.Helper()
	labels := map[string]string{"app": name}
	s := istiotest.Service(namespace, name, labels)
	m.create(s, istiotest.Deployment(namespace, name, labels, name))
	return s
}

// gateway is a gateway with a load balancer's address.
func (m *member) gateway(name string, labels map[string]string, address string) {
	m.w.Helper()
	s := istiotest.Service("istio-system", name, labels)
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
	s.Spec.Ports = []corev1.ServicePort{{Name: "tls", Port: 15443, TargetPort: intstr.FromInt32(15443)}}
	d := istiotest.Deployment("istio-system", name, labels, name)
	d.Spec.Template.Labels["sidecar.istio.io/inject"] = "true"
	d.Spec.Template.Annotations = map[string]string{"inject.istio.io/templates": "gateway"}
	m.create(s, d)
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: address}}
	m.w.must(m.Client.Status().Update(m.w.ctx, s))
}

// edit changes an object of a cluster.
func edit[T client.Object](w *world, c *testenv.Cluster, o T, f func(T)) {
	w.Helper()
	for {
		w.must(c.Client.Get(w.ctx, client.ObjectKeyFromObject(o), o))
		f(o)
		err := c.Client.Update(w.ctx, o)
		if !apierrors.IsConflict(err) {
			w.must(err)
			return
		}
	}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) eventually(what string, f func() error) {
	w.Helper()
	testenv.Eventually(w.T, what, f)
}

// virtualMesh joins the members. Trust is managed elsewhere: no istiod runs here.
func (w *world) virtualMesh(f *v1alpha1.Federation, members ...string) *v1alpha1.VirtualMesh {
	w.Helper()
	vm := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "vm"}}
	vm.Spec.Federation = f
	for _, name := range members {
		vm.Spec.Meshes = append(vm.Spec.Meshes, v1alpha1.ObjectRef{Name: w.members[name].meshKey().Name})
	}
	w.must(w.hub.Client.Create(w.ctx, vm))
	return vm
}

// everything is the selector that federates everything to everyone.
func everything() *v1alpha1.Federation {
	return &v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{{}}}
}

// ready waits until every member has applied what is accepted of the VirtualMesh.
func (w *world) ready(vm *v1alpha1.VirtualMesh) {
	w.Helper()
	w.eventually("the virtual mesh to be applied", func() error {
		w.must(w.hub.Client.Get(w.ctx, client.ObjectKeyFromObject(vm), vm))
		if a := vm.Status.Accepted; a == nil || a.Generation != vm.Generation {
			return fmt.Errorf("status is %+v", vm.Status)
		}
		for _, ref := range vm.Status.Accepted.Spec.Meshes {
			m := &v1alpha1.Mesh{}
			w.must(w.hub.Client.Get(w.ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, m))
			if !slices.Contains(m.Status.AppliedVirtualMeshes, v1alpha1.AppliedVirtualMesh{Name: "vm.isthmus-system", Generation: vm.Generation}) {
				return fmt.Errorf("mesh %s: status is %+v", m.Name, m.Status)
			}
		}
		return nil
	})
}

// entry returns the ServiceEntry of a federated hostname in a cluster.
func (m *member) entry(host string) (*networkingv1.ServiceEntry, error) {
	e := &networkingv1.ServiceEntry{}
	return e, m.Client.Get(m.w.ctx, client.ObjectKey{Namespace: "istio-system", Name: host}, e)
}

func (m *member) hasEntry(host string) {
	m.w.Helper()
	m.w.eventually(host+" in "+m.name, func() error { _, err := m.entry(host); return err })
}

func (m *member) lacksEntry(host string) {
	m.w.Helper()
	m.w.eventually("no "+host+" in "+m.name, func() error {
		_, err := m.entry(host)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there: %w", errors.Join(err))
	})
}

// hosts that the gateway admits.
func (m *member) hosts() []string {
	g := &networkingv1.Gateway{}
	if m.Client.Get(m.w.ctx, client.ObjectKey{Namespace: "istio-system", Name: "isthmus-istio-eastwestgateway"}, g) != nil {
		return nil
	}
	return g.Spec.Servers[0].Hosts
}

// versions of all that the agents wrote in a cluster.
func (m *member) versions(lists ...client.ObjectList) map[string]string {
	m.w.Helper()
	out := map[string]string{}
	for _, list := range lists {
		m.w.must(m.Client.List(m.w.ctx, list))
		items, err := meta.ExtractList(list)
		m.w.must(err)
		for _, item := range items {
			o := item.(client.Object)
			out[fmt.Sprintf("%T %s/%s", o, o.GetNamespace(), o.GetName())] = o.GetResourceVersion()
		}
	}
	return out
}

func scheme() *runtime.Scheme {
	s := testenv.Scheme()
	if err := network.AddToScheme(s); err != nil {
		panic(err)
	}
	return s
}
