package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/lab/internal/build"
	"github.com/isthmus-mesh/isthmus/lab/internal/labs"
)

// asLab makes the test binary be the lab program: the tests run it as a user does, and its nodes are made of it.
const asLab = "ISTHMUS_LAB_TEST_AS_LAB"

func TestMain(m *testing.M) {
	if os.Getenv(asLab) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// needLab skips a test that cannot run on this machine, saying why. With CI set in the environment it fails it.
func needLab(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts real clusters: not with -short")
	}
	cannot := t.Skipf
	if os.Getenv("CI") != "" {
		cannot = t.Fatalf
	}
	if os.Getuid() != 0 {
		cannot("starts real clusters: needs root")
	}
	parts, err := build.Default()
	if err != nil {
		t.Fatal(err)
	}
	if missing := parts.Missing(); len(missing) > 0 {
		cannot("starts real clusters: run `lab build` first, %d parts are missing", len(missing))
	}
}

func command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), asLab+"=1")
	return cmd
}

// lab runs a command of the lab, which must succeed.
func lab(t *testing.T, args ...string) string {
	t.Helper()
	out, err := command(t.Context(), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("lab %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// labFails runs a command of the lab, which must fail with an error that says want.
func labFails(t *testing.T, want string, args ...string) {
	t.Helper()
	out, err := command(t.Context(), args...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), want) {
		t.Errorf("lab %s: got %v, want an error that says %q\n%s", strings.Join(args, " "), err, want, out)
	}
}

// unused makes sure of a lab's name, before and after the test.
func unused(t *testing.T, name string) {
	t.Helper()
	lab(t, "down", "--name", name)
	t.Cleanup(func() {
		if out, err := command(context.Background(), "down", "--name", name).CombinedOutput(); err != nil {
			t.Errorf("lab down: %v\n%s", err, out)
		}
	})
}

func status(t *testing.T, name string) (st labs.Status) {
	t.Helper()
	if err := json.Unmarshal([]byte(lab(t, "status", "--name", name, "-o", "json")), &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// nothingLeft fails the test for whatever a lab has left on the machine.
func nothingLeft(t *testing.T, l *labs.Lab) {
	t.Helper()
	if _, err := os.Stat(l.Dir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("directory %s is left (%v)", l.Dir(), err)
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		if i.Name == l.Bridge || strings.HasPrefix(i.Name, l.Bridge+"-") {
			t.Errorf("interface %s is left", i.Name)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), l.Dir()) {
		t.Errorf("mounts below %s are left", l.Dir())
	}
	clients, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range clients {
		if b, err := os.ReadFile(c); err == nil && strings.Contains(string(b), l.Dir()+"/") {
			t.Errorf("process %s still works for the lab", filepath.Dir(c))
		}
	}
	for cluster, groups := range l.Cgroups {
		for _, g := range groups {
			if _, err := os.Stat(g.Dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("control group %s is left (%v)", g.Dir, err)
			}
		}
		processes, err := filepath.Glob("/proc/[0-9]*/cgroup")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range processes {
			b, err := os.ReadFile(p)
			if err == nil && strings.Contains(string(b), "/isthmus-lab-"+l.Name+"-"+cluster) {
				t.Errorf("process %s is left", filepath.Dir(p))
			}
		}
	}
}

func open(t *testing.T, name string) *labs.Lab {
	t.Helper()
	l, err := labs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// kubectl runs the built kubectl against a context of a lab.
func kubectl(t *testing.T, l *labs.Lab, context, stdin string, args ...string) (string, error) {
	t.Helper()
	args = append([]string{"--kubeconfig", l.Kubeconfig(), "--context", context}, args...)
	cmd := exec.CommandContext(t.Context(), filepath.Join(l.Parts.Bin, "kubectl"), args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// eventually waits for a condition of the world outside.
func eventually(t *testing.T, within time.Duration, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestControlPlanes(t *testing.T) {
	needLab(t)
	const name = "test-cp"
	unused(t, name)
	up := []string{"up", "--name", name, "--control-plane-only", "--clusters", "a,b"}
	lab(t, up...)
	l := open(t, name)
	for _, context := range []string{"a-context", "b-context"} {
		if out, err := kubectl(t, l, context, "", "create", "namespace", "only-in-"+context); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if out, err := kubectl(t, l, "a-context", "", "get", "namespace", "only-in-b-context"); err == nil {
		t.Errorf("one API server behind both contexts: %s", out)
	}

	before := status(t, name)
	lab(t, up...)
	if after := status(t, name); after.Clusters[0].PID != before.Clusters[0].PID {
		t.Error("`lab up` on a lab that is up started a new node")
	}
	labFails(t, "other clusters or options", append(up, "--istiod-replicas=2")...)

	// A node that dies is told, and can be removed.
	if err := syscall.Kill(before.Clusters[1].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the lab is Broken", func() bool { return status(t, name).Phase == labs.Broken })
	labFails(t, "lab down", up...)
	lab(t, "down", "--name", name)
	nothingLeft(t, l)
}

func TestLabsDoNotCollide(t *testing.T) {
	needLab(t)
	names := []string{"test-x", "test-y", "test-z"}
	var ups []*exec.Cmd
	for _, n := range names {
		unused(t, n)
		cmd := command(t.Context(), "up", "--name", n, "--control-plane-only", "--clusters", "same")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ups = append(ups, cmd)
	}
	for i, cmd := range ups {
		if err := cmd.Wait(); err != nil {
			t.Fatalf("lab %s: %v", names[i], err)
		}
	}
	servers := map[string]string{}
	for _, n := range names {
		c := status(t, n).Clusters[0]
		if !c.Ready {
			t.Errorf("lab %s: the API server is not ready", n)
		}
		if other, taken := servers[c.Server]; taken {
			t.Errorf("labs %s and %s both have %s", n, other, c.Server)
		}
		servers[c.Server] = n
	}
	gone := open(t, names[0])
	lab(t, "down", "--name", names[0])
	nothingLeft(t, gone)
	for _, n := range names[1:] {
		if !status(t, n).Clusters[0].Ready {
			t.Errorf("lab %s suffered from the end of %s", n, names[0])
		}
	}
}

// TestDownAfterKill kills `lab up` at every point where something new has appeared on the machine.
func TestDownAfterKill(t *testing.T) {
	needLab(t)
	const name = "test-kill"
	dir := filepath.Join(labs.Root, name)
	for _, at := range []string{"", "lab.json", "a/pki", "b/node.json", "kubeconfig", "a/init.pid", "b/init.pid", "a/control.sock", "b/etcd", "a/var/log/pods/*"} {
		t.Run("at "+at, func(t *testing.T) {
			unused(t, name)
			cmd := command(t.Context(), "up", "--name", name, "--clusters", "a,b", "--no-istio")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, 2*time.Minute, filepath.Join(dir, at)+" appears", func() bool {
				found, err := filepath.Glob(filepath.Join(dir, at))
				return err == nil && len(found) > 0
			})
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // killed
			l, err := labs.Open(name)
			if at == "" && errors.Is(err, labs.ErrNotFound) {
				lab(t, "down", "--name", name)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			labFails(t, "lab down", "up", "--name", name, "--clusters", "a,b", "--no-istio")
			lab(t, "down", "--name", name)
			nothingLeft(t, l)
		})
	}
}

func TestInterruptedUpTakesItselfDown(t *testing.T) {
	needLab(t)
	const name = "test-int"
	unused(t, name)
	cmd := command(t.Context(), "up", "--name", name, "--clusters", "a", "--no-istio")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 2*time.Minute, "the node starts", func() bool {
		_, err := os.Stat(filepath.Join(labs.Root, name, "a", "control.sock"))
		return err == nil
	})
	l := open(t, name)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("an interrupted `lab up` says that all is well")
	}
	nothingLeft(t, l)
}

const echo = `
apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {type: LoadBalancer, selector: {app: echo}, ports: [{name: http, port: 8088, targetPort: 9080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      containers:
      - {name: echo, image: "lab.local/sample:1", args: [serve], readinessProbe: {httpGet: {path: /healthz, port: 9080}, periodSeconds: 1}}
`

func TestNodes(t *testing.T) {
	needLab(t)
	const name = "test-nodes"
	unused(t, name)
	lab(t, "up", "--name", name, "--clusters", "a,b", "--no-istio")
	l := open(t, name)
	for _, context := range []string{"a-context", "b-context"} {
		if out, err := kubectl(t, l, context, echo, "apply", "-f", "-"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if out, err := kubectl(t, l, context, "", "wait", "--for=condition=Available", "--timeout=60s", "deployment/echo"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	a, b := status(t, name).Clusters[0], status(t, name).Clusters[1]
	address := fmt.Sprintf("%s:8088", b.NodeIP)
	answers := func() bool { return dials(address) }
	eventually(t, time.Minute, "the load balancer's address answers on the machine", answers)
	// From a pod of the other cluster: its own load program tells what it sees.
	reaches := func() bool {
		out, err := kubectl(t, l, "a-context", "", "exec", "deploy/echo", "--", "/sample", "load", "-url", "http://"+address+"/", "-rate", "5", "-duration", "300ms", "-timeout", "1s")
		return err == nil && strings.Contains(out, `"failed":0`)
	}
	eventually(t, 20*time.Second, "a pod of a reaches b", reaches)

	t.Run("partition", func(t *testing.T) {
		lab(t, "partition", "--name", name, "--cluster", "a", "--from", "b", "--api-server")
		eventually(t, 20*time.Second, "cut off from b's API server, a pod of a reaches b's pods still", reaches)
		serverAddress := strings.TrimPrefix(b.Server, "https://")
		if out, err := command(t.Context(), "exec", "--name", name, "a", "--", "timeout", "1", "bash", "-c", "</dev/tcp/"+strings.ReplaceAll(serverAddress, ":", "/")).CombinedOutput(); err == nil {
			t.Errorf("cut off from b's API server, a connects to it: %s", out)
		}
		lab(t, "partition", "--name", name, "--cluster", "a")
		if reaches() {
			t.Error("cut off from b, a pod of a reaches b")
		}
		if got := status(t, name).Clusters[0].CutFrom; len(got) != 1 || got[0] != "b" {
			t.Errorf("status says that a is cut from %q", got)
		}
		if !answers() {
			t.Error("the machine itself has been cut off")
		}
		lab(t, "heal", "--name", name)
		eventually(t, 20*time.Second, "healed, a pod of a reaches b", reaches)
	})

	t.Run("kill and restart", func(t *testing.T) {
		for _, c := range a.Components {
			lab(t, "kill", c.Name, "--name", name, "--cluster", "a")
		}
		for _, c := range status(t, name).Clusters[0].Components {
			if c.PID != 0 || !c.Down {
				t.Errorf("%s was killed, and is %+v", c.Name, c)
			}
		}
		if st := status(t, name); st.Clusters[0].Ready || !st.Clusters[1].Ready {
			t.Errorf("all of a was killed, none of b; ready are a: %v, b: %v", st.Clusters[0].Ready, st.Clusters[1].Ready)
		}
		for _, c := range a.Components {
			lab(t, "restart", c.Name, "--name", name, "--cluster", "a")
		}
		eventually(t, 60*time.Second, "a new pod is ready in a", func() bool {
			_, err := kubectl(t, l, "a-context", "", "rollout", "restart", "deployment/echo")
			return err == nil
		})
		if out, err := kubectl(t, l, "a-context", "", "rollout", "status", "--timeout=90s", "deployment/echo"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		labFails(t, `"kubelet"`, "kill", "kublet", "--name", name)
	})

	t.Run("load", func(t *testing.T) {
		lab(t, "load", "--name", name, "--cluster", "b", "--ref", "lab.local/loaded:dev", "--binary", filepath.Join(l.Parts.Bin, "sample"))
		if out, err := kubectl(t, l, "b-context", "", "set", "image", "deployment/echo", "echo=lab.local/loaded:dev"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if out, err := kubectl(t, l, "b-context", "", "rollout", "status", "--timeout=60s", "deployment/echo"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		labFails(t, "--ref and --binary", "load", "--name", name, "--ref", "lab.local/loaded:dev")
	})

	t.Run("exec", func(t *testing.T) {
		if got := strings.TrimSpace(lab(t, "exec", "--name", name, "a", "--", "hostname")); got != "a" {
			t.Errorf("the node calls itself %q", got)
		}
		var exit *exec.ExitError
		if err := command(t.Context(), "exec", "--name", name, "a", "--", "sh", "-c", "exit 7").Run(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
			t.Errorf("got %v, want the command's own exit code 7", err)
		}
	})

	lab(t, "down", "--name", name)
	nothingLeft(t, l)
}

func dials(address string) bool {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}
