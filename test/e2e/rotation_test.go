package e2e

import (
	"crypto"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// TestRotation replaces the root of two meshes while their workloads talk, within each and across: when they join, on demand,
// and back again from every step. Not one request may fail.
func TestRotation(t *testing.T) {
	w := newWorld(t, "e2e-rotation", "--istiod-replicas", "2")
	w.install(t, management, remote)
	for _, context := range []string{management, remote} {
		w.deploy(t, context, caller)
	}
	inOrder(t, w, []scenario[*world]{
		{"Adoption", adoption},
		{"Rotation", rotation},
		{"UnderFire", rotationUnderFire},
		{"Rollbacks", long(rollbacks)},
		{"Unprobeable", long(unprobeable)},
		{"Premature", long(premature)},
		{"Evicted", evicted},
		{"ByHand", byHand},
	})
}

// adoption has two running meshes with self-signed roots join a virtual mesh.
func adoption(t *testing.T, w *world) {
	stop := talk(t, w, caller, false)
	proxies := w.proxies(t)
	join(t, w, w.contexts...)
	stop()
	w.unchanged(t, proxies)
	acquaint(t, w)
}

// join has meshes join a virtual mesh, in which others may be already, and waits until they have.
func join(t *testing.T, w *world, contexts ...string) {
	t.Helper()
	start := time.Now()
	meshes := ""
	for _, context := range contexts {
		meshes += "  - {name: istiod-istio-system-" + cluster(context) + "}\n"
	}
	w.apply(t, management, `
apiVersion: isthmus.dev/v1alpha1
kind: VirtualMesh
metadata: {name: virtual-mesh, namespace: isthmus-system}
spec:
  mtlsConfig: {autoRestartPods: true, shared: {}}
  meshes:
`+meshes)
	w.ready(t, "virtual-mesh", 10*time.Minute)
	t.Logf("joined after %.0f s", time.Since(start).Seconds())
}

// acquaint federates everything and waits until either mesh reaches the other.
func acquaint(t *testing.T, w *world) {
	t.Helper()
	federate(t, w, `{"selectors":[{}]}`)
	for _, context := range w.contexts {
		for _, o := range w.others(context) {
			w.want(t, context, caller, answeredBy("ratings", o), "http://"+federated("ratings.default", o)+":9080/")
		}
	}
}

// rotation replaces the root on demand. A leaf under the old one then obtains nothing from istiod any more.
func rotation(t *testing.T, w *world) {
	const kept = "/certs/old"
	before := w.rotation()
	for _, context := range []string{management, remote} {
		w.kubectl(t, context, "exec", "deploy/caller", "-c", "istio-proxy", "--", "sh", "-c", "mkdir -p "+kept+" && cp /certs/*.pem "+kept)
		if !w.admitted(t, context, kept) {
			t.Fatalf("%s: istiod refuses a leaf of its own", context)
		}
	}
	stop := talk(t, w, caller, true)
	proxies := w.proxies(t)
	start := time.Now()
	w.run(t, time.Minute, "meshctl", "rotation", "start", "--context", management)
	steps := w.finished(t, before.RotationID, 10*time.Minute)
	t.Logf("finished after %.0f s: %s", time.Since(start).Seconds(), steps)
	w.ready(t, "virtual-mesh", time.Minute)
	stop()
	w.unchanged(t, proxies)
	for _, context := range []string{management, remote} {
		if w.admitted(t, context, kept) {
			t.Errorf("%s: istiod lets a leaf under the old root in", context)
		}
		if !w.admitted(t, context, "/certs") {
			t.Errorf("%s: istiod refuses a leaf under the new root", context)
		}
	}
}

// rotationUnderFire replaces the root while programs are killed in each of its steps: the hub, both agents, an istiod of either
// mesh, and both API servers. With ISTHMUS_E2E_MATRIX set, the root is replaced once more for each of them alone.
func rotationUnderFire(t *testing.T, w *world) {
	kill := func(context string, args ...string) func() {
		return func() {
			w.kubectl(t, context, append(args, "--grace-period=0", "--force")...)
		}
	}
	apiServer := func(context string) func() {
		return func() {
			w.run(t, time.Minute, "lab", "kill", "kube-apiserver", "--name", w.name, "--cluster", cluster(context))
			w.run(t, 2*time.Minute, "lab", "restart", "kube-apiserver", "--name", w.name, "--cluster", cluster(context))
			eventually(t, 2*time.Minute, "the API server answers", func() error {
				_, err := w.try(20*time.Second, "kubectl", "--context", context, "get", "ns")
				return err
			})
		}
	}
	istiod := func(context string) func() {
		return func() {
			kill(context, "-n", "istio-system", "delete", "pod", w.jsonpath(context, "{.items[0].metadata.name}", "-n", "istio-system", "pods", "-l", "app=istiod"), "--ignore-not-found")()
		}
	}
	victims := map[string]func(){"the hub": kill(management, "-n", "isthmus-system", "delete", "pods", "--all")}
	for _, context := range []string{management, remote} {
		victims["the agent of "+cluster(context)] = kill(context, "-n", "isthmus-agent", "delete", "pods", "--all")
		victims["an istiod of "+cluster(context)] = istiod(context)
		victims["the API server of "+cluster(context)] = apiServer(context)
	}
	names := slices.Sorted(maps.Keys(victims))
	rotateUnder(t, w, "all", func() {
		for _, name := range names {
			victims[name]()
		}
	})
	if os.Getenv("ISTHMUS_E2E_MATRIX") == "" {
		return
	}
	for _, name := range names {
		rotateUnder(t, w, name, victims[name])
	}
}

// rotateUnder replaces the root and strikes as soon as each step has begun.
func rotateUnder(t *testing.T, w *world, what string, strike func()) {
	t.Helper()
	before := w.rotation().RotationID
	stop := talk(t, w, caller, true)
	w.run(t, time.Minute, "meshctl", "rotation", "start", "--context", management)
	for _, step := range []v1alpha1.RotationStep{v1alpha1.StepAddingNewRoot, v1alpha1.StepPropagatingNewIntermediate, v1alpha1.StepDeletingOldRoot} {
		eventually(t, 5*time.Minute, "step "+string(step), func() error {
			if r := w.rotation(); r.RotationID == before || r.Place != step {
				return fmt.Errorf("rotation %s, step %s, waits for %v", r.RotationID, r.Step, r.Waits)
			}
			return nil
		})
		strike()
	}
	t.Logf("killed %s, finished: %s", what, w.finished(t, before, 10*time.Minute))
	stop()
}

// unprobeable replaces the root where proxies cannot be asked: one takes plain text only, one is given no inbound traffic at all,
// and one is behind what a NetworkPolicy does, so that the agent's packets are not answered. They are named, each step waits for
// them, and they count as proven once they are restarted.
func unprobeable(t *testing.T, w *world) {
	shy, walled := program{name: "shy", namespace: "default"}, program{name: "walled", namespace: "default"}
	deaf := program{name: "deaf", namespace: "default", annotations: []string{`traffic.sidecar.istio.io/includeInboundPorts: ""`}}
	w.apply(t, management, `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: shy, namespace: default}
spec: {selector: {matchLabels: {app: shy}}, mtls: {mode: DISABLE}}
`)
	w.deploy(t, management, shy, deaf, walled)
	before := w.rotation().RotationID
	stop := talk(t, w, caller, true)
	w.wallOff(t, management, walled)
	w.run(t, time.Minute, "meshctl", "rotation", "start", "--context", management)
	for _, step := range []v1alpha1.RotationStep{v1alpha1.StepAddingNewRoot, v1alpha1.StepPropagatingNewIntermediate, v1alpha1.StepDeletingOldRoot} {
		eventually(t, 5*time.Minute, "those that cannot be asked are named in step "+string(step), func() error {
			if r := w.rotation(); r.RotationID == before || r.Place != step {
				return fmt.Errorf("rotation %s, step %s, place %s", r.RotationID, r.Step, r.Place)
			}
			proxies := w.jsonpath(management, "{.status.proxies}", "-n", "isthmus-management-plane", "issuedcertificate", "istiod-istio-system-management-plane")
			for _, p := range []string{"default/shy-", "default/deaf-", "default/walled-", `"unknown":3`} {
				if !strings.Contains(proxies, p) {
					return fmt.Errorf("proxies are %s", proxies)
				}
			}
			return nil
		})
		w.kubectl(t, management, "rollout", "restart", "deploy/walled")
		w.kubectl(t, management, "rollout", "status", "deploy/walled", "--timeout=120s")
		w.wallOff(t, management, walled)
		w.kubectl(t, management, "rollout", "restart", "deploy/shy", "deploy/deaf")
	}
	t.Logf("finished: %s", w.finished(t, before, 5*time.Minute))
	stop()
	w.kubectl(t, management, "delete", "deploy/shy", "deploy/deaf", "deploy/walled", "peerauthentication/shy")
}

// wallOff has the pod of a program answer nothing to the agent, as a NetworkPolicy would.
func (w *world) wallOff(t *testing.T, context string, p program) {
	t.Helper()
	agent := w.jsonpath(context, "{.items[0].status.podIP}", "-n", "isthmus-agent", "pods", "-l", "app.kubernetes.io/name=isthmus-agent")
	if agent == "" {
		t.Fatal("no agent")
	}
	w.run(t, time.Minute, "lab", "exec", "--name", w.name, cluster(context), "--", "sh", "-c", fmt.Sprintf(
		"for p in /proc/[0-9]*; do if grep -qz -- '^--service=%s$' $p/cmdline; then nsenter -n -t ${p#/proc/} ip route replace blackhole %s || [ ! -d $p ] || exit 1; fi; done 2>/dev/null",
		p.name, agent))
}

// evicted takes a cluster out that is not trusted any more: the others get another root, and its own workloads go on.
func evicted(t *testing.T, w *world) {
	before := w.rotation().RotationID
	// A nudge changes the text, and no root.
	trusts := func(context string) (roots []string) {
		t.Helper()
		for _, c := range parse([]byte(w.kubectl(t, context, "-n", "default", "get", "configmap", "istio-ca-root-cert", "-o", `jsonpath={.data.root-cert\.pem}`))) {
			roots = append(roots, fingerprint(c))
		}
		return roots
	}
	roots := trusts(remote)
	stop := talk(t, w, caller, false)
	w.run(t, 3*time.Minute, "meshctl", "cluster", "evict", "remote-cluster", "--reason", "its node was stolen", "--yes", "--context", management)
	w.finished(t, before, 5*time.Minute)
	w.ready(t, "virtual-mesh", time.Minute)
	stop()
	if err := absent(w, management, "issuedcertificate/istiod-istio-system-remote-cluster -n isthmus-remote-cluster"); err != nil {
		t.Errorf("the hub goes on issuing for the cluster: %v", err)
	}
	if now := trusts(remote); !slices.Equal(now, roots) {
		t.Errorf("the roots of the cluster were changed from %v to %v after it had been evicted", roots, now)
	}
	if mine := trusts(management); len(mine) != 1 || slices.Contains(roots, mine[0]) {
		t.Errorf("the others trust %v, of which the cluster had %v", mine, roots)
	}
}

// premature has a hub replace the root while the agent of one cluster is away: one that is built to wait for nothing, and the real
// one. It shows that this traffic sees a step that was taken too early, and that the hub does not take it.
func premature(t *testing.T, w *world) {
	hub := filepath.Join(t.TempDir(), "isthmus-hub")
	build := exec.Command("go", "build", "-trimpath", "-tags", "premature", "-o", hub, "../../cmd/isthmus-hub")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	install := func(binary, verification string) {
		t.Helper()
		w.run(t, 2*time.Minute, "lab", "load", "--name", w.name, "--ref", "lab.local/isthmus-hub:dev", "--binary", binary)
		w.kubectl(t, management, "-n", "isthmus-system", "rollout", "restart", "deploy/isthmus-hub")
		w.kubectl(t, management, "-n", "isthmus-system", "rollout", "status", "deploy/isthmus-hub", "--timeout=90s")
		patchVM(t, w, `{"spec":{"mtlsConfig":{"rotationVerificationMethod":`+verification+`}}}`)
	}
	url := "http://" + federated("ratings.default", management) + ":9080/"
	// replace begins a rotation without the agent of one cluster, has a workload of the other started anew, and so given a leaf, when
	// the hub has gone as far as it goes. Across, it is then always answered, or never until the agent is back.
	replace := func(far string, gone func() error, trusted func(outcome) bool) {
		t.Helper()
		before := w.rotation().RotationID
		scaleAgent(t, w, remote, 0)
		w.run(t, time.Minute, "meshctl", "rotation", "start", "--context", management)
		eventually(t, 3*time.Minute, far, gone)
		w.kubectl(t, management, "rollout", "restart", "deploy/ratings-v1")
		w.kubectl(t, management, "rollout", "status", "deploy/ratings-v1", "--timeout=120s")
		w.single(t, management, "ratings")
		w.want(t, remote, caller, trusted, url)
		for range 10 {
			if o := w.insist(remote, caller, url); !trusted(o) {
				t.Errorf("%s, and now and then not: %s", far, o)
			}
		}
		scaleAgent(t, w, remote, 1)
		t.Logf("finished: %s", w.finished(t, before, 5*time.Minute))
		w.want(t, remote, caller, answered, url)
	}

	install(hub, `{"none":{}}`)
	replace("one mesh signs under a root that the other does not trust", func() error {
		order := w.jsonpath(management, "{.spec.rotation.stage} {.spec.signer} {.status.controlPlane.replicas[*].signer}",
			"-n", "isthmus-management-plane", "issuedcertificate", "istiod-istio-system-management-plane")
		f := strings.Fields(order)
		if len(f) < 3 || f[0] != string(v1alpha1.StageNewSigns) || slices.ContainsFunc(f[2:], func(signer string) bool { return signer != f[1] }) {
			return fmt.Errorf("it is at %s", order)
		}
		return nil
	}, func(o outcome) bool { return strings.Contains(o.Error, "remote connection failure") }) // in Envoy's words: no handshake

	install(filepath.Join(w.bin, "isthmus-hub"), "null")
	replace("the hub waits for the one that is away", func() error {
		r := w.rotation()
		waits := strings.Join(r.Waits, "; ")
		if r.Place != v1alpha1.StepAddingNewRoot || !strings.Contains(waits, "mesh istiod-istio-system-remote-cluster.") || strings.Contains(waits, "mesh istiod-istio-system-management-plane.") {
			return fmt.Errorf("it is in step %s and waits: %s", r.Step, waits)
		}
		return nil
	}, answeredBy("ratings", management))
	w.ready(t, "virtual-mesh", time.Minute)
}

// byHand replaces the root of a mesh as one would without Isthmus: another cacerts, and istiod is restarted. It is for comparison
// only: how many requests fail is printed.
func byHand(t *testing.T, w *world) {
	scaleAgent(t, w, remote, 0)
	now := time.Now()
	key := func() crypto.Signer {
		k, err := pki.NewKey(2048)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	root, err := pki.NewRoot(key(), pki.RootOptions{Organization: "by hand", VirtualMesh: "none", Generation: 1, TTL: 24 * time.Hour}, now)
	if err != nil {
		t.Fatal(err)
	}
	data, err := root.Data()
	if err != nil {
		t.Fatal(err)
	}
	secret, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]string{"namespace": "istio-system", "name": "cacerts"}, "data": data,
	})
	if err != nil {
		t.Fatal(err)
	}
	urls := []string{"http://ratings:9080/", "tcp://ratings:9000", "grpc://ratings:9090"}
	loads := []*load{
		w.startLoadWith(t, remote, caller, []string{"-rate", "40"}, urls...),
		w.startLoadWith(t, remote, caller, []string{"-rate", "16", "-keep"}, urls...),
	}
	w.apply(t, remote, string(secret))
	w.kubectl(t, remote, "-n", "istio-system", "rollout", "restart", "deploy/istiod")
	w.kubectl(t, remote, "-n", "istio-system", "rollout", "status", "deploy/istiod", "--timeout=120s")
	eventually(t, 2*time.Minute, "the caller has a leaf under the new root", func() error {
		out, err := w.try(time.Minute, "kubectl", "--context", remote, "exec", "deploy/caller", "-c", "istio-proxy", "--", "cat", "/certs/root-cert.pem")
		if err != nil || !strings.Contains(out, strings.TrimSpace(string(root.Root.PEM()))) {
			return fmt.Errorf("not yet: %w", err)
		}
		return nil
	})
	// A leaf that the one replica signed when the other had pushed the new roots already is under the old one, and stays.
	for start := time.Now(); time.Since(start) < time.Minute; {
		if answered(w.call(remote, caller, "http://ratings:9080/")) {
			break
		}
	}
	sent, failed := stopAll(t, loads)
	t.Logf("by hand, %d of %d requests failed", failed, sent)
}

