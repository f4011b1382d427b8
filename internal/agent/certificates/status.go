package certificates

import (
	"reflect"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// Report is what the installing half did and saw for one mesh. It is made anew after every start of the agent.
type Report struct {
	// Generation of the order that it answers.
	Generation int64
	// Carried is the order that was carried out, in full; all that is reported was seen after that.
	Carried *v1alpha1.CarriedOrder
	// Certificate that cacerts holds, if it is ours; Prepared is what is held beside it.
	Certificate, Prepared *v1alpha1.IntermediateStatus
	// ControlPlane is what was seen of istiod; InUse says that it is what was ordered, everywhere.
	ControlPlane *v1alpha1.ControlPlaneEvidence
	InUse        bool
	// Proxies is what was seen of proxies.
	Proxies *v1alpha1.ProxyEvidence
	// Waiting says what is going on by itself.
	Waiting *note
	// Restart says what somebody has to restart.
	Restart string
	// Gateways is what was seen of the gateways of limited trust; nil for the order of a mesh's CA.
	Gateways *v1alpha1.MeshGatewayCertificate
	// Stall says what is wrong.
	Stall *stall
}

type note struct {
	Reason, Message string
}

// Reports passes reports from the installing half to the requesting half.
type Reports struct {
	mu      sync.Mutex
	byMesh  map[string]*Report
	changed chan event.TypedGenericEvent[string]
}

// NewReports makes an empty exchange.
func NewReports() *Reports {
	return &Reports{byMesh: map[string]*Report{}, changed: make(chan event.TypedGenericEvent[string], 64)}
}

// set publishes the report on a mesh and tells the other half if it differs.
func (r *Reports) set(mesh string, report *Report) {
	r.mu.Lock()
	same := reflect.DeepEqual(r.byMesh[mesh], report)
	r.byMesh[mesh] = report
	r.mu.Unlock()
	if same {
		return
	}
	select {
	case r.changed <- event.TypedGenericEvent[string]{Object: mesh}:
	default: // the hub is away and nobody listens; everything is read again when it is back
	}
}

func (r *Reports) get(mesh string) *Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byMesh[mesh]
}

