// Package compact has caches hold objects in another, smaller form. A cache that is made with its informers shows what it has
// always had: objects are packed when they come and unpacked whenever they are looked at, so nobody else has to know.
//
// It is for kinds of which there are very many, each of which is looked at seldom.
package compact

import (
	"iter"
	"reflect"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Packed is an object in its small form.
type Packed interface {
	// Unpack makes the object again, anew each time.
	Unpack() client.Object
	// GetObjectMeta returns metadata with at least namespace, name and resource version.
	GetObjectMeta() metav1.Object
}

// Set makes the informers of a cache, and knows them.
type Set struct {
	pack func(client.Object) Packed

	mu     sync.Mutex
	byKind map[reflect.Type][]*informer
}

// NewSet returns an empty set. pack returns nil for an object that is to be held as it is; it is asked after the cache's own
// transforms.
func NewSet(pack func(client.Object) Packed) *Set {
	return &Set{pack: pack, byKind: map[reflect.Type][]*informer{}}
}

// NewInformer is what a cache shall make its informers with. The indexers given to it, as that of namespaces, look at metadata
// only.
func (s *Set) NewInformer(lw cache.ListerWatcher, kind runtime.Object, resync time.Duration, indexers cache.Indexers) cache.SharedIndexInformer {
	i := &informer{cache.NewSharedIndexInformer(lw, kind, resync, indexers), s.pack}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byKind[reflect.TypeOf(kind)] = append(s.byKind[reflect.TypeOf(kind)], i)
	return i
}

// Each yields the objects of a kind that the cache holds of a namespace, or with "" of all, one after the other: a list of all
// of them would take the room that was won. They must not be changed. One that several informers have comes several times.
func (s *Set) Each(kind client.Object, namespace string) iter.Seq[client.Object] {
	return func(yield func(client.Object) bool) {
		s.mu.Lock()
		informers := slices.Clone(s.byKind[reflect.TypeOf(kind)])
		s.mu.Unlock()
		for _, i := range informers {
			list := i.SharedIndexInformer.GetIndexer().List
			if namespace != "" {
				list = func() []any {
					in, _ := i.SharedIndexInformer.GetIndexer().ByIndex(cache.NamespaceIndex, namespace) // every cache has this index
					return in
				}
			}
			for _, obj := range list() {
				if o, ok := unpacked(obj).(client.Object); ok && !yield(o) {
					return
				}
			}
		}
	}
}

type informer struct {
	cache.SharedIndexInformer
	pack func(client.Object) Packed
}

func (i *informer) packed(obj any) any {
	if o, ok := obj.(client.Object); ok {
		if p := i.pack(o); p != nil {
			return p
		}
	}
	return obj
}

func unpacked(obj any) any {
	switch o := obj.(type) {
	case Packed:
		return o.Unpack()
	case cache.DeletedFinalStateUnknown:
		o.Obj = unpacked(o.Obj)
		return o
	}
	return obj
}

// SetTransform implements cache.SharedIndexInformer.
func (i *informer) SetTransform(f cache.TransformFunc) error {
	return i.SharedIndexInformer.SetTransform(func(obj any) (any, error) {
		if f != nil {
			var err error
			if obj, err = f(obj); err != nil {
				return nil, err
			}
		}
		return i.packed(obj), nil
	})
}

// AddEventHandler implements cache.SharedIndexInformer.
func (i *informer) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	return i.SharedIndexInformer.AddEventHandler(handler{h})
}

// AddEventHandlerWithResyncPeriod implements cache.SharedIndexInformer.
func (i *informer) AddEventHandlerWithResyncPeriod(h cache.ResourceEventHandler, resync time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	return i.SharedIndexInformer.AddEventHandlerWithResyncPeriod(handler{h}, resync)
}

// AddEventHandlerWithOptions implements cache.SharedIndexInformer.
func (i *informer) AddEventHandlerWithOptions(h cache.ResourceEventHandler, o cache.HandlerOptions) (cache.ResourceEventHandlerRegistration, error) {
	return i.SharedIndexInformer.AddEventHandlerWithOptions(handler{h}, o)
}

// AddIndexers implements cache.SharedIndexInformer.
func (i *informer) AddIndexers(indexers cache.Indexers) error {
	return i.SharedIndexInformer.AddIndexers(unpacking(indexers))
}

// GetStore implements cache.SharedIndexInformer.
func (i *informer) GetStore() cache.Store { return i.GetIndexer() }

// GetIndexer implements cache.SharedIndexInformer.
func (i *informer) GetIndexer() cache.Indexer { return &indexer{i.SharedIndexInformer.GetIndexer(), i} }

func unpacking(indexers cache.Indexers) cache.Indexers {
	out := cache.Indexers{}
	for name, f := range indexers {
		out[name] = func(obj any) ([]string, error) { return f(unpacked(obj)) }
	}
	return out
}

// handler shows what happens to objects as they are.
type handler struct{ cache.ResourceEventHandler }

func (h handler) OnAdd(obj any, initial bool) { h.ResourceEventHandler.OnAdd(unpacked(obj), initial) }
func (h handler) OnUpdate(was, is any)        { h.ResourceEventHandler.OnUpdate(unpacked(was), unpacked(is)) }
func (h handler) OnDelete(obj any)            { h.ResourceEventHandler.OnDelete(unpacked(obj)) }

// indexer shows objects as they are.
type indexer struct {
	cache.Indexer
	informer *informer
}

func (x *indexer) Add(obj any) error    { return x.Indexer.Add(x.informer.packed(obj)) }
func (x *indexer) Update(obj any) error { return x.Indexer.Update(x.informer.packed(obj)) }

func (x *indexer) Replace(list []any, version string) error {
	packed := make([]any, len(list))
	for i, obj := range list {
		packed[i] = x.informer.packed(obj)
	}
	return x.Indexer.Replace(packed, version)
}

func (x *indexer) List() []any { return all(x.Indexer.List()) }

func (x *indexer) Get(obj any) (item any, exists bool, err error) {
	item, exists, err = x.Indexer.Get(obj)
	return unpacked(item), exists, err
}

func (x *indexer) GetByKey(key string) (item any, exists bool, err error) {
	item, exists, err = x.Indexer.GetByKey(key)
	return unpacked(item), exists, err
}

func (x *indexer) Index(name string, obj any) ([]any, error) {
	list, err := x.Indexer.Index(name, obj)
	return all(list), err
}

func (x *indexer) ByIndex(name, value string) ([]any, error) {
	list, err := x.Indexer.ByIndex(name, value)
	return all(list), err
}

func (x *indexer) AddIndexers(indexers cache.Indexers) error { return x.informer.AddIndexers(indexers) }

func all(list []any) []any {
	out := make([]any, len(list))
	for i, obj := range list {
		out[i] = unpacked(obj)
	}
	return out
}
