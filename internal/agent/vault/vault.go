// Package vault asks Vault, or OpenBao, which speaks the same API: which root its PKI engine signs under, and for the
// intermediate of a mesh. It knows neither orders nor where certificates are kept.
//
// What a VirtualMesh says of a server comes from the hub, and the token comes from this cluster. So the agent shows a token only
// to servers that this cluster's operator has listed, follows no redirects, takes Secrets and ServiceAccounts of its own
// namespace alone, and asks only endpoints that sign, export a key for that, log in, or look up and renew the token that is shown.
package vault

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
)

// Defaults of Options.
const (
	DefaultAudience = "vault"
	DefaultTokenDir = "/var/run/secrets/isthmus.dev/vault" //nolint:gosec // a path, not a secret
)

// DefaultTimeout is how long a server may take for one answer. It makes keys of up to 8192 bits, for csrPath.
const DefaultTimeout = 20 * time.Second

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 1 << 20

// Reasons of an Error, which are those of conditions.
const (
	ReasonServerNotAllowed  = "VaultServerNotAllowed"  // this cluster's operator has not listed the server
	ReasonUnreachable       = "VaultUnreachable"       // no connection, or no answer in time
	ReasonNotTrusted        = "VaultNotTrusted"        // its certificate does not verify
	ReasonSealed            = "VaultSealed"            // it is sealed, or was never initialised
	ReasonUnavailable       = "VaultUnavailable"       // it answers that it cannot serve now
	ReasonCredentialMissing = "VaultCredentialMissing" //nolint:gosec // nothing to log in with: a name, not a secret
	ReasonLoginRefused      = "VaultLoginRefused"      // by the auth method: role, ServiceAccount, audience
	ReasonDenied            = "VaultDenied"            // the token is not good, or its policies do not permit
	ReasonRefused           = "VaultRefused"           // it does not do what it is asked for
	ReasonRootChanged       = "VaultRootChanged"       // it does not sign under the root that is ordered
	ReasonInvalidAnswer     = "VaultInvalidAnswer"     // what it answers cannot be used
	ReasonInvalid           = v1alpha1.ReasonInvalid   // the VirtualMesh says what makes no sense
)

// Error says what keeps this cluster from Vault, and what to do about it. It never holds a token.
type Error struct {
	// Reason is one CamelCase word, that of a condition.
	Reason string
	// Message is for people.
	Message string
}

func (e *Error) Error() string { return e.Message }

