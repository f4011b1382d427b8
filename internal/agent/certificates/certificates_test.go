package certificates

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// The two API servers that the cases share; each case has its own cluster name and with it its own namespaces.
var hubCluster, memberCluster *testenv.Cluster

func TestCertificates(t *testing.T) {
	hubCluster, memberCluster = testenv.Start(t), testenv.Start(t)
	t.Run("first adoption", testFirstAdoption)
	t.Run("crashes", testCrash)
	t.Run("a CA of somebody else", testForeignCA)
	t.Run("restart by hand", testRestartPending)
	t.Run("istiod that does not follow", testNotUsed)
	t.Run("workloads", testWorkloads)
	t.Run("a lost key", testKeyLost)
	t.Run("bad orders", testBadOrders)
	t.Run("rotation", testRotation)
	t.Run("re-issued root", testReissuedRoot)
	t.Run("proxy on its way out", testLeavingProxy)
	t.Run("Vault", testVault)
}

// writes is a transport that counts the writes of a process, checks the world after each, and ends the process after the
// n-th, before it hears of its success; n < 0 means never.
type writes struct {
	n     int
	done  []string
	check func() error
	err   error // the first that check returned
}

var errEnded = errors.New("the process has ended")

func (k *writes) client(t *testing.T, cfg *rest.Config) client.Client {
	t.Helper()
	cfg = rest.CopyConfig(cfg)
	cfg.Wrap(func(rt http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if k.n >= 0 && len(k.done) >= k.n {
				return nil, errEnded
			}
			resp, err := rt.RoundTrip(r)
			if err != nil || r.Method == http.MethodGet || resp.StatusCode >= 300 {
				return resp, err
			}
			k.done = append(k.done, r.Method+" "+strings.TrimPrefix(r.URL.Path, "/apis/"))
			if err := k.check(); err != nil && k.err == nil {
				k.err = fmt.Errorf("after write %d (%s): %w", len(k.done), k.done[len(k.done)-1], err)
			}
			if len(k.done) == k.n {
				_ = resp.Body.Close()
				return nil, errEnded
			}
			return resp, nil
		})
	})
	c, err := client.New(cfg, client.Options{Scheme: testenv.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// start starts a process that ends after its n-th write.
func (w *world) start(n int) (*process, *writes) {
	w.t.Helper()
	k := &writes{n: n, check: w.invariants}
	return w.newProcess(k.client(w.t, hubCluster.Config), k.client(w.t, memberCluster.Config)), k
}

func (k *writes) verify(t *testing.T) {
	t.Helper()
	if k.err != nil {
		t.Fatal(k.err)
	}
}

// settled makes sure that a process has nothing left to write.
func (w *world) settled(p *process, k *writes) {
	w.t.Helper()
	before := len(k.done)
	for range 2 {
		if err := w.round(context.Background(), p); err != nil {
			w.t.Fatal(err)
		}
	}
	if len(k.done) != before {
		w.t.Fatalf("written though nothing changed: %v", k.done[before:])
	}
}

func testFirstAdoption(t *testing.T) {
	hub, member := hubCluster, memberCluster
	w := newWorld(t, hub, member, "first")
	mesh := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: w.orderKey().Namespace, Name: w.mesh()}, Spec: v1alpha1.MeshSpec{
		Cluster: "first", Istio: v1alpha1.IstioMesh{RootNamespace: w.rootNS, TrustDomain: "cluster.local", IstiodServiceAccount: "istiod"},
	}}
	if err := hub.Client.Create(context.Background(), mesh); err != nil {
		t.Fatal(err)
	}
	w.create(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.rootNS, Name: selfSignedSecret},
		Data:       w.selfSigned.SelfSignedSecret(t),
	})
	authority := func() *v1alpha1.MeshCertificateAuthority {
		t.Helper()
		if err := hub.Client.Get(context.Background(), w.orderKey(), mesh); err != nil {
			t.Fatal(err)
		}
		return mesh.Status.CertificateAuthority
	}
	p, k := w.start(-1)
	if _, err := p.authority.Reconcile(context.Background(), ctrl.Request{NamespacedName: w.orderKey()}); err != nil {
		t.Fatal(err)
	}
	self := w.selfSigned.Root().ID().String()
	if a := authority(); a == nil || a.Source != v1alpha1.CASourceSelfSigned || a.Signer != self || len(a.InUse) != 1 || a.InUse[0] != self {
		t.Fatalf("before: %+v", a)
	}

	w.order(nil)
	o := w.until(p, "first adoption", finished)
	k.verify(t)
	s := w.cacerts()
	if s.Type != v1alpha1.SecretTypeIntermediate || len(s.Data) != 4 || s.Labels[v1alpha1.LabelManagedBy] == "" {
		t.Fatalf("cacerts: type %s, labels %v", s.Type, s.Labels)
	}
	c := o.Status.Certificate
	if c.Issuance != 1 || c.Signer != o.Spec.Signer || len(c.Roots) != 1 || c.Roots[0] != o.Spec.Signer {
		t.Fatalf("certificate = %+v", c)
	}
	if r := o.Status.ControlPlane.Replicas; len(r) != 1 || r[0].Signer != o.Spec.Signer || r[0].Intermediate != c.Fingerprint {
		t.Fatalf("replicas = %+v", r)
	}
	if !meta.IsStatusConditionTrue(o.Status.Conditions, v1alpha1.ConditionReady) {
		t.Fatalf("conditions = %+v", o.Status.Conditions)
	}
	if a := authority(); a.Source != v1alpha1.CASourceIsthmus || a.VirtualMesh != "vm.isthmus-system" || a.Signer != o.Spec.Signer || a.InUse[0] != o.Spec.Signer {
		t.Fatalf("after: %+v", a)
	}
	w.settled(p, k)

	t.Run("another process writes nothing", func(t *testing.T) {
		defer w.as(t)()
		p, k := w.start(-1)
		w.settled(p, k)
	})
	t.Run("cacerts deleted or edited by hand is put back", func(t *testing.T) {
		defer w.as(t)()
		want := w.cacerts().Data
		if err := member.Client.Delete(context.Background(), w.cacerts()); err != nil {
			t.Fatal(err)
		}
		w.existed = false
		w.until(p, "put back", func(*v1alpha1.IssuedCertificate) bool { return w.cacerts() != nil })
		edited := w.cacerts()
		edited.Data[pki.RootCertKey] = w.selfSigned.PEM()
		edited.Data["more"] = []byte("x")
		if err := member.Client.Update(context.Background(), edited); err != nil {
			t.Fatal(err)
		}
		w.until(p, "put right", func(*v1alpha1.IssuedCertificate) bool { return maps.EqualFunc(w.cacerts().Data, want, bytes.Equal) })
	})
	t.Run("renewal goes live, without a restart", func(t *testing.T) {
		defer w.as(t)()
		w.live = true
		rolls := w.rolls
		w.order(func(s *v1alpha1.IssuedCertificateSpec) { s.Issuance = 2 })
		o := w.until(p, "renewal", finished)
		if o.Status.Certificate.Issuance != 2 || w.rolls != rolls {
			t.Fatalf("issuance %d, istiod was restarted %d times", o.Status.Certificate.Issuance, w.rolls-rolls)
		}
		w.settled(p, k)
	})
	t.Run("suspended: nothing changes", func(t *testing.T) {
		defer w.as(t)()
		w.order(func(s *v1alpha1.IssuedCertificateSpec) { s.Suspend, s.Issuance = true, 3 })
		before := w.cacerts()
		edited := before.DeepCopy()
		edited.Labels["hand"] = "made"
		edited.Data[pki.CertChainKey] = append(edited.Data[pki.CertChainKey], '\n')
		if err := member.Client.Update(context.Background(), edited); err != nil {
			t.Fatal(err)
		}
		w.until(p, "suspension", func(o *v1alpha1.IssuedCertificate) bool {
			return o.Status.ObservedGeneration == o.Generation && reason(o) == v1alpha1.ReasonSuspended
		})
		w.settled(p, k)
		if !bytes.Equal(w.cacerts().Data[pki.CertChainKey], edited.Data[pki.CertChainKey]) {
			t.Fatal("cacerts was written")
		}
		w.order(func(s *v1alpha1.IssuedCertificateSpec) { s.Suspend = false })
		w.until(p, "resumption", func(o *v1alpha1.IssuedCertificate) bool { return finished(o) && o.Status.Certificate.Issuance == 3 })
	})
	k.verify(t)
}

