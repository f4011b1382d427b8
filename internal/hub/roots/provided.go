package roots

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/legacy"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// secretTypes are the types of Secrets in which people keep certificate authorities. In no other does the hub look, but for those in
// which installations of older generations kept theirs.
var secretTypes = []corev1.SecretType{"", corev1.SecretTypeOpaque, corev1.SecretTypeTLS, "istio.io/ca-root"}

// LookAgain is after how long a Secret is looked at again whose problem passes by itself.
const LookAgain = 5 * time.Second

// ProblemError says why a provided Secret cannot be used. Whoever may write a VirtualMesh reads it, and that may be somebody
// who may not read Secrets: it tells which key of the Secret is at fault and what kind of fault it is, and nothing that is
// in it; and of a Secret that holds no certificate authority it does not even tell whether there is one.
type ProblemError struct {
	message string
	// Passes: time alone mends it.
	Passes bool
}

func (e *ProblemError) Error() string { return e.message }

// Provided reads the certificate authority of a user. The error is a *ProblemError if the Secret is at fault.
func (s Store) Provided(ctx context.Context, ref v1alpha1.SecretRef) (pki.Material, error) {
	ref = accept.SecretRef(ref, s.Namespace)
	name := ref.Namespace + "/" + ref.Name
	if ref.Namespace != s.Namespace && !slices.Contains(s.SecretNamespaces, ref.Namespace) {
		return pki.Material{}, &ProblemError{message: fmt.Sprintf(
			"the hub may not read Secrets of namespace %s: put the Secret into %s, or add the namespace to the hub's secretNamespaces", ref.Namespace, s.Namespace)}
	}
	unusable := &ProblemError{message: fmt.Sprintf("Secret %s does not exist or holds no certificate authority: it must be of type Opaque or kubernetes.io/tls, not be one of "+
		"Isthmus, and have either root-cert.pem and key.pem, or ca-cert.pem, ca-key.pem, cert-chain.pem and root-cert.pem, or tls.crt, tls.key and ca.crt", name)}
	secret := &corev1.Secret{}
	if err := s.Reader.Get(ctx, types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}, secret); err != nil {
		if apierrors.IsNotFound(err) {
			return pki.Material{}, unusable
		}
		return pki.Material{}, fmt.Errorf("reading Secret %s: %w", name, err)
	}
	if _, ours := secret.Labels[v1alpha1.LabelManagedBy]; ours || !slices.Contains(secretTypes, secret.Type) && !legacy.IsRoot(string(secret.Type)) {
		return pki.Material{}, unusable
	}
	m, err := pki.ReadMaterial(secret.Data, s.Now())
	if invalid, ok := errors.AsType[*pki.InvalidError](err); ok {
		if invalid.Key == "" {
			return pki.Material{}, unusable
		}
		return pki.Material{}, &ProblemError{
			message: fmt.Sprintf("Secret %s, key %s: %s (%s)", name, invalid.Key, faults[invalid.Reason], invalid.Reason),
			Passes:  invalid.Passes(),
		}
	}
	return m, err
}

// faults are what may be said of a fault in public: no text is made from the contents of a Secret.
var faults = map[pki.Reason]string{
	pki.ReasonMissing:         "is missing or empty: add it",
	pki.ReasonMalformed:       "cannot be parsed: it must be PEM, and hold what the key's name says",
	pki.ReasonEncrypted:       "is encrypted: store it without a passphrase",
	pki.ReasonWeakKey:         "the key is of a kind that is not accepted: use RSA with 2048 to 8192 bits, or ECDSA on P-256 or P-384",
	pki.ReasonWeakSignature:   "the signature is too weak: sign with SHA-256 or better",
	pki.ReasonNotCA:           "a certificate is not that of a CA: issue it with the basic constraint CA:TRUE",
	pki.ReasonKeyUsage:        "a certificate may not sign: issue it with key usage keyCertSign and without a limiting extended key usage",
	pki.ReasonPathLength:      "the path length leaves no room for the CA of a mesh below: issue it with at least 1, or without",
	pki.ReasonNameConstraints: "a certificate has name constraints, which ztunnel rejects: issue it without",
	pki.ReasonExpired:         "a certificate has expired: renew it",
	pki.ReasonNotYetValid:     "a certificate is not valid yet: check the clock, or wait",
	pki.ReasonNotSelfSigned:   "a root is not self-signed: put the root at the end of the chain here",
	pki.ReasonKeyMismatch:     "is not the private key of the certificate: store the two that were made together",
	pki.ReasonChainBroken:     "the certificate does not chain to the root: add the missing intermediates, or the right root",
}
