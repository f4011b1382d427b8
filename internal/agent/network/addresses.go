package network

import (
	"errors"
	"hash/fnv"
	"math/big"
	"net/netip"
	"sync"
)

// addresses gives each federated hostname an address that nothing else in this cluster has, so that a TCP port of it catches
// no other traffic. A hostname keeps its address as long as there is an object that says so; without one it gets, if free, the
// same again, because the first choice is made of the name.
type addresses struct {
	pool netip.Prefix

	mu     sync.Mutex
	byHost map[string]netip.Addr
	taken  map[netip.Addr]string // by hostname, or by what else has it
}

var errNoAddress = errors.New("the range of addresses for federated hostnames is used up: give the agent a larger --federation-address-range")

func newAddresses(pool netip.Prefix) *addresses {
	return &addresses{pool: pool.Masked(), byHost: map[string]netip.Addr{}, taken: map[netip.Addr]string{}}
}

// claim says that an object gives addresses to a hostname of ours. The first claim counts; false means that the hostname
// has to move.
func (a *addresses) claim(host string, addrs []string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range addrs {
		addr, err := netip.ParseAddr(s)
		if err != nil || !a.usable(addr) {
			return false
		}
		if holder, ok := a.taken[addr]; ok && holder != host {
			return false
		}
		if have, ok := a.byHost[host]; ok && have != addr {
			return false
		}
		a.byHost[host], a.taken[addr] = addr, host
	}
	return true
}

// reserve says that something else has addresses. It returns the hostnames of ours that have to move.
func (a *addresses) reserve(owner string, addrs []string) (moved []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range addrs {
		addr, err := netip.ParseAddr(s)
		if err != nil || !a.pool.Contains(addr) {
			continue
		}
		if host, ok := a.taken[addr]; ok && a.byHost[host] == addr {
			delete(a.byHost, host)
			moved = append(moved, host)
		}
		a.taken[addr] = owner
	}
	return moved
}

// of returns the address of a hostname, a new one if it has none.
func (a *addresses) of(host string) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if addr, ok := a.byHost[host]; ok {
		return addr.String(), nil
	}
	size := new(big.Int).Lsh(big.NewInt(1), uint(a.pool.Addr().BitLen()-a.pool.Bits()))
	h := fnv.New64a()
	_, _ = h.Write([]byte(host))
	offset := new(big.Int).Mod(new(big.Int).SetUint64(h.Sum64()), size)
	for range len(a.taken) + 3 { // one of so many is free, if there are so many
		addr := a.at(offset)
		if _, ok := a.taken[addr]; !ok && a.usable(addr) {
			a.byHost[host], a.taken[addr] = addr, host
			return addr.String(), nil
		}
		offset.Mod(offset.Add(offset, big.NewInt(1)), size)
	}
	return "", errNoAddress
}

// release gives the address of a hostname back.
func (a *addresses) release(host string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if addr, ok := a.byHost[host]; ok {
		delete(a.byHost, host)
		delete(a.taken, addr)
	}
}

// usable leaves out the first and the last address of the range: some implementations take them for the network's own.
func (a *addresses) usable(addr netip.Addr) bool {
	return a.pool.Contains(addr) && addr != a.pool.Addr() && a.pool.Contains(addr.Next())
}

func (a *addresses) at(offset *big.Int) netip.Addr {
	base := new(big.Int).SetBytes(a.pool.Addr().AsSlice())
	bytes := make([]byte, a.pool.Addr().BitLen()/8)
	base.Add(base, offset).FillBytes(bytes)
	addr, _ := netip.AddrFromSlice(bytes)
	return addr
}
