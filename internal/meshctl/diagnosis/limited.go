package diagnosis

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

const limitedGuide = "docs/guides/limited-trust.md"

// isLimited reports whether a VirtualMesh under limited trust has accepted the mesh: its own CA is no matter of others then.
func (s *State) isLimited(m *v1alpha1.Mesh) bool {
	for _, vm := range s.inForce() {
		if vm.Limited() && vm.Lists(m) {
			return true
		}
	}
	return false
}

// inForce are the virtual meshes in force.
func (s *State) inForce() (out []*membership.VirtualMesh) {
	for i := range s.VirtualMeshes {
		if vm := membership.Of(&s.VirtualMeshes[i], s.Meshes); vm != nil && s.VirtualMeshes[i].Namespace == s.Namespace {
			out = append(out, vm)
		}
	}
	return out
}

// examineLimited finds what keeps members under limited trust from each other, and what they have in common against its purpose.
func (s *State) examineLimited(fs *Findings) {
	for _, vm := range s.inForce() {
		if !vm.Limited() {
			continue
		}
		late := gatewayCertificateLate(vm)
		for _, m := range vm.Members {
			if examineLimitedGateways(fs, m) {
				s.examineGatewayCertificate(fs, vm, m, late)
			}
			examineCommonRoots(fs, vm, m)
		}
	}
}

// examineLimitedGateways finds gateways that a member lacks, and tells whether it has both.
func examineLimitedGateways(fs *Findings, m *v1alpha1.Mesh) bool {
	var missing []string
	for _, g := range []struct {
		class v1alpha1.GatewayClass
		what  string
	}{
		{v1alpha1.GatewayLimitedIngress, "ingress gateway, by which other meshes would reach it"},
		{v1alpha1.GatewayLimitedEgress, "egress gateway, by which it would reach other meshes"},
	} {
		if !slices.ContainsFunc(m.Spec.Istio.Gateways, func(have v1alpha1.IngressGateway) bool { return have.Class == g.class }) {
			missing = append(missing, g.what)
		}
	}
	if len(missing) > 0 {
		fs.add("ISTH9001", Error, meshObject(m), "has no "+strings.Join(missing, ", and no "),
			"Run `meshctl gateway install --member-context CONTEXT`, with the context of cluster "+m.Spec.Cluster+".")
	}
	for i := range m.Spec.Istio.Gateways {
		g := &m.Spec.Istio.Gateways[i]
		name := g.Namespace + "/" + g.Name
		switch ingress := g.Class == v1alpha1.GatewayLimitedIngress; {
		case !ingress && g.Class != v1alpha1.GatewayLimitedEgress:
		case !slices.ContainsFunc(g.Ports, func(p v1alpha1.GatewayPort) bool { return p.Name == "tls" }):
			fs.add("ISTH9002", Error, meshObject(m), "gateway "+name+" has no port named tls", "Name the port of its Service that leads to port 15443 of the pods.")
		case ingress && len(g.Addresses) == 0:
			fs.add("ISTH9002", Error, meshObject(m), "gateway "+name+" has no address at which other clusters could reach it",
				"Give its Service a load balancer, externalIPs, or type NodePort: `meshctl gateway install --set ingress.service.type=NodePort`.")
		case len(g.Identities) == 0:
			fs.add("ISTH9002", Error, meshObject(m), "gateway "+name+" has no pods", "See the Deployments in namespace "+g.Namespace+" of cluster "+m.Spec.Cluster+".")
		}
	}
	return len(missing) == 0
}

