package hub_test

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/hub/hubtest"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

func (w *world) remove(o client.Object) {
	w.Helper()
	if err := w.Delete(context.Background(), o); err != nil {
		w.Fatal(err)
	}
	testenv.Eventually(w, "deletion", func() error {
		if err := w.Get(context.Background(), client.ObjectKeyFromObject(o), o); !apierrors.IsNotFound(err) {
			return fmt.Errorf("%s is still there: %w", o.GetName(), cmp.Or(err, errors.New("found")))
		}
		return nil
	})
}

func TestRegistration(t *testing.T) {
	w := start(t)
	ctx := context.Background()
	w.register("east")

	w.run("the agent has an identity and rights", func(t *testing.T) {
		for _, o := range []client.Object{
			&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-east", Name: "isthmus-agent"}},
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-east", Name: "isthmus-agent-credential"}},
			&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-east", Name: "isthmus-agent"}},
			&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "isthmus-agent-east"}},
			&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "isthmus-agent-east"}},
		} {
			w.get(o, o.GetNamespace(), o.GetName())
		}
	})
	w.run("its heartbeat shows", func(t *testing.T) {
		kc := &v1alpha1.KubernetesCluster{}
		testenv.Eventually(t, "connection", func() error {
			w.get(kc, system, "east")
			return errors.Join(isTrue(kc.Status.Conditions, v1alpha1.ConditionConnected), want(kc.Status.AgentVersion, "1.2.3"))
		})
		w.heartbeat("east", time.Now().Add(-99*time.Second)) // a second before it counts as missed
		testenv.Eventually(t, "disconnection", func() error {
			w.get(kc, system, "east")
			return is(kc.Status.Conditions, v1alpha1.ConditionConnected, metav1.ConditionFalse, "HeartbeatMissed")
		})
	})
	w.run("a deleted credential is made anew", func(t *testing.T) {
		secret := &corev1.Secret{}
		w.get(secret, "isthmus-east", "isthmus-agent-credential")
		old := secret.UID
		if err := w.Delete(ctx, secret); err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, "new credential", func() error {
			secret := &corev1.Secret{}
			if err := w.Get(ctx, client.ObjectKey{Namespace: "isthmus-east", Name: "isthmus-agent-credential"}, secret); err != nil {
				return err
			}
			return want(secret.UID != old, true)
		})
	})
	w.run("a namespace of somebody else is left alone", func(t *testing.T) {
		w.env.Namespace(t, "isthmus-theirs", nil)
		kc := &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Name: "theirs", Namespace: system}}
		w.create(kc)
		testenv.Eventually(t, "refusal", func() error {
			w.get(kc, system, "theirs")
			return is(kc.Status.Conditions, v1alpha1.ConditionStalled, metav1.ConditionTrue, "NamespaceTaken")
		})
		w.remove(kc)
		ns := &corev1.Namespace{}
		w.get(ns, "", "isthmus-theirs")
		if ns.DeletionTimestamp != nil {
			t.Error("it was deleted")
		}
	})
	w.run("when that is gone, the cluster is registered", func(t *testing.T) {
		kc := &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Name: "theirs", Namespace: system}}
		w.create(kc)
		testenv.Eventually(t, "refusal", func() error {
			w.get(kc, system, "theirs")
			return is(kc.Status.Conditions, v1alpha1.ConditionStalled, metav1.ConditionTrue, "NamespaceTaken")
		})
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "isthmus-theirs"}}
		if err := w.Delete(ctx, ns); err != nil {
			t.Fatal(err)
		}
		w.get(ns, "", "isthmus-theirs")
		ns.Spec.Finalizers = nil // as its controller does
		if err := w.SubResource("finalize").Update(ctx, ns); err != nil {
			t.Fatal(err)
		}
		w.registered("theirs")
	})
	w.run("deregistered, all is gone", func(t *testing.T) {
		w.remove(&v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Name: "east", Namespace: system}})
		ns := &corev1.Namespace{}
		w.get(ns, "", "isthmus-east")
		if ns.DeletionTimestamp == nil { // no controller finishes it here
			t.Error("the namespace stays")
		}
		for _, o := range []client.Object{
			&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "isthmus-agent-east"}},
			&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "isthmus-agent-east", Namespace: system}},
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "isthmus-agent-credential", Namespace: "isthmus-east"}},
		} {
			if err := w.Get(ctx, client.ObjectKeyFromObject(o), o); !apierrors.IsNotFound(err) {
				t.Errorf("%T stays: %v", o, err)
			}
		}
	})
}

