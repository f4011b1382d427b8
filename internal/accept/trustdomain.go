package accept

import (
	"fmt"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
)

// trustDomains are those by which others know the members: that with which a mesh was accepted, until it leaves. known are those
// of members that were accepted before.
func trustDomains(members []v1alpha1.ObjectRef, known []v1alpha1.AcceptedTrustDomain, t *Trust, w World) (out []v1alpha1.AcceptedTrustDomain) {
	for _, ref := range members {
		td := trustDomainOf(known, ref)
		if m := w.mesh(ref); td == "" && m != nil && checkIdentity(m) == nil && checkTrustDomain(known, m, t.ByGateways()) == nil {
			td = m.Spec.Istio.TrustDomain
		}
		if td != "" {
			out = append(out, v1alpha1.AcceptedTrustDomain{Name: ref.Name, Namespace: ref.Namespace, TrustDomain: td})
		}
	}
	return out
}

// trustDomainOf is that of a mesh; "" if it is not known.
func trustDomainOf(known []v1alpha1.AcceptedTrustDomain, ref v1alpha1.ObjectRef) string {
	for _, m := range known {
		if m.Name == ref.Name && m.Namespace == ref.Namespace {
			return m.TrustDomain
		}
	}
	return ""
}

// staying are the trust domains of accepted members that are still listed.
func staying(spec *v1alpha1.VirtualMeshSpec, prev *v1alpha1.AcceptedVirtualMesh, w World) (out []v1alpha1.AcceptedTrustDomain) {
	if prev == nil {
		return nil
	}
	for _, m := range prev.TrustDomains {
		if slices.ContainsFunc(spec.Meshes, func(r v1alpha1.ObjectRef) bool {
			return r.Name == m.Name && (r.Namespace == "" || r.Namespace == w.Namespace || r.Namespace == m.Namespace)
		}) {
			out = append(out, m)
		}
	}
	return out
}

// checkTrustDomain finds that a mesh reports another trust domain than it was accepted with, or would join with that of a member
// where not all have the same: nobody shall be taken for others by what his agent says. The latter is no matter if members are told
// apart by their gateways.
func checkTrustDomain(known []v1alpha1.AcceptedTrustDomain, mesh *v1alpha1.Mesh, byGateways bool) *finding.Finding {
	reported := mesh.Spec.Istio.TrustDomain
	if td := trustDomainOf(known, v1alpha1.ObjectRef{Name: mesh.Name, Namespace: mesh.Namespace}); td == reported {
		return nil
	} else if td != "" {
		return &finding.Finding{Reason: ReasonTrustDomainChanged, Message: fmt.Sprintf(
			"the mesh reports the trust domain %q; it was accepted with %q, and the others go on by that: set it back, "+
				"or, if it has really changed, take the mesh out of spec.meshes, and list it again when it is out of status.accepted", reported, td)}
	}
	has := func(m v1alpha1.AcceptedTrustDomain) bool { return m.TrustDomain == reported }
	holder := slices.IndexFunc(known, has)
	if byGateways || holder < 0 || !slices.ContainsFunc(known, func(m v1alpha1.AcceptedTrustDomain) bool { return !has(m) }) {
		return nil
	}
	return &finding.Finding{Reason: ReasonTrustDomainTaken, Message: fmt.Sprintf(
		"the mesh reports the trust domain %q of the member %s, and policies would not tell the two apart any more: give it a trust domain of its own",
		reported, MeshKey(known[holder].Name, known[holder].Namespace))}
}

// checkAliases finds members that do not accept the trust domains of others. Under limited trust none has to: there, clients have
// identities of the server's own mesh.
func checkAliases(a *v1alpha1.AcceptedVirtualMesh, w World) (fs finding.Findings) {
	if TrustIn(a).ByGateways() {
		return nil
	}
	for _, ref := range a.Spec.Meshes {
		server := w.mesh(ref)
		if server == nil {
			continue
		}
		accepts := append([]string{server.Spec.Istio.TrustDomain}, server.Spec.Istio.TrustDomainAliases...)
		var missing []string
		for _, client := range a.TrustDomains {
			if td := client.TrustDomain; !slices.Contains(accepts, td) && !slices.Contains(missing, td) {
				missing = append(missing, td)
			}
		}
		if len(missing) == 0 {
			continue
		}
		slices.Sort(missing)
		fs = append(fs, finding.Finding{
			Field: "spec.meshes", Reason: ReasonTrustDomain, Mesh: MeshKey(server.Name, server.Namespace),
			Message: fmt.Sprintf("the mesh refuses clients of the trust domains of other members: add %q to its meshConfig",
				"trustDomainAliases: ["+strings.Join(missing, ", ")+"]"),
		})
	}
	return fs
}
