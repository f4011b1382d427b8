package charts_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/charts"
	"github.com/isthmus-mesh/isthmus/internal/agent/restart"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// installAgent installs the agent's chart and returns a client with the agent's rights.
func installAgent(t *testing.T, cluster *testenv.Cluster) client.Client {
	t.Helper()
	for _, ns := range []string{"isthmus-agent", "istio-system"} {
		cluster.Namespace(t, ns, nil)
	}
	return installAsAgent(t, cluster, charts.Agent, "isthmus-agent", map[string]any{"cluster": "east", "federation": map[string]any{"shortHostnameClusters": []any{"west"}}})
}

// installAsAgent installs a chart and returns a client that is the agent.
func installAsAgent(t *testing.T, cluster *testenv.Cluster, chart, namespace string, values map[string]any) client.Client {
	t.Helper()
	for _, obj := range render(t, chart, namespace, values) {
		if err := cluster.Client.Create(t.Context(), obj); err != nil {
			t.Fatalf("%s %s: %v", obj.GetKind(), obj.GetName(), err)
		}
	}
	asAgent := rest.CopyConfig(cluster.Config)
	asAgent.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:isthmus-agent:isthmus-agent",
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:isthmus-agent", "system:authenticated"},
	}
	agent, err := client.New(asAgent, client.Options{Scheme: testenv.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	return agent
}

// TestAgentTokens: the agent requests tokens of the ServiceAccounts that are listed for Vault, and of no others.
func TestAgentTokens(t *testing.T) {
	cluster := testenv.Start(t)
	agent := installAgent(t, cluster)
	request := func(name string) error {
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-agent", Name: name}}
		if err := client.IgnoreAlreadyExists(cluster.Client.Create(t.Context(), account.DeepCopy())); err != nil {
			t.Fatal(err)
		}
		return agent.SubResource("token").Create(t.Context(), account, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}}})
	}
	if err := request("vault-login"); !apierrors.IsForbidden(err) {
		t.Errorf("without being listed: %v", err)
	}
	for _, obj := range render(t, charts.Agent, "isthmus-agent", cases["agent, Vault"].values) {
		if obj.GetKind() == "Role" && obj.GetNamespace() == "isthmus-agent" {
			live := obj.DeepCopy()
			if err := cluster.Client.Get(t.Context(), client.ObjectKeyFromObject(obj), live); err != nil {
				t.Fatal(err)
			}
			obj.SetResourceVersion(live.GetResourceVersion())
			if err := cluster.Client.Update(t.Context(), obj); err != nil {
				t.Fatal(err)
			}
		}
	}
	testenv.Eventually(t, "the right", func() error { return request("vault-login") })
	for _, name := range []string{"isthmus-agent", "default"} {
		if err := request(name); !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAgentSecrets: an agent that was taken over gets no token of a ServiceAccount by a Secret, and writes beside istiod cacerts alone.
func TestAgentSecrets(t *testing.T) {
	ctx := t.Context()
	cluster := testenv.Start(t)
	agent := installAgent(t, cluster)
	secret := func(namespace, name string, kind corev1.SecretType) *corev1.Secret {
		s := &corev1.Secret{Type: kind, Data: map[string][]byte{"tls.crt": nil, "tls.key": nil}}
		s.Namespace, s.Name = namespace, name
		return s
	}
	token := func(namespace, name string) *corev1.Secret {
		s := secret(namespace, name, corev1.SecretTypeServiceAccountToken)
		s.Data, s.Annotations = nil, map[string]string{corev1.ServiceAccountNameKey: "istiod"}
		return s
	}
	testenv.Eventually(t, "the policy is in force", func() error {
		if err := agent.Create(ctx, token("istio-system", "istio-ca-secret"), client.DryRunAll); !denied(err) {
			return fmt.Errorf("err = %w", err)
		}
		return nil
	})

	for _, own := range []*corev1.Secret{
		secret("istio-system", "cacerts", v1alpha1.SecretTypeIntermediate),
		secret("isthmus-agent", "isthmus-ca-istiod-istio-system-east", v1alpha1.SecretTypeIntermediate),
		secret("isthmus-agent", "isthmus-pending-0123456789", corev1.SecretTypeOpaque),
		secret("isthmus-agent", "isthmus-hub-credential", ""),
	} {
		if err := agent.Create(ctx, own); err != nil {
			t.Fatalf("%s/%s created, which is the agent's business: %v", own.Namespace, own.Name, err)
		}
		own.Data["tls.crt"] = []byte("x")
		if err := agent.Update(ctx, own); err != nil {
			t.Errorf("%s/%s changed: %v", own.Namespace, own.Name, err)
		}
	}
	if err := cluster.Client.Delete(ctx, secret("istio-system", "cacerts", "")); err != nil {
		t.Fatal(err)
	}
	generated := secret("istio-system", "", corev1.SecretTypeOpaque)
	generated.GenerateName = "cacerts"
	for what, s := range map[string]*corev1.Secret{
		"a token as cacerts":              token("istio-system", "cacerts"),
		"a token in the own namespace":    token("isthmus-agent", "x"),
		"what istiod made, in its place":  secret("istio-system", "istio-ca-secret", corev1.SecretTypeOpaque),
		"another Secret beside istiod":    secret("istio-system", "x", corev1.SecretTypeOpaque),
		"a name of the API server's":      generated,
		"a token by which nodes may join": secret("isthmus-agent", "bootstrap-token-abcdef", corev1.SecretTypeBootstrapToken),
	} {
		if err := agent.Create(ctx, s); !denied(err) {
			t.Errorf("%s: err = %v", what, err)
		}
	}
	// Somebody else's, which a changed annotation would make one of another ServiceAccount.
	theirs := token("isthmus-agent", "theirs")
	theirs.Annotations[corev1.ServiceAccountNameKey] = "default"
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-agent", Name: "default"}}
	if err := client.IgnoreAlreadyExists(cluster.Client.Create(ctx, account)); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Client.Create(ctx, theirs); err != nil {
		t.Fatal(err)
	}
	theirs.Annotations[corev1.ServiceAccountNameKey] = "istiod"
	if err := agent.Update(ctx, theirs); !denied(err) {
		t.Errorf("a token changed: err = %v", err)
	}
}

// TestAgentOnlyRestarts: an agent that was taken over may start rollouts, and not change what runs.
func TestAgentOnlyRestarts(t *testing.T) {
	ctx := context.Background()
	cluster := testenv.Start(t)
	agent := installAgent(t, cluster)

	meta := metav1.ObjectMeta{Name: "istiod", Namespace: "istio-system", Labels: map[string]string{"app": "istiod"}}
	pod := corev1.PodSpec{Containers: []corev1.Container{{Name: "discovery", Image: "istiod:1"}}}
	template := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: meta.Labels, Annotations: map[string]string{"prometheus.io/port": "15014"}}, Spec: pod,
	}
	selector := &metav1.LabelSelector{MatchLabels: meta.Labels}
	objects := []client.Object{
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "istio-system"}},
		&appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Selector: selector, Template: template}},
		&appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Selector: selector, Template: template}},
		&appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}},
		&corev1.Pod{ObjectMeta: meta, Spec: pod},
	}
	for _, obj := range objects {
		if err := cluster.Client.Create(ctx, obj); err != nil {
			t.Fatal(err)
		}
	}

	type patch = map[string]any
	inTemplate := func(p patch) patch { return patch{"spec": patch{"template": p}} }
	annotations := func(name, value string) patch { return patch{"metadata": patch{"annotations": patch{name: value}}} }
	image := patch{"spec": patch{"containers": []any{patch{"name": "discovery", "image": "evil:1"}}}}
	orphan := patch{"metadata": patch{"ownerReferences": []any{patch{"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "0"}}}}
	try := func(obj client.Object, p patch) error {
		raw, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		return agent.Patch(ctx, obj.DeepCopyObject().(client.Object), client.RawPatch(types.StrategicMergePatchType, raw), client.DryRunAll)
	}
	// The API server takes a moment to load policies.
	for obj, p := range map[client.Object]patch{objects[1]: inTemplate(image), objects[4]: image} {
		testenv.Eventually(t, "the policies are in force", func() error {
			if err := try(obj, p); !denied(err) {
				return fmt.Errorf("err = %w", err)
			}
			return nil
		})
	}

	for _, obj := range objects[1:4] {
		t.Run(fmt.Sprintf("%T", obj), func(t *testing.T) {
			if err := try(obj, inTemplate(annotations(restart.Annotation, "1"))); err != nil {
				t.Fatalf("a restart, which is the agent's business: %v", err)
			}
			for name, p := range map[string]patch{
				"another image":        inTemplate(image),
				"another proxy image":  inTemplate(annotations("sidecar.istio.io/proxyImage", "evil:1")),
				"annotation changed":   inTemplate(annotations("prometheus.io/port", "1")),
				"annotation removed":   inTemplate(patch{"metadata": patch{"annotations": patch{"prometheus.io/port": nil}}}),
				"label of pods":        inTemplate(patch{"metadata": patch{"labels": patch{"app": "istiod", "x": "y"}}}),
				"label":                {"metadata": patch{"labels": patch{"x": "y"}}},
				"owner that is gone":   orphan,
				"finalizer of pods":    inTemplate(patch{"metadata": patch{"finalizers": []any{"example.com/x"}}}),
				"image with a restart": inTemplate(patch{"metadata": annotations(restart.Annotation, "2")["metadata"], "spec": image["spec"]}),
			} {
				if err := try(obj, p); !denied(err) {
					t.Errorf("%s: err = %v", name, err)
				}
			}
		})
	}
	for name, tc := range map[string]struct {
		obj client.Object
		p   patch
	}{
		"no pods":                         {objects[1], patch{"replicas": 0}},
		"no pods of a StatefulSet":        {objects[2], patch{"replicas": 0}},
		"paused":                          {objects[1], patch{"paused": true}},
		"all at once":                     {objects[1], patch{"strategy": patch{"type": "Recreate", "rollingUpdate": nil}}},
		"a history":                       {objects[1], patch{"revisionHistoryLimit": 0}},
		"no deadline":                     {objects[1], patch{"progressDeadlineSeconds": 9999}},
		"volumes that go":                 {objects[2], patch{"persistentVolumeClaimRetentionPolicy": patch{"whenScaled": "Delete"}}},
		"a StatefulSet that stays":        {objects[2], patch{"updateStrategy": patch{"type": "OnDelete", "rollingUpdate": nil}}},
		"a StatefulSet at another pace":   {objects[2], patch{"minReadySeconds": 1}},
		"a DaemonSet that stays":          {objects[3], patch{"updateStrategy": patch{"type": "OnDelete", "rollingUpdate": nil}}},
		"a DaemonSet that is interrupted": {objects[3], patch{"updateStrategy": patch{"rollingUpdate": patch{"maxUnavailable": "100%"}}}},
	} {
		if err := try(tc.obj, patch{"spec": tc.p}); !denied(err) {
			t.Errorf("%s: err = %v", name, err)
		}
	}
	t.Run("at a pace of its own, which is set back", func(t *testing.T) {
		istiod := restart.Target{Kind: restart.Deployment, Namespace: meta.Namespace, Name: meta.Name}
		get := func() *appsv1.Deployment {
			d := &appsv1.Deployment{}
			if err := cluster.Client.Get(ctx, client.ObjectKeyFromObject(objects[1]), d); err != nil {
				t.Fatal(err)
			}
			return d
		}
		before := get().Spec
		if _, err := (restart.Plan{Waves: [][]restart.Target{{istiod}}, Token: "1", MinReady: 10}).Advance(ctx, agent); err != nil {
			t.Fatal(err)
		}
		d := get()
		if d.Spec.MinReadySeconds != 10 || d.Spec.Strategy.RollingUpdate.MaxSurge.IntValue() != 1 {
			t.Errorf("it rolls by %+v", d.Spec)
		}
		d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: 1, UpdatedReplicas: 1, ReadyReplicas: 1, AvailableReplicas: 1}
		if err := cluster.Client.Status().Update(ctx, d); err != nil {
			t.Fatal(err)
		}
		if err := restart.SetBack(ctx, agent, istiod); err != nil {
			t.Fatal(err)
		}
		if d := get(); d.Spec.MinReadySeconds != 0 || !reflect.DeepEqual(d.Spec.Strategy, before.Strategy) {
			t.Errorf("afterwards it is %+v", d.Spec)
		}
	})
	t.Run("Pod", func(t *testing.T) {
		if err := try(objects[4], annotations("isthmus.dev/cacerts-projected", "1")); err != nil {
			t.Fatalf("touching a pod, which is the agent's business: %v", err)
		}
		for name, p := range map[string]patch{
			"another image":      image,
			"another annotation": annotations("kubectl.kubernetes.io/default-container", "x"),
			"label":              {"metadata": patch{"labels": patch{"app": "other"}}},
			"owner that is gone": orphan,
		} {
			if err := try(objects[4], p); !denied(err) {
				t.Errorf("%s: err = %v", name, err)
			}
		}
	})
}

// TestAgentAddresses: the addresses of an agent's hosts lie in the range that the chart says; those of a handed-over one stay.
func TestAgentAddresses(t *testing.T) {
	ctx := t.Context()
	cluster := testenv.Start(t, testenv.IstioCRDs(t))
	agent := installAgent(t, cluster)
	entry := func(addresses ...any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
			"metadata": map[string]any{"namespace": "istio-system", "name": "x", "labels": map[string]any{"isthmus.dev/managed-by": "isthmus-agent-network"}},
			"spec": map[string]any{
				"hosts": []any{"reviews.default.svc.west.global"}, "location": "MESH_INTERNAL", "resolution": "STATIC", "addresses": addresses,
				"subjectAltNames": []any{"spiffe://cluster.local/ns/default/sa/reviews"}, "ports": []any{map[string]any{"number": int64(5432), "name": "tcp"}},
			},
		}}
	}
	for _, tc := range []struct {
		addresses string
		in, out   []any
	}{
		{"241.0.0.0/8", []any{"241.0.0.1", "241.255.255.254"}, []any{"240.0.0.1", "242.0.0.1", "24.1.0.1", "2410.0.0.1", "241.0.0.0/8", "241.0.1", "0241.0.0.1", "x.241.0.0.1", "fd00:1::1"}},
		{"198.18.0.0/15", []any{"198.18.0.1", "198.19.255.254"}, []any{"198.17.0.1", "198.20.0.1", "197.18.0.1"}},
		{"10.1.2.130/25", []any{"10.1.2.129", "10.1.2.254"}, []any{"10.1.2.127", "10.1.3.129", "10.1.2.256", "11.1.2.129"}},
		{"128.0.0.0/1", []any{"128.0.0.1", "255.0.0.1"}, []any{"127.0.0.1", "1.1.1.1"}},
		{"fd00:1::/64", []any{"fd00:1::1", "fd00:1:0:0:8::"}, []any{"fd00:2::1", "::1", "241.0.0.1", "fd00:1::/64"}},
	} {
		t.Run(tc.addresses, func(t *testing.T) {
			for _, obj := range render(t, charts.Agent, "isthmus-agent", map[string]any{"cluster": "east", "federation": map[string]any{"addressRange": tc.addresses}}) {
				if obj.GetKind() != "ValidatingAdmissionPolicy" || obj.GetName() != "isthmus-member-agent-network" {
					continue
				}
				live := obj.DeepCopy()
				if err := cluster.Client.Get(ctx, client.ObjectKeyFromObject(obj), live); err != nil {
					t.Fatal(err)
				}
				obj.SetResourceVersion(live.GetResourceVersion())
				if err := cluster.Client.Update(ctx, obj); err != nil {
					t.Fatal(err)
				}
			}
			testenv.Eventually(t, "the policy is in force", func() error {
				if err := agent.Create(ctx, entry(tc.out[0]), client.DryRunAll); !denied(err) {
					return fmt.Errorf("err = %w", err)
				}
				return agent.Create(ctx, entry(tc.in[0]), client.DryRunAll)
			})
			for _, a := range tc.in {
				if err := agent.Create(ctx, entry(a), client.DryRunAll); err != nil {
					t.Errorf("%s: %v", a, err)
				}
			}
			for _, a := range tc.out {
				if err := agent.Create(ctx, entry(tc.in[0], a), client.DryRunAll); !denied(err) {
					t.Errorf("%s: err = %v", a, err)
				}
			}
		})
	}

	taken := entry("203.0.113.7")
	if err := cluster.Client.Create(ctx, taken); err != nil {
		t.Fatal(err)
	}
	taken.SetAnnotations(map[string]string{"isthmus.dev/kept": "true"})
	if err := agent.Update(ctx, taken); err != nil {
		t.Errorf("one that was handed over: %v", err)
	}
	if err := unstructured.SetNestedSlice(taken.Object, []any{"203.0.113.7", "203.0.113.8"}, "spec", "addresses"); err != nil {
		t.Fatal(err)
	}
	if err := agent.Update(ctx, taken); !denied(err) {
		t.Errorf("one that was handed over, with another address: err = %v", err)
	}
}

