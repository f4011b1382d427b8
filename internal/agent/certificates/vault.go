package certificates

import (
	"context"
	"crypto"
	"errors"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent/vault"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// vaultOwner is the field manager of status.vault of Meshes.
const vaultOwner = "isthmus-agent-vault"

// How often Vault is asked.
const (
	// rootReview is when its root is looked at again.
	rootReview = time.Minute
	// credentialReview is when it is shown the credential again, once that was good: so long may it have ended unseen.
	credentialReview = 10 * time.Minute
	// firstRetry and lastRetry bound how soon something is tried again that has failed; it takes twice as long each time.
	firstRetry, lastRetry = 5 * time.Second, 2 * time.Minute
)

// vaultSigner obtains from Vault what the hub does not sign.
type vaultSigner struct {
	client *vault.Client
	tries  workqueue.TypedRateLimiter[string]
	proofs map[string]proof // by mesh; for one reconciler, which works on one at a time
}

// A proof is when the credential for a server was good.
type proof struct {
	ca v1alpha1.VaultCA
	at time.Time
}

func newVaultSigner(c *vault.Client) *vaultSigner {
	return &vaultSigner{client: c, tries: workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, lastRetry), proofs: map[string]proof{}}
}

// again is when to try again what has failed at Vault; 0 if nothing has. An agent that asks none has no signer.
func (v *vaultSigner) again(mesh string, err error) time.Duration {
	if v == nil {
		return 0
	}
	var s *stall
	if !errors.As(err, &s) || !s.retry {
		v.tries.Forget(mesh)
		return 0
	}
	return v.tries.When(mesh)
}

// sign obtains an intermediate for an order. The key is stored here before anything is signed for it; what comes back is taken
// only if it is in every respect what was ordered.
func (v *vaultSigner) sign(ctx context.Context, s *store, o *v1alpha1.IssuedCertificate, issuance int64, ca *v1alpha1.AgentCA, now time.Time) (*intermediate, outcome, error) {
	options := o.Spec.CertOptions
	t := pki.Template{Organization: options.OrgName, Mesh: o.Name, URIs: o.Spec.Hosts}
	if options.TTLDays != nil {
		t.TTL = time.Duration(*options.TTLDays) * 24 * time.Hour
	}
	root, err := pki.ParseRootID(ca.Root)
	if err != nil {
		return nil, outcome{}, stalled(ReasonInvalidOrder, "spec.agentCAs of the order: %v", err)
	}
	key, err := s.pendingKey(ctx, o.Name, issuance, o.Spec, func(bits int) (crypto.Signer, error) {
		if ca.Vault.CSRPath == "" {
			return pki.NewKey(bits)
		}
		return v.client.GenerateKey(ctx, &ca.Vault, bits, t)
	})
	if err != nil {
		return nil, outcome{}, vaultStall(err)
	}
	out := outcome{requested: true}
	csr, err := pki.NewRequest(key, options.OrgName, o.Name)
	if err != nil {
		return nil, out, err
	}
	chain, anchor, err := v.client.Sign(ctx, &ca.Vault, csr, t, root, now)
	if err != nil {
		return nil, out, vaultStall(err)
	}
	m, err := pki.NewForeign(chain, key, anchor, o.Spec.Hosts, now)
	if err != nil {
		return nil, out, vaultStall(&vault.Error{Reason: vault.ReasonInvalidAnswer, Message: "what Vault signed at " + ca.Vault.Server + " is not what was asked for: " + err.Error()})
	}
	log.FromContext(ctx).Info("Vault has signed an intermediate", "issuance", issuance, "server", ca.Vault.Server,
		"root", anchor.ID().String(), "serialNumber", m.Certificate.SerialNumber.Text(16), "notAfter", m.Certificate.NotAfter)
	return &intermediate{issuance, m}, out, nil
}

// vaultStall makes of what is wrong with Vault something for the status, which is tried again by itself.
func vaultStall(err error) error {
	if e, ok := errors.AsType[*vault.Error](err); ok {
		return &stall{Reason: e.Reason, Message: e.Message, retry: true}
	}
	return err
}

