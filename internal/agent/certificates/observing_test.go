package certificates

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/internal/agent/evidence"
	"github.com/isthmus-mesh/isthmus/internal/agent/restart"
)

func TestPlanControlPlane(t *testing.T) {
	now := time.Now()
	view := func(seen, current, related bool, annotations map[string]string) replicaView {
		return replicaView{seen: seen, current: current, related: related, Replica: evidence.Replica{Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Name: "istiod-h-x", Namespace: "istio-system", Annotations: annotations, Labels: map[string]string{"pod-template-hash": "h"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "istiod-h", Controller: new(true)}},
		}}}}
	}
	touchedAgo := func(d time.Duration) map[string]string {
		return map[string]string{annotationTouched: touched{"new", now.Add(-d)}.String()}
	}
	leaving := view(true, false, false, nil)
	leaving.Pod.DeletionTimestamp = &metav1.Time{Time: now}
	restarted := touchedAgo(time.Hour)
	restarted[restart.Annotation] = "new"
	for _, tc := range []struct {
		what                           string
		view                           replicaView
		behind, touch, restart, inVain int
	}{
		{"uses it", view(true, true, true, nil), 0, 0, 0, 0},
		{"has another root: only a restart helps", view(true, false, false, nil), 1, 0, 1, 0},
		{"may follow: its kubelet is asked first", view(true, false, true, nil), 1, 1, 0, 0},
		{"was touched for something else", view(true, false, true, map[string]string{annotationTouched: touched{"old", now}.String()}), 1, 1, 0, 0},
		{"was touched just now", view(true, false, true, touchedAgo(time.Second)), 1, 0, 0, 0},
		{"was touched and did not follow", view(true, false, true, touchedAgo(time.Minute)), 1, 0, 1, 0},
		{"was restarted and may still follow", view(true, false, false, map[string]string{restart.Annotation: "new"}), 1, 1, 0, 0},
		{"was restarted and did not follow", view(true, false, false, restarted), 1, 0, 0, 1},
		{"does not answer", view(false, false, false, nil), 1, 0, 0, 0},
		{"is on its way out", leaving, 1, 0, 0, 0},
	} {
		p := planControlPlane([]replicaView{tc.view}, "new", now)
		if len(p.behind) != tc.behind || len(p.touch) != tc.touch || len(p.restart) != tc.restart || len(p.inVain) != tc.inVain {
			t.Errorf("%s: %+v", tc.what, p)
		}
	}
}

func TestTouched(t *testing.T) {
	at := time.Now().Truncate(time.Second)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{annotationTouched: touched{"d", at}.String()}}}
	if got := touchedOf(pod); got.digest != "d" || !got.at.Equal(at) {
		t.Errorf("touchedOf = %+v", got)
	}
	for _, s := range []string{"", "d", "d@yesterday"} {
		pod.Annotations[annotationTouched] = s
		if got := touchedOf(pod); got != (touched{}) {
			t.Errorf("touchedOf(%q) = %+v", s, got)
		}
	}
}
