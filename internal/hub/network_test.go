package hub_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/hub/summary"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// federated is a VirtualMesh without trust of its own that federates everything to the meshes of clusters, or to all.
func federated(name string, members []string, to ...string) *v1alpha1.VirtualMesh {
	vm := virtualMesh(name, members...)
	vm.Spec.MTLSConfig = nil
	s := v1alpha1.FederationSelector{}
	for _, c := range to {
		s.Meshes = append(s.Meshes, v1alpha1.ObjectRef{Name: meshName(c)})
	}
	vm.Spec.Federation = &v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{s}}
	return vm
}

// applies has the agent of a cluster report what it has applied, as the agent's network part does.
func (w *world) applies(cluster string, change func(*v1alpha1.MeshStatus)) {
	w.Helper()
	updateStatus(w, &v1alpha1.Mesh{}, "isthmus-"+cluster, meshName(cluster), func(m *v1alpha1.Mesh) { change(&m.Status) })
}

func appliedVM(name string, generation int64) func(*v1alpha1.MeshStatus) {
	return func(s *v1alpha1.MeshStatus) {
		s.AppliedVirtualMeshes = []v1alpha1.AppliedVirtualMesh{{Name: name + "." + system, Generation: generation}}
	}
}

// reports has the agent of a cluster report a Destination.
func (w *world) reports(cluster, service string, status v1alpha1.DestinationStatus) {
	w.Helper()
	d := &v1alpha1.Destination{ObjectMeta: metav1.ObjectMeta{Name: service + ".default", Namespace: "isthmus-" + cluster}}
	d.Spec = v1alpha1.DestinationSpec{Cluster: cluster, Mesh: meshName(cluster), KubeService: v1alpha1.KubeService{Name: service, Namespace: "default"}}
	if err := client.IgnoreAlreadyExists(w.Create(context.Background(), d)); err != nil {
		w.Fatal(err)
	}
	updateStatus(w, &v1alpha1.Destination{}, d.Namespace, d.Name, func(d *v1alpha1.Destination) { d.Status = status })
}

