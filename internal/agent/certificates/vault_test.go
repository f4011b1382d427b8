package certificates

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent/vault"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// byVault orders that Vault signs under a root.
func byVault(root pki.Root, ca v1alpha1.VaultCA) func(*v1alpha1.IssuedCertificateSpec) {
	return func(s *v1alpha1.IssuedCertificateSpec) {
		s.Signer = root.ID().String()
		s.Roots = []v1alpha1.RootCertificate{{Fingerprint: s.Signer, Certificate: string(root.PEM())}}
		s.AgentCAs = []v1alpha1.AgentCA{{Root: s.Signer, Vault: ca}}
	}
}

// token puts a token of Vault into the agent's namespace.
func (w *world) token(value string) {
	w.t.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.agentNS, Name: "vault-token"}, StringData: map[string]string{"token": value}}
	_ = client.IgnoreNotFound(w.member.Delete(context.Background(), s.DeepCopy()))
	w.create(s)
}

func testVault(t *testing.T) {
	server := testenv.StartVault(t)
	root := server.PKI(t, "pki", "Root of Vault")
	token := server.SignerToken(t, "pki", "1h")
	ca := v1alpha1.VaultCA{
		Server: server.URL, CAPath: "pki/root/sign-intermediate", CABundle: server.CABundle, TokenSecretRef: &v1alpha1.LocalSecretRef{Name: "vault-token"},
	}
	equip := func(w *world, ca v1alpha1.VaultCA) func(*v1alpha1.IssuedCertificateSpec) {
		w.vault = &vault.Options{Servers: []string{server.URL}}
		w.token(token)
		return byVault(root, ca)
	}
	t.Run("crashes", func(t *testing.T) {
		crash(t, "vault-crash", 6, 0, func(w *world) func(*v1alpha1.IssuedCertificateSpec) { return equip(w, ca) })
	})
	t.Run("an exported key", func(t *testing.T) {
		w := newWorld(t, hubCluster, memberCluster, "vault-exported")
		exporting := ca
		exporting.CSRPath = "pki/intermediate/generate/exported"
		w.order(equip(w, exporting))
		p, k := w.start(-1)
		w.until(p, "adoption", finished)
		k.verify(t)
		w.settled(p, k)
	})
	t.Run("what is in use goes on being used", func(t *testing.T) { vaultAway(t, server, equip, root, ca, token) })
	t.Run("the report on Vault's root", func(t *testing.T) { vaultReport(t, server, root, ca) })
	t.Run("what is not what was ordered", func(t *testing.T) {
		w := newWorld(t, hubCluster, memberCluster, "vault-wrong")
		order := equip(w, ca)
		other := server.PKI(t, "pki_other", "Other root")
		w.order(func(s *v1alpha1.IssuedCertificateSpec) {
			order(s)
			byVault(other, ca)(s)
		})
		p, _ := w.start(-1)
		o := w.until(p, "refusal", func(o *v1alpha1.IssuedCertificate) bool { return reason(o) == vault.ReasonRootChanged })
		if w.cacerts() != nil || !strings.Contains(o.Status.Error, other.ID().Short()) {
			t.Errorf("status %+v", o.Status)
		}
	})
}

