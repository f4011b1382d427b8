package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func absent(w *world, context string, objects ...string) error {
	var errs []error
	for _, o := range objects {
		args := append([]string{"--context", context, "get", "--ignore-not-found", "-o", "name"}, strings.Fields(o)...)
		if out, err := w.try(time.Minute, "kubectl", args...); err != nil || strings.TrimSpace(out) != "" {
			errs = append(errs, fmt.Errorf("%s is there: %s %w", o, out, err))
		}
	}
	return errors.Join(errs...)
}

func cacertsVersion(w *world, context string) string {
	return w.jsonpath(context, "{.metadata.resourceVersion}", "-n", "istio-system", "secret", "cacerts")
}

func issuance(w *world, cluster string) string {
	return w.jsonpath(management, "{.status.certificate.issuance}/{.status.state}", "-n", "isthmus-"+cluster, "issuedcertificate.isthmus.dev", "istiod-istio-system-"+cluster)
}

func patchVM(t *testing.T, w *world, patch string) {
	t.Helper()
	w.kubectl(t, management, "-n", "isthmus-system", "patch", "virtualmesh", "virtual-mesh", "--type=merge", "-p", patch)
}

// reissue orders new intermediates by a change of their options.
func reissue(t *testing.T, w *world, org string) {
	t.Helper()
	patchVM(t, w, fmt.Sprintf(`{"spec":{"mtlsConfig":{"shared":{"intermediateCertOptions":{"orgName":%q}}}}}`, org))
}

// hubAway: with the hub away nothing that runs stops; what needs it goes on when it is back.
func hubAway(t *testing.T, w *world) {
	scale := func(n string) {
		w.kubectl(t, management, "-n", "isthmus-system", "scale", "deploy/isthmus-hub", "--replicas="+n)
	}
	beforeIssue := issuance(w, "remote-cluster")
	scale("0")
	eventually(t, time.Minute, "the hub is gone", func() error {
		if out := w.jsonpath(management, "{.items[*].metadata.name}", "-n", "isthmus-system", "pods", "-l", "app.kubernetes.io/name=isthmus-hub"); out != "" {
			return errors.New(out)
		}
		return nil
	})
	version := cacertsVersion(w, remote)
	reissue(t, w, "hub-away")
	// The agent, restarted while the hub is away, does its local work: it puts back a cacerts that was deleted.
	w.kubectl(t, remote, "-n", "isthmus-agent", "rollout", "restart", "deploy/isthmus-agent")
	w.kubectl(t, remote, "-n", "isthmus-agent", "rollout", "status", "deploy/isthmus-agent", "--timeout=90s")
	w.kubectl(t, remote, "-n", "istio-system", "delete", "secret", "cacerts")
	eventually(t, time.Minute, "cacerts is put back", func() error {
		if v := cacertsVersion(w, remote); v == "" || v == version {
			return fmt.Errorf("resourceVersion %q", v)
		}
		return nil
	})
	if now := issuance(w, "remote-cluster"); now != beforeIssue {
		t.Fatalf("issued without a hub: %s, then %s", beforeIssue, now)
	}
	scale("1")
	for _, cluster := range []string{"management-plane", "remote-cluster"} {
		eventually(t, 2*time.Minute, "the new intermediate of "+cluster, func() error {
			if got := issuance(w, cluster); got == beforeIssue || !strings.HasSuffix(got, "/FINISHED") {
				return errors.New(got)
			}
			return nil
		})
	}
	w.ready(t, "virtual-mesh", time.Minute)
}

// killed kills a component again and again while an order is carried out.
func killed(t *testing.T, w *world, context, component string) {
	before := issuance(w, "remote-cluster")
	check := w.guard(t, remote)
	reissue(t, w, component)
	for range 3 {
		w.kubectl(t, context, "-n", component, "delete", "pod", "-l", "app.kubernetes.io/part-of=isthmus", "--grace-period=0", "--force")
	}
	eventually(t, 3*time.Minute, "the new intermediate is in use", func() error {
		if got := issuance(w, "remote-cluster"); got == before || !strings.HasSuffix(got, "/FINISHED") {
			return errors.New(got)
		}
		return nil
	})
	w.ready(t, "virtual-mesh", time.Minute)
	check()
}

