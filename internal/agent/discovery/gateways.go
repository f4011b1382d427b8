package discovery

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/istio"
)

// gatewaySet are the Services that may be gateways', so that not all Services have to be looked at to find those that are. The
// reconciler of Destinations, which looks at each Service that changes, keeps them.
type gatewaySet struct {
	mu      sync.Mutex
	known   map[types.NamespacedName]struct{}
	changed signal
}

// set says whether a Service is a gateway's, and tells if that is new.
func (g *gatewaySet) set(key types.NamespacedName, is bool) {
	g.mu.Lock()
	_, was := g.known[key]
	switch {
	case is && g.known == nil:
		g.known = map[types.NamespacedName]struct{}{key: {}}
	case is:
		g.known[key] = struct{}{}
	default:
		delete(g.known, key)
	}
	g.mu.Unlock()
	if is != was {
		g.changed.send()
	}
}

func (g *gatewaySet) has(key types.NamespacedName) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, ok := g.known[key]
	return ok
}

func (g *gatewaySet) all() map[types.NamespacedName]struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make(map[types.NamespacedName]struct{}, len(g.known))
	maps.Copy(out, g.known)
	return out
}

// scan finds the gateways among all Services.
func (r *meshes) scan(ctx context.Context, v *view) error {
	var services corev1.ServiceList
	if err := r.local.List(ctx, &services, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	for i := range services.Items {
		o, err := r.inspect(ctx, v, client.ObjectKeyFromObject(&services.Items[i]))
		if err != nil {
			return err
		}
		if o.gateway != "" {
			r.gateways.set(o.key, true)
		}
	}
	return nil
}

// findGateways describes the gateways of each mesh, by root namespace. One that is listed already and of which nothing can be
// said at present, as while its pods are made anew, stays as it is. Identities stay for their grace, as those of Destinations do;
// again is when the next of them is over, 0 if there is none.
func (r *meshes) findGateways(ctx context.Context, v *view, have []v1alpha1.Mesh) (out map[string][]v1alpha1.IngressGateway, again time.Duration, err error) {
	type listed struct {
		root    string
		gateway v1alpha1.IngressGateway
	}
	before := map[types.NamespacedName]listed{}
	candidates := r.gateways.all()
	var specs []v1alpha1.MeshSpec
	seen := r.discovery.meshes.Load()
	if seen != nil {
		specs = slices.Collect(maps.Values(*seen)) // what the hub has may be anybody's word
	} else {
		for i := range have {
			specs = append(specs, have[i].Spec)
		}
	}
	for i := range specs {
		mesh := &specs[i].Istio
		for _, g := range mesh.Gateways {
			key := types.NamespacedName{Namespace: g.Namespace, Name: g.Name}
			before[key] = listed{mesh.RootNamespace, g}
			candidates[key] = struct{}{}
		}
	}
	out = map[string][]v1alpha1.IngressGateway{}
	for key := range candidates {
		o, err := r.inspect(ctx, v, key)
		if err != nil {
			return nil, 0, err
		}
		b, wasListed := before[key]
		kept := "gateway " + key.String() // no name of a Destination
		switch {
		case o.gateway != "":
			g := istio.Gateway{Service: o.service, Pods: o.behind.Pods, Class: o.gateway}
			var over time.Duration
			g.Identities, over = r.leaving.keep(kept, own(b.gateway.Identities, o.mesh, key.Namespace), o.spec.Identities, time.Now())
			if over > 0 && (again == 0 || over < again) {
				again = over
			}
			if o.service.Spec.Type == corev1.ServiceTypeNodePort {
				if g.Nodes, err = r.nodes(ctx, o.behind.Pods); err != nil {
					return nil, 0, err
				}
			}
			out[o.mesh.RootNamespace] = append(out[o.mesh.RootNamespace], v.detector.Describe(g))
		case o.state == istio.Unknown && wasListed:
			g := *b.gateway.DeepCopy()
			if seen == nil && o.service != nil {
				g.Selector, g.Labels, g.Identities = o.service.Spec.Selector, o.service.Labels, nil
			}
			out[b.root] = append(out[b.root], g)
			r.gateways.set(key, true) // so that what becomes of it is told
		default:
			r.leaving.forget(kept)
		}
	}
	return out, again, nil
}

// nodes on which pods run.
func (r *meshes) nodes(ctx context.Context, pods []*corev1.Pod) ([]*corev1.Node, error) {
	var out []*corev1.Node
	seen := map[string]bool{"": true}
	for _, pod := range pods {
		name := pod.Spec.NodeName
		if seen[name] {
			continue
		}
		seen[name] = true
		node := &corev1.Node{}
		if err := r.local.Get(ctx, types.NamespacedName{Name: name}, node); err == nil {
			out = append(out, node)
		} else if client.IgnoreNotFound(err) != nil {
			return nil, err
		}
	}
	return out, nil
}
