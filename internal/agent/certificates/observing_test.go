package certificates

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-mesh/isthmus/internal/agent/evidence"
	"github.com/isthmus-mesh/isthmus/internal/agent/restart"
)

func TestDue(t *testing.T) {
	view := func(kind evidence.ProxyKind, live, seen bool) proxyView {
		return proxyView{ProxyPod: evidence.ProxyPod{Kind: kind, Live: live}, seen: seen}
	}
	leaving := view(evidence.Sidecar, false, false)
	leaving.Leaves = time.Now()
	for _, tc := range []struct {
		what             string
		view             proxyView
		live, fresh, due bool
	}{
		{"a live one may follow", view(evidence.Sidecar, true, true), false, false, false},
		{"a live one has had the time", view(evidence.Sidecar, true, true), true, false, true},
		{"one that is not live never follows", view(evidence.Sidecar, false, true), false, true, true},
		{"one that does not answer", view(evidence.Sidecar, true, false), false, true, true},
		{"a gateway that cannot answer yet", view(evidence.Gateway, true, false), false, true, false},
		{"a gateway that does not answer", view(evidence.Gateway, true, false), false, false, true},
		{"one that leaves", leaving, true, false, false},
		{"a gateway that has had the time", view(evidence.Gateway, true, false), true, true, true},
	} {
		if got := len(due([]proxyView{tc.view}, tc.live, tc.fresh)) > 0; got != tc.due {
			t.Errorf("%s: due is %t", tc.what, got)
		}
	}
}

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
	restarted[restart.Annotation] = "token"
	lets := func(annotations map[string]string) replicaView {
		v := view(true, true, true, annotations)
		v.lets = true
		return v
	}
	plugged := func(annotations map[string]string) replicaView {
		v := view(true, false, true, annotations)
		v.plugged = true
		return v
	}
	loads := func(annotations map[string]string) replicaView {
		v := lets(annotations)
		v.current, v.MultiRoot = false, true
		return v
	}
	rolling := func(v replicaView) replicaView {
		v.MultiRoot = false
		return v
	}
	live, byRestart, nudge := change{digest: "new", token: "token"}, change{digest: "new", token: "token", restart: true}, change{digest: "new", token: "token", nudge: true}
	for _, tc := range []struct {
		what                           string
		view                           replicaView
		change                         change
		behind, touch, restart, inVain int
	}{
		{"uses it", view(true, true, true, nil), live, 0, 0, 0, 0},
		{"has another root: only a restart helps", view(true, false, false, nil), live, 1, 0, 1, 0},
		{"may follow: its kubelet is asked first", view(true, false, true, nil), live, 1, 1, 0, 0},
		{"was touched for something else", view(true, false, true, map[string]string{annotationTouched: touched{"old", now}.String()}), live, 1, 1, 0, 0},
		{"was touched just now", view(true, false, true, touchedAgo(time.Second)), live, 1, 0, 0, 0},
		{"was touched and did not follow", view(true, false, true, touchedAgo(time.Minute)), live, 1, 0, 1, 0},
		{"was restarted and may still follow", view(true, false, false, map[string]string{restart.Annotation: "token"}), live, 1, 1, 0, 0},
		{"was restarted and did not follow", view(true, false, false, restarted), live, 1, 0, 0, 1},
		{"does not answer", view(false, false, false, nil), live, 1, 0, 0, 0},
		{"is on its way out", leaving, live, 1, 0, 0, 0},
		{"may follow, but not this", view(true, false, true, nil), byRestart, 1, 0, 1, 0},
		{"has taken up the plug-in CA and may follow", plugged(nil), byRestart, 1, 1, 0, 0},
		{"has taken up the plug-in CA and did not follow", plugged(touchedAgo(time.Minute)), byRestart, 1, 0, 1, 0},
		{"uses it, and its kubelet is asked to project a nudge", view(true, true, true, nil), nudge, 0, 1, 0, 0},
		{"was touched for the nudge", view(true, true, true, touchedAgo(time.Second)), nudge, 0, 0, 0, 0},
		{"lets clients in under a dropped root", lets(nil), live, 1, 0, 1, 0},
		{"was restarted and lets them in all the same", lets(restarted), live, 1, 0, 0, 1},
		{"has a dropped root and may follow, but not in this", loads(nil), byRestart, 1, 1, 0, 0},
		{"has a dropped root, was touched just now", loads(touchedAgo(time.Second)), byRestart, 1, 0, 0, 0},
		{"has a dropped root, was touched and did not follow", loads(touchedAgo(time.Minute)), byRestart, 1, 0, 1, 0},
		{"has a dropped root and never follows without a restart", rolling(loads(nil)), byRestart, 1, 0, 1, 0},
	} {
		p := planControlPlane([]replicaView{tc.view}, tc.change, now)
		if len(p.behind) != tc.behind || len(p.touch) != tc.touch || len(p.restart) != tc.restart || len(p.inVain) != tc.inVain {
			t.Errorf("%s: %+v", tc.what, p)
		}
	}
	if p := planControlPlane([]replicaView{lets(nil), loads(touchedAgo(time.Second))}, byRestart, now); len(p.restart) != 0 || len(p.behind) != 2 {
		t.Errorf("one has loaded what is left and another one not yet: %+v", p)
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

func TestLaggards(t *testing.T) {
	until := time.Date(2026, 11, 27, 0, 47, 40, 0, time.UTC)
	proxy := func(name string, live, controlled bool) evidence.ProxyPod {
		p := evidence.ProxyPod{NamespacedName: types.NamespacedName{Namespace: "shop", Name: name}, Live: live}
		if controlled {
			p.HasController, p.Controller = true, restart.Target{Kind: restart.Deployment, Namespace: "shop", Name: name}
		}
		return p
	}
	s := survey{settled: true, proxies: []proxyView{
		{ProxyPod: proxy("done", true, true), seen: true, leaf: true, trusts: true},
		{ProxyPod: proxy("slow", true, true), seen: true, why: "its leaf is under another root", until: until},
		{ProxyPod: proxy("old", false, true), seen: true, why: "its leaf is under another root", until: until},
		{ProxyPod: proxy("shy", true, true), why: "no answer", until: until},
		{ProxyPod: proxy("lone", false, false), why: "no answer", until: until},
	}}
	want := []string{
		"shop/slow: its leaf is under another root; it takes roots and leaves live, and is told to",
		"shop/old: its leaf is under another root; restart deployment/old.shop, or wait until its leaf has ended, by 2026-11-27T00:47:40Z",
		"shop/shy: no answer; restart deployment/shy.shop, or wait until its leaf has ended, by 2026-11-27T00:47:40Z",
		"shop/lone: no answer; delete it and make it anew, or wait until its leaf has ended, by 2026-11-27T00:47:40Z",
	}
	if e := s.evidence(); !slices.Equal(e.Laggards, want) || e.Behind != 1 || e.Unknown != 2 {
		t.Errorf("behind %d, unknown %d, laggards %q", e.Behind, e.Unknown, e.Laggards)
	}
}