func testCrash(t *testing.T) {
	crash(t, "crash", 8, 2, func(*world) func(*v1alpha1.IssuedCertificateSpec) { return nil })
}

// crash ends the agent after each of its writes in turn, of a first adoption and of a renewal, and starts another. They are
// so many at least, and as many requests of the hub. equip makes a world ready and says what is ordered there.
func crash(t *testing.T, prefix string, writes, requests int, equip func(*world) func(*v1alpha1.IssuedCertificateSpec)) {
	hub, member := hubCluster, memberCluster
	run := func(t *testing.T, name string, n int) int {
		w := newWorld(t, hub, member, name)
		w.order(equip(w))
		p, k := w.start(n)
		total := 0
		for issuance := int64(1); issuance <= 2; issuance++ {
			w.live = issuance > 1
			w.order(func(s *v1alpha1.IssuedCertificateSpec) { s.Issuance = issuance })
			for rounds := 0; ; rounds++ {
				err := w.round(context.Background(), p)
				k.verify(t)
				if o := w.getOrder(); err == nil && finished(o) && o.Status.Certificate.Issuance == issuance {
					break
				}
				if rounds > 60 {
					t.Fatalf("no end: %v", err)
				}
				if len(k.done) == k.n {
					total += k.n
					p, k = w.start(-1)
				}
			}
		}
		w.settled(p, k)
		if n >= 0 && total != n {
			t.Fatalf("the process wrote %d times and was not ended after %d", len(k.done), n)
		}
		var requested v1alpha1.CertificateRequestList
		if err := hub.Client.List(context.Background(), &requested, client.InNamespace(w.orderKey().Namespace)); err != nil {
			t.Fatal(err)
		}
		if len(requested.Items) != requests {
			t.Fatalf("%d requests for 2 issuances", len(requested.Items))
		}
		var secrets corev1.SecretList
		if err := member.Client.List(context.Background(), &secrets, client.InNamespace(w.agentNS), client.HasLabels{v1alpha1.LabelManagedBy}); err != nil {
			t.Fatal(err)
		}
		if len(secrets.Items) != 1 {
			t.Fatalf("%d Secrets are left, want only %s…", len(secrets.Items), WantedPrefix)
		}
		return len(k.done)
	}
	total := run(t, prefix+"-never", -1)
	if total < writes {
		t.Fatalf("%d writes in all: the test does not see them", total)
	}
	for n := 1; n < total; n++ {
		t.Run(fmt.Sprintf("after write %d of %d", n, total), func(t *testing.T) { run(t, fmt.Sprintf("%s-%d", prefix, n), n) })
	}
}

