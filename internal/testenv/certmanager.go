package testenv

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// CertManager is cert-manager's controllers at work on an API server.
type CertManager struct{ cluster *Cluster }

// StartCertManager installs cert-manager's kinds and starts its controllers, until the test ends. It needs a cert-manager-<version>
// beside the binaries of API servers, and does without it what Start does.
func StartCertManager(t testing.TB, c *Cluster) *CertManager {
	t.Helper()
	definitions, err := filepath.Glob(filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "cert-manager-*.crds.yaml"))
	if err != nil || len(definitions) == 0 {
		const why = "KUBEBUILDER_ASSETS does not name a directory with cert-manager-<version>; run `make test`, or `lab build --only cert-manager` and set it"
		if os.Getenv("CI") != "" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	newest := definitions[len(definitions)-1]
	if _, err := envtest.InstallCRDs(c.Config, envtest.CRDInstallOptions{Paths: []string{newest}}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(kubeconfig, c.Kubeconfig(t, c.Config, ""), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	process := exec.Command(newest[:len(newest)-len(".crds.yaml")], "--kubeconfig", kubeconfig)
	process.Stdout, process.Stderr = log, log
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = process.Process.Kill()
		_ = process.Wait()
		_ = log.Close()
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("cert-manager:\n%s", text)
		}
	})
	return &CertManager{cluster: c}
}

// Issuer makes an Issuer, of the Secret of a Certificate or, without one, of certificates that sign themselves.
func (m *CertManager) Issuer(t testing.TB, namespace, name, secret string) {
	t.Helper()
	spec := map[string]any{"selfSigned": map[string]any{}}
	if secret != "" {
		spec = map[string]any{"ca": map[string]any{"secretName": secret}}
	}
	m.create(t, "Issuer", namespace, name, spec)
}

// CA makes a Certificate, with a Secret of its name, of a certificate authority; further fields of its spec are added.
func (m *CertManager) CA(t testing.TB, namespace, name, issuer string, fields map[string]any) {
	t.Helper()
	spec := map[string]any{
		"isCA": true, "commonName": name, "secretName": name, "issuerRef": map[string]any{"name": issuer},
		"privateKey": map[string]any{"algorithm": "ECDSA", "size": int64(256)},
	}
	maps.Copy(spec, fields)
	m.create(t, "Certificate", namespace, name, spec)
}

func (m *CertManager) create(t testing.TB, kind, namespace, name string, spec map[string]any) {
	t.Helper()
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "cert-manager.io/v1", "kind": kind, "metadata": map[string]any{"namespace": namespace, "name": name}, "spec": spec,
	}}
	if err := m.cluster.Client.Create(context.Background(), o); err != nil {
		t.Fatal(err)
	}
}

// Renew has a Certificate issued anew, as `cmctl renew` does, and waits until its Secret is another one. It returns what is in it.
func (m *CertManager) Renew(t testing.TB, namespace, name string) map[string][]byte {
	t.Helper()
	before := m.Secret(t, namespace, name)
	c := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "cert-manager.io/v1", "kind": "Certificate"}}
	Eventually(t, "renewal of "+name, func() error {
		if err := m.cluster.Client.Get(context.Background(), client.ObjectKey{Namespace: namespace, Name: name}, c); err != nil {
			return err
		}
		conditions, _, err := unstructured.NestedSlice(c.Object, "status", "conditions")
		if err != nil {
			return err
		}
		conditions = append(conditions, map[string]any{
			"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "Certificate re-issuance manually triggered",
			"lastTransitionTime": metav1.Now().UTC().Format("2006-01-02T15:04:05Z"), "observedGeneration": c.GetGeneration(),
		})
		if err := unstructured.SetNestedSlice(c.Object, conditions, "status", "conditions"); err != nil {
			return err
		}
		return m.cluster.Client.Status().Update(context.Background(), c)
	})
	Eventually(t, "another certificate in Secret "+name, func() error {
		if after := m.Secret(t, namespace, name); string(after[corev1.TLSCertKey]) == string(before[corev1.TLSCertKey]) {
			return fmt.Errorf("the same as before; status %v", c.Object["status"])
		}
		return nil
	})
	return m.Settled(t, namespace, name)
}

// Settled waits until cert-manager is done with a Certificate, and returns what is in its Secret. By a cache that is behind it now
// and then issues twice in a row: it is done when it issues nothing, and the Secret has stayed as it is for a while.
func (m *CertManager) Settled(t testing.TB, namespace, name string) (data map[string][]byte) {
	t.Helper()
	c := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "cert-manager.io/v1", "kind": "Certificate"}}
	last, since := "", time.Now()
	Eventually(t, "Certificate "+name+" to settle", func() error {
		if err := m.cluster.Client.Get(context.Background(), client.ObjectKey{Namespace: namespace, Name: name}, c); err != nil {
			return err
		}
		conditions, _, err := unstructured.NestedSlice(c.Object, "status", "conditions")
		if err != nil {
			return err
		}
		issuing := slices.ContainsFunc(conditions, func(c any) bool {
			condition, ok := c.(map[string]any)
			return ok && condition["type"] == "Issuing" && condition["status"] == "True"
		})
		data = m.Secret(t, namespace, name)
		if now := string(data[corev1.TLSCertKey]); now != last || issuing {
			last, since = now, time.Now()
		}
		if d := time.Since(since); d < 3*time.Second {
			return fmt.Errorf("last change %s ago; status %v", d, c.Object["status"])
		}
		return nil
	})
	return data
}

// Secret waits for the Secret of a Certificate to be filled, and returns what is in it.
func (m *CertManager) Secret(t testing.TB, namespace, name string) map[string][]byte {
	t.Helper()
	secret := &corev1.Secret{}
	Eventually(t, "Secret "+name, func() error {
		if err := m.cluster.Client.Get(context.Background(), client.ObjectKey{Namespace: namespace, Name: name}, secret); err != nil {
			return err
		}
		if len(secret.Data[corev1.TLSCertKey]) == 0 {
			return fmt.Errorf("no certificate in it, but %d keys", len(secret.Data))
		}
		return nil
	})
	return secret.Data
}
