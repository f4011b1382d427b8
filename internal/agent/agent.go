// Package agent puts the agent of a member cluster together: one manager on its own cluster, and the link to the hub, by
// which discovery and what the certificates need of the hub are added when the hub answers. It only wires.
package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent/certificates"
	"github.com/isthmus-mesh/isthmus/internal/agent/credential"
	"github.com/isthmus-mesh/isthmus/internal/agent/discovery"
	"github.com/isthmus-mesh/isthmus/internal/agent/evidence"
	"github.com/isthmus-mesh/isthmus/internal/agent/network"
	"github.com/isthmus-mesh/isthmus/internal/agent/predecessor"
	"github.com/isthmus-mesh/isthmus/internal/agent/vault"
	"github.com/isthmus-mesh/isthmus/internal/kube/hublink"
)

// Options of an agent.
type Options struct {
	// Cluster is the registered name of the cluster. Required.
	Cluster string
	// Namespace of the agent in its cluster. Defaults to isthmus-agent.
	Namespace string
	// Identity of this process: the name of its pod.
	Identity string
	// HubKubeconfigSecret, in Namespace, holds the kubeconfig for the hub; the agent renews the token in it.
	HubKubeconfigSecret string
	// HubKubeconfigFile, if set, is read instead; somebody else renews what is in it.
	HubKubeconfigFile string
	// IstioNamespaces are the root namespaces of Istio in which orders are carried out. Defaults to istio-system.
	IstioNamespaces []string
	// ShortHostnameClusters are those whose services may have short hostnames here although these could be names of the internet.
	ShortHostnameClusters []string
	// AddressRange of the addresses of federated hostnames. Defaults to network.DefaultAddressRange.
	AddressRange netip.Prefix
	// MaxImports is how many destinations of one cluster are imported. Defaults to network.DefaultMaxImports.
	MaxImports int
	// KubeletProjection is how late kubelets of this cluster may project a changed ConfigMap.
	KubeletProjection time.Duration
	// GatewayProbeInterval is how often the way to other meshes is tried, by a handshake through their gateways; 0 means never.
	GatewayProbeInterval time.Duration
	// Vault says which Vault servers the agent may ask, and with what.
	Vault vault.Options
	// MetricsAddress and HealthAddress to listen at; "0" or "" for none.
	MetricsAddress, HealthAddress string
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// NewManager returns the agent, ready to be started, and its link to the hub.
func NewManager(cfg *rest.Config, o Options) (ctrl.Manager, *hublink.Link, error) {
	if o.Cluster == "" {
		return nil, nil, errors.New("--cluster is missing: give the name under which this cluster is registered in the hub")
	}
	if o.Namespace == "" {
		o.Namespace = v1alpha1.AgentNamespace
	}
	if len(o.IstioNamespaces) == 0 {
		o.IstioNamespaces = []string{"istio-system"}
	}
	if o.MetricsAddress == "" {
		o.MetricsAddress = "0"
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme), network.AddToScheme(scheme)); err != nil {
		return nil, nil, err
	}
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme: scheme,
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
			ByObject: map[client.Object]cache.ByObject{
				&corev1.Secret{}:     certificates.Cached(o.Namespace, o.IstioNamespaces),
				&corev1.Pod{}:        {Transform: evidence.StripPod},
				&appsv1.Deployment{}: {Transform: stripTemplate},
			},
		},
		Controller:             config.Controller{SkipNameValidation: new(true)}, // several agents may run in one process
		Metrics:                metricsserver.Options{BindAddress: o.MetricsAddress},
		HealthProbeBindAddress: o.HealthAddress,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("setting up the agent: %w", err)
	}
	key := types.NamespacedName{Namespace: o.Namespace, Name: o.HubKubeconfigSecret}
	var source hublink.Source = hublink.SecretSource{Manager: mgr, Key: key}
	if o.HubKubeconfigFile != "" {
		source = hublink.FileSource(o.HubKubeconfigFile)
	}
	link, err := hublink.New(mgr, hublink.Options{Cluster: o.Cluster, Identity: o.Identity, Source: source})
	if err != nil {
		return nil, nil, err
	}
	local := discovery.Setup(link, o.Cluster)
	network.Setup(link, local, network.Options{
		Cluster: o.Cluster, AddressRange: o.AddressRange, MaxImports: o.MaxImports, ShortHostnameClusters: o.ShortHostnameClusters, GatewayProbeInterval: o.GatewayProbeInterval, Now: o.Now,
	})
	predecessor.Setup(link, o.Cluster, o.IstioNamespaces)
	err = certificates.Setup(mgr, link, certificates.Options{
		Cluster: o.Cluster, Namespace: o.Namespace, RootNamespaces: o.IstioNamespaces, Projection: o.KubeletProjection, Vault: o.Vault, Now: o.Now,
	})
	if o.HubKubeconfigFile == "" {
		err = errors.Join(err, credential.Setup(mgr, link, key))
	}
	// The hub has no part in readiness: without it the agent does all it can.
	return mgr, link, errors.Join(err, mgr.AddHealthzCheck("ping", healthz.Ping), mgr.AddReadyzCheck("ping", healthz.Ping))
}

// stripTemplate removes from a Deployment what nobody here reads.
func stripTemplate(obj any) (any, error) {
	if d, ok := obj.(*appsv1.Deployment); ok {
		d.ManagedFields = nil
		delete(d.Annotations, corev1.LastAppliedConfigAnnotation)
		d.Spec.Template.Spec = corev1.PodSpec{}
	}
	return obj, nil
}
