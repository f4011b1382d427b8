package attacks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coordinationv1ac "k8s.io/client-go/applyconfigurations/coordination/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/federation"
	"github.com/isthmus-mesh/isthmus/internal/istio/istiotest"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// notItsOwn tries to write what another cluster says, and what the hub and users say.
func (f *fleet) notItsOwn(t *testing.T) {
	ctx := t.Context()
	north := kube.ClusterNamespace("north")
	d := destinationOf("north", "forged", "shop")
	refused(t, f.west.Create(ctx, d))
	ratings := &v1alpha1.Destination{}
	must(t, f.west.Get(ctx, client.ObjectKey{Namespace: north, Name: "ratings.shop"}, ratings)) // reading is honest
	refused(t, f.west.Delete(ctx, ratings))
	refused(t, f.west.DeleteAllOf(ctx, &v1alpha1.Destination{}, client.InNamespace(north)))
	ratings.Labels, ratings.Spec.Identities = nil, []string{"spiffe://cluster.local/ns/shop/sa/evil"}
	refused(t, f.west.Update(ctx, ratings))
	ratings.Status.AppliedFederation = &v1alpha1.AppliedFederation{}
	refused(t, f.west.Status().Update(ctx, ratings))
	lease := &coordinationv1.Lease{}
	must(t, f.heartbeat(t, f.north, "north", nil))
	must(t, f.west.Get(ctx, client.ObjectKey{Namespace: north, Name: v1alpha1.AgentName}, lease)) // so is this
	lease.Annotations[v1alpha1.AnnotationExports] = `{}`
	refused(t, f.west.Update(ctx, lease))
	refused(t, f.west.Patch(ctx, lease, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":{"isthmus.dev/exports":"{}"}}}`))))
	refused(t, f.west.Delete(ctx, lease))
	lease.Namespace, lease.Name = kube.ClusterNamespace("west"), "of-another"
	refused(t, f.west.Get(ctx, client.ObjectKeyFromObject(lease), lease))
	vm := &v1alpha1.VirtualMesh{}
	must(t, f.west.Get(ctx, client.ObjectKeyFromObject(f.vm), vm))
	vm.Status.Accepted.Spec.Federation.Selectors = nil
	refused(t, f.west.Status().Update(ctx, vm))
	mesh := meshWithGateway("west")
	must(t, f.west.Get(ctx, client.ObjectKeyFromObject(mesh), mesh))
	mesh.Spec.Istio.RootNamespace = "istio-gateways"
	refusedByPolicy(t, f.west.Update(ctx, mesh)) // its name says which it is
	d = destinationOf("west", "long", "shop")
	d.Spec.KubeService.Name = longest + "a"
	if err := f.west.Create(ctx, d); !apierrors.IsInvalid(err) {
		t.Errorf("a name of 64 characters: %v", err)
	}
	f.honest(t, "own")
	f.unharmed(t)
}

// heartbeat renews the Lease of a cluster's agent, which says that its mesh federates destinations of these names.
func (f *fleet) heartbeat(t *testing.T, c client.Client, cluster string, names []string) error {
	t.Helper()
	says, err := json.Marshal(map[string]any{meshOf(cluster).Name: map[string]any{"generation": f.vm.Generation, "digest": federation.DigestOf(names)}})
	must(t, err)
	return f.beat(t, c, cluster, string(says))
}

func (f *fleet) beat(t *testing.T, c client.Client, cluster, says string) error {
	t.Helper()
	lease := coordinationv1ac.Lease(v1alpha1.AgentName, kube.ClusterNamespace(cluster)).
		WithAnnotations(map[string]string{v1alpha1.AnnotationExports: says}).
		WithSpec(coordinationv1ac.LeaseSpec().WithHolderIdentity("x").WithLeaseDurationSeconds(40).WithRenewTime(metav1.NowMicro()))
	return c.Apply(t.Context(), lease, client.FieldOwner("x"), client.ForceOwnership)
}

// labelled are the names of the destinations of a cluster that are marked as federated.
func (f *fleet) labelled(t *testing.T, cluster string) (names []string) {
	t.Helper()
	var list v1alpha1.DestinationList
	must(t, f.admin.List(t.Context(), &list, client.InNamespace(kube.ClusterNamespace(cluster)), client.HasLabels{v1alpha1.LabelFederated}))
	for _, d := range list.Items {
		names = append(names, d.Name)
	}
	return names
}

// evidence: what west says on its Lease takes away nothing that others federate, whatever it names.
func (f *fleet) evidence(t *testing.T) {
	must(t, f.north.Create(t.Context(), destinationOf("north", "lost", "shop")))
	lost := f.imported(t, "north", "lost", "shop")
	defer func() { f.before = f.others(t) }()
	f.before = f.others(t)
	// The hub loses a destination of north, as when it is restored. North's agent is away.
	must(t, f.admin.Delete(t.Context(), destinationOf("north", "lost", "shop")))
	must(t, f.admin.DeleteAllOf(t.Context(), &coordinationv1.Lease{}, client.InNamespace(kube.ClusterNamespace("north"))))
	says := map[string]any{}
	for _, name := range []string{"ratings.shop", "reviews.shop"} {
		says[meshOf("north").Name] = map[string]any{"generation": 1 << 60, "digest": federation.DigestOf([]string{name})}
	}
	for _, mesh := range []string{meshOf("north").Name, kube.Qualified(meshOf("north").Name, "isthmus-north"), "isthmus-north/" + meshOf("north").Name, meshOf("west").Name} {
		says[mesh] = map[string]any{"generation": 1 << 60, "digest": federation.DigestOf(f.labelled(t, "north"))}
	}
	text, err := json.Marshal(says)
	must(t, err)
	must(t, f.beat(t, f.west, "west", string(text)))

	// What west says of itself counts, for its own.
	must(t, f.west.Create(t.Context(), destinationOf("west", "going", "shop")))
	going := f.imported(t, "west", "going", "shop")
	f.mine[going] = true
	must(t, f.west.Delete(t.Context(), destinationOf("west", "going", "shop")))
	f.honest(t, "staying")
	must(t, f.heartbeat(t, f.west, "west", f.labelled(t, "west")))
	f.gone(t, going)
	f.unharmed(t)
	for _, says := range []string{"", "{", "[]", `{"` + meshOf("west").Name + `":{"generation":"x"}}`, strings.Repeat("{", 100_000)} {
		must(t, f.beat(t, f.west, "west", says))
	}
	f.honest(t, "staying-2")
	f.unharmed(t)

	// What north says counts for north's.
	must(t, f.heartbeat(t, f.north, "north", f.labelled(t, "north")))
	f.gone(t, lost)
}

func (f *fleet) gone(t *testing.T, host string) {
	t.Helper()
	testenv.Eventually(t, host+" to go", func() error {
		if _, _, err := f.objectsOf(t, host); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", errors.Join(err))
		}
		return nil
	})
}

// whatTheHubSays: west claims in statuses what it likes. The hub believes it of west's own.
func (f *fleet) whatTheHubSays(t *testing.T) {
	ctx := t.Context()
	policy := &v1alpha1.AccessPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: system}}
	policy.Spec.DestinationSelector = []v1alpha1.DestinationSelector{{KubeServiceMatcher: &v1alpha1.KubeServiceMatcher{Clusters: []string{"north", "west"}}}}
	must(t, f.writer.Create(ctx, policy))
	refused(t, f.west.Create(ctx, policy.DeepCopy()))
	name := kube.Qualified(policy.Name, policy.Namespace)
	vm := kube.Qualified(f.vm.Name, f.vm.Namespace)

	stolen := policy.DeepCopy()
	refused(t, f.west.Status().Update(ctx, stolen))
	refused(t, f.west.Delete(ctx, stolen))

	// North is honest.
	must(t, f.heartbeat(t, f.north, "north", f.labelled(t, "north")))
	ratings := destinationOf("north", "ratings", "shop")
	must(t, f.north.Get(ctx, client.ObjectKeyFromObject(ratings), ratings))
	ratings.Status.AppliedFederation = &v1alpha1.AppliedFederation{FederatedHostname: hostname("north", "ratings", "shop"), FederatedToMeshes: []string{"*"}, VirtualMesh: vm}
	ratings.Status.AppliedAccessPolicies = []string{name}
	must(t, f.north.Status().Update(ctx, ratings))
	north := meshWithGateway("north")
	must(t, f.north.Get(ctx, client.ObjectKeyFromObject(north), north))
	north.Status.AppliedVirtualMeshes = []v1alpha1.AppliedVirtualMesh{{Name: vm, Generation: f.vm.Generation}}
	must(t, f.north.Status().Update(ctx, north))
	orders := func() string {
		var list v1alpha1.IssuedCertificateList
		must(t, f.admin.List(ctx, &list))
		return fmt.Sprint(list.Items)
	}
	before := orders()

	// West is not: it rejects the policy under names that others' could be taken for, says more than fits, and claims what is
	// others' to say.
	long := strings.Repeat("\x1b[2J", 2000)
	inParallel(t, 300, func(i int) error {
		d := destinationOf("west", fmt.Sprintf("a%03d", i), "shop")
		if i == 0 {
			d = destinationOf("west", "ratings", "shop.isthmus-north")
		}
		delete(d.Labels, v1alpha1.LabelFederated) // it does not matter to east
		d.Status = v1alpha1.DestinationStatus{
			AppliedFederation:      &v1alpha1.AppliedFederation{FederatedHostname: hostname("north", "ratings", "shop"), FederatedToMeshes: []string{meshOf("north").Name + ".isthmus-north"}, VirtualMesh: vm},
			AppliedAccessPolicies:  []string{"another." + system},
			RejectedAccessPolicies: []v1alpha1.RejectedAccessPolicy{{Name: name, Errors: []string{"ratings.shop.isthmus-north: " + long}}},
			Errors:                 []string{"ratings.shop.isthmus-north: " + long},
		}
		return f.writes(ctx, d)
	})
	mesh := meshWithGateway("west")
	must(t, f.west.Get(ctx, client.ObjectKeyFromObject(mesh), mesh))
	mesh.Status = v1alpha1.MeshStatus{
		ConditionedStatus: v1alpha1.ConditionedStatus{Conditions: []metav1.Condition{{
			Type: v1alpha1.ConditionGatewayExclusive, Status: metav1.ConditionFalse, Reason: "ForeignPassThrough", Message: "mesh " + meshOf("north").Name + ": " + long, LastTransitionTime: metav1.Now(),
		}}},
		CertificateAuthority: &v1alpha1.MeshCertificateAuthority{
			Source: v1alpha1.CASourceIsthmus, VirtualMesh: vm, Signer: "sha256:north", Roots: []string{"sha256:evil", "sha256:north"}, InUse: []string{"sha256:evil"},
		},
		AppliedVirtualMeshes: []v1alpha1.AppliedVirtualMesh{{Name: "another." + system, Generation: 1}, {Name: vm, Generation: 1 << 60}},
		Errors:               slices.Repeat([]string{"mesh " + meshOf("north").Name + " is broken: " + long}, 50),
	}
	must(t, f.west.Status().Update(ctx, mesh))

	must(t, f.heartbeat(t, f.north, "north", f.labelled(t, "north"))) // of one that is not connected the hub says so
	ofNorth := kube.Qualified(north.Name, north.Namespace)
	testenv.Eventually(t, "the hub to have summed it up", func() error {
		must(t, f.admin.Get(ctx, client.ObjectKeyFromObject(policy), policy))
		must(t, f.admin.Get(ctx, client.ObjectKeyFromObject(f.vm), f.vm))
		if policy.Status.Destinations["a001.shop.isthmus-west"].State != v1alpha1.StateInvalid || len(f.vm.Status.Destinations["a001.shop.isthmus-west"].Errors) == 0 ||
			!meta.IsStatusConditionFalse(f.vm.Status.Conditions, v1alpha1.ConditionGatewayExclusive) ||
			strings.Contains(fmt.Sprint(f.vm.Status.Meshes[ofNorth].Errors), "not connected") {
			return fmt.Errorf("statuses: %.2000s and %.2000s", fmt.Sprint(policy.Status), fmt.Sprint(f.vm.Status))
		}
		return nil
	})
	for what, destinations := range map[string]map[string]v1alpha1.ApprovalStatus{"policy": policy.Status.Destinations, "VirtualMesh": f.vm.Status.Destinations} {
		if s, ok := destinations["ratings.shop.isthmus-north"]; what == "policy" && !ok || s.State == v1alpha1.StateInvalid || len(s.Errors) > 0 {
			t.Errorf("%s: of north's destination the hub says %+v, %v", what, s, ok)
		}
		for name, s := range destinations {
			if (s.State == v1alpha1.StateInvalid || len(s.Errors) > 0) && !strings.HasSuffix(name, ".isthmus-west") {
				t.Errorf("%s: of %s the hub says %.300s", what, name, fmt.Sprint(s))
			}
		}
	}
	for name, s := range f.vm.Status.Meshes {
		ofOthers := func(e string) bool { return !strings.Contains(e, "of cluster west: ") } // which east reports
		if slices.ContainsFunc(s.Errors, ofOthers) && !strings.HasSuffix(name, ".isthmus-west") {
			t.Errorf("of mesh %s the hub says %.300s", name, fmt.Sprint(s))
		}
	}
	if s := f.vm.Status.Meshes[ofNorth]; s.State != v1alpha1.StateAccepted {
		t.Errorf("of north's mesh the hub says %.300s", fmt.Sprint(s))
	}
	if c := meta.FindStatusCondition(f.vm.Status.Conditions, v1alpha1.ConditionGatewayExclusive); c == nil || !strings.HasPrefix(c.Message, "mesh "+kube.Qualified(mesh.Name, mesh.Namespace)+": ") {
		t.Errorf("condition %.300s", fmt.Sprint(c))
	}
	for what, o := range map[string]any{"policy": policy, "VirtualMesh": f.vm} {
		if text, err := json.Marshal(o); err != nil || len(text) > 700_000 {
			t.Errorf("%s has %d bytes, %v", what, len(text), err)
		}
	}
	if after := orders(); after != before {
		t.Errorf("by what west says of its certificate authority the orders have become %.2000s", after)
	}
	f.honest(t, "after-all")
	f.unharmed(t)
	must(t, f.west.Get(ctx, client.ObjectKeyFromObject(mesh), mesh))
	mesh.Status = v1alpha1.MeshStatus{} // so much text makes all that follows slow
	must(t, f.west.Status().Update(ctx, mesh))
}

