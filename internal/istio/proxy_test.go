package istio_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/istio"
	"github.com/isthmus-mesh/isthmus/internal/istio/istiotest"
)

// TestExpected walks through Istio's page "Controlling the injection policy" and the ways into its other data planes.
func TestExpected(t *testing.T) {
	type m = map[string]string
	const (
		sidecar   = v1alpha1.DataPlaneSidecar
		gateway   = v1alpha1.DataPlaneGateway
		ambient   = v1alpha1.DataPlaneAmbient
		proxyless = v1alpha1.DataPlaneProxyless
	)
	for _, tc := range []struct {
		name        string
		namespace   m
		labels      m
		annotations m
		change      func(*corev1.PodSpec)
		want        v1alpha1.DataPlane
	}{
		{name: "no label anywhere"},
		{name: "namespace enabled", namespace: m{"istio-injection": "enabled"}, want: sidecar},
		{name: "namespace disabled", namespace: m{"istio-injection": "disabled"}, labels: m{"sidecar.istio.io/inject": "true"}},
		{name: "pod opts out", namespace: m{"istio-injection": "enabled"}, labels: m{"sidecar.istio.io/inject": "false"}},
		{name: "pod opts out by annotation", namespace: m{"istio-injection": "enabled"}, annotations: m{"sidecar.istio.io/inject": "false"}},
		{name: "label beats annotation", namespace: m{"istio-injection": "enabled"}, labels: m{"sidecar.istio.io/inject": "true"},
			annotations: m{"sidecar.istio.io/inject": "false"}, want: sidecar},
		{name: "pod opts in", labels: m{"sidecar.istio.io/inject": "true"}, want: sidecar},
		{name: "namespace of a revision", namespace: m{"istio.io/rev": "default"}, want: sidecar},
		{name: "namespace of an unknown revision", namespace: m{"istio.io/rev": "gone"}},
		{name: "pod of a revision", labels: m{"istio.io/rev": "default"}, want: sidecar},
		{name: "host network", namespace: m{"istio-injection": "enabled"}, change: func(s *corev1.PodSpec) { s.HostNetwork = true }},
		{name: "injected gateway", namespace: m{"istio-injection": "enabled"}, annotations: m{"inject.istio.io/templates": "gateway"},
			change: func(s *corev1.PodSpec) {
				s.Containers = []corev1.Container{{Name: "istio-proxy", Image: "auto"}}
			}, want: gateway},
		{name: "gateway of the installer", change: func(s *corev1.PodSpec) {
			s.Containers = []corev1.Container{{Name: "istio-proxy", Args: []string{"proxy", "router"}}}
		}, want: gateway},
		{name: "waypoint", labels: m{"istio.io/dataplane-mode": "none"}, change: func(s *corev1.PodSpec) {
			s.Containers = []corev1.Container{{Name: "istio-proxy", Args: []string{"proxy", "waypoint"}}}
		}, want: gateway},
		{name: "injected by istioctl", change: func(s *corev1.PodSpec) {
			s.Containers = append(s.Containers, corev1.Container{Name: "istio-proxy", Args: []string{"proxy", "sidecar"}})
		}, want: sidecar},
		{name: "proxyless gRPC", namespace: m{"istio-injection": "enabled"}, annotations: m{"inject.istio.io/templates": "grpc-agent"}, want: proxyless},
		{name: "ambient namespace", namespace: m{"istio.io/dataplane-mode": "ambient"}, want: ambient},
		{name: "ambient pod", labels: m{"istio.io/dataplane-mode": "ambient"}, want: ambient},
		{name: "pod leaves ambient", namespace: m{"istio.io/dataplane-mode": "ambient"}, labels: m{"istio.io/dataplane-mode": "none"}},
		{name: "sidecar in an ambient namespace", namespace: m{"istio.io/dataplane-mode": "ambient"}, labels: m{"sidecar.istio.io/inject": "true"}, want: sidecar},
		{name: "ztunnel itself", change: func(s *corev1.PodSpec) {
			s.Containers = []corev1.Container{{Name: "istio-proxy", Args: []string{"proxy", "ztunnel"}}}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			template := istiotest.Template(tc.labels, "sa")
			template.Annotations = tc.annotations
			if tc.change != nil {
				tc.change(&template.Spec)
			}
			got := read(t, "sidecar").Expected(&template, istiotest.Namespace("shop", tc.namespace))
			if got.DataPlane != tc.want {
				t.Errorf("%+v, want %q", got, tc.want)
			}
			if tc.want == sidecar && len(template.Spec.Containers) == 1 && (got.Revision != "default" || got.RootNamespace != "istio-system") {
				t.Errorf("%+v", got)
			}
		})
	}
	if got := read(t, "sidecar").Expected(&corev1.PodTemplateSpec{}, istiotest.Namespace("kube-system", map[string]string{"istio-injection": "enabled"})); got.Meshed() {
		t.Errorf("kube-system: %+v", got)
	}
}

func TestProxyOf(t *testing.T) {
	ns := istiotest.Namespace("shop", nil)
	d := istiotest.Deployment("shop", "reviews", map[string]string{"app": "reviews"}, "reviews")
	bare := istiotest.Pod(d, "aaa", "1")
	captured := bare.DeepCopy()
	captured.Annotations = map[string]string{"ambient.istio.io/redirection": "enabled"}
	grpc := istiotest.Injected(bare, "default", false)
	grpc.Spec.Containers[1].Env = append(grpc.Spec.Containers[1].Env, corev1.EnvVar{Name: "DISABLE_ENVOY", Value: "true"})
	gateway := istiotest.Injected(bare, "1-31", false)
	gateway.Spec.Containers = gateway.Spec.Containers[1:]
	for name, tc := range map[string]struct {
		pod  *corev1.Pod
		want istio.Proxy
	}{
		"no proxy":       {bare, istio.Proxy{}},
		"native sidecar": {istiotest.Injected(bare, "1-31", true), istio.Proxy{v1alpha1.DataPlaneSidecar, "1-31", "istio-system"}},
		"sidecar":        {istiotest.Injected(bare, "default", false), istio.Proxy{v1alpha1.DataPlaneSidecar, "default", "istio-system"}},
		"gateway":        {gateway, istio.Proxy{v1alpha1.DataPlaneGateway, "1-31", "istio-system"}},
		"proxyless":      {grpc, istio.Proxy{v1alpha1.DataPlaneProxyless, "default", "istio-system"}},
		"ambient":        {captured, istio.Proxy{v1alpha1.DataPlaneAmbient, "", ""}},
	} {
		if got := istio.ProxyOf(tc.pod, ns); got != tc.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
