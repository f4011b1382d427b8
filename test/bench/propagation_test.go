package bench

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	networkingapi "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent/network"
	"github.com/isthmus-mesh/isthmus/internal/istio/istiotest"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// samples of the time that a change takes.
const samples = 200

// BenchmarkPropagation measures, where a number of destinations are federated already, how long it takes from the creation of
// a Service in one cluster to its ServiceEntry in another, and how often API servers are written to for a new Service, for a
// changed one, when agents have lost the hub for a moment, and when they are restarted.
func BenchmarkPropagation(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("destinations=%d", n), func(b *testing.B) {
			f := newPair(b, n)
			var took []time.Duration
			added := f.counted(func() {
				for i := range samples {
					took = append(took, f.create(fmt.Sprintf("new-%d", i), f.west.app))
				}
			})
			slices.Sort(took)
			b.ReportMetric(float64(took[samples/2].Microseconds())/1e3, "p50-ms")
			b.ReportMetric(float64(took[samples*99/100].Microseconds())/1e3, "p99-ms")
			b.ReportMetric(float64(total(added)-2*samples)/samples, "writes/new") // without Service and Deployment
			changed := f.counted(func() {
				for i := range samples {
					f.change(fmt.Sprintf("new-%d", i), 9443)
				}
			})
			b.ReportMetric(float64(total(changed)-samples)/samples, "writes/change")
			b.ReportMetric(float64(total(f.counted(f.reconnect))), "writes/reconnect")
			b.ReportMetric(float64(total(f.counted(f.restart))), "writes/restart")
			for name, p := range map[string]*program{"home-agent": f.west.program, "client-agent": f.east.program} {
				now, _ := p.memory()
				b.ReportMetric(float64(now)/mib, name+"-rss-MiB")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// TestWrites counts what API servers are asked to write for one Service, and that nothing is written when agents come back.
func TestWrites(t *testing.T) {
	f := newPair(t, 200)
	for _, tc := range []struct {
		name string
		do   func()
		want map[string]int
	}{
		{"a new Service", func() { f.deploy("reviews"); f.create("reviews", f.west.service) }, map[string]int{
			"west POST services": 1, "west POST deployments": 1, // by this test
			"hub POST workloads": 1, "hub POST destinations": 1,
			"hub APPLY destinations/status": 1, "hub PATCH destinations": 1, // what it is federated as, and then the label
			"hub APPLY virtualmeshes/status": 1, // how many there are
			"east POST destinationrules":     1, "east POST serviceentries": 1,
		}},
		{"its first change", func() { f.change("reviews", 9443) }, map[string]int{
			"west PUT services":      1,
			"hub PATCH destinations": 1, "hub APPLY destinations/status": 1, // the generation that was observed
			"east PATCH destinationrules": 1, "east PATCH serviceentries": 1, // once: what was created is to be applied from now on
			"east APPLY destinationrules": 1, "east APPLY serviceentries": 1,
		}},
		{"another change", func() { f.change("reviews", 9444) }, map[string]int{
			"west PUT services":      1,
			"hub PATCH destinations": 1, "hub APPLY destinations/status": 1,
			"east APPLY destinationrules": 1, "east APPLY serviceentries": 1,
		}},
		{"a Service whose name is taken", func() { f.deploy("ratings"); f.createTaken("ratings") }, map[string]int{
			"west POST services": 1, "west POST deployments": 1, "east POST serviceentries": 1, // by this test
			"hub POST workloads": 1, "hub POST destinations": 1, "hub APPLY destinations/status": 1, "hub PATCH destinations": 1,
			"east POST destinationrules":     1,
			"hub APPLY meshes/status":        1, // that it is taken
			"hub APPLY virtualmeshes/status": 1,
		}},
		{"the hub away for a moment", f.reconnect, map[string]int{}},
		{"new agents", f.restart, map[string]int{}},
	} {
		got := f.counted(tc.do)
		const summary = "hub APPLY virtualmeshes/status"
		if tc.want["hub APPLY meshes/status"] > 0 && got[summary] == 2 {
			got[summary] = 1 // meshes are summed up at once and destinations seconds later: in one write only if all of it is quick
		}
		if !maps.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

// pair is two members of a virtual mesh. What lies in west is federated to east.
type pair struct {
	*world
	east, west *member
	arrived    chan *networkingv1.ServiceEntry // in east, made or changed
}

// newPair makes a pair with n Services in west that have arrived in east.
func newPair(t testing.TB, n int) *pair {
	t.Helper()
	w := newWorld(t)
	f := &pair{world: w, west: w.join("west", "203.0.113.1"), east: w.join("east", "203.0.113.2"), arrived: make(chan *networkingv1.ServiceEntry, 1000)}
	w.inParallel(n, func(i int) error { return f.west.app(fmt.Sprintf("app-%d", i)) })
	w.virtualMesh(f.west.meshKey().Name, f.east.meshKey().Name)
	w.imported(f.east, n)
	w.settled(f.west)
	f.watch()
	f.quiet()
	return f
}

// app is a Service with a Deployment; its pods are to come.
func (m *member) app(name string) error {
	return errors.Join(m.deployment(name), m.service(name))
}

func (m *member) deployment(name string) error {
	return m.Client.Create(m.w.ctx, istiotest.Deployment("shop", name, map[string]string{"app": name}, name))
}

func (m *member) service(name string) error {
	return m.Client.Create(m.w.ctx, istiotest.Service("shop", name, map[string]string{"app": name}))
}

// deploy makes a Deployment in west and waits until its agent has seen it: a Service that comes before what is behind it is
// written twice.
func (f *pair) deploy(name string) {
	f.Helper()
	f.must(f.west.deployment(name))
	key := client.ObjectKey{Namespace: f.west.meshKey().Namespace, Name: "deployment." + name + ".shop"}
	f.eventually(key.Name, func() error { return f.hub.Client.Get(f.ctx, key, &v1alpha1.Workload{}) })
}

// watch follows the ServiceEntries of east.
func (f *pair) watch() {
	f.Helper()
	scheme := testenv.Scheme()
	f.must(network.AddToScheme(scheme))
	c, err := client.NewWithWatch(f.east.Config, client.Options{Scheme: scheme})
	f.must(err)
	var list networkingv1.ServiceEntryList
	f.must(c.List(f.ctx, &list, client.Limit(1)))
	ctx, cancel := context.WithCancel(f.ctx)
	events, err := c.Watch(ctx, &networkingv1.ServiceEntryList{}, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.ResourceVersion}})
	f.must(err)
	f.Cleanup(cancel)
	go func() {
		for e := range events.ResultChan() {
			if entry, ok := e.Object.(*networkingv1.ServiceEntry); ok {
				f.arrived <- entry
			}
		}
	}()
}

// create makes an app in west, or its Service, and returns how long it took until the ServiceEntry was there.
func (f *pair) create(name string, in func(name string) error) time.Duration {
	f.Helper()
	start := time.Now()
	f.must(in(name))
	return f.await(name, 9080).Sub(start)
}

// createTaken makes an app in west, for which east has a ServiceEntry of somebody else already.
func (f *pair) createTaken(name string) {
	f.Helper()
	entry := &networkingv1.ServiceEntry{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: name + ".shop.svc.west.global"}}
	entry.Spec.Hosts = []string{"somebody.example"}
	entry.Spec.Ports = []*networkingapi.ServicePort{{Name: "http", Number: 80, Protocol: "HTTP"}}
	f.must(f.east.Client.Create(f.ctx, entry))
	f.must(f.west.service(name))
	f.eventually("east to say that the name is taken", func() error {
		mesh := &v1alpha1.Mesh{}
		if err := f.hub.Client.Get(f.ctx, f.east.meshKey(), mesh); err != nil || len(mesh.Status.Errors) == 1 {
			return err
		}
		return fmt.Errorf("errors: %v", mesh.Status.Errors)
	})
}

// change changes the port of an app's Service.
func (f *pair) change(name string, port int32) {
	f.Helper()
	s := &corev1.Service{}
	f.must(f.west.Client.Get(f.ctx, client.ObjectKey{Namespace: "shop", Name: name}, s))
	s.Spec.Ports[0].Port = port
	f.must(f.west.Client.Update(f.ctx, s))
	f.await(name, uint32(port))
}

// await waits for the ServiceEntry of an app with a port.
func (f *pair) await(name string, port uint32) time.Time {
	f.Helper()
	timeout := time.After(time.Minute)
	for {
		select {
		case e := <-f.arrived:
			if e.Name == name+".shop.svc.west.global" && e.Spec.Ports[0].Number == port {
				return time.Now()
			}
		case <-timeout:
			f.Fatalf("%s does not arrive", name)
		}
	}
}

// reconnect takes the hub from the agents for a moment.
func (f *pair) reconnect() {
	f.Helper()
	for _, m := range []*member{f.east, f.west} {
		m.proxy.Cut()
	}
	for _, m := range []*member{f.east, f.west} {
		f.eventually(m.name+" to notice", func() error { return m.program.logged("lost the hub") })
	}
	for _, m := range []*member{f.east, f.west} {
		m.proxy.Restore()
	}
	f.beats()
}

// restart replaces the agents.
func (f *pair) restart() {
	f.Helper()
	for _, m := range []*member{f.east, f.west} {
		m.program.stop()
		m.start()
	}
	for _, m := range []*member{f.east, f.west} {
		f.eventually(m.name+" to be at work", func() error { return m.program.logged("at work") })
	}
	f.beats()
}

// beats waits until each agent has renewed its Lease from now on, and says that its exports are complete.
func (f *pair) beats() {
	f.Helper()
	start := time.Now()
	for _, m := range []*member{f.east, f.west} {
		f.eventually("heartbeat of "+m.name, func() error { return f.beaten(m, start) })
	}
}

func (f *pair) beaten(m *member, since time.Time) error {
	lease := &coordinationv1.Lease{}
	if err := f.hub.Client.Get(f.ctx, client.ObjectKey{Namespace: m.meshKey().Namespace, Name: v1alpha1.AgentName}, lease); err != nil {
		return err
	}
	if lease.Spec.RenewTime == nil || lease.Spec.RenewTime.Time.Before(since) || lease.Annotations[v1alpha1.AnnotationExports] == "" {
		return fmt.Errorf("the Lease is %+v", lease)
	}
	return nil
}

// quietTime is how long nothing must have been written for all to be done. What the hub sums up it gathers for 5 seconds.
const quietTime = 8 * time.Second

// quiet waits until nothing has been written for a while, and returns what was written until then.
func (f *pair) quiet() map[string]int {
	f.Helper()
	was := f.written()
	for since := time.Now(); time.Since(since) < quietTime; time.Sleep(time.Second) {
		if is := f.written(); !maps.Equal(is, was) {
			was, since = is, time.Now()
		}
	}
	return was
}

// written is what all API servers were asked to write, by "<cluster> <verb> <resource>".
func (f *pair) written() map[string]int {
	f.Helper()
	out := map[string]int{}
	for name, c := range map[string]*testenv.Cluster{"hub": f.hub, "east": f.east.Cluster, "west": f.west.Cluster} {
		for what, n := range f.writes(c) {
			out[name+" "+what] = n
		}
	}
	return out
}

// counted returns what was written because of what do does.
func (f *pair) counted(do func()) map[string]int {
	f.Helper()
	before := f.written()
	do()
	after := f.quiet()
	maps.DeleteFunc(after, func(what string, n int) bool { return n == before[what] })
	for what := range after {
		after[what] -= before[what]
	}
	return after
}

func total(counts map[string]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}
