package predecessor_test

import (
	"context"
	"fmt"
	"reflect"
	"testing"

	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/releaseutil"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/charts"
	"github.com/isthmus-mesh/isthmus/internal/agent/predecessor"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// rights are those that the agent's chart gives it in its cluster.
func rights(t *testing.T, c *testenv.Cluster) *rest.Config {
	t.Helper()
	chart, err := charts.Load(charts.Agent)
	if err != nil {
		t.Fatal(err)
	}
	values, err := chartutil.ToRenderValues(chart, map[string]any{"cluster": "east"}, chartutil.ReleaseOptions{Name: "a", Namespace: v1alpha1.AgentNamespace}, nil)
	if err != nil {
		t.Fatal(err)
	}
	rendered, err := engine.Render(chart, values)
	if err != nil {
		t.Fatal(err)
	}
	for _, manifest := range releaseutil.SplitManifests(rendered["isthmus-agent/templates/rbac.yaml"]) {
		obj := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(manifest), &obj.Object); err != nil {
			t.Fatal(err)
		}
		if err := c.Client.Create(context.Background(), obj); err != nil {
			t.Fatal(err)
		}
	}
	cfg := rest.CopyConfig(c.Config)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:" + v1alpha1.AgentNamespace + ":isthmus-agent", Groups: []string{"system:authenticated"}}
	return cfg
}