func testForeignCA(t *testing.T) {
	hub, member := hubCluster, memberCluster
	other := pkitest.NewRoot(t, "theirs", time.Now()).Intermediate(t, "theirs")
	secret := func(w *world, edit func(*corev1.Secret)) {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.rootNS, Name: CACertsName}, Data: other.IstioSecret(t)}
		if edit != nil {
			edit(s)
		}
		w.create(s)
	}
	stalls := func(t *testing.T, name, wantReason, remedy string, adopt bool, edit func(*corev1.Secret)) *world {
		t.Helper()
		w := newWorld(t, hub, member, name)
		secret(w, edit)
		before := w.cacerts()
		w.order(func(s *v1alpha1.IssuedCertificateSpec) { s.AdoptExistingCA = adopt })
		p, k := w.start(-1)
		o := w.until(p, name, func(o *v1alpha1.IssuedCertificate) bool { return reason(o) == wantReason })
		if o.Status.State != v1alpha1.IssuedCertificateFailed || !strings.Contains(o.Status.Error, remedy) ||
			!meta.IsStatusConditionTrue(o.Status.Conditions, v1alpha1.ConditionStalled) {
			t.Fatalf("status = %+v", o.Status)
		}
		w.settled(p, k)
		if w.cacerts().ResourceVersion != before.ResourceVersion {
			t.Fatal("cacerts was written")
		}
		return w
	}
	t.Run("is left alone, and replaced when that is allowed", func(t *testing.T) {
		w := stalls(t, "foreign", ReasonForeignCA, "adoptExistingCA", false, nil)
		w.order(func(s *v1alpha1.IssuedCertificateSpec) { s.AdoptExistingCA = true })
		p, _ := w.start(-1)
		w.until(p, "adoption", finished)
		if w.cacerts().Type != corev1.SecretTypeOpaque {
			t.Fatal("the type was changed")
		}
	})
	t.Run("made by an older generation is replaced", func(t *testing.T) {
		w := newWorld(t, hub, member, "predecessor")
		secret(w, func(s *corev1.Secret) { s.Type, s.Data["key.pem"] = "solo.io/ca-intermediate", []byte{} })
		w.order(func(s *v1alpha1.IssuedCertificateSpec) { s.AdoptExistingCA = true })
		p, k := w.start(-1)
		w.until(p, "adoption", finished)
		k.verify(t)
		if s := w.cacerts(); s.Type != "solo.io/ca-intermediate" || len(s.Data) != 4 {
			t.Fatalf("type %s, %d files", s.Type, len(s.Data))
		}
	})
	t.Run("made by istiod itself is replaced", func(t *testing.T) {
		w := newWorld(t, hub, member, "generated")
		secret(w, func(s *corev1.Secret) { s.Data[pki.IstioGeneratedKey] = []byte{} })
		w.order(nil)
		p, k := w.start(-1)
		w.until(p, "adoption", finished)
		k.verify(t)
		if _, ok := w.cacerts().Data[pki.IstioGeneratedKey]; ok {
			t.Fatal(pki.IstioGeneratedKey + " is still there")
		}
	})
	t.Run("with revocation lists that do not cover the new chain", func(t *testing.T) {
		stalls(t, "crl", ReasonCannotKeepCRL, pki.CACRLKey, true, func(s *corev1.Secret) {
			s.Data[pki.CACRLKey] = append(revocationList(t, other), revocationList(t, other.Parent)...)
		})
	})
	t.Run("of type kubernetes.io/tls", func(t *testing.T) {
		stalls(t, "tls", ReasonSecretType, "Opaque", true, func(s *corev1.Secret) {
			s.Type, s.Data = corev1.SecretTypeTLS, other.CertManagerSecret(t)
		})
	})
}

