package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
)

func TestLoadCountsEveryKindOfFailure(t *testing.T) {
	s := httptest.NewServer((&server{}).handler())
	defer s.Close()
	// A port on which nobody listens.
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	// A server that hangs up.
	rude, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer rude.Close()
	go func() {
		for {
			conn, err := rude.Accept()
			if err != nil {
				return
			}
			_, _ = io.ReadFull(conn, make([]byte, 5))
			conn.Close()
		}
	}()
	rpc, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := (&server{}).newGRPCServer()
	defer g.Stop()
	go func() { _ = g.Serve(rpc) }()
	for url, want := range map[string]string{
		s.URL + "/":                                 "ok",
		"grpc://" + rpc.Addr().String():             "ok",
		"grpc://" + rpc.Addr().String() + "/nobody": "grpc NotFound",
		"grpc://" + closed.Addr().String():          "grpc Unavailable",
		s.URL + "/status/503":                       "http 503",
		s.URL + "/delay/1m":                         "timeout",
		"http://" + closed.Addr().String():          "refused",
		"tcp://" + closed.Addr().String():           "refused",
		"tcp://" + rude.Addr().String():             "eof",
		"http://nobody.invalid./":                   "dns",
	} {
		c, err := newClient(url, options{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		got := send(ctx, []client{c}, 10, time.Second)
		cancel()
		if got.Sent == 0 || got.Outcomes[want] != got.Sent {
			t.Errorf("%s: %+v, want every one of %d to be %q", url, got, got.Sent, want)
		}
		if want != kindOK && (len(got.Failures) == 0 || len(got.Failures) > maxFailures || got.Failures[0].Kind != want) {
			t.Errorf("%s: described failures are %+v", url, got.Failures)
		}
		if got.URLs[url][want] != got.Sent {
			t.Errorf("%s: by URL %v, want all of %d", url, got.URLs, got.Sent)
		}
		if ok := got.Sent - got.Failed; ok != got.OK || ok != got.Outcomes["ok"] {
			t.Errorf("%s: the counts do not add up: %+v", url, got)
		}
	}
}

func TestEveryURLIsCountedByItself(t *testing.T) {
	s := httptest.NewServer((&server{}).handler())
	defer s.Close()
	urls := map[string]string{s.URL + "/": "ok", s.URL + "/status/503": "http 503", s.URL + "/status/404": "http 404"}
	var clients []client
	for url := range urls {
		c, err := newClient(url, options{})
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	got := send(ctx, clients, 20, time.Second)
	for url, kind := range urls {
		if n := got.URLs[url][kind]; n == 0 || n != got.Outcomes[kind] || len(got.URLs[url]) != 1 {
			t.Errorf("%s: %v, want %q alone, %d times", url, got.URLs[url], kind, got.Outcomes[kind])
		}
	}
	if len(got.URLs) != len(urls) {
		t.Errorf("counted %v", got.URLs)
	}
}

func TestGRPCAnswersTellWhoCalled(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := (&server{service: "reviews", cluster: "a"}).newGRPCServer()
	defer g.Stop()
	go func() { _ = g.Serve(l) }()
	for _, keep := range []bool{false, true} {
		c, err := newClient("grpc://"+l.Addr().String(), options{keep: keep})
		if err != nil {
			t.Fatal(err)
		}
		const caller = "By=spiffe://a;URI=spiffe://b" // the sidecar sets it
		ctx := metadata.AppendToOutgoingContext(t.Context(), identityHeader, caller)
		got, err := c.request(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got.Headers["service"][0] != "reviews" || got.Headers["cluster"][0] != "a" || got.Headers[identityHeader][0] != caller {
			t.Errorf("keep %v: %v", keep, got.Headers)
		}
	}
}

// TestCallOpensTLS has a server that sees the name that is asked for and demands a certificate.
func TestCallOpensTLS(t *testing.T) {
	leaf := identity(t, "spiffe://cluster.local/ns/default/sa/reviews")
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"sni": r.TLS.ServerName, "caller": identities(r.TLS.PeerCertificates)})
	}))
	s.TLS = &tls.Config{
		Certificates: []tls.Certificate{leaf},
		NextProtos:   []string{"http/1.1"}, // Go's server knows no other
		ClientAuth:   tls.RequireAnyClientCert,
	}
	s.StartTLS()
	defer s.Close()
	url := "http://" + s.Listener.Addr().String()
	client := identity(t, "spiffe://cluster.local/ns/default/sa/productpage")
	for name, tt := range map[string]struct {
		certificate *tls.Certificate
		want        string
	}{
		"with a certificate": {&client, "ok"},
		"without":            {nil, "tls"},
	} {
		c, err := newClient(url, options{method: http.MethodGet, tls: &session{
			name: "outbound_.9080_._.reviews.default.svc.cluster.local", protocols: []string{"istio", "http/1.1"}, certificate: tt.certificate,
		}})
		if err != nil {
			t.Fatal(err)
		}
		out, err := c.request(t.Context())
		if got := kindOf(err); got != tt.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, tt.want)
			continue
		}
		if out.Handshake == nil || !slices.Equal(out.Handshake.Identities, []string{"spiffe://cluster.local/ns/default/sa/reviews"}) || out.Handshake.Protocol != "http/1.1" {
			t.Errorf("%s: handshake %+v", name, out.Handshake)
		}
		const want = `{"caller":["spiffe://cluster.local/ns/default/sa/productpage"],"sni":"outbound_.9080_._.reviews.default.svc.cluster.local"}`
		if tt.want == kindOK && string(out.Answer) != want {
			t.Errorf("%s: answer %s", name, out.Answer)
		}
	}
}

