package agent_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent"
	"github.com/isthmus-mesh/isthmus/internal/hub"
	"github.com/isthmus-mesh/isthmus/internal/kube/hublink"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

func TestMain(m *testing.M) {
	ctrllog.SetLogger(logr.FromSlogHandler(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))
	os.Exit(m.Run())
}

// run starts a manager; the returned function ends it and waits.
func run(t *testing.T, mgr ctrl.Manager) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("a manager ended with %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// TestHubAway: an agent that starts while the hub is away looks after cacerts; when the hub is back it goes on and writes
// nothing that has not changed. The hub is the real one.
func TestHubAway(t *testing.T) {
	hubCluster, member := testenv.Start(t), testenv.Start(t)
	ctx := context.Background()
	proxy := testenv.NewProxy(t, hubCluster, false)
	for _, ns := range []string{v1alpha1.AgentNamespace, "istio-system"} {
		member.Namespace(t, ns, nil)
	}
	hubCluster.Namespace(t, v1alpha1.SystemNamespace, nil)
	create := func(c *testenv.Cluster, o client.Object) {
		t.Helper()
		if err := c.Client.Create(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	app := map[string]string{"app": "istiod", "istio.io/rev": "default"}
	create(member, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istiod", Labels: app},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: app}, Replicas: ptr.To[int32](1),
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}, Spec: corev1.PodSpec{
				Containers: []corev1.Container{{Name: "discovery", Image: "istio/pilot:1.31.1", Args: []string{"discovery"}}},
			}},
		},
	})
	create(member, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istio", Labels: map[string]string{"istio.io/rev": "default"}},
		Data:       map[string]string{"mesh": "trustDomain: cluster.local\n"},
	})
	create(member, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istio-ca-secret"},
		Data:       pkitest.NewRoot(t, "self-signed", time.Now()).SelfSignedSecret(t),
	})
	create(member, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.AgentNamespace, Name: "isthmus-hub-credential"},
		Data:       map[string][]byte{hublink.KubeconfigKey: hubCluster.Kubeconfig(t, hubCluster.Config, proxy.Server)},
	})

	hubManager, err := hub.NewManager(hubCluster.Config, hub.Options{})
	if err != nil {
		t.Fatal(err)
	}
	run(t, hubManager)
	start := func() (link *hublink.Link, stop func()) {
		t.Helper()
		mgr, link, err := agent.NewManager(member.Config, agent.Options{Cluster: "east", Identity: t.Name(), HubKubeconfigSecret: "isthmus-hub-credential"})
		if err != nil {
			t.Fatal(err)
		}
		return link, run(t, mgr)
	}
	create(hubCluster, &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "east"}})
	// The Mesh of another cluster is in the agent's cache of the hub; with these rights it could be written.
	hubCluster.Namespace(t, "isthmus-west", nil)
	foreign := &v1alpha1.Mesh{
		ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-west", Name: "istiod-istio-system-west"},
		Spec: v1alpha1.MeshSpec{Cluster: "west", Istio: v1alpha1.IstioMesh{
			RootNamespace: "istio-system", TrustDomain: "cluster.local", ClusterDomain: "cluster.local", IstiodServiceAccount: "istiod",
			CertificateAuthority: v1alpha1.CertificateAuthorityIstiod, Topology: v1alpha1.TopologyLocal,
		}},
	}
	create(hubCluster, foreign)
	_, stop := start()
	bits := ptr.To[int32](2048)
	create(hubCluster, &v1alpha1.VirtualMesh{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "vm"},
		Spec: v1alpha1.VirtualMeshSpec{
			Meshes: []v1alpha1.ObjectRef{{Name: "istiod-istio-system-east"}},
			MTLSConfig: &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{
				RootCertificateAuthority: &v1alpha1.RootCertificateAuthority{Generated: &v1alpha1.CertOptions{RSAKeySizeBytes: bits}},
				IntermediateCertOptions:  &v1alpha1.CertOptions{RSAKeySizeBytes: bits},
			}},
		},
	})
	cacerts := func() (*corev1.Secret, error) {
		s := &corev1.Secret{}
		return s, member.Client.Get(ctx, types.NamespacedName{Namespace: "istio-system", Name: "cacerts"}, s)
	}
	testenv.Eventually(t, "cacerts", func() error { _, err := cacerts(); return err })
	// versions of everything in the hub that the agent writes, but for its heartbeat.
	versions := func() map[string]string {
		t.Helper()
		out := map[string]string{}
		for _, list := range []client.ObjectList{
			&v1alpha1.MeshList{}, &v1alpha1.WorkloadList{}, &v1alpha1.DestinationList{}, &v1alpha1.IssuedCertificateList{}, &v1alpha1.CertificateRequestList{},
		} {
			if err := hubCluster.Client.List(ctx, list, client.InNamespace("isthmus-east")); err != nil {
				t.Fatal(err)
			}
			items, err := meta.ExtractList(list)
			if err != nil {
				t.Fatal(err)
			}
			for _, item := range items {
				o := item.(client.Object)
				out[fmt.Sprintf("%T %s", o, o.GetName())] = o.GetResourceVersion()
			}
		}
		return out
	}
	reported := func() error {
		o := &v1alpha1.IssuedCertificate{}
		if err := hubCluster.Client.Get(ctx, types.NamespacedName{Namespace: "isthmus-east", Name: "istiod-istio-system-east"}, o); err != nil {
			return err
		}
		if o.Status.State != v1alpha1.IssuedCertificateIssued || o.Status.Certificate == nil || o.Status.ObservedGeneration != o.Generation {
			return fmt.Errorf("status is %+v", o.Status)
		}
		mesh := &v1alpha1.Mesh{}
		if err := hubCluster.Client.Get(ctx, client.ObjectKeyFromObject(o), mesh); err != nil {
			return err
		}
		if ca := mesh.Status.CertificateAuthority; ca == nil || ca.Source != v1alpha1.CASourceIsthmus {
			return fmt.Errorf("the mesh's CA is %+v", ca)
		}
		return nil
	}
	testenv.Eventually(t, "the report", reported)
	stop()
	before := versions()
	written, err := cacerts()
	if err != nil {
		t.Fatal(err)
	}

	proxy.Cut()
	if err := member.Client.Delete(ctx, written); err != nil {
		t.Fatal(err)
	}
	link, stop := start()
	defer stop()
	testenv.Eventually(t, "cacerts to be put back", func() error {
		s, err := cacerts()
		if err == nil && string(s.Data["ca-cert.pem"]) != string(written.Data["ca-cert.pem"]) {
			return errors.New("it is another one")
		}
		return err
	})
	if link.Synced() || link.Connected() {
		t.Fatal("connected to a hub that is away")
	}
	proxy.Restore()
	testenv.Eventually(t, "the link", func() error {
		if !link.Synced() || !link.Connected() {
			return errors.New("not up")
		}
		return nil
	})
	// What is new arrives, so the agent has been at work since.
	sidecar := map[string]string{"app": "reviews"}
	create(member, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "reviews"},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: sidecar},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: sidecar}, Spec: corev1.PodSpec{Containers: []corev1.Container{
				{Name: "app", Image: "reviews"},
				{Name: "istio-proxy", Image: "istio/proxyv2:1.31.1", Args: []string{"proxy", "sidecar"}},
			}}},
		},
	})
	testenv.Eventually(t, "the new workload", func() error {
		return hubCluster.Client.Get(ctx, types.NamespacedName{Namespace: "isthmus-east", Name: "deployment.reviews.default"}, &v1alpha1.Workload{})
	})
	if err := reported(); err != nil {
		t.Fatal(err)
	}
	after := versions()
	for what, version := range before {
		if after[what] != version {
			t.Errorf("%s was written though it has not changed", what)
		}
	}
	if len(after) != len(before)+1 {
		t.Errorf("%d objects became %d, not one more", len(before), len(after))
	}
	if err := hubCluster.Client.Get(ctx, client.ObjectKeyFromObject(foreign), foreign); err != nil || foreign.Status.CertificateAuthority != nil {
		t.Errorf("the Mesh of another cluster was reported on: %+v, %v", foreign.Status, err)
	}
}
