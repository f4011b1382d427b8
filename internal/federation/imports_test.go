package federation_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/federation"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// trusting has a mesh trust, and be trusted by, any other that is trusting.
func trusting(m *v1alpha1.Mesh) {
	m.Status.CertificateAuthority = &v1alpha1.MeshCertificateAuthority{Roots: []string{"root"}, Signer: "root", InUse: []string{"root"}}
}

func applied(f v1alpha1.AppliedFederation) func(*v1alpha1.Destination) {
	return func(d *v1alpha1.Destination) { d.Status.AppliedFederation = &f }
}

func TestImport(t *testing.T) {
	home, client := mesh("east", addresses("192.0.2.2", "192.0.2.1")), mesh("west", func(m *v1alpha1.Mesh) { m.Spec.Istio.RootNamespace = "istio-root" })
	home.Spec.Istio.ClusterDomain = "east.example"
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything, TCPKeepalive: &v1alpha1.TCPKeepalive{
		Probes: new(int32(3)), Time: &metav1.Duration{Duration: time.Minute}, Interval: &metav1.Duration{Duration: 1500 * time.Millisecond},
	}}, home, client)
	d := destination(home,
		ports(v1alpha1.KubeServicePort{Name: "http", Port: 9080, Protocol: "TCP"}, v1alpha1.KubeServicePort{Name: "dns", Port: 53, Protocol: "UDP"},
			v1alpha1.KubeServicePort{Port: 9090, AppProtocol: "kubernetes.io/h2c"}),
		identities("spiffe://cluster.local/ns/default/sa/reviews-v2", "spiffe://cluster.local/ns/default/sa/reviews"),
		applied(v1alpha1.AppliedFederation{FederatedHostname: "kubernetes.default.svc.cluster.local", FederatedToMeshes: []string{"nobody"}, Subsets: []string{"v2"},
			Endpoints: []v1alpha1.FederatedEndpoint{{Address: "10.0.0.1", Ports: map[string]int32{"http": 9080, "port-9090": 9090}}}}),
		func(d *v1alpha1.Destination) { d.Labels = map[string]string{v1alpha1.LabelCluster: "north"} },
	)
	got, refusal := federation.Import(vm, federation.Client{Mesh: client, Address: "240.0.0.1"}, home, d)
	if refusal != nil {
		t.Fatal(refusal)
	}
	checkReasons(t, got.Notes)
	checkAccepted(t, got.ServiceEntry, got.DestinationRule)
	const meta = `{"name": "reviews.default.svc.east.global", "namespace": "istio-root", "labels": {"isthmus.dev/cluster": "east"},
		"annotations": {"isthmus.dev/destination": "isthmus-east/reviews.default"}}`
	checkJSON(t, got.ServiceEntry, `{"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": `+meta+`, "status": {}, "spec": {
		"hosts": ["reviews.default.svc.east.global"], "addresses": ["240.0.0.1"], "location": "MESH_INTERNAL", "resolution": "STATIC", "exportTo": ["*"],
		"ports": [{"number": 9080, "name": "http", "protocol": "HTTP"}, {"number": 9090, "name": "port-9090", "protocol": "HTTP2"}],
		"endpoints": [{"address": "192.0.2.1", "ports": {"http": 15443, "port-9090": 15443}}, {"address": "192.0.2.2", "ports": {"http": 15443, "port-9090": 15443}}],
		"subjectAltNames": ["spiffe://cluster.local/ns/default/sa/reviews", "spiffe://cluster.local/ns/default/sa/reviews-v2"]}}`)
	pool := func(more string) string {
		return `"connectionPool": {"tcp": {` + more + `"tcpKeepalive": {"probes": 3, "time": "60s", "interval": "2s"}}}`
	}
	policy := func(subset string) string {
		port := func(n int) string {
			return fmt.Sprintf(`{"port": {"number": %d}, "tls": {"mode": "ISTIO_MUTUAL", "sni": "outbound_.%d_.%s_.reviews.default.svc.east.example"}, %s}`, n, n, subset,
				pool(`"maxConnectionDuration": "30s", `))
		}
		return `{"tls": {"mode": "ISTIO_MUTUAL"}, ` + pool("") + `, "portLevelSettings": [` + port(9080) + `, ` + port(9090) + `]}`
	}
	checkJSON(t, got.DestinationRule, `{"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": `+meta+`, "status": {}, "spec": {
		"host": "reviews.default.svc.east.global", "exportTo": ["*"], "trafficPolicy": `+policy("")+`, "subsets": [{"name": "v2", "trafficPolicy": `+policy("v2")+`}]}}`)

	vm.Spec.Federation.FlatNetwork, vm.Spec.Federation.TCPKeepalive = true, nil
	got, refusal = federation.Import(vm, federation.Client{Mesh: client}, home, d)
	if refusal != nil {
		t.Fatal(refusal)
	}
	checkAccepted(t, got.ServiceEntry, got.DestinationRule)
	checkReasons(t, got.Notes, federation.ReasonSubsetsLeftOut)
	checkJSON(t, got.ServiceEntry.Spec.Endpoints, `[{"address": "10.0.0.1", "ports": {"http": 9080, "port-9090": 9090}}]`)
	checkJSON(t, &got.DestinationRule.Spec, `{"host": "reviews.default.svc.east.global", "exportTo": ["*"], "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}}`)
	if len(got.ServiceEntry.Spec.Addresses) > 0 {
		t.Error("an address that was not given")
	}
}

