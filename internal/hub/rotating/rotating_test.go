package rotating_test

import (
	"context"
	"errors"
	"fmt"
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

// TestKilledBetweenAnyTwoWrites replaces a root with a hub that dies after each write, after every second, and so on, and looks
// at the orders all the while.
func TestKilledBetweenAnyTwoWrites(t *testing.T) {
	env := testenv.Start(t)
	ctx := context.Background()
	c, err := client.NewWithWatch(env.Config, client.Options{Scheme: testenv.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	env.Namespace(t, system, nil)
	vm := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Name: "one", Namespace: system}}
	vm.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{
		RootCertificateAuthority: &v1alpha1.RootCertificateAuthority{Generated: &v1alpha1.CertOptions{RSAKeySizeBytes: new(int32(2048))}},
	}}
	clusters := []string{"a", "b", "c"}
	for _, name := range clusters {
		env.Namespace(t, "isthmus-"+name, nil)
		kc := &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: system}}
		must(c.Create(ctx, kc))
		meta.SetStatusCondition(&kc.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionConnected, Status: metav1.ConditionTrue, Reason: "Connected"})
		must(c.Status().Update(ctx, kc))
		mesh := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Name: "m", Namespace: "isthmus-" + name}, Spec: v1alpha1.MeshSpec{Cluster: name, Istio: v1alpha1.IstioMesh{
			RootNamespace: "istio-system", TrustDomain: "cluster.local", IstiodServiceAccount: "istiod", CertificateAuthority: v1alpha1.CertificateAuthorityIstiod,
		}}}
		must(c.Create(ctx, mesh))
		mesh.Status.CertificateAuthority = &v1alpha1.MeshCertificateAuthority{}
		must(c.Status().Update(ctx, mesh))
		vm.Spec.Meshes = append(vm.Spec.Meshes, v1alpha1.ObjectRef{Name: "m", Namespace: mesh.Namespace})
	}
	must(c.Create(ctx, vm))
	wants := func(trigger string) {
		t.Helper()
		must(c.Get(ctx, client.ObjectKeyFromObject(vm), vm))
		vm.Spec.MTLSConfig.Shared.RotationTrigger = trigger
		must(c.Update(ctx, vm))
		vm.Status.Accepted = &v1alpha1.AcceptedVirtualMesh{Generation: vm.Generation, Spec: vm.Spec}
		must(c.Status().Update(ctx, vm))
	}
	for writes := 1; writes <= 4; writes++ {
		trigger := fmt.Sprintf("t%d", writes)
		wants(trigger)
		for round := 0; ; round++ {
			if round > 500 {
				t.Fatalf("with %d writes at a time it does not end: %+v", writes, vm.Status.Rotation)
			}
			hub := mortal(c, writes)
			r := &rotating.Reconciler{
				Client: hub, Reader: c, Events: events.NewFakeRecorder(1000), Namespace: system, Now: time.Now,
				Roots: roots.Store{Client: hub, Reader: c, Namespace: system, Now: time.Now},
			}
			_, err := r.Reconcile(ctx, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(vm)})
			if err != nil && !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			orders := obeyed(ctx, t, c)
			inOneStep(t, orders)
			must(c.Get(ctx, client.ObjectKeyFromObject(vm), vm))
			d := vm.Status.DeployedSharedTrust
			if err == nil && len(orders) == len(clusters) && d != nil && d.SharedTrust.RotationTrigger == trigger && d.Root == orders[0].Spec.Signer {
				break
			}
		}
		store := roots.Store{Client: c, Reader: c, Namespace: system, Now: time.Now}
		if left, err := store.List(ctx, client.ObjectKeyFromObject(vm)); err != nil || len(left) != 1 {
			t.Errorf("%d roots are left, %v", len(left), err)
		}
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
