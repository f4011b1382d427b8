package finding_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/isthmus-mesh/isthmus/internal/finding"
)

func TestFindings(t *testing.T) {
	var fs finding.Findings
	if c := fs.Condition("Ready", "Ready", "fine"); c.Status != metav1.ConditionTrue || c.Message != "fine" {
		t.Errorf("%+v", c)
	}
	fs = finding.Findings{
		{Field: "spec.a", Reason: "Bad", Message: "mend it"},
		{Reason: "Gone", Message: "no such mesh", Mesh: "m.n"},
		{Field: "spec.a", Reason: "Bad", Message: "mend it"},
	}
	if got := fs.Errors(); len(got) != 2 || got[0] != "spec.a: mend it" || got[1] != "no such mesh" {
		t.Errorf("%q", got)
	}
	if len(fs.About("m.n")) != 1 || len(fs.About("")) != 2 || len(fs.With("Bad")) != 2 || len(fs.Without("Bad")) != 1 {
		t.Error("wrong selection")
	}
	if c := fs.Condition("Ready", "Ready", "fine"); c.Status != metav1.ConditionFalse || c.Reason != "Bad" || !strings.Contains(c.Message, "no such mesh") {
		t.Errorf("%+v", c)
	}
	var many finding.Findings
	for i := range 1000 {
		many = append(many, finding.Finding{Message: fmt.Sprint(i, strings.Repeat("ä", 100))})
	}
	if c := many.Condition("Ready", "", ""); len(many.Errors()) != 50 || len(c.Message) > 4096 || !strings.HasSuffix(c.Message, "...") {
		t.Errorf("%d errors, %d bytes", len(many.Errors()), len(c.Message))
	}
}

func TestConditionsKeepTheTimeOfTheirLastTransition(t *testing.T) {
	past := metav1.NewTime(time.Now().Add(-time.Hour))
	live := []metav1.Condition{{Type: "A", Status: "True", LastTransitionTime: past}, {Type: "B", Status: "True", LastTransitionTime: past}}
	got := finding.Conditions(live, 3, metav1.Condition{Type: "A", Status: "True"}, metav1.Condition{Type: "B", Status: "False"})
	if !got[0].LastTransitionTime.Equal(&past) || got[1].LastTransitionTime.Equal(&past) || got[0].ObservedGeneration != 3 {
		t.Errorf("%+v", got)
	}
}

type events []string

func (e *events) Eventf(_, _ runtime.Object, kind, reason, _, _ string, _ ...any) {
	*e = append(*e, kind+" "+reason)
}

func TestAnnounce(t *testing.T) {
	var e events
	live := []metav1.Condition{{Type: "Ready", Status: "False", Reason: "Bad"}}
	finding.Announce(&e, nil, live, "", metav1.Condition{Type: "Ready", Status: "False", Reason: "Bad", Message: "other words"})
	finding.Announce(&e, nil, live, "", metav1.Condition{Type: "Ready", Status: "True", Reason: "Ready"})
	finding.Announce(&e, nil, nil, "", metav1.Condition{Type: "Ready", Status: "False", Reason: "Bad"})
	if fmt.Sprint(e) != "[Normal Ready Warning Bad]" {
		t.Error(e)
	}
}