func TestFederationIsSummedUp(t *testing.T) {
	w := start(t)
	for _, c := range []string{"east", "west", "north"} {
		w.register(c)
	}
	vm := federated("one", []string{"east", "west", "north"}, "west", "nowhere")
	w.create(vm)
	state := func(vm *v1alpha1.VirtualMesh, cluster string) v1alpha1.State {
		return vm.Status.Meshes[meshName(cluster)+".isthmus-"+cluster].State
	}

	w.run("an entry that is no member is told, and the rest works", func(t *testing.T) {
		w.sees("one", "acceptance", func(vm *v1alpha1.VirtualMesh) error {
			if vm.Status.Accepted == nil {
				return errors.New("not accepted")
			}
			s := vm.Status.Accepted.Spec.Federation.Selectors
			return errors.Join(is(vm.Status.Conditions, v1alpha1.ConditionStalled, metav1.ConditionTrue, accept.ReasonMeshNotMember),
				want(vm.Status.State, v1alpha1.StateInvalid), want(strings.Contains(fmt.Sprint(vm.Status.Errors), "spec.federation.selectors[0].meshes[1]"), true),
				want(len(s) == 1 && len(s[0].Meshes) == 1 && s[0].Meshes[0] == v1alpha1.ObjectRef{Name: meshName("west"), Namespace: "isthmus-west"}, true))
		})
		update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) {
			vm.Spec.Federation.Selectors[0].Meshes = vm.Spec.Federation.Selectors[0].Meshes[:1]
		})
	})
	w.run("pending until all have applied it", func(t *testing.T) {
		w.sees("one", "waiting", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(is(vm.Status.Conditions, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonProgressing),
				want(vm.Status.State, v1alpha1.StatePending), want(state(vm, "east"), v1alpha1.StatePending))
		})
		w.get(vm, system, "one")
		w.applies("east", appliedVM("one", vm.Generation))
		w.applies("north", appliedVM("one", vm.Generation))
		w.sees("one", "waiting for the last", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(want(vm.Status.State, v1alpha1.StatePending), want(state(vm, "east"), v1alpha1.StateAccepted), want(state(vm, "west"), v1alpha1.StatePending))
		})
		w.applies("west", appliedVM("one", vm.Generation))
		w.sees("one", "acceptance", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(isTrue(vm.Status.Conditions, v1alpha1.ConditionReady), want(vm.Status.State, v1alpha1.StateAccepted))
		})
	})
	w.run("what cannot be kept out is told", func(t *testing.T) {
		w.sees("one", "ClientMeshEnforced", func(vm *v1alpha1.VirtualMesh) error {
			return is(vm.Status.Conditions, v1alpha1.ConditionClientMeshEnforced, metav1.ConditionFalse, summary.ReasonClientMeshNotEnforceable)
		})
		w.applies("east", func(s *v1alpha1.MeshStatus) {
			s.Errors = []string{"reviews.default of cluster west: refused"}
			s.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionGatewayExclusive, Status: metav1.ConditionFalse, Reason: "ForeignPassThrough",
				Message: "Gateway istio-system/any lets pass *.local", LastTransitionTime: metav1.Now()}}
		})
		w.sees("one", "GatewayExclusive", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(is(vm.Status.Conditions, v1alpha1.ConditionGatewayExclusive, metav1.ConditionFalse, "ForeignPassThrough"),
				want(strings.Contains(fmt.Sprint(vm.Status.Conditions), "mesh "+meshName("east")+".isthmus-east: Gateway istio-system/any"), true),
				want(fmt.Sprint(vm.Status.Meshes[meshName("east")+".isthmus-east"].Errors), "[reviews.default of cluster west: refused]"),
				isTrue(vm.Status.Conditions, v1alpha1.ConditionReady))
		})
		w.applies("east", func(s *v1alpha1.MeshStatus) { s.Errors, s.Conditions = nil, nil })
		w.sees("one", "nothing any more", func(vm *v1alpha1.VirtualMesh) error {
			return want(strings.Contains(fmt.Sprint(vm.Status.Conditions), v1alpha1.ConditionGatewayExclusive), false)
		})
	})
	w.run("destinations are summed up, and seldom", func(t *testing.T) {
		w.beat()
		before := w.versions()
		federation := &v1alpha1.AppliedFederation{FederatedHostname: "x", VirtualMesh: "one." + system}
		for i := range 40 {
			w.reports("east", fmt.Sprintf("s%d", i), v1alpha1.DestinationStatus{AppliedFederation: federation})
		}
		w.reports("west", "headless", v1alpha1.DestinationStatus{Errors: []string{"the Service is headless"}})
		w.reports("west", "elsewhere", v1alpha1.DestinationStatus{AppliedFederation: &v1alpha1.AppliedFederation{VirtualMesh: "two." + system}})
		w.sees("one", "destinations", func(vm *v1alpha1.VirtualMesh) error {
			d := vm.Status.Destinations
			return errors.Join(want(len(d), 41), want(fmt.Sprint(vm.Status.DestinationCounts), "map[ACCEPTED:40 INVALID:1]"),
				want(fmt.Sprint(d["headless.default.isthmus-west"].Errors), "[the Service is headless]"), want(d["s7.default.isthmus-east"].State, v1alpha1.StateAccepted))
		})
		w.get(vm, system, "one")
		for name, version := range w.versions() {
			if was, ok := before[name]; ok && was != version && name != "*v1alpha1.VirtualMesh isthmus-system/one" {
				t.Errorf("%s was written", name)
			}
		}
		w.remove(&v1alpha1.Destination{ObjectMeta: metav1.ObjectMeta{Name: "headless.default", Namespace: "isthmus-west"}})
		w.sees("one", "one less", func(vm *v1alpha1.VirtualMesh) error {
			return want(fmt.Sprint(vm.Status.DestinationCounts), "map[ACCEPTED:40]")
		})
	})
	w.run("a cluster that is deregistered is let go of first, also when all is suspended", func(t *testing.T) {
		update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) { vm.Spec.Suspend = true })
		w.sees("one", "suspension", func(vm *v1alpha1.VirtualMesh) error { return want(vm.Status.Accepted.Spec.Suspend, true) })
		w.remove(&v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Name: "north", Namespace: system}})
		vm := &v1alpha1.VirtualMesh{}
		w.get(vm, system, "one")
		if got := fmt.Sprint(vm.Status.Accepted.Spec.Meshes); strings.Contains(got, "north") || !strings.Contains(got, "east") {
			t.Errorf("the cluster is gone, and members are %s", got)
		}
		update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) { vm.Spec.Suspend = false })
		w.sees("one", "resumption", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(want(vm.Status.Accepted.Spec.Suspend, false), want(len(vm.Status.Accepted.Spec.Meshes), 2),
				want(state(vm, "north") == "" && vm.Status.Meshes[meshName("north")+"."+system].State == v1alpha1.StateInvalid, true))
		})
	})
	w.run("deleted, it stays until what was applied is taken back", func(t *testing.T) {
		vm := &v1alpha1.VirtualMesh{}
		w.get(vm, system, "one")
		if err := w.Delete(context.Background(), vm); err != nil {
			t.Fatal(err)
		}
		waitsFor := func(clusters ...string) func(vm *v1alpha1.VirtualMesh) error {
			return func(vm *v1alpha1.VirtualMesh) error {
				err := is(vm.Status.Conditions, v1alpha1.ConditionReady, metav1.ConditionFalse, summary.ReasonDeleting)
				ready := meta.FindStatusCondition(vm.Status.Conditions, v1alpha1.ConditionReady)
				for _, c := range []string{"east", "west", "north"} {
					said := ready != nil && strings.Contains(ready.Message, "isthmus-"+c)
					err = errors.Join(err, want(said, strings.Contains(fmt.Sprint(clusters), c)))
				}
				return errors.Join(err, want(vm.Status.Accepted != nil, true))
			}
		}
		w.sees("one", "what it waits for", waitsFor("east", "west"))
		w.applies("east", func(s *v1alpha1.MeshStatus) { s.AppliedVirtualMeshes = nil })
		w.sees("one", "what it waits for", waitsFor("west"))
		w.quiet()
		w.get(vm, system, "one") // it is still there
		// The other cluster is gone for good.
		w.remove(&v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Name: "west", Namespace: system}})
		testenv.Eventually(t, "deletion", func() error {
			return want(apierrors.IsNotFound(w.Get(context.Background(), client.ObjectKeyFromObject(vm), vm)), true)
		})
	})
}