func TestImportRefuses(t *testing.T) {
	someWest := []v1alpha1.FederationSelector{{Meshes: []v1alpha1.ObjectRef{ref(mesh("north"))}}}
	type world struct {
		vm           *membership.VirtualMesh
		client, home *v1alpha1.Mesh
		d            *v1alpha1.Destination
	}
	for name, tc := range map[string]struct {
		change   func(*world)
		reason   string
		withdraw bool
	}{
		"the client is no member":                   {func(w *world) { w.vm = virtualMesh(w.vm.Spec.Federation, w.home) }, federation.ReasonNotMember, true},
		"the home is no member":                     {func(w *world) { w.vm = virtualMesh(w.vm.Spec.Federation, w.client) }, federation.ReasonNotMember, true},
		"no federation":                             {func(w *world) { w.vm.Spec.Federation = nil }, federation.ReasonNotFederated, true},
		"not selected":                              {func(w *world) { w.vm.Spec.Federation.Selectors = nil }, federation.ReasonNotFederated, true},
		"selected for others":                       {func(w *world) { w.vm.Spec.Federation.Selectors = someWest }, federation.ReasonNotFederated, true},
		"the home itself":                           {func(w *world) { w.client = w.home }, federation.ReasonNotFederated, true},
		"another mesh's":                            {func(w *world) { w.d.Spec.Mesh = w.client.Name }, federation.ReasonForeignDestination, false},
		"another cluster's":                         {func(w *world) { w.d.Namespace = "isthmus-north" }, federation.ReasonForeignDestination, false},
		"a root namespace of no use":                {func(w *world) { w.client.Spec.Istio.RootNamespace = "a/b" }, federation.ReasonInvalidName, false},
		"no smart DNS":                              {func(w *world) { w.vm.Spec.Federation.HostnameSuffix = "mesh" }, federation.ReasonSmartDNSRequired, false},
		"no smart DNS for a suffix of the same end": {func(w *world) { w.vm.Spec.Federation.HostnameSuffix = "x.global" }, federation.ReasonSmartDNSRequired, false},
		"a hostname within the client's domain":     {func(w *world) { w.client.Spec.Istio.ClusterDomain = "east.global" }, federation.ReasonInvalidName, false},
		"not trusted": {func(w *world) {
			w.vm.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{}}
			w.home.Status.CertificateAuthority = nil
		}, federation.ReasonNotTrusted, false},
		"no pods in a flat network": {func(w *world) { w.vm.Spec.Federation.FlatNetwork = true }, federation.ReasonNoEndpoints, false},
		"no gateway":                {func(w *world) { w.home.Spec.Istio.Gateways = nil }, federation.ReasonNoGateway, false},
		"no address that may be":    {func(w *world) { addresses("127.0.0.1", "169.254.169.254")(w.home) }, federation.ReasonForbiddenAddress, false},
		"no port of the gateway":    {func(w *world) { w.home.Spec.Istio.Gateways[0].Ports[1].ExternalPort = 0 }, federation.ReasonInvalidPorts, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{client: mesh("west", trusting), home: mesh("east", trusting)}
			w.vm = virtualMesh(&v1alpha1.Federation{Selectors: everything}, w.home, w.client, mesh("north"))
			w.d = destination(w.home)
			if _, refusal := federation.Import(w.vm, federation.Client{Mesh: w.client}, w.home, w.d); refusal != nil {
				t.Fatalf("refused from the beginning: %v", refusal)
			}
			tc.change(w)
			got, refusal := federation.Import(w.vm, federation.Client{Mesh: w.client}, w.home, w.d)
			if got != nil || refusal == nil {
				t.Fatal("imported")
			}
			if refusal.Reason != tc.reason || refusal.Withdraw != tc.withdraw || refusal.Message == "" || refusal.Field == "" && tc.reason != federation.ReasonNoGateway {
				t.Errorf("%+v", refusal)
			}
		})
	}
}