// TestHubStaysWithinItsBounds tries, with the rights of the hub, what whoever has taken it over would try.
func TestHubStaysWithinItsBounds(t *testing.T) {
	w := start(t)
	w.register("east")
	taken, err := client.New(hubtest.Config(w.env), client.Options{Scheme: testenv.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	meta := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name}
	}
	role := func(name string) rbacv1.RoleRef {
		return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name}
	}
	w.env.Namespace(t, "isthmus-agent", nil)
	testenv.Eventually(t, "admission policy in force", func() error {
		err := taken.Create(context.Background(), &corev1.ServiceAccount{ObjectMeta: meta("default", "probe")}, client.DryRunAll)
		return want(apierrors.IsInvalid(err) || apierrors.IsForbidden(err), true)
	})
	token := &corev1.Secret{ObjectMeta: meta("isthmus-east", "isthmus-agent-credential-2"), Type: corev1.SecretTypeServiceAccountToken}
	token.Annotations = map[string]string{corev1.ServiceAccountNameKey: "isthmus-agent"}
	for what, o := range map[string]client.Object{
		"a Secret elsewhere":               &corev1.Secret{ObjectMeta: meta("kube-system", "isthmus-agent-credential")},
		"a Secret of the agent":            &corev1.Secret{ObjectMeta: meta("isthmus-agent", "isthmus-agent-credential")},
		"a token without end":              token,
		"a binding elsewhere":              &rbacv1.RoleBinding{ObjectMeta: meta("default", "x"), RoleRef: role("isthmus-agent")},
		"a binding of a role not its own":  &rbacv1.RoleBinding{ObjectMeta: meta("isthmus-east", "x"), RoleRef: role("cluster-admin")},
		"a cluster-wide binding":           &rbacv1.ClusterRoleBinding{ObjectMeta: meta("", "x"), RoleRef: role("isthmus-agent-reader")},
		"a cluster-wide binding of rights": &rbacv1.ClusterRoleBinding{ObjectMeta: meta("", "isthmus-agent-x"), RoleRef: role("cluster-admin")},
		"a namespace of another name":      &corev1.Namespace{ObjectMeta: meta("", "x")},
	} {
		if err := taken.Create(context.Background(), o, client.DryRunAll); !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := taken.Get(context.Background(), client.ObjectKey{Namespace: "elsewhere", Name: "x"}, &corev1.Secret{}); !apierrors.IsForbidden(err) {
		t.Errorf("reading a Secret elsewhere: %v", err)
	}
	// What the hub does itself is none of these.
	for what, o := range map[string]client.Object{
		"a Secret":    &corev1.Secret{ObjectMeta: meta("isthmus-east", "x")},
		"a namespace": &corev1.Namespace{ObjectMeta: meta("", "isthmus-west")},
		"a binding":   &rbacv1.ClusterRoleBinding{ObjectMeta: meta("", "isthmus-agent-west"), RoleRef: role("isthmus-agent-reader")},
	} {
		if err := taken.Create(context.Background(), o, client.DryRunAll); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func secretRoot(name, namespace string) *v1alpha1.MTLSConfig {
	return &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{
		RootCertificateAuthority: &v1alpha1.RootCertificateAuthority{Secret: &v1alpha1.SecretRef{Name: name, Namespace: namespace}},
	}}
}

func TestProvidedRoot(t *testing.T) {
	w := start(t)
	now := time.Now()
	root := pkitest.NewRoot(t, "provided", now)
	forms := map[string]struct {
		ca   *pkitest.CA
		data map[string][]byte
		kind corev1.SecretType
		in   string
	}{
		"guide":        {root, root.RootSecret(t), "", ""},
		"istio":        {root, nil, "", "ca"},
		"cert-manager": {root, nil, corev1.SecretTypeTLS, ""},
		"zephyr":       {root, root.RootSecret(t), "solo.io/ca-root", "ca"},
		"gloo":         {root, root.RootSecret(t), "certificates.mesh.gloo.solo.io/generated_signing_cert", "ca"},
	}
	intermediate := root.Intermediate(t, "provided intermediate")
	istio, certManager := forms["istio"], forms["cert-manager"]
	istio.data, certManager.data = intermediate.IstioSecret(t), intermediate.CertManagerSecret(t)
	forms["istio"], forms["cert-manager"] = istio, certManager
	for name, form := range forms {
		w.run(name, func(t *testing.T) {
			cluster := name
			w.register(cluster)
			w.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: or(form.in, system)}, Type: form.kind, Data: form.data})
			vm := virtualMesh(name, cluster)
			vm.Spec.MTLSConfig = secretRoot(name, form.in)
			w.create(vm)
			cr := w.carryOut(cluster, 1)
			if cr.Status.Signer != root.Root().ID().String() {
				t.Errorf("signer %s", cr.Status.Signer)
			}
			chain, err := pki.ParseChain([]byte(cr.Status.SignedCertificate + cr.Status.CertChain))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := pki.NewMaterial(chain[:len(chain)-1], pkitest.ECKey(t), pki.NewBundle(root.Root()), now); !strings.Contains(fmt.Sprint(err), "private key") {
				t.Errorf("chain: %v", err) // that the key is another one is found first, so check the chain itself
			}
			for i := 1; i < len(chain); i++ {
				if err := chain[i-1].CheckSignatureFrom(chain[i]); err != nil {
					t.Errorf("certificate %d is not signed by the next: %v", i-1, err)
				}
			}
			if pki.RootOf(chain[len(chain)-1]).ID() != root.Root().ID() {
				t.Error("the chain does not end with the root")
			}
		})
	}
	w.run("a namespace that is called as those of clusters is as good as any", func(t *testing.T) {
		w.register("later")
		vm := virtualMesh("later", "later")
		vm.Spec.MTLSConfig = secretRoot("later", "isthmus-ca")
		w.create(vm)
		w.sees("later", "complaint", func(vm *v1alpha1.VirtualMesh) error {
			return is(vm.Status.Conditions, v1alpha1.ConditionStalled, metav1.ConditionTrue, v1alpha1.ReasonInvalid)
		})
		w.quiet() // so that nothing but the Secret tells of it
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "later", Namespace: "isthmus-ca"}, Data: root.RootSecret(t)}
		w.create(secret)
		w.sees("later", "acceptance", func(vm *v1alpha1.VirtualMesh) error { return want(vm.Status.Accepted != nil, true) })
		w.carryOut("later", 1)
		w.sees("later", "trust", deployed)
		w.quiet()
		next := pkitest.NewRoot(t, "next", now)
		update(w, secret, secret.Namespace, secret.Name, func(s *corev1.Secret) { s.Data = next.RootSecret(t) })
		testenv.Eventually(t, "the next root", func() error { return want(len(w.live("later").Spec.Roots), 2) })
	})
	w.run("what its owner breaks later changes nothing", func(t *testing.T) {
		update(w, &corev1.Secret{}, system, "guide", func(s *corev1.Secret) { s.Data = map[string][]byte{"key.pem": []byte("gone")} })
		w.sees("guide", "complaint", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(is(vm.Status.Conditions, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonInvalid), want(vm.Status.Accepted != nil, true))
		})
		if got := w.order("guide", 1).Spec.Signer; got != root.Root().ID().String() {
			t.Errorf("signer is %s", got)
		}
		w.remove(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "guide", Namespace: system}})
	})

	w.register("victim")
	// refused has a VirtualMesh refer to a Secret and returns what its status says of that.
	refused := func(t *testing.T, name, namespace, reason string) string {
		t.Helper()
		vm := virtualMesh("refused", "victim")
		vm.Spec.MTLSConfig = secretRoot(name, namespace)
		w.create(vm)
		defer w.remove(vm)
		got := w.sees("refused", "refusal", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(is(vm.Status.Conditions, v1alpha1.ConditionStalled, metav1.ConditionTrue, reason),
				want(vm.Status.State, v1alpha1.StateInvalid), want(vm.Status.Accepted == nil, true))
		})
		if err := w.Get(context.Background(), client.ObjectKey{Namespace: "isthmus-victim", Name: meshName("victim")}, &v1alpha1.IssuedCertificate{}); !apierrors.IsNotFound(err) {
			t.Errorf("an order was written: %v", err)
		}
		return fmt.Sprintf("%v %v", got.Status.Errors, got.Status.Conditions)
	}
	for i, wrong := range pkitest.WrongSecrets(t, now) {
		w.run("wrong: "+wrong.Name, func(t *testing.T) {
			name := fmt.Sprintf("wrong-%d", i)
			w.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: system}, Data: wrong.Data})
			says := refused(t, name, "", v1alpha1.ReasonInvalid)
			if wrong.Key != "" && !strings.Contains(says, "key "+wrong.Key+": ") || wrong.Key != "" && !strings.Contains(says, string(wrong.Reason)) {
				t.Errorf("it does not say that %s is %s: %s", wrong.Key, wrong.Reason, says)
			}
			reveals(t, says, wrong.Data)
		})
	}
	w.run("no foreign Secret is told of", func(t *testing.T) {
		hidden := pkitest.NewRoot(t, "hidden", now).RootSecret(t)
		password := map[string][]byte{"password": []byte("correct horse battery staple")}
		w.env.Namespace(t, "elsewhere", nil)
		w.create(
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "password", Namespace: system}, Data: password},
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "typed", Namespace: system}, Type: "example.com/hidden", Data: hidden},
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "hidden", Namespace: "elsewhere"}, Data: hidden},
		)
		absent := refused(t, "absent", "", v1alpha1.ReasonInvalid)
		for _, name := range []string{"password", "typed", "guide.isthmus-system.1"} {
			says := refused(t, name, "", v1alpha1.ReasonInvalid)
			if uniform(says, name) != uniform(absent, "absent") {
				t.Errorf("Secret %s can be told from one that does not exist:\n%s\n%s", name, says, absent)
			}
			reveals(t, says, password)
		}
		says := refused(t, "hidden", "elsewhere", v1alpha1.ReasonInvalid)
		if uniform(says, "hidden") != uniform(refused(t, "absent", "elsewhere", v1alpha1.ReasonInvalid), "absent") {
			t.Error("what is in a namespace that the hub may not read can be told")
		}
	})
}

