package pki_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
)

var now = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)

func TestReadMaterial(t *testing.T) {
	root := pkitest.NewRoot(t, "root", now)
	mid := root.Intermediate(t, "mid")
	low := mid.Intermediate(t, "low", pkitest.PathLength(1))
	other := pkitest.NewRoot(t, "other", now)

	cases := map[string]struct {
		data   map[string][]byte
		signer *pkitest.CA
		chain  []*pkitest.CA
		roots  int
	}{
		"root-cert.pem and key.pem":      {root.RootSecret(t), root, nil, 1},
		"key.pem is of the second root":  {merge(root.RootSecret(t), pki.RootCertKey, slices.Concat(other.PEM(), root.PEM())), root, nil, 2},
		"root as ca-cert.pem":            {root.IstioSecret(t), root, nil, 1},
		"intermediate as ca-cert.pem":    {mid.IstioSecret(t), mid, []*pkitest.CA{mid}, 1},
		"two intermediates":              {low.IstioSecret(t), low, []*pkitest.CA{low, mid}, 1},
		"chain in any order":             {merge(low.IstioSecret(t), pki.CertChainKey, slices.Concat(root.PEM(), mid.PEM(), low.PEM())), low, []*pkitest.CA{low, mid}, 1},
		"intermediates behind ca-cert":   {merge(merge(low.IstioSecret(t), pki.CACertKey, slices.Concat(low.PEM(), mid.PEM())), pki.CertChainKey, nil), low, []*pkitest.CA{low, mid}, 1},
		"self-signed istiod":             {root.SelfSignedSecret(t), root, nil, 1},
		"self-signed without root":       {merge(root.SelfSignedSecret(t), pki.RootCertKey, nil), root, nil, 1},
		"cert-manager root":              {root.CertManagerSecret(t), root, nil, 1},
		"cert-manager, intermediates":    {low.CertManagerSecret(t), low, []*pkitest.CA{low, mid}, 1},
		"cert-manager without ca.crt":    {merge(root.CertManagerSecret(t), pki.TLSRootKey, nil), root, nil, 1},
		"more roots than needed":         {merge(mid.IstioSecret(t), pki.RootCertKey, slices.Concat(other.PEM(), root.PEM())), mid, []*pkitest.CA{mid}, 2},
		"RSA":                            {pkitest.NewRootOf(t, "rsa", pkitest.RSAKey(t, 2048), now).RootSecret(t), nil, nil, 1},
		"P-384":                          {pkitest.NewRootOf(t, "p384", pkitest.ECKeyOn(t, elliptic.P384()), now).RootSecret(t), nil, nil, 1},
		"path length that just suffices": {pkitest.NewRoot(t, "r", now, pkitest.PathLength(2)).Intermediate(t, "i", pkitest.PathLength(1)).IstioSecret(t), nil, nil, 1},
		"server and client": {pkitest.NewRoot(t, "r", now, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
		}).RootSecret(t), nil, nil, 1},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			m, err := pki.ReadMaterial(c.data, now)
			if err != nil {
				t.Fatal(err)
			}
			if m.Roots.Len() != c.roots || !m.Roots.Contains(m.Root.ID()) {
				t.Errorf("roots %v, want %d with %s among them", m.Roots.IDs(), c.roots, m.Root.ID())
			}
			if c.signer == nil {
				return
			}
			if !m.Certificate.Equal(c.signer.Cert) || !samePublic(m.Key, c.signer.Key) {
				t.Errorf("signer is %v, want %v", m.Certificate.Subject, c.signer.Cert.Subject)
			}
			if m.Root.ID() != c.signer.Root().ID() {
				t.Errorf("root is %v", m.Root.Certificate().Subject)
			}
			equal := func(x *x509.Certificate, y *pkitest.CA) bool { return x.Equal(y.Cert) }
			if !slices.EqualFunc(m.Chain(), c.chain, equal) {
				t.Errorf("chain of %d certificates, want %d in order", len(m.Chain()), len(c.chain))
			}
		})
	}
}

func TestReadMaterialRefuses(t *testing.T) {
	for _, wrong := range pkitest.WrongSecrets(t, now) {
		t.Run(wrong.Name, func(t *testing.T) {
			m, err := pki.ReadMaterial(wrong.Data, now)
			var invalid *pki.InvalidError
			if !errors.As(err, &invalid) {
				t.Fatalf("got %v, %v; want an InvalidError", m, err)
			}
			if invalid.Key != wrong.Key || invalid.Reason != wrong.Reason {
				t.Errorf("got %s %s (%v), want %s %s", invalid.Key, invalid.Reason, err, wrong.Key, wrong.Reason)
			}
			if !strings.HasPrefix(err.Error(), wrong.Key) {
				t.Errorf("%q does not begin with the Secret key %s", err, wrong.Key)
			}
			if m.Key != nil {
				t.Error("a key was returned beside the error")
			}
			if leak := leaked(err.Error(), wrong.Data); leak != "" {
				t.Errorf("%q contains key material: %s", err, leak)
			}
		})
	}
}

