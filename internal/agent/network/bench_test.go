package network

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
	"time"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/cluster"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/kube/compact"
	"github.com/isthmus-mesh/isthmus/internal/kube/hublink"
	"github.com/isthmus-mesh/isthmus/internal/policy"
)

// BenchmarkNetworkOneChange measures what one changed Destination costs an agent, from its caches to the requests to the API
// server and back to the caches: "import" is a Destination of another cluster, "own" one of this cluster, of which ports and
// identities change; "new" is one of this cluster that comes or goes, which the gateways have to be told of, "new/named" where
// they are told each name. But for that one the cost must not depend on the number of destinations, nor on that of meshes.
func BenchmarkNetworkOneChange(b *testing.B) {
	for _, kind := range []struct {
		name   string
		change func(testing.TB, int, int) func()
	}{
		{"import", oneImport}, {"own", oneOwn}, {"new", oneNew}, {"new/named", oneNewNamed},
		{"limited/import", oneLimitedImport}, {"limited/new", oneLimitedNew},
	} {
		for _, meshes := range []int{2, 5, 10} {
			for _, n := range []int{100, 1000, 10_000} {
				b.Run(fmt.Sprintf("%s/meshes=%d/destinations=%d", kind.name, meshes, n), func(b *testing.B) {
					change := kind.change(b, n, meshes)
					b.ReportAllocs()
					for b.Loop() {
						change()
					}
				})
			}
		}
	}
}

// TestOneChangeCostsAsMuchAmongMany holds the benchmark's claim, counted in allocations.
func TestOneChangeCostsAsMuchAmongMany(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(testing.TB, int, int) func()
		few    int // meshes
	}{
		{"import", oneImport, 2}, {"own", oneOwn, 2}, {"new", oneNew, 2},
		{"limited/import", oneLimitedImport, 2}, {"limited/new", oneLimitedNew, 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			few := testing.AllocsPerRun(50, tc.change(t, 100, tc.few))
			many := testing.AllocsPerRun(50, tc.change(t, 2000, 10))
			t.Logf("%v and %v allocations", few, many)
			if many > few*1.1 {
				t.Errorf("one change costs %v allocations among 100 destinations of %d meshes and %v among 2,000 of 10", few, tc.few, many)
			}
		})
	}
}

// TestMemoryOfImports bounds what an agent keeps in memory of each destination that it imports: Destination, ServiceEntry,
// DestinationRule, and what finds them.
func TestMemoryOfImports(t *testing.T) {
	const n = 2000
	f := newFleet(t, 2, n, func(int) (int, string) { return 1, "shop" }, everyNamespace())
	f.settle(f.n.reconcileImport)
	f.hub.server.objects, f.istio.server.objects, f.all, f.one = nil, nil, nil, nil
	last := liveHeap()
	each := func() int64 {
		goruntime.KeepAlive(f)
		was := last
		last = liveHeap()
		return (was - last) / n
	}
	clear := func(s *side) {
		for _, i := range s.informers {
			if err := i.GetIndexer().Replace(nil, ""); err != nil {
				t.Fatal(err)
			}
		}
	}
	clear(f.hub)
	destinations := each()
	clear(f.istio)
	objects := each()
	f.n.imports, f.n.addresses, f.n.progress = newImportIndex(), newAddresses(DefaultAddressRange, func([]string) {}), newProgress(func() {})
	f.n.reports = newReports(nil)
	f.n.turns = turns{}
	indexes := each()
	t.Logf("bytes for each import: %d of its Destination, %d of Istio's objects, %d of indexes", destinations, objects, indexes)
	if destinations > 900 || objects > 2000 || indexes > 600 {
		t.Error("that is too much: an agent with 10,000 imports would need more than 128 MiB")
	}
}

