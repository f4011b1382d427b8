package discovery

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"

	"github.com/isthmus-mesh/isthmus/internal/istio"
)

// Indexes of the caches.
const (
	// byLabel finds pods, and controllers by their template, by each of their labels, "<key>=<value>".
	byLabel = "label"
	// byOwner finds pods by their controller, "<kind>/<name>".
	byOwner = "owner"
	// bySelector finds Services by the pair of their selector that selectivePair chooses.
	bySelector = "selector"
	// byRole finds Deployments that run istiod.
	byRole = "role"

	roleControlPlane = "control-plane"
)

// newLocal makes a view of the agent's own cluster that holds of each object what package istio reads.
func newLocal(ctx context.Context, mgr ctrl.Manager) (cluster.Cluster, error) {
	hasRevision, err := labels.NewRequirement(istio.LabelRevision, selection.Exists, nil)
	if err != nil {
		return nil, err
	}
	local, err := cluster.New(mgr.GetConfig(), func(o *cluster.Options) {
		o.Scheme = mgr.GetScheme()
		o.Logger = mgr.GetLogger()
		o.Cache = cache.Options{
			DefaultTransform: stripMeta,
			ByObject: map[client.Object]cache.ByObject{
				&corev1.ConfigMap{}:   {Label: labels.NewSelector().Add(*hasRevision)},
				&corev1.Pod{}:         {Transform: strip},
				&corev1.Node{}:        {Transform: strip},
				&appsv1.Deployment{}:  {Transform: strip},
				&appsv1.StatefulSet{}: {Transform: strip},
				&appsv1.DaemonSet{}:   {Transform: strip},
			},
		}
	})
	if err != nil {
		return nil, err
	}
	return local, addIndexes(ctx, local.GetFieldIndexer())
}

func addIndexes(ctx context.Context, indexer client.FieldIndexer) error {
	for _, ix := range []struct {
		kind  client.Object
		field string
		f     client.IndexerFunc
	}{
		{&corev1.Pod{}, byLabel, func(o client.Object) []string { return pairs(o.GetLabels()) }},
		{&corev1.Pod{}, byOwner, func(o client.Object) []string {
			if owner, ok := istio.OwnerOf(o.(*corev1.Pod)); ok {
				return []string{ownerKey(owner)}
			}
			return nil
		}},
		{&corev1.Service{}, bySelector, func(o client.Object) []string {
			if s := o.(*corev1.Service).Spec.Selector; len(s) > 0 {
				return []string{selectivePair(s)}
			}
			return nil
		}},
		{&appsv1.Deployment{}, byLabel, templatePairs},
		{&appsv1.StatefulSet{}, byLabel, templatePairs},
		{&appsv1.DaemonSet{}, byLabel, templatePairs},
		{&appsv1.Deployment{}, byRole, func(o client.Object) []string {
			if istio.IsControlPlane(o.(*appsv1.Deployment)) {
				return []string{roleControlPlane}
			}
			return nil
		}},
	} {
		if err := indexer.IndexField(ctx, ix.kind, ix.field, ix.f); err != nil {
			return fmt.Errorf("indexing %T by %s: %w", ix.kind, ix.field, err)
		}
	}
	return nil
}

func templatePairs(o client.Object) []string { return pairs(template(o).Labels) }

func pairs(l map[string]string) []string {
	out := make([]string, 0, len(l))
	for k, v := range l {
		out = append(out, k+"="+v)
	}
	return out
}

func ownerKey(o istio.Owner) string { return o.Kind + "/" + o.Name }

// selectiveKeys are labels whose values usually tell one application, or pod, from the others of its namespace.
var selectiveKeys = []string{appsv1.StatefulSetPodNameLabel, "app", "app.kubernetes.io/name", "k8s-app"}

// selectivePair is the pair of a selector by which to look first. Any would do; a good one leaves little to filter.
func selectivePair(selector map[string]string) string {
	for _, k := range selectiveKeys {
		if v, ok := selector[k]; ok {
			return k + "=" + v
		}
	}
	p := pairs(selector)
	return slices.Min(p)
}

// template of a Deployment, StatefulSet or DaemonSet.
func template(o client.Object) *corev1.PodTemplateSpec {
	switch o := o.(type) {
	case *appsv1.Deployment:
		return &o.Spec.Template
	case *appsv1.StatefulSet:
		return &o.Spec.Template
	case *appsv1.DaemonSet:
		return &o.Spec.Template
	}
	return nil
}

// selector of a Deployment, StatefulSet or DaemonSet.
func selector(o client.Object) *metav1.LabelSelector {
	switch o := o.(type) {
	case *appsv1.Deployment:
		return o.Spec.Selector
	case *appsv1.StatefulSet:
		return o.Spec.Selector
	case *appsv1.DaemonSet:
		return o.Spec.Selector
	}
	return nil
}

