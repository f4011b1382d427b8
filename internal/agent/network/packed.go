package network

import (
	"unique"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube/compact"
)

// packed is what the cache holds of an object that was made for a destination: a stub's labels and annotations as fields.
type packed struct {
	empty                  func() client.Object
	namespace, virtualMesh unique.Handle[string]
	mesh, client           unique.Handle[string]
	name, version          string
	uid                    types.UID
	destination, hash      string
	hosts, addresses       []string // of a ServiceEntry
	kept                   bool     // its addresses are those with which it was handed over
}

// pack packs the stubs of which there are as many as destinations.
func pack(o client.Object) compact.Packed {
	a := o.GetAnnotations()
	if !isOurs(o) || a[v1alpha1.AnnotationDestination] == "" {
		return nil
	}
	p := &packed{
		namespace: unique.Make(o.GetNamespace()), mesh: unique.Make(a[annotationMesh]), client: unique.Make(a[annotationClient]), virtualMesh: unique.Make(o.GetLabels()[v1alpha1.LabelVirtualMesh]),
		name: o.GetName(), version: o.GetResourceVersion(), uid: o.GetUID(), destination: a[v1alpha1.AnnotationDestination], hash: a[annotationHash],
		kept: a[annotationKept] != "",
	}
	switch o := o.(type) {
	case *networkingv1.ServiceEntry:
		p.empty = func() client.Object { return &networkingv1.ServiceEntry{} }
		p.hosts, p.addresses = o.Spec.Hosts, o.Spec.Addresses
		if len(p.hosts) == 1 && p.hosts[0] == p.name {
			p.hosts[0] = p.name // one string for both
		}
	case *networkingv1.DestinationRule:
		p.empty = func() client.Object { return &networkingv1.DestinationRule{} }
	case *networkingv1.Gateway:
		p.empty = func() client.Object { return &networkingv1.Gateway{} }
	case *networkingv1.VirtualService:
		p.empty = func() client.Object { return &networkingv1.VirtualService{} }
	case *securityv1.AuthorizationPolicy:
		p.empty = func() client.Object { return &securityv1.AuthorizationPolicy{} }
	default:
		return nil
	}
	return p
}

// Unpack implements compact.Packed.
func (p *packed) Unpack() client.Object {
	o := p.empty()
	o.SetNamespace(p.namespace.Value())
	o.SetName(p.name)
	o.SetResourceVersion(p.version)
	o.SetUID(p.uid)
	o.SetLabels(map[string]string{v1alpha1.LabelManagedBy: fieldOwner, v1alpha1.LabelVirtualMesh: p.virtualMesh.Value()})
	annotations := map[string]string{v1alpha1.AnnotationDestination: p.destination, annotationMesh: p.mesh.Value(), annotationHash: p.hash}
	if client := p.client.Value(); client != "" {
		annotations[annotationClient] = client
	}
	if p.kept {
		annotations[annotationKept] = "true"
	}
	o.SetAnnotations(annotations)
	if e, ok := o.(*networkingv1.ServiceEntry); ok {
		e.Spec.Hosts, e.Spec.Addresses = p.hosts, p.addresses
	}
	return o
}

// GetObjectMeta implements compact.Packed.
func (p *packed) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: p.namespace.Value(), Name: p.name, ResourceVersion: p.version, UID: p.uid}
}
