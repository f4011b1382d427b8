package federation_test

import (
	"fmt"
	"net"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	networkingapi "istio.io/api/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/federation"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// Words that a hostile agent could write where a name, an address or a list is expected.
var (
	words = rapid.OneOf(
		rapid.SampledFrom([]string{"reviews", "default", "a", "isthmus-west", "isthmus-system", "istio-gateways", "http", "v1", "tcp-x", "udp-x", "grpc-web"}),
		rapid.SampledFrom([]string{"", "*", "*.default", "a.b", "a/b", "../x", "kube-system/x", "A", "ä", "a\nb", "_", "-", "outbound_.80_._.x", "localhost",
			strings.Repeat("a", 63), strings.Repeat("a", 64), strings.Repeat("a.", 120) + "a"}),
		rapid.String(),
	)
	hostileAddresses = rapid.OneOf(
		rapid.SampledFrom([]string{"192.0.2.1", "192.0.2.9", "10.1.2.3", "2001:db8::1", "gw.east.example", "fd12::9"}),
		rapid.SampledFrom([]string{"127.0.0.1", "::1", "0.0.0.0", "::", "169.254.169.254", "::ffff:127.0.0.1", "fe80::1%eth0", "224.0.0.1", "ff02::1", "kubernetes.default.svc",
			"kubernetes.default", "localhost", "a.local", "metadata.google.internal", "127.1", "0x7f.1", "unix:///var/run/x", "", "a.b.1", "x.svc.cluster.local"}),
		rapid.Custom(func(t *rapid.T) string { return net.IP(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "IPv4")).String() }),
		rapid.Custom(func(t *rapid.T) string {
			prefix := rapid.SampledFrom([]string{"", "\x00\x64\xff\x9b\x00\x00\x00\x00\x00\x00\x00\x00", "\x20\x02\x7f\x00", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff"}).Draw(t, "prefix")
			return net.IP(append([]byte(prefix), rapid.SliceOfN(rapid.Byte(), 16-len(prefix), 16-len(prefix)).Draw(t, "IPv6")...)).String()
		}),
		words,
	)
	hostilePorts = rapid.OneOf(rapid.Int32Range(1, 65535), rapid.SampledFrom([]int32{80, 81, 0, -1, 65535, 65536, 15443}))
)

// mostly draws what is honest: were all hostile at once, the first check would see to all.
func mostly[T any](honest, hostile *rapid.Generator[T]) *rapid.Generator[T] {
	return rapid.Custom(func(t *rapid.T) T {
		if rapid.IntRange(0, 63).Draw(t, "hostile") < 63 {
			return honest.Draw(t, "honest")
		}
		return hostile.Draw(t, "word")
	})
}

func word(honest ...string) *rapid.Generator[string] { return mostly(rapid.SampledFrom(honest), words) }

func hostileMesh(t *rapid.T, cluster string) *v1alpha1.Mesh {
	port := rapid.Custom(func(t *rapid.T) v1alpha1.GatewayPort {
		return v1alpha1.GatewayPort{
			Name: word("tls").Draw(t, "name"), Port: hostilePorts.Draw(t, "port"),
			ExternalPort: mostly(rapid.Just(int32(15443)), hostilePorts).Draw(t, "external"),
		}
	})
	gateway := rapid.Custom(func(t *rapid.T) v1alpha1.IngressGateway {
		return v1alpha1.IngressGateway{
			Name: word("gw", "reviews").Draw(t, "name"), Namespace: word("istio-gateways").Draw(t, "namespace"),
			Class:       mostly(rapid.Just(v1alpha1.GatewayEastWest), rapid.SampledFrom([]v1alpha1.GatewayClass{"Ingress", "Other", "x"})).Draw(t, "class"),
			TLSPortName: rapid.SampledFrom([]string{"", "tls"}).Draw(t, "port name"),
			Addresses:   rapid.SliceOfN(hostileAddresses, 1, 5).Draw(t, "addresses"),
			Ports:       rapid.SliceOfN(port, 1, 2).Draw(t, "ports"),
		}
	})
	m := mesh(cluster, trusting)
	m.Spec.Cluster = words.Draw(t, "cluster")
	i := &m.Spec.Istio
	i.RootNamespace = words.Draw(t, "root namespace")
	i.TrustDomain = word("cluster.local", "east.example").Draw(t, "trust domain")
	i.ClusterDomain = word("", "cluster.local", "east.global", "east.example").Draw(t, "cluster domain")
	i.Gateways = rapid.SliceOfN(gateway, 1, 3).Draw(t, "gateways")
	return m
}

func hostileDestination(t *rapid.T, home *v1alpha1.Mesh) *v1alpha1.Destination {
	port := rapid.Custom(func(t *rapid.T) v1alpha1.KubeServicePort {
		return v1alpha1.KubeServicePort{
			Name:        mostly(rapid.StringMatching(`(http|tcp|grpc-web|udp|x)-[a-z0-9]{1,54}`), words).Draw(t, "name"),
			Port:        mostly(rapid.Int32Range(1, 65535), hostilePorts).Draw(t, "port"),
			AppProtocol: rapid.OneOf(rapid.Just(""), words).Draw(t, "appProtocol"),
			Protocol:    mostly(rapid.Just("TCP"), rapid.SampledFrom([]string{"", "UDP", "tcp", "SCTP"})).Draw(t, "protocol"),
		}
	})
	return destination(home, func(d *v1alpha1.Destination) {
		k := &d.Spec.KubeService
		k.Name, k.Namespace = word("reviews", "a").Draw(t, "service"), word("default", "a-b").Draw(t, "namespace")
		k.Type = mostly(rapid.Just("ClusterIP"), rapid.SampledFrom([]string{"", "Headless", "ExternalName"})).Draw(t, "type")
		k.Labels = labels.Draw(t, "labels")
		k.Ports = rapid.SliceOfN(port, 1, 3).Draw(t, "ports")
		own := rapid.Custom(func(t *rapid.T) string {
			return "spiffe://" + home.Spec.Istio.TrustDomain + "/ns/" + k.Namespace + "/sa/" + word("reviews").Draw(t, "account")
		})
		foreign := rapid.SampledFrom([]string{"", "*", "spiffe://cluster.local/ns/istio-system/sa/istiod", "spiffe://cluster.local/*"})
		d.Spec.Identities = rapid.SliceOfN(rapid.OneOf(own, own, mostly(own, foreign), words), 1, 4).Draw(t, "identities")
		d.Spec.Mesh = word(home.Name).Draw(t, "mesh")
		d.Namespace = word(home.Namespace).Draw(t, "hub namespace")
		d.Name = word(k.Name+"."+k.Namespace).Draw(t, "object")
		d.Labels = map[string]string{v1alpha1.LabelCluster: words.Draw(t, "cluster label")}
		pod := rapid.Custom(func(t *rapid.T) v1alpha1.FederatedEndpoint {
			e := v1alpha1.FederatedEndpoint{Address: hostileAddresses.Draw(t, "address"), Ports: map[string]int32{}}
			for _, p := range k.Ports {
				e.Ports[p.Name] = mostly(rapid.Just(int32(8080)), hostilePorts).Draw(t, "port")
			}
			return e
		})
		if rapid.IntRange(0, 5).Draw(t, "applied") > 0 {
			d.Status.AppliedFederation = &v1alpha1.AppliedFederation{
				FederatedHostname: words.Draw(t, "hostname"), FederatedToMeshes: []string{"*"}, VirtualMesh: words.Draw(t, "virtual mesh"),
				Subsets:   rapid.SliceOfN(word("v1", "v2"), 0, 4).Draw(t, "subsets"),
				Endpoints: rapid.SliceOfN(pod, 0, 3).Draw(t, "endpoints"),
			}
		}
	})
}

// home by the standard library's other parser, and by the text of the standards: what must never be an endpoint.
func leadsHome(address string) bool {
	ip := net.ParseIP(address)
	if ip == nil {
		return !fqdn.MatchString(address) || regexp.MustCompile(`(^|[.])(localhost|local|svc|internal|[0-9]+)$`).MatchString(address)
	}
	for _, cidr := range []string{"127.0.0.0/8", "0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32", "168.63.129.16/32", "100.100.100.200/32", "192.0.2.9/32",
		"::1/128", "::/128", "fe80::/10", "ff00::/8", "fd00:ec2::254/128", "64:ff9b::7f00:0/104", "64:ff9b::a9fe:0/112", "2002:7f00::/24", "2002:a9fe::/32"} {
		if _, n, err := net.ParseCIDR(cidr); err != nil || n.Contains(ip) {
			return true
		}
	}
	return false
}

// imported counts what tests of hostile input import after all: a test that only refuses shows little.
var imported, shorts atomic.Int64

// importHostile has a client import what a hostile agent wrote. Whatever it wrote, objects are in the client's root
// namespace alone, speak of the hostile cluster alone, have whom to expect, and are such that Istio takes them.
func importHostile(t *rapid.T) {
	home := hostileMesh(t, "east")
	client := mesh("west", trusting)
	client.Spec.Istio.RootNamespace = rapid.SampledFrom([]string{"istio-system", "istio-root"}).Draw(t, "client's root namespace")
	client.Spec.Istio.SmartDNSProxyingEnabled = rapid.IntRange(0, 3).Draw(t, "smart DNS") < 3
	north := mesh("north")
	f := &v1alpha1.Federation{FlatNetwork: rapid.Bool().Draw(t, "flat"), HostnameSuffix: rapid.SampledFrom([]string{"", "global", "mesh.example"}).Draw(t, "suffix"), ShortHostnames: rapid.Bool().Draw(t, "short")}
	f.Selectors = rapid.OneOf(rapid.Just(everything), rapid.Just(everything), rapid.SliceOfN(selector(ref(home), ref(client), ref(north)), 0, 2)).Draw(t, "selectors")
	if rapid.Bool().Draw(t, "keepalive") {
		f.TCPKeepalive = &v1alpha1.TCPKeepalive{Probes: new(rapid.Int32().Draw(t, "probes")), Time: &metav1.Duration{Duration: time.Duration(rapid.Int64().Draw(t, "time"))}}
	}
	vm := virtualMesh(f, home, client, north)
	if rapid.IntRange(0, 15).Draw(t, "a stranger") == 15 {
		vm = virtualMesh(f, client, north)
	}
	if rapid.Bool().Draw(t, "shared trust") {
		vm.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{}}
	}
	d := hostileDestination(t, home)
	c := federation.Client{Mesh: client, Address: rapid.SampledFrom([]string{"", "240.0.0.1"}).Draw(t, "address"), Imported: rapid.Bool().Draw(t, "imported")}
	if rapid.Bool().Draw(t, "east is listed") {
		c.ShortHostnameClusters = []string{"east"}
	}
	c.Forbidden = func(ip string, _ int32) bool { return ip == "192.0.2.9" }

	got := importTwice(t, vm, c, home, d)
	if got == nil {
		return
	}
	imported.Add(1)
	suffix := ".svc.east." + f.HostnameSuffix
	if f.HostnameSuffix == "" {
		suffix += "global"
	}
	checkNamed(t, vm, home, client, got.Named, suffix)
	if may := f.ShortHostnames && c.ShortHostnameClusters != nil; (got.Short != nil) != may {
		t.Errorf("a short hostname: %t, want %t", got.Short != nil, may)
	}
	if got.Short != nil {
		checkNamed(t, vm, home, client, *got.Short, ".east")
		shorts.Add(1)
	}
}

// importTwice imports a destination; nil if it is refused. Whatever was written, the same comes out of it each time, what was given stays
// as it was, there is a reason if nothing comes of it, and the home judges as the client does.
func importTwice(t *rapid.T, vm *membership.VirtualMesh, c federation.Client, home *v1alpha1.Mesh, d *v1alpha1.Destination) *federation.Imported {
	given := func() string {
		return asJSON(t, []any{vm.Spec, vm.Members, c.Mesh, home, d}) + fmt.Sprint(vm.TrustDomains)
	}
	before := given()
	got, refusal := federation.Import(vm, c, home, d)
	if after := given(); before != after {
		t.Fatalf("what was given was changed: %s", after)
	}
	again, refusalAgain := federation.Import(vm, c, home.DeepCopy(), d.DeepCopy())
	if asJSON(t, got) != asJSON(t, again) || !reflect.DeepEqual(refusal, refusalAgain) {
		t.Fatal("the same twice is not the same")
	}
	checkHomeAgrees(t, vm, home, c.Mesh, d, refusal)
	switch {
	case got == nil && (refusal == nil || refusal.Reason == "" || refusal.Message == ""):
		t.Fatalf("nothing, and no reason: %+v", refusal)
	case got != nil && refusal != nil:
		t.Fatalf("imported and refused: %v", refusal)
	}
	return got
}

// checkNamed checks the objects of one name, which is that of the service with a suffix.
func checkNamed(t *rapid.T, vm *membership.VirtualMesh, home, client *v1alpha1.Mesh, got federation.Named, suffix string) {
	f := vm.Spec.Federation
	entry, rule := got.ServiceEntry, got.DestinationRule
	for _, problem := range append(refused(entry), refused(rule)...) {
		t.Errorf("it would be refused: %s", problem)
	}
	service, ok := strings.CutSuffix(entry.Name, suffix)
	if name, namespace, _ := strings.Cut(service, "."); !ok || !label.MatchString(name) || !label.MatchString(namespace) {
		t.Errorf("hostname %s", entry.Name)
	}
	for _, m := range []metav1.ObjectMeta{entry.ObjectMeta, rule.ObjectMeta} {
		if m.Namespace != client.Spec.Istio.RootNamespace || m.Name != entry.Name || m.Labels[v1alpha1.LabelCluster] != "east" ||
			m.Annotations[v1alpha1.AnnotationDestination] != "isthmus-east/"+service || len(m.Labels) != 1 || len(m.Annotations) != 1 {
			t.Errorf("metadata %v", m)
		}
	}
	e, r := &entry.Spec, &rule.Spec
	if !slices.Equal(e.Hosts, []string{entry.Name}) || r.Host != entry.Name || e.Location != networkingapi.ServiceEntry_MESH_INTERNAL || e.WorkloadSelector != nil {
		t.Errorf("hosts %v, %s", e.Hosts, r.Host)
	}
	_, namespace, _ := strings.Cut(service, ".")
	account := regexp.MustCompile(`^spiffe://` + regexp.QuoteMeta(home.Spec.Istio.TrustDomain) + `/ns/` + namespace + `/sa/[a-z0-9][-.a-z0-9]*$`)
	for _, san := range e.SubjectAltNames {
		if !account.MatchString(san) {
			t.Errorf("identity %q", san)
		}
	}
	for _, w := range e.Endpoints {
		if leadsHome(w.Address) {
			t.Errorf("endpoint %q", w.Address)
		}
		if w.Network != "" || w.ServiceAccount != "" || len(w.Labels) > 0 {
			t.Errorf("endpoint %v", w)
		}
	}
	policies := []*networkingapi.TrafficPolicy{r.TrafficPolicy}
	subsets := []string{""}
	for _, s := range r.Subsets {
		policies, subsets = append(policies, s.TrafficPolicy), append(subsets, s.Name)
		if len(s.Labels) > 0 {
			t.Errorf("labels %v", s.Labels)
		}
	}
	for i, p := range policies {
		if p.Tls.Mode != networkingapi.ClientTLSSettings_ISTIO_MUTUAL || (len(p.PortLevelSettings) == 0) != f.FlatNetwork {
			t.Errorf("policy %v", p)
		}
		for j, s := range p.PortLevelSettings {
			domain := home.Spec.Istio.ClusterDomain
			if domain == "" {
				domain = "cluster.local"
			}
			want := fmt.Sprintf("outbound_.%d_.%s_.%s.svc.%s", e.Ports[j].Number, subsets[i], service, domain)
			if s.Tls.Mode != networkingapi.ClientTLSSettings_ISTIO_MUTUAL || s.Tls.Sni != want || len(p.PortLevelSettings) != len(e.Ports) {
				t.Errorf("%v, want %s", s, want)
			}
		}
	}
}

// checkHomeAgrees checks that home and client judge alike who gets a destination: a client withdraws what the home does not
// federate to it, and nothing else.
func checkHomeAgrees(t *rapid.T, vm *membership.VirtualMesh, home, client *v1alpha1.Mesh, d *v1alpha1.Destination, refusal *federation.Refusal) {
	applied, why := federation.Federate(vm, home, d)
	withdraw := refusal != nil && refusal.Withdraw
	switch {
	case applied == nil && why == nil: // not selected, or none of the mesh
		if refusal == nil || !withdraw && refusal.Reason != federation.ReasonForeignDestination {
			t.Errorf("the home does not federate it, and the client: %+v", refusal)
		}
	case applied == nil:
		if refusal == nil {
			t.Errorf("the home refuses, %v, and the client does not", why)
		}
	default:
		mine := slices.Contains(applied.FederatedToMeshes, "*") || slices.Contains(applied.FederatedToMeshes, membership.MeshKey(client))
		if mine == withdraw {
			t.Errorf("the home federates it to %v, and the client: %+v", applied.FederatedToMeshes, refusal)
		}
		if slices.Contains(applied.FederatedToMeshes, membership.MeshKey(home)) {
			t.Error("to itself")
		}
	}
}

func TestImportHostile(t *testing.T) {
	rapid.Check(t, importHostile)
	if n, short := imported.Load(), shorts.Load(); n == 0 || short == 0 {
		t.Errorf("%d were imported, %d by a short hostname: the test shows nothing", n, short)
	} else {
		t.Logf("%d imported, %d by a short hostname", n, short)
	}
}

func FuzzImport(f *testing.F) { f.Fuzz(rapid.MakeFuzz(importHostile)) }