func TestSmartDNS(t *testing.T) {
	home, client := mesh("east"), mesh("west", func(m *v1alpha1.Mesh) { m.Spec.Istio.SmartDNSProxyingEnabled = true })
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything, HostnameSuffix: "mesh.example"}, home, client)
	got, refusal := federation.Import(vm, federation.Client{Mesh: client}, home, destination(home))
	if refusal != nil || got.ServiceEntry.Name != "reviews.default.svc.east.mesh.example" {
		t.Error(got, refusal)
	}
}

func TestTrustEachOther(t *testing.T) {
	ca := func(signer string, inUse, roots []string) *v1alpha1.MeshCertificateAuthority {
		return &v1alpha1.MeshCertificateAuthority{Signer: signer, InUse: inUse, Roots: roots}
	}
	a, b, both := []string{"a"}, []string{"b"}, []string{"a", "b"}
	for name, tc := range map[string]struct {
		client, home *v1alpha1.MeshCertificateAuthority
		trust        bool
	}{
		"one root":                {ca("a", a, a), ca("a", a, a), true},
		"two roots":               {ca("a", a, both), ca("b", b, both), true},
		"the client lacks one":    {ca("a", a, a), ca("b", b, both), false},
		"the home lacks one":      {ca("a", a, both), ca("b", b, b), false},
		"client not seen":         {nil, ca("a", a, a), false},
		"home not seen":           {ca("a", a, a), nil, false},
		"signer not known":        {ca("", a, a), ca("a", a, a), false},
		"istiod not seen":         {ca("a", nil, a), ca("a", a, a), false},
		"istiod uses another":     {ca("a", b, both), ca("a", a, a), false},
		"a replica uses another":  {ca("a", a, both), ca("b", both, both), false},
		"different roots of each": {ca("a", a, a), ca("b", b, b), false},
	} {
		t.Run(name, func(t *testing.T) {
			client, home := mesh("west"), mesh("east")
			client.Status.CertificateAuthority, home.Status.CertificateAuthority = tc.client, tc.home
			vm := virtualMesh(&v1alpha1.Federation{Selectors: everything}, home, client)
			if f := federation.TrustEachOther(vm, client, home); f != nil {
				t.Errorf("trust is managed elsewhere, but: %v", f)
			}
			vm.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{}}
			if f := federation.TrustEachOther(vm, client, home); (f == nil) != tc.trust {
				t.Errorf("%v", f)
			}
			_, refusal := federation.Import(vm, federation.Client{Mesh: client}, home, destination(home))
			if (refusal == nil) != tc.trust || refusal != nil && (refusal.Reason != federation.ReasonNotTrusted || refusal.Withdraw) {
				t.Errorf("%+v", refusal)
			}
			if _, refusal := federation.Import(vm, federation.Client{Mesh: client, Imported: true}, home, destination(home)); refusal != nil {
				t.Errorf("what is imported is given up: %v", refusal)
			}
		})
	}
}

