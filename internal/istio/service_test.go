package istio_test

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/istio"
	"github.com/isthmus-mesh/isthmus/internal/istio/istiotest"
)

func controller(d *appsv1.Deployment) istio.Controller {
	return istio.Controller{Kind: "Deployment", Name: d.Name, Selector: d.Spec.Selector, Template: &d.Spec.Template}
}

func TestDestination(t *testing.T) {
	meshed := istiotest.Namespace("shop", map[string]string{"istio-injection": "enabled"})
	plain := istiotest.Namespace("shop", nil)
	app := map[string]string{"app": "reviews"}
	service := istiotest.Service("shop", "reviews", app)
	version := func(v, sa string) *appsv1.Deployment {
		return istiotest.Deployment("shop", "reviews-"+v, map[string]string{"app": "reviews", "version": v}, sa)
	}
	v1, v2 := version("v1", "reviews"), version("v2", "reviews-v2")
	in := func(d *appsv1.Deployment) *corev1.Pod {
		return istiotest.Injected(istiotest.Pod(d, "aaa", "1"), "default", true)
	}
	out := func(d *appsv1.Deployment) *corev1.Pod { return istiotest.Pod(d, "aaa", "1") }
	failed := in(v2)
	failed.Status.Phase = corev1.PodFailed
	lost := in(v1)
	lost.Annotations[istio.AnnotationStatus] = `{"revision":"gone"}`
	lost.Spec.InitContainers[0].Env = nil
	job := in(v2)
	job.OwnerReferences[0].Kind = "Job"
	moved := in(v1) // still with the service account of before
	moved.Spec.ServiceAccountName = "before"
	id := func(sa ...string) (ids []string) {
		for _, s := range sa {
			ids = append(ids, "spiffe://cluster.local/ns/shop/sa/"+s)
		}
		return ids
	}
	for _, tc := range []struct {
		name       string
		namespace  *corev1.Namespace
		service    *corev1.Service
		behind     istio.Backends
		state      istio.Membership
		identities []string
		versions   []string
	}{
		{"pods in the mesh", plain, service, istio.Backends{Pods: []*corev1.Pod{in(v1)}, Controllers: []istio.Controller{controller(v1)}}, istio.Inside, id("reviews"), nil},
		{"pods of two versions", meshed, service, istio.Backends{Pods: []*corev1.Pod{in(v1), in(v2)}, Controllers: []istio.Controller{controller(v1), controller(v2)}},
			istio.Inside, id("reviews", "reviews-v2"), []string{"v1", "v2"}},
		{"a template without pods yet", meshed, service, istio.Backends{Controllers: []istio.Controller{controller(v1)}}, istio.Inside, id("reviews"), nil},
		{"pods older than their template", meshed, service, istio.Backends{Pods: []*corev1.Pod{moved}, Controllers: []istio.Controller{controller(v1)}}, istio.Inside, id("before", "reviews"), nil},
		{"pods without a controller of ours", plain, service, istio.Backends{Pods: []*corev1.Pod{job}}, istio.Inside, id("reviews-v2"), nil},
		{"only one of two is in the mesh", plain, service, istio.Backends{Pods: []*corev1.Pod{in(v1), out(v2)}, Controllers: []istio.Controller{controller(v1), controller(v2)}},
			istio.Inside, id("reviews"), nil},
		{"only one of two is in the mesh yet", meshed, service, istio.Backends{Pods: []*corev1.Pod{in(v1), out(v2)}, Controllers: []istio.Controller{controller(v1), controller(v2)}},
			istio.Inside, id("reviews", "reviews-v2"), nil},
		{"a pod that has failed", plain, service, istio.Backends{Pods: []*corev1.Pod{in(v1), failed}, Controllers: []istio.Controller{controller(v1)}}, istio.Inside, id("reviews"), nil},
		{"pods outside of the mesh", plain, service, istio.Backends{Pods: []*corev1.Pod{out(v1)}, Controllers: []istio.Controller{controller(v1)}}, istio.Outside, nil, nil},
		{"pods that were not injected", meshed, service, istio.Backends{Pods: []*corev1.Pod{out(v1)}, Controllers: []istio.Controller{controller(v1)}}, istio.Outside, nil, nil},
		{"nothing behind it", meshed, service, istio.Backends{}, istio.Unknown, nil, nil},
		{"ExternalName", meshed, &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, Selector: app}}, istio.Backends{}, istio.Outside, nil, nil},
		{"no selector", meshed, istiotest.Service("shop", "x", nil), istio.Backends{}, istio.Outside, nil, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			spec, mesh, state := read(t, "sidecar").Destination(tc.service, tc.namespace, tc.behind)
			if state != tc.state || (mesh != nil) != (state == istio.Inside) {
				t.Fatalf("state %v, mesh %v", state, mesh)
			}
			if !slices.Equal(spec.Identities, tc.identities) {
				t.Errorf("identities %v", spec.Identities)
			}
			if got := spec.KubeService.Subsets["version"].Values; !slices.Equal(got, tc.versions) || (tc.versions == nil && len(spec.KubeService.Subsets) > 0) {
				t.Errorf("subsets %v", spec.KubeService.Subsets)
			}
		})
	}
	t.Run("data planes", func(t *testing.T) {
		ambient := istiotest.Namespace("shop", map[string]string{"istio.io/dataplane-mode": "ambient"})
		spec, _, state := read(t, "sidecar").Destination(service, ambient, istio.Backends{
			Pods: []*corev1.Pod{in(v1), out(v2)}, Controllers: []istio.Controller{controller(v1), controller(v2)},
		})
		if want := []v1alpha1.DataPlane{v1alpha1.DataPlaneAmbient, v1alpha1.DataPlaneSidecar}; state != istio.Inside || !slices.Equal(spec.DataPlanes, want) {
			t.Errorf("%v, data planes %v, want %v", state, spec.DataPlanes, want)
		}
	})
	t.Run("the mesh cannot be told", func(t *testing.T) {
		half := read(t, "sidecar")
		half.Meshes, half.Incomplete = nil, []string{"istio-system"}
		if _, _, state := half.Destination(service, plain, istio.Backends{Pods: []*corev1.Pod{lost}}); state != istio.Unknown {
			t.Errorf("state %v", state)
		}
	})
}

