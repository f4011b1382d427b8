// Package policy makes Istio's authorization and authentication policies of the access policies and the TLS settings of
// virtual meshes. It is functions over values.
//
// What cannot be enforced fails closed: it allows nobody, and is said.
package policy

import (
	"cmp"
	"slices"
	"strings"

	securityapi "istio.io/api/security/v1beta1"
	typeapi "istio.io/api/type/v1beta1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/naming"
)

// Reasons for which a policy cannot be enforced at a destination.
const (
	// ReasonServiceWithoutSelector says that nothing tells which pods are to be protected.
	ReasonServiceWithoutSelector = "ServiceWithoutSelector"
	// ReasonNotTellable says that identities do not tell the selected clusters from others.
	ReasonNotTellable = "SourceClusterNotTellable"
	// ReasonNoMember says that a selected cluster has no mesh in the virtual mesh.
	ReasonNoMember = "SourceClusterNotMember"
	// ReasonMeshNotReported says that a member mesh is not reported, so that it is unknown whether identities tell it apart.
	ReasonMeshNotReported = "MeshNotReported"
)

// Names of the objects. Those that are made for a service begin with servicePrefix; a service whose name would make them one
// of the others gets a hash appended.
const (
	servicePrefix      = "isthmus-"
	federationPrefix   = "isthmus-federation-"
	gatewayPrefix      = "isthmus-gateway-"
	globalAccess       = "isthmus-global-access"
	peerAuthentication = "isthmus"

	maxName = 63
)

// Accepted is an AccessPolicy in force.
type Accepted struct {
	// Name, in the form "<name>.<namespace>".
	Name string
	// Spec that was accepted.
	Spec *v1alpha1.AccessPolicySpec
}

// Verdict says what became of a policy at one destination.
type Verdict struct {
	// Policy, in the form "<name>.<namespace>".
	Policy string
	// Errors say why it cannot be enforced; empty if it is.
	Errors finding.Findings
	// Notes say who of the selected callers is left out, because his cluster is no member.
	Notes finding.Findings
}

// For returns the AuthorizationPolicy of a destination, and a verdict for each policy that selects it, in the order given.
// It is nil if none does, or if the Service has no selector to protect its pods by. A policy that cannot be enforced leaves no
// rule, but what selects the destination denies everything that no rule allows.
//
// Under limited trust it has rules for the gateways by which others enter. former says that callers of other meshes may still come
// in the way of the trust that the virtual mesh had before: it has rules for both ways then.
func For(vm *membership.VirtualMesh, home *v1alpha1.Mesh, d *v1alpha1.Destination, policies []Accepted, former bool) (*securityv1.AuthorizationPolicy, []Verdict) {
	var verdicts []Verdict
	var rules []*securityapi.Rule
	service := &d.Spec.KubeService
	policies = selecting(d, policies)
	w := ways{vm: vm, home: home, former: former}
	if vm.Limited() || former {
		w.ingress = Ingress(home)
		w.holds, w.why = abroad(vm, v1alpha1.ObjectRef{Name: home.Name, Namespace: home.Namespace}, policies)
	}
	for i, p := range policies {
		v := Verdict{Policy: p.Name}
		if len(service.Selector) == 0 {
			v.Errors = finding.Findings{{Field: "spec.destinationSelector", Reason: ReasonServiceWithoutSelector, Message: "the Service " +
				service.Namespace + "/" + service.Name + " has no selector, so its pods cannot be protected: give it one, or do not select it"}}
		} else {
			var made []*securityapi.Rule
			made, v.Notes, v.Errors = w.rules(i, p.Spec, service)
			rules = append(rules, made...)
		}
		verdicts = append(verdicts, v)
	}
	if len(verdicts) == 0 || len(service.Selector) == 0 {
		return nil, verdicts
	}
	out := authorizationPolicy(serviceName(service.Name), service.Namespace, service.Selector)
	out.Annotations = map[string]string{v1alpha1.AnnotationDestination: d.Namespace + "/" + d.Name}
	out.Spec.Action, out.Spec.Rules = securityapi.AuthorizationPolicy_ALLOW, rules
	return out, verdicts
}

// ways are those in which callers come to destinations of a mesh.
type ways struct {
	vm     *membership.VirtualMesh
	home   *v1alpha1.Mesh
	former bool
	// ingress, holds and why are of limited trust: the gateways, and what each policy that selects a destination says of their
	// callers.
	ingress []string
	holds   []*terms
	why     []*finding.Finding
}

