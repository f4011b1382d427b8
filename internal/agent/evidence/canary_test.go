package evidence

import (
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
)

func TestCanary(t *testing.T) {
	a := newAuthority(t, "root")
	now := time.Now()
	c := a.canary(t)
	if len(c.certificate.Certificate) != 2 {
		t.Fatalf("%d certificates, want the leaf and the intermediate", len(c.certificate.Certificate))
	}
	leaf := mustParse(t, c.certificate.Certificate[0])
	if id := leaf.URIs[0].String(); id != "spiffe://east.example/ns/isthmus-system/sa/isthmus-canary" {
		t.Errorf("identity %s", id)
	}
	if life := leaf.NotAfter.Sub(now); life > CanaryTTL+2*pki.ClockSkew {
		t.Errorf("it lives for %v", life)
	}
	intermediates := x509.NewCertPool()
	intermediates.AddCert(a.intermediate.Cert)
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: pool(a), Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		t.Error(err)
	}
}

// A canary outlives none of those above it, and one that cannot be valid is not made.
func TestCanaryOfAnIntermediateThatEnds(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	root := pkitest.NewRoot(t, "root", now)
	end := func(at time.Time) pki.Material {
		return root.Intermediate(t, "mesh", func(c *x509.Certificate) { c.NotAfter = at }).Material(t)
	}
	c, err := NewCanary(end(now.Add(time.Minute)), trustDomain, "ns", now)
	if err != nil {
		t.Fatal(err)
	}
	if leaf := mustParse(t, c.certificate.Certificate[0]); leaf.NotAfter.After(now.Add(time.Minute)) {
		t.Error("it outlives its intermediate")
	}
	if _, err := NewCanary(end(now.Add(time.Minute)), trustDomain, "ns", now.Add(time.Minute)); err == nil {
		t.Error("signed by an intermediate that has expired")
	}
}

func TestNoPrivateKeyIsPrinted(t *testing.T) {
	c := newAuthority(t, "root").canary(t)
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(format, c); s != "canary under root "+c.Root.ID().Short() {
			t.Errorf("%s prints %s", format, s)
		}
	}
	if s := fmt.Sprintf("%+v", []Canary{c}); strings.Contains(s, "PrivateKey") {
		t.Errorf("in a list: %s", s)
	}
}
