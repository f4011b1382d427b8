package meshctl

import (
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

func TestCallersAndOperations(t *testing.T) {
	for _, c := range []struct {
		spec v1alpha1.AccessPolicySpec
		want string
	}{
		{v1alpha1.AccessPolicySpec{}, "allows anyone, also without an identity: any request"},
		{v1alpha1.AccessPolicySpec{
			SourceSelector: []v1alpha1.IdentitySelector{
				{KubeServiceAccountRefs: &v1alpha1.KubeServiceAccountRefs{ServiceAccounts: []v1alpha1.ClusterObjectRef{
					{Name: "productpage", Namespace: "default", ClusterName: "east"}, {Name: "sleep", Namespace: "test"},
				}}},
				{KubeIdentityMatcher: &v1alpha1.KubeIdentityMatcher{Namespaces: []string{"a", "b"}, Clusters: []string{"east"}}},
			},
			AllowedMethods: []string{"GET", "HEAD"}, AllowedPaths: []string{"/reviews*"}, AllowedPorts: []int32{9080, 9090},
		}, "allows service account default/productpage of cluster east or test/sleep; or any workload with an identity of namespace a or b of cluster east: " +
			"GET or HEAD of /reviews* at port 9080 or 9090 of the pods"},
		{v1alpha1.AccessPolicySpec{
			SourceSelector: []v1alpha1.IdentitySelector{{KubeIdentityMatcher: &v1alpha1.KubeIdentityMatcher{}}},
			AllowedPaths:   []string{"/a", "/b"},
		}, "allows any workload with an identity: any request of /a or /b"},
		{v1alpha1.AccessPolicySpec{
			SourceSelector: []v1alpha1.IdentitySelector{
				{KubeIdentityMatcher: &v1alpha1.KubeIdentityMatcher{Namespaces: []string{"a"}}, RequestIdentityMatcher: &v1alpha1.RequestIdentityMatcher{
					RequestPrincipals: []string{"issuer/alice"}, NotRequestPrincipals: []string{"issuer/bob"},
				}},
				{RequestIdentityMatcher: &v1alpha1.RequestIdentityMatcher{}},
			},
		}, "allows any workload with an identity of namespace a, with a token of issuer/alice, with no token of issuer/bob; or with any valid token: any request"},
	} {
		if got := rule(&c.spec); got != c.want {
			t.Errorf("got:  %s\nwant: %s", got, c.want)
		}
	}
}

func TestServicesAndFederation(t *testing.T) {
	reviews := v1alpha1.DestinationSelector{KubeServiceRefs: &v1alpha1.KubeServiceRefs{Services: []v1alpha1.ClusterObjectRef{{Name: "reviews", Namespace: "default"}}}}
	labelled := v1alpha1.DestinationSelector{KubeServiceMatcher: &v1alpha1.KubeServiceMatcher{
		Labels: map[string]string{"b": "2", "a": "1"}, Namespaces: []string{"default"}, Clusters: []string{"east", "west"},
	}}
	for _, c := range []struct {
		f    *v1alpha1.Federation
		want []string
	}{
		{nil, nil},
		{&v1alpha1.Federation{}, nil},
		{&v1alpha1.Federation{Permissive: &v1alpha1.Empty{}}, []string{"every service to every other member (permissive, which is deprecated)"}},
		{&v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{{}}, Permissive: &v1alpha1.Empty{}}, []string{"every service to every other member"}},
		{&v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{
			{DestinationSelectors: []v1alpha1.DestinationSelector{reviews, labelled}, Meshes: []v1alpha1.ObjectRef{{Name: "istiod-a"}, {Name: "istiod-b"}}},
			{DestinationSelectors: []v1alpha1.DestinationSelector{{}}},
		}}, []string{
			"service default/reviews; or every service labelled a=1,b=2 of namespace default of cluster east or west to mesh istiod-a, istiod-b",
			"every service to every other member",
		}},
	} {
		if got := federates(c.f); !slices.Equal(got, c.want) {
			t.Errorf("got:  %q\nwant: %q", got, c.want)
		}
	}
	for want, f := range map[string]*v1alpha1.Federation{
		"none: the network is flat, pods are reached directly":            {FlatNetwork: true},
		"those labelled istio=eastwestgateway, else istio=ingressgateway": {},
		"service default/reviews, port https": {IngressGatewaySelectors: []v1alpha1.IngressGatewaySelector{
			{DestinationSelectors: []v1alpha1.DestinationSelector{reviews}, PortName: "https"},
		}},
		"every service, port tls": {IngressGatewaySelectors: []v1alpha1.IngressGatewaySelector{{}}},
	} {
		if got := entrances(f); got != want {
			t.Errorf("got: %s\nwant: %s", got, want)
		}
	}
	probes := int32(3)
	k := &v1alpha1.TCPKeepalive{Probes: &probes, Time: &metav1.Duration{Duration: time.Minute}, Interval: &metav1.Duration{Duration: 5 * time.Second}}
	if got := keepalive(k); got != "after 1m0s, every 5s, 3 probes" || keepalive(nil) != "" {
		t.Errorf("keepalive: %q", got)
	}
}

