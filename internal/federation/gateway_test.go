package federation_test

import (
	"slices"
	"strings"
	"testing"

	networkingapi "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/federation"
)

func TestChosenGateways(t *testing.T) {
	const ew, in, other = v1alpha1.GatewayEastWest, v1alpha1.GatewayIngress, v1alpha1.GatewayOther
	const limitedIn, limitedOut = v1alpha1.GatewayLimitedIngress, v1alpha1.GatewayLimitedEgress
	list := func(gateways ...v1alpha1.IngressGateway) []v1alpha1.IngressGateway { return gateways }
	named := func(g v1alpha1.IngressGateway, tlsPort string) v1alpha1.IngressGateway {
		g.TLSPortName = tlsPort
		return g
	}
	matching := func(portName string, m v1alpha1.KubeServiceMatcher) v1alpha1.IngressGatewaySelector {
		return v1alpha1.IngressGatewaySelector{PortName: portName, DestinationSelectors: []v1alpha1.DestinationSelector{{KubeServiceMatcher: &m}}}
	}
	byLabel := func(portName, name string) v1alpha1.IngressGatewaySelector {
		return matching(portName, v1alpha1.KubeServiceMatcher{Labels: map[string]string{"gateway": name}})
	}
	byRef := func(name, cluster string) v1alpha1.IngressGatewaySelector {
		return v1alpha1.IngressGatewaySelector{DestinationSelectors: []v1alpha1.DestinationSelector{{KubeServiceRefs: &v1alpha1.KubeServiceRefs{
			Services: []v1alpha1.ClusterObjectRef{{Name: name, Namespace: "istio-gateways", ClusterName: cluster}}}}}}
	}
	for name, tc := range map[string]struct {
		gateways  []v1alpha1.IngressGateway
		selectors []v1alpha1.IngressGatewaySelector
		want      []string // "<name>:<port name>"
		says      []string
	}{
		"east-west before ingress":      {list(gateway("in", in, "a"), gateway("ew", ew, "b")), nil, []string{"ew:tls"}, nil},
		"all of a class":                {list(gateway("ew1", ew, "a"), gateway("in", in, "a"), gateway("ew2", ew, "b")), nil, []string{"ew1:tls", "ew2:tls"}, nil},
		"ingress":                       {list(gateway("other", other, "a"), gateway("in", in, "b")), nil, []string{"in:tls"}, nil},
		"one without address":           {list(gateway("ew1", ew), gateway("ew2", ew, "b")), nil, []string{"ew2:tls"}, nil},
		"ingress, as another lacks":     {list(gateway("ew", ew), gateway("in", in, "b")), nil, []string{"in:tls"}, nil},
		"the port that Settings name":   {list(named(gateway("ew", ew, "a"), "http")), nil, []string{"ew:http"}, nil},
		"no gateway":                    {nil, nil, nil, []string{"istio=eastwestgateway"}},
		"only others":                   {list(gateway("other", other, "a")), nil, nil, []string{"istio=eastwestgateway"}},
		"no address":                    {list(gateway("ew", ew)), nil, nil, []string{"istio-gateways/ew", "address"}},
		"no port":                       {list(named(gateway("ew", ew, "a"), "mtls")), nil, nil, []string{"istio-gateways/ew", "port named mtls"}},
		"no address, no port":           {list(gateway("ew", ew), named(gateway("in", in, "a"), "mtls")), nil, nil, []string{"istio-gateways/ew", "address", "istio-gateways/in", "port named mtls"}},
		"selected by label":             {list(gateway("ew", ew, "a"), gateway("x", other, "b")), []v1alpha1.IngressGatewaySelector{byLabel("", "x")}, []string{"x:tls"}, nil},
		"selected by name":              {list(gateway("ew", ew, "a"), gateway("x", other, "b")), []v1alpha1.IngressGatewaySelector{byRef("x", "")}, []string{"x:tls"}, nil},
		"selected in the cluster":       {list(gateway("ew", ew, "a"), gateway("x", other, "b")), []v1alpha1.IngressGatewaySelector{byRef("x", "east")}, []string{"x:tls"}, nil},
		"selected in another cluster":   {list(gateway("ew", ew, "a")), []v1alpha1.IngressGatewaySelector{byRef("ew", "west")}, nil, []string{"none of its gateways is selected"}},
		"selected by namespace":         {list(gateway("ew", ew, "a"), gateway("x", other, "b")), []v1alpha1.IngressGatewaySelector{matching("", v1alpha1.KubeServiceMatcher{Namespaces: []string{"istio-gateways"}})}, []string{"ew:tls", "x:tls"}, nil},
		"selected with a port":          {list(gateway("ew", ew, "a")), []v1alpha1.IngressGatewaySelector{byLabel("http", "ew")}, []string{"ew:http"}, nil},
		"the selector's port counts":    {list(named(gateway("ew", ew, "a"), "http")), []v1alpha1.IngressGatewaySelector{byLabel("", "ew")}, []string{"ew:tls"}, nil},
		"the first selector that fits":  {list(gateway("ew", ew, "a")), []v1alpha1.IngressGatewaySelector{byLabel("none", "ew"), byLabel("http", "ew"), byLabel("tls", "ew")}, []string{"ew:http"}, nil},
		"all are selected":              {list(gateway("ew", ew, "a"), gateway("x", other, "b")), []v1alpha1.IngressGatewaySelector{{}}, []string{"ew:tls", "x:tls"}, nil},
		"in the order of the mesh":      {list(gateway("a", ew, "a"), gateway("b", ew, "b")), []v1alpha1.IngressGatewaySelector{byLabel("", "b"), byLabel("", "a")}, []string{"a:tls", "b:tls"}, nil},
		"selected, one without address": {list(gateway("ew", ew, "a"), gateway("x", other)), []v1alpha1.IngressGatewaySelector{{}}, []string{"ew:tls"}, nil},
		"selected, no address":          {list(gateway("ew", ew, "a"), gateway("x", other)), []v1alpha1.IngressGatewaySelector{byLabel("", "x")}, nil, []string{"istio-gateways/x", "address"}},
		"selected, no port":             {list(gateway("ew", ew, "a")), []v1alpha1.IngressGatewaySelector{byLabel("mtls", "ew")}, nil, []string{"istio-gateways/ew", "port named mtls"}},
		"limited trust has its own":     {list(gateway("in", limitedIn, "a"), gateway("out", limitedOut, "b")), nil, nil, []string{"istio=eastwestgateway"}},
		"none of limited trust":         {list(gateway("ew", ew, "a"), gateway("in", limitedIn, "a"), gateway("out", limitedOut, "b")), []v1alpha1.IngressGatewaySelector{{}}, []string{"ew:tls"}, nil},
		"selected, of limited trust":    {list(gateway("in", limitedIn, "a")), []v1alpha1.IngressGatewaySelector{byLabel("", "in")}, nil, []string{"none of its gateways is selected"}},
		"nothing is selected":           {list(gateway("ew", ew, "a")), []v1alpha1.IngressGatewaySelector{byLabel("", "x")}, nil, []string{"none of its gateways is selected"}},
	} {
		t.Run(name, func(t *testing.T) {
			home := mesh("east", func(m *v1alpha1.Mesh) { m.Spec.Istio.Gateways = tc.gateways })
			vm := virtualMesh(&v1alpha1.Federation{IngressGatewaySelectors: tc.selectors}, home)
			got, fs := federation.ChosenGateways(vm, home)
			var have []string
			for _, g := range got {
				have = append(have, g.Name+":"+g.TLSPort.Name)
			}
			if !slices.Equal(have, tc.want) {
				t.Errorf("%v, want %v", have, tc.want)
			}
			if tc.want != nil {
				checkReasons(t, fs)
				return
			}
			checkReasons(t, fs, federation.ReasonNoGateway)
			if f := fs[0]; f.Mesh != "istiod-istio-system-east.isthmus-east" || (f.Field == "spec.federation.ingressGatewaySelectors") != (tc.selectors != nil) {
				t.Errorf("%+v", f)
			}
			for _, s := range tc.says {
				if !strings.Contains(fs[0].Message, s) {
					t.Errorf("it does not say %q: %s", s, fs[0].Message)
				}
			}
		})
	}
	home := mesh("east")
	if got, fs := federation.ChosenGateways(virtualMesh(nil, home), home); got != nil || fs != nil {
		t.Errorf("without federation: %v %v", got, fs)
	}
	if got, fs := federation.ChosenGateways(virtualMesh(&v1alpha1.Federation{}), home); got != nil || fs != nil {
		t.Errorf("without being a member: %v %v", got, fs)
	}
}

