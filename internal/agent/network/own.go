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
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// maxEndpoints of a destination in a flat network.
const maxEndpoints = 1000

// reconcileOwn federates a Destination of this cluster, protects it, and reports both. It goes by what this cluster sees: who has
// but its credential for the hub shall change no policy here.
func (n *network) reconcileOwn(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	v := n.view.Load()
	if v == nil {
		return ctrl.Result{}, nil
	}
	done := func() { n.progress.done(work{ownWork, req.Namespace, req.Name}, v.sequence) }
	d, there, err := n.seen(ctx, req.NamespacedName)
	if err != nil {
		return ctrl.Result{}, err
	}
	if d == nil {
		state, err := n.discovery.State(ctx, req.Name)
		if err == nil && state == istio.Outside {
			err = n.ownGone(ctx, v, req)
		}
		if err != nil {
			return ctrl.Result{}, err
		}
		if state != istio.Inside { // discovery will have the hub have it
			done()
		}
		if state != istio.Outside || there {
			return ctrl.Result{RequeueAfter: unsettled}, nil
		}
		return ctrl.Result{}, nil
	}
	mesh := v.own[d.Spec.Mesh]
	if mesh == nil || v.frozen(mesh) {
		done()
		return ctrl.Result{}, nil
	}
	vm := v.of(mesh)
	have, err := n.objects.madeFor(ctx, req.String(), kindsOfExports()...)
	if err != nil {
		return ctrl.Result{}, err
	}
	if vm == nil && !n.givenUp(v, mesh, d, have) {
		done()
		return ctrl.Result{}, nil
	}
	if vm != nil && !n.isAnnounced(mesh.Name, vm.Name) {
		return ctrl.Result{}, nil // looked at when it is
	}
	state := ownState{}
	if vm != nil {
		former, err := n.former(ctx, vm, mesh, have)
		if err != nil {
			return ctrl.Result{}, err
		}
		if state, err = n.judge(ctx, v, vm, mesh, d, former); err != nil {
			return ctrl.Result{}, err
		}
	}
	var label string
	if vm != nil {
		label = labelOf(vm)
	}
	again, err := n.write(ctx, req, &state, label)
	if err != nil {
		return ctrl.Result{}, err
	}
	stay := func(o client.Object) bool {
		return state.blind && isPolicy(o) || state.keeps && !isPolicy(o)
	}
	if err := n.prune(ctx, slices.DeleteFunc(have, stay), state.objects, "the virtual mesh does not call for it"); err != nil {
		return ctrl.Result{}, err
	}
	if err := n.reportOwn(ctx, d, state); err != nil {
		return ctrl.Result{}, err
	}
	n.export(mesh, d, state.federation != nil)
	done()
	return ctrl.Result{RequeueAfter: again}, nil
}

// seen returns a Destination of this cluster as this cluster sees it; nil if the hub has none, or the cluster calls for none. there says
// whether the hub has one.
func (n *network) seen(ctx context.Context, key client.ObjectKey) (d *v1alpha1.Destination, there bool, err error) {
	d = &v1alpha1.Destination{}
	if err := n.hub.GetClient().Get(ctx, key, d); err != nil {
		return nil, false, client.IgnoreNotFound(err)
	}
	d, err = n.discovery.Seen(ctx, d)
	return d, true, err
}

// write writes what a Destination of this cluster shall be, and adds to its findings what cannot be written. Where that is what
// protects it, none of its policies is in force, and nothing more lets others in. again is when to try once more; 0 for never.
func (n *network) write(ctx context.Context, req ctrl.Request, s *ownState, label string) (again time.Duration, err error) {
	for _, want := range s.objects {
		err := n.objects.apply(ctx, want, label)
		f, later, ok := n.obstacle(err, ownController, req)
		if !ok && err != nil {
			return 0, err
		}
		if !ok {
			continue
		}
		again = sooner(again, later)
		s.findings = append(s.findings, f)
		if !isPolicy(want) {
			continue
		}
		for i := range s.verdicts {
			s.verdicts[i].Errors = append(slices.Clip(s.verdicts[i].Errors), f)
		}
		break
	}
	return again, nil
}

func isPolicy(o client.Object) bool { _, ok := o.(*securityv1.AuthorizationPolicy); return ok }

// ownState is what a Destination of this cluster shall be.
type ownState struct {
	federation *v1alpha1.AppliedFederation
	findings   finding.Findings
	objects    []client.Object // in the order in which they are written
	verdicts   []policy.Verdict
	// blind says that it is not known what policies to write, as a member is not reported: those that there are stay.
	blind bool
	// keeps says that gateways are missing for a moment: what lets others in stays.
	keeps bool
}

