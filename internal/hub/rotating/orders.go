package rotating

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/rotation"
)

// caCerts is the Secret from which istiod takes its CA.
const caCerts = "cacerts"

// order writes the orders of a plan: those that change in their sequence, and none of the rest after a failure; then what else
// there is to say to the others. One that cannot be written keeps none of the others from it: no member may hold up all by what
// it says.
func (r *Reconciler) order(ctx context.Context, s *state, plan *rotation.Plan) error {
	for _, id := range plan.Changed {
		o := plan.Orders[id]
		ic, err := r.writeOrder(ctx, s, id, o)
		if s.leaves(plan, err) {
			continue
		}
		if err != nil {
			return err
		}
		if why, ok := plan.Issued[id]; ok {
			issuance, signer := o.Issuance, o.Signer
			if why == rotation.NextSigner {
				issuance, signer = o.Prepared.Issuance, o.Prepared.Signer
			}
			r.Events.Eventf(ic, nil, corev1.EventTypeNormal, string(why), "Order", "issuance %d is ordered, under root %s", issuance, signer.Short())
		}
	}
	var errs []error
	for _, id := range s.ordered() {
		o, ok := plan.Orders[id]
		if !ok || slices.Contains(plan.Changed, id) {
			continue
		}
		if _, err := r.writeOrder(ctx, s, id, o); !s.leaves(plan, err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// leaves tells whether an order cannot be written. Then the plan has the one that stands, and says why.
func (s *state) leaves(plan *rotation.Plan, err error) bool {
	e, ok := errors.AsType[*unwritableError](err)
	if !ok {
		return false
	}
	plan.Step = v1alpha1.StepFailed
	plan.Findings = append(plan.Findings, finding.Finding{Mesh: meshKey(e.mesh.String()), Reason: e.reason, Message: e.message})
	plan.Waiting = append(plan.Waiting, e.mesh)
	delete(plan.Orders, e.mesh)
	if stands := s.evidence[e.mesh].Order; stands != nil {
		plan.Orders[e.mesh] = *stands
	}
	return true
}

// writeOrder writes an order on the version that was read, if there is anything to write.
func (r *Reconciler) writeOrder(ctx context.Context, s *state, id rotation.MeshID, o rotation.Order) (*v1alpha1.IssuedCertificate, error) {
	ic, err := s.newOrder(id, o)
	if err != nil {
		return nil, err
	}
	if s.orders[id] == nil {
		if err := r.checkMember(ctx, s, id); err != nil {
			return nil, err
		}
	}
	return ic, r.write(ctx, s.orders[id], ic)
}

// checkMember makes sure that a mesh is still a member, before it gets an order: that it has none may be because it was let go of
// since the VirtualMesh was read, and an order that was deleted then must not come back.
func (r *Reconciler) checkMember(ctx context.Context, s *state, id rotation.MeshID) error {
	vm := &v1alpha1.VirtualMesh{}
	if err := client.IgnoreNotFound(r.Reader.Get(ctx, s.name, vm)); err != nil {
		return err
	}
	mesh, _ := membership.OrderedFor(id.Name)
	if a := vm.Status.Accepted; a == nil || !slices.Contains(a.Spec.Meshes, v1alpha1.ObjectRef{Name: mesh, Namespace: id.Namespace}) {
		return outdated(id.Name, errors.New("its mesh is no member any more"))
	}
	return nil
}

// write creates an object, or replaces the one that was read.
func (r *Reconciler) write(ctx context.Context, live, ic *v1alpha1.IssuedCertificate) error {
	switch {
	case live == nil:
		return r.Client.Create(ctx, ic, client.FieldOwner(owner))
	case live.Labels[v1alpha1.LabelManagedBy] == "":
		return &kube.ForeignObjectError{Kind: "IssuedCertificate", Namespace: live.Namespace, Name: live.Name}
	case equality.Semantic.DeepEqual(live.Spec, ic.Spec) && maps.Equal(live.Labels, ic.Labels):
		return nil
	}
	err := r.Client.Update(ctx, ic, client.FieldOwner(owner))
	if apierrors.IsNotFound(err) { // released in the meantime: it must not come back
		return outdated(ic.Name, err)
	}
	return err
}

// outdated says that an order was not written because what was read is not so any more.
func outdated(order string, why error) error {
	return apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("issuedcertificates").GroupResource(), order, why)
}

// isOutdated tells whether a write failed because what was read is not so any more.
func isOutdated(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }

// unwritableError says why an order that is planned cannot be written.
type unwritableError struct {
	mesh            rotation.MeshID
	reason, message string
}

func (e *unwritableError) Error() string { return "mesh " + e.mesh.String() + ": " + e.message }

// newOrder is the object of an order.
func (s *state) newOrder(id rotation.MeshID, o rotation.Order) (*v1alpha1.IssuedCertificate, error) {
	if root, ok := s.beyond[id]; ok {
		return nil, &unwritableError{id, v1alpha1.ReasonRootKeyLost, fmt.Sprintf(
			"status.carried of its order names root %s, whose Secret is missing from the hub: its order stays as it is; restore the Secret from a backup, or evict the mesh; if it never had that root, somebody else uses the credential of its agent (meshctl cluster rotate-credentials)", root.Short())}
	}
	ic := &v1alpha1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Name: id.Name, Namespace: id.Namespace}}
	if live := s.orders[id]; live != nil {
		ic = live.DeepCopy()
	}
	if ic.Labels == nil {
		ic.Labels = map[string]string{}
	}
	ic.Labels[v1alpha1.LabelManagedBy] = owner
	ic.Labels[v1alpha1.LabelVirtualMesh] = kube.VirtualMeshLabel(s.name.Name, s.name.Namespace)
	ic.Spec.VirtualMesh = v1alpha1.ObjectRef{Name: s.name.Name, Namespace: s.name.Namespace}
	ic.Spec.Suspend = false
	if mesh := s.members[id]; mesh != nil {
		ic.Spec.CertOptions = s.trust.Options
		s.address(ic, mesh)
		ic.Spec.AutoRestartPods = s.accepted.Spec.MTLSConfig.AutoRestartPods
		ic.Spec.AdoptExistingCA = s.accepted.Spec.MTLSConfig.AdoptExistingCA
	}
	if s.apart[id] != nil {
		ic.Spec.AutoRestartPods = s.accepted.Spec.MTLSConfig.AutoRestartPods
	}
	o.Write(&ic.Spec)
	for i, root := range o.Roots {
		var ok bool
		if ic.Spec.Roots[i].Certificate, ok = s.certificate(id, root); !ok {
			return nil, &unwritableError{id, v1alpha1.ReasonInvalid, fmt.Sprintf("its order needs the certificate of root %s, which is known to nobody: restore its Secret from a backup, or evict the mesh", root.Short())}
		}
	}
	ic.Spec.AgentCAs = s.agentCAs(id, o)
	if o.Cross {
		var err error
		if ic.Spec.CrossCertificate.Certificate, err = s.cross(id, *o.Position); err != nil {
			return nil, &unwritableError{id, v1alpha1.ReasonInvalid, "spec.crossCertificate of its order: " + err.Error()}
		}
	}
	return ic, nil
}