// rollbacks goes back from every step of a rotation to where it began, under traffic, and then forth to the end.
func rollbacks(t *testing.T, w *world) {
	patchVM(t, w, `{"spec":{"mtlsConfig":{"rotationVerificationMethod":{"manual":{}}}}}`)
	stop := talk(t, w, caller, true)
	forth := []v1alpha1.RotationStep{v1alpha1.StepAddingNewRoot, v1alpha1.StepPropagatingNewIntermediate, v1alpha1.StepDeletingOldRoot}
	for last := range forth {
		old := w.rotation().RotationID
		w.run(t, time.Minute, "meshctl", "rotation", "start", "--context", management)
		for i := range last + 1 {
			w.verifying(t, old, forth[i])
			if i < last {
				w.run(t, time.Minute, "meshctl", "rotation", "approve", "--context", management)
			}
		}
		for {
			place := w.rotation().Place
			if place == v1alpha1.StepPreviousCA {
				break
			}
			w.run(t, time.Minute, "meshctl", "rotation", "rollback", "--context", management)
			eventually(t, 3*time.Minute, "back from "+string(place), func() error {
				if r := w.rotation(); r.Place == place || r.Place != v1alpha1.StepPreviousCA && r.Step != v1alpha1.StepVerifying {
					return fmt.Errorf("step %s, place %s, waits %v", r.Step, r.Place, r.Waits)
				}
				return nil
			})
		}
		w.verifying(t, old, v1alpha1.StepPreviousCA)
		w.run(t, time.Minute, "meshctl", "rotation", "approve", "--context", management)
		eventually(t, time.Minute, "the end of the way back", func() error {
			closed, r := w.jsonpath(management, "{.items[*].spec.rotation.closed}", "-A", "issuedcertificates"), w.rotation()
			if closed != "true true" || r.Step != v1alpha1.StepPreviousCA {
				return fmt.Errorf("closed are %q, step %s, waits %v", closed, r.Step, r.Waits)
			}
			return nil
		})
		t.Logf("back from %s", forth[last])
	}
	stop()
	patchVM(t, w, `{"spec":{"mtlsConfig":{"rotationVerificationMethod":null}}}`)
}

