package attacks

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent"
	"github.com/isthmus-mesh/isthmus/internal/agent/network"
	"github.com/isthmus-mesh/isthmus/internal/istio/istiotest"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/kube/hublink"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// selected is the label of Services that the VirtualMesh federates.
const selected = "federate"

// maxImports is how many destinations of one cluster east imports.
const maxImports = 60

// fleet is three clusters in one virtual mesh. In east an agent runs. What north writes is honest, and what west writes is not.
type fleet struct {
	*world
	// north has the credential of north's agent.
	north client.Client
	// local is east's own API server.
	local client.Client
	// before are the objects that no attack may change, with their versions.
	before map[string]string
	// mine are the names by which west's destinations may be known in east.
	mine map[string]bool
	vm   *v1alpha1.VirtualMesh
}

// startFleet makes the fleet, with destinations of each cluster.
func startFleet(t *testing.T) *fleet {
	t.Helper()
	f := startClusters(t)
	for name, agent := range map[string]client.Client{"west": f.west, "north": f.north} {
		must(t, agent.Create(t.Context(), meshWithGateway(name)))
		must(t, agent.Create(t.Context(), destinationOf(name, "reviews", "shop")))
	}
	ratings := destinationOf("north", "ratings", "shop")
	must(t, f.north.Create(t.Context(), ratings))
	f.join(t, nil, "east", "west", "north")
	f.mine[f.imported(t, "west", "reviews", "shop")] = true
	f.imported(t, "north", "reviews", "shop")
	f.imported(t, "north", "ratings", "shop")
	testenv.Eventually(t, "east to mark what it federates", func() error { // which changes its version
		if n := len(f.labelled(t, "east")); n != 1 {
			return fmt.Errorf("%d of its destinations are marked", n)
		}
		return nil
	})
	f.before = f.others(t)
	if len(f.before) != 2*2+1+2 { // two of north, each with an entry and a rule; what east lets in; two destinations of east
		t.Fatalf("there is %v", f.before)
	}
	return f
}

// startClusters makes the clusters, with the agent of east.
func startClusters(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{world: startHub(t, "east", "west", "north"), mine: map[string]bool{}}
	f.north = f.agent(t, "north")
	cluster := testenv.Start(t, testenv.IstioCRDs(t))
	scheme := testenv.Scheme()
	must(t, network.AddToScheme(scheme))
	var err error
	f.local, err = client.New(cluster.Config, client.Options{Scheme: scheme})
	must(t, err)
	f.installIstio(t)
	f.startAgent(t, cluster)
	return f
}

// join makes the virtual mesh, which federates to the given meshes, or to all, and waits until east has applied it.
func (f *fleet) join(t *testing.T, to []v1alpha1.ObjectRef, clusters ...string) {
	t.Helper()
	f.vm = &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Name: "all", Namespace: system}}
	f.vm.Spec.Meshes = refs(clusters...)
	f.vm.Spec.Federation = &v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{{Meshes: to, DestinationSelectors: []v1alpha1.DestinationSelector{{
		KubeServiceMatcher: &v1alpha1.KubeServiceMatcher{Labels: map[string]string{selected: "yes"}},
	}}}}}
	testenv.Eventually(t, "the mesh of east", func() error {
		return f.admin.Get(t.Context(), client.ObjectKeyFromObject(meshOf("east")), &v1alpha1.Mesh{})
	})
	must(t, f.writer.Create(t.Context(), f.vm))
	f.applied(t)
}

// refs are references to the meshes of clusters.
func refs(clusters ...string) (out []v1alpha1.ObjectRef) {
	for _, c := range clusters {
		out = append(out, v1alpha1.ObjectRef{Name: meshOf(c).Name})
	}
	return out
}

// installIstio makes what an installer makes in east, a gateway, and a Service that is federated.
func (f *fleet) installIstio(t *testing.T) {
	t.Helper()
	objs := append(istiotest.Manifest("sidecar"), istiotest.Namespace(v1alpha1.AgentNamespace, nil),
		istiotest.Namespace("shop", map[string]string{"istio-injection": "enabled"}))
	gateway := istiotest.Service("istio-system", "istio-eastwestgateway", map[string]string{"istio": "eastwestgateway"})
	gateway.Spec.Type = corev1.ServiceTypeLoadBalancer
	gateway.Spec.Ports = []corev1.ServicePort{{Name: "tls", Port: 15443, TargetPort: intstr.FromInt32(15443)}}
	pods := istiotest.Deployment("istio-system", gateway.Name, gateway.Spec.Selector, gateway.Name)
	pods.Spec.Template.Annotations = map[string]string{"inject.istio.io/templates": "gateway"}
	pods.Spec.Template.Labels["sidecar.istio.io/inject"] = "true"
	details := istiotest.Service("shop", "details", map[string]string{"app": "details"})
	details.Labels = map[string]string{selected: "yes"}
	objs = append(objs, gateway, pods, details, istiotest.Deployment("shop", "details", details.Spec.Selector, "details"))
	for _, o := range objs {
		must(t, client.IgnoreAlreadyExists(f.local.Create(t.Context(), o)))
	}
	gateway.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: addressOf("east")}}
	must(t, f.local.Status().Update(t.Context(), gateway))
}

