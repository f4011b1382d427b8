package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/isthmus-mesh/isthmus/lab/internal/build"
	"github.com/isthmus-mesh/isthmus/lab/internal/labs"
	"github.com/isthmus-mesh/isthmus/lab/internal/topology"
)

func up(name *string) *cobra.Command {
	var o topology.Options
	var clusters []string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a lab and wait until everything in it is ready",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			parts, err := build.Default()
			if err != nil {
				return err
			}
			if missing := parts.Missing(); len(missing) > 0 {
				return fmt.Errorf("not built yet: %v; run `lab build` first", missing)
			}
			return runUp(cmd, *name, clusters, o, parts, timeout)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&clusters, "clusters", []string{"management-plane", "remote-cluster"}, "names of the clusters")
	f.BoolVar(&o.ControlPlaneOnly, "control-plane-only", false, "only etcd and kube-apiserver: no nodes, no pods")
	f.BoolVar(&o.NoIstio, "no-istio", false, "no Istio (and no workloads)")
	f.BoolVar(&o.NoWorkloads, "no-workloads", false, "no sample workloads")
	f.BoolVar(&o.IstioDefaults, "istio-defaults", false, "leave the flags for live rotation of roots as Istio has them: off")
	f.BoolVar(&o.KubeletDefaults, "kubelet-defaults", false, "leave the kubelets' sync periods as Kubernetes has them: slow")
	f.IntVar(&o.IstiodReplicas, "istiod-replicas", 0, "number of istiod's pods (default 1)")
	f.StringToStringVar(&o.TrustDomains, "trust-domain", nil, "CLUSTER=DOMAIN for clusters whose trust domain is not "+topology.DefaultTrustDomain)
	f.DurationVar(&timeout, "timeout", 5*time.Minute, "when to give up")
	return cmd
}

func runUp(cmd *cobra.Command, name string, clusters []string, o topology.Options, parts build.Parts, timeout time.Duration) error {
	interrupted := cmd.Context()
	ctx, cancel := context.WithTimeoutCause(interrupted, timeout, fmt.Errorf("not ready after %s (--timeout)", timeout))
	defer cancel()
	say := timer(cmd.OutOrStdout())
	l, err := labs.Up(ctx, name, clusters, o, parts, say)
	switch {
	case err == nil:
		say("", fmt.Sprintf("lab %q is up: eval \"$(lab env --name %s)\"", name, name))
		return nil
	case interrupted.Err() != nil && l != nil:
		fmt.Fprintln(cmd.ErrOrStderr(), "interrupted: taking the lab down again")
		return errors.Join(errors.New("interrupted"), labs.Down(name))
	case l != nil:
		return fmt.Errorf("%w\nthe lab is left as it is: logs are below %s, `lab down --name %s` removes it", err, l.Dir(), name)
	}
	return err
}

func down(name *string) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Remove a lab, with everything of it on this machine",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if all {
				return downAll(cmd)
			}
			return downOne(cmd, *name)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "remove every lab")
	return cmd
}

func downAll(cmd *cobra.Command) error {
	names, err := labs.Names()
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range names {
		errs = append(errs, downOne(cmd, n))
	}
	return errors.Join(errs...)
}

func downOne(cmd *cobra.Command, name string) error {
	say := timer(cmd.OutOrStdout())
	err := labs.Down(name)
	if errors.Is(err, labs.ErrNotFound) {
		say("", fmt.Sprintf("there is no lab %q", name))
		return nil
	}
	if err == nil {
		say("", fmt.Sprintf("lab %q is down", name))
	}
	return err
}

// timer prints one line per step, with the seconds since it was made.
func timer(w io.Writer) labs.Progress {
	begin := time.Now()
	return func(cluster, reached string) {
		if cluster != "" {
			cluster += ": "
		}
		fmt.Fprintf(w, "%6.1fs  %s%s\n", time.Since(begin).Seconds(), cluster, reached)
	}
}