func TestAccessPolicyIsSummedUp(t *testing.T) {
	w := start(t)
	w.register("east")
	w.register("west")
	policy := &v1alpha1.AccessPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p.q", Namespace: system}}
	policy.Spec.AllowedMethods = []string{"GET"}
	w.create(policy)
	sees := func(what string, is func(*v1alpha1.AccessPolicy) error) {
		w.Helper()
		testenv.Eventually(w, what, func() error {
			p := &v1alpha1.AccessPolicy{}
			w.get(p, system, "p.q")
			if err := is(p); err != nil {
				return fmt.Errorf("%w; status %+v", err, p.Status)
			}
			return nil
		})
	}
	stands := func(state v1alpha1.State, ready metav1.ConditionStatus, reason string) func(*v1alpha1.AccessPolicy) error {
		return func(p *v1alpha1.AccessPolicy) error {
			return errors.Join(want(p.Status.State, state), is(p.Status.Conditions, v1alpha1.ConditionReady, ready, reason), want(p.Status.ObservedGeneration, p.Generation))
		}
	}
	const pending, accepted, invalid = v1alpha1.StatePending, v1alpha1.StateAccepted, v1alpha1.StateInvalid
	applies := func(generation int64) func(*v1alpha1.MeshStatus) {
		return func(s *v1alpha1.MeshStatus) {
			s.AppliedAccessPolicies = []v1alpha1.AppliedAccessPolicy{{Name: "p.q." + system, Generation: generation}}
		}
	}

	sees("acceptance without members", stands(accepted, metav1.ConditionTrue, v1alpha1.ReasonReady))
	vm := federated("one", []string{"east", "west"})
	w.create(vm)
	sees("members", stands(pending, metav1.ConditionFalse, v1alpha1.ReasonProgressing))
	w.applies("east", applies(1))
	w.applies("west", applies(1))
	sees("application", stands(accepted, metav1.ConditionTrue, v1alpha1.ReasonReady))

	w.run("an edit is pending until it is applied", func(t *testing.T) {
		update(w, policy, system, policy.Name, func(p *v1alpha1.AccessPolicy) { p.Spec.AllowedMethods = []string{"GET", "POST"} })
		sees("edit", stands(pending, metav1.ConditionFalse, v1alpha1.ReasonProgressing))
		w.applies("east", applies(2))
		w.applies("west", applies(2))
		sees("application", stands(accepted, metav1.ConditionTrue, v1alpha1.ReasonReady))
	})
	w.run("destinations say how they received it", func(t *testing.T) {
		w.reports("east", "reviews", v1alpha1.DestinationStatus{AppliedAccessPolicies: []string{"other." + system, "p.q." + system}})
		w.reports("west", "reviews", v1alpha1.DestinationStatus{RejectedAccessPolicies: []v1alpha1.RejectedAccessPolicy{{Name: "p.q." + system, Errors: []string{"not tellable"}}}})
		sees("rejection", func(p *v1alpha1.AccessPolicy) error {
			here, there := p.Status.Destinations["reviews.default.isthmus-east"], p.Status.Destinations["reviews.default.isthmus-west"]
			return errors.Join(stands(invalid, metav1.ConditionFalse, summary.ReasonNotEnforceable)(p), want(here.State, accepted), want(here.AcceptanceOrder, 2),
				want(there.State, invalid), want(fmt.Sprint(there.Errors), "[not tellable]"))
		})
		w.reports("west", "reviews", v1alpha1.DestinationStatus{AppliedAccessPolicies: []string{"p.q." + system}})
		sees("application", func(p *v1alpha1.AccessPolicy) error {
			return errors.Join(stands(accepted, metav1.ConditionTrue, v1alpha1.ReasonReady)(p), want(p.Status.Destinations["reviews.default.isthmus-west"].AcceptanceOrder, 1))
		})
		w.reports("west", "reviews", v1alpha1.DestinationStatus{})
		sees("one less", func(p *v1alpha1.AccessPolicy) error { return want(len(p.Status.Destinations), 1) })
	})
	w.run("an edit that names no registered cluster changes nothing", func(t *testing.T) {
		update(w, policy, system, policy.Name, func(p *v1alpha1.AccessPolicy) {
			p.Spec.SourceSelector = []v1alpha1.IdentitySelector{{KubeIdentityMatcher: &v1alpha1.KubeIdentityMatcher{Clusters: []string{"north"}}}}
		})
		sees("refusal", func(p *v1alpha1.AccessPolicy) error {
			return errors.Join(stands(invalid, metav1.ConditionFalse, v1alpha1.ReasonInvalid)(p), want(p.Status.Accepted.Generation, 2),
				want(strings.Contains(fmt.Sprint(p.Status.Errors), "spec.sourceSelector[0].kubeIdentityMatcher.clusters[0]: no cluster north"), true))
		})
		w.register("north")
		sees("acceptance", func(p *v1alpha1.AccessPolicy) error { return want(p.Status.Accepted.Generation, 3) })
	})
	w.run("a cluster that is away is told", func(t *testing.T) {
		w.applies("east", applies(3))
		w.heartbeat("west", time.Now().Add(-time.Hour))
		sees("unknown", stands(pending, metav1.ConditionUnknown, v1alpha1.ReasonNotConnected))
	})
}

