package evidence

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"golang.org/x/time/rate"

	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// pace limits how many canaries are offered per second, whatever the number of proxies.
var pace = rate.NewLimiter(500, concurrency)

// Answer is what a server does with a canary.
type Answer int

const (
	// Unknown says that nothing was proven.
	Unknown Answer = iota
	// Accepted says that the server trusts the canary's root.
	Accepted
	// Refused says that it does not, while it accepted another canary.
	Refused
)

func (a Answer) String() string {
	switch a {
	case Accepted:
		return "accepted"
	case Refused:
		return "refused"
	}
	return "unknown"
}

// Sight is what a server showed of itself and how it answered canaries.
type Sight struct {
	// Seen has an error, and there are no answers, if the server did not show in each handshake that it is who it should be.
	Seen
	// Answers by the root of the canary.
	Answers map[pki.RootID]Answer
	// Doubt says why an answer is unknown.
	Doubt error
}

// Probe offers canaries, one handshake each, to every proxy and returns what was seen, in their order. A sight is of the pod
// only if it still has the same UID afterwards, which is for the caller to see.
//
// A sidecar is asked at a port where nothing listens, a gateway at the one that [Listener] makes it open. A proxy whose
// certificate chains to none of the canaries' roots counts as not seen, as does one that is not that of the pod's own service
// account in the trust domain.
func Probe(ctx context.Context, trustDomain string, proxies []ProxyPod, canaries []Canary) []Sight {
	return each(proxies, func(x ProxyPod) Sight {
		s, err := proxyServer(x)
		if err != nil {
			return Sight{Seen: Seen{Err: err}}
		}
		s.check = func(p Presented) error { return checkProxy(p, x, trustDomain, canaries) }
		return s.consult(ctx, canaries)
	})
}

// AskReplicasWith offers canaries to every replica of istiod, where proxies obtain their leaves, and returns what was seen, in
// their order.
func AskReplicasWith(ctx context.Context, replicas []Replica, canaries []Canary) []Sight {
	return each(replicas, func(r Replica) Sight {
		s := server{address: address(r.Pod.Status.PodIP, IstiodPort), alpn: []string{"h2"}}
		s.check = func(Presented) error { return nil }
		return s.consult(ctx, canaries)
	})
}

// checkProxy says what speaks against it that a pod's proxy presented this.
func checkProxy(p Presented, x ProxyPod, trustDomain string, canaries []Canary) error {
	if !p.IsWorkloadOf(trustDomain, x.Namespace, x.ServiceAccount) {
		return fmt.Errorf("what answers at %s is not service account %s in trust domain %s", x.IP, x.ServiceAccount, trustDomain)
	}
	roots := make([]pki.Root, len(canaries))
	for i, c := range canaries {
		roots[i] = c.Root
	}
	if _, ok := p.Signer(pki.NewBundle(roots...), time.Now()); !ok {
		return fmt.Errorf("what answers at %s presents a certificate that is valid under none of the roots", x.IP)
	}
	return nil
}

// server is whom canaries are offered to.
type server struct {
	address string
	// name is that of the server (SNI); "" names none.
	name string
	alpn []string
	// request is made of a server that would say nothing otherwise.
	request string
	// check says what speaks against it that the right one has presented itself.
	check func(Presented) error
}

// proxyServer says how a proxy is asked.
func proxyServer(x ProxyPod) (server, error) {
	switch {
	case x.IP == "":
		return server{}, errors.New("the pod has no address yet")
	case x.Kind == Sidecar:
		// As HTTP: for TCP, Envoy connects to what is behind as soon as a connection comes in, and hangs up, as there is nobody,
		// while it is still looking at the canary.
		return server{
			address: address(x.IP, ProxyPort), alpn: []string{alpnHTTP, ALPNMesh},
			request: "HEAD / HTTP/1.1\r\nHost: " + ListenerHost + "\r\nConnection: close\r\n\r\n",
		}, nil
	case x.Kind == Gateway:
		return server{
			address: address(x.IP, ListenerPort), alpn: []string{ALPNMesh}, name: ListenerHost,
			request: "HEAD / HTTP/1.1\r\nHost: " + ListenerHost + "\r\nConnection: close\r\n\r\n",
		}, nil
	}
	return server{}, fmt.Errorf("a %s is not probed", x.Kind)
}

