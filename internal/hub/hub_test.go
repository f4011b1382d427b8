package hub_test

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/hub"
	"github.com/isthmus-mesh/isthmus/internal/hub/hubtest"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

const system = v1alpha1.SystemNamespace

// secretNamespaces are those from which the hub may take Secrets. The name of one begins as those of clusters do.
var secretNamespaces = []string{"ca", "isthmus-ca"}

// world is a hub at work on an API server of its own. The test plays users and agents.
type world struct {
	*testing.T
	client.Client
	env *testenv.Cluster
	// ahead is by how much the hub's clock is ahead, in nanoseconds.
	ahead atomic.Int64
	stop  func()
	// legacy: the hub follows older generations.
	legacy bool
	// rolling: no mesh takes changed roots without restarts.
	rolling bool
	// beats are the heartbeats that were sent last.
	beats map[string]time.Time
	whole *testing.T // the test, where T is a part of it
}

// run is a part of a test.
func (w *world) run(name string, f func(t *testing.T)) {
	w.whole.Run(name, func(t *testing.T) {
		w.T = t
		defer func() { w.T = w.whole }()
		f(t)
	})
}

// journal is that of the hub.
var journal = testenv.NewJournal()

func start(t *testing.T) *world {
	w := &world{T: t, whole: t, env: testenv.Start(t)}
	journal.Of(t)
	w.Client = w.env.Client
	hubtest.Install(t, w.env, secretNamespaces...)
	w.startHub()
	return w
}

func (w *world) startHub() {
	w.Helper()
	w.stop = hubtest.Start(w.whole, w.env, hub.Options{
		SecretNamespaces: secretNamespaces,
		Legacy:           w.legacy,
		Now:              func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) },
	})
}

func (w *world) create(objs ...client.Object) {
	w.Helper()
	for _, o := range objs {
		if err := w.Create(context.Background(), o); err != nil {
			w.Fatal(err)
		}
	}
}

func (w *world) get(o client.Object, namespace, name string) {
	w.Helper()
	if err := w.Get(context.Background(), client.ObjectKey{Namespace: namespace, Name: name}, o); err != nil {
		w.Fatal(err)
	}
}

// update changes an object as its owner would.
func update[T client.Object](w *world, obj T, namespace, name string, change func(T)) {
	w.Helper()
	testenv.Eventually(w, "update of "+name, func() error {
		w.get(obj, namespace, name)
		change(obj)
		return w.Update(context.Background(), obj)
	})
}

func updateStatus[T client.Object](w *world, obj T, namespace, name string, change func(T)) {
	w.Helper()
	testenv.Eventually(w, "update of the status of "+name, func() error {
		w.get(obj, namespace, name)
		change(obj)
		return w.Status().Update(context.Background(), obj)
	})
}

// register registers a cluster and has its agent report a mesh with a self-signed CA, changed as the test wants it.
func (w *world) register(cluster string, changes ...func(*v1alpha1.Mesh)) {
	w.Helper()
	w.create(&v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Name: cluster, Namespace: system}})
	w.registered(cluster)
	w.mesh(cluster, changes...)
	w.heartbeat(cluster, time.Now())
}

func (w *world) registered(cluster string) {
	w.Helper()
	testenv.Eventually(w, "registration", func() error {
		kc := &v1alpha1.KubernetesCluster{}
		w.get(kc, system, cluster)
		return isTrue(kc.Status.Conditions, v1alpha1.ConditionReady)
	})
}

func (w *world) mesh(cluster string, changes ...func(*v1alpha1.Mesh)) {
	w.Helper()
	m := &v1alpha1.Mesh{
		ObjectMeta: metav1.ObjectMeta{Name: meshName(cluster), Namespace: "isthmus-" + cluster},
		Spec: v1alpha1.MeshSpec{Cluster: cluster, Istio: v1alpha1.IstioMesh{
			RootNamespace: "istio-system", TrustDomain: "cluster.local", IstiodServiceAccount: "istiod",
			CertificateAuthority: v1alpha1.CertificateAuthorityIstiod,
		}},
	}
	for _, change := range changes {
		change(m)
	}
	w.create(m)
	w.uses(cluster, v1alpha1.MeshCertificateAuthority{Source: v1alpha1.CASourceSelfSigned})
}

