package federation_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	networkingapi "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/federation"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// selected gives a destination what its own agent knows of it beside what others do.
func selected(d *v1alpha1.Destination) {
	d.Spec.KubeService.Selector = map[string]string{"app": "reviews"}
	for i := range d.Spec.KubeService.Ports {
		d.Spec.KubeService.Ports[i].TargetPort = "8080"
	}
}

// names is the virtual destination of "reviews" in clusters, with port 9080.
func names(clusters ...string) federation.Virtual {
	return federation.Virtual{Hostname: "reviews.default.svc.global", Spec: &v1alpha1.VirtualDestinationSpec{
		Service: v1alpha1.ServiceRef{Name: "reviews", Namespace: "default"}, Clusters: clusters, Ports: []int32{9080},
	}}
}

func member(home *v1alpha1.Mesh, change ...func(*v1alpha1.Destination)) federation.Member {
	return federation.Member{Cluster: membership.Cluster(home.Namespace), Home: home, Destination: destination(home, change...), Imported: true}
}

func join(t *testing.T, vm *membership.VirtualMesh, client *v1alpha1.Mesh, v federation.Virtual, was *networkingv1.ServiceEntry, members ...federation.Member) (*federation.Joined, finding.Findings) {
	t.Helper()
	j, fs := federation.Join(vm, federation.Client{Mesh: client, Address: "241.1.2.3", Imported: true}, v, members, was)
	if j == nil {
		t.Fatalf("nothing: %v", fs)
	}
	checkJoined(t, j)
	return j, fs
}

// checkJoined checks what holds of whatever comes out.
func checkJoined(t interface {
	Helper()
	Errorf(string, ...any)
}, j *federation.Joined) {
	t.Helper()
	if len(j.Clusters) == 0 {
		if j.DestinationRule != nil || j.Own != nil || j.Others != nil {
			t.Errorf("objects although nobody serves: %+v", j)
		}
		return
	}
	if j.DestinationRule == nil || j.Own == nil && j.Others == nil {
		t.Errorf("clusters %v and no objects", j.Clusters)
		return
	}
	for _, problem := range refused(j.DestinationRule) {
		t.Errorf("DestinationRule: %s", problem)
	}
	for _, e := range []*networkingv1.ServiceEntry{j.Own, j.Others} {
		if e == nil {
			continue
		}
		if e == j.Own {
			if len(e.Spec.Endpoints) > 0 || len(e.Spec.GetWorkloadSelector().GetLabels()) == 0 {
				t.Errorf("own pods are not selected: %v", &e.Spec)
			}
			e = e.DeepCopy() // the same rules, as if it had an endpoint
			ports := map[string]uint32{}
			for _, p := range e.Spec.Ports {
				ports[p.Name] = p.Number
			}
			e.Spec.Endpoints = []*networkingapi.WorkloadEntry{{Address: "192.0.2.1", Ports: ports}}
		}
		for _, problem := range refused(e) {
			t.Errorf("ServiceEntry %s: %s", e.Name, problem)
		}
	}
	if j.Own != nil && j.Others != nil {
		if j.Own.Namespace != j.Others.Namespace || j.Own.Name == j.Others.Name {
			t.Errorf("%s/%s and %s/%s", j.Own.Namespace, j.Own.Name, j.Others.Namespace, j.Others.Name)
		}
		for i, p := range j.Own.Spec.Ports { // istiod takes two for one service if their ports are the same
			if o := j.Others.Spec.Ports[i]; o.Name != p.Name || o.Number != p.Number || o.Protocol != p.Protocol {
				t.Errorf("ports %v and %v", p, o)
			}
		}
		if !slices.Equal(j.Own.Spec.SubjectAltNames, j.Others.Spec.SubjectAltNames) || !slices.Equal(j.Own.Spec.Hosts, j.Others.Spec.Hosts) ||
			!slices.Equal(j.Own.Spec.Addresses, j.Others.Spec.Addresses) || j.Own.Spec.Resolution != j.Others.Spec.Resolution {
			t.Errorf("they differ: %v and %v", &j.Own.Spec, &j.Others.Spec)
		}
	}
	if j.Others != nil {
		for _, e := range j.Others.Spec.Endpoints {
			if c := e.Labels["isthmus.dev/cluster"]; !slices.Contains(j.Clusters, c) {
				t.Errorf("endpoint %v is of cluster %q, of %v", e, c, j.Clusters)
			}
		}
	}
	policy := j.DestinationRule.Spec.TrafficPolicy
	type settings interface {
		GetOutlierDetection() *networkingapi.OutlierDetection
		GetLoadBalancer() *networkingapi.LoadBalancerSettings
		GetTls() *networkingapi.ClientTLSSettings
	}
	all := []settings{policy}
	for _, p := range policy.PortLevelSettings {
		all = append(all, p)
	}
	for _, s := range all {
		o := s.GetOutlierDetection()
		if o.GetConsecutiveGatewayErrors().GetValue() < 1 || o.GetConsecutive_5XxErrors() == nil || o.GetConsecutive_5XxErrors().GetValue() != 0 ||
			o.GetInterval().AsDuration() < time.Millisecond || o.GetBaseEjectionTime().AsDuration() < time.Millisecond || o.GetMaxEjectionPercent() < 1 || o.GetMaxEjectionPercent() > 100 {
			t.Errorf("outlier detection %v", o)
		}
		if got := s.GetLoadBalancer().GetLocalityLbSetting().GetFailoverPriority(); !slices.Equal(got, []string{"isthmus.dev/cluster="}) {
			t.Errorf("failover priority %v", got)
		}
		if s.GetTls().GetMode() != networkingapi.ClientTLSSettings_ISTIO_MUTUAL {
			t.Errorf("TLS %v", s.GetTls())
		}
	}
}

