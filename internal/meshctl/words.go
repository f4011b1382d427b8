package meshctl

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// callers says in words whom the selectors of an access policy allow, each in one line.
func callers(selectors []v1alpha1.IdentitySelector) []string {
	if len(selectors) == 0 {
		return []string{"anyone, also without an identity"}
	}
	var out []string
	for _, s := range selectors {
		var parts []string
		if m := s.KubeIdentityMatcher; m != nil {
			parts = append(parts, "any workload with an identity"+of("namespace", m.Namespaces)+of("cluster", m.Clusters))
		}
		if refs := s.KubeServiceAccountRefs; refs != nil {
			parts = append(parts, "service account "+anyOf(refsInWords(refs.ServiceAccounts)))
		}
		if m := s.RequestIdentityMatcher; m != nil {
			parts = append(parts, tokens(m))
		}
		out = append(out, strings.Join(parts, ", "))
	}
	return out
}

// tokens says in words which tokens a request must have, and must not.
func tokens(m *v1alpha1.RequestIdentityMatcher) string {
	var parts []string
	if len(m.RequestPrincipals) > 0 {
		parts = append(parts, "with a token of "+anyOf(m.RequestPrincipals))
	}
	if len(m.NotRequestPrincipals) > 0 {
		parts = append(parts, "with no token of "+anyOf(m.NotRequestPrincipals))
	}
	if parts == nil {
		return "with any valid token"
	}
	return strings.Join(parts, ", ")
}

// services says in words what selectors select, each in one line.
func services(selectors []v1alpha1.DestinationSelector) []string {
	if len(selectors) == 0 {
		return []string{"every service"}
	}
	var out []string
	for _, s := range selectors {
		if s.KubeServiceMatcher == nil && s.KubeServiceRefs == nil {
			out = append(out, "every service")
		}
		if m := s.KubeServiceMatcher; m != nil {
			what := "every service"
			if len(m.Labels) > 0 {
				what += " labelled " + pairs(m.Labels)
			}
			out = append(out, what+of("namespace", m.Namespaces)+of("cluster", m.Clusters))
		}
		if s.KubeServiceRefs != nil {
			out = append(out, "service "+anyOf(refsInWords(s.KubeServiceRefs.Services)))
		}
	}
	return out
}

// operations says in words what an access policy allows to be done.
func operations(spec *v1alpha1.AccessPolicySpec) string {
	what := "any request"
	if len(spec.AllowedMethods) > 0 {
		what = anyOf(spec.AllowedMethods)
	}
	if len(spec.AllowedPaths) > 0 {
		what += " of " + anyOf(spec.AllowedPaths)
	}
	var ports []string
	for _, p := range spec.AllowedPorts {
		ports = append(ports, strconv.Itoa(int(p)))
	}
	if len(ports) > 0 {
		what += " at port " + anyOf(ports) + " of the pods"
	}
	return what
}

// rule is an access policy in one line, without what it selects.
func rule(spec *v1alpha1.AccessPolicySpec) string {
	return "allows " + strings.Join(callers(spec.SourceSelector), "; or ") + ": " + operations(spec)
}

// federates says in words what is federated to whom, each in one line.
func federates(f *v1alpha1.Federation) []string {
	if f == nil {
		return nil
	}
	if len(f.Selectors) == 0 && f.Permissive != nil {
		return []string{"every service to every other member (permissive, which is deprecated)"}
	}
	var out []string
	for _, s := range f.Selectors {
		to := "every other member"
		if len(s.Meshes) > 0 {
			var meshes []string
			for _, m := range s.Meshes {
				meshes = append(meshes, m.Name)
			}
			to = "mesh " + strings.Join(meshes, ", ")
		}
		out = append(out, strings.Join(services(s.DestinationSelectors), "; or ")+" to "+to)
	}
	return out
}

// trust says in words how members trust each other.
func trust(m *v1alpha1.MTLSConfig) string {
	switch {
	case m == nil:
		return "as it is managed elsewhere"
	case m.Limited != nil:
		return "limited: members know each other by their gateways, and share no root"
	}
	return "shared: one root for all members"
}

