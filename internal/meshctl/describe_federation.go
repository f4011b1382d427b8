package meshctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/federation"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/policy"
)

// maxRows of a section that may be long.
const maxRows = 100

func describeDestination(ctx context.Context, hub *cluster, obj client.Object, w *description) error {
	d := obj.(*v1alpha1.Destination)
	s := d.Spec.KubeService
	w.field("Cluster", d.Spec.Cluster)
	w.field("Mesh", d.Spec.Mesh)
	w.field("Service", kube.Qualified(s.Name, s.Namespace)+" ("+s.Type+")")
	w.field("Selector", pairs(s.Selector))
	if len(s.Ports) > 0 {
		w.section("Ports")
		w.row("NAME", "PORT", "PROTOCOL", "TARGET")
		for _, p := range s.Ports {
			w.row(p.Name, fmt.Sprint(p.Port), strings.Trim(p.Protocol+"/"+p.AppProtocol, "/"), p.TargetPort)
		}
	}
	w.list("Identities", d.Spec.Identities)
	vm, home, err := hub.membershipOf(ctx, d)
	if err != nil {
		return err
	}
	if d.Status.AppliedFederation != nil {
		w.federated(d, vm, home)
	}
	policies := &v1alpha1.AccessPolicyList{}
	if err := hub.List(ctx, policies); err != nil {
		return err
	}
	w.section("Who may call it")
	for i, name := range d.Status.AppliedAccessPolicies {
		w.row(fmt.Sprint(i+1), "AccessPolicy "+name, inForce(policies.Items, name))
	}
	for _, r := range d.Status.RejectedAccessPolicies {
		w.row("-", "AccessPolicy "+r.Name, "allows nobody, as it cannot be enforced here: "+strings.Join(r.Errors, "; "))
	}
	who := "all others"
	if len(d.Status.AppliedAccessPolicies)+len(d.Status.RejectedAccessPolicies) == 0 {
		who = "anyone"
	}
	w.row("", who, others(vm, d))
	w.conditions(d.Status.Conditions)
	w.list("Errors", d.Status.Errors)
	return nil
}

// federated adds as what a destination of home is federated, to whom and through what. vm and home are nil if they are not
// known.
func (d *description) federated(destination *v1alpha1.Destination, vm *membership.VirtualMesh, home *v1alpha1.Mesh) {
	f := destination.Status.AppliedFederation
	d.section("Federation")
	d.row("Hostname", f.FederatedHostname)
	if f.ShortHostname != "" {
		d.row("Short hostname", f.ShortHostname)
	}
	to := strings.Join(f.FederatedToMeshes, ", ")
	if to == "*" {
		to = "every other member"
	}
	d.row("To", to)
	d.row("Virtual mesh", f.VirtualMesh)
	d.row("Subsets", cmp.Or(strings.Join(f.Subsets, ", "), "none"))
	if len(f.Endpoints) > 0 {
		d.row("Pods", fmt.Sprintf("%d, reached directly", len(f.Endpoints)))
	}
	if vm == nil || home == nil {
		return
	}
	if len(f.Endpoints) == 0 {
		gateways, findings := federation.ChosenGateways(vm, home)
		for _, g := range gateways {
			d.row("Through", fmt.Sprintf("gateway %s, %s, port %d", g, strings.Join(g.Addresses, " "), g.TLSPort.ExternalPort))
		}
		for _, e := range findings.Errors() {
			d.row("Through", e)
		}
	}
	refused, others := policy.ClientMeshes(vm, home, destination, f)
	if refused != nil {
		d.row("Refused", "all identities but "+strings.Join(refused.Spec.Rules[0].From[0].Source.NotPrincipals, ", "))
	}
	for _, m := range others {
		d.row("Not refused", m+": its identities are not told apart from those of meshes that may call; only an AccessPolicy that allows none of its service accounts keeps it out")
	}
}

// inForce says in one line what a policy that is in force allows.
func inForce(policies []v1alpha1.AccessPolicy, name string) string {
	for i := range policies {
		if p := &policies[i]; kube.Qualified(p.Name, p.Namespace) == name && p.Status.Accepted != nil {
			return rule(&p.Status.Accepted.Spec)
		}
	}
	return "was deleted, and is about to be taken back"
}