// rules of the policy that is the i-th to select a destination.
func (w *ways) rules(i int, spec *v1alpha1.AccessPolicySpec, service *v1alpha1.KubeService) (rules []*securityapi.Rule, notes, fs finding.Findings) {
	switch limited := w.vm.Limited(); {
	case !limited && !w.former:
		return rulesOf(w.vm, w.vm.Spec.Meshes, w.home, spec)
	case !limited:
		rules, notes, fs = rulesOf(w.vm, w.vm.Spec.Meshes, w.home, spec)
	default:
		rules, notes, fs = rulesOf(w.vm, []v1alpha1.ObjectRef{{Name: w.home.Name, Namespace: w.home.Namespace}}, w.home, spec)
		if len(fs) > 0 {
			return nil, notes, fs
		}
		if w.former {
			if all, _, problems := rulesOf(w.vm, w.vm.Spec.Meshes, w.home, spec); len(problems) == 0 {
				rules = all
			}
		}
		if f := w.why[i]; f != nil {
			fs = append(fs, *f)
		} else if w.holds[i] != nil {
			if f := nameless(spec, service); f != nil {
				notes = append(notes, *f)
			}
		}
	}
	rules = withoutIngress(rules, w.ingress)
	if w.holds[i] != nil && len(w.ingress) > 0 {
		rules = append(rules, ofIngress(spec, w.holds[i], w.ingress)...)
	}
	return rules, notes, fs
}

// ClientMeshes returns the AuthorizationPolicy that keeps out of a federated destination whoever has an identity of a trust
// domain that its federation does not admit; nil if there is no other that the mesh accepts. unenforceable names the members
// that are left out and are not told apart from those that are admitted.
//
// It denies by what is admitted, so that nobody gets in by a trust domain that is not known here. Requests without identity, in
// plain text, are none of its concern.
func ClientMeshes(vm *membership.VirtualMesh, home *v1alpha1.Mesh, d *v1alpha1.Destination, federation *v1alpha1.AppliedFederation) (p *securityv1.AuthorizationPolicy, unenforceable []string) {
	if federation == nil || slices.Contains(federation.FederatedToMeshes, "*") || vm.Limited() { // then gateways admit by what their certificates say
		return nil, nil
	}
	admitted := []string{home.Spec.Istio.TrustDomain} // beside the one with which it was accepted: its own workloads may have either
	var others []v1alpha1.ObjectRef
	for _, r := range vm.Spec.Meshes {
		if key := r.Name + "." + r.Namespace; key == membership.MeshKey(home) || slices.Contains(federation.FederatedToMeshes, key) {
			admitted = append(admitted, vm.TrustDomain(r))
		} else {
			others = append(others, r)
		}
	}
	admitted = slices.DeleteFunc(sorted(admitted), func(td string) bool { return !membership.IsTrustDomain(td) })
	enforceable := len(d.Spec.KubeService.Selector) > 0 && membership.IsTrustDomain(home.Spec.Istio.TrustDomain)
	accepts := slices.Clone(home.Spec.Istio.TrustDomainAliases)
	for _, r := range others {
		td := vm.TrustDomain(r)
		if !enforceable || slices.Contains(admitted, td) {
			unenforceable = append(unenforceable, r.Name+"."+r.Namespace)
		}
		accepts = append(accepts, td)
	}
	slices.Sort(unenforceable)
	if !enforceable || !slices.ContainsFunc(accepts, func(td string) bool { return !slices.Contains(admitted, td) }) {
		return nil, unenforceable
	}
	return denyAllBut(admitted, d), unenforceable
}

// denyAllBut denies a destination to whoever has an identity of another trust domain. Istio takes "<td>/*" as it is: aliases
// are not put in its place.
func denyAllBut(trustDomains []string, d *v1alpha1.Destination) *securityv1.AuthorizationPolicy {
	service := &d.Spec.KubeService
	source := &securityapi.Source{Principals: []string{"*"}}
	for _, td := range trustDomains {
		source.NotPrincipals = append(source.NotPrincipals, td+"/*")
	}
	p := authorizationPolicy(naming.Short(federationPrefix+service.Name, maxName), service.Namespace, service.Selector)
	p.Annotations = map[string]string{v1alpha1.AnnotationDestination: d.Namespace + "/" + d.Name}
	p.Spec.Action = securityapi.AuthorizationPolicy_DENY
	p.Spec.Rules = []*securityapi.Rule{{From: []*securityapi.Rule_From{{Source: source}}}}
	return p
}

