package meshctl_test

import (
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent/certificates"
	"github.com/isthmus-mesh/isthmus/internal/agent/restart"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
	"github.com/isthmus-mesh/isthmus/internal/version"
)

const meshName = "istiod-istio-system-east"

// populate makes the member a cluster with an agent, istiod, a gateway and two workloads, of which one is in no mesh.
func (w *world) populate(t *testing.T, root string) {
	t.Helper()
	m := &clusterOf{w.member}
	for _, ns := range []string{"isthmus-agent", "istio-system", "istio-ingress"} {
		m.Namespace(t, ns, nil)
	}
	m.create(t,
		deployment("isthmus-agent", "isthmus-agent", corev1.Container{Name: "agent", Image: "x", Args: []string{"--cluster=east"}}),
		deployment("istio-system", "istiod", corev1.Container{Name: "discovery", Image: "x", Args: []string{"discovery"}}),
		deployment("istio-ingress", "gateway", corev1.Container{Name: "istio-proxy", Image: "x", Args: []string{"proxy", "router"}}),
		deployment("default", "reviews", corev1.Container{Name: "istio-proxy", Image: "x", Args: []string{"proxy", "sidecar"}}),
		deployment("default", "outside", corev1.Container{Name: "app", Image: "x"}),
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: certificates.RootConfigMap}, Data: map[string]string{"root-cert.pem": root}},
	)
	started := time.Now().Add(-time.Hour)
	for _, d := range []struct{ namespace, name string }{{"istio-system", "istiod"}, {"istio-ingress", "gateway"}, {"default", "reviews"}, {"default", "outside"}} {
		m.pod(t, d.namespace, d.name, started)
	}
}

func deployment(namespace, name string, c corev1.Container) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{c}}},
		},
	}
}

// pod makes a running pod of a Deployment, as its ReplicaSet and a kubelet would.
func (c *clusterOf) pod(t *testing.T, namespace, name string, started time.Time) {
	t.Helper()
	d := &appsv1.Deployment{}
	if err := exists(c.Client, d, namespace, name); err != nil {
		t.Fatal(err)
	}
	isController := true
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name + "-1-x", Labels: map[string]string{"app": name, appsv1.DefaultDeploymentUniqueLabelKey: "1"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: name + "-1", UID: "x", Controller: &isController}},
		},
		Spec: d.Spec.Template.Spec,
	}
	no := false
	pod.Spec.ServiceAccountName, pod.Spec.AutomountServiceAccountToken = "default", &no
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "default"}}
	if err := client.IgnoreAlreadyExists(c.Client.Create(t.Context(), account)); err != nil {
		t.Fatal(err)
	}
	status := corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(started)}},
		ContainerStatuses: []corev1.ContainerStatus{{
			Name: pod.Spec.Containers[0].Name, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(started)}},
		}},
	}
	pod.Status = status
	c.create(t, pod)
}

// order gives the mesh to the hub, and an order that the agent has put into cacerts.
func (w *world) order(t *testing.T, root *pkitest.CA) (fingerprint string) {
	t.Helper()
	h := &clusterOf{w.hub}
	h.Namespace(t, "isthmus-system", nil)
	h.Namespace(t, "isthmus-east", nil)
	text := rootPEM(root)
	fingerprint = pki.RootOf(root.Top().Cert).ID().String()
	h.create(t,
		&v1alpha1.Mesh{
			ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-east", Name: meshName},
			Spec: v1alpha1.MeshSpec{Cluster: "east", Istio: v1alpha1.IstioMesh{
				RootNamespace: "istio-system", TrustDomain: "cluster.local", IstiodServiceAccount: "istiod",
				Revisions: []v1alpha1.IstioRevision{{Name: "default", Deployment: "istiod", Version: "1.31.1", Replicas: 1}},
			}},
			Status: v1alpha1.MeshStatus{CertificateAuthority: &v1alpha1.MeshCertificateAuthority{
				Source: v1alpha1.CASourceIsthmus, Signer: fingerprint, Roots: []string{fingerprint},
				NotAfter: &metav1.Time{Time: time.Date(2031, 5, 1, 0, 0, 0, 0, time.UTC)},
			}},
		},
		&v1alpha1.IssuedCertificate{
			ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-east", Name: meshName},
			Spec: v1alpha1.IssuedCertificateSpec{
				VirtualMesh: v1alpha1.ObjectRef{Name: "virtual-mesh", Namespace: "isthmus-system"},
				Issuance:    1, Hosts: []string{"spiffe://cluster.local/ns/istio-system/sa/istiod"}, Signer: fingerprint,
				Roots:                   []v1alpha1.RootCertificate{{Fingerprint: fingerprint, Certificate: text}},
				IssuedCertificateSecret: v1alpha1.SecretRef{Name: "cacerts", Namespace: "istio-system"},
			},
			Status: v1alpha1.IssuedCertificateStatus{
				ConditionedStatus: v1alpha1.ConditionedStatus{ObservedGeneration: 1}, State: v1alpha1.IssuedCertificateIssued,
				Certificate: &v1alpha1.IntermediateStatus{Issuance: 1, Fingerprint: strings.Repeat("a", 64), Signer: fingerprint, Roots: []string{fingerprint}, NotAfter: metav1.NewTime(time.Now().Add(300 * 24 * time.Hour).Truncate(time.Second))},
			},
		})
	return fingerprint
}