// TestRolloutChangesNothing: whatever pods of one template there are at a moment, the description of a Service is the same.
func TestRolloutChangesNothing(t *testing.T) {
	in := read(t, "sidecar")
	ns := istiotest.Namespace("shop", map[string]string{"istio-injection": "enabled"})
	d := istiotest.Deployment("shop", "reviews", map[string]string{"app": "reviews", "version": "v1"}, "reviews")
	service := istiotest.Service("shop", "reviews", map[string]string{"app": "reviews"})
	want, _, _ := in.Destination(service, ns, istio.Backends{Controllers: []istio.Controller{controller(d)}})
	rapid.Check(t, func(t *rapid.T) {
		var pods []*corev1.Pod
		for i := range rapid.IntRange(0, 6).Draw(t, "pods") {
			p := istiotest.Injected(istiotest.Pod(d, rapid.StringMatching(`[a-f0-9]{4}`).Draw(t, "hash"), fmt.Sprint(i)), "default", rapid.Bool().Draw(t, "native"))
			p.Status.Phase = rapid.SampledFrom([]corev1.PodPhase{corev1.PodPending, corev1.PodRunning, corev1.PodFailed, corev1.PodSucceeded}).Draw(t, "phase")
			p.CreationTimestamp = metav1.NewTime(time.Unix(rapid.Int64Range(0, 100).Draw(t, "created"), 0))
			pods = append(pods, p)
		}
		got, _, state := in.Destination(service, ns, istio.Backends{Pods: pods, Controllers: []istio.Controller{controller(d)}})
		if state != istio.Inside || !reflect.DeepEqual(got, want) {
			t.Fatalf("%v: %+v, want %+v", state, got, want)
		}
		work, _, state := in.Workload(controller(d), ns, pods)
		if state != istio.Inside || work.Revision != "default" || work.ServiceAccount != "reviews" || work.DataPlane != v1alpha1.DataPlaneSidecar {
			t.Fatalf("%v: %+v", state, work)
		}
	})
}

