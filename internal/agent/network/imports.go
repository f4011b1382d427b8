package network

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/federation"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// Reasons of what keeps a destination from being imported, beside those of package federation.
const (
	// ReasonTooManyImports says that a cluster federates more destinations than are taken of one.
	ReasonTooManyImports = "TooManyImports"
	// ReasonNoAddress says that the range of addresses is used up.
	ReasonNoAddress = "NoAddress"
)

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
	have, err := n.objects.madeFor(ctx, req.String(), &networkingv1.ServiceEntryList{}, &networkingv1.DestinationRuleList{})
	if err != nil {
		return ctrl.Result{}, err
	}
	if d == nil && len(have) == 0 {
		n.imports.remove(req.String())
	}
	settled := true
	for _, name := range slices.Sorted(maps.Keys(v.own)) {
		mesh := v.own[name]
		root := mesh.Spec.Istio.RootNamespace
		one := importing{
			network: n, view: v, key: req.NamespacedName, destination: d, mesh: mesh,
			have: slices.DeleteFunc(slices.Clone(have), func(o client.Object) bool { return o.GetNamespace() != root }),
		}
		ok, err := one.run(ctx)
		if err != nil {
			return ctrl.Result{}, err
		}
		settled = settled && ok
	}
	if !settled {
		return ctrl.Result{RequeueAfter: unsettled}, nil
	}
	n.progress.done(work{importWork, req.Namespace, req.Name}, v.sequence)
	return ctrl.Result{}, nil
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

// run reports whether nothing is waited for.
func (i *importing) run(ctx context.Context) (settled bool, err error) {
	report := func(fs ...finding.Finding) { i.reports.set(i.mesh.Name, i.key, fs) }
	if i.view.frozen(i.mesh) {
		return true, nil
	}
	vm := i.view.of(i.mesh)
	if vm == nil {
		report()
		return true, i.remove(ctx, "the virtual mesh was given up", func(o client.Object) bool {
			return !i.view.givenUp(o.GetLabels()[v1alpha1.LabelVirtualMesh], i.mesh)
		})
	}
	if i.destination == nil {
		return i.gone(ctx, vm)
	}
	home := i.view.meshes[kube.Qualified(i.destination.Spec.Mesh, i.key.Namespace)]
	if home == nil {
		return true, nil // its agent has not reported the mesh, or not yet again
	}
	host := federation.Hostname(vm, i.destination)
	imported := slices.ContainsFunc(i.have, func(o client.Object) bool {
		e, ok := o.(*networkingv1.ServiceEntry)
		return ok && slices.Contains(e.Spec.Hosts, host)
	})
	if !imported && i.imports.full(i.key, i.MaxImports) {
		report(finding.Finding{Reason: ReasonTooManyImports, Message: fmt.Sprintf(
			"the cluster federates more than %d destinations: what is imported stays, further ones are not; select fewer, or raise the agent's --max-imports", i.MaxImports)})
		return true, nil
	}
	out, refusal := federation.Import(vm, federation.Client{Mesh: i.mesh, Imported: imported, Forbidden: i.isForbidden}, home, i.destination)
	switch {
	case refusal != nil && refusal.Withdraw:
		report()
		return true, i.remove(ctx, refusal.Message, nil)
	case refusal != nil && refusal.Reason == federation.ReasonNotTrusted:
		report()
		return false, nil
	case refusal != nil:
		report(refusal.Finding)
		return true, nil
	}
	address, err := i.addresses.of(host)
	if err != nil {
		report(finding.Finding{Reason: ReasonNoAddress, Message: err.Error()})
		return true, nil
	}
	out.ServiceEntry.Spec.Addresses = []string{address}
	return true, i.apply(ctx, vm, home, out, host, report)
}

// apply writes what was decided. The DestinationRule is first, so that no request goes out without it.
func (i *importing) apply(ctx context.Context, vm *membership.VirtualMesh, home *v1alpha1.Mesh, out *federation.Imported, host string, report func(...finding.Finding)) error {
	notes := out.Notes
	for _, o := range []client.Object{out.DestinationRule, out.ServiceEntry} {
		annotate(o, membership.MeshKey(home))
		err := i.objects.apply(ctx, o, labelOf(vm))
		if f, ok := i.blocked.foreign(err, importController, ctrl.Request{NamespacedName: i.key}); ok {
			report(append(notes, f)...)
			return nil
		}
		if err != nil {
			return err
		}
	}
	i.imports.set(i.key.String(), host)
	shadows, err := i.shadows(ctx, out.DestinationRule)
	if err != nil {
		return err
	}
	report(append(notes, shadows...)...)
	// What has another name was made for a hostname that users have given up.
	return i.remove(ctx, "it has another name now", func(o client.Object) bool { return o.GetName() == out.ServiceEntry.Name })
}

