package compact_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/internal/kube/compact"
)

// packed is a ConfigMap that says one word.
type packed struct{ namespace, name, version, word string }

func (p *packed) Unpack() client.Object { return configMap(p.namespace, p.name, p.version, p.word) }

func (p *packed) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: p.namespace, Name: p.name, ResourceVersion: p.version}
}

func configMap(namespace, name, version, word string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, ResourceVersion: version}, Data: map[string]string{"word": word},
	}
}

// pack leaves alone what says something long.
func pack(o client.Object) compact.Packed {
	cm := o.(*corev1.ConfigMap)
	if word := cm.Data["word"]; len(word) < 4 {
		return &packed{cm.Namespace, cm.Name, cm.ResourceVersion, word}
	}
	return nil
}

// source of ConfigMaps.
type source struct {
	listed []corev1.ConfigMap
	events *watch.FakeWatcher
}

func (s *source) informer(form func(cache.ListerWatcher, runtime.Object, cache.Indexers) cache.SharedIndexInformer) cache.SharedIndexInformer {
	lw := &cache.ListWatch{
		ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
			list := &corev1.ConfigMapList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}
			for _, o := range s.listed {
				list.Items = append(list.Items, *o.DeepCopy())
			}
			return list, nil
		},
		WatchFuncWithContext: func(context.Context, metav1.ListOptions) (watch.Interface, error) { return s.events, nil },
	}
	return form(cache.ToListWatcherWithWatchListSemantics(lw, noWatchList{}), &corev1.ConfigMap{}, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
}

type noWatchList struct{}

func (noWatchList) IsWatchListSemanticsUnSupported() bool { return true }

// Whatever happens, an informer that packs shows the same as one that does not.
func TestShowsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SampledFrom([]string{"", "a", "b", "longer", "longest"})
		names := rapid.SampledFrom([]string{"x", "y", "z"})
		namespaces := rapid.SampledFrom([]string{"one", "two"})
		version := 1
		draw := func() corev1.ConfigMap {
			version++
			return *configMap(namespaces.Draw(t, "namespace"), names.Draw(t, "name"), fmt.Sprint(version), words.Draw(t, "word"))
		}
		var listed []corev1.ConfigMap
		for range rapid.IntRange(0, 4).Draw(t, "listed") {
			o := draw()
			if !slices.ContainsFunc(listed, func(have corev1.ConfigMap) bool { return have.Name == o.Name && have.Namespace == o.Namespace }) {
				listed = append(listed, o)
			}
		}
		type event struct {
			kind watch.EventType
			corev1.ConfigMap
		}
		var events []event
		exists := map[string]bool{}
		for _, o := range listed {
			exists[o.Namespace+"/"+o.Name] = true
		}
		for range rapid.IntRange(0, 8).Draw(t, "events") {
			e := event{watch.Added, draw()}
			key := e.Namespace + "/" + e.Name
			switch {
			case exists[key] && rapid.Bool().Draw(t, "delete"):
				e.kind = watch.Deleted
			case exists[key]:
				e.kind = watch.Modified
			}
			exists[key] = e.kind != watch.Deleted
			events = append(events, e)
		}

		run := func(form func(cache.ListerWatcher, runtime.Object, cache.Indexers) cache.SharedIndexInformer) (seen []string, shown map[string]any) {
			s := &source{listed, watch.NewFakeWithChanSize(len(events), false)}
			i := s.informer(form)
			must(t, i.SetTransform(func(obj any) (any, error) {
				if o, ok := obj.(*corev1.ConfigMap); ok && o.Data["word"] == "longest" {
					return configMap(o.Namespace, o.Name, o.ResourceVersion, "b"), nil
				}
				return obj, nil
			}))
			must(t, i.AddIndexers(cache.Indexers{"word": func(obj any) ([]string, error) { return []string{obj.(*corev1.ConfigMap).Data["word"]}, nil }}))
			done := make(chan struct{})
			tell := func(what string, obj any) {
				if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
					obj = gone.Obj
				}
				o := obj.(*corev1.ConfigMap)
				seen = append(seen, fmt.Sprintf("%s %s/%s %s %v", what, o.Namespace, o.Name, o.ResourceVersion, o.Data))
				if len(seen) == len(listed)+len(events) {
					close(done)
				}
			}
			if len(listed)+len(events) == 0 {
				close(done)
			}
			_, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{
				AddFunc:    func(obj any) { tell("add", obj) },
				UpdateFunc: func(was, is any) { tell("update "+was.(*corev1.ConfigMap).ResourceVersion+" to", is) },
				DeleteFunc: func(obj any) { tell("delete", obj) },
			})
			must(t, err)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			go i.RunWithContext(ctx)
			<-i.HasSyncedChecker().Done()
			for _, e := range events {
				s.events.Action(e.kind, e.DeepCopy())
			}
			<-done
			slices.Sort(seen[:len(listed)])
			x := i.GetIndexer()
			shown = map[string]any{"keys": slices.Sorted(slices.Values(x.ListKeys())), "all": sorted(x.List()), "stored": sorted(i.GetStore().List())}
			for _, word := range []string{"", "a", "b", "longer", "longest"} {
				byWord, err := x.ByIndex("word", word)
				must(t, err)
				like, err := x.Index("word", configMap("", "", "", word))
				must(t, err)
				shown["word "+word] = [][]string{sorted(byWord), sorted(like)}
			}
			for _, namespace := range []string{"one", "two"} {
				in, err := x.ByIndex(cache.NamespaceIndex, namespace)
				must(t, err)
				shown["in "+namespace] = sorted(in)
				for _, name := range []string{"x", "y", "z"} {
					byKey, exists, err := x.GetByKey(namespace + "/" + name)
					must(t, err)
					same, _, err := x.Get(configMap(namespace, name, "", ""))
					must(t, err)
					shown[namespace+"/"+name] = []any{byKey, same, exists}
				}
			}
			return seen, shown
		}
		seen, shown := run(func(lw cache.ListerWatcher, kind runtime.Object, indexers cache.Indexers) cache.SharedIndexInformer {
			return compact.NewSet(pack).NewInformer(lw, kind, 0, indexers)
		})
		wantSeen, wantShown := run(func(lw cache.ListerWatcher, kind runtime.Object, indexers cache.Indexers) cache.SharedIndexInformer {
			return cache.NewSharedIndexInformer(lw, kind, 0, indexers)
		})
		if !slices.Equal(seen, wantSeen) {
			t.Fatalf("handlers are told\n%s\nwant\n%s", strings.Join(seen, "\n"), strings.Join(wantSeen, "\n"))
		}
		for _, key := range slices.Sorted(maps.Keys(wantShown)) {
			if !equality.Semantic.DeepEqual(shown[key], wantShown[key]) {
				t.Fatalf("%s: %v, want %v", key, shown[key], wantShown[key])
			}
		}
	})
}

