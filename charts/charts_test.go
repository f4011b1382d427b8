package charts_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	"helm.sh/helm/v3/pkg/releaseutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/isthmus-mesh/isthmus/charts"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

var cases = map[string]struct {
	chart, namespace string
	values           map[string]any
}{
	"crds":          {charts.CRDs, "isthmus-system", nil},
	"crds, legacy":  {charts.CRDs, "isthmus-system", map[string]any{"legacy": map[string]any{"enabled": true}}},
	"hub":           {charts.Hub, "isthmus-system", nil},
	"hub, all set":  {charts.Hub, "isthmus-system", map[string]any{"replicas": 2, "podDisruptionBudget": true, "secretNamespaces": []any{"pki"}, "legacy": map[string]any{"enabled": true}, "apiAudiences": []any{"https://issuer.example"}, "extraArgs": []any{"--zap-log-level=debug"}, "podLabels": map[string]any{"a": "b"}, "image": map[string]any{"registry": "", "tag": "1"}}},
	"agent":         {charts.Agent, "isthmus-agent", map[string]any{"cluster": "east"}},
	"agent, others": {charts.Agent, "isthmus-agent", map[string]any{"cluster": "east", "restartWorkloads": false, "istioNamespaces": []any{"istio-system", "istio-two"}, "federation": map[string]any{"addressRange": "198.18.0.0/15", "shortHostnameClusters": []any{"east", "eu"}}, "proxy": map[string]any{"httpsProxy": "http://proxy:3128", "noProxy": "10.0.0.0/8"}}},
	"agent, Vault":  {charts.Agent, "isthmus-agent", map[string]any{"cluster": "east", "vault": map[string]any{"servers": []any{"https://vault.example.com:8200", "http://127.0.0.1:8200"}, "serviceAccounts": []any{"vault-login"}}}},
	"gateways":      {charts.Gateways, "isthmus-gateways", nil},
	"gateways, all set": {charts.Gateways, "isthmus-gateways", map[string]any{
		"replicas": 1, "revision": "1-31", "otherNamespaces": []any{"other"}, "podLabels": map[string]any{"a": "b"}, "podAnnotations": map[string]any{"a": "b"}, "priorityClassName": "high",
		"agent": map[string]any{"namespace": "isthmus-agent", "serviceAccount": "other"},
		"ingress": map[string]any{"service": map[string]any{"type": "NodePort", "nodePort": 31443, "annotations": map[string]any{"a": "b"},
			"externalIPs": []any{"203.0.113.1"}, "externalTrafficPolicy": "Local"}},
	}},
	"gateways, load balancer": {charts.Gateways, "isthmus-gateways", map[string]any{"ingress": map[string]any{"service": map[string]any{
		"loadBalancerClass": "example.com/lb", "loadBalancerSourceRanges": []any{"203.0.113.0/24"}}}}},
}

// render is `helm template`.
func render(t *testing.T, name, namespace string, values map[string]any) []*unstructured.Unstructured {
	t.Helper()
	chart, err := charts.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	install := action.NewInstall(&action.Configuration{})
	install.ClientOnly, install.DryRun, install.ReleaseName, install.Namespace = true, true, name, namespace
	install.KubeVersion = &chartutil.KubeVersion{Version: "v1.36.3", Major: "1", Minor: "36"}
	release, err := install.Run(chart, values)
	if err != nil {
		t.Fatal(err)
	}
	var objects []*unstructured.Unstructured
	for _, manifest := range releaseutil.SplitManifests(release.Manifest) {
		obj := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(manifest), &obj.Object); err != nil {
			t.Fatalf("%v in\n%s", err, manifest)
		}
		if len(obj.Object) > 0 {
			objects = append(objects, obj)
		}
	}
	return objects
}

// TestRenderedObjectsAreValid asks a real API server what it thinks of each object.
func TestRenderedObjectsAreValid(t *testing.T) {
	cluster := testenv.Start(t)
	for _, ns := range []string{"isthmus-system", "isthmus-agent", "isthmus-gateways", "istio-system", "istio-two", "pki"} {
		cluster.Namespace(t, ns, nil)
	}
	strict := client.WithFieldValidation(cluster.Client, metav1.FieldValidationStrict)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			objects := render(t, c.chart, c.namespace, c.values)
			if len(objects) < 5 {
				t.Fatalf("%d objects", len(objects))
			}
			for _, obj := range objects {
				err := strict.Create(context.Background(), obj, client.DryRunAll)
				if obj.GetKind() == "CustomResourceDefinition" && client.IgnoreAlreadyExists(err) == nil {
					continue
				}
				if err != nil {
					t.Errorf("%s %s: %v", obj.GetKind(), obj.GetName(), err)
				}
			}
		})
	}
}

