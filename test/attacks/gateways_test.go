package attacks

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// meshAttack is a report of west's mesh that is not as an honest agent would write it.
type meshAttack struct {
	name   string
	change func(*v1alpha1.Mesh)
	// destination changes the destination that is probed with, where nothing is said of others.
	destination func(*v1alpha1.Destination)
	// says are words of what east reports of a destination.
	says [][]string
	// some says that it is imported, or not, as others of west are.
	some bool
	// check what is imported; nil if nothing may be.
	check func(entry *networkingv1.ServiceEntry, rule *networkingv1.DestinationRule) error
}

// nowhere are addresses at which no other cluster can be: the client's own host, link or cluster, and what a cloud tells its
// machines.
var nowhere = []string{
	"127.0.0.1", "127.8.9.10", "0.0.0.0", "0.1.2.3", "::1", "::", "169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "224.0.0.1", "ff02::1", "255.255.255.255",
	"::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "fd00:ec2::254", "168.63.129.16", "100.100.100.200",
	"localhost", "localhost.", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "istiod.istio-system.svc.cluster.local.",
	"metadata.google.internal", "instance-data.ec2.internal", "a.b.localhost", "printer.home.local", "127.1", "0x7f.0.0.1", "0177.0.0.1", "2130706433", "unix:///var/run/docker.sock",
	"http://127.0.0.1/", "127.0.0.1:15000", "[::1]", "*.example.com", "a b.example.com",
}

var meshAttacks = []meshAttack{
	{
		name:   "no gateway",
		change: func(m *v1alpha1.Mesh) { m.Spec.Istio.Gateways = nil },
		says:   [][]string{{"has no gateway through which others can enter"}},
	},
	{
		name: "more names than proxies should resolve",
		change: func(m *v1alpha1.Mesh) {
			for i := range 60 {
				m.Spec.Istio.Gateways[0].Addresses = append(m.Spec.Istio.Gateways[0].Addresses, fmt.Sprintf("gw%d.west.example", i))
			}
		},
		says: [][]string{{`address "gw8.west.example" is left out`}},
		check: func(entry *networkingv1.ServiceEntry, _ *networkingv1.DestinationRule) error {
			if n := len(entry.Spec.Endpoints); n != 1+8 {
				return fmt.Errorf("%d endpoints", n)
			}
			return nil
		},
	},
	{
		name: "as many addresses as fit, and ports",
		change: func(m *v1alpha1.Mesh) {
			m.Spec.Istio.Gateways = nil
			for g := range 64 {
				gateway := gatewayAt()
				gateway.Name = fmt.Sprint("gateway-", g)
				for a := range 64 {
					gateway.Addresses = append(gateway.Addresses, fmt.Sprintf("198.51.%d.%d", g, a))
					if a < 63 {
						gateway.Ports = append(gateway.Ports, v1alpha1.GatewayPort{Name: "tls", Port: int32(a + 1), ExternalPort: int32(a + 1)})
					}
				}
				m.Spec.Istio.Gateways = append(m.Spec.Istio.Gateways, gateway)
			}
		},
		says: [][]string{{"take more than 4096 bytes each on the average"}},
		some: true,
	},
	{
		name:        "a trust domain that matches any",
		change:      func(m *v1alpha1.Mesh) { m.Spec.Istio.TrustDomain = "*" },
		destination: identities("spiffe://*/ns/shop/sa/reviews"),
		says:        [][]string{{"spec.identities", "no service account is known"}},
	},
	{
		name:        "a trust domain with a path",
		change:      func(m *v1alpha1.Mesh) { m.Spec.Istio.TrustDomain = "cluster.local/ns/shop/sa/ratings?" },
		destination: identities("spiffe://cluster.local/ns/shop/sa/ratings?/ns/shop/sa/reviews"),
		says:        [][]string{{"spec.identities", "no service account is known"}},
	},
	{
		name:        "the trust domain of another, so that it answers for it",
		change:      func(m *v1alpha1.Mesh) { m.Spec.Istio.TrustDomain = "north.local" },
		destination: identities("spiffe://north.local/ns/shop/sa/ratings"),
		says:        [][]string{{"spec.identities", "no service account is known"}}, // of the trust domain with which it was accepted
	},
	{
		name:   "the domain of another cluster",
		change: func(m *v1alpha1.Mesh) { m.Spec.Istio.ClusterDomain = "north.global" },
		check: func(entry *networkingv1.ServiceEntry, rule *networkingv1.DestinationRule) error {
			if host := entry.Spec.Hosts[0]; !strings.HasSuffix(host, ".svc.west.global") || rule.Spec.Host != host || entry.Spec.Endpoints[0].Address != addressOf("west") {
				return fmt.Errorf("%s at %v", host, entry.Spec.Endpoints) // only the server name that west's gateway is asked for has it
			}
			return nil
		},
	},
	{
		name:   "a domain that is none",
		change: func(m *v1alpha1.Mesh) { m.Spec.Istio.ClusterDomain = "cluster..local" },
		says:   [][]string{{"spec.istio.clusterDomain", "cluster..local is no hostname"}},
	},
	{
		name:   "a domain that writes to terminals",
		change: func(m *v1alpha1.Mesh) { m.Spec.Istio.ClusterDomain = "\x1b[2Jcluster.local" },
		says:   [][]string{{"spec.istio.clusterDomain", "\ufffd[2Jcluster.local is no hostname"}},
	},
	{
		name:   "a domain that is too long",
		change: func(m *v1alpha1.Mesh) { m.Spec.Istio.ClusterDomain = strings.Repeat("a.", 120) + "local" },
		says:   [][]string{{"spec.istio.clusterDomain", "of at most 253 characters"}},
	},
}

