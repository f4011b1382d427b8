package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	prommodel "github.com/prometheus/common/model"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent/network"
	"github.com/isthmus-mesh/isthmus/internal/hub/hubtest"
	"github.com/isthmus-mesh/isthmus/internal/istio/istiotest"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

func TestMain(m *testing.M) {
	ctrllog.SetLogger(logr.Discard())
	dir, err := os.MkdirTemp("", "isthmus-bench-")
	if err != nil {
		panic(err)
	}
	programs = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// programs is the directory of the built programs.
var programs string

// build builds hub and agent, once, as they are released.
var build = sync.OnceValue(func() error {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", programs+"/", "./cmd/isthmus-hub", "./cmd/isthmus-agent")
	cmd.Dir, cmd.Env = testenv.Root(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
})

// world is a hub and the clusters that are registered in it.
type world struct {
	testing.TB
	ctx     context.Context
	hub     *testenv.Cluster
	program *program
}

// newWorld starts a hub.
func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{TB: t, ctx: context.Background(), hub: testenv.Start(t)}
	w.must(build())
	hubtest.Install(t, w.hub)
	w.startHub()
	return w
}

func (w *world) startHub() {
	w.Helper()
	token := tokenFor(w, w.hub, v1alpha1.SystemNamespace, "isthmus-hub")
	w.program = w.start("isthmus-hub", w.hub.Kubeconfig(w, &rest.Config{BearerToken: token}, ""), "--leader-elect=false")
}

// tokenFor returns a token of a ServiceAccount, which it makes if it is not there.
func tokenFor(w *world, c *testenv.Cluster, namespace, name string) string {
	w.Helper()
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	w.must(client.IgnoreAlreadyExists(c.Client.Create(w.ctx, sa.DeepCopy())))
	token := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(24 * 3600))}}
	w.must(c.Client.SubResource("token").Create(w.ctx, sa, token))
	return token.Status.Token
}

// register registers a cluster.
func (w *world) register(name string) {
	w.Helper()
	kc := &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name}}
	w.must(w.hub.Client.Create(w.ctx, kc))
	w.eventually("registration of "+name, func() error {
		w.must(w.hub.Client.Get(w.ctx, client.ObjectKeyFromObject(kc), kc))
		if !meta.IsStatusConditionTrue(kc.Status.Conditions, v1alpha1.ConditionReady) {
			return fmt.Errorf("conditions: %+v", kc.Status.Conditions)
		}
		return nil
	})
}

// member is a registered cluster with Istio's kinds, what an installer of Istio makes, a gateway and an agent.
type member struct {
	*testenv.Cluster
	w       *world
	name    string
	proxy   *testenv.Proxy // to the hub
	hub     string         // file with the kubeconfig for the hub
	program *program       // the agent
}

// join registers a cluster and starts its agent.
func (w *world) join(name, gateway string) *member {
	w.Helper()
	m := &member{Cluster: testenv.Start(w, testenv.IstioCRDs(w)), w: w, name: name}
	scheme := testenv.Scheme()
	w.must(network.AddToScheme(scheme))
	m.Client = clientOf(w, m.Config, scheme)
	w.register(name)
	m.Namespace(w, v1alpha1.AgentNamespace, nil)
	m.Namespace(w, "shop", map[string]string{"istio-injection": "enabled"})
	for _, o := range istiotest.Manifest("sidecar") {
		w.must(client.IgnoreAlreadyExists(m.Client.Create(w.ctx, o)))
	}
	m.gateway(gateway)
	m.proxy = testenv.NewProxy(w, w.hub, true)
	m.proxy.Restore()
	m.credential()
	m.start()
	w.eventually("mesh of "+name, func() error { return w.hub.Client.Get(w.ctx, m.meshKey(), &v1alpha1.Mesh{}) })
	return m
}

func clientOf(w *world, cfg *rest.Config, scheme *runtime.Scheme) client.Client {
	w.Helper()
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	w.must(err)
	return c
}