func liveHeap() int64 {
	for range 3 {
		goruntime.GC()
	}
	var m goruntime.MemStats
	goruntime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// oneImport returns a function that changes one of n Destinations that are imported from the other meshes.
func oneImport(t testing.TB, n, meshes int) func() {
	f := newFleet(t, meshes, n, func(i int) (int, string) { return 1 + i%(meshes-1), "shop" }, everyNamespace())
	f.settle(f.n.reconcileImport)
	round := 1
	return func() {
		round++
		f.reconcile(f.n.reconcileImport, f.change(round), 2)
	}
}

// oneLimitedImport is oneImport under limited trust, where another protocol of a port is told to workloads alone.
func oneLimitedImport(t testing.TB, n, meshes int) func() {
	f := newFleet(t, meshes, n, func(i int) (int, string) { return 1 + i%(meshes-1), "shop" }, everyNamespace(), limited)
	f.settle(f.n.reconcileImport)
	round := 1
	return func() {
		round++
		f.one.Spec.KubeService.Ports[0].AppProtocol = []string{"grpc", "tcp"}[round%2]
		f.reconcile(f.n.reconcileImport, f.change(1), 1)
	}
}

// oneLimitedNew returns a function that has one of n Destinations of this cluster come or go under limited trust. Written, or deleted,
// are its Gateway, the VirtualServices of its two ports, and label and status of the Destination.
func oneLimitedNew(t testing.TB, n, meshes int) func() {
	f := newFleet(t, meshes, n, func(int) (int, string) { return 0, "shop" }, []v1alpha1.DestinationSelector{
		{KubeServiceMatcher: &v1alpha1.KubeServiceMatcher{Labels: map[string]string{"tier": "backend"}}},
	}, limited)
	f.settle(f.n.reconcileOwn)
	round := 0
	return func() {
		round++
		f.one.Spec.KubeService.Labels = map[string]string{"tier": []string{"backend", "none"}[round%2]}
		f.reconcile(f.n.reconcileOwn, f.change(1), 5)
	}
}

// limited has the members know each other by gateways alone, as they report it.
func limited(vm *v1alpha1.VirtualMesh, members []v1alpha1.Mesh) {
	vm.Status.Accepted.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Limited: &v1alpha1.LimitedTrust{}}
	for i := range members {
		m := &members[i]
		for role, class := range map[string]v1alpha1.GatewayClass{
			v1alpha1.GatewayRoleIngress: v1alpha1.GatewayLimitedIngress, v1alpha1.GatewayRoleEgress: v1alpha1.GatewayLimitedEgress,
		} {
			name, labels := "isthmus-"+role, map[string]string{v1alpha1.LabelGateway: role}
			m.Spec.Istio.Gateways = append(m.Spec.Istio.Gateways, v1alpha1.IngressGateway{
				Name: name, Namespace: v1alpha1.GatewaysNamespace, Class: class, Labels: labels, Selector: labels,
				Identities: []string{"spiffe://" + m.Spec.Istio.TrustDomain + "/ns/" + v1alpha1.GatewaysNamespace + "/sa/" + name},
				Addresses:  []string{fmt.Sprintf("203.0.113.%d", 100+i)},
				Ports:      []v1alpha1.GatewayPort{{Name: "tls", Port: 15443, ExternalPort: 15443, TargetPort: 15443}},
			})
		}
		m.Status.GatewayCertificate = &v1alpha1.MeshGatewayCertificate{VirtualMesh: kube.Qualified(vm.Name, vm.Namespace), Signer: "root", Roots: []string{"root"}}
	}
}

// oneOwn returns a function that changes one of n Destinations of this cluster.
func oneOwn(t testing.TB, n, meshes int) func() {
	f := newFleet(t, meshes, n, func(int) (int, string) { return 0, "shop" }, everyNamespace())
	f.settle(f.n.reconcileOwn)
	round := 1
	return func() {
		round++
		f.reconcile(f.n.reconcileOwn, f.change(round), 1)
	}
}

// oneNew returns a function that has one of n Destinations of this cluster come or go; of the others the gateways admit the
// whole namespace.
func oneNew(t testing.TB, n, meshes int) func() {
	return comeAndGo(t, n, meshes, &v1alpha1.KubeServiceMatcher{Namespaces: []string{"shop"}})
}

