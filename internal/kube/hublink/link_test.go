package hublink_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube/hublink"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// agent runs a manager with a link that counts the IssuedCertificates it hears of.
type agent struct {
	link  *hublink.Link
	heard atomic.Int64
	ended chan error
}

func startAgent(t *testing.T, member *testenv.Cluster, name string, more ...func(*hublink.Link)) *agent {
	t.Helper()
	mgr, err := ctrl.NewManager(member.Config, ctrl.Options{
		Scheme:     testenv.Scheme(),
		Metrics:    metricsserver.Options{BindAddress: "0"},
		Logger:     logr.FromSlogHandler(slog.NewTextHandler(t.Output(), nil)),
		Controller: config.Controller{SkipNameValidation: new(true)},
	})
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{ended: make(chan error, 1)}
	a.link, err = hublink.New(mgr, hublink.Options{
		Cluster: "east", Identity: name,
		Source: hublink.SecretSource{Manager: mgr, Key: types.NamespacedName{Namespace: v1alpha1.AgentNamespace, Name: name}},
	})
	if err != nil {
		t.Fatal(err)
	}
	a.link.Setup(func(_ context.Context, mgr ctrl.Manager, hub cluster.Cluster) error {
		return builder.ControllerManagedBy(mgr).Named("orders").
			WatchesRawSource(source.Kind(hub.GetCache(), &v1alpha1.IssuedCertificate{}, &handler.TypedEnqueueRequestForObject[*v1alpha1.IssuedCertificate]{})).
			Complete(reconcile.Func(func(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
				a.heard.Add(1)
				return reconcile.Result{}, hub.GetClient().Get(ctx, r.NamespacedName, &v1alpha1.IssuedCertificate{})
			}))
	}, &v1alpha1.IssuedCertificate{})
	for _, f := range more {
		f(a.link)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { a.ended <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-a.ended; err != nil {
			t.Errorf("the manager ended with %v", err)
		}
	})
	return a
}

func credential(name string, kubeconfig []byte) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.AgentNamespace, Name: name},
		Data:       map[string][]byte{hublink.KubeconfigKey: kubeconfig},
	}
}

func order(name string) *v1alpha1.IssuedCertificate {
	fingerprint := strings.Repeat("0", 64)
	return &v1alpha1.IssuedCertificate{
		ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-east", Name: name},
		Spec: v1alpha1.IssuedCertificateSpec{
			VirtualMesh: v1alpha1.ObjectRef{Name: "vm"}, Issuance: 1, Hosts: []string{"spiffe://cluster.local/x"},
			Signer: fingerprint, Roots: []v1alpha1.RootCertificate{{Fingerprint: fingerprint, Certificate: "x"}},
			IssuedCertificateSecret: v1alpha1.SecretRef{Name: "cacerts", Namespace: "istio-system"},
		},
	}
}

func TestLink(t *testing.T) {
	hub, member := testenv.Start(t), testenv.Start(t)
	hub.Namespace(t, "isthmus-east", nil)
	member.Namespace(t, v1alpha1.AgentNamespace, nil)
	ctx := context.Background()
	eventually := func(what string, ok func() bool) {
		t.Helper()
		testenv.Eventually(t, what, func() error {
			if !ok() {
				return errors.New("not yet")
			}
			return nil
		})
	}
	holder := func() string {
		var lease coordinationv1.Lease
		if hub.Client.Get(ctx, types.NamespacedName{Namespace: "isthmus-east", Name: v1alpha1.AgentName}, &lease) != nil {
			return ""
		}
		if age := time.Since(lease.Spec.RenewTime.Time); age > hublink.LeaseDuration || *lease.Spec.LeaseDurationSeconds != 40 {
			t.Errorf("lease = %+v", lease.Spec)
		}
		return *lease.Spec.HolderIdentity
	}
	create := func(c *testenv.Cluster, o client.Object) {
		t.Helper()
		if err := c.Client.Create(ctx, o); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("a credential that comes later, broken at first", func(t *testing.T) {
		a := startAgent(t, member, "late")
		if err := a.link.Hub().GetAPIReader().List(ctx, &v1alpha1.MeshList{}); err == nil || !strings.Contains(err.Error(), "register") {
			t.Fatalf("without a credential: %v", err)
		}
		secret := credential("late", []byte("token: do-not-print"))
		create(member, secret)
		secret.Data[hublink.KubeconfigKey] = hub.Kubeconfig(t, hub.Config, "")
		if err := member.Client.Update(ctx, secret); err != nil {
			t.Fatal(err)
		}
		eventually("the link to come up", func() bool { return a.link.Synced() && a.link.Connected() && holder() == "late" })
		create(hub, order("first"))
		eventually("the order to be heard of", func() bool { return a.heard.Load() > 0 })
	})

	t.Run("a hub that is away at the start and in between, and moves", func(t *testing.T) {
		proxy := testenv.NewProxy(t, hub, true)
		secret := credential("away", hub.Kubeconfig(t, hub.Config, proxy.Server))
		create(member, secret)
		a := startAgent(t, member, "away")
		eventually("an attempt", func() bool {
			err := a.link.Hub().GetAPIReader().List(ctx, &v1alpha1.MeshList{})
			return err != nil && strings.Contains(err.Error(), "refused")
		})
		if a.link.Synced() || a.link.Connected() {
			t.Fatal("connected to a hub that is away")
		}
		proxy.Restore()
		eventually("the link to come up", func() bool { return a.link.Synced() && a.link.Connected() && holder() == "away" })
		heard := func(name string) {
			t.Helper()
			before := a.heard.Load()
			create(hub, order(name))
			eventually(name+" to be heard of", func() bool { return a.heard.Load() > before })
		}
		heard("second")
		proxy.Cut()
		before := a.heard.Load()
		create(hub, order("third"))
		proxy.Restore()
		eventually("what was missed to be heard of", func() bool { return a.heard.Load() > before })
		proxy.Cut() // for good: the hub has another address now
		secret.Data[hublink.KubeconfigKey] = hub.Kubeconfig(t, hub.Config, "")
		if err := member.Client.Update(ctx, secret); err != nil {
			t.Fatal(err)
		}
		heard("fourth")
		select {
		case err := <-a.ended:
			a.ended <- err
			t.Fatal(fmt.Errorf("the manager ended: %w", err))
		default:
		}
	})
}