func TestSettingsAndTLSEnforcement(t *testing.T) {
	w := start(t)
	w.register("east")
	vm := federated("one", []string{"east"})
	vm.Spec.Federation = &v1alpha1.Federation{TLSEnforcementSettings: &v1alpha1.TLSEnforcementSettings{EnforcementMode: v1alpha1.TLSEnforcementStrict}}
	w.create(vm)
	w.sees("one", "refusal without Settings", func(vm *v1alpha1.VirtualMesh) error {
		errs := fmt.Sprint(vm.Status.Errors)
		return errors.Join(want(vm.Status.Accepted == nil, true), want(vm.Status.State, v1alpha1.StateInvalid),
			want(strings.Contains(errs, "spec.federation.tlsEnforcementSettings.enforcementMode") && strings.Contains(errs, "spec.mtls.istio.tlsMode of Settings is not set"), true))
	})
	settings := &v1alpha1.Settings{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.SettingsName, Namespace: system}}
	settings.Spec.MTLS = &v1alpha1.MTLSSettings{Istio: &v1alpha1.IstioMTLSSettings{TLSMode: v1alpha1.IstioTLSModeMutual}}
	w.create(settings)
	w.sees("one", "acceptance", func(vm *v1alpha1.VirtualMesh) error { return want(vm.Status.Accepted != nil, true) })
	sees := func(what string, state v1alpha1.State, generation int64) {
		w.Helper()
		testenv.Eventually(w, what, func() error {
			s := &v1alpha1.Settings{}
			w.get(s, system, v1alpha1.SettingsName)
			if s.Status.Accepted == nil {
				return errors.New("not accepted")
			}
			return errors.Join(want(s.Status.State, state), want(s.Status.Accepted.Generation, generation), want(s.Status.ObservedGeneration, s.Generation),
				want(strings.Contains(fmt.Sprint(s.Status.Errors), "VirtualMesh one."+system), state == v1alpha1.StateInvalid))
		})
	}
	sees("acceptance", v1alpha1.StateAccepted, 1)
	update(w, settings, system, v1alpha1.SettingsName, func(s *v1alpha1.Settings) { s.Spec.MTLS.Istio.TLSMode = v1alpha1.IstioTLSModeDisable })
	sees("refusal", v1alpha1.StateInvalid, 1)
	update(w, vm, system, "one", func(vm *v1alpha1.VirtualMesh) {
		vm.Spec.Federation.TLSEnforcementSettings.EnforcementMode = v1alpha1.TLSEnforcementPermissive
	})
	sees("acceptance when the other has changed", v1alpha1.StateAccepted, 2)
	update(w, vm, system, "one", func(vm *v1alpha1.VirtualMesh) {
		vm.Spec.Federation.TLSEnforcementSettings.EnforcementMode = v1alpha1.TLSEnforcementStrict
	})
	w.sees("one", "refusal, and nothing changes", func(vm *v1alpha1.VirtualMesh) error {
		return errors.Join(want(vm.Status.State, v1alpha1.StateInvalid), want(vm.Status.Accepted.Spec.Federation.TLSEnforcementSettings.EnforcementMode, v1alpha1.TLSEnforcementPermissive))
	})
	w.remove(settings)
	update(w, vm, system, "one", func(vm *v1alpha1.VirtualMesh) {
		vm.Spec.Federation.TLSEnforcementSettings.EnforcementMode = v1alpha1.TLSEnforcementDisable
	})
	w.sees("one", "acceptance", func(vm *v1alpha1.VirtualMesh) error {
		return want(vm.Status.Accepted.Spec.Federation.TLSEnforcementSettings.EnforcementMode, v1alpha1.TLSEnforcementDisable)
	})
}