// uniform is the list of errors without the name of the Secret.
func uniform(says, name string) string {
	errs, _, _ := strings.Cut(strings.ReplaceAll(says, name, "X"), "]")
	return errs
}

// reveals complains if a text has a piece of the data, plain or encoded.
func reveals(t *testing.T, says string, data map[string][]byte) {
	t.Helper()
	for key := range maps.Keys(data) {
		for _, form := range []string{string(data[key]), base64.StdEncoding.EncodeToString(data[key])} {
			for i := 0; i+16 <= len(form); i += 8 {
				if piece := strings.TrimSpace(form[i : i+16]); len(piece) > 12 && !strings.Contains(piece, "-----") && strings.Contains(says, piece) {
					t.Errorf("%q of key %s shows in %s", piece, key, says)
				}
			}
		}
	}
}

func or(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

func TestOneVirtualMeshPerMesh(t *testing.T) {
	w := start(t)
	w.register("east")
	w.register("west")
	w.create(virtualMesh("first", "east"))
	w.order("east", 1)
	w.create(virtualMesh("second", "east", "west"))
	taken := func(vm *v1alpha1.VirtualMesh) error {
		m := vm.Status.Meshes[meshName("east")+".isthmus-east"]
		return errors.Join(want(m.State, v1alpha1.StateInvalid), want(strings.Contains(fmt.Sprint(m.Errors), "first.isthmus-system"), true),
			want(vm.Status.Accepted != nil && len(vm.Status.Accepted.Spec.Meshes) == 1, true))
	}
	w.sees("second", "refusal of one member", taken)
	w.order("west", 1)
	w.run("also where every status was lost", func(t *testing.T) {
		w.stop()
		for _, name := range []string{"second", "first"} {
			updateStatus(w, &v1alpha1.VirtualMesh{}, system, name, func(vm *v1alpha1.VirtualMesh) { vm.Status = v1alpha1.VirtualMeshStatus{} })
		}
		w.startHub()
		w.sees("first", "acceptance", func(vm *v1alpha1.VirtualMesh) error { return want(vm.Status.Accepted != nil, true) })
		w.sees("second", "refusal of one member", taken)
	})
	w.run("what one gives up the other takes", func(t *testing.T) {
		w.register("north")
		update(w, &v1alpha1.VirtualMesh{}, system, "first", func(vm *v1alpha1.VirtualMesh) { vm.Spec = virtualMesh("first", "north").Spec })
		w.sees("second", "acceptance", func(vm *v1alpha1.VirtualMesh) error {
			return want(vm.Status.Accepted != nil && len(vm.Status.Accepted.Spec.Meshes) == 2, true)
		})
		testenv.Eventually(t, "order of the other", func() error { return want(w.order("east", 1).Spec.VirtualMesh.Name, "second") })
	})
	w.run("and hears of the root that the mesh came with, when that is lost and when it is restored", func(t *testing.T) {
		w.order("north", 1)
		w.quiet() // so that nothing but the Secret tells of it
		var kept []corev1.Secret
		for _, s := range w.rootSecrets() {
			if s.Labels[v1alpha1.LabelVirtualMesh] == kube.VirtualMeshLabel("first", system) {
				kept = append(kept, s)
				w.remove(&s)
			}
		}
		halted := func(status metav1.ConditionStatus, reason string) func(*v1alpha1.VirtualMesh) error {
			return func(vm *v1alpha1.VirtualMesh) error {
				return is(vm.Status.Conditions, v1alpha1.ConditionRootReady, status, reason)
			}
		}
		w.sees("second", "complaint", halted(metav1.ConditionFalse, v1alpha1.ReasonRootKeyLost))
		w.quiet()
		for _, s := range kept {
			s.ResourceVersion = ""
			w.create(&s)
		}
		w.sees("second", "root", halted(metav1.ConditionTrue, v1alpha1.ReasonReady))
	})
	w.run("and goes on to its own", func(t *testing.T) {
		w.carryOut("west", 1)
		root := w.carryOut("east", 1).Status.Signer // under the root of the first, and from there on to the other
		w.play("second", "trust", deployed, "east", "west")
		if signer := w.order("east", 2).Spec.Signer; signer == root || signer != w.order("west", 1).Spec.Signer {
			t.Errorf("root %s signs", signer)
		}
	})
	w.run("and replaces its root, though the other virtual mesh keeps the one that a member came with", func(t *testing.T) {
		before := w.order("west", 1).Spec.Signer
		update(w, &v1alpha1.VirtualMesh{}, system, "second", func(vm *v1alpha1.VirtualMesh) { vm.Spec.MTLSConfig.Shared.RotationTrigger = "now" })
		after := w.play("second", "rotation", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(deployed(vm), at(v1alpha1.StepFinished)(vm))
		}, "east", "west")
		if signerOf(after) == before {
			t.Error("the root is the old one")
		}
	})
}

