package network_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/istio/istiotest"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// istiod is a real one that reads a member's API server, with one Envoy that listens to it as the proxy of a pod.
type istiod struct{ debug string }

// istiod starts one, and skips the test where the lab's binaries are not at hand.
func (m *member) istiod() istiod {
	m.w.Helper()
	bin := os.Getenv("KUBEBUILDER_ASSETS")
	for _, b := range []string{"pilot-discovery", "envoy"} {
		if _, err := os.Stat(filepath.Join(bin, b)); err != nil {
			why := fmt.Sprintf("no %s beside kube-apiserver: `lab build` makes it", b)
			if os.Getenv("CI") != "" {
				m.w.Fatal(why)
			}
			m.w.Skip(why)
		}
	}
	dir := m.w.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		m.w.must(os.WriteFile(path, data, 0o600))
		return path
	}
	kubeconfig := write("kubeconfig", m.Kubeconfig(m.w.T, m.Config, m.Config.Host))
	mesh := write("mesh", []byte("{}"))
	ports := testenv.FreePorts(m.w.T, 2)
	debug, xds := ports[0], ports[1]
	m.run(dir, []string{"POD_NAME=istiod", "POD_NAMESPACE=istio-system", "PILOT_ENABLE_ALPN_FILTER=false", "PILOT_ENABLE_METADATA_EXCHANGE=false", "INJECT_ENABLED=false"},
		filepath.Join(bin, "pilot-discovery"), "discovery", "--kubeconfig", kubeconfig, "--meshConfig", mesh, "--networksConfig", mesh,
		"--httpAddr", "127.0.0.1:"+debug, "--grpcAddr", "127.0.0.1:"+xds, "--secureGRPCAddr", "", "--httpsAddr", "", "--monitoringAddr", "127.0.0.1:0", "--ctrlz_port", "0")
	cluster := func(name, address string) string {
		return `{name: ` + name + `, type: STATIC, connect_timeout: 1s, load_assignment: {cluster_name: ` + name + `, endpoints: [{lb_endpoints: [{endpoint: {address: {` + address + `}}}]}]},
    typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions,
      explicit_http_config: {http2_protocol_options: {}}}}}`
	}
	config := write("envoy.yaml", []byte(`
node: {id: "sidecar~10.9.0.9~caller.shop~shop.svc.cluster.local", cluster: caller.shop, metadata: {NAMESPACE: shop, CLUSTER_ID: Kubernetes, ISTIO_VERSION: 1.31.1, LABELS: {app: caller}}}
dynamic_resources:
  ads_config: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: istiod}}]}
  cds_config: {ads: {}, resource_api_version: V3}
static_resources:
  clusters:
  - `+cluster("istiod", `socket_address: {address: 127.0.0.1, port_value: `+xds+`}`)+`
  - `+cluster("sds-grpc", `pipe: {path: ./nobody}`)+`
`))
	m.run(dir, nil, filepath.Join(bin, "envoy"), "-c", config, "--base-id", debug, "--concurrency", "1", "--log-level", "warn")
	return istiod{"http://127.0.0.1:" + debug}
}

// run runs a program until the test ends.
func (m *member) run(dir string, env []string, name string, args ...string) {
	m.w.Helper()
	log, err := os.Create(filepath.Join(dir, filepath.Base(name)+".log"))
	m.w.must(err)
	cmd := exec.CommandContext(m.w.ctx, name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.Env = append(os.Environ(), env...)
	m.w.must(cmd.Start())
	t := m.w.whole
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait() // it was killed
		_ = log.Close()
		if data, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("%s: %s", filepath.Base(name), data[max(0, len(data)-8000):])
		}
	})
}

// read asks istiod what it tells the proxy.
func (i istiod) read(path string) ([]byte, error) {
	resp, err := http.Get(i.debug + path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, data)
	}
	return data, err
}

