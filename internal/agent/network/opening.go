package network

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	networkingapi "istio.io/api/networking/v1alpha3"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent/reach"
	"github.com/isthmus-mesh/isthmus/internal/federation"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

const (
	// openFor is how long gateways must have been seen to know a destination before a former way to it is left: behind one address
	// there may be several, which do not hear of it at the same time.
	openFor = 6 * time.Second
	// openPatience is how long a way is waited for that cannot be tried from here, as where a NetworkPolicy keeps the agent from it.
	openPatience = 2 * time.Minute
	// openInterval lies between two looks.
	openInterval = 2 * time.Second
	// linger is how long the former way stays after its name is gone: proxies hear of that when istiod has pushed it.
	linger = 15 * time.Second
	// openAddresses are tried of one destination.
	openAddresses = 16
)

// openings keeps since when ways are tried, and since when they are open. The zero value keeps nothing.
type openings struct {
	mu    sync.Mutex
	tried map[types.NamespacedName]time.Time
	open  map[types.NamespacedName]time.Time
}

// seen takes down what was seen at a time, and reports whether the way may be gone.
func (o *openings) seen(key types.NamespacedName, problem reach.Problem, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.tried == nil {
		o.tried, o.open = map[types.NamespacedName]time.Time{}, map[types.NamespacedName]time.Time{}
	}
	if _, ok := o.tried[key]; !ok {
		o.tried[key] = now
	}
	switch since, ok := o.open[key]; {
	case problem == reach.Unreachable:
		return now.Sub(o.tried[key]) >= openPatience
	case problem != "":
		delete(o.open, key)
		return false
	case !ok:
		o.open[key] = now
		return false
	default:
		return now.Sub(since) >= openFor
	}
}

func (o *openings) forget(key types.NamespacedName) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.tried, key)
	delete(o.open, key)
}

// isOpen reports whether the way that was written leads to the destination, so that a former one can be left: the gateways of the home
// mesh know it, under limited trust also the own egress gateway, and under shared trust all proxies are seen to trust each other.
func (i *importing) isOpen(ctx context.Context, vm *membership.VirtualMesh, home *v1alpha1.Mesh, out *federation.Imported) (bool, error) {
	if m := vm.Spec.MTLSConfig; m != nil && m.Shared != nil {
		name, namespace := cutLast(vm.Name)
		live := &v1alpha1.VirtualMesh{}
		if err := i.hub.GetClient().Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, live); err != nil {
			return false, err
		}
		deployed := live.Status.DeployedSharedTrust
		for _, mesh := range []*v1alpha1.Mesh{home, i.mesh} {
			if ca := mesh.Status.CertificateAuthority; deployed == nil || ca == nil || ca.Signer != deployed.Root || !slices.Equal(ca.Roots, []string{deployed.Root}) {
				return false, nil
			}
		}
	}
	if i.GatewayProbeInterval == 0 || vm.Spec.Federation.FlatNetwork {
		return true, nil
	}
	entry, rule := out.ServiceEntry, out.DestinationRule
	prober := i.prober()
	var targets []reach.Target
	if e := out.Egress; e != nil {
		targets = append(targets, reach.Target{
			Address: e.Through.Name + "." + e.Through.Namespace + ".svc", Port: e.Through.TLSPort.Port, SNI: sniOf(rule.Spec.TrafficPolicy),
		})
		entry, rule = e.ServiceEntry, e.DestinationRule
	}
	for _, e := range entry.Spec.Endpoints[:min(len(entry.Spec.Endpoints), openAddresses)] {
		for _, port := range slices.Compact(slices.Collect(maps.Values(e.Ports))) { // all lead to one of the gateway
			targets = append(targets, reach.Target{Address: e.Address, Port: int32(port), SNI: sniOf(rule.Spec.TrafficPolicy)})
		}
	}
	problem := reach.Problem("")
	for _, t := range targets {
		// Who is met is for the proxies to verify: that a certificate is shown tells that the gateway knows the server name.
		if v := prober.Probe(ctx, t); v.Problem == reach.Unreachable || v.Problem == reach.NotAdmitted {
			problem = v.Problem
			break
		}
	}
	return i.opened.seen(i.key, problem, i.Now()), nil
}

// sniOf is the server name of the first port of a service.
func sniOf(p *networkingapi.TrafficPolicy) string {
	for _, s := range p.GetPortLevelSettings() {
		return s.GetTls().GetSni()
	}
	return ""
}
