package rotating

import (
	"context"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/rotation"
)

// maxRoots is how many roots the history in the status keeps.
const maxRoots = 10

// report writes what is known of roots and trust into the status of the VirtualMesh; plan is nil if there is none.
func (r *Reconciler) report(ctx context.Context, s *state, plan *rotation.Plan, p *problem) error {
	want := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Name: s.name.Name, Namespace: s.name.Namespace}}
	want.Status.Roots = s.history()
	want.Status.DeployedSharedTrust = s.vm.Status.DeployedSharedTrust
	shared := accept.SharedTrust(s.accepted)
	if plan != nil {
		want.Status.Rotation = &v1alpha1.RotationStatus{Step: plan.Step}
		if shared != nil && len(plan.Waiting) == 0 && len(s.members) > 0 {
			want.Status.DeployedSharedTrust = &v1alpha1.DeployedSharedTrust{SharedTrust: shared, Root: s.root.ID().String()}
		}
	} else {
		want.Status.Rotation = s.vm.Status.Rotation
	}
	if c := s.rootReady(p); c != nil {
		want.Status.Conditions = finding.Conditions(s.vm.Status.Conditions, s.vm.Generation, *c)
	}
	if err := kube.ApplyStatus(ctx, r.Client, owner, s.vm, want); err != nil {
		return err
	}
	finding.Announce(r.Events, s.vm, s.vm.Status.Conditions, "ProvideRoot", want.Status.Conditions...)
	return nil
}

// rootReady is the condition of that name; nil where no root is wanted and none is in use.
func (s *state) rootReady(p *problem) *metav1.Condition {
	switch {
	case p != nil:
		return &metav1.Condition{Type: v1alpha1.ConditionRootReady, Status: metav1.ConditionFalse, Reason: p.reason, Message: p.message}
	case s.root != nil:
		return &metav1.Condition{
			Type: v1alpha1.ConditionRootReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady,
			Message: fmt.Sprintf("root %d, fingerprint %s, is valid until %s", s.root.Generation, s.root.ID().Short(), s.root.Material.NotAfter().UTC().Format(time.RFC3339)),
		}
	}
	return nil
}

// history is that of the status, brought up to date from the Secrets that exist.
func (s *state) history() []v1alpha1.RootStatus {
	all := map[int64]v1alpha1.RootStatus{}
	for _, was := range s.vm.Status.Roots {
		all[was.Generation] = was
	}
	for _, r := range s.roots {
		if r.ID().IsZero() {
			continue
		}
		cert := r.Certificate.Certificate()
		all[r.Generation] = v1alpha1.RootStatus{
			Generation: r.Generation, Fingerprint: r.ID().String(), Role: r.Role, Subject: cert.Subject.String(),
			NotAfter: metav1.NewTime(cert.NotAfter), Certificate: string(r.Certificate.PEM()),
		}
	}
	out := make([]v1alpha1.RootStatus, 0, len(all))
	for _, r := range all {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b v1alpha1.RootStatus) int { return int(a.Generation - b.Generation) })
	return out[max(0, len(out)-maxRoots):]
}
