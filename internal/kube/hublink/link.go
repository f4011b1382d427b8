package hublink

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	coordinationv1ac "k8s.io/client-go/applyconfigurations/coordination/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/kube/compact"
	"github.com/isthmus-mesh/isthmus/internal/version"
)

// The heartbeat.
const (
	// RenewInterval is how often the Lease is renewed.
	RenewInterval = 10 * time.Second
	// LeaseDuration is for how long a renewal counts.
	LeaseDuration = 40 * time.Second
)

// fieldOwner is the field manager of the Lease.
const fieldOwner = "isthmus-agent-heartbeat"

var connected = prometheus.NewGauge(prometheus.GaugeOpts{
	Name: "isthmus_agent_hub_connected",
	Help: "1 while the hub takes the heartbeat of this agent, otherwise 0.",
})

func init() { metrics.Registry.MustRegister(connected) }

// SetupFunc adds controllers to the agent's manager that need the hub. ctx ends with the link. An error is a mistake in
// the program and ends the manager.
type SetupFunc func(ctx context.Context, mgr ctrl.Manager, hub cluster.Cluster) error

// Options of a Link.
type Options struct {
	// Cluster is the registered name of the agent's cluster.
	Cluster string
	// Identity of this process, for the Lease: the name of its pod.
	Identity string
	// Source of the kubeconfig.
	Source Source
}

// Link is the connection to the hub. It is a Runnable of the agent's manager.
type Link struct {
	opts      Options
	namespace string
	mgr       ctrl.Manager
	hub       cluster.Cluster
	transport *transport
	held      *compact.Set
	log       logr.Logger

	mu       sync.Mutex
	setups   []setup
	annotate func() map[string]string

	credential chan struct{} // another credential is in use

	lastBeat atomic.Int64 // Unix nanoseconds
	synced   atomic.Bool
}

type setup struct {
	f     SetupFunc
	kinds []client.Object
}

// New makes a Link and adds it to the manager.
func New(mgr ctrl.Manager, opts Options) (*Link, error) {
	l := &Link{
		opts:       opts,
		namespace:  kube.ClusterNamespace(opts.Cluster),
		mgr:        mgr,
		transport:  &transport{},
		held:       compact.NewSet(newShares(largeLimit).pack),
		credential: make(chan struct{}, 1),
		log:        mgr.GetLogger().WithName("hublink"),
	}
	cfg := &rest.Config{
		Host:      placeholder,
		Transport: l.transport,
		UserAgent: "isthmus-agent/" + version.Version,
		QPS:       -1, // the hub's API priority and fairness decides
	}
	held, err := cached(l.namespace, l.held)
	if err != nil {
		return nil, err
	}
	l.hub, err = cluster.New(cfg, func(o *cluster.Options) {
		o.Scheme = mgr.GetScheme()
		o.Logger = l.log
		o.MapperProvider = mapper
		o.Cache = held
	})
	if err != nil {
		return nil, err
	}
	return l, mgr.Add(l)
}

// Setup registers a function that is called once, when the hub's cache holds the given kinds. It must be called before
// the manager starts.
func (l *Link) Setup(f SetupFunc, kinds ...client.Object) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.setups = append(l.setups, setup{f, kinds})
}

// Annotate has every heartbeat put on the Lease, beside the agent's version, the annotations that f returns at that time. An
// annotation that is returned no more goes away. It must be called before the manager starts; f is called from another
// goroutine and must not wait for anything.
func (l *Link) Annotate(f func() map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.annotate = f
}

// Refresh has a heartbeat sent at once, as when what it says has changed.
func (l *Link) Refresh() { signal(l.credential) }

// Server is where the hub is at present, "<host>:<port>"; "" if that is not known.
func (l *Link) Server() string {
	to := l.transport.target.Load()
	if to == nil {
		return ""
	}
	port := to.server.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(to.server.Hostname(), port)
}

// Hub is the hub. Its cache holds what lies in the namespace of this cluster; of other clusters, stripped, Meshes and the
// Destinations that are labelled as federated; and VirtualMeshes, AccessPolicies, VirtualDestinations and Settings. So who watches or lists Meshes
// or Destinations says of which namespace. Reads of it fail, or wait for their context, until the hub has answered once.
func (l *Link) Hub() cluster.Cluster { return l.hub }

// Destinations yields those that the hub's cache holds of a namespace, or with "" of all, one after the other: of other
// clusters there are many. They must not be changed, and one may come twice.
func (l *Link) Destinations(namespace string) iter.Seq[*v1alpha1.Destination] {
	return func(yield func(*v1alpha1.Destination) bool) {
		for o := range l.held.Each(&v1alpha1.Destination{}, namespace) {
			if d, ok := o.(*v1alpha1.Destination); ok && !yield(d) {
				return
			}
		}
	}
}

