package rotating

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/hub/summary"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/rotation"
)

// maxRoots is how many roots the history in the status keeps.
const maxRoots = 10

// Limits of the status.
const (
	maxWaits   = 256
	maxHistory = 50
	maxErrors  = 50
)

// report writes what is known of roots, trust and rotations into the status of the VirtualMesh; plan is nil if there is none.
func (r *Reconciler) report(ctx context.Context, s *state, plan *rotation.Plan, p *problem) error {
	was := s.vm.Status.Rotation
	want := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Name: s.name.Name, Namespace: s.name.Namespace}}
	want.Status.Roots = s.history()
	want.Status.DeployedSharedTrust = s.vm.Status.DeployedSharedTrust
	want.Status.Rotation = was
	var conditions []metav1.Condition
	if c := s.rootReady(p); c != nil {
		conditions = append(conditions, *c)
	}
	if plan != nil {
		want.Status.Rotation = s.rotationStatus(*plan)
		if s.trust != nil && s.trust.Purpose == v1alpha1.PurposeMeshCA && s.isDeployed(*plan) {
			want.Status.DeployedSharedTrust = &v1alpha1.DeployedSharedTrust{SharedTrust: s.accepted.Spec.MTLSConfig.Shared, Root: s.root.ID().String()}
		}
		conditions = append(conditions, s.rotating(*plan))
	} else if c := meta.FindStatusCondition(s.vm.Status.Conditions, v1alpha1.ConditionRotating); c != nil {
		conditions = append(conditions, *c)
	}
	want.Status.Conditions = finding.Conditions(s.vm.Status.Conditions, s.vm.Generation, conditions...)
	if err := kube.ApplyStatus(ctx, r.Client, owner, s.vm, want); err != nil {
		return err
	}
	finding.Announce(r.Events, s.vm, s.vm.Status.Conditions, "ProvideRoot", slices.DeleteFunc(conditions, func(c metav1.Condition) bool {
		return c.Type != v1alpha1.ConditionRootReady
	})...)
	if plan != nil {
		r.announceStep(s, was, want.Status.Rotation)
	}
	return nil
}

// isDeployed tells whether every member was seen to be under the wanted root, and only that.
func (s *state) isDeployed(plan rotation.Plan) bool {
	if !s.rests(plan) || len(s.listed) == 0 {
		return false
	}
	for id := range s.listed {
		if o, ok := plan.Orders[id]; !ok || o.Signer != s.root.ID() {
			return false
		}
	}
	return true
}

// rotationStatus is where the rotation is, for what it waits, and by which steps it came there.
func (s *state) rotationStatus(plan rotation.Plan) *v1alpha1.RotationStatus {
	was := s.vm.Status.Rotation
	if was == nil {
		was = &v1alpha1.RotationStatus{}
	}
	now := metav1.NewTime(s.now.Truncate(time.Second))
	is := &v1alpha1.RotationStatus{
		RotationID: plan.RotationID, Step: plan.Step, Place: plan.Place, Since: was.Since,
		Waits: waits(plan.Findings), Conditions: was.Conditions,
	}
	if is.RotationID == was.RotationID && is.Step == was.Step {
		return is
	}
	is.Since = now
	if is.RotationID == "" && was.RotationID == "" {
		return is
	}
	step := v1alpha1.CertificateRotationCondition{Timestamp: now, State: is.Step, Message: "no rotation is under way"}
	if is.RotationID != "" {
		step.Message = fmt.Sprintf("rotation %s, at %s", is.RotationID, is.Place)
	}
	if is.Step == v1alpha1.StepFailed {
		step.Errors = is.Waits[:min(len(is.Waits), maxErrors)]
	}
	is.Conditions = append(slices.Clone(was.Conditions), step)
	is.Conditions = is.Conditions[max(0, len(is.Conditions)-maxHistory):]
	return is
}

// waits are the findings that say what is waited for.
func waits(fs finding.Findings) (out []string) {
	for _, f := range fs.Without(rotation.ReasonDowntime).Without(rotation.ReasonWaived) {
		text := f.String()
		if f.Mesh != "" {
			text = "mesh " + f.Mesh + ": " + text
		}
		out = append(out, text)
	}
	return out[:min(len(out), maxWaits)]
}

// rotating is the condition that says whether the root is being replaced, and what holds it up.
func (s *state) rotating(plan rotation.Plan) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionRotating, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonReady}
	texts := waits(plan.Findings)
	waiting := len(texts) > 0
	if s.isRotating(plan) {
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonProgressing
		texts = append([]string{fmt.Sprintf("rotation %s is in step %s", plan.RotationID, plan.Step)}, texts...)
	}
	for _, f := range plan.Findings.With(rotation.ReasonDowntime) {
		texts = append(texts, f.String())
	}
	c.Message = finding.Join(texts)
	switch {
	case plan.Step == v1alpha1.StepFailed:
		c.Reason = summary.ReasonRotationFailed
	case len(plan.Findings.With(rotation.ReasonAwaitsWord)) > 0:
		c.Reason = rotation.ReasonAwaitsWord
	case len(plan.Findings.With(rotation.ReasonRolledBack)) > 0:
		c.Reason = rotation.ReasonRolledBack
	case len(s.held.With(v1alpha1.ReasonRestartRequired)) > 0:
		c.Reason = v1alpha1.ReasonRestartRequired
	case waiting && c.Status == metav1.ConditionFalse:
		c.Reason = v1alpha1.ReasonProgressing
	}
	return c
}

// announceStep sends an event for a step that was begun or finished, or has failed.
func (r *Reconciler) announceStep(s *state, was, is *v1alpha1.RotationStatus) {
	if was == nil {
		was = &v1alpha1.RotationStatus{}
	}
	if is.RotationID == "" || is.RotationID == was.RotationID && is.Step == was.Step {
		return
	}
	kind, reason := corev1.EventTypeNormal, ReasonRotationStep
	switch is.Step {
	case v1alpha1.StepFinished:
		reason = ReasonRotationFinished
	case v1alpha1.StepPreviousCA:
		reason = ReasonRotationRolledBack
	case v1alpha1.StepFailed:
		kind, reason = corev1.EventTypeWarning, summary.ReasonRotationFailed
	}
	r.Events.Eventf(s.vm, nil, kind, reason, "Rotate", "rotation %s: %s", is.RotationID, finding.Join(append([]string{string(is.Step)}, is.Waits...)))
}

// rootReady is the condition of that name; nil where no root is wanted and none is in use.
func (s *state) rootReady(p *problem) *metav1.Condition {
	switch {
	case p != nil:
		return &metav1.Condition{Type: v1alpha1.ConditionRootReady, Status: metav1.ConditionFalse, Reason: p.reason, Message: finding.Join([]string{p.message})}
	case s.notice != nil:
		return &metav1.Condition{
			Type: v1alpha1.ConditionRootReady, Status: metav1.ConditionFalse, Reason: s.notice.reason,
			Message: finding.Join([]string{fmt.Sprintf("root %d, fingerprint %s, stays in use", s.root.Generation, s.root.ID().Short()), s.notice.message}),
		}
	case s.root != nil:
		return &metav1.Condition{
			Type: v1alpha1.ConditionRootReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady,
			Message: fmt.Sprintf("root %d, fingerprint %s, is valid until %s", s.root.Generation, s.root.ID().Short(), s.root.NotAfter().UTC().Format(time.RFC3339)),
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
