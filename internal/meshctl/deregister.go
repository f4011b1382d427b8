package meshctl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/charts"
	"github.com/isthmus-mesh/isthmus/internal/kube"
)

func newClusterDeregister(c *cli) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "deregister NAME",
		Short: "Part with a cluster: remove its agent, and what the hub has of it",
		Long: `Removes the agent from the member cluster and what it made there of Istio's kinds: hosts of other clusters, gateways for them, and
policies. Then removes the KubernetesCluster from the hub, and with it the namespace, the identity and the rights of the agent. The
VirtualMeshes let go of the cluster's meshes, and the other members of its services.

The member's Secret cacerts stays: without it, istiod would make up a root of its own at its next start, and proxies would stop
trusting each other. From then on nobody renews it.

It is refused where the hub does not know the cluster whose agent the member has, and where the member has no agent while that of
the cluster is connected: then --context or --member-context names another cluster than you mean.

With --force a member that cannot be reached is left as it is, and what is left in it is told; and hub and member need not agree.`,
		Args: oneArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := c.waiting(cmd)
			defer cancel()
			hub, err := c.hub()
			if err != nil {
				return err
			}
			name := args[0]
			key := client.ObjectKey{Namespace: c.namespace, Name: name}
			if err := client.IgnoreNotFound(hub.Get(ctx, key, &v1alpha1.KubernetesCluster{})); err != nil {
				return hub.installed(err)
			}
			certificates := &v1alpha1.IssuedCertificateList{}
			if err := hub.List(ctx, certificates, client.InNamespace(kube.ClusterNamespace(name))); err != nil {
				return hub.installed(err)
			}
			if err := c.removeAgent(ctx, hub, key, force); err != nil {
				var usage usageError
				switch {
				case errors.As(err, &usage) && (c.memberGiven() || !force):
					return err
				case !force:
					return fmt.Errorf("%w; nothing was changed in the hub; to leave the member as it is, use --force", err)
				}
				c.progress.did("The member cluster was left as it is: %v", err)
				c.progress.did("When it is at hand: helm uninstall %s -n %s; kubectl delete namespace %s; %s", charts.Agent, v1alpha1.AgentNamespace, v1alpha1.AgentNamespace, byHand())
			}
			if err := hub.forget(ctx, key); err != nil {
				return err
			}
			c.progress.did("The hub has forgotten cluster %s", name)
			for _, ic := range certificates.Items {
				if cert := ic.Status.Certificate; cert != nil {
					ref := ic.Spec.IssuedCertificateSecret
					c.progress.did("Secret %s/%s of the member stays. Its certificate ends on %s and is not renewed: give istiod another CA before.",
						ref.Namespace, ref.Name, cert.NotAfter.UTC().Format(time.DateOnly))
				}
			}
			return nil
		},
	}
	c.memberFlags(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "go on if the member cluster cannot be reached or is not given, or hub and member do not agree")
	return cmd
}

// removeAgent removes the agent of a hub's cluster from the member cluster.
func (c *cli) removeAgent(ctx context.Context, hub *cluster, key client.ObjectKey, force bool) error {
	member, err := c.member()
	if err != nil {
		return err
	}
	other, err := member.agentOf(ctx)
	if err != nil {
		return err
	}
	if other != "" && other != key.Name {
		return usagef("the agent in the member cluster is that of cluster %q, not %q; see --member-context", other, key.Name)
	}
	if !force {
		if err := hub.agrees(ctx, key, other != ""); err != nil {
			return err
		}
	}
	if err := member.remove(ctx, charts.Agent, v1alpha1.AgentNamespace); err != nil {
		return err
	}
	if err := member.removeNetwork(ctx); err != nil {
		return err
	}
	secret := &corev1.Secret{}
	secret.Namespace, secret.Name = v1alpha1.AgentNamespace, credentialSecret
	if err := client.IgnoreNotFound(member.Delete(ctx, secret)); err != nil {
		return err
	}
	// The namespace goes if meshctl made it, and with it the agent's own Secrets.
	if err := member.removeNamespace(ctx, v1alpha1.AgentNamespace); err != nil {
		return err
	}
	c.progress.did("The agent is removed from the member cluster")
	return nil
}

// agrees makes sure that the hub knows a cluster whose agent a member has, and that none is connected whose agent is not there. The
// latter is waited for: an agent counts as connected for a while after a call removed it that was broken off then.
func (c *cluster) agrees(ctx context.Context, key client.ObjectKey, hasAgent bool) error {
	return c.until(ctx, func(ctx context.Context) (string, error) {
		kc := &v1alpha1.KubernetesCluster{}
		err := c.Get(ctx, key, kc)
		switch {
		case client.IgnoreNotFound(err) != nil:
			return "", err
		case hasAgent && err != nil:
			return "", c.unknown(key)
		case !hasAgent && kc.DeletionTimestamp == nil && meta.IsStatusConditionTrue(kc.Status.Conditions, v1alpha1.ConditionConnected):
			return fmt.Sprintf("the member cluster has no agent, but that of %s is connected: see that --member-context names its cluster; if the agent was removed just now, wait until it counts as connected no more", key.Name), nil
		}
		return "", nil
	}, changesOf(&v1alpha1.KubernetesClusterList{}, client.InNamespace(key.Namespace), client.MatchingFields{"metadata.name": key.Name}))
}

// unknown is the error of a hub that does not know the cluster whose agent a member has.
func (c *cluster) unknown(key client.ObjectKey) error {
	return usagef("%s has no KubernetesCluster %s in namespace %s, but the member cluster has its agent: see that --context names the hub of the member; to go on nevertheless, use --force",
		c.role, key.Name, key.Namespace)
}

