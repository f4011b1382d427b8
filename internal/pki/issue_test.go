package pki_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
)

const istiod = "spiffe://cluster.local/ns/istio-system/sa/istiod"

var template = pki.Template{Organization: "Istio", Mesh: "istiod-istio-system-west", URIs: []string{istiod}, TTL: 24 * time.Hour}

func at(when time.Time) func() time.Time { return func() time.Time { return when } }

func request(t testing.TB, key crypto.Signer) *x509.CertificateRequest {
	t.Helper()
	text, err := pki.NewRequest(key, "Istio", "mesh")
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.CheckRequest(text)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func issue(t testing.TB, m pki.Material, key crypto.Signer) pki.Chain {
	t.Helper()
	chain, err := pki.SignerIssuer{Material: m, Now: at(now)}.Issue(context.Background(), request(t, key), template)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func TestNewRoot(t *testing.T) {
	options := pki.RootOptions{Organization: "isthmus", VirtualMesh: "demo.isthmus-system", Generation: 2, TTL: 365 * 24 * time.Hour}
	key := pkitest.RSAKey(t, 2048)
	m, err := pki.NewRoot(key, options, now)
	if err != nil {
		t.Fatal(err)
	}
	c := m.Certificate
	if got := c.Subject.Organization[0] + " " + c.Subject.CommonName; got != "isthmus demo.isthmus-system.2" {
		t.Errorf("subject %q", got)
	}
	if !c.IsCA || c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || c.MaxPathLen != -1 || len(c.SubjectKeyId) == 0 {
		t.Errorf("CA %v, usage %b, path length %d, SKI %x", c.IsCA, c.KeyUsage, c.MaxPathLen, c.SubjectKeyId)
	}
	if !c.NotBefore.Equal(now.Add(-pki.ClockSkew)) || !c.NotAfter.Equal(now.Add(options.TTL)) {
		t.Errorf("valid from %v to %v", c.NotBefore, c.NotAfter)
	}
	if n := c.SerialNumber.BitLen(); n > 159 || n < 64 {
		t.Errorf("serial number of %d bits", n)
	}

	// What is written as a Secret reads as the same authority.
	again, err := pki.ReadMaterial(map[string][]byte{pki.RootCertKey: m.Root.PEM(), pki.RootKeyKey: encode(t, key)}, now)
	if err != nil || again.Root.ID() != m.Root.ID() {
		t.Errorf("read back: %v, %v", again, err)
	}

	// The same name with another key is another subject; with the same key it is the same anchor.
	other, err := pki.NewRoot(pkitest.ECKey(t), options, now)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(other.Certificate.RawSubject, c.RawSubject) || other.Root.SameAnchor(m.Root) {
		t.Error("roots of two keys share a subject")
	}
	renewed, err := pki.NewRoot(key, options, now.Add(time.Hour))
	if err != nil || !renewed.Root.SameAnchor(m.Root) || renewed.Root.ID() == m.Root.ID() {
		t.Errorf("renewed root is not the same anchor: %v", err)
	}

	options.VirtualMesh = strings.Repeat("very-long-name-", 20)
	long, err := pki.NewRoot(pkitest.ECKey(t), options, now)
	if err != nil || len(long.Certificate.Subject.CommonName) != 64 {
		t.Errorf("common name %q, %v", long.Certificate.Subject.CommonName, err)
	}
	options.TTL = 0
	if _, err := pki.NewRoot(key, options, now); err == nil || !strings.Contains(err.Error(), "ttlDays") {
		t.Errorf("a root without lifetime: %v", err)
	}
	if _, err := pki.NewRoot(pkitest.RSAKey(t, 1024), pki.RootOptions{TTL: time.Hour}, now); err == nil {
		t.Error("a root with a weak key")
	}
}

// TestIssue checks what an intermediate is made of, under signers of each kind.
func TestIssue(t *testing.T) {
	ecRoot := pkitest.NewRoot(t, "root", now)
	for name, signer := range map[string]*pkitest.CA{
		"ECDSA root":   ecRoot,
		"RSA root":     pkitest.NewRootOf(t, "rsa", pkitest.RSAKey(t, 2048), now),
		"P-384 root":   pkitest.NewRootOf(t, "p384", pkitest.ECKeyOn(t, elliptic.P384()), now),
		"intermediate": ecRoot.Intermediate(t, "a").Intermediate(t, "b"),
	} {
		t.Run(name, func(t *testing.T) {
			key := pkitest.RSAKey(t, 2048)
			chain := issue(t, signer.Material(t), key)
			c := chain[0]
			switch {
			case !c.IsCA || c.MaxPathLen != 0 || !c.MaxPathLenZero:
				t.Errorf("CA %v with path length %d", c.IsCA, c.MaxPathLen)
			case c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || len(c.ExtKeyUsage) > 0:
				t.Errorf("usage %b, %v", c.KeyUsage, c.ExtKeyUsage)
			case len(c.URIs) != 1 || c.URIs[0].String() != istiod || len(c.DNSNames)+len(c.IPAddresses)+len(c.EmailAddresses) > 0:
				t.Errorf("names %v", c.URIs)
			case c.Subject.String() != "OU=istiod-istio-system-west,O=Istio":
				t.Errorf("subject %s", c.Subject)
			case len(c.SubjectKeyId) == 0 || !bytes.Equal(c.AuthorityKeyId, signer.Cert.SubjectKeyId):
				t.Errorf("SKI %x, AKI %x", c.SubjectKeyId, c.AuthorityKeyId)
			case !samePublicOf(c, key):
				t.Error("another key was certified")
			case !c.NotBefore.Equal(now.Add(-pki.ClockSkew)) || !c.NotAfter.Equal(now.Add(template.TTL)):
				t.Errorf("valid from %v to %v", c.NotBefore, c.NotAfter)
			}
			if slices.ContainsFunc(chain, func(c *x509.Certificate) bool { return c.Equal(signer.Root().Certificate()) }) {
				t.Error("the chain contains the root")
			}
			again, err := pki.ParseChain(chain.PEM())
			if err != nil || !slices.EqualFunc(again, chain, (*x509.Certificate).Equal) {
				t.Errorf("chain does not survive PEM: %v", err)
			}
			if _, err := pki.NewMaterial(chain, key, pki.NewBundle(signer.Root()), now); err != nil {
				t.Error(err)
			}
		})
	}
}

// Whatever the ages of the signer and of what is asked for: the intermediate
// verifies under the signer's root and no other, and lies within the life of
// everything above it.
func TestIssueStaysWithinTheSigner(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		moment := func(name string, from, to time.Duration) time.Time {
			return now.Add(time.Duration(rapid.Int64Range(int64(from/time.Second), int64(to/time.Second)).Draw(rt, name)) * time.Second)
		}
		const year = 365 * 24 * time.Hour
		lives := func(name string) func(*x509.Certificate) {
			notBefore, notAfter := moment(name+" from", -year, -time.Second), moment(name+" to", time.Second, 2*year)
			return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = notBefore, notAfter }
		}
		root := pkitest.NewRoot(t, "root", now, lives("root"))
		signer := root
		for i := range rapid.IntRange(0, 2).Draw(rt, "depth") {
			signer = signer.Intermediate(t, "mid", lives(fmt.Sprint("mid", i)))
		}
		ttl := time.Duration(rapid.Int64Range(1, int64(3*year)).Draw(rt, "ttl"))
		tmpl := template
		tmpl.TTL = ttl
		m := signer.Material(t)
		key := pkitest.ECKey(t)
		chain, err := pki.SignerIssuer{Material: m, Now: at(now)}.Issue(context.Background(), request(t, key), tmpl)
		if err != nil {
			rt.Fatal(err)
		}
		c := chain[0]
		want := now.Add(ttl)
		for up := signer; up != nil; up = up.Parent {
			if c.NotBefore.Before(up.Cert.NotBefore) || c.NotAfter.After(up.Cert.NotAfter) {
				rt.Fatalf("valid from %v to %v under %v to %v", c.NotBefore, c.NotAfter, up.Cert.NotBefore, up.Cert.NotAfter)
			}
			if up.Cert.NotAfter.Before(want) {
				want = up.Cert.NotAfter
			}
		}
		if !c.NotAfter.Equal(want.Truncate(time.Second)) {
			rt.Fatalf("valid to %v, want %v", c.NotAfter, want)
		}
		if _, err := pki.NewMaterial(chain, key, pki.NewBundle(root.Root()), now); err != nil {
			rt.Fatal(err)
		}
		if _, err := pki.NewMaterial(chain, key, pki.NewBundle(somePool()...), now); err == nil {
			rt.Fatal("verifies under a foreign root")
		}
	})
}

