package federation_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	networkingapi "istio.io/api/networking/v1alpha3"
	typeapi "istio.io/api/type/v1beta1"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/federation"
)

func withPolicy(p *networkingapi.TrafficPolicy) func(*networkingv1.DestinationRule) {
	return func(r *networkingv1.DestinationRule) { r.Spec.TrafficPolicy = p }
}

func forWorkloads(r *networkingv1.DestinationRule) {
	r.Spec.WorkloadSelector = &typeapi.WorkloadSelector{MatchLabels: map[string]string{"app": "x"}}
}

func created(at int) func(*networkingv1.DestinationRule) {
	return func(r *networkingv1.DestinationRule) { r.CreationTimestamp = metav1.NewTime(time.Unix(int64(at), 0)) }
}

// imports a Service with two ports.
func imports(t *testing.T, flat bool) *networkingv1.DestinationRule {
	home, client := mesh("east"), mesh("west")
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything, FlatNetwork: flat}, home, client)
	got, refusal := federation.Import(vm, federation.Client{Mesh: client}, home, destination(home,
		ports(v1alpha1.KubeServicePort{Name: "http", Port: 80}, v1alpha1.KubeServicePort{Name: "tcp", Port: 90}),
		applied(v1alpha1.AppliedFederation{Endpoints: []v1alpha1.FederatedEndpoint{{Address: "10.0.0.1", Ports: map[string]int32{"http": 80, "tcp": 90}}}})))
	if refusal != nil {
		t.Fatal(refusal)
	}
	return got.DestinationRule
}

const host = "reviews.default.svc.east.global"

func TestShadows(t *testing.T) {
	mutual := func(sni string) *networkingapi.ClientTLSSettings {
		return &networkingapi.ClientTLSSettings{Mode: networkingapi.ClientTLSSettings_ISTIO_MUTUAL, Sni: sni}
	}
	sni := func(port string) string { return "outbound_." + port + "_._.reviews.default.svc.cluster.local" }
	port := func(n uint32, tls *networkingapi.ClientTLSSettings) *networkingapi.TrafficPolicy_PortTrafficPolicy {
		return &networkingapi.TrafficPolicy_PortTrafficPolicy{Port: &networkingapi.PortSelector{Number: n}, Tls: tls}
	}
	pool := &networkingapi.TrafficPolicy{ConnectionPool: &networkingapi.ConnectionPoolSettings{}}
	right := &networkingapi.TrafficPolicy{PortLevelSettings: []*networkingapi.TrafficPolicy_PortTrafficPolicy{port(90, mutual(sni("90"))), port(80, mutual(sni("80")))}}
	for name, tc := range map[string]struct {
		rule       *networkingv1.DestinationRule
		gate, flat bool // whether it is found where gateways are used, and in a flat network
	}{
		"the host":                        {rule("shop", "r", host, withPolicy(pool)), true, true},
		"without policy":                  {rule("shop", "r", host), true, true},
		"a wildcard":                      {rule("shop", "r", "*.global", withPolicy(pool)), true, true},
		"any host":                        {rule("shop", "r", "*", withPolicy(pool)), true, true},
		"another host":                    {rule("shop", "r", "ratings.default.svc.east.global", withPolicy(pool)), false, false},
		"another wildcard":                {rule("shop", "r", "*.west.global", withPolicy(pool)), false, false},
		"a short host":                    {rule("default", "r", "reviews", withPolicy(pool)), false, false},
		"exported":                        {rule("shop", "r", host, exportTo("*")), true, true},
		"to its own":                      {rule("shop", "r", host, exportTo(".")), true, true},
		"to its own by name":              {rule("shop", "r", host, exportTo("other", "shop")), true, true},
		"only to others":                  {rule("shop", "r", host, exportTo("other")), false, false},
		"for workloads":                   {rule("shop", "r", host, forWorkloads), true, true},
		"for workloads, wherever else":    {rule("shop", "r", host, forWorkloads, exportTo("other")), true, true},
		"in the root namespace":           {rule("istio-system", "r", host, withPolicy(pool)), true, true},
		"a wildcard there":                {rule("istio-system", "r", "*.global", withPolicy(pool)), false, false},
		"without policy there":            {rule("istio-system", "r", host, subsets("v1")), false, false},
		"a wildcard for itself there":     {rule("istio-system", "r", "*.global", exportTo("."), withPolicy(pool)), true, true},
		"with the right policy":           {rule("shop", "r", host, withPolicy(right)), false, true},
		"with the right policy there":     {rule("istio-system", "r", host, withPolicy(right)), false, true},
		"one port is missing":             {rule("shop", "r", host, withPolicy(&networkingapi.TrafficPolicy{PortLevelSettings: right.PortLevelSettings[:1]})), true, true},
		"a port without TLS":              {rule("shop", "r", host, withPolicy(&networkingapi.TrafficPolicy{Tls: mutual(sni("80")), PortLevelSettings: []*networkingapi.TrafficPolicy_PortTrafficPolicy{port(80, nil)}})), true, false},
		"automatic server name":           {rule("shop", "r", host, withPolicy(&networkingapi.TrafficPolicy{Tls: mutual("")})), true, false},
		"the server name of another port": {rule("shop", "r", host, withPolicy(&networkingapi.TrafficPolicy{Tls: mutual(sni("80"))})), true, false},
		"plain":                           {rule("shop", "r", host, withPolicy(&networkingapi.TrafficPolicy{Tls: &networkingapi.ClientTLSSettings{}})), true, true},
	} {
		t.Run(name, func(t *testing.T) {
			for flat, want := range map[bool]bool{false: tc.gate, true: tc.flat} {
				ours := imports(t, flat)
				f := federation.Shadows(tc.rule, "istio-system", ours)
				if (f != nil) != want {
					t.Errorf("flat: %v: %v", flat, f)
				}
				if f == nil {
					continue
				}
				if f.Reason != federation.ReasonShadowed || !strings.Contains(f.Message, tc.rule.Namespace+"/r") || !strings.Contains(f.Message, host) {
					t.Errorf("%+v", f)
				}
				// What the message says to copy is YAML, and all that is needed.
				_, block, _ := strings.Cut(f.Message, "`")
				block, _, _ = strings.Cut(block, "`")
				raw, err := yaml.YAMLToJSON([]byte(block))
				if err != nil {
					t.Fatal(err)
				}
				copied := rule(tc.rule.Namespace, "r", host)
				if err := copied.Spec.UnmarshalJSON(raw); err != nil {
					t.Fatalf("%v: %s", err, block)
				}
				if f := federation.Shadows(copied, "istio-system", ours); f != nil {
					t.Errorf("what was copied does not help: %v", f)
				}
			}
		})
	}
}

