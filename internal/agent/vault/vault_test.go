package vault_test

import (
	"context"
	"crypto"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent/vault"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

const namespace = v1alpha1.AgentNamespace

var ctx = context.Background()

var template = pki.Template{
	Organization: "Istio", Mesh: "istiod-istio-system-east", URIs: []string{"spiffe://cluster.local/ns/istio-system/sa/istiod"}, TTL: 30 * 24 * time.Hour,
}

// world is an agent's cluster and a server.
type world struct {
	*testing.T
	cluster *testenv.Cluster
	server  *testenv.Vault
	root    pki.Root
	options vault.Options
	ca      v1alpha1.VaultCA
}

func (w *world) client() *vault.Client {
	w.Helper()
	c, err := vault.New(w.options, namespace, w.cluster.Client, w.cluster.Client)
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// secret puts something into a Secret of the agent's namespace.
func (w *world) secret(name string, data map[string]string) {
	w.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, StringData: data}
	_ = client.IgnoreNotFound(w.cluster.Client.Delete(ctx, s.DeepCopy()))
	if err := w.cluster.Client.Create(ctx, s); err != nil {
		w.Fatal(err)
	}
}

// sign has an intermediate signed, and checks it as an agent does.
func (w *world) sign(root pki.Root) (pki.Material, error) {
	w.Helper()
	return w.signWith(w.client(), pkitest.ECKey(w), root)
}

func (w *world) signWith(c *vault.Client, key crypto.Signer, root pki.Root) (pki.Material, error) {
	w.Helper()
	csr, err := pki.NewRequest(key, "Somebody", "else")
	if err != nil {
		w.Fatal(err)
	}
	chain, anchor, err := c.Sign(ctx, &w.ca, csr, template, root.ID(), time.Now())
	if err != nil {
		return pki.Material{}, err
	}
	return pki.NewForeign(chain, key, anchor, template.URIs, time.Now())
}

// fails wants an error of a reason that says something.
func fails(t *testing.T, err error, reason, says string) {
	t.Helper()
	e, ok := errors.AsType[*vault.Error](err)
	if !ok || e.Reason != reason || !strings.Contains(e.Message, says) {
		t.Errorf("error %v, want %s that says %q", err, reason, says)
	}
}

func TestVault(t *testing.T) {
	w := &world{T: t, cluster: testenv.Start(t), server: testenv.StartVault(t)}
	w.cluster.Namespace(t, namespace, nil)
	w.root = w.server.PKI(t, "pki", "Root one")
	w.options = vault.Options{Servers: []string{w.server.URL}}
	w.ca = v1alpha1.VaultCA{
		Server: w.server.URL, CAPath: "pki/root/sign-intermediate", CABundle: w.server.CABundle, TokenSecretRef: &v1alpha1.LocalSecretRef{Name: "vault-token"},
	}
	token := w.server.SignerToken(t, "pki", "1h")
	w.secret("vault-token", map[string]string{"token": token + "\n"})
	for name, f := range map[string]func(*world){
		"signing": signing, "the root": theRoot, "intermediate CA": intermediateCA, "policy of the guide": policyOfGuide, "exported key": exportedKey, "short-lived CA": shortLivedCA, "namespace": inNamespace,
		"another root": anotherRoot, "tokens": tokens, "credentials": credentials, "servers": servers, "Kubernetes auth": kubernetesAuth, "outages": outages,
	} {
		t.Run(name, func(t *testing.T) {
			part := *w
			part.T = t
			f(&part)
		})
	}
}

func signing(w *world) {
	m, err := w.sign(w.root)
	if err != nil {
		w.Fatal(err)
	}
	c := m.Certificate
	if c.Subject.Organization[0] != "Istio" || c.Subject.OrganizationalUnit[0] != template.Mesh || len(c.DNSNames) > 0 || !c.MaxPathLenZero {
		w.Errorf("signed for %v, DNS names %v, path length %d", c.Subject, c.DNSNames, c.MaxPathLen)
	}
	if life := time.Until(c.NotAfter); life < template.TTL-time.Hour || life > template.TTL || time.Since(c.NotBefore) < pki.ClockSkew {
		w.Errorf("valid from %v to %v", c.NotBefore, c.NotAfter)
	}
	if m.Root.ID() != w.root.ID() {
		w.Error("under another root")
	}
}

func theRoot(w *world) {
	w.ca.TokenSecretRef = &v1alpha1.LocalSecretRef{Name: "none"} // it takes none
	root, err := w.client().Root(ctx, &w.ca, time.Now())
	if err != nil || root.ID() != w.root.ID() {
		w.Errorf("found %v, %v", root, err)
	}
	w.ca.CAPath = "nothing/root/sign-intermediate"
	_, err = w.client().Root(ctx, &w.ca, time.Now())
	fails(w.T, err, vault.ReasonRefused, "nothing/issuer/default/json")
	w.ca.CAPath = "pki/issuer/none/sign-intermediate"
	_, err = w.client().Root(ctx, &w.ca, time.Now())
	fails(w.T, err, vault.ReasonUnavailable, "unable to find PKI issuer for reference: none") // so it says, with status 500
}

// intermediateCA: caPath is that of an intermediate under the root of another engine.
func intermediateCA(w *world) {
	v := w.server
	v.Write(w, "sys/mounts/pki_int", map[string]any{"type": "pki", "config": map[string]any{"max_lease_ttl": "8760h"}})
	made := v.Write(w, "pki_int/intermediate/generate/internal", map[string]any{"common_name": "Between"})
	signed := v.Write(w, "pki/root/sign-intermediate", map[string]any{"csr": made["csr"], "common_name": "Between", "ttl": "8000h"})
	v.Write(w, "pki_int/intermediate/set-signed", map[string]any{"certificate": signed["certificate"]})
	w.ca.CAPath = "/v1/pki_int/root/sign-intermediate"
	_, err := w.client().Root(ctx, &w.ca, time.Now())
	fails(w.T, err, vault.ReasonInvalidAnswer, "import the root")
	v.Write(w, "pki_int/issuers/import/cert", map[string]any{"pem_bundle": string(w.root.PEM())})
	w.secret("vault-token", map[string]string{"token": v.Token})
	m, err := w.sign(w.root)
	if err != nil {
		w.Fatal(err)
	}
	if len(m.Intermediates) != 1 || m.Intermediates[0].Subject.CommonName != "Between" {
		w.Errorf("intermediates %v", m.Intermediates)
	}
	w.secret("vault-token", map[string]string{"token": v.SignerToken(w, "pki", "1h")})
}

// policyOfGuide: what the guide has people write permits what an agent asks for, and nothing for another mesh or with CAs below.
func policyOfGuide(w *world) {
	guide, err := os.ReadFile(filepath.Join(testenv.Root(), "docs", "guides", "vault.md"))
	if err != nil {
		w.Fatal(err)
	}
	_, text, _ := strings.Cut(string(guide), "```hcl\n")
	text, _, _ = strings.Cut(text, "```")
	w.server.Write(w, "sys/policies/acl/guide", map[string]any{"policy": text})
	token := w.server.Write(w, "auth/token/create", map[string]any{"policies": []string{"guide"}, "no_default_policy": true})["client_token"].(string)
	w.secret("guide", map[string]string{"token": token})
	w.ca.TokenSecretRef = &v1alpha1.LocalSecretRef{Name: "guide"}
	if _, err := w.sign(w.root); err != nil {
		w.Error(err)
	}
	csr, err := pki.NewRequest(pkitest.ECKey(w), "", "")
	if err != nil {
		w.Fatal(err)
	}
	other := template
	other.URIs = []string{"spiffe://cluster.local/ns/istio-system/sa/other"}
	_, _, err = w.client().Sign(ctx, &w.ca, csr, other, w.root.ID(), time.Now())
	fails(w.T, err, vault.ReasonDenied, "pki/root/sign-intermediate")
	for _, in := range []map[string]any{
		{"max_path_length": "1", "use_csr_values": "false", "uri_sans": template.URIs[0]},
		{"max_path_length": "0", "use_csr_values": "true", "uri_sans": template.URIs[0]},
		{"use_csr_values": "false", "uri_sans": template.URIs[0]},
		{"max_path_length": "0", "use_csr_values": "false"},
	} {
		in["csr"], in["common_name"] = string(csr), "x"
		if status := w.server.Try(w, token, "pki/root/sign-intermediate", in); status != http.StatusForbidden {
			w.Errorf("%v: status %d", in, status)
		}
	}
	if status := w.server.Try(w, token, "pki/root/sign-intermediate", map[string]any{
		"csr": string(csr), "common_name": "x", "max_path_length": "0", "use_csr_values": "false", "uri_sans": template.URIs[0],
	}); status != http.StatusOK {
		w.Errorf("what is permitted: status %d", status)
	}
}

func exportedKey(w *world) {
	w.ca.CSRPath = "pki/intermediate/generate/exported"
	key, err := w.client().GenerateKey(ctx, &w.ca, 2048, template)
	if err != nil {
		w.Fatal(err)
	}
	if public, ok := key.Public().(*rsa.PublicKey); !ok || public.N.BitLen() != 2048 {
		w.Errorf("the key is %T", key.Public())
	}
	if _, err := w.signWith(w.client(), key, w.root); err != nil {
		w.Error(err)
	}
}

// shortLivedCA: what comes back lives no longer than the mount permits, and nothing longer is asked of a CA than it lives.
func shortLivedCA(w *world) {
	v := w.server
	v.Write(w, "sys/mounts/pki_short", map[string]any{"type": "pki", "config": map[string]any{"max_lease_ttl": "72h"}})
	root := v.NewRoot(w, "pki_short", "Short")
	w.secret("vault-token", map[string]string{"token": v.Token})
	w.ca.CAPath = "pki_short/root/sign-intermediate"
	m, err := w.sign(root)
	if err != nil {
		w.Fatal(err)
	}
	if life := time.Until(m.Certificate.NotAfter); life > 72*time.Hour || life < 71*time.Hour {
		w.Errorf("it lives %v", life)
	}
	v.Write(w, "sys/mounts/pki_short/tune", map[string]any{"max_lease_ttl": "24h"})
	if m, err = w.sign(root); err != nil {
		w.Fatal(err)
	}
	if life := time.Until(m.Certificate.NotAfter); life > 24*time.Hour {
		w.Errorf("it lives %v", life)
	}
	w.secret("vault-token", map[string]string{"token": v.SignerToken(w, "pki", "1h")})
}

func inNamespace(w *world) {
	v := w.server
	v.Write(w, "sys/namespaces/team", nil)
	v.Write(w, "team/sys/mounts/pki", map[string]any{"type": "pki", "config": map[string]any{"max_lease_ttl": "87600h"}})
	root := v.NewRoot(w, "team/pki", "Root of team")
	w.ca.Namespace = "team"
	got, err := w.client().Root(ctx, &w.ca, time.Now())
	if err != nil || got.ID() != root.ID() {
		w.Fatalf("found %v, %v", got, err)
	}
	w.secret("vault-token", map[string]string{"token": v.Token})
	if _, err := w.sign(root); err != nil {
		w.Error(err)
	}
	w.secret("vault-token", map[string]string{"token": v.SignerToken(w, "pki", "1h")})
}

// anotherRoot: once Vault signs under another one, what is ordered under the former is still signed under that, as long as it is
// there; and never is one taken for the other.
func anotherRoot(w *world) {
	v := w.server
	old := v.PKI(w, "pki_rotated", "Old")
	w.secret("vault-token", map[string]string{"token": v.SignerToken(w, "pki_rotated", "1h")})
	defer func() { w.secret("vault-token", map[string]string{"token": v.SignerToken(w, "pki", "1h")}) }()
	w.ca.CAPath = "pki_rotated/root/sign-intermediate"
	made := v.Write(w, "pki_rotated/root/rotate/internal", map[string]any{"common_name": "New", "ttl": "87600h", "issuer_name": "root-2"}) // as the guide says
	v.Write(w, "pki_rotated/config/issuers", map[string]any{"default": "root-2"})
	next, err := pki.ParseRoot([]byte(made["certificate"].(string)))
	if err != nil {
		w.Fatal(err)
	}
	got, err := w.client().Root(ctx, &w.ca, time.Now())
	if err != nil || got.ID() != next.ID() {
		w.Fatalf("found %v, %v", got, err)
	}
	for _, root := range []pki.Root{old, next} {
		m, err := w.sign(root)
		if err != nil || m.Root.ID() != root.ID() {
			w.Errorf("under %v: %v", root.Certificate().Subject, err)
		}
	}
	_, err = w.sign(w.root)
	fails(w.T, err, vault.ReasonRootChanged, w.root.ID().Short())
}

func tokens(w *world) {
	v := w.server
	good := v.SignerToken(w, "pki", "1h")
	defer w.secret("vault-token", map[string]string{"token": good})
	w.Run("wrong", func(t *testing.T) {
		w.secret("vault-token", map[string]string{"token": "s.wrongwrongwrong"})
		_, err := w.sign(w.root)
		fails(t, err, vault.ReasonDenied, "put a token that is valid")
		if err != nil && strings.Contains(err.Error(), "wrongwrong") {
			t.Errorf("the error has the token: %v", err)
		}
	})
	w.Run("expired", func(t *testing.T) {
		w.secret("vault-token", map[string]string{"token": v.SignerToken(t, "pki", "1s")})
		testenv.Eventually(t, "expiry", func() error {
			_, err := w.sign(w.root)
			if err == nil {
				return errors.New("it is still good")
			}
			fails(t, err, vault.ReasonDenied, "Secret "+namespace+"/vault-token")
			return nil
		})
	})
	w.Run("without policy", func(t *testing.T) {
		bare := v.Write(t, "auth/token/create", map[string]any{"policies": []string{"default"}})["client_token"].(string)
		w.secret("vault-token", map[string]string{"token": bare})
		_, err := w.sign(w.root)
		fails(t, err, vault.ReasonDenied, "capability update on pki/root/sign-intermediate")
	})
	w.Run("none", func(t *testing.T) {
		w.secret("vault-token", map[string]string{"other": "x"})
		_, err := w.sign(w.root)
		fails(t, err, vault.ReasonCredentialMissing, "no key token")
		w.ca.TokenSecretRef = &v1alpha1.LocalSecretRef{Name: "absent"}
		_, err = w.sign(w.root)
		fails(t, err, vault.ReasonCredentialMissing, "there is no Secret "+namespace+"/absent")
	})
	w.Run("what is no token of Vault", func(t *testing.T) {
		own := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "own", Labels: map[string]string{v1alpha1.LabelManagedBy: "isthmus-agent"}}, StringData: map[string]string{"token": good}}
		if err := w.cluster.Client.Create(ctx, own); err != nil {
			t.Fatal(err)
		}
		w.ca.TokenSecretRef = &v1alpha1.LocalSecretRef{Name: "own"}
		_, err := w.sign(w.root)
		fails(t, err, vault.ReasonCredentialMissing, "is no token of Vault")
	})
}

