package meshctl_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/hub/registration"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

var oldRoot, newRoot = strings.Repeat("a", 64), strings.Repeat("b", 64)

const (
	virtualMesh = "virtual-mesh"
	rotationID  = "r-1"
)

// rotatingWorld has a virtual mesh of two meshes in the middle of a rotation, as hub and agents leave it: all leaves of east
// have moved, one proxy of west has not, and does not answer.
func rotatingWorld(t *testing.T) (*world, *clusterOf) {
	t.Helper()
	w := newWorld(t)
	h := &clusterOf{w.hub}
	spec := v1alpha1.VirtualMeshSpec{
		Meshes:     []v1alpha1.ObjectRef{{Name: eastMesh, Namespace: "isthmus-east"}, {Name: westMesh, Namespace: "isthmus-west"}},
		MTLSConfig: &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{}},
	}
	for _, ns := range []string{"isthmus-system", "isthmus-east", "isthmus-west"} {
		h.Namespace(t, ns, nil)
	}
	h.create(t,
		&v1alpha1.VirtualMesh{
			ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-system", Name: virtualMesh}, Spec: spec,
			Status: v1alpha1.VirtualMeshStatus{
				State: v1alpha1.StatePending, Accepted: &v1alpha1.AcceptedVirtualMesh{Generation: 1, Spec: spec},
				Rotation: &v1alpha1.RotationStatus{
					RotationID: rotationID, Step: v1alpha1.StepPropagatingNewIntermediate, Place: v1alpha1.StepPropagatingNewIntermediate, Since: metav1.Now(),
					Waits:      []string{westMesh + ".isthmus-west: not every proxy is seen to be as ordered"},
					Conditions: []v1alpha1.CertificateRotationCondition{{State: v1alpha1.StepAddingNewRoot, Message: "begun by rotationTrigger"}},
				},
			},
		},
		rotating("isthmus-east", eastMesh, 4), rotating("isthmus-west", westMesh, 3, "default/reviews-1-x: no leaf under the new root; restart it"))
	return w, h
}

// rotating is an order at NewSigns of a mesh with four proxies, of which some have moved.
func rotating(namespace, name string, moved int32, laggards ...string) *v1alpha1.IssuedCertificate {
	roots := []string{oldRoot, newRoot}
	position := &v1alpha1.OrderRotation{RotationID: rotationID, Step: v1alpha1.StepPropagatingNewIntermediate, Old: oldRoot, New: newRoot, Stage: v1alpha1.StageNewSigns}
	ic := &v1alpha1.IssuedCertificate{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.IssuedCertificateSpec{
			VirtualMesh: v1alpha1.ObjectRef{Name: virtualMesh, Namespace: "isthmus-system"}, Serial: 3, Issuance: 2, Signer: newRoot,
			Hosts: []string{"spiffe://cluster.local/ns/istio-system/sa/istiod"}, Rotation: position,
			IssuedCertificateSecret: v1alpha1.SecretRef{Namespace: "istio-system", Name: "cacerts"},
		},
		Status: v1alpha1.IssuedCertificateStatus{
			State: v1alpha1.IssuedCertificateIssued, Carried: &v1alpha1.CarriedOrder{Serial: 3},
			ControlPlane: &v1alpha1.ControlPlaneEvidence{
				Replicas: []v1alpha1.IstiodReplica{
					{Pod: "istiod-1", Signer: newRoot, Roots: []string{newRoot, oldRoot}, Clients: roots},
					{Pod: "istiod-2", Signer: newRoot, Roots: roots, Clients: roots},
				},
				RootConfigMaps: &v1alpha1.Progress{Done: 14, Total: 14},
			},
			Proxies: &v1alpha1.ProxyEvidence{Total: 4, Live: 4, TrustsNew: 4, SignedByNew: moved, Behind: int32(len(laggards)), Laggards: laggards},
		},
	}
	for _, root := range roots {
		ic.Spec.Roots = append(ic.Spec.Roots, v1alpha1.RootCertificate{Fingerprint: root, Certificate: "PEM"})
	}
	return ic
}

