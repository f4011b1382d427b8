package network

import (
	"testing"
)

// TestTheHubIsForbidden: at the hub's address, in whatever form it is given, no gateway is looked for; at other ports of the
// same machine one may be.
func TestTheHubIsForbidden(t *testing.T) {
	for _, tc := range []struct {
		hub, address string
		port         int32
		forbidden    bool
	}{
		{"192.0.2.20:6443", "192.0.2.20", 6443, true},
		{"192.0.2.20:6443", "::ffff:192.0.2.20", 6443, true},
		{"192.0.2.20:6443", "192.0.2.20", 15443, false},
		{"192.0.2.20:6443", "192.0.2.21", 6443, false},
		{"[2001:db8::20]:6443", "2001:db8::20", 6443, true},
		{"[2001:DB8:0::20]:6443", "2001:db8::20", 6443, true},
		{"Hub.invalid.:443", "hub.invalid", 443, true},
		{"hub.invalid:443", "other.invalid", 443, false},
		{"localhost:443", "127.0.0.1", 443, true}, // as the name is resolved
		{"", "192.0.2.20", 6443, false},
		{":", "", 0, false},
	} {
		n := &network{server: func() string { return tc.hub }}
		servers := map[string]bool{}
		for _, e := range n.hubEndpoints(t.Context()) {
			servers[e] = true
		}
		n.forbidden.Store(&servers)
		if got := n.isForbidden(tc.address, tc.port); got != tc.forbidden {
			t.Errorf("hub at %s: %s port %d is forbidden: %v", tc.hub, tc.address, tc.port, got)
		}
	}
	if (&network{}).isForbidden("192.0.2.20", 6443) {
		t.Error("something is forbidden before anything is known")
	}
}
