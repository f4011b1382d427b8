package certificates

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// CACertsName is the name of the Secret from which istiod takes a plug-in CA.
const CACertsName = "cacerts"

// Reasons for which an order stands still until somebody acts.
const (
	ReasonForeignCA       = "ForeignCA"       // cacerts is somebody else's
	ReasonCannotKeepCRL   = "CannotKeepCRL"   // its revocation lists do not fit the new chain
	ReasonSecretType      = "SecretType"      // its type, which is immutable, forbids our files
	ReasonInvalidOrder    = "InvalidOrder"    // the order itself cannot be carried out
	ReasonRequestRefused  = "RequestRefused"  // the hub refused the request
	ReasonKeyLost         = "KeyLost"         // the private key of the issuance is gone
	ReasonInvalidAnswer   = "InvalidAnswer"   // the signed chain is not what was ordered
	ReasonNotUsed         = "NotUsed"         // istiod does not use cacerts even after a restart
	ReasonRestartBlocked  = "RestartBlocked"  // a rollout does not finish
	ReasonWaitingForHub   = "WaitingForHub"   // the hub has not signed yet
	ReasonOutdated        = "Outdated"        // a later order was carried out already
	ReasonInstalling      = "Installing"      // istiod is on its way
	ReasonRestarting      = "Restarting"      // pods are being restarted
	ReasonInUse           = "InUse"           // everything that can be seen uses what was ordered
	ReasonCACertsReplaced = "CACertsReplaced" // cacerts was written
	ReasonNoGateways      = "NoGateways"      // gateways of limited trust are not there, or may not be given a certificate
	ReasonForeignSecret   = "ForeignSecret"   // the Secret of gateways is somebody else's
)

// stall is an error that only somebody's action resolves.
type stall struct {
	Reason, Message string
	// retry: nobody tells when that is done, so it is tried again by itself.
	retry bool
}

func (e *stall) Error() string { return e.Message }

func stalled(reason, format string, args ...any) *stall {
	return &stall{Reason: reason, Message: finding.Short(fmt.Sprintf(format, args...), finding.MaxMessage)}
}

// compose returns cacerts as it shall be, given how it is (nil: absent), or nil if nothing needs to be written. All of
// its data becomes ours, but for revocation lists, which are kept; its type is kept because it is immutable.
func compose(live *corev1.Secret, w *wanted, now time.Time) (*corev1.Secret, error) {
	ref := w.Order.Spec.IssuedCertificateSecret
	where := ref.Namespace + "/" + ref.Name
	ca := w.CA
	if live != nil {
		ours := live.Labels[v1alpha1.LabelManagedBy] == managedBy
		_, generated := live.Data[pki.IstioGeneratedKey]
		if !ours && !generated && !w.Order.Spec.AdoptExistingCA {
			return nil, stalled(ReasonForeignCA, "Secret %s holds a CA that somebody else made; set spec.mtlsConfig.adoptExistingCA: true in the VirtualMesh to replace it, or delete the Secret", where)
		}
		if live.Type == corev1.SecretTypeTLS {
			return nil, stalled(ReasonSecretType, "Secret %s is of type %s, which cannot be changed and forbids the files of a plug-in CA; make it anew with type Opaque", where, live.Type)
		}
		ca.CRL = live.Data[pki.CACRLKey]
	}
	if err := ca.Verify(now); err != nil {
		if len(ca.CRL) == 0 {
			return nil, stalled(ReasonInvalidAnswer, "istiod would not take what is to be written to %s: %v", where, err)
		}
		if _, bare := verifyWithoutCRL(ca, now); bare != nil {
			return nil, stalled(ReasonInvalidAnswer, "istiod would not take what is to be written to %s: %v", where, bare)
		}
		return nil, stalled(ReasonCannotKeepCRL, "%s of Secret %s does not cover the new chain (%v); add revocation lists of its CAs, or remove the key", pki.CACRLKey, where, err)
	}
	data, err := ca.Data()
	if err != nil {
		return nil, err
	}
	next := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: ref.Namespace, Name: ref.Name, Labels: map[string]string{}},
		Type:       v1alpha1.SecretTypeIntermediate,
	}
	if live != nil {
		next = live.DeepCopy()
		if next.Labels == nil {
			next.Labels = map[string]string{}
		}
	}
	if next.Annotations == nil {
		next.Annotations = map[string]string{}
	}
	maps.Copy(next.Labels, labels(w.Order.Spec))
	// The label may be cut short; this is the whole name.
	vm := w.Order.Spec.VirtualMesh
	next.Annotations[v1alpha1.LabelVirtualMesh] = kube.Qualified(vm.Name, vm.Namespace)
	next.Data = data
	if live != nil && maps.EqualFunc(live.Data, next.Data, bytes.Equal) &&
		maps.Equal(live.Labels, next.Labels) && maps.Equal(live.Annotations, next.Annotations) {
		return nil, nil
	}
	return next, nil
}

