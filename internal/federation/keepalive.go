package federation

import (
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	networkingapi "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/naming"
)

// Keepalive is the DestinationRule that gives connections to an external service the virtual mesh's keepalive; nil without
// one, or for a host that allows none.
func Keepalive(vm *membership.VirtualMesh, client *v1alpha1.Mesh, external *networkingv1.ServiceEntry) (out []*networkingv1.DestinationRule) {
	f := vm.Spec.Federation
	if f == nil || f.TCPKeepalive == nil || !vm.Lists(client) || external.Spec.Location != networkingapi.ServiceEntry_MESH_EXTERNAL {
		return nil
	}
	for _, host := range slices.Compact(slices.Sorted(slices.Values(external.Spec.Hosts))) {
		name, ok := keepaliveName(host)
		pool := connectionPool(f.TCPKeepalive)
		if !ok || pool == nil {
			continue
		}
		out = append(out, &networkingv1.DestinationRule{
			TypeMeta:   metav1.TypeMeta{APIVersion: apiVersion, Kind: "DestinationRule"},
			ObjectMeta: metav1.ObjectMeta{Namespace: client.Spec.Istio.RootNamespace, Name: name},
			Spec: networkingapi.DestinationRule{
				Host:          host,
				TrafficPolicy: &networkingapi.TrafficPolicy{ConnectionPool: pool},
				ExportTo:      []string{"*"},
			},
		})
	}
	return out
}

// Displaces reports whether a DestinationRule that Keepalive made would take the place of one of somebody else, or be merged
// with it: in the root namespace one for the same host, or a less specific one. Rules of other namespaces come before it anyway.
func Displaces(keepalive, other *networkingv1.DestinationRule) bool {
	return other.Namespace == keepalive.Namespace && covers(other.Spec.Host, keepalive.Spec.Host)
}

// keepaliveName is the name of the DestinationRule for a host; false for a host that can have none.
func keepaliveName(host string) (string, bool) {
	prefix, rest := "isthmus-keepalive-", host
	if after, wildcard := strings.CutPrefix(host, "*."); wildcard {
		prefix, rest = "isthmus-wildcard-keepalive-", after
	}
	if !isFQDN(rest) {
		return "", false
	}
	return naming.Short(prefix+rest, maxName), true
}

// Limits of Linux (include/net/tcp.h); it refuses a connection's socket options beyond them.
const (
	maxKeepaliveTime   = 32767 * time.Second
	maxKeepaliveProbes = 127
)

// connectionPool is the part of a traffic policy that sets a keepalive; nil without one.
func connectionPool(k *v1alpha1.TCPKeepalive) *networkingapi.ConnectionPoolSettings {
	if k == nil {
		return nil
	}
	out := &networkingapi.ConnectionPoolSettings_TCPSettings_TcpKeepalive{Time: seconds(k.Time), Interval: seconds(k.Interval)}
	if k.Probes != nil && *k.Probes > 0 {
		out.Probes = uint32(min(*k.Probes, maxKeepaliveProbes))
	}
	return &networkingapi.ConnectionPoolSettings{Tcp: &networkingapi.ConnectionPoolSettings_TCPSettings{TcpKeepalive: out}}
}

// requestsFor is how long a sidecar begins requests on one connection to another mesh. Envoy ends the connections of a server whose
// settings have changed, as AccessPolicies change those of sidecars and egress gateways, when its drain time is over, 45 seconds by
// Istio's default. Whoever begins a request in that instant loses it, so sidecars are to have left by then.
const requestsFor = 30 * time.Second

// portConnectionPool is connectionPool for a port of a service across meshes.
func portConnectionPool(k *v1alpha1.TCPKeepalive) *networkingapi.ConnectionPoolSettings {
	pool := connectionPool(k)
	if pool == nil {
		pool = &networkingapi.ConnectionPoolSettings{Tcp: &networkingapi.ConnectionPoolSettings_TCPSettings{}}
	}
	// For a port, this holds for HTTP alone: that of TCP is taken from the top level (Istio: pilot/pkg/networking/core/
	// networkfilter.go, buildOutboundNetworkFiltersWithSingleDestination), and nobody's connection is to end for this.
	pool.Tcp.MaxConnectionDuration = durationpb.New(requestsFor)
	return pool
}

// seconds rounds up, as sockets know whole seconds only.
func seconds(d *metav1.Duration) *durationpb.Duration {
	if d == nil || d.Duration <= 0 {
		return nil
	}
	whole := time.Duration(math.Ceil(min(d.Duration, maxKeepaliveTime).Seconds())) * time.Second
	return durationpb.New(whole)
}
