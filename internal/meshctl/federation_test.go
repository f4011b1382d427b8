package meshctl_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

const (
	eastMesh = "istiod-istio-system-east"
	westMesh = "istiod-istio-system-west"
	// Two members that reviews of east is not federated to, one with a trust domain of its own.
	northMesh = "istiod-istio-system-north"
	southMesh = "istiod-istio-system-south"
)

// federated gives the hub two meshes in a virtual mesh that federates reviews of east to west, as hub and agents leave it.
func (w *world) federated(t *testing.T) {
	t.Helper()
	h := &clusterOf{w.hub}
	for _, ns := range []string{"isthmus-system", "isthmus-east", "isthmus-west", "isthmus-north", "isthmus-south"} {
		h.Namespace(t, ns, nil)
	}
	mesh := func(cluster, name string, gateways ...v1alpha1.IngressGateway) *v1alpha1.Mesh {
		return &v1alpha1.Mesh{
			ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-" + cluster, Name: name},
			Spec: v1alpha1.MeshSpec{Cluster: cluster, Istio: v1alpha1.IstioMesh{
				RootNamespace: "istio-system", TrustDomain: cluster + ".example", TrustDomainAliases: []string{"other.example"},
				IstiodServiceAccount: "istiod", Gateways: gateways,
				Revisions: []v1alpha1.IstioRevision{{Name: "default", Deployment: "istiod", Version: "1.31.1", Replicas: 1}},
			}},
		}
	}
	gateway := func(name string, class v1alpha1.GatewayClass, addresses ...string) v1alpha1.IngressGateway {
		return v1alpha1.IngressGateway{
			Name: name, Namespace: "istio-system", Class: class, Addresses: addresses,
			Ports: []v1alpha1.GatewayPort{{Name: "tls", Port: 15443, ExternalPort: 31443, TargetPort: 15443}},
		}
	}
	east := mesh("east", eastMesh, gateway("istio-eastwestgateway", v1alpha1.GatewayEastWest, "172.31.0.11"), gateway("istio-ingressgateway", v1alpha1.GatewayIngress))
	east.Status = v1alpha1.MeshStatus{
		AppliedVirtualMeshes:  []v1alpha1.AppliedVirtualMesh{{Name: "virtual-mesh.isthmus-system", Generation: 1}},
		AppliedAccessPolicies: []v1alpha1.AppliedAccessPolicy{{Name: "readers.isthmus-system", Generation: 1}},
		ConditionedStatus: v1alpha1.ConditionedStatus{Conditions: []metav1.Condition{{
			Type: v1alpha1.ConditionGatewayExclusive, Status: metav1.ConditionFalse, Reason: "ForeignPassThrough",
			Message: "Gateway istio-system/cross-network-gateway admits [*.local]", LastTransitionTime: metav1.Now(),
		}}},
	}
	west := mesh("west", westMesh)
	west.Status.Errors = []string{"gateway does not answer: 172.31.0.11:31443 of mesh " + eastMesh + ".isthmus-east; see that it runs"}

	north, south := mesh("north", northMesh), mesh("south", southMesh)
	south.Spec.Istio.TrustDomain = west.Spec.Istio.TrustDomain

	services := []v1alpha1.DestinationSelector{{KubeServiceRefs: &v1alpha1.KubeServiceRefs{Services: []v1alpha1.ClusterObjectRef{{Name: "reviews", Namespace: "default"}}}}}
	spec := v1alpha1.VirtualMeshSpec{
		Meshes: []v1alpha1.ObjectRef{
			{Name: eastMesh, Namespace: "isthmus-east"}, {Name: westMesh, Namespace: "isthmus-west"},
			{Name: northMesh, Namespace: "isthmus-north"}, {Name: southMesh, Namespace: "isthmus-south"},
		},
		Federation: &v1alpha1.Federation{
			Selectors:              []v1alpha1.FederationSelector{{DestinationSelectors: services, Meshes: []v1alpha1.ObjectRef{{Name: westMesh, Namespace: "isthmus-west"}}}},
			TCPKeepalive:           &v1alpha1.TCPKeepalive{Time: &metav1.Duration{Duration: time.Minute}},
			TLSEnforcementSettings: &v1alpha1.TLSEnforcementSettings{EnforcementMode: v1alpha1.TLSEnforcementStrict},
		},
		GlobalAccessPolicy: v1alpha1.GlobalAccessPolicyEnabled,
	}
	policy := func(name string, spec v1alpha1.AccessPolicySpec, accepted int64) *v1alpha1.AccessPolicy {
		return &v1alpha1.AccessPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-system", Name: name}, Spec: spec,
			Status: v1alpha1.AccessPolicyStatus{State: v1alpha1.StateAccepted, Accepted: &v1alpha1.AcceptedAccessPolicy{Generation: accepted, Spec: spec}},
		}
	}
	h.create(t, east, west, north, south,
		&v1alpha1.VirtualMesh{
			ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-system", Name: "virtual-mesh"}, Spec: spec,
			Status: v1alpha1.VirtualMeshStatus{
				State: v1alpha1.StatePending, Accepted: &v1alpha1.AcceptedVirtualMesh{Generation: 1, Spec: spec},
				DestinationCounts: map[string]int32{"ACCEPTED": 12, "FAILED": 1},
				Destinations: map[string]v1alpha1.ApprovalStatus{
					"db.default.isthmus-east": {State: v1alpha1.StateFailed, Errors: []string{"the Service is headless"}},
				},
			},
		},
		policy("readers", v1alpha1.AccessPolicySpec{
			SourceSelector: []v1alpha1.IdentitySelector{{KubeServiceAccountRefs: &v1alpha1.KubeServiceAccountRefs{
				ServiceAccounts: []v1alpha1.ClusterObjectRef{{Name: "productpage", Namespace: "default"}},
			}}},
			DestinationSelector: services, AllowedMethods: []string{"GET"},
		}, 1),
		policy("by-cluster", v1alpha1.AccessPolicySpec{
			SourceSelector: []v1alpha1.IdentitySelector{{KubeIdentityMatcher: &v1alpha1.KubeIdentityMatcher{Clusters: []string{"west"}}}},
		}, 0),
		virtualDestination(),
		&v1alpha1.Destination{
			ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-east", Name: "reviews.default", Labels: map[string]string{v1alpha1.LabelFederated: "true"}},
			Spec: v1alpha1.DestinationSpec{
				Cluster: "east", Mesh: eastMesh, Identities: []string{"spiffe://east.example/ns/default/sa/reviews"},
				KubeService: v1alpha1.KubeService{
					Name: "reviews", Namespace: "default", Type: "ClusterIP", Selector: map[string]string{"app": "reviews"},
					Ports: []v1alpha1.KubeServicePort{{Name: "http", Port: 9080}},
				},
			},
			Status: v1alpha1.DestinationStatus{
				AppliedFederation: &v1alpha1.AppliedFederation{
					FederatedHostname: "reviews.default.svc.east.global", FederatedToMeshes: []string{westMesh + ".isthmus-west"},
					VirtualMesh: "virtual-mesh.isthmus-system", Subsets: []string{"v1", "v2"},
				},
				AppliedAccessPolicies:  []string{"readers.isthmus-system", "gone.isthmus-system"},
				RejectedAccessPolicies: []v1alpha1.RejectedAccessPolicy{{Name: "by-cluster.isthmus-system", Errors: []string{"identities do not tell west from south"}}},
				Errors:                 []string{"spec.identities: something is left out"},
			},
		})
}

