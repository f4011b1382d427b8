package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// cluster is the name under which the cluster of a context is registered, which is also its name in the lab.
func cluster(context string) string { return strings.TrimSuffix(context, "-context") }

// other is the other one of the two contexts.
func other(context string) string {
	if context == management {
		return remote
	}
	return management
}

// federated is the name of a service, "<service>.<namespace>", in the meshes of other clusters than that of context.
func federated(service, context string) string {
	return service + ".svc." + cluster(context) + ".global"
}

// program is a Deployment of the lab's sample program, with a service account of its own name.
type program struct {
	name, namespace string
	// account is the name of the service account if it is another.
	account string
	// args of `sample serve`, beside the name.
	args []string
	// annotations of the pod, as lines of YAML.
	annotations []string
	// ports of a Service in front of it, as YAML; "" for none.
	ports string
}

// manifest has the pods drain: a new connection may come until every proxy has heard that the pod is leaving.
func (p program) manifest(context string) string {
	account := p.account
	if account == "" {
		account = p.name
	}
	args := append([]string{"serve", "--service=" + p.name, "--cluster=" + cluster(context)}, p.args...)
	var b strings.Builder
	fmt.Fprintf(&b, `
apiVersion: v1
kind: ServiceAccount
metadata: {name: %[3]s, namespace: %[2]s}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata:
      labels: {app: %[1]s}
      annotations:
        kubectl.kubernetes.io/default-container: sample
        %[4]s
    spec:
      serviceAccountName: %[3]s
      containers:
      - name: sample
        image: lab.local/sample:1
        imagePullPolicy: IfNotPresent
        args: ["%[5]s"]
        resources: {requests: {cpu: 20m, memory: 16Mi}} # as much as proxies, and more than istiod, when there is too little
        readinessProbe: {tcpSocket: {port: 9000}, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 30} # slow is not gone
        lifecycle: {preStop: {sleep: {seconds: 5}}}
        volumeMounts: [{name: certs, mountPath: /certs}]
      volumes: [{name: certs, emptyDir: {}}]
---
`, p.name, p.namespace, account, strings.Join(p.annotations, "\n        "), strings.Join(args, `", "`))
	if p.ports != "" {
		b.WriteString(service(p.name, p.namespace, p.name, p.ports))
	}
	return b.String()
}

// ports of the sample program.
const ports = "[{name: http, port: 9080}, {name: tcp-echo, port: 9000}, {name: grpc, port: 9090}]"

