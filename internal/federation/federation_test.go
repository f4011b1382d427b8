package federation_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/federation"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

func TestFederatedTo(t *testing.T) {
	east, west, north := mesh("east"), mesh("west"), mesh("north")
	stranger := v1alpha1.ObjectRef{Name: "stranger", Namespace: "isthmus-elsewhere"}
	named := func(name string) []v1alpha1.DestinationSelector {
		return []v1alpha1.DestinationSelector{{KubeServiceRefs: &v1alpha1.KubeServiceRefs{
			Services: []v1alpha1.ClusterObjectRef{{Name: name, Namespace: "default"}}}}}
	}
	to := func(refs ...v1alpha1.ObjectRef) []v1alpha1.FederationSelector {
		return []v1alpha1.FederationSelector{{Meshes: refs}}
	}
	const westKey, northKey = "istiod-istio-system-west.isthmus-west", "istiod-istio-system-north.isthmus-north"
	for name, tc := range map[string]struct {
		federation *v1alpha1.Federation
		want       []string
	}{
		"no federation":                 {nil, nil},
		"no selectors":                  {&v1alpha1.Federation{}, nil},
		"everything":                    {&v1alpha1.Federation{Selectors: everything}, []string{"*"}},
		"permissive":                    {&v1alpha1.Federation{Permissive: &v1alpha1.Empty{}}, []string{"*"}},
		"permissive beside selectors":   {&v1alpha1.Federation{Permissive: &v1alpha1.Empty{}, Selectors: []v1alpha1.FederationSelector{{DestinationSelectors: named("other")}}}, nil},
		"some meshes":                   {&v1alpha1.Federation{Selectors: to(ref(west), ref(north))}, []string{northKey, westKey}},
		"all meshes by name":            {&v1alpha1.Federation{Selectors: to(ref(east), ref(west), ref(north))}, []string{northKey, westKey}},
		"its own mesh":                  {&v1alpha1.Federation{Selectors: to(ref(east))}, nil},
		"no member":                     {&v1alpha1.Federation{Selectors: to(stranger)}, nil},
		"a mesh and no member":          {&v1alpha1.Federation{Selectors: to(ref(west), stranger)}, []string{westKey}},
		"union":                         {&v1alpha1.Federation{Selectors: append(to(ref(west)), to(ref(north), ref(west))...)}, []string{northKey, westKey}},
		"union with everyone":           {&v1alpha1.Federation{Selectors: append(to(ref(west)), everything...)}, []string{"*"}},
		"selected":                      {&v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{{DestinationSelectors: named("reviews")}}}, []string{"*"}},
		"not selected":                  {&v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{{DestinationSelectors: named("ratings")}}}, nil},
		"selected by one, not by other": {&v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{{DestinationSelectors: named("ratings")}, {DestinationSelectors: named("reviews"), Meshes: []v1alpha1.ObjectRef{ref(west)}}}}, []string{westKey}},
	} {
		t.Run(name, func(t *testing.T) {
			got, fs := federation.Federate(virtualMesh(tc.federation, east, west, north), east, destination(east))
			checkReasons(t, fs)
			if tc.want == nil {
				if got != nil {
					t.Fatalf("federated: %+v", got)
				}
				return
			}
			checkJSON(t, got, fmt.Sprintf(`{"federatedHostname": "reviews.default.svc.east.global", "virtualMesh": "all.isthmus-system", "federatedToMeshes": %s}`,
				asJSON(t, tc.want)))
		})
	}

	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything, FlatNetwork: true}, west, north)
	if got, fs := federation.Federate(vm, east, destination(east)); got != nil || fs != nil {
		t.Errorf("a mesh that is no member federates: %v %v", got, fs)
	}
	vm = virtualMesh(&v1alpha1.Federation{Selectors: everything}, east, west)
	for what, d := range map[string]*v1alpha1.Destination{
		"another mesh's":    destination(east, func(d *v1alpha1.Destination) { d.Spec.Mesh = "other" }),
		"another cluster's": destination(east, func(d *v1alpha1.Destination) { d.Namespace = west.Namespace }),
	} {
		if got, fs := federation.Federate(vm, east, d); got != nil || fs != nil {
			t.Errorf("%s destination is federated: %v %v", what, got, fs)
		}
	}
}