// uses has the agent report the CA of its mesh.
func (w *world) uses(cluster string, ca v1alpha1.MeshCertificateAuthority) {
	w.Helper()
	updateStatus(w, &v1alpha1.Mesh{}, "isthmus-"+cluster, meshName(cluster), func(m *v1alpha1.Mesh) { m.Status.CertificateAuthority = &ca })
}

func (w *world) heartbeat(cluster string, at time.Time) {
	w.Helper()
	if w.beats == nil {
		w.beats = map[string]time.Time{}
	}
	w.beats[cluster] = at
	seconds, renewed := int32(40), metav1.NewMicroTime(at)
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.AgentName, Namespace: "isthmus-" + cluster, Annotations: map[string]string{v1alpha1.AnnotationAgentVersion: "1.2.3"}},
		Spec:       coordinationv1.LeaseSpec{LeaseDurationSeconds: &seconds, RenewTime: &renewed},
	}
	err := w.Create(context.Background(), lease)
	if apierrors.IsAlreadyExists(err) {
		update(w, &coordinationv1.Lease{}, lease.Namespace, lease.Name, func(l *coordinationv1.Lease) { l.Spec = lease.Spec })
	} else if err != nil {
		w.Fatal(err)
	}
}

// beat renews the heartbeats of all agents, that none is taken for lost meanwhile, and waits until the hub has nothing more to write.
func (w *world) beat() {
	w.Helper()
	for cluster := range w.beats {
		w.heartbeat(cluster, time.Now())
	}
	w.quiet()
}

func meshName(cluster string) string { return "istiod-istio-system-" + cluster }

// bits keeps the generation of keys short.
func virtualMesh(name string, clusters ...string) *v1alpha1.VirtualMesh {
	vm := &v1alpha1.VirtualMesh{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: system},
		Spec: v1alpha1.VirtualMeshSpec{MTLSConfig: &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{
			RootCertificateAuthority: &v1alpha1.RootCertificateAuthority{Generated: &v1alpha1.CertOptions{RSAKeySizeBytes: new(int32(2048))}},
		}}},
	}
	for _, c := range clusters {
		vm.Spec.Meshes = append(vm.Spec.Meshes, v1alpha1.ObjectRef{Name: meshName(c)})
	}
	return vm
}

func (w *world) order(cluster string, issuance int64) *v1alpha1.IssuedCertificate {
	w.Helper()
	ic := &v1alpha1.IssuedCertificate{}
	testenv.Eventually(w, "order", func() error {
		if err := w.Get(context.Background(), client.ObjectKey{Namespace: "isthmus-" + cluster, Name: meshName(cluster)}, ic); err != nil {
			return err
		}
		if ic.Spec.Issuance != issuance {
			return fmt.Errorf("issuance %d, want %d", ic.Spec.Issuance, issuance)
		}
		return nil
	})
	return ic
}

func requestFor(t testing.TB, cluster string, issuance int64, key crypto.Signer) *v1alpha1.CertificateRequest {
	t.Helper()
	csr, err := pki.NewRequest(key, "Foreign", "somebody-else")
	if err != nil {
		t.Fatal(err)
	}
	name, err := pki.PublicKeyName(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &v1alpha1.CertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Name: kube.RequestName(meshName(cluster), name), Namespace: "isthmus-" + cluster},
		Spec:       v1alpha1.CertificateRequestSpec{IssuedCertificate: meshName(cluster), Issuance: issuance, CertificateSigningRequest: string(csr)},
	}
}

// answered waits for a request to be in a state and returns it.
func (w *world) answered(cr *v1alpha1.CertificateRequest, state v1alpha1.CertificateRequestState) *v1alpha1.CertificateRequest {
	w.Helper()
	got := &v1alpha1.CertificateRequest{}
	testenv.Eventually(w, "answer", func() error {
		w.get(got, cr.Namespace, cr.Name)
		if got.Status.State != state {
			return fmt.Errorf("state %q (%s), want %s", got.Status.State, got.Status.Error, state)
		}
		return nil
	})
	return got
}