// service is the manifest of a Service in front of the pods of an app.
func service(name, namespace, app, ports string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: %s, labels: {app: %[1]s}}
spec: {selector: {app: %[3]s}, ports: %[4]s}
---
`, name, namespace, app, ports)
}

// deploy deploys programs and waits until they are ready.
func (w *world) deploy(t *testing.T, context string, programs ...program) {
	t.Helper()
	var manifest strings.Builder
	for _, p := range programs {
		manifest.WriteString(p.manifest(context))
	}
	w.apply(t, context, manifest.String())
	for _, p := range programs {
		w.kubectl(t, context, "-n", p.namespace, "rollout", "status", "deploy/"+p.name, "--timeout=90s")
	}
}

// single waits until an app of namespace default has one pod: after a rollout its former ones are on their way out for a while.
func (w *world) single(t *testing.T, context, app string) {
	t.Helper()
	eventually(t, 2*time.Minute, "one pod of "+app+" is left", func() error {
		if pods := strings.Fields(w.jsonpath(context, "{.items[*].metadata.name}", "-n", "default", "pods", "-l", "app="+app)); len(pods) != 1 {
			return fmt.Errorf("there are %v", pods)
		}
		return nil
	})
}

// Programs that ask on behalf of the tests, in both clusters. The caller's sidecar writes its certificate to files, and
// leaves connections to gateways to the program: it is also the attacker, who has a valid identity.
var (
	caller = program{name: "caller", namespace: "default", annotations: []string{
		`proxy.istio.io/config: '{proxyMetadata: {OUTPUT_CERTS: /certs}}'`,
		`sidecar.istio.io/userVolumeMount: '[{"name": "certs", "mountPath": "/certs"}]'`,
		`traffic.sidecar.istio.io/excludeOutboundPorts: "15443"`,
	}}
	stranger = program{name: "stranger", namespace: "elsewhere"}
	// nameless has no DNS capture.
	nameless = program{name: "nameless", namespace: "default", annotations: []string{
		`proxy.istio.io/config: '{proxyMetadata: {ISTIO_META_DNS_CAPTURE: "false"}}'`,
	}}
	// outside has no sidecar, and a database.
	outside = program{name: "outside", namespace: "default", args: []string{"--http=:5432"}, annotations: []string{
		`sidecar.istio.io/inject: "false"`,
	}}
)

// callers deploys what asks.
func callers(t *testing.T, w *world) {
	t.Helper()
	for _, context := range []string{management, remote} {
		w.apply(t, context, `{apiVersion: v1, kind: Namespace, metadata: {name: elsewhere, labels: {istio-injection: enabled}}}`)
		w.deploy(t, context, caller, stranger)
	}
	w.deploy(t, remote, nameless, outside)
}

// outcome is what `sample call` says of one request.
type outcome struct {
	Kind, Error string
	Handshake   *struct{ Identities []string }
	Answer      struct {
		Service, Version, Cluster, Pod string
		Headers                        map[string][]string
	}
	Headers map[string][]string
}

func (o outcome) String() string {
	if o.Kind != "ok" {
		return o.Kind + ": " + o.Error
	}
	return fmt.Sprintf("ok, from %s %s in %s to %s", o.service(), o.version(), o.cluster(), o.caller())
}

// first of what HTTP's answer or gRPC's headers say.
func first(answer string, header []string) string {
	if answer == "" && len(header) > 0 {
		return header[0]
	}
	return answer
}

func (o outcome) service() string { return first(o.Answer.Service, o.Headers["service"]) }
func (o outcome) version() string { return first(o.Answer.Version, o.Headers["version"]) }
func (o outcome) cluster() string { return first(o.Answer.Cluster, o.Headers["cluster"]) }

var uri = regexp.MustCompile(`URI=([^;,]+)`)

// caller is the identity that the server's sidecar has verified.
func (o outcome) caller() string {
	header := slices.Concat(o.Answer.Headers["X-Forwarded-Client-Cert"], o.Headers["x-forwarded-client-cert"])
	if m := uri.FindStringSubmatch(strings.Join(header, ",")); m != nil {
		return m[1]
	}
	return ""
}

// call makes one request from a program's pod.
func (w *world) call(context string, from program, args ...string) outcome {
	out, err := w.try(time.Minute, "kubectl", append([]string{"--context", context, "-n", from.namespace, "exec", "deploy/" + from.name, "-c", "sample", "--",
		"/sample", "call", "-timeout", "3s"}, args...)...)
	var o outcome
	if jsonErr := json.Unmarshal([]byte(out), &o); jsonErr != nil {
		return outcome{Kind: "none", Error: fmt.Sprint(err)}
	}
	return o
}

// insist is call, but asks up to three times as long as nothing is answered: for want of time, or because kubectl failed.
func (w *world) insist(context string, from program, args ...string) (o outcome) {
	for range 3 {
		if o = w.call(context, from, args...); o.Kind != "timeout" && o.Kind != "none" {
			break
		}
	}
	return o
}

// want polls until the outcome of a request is as wanted: policies and gateways take a moment to reach the proxies.
func (w *world) want(t *testing.T, context string, from program, what func(outcome) bool, args ...string) outcome {
	t.Helper()
	var o outcome
	start := time.Now()
	for o = w.call(context, from, args...); !what(o); o = w.call(context, from, args...) {
		if time.Since(start) > time.Minute {
			t.Fatalf("%s of %s asks %s: %s", from.name, cluster(context), strings.Join(args, " "), o)
		}
	}
	return o
}

// Outcomes to want.
func answered(o outcome) bool { return o.Kind == "ok" }
func refusal(o outcome) bool  { return o.Kind != "ok" && o.Kind != "none" && o.Kind != "dns" }

// denied is how a server's sidecar refuses by policy: HTTP says so, TCP hangs up.
func denied(o outcome) bool {
	return slices.Contains([]string{"http 403", "grpc PermissionDenied", "eof", "reset"}, o.Kind)
}

func answeredBy(service, context string) func(outcome) bool {
	return func(o outcome) bool { return answered(o) && o.service() == service && o.cluster() == cluster(context) }
}

// forged asks a gateway of the other cluster for a service by SNI, with the caller's own certificate.
func (w *world) forged(t *testing.T, context, sni string, what func(outcome) bool) {
	t.Helper()
	gateway := w.gatewayAddress(t, other(context))
	w.want(t, context, caller, what, "-sni", sni, "-alpn", "istio", "-cert", "/certs/cert-chain.pem", "-key", "/certs/key.pem", "http://"+gateway+":15443/healthz")
}

// sni is what Istio's proxies ask for when they want a port of a service.
func sni(service string, port int) string {
	return fmt.Sprintf("outbound_.%d_._.%s.svc.cluster.local", port, service)
}

func (w *world) gatewayAddress(t *testing.T, context string) string {
	t.Helper()
	address := w.jsonpath(context, "{.status.loadBalancer.ingress[0].ip}", "-n", "istio-system", "service", "istio-eastwestgateway")
	if address == "" {
		t.Fatalf("%s: the gateway has no address", context)
	}
	return address
}

// load is a run of `sample load` inside of a pod. It is started by the container runtime, so that it goes on whatever
// becomes of the API servers.
type load struct {
	w       *world
	cluster string
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	out     bytes.Buffer
	log     bytes.Buffer
}

// summary is what `sample load` prints.
type summary struct {
	Sent, Failed int
	Outcomes     map[string]int
	URLs         map[string]map[string]int
	Failures     []failure
	// LatencyMilliseconds of what succeeded. If all of it is slow, it is the machine.
	LatencyMilliseconds struct{ P50, P99, Max float64 }
}

// failure is a request that failed.
type failure struct {
	Due, At          time.Time // when it was to begin, and when it had ended
	URL, Kind, Error string
}

func (f failure) String() string {
	return fmt.Sprintf("%s: %s of %s after %s: %s", f.At.Format(time.RFC3339Nano), f.Kind, f.URL, f.At.Sub(f.Due), f.Error)
}

// loads counts runs: the container runtime wants a name for each.
var loads int

// startLoad sends requests, each on a new connection, until stop is called.
func (w *world) startLoad(t *testing.T, context string, from program, rate int, urls ...string) *load {
	t.Helper()
	return w.startLoadWith(t, context, from, []string{"-rate", fmt.Sprint(rate)}, urls...)
}

// startLoadWith sends requests with options of `sample load` until stop is called.
func (w *world) startLoadWith(t *testing.T, context string, from program, options []string, urls ...string) *load {
	t.Helper()
	id := w.jsonpath(context, `{.items[0].status.containerStatuses[?(@.name=="sample")].containerID}`, "-n", from.namespace, "pods", "-l", "app="+from.name)
	if id == "" {
		t.Fatalf("%s: no pod of %s", context, from.name)
	}
	loads++
	args := []string{"exec", "--name", w.name, cluster(context), "--", "ctr", "-n", "k8s.io", "task", "exec", "--exec-id", fmt.Sprintf("load-%d-%d", time.Now().UnixNano(), loads),
		strings.TrimPrefix(id, "containerd://"), "/sample", "load", "-duration", "0", "-timeout", "30s"} // what is slow is the machine
	args = append(args, options...)
	for _, u := range urls {
		args = append(args, "-url", u)
	}
	l := &load{w: w, cluster: cluster(context), cmd: exec.CommandContext(t.Context(), filepath.Join(w.bin, "lab"), args...)}
	l.cmd.Env, l.cmd.Stdout, l.cmd.Stderr = w.env, &l.out, &l.log
	var err error
	if l.stdin, err = l.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.end(); _ = l.cmd.Wait() })
	return l
}

// end tells the run to end, by a line: containerd loses at times that stdin has ended, and the run would go on for ever.
func (l *load) end() {
	_, _ = io.WriteString(l.stdin, "\n") // it may be over already
	_ = l.stdin.Close()
}

// stop ends the run.
func (l *load) stop(t *testing.T) summary {
	t.Helper()
	l.end()
	if err := l.cmd.Wait(); err != nil {
		t.Fatalf("load in %s: %v: %s", l.cluster, err, tail(l.log.String(), 2000))
	}
	var s summary
	if err := json.Unmarshal(l.out.Bytes(), &s); err != nil {
		t.Fatalf("load in %s: %v: %s", l.cluster, err, l.out.String())
	}
	if s.Sent == 0 {
		t.Fatalf("load in %s: nothing was sent: %s", l.cluster, l.out.String())
	}
	return s
}

// What a restart costs whatever it is for, in Envoy's words.
const (
	// noEndpoints: Istio 1.31's istiod, as it ends, may push that every endpoint of its cluster is gone (multicluster.Controller.Run
	// deletes its own cluster when it is stopped), if a push is under way. On the rolling way one is, since replicas with
	// different roots write to the same webhooks by turns.
	noEndpoints = "no healthy upstream"
	// inFlight: a gateway that passes connections through ends those that it has.
	inFlight = "connection termination"
	// restarting is for how long requests fail then.
	restarting = 3 * time.Second
)

// stopClean ends the run and fails the test for every request that failed, but for those that failed by, or at the time of, what is
// excused.
func (l *load) stopClean(t *testing.T, excuses ...string) {
	t.Helper()
	s := l.stop(t)
	isExcused := func(f failure) bool {
		return slices.ContainsFunc(excuses, func(words string) bool { return strings.Contains(f.Error, words) })
	}
	unexcused := slices.DeleteFunc(slices.Clone(s.Failures), func(f failure) bool {
		return slices.ContainsFunc(s.Failures, func(o failure) bool { return isExcused(o) && f.At.Sub(o.At).Abs() < restarting })
	})
	excused := len(s.Failures) - len(unexcused)
	t.Logf("load in %s: %d sent, %d failed, %d of them as something was restarted, latency in ms %+v", l.cluster, s.Sent, s.Failed, excused, s.LatencyMilliseconds)
	if s.Failed > excused { // of very many, some are counted only
		t.Errorf("%s: %d of %d requests failed: %v", l.cluster, s.Failed-excused, s.Sent, s.URLs)
	}
	for _, f := range unexcused[:min(len(unexcused), 5)] {
		t.Errorf("%s\n%s", f, l.w.accesses(t, f))
	}
}

// unusual is an access of Envoy's log that has response flags, that ended for another reason than usual, or that went to nothing known.
var unusual = regexp.MustCompile(`^\[\S+\] "[^"]*" (?:[45]\d\d|\d+ [A-Z]\S*) |PassthroughCluster|BlackHoleCluster`)

