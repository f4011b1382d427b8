package evidence

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
)

const trustDomain = "east.example"

// authority is a root with the intermediate of a mesh.
type authority struct{ root, intermediate *pkitest.CA }

func newAuthority(t testing.TB, name string) authority {
	t.Helper()
	return under(t, pkitest.NewRoot(t, name, time.Now()))
}

func under(t testing.TB, root *pkitest.CA) authority {
	t.Helper()
	return authority{root, root.Intermediate(t, "mesh")}
}

func (a authority) id() pki.RootID { return a.root.Root().ID() }

func (a authority) canary(t testing.TB) Canary {
	t.Helper()
	c, err := NewCanary(a.intermediate.Material(t), trustDomain, "isthmus-system", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// leaf is the certificate of a server with that identity.
func (a authority) leaf(t testing.TB, id string) tls.Certificate {
	t.Helper()
	leaf := a.intermediate.Leaf(t, "", func(c *x509.Certificate) {
		u, err := url.Parse(id)
		if err != nil {
			t.Fatal(err)
		}
		c.URIs = []*url.URL{u}
	})
	return tls.Certificate{Certificate: [][]byte{leaf.Cert.Raw, a.intermediate.Cert.Raw}, PrivateKey: leaf.Key}
}

func pool(authorities ...authority) *x509.CertPool {
	p := x509.NewCertPool()
	for _, a := range authorities {
		p.AddCert(a.root.Cert)
	}
	return p
}

// sidecar is what a proxy does at its inbound ports.
func sidecar(leaf tls.Certificate, trusted *x509.CertPool) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{leaf},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: trusted,
		NextProtos: []string{ALPNMesh},
	}
}

// addresses of loopback, so that every server of the tests has one to itself.
var addresses atomic.Uint32

