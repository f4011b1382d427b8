package rotating_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/hub/roots"
	"github.com/isthmus-mesh/isthmus/internal/hub/rotating"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

const system = v1alpha1.SystemNamespace

var errKilled = errors.New("the hub was killed")

// mortal is a client that fails after so many writes, for good.
func mortal(c client.WithWatch, writes int) client.WithWatch {
	alive := func() error {
		if writes--; writes < 0 {
			return errKilled
		}
		return nil
	}
	return interceptor.NewClient(c, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if err := alive(); err != nil {
				return err
			}
			return c.Create(ctx, o, opts...)
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			if err := alive(); err != nil {
				return err
			}
			return c.Update(ctx, o, opts...)
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			if err := alive(); err != nil {
				return err
			}
			return c.Patch(ctx, o, p, opts...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			if err := alive(); err != nil {
				return err
			}
			return c.Delete(ctx, o, opts...)
		},
		SubResourceApply: func(ctx context.Context, c client.Client, sub string, o runtime.ApplyConfiguration, opts ...client.SubResourceApplyOption) error {
			if err := alive(); err != nil {
				return err
			}
			return c.SubResource(sub).Apply(ctx, o, opts...)
		},
	})
}

// lab is an API server with a virtual mesh, of which the test has in force what it wants.
type lab struct {
	client.WithWatch
	vm *v1alpha1.VirtualMesh
	// behind is by how much the hub's clock is behind.
	behind time.Duration
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func start(ctx context.Context, t *testing.T, clusters ...string) *lab {
	t.Helper()
	env := testenv.Start(t)
	c, err := client.NewWithWatch(env.Config, client.Options{Scheme: testenv.Scheme()})
	must(t, err)
	env.Namespace(t, system, nil)
	vm := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Name: "one", Namespace: system}}
	vm.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{
		RootCertificateAuthority: &v1alpha1.RootCertificateAuthority{Generated: &v1alpha1.CertOptions{RSAKeySizeBytes: new(int32(2048))}},
	}}
	for _, name := range clusters {
		env.Namespace(t, "isthmus-"+name, nil)
		kc := &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: system}}
		must(t, c.Create(ctx, kc))
		meta.SetStatusCondition(&kc.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionConnected, Status: metav1.ConditionTrue, Reason: "Connected"})
		must(t, c.Status().Update(ctx, kc))
		mesh := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Name: "m", Namespace: "isthmus-" + name}, Spec: v1alpha1.MeshSpec{Cluster: name, Istio: v1alpha1.IstioMesh{
			RootNamespace: "istio-system", TrustDomain: "cluster.local", IstiodServiceAccount: "istiod", CertificateAuthority: v1alpha1.CertificateAuthorityIstiod,
		}}}
		must(t, c.Create(ctx, mesh))
		mesh.Status.CertificateAuthority = &v1alpha1.MeshCertificateAuthority{}
		must(t, c.Status().Update(ctx, mesh))
		vm.Spec.Meshes = append(vm.Spec.Meshes, v1alpha1.ObjectRef{Name: "m", Namespace: mesh.Namespace})
	}
	must(t, c.Create(ctx, vm))
	return &lab{WithWatch: c, vm: vm}
}

// wants has a change of the spec be in force.
func (l *lab) wants(ctx context.Context, t *testing.T, change func(*v1alpha1.VirtualMeshSpec)) {
	t.Helper()
	must(t, l.Get(ctx, client.ObjectKeyFromObject(l.vm), l.vm))
	change(&l.vm.Spec)
	must(t, l.Update(ctx, l.vm))
	l.vm.Status.Accepted = &v1alpha1.AcceptedVirtualMesh{Generation: l.vm.Generation, Spec: l.vm.Spec}
	must(t, l.Status().Update(ctx, l.vm))
}

func trigger(value string) func(*v1alpha1.VirtualMeshSpec) {
	return func(spec *v1alpha1.VirtualMeshSpec) { spec.MTLSConfig.Shared.RotationTrigger = value }
}

// reconcile has a hub, which writes and reads by these, look at the virtual mesh once.
func (l *lab) reconcile(ctx context.Context, c client.Client, reader client.Reader) (reconcile.Result, error) {
	now := func() time.Time { return time.Now().Add(-l.behind) }
	r := &rotating.Reconciler{
		Client: c, Reader: reader, Events: events.NewFakeRecorder(1000), Namespace: system, Now: now,
		Roots: roots.Store{Client: c, Reader: reader, Namespace: system, Now: now},
	}
	return r.Reconcile(ctx, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(l.vm)})
}

