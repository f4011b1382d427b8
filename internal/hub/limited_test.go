package hub_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/hub/summary"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// gatewayOrder waits for the order for a cluster's gateways.
func (w *world) gatewayOrder(cluster string) *v1alpha1.IssuedCertificate {
	w.Helper()
	ic := &v1alpha1.IssuedCertificate{}
	testenv.Eventually(w, "order for gateways", func() error {
		return w.Get(context.Background(), client.ObjectKey{Namespace: "isthmus-" + cluster, Name: membership.GatewayOrder(meshName(cluster))}, ic)
	})
	return ic
}

// limit edits the virtual mesh "one" to limited trust.
func (w *world) limit(root *v1alpha1.RootCertificateAuthority) {
	w.Helper()
	update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) {
		vm.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Limited: &v1alpha1.LimitedTrust{RootCertificateAuthority: root}}
	})
}

// told reports whether a metric has series with these labels and no others.
func told(metric string, labels ...string) error {
	families, err := metrics.Registry.Gather()
	if err != nil {
		return err
	}
	var got []string
	for _, f := range families {
		if f.GetName() != metric {
			continue
		}
		for _, m := range f.Metric {
			var pairs []string
			for _, l := range m.Label {
				pairs = append(pairs, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			got = append(got, strings.Join(pairs, " "))
		}
	}
	return want(strings.Join(got, "\n"), strings.Join(labels, "\n"))
}

// TestTrustIsLimited: what was shared before stays, and is looked after; it can be shared again at once, or be replaced by roots that
// nobody shares.
func TestTrustIsLimited(t *testing.T) {
	w := start(t)
	before := young(w, "east", "west")
	shared := signerOf(before)
	orders := map[string]*v1alpha1.IssuedCertificate{"east": w.live("east"), "west": w.live("west")}

	w.limit(&v1alpha1.RootCertificateAuthority{Generated: &v1alpha1.CertOptions{RSAKeySizeBytes: new(int32(2048))}})
	w.sees("one", "word of missing gateways", func(vm *v1alpha1.VirtualMesh) error {
		c := meta.FindStatusCondition(vm.Status.Conditions, v1alpha1.ConditionRotating)
		if c == nil || !strings.Contains(c.Message, "meshctl gateway install") || !strings.Contains(c.Message, "mesh "+meshName("east")+".isthmus-east: ") {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	for _, cluster := range []string{"east", "west"} {
		update(w, &v1alpha1.Mesh{}, "isthmus-"+cluster, meshName(cluster), func(m *v1alpha1.Mesh) {
			m.Spec.Istio.Gateways = []v1alpha1.IngressGateway{{Name: "isthmus-ingress", Namespace: "isthmus-gateways", Class: v1alpha1.GatewayLimitedIngress}}
		})
		order := w.gatewayOrder(cluster)
		ref := v1alpha1.SecretRef{Name: v1alpha1.GatewaySecretName, Namespace: "isthmus-gateways"}
		if order.Spec.Purpose != v1alpha1.PurposeGateway || order.Spec.IssuedCertificateSecret != ref || order.Spec.Signer == shared || *order.Spec.CertOptions.TTLDays != 30 {
			t.Fatalf("order %+v", order.Spec)
		}
		cr := requestFor(t, cluster, order.Spec.Issuance, pkitest.ECKey(t))
		key := cr.Name[strings.LastIndex(cr.Name, "-")+1:]
		cr.Name, cr.Spec.IssuedCertificate = kube.RequestName(order.Name, key), order.Name
		w.create(cr)
		cr = w.answered(cr, v1alpha1.CertificateRequestFinished)
		chain, err := pki.ParseChain([]byte(cr.Status.SignedCertificate))
		if err != nil {
			t.Fatal(err)
		}
		identity := membership.GatewayIdentity("one."+system, v1alpha1.ObjectRef{Name: meshName(cluster), Namespace: "isthmus-" + cluster})
		if leaf := chain[0]; leaf.IsCA || len(leaf.URIs) != 1 || leaf.URIs[0].String() != identity || len(leaf.DNSNames) > 0 || cr.Status.Signer != order.Spec.Signer {
			t.Errorf("signed was %v for %v, CA %v", leaf.Subject, leaf.URIs, leaf.IsCA)
		}
		w.answers(order, &v1alpha1.IntermediateStatus{
			Issuance: cr.Spec.Issuance, Signer: cr.Status.Signer, Roots: []string{cr.Status.Signer},
			NotBefore: metav1.NewTime(chain[0].NotBefore), NotAfter: metav1.NewTime(chain[0].NotAfter),
		})
	}
	w.sees("one", "limited trust", func(vm *v1alpha1.VirtualMesh) error {
		c := meta.FindStatusCondition(vm.Status.Conditions, v1alpha1.ConditionMembersRetained)
		if c == nil || c.Reason != summary.ReasonWasShared || !strings.Contains(c.Message, meshName("west")+".isthmus-west") || !strings.Contains(c.Message, "until it ends, on 20") {
			return fmt.Errorf("%+v", c)
		}
		if vm.Status.Accepted.Generation != vm.Generation || len(vm.Status.Roots) != 2 || vm.Status.Roots[0].Role == v1alpha1.RootRetired {
			return fmt.Errorf("roots %+v", vm.Status.Roots)
		}
		return errors.Join(isTrue(vm.Status.Conditions, v1alpha1.ConditionReady), isTrue(vm.Status.Conditions, v1alpha1.ConditionTrustEstablished))
	})
	for cluster, order := range orders {
		if is := w.live(cluster); !equality.Semantic.DeepEqual(is.Spec, order.Spec) {
			t.Errorf("the order of %s is now %+v", cluster, is.Spec)
		}
	}
	if secrets := w.rootSecrets(); len(secrets) != 2 {
		t.Errorf("%d roots are kept", len(secrets))
	}
	if err := told("isthmus_intermediate_expiry_timestamp_seconds",
		`mesh="`+meshName("east")+`" namespace="isthmus-east" purpose="Gateway"`, `mesh="`+meshName("east")+`" namespace="isthmus-east" purpose="MeshCA"`,
		`mesh="`+meshName("west")+`" namespace="isthmus-west" purpose="Gateway"`, `mesh="`+meshName("west")+`" namespace="isthmus-west" purpose="MeshCA"`,
	); err != nil {
		t.Error(err)
	}

	w.run("shared again", func(t *testing.T) {
		limited := &v1alpha1.VirtualMesh{}
		w.get(limited, system, "one")
		update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) { vm.Spec.MTLSConfig = before.Spec.MTLSConfig.DeepCopy() })
		w.sees("one", "shared trust", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(deployed(vm), want(signerOf(vm), shared), want(len(vm.Status.Roots), 2),
				want(meta.FindStatusCondition(vm.Status.Conditions, v1alpha1.ConditionMembersRetained) == nil, true))
		})
		for cluster, order := range orders {
			if is := w.live(cluster); !equality.Semantic.DeepEqual(is.Spec, order.Spec) {
				t.Errorf("the order of %s is now %+v", cluster, is.Spec)
			}
		}
		update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) { vm.Spec.MTLSConfig = limited.Spec.MTLSConfig.DeepCopy() })
		w.sees("one", "limited trust", func(vm *v1alpha1.VirtualMesh) error {
			return errors.Join(want(vm.Status.Accepted.Generation, vm.Generation), isTrue(vm.Status.Conditions, v1alpha1.ConditionReady))
		})
	})
	w.run("roots of their own", func(t *testing.T) {
		update(w, &v1alpha1.VirtualMesh{}, system, "one", func(vm *v1alpha1.VirtualMesh) { vm.Spec.MTLSConfig.Limited.OwnRoots = true })
		w.sees("one", "word of what is waited for", func(vm *v1alpha1.VirtualMesh) error {
			c := meta.FindStatusCondition(vm.Status.Conditions, v1alpha1.ConditionRotating)
			if c == nil || !strings.Contains(c.Message, "every member reaches the others through them") {
				return fmt.Errorf("%+v", c)
			}
			return nil
		})
		for cluster, order := range orders {
			if is := w.live(cluster); !equality.Semantic.DeepEqual(is.Spec, order.Spec) {
				t.Errorf("the order of %s is now %+v, though the way that needs it is not left", cluster, is.Spec)
			}
			vm := &v1alpha1.VirtualMesh{}
			w.get(vm, system, "one")
			w.applied(cluster, "one", vm.Generation)
		}
		together := false
		w.play("one", "roots of their own", func(vm *v1alpha1.VirtualMesh) error {
			open := 0
			signers := map[string]bool{}
			for _, cluster := range []string{"east", "west"} {
				o := w.live(cluster)
				if o.Spec.Rotation != nil && !o.Spec.Rotation.Closed {
					open++
				}
				if len(o.Spec.Roots) == 1 {
					signers[o.Spec.Signer] = true
				}
			}
			together = together || open > 1
			c := meta.FindStatusCondition(vm.Status.Conditions, v1alpha1.ConditionMembersRetained)
			return errors.Join(want(open, 0), want(len(signers), 2), want(signers[shared], false), want(c == nil, true),
				isTrue(vm.Status.Conditions, v1alpha1.ConditionReady))
		}, "east", "west")
		if together {
			t.Error("two meshes changed their roots at a time")
		}
		testenv.Eventually(t, "the shared root's key is erased", func() error { return want(len(w.rootSecrets()), 3) })
	})
}
