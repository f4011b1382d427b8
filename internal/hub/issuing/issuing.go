// Package issuing signs the intermediates of meshes: exactly one for each issuance of an order.
//
// A request comes from a cluster that may have been taken over. The only thing believed of it is its public key; who gets a
// certificate, for what and under which root is said by the order, which only the hub writes. The record of a signature is
// the request itself, which its agent can neither change nor delete, nor have deleted with an owner.
package issuing

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/hub/roots"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/rotation"
)

const owner = "isthmus-issuing"

// Reasons of conditions and events.
const (
	ReasonSigned         = "Signed"
	ReasonAlreadySigned  = "AlreadySigned"
	ReasonOutdated       = "Outdated"
	ReasonNotOrdered     = "NotOrdered"
	ReasonWrongName      = "WrongName"
	ReasonNotRegistered  = "NotRegistered"
	ReasonSignsElsewhere = "SignsElsewhere"
	ReasonBadRequest     = "BadRequest"
)

// Reconciler answers CertificateRequests.
type Reconciler struct {
	Client client.Client
	// Reader reads from the API server itself, past any cache: what was signed must be known before anything is.
	Reader    client.Reader
	Events    events.EventRecorder
	Roots     roots.Store
	Namespace string
	Now       func() time.Time
}

// SetupWithManager registers the controller. One worker only: two at a time could sign for the same issuance.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named("issuing").
		For(&v1alpha1.CertificateRequest{}).
		Watches(&v1alpha1.IssuedCertificate{}, handler.EnqueueRequestsFromMapFunc(r.waitingFor)).
		WithOptions(controller.Options{MaxConcurrentReconciles: 1}).
		Complete(r)
}

// waitingFor maps an order to the requests that wait for it. Others that an agent has made are not looked at again.
func (r *Reconciler) waitingFor(ctx context.Context, o client.Object) (out []reconcile.Request) {
	order, ok := o.(*v1alpha1.IssuedCertificate)
	if !ok {
		return nil
	}
	list := &v1alpha1.CertificateRequestList{}
	if err := r.Client.List(ctx, list, client.InNamespace(order.GetNamespace())); err != nil {
		log.FromContext(ctx).Error(err, "Requests of an order are not looked at again", "order", client.ObjectKeyFromObject(order))
		return nil
	}
	for i := range list.Items {
		if cr := &list.Items[i]; cr.Spec.IssuedCertificate == order.Name && asksFor(order, cr.Spec.Issuance) && !answered(cr) {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(cr)})
		}
	}
	return out
}

// asksFor tells whether an order asks for a signature of an issuance.
func asksFor(order *v1alpha1.IssuedCertificate, issuance int64) bool {
	return issuance == order.Spec.Issuance || order.Spec.Prepared != nil && issuance == order.Spec.Prepared.Issuance
}

func answered(cr *v1alpha1.CertificateRequest) bool {
	return cr.Status.State == v1alpha1.CertificateRequestFinished || cr.Status.State == v1alpha1.CertificateRequestFailed
}

// restored is when to look again for what somebody has to restore: a root's Secret, a registration.
const restored = 15 * time.Second

// refusal is an answer that is no certificate.
type refusal struct {
	// final refusals are never reconsidered; the others wait for a change of the order.
	final           bool
	reason, message string
	// again is when to look again at what nobody tells of; 0 for never.
	again time.Duration
}

func (e *refusal) Error() string { return e.message }

func refuse(reason, format string, args ...any) error {
	return &refusal{final: true, reason: reason, message: fmt.Sprintf(format, args...)}
}

func wait(reason, format string, args ...any) error {
	return &refusal{reason: reason, message: fmt.Sprintf(format, args...)}
}

// missing waits for what somebody has to restore, of which nobody tells.
func missing(reason, format string, args ...any) error {
	return &refusal{reason: reason, message: fmt.Sprintf(format, args...), again: restored}
}

// Reconcile answers one request.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	cr := &v1alpha1.CertificateRequest{}
	if err := r.Reader.Get(ctx, req.NamespacedName, cr); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if answered(cr) || !cr.DeletionTimestamp.IsZero() {
		return reconcile.Result{}, nil
	}
	signed, err := r.sign(ctx, cr)
	var no *refusal
	switch {
	case errors.As(err, &no):
		return reconcile.Result{RequeueAfter: no.again}, r.answerNo(ctx, cr, no)
	case err != nil:
		return reconcile.Result{}, err
	}
	if err := r.answer(ctx, cr, v1alpha1.CertificateRequestStatus{
		State:             v1alpha1.CertificateRequestFinished,
		SignedCertificate: string(signed.chain[:1].PEM()),
		CertChain:         string(signed.chain[1:].PEM()) + string(signed.root.PEM()),
		Signer:            signed.root.ID().String(),
	}, metav1.Condition{Status: metav1.ConditionTrue, Reason: ReasonSigned, Message: "signed"}); err != nil {
		return reconcile.Result{}, err
	}
	issued.WithLabelValues(cr.Namespace).Inc()
	cert := signed.chain[0]
	log.FromContext(ctx).Info("Signed a certificate", "order", cr.Spec.IssuedCertificate, "issuance", cr.Spec.Issuance,
		"root", signed.root.ID().String(), "serialNumber", cert.SerialNumber.Text(16), "notAfter", cert.NotAfter)
	r.Events.Eventf(cr, signed.order, corev1.EventTypeNormal, ReasonSigned, "Sign", "issuance %d of %s: serial number %s, under root %s, until %s",
		cr.Spec.Issuance, cr.Spec.IssuedCertificate, cert.SerialNumber.Text(16), signed.root.ID().Short(), cert.NotAfter.UTC().Format(time.RFC3339))
	return reconcile.Result{}, r.forget(ctx, cr, signed.order)
}