func listen(t testing.TB, port int) net.Listener {
	t.Helper()
	n := addresses.Add(1)
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address(fmt.Sprintf("127.15.%d.%d", n/250, 1+n%250), port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// serve has each connection handled, the first by the first handler and so on, all further ones by the last.
func serve(t testing.TB, port int, handlers ...func(net.Conn)) string {
	t.Helper()
	l := listen(t, port)
	go func() {
		for n := 0; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			handle := handlers[min(n, len(handlers)-1)]
			go func() {
				defer conn.Close()
				handle(conn)
			}()
		}
	}()
	ip, _, _ := net.SplitHostPort(l.Addr().String())
	return ip
}

// closing ends the connection after the handshake, as a sidecar does that finds nobody behind the port.
func closing(config *tls.Config) func(net.Conn) {
	return func(conn net.Conn) {
		server := tls.Server(conn, config)
		if server.HandshakeContext(context.Background()) == nil {
			_ = server.Close()
		}
	}
}

func pod(ip string) ProxyPod {
	return ProxyPod{NamespacedName: types.NamespacedName{Namespace: "shop", Name: "web-1"}, IP: ip, ServiceAccount: "web", Kind: Sidecar}
}

const web = "spiffe://" + trustDomain + "/ns/shop/sa/web"

// want checks a sight: the answers under old and new.
func want(t *testing.T, s Sight, from, to authority, underOld, underNew Answer) {
	t.Helper()
	if s.Err != nil {
		t.Fatal(s.Err)
	}
	if a, b := s.Answers[from.id()], s.Answers[to.id()]; a != underOld || b != underNew {
		t.Errorf("under old %v, under new %v (%v), want %v, %v", a, b, s.Doubt, underOld, underNew)
	}
	if unknown := underOld == Unknown || underNew == Unknown; unknown != (s.Doubt != nil) {
		t.Errorf("doubt: %v", s.Doubt)
	}
}

// wantNothing checks a sight that proves nothing.
func wantNothing(t *testing.T, s Sight, why string) {
	t.Helper()
	if s.Err == nil || !strings.Contains(s.Err.Error(), why) {
		t.Errorf("error %v, want %q", s.Err, why)
	}
	if len(s.Answers) > 0 {
		t.Errorf("answers: %v", s.Answers)
	}
}

func probe(t testing.TB, p ProxyPod, canaries ...Canary) Sight {
	t.Helper()
	return Probe(t.Context(), trustDomain, []ProxyPod{p}, canaries)[0]
}

// versions of TLS that a mesh may insist on.
var versions = map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3 only": tls.VersionTLS13}

func TestProxiesSayWhichRootsTheyTrust(t *testing.T) {
	from, to := newAuthority(t, "old"), newAuthority(t, "new")
	for name, version := range versions {
		for _, tc := range []struct {
			name     string
			signer   authority
			trusted  *x509.CertPool
			old, new Answer
		}{
			{"old only", from, pool(from), Accepted, Refused},
			{"both", from, pool(from, to), Accepted, Accepted},
			{"both, a leaf under new", to, pool(from, to), Accepted, Accepted},
			{"new only", to, pool(to), Refused, Accepted},
			{"another", to, pool(newAuthority(t, "another")), Unknown, Unknown},
		} {
			t.Run(name+", "+tc.name, func(t *testing.T) {
				config := sidecar(tc.signer.leaf(t, web), tc.trusted)
				config.MinVersion = version
				s := probe(t, pod(serve(t, ProxyPort, closing(config))), from.canary(t), to.canary(t))
				want(t, s, from, to, tc.old, tc.new)
				if !s.SignedBy(tc.signer.root.Root(), time.Now()) {
					t.Error("the signer of its leaf was not seen")
				}
			})
		}
	}
}

func TestRootsThatAreAlike(t *testing.T) {
	from := newAuthority(t, "root")
	t.Run("the same subject", func(t *testing.T) {
		to := newAuthority(t, "root")
		s := probe(t, pod(serve(t, ProxyPort, closing(sidecar(from.leaf(t, web), pool(from))))), from.canary(t), to.canary(t))
		want(t, s, from, to, Accepted, Refused)
	})
	t.Run("issued anew with the same key", func(t *testing.T) {
		to := under(t, pkitest.NewRootOf(t, "root", from.root.Key, time.Now()))
		s := probe(t, pod(serve(t, ProxyPort, closing(sidecar(from.leaf(t, web), pool(from))))), from.canary(t), to.canary(t))
		want(t, s, from, to, Accepted, Accepted)
	})
}

// A leaf under a re-issued root is under the former one as well. Since when it is there is told by what comes with it.
func TestLeavesUnderAReissuedRoot(t *testing.T) {
	from := newAuthority(t, "root")
	to := under(t, pkitest.NewRootOf(t, "root", from.root.Key, time.Now()))
	for _, a := range []authority{from, to} {
		other := from
		if a.id() == from.id() {
			other = to
		}
		leaf := a.leaf(t, web)
		seen := func(above ...*pkitest.CA) Seen {
			var s Seen
			for _, der := range leaf.Certificate {
				c, err := x509.ParseCertificate(der)
				if err != nil {
					t.Fatal(err)
				}
				s.Chain = append(s.Chain, c)
			}
			for _, c := range above {
				s.Chain = append(s.Chain, c.Cert)
			}
			return s
		}
		s := seen(a.root, other.root)
		if !s.SignedBy(a.root.Root(), time.Now()) || s.SignedBy(other.root.Root(), time.Now()) {
			t.Error("the root that comes first with a leaf is not taken for its own")
		}
		for _, candidates := range []pki.Bundle{pki.NewBundle(from.root.Root(), to.root.Root()), pki.NewBundle(to.root.Root(), from.root.Root())} {
			if signer, ok := s.Signer(candidates, time.Now()); !ok || signer != a.id() {
				t.Errorf("its signer is %s", signer.Short())
			}
		}
		if alone := seen(); !alone.SignedBy(a.root.Root(), time.Now()) || !alone.SignedBy(other.root.Root(), time.Now()) {
			t.Error("without a root, it is not under both")
		}
	}
}

// What is no evidence, or is evidence of something else.
func TestFalseEvidence(t *testing.T) {
	from, to := newAuthority(t, "old"), newAuthority(t, "new")
	canaries := []Canary{from.canary(t), to.canary(t)}
	good := sidecar(from.leaf(t, web), pool(from, to))
	presenting := func(a authority, id string) func(net.Conn) { return closing(sidecar(a.leaf(t, id), pool(from, to))) }

	for _, tc := range []struct {
		name     string
		why      string
		handlers []func(net.Conn)
	}{
		{"the application's own TLS", "is not service account web", []func(net.Conn){
			closing(&tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{from.leaf(t, "https://shop.example")}}),
		}},
		{"the application's own ALPN", "no application protocol", []func(net.Conn){
			closing(&tls.Config{MinVersion: tls.VersionTLS12, Certificates: good.Certificates, NextProtos: []string{"h2"}}),
		}},
		{"plain text", "first record does not look like a TLS handshake", []func(net.Conn){
			func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) },
		}},
		{"a connection that is closed at once", "", []func(net.Conn){func(net.Conn) {}}},
		{"another account at the address", "is not service account web", []func(net.Conn){
			presenting(from, "spiffe://"+trustDomain+"/ns/shop/sa/cart"),
		}},
		{"another namespace at the address", "is not service account web", []func(net.Conn){
			presenting(from, "spiffe://"+trustDomain+"/ns/bank/sa/web"),
		}},
		{"another trust domain", "in trust domain " + trustDomain, []func(net.Conn){
			presenting(from, "spiffe://west.example/ns/shop/sa/web"),
		}},
		{"an identity of its own making", "valid under none of the roots", []func(net.Conn){
			presenting(newAuthority(t, "old"), web),
		}},
		{"another pod in between", "is not service account web", []func(net.Conn){
			closing(good), presenting(from, "spiffe://"+trustDomain+"/ns/shop/sa/cart"),
		}},
		{"a pod that goes away in between", "", []func(net.Conn){closing(good), func(net.Conn) {}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			wantNothing(t, probe(t, pod(serve(t, ProxyPort, tc.handlers...)), canaries...), tc.why)
		})
	}

	t.Run("a closed port", func(t *testing.T) {
		l := listen(t, ProxyPort)
		ip, _, _ := net.SplitHostPort(l.Addr().String())
		_ = l.Close()
		wantNothing(t, probe(t, pod(ip), canaries...), "connection refused")
	})
	t.Run("a pod without address", func(t *testing.T) { wantNothing(t, probe(t, pod(""), canaries...), "no address") })
	t.Run("no canary", func(t *testing.T) {
		s := probe(t, pod(serve(t, ProxyPort, closing(good))))
		wantNothing(t, s, "no canary")
	})
	t.Run("a ztunnel", func(t *testing.T) {
		p := pod("127.0.0.1")
		p.Kind = Ztunnel
		wantNothing(t, probe(t, p, canaries...), "a ztunnel is not probed")
	})
	t.Run("a black hole", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ip := serve(t, ProxyPort, func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1))
			cancel() // the prober speaks and is not answered
			_, _ = c.Read(make([]byte, 4096))
			_, _ = c.Read(make([]byte, 1))
		})
		wantNothing(t, Probe(ctx, trustDomain, []ProxyPod{pod(ip)}, canaries)[0], "cancel")
	})

	noQuestion := good.Clone()
	noQuestion.ClientAuth = tls.NoClientCert
	refusing := good.Clone()
	refusing.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { return fmt.Errorf("for another reason") }
	for name, version := range versions {
		for _, tc := range []struct {
			name   string
			config *tls.Config
		}{{"a server that asks for no certificate", noQuestion}, {"a server that refuses for another reason", refusing}} {
			t.Run(tc.name+", "+name, func(t *testing.T) {
				config := tc.config.Clone()
				config.MinVersion = version
				want(t, probe(t, pod(serve(t, ProxyPort, closing(config))), canaries...), from, to, Unknown, Unknown)
			})
		}
	}
	picky := good.Clone()
	picky.VerifyPeerCertificate = func(_ [][]byte, chains [][]*x509.Certificate) error {
		if chains[0][len(chains[0])-1].Equal(to.root.Cert) {
			return fmt.Errorf("for another reason")
		}
		return nil
	}
	t.Run("a refusal for another reason beside an acceptance", func(t *testing.T) {
		want(t, probe(t, pod(serve(t, ProxyPort, closing(picky))), canaries...), from, to, Accepted, Unknown)
	})
	t.Run("a server that falls silent after the handshake", func(t *testing.T) {
		config := good.Clone()
		config.MinVersion, config.SessionTicketsDisabled = tls.VersionTLS13, true
		ctx, cancel := context.WithCancel(t.Context())
		ip := serve(t, ProxyPort, func(c net.Conn) {
			server := tls.Server(c, config)
			if server.HandshakeContext(context.Background()) == nil {
				cancel() // the prober waits, and would not end by itself
				_, _ = server.Read(make([]byte, 1))
			}
		})
		wantNothing(t, Probe(ctx, trustDomain, []ProxyPod{pod(ip)}, canaries)[0], "cancel")
	})
	t.Run("a handshake after which the connection breaks off", func(t *testing.T) {
		config := good.Clone()
		config.MinVersion, config.SessionTicketsDisabled = tls.VersionTLS13, true
		ip := serve(t, ProxyPort, func(c net.Conn) { _ = tls.Server(c, config).HandshakeContext(t.Context()) })
		want(t, probe(t, pod(ip), canaries...), from, to, Unknown, Unknown)
	})
}