func TestIssueRefuses(t *testing.T) {
	m := pkitest.NewRoot(t, "root", now).Material(t)
	good := request(t, pkitest.ECKey(t))
	edit := func(f func(*pki.Template)) pki.Template { tmpl := template; f(&tmpl); return tmpl }
	forged := *good
	forged.PublicKey = pkitest.ECKey(t).Public()
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for name, c := range map[string]struct {
		ctx      context.Context
		at       time.Time
		csr      *x509.CertificateRequest
		template pki.Template
	}{
		"expired signer":     {context.Background(), now.AddDate(11, 0, 0), good, template},
		"signer of tomorrow": {context.Background(), now.AddDate(0, 0, -1), good, template},
		"forged request":     {context.Background(), now, &forged, template},
		"no identity":        {context.Background(), now, good, edit(func(t *pki.Template) { t.URIs = nil })},
		"relative identity":  {context.Background(), now, good, edit(func(t *pki.Template) { t.URIs = []string{"istiod"} })},
		"no lifetime":        {context.Background(), now, good, edit(func(t *pki.Template) { t.TTL = 0 })},
		"cancelled":          {cancelled, now, good, template},
	} {
		chain, err := pki.SignerIssuer{Material: m, Now: at(c.at)}.Issue(c.ctx, c.csr, c.template)
		if err == nil || chain != nil {
			t.Errorf("%s: issued %v, %v", name, chain, err)
		}
	}
}