func TestGatewayObject(t *testing.T) {
	home := mesh("east")
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything}, home)
	chosen, _ := federation.ChosenGateways(vm, home)
	g := chosen[0]
	hosts := []string{"*.a.svc.cluster.local", "b.c.svc.cluster.local"}
	got := federation.GatewayObject(vm, home, g, hosts)
	checkAccepted(t, got)
	checkJSON(t, got, `{"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "status": {},
		"metadata": {"name": "isthmus-istio-eastwestgateway", "namespace": "istio-gateways"}, "spec": {
			"selector": {"istio": "istio-eastwestgateway"}, "servers": [{
				"port": {"number": 15443, "name": "tls-isthmus", "protocol": "TLS"}, "tls": {"mode": "AUTO_PASSTHROUGH"},
				"hosts": ["*.a.svc.cluster.local", "b.c.svc.cluster.local"]}]}}`)
	if got := federation.GatewayObject(vm, home, g, nil); got != nil {
		t.Errorf("without hosts: %v", got)
	}
	if got := federation.GatewayObject(virtualMesh(nil, home), home, g, hosts); got != nil {
		t.Errorf("without federation: %v", got)
	}
	if got := federation.GatewayObject(virtualMesh(&v1alpha1.Federation{FlatNetwork: true}, home), home, g, hosts); got != nil {
		t.Errorf("in a flat network: %v", got)
	}

	names := map[string]bool{}
	for _, name := range []string{strings.Repeat("a", 63), strings.Repeat("a", 62) + "b", "a"} {
		ig := gateway(name, v1alpha1.GatewayEastWest, "192.0.2.1")
		o := federation.GatewayObject(vm, home, federation.Gateway{IngressGateway: &ig, TLSPort: ig.Ports[1]}, hosts)
		checkAccepted(t, o)
		names[o.Name] = true
	}
	if len(names) != 3 {
		t.Errorf("names are not unique: %v", names)
	}
}