func TestShadowsShowsSomePorts(t *testing.T) {
	home, client := mesh("east"), mesh("west")
	var many []v1alpha1.KubeServicePort
	for n := range int32(100) {
		many = append(many, v1alpha1.KubeServicePort{Name: "p" + strings.Repeat("x", int(n)%50+1) + string('a'+n/50), Port: n + 1})
	}
	got, refusal := federation.Import(virtualMesh(&v1alpha1.Federation{Selectors: everything}, home, client), federation.Client{Mesh: client}, home, destination(home, ports(many...)))
	if refusal != nil {
		t.Fatal(refusal)
	}
	if f := federation.Shadows(rule("shop", "r", host), "istio-system", got.DestinationRule); f == nil || len(f.Message) > 4096 || !strings.Contains(f.Message, "84 more") {
		t.Errorf("%v", f)
	}
}

func TestShadowing(t *testing.T) {
	ours := imports(t, true)
	right := withPolicy(&networkingapi.TrafficPolicy{Tls: &networkingapi.ClientTLSSettings{Mode: networkingapi.ClientTLSSettings_ISTIO_MUTUAL}})
	wrong := withPolicy(&networkingapi.TrafficPolicy{})
	for name, tc := range map[string]struct {
		rules []*networkingv1.DestinationRule
		want  []string // "<namespace>/<name>"
	}{
		"none":                       {nil, nil},
		"in two namespaces":          {[]*networkingv1.DestinationRule{rule("b", "r", host), rule("a", "r", "*")}, []string{"a/r", "b/r"}},
		"the more specific is right": {[]*networkingv1.DestinationRule{rule("a", "wild", "*.global", wrong), rule("a", "r", host, right)}, nil},
		"the more specific is wrong": {[]*networkingv1.DestinationRule{rule("a", "wild", "*.global", right), rule("a", "r", host, wrong)}, []string{"a/r"}},
		"the longer wildcard":        {[]*networkingv1.DestinationRule{rule("a", "x", "*.east.global", wrong), rule("a", "y", "*.global", right), rule("a", "z", "*", right)}, []string{"a/x"}},
		"the older is right":         {[]*networkingv1.DestinationRule{rule("a", "a", host, wrong, created(2)), rule("a", "b", host, right, created(1))}, nil},
		"the older is wrong":         {[]*networkingv1.DestinationRule{rule("a", "a", host, wrong, created(1)), rule("a", "b", host, right, created(2))}, []string{"a/a"}},
		"the older has no policy":    {[]*networkingv1.DestinationRule{rule("a", "a", host, created(1)), rule("a", "b", host, right, created(2))}, nil},
		"beside one for workloads":   {[]*networkingv1.DestinationRule{rule("a", "r", host, right), rule("a", "w", host, wrong, forWorkloads)}, []string{"a/w"}},
		"not for its own namespace":  {[]*networkingv1.DestinationRule{rule("a", "r", host, exportTo("b"))}, nil},
		"for the root namespace alone": {[]*networkingv1.DestinationRule{rule("istio-system", "r", "*", wrong, exportTo(".")), rule("istio-system", "s", host, right)},
			[]string{"istio-system/r"}},
		"another host": {[]*networkingv1.DestinationRule{rule("a", "r", "x.y.z")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			for _, rules := range [][]*networkingv1.DestinationRule{tc.rules, reversed(tc.rules)} {
				fs := federation.Shadowing(rules, "istio-system", ours)
				if len(fs) != len(tc.want) {
					t.Fatalf("%v, want %v", fs, tc.want)
				}
				for i, w := range tc.want {
					if !strings.Contains(fs[i].Message, "DestinationRule "+w+" ") {
						t.Errorf("%v, want %s", fs[i], w)
					}
				}
			}
		})
	}
}

