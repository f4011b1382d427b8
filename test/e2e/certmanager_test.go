package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// certManager: the root of two meshes is one that cert-manager maintains. It renews it, first with another key and then with the
// same, while their workloads talk, and not one request may fail.
func certManager(t *testing.T, w *world) {
	w.startCertManager(t)
	w.apply(t, management, `
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: self-signed, namespace: isthmus-system}
spec: {selfSigned: {}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: mesh-root, namespace: isthmus-system}
spec:
  secretName: mesh-root
  isCA: true
  commonName: mesh root
  duration: 8760h
  renewBefore: 720h
  privateKey: {algorithm: ECDSA, size: 384}
  issuerRef: {name: self-signed}
`)
	w.kubectl(t, management, "-n", "isthmus-system", "wait", "certificate/mesh-root", "--for=condition=Ready", "--timeout=60s")
	w.kubectl(t, management, "-n", "isthmus-system", "delete", "virtualmesh", "--all")
	w.apply(t, management, `
apiVersion: isthmus.dev/v1alpha1
kind: VirtualMesh
metadata: {name: virtual-mesh, namespace: isthmus-system}
spec:
  mtlsConfig:
    autoRestartPods: true
    shared:
      rootCertificateAuthority:
        secret: {name: mesh-root}
  federation: {selectors: [{}]}
  meshes:
  - {name: istiod-istio-system-management-plane}
  - {name: istiod-istio-system-remote-cluster}
`)
	for _, context := range []string{management, remote} {
		w.deploy(t, context, caller)
	}
	w.ready(t, "virtual-mesh", 10*time.Minute)
	root := w.certManagerRoot(t)
	// The second mesh comes from the root of the scenario before by a rotation of its own, before which all may be as it was.
	eventually(t, 5*time.Minute, "cert-manager's root is that of both meshes", func() error {
		if used := w.rootInUse(); used != root {
			return fmt.Errorf("the meshes use root %s, cert-manager's is %s", used, root)
		}
		return nil
	})
	w.ready(t, "virtual-mesh", 5*time.Minute)
	for _, context := range []string{management, remote} {
		w.want(t, context, caller, answeredBy("ratings", other(context)), "http://"+federated("ratings.default", other(context))+":9080/")
		w.seesFailures(t, context, caller, "http://ratings:9080")
	}

	for _, policy := range []string{"Always", "Never"} {
		w.kubectl(t, management, "-n", "isthmus-system", "patch", "certificate", "mesh-root", "--type=merge", "-p", `{"spec":{"privateKey":{"rotationPolicy":"`+policy+`"}}}`)
		before := w.rotation().RotationID
		stop := talk(t, w, caller, true)
		proxies := w.proxies(t)
		start := time.Now()
		w.renew(t, "mesh-root")
		eventually(t, 5*time.Minute, "both meshes trust both roots", func() error {
			if r := w.rotation(); r.RotationID == before || r.Place == v1alpha1.StepAddingNewRoot {
				return fmt.Errorf("rotation %s, step %s, waits for %v", r.RotationID, r.Step, r.Waits)
			}
			return nil
		})
		renewed := w.certManagerRoot(t)
		if renewed == root {
			t.Fatal("cert-manager has the same root as before")
		}
		for _, context := range []string{management, remote} {
			bundle := parse([]byte(w.jsonpath(context, `{.data.root-cert\.pem}`, "-n", "default", "configmap", "istio-ca-root-cert")))
			if len(bundle) == 1 { // unless the old one has been dropped by now
				if r := w.rotation(); r.Place != v1alpha1.StepDeletingOldRoot && r.Step != v1alpha1.StepFinished {
					t.Errorf("%s: workloads trust %d roots in step %s", context, len(bundle), r.Step)
				}
				continue
			}
			if len(bundle) != 2 || fingerprint(bundle[0]) != root || fingerprint(bundle[1]) != renewed {
				t.Errorf("%s: workloads trust %d roots, not the old one and the new one", context, len(bundle))
			} else if same := slices.Equal(bundle[0].RawSubjectPublicKeyInfo, bundle[1].RawSubjectPublicKeyInfo); same != (policy == "Never") {
				t.Errorf("with rotationPolicy %s it is %v that the key is the same", policy, same)
			}
		}
		steps := w.finished(t, before, 10*time.Minute)
		w.ready(t, "virtual-mesh", time.Minute)
		t.Logf("rotationPolicy %s: finished after %.0f s: %s", policy, time.Since(start).Seconds(), steps)
		stop()
		w.unchanged(t, proxies)
		if used := w.rootInUse(); used != renewed {
			t.Errorf("the meshes use root %s, cert-manager's is %s", used, renewed)
		}
		for _, context := range []string{management, remote} {
			bundle := parse([]byte(w.jsonpath(context, `{.data.root-cert\.pem}`, "-n", "default", "configmap", "istio-ca-root-cert")))
			if len(bundle) != 1 || fingerprint(bundle[0]) != renewed {
				t.Errorf("%s: workloads trust %d roots in the end", context, len(bundle))
			}
		}
		root = renewed
	}
}