// TestOthers: what holds for callers that no policy allows.
func TestOthers(t *testing.T) {
	vm := func(p v1alpha1.GlobalAccessPolicy) *membership.VirtualMesh {
		return &membership.VirtualMesh{Name: "vm.isthmus-system", Spec: &v1alpha1.VirtualMeshSpec{GlobalAccessPolicy: p}}
	}
	plain := v1alpha1.DestinationStatus{}
	applied := v1alpha1.DestinationStatus{AppliedAccessPolicies: []string{"p"}}
	rejected := v1alpha1.DestinationStatus{RejectedAccessPolicies: []v1alpha1.RejectedAccessPolicy{{Name: "p"}}}
	for _, c := range []struct {
		vm     *membership.VirtualMesh
		status v1alpha1.DestinationStatus
		want   string
	}{
		{nil, plain, "as the mesh's own policies say: it is in no virtual mesh"},
		{nil, applied, "denied, because access policies select the service"},
		{vm(v1alpha1.GlobalAccessPolicyDisabled), rejected, "denied, because access policies select the service"},
		{vm(v1alpha1.GlobalAccessPolicyEnabled), plain, "denied, because globalAccessPolicy of VirtualMesh vm.isthmus-system is ENABLED"},
		{vm(""), plain, "allowed, because no access policy selects the service, and globalAccessPolicy of VirtualMesh vm.isthmus-system is not ENABLED"},
	} {
		d := &v1alpha1.Destination{Status: c.status}
		if got, want := others(c.vm, d), "as the policies of its pods say: a Service without selector has none of its own"; got != want {
			t.Errorf("without a selector, got: %s\nwant: %s", got, want)
		}
		d.Spec.KubeService.Selector = map[string]string{"app": "reviews"}
		if got := others(c.vm, d); got != c.want {
			t.Errorf("got: %s\nwant: %s", got, c.want)
		}
	}
}

// TestPrintable: what a member wrote cannot do more to a terminal than be read.
func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"reviews.default is fine, ö und 好": "reviews.default is fine, ö und 好",
		"\x1b[2J\x1b]0;title\a":            "\ufffd[2J\ufffd]0;title\ufffd",
		"two\r\nlines\tand a tab":          "two  lines and a tab",
		"left \u202eto right\u200b\u2066":  "left \ufffdto right\ufffd\ufffd",
		"not UTF-8: \xff":                  "not UTF-8: \ufffd",
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	w := newDescription()
	w.field("Cluster", "a\x1b[31m")
	w.row("b\nc", "d")
	var out strings.Builder
	if err := w.print(&out); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "\x1b") || strings.Count(out.String(), "\n") != 2 {
		t.Errorf("%q", out.String())
	}
}

// TestByHand: the command lines for a member that is not at hand.
func TestByHand(t *testing.T) {
	const label = " -A -l 'isthmus.dev/managed-by in (isthmus-agent-network,isthmus-agent-evidence)'"
	want := "kubectl delete authorizationpolicy.security.istio.io" + label + " --field-selector metadata.name=isthmus-global-access; " +
		"kubectl delete gateway.networking.istio.io" + label + "; " +
		"kubectl delete virtualservice.networking.istio.io" + label + "; " +
		"kubectl delete serviceentry.networking.istio.io" + label + "; " +
		"kubectl delete destinationrule.networking.istio.io" + label + "; " +
		"kubectl delete peerauthentication.security.istio.io" + label + "; " +
		"kubectl delete authorizationpolicy.security.istio.io" + label
	if got := byHand(); got != want {
		t.Errorf("got:  %s\nwant: %s", got, want)
	}
}