func TestProtocols(t *testing.T) {
	home, client := mesh("east"), mesh("west")
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything}, home, client)
	for _, tc := range []struct {
		port     v1alpha1.KubeServicePort
		protocol string
	}{
		{v1alpha1.KubeServicePort{Port: 1}, ""},
		{v1alpha1.KubeServicePort{Port: 1, Name: "web"}, ""},
		{v1alpha1.KubeServicePort{Port: 1, Name: "http"}, "HTTP"},
		{v1alpha1.KubeServicePort{Port: 1, Name: "http-admin"}, "HTTP"},
		{v1alpha1.KubeServicePort{Port: 1, Name: "https-x"}, "HTTPS"},
		{v1alpha1.KubeServicePort{Port: 1, Name: "http2"}, "HTTP2"},
		{v1alpha1.KubeServicePort{Port: 1, Name: "grpc-x"}, "GRPC"},
		{v1alpha1.KubeServicePort{Port: 1, Name: "grpc-web"}, "GRPC-Web"},
		{v1alpha1.KubeServicePort{Port: 1, Name: "grpc-web-x"}, "GRPC-Web"},
		{v1alpha1.KubeServicePort{Port: 1, Name: "tcp-x"}, "TCP"},
		{v1alpha1.KubeServicePort{Port: 1, Name: "tls"}, "TLS"},
		{v1alpha1.KubeServicePort{Port: 1, Name: "mongo"}, "Mongo"},
		{v1alpha1.KubeServicePort{Port: 1, Name: "redis"}, "Redis"},
		{v1alpha1.KubeServicePort{Port: 1, Name: "mysql"}, "MySQL"},
		{v1alpha1.KubeServicePort{Port: 1, Name: "http", AppProtocol: "tcp"}, "TCP"},
		{v1alpha1.KubeServicePort{Port: 1, Name: "http", AppProtocol: "example.com/x"}, ""},
		{v1alpha1.KubeServicePort{Port: 1, Name: "x", AppProtocol: "HTTP"}, "HTTP"},
		{v1alpha1.KubeServicePort{Port: 1, AppProtocol: "kubernetes.io/h2c"}, "HTTP2"},
		{v1alpha1.KubeServicePort{Port: 1, AppProtocol: "kubernetes.io/ws"}, "HTTP"},
		{v1alpha1.KubeServicePort{Port: 1, AppProtocol: "kubernetes.io/wss"}, "HTTPS"},
		{v1alpha1.KubeServicePort{Port: 3306}, "TCP"},
		{v1alpha1.KubeServicePort{Port: 3306, Name: "http"}, "HTTP"},
	} {
		got, refusal := federation.Import(vm, federation.Client{Mesh: client}, home, destination(home, ports(tc.port)))
		if refusal != nil {
			t.Fatal(refusal)
		}
		checkAccepted(t, got.ServiceEntry, got.DestinationRule)
		if p := got.ServiceEntry.Spec.Ports[0].Protocol; p != tc.protocol {
			t.Errorf("%+v: %q, want %q", tc.port, p, tc.protocol)
		}
	}
}

func TestLongPortName(t *testing.T) {
	home, client := mesh("east"), mesh("west")
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything, FlatNetwork: true}, home, client)
	name := "http-" + strings.Repeat("a", 58)
	d := destination(home, ports(v1alpha1.KubeServicePort{Name: name, Port: 80}), applied(v1alpha1.AppliedFederation{
		Endpoints: []v1alpha1.FederatedEndpoint{{Address: "10.0.0.1", Ports: map[string]int32{name: 8080}}}}))
	got, refusal := federation.Import(vm, federation.Client{Mesh: client}, home, d)
	if refusal != nil {
		t.Fatal(refusal)
	}
	checkAccepted(t, got.ServiceEntry)
	checkJSON(t, got.ServiceEntry.Spec.Endpoints, `[{"address": "10.0.0.1", "ports": {"port-80": 8080}}]`)
	checkJSON(t, got.ServiceEntry.Spec.Ports, `[{"number": 80, "name": "port-80", "protocol": "HTTP"}]`)
}