// entrances says in words which gateways are chosen.
func entrances(f *v1alpha1.Federation) string {
	switch {
	case f.FlatNetwork:
		return "none: the network is flat, pods are reached directly"
	case len(f.IngressGatewaySelectors) == 0:
		return "those labelled istio=eastwestgateway, else istio=ingressgateway"
	}
	var out []string
	for _, s := range f.IngressGatewaySelectors {
		port := "tls"
		if s.PortName != "" {
			port = s.PortName
		}
		out = append(out, strings.Join(services(s.DestinationSelectors), "; or ")+", port "+port)
	}
	return strings.Join(out, "; or ")
}

// keepalive says in words what is kept alive how; "" for nothing.
func keepalive(k *v1alpha1.TCPKeepalive) string {
	if k == nil {
		return ""
	}
	var parts []string
	if k.Time != nil {
		parts = append(parts, "after "+k.Time.Duration.String())
	}
	if k.Interval != nil {
		parts = append(parts, "every "+k.Interval.Duration.String())
	}
	if k.Probes != nil {
		parts = append(parts, fmt.Sprintf("%d probes", *k.Probes))
	}
	return strings.Join(parts, ", ")
}

// global says in words what globalAccessPolicy means.
func global(p v1alpha1.GlobalAccessPolicy) string {
	switch p {
	case v1alpha1.GlobalAccessPolicyEnabled:
		return "ENABLED: what no access policy allows is denied"
	case v1alpha1.GlobalAccessPolicyDisabled:
		return "DISABLED: a service that no access policy selects may be called by anyone"
	}
	return "MESH_DEFAULT, which for Istio is: a service that no access policy selects may be called by anyone"
}

// others says in words what holds at a destination for callers that no policy in force at it allows; vm is nil if it is in no
// virtual mesh.
func others(vm *membership.VirtualMesh, d *v1alpha1.Destination) string {
	switch {
	case len(d.Spec.KubeService.Selector) == 0:
		return "as the policies of its pods say: a Service without selector has none of its own"
	case len(d.Status.AppliedAccessPolicies)+len(d.Status.RejectedAccessPolicies) > 0:
		return "denied, because access policies select the service"
	case vm == nil:
		return "as the mesh's own policies say: it is in no virtual mesh"
	case vm.Spec.GlobalAccessPolicy == v1alpha1.GlobalAccessPolicyEnabled:
		return "denied, because globalAccessPolicy of VirtualMesh " + vm.Name + " is ENABLED"
	}
	return "allowed, because no access policy selects the service, and globalAccessPolicy of VirtualMesh " + vm.Name + " is not ENABLED"
}

// enforced says in words what a TLS enforcement mode means.
func enforced(f *v1alpha1.Federation) string {
	if f == nil || f.TLSEnforcementSettings == nil {
		return "as each mesh has it"
	}
	switch mode := f.TLSEnforcementSettings.EnforcementMode; mode {
	case v1alpha1.TLSEnforcementStrict:
		return "STRICT: servers take mutual TLS only"
	case v1alpha1.TLSEnforcementPermissive:
		return "PERMISSIVE: servers take mutual TLS and plain text"
	case v1alpha1.TLSEnforcementDisable:
		return "DISABLE: servers take plain text only"
	}
	return "as each mesh has it"
}

// refsInWords are references of the form "<namespace>/<name>", with the cluster where it is given.
func refsInWords(refs []v1alpha1.ClusterObjectRef) (out []string) {
	for _, r := range refs {
		s := r.Namespace + "/" + r.Name
		if r.ClusterName != "" {
			s += " of cluster " + r.ClusterName
		}
		out = append(out, s)
	}
	return out
}

// of is " of <kind> a or b"; "" for none.
func of(kind string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	return " of " + kind + " " + anyOf(names)
}

func anyOf(names []string) string { return strings.Join(names, " or ") }
