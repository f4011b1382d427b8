package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const virtualMesh = `
apiVersion: isthmus.dev/v1alpha1
kind: VirtualMesh
metadata:
  name: virtual-mesh
  namespace: isthmus-system
spec:
  displayName: Demo Mesh Federation
  mtlsConfig:
    shared:
      rootCertificateAuthority:
        generated:
          ttlDays: 356
          rsaKeySizeBytes: 4096
          orgName: isthmus
  meshes:
  - name: istiod-istio-system-management-plane
  - name: istiod-istio-system-remote-cluster
`

// guide: two meshes with different roots become one with the same root.
func guide(t *testing.T, w *world) {
	before := map[string]string{}
	for context, deployment := range map[string]string{management: "reviews-v1", remote: "reviews-v3"} {
		certs, err := w.chain(context, deployment)
		if err != nil {
			t.Fatal(err)
		}
		before[context] = root(certs)
	}
	if before[management] == before[remote] {
		t.Fatal("the lab is wrong: both clusters have the same root already")
	}

	w.apply(t, management, virtualMesh)
	for _, context := range []string{management, remote} {
		eventually(t, 2*time.Minute, "cacerts in "+context, func() error {
			if kind := w.jsonpath(context, "{.type}", "-n", "istio-system", "secret", "cacerts"); kind != "isthmus.dev/ca-intermediate" {
				return fmt.Errorf("type is %q", kind)
			}
			return nil
		})
		for _, key := range []string{`ca-cert\.pem`, `ca-key\.pem`, `cert-chain\.pem`, `root-cert\.pem`} {
			if w.jsonpath(context, "{.data."+key+"}", "-n", "istio-system", "secret", "cacerts") == "" {
				t.Errorf("%s: cacerts lacks %s", context, key)
			}
		}
	}

	// Restarting is left to the user, and said.
	eventually(t, time.Minute, "the status says that a restart is needed", func() error {
		status, _, message := w.condition("virtual-mesh", "RestartPending")
		if status != "True" || !strings.Contains(message, "meshctl mesh restart") {
			return fmt.Errorf("RestartPending is %q: %s", status, message)
		}
		return nil
	})
	for context, deployment := range map[string]string{management: "reviews-v1", remote: "reviews-v3"} {
		certs, err := w.chain(context, deployment)
		if err != nil {
			t.Fatal(err)
		}
		if root(certs) != before[context] {
			t.Fatalf("%s: restarted without permission", context)
		}
	}
	for cluster, context := range map[string]string{"management-plane": management, "remote-cluster": remote} {
		w.run(t, 5*time.Minute, "meshctl", "mesh", "restart", "istiod-istio-system-"+cluster, "--context", management, "--member-context", context)
	}
	w.ready(t, "virtual-mesh", 2*time.Minute)

	one, err := w.chain(management, "reviews-v1")
	if err != nil {
		t.Fatal(err)
	}
	two, err := w.chain(remote, "reviews-v3")
	if err != nil {
		t.Fatal(err)
	}
	if root(one) != root(two) || root(one) == before[management] || root(one) == before[remote] {
		t.Fatalf("roots: %s and %s, before %v", root(one), root(two), before)
	}
	if err := trusts(one[len(one)-1], two); err != nil {
		t.Fatalf("a leaf of the remote cluster does not verify under the root of the management cluster: %v", err)
	}
	if fingerprint(one[1]) == fingerprint(two[1]) {
		t.Fatal("both clusters have the same intermediate: a private key has left its cluster")
	}
	w.traffic(t, management, "productpage-v1", "http://reviews:9080/", "http://details:9080/", "tcp://ratings:9000")
	w.traffic(t, remote, "reviews-v3", "http://ratings:9080/", "tcp://ratings:9000")
	w.sound(t)
	if out := w.run(t, time.Minute, "meshctl", "describe", "virtualmesh", "virtual-mesh", "--context", management); !strings.Contains(out, root(one)[:16]) {
		t.Fatalf("describe does not name the root %s: %s", root(one), out)
	}
}
