package accept_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/finding"
)

const system = "isthmus-system"

func virtualDestination(name string, age time.Duration, change ...func(*v1alpha1.VirtualDestination)) *v1alpha1.VirtualDestination {
	vd := &v1alpha1.VirtualDestination{ObjectMeta: metav1.ObjectMeta{
		Name: name, Namespace: system, UID: types.UID(name), Generation: 2, CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-age)),
	}}
	vd.Spec = v1alpha1.VirtualDestinationSpec{
		VirtualMesh: v1alpha1.ObjectRef{Name: "vm"}, Service: v1alpha1.ServiceRef{Name: "reviews", Namespace: "default"},
		Clusters: []string{"east", "west"}, Ports: []int32{9080},
	}
	for _, f := range change {
		f(vd)
	}
	return vd
}

// inForce has a spec accepted as it is.
func inForce(hostname string) func(*v1alpha1.VirtualDestination) {
	return func(vd *v1alpha1.VirtualDestination) {
		vd.Status.Accepted = &v1alpha1.AcceptedVirtualDestination{Generation: 1, Hostname: hostname, Spec: *vd.Spec.DeepCopy()}
		vd.Status.Accepted.Spec.VirtualMesh.Namespace = system
	}
}

func virtualMeshInForce(suffix string, clusters ...string) v1alpha1.VirtualMesh {
	vm := v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Name: "vm", Namespace: system}}
	vm.Status.Accepted = &v1alpha1.AcceptedVirtualMesh{}
	vm.Status.Accepted.Spec.Federation = &v1alpha1.Federation{HostnameSuffix: suffix}
	for _, c := range clusters {
		vm.Status.Accepted.Spec.Meshes = append(vm.Status.Accepted.Spec.Meshes, v1alpha1.ObjectRef{Name: "istiod-istio-system-" + c, Namespace: "isthmus-" + c})
	}
	return vm
}

