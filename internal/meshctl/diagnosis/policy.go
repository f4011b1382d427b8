package diagnosis

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// tlsModeField is the field of Settings that a VirtualMesh may contradict.
const tlsModeField = "spec.mtls.istio.tlsMode"

func (s *State) examinePolicies(fs *Findings) {
	rejected := s.rejected()
	for i := range s.AccessPolicies {
		p := &s.AccessPolicies[i]
		object := "access policy " + p.Name
		if p.Namespace != s.Namespace {
			fs.add("ISTH8001", Warning, object, "lies in namespace "+p.Namespace+", where the hub does not look", "Move it to "+s.Namespace+".")
			continue
		}
		if len(p.Status.Errors) > 0 {
			fs.add("ISTH8002", Error, object, strings.Join(p.Status.Errors, "; "), "What was accepted before stays in force until this is put right.")
		}
		name := kube.Qualified(p.Name, p.Namespace)
		for _, text := range slices.Sorted(maps.Keys(rejected[name])) {
			fs.add("ISTH8003", Error, object, "allows nobody at "+some(rejected[name][text])+": "+text, "")
		}
		s.examineApplied(fs, p)
	}
	s.examineSettings(fs)
}

// rejected are the destinations that reject each policy, by the reason.
func (s *State) rejected() map[string]map[string][]string {
	out := map[string]map[string][]string{}
	for i := range s.Destinations {
		d := &s.Destinations[i]
		for _, r := range d.Status.RejectedAccessPolicies {
			if out[r.Name] == nil {
				out[r.Name] = map[string][]string{}
			}
			text := reasons(r.Errors)
			out[r.Name][text] = append(out[r.Name][text], d.Name+" of cluster "+membership.Cluster(d.Namespace))
		}
	}
	return out
}

// examineApplied finds members in which a policy is not in force as it was accepted.
func (s *State) examineApplied(fs *Findings, p *v1alpha1.AccessPolicy) {
	if p.Status.Accepted == nil {
		if len(p.Status.Errors) == 0 {
			fs.add("ISTH8004", Warning, "access policy "+p.Name, "the hub has not looked at it yet", "Is the hub ready?")
		}
		return
	}
	want := v1alpha1.AppliedAccessPolicy{Name: kube.Qualified(p.Name, p.Namespace), Generation: p.Status.Accepted.Generation}
	var behind []string
	for _, vm := range s.virtualMeshes() {
		for _, m := range vm.Members {
			if s.connected(m.Namespace) && !slices.Contains(m.Status.AppliedAccessPolicies, want) {
				behind = append(behind, membership.MeshKey(m))
			}
		}
	}
	if len(behind) > 0 {
		slices.Sort(behind)
		fs.add("ISTH8004", Warning, "access policy "+p.Name, fmt.Sprintf("generation %d is not in force yet in mesh %s", want.Generation, some(behind)),
			"If this lasts, see `kubectl -n isthmus-agent logs deploy/isthmus-agent` in that cluster.")
	}
}

func (s *State) examineSettings(fs *Findings) {
	for i := range s.Settings {
		settings := &s.Settings[i]
		if settings.Namespace != s.Namespace {
			fs.add("ISTH8001", Warning, "settings", "lie in namespace "+settings.Namespace+", where the hub does not look", "Move them to "+s.Namespace+".")
			continue
		}
		conflicts, others := conflicting(settings.Status.Errors)
		if len(others) > 0 {
			fs.add("ISTH8005", Error, "settings", strings.Join(others, "; "), "What was accepted before stays in force until this is put right.")
		}
		tellConflicts(fs, "settings", conflicts)
	}
}

// conflicting parts errors into those that say that the TLS settings of servers and clients contradict each other, and others.
func conflicting(errors []string) (conflicts, others []string) {
	for _, e := range errors {
		if strings.Contains(e, tlsModeField) {
			conflicts = append(conflicts, e)
		} else {
			others = append(others, e)
		}
	}
	return conflicts, others
}

func tellConflicts(fs *Findings, object string, conflicts []string) {
	if len(conflicts) > 0 {
		fs.add("ISTH8006", Error, object, strings.Join(conflicts, "; "),
			"Either servers would refuse what clients send, or clients would send what servers do not take. What was accepted before stays in force.")
	}
}

// reasons makes one text of several.
func reasons(texts []string) string { return cmp.Or(strings.Join(texts, "; "), "no reason is given") }