func TestWorkload(t *testing.T) {
	in := istio.Read(istiotest.Objects(istiotest.Manifest("revisions")...))
	in.Tags["prod"] = "1-31"
	ns := istiotest.Namespace("shop", map[string]string{"istio.io/rev": "1-31"})
	d := istiotest.Deployment("shop", "reviews", map[string]string{"app": "reviews"}, "")
	pod := func(revision string, age int64) *corev1.Pod {
		p := istiotest.Injected(istiotest.Pod(d, "aaa", fmt.Sprint(age)), revision, true)
		p.CreationTimestamp = metav1.NewTime(time.Unix(1000-age, 0))
		return p
	}
	for _, tc := range []struct {
		name     string
		pods     []*corev1.Pod
		revision string
		state    istio.Membership
	}{
		{"no pods: what the namespace asks for", nil, "1-31", istio.Inside},
		{"pods: what they run", []*corev1.Pod{pod("1-30", 1)}, "1-30", istio.Inside},
		{"in the middle of an upgrade: the oldest", []*corev1.Pod{pod("1-31", 1), pod("1-30", 9)}, "1-30", istio.Inside},
		{"a tag stands for its revision", []*corev1.Pod{pod("prod", 1)}, "1-31", istio.Inside},
		{"pods that were not injected", []*corev1.Pod{istiotest.Pod(d, "aaa", "1")}, "", istio.Outside},
	} {
		spec, mesh, state := in.Workload(controller(d), ns, tc.pods)
		if state != tc.state || spec.Revision != tc.revision {
			t.Errorf("%s: %v, %+v", tc.name, state, spec)
		}
		if state == istio.Inside && (mesh.RootNamespace != "istio-system" || spec.ServiceAccount != "default" || spec.Controller.Kind != "Deployment") {
			t.Errorf("%s: %+v", tc.name, spec)
		}
	}
}

// TestPodSelector: a selector is told whole or not at all.
func TestPodSelector(t *testing.T) {
	in := read(t, "sidecar")
	ns := istiotest.Namespace("shop", map[string]string{"istio-injection": "enabled"})
	many := map[string]string{}
	for i := range 65 {
		many[fmt.Sprint(i)] = ""
	}
	app := map[string]string{"app": "reviews"}
	for _, tc := range []struct {
		name     string
		selector *metav1.LabelSelector
		want     map[string]string
	}{
		{"labels", &metav1.LabelSelector{MatchLabels: app}, app},
		{"labels and an expression", &metav1.LabelSelector{MatchLabels: app, MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: "canary", Operator: metav1.LabelSelectorOpDoesNotExist},
		}}, nil},
		{"more labels than there is room for", &metav1.LabelSelector{MatchLabels: many}, nil},
		{"none", nil, nil},
	} {
		d := istiotest.Deployment("shop", "reviews", map[string]string{"app": "reviews", "version": "v1"}, "")
		d.Spec.Selector = tc.selector
		if spec, _, _ := in.Workload(controller(d), ns, nil); !reflect.DeepEqual(spec.PodSelector, tc.want) {
			t.Errorf("%s: %v", tc.name, spec.PodSelector)
		}
	}
}

func TestOwnerOf(t *testing.T) {
	d := istiotest.Deployment("shop", "reviews-v1", nil, "")
	pod := istiotest.Pod(d, "5d8f", "x")
	of := func(kind, name string, labels map[string]string) *corev1.Pod {
		p := pod.DeepCopy()
		p.OwnerReferences[0].Kind, p.OwnerReferences[0].Name, p.Labels = kind, name, labels
		return p
	}
	none := pod.DeepCopy()
	none.OwnerReferences = nil
	for _, tc := range []struct {
		pod  *corev1.Pod
		want istio.Owner
		ok   bool
	}{
		{pod, istio.Owner{"Deployment", "reviews-v1"}, true},
		{of("StatefulSet", "db", nil), istio.Owner{"StatefulSet", "db"}, true},
		{of("DaemonSet", "log", nil), istio.Owner{"DaemonSet", "log"}, true},
		{of("ReplicaSet", "alone", nil), istio.Owner{}, false},
		{of("ReplicaSet", "other", map[string]string{"pod-template-hash": "5d8f"}), istio.Owner{}, false},
		{of("Job", "once", nil), istio.Owner{}, false},
		{none, istio.Owner{}, false},
	} {
		if got, ok := istio.OwnerOf(tc.pod); ok != tc.ok || ok && got != tc.want {
			t.Errorf("%v: %v, %v", tc.pod.OwnerReferences, got, ok)
		}
	}
}

