package meshctl_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/hub"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/kube/hublink"
	"github.com/isthmus-mesh/isthmus/internal/meshctl"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// world is a hub's cluster and a member's, with what a cluster has beside an API server: somebody who runs Deployments.
// Whether the hub's Deployment is "run" as the real hub in this process is up to the test.
type world struct {
	hub, member *testenv.Cluster
	kubeconfig  string
}

// newWorld starts both clusters; memberCRDs are directories of further kinds of the member's.
func newWorld(t *testing.T, memberCRDs ...string) *world {
	t.Helper()
	w := &world{hub: testenv.Start(t), member: testenv.Start(t, memberCRDs...)}
	config := clientcmdapi.NewConfig()
	for name, c := range map[string]*testenv.Cluster{"hub": w.hub, "member": w.member} {
		config.Clusters[name] = &clientcmdapi.Cluster{Server: c.Config.Host, CertificateAuthorityData: c.Config.CAData}
		config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: c.Config.CertData, ClientKeyData: c.Config.KeyData}
		config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
		go runDeployments(t.Context(), c.Client)
	}
	config.CurrentContext = "hub"
	w.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, w.kubeconfig); err != nil {
		t.Fatal(err)
	}
	return w
}

// startHub runs the controllers of the hub.
func (w *world) startHub(t *testing.T) {
	t.Helper()
	mgr, err := hub.NewManager(w.hub.Config, hub.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// agent renews the heartbeat in the hub with the credential that it finds in the member, as the real one does.
func (w *world) agent(ctx context.Context, cluster string) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if c, err := w.asAgent(ctx); err == nil {
			_ = heartbeat(ctx, c, cluster)
		}
	}
}

// asAgent is a client for the hub by the credential in the member.
func (w *world) asAgent(ctx context.Context) (client.Client, error) {
	secret := &corev1.Secret{}
	if err := w.member.Client.Get(ctx, client.ObjectKey{Namespace: v1alpha1.AgentNamespace, Name: "isthmus-hub-credential"}, secret); err != nil {
		return nil, err
	}
	cfg, err := clientcmd.RESTConfigFromKubeConfig(secret.Data[hublink.KubeconfigKey])
	if err != nil {
		return nil, err
	}
	return client.New(cfg, client.Options{Scheme: testenv.Scheme()})
}

func heartbeat(ctx context.Context, c client.Client, cluster string) error {
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{
		Namespace: kube.ClusterNamespace(cluster), Name: v1alpha1.AgentName,
		Annotations: map[string]string{v1alpha1.AnnotationAgentVersion: "0.1.0"},
	}}
	now, seconds := metav1.NowMicro(), int32(40)
	spec := coordinationv1.LeaseSpec{RenewTime: &now, LeaseDurationSeconds: &seconds}
	err := c.Get(ctx, client.ObjectKeyFromObject(lease), lease)
	lease.Spec = spec
	if apierrors.IsNotFound(err) {
		return c.Create(ctx, lease)
	}
	if err != nil {
		return err
	}
	return c.Update(ctx, lease)
}

// runDeployments reports every Deployment as rolled out, as controllers and kubelets would. Its pods are not of interest.
func runDeployments(ctx context.Context, c client.Client) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		list := &appsv1.DeploymentList{}
		if c.List(ctx, list) != nil {
			continue
		}
		for i := range list.Items {
			_ = rollOut(ctx, c, &list.Items[i]) // of what changes meanwhile, again
		}
	}
}

