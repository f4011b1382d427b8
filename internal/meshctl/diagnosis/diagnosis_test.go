package diagnosis_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	networkingapi "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/agent/reach"
	"github.com/isthmus-mesh/isthmus/internal/federation"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/meshctl/diagnosis"
)

const (
	eastKey = "m-east.isthmus-east"
	westKey = "m-west.isthmus-west"
)

// healthy is a hub with two clusters in a virtual mesh that federates all services, of which east has one, with a policy.
func healthy() *diagnosis.State {
	vmSpec := v1alpha1.VirtualMeshSpec{
		Meshes:     []v1alpha1.ObjectRef{{Name: "m-east", Namespace: "isthmus-east"}, {Name: "m-west", Namespace: "isthmus-west"}},
		Federation: &v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{{}}},
	}
	s := &diagnosis.State{
		Namespace: "isthmus-system", Kubernetes: "v1.36.3",
		SupportedKubernetes: func(string) error { return nil }, SupportedIstio: func(string) error { return nil },
		Hub: &appsv1.Deployment{Status: appsv1.DeploymentStatus{ReadyReplicas: 1}},
		VirtualMeshes: []v1alpha1.VirtualMesh{{
			ObjectMeta: metav1.ObjectMeta{Name: "vm", Namespace: "isthmus-system"}, Spec: vmSpec,
			Status: v1alpha1.VirtualMeshStatus{
				ConditionedStatus: v1alpha1.ConditionedStatus{Conditions: []metav1.Condition{condition(v1alpha1.ConditionReady, true)}},
				State:             v1alpha1.StateAccepted, Accepted: &v1alpha1.AcceptedVirtualMesh{Generation: 2, Spec: *vmSpec.DeepCopy()},
			},
		}},
		Destinations: []v1alpha1.Destination{{
			ObjectMeta: metav1.ObjectMeta{Name: "reviews.default", Namespace: "isthmus-east"},
			Spec: v1alpha1.DestinationSpec{
				Cluster: "east", Mesh: "m-east", Identities: []string{"spiffe://cluster.local/ns/default/sa/reviews"},
				KubeService: v1alpha1.KubeService{Name: "reviews", Namespace: "default", Ports: []v1alpha1.KubeServicePort{{Name: "http", Port: 9080}}},
			},
			Status: v1alpha1.DestinationStatus{
				AppliedFederation:     &v1alpha1.AppliedFederation{FederatedHostname: "reviews.default.svc.east.global", FederatedToMeshes: []string{"*"}, VirtualMesh: "vm.isthmus-system"},
				AppliedAccessPolicies: []string{"readers.isthmus-system"},
			},
		}},
		AccessPolicies: []v1alpha1.AccessPolicy{{
			ObjectMeta: metav1.ObjectMeta{Name: "readers", Namespace: "isthmus-system"},
			Status:     v1alpha1.AccessPolicyStatus{State: v1alpha1.StateAccepted, Accepted: &v1alpha1.AcceptedAccessPolicy{Generation: 3}},
		}},
		Settings: []v1alpha1.Settings{{ObjectMeta: metav1.ObjectMeta{Name: "settings", Namespace: "isthmus-system"}}},
	}
	for _, cluster := range []string{"east", "west"} {
		s.Clusters = append(s.Clusters, v1alpha1.KubernetesCluster{
			ObjectMeta: metav1.ObjectMeta{Name: cluster},
			Status: v1alpha1.KubernetesClusterStatus{ConditionedStatus: v1alpha1.ConditionedStatus{Conditions: []metav1.Condition{
				condition(v1alpha1.ConditionReady, true), condition(v1alpha1.ConditionConnected, true),
			}}},
		})
		s.Meshes = append(s.Meshes, v1alpha1.Mesh{
			ObjectMeta: metav1.ObjectMeta{Name: "m-" + cluster, Namespace: "isthmus-" + cluster},
			Spec: v1alpha1.MeshSpec{Cluster: cluster, Istio: v1alpha1.IstioMesh{
				RootNamespace: "istio-system", TrustDomain: "cluster.local", IstiodServiceAccount: "istiod", SmartDNSProxyingEnabled: true,
				Gateways: []v1alpha1.IngressGateway{{
					Name: "eastwest", Namespace: "istio-system", Class: v1alpha1.GatewayEastWest, Addresses: []string{"172.31.0.11"},
					Ports: []v1alpha1.GatewayPort{{Name: "tls", Port: 15443, ExternalPort: 15443, TargetPort: 15443}},
				}},
			}},
			Status: v1alpha1.MeshStatus{
				ConditionedStatus:     v1alpha1.ConditionedStatus{Conditions: []metav1.Condition{condition(v1alpha1.ConditionGatewayExclusive, true)}},
				CertificateAuthority:  &v1alpha1.MeshCertificateAuthority{Signer: "r", Roots: []string{"r"}, InUse: []string{"r"}},
				AppliedVirtualMeshes:  []v1alpha1.AppliedVirtualMesh{{Name: "vm.isthmus-system", Generation: 2}},
				AppliedAccessPolicies: []v1alpha1.AppliedAccessPolicy{{Name: "readers.isthmus-system", Generation: 3}},
			},
		})
	}
	return s
}

