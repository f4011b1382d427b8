package certificates

import (
	"bytes"
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
)

// steps gives a mesh the orders of a rotation, as the hub does.
type steps struct {
	*world
	p         *process
	old, next pki.Root
	serial    int64
	// pushes: istiod pushes its roots to proxies, which take new leaves.
	pushes bool
}

func (s *steps) oldSigns(spec *v1alpha1.IssuedCertificateSpec) {
	spec.Issuance, spec.Signer, spec.Prepared = 0, s.old.ID().String(), &v1alpha1.PreparedIntermediate{Issuance: 1, Signer: s.next.ID().String()}
}

func (s *steps) newSigns(spec *v1alpha1.IssuedCertificateSpec) {
	spec.Issuance, spec.Signer, spec.Prepared = 1, s.next.ID().String(), &v1alpha1.PreparedIntermediate{Signer: s.old.ID().String()}
}

func (s *steps) order(stage v1alpha1.RotationStage, back bool, roots []pki.Root, edit func(*v1alpha1.IssuedCertificateSpec)) {
	s.t.Helper()
	s.serial++
	s.world.order(func(spec *v1alpha1.IssuedCertificateSpec) {
		nudge := int64(0)
		if spec.Rotation != nil {
			nudge = spec.Rotation.Nudge
		}
		spec.Serial, spec.Restart, spec.Roots = s.serial, v1alpha1.RequiredRestart{}, nil
		for _, r := range roots {
			spec.Roots = append(spec.Roots, v1alpha1.RootCertificate{Fingerprint: r.ID().String(), Certificate: string(r.PEM())})
		}
		spec.Rotation = &v1alpha1.OrderRotation{
			RotationID: "r1", Step: v1alpha1.StepAddingNewRoot, Old: s.old.ID().String(), New: s.next.ID().String(),
			Stage: stage, Back: back, Alone: true, Nudge: nudge,
		}
		edit(spec)
	})
}

// reached waits until the agent has carried out the order and has seen a proxy that is as ordered.
func (s *steps) reached(what string, f func(cp *v1alpha1.ControlPlaneEvidence, proxies *v1alpha1.ProxyEvidence) bool) *v1alpha1.IssuedCertificate {
	s.t.Helper()
	return s.until(s.p, what, func(o *v1alpha1.IssuedCertificate) bool {
		if s.pushes {
			s.push()
		}
		is := &o.Status
		return is.Carried != nil && is.Carried.Serial == s.serial && finished(o) && is.ControlPlane.Published &&
			is.Proxies != nil && is.Proxies.Total == 1 && f(is.ControlPlane, is.Proxies)
	})
}

func asOrdered(_ *v1alpha1.ControlPlaneEvidence, p *v1alpha1.ProxyEvidence) bool {
	return p.SignedByNew == 1 && p.TrustsNew == 1 && p.Unknown == 0
}

// rotates is a mesh that runs with its own self-signed CA and is going to have another root.
func rotates(t *testing.T, name string) (*steps, *writes) {
	t.Helper()
	w := newWorld(t, hubCluster, memberCluster, name)
	w.create(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.rootNS, Name: selfSignedSecret},
		Data:       w.selfSigned.SelfSignedSecret(t),
	})
	own, err := pki.ReadCACerts(w.selfSigned.SelfSignedSecret(t), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w.workload("app", "sidecar", own, time.Now().Add(-time.Hour))
	w.live = true
	p, k := w.start(-1)
	return &steps{world: w, p: p, old: own.Root, next: w.root.Root}, k
}