func TestJoinOwnClusterFirst(t *testing.T) {
	west, east := mesh("west"), mesh("east", addresses("192.0.2.7", "192.0.2.8"))
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything}, west, east)
	account := func(name string) func(*v1alpha1.Destination) {
		return identities("spiffe://cluster.local/ns/default/sa/" + name)
	}
	j, fs := join(t, vm, west, names("west", "east"), nil, member(west, selected, account("a")), member(east, account("b")))
	checkReasons(t, fs)
	if !slices.Equal(j.Clusters, []string{"west", "east"}) {
		t.Errorf("clusters %v", j.Clusters)
	}
	checkJSON(t, map[string]any{"ns": j.Own.Namespace, "name": j.Own.Name, "spec": &j.Own.Spec}, `{
		"ns": "default", "name": "isthmus-own-reviews.default.svc.global", "spec": {
			"hosts": ["reviews.default.svc.global"], "addresses": ["241.1.2.3"], "location": "MESH_INTERNAL", "resolution": "STATIC", "exportTo": ["*"],
			"ports": [{"number": 9080, "name": "virtual-destination-9080", "protocol": "HTTP", "targetPort": 8080}],
			"workloadSelector": {"labels": {"app": "reviews"}},
			"subjectAltNames": ["spiffe://cluster.local/ns/default/sa/a", "spiffe://cluster.local/ns/default/sa/b"]}}`)
	checkJSON(t, map[string]any{"ns": j.Others.Namespace, "name": j.Others.Name, "spec": &j.Others.Spec}, `{
		"ns": "default", "name": "reviews.default.svc.global", "spec": {
			"hosts": ["reviews.default.svc.global"], "addresses": ["241.1.2.3"], "location": "MESH_INTERNAL", "resolution": "STATIC", "exportTo": ["*"],
			"ports": [{"number": 9080, "name": "virtual-destination-9080", "protocol": "HTTP"}],
			"endpoints": [
				{"address": "192.0.2.7", "ports": {"virtual-destination-9080": 15443}, "labels": {"isthmus.dev/cluster": "east"}},
				{"address": "192.0.2.8", "ports": {"virtual-destination-9080": 15443}, "labels": {"isthmus.dev/cluster": "east"}}],
			"subjectAltNames": ["spiffe://cluster.local/ns/default/sa/a", "spiffe://cluster.local/ns/default/sa/b"]}}`)
	lb := `{"localityLbSetting": {"enabled": true, "failoverPriority": ["isthmus.dev/cluster="]}}`
	outlier := `{"consecutive5xxErrors": 0, "consecutiveGatewayErrors": 5, "interval": "5s", "baseEjectionTime": "30s", "maxEjectionPercent": 100}`
	checkJSON(t, map[string]any{"ns": j.DestinationRule.Namespace, "name": j.DestinationRule.Name, "spec": &j.DestinationRule.Spec}, fmt.Sprintf(`{
		"ns": "istio-system", "name": "reviews.default.svc.global", "spec": {"host": "reviews.default.svc.global", "exportTo": ["*"],
			"trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}, "loadBalancer": %[1]s, "outlierDetection": %[2]s,
				"portLevelSettings": [{"port": {"number": 9080}, "loadBalancer": %[1]s, "outlierDetection": %[2]s,
					"connectionPool": {"tcp": {"maxConnectionDuration": "30s"}},
					"tls": {"mode": "ISTIO_MUTUAL", "sni": "outbound_.9080_._.reviews.default.svc.cluster.local"}}]}}}`, lb, outlier))
}

