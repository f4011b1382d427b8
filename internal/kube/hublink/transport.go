package hublink

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// placeholder is the address that clients of the hub are made with; the transport puts the real one in its place.
const placeholder = "https://hub.invalid"

// transport sends each request as the present kubeconfig says: to its address, by its proxy, with its certificates and
// token. So clients and caches outlive a credential.
type transport struct {
	target atomic.Pointer[target]
}

type target struct {
	server *url.URL
	http.RoundTripper
}

// errNoCredential is the answer while there is no usable kubeconfig.
var errNoCredential = errors.New("there is no credential for the hub yet; `meshctl cluster register` makes one")

// use makes a kubeconfig the present one.
func (t *transport) use(kubeconfig []byte) error {
	cfg, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		// The parser's own error quotes from the text, which holds a token.
		return errors.New("kubeconfig for the hub cannot be parsed; put a complete kubeconfig there, with its current-context set")
	}
	if cfg.ExecProvider != nil || cfg.AuthProvider != nil {
		return errors.New("kubeconfig for the hub runs a program to log in, which an agent does not do; use a token or a client certificate")
	}
	server, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return fmt.Errorf("server in the kubeconfig for the hub is not an address: %w", err)
	}
	rt, err := rest.TransportFor(cfg)
	if err != nil {
		return fmt.Errorf("kubeconfig for the hub: %w", err)
	}
	t.target.Store(&target{server: server, RoundTripper: rt})
	return nil
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	to := t.target.Load()
	if to == nil {
		return nil, errNoCredential
	}
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host, r.Host = to.server.Scheme, to.server.Host, ""
	r.URL.Path = strings.TrimSuffix(to.server.Path, "/") + r.URL.Path
	return to.RoundTripper.RoundTrip(r)
}
