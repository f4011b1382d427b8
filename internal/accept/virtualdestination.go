package accept

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/federation"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

const (
	// ReasonHostnameTaken says that another VirtualDestination of the virtual mesh has the hostname.
	ReasonHostnameTaken = "HostnameTaken"
	// ReasonTooManyNames says that the virtual mesh has as many VirtualDestinations as are possible.
	ReasonTooManyNames = "TooManyVirtualDestinations"
)

// MaxVirtualDestinations of a virtual mesh: each Mesh reports all of them.
const MaxVirtualDestinations = 256

// Names is what a VirtualDestination is judged against.
type Names struct {
	// Namespace of the hub.
	Namespace     string
	VirtualMeshes []v1alpha1.VirtualMesh
	// Others are all VirtualDestinations, with or without the one that is judged.
	Others []v1alpha1.VirtualDestination
	// Clusters are those that are registered.
	Clusters []string
}

// VirtualDestination returns what of vd is in force from now on: vd itself, or prev, which may be nil, where it is refused. Who
// has a hostname first keeps it.
func VirtualDestination(prev *v1alpha1.AcceptedVirtualDestination, vd *v1alpha1.VirtualDestination, w Names) (*v1alpha1.AcceptedVirtualDestination, finding.Findings) {
	var fs finding.Findings
	find := func(field, reason, format string, args ...any) {
		fs = append(fs, finding.Finding{Field: field, Reason: reason, Message: fmt.Sprintf(format, args...)})
	}
	spec := vd.Spec.DeepCopy()
	spec.VirtualMesh.Namespace = cmp.Or(spec.VirtualMesh.Namespace, w.Namespace)
	if vd.Namespace != w.Namespace {
		find("metadata.namespace", v1alpha1.ReasonInvalid, "VirtualDestinations lie in the hub's namespace, %s", w.Namespace)
	}
	for _, label := range [][2]string{{"name", spec.Service.Name}, {"namespace", spec.Service.Namespace}} {
		if !dnsLabel.MatchString(label[1]) {
			find("spec.service."+label[0], v1alpha1.ReasonInvalid, "%q is no DNS label (RFC 1123)", label[1])
		}
	}
	if o := spec.OutlierDetection; o != nil {
		for _, d := range []struct {
			field string
			value *metav1.Duration
		}{{"interval", o.Interval}, {"baseEjectionTime", o.BaseEjectionTime}} {
			if d.value != nil && (d.value.Duration < 100*time.Millisecond || d.value.Duration > time.Hour) {
				find("spec.outlierDetection."+d.field, v1alpha1.ReasonInvalid, "%s is too short or too long: take one from 100ms to 1h", d.value.Duration)
			}
		}
	}
	i := slices.IndexFunc(w.VirtualMeshes, func(vm v1alpha1.VirtualMesh) bool {
		return vm.Name == spec.VirtualMesh.Name && vm.Namespace == spec.VirtualMesh.Namespace && vm.DeletionTimestamp.IsZero()
	})
	if i < 0 || w.VirtualMeshes[i].Status.Accepted == nil {
		why := "there is no VirtualMesh %s: create it, or correct the name"
		if i >= 0 {
			why = "nothing is in force of VirtualMesh %s: see its status"
		}
		find("spec.virtualMesh", v1alpha1.ReasonInvalid, why, MeshKey(spec.VirtualMesh.Name, spec.VirtualMesh.Namespace))
		return prev, fs
	}
	vm := &w.VirtualMeshes[i].Status.Accepted.Spec
	suffix := ""
	if vm.Federation != nil {
		suffix = vm.Federation.HostnameSuffix
	}
	hostname := cmp.Or(spec.Hostname, federation.VirtualHostname(spec.Service, suffix))
	if why := federation.UnfitHostname(hostname, suffix); why != "" {
		find("spec.hostname", v1alpha1.ReasonInvalid, "%s", why)
	}
	for i, cluster := range spec.Clusters {
		field := fmt.Sprintf("spec.clusters[%d]", i)
		switch {
		case !slices.Contains(w.Clusters, cluster):
			find(field, v1alpha1.ReasonInvalid, "no cluster %s is registered: correct the name (`meshctl cluster list`), register it, or take it out", cluster)
		case !slices.ContainsFunc(vm.Meshes, func(m v1alpha1.ObjectRef) bool { return membership.Cluster(m.Namespace) == cluster }):
			find(field, v1alpha1.ReasonInvalid, "cluster %s has no mesh in VirtualMesh %s: add it there (spec.meshes), or take it out here", cluster, spec.VirtualMesh.Name)
		}
	}
	others := 0
	for i := range w.Others {
		o := &w.Others[i]
		a := o.Status.Accepted
		if o.UID == vd.UID && o.Name == vd.Name || a == nil || a.Spec.VirtualMesh != spec.VirtualMesh || !o.DeletionTimestamp.IsZero() {
			continue
		}
		others++
		if a.Hostname == hostname && !(prev != nil && prev.Hostname == hostname && Before(vd, o)) {
			find("spec.hostname", ReasonHostnameTaken, "VirtualDestination %s has the hostname %s: choose another one, or delete one of the two", o.Name, hostname)
		}
	}
	if others >= MaxVirtualDestinations && prev == nil {
		find("spec.virtualMesh", ReasonTooManyNames, "VirtualMesh %s has %d VirtualDestinations, and more are not possible: delete some", spec.VirtualMesh.Name, others)
	}
	if len(fs) > 0 {
		return prev, fs
	}
	return &v1alpha1.AcceptedVirtualDestination{Generation: vd.Generation, Hostname: hostname, Spec: *spec}, nil
}

// Before says which of two VirtualDestinations keeps a hostname that both have, as may happen to be accepted at once.
func Before(a, b *v1alpha1.VirtualDestination) bool {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name)) < 0
}
