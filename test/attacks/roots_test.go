package attacks

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// TestRootOfAThief: whoever has the credential of west's agent says that west has carried out a later order than it has, with a root
// of the thief. West is never ordered to trust that root, and a member whose order is written after that of west gets its own.
func TestRootOfAThief(t *testing.T) {
	w := startHub(t, "east", "west", "zone")
	ctx := context.Background()
	clusters := map[string]client.Client{"west": w.west, "zone": w.agent(t, "zone")}
	for cluster, agent := range clusters {
		mesh := meshOf(cluster)
		testenv.Eventually(t, "mesh of "+cluster, func() error { return client.IgnoreAlreadyExists(agent.Create(ctx, mesh.DeepCopy())) })
		must(t, agent.Get(ctx, client.ObjectKeyFromObject(mesh), mesh))
		mesh.Status.CertificateAuthority = &v1alpha1.MeshCertificateAuthority{Source: v1alpha1.CASourceSelfSigned}
		must(t, agent.Status().Update(ctx, mesh))
	}
	must(t, w.writer.Create(ctx, virtualMesh("one", "west", "zone")))
	first := w.order(t, "west")
	w.order(t, "zone")
	must(t, w.west.Create(ctx, request(t, "west", first.Spec.Issuance, pkitest.ECKey(t), nil)))

	thief := pkitest.NewRoot(t, "thief", time.Now()).Root()
	evil := thief.ID().String()
	// orders asks for other intermediates of all members, and waits until zone is ordered its own.
	orders := func(t *testing.T, organization string) {
		t.Helper()
		vm := &v1alpha1.VirtualMesh{}
		testenv.Eventually(t, "change", func() error {
			must(t, w.writer.Get(ctx, client.ObjectKey{Namespace: system, Name: "one"}, vm))
			vm.Spec.MTLSConfig.Shared.IntermediateCertOptions = &v1alpha1.CertOptions{OrgName: organization}
			return w.writer.Update(ctx, vm)
		})
		testenv.Eventually(t, "order of zone", func() error {
			if got := w.order(t, "zone").Spec.CertOptions.OrgName; got != organization {
				must(t, w.writer.Get(ctx, client.ObjectKeyFromObject(vm), vm))
				return fmt.Errorf("it is for %q; conditions: %+v", got, vm.Status.Conditions)
			}
			return nil
		})
	}
	// says writes both statuses that the thief may write.
	says := func(t *testing.T, certificate string, edit func(*v1alpha1.CarriedOrder)) {
		t.Helper()
		testenv.Eventually(t, "claims", func() error {
			mesh := &v1alpha1.Mesh{}
			must(t, w.west.Get(ctx, client.ObjectKeyFromObject(meshOf("west")), mesh))
			mesh.Status.CertificateAuthority.RootCertificates = nil
			if certificate != "" {
				mesh.Status.CertificateAuthority.RootCertificates = []v1alpha1.RootCertificate{{Fingerprint: evil, Certificate: certificate}}
			}
			if err := w.west.Status().Update(ctx, mesh); err != nil {
				return err
			}
			ic := w.order(t, "west")
			ic.Status.Carried = nil
			if edit != nil {
				ic.Status.Carried = ic.Spec.Carried()
				ic.Status.Carried.Serial++
				edit(ic.Status.Carried)
			}
			return w.west.Status().Update(ctx, ic)
		})
	}
	signer := first.Spec.Signer
	for i, claim := range []struct {
		name        string
		certificate string
		edit        func(*v1alpha1.CarriedOrder)
	}{
		{"beside the one in use", string(thief.PEM()), func(c *v1alpha1.CarriedOrder) { c.Roots = append(c.Roots, evil) }},
		{"without its certificate", "", func(c *v1alpha1.CarriedOrder) { c.Roots = append(c.Roots, evil) }},
		{"as the signer", string(thief.PEM()), func(c *v1alpha1.CarriedOrder) { c.Signer, c.Roots = evil, append(c.Roots, evil) }},
		{"as the signer alone", string(thief.PEM()), func(c *v1alpha1.CarriedOrder) { c.Signer = evil }},
		{"as the one that is prepared", string(thief.PEM()), func(c *v1alpha1.CarriedOrder) {
			c.Prepared = &v1alpha1.PreparedIntermediate{Issuance: c.Issuance + 1, Signer: evil}
		}},
		{"as the other one of a rotation", string(thief.PEM()), func(c *v1alpha1.CarriedOrder) {
			c.Rotation = &v1alpha1.OrderRotation{RotationID: "r9", Step: v1alpha1.StepAddingNewRoot, Old: signer, New: evil, Stage: v1alpha1.StageOldSigns}
		}},
	} {
		t.Run(claim.name, func(t *testing.T) {
			says(t, claim.certificate, claim.edit)
			orders(t, fmt.Sprintf("claim %d", i))
			vm := &v1alpha1.VirtualMesh{}
			testenv.Eventually(t, "word of it", func() error {
				must(t, w.writer.Get(ctx, client.ObjectKey{Namespace: system, Name: "one"}, vm))
				if r := vm.Status.Rotation; r == nil || !strings.Contains(strings.Join(r.Waits, "; "), thief.ID().Short()) {
					return fmt.Errorf("rotation: %+v", r)
				}
				return nil
			})
			if !meta.IsStatusConditionTrue(vm.Status.Conditions, v1alpha1.ConditionRootReady) {
				t.Errorf("conditions: %+v", vm.Status.Conditions)
			}
			ic := w.order(t, "west")
			if trusts := slices.ContainsFunc(ic.Spec.Roots, func(r v1alpha1.RootCertificate) bool { return r.Fingerprint != signer }); trusts || ic.Spec.Signer != signer {
				t.Errorf("west is to trust %+v, under %s", ic.Spec.Roots, ic.Spec.Signer)
			}
			if strings.Contains(fmt.Sprint(ic.Spec), evil) {
				t.Errorf("the order names the thief's root: %+v", ic.Spec)
			}
		})
	}
	t.Run("and nothing of it stays", func(t *testing.T) {
		says(t, "", nil)
		orders(t, "the last")
		testenv.Eventually(t, "order of west", func() error {
			if ic := w.order(t, "west"); ic.Spec.CertOptions.OrgName != "the last" || ic.Spec.Signer != signer || len(ic.Spec.Roots) != 1 {
				return fmt.Errorf("order: %+v", ic.Spec)
			}
			return nil
		})
	})
}
