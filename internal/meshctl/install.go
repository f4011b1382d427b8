package meshctl

import (
	"github.com/spf13/cobra"

	"github.com/isthmus-mesh/isthmus/charts"
	"github.com/isthmus-mesh/isthmus/internal/version"
)

func newInstall(c *cli) *cobra.Command {
	var flags chartFlags
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install or upgrade the hub",
		Long: `Installs the kinds of Isthmus and the hub in the cluster of --context, from the Helm charts isthmus-crds and isthmus
that are part of meshctl. Run again, it upgrades both; values given earlier stay unless they are given anew.`,
		Example: `  meshctl install --context hub
  meshctl install --context hub --image-registry registry.example.com/isthmus --set replicas=2`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := c.waiting(cmd)
			defer cancel()
			hub, err := c.hub()
			if err != nil {
				return err
			}
			values, err := flags.merged(nil)
			if err != nil {
				return err
			}
			kubernetes, err := hub.serverVersion()
			if err != nil {
				return err
			}
			kinds := map[string]any{}
			if legacy, given := values["legacy"]; given { // the kinds, and who acts on them
				kinds["legacy"] = legacy
			}
			releases := []release{{charts.CRDs, c.namespace, kinds}, {charts.Hub, c.namespace, values}}
			if dryRun {
				for _, r := range releases {
					rendered, err := r.render(kubernetes)
					if err != nil {
						return err
					}
					manifests(c.Out, "chart "+r.chart+", namespace "+r.namespace, rendered)
				}
				return nil
			}
			if err := hub.may(ctx,
				right{"create", "apiextensions.k8s.io", "customresourcedefinitions", ""},
				right{"create", "rbac.authorization.k8s.io", "clusterroles", ""},
				right{"create", "admissionregistration.k8s.io", "validatingadmissionpolicies", ""},
				right{"create", "apps", "deployments", c.namespace},
				right{"create", "", "secrets", c.namespace},
			); err != nil {
				return err
			}
			for _, r := range releases {
				if err := hub.apply(ctx, r); err != nil {
					return err
				}
			}
			c.progress.did("The hub is ready: Isthmus %s in namespace %s, Kubernetes %s", version.Version, c.namespace, kubernetes)
			return nil
		},
	}
	flags.add(cmd, charts.Hub)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be applied, and change nothing")
	return cmd
}
