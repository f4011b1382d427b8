package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
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
	for url, want := range map[string]string{
		s.URL + "/":                        "ok",
		s.URL + "/status/503":              "http 503",
		s.URL + "/delay/1m":                "timeout",
		"http://" + closed.Addr().String(): "refused",
		"tcp://" + closed.Addr().String():  "refused",
		"tcp://" + rude.Addr().String():    "eof",
		"http://nobody.invalid./":          "dns",
	} {
		c, err := newClient(url, false)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		got := send(ctx, []client{c}, 50, time.Second)
		cancel()
		if got.Sent == 0 || got.Outcomes[want] != got.Sent {
			t.Errorf("%s: %+v, want every one of %d to be %q", url, got, got.Sent, want)
		}
		if want != kindOK && (len(got.Failures) == 0 || len(got.Failures) > maxFailures || got.Failures[0].Kind != want) {
			t.Errorf("%s: described failures are %+v", url, got.Failures)
		}
		if ok := got.Sent - got.Failed; ok != got.OK || ok != got.Outcomes["ok"] {
			t.Errorf("%s: the counts do not add up: %+v", url, got)
		}
	}
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
	c, err := newClient(s.URL, false)
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
		c, err := newClient("tcp://"+l.Addr().String(), keep)
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if err := c.request(t.Context()); err != nil {
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
