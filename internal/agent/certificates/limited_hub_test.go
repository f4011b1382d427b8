package certificates_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
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
	"github.com/isthmus-mesh/isthmus/internal/agent/evidence"
	"github.com/isthmus-mesh/isthmus/internal/hub"
	"github.com/isthmus-mesh/isthmus/internal/hub/hubtest"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// gateway is a pod of the gateways of limited trust: a TLS server with what the Secret holds, which it follows with some delay, as
// Envoy does.
type gateway struct {
	cluster *testenv.Cluster
	ip      string
	held    map[string][]byte
	asks    string // identity that it lets in where it is asked by its agent
}

// follow takes up what the Secret holds now.
func (g *gateway) follow() error {
	s := &corev1.Secret{}
	err := g.cluster.Client.Get(context.Background(), client.ObjectKey{Namespace: v1alpha1.GatewaysNamespace, Name: v1alpha1.GatewaySecretName}, s)
	if err == nil {
		g.held = s.Data
	}
	return client.IgnoreNotFound(err)
}

func (g *gateway) config() (cert tls.Certificate, roots *x509.CertPool, err error) {
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(g.held[corev1.ServiceAccountRootCAKey])
	cert, err = tls.X509KeyPair(g.held[corev1.TLSCertKey], g.held[corev1.TLSPrivateKeyKey])
	return cert, roots, err
}

// verify is what Istio has Envoy demand of a peer: a chain to one of the roots, and one of the names.
func verify(roots *x509.CertPool, name string) func(tls.ConnectionState) error {
	return func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return errors.New("no certificate")
		}
		leaf := s.PeerCertificates[0]
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			return err
		}
		if len(leaf.URIs) != 1 || leaf.URIs[0].String() != name || leaf.IsCA {
			return fmt.Errorf("%v, CA %v, is not %s", leaf.URIs, leaf.IsCA, name)
		}
		return nil
	}
}

// serve at a port those that have a name.
func (g *gateway) serve(t *testing.T, port int, name func() string) {
	t.Helper()
	l, err := tls.Listen("tcp", fmt.Sprintf("%s:%d", g.ip, port), &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		cert, roots, err := g.config()
		return &tls.Config{
			Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots,
			VerifyConnection: verify(roots, name()),
		}, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = c.(*tls.Conn).Handshake()
				c.Close()
			}()
		}
	}()
}

// call another gateway, of an identity.
func (g *gateway) call(other *gateway, name string) error {
	cert, roots, err := g.config()
	if err != nil {
		return err
	}
	c, err := tls.Dial("tcp", other.ip+":15443", &tls.Config{
		InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, VerifyConnection: verify(roots, name),
	})
	if err != nil {
		return err
	}
	return c.Close()
}