func TestFederateRefuses(t *testing.T) {
	kind := func(kind string) func(*v1alpha1.Destination) {
		return func(d *v1alpha1.Destination) { d.Spec.KubeService.Type = kind }
	}
	many := make([]v1alpha1.KubeServicePort, 129)
	for i := range many {
		many[i] = v1alpha1.KubeServicePort{Name: fmt.Sprintf("p%d", i), Port: int32(i + 1)}
	}
	long := strings.Repeat("a", 63)
	for name, tc := range map[string]struct {
		d             *v1alpha1.Destination
		change        func(*membership.VirtualMesh, *v1alpha1.Mesh)
		field, reason string
	}{
		"ambient": {d: destination(mesh("east"), func(d *v1alpha1.Destination) { d.Spec.DataPlanes = []v1alpha1.DataPlane{v1alpha1.DataPlaneAmbient} }),
			field: "spec.dataPlanes", reason: federation.ReasonAmbient},
		"headless":              {d: destination(mesh("east"), kind("Headless")), field: "spec.kubeService.type", reason: federation.ReasonHeadless},
		"external name":         {d: destination(mesh("east"), kind("ExternalName")), field: "spec.kubeService.type", reason: federation.ReasonExternalName},
		"a gateway":             {d: destination(mesh("east"), called("istio-eastwestgateway", "istio-gateways")), field: "spec.kubeService", reason: federation.ReasonGatewayService},
		"no ports":              {d: destination(mesh("east"), ports()), field: "spec.kubeService.ports", reason: federation.ReasonNoPorts},
		"UDP only":              {d: destination(mesh("east"), ports(v1alpha1.KubeServicePort{Port: 53, Protocol: "UDP"})), field: "spec.kubeService.ports", reason: federation.ReasonNoPorts},
		"UDP by its name":       {d: destination(mesh("east"), ports(v1alpha1.KubeServicePort{Name: "udp-x", Port: 53})), field: "spec.kubeService.ports", reason: federation.ReasonNoPorts},
		"no port number":        {d: destination(mesh("east"), ports(v1alpha1.KubeServicePort{Port: 65536})), field: "spec.kubeService.ports", reason: federation.ReasonInvalidPorts},
		"no port name":          {d: destination(mesh("east"), ports(v1alpha1.KubeServicePort{Name: "_", Port: 1})), field: "spec.kubeService.ports", reason: federation.ReasonInvalidPorts},
		"a name twice":          {d: destination(mesh("east"), ports(v1alpha1.KubeServicePort{Name: "a", Port: 1}, v1alpha1.KubeServicePort{Name: "a", Port: 2})), field: "spec.kubeService.ports", reason: federation.ReasonInvalidPorts},
		"a number twice":        {d: destination(mesh("east"), ports(v1alpha1.KubeServicePort{Name: "a", Port: 1}, v1alpha1.KubeServicePort{Name: "b", Port: 1})), field: "spec.kubeService.ports", reason: federation.ReasonInvalidPorts},
		"a name twice, made up": {d: destination(mesh("east"), ports(v1alpha1.KubeServicePort{Name: "port-2", Port: 1}, v1alpha1.KubeServicePort{Port: 2})), field: "spec.kubeService.ports", reason: federation.ReasonInvalidPorts},
		"too many ports":        {d: destination(mesh("east"), ports(many...)), field: "spec.kubeService.ports", reason: federation.ReasonTooMany},
		"no identity":           {d: destination(mesh("east"), identities()), field: "spec.identities", reason: federation.ReasonNoIdentity},
		"no name":               {d: destination(mesh("east"), called("a.b", "default")), field: "spec.kubeService.name", reason: federation.ReasonInvalidName},
		"a wildcard":            {d: destination(mesh("east"), called("*", "default")), field: "spec.kubeService.name", reason: federation.ReasonInvalidName},
		"no namespace":          {d: destination(mesh("east"), called("a", "x/y")), field: "spec.kubeService.namespace", reason: federation.ReasonInvalidName},
		"named otherwise":       {d: destination(mesh("east"), func(d *v1alpha1.Destination) { d.Name = "x" }), field: "metadata.name", reason: federation.ReasonInvalidName},
		"no cluster":            {d: destination(mesh("system")), field: "metadata.namespace", reason: federation.ReasonInvalidName},
		"too long a hostname": {
			d: destination(mesh("east"), called(long, long)), field: "spec.federation.hostnameSuffix", reason: federation.ReasonInvalidName,
			change: func(vm *membership.VirtualMesh, _ *v1alpha1.Mesh) {
				vm.Spec.Federation.HostnameSuffix = long + "." + long
			},
		},
		"a suffix that is none": {
			d: destination(mesh("east")), field: "spec.federation.hostnameSuffix", reason: federation.ReasonInvalidName,
			change: func(vm *membership.VirtualMesh, _ *v1alpha1.Mesh) { vm.Spec.Federation.HostnameSuffix = "1" },
		},
		"a cluster domain that is none": {
			d: destination(mesh("east")), field: "spec.istio.clusterDomain", reason: federation.ReasonInvalidName,
			change: func(_ *membership.VirtualMesh, m *v1alpha1.Mesh) { m.Spec.Istio.ClusterDomain = "*" },
		},
		"too long a server name": {
			d: destination(mesh("east"), called(long, long)), field: "spec.kubeService.ports", reason: federation.ReasonInvalidName,
			change: func(_ *membership.VirtualMesh, m *v1alpha1.Mesh) {
				m.Spec.Istio.ClusterDomain = long + "." + strings.Repeat("b", 57) // with "_.9080_._." and so on 256
			},
		},
		"a trust domain that is none": {
			d: destination(mesh("east"), identities("spiffe://a/b/ns/default/sa/x")), field: "spec.identities", reason: federation.ReasonNoIdentity,
			change: func(_ *membership.VirtualMesh, m *v1alpha1.Mesh) { m.Spec.Istio.TrustDomain = "a/b" },
		},
		"limited trust without a gateway for it": {
			d: destination(mesh("east")), field: "spec.istio.gateways", reason: federation.ReasonNoGateway,
			change: func(vm *membership.VirtualMesh, _ *v1alpha1.Mesh) { *vm = *limited(vm) },
		},
		"too long a name for limited trust": {
			d: destination(mesh("east"), called(long, long)), field: "spec.federation.hostnameSuffix", reason: federation.ReasonInvalidName,
			change: func(vm *membership.VirtualMesh, _ *v1alpha1.Mesh) {
				*vm = *limited(vm)
				vm.Spec.Federation.HostnameSuffix = long + "." + strings.Repeat("b", 45)
			},
		},
		"no gateway": {
			d: destination(mesh("east")), reason: federation.ReasonNoGateway,
			change: func(_ *membership.VirtualMesh, m *v1alpha1.Mesh) { m.Spec.Istio.Gateways = nil },
		},
	} {
		t.Run(name, func(t *testing.T) {
			home := mesh(strings.TrimPrefix(tc.d.Namespace, "isthmus-"))
			client := mesh("west", trusting)
			vm := virtualMesh(&v1alpha1.Federation{Selectors: everything}, home, client)
			if tc.change != nil {
				tc.change(vm, home)
			}
			got, fs := federation.Federate(vm, home, tc.d)
			if got != nil || len(fs) == 0 {
				t.Fatalf("federated: %+v %v", got, fs)
			}
			if f := fs[len(fs)-1]; f.Field != tc.field || f.Reason != tc.reason || f.Message == "" {
				t.Errorf("%+v", f)
			}
			// A client judges for itself, and what it has stays.
			out, refusal := federation.Import(vm, federation.Client{Mesh: client}, home, tc.d)
			if out != nil || refusal == nil || refusal.Withdraw || refusal.Reason != tc.reason || refusal.Field != tc.field {
				t.Errorf("the client: %+v %+v", out, refusal)
			}
		})
	}
}

