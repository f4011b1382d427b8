package pki_test

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"maps"
	"math/big"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
)

// What is under a root is under the same one re-issued as well: which of them is meant is told by the chain.
func TestCACertsUnderAReissuedRoot(t *testing.T) {
	old := pkitest.NewRoot(t, "root", now)
	again := pkitest.NewRootOf(t, "root", old.Key, now)
	if !again.Root().Reissues(old.Root()) || old.Root().Reissues(old.Root()) || pkitest.NewRoot(t, "root", now).Root().Reissues(old.Root()) {
		t.Error("a re-issued root is told wrongly")
	}
	for name, ca := range map[string]*pkitest.CA{
		"an intermediate under the old one": old.Intermediate(t, "mesh"), "an intermediate under the new one": again.Intermediate(t, "mesh"),
		"the old one itself": old, "the new one itself": again,
	} {
		for _, bundle := range []pki.Bundle{pki.NewBundle(old.Root(), again.Root()), pki.NewBundle(again.Root(), old.Root())} {
			c := pki.CACerts{Material: ca.Material(t)}
			c.Roots = bundle
			data, err := c.Data()
			if err != nil {
				t.Fatal(err)
			}
			read, err := pki.ReadCACerts(data, now)
			if err != nil {
				t.Fatal(err)
			}
			if read.Root.ID() != ca.Root().ID() || len(read.Cross) > 0 || string(read.CertChain().PEM()) != string(c.CertChain().PEM()) {
				t.Errorf("%s: read as under %s, with %d cross-certificates", name, read.Root.ID().Short(), len(read.Cross))
			}
		}
	}
}

// caCerts is istiod's CA below a signer.
func caCerts(t testing.TB, signer *pkitest.CA, more ...pki.Root) pki.CACerts {
	t.Helper()
	key := pkitest.ECKey(t)
	m, err := pki.NewMaterial(issue(t, signer.Material(t), key), key, pki.NewBundle(append([]pki.Root{signer.Root()}, more...)...), now)
	if err != nil {
		t.Fatal(err)
	}
	return pki.CACerts{Material: m}
}

func mustData(t interface{ Fatal(...any) }, c pki.CACerts) map[string][]byte {
	data, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func parts(t testing.TB, text []byte) []*x509.Certificate {
	t.Helper()
	chain, err := pki.ParseChain(text)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func TestCACertsFiles(t *testing.T) {
	root := pkitest.NewRoot(t, "root", now)
	mid := root.Intermediate(t, "mid")
	c := caCerts(t, mid)
	if err := c.Verify(now); err != nil {
		t.Fatal(err)
	}
	data := mustData(t, c)
	if got := slices.Sorted(maps.Keys(data)); !slices.Equal(got, []string{"ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"}) {
		t.Errorf("files %v", got)
	}
	if got := parts(t, data[pki.CACertKey]); len(got) != 1 || !got[0].Equal(c.Certificate) {
		t.Errorf("ca-cert.pem has %d certificates", len(got))
	}
	if got, want := parts(t, data[pki.CertChainKey]), []*x509.Certificate{c.Certificate, mid.Cert, root.Cert}; !slices.EqualFunc(got, want, (*x509.Certificate).Equal) {
		t.Errorf("cert-chain.pem has %d certificates, want CA, intermediate, root", len(got))
	}

	old := pkitest.NewRoot(t, "old", now)
	cross, err := pki.CrossSign(root.Root(), old.Material(t), now)
	if err != nil {
		t.Fatal(err)
	}
	c.Cross = []*x509.Certificate{cross}
	if got, want := parts(t, mustData(t, c)[pki.CertChainKey]), []*x509.Certificate{c.Certificate, mid.Cert, cross}; !slices.EqualFunc(got, want, (*x509.Certificate).Equal) {
		t.Errorf("cert-chain.pem has %d certificates, want CA, intermediate, cross-certificate", len(got))
	}
	again, err := pki.ReadCACerts(mustData(t, c), now)
	if err != nil || len(again.Cross) != 1 || !again.Cross[0].Equal(cross) {
		t.Errorf("cross-certificates do not survive: %v", err)
	}
}

// What is composed reads as what it was composed of, and composes to the same
// bytes, whatever the depth, the roots beside and the nudge.
func TestCACertsRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		signer := pkitest.NewRoot(t, "root", now)
		for range rapid.IntRange(0, 2).Draw(rt, "depth") {
			signer = signer.Intermediate(t, "mid")
		}
		c := caCerts(t, signer, rapid.SliceOfN(rapid.SampledFrom(somePool()), 0, 3).Draw(rt, "beside")...)
		c.Roots = c.Roots.WithNudge(rapid.Int64Range(0, 99).Draw(rt, "nudge"))
		if rapid.Bool().Draw(rt, "new root last") {
			c.Roots = c.Roots.Lead(c.Roots.IDs()[c.Roots.Len()-1])
		}
		data := mustData(rt, c)
		again, err := pki.ReadCACerts(data, now)
		if err != nil {
			rt.Fatal(err)
		}
		if !again.Certificate.Equal(c.Certificate) || again.Root.ID() != c.Root.ID() || !again.Roots.Equal(c.Roots) || !samePublic(again.Key, c.Key) {
			rt.Fatalf("%v became %v", c, again)
		}
		if !maps.EqualFunc(data, mustData(rt, again), slices.Equal) {
			rt.Fatal("composed again, the files differ")
		}
	})
}

