// Package roots keeps the roots of virtual meshes, with their private keys, in Secrets of the hub's own namespace, and reads
// the certificate authorities that users provide. Of a root that signs elsewhere, as that of Vault, it keeps the certificate.
// Every Secret is read by name and nothing of it is cached.
package roots

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

const (
	owner = "isthmus-hub"
	// annotationSource holds what the root was made from: accept.RootSource, JSON.
	annotationSource = "isthmus.dev/root-source"
)

// Store is where roots are kept.
type Store struct {
	// Client writes.
	Client client.Client
	// Reader reads from the API server itself, past any cache.
	Reader client.Reader
	// Namespace of the hub.
	Namespace string
	// SecretNamespaces are further namespaces from which Secrets of users may be read.
	SecretNamespaces []string
	// Now is the clock.
	Now func() time.Time
}

// Root is a root of a virtual mesh.
type Root struct {
	// Generation counts the roots of the virtual mesh from 1.
	Generation int64
	// Role as labelled.
	Role v1alpha1.RootRole
	// Certificate of the root; the zero Root if the Secret does not hold one.
	Certificate pki.Root
	// Material signs; empty if there is a Problem, or if the root is Foreign.
	Material pki.Material
	// Problem says why the root cannot sign, or why nothing can be under it.
	Problem error
	// Source is what it was made from.
	Source accept.RootSource

	secret types.NamespacedName
	uid    types.UID
}

// ID is the fingerprint of the root, or zero.
func (r Root) ID() pki.RootID {
	if r.Certificate.Certificate() == nil {
		return pki.RootID{}
	}
	return r.Certificate.ID()
}

// Foreign tells whether somebody else signs under the root, so that the hub has no key of it.
func (r Root) Foreign() bool { return r.Source.Vault != nil }

// Of tells whether the root is one of a virtual mesh, as the name of its Secret has it.
func (r Root) Of(vm types.NamespacedName) bool {
	_, ok := generationOf(r.secret.Name, vm)
	return ok
}

// NotAfter is when nothing signed under the root is valid any more; of one that is Foreign, as far as the hub knows.
func (r Root) NotAfter() time.Time {
	if r.Material.Certificate != nil {
		return r.Material.NotAfter()
	}
	return r.Certificate.Certificate().NotAfter
}

// List returns the roots of a virtual mesh, the oldest first, with their keys.
func (s Store) List(ctx context.Context, vm types.NamespacedName) ([]Root, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	if err := s.Reader.List(ctx, list, client.InNamespace(s.Namespace),
		client.MatchingLabels{v1alpha1.LabelVirtualMesh: kube.VirtualMeshLabel(vm.Name, vm.Namespace)}); err != nil {
		return nil, fmt.Errorf("listing the roots of VirtualMesh %s: %w", vm, err)
	}
	var roots []Root
	for i := range list.Items {
		generation, ok := generationOf(list.Items[i].Name, vm)
		if !ok {
			continue
		}
		secret := &corev1.Secret{}
		err := s.Reader.Get(ctx, client.ObjectKeyFromObject(&list.Items[i]), secret)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading root Secret %s/%s: %w", s.Namespace, list.Items[i].Name, err)
		}
		roots = append(roots, s.parse(secret, generation))
	}
	slices.SortFunc(roots, func(a, b Root) int { return cmp.Compare(a.Generation, b.Generation) })
	return roots, nil
}

func (s Store) parse(secret *corev1.Secret, generation int64) Root {
	r := Root{
		Generation: generation, Role: v1alpha1.RootRole(secret.Labels[v1alpha1.LabelRootRole]),
		secret: client.ObjectKeyFromObject(secret), uid: secret.UID,
	}
	if err := json.Unmarshal([]byte(secret.Annotations[annotationSource]), &r.Source); err != nil {
		r.Problem = fmt.Errorf("root Secret %s/%s: annotation %s is not readable: restore the Secret from a backup", secret.Namespace, secret.Name, annotationSource)
		return r
	}
	root, err := pki.ParseRoot(secret.Data[pki.RootCertKey])
	if err == nil {
		r.Certificate = root
		if r.Foreign() {
			err = pki.CheckRoot(root, s.Now())
		} else {
			r.Material, err = pki.ReadMaterial(secret.Data, s.Now())
		}
	}
	if err != nil {
		r.Material, r.Problem = pki.Material{}, fmt.Errorf("root Secret %s/%s: %w", secret.Namespace, secret.Name, err)
	}
	return r
}

