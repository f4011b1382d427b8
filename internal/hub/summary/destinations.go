package summary

import (
	"maps"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
)

// Limits of what goes into a status. Texts of agents are bounded too: one of them must not make a status too large for all.
const (
	maxDestinations      = 256
	maxErrors            = 50
	maxError             = 512
	maxDestinationErrors = 3
	maxDestinationError  = 400
)

// Destinations sums up how destinations received an object. The zero value has none, and nil is like it.
type Destinations struct {
	counts map[v1alpha1.State]int32
	homes  map[string]*home // by namespace
}

// home is what the destinations of one cluster say: with and without errors.
type home struct{ wrong, right smallest }

// AddFor adds what a destination of a member says about a VirtualMesh of a name "<name>.<namespace>", if it is concerned.
func (ds *Destinations) AddFor(virtualMesh string, d *v1alpha1.Destination) {
	status := v1alpha1.ApprovalStatus{State: v1alpha1.StateInvalid}
	for _, e := range d.Status.Errors {
		if !ofPolicy(d, e) {
			status.Errors = append(status.Errors, e)
		}
	}
	if f := d.Status.AppliedFederation; f != nil && f.VirtualMesh == virtualMesh {
		status.State = v1alpha1.StateAccepted
	} else if len(status.Errors) == 0 {
		return
	}
	ds.add(d, status)
}

// ofPolicy reports whether an error of a destination says that it rejects an AccessPolicy, which is told there.
func ofPolicy(d *v1alpha1.Destination, text string) bool {
	return slices.ContainsFunc(d.Status.RejectedAccessPolicies, func(r v1alpha1.RejectedAccessPolicy) bool {
		return strings.HasPrefix(text, "AccessPolicy "+r.Name+": ")
	})
}

// AddForPolicy adds what a destination says about an AccessPolicy of a name "<name>.<namespace>", if it is concerned.
func (ds *Destinations) AddForPolicy(policy string, d *v1alpha1.Destination) {
	if i := slices.Index(d.Status.AppliedAccessPolicies, policy); i >= 0 {
		ds.add(d, v1alpha1.ApprovalStatus{State: v1alpha1.StateAccepted, AcceptanceOrder: int32(i + 1)})
		return
	}
	for _, r := range d.Status.RejectedAccessPolicies {
		if r.Name == policy {
			ds.add(d, v1alpha1.ApprovalStatus{State: v1alpha1.StateInvalid, Errors: r.Errors})
		}
	}
}

func (ds *Destinations) add(d *v1alpha1.Destination, status v1alpha1.ApprovalStatus) {
	if ds.counts == nil {
		ds.counts, ds.homes = map[v1alpha1.State]int32{}, map[string]*home{}
	}
	ds.counts[status.State]++
	h := ds.homes[d.Namespace]
	if h == nil {
		h = &home{}
		ds.homes[d.Namespace] = h
	}
	class := &h.right
	if status.State != v1alpha1.StateAccepted || len(status.Errors) > 0 {
		class = &h.wrong
	}
	class.add(d.Name+"."+d.Namespace, status)
}

// inTurn calls f for the destinations with errors, or without, one of each cluster in turn, until it returns false: what one
// cluster says, however much it is, keeps nothing of another from being seen.
func (ds *Destinations) inTurn(wrong bool, f func(name string, status v1alpha1.ApprovalStatus) bool) {
	clusters := slices.Sorted(maps.Keys(ds.homes))
	for i, more := 0, true; more; i++ {
		more = false
		for _, c := range clusters {
			class := &ds.homes[c].right
			if wrong {
				class = &ds.homes[c].wrong
			}
			if i < len(class.names) {
				more = true
				if !f(class.names[i], class.statuses[i]) {
					return
				}
			}
		}
	}
}

// Status is that of the destinations by name: 256 at most, of each cluster as many, those with errors first. But for a quarter:
// errors of one cluster do not keep it from being seen that all is well in another.
func (ds *Destinations) Status() map[string]v1alpha1.ApprovalStatus {
	if ds == nil || len(ds.counts) == 0 {
		return nil
	}
	out := map[string]v1alpha1.ApprovalStatus{}
	take := func(wrong bool, limit int) {
		ds.inTurn(wrong, func(name string, status v1alpha1.ApprovalStatus) bool {
			if len(out) >= limit {
				return false
			}
			var errs []string
			for _, e := range status.Errors[:min(len(status.Errors), maxDestinationErrors)] {
				errs = append(errs, finding.Short(e, maxDestinationError))
			}
			status.Errors = errs
			out[name] = status
			return true
		})
	}
	take(true, maxDestinations*3/4)
	take(false, maxDestinations)
	take(true, maxDestinations)
	return out
}

// Counts are those of all destinations, by state.
func (ds *Destinations) Counts() map[string]int32 {
	if ds == nil || len(ds.counts) == 0 {
		return nil
	}
	out := map[string]int32{}
	for state, n := range ds.counts {
		out[string(state)] = n
	}
	return out
}

// problems are what is wrong with destinations, of as many as are in a status.
func (ds *Destinations) problems() (out []string) {
	if ds == nil {
		return nil
	}
	ds.inTurn(true, func(name string, status v1alpha1.ApprovalStatus) bool {
		for _, e := range status.Errors[:min(len(status.Errors), maxDestinationErrors)] {
			out = append(out, name+": "+finding.Short(e, maxDestinationError))
		}
		return len(out) < maxDestinations
	})
	return out
}

// smallest keeps the statuses of the first names in order.
type smallest struct {
	names    []string
	statuses []v1alpha1.ApprovalStatus
}

func (s *smallest) add(name string, status v1alpha1.ApprovalStatus) {
	i, found := slices.BinarySearch(s.names, name)
	if found || i == maxDestinations {
		return
	}
	if len(s.names) == maxDestinations {
		s.names, s.statuses = s.names[:maxDestinations-1], s.statuses[:maxDestinations-1]
	}
	s.names, s.statuses = slices.Insert(s.names, i, name), slices.Insert(s.statuses, i, status)
}