func rootPEM(c *pkitest.CA) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Top().Cert.Raw}))
}

// restartedFor returns the tokens of restarts, by Deployment; "" where there was none.
func (w *world) restartedFor(t *testing.T) map[string]string {
	t.Helper()
	list := &appsv1.DeploymentList{}
	if err := w.member.Client.List(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	tokens := map[string]string{}
	for _, d := range list.Items {
		tokens[d.Name] = d.Spec.Template.Annotations[restart.Annotation]
	}
	return tokens
}

// TestMeshRestart: istiod first; workloads only when it has published the new roots; nothing twice.
func TestMeshRestart(t *testing.T) {
	w := newWorld(t)
	root := pkitest.NewRoot(t, "new", time.Now())
	w.fails(t, 1, "no mesh is known", "mesh", "restart", meshName, "--member-context", "member")
	w.order(t, root)
	w.fails(t, 1, "known are "+meshName, "mesh", "restart", "nonsense", "--member-context", "member")
	w.fails(t, 2, "no agent", "mesh", "restart", meshName, "--member-context", "member")
	w.populate(t, rootPEM(pkitest.NewRoot(t, "old", time.Now())))

	w.givesUp(t, "waiting for istiod to publish the new roots", "mesh", "restart", meshName, "--member-context", "member")
	first := w.restartedFor(t)
	if first["istiod"] == "" || first["gateway"] != "" || first["reviews"] != "" {
		t.Fatalf("before the roots are published, restarted were %v", first)
	}

	roots := &corev1.ConfigMap{}
	if err := exists(w.member.Client, roots, "istio-system", certificates.RootConfigMap); err != nil {
		t.Fatal(err)
	}
	roots.Data["root-cert.pem"] = rootPEM(root)
	if err := w.member.Client.Update(t.Context(), roots); err != nil {
		t.Fatal(err)
	}
	w.ok(t, "mesh", "restart", meshName, "--member-context", "member")
	second := w.restartedFor(t)
	if second["istiod"] != first["istiod"] {
		t.Error("istiod was restarted twice for one order")
	}
	if second["gateway"] == "" || second["reviews"] == "" || second["outside"] != "" || second["isthmus-agent"] != "" {
		t.Fatalf("restarted were %v", second)
	}
	w.ok(t, "mesh", "restart", meshName, "--member-context", "member")
	if third := w.restartedFor(t); fmt.Sprint(third) != fmt.Sprint(second) {
		t.Fatalf("the second run restarted again: %v, then %v", second, third)
	}
}

// TestMeshRestartOnTheWay: where the agent waits for a restart before it writes all that is ordered, that is enough.
func TestMeshRestartOnTheWay(t *testing.T) {
	w := newWorld(t)
	root := pkitest.NewRoot(t, "new", time.Now())
	w.order(t, root)
	w.populate(t, rootPEM(pkitest.NewRoot(t, "old", time.Now())))
	order := &v1alpha1.IssuedCertificate{}
	if err := exists(w.hub.Client, order, "isthmus-east", meshName); err != nil {
		t.Fatal(err)
	}
	report := func(conditions ...metav1.Condition) {
		t.Helper()
		order.Status.ObservedGeneration, order.Status.Conditions = order.Generation, conditions
		order.Status.Certificate.Roots = []string{oldRoot}
		if err := w.hub.Client.Status().Update(t.Context(), order); err != nil {
			t.Fatal(err)
		}
	}
	report()
	w.givesUp(t, "waiting for the agent to write the new certificates", "mesh", "restart", meshName, "--member-context", "member")
	if got := w.restartedFor(t); got["istiod"] != "" {
		t.Fatalf("restarted were %v", got)
	}
	report(metav1.Condition{
		Type: v1alpha1.ConditionRestartPending, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonRestartRequired, Message: "istiod must be restarted",
		ObservedGeneration: order.Generation, LastTransitionTime: metav1.Now(),
	})
	w.givesUp(t, "waiting for istiod to publish the new roots", "mesh", "restart", meshName, "--member-context", "member")
	if got := w.restartedFor(t); got["istiod"] == "" || got["reviews"] != "" {
		t.Fatalf("restarted were %v", got)
	}
}

// TestMeshRestartInARotation: what the step asks for is restarted, although every leaf is under the ordered signer, and nothing
// where it asks for nothing.
func TestMeshRestartInARotation(t *testing.T) {
	w := newWorld(t)
	root := pkitest.NewRoot(t, "new", time.Now())
	fingerprint := w.order(t, root)
	w.populate(t, rootPEM(root))
	order := &v1alpha1.IssuedCertificate{}
	if err := exists(w.hub.Client, order, "isthmus-east", meshName); err != nil {
		t.Fatal(err)
	}
	order.Spec.Rotation = &v1alpha1.OrderRotation{
		RotationID: "r-1", Step: v1alpha1.StepAddingNewRoot, Old: oldRoot, New: fingerprint, Stage: v1alpha1.StageNewOnly,
	}
	if err := w.hub.Client.Update(t.Context(), order); err != nil {
		t.Fatal(err)
	}
	seen := func(clients []string, trust int32) {
		t.Helper()
		order.Status.State, order.Status.ObservedGeneration = v1alpha1.IssuedCertificateFinished, order.Generation
		order.Status.ControlPlane = &v1alpha1.ControlPlaneEvidence{Replicas: []v1alpha1.IstiodReplica{{
			Pod: "istiod-1-x", Signer: fingerprint, Roots: []string{fingerprint}, Clients: clients, Intermediate: order.Status.Certificate.Fingerprint,
		}}}
		order.Status.Proxies = &v1alpha1.ProxyEvidence{Total: 2, SignedByNew: 2, TrustsNew: trust}
		if err := w.hub.Client.Status().Update(t.Context(), order); err != nil {
			t.Fatal(err)
		}
	}
	run := func() map[string]string {
		t.Helper()
		w.ok(t, "mesh", "restart", meshName, "--member-context", "member")
		return w.restartedFor(t)
	}
	seen([]string{fingerprint}, 1)
	if got := run(); got["istiod"] != "" || got["reviews"] != "" {
		t.Errorf("nothing was asked for, restarted were %v", got)
	}
	order.Spec.Restart.Workloads = true
	if err := w.hub.Client.Update(t.Context(), order); err != nil {
		t.Fatal(err)
	}
	seen([]string{fingerprint}, 1)
	if got := run(); got["istiod"] != "" || got["reviews"] == "" {
		t.Errorf("a proxy does not trust the new root, restarted were %v", got)
	}
	seen([]string{fingerprint, oldRoot}, 2)
	if got := run(); got["istiod"] == "" {
		t.Errorf("istiod lets clients in under the root that was dropped, restarted were %v", got)
	}
}

// TestMeshRelease: refused for a member; then nothing is ordered or kept, and cacerts is left.
func TestMeshRelease(t *testing.T) {
	w := newWorld(t)
	root := pkitest.NewRoot(t, "new", time.Now())
	w.order(t, root)
	w.populate(t, rootPEM(root))
	m, h := &clusterOf{w.member}, &clusterOf{w.hub}
	labels := map[string]string{v1alpha1.LabelManagedBy: "isthmus-agent", v1alpha1.LabelVirtualMesh: "virtual-mesh.isthmus-system", "mine": "yes"}
	of := map[string]string{certificates.AnnotationMesh: meshName}
	m.create(t,
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "cacerts", Labels: labels}, Data: map[string][]byte{"ca-key.pem": []byte("x")}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-agent", Name: certificates.WantedPrefix + meshName, Annotations: of}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-agent", Name: certificates.PendingPrefix + "0", Annotations: of}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-agent", Name: "another"}},
	)
	spec := v1alpha1.VirtualMeshSpec{Meshes: []v1alpha1.ObjectRef{{Name: meshName, Namespace: "isthmus-east"}}}
	vm := &v1alpha1.VirtualMesh{
		ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-system", Name: "virtual-mesh"}, Spec: spec,
		Status: v1alpha1.VirtualMeshStatus{Accepted: &v1alpha1.AcceptedVirtualMesh{Generation: 1, Spec: spec}},
	}
	h.create(t, vm)
	w.fails(t, 1, "is a member of VirtualMesh virtual-mesh.isthmus-system", "mesh", "release", meshName, "--member-context", "member")
	if err := exists(w.hub.Client, &v1alpha1.IssuedCertificate{}, "isthmus-east", meshName); err != nil {
		t.Fatalf("the refused release changed something: %v", err)
	}
	if err := w.hub.Client.Delete(t.Context(), vm); err != nil {
		t.Fatal(err)
	}
	_, said, code := w.meshctl(t, "mesh", "release", meshName, "--member-context", "member")
	if code != 0 || !strings.Contains(said, "2031-05-01") {
		t.Fatalf("exit code %d; that nobody renews it has to be said: %s", code, said)
	}
	if err := exists(w.hub.Client, &v1alpha1.IssuedCertificate{}, "isthmus-east", meshName); !apierrors.IsNotFound(err) {
		t.Errorf("the order is left: %v", err)
	}
	left := &corev1.SecretList{}
	if err := w.member.Client.List(t.Context(), left, client.InNamespace("isthmus-agent")); err != nil || len(left.Items) != 1 || left.Items[0].Name != "another" {
		t.Errorf("of the agent's Secrets, %d are left: %v", len(left.Items), err)
	}
	cacerts := &corev1.Secret{}
	if err := exists(w.member.Client, cacerts, "istio-system", "cacerts"); err != nil {
		t.Fatal(err)
	}
	if len(cacerts.Labels) != 1 || cacerts.Labels["mine"] != "yes" || string(cacerts.Data["ca-key.pem"]) != "x" {
		t.Errorf("cacerts: labels %v, %d bytes", cacerts.Labels, len(cacerts.Data["ca-key.pem"]))
	}
	w.ok(t, "mesh", "release", meshName, "--member-context", "member") // again

	// Under limited trust the CA of a member is no matter of the others, and the certificate of its gateways is.
	spec.MTLSConfig = &v1alpha1.MTLSConfig{Limited: &v1alpha1.LimitedTrust{}}
	limited := &v1alpha1.VirtualMesh{
		ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-system", Name: "limited"}, Spec: spec,
		Status: v1alpha1.VirtualMeshStatus{Accepted: &v1alpha1.AcceptedVirtualMesh{Generation: 1, Spec: spec}},
	}
	gateways := membership.GatewayOrder(meshName)
	orderOf := func(name string) *v1alpha1.IssuedCertificate {
		return &v1alpha1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-east", Name: name}, Spec: v1alpha1.IssuedCertificateSpec{
			VirtualMesh: v1alpha1.ObjectRef{Name: "limited", Namespace: "isthmus-system"}, Issuance: 1, Hosts: []string{"spiffe://x/y"},
			Signer: strings.Repeat("a", 64), Roots: []v1alpha1.RootCertificate{{Fingerprint: strings.Repeat("a", 64), Certificate: "x"}},
			IssuedCertificateSecret: v1alpha1.SecretRef{Name: "x", Namespace: "x"},
		}}
	}
	h.create(t, limited)
	w.fails(t, 1, "nothing has to be restarted: VirtualMesh limited.isthmus-system has mtlsConfig.limited", "mesh", "restart", meshName, "--member-context", "member")
	h.create(t, orderOf(meshName), orderOf(gateways))
	w.ok(t, "mesh", "release", meshName, "--member-context", "member")
	if err := exists(w.hub.Client, &v1alpha1.IssuedCertificate{}, "isthmus-east", meshName); !apierrors.IsNotFound(err) {
		t.Errorf("the order for the CA of a member under limited trust is left: %v", err)
	}
	if err := exists(w.hub.Client, &v1alpha1.IssuedCertificate{}, "isthmus-east", gateways); err != nil {
		t.Errorf("the order for its gateways: %v", err)
	}
}

