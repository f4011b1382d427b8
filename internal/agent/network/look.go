package network

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/policy"
)

// unsettled is when something is looked at again that waits for what no event tells of.
const unsettled = 5 * time.Second

// discoveryStalled is when discovery is taken not to get any further.
const discoveryStalled = time.Minute

// reconcileView makes the view anew and has looked at what it concerns.
func (n *network) reconcileView(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	select {
	case <-n.allQueues:
	default:
		return ctrl.Result{RequeueAfter: 20 * time.Millisecond}, nil
	}
	old := n.view.Load()
	if old == nil {
		if waits, err := n.awaitDiscovery(ctx); err != nil || waits {
			return ctrl.Result{RequeueAfter: unsettled / 10}, err
		}
	}
	v, again, err := n.look(ctx, old)
	if err != nil {
		return ctrl.Result{}, err
	}
	d := v.since(old)
	for _, mesh := range v.own {
		d.own = n.released(v.of(mesh), mesh) || d.own
	}
	if d.none() {
		return again, nil
	}
	if old != nil {
		v.sequence = old.sequence
	}
	v.sequence++
	concerned, err := n.concerned(ctx, d, v.limited())
	if err != nil {
		return ctrl.Result{}, err
	}
	for _, c := range concerned {
		for _, r := range c.requests {
			n.progress.expect(work{c.kind, r.Namespace, r.Name}, v.sequence)
		}
	}
	for name, mesh := range v.own {
		if vm := v.of(mesh); vm != nil && slices.ContainsFunc(mesh.Status.AppliedVirtualMeshes, func(a v1alpha1.AppliedVirtualMesh) bool { return a.Name == vm.Name }) {
			n.setAnnounced(name, vm.Name)
		}
	}
	n.view.Store(v)
	n.lookAt(concerned)
	if d.everything {
		n.lookAtExternal()
		n.enqueue(reachController, unsettled, n.ownMeshes()...)
	}
	n.lookAtMeshes(0)
	// What came since the caches were asked may have been looked at by the old view.
	concerned, err = n.concerned(ctx, d, v.limited())
	n.lookAt(concerned)
	return again, err
}

// concerned are requests of a controller.
type concerned struct {
	controller string
	kind       workKind
	requests   []ctrl.Request
}

// concerned is what a difference concerns, as far as the caches have it.
func (n *network) concerned(ctx context.Context, d difference, limited bool) ([]concerned, error) {
	var own, imports, names []ctrl.Request
	var err error
	if d.everything || d.own {
		if own, err = n.allOwn(ctx); err != nil {
			return nil, err
		}
	}
	if d.policies && limited { // they are enforced where callers leave the mesh
		imports = n.allImports(difference{everything: true})
	} else if d.everything || len(d.homes) > 0 {
		imports = n.allImports(d)
	}
	if d.everything || len(d.homes) > 0 {
		if names, err = n.allNames(ctx, d); err != nil {
			return nil, err
		}
	}
	return []concerned{{ownController, ownWork, own}, {importController, importWork, imports}, {nameController, nameWork, names}}, nil
}

func (n *network) lookAt(what []concerned) {
	for _, c := range what {
		n.enqueue(c.controller, 0, c.requests...)
	}
}

// awaitDiscovery reports whether, before the first answer of this agent, discovery still has to tell the hub what it knows: a
// hub that was restored may lack what is federated. What discovery makes no progress with for a while it cannot tell.
func (n *network) awaitDiscovery(ctx context.Context) (bool, error) {
	missing, err := n.discovery.Missing(ctx)
	if err != nil || len(missing) == 0 {
		return err != nil, err
	}
	if a := &n.awaited; a.since.IsZero() || a.missing != len(missing) {
		a.missing, a.since = len(missing), n.Now()
		ctrl.LoggerFrom(ctx).Info("waiting for discovery", "missing", len(missing), "first", missing[0])
	}
	return n.Now().Sub(n.awaited.since) < discoveryStalled, nil
}