func address(ip string, port int) string { return net.JoinHostPort(ip, strconv.Itoa(port)) }

// consult offers one canary after the other.
func (s server) consult(ctx context.Context, canaries []Canary) Sight {
	sight := Sight{Seen: Seen{Err: errors.New("there is no canary to offer")}, Answers: map[pki.RootID]Answer{}}
	for _, c := range canaries {
		shown, answer, doubt := s.offer(ctx, c)
		if len(shown.Chain) == 0 {
			return Sight{Seen: Seen{Err: doubt}}
		}
		if err := s.check(shown); err != nil {
			return Sight{Seen: Seen{shown, err}}
		}
		sight.Seen = Seen{Presented: shown}
		sight.Answers[c.Root.ID()] = answer
		if doubt != nil {
			sight.Doubt = fmt.Errorf("%v: %w", c, doubt)
		}
	}
	return sight.weighed()
}

// weighed takes no refusal for proven unless another canary was accepted: who refuses everything may do so for any reason.
func (s Sight) weighed() Sight {
	for _, a := range s.Answers {
		if a == Accepted {
			return s
		}
	}
	for root, a := range s.Answers {
		if a == Refused {
			s.Answers[root], s.Doubt = Unknown, errors.New("it accepts no canary at all")
		}
	}
	return s
}

// Alerts by which a server ends a handshake. Other complaints about a certificate, as bad_certificate or certificate_unknown,
// are not about its root.
const (
	alertUnknownCA       tls.AlertError = 48
	alertProtocolVersion tls.AlertError = 70
)

// offer offers one canary. In TLS 1.2 a handshake is complete only when the server has accepted it; TLS 1.3 is spoken with
// those who take nothing else. The error says why the answer is unknown.
func (s server) offer(ctx context.Context, c Canary) (Presented, Answer, error) {
	p, err := s.handshake(ctx, c, tls.VersionTLS12)
	if alerted(err, alertProtocolVersion) {
		p, err = s.handshake(ctx, c, tls.VersionTLS13)
	}
	switch {
	case p.asked && alerted(err, alertUnknownCA):
		return p, Refused, nil
	case err != nil:
		return p, Unknown, err
	case !p.asked:
		return p, Unknown, errors.New("it asks for no client certificate")
	}
	return p, Accepted, nil
}

// handshake offers a canary in one version of TLS. Without an error the server has accepted it, or did not ask.
func (s server) handshake(ctx context.Context, c Canary, version uint16) (p Presented, err error) {
	if err := pace.Wait(ctx); err != nil {
		return p, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.address)
	if err != nil {
		return p, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })() // ends what is read below, too

	wire := &wire{Conn: conn}
	config := p.watch(s.name, s.alpn, &c.certificate)
	config.MinVersion, config.MaxVersion = version, version
	client := tls.Client(wire, config)
	if err := client.HandshakeContext(ctx); err != nil {
		return p, err
	}
	if version == tls.VersionTLS13 {
		return p, s.confirm(client, wire)
	}
	return p, nil
}

// confirm waits for a sign that the server has accepted the canary: in TLS 1.3 a client is done before the server has looked at
// its certificate. A sign is what only a server says that is done as well: data, or a proper end (close_notify). Silence, or a
// connection that just breaks off, is none: the refusal may have been on its way.
func (s server) confirm(client *tls.Conn, wire *wire) error {
	if s.request != "" {
		_, _ = io.WriteString(client, s.request) // that it failed, and why, is read below
	}
	switch _, err := client.Read(make([]byte, 1)); {
	case err == nil, errors.Is(err, io.EOF) && !wire.ended:
		return nil
	case errors.Is(err, io.EOF):
		return errors.New("the connection broke off before the server had answered")
	default:
		return err
	}
}

// wire notes that a connection has ended, as opposed to the TLS within.
type wire struct {
	net.Conn
	ended bool
}

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	w.ended = w.ended || err != nil
	return n, err
}

// alerted reports whether the server ended the handshake with an alert. For alerts that came over a connection crypto/tls has a
// type that it does not export, with the text of the one that it does.
func alerted(err error, alert tls.AlertError) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error" && op.Err.Error() == alert.Error()
}