// talk has all talk to all, on new connections and on lasting ones, until the function that it returns is called, which fails
// the test for every request that failed.
func talk(t *testing.T, w *world, from program, across bool) (stop func()) {
	t.Helper()
	loads := talking(t, w, from, across)
	return func() {
		t.Helper()
		for _, l := range loads {
			l.stopClean(t)
		}
	}
}

// talking has all talk to all, with as many requests however many clusters share the machine, and as many as leave two cores room for
// what is tested: more make a proxy wait, not Isthmus.
func talking(t *testing.T, w *world, from program, across bool) (loads []*load) {
	t.Helper()
	w.calm(t)
	rate := func(of int) string { return strconv.Itoa(of / len(w.contexts)) }
	for _, context := range w.contexts {
		urls := []string{"http://ratings:9080/", "tcp://ratings:9000", "grpc://ratings:9090"}
		for _, o := range w.others(context) {
			if !across {
				break
			}
			host := federated("ratings.default", o)
			urls = append(urls, "http://"+host+":9080/", "tcp://"+host+":9000", "grpc://"+host+":9090")
		}
		loads = append(loads,
			w.startLoadWith(t, context, from, []string{"-rate", rate(40)}, urls...),
			w.startLoadWith(t, context, from, []string{"-rate", rate(16), "-keep"}, urls...))
	}
	return loads
}

