package evidence

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// Ports that are asked.
const (
	// IstiodPort is where istiod serves configuration and certificates over TLS.
	IstiodPort = 15012
	// ProxyPort is where a sidecar is asked. Nothing listens there: Istio redirects every inbound port to the proxy, whose
	// catch-all listener ends mutual TLS before it finds that there is nobody behind it.
	ProxyPort = 15987
)

// ALPNMesh is the application protocol by which Envoy tells Istio's mutual TLS from an application's own TLS.
const ALPNMesh = "istio"

// alpnHTTP says so of HTTP/1.1 within it.
const alpnHTTP = "istio-http/1.1"

// timeout of one handshake.
const timeout = 5 * time.Second

// Presented is what a TLS server showed of itself.
type Presented struct {
	// Chain begins with the server's leaf.
	Chain []*x509.Certificate
	// AcceptableCAs are the subjects (DER) of the CAs whose client certificates it takes. istiod fixes them when it starts.
	AcceptableCAs [][]byte
	// asked says that it asked for a client certificate.
	asked bool
}

// Istiod asks a replica of istiod at its pod's address.
func Istiod(ctx context.Context, podIP string) (Presented, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address(podIP, IstiodPort))
	if err != nil {
		return Presented{}, err
	}
	defer conn.Close()
	return Ask(ctx, conn, "")
}

// Ask does, over a connection, as much of a TLS handshake as it takes to see the certificates of the server of that name (SNI;
// "" names none). It offers none itself, so the server may well end it then. The caller closes the connection.
func Ask(ctx context.Context, conn net.Conn, name string, alpn ...string) (Presented, error) {
	var p Presented
	client := tls.Client(conn, p.watch(name, alpn, &tls.Certificate{}))
	if err := client.HandshakeContext(ctx); err != nil && len(p.Chain) == 0 {
		return Presented{}, err
	}
	if len(p.Chain) == 0 {
		return Presented{}, errors.New("no certificate was presented")
	}
	return p, nil
}

// watch is the configuration of a client that offers a certificate, or an empty one, and keeps here what it is shown.
func (p *Presented) watch(name string, alpn []string, offer *tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		ServerName: name,
		NextProtos: alpn,
		// The point is to see whatever is shown; the caller verifies it.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error { //nolint:gosec // there is no session cache, so nothing is resumed
			for _, der := range raw {
				c, err := x509.ParseCertificate(der)
				if err != nil {
					return err
				}
				p.Chain = append(p.Chain, c)
			}
			return nil
		},
		GetClientCertificate: func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			p.AcceptableCAs, p.asked = slices.Clone(r.AcceptableCAs), true
			return offer, nil
		},
	}
}

// Signer is the root among the candidates to which the leaf chains; false if it chains to none of them at that time. If it chains
// to several, it is that which comes first in what was presented, else among the candidates: what is under a root is under the
// same one re-issued as well.
func (p Presented) Signer(candidates pki.Bundle, now time.Time) (pki.RootID, bool) {
	intermediates := x509.NewCertPool()
	for _, c := range p.Chain[1:] {
		intermediates.AddCert(c)
	}
	presented := func(r pki.Root) int {
		if i := slices.IndexFunc(p.Chain, r.Certificate().Equal); i >= 0 {
			return i
		}
		return len(p.Chain)
	}
	roots := candidates.Roots()
	slices.SortStableFunc(roots, func(a, b pki.Root) int { return cmp.Compare(presented(a), presented(b)) })
	for _, root := range roots {
		pool := x509.NewCertPool()
		pool.AddCert(root.Certificate())
		if _, err := p.Chain[0].Verify(x509.VerifyOptions{
			Roots: pool, Intermediates: intermediates, CurrentTime: now,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		}); err == nil {
			return root.ID(), true
		}
	}
	return pki.RootID{}, false
}

// Issuer is the CA certificate that signed the leaf, if it was presented.
func (p Presented) Issuer() *x509.Certificate {
	for _, c := range p.Chain[1:] {
		if p.Chain[0].CheckSignatureFrom(c) == nil {
			return c
		}
	}
	return nil
}

// IsWorkloadOf reports whether the leaf is that of a service account of a trust domain
// (spiffe://<trust domain>/ns/<namespace>/sa/<service account>).
func (p Presented) IsWorkloadOf(trustDomain, namespace, serviceAccount string) bool {
	id := identity(trustDomain, namespace, serviceAccount).String()
	return slices.ContainsFunc(p.Chain[0].URIs, func(u *url.URL) bool { return u.String() == id })
}

// identity of a service account.
func identity(trustDomain, namespace, serviceAccount string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: trustDomain, Path: "/ns/" + namespace + "/sa/" + serviceAccount}
}