// endpoints are those of a cluster of the proxy, "<priority> <address>:<port>".
func (i istiod) endpoints(cluster string) ([]string, error) {
	data, err := i.read("/debug/edsz?proxyID=caller.shop")
	if err != nil {
		return nil, err
	}
	var told struct {
		Configs []struct {
			ClusterName string
			Endpoints   []struct {
				Priority    int
				LbEndpoints []struct {
					Endpoint struct {
						Address struct {
							SocketAddress struct {
								Address   string
								PortValue int
							}
						}
					}
				}
			}
		}
	}
	if err := json.Unmarshal(data, &told); err != nil {
		return nil, fmt.Errorf("%w: %s", err, data)
	}
	var out []string
	for _, a := range told.Configs {
		for _, l := range a.Endpoints {
			for _, e := range l.LbEndpoints {
				if s := e.Endpoint.Address.SocketAddress; a.ClusterName == cluster {
					out = append(out, fmt.Sprintf("%d %s:%d", l.Priority, s.Address, s.PortValue))
				}
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

// pod makes a pod of an app's Deployment that is ready at an address.
func (m *member) pod(namespace, app, address string) *corev1.Pod {
	m.w.Helper()
	d := &appsv1.Deployment{}
	m.w.must(m.Client.Get(m.w.ctx, client.ObjectKey{Namespace: namespace, Name: app}, d))
	p := istiotest.Injected(istiotest.Pod(d, "1", strings.ReplaceAll(address, ".", "-")), "default", true)
	m.create(p)
	m.ready(p, address, corev1.ConditionTrue)
	return p
}

func (m *member) ready(p *corev1.Pod, address string, is corev1.ConditionStatus) {
	m.w.Helper()
	m.w.must(m.Client.Get(m.w.ctx, client.ObjectKeyFromObject(p), p))
	p.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: address, PodIPs: []corev1.PodIP{{IP: address}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: is}},
	}
	m.w.must(m.Client.Status().Update(m.w.ctx, p))
}

// What istiod makes of it: the two ServiceEntries are one service, own pods come first and follow their readiness by itself,
// also without an agent, and those of other clusters come after them.
func TestVirtualDestinationAtIstiod(t *testing.T) {
	w := newWorld(t, "east", "west")
	east := w.members["east"]
	for _, m := range w.members {
		m.app("shop", "reviews")
	}
	first := east.pod("shop", "reviews", "10.9.0.1")
	second := east.pod("shop", "reviews", "10.9.0.2")
	vm := w.virtualMesh(everything(), "east", "west")
	w.ready(vm)
	vd := w.virtualDestination("reviews", "east", "west")
	w.state(vd, v1alpha1.StateAccepted)
	const cluster = "outbound|9080||" + reviewsName
	i := east.istiod()
	endpoints := func(what string, want ...string) {
		w.Helper()
		w.eventually(what, func() error {
			got, err := i.endpoints(cluster)
			if err == nil && !slices.Equal(got, want) {
				err = fmt.Errorf("endpoints %q, want %q", got, want)
			}
			return err
		})
	}
	endpoints("own pods first", "0 10.9.0.1:9080", "0 10.9.0.2:9080", "1 203.0.113.2:15443")

	w.story("what the proxy is told of the service", func(t *testing.T) {
		data, err := i.read("/debug/config_dump?proxyID=caller.shop")
		w.must(err)
		// As Envoy's API has it (envoy.config.cluster.v3.Cluster), in JSON without blanks.
		_, told, ok := strings.Cut(strings.ReplaceAll(string(data), " ", ""), `"name":"`+cluster+`"`)
		if !ok {
			t.Fatalf("istiod tells of no cluster %s: %s", cluster, data)
		}
		told, _, _ = strings.Cut(told, `"name":"outbound|`) // the next one
		for _, want := range []string{
			`"sni":"outbound_.9080_._.reviews.shop.svc.cluster.local"`, `"exact":"spiffe://cluster.local/ns/shop/sa/reviews"`, `"consecutiveGatewayFailure":5`,
			`"enforcingConsecutive5xx":0`, `"maxEjectionPercent":100`, `"healthyPanicThreshold":{}`,
		} {
			if !strings.Contains(told, want) {
				t.Errorf("the cluster lacks %s: %s", want, told)
			}
		}
	})
	w.story("pods go and come, without the agent", func(*testing.T) {
		east.stop()
		east.ready(first, "10.9.0.1", corev1.ConditionFalse)
		endpoints("one is left", "0 10.9.0.2:9080", "1 203.0.113.2:15443")
		east.delete(second)
		endpoints("none is left", "0 203.0.113.2:15443")
		east.ready(first, "10.9.0.1", corev1.ConditionTrue)
		endpoints("one is back", "0 10.9.0.1:9080", "1 203.0.113.2:15443")
		east.start()
	})
	w.story("the native service is as it was", func(t *testing.T) {
		got, err := i.endpoints("outbound|9080||reviews.shop.svc.cluster.local")
		w.must(err)
		if strings.Contains(strings.Join(got, " "), "203.0.113") {
			t.Errorf("endpoints of the native service: %v", got)
		}
	})
	w.story("the own service goes", func(*testing.T) {
		s, err := east.service("shop", "reviews")
		w.must(err)
		east.delete(s)
		endpoints("the others are left", "0 203.0.113.2:15443")
		east.app("shop", "reviews")
		endpoints("own pods again", "0 10.9.0.1:9080", "1 203.0.113.2:15443")
	})
}