// others are the contexts of the members beside one.
func (w *world) others(context string) []string {
	return slices.DeleteFunc(slices.Clone(w.contexts), func(o string) bool { return o == context })
}

// stopAll ends runs and adds up what they sent and what failed.
func stopAll(t *testing.T, loads []*load) (sent, failed int) {
	t.Helper()
	for _, l := range loads {
		s := l.stop(t)
		t.Logf("load in %s: %d sent, %d failed: %v, latency in ms %+v", l.cluster, s.Sent, s.Failed, s.Outcomes, s.LatencyMilliseconds)
		sent, failed = sent+s.Sent, failed+s.Failed
	}
	return sent, failed
}

// proxies are the UIDs of all pods with a proxy, by their names, CONTEXT/NAMESPACE/NAME.
func (w *world) proxies(t *testing.T) map[string]string {
	t.Helper()
	uids := map[string]string{}
	for _, context := range w.contexts {
		for line := range strings.Lines(w.kubectl(t, context, "get", "pods", "-A", "-o",
			`jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name} {.metadata.uid} {.spec.containers[*].name} {.spec.initContainers[*].name}{"\n"}{end}`)) {
			if fields := strings.Fields(line); slices.Contains(fields, "istio-proxy") {
				uids[context+"/"+fields[0]] = fields[1]
			}
		}
	}
	return uids
}