// TestDescribeAndCheck on objects as hub and agents leave them.
func TestDescribeAndCheck(t *testing.T) {
	w := newWorld(t)
	fingerprint := w.order(t, pkitest.NewRoot(t, "new", time.Now()))
	h := &clusterOf{w.hub}
	spec := v1alpha1.VirtualMeshSpec{Meshes: []v1alpha1.ObjectRef{{Name: meshName, Namespace: "isthmus-east"}}}
	mesh := &v1alpha1.Mesh{}
	if err := exists(w.hub.Client, mesh, "isthmus-east", meshName); err != nil {
		t.Fatal(err)
	}
	mesh.Status.Vault = &v1alpha1.MeshVault{
		VirtualMesh: "virtual-mesh.isthmus-system", Server: "https://vault.example", CAPath: "pki/root/sign-intermediate",
		Reason: "VaultUnreachable", Message: "it does not answer",
	}
	if err := w.hub.Client.Status().Update(t.Context(), mesh); err != nil {
		t.Fatal(err)
	}
	h.create(t,
		&v1alpha1.VirtualMesh{
			ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-system", Name: "virtual-mesh"}, Spec: spec,
			Status: v1alpha1.VirtualMeshStatus{
				State: v1alpha1.StateAccepted, Accepted: &v1alpha1.AcceptedVirtualMesh{Generation: 1, Spec: spec},
				Roots: []v1alpha1.RootStatus{{Generation: 1, Fingerprint: fingerprint, Role: v1alpha1.RootSigning, NotAfter: metav1.NewTime(time.Now().Add(-time.Hour))}},
				ConditionedStatus: v1alpha1.ConditionedStatus{Conditions: []metav1.Condition{{
					Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady, LastTransitionTime: metav1.Now(),
				}}},
			},
		},
		&v1alpha1.Destination{
			ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-east", Name: "reviews.default"},
			Spec: v1alpha1.DestinationSpec{Cluster: "east", Mesh: meshName, Identities: []string{"spiffe://cluster.local/ns/default/sa/reviews"},
				KubeService: v1alpha1.KubeService{Name: "reviews", Namespace: "default", Type: "ClusterIP", Ports: []v1alpha1.KubeServicePort{{Name: "http", Port: 9080}}}},
		},
		&v1alpha1.Workload{
			ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-east", Name: "deployment.reviews-v1.default"},
			Spec: v1alpha1.WorkloadSpec{Cluster: "east", Mesh: meshName, DataPlane: v1alpha1.DataPlaneSidecar, ServiceAccount: "reviews",
				Controller: v1alpha1.ControllerRef{Kind: "Deployment", Name: "reviews-v1", Namespace: "default"}},
		})
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"virtualmesh", "virtual-mesh"}, []string{fingerprint, meshName, "ACCEPTED", "Signing", "ISSUED"}},
		{[]string{"vmesh", "virtual-mesh", "-o", "json"}, []string{`"kind": "VirtualMesh"`}},
		{[]string{"mesh", meshName}, []string{"1.31.1", "Isthmus", fingerprint, "istio-system", "At Vault:", "https://vault.example", "VaultUnreachable it does not answer"}},
		{[]string{"destination", "reviews.default"}, []string{"9080", "sa/reviews"}},
		{[]string{"workload", "deployment.reviews-v1.default"}, []string{"Deployment reviews-v1.default", "Sidecar"}},
	} {
		out := w.ok(t, append([]string{"describe"}, c.args...)...)
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("describe %v lacks %q", c.args, want)
			}
		}
	}
	w.fails(t, 1, "no mesh is named", "describe", "mesh", "nonsense")
	w.fails(t, 2, "--output must be one of", "describe", "mesh", meshName, "-o", "xml")
	w.fails(t, 2, "accepts 1 arg", "describe", "mesh")
	w.fails(t, 2, "unknown command", "describe", "nonsense")
	w.fails(t, 2, "unknown flag", "check", "--nonsense")

	out, _, code := w.meshctl(t, "check")
	if err := contains(out, "ISTH1005", "ISTH5003"); code != 1 || err != nil {
		t.Fatalf("exit code %d; %v", code, err)
	}
	if out, _, code := w.meshctl(t, "check", "-o", "json"); code != 1 || !strings.Contains(out, `"code": "ISTH1005"`) {
		t.Fatalf("check -o json: exit code %d", code)
	}
	if out := w.ok(t, "version"); !strings.Contains(out, version.Version) {
		t.Errorf("version: %s", out)
	}
}

func contains(s string, wants ...string) error {
	var errs []error
	for _, want := range wants {
		if !strings.Contains(s, want) {
			errs = append(errs, errors.New("lacks "+want))
		}
	}
	return errors.Join(errs...)
}
