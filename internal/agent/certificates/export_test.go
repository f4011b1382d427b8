package certificates

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
