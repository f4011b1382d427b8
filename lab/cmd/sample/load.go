package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Summary is what a load run prints, as JSON.
type Summary struct {
	// Sent is the number of requests; every one has exactly one outcome.
	Sent   int `json:"sent"`
	OK     int `json:"ok"`
	Failed int `json:"failed"`
	// Outcomes counts by kind: "ok", "http 503", "grpc Unavailable", "timeout", "refused", "reset", "eof", "dns", "tls", "other".
	Outcomes map[string]int `json:"outcomes"`
	// URLs counts the same for each URL.
	URLs map[string]map[string]int `json:"urls"`
	// Latency is of successful requests, in milliseconds, from the moment when they were due.
	Latency Latency `json:"latencyMilliseconds"`
	// Seconds is how long requests were sent.
	Seconds float64 `json:"seconds"`
	// Failures are the first ones of every kind at every URL.
	Failures []Failure `json:"failures,omitempty"`
}

// Latency holds percentiles.
type Latency struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Failure describes one failed request.
type Failure struct {
	// Due is when it was to begin, At when it had ended.
	Due   time.Time `json:"due"`
	At    time.Time `json:"at"`
	URL   string    `json:"url"`
	Kind  string    `json:"kind"`
	Error string    `json:"error"`
}

// maxFailures is how many failures of one kind at one URL a Summary describes.
const maxFailures = 1000

// Kinds that are named in more than one place: of a request that succeeded, and of one that took too long.
const (
	kindOK      = "ok"
	kindTimeout = "timeout"
)

// load sends requests at a fixed rate whatever becomes of them (an open model: a slow server does not slow it down) and
// prints a Summary when the duration is over, stdin ends or has a line (with a duration of 0), or it is told to stop.
func load(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("sample load", flag.ExitOnError)
	var urls list
	flags.Var(&urls, "url", "`URL` to ask: http://HOST:PORT/PATH, grpc://HOST:PORT, or tcp://HOST:PORT of an echo (repeatable, taken in turn)")
	rate := flags.Float64("rate", 10, "requests per second")
	duration := flags.Duration("duration", 10*time.Second, "how long; 0 means until stdin ends or has a line")
	timeout := flags.Duration("timeout", 2*time.Second, "deadline of each request")
	options := options{method: http.MethodGet}
	flags.BoolVar(&options.keep, "keep", false, "keep connections and use them again, instead of a new one for every request")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if len(urls) == 0 || *rate <= 0 {
		return errors.New("load: give at least one -url and a -rate above 0")
	}
	clients := make([]client, len(urls))
	for i, u := range urls {
		c, err := newClient(u, options)
		if err != nil {
			return err
		}
		clients[i] = c
	}
	var cancel context.CancelFunc
	if *duration > 0 {
		ctx, cancel = context.WithTimeout(ctx, *duration)
	} else {
		ctx, cancel = context.WithCancel(ctx)
		go func() {
			_, _ = os.Stdin.Read(make([]byte, 1)) // a line too: containerd may lose that stdin has ended
			cancel()
		}()
	}
	defer cancel()
	summary := send(ctx, clients, *rate, *timeout)
	return json.NewEncoder(os.Stdout).Encode(summary)
}

// send sends until the context ends, then waits for what is under way.
func send(ctx context.Context, clients []client, rate float64, timeout time.Duration) Summary {
	var r recorder
	var wg sync.WaitGroup
	begin := time.Now()
	interval := time.Duration(float64(time.Second) / rate)
	sent := 0
	for due := begin; waitUntil(ctx, due); due = due.Add(interval) {
		c := clients[sent%len(clients)]
		sent++
		wg.Go(func() {
			// The run's end cuts no request short.
			request, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
			defer cancel()
			_, err := c.request(request)
			r.record(c.url(), due, time.Now(), err)
		})
	}
	seconds := time.Since(begin).Seconds()
	wg.Wait()
	return r.summary(sent, seconds)
}

func waitUntil(ctx context.Context, t time.Time) bool {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}

type recorder struct {
	mu       sync.Mutex
	outcomes map[string]int
	urls     map[string]map[string]int
	latency  []time.Duration
	failures []Failure
}

