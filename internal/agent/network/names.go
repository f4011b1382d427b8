package network

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/federation"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/istio"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/kube/hublink"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// namePrefix begins the annotation isthmus.dev/destination of what was made for a VirtualDestination.
const namePrefix = "virtual:"

// Limits of what is said of a virtual destination.
const (
	maxNameErrors = 8
	maxNameError  = 256
)

// names keeps, of each VirtualDestination that the hub holds, what tells what it depends on, and what this cluster's meshes make
// of it.
type names struct {
	mu    sync.Mutex
	byKey map[types.NamespacedName]*named
}

type named struct {
	created  metav1.Time
	accepted *v1alpha1.AcceptedVirtualDestination // nil if nothing is known of what is in force
	applied  map[string]v1alpha1.AppliedVirtualDestination
}

func newNames() *names { return &names{byKey: map[types.NamespacedName]*named{}} }

// set says what is in force. What was stays where that is not known. left is the hostname that it gives up in a virtual mesh.
func (x *names) set(vd *v1alpha1.VirtualDestination) (left string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	key := client.ObjectKeyFromObject(vd)
	is := x.byKey[key]
	if is == nil {
		is = &named{applied: map[string]v1alpha1.AppliedVirtualDestination{}}
		x.byKey[key] = is
	}
	is.created = vd.CreationTimestamp
	if a := vd.Status.Accepted; a != nil {
		if was := is.accepted; was != nil && (was.Hostname != a.Hostname || was.Spec.VirtualMesh != a.Spec.VirtualMesh) {
			left = was.Hostname
		}
		is.accepted = a
	}
	return left
}

// say says what a mesh makes of a name, with nil that it does not have it. It reports whether that is news.
func (x *names) say(key types.NamespacedName, mesh string, applied *v1alpha1.AppliedVirtualDestination) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	is := x.byKey[key]
	if is == nil {
		return false
	}
	was, ok := is.applied[mesh]
	if applied == nil {
		delete(is.applied, mesh)
		return ok
	}
	is.applied[mesh] = *applied
	return !ok || was.Generation != applied.Generation || !slices.Equal(was.Clusters, applied.Clusters) || !slices.Equal(was.Errors, applied.Errors)
}

// forget says that a VirtualDestination is gone; it reports whether there was one, and with what hostname.
func (x *names) forget(key types.NamespacedName) (host string, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	is, ok := x.byKey[key]
	if ok && is.accepted != nil {
		host = is.accepted.Hostname
	}
	delete(x.byKey, key)
	return host, ok
}

// of is what a mesh makes of all names.
func (x *names) of(mesh string) (out []v1alpha1.AppliedVirtualDestination) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, is := range x.byKey {
		if a, ok := is.applied[mesh]; ok {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b v1alpha1.AppliedVirtualDestination) int { return strings.Compare(a.Name, b.Name) })
	return atMost(out, accept.MaxVirtualDestinations)
}

// which are the VirtualDestinations of which something holds.
func (x *names) which(holds func(*named) bool) (out []ctrl.Request) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for key, is := range x.byKey {
		if is.accepted != nil && holds(is) {
			out = append(out, ctrl.Request{NamespacedName: key})
		}
	}
	return out
}

// ofHosts are those that have hostnames.
func (x *names) ofHosts(hosts []string) []ctrl.Request {
	if len(hosts) == 0 {
		return nil
	}
	return x.which(func(is *named) bool { return slices.Contains(hosts, is.accepted.Hostname) })
}

// covered are those whose hostname a host of a rule covers, which may begin with a wildcard.
func (x *names) covered(host string) []ctrl.Request {
	suffix, wild := strings.CutPrefix(host, "*")
	return x.which(func(is *named) bool {
		return is.accepted.Hostname == host || wild && strings.HasSuffix(is.accepted.Hostname, suffix)
	})
}

// ofDestination are those that a Destination may serve.
func (x *names) ofDestination(key types.NamespacedName) []ctrl.Request {
	cluster := membership.Cluster(key.Namespace)
	return x.which(func(is *named) bool {
		s := &is.accepted.Spec
		return key.Name == kube.Qualified(s.Service.Name, s.Service.Namespace) && slices.Contains(s.Clusters, cluster)
	})
}

// taken reports whether another VirtualDestination has the hostname, which the hub has accepted of two at once.
func (x *names) taken(vd *v1alpha1.VirtualDestination) (by string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	a := vd.Status.Accepted
	for key, is := range x.byKey {
		other := &v1alpha1.VirtualDestination{ObjectMeta: metav1.ObjectMeta{Name: key.Name, CreationTimestamp: is.created}}
		if key.Name != vd.Name && is.accepted != nil && is.accepted.Hostname == a.Hostname && is.accepted.Spec.VirtualMesh == a.Spec.VirtualMesh &&
			accept.Before(other, vd) {
			return key.Name
		}
	}
	return ""
}