// credential writes the kubeconfig for the hub.
func (m *member) credential() {
	m.w.Helper()
	token := tokenFor(m.w, m.w.hub, kube.ClusterNamespace(m.name), v1alpha1.AgentName)
	m.hub = filepath.Join(m.w.TempDir(), "hub.kubeconfig")
	m.w.must(os.WriteFile(m.hub, m.w.hub.Kubeconfig(m.w, &rest.Config{BearerToken: token}, m.proxy.Server), 0o600))
}

// start starts the agent. It tries no gateways: there are none.
func (m *member) start() {
	m.w.Helper()
	m.program = m.w.start("isthmus-agent", m.Kubeconfig(m.w, m.Config, ""),
		"--cluster="+m.name, "--hub-kubeconfig-file="+m.hub, "--gateway-probe-interval=0")
}

func (m *member) meshKey() client.ObjectKey {
	return client.ObjectKey{Namespace: kube.ClusterNamespace(m.name), Name: kube.MeshName("istio-system", m.name)}
}

// gateway is a gateway with a load balancer's address.
func (m *member) gateway(address string) {
	m.w.Helper()
	labels := map[string]string{"istio": "eastwestgateway"}
	s := istiotest.Service("istio-system", "eastwest", labels)
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
	s.Spec.Ports = []corev1.ServicePort{{Name: "tls", Port: 15443, TargetPort: intstr.FromInt32(15443)}}
	d := istiotest.Deployment("istio-system", s.Name, labels, s.Name)
	d.Spec.Template.Labels["sidecar.istio.io/inject"] = "true"
	d.Spec.Template.Annotations = map[string]string{"inject.istio.io/templates": "gateway"}
	m.w.must(m.Client.Create(m.w.ctx, s))
	m.w.must(m.Client.Create(m.w.ctx, d))
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: address}}
	m.w.must(m.Client.Status().Update(m.w.ctx, s))
}

// program is a running program.
type program struct {
	w       *world
	cmd     *exec.Cmd
	metrics string
	log     string
	ended   chan error
}

// start starts one of the programs. It ends with stop or with the test.
func (w *world) start(name string, kubeconfig []byte, args ...string) *program {
	w.Helper()
	dir := w.TempDir()
	file := filepath.Join(dir, "kubeconfig")
	w.must(os.WriteFile(file, kubeconfig, 0o600))
	p := &program{w: w, metrics: "127.0.0.1:" + testenv.FreePorts(w, 1)[0], log: filepath.Join(dir, "log"), ended: make(chan error, 1)}
	log, err := os.Create(p.log)
	w.must(err)
	p.cmd = exec.Command(filepath.Join(programs, name), append(args, "--metrics-bind-address="+p.metrics, "--health-probe-bind-address=0")...)
	p.cmd.Env = append(os.Environ(), "KUBECONFIG="+file)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	w.must(p.cmd.Start())
	go func() { p.ended <- p.cmd.Wait() }()
	w.Cleanup(func() {
		p.stop()
		if w.Failed() {
			text, _ := os.ReadFile(p.log)
			w.Logf("log of %s:\n%s", name, text[max(0, len(text)-4000):])
		}
	})
	return p
}

// stop has the program end.
func (p *program) stop() {
	if p.cmd.ProcessState == nil && p.cmd.Process.Signal(syscall.SIGTERM) == nil {
		if err := <-p.ended; err != nil {
			p.w.Errorf("%s ended with %v", p.cmd.Path, err)
		}
	}
}

// logged returns nil if the program has logged a text.
func (p *program) logged(text string) error {
	log, err := os.ReadFile(p.log)
	if err == nil && !bytes.Contains(log, []byte(text)) {
		err = fmt.Errorf("it has not logged %q", text)
	}
	return err
}

// memory is that of the program in bytes: at present, and at its peak.
func (p *program) memory() (now, peak int64) {
	p.w.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	p.w.must(err)
	of := func(field string) int64 {
		_, rest, _ := strings.Cut(string(text), "\n"+field+":")
		kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		p.w.must(err)
		return kib << 10
	}
	return of("VmRSS"), of("VmHWM")
}

