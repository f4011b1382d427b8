package network

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/kube/compact"
)

// fieldOwner is the field manager of what this package writes, and the value of its label isthmus.dev/managed-by.
const fieldOwner = "isthmus-agent-network"

const (
	// annotationMesh names, on what was made for a destination, the mesh that the destination is of: "<name>.<namespace>".
	annotationMesh = "isthmus.dev/mesh"
	// annotationClient names, on what was made under limited trust for a destination of another cluster, the mesh of this cluster that
	// it was made for: "<name>.<namespace>". What is made under other trust lies in the root namespace of that mesh.
	annotationClient = "isthmus.dev/client-mesh"
	// annotationKept says of a ServiceEntry that its addresses are those with which it was handed over.
	annotationKept = "isthmus.dev/address-kept"
	// annotationHash is found in the cache only: the hash of the object as it was read, and its size.
	annotationHash = "isthmus.dev/cached-hash"
)

// Indexes of the cache.
const (
	// byDestination finds objects of ours by the Destination that they were made for.
	byDestination = "destination"
	// byVirtualMesh finds objects of ours by the label of their virtual mesh.
	byVirtualMesh = "virtualMesh"
	// byMesh finds objects of ours that were made for a mesh as a whole.
	byMesh = "mesh"
	// byOthers finds Gateways of others, as "true".
	byOthers = "others"
	// byHost finds DestinationRules of others by their host as it is written, and ServiceEntries of others by theirs.
	byHost = "host"
)

// kindsOfIstio are the kinds of objects that this package makes.
func kindsOfIstio() []client.Object {
	return []client.Object{
		&networkingv1.ServiceEntry{}, &networkingv1.DestinationRule{}, &networkingv1.Gateway{}, &networkingv1.VirtualService{},
		&securityv1.AuthorizationPolicy{}, &securityv1.PeerAuthentication{},
	}
}

// kindsOfImports are the kinds of what is made for a destination of another cluster, in the order in which it is taken away: the
// names first, and last what keeps callers out.
func kindsOfImports() []client.Object {
	return []client.Object{
		&networkingv1.ServiceEntry{}, &networkingv1.DestinationRule{}, &networkingv1.Gateway{}, &networkingv1.VirtualService{}, &securityv1.AuthorizationPolicy{},
	}
}

// kindsOfExports are the kinds of what is made for a destination of this cluster, in the order in which it is taken away.
func kindsOfExports() []client.Object {
	return []client.Object{&networkingv1.Gateway{}, &networkingv1.VirtualService{}, &securityv1.AuthorizationPolicy{}}
}

// newLocal makes a view of Istio's objects in the agent's own cluster. Of objects of ours it holds a hash, and of ServiceEntries
// hosts and addresses; objects of others are whole.
func newLocal(mgr ctrl.Manager, held *compact.Set) (cluster.Cluster, error) {
	return cluster.New(mgr.GetConfig(), func(o *cluster.Options) {
		o.Scheme = mgr.GetScheme()
		o.Logger = mgr.GetLogger()
		o.Cache = cache.Options{NewInformer: held.NewInformer, DefaultTransform: stub, ByObject: map[client.Object]cache.ByObject{
			&discoveryv1.EndpointSlice{}: {Transform: stripSlice},
		}}
	})
}

func addIndexes(ctx context.Context, c cache.Cache) error {
	var errs []error
	for _, kind := range kindsOfIstio() {
		errs = append(errs,
			addIndex(ctx, c, kind, byDestination, func(o client.Object) string { return o.GetAnnotations()[v1alpha1.AnnotationDestination] }),
			addIndex(ctx, c, kind, byVirtualMesh, func(o client.Object) string { return o.GetLabels()[v1alpha1.LabelVirtualMesh] }),
			c.IndexField(ctx, kind, byMesh, func(o client.Object) []string {
				if v := o.GetAnnotations()[annotationMesh]; v != "" && isOurs(o) && o.GetAnnotations()[v1alpha1.AnnotationDestination] == "" {
					return []string{v}
				}
				return nil
			}))
	}
	errs = append(errs, c.IndexField(ctx, &networkingv1.Gateway{}, byOthers, func(o client.Object) []string {
		if isOurs(o) {
			return nil
		}
		return []string{"true"}
	}))
	errs = append(errs, c.IndexField(ctx, &networkingv1.DestinationRule{}, byHost, func(o client.Object) []string {
		if rule, ok := o.(*networkingv1.DestinationRule); ok && !isOurs(o) {
			return []string{rule.Spec.Host}
		}
		return nil
	}), c.IndexField(ctx, &networkingv1.ServiceEntry{}, byHost, func(o client.Object) []string {
		if e, ok := o.(*networkingv1.ServiceEntry); ok && !isOurs(o) {
			return e.Spec.Hosts
		}
		return nil
	}))
	return errors.Join(errs...)
}

