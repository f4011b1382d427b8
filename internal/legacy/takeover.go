package legacy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Item is an object of Istio in a member cluster, as far as a takeover depends on it.
type Item struct {
	Kind, Namespace, Name string
	// Old: an installation of an older generation made it. Ours: Isthmus did.
	Old, Ours bool
	// Hosts of a ServiceEntry, or the host of a DestinationRule.
	Hosts []string
	// Private: it is a ServiceEntry for its own namespace only, by which a gateway finds a service of its own cluster.
	Private bool
}

// Act is what a takeover does about an object.
type Act string

// Acts, in the order in which they are carried out.
const (
	// HandOver gives the object to the agent, which puts its own in its place without a moment in between.
	HandOver Act = "hand over"
	// Remove deletes the object.
	Remove Act = "remove"
	// Wait leaves it until something else is done.
	Wait Act = "wait"
	// Keep leaves it: there is nothing here that takes its place.
	Keep Act = "keep"
)

// Step is what is done about one object of an older installation, and why.
type Step struct {
	Item
	Act Act
	Why string
}

// Takeover decides what is to be done about each object that an older installation has left in a cluster, where something of
// Isthmus's takes its place, so that no call of a service fails: first the mesh calls others through what Isthmus made, and only
// when no mesh calls in the old way any more goes that by which it was called. callers are the other clusters that do. wanted reports
// whether the agent would make a hostname of the first generation its own. The steps are in the order in which they are to be carried
// out; after what is handed over one has to look again.
func Takeover(items []Item, callers []string, wanted func(host string) bool) []Step {
	t := &takeover{callers: strings.Join(slices.Sorted(slices.Values(callers)), ", "), wanted: wanted, entries: map[string]bool{}, rules: map[string]bool{}, old: map[string]Item{}}
	for _, i := range items {
		for _, host := range i.Hosts {
			switch {
			case i.Ours && i.Kind == "ServiceEntry":
				t.entries[host] = true
			case i.Ours && i.Kind == "DestinationRule":
				t.rules[host] = true
			case i.Old && i.Kind == "ServiceEntry":
				t.old[host] = i
			}
		}
	}
	var steps []Step
	for _, i := range items {
		if i.Old && !i.Ours {
			act, why := t.decide(i)
			steps = append(steps, Step{i, act, why})
		}
	}
	slices.SortStableFunc(steps, func(a, b Step) int {
		byKind := cmp.Compare(kindRank(a.Kind), kindRank(b.Kind))
		if a.Act == HandOver { // the agent begins with the rule, and then has both
			byKind = -byKind
		}
		return cmp.Or(cmp.Compare(rank(a.Act), rank(b.Act)), byKind,
			strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return steps
}

func rank(a Act) int { return slices.Index([]Act{HandOver, Remove, Wait, Keep}, a) }

// kindRank is the order within an act: a rule goes before its host, and gateways last.
func kindRank(kind string) int {
	return slices.Index([]string{"DestinationRule", "ServiceEntry", "Gateway", "EnvoyFilter"}, kind)
}

type takeover struct {
	callers        string // "" if there are none
	wanted         func(host string) bool
	entries, rules map[string]bool // hosts of ours
	old            map[string]Item // ServiceEntries by their hosts
}

func (t *takeover) decide(i Item) (Act, string) {
	host := ""
	if len(i.Hosts) > 0 {
		host = i.Hosts[0]
	}
	switch i.Kind {
	case "ServiceEntry":
		switch {
		case i.Private:
			return t.uncalled()
		case t.entries[host]:
			return Remove, "a ServiceEntry of Isthmus is in force for this host"
		case t.rules[host] && i.Name == host, t.isWanted(i, host):
			return HandOver, wants
		}
		if ours := t.sameService(host); ours != "" {
			return Keep, "the service is called " + ours + " here: delete it when nobody uses the old name"
		}
		return Keep, "no service is made known under this host: federate it, or delete it when nobody uses it"
	case "DestinationRule":
		entry, there := t.old[host]
		switch {
		case there && entry.Private:
			return t.uncalled()
		case t.isWanted(i, host):
			return HandOver, wants
		case there:
			return Wait, "it goes after ServiceEntry " + entry.Namespace + "/" + entry.Name
		case t.entries[host]:
			return Remove, "a DestinationRule of Isthmus is in force for this host"
		}
	case "Gateway", "EnvoyFilter":
		return t.uncalled()
	}
	return Keep, "nothing here takes its place: delete it by hand when it is not needed"
}

const wants = "the agent wants this name for its own"

// isWanted reports whether an object of the first generation has the name and the host of one that the agent would make, which it
// does for a service that it has made known by the full name.
func (t *takeover) isWanted(i Item, host string) bool {
	return i.Name == host && t.sameService(host) != "" && t.wanted(host)
}

// uncalled is about what others call this cluster through.
func (t *takeover) uncalled() (Act, string) {
	if t.callers != "" {
		return Wait, fmt.Sprintf("these clusters still call in the old way: %s", t.callers)
	}
	return Remove, "no cluster calls in the old way any more"
}

// sameService is the host of ours for the service that the first generation called host: "<service>.<namespace>.<cluster>".
func (t *takeover) sameService(host string) string {
	parts := strings.Split(host, ".")
	if len(parts) != 3 {
		return ""
	}
	prefix := parts[0] + "." + parts[1] + ".svc." + parts[2] + "."
	for ours := range t.entries {
		if strings.HasPrefix(ours, prefix) {
			return ours
		}
	}
	return ""
}