// rotation changes what the hub says of the rotation.
func (c *clusterOf) rotation(t *testing.T, change func(*v1alpha1.RotationStatus)) {
	t.Helper()
	c.status(t, "isthmus-system", virtualMesh, func(vm *v1alpha1.VirtualMesh) { change(vm.Status.Rotation) })
}

func (c *clusterOf) status(t *testing.T, namespace, name string, change func(*v1alpha1.VirtualMesh)) {
	t.Helper()
	testenv.Eventually(t, "the status is written", func() error {
		vm := &v1alpha1.VirtualMesh{}
		if err := exists(c.Client, vm, namespace, name); err != nil {
			return err
		}
		change(vm)
		return c.Client.Status().Update(t.Context(), vm)
	})
}

// close ends the rotation in one mesh.
func (c *clusterOf) close(t *testing.T, namespace, name string) {
	t.Helper()
	ic := &v1alpha1.IssuedCertificate{}
	if err := exists(c.Client, ic, namespace, name); err != nil {
		t.Fatal(err)
	}
	ic.Spec.Rotation.Stage, ic.Spec.Rotation.Closed = v1alpha1.StageNewOnly, true
	if err := c.Client.Update(t.Context(), ic); err != nil {
		t.Fatal(err)
	}
}

// stand does what the hub would do upon changes of objects of a kind, until the test ends.
func (w *world) stand(t *testing.T, list client.ObjectList, do func(client.Client, watch.Event)) {
	t.Helper()
	c, err := client.NewWithWatch(w.hub.Config, client.Options{Scheme: testenv.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	events, err := c.Watch(t.Context(), list)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(events.Stop)
	go func() {
		for e := range events.ResultChan() {
			do(c, e)
		}
	}()
}

func matches(t *testing.T, text string, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile(p).MatchString(text) {
			t.Errorf("no %q in:\n%s", p, text)
		}
	}
}

func TestRotationStatus(t *testing.T) {
	w, h := rotatingWorld(t)
	matches(t, w.ok(t, "rotation", "status"),
		`ID +r-1`, `Step +PROPAGATING_NEW_INTERMEDIATE`, `not every proxy is seen`,
		eastMesh+`.isthmus-east +NewSigns +carried out +2/2 +14/14 +\[#{20}\] +4/4 have a leaf under the new root +0 +0`,
		westMesh+`.isthmus-west +NewSigns +carried out +2/2 +14/14 +\[#{15}\.{5}\] +3/4 have a leaf under the new root +1 +0`,
		`Laggards:\n  `+westMesh+`.isthmus-west: default/reviews-1-x`)
	matches(t, w.ok(t, "describe", "virtualmesh", virtualMesh), `Rotation:\n  ID +r-1`, `Steps taken:\n.*ADDING_NEW_ROOT +begun by rotationTrigger`)
	var view struct {
		UnderWay bool
		Meshes   []struct{ Proxies v1alpha1.Progress }
	}
	if err := json.Unmarshal([]byte(w.ok(t, "rotation", "status", virtualMesh, "-o", "json")), &view); err != nil || !view.UnderWay || view.Meshes[1].Proxies != (v1alpha1.Progress{Done: 3, Total: 4}) {
		t.Fatalf("%+v, %v", view, err)
	}
	w.fails(t, 2, "--watch shows text", "rotation", "status", "--watch", "-o", "yaml")
	w.fails(t, 1, `no VirtualMesh in namespace isthmus-system is named "x"; there are virtual-mesh`, "rotation", "status", "x")
	w.givesUp(t, "not every proxy is seen", "rotation", "status", "--watch")

	// Evidence of an earlier order says nothing.
	order := &v1alpha1.IssuedCertificate{}
	if err := exists(h.Client, order, "isthmus-west", westMesh); err != nil {
		t.Fatal(err)
	}
	order.Spec.Serial++
	if err := h.Client.Update(t.Context(), order); err != nil {
		t.Fatal(err)
	}
	matches(t, w.ok(t, "rotation", "status"), westMesh+`.isthmus-west +NewSigns +not carried out yet\n`)
}

// TestRotationWatch: what has changed is told, until the rotation is over in every mesh.
func TestRotationWatch(t *testing.T) {
	w, h := rotatingWorld(t)
	done := make(chan string)
	go func() {
		out, _, _ := w.meshctl(t, "rotation", "status", "--watch")
		done <- out
	}()
	h.close(t, "isthmus-east", eastMesh)
	h.rotation(t, func(r *v1alpha1.RotationStatus) { r.Step, r.Waits = v1alpha1.StepFinished, nil })
	select {
	case out := <-done:
		t.Fatalf("it has ended while the rotation is under way in west:\n%s", out)
	default:
	}
	h.close(t, "isthmus-west", westMesh)
	out := <-done
	matches(t, out, `(?m)^VirtualMesh virtual-mesh: rotation r-1, FINISHED$`, `(?m)^`+westMesh+`.isthmus-west: NewOnly \(over\), carried out, istiod 2/2`)
	lines := strings.Split(out, "\n")
	slices.Sort(lines)
	if len(slices.Compact(lines)) != len(strings.Split(out, "\n")) {
		t.Errorf("it repeats itself:\n%s", out)
	}
}

func TestRotationWords(t *testing.T) {
	w, h := rotatingWorld(t)
	w.stand(t, &v1alpha1.CertificateVerificationList{}, func(c client.Client, e watch.Event) {
		word, ok := e.Object.(*v1alpha1.CertificateVerification)
		if !ok || e.Type != watch.Added {
			return
		}
		word.Status.State = v1alpha1.VerificationVerified
		switch {
		case word.Spec.Step != v1alpha1.StepPropagatingNewIntermediate:
			word.Status.State, word.Status.Errors = v1alpha1.VerificationInvalid, []string{"spec.step: the rotation is in PROPAGATING_NEW_INTERMEDIATE"}
		case word.Spec.Action == v1alpha1.VerificationContinue:
			word.Status.State = v1alpha1.VerificationPending
		}
		if err := c.Status().Update(context.Background(), word); err != nil {
			t.Error(err)
		}
	})
	w.fails(t, 2, "want MESH=REASON", "rotation", "approve", "--waive", westMesh)
	w.fails(t, 2, "is no member of VirtualMesh virtual-mesh; members are "+eastMesh, "rotation", "approve", "--waive", "x=lost")
	w.fails(t, 2, "twice", "rotation", "approve", "--waive", westMesh+"=lost", "--waive", westMesh+".isthmus-west=lost")
	matches(t, w.ok(t, "rotation", "approve", "--waive", westMesh+"=it burnt down, a=b"), `^PENDING`)
	matches(t, w.ok(t, "rotation", "rollback"), `^VERIFIED`)
	suspend := func(is bool) {
		t.Helper()
		vm := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-system", Name: virtualMesh}}
		if err := h.Client.Patch(t.Context(), vm, client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec":{"suspend":%t}}`, is))); err != nil {
			t.Fatal(err)
		}
	}
	suspend(true)
	w.fails(t, 1, "spec.suspend is true", "rotation", "approve")
	w.fails(t, 1, "spec.suspend is true", "rotation", "rollback")
	suspend(false)
	words := &v1alpha1.CertificateVerificationList{}
	if err := h.Client.List(t.Context(), words); err != nil {
		t.Fatal(err)
	}
	if len(words.Items) != 2 || words.Items[0].Spec.RotationID != rotationID ||
		!slices.Equal(words.Items[0].Spec.Waive, []v1alpha1.Waiver{{Mesh: westMesh + ".isthmus-west", Reason: "it burnt down, a=b"}}) {
		t.Errorf("%+v", words.Items)
	}
	h.rotation(t, func(r *v1alpha1.RotationStatus) { r.Place = v1alpha1.StepAddingNewRoot })
	w.fails(t, 1, "it is INVALID and moves nothing: spec.step", "rotation", "approve")

	h.rotation(t, func(r *v1alpha1.RotationStatus) { r.Step = v1alpha1.StepFinished })
	for namespace, name := range map[string]string{"isthmus-east": eastMesh, "isthmus-west": westMesh} {
		h.close(t, namespace, name)
	}
	w.fails(t, 1, "no rotation of VirtualMesh virtual-mesh is under way", "rotation", "rollback")
}

func TestRotationStart(t *testing.T) {
	w, h := rotatingWorld(t)
	trigger := func() string {
		vm := &v1alpha1.VirtualMesh{}
		if err := exists(h.Client, vm, "isthmus-system", virtualMesh); err != nil {
			t.Fatal(err)
		}
		return vm.Spec.MTLSConfig.Shared.RotationTrigger
	}
	w.fails(t, 1, "rotation r-1 of VirtualMesh virtual-mesh is under way, in step PROPAGATING_NEW_INTERMEDIATE", "rotation", "start")
	if trigger() != "" {
		t.Fatal("a refused start has triggered")
	}
	w.ok(t, "rotation", "start", "--force")
	first := trigger()
	h.rotation(t, func(r *v1alpha1.RotationStatus) { r.Step, r.Waits = v1alpha1.StepFinished, nil })
	for namespace, name := range map[string]string{"isthmus-east": eastMesh, "isthmus-west": westMesh} {
		h.close(t, namespace, name)
	}

	// The next one is waited for, and not the last one taken for it.
	w.stand(t, &v1alpha1.VirtualMeshList{}, func(c client.Client, e watch.Event) {
		vm, ok := e.Object.(*v1alpha1.VirtualMesh)
		if !ok || vm.Name != virtualMesh || vm.Spec.MTLSConfig.Shared.RotationTrigger == first || vm.Status.Rotation.Step == v1alpha1.StepFinished && vm.Status.Rotation.RotationID != rotationID {
			return
		}
		r := vm.Status.Rotation
		if r.RotationID == rotationID {
			r.RotationID, r.Step = "r-2", v1alpha1.StepAddingNewRoot
		} else {
			r.Step = v1alpha1.StepFinished
		}
		if err := c.Status().Update(context.Background(), vm); err != nil && !apierrors.IsConflict(err) {
			t.Error(err)
		}
	})
	matches(t, w.ok(t, "rotation", "start", "--watch"), `rotation r-2, FINISHED`)
	if second := trigger(); second == "" || second == first {
		t.Errorf("rotationTrigger was %q and is %q", first, second)
	}

	for says, change := range map[string]func(*v1alpha1.VirtualMeshSpec){
		"has no spec.mtlsConfig": func(s *v1alpha1.VirtualMeshSpec) { s.MTLSConfig = nil },
		"spec.suspend is true":   func(s *v1alpha1.VirtualMeshSpec) { s.Suspend = true },
		"that of Secret my-ca": func(s *v1alpha1.VirtualMeshSpec) {
			s.MTLSConfig = &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{RootCertificateAuthority: &v1alpha1.RootCertificateAuthority{Secret: &v1alpha1.SecretRef{Name: "my-ca"}}}}
		},
	} {
		vm := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-system", Name: "other"}}
		vm.Spec.Meshes = []v1alpha1.ObjectRef{{Name: eastMesh}}
		change(&vm.Spec)
		h.create(t, vm)
		w.fails(t, 1, says, "rotation", "start", "other")
		if err := h.Client.Delete(t.Context(), vm); err != nil {
			t.Fatal(err)
		}
	}
}

