// Package istiotest makes objects of clusters with Istio for tests: what its installer makes, and pods as its webhook
// leaves them. It is imported by tests only.
package istiotest

import (
	"bytes"
	"embed"
	"fmt"
	"maps"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/internal/istio"
)

//go:embed manifests/*.yaml
var manifests embed.FS

// Object of a cluster.
type Object = client.Object

// Manifest returns the objects of an installation: "sidecar", "revisions", "istio-csr", "ambient", "remote-url" or
// "remote-service".
func Manifest(name string) []Object {
	text, err := manifests.ReadFile("manifests/" + name + ".yaml")
	if err != nil {
		panic(err)
	}
	var out []Object
	for doc := range bytes.SplitSeq(text, []byte("\n---\n")) {
		if bytes.HasPrefix(doc, []byte("#")) {
			continue
		}
		obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(doc, nil, nil)
		if err != nil {
			panic(fmt.Errorf("%s: %w", name, err))
		}
		out = append(out, obj.(Object))
	}
	return out
}

// Objects sorts objects into what istio.Read takes.
func Objects(objs ...Object) istio.Objects {
	var o istio.Objects
	for _, obj := range objs {
		switch obj := obj.(type) {
		case *appsv1.Deployment:
			o.Deployments = append(o.Deployments, *obj)
		case *corev1.ConfigMap:
			o.ConfigMaps = append(o.ConfigMaps, *obj)
		case *admissionv1.MutatingWebhookConfiguration:
			o.Webhooks = append(o.Webhooks, *obj)
		case *corev1.Service:
			o.Services = append(o.Services, *obj)
		case *corev1.Namespace:
			o.Namespaces = append(o.Namespaces, *obj)
		}
	}
	return o
}

// Namespace with labels.
func Namespace(name string, labels map[string]string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

// Template of pods of one application container.
func Template(labels map[string]string, serviceAccount string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec: corev1.PodSpec{
			ServiceAccountName: serviceAccount,
			Containers:         []corev1.Container{{Name: "app", Image: "example.org/app:1"}},
		},
	}
}

// Deployment of such pods.
func Deployment(namespace, name string, labels map[string]string, serviceAccount string) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: Template(labels, serviceAccount),
		},
	}
}

// Pod of a Deployment, before anything was injected. hash stands for the ReplicaSet.
func Pod(d *appsv1.Deployment, hash, suffix string) *corev1.Pod {
	labels := map[string]string{appsv1.DefaultDeploymentUniqueLabelKey: hash}
	maps.Copy(labels, d.Spec.Template.Labels)
	rs := d.Name + "-" + hash
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.Namespace, Name: rs + "-" + suffix, Labels: labels, Annotations: d.Spec.Template.Annotations,
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "apps/v1", Kind: "ReplicaSet", Name: rs, UID: "00000000-0000-0000-0000-000000000001", Controller: new(true),
			}},
		},
		Spec: *d.Spec.Template.Spec.DeepCopy(),
	}
}

// Injected is the pod with the sidecar that the webhook of a revision adds: as an init container that goes on running, as
// is Istio's default, or as a container.
func Injected(pod *corev1.Pod, revision string, native bool) *corev1.Pod {
	pod = pod.DeepCopy()
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[istio.AnnotationStatus] = fmt.Sprintf(
		`{"initContainers":["istio-init","istio-proxy"],"containers":null,"volumes":["istio-envoy"],"imagePullSecrets":null,"revision":%q}`, revision)
	pod.Labels["security.istio.io/tlsMode"] = "istio"
	pod.Labels["service.istio.io/canonical-revision"] = "latest"
	host := "istiod"
	if revision != istio.DefaultRevision {
		host += "-" + revision
	}
	proxy := corev1.Container{
		Name: istio.ProxyContainer, Image: "docker.io/istio/proxyv2:1.31.1",
		Args: []string{"proxy", "sidecar", "--domain", "$(POD_NAMESPACE).svc.cluster.local"},
		Env: []corev1.EnvVar{
			{Name: "CA_ADDR", Value: host + ".istio-system.svc:15012"},
			{Name: "PROXY_CONFIG", Value: `{"discoveryAddress":"` + host + `.istio-system.svc:15012"}`},
		},
	}
	if native {
		proxy.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, proxy)
	} else {
		pod.Spec.Containers = append(pod.Spec.Containers, proxy)
	}
	return pod
}

// Service that selects pods, with one port, 9080.
func Service(namespace, name string, selector map[string]string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, Selector: selector,
			Ports: []corev1.ServicePort{{Name: "http", Port: 9080, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(9080)}},
		},
	}
}
