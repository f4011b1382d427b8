package istio

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// Objects are what tells how Istio is installed in a cluster. Others of the same kinds do no harm.
type Objects struct {
	// Deployments among which those of istiod are.
	Deployments []appsv1.Deployment
	// ConfigMaps with the label istio.io/rev: mesh configuration and injection templates.
	ConfigMaps []corev1.ConfigMap
	// Webhooks that inject proxies.
	Webhooks []admissionv1.MutatingWebhookConfiguration
	// Services that the webhooks call.
	Services []corev1.Service
	// Namespaces in which istiod, or what stands for a remote one, lies.
	Namespaces []corev1.Namespace
}

// Installation is what is installed of Istio in a cluster. It is a value: nothing changes it.
type Installation struct {
	// Meshes, by root namespace, without their gateways.
	Meshes []v1alpha1.IstioMesh
	// Incomplete are root namespaces of which only a part is there, as in the middle of an installation: nothing can be
	// said of their meshes, nor that they are gone.
	Incomplete []string
	// Injectors are the webhooks that put proxies into pods.
	Injectors []Injector
	// Tags are the revisions behind revision tags.
	Tags map[string]string
}

// Injector is a webhook that puts proxies into pods.
type Injector struct {
	// Revision whose proxies are injected.
	Revision string
	// RootNamespace of the mesh.
	RootNamespace string

	namespaces, pods labels.Selector
}

// Read finds the meshes of a cluster. A mesh is one root namespace: the namespace of istiod, from which it takes its CA.
func Read(o Objects) *Installation {
	in := &Installation{Tags: map[string]string{}}
	istiods := map[string][]controlPlane{}
	for i := range o.Deployments {
		if d := &o.Deployments[i]; IsControlPlane(d) {
			istiods[d.Namespace] = append(istiods[d.Namespace], controlPlane{d, Discovery(&d.Spec.Template.Spec)})
		}
	}
	remotes := map[string][]string{} // their revisions
	partial := map[string]bool{}
	for i := range o.Webhooks {
		w := &o.Webhooks[i]
		revision := cmp.Or(w.Labels[LabelRevision], DefaultRevision)
		if tag := w.Labels[LabelTag]; tag != "" {
			in.Tags[tag] = revision
		}
		for j := range w.Webhooks {
			hook := &w.Webhooks[j]
			if !strings.HasSuffix(hook.Name, "sidecar-injector.istio.io") {
				continue
			}
			root, remote := o.serves(hook, revision)
			if inj, ok := newInjector(hook, revision, root); ok {
				in.Injectors = append(in.Injectors, inj)
			}
			switch {
			case len(istiods[root]) > 0:
			case remote:
				remotes[root] = append(remotes[root], revision)
			default:
				partial[root] = true
			}
		}
	}
	for _, root := range slices.Sorted(maps.Keys(istiods)) {
		if mesh, ok := o.local(root, istiods[root]); ok {
			in.Meshes = append(in.Meshes, mesh)
		} else {
			partial[root] = true
		}
	}
	for root, revisions := range remotes {
		in.Meshes = append(in.Meshes, o.remote(root, revisions))
	}
	for i := range o.ConfigMaps {
		cm := &o.ConfigMaps[i]
		if _, ok := cm.Data[meshConfigKey]; ok && strings.HasPrefix(cm.Name, "istio") && len(istiods[cm.Namespace]) == 0 && len(remotes[cm.Namespace]) == 0 {
			partial[cm.Namespace] = true
		}
	}
	in.Incomplete = slices.Sorted(maps.Keys(partial))
	slices.SortFunc(in.Meshes, func(a, b v1alpha1.IstioMesh) int { return cmp.Compare(a.RootNamespace, b.RootNamespace) })
	slices.SortFunc(in.Injectors, func(a, b Injector) int {
		return cmp.Or(cmp.Compare(a.RootNamespace, b.RootNamespace), cmp.Compare(a.Revision, b.Revision),
			cmp.Compare(a.namespaces.String(), b.namespaces.String()), cmp.Compare(a.pods.String(), b.pods.String()))
	})
	return in
}

// Equal reports whether two installations say the same.
func (in *Installation) Equal(other *Installation) bool {
	return in != nil && other != nil &&
		slices.EqualFunc(in.Meshes, other.Meshes, func(a, b v1alpha1.IstioMesh) bool { return semanticEqual(a, b) }) &&
		slices.Equal(in.Incomplete, other.Incomplete) && maps.Equal(in.Tags, other.Tags) &&
		slices.EqualFunc(in.Injectors, other.Injectors, func(a, b Injector) bool {
			return a.Revision == b.Revision && a.RootNamespace == b.RootNamespace &&
				a.namespaces.String() == b.namespaces.String() && a.pods.String() == b.pods.String()
		})
}

// Mesh returns the mesh of a root namespace.
func (in *Installation) Mesh(rootNamespace string) (*v1alpha1.IstioMesh, bool) {
	for i := range in.Meshes {
		if in.Meshes[i].RootNamespace == rootNamespace {
			return &in.Meshes[i], true
		}
	}
	return nil, false
}

// MeshOf returns the mesh that a proxy belongs to: of the root namespace that it names as its control plane's, else the
// only one that has its revision, else the only one that there is. False means that it cannot be told.
func (in *Installation) MeshOf(p Proxy) (*v1alpha1.IstioMesh, bool) {
	if mesh, ok := in.Mesh(p.RootNamespace); ok {
		return mesh, true
	}
	revision := in.Revision(p.Revision)
	var found []*v1alpha1.IstioMesh
	for i := range in.Meshes {
		if slices.ContainsFunc(in.Meshes[i].Revisions, func(r v1alpha1.IstioRevision) bool { return r.Name == revision }) {
			found = append(found, &in.Meshes[i])
		}
	}
	switch {
	case len(found) == 1:
		return found[0], true
	case len(found) == 0 && len(in.Meshes) == 1 && len(in.Incomplete) == 0:
		return &in.Meshes[0], true
	}
	return nil, false
}

// Revision returns the revision behind a revision or a tag of one.
func (in *Installation) Revision(name string) string {
	return cmp.Or(in.Tags[name], name, DefaultRevision)
}

// serves returns the root namespace that a webhook belongs to, and whether its control plane is in another cluster: the
// webhook has a URL or calls a Service that selects no pods.
func (o *Objects) serves(hook *admissionv1.MutatingWebhook, revision string) (root string, remote bool) {
	if ref := hook.ClientConfig.Service; ref != nil {
		for i := range o.Services {
			if s := &o.Services[i]; s.Name == ref.Name && s.Namespace == ref.Namespace {
				return ref.Namespace, len(s.Spec.Selector) == 0
			}
		}
		return ref.Namespace, false
	}
	for i := range o.ConfigMaps {
		cm := &o.ConfigMaps[i]
		if cm.Name == withRevision("values", revision) || cm.Name == withRevision(injectorConfigMap, revision) {
			return cm.Namespace, true
		}
	}
	return defaultNamespace, true
}

func newInjector(hook *admissionv1.MutatingWebhook, revision, root string) (Injector, bool) {
	inj := Injector{Revision: revision, RootNamespace: root}
	var err error
	if inj.namespaces, err = selector(hook.NamespaceSelector); err != nil {
		return inj, false
	}
	inj.pods, err = selector(hook.ObjectSelector)
	return inj, err == nil
}

// selector differs from metav1's in that an absent one, as in webhooks, selects everything.
func selector(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(s)
}

// withRevision is the name of an object of a revision.
func withRevision(name, revision string) string {
	if revision == "" || revision == DefaultRevision {
		return name
	}
	return name + "-" + revision
}