// TestClusterEvict: a cluster is shut out, nobody else is left out with it or let in instead, and the others get a new root.
func TestClusterEvict(t *testing.T) {
	w, h := rotatingWorld(t)
	west := v1alpha1.ObjectRef{Name: westMesh, Namespace: "isthmus-west"}
	mesh := v1alpha1.MeshSpec{
		Cluster: "west", Istio: v1alpha1.IstioMesh{RootNamespace: "istio-system", TrustDomain: "cluster.local", IstiodServiceAccount: "istiod"},
	}
	h.create(t,
		&v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-system", Name: "west"}},
		&v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-west", Name: westMesh}, Spec: mesh},
		// It has called one by the name of another cluster's, to have that taken out.
		&v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-west", Name: eastMesh}, Spec: mesh},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-west", Name: registration.CredentialName}},
		&v1alpha1.VirtualMesh{
			ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-system", Name: "by-name"},
			Spec: v1alpha1.VirtualMeshSpec{
				Meshes: []v1alpha1.ObjectRef{{Name: westMesh}, {Name: eastMesh}},
				Federation: &v1alpha1.Federation{
					Selectors:  []v1alpha1.FederationSelector{{Meshes: []v1alpha1.ObjectRef{west}}},
					Permissive: &v1alpha1.Empty{},
				},
			},
			Status: v1alpha1.VirtualMeshStatus{Accepted: &v1alpha1.AcceptedVirtualMesh{Generation: 1, Spec: v1alpha1.VirtualMeshSpec{
				Meshes: []v1alpha1.ObjectRef{{Name: eastMesh, Namespace: "isthmus-east"}},
			}}},
		})
	// Somebody has taken west out of by-git in Git. It is trusted there as before.
	byGit := rotating("isthmus-west", "in-git", 4)
	byGit.Spec.VirtualMesh.Name = "by-git"
	h.create(t, byGit, &v1alpha1.VirtualMesh{
		ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-system", Name: "by-git"},
		Spec: v1alpha1.VirtualMeshSpec{
			Meshes:     []v1alpha1.ObjectRef{{Name: eastMesh, Namespace: "isthmus-east"}},
			MTLSConfig: &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{RotationTrigger: "2026-11-26T00:00:00Z"}},
		},
	})
	triggers := func() (out []string) {
		for _, name := range []string{virtualMesh, "by-git"} {
			vm := &v1alpha1.VirtualMesh{}
			if err := exists(h.Client, vm, "isthmus-system", name); err != nil {
				t.Fatal(err)
			}
			out = append(out, vm.Spec.MTLSConfig.Shared.RotationTrigger)
		}
		return out
	}
	before := triggers()
	followed := &v1alpha1.VirtualMesh{}
	if err := exists(h.Client, followed, "isthmus-system", virtualMesh); err != nil {
		t.Fatal(err)
	}
	followed.Labels = map[string]string{v1alpha1.LabelManagedBy: "isthmus-following", "team": "a"}
	followed.Annotations = map[string]string{v1alpha1.AnnotationConvertedFrom: "networking.smh.solo.io/v1alpha2/default/virtual-mesh"}
	if err := h.Client.Update(t.Context(), followed); err != nil {
		t.Fatal(err)
	}
	evict := func(more ...string) []string { return append([]string{"cluster", "evict", "west"}, more...) }
	w.fails(t, 2, "--reason is required", evict("--yes")...)
	w.fails(t, 2, "VirtualMesh by-git has lost its meshes already, and gets a new root.", evict("--reason", "stolen")...)
	w.fails(t, 2, "give --yes", evict("--reason", "stolen")...)
	if err := exists(h.Client, &corev1.Secret{}, "isthmus-west", registration.CredentialName); err != nil {
		t.Fatalf("it was not confirmed: %v", err)
	}
	alone := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-system", Name: "alone"}, Spec: v1alpha1.VirtualMeshSpec{Meshes: []v1alpha1.ObjectRef{west}}}
	h.create(t, alone)
	w.fails(t, 1, "VirtualMesh alone has no other member", evict("--reason", "stolen", "--yes")...)
	if err := h.Client.Delete(t.Context(), alone); err != nil {
		t.Fatal(err)
	}

	held := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-system", Name: "held"}}
	held.Spec.Meshes, held.Spec.Suspend = []v1alpha1.ObjectRef{west, {Name: eastMesh, Namespace: "isthmus-east"}}, true
	h.create(t, held)
	w.fails(t, 1, "unset spec.suspend of VirtualMesh held first", evict("--reason", "stolen", "--yes")...)
	if err := exists(h.Client, &corev1.Secret{}, "isthmus-west", registration.CredentialName); err != nil {
		t.Fatalf("something was changed: %v", err)
	}
	if err := h.Client.Delete(t.Context(), held); err != nil {
		t.Fatal(err)
	}

	// Without a hub that lets go, orders stay; the next call goes on.
	w.givesUp(t, "waiting for VirtualMesh virtual-mesh to let go of mesh "+westMesh, evict("--reason", "stolen", "--yes")...)
	if err := exists(h.Client, &v1alpha1.IssuedCertificate{}, "isthmus-west", westMesh); err != nil {
		t.Fatalf("the order: %v", err)
	}
	h.status(t, "isthmus-system", virtualMesh, func(vm *v1alpha1.VirtualMesh) {
		vm.Status.ObservedGeneration, vm.Status.State, vm.Status.Errors = vm.Generation, v1alpha1.StateInvalid, []string{"spec.federation: no"}
	})
	w.givesUp(t, "to let go of mesh "+westMesh+": its spec is refused, put it right: spec.federation: no", evict("--reason", "stolen", "--yes")...)
	begun := triggers()
	for i := range begun {
		if begun[i] == before[i] {
			t.Errorf("no rotation begins where west is trusted: %q", begun)
		}
	}
	h.status(t, "isthmus-system", virtualMesh, func(vm *v1alpha1.VirtualMesh) { vm.Status.Accepted.Spec.Meshes = vm.Spec.Meshes })
	w.ok(t, evict("--reason", "stolen", "--yes")...)
	if now := triggers(); !slices.Equal(now, begun) {
		t.Errorf("another rotation begins: rotationTrigger was %q and is %q", begun, now)
	}

	for _, gone := range []struct {
		obj  client.Object
		name string
	}{{&v1alpha1.IssuedCertificate{}, westMesh}, {&corev1.Secret{}, registration.CredentialName}} {
		if err := exists(h.Client, gone.obj, "isthmus-west", gone.name); !apierrors.IsNotFound(err) {
			t.Errorf("%s is left: %v", gone.name, err)
		}
	}
	if err := exists(h.Client, &v1alpha1.IssuedCertificate{}, "isthmus-east", eastMesh); err != nil {
		t.Errorf("the order of east: %v", err)
	}
	vm := &v1alpha1.VirtualMesh{}
	if err := exists(h.Client, vm, "isthmus-system", virtualMesh); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(vm.Labels, map[string]string{"team": "a"}) {
		t.Errorf("what it follows would put west back: %v", vm.Labels)
	}
	if len(vm.Spec.Meshes) != 1 || vm.Spec.Meshes[0].Name != eastMesh || vm.Spec.MTLSConfig.Shared.RotationTrigger == "" {
		t.Errorf("%+v", vm.Spec)
	}
	vm = &v1alpha1.VirtualMesh{}
	if err := exists(h.Client, vm, "isthmus-system", "by-name"); err != nil {
		t.Fatal(err)
	}
	if f := vm.Spec.Federation; !slices.Equal(vm.Spec.Meshes, []v1alpha1.ObjectRef{{Name: eastMesh}}) || len(f.Selectors) != 0 || f.Permissive != nil {
		t.Errorf("what was federated to west alone is federated to others: %+v", vm.Spec)
	}
	out, _, _ := w.meshctl(t, "check")
	matches(t, out, `ISTH2005  cluster west: was evicted: stolen \(`)
}