// testRotation takes a mesh that runs with its own self-signed CA to another root, back by two steps, and forth again, by orders
// as the hub gives them.
func testRotation(t *testing.T) {
	w, k := rotates(t, "rotation")
	p, old, next := w.p, w.old, w.next
	order, reached, oldSigns, newSigns := w.order, w.reached, w.oldSigns, w.newSigns

	order(v1alpha1.StageOldSigns, false, []pki.Root{old, next}, func(s *v1alpha1.IssuedCertificateSpec) {
		oldSigns(s)
		s.Restart.Istiod = true
	})
	o := reached("both roots at istiod", func(_ *v1alpha1.ControlPlaneEvidence, p *v1alpha1.ProxyEvidence) bool {
		return p.SignedByNew == 1 && p.TrustsNew == 0
	})
	if r := o.Status.ControlPlane.Replicas[0]; r.Signer != old.ID().String() || len(r.Roots) != 2 || w.rolls != 1 {
		t.Fatalf("replica = %+v, restarted %d times", r, w.rolls)
	}
	// As it is restarted it has the roots of before: the replicas that go and those that come agree.
	if want := []int{1, 1}; !slices.Equal(w.begunWith, want) {
		t.Fatalf("replicas began with %v roots, want %v", w.begunWith, want)
	}
	if c := o.Status.Certificate; c.Issuance != 0 || c.Signer != old.ID().String() || o.Status.Prepared == nil || o.Status.Prepared.Issuance != 1 {
		t.Fatalf("certificate = %+v, prepared = %+v", c, o.Status.Prepared)
	}
	w.pushes = true
	reached("both roots at proxies", asOrdered)

	order(v1alpha1.StageNewSigns, false, []pki.Root{old, next}, newSigns)
	reached("the new signer at istiod", func(_ *v1alpha1.ControlPlaneEvidence, p *v1alpha1.ProxyEvidence) bool {
		return p.SignedByNew == 0 && p.TrustsNew == 1
	})
	order(v1alpha1.StageNewSigns, false, []pki.Root{old, next}, func(s *v1alpha1.IssuedCertificateSpec) {
		newSigns(s)
		s.Rotation.Nudge, s.Rotation.Nudges = 1, 1
	})
	reached("the new leaf", asOrdered)
	if w.rolls != 1 {
		t.Fatalf("istiod was restarted %d times", w.rolls)
	}

	dropOld := func() {
		t.Helper()
		order(v1alpha1.StageNewOnly, false, []pki.Root{next}, func(s *v1alpha1.IssuedCertificateSpec) {
			newSigns(s)
			s.Restart.Istiod = true
		})
		o := reached("the old root is dropped", func(cp *v1alpha1.ControlPlaneEvidence, p *v1alpha1.ProxyEvidence) bool {
			return asOrdered(cp, p) && p.RefusesOld == 1
		})
		if r := o.Status.ControlPlane.Replicas[0]; len(r.Clients) != 0 || !slices.Equal(r.Roots, []string{next.ID().String()}) {
			t.Fatalf("replica = %+v", r)
		}
	}
	dropOld()
	if w.rolls != 2 {
		t.Fatalf("istiod was restarted %d times", w.rolls)
	}

	t.Run("an older order is not carried out", func(t *testing.T) {
		defer w.as(t)()
		before := w.cacerts().Data
		w.world.order(func(s *v1alpha1.IssuedCertificateSpec) { oldSigns(s); s.Serial = 1 })
		o := w.until(p, "the refusal", func(o *v1alpha1.IssuedCertificate) bool { return reason(o) == ReasonOutdated })
		if o.Status.Carried.Serial != w.serial || !bytes.Equal(w.cacerts().Data[pki.CACertKey], before[pki.CACertKey]) {
			t.Fatalf("carried = %+v", o.Status.Carried)
		}
		w.settled(p, k)
	})

	// Back by two steps, and forth again.
	order(v1alpha1.StageNewSigns, true, []pki.Root{next, old}, newSigns)
	reached("both roots at proxies again", asOrdered)
	order(v1alpha1.StageOldSigns, true, []pki.Root{next, old}, func(s *v1alpha1.IssuedCertificateSpec) {
		oldSigns(s)
		s.Rotation.Nudge++
	})
	if o := reached("the old signer at proxies", asOrdered); o.Status.Certificate.Issuance != 0 {
		t.Fatalf("certificate = %+v", o.Status.Certificate)
	}
	order(v1alpha1.StageNewSigns, false, []pki.Root{next, old}, func(s *v1alpha1.IssuedCertificateSpec) {
		newSigns(s)
		s.Rotation.Nudge++
	})
	reached("the new leaf again", asOrdered)
	dropOld()

	order(v1alpha1.StageNewOnly, false, []pki.Root{next}, func(s *v1alpha1.IssuedCertificateSpec) {
		newSigns(s)
		s.Prepared, s.Rotation.Closed = nil, true
	})
	reached("the end", asOrdered)
	w.settled(p, k)
	secret := &corev1.Secret{}
	w.get(w.agentNS, wantedName(w.mesh()), secret)
	for key := range secret.Data {
		if strings.HasPrefix(key, sparePrefix) {
			t.Errorf("the CA that the mesh came with is still kept: %s", key)
		}
	}
	k.verify(t)
}

