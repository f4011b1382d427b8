// Package kubeapi is the little of a Kubernetes client that the lab needs inside its own processes: is the API server
// ready, list, watch, patch. It speaks the API's JSON over HTTP and knows no kind. (The lab's bigger work is done by
// kubectl and istioctl.)
package kubeapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Client talks to one API server.
type Client struct {
	server string
	http   *http.Client
}

// New makes a client from PEM: the authority of the server, and the user's certificate and key.
func New(server string, ca, cert, key []byte) (*Client, error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("client certificate for %s: %w", server, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("authority of %s: no certificate in the PEM", server)
	}
	// No proxy: the lab's addresses are known to this machine alone.
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}}
	return &Client{server: server, http: &http.Client{Transport: transport}}, nil
}

// Status is an answer of the API server other than success.
type Status struct {
	Code    int
	Message string
}

func (s *Status) Error() string { return fmt.Sprintf("API server answers %d: %s", s.Code, s.Message) }

// Get reads the object at a path of the API into v.
func (c *Client) Get(ctx context.Context, path string, v any) error {
	return c.call(ctx, http.MethodGet, path, "", nil, v)
}

// MergePatch applies a JSON merge patch (RFC 7396) to the object at a path of the API.
func (c *Client) MergePatch(ctx context.Context, path string, patch any) error {
	body, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodPatch, path, "application/merge-patch+json", body, nil)
}

// Event is one line of a watch.
type Event struct {
	// Type is ADDED, MODIFIED, DELETED, BOOKMARK or ERROR.
	Type   string
	Object json.RawMessage
}

// Watch calls handle for every event of a watch until the server ends it, the context ends or handle returns an error.
// The path carries the query (watch=1, resourceVersion).
func (c *Client) Watch(ctx context.Context, path string, handle func(Event) error) error {
	resp, err := c.do(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for lines := json.NewDecoder(resp.Body); ; {
		var e Event
		switch err := lines.Decode(&e); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := handle(e); err != nil {
			return err
		}
	}
}

// Ready asks /readyz once. It is ready when all that the API server starts with is there, RBAC's roles among it.
func (c *Client) Ready(ctx context.Context) error {
	return c.call(ctx, http.MethodGet, "/readyz", "", nil, nil)
}

// WaitReady waits until the API server is ready. The error of a wait in vain says how the last try went.
func (c *Client) WaitReady(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := c.Ready(try)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("API server %s is not ready: %w (last answer: %w)", c.server, context.Cause(ctx), last)
		case <-tick.C:
		}
	}
}

func (c *Client) call(ctx context.Context, method, path, contentType string, body []byte, v any) error {
	resp, err := c.do(ctx, method, path, contentType, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if v == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	return json.NewDecoder(resp.Body).Decode(v)
}

func (c *Client) do(ctx context.Context, method, path, contentType string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.server+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	return nil, &Status{Code: resp.StatusCode, Message: string(bytes.TrimSpace(text))}
}