// Values of the label isthmus.dev/managed-by of what the agent makes of Istio's kinds.
const (
	networkManager = "isthmus-agent-network"
	managers       = networkManager + ",isthmus-agent-evidence"
)

// globalDenial is the name of the AuthorizationPolicy that denies what nothing allows.
const globalDenial = "isthmus-global-access"

// networkKinds are what the agent's network part makes, in the order in which it is removed: first nobody comes in any more,
// then nobody goes out, and policies last. A DestinationRule without its host does no harm, a host without its DestinationRule
// would.
var networkKinds = []schema.GroupVersionKind{
	{Group: "networking.istio.io", Version: "v1", Kind: "Gateway"},
	{Group: "networking.istio.io", Version: "v1", Kind: "VirtualService"},
	{Group: "networking.istio.io", Version: "v1", Kind: "ServiceEntry"},
	{Group: "networking.istio.io", Version: "v1", Kind: "DestinationRule"},
	{Group: "security.istio.io", Version: "v1", Kind: "PeerAuthentication"},
	{Group: "security.istio.io", Version: "v1", Kind: "AuthorizationPolicy"},
}

// removeNetwork removes what the agent's network part made, and tells. The agent must be gone.
func (c *cluster) removeNetwork(ctx context.Context) error {
	ours, err := labels.Parse(v1alpha1.LabelManagedBy + " in (" + managers + ")")
	if err != nil {
		return err
	}
	for _, kind := range networkKinds {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(kind)
		err := c.List(ctx, list, client.MatchingLabelsSelector{Selector: ours})
		if meta.IsNoMatchError(err) {
			continue // without Istio's kinds there is nothing
		}
		if err != nil {
			return fmt.Errorf("%s: what the agent has made: %w", c.role, err)
		}
		// The denial before what allows: else requests would be denied for a moment.
		slices.SortStableFunc(list.Items, func(a, b metav1.PartialObjectMetadata) int {
			first := func(o metav1.PartialObjectMetadata) int {
				if o.Name == globalDenial {
					return 0
				}
				return 1
			}
			return first(a) - first(b)
		})
		for i := range list.Items {
			obj := &list.Items[i]
			obj.SetGroupVersionKind(kind)
			c.progress.waits(fmt.Sprintf("removing %s %s/%s", kind.Kind, obj.Namespace, obj.Name))
			if err := client.IgnoreNotFound(c.Delete(ctx, obj, client.Preconditions{UID: &obj.UID})); err != nil {
				return fmt.Errorf("%s: %w", c.role, err)
			}
			c.progress.details("removed %s %s/%s", kind.Kind, obj.Namespace, obj.Name)
		}
		if n := len(list.Items); n > 0 {
			c.progress.did("Removed from the member cluster: %d of kind %s", n, kind.Kind)
		}
	}
	return nil
}

// byHand is the command lines that do what removeNetwork does.
func byHand() string {
	label := fmt.Sprintf(" -A -l '%s in (%s)'", v1alpha1.LabelManagedBy, managers)
	out := []string{"kubectl delete authorizationpolicy.security.istio.io" + label + " --field-selector metadata.name=" + globalDenial}
	for _, kind := range networkKinds {
		out = append(out, "kubectl delete "+strings.ToLower(kind.Kind)+"."+kind.Group+label)
	}
	return strings.Join(out, "; ")
}

// forget deletes the KubernetesCluster and waits until the hub has taken away what goes with it. It does so when no VirtualMesh
// counts on the cluster's meshes any more.
func (c *cluster) forget(ctx context.Context, key client.ObjectKey) error {
	kc := &v1alpha1.KubernetesCluster{}
	kc.Namespace, kc.Name = key.Namespace, key.Name
	if err := client.IgnoreNotFound(c.Delete(ctx, kc)); err != nil {
		return err
	}
	return c.until(ctx, func(ctx context.Context) (string, error) {
		err := c.Get(ctx, key, &v1alpha1.KubernetesCluster{})
		if apierrors.IsNotFound(err) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		virtualMeshes := &v1alpha1.VirtualMeshList{}
		if err := c.List(ctx, virtualMeshes, client.InNamespace(key.Namespace)); err != nil {
			return "", err
		}
		for i := range virtualMeshes.Items {
			if waitingFor := countsOn(&virtualMeshes.Items[i], kube.ClusterNamespace(key.Name)); waitingFor != "" {
				return waitingFor, nil
			}
		}
		return "waiting for the hub to take away the rights of the agent: see that isthmus-hub runs in namespace " + key.Namespace, nil
	},
		changesOf(&v1alpha1.KubernetesClusterList{}, client.InNamespace(key.Namespace), client.MatchingFields{"metadata.name": key.Name}),
		changesOf(&v1alpha1.VirtualMeshList{}, client.InNamespace(key.Namespace)))
}

// countsOn says what is waited for if a VirtualMesh has a mesh of a cluster's namespace for a member; "" if it has none.
func countsOn(vm *v1alpha1.VirtualMesh, namespace string) string {
	if vm.Status.Accepted == nil {
		return ""
	}
	for _, ref := range vm.Status.Accepted.Spec.Meshes {
		if ref.Namespace != namespace {
			continue
		}
		waitingFor := fmt.Sprintf("waiting for VirtualMesh %s to let go of mesh %s: ", vm.Name, ref.Name)
		switch {
		case vm.Spec.Suspend:
			return waitingFor + "unset its spec.suspend"
		case vm.Status.ObservedGeneration == vm.Generation && vm.Status.State == v1alpha1.StateInvalid:
			return waitingFor + "its spec is refused, put it right: " + printable(strings.Join(vm.Status.Errors, "; "))
		}
		return waitingFor + "see that isthmus-hub runs in namespace " + vm.Namespace
	}
	return ""
}