// startCertManager installs cert-manager's kinds and controllers in the hub's cluster.
func (w *world) startCertManager(t *testing.T) {
	t.Helper()
	bin := filepath.Join(strings.TrimSpace(w.run(t, 30*time.Minute, "lab", "build", "--only", "cert-manager")), "bin")
	definitions, err := filepath.Glob(filepath.Join(bin, "cert-manager-*.crds.yaml"))
	if err != nil || len(definitions) == 0 {
		t.Fatalf("%s has no cert-manager: %v", bin, err)
	}
	file := definitions[len(definitions)-1]
	manifest, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.pipe(time.Minute, string(manifest), "kubectl", "--context", management, "apply", "--server-side", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	w.run(t, 2*time.Minute, "lab", "load", "--name", w.name, "--cluster", cluster(management), "--ref", "lab.local/cert-manager:dev", "--binary", strings.TrimSuffix(file, ".crds.yaml"))
	w.apply(t, management, `
apiVersion: v1
kind: Namespace
metadata: {name: cert-manager}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: cert-manager, namespace: cert-manager}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: cert-manager}
rules:
- {apiGroups: [cert-manager.io], resources: ["*"], verbs: ["*"]}
- {apiGroups: [""], resources: [secrets], verbs: [get, list, watch, create, update, patch, delete]}
- {apiGroups: [""], resources: [events], verbs: [create, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: cert-manager}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cert-manager}
subjects: [{kind: ServiceAccount, name: cert-manager, namespace: cert-manager}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cert-manager, namespace: cert-manager}
spec:
  selector: {matchLabels: {app: cert-manager}}
  template:
    metadata: {labels: {app: cert-manager}}
    spec:
      serviceAccountName: cert-manager
      containers: [{name: cert-manager, image: "lab.local/cert-manager:dev", imagePullPolicy: IfNotPresent}]
`)
	w.kubectl(t, management, "wait", "--for=condition=Established", "--timeout=60s", "crd/issuers.cert-manager.io", "crd/certificates.cert-manager.io")
	w.kubectl(t, management, "-n", "cert-manager", "rollout", "status", "deploy/cert-manager", "--timeout=60s")
}

// renew has a Certificate issued anew, as `cmctl renew` does, and waits until its Secret holds another one.
func (w *world) renew(t *testing.T, name string) {
	t.Helper()
	before := w.certManagerRoot(t)
	var c struct {
		Metadata struct{ Generation int64 }
		Status   struct{ Conditions []map[string]any }
	}
	if err := json.Unmarshal([]byte(w.kubectl(t, management, "-n", "isthmus-system", "get", "certificate", name, "-o", "json")), &c); err != nil {
		t.Fatal(err)
	}
	c.Status.Conditions = append(c.Status.Conditions, map[string]any{
		"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "Certificate re-issuance manually triggered",
		"lastTransitionTime": time.Now().UTC().Format(time.RFC3339), "observedGeneration": c.Metadata.Generation,
	})
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": c.Status.Conditions}})
	if err != nil {
		t.Fatal(err)
	}
	w.kubectl(t, management, "-n", "isthmus-system", "patch", "certificate", name, "--subresource=status", "--type=merge", "-p", string(patch))
	eventually(t, time.Minute, "cert-manager renews "+name, func() error {
		if w.certManagerRoot(t) == before {
			return fmt.Errorf("not yet: %s", w.jsonpath(management, "{.status.conditions}", "-n", "isthmus-system", "certificate", name))
		}
		return nil
	})
}

// certManagerRoot is the one certificate that cert-manager's Secret holds as the root, and as what signs.
func (w *world) certManagerRoot(t *testing.T) string {
	t.Helper()
	fields := strings.Fields(w.jsonpath(management, `{.data.ca\.crt} {.data.tls\.crt}`, "-n", "isthmus-system", "secret", "mesh-root"))
	if len(fields) != 2 || fields[0] != fields[1] {
		t.Fatalf("Secret mesh-root has %d of ca.crt and tls.crt, or they differ", len(fields))
	}
	text, err := base64.StdEncoding.DecodeString(fields[0])
	if err != nil {
		t.Fatal(err)
	}
	certs := parse(text)
	if len(certs) != 1 {
		t.Fatalf("ca.crt holds %d certificates", len(certs))
	}
	return fingerprint(certs[0])
}

// rootInUse is the root that every member was seen to be under.
func (w *world) rootInUse() string {
	return w.jsonpath(management, "{.status.deployedSharedTrust.root}", "-n", "isthmus-system", "virtualmesh", "virtual-mesh")
}