func TestGatewaysAreAskedAtTheirListener(t *testing.T) {
	from, to := newAuthority(t, "old"), newAuthority(t, "new")
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			config := sidecar(from.leaf(t, web), pool(from))
			config.MinVersion = version
			config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
				if hello.ServerName != ListenerHost {
					return nil, fmt.Errorf("no server %q", hello.ServerName)
				}
				return nil, nil
			}
			p := pod(serve(t, ListenerPort, func(conn net.Conn) {
				server := tls.Server(conn, config)
				if request, err := http.ReadRequest(bufio.NewReader(server)); err == nil && request.Host == ListenerHost {
					_, _ = server.Write([]byte("HTTP/1.1 404 Not Found\r\n\r\n"))
				}
			}))
			p.Kind = Gateway
			want(t, probe(t, p, from.canary(t), to.canary(t)), from, to, Accepted, Refused)
		})
	}
}

func TestReplicasSayWhomTheyLetIn(t *testing.T) {
	from, to := newAuthority(t, "old"), newAuthority(t, "new")
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			for trusted, answers := range map[*x509.CertPool][2]Answer{
				pool(from):                       {Accepted, Refused},
				pool(from, to):                   {Accepted, Accepted},
				pool(to):                         {Refused, Accepted},
				pool(newAuthority(t, "another")): {Unknown, Unknown},
			} {
				ip := serve(t, IstiodPort, closing(&tls.Config{
					MinVersion: version, Certificates: []tls.Certificate{to.leaf(t, web)},
					ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: trusted, NextProtos: []string{"h2"},
					VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error { // once more, as istiod does
						if len(raw) == 0 {
							return nil
						}
						intermediates := x509.NewCertPool()
						for _, der := range raw[1:] {
							intermediates.AddCert(mustParse(t, der))
						}
						_, err := mustParse(t, raw[0]).Verify(x509.VerifyOptions{Roots: trusted, Intermediates: intermediates})
						return err
					},
				}))
				replica := Replica{Pod: &corev1.Pod{Status: corev1.PodStatus{PodIP: ip}}}
				s := AskReplicasWith(t.Context(), []Replica{replica}, []Canary{from.canary(t), to.canary(t)})[0]
				want(t, s, from, to, answers[0], answers[1])
				if !s.SignedBy(to.root.Root(), time.Now()) || len(s.AcceptableCAs) == 0 {
					t.Errorf("what it presents was not seen: %+v", s.Presented)
				}
			}
		})
	}
}

