package certificates

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// Names and keys of the agent's own Secrets.
const (
	// WantedPrefix and the name of the mesh make the name of the Secret that says what istiod shall have.
	WantedPrefix = "isthmus-ca-"
	// PendingPrefix and a hash of mesh and issuance make the name of the Secret with a key that waits for a signature. One
	// issuance has one name, so it has one key, however often the agent starts anew.
	PendingPrefix = "isthmus-pending-"

	orderKey    = "order.json"
	issuanceKey = "issuance"
	inUseKey    = "in-use-since.json"

	AnnotationMesh     = "isthmus.dev/mesh"
	annotationIssuance = "isthmus.dev/issuance"
)

// managedBy is the value of the label isthmus.dev/managed-by on what the agent makes, and the field manager of its writes.
const managedBy = "isthmus-agent"

// store keeps the agent's own Secrets. Secrets are read by name and never cached.
type store struct {
	client.Client
	reader    client.Reader
	namespace string
}

// wanted is the content of Secret isthmus-ca-<mesh>.
type wanted struct {
	Mesh string
	// Order is the order as it was last read from the hub. CA may still answer an earlier one.
	Order order
	// Issuance for which CA was signed.
	Issuance int64
	// CA is what istiod shall have.
	CA pki.CACerts
	// InUse is when every replica of istiod was first seen to sign under a root.
	InUse inUse

	secret *corev1.Secret
}

// order is what is kept of an IssuedCertificate.
type order struct {
	Generation int64                          `json:"generation"`
	Spec       v1alpha1.IssuedCertificateSpec `json:"spec"`
}

// inUse is since when a root has signed everywhere.
type inUse struct {
	Signer string    `json:"signer,omitempty"`
	Since  time.Time `json:"since,omitzero"`
}

// fulfilled reports whether the stored CA is what the order asks for, but for the bundle of roots.
func (w *wanted) fulfilled(spec *v1alpha1.IssuedCertificateSpec) bool {
	return w != nil && w.Issuance >= spec.Issuance && w.CA.Root.ID().String() == spec.Signer &&
		reflect.DeepEqual(uris(w.CA.Certificate), spec.Hosts)
}

func uris(c *x509.Certificate) []string {
	var out []string
	for _, u := range c.URIs {
		out = append(out, u.String())
	}
	return out
}

// readWanted returns nil if there is none.
func (s *store) readWanted(ctx context.Context, mesh string) (*wanted, error) {
	secret := &corev1.Secret{}
	err := s.reader.Get(ctx, types.NamespacedName{Namespace: s.namespace, Name: wantedName(mesh)}, secret)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	w := &wanted{Mesh: mesh, secret: secret}
	if err := json.Unmarshal(secret.Data[orderKey], &w.Order); err != nil {
		return nil, fmt.Errorf("Secret %s/%s: %s cannot be parsed", s.namespace, secret.Name, orderKey)
	}
	if w.Issuance, err = strconv.ParseInt(string(secret.Data[issuanceKey]), 10, 64); err != nil {
		return nil, fmt.Errorf("Secret %s/%s: %s is not a number", s.namespace, secret.Name, issuanceKey)
	}
	if raw := secret.Data[inUseKey]; len(raw) > 0 {
		if err := json.Unmarshal(raw, &w.InUse); err != nil {
			return nil, fmt.Errorf("Secret %s/%s: %s cannot be parsed", s.namespace, secret.Name, inUseKey)
		}
	}
	// An expired certificate is still what we hold: whoever uses it verifies it at the present time.
	w.CA, err = pki.ReadCACerts(caFiles(secret.Data), certificateTime(secret.Data))
	if err != nil {
		return nil, fmt.Errorf("Secret %s/%s: %w", s.namespace, secret.Name, err)
	}
	return w, nil
}

// certificateTime is a time at which the stored certificate is valid.
func certificateTime(data map[string][]byte) time.Time {
	if chain, err := pki.ParseChain(data[pki.CACertKey]); err == nil && len(chain) > 0 {
		return chain[0].NotBefore.Add(chain[0].NotAfter.Sub(chain[0].NotBefore) / 2)
	}
	return time.Time{}
}

// caFiles leaves out what is not part of a plug-in CA.
func caFiles(data map[string][]byte) map[string][]byte {
	files := map[string][]byte{}
	for _, k := range []string{pki.CACertKey, pki.CAKeyKey, pki.CertChainKey, pki.RootCertKey, pki.CACRLKey} {
		if v, ok := data[k]; ok {
			files[k] = v
		}
	}
	return files
}