// A request cannot talk the issuer into anything.
func TestHostileRequestsGetOnlyWhatTheTemplateSays(t *testing.T) {
	m := pkitest.NewRoot(t, "root", now).Material(t)
	key := pkitest.ECKey(t)
	foreign, _ := url.Parse("spiffe://other/ns/istio-system/sa/istiod")
	constraint := func(id asn1.ObjectIdentifier, v any) pkix.Extension {
		der, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return pkix.Extension{Id: id, Critical: true, Value: der}
	}
	type basic struct {
		IsCA       bool `asn1:"optional"`
		MaxPathLen int  `asn1:"optional,default:-1"`
	}
	for name, hostile := range map[string]x509.CertificateRequest{
		"foreign names": {DNSNames: []string{"evil.example"}, URIs: []*url.URL{foreign}, IPAddresses: []net.IP{net.IPv4(1, 2, 3, 4)}, EmailAddresses: []string{"a@b"}},
		"subject":       {Subject: pkix.Name{Organization: []string{"evil"}, CommonName: "evil"}},
		"CA:false":      {ExtraExtensions: []pkix.Extension{constraint(asn1.ObjectIdentifier{2, 5, 29, 19}, basic{false, -1})}},
		"path length":   {ExtraExtensions: []pkix.Extension{constraint(asn1.ObjectIdentifier{2, 5, 29, 19}, basic{true, 9})}},
		"key usage":     {ExtraExtensions: []pkix.Extension{constraint(asn1.ObjectIdentifier{2, 5, 29, 15}, asn1.BitString{Bytes: []byte{0xff}, BitLength: 8})}},
		"unknown":       {ExtraExtensions: []pkix.Extension{constraint(asn1.ObjectIdentifier{1, 2, 3, 4}, "x")}},
		"constraints":   {ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 30}, Value: []byte{0x30, 0}}}},
	} {
		t.Run(name, func(t *testing.T) {
			der, err := x509.CreateCertificateRequest(rand.Reader, &hostile, key)
			if err != nil {
				t.Fatal(err)
			}
			csr, err := pki.CheckRequest(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
			if err != nil {
				t.Fatal(err)
			}
			chain, err := pki.SignerIssuer{Material: m, Now: at(now)}.Issue(context.Background(), csr, template)
			if err != nil {
				t.Fatal(err)
			}
			plain := issue(t, m, key)[0]
			if got, want := shape(chain[0]), shape(plain); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

// shape is all of a certificate but its serial number and signature.
func shape(c *x509.Certificate) string {
	return fmt.Sprint(c.Subject, c.Issuer, c.NotBefore, c.NotAfter, c.Extensions)
}

func TestCheckRequestRefuses(t *testing.T) {
	key := pkitest.ECKey(t)
	good, err := pki.NewRequest(key, "Istio", "mesh")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(good)
	asPEM := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	signedBy := func(key crypto.Signer, algorithm x509.SignatureAlgorithm) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{SignatureAlgorithm: algorithm}, key)
		if err != nil {
			t.Fatal(err)
		}
		return asPEM("CERTIFICATE REQUEST", der)
	}
	tampered := slices.Clone(block.Bytes)
	tampered[len(tampered)-1] ^= 1

	smallExponent := *pkitest.RSAKey(t, 2048).(*rsa.PrivateKey)
	smallExponent.E = 3

	for name, c := range map[string]struct {
		text   []byte
		reason pki.Reason
	}{
		"empty":               {nil, pki.ReasonMalformed},
		"no PEM":              {[]byte("hello"), pki.ReasonMalformed},
		"two requests":        {slices.Concat(good, good), pki.ReasonMalformed},
		"text before":         {slices.Concat([]byte("x\n"), good), pki.ReasonMalformed},
		"text behind":         {slices.Concat(good, []byte("x")), pki.ReasonMalformed},
		"broken block before": {slices.Concat([]byte("-----BEGIN CERTIFICATE REQUEST-----\n!\n"), good), pki.ReasonMalformed},
		"headers":             {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Headers: map[string]string{"a": "b"}, Bytes: block.Bytes}), pki.ReasonMalformed},
		"certificate":         {pkitest.NewRoot(t, "x", now).PEM(), pki.ReasonMalformed},
		"other label":         {asPEM("NEW CERTIFICATE REQUEST", block.Bytes), pki.ReasonMalformed},
		"trailing DER":        {asPEM("CERTIFICATE REQUEST", append(slices.Clone(block.Bytes), 0)), pki.ReasonMalformed},
		"giant":               {slices.Concat(good, bytes.Repeat([]byte("\n"), 1<<20)), pki.ReasonMalformed},
		"wrong signature":     {asPEM("CERTIFICATE REQUEST", tampered), pki.ReasonBadSignature},
		"key of another":      {asPEM("CERTIFICATE REQUEST", swapKey(t, block.Bytes, key, pkitest.ECKey(t))), pki.ReasonBadSignature},
		"small key":           {signedBy(pkitest.RSAKey(t, 1024), 0), pki.ReasonWeakKey},
		"P-521":               {signedBy(pkitest.ECKeyOn(t, elliptic.P521()), 0), pki.ReasonWeakKey},
		"P-224":               {signedBy(pkitest.ECKeyOn(t, elliptic.P224()), 0), pki.ReasonWeakKey},
		"SHA-1":               {signedBy(pkitest.RSAKey(t, 2048), x509.SHA1WithRSA), pki.ReasonWeakSignature},
		"exponent 3":          {withExponent(t, 3), pki.ReasonWeakKey},
		"even exponent":       {withExponent(t, 65538), pki.ReasonWeakKey},
		"huge modulus":        {withModulus(t, 4096), pki.ReasonWeakKey},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pki.CheckRequest(c.text)
			var invalid *pki.InvalidError
			if !errors.As(err, &invalid) || invalid.Reason != c.reason {
				t.Errorf("got %v, want %s", err, c.reason)
			}
		})
	}
}