func TestJoinWithoutOwnService(t *testing.T) {
	west, east, south := mesh("west"), mesh("east"), mesh("south", addresses("192.0.2.30"))
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything}, west, east, south)
	tcp := ports(v1alpha1.KubeServicePort{Name: "tcp", Port: 9080})
	j, fs := join(t, vm, west, names("east", "south"), nil, member(east), member(south, tcp))
	checkReasons(t, fs)
	if j.Own != nil || j.Others.Namespace != "istio-system" || len(j.Others.Spec.Endpoints) != 2 {
		t.Errorf("%+v", j)
	}
	if p := j.Others.Spec.Ports[0].Protocol; p != "" {
		t.Errorf("protocol %q, although the clusters do not agree", p)
	}
	// The own Service has no pods that could be known; it is where they will be looked for.
	j, fs = join(t, vm, west, names("west", "east"), nil, member(west, selected, identities()), member(east))
	checkReasons(t, fs, federation.ReasonNoIdentity)
	if j.Own != nil || j.Others.Namespace != "default" {
		t.Errorf("%+v", j)
	}
	// Nobody serves.
	j, fs = join(t, vm, west, names("west", "east"), nil, federation.Member{Cluster: "west"}, federation.Member{Cluster: "east"})
	checkReasons(t, fs, federation.ReasonNoEndpoints, federation.ReasonNotImported, federation.ReasonNoEndpoints)
	if len(j.Clusters) > 0 {
		t.Errorf("%+v", j)
	}
}

func TestJoinLeavesOut(t *testing.T) {
	west, east, south := mesh("west"), mesh("east"), mesh("south", addresses("192.0.2.30"))
	all := &v1alpha1.Federation{Selectors: everything}
	for name, c := range map[string]struct {
		federation *v1alpha1.Federation
		member     federation.Member
		reason     string
	}{
		"not imported": {all, func() federation.Member { m := member(east); m.Imported = false; return m }(), federation.ReasonNotImported},
		"not federated to the client": {
			&v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{
				{Meshes: []v1alpha1.ObjectRef{ref(south)}},
				{DestinationSelectors: []v1alpha1.DestinationSelector{{KubeServiceMatcher: &v1alpha1.KubeServiceMatcher{Clusters: []string{"south"}}}}},
			}}, member(east), federation.ReasonNotFederated,
		},
		"lacks the port":              {all, member(east, ports(v1alpha1.KubeServicePort{Name: "http", Port: 80})), federation.ReasonPortMissing},
		"other cluster domain":        {all, member(mesh("east", func(m *v1alpha1.Mesh) { m.Spec.Istio.ClusterDomain = "east.local" })), federation.ReasonServerNameDiffers},
		"no gateway, and none before": {all, member(mesh("east", addresses())), federation.ReasonNoEndpoints},
		"no identity":                 {all, member(east, identities("spiffe://cluster.local/ns/other/sa/x")), federation.ReasonNoEndpoints},
		"headless":                    {all, member(east, func(d *v1alpha1.Destination) { d.Spec.KubeService.Type = "Headless" }), federation.ReasonNoEndpoints},
		"unknown":                     {all, federation.Member{Cluster: "east", Imported: true}, federation.ReasonNoEndpoints},
	} {
		t.Run(name, func(t *testing.T) {
			vm := virtualMesh(c.federation, west, east, south)
			j, fs := join(t, vm, west, names("west", "east", "south"), nil, member(west, selected), c.member, member(south))
			checkReasons(t, fs, c.reason)
			if !slices.Equal(j.Clusters, []string{"west", "south"}) || len(j.Others.Spec.Endpoints) != 1 || !strings.Contains(fs[0].Message, "cluster east") {
				t.Errorf("clusters %v, %v", j.Clusters, fs)
			}
		})
	}
}