func TestFederateNotes(t *testing.T) {
	home, client := mesh("east"), mesh("west")
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything}, home, client)
	const own = "spiffe://cluster.local/ns/default/sa/reviews"
	d := destination(home, identities(own, "spiffe://other/ns/default/sa/x", "spiffe://cluster.local/ns/other/sa/x", "spiffe://cluster.local/ns/default/sa/", "spiffe://cluster.local/ns/default/sa/a/b", "*"))
	got, fs := federation.Federate(vm, home, d)
	if got == nil {
		t.Fatal("not federated")
	}
	checkReasons(t, fs, slices.Repeat([]string{federation.ReasonInvalidIdentity}, 5)...)

	var all []string
	for i := range 64 {
		all = append(all, fmt.Sprintf("spiffe://cluster.local/ns/default/sa/%d", i))
	}
	for n, want := range map[int][]string{63: nil, 64: {federation.ReasonTooMany}} {
		got, fs := federation.Federate(vm, home, destination(home, identities(all[:n]...)))
		if got == nil {
			t.Fatal("not federated")
		}
		checkReasons(t, fs, want...)
	}
}

func TestFlatNetworkNeedsNoGateway(t *testing.T) {
	home := mesh("east", func(m *v1alpha1.Mesh) { m.Spec.Istio.Gateways = nil })
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything, FlatNetwork: true}, home, mesh("west"))
	if got, fs := federation.Federate(vm, home, destination(home)); got == nil || fs != nil {
		t.Errorf("%v %v", got, fs)
	}
}

func TestHostname(t *testing.T) {
	d := destination(mesh("east"))
	for suffix, want := range map[string]string{"": "reviews.default.svc.east.global", "mesh.example": "reviews.default.svc.east.mesh.example"} {
		vm := virtualMesh(&v1alpha1.Federation{HostnameSuffix: suffix})
		if got := federation.Hostname(vm, d); got != want || federation.ObjectName(got) != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if got := federation.Hostname(virtualMesh(nil), d); got != "reviews.default.svc.east.global" {
		t.Error(got)
	}
	a, b := strings.Repeat("a", 300), strings.Repeat("a", 301)
	if x, y := federation.ObjectName(a), federation.ObjectName(b); x == y || len(x) > 253 || len(y) > 253 {
		t.Errorf("names of %d and %d characters, equal: %v", len(x), len(y), x == y)
	}
}
