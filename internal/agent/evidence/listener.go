package evidence

import (
	"maps"
	"strings"

	networkingapi "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Where a gateway is probed. Its other ports may end no mutual TLS of the mesh.
const (
	ListenerPort = 15444
	// ListenerHost is a name that is routed nowhere and resolved nowhere.
	ListenerHost = "canary.isthmus.invalid"
)

// Listener makes the pods of a gateway's controller open a port at which they can be probed: it ends the mesh's mutual TLS and
// leads nowhere. No Service needs to have the port, since pods are asked at their own address.
func Listener(p ProxyPod) *networkingv1.Gateway {
	name := p.Name
	if p.HasController {
		name = p.Controller.Name
	}
	return &networkingv1.Gateway{
		TypeMeta:   metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "Gateway"},
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: "isthmus-canary-" + name},
		Spec: networkingapi.Gateway{
			Selector: templateLabels(p.Labels),
			Servers: []*networkingapi.Server{{
				Port:  &networkingapi.Port{Number: ListenerPort, Name: "tls-isthmus-canary", Protocol: "HTTPS"},
				Hosts: []string{ListenerHost},
				Tls:   &networkingapi.ServerTLSSettings{Mode: networkingapi.ServerTLSSettings_ISTIO_MUTUAL},
			}},
		},
	}
}

// templateLabels are the labels of a pod without those that differ between the pods of a controller: of generation, of the
// single pod, of the place where it runs, and of the istiod that injected it.
func templateLabels(labels map[string]string) map[string]string {
	out := maps.Clone(labels)
	maps.DeleteFunc(out, func(key, _ string) bool {
		switch key {
		case appsv1.DefaultDeploymentUniqueLabelKey, appsv1.ControllerRevisionHashLabelKey,
			appsv1.StatefulSetPodNameLabel, appsv1.PodIndexLabel, "pod-template-generation", "istio.io/rev":
			return true
		}
		return strings.HasPrefix(key, "topology.kubernetes.io/")
	})
	return out
}