// oneNewNamed is oneNew where the gateways admit each by its name.
func oneNewNamed(t testing.TB, n, meshes int) func() {
	return comeAndGo(t, n, meshes, &v1alpha1.KubeServiceMatcher{Labels: map[string]string{"tier": "backend"}})
}

// comeAndGo returns a function that changes the label by which one Destination, of a namespace of its own, is selected. The
// others are selected by rest. Written are status and label of the Destination, and the Gateway.
func comeAndGo(t testing.TB, n, meshes int, rest *v1alpha1.KubeServiceMatcher) func() {
	place := func(i int) (int, string) {
		if i == changed {
			return 0, "extra"
		}
		return 0, "shop"
	}
	f := newFleet(t, meshes, n, place, []v1alpha1.DestinationSelector{
		{KubeServiceMatcher: rest}, {KubeServiceMatcher: &v1alpha1.KubeServiceMatcher{Labels: map[string]string{"team": "shop"}}},
	})
	f.one.Spec.KubeService.Labels = map[string]string{"team": "shop"}
	f.settle(f.n.reconcileOwn)
	f.one.Spec.KubeService.Labels = map[string]string{"team": "none"}
	f.carryOut(f.n.reconcileOwn, f.change(0))
	f.carryOut(f.n.reconcileMesh, f.mesh)
	round := 0
	return func() {
		round++
		f.one.Spec.KubeService.Labels = map[string]string{"team": []string{"none", "shop"}[round%2]}
		f.reconcile(f.n.reconcileOwn, f.change(round), 2)
		f.reconcile(f.n.reconcileMesh, f.mesh, 1)
	}
}

func everyNamespace() []v1alpha1.DestinationSelector {
	return []v1alpha1.DestinationSelector{{KubeServiceMatcher: &v1alpha1.KubeServiceMatcher{}}}
}

// fleet is the network part of the agent of cluster c0, a member of a virtual mesh of several meshes. Its caches are real and
// filled from objects; behind its clients are API servers in memory.
type fleet struct {
	t          testing.TB
	n          *network
	hub, istio *side
	all        []*v1alpha1.Destination
	one        *v1alpha1.Destination // that is changed
	mesh       ctrl.Request          // the own one
}

// side is a cluster as this package knows one.
type side struct {
	cluster.Cluster
	scheme    *runtime.Scheme
	mapper    *meta.DefaultRESTMapper
	server    *server
	held      *compact.Set
	cache     cache.Cache
	client    client.Client
	transform toolscache.TransformFunc
	informers map[schema.GroupVersionKind]toolscache.SharedIndexInformer
}

func (s *side) GetCache() cache.Cache       { return s.cache }
func (s *side) GetClient() client.Client    { return s.client }
func (s *side) GetAPIReader() client.Reader { return s.client }

// changed is the number of the Destination that is changed.
const changed = 7

