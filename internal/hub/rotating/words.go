package rotating

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/rotation"
)

// observeWords reads what people have said of the rotations of a virtual mesh, the oldest first. What was found to be about
// none of them stays so.
func (r *Reconciler) observeWords(ctx context.Context, s *state) error {
	list := &v1alpha1.CertificateVerificationList{}
	if err := r.Reader.List(ctx, list, client.InNamespace(r.Namespace)); err != nil {
		return err
	}
	for _, cv := range list.Items {
		if virtualMeshOf(&cv) == s.name && !(isJudged(&cv) && cv.Status.State == v1alpha1.VerificationInvalid) {
			s.words = append(s.words, cv)
		}
	}
	slices.SortStableFunc(s.words, func(a, b v1alpha1.CertificateVerification) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	return nil
}

// virtualMeshOf is the one that a word speaks of.
func virtualMeshOf(cv *v1alpha1.CertificateVerification) client.ObjectKey {
	ref := cv.Spec.VirtualMesh
	return client.ObjectKey{Namespace: cmp.Or(ref.Namespace, cv.Namespace), Name: ref.Name}
}

// isJudged tells whether it was said already what comes of a word. It is not judged anew, unless it was changed.
func isJudged(cv *v1alpha1.CertificateVerification) bool {
	done := cv.Status.State == v1alpha1.VerificationVerified || cv.Status.State == v1alpha1.VerificationInvalid
	return done && cv.Status.ObservedGeneration == cv.Generation
}

func (s *state) spoken() (out []rotation.Word) {
	for _, cv := range s.words {
		w := rotation.Word{RotationID: cv.Spec.RotationID, Step: cv.Spec.Step, Action: cmp.Or(cv.Spec.Action, v1alpha1.VerificationContinue)}
		for _, waiver := range cv.Spec.Waive {
			mesh := meshID(waiver.Mesh)
			w.Waive = append(w.Waive, s.order(v1alpha1.ObjectRef{Name: mesh.Name, Namespace: mesh.Namespace}))
		}
		out = append(out, w)
	}
	return out
}

// meshID reads "<name>.<namespace>". A name may have dots, a namespace has none.
func meshID(s string) rotation.MeshID {
	i := max(0, strings.LastIndex(s, "."))
	return rotation.MeshID{Name: s[:i], Namespace: strings.TrimPrefix(s[i:], ".")}
}

// answer says what came of the words: after the orders, since a word that counts as followed before they are written would
// be lost with them. plan is nil if there is nothing that could rotate.
func (r *Reconciler) answer(ctx context.Context, s *state, plan *rotation.Plan) error {
	for i := range s.words {
		cv := &s.words[i]
		if isJudged(cv) {
			continue
		}
		state := v1alpha1.VerificationInvalid
		if plan != nil {
			if state = plan.Words[i]; state == v1alpha1.VerificationPending && waives(cv, plan.Findings) {
				state = v1alpha1.VerificationVerified
			}
		}
		want := &v1alpha1.CertificateVerification{ObjectMeta: metav1.ObjectMeta{Name: cv.Name, Namespace: cv.Namespace}}
		want.Status.State, want.Status.ObservedGeneration = state, cv.Generation
		ready := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse}
		stalled := metav1.Condition{Type: v1alpha1.ConditionStalled, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonReady}
		switch state {
		case v1alpha1.VerificationVerified:
			ready.Status, ready.Reason, ready.Message = metav1.ConditionTrue, v1alpha1.ReasonReady, "it was followed"
		case v1alpha1.VerificationPending:
			ready.Reason, ready.Message = v1alpha1.ReasonProgressing, "it is heard when the step is seen to be complete"
		case v1alpha1.VerificationInvalid:
			want.Status.Errors = []string{s.stale(cv, plan)}
			ready.Reason, ready.Message = v1alpha1.ReasonInvalid, want.Status.Errors[0]
			stalled.Status, stalled.Reason, stalled.Message = metav1.ConditionTrue, ready.Reason, ready.Message
		}
		want.Status.Conditions = finding.Conditions(cv.Status.Conditions, cv.Generation, ready, stalled)
		if err := client.IgnoreNotFound(kube.ApplyStatus(ctx, r.Client, owner, cv, want)); err != nil {
			return err
		}
		if state != v1alpha1.VerificationPending {
			finding.Announce(r.Events, cv, cv.Status.Conditions, "Verify", ready)
		}
	}
	return nil
}

// waives tells whether a mesh is not waited for because of a word.
func waives(cv *v1alpha1.CertificateVerification, fs finding.Findings) bool {
	for _, f := range fs.With(rotation.ReasonWaived) {
		if slices.ContainsFunc(cv.Spec.Waive, func(w v1alpha1.Waiver) bool { return w.Mesh == f.Mesh }) {
			return true
		}
	}
	return false
}

// stale says what a word that is about nothing could be about.
func (s *state) stale(cv *v1alpha1.CertificateVerification, plan *rotation.Plan) string {
	now := "none is under way"
	switch {
	case s.vm.Name == "":
		now = fmt.Sprintf("there is no VirtualMesh %s", s.name)
	case plan != nil && plan.RotationID != "":
		now = fmt.Sprintf("now it is rotation %s, at step %s", plan.RotationID, plan.Place)
	}
	return fmt.Sprintf("spec.rotationID: no rotation %s is at step %s: %s; delete this object, and make another one to speak of that", cv.Spec.RotationID, cv.Spec.Step, now)
}
