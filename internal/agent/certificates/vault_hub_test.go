package certificates_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent"
	"github.com/isthmus-mesh/isthmus/internal/agent/certificates"
	"github.com/isthmus-mesh/isthmus/internal/agent/vault"
	"github.com/isthmus-mesh/isthmus/internal/hub"
	"github.com/isthmus-mesh/isthmus/internal/hub/hubtest"
	"github.com/isthmus-mesh/isthmus/internal/kube/hublink"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// join registers a cluster of its own at a hub and has the real agent run there, with what options say beside.
func join(t *testing.T, hubCluster *testenv.Cluster, name string, o agent.Options) (certificates.Member, *testenv.Cluster) {
	t.Helper()
	ctx := context.Background()
	memberCluster := testenv.Start(t)
	m := certificates.NewMember(t, hubCluster, memberCluster, name)
	for _, o := range []client.Object{
		&corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: m.RootNamespace(), Name: "istio", Labels: map[string]string{"istio.io/rev": "default"}},
			Data:       map[string]string{"mesh": "trustDomain: cluster.local\n"},
		},
		&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: m.AgentNamespace(), Name: "isthmus-hub-credential"},
			Data:       map[string][]byte{hublink.KubeconfigKey: hubCluster.Kubeconfig(t, hubCluster.Config, "")},
		},
	} {
		if err := memberCluster.Client.Create(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	if err := hubCluster.Client.Create(ctx, &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name}}); err != nil {
		t.Fatal(err)
	}
	o.Cluster, o.Namespace, o.Identity = name, m.AgentNamespace(), name
	o.HubKubeconfigSecret, o.IstioNamespaces = "isthmus-hub-credential", []string{m.RootNamespace()}
	mgr, _, err := agent.NewManager(memberCluster.Config, o)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	running, end := context.WithCancel(ctx)
	go func() { ended <- mgr.Start(running) }()
	t.Cleanup(func() {
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return m, memberCluster
}

// TestVaultStory: two members, with the real hub and the real agents, come to trust the root of a real Vault; it is replaced
// there, and the members follow step by step; and Vault may be sealed meanwhile. Only nodes are missing, and with them proxies.
func TestVaultStory(t *testing.T) {
	log.SetLogger(logr.Discard())
	ctx := context.Background()
	hubCluster, server := testenv.Start(t), testenv.StartVault(t)
	hubtest.Install(t, hubCluster)
	hubtest.Start(t, hubCluster, hub.Options{})
	first := server.PKI(t, "pki", "Root one")
	token := server.SignerToken(t, "pki", "4h")

	var members []certificates.Member
	vm := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "one"}}
	for _, name := range []string{"east", "west"} {
		m, _ := join(t, hubCluster, name, agent.Options{Vault: vault.Options{Servers: []string{server.URL}}})
		members = append(members, m)
		vm.Spec.Meshes = append(vm.Spec.Meshes, v1alpha1.ObjectRef{Name: m.Mesh()})
		m.Token(token)
	}
	ended := server.SignerToken(t, "pki", "4h")
	server.Write(t, "auth/token/revoke", map[string]any{"token": ended})
	members[0].Token(ended)
	vm.Spec.MTLSConfig = &v1alpha1.MTLSConfig{
		AutoRestartPods: true,
		Shared: &v1alpha1.SharedTrust{
			IntermediateCertificateAuthority: &v1alpha1.IntermediateCertificateAuthority{Vault: v1alpha1.VaultCA{
				Server: server.URL, CAPath: "pki/root/sign-intermediate", CABundle: server.CABundle, TokenSecretRef: &v1alpha1.LocalSecretRef{Name: "vault-token"},
			}},
			IntermediateCertOptions: &v1alpha1.CertOptions{RSAKeySizeBytes: new(int32(2048))},
		},
	}
	if err := hubCluster.Client.Create(ctx, vm); err != nil {
		t.Fatal(err)
	}

	// goOn lets the clusters live until the virtual mesh is as the test wants it.
	goOn := func(what string, is func() error) {
		t.Helper()
		var err error
		for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
			for _, m := range members {
				if err := m.Turn(); err != nil {
					t.Fatal(err)
				}
			}
			if err = hubCluster.Client.Get(ctx, client.ObjectKeyFromObject(vm), vm); err == nil {
				err = is()
			}
			if err == nil {
				return
			}
		}
		t.Fatalf("%s: %v; rotation %+v; conditions %+v", what, err, vm.Status.Rotation, vm.Status.Conditions)
	}
	deployed := func(root pki.Root) error {
		if d := vm.Status.DeployedSharedTrust; d == nil || d.Root != root.ID().String() || !meta.IsStatusConditionTrue(vm.Status.Conditions, v1alpha1.ConditionReady) {
			return errors.New("not deployed")
		}
		for _, m := range members {
			if s := m.Serves(); s.Root.ID() != root.ID() || s.Roots.Len() != 1 {
				return fmt.Errorf("istiod of %s serves under %s, of %d roots", m.Mesh(), s.Root.ID().Short(), s.Roots.Len())
			}
		}
		return nil
	}
	condition := func(conditionType string) metav1.Condition {
		if c := meta.FindStatusCondition(vm.Status.Conditions, conditionType); c != nil {
			return *c
		}
		return metav1.Condition{}
	}

	// What is wrong with a credential is said before anything has to be signed, and does not keep the root from being taken.
	goOn("complaint about the token", func() error {
		if c := condition(v1alpha1.ConditionVaultReachable); c.Status != metav1.ConditionFalse || c.Reason != vault.ReasonDenied || !strings.Contains(c.Message, "put a token that is valid") {
			return fmt.Errorf("%+v", c)
		}
		if !meta.IsStatusConditionTrue(vm.Status.Conditions, v1alpha1.ConditionRootReady) {
			return errors.New("no root")
		}
		return nil
	})
	members[0].Token(token)
	goOn("adoption", func() error { return deployed(first) })
	goOn("no complaint", func() error {
		if !meta.IsStatusConditionTrue(vm.Status.Conditions, v1alpha1.ConditionVaultReachable) {
			return fmt.Errorf("%+v", condition(v1alpha1.ConditionVaultReachable))
		}
		return nil
	})
	if a, b := members[0].Serves().Certificate, members[1].Serves().Certificate; a.CheckSignatureFrom(first.Certificate()) != nil || bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo) {
		t.Error("not signed by Vault, each for a key of its own")
	}
	var requests v1alpha1.CertificateRequestList
	if err := hubCluster.Client.List(ctx, &requests); err != nil || len(requests.Items) > 0 {
		t.Errorf("%d requests at the hub, %v", len(requests.Items), err)
	}
	restarts := members[0].Restarts()

	server.Seal(t)
	goOn("complaint", func() error {
		if c := condition(v1alpha1.ConditionVaultReachable); c.Status != metav1.ConditionFalse || c.Reason != vault.ReasonSealed || !strings.Contains(c.Message, "unseal it") {
			return fmt.Errorf("%+v", c)
		}
		return deployed(first)
	})
	server.Unseal(t)

	second := server.NewRoot(t, "pki", "Root two")
	both := map[string]bool{}
	goOn("rotation", func() error {
		for _, m := range members {
			s := m.Serves()
			both[fmt.Sprintf("%s signs under %s of %d", m.Mesh(), s.Root.Certificate().Subject.CommonName, s.Roots.Len())] = true
		}
		return deployed(second)
	})
	for _, m := range members {
		for _, state := range []string{"Root one of 2", "Root two of 2", "Root two of 1"} {
			if !both[m.Mesh()+" signs under "+state] {
				t.Errorf("%s was never seen to sign under %s; seen was %v", m.Mesh(), state, both)
			}
		}
	}
	var steps []v1alpha1.RotationStep
	for _, c := range vm.Status.Rotation.Conditions {
		if c.State != v1alpha1.StepVerified && c.State != v1alpha1.StepVerifying && !strings.Contains(c.Message, "no rotation") {
			steps = append(steps, c.State)
		}
	}
	want := []v1alpha1.RotationStep{v1alpha1.StepAddingNewRoot, v1alpha1.StepPropagatingNewIntermediate, v1alpha1.StepDeletingOldRoot, v1alpha1.StepFinished}
	if steps = slices.Compact(steps); len(steps) < len(want) || !slices.Equal(steps[len(steps)-len(want):], want) {
		t.Errorf("steps %v", steps)
	}
	if n := members[0].Restarts(); n != restarts+1 {
		t.Errorf("istiod was restarted %d times for the rotation, want once, at the end", n-restarts)
	}
}