// startAgent runs the agent of east. Its addresses are few, so that whoever could use them up would.
func (f *fleet) startAgent(t *testing.T, cluster *testenv.Cluster) {
	t.Helper()
	f.east = f.agent(t, "east")
	token := f.tokens[len(f.tokens)-1]
	must(t, f.local.Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.AgentNamespace, Name: "hub"},
		Data:       map[string][]byte{hublink.KubeconfigKey: f.env.Kubeconfig(t, &rest.Config{BearerToken: token}, "")},
	}))
	mgr, _, err := agent.NewManager(cluster.Config, agent.Options{
		Cluster: "east", Identity: t.Name(), HubKubeconfigSecret: "hub",
		MaxImports: maxImports, AddressRange: netip.MustParsePrefix("241.0.0.0/25"),
	})
	must(t, err)
	runInBackground(t, "the agent of east", mgr.Start)
}

// addressOf is where the gateway of a cluster is.
func addressOf(cluster string) string {
	return map[string]string{"east": "203.0.113.1", "west": "203.0.113.2", "north": "203.0.113.3"}[cluster]
}

// meshWithGateway is a mesh as an honest agent reports it.
func meshWithGateway(cluster string) *v1alpha1.Mesh {
	m := meshOf(cluster)
	m.Spec.Istio.Gateways = []v1alpha1.IngressGateway{gatewayAt(addressOf(cluster))}
	return m
}

func gatewayAt(addresses ...string) v1alpha1.IngressGateway {
	return v1alpha1.IngressGateway{
		Name: "istio-eastwestgateway", Namespace: "istio-system", Class: v1alpha1.GatewayEastWest,
		Selector: map[string]string{"istio": "eastwestgateway"}, Addresses: addresses,
		Ports: []v1alpha1.GatewayPort{{Name: "tls", Port: 15443, ExternalPort: 15443, TargetPort: 15443}},
	}
}

// destinationOf is a federated destination as an honest agent reports it.
func destinationOf(cluster, name, namespace string) *v1alpha1.Destination {
	return &v1alpha1.Destination{
		ObjectMeta: metav1.ObjectMeta{
			Name: kube.Qualified(name, namespace), Namespace: kube.ClusterNamespace(cluster), Labels: map[string]string{v1alpha1.LabelFederated: "true"},
		},
		Spec: v1alpha1.DestinationSpec{
			Cluster: cluster, Mesh: meshOf(cluster).Name,
			KubeService: v1alpha1.KubeService{
				Name: name, Namespace: namespace, Type: "ClusterIP", Labels: map[string]string{selected: "yes"}, Selector: map[string]string{"app": name},
				Ports: []v1alpha1.KubeServicePort{{Name: "http", Port: 9080, Protocol: "TCP"}},
			},
			Identities: []string{"spiffe://cluster.local/ns/" + namespace + "/sa/" + name},
		},
	}
}

func hostname(cluster, name, namespace string) string {
	return name + "." + namespace + ".svc." + cluster + ".global"
}

// applied waits until east has applied what is in force.
func (f *fleet) applied(t *testing.T) {
	t.Helper()
	testenv.Eventually(t, "the virtual mesh to be applied in east", func() error {
		must(t, f.admin.Get(t.Context(), client.ObjectKeyFromObject(f.vm), f.vm))
		mesh := f.meshOfEast(t)
		want := v1alpha1.AppliedVirtualMesh{Name: kube.Qualified(f.vm.Name, f.vm.Namespace), Generation: f.vm.Generation}
		if a := f.vm.Status.Accepted; a == nil || a.Generation != f.vm.Generation || !slices.Contains(mesh.Status.AppliedVirtualMeshes, want) {
			return fmt.Errorf("it says %+v and %+v", f.vm.Status, mesh.Status)
		}
		return nil
	})
}

func (f *fleet) meshOfEast(t *testing.T) *v1alpha1.Mesh {
	t.Helper()
	m := &v1alpha1.Mesh{}
	must(t, f.admin.Get(t.Context(), client.ObjectKeyFromObject(meshOf("east")), m))
	return m
}

// says waits until east reports an error in which all of the words are.
func (f *fleet) says(t *testing.T, words ...string) {
	t.Helper()
	testenv.Eventually(t, fmt.Sprintf("east to say %q", words), func() error {
		errs := f.meshOfEast(t).Status.Errors
		if !slices.ContainsFunc(errs, func(e string) bool {
			return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(e, w) })
		}) {
			return fmt.Errorf("it says %q", errs)
		}
		return nil
	})
}

