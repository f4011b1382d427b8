package network

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent/discovery"
	"github.com/isthmus-mesh/isthmus/internal/federation"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/kube/compact"
	"github.com/isthmus-mesh/isthmus/internal/kube/hublink"
)

// Rights in the agent's own cluster (for charts/isthmus-agent):
//
// +kubebuilder:rbac:groups=networking.istio.io,resources=destinationrules;gateways;serviceentries;virtualservices,verbs=get;list;watch;create;update;patch;delete
// +kubebuilder:rbac:groups=security.istio.io,resources=authorizationpolicies;peerauthentications,verbs=get;list;watch;create;update;patch;delete
// +kubebuilder:rbac:groups=discovery.k8s.io,resources=endpointslices,verbs=get;list;watch
// +kubebuilder:rbac:groups=apps,resources=daemonsets;deployments;statefulsets,verbs=get

// DefaultAddressRange is the range of the addresses of federated hostnames. It is reserved (RFC 1112, class E), so that nothing
// else uses it, and keeps clear of 240.240.0.0/16, which Istio assigns from.
var DefaultAddressRange = netip.MustParsePrefix("241.0.0.0/8")

// DefaultMaxImports is how many destinations of one cluster are imported.
const DefaultMaxImports = 20_000

// DefaultGatewayProbeInterval is how often the way to other meshes is tried.
const DefaultGatewayProbeInterval = time.Minute

// Options of the agent's network part.
type Options struct {
	// Cluster is the registered name of this cluster.
	Cluster string
	// AddressRange of federated hostnames. Defaults to DefaultAddressRange.
	AddressRange netip.Prefix
	// MaxImports is how many destinations of one cluster are imported. Defaults to DefaultMaxImports.
	MaxImports int
	// ShortHostnameClusters are those whose services may have short hostnames here although these could be names of the internet.
	ShortHostnameClusters []string
	// GatewayProbeInterval is how often the way to other meshes is tried, by a handshake through their gateways; 0 means never.
	GatewayProbeInterval time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Kinds are what this package needs of the hub's cache.
func Kinds() []client.Object {
	return []client.Object{
		&v1alpha1.VirtualMesh{}, &v1alpha1.AccessPolicy{}, &v1alpha1.VirtualDestination{}, &v1alpha1.Mesh{}, &v1alpha1.Workload{}, &v1alpha1.Destination{},
	}
}

// AddToScheme adds the kinds of Istio that this package reads and makes.
func AddToScheme(s *runtime.Scheme) error {
	return errors.Join(networkingv1.AddToScheme(s), securityv1.AddToScheme(s))
}

// Setup has the network part run whenever there is a hub, and Istio's kinds in this cluster.
func Setup(link *hublink.Link, local *discovery.Local, o Options) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if !o.AddressRange.IsValid() {
		o.AddressRange = DefaultAddressRange
	}
	if o.MaxImports == 0 {
		o.MaxImports = DefaultMaxImports
	}
	var running atomic.Pointer[network]
	link.Annotate(func() map[string]string {
		if n := running.Load(); n != nil {
			return n.annotations()
		}
		return nil
	})
	link.Setup(func(_ context.Context, mgr ctrl.Manager, hub cluster.Cluster) error {
		n, err := newNetwork(mgr, hub, local, o)
		if err != nil {
			return fmt.Errorf("setting up the network part: %w", err)
		}
		n.refresh, n.server, n.destinations = link.Refresh, link.Server, link.Destinations
		running.Store(n)
		return mgr.Add(n)
	}, Kinds()...)
}