// TestAgentRights: what the network part of an agent needs of the hub, and no more.
func TestAgentRights(t *testing.T) {
	w := start(t)
	w.register("east")
	w.register("west")
	cfg := rest.CopyConfig(w.env.Config)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:isthmus-east:isthmus-agent",
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:isthmus-east", "system:authenticated"}}
	agent, err := client.New(cfg, client.Options{Scheme: testenv.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	for _, c := range []string{"east", "west"} {
		w.reports(c, "reviews", v1alpha1.DestinationStatus{})
	}
	label := func(cluster string) error {
		d := &v1alpha1.Destination{ObjectMeta: metav1.ObjectMeta{Name: "reviews.default", Namespace: "isthmus-" + cluster}}
		return agent.Patch(ctx, d, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"isthmus.dev/federated":"true"}}}`)))
	}
	status := func(cluster string) error {
		m := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Name: meshName(cluster), Namespace: "isthmus-" + cluster}}
		return agent.Status().Patch(ctx, m, client.RawPatch("application/merge-patch+json", []byte(`{"status":{"errors":["x"]}}`)))
	}
	lease := func(namespace, name string) error {
		return agent.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &coordinationv1.Lease{})
	}
	for what, err := range map[string]error{
		"labels its own Destination": label("east"),
		"reports on its own Mesh":    status("east"),
		"reads the Lease of another": lease("isthmus-west", v1alpha1.AgentName),
		"reads what is accepted":     agent.List(ctx, &v1alpha1.AccessPolicyList{}, client.InNamespace(system)),
		"reads Destinations of all":  agent.List(ctx, &v1alpha1.DestinationList{}),
		"reads Settings":             agent.List(ctx, &v1alpha1.SettingsList{}, client.InNamespace(system)),
	} {
		if err != nil {
			t.Errorf("an agent %s: %v", what, err)
		}
	}
	for what, err := range map[string]error{
		"labels a Destination of another": label("west"),
		"reports on a Mesh of another":    status("west"),
		"reads another Lease":             lease("kube-system", "kube-scheduler"),
		"lists Leases":                    agent.List(ctx, &coordinationv1.LeaseList{}),
		"reads clusters":                  agent.List(ctx, &v1alpha1.KubernetesClusterList{}, client.InNamespace(system)),
		"writes what is accepted":         agent.Create(ctx, &v1alpha1.AccessPolicy{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: system}}),
	} {
		if !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
			t.Errorf("an agent %s: %v", what, err)
		}
	}
}