// carryOut has the agent of a cluster carry out its order: it requests, and reports what it got as in use.
func (w *world) carryOut(cluster string, issuance int64) *v1alpha1.CertificateRequest {
	w.Helper()
	order := w.order(cluster, issuance)
	cr := requestFor(w, cluster, issuance, pkitest.ECKey(w))
	w.create(cr)
	cr = w.answered(cr, v1alpha1.CertificateRequestFinished)
	w.installed(cluster, order, cr)
	return cr
}

// installed has the agent of a cluster report what was signed as in use, and everything as ordered.
func (w *world) installed(cluster string, order *v1alpha1.IssuedCertificate, cr *v1alpha1.CertificateRequest) {
	w.Helper()
	chain, err := pki.ParseChain([]byte(cr.Status.SignedCertificate))
	if err != nil {
		w.Fatal(err)
	}
	w.answers(order, &v1alpha1.IntermediateStatus{
		Issuance: cr.Spec.Issuance, Signer: cr.Status.Signer, Roots: []string{cr.Status.Signer},
		NotBefore: metav1.NewTime(chain[0].NotBefore), NotAfter: metav1.NewTime(chain[0].NotAfter),
	})
	w.uses(cluster, v1alpha1.MeshCertificateAuthority{
		Source: v1alpha1.CASourceIsthmus, VirtualMesh: order.Spec.VirtualMesh.Name + "." + system, Signer: cr.Status.Signer, Roots: []string{cr.Status.Signer},
		RootCertificates: order.Spec.Roots,
	})
}

// answers has an agent report that it carried out an order, and that everything is as ordered since.
func (w *world) answers(order *v1alpha1.IssuedCertificate, holds *v1alpha1.IntermediateStatus) {
	w.Helper()
	updateStatus(w, &v1alpha1.IssuedCertificate{}, order.Namespace, order.Name, func(ic *v1alpha1.IssuedCertificate) {
		o := order.Spec
		carried := o.Carried()
		now := metav1.NewTime(time.Now().Add(time.Duration(w.ahead.Load())))
		ic.Status.State, ic.Status.Error, ic.Status.ObservedGeneration = v1alpha1.IssuedCertificateFinished, "", order.Generation
		ic.Status.Carried, ic.Status.Certificate = carried, holds
		ic.Status.ControlPlane = &v1alpha1.ControlPlaneEvidence{
			ObservedAt: now, MultiRoot: !w.rolling, Published: true,
			Replicas: []v1alpha1.IstiodReplica{{Pod: "istiod-0", Signer: o.Signer, Roots: carried.Roots, Clients: carried.Roots}},
		}
		ic.Status.Proxies = &v1alpha1.ProxyEvidence{ObservedAt: now, Total: 3, Live: 3, TrustsNew: 3, SignedByNew: 3, RefusesOld: 3}
		if w.rolling {
			ic.Status.Proxies.Live = 0
		}
	})
}

// sees waits for a VirtualMesh to be as the test wants it.
func (w *world) sees(name, what string, is func(*v1alpha1.VirtualMesh) error) *v1alpha1.VirtualMesh {
	w.Helper()
	vm := &v1alpha1.VirtualMesh{}
	testenv.Eventually(w, what, func() error {
		if err := w.Get(context.Background(), client.ObjectKey{Namespace: system, Name: name}, vm); err != nil {
			return err
		}
		if err := is(vm); err != nil {
			return fmt.Errorf("%w; status %+v", err, vm.Status)
		}
		return nil
	})
	return vm
}

func (w *world) rootSecrets() []corev1.Secret {
	w.Helper()
	list := &corev1.SecretList{}
	if err := w.List(context.Background(), list, client.InNamespace(system), client.HasLabels{v1alpha1.LabelRootRole}); err != nil {
		w.Fatal(err)
	}
	return list.Items
}

func isTrue(conditions []metav1.Condition, conditionType string) error {
	return is(conditions, conditionType, metav1.ConditionTrue, "")
}

func is(conditions []metav1.Condition, conditionType string, status metav1.ConditionStatus, reason string) error {
	c := meta.FindStatusCondition(conditions, conditionType)
	if c == nil || c.Status != status || reason != "" && c.Reason != reason {
		return fmt.Errorf("condition %s is %v, want %s %s", conditionType, c, status, reason)
	}
	return nil
}