// addNames adds the controller of VirtualDestinations.
func (n *network) addNames() error {
	istio, hub := n.istio.GetCache(), n.hub.GetCache()
	_, err := n.add(nameController, 1, n.reconcileName,
		watch(hub, &v1alpha1.VirtualDestination{}, versionChanged, func(o *v1alpha1.VirtualDestination) []ctrl.Request {
			return requestOf(o)
		}),
		watch(hub, &v1alpha1.Destination{}, importChanged, func(o *v1alpha1.Destination) []ctrl.Request {
			return n.names.ofDestination(client.ObjectKeyFromObject(o))
		}),
		watch(istio, &networkingv1.ServiceEntry{}, versionChanged, func(o *networkingv1.ServiceEntry) []ctrl.Request { return n.ofName(o) }),
		watch(istio, &networkingv1.DestinationRule{}, versionChanged, func(o *networkingv1.DestinationRule) []ctrl.Request {
			if !isOurs(o) {
				return append(n.names.covered(o.Spec.Host), n.blocked.by(nameController, o)...)
			}
			return n.ofName(o)
		}),
	)
	return err
}

// ofName are the VirtualDestinations that an object concerns: that for which it was made, or those that the destination serves
// for which it was made.
func (n *network) ofName(o client.Object) []ctrl.Request {
	if !isOurs(o) {
		return n.blocked.by(nameController, o)
	}
	made := o.GetAnnotations()[v1alpha1.AnnotationDestination]
	key, ok := strings.CutPrefix(made, namePrefix)
	namespace, name, _ := strings.Cut(key, "/")
	switch {
	case ok:
		return []ctrl.Request{{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}}}
	case isPrefixed(made):
		return nil
	}
	return n.names.ofDestination(types.NamespacedName{Namespace: namespace, Name: name})
}