// unchanged makes sure that no workload and no gateway was restarted.
func (w *world) unchanged(t *testing.T, before map[string]string) {
	t.Helper()
	after := w.proxies(t)
	for name, uid := range before {
		if after[name] != uid {
			t.Errorf("%s was restarted", name)
		}
	}
}

// rotation is status.rotation of the virtual mesh; nothing of one if there was none, or if the hub's API server does not answer.
func (w *world) rotation() (r v1alpha1.RotationStatus) {
	for range 3 {
		if json.Unmarshal([]byte(w.jsonpath(management, "{.status.rotation}", "-n", "isthmus-system", "virtualmesh", "virtual-mesh")), &r) == nil {
			break
		}
	}
	return r
}

// finished waits until a rotation after the given one has finished and returns how long its steps took.
func (w *world) finished(t *testing.T, after string, timeout time.Duration) string {
	t.Helper()
	var steps []string
	eventually(t, timeout, "the end of the rotation", func() error {
		r := w.rotation()
		if r.RotationID == after || r.Step != v1alpha1.StepFinished {
			return fmt.Errorf("rotation %s, step %s, waits for %v", r.RotationID, r.Step, r.Waits)
		}
		steps = nil
		for _, c := range r.Conditions {
			if c.State == v1alpha1.StepAddingNewRoot {
				steps = nil // those before were of another rotation
			}
			steps = append(steps, fmt.Sprintf("%s at %s", c.State, c.Timestamp.UTC().Format(time.TimeOnly)))
		}
		return nil
	})
	return strings.Join(steps, ", ")
}