func TestJoinKeepsWhatWasKnown(t *testing.T) {
	west, east, south := mesh("west"), mesh("east", addresses("192.0.2.7")), mesh("south", addresses("192.0.2.30"))
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything}, west, east, south)
	was, _ := join(t, vm, west, names("west", "east", "south"), nil, member(west, selected), member(east, identities("spiffe://cluster.local/ns/default/sa/east")), member(south))
	for name, m := range map[string]federation.Member{
		"the hub has forgotten it": {Cluster: "east", Imported: true},
		"its gateway is gone":      member(mesh("east", addresses())),
		"it says nonsense":         member(east, func(d *v1alpha1.Destination) { d.Spec.KubeService.Type = "Headless" }),
	} {
		t.Run(name, func(t *testing.T) {
			v := names("west", "east", "south")
			j, fs := join(t, vm, west, v, was.Others, member(west, selected), m, member(south))
			checkReasons(t, fs, federation.ReasonNoEndpoints)
			if !slices.Equal(j.Clusters, []string{"west", "east", "south"}) || asJSON(t, &j.Others.Spec) != asJSON(t, &was.Others.Spec) {
				t.Errorf("%v\n%s\nwas\n%s", j.Clusters, asJSON(t, &j.Others.Spec), asJSON(t, &was.Others.Spec))
			}
			m.Imported = false // by now it is known to be gone
			j, _ = join(t, vm, west, v, was.Others, member(west, selected), m, member(south))
			if !slices.Equal(j.Clusters, []string{"west", "south"}) {
				t.Errorf("%v", j.Clusters)
			}
			m.Imported, v.Spec.Ports = true, []int32{80, 9080} // of a new port nothing was known
			two := ports(v1alpha1.KubeServicePort{Name: "http", Port: 9080}, v1alpha1.KubeServicePort{Name: "http-2", Port: 80})
			j, _ = join(t, vm, west, v, was.Others, member(west, two, selected), m, member(south, two))
			if !slices.Equal(j.Clusters, []string{"west", "south"}) {
				t.Errorf("%v", j.Clusters)
			}
		})
	}
}

