// Package meshctl is the command line of Isthmus. It puts the hub and the agents into clusters, registers clusters, and
// tells people how things stand. Nothing that runs in a cluster depends on it, and it keeps no state: everything it knows
// is in the clusters, so any command may be stopped and run again.
//
// Exit codes: 0 success; 1 the command failed, or `meshctl check` found errors; 2 the command line was wrong.
package meshctl

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// errFound ends a command that has said already what is wrong.
var errFound = errors.New("errors were found")

// usageError is a wrong command line.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// cli is what all commands share: the global flags and where to print.
type cli struct {
	genericiooptions.IOStreams
	progress *progress

	kubeconfig, context             string
	memberKubeconfig, memberContext string
	namespace                       string
	timeout                         time.Duration
}

// Run runs the command line args of the program named program (argv[0]) and returns the exit code.
func Run(ctx context.Context, program string, args []string, streams genericiooptions.IOStreams) int {
	log.SetLogger(logr.Discard()) // what libraries log is nothing for the user
	klog.SetLogger(logr.Discard())
	cmd := newRoot(program, streams)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errFound):
		return exitFailed
	case errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command"):
		fmt.Fprintf(streams.ErrOut, "Error: %v\nSee `%s --help`.\n", err, cmd.CommandPath())
		return exitUsage
	default:
		fmt.Fprintln(streams.ErrOut, "Error:", err)
		return exitFailed
	}
}

func newRoot(program string, streams genericiooptions.IOStreams) *cobra.Command {
	c := &cli{IOStreams: streams, progress: newProgress(streams.ErrOut)}
	cmd := &cobra.Command{
		Use:   "meshctl",
		Short: "Join the Istio meshes of many clusters into one virtual mesh",
		Long: `meshctl installs Isthmus, registers clusters with it and shows how things stand.

--context is always the cluster of the hub, --member-context the cluster that is spoken of.
Exit codes: 0 success, 1 failure (or check found errors), 2 wrong command line.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	// kubectl finds plug-ins by the name kubectl-meshctl; the help then shows what was typed.
	if strings.HasPrefix(filepath.Base(program), "kubectl-") {
		cmd.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl meshctl"}
	}
	cmd.SetIn(streams.In)
	cmd.SetOut(streams.Out)
	cmd.SetErr(streams.ErrOut)
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })

	f := cmd.PersistentFlags()
	f.StringVar(&c.kubeconfig, "kubeconfig", "", "kubeconfig file; defaults to $KUBECONFIG or ~/.kube/config")
	f.StringVar(&c.context, "context", "", "context of the hub's cluster; defaults to the current context")
	f.StringVarP(&c.namespace, "namespace", "n", v1alpha1.SystemNamespace, "namespace of the hub")
	f.DurationVar(&c.timeout, "timeout", 5*time.Minute, "how long to wait for something to happen")
	f.BoolVarP(&c.progress.verbose, "verbose", "v", false, "say what Helm does")
	_ = cmd.RegisterFlagCompletionFunc("context", c.completeContext)

	cmd.AddCommand(
		newInstall(c),
		newUninstall(c),
		group("cluster", "Register clusters, list them, part with them",
			newClusterRegister(c), newClusterDeregister(c), newClusterEvict(c), newClusterList(c), newClusterRotateCredentials(c)),
		group("mesh", "Act on one mesh", newMeshRestart(c), newMeshRelease(c), newMeshTakeover(c)),
		group("gateway", "The gateways of a member for limited trust", newGatewayInstall(c), newGatewayUninstall(c)),
		group("rotation", "Replace the root of a virtual mesh, and see how far that has come",
			newRotationStatus(c), newRotationStart(c), newRotationApprove(c), newRotationRollback(c)),
		newCheck(c),
		newDescribe(c),
		newDebug(c),
		newConvert(c),
		newVersion(c),
	)
	return cmd
}

// group is a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q for %q", args[0], cmd.CommandPath())
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(commands...)
	return cmd
}

// oneArgument is how commands say that they take a name.
func oneArgument(cmd *cobra.Command, args []string) error {
	if err := cobra.ExactArgs(1)(cmd, args); err != nil {
		return usagef("%w: meshctl %s", err, strings.TrimPrefix(cmd.UseLine(), "meshctl "))
	}
	return nil
}

// memberFlags adds the flags that name the member cluster.
func (c *cli) memberFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.memberContext, "member-context", "", "context of the member cluster")
	f.StringVar(&c.memberKubeconfig, "member-kubeconfig", "", "kubeconfig file of the member cluster; defaults to --kubeconfig")
	_ = cmd.RegisterFlagCompletionFunc("member-context", c.completeContext)
}

func (c *cli) completeContext(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	flags := genericclioptions.NewConfigFlags(false)
	flags.KubeConfig = &c.kubeconfig
	config, err := flags.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for name := range config.Contexts {
		names = append(names, name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// waiting bounds what a command waits for.
func (c *cli) waiting(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	return context.WithTimeout(cmd.Context(), c.timeout)
}
