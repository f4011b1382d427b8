package charts_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/charts"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// installGateways installs the chart and returns a client with the rights that it gives the agent.
func installGateways(t *testing.T, cluster *testenv.Cluster) client.Client {
	t.Helper()
	cluster.Namespace(t, v1alpha1.GatewaysNamespace, nil)
	return installAsAgent(t, cluster, charts.Gateways, v1alpha1.GatewaysNamespace, nil)
}

// TestGatewaySecret: the agent writes the certificate of the gateways, and nothing else beside them; the gateways' proxies are
// given it by istiod.
func TestGatewaySecret(t *testing.T) {
	ctx := t.Context()
	cluster := testenv.Start(t)
	agent := installGateways(t, cluster)
	cluster.Namespace(t, "default", nil)
	secret := func(namespace, name string) *corev1.Secret {
		s := &corev1.Secret{Type: corev1.SecretTypeOpaque, Data: map[string][]byte{"tls.crt": nil}}
		s.Namespace, s.Name = namespace, name
		return s
	}
	// The API server takes a moment to load policies.
	testenv.Eventually(t, "the policy is in force", func() error {
		if err := agent.Create(ctx, secret(v1alpha1.GatewaysNamespace, "other"), client.DryRunAll); !denied(err) {
			return fmt.Errorf("err = %w", err)
		}
		return nil
	})

	own := secret(v1alpha1.GatewaysNamespace, v1alpha1.GatewaySecretName)
	for range 2 { // a member leaves, and joins again
		if err := agent.Create(ctx, own); err != nil {
			t.Fatalf("created, which is the agent's business: %v", err)
		}
		own.Data["tls.crt"] = []byte("x")
		if err := agent.Update(ctx, own); err != nil {
			t.Errorf("changed: %v", err)
		}
		if err := agent.Get(ctx, client.ObjectKeyFromObject(own), &corev1.Secret{}); err != nil {
			t.Errorf("read: %v", err)
		}
		if err := agent.Delete(ctx, own); err != nil {
			t.Errorf("deleted: %v", err)
		}
		own = secret(own.Namespace, own.Name)
	}

	token := secret(v1alpha1.GatewaysNamespace, v1alpha1.GatewaySecretName)
	token.Type, token.Data = corev1.SecretTypeServiceAccountToken, nil
	token.Annotations = map[string]string{corev1.ServiceAccountNameKey: "isthmus-egress"}
	if err := agent.Create(ctx, token); !denied(err) {
		t.Errorf("a token of a gateway's ServiceAccount: %v", err)
	}
	generated := secret(v1alpha1.GatewaysNamespace, "")
	generated.GenerateName = v1alpha1.GatewaySecretName
	if err := agent.Create(ctx, generated); !denied(err) {
		t.Errorf("a name of the API server's choice: %v", err)
	}
	theirs := secret(v1alpha1.GatewaysNamespace, "theirs")
	if err := cluster.Client.Create(ctx, theirs); err != nil {
		t.Fatalf("somebody else: %v", err)
	}
	for what, err := range map[string]error{
		"read":           agent.Get(ctx, client.ObjectKeyFromObject(theirs), &corev1.Secret{}),
		"changed":        agent.Update(ctx, theirs.DeepCopy()),
		"deleted":        agent.Delete(ctx, theirs.DeepCopy()),
		"listed":         agent.List(ctx, &corev1.SecretList{}, client.InNamespace(v1alpha1.GatewaysNamespace)),
		"made elsewhere": agent.Create(ctx, secret("default", v1alpha1.GatewaySecretName)),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("a Secret of somebody else %s: %v", what, err)
		}
	}

	// What istiod asks before it serves a credentialName to a proxy (Istio: pilot/pkg/credentials/kube/secrets.go, Authorize).
	for account, want := range map[string]bool{"isthmus-ingress": true, "isthmus-egress": true, "default": false} {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               "system:serviceaccount:" + v1alpha1.GatewaysNamespace + ":" + account,
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: v1alpha1.GatewaysNamespace, Verb: "list", Resource: "secrets"},
		}}
		if err := cluster.Client.Create(ctx, review); err != nil {
			t.Fatal(err)
		}
		if review.Status.Allowed != want {
			t.Errorf("%s: allowed = %t", account, review.Status.Allowed)
		}
		review.Spec.ResourceAttributes.Namespace = "default"
		if err := cluster.Client.Create(ctx, review); err != nil || review.Status.Allowed {
			t.Errorf("%s, elsewhere: %t, %v", account, review.Status.Allowed, err)
		}
	}
}