// Namespace is the namespace of this cluster in the hub.
func (l *Link) Namespace() string { return l.namespace }

// Connected reports whether the hub has taken a heartbeat within LeaseDuration.
func (l *Link) Connected() bool {
	return time.Since(time.Unix(0, l.lastBeat.Load())) < LeaseDuration
}

// Synced reports whether the functions given to Setup have been called.
func (l *Link) Synced() bool { return l.synced.Load() }

// Start implements manager.Runnable.
func (l *Link) Start(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	defer running.Wait()
	failed := make(chan error, 2)
	run := func(f func(context.Context) error) {
		running.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				failed <- err
			}
		})
	}
	run(l.followCredential)
	run(l.hub.Start)
	run(l.heartbeat)
	run(l.startControllers)
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		cancel()
		return err
	}
}

// followCredential keeps the transport on the present kubeconfig.
func (l *Link) followCredential(ctx context.Context) error {
	changes, err := l.opts.Source.Changes(ctx)
	if err != nil {
		return fmt.Errorf("watching %s: %w", l.opts.Source, err)
	}
	for said := ""; ; {
		kubeconfig, err := l.opts.Source.Kubeconfig(ctx)
		if err == nil {
			err = l.transport.use(kubeconfig)
		}
		switch {
		case err == nil:
			l.log.Info("using the credential for the hub", "source", l.opts.Source.String())
			said = ""
			signal(l.credential)
		case ctx.Err() == nil && err.Error() != said:
			l.log.Error(err, "no usable credential for the hub", "source", l.opts.Source.String())
			said = err.Error()
		}
		var retry <-chan time.Time
		if err != nil {
			retry = time.After(RenewInterval)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
		case <-retry:
		}
	}
}

// startControllers waits for the hub and calls the functions given to Setup.
func (l *Link) startControllers(ctx context.Context) error {
	l.mu.Lock()
	setups := l.setups
	l.mu.Unlock()
	for _, s := range setups {
		for _, kind := range s.kinds {
			if err := l.informer(ctx, kind); err != nil {
				return nil //nolint:nilerr // only the end of ctx
			}
		}
	}
	for _, s := range setups {
		if err := s.f(ctx, l.mgr, l.hub); err != nil {
			return fmt.Errorf("starting what needs the hub: %w", err)
		}
	}
	l.synced.Store(true)
	l.log.Info("in step with the hub", "namespace", l.namespace)
	return nil
}

// informer fills the hub's cache with a kind, however long it takes. It returns an error only if ctx ends.
func (l *Link) informer(ctx context.Context, kind client.Object) error {
	said := ""
	backoff := wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 6, Cap: 15 * time.Second}
	return backoff.DelayFunc().Until(ctx, true, true, func(ctx context.Context) (bool, error) {
		_, err := l.hub.GetCache().GetInformer(ctx, kind)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			l.log.Info("waiting for the hub", "kind", fmt.Sprintf("%T", kind), "reason", err.Error())
			said = err.Error()
		}
		return err == nil, nil
	})
}

// heartbeat renews the Lease, at once when there is another credential.
func (l *Link) heartbeat(ctx context.Context) error {
	tick := time.NewTicker(RenewInterval)
	defer tick.Stop()
	for up := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-l.credential:
		case <-tick.C:
		}
		err := l.beat(ctx)
		switch {
		case err == nil && !up:
			l.log.Info("connected to the hub")
		case err != nil && up && ctx.Err() == nil:
			l.log.Error(err, "lost the hub; what is applied stays in force")
		}
		up = err == nil
		if up {
			l.lastBeat.Store(time.Now().UnixNano())
			connected.Set(1)
		} else if !l.Connected() {
			connected.Set(0)
		}
	}
}

func (l *Link) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, RenewInterval)
	defer cancel()
	lease := coordinationv1ac.Lease(v1alpha1.AgentName, l.namespace).
		WithAnnotations(l.annotations()).
		WithSpec(coordinationv1ac.LeaseSpec().
			WithHolderIdentity(l.opts.Identity).
			WithLeaseDurationSeconds(int32(LeaseDuration / time.Second)).
			WithRenewTime(metav1.NowMicro()))
	return l.hub.GetClient().Apply(ctx, lease, client.FieldOwner(fieldOwner), client.ForceOwnership)
}

// annotations of the Lease.
func (l *Link) annotations() map[string]string {
	l.mu.Lock()
	f := l.annotate
	l.mu.Unlock()
	out := map[string]string{}
	if f != nil {
		maps.Copy(out, f())
	}
	out[v1alpha1.AnnotationAgentVersion] = version.Version
	return out
}