// accesses are what proxies have logged as unusual at the time of a failure.
func (w *world) accesses(t *testing.T, f failure) string {
	t.Helper()
	var b strings.Builder
	for proxy := range w.proxies(t) {
		args := append(inProxy(proxy, "logs"), "-c", "istio-proxy", "--since-time", f.Due.Add(-time.Second).Format(time.RFC3339))
		out, err := w.try(time.Minute, "kubectl", args...)
		if err != nil {
			fmt.Fprintf(&b, "%s: %v\n", proxy, err)
		}
		for access := range strings.Lines(out) { // each says when what has ended began
			at, _, _ := strings.Cut(strings.TrimPrefix(access, "["), "]")
			if began, err := time.Parse(time.RFC3339, at); err == nil && began.Before(f.At.Add(time.Second)) && unusual.MatchString(access) {
				fmt.Fprintf(&b, "%s: %s", proxy, access)
			}
		}
	}
	return b.String()
}

// inProxy are the arguments for kubectl to do something with a pod that proxies names.
func inProxy(proxy, verb string) []string {
	parts := strings.SplitN(proxy, "/", 3)
	return []string{"--context", parts[0], "-n", parts[1], verb, parts[2]}
}

// stats are the statistics of a proxy's Envoy whose names match a regular expression, as lines.
func (w *world) stats(proxy, filter string) (string, error) {
	return w.try(30*time.Second, "kubectl", append(inProxy(proxy, "exec"), "-c", "istio-proxy", "--", "pilot-agent", "request", "GET", "stats?filter="+filter)...)
}

