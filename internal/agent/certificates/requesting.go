package certificates

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
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
	vault   *vaultSigner
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
	again := r.vault.again(req.Name, err)
	if s != nil {
		again = cmp.Or(again, review) // as when the Secret is there again, or the clock is right
	}
	return ctrl.Result{RequeueAfter: again}, r.writeStatus(ctx, o, outcome)
}

// outcome of the requesting half.
type outcome struct {
	// requested: a CertificateRequest exists. obtained: the CA of this order is stored. outdated: a later order was carried out.
	requested, obtained, outdated bool
	keyLost                       int64
	stall                         *stall
}

func (r *Requester) carryOut(ctx context.Context, o *v1alpha1.IssuedCertificate) (outcome, error) {
	if err := r.check(o); err != nil {
		return outcome{}, err
	}
	w, err := r.store.readWanted(ctx, o.Name)
	if err != nil {
		return outcome{}, err
	}
	switch {
	case o.Spec.Suspend:
		return outcome{obtained: w.held(o.Spec.Issuance, o.Spec.Signer) != nil}, r.remember(ctx, w, o)
	case w.isAhead(o):
		return outcome{outdated: true}, r.remember(ctx, w, o)
	}
	ca, out, err := r.obtain(ctx, o, w, o.Spec.Issuance, o.Spec.Signer)
	if ca == nil {
		if err := r.remember(ctx, w, o); err != nil {
			return out, err
		}
		return out, err
	}
	next := &wanted{Mesh: o.Name, Order: orderOf(o), Issuance: ca.Issuance}
	if w != nil {
		next.InUse, next.secret = w.InUse, w.secret
	}
	var asked int64
	if p := o.Spec.Prepared; p != nil {
		var spared outcome
		next.Spare, spared, err = r.obtain(ctx, o, w, p.Issuance, p.Signer)
		if out.keyLost = spared.keyLost; next.Spare == nil {
			asked = p.Issuance
		}
		if s := (*stall)(nil); err != nil && !errors.As(err, &s) {
			return out, err
		}
	}
	waits := err // for the spare, which keeps the CA from nothing
	if next.CA, err = next.compose(ca, w, r.Now()); err != nil {
		return out, err
	}
	if err := r.vouch(ctx, w, next); err != nil {
		return out, err
	}
	if err := r.store.writeWanted(ctx, next); err != nil {
		return out, err
	}
	out.obtained = true
	return out, errors.Join(waits, r.store.deletePending(ctx, o.Name, asked))
}

// remember stores what an order says beside the certificates (suspend, autoRestartPods, ...) while it is not carried out.
func (r *Requester) remember(ctx context.Context, w *wanted, o *v1alpha1.IssuedCertificate) error {
	if w == nil {
		return nil
	}
	w.Order.Generation = o.Generation
	s := &w.Order.Spec
	s.VirtualMesh, s.Suspend, s.AutoRestartPods, s.AdoptExistingCA = o.Spec.VirtualMesh, o.Spec.Suspend, o.Spec.AutoRestartPods, o.Spec.AdoptExistingCA
	return r.store.writeWanted(ctx, w)
}

// obtain returns an intermediate that an order asks for: one that is stored, the CA that the mesh came with, or what the hub
// or Vault has signed; nil if it is not there yet.
func (r *Requester) obtain(ctx context.Context, o *v1alpha1.IssuedCertificate, w *wanted, issuance int64, signer string) (*intermediate, outcome, error) {
	if i := w.held(issuance, signer); i != nil {
		return i, outcome{requested: true}, nil
	}
	if issuance > 0 {
		if ca := o.Spec.AgentCA(signer); ca != nil {
			return r.vault.sign(ctx, r.store, o, issuance, ca, r.Now())
		}
		return r.request(ctx, o, issuance, signer)
	}
	own, err := ownCA(ctx, r.store.reader, o.Spec.IssuedCertificateSecret.Namespace, signer, r.Now())
	if err == nil && own == nil {
		err = stalled(ReasonInvalidOrder, "the order asks for the CA that the mesh came with, under root %.16s, and neither Secret %s nor %s of namespace %s holds it",
			signer, CACertsName, selfSignedSecret, o.Spec.IssuedCertificateSecret.Namespace)
	}
	return own, outcome{}, err
}

// check refuses an order that no agent should carry out, whoever wrote it.
func (r *Requester) check(o *v1alpha1.IssuedCertificate) error {
	ref := o.Spec.IssuedCertificateSecret
	if o.Spec.Purpose == v1alpha1.PurposeGateway {
		return r.checkGateway(o)
	}
	if ref.Name != CACertsName || !slices.Contains(r.RootNamespaces, ref.Namespace) {
		return stalled(ReasonInvalidOrder, "the order is for Secret %s/%s, but this agent writes only Secret %s in the Istio root namespaces %v (flag --istio-namespaces)", ref.Namespace, ref.Name, CACertsName, r.RootNamespaces)
	}
	if want := kube.MeshName(ref.Namespace, r.Cluster); o.Name != want {
		return stalled(ReasonInvalidOrder, "the order for namespace %s must be named %s", ref.Namespace, want)
	}
	return nil
}

