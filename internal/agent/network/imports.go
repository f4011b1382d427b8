package network

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/federation"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/kube/hublink"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/policy"
)

// Reasons of what keeps a destination from being imported, beside those of package federation.
const (
	// ReasonTooManyImports says that a cluster federates more destinations than are taken of one.
	ReasonTooManyImports = "TooManyImports"
	// ReasonImportsTooLarge says that the destinations of a cluster take more room than is given to one.
	ReasonImportsTooLarge = "ImportsTooLarge"
	// ReasonTooManyChanges says that the destinations of a cluster change more often than is followed.
	ReasonTooManyChanges = "TooManyChanges"
	// ReasonNoAddress says that the range of addresses is used up.
	ReasonNoAddress = "NoAddress"
	// ReasonRefused says that the API server of this cluster does not take what is made of a destination.
	ReasonRefused = "Refused"
)

// refusedAgain is when to try once more what the API server has refused: nobody tells when a quota or a webhook lets it pass.
const refusedAgain = time.Minute

// reconcileImport makes each mesh of this cluster have, or not have, a destination of another.
func (n *network) reconcileImport(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	v := n.view.Load()
	if v == nil {
		return ctrl.Result{}, nil
	}
	d := &v1alpha1.Destination{}
	err := n.hub.GetClient().Get(ctx, req.NamespacedName, d)
	if apierrors.IsNotFound(err) {
		d, err = nil, nil
	}
	if err != nil {
		return ctrl.Result{}, err
	}
	have, err := n.objects.madeFor(ctx, req.String(), kindsOfImports()...)
	if err != nil {
		return ctrl.Result{}, err
	}
	n.imports.come(req.NamespacedName)
	defer func() { n.enqueue(importController, 0, n.imports.next(req.Namespace, n.MaxImports)...) }()
	out := outcome{settled: true}
	for _, name := range slices.Sorted(maps.Keys(v.own)) {
		mesh := v.own[name]
		one := importing{
			network: n, view: v, key: req.NamespacedName, destination: d, mesh: mesh,
			have: slices.DeleteFunc(slices.Clone(have), func(o client.Object) bool { return !isFor(o, mesh) }),
		}
		o, err := one.run(ctx)
		if err != nil {
			return ctrl.Result{}, err
		}
		out = out.and(o)
	}
	if !out.holds && len(have) == 0 {
		n.makeRoom(req.NamespacedName)
	}
	if out.settled {
		n.progress.done(work{importWork, req.Namespace, req.Name}, v.sequence)
	}
	return ctrl.Result{RequeueAfter: out.again}, nil
}

// isFor reports whether something that was made for a destination of another cluster was made for a mesh of this one.
func isFor(o client.Object, mesh *v1alpha1.Mesh) bool {
	if client := o.GetAnnotations()[annotationClient]; client != "" {
		return client == membership.MeshKey(mesh)
	}
	return o.GetNamespace() == mesh.Spec.Istio.RootNamespace
}

// isLimited reports whether something that was made for a destination of another cluster is a part of the way of limited trust.
func isLimited(o client.Object) bool { return o.GetAnnotations()[annotationClient] != "" }

// makeRoom gives up what was kept for a destination of which there is nothing here.
func (n *network) makeRoom(key types.NamespacedName) {
	n.turns.forget(key)
	for _, host := range n.imports.remove(key.String()) {
		n.addresses.release(host)
	}
}

// outcome of looking at a destination.
type outcome struct {
	// settled says that nothing is waited for that the users' will calls for.
	settled bool
	// holds says that it is imported, or is about to be.
	holds bool
	// again is when to look again without an event; 0 for never.
	again time.Duration
}

func (o outcome) and(other outcome) outcome {
	o.settled, o.holds = o.settled && other.settled, o.holds || other.holds
	o.again = sooner(o.again, other.again)
	return o
}

// importing is one destination and one client mesh.
type importing struct {
	*network
	view        *view
	key         types.NamespacedName
	destination *v1alpha1.Destination // nil if the hub's cache has none
	mesh        *v1alpha1.Mesh
	have        []client.Object
}