// TestGatewayLabel: nobody who may create Services makes himself a gateway.
func TestGatewayLabel(t *testing.T) {
	ctx := t.Context()
	cluster := testenv.Start(t)
	installGateways(t, cluster)
	cluster.Namespace(t, "default", nil)
	service := func(namespace string, labels, selector map[string]string) *corev1.Service {
		s := &corev1.Service{Spec: corev1.ServiceSpec{Selector: selector, Ports: []corev1.ServicePort{{Name: "tls", Port: 15443}}}}
		s.Namespace, s.Name, s.Labels = namespace, "mine", labels
		return s
	}
	plain, mark := map[string]string{"app": "x"}, map[string]string{v1alpha1.LabelGateway: v1alpha1.GatewayRoleEgress}
	refused := func(err error) bool {
		return apierrors.IsInvalid(err) && strings.Contains(err.Error(), "otherNamespaces of the chart isthmus-gateways")
	}
	testenv.Eventually(t, "the policy is in force", func() error {
		if err := cluster.Client.Create(ctx, service("default", mark, plain), client.DryRunAll); !refused(err) {
			return fmt.Errorf("err = %w", err)
		}
		return nil
	})
	if err := cluster.Client.Create(ctx, service("default", nil, mark), client.DryRunAll); !refused(err) {
		t.Errorf("by its selector: %v", err)
	}
	if err := cluster.Client.Create(ctx, service(v1alpha1.GatewaysNamespace, mark, mark), client.DryRunAll); err != nil {
		t.Errorf("among the gateways: %v", err)
	}
	own := service("default", plain, nil)
	if err := cluster.Client.Create(ctx, own); err != nil {
		t.Fatalf("any other: %v", err)
	}
	own.Labels = mark
	if err := cluster.Client.Update(ctx, own); !refused(err) {
		t.Errorf("later on: %v", err)
	}
}

// TestGatewaysOfTheChart: both gateways are what discovery looks for, and istiod makes standalone proxies of them that pass on no
// more than Istio's Gateways say.
func TestGatewaysOfTheChart(t *testing.T) {
	roles := map[string]string{"isthmus-ingress": v1alpha1.GatewayRoleIngress, "isthmus-egress": v1alpha1.GatewayRoleEgress}
	deployments, services := 0, 0
	for _, obj := range render(t, charts.Gateways, v1alpha1.GatewaysNamespace, map[string]any{"revision": "1-31"}) {
		role := roles[obj.GetName()]
		switch obj.GetKind() {
		case "Deployment":
			deployments++
			d := &appsv1.Deployment{}
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, d); err != nil {
				t.Fatal(err)
			}
			pod := &d.Spec.Template
			for k, want := range map[string]string{v1alpha1.LabelGateway: role, "sidecar.istio.io/inject": "true", "istio.io/rev": "1-31"} {
				if pod.Labels[k] != want {
					t.Errorf("%s: label %s = %q", d.Name, k, pod.Labels[k])
				}
			}
			if selector, err := metav1.LabelSelectorAsMap(d.Spec.Selector); err != nil || len(selector) != 1 || selector[v1alpha1.LabelGateway] != role {
				t.Errorf("%s: selector %v, %v", d.Name, selector, err)
			}
			var config struct{ TerminationDrainDuration string }
			if err := json.Unmarshal([]byte(pod.Annotations["proxy.istio.io/config"]), &config); err != nil {
				t.Errorf("%s: %v", d.Name, err)
			}
			drain, err := time.ParseDuration(config.TerminationDrainDuration)
			if err != nil || drain <= 0 || drain.Seconds() >= float64(*pod.Spec.TerminationGracePeriodSeconds) {
				t.Errorf("%s: drains for %s of %d s: %v", d.Name, drain, *pod.Spec.TerminationGracePeriodSeconds, err)
			}
			proxy := pod.Spec.Containers[0]
			if pod.Annotations["inject.istio.io/templates"] != "gateway" || len(pod.Spec.Containers) != 1 || proxy.Name != "istio-proxy" || proxy.Image != "auto" {
				t.Errorf("%s: not injected as a gateway: %v, %+v", d.Name, pod.Annotations, pod.Spec.Containers)
			}
			// A router in that mode has a way to each service of its mesh.
			if slices.ContainsFunc(proxy.Env, func(e corev1.EnvVar) bool { return e.Name == "ISTIO_META_ROUTER_MODE" }) {
				t.Errorf("%s: env %v", d.Name, proxy.Env)
			}
			if d.Spec.Template.Spec.ServiceAccountName != d.Name || *d.Spec.Template.Spec.AutomountServiceAccountToken {
				t.Errorf("%s: ServiceAccount %s", d.Name, d.Spec.Template.Spec.ServiceAccountName)
			}
		case "Service":
			services++
			s := &corev1.Service{}
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, s); err != nil {
				t.Fatal(err)
			}
			want := map[string]corev1.ServiceType{v1alpha1.GatewayRoleIngress: corev1.ServiceTypeLoadBalancer, v1alpha1.GatewayRoleEgress: corev1.ServiceTypeClusterIP}[role]
			if s.Labels[v1alpha1.LabelGateway] != role || len(s.Spec.Selector) != 1 || s.Spec.Selector[v1alpha1.LabelGateway] != role || s.Spec.Type != want {
				t.Errorf("%s: %+v", s.Name, s)
			}
			if len(s.Spec.Ports) != 1 || s.Spec.Ports[0].Name != "tls" || s.Spec.Ports[0].Port != 15443 || s.Spec.Ports[0].TargetPort.IntValue() != 15443 {
				t.Errorf("%s: ports %+v", s.Name, s.Spec.Ports)
			}
		case "ClusterRole", "ClusterRoleBinding":
			t.Errorf("%s %s: rights in the whole cluster", obj.GetKind(), obj.GetName())
		}
	}
	if deployments != 2 || services != 2 {
		t.Errorf("%d Deployments, %d Services", deployments, services)
	}
}