// writeWanted stores what istiod shall have, in one write, if that changes anything.
func (s *store) writeWanted(ctx context.Context, w *wanted) error {
	data, err := w.CA.Data()
	if err != nil {
		return err
	}
	if data[orderKey], err = json.Marshal(w.Order); err != nil {
		return err
	}
	data[issuanceKey] = []byte(strconv.FormatInt(w.Issuance, 10))
	if w.InUse.Signer != "" {
		if data[inUseKey], err = json.Marshal(w.InUse); err != nil {
			return err
		}
	}
	if w.secret == nil {
		w.secret = &corev1.Secret{
			ObjectMeta: s.meta(wantedName(w.Mesh), w.Mesh, w.Order.Spec),
			Type:       v1alpha1.SecretTypeIntermediate,
			Data:       data,
		}
		return s.Create(ctx, w.secret, client.FieldOwner(managedBy))
	}
	if reflect.DeepEqual(w.secret.Data, data) {
		return nil
	}
	w.secret = w.secret.DeepCopy()
	w.secret.Data = data
	maps.Copy(w.secret.Labels, labels(w.Order.Spec))
	return s.Update(ctx, w.secret, client.FieldOwner(managedBy))
}

// pendingKey returns the key for an issuance, stored before it is returned.
func (s *store) pendingKey(ctx context.Context, mesh string, spec v1alpha1.IssuedCertificateSpec) (crypto.Signer, error) {
	secret := &corev1.Secret{}
	name := pendingName(mesh, spec.Issuance)
	err := s.reader.Get(ctx, types.NamespacedName{Namespace: s.namespace, Name: name}, secret)
	if err == nil {
		key, err := pki.ParseKey(secret.Data[pki.CAKeyKey])
		if err != nil {
			return nil, fmt.Errorf("Secret %s/%s: %s: %w; delete the Secret", s.namespace, name, pki.CAKeyKey, err)
		}
		return key, nil
	}
	if !apierrors.IsNotFound(err) {
		return nil, err
	}
	var size int32
	if spec.CertOptions.RSAKeySizeBytes != nil {
		size = *spec.CertOptions.RSAKeySizeBytes
	}
	bits, err := pki.KeyBits(size)
	if err != nil {
		return nil, err
	}
	key, err := pki.NewKey(bits)
	if err != nil {
		return nil, err
	}
	text, err := pki.EncodeKey(key)
	if err != nil {
		return nil, err
	}
	secret = &corev1.Secret{
		ObjectMeta: s.meta(name, mesh, spec),
		Type:       corev1.SecretTypeOpaque,
		Data:       map[string][]byte{pki.CAKeyKey: text},
	}
	secret.Annotations[annotationIssuance] = strconv.FormatInt(spec.Issuance, 10)
	// Of two that create it, one has its key stored and the other gets an error and reads that one at its next try.
	return key, s.Create(ctx, secret, client.FieldOwner(managedBy))
}

// deletePending deletes the keys of a mesh's issuances up to the given one, which are of no more use.
func (s *store) deletePending(ctx context.Context, mesh string, upTo int64) error {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	if err := s.reader.List(ctx, list, client.InNamespace(s.namespace), client.MatchingLabels{v1alpha1.LabelManagedBy: managedBy}); err != nil {
		return err
	}
	for i := range list.Items {
		m := &list.Items[i]
		issuance, err := strconv.ParseInt(m.Annotations[annotationIssuance], 10, 64)
		if !strings.HasPrefix(m.Name, PendingPrefix) || m.Annotations[AnnotationMesh] != mesh || err != nil || issuance > upTo {
			continue
		}
		if err := client.IgnoreNotFound(s.Delete(ctx, m, client.Preconditions{UID: &m.UID})); err != nil {
			return err
		}
	}
	return nil
}

func (s *store) meta(name, mesh string, spec v1alpha1.IssuedCertificateSpec) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: s.namespace, Name: name,
		Labels:      labels(spec),
		Annotations: map[string]string{AnnotationMesh: mesh},
	}
}

func labels(spec v1alpha1.IssuedCertificateSpec) map[string]string {
	return map[string]string{
		v1alpha1.LabelManagedBy:   managedBy,
		v1alpha1.LabelVirtualMesh: kube.VirtualMeshLabel(spec.VirtualMesh.Name, spec.VirtualMesh.Namespace),
	}
}

func wantedName(mesh string) string { return kube.ShortName(WantedPrefix+mesh, 253) }

func pendingName(mesh string, issuance int64) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d", mesh, issuance))
	return PendingPrefix + hex.EncodeToString(sum[:10])
}
