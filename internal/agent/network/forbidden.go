package network

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// lookupTimeout bounds how long the name of the hub is looked up.
const lookupTimeout = 2 * time.Second

// isForbidden reports whether a port of an IP address or DNS name is an API server's, so that it is no gateway's.
func (n *network) isForbidden(address string, port int32) bool {
	servers := n.forbidden.Load()
	return servers != nil && (*servers)[endpoint(address, port)]
}

// lookForAPIServers learns where API servers are. Where they are others than before, what was imported is looked at again.
func (n *network) lookForAPIServers(ctx context.Context) error {
	servers, err := n.apiServers(ctx)
	if err != nil {
		return err
	}
	if was := n.forbidden.Swap(&servers); was != nil && !maps.Equal(*was, servers) {
		n.enqueue(importController, 0, n.allImports(difference{everything: true})...)
	}
	return nil
}

// apiServers are the addresses at which API servers are reached, that of this cluster and the hub's: "<address>:<port>".
func (n *network) apiServers(ctx context.Context) (map[string]bool, error) {
	out := map[string]bool{}
	var service corev1.Service
	if err := client.IgnoreNotFound(n.live.Get(ctx, client.ObjectKey{Namespace: "default", Name: "kubernetes"}, &service)); err != nil {
		return nil, err
	}
	for _, ip := range service.Spec.ClusterIPs {
		for _, p := range service.Spec.Ports {
			out[endpoint(ip, p.Port)] = true
		}
	}
	var list discoveryv1.EndpointSliceList
	err := n.live.List(ctx, &list, client.InNamespace("default"), client.MatchingLabels{discoveryv1.LabelServiceName: "kubernetes"})
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		for _, e := range list.Items[i].Endpoints {
			for _, ip := range e.Addresses {
				for _, p := range list.Items[i].Ports {
					if p.Port != nil {
						out[endpoint(ip, *p.Port)] = true
					}
				}
			}
		}
	}
	for _, e := range n.hubEndpoints(ctx) {
		out[e] = true
	}
	return out, nil
}

// hubEndpoints are those of the hub, under its name if it has one, and as that is resolved now.
func (n *network) hubEndpoints(ctx context.Context) []string {
	host, number, err := net.SplitHostPort(n.server())
	if err != nil {
		return nil
	}
	port, err := strconv.ParseInt(number, 10, 32)
	if err != nil {
		return nil
	}
	out := []string{endpoint(host, int32(port))}
	if _, err := netip.ParseAddr(host); err == nil {
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	ips, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", host) // if it is not resolved here, its name is still known
	for _, ip := range ips {
		out = append(out, endpoint(ip.String(), int32(port)))
	}
	return out
}

// endpoint is the one form in which an address is written with a port.
func endpoint(address string, port int32) string {
	if ip, err := netip.ParseAddr(address); err == nil {
		address = ip.Unmap().String()
	}
	return net.JoinHostPort(strings.ToLower(strings.TrimSuffix(address, ".")), strconv.Itoa(int(port)))
}