// listens is the port at which istiod has a pod listen for a server of a Gateway with a selector: resolvePorts of
// pilot/pkg/model/gateway.go, over the Services of the pod.
func listens(number int32, services ...v1alpha1.IngressGateway) int32 {
	for _, s := range services {
		for _, p := range s.Ports {
			if p.Port == number {
				return p.TargetPort
			}
		}
	}
	return number
}

func reversed[T any](list []T) []T {
	list = slices.Clone(list)
	slices.Reverse(list)
	return list
}

func TestServerPort(t *testing.T) {
	port := func(port, target int32) v1alpha1.GatewayPort {
		return v1alpha1.GatewayPort{Port: port, TargetPort: target, ExternalPort: port}
	}
	service := func(name string, ports ...v1alpha1.GatewayPort) v1alpha1.IngressGateway {
		g := gateway(name, v1alpha1.GatewayEastWest, "192.0.2.1")
		g.Selector, g.Ports = map[string]string{"app": "gateway"}, ports
		return g
	}
	for name, tc := range map[string]struct {
		services []v1alpha1.IngressGateway // of one pod; the first is that of the gateway, and its first port that for TLS
		number   int32
	}{
		"the same":                            {[]v1alpha1.IngressGateway{service("a", port(15443, 15443))}, 15443},
		"another target":                      {[]v1alpha1.IngressGateway{service("a", port(443, 15443))}, 15443},
		"the target is another port's number": {[]v1alpha1.IngressGateway{service("a", port(443, 15443), port(15443, 9999))}, 443},
		"of another Service":                  {[]v1alpha1.IngressGateway{service("a", port(443, 15443)), service("b", port(15443, 9999))}, 443},
		"another Service has the same port":   {[]v1alpha1.IngressGateway{service("a", port(443, 15443)), service("b", port(443, 8443))}, 15443},
	} {
		t.Run(name, func(t *testing.T) {
			home := mesh("east", func(m *v1alpha1.Mesh) { m.Spec.Istio.Gateways = tc.services })
			vm := virtualMesh(&v1alpha1.Federation{Selectors: everything}, home)
			g := federation.Gateway{IngressGateway: &tc.services[0], TLSPort: tc.services[0].Ports[0]}
			number := int32(federation.GatewayObject(vm, home, g, []string{"a.b.c"}).Spec.Servers[0].Port.Number)
			if number != tc.number {
				t.Errorf("%d, want %d", number, tc.number)
			}
			target := tc.services[0].Ports[0].TargetPort
			for _, services := range [][]v1alpha1.IngressGateway{tc.services, reversed(tc.services)} {
				if got := listens(number, services...); got != target {
					t.Errorf("the pod listens at %d, and traffic arrives at %d", got, target)
				}
			}
		})
	}
	home := mesh("east")
	unknown := gateway("a", v1alpha1.GatewayEastWest, "192.0.2.1")
	unknown.Ports = []v1alpha1.GatewayPort{port(443, 0)} // a named one, and no pod
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything}, home)
	if n := federation.GatewayObject(vm, home, federation.Gateway{IngressGateway: &unknown, TLSPort: unknown.Ports[0]}, []string{"a.b.c"}).Spec.Servers[0].Port.Number; n != 443 {
		t.Errorf("%d, want that of the Service", n)
	}
}

