package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/isthmus-mesh/isthmus/lab/internal/cluster"
	"github.com/isthmus-mesh/isthmus/lab/internal/labs"
	"github.com/isthmus-mesh/isthmus/lab/internal/network"
	"github.com/isthmus-mesh/isthmus/lab/internal/node"
)

func kill(name *string) *cobra.Command {
	return component(name, "kill COMPONENT", "Kill a component (SIGKILL) and keep it down", (*node.Control).Kill)
}

func restart(name *string) *cobra.Command {
	return component(name, "restart COMPONENT", "Bring a component back, killing it first if it runs", (*node.Control).Restart)
}

const components = "Components are etcd, kube-apiserver, containerd, kube-controller-manager, kube-scheduler, kubelet, kube-proxy\n" +
	"and load-balancer. One that ends without having been killed by this command is started again by the node."

func component(name *string, use, short string, act func(*node.Control, context.Context, string) error) *cobra.Command {
	var in string
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Long:  short + ".\n\n" + components,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return each(*name, in, func(c cluster.Cluster) error {
				return act(node.NewControl(c.Dir), cmd.Context(), args[0])
			})
		},
	}
	clusterFlag(cmd, &in, "in which cluster (default: in all)")
	return cmd
}

func partition(name *string) *cobra.Command {
	var in, from string
	var apiServer bool
	cmd := &cobra.Command{
		Use:   "partition --cluster CLUSTER",
		Short: "Drop all packets between a cluster and others, until `lab heal`",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := labs.Open(*name)
			if err != nil {
				return err
			}
			c, err := l.Cluster(in)
			if err != nil {
				return err
			}
			others := l.Others(in)
			if from != "" {
				other, err := l.Lab.Cluster(from)
				if err != nil {
					return err
				}
				others = append(others[:0], other)
			}
			var errs []error
			for _, other := range others {
				errs = append(errs, network.Cut(cmd.Context(), c.InNetwork, other, apiServer))
			}
			return errors.Join(errs...)
		},
	}
	clusterFlag(cmd, &in, "which cluster to cut off")
	_ = cmd.MarkFlagRequired("cluster")
	cmd.Flags().StringVar(&from, "from", "", "from which other cluster (default: from all)")
	cmd.Flags().BoolVar(&apiServer, "api-server", false, "drop only what goes to the API servers of the others: --cluster cannot reach that of --from")
	return cmd
}

func heal(name *string) *cobra.Command {
	var in string
	cmd := &cobra.Command{
		Use:   "heal",
		Short: "End what `lab partition` began",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return each(*name, in, func(c cluster.Cluster) error { return network.Heal(cmd.Context(), c.InNetwork) })
		},
	}
	clusterFlag(cmd, &in, "which cluster (default: all)")
	return cmd
}

func clusterFlag(cmd *cobra.Command, cluster *string, usage string) {
	cmd.Flags().StringVar(cluster, "cluster", "", usage)
}

// each does something in the named cluster of a lab, or in all.
func each(lab, cluster string, do func(cluster.Cluster) error) error {
	l, err := labs.Open(lab)
	if err != nil {
		return err
	}
	cs, err := l.Select(cluster)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range cs {
		errs = append(errs, do(c))
	}
	return errors.Join(errs...)
}