func failed(reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Options say what this cluster permits.
type Options struct {
	// Cluster is the registered name of this cluster.
	Cluster string
	// Servers that may be asked, as URLs: "https://<host>[:<port>]". Only one that is listed with http:// is asked in plain text.
	Servers []string
	// Audience of the tokens by which the agent logs in. Defaults to DefaultAudience.
	Audience string
	// ServiceAccounts of the agent's namespace whose tokens may be used.
	ServiceAccounts []string
	// TokenDir is the directory below which mountedSaPath lies. Defaults to DefaultTokenDir.
	TokenDir string
	// Timeout of one request. Defaults to DefaultTimeout.
	Timeout time.Duration
}

// Client asks the Vault servers that VirtualMeshes name.
type Client struct {
	options   Options
	namespace string
	kube      client.Client
	reader    client.Reader
	allowed   []string
}

// New returns a Client that takes credentials of the agent's own namespace. reader reads past any cache.
func New(o Options, namespace string, kube client.Client, reader client.Reader) (*Client, error) {
	if o.Audience == "" {
		o.Audience = DefaultAudience
	}
	if o.TokenDir == "" {
		o.TokenDir = DefaultTokenDir
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	c := &Client{options: o, namespace: namespace, kube: kube, reader: reader}
	for _, s := range o.Servers {
		server, err := accept.VaultServer(s)
		if err != nil {
			return nil, fmt.Errorf("--vault-servers: %q %w", s, err)
		}
		c.allowed = append(c.allowed, server)
	}
	return c, nil
}

// session is a conversation with one server.
type session struct {
	*Client
	at    accept.VaultEndpoints
	ca    *v1alpha1.VaultCA
	http  *http.Client
	token string
	// secrets are never shown, whatever a server answers.
	secrets []string
}

// open begins a conversation, which done ends. Nothing is sent yet.
func (c *Client) open(ca *v1alpha1.VaultCA) (s *session, done func(), err error) {
	ca = accept.VaultFor(ca, c.options.Cluster)
	endpoints, problems := accept.EndpointsOf(ca)
	if len(problems) > 0 {
		return nil, nil, failed(ReasonInvalid, "%s", problems[0])
	}
	if !slices.Contains(c.allowed, endpoints.Server) {
		return nil, nil, failed(ReasonServerNotAllowed,
			"this cluster does not let its agent ask %s: list it in vault.servers of the chart isthmus-agent here, which has %q", endpoints.Server, c.allowed)
	}
	roots := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(ca.CABundle) > 0 {
		roots.RootCAs = x509.NewCertPool()
		roots.RootCAs.AppendCertsFromPEM(ca.CABundle)
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: roots, TLSHandshakeTimeout: c.options.Timeout}
	return &session{Client: c, at: endpoints, ca: ca, http: &http.Client{
		Transport:     transport,
		Timeout:       c.options.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, transport.CloseIdleConnections, nil
}

// answer is what Vault's API answers.
type answer struct {
	Data json.RawMessage `json:"data"`
	Auth *struct {
		ClientToken string `json:"client_token"`
	} `json:"auth"`
	Errors []string `json:"errors"`
}

// get reads an endpoint into out. write sends in to one.
func (s *session) get(ctx context.Context, path string, out any) error {
	a, err := s.ask(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	return s.read(a, path, out)
}

func (s *session) write(ctx context.Context, path string, in, out any) error {
	a, err := s.ask(ctx, http.MethodPost, path, in)
	if err != nil {
		return err
	}
	return s.read(a, path, out)
}

func (s *session) read(a *answer, path string, out any) error {
	if err := json.Unmarshal(a.Data, out); err != nil {
		return failed(ReasonInvalidAnswer, "%s answers %s with something else than Vault's API would: see that the server is a Vault or OpenBao", s.at.Server, path)
	}
	return nil
}

// ask sends one request. Whoever calls it adds what a refusal means to a *statusError.
func (s *session) ask(ctx context.Context, method, path string, in any) (*answer, error) {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.at.Server+"/v1/"+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Vault-Request", "true")
	if s.ca.Namespace != "" {
		req.Header.Set("X-Vault-Namespace", s.ca.Namespace)
	}
	if s.token != "" {
		req.Header.Set("X-Vault-Token", s.token)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, s.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, s.unreachable(ctx, err)
	}
	var a answer
	if err := json.Unmarshal(text, &a); err != nil && resp.StatusCode < 300 && len(text) > 0 {
		return nil, failed(ReasonInvalidAnswer, "%s does not answer as a Vault server does: see that the URL is that of one", s.at.Server)
	}
	switch code := resp.StatusCode; {
	case code < 300:
		return &a, nil
	case code < 400:
		return nil, failed(ReasonUnavailable, "%s redirects to another server, which no token is shown to: name the active server, or have standbys forward requests", s.at.Server)
	case code == http.StatusServiceUnavailable || code == http.StatusNotImplemented:
		return nil, failed(ReasonSealed, "%s is sealed or not initialised: unseal it; what is in use goes on being used", s.at.Server)
	case code >= 500 || code == http.StatusTooManyRequests || code == 472 || code == 473:
		return nil, failed(ReasonUnavailable, "%s cannot serve requests now (%d%s): see its log; this is tried again", s.at.Server, code, s.said(a.Errors))
	default:
		return nil, &statusError{path: path, code: code, said: s.said(a.Errors)}
	}
}

// statusError is a request that a server has refused.
type statusError struct {
	path string
	code int
	said string
}

// isRefusal tells the refusal of a request from a server that is not there, or cannot serve.
func isRefusal(err error) bool {
	_, ok := errors.AsType[*statusError](err)
	return ok
}

func (e *statusError) Error() string { return fmt.Sprintf("%s: %d%s", e.path, e.code, e.said) }

// said is what a server gave as its reasons, fit to be shown.
func (s *session) said(reasons []string) string {
	text := strings.Join(reasons, "; ")
	for _, secret := range s.secrets {
		text = strings.ReplaceAll(text, secret, "***")
	}
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }), " ")
	const most = 400
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	if text == "" {
		return ""
	}
	return ": " + text
}

// unreachable says why there is no answer.
func (s *session) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err() // the agent ends
	}
	var network net.Error
	switch {
	case isUntrusted(err):
		why := rootCause(err).Error()
		if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
			why = "it has expired, or is not valid yet" // without the time of now, which would make every message another one
		}
		return failed(ReasonNotTrusted, "the certificate of %s does not verify (%s): put the CA that issued it into caBundle of the VirtualMesh, and use a name that the certificate has", s.at.Server, why)
	case errors.As(err, &network) && network.Timeout():
		return failed(ReasonUnreachable, "%s has not answered within %v: see that it runs and is reachable from this cluster; what is in use goes on being used", s.at.Server, s.options.Timeout)
	}
	return failed(ReasonUnreachable, "%s cannot be reached (%v): see that it runs and is reachable from this cluster; what is in use goes on being used", s.at.Server, rootCause(err))
}

func isUntrusted(err error) bool {
	var verification *tls.CertificateVerificationError
	return errors.As(err, &verification)
}

// rootCause leaves out the URL, which an error of net/http begins with.
func rootCause(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