// network is what the reconcilers share.
type network struct {
	Options
	namespace string // of this cluster, in the hub
	mgr       ctrl.Manager
	istio     cluster.Cluster // the caches of Istio's objects
	held      *compact.Set    // what they hold
	objects   *objects
	live      client.Reader // this cluster's API server itself
	hub       cluster.Cluster
	discovery *discovery.Local
	refresh   func()        // has the heartbeat sent at once
	server    func() string // where the hub is, "<host>:<port>"
	// destinations are those that the hub's cache holds of a namespace, or with "" of all, one after the other.
	destinations func(namespace string) iter.Seq[*v1alpha1.Destination]

	view      atomic.Pointer[view]
	progress  *progress
	addresses *addresses
	imports   *importIndex
	names     *names
	reports   *reports
	blocked   blocked
	views     pace  // of changes of other clusters' Meshes
	errors    pace  // of reports
	rounds    pace  // in which the ways to other meshes are tried
	turns     turns // of writes that other clusters' destinations cause
	nameTurns turns // of writes of virtual destinations, which they cause too
	said      pace  // of reports about virtual destinations
	left      leaving
	opened    openings
	evidence  *evidence
	forbidden atomic.Pointer[map[string]bool] // addresses of API servers, "<address>:<port>"

	// awaited is how many Destinations discovery had to tell of, and since when. The view's reconciler alone uses it.
	awaited struct {
		missing int
		since   time.Time
	}

	mu        sync.Mutex
	exports   map[string]*federation.Exports // by own mesh
	retains   map[string]bool                // own meshes that keep what others need of a former trust
	published map[string]exported            // what the Lease said last, by own mesh
	announced map[string]string              // the virtual mesh that the hub knows an own mesh to have something of
	exported  map[string]int64               // generation of its virtual mesh that exports are complete for, by own mesh
	flat      bool                           // EndpointSlices are watched
	addFlat   func() error
	queueOf   map[string]workqueue.TypedRateLimitingInterface[ctrl.Request]
	allQueues chan struct{} // closed when each controller has its queue
}

func newNetwork(mgr ctrl.Manager, hub cluster.Cluster, local *discovery.Local, o Options) (*network, error) {
	held := compact.NewSet(pack)
	istio, err := newLocal(mgr, held)
	if err != nil {
		return nil, err
	}
	n := networkOf(istio, held, mgr.GetClient(), mgr.GetAPIReader(), hub, o)
	n.mgr, n.discovery = mgr, local
	return n, nil
}

// networkOf makes what the reconcilers share of the caches of this cluster and the hub, and of clients of this cluster.
func networkOf(istio cluster.Cluster, held *compact.Set, c client.Client, live client.Reader, hub cluster.Cluster, o Options) *network {
	n := &network{
		Options:   o,
		namespace: kube.ClusterNamespace(o.Cluster),
		istio:     istio,
		held:      held,
		objects:   &objects{Client: c, cache: istio.GetCache()},
		live:      live,
		hub:       hub,
		discovery: &discovery.Local{},
		refresh:   func() {},
		server:    func() string { return "" },
		imports:   newImportIndex(),
		names:     newNames(),
		exports:   map[string]*federation.Exports{},
		exported:  map[string]int64{},
		retains:   map[string]bool{},
		published: map[string]exported{},
		announced: map[string]string{},
		queueOf:   map[string]workqueue.TypedRateLimitingInterface[ctrl.Request]{},
		allQueues: make(chan struct{}),
	}
	n.addresses = newAddresses(o.AddressRange, n.lookAtHosts)
	n.views.interval, n.views.atOnce = viewInterval, viewsAtOnce
	n.errors.interval, n.errors.atOnce = errorsInterval, errorsAtOnce
	n.rounds.interval, n.rounds.atOnce = roundInterval, roundsAtOnce
	n.turns.pace = &pace{interval: writeInterval, atOnce: max(leastWrites, writesAtOnce*o.MaxImports)}
	n.nameTurns.pace = &pace{interval: nameInterval, atOnce: namesAtOnce}
	n.said.interval, n.said.atOnce = errorsInterval, errorsAtOnce
	n.progress = newProgress(func() { n.lookAtMeshes(0) })
	n.reports = newReports(func() { n.lookAtMeshes(reportDelay) })
	n.evidence = &evidence{hub: hub.GetAPIReader(), now: o.Now, memo: map[string]said{}}
	return n
}