func testRestartPending(t *testing.T) {
	hub, member := hubCluster, memberCluster
	w := newWorld(t, hub, member, "pending")
	w.order(func(s *v1alpha1.IssuedCertificateSpec) { s.AutoRestartPods = false })
	p, k := w.start(-1)
	w.until(p, "the notice", func(o *v1alpha1.IssuedCertificate) bool {
		c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConditionRestartPending)
		return c != nil && strings.Contains(c.Message, "meshctl mesh restart "+w.mesh()) && o.Status.State == v1alpha1.IssuedCertificateIssued
	})
	w.settled(p, k)
	d := w.deployment()
	d.Spec.Template.Annotations = map[string]string{"kubectl.kubernetes.io/restartedAt": "now"}
	if err := member.Client.Update(context.Background(), d); err != nil {
		t.Fatal(err)
	}
	o := w.until(p, "istiod restarted by hand", finished)
	if meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConditionRestartPending) != nil {
		t.Fatal("RestartPending is still there")
	}
}

// testNotUsed has an istiod that ignores cacerts: it is restarted once, and then it is said.
func testNotUsed(t *testing.T) {
	w := newWorld(t, hubCluster, memberCluster, "unused")
	w.neverAdopts = true
	var ahead time.Duration
	w.now = func() time.Time { return time.Now().Add(ahead) }
	w.order(nil)
	p, k := w.start(-1)
	w.until(p, "the restart", func(*v1alpha1.IssuedCertificate) bool { return w.rolls == 1 })
	if err := w.round(context.Background(), p); err != nil {
		t.Fatal(err)
	}
	ahead = liveControlPlane + time.Second
	w.until(p, "the notice", func(o *v1alpha1.IssuedCertificate) bool { return reason(o) == ReasonNotUsed })
	w.settled(p, k)
	if w.rolls != 1 {
		t.Fatalf("istiod was restarted %d times", w.rolls)
	}
}

