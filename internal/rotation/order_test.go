package rotation

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// orders are any that can be written.
var orders = rapid.Custom(func(t *rapid.T) Order {
	root := rapid.Custom(func(t *rapid.T) (id pki.RootID) {
		copy(id[:], rapid.SliceOfN(rapid.Byte(), len(id), len(id)).Draw(t, "root"))
		return id
	})
	number := rapid.Int64Range(0, 1<<40)
	o := Order{
		Issuance: number.Draw(t, "issuance"), Serial: number.Draw(t, "serial"), Latest: number.Draw(t, "latest"),
		Contents: Contents{
			Hosts: rapid.SliceOfN(rapid.String(), 1, 3).Draw(t, "hosts"), Organization: rapid.String().Draw(t, "organization"),
			TTLDays: rapid.Int32().Draw(t, "ttl"), KeyBits: rapid.Int32().Draw(t, "bits"),
		},
		Signer: root.Draw(t, "signer"), Roots: rapid.SliceOfN(root, 1, 3).Draw(t, "roots"), Cross: rapid.Bool().Draw(t, "cross"),
		Restart: Restart{Istiod: rapid.Bool().Draw(t, "istiod"), Workloads: rapid.Bool().Draw(t, "workloads")},
	}
	if rapid.Bool().Draw(t, "is prepared") {
		o.Prepared = &Intermediate{Issuance: number.Draw(t, "prepared"), Signer: root.Draw(t, "prepared signer")}
	}
	if rapid.Bool().Draw(t, "rotates") {
		o.Nudge = number.Draw(t, "nudge")
		o.Position = &Position{
			ID: rapid.StringMatching(`[a-z]{1,5}-[0-9a-f]{8}(\.[0-9])?`).Draw(t, "id"), Turn: rapid.Int64Range(0, 12).Draw(t, "turn"),
			Old: root.Draw(t, "old"), New: root.Draw(t, "new"), Stage: Stage(rapid.IntRange(0, int(NewOnly)).Draw(t, "stage")),
			Back: rapid.Bool().Draw(t, "back"), Alone: rapid.Bool().Draw(t, "alone"), Half: rapid.Bool().Draw(t, "half"),
			Closed: rapid.Bool().Draw(t, "closed"), Nudges: rapid.Int32().Draw(t, "nudges"),
		}
	}
	return o
})

// TestOrderIsReadAsWritten writes one order over another and reads it, and has an agent say that it carried it out.
func TestOrderIsReadAsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before, o := orders.Draw(t, "before"), orders.Draw(t, "order")
		ic := &v1alpha1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Generation: 2}}
		before.Write(&ic.Spec)
		o.Write(&ic.Spec)
		got, err := OrderOf(ic)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Equal(o) {
			t.Fatalf("%+v was read as %+v", o, got)
		}
		ic.Status.Carried = ic.Spec.Carried()
		e, err := Observe(ic)
		if err != nil {
			t.Fatal(err)
		}
		if !e.Order.Equal(o) || e.Carried == nil || !e.Carried.Equal(o) || !o.answeredBy(e.Carried) {
			t.Fatalf("%+v, carried out, is %+v", o, e.Carried)
		}
	})
}

// TestNoFailureOfOldCounts tells a failure of the order that stands from one of an earlier order.
func TestNoFailureOfOldCounts(t *testing.T) {
	ic := &v1alpha1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Generation: 2}}
	Order{Signer: pki.RootID{1}, Roots: []pki.RootID{{1}}}.Write(&ic.Spec)
	ic.Status.State, ic.Status.Error, ic.Status.ObservedGeneration = v1alpha1.IssuedCertificateFailed, "no way", 1
	for generation, want := range map[int64]string{1: "", 2: "no way"} {
		ic.Status.ObservedGeneration = generation
		if e, err := Observe(ic); err != nil || e.Failed != want {
			t.Errorf("of generation %d: %q, %v", generation, e.Failed, err)
		}
	}
}

// TestSenselessOrders are not readable, and no agent's nonsense makes them so.
func TestSenselessOrders(t *testing.T) {
	for i, edit := range []func(*v1alpha1.IssuedCertificateSpec){
		func(s *v1alpha1.IssuedCertificateSpec) { s.Signer = "x" },
		func(s *v1alpha1.IssuedCertificateSpec) { s.Roots[0].Fingerprint = "" },
		func(s *v1alpha1.IssuedCertificateSpec) { s.Prepared.Signer = "" },
		func(s *v1alpha1.IssuedCertificateSpec) { s.Rotation.Stage = "Nowhere" },
		func(s *v1alpha1.IssuedCertificateSpec) { s.Rotation.Old = "" },
		func(s *v1alpha1.IssuedCertificateSpec) { s.Rotation.New = "" },
		func(s *v1alpha1.IssuedCertificateSpec) { s.Rotation.RotationID = "r.1" },
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			ic, nonsense := &v1alpha1.IssuedCertificate{}, v1alpha1.IssuedCertificateSpec{}
			o := Order{Signer: pki.RootID{1}, Roots: []pki.RootID{{1}}, Prepared: &Intermediate{Signer: pki.RootID{2}}, Position: &Position{ID: "r", Turn: 2}}
			o.Write(&ic.Spec)
			o.Write(&nonsense)
			edit(&nonsense)
			ic.Status.Carried = nonsense.Carried()
			if e, err := Observe(ic); err != nil || e.Carried != nil {
				t.Errorf("carried out: %+v, %v", e.Carried, err)
			}
			ic.Spec = nonsense
			if _, err := OrderOf(ic); err == nil {
				t.Error("it was read")
			}
		})
	}
}
