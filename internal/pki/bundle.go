package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// Bundle is a list of roots together with the very bytes it is written in:
// istiod and its proxies compare root-cert.pem now by its set of certificates
// and now by its bytes, so both matter. The zero Bundle is empty. A Bundle is a
// value: its methods return changed copies.
type Bundle struct {
	entries []entry
	tail    []byte // what follows the last certificate, without the nudge
	nudge   int64
}

// entry is one certificate and its text: the PEM block, and before it the
// comments and blank lines that lead up to it.
type entry struct {
	root Root
	text []byte
}

// nudgePrefix begins the comment that is a nudge. The comment comes last, since
// Istio counts text before a certificate as part of it.
const nudgePrefix = "# isthmus.dev/nudge "

// NewBundle is the bundle of the given roots in their order, each once.
func NewBundle(roots ...Root) Bundle {
	var b Bundle
	for _, r := range roots {
		b = b.Append(r)
	}
	return b
}

// ParseBundle reads one or more certificates from PEM. Comments and blank lines
// are allowed and kept, to the byte. A block that is broken or not a certificate
// is an error: the decoders of proxies would silently leave it out.
func ParseBundle(text []byte) (Bundle, error) {
	b, err := parseBundle("", text)
	if err != nil {
		return Bundle{}, err
	}
	return b, nil
}

func parseBundle(field string, text []byte) (Bundle, *InvalidError) {
	entries, tail, err := splitCertificates(field, text)
	if err != nil {
		return Bundle{}, err
	}
	b := Bundle{entries: entries}
	b.tail, b.nudge = cutNudge(tail)
	return b, nil
}

// splitCertificates cuts PEM text into its certificates and what follows the
// last. Joined again, the parts are the text.
func splitCertificates(field string, text []byte) ([]entry, []byte, *InvalidError) {
	var entries []entry
	rest := bytes.Clone(text)
	for {
		block, after := pem.Decode(rest)
		part := rest[:len(rest)-len(after)]
		if block == nil {
			part = rest
		}
		// pem.Decode passes over what it cannot read.
		switch begins := countBegins(part); {
		case block == nil && begins > 0, block != nil && begins > 1:
			return nil, nil, invalid(field, ReasonMalformed, "PEM block %d is broken: every certificate must be complete, unindented and between its BEGIN and END lines", len(entries)+1)
		case block == nil && len(entries) == 0:
			return nil, nil, invalid(field, ReasonMalformed, "holds no PEM certificate")
		case block == nil:
			return entries, rest, nil
		case block.Type != "CERTIFICATE" || len(block.Headers) > 0:
			return nil, nil, invalid(field, ReasonMalformed, "PEM block %d is not a plain CERTIFICATE: only certificates belong here", len(entries)+1)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, invalid(field, ReasonMalformed, "certificate %d cannot be parsed: %v", len(entries)+1, err)
		}
		entries = append(entries, entry{RootOf(cert), part})
		rest = after
	}
}

func countBegins(text []byte) int {
	n := 0
	for line := range bytes.Lines(text) {
		if bytes.HasPrefix(bytes.TrimSpace(line), []byte("-----BEGIN")) {
			n++
		}
	}
	return n
}

// cutNudge takes a nudge off the end of a bundle's tail.
func cutNudge(tail []byte) (rest []byte, n int64) {
	start := bytes.LastIndexByte(bytes.TrimSuffix(tail, []byte("\n")), '\n') + 1
	digits, ok := bytes.CutPrefix(tail[start:], []byte(nudgePrefix))
	if !ok {
		return tail, 0
	}
	n, err := strconv.ParseInt(string(bytes.TrimSuffix(digits, []byte("\n"))), 10, 64)
	if err != nil || !bytes.Equal(tail[start:], nudgeLine(n)) {
		return tail, 0
	}
	return tail[:start], n
}

func nudgeLine(n int64) []byte {
	if n <= 0 {
		return nil
	}
	return fmt.Appendf(nil, "%s%d\n", nudgePrefix, n)
}

// PEM is the exact text of the bundle.
func (b Bundle) PEM() []byte {
	var text []byte
	for _, e := range b.entries {
		text = append(text, e.text...)
	}
	text = append(text, b.tail...)
	return append(text, nudgeLine(b.nudge)...)
}

// Len is the number of certificates.
func (b Bundle) Len() int { return len(b.entries) }

// Roots are the certificates in their order.
func (b Bundle) Roots() []Root {
	roots := make([]Root, len(b.entries))
	for i, e := range b.entries {
		roots[i] = e.root
	}
	return roots
}