func TestSubsetsOf(t *testing.T) {
	const full = "reviews.default.svc.cluster.local"
	for name, tc := range map[string]struct {
		proxy string // namespace of the gateway
		rules []*networkingv1.DestinationRule
		want  []string
	}{
		"no rule":                        {"gw", nil, nil},
		"no subsets":                     {"gw", []*networkingv1.DestinationRule{rule("default", "r", full)}, nil},
		"of the service's namespace":     {"gw", []*networkingv1.DestinationRule{rule("default", "r", full, subsets("v2", "v1"))}, []string{"v1", "v2"}},
		"by a short name":                {"gw", []*networkingv1.DestinationRule{rule("default", "r", "reviews", subsets("v1"))}, []string{"v1"}},
		"by a wildcard":                  {"gw", []*networkingv1.DestinationRule{rule("default", "r", "*.default.svc.cluster.local", subsets("v1"))}, []string{"v1"}},
		"a short name of elsewhere":      {"gw", []*networkingv1.DestinationRule{rule("gw", "r", "reviews", subsets("v1"))}, nil},
		"another service":                {"gw", []*networkingv1.DestinationRule{rule("default", "r", "ratings", subsets("v1"))}, nil},
		"a name that is not full":        {"gw", []*networkingv1.DestinationRule{rule("default", "r", "reviews.default", subsets("v1"))}, nil},
		"another namespace":              {"gw", []*networkingv1.DestinationRule{rule("shop", "r", full, subsets("v1"))}, nil},
		"the gateway's before all":       {"gw", []*networkingv1.DestinationRule{rule("istio-system", "r", full, subsets("a")), rule("default", "r", full, subsets("b")), rule("gw", "r", "*.local", subsets("c"))}, []string{"c"}},
		"the service's before the root":  {"gw", []*networkingv1.DestinationRule{rule("istio-system", "r", full, subsets("a")), rule("default", "r", "*.local", subsets("b"))}, []string{"b"}},
		"the root's":                     {"gw", []*networkingv1.DestinationRule{rule("istio-system", "r", full, subsets("a"))}, []string{"a"}},
		"the root's last, also there":    {"istio-system", []*networkingv1.DestinationRule{rule("istio-system", "r", full, subsets("a")), rule("default", "r", "*.local", subsets("b"))}, []string{"b"}},
		"the root's private one first":   {"istio-system", []*networkingv1.DestinationRule{rule("istio-system", "r", "*", exportTo("."), subsets("a")), rule("default", "r", full, subsets("b"))}, []string{"a"}},
		"the root's private one, by ns":  {"istio-system", []*networkingv1.DestinationRule{rule("istio-system", "r", "*", exportTo("istio-system"), subsets("a")), rule("default", "r", full, subsets("b"))}, []string{"a"}},
		"the root's is private":          {"gw", []*networkingv1.DestinationRule{rule("istio-system", "r", full, exportTo("."), subsets("a"))}, nil},
		"the service's is private":       {"gw", []*networkingv1.DestinationRule{rule("istio-system", "r", full, subsets("a")), rule("default", "r", full, exportTo("."), subsets("b"))}, []string{"a"}},
		"exported to the gateway":        {"gw", []*networkingv1.DestinationRule{rule("default", "r", full, exportTo("gw", "x"), subsets("b"))}, []string{"b"}},
		"exported to others":             {"gw", []*networkingv1.DestinationRule{rule("istio-system", "r", full, subsets("a")), rule("default", "r", full, exportTo("x"), subsets("b"))}, []string{"a"}},
		"the closest exported to others": {"gw", []*networkingv1.DestinationRule{rule("default", "w", "*.local", subsets("a")), rule("default", "r", full, exportTo("x"), subsets("b"))}, nil},
		"the gateway's for others":       {"gw", []*networkingv1.DestinationRule{rule("gw", "r", full, exportTo("x"), subsets("a")), rule("default", "r", full, subsets("b"))}, []string{"b"}},
		"the closest":                    {"gw", []*networkingv1.DestinationRule{rule("default", "w", "*.local", subsets("a")), rule("default", "r", full, subsets("b"))}, []string{"b"}},
		"merged":                         {"gw", []*networkingv1.DestinationRule{rule("default", "r", full, subsets("a", "b")), rule("default", "s", "reviews", subsets("b", "c"))}, []string{"a", "b", "c"}},
		"for workloads":                  {"gw", []*networkingv1.DestinationRule{rule("default", "r", full, forWorkloads, subsets("a"))}, nil},
		"for workloads of the gateway's": {"gw", []*networkingv1.DestinationRule{rule("gw", "r", full, forWorkloads, subsets("a"))}, nil},
		"the closest is private":         {"gw", []*networkingv1.DestinationRule{rule("default", "w", "*.local", subsets("a")), rule("default", "r", full, exportTo("."), subsets("b"))}, []string{"a"}},
		"in the service's own":           {"default", []*networkingv1.DestinationRule{rule("default", "r", full, exportTo("."), subsets("a"))}, []string{"a"}},
		"names that are none":            {"gw", []*networkingv1.DestinationRule{rule("default", "r", full, subsets("a", "", "B", "c.d"))}, []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, rules := range [][]*networkingv1.DestinationRule{tc.rules, reversed(tc.rules)} {
				if got := federation.SubsetsOf(mesh("east"), tc.proxy, &v1alpha1.KubeService{Name: "reviews", Namespace: "default"}, rules); !slices.Equal(got, tc.want) {
					t.Errorf("%v, want %v", got, tc.want)
				}
			}
		})
	}

	var many []string
	for i := range 40 {
		many = append(many, "v"+strings.Repeat("x", i))
	}
	home := mesh("east", func(m *v1alpha1.Mesh) { m.Spec.Istio.ClusterDomain = "east.example" })
	got := federation.SubsetsOf(home, "gw", &v1alpha1.KubeService{Name: "reviews", Namespace: "default"},
		[]*networkingv1.DestinationRule{rule("default", "r", "reviews.default.svc.east.example", subsets(many...))})
	if len(got) != 32 {
		t.Errorf("%d subsets", len(got))
	}
}

