package network

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/federation"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/istio"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/policy"
)

// annotationController names, on the allowance of a gateway, the controller of its pods: "<kind>/<name>".
const annotationController = "isthmus.dev/controller"

// maxErrors of a Mesh's status.
const maxErrors = 50

// reconcileMesh does what concerns a mesh of this cluster as a whole: its gateways, the policies of the whole mesh, and the
// report.
func (n *network) reconcileMesh(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	v := n.view.Load()
	if v == nil || v.own[req.Name] == nil {
		return ctrl.Result{}, nil
	}
	m := meshWork{network: n, view: v, mesh: v.own[req.Name]}
	m.vm = v.of(m.mesh)
	var err error
	if m.have, err = m.existing(ctx); err != nil {
		return ctrl.Result{}, err
	}
	switch {
	case v.frozen(m.mesh):
	case m.vm != nil && !n.isAnnounced(m.mesh.Name, m.vm.Name):
		m.waiting = true // for the report of this time
	default:
		if err := m.gateways(ctx); err != nil {
			return ctrl.Result{}, err
		}
		if err := m.policies(ctx); err != nil {
			return ctrl.Result{}, err
		}
	}
	return ctrl.Result{RequeueAfter: m.again}, m.report(ctx)
}

// meshWork is one reconciliation of a mesh.
type meshWork struct {
	*network
	view *view
	mesh *v1alpha1.Mesh
	vm   *membership.VirtualMesh // nil if none is in force
	have []client.Object         // what was made for the mesh as a whole

	problems  finding.Findings
	exclusive *metav1.Condition
	waiting   bool          // for something that was not written yet
	unknown   bool          // whether something is a gateway
	again     time.Duration // when to try once more what the API server has refused, or what is unknown; 0 for never
}

// existing finds what was made for the mesh as a whole.
func (m *meshWork) existing(ctx context.Context) (out []client.Object, err error) {
	key := membership.MeshKey(m.mesh)
	for _, list := range []client.ObjectList{&networkingv1.GatewayList{}, &securityv1.AuthorizationPolicyList{}, &securityv1.PeerAuthenticationList{}} {
		if err := m.istio.GetCache().List(ctx, list, client.MatchingFields{byMesh: key}); err != nil {
			return nil, err
		}
		out = append(out, items(list)...)
	}
	return out, nil
}

// gateways lets in what is federated and nothing else.
func (m *meshWork) gateways(ctx context.Context) error {
	if m.vm == nil {
		return m.prune(ctx, nil, isGateway)
	}
	if !m.progress.settled(ownWork) {
		m.waiting = true // it is not known yet what is federated: what is admitted stays
		return nil
	}
	former, err := m.former(ctx, m.vm, m.mesh, nil)
	if err != nil {
		return err
	}
	m.mu.Lock()
	hosts := m.exportsOf(m.mesh.Name).Hosts(m.vm, m.mesh)
	m.mu.Unlock()
	chosen, _ := federation.ChosenGateways(m.vm, m.mesh) // what is missing is said at each Destination
	through, by := chosen, m.vm
	if m.vm.Limited() { // each Destination has Gateways of its own; others may still come as they did under other trust
		if through, by = nil, m.vm.WithTrust(false); former {
			through, _ = federation.ChosenGateways(by, m.mesh)
		}
	}
	var want []client.Object
	if m.vm.Spec.Federation == nil || !m.vm.Spec.Federation.FlatNetwork {
		for _, g := range through {
			if o := federation.GatewayObject(by, m.mesh, g, hosts); o != nil {
				want = append(want, o)
			}
		}
	}
	if err := m.apply(ctx, want...); err != nil {
		return err
	}
	if m.again > 0 {
		m.waiting = true // others are not told of what is not let in
		return nil
	}
	if len(want) > 0 || len(hosts) == 0 || len(through) > 0 || m.vm.Limited() && !former { // gateways that went away for a moment keep what they admit
		if err := m.prune(ctx, want, isGateway); err != nil {
			return err
		}
	}
	if err := m.passThrough(ctx, append(slices.Clone(through), chosen...), len(want) > 0 || m.vm.Limited() && len(hosts) > 0); err != nil {
		return err
	}
	m.publish()
	return nil
}

