package discovery

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/istio"
	"github.com/isthmus-mesh/isthmus/internal/istio/istiotest"
)

// BenchmarkDiscoveryOneChange measures what one changed Service and one event of a pod behind it cost an agent, from its
// caches to the request to the hub, among 100 and among 10,000 Services of one namespace. The cost must not depend on
// their number.
func BenchmarkDiscoveryOneChange(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			change := oneChange(b, n)
			b.ReportAllocs()
			for b.Loop() {
				change()
			}
		})
	}
}

// TestOneChangeCostsAsMuchAmongMany holds the benchmark's claim, counted in allocations.
func TestOneChangeCostsAsMuchAmongMany(t *testing.T) {
	few, many := testing.AllocsPerRun(100, oneChange(t, 100)), testing.AllocsPerRun(100, oneChange(t, 5_000))
	t.Logf("%v and %v allocations", few, many)
	if many > few*1.1 {
		t.Errorf("one change costs %v allocations among 100 services and %v among 5,000", few, many)
	}
}

// oneChange returns a function that changes one of n Services, of which each has a Deployment and two pods, and has it
// reconciled.
func oneChange(t testing.TB, n int) func() {
	t.Helper()
	ctx := t.Context()
	objects := map[schema.GroupVersionKind][]runtime.Object{}
	add := func(kind string, gv schema.GroupVersion, o client.Object) {
		o.SetResourceVersion("1")
		objects[gv.WithKind(kind)] = append(objects[gv.WithKind(kind)], o)
	}
	add("Namespace", corev1.SchemeGroupVersion, istiotest.Namespace("shop", map[string]string{"istio-injection": "enabled"}))
	for i := range n {
		name := fmt.Sprintf("app-%d", i)
		labels := map[string]string{"app.kubernetes.io/part-of": "shop", "app": name}
		d := istiotest.Deployment("shop", name, labels, name)
		add("Service", corev1.SchemeGroupVersion, istiotest.Service("shop", name, labels))
		add("Deployment", appsv1.SchemeGroupVersion, d)
		for _, suffix := range []string{"1", "2"} {
			add("Pod", corev1.SchemeGroupVersion, istiotest.Injected(istiotest.Pod(d, "aaa", suffix), "default", true))
		}
	}
	local, informers := filled(t, objects)
	hub := &memory{have: map[client.ObjectKey]*v1alpha1.Destination{}}
	d := &discovery{cluster: "east", namespace: "isthmus-east", local: local, hub: hub}
	d.view.Store(&view{Installation: istio.Read(istiotest.Objects(istiotest.Manifest("sidecar")...))})
	r := &destinations{d}

	service := istiotest.Service("shop", "app-7", map[string]string{"app.kubernetes.io/part-of": "shop", "app": "app-7"})
	pod := map[string]string{"app.kubernetes.io/part-of": "shop", "app": "app-7", "pod-template-hash": "aaa"}
	indexer := informers[corev1.SchemeGroupVersion.WithKind("Service")].GetIndexer()
	round := 0
	return func() {
		round++
		s := service.DeepCopy()
		s.Labels = map[string]string{"round": fmt.Sprint(round % 2)}
		if err := indexer.Update(s); err != nil {
			t.Fatal(err)
		}
		before := hub.writes
		for _, req := range append(d.servicesFor(ctx, "shop", pod), request{Namespace: "shop", Name: "app-7"}) {
			if _, err := r.Reconcile(ctx, req); err != nil {
				t.Fatal(err)
			}
		}
		if hub.writes != before+1 {
			t.Fatalf("%d writes", hub.writes-before)
		}
	}
}

// filled makes the agent's cache with its indexes, from objects instead of an API server.
func filled(t testing.TB, objects map[schema.GroupVersionKind][]runtime.Object) (cache.Cache, map[schema.GroupVersionKind]toolscache.SharedIndexInformer) {
	t.Helper()
	mapper := meta.NewDefaultRESTMapper(nil)
	for _, kind := range []string{"Service", "Pod"} {
		mapper.Add(corev1.SchemeGroupVersion.WithKind(kind), meta.RESTScopeNamespace)
	}
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Namespace"), meta.RESTScopeRoot)
	for _, kind := range []string{"Deployment", "StatefulSet", "DaemonSet"} {
		mapper.Add(appsv1.SchemeGroupVersion.WithKind(kind), meta.RESTScopeNamespace)
	}
	informers := map[schema.GroupVersionKind]toolscache.SharedIndexInformer{}
	c, err := cache.New(&rest.Config{}, cache.Options{
		Scheme: scheme.Scheme, Mapper: mapper, HTTPClient: http.DefaultClient,
		NewInformer: func(_ toolscache.ListerWatcher, kind runtime.Object, resync time.Duration, indexers toolscache.Indexers) toolscache.SharedIndexInformer {
			gvks, _, err := scheme.Scheme.ObjectKinds(kind)
			if err != nil {
				t.Fatal(err)
			}
			lw := &toolscache.ListWatch{
				ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
					list := &metav1.List{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}
					for _, o := range objects[gvks[0]] {
						list.Items = append(list.Items, runtime.RawExtension{Object: o})
					}
					return list, nil
				},
				WatchFuncWithContext: func(context.Context, metav1.ListOptions) (apiwatch.Interface, error) { return apiwatch.NewFake(), nil },
			}
			i := toolscache.NewSharedIndexInformer(toolscache.ToListWatcherWithWatchListSemantics(lw, noWatchList{}), kind, resync, indexers)
			informers[gvks[0]] = i
			return i
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := addIndexes(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if _, err := c.GetInformer(t.Context(), &corev1.Namespace{}, cache.BlockUntilSynced(false)); err != nil {
		t.Fatal(err)
	}
	go c.Start(t.Context()) //nolint:errcheck // ends with the test
	if !c.WaitForCacheSync(t.Context()) {
		t.Fatal("the cache does not fill")
	}
	return c, informers
}

// noWatchList says that a source of objects can be listed only.
type noWatchList struct{}

func (noWatchList) IsWatchListSemanticsUnSupported() bool { return true }

// memory is a hub that holds Destinations.
type memory struct {
	client.Client
	have   map[client.ObjectKey]*v1alpha1.Destination
	writes int
}

func (m *memory) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	d, ok := m.have[key]
	if !ok {
		return apierrors.NewNotFound(v1alpha1.GroupVersion.WithResource("destinations").GroupResource(), key.Name)
	}
	d.DeepCopyInto(obj.(*v1alpha1.Destination))
	return nil
}

func (m *memory) Create(_ context.Context, obj client.Object, _ ...client.CreateOption) error {
	m.writes++
	m.have[client.ObjectKeyFromObject(obj)] = obj.(*v1alpha1.Destination).DeepCopy()
	return nil
}

func (m *memory) Patch(_ context.Context, obj client.Object, patch client.Patch, _ ...client.PatchOption) error {
	if _, err := patch.Data(obj); err != nil {
		return err
	}
	m.writes++
	m.have[client.ObjectKeyFromObject(obj)] = obj.(*v1alpha1.Destination).DeepCopy()
	return nil
}

func (m *memory) GroupVersionKindFor(runtime.Object) (schema.GroupVersionKind, error) {
	return v1alpha1.GroupVersion.WithKind("Destination"), nil
}
