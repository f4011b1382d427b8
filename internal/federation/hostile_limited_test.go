package federation_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	networkingapi "istio.io/api/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/federation"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// importedLimited counts as imported does.
var importedLimited atomic.Int64

// importHostileLimited has a client import, under limited trust, what a hostile agent wrote. Whatever it wrote, all objects are
// among the gateways of the client, workloads are led to the client's own egress gateway alone, and that to nobody but who is known
// as a gateway of the hostile mesh.
func importHostileLimited(t *rapid.T) {
	home := hostileMesh(t, "east")
	for i := range home.Spec.Istio.Gateways {
		g := &home.Spec.Istio.Gateways[i]
		g.Class = mostly(rapid.Just(v1alpha1.GatewayLimitedIngress), rapid.SampledFrom([]v1alpha1.GatewayClass{"LimitedEgress", "EastWest", "x"})).Draw(t, "class")
		g.Selector = mostly(rapid.Just(map[string]string{"isthmus.dev/gateway": "ingress"}), labels).Draw(t, "selector")
		g.Identities = rapid.SliceOfN(words, 0, 2).Draw(t, "identities of a gateway")
	}
	known := word("root", "")
	home.Status.GatewayCertificate = &v1alpha1.MeshGatewayCertificate{
		VirtualMesh: word("all.isthmus-system").Draw(t, "virtual mesh"), Signer: known.Draw(t, "signer"), Roots: rapid.SliceOfN(known, 1, 3).Draw(t, "roots"),
	}
	to := mesh("west", limitedGateways("192.0.2.7"))
	north := mesh("north", limitedGateways("192.0.2.8"))
	f := &v1alpha1.Federation{HostnameSuffix: rapid.SampledFrom([]string{"", "global", "mesh.example"}).Draw(t, "suffix"), ShortHostnames: rapid.Bool().Draw(t, "short")}
	f.Selectors = rapid.OneOf(rapid.Just(everything), rapid.Just(everything), rapid.SliceOfN(selector(ref(home), ref(to), ref(north)), 0, 2)).Draw(t, "selectors")
	vm := limited(virtualMesh(f, home, to, north))
	d := hostileDestination(t, home)
	c := federation.Client{Mesh: to, Address: "241.0.0.1", Imported: rapid.Bool().Draw(t, "imported"), ShortHostnameClusters: []string{"east"}}
	c.Forbidden = func(ip string, _ int32) bool { return ip == "192.0.2.9" }

	got := importTwice(t, vm, c, home, d)
	if got == nil {
		return
	}
	importedLimited.Add(1)
	e := got.Egress
	if e == nil {
		t.Fatal("imported past the egress gateway")
	}
	names := []federation.Named{got.Named}
	if got.Short != nil {
		names = append(names, *got.Short)
	}
	objects := []metav1.Object{e.ServiceEntry, e.DestinationRule, e.Gateway}
	for _, v := range e.VirtualServices {
		objects = append(objects, v)
	}
	for _, n := range names {
		objects = append(objects, n.ServiceEntry, n.DestinationRule)
	}
	for _, o := range objects {
		for _, problem := range refused(o) {
			t.Errorf("it would be refused: %s", problem)
		}
		if o.GetNamespace() != v1alpha1.GatewaysNamespace || o.GetLabels()[v1alpha1.LabelCluster] != "east" || !strings.HasPrefix(o.GetAnnotations()[v1alpha1.AnnotationDestination], "isthmus-east/") {
			t.Errorf("%s/%s of %v, %v", o.GetNamespace(), o.GetName(), o.GetLabels(), o.GetAnnotations())
		}
	}
	egress := to.Spec.Istio.Gateways[0]
	for _, n := range names {
		checkAtEgress(t, n, egress)
	}
	checkOnwards(t, vm, home, got, egress)
}

