package meshctl_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
	helmtime "helm.sh/helm/v3/pkg/time"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/istio/istiotest"
	"github.com/isthmus-mesh/isthmus/internal/membership"
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
	injectors := func(of string) {
		t.Helper()
		if err := w.member.Client.DeleteAllOf(t.Context(), &admissionv1.MutatingWebhookConfiguration{}); err != nil {
			t.Fatal(err)
		}
		for _, obj := range istiotest.Manifest(of) {
			if hook, ok := obj.(*admissionv1.MutatingWebhookConfiguration); ok {
				member.create(t, hook)
			}
		}
	}
	injectors("sidecar")
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
	injectors("revisions")
	w.fails(t, 1, "--set revision=REVISION", install...)
	w.ok(t, append(install, "--set", "revision=1-31")...)
	w.ok(t, install...) // of the same revision
	if dry := w.ok(t, append(install, "--dry-run")...); !strings.Contains(dry, "istio.io/rev: 1-31") {
		t.Error("--dry-run does not print the revision that was given earlier")
	}
	w.fails(t, 1, "--set revision=REVISION", append(install, "--set", "revision=null")...)

	clientset, err := kubernetes.NewForConfig(w.member.Config)
	if err != nil {
		t.Fatal(err)
	}
	releases := storage.Init(driver.NewSecrets(clientset.CoreV1().Secrets(v1alpha1.GatewaysNamespace)))
	uninstalling := func(since time.Time) { // and interrupted
		t.Helper()
		last, err := releases.Last("isthmus-gateways")
		if err != nil {
			t.Fatal(err)
		}
		last.Info.Status, last.Info.Deleted = release.StatusUninstalling, helmtime.Time{Time: since}
		if err := releases.Update(last); err != nil {
			t.Fatal(err)
		}
	}
	uninstalling(time.Now())
	w.fails(t, 1, "try again in", install...)
	uninstalling(time.Now().Add(-time.Hour))
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.GatewaysNamespace, Name: "isthmus-egress"}}
	if err := w.member.Client.Delete(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	w.ok(t, install...)
	if err := exists(w.member.Client, account, account.Namespace, account.Name); err != nil {
		t.Errorf("after an interrupted uninstall: %v", err)
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
	h.Namespace(t, "isthmus-east", nil)
	orders := []string{meshName, membership.GatewayOrder(meshName)}
	for i, name := range orders {
		o := &v1alpha1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-east", Name: name}}
		o.Spec = v1alpha1.IssuedCertificateSpec{
			VirtualMesh: v1alpha1.ObjectRef{Name: vm.Name, Namespace: vm.Namespace}, Hosts: []string{"spiffe://cluster.local/ns/istio-system/sa/istiod"},
			Issuance: 1, Signer: strings.Repeat("a", 64), Roots: []v1alpha1.RootCertificate{{Fingerprint: strings.Repeat("a", 64), Certificate: "x"}},
			IssuedCertificateSecret: v1alpha1.SecretRef{Name: "x", Namespace: []string{"istio-system", v1alpha1.GatewaysNamespace}[i]},
		}
		h.create(t, o)
	}
	ordered := func(what string, want ...string) {
		t.Helper()
		var list v1alpha1.IssuedCertificateList
		if err := h.Client.List(t.Context(), &list); err != nil {
			t.Fatal(err)
		}
		var got []string
		for i := range list.Items {
			got = append(got, list.Items[i].Name)
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s: the hub orders %v, want %v", what, got, want)
		}
	}
	w.fails(t, 2, "has no KubernetesCluster east in namespace isthmus-system", uninstall...) // as of another hub
	h.create(t, &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "east"}})
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
	ordered("--force, as they are needed", orders...)

	h.status(t, vm.Namespace, vm.Name, func(vm *v1alpha1.VirtualMesh) {
		vm.Status.Accepted.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{}}
	})
	w.ok(t, uninstall...) // of nothing
	gone("again")
	ordered("when nobody needs them", meshName)
}