// credentials: whether a token is good is found out without having anything signed, also where it may not look itself up; and one
// that can be renewed is.
func credentials(w *world) {
	v := w.server
	w.ca.TokenSecretRef = &v1alpha1.LocalSecretRef{Name: "credential"}
	v.Policy(w, "isthmus", "pki")
	v.Write(w, "sys/policies/acl/elsewhere", map[string]any{"policy": `path "pki_elsewhere/root/sign-intermediate" { capabilities = ["update"] }`})
	create := func(t *testing.T, in map[string]any) (token string) {
		t.Helper()
		token = v.Write(t, "auth/token/create", in)["client_token"].(string)
		w.secret("credential", map[string]string{"token": token})
		return token
	}
	revoke := func(t *testing.T, token string) {
		t.Helper()
		v.Write(t, "auth/token/revoke", map[string]any{"token": token})
	}
	denied := func(t *testing.T, token string) {
		t.Helper()
		err := w.client().Authenticate(ctx, &w.ca)
		fails(t, err, vault.ReasonDenied, "put a token that is valid and has a policy with capability update on pki/root/sign-intermediate into Secret "+namespace+"/credential")
		if err != nil && strings.Contains(err.Error(), token) {
			t.Errorf("the error has the token: %v", err)
		}
	}
	good := func(t *testing.T) {
		t.Helper()
		if err := w.client().Authenticate(ctx, &w.ca); err != nil {
			t.Error(err)
		}
	}
	bare := map[string]any{"policies": []string{"isthmus"}, "no_default_policy": true}

	for name, in := range map[string]map[string]any{
		"that lives for an hour": {"policies": []string{"isthmus"}, "ttl": "1h"}, "that may not look itself up": bare,
		"of a batch": {"policies": []string{"isthmus"}, "type": "batch", "ttl": "1h"}, "of root": {"policies": []string{"root"}},
	} {
		w.Run("one "+name, func(t *testing.T) {
			token := create(t, in)
			good(t)
			if in["type"] != "batch" { // which cannot be revoked
				revoke(t, token)
				denied(t, token)
			}
		})
	}
	w.Run("one that expires", func(t *testing.T) {
		token := create(t, map[string]any{"policies": []string{"isthmus"}, "ttl": "1s", "renewable": false})
		testenv.Eventually(t, "expiry", func() error {
			if w.client().Authenticate(ctx, &w.ca) == nil {
				return errors.New("it is still good")
			}
			denied(t, token)
			return nil
		})
	})
	w.Run("one for something else", func(t *testing.T) {
		denied(t, create(t, map[string]any{"policies": []string{"elsewhere"}, "no_default_policy": true}))
	})
	w.Run("one of the namespace above", func(t *testing.T) {
		v.Write(t, "sys/namespaces/below", nil)
		v.Write(t, "below/sys/mounts/pki", map[string]any{"type": "pki"})
		v.NewRoot(t, "below/pki", "Root of below")
		v.Policy(t, "below", "below/pki")
		w.ca.Namespace = "below"
		defer func() { w.ca.Namespace = "" }()
		token := create(t, map[string]any{"policies": []string{"below"}, "no_default_policy": true})
		good(t)
		revoke(t, token)
		denied(t, token)
	})
	w.Run("none", func(t *testing.T) {
		w.secret("credential", map[string]string{"other": "x"})
		fails(t, w.client().Authenticate(ctx, &w.ca), vault.ReasonCredentialMissing, "no key token")
	})
	w.Run("a periodic one is renewed", func(t *testing.T) {
		period := func(period string) {
			v.Write(t, "auth/token/roles/periodic", map[string]any{"allowed_policies": []string{"isthmus"}, "token_period": period})
		}
		period("1h")
		token := v.Write(t, "auth/token/create/periodic", map[string]any{"policies": []string{"isthmus"}})["client_token"].(string)
		w.secret("credential", map[string]string{"token": token})
		of := func() map[string]any { return v.Write(t, "auth/token/lookup", map[string]any{"token": token}) }
		good(t)
		if renewed := of()["last_renewal"]; renewed != nil {
			t.Errorf("renewed at %v, with all its life before it", renewed)
		}
		period("10m") // has 50 minutes pass
		v.Write(t, "auth/token/renew", map[string]any{"token": token})
		if left := of()["ttl"].(float64); left > 600 {
			t.Fatalf("%v s are left", left)
		}
		period("1h")
		good(t)
		if left := of()["ttl"].(float64); left < 3000 {
			t.Errorf("%v s are left", left)
		}
		revoke(t, token)
		denied(t, token)
	})
	w.Run("a server that tells nothing of tokens", func(t *testing.T) {
		silent := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			code := http.StatusForbidden
			if !strings.HasPrefix(r.URL.Path, "/v1/auth/token/") {
				code = http.StatusNotFound
			}
			rw.WriteHeader(code)
		}))
		defer silent.Close()
		w.options.Servers = append(w.options.Servers, silent.URL)
		w.ca.Server, w.ca.CABundle = silent.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: silent.Certificate().Raw})
		w.secret("credential", map[string]string{"token": "s.whatever"})
		good(t)
	})
}