func TestHubRestoredFromBackup(t *testing.T) {
	w := start(t)
	w.register("east")
	w.register("west")
	w.create(virtualMesh("one", "east", "west"))
	w.carryOut("west", 1)
	w.carryOut("east", 1)
	w.sees("one", "trust", func(vm *v1alpha1.VirtualMesh) error { return isTrue(vm.Status.Conditions, v1alpha1.ConditionReady) })
	backup := w.order("east", 1)
	root := backup.Spec.Signer
	// After the backup, east gets another intermediate.
	updateStatus(w, &v1alpha1.IssuedCertificate{}, backup.Namespace, backup.Name, func(ic *v1alpha1.IssuedCertificate) { ic.Status.KeyLost = 1 })
	w.stop()
	w.ahead.Store(int64(10 * time.Minute))
	w.startHub()
	latest := w.carryOut("east", 2)
	w.stop()

	// Restored: objects as they were, without status; no requests; the order of west is missing altogether.
	vm := &v1alpha1.VirtualMesh{}
	update(w, vm, system, "one", func(vm *v1alpha1.VirtualMesh) { vm.Finalizers = nil })
	w.remove(vm)
	w.create(virtualMesh("one", "east", "west"))
	if err := w.DeleteAllOf(context.Background(), &v1alpha1.CertificateRequest{}, client.InNamespace("isthmus-east")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{"east", "west"} {
		w.remove(&v1alpha1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Name: meshName(c), Namespace: "isthmus-" + c}})
		updateStatus(w, &v1alpha1.Mesh{}, "isthmus-"+c, meshName(c), func(m *v1alpha1.Mesh) { m.Status = v1alpha1.MeshStatus{} })
	}
	backup = &v1alpha1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Name: backup.Name, Namespace: backup.Namespace, Labels: backup.Labels}, Spec: backup.Spec}
	w.create(backup)
	w.startHub()

	w.run("no root is generated twice", func(t *testing.T) {
		w.uses("west", v1alpha1.MeshCertificateAuthority{
			Source: v1alpha1.CASourceIsthmus, VirtualMesh: "one." + system, Signer: root, Roots: []string{root}, RootCertificates: backup.Spec.Roots,
		})
		if got := w.order("west", 2).Spec.Signer; got != root { // 1 was signed, as its request shows
			t.Errorf("the order of west names root %s", got)
		}
		w.sees("one", "root", func(vm *v1alpha1.VirtualMesh) error { return isTrue(vm.Status.Conditions, v1alpha1.ConditionRootReady) })
		if n := len(w.rootSecrets()); n != 1 {
			t.Errorf("%d roots", n)
		}
	})
	w.run("the count of issuances goes on where it was, without a new certificate", func(t *testing.T) {
		w.installed("east", w.order("east", 1), latest) // the agent reports what it holds: issuance 2
		w.order("east", 2)
	})
	w.run("a lost root is not replaced silently", func(t *testing.T) {
		before := w.order("east", 2)
		secrets := w.rootSecrets()
		if err := w.Delete(context.Background(), &secrets[0]); err != nil {
			t.Fatal(err)
		}
		w.sees("one", "complaint", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(is(vm.Status.Conditions, v1alpha1.ConditionStalled, metav1.ConditionTrue, v1alpha1.ReasonRootKeyLost),
				is(vm.Status.Conditions, v1alpha1.ConditionRootReady, metav1.ConditionFalse, v1alpha1.ReasonRootKeyLost))
		})
		w.quiet()
		if n := len(w.rootSecrets()); n != 0 {
			t.Errorf("%d roots were made", n)
		}
		if after := w.order("east", 2); after.Generation != before.Generation {
			t.Error("an order was changed")
		}
	})
}