func (i *importing) run(ctx context.Context) (outcome, error) {
	settled := outcome{settled: true, holds: len(i.have) > 0}
	if i.view.frozen(i.mesh) {
		return settled, nil
	}
	vm := i.view.of(i.mesh)
	if vm == nil {
		i.report()
		return settled, i.remove(ctx, "the virtual mesh was given up", func(o client.Object) bool {
			return !i.view.givenUp(o.GetLabels()[v1alpha1.LabelVirtualMesh], i.mesh)
		})
	}
	if i.destination == nil && len(i.have) == 0 {
		i.report()
		return settled, nil
	}
	if !i.isAnnounced(i.mesh.Name, vm.Name) {
		return outcome{holds: settled.holds}, nil // looked at when it is
	}
	if i.destination == nil {
		return i.gone(ctx, vm)
	}
	if !hublink.IsHeld(i.destination) {
		i.report(finding.Finding{Reason: ReasonImportsTooLarge, Message: "what the cluster says of its destinations takes more memory than is given to one: " +
			"what is imported stays as it is, further ones are not"})
		return settled, nil
	}
	home := i.view.home(kube.Qualified(i.destination.Spec.Mesh, i.key.Namespace))
	if home == nil { // its agent has not reported the mesh, or not yet again
		i.report(finding.Finding{Field: "spec.mesh", Reason: federation.ReasonForeignDestination, Message: fmt.Sprintf(
			"the cluster reports no mesh %s: what is imported stays as it is", i.destination.Spec.Mesh)})
		return settled, nil
	}
	host := federation.Hostname(vm, i.destination)
	former := i.former(vm)
	imported := slices.ContainsFunc(i.have, func(o client.Object) bool { return isEntryOf(o, host) })
	if !imported && i.imports.full(i.key, i.MaxImports) {
		return i.noRoom(ReasonTooManyImports), nil
	}
	out, refusal := federation.Import(vm, federation.Client{
		Mesh: i.mesh, Imported: imported && len(former) == 0, Forbidden: i.isForbidden, ShortHostnameClusters: i.ShortHostnameClusters,
	}, home, i.destination)
	if refusal != nil && !refusal.Withdraw && len(former) > 0 {
		settled.settled = false // what there is was made for another trust, and stays as long as there is nothing instead
	}
	switch {
	case refusal != nil && refusal.Withdraw:
		i.report()
		return settled, i.remove(ctx, refusal.Message, nil)
	case refusal != nil && refusal.Reason == federation.ReasonNotTrusted:
		i.report()
		return outcome{holds: settled.holds}, nil // a change of a Mesh ends it, and has all of its destinations looked at
	case refusal != nil:
		i.report(refusal.Finding)
		return settled, nil
	}
	objects := i.objectsOf(vm, home, out)
	size := 0
	for _, o := range objects {
		size += sizeOf(o)
	}
	if reason := i.imports.admit(i.key, host, size, i.MaxImports); reason != "" {
		return i.noRoom(reason), nil
	}
	address, err := i.addresses.of(host)
	if err != nil {
		i.report(finding.Finding{Reason: ReasonNoAddress, Message: err.Error()})
		return settled, nil //nolint:nilerr // it is reported, and nothing changes by trying again
	}
	out.ServiceEntry.Spec.Addresses = []string{address}
	if err := i.keepAddresses(ctx, vm, out.ServiceEntry); err != nil {
		return settled, err
	}
	if out.Short != nil {
		if err := i.short(ctx, out); err != nil {
			return settled, err
		}
		objects = i.objectsOf(vm, home, out) // it may be left out
	}
	settled.holds = true
	if err := i.yield(ctx, vm, out); err != nil {
		return settled, err
	}
	if wait, err := i.turn(ctx, objects, labelOf(vm)); err != nil || wait > 0 {
		i.report(finding.Finding{Reason: ReasonTooManyChanges, Message: "destinations of the cluster change so often that they are followed slowly: see what changes them"})
		settled.again = wait
		settled.settled = len(former) == 0
		return settled, err
	}
	return i.apply(ctx, vm, home, out, objects)
}

// isEntryOf reports whether an object is a ServiceEntry of a host.
func isEntryOf(o client.Object, host string) bool {
	e, ok := o.(*networkingv1.ServiceEntry)
	return ok && slices.Contains(e.Spec.Hosts, host)
}

