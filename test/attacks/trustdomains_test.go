package attacks

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// TestReportedTrustDomains: whatever trust domain west reports, when it joins and later, north may call what east federates to it
// and what a policy by cluster allows it, and west may not.
func TestReportedTrustDomains(t *testing.T) {
	f := startClusters(t)
	for name, agent := range map[string]client.Client{"west": f.west, "north": f.north} {
		mesh := meshWithGateway(name)
		mesh.Spec.Istio.TrustDomain = name + ".example"
		must(t, agent.Create(t.Context(), mesh))
	}
	f.join(t, refs("north"), "east", "north")
	d := &domains{fleet: f, policy: &v1alpha1.AccessPolicy{ObjectMeta: metav1.ObjectMeta{Name: "north-alone", Namespace: system}}}
	d.policy.Spec = v1alpha1.AccessPolicySpec{
		SourceSelector:      []v1alpha1.IdentitySelector{{KubeIdentityMatcher: &v1alpha1.KubeIdentityMatcher{Clusters: []string{"north"}}}},
		DestinationSelector: []v1alpha1.DestinationSelector{{KubeServiceMatcher: &v1alpha1.KubeServiceMatcher{Clusters: []string{"east"}}}},
	}
	must(t, f.writer.Create(t.Context(), d.policy))
	d.goOn(t)

	t.Run("west would join as north", func(t *testing.T) {
		honest := f.edit(t, func(m *v1alpha1.Mesh) { m.Spec.Istio.TrustDomain = "north.example" })
		d.goOn(t) // by then the hub has heard it, unless its watches lag by much
		d.list(t, "west", "east", "north")
		d.said(t, "north.example", meshOf("north").Name, "of its own")
		d.accepted(t, "")
		d.goOn(t)
		honest()
		d.accepted(t, "west.example")
		d.applied(t)
	})
	d.admitted = []string{"cluster.local/*", "north.example/*"}
	d.goOn(t)
	said := d.states(t)

	for _, td := range []string{"north.example", "cluster.local", "never-heard-of.example", "*"} {
		t.Run("west reports "+td, func(t *testing.T) {
			honest := f.edit(t, func(m *v1alpha1.Mesh) { m.Spec.Istio.TrustDomain = td })
			d.said(t, fmt.Sprintf("%q", td))
			d.goOn(t)
			for cluster, now := range d.states(t) {
				if cluster != "west" && !reflect.DeepEqual(now, said[cluster]) {
					t.Errorf("of %s the hub says %+v, and said %+v", cluster, now, said[cluster])
				}
			}
			honest()
			d.said(t)
			d.goOn(t)
		})
	}

	t.Run("west is not reported, and comes back as north", func(t *testing.T) {
		mesh := meshWithGateway("west")
		must(t, f.west.Delete(t.Context(), mesh))
		d.said(t, "is gone")
		d.goOn(t)
		mesh = meshWithGateway("west")
		mesh.Spec.Istio.TrustDomain = "north.example"
		must(t, f.west.Create(t.Context(), mesh))
		d.said(t, `reports the trust domain "north.example"`, `accepted with "west.example"`)
		d.goOn(t)
	})

	t.Run("west has really changed it", func(t *testing.T) {
		f.edit(t, func(m *v1alpha1.Mesh) { m.Spec.Istio.TrustDomain = "new.example" })
		d.said(t, `reports the trust domain "new.example"`)
		d.list(t, "east", "north")
		d.accepted(t, "")
		d.list(t, "east", "north", "west")
		d.accepted(t, "new.example")
		d.said(t)
		d.goOn(t)
		d.change(t, d.vm, func() { d.vm.Spec.Federation.Selectors[0].Meshes = refs("west") })
		d.applied(t)
		d.admitted = []string{"cluster.local/*", "new.example/*"}
		d.goOn(t)
	})
}

// domains is a fleet whose members have trust domains of their own.
type domains struct {
	*fleet
	// policy lets north alone call what east has.
	policy *v1alpha1.AccessPolicy
	edits  int32
	// admitted are the principals that what is federated to north alone does not deny; nil if it denies nobody.
	admitted []string
}

