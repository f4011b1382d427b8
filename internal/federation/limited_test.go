package federation_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	networkingapi "istio.io/api/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/federation"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

func limited(vm *membership.VirtualMesh) *membership.VirtualMesh { return vm.WithTrust(true) }

// limitedGateways gives a mesh gateways of limited trust, and has them seen to trust, and be trusted by, those of any other.
func limitedGateways(addresses ...string) func(*v1alpha1.Mesh) {
	return func(m *v1alpha1.Mesh) {
		for name, class := range map[string]v1alpha1.GatewayClass{"isthmus-ingress": v1alpha1.GatewayLimitedIngress, "isthmus-egress": v1alpha1.GatewayLimitedEgress} {
			g := gateway(name, class, addresses...)
			g.Namespace, g.Identities = v1alpha1.GatewaysNamespace, []string{"spiffe://" + m.Spec.Istio.TrustDomain + "/ns/isthmus-gateways/sa/" + name}
			m.Spec.Istio.Gateways = append(m.Spec.Istio.Gateways, g)
		}
		slices.SortFunc(m.Spec.Istio.Gateways, func(a, b v1alpha1.IngressGateway) int { return strings.Compare(a.Name, b.Name) })
		m.Status.GatewayCertificate = &v1alpha1.MeshGatewayCertificate{VirtualMesh: "all.isthmus-system", Signer: "root", Roots: []string{"root"}}
	}
}

