package evidence

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What a cache keeps of a pod tells as much as the pod itself.
func TestCensusOfStrippedPods(t *testing.T) {
	running := corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1"}
	strip := func(name string, c corev1.Container) corev1.Pod {
		t.Helper()
		out, err := StripPod(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: name, Labels: map[string]string{"app": name}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{c}}, Status: running,
		})
		if err != nil {
			t.Fatal(err)
		}
		return *out.(*corev1.Pod)
	}
	setting := func(name, value string) []corev1.EnvVar {
		return []corev1.EnvVar{{Name: "OTHER", Value: "x"}, {Name: name, Value: value}}
	}
	for value, live := range map[string]bool{"true": true, "false": false, "": false} {
		r := Replicas([]corev1.Pod{strip("istiod", corev1.Container{
			Name: "discovery", Args: []string{"discovery"}, Env: setting("ISTIO_MULTIROOT_MESH", value),
		})})
		if len(r) != 1 || r[0].MultiRoot != live {
			t.Errorf("ISTIO_MULTIROOT_MESH=%q: %+v", value, r)
		}
	}
	for value, ttl := range map[string]time.Duration{"60s": time.Minute, "": 24 * time.Hour, "soon": 24 * time.Hour, "-1h": 24 * time.Hour} {
		p := Proxies([]corev1.Pod{strip("web", corev1.Container{
			Name: "istio-proxy", Args: []string{"proxy", "sidecar"}, Env: setting("SECRET_TTL", value),
		})}, "istio-system")
		if len(p) != 1 || p[0].LeafTTL != ttl || p[0].Labels["app"] != "web" {
			t.Errorf("SECRET_TTL=%q: %+v", value, p)
		}
	}
}
