package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"testing"
)

func TestCertificatesVerify(t *testing.T) {
	ca, err := NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca.Cert) {
		t.Fatal("the authority's certificate is no PEM")
	}
	server, err := ca.Server("server", []string{"kubernetes.default"}, []netip.Addr{netip.MustParseAddr("10.1.2.3")})
	if err != nil {
		t.Fatal(err)
	}
	client, err := ca.Client("system:node:a", "system:nodes")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		pair  Pair
		name  string
		usage x509.ExtKeyUsage
		ok    bool
	}{
		{server, "kubernetes.default", x509.ExtKeyUsageServerAuth, true},
		{server, "10.1.2.3", x509.ExtKeyUsageServerAuth, true},
		{server, "10.1.2.4", x509.ExtKeyUsageServerAuth, false},
		{server, "", x509.ExtKeyUsageClientAuth, false},
		{client, "", x509.ExtKeyUsageClientAuth, true},
		{client, "", x509.ExtKeyUsageServerAuth, false},
	} {
		pair, err := tls.X509KeyPair(tt.pair.Cert, tt.pair.Key)
		if err != nil {
			t.Fatal(err)
		}
		_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: tt.name, KeyUsages: []x509.ExtKeyUsage{tt.usage}})
		if (err == nil) != tt.ok {
			t.Errorf("%s as %q for usage %d: %v, want valid: %v", pair.Leaf.Subject, tt.name, tt.usage, err, tt.ok)
		}
	}
	pair, err := tls.X509KeyPair(client.Cert, client.Key)
	if err != nil {
		t.Fatal(err)
	}
	if s := pair.Leaf.Subject; s.CommonName != "system:node:a" || len(s.Organization) != 1 || s.Organization[0] != "system:nodes" {
		t.Errorf("user and group are %s", s)
	}
}
