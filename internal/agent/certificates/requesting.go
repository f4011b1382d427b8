package certificates

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// statusOwner is the field manager of what the agent writes to the status of orders.
const statusOwner = "isthmus-agent-certificates"

// reasonAlreadySigned is the hub's reason for refusing a second request for one issuance.
const reasonAlreadySigned = "AlreadySigned"

// Requester is the half that needs the hub: it obtains what an order asks for, and reports to the order what both halves
// did and saw.
type Requester struct {
	// Hub is the hub; HubReader reads past its cache.
	Hub       client.Client
	HubReader client.Reader
	// Cluster is the registered name of this cluster.
	Cluster string
	// RootNamespaces are the Istio root namespaces in which orders are carried out.
	RootNamespaces []string
	// Now is the clock.
	Now func() time.Time

	store   *store
	reports *Reports
}

// Reconcile carries out one order as far as it can now.
func (r *Requester) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	o := &v1alpha1.IssuedCertificate{}
	if err := r.Hub.Get(ctx, req.NamespacedName, o); err != nil {
		// An order that is gone takes nothing with it: cacerts is kept and looked after as it is.
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	outcome, err := r.carryOut(ctx, o)
	var s *stall
	if err != nil && !errors.As(err, &s) {
		return ctrl.Result{}, err
	}
	outcome.stall = s
	return ctrl.Result{}, r.writeStatus(ctx, o, outcome)
}

// outcome of the requesting half.
type outcome struct {
	// requested: a CertificateRequest exists. obtained: the CA of this order is stored.
	requested, obtained bool
	keyLost             int64
	stall               *stall
}

func (r *Requester) carryOut(ctx context.Context, o *v1alpha1.IssuedCertificate) (outcome, error) {
	if err := r.check(o); err != nil {
		return outcome{}, err
	}
	w, err := r.store.readWanted(ctx, o.Name)
	if err != nil {
		return outcome{}, err
	}
	if o.Spec.Suspend {
		return outcome{obtained: w.fulfilled(&o.Spec)}, r.remember(ctx, w, o)
	}
	if w.fulfilled(&o.Spec) {
		ca, err := w.recompose(&o.Spec, r.Now())
		if err != nil {
			return outcome{}, err
		}
		w.CA, w.Order = ca, orderOf(o)
		if err := r.store.writeWanted(ctx, w); err != nil {
			return outcome{}, err
		}
		return outcome{obtained: true}, r.store.deletePending(ctx, o.Name, w.Issuance)
	}
	if err := r.remember(ctx, w, o); err != nil {
		return outcome{}, err
	}
	return r.request(ctx, o, w)
}

// remember stores what an order says beside the certificate (suspend, autoRestartPods, …) while the CA that it asks for is
// not there yet.
func (r *Requester) remember(ctx context.Context, w *wanted, o *v1alpha1.IssuedCertificate) error {
	if w == nil {
		return nil
	}
	kept := w.Order.Spec
	w.Order = orderOf(o)
	// The stored CA goes with the signer and the roots for which it was composed.
	w.Order.Spec.Signer, w.Order.Spec.Roots, w.Order.Spec.Rotation = kept.Signer, kept.Roots, kept.Rotation
	return r.store.writeWanted(ctx, w)
}

// check refuses an order that no agent should carry out, whoever wrote it.
func (r *Requester) check(o *v1alpha1.IssuedCertificate) error {
	ref := o.Spec.IssuedCertificateSecret
	if ref.Name != CACertsName || !slices.Contains(r.RootNamespaces, ref.Namespace) {
		return stalled(ReasonInvalidOrder, "the order is for Secret %s/%s, but this agent writes only Secret %s in the Istio root namespaces %v (flag --istio-namespaces)", ref.Namespace, ref.Name, CACertsName, r.RootNamespaces)
	}
	if want := kube.MeshName(ref.Namespace, r.Cluster); o.Name != want {
		return stalled(ReasonInvalidOrder, "the order for namespace %s must be named %s", ref.Namespace, want)
	}
	return nil
}