func agentKilled(t *testing.T, w *world) { killed(t, w, remote, "isthmus-agent") }

func hubKilled(t *testing.T, w *world) { killed(t, w, management, "isthmus-system") }

// clusterAway: a member that cannot reach the hub is shown as away, and nothing of it is deleted.
func clusterAway(t *testing.T, w *world) {
	connected := func(want string) func() error {
		return func() error {
			got := w.jsonpath(management, `{.status.conditions[?(@.type=="Connected")].status}`, "-n", "isthmus-system", "kubernetescluster", "remote-cluster")
			if got != want {
				return fmt.Errorf("Connected is %q", got)
			}
			return nil
		}
	}
	objects := func() string {
		return w.kubectl(t, management, "-n", "isthmus-remote-cluster", "get", "meshes,workloads,destinations,issuedcertificates", "-o",
			`jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.uid}{"\n"}{end}`)
	}
	before := objects()
	w.run(t, time.Minute, "lab", "partition", "--name", w.name, "--cluster", "remote-cluster", "--from", "management-plane", "--api-server")
	eventually(t, 4*time.Minute, "the cluster is shown as away", connected("False"))
	if now := objects(); now != before {
		t.Errorf("objects of the cluster were\n%s\nand while it was away are\n%s", before, now)
	}
	w.run(t, time.Minute, "lab", "heal", "--name", w.name)
	eventually(t, 2*time.Minute, "the cluster is back", connected("True"))
	if now := objects(); now != before {
		t.Errorf("objects of the cluster were\n%s\nand when it came back are\n%s", before, now)
	}
	w.ready(t, "virtual-mesh", time.Minute)
}

// credentialRotated: the agent goes on with its new credential; what the old one is good for is tried with the attacks.
func credentialRotated(t *testing.T, w *world) {
	renewed := func() string {
		return w.jsonpath(management, "{.spec.renewTime}", "-n", "isthmus-remote-cluster", "lease", "isthmus-agent")
	}
	anchor := func() string {
		return w.jsonpath(management, "{.metadata.uid}", "-n", "isthmus-remote-cluster", "secret", "isthmus-agent-credential")
	}
	before := anchor()
	w.run(t, 2*time.Minute, "meshctl", "cluster", "rotate-credentials", "remote-cluster", "--context", management, "--member-context", remote)
	if now := anchor(); now == before || now == "" {
		t.Fatalf("the Secret that the old credential is bound to was %s, is %s", before, now)
	}
	last := renewed()
	eventually(t, time.Minute, "a heartbeat with the new credential", func() error {
		if renewed() == last {
			return errors.New("none since " + last)
		}
		return nil
	})
}

// apiServerRestarted: the API server of a member goes away and comes back; nothing is rewritten.
func apiServerRestarted(t *testing.T, w *world) {
	version := cacertsVersion(w, remote)
	w.run(t, time.Minute, "lab", "kill", "kube-apiserver", "--name", w.name, "--cluster", "remote-cluster")
	if _, err := w.try(20*time.Second, "kubectl", "--context", remote, "get", "ns"); err == nil {
		t.Fatal("the API server answers although it was killed")
	}
	w.run(t, 2*time.Minute, "lab", "restart", "kube-apiserver", "--name", w.name, "--cluster", "remote-cluster")
	eventually(t, 2*time.Minute, "the API server answers", func() error {
		_, err := w.try(20*time.Second, "kubectl", "--context", remote, "get", "ns")
		return err
	})
	before := issuance(w, "remote-cluster")
	reissue(t, w, "api-server-restarted")
	eventually(t, 3*time.Minute, "orders are carried out again", func() error {
		if got := issuance(w, "remote-cluster"); got == before || !strings.HasSuffix(got, "/FINISHED") {
			return errors.New(got)
		}
		return nil
	})
	if cacertsVersion(w, remote) == version {
		t.Fatal("cacerts was not renewed")
	}
	w.ready(t, "virtual-mesh", time.Minute)
}

