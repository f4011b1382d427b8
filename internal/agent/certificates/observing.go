package certificates

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
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
	h.Write(w.CA.CertChain().PEM())
	h.Write(w.CA.Roots.PEM())
	return hex.EncodeToString(h.Sum(nil))[:20]
}

// token marks what is restarted for it: what follows a nudge without a restart is not restarted for a nudge.
func (w *wanted) token() string {
	plain := *w
	plain.CA.Roots = plain.CA.Roots.WithNudge(0)
	return plain.digest()
}

// state identifies what proxies follow: which root their leaves are under, and which they trust.
func (w *wanted) state() string {
	h := sha256.New()
	fmt.Fprintln(h, w.CA.Root.ID(), w.CA.Roots.IDs(), len(w.CA.Cross) > 0)
	return hex.EncodeToString(h.Sum(nil))[:20]
}

// needed are the roots of the order that proxies have to trust, as far as there is an intermediate under them to show: that of
// the signer, and in a rotation the other one.
func (w *wanted) needed() []string {
	ids := []string{w.Order.Spec.Signer}
	if p := w.Order.Spec.Prepared; p != nil && w.CA.Roots.Contains(pki.RootIDOrZero(p.Signer)) {
		ids = append(ids, p.Signer)
	}
	return ids
}

// dropped is the root that the order drops: the other one of a rotation, if it is not distributed; "" if there is none.
func (w *wanted) dropped() string {
	if p := w.Order.Spec.Prepared; p != nil && !w.CA.Roots.Contains(pki.RootIDOrZero(p.Signer)) {
		return p.Signer
	}
	return ""
}

// reissued tells whether the root that the order drops is the same as the signer's but for the certificate: then nobody can refuse
// what is under it, and need not.
func (w *wanted) reissued() bool {
	return w.dropped() != "" && w.Spare != nil && w.Spare.Root.Reissues(w.CA.Root)
}

// replicaView is what one replica of istiod was seen to use.
type replicaView struct {
	evidence.Replica
	status v1alpha1.IstiodReplica
	// seen: it answered. current: it has loaded what is wanted. related: its root is one of those wanted, so that it may take the
	// change without a restart. plugged: it has taken up the plug-in CA, with the roots of before, and takes the others live.
	// lets: it lets clients in under the root that was dropped, or that is not known.
	seen, current, related, plugged, lets bool
}