// examineGatewayCertificate finds that the gateways of a member and those of others do not know each other.
func (s *State) examineGatewayCertificate(fs *Findings, vm *membership.VirtualMesh, m *v1alpha1.Mesh, late time.Duration) {
	c := inUse(vm, m)
	if c == nil {
		message := "its gateways were not seen to use a certificate of virtual mesh " + vm.Name + " yet"
		if c := m.Status.GatewayCertificate; c != nil && c.VirtualMesh != vm.Name {
			message += "; they use one of virtual mesh " + c.VirtualMesh
		}
		fs.add("ISTH9003", Warning, meshObject(m), message, "If this lasts, see `meshctl describe mesh "+m.Name+"`: the order of its gateways says what it waits for.")
		return
	}
	if c.NotAfter != nil {
		s.examineEndWithin(fs, meshObject(m)+", certificate of its gateways", c.NotAfter.Time, late,
			"Isthmus renews it while hub and agent work: see the order of its gateways, `meshctl describe mesh "+m.Name+"`.")
	}
	var unknown []string
	for _, other := range vm.Members {
		if o := inUse(vm, other); other != m && o != nil && !slices.Contains(c.Roots, o.Signer) {
			unknown = append(unknown, "mesh "+other.Name)
		}
	}
	if len(unknown) > 0 {
		fs.add("ISTH9004", Error, meshObject(m), "its gateways were not seen to accept the certificates of those of "+strings.Join(unknown, ", ")+": calls between them fail",
			"If this lasts, see `meshctl rotation status "+strings.TrimSuffix(vm.Name, "."+s.Namespace)+"` and the agents' logs.")
	}
}

// inUse is the certificate for a virtual mesh that every gateway of a mesh was seen to use; nil if there is none.
func inUse(vm *membership.VirtualMesh, m *v1alpha1.Mesh) *v1alpha1.MeshGatewayCertificate {
	if c := m.Status.GatewayCertificate; c != nil && c.VirtualMesh == vm.Name && c.Signer != "" {
		return c
	}
	return nil
}

// examineCommonRoots finds that members under limited trust would take each other's identities for their own.
func examineCommonRoots(fs *Findings, vm *membership.VirtualMesh, m *v1alpha1.Mesh) {
	ca := m.Status.CertificateAuthority
	if ca == nil {
		return
	}
	var others []string
	for _, other := range vm.Members {
		if o := other.Status.CertificateAuthority; other != m && o != nil && slices.ContainsFunc(o.Roots, func(r string) bool { return slices.Contains(ca.Roots, r) }) {
			others = append(others, "mesh "+other.Name)
		}
	}
	if len(others) > 0 {
		fs.add("ISTH9005", Warning, meshObject(m), "trusts a root that "+strings.Join(others, ", ")+" trusts too: whoever has the CA of one can pass for any workload of the other",
			"Set spec.mtlsConfig.limited.ownRoots: true, or give each mesh a CA of its own: "+limitedGuide+"#to-share-nothing.")
	}
}

// gatewayCertificateLate is how long before its end the certificate of gateways should have been renewed for long: half of the time
// that is left when it is due.
func gatewayCertificateLate(vm *membership.VirtualMesh) time.Duration {
	options := accept.GatewayOptions(vm.Spec.MTLSConfig.Limited.GatewayCertOptions)
	ratio, err := pki.ParseRatio(options.SecretRotationGracePeriodRatio)
	if err != nil {
		return soon
	}
	return min(soon, time.Duration(float64(ratio)/2*float64(*options.TTLDays)*float64(24*time.Hour)))
}

// examineGateways finds gateways of limited trust that do not run in a member.
func (m *Member) examineGateways(fs *Findings) {
	for i := range m.Gateways {
		d := &m.Gateways[i]
		severity := Warning
		switch {
		case d.Status.ReadyReplicas >= replicas(d):
			continue
		case d.Status.ReadyReplicas == 0:
			severity = Error
		}
		fs.add("ISTH6007", severity, "member "+m.Name, fmt.Sprintf("gateway %s: %d of %d replicas are ready", kube.Qualified(d.Name, d.Namespace), d.Status.ReadyReplicas, replicas(d)),
			fmt.Sprintf("See `kubectl -n %s describe pod -l %s=%s`.", d.Namespace, v1alpha1.LabelGateway, d.Labels[v1alpha1.LabelGateway]))
	}
}