func TestKeepalive(t *testing.T) {
	client := mesh("west", func(m *v1alpha1.Mesh) { m.Spec.Istio.RootNamespace = "istio-root" })
	keepalive := &v1alpha1.TCPKeepalive{Time: &metav1.Duration{Duration: 75 * time.Second}}
	vm := virtualMesh(&v1alpha1.Federation{TCPKeepalive: keepalive}, client)
	external := func(hosts ...string) *networkingv1.ServiceEntry {
		return &networkingv1.ServiceEntry{Spec: networkingapi.ServiceEntry{Hosts: hosts, Location: networkingapi.ServiceEntry_MESH_EXTERNAL}}
	}
	got := federation.Keepalive(vm, client, external("b.example", "a.example", "b.example"))
	if len(got) != 2 {
		t.Fatal(got)
	}
	checkAccepted(t, got[0], got[1])
	checkJSON(t, got[1], `{"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "status": {}, "metadata": {"name": "isthmus-keepalive-b.example", "namespace": "istio-root"},
		"spec": {"host": "b.example", "exportTo": ["*"], "trafficPolicy": {"connectionPool": {"tcp": {"tcpKeepalive": {"time": "75s"}}}}}}`)

	internal := external("a.example")
	internal.Spec.Location = networkingapi.ServiceEntry_MESH_INTERNAL
	for what, got := range map[string][]*networkingv1.DestinationRule{
		"without federation": federation.Keepalive(virtualMesh(nil, client), client, external("a.example")),
		"without keepalive":  federation.Keepalive(virtualMesh(&v1alpha1.Federation{}, client), client, external("a.example")),
		"for no member":      federation.Keepalive(virtualMesh(vm.Spec.Federation), client, external("a.example")),
		"within the mesh":    federation.Keepalive(vm, client, internal),
		"for all hosts":      federation.Keepalive(vm, client, external("*")),
		"for no host":        federation.Keepalive(vm, client, external("", "a b", "*.", "x/y.z", "*a.example", "a.*.example")),
	} {
		if len(got) > 0 {
			t.Errorf("%s: %v", what, got)
		}
	}

	long := strings.Repeat("a", 63) + "." + strings.Repeat("b", 63) + "." + strings.Repeat("c", 63) + "." + strings.Repeat("d", 61)
	hosts := []string{"*.a.example", "a.example", "wildcard.a.example", long, long[1:] + "x"}
	names := map[string]bool{}
	for _, r := range federation.Keepalive(vm, client, external(hosts...)) {
		checkAccepted(t, r)
		names[r.Name] = true
	}
	if len(names) != len(hosts) {
		t.Errorf("names: %v", names)
	}
}

