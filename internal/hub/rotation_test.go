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

// live is the order of a cluster as it stands.
func (w *world) live(cluster string) *v1alpha1.IssuedCertificate {
	w.Helper()
	ic := &v1alpha1.IssuedCertificate{}
	w.get(ic, "isthmus-"+cluster, meshName(cluster))
	return ic
}

// obey has the agent of a cluster carry out its order as it stands, and request what it has to. An agent at work shows that it lives.
func (w *world) obey(cluster string) {
	w.Helper()
	if now := time.Now().Add(time.Duration(w.ahead.Load())); now.Sub(w.beats[cluster]) > 30*time.Second {
		w.heartbeat(cluster, now)
	}
	order := w.live(cluster)
	if c := order.Status.Carried; c != nil &&
		(c.Serial > order.Spec.Serial || c.Serial == order.Spec.Serial && order.Status.ObservedGeneration == order.Generation) {
		return // an agent carries out nothing that is older
	}
	holds := &v1alpha1.IntermediateStatus{Issuance: order.Spec.Issuance, Signer: order.Spec.Signer, NotAfter: metav1.NewTime(time.Now().Add(24 * time.Hour))}
	wanted := []int64{order.Spec.Issuance}
	if order.Spec.AgentCA(order.Spec.Signer) != nil { // Vault has signed it
		wanted = nil
	}
	holds.NotBefore = metav1.NewTime(time.Now().Add(-pki.ClockSkew))
	if p := order.Spec.Prepared; p != nil && order.Spec.AgentCA(p.Signer) == nil {
		wanted = append(wanted, p.Issuance)
	}
	requests := &v1alpha1.CertificateRequestList{}
	if err := w.List(context.Background(), requests, client.InNamespace(order.Namespace)); err != nil {
		w.Fatal(err)
	}
	for _, issuance := range wanted {
		is := func(cr v1alpha1.CertificateRequest) bool { return cr.Spec.Issuance == issuance }
		if issuance == 0 || slices.ContainsFunc(requests.Items, is) {
			continue
		}
		cr := requestFor(w, cluster, issuance, pkitest.ECKey(w))
		w.create(cr)
		testenv.Eventually(w, "signature", func() error {
			w.get(cr, cr.Namespace, cr.Name)
			if now := w.live(cluster); now.Spec.Serial != order.Spec.Serial {
				return nil // it is not wanted any more
			}
			return want(cr.Status.State, v1alpha1.CertificateRequestFinished)
		})
	}
	w.answers(order, holds)
	if p := order.Spec.Prepared; p != nil && order.Spec.AgentCA(p.Signer) != nil {
		updateStatus(w, &v1alpha1.IssuedCertificate{}, order.Namespace, order.Name, func(ic *v1alpha1.IssuedCertificate) {
			ic.Status.Prepared = holds.DeepCopy()
			ic.Status.Prepared.Issuance, ic.Status.Prepared.Signer = p.Issuance, p.Signer
		})
	}
}

// play has agents carry out their orders until the virtual mesh is as the test wants it.
func (w *world) play(name, what string, is func(*v1alpha1.VirtualMesh) error, clusters ...string) *v1alpha1.VirtualMesh {
	w.Helper()
	vm := &v1alpha1.VirtualMesh{}
	testenv.Eventually(w, what, func() error {
		if err := w.Get(context.Background(), client.ObjectKey{Namespace: system, Name: name}, vm); err != nil {
			return err
		}
		err := is(vm)
		if err == nil {
			return nil
		}
		for _, c := range clusters {
			w.obey(c)
		}
		return fmt.Errorf("%w; rotation %+v; conditions %v", err, vm.Status.Rotation, vm.Status.Conditions)
	})
	return vm
}

// young starts a virtual mesh "one" of meshes that come without a CA, and has it come to trust.
func young(w *world, clusters ...string) *v1alpha1.VirtualMesh {
	w.Helper()
	for _, c := range clusters {
		w.register(c)
	}
	w.create(virtualMesh("one", clusters...))
	for _, c := range clusters {
		w.carryOut(c, 1)
	}
	return w.sees("one", "trust", deployed)
}