func TestAddresses(t *testing.T) {
	home, client := mesh("east"), mesh("west", func(m *v1alpha1.Mesh) { m.Spec.Istio.ClusterDomain = "corp.example" })
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything}, home, client)
	forbidden := func(ip string, port int32) bool { return ip == "192.0.2.9" && port == 15443 }
	for address, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "10.0.0.1": "10.0.0.1", "2001:DB8::1": "2001:db8::1", "fd00::1": "fd00::1", "::ffff:192.0.2.1": "192.0.2.1",
		"64:ff9b::192.0.2.1": "64:ff9b::c000:201", "gw.east.example": "gw.east.example", "GW.East.Example.": "gw.east.example",
		"a-1.us-east-1.elb.amazonaws.com": "a-1.us-east-1.elb.amazonaws.com", "gw.corp.example.com": "gw.corp.example.com",
		// The host itself, its link, nobody and everybody.
		"127.0.0.1": "", "127.1.2.3": "", "::1": "", "::ffff:127.0.0.1": "", "0.0.0.0": "", "0.1.2.3": "", "::": "", "169.254.1.1": "", "fe80::1": "", "fe80::1%eth0": "",
		"2001:db8::1%eth0": "", "::ffff:169.254.169.254": "", "224.0.0.1": "", "ff02::1": "", "ff05::2": "", "255.255.255.255": "",
		// By way of a translator.
		"64:ff9b::7f00:1": "", "64:ff9b::169.254.169.254": "", "::127.0.0.1": "", "::169.254.169.254": "", "2002:7f00:1::": "", "2002:a9fe:a9fe::1": "", "64:ff9b::192.0.2.9": "",
		// What clouds tell their machines.
		"169.254.169.254": "", "fd00:ec2::254": "", "168.63.129.16": "", "100.100.100.200": "", "192.0.0.192": "", "fd20:ce::254": "",
		// API servers.
		"192.0.2.9": "", "::ffff:192.0.2.9": "",
		// Names that lead home, or nowhere.
		"localhost": "", "LOCALHOST.": "", "a.b.localhost": "", "kubernetes": "", "kubernetes.default": "", "kubernetes.default.svc": "", "kubernetes.default.svc.cluster.local": "",
		"gw.local": "", "metadata.google.internal": "", "kubernetes.default.svc.corp.example": "", "a.corp.example": "", "a.Corp.Example.": "",
		"127.1": "", "0x7f.0.0.1": "", "127.0.0.0x1": "", "2130706433": "", "017700000001": "", "1.2.3.4.5": "", "a.b.1": "", "300.1.1.1": "",
		"": "", ".": "", "..": "", "*.a.example": "", "a..example": "", "a b.c.example": "", "unix:///x": "", "a.b.example:80": "", "-a.b.example": "", "ä.b.example": "", "192.0.2.1/24": "", "[::1]": "",
		strings.Repeat("a.", 130) + "example": "", strings.Repeat("a", 64) + ".b.example": "",
	} {
		addresses("192.0.2.77", address)(home)
		got, refusal := federation.Import(vm, federation.Client{Mesh: client, Forbidden: forbidden}, home, destination(home))
		if refusal != nil {
			t.Fatal(refusal)
		}
		checkAccepted(t, got.ServiceEntry)
		var have []string
		for _, e := range got.ServiceEntry.Spec.Endpoints {
			have = append(have, e.Address)
		}
		if want == "" {
			checkReasons(t, got.Notes, federation.ReasonForbiddenAddress)
			if !slices.Equal(have, []string{"192.0.2.77"}) {
				t.Errorf("%q: %v", address, have)
			}
			continue
		}
		checkReasons(t, got.Notes)
		if len(have) != 2 || !slices.Contains(have, want) {
			t.Errorf("%q: %v", address, have)
		}
	}

	home.Spec.Istio.Gateways[0].Ports[1].ExternalPort = 443
	addresses("192.0.2.9")(home)
	if _, refusal := federation.Import(vm, federation.Client{Mesh: client, Forbidden: forbidden}, home, destination(home)); refusal != nil {
		t.Errorf("another port of a machine that also has an API server: %v", refusal)
	}
}

func TestResolution(t *testing.T) {
	client := mesh("west")
	for resolution, list := range map[string][]string{"STATIC": {"192.0.2.1", "2001:db8::1"}, "DNS": {"192.0.2.1", "gw.east.example"}} {
		home := mesh("east", addresses(list...))
		got, refusal := federation.Import(virtualMesh(&v1alpha1.Federation{Selectors: everything}, home, client), federation.Client{Mesh: client}, home, destination(home))
		if refusal != nil {
			t.Fatal(refusal)
		}
		checkAccepted(t, got.ServiceEntry)
		if r := got.ServiceEntry.Spec.Resolution.String(); r != resolution {
			t.Errorf("%v: %s", list, r)
		}
	}
}

