package summary_test

import (
	"encoding/json"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/hub/summary"
)

var root = strings.Repeat("ab", 32)

// order is one that an agent has carried out, changed by edits.
func order(cluster string, edits ...func(*v1alpha1.IssuedCertificateStatus)) v1alpha1.IssuedCertificate {
	ic := v1alpha1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Name: "m", Namespace: "isthmus-" + cluster}}
	ic.Spec.Signer, ic.Spec.Roots = root, []v1alpha1.RootCertificate{{Fingerprint: root}}
	ic.Status = v1alpha1.IssuedCertificateStatus{
		State:        v1alpha1.IssuedCertificateFinished,
		Certificate:  &v1alpha1.IntermediateStatus{Issuance: 1, Signer: root},
		ControlPlane: &v1alpha1.ControlPlaneEvidence{Replicas: []v1alpha1.IstiodReplica{{Pod: "istiod-0", Signer: root, Roots: []string{root}}}},
	}
	for _, edit := range edits {
		edit(&ic.Status)
	}
	return ic
}

func failed(s *v1alpha1.IssuedCertificateStatus) {
	s.State, s.Error, s.ControlPlane = v1alpha1.IssuedCertificateFailed, "cacerts is somebody else's", nil
	s.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Reason: "ForeignCA"}}
}

// saysItIsAway is what an agent cannot know; its word takes no place in a summary of others either.
func saysItIsAway(s *v1alpha1.IssuedCertificateStatus) {
	s.Error = strings.Repeat("é", 1<<20)
	s.Conditions[0].Reason = v1alpha1.ReasonNotConnected
}

func issued(s *v1alpha1.IssuedCertificateStatus) {
	s.State, s.ControlPlane = v1alpha1.IssuedCertificateIssued, nil
}

func proxiesBehind(s *v1alpha1.IssuedCertificateStatus) {
	s.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Message: "3 workloads are being restarted"}}
}

func restart(s *v1alpha1.IssuedCertificateStatus) {
	issued(s)
	s.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionRestartPending, Status: metav1.ConditionTrue, Message: "restart istiod"}}
}