// verifying waits until a rotation after the given one waits for a word about a step.
func (w *world) verifying(t *testing.T, after string, place v1alpha1.RotationStep) {
	t.Helper()
	eventually(t, 5*time.Minute, "step "+string(place), func() error {
		if r := w.rotation(); r.RotationID == after || r.Place != place || r.Step != v1alpha1.StepVerifying {
			return fmt.Errorf("rotation %s, step %s, place %s, waits for %v", r.RotationID, r.Step, r.Place, r.Waits)
		}
		return nil
	})
}

// admitted tells whether istiod lets a client in with the leaf in a directory of the caller's proxy.
func (w *world) admitted(t *testing.T, context, dir string) (admitted bool) {
	t.Helper()
	ask := fmt.Sprintf("if out=$(openssl s_client -tls1_2 -connect istiod.istio-system.svc:15012 -cert %[1]s/cert-chain.pem -cert_chain %[1]s/cert-chain.pem -key %[1]s/key.pem </dev/null 2>&1); "+
		"then echo admitted; else echo \"$out\" | grep -o 'alert .*'; fi", dir)
	eventually(t, time.Minute, "an answer of istiod", func() error {
		out, err := w.try(time.Minute, "kubectl", "--context", context, "exec", "deploy/caller", "-c", "istio-proxy", "--", "sh", "-c", ask)
		admitted = strings.HasPrefix(out, "admitted")
		if !admitted && !strings.HasPrefix(out, "alert unknown ca") {
			return fmt.Errorf("%q: %w", out, err)
		}
		return nil
	})
	return admitted
}