// deployed wants all to be at rest under the wanted root.
func deployed(vm *v1alpha1.VirtualMesh) error {
	return errors.Join(
		isTrue(vm.Status.Conditions, v1alpha1.ConditionReady), isTrue(vm.Status.Conditions, v1alpha1.ConditionTrustEstablished),
		want(vm.Status.DeployedSharedTrust != nil && vm.Status.Accepted.Generation == vm.Generation, true),
		want(vm.Status.DeployedSharedTrust != nil && vm.Status.DeployedSharedTrust.SharedTrust.RotationTrigger == vm.Spec.MTLSConfig.Shared.RotationTrigger, true),
	)
}

func (w *world) trigger(value string) {
	w.Helper()
	update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) { vm.Spec.MTLSConfig.Shared.RotationTrigger = value })
}

func at(step v1alpha1.RotationStep) func(*v1alpha1.VirtualMesh) error {
	return func(vm *v1alpha1.VirtualMesh) error {
		if vm.Status.Rotation == nil {
			return errors.New("no rotation")
		}
		return want(vm.Status.Rotation.Step, step)
	}
}

func signerOf(vm *v1alpha1.VirtualMesh) string { return vm.Status.DeployedSharedTrust.Root }

func TestRotation(t *testing.T) {
	w := start(t)
	before := young(w, "east", "west")
	w.trigger("now")
	var erased []string
	after := w.play("one", "rotation", func(vm *v1alpha1.VirtualMesh) error {
		keys := len(w.rootSecrets())
		w.get(vm, system, "one") // as it was when a key was erased, or later
		if err := isTrue(vm.Status.Conditions, v1alpha1.ConditionTrustEstablished); err != nil {
			t.Error(err)
		}
		if len(vm.Status.Rotation.Conditions) > 0 && keys < 2 && vm.Status.Rotation.Step != v1alpha1.StepFinished {
			erased = append(erased, string(vm.Status.Rotation.Step))
		}
		return errors.Join(deployed(vm), at(v1alpha1.StepFinished)(vm))
	}, "east", "west")
	if len(erased) > 0 {
		t.Errorf("a key was erased in %v", erased)
	}
	if signerOf(after) == signerOf(before) {
		t.Fatal("the root is the old one")
	}
	testenv.Eventually(t, "erasure of the old key", func() error { return want(len(w.rootSecrets()), 1) })
	w.sees("one", "retirement", func(vm *v1alpha1.VirtualMesh) error {
		return errors.Join(want(vm.Status.Roots[0].Role, v1alpha1.RootRetired), want(vm.Status.Roots[1].Role, v1alpha1.RootSigning))
	})
	var steps []string
	for _, c := range after.Status.Rotation.Conditions {
		if c.State != v1alpha1.StepVerified && c.State != v1alpha1.StepVerifying {
			steps = append(steps, string(c.State))
		}
	}
	if got := strings.Join(slices.Compact(steps), " "); got != "ADDING_NEW_ROOT PROPAGATING_NEW_INTERMEDIATE DELETING_OLD_ROOT FINISHED" {
		t.Errorf("steps %s", got)
	}
	for _, c := range []string{"east", "west"} {
		if o := w.live(c).Spec; o.Signer != signerOf(after) || len(o.Roots) != 1 || !o.Rotation.Closed {
			t.Errorf("the order of %s is %+v", c, o)
		}
	}
	w.quiet()
}

