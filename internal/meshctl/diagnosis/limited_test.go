package diagnosis_test

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/meshctl/diagnosis"
)

// limited is a healthy hub whose virtual mesh has limited trust: each member has both gateways, and a CA of its own.
func limited() *diagnosis.State {
	s := healthy()
	s.Now = time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)
	s.VirtualMeshes[0].Status.Accepted.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Limited: &v1alpha1.LimitedTrust{}}
	for i := range s.Meshes {
		m := &s.Meshes[i]
		gateway := func(name string, class v1alpha1.GatewayClass, addresses ...string) v1alpha1.IngressGateway {
			return v1alpha1.IngressGateway{
				Name: name, Namespace: "isthmus-gateways", Class: class, Addresses: addresses, Selector: map[string]string{v1alpha1.LabelGateway: name},
				Identities: []string{"spiffe://cluster.local/ns/isthmus-gateways/sa/" + name},
				Ports:      []v1alpha1.GatewayPort{{Name: "tls", Port: 15443, ExternalPort: 15443, TargetPort: 15443}},
			}
		}
		m.Spec.Istio.Gateways = []v1alpha1.IngressGateway{
			gateway("isthmus-ingress", v1alpha1.GatewayLimitedIngress, "172.31.0.11"), gateway("isthmus-egress", v1alpha1.GatewayLimitedEgress),
		}
		m.Status.CertificateAuthority = &v1alpha1.MeshCertificateAuthority{Signer: m.Name, Roots: []string{m.Name}, InUse: []string{m.Name}}
		m.Status.GatewayCertificate = &v1alpha1.MeshGatewayCertificate{
			VirtualMesh: "vm.isthmus-system", Signer: "g", Roots: []string{"g"}, NotAfter: &metav1.Time{Time: s.Now.Add(16 * 24 * time.Hour)},
		}
		s.Orders = append(s.Orders, v1alpha1.IssuedCertificate{
			ObjectMeta: metav1.ObjectMeta{Name: m.Name + ".gateways", Namespace: m.Namespace},
			Spec:       v1alpha1.IssuedCertificateSpec{Purpose: v1alpha1.PurposeGateway, Signer: "g"},
			Status: v1alpha1.IssuedCertificateStatus{
				State:        v1alpha1.IssuedCertificateFinished,
				Certificate:  &v1alpha1.IntermediateStatus{NotAfter: metav1.NewTime(s.Now.Add(16 * 24 * time.Hour))},
				ControlPlane: &v1alpha1.ControlPlaneEvidence{Replicas: []v1alpha1.IstiodReplica{{Pod: "isthmus-ingress-1", Signer: "g"}}},
			},
		})
	}
	return s
}