// calm waits until no proxy has settings left that it drains. Envoy ends the connections that were made under those when its drain
// time is over, 45 s after policies have changed, whatever is under way: that is no failure of what comes next.
func (w *world) calm(t *testing.T) {
	t.Helper()
	drains := func(proxy string) error {
		out, err := w.stats(proxy, "listener_manager.total_(filter_chains|listeners)_draining")
		if err == nil && (out == "" || strings.Contains(strings.ReplaceAll(out, "draining: 0\n", ""), ": ")) {
			err = fmt.Errorf("%s: %s", proxy, out)
		}
		return err
	}
	eventually(t, 3*time.Minute, "no proxy drains", func() error {
		var all errgroup.Group
		for proxy := range w.proxies(t) {
			all.Go(func() error { return drains(proxy) })
		}
		return all.Wait()
	})
}

// seesFailures proves that a load can see a failure.
func (w *world) seesFailures(t *testing.T, context string, from program, base string) {
	t.Helper()
	s := w.startLoadWith(t, context, from, []string{"-rate", "50", "-duration", "2s"}, base+"/status/503", base+"/healthz").stop(t)
	if bad := s.URLs[base+"/status/503"]["http 503"]; bad == 0 || bad != s.Failed {
		t.Fatalf("a path that always fails: %+v", s)
	}
}