func condition(kind string, holds bool) metav1.Condition {
	c := metav1.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: "Ready", Message: "as it should be"}
	if !holds {
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, "Wrong", "something is wrong"
	}
	return c
}

func member() diagnosis.Member {
	return diagnosis.Member{
		Name: "west-context", Cluster: "west", SupportedKubernetes: func(string) error { return nil },
		Agent: &appsv1.Deployment{Status: appsv1.DeploymentStatus{ReadyReplicas: 1}}, Credential: true,
		Hosts: map[string]bool{"istio-system/isthmus-east/reviews.default": true},
	}
}

// TestHealthy: where nothing is wrong nothing is said.
func TestHealthy(t *testing.T) {
	s := healthy()
	if fs := append(diagnosis.Examine(*s), diagnosis.ExamineMember(member(), *s)...); len(fs) > 0 {
		t.Fatalf("%+v", fs)
	}
}

// edits of a healthy state, and what is found then: "<code> <severity> <object>", with words of the message or the hint.
func TestFederationAndPolicy(t *testing.T) {
	type state = diagnosis.State
	vm := func(s *state) *v1alpha1.VirtualMesh { return &s.VirtualMeshes[0] }
	gateway := func(s *state) *v1alpha1.IngressGateway { return &s.Meshes[0].Spec.Istio.Gateways[0] }
	report := func(text string) func(*state) {
		return func(s *state) {
			s.Meshes[1].Status.Errors = []string{text}
			// The hub repeats it, shortened.
			vm(s).Status.Meshes = map[string]v1alpha1.ApprovalStatus{westKey: {Errors: []string{text[:min(len(text), 40)] + "..."}}}
		}
	}
	verdict := func(p reach.Problem) string {
		return reach.Verdict{Problem: p, Target: reach.Target{Mesh: eastKey, Address: "172.31.0.11", Port: 15443, SNI: "outbound_.9080_._.reviews.default.svc.cluster.local"}}.String()
	}
	shadow := federation.Shadows(
		&networkingv1.DestinationRule{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "theirs"}, Spec: networkingapi.DestinationRule{Host: "reviews.default.svc.east.global"}},
		"istio-system",
		&networkingv1.DestinationRule{Spec: networkingapi.DestinationRule{Host: "reviews.default.svc.east.global", TrafficPolicy: &networkingapi.TrafficPolicy{
			Tls: &networkingapi.ClientTLSSettings{Mode: networkingapi.ClientTLSSettings_ISTIO_MUTUAL},
		}}})
	if shadow == nil {
		t.Fatal("no rule shadows ours")
	}
	strict := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Name: "vm", Namespace: "isthmus-system", Generation: 1}, Spec: *healthy().VirtualMeshes[0].Spec.DeepCopy()}
	strict.Spec.Federation.TLSEnforcementSettings = &v1alpha1.TLSEnforcementSettings{EnforcementMode: v1alpha1.TLSEnforcementStrict}
	_, conflict := accept.VirtualMesh(nil, strict, accept.World{Namespace: "isthmus-system", Meshes: healthy().Meshes})

	for name, c := range map[string]struct {
		edit func(*state)
		want []string // each "<code> <severity> <object>: <words of message and hint>"
	}{
		"an older installation runs": {func(s *state) {
			s.Meshes[0].Status.Predecessor = &v1alpha1.PredecessorStatus{Running: []string{"gloo-mesh/cert-agent"}}
		}, []string{"ISTH3007 error mesh " + eastKey + ": gloo-mesh/cert-agent"}},
		"an older installation runs where it may": {func(s *state) {
			s.Meshes[1].Status.Predecessor = &v1alpha1.PredecessorStatus{Running: []string{"gloo-mesh/cert-agent"}}
			accepted := vm(s).Status.Accepted
			accepted.Spec.Meshes, s.Destinations = accepted.Spec.Meshes[:1], nil
			s.Meshes[1].Status.AppliedVirtualMeshes, s.Meshes[1].Status.AppliedAccessPolicies = nil, nil
		}, []string{"ISTH3007 warning mesh " + westKey + ": gloo-mesh/cert-agent"}},
		"an older installation has left something": {func(s *state) {
			s.Meshes[0].Status.Predecessor = &v1alpha1.PredecessorStatus{
				CACerts: true, Kinds: []v1alpha1.PredecessorKind{{Kind: "Gateway", Count: 2}}, Objects: []string{"Gateway istio-system/a", "Gateway istio-system/b"},
			}
		}, []string{"ISTH3008 warning mesh " + eastKey + ": 2 of kind Gateway, Secret cacerts, such as Gateway istio-system/a, Gateway istio-system/b"}},
		"no gateway": {func(s *state) { s.Meshes[0].Spec.Istio.Gateways = nil }, []string{"ISTH7001 error mesh " + eastKey + ": has no gateway"}},
		"no port":    {func(s *state) { gateway(s).Ports = nil }, []string{"ISTH7001 error mesh " + eastKey + ": no port named tls"}},
		"none of them is chosen": {func(s *state) {
			vm(s).Status.Accepted.Spec.Federation.IngressGatewaySelectors = []v1alpha1.IngressGatewaySelector{{DestinationSelectors: []v1alpha1.DestinationSelector{
				{KubeServiceMatcher: &v1alpha1.KubeServiceMatcher{Labels: map[string]string{"a": "b"}}},
			}}}
		}, []string{"ISTH7001 error mesh " + eastKey + ": ingressGatewaySelectors"}},
		"a mesh that federates nothing needs no gateway": {func(s *state) { s.Meshes[1].Spec.Istio.Gateways = nil }, nil},
		"a flat network needs none": {func(s *state) {
			s.Meshes[0].Spec.Istio.Gateways = nil
			vm(s).Status.Accepted.Spec.Federation.FlatNetwork = true
		}, nil},
		"no address": {func(s *state) { gateway(s).Addresses = nil }, []string{"ISTH7002 error mesh " + eastKey + ": istio-system/eastwest has no address"}},
		"no address of one of two": {func(s *state) {
			second := *gateway(s)
			second.Name, second.Addresses = "second", nil
			s.Meshes[0].Spec.Istio.Gateways = append(s.Meshes[0].Spec.Istio.Gateways, second)
		}, []string{"ISTH7002 warning mesh " + eastKey + ": istio-system/second has no address"}},
		"a gateway that lets more pass": {func(s *state) {
			s.Meshes[0].Status.Conditions = []metav1.Condition{condition(v1alpha1.ConditionGatewayExclusive, false)}
		}, []string{"ISTH7003 error mesh " + eastKey + ": something is wrong"}},
		"no DNS capture": {func(s *state) { s.Meshes[1].Spec.Istio.SmartDNSProxyingEnabled = false },
			[]string{"ISTH7004 warning mesh " + westKey + ": reviews.default.svc.east.global; TCP by name does not work; HTTP only for; ISTIO_META_DNS_CAPTURE: \"true\""}},
		"no DNS capture where there are no clients": {func(s *state) { s.Meshes[0].Spec.Istio.SmartDNSProxyingEnabled = false }, nil},
		"behind": {func(s *state) { s.Meshes[1].Status.AppliedVirtualMeshes[0].Generation = 1 },
			[]string{"ISTH7005 warning mesh " + westKey + ": has generation 1 in force; generation 2 is accepted"}},
		"nothing applied, for want of trust": {func(s *state) {
			s.Meshes[1].Status.AppliedVirtualMeshes = nil
			vm(s).Status.Accepted.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{}}
			s.Meshes[0].Status.CertificateAuthority.InUse = nil
		}, []string{"ISTH7005 warning mesh " + westKey + ": has nothing in force; which certificate authority mesh m-east uses was not seen yet"}},
		"behind, but suspended": {func(s *state) {
			s.Meshes[1].Status.AppliedVirtualMeshes[0].Generation = 1
			vm(s).Status.Accepted.Spec.Suspend = true
		}, nil},
		"behind, because it is not connected": {func(s *state) {
			s.Meshes[1].Status.AppliedVirtualMeshes[0].Generation = 1
			s.Clusters[1].Status.Conditions[1] = condition(v1alpha1.ConditionConnected, false)
		}, []string{"ISTH2003 error cluster west: something is wrong"}},
		"nothing to apply": {func(s *state) {
			s.Meshes[0].Status.AppliedVirtualMeshes, s.Meshes[1].Status.AppliedVirtualMeshes = nil, nil
			vm(s).Status.Accepted.Spec.Federation, s.Destinations = nil, nil
		}, nil},
		"destinations that are not federated": {func(s *state) {
			for i := range 5 {
				s.Destinations = append(s.Destinations, v1alpha1.Destination{
					ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("db-%d.default", i), Namespace: "isthmus-east"},
					Status:     v1alpha1.DestinationStatus{Errors: []string{"it is headless"}},
				})
			}
		}, []string{"ISTH7006 warning cluster east: destination db-0.default, db-1.default, db-2.default and 2 more: it is headless"}},
		"a sort of service that is never federated": {func(s *state) {
			d := *s.Destinations[0].DeepCopy()
			d.Name, d.Spec.KubeService.Name, d.Spec.KubeService.Type, d.Status = "db.default", "db", "Headless", v1alpha1.DestinationStatus{}
			_, fs := federation.Federate(membership.Of(vm(s), s.Meshes), &s.Meshes[0], &d)
			d.Status.Errors = fs.Errors()
			s.Destinations = append(s.Destinations, d)
		}, []string{"ISTH7006 info cluster east: destination db.default; headless"}},
		"destinations that are not imported": {report("db.default of cluster east: spec.identities: no service account is known"),
			[]string{"ISTH7007 warning mesh " + westKey + ": db.default of cluster east"}},
		"many that are not imported": {report("a.b, c.d, e.f and 9 more of cluster east: something"),
			[]string{"ISTH7007 warning mesh " + westKey + ": and 9 more"}},
		"more than are told apart": {report("17 more destinations of cluster east: they have problems too"),
			[]string{"ISTH7007 warning mesh " + westKey + ": 17 more destinations"}},
		"a shadowing rule": {report("reviews.default of cluster east: " + shadow.String()), []string{"ISTH7008 error mesh " + westKey + ": default/theirs; tls: {mode: ISTIO_MUTUAL}"}},
		"unreachable":      {report(verdict(reach.Unreachable)), []string{"ISTH7009 error mesh " + westKey + ": 172.31.0.11:15443 of mesh " + eastKey}},
		"not admitted":     {report(verdict(reach.NotAdmitted)), []string{"ISTH7010 warning mesh " + westKey + ": reviews.default"}},
		"not trusted":      {report(verdict(reach.Untrusted)), []string{"ISTH7011 error mesh " + westKey + ": does not trust"}},
		"somebody else":    {report(verdict(reach.Impostor)), []string{"ISTH7012 error mesh " + westKey + ": another identity"}},
		"anything else":    {report("Gateway istio-system/isthmus-eastwest exists and was not made by Isthmus"), []string{"ISTH3006 error mesh " + westKey + ": was not made by Isthmus"}},
		"a member is not told apart": {func(s *state) {
			vm(s).Status.Conditions = append(vm(s).Status.Conditions, condition(v1alpha1.ConditionClientMeshEnforced, false))
		}, []string{"ISTH7014 warning virtual mesh vm: something is wrong"}},
		"Vault is not reached": {func(s *state) {
			vm(s).Status.Conditions = append(vm(s).Status.Conditions, condition(v1alpha1.ConditionVaultReachable, false))
		}, []string{"ISTH4010 warning virtual mesh vm: something is wrong"}},
		"an invalid virtual destination": {func(s *state) {
			s.VirtualDestinations = make([]v1alpha1.VirtualDestination, 1)
			s.VirtualDestinations[0].Name, s.VirtualDestinations[0].Status.Errors = "reviews", []string{"spec.hostname: x"}
		}, []string{"ISTH7015 error virtual destination reviews: spec.hostname: x"}},
		"a virtual destination that nobody has looked at": {func(s *state) {
			s.VirtualDestinations = make([]v1alpha1.VirtualDestination, 1)
		}, []string{"ISTH7016 warning virtual destination : has not looked at it"}},
		"a virtual destination that a cluster does not serve": {func(s *state) {
			s.VirtualDestinations = make([]v1alpha1.VirtualDestination, 2)
			s.VirtualDestinations[0].Name = "reviews"
			s.VirtualDestinations[0].Status.Conditions = []metav1.Condition{condition(v1alpha1.ConditionReady, false)}
			s.VirtualDestinations[1].Status.Conditions = []metav1.Condition{condition(v1alpha1.ConditionReady, true)}
		}, []string{"ISTH7016 warning virtual destination reviews: something is wrong"}},
		"what the hub says of a member itself": {func(s *state) {
			vm(s).Status.Meshes = map[string]v1alpha1.ApprovalStatus{westKey: {Errors: []string{"not that"}}}
		}, []string{"ISTH4006 error virtual mesh vm: not that"}},

		"a policy elsewhere": {func(s *state) { s.AccessPolicies[0].Namespace = "default" }, []string{"ISTH8001 warning access policy readers: namespace default"}},
		"settings elsewhere": {func(s *state) { s.Settings[0].Namespace = "default" }, []string{"ISTH8001 warning settings: namespace default"}},
		"an invalid policy":  {func(s *state) { s.AccessPolicies[0].Status.Errors = []string{"spec.allowedPaths[0]: x"} }, []string{"ISTH8002 error access policy readers: spec.allowedPaths[0]: x"}},
		"a policy that nobody has looked at": {func(s *state) { s.AccessPolicies[0].Status = v1alpha1.AccessPolicyStatus{} },
			[]string{"ISTH8004 warning access policy readers: has not looked at it"}},
		"a rejected policy": {func(s *state) {
			s.Destinations[0].Status.RejectedAccessPolicies = []v1alpha1.RejectedAccessPolicy{{Name: "readers.isthmus-system", Errors: []string{"not told apart"}}}
			s.Destinations[0].Status.Errors = []string{"AccessPolicy readers.isthmus-system: not told apart"}
		}, []string{"ISTH8003 error access policy readers: allows nobody at reviews.default of cluster east: not told apart"}},
		"a policy that is not in force yet": {func(s *state) {
			s.Meshes[0].Status.AppliedAccessPolicies[0].Generation = 2
			s.Meshes[1].Status.AppliedAccessPolicies = nil
		},
			[]string{"ISTH8004 warning access policy readers: generation 3 is not in force yet in mesh " + eastKey + ", " + westKey}},
		"a policy that is not in force where nobody is connected": {func(s *state) {
			s.Meshes[1].Status.AppliedAccessPolicies = nil
			s.Clusters[1].Status.Conditions[1] = condition(v1alpha1.ConditionConnected, false)
		}, []string{"ISTH2003 error cluster west: something is wrong"}},
		"invalid settings": {func(s *state) { s.Settings[0].Status.Errors = []string{"spec.discovery: x"} }, []string{"ISTH8005 error settings: spec.discovery: x"}},
		"TLS settings that contradict each other": {func(s *state) {
			vm(s).Status.State, vm(s).Status.Errors = v1alpha1.StateInvalid, conflict.Errors()
		}, []string{"ISTH8006 error virtual mesh vm: enforcementMode; spec.mtls.istio.tlsMode"}},
		"TLS settings and something else": {func(s *state) {
			vm(s).Status.State, vm(s).Status.Errors = v1alpha1.StateInvalid, append(conflict.Errors(), "spec.meshes: x")
		}, []string{"ISTH4002 error virtual mesh vm: spec.meshes: x", "ISTH8006 error virtual mesh vm: spec.mtls.istio.tlsMode"}},
		"TLS settings, seen from the other side": {func(s *state) { s.Settings[0].Status.Errors = conflict.Errors() }, []string{"ISTH8006 error settings: tlsMode"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := healthy()
			c.edit(s)
			expect(t, diagnosis.Examine(*s), c.want)
		})
	}
}