// many: there are more of them than one cluster is given room for. East takes as many, says so, and has room for others.
func (f *fleet) many(t *testing.T) {
	const many = 500
	name := func(i int) string { return fmt.Sprintf("many-%d", i) }
	for i := range many {
		f.mine[hostname("west", name(i), "shop")] = true
	}
	inParallel(t, many, func(i int) error { return f.west.Create(t.Context(), destinationOf("west", name(i), "shop")) })
	f.says(t, "of cluster west", fmt.Sprintf("more than %d destinations", maxImports))
	full := func() {
		t.Helper()
		n := 0
		testenv.Eventually(t, "as many as there is room for", func() error {
			if n = f.importedOf(t, "west"); n < maxImports {
				return fmt.Errorf("%d are imported", n)
			}
			return nil
		})
		if n > maxImports {
			t.Errorf("%d are imported", n)
		}
	}
	full()
	f.unharmed(t)

	// Of the addresses there are left more than north needs.
	for i := range 20 {
		must(t, f.north.Create(t.Context(), destinationOf("north", name(i), "shop")))
	}
	for i := range 20 {
		f.imported(t, "north", name(i), "shop")
	}
	f.before = f.others(t)

	// Room that is given up is given to those that wait for it.
	var entries networkingv1.ServiceEntryList
	must(t, f.local.List(t.Context(), &entries, client.MatchingLabels{v1alpha1.LabelCluster: "west"}))
	going := map[string]bool{}
	for _, e := range entries.Items[:5] {
		host := e.Spec.Hosts[0]
		service, _, _ := strings.Cut(host, ".")
		must(t, f.west.Delete(t.Context(), destinationOf("west", service, strings.Split(host, ".")[1])))
		going[host] = true
	}
	must(t, f.heartbeat(t, f.west, "west", f.labelled(t, "west")))
	for host := range going {
		f.gone(t, host)
	}
	full() // by others in their place
	f.unharmed(t)
}

