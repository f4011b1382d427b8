package certificates

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-mesh/isthmus/internal/agent/evidence"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// TestEnvoyAndRootsThatAreAlike: Envoy tells roots of the same subject, as those of cert-manager are before and after a renewal,
// by their keys, in whatever order it has them, and takes a cross-certificate between them. A re-issued root, of the same key
// too, is to it the same as before.
func TestEnvoyAndRootsThatAreAlike(t *testing.T) {
	program := filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "envoy")
	if _, err := os.Stat(program); err != nil {
		const why = "KUBEBUILDER_ASSETS does not name a directory with envoy: `lab build` makes it"
		if os.Getenv("CI") != "" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	now := time.Now()
	old, other := pkitest.NewRoot(t, "mesh root", now), pkitest.NewRoot(t, "mesh root", now)
	again := pkitest.NewRootOf(t, "mesh root", old.Key, now)
	authorities := map[string]*pkitest.CA{}
	roots := map[string]*pkitest.CA{"old": old, "other": other, "again": again}
	var canaries []evidence.Canary
	for name, root := range roots {
		authorities[name] = root.Intermediate(t, "mesh")
		canary, err := evidence.NewCanary(authorities[name].Material(t), "east.example", "isthmus-agent", now)
		if err != nil {
			t.Fatal(err)
		}
		canaries = append(canaries, canary)
	}
	leaf := func(ca *pkitest.CA) *pkitest.CA {
		return ca.Leaf(t, "", func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "spiffe", Host: "east.example", Path: "/ns/shop/sa/web"}}
		})
	}

	type server struct {
		trusts, accepts []string
		crossed         bool // it accepts what is under other if that comes with a certificate under old
		pod             evidence.ProxyPod
	}
	servers := []*server{
		{trusts: []string{"old"}, accepts: []string{"old", "again"}, crossed: true},
		{trusts: []string{"other"}, accepts: []string{"other"}, crossed: true},
		{trusts: []string{"old", "other"}, accepts: []string{"old", "other", "again"}, crossed: true},
		{trusts: []string{"other", "old"}, accepts: []string{"old", "other", "again"}, crossed: true},
		{trusts: []string{"again"}, accepts: []string{"old", "again"}, crossed: true},
		{trusts: []string{"old", "again"}, accepts: []string{"old", "again"}, crossed: true},
	}
	text := func(pem []byte) map[string]any { return map[string]any{"inline_string": string(pem)} }
	var listeners []any
	for _, s := range servers {
		s.pod = evidence.ProxyPod{NamespacedName: types.NamespacedName{Namespace: "shop", Name: fmt.Sprint(s.trusts)}, IP: address(), ServiceAccount: "web", Kind: evidence.Sidecar}
		var bundle pki.Bundle
		for _, name := range s.trusts {
			bundle = bundle.Append(roots[name].Root())
		}
		ca := authorities[s.trusts[0]]
		own := leaf(ca)
		listeners = append(listeners, map[string]any{
			"address": map[string]any{"socket_address": map[string]any{"address": s.pod.IP, "port_value": evidence.ProxyPort}},
			"filter_chains": []any{map[string]any{
				"transport_socket": map[string]any{"name": "tls", "typed_config": map[string]any{
					"@type":                      "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
					"require_client_certificate": true,
					"common_tls_context": map[string]any{
						"alpn_protocols":     []any{evidence.ALPNMesh},
						"tls_certificates":   []any{map[string]any{"certificate_chain": text(append(own.PEM(), ca.PEM()...)), "private_key": text(own.KeyPEM(t))}},
						"validation_context": map[string]any{"trusted_ca": text(bundle.PEM())},
					},
				}},
				"filters": []any{map[string]any{"name": "http", "typed_config": map[string]any{
					"@type":       "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
					"stat_prefix": "http", "route_config": map[string]any{},
					"http_filters": []any{map[string]any{"name": "router", "typed_config": map[string]any{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}},
				}}},
			}},
		})
	}
	config, err := json.Marshal(map[string]any{"static_resources": map[string]any{"listeners": listeners}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "envoy.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	envoy := exec.CommandContext(t.Context(), program, "-c", file, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warn")
	envoy.Stdout, envoy.Stderr = log, log
	if err := envoy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = envoy.Wait() // the context ends it
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("envoy: %s", text)
		}
	})
	at := func(s *server) string { return net.JoinHostPort(s.pod.IP, strconv.Itoa(evidence.ProxyPort)) }
	testenv.Eventually(t, "Envoy", func() error {
		conn, err := net.Dial("tcp", at(servers[len(servers)-1]))
		if err == nil {
			_ = conn.Close()
		}
		return err
	})

	cross, err := pki.CrossSign(other.Root(), old.Material(t), now)
	if err != nil {
		t.Fatal(err)
	}
	certified := leaf(authorities["other"])
	for _, s := range servers {
		seen := evidence.Probe(t.Context(), "east.example", []evidence.ProxyPod{s.pod}, canaries)[0]
		if seen.Err != nil {
			t.Fatalf("%v: %v", s.trusts, seen.Err)
		}
		for name, root := range roots {
			want := evidence.Refused
			for _, accepted := range s.accepts {
				if accepted == name {
					want = evidence.Accepted
				}
			}
			if got := seen.Answers[root.Root().ID()]; got != want {
				t.Errorf("who trusts %v: under %s %v, want %v (%v)", s.trusts, name, got, want, seen.Doubt)
			}
		}
		conn, err := tls.Dial("tcp", at(s), &tls.Config{
			MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true, NextProtos: []string{evidence.ALPNMesh},
			Certificates: []tls.Certificate{{Certificate: [][]byte{certified.Cert.Raw, authorities["other"].Cert.Raw, cross.Raw}, PrivateKey: certified.Key}},
		})
		if accepted := err == nil; accepted != s.crossed {
			t.Errorf("who trusts %v: with a cross-certificate accepted is %v, want %v: %v", s.trusts, accepted, s.crossed, err)
		}
		if err == nil {
			_ = conn.Close()
		}
	}
}