func (n *network) judge(ctx context.Context, v *view, vm *membership.VirtualMesh, mesh *v1alpha1.Mesh, d *v1alpha1.Destination, former bool) (s ownState, err error) {
	s.federation, s.findings = federation.Federate(vm, mesh, d)
	if s.federation == nil && len(s.findings) > 0 && d.Status.AppliedFederation != nil && passing(s.findings) {
		s.federation = d.Status.AppliedFederation.DeepCopy() // what works is not taken away for what is missing now
	}
	if f := s.federation; f != nil {
		if f.Subsets, err = n.subsets(ctx, vm, mesh, d); err != nil {
			return s, err
		}
		f.Endpoints = nil
		if vm.Spec.Federation != nil && vm.Spec.Federation.FlatNetwork && !vm.Limited() {
			if f.Endpoints, err = n.endpoints(ctx, d); err != nil {
				return s, err
			}
		}
	}
	allow, verdicts := policy.For(vm, mesh, d, v.accepted, former)
	s.verdicts = verdicts
	noIngress := (vm.Limited() || former) && s.federation != nil && len(policy.Ingress(mesh)) == 0 // by which those who come through it are told
	s.blind = d.Status.ObservedGeneration != 0 && (noIngress || slices.ContainsFunc(verdicts, notReported))
	if !s.blind {
		if allow != nil {
			s.objects = append(s.objects, allow)
		}
		shared := vm
		if vm.Limited() && former {
			shared = vm.WithTrust(false)
		}
		if s.federation != nil {
			if deny, _ := policy.ClientMeshes(shared, mesh, d, s.federation); deny != nil {
				s.objects = append(s.objects, deny)
			}
		}
	}
	if s.federation != nil && (vm.Limited() || former) {
		limited := vm
		if !vm.Limited() {
			limited = vm.WithTrust(true)
		}
		if a := federation.Admit(limited, mesh, d); a != nil {
			for _, o := range a.VirtualServices {
				s.objects = append(s.objects, o)
			}
			for _, o := range a.Gateways { // last, so that none is there without a way on
				s.objects = append(s.objects, o)
			}
		} else {
			s.keeps = true
		}
	}
	for _, o := range s.objects {
		annotate(o, membership.MeshKey(mesh))
	}
	return s, nil
}

// former reports whether another member may still enter a mesh in the way of another trust than that of the virtual mesh, as after
// it has changed from shared trust to limited or back: then there is still what lets it in, and someone has not said yet that he
// has done with it.
func (n *network) former(ctx context.Context, vm *membership.VirtualMesh, mesh *v1alpha1.Mesh, have []client.Object) (bool, error) {
	if vm.AppliedByOthers(mesh) {
		return false, nil
	}
	there := slices.ContainsFunc(have, isGateway)
	if vm.Limited() {
		var list networkingv1.GatewayList
		err := n.istio.GetCache().List(ctx, &list, client.MatchingFields{byMesh: membership.MeshKey(mesh)}, client.UnsafeDisableDeepCopy)
		if err != nil {
			return false, err
		}
		there = len(list.Items) > 0
	}
	if there {
		n.retain(mesh.Name)
	}
	return there, nil
}

// retain notes that a mesh keeps what others need until they have done with it, which the view may have seen already.
func (n *network) retain(mesh string) {
	n.mu.Lock()
	news := !n.retains[mesh]
	n.retains[mesh] = true
	n.mu.Unlock()
	if news {
		n.enqueue(viewController, 0, all)
	}
}

// released reports whether a mesh has kept what others needed, and nobody does any more.
func (n *network) released(vm *membership.VirtualMesh, mesh *v1alpha1.Mesh) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if vm == nil || !n.retains[mesh.Name] || !vm.AppliedByOthers(mesh) {
		return false
	}
	delete(n.retains, mesh.Name)
	return true
}

// notReported reports whether a policy cannot be enforced because a member is not reported, as after a hub was restored.
func notReported(v policy.Verdict) bool { return len(v.Errors.With(policy.ReasonMeshNotReported)) > 0 }

