package certificates

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// Member is the cluster of a member whose hub and agent are the real ones: an istiod, its Deployment and its kubelet.
type Member struct{ w *world }

// NewMember makes one, whose istiod takes changed roots live.
func NewMember(t *testing.T, hub, member *testenv.Cluster, cluster string) Member {
	w := newMember(t, hub, member, cluster)
	w.live = true
	w.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.rootNS, Name: selfSignedSecret}, Data: w.selfSigned.SelfSignedSecret(t)})
	return Member{w}
}

// RootNamespace of Istio.
func (m Member) RootNamespace() string { return m.w.rootNS }

// AgentNamespace of the agent.
func (m Member) AgentNamespace() string { return m.w.agentNS }

// Mesh is the name of its Mesh.
func (m Member) Mesh() string { return m.w.mesh() }

// Turn is what goes on without hub and agent.
func (m Member) Turn() error {
	m.w.turn()
	return m.w.invariants()
}

// Token puts a token of Vault where the agent finds it.
func (m Member) Token(value string) { m.w.token(value) }

// Serves is what the istiod that runs signs with.
func (m Member) Serves() (out pki.CACerts) {
	for _, s := range m.w.istiods {
		out = s.authority()
	}
	return out
}

// Restarts counts those of istiod.
func (m Member) Restarts() int { return m.w.rolls }

// HubNamespace is that of the cluster in the hub.
func (m Member) HubNamespace() string { return kube.ClusterNamespace(m.w.cluster) }

// HasCACerts tells whether cacerts exists.
func (m Member) HasCACerts() bool { return m.w.cacerts() != nil }

// Gateway makes a Service and a pod of a gateway of limited trust, and returns the pod's address.
func (m Member) Gateway(role string) string {
	w, labels := m.w, map[string]string{v1alpha1.LabelGateway: role}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.GatewaysNamespace, Name: "isthmus-" + role, Labels: labels},
		Spec: corev1.ServiceSpec{
			Selector: labels, ExternalIPs: []string{"192.0.2.1"}, Ports: []corev1.ServicePort{{Name: "tls", Port: 15443}},
		},
	}
	w.create(service)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.GatewaysNamespace, Name: "isthmus-" + role, Labels: labels},
		Spec: corev1.PodSpec{ServiceAccountName: "isthmus-" + role, Containers: []corev1.Container{{
			Name: "istio-proxy", Image: "istio/proxyv2:1.31.1", Args: []string{"proxy", "router"},
			Env: []corev1.EnvVar{{Name: "CA_ADDR", Value: "istiod." + w.rootNS + ".svc:15012"}},
		}}},
	}
	w.create(pod)
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: address(), ContainerStatuses: []corev1.ContainerStatus{{
		Name: "istio-proxy", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}},
	}}}
	if err := w.member.Status().Update(context.Background(), pod); err != nil {
		w.t.Fatal(err)
	}
	return pod.Status.PodIP
}