func identities(ids ...string) func(*v1alpha1.Destination) {
	return func(d *v1alpha1.Destination) { d.Spec.Identities = ids }
}

func (f *fleet) meshes(t *testing.T) {
	servers := f.apiServers(t)
	attacks := []meshAttack{
		{
			name:   "a gateway where there is no other cluster",
			change: func(m *v1alpha1.Mesh) { m.Spec.Istio.Gateways[0].Addresses = nowhere },
			says:   append(each(nowhere[:3]), []string{"nothing is left to send to", fmt.Sprintf("and %d more", len(nowhere)-3)}),
		},
	}
	for some := range slices.Chunk(nowhere, 22) {
		attacks = append(attacks, meshAttack{
			name: "such gateways beside an honest one, " + some[0],
			change: func(m *v1alpha1.Mesh) {
				m.Spec.Istio.Gateways[0].Addresses = append(slices.Clone(some), addressOf("west"))
			},
			says: each(some),
			check: func(entry *networkingv1.ServiceEntry, _ *networkingv1.DestinationRule) error {
				if len(entry.Spec.Endpoints) != 1 || entry.Spec.Endpoints[0].Address != addressOf("west") {
					return fmt.Errorf("endpoints %v", entry.Spec.Endpoints)
				}
				return nil
			},
		})
	}
	for _, server := range servers {
		attacks = append(attacks, meshAttack{
			name: "the API server for a gateway, " + server.Address,
			change: func(m *v1alpha1.Mesh) {
				m.Spec.Istio.Gateways[0].Addresses, m.Spec.Istio.Gateways[0].Ports[0].ExternalPort = []string{server.Address}, server.port
			},
			says: [][]string{{"spec.istio.gateways", fmt.Sprintf("%q is left out", server.Address)}},
		}, meshAttack{
			name:   "another port of the API server's address, " + server.Address,
			change: func(m *v1alpha1.Mesh) { m.Spec.Istio.Gateways[0].Addresses = []string{server.Address} },
			check: func(entry *networkingv1.ServiceEntry, _ *networkingv1.DestinationRule) error {
				if len(entry.Spec.Endpoints) != 1 || entry.Spec.Endpoints[0].Address != server.Address {
					return fmt.Errorf("endpoints %v", entry.Spec.Endpoints)
				}
				return nil
			},
		})
	}
	attacks = append(attacks, meshAttacks...)
	for i, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			name := fmt.Sprintf("a%02d-probe", 99-i) // the first of the names that are said
			host := hostname("west", name, "shop")
			d := destinationOf("west", name, "shop")
			if a.check != nil || a.some {
				f.mine[host] = true
			}
			if a.destination != nil {
				a.destination(d)
			}
			undo := f.edit(t, a.change)
			if a.destination == nil {
				for _, words := range a.says { // of what is imported, which stays as it is
					f.says(t, append(words, "of cluster west")...)
				}
			}
			f.write(t, d)
			switch {
			case a.check != nil:
				f.imported(t, "west", name, "shop")
				f.becomes(t, host, a.check)
			case !a.some:
				f.says(t, append(a.says[0], d.Name)...)
			}
			f.unharmed(t)
			undo()
			if a.destination != nil {
				d.Spec = destinationOf("west", name, "shop").Spec
				must(t, f.west.Update(t.Context(), d))
			}
			f.mine[f.imported(t, "west", name, "shop")] = true
			f.unharmed(t)
		})
	}
}

func each(addresses []string) (out [][]string) {
	for _, a := range addresses {
		out = append(out, []string{"spec.istio.gateways", fmt.Sprintf("address %q is left out", a)})
	}
	return out
}

type server struct {
	Address string
	port    int32
}