// TestRotationThreeMeshes has a third mesh join two that are one already, while all talk, and then replaces the root twice in a
// row.
func TestRotationThreeMeshes(t *testing.T) {
	takesLong(t)
	w := newWorld(t, "e2e-three", "--clusters", "management-plane,remote-cluster,third-cluster")
	w.install(t, management, remote, third)
	for _, context := range w.contexts {
		w.deploy(t, context, caller)
	}
	proxies := w.proxies(t)
	join(t, w, management, remote)
	stop := talk(t, w, caller, false)
	join(t, w, w.contexts...)
	stop()
	acquaint(t, w)
	stop = talk(t, w, caller, true)
	for range 2 {
		start := time.Now()
		before := w.rotation().RotationID
		w.run(t, time.Minute, "meshctl", "rotation", "start", "--context", management)
		steps := w.finished(t, before, 10*time.Minute)
		t.Logf("finished after %.0f s: %s", time.Since(start).Seconds(), steps)
	}
	stop()
	w.unchanged(t, proxies)
}

// TestRotationRolling is the way of meshes with Istio's own defaults, in which nothing takes a root without a restart: istiod and
// workloads are restarted, rolling, and with a cross-certificate the workloads only once.
func TestRotationRolling(t *testing.T) {
	takesLong(t)
	w := newWorld(t, "e2e-rolling", "--istio-defaults")
	// Leaves live for two minutes: proxies forget the old root when they are renewed, after twelve hours by default.
	for _, context := range []string{management, remote} {
		w.kubectl(t, context, "-n", "istio-system", "set", "env", "deploy/istio-eastwestgateway", "deploy/istio-ingressgateway", "SECRET_TTL=120s")
		for deployment := range strings.FieldsSeq(w.jsonpath(context, "{.items[*].metadata.name}", "-n", "default", "deploy")) {
			w.kubectl(t, context, "patch", "deploy/"+deployment, "--type=merge", "-p",
				`{"spec":{"template":{"metadata":{"annotations":{"proxy.istio.io/config":"{proxyMetadata: {SECRET_TTL: 120s}}"}}}}}`)
		}
		// Who asks is not restarted: nothing would put its Pod back.
		w.apply(t, context, `
apiVersion: v1
kind: Pod
metadata:
  name: walker
  labels: {app: walker}
  annotations: {proxy.istio.io/config: '{proxyMetadata: {SECRET_TTL: 120s}}'}
spec:
  containers: [{name: sample, image: lab.local/sample:1, imagePullPolicy: IfNotPresent, args: [serve, --service=walker]}]
`)
	}
	for _, context := range []string{management, remote} {
		for _, namespace := range []string{"default", "istio-system"} {
			for deployment := range strings.FieldsSeq(w.jsonpath(context, "{.items[*].metadata.name}", "-n", namespace, "deploy")) {
				w.kubectl(t, context, "-n", namespace, "rollout", "status", "deploy/"+deployment, "--timeout=120s")
			}
		}
		w.kubectl(t, context, "wait", "--for=condition=Ready", "pod/walker", "--timeout=90s")
	}
	w.install(t, management, remote)
	walker := program{name: "walker", namespace: "default"}

	before := w.rollouts(t)
	stop := walk(t, w, walker, false)
	join(t, w, w.contexts...)
	stop()
	w.rolled(t, "joining", before)

	federate(t, w, `{"selectors":[{}]}`)
	for _, context := range []string{management, remote} {
		w.created(t, context, "-n", "istio-system", "serviceentry", federated("ratings.default", other(context)))
	}
	before = w.rollouts(t)
	last := w.rotation().RotationID
	stop = walk(t, w, walker, true)
	start := time.Now()
	w.run(t, time.Minute, "meshctl", "rotation", "start", "--context", management)
	steps := w.finished(t, last, 15*time.Minute)
	t.Logf("finished after %.0f s: %s", time.Since(start).Seconds(), steps)
	stop()
	w.rolled(t, "the rotation", before)
}