func TestLimited(t *testing.T) {
	home, client := mesh("east", limitedGateways("192.0.2.2", "gw.east.example")), mesh("west", limitedGateways("192.0.2.7"), func(m *v1alpha1.Mesh) {
		m.Spec.Istio.RootNamespace = "istio-root"
	})
	north := mesh("north")
	vm := limited(virtualMesh(&v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{{Meshes: []v1alpha1.ObjectRef{ref(client)}}},
		TCPKeepalive: &v1alpha1.TCPKeepalive{Time: &metav1.Duration{Duration: time.Minute}}}, home, client, north))
	d := destination(home,
		ports(v1alpha1.KubeServicePort{Name: "http-envoy-prom", Port: 80, Protocol: "TCP", AppProtocol: "http", TargetPort: "9080"},
			v1alpha1.KubeServicePort{Port: 9090, AppProtocol: "kubernetes.io/h2c", TargetPort: "grpc"}),
		applied(v1alpha1.AppliedFederation{Subsets: []string{"v2"}}))

	got, refusal := federation.Import(vm, federation.Client{Mesh: client, Address: "241.0.0.1"}, home, d)
	if refusal != nil {
		t.Fatal(refusal)
	}
	e := got.Egress
	checkReasons(t, got.Notes, federation.ReasonSubsetsLeftOut)
	if fmt.Sprint(e.ServerNames) != "[{p80.reviews.default.svc.east.global 9080} {p9090.reviews.default.svc.east.global grpc}]" || e.Through.String() != "isthmus-gateways/isthmus-egress" {
		t.Errorf("through %v, server names %v", e.Through, e.ServerNames)
	}
	meta := func(name, more string) string {
		return `"metadata": {"name": "` + name + `", "namespace": "isthmus-gateways", "labels": {` + more + `"isthmus.dev/cluster": "east"},
			"annotations": {"isthmus.dev/destination": "isthmus-east/reviews.default"}}`
	}
	const host, onward, name = "reviews.default.svc.east.global", "reviews.default.svc.east.global.isthmus.invalid", "isthmus-reviews-default-svc-east-global-8e411eaf39"
	const egress, east, west = "spiffe://cluster.local/ns/isthmus-gateways/sa/isthmus-egress",
		"spiffe://all.isthmus-system.gateways.isthmus.dev/cluster/east/mesh/istiod-istio-system-east", "spiffe://all.isthmus-system.gateways.isthmus.dev/cluster/west/mesh/istiod-istio-system-west"
	checkJSON(t, got.ServiceEntry, `{"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", `+meta(host, `"experimental.istio.io/disable-gateway-port-translation": "true", `)+`, "status": {}, "spec": {
		"hosts": ["`+host+`"], "addresses": ["241.0.0.1"], "location": "MESH_INTERNAL", "resolution": "STATIC", "exportTo": ["*"],
		"workloadSelector": {"labels": {"istio": "isthmus-egress"}}, "subjectAltNames": ["`+egress+`"], "ports": [
			{"number": 80, "name": "federated-port-80", "protocol": "HTTP", "targetPort": 15443}, {"number": 9090, "name": "federated-port-9090", "protocol": "HTTP2", "targetPort": 15443}]}}`)
	// admitted begins what gateways call each other's services by: each mesh by another name.
	const admitted = "istiod-istio-system-west."
	rule := func(host, asked, tls, exportTo string) string {
		pool := func(more string) string {
			return `"connectionPool": {"tcp": {` + more + `"tcpKeepalive": {"time": "60s"}}}`
		}
		ofPorts := pool("")
		if host != onward { // the client's sidecar changes connections in time, of HTTP alone
			ofPorts = pool(`"maxConnectionDuration": "30s", `)
		}
		port := func(n int) string {
			return fmt.Sprintf(`{"port": {"number": %d}, "tls": {%s, "sni": "p%d.%sreviews.default.svc.east.global"}, %s}`, n, tls, n, asked, ofPorts)
		}
		return `{"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", ` + meta(host, "") + `, "status": {}, "spec": {"host": "` + host + `", "exportTo": ["` + exportTo + `"],
			"trafficPolicy": {"tls": {` + tls + `}, ` + pool("") + `, "portLevelSettings": [` + port(80) + `, ` + port(9090) + `]}}}`
	}
	checkJSON(t, got.DestinationRule, rule(host, "", `"mode": "ISTIO_MUTUAL", "subjectAltNames": ["`+egress+`"]`, "*"))
	checkJSON(t, e.DestinationRule, rule(onward, admitted, `"mode": "MUTUAL", "credentialName": "isthmus-gateway", "subjectAltNames": ["`+east+`"]`, "."))
	checkJSON(t, e.ServiceEntry, `{"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", `+meta(onward, "")+`, "status": {}, "spec": {
		"hosts": ["`+onward+`"], "location": "MESH_INTERNAL", "resolution": "DNS", "exportTo": ["."], "subjectAltNames": ["`+east+`"],
		"ports": [{"number": 80, "name": "http-envoy-prom", "protocol": "TCP"}, {"number": 9090, "name": "port-9090", "protocol": "TCP"}],
		"endpoints": [{"address": "192.0.2.2", "ports": {"http-envoy-prom": 15443, "port-9090": 15443}}, {"address": "gw.east.example", "ports": {"http-envoy-prom": 15443, "port-9090": 15443}}]}}`)
	gateway := func(name, selector, asked, tls string) string {
		server := func(n int) string {
			port := strings.TrimSuffix(fmt.Sprintf("tls-%d-%s", n, strings.TrimSuffix(asked, ".")), "-")
			return fmt.Sprintf(`{"port": {"number": 15443, "name": "%s", "protocol": "TLS"}, "hosts": ["p%d.%sreviews.default.svc.east.global"], "tls": {%s}}`, port, n, asked, tls)
		}
		return `{"apiVersion": "networking.istio.io/v1", "kind": "Gateway", ` + meta(name, "") + `, "status": {}, "spec": {"selector": {"istio": "` + selector + `"}, "servers": [` + server(80) + `, ` + server(9090) + `]}}`
	}
	route := func(n int, asked, gateway, host string) string {
		name := fmt.Sprintf("p%d.reviews.default.svc.east.global", n)
		return `{"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", ` + meta(name, "") + `, "status": {}, "spec": {"hosts": ["` + strings.Replace(name, ".", "."+asked, 1) + `"], "gateways": ["` + gateway + `"], "exportTo": ["."],
			"tcp": [{"route": [{"destination": {"host": "` + host + `", "port": {"number": ` + fmt.Sprint(n) + `}}}]}]}}`
	}
	checkJSON(t, e.Gateway, gateway(name, "isthmus-egress", "", `"mode": "ISTIO_MUTUAL"`))
	checkJSON(t, e.VirtualServices, `[`+route(80, "", name, onward)+`, `+route(9090, "", name, onward)+`]`)
	checkAccepted(t, got.ServiceEntry, got.DestinationRule, e.ServiceEntry, e.DestinationRule, e.Gateway)

	a := federation.Admit(vm, home, d)
	const ingress = "isthmus-reviews-default-svc-east-global-isthmus-ingr-8b3e7a1534"
	checkJSON(t, a.Gateways, `[`+gateway(ingress, "isthmus-ingress", admitted, `"mode": "MUTUAL", "credentialName": "isthmus-gateway", "subjectAltNames": ["`+west+`"]`)+`]`)
	checkJSON(t, a.VirtualServices, `[`+route(80, admitted, ingress, "reviews.default.svc.cluster.local")+`, `+route(9090, admitted, ingress, "reviews.default.svc.cluster.local")+`]`)
	checkAccepted(t, a.Gateways[0])
	if name, identities := federation.Entrance(vm, client, home, d); name != a.Gateways[0].Spec.Servers[0].Hosts[0] || !slices.Equal(identities, []string{east}) {
		t.Errorf("others enter by %s, and meet %v", name, identities)
	}

	if f, fs := federation.Federate(vm, home, d); f == nil || !slices.Equal(f.FederatedToMeshes, []string{membership.MeshKey(client)}) {
		t.Errorf("federated as %+v: %v", f, fs)
	}
	vm.Spec.Federation.Selectors = everything
	before, all := a.Gateways[0].Spec.Servers, federation.Admit(vm, home, d).Gateways[0]
	if len(all.Spec.Servers) != 2*len(before) {
		t.Errorf("everybody else is %v", all.Spec.Servers)
	}
	// Envoy ends connections whose settings change: nobody's do when another mesh comes or goes.
	for _, s := range before {
		if !slices.ContainsFunc(all.Spec.Servers, func(other *networkingapi.Server) bool { return proto.Equal(s, other) }) {
			t.Errorf("another mesh changes the server %v", s)
		}
	}
	checkAccepted(t, all)
	// Without anybody else there is no server: one without names would admit whoever has a certificate.
	if got := federation.Admit(limited(virtualMesh(vm.Spec.Federation, home)), home, d); got == nil || len(got.Gateways)+len(got.VirtualServices) > 0 {
		t.Errorf("admitted: %v", asJSON(t, got))
	}
	if federation.Admit(vm.WithTrust(false), home, d) != nil {
		t.Error("gateways of limited trust under other trust")
	}
	// They are never those for pass-through.
	vm = vm.WithTrust(false)
	vm.Spec.Federation = &v1alpha1.Federation{Selectors: everything, IngressGatewaySelectors: []v1alpha1.IngressGatewaySelector{{}}}
	if gs, _ := federation.ChosenGateways(vm, home); len(gs) != 1 || gs[0].Name != "istio-eastwestgateway" {
		t.Errorf("chosen: %v", gs)
	}
}

