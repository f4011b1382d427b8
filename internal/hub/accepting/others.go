package accepting

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/kube"
)

// simple judges objects of a kind of which nothing has to be applied anywhere.
type simple[T client.Object] struct {
	client client.Client
	// reader reads from the API server itself, as that of AccessPolicies does.
	reader client.Reader
	events events.EventRecorder
	// empty returns an object of the kind; status returns the common part of its status.
	empty  func() T
	status func(T) *v1alpha1.ConditionedStatus
	// judge sets the status of want but for its common part.
	judge func(ctx context.Context, live, want T) (finding.Findings, error)
}

// SetupOthers registers the controller of Settings. reader reads from the API server itself.
func SetupOthers(mgr ctrl.Manager, reader client.Reader, namespace string) error {
	c, e := mgr.GetClient(), mgr.GetEventRecorder("isthmus-hub")
	// What is in force of a VirtualMesh decides whether Settings are accepted.
	settings := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: client.ObjectKey{Namespace: namespace, Name: v1alpha1.SettingsName}}}
	})
	return ctrl.NewControllerManagedBy(mgr).Named("accepting-settings").
		For(&v1alpha1.Settings{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.VirtualMesh{}, settings, builder.WithPredicates(acceptedChanged)).
		Complete(&simple[*v1alpha1.Settings]{
			client: c, reader: reader, events: e,
			empty:  func() *v1alpha1.Settings { return &v1alpha1.Settings{} },
			status: func(s *v1alpha1.Settings) *v1alpha1.ConditionedStatus { return &s.Status.ConditionedStatus },
			judge: func(ctx context.Context, live, want *v1alpha1.Settings) (finding.Findings, error) {
				return judgeSettings(ctx, reader, namespace, live, want)
			},
		})
}

// Reconcile judges one object.
func (s *simple[T]) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	live := s.empty()
	if err := s.reader.Get(ctx, req.NamespacedName, live); err != nil || live.GetDeletionTimestamp() != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	want := s.empty()
	want.SetName(live.GetName())
	want.SetNamespace(live.GetNamespace())
	findings, err := s.judge(ctx, live, want)
	if err != nil {
		return reconcile.Result{}, err
	}
	ready := findings.Condition(v1alpha1.ConditionReady, v1alpha1.ReasonReady, "in force")
	stalled := metav1.Condition{Type: v1alpha1.ConditionStalled, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonReady}
	if len(findings) > 0 {
		stalled.Status, stalled.Reason, stalled.Message = metav1.ConditionTrue, ready.Reason, ready.Message
	}
	before, common := s.status(live).Conditions, s.status(want)
	common.ObservedGeneration = live.GetGeneration()
	common.Conditions = finding.Conditions(before, live.GetGeneration(), ready, stalled)
	if err := kube.ApplyStatus(ctx, s.client, owner, live, want); err != nil {
		return reconcile.Result{}, err
	}
	finding.Announce(s.events, live, before, actionAccept, ready)
	return reconcile.Result{}, nil
}

func judgeSettings(ctx context.Context, reader client.Reader, namespace string, live, want *v1alpha1.Settings) (finding.Findings, error) {
	var virtualMeshes v1alpha1.VirtualMeshList
	if err := reader.List(ctx, &virtualMeshes, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	accepted, fs := accept.Settings(live, virtualMeshes.Items)
	want.Status.Accepted, want.Status.State, want.Status.Errors = accepted, v1alpha1.StateAccepted, fs.Errors()
	if len(fs) > 0 {
		want.Status.State = v1alpha1.StateInvalid
	}
	return fs, nil
}