func TestKubeService(t *testing.T) {
	d := istiotest.Deployment("shop", "db", map[string]string{"app": "db"}, "db")
	s := istiotest.Service("shop", "db", map[string]string{"app": "db"})
	s.Labels = map[string]string{"team": "a"}
	s.Spec.ClusterIP = corev1.ClusterIPNone
	protocol := "mysql"
	s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "db", Port: 3306, Protocol: "TCP", AppProtocol: &protocol, TargetPort: intstr.FromString("mysql")})
	spec, _, _ := read(t, "sidecar").Destination(s, istiotest.Namespace("shop", map[string]string{"istio-injection": "enabled"}),
		istio.Backends{Controllers: []istio.Controller{controller(d)}})
	want := v1alpha1.KubeService{
		Name: "db", Namespace: "shop", Labels: s.Labels, Selector: s.Spec.Selector, Type: "Headless",
		Ports: []v1alpha1.KubeServicePort{
			{Name: "http", Port: 9080, Protocol: "TCP", TargetPort: "9080"},
			{Name: "db", Port: 3306, Protocol: "TCP", AppProtocol: "mysql", TargetPort: "mysql"},
		},
	}
	if !reflect.DeepEqual(spec.KubeService, want) {
		t.Errorf("%+v", spec.KubeService)
	}
}

func TestGateways(t *testing.T) {
	detector := istio.NewGatewayDetector(&v1alpha1.IstioDiscoverySettings{IngressGatewayDetectors: map[string]v1alpha1.IngressGatewayDetector{
		"east": {GatewayTLSPortName: "mtls"},
	}}, "east")
	service := func(name, label string, kind corev1.ServiceType, change func(*corev1.Service)) istio.Gateway {
		s := istiotest.Service("istio-system", name, map[string]string{"istio": label})
		s.Spec.Type = kind
		s.Spec.Ports = []corev1.ServicePort{{Name: "tls", Port: 15443, NodePort: 31443, TargetPort: intstr.FromString("sni")}}
		if change != nil {
			change(s)
		}
		class := cmp.Or(detector.Class(s), v1alpha1.GatewayOther)
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "sni", ContainerPort: 8443}}}}}}
		node := func(addresses ...corev1.NodeAddress) *corev1.Node {
			return &corev1.Node{Status: corev1.NodeStatus{Addresses: addresses}}
		}
		return istio.Gateway{Service: s, Class: class, Pods: []*corev1.Pod{pod}, Nodes: []*corev1.Node{
			node(corev1.NodeAddress{Type: "InternalIP", Address: "10.0.0.2"}, corev1.NodeAddress{Type: "ExternalIP", Address: "192.0.2.2"}),
			node(corev1.NodeAddress{Type: "Hostname", Address: "n1"}, corev1.NodeAddress{Type: "InternalIP", Address: "10.0.0.1"}),
		}}
	}
	balanced := func(s *corev1.Service) {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.2"}, {Hostname: "lb.example.org"}, {IP: "198.51.100.2"}}
	}
	external := func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"203.0.113.1"} }
	labelled := func(s *corev1.Service) {
		s.Labels = map[string]string{}
		for i := range 40 {
			s.Labels[fmt.Sprintf("l%02d", i)] = ""
		}
	}
	var got []v1alpha1.IngressGateway
	for _, g := range []istio.Gateway{
		service("a-custom", "custom", corev1.ServiceTypeClusterIP, labelled),
		service("a-ingress", "ingressgateway", corev1.ServiceTypeLoadBalancer, balanced),
		service("nodes", "eastwestgateway", corev1.ServiceTypeNodePort, nil),
		service("external", "eastwestgateway", corev1.ServiceTypeNodePort, external),
		service("pending", "eastwestgateway", corev1.ServiceTypeLoadBalancer, nil),
	} {
		got = append(got, detector.Describe(g))
	}
	got = istio.Preferred(got)
	type answer struct {
		name, addresses string
		external        int32
		class           v1alpha1.GatewayClass
		labels          int
	}
	var have []answer
	for _, g := range got {
		have = append(have, answer{g.Name, strings.Join(g.Addresses, " "), g.Ports[0].ExternalPort, g.Class, len(g.Labels)})
		if g.TLSPortName != "mtls" {
			t.Errorf("%s: tlsPortName %q", g.Name, g.TLSPortName)
		}
		if g.Ports[0].TargetPort != 8443 || g.Ports[0].Port != 15443 {
			t.Errorf("%s: %+v", g.Name, g.Ports)
		}
	}
	want := []answer{
		{"external", "203.0.113.1", 15443, v1alpha1.GatewayEastWest, 0},
		{"nodes", "10.0.0.1 192.0.2.2", 31443, v1alpha1.GatewayEastWest, 0},
		{"pending", "", 15443, v1alpha1.GatewayEastWest, 0},
		{"a-ingress", "198.51.100.2 lb.example.org", 15443, v1alpha1.GatewayIngress, 0},
		{"a-custom", "", 15443, v1alpha1.GatewayOther, 32},
	}
	if !slices.Equal(have, want) {
		t.Errorf("gateways %v", have)
	}
	for i := range 80 {
		got = append(got, v1alpha1.IngressGateway{Name: fmt.Sprint(i), Class: v1alpha1.GatewayIngress})
	}
	if cut := istio.Preferred(got); len(cut) != 64 || cut[0].Name != "external" || slices.ContainsFunc(cut, func(g v1alpha1.IngressGateway) bool {
		return g.Class == v1alpha1.GatewayOther
	}) {
		t.Errorf("of too many are left: %v", cut)
	}
}