// TestRotationSlowKubelets is the same with kubelets as they are by default, which project a changed Secret up to a minute and a
// half late, each on its own: replicas of istiod load a change at different moments, so that proxies that one of them has
// pushed are answered by another that is behind. Such laggards are seen, and healed by nudges.
func TestRotationSlowKubelets(t *testing.T) {
	takesLong(t)
	w := newWorld(t, "e2e-slow", "--istiod-replicas", "2", "--kubelet-defaults")
	w.installWith(t, "kubeletProjection=90s", management, remote)
	for _, context := range []string{management, remote} {
		w.deploy(t, context, caller)
	}
	proxies := w.proxies(t)
	stop := talk(t, w, caller, false)
	join(t, w, w.contexts...)
	stop()
	acquaint(t, w)
	before := w.rotation().RotationID
	stop = talk(t, w, caller, true)
	start := time.Now()
	w.run(t, time.Minute, "meshctl", "rotation", "start", "--context", management)
	steps := w.finished(t, before, 15*time.Minute)
	t.Logf("finished after %.0f s: %s; nudges given so far: %s", time.Since(start).Seconds(), steps,
		w.jsonpath(management, "{.items[*].spec.rotation.nudge}", "-A", "issuedcertificates"))
	stop()
	w.unchanged(t, proxies)
}

// walk is talk where workloads are restarted: on new connections only, since one that lasts ends with the server that it is to.
func walk(t *testing.T, w *world, from program, across bool) (stop func()) {
	t.Helper()
	loads := talking(t, w, from, across)
	return func() {
		t.Helper()
		for i, l := range loads {
			if i%2 == 0 {
				l.stopClean(t, noEndpoints, inFlight)
			} else {
				l.stop(t)
			}
		}
	}
}

// rollouts counts the revisions of every Deployment of a mesh.
func (w *world) rollouts(t *testing.T) map[string]int {
	t.Helper()
	out := map[string]int{}
	for _, context := range w.contexts {
		for line := range strings.Lines(w.kubectl(t, context, "get", "deploy", "-A", "-o",
			`jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name} {.metadata.annotations.deployment\.kubernetes\.io/revision}{"\n"}{end}`)) {
			var name string
			var generation int
			if _, err := fmt.Sscan(line, &name, &generation); err == nil && !strings.HasPrefix(name, "isthmus") {
				out[context+" "+name] = generation
			}
		}
	}
	return out
}

// rolled makes sure that every workload was restarted once at most, and logs how often istiods were.
func (w *world) rolled(t *testing.T, what string, before map[string]int) {
	t.Helper()
	for name, generation := range w.rollouts(t) {
		n := generation - before[name]
		if strings.HasSuffix(name, "/istiod") {
			t.Logf("%s restarted %s %d times", what, name, n)
		} else if n > 1 {
			t.Errorf("%s restarted %s %d times", what, name, n)
		}
	}
}