// What is put into the indexer of an informer that packs is packed.
func TestPacks(t *testing.T) {
	calls := 0
	s := &source{}
	set := compact.NewSet(func(o client.Object) compact.Packed { calls++; return pack(o) })
	i := s.informer(func(lw cache.ListerWatcher, kind runtime.Object, indexers cache.Indexers) cache.SharedIndexInformer {
		return set.NewInformer(lw, kind, 0, indexers)
	})
	x := i.GetIndexer()
	must(t, x.Add(configMap("one", "x", "1", "a")))
	must(t, x.Update(configMap("one", "x", "2", "b")))
	must(t, x.Replace([]any{configMap("one", "y", "1", "a")}, "3"))
	must(t, x.AddIndexers(cache.Indexers{"word": func(obj any) ([]string, error) { return []string{obj.(*corev1.ConfigMap).Data["word"]}, nil }}))
	if calls != 3 || !slices.Equal(x.ListKeys(), []string{"one/y"}) {
		t.Errorf("%d calls, %v", calls, x.ListKeys())
	}
	first, _, err := x.GetByKey("one/y")
	must(t, err)
	second, _, err := x.GetByKey("one/y")
	must(t, err)
	if first == second {
		t.Error("an object is shown twice that nobody has copied")
	}
}

// Each yields what all informers of a kind have.
func TestEach(t *testing.T) {
	set := compact.NewSet(pack)
	for _, namespace := range []string{"one", "two"} {
		i := (&source{}).informer(func(lw cache.ListerWatcher, kind runtime.Object, indexers cache.Indexers) cache.SharedIndexInformer {
			return set.NewInformer(lw, kind, 0, indexers)
		})
		must(t, i.GetIndexer().Add(configMap(namespace, "x", "1", "a")))
		must(t, i.GetIndexer().Add(configMap(namespace, "y", "2", "longer")))
	}
	for namespace, want := range map[string][]string{
		"":    {"one/x 1 map[word:a]", "one/y 2 map[word:longer]", "two/x 1 map[word:a]", "two/y 2 map[word:longer]"},
		"one": {"one/x 1 map[word:a]", "one/y 2 map[word:longer]"},
		"no":  nil,
	} {
		var got []any
		for o := range set.Each(&corev1.ConfigMap{}, namespace) {
			got = append(got, o)
		}
		if !slices.Equal(sorted(got), want) {
			t.Errorf("in %q: %v, want %v", namespace, sorted(got), want)
		}
	}
	for range set.Each(&corev1.ConfigMap{}, "") {
		break // and no further
	}
	for o := range set.Each(&corev1.Secret{}, "") {
		t.Errorf("there is %v", o)
	}
}

func sorted(list []any) (out []string) {
	for _, obj := range list {
		o := obj.(*corev1.ConfigMap)
		out = append(out, fmt.Sprintf("%s/%s %s %v", o.Namespace, o.Name, o.ResourceVersion, o.Data))
	}
	slices.Sort(out)
	return out
}

func must(t rapid.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