// objects is what Isthmus has made in a cluster, as "<kind>/<namespace>/<name> <what>", for a field of every object.
func (w *world) objects(t *testing.T, context, field string) string {
	t.Helper()
	out := w.kubectl(t, context, "get", "serviceentries,destinationrules,gateways.networking.istio.io,authorizationpolicies,peerauthentications", "-A",
		"-l", "isthmus.dev/managed-by=isthmus-agent-network", "-o", `jsonpath={range .items[*]}{.kind}/{.metadata.namespace}/{.metadata.name} {`+field+`}{"\n"}{end}`)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// hosts are the names that a cluster has been given for services of others.
func (w *world) hosts(context string) []string {
	out := strings.Fields(w.jsonpath(context, "{.items[*].spec.hosts[*]}", "-A", "serviceentries", "-l", "isthmus.dev/managed-by=isthmus-agent-network"))
	out = slices.DeleteFunc(out, func(host string) bool { return strings.HasSuffix(host, ".isthmus.invalid") }) // which gateways alone call
	slices.Sort(out)
	return out
}

// federate replaces the federation of the virtual mesh, JSON, and waits until all members have applied it.
func federate(t *testing.T, w *world, federation string) {
	t.Helper()
	w.kubectl(t, management, "-n", "isthmus-system", "patch", "virtualmesh", "virtual-mesh", "--type=json", "-p",
		`[{"op":"add","path":"/spec/federation","value":`+federation+`}]`)
	w.ready(t, "virtual-mesh", time.Minute)
}

// globalAccess sets the global access policy of the virtual mesh and waits until all members have applied it.
func globalAccess(t *testing.T, w *world, value string) {
	t.Helper()
	patchVM(t, w, fmt.Sprintf(`{"spec":{"globalAccessPolicy":%q}}`, value))
	w.ready(t, "virtual-mesh", time.Minute)
}

// gone waits until a cluster has no name for a service any more.
func (w *world) gone(t *testing.T, context, host string) {
	t.Helper()
	eventually(t, time.Minute, cluster(context)+" gives up the name "+host, func() error {
		if slices.Contains(w.hosts(context), host) {
			return errors.New("it is still there")
		}
		return nil
	})
}

// created waits for an object.
func (w *world) created(t *testing.T, context string, object ...string) {
	t.Helper()
	w.kubectl(t, context, append([]string{"wait", "--for=create", "--timeout=60s"}, object...)...)
}
