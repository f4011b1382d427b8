package charts_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/charts"
	"github.com/isthmus-mesh/isthmus/internal/agent/restart"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// TestAgentOnlyRestarts: an agent that was taken over may start rollouts, and not change what runs.
func TestAgentOnlyRestarts(t *testing.T) {
	ctx := context.Background()
	cluster := testenv.Start(t)
	for _, ns := range []string{"isthmus-agent", "istio-system"} {
		cluster.Namespace(t, ns, nil)
	}
	for _, obj := range render(t, charts.Agent, "isthmus-agent", map[string]any{"cluster": "east"}) {
		if err := cluster.Client.Create(ctx, obj); err != nil {
			t.Fatalf("%s %s: %v", obj.GetKind(), obj.GetName(), err)
		}
	}
	asAgent := rest.CopyConfig(cluster.Config)
	asAgent.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:isthmus-agent:isthmus-agent",
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:isthmus-agent", "system:authenticated"},
	}
	agent, err := client.New(asAgent, client.Options{Scheme: testenv.Scheme()})
	if err != nil {
		t.Fatal(err)
	}

	meta := metav1.ObjectMeta{Name: "istiod", Namespace: "istio-system", Labels: map[string]string{"app": "istiod"}}
	pod := corev1.PodSpec{Containers: []corev1.Container{{Name: "discovery", Image: "istiod:1"}}}
	template := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: meta.Labels, Annotations: map[string]string{"prometheus.io/port": "15014"}}, Spec: pod,
	}
	selector := &metav1.LabelSelector{MatchLabels: meta.Labels}
	objects := []client.Object{
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "istio-system"}},
		&appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Selector: selector, Template: template}},
		&appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Selector: selector, Template: template}},
		&appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}},
		&corev1.Pod{ObjectMeta: meta, Spec: pod},
	}
	for _, obj := range objects {
		if err := cluster.Client.Create(ctx, obj); err != nil {
			t.Fatal(err)
		}
	}

	type patch = map[string]any
	inTemplate := func(p patch) patch { return patch{"spec": patch{"template": p}} }
	annotations := func(name, value string) patch { return patch{"metadata": patch{"annotations": patch{name: value}}} }
	image := patch{"spec": patch{"containers": []any{patch{"name": "discovery", "image": "evil:1"}}}}
	orphan := patch{"metadata": patch{"ownerReferences": []any{patch{"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "0"}}}}
	try := func(obj client.Object, p patch) error {
		raw, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		return agent.Patch(ctx, obj.DeepCopyObject().(client.Object), client.RawPatch(types.StrategicMergePatchType, raw), client.DryRunAll)
	}
	denied := func(err error) bool {
		return apierrors.IsInvalid(err) && strings.Contains(err.Error(), "denied request: an agent")
	}
	// The API server takes a moment to load policies.
	for obj, p := range map[client.Object]patch{objects[1]: inTemplate(image), objects[4]: image} {
		testenv.Eventually(t, "the policies are in force", func() error {
			if err := try(obj, p); !denied(err) {
				return fmt.Errorf("err = %w", err)
			}
			return nil
		})
	}

	for _, obj := range objects[1:4] {
		t.Run(fmt.Sprintf("%T", obj), func(t *testing.T) {
			if err := try(obj, inTemplate(annotations(restart.Annotation, "1"))); err != nil {
				t.Fatalf("a restart, which is the agent's business: %v", err)
			}
			for name, p := range map[string]patch{
				"another image":        inTemplate(image),
				"another proxy image":  inTemplate(annotations("sidecar.istio.io/proxyImage", "evil:1")),
				"annotation changed":   inTemplate(annotations("prometheus.io/port", "1")),
				"annotation removed":   inTemplate(patch{"metadata": patch{"annotations": patch{"prometheus.io/port": nil}}}),
				"label of pods":        inTemplate(patch{"metadata": patch{"labels": patch{"app": "istiod", "x": "y"}}}),
				"label":                {"metadata": patch{"labels": patch{"x": "y"}}},
				"owner that is gone":   orphan,
				"image with a restart": inTemplate(patch{"metadata": annotations(restart.Annotation, "2")["metadata"], "spec": image["spec"]}),
			} {
				if err := try(obj, p); !denied(err) {
					t.Errorf("%s: err = %v", name, err)
				}
			}
		})
	}
	t.Run("Pod", func(t *testing.T) {
		if err := try(objects[4], annotations("isthmus.dev/cacerts-projected", "1")); err != nil {
			t.Fatalf("touching a pod, which is the agent's business: %v", err)
		}
		for name, p := range map[string]patch{
			"another image":      image,
			"another annotation": annotations("kubectl.kubernetes.io/default-container", "x"),
			"label":              {"metadata": patch{"labels": patch{"app": "other"}}},
			"owner that is gone": orphan,
		} {
			if err := try(objects[4], p); !denied(err) {
				t.Errorf("%s: err = %v", name, err)
			}
		}
	})
}