// vaultAway: whatever becomes of Vault, a mesh keeps what it has, the order says what is wrong, and when that is over the renewal
// that has waited comes.
func vaultAway(t *testing.T, server *testenv.Vault, equip func(*world, v1alpha1.VaultCA) func(*v1alpha1.IssuedCertificateSpec), root pki.Root, ca v1alpha1.VaultCA, token string) {
	w := newWorld(t, hubCluster, memberCluster, "vault-away")
	w.order(equip(w, ca))
	w.live = true
	var ahead time.Duration // of the agent's clock
	w.now = func() time.Time { return time.Now().Add(ahead) }
	p, k := w.start(-1)
	w.until(p, "adoption", finished)
	patience := func(timeout time.Duration) { // of the agent with Vault
		w.vault.Timeout = timeout
		p.requester.vault = w.newProcess(w.hub, w.member).requester.vault
	}
	issuance := int64(1)
	for _, tc := range []struct {
		name, reason  string
		lasts         time.Duration
		ends          func() // Vault
		isBack        func()
		orders, later func(*v1alpha1.IssuedCertificateSpec)
	}{
		{name: "sealed", reason: vault.ReasonSealed, ends: func() { server.Seal(t) }, isBack: func() { server.Unseal(t) }},
		{name: "gone for an hour", reason: vault.ReasonUnreachable, ends: server.Stop, lasts: time.Hour, isBack: func() { server.Start(t); server.Unseal(t) }},
		{name: "slow", reason: vault.ReasonUnreachable, ends: func() { server.Pause(t); patience(2 * time.Second) }, isBack: func() { server.Resume(); patience(0) }},
		{name: "wrong token", reason: vault.ReasonDenied, ends: func() { w.token("s.notone") }, isBack: func() { w.token(token) }},
		{name: "no token", reason: vault.ReasonCredentialMissing, ends: func() { w.token("") }, isBack: func() { w.token(token) }},
		{
			name: "not trusted", reason: vault.ReasonNotTrusted,
			orders: func(s *v1alpha1.IssuedCertificateSpec) { s.AgentCAs[0].Vault.CABundle = root.PEM() },
			later:  func(s *v1alpha1.IssuedCertificateSpec) { s.AgentCAs[0].Vault.CABundle = ca.CABundle },
		},
		{
			name: "a server that is not listed", reason: vault.ReasonServerNotAllowed,
			orders: func(s *v1alpha1.IssuedCertificateSpec) { s.AgentCAs[0].Vault.Server = "https://127.0.0.1:1" },
			later:  func(s *v1alpha1.IssuedCertificateSpec) { s.AgentCAs[0].Vault.Server = ca.Server },
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			defer w.as(t)()
			if tc.ends != nil {
				tc.ends()
			}
			before := w.cacerts()
			issuance++
			w.order(func(s *v1alpha1.IssuedCertificateSpec) {
				s.Issuance = issuance
				if tc.orders != nil {
					tc.orders(s)
				}
			})
			o := w.until(p, "complaint", func(o *v1alpha1.IssuedCertificate) bool { return reason(o) == tc.reason })
			if s := &o.Status; s.State != v1alpha1.IssuedCertificateFailed || s.Error == "" || s.Certificate == nil || s.Certificate.Issuance != issuance-1 {
				t.Errorf("status %+v", s)
			}
			if again, err := p.requester.Reconcile(context.Background(), ctrl.Request{NamespacedName: w.orderKey()}); err != nil || again.RequeueAfter == 0 || again.RequeueAfter > lastRetry {
				t.Errorf("tried again after %v, %v", again.RequeueAfter, err)
			}
			w.settled(p, k)
			if ahead += tc.lasts; tc.lasts > 0 {
				w.until(p, "complaint later", func(o *v1alpha1.IssuedCertificate) bool {
					return reason(o) == tc.reason && o.Status.Certificate.Issuance == issuance-1
				})
			}
			if now := w.cacerts(); now.ResourceVersion != before.ResourceVersion || !bytes.Equal(now.Data[pki.CAKeyKey], before.Data[pki.CAKeyKey]) {
				t.Error("cacerts was written")
			}
			if tc.isBack != nil {
				tc.isBack()
			}
			if tc.later != nil {
				w.order(tc.later)
			}
			w.until(p, "renewal", func(o *v1alpha1.IssuedCertificate) bool {
				return finished(o) && o.Status.Certificate.Issuance == issuance
			})
		})
	}
	if w.rolls != 1 {
		t.Errorf("istiod was restarted %d times", w.rolls)
	}
	k.verify(t)
}