// TestLimitedGateways: they are what their mark says whatever else is marked, are listed last, and never cut off.
func TestLimitedGateways(t *testing.T) {
	marked := func(role string) map[string]string { return map[string]string{v1alpha1.LabelGateway: role} }
	ingress, egress := istiotest.Service("x", "in", marked("ingress")), istiotest.Service("x", "out", map[string]string{"app": "gw"})
	ingress.Labels = map[string]string{"istio": "eastwestgateway", "role": "edge"}
	egress.Labels = marked("egress")
	other := istiotest.Service("x", "other", marked("other"))
	for what, s := range map[string]*v1alpha1.IstioDiscoverySettings{
		"no Settings": nil,
		"Settings": {IngressGatewayDetectors: map[string]v1alpha1.IngressGatewayDetector{
			"*": {GatewayWorkloadLabels: map[string]string{"role": "edge"}},
		}},
	} {
		d := istio.NewGatewayDetector(s, "east")
		if in, out, none := d.Class(ingress), d.Class(egress), d.Class(other); in != v1alpha1.GatewayLimitedIngress || out != v1alpha1.GatewayLimitedEgress || none != "" {
			t.Errorf("%s: %q, %q, %q", what, in, out, none)
		}
	}

	d := istio.NewGatewayDetector(nil, "east")
	ids := []string{"spiffe://cluster.local/ns/x/sa/a", "spiffe://cluster.local/ns/x/sa/b"}
	list := []v1alpha1.IngressGateway{
		d.Describe(istio.Gateway{Service: egress, Class: v1alpha1.GatewayLimitedEgress, Identities: ids}),
		d.Describe(istio.Gateway{Service: ingress, Class: v1alpha1.GatewayLimitedIngress, Identities: slices.Repeat(ids, 9)}),
	}
	if !slices.Equal(list[0].Identities, ids) || len(list[1].Identities) != 8 {
		t.Errorf("identities %v, %v", list[0].Identities, list[1].Identities)
	}
	if g := d.Describe(istio.Gateway{Service: other, Class: v1alpha1.GatewayOther, Identities: ids}); g.Identities != nil {
		t.Errorf("identities of another gateway: %v", g.Identities)
	}
	for i := range 80 {
		list = append(list, v1alpha1.IngressGateway{Name: fmt.Sprint(i), Class: v1alpha1.GatewayOther})
	}
	list = istio.Preferred(list)
	if len(list) != 64 || list[0].Class != v1alpha1.GatewayOther || list[62].Name != "in" || list[63].Name != "out" {
		t.Errorf("%d gateways, the last %+v", len(list), list[max(0, len(list)-2):])
	}
}