func TestLimitedRefuses(t *testing.T) {
	change := func(class v1alpha1.GatewayClass, f func(*v1alpha1.IngressGateway)) func(m *v1alpha1.Mesh) {
		return func(m *v1alpha1.Mesh) {
			for i := range m.Spec.Istio.Gateways {
				if g := &m.Spec.Istio.Gateways[i]; g.Class == class {
					f(g)
				}
			}
		}
	}
	none := func(*v1alpha1.Mesh) {}
	for name, tc := range map[string]struct {
		home, client func(*v1alpha1.Mesh)
		reason, says string
	}{
		"no ingress":                   {func(m *v1alpha1.Mesh) { m.Spec.Istio.Gateways = nil }, none, federation.ReasonNoGateway, "chart isthmus-gateways"},
		"no egress":                    {none, func(m *v1alpha1.Mesh) { m.Spec.Istio.Gateways = nil }, federation.ReasonNoGateway, "chart isthmus-gateways"},
		"an ingress without address":   {change("LimitedIngress", func(g *v1alpha1.IngressGateway) { g.Addresses = nil }), none, federation.ReasonNoGateway, "has no address"},
		"an ingress without port":      {change("LimitedIngress", func(g *v1alpha1.IngressGateway) { g.Ports = g.Ports[:1] }), none, federation.ReasonNoGateway, "no port named tls"},
		"an address that leads home":   {change("LimitedIngress", func(g *v1alpha1.IngressGateway) { g.Addresses = []string{"127.0.0.1"} }), none, federation.ReasonForbiddenAddress, "127.0.0.1"},
		"an egress without identity":   {none, change("LimitedEgress", func(g *v1alpha1.IngressGateway) { g.Identities = nil }), federation.ReasonNoGateway, "identity"},
		"an egress of another's":       {none, change("LimitedEgress", func(g *v1alpha1.IngressGateway) { g.Identities = []string{"spiffe://else/ns/isthmus-gateways/sa/x"} }), federation.ReasonNoGateway, "identity"},
		"an egress without selector":   {none, change("LimitedEgress", func(g *v1alpha1.IngressGateway) { g.Selector = nil }), federation.ReasonNoGateway, "no selector"},
		"an egress in root namespace":  {none, change("LimitedEgress", func(g *v1alpha1.IngressGateway) { g.Namespace = "istio-system" }), federation.ReasonNoGateway, "root namespace"},
		"no certificate at home":       {func(m *v1alpha1.Mesh) { m.Status.GatewayCertificate = nil }, none, federation.ReasonNotTrusted, "istiod-istio-system-east were not seen"},
		"one of another virtual mesh":  {none, func(m *v1alpha1.Mesh) { m.Status.GatewayCertificate.VirtualMesh = "x.isthmus-system" }, federation.ReasonNotTrusted, "istiod-istio-system-west were not seen"},
		"another root at home":         {func(m *v1alpha1.Mesh) { m.Status.GatewayCertificate.Signer = "new" }, none, federation.ReasonNotTrusted, "do not know the root"},
		"the client's is not known":    {func(m *v1alpha1.Mesh) { m.Status.GatewayCertificate.Roots = nil }, none, federation.ReasonNotTrusted, "do not know the root"},
		"no root of the meshes needed": {func(m *v1alpha1.Mesh) { m.Status.CertificateAuthority = nil }, none, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			client, home := mesh("west", limitedGateways("192.0.2.7"), tc.client), mesh("east", limitedGateways("192.0.2.2"), tc.home)
			vm := limited(virtualMesh(&v1alpha1.Federation{Selectors: everything, FlatNetwork: true}, home, client))
			got, refusal := federation.Import(vm, federation.Client{Mesh: client}, home, destination(home))
			switch {
			case tc.reason == "" && refusal != nil:
				t.Error(refusal)
			case tc.reason != "" && (refusal == nil || got != nil || refusal.Withdraw || refusal.Reason != tc.reason || !strings.Contains(refusal.Message, tc.says)):
				t.Errorf("%v %+v", got, refusal)
			}
			if tc.reason == federation.ReasonNotTrusted {
				if _, refusal := federation.Import(vm, federation.Client{Mesh: client, Imported: true}, home, destination(home)); refusal != nil {
					t.Errorf("asked again: %v", refusal)
				}
			}
		})
	}
}

// Names of ports and hosts that others choose do not make two things one.
func TestLimitedNames(t *testing.T) {
	client, home := mesh("west", limitedGateways("192.0.2.7")), mesh("east", limitedGateways("192.0.2.2"))
	vm := limited(virtualMesh(&v1alpha1.Federation{Selectors: everything}, home, client))
	seen := map[string]bool{}
	for _, names := range [][2]string{{"a-b", "c"}, {"a", "b-c"}, {strings.Repeat("a", 63), strings.Repeat("b", 63)}, {strings.Repeat("a", 63), strings.Repeat("b", 62)}} {
		d := destination(home, called(names[0], names[1]))
		got, refusal := federation.Import(vm, federation.Client{Mesh: client}, home, d)
		if refusal != nil {
			t.Fatal(refusal)
		}
		for _, name := range []string{got.Egress.Gateway.Name, federation.Admit(vm, home, d).Gateways[0].Name} {
			if seen[name] {
				t.Errorf("%s is there twice", name)
			}
			seen[name] = true
		}
		checkAccepted(t, got.Egress.Gateway, got.Egress.ServiceEntry, got.Egress.DestinationRule)
	}
}
