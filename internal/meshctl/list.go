package meshctl

import (
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
)

func newClusterList(c *cli) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the registered clusters",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := c.waiting(cmd)
			defer cancel()
			hub, err := c.hub()
			if err != nil {
				return err
			}
			clusters := &v1alpha1.KubernetesClusterList{}
			if err := hub.List(ctx, clusters, client.InNamespace(c.namespace)); err != nil {
				return hub.installed(err)
			}
			clusters.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("KubernetesClusterList"))
			if done, err := output.structured(c.Out, clusters); done {
				return err
			}
			meshes := &v1alpha1.MeshList{}
			if err := hub.List(ctx, meshes); err != nil {
				return err
			}
			count := map[string]int{}
			for _, m := range meshes.Items {
				count[m.Namespace]++
			}
			var rows [][]any
			for _, kc := range clusters.Items {
				connected := meta.FindStatusCondition(kc.Status.Conditions, v1alpha1.ConditionConnected)
				ready := meta.FindStatusCondition(kc.Status.Conditions, v1alpha1.ConditionReady)
				namespace := kube.ClusterNamespace(kc.Name)
				message := ""
				if connected != nil && connected.Status != metav1.ConditionTrue {
					message = connected.Message
				}
				rows = append(rows, []any{kc.Name, status(connected), status(ready), kc.Status.AgentVersion, count[namespace],
					age(kc.CreationTimestamp), namespace, kc.Spec.ClusterDomain, message})
			}
			return output.table(c.Out, []metav1.TableColumnDefinition{
				column("NAME", 0), column("CONNECTED", 0), column("READY", 0), column("AGENT", 0), column("MESHES", 0), column("AGE", 0),
				column("NAMESPACE", 1), column("DOMAIN", 1), column("MESSAGE", 1),
			}, rows)
		},
	}
	output.add(cmd, "table", "wide", "json", "yaml")
	return cmd
}

// status of a condition in a table.
func status(c *metav1.Condition) string {
	if c == nil {
		return string(metav1.ConditionUnknown)
	}
	return string(c.Status)
}