// restored: the hub's objects are restored from a backup without status. It converges without a new root and without a
// change of the intermediates in use.
func restored(t *testing.T, w *world) {
	const kinds = "virtualmeshes.isthmus.dev,kubernetesclusters.isthmus.dev,secrets"
	var backup struct {
		APIVersion string           `json:"apiVersion"`
		Kind       string           `json:"kind"`
		Items      []map[string]any `json:"items"`
	}
	backup.APIVersion, backup.Kind = "v1", "List"
	var all struct{ Items []map[string]any }
	if err := json.Unmarshal([]byte(w.kubectl(t, management, "-n", "isthmus-system", "get", kinds, "-o", "json")), &all); err != nil {
		t.Fatal(err)
	}
	for _, o := range all.Items {
		if o["kind"] == "Secret" && o["type"] != "isthmus.dev/ca-root" {
			continue
		}
		meta := o["metadata"].(map[string]any)
		delete(o, "status")
		for _, f := range []string{"uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "finalizers", "ownerReferences"} {
			delete(meta, f)
		}
		backup.Items = append(backup.Items, o)
	}
	manifest, err := json.Marshal(backup)
	if err != nil {
		t.Fatal(err)
	}
	roots := func() string {
		return w.jsonpath(management, "{.items[*].metadata.name}", "-n", "isthmus-system", "secrets", "--field-selector", "type=isthmus.dev/ca-root")
	}
	rootsBefore, versions := roots(), map[string]string{}
	data := func(context string) string {
		return w.jsonpath(context, "{.data}", "-n", "istio-system", "secret", "cacerts")
	}
	for _, context := range []string{management, remote} {
		versions[context] = data(context)
	}

	checks := []func(){w.guard(t, management), w.guard(t, remote)}

	// The disaster: the hub stops and all that it knew is gone, the orders too; etcd was lost, so no finalizer ran.
	w.kubectl(t, management, "-n", "isthmus-system", "scale", "deploy/isthmus-hub", "--replicas=0")
	for _, ns := range []string{"isthmus-management-plane", "isthmus-remote-cluster"} {
		w.kubectl(t, management, "-n", ns, "delete", "issuedcertificates,certificaterequests", "--all")
	}
	for _, kind := range []string{"virtualmeshes.isthmus.dev", "kubernetesclusters.isthmus.dev"} {
		names := strings.FieldsSeq(w.jsonpath(management, "{.items[*].metadata.name}", "-n", "isthmus-system", kind))
		for name := range names {
			w.kubectl(t, management, "-n", "isthmus-system", "patch", kind, name, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
			w.kubectl(t, management, "-n", "isthmus-system", "delete", kind, name)
		}
	}
	w.kubectl(t, management, "-n", "isthmus-system", "delete", "secrets", "--field-selector", "type=isthmus.dev/ca-root")
	w.apply(t, management, string(manifest))
	w.kubectl(t, management, "-n", "isthmus-system", "scale", "deploy/isthmus-hub", "--replicas=1")
	w.ready(t, "virtual-mesh", 3*time.Minute)
	for _, check := range checks {
		check()
	}

	if now := roots(); now != rootsBefore {
		t.Fatalf("root Secrets were %q, are %q", rootsBefore, now)
	}
	for _, context := range []string{management, remote} {
		certs, err := w.chain(context, map[string]string{management: "reviews-v1", remote: "reviews-v3"}[context])
		if err != nil {
			t.Fatal(err)
		}
		if fp := w.jsonpath(management, "{.status.deployedSharedTrust.root}", "-n", "isthmus-system", "virtualmesh", "virtual-mesh"); fp != root(certs) {
			t.Fatalf("%s: the hub says that root %s is deployed, ratings presents %s", context, fp, root(certs))
		}
		if data(context) == "" {
			t.Fatalf("%s: cacerts is gone", context)
		}
	}
}