func TestVirtualDestination(t *testing.T) {
	const host = "reviews.default.svc.global"
	many := func(n int) (out []v1alpha1.VirtualDestination) {
		for i := range n {
			out = append(out, *virtualDestination(strings.Repeat("x", i+1), 0, inForce(strings.Repeat("x", i+1)+".example")))
		}
		return out
	}
	second := func(d time.Duration) *metav1.Duration { return &metav1.Duration{Duration: d} }
	for name, c := range map[string]struct {
		change func(*v1alpha1.VirtualDestination)
		world  func(*accept.Names)
		fields []string // of findings; none means that it is accepted
		host   string
	}{
		"valid":              {host: host},
		"suffix of the mesh": {world: func(w *accept.Names) { w.VirtualMeshes[0] = virtualMeshInForce("clusterset.local", "east", "west") }, host: "reviews.default.svc.clusterset.local"},
		"own hostname":       {change: func(vd *v1alpha1.VirtualDestination) { vd.Spec.Hostname = "reviews.shop.svc.example.org" }, host: "reviews.shop.svc.example.org"},
		"namespace of the virtual mesh": {
			change: func(vd *v1alpha1.VirtualDestination) { vd.Spec.VirtualMesh.Namespace = system }, host: host,
		},
		"elsewhere": {change: func(vd *v1alpha1.VirtualDestination) { vd.Namespace = "default" }, fields: []string{"metadata.namespace"}},
		"service": {change: func(vd *v1alpha1.VirtualDestination) {
			vd.Spec.Service = v1alpha1.ServiceRef{Name: "A.b", Namespace: "*"}
		}, fields: []string{"spec.service.name", "spec.service.namespace", "spec.hostname"}},
		"no virtual mesh":      {change: func(vd *v1alpha1.VirtualDestination) { vd.Spec.VirtualMesh.Name = "other" }, fields: []string{"spec.virtualMesh"}},
		"virtual mesh refused": {world: func(w *accept.Names) { w.VirtualMeshes[0].Status.Accepted = nil }, fields: []string{"spec.virtualMesh"}},
		"virtual mesh deleted": {world: func(w *accept.Names) { w.VirtualMeshes[0].DeletionTimestamp = &metav1.Time{Time: time.Now()} }, fields: []string{"spec.virtualMesh"}},
		"federated form":       {change: func(vd *v1alpha1.VirtualDestination) { vd.Spec.Hostname = "reviews.default.svc.east.global" }, fields: []string{"spec.hostname"}},
		"no hostname":          {change: func(vd *v1alpha1.VirtualDestination) { vd.Spec.Hostname = "*.example.org" }, fields: []string{"spec.hostname"}},
		"host of the internet": {change: func(vd *v1alpha1.VirtualDestination) { vd.Spec.Hostname = "www.example.org" }, fields: []string{"spec.hostname"}},
		"native host":          {change: func(vd *v1alpha1.VirtualDestination) { vd.Spec.Hostname = "reviews.default.svc.cluster.local" }, fields: []string{"spec.hostname"}},
		"our own names":        {change: func(vd *v1alpha1.VirtualDestination) { vd.Spec.Hostname = "isthmus-own-a.b.svc.global" }, fields: []string{"spec.hostname"}},
		"unknown cluster":      {change: func(vd *v1alpha1.VirtualDestination) { vd.Spec.Clusters = []string{"east", "north"} }, fields: []string{"spec.clusters[1]"}},
		"cluster of no member": {world: func(w *accept.Names) { w.VirtualMeshes[0] = virtualMeshInForce("", "west") }, fields: []string{"spec.clusters[0]"}},
		"durations": {
			change: func(vd *v1alpha1.VirtualDestination) {
				vd.Spec.OutlierDetection = &v1alpha1.OutlierDetection{Interval: second(-time.Second), BaseEjectionTime: second(2 * time.Hour)}
			},
			fields: []string{"spec.outlierDetection.interval", "spec.outlierDetection.baseEjectionTime"},
		},
		"hostname taken": {
			world: func(w *accept.Names) {
				w.Others = append(w.Others, *virtualDestination("younger", -time.Hour, inForce(host)))
			},
			fields: []string{"spec.hostname"},
		},
		"hostname asked for by another": {
			world: func(w *accept.Names) { w.Others = append(w.Others, *virtualDestination("older", time.Hour)) }, host: host,
		},
		"hostname taken in another virtual mesh": {
			world: func(w *accept.Names) {
				w.Others = append(w.Others, *virtualDestination("older", time.Hour, func(vd *v1alpha1.VirtualDestination) { vd.Spec.VirtualMesh.Name = "b" }, inForce(host)))
			},
			host: host,
		},
		"both accepted, and older": {
			change: inForce(host), world: func(w *accept.Names) {
				w.Others = append(w.Others, *virtualDestination("younger", -time.Hour, inForce(host)))
			}, host: host,
		},
		"both accepted, and younger": {
			change: inForce(host), world: func(w *accept.Names) {
				w.Others = append(w.Others, *virtualDestination("older", time.Hour, inForce(host)))
			}, fields: []string{"spec.hostname"},
		},
		"one too many":             {world: func(w *accept.Names) { w.Others = many(accept.MaxVirtualDestinations) }, fields: []string{"spec.virtualMesh"}},
		"as many, and one of them": {change: inForce(host), world: func(w *accept.Names) { w.Others = many(accept.MaxVirtualDestinations) }, host: host},
	} {
		t.Run(name, func(t *testing.T) {
			var change []func(*v1alpha1.VirtualDestination)
			if c.change != nil {
				change = append(change, c.change)
			}
			vd := virtualDestination("vd", 0, change...)
			w := accept.Names{Namespace: system, VirtualMeshes: []v1alpha1.VirtualMesh{virtualMeshInForce("", "east", "west")}, Clusters: []string{"east", "west"}}
			w.Others = []v1alpha1.VirtualDestination{*vd}
			if c.world != nil {
				c.world(&w)
			}
			prev := vd.Status.Accepted
			got, fs := accept.VirtualDestination(prev, vd, w)
			if !slices.Equal(fields(fs), c.fields) {
				t.Fatalf("findings %v", fs)
			}
			if len(c.fields) > 0 {
				if got != prev {
					t.Errorf("an invalid edit changes what is in force: %+v", got)
				}
				return
			}
			if got == nil || got.Hostname != c.host || got.Generation != 2 || got.Spec.VirtualMesh.Namespace != system {
				t.Errorf("%+v", got)
			}
		})
	}
}

func fields(fs finding.Findings) (out []string) {
	for _, f := range fs {
		out = append(out, f.Field)
	}
	return out
}