func TestSeveralGateways(t *testing.T) {
	client := mesh("west")
	home := mesh("east", func(m *v1alpha1.Mesh) {
		second := gateway("second", v1alpha1.GatewayEastWest, "192.0.2.1", "192.0.2.0")
		second.Ports[1].ExternalPort = 31443
		third := gateway("third", v1alpha1.GatewayEastWest, "192.0.2.0") // the same once more
		third.Ports[1].ExternalPort = 31443
		m.Spec.Istio.Gateways = append(m.Spec.Istio.Gateways, second, third)
	})
	got, refusal := federation.Import(virtualMesh(&v1alpha1.Federation{Selectors: everything}, home, client), federation.Client{Mesh: client}, home, destination(home))
	if refusal != nil {
		t.Fatal(refusal)
	}
	checkJSON(t, got.ServiceEntry.Spec.Endpoints, `[{"address": "192.0.2.0", "ports": {"http": 31443}},
		{"address": "192.0.2.1", "ports": {"http": 15443}}, {"address": "192.0.2.1", "ports": {"http": 31443}}]`)
}

func TestFlatNetwork(t *testing.T) {
	home, client := mesh("east"), mesh("west")
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything, FlatNetwork: true}, home, client)
	two := ports(v1alpha1.KubeServicePort{Name: "a", Port: 1}, v1alpha1.KubeServicePort{Name: "b", Port: 2})
	for name, tc := range map[string]struct {
		endpoints []v1alpha1.FederatedEndpoint
		want      string
		notes     []string
		refusal   string
	}{
		"some": {
			endpoints: []v1alpha1.FederatedEndpoint{{Address: "10.0.0.2", Ports: map[string]int32{"a": 81, "b": 82, "c": 83}}, {Address: "10.0.0.1", Ports: map[string]int32{"a": 91, "b": 92}}},
			want:      `[{"address": "10.0.0.1", "ports": {"a": 91, "b": 92}}, {"address": "10.0.0.2", "ports": {"a": 81, "b": 82}}]`,
		},
		"one without all ports": {
			endpoints: []v1alpha1.FederatedEndpoint{{Address: "10.0.0.2", Ports: map[string]int32{"a": 81}}, {Address: "10.0.0.1", Ports: map[string]int32{"a": 91, "b": 92}}},
			want:      `[{"address": "10.0.0.1", "ports": {"a": 91, "b": 92}}]`, notes: []string{federation.ReasonInvalidPorts},
		},
		"a name": {
			endpoints: []v1alpha1.FederatedEndpoint{{Address: "a.b.example", Ports: map[string]int32{"a": 81, "b": 1}}, {Address: "10.0.0.1", Ports: map[string]int32{"a": 91, "b": 92}}},
			want:      `[{"address": "10.0.0.1", "ports": {"a": 91, "b": 92}}]`, notes: []string{federation.ReasonForbiddenAddress},
		},
		"none":                {refusal: federation.ReasonNoEndpoints},
		"only loopback":       {endpoints: []v1alpha1.FederatedEndpoint{{Address: "127.0.0.1", Ports: map[string]int32{"a": 81, "b": 1}}}, refusal: federation.ReasonForbiddenAddress},
		"only an API server":  {endpoints: []v1alpha1.FederatedEndpoint{{Address: "192.0.2.9", Ports: map[string]int32{"a": 81, "b": 6443}}}, refusal: federation.ReasonForbiddenAddress},
		"a port beyond range": {endpoints: []v1alpha1.FederatedEndpoint{{Address: "10.0.0.2", Ports: map[string]int32{"a": 81, "b": 65536}}}, refusal: federation.ReasonInvalidPorts},
	} {
		t.Run(name, func(t *testing.T) {
			got, refusal := federation.Import(vm, federation.Client{Mesh: client, Forbidden: func(ip string, port int32) bool { return ip == "192.0.2.9" && port == 6443 }},
				home, destination(home, two, applied(v1alpha1.AppliedFederation{Endpoints: tc.endpoints})))
			if tc.refusal != "" {
				if refusal == nil || refusal.Reason != tc.refusal || refusal.Withdraw {
					t.Errorf("%+v", refusal)
				}
				return
			}
			if refusal != nil {
				t.Fatal(refusal)
			}
			checkReasons(t, got.Notes, tc.notes...)
			checkAccepted(t, got.ServiceEntry, got.DestinationRule)
			checkJSON(t, got.ServiceEntry.Spec.Endpoints, tc.want)
		})
	}
}