func (l *lab) roots(ctx context.Context, t *testing.T) []roots.Root {
	t.Helper()
	list, err := roots.Store{Client: l, Reader: l, Namespace: system, Now: time.Now}.List(ctx, client.ObjectKeyFromObject(l.vm))
	must(t, err)
	return list
}

// isDeployed reports whether the root that a trigger called for is the only one in use.
func (l *lab) isDeployed(ctx context.Context, t *testing.T, trigger string) bool {
	t.Helper()
	must(t, l.Get(ctx, client.ObjectKeyFromObject(l.vm), l.vm))
	d := l.vm.Status.DeployedSharedTrust
	return d != nil && d.SharedTrust.RotationTrigger == trigger
}

// TestKilledBetweenAnyTwoWrites replaces a root with a hub that dies after each write, after every second, and so on, and looks
// at the orders all the while.
func TestKilledBetweenAnyTwoWrites(t *testing.T) {
	ctx := context.Background()
	clusters := []string{"a", "b", "c"}
	l := start(ctx, t, clusters...)
	for writes := 1; writes <= 4; writes++ {
		value := fmt.Sprintf("t%d", writes)
		l.wants(ctx, t, trigger(value))
		for round := 0; ; round++ {
			if round > 500 {
				t.Fatalf("with %d writes at a time it does not end: %+v", writes, l.vm.Status.Rotation)
			}
			_, err := l.reconcile(ctx, mortal(l, writes), l)
			if err != nil && !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			orders := obeyed(ctx, t, l)
			inOneStep(t, orders)
			if l.isDeployed(ctx, t, value) && err == nil && len(orders) == len(clusters) && l.vm.Status.DeployedSharedTrust.Root == orders[0].Spec.Signer {
				break
			}
		}
		if left := l.roots(ctx, t); len(left) != 1 {
			t.Errorf("%d roots are left", len(left))
		}
	}
}

// deploys has the agents obey until the root that a trigger calls for is the only one in use.
func (l *lab) deploys(ctx context.Context, t *testing.T, value string) {
	t.Helper()
	l.wants(ctx, t, trigger(value))
	for round := 0; !l.isDeployed(ctx, t, value); round++ {
		if round > 500 {
			t.Fatalf("it does not end: %+v", l.vm.Status.Rotation)
		}
		_, err := l.reconcile(ctx, l, l)
		must(t, err)
		obeyed(ctx, t, l)
	}
}

// TestRetiredRootIsErasedWhenNobodyNeedsIt: the order of another virtual mesh may need it, of which nobody tells this one.
func TestRetiredRootIsErasedWhenNobodyNeedsIt(t *testing.T) {
	ctx := context.Background()
	l := start(ctx, t, "a", "b")
	l.deploys(ctx, t, "first")
	gone := &v1alpha1.IssuedCertificate{}
	must(t, l.Get(ctx, client.ObjectKey{Namespace: "isthmus-a", Name: "m"}, gone))
	gone = &v1alpha1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Namespace: gone.Namespace, Name: "gone"}, Spec: gone.Spec}
	gone.Spec.VirtualMesh.Name = "other"
	must(t, l.Create(ctx, gone))

	l.deploys(ctx, t, "second")
	again, err := l.reconcile(ctx, l, l)
	must(t, err)
	if left := l.roots(ctx, t); len(left) != 2 || left[0].Role != v1alpha1.RootRetired || again.RequeueAfter == 0 || again.RequeueAfter > time.Minute {
		t.Errorf("%d roots are left, and it is looked again after %s", len(left), again.RequeueAfter)
	}
	must(t, l.Delete(ctx, gone))
	again, err = l.reconcile(ctx, l, l)
	must(t, err)
	if left := l.roots(ctx, t); len(left) != 1 || again.RequeueAfter <= time.Minute {
		t.Errorf("%d roots are left, and it is looked again after %s", len(left), again.RequeueAfter)
	}
}

