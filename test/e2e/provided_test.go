package e2e

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
)

func secret(name string, data map[string][]byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: isthmus-system}\ndata:\n", name)
	for k, v := range data {
		fmt.Fprintf(&b, "  %s: %s\n", k, base64.StdEncoding.EncodeToString(v))
	}
	return b.String()
}

func providedVM(name, secretName string) string {
	return fmt.Sprintf(`
apiVersion: isthmus.dev/v1alpha1
kind: VirtualMesh
metadata: {name: %s, namespace: isthmus-system}
spec:
  mtlsConfig:
    autoRestartPods: true
    shared:
      rootCertificateAuthority:
        secret: {name: %s}
      intermediateCertOptions: {rsaKeySizeBytes: 2048}
  meshes:
  - name: istiod-istio-system-remote-cluster
`, name, secretName)
}

// refused: a certificate authority that cannot serve leaves everything as it was and says why; so does asking for
// another root where one is deployed.
func refused(t *testing.T, w *world) {
	before := map[string]string{management: cacertsVersion(w, management), remote: cacertsVersion(w, remote)}
	for _, wrong := range pkitest.WrongSecrets(t, time.Now()) {
		switch wrong.Name {
		case "not a CA", "key of another", "expired", "root of another", "path length 0":
		default:
			continue // all of them are tried against the API server alone
		}
		name := "wrong-" + strings.ToLower(strings.ReplaceAll(wrong.Name, " ", "-"))
		w.apply(t, management, secret(name, wrong.Data))
		patchVM(t, w, fmt.Sprintf(`{"spec":{"mtlsConfig":{"shared":{"rootCertificateAuthority":{"generated":null,"secret":{"name":%q}}}}}}`, name))
		eventually(t, time.Minute, wrong.Name+" is refused", func() error {
			state := w.jsonpath(management, "{.status.state} {.status.observedGeneration} {.metadata.generation} {.status.errors}", "-n", "isthmus-system", "virtualmesh", "virtual-mesh")
			f := strings.Fields(state)
			if len(f) < 4 || f[0] != "INVALID" || f[1] != f[2] || !strings.Contains(state, wrong.Key) || !strings.Contains(state, name) {
				return fmt.Errorf("status: %s", state)
			}
			return nil
		})
	}
	patchVM(t, w, `{"spec":{"mtlsConfig":{"shared":{"rootCertificateAuthority":{"secret":null,"generated":{"ttlDays":356,"rsaKeySizeBytes":4096,"orgName":"isthmus"}}}}}}`)
	w.ready(t, "virtual-mesh", time.Minute)
	for context, version := range before {
		if now := cacertsVersion(w, context); now != version {
			t.Errorf("%s: cacerts was written: %s, then %s", context, version, now)
		}
	}
}

// providedRoot: a root of the user's own, in each form of its Secret but that of cert-manager, is what the mesh then uses. istiod and the workloads
// are restarted by the agent, as autoRestartPods allows.
func providedRoot(t *testing.T, w *world) {
	patchVM(t, w, `{"spec":{"meshes":[{"name":"istiod-istio-system-management-plane"}]}}`)
	w.ready(t, "virtual-mesh", time.Minute)
	now := time.Now()
	forms := map[string]struct {
		ca   *pkitest.CA
		data func(*pkitest.CA) map[string][]byte
	}{
		"root-and-key": {pkitest.NewRoot(t, "root-and-key", now), func(c *pkitest.CA) map[string][]byte { return c.RootSecret(t) }},
		"istio":        {pkitest.NewRoot(t, "istio", now).Intermediate(t, "issuing"), func(c *pkitest.CA) map[string][]byte { return c.IstioSecret(t) }},
	}
	for name, form := range forms {
		w.selfSigned(t)
		w.apply(t, management, secret(name, form.data(form.ca)))
		w.apply(t, management, providedVM(name, name))
		w.ready(t, name, 4*time.Minute)
		eventually(t, time.Minute, name+": ratings presents a leaf under the provided root", func() error {
			certs, err := w.chain(remote, "reviews-v3")
			if err != nil {
				return err
			}
			return trusts(form.ca.Top().Cert, certs)
		})
		w.kubectl(t, management, "-n", "isthmus-system", "delete", "virtualmesh", name)
	}
}

// selfSigned gives the remote mesh back to istiod's own CA, as an administrator would do by hand.
func (w *world) selfSigned(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, "no order is left for the remote mesh", func() error {
		_, err := w.try(time.Minute, "kubectl", "--context", management, "-n", "isthmus-remote-cluster", "delete", "issuedcertificates", "--all", "--ignore-not-found")
		if err != nil {
			return err
		}
		return absent(w, management, "issuedcertificates -n isthmus-remote-cluster")
	})
	w.run(t, time.Minute, "meshctl", "mesh", "release", "istiod-istio-system-remote-cluster", "--context", management, "--member-context", remote)
	w.kubectl(t, remote, "-n", "istio-system", "delete", "secret", "cacerts", "--ignore-not-found")
	w.kubectl(t, remote, "-n", "istio-system", "rollout", "restart", "deploy/istiod")
	w.kubectl(t, remote, "-n", "istio-system", "rollout", "status", "deploy/istiod", "--timeout=90s")
	eventually(t, time.Minute, "the mesh is self-signed", func() error {
		if s := w.jsonpath(management, "{.status.certificateAuthority.source}", "-n", "isthmus-remote-cluster", "mesh", "istiod-istio-system-remote-cluster"); s != "SelfSigned" {
			return fmt.Errorf("source is %q", s)
		}
		return nil
	})
}