// swapKey replaces the public key in a request by another of the same length.
func swapKey(t testing.TB, der []byte, from, to crypto.Signer) []byte {
	t.Helper()
	spki := func(k crypto.Signer) []byte {
		b, err := x509.MarshalPKIXPublicKey(k.Public())
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	swapped := bytes.Replace(der, spki(from), spki(to), 1)
	if bytes.Equal(swapped, der) {
		t.Fatal("the request does not contain the key")
	}
	return swapped
}

// pkcs10 is a request put together by hand, for keys that no library would sign.
type pkcs10 struct {
	Info struct {
		Version    int
		Subject    asn1.RawValue
		Key        asn1.RawValue
		Attributes asn1.RawValue
	}
	Algorithm pkix.AlgorithmIdentifier
	Signature asn1.BitString
}

func mustMarshal(t testing.TB, v any) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// spkiOf encodes an RSA key that x509 might refuse to.
func spkiOf(t testing.TB, pub *rsa.PublicKey) []byte {
	t.Helper()
	key := mustMarshal(t, *pub)
	return mustMarshal(t, struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}{
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}, Parameters: asn1.NullRawValue},
		asn1.BitString{Bytes: key, BitLength: 8 * len(key)},
	})
}

func requestFor(t testing.TB, pub *rsa.PublicKey) []byte {
	t.Helper()
	var r pkcs10
	r.Info.Subject.FullBytes = []byte{0x30, 0}
	r.Info.Key.FullBytes = spkiOf(t, pub)
	r.Info.Attributes.FullBytes = []byte{0xa0, 0}
	r.Algorithm = pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, Parameters: asn1.NullRawValue}
	r.Signature = asn1.BitString{Bytes: make([]byte, 256), BitLength: 8 * 256}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: mustMarshal(t, r)})
}

