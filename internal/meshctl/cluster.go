package meshctl

import (
	"context"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/version"
)

var scheme = runtime.NewScheme()

func init() {
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
}

// cluster is a cluster as the user may reach it.
type cluster struct {
	client.WithWatch
	clientset kubernetes.Interface
	config    *rest.Config
	getter    *genericclioptions.ConfigFlags
	// role of the cluster in the command, for messages.
	role     string
	progress *progress
}

// hub connects to the hub's cluster.
func (c *cli) hub() (*cluster, error) {
	return c.connect("the hub's cluster", c.kubeconfig, c.context)
}

// member connects to the member cluster, which has to be named: the current context may be any.
func (c *cli) member() (*cluster, error) {
	if !c.memberGiven() {
		return nil, usagef("--member-context is required: the context of the member cluster")
	}
	kubeconfig := c.memberKubeconfig
	if kubeconfig == "" {
		kubeconfig = c.kubeconfig
	}
	return c.connect("the member cluster", kubeconfig, c.memberContext)
}

func (c *cli) memberGiven() bool { return c.memberContext != "" || c.memberKubeconfig != "" }

func (c *cli) connect(role, kubeconfig, context string) (*cluster, error) {
	getter := genericclioptions.NewConfigFlags(true).WithDiscoveryBurst(300).WithDiscoveryQPS(50)
	getter.KubeConfig, getter.Context = &kubeconfig, &context
	config, err := getter.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", role, err)
	}
	config.QPS, config.Burst = 50, 100
	config.UserAgent = "meshctl/" + version.Version
	config.WarningHandler = rest.NewWarningWriter(c.ErrOut, rest.WarningWriterOptions{Deduplicate: true})
	k, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", role, err)
	}
	clientset, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", role, err)
	}
	return &cluster{WithWatch: k, clientset: clientset, config: config, getter: getter, role: role, progress: c.progress}, nil
}

// serverVersion returns the version of Kubernetes, such as v1.34.1, and an error if it is too old or does not answer.
func (c *cluster) serverVersion() (string, error) {
	info, err := c.clientset.Discovery().ServerVersion()
	if err != nil {
		return "", fmt.Errorf("%s does not answer: %w", c.role, err)
	}
	v, err := utilversion.ParseGeneric(info.GitVersion)
	if err != nil {
		return "", fmt.Errorf("%s: version %q of Kubernetes: %w", c.role, info.GitVersion, err)
	}
	if oldest := supportedKubernetes.oldest; v.LessThan(oldest) {
		return info.GitVersion, fmt.Errorf("%s runs Kubernetes %s; Isthmus needs %s or newer", c.role, info.GitVersion, oldest)
	}
	return info.GitVersion, nil
}

// uid identifies the cluster whatever it is called: it is the UID of its namespace kube-system.
func (c *cluster) uid(ctx context.Context) (types.UID, error) {
	ns := &corev1.Namespace{}
	if err := c.Get(ctx, client.ObjectKey{Name: "kube-system"}, ns); err != nil {
		return "", fmt.Errorf("%s: %w", c.role, err)
	}
	return ns.UID, nil
}

// right is something that the user has to be allowed to do.
type right struct{ verb, group, resource, namespace string }

// may returns an error that names what of rights the user lacks.
func (c *cluster) may(ctx context.Context, rights ...right) error {
	for _, r := range rights {
		resource, subresource, _ := strings.Cut(r.resource, "/")
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: r.verb, Group: r.group, Resource: resource, Subresource: subresource, Namespace: r.namespace,
			},
		}}
		if err := c.Create(ctx, review); err != nil {
			return fmt.Errorf("%s: asking for rights: %w", c.role, err)
		}
		if review.Status.Allowed {
			continue
		}
		what, where := r.resource, "in all namespaces"
		if r.group != "" {
			what += "." + r.group
		}
		if r.namespace != "" {
			where = "in namespace " + r.namespace
		}
		return fmt.Errorf("%s: you may not %s %s %s; use a context with that right", c.role, r.verb, what, where)
	}
	return nil
}

// installed explains an error that comes from the kinds of Isthmus not being known to the cluster.
func (c *cluster) installed(err error) error {
	if meta.IsNoMatchError(err) {
		return fmt.Errorf("%s does not know the kinds of Isthmus; run `meshctl install`, or see that --context names the hub's cluster", c.role)
	}
	return err
}

// agentOf returns the name under which the agent in this cluster was installed; "" if there is none.
func (c *cluster) agentOf(ctx context.Context) (string, error) {
	return c.agentArgument(ctx, "cluster")
}

// agentArgument is the value of a flag of the cluster's agent; "" if there is no agent, or no such flag.
func (c *cluster) agentArgument(ctx context.Context, flag string) (string, error) {
	deployment := &appsv1.Deployment{}
	err := c.Get(ctx, client.ObjectKey{Namespace: v1alpha1.AgentNamespace, Name: v1alpha1.AgentName}, deployment)
	if err != nil {
		return "", client.IgnoreNotFound(err)
	}
	for _, container := range deployment.Spec.Template.Spec.Containers {
		for _, arg := range container.Args {
			if value, ok := strings.CutPrefix(arg, "--"+flag+"="); ok {
				return value, nil
			}
		}
	}
	return "", nil
}

// changes are objects whose changes may end a wait.
type changes struct {
	list client.ObjectList
	opts []client.ListOption
}

func changesOf(list client.ObjectList, opts ...client.ListOption) changes { return changes{list, opts} }

// until calls look at once and after every change of sources, until it says that there is nothing more to wait for or fails.
// If ctx ends first, the error tells what was waited for. A cluster that does not answer for a while is waited for like
// anything else.
func (c *cluster) until(ctx context.Context, look func(context.Context) (waitingFor string, err error), sources ...changes) error {
	start := time.Now()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	changed := make(chan struct{}, 1)
	for _, s := range sources {
		go c.notify(watching, s, changed)
	}
	waitingFor := ""
	for {
		now, err := look(ctx)
		switch {
		case err == nil && now == "":
			return nil
		case err == nil:
			waitingFor = now
		case ctx.Err() == nil && !away(err):
			return err
		case waitingFor == "" || ctx.Err() == nil:
			waitingFor = fmt.Sprintf("%s does not answer: %v", c.role, err)
		}
		c.progress.waits(waitingFor)
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up after %s: %s", time.Since(start).Round(time.Second), waitingFor)
		case <-changed:
		}
	}
}

// notify leaves a notice in changed whenever a watch begins or delivers something. A watch that ends is begun again.
func (c *cluster) notify(ctx context.Context, s changes, changed chan<- struct{}) {
	for ctx.Err() == nil {
		w, err := c.Watch(ctx, s.list.DeepCopyObject().(client.ObjectList), s.opts...)
		if err == nil {
			notice(changed)
			for range w.ResultChan() {
				notice(changed)
			}
			w.Stop()
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second): // not to ask without end a server that has just refused
		}
		notice(changed)
	}
}

// notice leaves one notice in a channel of capacity 1.
func notice(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// away reports an error of a server that may answer again in a while.
func away(err error) bool {
	return utilnet.IsConnectionRefused(err) || utilnet.IsConnectionReset(err) || utilnet.IsProbableEOF(err) || utilnet.IsTimeout(err) ||
		apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) || apierrors.IsServiceUnavailable(err)
}