// denied reports whether an admission policy of the agent refused something.
func denied(err error) bool {
	return apierrors.IsInvalid(err) && strings.Contains(err.Error(), "denied request: an agent")
}

// TestAgentWritesItsOwnNetwork: an agent that was taken over touches no Istio object of anybody else, opens no gateway for more
// than a namespace, and redirects no traffic but that to other clusters.
func TestAgentWritesItsOwnNetwork(t *testing.T) {
	ctx := context.Background()
	cluster := testenv.Start(t, testenv.IstioCRDs(t))
	agent := installAgent(t, cluster)
	cluster.Namespace(t, "default", nil)

	type spec = map[string]any
	object := func(kind, namespace, name string, s spec) *unstructured.Unstructured {
		group := "networking.istio.io/v1"
		if strings.HasSuffix(kind, "Policy") || kind == "PeerAuthentication" {
			group = "security.istio.io/v1"
		}
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": group, "kind": kind, "spec": s,
			"metadata": map[string]any{"namespace": namespace, "name": name, "labels": map[string]any{"isthmus.dev/managed-by": "isthmus-agent-network"}},
		}}
	}
	gateway := func(mode string, hosts ...any) spec {
		return spec{"selector": map[string]any{"istio": "eastwestgateway"}, "servers": []any{map[string]any{
			"port":  map[string]any{"number": int64(15443), "name": "tls", "protocol": "TLS"},
			"hosts": hosts, "tls": map[string]any{"mode": mode},
		}}}
	}
	entry := func(location, host string, identities ...any) spec {
		return spec{
			"hosts": []any{host}, "location": location, "resolution": "STATIC", "subjectAltNames": identities,
			"ports": []any{map[string]any{"number": int64(9080), "name": "http"}}, "addresses": []any{"241.0.0.1"},
			"endpoints": []any{map[string]any{"address": "172.31.0.12", "ports": map[string]any{"http": int64(15443)}}},
		}
	}
	const id = "spiffe://cluster.local/ns/default/sa/reviews"
	rule := func(host string) spec {
		return spec{"host": host, "trafficPolicy": map[string]any{"tls": map[string]any{"mode": "ISTIO_MUTUAL"}}}
	}
	// named is of a VirtualDestination, beside the Service.
	named := func(name string, s spec) *unstructured.Unstructured {
		o := object("ServiceEntry", "default", name, s)
		o.SetAnnotations(map[string]string{"isthmus.dev/destination": "virtual:isthmus-system/reviews"})
		return o
	}
	own := entry("MESH_INTERNAL", "reviews.default.svc.global", id)
	delete(own, "endpoints")
	own["workloadSelector"] = map[string]any{"labels": map[string]any{"app": "reviews"}}
	// beside is of limited trust, in the namespace of its gateways.
	beside := func(kind, name string, s spec) *unstructured.Unstructured {
		o := object(kind, "default", name, s)
		o.SetAnnotations(map[string]string{"isthmus.dev/client-mesh": "istiod-istio-system-east.isthmus-east"})
		return o
	}
	const west, sni = "reviews.default.svc.west.global", "p9080.reviews.default.svc.west.global"
	through := entry("MESH_INTERNAL", west, id)
	delete(through, "endpoints")
	through["workloadSelector"] = map[string]any{"labels": map[string]any{"isthmus.dev/gateway": "egress"}}
	onward := entry("MESH_INTERNAL", west+".isthmus.invalid", id)
	onward["exportTo"] = []any{"."}
	delete(onward, "addresses")
	// policy is of a federated host, with the same TLS for all, a port and a subset.
	policy := func(tls spec, more map[string]any) map[string]any {
		port := map[string]any{"port": map[string]any{"number": int64(9080)}, "tls": maps.Clone(tls)}
		out := map[string]any{"tls": maps.Clone(tls), "portLevelSettings": []any{port}}
		for k, v := range more {
			port[k], out[k] = v, v
		}
		return out
	}
	mutual := spec{"mode": "ISTIO_MUTUAL"}
	gateways := spec{"mode": "MUTUAL", "credentialName": "isthmus-gateway", "subjectAltNames": []any{"spiffe://x/y"}, "sni": sni}
	tcp := func(settings map[string]any) map[string]any {
		return map[string]any{"connectionPool": map[string]any{"tcp": settings}}
	}
	keepalive := map[string]any{"time": "60s"}
	ruled := func(host string, policy map[string]any) spec { return spec{"host": host, "trafficPolicy": policy} }
	with := func(s spec, key string, value any) spec {
		s = maps.Clone(s)
		s[key] = value
		return s
	}
	ends := func(host string, port int64, protocol string, tls spec) spec {
		g := gateway("", host)
		server := g["servers"].([]any)[0].(map[string]any)
		server["port"], server["tls"] = map[string]any{"number": port, "name": "tls", "protocol": protocol}, tls
		return g
	}
	credential := func(names ...any) spec {
		return spec{"mode": "MUTUAL", "credentialName": "isthmus-gateway", "subjectAltNames": names}
	}
	route := func(gateway, host string) spec {
		return spec{"hosts": []any{host}, "gateways": []any{gateway}, "exportTo": []any{"."}, "tcp": []any{map[string]any{"route": []any{map[string]any{
			"destination": map[string]any{"host": west, "port": map[string]any{"number": int64(9080)}},
		}}}}}
	}
	good := []*unstructured.Unstructured{
		beside("ServiceEntry", west, through),
		beside("ServiceEntry", west+".isthmus.invalid", onward),
		beside("DestinationRule", west, ruled(west, policy(mutual, tcp(map[string]any{"tcpKeepalive": keepalive, "maxConnectionDuration": "30s"})))),
		beside("DestinationRule", west+".isthmus.invalid", ruled(west+".isthmus.invalid", policy(gateways, tcp(map[string]any{"tcpKeepalive": keepalive})))),
		beside("Gateway", "isthmus-reviews", ends(sni, 15443, "TLS", spec{"mode": "ISTIO_MUTUAL"})),
		object("Gateway", "default", "isthmus-ratings", ends(sni, 15443, "TLS", credential("spiffe://x/y"))),
		object("Gateway", "default", "isthmus-credential-egress", ends("canary.isthmus.invalid", 15445, "HTTPS", credential("spiffe://x/y"))),
		beside("VirtualService", sni, route("isthmus-reviews", sni)),
		named("isthmus-own-reviews.default.svc.global", own),
		named("reviews.default.svc.global", entry("MESH_INTERNAL", "reviews.default.svc.global", id)),
		named("reviews.shop.svc.mesh.example", entry("MESH_INTERNAL", "reviews.shop.svc.mesh.example", id)),
		object("DestinationRule", "istio-system", "reviews.default.svc.global", ruled("reviews.default.svc.global", policy(mutual, map[string]any{
			"outlierDetection": map[string]any{"consecutiveGatewayErrors": int64(5)},
			"loadBalancer":     map[string]any{"localityLbSetting": map[string]any{"enabled": true, "failoverPriority": []any{"isthmus.dev/cluster="}}},
		}))),
		object("Gateway", "default", "isthmus-gateway", gateway("AUTO_PASSTHROUGH", "*.default.svc.cluster.local", "reviews.test.svc.cluster.local")),
		object("ServiceEntry", "istio-system", "reviews.default.svc.west.global", entry("MESH_INTERNAL", "reviews.default.svc.west.global", id)),
		object("DestinationRule", "istio-system", "reviews.default.svc.west.global", with(ruled(west, policy(mutual, nil)), "subsets", []any{
			map[string]any{"name": "v1", "trafficPolicy": policy(mutual, nil)},
		})),
		object("ServiceEntry", "istio-system", "reviews.default.remote-cluster", entry("MESH_INTERNAL", "reviews.default.remote-cluster", id)),
		object("DestinationRule", "istio-system", "reviews.default.remote-cluster", rule("reviews.default.remote-cluster")),
		object("ServiceEntry", "istio-system", "reviews.default.west", entry("MESH_INTERNAL", "reviews.default.west", id)),
		object("DestinationRule", "istio-system", "isthmus-keepalive-example.com", with(ruled("example.com", tcp(map[string]any{"tcpKeepalive": keepalive})), "exportTo", []any{"*"})),
		object("DestinationRule", "istio-system", "isthmus-keepalive-db.shop.svc.partner.example", with(ruled("db.shop.svc.partner.example", tcp(map[string]any{"tcpKeepalive": keepalive})), "exportTo", []any{"*"})),
		object("AuthorizationPolicy", "istio-system", "isthmus-global-access", spec{}),
		object("AuthorizationPolicy", "default", "isthmus-reviews", spec{"action": "ALLOW", "rules": []any{map[string]any{}}}),
		object("PeerAuthentication", "istio-system", "isthmus", spec{"mtls": map[string]any{"mode": "STRICT"}}),
	}
	unlabelled := func(o *unstructured.Unstructured) *unstructured.Unstructured {
		o = o.DeepCopy()
		o.SetLabels(map[string]string{"isthmus.dev/managed-by": "somebody"})
		return o
	}
	foreign := object("AuthorizationPolicy", "default", "mine", spec{"action": "DENY"})
	foreign.SetLabels(nil)
	if err := cluster.Client.Create(ctx, foreign); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the policy is in force", func() error {
		if err := agent.Create(ctx, unlabelled(good[0]), client.DryRunAll); !denied(err) {
			return fmt.Errorf("err = %w", err)
		}
		return nil
	})

	for _, o := range good {
		t.Run(o.GetKind()+" "+o.GetName(), func(t *testing.T) {
			if err := agent.Create(ctx, unlabelled(o)); !denied(err) {
				t.Errorf("without the label: err = %v", err)
			}
			live := o.DeepCopy()
			if err := agent.Create(ctx, live); err != nil {
				t.Fatalf("created, which is the agent's business: %v", err)
			}
			if err := agent.Update(ctx, unlabelled(live)); !denied(err) {
				t.Errorf("the label taken away: err = %v", err)
			}
			annotations := maps.Clone(live.GetAnnotations())
			if annotations == nil {
				annotations = map[string]string{}
			}
			annotations["x"] = "y"
			live.SetAnnotations(annotations)
			if err := agent.Update(ctx, live); err != nil {
				t.Errorf("changed: %v", err)
			}
			if err := agent.Delete(ctx, live); err != nil {
				t.Errorf("deleted: %v", err)
			}
		})
	}
	t.Run("what is another's", func(t *testing.T) {
		if err := agent.Delete(ctx, foreign.DeepCopy()); !denied(err) {
			t.Errorf("deleted: err = %v", err)
		}
		taken := foreign.DeepCopy()
		taken.SetLabels(map[string]string{"isthmus.dev/managed-by": "isthmus-agent-network"})
		if err := agent.Update(ctx, taken); !denied(err) {
			t.Errorf("taken over by the label: err = %v", err)
		}
		if err := cluster.Client.Delete(ctx, foreign.DeepCopy()); err != nil {
			t.Errorf("its owner may: %v", err)
		}
	})
	for name, o := range map[string]*unstructured.Unstructured{
		"a gateway for everything":              object("Gateway", "default", "x", gateway("AUTO_PASSTHROUGH", "*")),
		"a gateway for every namespace":         object("Gateway", "default", "x", gateway("AUTO_PASSTHROUGH", "*.local")),
		"a gateway for a namespace, misread":    object("Gateway", "default", "x", gateway("AUTO_PASSTHROUGH", "default/*")),
		"a gateway for one more":                object("Gateway", "default", "x", gateway("AUTO_PASSTHROUGH", "reviews.default.svc.cluster.local", "*.svc.cluster.local")),
		"a gateway that ends TLS":               object("Gateway", "default", "x", gateway("ISTIO_MUTUAL", "reviews.default.svc.cluster.local")),
		"a host of the cluster itself":          object("ServiceEntry", "istio-system", "x", entry("MESH_INTERNAL", "reviews.default.svc.cluster.local", id)),
		"a host of the internet":                object("ServiceEntry", "istio-system", "x", entry("MESH_INTERNAL", "api.example.com", id)),
		"one that is not listed":                object("ServiceEntry", "istio-system", "x", entry("MESH_INTERNAL", "www.google.com", id)),
		"one that is international":             object("ServiceEntry", "istio-system", "x", entry("MESH_INTERNAL", "www.example.xn--p1ai", id)),
		"one that is in the cluster itself":     object("ServiceEntry", "istio-system", "x", entry("MESH_INTERNAL", "reviews.default.svc", id)),
		"one of the cluster domain":             object("ServiceEntry", "istio-system", "x", entry("MESH_INTERNAL", "x.cluster.local", id)),
		"one with more labels":                  object("ServiceEntry", "istio-system", "x", entry("MESH_INTERNAL", "a.b.c.remote-cluster", id)),
		"one with fewer":                        object("ServiceEntry", "istio-system", "x", entry("MESH_INTERNAL", "b.remote-cluster", id)),
		"how one that is not listed is":         object("DestinationRule", "istio-system", "x", rule("www.google.com")),
		"every host":                            object("ServiceEntry", "istio-system", "x", entry("MESH_INTERNAL", "*.svc.west.global", id)),
		"a host that is external":               object("ServiceEntry", "istio-system", "x", entry("MESH_EXTERNAL", "reviews.default.svc.west.global", id)),
		"a host whose identity nobody verifies": object("ServiceEntry", "istio-system", "x", entry("MESH_INTERNAL", "reviews.default.svc.west.global")),
		"a host in a namespace of users":        object("ServiceEntry", "default", "x", entry("MESH_INTERNAL", "reviews.default.svc.west.global", id)),
		"a virtual host of the cluster itself":  named("x", entry("MESH_INTERNAL", "reviews.default.svc.cluster.local", id)),
		"a virtual host of the internet":        named("x", entry("MESH_INTERNAL", "api.example.com", id)),
		"own pods whose identity nobody knows":  named("x", entry("MESH_INTERNAL", "reviews.default.svc.global")),
		"a server for any host":                 object("Gateway", "default", "x", ends("*", 15443, "TLS", credential("spiffe://x/y"))),
		"a server for anybody":                  object("Gateway", "default", "x", ends(sni, 15443, "TLS", credential())),
		"a server with a website's certificate": object("Gateway", "default", "x", ends(sni, 15443, "TLS", spec{"mode": "SIMPLE", "credentialName": "website"})),
		"a route in the mesh":                   beside("VirtualService", "x", route("mesh", sni)),
		"a route of an own host":                beside("VirtualService", "x", route("isthmus-reviews", "reviews.default.svc.cluster.local")),
		"an own host beside a gateway":          beside("ServiceEntry", "x", entry("MESH_INTERNAL", "reviews.default.svc.cluster.local", id)),
		"endpoints beside a gateway for all":    beside("ServiceEntry", "x", entry("MESH_INTERNAL", west, id)),
		"how an own host is, beside a gateway":  beside("DestinationRule", "x", rule("reviews.default.svc.cluster.local")),
		"a DestinationRule in that of users":    object("DestinationRule", "default", "x", rule("reviews.default.svc.west.global")),
		"how an own host is connected to":       object("DestinationRule", "istio-system", "x", rule("reviews.default.svc.cluster.local")),
		"how a host of the internet is":         object("DestinationRule", "istio-system", "x", rule("api.example.com")),
		"how every host is":                     object("DestinationRule", "istio-system", "x", rule("*.local")),
		"a port of an own host":                 object("DestinationRule", "istio-system", "x", spec{"host": "reviews.default.svc.cluster.local", "trafficPolicy": map[string]any{"portLevelSettings": []any{map[string]any{"port": map[string]any{"number": int64(80)}, "tls": map[string]any{"mode": "DISABLE"}}}}}),
		"a detour":                              object("DestinationRule", "istio-system", "x", spec{"host": "api.example.com", "trafficPolicy": map[string]any{"tunnel": map[string]any{"protocol": "CONNECT", "targetHost": "x", "targetPort": int64(1)}}}),
		"subsets of an own host":                object("DestinationRule", "istio-system", "x", spec{"host": "reviews.default.svc.cluster.local", "subsets": []any{map[string]any{"name": "v1"}}}),
		"an address of somebody else":           object("ServiceEntry", "istio-system", "x", with(entry("MESH_INTERNAL", west, id), "addresses", []any{"241.0.0.1", "203.0.113.7"})),
		"a range of addresses":                  object("ServiceEntry", "istio-system", "x", with(entry("MESH_INTERNAL", west, id), "addresses", []any{"241.0.0.0/1"})),
		"every address":                         object("ServiceEntry", "istio-system", "x", with(entry("MESH_INTERNAL", west, id), "addresses", []any{})),
		"an address beside a gateway":           beside("ServiceEntry", "x", with(onward, "addresses", []any{"203.0.113.7"})),
		"every address beside a gateway":        beside("ServiceEntry", "x", with(through, "addresses", []any{})),
		"plain text":                            object("DestinationRule", "istio-system", "x", ruled(west, policy(spec{"mode": "DISABLE"}, nil))),
		"whatever TLS there is":                 object("DestinationRule", "istio-system", "x", ruled(west, tcp(map[string]any{"maxConnections": int64(1)}))),
		"plain text for a port":                 object("DestinationRule", "istio-system", "x", ruled(west, map[string]any{"tls": mutual, "portLevelSettings": []any{map[string]any{"port": map[string]any{"number": int64(80)}, "tls": map[string]any{"mode": "DISABLE"}}}})),
		"plain text for a subset":               object("DestinationRule", "istio-system", "x", with(rule(west), "subsets", []any{map[string]any{"name": "v1", "trafficPolicy": policy(spec{"mode": "DISABLE"}, nil)}})),
		"the gateways' credential elsewhere":    object("DestinationRule", "istio-system", "x", ruled(west, policy(gateways, nil))),
		"another credential":                    beside("DestinationRule", "x", ruled(west, policy(with(gateways, "credentialName", "website"), nil))),
		"gateways that nobody verifies":         beside("DestinationRule", "x", ruled(west, policy(with(gateways, "subjectAltNames", []any{}), nil))),
		"gateways whose certificates are any":   beside("DestinationRule", "x", ruled(west, policy(with(gateways, "insecureSkipVerify", true), nil))),
		"a detour to a federated host":          object("DestinationRule", "istio-system", "x", ruled(west, map[string]any{"tls": mutual, "tunnel": map[string]any{"protocol": "CONNECT", "targetHost": "x", "targetPort": int64(1)}})),
		"a federated host for some workloads":   object("DestinationRule", "istio-system", "x", with(rule(west), "workloadSelector", map[string]any{"matchLabels": map[string]any{"app": "x"}})),
		"an own host for some workloads":        object("DestinationRule", "istio-system", "x", with(ruled("example.com", tcp(map[string]any{"tcpKeepalive": keepalive})), "workloadSelector", map[string]any{"matchLabels": map[string]any{"app": "x"}})),
		"where an own host's requests go":       object("DestinationRule", "istio-system", "x", ruled("example.com", map[string]any{"loadBalancer": map[string]any{"simple": "PASSTHROUGH"}})),
		"which of an own host's pods are left":  object("DestinationRule", "istio-system", "x", ruled("example.com", map[string]any{"outlierDetection": map[string]any{"maxEjectionPercent": int64(100)}})),
		"a header before an own host's bytes":   object("DestinationRule", "istio-system", "x", ruled("example.com", map[string]any{"proxyProtocol": map[string]any{"version": "V1"}})),
		"no retries of an own host":             object("DestinationRule", "istio-system", "x", ruled("example.com", map[string]any{"retryBudget": map[string]any{"minRetryConcurrency": int64(1)}})),
		"one request of an own host at a time":  object("DestinationRule", "istio-system", "x", ruled("example.com", map[string]any{"connectionPool": map[string]any{"http": map[string]any{"http1MaxPendingRequests": int64(1)}}})),
		"one connection of an own host":         object("DestinationRule", "istio-system", "x", ruled("example.com", tcp(map[string]any{"maxConnections": int64(1)}))),
		"an own host's connections end":         object("DestinationRule", "istio-system", "x", ruled("example.com", tcp(map[string]any{"idleTimeout": "1s"}))),
		"a PeerAuthentication in that of users": object("PeerAuthentication", "default", "x", spec{"mtls": map[string]any{"mode": "DISABLE"}}),
	} {
		if err := agent.Create(ctx, o); !denied(err) {
			t.Errorf("%s: err = %v", name, err)
		}
	}
	for _, kind := range []string{"EnvoyFilter", "Sidecar"} { // to which it has no right at all
		o := object(kind, "default", "x", spec{})
		o.SetAPIVersion("networking.istio.io/v1alpha3")
		if err := agent.Create(ctx, o); !apierrors.IsForbidden(err) {
			t.Errorf("%s: err = %v", kind, err)
		}
	}
}