// identity is a self-signed certificate with a URI.
func identity(t *testing.T, uri string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{u}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestSlowServerDoesNotSlowLoadDown(t *testing.T) {
	var arrived atomic.Int32
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if arrived.Add(1) == 10 {
			close(release)
		}
		<-release // a closed model would wait here for ever
	}))
	defer s.Close()
	c, err := newClient(s.URL, options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-release; cancel() }()
	got := send(ctx, []client{c}, 200, 10*time.Second)
	if got.Failed != 0 || got.OK < 10 {
		t.Errorf("got %+v", got)
	}
}

func TestTCPConnectionsAreKeptOnlyIfAsked(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	counting := &countingListener{Listener: l}
	var open sync.WaitGroup
	go func() { _ = serveEcho(counting, &open) }()
	for keep, want := range map[bool]int32{true: 1, false: 5} {
		counting.accepted.Store(0)
		c, err := newClient("tcp://"+l.Addr().String(), options{keep: keep})
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if _, err := c.request(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got := counting.accepted.Load(); got != want {
			t.Errorf("keep %v: 5 requests took %d connections, want %d", keep, got, want)
		}
	}
}

type countingListener struct {
	net.Listener
	accepted atomic.Int32
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.accepted.Add(1)
	}
	return conn, err
}

func TestFailedCallShowsInTheAnswer(t *testing.T) {
	ratings := httptest.NewServer((&server{service: "ratings"}).handler())
	defer ratings.Close()
	reviews := &server{service: "reviews", calls: list{ratings.URL + "/"}}
	s := httptest.NewServer(reviews.handler())
	defer s.Close()
	for path, want := range map[string]int{"/": http.StatusOK, "/status/503": http.StatusBadGateway} {
		reviews.calls = list{ratings.URL + path}
		resp, err := http.Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("ratings at %s: reviews answers %d, want %d", path, resp.StatusCode, want)
		}
	}
}

func TestKindOfReset(t *testing.T) {
	for err, want := range map[error]string{
		&net.OpError{Op: "read", Err: syscall.ECONNRESET}: "reset",
		&net.OpError{Op: "write", Err: syscall.EPIPE}:     "reset",
		errors.New("anything else"):                       "other",
	} {
		if got := kindOf(err); got != want {
			t.Errorf("%v: got %q, want %q", err, got, want)
		}
	}
}