func TestOf(t *testing.T) {
	missing := finding.Finding{Field: "spec.meshes[1]", Reason: accept.ReasonMeshNotFound, Message: "no Mesh", Mesh: "n.isthmus-system"}
	invalid := finding.Finding{Field: "spec.mtlsConfig", Reason: v1alpha1.ReasonInvalid, Message: "wrong"}
	suspended := finding.Finding{Field: "spec.suspend", Reason: v1alpha1.ReasonSuspended, Message: "frozen"}
	lost := &metav1.Condition{Type: v1alpha1.ConditionRootReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonRootKeyLost, Message: "lost"}
	waiting := &metav1.Condition{Type: v1alpha1.ConditionRootReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonWaitingForAgents, Message: "wait"}
	yes, no, unknown := metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown
	for name, tc := range map[string]struct {
		clusters []string // of the members accepted; nil for none accepted
		noTrust  bool
		findings finding.Findings
		orders   []v1alpha1.IssuedCertificate
		root     *metav1.Condition
		away     map[string]bool

		state                 v1alpha1.State
		ready                 metav1.ConditionStatus
		reason                string
		reconciling, stalled  metav1.ConditionStatus
		trust, restart, stays metav1.ConditionStatus // "" for no such condition
	}{
		"in force":            {[]string{"a", "b"}, false, nil, []v1alpha1.IssuedCertificate{order("a"), order("b")}, nil, nil, v1alpha1.StateAccepted, yes, v1alpha1.ReasonReady, no, no, yes, no, ""},
		"no trust wanted":     {[]string{"a"}, true, nil, nil, nil, nil, v1alpha1.StateAccepted, yes, v1alpha1.ReasonReady, no, no, "", no, ""},
		"no order yet":        {[]string{"a", "b"}, false, nil, []v1alpha1.IssuedCertificate{order("a")}, nil, nil, v1alpha1.StatePending, no, v1alpha1.ReasonProgressing, yes, no, no, no, ""},
		"not in use yet":      {[]string{"a"}, false, nil, []v1alpha1.IssuedCertificate{order("a", issued)}, nil, nil, v1alpha1.StatePending, no, v1alpha1.ReasonProgressing, yes, no, no, no, ""},
		"proxies are behind":  {[]string{"a"}, false, nil, []v1alpha1.IssuedCertificate{order("a", proxiesBehind)}, nil, nil, v1alpha1.StatePending, no, v1alpha1.ReasonProgressing, yes, no, yes, no, ""},
		"restart pending":     {[]string{"a"}, false, nil, []v1alpha1.IssuedCertificate{order("a", restart)}, nil, nil, v1alpha1.StatePending, no, v1alpha1.ReasonRestartRequired, no, yes, no, yes, ""},
		"failed":              {[]string{"a", "b"}, false, nil, []v1alpha1.IssuedCertificate{order("a", failed), order("b")}, nil, nil, v1alpha1.StateFailed, no, "ForeignCA", no, yes, no, no, ""},
		"failed, in vain":     {[]string{"a", "b"}, false, nil, []v1alpha1.IssuedCertificate{order("a", failed, saysItIsAway), order("b")}, nil, nil, v1alpha1.StateFailed, no, "Failed", no, yes, no, no, ""},
		"a member is missing": {[]string{"a"}, false, finding.Findings{missing}, []v1alpha1.IssuedCertificate{order("a")}, nil, nil, v1alpha1.StateInvalid, no, accept.ReasonMeshNotFound, no, yes, no, no, ""},
		"all are missing":     {nil, false, finding.Findings{missing}, nil, nil, nil, v1alpha1.StateInvalid, no, accept.ReasonMeshNotFound, no, yes, "", no, ""},
		"invalid edit":        {[]string{"a"}, false, finding.Findings{invalid}, []v1alpha1.IssuedCertificate{order("a")}, nil, nil, v1alpha1.StateInvalid, no, v1alpha1.ReasonInvalid, no, yes, yes, no, ""},
		"suspended":           {[]string{"a"}, false, finding.Findings{suspended}, []v1alpha1.IssuedCertificate{order("a")}, nil, nil, v1alpha1.StateAccepted, no, v1alpha1.ReasonSuspended, no, yes, yes, no, ""},
		"root lost":           {[]string{"a"}, false, nil, []v1alpha1.IssuedCertificate{order("a")}, lost, nil, v1alpha1.StateAccepted, no, v1alpha1.ReasonRootKeyLost, no, yes, yes, no, ""},
		"root awaited":        {[]string{"a"}, false, nil, nil, waiting, nil, v1alpha1.StatePending, no, v1alpha1.ReasonWaitingForAgents, yes, no, no, no, ""},
		"away":                {[]string{"a"}, false, nil, []v1alpha1.IssuedCertificate{order("a")}, nil, map[string]bool{"isthmus-a": true}, v1alpha1.StateAccepted, unknown, v1alpha1.ReasonNotConnected, yes, no, yes, no, ""},
		"removed":             {[]string{"a"}, false, nil, []v1alpha1.IssuedCertificate{order("a"), order("b")}, nil, nil, v1alpha1.StateAccepted, yes, v1alpha1.ReasonReady, no, no, yes, no, yes},
	} {
		t.Run(name, func(t *testing.T) {
			in := summary.Input{VirtualMesh: &v1alpha1.VirtualMesh{}, Findings: tc.findings, Orders: tc.orders, Away: tc.away}
			if tc.root != nil {
				in.VirtualMesh.Status.Conditions = []metav1.Condition{*tc.root}
			}
			if tc.clusters != nil {
				in.Accepted = &v1alpha1.AcceptedVirtualMesh{}
				if !tc.noTrust {
					in.Accepted.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{}}
				}
				for _, c := range tc.clusters {
					in.Accepted.Spec.Meshes = append(in.Accepted.Spec.Meshes, v1alpha1.ObjectRef{Name: "m", Namespace: "isthmus-" + c})
				}
			}
			status, conditions := summary.Of(in)
			if text, err := json.Marshal(status); err != nil || len(text) > 1<<13 {
				t.Errorf("the status has %d bytes, %v", len(text), err)
			}
			if status.State != tc.state {
				t.Errorf("state %s, want %s", status.State, tc.state)
			}
			for conditionType, want := range map[string]metav1.ConditionStatus{
				v1alpha1.ConditionReady: tc.ready, v1alpha1.ConditionReconciling: tc.reconciling, v1alpha1.ConditionStalled: tc.stalled,
				v1alpha1.ConditionTrustEstablished: tc.trust, v1alpha1.ConditionRestartPending: tc.restart, v1alpha1.ConditionMembersRetained: tc.stays,
			} {
				c := meta.FindStatusCondition(conditions, conditionType)
				if c == nil && want == "" {
					continue
				}
				if c == nil || c.Status != want || c.Reason == "" {
					t.Errorf("%s is %+v, want %q", conditionType, c, want)
				}
			}
			if ready := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady); ready.Reason != tc.reason {
				t.Errorf("Ready is %+v, want %s", ready, tc.reason)
			}
		})
	}
}