func TestRotationBack(t *testing.T) {
	w := start(t)
	before := young(w, "east", "west")
	say := func(name string, action v1alpha1.VerificationAction, rotationID string, step v1alpha1.RotationStep) *v1alpha1.CertificateVerification {
		cv := &v1alpha1.CertificateVerification{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: system},
			Spec: v1alpha1.CertificateVerificationSpec{
				VirtualMesh: v1alpha1.ObjectRef{Name: "one", Namespace: system}, RotationID: rotationID, Step: step, Action: action,
			},
		}
		w.create(cv)
		return cv
	}
	judged := func(cv *v1alpha1.CertificateVerification, state v1alpha1.VerificationState) *v1alpha1.CertificateVerification {
		testenv.Eventually(w, "judgement of "+cv.Name, func() error {
			w.get(cv, system, cv.Name)
			return want(cv.Status.State, state)
		})
		return cv
	}
	manual := func(vm *v1alpha1.VirtualMesh) {
		vm.Spec.MTLSConfig.RotationVerificationMethod = &v1alpha1.RotationVerificationMethod{Manual: &v1alpha1.Empty{}}
	}
	w.run("a word is awaited, and a stale one moves nothing", func(t *testing.T) {
		update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) {
			manual(vm)
			vm.Spec.MTLSConfig.Shared.RotationTrigger = "a"
		})
		vm := w.play("one", "wait for a word", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(at(v1alpha1.StepVerifying)(vm), is(vm.Status.Conditions, v1alpha1.ConditionStalled, metav1.ConditionTrue, "AwaitsWord"))
		}, "east", "west")
		id := vm.Status.Rotation.RotationID
		stale := judged(say("stale", "", "r0-00000000", v1alpha1.StepAddingNewRoot), v1alpha1.VerificationInvalid)
		if says := fmt.Sprint(stale.Status.Errors); !strings.Contains(says, id) || !strings.Contains(says, "ADDING_NEW_ROOT") {
			t.Errorf("it says %s", says)
		}
		on := judged(say("on", "", id, v1alpha1.StepAddingNewRoot), v1alpha1.VerificationVerified)
		w.play("one", "wait for the next word", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(at(v1alpha1.StepVerifying)(vm), want(vm.Status.Rotation.Place, v1alpha1.StepPropagatingNewIntermediate))
		}, "east", "west")
		w.get(on, system, on.Name)
		if on.Status.State != v1alpha1.VerificationVerified {
			t.Errorf("it was judged anew: %+v", on.Status)
		}
	})
	w.run("by words, step by step", func(t *testing.T) {
		vm := w.sees("one", "place", at(v1alpha1.StepVerifying))
		judged(say("back", v1alpha1.VerificationRollback, vm.Status.Rotation.RotationID, v1alpha1.StepPropagatingNewIntermediate), v1alpha1.VerificationVerified)
		vm = w.play("one", "way back", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(at(v1alpha1.StepVerifying)(vm), want(vm.Status.Rotation.Place, v1alpha1.StepAddingNewRoot))
		}, "east", "west")
		judged(say("further", v1alpha1.VerificationRollback, vm.Status.Rotation.RotationID, v1alpha1.StepAddingNewRoot), v1alpha1.VerificationVerified)
		vm = w.play("one", "end of the way back", func(vm *v1alpha1.VirtualMesh) error {
			if r := vm.Status.Rotation; r.Step == v1alpha1.StepVerifying && r.Place == v1alpha1.StepPreviousCA {
				end := &v1alpha1.CertificateVerification{
					ObjectMeta: metav1.ObjectMeta{Name: "end", Namespace: system},
					Spec:       v1alpha1.CertificateVerificationSpec{VirtualMesh: v1alpha1.ObjectRef{Name: "one"}, RotationID: r.RotationID, Step: r.Place},
				}
				if err := client.IgnoreAlreadyExists(w.Create(context.Background(), end)); err != nil {
					return err
				}
			}
			return errors.Join(at(v1alpha1.StepPreviousCA)(vm), is(vm.Status.Conditions, v1alpha1.ConditionStalled, metav1.ConditionTrue, "RolledBack"))
		}, "east", "west")
		if got := w.live("east").Spec.Signer; got != signerOf(before) || signerOf(vm) != signerOf(before) {
			t.Errorf("root %s signs", got)
		}
	})
	w.run("by the spec", func(t *testing.T) {
		update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) {
			vm.Spec.MTLSConfig.RotationVerificationMethod = nil
			vm.Spec.MTLSConfig.Shared.RotationTrigger = "b"
		})
		w.play("one", "another rotation", func(vm *v1alpha1.VirtualMesh) error {
			return want(vm.Status.Rotation.Place, v1alpha1.StepPropagatingNewIntermediate)
		}, "east", "west")
		w.trigger("")
		vm := w.play("one", "reversal", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(deployed(vm), at(v1alpha1.StepPreviousCA)(vm))
		}, "east", "west")
		if signerOf(vm) != signerOf(before) {
			t.Error("the root is another one")
		}
		testenv.Eventually(t, "erasure of the roots that came to nothing", func() error { return want(len(w.rootSecrets()), 1) })
	})
}

