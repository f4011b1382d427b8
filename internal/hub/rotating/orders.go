package rotating

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/rotation"
)

// caCerts is the Secret from which istiod takes its CA.
const caCerts = "cacerts"

// order writes the orders of a plan. What fails for one mesh does not keep the others from theirs.
func (r *Reconciler) order(ctx context.Context, s *state, plan rotation.Plan) error {
	var errs []error
	for id, o := range plan.Orders {
		ic := s.newOrder(id, o)
		write := r.write
		if s.members[id] == nil {
			if !s.orders[id].Spec.Suspend && s.evidence[id].Order.Equal(o) {
				continue
			}
			write = r.update
		}
		if err := write(ctx, ic); err != nil {
			errs = append(errs, err)
			continue
		}
		if why, ok := plan.Issued[id]; ok {
			r.Events.Eventf(ic, nil, corev1.EventTypeNormal, string(why), "Order", "issuance %d is ordered, under root %s", o.Issuance, o.Signer.Short())
		}
	}
	return errors.Join(errs...)
}

// newOrder is the object of an order.
func (s *state) newOrder(id rotation.MeshID, o rotation.Order) *v1alpha1.IssuedCertificate {
	ic := s.skeleton(id)
	if live := s.orders[id]; live != nil {
		live.Spec.DeepCopyInto(&ic.Spec)
		ic.UID, ic.Spec.Suspend = live.UID, false
	}
	if mesh, shared := s.members[id], accept.SharedTrust(s.accepted); mesh != nil && shared != nil {
		ic.Spec = v1alpha1.IssuedCertificateSpec{
			CertOptions:             accept.IntermediateOptions(shared.IntermediateCertOptions),
			IssuedCertificateSecret: v1alpha1.SecretRef{Name: caCerts, Namespace: mesh.Spec.Istio.RootNamespace},
			AutoRestartPods:         s.accepted.Spec.MTLSConfig.AutoRestartPods,
			AdoptExistingCA:         s.accepted.Spec.MTLSConfig.AdoptExistingCA,
		}
	}
	ic.Spec.VirtualMesh = v1alpha1.ObjectRef{Name: s.name.Name, Namespace: s.name.Namespace}
	ic.Spec.Issuance, ic.Spec.Hosts, ic.Spec.Signer = o.Issuance, o.Contents.Hosts, o.Signer.String()
	ic.Spec.Roots = nil
	for _, root := range o.Roots {
		ic.Spec.Roots = append(ic.Spec.Roots, s.certificate(root))
	}
	return ic
}

func (s *state) certificate(id pki.RootID) v1alpha1.RootCertificate {
	return v1alpha1.RootCertificate{Fingerprint: id.String(), Certificate: string(s.find(id).Certificate.PEM())}
}

func (s *state) skeleton(id rotation.MeshID) *v1alpha1.IssuedCertificate {
	return &v1alpha1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{
		Name: id.Name, Namespace: id.Namespace,
		Labels: map[string]string{
			v1alpha1.LabelManagedBy:   owner,
			v1alpha1.LabelVirtualMesh: kube.VirtualMeshLabel(s.name.Name, s.name.Namespace),
		},
	}}
}

// suspend tells the agents to change nothing, and changes nothing else of the orders.
func (r *Reconciler) suspend(ctx context.Context, s *state) error {
	var errs []error
	for id, live := range s.orders {
		if ref := live.Spec.VirtualMesh; ref.Name != s.name.Name || ref.Namespace != s.name.Namespace {
			continue
		}
		if live.Spec.Suspend {
			continue
		}
		ic := s.skeleton(id)
		live.Spec.DeepCopyInto(&ic.Spec)
		ic.UID, ic.Spec.Suspend = live.UID, true
		errs = append(errs, r.update(ctx, ic))
	}
	return errors.Join(errs...)
}

// write creates or updates the order of a member.
func (r *Reconciler) write(ctx context.Context, ic *v1alpha1.IssuedCertificate) error {
	u, err := kube.ToUnstructured(r.Client.Scheme(), ic)
	if err != nil {
		return err
	}
	_, err = kube.Apply(ctx, r.Client, owner, u)
	return err
}

// update writes an order that exists. That of a mesh which is no member any more may be released at any moment, and must not
// come back: with a UID, the API server does not create what it applies.
func (r *Reconciler) update(ctx context.Context, ic *v1alpha1.IssuedCertificate) error {
	u, err := kube.ToUnstructured(r.Client.Scheme(), ic)
	if err != nil {
		return err
	}
	return r.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(owner), client.ForceOwnership)
}