// servers: no token gets anywhere but to a server that this cluster's operator has listed.
func servers(w *world) {
	var asked atomic.Int32
	handler := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Header.Get("X-Vault-Token") != "" && strings.HasPrefix(r.URL.Path, "/v1/pki/") {
			w.Errorf("a token was shown at %s", r.URL)
		}
		http.Error(rw, `{"errors": ["no"]}`, http.StatusBadRequest)
	})
	thief := httptest.NewTLSServer(handler)
	defer thief.Close()
	thiefCA := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: thief.Certificate().Raw})

	w.Run("not listed", func(t *testing.T) {
		ca := w.ca
		ca.Server, ca.CABundle = thief.URL, thiefCA
		_, err := w.client().Root(ctx, &ca, time.Now())
		fails(t, err, vault.ReasonServerNotAllowed, "vault.servers")
		_, _, err = w.client().Sign(ctx, &ca, nil, template, w.root.ID(), time.Now())
		fails(t, err, vault.ReasonServerNotAllowed, thief.URL)
		fails(t, w.client().Authenticate(ctx, &ca), vault.ReasonServerNotAllowed, thief.URL)
		if asked.Load() > 0 {
			t.Error("it was asked")
		}
	})
	w.Run("plain text only where it is listed so", func(t *testing.T) {
		ca := w.ca
		ca.Server = strings.Replace(w.server.URL, "https://", "http://", 1)
		_, err := w.client().Root(ctx, &ca, time.Now())
		fails(t, err, vault.ReasonServerNotAllowed, "http://")
	})
	w.Run("a redirect", func(t *testing.T) {
		redirecting := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, thief.URL+r.URL.Path, http.StatusTemporaryRedirect)
		}))
		defer redirecting.Close()
		o := w.options
		o.Servers = append(o.Servers, redirecting.URL)
		c, err := vault.New(o, namespace, w.cluster.Client, w.cluster.Client)
		if err != nil {
			t.Fatal(err)
		}
		ca := w.ca
		ca.Server, ca.CABundle = redirecting.URL, append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: redirecting.Certificate().Raw}), thiefCA...)
		_, err = c.Root(ctx, &ca, time.Now())
		fails(t, err, vault.ReasonUnavailable, "redirects")
		if asked.Load() > 0 {
			t.Error("the redirect was followed")
		}
	})
	w.Run("a server that says what it was shown", func(t *testing.T) {
		refuse := func(rw http.ResponseWriter, r *http.Request) {
			rw.WriteHeader(http.StatusForbidden)
			_ = json.NewEncoder(rw).Encode(map[string]any{"errors": []string{"no\nto " + r.Header.Get("X-Vault-Token") + strings.Repeat("x", 1000)}})
		}
		talkative := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				_ = json.NewEncoder(rw).Encode(map[string]any{"data": map[string]any{"certificate": string(w.root.PEM())}})
				return
			}
			refuse(rw, r)
		}))
		defer talkative.Close()
		o := w.options
		o.Servers = []string{talkative.URL}
		c, err := vault.New(o, namespace, w.cluster.Client, w.cluster.Client)
		if err != nil {
			t.Fatal(err)
		}
		w.secret("shown", map[string]string{"token": "s.shownshown"})
		ca := w.ca
		ca.Server, ca.CABundle = talkative.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: talkative.Certificate().Raw})
		ca.TokenSecretRef = &v1alpha1.LocalSecretRef{Name: "shown"}
		_, _, err = c.Sign(ctx, &ca, nil, template, w.root.ID(), time.Now())
		fails(t, err, vault.ReasonDenied, "no to ***")
		if text := fmt.Sprint(err); strings.Contains(text, "shownshown") || len(text) > 1000 {
			t.Errorf("the error is %s", text)
		}
		talkative.Config.Handler = http.HandlerFunc(refuse)
		err = c.Authenticate(ctx, &ca)
		fails(t, err, vault.ReasonDenied, "no to ***")
		if text := fmt.Sprint(err); strings.Contains(text, "shownshown") {
			t.Errorf("the error is %s", text)
		}
	})
	w.Run("something that is no Vault", func(t *testing.T) {
		other := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "<html>") }))
		defer other.Close()
		o := w.options
		o.Servers = []string{other.URL}
		c, err := vault.New(o, namespace, w.cluster.Client, w.cluster.Client)
		if err != nil {
			t.Fatal(err)
		}
		ca := w.ca
		ca.Server, ca.CABundle = other.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Certificate().Raw})
		_, err = c.Root(ctx, &ca, time.Now())
		fails(t, err, vault.ReasonInvalidAnswer, "URL")
	})
	w.Run("paths that do not sign", func(t *testing.T) {
		for _, path := range []string{"sys/seal", "pki/root/sign-intermediate/../../../sys/seal", "../sys/root/sign-intermediate", "pki/roles/x?/root/sign-intermediate"} {
			ca := w.ca
			ca.CAPath = path
			_, err := w.client().Root(ctx, &ca, time.Now())
			fails(t, err, vault.ReasonInvalid, "caPath")
		}
	})
	w.Run("not trusted", func(t *testing.T) {
		for name, bundle := range map[string][]byte{"by the system": nil, "by caBundle": thiefCA} {
			ca := w.ca
			ca.CABundle = bundle
			_, err := w.client().Root(ctx, &ca, time.Now())
			fails(t, err, vault.ReasonNotTrusted, "caBundle")
			if t.Failed() {
				t.Log(name)
			}
		}
	})
	w.Run("a list that makes no sense", func(t *testing.T) {
		if _, err := vault.New(vault.Options{Servers: []string{"vault.example.com"}}, namespace, nil, nil); err == nil || !strings.Contains(err.Error(), "--vault-servers") {
			t.Errorf("error %v", err)
		}
	})
}