// signature is what was signed, for which order.
type signature struct {
	chain pki.Chain
	root  pki.Root
	order *v1alpha1.IssuedCertificate
}

// sign checks all that there is to be checked and signs. Nothing of it is known to anybody until the answer is written.
func (r *Reconciler) sign(ctx context.Context, cr *v1alpha1.CertificateRequest) (signature, error) {
	if err := r.checkCluster(ctx, cr.Namespace); err != nil {
		return signature{}, err
	}
	csr, err := checkRequest(cr)
	if err != nil {
		return signature{}, err
	}
	ic, order, signer, err := r.order(ctx, cr)
	if err != nil {
		return signature{}, err
	}
	if err := r.checkUnsigned(ctx, cr); err != nil {
		return signature{}, err
	}
	root, err := r.Roots.Find(ctx, signer)
	if roots.IsLost(err) {
		return signature{}, missing(v1alpha1.ReasonRootKeyLost, "%v", err)
	}
	if err := cmp.Or(err, root.Problem); err != nil {
		return signature{}, err
	}
	if root.Foreign() { // the hub could not, whatever the order says
		return signature{}, signsElsewhere(signer)
	}
	if gateway := root.Source.Purpose == v1alpha1.PurposeGateway; gateway != (ic.Spec.Purpose == v1alpha1.PurposeGateway) {
		return signature{}, wait(ReasonNotOrdered, "the order asks for a certificate of another purpose than root %s is for", signer.Short())
	}
	chain, err := pki.SignerIssuer{Material: root.Material, Now: r.Now}.Issue(ctx, csr, pki.Template{
		Organization: order.Contents.Organization,
		Mesh:         ic.Name,
		URIs:         order.Contents.Hosts,
		TTL:          time.Duration(order.Contents.TTLDays) * 24 * time.Hour,
		Leaf:         ic.Spec.Purpose == v1alpha1.PurposeGateway,
	})
	if err != nil {
		return signature{}, fmt.Errorf("signing %s/%s: %w", cr.Namespace, cr.Name, err)
	}
	return signature{chain: chain, root: root.Material.Root, order: ic}, nil
}

// checkCluster makes sure that the namespace is that of a registered cluster.
func (r *Reconciler) checkCluster(ctx context.Context, namespace string) error {
	cluster, ok := kube.ClusterOf(namespace)
	if !ok {
		return refuse(ReasonNotRegistered, "namespace %s is not that of a cluster", namespace)
	}
	kc := &v1alpha1.KubernetesCluster{}
	err := r.Reader.Get(ctx, types.NamespacedName{Namespace: r.Namespace, Name: cluster}, kc)
	if apierrors.IsNotFound(err) || err == nil && !kc.DeletionTimestamp.IsZero() {
		return missing(ReasonNotRegistered, "cluster %s is not registered: register it with `meshctl cluster register %s`", cluster, cluster)
	}
	return err
}

// checkRequest makes sure that the request is well-formed, named after its own key, and stays for as long as the hub keeps it.
func checkRequest(cr *v1alpha1.CertificateRequest) (*x509.CertificateRequest, error) {
	if len(cr.OwnerReferences) > 0 {
		return nil, refuse(ReasonBadRequest, "metadata.ownerReferences must be empty: the request is the record of its signature, and would be deleted with its owner")
	}
	csr, err := pki.CheckRequest([]byte(cr.Spec.CertificateSigningRequest))
	if err != nil {
		return nil, refuse(ReasonBadRequest, "spec.certificateSigningRequest: %v", err)
	}
	keyName, err := pki.PublicKeyName(csr.PublicKey)
	if err != nil {
		return nil, refuse(ReasonBadRequest, "spec.certificateSigningRequest: %v", err)
	}
	if want := kube.RequestName(cr.Spec.IssuedCertificate, keyName); cr.Name != want {
		return nil, refuse(ReasonWrongName, "metadata.name must be %s, which follows from the order and the public key", want)
	}
	return csr, nil
}