// TestPodsAreRestricted holds the pods against the restricted Pod Security Standard of a real API server.
func TestPodsAreRestricted(t *testing.T) {
	cluster := testenv.Start(t)
	cluster.Namespace(t, "restricted", map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})
	pod := func(spec map[string]any) *unstructured.Unstructured {
		spec["serviceAccountName"] = "default" // admission of ServiceAccounts is not what is tested
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "x", "namespace": "restricted"}, "spec": spec,
		}}
	}
	create := func(spec map[string]any) error {
		return cluster.Client.Create(context.Background(), pod(spec), client.DryRunAll)
	}
	if err := cluster.Client.Create(context.Background(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "restricted"}}); err != nil {
		t.Fatal(err)
	}
	control := map[string]any{"containers": []any{map[string]any{"name": "x", "image": "x"}}}
	if err := create(control); err == nil || !strings.Contains(err.Error(), "restricted") {
		t.Fatalf("a pod without security context: %v", err)
	}
	for _, name := range []string{"hub", "agent", "agent, Vault", "gateways", "gateways, all set"} {
		c := cases[name]
		for _, obj := range render(t, c.chart, c.namespace, c.values) {
			if obj.GetKind() != "Deployment" {
				continue
			}
			spec, _, err := unstructured.NestedMap(obj.Object, "spec", "template", "spec")
			if err != nil {
				t.Fatal(err)
			}
			delete(spec, "priorityClassName") // nor is there any such class
			if err := create(spec); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestLint is `helm lint`, of the files as Helm finds them.
func TestLint(t *testing.T) {
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			for _, m := range lint.All(filepath.Join(testenv.Root(), "charts", c.chart), c.values, c.namespace, true).Messages {
				if m.Severity >= support.WarningSev {
					t.Error(m)
				}
			}
		})
	}
}

// TestRefusedValues: a mistake in the values is told, with its field.
func TestRefusedValues(t *testing.T) {
	for name, c := range map[string]struct {
		chart  string
		values map[string]any
		want   string
	}{
		"no cluster":         {charts.Agent, nil, "cluster"},
		"wrong cluster":      {charts.Agent, map[string]any{"cluster": "East!"}, "cluster"},
		"no range":           {charts.Agent, map[string]any{"cluster": "east", "federation": map[string]any{"addressRange": "241.0.0.0"}}, "addressRange"},
		"one address":        {charts.Agent, map[string]any{"cluster": "east", "federation": map[string]any{"addressRange": "241.0.0.0/32"}}, "addressRange"},
		"server":             {charts.Agent, map[string]any{"cluster": "east", "vault": map[string]any{"servers": []any{"vault.example.com"}}}, "servers"},
		"path":               {charts.Agent, map[string]any{"cluster": "east", "vault": map[string]any{"servers": []any{"https://vault.example.com/v1"}}}, "servers"},
		"unknown value":      {charts.Hub, map[string]any{"replica": 2}, "replica"},
		"type":               {charts.Gateways, map[string]any{"ingress": map[string]any{"service": map[string]any{"type": "ExternalName"}}}, "type"},
		"no replicas":        {charts.Gateways, map[string]any{"replicas": 0}, "replicas"},
		"drain":              {charts.Gateways, map[string]any{"proxyConfig": map[string]any{"terminationDrainDuration": 30}}, "terminationDrainDuration"},
		"wrong type":         {charts.Hub, map[string]any{"secretNamespaces": "pki"}, "secretNamespaces"},
		"short names of svc": {charts.Agent, map[string]any{"cluster": "east", "federation": map[string]any{"shortHostnameClusters": []any{"svc"}}}, "shortHostnameClusters"},
	} {
		t.Run(name, func(t *testing.T) {
			chart, err := charts.Load(c.chart)
			if err != nil {
				t.Fatal(err)
			}
			install := action.NewInstall(&action.Configuration{})
			install.ClientOnly, install.DryRun, install.ReleaseName = true, true, "x"
			if _, err := install.Run(chart, c.values); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("err = %v", err)
			}
		})
	}
}