// membershipOf returns the mesh of a destination and the virtual mesh in force that it is a member of; nil for what is not.
func (c *cluster) membershipOf(ctx context.Context, d *v1alpha1.Destination) (*membership.VirtualMesh, *v1alpha1.Mesh, error) {
	home := &v1alpha1.Mesh{}
	err := c.Get(ctx, client.ObjectKey{Namespace: d.Namespace, Name: d.Spec.Mesh}, home)
	if apierrors.IsNotFound(err) {
		return nil, nil, nil
	}
	virtualMeshes, meshes := &v1alpha1.VirtualMeshList{}, &v1alpha1.MeshList{}
	if err := errors.Join(err, c.List(ctx, virtualMeshes), c.List(ctx, meshes)); err != nil {
		return nil, nil, err
	}
	for i := range virtualMeshes.Items {
		if vm := membership.Of(&virtualMeshes.Items[i], meshes.Items); vm != nil && vm.Lists(home) {
			return vm, home, nil
		}
	}
	return nil, home, nil
}

func describeAccessPolicy(ctx context.Context, hub *cluster, obj client.Object, w *description) error {
	p := obj.(*v1alpha1.AccessPolicy)
	w.field("State", string(p.Status.State))
	spec := &p.Spec
	switch accepted := p.Status.Accepted; {
	case accepted == nil:
		w.field("In force", "nothing yet; this is what the spec says")
	case accepted.Generation != p.Generation:
		w.field("In force", fmt.Sprintf("generation %d, which this is; the present one is %d", accepted.Generation, p.Generation))
		spec = &accepted.Spec
	default:
		w.field("In force", fmt.Sprintf("generation %d", accepted.Generation))
	}
	w.list("Who may call", callers(spec.SourceSelector))
	w.list("What", services(spec.DestinationSelector))
	w.list("Requests", []string{operations(spec)})
	w.conditions(p.Status.Conditions)
	w.list("Errors", p.Status.Errors)

	destinations := &v1alpha1.DestinationList{}
	if err := hub.List(ctx, destinations); err != nil {
		return err
	}
	name := kube.Qualified(p.Name, p.Namespace)
	var applied, rejected [][]string
	for i := range destinations.Items {
		d := &destinations.Items[i]
		row := []string{membership.Cluster(d.Namespace), d.Name}
		if at := slices.Index(d.Status.AppliedAccessPolicies, name); at >= 0 {
			applied = append(applied, append(row, fmt.Sprintf("%d of %d", at+1, len(d.Status.AppliedAccessPolicies))))
		}
		for _, r := range d.Status.RejectedAccessPolicies {
			if r.Name == name {
				rejected = append(rejected, append(slices.Clone(row), strings.Join(r.Errors, "; ")))
			}
		}
	}
	w.table("Cannot be enforced at", []string{"CLUSTER", "DESTINATION", "WHY"}, rejected)
	w.table("In force at", []string{"CLUSTER", "DESTINATION", "ORDER"}, applied)
	if applied == nil {
		w.list("In force at", []string{"no destination"})
	}
	return nil
}

func describeVirtualDestination(_ context.Context, _ *cluster, obj client.Object, w *description) error {
	vd := obj.(*v1alpha1.VirtualDestination)
	w.field("State", string(vd.Status.State))
	spec := &vd.Spec
	switch accepted := vd.Status.Accepted; {
	case accepted == nil:
		w.field("In force", "nothing yet; this is what the spec says")
		w.field("Hostname", spec.Hostname)
	case accepted.Generation != vd.Generation:
		w.field("In force", fmt.Sprintf("generation %d, which this is; the present one is %d", accepted.Generation, vd.Generation))
		spec = &accepted.Spec
		w.field("Hostname", accepted.Hostname)
	default:
		w.field("In force", fmt.Sprintf("generation %d", accepted.Generation))
		w.field("Hostname", accepted.Hostname)
	}
	w.field("Virtual mesh", spec.VirtualMesh.Name)
	w.field("Service", kube.Qualified(spec.Service.Name, spec.Service.Namespace))
	w.field("Clusters", strings.Join(spec.Clusters, " "))
	w.field("Ports", strings.Trim(fmt.Sprint(spec.Ports), "[]"))
	var rows [][]string
	for _, m := range vd.Status.Meshes {
		first, then := cmp.Or(strings.Join(m.Clusters, ", "), "nobody"), ""
		if _, namespace, ok := kube.SplitQualified(m.Name); ok && len(m.Clusters) > 1 && m.Clusters[0] == membership.Cluster(namespace) {
			first, then = m.Clusters[0], strings.Join(m.Clusters[1:], ", ")
		}
		rows = append(rows, []string{m.Name, string(m.State), first, then})
		for _, e := range m.Errors {
			rows = append(rows, []string{"", e})
		}
	}
	w.table("Who serves it", []string{"MESH", "STATE", "FIRST", "WHEN THAT FAILS"}, rows)
	w.conditions(vd.Status.Conditions)
	w.list("Errors", vd.Status.Errors)
	return nil
}

