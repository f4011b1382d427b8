package istio

import (
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// Membership says whether something is in a mesh.
type Membership int

const (
	// Unknown says that what is there does not tell. Nothing may be concluded, least of all that something is gone.
	Unknown Membership = iota
	// Outside of every mesh.
	Outside
	// Inside of a mesh.
	Inside
)

// Controller is what makes pods from a template: a Deployment, StatefulSet or DaemonSet.
type Controller struct {
	Kind, Name string
	Selector   *metav1.LabelSelector
	Template   *corev1.PodTemplateSpec
}

// podSelector is the selector of a controller if it is one of labels alone. One that the API cannot hold whole is left out:
// a part of it would select more.
func (c Controller) podSelector() map[string]string {
	if c.Selector == nil || len(c.Selector.MatchExpressions) > 0 || len(c.Selector.MatchLabels) > maxPodSelector {
		return nil
	}
	return c.Selector.MatchLabels
}

// Owner identifies a controller within its namespace.
type Owner struct{ Kind, Name string }

// OwnerOf returns the controller of a pod; false for pods without one, or of another kind than those of Controller. The
// Deployment behind a ReplicaSet follows from the ReplicaSet's name, which is the Deployment's with the template's hash.
func OwnerOf(pod *corev1.Pod) (Owner, bool) {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil {
		return Owner{}, false
	}
	switch ref.Kind {
	case "ReplicaSet":
		name, ok := strings.CutSuffix(ref.Name, "-"+pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey])
		return Owner{"Deployment", name}, ok && name != ""
	case "StatefulSet", "DaemonSet":
		return Owner{ref.Kind, ref.Name}, true
	}
	return Owner{}, false
}

// Live reports whether a pod counts: it has not come to its end.
func Live(pod *corev1.Pod) bool {
	return pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

// member is how one controller or pod is in a mesh.
type member struct {
	proxy Proxy
	mesh  *v1alpha1.IstioMesh
	state Membership
}

// place finds the mesh of a proxy.
func (in *Installation) place(p Proxy) member {
	if !p.Meshed() {
		return member{state: Outside}
	}
	mesh, ok := in.MeshOf(p)
	if !ok {
		return member{proxy: p}
	}
	p.Revision = in.Revision(p.Revision)
	return member{p, mesh, Inside}
}

// controller says how a controller is in a mesh: as its pods are, and as its template would be while it has none. While
// pods differ the oldest that is in a mesh counts, so that a rollout changes the answer once, at its end.
func (in *Installation) controller(c Controller, ns *corev1.Namespace, pods []*corev1.Pod) member {
	var oldest *corev1.Pod
	var proxy Proxy
	any := false
	for _, pod := range pods {
		if !Live(pod) {
			continue
		}
		any = true
		if p := ProxyOf(pod, ns); p.Meshed() && (oldest == nil || older(pod, oldest)) {
			oldest, proxy = pod, p
		}
	}
	if !any {
		proxy = in.Expected(c.Template, ns)
	}
	return in.place(proxy)
}

func older(a, b *corev1.Pod) bool {
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return a.Name < b.Name
}

// Workload describes a controller whose pods are given. The mesh is nil unless the answer is Inside.
func (in *Installation) Workload(c Controller, ns *corev1.Namespace, pods []*corev1.Pod) (v1alpha1.WorkloadSpec, *v1alpha1.IstioMesh, Membership) {
	m := in.controller(c, ns, pods)
	if m.state != Inside {
		return v1alpha1.WorkloadSpec{}, nil, m.state
	}
	return v1alpha1.WorkloadSpec{
		Controller:     v1alpha1.ControllerRef{APIVersion: appsv1.SchemeGroupVersion.String(), Kind: c.Kind, Name: c.Name, Namespace: ns.Name},
		PodSelector:    c.podSelector(),
		PodLabels:      atMost(c.Template.Labels, 64),
		ServiceAccount: serviceAccount(&c.Template.Spec),
		DataPlane:      m.proxy.DataPlane,
		Revision:       m.proxy.Revision,
	}, m.mesh, Inside
}