func TestKeyEncodings(t *testing.T) {
	ec := pkitest.ECKey(t).(*ecdsa.PrivateKey)
	rsaKey := pkitest.RSAKey(t, 2048).(*rsa.PrivateKey)
	sec1, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	parameters := block("EC PARAMETERS", []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7})
	for name, c := range map[string]struct {
		text []byte
		want crypto.Signer
	}{
		"PKCS #1":                 {block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey)), rsaKey},
		"SEC 1":                   {block("EC PRIVATE KEY", sec1), ec},
		"SEC 1 behind parameters": {slices.Concat(parameters, block("EC PRIVATE KEY", sec1)), ec},
		"PKCS #8 RSA":             {encode(t, rsaKey), rsaKey},
		"PKCS #8 ECDSA":           {encode(t, ec), ec},
		"text around it":          {slices.Concat([]byte("my key\n"), encode(t, ec), []byte("\nend\n")), ec},
		"Windows line ends":       {[]byte(strings.ReplaceAll(string(encode(t, ec)), "\n", "\r\n")), ec},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := pki.ParseKey(c.text)
			if err != nil {
				t.Fatal(err)
			}
			if !samePublic(key, c.want) {
				t.Error("another key was read")
			}
		})
	}
	for name, text := range map[string][]byte{
		"empty":        nil,
		"a public key": block("PUBLIC KEY", []byte{1}),
		"truncated":    encode(t, ec)[:100],
		"wrong label":  block("EC PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey)),
		"too long":     slices.Concat(encode(t, ec), make([]byte, 20<<10)),
	} {
		if key, err := pki.ParseKey(text); err == nil {
			t.Errorf("%s: read as a key %T", name, key)
		}
	}
}