// own has the agent of a cluster report a CA of the mesh's own.
func (w *world) own(cluster string, source v1alpha1.CertificateAuthoritySource) (root string) {
	w.Helper()
	ca := pkitest.NewRoot(w, cluster, time.Now())
	id := ca.Root().ID().String()
	w.uses(cluster, v1alpha1.MeshCertificateAuthority{
		Source: source, Signer: id, Roots: []string{id}, InUse: []string{id},
		RootCertificates: []v1alpha1.RootCertificate{{Fingerprint: id, Certificate: string(ca.Root().PEM())}},
	})
	return id
}

// first waits for the first order of a cluster.
func (w *world) first(cluster string) (spec v1alpha1.IssuedCertificateSpec) {
	w.Helper()
	testenv.Eventually(w, "first order", func() error {
		ic := &v1alpha1.IssuedCertificate{}
		err := w.Get(context.Background(), client.ObjectKey{Namespace: "isthmus-" + cluster, Name: meshName(cluster)}, ic)
		spec = ic.Spec
		return err
	})
	return spec
}

func TestFirstAdoption(t *testing.T) {
	w := start(t)
	young(w, "east")
	w.register("west")
	w.register("north")
	own, plugged := w.own("west", v1alpha1.CASourceSelfSigned), w.own("north", v1alpha1.CASourcePlugged)
	members := func(clusters ...string) {
		update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) { vm.Spec.Meshes = virtualMesh("one", clusters...).Spec.Meshes })
	}
	w.run("not before its istiod serves under its own CA", func(t *testing.T) {
		serves := func(root string) {
			updateStatus(w, &v1alpha1.Mesh{}, "isthmus-west", meshName("west"), func(m *v1alpha1.Mesh) {
				m.Status.CertificateAuthority.InUse = []string{root}
			})
		}
		serves(strings.Repeat("ab", 32))
		members("east", "west")
		w.sees("one", "complaint", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(is(vm.Status.Conditions, v1alpha1.ConditionStalled, metav1.ConditionTrue, v1alpha1.ReasonRestartRequired),
				want(strings.Contains(fmt.Sprint(vm.Status.Rotation.Waits), "restart istiod"), true))
		})
		serves(own)
	})
	w.run("by a certificate of the new root under its own", func(t *testing.T) {
		o := w.first("west")
		if len(o.Roots) != 2 || o.Roots[0].Fingerprint != own || o.Rotation == nil || !o.Rotation.Alone || !o.Restart.Istiod {
			t.Errorf("the first order is %+v", o)
		}
		if o.CrossCertificate == nil || o.CrossCertificate.Certificate != "" {
			t.Errorf("only the mesh has the key of its own root: %+v", o.CrossCertificate)
		}
		w.sees("one", "no trust yet", func(vm *v1alpha1.VirtualMesh) error {
			return is(vm.Status.Conditions, v1alpha1.ConditionTrustEstablished, metav1.ConditionFalse, "")
		})
		vm := w.play("one", "adoption", deployed, "east", "west")
		if o := w.live("west").Spec; o.Signer != signerOf(vm) || len(o.Roots) != 1 {
			t.Errorf("the last order is %+v", o)
		}
	})
	w.run("step by step, where its key is not at hand", func(t *testing.T) {
		members("east", "west", "north")
		if o := w.first("north"); o.Issuance != 0 || o.Signer != plugged || len(o.Roots) != 2 || o.Prepared == nil || o.CrossCertificate != nil {
			t.Errorf("the first order is %+v", o)
		}
		vm := w.play("one", "adoption", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(deployed(vm), want(w.live("north").Spec.Signer, signerOf(vm)))
		}, "east", "west", "north")
		if n := len(w.rootSecrets()); n != 1 || len(vm.Status.Roots) != 1 {
			t.Errorf("%d root Secrets", n)
		}
	})
}