// viewReplica judges what a replica showed. Since istiod loads a Secret whole or not at all, the chain that it sends tells all
// of what it has loaded.
func viewReplica(r evidence.Replica, seen evidence.Sight, w *wanted, now time.Time) replicaView {
	v := replicaView{Replica: r, status: v1alpha1.IstiodReplica{Pod: r.Pod.Name, Revision: r.Revision}}
	if seen.Err != nil {
		v.status.Error = "it does not answer at port 15012 of its pod"
		return v
	}
	v.seen = true
	known := w.CA.Roots
	if w.Spare != nil {
		known = known.Append(w.Spare.Root)
	}
	// With a cross-certificate a chain leads to two roots; then the wanted one counts.
	if signer, ok := seen.Signer(known.Lead(w.CA.Root.ID()), now); ok {
		v.related = w.CA.Roots.Contains(signer)
		v.status.Signer = signer.String()
	}
	if issuer := seen.Issuer(); issuer != nil {
		v.status.Intermediate = fingerprint(issuer)
	}
	chain := pki.Chain(seen.Chain[1:])
	v.current = string(chain.PEM()) == string(w.CA.CertChain().PEM())
	if first := w.first(nil); first != nil && r.MultiRoot {
		v.plugged = string(chain.PEM()) == string(first.CA.CertChain().PEM())
	}
	if v.current {
		v.status.Roots = fingerprints(w.CA.Roots)
	} else {
		for _, root := range known.Roots() {
			if id := root.ID().String(); id == v.status.Signer || slices.ContainsFunc(chain, root.Certificate().Equal) {
				v.status.Roots = append(v.status.Roots, id)
			}
		}
	}
	if dropped := w.dropped(); dropped != "" && !w.reissued() {
		answer := seen.Answers[pki.RootIDOrZero(dropped)]
		// What was started since has read its roots anew, should it not be possible to ask it.
		v.lets = answer == evidence.Accepted || answer == evidence.Unknown && r.Pod.Annotations[restart.Annotation] != w.token()
		if v.lets {
			v.status.Clients = []string{dropped}
		}
	}
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

// change is what replicas are to follow.
type change struct {
	// digest identifies it, token what is restarted for it.
	digest, token string
	// restart: it is not taken without a restart.
	restart bool
	// nudge: it is one, and nobody sees who has it.
	nudge bool
}

// planControlPlane decides on the replicas that are behind. One whose root has nothing to do with the wanted ones never
// takes a change: istiod drops any change of roots but to a subset or a superset. Where a root was dropped, none is restarted before
// all have loaded what is left: replicas that differ have everything pushed again and again, and one that ends in such a push
// tells proxies that no endpoint is left.
func planControlPlane(views []replicaView, c change, now time.Time) controlPlanePlan {
	var p controlPlanePlan
	loading := false
	for _, v := range views {
		switch {
		case v.current && !v.lets:
			if c.nudge && v.Pod.DeletionTimestamp == nil && touchedOf(v.Pod).digest != c.digest {
				p.touch = append(p.touch, v.Pod)
			}
			continue
		case v.Pod.DeletionTimestamp != nil:
			p.behind = append(p.behind, v.Pod.Name+" is on its way out")
			continue
		case !v.seen:
			p.behind = append(p.behind, v.Pod.Name+" does not answer")
			continue
		case v.current:
			p.behind = append(p.behind, v.Pod.Name+" lets clients in under the root that was dropped")
		default:
			p.behind = append(p.behind, v.Pod.Name+" signs with other certificates")
		}
		restarted := v.Pod.Annotations[restart.Annotation] == c.token
		// What is to be restarted as it lets clients in loads the smaller bundle before, where it can.
		loads := v.lets && !v.current && v.MultiRoot
		if restarted || v.related && (loads || !v.lets && (!c.restart || v.plugged)) {
			t := touchedOf(v.Pod)
			if t.digest != c.digest {
				p.touch, t.at = append(p.touch, v.Pod), now
			}
			if now.Sub(t.at) < liveControlPlane {
				loading = loading || loads
				continue
			}
		}
		if restarted {
			p.inVain = append(p.inVain, v.Pod.Name)
		} else if target, ok := restart.Of(v.Pod); ok {
			p.restart = append(p.restart, target)
		}
	}
	if loading {
		p.restart = nil
	}
	p.restart = restart.Sort(p.restart)
	return p
}

// proxyView is what is known of one proxy, compared with the order.
type proxyView struct {
	evidence.ProxyPod
	// seen: it was asked and answered all that it was asked. leaf: its own is under the signer. trusts: it accepts leaves under
	// each of the needed roots. refuses: it refuses those under the root that was dropped.
	seen, leaf, trusts, refuses bool
	why                         string
	// until is when its leaf of before has ended, and it has taken another one, at the latest.
	until time.Time
}

// remedy says how a proxy that is behind comes to follow.
func (v proxyView) remedy() string {
	switch {
	case v.Leaving():
		return "it is on its way out, and gone by " + v.Leaves.UTC().Format(time.RFC3339)
	case v.Live && v.seen:
		return "it takes roots and leaves live, and is told to"
	case v.HasController:
		return fmt.Sprintf("restart %s, or wait until its leaf has ended, by %s", v.Controller, v.until.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf("delete it and make it anew, or wait until its leaf has ended, by %s", v.until.UTC().Format(time.RFC3339))
}

func (v proxyView) asOrdered(drops bool) bool { return v.leaf && v.trusts && (v.refuses || !drops) }

// viewProxy judges what a proxy showed.
func viewProxy(p evidence.ProxyPod, seen evidence.Sight, w *wanted, now time.Time) proxyView {
	v := proxyView{ProxyPod: p}
	if seen.Err != nil {
		v.why = seen.Err.Error()
		return v
	}
	v.seen, v.trusts = true, true
	answer := func(root string) evidence.Answer {
		a := seen.Answers[pki.RootIDOrZero(root)]
		v.seen = v.seen && a != evidence.Unknown
		return a
	}
	if v.leaf = seen.SignedBy(w.CA.Root, now); !v.leaf {
		v.why = "its leaf is under another root"
	}
	for _, root := range w.needed() {
		if answer(root) != evidence.Accepted {
			v.trusts, v.why = false, "it is not seen to accept leaves under root "+pki.RootIDOrZero(root).Short()
		}
	}
	if dropped := w.dropped(); dropped != "" {
		if v.refuses = w.reissued() || answer(dropped) == evidence.Refused; !v.refuses && v.why == "" {
			v.why = "it is not seen to refuse leaves under root " + pki.RootIDOrZero(dropped).Short()
		}
	}
	if v.why != "" && !v.seen && seen.Doubt != nil {
		v.why += ": " + seen.Doubt.Error()
	}
	return v
}

// survey is what is known of all proxies.
type survey struct {
	drops bool
	// proxies that run.
	proxies []proxyView
	// settled: all have had the time to follow.
	settled bool
}

// behind are those that are not known to be as ordered.
func (s survey) behind() []proxyView {
	return slices.DeleteFunc(slices.Clone(s.proxies), func(v proxyView) bool { return v.asOrdered(s.drops) })
}

func (s survey) evidence() *v1alpha1.ProxyEvidence {
	e := &v1alpha1.ProxyEvidence{Total: int32(len(s.proxies))}
	count := func(n *int32, holds bool) {
		if holds {
			*n++
		}
	}
	for _, v := range s.proxies {
		count(&e.Live, v.Live)
		count(&e.SignedByNew, v.leaf)
		count(&e.TrustsNew, v.trusts)
		count(&e.RefusesOld, s.drops && v.refuses)
		if v.asOrdered(s.drops) {
			continue
		}
		count(&e.Unknown, !v.seen)
		count(&e.Behind, v.seen && v.Live && s.settled)
		if len(e.Laggards) < 10 {
			e.Laggards = append(e.Laggards, fmt.Sprintf("%s/%s: %s; %s", v.Namespace, v.Name, v.why, v.remedy()))
		}
	}
	return e
}

// due are the laggards that will not follow without a restart, and those of which it could not be seen; live ones too, if they
// have had the time. A gateway of which it could not be seen may yet answer while the listeners are fresh, and who leaves is waited
// for.
func due(behind []proxyView, live, fresh bool) (out []proxyView) {
	for _, v := range behind {
		unseen := !v.seen && (v.Kind != evidence.Gateway || !fresh)
		if !v.Leaving() && (!v.Live || unseen || live) {
			out = append(out, v)
		}
	}
	return out
}

// controllers sorts the controllers of laggards into gateways (and ztunnels) and workloads; alone are pods that have
// none.
func controllers(laggards []proxyView) (gateways, workloads []restart.Target, alone []string) {
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