func TestKeepaliveValues(t *testing.T) {
	client := mesh("west")
	duration := func(d time.Duration) *metav1.Duration { return &metav1.Duration{Duration: d} }
	for _, tc := range []struct {
		k    v1alpha1.TCPKeepalive
		want string
	}{
		{v1alpha1.TCPKeepalive{}, `{}`},
		{v1alpha1.TCPKeepalive{Probes: new(int32(4)), Time: duration(time.Minute), Interval: duration(10 * time.Second)}, `{"probes": 4, "time": "60s", "interval": "10s"}`},
		{v1alpha1.TCPKeepalive{Probes: new(int32(0)), Time: duration(0), Interval: duration(-time.Second)}, `{}`},
		{v1alpha1.TCPKeepalive{Probes: new(int32(-1)), Time: duration(time.Nanosecond), Interval: duration(1001 * time.Millisecond)}, `{"time": "1s", "interval": "2s"}`},
		{v1alpha1.TCPKeepalive{Probes: new(int32(1000)), Time: duration(1000 * time.Hour), Interval: duration(1 << 62)}, `{"probes": 127, "time": "32767s", "interval": "32767s"}`},
	} {
		got := federation.Keepalive(virtualMesh(&v1alpha1.Federation{TCPKeepalive: &tc.k}, client), client,
			&networkingv1.ServiceEntry{Spec: networkingapi.ServiceEntry{Hosts: []string{"a.example"}}})
		checkAccepted(t, got[0])
		checkJSON(t, got[0].Spec.TrafficPolicy.ConnectionPool.Tcp.TcpKeepalive, tc.want)
	}
}

func TestDisplaces(t *testing.T) {
	ours := rule("istio-system", "isthmus-keepalive-a.example", "api.a.example")
	for other, want := range map[*networkingv1.DestinationRule]bool{
		rule("istio-system", "r", "api.a.example"): true, rule("istio-system", "r", "*.a.example"): true, rule("istio-system", "r", "*"): true,
		rule("istio-system", "r", "*.b.example"): false, rule("istio-system", "r", "a.example"): false, rule("shop", "r", "api.a.example"): false,
	} {
		if federation.Displaces(ours, other) != want {
			t.Errorf("%s/%s: %v", other.Namespace, other.Spec.Host, !want)
		}
	}
	wild := rule("istio-system", "isthmus-wildcard-keepalive-a.example", "*.a.example")
	if federation.Displaces(wild, rule("istio-system", "r", "api.a.example")) || !federation.Displaces(wild, rule("istio-system", "r", "*.example")) {
		t.Error("a wildcard displaces what is less specific, and that only")
	}
}
