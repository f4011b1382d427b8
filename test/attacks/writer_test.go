package attacks

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// TestVirtualMeshWriter: somebody may write what users write in the hub's namespace, and read no Secret. By having the hub
// read Secrets for them they learn nothing of their content, and borrow no certificate authority that is not for them.
func TestVirtualMeshWriter(t *testing.T) {
	w := start(t)
	ctx := context.Background()
	refused(t, w.writer.List(ctx, &corev1.SecretList{}, client.InNamespace(system)))

	ca := pkitest.NewRoot(t, "elsewhere", time.Now())
	password := "correct-horse-battery-staple"
	secrets := map[string]*corev1.Secret{
		"another VirtualMesh's root":               nil, // made by the hub
		"a password":                               {ObjectMeta: metav1.ObjectMeta{Name: "password", Namespace: system}, Data: map[string][]byte{"password": []byte(password)}},
		"a password where a certificate should be": {ObjectMeta: metav1.ObjectMeta{Name: "disguised", Namespace: system}, Data: map[string][]byte{"root-cert.pem": []byte(password), "key.pem": []byte(password)}},
		"a Helm release":                           {ObjectMeta: metav1.ObjectMeta{Name: "sh.helm.release.v1.x.v1", Namespace: system}, Type: "helm.sh/release.v1", Data: map[string][]byte{"release": []byte(password)}},
		"a namespace that the hub may not read":    {ObjectMeta: metav1.ObjectMeta{Name: "authority", Namespace: "elsewhere"}, Data: ca.RootSecret(t)},
		"an agent's anchor":                        nil,
	}
	refs := map[string]v1alpha1.SecretRef{
		"another VirtualMesh's root": {Name: "of-east." + system + ".1"},
		"an agent's anchor":          {Name: "isthmus-agent-credential", Namespace: "isthmus-east"},
		"one that does not exist":    {Name: "nothing", Namespace: "elsewhere"},
	}
	for what, s := range secrets {
		if s != nil {
			must(t, w.admin.Create(ctx, s))
			refs[what] = v1alpha1.SecretRef{Name: s.Name, Namespace: s.Namespace}
		}
	}
	third := "third"
	must(t, w.admin.Create(ctx, &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Name: third, Namespace: system}}))
	mesh := meshOf(third)
	testenv.Eventually(t, "the mesh", func() error { return w.admin.Create(ctx, mesh) })
	mesh.Status.CertificateAuthority = &v1alpha1.MeshCertificateAuthority{Source: v1alpha1.CASourceSelfSigned}
	must(t, w.admin.Status().Update(ctx, mesh))

	messages := map[string]string{}
	vm := virtualMesh("borrower", third)
	for what, ref := range refs {
		t.Run(what, func(t *testing.T) {
			vm := virtualMesh("borrower-"+fmt.Sprint(len(messages)), third)
			vm.Spec.MTLSConfig.Shared.RootCertificateAuthority = &v1alpha1.RootCertificateAuthority{Secret: &ref}
			must(t, w.writer.Create(ctx, vm))
			testenv.Eventually(t, "verdict", func() error {
				if err := w.writer.Get(ctx, client.ObjectKeyFromObject(vm), vm); err != nil {
					return err
				}
				if vm.Status.State != v1alpha1.StateInvalid {
					return fmt.Errorf("status: %+v", vm.Status)
				}
				return nil
			})
			if a := vm.Status.Accepted; a != nil && a.Spec.MTLSConfig != nil {
				t.Errorf("accepted: %+v", a.Spec.MTLSConfig)
			}
			messages[what] = strings.ReplaceAll(strings.Join(vm.Status.Errors, "; "), ref.Name, "NAME")
			t.Log(messages[what])
			must(t, w.writer.Delete(ctx, vm))
		})
	}
	if a, b := messages["a namespace that the hub may not read"], messages["one that does not exist"]; a != b {
		t.Errorf("the messages tell whether a Secret exists that the hub may not read:\n%s\n%s", a, b)
	}

	t.Run("the honest one", func(t *testing.T) {
		must(t, w.admin.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "provided", Namespace: system}, Data: ca.RootSecret(t)}))
		vm.Spec.MTLSConfig.Shared.RootCertificateAuthority = &v1alpha1.RootCertificateAuthority{Secret: &v1alpha1.SecretRef{Name: "provided"}}
		must(t, w.writer.Create(ctx, vm))
		order := w.order(t, third)
		if order.Spec.Signer != ca.Root().ID().String() {
			t.Fatalf("signer %s", order.Spec.Signer)
		}
	})

	t.Run("nothing that the user can read holds a key or a foreign Secret", func(t *testing.T) {
		var all []byte
		dump := func(list client.ObjectList, what string) {
			must(t, w.admin.List(ctx, list))
			b, err := json.Marshal(list)
			must(t, err)
			if len(b) < 200 {
				t.Errorf("no %s to look at: %s", what, b)
			}
			all = append(all, b...)
		}
		for _, kind := range []string{"VirtualMesh", "KubernetesCluster", "Mesh", "IssuedCertificate"} {
			list := &unstructured.UnstructuredList{}
			list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind + "List"))
			dump(list, kind)
		}
		dump(&eventsv1.EventList{}, "events")
		all = append(all, journal.String()...)

		var roots corev1.SecretList
		must(t, w.admin.List(ctx, &roots, client.InNamespace(system)))
		keys := map[string][]byte{"the password": []byte(password), "the provided key": ca.KeyPEM(t)}
		// A private key holds its public key, which may well be read in a certificate.
		public := ca.PEM()
		for _, s := range roots.Items {
			if k := s.Data["ca-key.pem"]; k != nil {
				keys[s.Name] = k
				public = append(public, s.Data["ca-cert.pem"]...)
			}
		}
		if len(keys) < 5 {
			t.Fatalf("only %d secrets to look for", len(keys))
		}
		for name, key := range keys {
			for line := range bytes.SplitSeq(key, []byte("\n")) {
				if len(line) >= 20 && !bytes.HasPrefix(line, []byte("-----")) && bytes.Contains(all, line[:20]) && !bytes.Contains(public, line[:20]) {
					t.Errorf("%s leaks", name)
				}
			}
		}
	})
}