// stripMeta removes bookkeeping from an object for the cache.
func stripMeta(obj any) (any, error) {
	if o, ok := obj.(client.Object); ok {
		o.SetManagedFields(nil)
		if a := o.GetAnnotations(); a != nil {
			delete(a, corev1.LastAppliedConfigAnnotation)
		}
	}
	return obj, nil
}

// strip reduces an object to what package istio reads of it.
func strip(obj any) (any, error) {
	switch o := obj.(type) {
	case *corev1.Pod:
		return &corev1.Pod{
			ObjectMeta: stripObjectMeta(&o.ObjectMeta),
			Spec:       stripPodSpec(&o.Spec),
			Status:     corev1.PodStatus{Phase: terminal(o.Status.Phase)},
		}, nil
	case *corev1.Node:
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: o.Name, ResourceVersion: o.ResourceVersion, UID: o.UID},
			Status:     corev1.NodeStatus{Addresses: o.Status.Addresses},
		}, nil
	case *appsv1.Deployment:
		return &appsv1.Deployment{
			ObjectMeta: stripObjectMeta(&o.ObjectMeta),
			Spec:       appsv1.DeploymentSpec{Replicas: o.Spec.Replicas, Selector: o.Spec.Selector, Template: stripTemplate(&o.Spec.Template)},
		}, nil
	case *appsv1.StatefulSet:
		return &appsv1.StatefulSet{
			ObjectMeta: stripObjectMeta(&o.ObjectMeta),
			Spec:       appsv1.StatefulSetSpec{Selector: o.Spec.Selector, Template: stripTemplate(&o.Spec.Template)},
		}, nil
	case *appsv1.DaemonSet:
		return &appsv1.DaemonSet{
			ObjectMeta: stripObjectMeta(&o.ObjectMeta),
			Spec:       appsv1.DaemonSetSpec{Selector: o.Spec.Selector, Template: stripTemplate(&o.Spec.Template)},
		}, nil
	}
	return obj, nil
}

// terminal keeps of a pod's phase whether it has come to its end, so that a start changes nothing.
func terminal(p corev1.PodPhase) corev1.PodPhase {
	if p == corev1.PodSucceeded || p == corev1.PodFailed {
		return p
	}
	return ""
}

// keptAnnotations are those that package istio reads.
var keptAnnotations = []string{
	istio.AnnotationStatus, istio.AnnotationTemplates, istio.AnnotationAmbient, istio.LabelRevision, istio.AnnotationInject,
}

// keptEnv are the environment variables of proxies and istiod that package istio reads.
var keptEnv = []string{
	"CA_ADDR", "DISABLE_ENVOY", "PROXY_CONFIG",
	"ENABLE_CA_SERVER", "EXTERNAL_CA", "ISTIO_MULTIROOT_MESH", "PILOT_CERT_PROVIDER", "REVISION",
}

func stripObjectMeta(m *metav1.ObjectMeta) metav1.ObjectMeta {
	out := metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion,
		CreationTimestamp: m.CreationTimestamp, Labels: m.Labels, Annotations: stripAnnotations(m.Annotations),
	}
	for i := range m.OwnerReferences {
		if r := m.OwnerReferences[i]; r.Controller != nil && *r.Controller {
			out.OwnerReferences = []metav1.OwnerReference{r}
		}
	}
	return out
}

func stripAnnotations(a map[string]string) map[string]string {
	var out map[string]string
	for _, k := range keptAnnotations {
		if v, ok := a[k]; ok {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}

func stripTemplate(t *corev1.PodTemplateSpec) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: t.Labels, Annotations: stripAnnotations(t.Annotations)},
		Spec:       stripPodSpec(&t.Spec),
	}
}

func stripPodSpec(s *corev1.PodSpec) corev1.PodSpec {
	out := corev1.PodSpec{ServiceAccountName: s.ServiceAccountName, HostNetwork: s.HostNetwork, NodeName: s.NodeName}
	control := istio.Discovery(s)
	for i := range s.Containers {
		c := &s.Containers[i]
		out.Containers = append(out.Containers, stripContainer(c, c == control))
	}
	for i := range s.InitContainers {
		if c := &s.InitContainers[i]; c.Name == istio.ProxyContainer {
			out.InitContainers = append(out.InitContainers, stripContainer(c, false))
		}
	}
	return out
}

func stripContainer(c *corev1.Container, controlPlane bool) corev1.Container {
	out := corev1.Container{Name: c.Name, Ports: c.Ports}
	if !controlPlane && c.Name != istio.ProxyContainer {
		return out
	}
	out.Args = c.Args
	if controlPlane {
		out.Image = c.Image
	}
	for _, e := range c.Env {
		if slices.Contains(keptEnv, e.Name) {
			out.Env = append(out.Env, e)
		}
	}
	return out
}