// newFleet makes a fleet with n Destinations, each in the cluster and the namespace that place says, and with options.
func newFleet(t testing.TB, meshes, n int, place func(int) (cluster int, namespace string), selectors []v1alpha1.DestinationSelector,
	options ...func(*v1alpha1.VirtualMesh, []v1alpha1.Mesh),
) *fleet {
	t.Helper()
	f := &fleet{t: t}
	vm := v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "vm"}}
	vm.Status.Accepted = &v1alpha1.AcceptedVirtualMesh{Generation: 1}
	vm.Status.Accepted.Spec.Federation = &v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{{DestinationSelectors: selectors}}}
	var members []v1alpha1.Mesh
	for i := range meshes {
		m := meshOf(i)
		members = append(members, *m)
		vm.Status.Accepted.Spec.Meshes = append(vm.Status.Accepted.Spec.Meshes, v1alpha1.ObjectRef{Name: m.Name, Namespace: m.Namespace})
	}
	for _, o := range options {
		o(&vm, members)
	}
	for i := range n {
		cluster, namespace := place(i)
		f.all = append(f.all, destinationOf(cluster, namespace, fmt.Sprintf("app-%d", i)))
	}
	f.one = f.all[changed]
	f.mesh.NamespacedName = client.ObjectKeyFromObject(&members[0])

	f.istio = newSide(t, stub, pack, networkingv1.AddToScheme, securityv1.AddToScheme)
	f.hub = newSide(t, stripForeign, hublink.Pack, v1alpha1.AddToScheme)
	if err := addIndexes(t.Context(), f.istio.cache); err != nil {
		t.Fatal(err)
	}
	f.istio.start(t, false, kindsOfIstio()...)
	f.hub.start(t, true, Kinds()...)
	f.hub.put(t, &members[0])
	for _, d := range f.all {
		f.hub.put(t, d)
	}
	f.n = networkOf(f.istio, f.istio.held, f.istio.client, f.istio.client, f.hub, Options{
		Cluster: "c0", AddressRange: DefaultAddressRange, MaxImports: DefaultMaxImports, Now: time.Now,
	})
	f.n.destinations = func(namespace string) iter.Seq[*v1alpha1.Destination] {
		return func(yield func(*v1alpha1.Destination) bool) {
			for o := range f.hub.held.Each(&v1alpha1.Destination{}, namespace) {
				if !yield(o.(*v1alpha1.Destination)) {
					return
				}
			}
		}
	}
	f.n.view.Store(newView(f.n.namespace, []v1alpha1.VirtualMesh{vm}, members, []acceptedPolicy{{
		policy.Accepted{Name: "shop.isthmus-system", Spec: &v1alpha1.AccessPolicySpec{}}, 1,
	}}))
	return f
}

// stripForeign is how the hub's cache shows an object.
func stripForeign(obj any) (any, error) {
	if obj.(client.Object).GetNamespace() == "isthmus-c0" {
		return obj, nil
	}
	return hublink.StripForeign(obj)
}

func meshOf(i int) *v1alpha1.Mesh {
	c := fmt.Sprintf("c%d", i)
	m := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-" + c, Name: "istiod-istio-system-" + c, UID: types.UID(c)}}
	labels := map[string]string{"istio": "eastwestgateway"}
	m.Spec = v1alpha1.MeshSpec{Cluster: c, Istio: v1alpha1.IstioMesh{
		RootNamespace: "istio-system", TrustDomain: c + ".example", ClusterDomain: "cluster.local",
		Gateways: []v1alpha1.IngressGateway{{
			Name: "istio-eastwestgateway", Namespace: "istio-system", Class: v1alpha1.GatewayEastWest, Labels: labels, Selector: labels,
			Addresses: []string{fmt.Sprintf("203.0.113.%d", i+1)},
			Ports:     []v1alpha1.GatewayPort{{Name: "tls", Port: 15443, ExternalPort: 15443, TargetPort: 15443}},
		}},
	}}
	return m
}

func destinationOf(cluster int, namespace, name string) *v1alpha1.Destination {
	m := meshOf(cluster)
	d := &v1alpha1.Destination{ObjectMeta: metav1.ObjectMeta{
		Namespace: m.Namespace, Name: name + "." + namespace, UID: types.UID(name), Generation: 1, ResourceVersion: "1",
		Labels: map[string]string{v1alpha1.LabelManagedBy: "isthmus-agent-discovery", v1alpha1.LabelFederated: "true"},
	}}
	d.Spec = v1alpha1.DestinationSpec{
		Cluster: m.Spec.Cluster, Mesh: m.Name, Identities: []string{"spiffe://" + m.Spec.Istio.TrustDomain + "/ns/" + namespace + "/sa/" + name},
		KubeService: v1alpha1.KubeService{
			Name: name, Namespace: namespace, Labels: map[string]string{"app": name, "tier": "backend"}, Selector: map[string]string{"app": name}, Type: "ClusterIP",
			Ports: []v1alpha1.KubeServicePort{{Name: "http", Port: 9080, Protocol: "TCP"}, {Name: "grpc", Port: 9090, Protocol: "TCP"}},
		},
	}
	return d
}