// A certificate as large as a Secret may be, whose signature would take minutes
// to verify, is refused at once.
func TestGiantKeyCostsNothing(t *testing.T) {
	giant := pkitest.NewRootOf(t, "giant", pkitest.RSAKey(t, 2048), now)
	pub := giant.Key.(*rsa.PrivateKey).PublicKey
	spki := spkiOf(t, &pub)
	pub.N = new(big.Int).SetBit(new(big.Int).Lsh(pub.N, 6<<20), 0, 1)
	tbs := bytes.Replace(giant.Cert.RawTBSCertificate, spki, spkiOf(t, &pub), 1)
	var parsed, certificate asn1.RawValue
	if _, err := asn1.Unmarshal(giant.Cert.RawTBSCertificate, &parsed); err != nil {
		t.Fatal(err)
	}
	header := len(parsed.FullBytes) - len(parsed.Bytes)
	body := mustMarshal(t, asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSequence, IsCompound: true, Bytes: tbs[header:]})
	if _, err := asn1.Unmarshal(giant.Cert.Raw, &certificate); err != nil {
		t.Fatal(err)
	}
	der := mustMarshal(t, asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSequence, IsCompound: true,
		Bytes: append(body, certificate.Bytes[len(giant.Cert.RawTBSCertificate):]...)})
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, data := range map[string]map[string][]byte{
		"as a root":    {pki.RootCertKey: text, pki.RootKeyKey: giant.KeyPEM(t)},
		"without root": {pki.CACertKey: text, pki.CAKeyKey: giant.KeyPEM(t)},
	} {
		_, err := pki.ReadMaterial(data, now)
		if _, ok := errors.AsType[*pki.InvalidError](err); !ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	oversized, err := pki.ParseChain(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.NewBundle(somePool()...).Anchor(append(pki.Chain{giant.Leaf(t, "leaf").Cert}, oversized...), now); err == nil {
		t.Error("a chain over a tampered certificate verifies")
	}
}

func withExponent(t testing.TB, e int) []byte {
	pub := pkitest.RSAKey(t, 2048).(*rsa.PrivateKey).PublicKey
	pub.E = e
	return requestFor(t, &pub)
}

func withModulus(t testing.TB, times uint) []byte {
	pub := pkitest.RSAKey(t, 2048).(*rsa.PrivateKey).PublicKey
	n := *pub.N
	pub.N = n.Lsh(&n, times*2).SetBit(&n, 0, 1)
	return requestFor(t, &pub)
}

func FuzzCheckRequest(f *testing.F) {
	for _, key := range []crypto.Signer{pkitest.ECKey(f), pkitest.RSAKey(f, 2048)} {
		text, err := pki.NewRequest(key, "Istio", "mesh")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add(withExponent(f, 3))
	m := pkitest.NewRoot(f, "root", now).Material(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		csr, err := pki.CheckRequest(text)
		if err != nil {
			return
		}
		chain, err := pki.SignerIssuer{Material: m, Now: at(now)}.Issue(context.Background(), csr, template)
		if err != nil {
			t.Fatalf("accepted and then not signed: %v", err)
		}
		if len(chain[0].URIs) != 1 || chain[0].URIs[0].String() != istiod || chain[0].MaxPathLen != 0 {
			t.Fatalf("issued %v", chain[0].URIs)
		}
	})
}

func TestCrossSign(t *testing.T) {
	old := pkitest.NewRoot(t, "old", now)
	fresh := pkitest.NewRoot(t, "new", now, func(c *x509.Certificate) { c.SubjectKeyId = []byte("not the hash of the key") })
	key := pkitest.ECKey(t)
	chain := issue(t, fresh.Material(t), key)
	cross, err := pki.CrossSign(fresh.Root(), old.Material(t), now)
	if err != nil {
		t.Fatal(err)
	}
	leaf := (&pkitest.CA{Cert: chain[0], Key: key}).Leaf(t, "leaf", func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(-time.Minute), now.Add(time.Hour) })
	verify := func(root *pkitest.CA, above ...*x509.Certificate) error {
		pool := x509.NewCertPool()
		for _, c := range append(above, chain...) {
			pool.AddCert(c)
		}
		_, err := leaf.Cert.Verify(x509.VerifyOptions{Roots: pki.NewBundle(root.Root()).Pool(), Intermediates: pool, CurrentTime: now})
		return err
	}
	if verify(old) == nil {
		t.Error("a leaf under the new root verifies under the old one without the cross-certificate")
	}
	if err := verify(old, cross); err != nil {
		t.Errorf("with the cross-certificate: %v", err)
	}
	if err := verify(fresh, cross); err != nil {
		t.Errorf("under the new root: %v", err)
	}
	if _, err := pki.CrossSign(fresh.Root(), pkitest.NewRoot(t, "short", now, pkitest.PathLength(1)).Material(t), now); err == nil {
		t.Error("cross-signed in spite of the signer's path length")
	}
	if _, err := pki.CrossSign(pkitest.NewRoot(t, "long", now, func(c *x509.Certificate) { c.NotAfter = now.AddDate(30, 0, 0) }).Root(), old.Material(t), now.AddDate(20, 0, 0)); err == nil {
		t.Error("cross-signed by an expired signer")
	}
	if _, err := pki.CrossSign(pkitest.NewRoot(t, "gone", now, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }).Root(), old.Material(t), now); err == nil {
		t.Error("cross-signed an expired root")
	}
	if !cross.NotAfter.Equal(fresh.Cert.NotAfter) || !bytes.Equal(cross.SubjectKeyId, fresh.Cert.SubjectKeyId) {
		t.Error("the cross-certificate differs from the root in more than its issuer")
	}
}