// order returns the order that the request is for, and the root under which it asks for a certificate, if that is ordered now:
// to be used, or to be held beside the one in use.
func (r *Reconciler) order(ctx context.Context, cr *v1alpha1.CertificateRequest) (ic *v1alpha1.IssuedCertificate, order rotation.Order, signer pki.RootID, err error) {
	ic = &v1alpha1.IssuedCertificate{}
	err = r.Reader.Get(ctx, types.NamespacedName{Namespace: cr.Namespace, Name: cr.Spec.IssuedCertificate}, ic)
	if apierrors.IsNotFound(err) {
		err = wait(ReasonNotOrdered, "no certificate is ordered for %s: is its Mesh an accepted member of a VirtualMesh?", cr.Spec.IssuedCertificate)
	}
	if err != nil {
		return nil, order, signer, err
	}
	if order, err = rotation.OrderOf(ic); err != nil {
		return nil, order, signer, wait(ReasonNotOrdered, "the order %s is not readable: %v", ic.Name, err)
	}
	issuance, prepared := cr.Spec.Issuance, order.Prepared
	switch {
	case !ic.DeletionTimestamp.IsZero():
		err = wait(ReasonNotOrdered, "the order %s is being deleted", ic.Name)
	case ic.Spec.Suspend:
		err = wait(v1alpha1.ReasonSuspended, "the VirtualMesh is suspended")
	case issuance == order.Issuance:
		signer = order.Signer
	case prepared != nil && issuance == prepared.Issuance:
		signer = prepared.Signer
	case issuance < order.Issuance:
		err = refuse(ReasonOutdated, "spec.issuance: %d is not ordered any more, but %d", issuance, order.Issuance)
	default:
		err = wait(ReasonNotOrdered, "spec.issuance: %d is not ordered yet, but %d", issuance, order.Issuance)
	}
	if err == nil && ic.Spec.AgentCA(signer.String()) != nil {
		err = signsElsewhere(signer)
	}
	return ic, order, signer, err
}

// signsElsewhere refuses what the agent has to ask Vault for.
func signsElsewhere(signer pki.RootID) error {
	return wait(ReasonSignsElsewhere, "the hub signs nothing under root %s: the agent asks the Vault server of the order", signer.Short())
}

// checkUnsigned makes sure that nothing was signed yet for the issuance. It asks the API server itself.
func (r *Reconciler) checkUnsigned(ctx context.Context, cr *v1alpha1.CertificateRequest) error {
	list := &v1alpha1.CertificateRequestList{}
	if err := r.Reader.List(ctx, list, client.InNamespace(cr.Namespace)); err != nil {
		return err
	}
	for i := range list.Items {
		other := &list.Items[i]
		if other.Spec.IssuedCertificate == cr.Spec.IssuedCertificate && other.Spec.Issuance == cr.Spec.Issuance &&
			other.UID != cr.UID && other.Status.State == v1alpha1.CertificateRequestFinished {
			return refuse(ReasonAlreadySigned, "issuance %d was signed for request %s; report the key as lost to have another one ordered", cr.Spec.Issuance, other.Name)
		}
	}
	return nil
}

// answer writes the status of a request.
func (r *Reconciler) answer(ctx context.Context, cr *v1alpha1.CertificateRequest, status v1alpha1.CertificateRequestStatus, ready metav1.Condition) error {
	ready.Type = v1alpha1.ConditionReady
	ready.LastTransitionTime = metav1.NewTime(r.Now().Truncate(time.Second))
	want := &v1alpha1.CertificateRequest{ObjectMeta: metav1.ObjectMeta{Name: cr.Name, Namespace: cr.Namespace}, Status: status}
	want.Status.ObservedGeneration = cr.Generation
	want.Status.Conditions = finding.Conditions(cr.Status.Conditions, cr.Generation, ready)
	return kube.ApplyStatus(ctx, r.Client, owner, cr, want)
}

func (r *Reconciler) answerNo(ctx context.Context, cr *v1alpha1.CertificateRequest, no *refusal) error {
	state, text := v1alpha1.CertificateRequestPending, ""
	if no.final {
		state, text = v1alpha1.CertificateRequestFailed, no.message
	}
	ready := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: no.reason, Message: no.message}
	if err := r.answer(ctx, cr, v1alpha1.CertificateRequestStatus{State: state, Error: text}, ready); err != nil {
		return err
	}
	finding.Announce(r.Events, cr, cr.Status.Conditions, "Sign", ready)
	return nil
}

// forget deletes the requests of an order that are older than the issuance before the one that was signed. The last two stay
// as the record, and whatever is ordered.
func (r *Reconciler) forget(ctx context.Context, signed *v1alpha1.CertificateRequest, ic *v1alpha1.IssuedCertificate) error {
	list := &v1alpha1.CertificateRequestList{}
	if err := r.Client.List(ctx, list, client.InNamespace(signed.Namespace)); err != nil {
		return err
	}
	kept := func(issuance int64) bool {
		return issuance >= signed.Spec.Issuance-1 || asksFor(ic, issuance)
	}
	for i := range list.Items {
		cr := &list.Items[i]
		if cr.Spec.IssuedCertificate != ic.Name || kept(cr.Spec.Issuance) {
			continue
		}
		if err := client.IgnoreNotFound(r.Client.Delete(ctx, cr, client.Preconditions{UID: &cr.UID})); err != nil {
			return err
		}
	}
	return nil
}