// TestReporter: what installations of each generation leave is found, by an agent with the rights of its chart; what is somebody
// else's, or ours, is not taken for theirs.
func TestReporter(t *testing.T) {
	ctx := context.Background()
	member, hub := testenv.Start(t, testenv.IstioCRDs(t)), testenv.Start(t)
	for _, ns := range []string{"istio-system", "bookinfo", "gloo-mesh", v1alpha1.AgentNamespace} {
		member.Namespace(t, ns, nil)
	}
	for _, cluster := range []string{"east", "west"} {
		hub.Namespace(t, "isthmus-"+cluster, nil)
		mesh := &v1alpha1.Mesh{
			ObjectMeta: metav1.ObjectMeta{Name: "istiod-istio-system-" + cluster, Namespace: "isthmus-" + cluster},
			Spec:       v1alpha1.MeshSpec{Cluster: cluster, Istio: v1alpha1.IstioMesh{RootNamespace: "istio-system", TrustDomain: "cluster.local", IstiodServiceAccount: "istiod"}},
		}
		if err := hub.Client.Create(ctx, mesh); err != nil {
			t.Fatal(err)
		}
	}
	limited, err := client.New(rights(t, member), client.Options{Scheme: testenv.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	reporter := &predecessor.Reporter{Hub: hub.Client, Reader: limited, RootNamespaces: []string{"istio-system"}}
	key := client.ObjectKey{Namespace: "isthmus-east", Name: "istiod-istio-system-east"}
	look := func() *v1alpha1.Mesh {
		t.Helper()
		result, err := reporter.Reconcile(ctx, ctrl.Request{NamespacedName: key})
		if err != nil || result.RequeueAfter == 0 {
			t.Fatalf("%+v, %v", result, err)
		}
		mesh := &v1alpha1.Mesh{}
		if err := hub.Client.Get(ctx, key, mesh); err != nil {
			t.Fatal(err)
		}
		return mesh
	}
	create := func(o client.Object) {
		t.Helper()
		if err := member.Client.Create(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	object := func(apiVersion, kind, namespace, name, spec string, labels map[string]string) *unstructured.Unstructured {
		t.Helper()
		o := &unstructured.Unstructured{}
		text := fmt.Sprintf("{apiVersion: %s, kind: %s, metadata: {name: %q, namespace: %s}, spec: %s}", apiVersion, kind, name, namespace, spec)
		if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
			t.Fatal(err)
		}
		o.SetLabels(labels)
		return o
	}

	testenv.Eventually(t, "the rights", func() error { // they are in force some time after they were written
		_, err := reporter.Reconcile(ctx, ctrl.Request{NamespacedName: key})
		return err
	})
	first := look()
	if nothing := (&v1alpha1.PredecessorStatus{Imports: new(int32)}); !reflect.DeepEqual(first.Status.Predecessor, nothing) {
		t.Fatalf("in an empty cluster: %+v", first.Status.Predecessor)
	}
	if again := look(); again.ResourceVersion != first.ResourceVersion {
		t.Error("what has not changed is written")
	}

	const net, sec = "networking.istio.io/v1", "security.istio.io/v1"
	gloo := map[string]string{"cluster.multicluster.solo.io": "east", "owner.networking.mesh.gloo.solo.io": "gloo-mesh"}
	smh := map[string]string{"cluster.multicluster.solo.io": "east", "owner.networking.smh.solo.io": "service-mesh-hub"}
	entry := func(host string) string {
		return fmt.Sprintf("{hosts: [%q], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, location: MESH_INTERNAL}", host)
	}
	create(object(net, "ServiceEntry", "istio-system", "reviews.bookinfo.svc.west.global", entry("reviews.bookinfo.svc.west.global"), gloo))
	create(object(net, "ServiceEntry", "istio-system", "ratings.default.west", entry("ratings.default.west"), nil))     // of the first generation
	create(object(net, "DestinationRule", "istio-system", "ratings.default.west", "{host: ratings.default.west}", nil)) // the same
	create(object(net, "ServiceEntry", "istio-system", "api.example.com", entry("api.example.com"), nil))
	create(object(net, "ServiceEntry", "bookinfo", "ratings.default.west", entry("ratings.default.west"), nil))
	create(object(net, "ServiceEntry", "istio-system", "reviews.bookinfo.svc.east.global", entry("reviews.bookinfo.svc.east.global"), gloo)) // for its own gateway
	create(object(net, "DestinationRule", "bookinfo", "reviews", "{host: reviews}", smh))
	create(object(net, "DestinationRule", "bookinfo", "own", "{host: own}", map[string]string{"cluster.multicluster.solo.io": "", "agent.example.com": "x"}))
	create(object(net, "VirtualService", "bookinfo", "reviews", "{hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}", gloo))
	create(object("networking.istio.io/v1alpha3", "EnvoyFilter", "istio-system", "vm.gloo-mesh", "{}", smh))
	create(object(sec, "AuthorizationPolicy", "istio-system", "global-access-control", "{}", gloo))
	adopted := object(net, "Gateway", "istio-system", "adopted", "{servers: [{port: {number: 15443, name: tls, protocol: TLS}, hosts: ['*.global'], tls: {mode: AUTO_PASSTHROUGH}}]}", gloo)
	adopted.SetLabels(map[string]string{"cluster.multicluster.solo.io": "east", "owner.networking.mesh.gloo.solo.io": "gloo-mesh", v1alpha1.LabelManagedBy: "isthmus-agent-network"})
	create(adopted)
	create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "cacerts"}, Type: "solo.io/ca-intermediate"})
	for name, image := range map[string]string{"cert-agent": "gcr.io/gloo-mesh/cert-agent:1.0.0", "csr-agent": "example.com/other:1"} {
		app := map[string]string{"app": name}
		create(&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "gloo-mesh", Name: name}, Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: app},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}}},
		}})
	}

	want := &v1alpha1.PredecessorStatus{
		Running: []string{"gloo-mesh/cert-agent"},
		CACerts: true,
		Kinds: []v1alpha1.PredecessorKind{
			{Kind: "ServiceEntry", Count: 3}, {Kind: "DestinationRule", Count: 2}, {Kind: "VirtualService", Count: 1},
			{Kind: "EnvoyFilter", Count: 1}, {Kind: "AuthorizationPolicy", Count: 1},
		},
		Imports: ptr.To[int32](2),
		Objects: []string{
			"ServiceEntry istio-system/ratings.default.west", "ServiceEntry istio-system/reviews.bookinfo.svc.east.global", "ServiceEntry istio-system/reviews.bookinfo.svc.west.global", "DestinationRule bookinfo/reviews", "DestinationRule istio-system/ratings.default.west",
			"VirtualService bookinfo/reviews", "EnvoyFilter istio-system/vm.gloo-mesh", "AuthorizationPolicy istio-system/global-access-control",
		},
	}
	if got := look().Status.Predecessor; !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}

	for i := range 30 {
		name := fmt.Sprintf("s%02d.default.west", i)
		create(object(net, "ServiceEntry", "istio-system", name, entry(name), nil))
	}
	if got := look().Status.Predecessor; len(got.Objects) != 20 || got.Kinds[0].Count != 33 || *got.Imports != 32 {
		t.Errorf("of many: %+v", got)
	}
	for _, kind := range []string{"ServiceEntry", "DestinationRule", "VirtualService"} {
		all := &unstructured.Unstructured{}
		all.SetAPIVersion(net)
		all.SetKind(kind)
		for _, ns := range []string{"istio-system", "bookinfo"} {
			if err := member.Client.DeleteAllOf(ctx, all, client.InNamespace(ns)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := member.Client.Delete(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "gloo-mesh", Name: "cert-agent"}}); err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "cacerts"}}
	if err := member.Client.Patch(ctx, secret, client.RawPatch("application/merge-patch+json", []byte(`{"metadata": {"labels": {"isthmus.dev/managed-by": "isthmus-agent"}}}`))); err != nil {
		t.Fatal(err)
	}
	if got := look().Status.Predecessor; len(got.Kinds) != 2 || *got.Imports != 0 || got.CACerts || got.Running != nil {
		t.Errorf("when most is gone: %+v", got)
	}
}
