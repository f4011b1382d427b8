package network

import (
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
)

// averageSize is how many bytes the objects of an imported destination may have on the average: an honest one has less than
// a quarter of it.
const averageSize = 4096

// importIndex knows what is imported, by hostname and by cluster, and keeps each cluster within its share.
type importIndex struct {
	mu     sync.Mutex
	byHost map[string]string // "<namespace>/<name>" of the Destination
	hostOf map[string]string // the reverse, of full hostnames
	short  map[string]string // short hostnames, by Destination
	sizeOf map[string]int    // bytes of its objects, by Destination
	byHome map[string]*share // by namespace
}

// share of one cluster in what is imported.
type share struct {
	count, size int
	// waiting are the names of Destinations for which there was no room, and how many bytes their objects have: 0 where they
	// have not been made.
	waiting map[string]int
	// freed says that room was given up since nobody was found who fits.
	freed bool
}

func newImportIndex() *importIndex {
	return &importIndex{byHost: map[string]string{}, hostOf: map[string]string{}, short: map[string]string{}, sizeOf: map[string]int{}, byHome: map[string]*share{}}
}

// recall says that there is an object of a Destination: its ServiceEntry, with a full hostname, or with "" another one.
func (x *importIndex) recall(destination, host string, size int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if host == "" {
		if host = x.hostOf[destination]; host == "" {
			return
		}
	}
	x.set(destination, host, x.sizeOf[destination]+size)
}

// admit makes room for a Destination as a hostname, with objects of so many bytes, among at most limit of its cluster. It
// returns the reason if there is none: then all is as it was, and the Destination waits for room.
func (x *importIndex) admit(key types.NamespacedName, host string, size, limit int) (reason string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if reason = x.refuse(key, size, limit); reason != "" {
		x.home(key.Namespace).waiting[key.Name] = size
		return reason
	}
	x.set(key.String(), host, size)
	return ""
}

// refuse returns the reason why there is no room for a Destination with objects of so many bytes, or "".
func (x *importIndex) refuse(key types.NamespacedName, size, limit int) (reason string) {
	home := x.home(key.Namespace)
	_, there := x.hostOf[key.String()]
	was := x.sizeOf[key.String()]
	switch {
	case !there && home.count >= limit:
		return ReasonTooManyImports
	case size > was && home.size-was+size > limit*averageSize:
		return ReasonImportsTooLarge
	}
	return ""
}

// also says that a Destination has a short hostname too.
func (x *importIndex) also(destination, short string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.byHost[short], x.short[destination] = destination, short
}

// full reports whether so many destinations of a cluster are imported that there is no room for another one. If so, it waits.
func (x *importIndex) full(key types.NamespacedName, limit int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.refuse(key, 0, limit) == "" {
		return false
	}
	x.home(key.Namespace).waiting[key.Name] = 0
	return true
}

// come ends the wait of a Destination.
func (x *importIndex) come(key types.NamespacedName) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if home := x.byHome[key.Namespace]; home != nil {
		delete(home.waiting, key.Name)
		x.tidy(key.Namespace)
	}
}

// next is a Destination of a cluster that waits and for which there is room now.
func (x *importIndex) next(namespace string, limit int) (out []ctrl.Request) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if home := x.byHome[namespace]; home != nil && home.freed {
		for name, size := range home.waiting {
			if key := (types.NamespacedName{Namespace: namespace, Name: name}); x.refuse(key, size, limit) == "" {
				return []ctrl.Request{{NamespacedName: key}}
			}
		}
		home.freed = false
	}
	return nil
}

func (x *importIndex) home(namespace string) *share {
	home := x.byHome[namespace]
	if home == nil {
		home = &share{waiting: map[string]int{}}
		x.byHome[namespace] = home
	}
	return home
}

func (x *importIndex) tidy(namespace string) {
	if home := x.byHome[namespace]; home != nil && home.count == 0 && len(home.waiting) == 0 {
		delete(x.byHome, namespace)
	}
}

func (x *importIndex) set(destination, host string, size int) {
	namespace, name, _ := strings.Cut(destination, "/")
	home := x.home(namespace)
	if _, ok := x.hostOf[destination]; !ok {
		home.count++
	}
	home.size += size - x.sizeOf[destination]
	home.freed = home.freed || size < x.sizeOf[destination]
	delete(home.waiting, name)
	x.byHost[host], x.hostOf[destination], x.sizeOf[destination] = destination, host, size
}

// drop says that a Destination is not imported as a hostname any more; it reports whether it was.
func (x *importIndex) drop(destination, host string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.byHost[host] != destination {
		return false
	}
	delete(x.byHost, host)
	if x.short[destination] == host {
		delete(x.short, destination)
	}
	if x.hostOf[destination] == host {
		x.forget(destination)
	}
	return true
}

// remove says that a Destination is not imported; it returns the hostnames as which it was.
func (x *importIndex) remove(destination string) (hosts []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if short, ok := x.short[destination]; ok {
		delete(x.byHost, short)
		delete(x.short, destination)
		hosts = append(hosts, short)
	}
	if host, ok := x.hostOf[destination]; ok {
		delete(x.byHost, host)
		x.forget(destination)
		hosts = append(hosts, host)
	}
	return hosts
}

func (x *importIndex) forget(destination string) {
	namespace, _, _ := strings.Cut(destination, "/")
	home := x.home(namespace)
	home.count--
	home.freed = true
	home.size -= x.sizeOf[destination]
	delete(x.hostOf, destination)
	delete(x.sizeOf, destination)
	x.tidy(namespace)
}

// has reports whether a Destination is imported.
func (x *importIndex) has(key types.NamespacedName) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, ok := x.hostOf[key.String()]
	return ok
}

func (x *importIndex) len() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.hostOf)
}

func (x *importIndex) keys() (out []types.NamespacedName) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for destination := range x.hostOf {
		namespace, name, _ := strings.Cut(destination, "/")
		out = append(out, types.NamespacedName{Namespace: namespace, Name: name})
	}
	return out
}

// ofHosts are the Destinations that are imported as hostnames.
func (x *importIndex) ofHosts(hosts []string) (out []ctrl.Request) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, host := range hosts {
		if namespace, name, ok := strings.Cut(x.byHost[host], "/"); ok {
			out = append(out, ctrl.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}})
		}
	}
	return out
}

// covered are the Destinations whose hostname a host of a rule covers, which may begin with a wildcard.
func (x *importIndex) covered(host string) []ctrl.Request {
	suffix, wild := strings.CutPrefix(host, "*")
	if !wild {
		return x.ofHosts([]string{host})
	}
	x.mu.Lock()
	var hosts []string
	for h := range x.byHost {
		if strings.HasSuffix(h, suffix) {
			hosts = append(hosts, h)
		}
	}
	x.mu.Unlock()
	return x.ofHosts(hosts)
}