// kubernetesAuth logs in by tokens of a real API server, which reviews them.
func kubernetesAuth(w *world) {
	c, v := w.cluster.Client, w.server
	create := func(objs ...client.Object) {
		w.Helper()
		for _, o := range objs {
			if err := c.Create(ctx, o); err != nil {
				w.Fatal(err)
			}
		}
	}
	account := func(name string) *corev1.ServiceAccount {
		return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	}
	create(account("vault-login"), account("other"), account("reviewer"), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "reviewer"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:auth-delegator"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: "reviewer"}},
	})
	tokenOf := func(name string, audiences ...string) string {
		w.Helper()
		r := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences}}
		if err := c.SubResource("token").Create(ctx, account(name), r); err != nil {
			w.Fatal(err)
		}
		return r.Status.Token
	}
	v.Write(w, "sys/auth/kubernetes", map[string]any{"type": "kubernetes"})
	v.Write(w, "auth/kubernetes/config", map[string]any{
		"kubernetes_host": w.cluster.Config.Host, "kubernetes_ca_cert": string(w.cluster.Config.CAData), "token_reviewer_jwt": tokenOf("reviewer"), "disable_local_ca_jwt": true,
	})
	role := map[string]any{
		"bound_service_account_names": []string{"vault-login", "isthmus-agent"}, "bound_service_account_namespaces": []string{namespace},
		"audience": vault.DefaultAudience, "token_policies": []string{"signer"}, "token_ttl": "5m",
	}
	v.Policy(w, "signer", "pki")
	v.Write(w, "auth/kubernetes/role/isthmus", role)
	w.options.ServiceAccounts = []string{"vault-login", "other", "gone"}
	w.ca.TokenSecretRef = nil
	auth := func(k v1alpha1.VaultKubernetesAuth) {
		k.Role = "isthmus"
		w.ca.KubernetesAuth = &k
	}
	by := func(name string) *v1alpha1.LocalSecretRef { return &v1alpha1.LocalSecretRef{Name: name} }
	run := func(name string, f func(t *testing.T)) {
		before := w.T
		before.Run(name, func(t *testing.T) {
			w.T = t
			defer func() { w.T = before }()
			f(t)
		})
	}

	auth(v1alpha1.VaultKubernetesAuth{ServiceAccountRef: by("vault-login")})
	testenv.Eventually(w, "the reviewer's rights to be in force", func() error { _, err := w.sign(w.root); return err })

	run("a token that is requested", func(t *testing.T) {
		auth(v1alpha1.VaultKubernetesAuth{ServiceAccountRef: by("vault-login")})
		if _, err := w.sign(w.root); err != nil {
			t.Error(err)
		}
		if err := w.client().Authenticate(ctx, &w.ca); err != nil {
			t.Error(err)
		}
	})
	run("a role for each cluster", func(t *testing.T) {
		v.Write(t, "auth/kubernetes/role/of-east", role)
		auth(v1alpha1.VaultKubernetesAuth{ServiceAccountRef: by("vault-login")})
		w.ca.KubernetesAuth.Role = "of-{cluster}"
		w.options.Cluster = "east"
		if _, err := w.sign(w.root); err != nil {
			t.Error(err)
		}
		w.options.Cluster = "west"
		_, err := w.sign(w.root)
		fails(t, err, vault.ReasonLoginRefused, "as role of-west")
	})
	run("another ServiceAccount than the role's", func(t *testing.T) {
		auth(v1alpha1.VaultKubernetesAuth{ServiceAccountRef: by("other")})
		_, err := w.sign(w.root)
		fails(t, err, vault.ReasonLoginRefused, "bound to the ServiceAccount")
	})
	run("a ServiceAccount that is not there, or not listed", func(t *testing.T) {
		auth(v1alpha1.VaultKubernetesAuth{ServiceAccountRef: by("gone")})
		_, err := w.sign(w.root)
		fails(t, err, vault.ReasonCredentialMissing, "there is no ServiceAccount")
		auth(v1alpha1.VaultKubernetesAuth{ServiceAccountRef: by("reviewer")})
		_, err = w.sign(w.root)
		fails(t, err, vault.ReasonCredentialMissing, "vault.serviceAccounts")
	})
	run("a Secret of the ServiceAccount", func(t *testing.T) {
		auth(v1alpha1.VaultKubernetesAuth{ServiceAccountRef: by("vault-login"), SecretTokenKey: "jwt"})
		_, err := w.sign(w.root)
		fails(t, err, vault.ReasonCredentialMissing, "secretTokenKey")
		create(&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "vault-login-token", Annotations: map[string]string{corev1.ServiceAccountNameKey: "vault-login"}},
			Type:       corev1.SecretTypeServiceAccountToken, StringData: map[string]string{"jwt": tokenOf("vault-login", vault.DefaultAudience)},
		})
		if _, err := w.sign(w.root); err != nil {
			t.Error(err)
		}
		w.ca.TokenSecretRef, w.ca.KubernetesAuth = by("vault-login-token"), nil
		_, err = w.sign(w.root)
		fails(t, err, vault.ReasonCredentialMissing, "is no token of Vault")
		w.ca.TokenSecretRef = nil
	})
	run("a token that is mounted", func(t *testing.T) {
		// As kubelets project it: the file is a link into a directory that is one too.
		dir := t.TempDir()
		w.options.TokenDir = filepath.Join(dir, "vault")
		data := filepath.Join(w.options.TokenDir, "..2026")
		if err := errors.Join(os.MkdirAll(data, 0o755), os.WriteFile(filepath.Join(data, "token"), []byte(tokenOf("vault-login", vault.DefaultAudience)), 0o600),
			os.Symlink("..2026", filepath.Join(w.options.TokenDir, "..data")), os.Symlink("..data/token", filepath.Join(w.options.TokenDir, "token")),
			os.WriteFile(filepath.Join(dir, "token"), []byte(tokenOf("vault-login", vault.DefaultAudience)), 0o600),
			os.Symlink("../token", filepath.Join(w.options.TokenDir, "leads-out")),
		); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"", w.options.TokenDir, w.options.TokenDir + "/"} {
			auth(v1alpha1.VaultKubernetesAuth{MountedSAPath: path})
			if _, err := w.sign(w.root); err != nil {
				t.Errorf("%q: %v", path, err)
			}
		}
		for _, k := range []v1alpha1.VaultKubernetesAuth{
			{MountedSAPath: dir}, {MountedSAPath: w.options.TokenDir + "/.."}, {SecretTokenKey: "../token"}, {SecretTokenKey: "leads-out"},
			{MountedSAPath: "/var/run/secrets/kubernetes.io/serviceaccount"}, {MountedSAPath: "vault"}, {SecretTokenKey: "none"},
		} {
			auth(k)
			_, err := w.sign(w.root)
			fails(t, err, vault.ReasonCredentialMissing, "mountedSaPath")
		}
	})
	run("a token of another audience", func(t *testing.T) {
		w.options.Audience = "somebody-else"
		defer func() { w.options.Audience = "" }()
		auth(v1alpha1.VaultKubernetesAuth{ServiceAccountRef: by("vault-login")})
		_, err := w.sign(w.root)
		fails(t, err, vault.ReasonLoginRefused, "has audience somebody-else")
	})
	run("policies that do not permit it", func(t *testing.T) {
		v.Write(t, "sys/policies/acl/signer", map[string]any{"policy": `path "pki/none" { capabilities = ["read"] }`})
		defer v.Policy(t, "signer", "pki")
		_, err := w.sign(w.root)
		fails(t, err, vault.ReasonDenied, "give role isthmus of auth/kubernetes a policy")
	})
	run("a revoked role", func(t *testing.T) {
		v.Delete(t, "auth/kubernetes/role/isthmus")
		_, err := w.sign(w.root)
		for _, err := range []error{err, w.client().Authenticate(ctx, &w.ca)} {
			fails(t, err, vault.ReasonLoginRefused, "role isthmus at auth/kubernetes/login")
			if err != nil && strings.Contains(err.Error(), "eyJ") {
				t.Errorf("the error has the token: %v", err)
			}
		}
		v.Write(t, "auth/kubernetes/role/isthmus", role)
		if _, err := w.sign(w.root); err != nil {
			t.Errorf("given back: %v", err)
		}
		if err := w.client().Authenticate(ctx, &w.ca); err != nil {
			t.Errorf("given back: %v", err)
		}
	})
	run("another mount", func(t *testing.T) {
		auth(v1alpha1.VaultKubernetesAuth{ServiceAccountRef: by("vault-login"), MountPath: "auth/elsewhere"})
		_, err := w.sign(w.root)
		fails(t, err, vault.ReasonLoginRefused, "auth/elsewhere/login")
		auth(v1alpha1.VaultKubernetesAuth{ServiceAccountRef: by("vault-login"), MountPath: "sys/seal"})
		_, err = w.sign(w.root)
		fails(t, err, vault.ReasonInvalid, "mountPath")
	})
}