func TestTwoMeshesComeToTrustOneRoot(t *testing.T) {
	w := start(t)
	w.register("east")
	w.register("west")
	w.create(virtualMesh("one", "east", "west"))

	east, west := w.carryOut("east", 1), w.carryOut("west", 1)
	vm := w.sees("one", "trust", func(vm *v1alpha1.VirtualMesh) error {
		return errors.Join(
			isTrue(vm.Status.Conditions, v1alpha1.ConditionTrustEstablished), isTrue(vm.Status.Conditions, v1alpha1.ConditionReady),
			is(vm.Status.Conditions, v1alpha1.ConditionStalled, metav1.ConditionFalse, ""),
			want(vm.Status.State, v1alpha1.StateAccepted), want(vm.Status.DeployedSharedTrust != nil, true),
		)
	})
	if len(vm.Status.Roots) != 1 || vm.Status.Roots[0].Fingerprint != east.Status.Signer || east.Status.Signer != west.Status.Signer {
		t.Fatalf("roots %v, signers %s and %s", vm.Status.Roots, east.Status.Signer, west.Status.Signer)
	}
	root, err := pki.ParseRoot([]byte(vm.Status.Roots[0].Certificate))
	if err != nil {
		t.Fatal(err)
	}
	for _, cr := range []*v1alpha1.CertificateRequest{east, west} {
		chain, err := pki.ParseChain([]byte(cr.Status.SignedCertificate))
		if err != nil {
			t.Fatal(err)
		}
		cert := chain[0]
		if err := cert.CheckSignatureFrom(root.Certificate()); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(cert.URIs); got != "[spiffe://cluster.local/ns/istio-system/sa/istiod]" {
			t.Errorf("URIs are %s", got)
		}
		if got := cert.Subject.Organization; len(got) != 1 || got[0] != "Istio" {
			t.Errorf("organisation is %v, which came from the request", got)
		}
	}
	secrets := w.rootSecrets()
	if len(secrets) != 1 || secrets[0].Name != "one.isthmus-system.1" || secrets[0].Type != v1alpha1.SecretTypeRoot || !*secrets[0].Immutable {
		t.Errorf("root Secrets are %v", secrets)
	}
	w.quiet()

	w.run("one signature per issuance", func(t *testing.T) {
		second := requestFor(t, "east", 1, pkitest.ECKey(t))
		w.create(second)
		got := w.answered(second, v1alpha1.CertificateRequestFailed)
		if err := is(got.Status.Conditions, "Ready", metav1.ConditionFalse, "AlreadySigned"); err != nil || got.Status.SignedCertificate != "" {
			t.Error(err, got.Status)
		}
	})
	w.run("a restarted hub writes nothing", func(t *testing.T) {
		w.beat()
		before := w.versions()
		w.stop()
		w.startHub()
		w.register("north") // when this one is registered, the hub has been at work
		for name, version := range w.versions() {
			if was, ok := before[name]; ok && was != version {
				t.Errorf("%s was written", name)
			}
		}
	})
	w.run("suspended, nothing moves", func(t *testing.T) {
		update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) {
			vm.Spec.Suspend = true
			vm.Spec.Meshes = vm.Spec.Meshes[:1]
		})
		w.sees("one", "suspension", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(is(vm.Status.Conditions, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonSuspended), want(len(vm.Status.Accepted.Spec.Meshes), 2))
		})
		testenv.Eventually(t, "suspended order", func() error { return want(w.order("west", 1).Spec.Suspend, true) })
		update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) { vm.Spec = virtualMesh("one", "east", "west").Spec })
		testenv.Eventually(t, "resumed order", func() error { return want(w.order("west", 1).Spec.Suspend, false) })
	})
	w.run("changed options are a new issuance", func(t *testing.T) {
		update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) {
			vm.Spec.MTLSConfig.Shared.IntermediateCertOptions = &v1alpha1.CertOptions{OrgName: "Example", TTLDays: new(int32(30))}
		})
		cr := w.carryOut("east", 2)
		w.carryOut("west", 2)
		chain, _ := pki.ParseChain([]byte(cr.Status.SignedCertificate))
		if got := chain[0].Subject.Organization; len(got) != 1 || got[0] != "Example" {
			t.Errorf("organisation is %v", got)
		}
	})
	w.run("an intermediate is renewed before it ends, and old requests are forgotten", func(t *testing.T) {
		w.stop()
		w.ahead.Store(int64(28 * 24 * time.Hour))
		w.startHub()
		w.carryOut("east", 3)
		w.sees("one", "the same root", func(vm *v1alpha1.VirtualMesh) error { return want(len(vm.Status.Roots), 1) })
		list := &v1alpha1.CertificateRequestList{}
		testenv.Eventually(t, "old requests go", func() error {
			if err := w.List(context.Background(), list, client.InNamespace("isthmus-east")); err != nil {
				return err
			}
			for _, cr := range list.Items {
				if cr.Spec.Issuance < 2 {
					return errors.New(cr.Name + " is still there")
				}
			}
			return want(len(list.Items), 2)
		})
	})
	w.run("a removed member keeps its order, and says so", func(t *testing.T) {
		update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) { vm.Spec = virtualMesh("one", "east").Spec })
		w.sees("one", "retained member", func(vm *v1alpha1.VirtualMesh) error {
			return isTrue(vm.Status.Conditions, v1alpha1.ConditionMembersRetained)
		})
		w.order("east", 4) // its options went back to the defaults
	})
	w.run("deleted, certificates and roots stay and are renewed", func(t *testing.T) {
		vm := &v1alpha1.VirtualMesh{}
		w.get(vm, system, "one")
		if err := w.Delete(context.Background(), vm); err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, "deletion", func() error {
			if err := w.Get(context.Background(), client.ObjectKeyFromObject(vm), vm); !apierrors.IsNotFound(err) {
				return fmt.Errorf("still there: %w", cmp.Or(err, errors.New("found")))
			}
			return nil
		})
		const issuance = 4
		updateStatus(w, &v1alpha1.IssuedCertificate{}, "isthmus-east", meshName("east"), func(ic *v1alpha1.IssuedCertificate) { ic.Status.KeyLost = issuance })
		cr := requestFor(t, "east", issuance, pkitest.ECKey(t))
		w.create(cr)
		w.answered(cr, v1alpha1.CertificateRequestFinished)
		if got := w.order("east", issuance).Spec.Issuance; got != issuance {
			t.Errorf("a key that was lost just now is replaced at once: issuance %d", got)
		}
		w.stop()
		w.ahead.Add(int64(6 * time.Minute))
		w.startHub()
		w.order("east", issuance+1)
		if n := len(w.rootSecrets()); n != 1 {
			t.Errorf("%d root Secrets", n)
		}
	})
}