// testLeavingProxy has a pod be deleted that has not followed yet. It goes on calling others until it is gone, and so it is waited for,
// but not longer than it may take.
func testLeavingProxy(t *testing.T) {
	w, _ := rotates(t, "leaving")
	w.order(v1alpha1.StageOldSigns, false, []pki.Root{w.old, w.next}, func(s *v1alpha1.IssuedCertificateSpec) {
		w.oldSigns(s)
		s.Restart.Istiod = true
	})
	behind := func(_ *v1alpha1.ControlPlaneEvidence, p *v1alpha1.ProxyEvidence) bool { return p.TrustsNew == 0 }
	w.reached("both roots at istiod", behind)

	leave := func(grace client.GracePeriodSeconds) {
		t.Helper()
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.rootNS, Name: "app-g1-x"}}
		if err := w.member.Delete(t.Context(), pod, grace); err != nil {
			t.Fatal(err)
		}
	}
	leave(3600)
	o := w.reached("the pod is on its way out", func(cp *v1alpha1.ControlPlaneEvidence, p *v1alpha1.ProxyEvidence) bool {
		return behind(cp, p) && len(p.Laggards) == 1 && strings.Contains(p.Laggards[0], "on its way out")
	})
	leave(1)
	for start := time.Now(); o.Status.Proxies.Total != 0; o = w.getOrder() {
		if err := w.round(t.Context(), w.p); err != nil {
			t.Fatal(err)
		}
		if time.Since(start) > time.Minute {
			t.Fatalf("it is waited for for ever: %+v", o.Status.Proxies)
		}
	}
}

// testReissuedRoot takes a mesh to a root that has the subject and the key of the one before. Nobody can tell leaves under the one
// from leaves under the other, but everybody has the new certificate before the old one is dropped.
func testReissuedRoot(t *testing.T) {
	w, k := rotates(t, "reissued")
	again := pkitest.NewRootOf(t, w.selfSigned.Cert.Subject.CommonName, w.selfSigned.Key, time.Now())
	w.root, w.next = again.Material(t), again.Root()
	if !w.next.Reissues(w.old) {
		t.Fatal("it is another root")
	}
	w.pushes, w.sidecars["app"].plugged = true, true // its leaves come with the roots
	both := []pki.Root{w.old, w.next}
	w.order(v1alpha1.StageOldSigns, false, both, func(s *v1alpha1.IssuedCertificateSpec) {
		w.oldSigns(s)
		s.Restart.Istiod = true
	})
	o := w.reached("both roots", asOrdered)
	if r := o.Status.ControlPlane.Replicas[0]; r.Signer != w.old.ID().String() || len(r.Roots) != 2 || o.Status.Certificate.Signer != w.old.ID().String() {
		t.Fatalf("replica = %+v, certificate %+v", r, o.Status.Certificate)
	}
	w.pushes = false
	w.order(v1alpha1.StageNewSigns, false, both, w.newSigns)
	o = w.reached("the new signer at istiod", func(_ *v1alpha1.ControlPlaneEvidence, p *v1alpha1.ProxyEvidence) bool {
		return p.SignedByNew == 0 && p.TrustsNew == 1
	})
	if r := o.Status.ControlPlane.Replicas[0]; r.Signer != w.next.ID().String() || len(r.Roots) != 2 || o.Status.Certificate.Signer != w.next.ID().String() {
		t.Fatalf("replica = %+v, certificate %+v", r, o.Status.Certificate)
	}
	w.pushes = true
	w.order(v1alpha1.StageNewSigns, false, both, func(s *v1alpha1.IssuedCertificateSpec) {
		w.newSigns(s)
		s.Rotation.Nudge, s.Rotation.Nudges = 1, 1
	})
	w.reached("the new leaf", asOrdered)
	w.order(v1alpha1.StageNewOnly, false, []pki.Root{w.next}, func(s *v1alpha1.IssuedCertificateSpec) {
		w.newSigns(s)
		s.Restart.Istiod = true
	})
	o = w.reached("the old root is dropped", func(cp *v1alpha1.ControlPlaneEvidence, p *v1alpha1.ProxyEvidence) bool {
		return asOrdered(cp, p) && p.RefusesOld == 1
	})
	if r := o.Status.ControlPlane.Replicas[0]; len(r.Clients) != 0 || !slices.Equal(r.Roots, []string{w.next.ID().String()}) {
		t.Fatalf("replica = %+v", r)
	}
	w.order(v1alpha1.StageNewOnly, false, []pki.Root{w.next}, func(s *v1alpha1.IssuedCertificateSpec) {
		w.newSigns(s)
		s.Prepared, s.Rotation.Closed = nil, true
	})
	w.reached("the end", asOrdered)
	w.settled(w.p, k)
	k.verify(t)
}