// addIndex adds an index of objects of ours by one value of each. One of the cache's own, which has a key more for lists within
// a namespace, takes as much memory as all else of a packed object.
func addIndex(ctx context.Context, c cache.Cache, kind client.Object, name string, value func(client.Object) string) error {
	i, err := c.GetInformer(ctx, kind, cache.BlockUntilSynced(false))
	if err != nil {
		return err
	}
	return i.AddIndexers(toolscache.Indexers{name: func(obj any) ([]string, error) {
		if o, ok := obj.(client.Object); ok && isOurs(o) {
			if v := value(o); v != "" {
				return []string{v}, nil
			}
		}
		return nil, nil
	}})
}

// indexerOf is what the cache holds of a kind.
func indexerOf(ctx context.Context, c cache.Cache, kind client.Object) (toolscache.Indexer, error) {
	i, err := c.GetInformer(ctx, kind)
	if err != nil {
		return nil, err
	}
	shared, ok := i.(interface{ GetIndexer() toolscache.Indexer })
	if !ok {
		return nil, fmt.Errorf("an informer of type %T has no indexer", i)
	}
	return shared.GetIndexer(), nil
}

// isOurs reports whether this package made an object.
func isOurs(o client.Object) bool { return o.GetLabels()[v1alpha1.LabelManagedBy] == fieldOwner }

// stub shrinks an object for the cache.
func stub(obj any) (any, error) {
	o, ok := obj.(client.Object)
	if !ok {
		return obj, nil
	}
	o.SetManagedFields(nil)
	annotations := map[string]string{}
	if isOurs(o) {
		for _, key := range []string{v1alpha1.AnnotationDestination, annotationMesh, annotationClient, annotationController, annotationKept} {
			if v, ok := o.GetAnnotations()[key]; ok {
				annotations[key] = v
			}
		}
		annotations[annotationHash] = hashOf(o)
		o.SetLabels(map[string]string{v1alpha1.LabelManagedBy: fieldOwner, v1alpha1.LabelVirtualMesh: o.GetLabels()[v1alpha1.LabelVirtualMesh]})
		switch o := o.(type) {
		case *networkingv1.ServiceEntry:
			hosts, addrs := o.Spec.Hosts, o.Spec.Addresses
			o.Spec.Reset()
			o.Spec.Hosts, o.Spec.Addresses = hosts, addrs
			o.Status.Reset()
		case *networkingv1.DestinationRule:
			o.Spec.Reset()
			o.Status.Reset()
		case *networkingv1.Gateway:
			o.Spec.Reset()
			o.Status.Reset()
		case *networkingv1.VirtualService:
			o.Spec.Reset()
			o.Status.Reset()
		case *securityv1.AuthorizationPolicy:
			o.Spec.Reset()
			o.Status.Reset()
		case *securityv1.PeerAuthentication:
			o.Spec.Reset()
			o.Status.Reset()
		}
	}
	if v, theirs := o.(*networkingv1.VirtualService); theirs && !isOurs(o) { // nothing depends on what those of others say
		v.SetLabels(nil)
		v.Spec.Reset()
		v.Status.Reset()
	}
	o.SetAnnotations(annotations)
	return o, nil
}

// stripSlice leaves of an EndpointSlice what a flat network needs.
func stripSlice(obj any) (any, error) {
	if s, ok := obj.(*discoveryv1.EndpointSlice); ok {
		service := s.Labels[discoveryv1.LabelServiceName]
		s.ManagedFields, s.Annotations, s.Labels = nil, nil, map[string]string{discoveryv1.LabelServiceName: service}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			s.Endpoints[i] = discoveryv1.Endpoint{Addresses: e.Addresses, Conditions: e.Conditions}
		}
	}
	return obj, nil
}

// hashOf is equal for objects that say the same: spec, and what we put into labels and annotations.
func hashOf(o client.Object) string {
	h := fnv.New128a()
	for _, m := range []map[string]string{o.GetLabels(), o.GetAnnotations()} {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if strings.HasPrefix(k, "isthmus.dev/") && k != annotationHash {
				_, _ = fmt.Fprintf(h, "%s=%s\n", k, m[k])
			}
		}
	}
	if spec := specOf(o); spec != nil {
		// Deterministic within one program, which is all that is compared.
		if data, err := (proto.MarshalOptions{Deterministic: true}).Marshal(spec); err == nil {
			_, _ = h.Write(data)
		}
	}
	return hex.EncodeToString(h.Sum(nil)) + "-" + strconv.Itoa(sizeOf(o))
}

// sizeOf is how many bytes the spec of an object takes, also of one of ours from the cache.
func sizeOf(o client.Object) int {
	if _, size, ok := strings.Cut(o.GetAnnotations()[annotationHash], "-"); ok {
		n, _ := strconv.Atoi(size)
		return n
	}
	if spec := specOf(o); spec != nil {
		return proto.Size(spec)
	}
	return 0
}

func specOf(o client.Object) proto.Message {
	switch o := o.(type) {
	case *networkingv1.ServiceEntry:
		return &o.Spec
	case *networkingv1.DestinationRule:
		return &o.Spec
	case *networkingv1.Gateway:
		return &o.Spec
	case *networkingv1.VirtualService:
		return &o.Spec
	case *securityv1.AuthorizationPolicy:
		return &o.Spec
	case *securityv1.PeerAuthentication:
		return &o.Spec
	}
	return nil
}

