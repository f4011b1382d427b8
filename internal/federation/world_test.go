package federation_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	networkingapi "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// everything to everyone.
var everything = []v1alpha1.FederationSelector{{}}

// mesh has a gateway of class EastWest.
func mesh(cluster string, change ...func(*v1alpha1.Mesh)) *v1alpha1.Mesh {
	m := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Name: "istiod-istio-system-" + cluster, Namespace: "isthmus-" + cluster}}
	m.Spec.Cluster = cluster
	m.Spec.Istio = v1alpha1.IstioMesh{
		RootNamespace: "istio-system", TrustDomain: "cluster.local",
		Gateways: []v1alpha1.IngressGateway{gateway("istio-eastwestgateway", v1alpha1.GatewayEastWest, "192.0.2.1")},
	}
	for _, f := range change {
		f(m)
	}
	return m
}

func gateway(name string, class v1alpha1.GatewayClass, addresses ...string) v1alpha1.IngressGateway {
	return v1alpha1.IngressGateway{
		Name: name, Namespace: "istio-gateways", Class: class, Addresses: addresses,
		Labels: map[string]string{"gateway": name}, Selector: map[string]string{"istio": name},
		Ports: []v1alpha1.GatewayPort{
			{Name: "http", Port: 80, ExternalPort: 80, TargetPort: 8080},
			{Name: "tls", Port: 15443, ExternalPort: 15443, TargetPort: 15443},
		},
	}
}

func virtualMesh(f *v1alpha1.Federation, members ...*v1alpha1.Mesh) *membership.VirtualMesh {
	vm := &membership.VirtualMesh{Name: "all.isthmus-system", Generation: 1, Spec: &v1alpha1.VirtualMeshSpec{Federation: f}, Members: members}
	for _, m := range members {
		vm.Spec.Meshes = append(vm.Spec.Meshes, ref(m))
	}
	return vm
}

func ref(m *v1alpha1.Mesh) v1alpha1.ObjectRef {
	return v1alpha1.ObjectRef{Name: m.Name, Namespace: m.Namespace}
}

// destination is the Service "reviews" of the namespace "default", or what changes make of it.
func destination(home *v1alpha1.Mesh, change ...func(*v1alpha1.Destination)) *v1alpha1.Destination {
	d := &v1alpha1.Destination{ObjectMeta: metav1.ObjectMeta{Namespace: home.Namespace}}
	d.Spec = v1alpha1.DestinationSpec{
		Mesh: home.Name,
		KubeService: v1alpha1.KubeService{
			Name: "reviews", Namespace: "default", Type: "ClusterIP", Labels: map[string]string{"app": "reviews"},
			Ports: []v1alpha1.KubeServicePort{{Name: "http", Port: 9080, Protocol: "TCP"}},
		},
		Identities: []string{"spiffe://cluster.local/ns/default/sa/reviews"},
	}
	for _, f := range change {
		f(d)
	}
	if d.Name == "" {
		d.Name = d.Spec.KubeService.Name + "." + d.Spec.KubeService.Namespace
	}
	return d
}

// called changes the name of a destination's Service.
func called(name, namespace string) func(*v1alpha1.Destination) {
	return func(d *v1alpha1.Destination) {
		d.Spec.KubeService.Name, d.Spec.KubeService.Namespace = name, namespace
		d.Spec.Identities = []string{"spiffe://cluster.local/ns/" + namespace + "/sa/" + name}
	}
}

func ports(ports ...v1alpha1.KubeServicePort) func(*v1alpha1.Destination) {
	return func(d *v1alpha1.Destination) { d.Spec.KubeService.Ports = ports }
}

func identities(ids ...string) func(*v1alpha1.Destination) {
	return func(d *v1alpha1.Destination) { d.Spec.Identities = ids }
}

func addresses(addresses ...string) func(*v1alpha1.Mesh) {
	return func(m *v1alpha1.Mesh) { m.Spec.Istio.Gateways[0].Addresses = addresses }
}

func rule(namespace, name, host string, change ...func(*networkingv1.DestinationRule)) *networkingv1.DestinationRule {
	r := &networkingv1.DestinationRule{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	r.Spec.Host = host
	for _, f := range change {
		f(r)
	}
	return r
}

func exportTo(namespaces ...string) func(*networkingv1.DestinationRule) {
	return func(r *networkingv1.DestinationRule) { r.Spec.ExportTo = namespaces }
}

func subsets(names ...string) func(*networkingv1.DestinationRule) {
	return func(r *networkingv1.DestinationRule) {
		for _, n := range names {
			r.Spec.Subsets = append(r.Spec.Subsets, &networkingapi.Subset{Name: n})
		}
	}
}

func reasons(fs finding.Findings) (out []string) {
	for _, f := range fs {
		out = append(out, f.Reason)
	}
	return out
}

// check that findings are of the given reasons, in this order, and that each says something.
func checkReasons(t *testing.T, fs finding.Findings, want ...string) {
	t.Helper()
	if !slices.Equal(reasons(fs), want) {
		t.Errorf("findings %v, want %v: %v", reasons(fs), want, fs)
	}
	for _, f := range fs {
		if f.Message == "" || f.Reason == "" {
			t.Errorf("a finding says nothing: %+v", f)
		}
	}
}

// asJSON makes values comparable that hold messages of protobuf.
func asJSON(t interface{ Fatal(...any) }, v any) string {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// checkJSON checks what of an object the given JSON speaks of.
func checkJSON(t *testing.T, got any, want string) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal([]byte(asJSON(t, got)), &g); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatalf("%v: %s", err, want)
	}
	if !reflect.DeepEqual(g, w) {
		t.Errorf("got %s\nwant %s", asJSON(t, g), asJSON(t, w))
	}
}

func checkAccepted(t *testing.T, objects ...any) {
	t.Helper()
	for _, o := range objects {
		if problems := refused(o); problems != nil {
			t.Errorf("%T would be refused: %s", o, strings.Join(problems, "\n"))
		}
	}
}
