package meshctl

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
		Long: `Removes the agent from the member cluster, then the KubernetesCluster from the hub, and with it the namespace, the identity and
the rights of the agent.

The member's Secret cacerts stays: without it, istiod would make up a root of its own at its next start, and proxies would stop
trusting each other. From then on nobody renews it.

With --force a member that cannot be reached is left as it is, and what is left in it is told.`,
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
			if err := c.removeAgent(ctx, name); err != nil {
				var usage usageError
				switch {
				case errors.As(err, &usage) && (c.memberGiven() || !force):
					return err
				case !force:
					return fmt.Errorf("%w; nothing was changed in the hub; to leave the member as it is, use --force", err)
				}
				c.progress.did("The member cluster was left as it is: %v", err)
				c.progress.did("When it is at hand: helm uninstall %s -n %s; kubectl delete namespace %s", charts.Agent, v1alpha1.AgentNamespace, v1alpha1.AgentNamespace)
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
	cmd.Flags().BoolVar(&force, "force", false, "go on if the member cluster cannot be reached or is not given")
	return cmd
}

// removeAgent removes the agent of the named cluster from the member cluster.
func (c *cli) removeAgent(ctx context.Context, name string) error {
	member, err := c.member()
	if err != nil {
		return err
	}
	other, err := member.agentOf(ctx)
	if err != nil {
		return err
	}
	if other != "" && other != name {
		return usagef("the agent in the member cluster is that of cluster %q, not %q; see --member-context", other, name)
	}
	if err := member.remove(ctx, charts.Agent, v1alpha1.AgentNamespace); err != nil {
		return err
	}
	secret := &corev1.Secret{}
	secret.Namespace, secret.Name = v1alpha1.AgentNamespace, credentialSecret
	if err := client.IgnoreNotFound(member.Delete(ctx, secret)); err != nil {
		return err
	}
	// The namespace goes if meshctl made it, and with it the agent's own Secrets.
	ns := &corev1.Namespace{}
	err = member.Get(ctx, client.ObjectKey{Name: v1alpha1.AgentNamespace}, ns)
	if err == nil && ns.Labels[v1alpha1.LabelManagedBy] == owner && ns.DeletionTimestamp == nil {
		err = member.Delete(ctx, ns, client.Preconditions{UID: &ns.UID})
	}
	if client.IgnoreNotFound(err) != nil {
		return err
	}
	c.progress.did("The agent is removed from the member cluster")
	return nil
}

// forget deletes the KubernetesCluster and waits until the hub has taken away what goes with it.
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
		return "waiting for the hub to take away the rights of the agent: see that isthmus-hub runs in namespace " + key.Namespace, err
	}, changesOf(&v1alpha1.KubernetesClusterList{}, client.InNamespace(key.Namespace), client.MatchingFields{"metadata.name": key.Name}))
}