// statusOf sums up both halves. live is the order as it was read; what has not changed keeps its times.
func statusOf(live *v1alpha1.IssuedCertificate, out outcome, report *Report, now time.Time) v1alpha1.IssuedCertificateStatus {
	var s v1alpha1.IssuedCertificateStatus
	s.ObservedGeneration = live.Generation
	s.KeyLost = out.keyLost
	if report == nil {
		// Nothing was looked at since this agent started: what was reported before still stands.
		s.Carried, s.Certificate, s.Prepared = live.Status.Carried, live.Status.Certificate, live.Status.Prepared
		s.ControlPlane, s.Proxies = live.Status.ControlPlane, live.Status.Proxies
		report = &Report{Generation: -1}
	} else {
		s.Carried, s.Certificate, s.Prepared = report.Carried, report.Certificate, report.Prepared
		s.ControlPlane, s.Proxies = report.ControlPlane, report.Proxies
		keepTimes(&s, &live.Status, now)
	}
	answers := out.obtained && report.Generation == live.Generation

	stalled := out.stall
	if stalled == nil && answers {
		stalled = report.Stall
	}
	ready := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse}
	reconciling := metav1.Condition{Type: v1alpha1.ConditionReconciling, Status: metav1.ConditionTrue}
	switch {
	case stalled != nil:
		s.State, s.Error = v1alpha1.IssuedCertificateFailed, stalled.Message
		ready.Reason, ready.Message = stalled.Reason, stalled.Message
		reconciling.Status = metav1.ConditionFalse
	case live.Spec.Suspend:
		s.State = stateOf(out, answers, report)
		ready.Reason, ready.Message = v1alpha1.ReasonSuspended, "spec.suspend of the VirtualMesh holds everything as it is"
		reconciling.Status = metav1.ConditionFalse
	case out.outdated:
		s.State = v1alpha1.IssuedCertificatePending
		ready.Reason, ready.Message = ReasonOutdated, "a later order was carried out already: the hub came out of a backup and catches up"
	case !out.obtained:
		s.State = stateOf(out, answers, report)
		ready.Reason, ready.Message = ReasonWaitingForHub, "waiting for the hub to sign"
	default:
		s.State = stateOf(out, answers, report)
		switch {
		case !answers:
			ready.Reason, ready.Message = ReasonInstalling, "the intermediate is signed and is being installed"
		case report.Waiting != nil:
			ready.Reason, ready.Message = report.Waiting.Reason, report.Waiting.Message
		case report.Restart != "":
			ready.Reason, ready.Message = v1alpha1.ReasonRestartRequired, report.Restart
			reconciling.Status = metav1.ConditionFalse
		default:
			ready.Status, ready.Reason = metav1.ConditionTrue, ReasonInUse
			ready.Message = "every istiod signs with what was ordered, and no proxy is known to be behind"
			if live.Spec.Purpose == v1alpha1.PurposeGateway {
				ready.Message = "every gateway uses what was ordered"
			}
			reconciling.Status = metav1.ConditionFalse
		}
	}
	reconciling.Reason, reconciling.Message = ready.Reason, ready.Message
	s.Conditions = append(s.Conditions, live.Status.Conditions...)
	set := func(c metav1.Condition) {
		c.ObservedGeneration = live.Generation
		c.LastTransitionTime = metav1.NewTime(now).Rfc3339Copy()
		meta.SetStatusCondition(&s.Conditions, c)
	}
	optional := func(c metav1.Condition, present bool) {
		if present {
			c.Status = metav1.ConditionTrue
			set(c)
		} else {
			meta.RemoveStatusCondition(&s.Conditions, c.Type)
		}
	}
	set(ready)
	optional(reconciling, reconciling.Status == metav1.ConditionTrue)
	restart := metav1.Condition{Type: v1alpha1.ConditionRestartPending, Reason: v1alpha1.ReasonRestartRequired, Message: report.Restart}
	optional(restart, answers && report.Restart != "")
	if stalled != nil {
		optional(metav1.Condition{Type: v1alpha1.ConditionStalled, Reason: stalled.Reason, Message: stalled.Message}, true)
	} else {
		meta.RemoveStatusCondition(&s.Conditions, v1alpha1.ConditionStalled)
	}
	return s
}

func stateOf(out outcome, answers bool, report *Report) v1alpha1.IssuedCertificateState {
	switch {
	case answers && report.InUse:
		return v1alpha1.IssuedCertificateFinished
	case answers && report.Certificate != nil:
		return v1alpha1.IssuedCertificateIssued
	case out.requested || out.obtained:
		return v1alpha1.IssuedCertificateRequested
	}
	return v1alpha1.IssuedCertificatePending
}

// keepTimes leaves the time of evidence as it was reported for the same order if nothing else about it has changed, so
// that looking again writes nothing.
func keepTimes(s, live *v1alpha1.IssuedCertificateStatus, now time.Time) {
	same := reflect.DeepEqual(s.Carried, live.Carried)
	at := metav1.NewTime(now).Rfc3339Copy()
	if s.ControlPlane != nil {
		s.ControlPlane = s.ControlPlane.DeepCopy()
		s.ControlPlane.ObservedAt = at
		if l := live.ControlPlane; same && l != nil {
			s.ControlPlane.ObservedAt = l.ObservedAt
			if !reflect.DeepEqual(s.ControlPlane, l) {
				s.ControlPlane.ObservedAt = at
			}
		}
	}
	if s.Proxies != nil {
		s.Proxies = s.Proxies.DeepCopy()
		s.Proxies.ObservedAt = at
		if l := live.Proxies; same && l != nil {
			s.Proxies.ObservedAt = l.ObservedAt
			if !reflect.DeepEqual(s.Proxies, l) {
				s.Proxies.ObservedAt = at
			}
		}
	}
}
