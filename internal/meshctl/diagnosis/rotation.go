package diagnosis

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
)

// AnnotationEvicted is on a KubernetesCluster that was evicted, and says why.
const AnnotationEvicted = "isthmus.dev/evicted"

// patience is for how long a rotation may wait in one step before it is more than worth knowing.
const patience = 15 * time.Minute

// AwaitsWord tells whether a rotation waits for a person to speak.
func AwaitsWord(r *v1alpha1.RotationStatus) bool { return wordAwaited(r) != "" }

// wordAwaited is the wait of a rotation for a person's word; "" if it waits for none. It names the rotation, and so no advice
// to waive somebody is taken for it.
func wordAwaited(r *v1alpha1.RotationStatus) string {
	if r == nil || r.Step != v1alpha1.StepVerifying || r.RotationID == "" {
		return ""
	}
	for _, wait := range r.Waits {
		if strings.Contains(wait, "a CertificateVerification of rotation "+r.RotationID+" ") {
			return wait
		}
	}
	return ""
}

// examineRotation tells for what a rotation waits, and for how long it has.
func (s *State) examineRotation(fs *Findings, vm *v1alpha1.VirtualMesh) {
	r := vm.Status.Rotation
	if r == nil {
		return
	}
	object, waits := fmt.Sprintf("virtual mesh %s, rotation %s", vm.Name, r.RotationID), strings.Join(r.Waits, "; ")
	since := s.Now.Sub(r.Since.Time)
	switch {
	case r.Step == v1alpha1.StepFailed:
		fs.add("ISTH4009", Error, object, "has failed and holds: "+waits, "Nothing is moved until that is put right: docs/operations/rotation.md.")
	case AwaitsWord(r):
		fs.add("ISTH4008", Warning, object, "a person has to speak: "+wordAwaited(r), fmt.Sprintf("Run `meshctl rotation approve %s`, or `meshctl rotation rollback %s`.", vm.Name, vm.Name))
	case len(r.Waits) > 0:
		severity := Info
		if since > patience {
			severity = Warning
		}
		fs.add("ISTH4007", severity, object, fmt.Sprintf("has waited in %s for %s: %s", r.Step, duration.HumanDuration(since), waits),
			fmt.Sprintf("See `meshctl rotation status %s`; docs/operations/rotation.md says how to help each wait.", vm.Name))
	}
}

// examineLaggards tells of proxies that have not followed an order, although they have had the time.
func examineLaggards(fs *Findings, o *v1alpha1.IssuedCertificate) {
	p := o.Status.Proxies
	if p == nil || p.Behind == 0 && len(p.Laggards) == 0 {
		return
	}
	hint := "They are nudged three times; then run `meshctl mesh restart " + o.Name + "`."
	if o.Spec.AutoRestartPods {
		hint = "They are nudged three times, and then restarted."
	}
	message := fmt.Sprintf("%d of %d proxies have not followed", p.Behind, p.Total)
	if len(p.Laggards) > 0 {
		message += ": " + strings.Join(p.Laggards, "; ")
	}
	fs.add("ISTH5005", Warning, "proxies of "+kube.Qualified(o.Name, o.Namespace), message, hint)
}

// savings says which flags of a control plane are missing, and what they would save when a root is replaced.
func (s *State) savings(m *v1alpha1.Mesh, r v1alpha1.IstioRevision) string {
	var flags []string
	saved := "a restart of " + s.restarted(m, r)
	if !r.MultiRootMesh {
		flags = append(flags, "ISTIO_MULTIROOT_MESH=true in istiod's environment")
		saved += ", and one of two restarts of istiod"
	}
	if !r.ProxyConfigXDSAgent {
		flags = append(flags, "PROXY_CONFIG_XDS_AGENT=true in meshConfig.defaultConfig.proxyMetadata")
	}
	return fmt.Sprintf("Recommended: %s. That saves %s each time the root is replaced.", strings.Join(flags, " and "), saved)
}

// restarted is what has to be restarted of a mesh's proxies: those that are not live, or all if istiod takes no roots.
func (s *State) restarted(m *v1alpha1.Mesh, r v1alpha1.IstioRevision) string {
	for i := range s.Orders {
		o := &s.Orders[i]
		p := o.Status.Proxies
		if o.Name != m.Name || o.Namespace != m.Namespace || p == nil {
			continue
		}
		switch {
		case !r.MultiRootMesh && p.Total > 0:
			return fmt.Sprintf("%d workloads and gateways", p.Total)
		case p.Total > p.Live:
			return fmt.Sprintf("%d workloads and gateways", p.Total-p.Live)
		}
	}
	return "every workload and gateway"
}
