package registration

import (
	"context"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/kube"
)

const heartbeatOwner = "isthmus-heartbeat"

// Reasons of the condition Connected.
const (
	ReasonConnected       = "Connected"
	ReasonNeverConnected  = "NeverConnected"
	ReasonHeartbeatMissed = "HeartbeatMissed"
)

// missedLeases is how many lease durations old a heartbeat may be, which allows for some difference of clocks.
const missedLeases = 2.5

// Heartbeat tells from the Leases of the agents which clusters are connected.
type Heartbeat struct {
	Client    client.Client
	Events    events.EventRecorder
	Namespace string
	Now       func() time.Time
}

// SetupWithManager registers the controller.
func (r *Heartbeat) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named("heartbeat").
		For(&v1alpha1.KubernetesCluster{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&coordinationv1.Lease{}, toCluster(r.Namespace), named(v1alpha1.AgentName)).
		Complete(r)
}

// Reconcile writes the condition Connected and the version of the agent. It returns when the Lease ends, if it does not
// hear of it before.
func (r *Heartbeat) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	kc := &v1alpha1.KubernetesCluster{}
	if err := r.Client.Get(ctx, req.NamespacedName, kc); err != nil || !kc.DeletionTimestamp.IsZero() {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	lease := &coordinationv1.Lease{}
	key := types.NamespacedName{Namespace: kube.ClusterNamespace(kc.Name), Name: v1alpha1.AgentName}
	if err := client.IgnoreNotFound(r.Client.Get(ctx, key, lease)); err != nil {
		return reconcile.Result{}, err
	}
	connected, left := connectedAt(lease, r.Now())
	want := &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Name: kc.Name, Namespace: kc.Namespace}}
	want.Status.AgentVersion = lease.Annotations[v1alpha1.AnnotationAgentVersion]
	want.Status.Conditions = finding.Conditions(kc.Status.Conditions, kc.Generation, connected)
	if err := kube.ApplyStatus(ctx, r.Client, heartbeatOwner, kc, want); err != nil {
		return reconcile.Result{}, err
	}
	finding.Announce(r.Events, kc, kc.Status.Conditions, "Connect", connected)
	return reconcile.Result{RequeueAfter: left}, nil
}

// connectedAt is the condition Connected at a time, and how long it holds if nothing is heard.
func connectedAt(lease *coordinationv1.Lease, now time.Time) (c metav1.Condition, left time.Duration) {
	c = metav1.Condition{Type: v1alpha1.ConditionConnected, Status: metav1.ConditionFalse}
	if lease.Spec.RenewTime == nil || lease.Spec.LeaseDurationSeconds == nil {
		c.Reason = ReasonNeverConnected
		c.Message = "the agent has not connected yet: see that isthmus-agent runs in the cluster and reaches this API server"
		return c, 0
	}
	duration := time.Duration(missedLeases * float64(*lease.Spec.LeaseDurationSeconds) * float64(time.Second))
	if left = lease.Spec.RenewTime.Add(duration).Sub(now); left <= 0 {
		c.Reason = ReasonHeartbeatMissed
		c.Message = fmt.Sprintf("the agent was last heard of at %s: what it has applied stays in force; see that it runs and reaches this API server",
			lease.Spec.RenewTime.UTC().Format(time.RFC3339))
		return c, 0
	}
	c.Status, c.Reason, c.Message = metav1.ConditionTrue, ReasonConnected, "the agent renews its lease"
	return c, left
}
