package accept

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
)

const (
	federationField  = "spec.federation"
	enforcementField = federationField + ".tlsEnforcementSettings.enforcementMode"
	tlsModeField     = "spec.mtls.istio.tlsMode"
)

// checkFederation finds what makes the federation as a whole unusable.
func checkFederation(spec *v1alpha1.VirtualMeshSpec, w World) (fs finding.Findings) {
	f := spec.Federation
	if f == nil {
		return nil
	}
	invalid := func(field, message string) {
		fs = append(fs, finding.Finding{Field: field, Reason: v1alpha1.ReasonInvalid, Message: message})
	}
	if TrustOf(spec.MTLSConfig).ByGateways() {
		if f.FlatNetwork {
			invalid(federationField+".flatNetwork", "under limited trust the way to other meshes leads through gateways alone, as pods do not know each other: "+
				"leave flatNetwork out, or take mtlsConfig.shared")
		}
		if len(f.IngressGatewaySelectors) > 0 {
			invalid(federationField+".ingressGatewaySelectors", "under limited trust others enter by the gateways of the chart isthmus-gateways alone: "+
				"leave ingressGatewaySelectors out, or take mtlsConfig.shared")
		}
	}
	if k := f.TCPKeepalive; k != nil {
		for _, d := range []struct {
			name  string
			value *metav1.Duration
		}{{"time", k.Time}, {"interval", k.Interval}} {
			if d.value != nil && (d.value.Duration < time.Second || d.value.Duration%time.Second != 0) {
				invalid(federationField+".tcpKeepalive."+d.name, fmt.Sprintf("%s: give whole seconds, at least 1s", d.value.Duration))
			}
		}
	}
	if enforcement(f) == v1alpha1.TLSEnforcementDisable && federates(f) {
		invalid(enforcementField, "DISABLE: federation needs servers that take mutual TLS: choose another mode, or take "+
			federationField+".selectors out")
	}
	for _, c := range conflicts(f, tlsMode(w.Settings)) {
		invalid(c.field, fmt.Sprintf("%s, and %s of Settings %s: %s; change one of the two", c.value, tlsModeField, is(tlsMode(w.Settings)), c.why))
	}
	return fs
}

// federates reports whether anything may be federated.
func federates(f *v1alpha1.Federation) bool { return len(f.Selectors) > 0 || f.Permissive != nil }

// enforcement is the mode in which servers of a virtual mesh take connections.
func enforcement(f *v1alpha1.Federation) v1alpha1.TLSEnforcementMode {
	if f.TLSEnforcementSettings == nil {
		return v1alpha1.TLSEnforcementUnset
	}
	return cmp.Or(f.TLSEnforcementSettings.EnforcementMode, v1alpha1.TLSEnforcementUnset)
}

// tlsMode is the mode in which clients connect; "" if it is not set. s may be nil.
func tlsMode(s *v1alpha1.SettingsSpec) v1alpha1.IstioTLSMode {
	if s == nil || s.MTLS == nil || s.MTLS.Istio == nil {
		return ""
	}
	return s.MTLS.Istio.TLSMode
}

func is(m v1alpha1.IstioTLSMode) string {
	if m == "" {
		return "is not set"
	}
	return "is " + string(m)
}

// conflict says that a field of a virtual mesh and the TLS mode of clients contradict each other.
type conflict struct{ field, value, why string }

// conflicts are those between a federation and the TLS mode of clients.
func conflicts(f *v1alpha1.Federation, mode v1alpha1.IstioTLSMode) (out []conflict) {
	if f == nil {
		return nil
	}
	e := enforcement(f)
	add := func(field, value, why string) { out = append(out, conflict{field, value, why}) }
	switch {
	case e == v1alpha1.TLSEnforcementStrict && (mode == "" || mode == v1alpha1.IstioTLSModeDisable):
		add(enforcementField, string(e), "servers would refuse what clients send")
	case e == v1alpha1.TLSEnforcementDisable && (mode == v1alpha1.IstioTLSModeMutual || mode == v1alpha1.IstioTLSModeSimple):
		add(enforcementField, string(e), "clients would send what servers do not take")
	}
	if federates(f) && (mode == v1alpha1.IstioTLSModeDisable || mode == v1alpha1.IstioTLSModeSimple) {
		field := federationField + ".selectors"
		if len(f.Selectors) == 0 {
			field = federationField + ".permissive"
		}
		add(field, "federation is asked for", "between clusters there is Istio's mutual TLS only")
	}
	return out
}

// resolveSelectors gives the references to meshes in the federation's selectors the namespaces of the members that they
// mean, and takes those out that mean none. A selector all of whose meshes were taken out federates to nobody.
func resolveSelectors(spec *v1alpha1.VirtualMeshSpec, members []v1alpha1.ObjectRef, w World) (fs finding.Findings) {
	f := spec.Federation
	if f == nil || len(f.Selectors) == 0 {
		return nil
	}
	f.Permissive = nil // not honoured beside selectors, whatever is left of them
	var kept []v1alpha1.FederationSelector
	for i, s := range f.Selectors {
		var meshes []v1alpha1.ObjectRef
		for j, ref := range s.Meshes {
			found := slices.DeleteFunc(slices.Clone(members), func(m v1alpha1.ObjectRef) bool {
				return m.Name != ref.Name || ref.Namespace != "" && ref.Namespace != w.Namespace && ref.Namespace != m.Namespace
			})
			switch {
			case len(found) != 1:
				fs = append(fs, notOne(fmt.Sprintf("%s.selectors[%d].meshes[%d]", federationField, i, j), ref, found))
			case !slices.Contains(meshes, found[0]):
				meshes = append(meshes, found[0])
			}
		}
		if len(s.Meshes) == 0 || len(meshes) > 0 {
			s.Meshes = meshes
			kept = append(kept, s)
		}
	}
	f.Selectors = kept
	return fs
}

// notOne finds that a reference means no member, or several.
func notOne(field string, ref v1alpha1.ObjectRef, found []v1alpha1.ObjectRef) finding.Finding {
	if len(found) == 0 {
		return finding.Finding{Field: field, Reason: ReasonMeshNotMember,
			Message: fmt.Sprintf("%s is no member in force: nothing is federated to it; list it in spec.meshes, or take it out here", ref.Name)}
	}
	var names []string
	for _, o := range found {
		names = append(names, o.Namespace+"/"+o.Name)
	}
	return ambiguous(field, ref.Name, "members", names)
}

// withoutLeaving takes the members of clusters that are being deregistered out of what was accepted; nil if none are left.
func withoutLeaving(a *v1alpha1.AcceptedVirtualMesh, w World) *v1alpha1.AcceptedVirtualMesh {
	if a == nil {
		return nil
	}
	a.Spec.Meshes = slices.DeleteFunc(a.Spec.Meshes, func(ref v1alpha1.ObjectRef) bool { return w.Leaving[ref.Namespace] })
	if len(a.Spec.Meshes) == 0 {
		return nil
	}
	resolveSelectors(&a.Spec, a.Spec.Meshes, w)
	return a
}
