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
	"net/url"
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
	// sparePrefix begins the keys of the intermediate that is held beside the one in use.
	sparePrefix = "spare-"

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
	// Order that is carried out. What it says beside the certificates (suspend, autoRestartPods, ...) may come from a later one
	// whose intermediate is not there yet.
	Order order
	// Issuance for which CA was signed; 0 if it is the one that the mesh came with.
	Issuance int64
	// CA is what istiod shall have, or the certificate of gateways.
	CA pki.CACerts
	// Spare is the intermediate that is held beside it; nil if there is none.
	Spare *intermediate
	// InUse is since when all of the control plane has been as ordered.
	InUse inUse

	secret *corev1.Secret
}

// intermediate is a CA for a mesh.
type intermediate struct {
	Issuance int64
	pki.Material
}

// order is what is kept of an IssuedCertificate.
type order struct {
	// Generation of the latest that was read.
	Generation int64                          `json:"generation"`
	Spec       v1alpha1.IssuedCertificateSpec `json:"spec"`
}

// inUse is since when the control plane has been in a state.
type inUse struct {
	State string    `json:"state,omitempty"`
	Since time.Time `json:"since,omitzero"`
}

// held finds an intermediate among those that are stored; nil if it is none of them.
func (w *wanted) held(issuance int64, signer string) *intermediate {
	if w == nil {
		return nil
	}
	for _, i := range []*intermediate{{w.Issuance, w.CA.Material}, w.Spare} {
		if i != nil && i.Issuance == issuance && i.Root.ID().String() == signer {
			return i
		}
	}
	return nil
}

// isAhead tells whether a later order than o was carried out already: the hub came out of a backup.
func (w *wanted) isAhead(o *v1alpha1.IssuedCertificate) bool {
	return w != nil && w.Order.Spec.Serial > o.Spec.Serial
}

// trustDomain of the mesh.
func (w *wanted) trustDomain() string {
	for _, host := range w.Order.Spec.Hosts {
		if u, err := url.Parse(host); err == nil && u.Scheme == "spiffe" {
			return u.Host
		}
	}
	return ""
}

// first is what istiod is to load before all else where it is to take up a plug-in CA, given cacerts as it is (nil: absent): the CA
// and the roots that it has already, without the new one, which it then takes live. Replicas of before and after would otherwise
// write different roots into the webhooks' configurations, in turn, each to the other's displeasure, and push everything to all
// proxies each time, until the former are gone; and what an istiod pushes as it ends may be that no endpoint is left. nil if
// istiod has taken it up, or if what is wanted has been in use already: nobody must lose the new root again.
func (w *wanted) first(live *corev1.Secret) *wanted {
	r := w.Order.Spec.Rotation
	if r == nil || r.Closed || w.Issuance != 0 || len(w.CA.Cross) > 0 || w.dropped() != "" || w.InUse.State == w.state() {
		return nil
	}
	before := *w
	before.CA.Roots = w.CA.Roots.Without(pki.RootIDOrZero(r.New)).WithNudge(0)
	if !before.CA.Roots.Contains(w.CA.Root.ID()) || before.CA.Roots.Len() == w.CA.Roots.Len() {
		return nil
	}
	if live == nil {
		return &before
	}
	_, generated := live.Data[pki.IstioGeneratedKey]
	switch ours := live.Labels[v1alpha1.LabelManagedBy] == managedBy; {
	case ours && string(live.Data[pki.RootCertKey]) != string(before.CA.Roots.PEM()):
		return nil
	case !ours && !generated:
		return nil // it uses a plug-in CA
	}
	return &before
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
	if w.CA, err = readCA(secret.Data, "", w.Order.Spec.Purpose); err != nil {
		return nil, fmt.Errorf("Secret %s/%s: %w", s.namespace, secret.Name, err)
	}
	if raw, ok := secret.Data[sparePrefix+issuanceKey]; ok {
		ca, err := readCA(secret.Data, sparePrefix, w.Order.Spec.Purpose)
		if err != nil {
			return nil, fmt.Errorf("Secret %s/%s, keys %s*: %w", s.namespace, secret.Name, sparePrefix, err)
		}
		w.Spare = &intermediate{Material: ca.Material}
		if w.Spare.Issuance, err = strconv.ParseInt(string(raw), 10, 64); err != nil {
			return nil, fmt.Errorf("Secret %s/%s: %s is not a number", s.namespace, secret.Name, sparePrefix+issuanceKey)
		}
	}
	return w, nil
}

// readCA reads the CA whose files have a prefix, or what signs nothing in its place. An expired certificate is still what we hold: whoever uses it verifies it at
// the present time.
func readCA(data map[string][]byte, prefix string, purpose v1alpha1.CertificatePurpose) (pki.CACerts, error) {
	files := map[string][]byte{}
	for _, k := range []string{pki.CACertKey, pki.CAKeyKey, pki.CertChainKey, pki.RootCertKey, pki.CACRLKey} {
		if v, ok := data[prefix+k]; ok {
			files[k] = v
		}
	}
	var valid time.Time
	if chain, err := pki.ParseChain(files[pki.CACertKey]); err == nil && len(chain) > 0 {
		valid = chain[0].NotBefore.Add(chain[0].NotAfter.Sub(chain[0].NotBefore) / 2)
	}
	return readFor(purpose, files, valid)
}

// readFor reads what is for a purpose, as it must be at a time.
func readFor(purpose v1alpha1.CertificatePurpose, files map[string][]byte, at time.Time) (pki.CACerts, error) {
	if purpose == v1alpha1.PurposeGateway {
		m, err := pki.ReadLeaf(files, at)
		return pki.CACerts{Material: m}, err
	}
	return pki.ReadCACerts(files, at)
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
	if w.Spare != nil {
		files, err := w.Spare.Data()
		if err != nil {
			return err
		}
		for k, v := range files {
			data[sparePrefix+k] = v
		}
		data[sparePrefix+issuanceKey] = []byte(strconv.FormatInt(w.Spare.Issuance, 10))
	}
	if w.InUse.State != "" {
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

// pendingKey returns the key for an issuance, stored before it is returned. create makes one of so many bits if there is none.
func (s *store) pendingKey(ctx context.Context, mesh string, issuance int64, spec v1alpha1.IssuedCertificateSpec, create func(bits int) (crypto.Signer, error)) (crypto.Signer, error) {
	secret := &corev1.Secret{}
	name := pendingName(mesh, issuance)
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
	key, err := create(bits)
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
	secret.Annotations[annotationIssuance] = strconv.FormatInt(issuance, 10)
	// Of two that create it, one has its key stored and the other gets an error and reads that one at its next try.
	return key, s.Create(ctx, secret, client.FieldOwner(managedBy))
}

// deletePending deletes the keys of a mesh's issuances, which are stored with their certificates or of no more use, but for
// the one that is still asked for.
func (s *store) deletePending(ctx context.Context, mesh string, but int64) error {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	if err := s.reader.List(ctx, list, client.InNamespace(s.namespace), client.MatchingLabels{v1alpha1.LabelManagedBy: managedBy}); err != nil {
		return err
	}
	for i := range list.Items {
		m := &list.Items[i]
		issuance, err := strconv.ParseInt(m.Annotations[annotationIssuance], 10, 64)
		if !strings.HasPrefix(m.Name, PendingPrefix) || m.Annotations[AnnotationMesh] != mesh || err != nil || issuance == but {
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