func verifyWithoutCRL(ca pki.CACerts, now time.Time) (pki.CACerts, error) {
	ca.CRL = nil
	return ca, ca.Verify(now)
}

// roots is the bundle that an order asks for.
func roots(spec *v1alpha1.IssuedCertificateSpec) (pki.Bundle, error) {
	var bundle pki.Bundle
	for i, r := range spec.Roots {
		root, err := pki.ParseRoot([]byte(r.Certificate))
		if err != nil {
			return pki.Bundle{}, stalled(ReasonInvalidOrder, "spec.roots[%d].certificate of the order: %v", i, err)
		}
		if root.ID().String() != r.Fingerprint {
			return pki.Bundle{}, stalled(ReasonInvalidOrder, "spec.roots[%d].fingerprint of the order is not that of its certificate", i)
		}
		bundle = bundle.Append(root)
	}
	if spec.Rotation != nil {
		bundle = bundle.WithNudge(spec.Rotation.Nudge)
	}
	return bundle, nil
}

// compose puts an intermediate under the roots of the order, with a cross-certificate if the order asks for one; before is what
// was wanted until now.
func (w *wanted) compose(i *intermediate, before *wanted, now time.Time) (pki.CACerts, error) {
	spec := &w.Order.Spec
	bundle, err := roots(spec)
	if err != nil {
		return pki.CACerts{}, err
	}
	if !bundle.Contains(i.Root.ID()) {
		return pki.CACerts{}, stalled(ReasonInvalidOrder, "spec.signer of the order is none of its roots")
	}
	ca := pki.CACerts{Material: i.Material}
	ca.Roots = bundle
	if c := spec.CrossCertificate; c != nil {
		cross, err := w.cross(c, i.Root, bundle, before, now)
		if err != nil {
			return pki.CACerts{}, stalled(ReasonInvalidOrder, "spec.crossCertificate of the order: %v", err)
		}
		ca.Cross = []*x509.Certificate{cross}
	}
	files, err := ca.Data()
	if err != nil {
		return pki.CACerts{}, err
	}
	if _, err := readFor(spec.Purpose, files, now); err != nil {
		return pki.CACerts{}, stalled(ReasonInvalidAnswer, "what was signed would not be taken: %v", err)
	}
	return ca, nil
}

// cross is the certificate of a root under another: the one of the order, the one that is in use, or one made with the CA that
// the mesh came with.
func (w *wanted) cross(c *v1alpha1.CrossCertificate, root pki.Root, bundle pki.Bundle, before *wanted, now time.Time) (*x509.Certificate, error) {
	if c.Certificate != "" {
		return pki.ParseCross([]byte(c.Certificate), root, bundle)
	}
	if before != nil {
		for _, used := range before.CA.Cross {
			if cross, err := pki.ParseCross(pki.Chain{used}.PEM(), root, bundle); err == nil {
				return cross, nil
			}
		}
	}
	own := w.Spare
	if own == nil || own.Issuance != 0 || !own.Certificate.Equal(own.Root.Certificate()) {
		return nil, errors.New("the mesh did not come with a root of its own that could sign it")
	}
	return pki.CrossSign(root, own.Material, now)
}

// intermediateStatus describes a CA.
func intermediateStatus(ca pki.Material, issuance int64) *v1alpha1.IntermediateStatus {
	s := &v1alpha1.IntermediateStatus{
		Issuance:     issuance,
		Fingerprint:  fingerprint(ca.Certificate),
		Signer:       ca.Root.ID().String(),
		SerialNumber: ca.Certificate.SerialNumber.Text(16),
		NotBefore:    metav1.NewTime(ca.Certificate.NotBefore),
		NotAfter:     metav1.NewTime(ca.Certificate.NotAfter),
	}
	for _, r := range ca.Roots.Roots() {
		s.Roots = append(s.Roots, r.ID().String())
	}
	return s
}

func fingerprint(c *x509.Certificate) string { return pki.RootOf(c).ID().String() }
