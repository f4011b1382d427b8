package meshctl

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/hub/registration"
	"github.com/isthmus-mesh/isthmus/internal/kube"
)

func newClusterRotateCredentials(c *cli) *cobra.Command {
	var at hubFlags
	cmd := &cobra.Command{
		Use:   "rotate-credentials NAME",
		Short: "Revoke the credentials of a cluster's agent and give it a new one",
		Long: `Deletes the Secret in the hub to which every token of the agent is bound, so that all of them are refused from then on, waits
until the hub has made it anew, and writes a kubeconfig with a new token into the member. The agent goes on by itself.`,
		Args: oneArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := c.waiting(cmd)
			defer cancel()
			name := args[0]
			hub, err := c.hub()
			if err != nil {
				return err
			}
			member, err := c.member()
			if err != nil {
				return err
			}
			if err := member.hasAgent(ctx, name); err != nil {
				return err
			}
			endpoint, err := at.endpoint(ctx, hub, member)
			if err != nil {
				return err
			}
			// Whether the member can be written is found out before its credential is revoked.
			if err := member.may(ctx, right{"patch", "", "secrets", restrictedNamespace(v1alpha1.AgentNamespace).Name}); err != nil {
				return err
			}
			if err := hub.revoke(ctx, name); err != nil {
				return err
			}
			c.progress.did("All credentials of the agent of %s are revoked", name)
			secret, err := credential(ctx, hub, endpoint, name)
			if err != nil {
				return err
			}
			if err := member.store(ctx, secret); err != nil {
				return fmt.Errorf("%s: Secret %s/%s: %w; run this command again", member.role, secret.Namespace, secret.Name, err)
			}
			c.progress.did("The agent has a new credential for the hub at %s", endpoint.server)
			return nil
		},
	}
	c.memberFlags(cmd)
	at.add(cmd)
	return cmd
}

// revoke deletes the Secret to which the agent's tokens are bound and waits for its successor.
func (c *cluster) revoke(ctx context.Context, cluster string) error {
	old, err := c.anchor(ctx, cluster)
	if apierrors.IsNotFound(err) {
		if err := c.Get(ctx, client.ObjectKey{Name: kube.ClusterNamespace(cluster)}, &corev1.Namespace{}); err != nil {
			return fmt.Errorf("cluster %s is not registered: %w", cluster, err)
		}
	} else if err != nil {
		return err
	} else if err := client.IgnoreNotFound(c.Delete(ctx, old, client.Preconditions{UID: &old.UID})); err != nil {
		return err
	}
	return c.until(ctx, func(ctx context.Context) (string, error) {
		anchor, err := c.anchor(ctx, cluster)
		if apierrors.IsNotFound(err) || err == nil && anchor.UID == old.UID {
			return fmt.Sprintf("waiting for the hub to make Secret %s/%s anew: see that isthmus-hub runs", kube.ClusterNamespace(cluster), registration.CredentialName), nil
		}
		return "", err
	}, c.watchAnchor(cluster))
}

// watchAnchor watches the Secret to which the agent's tokens are bound, but not its content.
func (c *cluster) watchAnchor(cluster string) changes {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	return changesOf(list, client.InNamespace(kube.ClusterNamespace(cluster)), client.MatchingFields{"metadata.name": registration.CredentialName})
}