// look reads the view from the hub.
func (n *network) look(ctx context.Context, old *view) (*view, ctrl.Result, error) {
	var again ctrl.Result
	hub := n.hub.GetClient()
	var virtualMeshes v1alpha1.VirtualMeshList
	var meshes v1alpha1.MeshList
	var policies v1alpha1.AccessPolicyList
	if err := hub.List(ctx, &virtualMeshes, client.InNamespace(v1alpha1.SystemNamespace)); err != nil {
		return nil, again, err
	}
	if err := hub.List(ctx, &meshes); err != nil {
		return nil, again, err
	}
	if err := hub.List(ctx, &policies, client.InNamespace(v1alpha1.SystemNamespace)); err != nil {
		return nil, again, err
	}
	meshes.Items, again.RequeueAfter = n.patient(old, meshes.Items)
	for i := range meshes.Items {
		if m := &meshes.Items[i]; m.Namespace == n.namespace {
			if seen, ok := n.discovery.Mesh(m.Name); ok { // whatever is written in the hub
				m.Spec = seen
			}
		}
	}
	slices.SortFunc(policies.Items, func(a, b v1alpha1.AccessPolicy) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	var accepted []acceptedPolicy
	there := map[string]bool{}
	for i := range policies.Items {
		p := &policies.Items[i]
		name := kube.Qualified(p.Name, p.Namespace)
		there[name] = true
		if p.Status.Accepted != nil {
			accepted = append(accepted, acceptedPolicy{policy.Accepted{Name: name, Spec: &p.Status.Accepted.Spec}, p.Status.Accepted.Generation})
		} else if old != nil { // not judged since it was restored, perhaps: what was in force stays
			if i := slices.IndexFunc(old.policies, func(o acceptedPolicy) bool { return o.Name == name }); i >= 0 {
				accepted = append(accepted, old.policies[i])
			}
		}
	}
	if old != nil {
		for _, p := range old.policies {
			if there[p.Name] {
				continue
			}
			gone, err := n.policyGone(ctx, p.Name)
			if err != nil || !gone {
				// Not known to be the users' will: it stays in force.
				accepted = append(accepted, p)
				again.RequeueAfter = sooner(again.RequeueAfter, unsettled)
			}
		}
	}
	return newView(n.namespace, virtualMeshes.Items, meshes.Items, accepted), again, nil
}

// sooner returns the shorter of two durations, of which 0 is for ever.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// policyGone asks the hub whether an AccessPolicy was deleted, and not with all of its kind.
func (n *network) policyGone(ctx context.Context, name string) (bool, error) {
	object, _ := cutLast(name)
	return n.gone(ctx, "accesspolicies", &v1alpha1.AccessPolicy{}, types.NamespacedName{Namespace: v1alpha1.SystemNamespace, Name: object})
}

// gone asks the hub whether an object was deleted, and not with all of its kind.
func (n *network) gone(ctx context.Context, resource string, kind client.Object, key types.NamespacedName) (bool, error) {
	err := n.hub.GetAPIReader().Get(ctx, key, kind)
	if !apierrors.IsNotFound(err) {
		return false, err
	}
	return n.kindServed(ctx, resource)
}

// kindServed reports whether the hub serves a kind whole: what is deleted with its kind nobody has deleted. A kind that is
// being deleted can be read and not created any more.
func (n *network) kindServed(ctx context.Context, resource string) (bool, error) {
	client, err := resources(n.hub)
	if err != nil {
		return false, err
	}
	list, err := client.ServerResourcesForGroupVersionWithContext(ctx, v1alpha1.GroupVersion.String())
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool {
		return r.Name == resource && slices.Contains(r.Verbs, "create")
	}), nil
}

// allOwn are the Destinations of this cluster, and those that were exported or for which there is something.
func (n *network) allOwn(ctx context.Context) ([]ctrl.Request, error) {
	var list v1alpha1.DestinationList
	if err := n.hub.GetClient().List(ctx, &list, client.InNamespace(n.namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for i := range list.Items {
		names[list.Items[i].Name] = true
	}
	n.mu.Lock()
	for _, e := range n.exports {
		for name := range e.Destinations() {
			names[name] = true
		}
	}
	n.mu.Unlock()
	for _, kind := range kindsOfExports() {
		indexer, err := indexerOf(ctx, n.istio.GetCache(), kind)
		if err != nil {
			return nil, err
		}
		for _, key := range indexer.ListIndexFuncValues(byDestination) {
			if namespace, name, _ := strings.Cut(key, "/"); namespace == n.namespace {
				names[name] = true
			}
		}
	}
	out := make([]ctrl.Request, 0, len(names))
	for name := range names {
		out = append(out, ctrl.Request{NamespacedName: types.NamespacedName{Namespace: n.namespace, Name: name}})
	}
	return out, nil
}

// allImports are the Destinations of other clusters that concern a difference, and those that were imported.
func (n *network) allImports(d difference) []ctrl.Request {
	concerned := func(namespace string) bool { return namespace != n.namespace && (d.everything || d.homes[namespace]) }
	seen := map[types.NamespacedName]bool{}
	var out []ctrl.Request
	add := func(key types.NamespacedName) {
		if concerned(key.Namespace) && !seen[key] {
			seen[key] = true
			out = append(out, ctrl.Request{NamespacedName: key})
		}
	}
	for d := range n.destinations("") {
		add(client.ObjectKeyFromObject(d))
	}
	for _, key := range n.imports.keys() {
		add(key)
	}
	return out
}

// lookAtExternal has ServiceEntries of external services looked at.
func (n *network) lookAtExternal() {
	for e := range n.held.Each(&networkingv1.ServiceEntry{}, "") {
		if !isOurs(e) {
			n.enqueue(externController, 0, requestOf(e)...)
		}
	}
}