// outages have a server of their own.
func outages(w *world) {
	v := testenv.StartVault(w)
	w.server, w.root = v, v.PKI(w, "pki", "Root")
	w.options.Servers, w.ca.Server, w.ca.CABundle = []string{v.URL}, v.URL, v.CABundle
	w.ca.TokenSecretRef = &v1alpha1.LocalSecretRef{Name: "outages"}
	w.secret("outages", map[string]string{"token": v.SignerToken(w, "pki", "1h")})
	works := func() {
		w.Helper()
		if _, err := w.sign(w.root); err != nil {
			w.Error(err)
		}
	}
	wants := func(reason, says string) {
		w.Helper()
		_, err := w.client().Root(ctx, &w.ca, time.Now())
		fails(w.T, err, reason, says)
		_, err = w.sign(w.root)
		fails(w.T, err, reason, says)
		fails(w.T, w.client().Authenticate(ctx, &w.ca), reason, says)
	}
	works()
	v.Seal(w)
	wants(vault.ReasonSealed, "unseal it")
	v.Unseal(w)
	works()
	w.options.Timeout = 300 * time.Millisecond
	v.Pause(w)
	wants(vault.ReasonUnreachable, "has not answered within 300ms")
	v.Resume()
	w.options.Timeout = 0
	works()
	v.Stop()
	wants(vault.ReasonUnreachable, "connection refused")
	v.Start(w)
	wants(vault.ReasonSealed, "sealed")
	v.Unseal(w)
	works()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	w.ca.Server = "https://" + l.Addr().String()
	w.options.Servers = []string{w.ca.Server}
	wants(vault.ReasonUnreachable, "cannot be reached")
}