func want[T comparable](got, want T) error {
	if got != want {
		return fmt.Errorf("got %v, want %v", got, want)
	}
	return nil
}

// versions are the resource versions of all that the hub may write.
func (w *world) versions() map[string]string {
	w.Helper()
	out := map[string]string{}
	for _, list := range []client.ObjectList{
		&v1alpha1.VirtualMeshList{}, &v1alpha1.KubernetesClusterList{}, &v1alpha1.IssuedCertificateList{},
		&v1alpha1.CertificateRequestList{}, &corev1.SecretList{}, &corev1.ServiceAccountList{},
	} {
		if err := w.List(context.Background(), list); err != nil {
			w.Fatal(err)
		}
		items, err := meta.ExtractList(list)
		if err != nil {
			w.Fatal(err)
		}
		for _, item := range items {
			o := item.(client.Object)
			out[fmt.Sprintf("%T %s/%s", o, o.GetNamespace(), o.GetName())] = o.GetResourceVersion()
		}
	}
	return out
}

// quiet waits until the hub writes nothing more for half a second.
func (w *world) quiet() {
	w.Helper()
	last, since := fmt.Sprint(w.versions()), time.Now()
	testenv.Eventually(w, "quiet", func() error {
		if now := fmt.Sprint(w.versions()); now != last {
			last, since = now, time.Now()
		}
		if d := time.Since(since); d < 500*time.Millisecond {
			return fmt.Errorf("last write %s ago", d)
		}
		return nil
	})
}
