package meshctl

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/charts"
)

func newUninstall(c *cli) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove the hub",
		Long: `Removes the hub from the cluster of --context, and its rights and admission policies. The kinds of Isthmus, VirtualMeshes and
the Secrets with the roots' keys stay: with them, another ` + "`meshctl install`" + ` goes on where this one ended. The meshes go on with
the certificates that they have, which nobody renews meanwhile.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := c.waiting(cmd)
			defer cancel()
			hub, err := c.hub()
			if err != nil {
				return err
			}
			registered := &v1alpha1.KubernetesClusterList{}
			if err := hub.List(ctx, registered, client.InNamespace(c.namespace)); err != nil && !meta.IsNoMatchError(err) {
				return err
			}
			if len(registered.Items) > 0 && !force {
				var names []string
				for _, kc := range registered.Items {
					names = append(names, kc.Name)
				}
				return fmt.Errorf("clusters are registered: %s; run `meshctl cluster deregister` for each, or use --force and leave their agents without a hub",
					strings.Join(names, ", "))
			}
			for _, chart := range []string{charts.Hub, charts.CRDs} {
				if err := hub.remove(ctx, chart, c.namespace); err != nil {
					return err
				}
			}
			c.progress.did("The hub is removed. VirtualMeshes and the roots in namespace %s stay.", c.namespace)
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "also if clusters are registered")
	return cmd
}
