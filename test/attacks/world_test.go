package attacks

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"testing"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/releaseutil"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/charts"
	"github.com/isthmus-mesh/isthmus/internal/hub"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

const system = v1alpha1.SystemNamespace

// world is a hub with two registered clusters, east and west. West's agent has been robbed of its credential.
type world struct {
	admin client.Client
	cfg   *rest.Config
	env   *testenv.Cluster
	// east and west have the agents' credentials, writer may write what users write in the hub's namespace, and read no Secret.
	east, west, writer client.Client
	tokens             []string
}

// journal is that of the hub.
var journal = testenv.NewJournal()

// start makes the world, with a mesh and a VirtualMesh of shared trust for each cluster.
func start(t *testing.T) *world {
	t.Helper()
	w := startHub(t, "east", "west")
	for cluster, agent := range map[string]client.Client{"east": w.east, "west": w.west} {
		mesh := meshOf(cluster)
		must(t, agent.Create(t.Context(), mesh))
		mesh.Status.CertificateAuthority = &v1alpha1.MeshCertificateAuthority{Source: v1alpha1.CASourceSelfSigned}
		must(t, agent.Status().Update(t.Context(), mesh))
		must(t, w.writer.Create(t.Context(), virtualMesh("of-"+cluster, cluster)))
		w.order(t, cluster)
	}
	return w
}

// startHub makes a hub with registered clusters, among them east and west.
func startHub(t *testing.T, clusters ...string) *world {
	t.Helper()
	w := &world{env: testenv.Start(t)}
	journal.Of(t)
	w.cfg, w.admin = w.env.Config, w.env.Client
	ctx := context.Background()
	for _, ns := range []string{system, "elsewhere"} {
		w.env.Namespace(t, ns, nil)
	}
	w.installChart(t)

	mgr, err := hub.NewManager(w.as("system:serviceaccount:"+system+":isthmus-hub", "system:serviceaccounts", "system:serviceaccounts:"+system), hub.Options{})
	if err != nil {
		t.Fatal(err)
	}
	runInBackground(t, "the hub", mgr.Start)

	for _, cluster := range clusters {
		must(t, w.admin.Create(ctx, &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Name: cluster, Namespace: system}}))
		testenv.Eventually(t, "registration of "+cluster, func() error {
			kc := &v1alpha1.KubernetesCluster{}
			if err := w.admin.Get(ctx, client.ObjectKey{Namespace: system, Name: cluster}, kc); err != nil {
				return err
			}
			if !meta.IsStatusConditionTrue(kc.Status.Conditions, v1alpha1.ConditionReady) {
				return fmt.Errorf("conditions: %+v", kc.Status.Conditions)
			}
			return nil
		})
	}
	w.east, w.west = w.agent(t, "east"), w.agent(t, "west")
	must(t, w.admin.Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "writer", Namespace: system},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "isthmus-edit"},
		Subjects:   []rbacv1.Subject{{Kind: "User", Name: "writer", APIGroup: rbacv1.GroupName}},
	}))
	must(t, w.admin.Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "writer-reads"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "isthmus-view"},
		Subjects:   []rbacv1.Subject{{Kind: "User", Name: "writer", APIGroup: rbacv1.GroupName}},
	}))
	w.writer = w.client(t, w.as("writer"))
	// Rights are in force some time after they were written.
	testenv.Eventually(t, "rights", func() error {
		return errors.Join(
			w.east.Create(ctx, meshOf("east"), client.DryRunAll), w.west.Create(ctx, meshOf("west"), client.DryRunAll),
			w.writer.Create(ctx, virtualMesh("probe", "east"), client.DryRunAll), w.writer.List(ctx, &v1alpha1.MeshList{}),
		)
	})
	return w
}

// runInBackground runs something until the test ends, and fails the test if it ends with an error.
func runInBackground(t *testing.T, what string, start func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", what, err)
		}
	})
}

// installChart applies the hub's chart as `meshctl install` does, but for what runs.
func (w *world) installChart(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	chart, err := charts.Load(charts.Hub)
	must(t, err)
	install := action.NewInstall(&action.Configuration{})
	install.ClientOnly, install.DryRun, install.ReleaseName, install.Namespace = true, true, "isthmus", system
	install.KubeVersion = &chartutil.KubeVersion{Version: "v1.36.3", Major: "1", Minor: "36"}
	release, err := install.Run(chart, map[string]any{"apiAudiences": w.audiences(t)})
	must(t, err)
	for _, manifest := range releaseutil.SplitManifests(release.Manifest) {
		obj := &unstructured.Unstructured{}
		must(t, yaml.Unmarshal([]byte(manifest), &obj.Object))
		if len(obj.Object) > 0 && obj.GetKind() != "Deployment" {
			must(t, w.admin.Create(ctx, obj))
		}
	}
	// A policy is in force some time after it was made: wait until each of them refuses.
	probe := meshOf("east")
	probe.Namespace = "elsewhere"
	testenv.Eventually(t, "admission policies", func() error {
		if err := w.admin.Create(ctx, probe.DeepCopy(), client.DryRunAll); !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) {
			return fmt.Errorf("a Mesh of another cluster's name was taken: %w", err)
		}
		return nil
	})
}

