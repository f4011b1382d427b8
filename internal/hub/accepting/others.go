package accepting

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/kube"
)

// judge reads an object of one kind and returns the same object with nothing but its new status, and what was found.
// Conditions and generation are filled in by the caller.
type judge[T client.Object] func(live T) (want T, common *v1alpha1.ConditionedStatus, findings finding.Findings)

// simple judges objects of a kind that depend on nothing else.
type simple[T client.Object] struct {
	client client.Client
	events events.EventRecorder
	// empty returns an object of the kind; status returns the common part of its status.
	empty  func() T
	status func(T) *v1alpha1.ConditionedStatus
	judge  judge[T]
}

// SetupOthers registers the controllers of AccessPolicy, Settings and CertificateVerification.
func SetupOthers(mgr ctrl.Manager) error {
	c, e := mgr.GetClient(), mgr.GetEventRecorder("isthmus-hub")
	if err := setup(mgr, "accepting-accesspolicies", &simple[*v1alpha1.AccessPolicy]{
		client: c, events: e,
		empty:  func() *v1alpha1.AccessPolicy { return &v1alpha1.AccessPolicy{} },
		status: func(p *v1alpha1.AccessPolicy) *v1alpha1.ConditionedStatus { return &p.Status.ConditionedStatus },
		judge:  accessPolicy,
	}); err != nil {
		return err
	}
	if err := setup(mgr, "accepting-settings", &simple[*v1alpha1.Settings]{
		client: c, events: e,
		empty:  func() *v1alpha1.Settings { return &v1alpha1.Settings{} },
		status: func(s *v1alpha1.Settings) *v1alpha1.ConditionedStatus { return &s.Status.ConditionedStatus },
		judge:  settings,
	}); err != nil {
		return err
	}
	return setup(mgr, "accepting-certificateverifications", &simple[*v1alpha1.CertificateVerification]{
		client: c, events: e,
		empty: func() *v1alpha1.CertificateVerification { return &v1alpha1.CertificateVerification{} },
		status: func(v *v1alpha1.CertificateVerification) *v1alpha1.ConditionedStatus {
			return &v.Status.ConditionedStatus
		},
		judge: certificateVerification,
	})
}

func setup[T client.Object](mgr ctrl.Manager, name string, s *simple[T]) error {
	return ctrl.NewControllerManagedBy(mgr).Named(name).
		For(s.empty(), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Complete(s)
}

// Reconcile judges one object.
func (s *simple[T]) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	live := s.empty()
	if err := s.client.Get(ctx, req.NamespacedName, live); err != nil || live.GetDeletionTimestamp() != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	want, common, findings := s.judge(live)
	ready := findings.Condition(v1alpha1.ConditionReady, v1alpha1.ReasonReady, "in force")
	stalled := metav1.Condition{Type: v1alpha1.ConditionStalled, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonReady}
	if len(findings) > 0 {
		stalled.Status, stalled.Reason, stalled.Message = metav1.ConditionTrue, ready.Reason, ready.Message
	}
	before := s.status(live).Conditions
	common.ObservedGeneration = live.GetGeneration()
	common.Conditions = finding.Conditions(before, live.GetGeneration(), ready, stalled)
	if err := kube.ApplyStatus(ctx, s.client, owner, live, want); err != nil {
		return reconcile.Result{}, err
	}
	finding.Announce(s.events, live, before, actionAccept, ready)
	return reconcile.Result{}, nil
}

// stateOf is PENDING for what has no effect yet.
func stateOf(fs finding.Findings) v1alpha1.State {
	switch {
	case len(fs.With(v1alpha1.ReasonInvalid)) > 0:
		return v1alpha1.StateInvalid
	case len(fs) > 0:
		return v1alpha1.StatePending
	}
	return v1alpha1.StateAccepted
}

func accessPolicy(live *v1alpha1.AccessPolicy) (*v1alpha1.AccessPolicy, *v1alpha1.ConditionedStatus, finding.Findings) {
	want := &v1alpha1.AccessPolicy{ObjectMeta: metav1.ObjectMeta{Name: live.Name, Namespace: live.Namespace}}
	accepted, fs := accept.AccessPolicy(live.Status.Accepted, live)
	want.Status.Accepted, want.Status.State, want.Status.Errors = accepted, stateOf(fs), fs.Errors()
	return want, &want.Status.ConditionedStatus, fs
}

func settings(live *v1alpha1.Settings) (*v1alpha1.Settings, *v1alpha1.ConditionedStatus, finding.Findings) {
	want := &v1alpha1.Settings{ObjectMeta: metav1.ObjectMeta{Name: live.Name, Namespace: live.Namespace}}
	accepted, fs := accept.Settings(live)
	want.Status.Accepted, want.Status.State, want.Status.Errors = accepted, stateOf(fs), fs.Errors()
	return want, &want.Status.ConditionedStatus, fs
}

func certificateVerification(live *v1alpha1.CertificateVerification) (*v1alpha1.CertificateVerification, *v1alpha1.ConditionedStatus, finding.Findings) {
	want := &v1alpha1.CertificateVerification{ObjectMeta: metav1.ObjectMeta{Name: live.Name, Namespace: live.Namespace}}
	fs := accept.CertificateVerification(live)
	want.Status.State, want.Status.Errors = v1alpha1.VerificationInvalid, fs.Errors()
	return want, &want.Status.ConditionedStatus, fs
}