// vaultReport: the Mesh says which root Vault has, and keeps saying so while that does not answer.
func vaultReport(t *testing.T, server *testenv.Vault, root pki.Root, ca v1alpha1.VaultCA) {
	ctx := context.Background()
	hubCluster.Namespace(t, v1alpha1.SystemNamespace, nil)
	hubCluster.Namespace(t, "isthmus-reported", nil)
	key := client.ObjectKey{Namespace: "isthmus-reported", Name: "istiod-istio-system-reported"}
	mesh := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}, Spec: v1alpha1.MeshSpec{
		Cluster: "reported", Istio: v1alpha1.IstioMesh{RootNamespace: "istio-system", TrustDomain: "cluster.local", IstiodServiceAccount: "istiod"},
	}}
	vm := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "reported"}}
	vm.Spec.Meshes = []v1alpha1.ObjectRef{{Namespace: key.Namespace, Name: key.Name}}
	vm.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{IntermediateCertificateAuthority: &v1alpha1.IntermediateCertificateAuthority{Vault: ca}}}
	for _, o := range []client.Object{mesh, vm} {
		if err := hubCluster.Client.Create(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	accept := func() {
		t.Helper()
		vm.Status.Accepted = &v1alpha1.AcceptedVirtualMesh{Generation: vm.Generation, Spec: *vm.Spec.DeepCopy()}
		if err := hubCluster.Client.Status().Update(ctx, vm); err != nil {
			t.Fatal(err)
		}
	}
	writes := 0
	cfg := *hubCluster.Config
	cfg.Wrap(func(rt http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.Method != http.MethodGet {
				writes++
			}
			return rt.RoundTrip(r)
		})
	})
	hub, err := client.New(&cfg, client.Options{Scheme: testenv.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	const agentNamespace = "reporting-agent"
	memberCluster.Namespace(t, agentNamespace, nil)
	c, err := vault.New(vault.Options{Servers: []string{server.URL}}, agentNamespace, memberCluster.Client, memberCluster.Client)
	if err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: agentNamespace, Name: ca.TokenSecretRef.Name}}
	if err := memberCluster.Client.Create(ctx, secret); err != nil {
		t.Fatal(err)
	}
	shows := func(token string) {
		t.Helper()
		secret.Data = map[string][]byte{"token": []byte(token)}
		if err := memberCluster.Client.Update(ctx, secret); err != nil {
			t.Fatal(err)
		}
	}
	token := server.SignerToken(t, "pki", "1h")
	shows(token)
	now := time.Now()
	r := &VaultReporter{Hub: hub, RootNamespaces: []string{"istio-system"}, Now: func() time.Time { return now }, vault: newVaultSigner(c)}
	look := func() (*v1alpha1.MeshVault, time.Duration) {
		t.Helper()
		again, err := r.Reconcile(ctx, ctrl.Request{NamespacedName: key})
		if err != nil {
			t.Fatal(err)
		}
		if err := hubCluster.Client.Get(ctx, key, mesh); err != nil {
			t.Fatal(err)
		}
		return mesh.Status.Vault, again.RequeueAfter
	}
	if v, again := look(); v != nil || again != 0 {
		t.Errorf("of a spec that was not accepted: %+v, again after %v", v, again)
	}
	accept()
	v, again := look()
	if v == nil || v.Root == nil || v.Root.Fingerprint != root.ID().String() || v.Reason != "" || v.VirtualMesh != "reported."+v1alpha1.SystemNamespace || again != rootReview {
		t.Fatalf("%+v, again after %v", v, again)
	}
	before := writes
	look()
	if writes != before {
		t.Error("written though nothing has changed")
	}
	// A token that has ended is told of though nothing has to be signed, beside the root, which is still there for all to see.
	well := func(when string) {
		t.Helper()
		if v, again := look(); v.Root == nil || v.Reason != "" || v.Message != "" || again != rootReview {
			t.Errorf("%s: %+v, again after %v", when, v, again)
		}
	}
	complains := func(when, reason, says, token string) {
		t.Helper()
		v, again := look()
		if v.Root == nil || v.Root.Fingerprint != root.ID().String() || v.Reason != reason || !strings.Contains(v.Message, says) || again == 0 || again > lastRetry {
			t.Errorf("%s: %+v, again after %v", when, v, again)
		}
		if strings.Contains(v.Message, token) {
			t.Errorf("%s: it has the token: %s", when, v.Message)
		}
	}
	server.Write(t, "auth/token/revoke", map[string]any{"token": token})
	now = now.Add(credentialReview - time.Second)
	well("revoked, and not looked at yet")
	now = now.Add(time.Second)
	complains("revoked", vault.ReasonDenied, "Secret "+agentNamespace+"/"+secret.Name, token)
	before = writes
	complains("revoked, as before", vault.ReasonDenied, "put a token that is valid", token)
	if writes != before {
		t.Error("written though nothing has changed")
	}
	token = server.SignerToken(t, "pki", "1h")
	shows(token)
	well("another token")
	server.Write(t, "auth/token/revoke", map[string]any{"token": token})
	by := func(name string) {
		t.Helper()
		vm.Spec.MTLSConfig.Shared.IntermediateCertificateAuthority.Vault.TokenSecretRef = &v1alpha1.LocalSecretRef{Name: name}
		if err := hubCluster.Client.Update(ctx, vm); err != nil {
			t.Fatal(err)
		}
		accept()
	}
	by("absent")
	complains("another Secret", vault.ReasonCredentialMissing, "there is no Secret "+agentNamespace+"/absent", token)
	by(secret.Name)
	complains("the former Secret", vault.ReasonDenied, "put a token that is valid", token)
	shows(server.SignerToken(t, "pki", "1h"))
	well("its token replaced")

	server.Seal(t)
	defer server.Unseal(t)
	if v, again := look(); v.Root == nil || v.Reason != vault.ReasonSealed || !strings.Contains(v.Message, "unseal") || again == 0 || again > lastRetry {
		t.Errorf("sealed: %+v, again after %v", v, again)
	}
	// What was found elsewhere is not what is asked for now.
	vm.Spec.MTLSConfig.Shared.IntermediateCertificateAuthority.Vault.CAPath = "pki_two/root/sign-intermediate"
	if err := hubCluster.Client.Update(ctx, vm); err != nil {
		t.Fatal(err)
	}
	accept()
	if v, _ := look(); v.Root != nil || v.CAPath != "pki_two/root/sign-intermediate" {
		t.Errorf("of another path: %+v", v)
	}
	vm.Spec.MTLSConfig = nil
	if err := hubCluster.Client.Update(ctx, vm); err != nil {
		t.Fatal(err)
	}
	accept()
	if v, again := look(); v != nil || again != 0 {
		t.Errorf("without Vault: %+v, again after %v", v, again)
	}
}