func TestReadCACertsOfOthers(t *testing.T) {
	root := pkitest.NewRoot(t, "root", now)
	last := root.Intermediate(t, "last", pkitest.PathLength(0))
	for name, data := range map[string]map[string][]byte{
		"istio-ca-secret":                     root.SelfSignedSecret(t),
		"path length 0":                       last.IstioSecret(t),
		"cert-manager":                        last.CertManagerSecret(t),
		"made by istiod, in cacerts":          merge(root.SelfSignedSecret(t), pki.IstioGeneratedKey, []byte{}),
		"key usage and constraints unchecked": root.Intermediate(t, "i", func(c *x509.Certificate) { c.KeyUsage = 0; c.PermittedURIDomains = []string{"cluster.local"} }).IstioSecret(t),
	} {
		c, err := pki.ReadCACerts(data, now)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if err := c.Verify(now); err != nil {
			t.Errorf("%s: composed again: %v", name, err)
		}
	}
}

func TestReadCACertsRefuses(t *testing.T) {
	root, other := pkitest.NewRoot(t, "root", now), pkitest.NewRoot(t, "other", now)
	mid := root.Intermediate(t, "mid")
	for name, c := range map[string]struct {
		data   map[string][]byte
		key    string
		reason pki.Reason
	}{
		"nothing":          {nil, "", pki.ReasonMissing},
		"root form":        {root.RootSecret(t), pki.CACertKey, pki.ReasonMissing},
		"not a CA":         {root.Leaf(t, "leaf").IstioSecret(t), pki.CACertKey, pki.ReasonNotCA},
		"key of another":   {merge(mid.IstioSecret(t), pki.CAKeyKey, other.KeyPEM(t)), pki.CAKeyKey, pki.ReasonKeyMismatch},
		"root of another":  {merge(mid.IstioSecret(t), pki.RootCertKey, other.PEM()), pki.CACertKey, pki.ReasonChainBroken},
		"expired":          {root.Intermediate(t, "x", func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }).IstioSecret(t), pki.CACertKey, pki.ReasonChainBroken},
		"clients only":     {root.Intermediate(t, "x", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }).IstioSecret(t), pki.CACertKey, pki.ReasonChainBroken},
		"chain in ca-cert": {merge(merge(mid.Intermediate(t, "low").IstioSecret(t), pki.CACertKey, slices.Concat(mid.Intermediate(t, "low").PEM(), mid.PEM())), pki.CertChainKey, nil), pki.CAKeyKey, pki.ReasonKeyMismatch},
	} {
		_, err := pki.ReadCACerts(c.data, now)
		var invalid *pki.InvalidError
		if !errors.As(err, &invalid) || invalid.Key != c.key || invalid.Reason != c.reason {
			t.Errorf("%s: got %v, want %s %s", name, err, c.key, c.reason)
		}
	}
}

func TestRevocationLists(t *testing.T) {
	root := pkitest.NewRoot(t, "root", now)
	mid := root.Intermediate(t, "mid")
	list := func(ca *pkitest.CA) []byte {
		der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now, NextUpdate: now.AddDate(0, 1, 0)}, ca.Cert, ca.Key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
	}
	complete := slices.Concat(list(mid), list(root))
	c, err := pki.ReadCACerts(merge(mid.IstioSecret(t), pki.CACRLKey, complete), now)
	if err != nil {
		t.Fatal(err)
	}
	if got := mustData(t, c)[pki.CACRLKey]; !slices.Equal(got, complete) {
		t.Error("the revocation lists were not kept")
	}
	for name, crl := range map[string][]byte{
		"of the CA alone": list(mid),
		"of another":      slices.Concat(list(mid), list(pkitest.NewRoot(t, "root", now))),
		"no CRL":          root.PEM(),
		"no PEM":          []byte("hello"),
	} {
		_, err := pki.ReadCACerts(merge(mid.IstioSecret(t), pki.CACRLKey, crl), now)
		var invalid *pki.InvalidError
		if !errors.As(err, &invalid) || invalid.Reason != pki.ReasonRevocation {
			t.Errorf("%s: got %v", name, err)
		}
	}

	// A new intermediate is not covered by lists that were made before it.
	next := caCerts(t, root)
	next.CRL = complete
	if err := next.Verify(now); err == nil {
		t.Error("istiod would refuse these files")
	}
}
