package network

import (
	"errors"
	"hash/fnv"
	"maps"
	"math/big"
	"net/netip"
	"slices"
	"sync"
)

// addresses gives each federated hostname an address that nothing else in this cluster has, so that a TCP port of it catches
// no other traffic. A hostname keeps its address as long as there is an object that says so; without one it gets, if free, the
// same again, because the first choice is made of the name.
type addresses struct {
	pool netip.Prefix

	// freed is told of the hostnames that went without, when an address is free again.
	freed func(hosts []string)

	mu      sync.Mutex
	byHost  map[string]netip.Addr
	taken   map[netip.Addr]string   // by hostname, or by what else has it
	others  map[string][]netip.Addr // of the range, by what else has them
	without map[string]bool         // hostnames for which there was none
	room    bool                    // says that one is free that was not
}

var errNoAddress = errors.New("the range of addresses for federated hostnames is used up: give the agent a larger --federation-address-range")

func newAddresses(pool netip.Prefix, freed func(hosts []string)) *addresses {
	return &addresses{
		pool: pool.Masked(), freed: freed, byHost: map[string]netip.Addr{}, taken: map[netip.Addr]string{},
		others: map[string][]netip.Addr{}, without: map[string]bool{},
	}
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

// reserve says which addresses something else has, instead of those that it had. It returns the hostnames of ours that have to move.
func (a *addresses) reserve(owner string, addrs []string) (moved []string) {
	a.mu.Lock()
	defer a.unlock()
	had := a.others[owner]
	delete(a.others, owner)
	for _, addr := range had {
		a.leave(owner, addr)
	}
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
		a.others[owner] = append(a.others[owner], addr)
	}
	return moved
}

// leave takes an address from something else that has it no more. Another one may have it too.
func (a *addresses) leave(owner string, addr netip.Addr) {
	if a.taken[addr] != owner {
		return
	}
	for other, addrs := range a.others {
		if slices.Contains(addrs, addr) {
			a.taken[addr] = other
			return
		}
	}
	delete(a.taken, addr)
	a.room = true
}

// unlock ends a change, by which an address may have become free.
func (a *addresses) unlock() {
	var hosts []string
	if a.room {
		hosts = slices.Collect(maps.Keys(a.without))
		clear(a.without)
	}
	a.room = false
	a.mu.Unlock()
	if len(hosts) > 0 {
		a.freed(hosts)
	}
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
			delete(a.without, host)
			return addr.String(), nil
		}
		offset.Mod(offset.Add(offset, big.NewInt(1)), size)
	}
	a.without[host] = true
	return "", errNoAddress
}

// release gives the address of a hostname back.
func (a *addresses) release(host string) {
	a.mu.Lock()
	defer a.unlock()
	delete(a.without, host)
	if addr, ok := a.byHost[host]; ok {
		delete(a.byHost, host)
		delete(a.taken, addr)
		a.room = true
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