// TestTrustWhileTheRootIsReplaced tells the meshes that share a root, whichever of two, from those that do not.
func TestTrustWhileTheRootIsReplaced(t *testing.T) {
	next, own := strings.Repeat("cd", 32), strings.Repeat("ef", 32)
	rotating := func(r v1alpha1.OrderRotation, signer string) v1alpha1.IssuedCertificate {
		ic := order("a")
		r.RotationID = "r"
		ic.Spec.Signer, ic.Spec.Rotation = signer, &r
		return ic
	}
	yes, no := metav1.ConditionTrue, metav1.ConditionFalse
	for name, tc := range map[string]struct {
		order v1alpha1.IssuedCertificate
		uses  string // the root that every istiod was seen to serve under; "" for one that restarts
		want  metav1.ConditionStatus
	}{
		"not carried out":     {rotating(v1alpha1.OrderRotation{Old: root, New: next, Stage: v1alpha1.StageNewSigns}, next), root, yes},
		"carried out":         {rotating(v1alpha1.OrderRotation{Old: root, New: next, Stage: v1alpha1.StageNewSigns}, next), next, yes},
		"istiod restarts":     {rotating(v1alpha1.OrderRotation{Old: root, New: next, Stage: v1alpha1.StageNewOnly}, next), "", yes},
		"a strange root":      {rotating(v1alpha1.OrderRotation{Old: root, New: next, Stage: v1alpha1.StageNewSigns}, next), own, no},
		"joins":               {rotating(v1alpha1.OrderRotation{Old: own, New: root, Stage: v1alpha1.StageOldSigns, Alone: true}, own), own, no},
		"has joined":          {rotating(v1alpha1.OrderRotation{Old: own, New: root, Stage: v1alpha1.StageNewSigns, Alone: true}, root), root, yes},
		"under another's":     {rotating(v1alpha1.OrderRotation{Old: root, New: own, Stage: v1alpha1.StageNewOnly, Closed: true}, own), own, no},
		"at rest":             {rotating(v1alpha1.OrderRotation{Old: own, New: root, Stage: v1alpha1.StageNewOnly, Closed: true}, root), root, yes},
		"at rest, not proven": {rotating(v1alpha1.OrderRotation{Old: own, New: root, Stage: v1alpha1.StageNewOnly, Closed: true}, root), "", no},
	} {
		t.Run(name, func(t *testing.T) {
			ic := tc.order
			ic.Status.ControlPlane.Replicas[0].Signer, ic.Status.ControlPlane.Replicas[0].Roots = tc.uses, []string{tc.uses}
			if tc.uses != "" {
				ic.Status.Certificate.Signer = tc.uses
			}
			in := summary.Input{VirtualMesh: &v1alpha1.VirtualMesh{}, Orders: []v1alpha1.IssuedCertificate{ic}, Accepted: &v1alpha1.AcceptedVirtualMesh{}}
			in.VirtualMesh.Status.Roots = []v1alpha1.RootStatus{{Fingerprint: root}, {Fingerprint: next}}
			in.Accepted.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{}}
			in.Accepted.Spec.Meshes = []v1alpha1.ObjectRef{{Name: "m", Namespace: "isthmus-a"}}
			_, conditions := summary.Of(in)
			if c := meta.FindStatusCondition(conditions, v1alpha1.ConditionTrustEstablished); c.Status != tc.want {
				t.Errorf("%+v", c)
			}
		})
	}
}

// TestRotationIsSaid tells what a rotation waits for.
func TestRotationIsSaid(t *testing.T) {
	for reason, want := range map[string]string{
		"AwaitsWord": v1alpha1.ConditionStalled, "RotationFailed": v1alpha1.ConditionStalled, "RolledBack": v1alpha1.ConditionStalled,
		v1alpha1.ReasonRestartRequired: v1alpha1.ConditionStalled, v1alpha1.ReasonProgressing: v1alpha1.ConditionReconciling,
	} {
		in := summary.Input{VirtualMesh: &v1alpha1.VirtualMesh{}, Orders: []v1alpha1.IssuedCertificate{order("a")}, Accepted: &v1alpha1.AcceptedVirtualMesh{}}
		in.VirtualMesh.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionRotating, Status: metav1.ConditionTrue, Reason: reason, Message: "it waits"}}
		in.Accepted.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{}}
		in.Accepted.Spec.Meshes = []v1alpha1.ObjectRef{{Name: "m", Namespace: "isthmus-a"}}
		_, conditions := summary.Of(in)
		ready := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady)
		if !meta.IsStatusConditionTrue(conditions, want) || ready.Status != metav1.ConditionFalse || ready.Reason != reason || ready.Message != "it waits" {
			t.Errorf("%s: %+v", reason, conditions)
		}
	}
}