// allNames are the VirtualDestinations that a difference concerns, and those that are gone and have left something, as where
// everything was to stay as it was.
func (n *network) allNames(ctx context.Context, d difference) (out []ctrl.Request, err error) {
	var list v1alpha1.VirtualDestinationList
	if err := n.hub.GetClient().List(ctx, &list, client.InNamespace(v1alpha1.SystemNamespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	for i := range list.Items {
		a := list.Items[i].Status.Accepted
		if d.everything || a != nil && slices.ContainsFunc(a.Spec.Clusters, func(c string) bool { return d.homes[kube.ClusterNamespace(c)] }) {
			out = append(out, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	if !d.everything {
		return out, nil
	}
	for o := range n.held.Each(&networkingv1.ServiceEntry{}, "") {
		if strings.HasPrefix(o.GetAnnotations()[v1alpha1.AnnotationDestination], namePrefix) {
			for _, r := range n.ofName(o) {
				if !slices.Contains(out, r) {
					out = append(out, r)
				}
			}
		}
	}
	return out, nil
}

// reconcileName makes each mesh of this cluster have, or not have, a virtual destination.
func (n *network) reconcileName(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	v := n.view.Load()
	if v == nil {
		return ctrl.Result{}, nil
	}
	vd := &v1alpha1.VirtualDestination{}
	err := n.hub.GetClient().Get(ctx, req.NamespacedName, vd)
	if client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, err
	}
	if apierrors.IsNotFound(err) {
		vd = nil
	}
	have, err := n.objects.madeFor(ctx, namePrefix+req.String(), &networkingv1.ServiceEntry{}, &networkingv1.DestinationRule{})
	if err != nil {
		return ctrl.Result{}, err
	}
	switch {
	case vd == nil && len(have) > 0:
		gone, err := n.gone(ctx, "virtualdestinations", &v1alpha1.VirtualDestination{}, req.NamespacedName)
		if err != nil || !gone {
			return ctrl.Result{RequeueAfter: unsettled}, err
		}
	case vd != nil:
		if left := n.names.set(vd); left != "" {
			n.enqueue(nameController, 0, n.names.ofHosts([]string{left})...) // one may have waited for it
		}
	}
	out := outcome{settled: true}
	news := false
	for _, name := range slices.Sorted(maps.Keys(v.own)) {
		mesh := v.own[name]
		one := naming{
			network: n, view: v, key: req.NamespacedName, vd: vd, mesh: mesh,
			have: slices.DeleteFunc(slices.Clone(have), func(o client.Object) bool { return o.GetAnnotations()[annotationMesh] != membership.MeshKey(mesh) }),
		}
		o, err := one.run(ctx)
		if err != nil {
			return ctrl.Result{}, err
		}
		out, news = out.and(o), news || one.news
	}
	if vd == nil {
		if host, was := n.names.forget(req.NamespacedName); was {
			news = true
			n.release(host)
			n.enqueue(nameController, 0, n.names.ofHosts([]string{host})...) // one may have waited for it
		}
	}
	if news {
		n.lookAtMeshes(reportDelay)
	}
	if out.settled {
		n.progress.done(work{nameWork, req.Namespace, req.Name}, v.sequence)
	}
	return ctrl.Result{RequeueAfter: out.again}, nil
}

// naming is one virtual destination and one client mesh.
type naming struct {
	*network
	view *view
	key  types.NamespacedName
	vd   *v1alpha1.VirtualDestination // nil if it was deleted
	mesh *v1alpha1.Mesh
	have []client.Object
	news bool // for the report
}

func (i *naming) run(ctx context.Context) (outcome, error) {
	settled := outcome{settled: true}
	if i.view.frozen(i.mesh) {
		return settled, nil
	}
	vm := i.view.of(i.mesh)
	switch {
	case i.vd == nil:
		i.say(nil)
		return settled, i.remove(ctx, "the virtual destination was deleted", nil)
	case vm == nil:
		i.say(nil)
		return settled, i.remove(ctx, "the virtual mesh was given up", func(o client.Object) bool {
			return !i.view.givenUp(o.GetLabels()[v1alpha1.LabelVirtualMesh], i.mesh)
		})
	case i.vd.Status.Accepted == nil: // not judged yet, or not since the hub was restored
		return settled, nil
	case kube.Qualified(i.vd.Status.Accepted.Spec.VirtualMesh.Name, i.vd.Status.Accepted.Spec.VirtualMesh.Namespace) != vm.Name:
		i.say(nil)
		return settled, i.remove(ctx, "it is one of another virtual mesh", nil)
	case !i.isAnnounced(i.mesh.Name, vm.Name):
		return outcome{}, nil // looked at when it is
	}
	a := i.vd.Status.Accepted
	if by := i.names.taken(i.vd); by != "" {
		i.found(a, nil, finding.Findings{{Field: "spec.hostname", Reason: accept.ReasonHostnameTaken, Message: "VirtualDestination " + by + " has the hostname"}})
		return settled, nil
	}
	members, unknown, err := i.members(ctx, a)
	if err != nil || unknown {
		return outcome{again: unsettled}, err
	}
	address, err := i.addresses.of(a.Hostname)
	if err != nil {
		i.found(a, nil, finding.Findings{{Reason: ReasonNoAddress, Message: err.Error()}})
		return settled, nil //nolint:nilerr // it is reported, and nothing changes by trying again
	}
	cl := federation.Client{Mesh: i.mesh, Address: address, Forbidden: i.isForbidden, Imported: true}
	virtual := federation.Virtual{Hostname: a.Hostname, Spec: &a.Spec}
	joined, left := federation.Join(vm, cl, virtual, members, nil)
	if len(left) > 0 && joined != nil {
		was, err := i.was(ctx, a.Hostname)
		if err != nil {
			return outcome{}, err
		}
		if was != nil {
			joined, left = federation.Join(vm, cl, virtual, members, was)
		}
	}
	if joined == nil { // what is there stays
		i.found(a, nil, left)
		return settled, nil
	}
	return i.apply(ctx, vm, a, joined, left)
}

// members are what is known of the service in the clusters that are named. unknown says that nothing is to be concluded: the hub
// has not heard yet of what this cluster has.
func (i *naming) members(ctx context.Context, a *v1alpha1.AcceptedVirtualDestination) (out []federation.Member, unknown bool, err error) {
	for _, cluster := range a.Spec.Clusters {
		key := types.NamespacedName{Namespace: kube.ClusterNamespace(cluster), Name: kube.Qualified(a.Spec.Service.Name, a.Spec.Service.Namespace)}
		m := federation.Member{Cluster: cluster}
		if key.Namespace == i.namespace {
			unknown, err = i.ownMember(ctx, key, &m)
		} else {
			err = i.otherMember(ctx, key, &m)
		}
		if err != nil || unknown {
			return nil, unknown, err
		}
		out = append(out, m)
	}
	return out, false, nil
}

func (i *naming) ownMember(ctx context.Context, key client.ObjectKey, m *federation.Member) (unknown bool, err error) {
	var there bool
	if m.Destination, there, err = i.seen(ctx, key); err != nil || there && m.Destination == nil {
		return true, err
	}
	if m.Destination != nil {
		m.Home = i.view.own[m.Destination.Spec.Mesh]
		return false, nil
	}
	state, err := i.discovery.State(ctx, key.Name)
	// With nothing behind the Service there is none to wait for; but what there is stays.
	return state == istio.Inside || state == istio.Unknown && len(i.have) > 0, err
}

func (i *naming) otherMember(ctx context.Context, key client.ObjectKey, m *federation.Member) error {
	d := &v1alpha1.Destination{}
	err := i.hub.GetClient().Get(ctx, key, d)
	if err == nil && hublink.IsHeld(d) {
		m.Destination, m.Home = d, i.view.home(kube.Qualified(d.Spec.Mesh, key.Namespace))
	}
	m.Imported = i.imports.has(key)
	return client.IgnoreNotFound(err)
}

// was is the ServiceEntry that leads to other clusters as it is; nil if there is none.
func (i *naming) was(ctx context.Context, hostname string) (*networkingv1.ServiceEntry, error) {
	for _, o := range i.have {
		if _, ok := o.(*networkingv1.ServiceEntry); !ok || o.GetName() != federation.ObjectName(hostname) {
			continue
		}
		e := &networkingv1.ServiceEntry{}
		if err := i.objects.Get(ctx, client.ObjectKeyFromObject(o), e); err != nil {
			return nil, client.IgnoreNotFound(err)
		}
		return e, nil
	}
	return nil, nil //nolint:nilnil // no ServiceEntry, no error
}

// apply writes what was decided: the DestinationRule first, so that no request goes out without it, then the own pods.
func (i *naming) apply(ctx context.Context, vm *membership.VirtualMesh, a *v1alpha1.AcceptedVirtualDestination, joined *federation.Joined, left finding.Findings) (outcome, error) {
	settled := outcome{settled: true}
	var want []client.Object
	if joined.DestinationRule != nil {
		want = append(want, joined.DestinationRule)
	}
	for _, e := range []*networkingv1.ServiceEntry{joined.Own, joined.Others} {
		if e != nil {
			want = append(want, e)
		}
	}
	for _, o := range want {
		annotate(o, membership.MeshKey(i.mesh))
		o.GetAnnotations()[v1alpha1.AnnotationDestination] = namePrefix + i.key.String()
	}
	turn := types.NamespacedName{Namespace: i.key.Name, Name: i.mesh.Name}
	for _, o := range want {
		is, err := i.objects.is(ctx, o, labelOf(vm))
		if err != nil {
			return outcome{}, err
		}
		if is {
			continue
		}
		if wait := i.nameTurns.take(turn, i.Now()); wait > 0 {
			settled.again = wait
			return settled, nil
		}
		break
	}
	for _, o := range want {
		err := i.objects.apply(ctx, o, labelOf(vm))
		if f, again, ok := i.obstacle(err, nameController, ctrl.Request{NamespacedName: i.key}); ok {
			settled.again = again
			i.found(a, nil, append(left, f))
			return settled, nil
		}
		if err != nil {
			return outcome{}, err
		}
	}
	if joined.DestinationRule != nil {
		shadows, err := (&importing{network: i.network, mesh: i.mesh}).shadows(ctx, joined.DestinationRule)
		if err != nil {
			return outcome{}, err
		}
		left = append(left, shadows...)
	}
	i.found(a, joined.Clusters, left)
	return settled, i.remove(ctx, "it is called for no more, or somewhere else", func(o client.Object) bool {
		return slices.ContainsFunc(want, func(w client.Object) bool { return sameObject(w, o) && sameKind(w, o) })
	})
}

// found says what became of the virtual destination.
func (i *naming) found(a *v1alpha1.AcceptedVirtualDestination, clusters []string, fs finding.Findings) {
	applied := &v1alpha1.AppliedVirtualDestination{Name: kube.Qualified(i.key.Name, i.key.Namespace), Generation: a.Generation, Clusters: clusters}
	for _, e := range fs.Errors() {
		if len(applied.Errors) < maxNameErrors {
			applied.Errors = append(applied.Errors, printable(e, maxNameError))
		}
	}
	i.say(applied)
}

func (i *naming) say(applied *v1alpha1.AppliedVirtualDestination) {
	i.news = i.names.say(i.key, i.mesh.Name, applied) || i.news
}

// remove deletes what was made, but for what keep says.
func (i *naming) remove(ctx context.Context, why string, keep func(client.Object) bool) error {
	hosts := map[string]bool{}
	for _, o := range i.have { // ServiceEntries first
		kept := keep != nil && keep(o)
		if !kept {
			if err := i.objects.delete(ctx, o, why); err != nil {
				return err
			}
		}
		if e, ok := o.(*networkingv1.ServiceEntry); ok {
			for _, host := range e.Spec.Hosts {
				hosts[host] = hosts[host] || kept
			}
		}
	}
	for host, kept := range hosts {
		if !kept {
			i.release(host)
		}
	}
	return nil
}

// release gives up the address of a hostname that no VirtualDestination has any more.
func (n *network) release(host string) {
	if len(n.names.ofHosts([]string{host})) == 0 {
		n.addresses.release(host)
	}
}