// change changes the port and the identity of the one Destination, in the hub and in the cache.
func (f *fleet) change(round int) ctrl.Request {
	f.t.Helper()
	d := &v1alpha1.Destination{}
	if err := f.hub.cache.Get(f.t.Context(), client.ObjectKeyFromObject(f.one), d); err != nil {
		f.t.Fatal(err)
	}
	f.one.Spec.DeepCopyInto(&d.Spec)
	d.Generation++
	d.Spec.KubeService.Ports[1].Port = int32(9090 + round%2)
	d.Spec.Identities[0] += fmt.Sprint(round % 2)
	f.hub.put(f.t, d)
	return ctrl.Request{NamespacedName: client.ObjectKeyFromObject(d)}
}

// settle brings all Destinations, and the mesh, to where nothing has to be written any more.
func (f *fleet) settle(r func(context.Context, ctrl.Request) (ctrl.Result, error)) {
	f.t.Helper()
	f.hub.put(f.t, f.one)
	f.carryOut(f.n.reconcileMesh, f.mesh)
	for _, d := range f.all {
		f.carryOut(r, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(d)})
	}
	f.carryOut(f.n.reconcileMesh, f.mesh)
	for round := range 2 { // what was created is changed in another way the first time
		f.carryOut(r, f.change(round))
		f.carryOut(f.n.reconcileMesh, f.mesh)
	}
}

// reconcile has a request carried out, and again with what comes back, until nothing is written, which must take so many writes.
func (f *fleet) reconcile(r func(context.Context, ctrl.Request) (ctrl.Result, error), req ctrl.Request, writes int) {
	f.t.Helper()
	got := 0
	for n := f.carryOut(r, req); n > 0; n = f.carryOut(r, req) {
		got += n
	}
	if got != writes {
		f.t.Fatalf("%d writes for %s, want %d", got, req, writes)
	}
}

// carryOut carries out a request, brings into the caches what was written, and says how many writes there were.
func (f *fleet) carryOut(r func(context.Context, ctrl.Request) (ctrl.Result, error), req ctrl.Request) (writes int) {
	f.t.Helper()
	if _, err := r(f.t.Context(), req); err != nil {
		f.t.Fatal(err)
	}
	for _, s := range []*side{f.hub, f.istio} {
		for _, path := range s.server.written {
			writes++
			s.show(f.t, path)
		}
		s.server.written = s.server.written[:0]
	}
	return writes
}

