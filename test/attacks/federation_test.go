package attacks

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	networkingapi "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// TestHostileMember: west's agent, or who holds its credential, writes what it likes. The agent of east, that of an honest
// client, makes of it what harms nobody but west; north, another member, goes on as before.
func TestHostileMember(t *testing.T) {
	f := startFleet(t)
	t.Run("destinations", f.destinations)
	t.Run("meshes", f.meshes)
	t.Run("what is not its own", f.notItsOwn)
	t.Run("evidence", f.evidence)
	t.Run("what the hub says", f.whatTheHubSays)
	t.Run("many", f.many)
	t.Run("a flat network", f.flatNetwork)
	t.Run("changes without end", f.withoutEnd)
}

// destinationAttack is a destination of west that is not as an honest agent would write it.
type destinationAttack struct {
	name string
	// change an honest destination of a Service of namespace shop.
	change func(*v1alpha1.Destination)
	// says are words of what east reports; none where it is silent by design.
	says []string
	// imported says that it is imported all the same, under its own name, and as check finds right.
	imported bool
	check    func(entry *networkingv1.ServiceEntry, rule *networkingv1.DestinationRule) error
}

var longest = strings.Repeat("a", 63)

var destinationAttacks = []destinationAttack{
	{
		name:   "an object with the name of another Service",
		change: func(d *v1alpha1.Destination) { d.Name = "ratings.shop" },
		says:   []string{"metadata.name", "must be named"},
	},
	{
		name:     "the name of a Service of another cluster",
		change:   func(d *v1alpha1.Destination) { d.Name, d.Spec.KubeService.Name = "ratings.shop", "ratings" },
		imported: true, // as every cluster may have one
	},
	{
		name: "dots in the Service's name that make it another cluster's",
		change: func(d *v1alpha1.Destination) {
			d.Name, d.Spec.KubeService.Name, d.Spec.KubeService.Namespace = "ratings.shop.svc.north.global", "ratings.shop.svc.north", "global"
		},
		says: []string{"spec.kubeService.name", `"ratings.shop.svc.north" is no DNS label`},
	},
	{
		name: "dots in the Service's namespace that make it another cluster's",
		change: func(d *v1alpha1.Destination) {
			d.Name, d.Spec.KubeService.Name, d.Spec.KubeService.Namespace = "ratings.shop.svc.north.global", "ratings", "shop.svc.north.global"
		},
		says: []string{"spec.kubeService.namespace", `"shop.svc.north.global" is no DNS label`},
	},
	{
		name:   "a wildcard for a name",
		change: func(d *v1alpha1.Destination) { d.Spec.KubeService.Name = "*" },
		says:   []string{"spec.kubeService.name", `"*" is no DNS label`},
	},
	{
		name:   "a path for a name",
		change: func(d *v1alpha1.Destination) { d.Spec.KubeService.Name = "../ratings" },
		says:   []string{"spec.kubeService.name", `"../ratings" is no DNS label`},
	},
	{
		name:   "a name that writes to terminals",
		change: func(d *v1alpha1.Destination) { d.Spec.KubeService.Name = "\x1b[2Jratings\n" },
		says:   []string{"spec.kubeService.name", `"\x1b[2Jratings\n" is no DNS label`},
	},
	{
		name: "the longest names",
		change: func(d *v1alpha1.Destination) {
			d.Name, d.Spec.KubeService.Name, d.Spec.KubeService.Namespace = longest+"."+longest, longest, longest
			d.Spec.Identities = []string{"spiffe://cluster.local/ns/" + longest + "/sa/a"}
		},
		imported: true,
	},
	{
		name:   "the mesh of another cluster",
		change: func(d *v1alpha1.Destination) { d.Spec.Mesh = meshOf("north").Name },
		says:   []string{"spec.mesh", meshOf("north").Name},
	},
	{
		name:   "the mesh of another cluster with its namespace",
		change: func(d *v1alpha1.Destination) { d.Spec.Mesh = kube.Qualified(meshOf("north").Name, "isthmus-north") },
		says:   []string{"spec.mesh", meshOf("north").Name},
	},
	{
		name:   "the mark of what is federated, on what users did not select",
		change: func(d *v1alpha1.Destination) { d.Spec.KubeService.Labels = map[string]string{"app": "secret"} },
	},
	{
		name: "a status that claims what users did not select",
		change: func(d *v1alpha1.Destination) {
			d.Spec.KubeService.Labels = nil
			d.Status.AppliedFederation = &v1alpha1.AppliedFederation{
				FederatedHostname: hostname("north", "ratings", "shop"), FederatedToMeshes: []string{"*"}, VirtualMesh: "all." + system,
			}
		},
	},
	{
		name: "a status with the hostname of another",
		change: func(d *v1alpha1.Destination) {
			d.Status.AppliedFederation = &v1alpha1.AppliedFederation{
				FederatedHostname: hostname("north", "ratings", "shop"), FederatedToMeshes: []string{"*"}, VirtualMesh: "other." + system,
			}
		},
		imported: true, // under its own name
	},
	{
		name: "labels and annotations that are ours to set",
		change: func(d *v1alpha1.Destination) {
			maps.Copy(d.Labels, map[string]string{v1alpha1.LabelCluster: "north", v1alpha1.LabelManagedBy: "somebody", v1alpha1.LabelVirtualMesh: "other"})
			d.Annotations = map[string]string{v1alpha1.AnnotationDestination: "isthmus-north/ratings.shop", "isthmus.dev/mesh": kube.Qualified(meshOf("north").Name, "isthmus-north")}
		},
		imported: true,
	},
	{
		name: "endpoints of its own choice",
		change: func(d *v1alpha1.Destination) {
			d.Status.AppliedFederation = &v1alpha1.AppliedFederation{Endpoints: []v1alpha1.FederatedEndpoint{{Address: "127.0.0.1", Ports: map[string]int32{"http": 15000}}}}
		},
		imported: true, // through west's gateway
	},
	{
		name: "subsets with odd names",
		change: func(d *v1alpha1.Destination) {
			d.Status.AppliedFederation = &v1alpha1.AppliedFederation{Subsets: []string{"v1", "../v2", "*", "V3", "a_b", "outbound|80||x", longest + "a", "\x1b[2J"}}
		},
		says:     []string{"status.appliedFederation.subsets", `subset "../v2" is left out`},
		imported: true,
		check: func(_ *networkingv1.ServiceEntry, rule *networkingv1.DestinationRule) error {
			if len(rule.Spec.Subsets) != 1 || rule.Spec.Subsets[0].Name != "v1" {
				return fmt.Errorf("subsets: %v", rule.Spec.Subsets)
			}
			return nil
		},
	},
	{
		name:   "an identity of another trust domain",
		change: func(d *v1alpha1.Destination) { d.Spec.Identities = []string{"spiffe://north.local/ns/shop/sa/ratings"} },
		says:   []string{"spec.identities", "no service account is known"},
	},
	{
		name: "an identity of another namespace",
		change: func(d *v1alpha1.Destination) {
			d.Spec.Identities = []string{"spiffe://cluster.local/ns/istio-system/sa/istiod"}
		},
		says: []string{"spec.identities", "no service account is known"},
	},
	{
		name:   "no identity",
		change: func(d *v1alpha1.Destination) { d.Spec.Identities = nil },
		says:   []string{"spec.identities", "no service account is known"},
	},
	{
		name: "identities that match anybody, beside its own",
		change: func(d *v1alpha1.Destination) {
			d.Spec.Identities = append(d.Spec.Identities, "*", "spiffe://*", "spiffe://cluster.local/ns/shop/sa/*", "spiffe://cluster.local/ns/shop/sa/a/../b",
				"spiffe://cluster.local/ns/shop/sa/", "cluster.local/ns/shop/sa/a", "spiffe://cluster.local/ns/shop/sa/A", "\x00")
		},
		says:     []string{"spec.identities", `"spiffe://cluster.local/ns/shop/sa/*" is left out`},
		imported: true,
	},
	{
		name: "a gateway for a destination",
		change: func(d *v1alpha1.Destination) {
			d.Name, d.Spec.KubeService.Name, d.Spec.KubeService.Namespace = "istio-eastwestgateway.istio-system", "istio-eastwestgateway", "istio-system"
		},
		says: []string{"gateways are never federated"},
	},
	{
		name:   "a Service that leads elsewhere by DNS",
		change: func(d *v1alpha1.Destination) { d.Spec.KubeService.Type = "ExternalName" },
		says:   []string{"spec.kubeService.type", "ExternalName"},
	},
	{
		name: "more ports than Istio takes",
		change: func(d *v1alpha1.Destination) {
			for i := range 200 {
				d.Spec.KubeService.Ports = append(d.Spec.KubeService.Ports, v1alpha1.KubeServicePort{Name: fmt.Sprint("p", i), Port: int32(10000 + i)})
			}
		},
		says: []string{"spec.kubeService.ports", "201 ports"},
	},
	{
		name: "one port twice",
		change: func(d *v1alpha1.Destination) {
			d.Spec.KubeService.Ports = append(d.Spec.KubeService.Ports, v1alpha1.KubeServicePort{Name: "other", Port: 9080})
		},
		says: []string{"spec.kubeService.ports", "twice"},
	},
	{
		name:   "a port's name that is none",
		change: func(d *v1alpha1.Destination) { d.Spec.KubeService.Ports[0].Name = "http/../x" },
		says:   []string{"spec.kubeService.ports", `"http/../x" is no DNS label`},
	},
	{
		name:   "no port",
		change: func(d *v1alpha1.Destination) { d.Spec.KubeService.Ports = nil },
		says:   []string{"spec.kubeService.ports", "no TCP port"},
	},
}