// objects applies and deletes objects of this cluster.
type objects struct {
	client.Client             // reads past the cache
	cache         cache.Cache // stubs
}

// cached labels what is wanted, and returns what the cache has of its name, which must not be changed.
func (o *objects) cached(ctx context.Context, want client.Object, virtualMesh string) (client.Object, error) {
	set := map[string]string{v1alpha1.LabelManagedBy: fieldOwner, v1alpha1.LabelVirtualMesh: virtualMesh}
	maps.Copy(set, want.GetLabels())
	want.SetLabels(set)
	have, ok := reflect.TypeAssert[client.Object](reflect.New(reflect.TypeOf(want).Elem()))
	if !ok {
		return nil, fmt.Errorf("a %T is no object", want)
	}
	return have, o.cache.Get(ctx, client.ObjectKeyFromObject(want), have, &client.GetOptions{UnsafeDisableDeepCopy: new(true)})
}

// is reports whether the cache shows an object to be as want says.
func (o *objects) is(ctx context.Context, want client.Object, virtualMesh string) (bool, error) {
	have, err := o.cached(ctx, want, virtualMesh)
	if err != nil {
		return false, client.IgnoreNotFound(err)
	}
	return isOurs(have) && have.GetAnnotations()[annotationHash] == hashOf(want), nil
}

// foreign reports whether the cache shows an object of somebody else in the place of one that is wanted.
func (o *objects) foreign(ctx context.Context, want client.Object, virtualMesh string) (bool, error) {
	have, err := o.cached(ctx, want, virtualMesh)
	if err != nil {
		return false, client.IgnoreNotFound(err)
	}
	return !isOurs(have), nil
}

// apply makes an object be as want says. What the cache shows to be so is not read; what it does not show is created.
func (o *objects) apply(ctx context.Context, want client.Object, virtualMesh string) error {
	gvk, err := o.GroupVersionKindFor(want)
	if err != nil {
		return err
	}
	have, err := o.cached(ctx, want, virtualMesh)
	switch {
	case err == nil && isOurs(have) && have.GetAnnotations()[annotationHash] == hashOf(want):
		return nil
	case err == nil && !isOurs(have):
		return &kube.ForeignObjectError{Kind: gvk.Kind, Namespace: want.GetNamespace(), Name: want.GetName()}
	case apierrors.IsNotFound(err):
		err = o.Create(ctx, want.DeepCopyObject().(client.Object), client.FieldOwner(fieldOwner))
		if !apierrors.IsAlreadyExists(err) {
			return err // the cache was not behind
		}
	case err != nil:
		return err
	}
	u, err := kube.ToUnstructured(o.Scheme(), want)
	if err != nil {
		return err
	}
	outcome, err := kube.Apply(ctx, o.Client, fieldOwner, u)
	if err == nil && outcome != kube.Unchanged {
		ctrl.LoggerFrom(ctx).V(1).Info("applied", "kind", gvk.Kind, "object", client.ObjectKeyFromObject(want).String(), "outcome", outcome)
	}
	return err
}

// delete removes an object of ours as it was read.
func (o *objects) delete(ctx context.Context, have client.Object, why string) error {
	if !isOurs(have) {
		return nil
	}
	uid := have.GetUID()
	err := o.Delete(ctx, have, client.Preconditions{UID: &uid})
	if err == nil {
		ctrl.LoggerFrom(ctx).Info("deleted", "kind", fmt.Sprintf("%T", have), "object", client.ObjectKeyFromObject(have).String(), "why", why)
	}
	return client.IgnoreNotFound(err)
}

// madeFor returns the objects of some kinds that were made for a Destination. They must not be changed.
func (o *objects) madeFor(ctx context.Context, destination string, kinds ...client.Object) ([]client.Object, error) {
	var out []client.Object
	for _, kind := range kinds {
		indexer, err := indexerOf(ctx, o.cache, kind)
		if err != nil {
			return nil, err
		}
		list, err := indexer.ByIndex(byDestination, destination)
		if err != nil {
			return nil, err
		}
		for _, obj := range list {
			if have, ok := obj.(client.Object); ok {
				out = append(out, have)
			}
		}
	}
	return out, nil
}

// items of a list of Istio's objects.
func items(list client.ObjectList) (out []client.Object) {
	add := func(o client.Object) { out = append(out, o) }
	switch l := list.(type) {
	case *networkingv1.ServiceEntryList:
		for _, o := range l.Items {
			add(o)
		}
	case *networkingv1.DestinationRuleList:
		for _, o := range l.Items {
			add(o)
		}
	case *networkingv1.GatewayList:
		for _, o := range l.Items {
			add(o)
		}
	case *securityv1.AuthorizationPolicyList:
		for _, o := range l.Items {
			add(o)
		}
	case *securityv1.PeerAuthenticationList:
		for _, o := range l.Items {
			add(o)
		}
	}
	return out
}
