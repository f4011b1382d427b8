package attacks

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"net"
	"net/url"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// TestStolenAgentCredential: the credential of west's agent is in the wrong hands.
func TestStolenAgentCredential(t *testing.T) {
	w := start(t)
	ctx := context.Background()
	east, west := kube.ClusterNamespace("east"), kube.ClusterNamespace("west")

	t.Run("an honest agent gets its intermediate, with nothing in it that it asked for but its key", func(t *testing.T) {
		key := pkitest.ECKey(t)
		foreign, err := url.Parse("spiffe://cluster.local/ns/istio-system/sa/somebody-else")
		must(t, err)
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
			Subject:     pkix.Name{CommonName: "east", Organization: []string{"Evil"}},
			DNSNames:    []string{"kubernetes.default.svc"},
			IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)},
			URIs:        []*url.URL{foreign},
			ExtraExtensions: []pkix.Extension{
				{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: mustMarshal(t, struct {
					CA  bool
					Len int
				}{true, 5})},
				{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Value: []byte{5, 0}},
			},
		}, key)
		must(t, err)
		order := w.order(t, "west")
		cr := request(t, "west", order.Spec.Issuance, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
		must(t, w.west.Create(ctx, cr))
		answer := w.answer(t, cr)
		if answer.State != v1alpha1.CertificateRequestFinished {
			t.Fatalf("answer: %+v", answer)
		}
		block, _ := pem.Decode([]byte(answer.SignedCertificate))
		cert, err := x509.ParseCertificate(block.Bytes)
		must(t, err)
		if len(cert.URIs) != 1 || cert.URIs[0].String() != "spiffe://cluster.local/ns/istio-system/sa/istiod" {
			t.Errorf("URI SANs: %v", cert.URIs)
		}
		if len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) != 0 {
			t.Errorf("SANs: %v %v %v", cert.DNSNames, cert.IPAddresses, cert.EmailAddresses)
		}
		if !cert.IsCA || cert.MaxPathLen != 0 || !cert.MaxPathLenZero {
			t.Errorf("CA %v, path length %d", cert.IsCA, cert.MaxPathLen)
		}
		if strings.Contains(cert.Subject.String(), "Evil") || strings.Contains(cert.Subject.String(), "east") {
			t.Errorf("subject: %s", cert.Subject)
		}
		for _, e := range cert.Extensions {
			if e.Id.Equal(asn1.ObjectIdentifier{1, 2, 3, 4}) {
				t.Error("an extension of the request is in the certificate")
			}
		}
		if !key.Public().(*ecdsa.PublicKey).Equal(cert.PublicKey) {
			t.Error("another key was signed")
		}
	})

	t.Run("a second signature for one order", func(t *testing.T) {
		key := pkitest.ECKey(t)
		cr := request(t, "west", w.order(t, "west").Spec.Issuance, key, nil)
		must(t, w.west.Create(ctx, cr))
		if answer := w.answer(t, cr); answer.State != v1alpha1.CertificateRequestFailed || answer.SignedCertificate != "" {
			t.Fatalf("answer: %+v", answer)
		}
		// Nor by an issuance that was not ordered.
		cr = request(t, "west", w.order(t, "west").Spec.Issuance+1, pkitest.ECKey(t), nil)
		must(t, w.west.Create(ctx, cr))
		if answer := w.answer(t, cr); answer.State == v1alpha1.CertificateRequestFinished || answer.SignedCertificate != "" {
			t.Fatalf("answer: %+v", answer)
		}
		// Nor by making room for it.
		var all v1alpha1.CertificateRequestList
		must(t, w.west.List(ctx, &all, client.InNamespace(west)))
		for i := range all.Items {
			refused(t, w.west.Delete(ctx, &all.Items[i]))
			all.Items[i].Spec.Issuance++
			refused(t, w.west.Update(ctx, &all.Items[i]))
		}
		refused(t, w.west.DeleteAllOf(ctx, &v1alpha1.CertificateRequest{}, client.InNamespace(west)))
	})

	t.Run("a record that goes with its owner", func(t *testing.T) {
		workload := &v1alpha1.Workload{
			ObjectMeta: metav1.ObjectMeta{Name: "mine", Namespace: west},
			Spec: v1alpha1.WorkloadSpec{
				Cluster: "west", Mesh: kube.MeshName("istio-system", "west"),
				Controller: v1alpha1.ControllerRef{Kind: "Deployment", Name: "mine", Namespace: "default"},
			},
		}
		must(t, w.west.Create(ctx, workload))
		kind := v1alpha1.GroupVersion.String()
		for name, owner := range map[string]metav1.OwnerReference{
			"one of its own":      {APIVersion: kind, Kind: "Workload", Name: workload.Name, UID: workload.UID},
			"one that is not":     {APIVersion: kind, Kind: "Workload", Name: "gone", UID: "0"},
			"one of no namespace": {APIVersion: "v1", Kind: "Namespace", Name: "gone", UID: "0"},
		} {
			cr := request(t, "west", w.order(t, "west").Spec.Issuance, pkitest.ECKey(t), nil)
			must(t, w.west.Create(ctx, cr.DeepCopy(), client.DryRunAll)) // without an owner it is honest
			cr.OwnerReferences = []metav1.OwnerReference{owner}
			refusedByPolicy(t, w.west.Create(ctx, cr))
			own := workload.DeepCopy()
			own.OwnerReferences = cr.OwnerReferences
			refusedByPolicy(t, w.west.Update(ctx, own))
			// Who is not an agent may set it, as by a policy that is missing. The hub signs nothing for it.
			must(t, w.admin.Create(ctx, cr))
			if answer := w.answer(t, cr); answer.State != v1alpha1.CertificateRequestFailed || !strings.Contains(answer.Error, "ownerReferences") {
				t.Errorf("%s: answer: %+v", name, answer)
			}
		}
		workload.Labels = map[string]string{"app": "mine"}
		must(t, w.west.Update(ctx, workload)) // and so is a change of anything else
	})

	t.Run("another mesh's intermediate", func(t *testing.T) {
		// In the other's namespace.
		cr := request(t, "east", w.order(t, "east").Spec.Issuance, pkitest.ECKey(t), nil)
		refused(t, w.west.Create(ctx, cr))
		// In its own namespace, for the other's order.
		key := pkitest.ECKey(t)
		cr = request(t, "east", w.order(t, "east").Spec.Issuance, key, nil)
		cr.Namespace = west
		must(t, w.west.Create(ctx, cr))
		if answer := w.answer(t, cr); answer.SignedCertificate != "" || answer.State == v1alpha1.CertificateRequestFinished {
			t.Fatalf("answer: %+v", answer)
		}
		// The honest one.
		cr = request(t, "east", w.order(t, "east").Spec.Issuance, pkitest.ECKey(t), nil)
		must(t, w.east.Create(ctx, cr))
		if answer := w.answer(t, cr); answer.State != v1alpha1.CertificateRequestFinished {
			t.Fatalf("answer: %+v", answer)
		}
	})

	t.Run("a CertificateRequest's status", func(t *testing.T) {
		cr := request(t, "west", 77, pkitest.ECKey(t), nil)
		cr.Status.State = v1alpha1.CertificateRequestFinished
		must(t, w.west.Create(ctx, cr)) // status is dropped on creation
		cr.Status.State = v1alpha1.CertificateRequestFinished
		refused(t, w.west.Status().Update(ctx, cr))
		refused(t, w.west.Status().Patch(ctx, cr, client.RawPatch("application/merge-patch+json", []byte(`{"status":{"state":"FINISHED"}}`))))
		if answer := w.answer(t, cr); answer.State == v1alpha1.CertificateRequestFinished {
			t.Fatalf("answer: %+v", answer)
		}
	})

	t.Run("an IssuedCertificate", func(t *testing.T) {
		ic := w.order(t, "west")
		changed := ic.DeepCopy()
		changed.Spec.Issuance++
		changed.Spec.Hosts = []string{"spiffe://cluster.local/ns/istio-system/sa/east"}
		refused(t, w.west.Update(ctx, changed))
		refused(t, w.west.Delete(ctx, changed))
		other := ic.DeepCopy()
		other.ObjectMeta = metav1.ObjectMeta{Name: "mine", Namespace: west}
		refused(t, w.west.Create(ctx, other))
		// A write of the status changes nothing of the spec.
		changed = w.order(t, "west")
		changed.Spec.Issuance += 5
		changed.Status.State = v1alpha1.IssuedCertificateRequested
		must(t, w.west.Status().Update(ctx, changed))
		if now := w.order(t, "west"); now.Spec.Issuance != ic.Spec.Issuance || now.Status.State != v1alpha1.IssuedCertificateRequested {
			t.Fatalf("order: %+v", now)
		}
	})

	t.Run("objects of another cluster", func(t *testing.T) {
		mesh := &v1alpha1.Mesh{}
		must(t, w.west.Get(ctx, client.ObjectKey{Namespace: east, Name: kube.MeshName("istio-system", "east")}, mesh)) // reading is honest
		mesh.Spec.Istio.TrustDomain = "evil"
		refused(t, w.west.Update(ctx, mesh))
		refused(t, w.west.Status().Update(ctx, mesh))
		refused(t, w.west.Delete(ctx, mesh))
		d := &v1alpha1.Destination{ObjectMeta: metav1.ObjectMeta{Name: "ratings.default", Namespace: east}, Spec: v1alpha1.DestinationSpec{
			Cluster: "east", Mesh: mesh.Name, KubeService: v1alpha1.KubeService{Name: "ratings", Namespace: "default"},
		}}
		refused(t, w.west.Create(ctx, d))
		d.ObjectMeta = metav1.ObjectMeta{Name: "ratings.default", Namespace: west}
		refusedByPolicy(t, w.west.Create(ctx, d)) // it claims to be east's
		d.ObjectMeta, d.Spec.Cluster = metav1.ObjectMeta{Name: "ratings.default", Namespace: west}, "west"
		must(t, w.west.Create(ctx, d))
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.AgentName, Namespace: east}}
		refused(t, w.west.Create(ctx, lease))
		lease.ObjectMeta = metav1.ObjectMeta{Name: v1alpha1.AgentName, Namespace: west}
		must(t, w.west.Create(ctx, lease))
	})

	t.Run("a mesh name that is someone else's", func(t *testing.T) {
		stolen := meshOf("east")
		stolen.Namespace = west
		refusedByPolicy(t, w.west.Create(ctx, stolen))
		stolen = meshOf("east")
		stolen.Namespace, stolen.Spec.Cluster = west, "west"
		refusedByPolicy(t, w.west.Create(ctx, stolen))
		// A name that is honest and can be taken for the other's: what was accepted keeps its meaning.
		twin := meshOf("west")
		twin.Spec.Istio.RootNamespace = "istio-system-two"
		twin.Name = kube.MeshName("istio-system-two", "west")
		must(t, w.west.Create(ctx, twin))
		vm := &v1alpha1.VirtualMesh{}
		must(t, w.admin.Get(ctx, client.ObjectKey{Namespace: system, Name: "of-east"}, vm))
		if a := vm.Status.Accepted; a == nil || len(a.Spec.Meshes) != 1 || a.Spec.Meshes[0].Namespace != east {
			t.Fatalf("accepted: %+v", a)
		}
	})

	t.Run("a Secret of the hub", func(t *testing.T) {
		for _, ns := range []string{system, east, west} {
			refused(t, w.west.List(ctx, &corev1.SecretList{}, client.InNamespace(ns)))
		}
		refused(t, w.west.Get(ctx, client.ObjectKey{Namespace: system, Name: "of-west." + system + ".1"}, &corev1.Secret{}))
		refused(t, w.west.Get(ctx, client.ObjectKey{Namespace: west, Name: "isthmus-agent-credential"}, &corev1.Secret{}))
		refused(t, w.west.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: west}}))
		root := &corev1.Secret{}
		must(t, w.admin.Get(ctx, client.ObjectKey{Namespace: system, Name: "of-west." + system + ".1"}, root)) // it is there
	})

	t.Run("what users write", func(t *testing.T) {
		vm := &v1alpha1.VirtualMesh{}
		must(t, w.west.Get(ctx, client.ObjectKey{Namespace: system, Name: "of-west"}, vm)) // reading is honest
		vm.Spec.Suspend = true
		refused(t, w.west.Update(ctx, vm))
		refused(t, w.west.Status().Update(ctx, vm))
		refused(t, w.west.Create(ctx, virtualMesh("mine", "west")))
		refused(t, w.west.Create(ctx, &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Name: "third", Namespace: system}}))
		refused(t, w.west.Create(ctx, &v1alpha1.CertificateVerification{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: system}, Spec: v1alpha1.CertificateVerificationSpec{
			VirtualMesh: v1alpha1.ObjectRef{Name: "of-west"}, RotationID: "x", Step: v1alpha1.StepVerifying,
		}}))
	})

	t.Run("impersonation and rights", func(t *testing.T) {
		cfg := rest.AnonymousClientConfig(w.cfg)
		cfg.BearerToken = w.tokens[1]
		for _, user := range []string{"system:admin", "system:serviceaccount:" + east + ":" + v1alpha1.AgentName, "system:serviceaccount:" + system + ":isthmus-hub"} {
			as := rest.CopyConfig(cfg)
			as.Impersonate = rest.ImpersonationConfig{UserName: user}
			if _, err := client.New(as, client.Options{Scheme: testenv.Scheme()}); err == nil {
				refused(t, w.client(t, as).List(ctx, &v1alpha1.MeshList{}, client.InNamespace(west)))
			} else {
				refused(t, err)
			}
		}
		refused(t, w.west.Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: west},
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: v1alpha1.AgentName, Namespace: west}}}))
		refused(t, w.west.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: west}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "x", Image: "x"}}}}))
		refused(t, w.west.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: west}}))
	})

	t.Run("more rights than RBAC should have given do not reach beyond the namespace", func(t *testing.T) {
		must(t, w.admin.Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "mistake"}, Rules: []rbacv1.PolicyRule{{
			APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"*"}, Verbs: []string{"*"},
		}}}))
		binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "mistake"},
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "mistake"},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: v1alpha1.AgentName, Namespace: west}}}
		must(t, w.admin.Create(ctx, binding))
		defer func() { must(t, w.admin.Delete(ctx, binding)) }()
		testenv.Eventually(t, "the mistake", func() error { return w.west.List(ctx, &v1alpha1.KubernetesClusterList{}) })
		mesh := &v1alpha1.Mesh{}
		must(t, w.admin.Get(ctx, client.ObjectKey{Namespace: east, Name: kube.MeshName("istio-system", "east")}, mesh))
		refusedByPolicy(t, w.west.Status().Update(ctx, mesh))
		refusedByPolicy(t, w.west.Delete(ctx, mesh))
		refusedByPolicy(t, w.west.Create(ctx, virtualMesh("mine", "west")))
		ic := w.order(t, "west")
		ic.Spec.Issuance++
		refusedByPolicy(t, w.west.Update(ctx, ic))
		var all v1alpha1.CertificateRequestList
		must(t, w.west.List(ctx, &all, client.InNamespace(west)))
		refusedByPolicy(t, w.west.Delete(ctx, &all.Items[0]))
		refusedByPolicy(t, w.west.Status().Update(ctx, &all.Items[0]))
	})

	t.Run("tokens that outlive their revocation", func(t *testing.T) {
		ask := func(edit func(*authenticationv1.TokenRequest)) (string, error) {
			r := boundToken("isthmus-agent-credential")
			edit(r)
			err := w.west.SubResource("token").Create(ctx, serviceAccount("west"), r)
			return r.Status.Token, err
		}
		renewed, err := ask(func(*authenticationv1.TokenRequest) {}) // the honest renewal
		must(t, err)
		_, err = ask(func(r *authenticationv1.TokenRequest) { r.Spec.BoundObjectRef = nil })
		refusedByPolicy(t, err)
		_, err = ask(func(r *authenticationv1.TokenRequest) { r.Spec.BoundObjectRef.Name = "other" })
		refusedByPolicy(t, err)
		_, err = ask(func(r *authenticationv1.TokenRequest) { r.Spec.Audiences = []string{"vault"} })
		refusedByPolicy(t, err)
		_, err = ask(func(r *authenticationv1.TokenRequest) { r.Spec.ExpirationSeconds = new(int64(365 * 24 * 3600)) })
		refusedByPolicy(t, err)
		refused(t, w.west.SubResource("token").Create(ctx, serviceAccount("east"), boundToken("isthmus-agent-credential")))
		hubAccount := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "isthmus-hub", Namespace: system}}
		refused(t, w.west.SubResource("token").Create(ctx, hubAccount, boundToken("isthmus-agent-credential")))

		// Revocation: the Secret is deleted, the hub makes another, and neither the stolen token nor its offspring works.
		anchor := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "isthmus-agent-credential", Namespace: west}}
		must(t, w.admin.Get(ctx, client.ObjectKeyFromObject(anchor), anchor))
		uid := anchor.UID
		must(t, w.admin.Delete(ctx, anchor))
		testenv.Eventually(t, "another anchor", func() error {
			err := w.admin.Get(ctx, client.ObjectKeyFromObject(anchor), anchor)
			if err == nil && anchor.UID == uid {
				err = apierrors.NewNotFound(corev1.Resource("secrets"), "another")
			}
			return err
		})
		for _, token := range []string{w.tokens[1], renewed} {
			testenv.Eventually(t, "revocation", func() error {
				cfg := rest.AnonymousClientConfig(w.cfg)
				cfg.BearerToken = token
				c, err := client.New(cfg, client.Options{Scheme: testenv.Scheme()})
				if err == nil {
					err = c.List(ctx, &v1alpha1.MeshList{}, client.InNamespace(west))
				}
				if !apierrors.IsUnauthorized(err) {
					return apierrors.NewInternalError(errOf(err))
				}
				return nil
			})
		}
		w.west = w.agent(t, "west")
		must(t, w.west.List(ctx, &v1alpha1.MeshList{}, client.InNamespace(west)))
	})

	t.Run("no credential is in the hub's log", func(t *testing.T) {
		log := journal.String()
		if !strings.Contains(log, "Signed a certificate") {
			t.Fatal("the log is not the hub's")
		}
		for _, token := range w.tokens {
			if strings.Contains(log, token[len(token)-40:]) {
				t.Error("a token is in the log")
			}
		}
		if strings.Contains(log, "PRIVATE KEY") {
			t.Error("a private key is in the log")
		}
		for line := range strings.Lines(log) {
			if strings.Contains(line, "is forbidden") {
				t.Error("the hub lacks a right: ", line)
			}
		}
	})
}

func mustMarshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := asn1.Marshal(v)
	must(t, err)
	return b
}

// refusedByPolicy fails the test unless err comes from an admission policy.
func refusedByPolicy(t *testing.T, err error) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy") {
		t.Errorf("want it to be refused by an admission policy, got: %v", err)
	}
}

type text string

func (s text) Error() string { return string(s) }

func errOf(err error) error {
	if err == nil {
		return text("the token still works")
	}
	return err
}
