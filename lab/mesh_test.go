package main

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/lab/internal/labs"
)

// TestMesh looks at two clusters with everything in them, and with the options that concern Istio.
func TestMesh(t *testing.T) {
	needLab(t)
	const name = "test-mesh"
	unused(t, name)
	lab(t, "up", "--name", name, "--clusters", "a,b", "--istiod-replicas", "2", "--trust-domain", "b=b.example")
	l := open(t, name)

	t.Run("every mesh has a root of its own", func(t *testing.T) {
		a, b := presentedRoot(t, l, "a-context", "reviews-v1"), presentedRoot(t, l, "b-context", "reviews-v3")
		if a.Equal(b) {
			t.Errorf("both clusters present %s, serial %s", a.Subject, a.SerialNumber)
		}
	})

	t.Run("services know their callers", func(t *testing.T) {
		for context, tt := range map[string]struct{ service, by, caller string }{
			"a-context": {"productpage", "By=spiffe://cluster.local/ns/default/sa/bookinfo-reviews;", "URI=spiffe://cluster.local/ns/default/sa/bookinfo-productpage"},
			"b-context": {"reviews", "By=spiffe://b.example/ns/default/sa/bookinfo-ratings;", "URI=spiffe://b.example/ns/default/sa/bookinfo-reviews"},
		} {
			// The answer of a service holds those of the services that it calls, with the headers that those have seen.
			got := mustKubectl(t, l, context, "get", "--raw", "/api/v1/namespaces/default/services/"+tt.service+":9080/proxy/")
			if !strings.Contains(got, tt.by) || !strings.Contains(got, tt.caller) {
				t.Errorf("%s: lacks %s or %s:\n%s", context, tt.by, tt.caller, got)
			}
		}
	})

	t.Run("gateways have addresses", func(t *testing.T) {
		for _, c := range l.Clusters {
			for _, gateway := range []string{"istio-ingressgateway", "istio-eastwestgateway"} {
				got := mustKubectl(t, l, c.Context, "get", "service", "-n", "istio-system", gateway, "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}")
				if got != c.NodeIP.String() {
					t.Errorf("%s of %s has %q, want %s", gateway, c.Name, got, c.NodeIP)
				}
			}
		}
	})

	t.Run("istiod has its replicas", func(t *testing.T) {
		if got := mustKubectl(t, l, "a-context", "get", "deployment", "-n", "istio-system", "istiod", "-o", "jsonpath={.status.readyReplicas}"); got != "2" {
			t.Errorf("%s replicas are ready, want 2", got)
		}
	})

	t.Run("a rolling restart fails no request", func(t *testing.T) {
		// A load that runs until its stdin ends, which is when the restart is over.
		args := []string{"--kubeconfig", l.Kubeconfig(), "--context", "a-context", "exec", "-i", "deploy/productpage-v1", "--", "/sample", "load",
			"-rate", "30", "-duration", "0", "-timeout", "10s", "-url", "http://reviews:9080/", "-url", "tcp://reviews:9000", "-url", "grpc://reviews:9090", "-url", "http://details:9080/status/418"}
		load := exec.CommandContext(t.Context(), filepath.Join(l.Parts.Bin, "kubectl"), args...)
		stdin, err := load.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var stdout, stderr strings.Builder
		load.Stdout, load.Stderr = &stdout, &stderr
		if err := load.Start(); err != nil {
			t.Fatal(err)
		}
		mustKubectl(t, l, "a-context", "rollout", "restart", "deployment/reviews-v1", "deployment/reviews-v2")
		for _, d := range []string{"deployment/reviews-v1", "deployment/reviews-v2"} {
			mustKubectl(t, l, "a-context", "rollout", "status", "--timeout=120s", d)
		}
		if err := stdin.Close(); err != nil {
			t.Fatal(err)
		}
		if err := load.Wait(); err != nil {
			t.Fatalf("%v: %s", err, stderr.String())
		}
		var summary struct {
			Sent     int
			Outcomes map[string]int
			Failures json.RawMessage
		}
		if err := json.Unmarshal([]byte(stdout.String()), &summary); err != nil {
			t.Fatalf("%v: %s", err, stdout.String())
		}
		expected := summary.Outcomes["http 418"] // the control: these fail on purpose
		if expected == 0 {
			t.Error("requests that fail on purpose were not counted")
		}
		if lost := summary.Sent - summary.Outcomes["ok"] - expected; lost != 0 || summary.Outcomes["ok"] == 0 {
			t.Errorf("of %d requests %d were lost: %v %s", summary.Sent, lost, summary.Outcomes, summary.Failures)
		}
	})

	lab(t, "down", "--name", name)
	nothingLeft(t, l)
}

// presentedRoot is the self-signed end of the chain that ratings presents to a client without a certificate.
func presentedRoot(t *testing.T, l *labs.Lab, context, deployment string) *x509.Certificate {
	t.Helper()
	// openssl may end with an error, since the server wants a certificate from it.
	out, _ := kubectl(t, l, context, "", "exec", "deploy/"+deployment, "-c", "istio-proxy", "--",
		"openssl", "s_client", "-showcerts", "-connect", "ratings.default:9080")
	for block, rest := pem.Decode([]byte(out)); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err == nil && cert.IsCA && cert.CheckSignatureFrom(cert) == nil {
			return cert
		}
	}
	t.Fatalf("%s: ratings presents no root:\n%s", context, out)
	return nil
}

func mustKubectl(t *testing.T, l *labs.Lab, context string, args ...string) string {
	t.Helper()
	out, err := kubectl(t, l, context, "", args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}
