package certificates

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent/evidence"
	"github.com/isthmus-mesh/isthmus/internal/agent/restart"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// annotationTouched, on pods of istiod, says for which content of cacerts and when the pod was touched.
const annotationTouched = "isthmus.dev/cacerts-projected"

// touched is the value of annotationTouched.
type touched struct {
	digest string
	at     time.Time
}

func (t touched) String() string { return t.digest + "@" + t.at.UTC().Format(time.RFC3339) }

func touchedOf(pod *corev1.Pod) touched {
	digest, at, _ := strings.Cut(pod.Annotations[annotationTouched], "@")
	t, err := time.Parse(time.RFC3339, at)
	if err != nil {
		return touched{}
	}
	return touched{digest, t}
}

// digest identifies what istiod shall load, without its key.
func (w *wanted) digest() string {
	h := sha256.New()
	h.Write(w.CA.Certificate.Raw)
	h.Write(w.CA.Roots.PEM())
	return hex.EncodeToString(h.Sum(nil))[:20]
}

// replicaView is what one replica of istiod was seen to use.
type replicaView struct {
	evidence.Replica
	status v1alpha1.IstiodReplica
	// seen: it answered. current: it signs with the wanted intermediate. related: its root is one of those wanted, so that
	// it may take the change without a restart.
	seen, current, related bool
}

func viewReplica(r evidence.Replica, seen evidence.Seen, want pki.CACerts, now time.Time) replicaView {
	v := replicaView{Replica: r, status: v1alpha1.IstiodReplica{Pod: r.Pod.Name, Revision: r.Revision}}
	if seen.Err != nil {
		v.status.Error = "it does not answer at port 15012 of its pod"
		return v
	}
	v.seen = true
	signer, ok := seen.Signer(want.Roots, now)
	v.related = ok
	if ok {
		v.status.Signer = signer.String()
	}
	if issuer := seen.Issuer(); issuer != nil {
		v.status.Intermediate = fingerprint(issuer)
	}
	for _, root := range want.Roots.Roots() {
		if root.ID() == signer || seen.Accepts(root) {
			v.status.Roots = append(v.status.Roots, root.ID().String())
		}
	}
	v.current = ok && v.status.Intermediate == fingerprint(want.Certificate)
	return v
}

// controlPlanePlan says what to do about replicas that do not use what is wanted.
type controlPlanePlan struct {
	// behind describes each of them.
	behind []string
	// touch are those whose kubelets have not been asked to project the change.
	touch []*corev1.Pod
	// restart are the controllers of those that will not follow by themselves.
	restart []restart.Target
	// inVain are those that were restarted for just this and did not follow.
	inVain []string
}

// planControlPlane decides on the replicas that are behind. One whose root has nothing to do with the wanted ones never
// takes a change: istiod drops any change of roots but to a subset or a superset.
func planControlPlane(views []replicaView, digest string, now time.Time) controlPlanePlan {
	var p controlPlanePlan
	for _, v := range views {
		switch {
		case v.current:
			continue
		case v.Pod.DeletionTimestamp != nil:
			p.behind = append(p.behind, v.Pod.Name+" is on its way out")
			continue
		case !v.seen:
			p.behind = append(p.behind, v.Pod.Name+" does not answer")
			continue
		}
		p.behind = append(p.behind, v.Pod.Name+" signs with other certificates")
		restarted := v.Pod.Annotations[restart.Annotation] == digest
		if v.related || restarted {
			t := touchedOf(v.Pod)
			if t.digest != digest {
				p.touch = append(p.touch, v.Pod)
				continue
			}
			if now.Sub(t.at) < liveControlPlane {
				continue
			}
		}
		if restarted {
			p.inVain = append(p.inVain, v.Pod.Name)
		} else if c, ok := restart.Of(v.Pod); ok {
			p.restart = append(p.restart, c)
		}
	}
	p.restart = restart.Sort(p.restart)
	return p
}

// laggard is a proxy that is not known to hold a leaf under the wanted root.
type laggard struct {
	evidence.ProxyPod
	why string
}

// survey is what is known of the leaves of all proxies.
type survey struct {
	signer       string
	total        int
	signed       int
	old, unknown []laggard
}

func (s survey) behind() []laggard { return append(append([]laggard(nil), s.old...), s.unknown...) }

// evidence counts a proxy with a leaf under the wanted root as one that trusts it: it has got both in one answer.
func (s survey) evidence() *v1alpha1.ProxyEvidence {
	e := &v1alpha1.ProxyEvidence{
		Total: int32(s.total), TrustsNew: int32(s.signed), SignedByNew: int32(s.signed), Unknown: int32(len(s.unknown)),
	}
	for _, l := range s.behind() {
		if len(e.Laggards) == 10 {
			break
		}
		e.Laggards = append(e.Laggards, fmt.Sprintf("%s/%s: %s", l.Namespace, l.Name, l.why))
	}
	return e
}

// due are the laggards for which there is nothing to wait for: those that do not follow without a restart, and those of
// which it could not be seen.
func (s survey) due() []laggard {
	var due []laggard
	for _, l := range s.behind() {
		if !l.Live || l.Kind != evidence.Sidecar {
			due = append(due, l)
		}
	}
	return due
}

// controllers sorts the controllers of laggards into gateways (and ztunnels) and workloads; alone are pods that have
// none.
func controllers(laggards []laggard) (gateways, workloads []restart.Target, alone []string) {
	for _, l := range laggards {
		switch {
		case !l.HasController:
			alone = append(alone, l.String())
		case l.Kind == evidence.Sidecar:
			workloads = append(workloads, l.Controller)
		default:
			gateways = append(gateways, l.Controller)
		}
	}
	return restart.Sort(gateways), restart.Sort(workloads), alone
}
