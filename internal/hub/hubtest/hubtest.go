// Package hubtest runs the real hub in tests, on a real API server and with no rights but those that the chart gives it.
package hubtest

import (
	"context"
	"testing"

	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/releaseutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/charts"
	"github.com/isthmus-mesh/isthmus/internal/hub"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// Install installs the chart of the hub but for what needs kubelets: its rights, the roles of agents and users, and the
// admission policies. The namespaces that it and secretNamespaces name are made.
func Install(t testing.TB, c *testenv.Cluster, secretNamespaces ...string) {
	t.Helper()
	namespaces := []any{}
	for _, ns := range secretNamespaces {
		c.Namespace(t, ns, nil)
		namespaces = append(namespaces, ns)
	}
	InstallWith(t, c, map[string]any{"secretNamespaces": namespaces})
}

// InstallWith is Install with values of the chart. What they name has to be there.
func InstallWith(t testing.TB, c *testenv.Cluster, given map[string]any) {
	t.Helper()
	chart, err := charts.Load(charts.Hub)
	if err != nil {
		t.Fatal(err)
	}
	c.Namespace(t, v1alpha1.SystemNamespace, nil)
	values, err := chartutil.ToRenderValues(chart, given,
		chartutil.ReleaseOptions{Name: charts.Hub, Namespace: v1alpha1.SystemNamespace, IsInstall: true}, chartutil.DefaultCapabilities)
	if err != nil {
		t.Fatal(err)
	}
	rendered, err := engine.Render(chart, values)
	if err != nil {
		t.Fatal(err)
	}
	for file, text := range rendered {
		for _, manifest := range releaseutil.SplitManifests(text) {
			obj := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(manifest), &obj.Object); err != nil {
				continue // NOTES.txt
			}
			switch obj.GetKind() {
			case "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding":
				if err := c.Client.Create(context.Background(), obj); err != nil {
					t.Fatalf("%s: %v", file, err)
				}
			}
		}
	}
}

// Config has the rights of the hub's ServiceAccount.
func Config(c *testenv.Cluster) *rest.Config {
	cfg := rest.CopyConfig(c.Config)
	cfg.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + v1alpha1.SystemNamespace + ":isthmus-hub",
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + v1alpha1.SystemNamespace, "system:authenticated"},
	}
	return cfg
}

// Start starts the hub, with the rights that Install gave it. It ends with stop or with the test.
func Start(t testing.TB, c *testenv.Cluster, o hub.Options) (stop func()) {
	t.Helper()
	mgr, err := hub.NewManager(Config(c), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}