// shadows finds rules of others that take the place of ours.
func (i *importing) shadows(ctx context.Context, ours *networkingv1.DestinationRule) (out finding.Findings, err error) {
	for _, host := range covering(ours.Spec.Host) {
		var list networkingv1.DestinationRuleList
		if err := i.istio.GetCache().List(ctx, &list, client.MatchingFields{byHost: host}, client.UnsafeDisableDeepCopy); err != nil {
			return nil, err
		}
		for _, rule := range list.Items {
			if f := federation.Shadows(rule, i.mesh.Spec.Istio.RootNamespace, ours); f != nil {
				out = append(out, *f)
			}
		}
	}
	return out, nil
}

// gone follows a destination that the hub's cache does not have: what was imported is removed if its home says so.
func (i *importing) gone(ctx context.Context, vm *membership.VirtualMesh) (settled bool, err error) {
	if len(i.have) == 0 {
		i.reports.set(i.mesh.Name, i.key, nil)
		return true, nil
	}
	home := i.have[0].GetAnnotations()[annotationMesh]
	name, namespace, _ := cutLast(home)
	if namespace != i.key.Namespace {
		return true, nil // not as we made it
	}
	if !slices.Contains(vm.Spec.Meshes, v1alpha1.ObjectRef{Name: name, Namespace: namespace}) {
		i.reports.set(i.mesh.Name, i.key, nil)
		return true, i.remove(ctx, "its mesh is no member any more", nil)
	}
	said, err := i.evidence.exports(ctx, namespace, name, vm.Generation)
	if err != nil || !said {
		return false, err
	}
	i.reports.set(i.mesh.Name, i.key, nil)
	return true, i.remove(ctx, "its home agent says that it is not federated any more", nil)
}

// remove deletes what was imported, but for what keep says.
func (i *importing) remove(ctx context.Context, why string, keep func(client.Object) bool) error {
	for _, o := range i.have { // ServiceEntries first: without the DestinationRule requests would go out as they must not
		if keep != nil && keep(o) {
			continue
		}
		if err := i.objects.delete(ctx, o, why); err != nil {
			return err
		}
		if e, ok := o.(*networkingv1.ServiceEntry); ok {
			for _, host := range e.Spec.Hosts {
				if i.imports.drop(i.key.String(), host) {
					i.addresses.release(host)
				}
			}
		}
	}
	return nil
}

func (n *network) isForbidden(ip string, port int32) bool {
	servers := n.forbidden.Load()
	return servers != nil && (*servers)[net.JoinHostPort(ip, strconv.Itoa(int(port)))]
}

// importIndex knows what is imported, by hostname and by cluster.
type importIndex struct {
	mu     sync.Mutex
	byHost map[string]string // "<namespace>/<name>" of the Destination
	hostOf map[string]string // the reverse
	byHome map[string]int    // how many, by namespace
}

func newImportIndex() *importIndex {
	return &importIndex{byHost: map[string]string{}, hostOf: map[string]string{}, byHome: map[string]int{}}
}

// set says that a Destination is imported as a hostname.
func (x *importIndex) set(destination, host string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, ok := x.hostOf[destination]; !ok {
		namespace, _, _ := strings.Cut(destination, "/")
		x.byHome[namespace]++
	}
	x.byHost[host], x.hostOf[destination] = destination, host
}

// drop says that a Destination is not imported as a hostname any more; it reports whether it was.
func (x *importIndex) drop(destination, host string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.byHost[host] != destination {
		return false
	}
	delete(x.byHost, host)
	if x.hostOf[destination] == host {
		x.forget(destination)
	}
	return true
}

func (x *importIndex) remove(destination string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if host, ok := x.hostOf[destination]; ok {
		delete(x.byHost, host)
		x.forget(destination)
	}
}

func (x *importIndex) forget(destination string) {
	delete(x.hostOf, destination)
	namespace, _, _ := strings.Cut(destination, "/")
	if x.byHome[namespace]--; x.byHome[namespace] <= 0 {
		delete(x.byHome, namespace)
	}
}

// full reports whether so many destinations of a cluster are imported that another one would be too much.
func (x *importIndex) full(key types.NamespacedName, limit int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, there := x.hostOf[key.String()]
	return !there && x.byHome[key.Namespace] >= limit
}

func (x *importIndex) len() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.hostOf)
}

func (x *importIndex) keys() (out []types.NamespacedName) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for destination := range x.hostOf {
		namespace, name, _ := strings.Cut(destination, "/")
		out = append(out, types.NamespacedName{Namespace: namespace, Name: name})
	}
	return out
}

// ofHosts are the Destinations that are imported as hostnames.
func (x *importIndex) ofHosts(hosts []string) (out []ctrl.Request) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, host := range hosts {
		if namespace, name, ok := strings.Cut(x.byHost[host], "/"); ok {
			out = append(out, ctrl.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}})
		}
	}
	return out
}

// covered are the Destinations whose hostname a host of a rule covers, which may begin with a wildcard.
func (x *importIndex) covered(host string) []ctrl.Request {
	suffix, wild := strings.CutPrefix(host, "*")
	if !wild {
		return x.ofHosts([]string{host})
	}
	x.mu.Lock()
	var hosts []string
	for h := range x.byHost {
		if strings.HasSuffix(h, suffix) {
			hosts = append(hosts, h)
		}
	}
	x.mu.Unlock()
	return x.ofHosts(hosts)
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