// prove sees whether the credential for a server is good, unless that was seen a short while ago.
func (v *vaultSigner) prove(ctx context.Context, mesh string, ca *v1alpha1.VaultCA, now time.Time) error {
	if p, ok := v.proofs[mesh]; ok && now.Sub(p.at) < credentialReview && equality.Semantic.DeepEqual(&p.ca, ca) {
		return nil
	}
	delete(v.proofs, mesh)
	if err := v.client.Authenticate(ctx, ca); err != nil {
		return err
	}
	v.proofs[mesh] = proof{*ca.DeepCopy(), now}
	return nil
}

// VaultReporter says in status.vault of each Mesh of this cluster which root the Vault server of its VirtualMesh signs under, and
// what keeps the agent from having anything signed there.
type VaultReporter struct {
	// Hub is the hub.
	Hub client.Client
	// RootNamespaces in which this agent carries out orders.
	RootNamespaces []string
	// Now is the clock.
	Now func() time.Time

	vault *vaultSigner
}

// Reconcile looks for one Mesh.
func (r *VaultReporter) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	mesh := &v1alpha1.Mesh{}
	if err := r.Hub.Get(ctx, req.NamespacedName, mesh); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !slices.Contains(r.RootNamespaces, mesh.Spec.Istio.RootNamespace) {
		return ctrl.Result{}, nil
	}
	vm, ca, err := r.asks(ctx, mesh)
	if err != nil {
		return ctrl.Result{}, err
	}
	want := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: mesh.Namespace, Name: mesh.Name}}
	var again time.Duration
	if ca != nil {
		if want.Status.Vault, again, err = r.look(ctx, mesh, vm, ca); err != nil {
			return ctrl.Result{}, err
		}
	}
	return ctrl.Result{RequeueAfter: again}, kube.ApplyStatus(ctx, r.Hub, vaultOwner, mesh, want)
}

// asks finds the VirtualMesh in force that has Vault sign for the mesh, and the server that it names; nil if none does.
func (r *VaultReporter) asks(ctx context.Context, mesh *v1alpha1.Mesh) (vm string, ca *v1alpha1.VaultCA, err error) {
	var list v1alpha1.VirtualMeshList
	if err := r.Hub.List(ctx, &list); err != nil {
		return "", nil, err
	}
	for i := range list.Items {
		a := list.Items[i].Status.Accepted
		if a == nil || a.Spec.MTLSConfig == nil || a.Spec.MTLSConfig.Shared == nil || a.Spec.MTLSConfig.Shared.IntermediateCertificateAuthority == nil ||
			!slices.Contains(a.Spec.Meshes, v1alpha1.ObjectRef{Namespace: mesh.Namespace, Name: mesh.Name}) {
			continue
		}
		return kube.Qualified(list.Items[i].Name, list.Items[i].Namespace), &a.Spec.MTLSConfig.Shared.IntermediateCertificateAuthority.Vault, nil
	}
	return "", nil, nil
}

// look asks the server. While it does not answer, the root that was last seen there stands. That is told by anybody: a credential
// that is not good is reported beside it.
func (r *VaultReporter) look(ctx context.Context, mesh *v1alpha1.Mesh, vm string, ca *v1alpha1.VaultCA) (*v1alpha1.MeshVault, time.Duration, error) {
	report := &v1alpha1.MeshVault{VirtualMesh: vm, Server: ca.Server, Namespace: ca.Namespace, CAPath: ca.CAPath}
	if was := mesh.Status.Vault; was != nil && was.VirtualMesh == vm && was.Server == ca.Server && was.Namespace == ca.Namespace && was.CAPath == ca.CAPath {
		report.Root = was.Root
	}
	root, err := r.vault.client.Root(ctx, ca, r.Now())
	if err == nil {
		report.Root = &v1alpha1.RootCertificate{Fingerprint: root.ID().String(), Certificate: string(root.PEM())}
		err = r.vault.prove(ctx, mesh.Name, ca, r.Now())
	}
	if e, ok := errors.AsType[*vault.Error](err); ok {
		report.Reason, report.Message = e.Reason, e.Message
		return report, r.vault.again(mesh.Name, vaultStall(err)), nil
	}
	if err != nil {
		return nil, 0, err
	}
	r.vault.again(mesh.Name, nil)
	return report, rootReview, nil
}