// TestRollingRotation replaces a root where nothing follows live, with a certificate of the new one under the old.
func TestRollingRotation(t *testing.T) {
	w := start(t)
	w.rolling = true
	young(w, "east")
	w.trigger("now")
	var crosses []string
	w.play("one", "rotation", func(vm *v1alpha1.VirtualMesh) error {
		if c := w.live("east").Spec.CrossCertificate; c != nil && !slices.Contains(crosses, c.Certificate) {
			crosses = append(crosses, c.Certificate)
		}
		return errors.Join(deployed(vm), at(v1alpha1.StepFinished)(vm))
	}, "east")
	if len(crosses) != 1 || crosses[0] == "" {
		t.Errorf("cross-certificates %q", crosses)
	}
}

func TestTriggers(t *testing.T) {
	w := start(t)
	w.register("east")
	content := func() map[string][]byte { return pkitest.NewRoot(w, "provided", time.Now()).RootSecret(w) }
	w.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "ca", Namespace: system}, Data: content()})
	vm := virtualMesh("one", "east")
	vm.Spec.MTLSConfig = secretRoot("ca", "")
	w.create(vm)
	w.carryOut("east", 1)
	last := signerOf(w.sees("one", "trust", deployed))
	rotates := func(what string) {
		w.Helper()
		vm := w.play("one", what, func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(deployed(vm), want(vm.Status.DeployedSharedTrust != nil && signerOf(vm) != last, true))
		}, "east")
		last = signerOf(vm)
	}
	w.run("another content of the Secret", func(*testing.T) {
		update(w, &corev1.Secret{}, system, "ca", func(s *corev1.Secret) { s.Data = content() })
		rotates("rotation to another content")
	})
	w.run("another source", func(*testing.T) {
		update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) {
			vm.Spec.MTLSConfig = virtualMesh("one", "east").Spec.MTLSConfig
		})
		rotates("rotation to another source")
	})
	w.run("its age", func(*testing.T) {
		w.stop()
		w.ahead.Store(int64(340 * 24 * time.Hour))
		w.heartbeat("east", time.Now().Add(340*24*time.Hour))
		w.startHub()
		rotates("rotation because of age")
	})
}

func TestRotationSurvivesTheHub(t *testing.T) {
	w := start(t)
	young(w, "east", "west")
	w.trigger("now")
	w.play("one", "rotation", func(vm *v1alpha1.VirtualMesh) error {
		return want(vm.Status.Rotation.Place, v1alpha1.StepPropagatingNewIntermediate)
	}, "east", "west")
	backup := w.live("east").Spec
	w.play("one", "next step", func(vm *v1alpha1.VirtualMesh) error {
		return want(vm.Status.Rotation.Place, v1alpha1.StepDeletingOldRoot)
	}, "east", "west")
	w.stop()
	update(w, &v1alpha1.IssuedCertificate{}, "isthmus-east", meshName("east"), func(ic *v1alpha1.IssuedCertificate) { ic.Spec = backup })
	w.startHub()
	w.play("one", "end", deployed, "east", "west")
	if got := w.live("east").Spec.Serial; got <= backup.Serial {
		t.Errorf("serial %d", got)
	}
}