// TestLimited: nothing is said of limited trust that is true of shared trust alone, and what is wrong with gateways is.
func TestLimited(t *testing.T) {
	type state = diagnosis.State
	ingress := func(s *state) *v1alpha1.IngressGateway { return &s.Meshes[0].Spec.Istio.Gateways[0] }
	used := func(s *state) *v1alpha1.MeshGatewayCertificate { return s.Meshes[0].Status.GatewayCertificate }
	days := func(s *state, n float64) *metav1.Time {
		return &metav1.Time{Time: s.Now.Add(time.Duration(n * 24 * float64(time.Hour)))}
	}
	for name, c := range map[string]struct {
		edit func(*state)
		want []string
	}{
		"nothing is wrong": {func(*state) {}, nil},
		"a CA elsewhere":   {func(s *state) { s.Meshes[0].Spec.Istio.CertificateAuthority = v1alpha1.CertificateAuthorityExternal }, nil},
		"a CA elsewhere that nobody has seen": {func(s *state) {
			s.Meshes[0].Spec.Istio.CertificateAuthority, s.Meshes[0].Status.CertificateAuthority = v1alpha1.CertificateAuthorityExternal, nil
		}, nil},
		"without flags for changed roots": {func(s *state) {
			s.Meshes[0].Spec.Istio.CertificateAuthority = v1alpha1.CertificateAuthorityIstiod
			s.Meshes[0].Spec.Istio.Revisions = []v1alpha1.IstioRevision{{Name: "default"}}
		}, nil},
		"no gateways": {func(s *state) { s.Meshes[0].Spec.Istio.Gateways = nil },
			[]string{"ISTH9001 error mesh " + eastKey + ": no ingress gateway; and no egress gateway; meshctl gateway install; cluster east"}},
		"no egress gateway": {func(s *state) { s.Meshes[1].Spec.Istio.Gateways = s.Meshes[1].Spec.Istio.Gateways[:1] },
			[]string{"ISTH9001 error mesh " + westKey + ": no egress gateway"}},
		"no address": {func(s *state) { ingress(s).Addresses = nil }, []string{"ISTH9002 error mesh " + eastKey + ": isthmus-gateways/isthmus-ingress has no address"}},
		"no port":    {func(s *state) { ingress(s).Ports = nil }, []string{"ISTH9002 error mesh " + eastKey + ": no port named tls"}},
		"no pods":    {func(s *state) { ingress(s).Identities = nil }, []string{"ISTH9002 error mesh " + eastKey + ": has no pods"}},
		"no certificate yet": {func(s *state) { s.Meshes[0].Status.GatewayCertificate = nil },
			[]string{"ISTH9003 warning mesh " + eastKey + ": not seen to use a certificate of virtual mesh vm.isthmus-system; describe mesh m-east"}},
		"none that all use": {func(s *state) { used(s).Signer = "" }, []string{"ISTH9003 warning mesh " + eastKey + ": not seen"}},
		"one of another virtual mesh": {func(s *state) { used(s).VirtualMesh = "other.isthmus-system" },
			[]string{"ISTH9003 warning mesh " + eastKey + ": they use one of virtual mesh other.isthmus-system"}},
		"another signer": {func(s *state) { used(s).Signer, used(s).Roots = "new", []string{"new", "g"} },
			[]string{"ISTH9004 error mesh " + westKey + ": certificates of those of mesh m-east; rotation status vm"}},
		"another signer that both know": {func(s *state) {
			used(s).Signer, used(s).Roots = "new", []string{"new", "g"}
			s.Meshes[1].Status.GatewayCertificate.Roots = []string{"g", "new"}
		}, nil},
		"a common root": {func(s *state) { s.Meshes[1].Status.CertificateAuthority.Roots = []string{"own", "m-east"} }, []string{
			"ISTH9005 warning mesh " + eastKey + ": mesh m-west; limited-trust.md", "ISTH9005 warning mesh " + westKey + ": mesh m-east",
		}},
		"renewed in time":   {func(s *state) { used(s).NotAfter = days(s, 8) }, nil},
		"renewed too late":  {func(s *state) { used(s).NotAfter = days(s, 7) }, []string{"ISTH5004 warning mesh " + eastKey + ", certificate of its gateways: ends at"}},
		"it has ended":      {func(s *state) { used(s).NotAfter = days(s, -1) }, []string{"ISTH5003 error mesh " + eastKey + ", certificate of its gateways: has ended"}},
		"short-lived, well": {func(s *state) { short(s); used(s).NotAfter = days(s, 0.9) }, nil},
		"short-lived, late": {func(s *state) { short(s); used(s).NotAfter = days(s, 0.4) }, []string{"ISTH5004 warning mesh " + eastKey + ", certificate of its gateways: ends at"}},
		"the order failed": {func(s *state) {
			s.Orders[0].Status.State, s.Orders[0].Status.Error = v1alpha1.IssuedCertificateFailed, "no rights"
		}, []string{"ISTH5001 error certificate of m-east.gateways.isthmus-east: no rights"}},
		"a virtual mesh elsewhere": {func(s *state) {
			s.VirtualMeshes[0].Namespace, s.Destinations = "default", nil
			s.Meshes[0].Status.GatewayCertificate = nil
		}, []string{"ISTH4001 warning virtual mesh vm: default"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := limited()
			c.edit(s)
			expect(t, diagnosis.Examine(*s), c.want)
		})
	}
}

// short has the gateways' certificates live for a day, and be renewed as soon as they are there.
func short(s *diagnosis.State) {
	s.VirtualMeshes[0].Status.Accepted.Spec.MTLSConfig.Limited.GatewayCertOptions = &v1alpha1.CertOptions{TTLDays: new(int32(1)), SecretRotationGracePeriodRatio: "0.9999"}
	for i := range s.Meshes {
		s.Meshes[i].Status.GatewayCertificate.NotAfter = &metav1.Time{Time: s.Now.Add(24 * time.Hour)}
	}
}

// TestGatewaysOfAMember that do not run.
func TestGatewaysOfAMember(t *testing.T) {
	m := member()
	m.Hosts = map[string]bool{"isthmus-gateways/isthmus-east/reviews.default": true} // beside the egress gateway
	for i, ready := range []int32{2, 1, 0} {
		d := appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{
			Name: []string{"whole", "half", "none"}[i], Namespace: "isthmus-gateways", Labels: map[string]string{v1alpha1.LabelGateway: "egress"},
		}}
		d.Spec.Replicas, d.Status.ReadyReplicas = new(int32(2)), ready
		m.Gateways = append(m.Gateways, d)
	}
	expect(t, diagnosis.ExamineMember(m, *limited()), []string{
		"ISTH6007 warning member west-context: half.isthmus-gateways; 1 of 2; isthmus.dev/gateway=egress", "ISTH6007 error member west-context: none.isthmus-gateways; 0 of 2",
	})
}