// Named ports of pods are found by the name of the ServiceEntry's port; no other of ours could be one.
func TestJoinTargetPorts(t *testing.T) {
	west, east := mesh("west"), mesh("east")
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything}, west, east)
	v := names("west", "east")
	v.Spec.Ports = []int32{80, 9080, 9000}
	target := func(targets ...string) []func(*v1alpha1.Destination) {
		return []func(*v1alpha1.Destination){selected, func(d *v1alpha1.Destination) {
			d.Spec.KubeService.Ports = []v1alpha1.KubeServicePort{
				{Name: "http", Port: 9080, TargetPort: targets[0]}, {Name: "http-x", Port: 80, TargetPort: targets[1]},
				{Name: "tcp-x", Port: 9000, TargetPort: targets[2]}, {Name: "dns", Port: 9000, Protocol: "UDP", TargetPort: "dns"},
			}
		}}
	}
	j, fs := join(t, vm, west, v, nil, member(west, target("web", "8081", "")...), member(east, target("1", "2", "3")...))
	checkReasons(t, fs)
	checkJSON(t, j.Own.Spec.Ports, `[{"number": 80, "name": "virtual-destination-80", "protocol": "HTTP", "targetPort": 8081},
		{"number": 9000, "name": "virtual-destination-9000", "protocol": "TCP", "targetPort": 9000}, {"number": 9080, "name": "web", "protocol": "HTTP"}]`)
	for _, p := range j.Own.Spec.Ports {
		if p.Name != "web" && len(p.Name) <= 15 {
			t.Errorf("%s could be the name of a port of a pod", p.Name)
		}
	}
	checkJSON(t, j.Others.Spec.Endpoints[0].Ports, `{"virtual-destination-80": 15443, "virtual-destination-9000": 15443, "web": 15443}`)
	for name, c := range map[string][]func(*v1alpha1.Destination){
		"twice the same name": target("web", "web", "1"), "no name": target("a.b", "1", "1"), "no number": target("65536", "1", "1"),
	} {
		j, fs = join(t, vm, west, v, nil, member(west, c...), member(east, target("1", "2", "3")...))
		if len(fs.With(federation.ReasonInvalidPorts)) != 1 || !slices.Equal(j.Clusters, []string{"east"}) {
			t.Errorf("%s: %v, %v", name, j.Clusters, fs)
		}
	}
	_, fs = join(t, vm, west, v, nil, member(west, append(target("1", "2", "3"), func(d *v1alpha1.Destination) { d.Spec.KubeService.Selector = nil })...), member(east, target("1", "2", "3")...))
	checkReasons(t, fs, federation.ReasonNoSelector)
}

func TestJoinOptions(t *testing.T) {
	west, east := mesh("west"), mesh("east", addresses("gw.east.example"))
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything, TCPKeepalive: &v1alpha1.TCPKeepalive{Time: &metav1.Duration{Duration: time.Minute}}}, west, east)
	v := names("west", "east")
	n, percent := int32(2), int32(50)
	v.Spec.OutlierDetection = &v1alpha1.OutlierDetection{
		ConsecutiveErrors: &n, Interval: &metav1.Duration{Duration: time.Second}, BaseEjectionTime: &metav1.Duration{Duration: 3 * time.Second}, MaxEjectionPercent: &percent,
	}
	j, _ := join(t, vm, west, v, nil, member(west, selected), member(east))
	p := j.DestinationRule.Spec.TrafficPolicy
	checkJSON(t, p.PortLevelSettings[0].OutlierDetection,
		`{"consecutive5xxErrors": 0, "consecutiveGatewayErrors": 2, "interval": "1s", "baseEjectionTime": "3s", "maxEjectionPercent": 50}`)
	if p.PortLevelSettings[0].ConnectionPool.GetTcp().GetTcpKeepalive() == nil || j.Own.Spec.Resolution != networkingapi.ServiceEntry_DNS {
		t.Errorf("%v, %v", p, j.Own.Spec.Resolution)
	}
	// Names that a client could not use.
	west.Spec.Istio.ClusterDomain = "west.local"
	for host, reason := range map[string]string{
		"reviews": federation.ReasonInvalidName, "reviews.default.svc.east.global": federation.ReasonInvalidName, "x.y.svc.cluster.local": federation.ReasonInvalidName, "x.y.svc.west.local": federation.ReasonInvalidName, "www.example.org": federation.ReasonInvalidName,
		"isthmus-x.y.svc.global": federation.ReasonInvalidName, "reviews.shop.svc.example.org": federation.ReasonSmartDNSRequired,
	} {
		v.Hostname = host
		if j, fs := federation.Join(vm, federation.Client{Mesh: west}, v, []federation.Member{member(west, selected)}, nil); j != nil {
			t.Errorf("%s: %+v", host, j)
		} else {
			checkReasons(t, fs, reason)
		}
	}
	west.Spec.Istio.SmartDNSProxyingEnabled, west.Spec.Istio.ClusterDomain = true, ""
	v.Hostname = "reviews.shop.svc.example.org"
	join(t, vm, west, v, nil, member(west, selected))
}