// TestAgentFinalizersAndOwners: in the hub, an agent puts no finalizer on anything, by which the namespace of a cluster that was
// evicted would stay for ever, and no owner, with which the record of a signature would go; what has one of somebody else it still
// writes.
func TestAgentFinalizersAndOwners(t *testing.T) {
	ctx := t.Context()
	cluster := testenv.Start(t)
	const cn = "agent" // whose agent in the hub has the name of that in a member of these tests
	namespace := kube.ClusterNamespace(cn)
	for _, ns := range []string{"isthmus-system", namespace} {
		cluster.Namespace(t, ns, nil)
	}
	agent := installAsAgent(t, cluster, charts.Hub, "isthmus-system", nil)
	bound := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "agent"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "isthmus-agent"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: "isthmus-agent"}},
	}
	if err := cluster.Client.Create(ctx, bound); err != nil {
		t.Fatal(err)
	}
	mesh := func() client.Object {
		return &v1alpha1.Mesh{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: kube.MeshName("istio-system", cn)},
			Spec: v1alpha1.MeshSpec{Cluster: cn, Istio: v1alpha1.IstioMesh{
				RootNamespace: "istio-system", TrustDomain: "cluster.local", IstiodServiceAccount: "istiod",
				CertificateAuthority: v1alpha1.CertificateAuthorityIstiod,
			}},
		}
	}
	lease := func() client.Object {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "isthmus-agent"}}
	}
	sets := map[string]func(client.Object){
		"finalizer": func(o client.Object) { o.SetFinalizers([]string{"example.com/stay"}) },
		"owner": func(o client.Object) {
			o.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "gone", UID: "0"}})
		},
	}
	testenv.Eventually(t, "the policy is in force", func() error {
		o := lease()
		sets["finalizer"](o)
		if err := agent.Create(ctx, o, client.DryRunAll); !denied(err) {
			return fmt.Errorf("err = %w", err)
		}
		return nil
	})
	for name, made := range map[string]func() client.Object{"Mesh": mesh, "Lease": lease} {
		for what, set := range sets {
			t.Run(name+", "+what, func(t *testing.T) {
				o := made()
				set(o)
				if err := agent.Create(ctx, o); !denied(err) {
					t.Errorf("created with one: err = %v", err)
				}
				o = made()
				if err := agent.Create(ctx, o); err != nil {
					t.Fatalf("created, which is the agent's business: %v", err)
				}
				o.SetLabels(map[string]string{"x": "y"})
				if err := agent.Update(ctx, o); err != nil {
					t.Errorf("changed: %v", err)
				}
				set(o)
				if err := agent.Update(ctx, o.DeepCopyObject().(client.Object)); !denied(err) {
					t.Errorf("one later on: err = %v", err)
				}
				if err := cluster.Client.Update(ctx, o); err != nil {
					t.Fatalf("one of somebody else: %v", err)
				}
				o.SetLabels(map[string]string{"x": "z"})
				if err := agent.Update(ctx, o); err != nil {
					t.Errorf("changed under it: %v", err)
				}
				if m, ok := o.(*v1alpha1.Mesh); ok {
					if err := agent.Status().Update(ctx, m); err != nil {
						t.Errorf("status: %v", err)
					}
				}
				o.SetFinalizers(nil)
				o.SetOwnerReferences(nil)
				if err := agent.Update(ctx, o.DeepCopyObject().(client.Object)); !denied(err) {
					t.Errorf("taken away: err = %v", err)
				}
				if err := errors.Join(cluster.Client.Update(ctx, o), cluster.Client.Delete(ctx, o)); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}