func TestPassThrough(t *testing.T) {
	ig := gateway("ew", v1alpha1.GatewayEastWest, "192.0.2.1")
	ig.Selector = map[string]string{"istio": "ew", "app": "gateway"}
	ig.Ports[1].TargetPort = 25443
	g := federation.Gateway{IngressGateway: &ig, TLSPort: ig.Ports[1]}
	server := func(port uint32, mode networkingapi.ServerTLSSettings_TLSmode) *networkingapi.Server {
		return &networkingapi.Server{Port: &networkingapi.Port{Number: port}, Hosts: []string{"*.local"}, Tls: &networkingapi.ServerTLSSettings{Mode: mode}}
	}
	const auto, pass = networkingapi.ServerTLSSettings_AUTO_PASSTHROUGH, networkingapi.ServerTLSSettings_PASSTHROUGH
	for name, tc := range map[string]struct {
		selector map[string]string
		servers  []*networkingapi.Server
		found    bool
	}{
		"Istio's sample":      {map[string]string{"istio": "ew"}, []*networkingapi.Server{server(15443, auto)}, true},
		"its pods' port":      {map[string]string{"istio": "ew"}, []*networkingapi.Server{server(25443, auto)}, true},
		"another of its":      {map[string]string{"istio": "ew"}, []*networkingapi.Server{server(8080, auto)}, true},
		"the second server":   {map[string]string{"istio": "ew"}, []*networkingapi.Server{server(15443, pass), {}, server(80, auto)}, true},
		"all pods":            {nil, []*networkingapi.Server{server(15443, auto)}, true},
		"the same selector":   {map[string]string{"istio": "ew", "app": "gateway"}, []*networkingapi.Server{server(15443, auto)}, true},
		"a narrower selector": {map[string]string{"istio": "ew", "app": "gateway", "x": "y"}, []*networkingapi.Server{server(15443, auto)}, false},
		"other pods":          {map[string]string{"istio": "in"}, []*networkingapi.Server{server(15443, auto)}, false},
		"an empty value":      {map[string]string{"x": ""}, []*networkingapi.Server{server(15443, auto)}, false},
		"an unreachable port": {map[string]string{"istio": "ew"}, []*networkingapi.Server{server(9443, auto)}, false},
		"ordinary":            {map[string]string{"istio": "ew"}, []*networkingapi.Server{server(15443, pass), {Port: &networkingapi.Port{Number: 80}}}, false},
		"none":                {nil, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			o := &networkingv1.Gateway{Spec: networkingapi.Gateway{Selector: tc.selector, Servers: tc.servers}}
			o.Namespace, o.Name = "istio-system", "cross-network"
			f := federation.PassThrough(g, o)
			if (f != nil) != tc.found {
				t.Fatalf("%v", f)
			}
			if f != nil && (f.Reason != federation.ReasonForeignPassThrough || !strings.Contains(f.Message, "istio-system/cross-network") ||
				!strings.Contains(f.Message, "istio-gateways/ew") || !strings.Contains(f.Message, "*.local")) {
				t.Errorf("%+v", f)
			}
		})
	}
}