// TestRestoredFromBeforeAMove: a hub that comes out of a backup from before a mesh went to another virtual mesh does not take the
// mesh back. It is there again when that is said again.
func TestRestoredFromBeforeAMove(t *testing.T) {
	w := start(t)
	for _, c := range []string{"east", "north", "west"} {
		w.register(c)
	}
	w.create(virtualMesh("first", "east", "north"))
	w.create(virtualMesh("second", "west"))
	for _, c := range []string{"east", "north", "west"} {
		w.carryOut(c, 1)
	}
	w.sees("first", "trust", deployed)
	root := signerOf(w.sees("second", "trust", deployed))
	backup := w.order("east", 1)
	join := func(name string, clusters ...string) {
		update(w, &v1alpha1.VirtualMesh{}, system, name, func(vm *v1alpha1.VirtualMesh) { vm.Spec = virtualMesh(name, clusters...).Spec })
	}
	move := func() {
		join("first", "north")
		join("second", "east", "west")
		w.play("second", "trust", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(deployed(vm), want(len(vm.Status.Accepted.Spec.Meshes), 2), want(w.live("east").Spec.Signer, root))
		}, "east", "west")
	}
	move()
	holds := w.live("east").Status
	w.stop()

	for name, clusters := range map[string][]string{"first": {"east", "north"}, "second": {"west"}} {
		join(name, clusters...)
		updateStatus(w, &v1alpha1.VirtualMesh{}, system, name, func(vm *v1alpha1.VirtualMesh) { vm.Status = v1alpha1.VirtualMeshStatus{} })
	}
	w.remove(w.live("east"))
	if err := w.DeleteAllOf(context.Background(), &v1alpha1.CertificateRequest{}, client.InNamespace("isthmus-east")); err != nil {
		t.Fatal(err)
	}
	w.create(&v1alpha1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Name: backup.Name, Namespace: backup.Namespace, Labels: backup.Labels}, Spec: backup.Spec})
	updateStatus(w, &v1alpha1.IssuedCertificate{}, backup.Namespace, backup.Name, func(ic *v1alpha1.IssuedCertificate) { ic.Status = holds }) // the agent's word
	w.startHub()
	w.run("it stays where it went", func(t *testing.T) {
		w.sees("first", "what it waits for", func(vm *v1alpha1.VirtualMesh) error {
			ready := meta.FindStatusCondition(vm.Status.Conditions, v1alpha1.ConditionReady)
			return want(ready != nil && ready.Status == metav1.ConditionFalse && strings.Contains(ready.Message, "apply that again"), true)
		})
		w.quiet()
		w.obey("east")
		if after := w.live("east"); after.Status.Carried == nil || after.Status.Carried.Signer != root || after.Spec.Serial > holds.Carried.Serial {
			t.Errorf("order %+v, carried %+v", after.Spec, after.Status.Carried)
		}
	})
	w.run("and is a member there when that is said again", func(t *testing.T) {
		move()
		if got := w.live("east"); got.Spec.Issuance != holds.Carried.Issuance {
			t.Errorf("it got issuance %d, and has %d", got.Spec.Issuance, holds.Carried.Issuance)
		}
	})
}

