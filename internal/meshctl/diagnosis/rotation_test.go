package diagnosis_test

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/meshctl/diagnosis"
)

func TestRotation(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	rotation := func(step v1alpha1.RotationStep, since time.Duration, waits ...string) func(*diagnosis.State) {
		return func(s *diagnosis.State) {
			s.VirtualMeshes[0].Status.Rotation = &v1alpha1.RotationStatus{
				RotationID: "r-1", Step: step, Place: v1alpha1.StepAddingNewRoot, Since: metav1.NewTime(now.Add(-since)), Waits: waits,
			}
		}
	}
	const word = "a CertificateVerification of rotation r-1 and step ADDING_NEW_ROOT says whether to CONTINUE or to ROLLBACK"
	order := func(p v1alpha1.ProxyEvidence, restart bool) func(*diagnosis.State) {
		return func(s *diagnosis.State) {
			s.Orders = []v1alpha1.IssuedCertificate{{
				ObjectMeta: metav1.ObjectMeta{Name: "m-east", Namespace: "isthmus-east"}, Spec: v1alpha1.IssuedCertificateSpec{AutoRestartPods: restart},
				Status: v1alpha1.IssuedCertificateStatus{Proxies: &p},
			}}
		}
	}
	revision := func(multiRoot, live bool) func(*diagnosis.State) {
		return func(s *diagnosis.State) {
			order(v1alpha1.ProxyEvidence{Total: 7, Live: 3}, false)(s)
			s.Meshes[0].Spec.Istio.CertificateAuthority = v1alpha1.CertificateAuthorityIstiod
			s.Meshes[0].Spec.Istio.Revisions = []v1alpha1.IstioRevision{{Name: "default", MultiRootMesh: multiRoot, ProxyConfigXDSAgent: live}}
		}
	}
	const east = "m-east.isthmus-east"
	for name, c := range map[string]struct {
		edit func(*diagnosis.State)
		want []string
	}{
		"over":             {rotation(v1alpha1.StepFinished, time.Hour), nil},
		"waits a moment":   {rotation(v1alpha1.StepAddingNewRoot, time.Minute, east+": not every istiod"), []string{"ISTH4007 info virtual mesh vm, rotation r-1: has waited in ADDING_NEW_ROOT for 60s; " + east + ": not every istiod; meshctl rotation status vm"}},
		"waits for long":   {rotation(v1alpha1.StepAddingNewRoot, time.Hour, east+": not every istiod"), []string{"ISTH4007 warning virtual mesh vm, rotation r-1: for 60m"}},
		"awaits a word":    {rotation(v1alpha1.StepVerifying, time.Minute, word), []string{"ISTH4008 warning virtual mesh vm, rotation r-1: " + word + "; meshctl rotation approve vm; meshctl rotation rollback vm"}},
		"advice is none":   {rotation(v1alpha1.StepVerifying, time.Minute, east+": evict it, or waive it in a CertificateVerification"), []string{"ISTH4007 info virtual mesh vm, rotation r-1: evict it"}},
		"another rotation": {rotation(v1alpha1.StepVerifying, time.Minute, "a CertificateVerification of rotation r-10 says"), []string{"ISTH4007 info virtual mesh vm, rotation r-1: r-10"}},
		"failed":           {rotation(v1alpha1.StepFailed, time.Minute, east+": the key is bad"), []string{"ISTH4009 error virtual mesh vm, rotation r-1: the key is bad"}},
		"laggards": {order(v1alpha1.ProxyEvidence{Total: 7, Live: 7, Behind: 2, Laggards: []string{"default/a: restart it"}}, false),
			[]string{"ISTH5005 warning proxies of " + east + ": 2 of 7 proxies have not followed: default/a: restart it; meshctl mesh restart m-east"}},
		"laggards that are restarted": {order(v1alpha1.ProxyEvidence{Total: 7, Live: 7, Behind: 2}, true), []string{"ISTH5005 warning proxies of " + east + ": and then restarted"}},
		"no flag":                     {revision(false, false), []string{"ISTH3002 info mesh " + east + ": ISTIO_MULTIROOT_MESH=true in istiod's environment and PROXY_CONFIG_XDS_AGENT=true; one of two restarts of istiod; restart of 7 workloads and gateways"}},
		"one flag":                    {revision(true, false), []string{"ISTH3002 info mesh " + east + ": Recommended: PROXY_CONFIG_XDS_AGENT=true; That saves a restart of 4 workloads and gateways each time"}},
		"both flags":                  {revision(true, true), nil},
		"evicted": {func(s *diagnosis.State) {
			s.Clusters[1].Annotations = map[string]string{diagnosis.AnnotationEvicted: "stolen"}
			s.Clusters[1].Status.Conditions[1] = condition(v1alpha1.ConditionConnected, false)
		}, []string{"ISTH2005 warning cluster west: was evicted: stolen"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := healthy()
			s.Now = now
			c.edit(s)
			expect(t, diagnosis.Examine(*s), c.want)
		})
	}
}