// live is the heap that was found alive by the last garbage collection.
func (p *program) live() int64 {
	p.w.Helper()
	for _, m := range p.gather()["go_gc_heap_live_bytes"].GetMetric() {
		return int64(m.GetGauge().GetValue())
	}
	p.w.Fatal("there is no metric go_gc_heap_live_bytes")
	return 0
}

// collections counts garbage collections.
func (p *program) collections() float64 {
	p.w.Helper()
	for _, m := range p.gather()["go_gc_cycles_total_gc_cycles_total"].GetMetric() {
		return m.GetCounter().GetValue()
	}
	return 0
}

func (p *program) gather() map[string]*dto.MetricFamily {
	p.w.Helper()
	var answer *http.Response
	p.w.eventually("metrics", func() (err error) {
		answer, err = http.Get("http://" + p.metrics + "/metrics")
		return err
	})
	defer answer.Body.Close()
	parser := expfmt.NewTextParser(prommodel.UTF8Validation)
	families, err := parser.TextToMetricFamilies(answer.Body)
	p.w.must(err)
	return families
}

// writes counts what an API server was asked to write and did, by "<verb> <resource>", whether or not it changed anything. One
// that it refuses, as the creation of what a cache does not show yet, is none. Heartbeats, which are Leases, are left out, and
// what the API server asks of itself at any time: the addresses of Services, Events about these, and its flow control.
func (w *world) writes(c *testenv.Cluster) map[string]int {
	w.Helper()
	server, err := kubernetes.NewForConfig(c.Config)
	w.must(err)
	text, err := server.RESTClient().Get().AbsPath("/metrics").SetHeader("Accept", "text/plain").DoRaw(w.ctx)
	w.must(err)
	parser := expfmt.NewTextParser(prommodel.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	w.must(err)
	out := map[string]int{}
	for _, m := range families["apiserver_request_total"].GetMetric() {
		labels := map[string]string{}
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		switch labels["verb"] {
		case "POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION":
		default:
			continue
		}
		switch labels["resource"] {
		case "", "leases", "events", "ipaddresses", "servicecidrs", "flowschemas", "prioritylevelconfigurations":
			continue
		}
		if !strings.HasPrefix(labels["code"], "2") {
			continue
		}
		resource := labels["resource"]
		if labels["subresource"] != "" {
			resource += "/" + labels["subresource"]
		}
		out[labels["verb"]+" "+resource] += int(m.GetCounter().GetValue())
	}
	reported, err := server.EventsV1().Events("").List(w.ctx, metav1.ListOptions{})
	w.must(err)
	for _, e := range reported.Items {
		if strings.HasPrefix(e.ReportingController, "isthmus-") {
			out["POST events"]++
			if e.Series != nil {
				out["PATCH events"] += int(e.Series.Count) - 1 // the first is in the Event itself
			}
		}
	}
	return out
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// eventually waits, for as long as the test may take.
func (w *world) eventually(what string, f func() error) {
	w.Helper()
	deadline := time.Now().Add(20 * time.Minute)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// inParallel calls f for 0 to n-1.
func (w *world) inParallel(n int, f func(i int) error) {
	w.Helper()
	const workers = 32
	var all sync.WaitGroup
	errs := make([]error, workers)
	for k := range workers {
		all.Go(func() {
			for i := k; i < n && errs[k] == nil; i += workers {
				errs[k] = f(i)
			}
		})
	}
	all.Wait()
	w.must(errors.Join(errs...))
}

// virtualMesh joins meshes and federates everything between them. Trust is managed elsewhere: no istiod runs here.
func (w *world) virtualMesh(meshes ...string) *v1alpha1.VirtualMesh {
	w.Helper()
	vm := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "vm"}}
	vm.Spec.Federation = &v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{{}}}
	for _, name := range meshes {
		vm.Spec.Meshes = append(vm.Spec.Meshes, v1alpha1.ObjectRef{Name: name})
	}
	w.must(w.hub.Client.Create(w.ctx, vm))
	return vm
}