// request asks for a signature with the issuance's own key and stores what the hub signed.
func (r *Requester) request(ctx context.Context, o *v1alpha1.IssuedCertificate, w *wanted) (outcome, error) {
	key, err := r.store.pendingKey(ctx, o.Name, o.Spec)
	if err != nil {
		return outcome{}, err
	}
	request, err := r.ensureRequest(ctx, o, key)
	if err != nil {
		return outcome{}, err
	}
	switch request.Status.State {
	case v1alpha1.CertificateRequestFinished:
	case v1alpha1.CertificateRequestFailed:
		if refusal := meta.FindStatusCondition(request.Status.Conditions, v1alpha1.ConditionReady); refusal != nil && refusal.Reason == reasonAlreadySigned {
			return outcome{requested: true, keyLost: o.Spec.Issuance},
				stalled(ReasonKeyLost, "the hub has signed issuance %d for a key that this cluster does not hold any more; it orders another one", o.Spec.Issuance)
		}
		return outcome{requested: true}, stalled(ReasonRequestRefused, "the hub refused request %s: %s", request.Name, request.Status.Error)
	default:
		return outcome{requested: true}, nil
	}
	ca, err := r.accept(o, request, key)
	if err != nil {
		return outcome{requested: true}, err
	}
	if w == nil {
		w = &wanted{Mesh: o.Name}
	}
	w.CA, w.Issuance, w.Order = ca, o.Spec.Issuance, orderOf(o)
	if err := r.store.writeWanted(ctx, w); err != nil {
		return outcome{requested: true}, err
	}
	return outcome{requested: true, obtained: true}, r.store.deletePending(ctx, o.Name, w.Issuance)
}

// ensureRequest returns the CertificateRequest for a key, creating it if need be.
func (r *Requester) ensureRequest(ctx context.Context, o *v1alpha1.IssuedCertificate, key crypto.Signer) (*v1alpha1.CertificateRequest, error) {
	keyName, err := pki.PublicKeyName(key.Public())
	if err != nil {
		return nil, err
	}
	request := &v1alpha1.CertificateRequest{}
	request.Namespace, request.Name = o.Namespace, kube.RequestName(o.Name, keyName)
	if err := r.Hub.Get(ctx, client.ObjectKeyFromObject(request), request); !apierrors.IsNotFound(err) {
		return request, err
	}
	csr, err := pki.NewRequest(key, o.Spec.CertOptions.OrgName, o.Name)
	if err != nil {
		return nil, err
	}
	request.Spec = v1alpha1.CertificateRequestSpec{
		IssuedCertificate:         o.Name,
		Issuance:                  o.Spec.Issuance,
		CertificateSigningRequest: string(csr),
	}
	err = r.Hub.Create(ctx, request, client.FieldOwner(managedBy))
	if apierrors.IsAlreadyExists(err) { // the cache is behind
		return request, r.HubReader.Get(ctx, client.ObjectKeyFromObject(request), request)
	}
	return request, err
}

// accept verifies what the hub signed against the order, as istiod will, and composes the CA.
func (r *Requester) accept(o *v1alpha1.IssuedCertificate, request *v1alpha1.CertificateRequest, key crypto.Signer) (pki.CACerts, error) {
	chain, err := pki.ParseChain(slices.Concat(bytes.TrimSpace([]byte(request.Status.SignedCertificate)), []byte("\n"), []byte(request.Status.CertChain)))
	if err != nil {
		return pki.CACerts{}, stalled(ReasonInvalidAnswer, "what the hub signed in request %s cannot be read: %v", request.Name, err)
	}
	if !reflect.DeepEqual(uris(chain[0]), o.Spec.Hosts) {
		return pki.CACerts{}, stalled(ReasonInvalidAnswer, "the intermediate signed in request %s is for %v, ordered was %v", request.Name, uris(chain[0]), o.Spec.Hosts)
	}
	bundle, err := roots(&o.Spec)
	if err != nil {
		return pki.CACerts{}, err
	}
	return assemble(chain, pki.CACerts{Material: pki.Material{Key: key}}, bundle, &o.Spec, r.Now())
}

func orderOf(o *v1alpha1.IssuedCertificate) order {
	return order{Generation: o.Generation, Spec: *o.Spec.DeepCopy()}
}

// writeStatus reports to the order.
func (r *Requester) writeStatus(ctx context.Context, o *v1alpha1.IssuedCertificate, out outcome) error {
	report := r.reports.get(o.Name)
	if report == nil && out.obtained && out.stall == nil && o.Status.ObservedGeneration == o.Generation {
		return nil // this agent has just started: what was reported before stands until it has looked itself
	}
	want := &v1alpha1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Name}}
	want.Status = statusOf(o, out, report, r.Now())
	if err := kube.ApplyStatus(ctx, r.Hub, statusOwner, o, want); err != nil {
		return fmt.Errorf("status of order %s: %w", o.Name, err)
	}
	return nil
}