// subsets of the service that the gateways of the mesh know.
func (n *network) subsets(ctx context.Context, vm *membership.VirtualMesh, mesh *v1alpha1.Mesh, d *v1alpha1.Destination) ([]string, error) {
	gateways, _ := federation.ChosenGateways(vm, mesh)
	if len(gateways) == 0 {
		return nil, nil
	}
	s := &d.Spec.KubeService
	var rules []*networkingv1.DestinationRule
	for _, host := range nativeHosts(mesh, s) {
		var list networkingv1.DestinationRuleList
		if err := n.istio.GetCache().List(ctx, &list, client.MatchingFields{byHost: host}, client.UnsafeDisableDeepCopy); err != nil {
			return nil, err
		}
		rules = append(rules, list.Items...)
	}
	if len(rules) == 0 {
		return nil, nil
	}
	return federation.SubsetsOf(mesh, gateways[0].Namespace, s, rules), nil
}

// endpoints are the ready pods of a Service and their ports, sorted.
func (n *network) endpoints(ctx context.Context, d *v1alpha1.Destination) ([]v1alpha1.FederatedEndpoint, error) {
	if err := n.watchSlices(); err != nil {
		return nil, err
	}
	s := &d.Spec.KubeService
	var list discoveryv1.EndpointSliceList
	err := n.istio.GetCache().List(ctx, &list, client.InNamespace(s.Namespace),
		client.MatchingLabels{discoveryv1.LabelServiceName: s.Name}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, err
	}
	byAddress := map[string]v1alpha1.FederatedEndpoint{}
	for i := range list.Items {
		slice := &list.Items[i]
		ports := map[string]int32{}
		for _, p := range slice.Ports {
			if p.Port != nil && p.Name != nil {
				ports[portName(s, *p.Name)] = *p.Port
			}
		}
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			for _, a := range e.Addresses {
				byAddress[a] = v1alpha1.FederatedEndpoint{Address: a, Ports: ports}
			}
		}
	}
	var out []v1alpha1.FederatedEndpoint
	for _, a := range slices.Sorted(maps.Keys(byAddress)) {
		if len(out) < maxEndpoints {
			out = append(out, byAddress[a])
		}
	}
	return out, nil
}

// portName is the name of a Service's port in other meshes.
func portName(s *v1alpha1.KubeService, name string) string {
	if name == "" && len(s.Ports) > 0 {
		return fmt.Sprintf("port-%d", s.Ports[0].Port)
	}
	return name
}

// nativeHosts are the hosts by which a DestinationRule may be about a service, as they may be written.
func nativeHosts(mesh *v1alpha1.Mesh, s *v1alpha1.KubeService) []string {
	domain := cmp.Or(mesh.Spec.Istio.ClusterDomain, "cluster.local")
	short := s.Name + "." + s.Namespace
	return append([]string{s.Name, short, short + ".svc"}, covering(short+".svc."+domain)...)
}

// passing reports whether all findings are about what may be missing for a moment.
func passing(fs finding.Findings) bool {
	return !slices.ContainsFunc(fs, func(f finding.Finding) bool {
		return f.Reason != federation.ReasonNoGateway && f.Reason != federation.ReasonNoIdentity && f.Reason != federation.ReasonInvalidIdentity
	})
}

// watchSlices watches EndpointSlices from the first time that a flat network calls for them.
func (n *network) watchSlices() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.flat {
		return nil
	}
	if err := n.addFlat(); err != nil {
		return err
	}
	n.flat = true
	return nil
}

// reportOwn writes label and status of a Destination.
func (n *network) reportOwn(ctx context.Context, d *v1alpha1.Destination, s ownState) error {
	want := &v1alpha1.Destination{ObjectMeta: metav1.ObjectMeta{Name: d.Name, Namespace: d.Namespace}}
	st := &want.Status
	st.AppliedFederation = s.federation
	problems := slices.Clone(s.findings)
	for _, verdict := range s.verdicts {
		for _, note := range verdict.Notes {
			problems = append(problems, aboutPolicy(verdict.Policy, note))
		}
		if len(verdict.Errors) == 0 {
			st.AppliedAccessPolicies = append(st.AppliedAccessPolicies, verdict.Policy)
			continue
		}
		st.RejectedAccessPolicies = append(st.RejectedAccessPolicies, v1alpha1.RejectedAccessPolicy{
			Name: verdict.Policy, Errors: atMost(verdict.Errors.Errors(), 16),
		})
		for _, e := range verdict.Errors {
			problems = append(problems, aboutPolicy(verdict.Policy, e))
		}
	}
	st.AppliedAccessPolicies = atMost(st.AppliedAccessPolicies, 64)
	st.RejectedAccessPolicies = atMost(st.RejectedAccessPolicies, 64)
	st.Errors = problems.Errors()
	if s.federation != nil || len(s.verdicts) > 0 || len(problems) > 0 {
		st.ObservedGeneration = d.Generation
		st.Conditions = finding.Conditions(d.Status.Conditions, d.Generation, problems.Condition(v1alpha1.ConditionReady, v1alpha1.ReasonReady, "in force"))
	}
	hub := n.hub.GetClient()
	if err := kube.ApplyStatus(ctx, hub, fieldOwner, d, want); err != nil {
		return err
	}
	// Last, and after the status has come back, so that other agents hear of a Destination that is complete, and once.
	labelled := d.Labels[v1alpha1.LabelFederated] != ""
	if labelled == (s.federation != nil) || !labelled && !equality.Semantic.DeepEqual(d.Status.AppliedFederation, s.federation) {
		return nil
	}
	was := d.DeepCopy()
	is := d.DeepCopy()
	if s.federation != nil {
		metav1.SetMetaDataLabel(&is.ObjectMeta, v1alpha1.LabelFederated, "true")
	} else {
		delete(is.Labels, v1alpha1.LabelFederated)
	}
	return client.IgnoreNotFound(hub.Patch(ctx, is, client.MergeFrom(was), client.FieldOwner(fieldOwner)))
}

