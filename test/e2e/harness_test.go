package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// The contexts of the guide.
const (
	management = "management-plane-context"
	remote     = "remote-cluster-context"
)

// world is the running lab and the programs that a user has at hand.
type world struct {
	bin, name string
	env       []string
	// contexts of the clusters that are members; the first has the hub.
	contexts []string
}

// scenario is a part of a test, of the world that it has at hand.
type scenario[W any] struct {
	name string
	run  func(*testing.T, W)
}

// inOrder runs scenarios each of which builds on those before it, and ends with the first that fails.
func inOrder[W any](t *testing.T, w W, scenarios []scenario[W]) {
	t.Helper()
	for _, s := range scenarios {
		if !t.Run(s.name, func(t *testing.T) {
			start := time.Now()
			s.run(t, w)
			t.Logf("%s: %.0f s", s.name, time.Since(start).Seconds())
		}) {
			t.Fatal("the following scenarios build on " + s.name)
		}
	}
}

// takesLong skips what takes minutes when tests are to be short, as in `make test`: that has everything else on one machine within an
// hour.
func takesLong(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("it takes minutes: `make test-e2e` runs it, `make test` does not")
	}
}

// long is a scenario that takes long. None builds on it.
func long[W any](run func(*testing.T, W)) func(*testing.T, W) {
	return func(t *testing.T, w W) {
		takesLong(t)
		run(t, w)
	}
}

// newWorld starts a lab of that name for the test alone, with options of `lab up`, or uses the running one that
// ISTHMUS_E2E_LAB names.
func newWorld(t *testing.T, name string, options ...string) *world {
	t.Helper()
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range []string{"lab", "meshctl", "isthmus-hub", "isthmus-agent"} {
		if _, err := os.Stat(filepath.Join(bin, b)); err != nil {
			const why = "bin/ lacks %s: run `make test-e2e`, which builds it (root is needed, and some minutes)"
			if os.Getenv("CI") != "" {
				t.Fatalf(why, b)
			}
			t.Skipf(why, b)
		}
	}
	w := &world{bin: bin, name: os.Getenv("ISTHMUS_E2E_LAB"), env: os.Environ()}
	if w.name == "" {
		w.name = name
		t.Cleanup(func() {
			if t.Failed() {
				w.dump(t)
			}
			if os.Getenv("ISTHMUS_E2E_KEEP") == "" {
				_, _ = w.try(2*time.Minute, "lab", "down", "--name", w.name)
			}
		})
		if _, err := w.try(2*time.Minute, "lab", "down", "--name", w.name); err != nil {
			t.Logf("no earlier lab to take down: %v", err)
		}
		w.run(t, 5*time.Minute, "lab", append([]string{"up", "--name", w.name}, options...)...)
	}
	exports := regexp.MustCompile(`(?m)^export ([A-Z_]+)=(.*)$`).FindAllStringSubmatch(w.run(t, time.Minute, "lab", "env", "--name", w.name), -1)
	for _, m := range exports {
		value := strings.Trim(m[2], `"'`)
		w.env = append(w.env, m[1]+"="+os.Expand(value, os.Getenv))
		if m[1] == "PATH" {
			t.Setenv("PATH", os.Expand(value, os.Getenv))
		}
	}
	return w
}

// labProgram is the path of a program of the lab, the last by name of those that match.
func labProgram(t *testing.T, pattern string) string {
	t.Helper()
	kubectl, err := exec.LookPath("kubectl") // one of them
	if err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(filepath.Dir(kubectl), pattern))
	if err != nil || len(found) == 0 {
		t.Fatalf("the lab has no %s: run `lab build` (%v)", pattern, err)
	}
	return found[len(found)-1]
}

// try runs a program of bin/ or of the PATH and returns what it printed to stdout; the error holds what it printed to stderr.
func (w *world) try(timeout time.Duration, name string, args ...string) (string, error) {
	return w.pipe(timeout, "", name, args...)
}

func (w *world) pipe(timeout time.Duration, stdin, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	path := filepath.Join(w.bin, name)
	if _, err := os.Stat(path); err != nil {
		path = name
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = w.env
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, tail(stderr.String()+stdout.String(), 2000))
	}
	return stdout.String(), nil
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