// publish has the Lease say what is exported, now that it is complete.
func (m *meshWork) publish() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.exported[m.mesh.Name] = m.vm.Generation
	says := exported{m.vm.Generation, m.exportsOf(m.mesh.Name).Digest()}
	if m.published[m.mesh.Name] != says {
		m.published[m.mesh.Name] = says
		m.refresh()
	}
}

// passThrough finds what else the gateways let pass.
func (m *meshWork) passThrough(ctx context.Context, chosen []federation.Gateway, federated bool) error {
	if !federated {
		return nil
	}
	var list networkingv1.GatewayList
	if err := m.istio.GetCache().List(ctx, &list, client.MatchingFields{byOthers: "true"}, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	m.exclusive = &metav1.Condition{
		Type: v1alpha1.ConditionGatewayExclusive, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady,
		Message: "the gateways let pass what is federated and nothing else",
	}
	slices.SortFunc(chosen, func(a, b federation.Gateway) int { return strings.Compare(a.String(), b.String()) })
	chosen = slices.CompactFunc(chosen, func(a, b federation.Gateway) bool { return a.String() == b.String() })
	var found finding.Findings
	slices.SortFunc(list.Items, byAge)
	for _, other := range list.Items {
		for _, g := range chosen {
			if f := federation.PassThrough(g, other); f != nil {
				found = append(found, *f)
			}
		}
	}
	if len(found) > 0 {
		*m.exclusive = found.Condition(v1alpha1.ConditionGatewayExclusive, "", "")
	}
	return nil
}

// policies are in this order: what allows, then what denies; and what denied is taken away before what allowed. istiod hears
// of objects of one kind in the order in which they were written, so that no proxy is ever told to deny what is allowed.
func (m *meshWork) policies(ctx context.Context) error {
	if m.vm == nil {
		if err := m.prune(ctx, nil, isDenial); err != nil {
			return err
		}
		return m.prune(ctx, nil, func(o client.Object) bool { return !isGateway(o) })
	}
	denial := policy.GlobalDenial(m.vm, m.mesh)
	if denial == nil {
		if err := m.prune(ctx, nil, isDenial); err != nil {
			return err
		}
	}
	allowances, err := m.allowances(ctx)
	if err != nil {
		return err
	}
	before := len(m.problems)
	if err := m.apply(ctx, allowances...); err != nil {
		return err
	}
	if denial != nil {
		_, exists := m.find(isDenial)
		switch {
		case len(m.problems) > before, m.unknown: // an allowance could not be written, or may be missing
			m.waiting = m.waiting || !exists
		case !exists && !m.progress.settled(ownWork), !exists && m.vm.Limited() && !m.progress.settled(importWork):
			m.waiting = true
		default:
			if err := m.apply(ctx, denial); err != nil {
				return err
			}
			allowances = append(allowances, denial)
		}
	}
	if denial != nil && (len(m.problems) > before || m.unknown) {
		allowances = append(allowances, denial) // stays if it exists
	}
	want := allowances
	if tls := policy.PeerAuthentication(m.vm, m.mesh); tls != nil {
		ok, err := m.overruled(ctx, tls)
		if err != nil {
			return err
		}
		if ok {
			if err := m.apply(ctx, tls); err != nil {
				return err
			}
		}
		want = append(want, tls)
	}
	return m.prune(ctx, want, func(o client.Object) bool { return !isGateway(o) })
}

// allowances keep the gateways working where everything is denied. The hub says which controllers to look at, and this cluster
// what they are: who has but its credential for the hub shall open no workload.
func (m *meshWork) allowances(ctx context.Context) (out []client.Object, err error) {
	if policy.GlobalDenial(m.vm, m.mesh) == nil {
		return nil, nil
	}
	var list v1alpha1.WorkloadList
	if err := m.hub.GetClient().List(ctx, &list, client.InNamespace(m.namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	for i := range list.Items {
		w := &list.Items[i].Spec
		if w.DataPlane != v1alpha1.DataPlaneGateway || w.Mesh != m.mesh.Name {
			continue
		}
		var state istio.Membership
		if out, state, err = m.allow(ctx, out, w.Controller.Kind, w.Controller.Namespace, w.Controller.Name); err != nil {
			return nil, err
		}
		if state == istio.Unknown { // nothing is denied to a gateway for want of an answer
			m.unknown, m.again = true, sooner(m.again, unsettled)
		}
	}
	for _, o := range slices.Clone(m.have) { // the hub may have forgotten a gateway
		kind, name, ok := strings.Cut(o.GetAnnotations()[annotationController], "/")
		if !ok {
			continue
		}
		var state istio.Membership
		if out, state, err = m.allow(ctx, out, kind, o.GetNamespace(), name); err != nil {
			return nil, err
		}
		stays := state == istio.Unknown
		if state == istio.Outside { // as in a namespace that is not looked at, or while istiod is installed anew
			if stays, err = m.controllerExists(ctx, kind, types.NamespacedName{Namespace: o.GetNamespace(), Name: name}); err != nil {
				return nil, err
			}
		}
		if stays {
			m.keep(o)
		}
	}
	return out, nil
}

// allow adds the allowance of a controller if it is a gateway of the mesh. state says what the controller is to this cluster.
func (m *meshWork) allow(ctx context.Context, to []client.Object, kind, namespace, name string) (out []client.Object, state istio.Membership, err error) {
	w, state, err := m.discovery.Workload(ctx, kind, namespace, name)
	if err != nil || state != istio.Inside || w.DataPlane != v1alpha1.DataPlaneGateway || w.Mesh != m.mesh.Name {
		return to, state, err
	}
	p := policy.GatewayAllowance(m.vm, &w)
	if p == nil || slices.ContainsFunc(to, func(o client.Object) bool { return sameObject(o, p) }) {
		return to, state, nil
	}
	annotate(p, membership.MeshKey(m.mesh))
	p.Annotations[annotationController] = kind + "/" + name
	return append(to, p), state, nil
}

func (m *meshWork) controllerExists(ctx context.Context, kind string, key types.NamespacedName) (bool, error) {
	obj := &metav1.PartialObjectMetadata{}
	obj.SetGroupVersionKind(appsv1.SchemeGroupVersion.WithKind(kind))
	err := m.live.Get(ctx, key, obj)
	return err == nil, client.IgnoreNotFound(err)
}

// keep leaves an object out of what may be deleted.
func (m *meshWork) keep(o client.Object) {
	m.have = slices.DeleteFunc(m.have, func(have client.Object) bool { return have == o })
}

// overruled finds a PeerAuthentication of somebody else for the whole mesh: Istio takes the oldest.
func (m *meshWork) overruled(ctx context.Context, ours *securityv1.PeerAuthentication) (ok bool, err error) {
	var list securityv1.PeerAuthenticationList
	if err := m.istio.GetCache().List(ctx, &list, client.InNamespace(ours.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return false, err
	}
	slices.SortFunc(list.Items, byAge)
	have, exists := m.find(func(o client.Object) bool { return sameObject(o, ours) && isPeerAuthentication(o) })
	for _, other := range list.Items {
		if isOurs(other) || len(other.Spec.GetSelector().GetMatchLabels()) > 0 {
			continue
		}
		if !exists || other.CreationTimestamp.Before(new(have.GetCreationTimestamp())) {
			m.problems = append(m.problems, finding.Finding{
				Field: "spec.federation.tlsEnforcementSettings", Reason: ReasonForeignObject,
				Message: fmt.Sprintf("PeerAuthentication %s/%s is older and holds for the whole mesh: delete it, or leave enforcementMode out", other.Namespace, other.Name),
			})
			return exists, nil
		}
	}
	return true, nil
}

// apply writes objects of the mesh; one that somebody else has made, or that is refused, is reported.
func (m *meshWork) apply(ctx context.Context, objects ...client.Object) error {
	for _, o := range objects {
		annotate(o, membership.MeshKey(m.mesh))
		err := m.objects.apply(ctx, o, labelOf(m.vm))
		if f, again, ok := m.obstacle(err, meshController, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(m.mesh)}); ok {
			m.problems, m.again = append(m.problems, f), sooner(m.again, again)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// prune deletes of what there is, and may be deleted, what is not wanted.
func (m *meshWork) prune(ctx context.Context, want []client.Object, which func(client.Object) bool) error {
	for _, o := range m.have {
		if !which(o) || slices.ContainsFunc(want, func(w client.Object) bool { return sameObject(w, o) && sameKind(w, o) }) {
			continue
		}
		if m.vm == nil && !m.view.givenUp(o.GetLabels()[v1alpha1.LabelVirtualMesh], m.mesh) {
			continue
		}
		if err := m.objects.delete(ctx, o, "the virtual mesh does not call for it"); err != nil {
			return err
		}
	}
	return nil
}

func (m *meshWork) find(which func(client.Object) bool) (client.Object, bool) {
	i := slices.IndexFunc(m.have, which)
	if i < 0 {
		return nil, false
	}
	return m.have[i], true
}

func isGateway(o client.Object) bool { _, ok := o.(*networkingv1.Gateway); return ok }

func isPeerAuthentication(o client.Object) bool {
	_, ok := o.(*securityv1.PeerAuthentication)
	return ok
}

func isDenial(o client.Object) bool {
	_, ok := o.(*securityv1.AuthorizationPolicy)
	return ok && o.GetAnnotations()[annotationController] == ""
}

func sameObject(a, b client.Object) bool {
	return a.GetName() == b.GetName() && a.GetNamespace() == b.GetNamespace()
}

func sameKind(a, b client.Object) bool { return fmt.Sprintf("%T", a) == fmt.Sprintf("%T", b) }

// report writes what is applied and what was found.
func (m *meshWork) report(ctx context.Context) error {
	live := &v1alpha1.Mesh{}
	if err := m.hub.GetClient().Get(ctx, client.ObjectKeyFromObject(m.mesh), live); err != nil {
		return client.IgnoreNotFound(err)
	}
	want := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Name: live.Name, Namespace: live.Namespace}}
	applied, err := m.applied(ctx, live)
	if err != nil {
		return err
	}
	want.Status.AppliedVirtualMeshes = applied
	want.Status.AppliedAccessPolicies = live.Status.AppliedAccessPolicies
	switch {
	case m.vm == nil && len(applied) == 0:
		want.Status.AppliedAccessPolicies = nil
	case m.vm != nil && m.progress.settled(ownWork) && (!m.vm.Limited() || m.progress.settled(importWork)):
		want.Status.AppliedAccessPolicies = nil
		for _, p := range m.view.policies {
			want.Status.AppliedAccessPolicies = append(want.Status.AppliedAccessPolicies, v1alpha1.AppliedAccessPolicy{Name: p.Name, Generation: p.generation})
		}
		slices.SortFunc(want.Status.AppliedAccessPolicies, func(a, b v1alpha1.AppliedAccessPolicy) int { return strings.Compare(a.Name, b.Name) })
		want.Status.AppliedAccessPolicies = atMost(want.Status.AppliedAccessPolicies, 2048)
	}
	want.Status.AppliedVirtualDestinations = m.namesOr(live.Status.AppliedVirtualDestinations)
	want.Status.Errors = m.errorsOr(live.Status.Errors)
	if m.exclusive == nil && (m.waiting || m.view.frozen(m.mesh)) { // not looked at this time
		m.exclusive = meta.FindStatusCondition(live.Status.Conditions, v1alpha1.ConditionGatewayExclusive)
	}
	if m.exclusive != nil {
		want.Status.Conditions = finding.Conditions(live.Status.Conditions, live.Generation, *m.exclusive)
	}
	m.measure(len(want.Status.Errors))
	err = kube.ApplyStatus(ctx, m.hub.GetClient(), fieldOwner, live, want)
	if apierrors.IsConflict(err) {
		return nil // the Mesh was made anew meanwhile; its event comes
	}
	if err != nil || m.vm == nil {
		return err
	}
	return m.announce(ctx, m.mesh.Name, m.vm.Name)
}

// errorsOr returns the errors that were found, or those that were reported if they change too often. Until everything has been
// looked at, as after a start, what was reported is not over.
func (m *meshWork) errorsOr(reported []string) []string {
	problems := m.problems.Errors()
	problems = append(problems, m.reports.of(m.mesh.Name, maxErrors-len(problems))...)
	if !m.progress.settled(ownWork, importWork, nameWork) || m.GatewayProbeInterval > 0 && !m.reports.tried(m.mesh.Name) {
		problems = withOthers(problems, reported, maxErrors)
	}
	if slices.Equal(problems, reported) {
		return problems
	}
	if wait := m.network.errors.try(m.mesh.Name, m.Now()); wait > 0 {
		m.lookAtMeshes(wait)
		return reported
	}
	return problems
}

// namesOr returns what became of virtual destinations, or what was reported: if not all were looked at yet, or if it changes too
// often.
func (m *meshWork) namesOr(reported []v1alpha1.AppliedVirtualDestination) []v1alpha1.AppliedVirtualDestination {
	if !m.progress.settled(nameWork) || m.view.frozen(m.mesh) {
		return reported
	}
	is := m.names.of(m.mesh.Name)
	if equality.Semantic.DeepEqual(is, reported) {
		return is
	}
	if wait := m.said.try(m.mesh.Name, m.Now()); wait > 0 {
		m.lookAtMeshes(wait)
		return reported
	}
	return is
}

// withOthers returns others and, after them, the errors that are not among them, up to a limit.
func withOthers(errs, others []string, limit int) []string {
	out := slices.Clone(others)
	for _, e := range errs {
		if !slices.Contains(others, e) {
			out = append(out, e)
		}
	}
	return atMost(out, limit)
}

// applied says which generation of which virtual mesh is in force. One that was given up is named until nothing of it is left.
func (m *meshWork) applied(ctx context.Context, live *v1alpha1.Mesh) (out []v1alpha1.AppliedVirtualMesh, err error) {
	for _, was := range live.Status.AppliedVirtualMeshes {
		if m.vm != nil && was.Name == m.vm.Name {
			if !m.settled() {
				out = append(out, was)
			}
			continue
		}
		name, namespace := cutLast(was.Name)
		label := kube.VirtualMeshLabel(name, namespace)
		if !m.view.givenUp(label, m.mesh) || !m.progress.settled(ownWork, importWork, nameWork) {
			out = append(out, was)
			continue
		}
		left, err := m.leftOf(ctx, label)
		if err != nil {
			return nil, err
		}
		if left {
			out = append(out, was)
			m.lookAtMeshes(unsettled) // the cache may be behind what was deleted, and nobody tells when it is not
		}
	}
	if m.vm != nil && m.settled() && !m.view.frozen(m.mesh) {
		out = append(out, v1alpha1.AppliedVirtualMesh{Name: m.vm.Name, Generation: m.vm.Generation})
	} else if m.vm != nil && m.settled() {
		for _, was := range live.Status.AppliedVirtualMeshes {
			if was.Name == m.vm.Name {
				out = append(out, was)
			}
		}
	}
	if m.vm != nil && !slices.ContainsFunc(out, func(a v1alpha1.AppliedVirtualMesh) bool { return a.Name == m.vm.Name }) {
		out = append(out, v1alpha1.AppliedVirtualMesh{Name: m.vm.Name}) // nothing yet, and something from now on
	}
	slices.SortFunc(out, func(a, b v1alpha1.AppliedVirtualMesh) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func (m *meshWork) settled() bool {
	return !m.waiting && m.progress.settled(ownWork, importWork, nameWork) && m.view == m.network.view.Load()
}

// leftOf reports whether this cluster still has objects of a virtual mesh.
func (m *meshWork) leftOf(ctx context.Context, label string) (bool, error) {
	for _, kind := range kindsOfIstio() {
		indexer, err := indexerOf(ctx, m.istio.GetCache(), kind)
		if err != nil {
			return false, err
		}
		if keys, err := indexer.IndexKeys(byVirtualMesh, label); err != nil || len(keys) > 0 {
			return err == nil, err
		}
	}
	return false, nil
}
