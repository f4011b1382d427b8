package federation

import (
	"fmt"
	"hash/fnv"
	"iter"
	"maps"
	"slices"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// Exports is the set of destinations that one mesh federates. It is kept by adding and removing one at a time. The zero value
// is empty.
type Exports struct {
	services   map[string]exported   // by destination
	namespaces map[string]*namespace // those that have any
	digest     digest
}

// exported is a Service.
type exported struct {
	// name is "<service>.<namespace>." with a dot at its end: so names sort as the full ones do.
	name      string
	namespace string
}

// namespace has the Services of one namespace.
type namespace struct {
	// destinations counts, by the Service's name, those that are federated as it.
	destinations map[string]int
	// sorted holds the names, as long as they stay as they are. Where the whole namespace is admitted nobody asks for them.
	sorted []string
}

// Destinations are the names of those that are federated, in no order.
func (e *Exports) Destinations() iter.Seq[string] { return maps.Keys(e.services) }

// Set says that a destination, by the name of its object, is federated as a Service, or with an empty service not at all. It
// reports whether the set has changed.
func (e *Exports) Set(destination, service, namespace string) (changed bool) {
	was, known := e.services[destination]
	want := exported{service + "." + namespace + ".", namespace}
	switch {
	case service == "" && !known, known && was == want:
		return false
	case service == "":
		delete(e.services, destination)
		e.digest.remove(destination)
	default:
		if e.services == nil {
			e.services = map[string]exported{}
		}
		e.services[destination] = want
		if !known {
			e.digest.add(destination)
		}
	}
	if known {
		e.count(was, -1)
	}
	if service != "" {
		e.count(want, 1)
	}
	return true
}

func (e *Exports) count(x exported, n int) {
	ns := e.namespaces[x.namespace]
	if ns == nil {
		ns = &namespace{destinations: map[string]int{}}
		if e.namespaces == nil {
			e.namespaces = map[string]*namespace{}
		}
		e.namespaces[x.namespace] = ns
	}
	ns.sorted = nil
	if ns.destinations[x.name] += n; ns.destinations[x.name] == 0 {
		delete(ns.destinations, x.name)
	}
	if len(ns.destinations) == 0 {
		delete(e.namespaces, x.namespace)
	}
}

// Len is how many destinations are in the set.
func (e *Exports) Len() int { return len(e.services) }

// Hosts that the gateways admit, sorted: full names, and "*.<namespace>.svc.<cluster domain>" where a selector admits every
// present and future service of a namespace that has exports; never "*" and never "<namespace>/…".
func (e *Exports) Hosts(vm *membership.VirtualMesh, home *v1alpha1.Mesh) []string {
	domain := "svc." + clusterDomain(home)
	var wildcards, names []string
	for name, ns := range e.namespaces {
		if admitsNamespace(vm, home, name) {
			wildcards = append(wildcards, "*."+name+"."+domain)
			continue
		}
		if ns.sorted == nil {
			ns.sorted = slices.Sorted(maps.Keys(ns.destinations))
		}
		names = append(names, ns.sorted...)
	}
	slices.Sort(wildcards)
	slices.Sort(names)
	for i := range names {
		names[i] += domain
	}
	return append(wildcards, names...) // an asterisk sorts before what DNS labels are made of
}

// admitsNamespace reports whether a selector federates every service that a namespace has or will ever have. Where one of
// them is a gateway's the answer is no: a gateway must not admit itself.
func admitsNamespace(vm *membership.VirtualMesh, home *v1alpha1.Mesh, namespace string) bool {
	if slices.ContainsFunc(home.Spec.Istio.Gateways, func(g v1alpha1.IngressGateway) bool { return g.Namespace == namespace }) {
		return false
	}
	return slices.ContainsFunc(selectors(vm, home), func(s v1alpha1.FederationSelector) bool {
		return membership.SelectsNamespace(s.DestinationSelectors, membership.Cluster(home.Namespace), namespace)
	})
}

// Digest of the names of the destinations. Equal sets have equal digests.
func (e *Exports) Digest() string { return e.digest.String() }

// DigestOf returns the digest of a set of names of destinations.
func DigestOf(names []string) string {
	var d digest
	for _, name := range names {
		d.add(name)
	}
	return d.String()
}

// digest of a set of names, in no order, to which one can be added and from which one can be taken. It finds what is not up
// to date; whoever makes the set could as well lie.
type digest struct {
	sum   uint64
	count int
}

func (d *digest) add(name string)    { d.sum += hash(name); d.count++ }
func (d *digest) remove(name string) { d.sum -= hash(name); d.count-- }
func (d *digest) String() string     { return fmt.Sprintf("%016x-%x", d.sum, d.count) }

func hash(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return h.Sum64()
}