// In a flat network the endpoints are pods, and there is no gateway that wants a server name.
func TestJoinFlatNetwork(t *testing.T) {
	west, east := mesh("west"), mesh("east")
	vm := virtualMesh(&v1alpha1.Federation{Selectors: everything, FlatNetwork: true}, west, east)
	pods := func(d *v1alpha1.Destination) {
		d.Status.AppliedFederation = &v1alpha1.AppliedFederation{Endpoints: []v1alpha1.FederatedEndpoint{{Address: "10.12.0.5", Ports: map[string]int32{"http": 8080}}}}
	}
	j, fs := join(t, vm, west, names("west", "east"), nil, member(west, selected), member(east, pods))
	checkReasons(t, fs)
	checkJSON(t, j.Others.Spec.Endpoints, `[{"address": "10.12.0.5", "ports": {"virtual-destination-9080": 8080}, "labels": {"isthmus.dev/cluster": "east"}}]`)
	if len(j.DestinationRule.Spec.TrafficPolicy.PortLevelSettings) > 0 {
		t.Errorf("%v", j.DestinationRule.Spec.TrafficPolicy)
	}
}

// Whatever a member says: it gets no further than a place of its own among those that are named, and takes nobody else's.
func TestJoinHostileMember(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		west, south := mesh("west", trusting), mesh("south", trusting, addresses("192.0.2.30"))
		evil := hostileMesh(t, "evil")
		vm := virtualMesh(&v1alpha1.Federation{Selectors: everything}, west, evil, south)
		vm.Spec.Federation.FlatNetwork = false
		hostile := federation.Member{Cluster: "evil", Home: evil, Destination: hostileDestination(t, evil), Imported: true}
		honest := []federation.Member{member(west, selected), member(south)}
		client := federation.Client{Mesh: west, Address: "241.1.2.3", Imported: true, Forbidden: func(a string, _ int32) bool { return a == "10.1.2.3" }}
		v := names("west", "south", "evil")
		alone, _ := federation.Join(vm, client, v, honest, nil)
		for _, order := range [][]federation.Member{append(slices.Clone(honest), hostile), append([]federation.Member{hostile}, honest...)} {
			j, fs := federation.Join(vm, client, v, order, nil)
			if j == nil {
				t.Fatalf("nothing, for %v", fs)
			}
			checkJoined(t, j)
			if asJSON(t, j.Own.Spec.Ports) != asJSON(t, alone.Own.Spec.Ports) || asJSON(t, &j.DestinationRule.Spec) != asJSON(t, &alone.DestinationRule.Spec) {
				t.Fatalf("a member changes what others have: %s\n%s", asJSON(t, j.Own), asJSON(t, j.DestinationRule))
			}
			for _, e := range alone.Others.Spec.Endpoints {
				if !slices.ContainsFunc(j.Others.Spec.Endpoints, func(o *networkingapi.WorkloadEntry) bool {
					return o.Address == e.Address && maps.Equal(o.Ports, e.Ports) && maps.Equal(o.Labels, e.Labels)
				}) {
					t.Fatalf("endpoint %v is gone", e)
				}
			}
			for _, e := range j.Others.Spec.Endpoints {
				if e.Address == "10.1.2.3" || strings.HasPrefix(e.Address, "127.") {
					t.Fatalf("endpoint %v", e)
				}
			}
			for _, san := range j.Own.Spec.SubjectAltNames {
				if !strings.Contains(san, "/ns/default/sa/") {
					t.Fatalf("identity %s", san)
				}
			}
		}
		// One that is not named has no place at all: nobody asks what it has.
		v = names("west", "south")
		if j, _ := federation.Join(vm, client, v, honest, nil); slices.Contains(j.Clusters, "evil") {
			t.Fatal("it has one")
		}
	})
}
