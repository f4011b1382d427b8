package meshctl_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// ratings is the host of a service of west.
const ratings = "ratings.default.svc.west.global"

// older is what an installation of the third generation left in east. The last one is of Isthmus's agent.
const older = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ratings.default.svc.west.global}
spec: {hosts: [ratings.default.svc.west.global], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, location: MESH_INTERNAL, endpoints: [{address: 203.0.113.9}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ratings-default-west}
spec: {host: ratings.default.svc.west.global, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: reviews.default.svc.east.global}
spec: {hosts: [reviews.default.svc.east.global], exportTo: ["."], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, location: MESH_INTERNAL}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: istio-ingressgateway-istio-system}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 15443, name: tls, protocol: TLS}, hosts: ["*.global"], tls: {mode: AUTO_PASSTHROUGH}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ratings.default.svc.west.global}
spec: {host: ratings.default.svc.west.global, trafficPolicy: {tls: {mode: ISTIO_MUTUAL, sni: x}}}
`

// tells has the agent of a cluster report what an older installation has left there.
func (w *world) tells(t *testing.T, mesh, cluster string, p *v1alpha1.PredecessorStatus) {
	t.Helper()
	testenv.Eventually(t, "status of "+mesh, func() error {
		m := &v1alpha1.Mesh{}
		if err := w.hub.Client.Get(t.Context(), client.ObjectKey{Namespace: "isthmus-" + cluster, Name: mesh}, m); err != nil {
			return err
		}
		m.Status.Predecessor = p
		return w.hub.Client.Status().Update(t.Context(), m)
	})
}

// TestMeshTakeover: nothing goes before something of Isthmus's is in its place, and nobody who still calls in the old way loses
// what he calls through.
func TestMeshTakeover(t *testing.T) {
	w := newWorld(t, testenv.IstioCRDs(t))
	w.federated(t)
	m := &clusterOf{w.member}
	for _, ns := range []string{"isthmus-agent", "istio-system", "gloo-mesh"} {
		m.Namespace(t, ns, nil)
	}
	m.create(t, deployment("gloo-mesh", "cert-agent", corev1.Container{Name: "cert-agent", Image: "x"}))
	m.create(t, deployment("isthmus-agent", "isthmus-agent", corev1.Container{Name: "agent", Image: "x", Args: []string{"--cluster=east"}}))
	uids := map[string]string{}
	documents := strings.Split(older, "\n---\n")
	for i, text := range documents {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
			t.Fatal(err)
		}
		o.SetNamespace("istio-system")
		o.SetLabels(map[string]string{"cluster.multicluster.solo.io": "east", "owner.networking.mesh.gloo.solo.io": "gloo-mesh"})
		if i == len(documents)-1 {
			o.SetLabels(map[string]string{v1alpha1.LabelManagedBy: "isthmus-agent-network"})
			o.SetAnnotations(map[string]string{v1alpha1.AnnotationDestination: "isthmus-west/ratings.default"})
		}
		if err := w.member.Client.Create(t.Context(), o, client.FieldOwner("networking")); err != nil {
			t.Fatal(err)
		}
		uids[o.GetKind()+" "+o.GetName()] = string(o.GetUID())
	}
	there := func(kind, name string) bool {
		t.Helper()
		o := &unstructured.Unstructured{}
		o.SetGroupVersionKind(schema.GroupVersionKind{Group: "networking.istio.io", Version: "v1", Kind: kind})
		err := w.member.Client.Get(t.Context(), client.ObjectKey{Namespace: "istio-system", Name: name}, o)
		if client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
		if err == nil && string(o.GetUID()) != uids[kind+" "+name] {
			t.Errorf("%s %s was made anew", kind, name)
		}
		return err == nil
	}
	takeover := []string{"mesh", "takeover", eastMesh, "--member-context", "member"}
	apply := slices.Concat(takeover, []string{"--apply"})
	w.tells(t, westMesh, "west", &v1alpha1.PredecessorStatus{Imports: ptr.To[int32](1)})
	w.fails(t, 1, "has not told yet what runs there", apply...)
	w.tells(t, eastMesh, "east", &v1alpha1.PredecessorStatus{Running: []string{"gloo-mesh/cert-agent"}})

	out := w.ok(t, takeover...)
	for _, line := range []string{"hand over ServiceEntry istio-system/" + ratings, "wait DestinationRule istio-system/ratings-default-west", "keep VirtualService istio-system/reviews"} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), line) {
			t.Errorf("%q is not in\n%s", line, out)
		}
	}
	w.fails(t, 1, "gloo-mesh/cert-agent; scale these Deployments to 0", apply...)
	w.fails(t, 2, "--member-context", "mesh", "takeover", eastMesh)
	agent := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "gloo-mesh", Name: "cert-agent"}}
	if err := w.member.Client.Patch(t.Context(), agent, client.RawPatch(types.MergePatchType, []byte(`{"spec": {"replicas": 0}}`))); err != nil {
		t.Fatal(err)
	}
	w.fails(t, 1, "handed over to the agent, and is as it was: gave up", slices.Concat(apply, []string{"--timeout", "30s"})...) // there is no agent
	if !there("DestinationRule", "ratings-default-west") {
		t.Fatal("the rule went before ours was in force")
	}

	go writeWhatIsHandedOver(t.Context(), w.member.Client)
	out = w.ok(t, apply...)
	if !strings.Contains(out, "has not told), west\n") {
		t.Errorf("it is not said for whom it waits:\n%s", out)
	}
	for name, want := range map[string]bool{
		"ServiceEntry " + ratings: true, "DestinationRule ratings-default-west": false, "DestinationRule " + ratings: true,
		"ServiceEntry reviews.default.svc.east.global": true, "Gateway istio-ingressgateway-istio-system": true, "VirtualService reviews": true,
	} {
		kind, name, _ := strings.Cut(name, " ")
		if there(kind, name) != want {
			t.Errorf("%s %s is there: %t", kind, name, !want)
		}
	}

	w.tells(t, westMesh, "west", nil) // as of an agent that has just begun
	if out := w.ok(t, apply...); !strings.Contains(out, "has not told), west (its agent has not told)") || !there("Gateway", "istio-ingressgateway-istio-system") {
		t.Errorf("what nobody has told of counts as given up:\n%s", out)
	}
	w.tells(t, westMesh, "west", &v1alpha1.PredecessorStatus{Imports: new(int32)})
	if out := w.ok(t, apply...); !strings.Contains(out, "still call in the old way: north (its agent has not told), south") {
		t.Errorf("clusters of which nothing is known count as ones that do not call:\n%s", out)
	}
	for _, name := range []string{"north", "south"} {
		if err := w.hub.Client.DeleteAllOf(t.Context(), &v1alpha1.Mesh{}, client.InNamespace("isthmus-"+name)); err != nil {
			t.Fatal(err)
		}
	}
	w.ok(t, apply...)
	for name, want := range map[string]bool{
		"ServiceEntry " + ratings: true, "DestinationRule " + ratings: true,
		"ServiceEntry reviews.default.svc.east.global": false, "Gateway istio-ingressgateway-istio-system": false, "VirtualService reviews": true,
	} {
		kind, name, _ := strings.Cut(name, " ")
		if there(kind, name) != want {
			t.Errorf("in the end, %s %s is there: %t", kind, name, !want)
		}
	}

	vm := &v1alpha1.VirtualMesh{}
	if err := w.hub.Client.Get(t.Context(), client.ObjectKey{Namespace: "isthmus-system", Name: "virtual-mesh"}, vm); err != nil {
		t.Fatal(err)
	}
	vm.Status.Accepted.Spec.Meshes = vm.Status.Accepted.Spec.Meshes[1:]
	if err := w.hub.Client.Status().Update(t.Context(), vm); err != nil {
		t.Fatal(err)
	}
	w.fails(t, 1, "is a member of no VirtualMesh", apply...)
}

// TestMeshTakeoverOfTheFirstGeneration: what it made for a name that services keep is handed over, both objects, and what it made for
// another is left alone.
func TestMeshTakeoverOfTheFirstGeneration(t *testing.T) {
	w := newWorld(t, testenv.IstioCRDs(t))
	w.federated(t)
	m := &clusterOf{w.member}
	for _, ns := range []string{"isthmus-agent", "istio-system"} {
		m.Namespace(t, ns, nil)
	}
	m.create(t, deployment("isthmus-agent", "isthmus-agent", corev1.Container{Name: "agent", Image: "x", Args: []string{"--cluster=east", "--short-hostname-clusters=north,west"}}))
	object := func(kind, name string, spec map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": map[string]any{"namespace": "istio-system", "name": name}, "spec": spec,
		}}
	}
	entry := func(host string) *unstructured.Unstructured {
		return object("ServiceEntry", host, map[string]any{
			"hosts": []any{host}, "resolution": "DNS", "location": "MESH_INTERNAL", "ports": []any{map[string]any{"number": int64(80), "name": "http", "protocol": "HTTP"}},
		})
	}
	rule := func(host string) *unstructured.Unstructured {
		return object("DestinationRule", host, map[string]any{"host": host, "trafficPolicy": map[string]any{"tls": map[string]any{"mode": "ISTIO_MUTUAL"}}})
	}
	ours := entry(ratings)
	ours.SetLabels(map[string]string{v1alpha1.LabelManagedBy: "isthmus-agent-network"})
	ours.SetAnnotations(map[string]string{v1alpha1.AnnotationDestination: "isthmus-west/ratings.default"})
	kept, left := []*unstructured.Unstructured{entry("ratings.default.west"), rule("ratings.default.west")}, []*unstructured.Unstructured{entry("unknown.default.west"), rule("unknown.default.west")}
	for _, o := range slices.Concat(kept, left, []*unstructured.Unstructured{ours}) {
		if err := w.member.Client.Create(t.Context(), o, client.FieldOwner("networking")); err != nil {
			t.Fatal(err)
		}
	}
	takeover := []string{"mesh", "takeover", eastMesh, "--member-context", "member"}
	if out := w.ok(t, takeover...); strings.Contains(out, "hand over") || !strings.Contains(out, "the service is called "+ratings+" here") {
		t.Errorf("nobody has asked for short hostnames:\n%s", out)
	}
	vm := &v1alpha1.VirtualMesh{}
	if err := w.hub.Client.Get(t.Context(), client.ObjectKey{Namespace: "isthmus-system", Name: "virtual-mesh"}, vm); err != nil {
		t.Fatal(err)
	}
	vm.Status.Accepted.Spec.Federation.ShortHostnames = true
	if err := w.hub.Client.Status().Update(t.Context(), vm); err != nil {
		t.Fatal(err)
	}
	w.tells(t, eastMesh, "east", &v1alpha1.PredecessorStatus{Imports: new(int32)})
	go writeWhatIsHandedOver(t.Context(), w.member.Client)
	out := w.ok(t, slices.Concat(takeover, []string{"--apply"})...)
	if !strings.Contains(out, "unknown.default.west") {
		t.Errorf("what is left is not listed:\n%s", out)
	}
	for _, o := range slices.Concat(kept, left) {
		is := o.DeepCopy()
		if err := w.member.Client.Get(t.Context(), client.ObjectKeyFromObject(o), is); err != nil {
			t.Fatal(err)
		}
		if handedOver := is.GetLabels()[v1alpha1.LabelManagedBy] != ""; is.GetUID() != o.GetUID() || handedOver != slices.Contains(kept, o) {
			t.Errorf("%s %s: handed over: %t, made anew: %t", o.GetKind(), o.GetName(), handedOver, is.GetUID() != o.GetUID())
		}
	}
}

// writeWhatIsHandedOver does as the agent: what carries its label it writes, here only to be recognised.
func writeWhatIsHandedOver(ctx context.Context, c client.Client) {
	for ctx.Err() == nil {
		for _, kind := range []string{"DestinationRuleList", "ServiceEntryList"} {
			list := &metav1.PartialObjectMetadataList{}
			list.SetGroupVersionKind(schema.GroupVersionKind{Group: "networking.istio.io", Version: "v1", Kind: kind})
			if err := c.List(ctx, list, client.MatchingLabels{v1alpha1.LabelManagedBy: "isthmus-agent-network"}); err != nil {
				continue
			}
			for i := range list.Items {
				patch := fmt.Sprintf(`{"metadata": {"annotations": {%q: "isthmus-west/ratings.default"}}}`, v1alpha1.AnnotationDestination)
				if err := c.Patch(ctx, &list.Items[i], client.RawPatch("application/merge-patch+json", []byte(patch))); err != nil && !apierrors.IsNotFound(err) {
					return
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}
