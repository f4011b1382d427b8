package issuing_test

import (
	"context"
	"testing"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/hub/issuing"
	"github.com/isthmus-mesh/isthmus/internal/hub/roots"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// BenchmarkIssuing signs requests one after the other as the hub does: every check, the signature under a root of 4096 bits,
// the record in the API server. A new issuance is ordered and requested outside of what is measured.
func BenchmarkIssuing(b *testing.B) {
	log.SetLogger(logr.Discard())
	env := testenv.Start(b)
	ctx := context.Background()
	c := env.Client
	mgr, err := ctrl.NewManager(env.Config, ctrl.Options{Scheme: testenv.Scheme(), Metrics: metricsserver.Options{BindAddress: "0"}})
	if err != nil {
		b.Fatal(err)
	}
	env.Namespace(b, v1alpha1.SystemNamespace, nil)
	env.Namespace(b, "isthmus-east", nil)
	store := roots.Store{Client: c, Reader: c, Namespace: v1alpha1.SystemNamespace, Now: time.Now}
	vm := types.NamespacedName{Namespace: v1alpha1.SystemNamespace, Name: "one"}
	root, err := pki.NewRoot(pkitest.RSAKey(b, pki.DefaultKeyBits), pki.RootOptions{Organization: "isthmus", VirtualMesh: "one", Generation: 1, TTL: 24 * time.Hour}, time.Now())
	if err != nil {
		b.Fatal(err)
	}
	if err := store.Create(ctx, vm, roots.Root{Generation: 1, Material: root, Source: accept.SourceOf(accept.TrustOf(&v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{}}), "", "")}); err != nil {
		b.Fatal(err)
	}
	order := &v1alpha1.IssuedCertificate{
		ObjectMeta: metav1.ObjectMeta{Name: "m", Namespace: "isthmus-east"},
		Spec: v1alpha1.IssuedCertificateSpec{
			VirtualMesh: v1alpha1.ObjectRef{Name: vm.Name, Namespace: vm.Namespace}, Issuance: 1,
			Hosts: []string{"spiffe://cluster.local/ns/istio-system/sa/istiod"}, CertOptions: accept.IntermediateOptions(nil),
			Signer:                  root.Root.ID().String(),
			Roots:                   []v1alpha1.RootCertificate{{Fingerprint: root.Root.ID().String(), Certificate: string(root.Root.PEM())}},
			IssuedCertificateSecret: v1alpha1.SecretRef{Name: "cacerts", Namespace: "istio-system"},
		},
	}
	for _, o := range []client.Object{order, &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Name: "east", Namespace: v1alpha1.SystemNamespace}}} {
		if err := c.Create(ctx, o); err != nil {
			b.Fatal(err)
		}
	}
	r := &issuing.Reconciler{Client: c, Reader: c, Events: mgr.GetEventRecorder("bench"), Roots: store, Namespace: v1alpha1.SystemNamespace, Now: time.Now}
	for b.Loop() {
		b.StopTimer()
		cr := next(b, c, order)
		b.StartTimer()
		if _, err := r.Reconcile(ctx, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(cr)}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := c.Get(ctx, client.ObjectKeyFromObject(cr), cr); err != nil || cr.Status.State != v1alpha1.CertificateRequestFinished {
			b.Fatal(err, cr.Status)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "signatures/s")
}

// next orders and requests another intermediate.
func next(b *testing.B, c client.Client, order *v1alpha1.IssuedCertificate) *v1alpha1.CertificateRequest {
	b.Helper()
	order.Spec.Issuance++
	if err := c.Update(context.Background(), order); err != nil {
		b.Fatal(err)
	}
	key := pkitest.ECKey(b)
	csr, err := pki.NewRequest(key, "", "")
	if err != nil {
		b.Fatal(err)
	}
	name, err := pki.PublicKeyName(key.Public())
	if err != nil {
		b.Fatal(err)
	}
	cr := &v1alpha1.CertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Name: kube.RequestName(order.Name, name), Namespace: order.Namespace},
		Spec:       v1alpha1.CertificateRequestSpec{IssuedCertificate: order.Name, Issuance: order.Spec.Issuance, CertificateSigningRequest: string(csr)},
	}
	if err := c.Create(context.Background(), cr); err != nil {
		b.Fatal(err)
	}
	return cr
}
