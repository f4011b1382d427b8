// Command isthmus-hub is the hub of Isthmus: it judges what users write, registers clusters, signs the intermediates of
// their meshes and sums up what agents report.
package main

import (
	"flag"
	"os"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/hub"
	"github.com/isthmus-mesh/isthmus/internal/version"
)

func main() {
	if err := command().Execute(); err != nil {
		os.Exit(1)
	}
}

func command() *cobra.Command {
	options := hub.Options{Namespace: os.Getenv("POD_NAMESPACE")}
	if options.Namespace == "" {
		options.Namespace = v1alpha1.SystemNamespace
	}
	logging := zap.Options{}
	cmd := &cobra.Command{
		Use:          "isthmus-hub",
		Short:        "The hub of Isthmus",
		Version:      version.Version,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE:         func(*cobra.Command, []string) error { return run(options, zap.New(zap.UseFlagOptions(&logging))) },
	}
	f := cmd.Flags()
	f.StringVar(&options.Namespace, "namespace", options.Namespace, "namespace of the hub; defaults to $POD_NAMESPACE")
	f.StringSliceVar(&options.SecretNamespaces, "secret-namespaces", nil, "further namespaces in which users may keep certificate authorities for VirtualMeshes")
	f.BoolVar(&options.Legacy, "legacy", false, "follow VirtualMeshes of the older generations of the API")
	f.BoolVar(&options.LeaderElection, "leader-elect", true, "let one of several replicas work at a time")
	f.StringVar(&options.MetricsAddress, "metrics-bind-address", ":8080", "address for Prometheus metrics; 0 for none")
	f.StringVar(&options.HealthAddress, "health-probe-bind-address", ":8081", "address for /healthz and /readyz; 0 for none")
	goFlags := flag.NewFlagSet("", flag.ContinueOnError)
	logging.BindFlags(goFlags)
	f.AddGoFlagSet(goFlags)
	return cmd
}

func run(o hub.Options, log logr.Logger) error {
	ctrl.SetLogger(log)
	klog.SetLogger(log)
	log.Info("Starting", "version", version.Version, "namespace", o.Namespace)
	cfg, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	mgr, err := hub.NewManager(cfg, o)
	if err != nil {
		return err
	}
	return mgr.Start(ctrl.SetupSignalHandler())
}