// imported waits until east has imported a destination, and returns its name there.
func (f *fleet) imported(t *testing.T, cluster, name, namespace string) (host string) {
	t.Helper()
	host = hostname(cluster, name, namespace)
	testenv.Eventually(t, host+" in east", func() error { _, _, err := f.objectsOf(t, host); return err })
	return host
}

// objectsOf are those by which east knows a hostname.
func (f *fleet) objectsOf(t *testing.T, host string) (*networkingv1.ServiceEntry, *networkingv1.DestinationRule, error) {
	t.Helper()
	entry, rule := &networkingv1.ServiceEntry{}, &networkingv1.DestinationRule{}
	key := client.ObjectKey{Namespace: "istio-system", Name: host}
	if err := f.local.Get(t.Context(), key, entry); err != nil {
		return nil, nil, err
	}
	return entry, rule, f.local.Get(t.Context(), key, rule)
}

// all are the objects of Istio's kinds in east, and the destinations of east in the hub, with their versions.
func (f *fleet) all(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	add := func(c client.Client, list client.ObjectList, opts ...client.ListOption) {
		must(t, c.List(t.Context(), list, opts...))
		items, err := meta.ExtractList(list)
		must(t, err)
		for _, item := range items {
			o := item.(client.Object)
			out[fmt.Sprintf("%T %s/%s", o, o.GetNamespace(), o.GetName())] = o.GetResourceVersion()
		}
	}
	for _, list := range []client.ObjectList{
		&networkingv1.ServiceEntryList{}, &networkingv1.DestinationRuleList{}, &networkingv1.GatewayList{},
		&networkingv1.VirtualServiceList{}, &networkingv1.WorkloadEntryList{}, &networkingv1.SidecarList{},
		&securityv1.AuthorizationPolicyList{}, &securityv1.PeerAuthenticationList{}, &securityv1.RequestAuthenticationList{},
	} {
		add(f.local, list)
	}
	add(f.admin, &v1alpha1.DestinationList{}, client.InNamespace(kube.ClusterNamespace("east")))
	return out
}

// others are all but those by which west's destinations may be known.
func (f *fleet) others(t *testing.T) map[string]string {
	t.Helper()
	out := f.all(t)
	for host := range f.mine {
		for _, o := range []client.Object{&networkingv1.ServiceEntry{}, &networkingv1.DestinationRule{}} {
			delete(out, fmt.Sprintf("%T istio-system/%s", o, host))
		}
	}
	return out
}

// unharmed checks that nothing is in east but what was there and what west may have there, and that the former is unchanged.
func (f *fleet) unharmed(t *testing.T) {
	t.Helper()
	now := f.others(t)
	for _, o := range slices.Sorted(maps.Keys(now)) {
		if was, ok := f.before[o]; !ok {
			t.Errorf("%s has appeared", o)
		} else if was != now[o] {
			t.Errorf("%s has changed", o)
		}
	}
	for o := range f.before {
		if _, ok := now[o]; !ok {
			t.Errorf("%s is gone", o)
		}
	}
}

// honest has west write a destination as an honest agent does, and waits until east has imported it: what west wrote before
// has been looked at then.
func (f *fleet) honest(t *testing.T, name string) {
	t.Helper()
	must(t, f.west.Create(t.Context(), destinationOf("west", name, "shop")))
	f.mine[f.imported(t, "west", name, "shop")] = true
}

// write has west write a destination with its status.
func (f *fleet) write(t *testing.T, d *v1alpha1.Destination) {
	t.Helper()
	must(t, f.writes(t.Context(), d))
}

func (f *fleet) writes(ctx context.Context, d *v1alpha1.Destination) error {
	status := *d.Status.DeepCopy()
	if err := f.west.Create(ctx, d); err != nil || reflect.DeepEqual(status, v1alpha1.DestinationStatus{}) {
		return err
	}
	d.Status = status
	return f.west.Status().Update(ctx, d)
}

// edit has west change the report of its mesh; undo makes it honest again.
func (f *fleet) edit(t *testing.T, change func(*v1alpha1.Mesh)) (undo func()) {
	t.Helper()
	var was v1alpha1.MeshSpec
	apply := func(change func(*v1alpha1.Mesh)) {
		t.Helper()
		for {
			m := &v1alpha1.Mesh{}
			must(t, f.west.Get(t.Context(), client.ObjectKeyFromObject(meshOf("west")), m))
			was = *m.Spec.DeepCopy()
			change(m)
			err := f.west.Update(t.Context(), m)
			if !apierrors.IsConflict(err) {
				must(t, err)
				return
			}
		}
	}
	apply(change)
	honest := was
	return func() { t.Helper(); apply(func(m *v1alpha1.Mesh) { m.Spec = honest }) }
}