func (w *world) run(t *testing.T, timeout time.Duration, name string, args ...string) string {
	t.Helper()
	out, err := w.try(timeout, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// kubectl runs kubectl against a context.
func (w *world) kubectl(t *testing.T, context string, args ...string) string {
	t.Helper()
	return w.run(t, 2*time.Minute, "kubectl", append([]string{"--context", context}, args...)...)
}

// apply applies a manifest.
func (w *world) apply(t *testing.T, context, manifest string) {
	t.Helper()
	if _, err := w.pipe(time.Minute, manifest, "kubectl", "--context", context, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

// jsonpath reads one field of an object; "" if the object or the field is absent.
func (w *world) jsonpath(context, path string, args ...string) string {
	out, err := w.try(time.Minute, "kubectl", append([]string{"--context", context, "get", "-o", "jsonpath=" + path}, args...)...)
	if err != nil {
		return ""
	}
	return out
}

// eventually polls until f returns nil.
func eventually(t *testing.T, timeout time.Duration, what string, f func() error) {
	t.Helper()
	start := time.Now()
	for {
		err := f()
		if err == nil {
			t.Logf("%s: after %.1f s", what, time.Since(start).Seconds())
			return
		}
		if time.Since(start) > timeout {
			t.Fatalf("%s: not within %s: %v", what, timeout, err)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// ready waits until the VirtualMesh has state and its Ready condition is true for its present generation.
func (w *world) ready(t *testing.T, name string, timeout time.Duration) {
	t.Helper()
	eventually(t, timeout, "VirtualMesh "+name+" is Ready", func() error {
		out, err := w.try(time.Minute, "kubectl", "--context", management, "-n", "isthmus-system", "get", "virtualmesh.isthmus.dev", name, "-o", "json")
		if err != nil {
			return err
		}
		var vm struct {
			Metadata struct{ Generation int64 }
			Status   struct {
				State              string
				ObservedGeneration int64
				Conditions         []struct{ Type, Status, Reason, Message string }
			}
		}
		if err := json.Unmarshal([]byte(out), &vm); err != nil {
			return err
		}
		for _, c := range vm.Status.Conditions {
			if c.Type == "Ready" && c.Status == "True" && vm.Status.ObservedGeneration == vm.Metadata.Generation && vm.Status.State == "ACCEPTED" {
				return nil
			}
		}
		return fmt.Errorf("state %s, observed %d of %d, conditions %+v", vm.Status.State, vm.Status.ObservedGeneration, vm.Metadata.Generation, vm.Status.Conditions)
	})
}

// sound waits until `meshctl check` finds nothing wrong, and returns what it says. A gateway that has not answered once counts until it
// is asked again.
func (w *world) sound(t *testing.T, args ...string) (out string) {
	t.Helper()
	eventually(t, 2*time.Minute, "meshctl check finds nothing wrong", func() (err error) {
		out, err = w.try(time.Minute, "meshctl", append([]string{"check", "--context", management}, args...)...)
		return err
	})
	return out
}

// condition returns the status, reason and message of a condition of the VirtualMesh.
func (w *world) condition(name, kind string) (status, reason, message string) {
	get := func(field string) string {
		return w.jsonpath(management, fmt.Sprintf(`{.status.conditions[?(@.type=="%s")].%s}`, kind, field), "-n", "isthmus-system", "virtualmesh.isthmus.dev", name)
	}
	return get("status"), get("reason"), get("message")
}

// chain is what the guide looks at: the certificates that ratings presents to reviews, leaf first.
func (w *world) chain(context, deployment string) ([]*x509.Certificate, error) {
	out, err := w.try(30*time.Second, "kubectl", "--context", context, "exec", "deploy/"+deployment, "-c", "istio-proxy", "--",
		"openssl", "s_client", "-showcerts", "-connect", "ratings.default:9080")
	certs := parse([]byte(out))
	if len(certs) < 2 { // openssl's exit code tells of verification, which nobody set up
		return nil, fmt.Errorf("%d certificates presented: %w", len(certs), err)
	}
	return certs, nil
}

func parse(data []byte) []*x509.Certificate {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return certs
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
			certs = append(certs, c)
		}
	}
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// root is the last certificate of the chain, as in the guide.
func root(chain []*x509.Certificate) string { return fingerprint(chain[len(chain)-1]) }

// trusts verifies chain under root alone.
func trusts(root *x509.Certificate, chain []*x509.Certificate) error {
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	opts.Roots.AddCert(root)
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(opts)
	return err
}

// traffic sends requests from a deployment's pod for some seconds and fails the test if one fails. That it can see a
// failure is shown by a path that fails on purpose.
func (w *world) traffic(t *testing.T, context, deployment string, urls ...string) {
	t.Helper()
	send := func(urls ...string) (sent, failed int) {
		args := []string{"exec", "deploy/" + deployment, "--", "/sample", "load", "-rate", "40", "-duration", "3s"}
		for _, u := range urls {
			args = append(args, "-url", u)
		}
		out := w.kubectl(t, context, args...)
		var summary struct{ Sent, Failed int }
		if err := json.Unmarshal([]byte(out), &summary); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if summary.Failed > 0 {
			t.Logf("load: %s", out)
		}
		return summary.Sent, summary.Failed
	}
	if sent, failed := send(strings.TrimSuffix(urls[0], "/") + "/status/503"); failed != sent || sent < 50 {
		t.Fatalf("a path that always fails: %d of %d requests failed", failed, sent)
	}
	if sent, failed := send(urls...); failed != 0 || sent < 50 {
		t.Fatalf("%d of %d requests failed", failed, sent)
	}
}

// guard watches cacerts in a cluster from now on; the function that it returns fails the test if the Secret was ever
// absent, or ever something that istiod would not start with.
func (w *world) guard(t *testing.T, cluster string) (check func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "kubectl", "--context", cluster, "-n", "istio-system", "get", "secrets",
		"--field-selector=metadata.name=cacerts", "--watch", "--output-watch-events", "-o", "json")
	cmd.Env = w.env
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	type event struct {
		Type   string
		Object struct{ Data map[string][]byte }
	}
	first, done := make(chan struct{}), make(chan []error)
	go func() {
		var problems []error
		decoder := json.NewDecoder(out)
		for n := 0; ; n++ {
			var e event
			if decoder.Decode(&e) != nil {
				break
			}
			if n == 0 {
				close(first)
			}
			if e.Type == "DELETED" {
				problems = append(problems, errors.New("cacerts was deleted"))
				continue
			}
			ca, err := pki.ReadCACerts(e.Object.Data, time.Now())
			if err == nil {
				err = ca.Verify(time.Now())
			}
			if err != nil {
				problems = append(problems, fmt.Errorf("cacerts was inconsistent: %w", err))
			}
		}
		done <- problems
	}()
	select {
	case <-first:
	case <-time.After(time.Minute):
		t.Fatalf("%s: cacerts is not to be seen", cluster)
	}
	return func() {
		t.Helper()
		cancel()
		problems := <-done
		_ = cmd.Wait() // ended by the cancelled context
		for _, p := range problems {
			t.Errorf("%s: %v", cluster, p)
		}
	}
}

// dump keeps what helps to understand a failure: how the objects are, and what the programs and proxies have logged.
func (w *world) dump(t *testing.T) {
	t.Helper()
	dir := t.ArtifactDir()
	keep := func(name string, args ...string) {
		out, err := w.try(time.Minute, "kubectl", args...)
		if err != nil {
			out += err.Error()
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(out), 0o600); err != nil {
			t.Log(err)
		}
	}
	keep("hub.yaml", "--context", management, "get", "kc,meshes,ic,certreq,vmesh", "-A", "-o", "yaml")
	for _, context := range w.contexts {
		keep(cluster(context)+"-pods.txt", "--context", context, "get", "pods", "-A", "-o", "wide")
		for pod := range strings.FieldsSeq(w.jsonpath(context, `{range .items[*]}{.metadata.namespace}/{.metadata.name} {end}`, "-A", "pods")) {
			namespace, name, _ := strings.Cut(pod, "/")
			keep(cluster(context)+"-"+namespace+"-"+name+".log", "--context", context, "-n", namespace, "logs", name, "--all-containers", "--prefix")
		}
	}
	t.Logf("state and logs are in %s if this ran with -artifacts", dir)
}