// TestDescribeLimited: under limited trust the certificates that count are those of gateways.
func TestDescribeLimited(t *testing.T) {
	w := newWorld(t)
	w.federated(t)
	h := &clusterOf{w.hub}
	h.status(t, "isthmus-system", "virtual-mesh", func(vm *v1alpha1.VirtualMesh) {
		vm.Status.Accepted.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Limited: &v1alpha1.LimitedTrust{}}
	})
	vm, east := &v1alpha1.VirtualMesh{}, &v1alpha1.Mesh{}
	for _, err := range []error{exists(w.hub.Client, vm, "isthmus-system", "virtual-mesh"), exists(w.hub.Client, east, "isthmus-east", eastMesh)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	vm.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Limited: &v1alpha1.LimitedTrust{}}
	east.Spec.Istio.Gateways = append(east.Spec.Istio.Gateways, v1alpha1.IngressGateway{
		Name: "isthmus-ingress", Namespace: "isthmus-gateways", Class: v1alpha1.GatewayLimitedIngress, Addresses: []string{"172.31.0.12"},
		Identities: []string{"spiffe://east.example/ns/isthmus-gateways/sa/isthmus-ingress"},
		Ports:      []v1alpha1.GatewayPort{{Name: "tls", Port: 15443, ExternalPort: 15443, TargetPort: 15443}},
	})
	for _, obj := range []client.Object{vm, east} {
		if err := w.hub.Client.Update(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
	ends := metav1.NewTime(time.Date(2031, 5, 1, 0, 0, 0, 0, time.UTC))
	const root, old = "aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"
	east.Status.GatewayCertificate = &v1alpha1.MeshGatewayCertificate{VirtualMesh: "virtual-mesh.isthmus-system", Signer: root, Roots: []string{root}, NotAfter: &ends}
	if err := w.hub.Client.Status().Update(t.Context(), east); err != nil {
		t.Fatal(err)
	}
	order := func(name, signer string, purpose v1alpha1.CertificatePurpose, replicas ...v1alpha1.IstiodReplica) *v1alpha1.IssuedCertificate {
		return &v1alpha1.IssuedCertificate{
			ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-east", Name: name},
			Spec: v1alpha1.IssuedCertificateSpec{
				VirtualMesh: v1alpha1.ObjectRef{Name: "virtual-mesh", Namespace: "isthmus-system"}, Purpose: purpose, Issuance: 1, Hosts: []string{"spiffe://x/y"},
				Signer: strings.Repeat(signer, 4), Roots: []v1alpha1.RootCertificate{{Fingerprint: strings.Repeat(signer, 4), Certificate: "x"}},
				IssuedCertificateSecret: v1alpha1.SecretRef{Name: "x", Namespace: "x"},
			},
			Status: v1alpha1.IssuedCertificateStatus{
				State:        v1alpha1.IssuedCertificateFinished,
				Certificate:  &v1alpha1.IntermediateStatus{Issuance: 1, Fingerprint: strings.Repeat("c", 64), Signer: strings.Repeat(signer, 4), Roots: []string{strings.Repeat(signer, 4)}, NotAfter: ends},
				ControlPlane: &v1alpha1.ControlPlaneEvidence{Replicas: replicas},
			},
		}
	}
	h.create(t,
		order(membership.GatewayOrder(eastMesh), root, v1alpha1.PurposeGateway,
			v1alpha1.IstiodReplica{Pod: "isthmus-ingress-1", Signer: strings.Repeat(root, 4)}, v1alpha1.IstiodReplica{Pod: "isthmus-egress-1", Error: "it does not answer"}),
		order(eastMesh, old, v1alpha1.PurposeMeshCA))
	for _, c := range []struct {
		kind, name string
		want       []string
	}{
		{"virtualmesh", "virtual-mesh", []string{
			"limited: members know each other by their gateways", "those of limited trust, labelled isthmus.dev/gateway",
			"GATEWAYS\n", "FINISHED     " + root + "  2031-05-01 00:00:00  1/2\n", "Renewed as well:", "CA of the mesh  FINISHED     " + old,
		}},
		{"mesh", eastMesh, []string{
			"Certificate in use by the gateways of limited trust:", "Order of the gateways:", "isthmus-egress-1   ", "it does not answer",
			"isthmus-ingress.isthmus-gateways    LimitedIngress  15443     172.31.0.12  spiffe://east.example/ns/isthmus-gateways/sa/isthmus-ingress",
		}},
	} {
		out := w.ok(t, "describe", c.kind, c.name)
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("describe %s lacks %q", c.kind, want)
			}
		}
	}
}