// apiServers are the addresses of east's API server that are no loopback's.
func (f *fleet) apiServers(t *testing.T) (out []server) {
	t.Helper()
	service := &corev1.Service{}
	must(t, f.local.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "kubernetes"}, service))
	out = append(out, server{service.Spec.ClusterIP, service.Spec.Ports[0].Port})
	var list discoveryv1.EndpointSliceList
	must(t, f.local.List(t.Context(), &list, client.InNamespace("default"), client.MatchingLabels{discoveryv1.LabelServiceName: "kubernetes"}))
	for _, s := range list.Items {
		for _, e := range s.Endpoints {
			out = append(out, server{e.Addresses[0], *s.Ports[0].Port})
		}
	}
	return out
}

// flatNetwork: where there are no gateways in between, west says where its pods are.
func (f *fleet) flatNetwork(t *testing.T) {
	ctx := t.Context()
	pod := func(address string, port int32) v1alpha1.FederatedEndpoint {
		return v1alpha1.FederatedEndpoint{Address: address, Ports: map[string]int32{"http": port}}
	}
	pods := func(d *v1alpha1.Destination, endpoints ...v1alpha1.FederatedEndpoint) {
		d.Status.AppliedFederation = &v1alpha1.AppliedFederation{FederatedHostname: d.Name, VirtualMesh: "all." + system, Endpoints: endpoints}
	}
	var list v1alpha1.DestinationList
	must(t, f.admin.List(ctx, &list, client.InNamespace(kube.ClusterNamespace("north"))))
	for i := range list.Items {
		pods(&list.Items[i], pod("10.3.0.1", 8080))
		must(t, f.north.Status().Update(ctx, &list.Items[i]))
	}
	must(t, f.writer.Patch(ctx, f.vm, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"federation":{"flatNetwork":true}}}`))))
	f.applied(t)
	for _, d := range list.Items {
		testenv.Eventually(t, "pods of "+d.Name, func() error {
			entry, _, err := f.objectsOf(t, hostname("north", d.Spec.KubeService.Name, d.Spec.KubeService.Namespace))
			if err == nil && entry.Spec.Endpoints[0].Address != "10.3.0.1" {
				err = fmt.Errorf("endpoints %v", entry.Spec.Endpoints)
			}
			return err
		})
	}
	f.before = f.others(t)
	var wests v1alpha1.DestinationList // they would be in the way
	must(t, f.west.List(ctx, &wests, client.InNamespace(kube.ClusterNamespace("west"))))
	inParallel(t, len(wests.Items), func(i int) error { return f.west.Delete(ctx, &wests.Items[i]) })
	must(t, f.heartbeat(t, f.west, "west", nil))
	testenv.Eventually(t, "room", func() error {
		if n := f.importedOf(t, "west"); n > 0 {
			return fmt.Errorf("%d are imported", n)
		}
		return nil
	})

	honest := pod("10.2.0.1", 8080)
	for i, attack := range []struct {
		name      string
		endpoints []v1alpha1.FederatedEndpoint
		says      []string
	}{
		{"no pods", nil, []string{"no pod is known"}},
		{"the API server", []v1alpha1.FederatedEndpoint{pod(f.apiServers(t)[0].Address, f.apiServers(t)[0].port)}, []string{"is left out: it is none at which"}},
		{"names", []v1alpha1.FederatedEndpoint{pod("pod.west.example", 8080)}, []string{`"pod.west.example" is left out: it is no IP address`}},
		{"another port than the Service's", []v1alpha1.FederatedEndpoint{{Address: "10.2.0.1", Ports: map[string]int32{"other": 8080}}}, []string{"0 is no port number"}},
		{"an impossible port", []v1alpha1.FederatedEndpoint{pod("10.2.0.1", 70000)}, []string{"70000 is no port number"}},
		{"nowhere", nowherePods(pod), []string{"nothing is left to send to"}},
	} {
		t.Run(attack.name, func(t *testing.T) {
			name := fmt.Sprintf("pods-%d", i)
			d := destinationOf("west", name, "shop")
			pods(d, attack.endpoints...)
			f.write(t, d)
			f.says(t, append(attack.says, d.Name+" of cluster west", "status.appliedFederation.endpoints")...)
			f.unharmed(t)
			// With an honest one beside them that one is used.
			f.mine[hostname("west", name, "shop")] = true
			pods(d, append(attack.endpoints, honest)...)
			must(t, f.west.Status().Update(ctx, d))
			f.imported(t, "west", name, "shop")
			entry, _, err := f.objectsOf(t, hostname("west", name, "shop"))
			must(t, err)
			if e := entry.Spec.Endpoints; len(e) != 1 || e[0].Address != honest.Address || e[0].Ports["http"] != 8080 {
				t.Errorf("endpoints %v", e)
			}
			f.unharmed(t)
		})
	}
}

func nowherePods(pod func(string, int32) v1alpha1.FederatedEndpoint) (out []v1alpha1.FederatedEndpoint) {
	for _, address := range nowhere {
		out = append(out, pod(address, 8080))
	}
	return out
}