func TestGatewayDetector(t *testing.T) {
	custom := v1alpha1.IngressGatewayDetector{GatewayWorkloadLabels: map[string]string{"role": "edge"}}
	settings := func(cluster string) *v1alpha1.IstioDiscoverySettings {
		return &v1alpha1.IstioDiscoverySettings{IngressGatewayDetectors: map[string]v1alpha1.IngressGatewayDetector{cluster: custom}}
	}
	edge := istiotest.Service("x", "edge", map[string]string{"role": "edge"})
	usual := istiotest.Service("x", "usual", map[string]string{"istio": "ingressgateway"})
	labelled := istiotest.Service("x", "labelled", map[string]string{"app": "gw"})
	labelled.Labels = map[string]string{"istio": "eastwestgateway"}
	none := istiotest.Service("x", "none", nil)
	none.Labels = labelled.Labels
	for _, tc := range []struct {
		settings *v1alpha1.IstioDiscoverySettings
		want     []string
	}{
		{nil, []string{"usual Ingress", "labelled EastWest"}},
		{settings("west"), []string{"usual Ingress", "labelled EastWest"}},
		{settings("east"), []string{"edge EastWest"}},
		{settings("*"), []string{"edge EastWest"}},
	} {
		d := istio.NewGatewayDetector(tc.settings, "east")
		var got []string
		for _, s := range []*corev1.Service{edge, usual, labelled, none} {
			if class := d.Class(s); class != "" {
				got = append(got, s.Name+" "+string(class))
			}
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%+v: %v", tc.settings, got)
		}
	}
}

// TestGatewayClass: a Service that nothing marks is a gateway's if a proxy behind it stands alone, or will.
func TestGatewayClass(t *testing.T) {
	in := read(t, "sidecar")
	ns := istiotest.Namespace("edge", map[string]string{"istio-injection": "enabled"})
	app := map[string]string{"app": "edge"}
	service := istiotest.Service("edge", "edge", app)
	marked := istiotest.Service("edge", "marked", map[string]string{"istio": "ingressgateway"})
	sidecar, gateway := istiotest.Deployment("edge", "edge", app, "edge"), istiotest.Deployment("edge", "edge", app, "edge")
	gateway.Spec.Template.Annotations = map[string]string{istio.AnnotationTemplates: "gateway"}
	pod := func(d *appsv1.Deployment) *corev1.Pod {
		return istiotest.Injected(istiotest.Pod(d, "aaa", "1"), "default", true)
	}
	ended := pod(gateway)
	ended.Status.Phase = corev1.PodSucceeded
	for _, tc := range []struct {
		name    string
		service *corev1.Service
		behind  istio.Backends
		want    v1alpha1.GatewayClass
	}{
		{"an application", service, istio.Backends{Pods: []*corev1.Pod{pod(sidecar)}, Controllers: []istio.Controller{controller(sidecar)}}, ""},
		{"nothing behind it", service, istio.Backends{}, ""},
		{"a template of gateways", service, istio.Backends{Controllers: []istio.Controller{controller(sidecar), controller(gateway)}}, v1alpha1.GatewayOther},
		{"a pod that is one", service, istio.Backends{Pods: []*corev1.Pod{pod(sidecar), pod(gateway)}}, v1alpha1.GatewayOther},
		{"a pod that was one", service, istio.Backends{Pods: []*corev1.Pod{pod(sidecar), ended}}, ""},
		{"a mark counts first", marked, istio.Backends{Pods: []*corev1.Pod{pod(gateway)}}, v1alpha1.GatewayIngress},
	} {
		if got := in.GatewayClass(istio.NewGatewayDetector(nil, "east"), tc.service, ns, tc.behind); got != tc.want {
			t.Errorf("%s: %q", tc.name, got)
		}
	}
}