// TestDescribeFederation: who set what, in words.
// virtualDestination is one as hub and agents leave it.
func virtualDestination() *v1alpha1.VirtualDestination {
	spec := v1alpha1.VirtualDestinationSpec{
		VirtualMesh: v1alpha1.ObjectRef{Name: "virtual-mesh", Namespace: "isthmus-system"}, Service: v1alpha1.ServiceRef{Name: "reviews", Namespace: "default"},
		Clusters: []string{"east", "west"}, Ports: []int32{9080, 9090},
	}
	return &v1alpha1.VirtualDestination{
		ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-system", Name: "reviews"}, Spec: spec,
		Status: v1alpha1.VirtualDestinationStatus{
			State: v1alpha1.StateFailed, Accepted: &v1alpha1.AcceptedVirtualDestination{Generation: 1, Hostname: "reviews.default.svc.global", Spec: spec},
			Meshes: []v1alpha1.VirtualDestinationMesh{
				{Name: eastMesh + ".isthmus-east", State: v1alpha1.StateAccepted, Clusters: []string{"east", "west"}},
				{Name: westMesh + ".isthmus-west", State: v1alpha1.StateFailed, Clusters: []string{"east"}, Errors: []string{"its Service lacks the TCP port 9090"}},
			},
		},
	}
}

