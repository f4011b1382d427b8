package reach_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/internal/agent/reach"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
)

const (
	reviews = "spiffe://cluster.local/ns/default/sa/reviews"
	sni     = "outbound_.9080_._.reviews.default.svc.cluster.local"
)

// anywhere allows the loopback address, at which the servers of this test are.
var anywhere = reach.Prober{Forbidden: func(string, int32) bool { return false }}

// gateway lets TLS through to the proxy of reviews as a pass-through gateway does: by server name and Istio's ALPN. Of anything
// else it ends the connection. It returns what a client of reviews in another mesh would ask.
func gateway(t *testing.T, leaf *pkitest.CA, edits ...func(*tls.Config)) reach.Target {
	t.Helper()
	chain := [][]byte{}
	for c := leaf; c != nil; c = c.Parent {
		chain = append(chain, c.Cert.Raw)
	}
	proxy := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"istio-peer-exchange", "istio"},
		Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: leaf.Key}},
		ClientAuth:   tls.RequireAnyClientCert,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if hello.ServerName != sni || !slices.Contains(hello.SupportedProtos, "istio") {
				_ = hello.Conn.Close()
				return nil, errors.New("no filter chain matches")
			}
			return nil, nil
		},
	}
	for _, edit := range edits {
		edit(proxy)
	}
	return listen(t, leaf, func(conn net.Conn) {
		s := tls.Server(conn, proxy)
		if err := s.HandshakeContext(t.Context()); err == nil {
			t.Error("a client without a certificate was let in")
		}
	})
}

func listen(t *testing.T, leaf *pkitest.CA, serve func(net.Conn)) reach.Target {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serve(conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return reach.Target{
		Mesh: "istiod-istio-system-east.isthmus-east", Address: "127.0.0.1", Port: int32(l.Addr().(*net.TCPAddr).Port),
		SNI: sni, Identities: []string{reviews}, Roots: pki.NewBundle(leaf.Root()),
	}
}

func identity(id string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		u, err := url.Parse(id)
		if err != nil {
			panic(err)
		}
		c.URIs = []*url.URL{u}
	}
}

func TestProbe(t *testing.T) {
	root := pkitest.NewRoot(t, "root", time.Now())
	other := pkitest.NewRoot(t, "other", time.Now())
	east := root.Intermediate(t, "east")
	leaf := east.Leaf(t, "reviews", identity(reviews))
	expired := east.Leaf(t, "reviews", identity(reviews), func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	impostor := east.Leaf(t, "sleep", identity("spiffe://cluster.local/ns/default/sa/sleep"))

	for name, c := range map[string]struct {
		target   reach.Target
		edit     func(*reach.Target)
		prober   reach.Prober // anywhere, if it forbids nothing itself
		want     reach.Problem
		identity string
	}{
		"reached":                     {target: gateway(t, leaf), identity: reviews},
		"reached by TLS 1.2":          {target: gateway(t, leaf, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), identity: reviews},
		"reached by a DNS name":       {target: gateway(t, leaf), edit: func(t *reach.Target) { t.Address = "localhost" }, identity: reviews},
		"one of several roots":        {target: gateway(t, leaf), edit: func(t *reach.Target) { t.Roots = pki.NewBundle(other.Root(), root.Root()) }, identity: reviews},
		"one of several identities":   {target: gateway(t, leaf), edit: func(t *reach.Target) { t.Identities = []string{"spiffe://x", reviews} }, identity: reviews},
		"roots are not known":         {target: gateway(t, leaf), edit: func(t *reach.Target) { t.Roots = pki.Bundle{} }, identity: reviews},
		"nobody listens":              {target: unused(t, leaf), want: reach.Unreachable},
		"name that does not exist":    {target: gateway(t, leaf), edit: func(t *reach.Target) { t.Address = "nowhere.invalid" }, want: reach.Unreachable},
		"loopback":                    {target: gateway(t, leaf), prober: reach.Prober{Forbidden: local}, want: reach.Unreachable},
		"name of loopback":            {target: gateway(t, leaf), prober: reach.Prober{Forbidden: local}, edit: func(t *reach.Target) { t.Address = "localhost" }, want: reach.Unreachable},
		"destination is not admitted": {target: gateway(t, leaf), edit: func(t *reach.Target) { t.SNI = strings.Replace(t.SNI, "reviews", "ratings", 1) }, want: reach.NotAdmitted},
		"no pod is behind it":         {target: listen(t, leaf, func(net.Conn) {}), want: reach.NotAdmitted},
		"plain HTTP":                  {target: listen(t, leaf, func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }), want: reach.NotAdmitted},
		"another root":                {target: gateway(t, leaf), edit: func(t *reach.Target) { t.Roots = pki.NewBundle(other.Root()) }, want: reach.Untrusted},
		"expired":                     {target: gateway(t, expired), want: reach.Untrusted},
		"another workload of the mesh": {
			target: gateway(t, impostor), want: reach.Impostor, identity: "spiffe://cluster.local/ns/default/sa/sleep",
		},
		"no identity":                       {target: gateway(t, east.Leaf(t, "nobody")), want: reach.Impostor},
		"no identity will do":               {target: gateway(t, leaf), edit: func(t *reach.Target) { t.Identities = nil }, want: reach.Impostor, identity: reviews},
		"another identity, roots not known": {target: gateway(t, impostor), edit: func(t *reach.Target) { t.Roots = pki.Bundle{} }, want: reach.Impostor},
		"not valid any more, by the clock":  {target: gateway(t, leaf), prober: clock(time.Now().AddDate(0, 0, 2)), want: reach.Untrusted},
		"identity of another trust domain":  {target: gateway(t, east.Leaf(t, "x", identity(strings.Replace(reviews, "cluster.local", "x", 1)))), want: reach.Impostor, identity: strings.Replace(reviews, "cluster.local", "x", 1)},
		"identity that only begins alike":   {target: gateway(t, east.Leaf(t, "x", identity(reviews+"-2"))), want: reach.Impostor, identity: reviews + "-2"},
		"identity under another root":       {target: gateway(t, other.Leaf(t, "reviews", identity(reviews))), edit: func(t *reach.Target) { t.Roots = pki.NewBundle(root.Root()) }, want: reach.Untrusted},
	} {
		t.Run(name, func(t *testing.T) {
			if c.prober.Forbidden == nil {
				c.prober.Forbidden = anywhere.Forbidden
			}
			if c.edit != nil {
				c.edit(&c.target)
			}
			v := c.prober.Probe(t.Context(), c.target)
			if v.Problem != c.want || v.Identity != c.identity || (v.Err == nil) != (c.want == "") {
				t.Fatalf("problem %q, want %q; identity %q, want %q; %v", v.Problem, c.want, v.Identity, c.identity, v.Err)
			}
			if got := reach.ProblemOf(v.String()); got != c.want {
				t.Errorf("the report is that of %q: %s", got, v)
			}
		})
	}
}