// newSide makes a cluster of which the given kinds are known.
func newSide(t testing.TB, transform toolscache.TransformFunc, pack func(client.Object) compact.Packed, kinds ...func(*runtime.Scheme) error) *side {
	t.Helper()
	s := &side{
		scheme: runtime.NewScheme(), mapper: meta.NewDefaultRESTMapper(nil), transform: transform,
		held: compact.NewSet(pack), server: &server{objects: map[string]map[string]any{}}, informers: map[schema.GroupVersionKind]toolscache.SharedIndexInformer{},
	}
	for _, add := range kinds {
		if err := add(s.scheme); err != nil {
			t.Fatal(err)
		}
	}
	for gvk := range s.scheme.AllKnownTypes() {
		s.mapper.Add(gvk, meta.RESTScopeNamespace)
	}
	var err error
	s.cache, err = cache.New(&rest.Config{}, cache.Options{
		Scheme: s.scheme, Mapper: s.mapper, HTTPClient: http.DefaultClient,
		NewInformer: func(_ toolscache.ListerWatcher, kind runtime.Object, resync time.Duration, indexers toolscache.Indexers) toolscache.SharedIndexInformer {
			gvk, err := apiutil.GVKForObject(kind, s.scheme)
			if err != nil {
				t.Fatal(err)
			}
			lw := &toolscache.ListWatch{
				ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
					return &metav1.List{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}, nil
				},
				WatchFuncWithContext: func(context.Context, metav1.ListOptions) (apiwatch.Interface, error) { return apiwatch.NewFake(), nil },
			}
			s.informers[gvk] = s.held.NewInformer(toolscache.ToListWatcherWithWatchListSemantics(lw, noWatchList{}), kind, resync, indexers)
			return s.informers[gvk]
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// noWatchList says that a source of objects can be listed only.
type noWatchList struct{}

func (noWatchList) IsWatchListSemanticsUnSupported() bool { return true }

// start starts the cache, with informers of the given kinds, and makes a client that reads from it, or past it.
func (s *side) start(t testing.TB, cached bool, kinds ...client.Object) {
	t.Helper()
	for _, kind := range kinds {
		if _, err := s.cache.GetInformer(t.Context(), kind, cache.BlockUntilSynced(false)); err != nil {
			t.Fatal(err)
		}
	}
	go s.cache.Start(t.Context()) //nolint:errcheck // ends with the test
	if !s.cache.WaitForCacheSync(t.Context()) {
		t.Fatal("the cache does not start")
	}
	o := client.Options{Scheme: s.scheme, Mapper: s.mapper, HTTPClient: &http.Client{Transport: s.server}}
	if cached {
		o.Cache = &client.CacheOptions{Reader: s.cache}
	}
	var err error
	if s.client, err = client.New(&rest.Config{Host: "http://memory.invalid", QPS: -1}, o); err != nil {
		t.Fatal(err)
	}
}

// put has the API server hold an object, and the cache.
func (s *side) put(t testing.TB, o client.Object) {
	t.Helper()
	gvk, err := apiutil.GVKForObject(o, s.scheme)
	if err != nil {
		t.Fatal(err)
	}
	mapping, err := s.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		t.Fatal(err)
	}
	o.GetObjectKind().SetGroupVersionKind(gvk)
	path := fmt.Sprintf("/apis/%s/namespaces/%s/%s/%s", gvk.GroupVersion(), o.GetNamespace(), mapping.Resource.Resource, o.GetName())
	if s.server.objects[path], err = runtime.DefaultUnstructuredConverter.ToUnstructured(o); err != nil {
		t.Fatal(err)
	}
	s.show(t, path)
}

// show has the cache hold what the API server has.
func (s *side) show(t testing.TB, path string) {
	t.Helper()
	if s.server.objects[path] == nil {
		parts := strings.Split(path, "/") // /apis/GROUP/VERSION/namespaces/NAMESPACE/RESOURCE/NAME
		gvk, err := s.mapper.KindFor(schema.GroupVersionResource{Group: parts[2], Version: parts[3], Resource: parts[6]})
		if err != nil {
			t.Fatal(err)
		}
		gone := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: parts[5], Name: parts[7]}}
		if err := s.informers[gvk].GetIndexer().Delete(gone); err != nil {
			t.Fatal(err)
		}
		return
	}
	data, err := json.Marshal(s.server.objects[path])
	if err != nil {
		t.Fatal(err)
	}
	var kind metav1.TypeMeta
	if err := json.Unmarshal(data, &kind); err != nil {
		t.Fatal(err)
	}
	o, err := s.scheme.New(kind.GroupVersionKind())
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, o); err != nil {
		t.Fatal(err)
	}
	shown, err := s.transform(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.informers[kind.GroupVersionKind()].GetIndexer().Update(shown); err != nil {
		t.Fatal(err)
	}
}

// server is an API server in memory: it does of POST, DELETE, server-side apply and merge patch what is needed here.
type server struct {
	objects map[string]map[string]any // by path
	written []string                  // paths
	version int
}

