package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
)

// The control socket speaks HTTP: GET /components, POST /components/NAME/kill, POST /components/NAME/restart.
const socketFile = "control.sock"

func (s *supervisor) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /components", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(s.list())
	})
	act := func(f func(string) error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if err := f(r.PathValue("name")); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
			}
		}
	}
	mux.HandleFunc("POST /components/{name}/kill", act(s.kill))
	mux.HandleFunc("POST /components/{name}/restart", act(s.restart))
	return mux
}

func listenControl(dir string) (net.Listener, error) {
	path := filepath.Join(dir, socketFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", path)
}

// Control talks to the init of a running node.
type Control struct{ client http.Client }

// NewControl is for the node whose directory is dir.
func NewControl(dir string) *Control {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(dir, socketFile))
	}
	return &Control{http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Components lists what the node runs.
func (c *Control) Components(ctx context.Context) ([]Component, error) {
	b, err := c.call(ctx, http.MethodGet, "/components")
	if err != nil {
		return nil, err
	}
	var cs []Component
	return cs, json.Unmarshal(b, &cs)
}

// Kill ends a component by SIGKILL and keeps it down.
func (c *Control) Kill(ctx context.Context, component string) error {
	_, err := c.call(ctx, http.MethodPost, "/components/"+component+"/kill")
	return err
}

// Restart brings a component back, killing it first if it runs.
func (c *Control) Restart(ctx context.Context, component string) error {
	_, err := c.call(ctx, http.MethodPost, "/components/"+component+"/restart")
	return err
}

func (c *Control) call(ctx context.Context, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://node"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the node's init does not answer: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(string(bytes.TrimSpace(b)))
	}
	return b, err
}
