package pki_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
)

func TestNewForeign(t *testing.T) {
	now := time.Now()
	const id = "spiffe://cluster.local/ns/istio-system/sa/istiod"
	root := pkitest.NewRoot(t, "Root", now)
	other := pkitest.NewRoot(t, "Other", now)
	narrow := pkitest.NewRoot(t, "Narrow", now, pkitest.PathLength(0))
	between := root.Intermediate(t, "Between")
	key := pkitest.ECKey(t)
	for name, tc := range map[string]struct {
		signer *pkitest.CA
		edit   func(*x509.Certificate)
		root   pki.Root
		lost   bool // what is between is not in the chain
		want   pki.Reason
	}{
		"good":                  {signer: root},
		"under an intermediate": {signer: between},
		"a way that is broken":  {signer: between, lost: true, want: pki.ReasonChainBroken},
		"another root":          {signer: other, root: root.Root(), want: pki.ReasonChainBroken},
		"no CA":                 {signer: root, edit: func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = false, false }, want: pki.ReasonNotCA},
		"further CAs below":     {signer: root, edit: func(c *x509.Certificate) { c.MaxPathLenZero = false }, want: pki.ReasonPathLength},
		"path length 1":         {signer: root, edit: func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 1, false }, want: pki.ReasonPathLength},
		"no room below a root":  {signer: narrow, want: pki.ReasonPathLength},
		"may not sign":          {signer: root, edit: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }, want: pki.ReasonKeyUsage},
		"for servers only":      {signer: root, edit: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, want: pki.ReasonKeyUsage},
		"another URI":           {signer: root, edit: func(c *x509.Certificate) { c.URIs[0].Host = "other.local" }, want: pki.ReasonNames},
		"a DNS name beside":     {signer: root, edit: func(c *x509.Certificate) { c.DNSNames = []string{"istiod"} }, want: pki.ReasonNames},
		"no URI":                {signer: root, edit: func(c *x509.Certificate) { c.URIs = nil }, want: pki.ReasonNames},
		"name constraints":      {signer: root, edit: func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example.com"} }, want: pki.ReasonNameConstraints},
		"expired":               {signer: root, edit: func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }, want: pki.ReasonChainBroken},
	} {
		t.Run(name, func(t *testing.T) {
			u, err := url.Parse(id)
			if err != nil {
				t.Fatal(err)
			}
			template := &x509.Certificate{
				SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mesh"}, URIs: []*url.URL{u}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
				KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
			}
			if tc.edit != nil {
				tc.edit(template)
			}
			der, err := x509.CreateCertificate(rand.Reader, template, tc.signer.Cert, key.Public(), tc.signer.Key)
			if err != nil {
				t.Fatal(err)
			}
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			chain := pki.Chain{cert}
			if !tc.lost {
				chain = append(chain, tc.signer.Cert)
			}
			anchor := tc.root
			if anchor.Certificate() == nil {
				anchor = tc.signer.Root()
			}
			got, err := pki.NewForeign(chain, key, anchor, []string{id}, now)
			invalid, _ := errors.AsType[*pki.InvalidError](err)
			switch {
			case tc.want == "" && (err != nil || got.Root.ID() != anchor.ID()):
				t.Errorf("error %v", err)
			case tc.want != "" && (invalid == nil || invalid.Reason != tc.want):
				t.Errorf("error %v, want %s", err, tc.want)
			}
		})
	}
	t.Run("another key", func(t *testing.T) {
		m := root.Material(t)
		_, err := pki.NewForeign(pki.Chain{between.Cert}, key, m.Root, []string{id}, now)
		if invalid, ok := errors.AsType[*pki.InvalidError](err); !ok || invalid.Reason != pki.ReasonKeyMismatch {
			t.Errorf("error %v", err)
		}
	})
}

func TestCheckRoot(t *testing.T) {
	now := time.Now()
	root := pkitest.NewRoot(t, "Root", now)
	for name, tc := range map[string]struct {
		root pki.Root
		at   time.Time
		want pki.Reason
	}{
		"good":            {root.Root(), now, ""},
		"path length 1":   {pkitest.NewRoot(t, "One", now, pkitest.PathLength(1)).Root(), now, ""},
		"path length 0":   {pkitest.NewRoot(t, "None", now, pkitest.PathLength(0)).Root(), now, pki.ReasonPathLength},
		"an intermediate": {pki.RootOf(root.Intermediate(t, "Between").Cert), now, pki.ReasonNotSelfSigned},
		"a leaf":          {pki.RootOf(root.Leaf(t, "leaf").Cert), now, pki.ReasonNotCA},
		"expired":         {root.Root(), now.AddDate(100, 0, 0), pki.ReasonExpired},
	} {
		err := pki.CheckRoot(tc.root, tc.at)
		invalid, _ := errors.AsType[*pki.InvalidError](err)
		if tc.want == "" && err != nil || tc.want != "" && (invalid == nil || invalid.Reason != tc.want) {
			t.Errorf("%s: error %v, want %q", name, err, tc.want)
		}
	}
}
