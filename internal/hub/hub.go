// Package hub puts the hub together: one manager with the controllers that accept what users write, register clusters,
// provide roots and orders, and sign. It only wires.
package hub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/hub/accepting"
	"github.com/isthmus-mesh/isthmus/internal/hub/following"
	"github.com/isthmus-mesh/isthmus/internal/hub/issuing"
	"github.com/isthmus-mesh/isthmus/internal/hub/registration"
	"github.com/isthmus-mesh/isthmus/internal/hub/roots"
	"github.com/isthmus-mesh/isthmus/internal/hub/rotating"
)

// Options of the hub.
type Options struct {
	// Namespace of the hub. Defaults to isthmus-system.
	Namespace string
	// SecretNamespaces are further namespaces in which users may keep the certificate authorities that they provide.
	SecretNamespaces []string
	// Legacy has VirtualMeshes of the older generations of the API followed.
	Legacy bool
	// LeaderElection lets one of several replicas work at a time.
	LeaderElection bool
	// MetricsAddress and HealthAddress to listen at; "0" or "" for none.
	MetricsAddress, HealthAddress string
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// NewManager returns the hub, ready to be started.
func NewManager(cfg *rest.Config, o Options) (ctrl.Manager, error) {
	if o.Namespace == "" {
		o.Namespace = v1alpha1.SystemNamespace
	}
	if o.MetricsAddress == "" {
		o.MetricsAddress = "0"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	anyNumber := true
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme:                        scheme,
		Cache:                         cacheOptions(o),
		Controller:                    config.Controller{SkipNameValidation: &anyNumber}, // several hubs may run in one process
		LeaderElection:                o.LeaderElection,
		LeaderElectionID:              "isthmus-hub",
		LeaderElectionNamespace:       o.Namespace,
		LeaderElectionReleaseOnCancel: true,
		Metrics:                       metricsserver.Options{BindAddress: o.MetricsAddress},
		HealthProbeBindAddress:        o.HealthAddress,
	})
	if err != nil {
		return nil, fmt.Errorf("setting up the hub: %w", err)
	}
	return mgr, errors.Join(setup(mgr, o), mgr.AddHealthzCheck("ping", healthz.Ping), mgr.AddReadyzCheck("caches", synced(mgr)))
}

// setup registers the controllers.
func setup(mgr ctrl.Manager, o Options) error {
	c, reader, events := mgr.GetClient(), mgr.GetAPIReader(), mgr.GetEventRecorder("isthmus-hub")
	store := roots.Store{Client: c, Reader: reader, Namespace: o.Namespace, SecretNamespaces: o.SecretNamespaces, Now: o.Now}
	var follows error
	if o.Legacy {
		follows = (&following.Reconciler{Client: c, Reader: reader, Events: events, Namespace: o.Namespace}).SetupWithManager(mgr)
	}
	return errors.Join(follows,
		(&accepting.VirtualMeshes{Client: c, Reader: reader, Events: events, Roots: store, Namespace: o.Namespace}).SetupWithManager(mgr),
		(&accepting.AccessPolicies{Client: c, Reader: reader, Events: events, Namespace: o.Namespace}).SetupWithManager(mgr),
		(&accepting.VirtualDestinations{Client: c, Reader: reader, Events: events, Namespace: o.Namespace}).SetupWithManager(mgr),
		accepting.SetupOthers(mgr, reader, o.Namespace),
		(&registration.Reconciler{Client: c, Reader: reader, Events: events, Namespace: o.Namespace}).SetupWithManager(mgr),
		(&registration.Heartbeat{Client: c, Events: events, Namespace: o.Namespace, Now: o.Now}).SetupWithManager(mgr),
		(&rotating.Reconciler{Client: c, Reader: reader, Events: events, Roots: store, Namespace: o.Namespace, Now: o.Now}).SetupWithManager(mgr),
		(&issuing.Reconciler{Client: c, Reader: reader, Events: events, Roots: store, Namespace: o.Namespace, Now: o.Now}).SetupWithManager(mgr),
		registerMetrics(c, o.Namespace),
	)
}

// cacheOptions keep in memory, and ask the right to read, no more than is needed: what users write in the hub's namespace,
// what agents write in theirs, and of Secrets and Leases only those of a known name or place.
func cacheOptions(o Options) cache.Options {
	own := cache.ByObject{Namespaces: map[string]cache.Config{o.Namespace: {}}}
	secrets := map[string]cache.Config{
		o.Namespace:         {},
		cache.AllNamespaces: {FieldSelector: fields.OneTermEqualSelector("metadata.name", registration.CredentialName)},
	}
	for _, namespace := range o.SecretNamespaces {
		secrets[namespace] = cache.Config{}
	}
	return cache.Options{
		ByObject: map[client.Object]cache.ByObject{
			&v1alpha1.VirtualMesh{}:             own,
			&v1alpha1.AccessPolicy{}:            own,
			&v1alpha1.VirtualDestination{}:      own,
			&v1alpha1.Settings{}:                own,
			&v1alpha1.CertificateVerification{}: own,
			&v1alpha1.KubernetesCluster{}:       own,
			&v1alpha1.Destination{}:             {Transform: stripDestination},
			&coordinationv1.Lease{}:             {Field: fields.OneTermEqualSelector("metadata.name", v1alpha1.AgentName)},
			&corev1.Secret{}:                    {Namespaces: secrets},
		},
	}
}

// stripDestination removes what the hub does not look at: there are as many Destinations as the fleet has Services.
func stripDestination(obj any) (any, error) {
	if d, ok := obj.(*v1alpha1.Destination); ok {
		d.SetManagedFields(nil)
		d.SetLabels(nil)
		d.SetAnnotations(nil)
		d.Spec = v1alpha1.DestinationSpec{Mesh: d.Spec.Mesh}
		if f := d.Status.AppliedFederation; f != nil {
			d.Status.AppliedFederation = &v1alpha1.AppliedFederation{VirtualMesh: f.VirtualMesh}
		}
		d.Status.Conditions = nil
	}
	return obj, nil
}

// synced is ready when the caches are. It does not wait for them: that is the probe's to do.
func synced(mgr ctrl.Manager) healthz.Checker {
	return func(r *http.Request) error {
		ctx, cancel := context.WithTimeout(r.Context(), 100*time.Millisecond)
		defer cancel()
		if !mgr.GetCache().WaitForCacheSync(ctx) {
			return errors.New("caches are not synced yet")
		}
		return nil
	}
}