func TestDescribeFederation(t *testing.T) {
	w := newWorld(t)
	w.federated(t)
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"destination", "reviews.default"}, []string{
			"Hostname      reviews.default.svc.east.global", "To            " + westMesh + ".isthmus-west", "Subsets       v1, v2",
			"Through       gateway istio-system/istio-eastwestgateway, 172.31.0.11, port 31443",
			"Refused       all identities but east.example/*, west.example/*", "Not refused   " + southMesh + ".isthmus-south: its identities are not told apart",
			"1  AccessPolicy readers.isthmus-system     allows service account default/productpage: GET",
			"2  AccessPolicy gone.isthmus-system        was deleted",
			"-  AccessPolicy by-cluster.isthmus-system  allows nobody, as it cannot be enforced here: identities do not tell west from south",
			"all others                              denied, because access policies select the service",
			"spec.identities: something is left out",
		}},
		{[]string{"accesspolicy", "readers"}, []string{
			"State:      ACCEPTED", "In force:   generation 1", "Who may call:\n  service account default/productpage", "What:\n  service default/reviews", "Requests:\n  GET",
			"east     reviews.default  1 of 2",
		}},
		{[]string{"accesspol", "by-cluster"}, []string{
			"generation 0, which this is; the present one is 1", "any workload with an identity of cluster west", "every service", "any request",
			"east     reviews.default  identities do not tell west from south", "In force at:\n  no destination",
		}},
		{[]string{"virtualmesh", "virtual-mesh"}, []string{
			"ENABLED: what no access policy allows is denied", "STRICT: servers take mutual TLS only",
			"service default/reviews to mesh " + westMesh, "SERVICE.NAMESPACE.svc.CLUSTER.global", "istio=eastwestgateway", "after 1m0s",
			"ACCEPTED  12", "FAILED    1", "db.default.isthmus-east  the Service is headless",
		}},
		{[]string{"mesh", eastMesh}, []string{
			"istio-eastwestgateway.istio-system  EastWest  31443     172.31.0.11", "istio-ingressgateway.istio-system   Ingress   31443     none",
			"VirtualMesh   virtual-mesh.isthmus-system  1", "AccessPolicy  readers.isthmus-system       1",
			"GatewayExclusive  False  ForeignPassThrough  Gateway istio-system/cross-network-gateway admits [*.local]", "DNS capture:     no", "other.example",
		}},
		{[]string{"virtualdestination", "reviews"}, []string{
			"State:         FAILED", "In force:      generation 1", "Hostname:      reviews.default.svc.global", "Service:       reviews.default", "Clusters:      east west", "Ports:         9080 9090",
			"MESH", "WHEN THAT FAILS", eastMesh + ".isthmus-east  ACCEPTED", "  east ", "west\n", westMesh + ".isthmus-west  FAILED    east\n", "its Service lacks the TCP port 9090",
		}},
		{[]string{"mesh", westMesh}, []string{"gateway does not answer: 172.31.0.11:31443"}},
	} {
		out := w.ok(t, append([]string{"describe"}, c.args...)...)
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("describe %v lacks %q", c.args, want)
			}
		}
	}
	w.fails(t, 1, `no accesspolicy is named "nonsense"`, "describe", "accesspolicy", "nonsense")
}

// TestCheckFederation: what hub, agents and a member say comes together.
func TestCheckFederation(t *testing.T) {
	w := newWorld(t, testenv.IstioCRDs(t))
	w.federated(t)
	connected := func(name string) *v1alpha1.KubernetesCluster {
		kc := &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-system", Name: name}}
		for _, kind := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionConnected} {
			kc.Status.Conditions = append(kc.Status.Conditions, metav1.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: "Ready", LastTransitionTime: metav1.Now()})
		}
		return kc
	}
	h, m := &clusterOf{w.hub}, &clusterOf{w.member}
	h.create(t, connected("east"), connected("west"),
		&v1alpha1.Settings{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-system", Name: "settings"}, Status: v1alpha1.SettingsStatus{
			State: v1alpha1.StateInvalid, Errors: []string{"spec.mtls.istio.tlsMode: is DISABLE, and servers take mutual TLS only"},
		}})
	for _, ns := range []string{"isthmus-agent", "istio-system"} {
		w.member.Namespace(t, ns, nil)
	}
	m.create(t, deployment("isthmus-agent", "isthmus-agent", corev1.Container{Name: "agent", Image: "x", Args: []string{"--cluster=west"}}))

	out, _, code := w.meshctl(t, "check", "--member-context", "member")
	if err := contains(out, "ISTH7003", "ISTH7004", "ISTH7005", "ISTH7006", "ISTH7009", "ISTH8003", "ISTH8004", "ISTH8006"); code != 1 || err != nil {
		t.Fatalf("exit code %d; %v", code, err)
	}
	if strings.Contains(out, "ISTH7013") {
		t.Errorf("a host is missed although its agent is behind: ISTH7005 says that")
	}

	west := &v1alpha1.Mesh{}
	if err := exists(w.hub.Client, west, "isthmus-west", westMesh); err != nil {
		t.Fatal(err)
	}
	west.Status.AppliedVirtualMeshes = []v1alpha1.AppliedVirtualMesh{{Name: "virtual-mesh.isthmus-system", Generation: 1}}
	if err := w.hub.Client.Status().Update(t.Context(), west); err != nil {
		t.Fatal(err)
	}
	if out, _, _ := w.meshctl(t, "check", "--member-context", "member"); !strings.Contains(out, "ISTH7013") || !strings.Contains(out, "reviews.default.svc.east.global") {
		t.Errorf("no host is missed")
	}
	entry := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "spec": map[string]any{
		"hosts": []any{"reviews.default.svc.east.global"}, "resolution": "STATIC", "ports": []any{map[string]any{"number": int64(9080), "name": "http"}},
	}}}
	entry.SetNamespace("istio-system")
	entry.SetName("reviews.default.svc.east.global")
	entry.SetLabels(map[string]string{v1alpha1.LabelManagedBy: "isthmus-agent-network"})
	entry.SetAnnotations(map[string]string{v1alpha1.AnnotationDestination: "isthmus-east/reviews.default"})
	if err := w.member.Client.Create(t.Context(), entry); err != nil {
		t.Fatal(err)
	}
	if out, _, _ := w.meshctl(t, "check", "--member-context", "member"); strings.Contains(out, "ISTH7013") {
		t.Errorf("a host is missed that is there")
	}
}
