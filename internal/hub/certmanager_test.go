package hub_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// rootOf is the root that a Secret of cert-manager holds.
func rootOf(t *testing.T, data map[string][]byte) pki.Root {
	t.Helper()
	m, err := pki.ReadMaterial(data, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return m.Root
}

// TestRootThatIsNotValidYet: a clock that is ahead of the hub's has made the root. The hub takes it by itself when it is valid.
func TestRootThatIsNotValidYet(t *testing.T) {
	w := start(t)
	w.register("east")
	soon := func(c *x509.Certificate) { c.NotBefore = time.Now().Add(40 * time.Second) } // so late that the complaint is seen before
	early := pkitest.NewRoot(t, "early", time.Now(), soon)
	w.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "early", Namespace: system}, Data: early.CertManagerSecret(t)})
	vm := virtualMesh("one", "east")
	vm.Spec.MTLSConfig = secretRoot("early", "")
	w.create(vm)
	w.sees("one", "complaint", func(vm *v1alpha1.VirtualMesh) error {
		return errors.Join(want(vm.Status.State, v1alpha1.StateInvalid), want(strings.Contains(fmt.Sprint(vm.Status.Errors), string(pki.ReasonNotYetValid)), true))
	})
	w.carryOut("east", 1)
	w.sees("one", "trust", deployed)
	// The same of the next one, while this one is in use.
	w.heartbeat("east", time.Now())
	next := pkitest.NewRoot(t, "next", time.Now(), soon)
	update(w, &corev1.Secret{}, system, "early", func(s *corev1.Secret) { s.Data = next.CertManagerSecret(t) })
	w.sees("one", "complaint", func(vm *v1alpha1.VirtualMesh) error {
		return is(vm.Status.Conditions, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonInvalid)
	})
	testenv.Eventually(t, "the next root", func() error { return want(len(w.live("east").Spec.Roots), 2) })
}

// editCertificate edits the spec of a Certificate, which cert-manager then issues anew.
func (w *world) editCertificate(name string, fields map[string]any) {
	w.Helper()
	c := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "cert-manager.io/v1", "kind": "Certificate"}}
	update(w, c, system, name, func(c *unstructured.Unstructured) {
		spec := c.Object["spec"].(map[string]any)
		for k, v := range fields {
			if spec[k] = v; v == nil {
				delete(spec, k)
			}
		}
	})
}

