package hub_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// vaultMesh is a virtual mesh whose intermediates Vault signs.
func vaultMesh(name string, clusters ...string) *v1alpha1.VirtualMesh {
	vm := virtualMesh(name, clusters...)
	vm.Spec.MTLSConfig.Shared = &v1alpha1.SharedTrust{
		IntermediateCertificateAuthority: &v1alpha1.IntermediateCertificateAuthority{Vault: v1alpha1.VaultCA{
			Server: "https://vault.example.com:8200", CAPath: "pki/root/sign-intermediate", TokenSecretRef: &v1alpha1.LocalSecretRef{Name: "vault-token"},
		}},
	}
	return vm
}

// finds has the agent of a cluster report a root of Vault, or a problem.
func (w *world) finds(cluster string, root *pki.Root, reason string) {
	w.Helper()
	updateStatus(w, &v1alpha1.Mesh{}, "isthmus-"+cluster, meshName(cluster), func(m *v1alpha1.Mesh) {
		was := m.Status.Vault
		m.Status.Vault = &v1alpha1.MeshVault{VirtualMesh: "one." + system, Server: "https://vault.example.com:8200", CAPath: "pki/root/sign-intermediate"}
		switch {
		case root != nil:
			m.Status.Vault.Root = &v1alpha1.RootCertificate{Fingerprint: root.ID().String(), Certificate: string(root.PEM())}
		case was != nil:
			m.Status.Vault.Root = was.Root
		}
		if reason != "" {
			m.Status.Vault.Reason, m.Status.Vault.Message = reason, "it is not as it should be in "+cluster
		}
	})
}

// under wants a root to be deployed.
func under(vm *v1alpha1.VirtualMesh, root string) error {
	if vm.Status.DeployedSharedTrust == nil {
		return errors.New("nothing is deployed")
	}
	return want(signerOf(vm), root)
}

