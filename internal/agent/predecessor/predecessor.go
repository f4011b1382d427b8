// Package predecessor reports, in status.predecessor of each Mesh of the agent's cluster, what an installation of an older
// generation of this API has left there. What is such an installation's is said by package legacy. It changes nothing.
package predecessor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/kube/hublink"
	"github.com/isthmus-mesh/isthmus/internal/legacy"
)

// owner is the field manager of status.predecessor of Meshes.
const owner = "isthmus-agent-predecessor"

// Limits of what is reported.
const (
	maxObjects = 20
	maxRunning = 16
)

// review is how often a cluster is looked at: nothing is done by what is found, and a watch of each kind would hold all of it.
const review = time.Minute

const serviceEntry = "ServiceEntry"

// Reporter reports on each Mesh of its cluster.
type Reporter struct {
	// Hub is the hub.
	Hub client.Client
	// Reader reads from this cluster's API server itself.
	Reader client.Reader
	// RootNamespaces in which this agent may read cacerts.
	RootNamespaces []string
}

// Setup has a Reporter run whenever there is a hub.
func Setup(link *hublink.Link, clusterName string, rootNamespaces []string) {
	namespace := kube.ClusterNamespace(clusterName)
	link.Setup(func(_ context.Context, mgr ctrl.Manager, hub cluster.Cluster) error {
		own := predicate.NewTypedPredicateFuncs(func(m *v1alpha1.Mesh) bool { return m.Namespace == namespace })
		return builder.ControllerManagedBy(mgr).Named("predecessor").
			WithOptions(controller.Options{RateLimiter: kube.Retries[reconcile.Request]()}).
			WatchesRawSource(source.Kind(hub.GetCache(), &v1alpha1.Mesh{}, &handler.TypedEnqueueRequestForObject[*v1alpha1.Mesh]{},
				own, predicate.TypedGenerationChangedPredicate[*v1alpha1.Mesh]{})).
			Complete(&Reporter{Hub: hub.GetClient(), Reader: mgr.GetAPIReader(), RootNamespaces: rootNamespaces})
	}, &v1alpha1.Mesh{})
}

// Reconcile looks at the cluster of one Mesh.
func (r *Reporter) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	mesh := &v1alpha1.Mesh{}
	if err := r.Hub.Get(ctx, req.NamespacedName, mesh); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	var meshes v1alpha1.MeshList
	if err := r.Hub.List(ctx, &meshes); err != nil {
		return ctrl.Result{}, err
	}
	own, _ := kube.ClusterOf(mesh.Namespace)
	found, err := r.look(ctx, mesh.Spec.Istio.RootNamespace, own, clusters(meshes.Items))
	if err != nil {
		return ctrl.Result{}, err
	}
	want := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: mesh.Namespace, Name: mesh.Name}}
	want.Status.Predecessor = found
	return ctrl.Result{RequeueAfter: review}, kube.ApplyStatus(ctx, r.Hub, owner, mesh, want)
}

// clusters of Meshes.
func clusters(meshes []v1alpha1.Mesh) (out []string) {
	for i := range meshes {
		if name, ok := kube.ClusterOf(meshes[i].Namespace); ok {
			out = append(out, name)
		}
	}
	return out
}

// look finds what was left in the cluster. That nothing was is an answer too: a takeover counts on it.
func (r *Reporter) look(ctx context.Context, rootNamespace, own string, clusters []string) (*v1alpha1.PredecessorStatus, error) {
	found := &v1alpha1.PredecessorStatus{Imports: new(int32)}
	var err error
	if found.Running, err = r.running(ctx); err != nil {
		return nil, err
	}
	if slices.Contains(r.RootNamespaces, rootNamespace) {
		secret := &corev1.Secret{}
		if err := client.IgnoreNotFound(r.Reader.Get(ctx, client.ObjectKey{Namespace: rootNamespace, Name: "cacerts"}, secret)); err != nil {
			return nil, err
		}
		found.CACerts = legacy.IsCACerts(string(secret.Type)) && secret.Labels[v1alpha1.LabelManagedBy] == ""
	}
	for _, kind := range legacy.OutputKinds() {
		objects, err := r.outputs(ctx, kind, rootNamespace, clusters)
		if err != nil {
			return nil, err
		}
		for _, o := range objects {
			if len(found.Objects) < maxObjects {
				found.Objects = append(found.Objects, kind.Kind+" "+o.String())
			}
			if kind.Kind == serviceEntry && legacy.IsImport(o.Name, own) {
				*found.Imports++
			}
		}
		if len(objects) > 0 {
			found.Kinds = append(found.Kinds, v1alpha1.PredecessorKind{Kind: kind.Kind, Count: int32(len(objects))})
		}
	}
	return found, nil
}

// running are the controllers of older generations that have replicas.
func (r *Reporter) running(ctx context.Context) (out []string, err error) {
	for _, name := range legacy.Controllers() {
		var list appsv1.DeploymentList
		if err := r.Reader.List(ctx, &list, client.MatchingFields{metav1.ObjectNameField: name}); err != nil {
			return nil, err
		}
		for i := range list.Items {
			d := &list.Items[i]
			var images []string
			for _, c := range d.Spec.Template.Spec.Containers {
				images = append(images, c.Image)
			}
			if legacy.IsController(d.Name, images) && (d.Spec.Replicas == nil || *d.Spec.Replicas > 0) && len(out) < maxRunning {
				out = append(out, d.Namespace+"/"+d.Name)
			}
		}
	}
	return out, nil
}

// outputs are the objects of a kind, in the order of their names.
func (r *Reporter) outputs(ctx context.Context, kind schema.GroupVersionKind, rootNamespace string, clusters []string) (out []types.NamespacedName, err error) {
	add := func(ours func(o metav1.Object) bool, opts ...client.ListOption) error {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
		if err := r.Reader.List(ctx, list, opts...); err != nil {
			if meta.IsNoMatchError(err) {
				return nil
			}
			return fmt.Errorf("looking for what an older installation has left: %w", err)
		}
		for i := range list.Items {
			o := &list.Items[i]
			if o.Labels[v1alpha1.LabelManagedBy] == "" && ours(o) {
				out = append(out, client.ObjectKeyFromObject(o))
			}
		}
		return nil
	}
	if err := add(legacy.IsOutput, client.HasLabels{legacy.LabelOutput}); err != nil {
		return nil, err
	}
	if kind.Kind == serviceEntry || kind.Kind == "DestinationRule" {
		named := func(o metav1.Object) bool {
			return !legacy.IsOutput(o) && legacy.IsFederatedName(o.GetName(), clusters)
		}
		if err := add(named, client.InNamespace(rootNamespace)); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
	return out, nil
}