func TestMaterialKeepsItsKeySecret(t *testing.T) {
	m := pkitest.NewRoot(t, "root", now).Material(t)
	raw, err := m.Key.(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	d := new(big.Int).SetBytes(raw)
	asJSON, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	nested := struct{ m pki.Material }{m}
	for _, text := range []string{
		string(asJSON), fmt.Sprint(m), fmt.Sprintf("%+v", m), fmt.Sprintf("%#v", m), fmt.Sprintf("%+v %#v", &m, nested), fmt.Sprintf("%+v", nested),
	} {
		if strings.Contains(text, d.String()) || strings.Contains(text, d.Text(16)) {
			t.Errorf("the private key is in %q", text)
		}
	}
}

func TestMaterialData(t *testing.T) {
	root := pkitest.NewRoot(t, "root", now)
	for _, ca := range []*pkitest.CA{root, root.Intermediate(t, "a"), root.Intermediate(t, "a").Intermediate(t, "b")} {
		m := ca.Material(t)
		data, err := m.Data()
		if err != nil {
			t.Fatal(err)
		}
		again, err := pki.ReadMaterial(data, now)
		if err != nil {
			t.Fatal(err)
		}
		if !again.Certificate.Equal(m.Certificate) || again.Root.ID() != m.Root.ID() || len(again.Chain()) != len(m.Chain()) || !samePublic(again.Key, m.Key) {
			t.Errorf("%v became %v", m, again)
		}
	}
}

func TestAnchor(t *testing.T) {
	a, b := pkitest.NewRoot(t, "a", now), pkitest.NewRoot(t, "b", now)
	mid := b.Intermediate(t, "mid")
	leaf := mid.Leaf(t, "leaf", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	both := pki.NewBundle(a.Root(), b.Root())
	for name, chain := range map[string]pki.Chain{
		"leaf":           {leaf.Cert, mid.Cert},
		"leaf with root": {leaf.Cert, mid.Cert, b.Cert},
		"intermediate":   {mid.Cert},
		"root":           {b.Cert},
	} {
		if root, err := both.Anchor(chain, now); err != nil || root.ID() != b.Root().ID() {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := pki.NewBundle(a.Root()).Anchor(chain, now); err == nil {
			t.Errorf("%s: verifies under another root", name)
		}
	}
	for name, chain := range map[string]pki.Chain{"empty": {}, "incomplete": {leaf.Cert}} {
		if _, err := both.Anchor(chain, now); err == nil {
			t.Errorf("%s: verifies", name)
		}
	}
}

func TestNewMaterial(t *testing.T) {
	root := pkitest.NewRoot(t, "root", now)
	mid := root.Intermediate(t, "mid", pkitest.PathLength(0))
	roots := pki.NewBundle(root.Root())
	if _, err := pki.NewMaterial(pki.Chain{mid.Cert}, mid.Key, roots, now); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		chain  pki.Chain
		key    crypto.Signer
		roots  pki.Bundle
		at     time.Time
		reason pki.Reason
	}{
		"empty":      {nil, mid.Key, roots, now, pki.ReasonMissing},
		"other key":  {pki.Chain{mid.Cert}, root.Key, roots, now, pki.ReasonKeyMismatch},
		"other root": {pki.Chain{mid.Cert}, mid.Key, pki.NewBundle(pkitest.NewRoot(t, "x", now).Root()), now, pki.ReasonChainBroken},
		"no root":    {pki.Chain{mid.Cert}, mid.Key, pki.Bundle{}, now, pki.ReasonChainBroken},
		"too late":   {pki.Chain{mid.Cert}, mid.Key, roots, now.AddDate(2, 0, 0), pki.ReasonChainBroken},
	} {
		_, err := pki.NewMaterial(c.chain, c.key, c.roots, c.at)
		var invalid *pki.InvalidError
		if !errors.As(err, &invalid) || invalid.Reason != c.reason {
			t.Errorf("%s: got %v, want %s", name, err, c.reason)
		}
	}
}

func FuzzReadMaterial(f *testing.F) {
	root := pkitest.NewRoot(f, "root", now)
	mid := root.Intermediate(f, "mid")
	add := func(data map[string][]byte) {
		cert, key := firstOf(data, pki.CACertKey, pki.TLSCertKey), firstOf(data, pki.CAKeyKey, pki.TLSKeyKey, pki.RootKeyKey)
		roots := firstOf(data, pki.RootCertKey, pki.TLSRootKey)
		for form := range byte(3) {
			f.Add(form, cert, key, data[pki.CertChainKey], roots)
		}
	}
	add(root.RootSecret(f))
	add(mid.IstioSecret(f))
	add(mid.CertManagerSecret(f))
	for _, wrong := range pkitest.WrongSecrets(f, now) {
		add(wrong.Data)
	}
	f.Add(byte(1), root.KeyPEM(f), root.PEM(), root.KeyPEM(f), root.KeyPEM(f))
	f.Fuzz(func(t *testing.T, form byte, cert, key, chain, roots []byte) {
		var data map[string][]byte
		switch form % 3 {
		case 0:
			data = map[string][]byte{pki.RootCertKey: roots, pki.RootKeyKey: key}
		case 1:
			data = map[string][]byte{pki.CACertKey: cert, pki.CAKeyKey: key, pki.CertChainKey: chain, pki.RootCertKey: roots}
		case 2:
			data = map[string][]byte{pki.TLSCertKey: cert, pki.TLSKeyKey: key, pki.TLSRootKey: roots}
		}
		for _, read := range []func(map[string][]byte, time.Time) error{
			func(d map[string][]byte, at time.Time) error { _, err := pki.ReadMaterial(d, at); return err },
			func(d map[string][]byte, at time.Time) error { _, err := pki.ReadCACerts(d, at); return err },
		} {
			err := read(maps.Clone(data), now)
			if err == nil {
				continue
			}
			if leak := leaked(err.Error(), data); leak != "" {
				t.Fatalf("%q contains key material: %s", err, leak)
			}
		}
	})
}

// leaked finds 20 characters in a text that come from the base64 of a private
// key: of a PEM block wherever it is stored, or of whatever is stored as a key.
func leaked(text string, data map[string][]byte) string {
	var secrets []string
	for field, value := range data {
		if slices.Contains([]string{pki.RootKeyKey, pki.CAKeyKey, pki.TLSKeyKey}, field) {
			secrets = append(secrets, base64Run.FindAllString(string(value), -1)...)
		}
		for {
			var block *pem.Block
			if block, value = pem.Decode(value); block == nil {
				break
			}
			if strings.Contains(block.Type, "PRIVATE KEY") {
				secrets = append(secrets, base64.StdEncoding.EncodeToString(block.Bytes), hex.EncodeToString(block.Bytes))
			}
		}
	}
	for _, secret := range secrets {
		for i := 0; i+20 <= len(secret); i++ {
			if strings.Contains(text, secret[i:i+20]) {
				return secret[i : i+20]
			}
		}
	}
	return ""
}

var base64Run = regexp.MustCompile(`[A-Za-z0-9+/=]{20,}`)

// TestLeaked makes sure that the tests above can see a leak.
func TestLeaked(t *testing.T) {
	data := pkitest.NewRoot(t, "root", now).RootSecret(t)
	line := strings.Split(string(data[pki.RootKeyKey]), "\n")[1]
	if leaked("cannot parse "+line[10:40], data) == "" {
		t.Error("half a line of a key went unseen")
	}
	if got := leaked("key.pem: is not a private key", data); got != "" {
		t.Errorf("%q is taken for a leak", got)
	}
}

func firstOf(data map[string][]byte, keys ...string) []byte {
	for _, k := range keys {
		if len(data[k]) > 0 {
			return data[k]
		}
	}
	return nil
}

func merge(data map[string][]byte, key string, value []byte) map[string][]byte {
	data[key] = value
	return data
}

func encode(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	text, err := pki.EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func samePublic(a, b crypto.Signer) bool {
	return a.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(b.Public())
}