func TestLimits(t *testing.T) {
	home, client := mesh("east"), mesh("west")
	var many []v1alpha1.KubeServicePort
	for i := range 128 {
		many = append(many, v1alpha1.KubeServicePort{Name: fmt.Sprintf("p%d-%s", i, strings.Repeat("a", 50)), Port: int32(i + 1)})
	}
	var names, gateways []string
	for i := range 64 {
		names = append(names, fmt.Sprintf("v%02d", i))
		gateways = append(gateways, fmt.Sprintf("192.0.2.%d", i))
	}
	home.Spec.Istio.Gateways = nil
	for i := range 64 {
		g := gateway(fmt.Sprintf("gw-%d", i), v1alpha1.GatewayEastWest, gateways...)
		g.Ports[1].ExternalPort = int32(15443 + i)
		home.Spec.Istio.Gateways = append(home.Spec.Istio.Gateways, g)
	}
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything, TCPKeepalive: &v1alpha1.TCPKeepalive{Probes: new(int32(9)), Time: &metav1.Duration{Duration: time.Hour}, Interval: &metav1.Duration{Duration: time.Hour}}}, home, client)
	long := strings.Repeat("a", 63)
	for _, d := range []*v1alpha1.Destination{
		destination(home, called(long, long), ports(many...), applied(v1alpha1.AppliedFederation{Subsets: names})),
		destination(home, ports(many[:1]...), applied(v1alpha1.AppliedFederation{Subsets: names})),
	} {
		got, refusal := federation.Import(vm, federation.Client{Mesh: client}, home, d)
		if refusal != nil {
			t.Fatal(refusal)
		}
		checkAccepted(t, got.ServiceEntry, got.DestinationRule)
		n := len(got.ServiceEntry.Spec.Ports)
		if have, want := len(got.ServiceEntry.Spec.Endpoints), min(1000, 8192/n); have != want {
			t.Errorf("%d endpoints with %d ports each, want %d", have, n, want)
		}
		if have, want := len(got.DestinationRule.Spec.Subsets), min(32, 2048/n-1); have != want {
			t.Errorf("%d subsets of %d ports, want %d", have, n, want)
		}
		if notes := got.Notes.With(federation.ReasonSubsetsLeftOut); len(notes) != 1 {
			t.Errorf("notes: %v", got.Notes)
		}
	}
}

func TestSubsetNames(t *testing.T) {
	home, client := mesh("east"), mesh("west")
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything}, home, client)
	d := destination(home, applied(v1alpha1.AppliedFederation{Subsets: []string{"v2", "v1", "v2", "", "V3", "a.b", "_.evil", strings.Repeat("a", 64)}}))
	got, refusal := federation.Import(vm, federation.Client{Mesh: client}, home, d)
	if refusal != nil {
		t.Fatal(refusal)
	}
	checkAccepted(t, got.DestinationRule)
	checkReasons(t, got.Notes, slices.Repeat([]string{federation.ReasonSubsetsLeftOut}, 5)...)
	var have []string
	for _, s := range got.DestinationRule.Spec.Subsets {
		have = append(have, s.Name)
		if sni := s.TrafficPolicy.PortLevelSettings[0].Tls.Sni; sni != "outbound_.9080_."+s.Name+"_.reviews.default.svc.cluster.local" {
			t.Error(sni)
		}
	}
	if !slices.Equal(have, []string{"v1", "v2"}) {
		t.Error(have)
	}
}

func TestSubsetOfALongName(t *testing.T) {
	long := strings.Repeat("a", 63)
	home, client := mesh("east", func(m *v1alpha1.Mesh) { m.Spec.Istio.ClusterDomain = strings.Repeat("b", 63) + ".example" }), mesh("west")
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything}, home, client)
	got, refusal := federation.Import(vm, federation.Client{Mesh: client}, home, destination(home, called(long, long), applied(v1alpha1.AppliedFederation{Subsets: []string{"v1", long}})))
	if refusal != nil {
		t.Fatal(refusal)
	}
	checkAccepted(t, got.DestinationRule)
	checkReasons(t, got.Notes, federation.ReasonSubsetsLeftOut)
	if n := len(got.DestinationRule.Spec.Subsets); n != 1 {
		t.Errorf("%d subsets", n)
	}
}