// audiences are those that the API server gives a token for which none was asked.
func (w *world) audiences(t *testing.T) []any {
	t.Helper()
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "elsewhere"}}
	must(t, w.admin.Create(context.Background(), sa))
	request := &authenticationv1.TokenRequest{}
	must(t, w.admin.SubResource("token").Create(context.Background(), sa, request))
	var all []any
	for _, a := range request.Spec.Audiences {
		all = append(all, a)
	}
	return all
}

// as is a configuration with the rights of a user.
func (w *world) as(user string, groups ...string) *rest.Config {
	cfg := rest.CopyConfig(w.cfg)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: append(groups, "system:authenticated")}
	return cfg
}

func (w *world) client(t *testing.T, cfg *rest.Config) client.Client {
	t.Helper()
	c, err := client.New(cfg, client.Options{Scheme: testenv.Scheme()})
	must(t, err)
	return c
}

// withToken is a client that has nothing but a token.
func (w *world) withToken(t *testing.T, token string) client.Client {
	t.Helper()
	cfg := rest.AnonymousClientConfig(w.cfg)
	cfg.BearerToken = token
	return w.client(t, cfg)
}

// agent makes the credential of a cluster's agent as `meshctl cluster register` does.
func (w *world) agent(t *testing.T, cluster string) client.Client {
	t.Helper()
	request := boundToken("isthmus-agent-credential")
	must(t, w.admin.SubResource("token").Create(context.Background(), serviceAccount(cluster), request))
	w.tokens = append(w.tokens, request.Status.Token)
	return w.withToken(t, request.Status.Token)
}

func serviceAccount(cluster string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.AgentName, Namespace: kube.ClusterNamespace(cluster)}}
}

func boundToken(secret string) *authenticationv1.TokenRequest {
	week := int64(7 * 24 * 3600)
	return &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &week,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Secret", Name: secret},
	}}
}

func meshOf(cluster string) *v1alpha1.Mesh {
	return &v1alpha1.Mesh{
		ObjectMeta: metav1.ObjectMeta{Name: kube.MeshName("istio-system", cluster), Namespace: kube.ClusterNamespace(cluster)},
		Spec: v1alpha1.MeshSpec{Cluster: cluster, Istio: v1alpha1.IstioMesh{
			RootNamespace: "istio-system", TrustDomain: "cluster.local", IstiodServiceAccount: "istiod",
			CertificateAuthority: v1alpha1.CertificateAuthorityIstiod,
		}},
	}
}

func virtualMesh(name string, clusters ...string) *v1alpha1.VirtualMesh {
	vm := &v1alpha1.VirtualMesh{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: system},
		Spec: v1alpha1.VirtualMeshSpec{MTLSConfig: &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{
			RootCertificateAuthority: &v1alpha1.RootCertificateAuthority{Generated: &v1alpha1.CertOptions{RSAKeySizeBytes: new(int32(2048))}},
		}}},
	}
	for _, c := range clusters {
		vm.Spec.Meshes = append(vm.Spec.Meshes, v1alpha1.ObjectRef{Name: kube.MeshName("istio-system", c)})
	}
	return vm
}

// order waits for the order to a cluster's mesh.
func (w *world) order(t *testing.T, cluster string) *v1alpha1.IssuedCertificate {
	t.Helper()
	ic := &v1alpha1.IssuedCertificate{}
	testenv.Eventually(t, "order to "+cluster, func() error {
		return w.admin.Get(context.Background(), client.ObjectKey{Namespace: kube.ClusterNamespace(cluster), Name: kube.MeshName("istio-system", cluster)}, ic)
	})
	return ic
}

// request is what an honest agent of a cluster asks for, with the given key.
func request(t *testing.T, cluster string, issuance int64, key crypto.Signer, csr []byte) *v1alpha1.CertificateRequest {
	t.Helper()
	mesh := kube.MeshName("istio-system", cluster)
	if csr == nil {
		var err error
		csr, err = pki.NewRequest(key, "Istio", mesh)
		must(t, err)
	}
	name, err := pki.PublicKeyName(key.Public())
	must(t, err)
	return &v1alpha1.CertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Name: kube.RequestName(mesh, name), Namespace: kube.ClusterNamespace(cluster)},
		Spec:       v1alpha1.CertificateRequestSpec{IssuedCertificate: mesh, Issuance: issuance, CertificateSigningRequest: string(csr)},
	}
}

// answer waits for the hub's answer.
func (w *world) answer(t *testing.T, cr *v1alpha1.CertificateRequest) v1alpha1.CertificateRequestStatus {
	t.Helper()
	got := &v1alpha1.CertificateRequest{}
	testenv.Eventually(t, "answer to "+cr.Name, func() error {
		if err := w.admin.Get(context.Background(), client.ObjectKeyFromObject(cr), got); err != nil {
			return err
		}
		if got.Status.ObservedGeneration == 0 {
			return errors.New("no answer")
		}
		return nil
	})
	return got.Status
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused fails the test unless err is a refusal for lack of rights.
func refused(t *testing.T, err error) {
	t.Helper()
	if !apierrors.IsForbidden(err) {
		t.Errorf("want it to be forbidden, got: %v", err)
	}
}
