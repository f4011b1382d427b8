package hublink

import (
	"net/http"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube/compact"
)

// cached says what the hub's cache holds: everything of the cluster's own namespace; of all others the Meshes, and the
// Destinations that their home meshes federate; of the hub's namespace what users wrote.
func cached(own string, held *compact.Set) (cache.Options, error) {
	federated, err := labels.NewRequirement(v1alpha1.LabelFederated, selection.Exists, nil)
	if err != nil {
		return cache.Options{}, err
	}
	system := cache.ByObject{Namespaces: map[string]cache.Config{v1alpha1.SystemNamespace: {}}}
	return cache.Options{
		NewInformer:       held.NewInformer,
		DefaultNamespaces: map[string]cache.Config{own: {}},
		ByObject: map[client.Object]cache.ByObject{
			&v1alpha1.Mesh{}: {Namespaces: map[string]cache.Config{
				own:                 {},
				cache.AllNamespaces: {Transform: StripForeign},
			}},
			&v1alpha1.Destination{}: {Namespaces: map[string]cache.Config{
				own:                 {},
				cache.AllNamespaces: {LabelSelector: labels.NewSelector().Add(*federated), Transform: StripForeign},
			}},
			&v1alpha1.VirtualMesh{}:  system,
			&v1alpha1.AccessPolicy{}: system,
			&v1alpha1.Settings{}:     system,

			&v1alpha1.VirtualDestination{}: system,
		},
	}, nil
}

// StripForeign is a transform for a cache: it removes from an object of another cluster what no other cluster reads, as there
// are as many of them as the fleet has services.
func StripForeign(obj any) (any, error) {
	if o, ok := obj.(client.Object); ok {
		o.SetManagedFields(nil)
		o.SetAnnotations(nil)
	}
	if m, ok := obj.(*v1alpha1.Mesh); ok {
		m.Status = v1alpha1.MeshStatus{
			CertificateAuthority: m.Status.CertificateAuthority, GatewayCertificate: m.Status.GatewayCertificate, AppliedVirtualMeshes: m.Status.AppliedVirtualMeshes,
		}
	}
	if d, ok := obj.(*v1alpha1.Destination); ok {
		d.TypeMeta, d.Labels, d.UID = metav1.TypeMeta{}, nil, ""
		d.Spec.KubeService.Selector, d.Spec.KubeService.Subsets = nil, nil
		was := d.Status.AppliedFederation
		d.Status = v1alpha1.DestinationStatus{}
		if was != nil && len(was.Subsets)+len(was.Endpoints) > 0 {
			d.Status.AppliedFederation = &v1alpha1.AppliedFederation{Subsets: was.Subsets, Endpoints: was.Endpoints}
		}
	}
	return obj, nil
}

// mapper knows without asking the hub what the cache has to know when it is made: the kinds that it treats specially.
func mapper(cfg *rest.Config, c *http.Client) (meta.RESTMapper, error) {
	static := meta.NewDefaultRESTMapper(nil)
	for kind, names := range map[string]struct{ plural, singular string }{
		"Mesh":         {"meshes", "mesh"},
		"Destination":  {"destinations", "destination"},
		"VirtualMesh":  {"virtualmeshes", "virtualmesh"},
		"AccessPolicy": {"accesspolicies", "accesspolicy"},
		"Settings":     {"settings", "settings"},

		"VirtualDestination": {"virtualdestinations", "virtualdestination"},
	} {
		static.AddSpecific(v1alpha1.GroupVersion.WithKind(kind), v1alpha1.GroupVersion.WithResource(names.plural),
			v1alpha1.GroupVersion.WithResource(names.singular), meta.RESTScopeNamespace)
	}
	dynamic, err := apiutil.NewDynamicRESTMapper(cfg, c)
	return meta.FirstHitRESTMapper{MultiRESTMapper: meta.MultiRESTMapper{static, dynamic}}, err
}