func (f *fleet) destinations(t *testing.T) {
	for i, a := range destinationAttacks {
		t.Run(a.name, func(t *testing.T) {
			d := destinationOf("west", fmt.Sprintf("attack-%d", i), "shop")
			a.change(d)
			host := hostname("west", d.Spec.KubeService.Name, d.Spec.KubeService.Namespace)
			if a.imported {
				f.mine[host] = true
			}
			f.write(t, d)
			if a.says != nil {
				f.says(t, append(a.says, d.Name+" of cluster west")...)
			}
			f.honest(t, fmt.Sprintf("honest-%d", i))
			if a.imported {
				f.imported(t, "west", d.Spec.KubeService.Name, d.Spec.KubeService.Namespace)
				entry, rule, err := f.objectsOf(t, host)
				must(t, err)
				honestLooking(t, d, entry, rule)
				f.becomes(t, host, a.check)
			}
			f.unharmed(t)
			if !a.imported {
				must(t, f.west.Delete(t.Context(), d))
			}
		})
	}
}

// becomes waits until the objects of a hostname are right.
func (f *fleet) becomes(t *testing.T, host string, right func(*networkingv1.ServiceEntry, *networkingv1.DestinationRule) error) {
	t.Helper()
	if right == nil {
		return
	}
	testenv.Eventually(t, host+" to be right", func() error {
		entry, rule, err := f.objectsOf(t, host)
		if err == nil {
			err = right(entry, rule)
		}
		return err
	})
}

