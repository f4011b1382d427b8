package following

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata/metadatainformer"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/legacy"
)

// AnnotationFollow has the hub follow the objects of a CustomResourceDefinition that is somebody else's, where it is "true".
const AnnotationFollow = "isthmus.dev/follow"

// definitionOwner is the value of isthmus.dev/managed-by on definitions that are Isthmus's, those of the chart isthmus-crds.
const definitionOwner = "isthmus-crds"

// Reasons of events about definitions.
const (
	// ReasonForeignDefinition says that a definition is somebody else's, and its objects are not touched.
	ReasonForeignDefinition = "ForeignDefinition"
	// ReasonVersionNotServed says that a definition has not the version that could be followed.
	ReasonVersionNotServed = "VersionNotServed"
)

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// watch is an informer that can be ended.
type watch struct {
	toolscache.Store
	end context.CancelFunc
}

// watchDefinitions has each generation looked at when its definition comes, goes or changes.
func (r *Reconciler) watchDefinitions() error {
	for _, g := range legacy.Generations() {
		byName := fields.OneTermEqualSelector(metav1.ObjectNameField, g.Definition()).String()
		_, err := r.watch(definitions, byName, func(metav1.Object) request { return request{generation: g} })
		if err != nil {
			return err
		}
	}
	return nil
}

// watch asks for what concerns the objects of a resource, until it is ended or the controller is. It holds their metadata.
func (r *Reconciler) watch(resource schema.GroupVersionResource, fieldSelector string, concerns func(metav1.Object) request) (watch, error) {
	informer := metadatainformer.NewFilteredMetadataInformer(r.metadata, resource, metav1.NamespaceAll, 0, nil, func(o *metav1.ListOptions) {
		o.FieldSelector = fieldSelector
	}).Informer()
	add := func(obj any) {
		if gone, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		if o, ok := obj.(metav1.Object); ok {
			r.queue.Add(concerns(o))
		}
	}
	_, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    add,
		UpdateFunc: func(_, obj any) { add(obj) },
		DeleteFunc: add,
	})
	if err != nil {
		return watch{}, err
	}
	ctx, cancel := context.WithCancel(r.running)
	go informer.RunWithContext(ctx)
	return watch{informer.GetStore(), cancel}, nil
}

func (r *Reconciler) watchOf(g *legacy.Generation) (watch, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, ok := r.followed[g]
	return w, ok
}

// define begins or ends to follow a generation, as its definition is.
func (r *Reconciler) define(ctx context.Context, g *legacy.Generation) error {
	crd, err := r.definition(ctx, g)
	if err != nil {
		return err
	}
	reason, why := refusal(g, crd)
	switch w, followed := r.watchOf(g); {
	case why == "" && !followed:
		w, err := r.watch(schema.GroupVersionResource{Group: g.Group, Version: g.Version, Resource: "virtualmeshes"}, "", func(o metav1.Object) request {
			return request{g, types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}}
		})
		if err != nil {
			return err
		}
		r.set(g, &w)
		log.FromContext(ctx).Info("Following VirtualMeshes of an older generation", "apiVersion", g.APIVersion())
	case why != "" && followed:
		w.end()
		r.set(g, nil)
		log.FromContext(ctx).Info("Not following VirtualMeshes of an older generation any more", "apiVersion", g.APIVersion(), "reason", why)
	}
	if reason != "" && r.told[g] != why {
		log.FromContext(ctx).Info("Not following VirtualMeshes of an older generation", "apiVersion", g.APIVersion(), "reason", why)
		r.Events.Eventf(crd, nil, corev1.EventTypeWarning, reason, "Follow", "%s", why)
	}
	r.told[g] = why
	return nil
}

// set keeps the watch of a generation, or for nil forgets it.
func (r *Reconciler) set(g *legacy.Generation, w *watch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w == nil {
		delete(r.followed, g)
	} else {
		r.followed[g] = *w
	}
}

// definition of the VirtualMesh of a generation; empty if there is none.
func (r *Reconciler) definition(ctx context.Context, g *legacy.Generation) (*unstructured.Unstructured, error) {
	crd := &unstructured.Unstructured{}
	crd.SetGroupVersionKind(definitions.GroupVersion().WithKind("CustomResourceDefinition"))
	err := r.Reader.Get(ctx, client.ObjectKey{Name: g.Definition()}, crd)
	return crd, client.IgnoreNotFound(err)
}

// undefined reports whether the definition of a generation is gone, or on its way.
func (r *Reconciler) undefined(ctx context.Context, g *legacy.Generation) (bool, error) {
	crd, err := r.definition(ctx, g)
	return err == nil && (crd.GetUID() == "" || crd.GetDeletionTimestamp() != nil), err
}

// refusal says why the objects of a definition are not followed, "" if they are. The reason is that of an event: there is none
// where nothing has to be said.
func refusal(g *legacy.Generation, crd *unstructured.Unstructured) (reason, why string) {
	switch {
	case crd.GetUID() == "", !established(crd):
		return "", "it is not there"
	case crd.GetLabels()[v1alpha1.LabelManagedBy] != definitionOwner && crd.GetAnnotations()[AnnotationFollow] != "true":
		return ReasonForeignDefinition, fmt.Sprintf("CustomResourceDefinition %[1]s is somebody else's, so its objects are not touched; when no other controller "+
			"acts on them, have the hub follow them: kubectl annotate crd %[1]s %[2]s=true", g.Definition(), AnnotationFollow)
	case !served(g, crd):
		return ReasonVersionNotServed, fmt.Sprintf("CustomResourceDefinition %s does not serve version %s, so its objects are not followed; write them in that version, or convert them with meshctl convert", g.Definition(), g.Version)
	}
	return "", ""
}

func established(crd *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
	return slices.ContainsFunc(conditions, func(c any) bool {
		m, ok := c.(map[string]any)
		return ok && m["type"] == "Established" && m["status"] == "True"
	})
}

func served(g *legacy.Generation, crd *unstructured.Unstructured) bool {
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	return slices.ContainsFunc(versions, func(v any) bool {
		m, ok := v.(map[string]any)
		return ok && m["name"] == g.Version && m["served"] == true
	})
}
