package network

import (
	"net/netip"
	"slices"
	"testing"
)

// TestAddresses uses up a range of two addresses.
func TestAddresses(t *testing.T) {
	var told []string
	a := newAddresses(netip.MustParsePrefix("240.0.0.0/30"), func(hosts []string) {
		slices.Sort(hosts)
		told = append(told, hosts...)
	})
	get := func(host string, want bool) {
		t.Helper()
		if addr, err := a.of(host); (err == nil) != want {
			t.Errorf("%s: %q, %v", host, addr, err)
		}
	}
	freed := func(why string, want ...string) {
		t.Helper()
		if !slices.Equal(told, want) {
			t.Errorf("%s: %v were told, want %v", why, told, want)
		}
		told = nil
	}
	if moved := a.reserve("shop/theirs", []string{"240.0.0.1", "192.0.2.1"}); len(moved) > 0 {
		t.Errorf("moved: %v", moved)
	}
	a.reserve("shop/another", []string{"240.0.0.1"})
	get("a", true)
	get("b", false)
	get("c", false)
	freed("nothing was given back")
	a.release("a")
	freed("one was given back", "b", "c")
	get("c", true)
	get("b", false)
	a.release("nobody")
	freed("none was given back")
	a.reserve("shop/another", nil)
	freed("one is still held by somebody else")
	get("b", false)
	a.reserve("shop/theirs", []string{"192.0.2.1"})
	freed("it is held by nobody any more", "b")
	get("b", true)
	if moved := a.reserve("shop/theirs", []string{"240.0.0.1", "240.0.0.2"}); len(moved) != 2 {
		t.Errorf("moved: %v", moved)
	}
	get("b", false)
}