func TestNoRootBeforeAllHaveReported(t *testing.T) {
	w := start(t)
	w.register("east")
	w.register("west")
	updateStatus(w, &v1alpha1.Mesh{}, "isthmus-west", meshName("west"), func(m *v1alpha1.Mesh) { m.Status = v1alpha1.MeshStatus{} })
	w.create(virtualMesh("one", "east", "west"))
	w.sees("one", "waiting", func(vm *v1alpha1.VirtualMesh) error {
		return errors.Join(is(vm.Status.Conditions, v1alpha1.ConditionReconciling, metav1.ConditionTrue, v1alpha1.ReasonWaitingForAgents),
			is(vm.Status.Conditions, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonWaitingForAgents))
	})
	w.run("a member that holds a lost root holds all up", func(t *testing.T) {
		w.uses("west", v1alpha1.MeshCertificateAuthority{Source: v1alpha1.CASourceIsthmus, VirtualMesh: "one.isthmus-system", Signer: strings.Repeat("ab", 32)})
		w.sees("one", "complaint", func(vm *v1alpha1.VirtualMesh) error {
			return is(vm.Status.Conditions, v1alpha1.ConditionStalled, metav1.ConditionTrue, v1alpha1.ReasonRootKeyLost)
		})
		if n := len(w.rootSecrets()); n != 0 {
			t.Errorf("%d roots were made", n)
		}
	})
	w.run("else the root is made", func(t *testing.T) {
		w.uses("west", v1alpha1.MeshCertificateAuthority{Source: v1alpha1.CASourceSelfSigned})
		w.order("east", 1)
		w.order("west", 1)
	})
}

