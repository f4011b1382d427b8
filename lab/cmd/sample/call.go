package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// Outcome is what came of one request, as `sample call` prints it.
type Outcome struct {
	URL string `json:"url"`
	// Kind of the outcome, as in a Summary: "ok", "http 403", "reset" …
	Kind  string `json:"kind"`
	Error string `json:"error,omitempty"`
	// Handshake is there if a TLS session of the request's own was opened, whatever became of the request in it.
	Handshake *Handshake `json:"handshake,omitempty"`
	// Status and Answer of HTTP.
	Status int             `json:"status,omitempty"`
	Answer json.RawMessage `json:"answer,omitempty"`
	// Headers of the answer of gRPC.
	Headers map[string][]string `json:"headers,omitempty"`
}

// Handshake is what the server of a TLS session presented.
type Handshake struct {
	// Identities are the URIs of the server's certificate, such as spiffe://cluster.local/ns/default/sa/reviews.
	Identities []string `json:"identities"`
	// Protocol that was negotiated by ALPN.
	Protocol string `json:"protocol,omitempty"`
}

// call makes one request and prints the Outcome. It fails if the request did.
func call(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("sample call", flag.ExitOnError)
	timeout := flags.Duration("timeout", 5*time.Second, "deadline of the request")
	var options options
	flags.StringVar(&options.method, "method", "GET", "`method` of HTTP")
	var session session
	flags.StringVar(&session.name, "sni", "", "open TLS and ask for this `name`, whatever the URL says (http and tcp)")
	flags.Func("alpn", "`protocols` to offer in TLS, with commas between them", func(s string) error {
		session.protocols = strings.Split(s, ",")
		return nil
	})
	certificate := flags.String("cert", "", "`file` with the certificate chain to present in TLS")
	key := flags.String("key", "", "`file` with its key")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: sample call [flags] URL")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		flags.Usage()
		return errors.New("call: give one URL")
	}
	if session.name != "" {
		options.tls = &session
	}
	if *certificate != "" {
		pair, err := tls.LoadX509KeyPair(*certificate, *key)
		if err != nil {
			return err
		}
		session.certificate = &pair
	}
	c, err := newClient(flags.Arg(0), options)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	outcome, err := c.request(ctx)
	outcome.URL, outcome.Kind = c.url(), kindOf(err)
	if err != nil {
		outcome.Error = err.Error()
	}
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	return errors.Join(out.Encode(outcome), err)
}

// session is how a TLS session is opened that the caller makes itself, beside or instead of its sidecar's.
type session struct {
	name        string
	protocols   []string
	certificate *tls.Certificate
}

// open does the handshake over conn. It takes whatever the server presents and reports it: whether that is what it should
// be is for whoever asked to judge.
func (s *session) open(ctx context.Context, conn net.Conn) (net.Conn, *Handshake, error) {
	config := &tls.Config{
		ServerName:         s.name,
		NextProtos:         s.protocols,
		InsecureSkipVerify: true, //nolint:gosec // a probe; see above
	}
	if s.certificate != nil {
		// Whatever certificate authorities the server names.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.certificate, nil }
	}
	client := tls.Client(conn, config)
	if err := client.HandshakeContext(ctx); err != nil {
		return nil, nil, fmt.Errorf("TLS handshake: %w", err)
	}
	state := client.ConnectionState()
	return client, &Handshake{Identities: identities(state.PeerCertificates), Protocol: state.NegotiatedProtocol}, nil
}

func identities(chain []*x509.Certificate) []string {
	var uris []string
	if len(chain) > 0 {
		for _, u := range chain[0].URIs {
			uris = append(uris, u.String())
		}
	}
	return uris
}