// inParallel does something many times.
func inParallel(t *testing.T, times int, f func(int) error) {
	t.Helper()
	var all sync.WaitGroup
	errs := make([]error, times)
	for worker := range 8 {
		all.Go(func() {
			for i := worker; i < times; i += 8 {
				errs[i] = f(i)
			}
		})
	}
	all.Wait()
	must(t, errors.Join(errs...))
}

// importedOf counts what east imports of a cluster.
func (f *fleet) importedOf(t *testing.T, cluster string) int {
	t.Helper()
	var entries networkingv1.ServiceEntryList
	must(t, f.local.List(t.Context(), &entries, client.MatchingLabels{v1alpha1.LabelCluster: cluster}))
	return len(entries.Items)
}

// withoutEnd: west changes its mesh and its destinations as fast as it can. What north federates comes to east, and what east
// federates leaves it, meanwhile.
func (f *fleet) withoutEnd(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	var changing sync.WaitGroup
	change := func(o client.Object, patch func(i int) string) (changes *atomic.Int64) {
		changes = &atomic.Int64{}
		changing.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if err := f.west.Patch(ctx, o, client.RawPatch(types.MergePatchType, []byte(patch(i)))); err == nil {
					changes.Add(1)
				}
			}
		})
		return changes
	}
	defer changing.Wait()
	defer stop()
	changes := change(meshWithGateway("west"), func(i int) string { return fmt.Sprintf(`{"spec":{"istio":{"trustDomain":"t%d.local"}}}`, i) })
	for i := range 3 {
		name := fmt.Sprintf("restless-%d", i)
		f.mine[hostname("west", name, "shop")] = true
		must(t, f.west.Create(ctx, destinationOf("west", name, "shop")))
		change(destinationOf("west", name, "shop"), func(i int) string {
			return fmt.Sprintf(`{"spec":{"kubeService":{"ports":[{"name":"http","port":%d}]}}}`, 1+i%65535)
		})
	}
	testenv.Eventually(t, "more changes than are followed", func() error {
		if n := changes.Load(); n < 70 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})

	for i := range 5 {
		name := fmt.Sprintf("newcomer-%d", i)
		d := destinationOf("north", name, "shop")
		d.Status.AppliedFederation = &v1alpha1.AppliedFederation{Endpoints: []v1alpha1.FederatedEndpoint{{Address: "10.3.0.2", Ports: map[string]int32{"http": 8080}}}}
		status := d.Status
		must(t, f.north.Create(ctx, d))
		d.Status = status
		must(t, f.north.Status().Update(ctx, d))
		f.imported(t, "north", name, "shop")
	}
	service := istiotest.Service("shop", "newcomer", map[string]string{"app": "newcomer"})
	service.Labels = map[string]string{selected: "yes"}
	must(t, f.local.Create(ctx, service))
	must(t, f.local.Create(ctx, istiotest.Deployment("shop", "newcomer", service.Spec.Selector, "newcomer")))
	testenv.Eventually(t, "what east federates", func() error {
		d := &v1alpha1.Destination{}
		err := f.admin.Get(ctx, client.ObjectKey{Namespace: kube.ClusterNamespace("east"), Name: "newcomer.shop"}, d)
		if err == nil && d.Labels[v1alpha1.LabelFederated] == "" {
			err = fmt.Errorf("status %+v", d.Status)
		}
		return err
	})
	policy := &v1alpha1.AccessPolicy{ObjectMeta: metav1.ObjectMeta{Name: "meanwhile", Namespace: system}}
	policy.Spec.DestinationSelector = []v1alpha1.DestinationSelector{{KubeServiceMatcher: &v1alpha1.KubeServiceMatcher{Clusters: []string{"east"}}}}
	must(t, f.writer.Create(ctx, policy))
	testenv.Eventually(t, "a policy in east", func() error {
		applied := f.meshOfEast(t).Status.AppliedAccessPolicies
		if !slices.ContainsFunc(applied, func(a v1alpha1.AppliedAccessPolicy) bool { return a.Name == "meanwhile."+system }) {
			return fmt.Errorf("applied: %v", applied)
		}
		return nil
	})
	if ctx.Err() != nil {
		t.Error("west has ended before")
	}
}