func TestVaultRoot(t *testing.T) {
	w := start(t)
	first, second, hostile := pkitest.NewRoot(t, "Vault 1", time.Now()).Root(), pkitest.NewRoot(t, "Vault 2", time.Now()).Root(), pkitest.NewRoot(t, "Mallory", time.Now()).Root()
	w.register("east")
	w.register("west")
	w.create(vaultMesh("one", "east", "west"))
	says := func(conditionType string, status metav1.ConditionStatus, reason string, texts ...string) func(*v1alpha1.VirtualMesh) error {
		return func(vm *v1alpha1.VirtualMesh) error {
			err := is(vm.Status.Conditions, conditionType, status, reason)
			for _, c := range vm.Status.Conditions {
				for _, text := range texts {
					if c.Type == conditionType && !strings.Contains(c.Message, text) {
						err = errors.Join(err, fmt.Errorf("it does not say %q: %s", text, c.Message))
					}
				}
			}
			return err
		}
	}
	noOrders := func() {
		t.Helper()
		var orders v1alpha1.IssuedCertificateList
		if err := w.List(context.Background(), &orders); err != nil || len(orders.Items) > 0 || len(w.rootSecrets()) > 0 {
			t.Errorf("%d orders, %d roots, %v", len(orders.Items), len(w.rootSecrets()), err)
		}
	}

	w.run("none is taken before all have found the same", func(t *testing.T) {
		w.sees("one", "wait", says(v1alpha1.ConditionRootReady, metav1.ConditionFalse, v1alpha1.ReasonWaitingForAgents, meshName("east"), meshName("west")))
		w.finds("east", &first, "")
		w.sees("one", "wait for the other", says(v1alpha1.ConditionRootReady, metav1.ConditionFalse, v1alpha1.ReasonWaitingForAgents, meshName("west")))
		w.finds("west", nil, "VaultSealed")
		w.sees("one", "complaint", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(
				says(v1alpha1.ConditionRootReady, metav1.ConditionFalse, "VaultRootUnknown", "mesh "+meshName("west")+".isthmus-west: it is not as it should be")(vm),
				says(v1alpha1.ConditionVaultReachable, metav1.ConditionFalse, "VaultSealed", "in west")(vm),
				is(vm.Status.Conditions, v1alpha1.ConditionStalled, metav1.ConditionTrue, "VaultRootUnknown"))
		})
		w.finds("west", &hostile, "")
		w.sees("one", "who differs", says(v1alpha1.ConditionRootReady, metav1.ConditionFalse, "VaultRootsDiffer",
			hostile.ID().Short()+" by ["+meshName("west"), first.ID().Short()+" by ["+meshName("east")))
		noOrders()
	})
	w.run("what all have found is the root, without a key", func(t *testing.T) {
		w.finds("west", &first, "VaultDenied") // which anybody may look at
		w.first("east")
		w.first("west")
		vm := w.play("one", "trust", deployed, "east", "west")
		if signerOf(vm) != first.ID().String() {
			t.Errorf("root %s", signerOf(vm))
		}
		for _, c := range []string{"east", "west"} {
			o := w.live(c).Spec
			if ca := o.AgentCA(first.ID().String()); ca == nil || ca.Vault.CAPath != "pki/root/sign-intermediate" || len(o.AgentCAs) != 1 {
				t.Errorf("%s is to ask %+v", c, o.AgentCAs)
			}
		}
		secrets := w.rootSecrets()
		if len(secrets) != 1 || len(secrets[0].Data) != 1 {
			t.Errorf("root Secrets %v", secrets)
		}
		w.sees("one", "complaint", says(v1alpha1.ConditionVaultReachable, metav1.ConditionFalse, "VaultDenied", "in west"))
		w.finds("west", &first, "")
		w.sees("one", "no complaint", says(v1alpha1.ConditionVaultReachable, metav1.ConditionTrue, ""))
	})
	w.run("the hub signs nothing for it", func(t *testing.T) {
		cr := requestFor(w, "east", 1, pkitest.ECKey(w))
		w.create(cr)
		got := &v1alpha1.CertificateRequest{}
		testenv.Eventually(t, "refusal", func() error {
			w.get(got, cr.Namespace, cr.Name)
			return is(got.Status.Conditions, v1alpha1.ConditionReady, metav1.ConditionFalse, "SignsElsewhere")
		})
		if got.Status.SignedCertificate != "" {
			t.Error("it was signed")
		}
	})
	w.run("a Vault that is away changes nothing", func(t *testing.T) {
		before := w.live("west")
		w.finds("west", nil, "VaultUnreachable")
		w.sees("one", "complaint", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(says(v1alpha1.ConditionVaultReachable, metav1.ConditionFalse, "VaultUnreachable", "in west")(vm), deployed(vm))
		})
		if now := w.live("west"); now.Generation != before.Generation {
			t.Errorf("the order is %+v", now.Spec)
		}
	})
	w.run("one member alone moves nobody to its root", func(t *testing.T) {
		before := w.live("east")
		w.finds("west", &hostile, "")
		w.sees("one", "who differs", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(says(v1alpha1.ConditionRootReady, metav1.ConditionFalse, "VaultRootsDiffer", "stays in use", meshName("west"))(vm),
				want(vm.Status.Rotation.RotationID, ""), want(len(w.rootSecrets()), 1))
		})
		if now := w.live("east"); now.Generation != before.Generation {
			t.Errorf("the order is %+v", now.Spec)
		}
	})
	w.run("another root of Vault is a rotation", func(t *testing.T) {
		w.finds("east", &second, "VaultDenied")
		w.finds("west", &second, "")
		var trusted, keys bool
		after := w.play("one", "rotation", func(vm *v1alpha1.VirtualMesh) error {
			for _, c := range []string{"east", "west"} {
				o := w.live(c).Spec
				trusted = trusted || len(o.Roots) == 2 && o.Signer == first.ID().String() && o.AgentCA(second.ID().String()) != nil && o.Prepared.Signer == second.ID().String()
			}
			for _, s := range w.rootSecrets() {
				keys = keys || len(s.Data) > 1
			}
			return errors.Join(deployed(vm), at(v1alpha1.StepFinished)(vm), under(vm, second.ID().String()))
		}, "east", "west")
		if !trusted || keys {
			t.Errorf("both were trusted: %v, there was a key: %v", trusted, keys)
		}
		var steps []string
		for _, c := range after.Status.Rotation.Conditions {
			if c.State != v1alpha1.StepVerified && c.State != v1alpha1.StepVerifying {
				steps = append(steps, string(c.State))
			}
		}
		if got := strings.Join(slices.Compact(steps), " "); got != "ADDING_NEW_ROOT PROPAGATING_NEW_INTERMEDIATE DELETING_OLD_ROOT FINISHED" {
			t.Errorf("steps %s", got)
		}
		testenv.Eventually(t, "the old root is let go of", func() error { return want(len(w.rootSecrets()), 1) })
		w.quiet()
	})
	w.run("another way to the same root is no rotation", func(t *testing.T) {
		before := w.live("east").Spec
		update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) {
			v := &vm.Spec.MTLSConfig.Shared.IntermediateCertificateAuthority.Vault
			v.TokenSecretRef, v.KubernetesAuth = nil, &v1alpha1.VaultKubernetesAuth{Role: "isthmus"}
		})
		testenv.Eventually(t, "orders that say it", func() error {
			ca := w.live("east").Spec.AgentCA(second.ID().String())
			return want(ca != nil && ca.Vault.KubernetesAuth != nil && ca.Vault.TokenSecretRef == nil, true)
		})
		if now := w.live("east").Spec; now.Serial != before.Serial || now.Issuance != before.Issuance {
			t.Errorf("serial %d, issuance %d", now.Serial, now.Issuance)
		}
		w.play("one", "rest", deployed, "east", "west")
	})
	w.run("a hub without its Secret of the root finds it again", func(t *testing.T) {
		secret := w.rootSecrets()[0]
		if err := w.Delete(context.Background(), &secret); err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, "the Secret", func() error {
			list := w.rootSecrets()
			return errors.Join(want(len(list), 1), want(len(list) == 1 && list[0].UID != secret.UID, true))
		})
		w.play("one", "rest", deployed, "east", "west")
	})
	w.run("from Vault to a root of the hub, and back", func(t *testing.T) {
		update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) {
			vm.Spec.MTLSConfig.Shared = virtualMesh("one").Spec.MTLSConfig.Shared
		})
		vm := w.play("one", "a generated root", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(deployed(vm), want(vm.Status.DeployedSharedTrust != nil && signerOf(vm) != second.ID().String(), true))
		}, "east", "west")
		if o := w.live("east").Spec; len(o.AgentCAs) > 0 {
			t.Errorf("it is to ask %+v", o.AgentCAs)
		}
		generated := signerOf(vm)
		update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) {
			vm.Spec.MTLSConfig.Shared = vaultMesh("one").Spec.MTLSConfig.Shared
		})
		w.play("one", "Vault again", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(deployed(vm), under(vm, second.ID().String()))
		}, "east", "west")
		testenv.Eventually(t, "erasure of the generated root", func() error {
			var left corev1.SecretList
			return errors.Join(w.List(context.Background(), &left, client.InNamespace(system), client.MatchingLabels{v1alpha1.LabelRootFingerprint: generated[:32]}), want(len(left.Items), 0))
		})
	})
	w.run("renewal is at the ratio of what Vault has given", func(t *testing.T) {
		before := w.live("east").Spec.Issuance
		w.ahead.Store(int64(23 * time.Hour)) // of 24, with a ratio of a tenth
		w.stop()
		w.startHub()
		w.heartbeat("east", time.Now().Add(23*time.Hour))
		testenv.Eventually(t, "another issuance", func() error { return want(w.live("east").Spec.Issuance > before, true) })
	})
}
