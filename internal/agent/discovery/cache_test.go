package discovery

import (
	"reflect"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/internal/istio"
	"github.com/isthmus-mesh/isthmus/internal/istio/istiotest"
)

// stripped is what the cache holds of an object.
func stripped[T any](t *testing.T, obj T) T {
	t.Helper()
	o, err := strip(obj)
	if err != nil {
		t.Fatal(err)
	}
	return o.(T)
}

// TestStripLosesNothing: package istio says the same of what the cache holds as of what the API server has.
func TestStripLosesNothing(t *testing.T) {
	for _, manifest := range []string{"sidecar", "revisions", "istio-csr", "ambient", "remote-url", "remote-service"} {
		whole, thin := istiotest.Manifest(manifest), istiotest.Manifest(manifest)
		for i, o := range thin {
			thin[i] = stripped(t, o)
		}
		a, b := istio.Read(istiotest.Objects(whole...)), istio.Read(istiotest.Objects(thin...))
		if !a.Equal(b) || len(a.Meshes) == 0 {
			t.Errorf("%s: %+v, stripped %+v", manifest, a, b)
		}
		ns := istiotest.Namespace("istio-system", nil)
		for i, o := range whole {
			d, ok := o.(*appsv1.Deployment)
			if !ok {
				continue
			}
			if x, y := a.Expected(&d.Spec.Template, ns), a.Expected(template(thin[i]), ns); x != y {
				t.Errorf("%s: %s: %+v, stripped %+v", manifest, d.Name, x, y)
			}
		}
	}
	in := istio.Read(istiotest.Objects(istiotest.Manifest("sidecar")...))
	ns := istiotest.Namespace("shop", nil)
	d := istiotest.Deployment("shop", "reviews", map[string]string{"app": "reviews"}, "reviews")
	service := istiotest.Service("shop", "reviews", map[string]string{"app": "reviews"})
	for _, native := range []bool{true, false} {
		pod := istiotest.Injected(istiotest.Pod(d, "aaa", "1"), "default", native)
		pod.Status.Phase = corev1.PodRunning
		describe := func(d *appsv1.Deployment, p *corev1.Pod) []any {
			c := asController(d)
			dest, _, s1 := in.Destination(service, ns, istio.Backends{Pods: []*corev1.Pod{p}, Controllers: []istio.Controller{c}})
			work, _, s2 := in.Workload(c, ns, []*corev1.Pod{p})
			return []any{dest, s1, work, s2, istio.ProxyOf(p, ns)}
		}
		x, y := describe(d, pod), describe(stripped(t, d), stripped(t, pod))
		if !reflect.DeepEqual(x, y) || x[1] != istio.Inside {
			t.Errorf("%+v, stripped %+v", x, y)
		}
	}
}

// TestStripHidesStarts: what the kubelet and the scheduler report of a pod that starts is not kept.
func TestStripHidesStarts(t *testing.T) {
	d := istiotest.Deployment("shop", "reviews", map[string]string{"app": "reviews"}, "reviews")
	pod := istiotest.Injected(istiotest.Pod(d, "aaa", "1"), "default", true)
	running := pod.DeepCopy()
	running.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", Conditions: []corev1.PodCondition{{Type: "Ready", Status: "True"}}}
	if podChanged(stripped(t, pod), stripped(t, running)) {
		t.Error("a pod that came up counts as changed")
	}
	failed := pod.DeepCopy()
	failed.Status.Phase = corev1.PodFailed
	if !podChanged(stripped(t, pod), stripped(t, failed)) {
		t.Error("a pod that failed does not count as changed")
	}
}

// TestStripKeepsSelectors: of each kind of controller the selector and the template are kept.
func TestStripKeepsSelectors(t *testing.T) {
	s := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}
	pods := istiotest.Template(s.MatchLabels, "a")
	for _, o := range []client.Object{
		&appsv1.Deployment{Spec: appsv1.DeploymentSpec{Selector: s, Template: pods}},
		&appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{Selector: s, Template: pods}},
		&appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{Selector: s, Template: pods}},
	} {
		if c := asController(stripped(t, o)); !reflect.DeepEqual(c.Selector, s) || c.Template.Labels["app"] != "a" || c.Kind != kindOf(o) {
			t.Errorf("%T: %+v", o, c)
		}
	}
}

func TestSelectivePair(t *testing.T) {
	for _, tc := range []struct {
		selector map[string]string
		want     string
	}{
		{map[string]string{"app": "a", "app.kubernetes.io/part-of": "x"}, "app=a"},
		{map[string]string{"statefulset.kubernetes.io/pod-name": "db-0", "app": "db"}, "statefulset.kubernetes.io/pod-name=db-0"},
		{map[string]string{"zone": "1", "role": "edge"}, "role=edge"},
	} {
		if got := selectivePair(tc.selector); got != tc.want {
			t.Errorf("%v: %s", tc.selector, got)
		}
	}
}

func TestWorkloadName(t *testing.T) {
	if got := WorkloadName("Deployment", "reviews-v1", "shop"); got != "deployment.reviews-v1.shop" {
		t.Error(got)
	}
}