// testWorkloads restarts what still has a leaf under the old root, and only that.
func testWorkloads(t *testing.T) {
	hub, member := hubCluster, memberCluster
	w := newWorld(t, hub, member, "workloads")
	old, err := pki.ReadCACerts(w.selfSigned.SelfSignedSecret(t), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	fresh := pki.CACerts{Material: w.root}
	w.workload("behind", "sidecar", old, time.Now().Add(-time.Hour))
	w.workload("ahead", "sidecar", fresh, time.Now().Add(-time.Hour))
	w.workload("gateway", "router", old, time.Now().Add(-time.Hour))
	w.order(nil)
	p, k := w.start(-1)
	o := w.until(p, "the gateway's restart", func(*v1alpha1.IssuedCertificate) bool { return w.restarted("gateway") })
	if w.restarted("behind") || w.restarted("ahead") {
		t.Fatal("a workload was restarted before the gateway was ready")
	}
	if o.Status.State != v1alpha1.IssuedCertificateFinished {
		t.Fatalf("restarted while %s", o.Status.State)
	}
	w.rollWorkload("gateway", "router", fresh)
	w.until(p, "the workload's restart", func(*v1alpha1.IssuedCertificate) bool { return w.restarted("behind") })
	w.rollWorkload("behind", "sidecar", fresh)
	o = w.until(p, "the end", func(o *v1alpha1.IssuedCertificate) bool {
		return meta.IsStatusConditionTrue(o.Status.Conditions, v1alpha1.ConditionReady)
	})
	if e := o.Status.Proxies; e.Total != 3 || e.SignedByNew != 3 || e.Unknown != 0 {
		t.Fatalf("proxies = %+v", e)
	}
	if w.restarted("ahead") {
		t.Fatal("a workload that needed none was restarted")
	}
	w.settled(p, k)
	k.verify(t)
}

func testKeyLost(t *testing.T) {
	hub, member := hubCluster, memberCluster
	w := newWorld(t, hub, member, "lost")
	w.signerPaused = true
	w.order(nil)
	p, k := w.start(-1)
	w.until(p, "the request", func(o *v1alpha1.IssuedCertificate) bool { return o.Status.State == v1alpha1.IssuedCertificateRequested })
	w.signerPaused = false
	w.sign()
	key := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.agentNS, Name: pendingName(w.mesh(), 1)}}
	if err := member.Client.Delete(context.Background(), key); err != nil {
		t.Fatal(err)
	}
	w.until(p, "the loss", func(o *v1alpha1.IssuedCertificate) bool { return o.Status.KeyLost == 1 && reason(o) == ReasonKeyLost })
	w.settled(p, k)
	w.order(func(s *v1alpha1.IssuedCertificateSpec) { s.Issuance = 2 })
	o := w.until(p, "the next issuance", finished)
	if o.Status.KeyLost != 0 || o.Status.Certificate.Issuance != 2 {
		t.Fatalf("status = %+v", o.Status)
	}
	k.verify(t)
}

func testBadOrders(t *testing.T) {
	hub, member := hubCluster, memberCluster
	w := newWorld(t, hub, member, "bad")
	p, _ := w.start(-1)
	thief := pkitest.NewRoot(t, "thief", time.Now()).Root()
	thiefs := func(s *v1alpha1.IssuedCertificateSpec) {
		s.Roots = append(s.Roots, v1alpha1.RootCertificate{Fingerprint: thief.ID().String(), Certificate: string(thief.PEM())})
	}
	for what, edit := range map[string]func(*v1alpha1.IssuedCertificateSpec){
		"a root that nobody has": thiefs,
		"a root with which the mesh did not come": func(s *v1alpha1.IssuedCertificateSpec) {
			thiefs(s)
			s.Rotation = &v1alpha1.OrderRotation{
				RotationID: "r1", Step: v1alpha1.StepAddingNewRoot, Old: thief.ID().String(), New: s.Signer, Stage: v1alpha1.StageNewSigns, Alone: true,
			}
		},
		"another Secret":            func(s *v1alpha1.IssuedCertificateSpec) { s.IssuedCertificateSecret.Name = "istio-ca-secret" },
		"another namespace":         func(s *v1alpha1.IssuedCertificateSpec) { s.IssuedCertificateSecret.Namespace = "kube-system" },
		"a root that is none":       func(s *v1alpha1.IssuedCertificateSpec) { s.Roots[0].Certificate = "hello" },
		"a root of another's print": func(s *v1alpha1.IssuedCertificateSpec) { s.Roots[0].Certificate = string(w.selfSigned.PEM()) },
	} {
		var saved v1alpha1.IssuedCertificateSpec
		w.order(func(s *v1alpha1.IssuedCertificateSpec) { saved = *s.DeepCopy(); edit(s) })
		w.until(p, what, func(o *v1alpha1.IssuedCertificate) bool {
			return reason(o) == ReasonInvalidOrder && o.Status.ObservedGeneration == o.Generation
		})
		if w.cacerts() != nil {
			t.Fatal("cacerts was written")
		}
		w.order(func(s *v1alpha1.IssuedCertificateSpec) { *s = saved })
	}
	w.until(p, "the good order", finished)
	w.order(thiefs)
	w.until(p, "one more root", func(o *v1alpha1.IssuedCertificate) bool {
		return reason(o) == ReasonInvalidOrder && o.Status.ObservedGeneration == o.Generation
	})
	if bytes.Contains(w.cacerts().Data[pki.RootCertKey], thief.PEM()) {
		t.Error("the thief's root is in cacerts")
	}
}

func reason(o *v1alpha1.IssuedCertificate) string {
	if c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConditionReady); c != nil {
		return c.Reason
	}
	return ""
}

func revocationList(t *testing.T, ca *pkitest.CA) []byte {
	t.Helper()
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}, ca.Cert, ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}