// TestHostsOfAMember that are not there.
func TestHostsOfAMember(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*diagnosis.State, *diagnosis.Member)
		want []string
	}{
		"missing": {func(_ *diagnosis.State, m *diagnosis.Member) { m.Hosts = map[string]bool{} },
			[]string{"ISTH7013 error member west-context: 1 hosts of other clusters are missing in namespace istio-system: reviews.default.svc.east.global"}},
		"in another namespace": {func(_ *diagnosis.State, m *diagnosis.Member) {
			m.Hosts = map[string]bool{"default/isthmus-east/reviews.default": true}
		}, []string{"ISTH7013 error member west-context: missing"}},
		"not known": {func(_ *diagnosis.State, m *diagnosis.Member) { m.Hosts = nil }, nil},
		"its own":   {func(_ *diagnosis.State, m *diagnosis.Member) { m.Cluster, m.Hosts = "east", map[string]bool{} }, nil},
		"not yet": {func(s *diagnosis.State, m *diagnosis.Member) {
			m.Hosts = map[string]bool{}
			s.Meshes[1].Status.AppliedVirtualMeshes[0].Generation = 1
		}, nil},
		"to others": {func(s *diagnosis.State, m *diagnosis.Member) {
			m.Hosts = map[string]bool{}
			s.Destinations[0].Status.AppliedFederation.FederatedToMeshes = []string{"x"}
		}, nil},
		"by its name": {func(s *diagnosis.State, m *diagnosis.Member) {
			m.Hosts = map[string]bool{}
			s.Destinations[0].Status.AppliedFederation.FederatedToMeshes = []string{westKey}
		}, []string{"ISTH7013 error member west-context: missing"}},
		"another's": {func(s *diagnosis.State, m *diagnosis.Member) {
			m.Hosts = map[string]bool{}
			s.Destinations[0].Status.AppliedFederation.VirtualMesh = "x"
		}, nil},
		"without rest": {func(_ *diagnosis.State, m *diagnosis.Member) { m.Cluster = "" }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s, m := healthy(), member()
			c.edit(s, &m)
			expect(t, diagnosis.ExamineMember(m, *s), c.want)
		})
	}
}

// expect holds findings against "<code> <severity> <object>: <words>; <words>…".
func expect(t *testing.T, got diagnosis.Findings, want []string) {
	t.Helper()
	slices.SortFunc(got, func(a, b diagnosis.Finding) int { return strings.Compare(a.Code, b.Code) })
	if len(got) != len(want) {
		t.Fatalf("%d findings: %+v, want %q", len(got), got, want)
	}
	for i, f := range got {
		head := fmt.Sprintf("%s %s %s: ", f.Code, f.Severity, f.Object)
		words, ok := strings.CutPrefix(want[i], head)
		if !ok {
			t.Errorf("found %s%s, want %s", head, f.Message, want[i])
		}
		for word := range strings.SplitSeq(words, "; ") {
			if !strings.Contains(f.Message+" "+f.Hint, word) {
				t.Errorf("%s%s %s: lacks %q", head, f.Message, f.Hint, word)
			}
		}
	}
}