// Start implements manager.Runnable: it waits for Istio's kinds, fills the caches, and adds the controllers.
func (n *network) Start(ctx context.Context) error {
	log := n.mgr.GetLogger().WithName("network")
	backoff := wait.Backoff{Duration: time.Second, Factor: 1.5, Jitter: 0.1, Steps: 8, Cap: 15 * time.Second}
	said := ""
	err := backoff.DelayFunc().Until(ctx, true, true, func(ctx context.Context) (bool, error) {
		err := n.served(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			log.Info("waiting for Istio's kinds", "reason", err.Error())
			said = err.Error()
		}
		return err == nil, nil
	})
	if err != nil {
		return nil //nolint:nilerr // only the end of ctx
	}
	if err := addIndexes(ctx, n.istio.GetCache()); err != nil {
		return err
	}
	for _, kind := range kindsOfIstio() {
		if _, err := n.istio.GetCache().GetInformer(ctx, kind, cache.BlockUntilSynced(false)); err != nil {
			return ignoreEnd(ctx, err)
		}
	}
	if err := n.mgr.Add(n.istio); err != nil {
		return err
	}
	if !n.istio.GetCache().WaitForCacheSync(ctx) {
		return nil // only the end of ctx
	}
	n.recall()
	if err := n.addControllers(); err != nil {
		return err
	}
	log.Info("at work")
	return nil
}

// served asks whether the API server serves every kind that is needed.
func (n *network) served(ctx context.Context) error {
	for _, kind := range []client.ObjectList{
		&networkingv1.ServiceEntryList{}, &networkingv1.DestinationRuleList{}, &networkingv1.GatewayList{},
		&networkingv1.VirtualServiceList{}, &securityv1.AuthorizationPolicyList{}, &securityv1.PeerAuthenticationList{},
	} {
		if err := n.live.List(ctx, kind, client.Limit(1)); err != nil {
			return err
		}
	}
	return n.lookForAPIServers(ctx)
}

func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the end of ctx is no error
	}
	return err
}

// recall learns from the cluster what this agent made before it started: addresses and imports.
func (n *network) recall() {
	var others, more []*networkingv1.ServiceEntry
	for o := range n.held.Each(&networkingv1.ServiceEntry{}, "") {
		switch e := o.(*networkingv1.ServiceEntry); {
		case !isOurs(e):
			others = append(others, e)
		case len(e.Spec.Hosts) == 1 && federation.IsOnward(e.Spec.Hosts[0]):
			more = append(more, e)
		case len(e.Spec.Hosts) == 1:
			n.addresses.claim(e.Spec.Hosts[0], e.Spec.Addresses)
			if isPrefixed(e.Annotations[v1alpha1.AnnotationDestination]) {
				continue
			}
			if host := e.Spec.Hosts[0]; federation.IsShortHostname(host) {
				n.imports.also(e.Annotations[v1alpha1.AnnotationDestination], host)
			} else {
				n.imports.recall(e.Annotations[v1alpha1.AnnotationDestination], host, sizeOf(e))
			}
		}
	}
	for _, e := range more {
		n.imports.recall(e.Annotations[v1alpha1.AnnotationDestination], "", sizeOf(e))
	}
	for _, kind := range kindsOfImports()[1:] {
		for r := range n.held.Each(kind, "") {
			if destination := r.GetAnnotations()[v1alpha1.AnnotationDestination]; isOurs(r) && !isPrefixed(destination) {
				n.imports.recall(destination, "", sizeOf(r))
			}
		}
	}
	for _, e := range others {
		n.addresses.reserve(client.ObjectKeyFromObject(e).String(), e.Spec.Addresses)
	}
}

// exportsOf returns the exports of an own mesh. The caller holds n.mu.
func (n *network) exportsOf(mesh string) *federation.Exports {
	e := n.exports[mesh]
	if e == nil {
		e = &federation.Exports{}
		n.exports[mesh] = e
	}
	return e
}
