package meshctl_test

import (
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/istio/istiotest"
)

// TestGateways: the gateways of limited trust come where istiod injects them, and do not go while a virtual mesh needs them.
func TestGateways(t *testing.T) {
	w := newWorld(t)
	install := []string{"gateway", "install", "--member-context", "member", "--set", "ingress.service.type=NodePort"}
	w.fails(t, 2, "--member-context is required", "gateway", "install")
	w.fails(t, 1, "/ingress/service/type", "gateway", "install", "--member-context", "member", "--dry-run", "--set", "ingress.service.type=x")
	if dry := w.ok(t, append(install, "--dry-run")...); !strings.Contains(dry, "isthmus.dev/gateway: egress") || !strings.Contains(dry, "type: NodePort") {
		t.Fatal("--dry-run does not print the gateways")
	}
	w.fails(t, 1, "install Istio first", install...)
	if err := exists(w.member.Client, &appsv1.Deployment{}, v1alpha1.GatewaysNamespace, "isthmus-ingress"); !apierrors.IsNotFound(err) {
		t.Fatalf("gateways without Istio: %v", err)
	}
	member := &clusterOf{w.member}
	for _, obj := range istiotest.Manifest("sidecar") {
		if hook, ok := obj.(*admissionv1.MutatingWebhookConfiguration); ok {
			member.create(t, hook)
		}
	}
	w.fails(t, 1, "--set revision=REVISION", append(install, "--set", "revision=other")...)
	w.ok(t, install...)
	w.ok(t, append(install, "--set", "replicas=1")...) // again
	for _, name := range []string{"isthmus-ingress", "isthmus-egress"} {
		d := &appsv1.Deployment{}
		if err := exists(w.member.Client, d, v1alpha1.GatewaysNamespace, name); err != nil || *d.Spec.Replicas != 1 {
			t.Fatalf("%s: %v", name, err)
		}
	}
	ns := &corev1.Namespace{}
	if err := exists(w.member.Client, ns, "", v1alpha1.GatewaysNamespace); err != nil || ns.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
		t.Fatalf("namespace %v: %v", ns.Labels, err)
	}
	secret := &corev1.Secret{}
	secret.Namespace, secret.Name = v1alpha1.GatewaysNamespace, v1alpha1.GatewaySecretName
	member.create(t, secret)

	// A member of a virtual mesh under limited trust.
	uninstall := []string{"gateway", "uninstall", "--member-context", "member"}
	member.Namespace(t, v1alpha1.AgentNamespace, nil)
	member.create(t, deployment(v1alpha1.AgentNamespace, "isthmus-agent", corev1.Container{Name: "agent", Image: "x", Args: []string{"--cluster=east"}}))
	h := &clusterOf{w.hub}
	h.Namespace(t, v1alpha1.SystemNamespace, nil)
	vm := &v1alpha1.VirtualMesh{}
	vm.Namespace, vm.Name = v1alpha1.SystemNamespace, "virtual-mesh"
	vm.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Limited: &v1alpha1.LimitedTrust{}}
	vm.Spec.Meshes = []v1alpha1.ObjectRef{{Name: meshName, Namespace: "isthmus-east"}}
	vm.Status.Accepted = &v1alpha1.AcceptedVirtualMesh{Generation: 1, Spec: vm.Spec}
	h.create(t, vm)
	w.fails(t, 1, "VirtualMesh virtual-mesh.isthmus-system, which has mtlsConfig.limited", uninstall...)
	for _, err := range []error{
		exists(w.member.Client, &appsv1.Deployment{}, v1alpha1.GatewaysNamespace, "isthmus-egress"),
		exists(w.member.Client, &corev1.Secret{}, v1alpha1.GatewaysNamespace, v1alpha1.GatewaySecretName),
	} {
		if err != nil {
			t.Fatalf("after it was refused: %v", err)
		}
	}
	w.ok(t, append(uninstall, "--force")...)
	gone := func(what string) {
		t.Helper()
		if err := exists(w.member.Client, &appsv1.Deployment{}, v1alpha1.GatewaysNamespace, "isthmus-egress"); !apierrors.IsNotFound(err) {
			t.Fatalf("%s: %v", what, err)
		}
		if err := exists(w.member.Client, &corev1.Secret{}, v1alpha1.GatewaysNamespace, v1alpha1.GatewaySecretName); !apierrors.IsNotFound(err) {
			t.Fatalf("%s: %v", what, err)
		}
		if err := exists(w.member.Client, ns, "", v1alpha1.GatewaysNamespace); err != nil || ns.DeletionTimestamp == nil {
			t.Fatalf("%s: the namespace stays: %v", what, err) // nobody here takes away what is left of it
		}
	}
	gone("--force")

	h.status(t, vm.Namespace, vm.Name, func(vm *v1alpha1.VirtualMesh) {
		vm.Status.Accepted.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{}}
	})
	w.ok(t, uninstall...) // of nothing
	gone("again")
}