// TestLimitedStory: the gateways of two members, with the real hub and the real agents, come to know each other; their certificates are
// renewed and their root is replaced, and at no time do they refuse each other, however late each of them follows. Only Envoy and
// istiod are missing.
func TestLimitedStory(t *testing.T) {
	log.SetLogger(logr.Discard())
	ctx := context.Background()
	hubCluster := testenv.Start(t)
	hubtest.Install(t, hubCluster)
	hubtest.Start(t, hubCluster, hub.Options{})

	vm := &v1alpha1.VirtualMesh{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "one"}}
	var members []certificates.Member
	gateways := map[string][]*gateway{}
	identity := map[string]string{}
	for _, name := range []string{"east", "west"} {
		m, memberCluster := join(t, hubCluster, name, agent.Options{})
		members = append(members, m)
		vm.Spec.Meshes = append(vm.Spec.Meshes, v1alpha1.ObjectRef{Name: m.Mesh()})
		identity[name] = membership.GatewayIdentity("one."+v1alpha1.SystemNamespace, v1alpha1.ObjectRef{Name: m.Mesh(), Namespace: "isthmus-" + name})
		memberCluster.Namespace(t, v1alpha1.GatewaysNamespace, nil)
		for _, role := range []string{v1alpha1.GatewayRoleIngress, v1alpha1.GatewayRoleEgress} {
			g := &gateway{cluster: memberCluster, ip: m.Gateway(role), asks: identity[name]}
			gateways[name] = append(gateways[name], g)
			g.serve(t, evidence.CredentialPort, func() string { return g.asks })
		}
	}
	gateways["east"][0].serve(t, 15443, func() string { return identity["west"] })
	gateways["west"][0].serve(t, 15443, func() string { return identity["east"] })
	vm.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Limited: &v1alpha1.LimitedTrust{
		RootCertificateAuthority: &v1alpha1.RootCertificateAuthority{Generated: &v1alpha1.CertOptions{RSAKeySizeBytes: new(int32(2048))}},
	}}
	if err := hubCluster.Client.Create(ctx, vm); err != nil {
		t.Fatal(err)
	}

	knew := false // each other
	calls := 0
	held := map[string]bool{}
	meet := func() error {
		for _, pair := range [][2]string{{"east", "west"}, {"west", "east"}} {
			from, to := gateways[pair[0]][1], gateways[pair[1]][0]
			if err := from.call(to, identity[pair[1]]); err != nil {
				return fmt.Errorf("%s to %s: %w", pair[0], pair[1], err)
			}
			calls++
		}
		return nil
	}
	turn := 0
	goOn := func(what string, is func() error) {
		t.Helper()
		var err error
		for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			for _, m := range members {
				if err := m.Turn(); err != nil {
					t.Fatal(err)
				}
			}
			turn++
			for k, g := range slices.Concat(gateways["east"], gateways["west"]) {
				if (turn+k)%4 == 0 { // one after the other
					if err := g.follow(); err != nil {
						t.Fatal(err)
					}
				}
				held[fmt.Sprintf("%d roots", strings.Count(string(g.held[corev1.ServiceAccountRootCAKey]), "BEGIN"))] = true
				if err := meet(); err != nil && knew {
					t.Fatalf("%s: %v", what, err)
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
	inForce := func() (root string, err error) {
		if c := meta.FindStatusCondition(vm.Status.Conditions, v1alpha1.ConditionTrustEstablished); c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != vm.Generation {
			return "", fmt.Errorf("trust is not established: %+v", c)
		}
		if r := vm.Status.Rotation; r != nil && r.Step != v1alpha1.StepNotRotating && r.Step != v1alpha1.StepFinished {
			return "", fmt.Errorf("step %s", r.Step)
		}
		for _, m := range members {
			mesh := &v1alpha1.Mesh{}
			if err := hubCluster.Client.Get(ctx, client.ObjectKey{Namespace: m.HubNamespace(), Name: m.Mesh()}, mesh); err != nil {
				return "", err
			}
			c := mesh.Status.GatewayCertificate
			if c == nil || len(c.Roots) != 1 || c.Roots[0] != c.Signer || root != "" && c.Signer != root || c.VirtualMesh != "one."+v1alpha1.SystemNamespace || c.NotAfter == nil {
				return "", fmt.Errorf("gateways of %s are seen to use %+v", m.Mesh(), c)
			}
			root = c.Signer
		}
		return root, nil
	}

	var first string
	goOn("adoption", func() (err error) {
		first, err = inForce()
		return errors.Join(err, meet())
	})
	knew = true
	for _, m := range members {
		if m.Restarts() != 0 || m.Serves().Roots.Len() != 1 || m.Serves().Root.ID().String() == first {
			t.Errorf("the mesh's own CA was touched: %v", m.Serves())
		}
		if m.HasCACerts() {
			t.Error("cacerts was made")
		}
	}
	if err := gateways["east"][1].call(gateways["west"][0], identity["east"]); err == nil {
		t.Error("west passes for east")
	}

	edit := func(change func(*v1alpha1.LimitedTrust)) {
		t.Helper()
		testenv.Eventually(t, "an edit", func() error {
			if err := hubCluster.Client.Get(ctx, client.ObjectKeyFromObject(vm), vm); err != nil {
				return err
			}
			change(vm.Spec.MTLSConfig.Limited)
			return hubCluster.Client.Update(ctx, vm)
		})
	}
	leaf := string(gateways["east"][0].held[corev1.TLSCertKey])
	edit(func(l *v1alpha1.LimitedTrust) {
		l.GatewayCertOptions = &v1alpha1.CertOptions{TTLDays: new(int32(1)), SecretRotationGracePeriodRatio: "0.9999"}
	})
	leaves := map[string]bool{}
	goOn("renewal", func() error {
		leaves[string(gateways["east"][0].held[corev1.TLSCertKey])] = true
		if len(leaves) < 4 || leaves[leaf] && len(leaves) < 5 { // the first, that with other options, and two renewed ones
			return fmt.Errorf("%d certificates were seen", len(leaves))
		}
		root, err := inForce()
		if err == nil && root != first {
			err = errors.New("the root was replaced")
		}
		return err
	})

	edit(func(l *v1alpha1.LimitedTrust) { l.GatewayCertOptions, l.RotationTrigger = nil, "now" })
	goOn("rotation", func() error {
		root, err := inForce()
		if err == nil && root == first {
			err = errors.New("the root was not replaced")
		}
		return err
	})
	if !held["2 roots"] {
		t.Error("the roots did not overlap")
	}
	var steps []v1alpha1.RotationStep
	for _, c := range vm.Status.Rotation.Conditions {
		if c.State != v1alpha1.StepVerified && c.State != v1alpha1.StepVerifying && !strings.Contains(c.Message, "no rotation") {
			steps = append(steps, c.State)
		}
	}
	want := []v1alpha1.RotationStep{v1alpha1.StepAddingNewRoot, v1alpha1.StepPropagatingNewIntermediate, v1alpha1.StepDeletingOldRoot, v1alpha1.StepFinished}
	if steps = slices.Compact(steps); !slices.Equal(steps, want) {
		t.Errorf("steps %v", steps)
	}
	t.Logf("%d calls between gateways, none refused", calls)
}
