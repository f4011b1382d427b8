// Command isthmus-agent is the agent of a member cluster: it reports what is in the mesh there, holds the mesh's
// certificates and carries out the hub's orders.
package main

import (
	"flag"
	"os"
	"runtime/debug"
	"strings"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent"
	"github.com/isthmus-mesh/isthmus/internal/agent/certificates"
	"github.com/isthmus-mesh/isthmus/internal/agent/network"
	"github.com/isthmus-mesh/isthmus/internal/agent/vault"
	"github.com/isthmus-mesh/isthmus/internal/version"
)

func main() {
	if err := command().Execute(); err != nil {
		os.Exit(1)
	}
}

func command() *cobra.Command {
	options := agent.Options{Namespace: os.Getenv("POD_NAMESPACE"), Identity: os.Getenv("POD_NAME")}
	if options.Namespace == "" {
		options.Namespace = v1alpha1.AgentNamespace
	}
	if options.Identity == "" {
		options.Identity, _ = os.Hostname()
	}
	logging := zap.Options{}
	cmd := &cobra.Command{
		Use:          "isthmus-agent",
		Short:        "The agent of a cluster that is a member of an Isthmus virtual mesh",
		Version:      version.Version,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE:         func(*cobra.Command, []string) error { return run(options, zap.New(zap.UseFlagOptions(&logging))) },
	}
	f := cmd.Flags()
	f.StringVar(&options.Cluster, "cluster", "", "name under which this cluster is registered in the hub (required)")
	f.StringVar(&options.Namespace, "namespace", options.Namespace, "namespace of the agent; defaults to $POD_NAMESPACE")
	f.StringVar(&options.HubKubeconfigSecret, "hub-kubeconfig-secret", "isthmus-hub-credential", "Secret in the agent's namespace with the kubeconfig for the hub, whose token the agent renews")
	f.StringVar(&options.HubKubeconfigFile, "hub-kubeconfig-file", "", "file with the kubeconfig for the hub, in place of the Secret; somebody else renews what is in it")
	f.StringSliceVar(&options.IstioNamespaces, "istio-namespaces", []string{"istio-system"}, "root namespaces of Istio in this cluster")
	f.TextVar(&options.AddressRange, "federation-address-range", network.DefaultAddressRange, "range of the addresses that federated hostnames get in this cluster; nothing else may use it")
	f.StringSliceVar(&options.ShortHostnameClusters, "short-hostname-clusters", nil, "clusters whose services may have short hostnames here, SERVICE.NAMESPACE.CLUSTER, although these could be names of the internet")
	f.IntVar(&options.MaxImports, "max-imports", network.DefaultMaxImports, "how many destinations of one other cluster are imported")
	f.DurationVar(&options.GatewayProbeInterval, "gateway-probe-interval", network.DefaultGatewayProbeInterval, "how often the way to other meshes is tried, by a TLS handshake through their gateways; 0 for never")
	f.DurationVar(&options.KubeletProjection, "kubelet-projection", certificates.DefaultProjection, "how late kubelets of this cluster may project a changed ConfigMap into pods that run")
	f.StringSliceVar(&options.Vault.Servers, "vault-servers", nil, "Vault servers that the agent may ask and show a token to, such as https://vault.example.com:8200; what else a VirtualMesh names is refused")
	f.StringVar(&options.Vault.Audience, "vault-audience", vault.DefaultAudience, "audience of the tokens by which the agent logs in to Vault")
	f.StringSliceVar(&options.Vault.ServiceAccounts, "vault-service-accounts", nil, "ServiceAccounts of the agent's namespace by whose tokens it may log in to Vault")
	f.StringVar(&options.Vault.TokenDir, "vault-token-dir", vault.DefaultTokenDir, "directory with a token for Vault, below which mountedSaPath of a VirtualMesh lies")
	f.StringVar(&options.MetricsAddress, "metrics-bind-address", ":8080", "address for Prometheus metrics; 0 for none")
	f.StringVar(&options.HealthAddress, "health-probe-bind-address", ":8081", "address for /healthz and /readyz; 0 for none")
	goFlags := flag.NewFlagSet("", flag.ContinueOnError)
	logging.BindFlags(goFlags)
	f.AddGoFlagSet(goFlags)
	return cmd
}

// gcPercent is how far the heap may grow between collections, unless GOGC is set. Nearly all of it are caches that live as long
// as what they show, so that Go's default would have the agent take twice the memory of what it holds; it has little else to do
// than to collect more often.
const gcPercent = 50

func run(o agent.Options, log logr.Logger) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ctrl.SetLogger(log)
	klog.SetLogger(log)
	log.Info("Starting", "cluster", o.Cluster, "istioNamespaces", strings.Join(o.IstioNamespaces, ","))
	cfg, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	mgr, _, err := agent.NewManager(cfg, o)
	if err != nil {
		return err
	}
	return mgr.Start(ctrl.SetupSignalHandler())
}
