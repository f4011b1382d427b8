package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

// Answer is what the service says to a request.
type Answer struct {
	Service string `json:"service"`
	Version string `json:"version"`
	Cluster string `json:"cluster"`
	Pod     string `json:"pod"`
	// Peer is the address that the connection came from: the sidecar's, if there is one.
	Peer   string `json:"peer"`
	Method string `json:"method"`
	Path   string `json:"path"`
	// Headers are those of the request. The identity of a caller with mutual TLS is in X-Forwarded-Client-Cert.
	Headers http.Header `json:"headers"`
	// Calls are the answers of the services that this one asked.
	Calls []Call `json:"calls,omitempty"`
}

// Call is how another service answered.
type Call struct {
	URL    string          `json:"url"`
	Status int             `json:"status,omitempty"`
	Error  string          `json:"error,omitempty"`
	Answer json.RawMessage `json:"answer,omitempty"`
}

// callTimeout is for one call, with the calls that it causes in turn.
const callTimeout = 5 * time.Second

// drainTime is what requests under way get when the pod is told to end.
const drainTime = 15 * time.Second

type server struct {
	service, version, cluster, pod string
	calls                          list
	client                         http.Client
}

func serve(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("sample serve", flag.ExitOnError)
	s := &server{client: http.Client{Timeout: callTimeout}}
	flags.StringVar(&s.service, "service", "sample", "`name` of the service")
	flags.StringVar(&s.version, "version", "v1", "`version` of the service")
	flags.StringVar(&s.cluster, "cluster", "", "`name` of the cluster")
	flags.Var(&s.calls, "call", "`URL` to ask before answering (repeatable)")
	httpAddr := flags.String("http", ":9080", "`address` of the HTTP service")
	tcpAddr := flags.String("tcp", ":9000", "`address` of the TCP echo")
	grpcAddr := flags.String("grpc", ":9090", "`address` of gRPC's health service")
	if err := flags.Parse(args); err != nil {
		return err
	}
	s.pod, _ = os.Hostname()

	echo, err := net.Listen("tcp", *tcpAddr)
	if err != nil {
		return err
	}
	rpc, err := net.Listen("tcp", *grpcAddr)
	if err != nil {
		return err
	}
	// A proxy may keep a connection in reserve: who ends it first must not be the server.
	web := &http.Server{Addr: *httpAddr, Handler: s.handler(), ReadHeaderTimeout: 24 * time.Hour}
	failed := make(chan error, 3)
	go func() { failed <- web.ListenAndServe() }()
	var echoes sync.WaitGroup
	go func() { failed <- serveEcho(echo, &echoes) }()
	rpcs := s.newGRPCServer()
	go func() { failed <- rpcs.Serve(rpc) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}

	// Whatever is under way may finish; nothing new comes in.
	log.Print("draining")
	drain, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	echo.Close()
	err = web.Shutdown(drain)
	done := make(chan struct{})
	go func() { rpcs.GracefulStop(); echoes.Wait(); close(done) }()
	select {
	case <-done:
	case <-drain.Done():
		rpcs.Stop()
	}
	return err
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/status/{code}", answerStatus)
	mux.HandleFunc("/delay/{duration}", s.answerLate)
	mux.HandleFunc("/", s.answer)
	return mux
}

// answerStatus answers with the status that it is asked for: a test of whoever counts failures.
func answerStatus(w http.ResponseWriter, r *http.Request) {
	code, err := strconv.Atoi(r.PathValue("code"))
	if err != nil || code < 200 || code > 599 {
		http.Error(w, "use /status/200 to /status/599", http.StatusBadRequest)
		return
	}
	w.WriteHeader(code)
}

// answerLate answers after the duration that it is asked for, such as /delay/2s.
func (s *server) answerLate(w http.ResponseWriter, r *http.Request) {
	d, err := time.ParseDuration(r.PathValue("duration"))
	if err != nil {
		http.Error(w, "use a duration such as /delay/2s", http.StatusBadRequest)
		return
	}
	select {
	case <-time.After(d):
		s.answer(w, r)
	case <-r.Context().Done():
	}
}

func (s *server) answer(w http.ResponseWriter, r *http.Request) {
	a := Answer{
		Service: s.service, Version: s.version, Cluster: s.cluster, Pod: s.pod,
		Peer: r.RemoteAddr, Method: r.Method, Path: r.URL.Path, Headers: r.Header,
		Calls: s.callAll(r.Context()),
	}
	status := http.StatusOK
	for _, c := range a.Calls {
		if c.Status != http.StatusOK {
			status = http.StatusBadGateway
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(a)
}

func (s *server) callAll(ctx context.Context) []Call {
	calls := make([]Call, len(s.calls))
	var wg sync.WaitGroup
	for i, url := range s.calls {
		wg.Go(func() { calls[i] = s.call(ctx, url) })
	}
	wg.Wait()
	return calls
}

func (s *server) call(ctx context.Context, url string) Call {
	c := Call{URL: url}
	status, body, err := s.get(ctx, url)
	if err != nil {
		c.Error = err.Error()
		return c
	}
	c.Status = status
	if json.Valid(body) {
		c.Answer = body
	} else {
		c.Error = string(body) // such as a sidecar's
	}
	return c
}

func (s *server) get(ctx context.Context, url string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// serveEcho sends every connection back what comes in, until the listener is closed.
func serveEcho(l net.Listener, open *sync.WaitGroup) error {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		open.Go(func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		})
	}
}