// TestCertManager: a root that cert-manager maintains, and what its renewal starts.
func TestCertManager(t *testing.T) {
	w := start(t)
	m := testenv.StartCertManager(t, w.env)
	m.Issuer(t, system, "self-signed", "")
	under := func(root pki.Root) func(*v1alpha1.VirtualMesh) error {
		return func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(deployed(vm), want(vm.Status.DeployedSharedTrust != nil && signerOf(vm) == root.ID().String(), true))
		}
	}
	// current is the root that is in a Secret at the time.
	current := func(secret string) pki.Root { return rootOf(t, m.Secret(t, system, secret)) }
	underCurrent := func(secret string) func(*v1alpha1.VirtualMesh) error {
		return func(vm *v1alpha1.VirtualMesh) error { return under(current(secret))(vm) }
	}
	join := func(name, secret string) {
		w.Helper()
		m.Settled(w, system, secret)
		w.register(name)
		vm := virtualMesh(name, name)
		vm.Spec.MTLSConfig = secretRoot(secret, "")
		w.create(vm)
		w.carryOut(name, 1)
		w.play(name, "trust under what cert-manager has made", underCurrent(secret), name)
	}

	for name, key := range map[string]map[string]any{
		"default": nil,
		"always":  {"algorithm": "RSA", "size": int64(2048), "rotationPolicy": "Always"},
		"never":   {"algorithm": "ECDSA", "size": int64(384), "rotationPolicy": "Never"},
	} {
		w.run(name, func(t *testing.T) {
			fields := map[string]any{"duration": "8760h", "renewBefore": "720h"}
			if key != nil {
				fields["privateKey"] = key
			}
			m.CA(t, system, name, "self-signed", fields)
			join(name, name)
			before := current(name)
			data := m.Renew(t, system, name)
			after := rootOf(t, data)
			if string(before.Certificate().RawSubject) != string(after.Certificate().RawSubject) || string(data[corev1.TLSCertKey]) != string(data["ca.crt"]) {
				t.Errorf("cert-manager has made %v of %v", after.Certificate().Subject, before.Certificate().Subject)
			}
			if same := before.SameAnchor(after); same != (name == "never") {
				t.Errorf("that the key is the same is %v", same)
			}
			both := false
			w.play(name, "another root", func(vm *v1alpha1.VirtualMesh) error {
				both = both || len(w.live(name).Spec.Roots) == 2
				return errors.Join(underCurrent(name)(vm), at(v1alpha1.StepFinished)(vm))
			}, name)
			if roots := w.live(name).Spec.Roots; !both || len(roots) != 1 || roots[0].Fingerprint != current(name).ID().String() {
				t.Errorf("both roots were distributed: %v; in the end %d", both, len(roots))
			}
		})
	}

	w.run("renewed in the middle of a rotation", func(t *testing.T) {
		m.CA(t, system, "hasty", "self-signed", nil)
		join("hasty", "hasty")
		second := rootOf(t, m.Renew(t, system, "hasty"))
		w.play("hasty", "the second root", at(v1alpha1.StepPropagatingNewIntermediate), "hasty")
		third := rootOf(t, m.Renew(t, system, "hasty"))
		w.play("hasty", "the third root", underCurrent("hasty"), "hasty")
		if second.ID() == third.ID() {
			t.Error("there was no third root")
		}
	})

	// Where roots are not taken live, the former root certifies another one, and not itself.
	for policy, crossed := range map[string]bool{"Always": true, "Never": false} {
		w.run("without the flags, "+policy, func(t *testing.T) {
			w.rolling = true
			defer func() { w.rolling = false }()
			name := "rolling-" + strings.ToLower(policy)
			m.CA(t, system, name, "self-signed", map[string]any{"privateKey": map[string]any{"algorithm": "ECDSA", "size": int64(256), "rotationPolicy": policy}})
			join(name, name)
			m.Renew(t, system, name)
			certified := false
			w.play(name, "another root", func(vm *v1alpha1.VirtualMesh) error {
				certified = certified || w.live(name).Spec.CrossCertificate != nil
				return underCurrent(name)(vm)
			}, name)
			if certified != crossed {
				t.Errorf("that the former root has certified it is %v", certified)
			}
		})
	}

	// The CA that signs is issued by another one, which is the root.
	w.run("an intermediate", func(t *testing.T) {
		m.CA(t, system, "top", "self-signed", nil)
		m.Settled(t, system, "top")
		m.Issuer(t, system, "top", "top")
		m.CA(t, system, "middle", "top", nil)
		join("middle", "middle")
		before := current("middle")
		latest := func(vm *v1alpha1.VirtualMesh) int64 { return vm.Status.Roots[len(vm.Status.Roots)-1].Generation }
		vm := &v1alpha1.VirtualMesh{}
		w.get(vm, system, "middle")
		was := latest(vm)
		// Another one under the same root is no rotation: what is in use stays, and what is issued later is under it.
		if after := rootOf(t, m.Renew(t, system, "middle")); after.ID() != before.ID() {
			t.Fatal("the root is another one")
		}
		w.sees("middle", "the new CA", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(deployed(vm), want(latest(vm) > was, true), want(vm.Status.Rotation == nil || vm.Status.Rotation.Step == v1alpha1.StepNotRotating, true))
		})
		// That the root was renewed is seen when what is under it is.
		top := rootOf(t, m.Renew(t, system, "top"))
		if after := rootOf(t, m.Renew(t, system, "middle")); after.ID() != top.ID() {
			t.Fatal("it is not under the new root")
		}
		w.play("middle", "the new root", underCurrent("middle"), "middle")
	})

	w.run("what cannot serve", func(t *testing.T) {
		m.CA(t, system, "wrong", "self-signed", nil)
		join("wrong", "wrong")
		before := w.live("wrong").Spec
		w.editCertificate("wrong", map[string]any{"usages": []any{"cert sign", "server auth"}})
		w.sees("wrong", "complaint", func(vm *v1alpha1.VirtualMesh) error {
			return is(vm.Status.Conditions, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonInvalid)
		})
		if now := w.live("wrong").Spec; now.Serial != before.Serial {
			t.Error("something else was ordered")
		}
		w.editCertificate("wrong", map[string]any{"usages": nil})
		testenv.Eventually(t, "another root", func() error {
			return want(len(w.live("wrong").Spec.Roots), 2)
		})
	})
}