// vouch refuses an order with a root that this cluster does not have and that the hub has no reason to bring: one that it signs
// under, or by which all of the virtual mesh are rotated. The hub learns from here which roots a mesh comes with, and by the same
// credential somebody else may have told it of others. before is what was wanted until now.
func (r *Requester) vouch(ctx context.Context, before, next *wanted) error {
	spec, known := &next.Order.Spec, []pki.RootID{next.CA.Root.ID()}
	if next.Spare != nil {
		known = append(known, next.Spare.Root.ID())
	}
	if before != nil {
		known = append(known, before.CA.Roots.IDs()...)
		if before.Spare != nil {
			known = append(known, before.Spare.Root.ID())
		}
	}
	strange := func(root v1alpha1.RootCertificate) bool {
		p := spec.Rotation
		return !slices.Contains(known, pki.RootIDOrZero(root.Fingerprint)) &&
			(p == nil || root.Fingerprint != p.New && (root.Fingerprint != p.Old || p.Alone))
	}
	if spec.Purpose != v1alpha1.PurposeGateway && slices.ContainsFunc(spec.Roots, strange) {
		for _, name := range []string{CACertsName, selfSignedSecret} {
			ca, _, err := readIstioSecret(ctx, r.store.reader, spec.IssuedCertificateSecret.Namespace, name, r.Now())
			if err != nil {
				return err
			}
			known = append(known, ca.Roots.IDs()...)
		}
	}
	i := slices.IndexFunc(spec.Roots, strange)
	if i < 0 {
		return nil
	}
	return stalled(ReasonInvalidOrder, "spec.roots[%d] of the order: this cluster does not have root %.16s, and nothing is signed under it; unless you have removed it, somebody else has reported it with the credential of this agent: replace the credential (meshctl cluster rotate-credentials), evict the mesh, and let it join again", i, spec.Roots[i].Fingerprint)
}

// request asks for a signature with the issuance's own key and returns what the hub signed.
func (r *Requester) request(ctx context.Context, o *v1alpha1.IssuedCertificate, issuance int64, signer string) (*intermediate, outcome, error) {
	key, err := r.store.pendingKey(ctx, o.Name, issuance, o.Spec, pki.NewKey)
	if err != nil {
		return nil, outcome{}, err
	}
	request, err := r.ensureRequest(ctx, o, issuance, key)
	if err != nil {
		return nil, outcome{}, err
	}
	out := outcome{requested: true}
	switch request.Status.State {
	case v1alpha1.CertificateRequestFinished:
	case v1alpha1.CertificateRequestFailed:
		if refusal := meta.FindStatusCondition(request.Status.Conditions, v1alpha1.ConditionReady); refusal != nil && refusal.Reason == reasonAlreadySigned {
			out.keyLost = issuance
			return nil, out, stalled(ReasonKeyLost, "the hub has signed issuance %d for a key that this cluster does not hold any more; it orders another one", issuance)
		}
		return nil, out, stalled(ReasonRequestRefused, "the hub refused request %s: %s", request.Name, request.Status.Error)
	default:
		return nil, out, nil
	}
	m, err := r.accept(o, request, key, signer)
	if err != nil {
		return nil, out, err
	}
	return &intermediate{issuance, m}, out, nil
}

// ensureRequest returns the CertificateRequest for a key, creating it if need be.
func (r *Requester) ensureRequest(ctx context.Context, o *v1alpha1.IssuedCertificate, issuance int64, key crypto.Signer) (*v1alpha1.CertificateRequest, error) {
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
		Issuance:                  issuance,
		CertificateSigningRequest: string(csr),
	}
	err = r.Hub.Create(ctx, request, client.FieldOwner(managedBy))
	if apierrors.IsAlreadyExists(err) { // the cache is behind
		return request, r.HubReader.Get(ctx, client.ObjectKeyFromObject(request), request)
	}
	return request, err
}

// accept verifies what the hub signed against the order.
func (r *Requester) accept(o *v1alpha1.IssuedCertificate, request *v1alpha1.CertificateRequest, key crypto.Signer, signer string) (pki.Material, error) {
	chain, err := pki.ParseChain(slices.Concat(bytes.TrimSpace([]byte(request.Status.SignedCertificate)), []byte("\n"), []byte(request.Status.CertChain)))
	if err != nil {
		return pki.Material{}, stalled(ReasonInvalidAnswer, "what the hub signed in request %s cannot be read: %v", request.Name, err)
	}
	if !slices.Equal(uris(chain[0]), o.Spec.Hosts) {
		return pki.Material{}, stalled(ReasonInvalidAnswer, "the intermediate signed in request %s is for %v, ordered was %v", request.Name, uris(chain[0]), o.Spec.Hosts)
	}
	root := pki.RootOf(chain[len(chain)-1])
	if root.ID().String() != signer {
		return pki.Material{}, stalled(ReasonInvalidAnswer, "the intermediate signed in request %s is under root %s, ordered was %.16s", request.Name, root.ID().Short(), signer)
	}
	m, err := pki.NewMaterial(chain[:len(chain)-1], key, pki.NewBundle(root), r.Now())
	if err != nil {
		return pki.Material{}, stalled(ReasonInvalidAnswer, "the intermediate signed in request %s does not fit the order: %v", request.Name, err)
	}
	return m, nil
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
	if o.Spec.Purpose == v1alpha1.PurposeGateway {
		if err := r.reportGateways(ctx, o, report); err != nil {
			return err
		}
	}
	if err := kube.ApplyStatus(ctx, r.Hub, statusOwner, o, want); err != nil {
		return fmt.Errorf("status of order %s: %w", o.Name, err)
	}
	return nil
}
