package meshctl

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/charts"
	"github.com/isthmus-mesh/isthmus/internal/legacy"
)

func newUninstall(c *cli) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove the hub",
		Long: `Removes the hub from the cluster of --context, and its rights and admission policies. The kinds of Isthmus, VirtualMeshes and
the Secrets with the roots' keys stay: with them, another ` + "`meshctl install`" + ` goes on where this one ended. The meshes go on with
the certificates that they have, which nobody renews meanwhile. Only a hub lets a deleted VirtualMesh go: delete before what is not to
stay. Objects of older generations of the API can be deleted afterwards; what has followed them stays.`,
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
			if err := hub.releaseLegacy(ctx); err != nil {
				return err
			}
			c.progress.did("The hub is removed. VirtualMeshes and the roots in namespace %s stay.", c.namespace)
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "also if clusters are registered")
	return cmd
}

// releaseLegacy takes the hub's finalizer off the objects of older generations of the API, which nobody follows any more.
func (c *cluster) releaseLegacy(ctx context.Context) error {
	for _, g := range legacy.Generations() {
		list := &unstructured.UnstructuredList{}
		list.SetAPIVersion(g.APIVersion())
		list.SetKind("VirtualMeshList")
		if err := c.List(ctx, list); meta.IsNoMatchError(err) {
			continue
		} else if err != nil {
			return err
		}
		for i := range list.Items {
			was := list.Items[i].DeepCopy()
			if !controllerutil.RemoveFinalizer(&list.Items[i], v1alpha1.Finalizer) {
				continue
			}
			if err := client.IgnoreNotFound(c.Patch(ctx, &list.Items[i], client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{}), client.FieldOwner(owner))); err != nil {
				return err
			}
		}
	}
	return nil
}
