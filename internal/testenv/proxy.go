package testenv

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy passes TCP connections on to an API server until it is cut, so that a test can take the server away from one
// client alone.
type Proxy struct {
	// Server is the URL under which the API server is reached through the proxy.
	Server string

	backend, address string
	t                testing.TB

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]struct{}
}

// NewProxy starts a proxy in front of c that ends with the test. It begins cut if cut is true.
func NewProxy(t testing.TB, c *Cluster, cut bool) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{
		Server:  "https://" + l.Addr().String(),
		backend: backendOf(c), address: l.Addr().String(), t: t,
		conns: map[net.Conn]struct{}{},
	}
	if cut {
		_ = l.Close()
	} else {
		p.serve(l)
	}
	t.Cleanup(p.Cut)
	return p
}

// Cut ends every connection and refuses new ones.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

// Restore takes connections again.
func (p *Proxy) Restore() {
	p.t.Helper()
	l, err := net.Listen("tcp", p.address)
	if err != nil {
		p.t.Fatal(err)
	}
	p.serve(l)
}

func (p *Proxy) serve(l net.Listener) {
	p.mu.Lock()
	p.listener = l
	p.mu.Unlock()
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go p.pass(l, client)
		}
	}()
}

func (p *Proxy) pass(l net.Listener, client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.backend)
	if err != nil {
		return
	}
	defer server.Close()
	p.mu.Lock()
	if p.listener != l {
		p.mu.Unlock()
		return
	}
	p.conns[client], p.conns[server] = struct{}{}, struct{}{}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(server, client); _ = server.Close() })
	both.Go(func() { _, _ = io.Copy(client, server); _ = client.Close() })
	both.Wait()
	p.mu.Lock()
	delete(p.conns, client)
	delete(p.conns, server)
	p.mu.Unlock()
}

// backendOf is the host and port of an API server.
func backendOf(c *Cluster) string {
	return c.Env.ControlPlane.GetAPIServer().SecureServing.ListenAddr.HostPort()
}