func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	path, ofStatus := strings.CutSuffix(r.URL.Path, "/status")
	code := http.StatusOK
	var answer any
	switch r.Method {
	case http.MethodGet:
		if o, ok := s.objects[path]; ok {
			answer = o
		} else {
			code, answer = http.StatusNotFound, apierrors.NewNotFound(schema.GroupResource{}, path).Status()
		}
	case http.MethodDelete:
		delete(s.objects, path)
		s.written = append(s.written, path)
		answer = metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess}
	default:
		var body any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			return nil, err
		}
		owner := r.URL.Query().Get("fieldManager")
		if r.Method == http.MethodPost {
			o := body.(map[string]any)
			path += "/" + metadata(o)["name"].(string)
			s.objects[path] = o
			metadata(o)["uid"] = fmt.Sprintf("%08x-0000-0000-0000-000000000000", s.version)
			own(o, owner, "Update", "", o)
		} else if err := s.patch(path, ofStatus, r.Header.Get("Content-Type"), owner, body); err != nil {
			return nil, err
		}
		s.version++
		metadata(s.objects[path])["resourceVersion"] = fmt.Sprint(s.version)
		s.written = append(s.written, path)
		answer = s.objects[path]
	}
	data, err := json.Marshal(answer)
	return &http.Response{
		StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(data)), Request: r,
	}, err
}

func (s *server) patch(path string, ofStatus bool, kind, owner string, body any) error {
	have, ok := s.objects[path]
	if !ok {
		return fmt.Errorf("there is no %s", path)
	}
	switch types.PatchType(kind) {
	case types.JSONPatchType: // of managedFields only
		for _, op := range body.([]any) {
			if op := op.(map[string]any); op["path"] == "/metadata/managedFields" {
				metadata(have)["managedFields"] = op["value"]
			}
		}
	case types.MergePatchType:
		merge(have, body.(map[string]any))
	case types.ApplyYAMLPatchType:
		said := body.(map[string]any)
		if ofStatus {
			have["status"] = said["status"]
			own(have, owner, "Apply", "status", map[string]any{"status": said["status"]})
			break
		}
		fields := metadata(have)["managedFields"]
		metadata(said)["managedFields"] = fields
		own(said, owner, "Apply", "", said)
		s.objects[path] = said
	default:
		return fmt.Errorf("%s is no patch that is needed here", kind)
	}
	return nil
}

func metadata(o map[string]any) map[string]any { return o["metadata"].(map[string]any) }

func merge(into, patch map[string]any) {
	for k, v := range patch {
		inner, isMap := v.(map[string]any)
		have, exists := into[k].(map[string]any)
		switch {
		case v == nil:
			delete(into, k)
		case isMap && exists:
			merge(have, inner)
		default:
			into[k] = v
		}
	}
}

// own has managedFields say that an owner owns what it said.
func own(o map[string]any, owner, operation, subresource string, said map[string]any) {
	fields := map[string]any{}
	for k, v := range said {
		switch k {
		case "apiVersion", "kind":
		case "metadata":
			fields["f:metadata"] = fieldsOf(map[string]any{"labels": v.(map[string]any)["labels"], "annotations": v.(map[string]any)["annotations"]})
		default:
			fields["f:"+k] = fieldsOf(v)
		}
	}
	all, _ := metadata(o)["managedFields"].([]any)
	all = slices.DeleteFunc(slices.Clone(all), func(e any) bool {
		m := e.(map[string]any)
		return m["manager"] == owner && m["operation"] == operation && (m["subresource"] == subresource || m["subresource"] == nil && subresource == "")
	})
	metadata(o)["managedFields"] = append(all, map[string]any{
		"manager": owner, "operation": operation, "subresource": subresource, "apiVersion": o["apiVersion"], "fieldsType": "FieldsV1", "fieldsV1": fields,
	})
}

func fieldsOf(v any) map[string]any {
	out := map[string]any{}
	if m, ok := v.(map[string]any); ok {
		for k, v := range m {
			if v != nil {
				out["f:"+k] = fieldsOf(v)
			}
		}
	}
	return out
}