// TestRestoredWithoutTheNewRoot: the backup is from before the last rotation, so the root that is in use is not in it. Orders stay
// as they are until the Secret is there.
func TestRestoredWithoutTheNewRoot(t *testing.T) {
	w := start(t)
	vm := young(w, "east", "west")
	old := signerOf(vm)
	backups := []*v1alpha1.IssuedCertificate{w.live("east"), w.live("west")}
	oldRoot := w.rootSecrets()[0]
	w.trigger("now")
	w.play("one", "rotation", func(vm *v1alpha1.VirtualMesh) error { return errors.Join(deployed(vm), want(len(w.rootSecrets()), 1)) }, "east", "west")
	secret := &w.rootSecrets()[0]
	w.stop()
	w.remove(secret)
	oldRoot.ResourceVersion, oldRoot.UID = "", ""
	w.create(&oldRoot)
	for _, b := range backups {
		update(w, &v1alpha1.IssuedCertificate{}, b.Namespace, b.Name, func(ic *v1alpha1.IssuedCertificate) { ic.Spec = b.Spec })
	}
	update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) { vm.Spec.MTLSConfig.Shared.RotationTrigger = "" })
	w.startHub()
	w.sees("one", "complaint", func(vm *v1alpha1.VirtualMesh) error {
		return errors.Join(is(vm.Status.Conditions, v1alpha1.ConditionStalled, metav1.ConditionTrue, ""),
			want(strings.Contains(fmt.Sprint(vm.Status.Rotation.Waits), "whose Secret is missing from the hub"), true))
	})
	update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) {
		vm.Spec.MTLSConfig.Shared.IntermediateCertOptions = &v1alpha1.CertOptions{OrgName: "Another"}
	})
	w.quiet()
	for _, b := range backups {
		ic := &v1alpha1.IssuedCertificate{}
		if w.get(ic, b.Namespace, b.Name); ic.Spec.Signer != old || ic.Spec.Serial != b.Spec.Serial {
			t.Errorf("the order was moved: %+v", ic.Spec)
		}
	}
	secret.ResourceVersion, secret.UID = "", ""
	w.create(secret)
	update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) { vm.Spec.MTLSConfig.Shared.RotationTrigger = "now" })
	w.play("one", "trust under the root that was in use", func(vm *v1alpha1.VirtualMesh) error {
		return errors.Join(deployed(vm), want(w.live("east").Spec.Signer != old, true), want(w.live("west").Spec.CertOptions.OrgName, "Another"))
	}, "east", "west")
}

func TestRetainedMemberTakesNoPart(t *testing.T) {
	w := start(t)
	before := young(w, "east", "west")
	update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) {
		vm.Spec.Meshes = vm.Spec.Meshes[:1]
		vm.Spec.MTLSConfig.Shared.RotationTrigger = "now"
	})
	vm := w.play("one", "rotation of the other", deployed, "east")
	if got := w.live("west").Spec.Signer; got != signerOf(before) || got == signerOf(vm) {
		t.Errorf("west is under %s", got)
	}
	if n := len(w.rootSecrets()); n != 2 {
		t.Errorf("%d root Secrets: that of the retained mesh is needed to renew its certificate", n)
	}
}

func TestWaiver(t *testing.T) {
	w := start(t)
	young(w, "east", "west")
	w.heartbeat("west", time.Now().Add(-time.Hour))
	testenv.Eventually(t, "disconnection", func() error {
		kc := &v1alpha1.KubernetesCluster{}
		w.get(kc, system, "west")
		return is(kc.Status.Conditions, v1alpha1.ConditionConnected, metav1.ConditionFalse, "")
	})
	w.trigger("now")
	west := meshName("west") + ".isthmus-west"
	vm := w.play("one", "wait for west", func(vm *v1alpha1.VirtualMesh) error {
		return errors.Join(at(v1alpha1.StepAddingNewRoot)(vm), want(strings.Contains(fmt.Sprint(vm.Status.Rotation.Waits), "mesh "+west+": its cluster is not connected"), true))
	}, "east")
	before := w.live("west").Generation
	cv := &v1alpha1.CertificateVerification{ObjectMeta: metav1.ObjectMeta{Name: "gone", Namespace: system}}
	cv.Spec = v1alpha1.CertificateVerificationSpec{
		VirtualMesh: v1alpha1.ObjectRef{Name: "one"}, RotationID: vm.Status.Rotation.RotationID, Step: vm.Status.Rotation.Place,
		Waive: []v1alpha1.Waiver{{Mesh: west, Reason: "burnt down"}},
	}
	w.create(cv)
	w.play("one", "the next step", func(vm *v1alpha1.VirtualMesh) error {
		return want(vm.Status.Rotation.Place, v1alpha1.StepPropagatingNewIntermediate)
	}, "east")
	testenv.Eventually(t, "judgement", func() error {
		w.get(cv, system, cv.Name)
		return want(cv.Status.State, v1alpha1.VerificationVerified)
	})
	if w.live("west").Generation != before {
		t.Error("who is waived was moved")
	}
}