func (b Bundle) certificates() []*x509.Certificate {
	certs := make([]*x509.Certificate, len(b.entries))
	for i, e := range b.entries {
		certs[i] = e.root.cert
	}
	return certs
}

// IDs are the fingerprints in the order of the bundle.
func (b Bundle) IDs() []RootID {
	ids := make([]RootID, len(b.entries))
	for i, e := range b.entries {
		ids[i] = e.root.ID()
	}
	return ids
}

// Root finds a root by its fingerprint.
func (b Bundle) Root(id RootID) (Root, bool) {
	i := b.index(id)
	if i < 0 {
		return Root{}, false
	}
	return b.entries[i].root, true
}

// Contains tells whether the root is in the bundle.
func (b Bundle) Contains(id RootID) bool { return b.index(id) >= 0 }

func (b Bundle) index(id RootID) int {
	return slices.IndexFunc(b.entries, func(e entry) bool { return e.root.ID() == id })
}

// Pool is the set of roots for [crypto/x509] to verify against.
func (b Bundle) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, e := range b.entries {
		pool.AddCert(e.root.cert)
	}
	return pool
}

// Anchor is the root of the bundle under which a chain verifies at the given
// time, whatever it is used for. The chain may be that of a workload, and may
// end with its root.
func (b Bundle) Anchor(chain Chain, now time.Time) (Root, error) {
	if len(chain) == 0 {
		return Root{}, errors.New("the certificate chain is empty")
	}
	path, err := buildPath(chain, b, x509.ExtKeyUsageAny, now)
	if err != nil {
		return Root{}, fmt.Errorf("%s does not chain to a root of the bundle: %w", describe(chain[0]), err)
	}
	return RootOf(path[len(path)-1]), nil
}

// Append adds a root at the end; the bytes before it stay as they are. A bundle
// that contains the root is returned unchanged.
func (b Bundle) Append(r Root) Bundle {
	if b.Contains(r.ID()) {
		return b
	}
	b = b.endLines()
	b.entries = append(b.entries, entry{r, slices.Concat(b.tail, r.PEM())})
	b.tail = nil
	return b
}

// Without removes a root and the comments above it; the bytes of the rest stay
// as they are.
func (b Bundle) Without(id RootID) Bundle {
	b.entries = slices.DeleteFunc(slices.Clone(b.entries), func(e entry) bool { return e.root.ID() == id })
	return b
}

// Lead moves a root to the front and leaves the order of the others. A bundle
// that does not contain the root is returned unchanged.
func (b Bundle) Lead(id RootID) Bundle {
	i := b.index(id)
	if i <= 0 {
		return b
	}
	b = b.endLines()
	lead := b.entries[i]
	b.entries = slices.Insert(slices.Delete(b.entries, i, i+1), 0, lead)
	return b
}

// WithNudge sets the bundle's nudge: a last line, a comment with a positive
// number. It changes the bytes and not the roots, upon which every proxy that
// istiod pushes the bundle to asks for a new leaf. A number that is not positive
// takes the nudge away.
func (b Bundle) WithNudge(n int64) Bundle {
	if n > 0 {
		b = b.endLines()
		for was := int64(1); was > 0; { // a line that had no end may have become one
			b.tail, was = cutNudge(b.tail)
		}
	}
	b.nudge = max(n, 0)
	return b
}

// Nudge is the number of the bundle's nudge, or 0.
func (b Bundle) Nudge() int64 { return b.nudge }

// endLines is a copy in which every part of the text ends its last line, so that
// something can follow it.
func (b Bundle) endLines() Bundle {
	b.entries = slices.Clone(b.entries)
	for i, e := range b.entries {
		b.entries[i].text = endLine(e.text)
	}
	b.tail = endLine(b.tail)
	return b
}

func endLine(text []byte) []byte {
	if len(text) == 0 || bytes.HasSuffix(text, []byte("\n")) {
		return text
	}
	return slices.Concat(text, []byte("\n"))
}

// Equal tells whether two bundles are the same bytes.
func (b Bundle) Equal(o Bundle) bool { return bytes.Equal(b.PEM(), o.PEM()) }

// SubsetOf tells whether o contains every root of b.
func (b Bundle) SubsetOf(o Bundle) bool {
	return !slices.ContainsFunc(b.entries, func(e entry) bool { return !o.Contains(e.root.ID()) })
}

// SameRoots tells whether two bundles contain the same set of roots, in
// whatever order and bytes.
func (b Bundle) SameRoots(o Bundle) bool { return b.SubsetOf(o) && o.SubsetOf(b) }