// former are the objects of the way that another trust than that of the virtual mesh calls for.
func (i *importing) former(vm *membership.VirtualMesh) (out []client.Object) {
	for _, o := range i.have {
		if isLimited(o) != vm.Limited() {
			out = append(out, o)
		}
	}
	return out
}

// keepAddresses leaves an entry that was handed over the addresses that it came with: callers have looked them up.
func (i *importing) keepAddresses(ctx context.Context, vm *membership.VirtualMesh, entry *networkingv1.ServiceEntry) error {
	have, err := i.objects.cached(ctx, entry, labelOf(vm))
	if err != nil {
		return client.IgnoreNotFound(err)
	}
	theirs, ok := have.(*networkingv1.ServiceEntry)
	a := have.GetAnnotations()
	handedOver := a[v1alpha1.AnnotationDestination] == "" // we have not written it yet
	if !ok || !isOurs(have) || len(theirs.Spec.Addresses) == 0 || !handedOver && a[annotationKept] == "" {
		return nil
	}
	entry.Spec.Addresses = slices.Clone(theirs.Spec.Addresses)
	entry.Annotations[annotationKept] = "true"
	return nil
}

// yield has our rule say nothing beside one that somebody else has for the host, as long as the host's entry is his too: connections are
// to go as he wants, to where he wants. Of rules in one namespace istiod merges those that are exported alike, and the oldest keeps its
// say; of others the last counts.
func (i *importing) yield(ctx context.Context, vm *membership.VirtualMesh, out *federation.Imported) error {
	foreign, err := i.objects.foreign(ctx, out.ServiceEntry, labelOf(vm))
	if err != nil || !foreign {
		return err
	}
	ours := out.DestinationRule
	var list networkingv1.DestinationRuleList
	if err := i.istio.GetCache().List(ctx, &list, client.MatchingFields{byHost: ours.Spec.Host}, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	slices.SortFunc(list.Items, byAge)
	for _, theirs := range slices.Backward(list.Items) {
		if theirs.Namespace == ours.Namespace && !isOurs(theirs) {
			ours.Spec.ExportTo = slices.Clone(theirs.Spec.ExportTo)
		}
	}
	return nil
}

// byAge is an order of objects, the oldest first, as Istio has it. A cache lists them in none.
func byAge[T client.Object](a, b T) int {
	return cmp.Or(a.GetCreationTimestamp().Compare(b.GetCreationTimestamp().Time), cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
}

func (i *importing) report(fs ...finding.Finding) { i.reports.set(i.mesh.Name, i.key, fs) }

// noRoom reports that the destinations of the cluster use up its share.
func (i *importing) noRoom(reason string) outcome {
	message := fmt.Sprintf("the cluster federates more than %d destinations: what is imported stays, further ones are not; select fewer, or raise the agent's --max-imports", i.MaxImports)
	if reason == ReasonImportsTooLarge {
		message = fmt.Sprintf("the destinations of the cluster take more than %d bytes each on the average: what is imported stays as it is, further ones are not; "+
			"federate Services with fewer ports and subsets through fewer gateways, or raise the agent's --max-imports", averageSize)
	}
	i.reports.set(i.mesh.Name, i.key, finding.Findings{{Reason: reason, Message: message}})
	return outcome{settled: true, holds: len(i.have) > 0}
}

// objectsOf are what is to be written, in this order: first what keeps callers out, last the name, when all is there that it leads
// to.
func (i *importing) objectsOf(vm *membership.VirtualMesh, home *v1alpha1.Mesh, out *federation.Imported) (objects []client.Object) {
	if e := out.Egress; e != nil {
		ports := make([]policy.Port, len(e.ServerNames))
		for j, n := range e.ServerNames {
			ports[j] = policy.Port(n)
		}
		if p := policy.Egress(vm, i.mesh, home, i.destination, i.view.accepted, policy.Gateway{
			Namespace: e.Through.Namespace, Selector: e.Through.Selector, Name: out.ServiceEntry.Name, Ports: ports,
		}); p != nil {
			objects = append(objects, p)
		}
		objects = append(objects, e.DestinationRule, e.ServiceEntry)
		for _, o := range e.VirtualServices {
			objects = append(objects, o)
		}
		objects = append(objects, e.Gateway)
	}
	objects = append(objects, out.DestinationRule, out.ServiceEntry)
	if out.Short != nil {
		objects = append(objects, out.Short.DestinationRule, out.Short.ServiceEntry)
	}
	for _, o := range objects {
		annotate(o, membership.MeshKey(home))
		if out.Egress != nil {
			o.GetAnnotations()[annotationClient] = membership.MeshKey(i.mesh)
		}
	}
	return objects
}

// turn returns how long to wait before what was decided may be written; 0 also if it needs no writing.
func (i *importing) turn(ctx context.Context, objects []client.Object, label string) (time.Duration, error) {
	for _, o := range objects {
		is, err := i.objects.is(ctx, o, label)
		if err != nil {
			return 0, err
		}
		if !is {
			return i.turns.take(i.key, i.Now()), nil
		}
	}
	i.turns.forget(i.key)
	return 0, nil
}

// apply writes what was decided. The name is last, so that no request goes out without what it needs.
func (i *importing) apply(ctx context.Context, vm *membership.VirtualMesh, home *v1alpha1.Mesh, out *federation.Imported, objects []client.Object) (outcome, error) {
	former := i.former(vm)
	settled := outcome{settled: len(former) == 0, holds: true}
	notes := out.Notes
	rules := []*networkingv1.DestinationRule{out.DestinationRule}
	for _, o := range objects {
		err := i.objects.apply(ctx, o, labelOf(vm))
		f, again, ok := i.obstacle(err, importController, ctrl.Request{NamespacedName: i.key})
		if !ok && err != nil {
			return settled, err
		}
		if !ok {
			continue
		}
		settled.again = again
		notes = append(notes, f)
		if isShort(out, o) { // the last ones, and a further name
			break
		}
		i.report(notes...)
		return settled, nil
	}
	if out.Short != nil {
		rules = append(rules, out.Short.DestinationRule)
	}
	for _, rule := range rules {
		shadows, err := i.shadows(ctx, rule)
		if err != nil {
			return settled, err
		}
		notes = append(notes, shadows...)
	}
	i.report(notes...)
	if wait, err := i.leave(ctx, vm, home, out, former); err != nil || wait > 0 {
		settled.again = wait // not settled: the home mesh keeps the former way as long as proxies may still take it
		return settled, err
	}
	// What else there is was made for a hostname that users have given up, or for a gateway that is gone.
	settled.settled = true
	return settled, i.remove(ctx, "it is not called for any more", func(o client.Object) bool {
		return slices.ContainsFunc(objects, func(w client.Object) bool { return sameObject(w, o) && sameKind(w, o) })
	})
}

// isShort reports whether an object is of the short hostname.
func isShort(out *federation.Imported, o client.Object) bool {
	return out.Short != nil && (o == client.Object(out.Short.DestinationRule) || o == client.Object(out.Short.ServiceEntry))
}

// leave leaves the way of a former trust, which is there beside the one that was just written. It returns how long to wait before
// it goes on; 0 when all of the former way may be deleted.
//
// Of ServiceEntries for one host istiod takes the oldest (Istio: pilot/pkg/model/push_context.go, initServiceRegistry): proxies go
// the new way, all at once, when the former one is deleted. That waits until the home mesh has let in all that it federates under
// the present trust, and gateways were seen to know it. What else is of the former way goes later: were it to go before istiod has heard of the other, proxies would
// for a moment go the former way and not know how to connect.
func (i *importing) leave(ctx context.Context, vm *membership.VirtualMesh, home *v1alpha1.Mesh, out *federation.Imported, former []client.Object) (time.Duration, error) {
	if len(former) == 0 {
		return 0, nil
	}
	if !slices.ContainsFunc(former, isName) { // left already
		return i.left.wait(i.key, i.Now()), nil
	}
	meshes, err := i.network.evidence.ask(ctx, home.Namespace)
	if err != nil {
		return 0, err
	}
	if says, ok := meshes[home.Name]; !ok || says.Generation < vm.Generation {
		return unsettled, nil
	}
	if open, err := i.isOpen(ctx, vm, home, out); err != nil || !open {
		return openInterval, err
	}
	i.opened.forget(i.key)
	for _, o := range former {
		if !isName(o) {
			continue // connections that there are go on by the rest
		}
		if err := i.objects.delete(ctx, o, "the virtual mesh has another trust now"); err != nil {
			return 0, err
		}
		i.left.set(i.key, i.Now().Add(linger))
	}
	return i.left.wait(i.key, i.Now()), nil
}

// isName reports whether an object is what gives workloads a name to call.
func isName(o client.Object) bool {
	e, ok := o.(*networkingv1.ServiceEntry)
	return ok && !slices.ContainsFunc(e.Spec.Hosts, federation.IsOnward)
}

// refused reports whether an API server does not take what it was given, and why is not for the agent to change.
func refused(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsRequestEntityTooLargeError(err) ||
		apierrors.IsForbidden(err) || // as by a quota
		apierrors.IsNotFound(err) // as where there is no such namespace any more
}

// obstacle is what keeps an object from being written, and when to try once more, as it may have gone before it was noted. An error of
// another kind is none.
func (n *network) obstacle(err error, controller string, req ctrl.Request) (f finding.Finding, again time.Duration, ok bool) {
	if f, ok = n.blocked.foreign(err, controller, req); ok {
		return f, refusedAgain, true
	}
	if refused(err) {
		return finding.Finding{Reason: ReasonRefused, Message: err.Error()}, refusedAgain, true
	}
	return f, 0, false
}

// shadows finds rules of others that take the place of ours.
func (i *importing) shadows(ctx context.Context, ours *networkingv1.DestinationRule) (out finding.Findings, err error) {
	for _, host := range covering(ours.Spec.Host) {
		var list networkingv1.DestinationRuleList
		if err := i.istio.GetCache().List(ctx, &list, client.MatchingFields{byHost: host}, client.UnsafeDisableDeepCopy); err != nil {
			return nil, err
		}
		slices.SortFunc(list.Items, byAge)
		for _, rule := range list.Items {
			if f := federation.Shadows(rule, i.mesh.Spec.Istio.RootNamespace, ours); f != nil {
				out = append(out, *f)
			}
		}
	}
	return out, nil
}

// gone follows a destination that was imported and that the hub's cache does not have: what was imported is removed if its home says so.
func (i *importing) gone(ctx context.Context, vm *membership.VirtualMesh) (outcome, error) {
	settled := outcome{settled: true, holds: true}
	home := i.have[0].GetAnnotations()[annotationMesh]
	name, namespace := cutLast(home)
	if namespace != i.key.Namespace {
		return settled, nil // not as we made it
	}
	if !slices.Contains(vm.Spec.Meshes, v1alpha1.ObjectRef{Name: name, Namespace: namespace}) {
		i.report()
		return settled, i.remove(ctx, "its mesh is no member any more", nil)
	}
	said, err := i.federatesOthers(ctx, namespace, name, i.key.Name, vm.Generation)
	if err != nil || !said {
		return outcome{holds: true, again: unsettled}, err
	}
	i.report()
	return settled, i.remove(ctx, "its home agent says that it is not federated any more", nil)
}

// remove deletes what was imported, but for what keep says.
func (i *importing) remove(ctx context.Context, why string, keep func(client.Object) bool) error {
	kept := func(o client.Object) bool { return keep != nil && keep(o) }
	for _, o := range i.have { // ServiceEntries first: without the DestinationRule requests would go out as they must not
		if kept(o) {
			continue
		}
		if err := i.objects.delete(ctx, o, why); err != nil {
			return err
		}
		e, ok := o.(*networkingv1.ServiceEntry)
		if !ok {
			continue
		}
		for _, host := range e.Spec.Hosts {
			if slices.ContainsFunc(i.have, func(o client.Object) bool { return isEntryOf(o, host) && kept(o) }) {
				continue
			}
			if i.imports.drop(i.key.String(), host) {
				i.addresses.release(host)
			}
		}
	}
	return nil
}

// covering are the hosts of rules that cover a hostname: itself, and each wildcard.
func covering(host string) []string {
	out := []string{host}
	for rest := host; ; {
		_, after, ok := strings.Cut(rest, ".")
		if !ok {
			return append(out, "*")
		}
		out = append(out, "*."+after)
		rest = after
	}
}