func TestAnotherRootWhereNoneIsInUse(t *testing.T) {
	w := start(t)
	w.register("east")
	w.create(virtualMesh("one", "east"))
	first := w.carryOut("east", 1)
	// Given up: the VirtualMesh is deleted, the mesh released.
	vm := &v1alpha1.VirtualMesh{}
	w.get(vm, system, "one")
	w.remove(vm)
	w.remove(&v1alpha1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Name: meshName("east"), Namespace: "isthmus-east"}})
	w.uses("east", v1alpha1.MeshCertificateAuthority{Source: v1alpha1.CASourceSelfSigned})

	vm = virtualMesh("one", "east")
	vm.Spec.MTLSConfig.Shared.RootCertificateAuthority.Generated.OrgName = "Another"
	w.create(vm)
	second := w.carryOut("east", 2)
	if second.Status.Signer == first.Status.Signer {
		t.Error("the root that was given up signs")
	}
	w.sees("one", "trust", func(vm *v1alpha1.VirtualMesh) error {
		return errors.Join(isTrue(vm.Status.Conditions, v1alpha1.ConditionReady), want(len(vm.Status.Roots), 2), want(vm.Status.Roots[0].Role, v1alpha1.RootRetired))
	})
	testenv.Eventually(t, "erasure", func() error { return want(len(w.rootSecrets()), 1) })
}

// TestReportsOfLaterIssuances: an agent that says that it has come further than its order, as after a restore, has no other
// issuance for each time that it says so.
func TestReportsOfLaterIssuances(t *testing.T) {
	w := start(t)
	w.register("east")
	w.create(virtualMesh("one", "east"))
	w.carryOut("east", 1)
	honest := w.order("east", 1)
	for name, lie := range map[string]func(*v1alpha1.IssuedCertificateStatus){
		"that it holds it":   func(s *v1alpha1.IssuedCertificateStatus) { s.Certificate.Issuance = 2 },
		"under another root": func(s *v1alpha1.IssuedCertificateStatus) { s.Certificate.Issuance, s.Certificate.Signer = 2, "" },
		"that it has prepared": func(s *v1alpha1.IssuedCertificateStatus) {
			s.Prepared = s.Certificate.DeepCopy()
			s.Prepared.Issuance = 2
		},
	} {
		w.run(name, func(t *testing.T) {
			updateStatus(w, &v1alpha1.IssuedCertificate{}, honest.Namespace, honest.Name, func(ic *v1alpha1.IssuedCertificate) { lie(&ic.Status) })
			w.quiet()
			if got := w.order("east", 1).Spec; got.Serial != honest.Spec.Serial || got.Latest != 0 {
				t.Errorf("the order follows: %+v", got)
			}
			updateStatus(w, &v1alpha1.IssuedCertificate{}, honest.Namespace, honest.Name, func(ic *v1alpha1.IssuedCertificate) {
				ic.Status.Certificate, ic.Status.Prepared, ic.Status.Carried = honest.Status.Certificate, honest.Status.Prepared, honest.Status.Carried
			})
		})
	}
	w.run("as a restored hub has to know, the last signature was five minutes ago", func(*testing.T) {
		updateStatus(w, &v1alpha1.IssuedCertificate{}, honest.Namespace, honest.Name, func(ic *v1alpha1.IssuedCertificate) { ic.Status.Certificate.Issuance = 2 })
		w.stop()
		w.ahead.Add(int64(6 * time.Minute))
		w.startHub()
		w.order("east", 2)
	})
}