// Find returns the material that signs under a root, whichever virtual mesh it was made for: a mesh may have come from
// another one. Of several Secrets of the same root, that is the newest that can sign.
func (s Store) Find(ctx context.Context, id pki.RootID) (Root, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	if err := s.Reader.List(ctx, list, client.InNamespace(s.Namespace), client.MatchingLabels{v1alpha1.LabelRootFingerprint: id.Short()}); err != nil {
		return Root{}, fmt.Errorf("looking for root %s: %w", id.Short(), err)
	}
	found := Root{}
	for i := range list.Items {
		_, digits, _ := cutLast(list.Items[i].Name, ".")
		generation, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			continue
		}
		secret := &corev1.Secret{}
		switch err := s.Reader.Get(ctx, client.ObjectKeyFromObject(&list.Items[i]), secret); {
		case apierrors.IsNotFound(err):
			continue
		case err != nil:
			return Root{}, fmt.Errorf("reading root Secret %s/%s: %w", s.Namespace, list.Items[i].Name, err)
		}
		if r := s.parse(secret, generation); r.ID() == id && r.BetterThan(found) {
			found = r
		}
	}
	if found.ID().IsZero() {
		return found, &LostError{ID: id}
	}
	return found, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// BetterThan tells whether, of two Secrets of one root, this is the one to be used.
func (r Root) BetterThan(o Root) bool {
	if usable := r.Problem == nil; o.ID().IsZero() || usable != (o.Problem == nil) {
		return o.ID().IsZero() || usable
	}
	return r.Generation > o.Generation
}

// LostError says that there is no Secret of a root any more.
type LostError struct{ ID pki.RootID }

func (e *LostError) Error() string {
	return fmt.Sprintf("the Secret of root %s is missing from the hub: restore it from a backup", e.ID.Short())
}

// Create keeps a root: its Material, or, if it is Foreign, its Certificate. Of all that it holds nothing changes later but the label that says its role: the Secret is immutable.
func (s Store) Create(ctx context.Context, vm types.NamespacedName, r Root) error {
	data := map[string][]byte{pki.RootCertKey: r.Certificate.PEM()}
	if !r.Foreign() {
		// Only the root above the authority: what else a provided Secret lists is not trusted.
		m := r.Material
		m.Roots = pki.NewBundle(m.Root)
		r.Certificate = m.Root
		var err error
		if data, err = (pki.CACerts{Material: m}).Data(); err != nil {
			return err
		}
	}
	source, err := json.Marshal(r.Source)
	if err != nil {
		return err
	}
	immutable := true
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: SecretName(vm, r.Generation), Namespace: s.Namespace,
			Labels: map[string]string{
				v1alpha1.LabelManagedBy:       owner,
				v1alpha1.LabelVirtualMesh:     kube.VirtualMeshLabel(vm.Name, vm.Namespace),
				v1alpha1.LabelRootFingerprint: r.ID().Short(),
				v1alpha1.LabelRootRole:        string(r.Role),
			},
			Annotations: map[string]string{annotationSource: string(source)},
		},
		Type: v1alpha1.SecretTypeRoot, Data: data, Immutable: &immutable,
	}
	if err := s.Client.Create(ctx, secret, client.FieldOwner(owner)); err != nil {
		if apierrors.IsAlreadyExists(err) {
			return &kube.ForeignObjectError{Kind: "Secret", Namespace: secret.Namespace, Name: secret.Name}
		}
		return fmt.Errorf("keeping root Secret %s/%s: %w", secret.Namespace, secret.Name, err)
	}
	return nil
}

// SetRole labels the Secret of a root with its role.
func (s Store) SetRole(ctx context.Context, r Root, role v1alpha1.RootRole) error {
	secret := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: r.secret.Name, Namespace: r.secret.Namespace}}
	secret.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": r.uid, "labels": map[string]any{v1alpha1.LabelRootRole: role},
	}})
	if err != nil {
		return err
	}
	if err := s.Client.Patch(ctx, secret, client.RawPatch(types.MergePatchType, patch), client.FieldOwner(owner)); err != nil {
		return fmt.Errorf("labelling root Secret %s as %s: %w", r.secret, role, err)
	}
	return nil
}

// Erase deletes the Secret of a root, and with it the key.
func (s Store) Erase(ctx context.Context, r Root) error {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: r.secret.Name, Namespace: r.secret.Namespace}}
	if err := client.IgnoreNotFound(s.Client.Delete(ctx, secret, client.Preconditions{UID: &r.uid})); err != nil {
		return fmt.Errorf("erasing root Secret %s: %w", r.secret, err)
	}
	return nil
}

// SecretName is the name of the Secret of a root.
func SecretName(vm types.NamespacedName, generation int64) string {
	return prefix(vm) + strconv.FormatInt(generation, 10)
}

func prefix(vm types.NamespacedName) string {
	return kube.ShortName(kube.Qualified(vm.Name, vm.Namespace), 230) + "."
}

func generationOf(secret string, vm types.NamespacedName) (int64, bool) {
	digits, ok := strings.CutPrefix(secret, prefix(vm))
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	return n, err == nil && n > 0
}

// IsLost reports whether an error says that a root is missing.
func IsLost(err error) bool {
	var lost *LostError
	return errors.As(err, &lost)
}