// GlobalDenial is the AuthorizationPolicy that denies what nothing allows in a mesh; nil unless the virtual mesh wants it.
func GlobalDenial(vm *membership.VirtualMesh, mesh *v1alpha1.Mesh) *securityv1.AuthorizationPolicy {
	if vm.Spec.GlobalAccessPolicy != v1alpha1.GlobalAccessPolicyEnabled {
		return nil
	}
	return authorizationPolicy(globalAccess, mesh.Spec.Istio.RootNamespace, nil)
}

// GatewayAllowance is the AuthorizationPolicy that keeps a gateway working under the global denial; nil unless the virtual
// mesh wants that, or if nothing is known by which to select the gateway's pods.
func GatewayAllowance(vm *membership.VirtualMesh, gateway *v1alpha1.WorkloadSpec) *securityv1.AuthorizationPolicy {
	selector := gateway.PodSelector
	if len(selector) == 0 {
		selector = gateway.PodLabels
	}
	if vm.Spec.GlobalAccessPolicy != v1alpha1.GlobalAccessPolicyEnabled || len(selector) == 0 {
		return nil
	}
	name := gatewayPrefix + gateway.Controller.Name
	if kind := gateway.Controller.Kind; kind != "Deployment" { // which may have the same name
		name += "." + strings.ToLower(kind)
	}
	p := authorizationPolicy(naming.Short(name, maxName), gateway.Controller.Namespace, selector)
	p.Spec.Action, p.Spec.Rules = securityapi.AuthorizationPolicy_ALLOW, []*securityapi.Rule{{}}
	return p
}

// PeerAuthentication enforces TLS in a mesh as the virtual mesh wants; nil if it leaves it as it is.
func PeerAuthentication(vm *membership.VirtualMesh, mesh *v1alpha1.Mesh) *securityv1.PeerAuthentication {
	mode := securityapi.PeerAuthentication_MutualTLS_UNSET
	if f := vm.Spec.Federation; f != nil && f.TLSEnforcementSettings != nil {
		switch f.TLSEnforcementSettings.EnforcementMode {
		case v1alpha1.TLSEnforcementDisable:
			mode = securityapi.PeerAuthentication_MutualTLS_DISABLE
		case v1alpha1.TLSEnforcementPermissive:
			mode = securityapi.PeerAuthentication_MutualTLS_PERMISSIVE
		case v1alpha1.TLSEnforcementStrict:
			mode = securityapi.PeerAuthentication_MutualTLS_STRICT
		}
	}
	if mode == securityapi.PeerAuthentication_MutualTLS_UNSET {
		return nil
	}
	return &securityv1.PeerAuthentication{
		TypeMeta:   metav1.TypeMeta{APIVersion: securityv1.SchemeGroupVersion.String(), Kind: "PeerAuthentication"},
		ObjectMeta: metav1.ObjectMeta{Name: peerAuthentication, Namespace: mesh.Spec.Istio.RootNamespace},
		Spec:       securityapi.PeerAuthentication{Mtls: &securityapi.PeerAuthentication_MutualTLS{Mode: mode}},
	}
}

// authorizationPolicy returns one without rules. Without a selector it is about all pods of its namespace, or in the root
// namespace of the mesh.
func authorizationPolicy(name, namespace string, selector map[string]string) *securityv1.AuthorizationPolicy {
	p := &securityv1.AuthorizationPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: securityv1.SchemeGroupVersion.String(), Kind: "AuthorizationPolicy"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
	}
	if len(selector) > 0 {
		p.Spec.Selector = &typeapi.WorkloadSelector{MatchLabels: selector}
	}
	return p
}

// serviceName is the name of the AuthorizationPolicy of a service.
func serviceName(service string) string {
	name := servicePrefix + service
	if name == globalAccess || strings.HasPrefix(name, federationPrefix) || strings.HasPrefix(name, gatewayPrefix) {
		return naming.Hashed(name, maxName)
	}
	return naming.Short(name, maxName)
}

// sorted returns the different elements of s in order.
func sorted[T cmp.Ordered](s []T) []T {
	out := slices.Clone(s)
	slices.Sort(out)
	return slices.Compact(out)
}