// Of the same subject, as the roots of cert-manager, a cross-certificate is told from a root by the key of its issuer.
func TestCrossSignOfTheSameSubject(t *testing.T) {
	old, fresh := pkitest.NewRoot(t, "root", now), pkitest.NewRoot(t, "root", now)
	cross, err := pki.CrossSign(fresh.Root(), old.Material(t), now)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(cross.AuthorityKeyId, old.Cert.SubjectKeyId) || !bytes.Equal(cross.SubjectKeyId, fresh.Cert.SubjectKeyId) {
		t.Errorf("of key %x, under key %x", cross.SubjectKeyId, cross.AuthorityKeyId)
	}
	if _, err := pki.ParseCross(pki.Chain{cross}.PEM(), fresh.Root(), pki.NewBundle(old.Root(), fresh.Root())); err != nil {
		t.Error(err)
	}
	again := pkitest.NewRootOf(t, "root", fresh.Key, now)
	if _, err := pki.ParseCross(pki.Chain{again.Cert}.PEM(), fresh.Root(), pki.NewBundle(old.Root(), fresh.Root(), again.Root())); err == nil {
		t.Error("a re-issued root passes for a cross-certificate")
	}
	alike := func(c *x509.Certificate) { c.SubjectKeyId = []byte("one for all") }
	for name, c := range map[string]struct {
		by, of *pkitest.CA
		may    bool
	}{
		"another subject":              {old, pkitest.NewRoot(t, "other", now), true},
		"the same subject":             {old, fresh, true},
		"re-issued":                    {fresh, again, false},
		"the same subject and key ids": {pkitest.NewRoot(t, "root", now, alike), pkitest.NewRoot(t, "root", now, alike), false},
	} {
		if may := c.by.Root().MayCertify(c.of.Root()); may != c.may {
			t.Errorf("%s: may certify is %v", name, may)
		}
	}
}

func BenchmarkIssue(b *testing.B) {
	csr := request(b, pkitest.RSAKey(b, 2048))
	for _, c := range []struct {
		name string
		key  crypto.Signer
	}{
		{"signer=RSA-2048", pkitest.RSAKey(b, 2048)},
		{"signer=RSA-4096", pkitest.RSAKey(b, 4096)},
		{"signer=P-256", pkitest.ECKey(b)},
	} {
		issuer := pki.SignerIssuer{Material: pkitest.NewRootOf(b, "root", c.key, now).Material(b), Now: at(now)}
		one := func(b *testing.B) {
			if _, err := issuer.Issue(context.Background(), csr, template); err != nil {
				b.Error(err)
			}
		}
		rate := func(b *testing.B) { b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "signatures/s") }
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				one(b)
			}
			rate(b)
		})
		b.Run(c.name+"/parallel", func(b *testing.B) {
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					one(b)
				}
			})
			rate(b)
		})
	}
}

func samePublicOf(c *x509.Certificate, key crypto.Signer) bool {
	return c.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public())
}
