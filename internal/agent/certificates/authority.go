package certificates

import (
	"context"
	"errors"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent/evidence"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// authorityOwner is the field manager of status.certificateAuthority of Meshes.
const authorityOwner = "isthmus-agent-authority"

// selfSignedSecret is where istiod keeps its self-signed CA if it does not keep it in cacerts.
const selfSignedSecret = "istio-ca-secret"

// AuthorityReporter says in status.certificateAuthority of each Mesh of this cluster which CA it has, whoever made it.
type AuthorityReporter struct {
	// Hub is the hub.
	Hub client.Client
	// Client and Reader of this cluster; Reader reads past the cache.
	Client client.Client
	Reader client.Reader
	// RootNamespaces in which this agent may look.
	RootNamespaces []string
	// Now is the clock.
	Now func() time.Time
}

// unsettled is when a mesh is looked at again whose istiod does not serve under the CA of its Secret (yet): that it has
// changed over is seen by a handshake only.
const unsettled = 5 * time.Second

// Reconcile looks at one Mesh.
func (a *AuthorityReporter) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	mesh := &v1alpha1.Mesh{}
	if err := a.Hub.Get(ctx, req.NamespacedName, mesh); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	namespace := mesh.Spec.Istio.RootNamespace
	if !slices.Contains(a.RootNamespaces, namespace) {
		return ctrl.Result{}, nil
	}
	authority, err := a.look(ctx, namespace)
	if err != nil {
		return ctrl.Result{}, err
	}
	want := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: mesh.Namespace, Name: mesh.Name}}
	want.Status.CertificateAuthority = authority
	again := review
	if !slices.Equal(authority.InUse, []string{authority.Signer}) {
		again = unsettled
	}
	return ctrl.Result{RequeueAfter: again}, kube.ApplyStatus(ctx, a.Hub, authorityOwner, mesh, want)
}

// look finds the CA of a root namespace: in cacerts, else in istio-ca-secret, else only its roots where istiod publishes
// them. What istiod serves under is seen by handshakes.
func (a *AuthorityReporter) look(ctx context.Context, namespace string) (*v1alpha1.MeshCertificateAuthority, error) {
	authority := &v1alpha1.MeshCertificateAuthority{}
	known, err := a.published(ctx, namespace)
	if err != nil {
		return nil, err
	}
	ca, secret, err := storedCA(ctx, a.Reader, namespace, a.Now())
	if err != nil {
		return nil, err
	}
	if secret != nil {
		for _, r := range ca.Roots.Roots() {
			known = known.Append(r)
		}
		authority.Source = sourceOf(secret)
		if authority.Source == v1alpha1.CASourceIsthmus {
			authority.VirtualMesh = secret.Annotations[v1alpha1.LabelVirtualMesh]
		}
		authority.Roots = fingerprints(ca.Roots)
		for _, r := range ca.Roots.Roots() {
			if len(authority.RootCertificates) < maxRoots {
				authority.RootCertificates = append(authority.RootCertificates, v1alpha1.RootCertificate{Fingerprint: r.ID().String(), Certificate: string(r.PEM())})
			}
		}
		authority.Signer = ca.Root.ID().String()
		notAfter := metav1.NewTime(ca.Certificate.NotAfter)
		authority.NotAfter = &notAfter
	} else {
		authority.Roots = fingerprints(known)
	}
	var pods corev1.PodList
	if err := a.Client.List(ctx, &pods, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	for _, seen := range evidence.AskReplicas(ctx, evidence.Replicas(pods.Items)) {
		if seen.Err != nil {
			continue
		}
		if root, ok := seen.Signer(known, a.Now()); ok && !slices.Contains(authority.InUse, root.String()) {
			authority.InUse = append(authority.InUse, root.String())
		}
	}
	slices.Sort(authority.InUse)
	if err := a.Client.List(ctx, &pods); err != nil {
		return nil, err
	}
	authority.LiveProxies = &v1alpha1.Progress{}
	for _, p := range evidence.Proxies(pods.Items, namespace) {
		if p.Leaving() {
			continue
		}
		authority.LiveProxies.Total++
		if p.Live {
			authority.LiveProxies.Done++
		}
	}
	return authority, nil
}

// maxRoots of a CA are reported with their certificates.
const maxRoots = 8

// storedCA reads the Secret that istiod has, or would have at its next start, its CA from. No Secret: it has none of its own.
func storedCA(ctx context.Context, reader client.Reader, namespace string, now time.Time) (pki.CACerts, *corev1.Secret, error) {
	for _, name := range []string{CACertsName, selfSignedSecret} {
		ca, secret, err := readIstioSecret(ctx, reader, namespace, name, now)
		if err != nil || secret != nil {
			return ca, secret, err
		}
	}
	return pki.CACerts{}, nil, nil
}

// ownCA finds the CA under a root with which a mesh came, whichever of its Secrets it is in; nil if it is in none.
func ownCA(ctx context.Context, reader client.Reader, namespace, signer string, now time.Time) (*intermediate, error) {
	for _, name := range []string{CACertsName, selfSignedSecret} {
		ca, secret, err := readIstioSecret(ctx, reader, namespace, name, now)
		if err != nil {
			return nil, err
		}
		if secret != nil && ca.Root.ID().String() == signer {
			return &intermediate{Material: ca.Material}, nil
		}
	}
	return nil, nil
}

// readIstioSecret reads a CA. There is no Secret if istiod could not use it either.
func readIstioSecret(ctx context.Context, reader client.Reader, namespace, name string, now time.Time) (pki.CACerts, *corev1.Secret, error) {
	secret := &corev1.Secret{}
	if err := reader.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, secret); err != nil {
		return pki.CACerts{}, nil, client.IgnoreNotFound(err)
	}
	ca, err := pki.ReadCACerts(secret.Data, now)
	if _, ok := errors.AsType[*pki.InvalidError](err); ok {
		return pki.CACerts{}, nil, nil
	}
	return ca, secret, err
}

// published are the roots in the root namespace's own ConfigMap of roots.
func (a *AuthorityReporter) published(ctx context.Context, namespace string) (pki.Bundle, error) {
	cm := &corev1.ConfigMap{}
	if err := a.Reader.Get(ctx, types.NamespacedName{Namespace: namespace, Name: RootConfigMap}, cm); err != nil {
		return pki.Bundle{}, client.IgnoreNotFound(err)
	}
	bundle, err := pki.ParseBundle([]byte(cm.Data[pki.RootCertKey]))
	if err != nil {
		return pki.Bundle{}, nil //nolint:nilerr // not a bundle: nothing is published
	}
	return bundle, nil
}

func sourceOf(secret *corev1.Secret) v1alpha1.CertificateAuthoritySource {
	_, generated := secret.Data[pki.IstioGeneratedKey]
	switch {
	case secret.Labels[v1alpha1.LabelManagedBy] == managedBy:
		return v1alpha1.CASourceIsthmus
	case generated || secret.Name == selfSignedSecret:
		return v1alpha1.CASourceSelfSigned
	}
	return v1alpha1.CASourcePlugged
}

func fingerprints(b pki.Bundle) []string {
	var out []string
	for _, r := range b.Roots() {
		out = append(out, r.ID().String())
	}
	return out
}