func TestRefusedRequests(t *testing.T) {
	w := start(t)
	w.register("east")
	w.register("west")
	w.create(virtualMesh("one", "east"))
	w.order("east", 1)
	failed, pending := v1alpha1.CertificateRequestFailed, v1alpha1.CertificateRequestPending
	for _, tc := range []struct {
		name   string
		change func(*v1alpha1.CertificateRequest)
		state  v1alpha1.CertificateRequestState
		reason string
	}{
		{"named after another key", func(cr *v1alpha1.CertificateRequest) { cr.Name = requestFor(t, "east", 1, pkitest.ECKey(t)).Name }, failed, "WrongName"},
		{"named after another mesh", func(cr *v1alpha1.CertificateRequest) { cr.Name = strings.Replace(cr.Name, "east", "west", 1) }, failed, "WrongName"},
		{"no request at all", func(cr *v1alpha1.CertificateRequest) { cr.Spec.CertificateSigningRequest = "x" }, failed, "BadRequest"},
		{"a weak key", func(cr *v1alpha1.CertificateRequest) {
			cr.Spec.CertificateSigningRequest = strings.Repeat(cr.Spec.CertificateSigningRequest, 2)
		}, failed, "BadRequest"},
		{"that would go with an owner", func(cr *v1alpha1.CertificateRequest) {
			cr.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "gone", UID: "0"}}
		}, failed, "BadRequest"},
		{"not ordered yet", func(cr *v1alpha1.CertificateRequest) { cr.Spec.Issuance = 2 }, pending, "NotOrdered"},
		{"in the namespace of another cluster", func(cr *v1alpha1.CertificateRequest) { cr.Namespace = "isthmus-west" }, pending, "NotOrdered"},
		{"in no cluster's namespace", func(cr *v1alpha1.CertificateRequest) { cr.Namespace = "ca" }, failed, "NotRegistered"},
		{"in a namespace of no registered cluster", func(cr *v1alpha1.CertificateRequest) {
			w.env.Namespace(t, "isthmus-nobody", nil)
			cr.Namespace = "isthmus-nobody"
		}, pending, "NotRegistered"},
	} {
		w.run(tc.name, func(t *testing.T) {
			cr := requestFor(t, "east", 1, pkitest.ECKey(t))
			tc.change(cr)
			w.create(cr)
			got := w.answered(cr, tc.state)
			if err := is(got.Status.Conditions, "Ready", metav1.ConditionFalse, tc.reason); err != nil || got.Status.SignedCertificate != "" {
				t.Error(err, got.Status)
			}
		})
	}
	w.run("the honest one is signed for all that", func(*testing.T) { w.carryOut("east", 1) })
	w.run("one that waited is answered when its time has come", func(t *testing.T) {
		update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) {
			vm.Spec.MTLSConfig.Shared.IntermediateCertOptions = &v1alpha1.CertOptions{OrgName: "Example"}
		})
		w.order("east", 2)
		list := &v1alpha1.CertificateRequestList{}
		testenv.Eventually(t, "signature", func() error {
			if err := w.List(context.Background(), list, client.InNamespace("isthmus-east")); err != nil {
				return err
			}
			for _, cr := range list.Items {
				if cr.Spec.Issuance == 2 && cr.Status.State == v1alpha1.CertificateRequestFinished {
					return nil
				}
			}
			return errors.New("not signed")
		})
		outdated := requestFor(t, "east", 1, pkitest.ECKey(t))
		w.create(outdated)
		if err := is(w.answered(outdated, failed).Status.Conditions, "Ready", metav1.ConditionFalse, "Outdated"); err != nil {
			t.Error(err)
		}
	})
	w.run("one that waits for a lost root is answered when that is restored", func(t *testing.T) {
		update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) {
			vm.Spec.MTLSConfig.Shared.IntermediateCertOptions = &v1alpha1.CertOptions{OrgName: "Another"}
		})
		w.order("east", 3)
		root := w.rootSecrets()[0]
		if err := w.Delete(context.Background(), &root); err != nil {
			t.Fatal(err)
		}
		cr := requestFor(t, "east", 3, pkitest.ECKey(t))
		w.create(cr)
		if err := is(w.answered(cr, pending).Status.Conditions, "Ready", metav1.ConditionFalse, v1alpha1.ReasonRootKeyLost); err != nil {
			t.Error(err)
		}
		root.ResourceVersion, root.UID = "", ""
		w.create(&root)
		testenv.Eventually(t, "signature", func() error {
			w.get(cr, cr.Namespace, cr.Name)
			return want(cr.Status.State, v1alpha1.CertificateRequestFinished)
		})
	})
	w.run("one that is not listed as that of the virtual mesh, and is found, is not taken for that of another", func(t *testing.T) {
		label := func(set bool) {
			t.Helper()
			update(w, &corev1.Secret{}, system, w.rootSecrets()[0].Name, func(s *corev1.Secret) {
				delete(s.Labels, v1alpha1.LabelVirtualMesh)
				if set {
					s.Labels[v1alpha1.LabelVirtualMesh] = kube.VirtualMeshLabel("one", system)
				}
			})
		}
		label(false)
		w.sees("one", "complaint", func(vm *v1alpha1.VirtualMesh) error {
			return is(vm.Status.Conditions, v1alpha1.ConditionStalled, metav1.ConditionTrue, v1alpha1.ReasonRootKeyLost)
		})
		w.quiet()
		if n := len(w.rootSecrets()); n != 1 {
			t.Errorf("%d roots", n)
		}
		label(true)
		w.sees("one", "root", func(vm *v1alpha1.VirtualMesh) error { return isTrue(vm.Status.Conditions, v1alpha1.ConditionRootReady) })
	})
	w.run("a root that cannot be read holds up nothing", func(t *testing.T) {
		whole := w.rootSecrets()[0]
		damaged := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
			Namespace: whole.Namespace, Name: strings.TrimSuffix(whole.Name, "1") + "2", Labels: maps.Clone(whole.Labels), Annotations: whole.Annotations,
		}, Type: whole.Type, Data: map[string][]byte{"root-cert.pem": []byte("x")}}
		damaged.Labels[v1alpha1.LabelRootFingerprint] = strings.Repeat("0", 32)
		w.create(damaged)
		update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) {
			vm.Spec.MTLSConfig.Shared.IntermediateCertOptions = &v1alpha1.CertOptions{OrgName: "A third"}
		})
		w.order("east", 4)
	})
}