// aboutPolicy is a finding about an AccessPolicy as a Destination reports it.
func aboutPolicy(name string, f finding.Finding) finding.Finding {
	return finding.Finding{Reason: f.Reason, Message: "AccessPolicy " + name + ": " + f.String()}
}

// export keeps the set of what a mesh federates.
func (n *network) export(mesh *v1alpha1.Mesh, d *v1alpha1.Destination, federated bool) {
	service := ""
	if federated {
		service = d.Spec.KubeService.Name
	}
	n.mu.Lock()
	changed := n.exportsOf(mesh.Name).Set(d.Name, service, d.Spec.KubeService.Namespace)
	for other, e := range n.exports {
		if other != mesh.Name { // in which it was before
			changed = e.Set(d.Name, "", "") || changed
		}
	}
	n.mu.Unlock()
	if changed {
		n.lookAtMeshes(0)
	}
}

// ownGone takes back what was made for a Destination for which the cluster does not call any more.
func (n *network) ownGone(ctx context.Context, v *view, req ctrl.Request) error {
	have, err := n.objects.madeFor(ctx, req.String(), kindsOfExports()...)
	if err != nil {
		return err
	}
	for _, mesh := range v.own {
		if v.frozen(mesh) {
			return nil
		}
	}
	if err := n.prune(ctx, have, nil, "the Service is gone or in no mesh"); err != nil {
		return err
	}
	changed := false
	n.mu.Lock()
	for _, e := range n.exports {
		changed = e.Set(req.Name, "", "") || changed
	}
	n.mu.Unlock()
	if changed {
		n.lookAtMeshes(0)
	}
	return nil
}

// givenUp reports whether all that was made for a Destination belongs to virtual meshes that users have given up.
func (n *network) givenUp(v *view, mesh *v1alpha1.Mesh, d *v1alpha1.Destination, have []client.Object) bool {
	if f := d.Status.AppliedFederation; f != nil {
		name, namespace := cutLast(f.VirtualMesh)
		if !v.givenUp(kube.VirtualMeshLabel(name, namespace), mesh) {
			return false
		}
	}
	return !slices.ContainsFunc(have, func(o client.Object) bool { return !v.givenUp(o.GetLabels()[v1alpha1.LabelVirtualMesh], mesh) })
}

// prune deletes of what there is what is not wanted.
func (n *network) prune(ctx context.Context, have []client.Object, want []client.Object, why string) error {
	for _, o := range have {
		if slices.ContainsFunc(want, func(w client.Object) bool { return sameObject(w, o) && sameKind(w, o) }) {
			continue
		}
		if err := n.objects.delete(ctx, o, why); err != nil {
			return err
		}
	}
	return nil
}

// annotate names the mesh that an object was made for.
func annotate(o client.Object, mesh string) {
	annotations := maps.Clone(o.GetAnnotations())
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[annotationMesh] = mesh
	o.SetAnnotations(annotations)
}

func labelOf(vm *membership.VirtualMesh) string {
	name, namespace := cutLast(vm.Name)
	return kube.VirtualMeshLabel(name, namespace)
}

// cutLast splits "<name>.<namespace>": a name may have dots, a namespace has none.
func cutLast(qualified string) (name, namespace string) {
	i := strings.LastIndexByte(qualified, '.')
	if i < 0 {
		return qualified, ""
	}
	return qualified[:i], qualified[i+1:]
}

func atMost[T any](list []T, limit int) []T { return list[:min(len(list), limit)] }