func (r *recorder) record(url string, due, end time.Time, err error) {
	kind := kindOf(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.outcomes == nil {
		r.outcomes, r.urls = map[string]int{}, map[string]map[string]int{}
	}
	if r.urls[url] == nil {
		r.urls[url] = map[string]int{}
	}
	r.outcomes[kind]++
	r.urls[url][kind]++
	if err == nil {
		r.latency = append(r.latency, end.Sub(due))
	} else if r.urls[url][kind] <= maxFailures {
		r.failures = append(r.failures, Failure{Due: due.UTC(), At: end.UTC(), URL: url, Kind: kind, Error: err.Error()})
	}
}

func (r *recorder) summary(sent int, seconds float64) Summary {
	ok := r.outcomes[kindOK]
	s := Summary{Sent: sent, OK: ok, Failed: sent - ok, Outcomes: r.outcomes, URLs: r.urls, Failures: r.failures, Seconds: seconds}
	slices.Sort(r.latency)
	at := func(quantile float64) float64 {
		if len(r.latency) == 0 {
			return 0
		}
		return float64(r.latency[int(quantile*float64(len(r.latency)-1))].Microseconds()) / 1000
	}
	s.Latency = Latency{P50: at(0.5), P90: at(0.9), P99: at(0.99), Max: at(1)}
	return s
}

// statusError is an HTTP answer that is no success.
type statusError struct {
	code int
	body string
}

func (e statusError) Error() string { return fmt.Sprintf("status %d: %s", e.code, e.body) }

// kindOf sorts an error into a few classes that mean something to whoever looks for lost requests.
func kindOf(err error) string {
	var status statusError
	var network net.Error
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case err == nil:
		return kindOK
	case errors.As(err, &status):
		return "http " + strconv.Itoa(status.code)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return kindTimeout
	case errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"): // so says crypto/tls of alerts
		return "tls"
	case errors.As(err, &dns):
		return "dns"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "eof"
	}
	if kind := grpcKind(err); kind != "" {
		return kind
	}
	return "other"
}

// client sends requests to one URL.
type client interface {
	url() string
	request(context.Context) (Outcome, error)
}

// options of a client.
type options struct {
	// keep connections and use them again.
	keep bool
	// method of HTTP.
	method string
	// tls is a session of the client's own; nil for none.
	tls *session
}

func newClient(rawURL string, o options) (client, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, err
	}
	switch u.Scheme {
	case "http":
		return newHTTPClient(rawURL, o), nil
	case "tcp":
		return &tcpClient{rawURL: rawURL, address: u.Host, options: o}, nil
	case "grpc":
		if o.tls != nil {
			return nil, fmt.Errorf("url %q: TLS is for http:// and tcp://", rawURL)
		}
		return newGRPCClient(rawURL, u.Host, u.Path, o.keep)
	}
	return nil, fmt.Errorf("url %q: use http://, grpc:// or tcp://", rawURL)
}

type httpClient struct {
	rawURL string
	options
	client *http.Client
}

func newHTTPClient(rawURL string, o options) *httpClient {
	t := &http.Transport{DisableKeepAlives: !o.keep, MaxIdleConnsPerHost: 1000}
	if o.tls != nil {
		t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			var d net.Dialer
			conn, err := d.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			tlsConn, shown, err := o.tls.open(ctx, conn)
			if err != nil {
				conn.Close()
				return nil, err
			}
			if out, ok := ctx.Value(handshakeKey{}).(**Handshake); ok {
				*out = shown
			}
			return tlsConn, nil
		}
	}
	return &httpClient{rawURL, o, &http.Client{Transport: t}}
}

// handshakeKey is the key of a context in which a request's handshake is put down.
type handshakeKey struct{}

func (c *httpClient) url() string { return c.rawURL }

func (c *httpClient) request(ctx context.Context) (out Outcome, err error) {
	req, err := http.NewRequestWithContext(context.WithValue(ctx, handshakeKey{}, &out.Handshake), c.method, c.rawURL, http.NoBody)
	if err != nil {
		return out, err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	out.Status = resp.StatusCode
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return out, err
	}
	if resp.StatusCode/100 != 2 {
		return out, statusError{resp.StatusCode, strings.TrimSpace(string(body[:min(len(body), 200)]))}
	}
	if json.Valid(body) {
		out.Answer = bytes.TrimSpace(body)
	}
	return out, nil
}

// tcpClient sends a line and wants it back. Through sidecars every new connection is a TLS handshake of its own, which
// HTTP requests are not: proxies share connections among those.
type tcpClient struct {
	rawURL, address string
	options

	mu   sync.Mutex
	idle []net.Conn
}

func (c *tcpClient) url() string { return c.rawURL }

func (c *tcpClient) request(ctx context.Context) (out Outcome, err error) {
	conn, err := c.conn(ctx)
	if err != nil {
		return out, err
	}
	if c.tls != nil {
		var inner net.Conn
		if inner, out.Handshake, err = c.tls.open(ctx, conn); err != nil {
			conn.Close()
			return out, err
		}
		conn = inner
	}
	if err := ping(ctx, conn); err != nil || !c.keep {
		conn.Close()
		return out, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = append(c.idle, conn)
	return out, nil
}

func (c *tcpClient) conn(ctx context.Context) (net.Conn, error) {
	c.mu.Lock()
	if n := len(c.idle); n > 0 {
		conn := c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		return conn, nil
	}
	c.mu.Unlock()
	var d net.Dialer
	return d.DialContext(ctx, "tcp", c.address)
}

func ping(ctx context.Context, conn net.Conn) error {
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	line := []byte("ping\n")
	if _, err := conn.Write(line); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, line)
	return err
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string { return strings.Join(*l, " ") }

func (l *list) Set(s string) error {
	*l = append(*l, s)
	return nil
}