func local(ip string, _ int32) bool { return reach.Local(ip) }

func clock(now time.Time) reach.Prober { return reach.Prober{Now: func() time.Time { return now }} }

// unused is a port at which nobody listens.
func unused(t *testing.T, leaf *pkitest.CA) reach.Target {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	return reach.Target{Mesh: "x", Address: "127.0.0.1", Port: int32(l.Addr().(*net.TCPAddr).Port), SNI: sni, Roots: pki.NewBundle(leaf.Root())}
}

// TestProbeEnds with its context, also where somebody holds the connection and says nothing.
func TestProbeEnds(t *testing.T) {
	leaf := pkitest.NewRoot(t, "root", time.Now()).Leaf(t, "reviews", identity(reviews))
	ctx, cancel := context.WithCancel(t.Context())
	target := listen(t, leaf, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1<<16)) // the ClientHello
		cancel()
		_, _ = conn.Read(make([]byte, 1)) // until the other side gives up
	})
	if v := anywhere.Probe(ctx, target); v.Problem != reach.NotAdmitted || !errors.Is(v.Err, context.Canceled) {
		t.Fatalf("%q: %v", v.Problem, v.Err)
	}
}

// TestReport: one text for each gateway that is not as it should be, always in the same order, without what only this cluster's
// log may say.
func TestReport(t *testing.T) {
	root := pkitest.NewRoot(t, "root", time.Now())
	good := gateway(t, root.Leaf(t, "reviews", identity(reviews)))
	silent := unused(t, root)
	closed := listen(t, root, func(net.Conn) {})
	targets := []reach.Target{good, silent, closed, silent}
	for range 50 {
		targets = append(targets, good)
	}
	reports := anywhere.Report(t.Context(), targets...)
	if len(reports) != 2 || reach.ProblemOf(reports[0]) != reach.Unreachable || reach.ProblemOf(reports[1]) != reach.NotAdmitted {
		t.Fatalf("%q", reports)
	}
	for _, said := range []string{"refused", "EOF", "reset"} {
		if strings.Contains(strings.Join(reports, "\n"), said) {
			t.Errorf("%q tells what is at an address", reports)
		}
	}
}

func TestProblemOf(t *testing.T) {
	for _, text := range []string{"", "x", "gateway", "gateway does not answer", "no handshake across.", "x no handshake across: y"} {
		if p := reach.ProblemOf(text); p != "" {
			t.Errorf("%q is taken for %q", text, p)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		v := reach.Verdict{Problem: rapid.SampledFrom(reach.Problems).Draw(t, "problem"), Target: reach.Target{
			Mesh: rapid.String().Draw(t, "mesh"), Address: rapid.String().Draw(t, "address"), SNI: rapid.String().Draw(t, "SNI"),
		}}
		if p := reach.ProblemOf(v.String()); p != v.Problem {
			t.Fatalf("%q is taken for %q", v, p)
		}
	})
}

// TestLocal also holds the zero Prober to it.
func TestLocal(t *testing.T) {
	leaf := pkitest.NewRoot(t, "root", time.Now()).Leaf(t, "reviews", identity(reviews))
	if v := (reach.Prober{}).Probe(t.Context(), gateway(t, leaf)); v.Problem != reach.Unreachable {
		t.Errorf("a gateway at the loopback address: %q", v.Problem)
	}
	for ip, want := range map[string]bool{
		"127.0.0.1": true, "::1": true, "::ffff:127.0.0.1": true, "169.254.169.254": true, "fe80::1%eth0": true, "fe80::1": true,
		"0.0.0.0": true, "::": true, "224.0.0.1": true, "ff02::1": true, "": true, "x": true,
		"172.31.0.12": false, "10.0.0.1": false, "2001:db8::1": false, "fd00::1": false, "1.1.1.1": false,
	} {
		if got := reach.Local(ip); got != want {
			t.Errorf("Local(%q) = %v", ip, got)
		}
	}
}