func rollOut(ctx context.Context, c client.Client, d *appsv1.Deployment) error {
	if d.Status.ObservedGeneration == d.Generation {
		return nil
	}
	template := *d.Spec.Template.DeepCopy()
	text, err := json.Marshal(template)
	if err != nil {
		return err
	}
	hash := fmt.Sprintf("%x", sha256.Sum256(text))[:10] // one ReplicaSet for each template
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.Namespace, Name: d.Name + "-" + hash, Labels: template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))},
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: d.Spec.Replicas, Selector: d.Spec.Selector, Template: template},
	}
	if err := client.IgnoreAlreadyExists(c.Create(ctx, rs)); err != nil {
		return err
	}
	if err := c.Get(ctx, client.ObjectKeyFromObject(rs), rs); err != nil {
		return err
	}
	rs.Spec.Replicas = d.Spec.Replicas
	if err := c.Update(ctx, rs); err != nil {
		return err
	}
	rs.Status.ObservedGeneration = rs.Generation
	rs.Status.Replicas, rs.Status.ReadyReplicas, rs.Status.AvailableReplicas = *d.Spec.Replicas, *d.Spec.Replicas, *d.Spec.Replicas
	if err := c.Status().Update(ctx, rs); err != nil {
		return err
	}
	d.Status = appsv1.DeploymentStatus{
		ObservedGeneration: d.Generation, Replicas: *d.Spec.Replicas, UpdatedReplicas: *d.Spec.Replicas,
		ReadyReplicas: *d.Spec.Replicas, AvailableReplicas: *d.Spec.Replicas,
	}
	return c.Status().Update(ctx, d)
}

// meshctl runs a command line and returns what it prints to stdout and stderr, and its exit code.
func (w *world) meshctl(t *testing.T, args ...string) (out, errOut string, code int) {
	t.Helper()
	streams, _, stdout, stderr := genericiooptions.NewTestIOStreams()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	code = meshctl.Run(ctx, "meshctl", append(args, "--kubeconfig", w.kubeconfig, "--context", "hub"), streams)
	t.Logf("meshctl %s: exit code %d\n%s%s", strings.Join(args, " "), code, short(stdout), stderr)
	return stdout.String(), stderr.String(), code
}

func short(b *bytes.Buffer) string {
	if b.Len() > 4000 {
		return fmt.Sprintf("(%d bytes)\n", b.Len())
	}
	return b.String()
}

// ok runs a command line that must succeed.
func (w *world) ok(t *testing.T, args ...string) string {
	t.Helper()
	out, errOut, code := w.meshctl(t, args...)
	if code != 0 {
		t.Fatalf("meshctl %s: exit code %d: %s", strings.Join(args, " "), code, errOut)
	}
	return out
}

// fails runs a command line that must fail with the code and say why.
func (w *world) fails(t *testing.T, want int, says string, args ...string) {
	t.Helper()
	_, errOut, code := w.meshctl(t, args...)
	if code != want || !strings.Contains(errOut, says) {
		t.Fatalf("meshctl %s: exit code %d, want %d, and %q in: %s", strings.Join(args, " "), code, want, says, errOut)
	}
}

// givesUp runs a command line that must give up waiting and say what for. One that has not come that far in its time is run again with
// more: it goes on where it stopped.
func (w *world) givesUp(t *testing.T, says string, args ...string) {
	t.Helper()
	for _, timeout := range []string{"5s", "20s", "60s"} {
		if _, errOut, code := w.meshctl(t, slices.Concat(args, []string{"--timeout", timeout})...); code == 1 && strings.Contains(errOut, says) {
			return
		}
	}
	t.Fatalf("meshctl %s: want exit code 1 and %q", strings.Join(args, " "), says)
}

func exists(c client.Client, obj client.Object, namespace, name string) error {
	return c.Get(context.Background(), client.ObjectKey{Namespace: namespace, Name: name}, obj)
}

// unauthorized reports whether the API server does not take the credential of c for one.
func unauthorized(c client.Client) error {
	err := c.List(context.Background(), &v1alpha1.MeshList{})
	if apierrors.IsUnauthorized(err) {
		return nil
	}
	return fmt.Errorf("want 401, got %w", err)
}

// clusterOf makes objects in a cluster, with their status.
type clusterOf struct{ *testenv.Cluster }

func (c *clusterOf) create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, obj := range objects {
		want := obj.DeepCopyObject().(client.Object)
		if err := c.Client.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
		want.SetResourceVersion(obj.GetResourceVersion())
		want.SetUID(obj.GetUID())
		err := c.Client.Status().Update(t.Context(), want)
		if _, ok := want.(*appsv1.Deployment); ok && apierrors.IsConflict(err) {
			err = nil // runDeployments was here first
		}
		if err != nil && !apierrors.IsNotFound(err) {
			t.Fatalf("status of %s: %v", obj.GetName(), err)
		}
	}
}
