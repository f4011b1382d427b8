package summary

import (
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
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
	counts       map[v1alpha1.State]int32
	wrong, right smallest // with and without errors
}

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
		ds.counts = map[v1alpha1.State]int32{}
	}
	ds.counts[status.State]++
	class := &ds.right
	if status.State != v1alpha1.StateAccepted || len(status.Errors) > 0 {
		class = &ds.wrong
	}
	class.add(d.Name+"."+d.Namespace, status)
}

// Status is that of the destinations by name: 256 at most, those with errors first.
func (ds *Destinations) Status() map[string]v1alpha1.ApprovalStatus {
	if ds == nil || len(ds.counts) == 0 {
		return nil
	}
	out := map[string]v1alpha1.ApprovalStatus{}
	for _, class := range []smallest{ds.wrong, ds.right} {
		for i, name := range class.names[:min(len(class.names), maxDestinations-len(out))] {
			status := class.statuses[i]
			var errs []string
			for _, e := range status.Errors[:min(len(status.Errors), maxDestinationErrors)] {
				errs = append(errs, short(e, maxDestinationError))
			}
			status.Errors = errs
			out[name] = status
		}
	}
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

// problems are what is wrong with destinations, by name.
func (ds *Destinations) problems() (out []string) {
	if ds == nil {
		return nil
	}
	for i, name := range ds.wrong.names {
		for _, e := range ds.wrong.statuses[i].Errors {
			out = append(out, name+": "+short(e, maxDestinationError))
		}
	}
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

// short cuts a text that is too long.
func short(s string, limit int) string {
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit-3], "") + "..."
	}
	return s
}