// federation adds what a virtual mesh federates, and what became of it.
func (d *description) federation(vm *v1alpha1.VirtualMesh) {
	if f := vm.Spec.Federation; f != nil {
		d.list("Federated", orElse(federates(f), []string{"nothing"}))
		d.section("Federation")
		d.row("Hostnames", "SERVICE.NAMESPACE.svc.CLUSTER."+cmp.Or(f.HostnameSuffix, "global"))
		if f.ShortHostnames {
			d.row("", "SERVICE.NAMESPACE.CLUSTER")
		}
		if m := vm.Spec.MTLSConfig; m != nil && m.Limited != nil {
			d.row("Gateways", "those of limited trust, labelled "+v1alpha1.LabelGateway)
		} else {
			d.row("Gateways", entrances(f))
		}
		if k := keepalive(f.TCPKeepalive); k != "" {
			d.row("Keepalive", k)
		}
	}
	if counts := vm.Status.DestinationCounts; len(counts) > 0 {
		d.section("Destinations")
		for _, state := range slices.Sorted(maps.Keys(counts)) {
			d.row(state, fmt.Sprint(counts[state]))
		}
	}
	var rows [][]string
	for _, name := range slices.Sorted(maps.Keys(vm.Status.Destinations)) {
		for _, e := range vm.Status.Destinations[name].Errors {
			rows = append(rows, []string{name, e})
		}
	}
	d.table("Destinations with errors", []string{"DESTINATION", "ERROR"}, rows)
}

// orElse returns s, or otherwise if that is empty.
func orElse[T any](s, otherwise []T) []T {
	if len(s) > 0 {
		return s
	}
	return otherwise
}

// gateways adds the gateways of a mesh.
func (d *description) gateways(gateways []v1alpha1.IngressGateway) {
	var rows [][]string
	for _, g := range gateways {
		name, port := cmp.Or(g.TLSPortName, "tls"), "none named "+cmp.Or(g.TLSPortName, "tls")
		for _, p := range g.Ports {
			if p.Name == name {
				port = fmt.Sprint(p.ExternalPort)
			}
		}
		rows = append(rows, []string{kube.Qualified(g.Name, g.Namespace), string(g.Class), port, cmp.Or(strings.Join(g.Addresses, " "), "none"), strings.Join(g.Identities, " ")})
	}
	d.table("Gateways", []string{"GATEWAY", "CLASS", "TLS PORT", "ADDRESSES", "IDENTITIES"}, rows)
}

// applied adds what virtual meshes and access policies are applied to a mesh.
func (d *description) applied(mesh *v1alpha1.Mesh) {
	var rows [][]string
	for _, vm := range mesh.Status.AppliedVirtualMeshes {
		rows = append(rows, []string{"VirtualMesh", vm.Name, fmt.Sprint(vm.Generation)})
	}
	for _, p := range mesh.Status.AppliedAccessPolicies {
		rows = append(rows, []string{"AccessPolicy", p.Name, fmt.Sprint(p.Generation)})
	}
	for _, n := range mesh.Status.AppliedVirtualDestinations {
		rows = append(rows, []string{"VirtualDestination", n.Name, fmt.Sprint(n.Generation)})
	}
	d.table("Applied", []string{"KIND", "NAME", "GENERATION"}, rows)
}

// table adds a section with a header, if there are rows.
func (d *description) table(title string, header []string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	d.section(title)
	d.row(header...)
	for _, r := range rows[:min(len(rows), maxRows)] {
		d.row(r...)
	}
	if more := len(rows) - maxRows; more > 0 {
		d.row(fmt.Sprintf("and %d more", more))
	}
}