// goOn edits the policy, and waits until east has followed: by then it has heard of what west reported before. What it then
// lets in must be what it let in.
func (d *domains) goOn(t *testing.T) {
	t.Helper()
	d.edits++
	d.change(t, d.policy, func() { d.policy.Spec.AllowedPorts = []int32{d.edits} })
	want := v1alpha1.AppliedAccessPolicy{Name: kube.Qualified(d.policy.Name, d.policy.Namespace), Generation: d.policy.Generation}
	testenv.Eventually(t, "the policy to be applied in east", func() error {
		if applied := d.meshOfEast(t).Status.AppliedAccessPolicies; !slices.Contains(applied, want) {
			return fmt.Errorf("applied are %v, want %v", applied, want)
		}
		return nil
	})
	var list securityv1.AuthorizationPolicyList
	must(t, d.local.List(t.Context(), &list, client.InNamespace("shop")))
	var allowed, admitted []string
	for _, p := range list.Items {
		for _, rule := range p.Spec.Rules { // none allows nobody
			switch source := rule.From[0].Source; p.Name {
			case "isthmus-details":
				allowed = source.Principals
			case "isthmus-federation-details":
				admitted = source.NotPrincipals
			default:
				t.Errorf("there is %s", p.Name)
			}
		}
	}
	if !slices.Equal(allowed, []string{"north.example/*"}) || !slices.Equal(admitted, d.admitted) {
		t.Errorf("allowed are %v, denied are all but %v; want all but %v", allowed, admitted, d.admitted)
	}
	details := &v1alpha1.Destination{}
	must(t, d.admin.Get(t.Context(), client.ObjectKey{Namespace: kube.ClusterNamespace("east"), Name: "details.shop"}, details))
	if s := details.Status; len(s.RejectedAccessPolicies) > 0 || !slices.Equal(s.AppliedAccessPolicies, []string{want.Name}) {
		t.Errorf("of the policy it is said: %+v", s)
	}
}

// change edits what users write.
func (d *domains) change(t *testing.T, obj client.Object, edit func()) {
	t.Helper()
	for {
		must(t, d.writer.Get(t.Context(), client.ObjectKeyFromObject(obj), obj))
		edit()
		if err := d.writer.Update(t.Context(), obj); !apierrors.IsConflict(err) {
			must(t, err)
			return
		}
	}
}

// list makes these clusters the members, and waits until east goes by it.
func (d *domains) list(t *testing.T, clusters ...string) {
	t.Helper()
	d.change(t, d.vm, func() { d.vm.Spec.Meshes = refs(clusters...) })
	d.applied(t)
}

// accepted waits until west is a member with a trust domain; with "", it checks that it is none.
func (d *domains) accepted(t *testing.T, trustDomain string) {
	t.Helper()
	testenv.Eventually(t, "west to be accepted with "+trustDomain, func() error {
		must(t, d.admin.Get(t.Context(), client.ObjectKeyFromObject(d.vm), d.vm))
		is := ""
		for _, m := range d.vm.Status.Accepted.TrustDomains {
			if m.Namespace == kube.ClusterNamespace("west") {
				is = m.TrustDomain
			}
		}
		if is != trustDomain {
			return fmt.Errorf("its trust domain is %q", is)
		}
		return nil
	})
}

// said waits until the hub says of west's mesh what has all of the words; with none, until it has nothing to say of what it reports.
func (d *domains) said(t *testing.T, words ...string) {
	t.Helper()
	fits := func(e string) bool {
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(e, w) })
	}
	if len(words) == 0 {
		fits = func(e string) bool {
			return strings.Contains(e, "of the mesh cannot") || strings.Contains(e, "the mesh reports")
		}
	}
	testenv.Eventually(t, fmt.Sprintf("the hub to say %q of west", words), func() error {
		if errs := d.states(t)["west"].Errors; slices.ContainsFunc(errs, fits) != (len(words) > 0) {
			return fmt.Errorf("it says %q", errs)
		}
		return nil
	})
}

// states are what the hub says of each cluster's mesh.
func (d *domains) states(t *testing.T) map[string]v1alpha1.ApprovalStatus {
	t.Helper()
	must(t, d.admin.Get(t.Context(), client.ObjectKeyFromObject(d.vm), d.vm))
	out := map[string]v1alpha1.ApprovalStatus{}
	for _, cluster := range []string{"east", "north", "west"} {
		out[cluster] = d.vm.Status.Meshes[kube.Qualified(meshOf(cluster).Name, kube.ClusterNamespace(cluster))]
	}
	return out
}