// TestCRDsAreEmbedded: every generated definition is in the chart, and marked to be kept.
func TestCRDsAreEmbedded(t *testing.T) {
	files, err := os.ReadDir(filepath.Join(testenv.Root(), "charts", "isthmus-crds", "files"))
	if err != nil {
		t.Fatal(err)
	}
	objects := render(t, charts.CRDs, "isthmus-system", nil)
	if len(objects) != len(files) || len(files) == 0 {
		t.Fatalf("%d objects of %d files", len(objects), len(files))
	}
	for _, obj := range objects {
		if obj.GetAnnotations()["helm.sh/resource-policy"] != "keep" {
			t.Errorf("%s would be deleted with the release", obj.GetName())
		}
	}
}

// TestLegacyIsAnOption: kinds of older generations, and rights on them, are there only where they are asked for.
func TestLegacyIsAnOption(t *testing.T) {
	enabled := map[string]any{"legacy": map[string]any{"enabled": true}}
	for _, name := range []string{charts.CRDs, charts.Hub} {
		without, with := render(t, name, "isthmus-system", nil), render(t, name, "isthmus-system", enabled)
		for _, obj := range without {
			if text, err := yaml.Marshal(obj.Object); err != nil || strings.Contains(string(text), "solo.io") {
				t.Errorf("%s %s is about older generations: %v", obj.GetKind(), obj.GetName(), err)
			}
		}
		if len(with) < len(without)+3 {
			t.Errorf("%s: %d objects, and %d with older generations", name, len(without), len(with))
		}
		for _, obj := range with {
			if name == charts.CRDs && obj.GetAnnotations()["helm.sh/resource-policy"] != "keep" {
				t.Errorf("%s would be deleted with the release", obj.GetName())
			}
		}
	}
}

// TestLegacyDefinitionsOfOthers: the chart of the kinds leaves those alone that are somebody else's, and says what to do.
func TestLegacyDefinitionsOfOthers(t *testing.T) {
	cluster := testenv.Start(t)
	ctx := context.Background()
	chart, err := charts.Load(charts.CRDs)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(testenv.Root(), "charts", "isthmus-crds", "legacy", "networking.smh.solo.io_virtualmeshes.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	theirs := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(text, &theirs.Object); err != nil {
		t.Fatal(err)
	}
	theirs.SetLabels(nil)
	theirs.Object["spec"].(map[string]any)["names"].(map[string]any)["shortNames"] = []any{"theirs"}
	if err := cluster.Client.Create(ctx, theirs); err != nil {
		t.Fatal(err)
	}
	values, err := chartutil.ToRenderValues(chart, map[string]any{"legacy": map[string]any{"enabled": true}}, chartutil.ReleaseOptions{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	rendered := func() (string, error) {
		files, err := engine.RenderWithClient(chart, values, cluster.Config)
		return files["isthmus-crds/templates/legacy.yaml"], err
	}
	if _, err := rendered(); err == nil || !strings.Contains(err.Error(), "kubectl annotate crd virtualmeshes.networking.smh.solo.io isthmus.dev/follow=true") {
		t.Errorf("a definition of somebody else: %v", err)
	}
	patch := func(metadata string) {
		t.Helper()
		if err := cluster.Client.Patch(ctx, theirs, client.RawPatch(types.MergePatchType, []byte(`{"metadata": `+metadata+`}`))); err != nil {
			t.Fatal(err)
		}
	}
	for _, follow := range []string{"false", "true"} {
		patch(`{"annotations": {"isthmus.dev/follow": "` + follow + `"}}`)
		if out, err := rendered(); err != nil || strings.Contains(out, "networking.smh.solo.io") || !strings.Contains(out, "networking.zephyr.solo.io") {
			t.Errorf("%v in\n%s", err, out)
		}
	}
	patch(`{"labels": {"isthmus.dev/managed-by": "isthmus-crds"}}`)
	if out, err := rendered(); err != nil || !strings.Contains(out, "networking.smh.solo.io") {
		t.Errorf("one of ours: %v in\n%s", err, out)
	}
}