// BenchmarkProbe asks 1,000 proxies with two canaries each. The servers, with the RSA keys that Istio's proxies have by default,
// run in the same process, on the same CPUs.
func BenchmarkProbe(b *testing.B) {
	from, to := newAuthority(b, "old"), newAuthority(b, "new")
	leaf := from.leaf(b, web)
	key := pkitest.RSAKey(b, 2048)
	der, err := x509.CreateCertificate(nil, mustParse(b, leaf.Certificate[0]), from.intermediate.Cert, key.Public(), from.intermediate.Key)
	if err != nil {
		b.Fatal(err)
	}
	leaf.Certificate[0], leaf.PrivateKey = der, key
	proxies := make([]ProxyPod, 1000)
	for i := range proxies {
		proxies[i] = pod(serve(b, ProxyPort, closing(sidecar(leaf, pool(from)))))
	}
	canaries := []Canary{from.canary(b), to.canary(b)}
	for b.Loop() {
		for _, s := range Probe(b.Context(), trustDomain, proxies, canaries) {
			if s.Err != nil || s.Answers[from.id()] != Accepted || s.Answers[to.id()] != Refused {
				b.Fatal(s.Err, s.Doubt)
			}
		}
	}
	b.ReportMetric(float64(b.N*len(proxies)*len(canaries))/b.Elapsed().Seconds(), "handshakes/s")
}

func mustParse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