// honestLooking checks that by objects of a destination nobody gets anywhere but to west's own.
func honestLooking(t *testing.T, d *v1alpha1.Destination, entry *networkingv1.ServiceEntry, rule *networkingv1.DestinationRule) {
	t.Helper()
	k := &d.Spec.KubeService
	host := hostname("west", k.Name, k.Namespace)
	e, r := &entry.Spec, &rule.Spec
	if !slices.Equal(e.Hosts, []string{host}) || r.Host != host {
		t.Errorf("hosts %v and %s", e.Hosts, r.Host)
	}
	if len(e.Endpoints) != 1 || e.Endpoints[0].Address != addressOf("west") || e.Endpoints[0].Ports["http"] != 15443 || e.Resolution != networkingapi.ServiceEntry_STATIC {
		t.Errorf("endpoints %v", e.Endpoints)
	}
	for _, id := range e.SubjectAltNames {
		if !slices.Contains(d.Spec.Identities, id) || !strings.HasPrefix(id, "spiffe://cluster.local/ns/"+k.Namespace+"/sa/") || strings.ContainsAny(id, "*") {
			t.Errorf("identity %s", id)
		}
	}
	if len(e.SubjectAltNames) != 1 {
		t.Errorf("identities %v", e.SubjectAltNames)
	}
	sni := fmt.Sprintf("outbound_.9080_._.%s.%s.svc.cluster.local", k.Name, k.Namespace)
	for _, s := range r.TrafficPolicy.PortLevelSettings {
		if s.Tls.Mode != networkingapi.ClientTLSSettings_ISTIO_MUTUAL || s.Tls.Sni != sni {
			t.Errorf("TLS %v", s.Tls)
		}
	}
	for _, o := range []client.Object{entry, rule} {
		if o.GetLabels()[v1alpha1.LabelCluster] != "west" || o.GetLabels()[v1alpha1.LabelVirtualMesh] != "all."+system || o.GetLabels()[v1alpha1.LabelManagedBy] != "isthmus-agent-network" {
			t.Errorf("labels %v", o.GetLabels())
		}
		if o.GetAnnotations()[v1alpha1.AnnotationDestination] != "isthmus-west/"+d.Name {
			t.Errorf("annotations %v", o.GetAnnotations())
		}
	}
}
