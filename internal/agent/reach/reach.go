// Package reach finds out whether a destination of another mesh can be reached from here: by a TLS handshake through a gateway
// of that mesh, with the server name by which the gateway routes, as the proxies of clients do it. The gateway lets TLS pass,
// so it is the destination's own proxy that shows its certificate.
//
// It only looks. It shows no certificate of its own, so the other proxy ends the connection after the handshake, and no
// application sees anything of it. Where gateways are is the word of another cluster: what is reported says whether a gateway
// answers as it should, and tells nothing else about whatever is at an address.
package reach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/agent/evidence"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

const (
	// timeout of one probe.
	timeout = 5 * time.Second
	// concurrency bounds the probes that are under way at a time.
	concurrency = 16
)

// Problem is why a destination is not reached. A report begins with it: see ProblemOf.
type Problem string

// Problems.
const (
	// Unreachable: no connection to the gateway's address.
	Unreachable Problem = "gateway does not answer"
	// NotAdmitted: the gateway takes the connection and ends it without a certificate. It does not admit the destination, or has
	// nobody behind it, or is no pass-through gateway.
	NotAdmitted Problem = "no handshake across"
	// Untrusted: the certificate that is shown does not chain to a root that this mesh trusts, or is not valid now.
	Untrusted Problem = "handshake across is not trusted"
	// Impostor: the certificate that is shown is that of another identity.
	Impostor Problem = "handshake across meets somebody else"
)

// Problems are all of them.
var Problems = []Problem{Unreachable, NotAdmitted, Untrusted, Impostor}

// ProblemOf returns the problem that a report begins with; "" for any other text.
func ProblemOf(report string) Problem {
	for _, p := range Problems {
		if strings.HasPrefix(report, string(p)+": ") {
			return p
		}
	}
	return ""
}

// Target is a destination behind one address of a gateway.
type Target struct {
	// Mesh of the gateway, for reports.
	Mesh string
	// Address of the gateway, an IP address or a DNS name.
	Address string
	// Port for TLS pass-through at the address.
	Port int32
	// SNI by which the gateway routes to the destination.
	SNI string
	// Identities of the destination, of which one must be shown.
	Identities []string
	// Roots that this mesh trusts. With none, what is shown may chain to any.
	Roots pki.Bundle
}

// Verdict says what a probe has found.
type Verdict struct {
	Target
	// Problem is "" if the destination is reached.
	Problem Problem
	// Identity that was shown under a root that this mesh trusts; "" if none was.
	Identity string
	// Err says more about the problem. It is for the log of this cluster: it tells what is at an address.
	Err error
}

// Prober probes. The zero value is ready to use.
type Prober struct {
	// Forbidden reports whether a port of an IP address must not be asked; a name is judged by what it resolves to. nil forbids
	// what Local does.
	Forbidden func(ip string, port int32) bool
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// Local reports whether an IP address is no other cluster's: a loopback, link-local, multicast or unspecified one, or none.
func Local(ip string) bool {
	a, err := netip.ParseAddr(ip)
	a = a.Unmap()
	return err != nil || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified()
}

// Probe finds out whether a destination is reached.
func (p Prober) Probe(ctx context.Context, t Target) Verdict {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	v := Verdict{Target: t}
	conn, err := p.dialer().DialContext(ctx, "tcp", t.endpoint())
	if err != nil {
		v.Problem, v.Err = Unreachable, err
		return v
	}
	defer conn.Close()
	shown, err := evidence.Ask(ctx, conn, t.SNI, evidence.ALPNMesh)
	if err != nil {
		v.Problem, v.Err = NotAdmitted, err
		return v
	}
	if t.Roots.Len() > 0 {
		if _, err := t.Roots.Anchor(shown.Chain, p.now()); err != nil {
			v.Problem, v.Err = Untrusted, err
			return v
		}
	}
	leaf, ids := shown.Chain[0], []string(nil)
	for _, u := range leaf.URIs {
		ids = append(ids, u.String())
	}
	if i := slices.IndexFunc(ids, func(id string) bool { return slices.Contains(t.Identities, id) }); i >= 0 {
		v.Identity = ids[i]
		return v
	}
	v.Problem, v.Err = Impostor, fmt.Errorf("its identity is %q, not one of %q", ids, t.Identities)
	if t.Roots.Len() > 0 && len(ids) > 0 {
		v.Identity = ids[0]
	}
	return v
}

// Report probes all targets, several at a time, and returns a text for each that is not reached, sorted.
func (p Prober) Report(ctx context.Context, targets ...Target) []string {
	reports := make([]string, len(targets))
	slots := make(chan struct{}, concurrency)
	var all sync.WaitGroup
	for i, t := range targets {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			reports[i] = p.Probe(ctx, t).String()
		})
	}
	all.Wait()
	slices.Sort(reports)
	reports = slices.Compact(reports)
	return slices.DeleteFunc(reports, func(s string) bool { return s == "" })
}

// String is the report of a problem, for everybody who may read the mesh's status; "" without one.
func (v Verdict) String() string {
	at := v.endpoint() + " of mesh " + v.Mesh
	switch v.Problem {
	case Unreachable:
		return fmt.Sprintf("%s: %s; see that it runs and that this cluster's network lets connections to it out", v.Problem, at)
	case NotAdmitted:
		return fmt.Sprintf("%s: %s does not lead to %s; see that the mesh federates it and that a pod is behind it", v.Problem, at, v.SNI)
	case Untrusted:
		return fmt.Sprintf("%s: %s leads, for %s, to a certificate that this mesh does not trust", v.Problem, at, v.SNI)
	case Impostor:
		return fmt.Sprintf("%s: %s leads, for %s, to another identity than %s", v.Problem, at, v.SNI, strings.Join(v.Identities, ", "))
	}
	return ""
}

func (t Target) endpoint() string { return net.JoinHostPort(t.Address, strconv.Itoa(int(t.Port))) }

// dialer connects to no forbidden address, whatever a name resolves to.
func (p Prober) dialer() *net.Dialer {
	forbidden := p.Forbidden
	if forbidden == nil {
		forbidden = func(ip string, _ int32) bool { return Local(ip) }
	}
	return &net.Dialer{ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		resolved, err := netip.ParseAddrPort(address)
		if err == nil && forbidden(resolved.Addr().String(), int32(resolved.Port())) {
			return errors.New(address + " cannot be a gateway's")
		}
		return err
	}}
}

func (p Prober) now() time.Time {
	if p.Now != nil {
		return p.Now()
	}
	return time.Now()
}