// TestRootThatIsNotValidYet: nobody tells when it is, be it one that is in use or one that members have found at Vault.
func TestRootThatIsNotValidYet(t *testing.T) {
	ctx := context.Background()
	l := start(ctx, t, "a")
	waits := func(reason string) {
		t.Helper()
		again, err := l.reconcile(ctx, l, l)
		must(t, err)
		must(t, l.Get(ctx, client.ObjectKeyFromObject(l.vm), l.vm))
		ready := meta.FindStatusCondition(l.vm.Status.Conditions, v1alpha1.ConditionRootReady)
		if ready == nil || ready.Reason != reason || again.RequeueAfter != roots.LookAgain {
			t.Errorf("it is looked again after %s: %v", again.RequeueAfter, ready)
		}
	}
	l.deploys(ctx, t, "first")
	l.behind = 24 * time.Hour
	waits(v1alpha1.ReasonRootUnusable)

	l.behind = 0
	vault := v1alpha1.VaultCA{Server: "https://vault.example.com:8200", CAPath: "pki/root/sign-intermediate", TokenSecretRef: &v1alpha1.LocalSecretRef{Name: "vault-token"}}
	l.wants(ctx, t, func(spec *v1alpha1.VirtualMeshSpec) {
		spec.MTLSConfig.Shared = &v1alpha1.SharedTrust{IntermediateCertificateAuthority: &v1alpha1.IntermediateCertificateAuthority{Vault: vault}}
	})
	early := pkitest.NewRoot(t, "early", time.Now(), func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }).Root()
	mesh := &v1alpha1.Mesh{}
	must(t, l.Get(ctx, client.ObjectKey{Namespace: "isthmus-a", Name: "m"}, mesh))
	mesh.Status.Vault = &v1alpha1.MeshVault{
		VirtualMesh: "one." + system, Server: vault.Server, CAPath: vault.CAPath,
		Root: &v1alpha1.RootCertificate{Fingerprint: early.ID().String(), Certificate: string(early.PEM())},
	}
	must(t, l.Status().Update(ctx, mesh))
	waits(rotating.ReasonVaultRootUnknown)
}

// TestEvictionIsNotUndone: a mesh is let go of, and its order deleted, after the hub has read the VirtualMesh and before it reads
// the orders.
func TestEvictionIsNotUndone(t *testing.T) {
	ctx := context.Background()
	l := start(ctx, t, "a", "b")
	l.deploys(ctx, t, "first")
	evicted := &v1alpha1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-b", Name: "m"}}
	evict := sync.OnceFunc(func() {
		l.wants(ctx, t, func(spec *v1alpha1.VirtualMeshSpec) { spec.Meshes = spec.Meshes[:1] })
		must(t, l.Delete(ctx, evicted))
	})
	reader := interceptor.NewClient(l, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if _, ok := list.(*v1alpha1.IssuedCertificateList); ok {
				evict()
			}
			return c.List(ctx, list, opts...)
		},
	})
	again, err := l.reconcile(ctx, l, reader)
	must(t, err)
	if again.RequeueAfter == 0 || again.RequeueAfter > time.Second {
		t.Errorf("it is looked again after %s", again.RequeueAfter)
	}
	_, err = l.reconcile(ctx, l, reader)
	must(t, err)
	if err := l.Get(ctx, client.ObjectKeyFromObject(evicted), evicted); !apierrors.IsNotFound(err) {
		t.Errorf("its order is there again: %v", err)
	}
}

// obeyed has the agents carry out what they are ordered.
func obeyed(ctx context.Context, t *testing.T, c client.Client) []v1alpha1.IssuedCertificate {
	t.Helper()
	var orders v1alpha1.IssuedCertificateList
	if err := c.List(ctx, &orders); err != nil {
		t.Fatal(err)
	}
	for i := range orders.Items {
		ic := &orders.Items[i]
		o := ic.Spec
		carried := o.Carried()
		ic.Status.Carried = carried
		ic.Status.Certificate = &v1alpha1.IntermediateStatus{Issuance: o.Issuance, Signer: o.Signer, NotBefore: metav1.Now(), NotAfter: metav1.NewTime(time.Now().Add(9000 * time.Hour))}
		ic.Status.ControlPlane = &v1alpha1.ControlPlaneEvidence{MultiRoot: true, Published: true, Replicas: []v1alpha1.IstiodReplica{
			{Pod: "istiod-0", Signer: o.Signer, Roots: carried.Roots, Clients: carried.Roots},
		}}
		ic.Status.Proxies = &v1alpha1.ProxyEvidence{Total: 1, Live: 1, TrustsNew: 1, SignedByNew: 1, RefusesOld: 1}
		if err := c.Status().Update(ctx, ic); err != nil && !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
	}
	return orders.Items
}

// inOneStep complains if a mesh is ordered to sign under a root that another one is not ordered to distribute.
func inOneStep(t *testing.T, orders []v1alpha1.IssuedCertificate) {
	t.Helper()
	for _, a := range orders {
		for _, b := range orders {
			trusts := false
			for _, r := range b.Spec.Roots {
				trusts = trusts || r.Fingerprint == a.Spec.Signer
			}
			if !trusts {
				t.Fatalf("%s signs under a root that %s does not distribute: %+v, %+v", a.Namespace, b.Namespace, a.Spec.Rotation, b.Spec.Rotation)
			}
		}
	}
}