// checkAtEgress checks that a name leads to the egress gateway of the client alone.
func checkAtEgress(t *rapid.T, n federation.Named, egress v1alpha1.IngressGateway) {
	entry, rule := &n.ServiceEntry.Spec, &n.DestinationRule.Spec
	host := n.ServiceEntry.Name
	if !strings.HasSuffix(host, ".east") && !strings.Contains(host, ".svc.east.") || !slices.Equal(entry.Hosts, []string{host}) || rule.Host != host {
		t.Errorf("hosts %v and %s of %s", entry.Hosts, rule.Host, host)
	}
	if len(entry.Endpoints) > 0 || !maps.Equal(entry.WorkloadSelector.GetLabels(), egress.Selector) || !slices.Equal(entry.SubjectAltNames, egress.Identities) {
		t.Errorf("%s leads to %v, %v, %v", host, entry.Endpoints, entry.WorkloadSelector, entry.SubjectAltNames)
	}
	for _, s := range tlsOf(rule.TrafficPolicy) {
		if s.Mode != networkingapi.ClientTLSSettings_ISTIO_MUTUAL || !slices.Equal(s.SubjectAltNames, egress.Identities) || s.CredentialName != "" {
			t.Errorf("%s: %v", host, s)
		}
	}
}

// checkOnwards checks that the egress gateway serves the client's workloads alone, and reaches gateways of the hostile mesh alone.
func checkOnwards(t *rapid.T, vm *membership.VirtualMesh, home *v1alpha1.Mesh, got *federation.Imported, egress v1alpha1.IngressGateway) {
	e, host := got.Egress, got.ServiceEntry.Name
	entry, rule := &e.ServiceEntry.Spec, &e.DestinationRule.Spec
	onward, identity := host+".isthmus.invalid", []string{membership.GatewayIdentity(vm.Name, ref(home))}
	if !federation.IsOnward(onward) || !slices.Equal(entry.Hosts, []string{onward}) || rule.Host != onward ||
		!slices.Equal(entry.ExportTo, []string{"."}) || !slices.Equal(rule.ExportTo, []string{"."}) {
		t.Errorf("%s goes on to %v, %s, exported to %v, %v", host, entry.Hosts, rule.Host, entry.ExportTo, rule.ExportTo)
	}
	for _, w := range entry.Endpoints {
		if leadsHome(w.Address) {
			t.Errorf("endpoint %q", w.Address)
		}
	}
	for _, s := range tlsOf(rule.TrafficPolicy) {
		if s.Mode != networkingapi.ClientTLSSettings_MUTUAL || !slices.Equal(s.SubjectAltNames, identity) || s.CredentialName != v1alpha1.GatewaySecretName {
			t.Errorf("%s: %v", onward, s)
		}
	}
	if !maps.Equal(e.Gateway.Spec.Selector, egress.Selector) || len(e.Gateway.Spec.Servers) != len(got.ServiceEntry.Spec.Ports) || len(e.VirtualServices) != len(got.ServiceEntry.Spec.Ports) {
		t.Errorf("gateway %v, %d routes", &e.Gateway.Spec, len(e.VirtualServices))
	}
	for i, s := range e.Gateway.Spec.Servers {
		number := got.ServiceEntry.Spec.Ports[i].Number
		name := []string{fmt.Sprintf("p%d.%s", number, host)}
		if !slices.Equal(s.Hosts, name) || s.Tls.Mode != networkingapi.ServerTLSSettings_ISTIO_MUTUAL {
			t.Errorf("server %v, want %s", s, name)
		}
		v := &e.VirtualServices[i].Spec
		route := v.Tcp[0].Route[0].Destination
		if !slices.Equal(v.Hosts, name) || !slices.Equal(v.Gateways, []string{e.Gateway.Name}) || route.Host != onward || route.Port.Number != number || !slices.Equal(v.ExportTo, []string{"."}) {
			t.Errorf("route %v", v)
		}
	}
}

// tlsOf are all settings of TLS in a policy.
func tlsOf(p *networkingapi.TrafficPolicy) []*networkingapi.ClientTLSSettings {
	out := []*networkingapi.ClientTLSSettings{p.Tls}
	for _, s := range p.PortLevelSettings {
		out = append(out, s.Tls)
	}
	return out
}

func TestImportHostileLimited(t *testing.T) {
	rapid.Check(t, importHostileLimited)
	if n := importedLimited.Load(); n == 0 {
		t.Error("nothing was imported: the test shows nothing")
	} else {
		t.Logf("%d imported", n)
	}
}

func FuzzImportLimited(f *testing.F) { f.Fuzz(rapid.MakeFuzz(importHostileLimited)) }