// address says where what is ordered goes to. Gateways that are out of sight for a moment are where they were.
func (s *state) address(ic *v1alpha1.IssuedCertificate, mesh *v1alpha1.Mesh) {
	if !s.trust.ByGateways() {
		ic.Spec.IssuedCertificateSecret = v1alpha1.SecretRef{Name: caCerts, Namespace: mesh.Spec.Istio.RootNamespace}
		return
	}
	ic.Spec.Purpose = v1alpha1.PurposeGateway
	if g := ingressOf(mesh); g != nil {
		ic.Spec.IssuedCertificateSecret = v1alpha1.SecretRef{Name: v1alpha1.GatewaySecretName, Namespace: g.Namespace}
	}
}

// certificate of a root: that of its Secret, else that of the order of the mesh, else the one that the mesh itself came with. What
// agents report of a mesh adds no root to an order that stands, but for one by which it came in and to which it goes back.
func (s *state) certificate(id rotation.MeshID, root pki.RootID) (string, bool) {
	if r := s.find(root); r != nil {
		return string(r.Certificate.PEM()), true
	}
	if live := s.orders[id]; live != nil {
		if c, ok := certificateOf(root, live.Spec.Roots); ok {
			return c, true
		}
		if !names(*s.evidence[id].Order, root) {
			return "", false
		}
	}
	if mesh := s.members[id]; mesh != nil && mesh.Status.CertificateAuthority != nil {
		return certificateOf(root, mesh.Status.CertificateAuthority.RootCertificates)
	}
	return "", false
}

// cross is the certificate of the new root under the old one. It stays as it was ordered; it is empty if the agent has to
// make it, with the key of the CA that the mesh came with.
func (s *state) cross(id rotation.MeshID, p rotation.Position) (string, error) {
	old := s.find(p.Old)
	if old == nil || !canCrossSign(old) {
		return "", nil
	}
	text, ok := s.certificate(id, p.New)
	if !ok {
		return "", fmt.Errorf("the certificate of root %s is known to nobody: restore its Secret from a backup", p.New.Short())
	}
	root, err := pki.ParseRoot([]byte(text))
	if err != nil {
		return "", err
	}
	if live := s.orders[id]; live != nil && live.Spec.CrossCertificate != nil {
		c := live.Spec.CrossCertificate.Certificate
		if cert, err := pki.ParseCross([]byte(c), root, pki.NewBundle(old.Certificate)); err == nil && s.now.Before(cert.NotAfter) {
			return c, nil
		}
	}
	cert, err := pki.CrossSign(root, old.Material, s.now)
	if err != nil {
		return "", err
	}
	return string(pki.Chain{cert}.PEM()), nil
}

// suspend tells the agents to change nothing, and changes nothing else of the orders.
func (r *Reconciler) suspend(ctx context.Context, s *state) error {
	var errs []error
	for _, id := range s.ordered() {
		live := s.orders[id]
		if !s.owns(live) {
			continue
		}
		ic := live.DeepCopy()
		ic.Spec.Suspend = true
		errs = append(errs, r.write(ctx, live, ic))
	}
	return errors.Join(errs...)
}
