package meshctl

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"helm.sh/helm/v3/pkg/chartutil"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/charts"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/meshctl/diagnosis"
)

// registrar registers one cluster.
type registrar struct {
	*cli
	name          string
	clusterDomain string
	chart         chartFlags
	at            hubFlags
	output        string
	credential    bool
	hub, member   *cluster
}

func newClusterRegister(c *cli) *cobra.Command {
	r := &registrar{cli: c}
	cmd := &cobra.Command{
		Use:   "register NAME",
		Short: "Register a cluster: an identity in the hub, an agent in the cluster",
		Long: `Makes the KubernetesCluster NAME in the hub, which gives the cluster a namespace and its agent an identity there, and installs
the agent in the cluster of --member-context with a credential for just that. The hub gets no credential for the member.

It may be run again at any time: it goes on where it was interrupted, upgrades the agent and gives it a new credential.

With --output the manifests of both sides are printed and nothing is changed, so that something else may apply them. They hold
no credential, unless --include-credential is given, for which the hub must register the cluster first; without it, run
` + "`meshctl cluster rotate-credentials NAME`" + ` once the manifests of both sides are applied.`,
		Example: `  meshctl cluster register east --context hub --member-context east
  meshctl cluster register east --context hub --member-context east --output -`,
		Args: oneArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := c.waiting(cmd)
			defer cancel()
			r.name = args[0]
			if r.credential && r.output == "" {
				return usagef("--include-credential goes with --output")
			}
			return r.run(ctx)
		},
	}
	c.memberFlags(cmd)
	r.chart.add(cmd, charts.Agent)
	r.at.add(cmd)
	f := cmd.Flags()
	f.StringVar(&r.clusterDomain, "cluster-domain", "", "DNS domain of the cluster; defaults to cluster.local")
	f.StringVar(&r.output, "output", "", "print manifests instead of applying them: a directory for hub.yaml and member.yaml, or - for both")
	f.BoolVar(&r.credential, "include-credential", false, "with --output: register in the hub now and include the agent's credential")
	return cmd
}

func (r *registrar) run(ctx context.Context) (err error) {
	if r.hub, err = r.cli.hub(); err != nil {
		return err
	}
	if r.memberGiven() || r.output == "" {
		if r.member, err = r.cli.member(); err != nil {
			return err
		}
	}
	values, err := r.chart.merged(map[string]any{"cluster": r.name})
	if err != nil {
		return err
	}
	agent := release{charts.Agent, v1alpha1.AgentNamespace, values}
	at, err := r.at.endpoint(ctx, r.hub, r.member)
	if err != nil {
		return err
	}
	if r.output != "" {
		return r.print(ctx, agent, at)
	}
	if err := r.check(ctx, agent); err != nil {
		return err
	}
	if err := r.registerInHub(ctx); err != nil {
		return err
	}
	if err := r.member.prepareNamespace(ctx, restrictedNamespace(v1alpha1.AgentNamespace)); err != nil {
		return err
	}
	secret, err := credential(ctx, r.hub, at, r.name)
	if err != nil {
		return err
	}
	if err := r.member.store(ctx, secret); err != nil {
		return fmt.Errorf("%s: Secret %s/%s: %w", r.member.role, secret.Namespace, secret.Name, err)
	}
	r.progress.did("The agent has a credential for the hub at %s", at.server)
	if err := r.member.apply(ctx, agent); err != nil {
		return err
	}
	r.progress.did("The agent runs in namespace %s of the member cluster", agent.namespace)
	if err := r.connected(ctx); err != nil {
		return err
	}
	r.progress.did("Cluster %s is registered and connected. Its meshes: kubectl get meshes -n %s", r.name, kube.ClusterNamespace(r.name))
	return nil
}

// check finds what would go wrong before anything is changed.
func (r *registrar) check(ctx context.Context, agent release) error {
	for _, c := range []*cluster{r.hub, r.member} {
		if _, err := c.serverVersion(); err != nil {
			return err
		}
	}
	if err := r.hub.may(ctx,
		right{"create", v1alpha1.GroupVersion.Group, "kubernetesclusters", r.namespace},
		right{"get", "", "secrets", kube.ClusterNamespace(r.name)},
		right{"create", "", "serviceaccounts/token", kube.ClusterNamespace(r.name)},
	); err != nil {
		return err
	}
	if err := r.member.may(ctx,
		right{"create", "", "namespaces", ""},
		right{"create", "", "secrets", v1alpha1.AgentNamespace},
		right{"create", "apps", "deployments", v1alpha1.AgentNamespace},
		right{"create", "rbac.authorization.k8s.io", "clusterroles", ""},
	); err != nil {
		return err
	}
	other, err := r.member.agentOf(ctx)
	if err != nil {
		return err
	}
	if other != "" && other != r.name {
		return fmt.Errorf("the member cluster is registered as %q; run `meshctl cluster deregister %s` first, or register it under that name", other, other)
	}
	if other == "" {
		if err := r.checkIstio(ctx, agent); err != nil {
			return err
		}
	}
	kc := &v1alpha1.KubernetesCluster{}
	err = r.hub.Get(ctx, client.ObjectKey{Namespace: r.namespace, Name: r.name}, kc)
	if client.IgnoreNotFound(err) != nil {
		return r.hub.installed(err)
	}
	if other == "" && meta.IsStatusConditionTrue(kc.Status.Conditions, v1alpha1.ConditionConnected) {
		return fmt.Errorf("the name %s is taken: the agent of another cluster is connected under it; choose another name, or deregister that cluster first", r.name)
	}
	return nil
}

// checkIstio looks for the root namespaces of Istio, in which the agent gets rights.
func (r *registrar) checkIstio(ctx context.Context, agent release) error {
	chart, err := charts.Load(agent.chart)
	if err != nil {
		return err
	}
	values, err := chartutil.CoalesceValues(chart, agent.values)
	if err != nil {
		return err
	}
	namespaces, _ := values["istioNamespaces"].([]any)
	for _, name := range namespaces {
		err := r.member.Get(ctx, client.ObjectKey{Name: fmt.Sprint(name)}, &corev1.Namespace{})
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("the member cluster has no namespace %s: install Istio first, or say where istiod runs with --set istioNamespaces={NAMESPACE}", name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// registerInHub makes the KubernetesCluster and waits until the hub has made what goes with it.
func (r *registrar) registerInHub(ctx context.Context) error {
	want := r.kubernetesCluster()
	err := r.hub.Create(ctx, want.DeepCopy(), client.FieldOwner(owner))
	if apierrors.IsAlreadyExists(err) { // whatever it was evicted for is over
		pardon := fmt.Sprintf(`{"metadata":{"annotations":{%q:null}}}`, diagnosis.AnnotationEvicted)
		if err := r.hub.Patch(ctx, want.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(pardon)), client.FieldOwner(owner)); err != nil {
			return err
		}
	}
	if apierrors.IsAlreadyExists(err) && r.clusterDomain != "" {
		patch := client.MergeFrom(&v1alpha1.KubernetesCluster{ObjectMeta: want.ObjectMeta})
		err = r.hub.Patch(ctx, want.DeepCopy(), patch, client.FieldOwner(owner))
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return r.hub.installed(err)
	}
	err = r.hub.until(ctx, func(ctx context.Context) (string, error) {
		kc := &v1alpha1.KubernetesCluster{}
		if err := r.hub.Get(ctx, client.ObjectKeyFromObject(want), kc); err != nil {
			return "", err
		}
		ready := meta.FindStatusCondition(kc.Status.Conditions, v1alpha1.ConditionReady)
		switch {
		case ready == nil:
			return "waiting for the hub to register the cluster: see that isthmus-hub runs in namespace " + r.namespace, nil
		case ready.Status != metav1.ConditionTrue || kc.Status.ObservedGeneration != kc.Generation:
			return "waiting for the hub to register the cluster: " + ready.Message, nil
		}
		if _, err := r.hub.anchor(ctx, r.name); apierrors.IsNotFound(err) {
			return "waiting for the hub to make the agent's identity", nil
		} else if err != nil {
			return "", err
		}
		return "", nil
	}, changesOf(&v1alpha1.KubernetesClusterList{}, client.InNamespace(r.namespace), client.MatchingFields{"metadata.name": r.name}),
		r.hub.watchAnchor(r.name))
	if err != nil {
		return err
	}
	r.progress.did("The hub has registered %s, with namespace %s", r.name, kube.ClusterNamespace(r.name))
	return nil
}

func (r *registrar) kubernetesCluster() *v1alpha1.KubernetesCluster {
	kc := &v1alpha1.KubernetesCluster{}
	kc.Namespace, kc.Name = r.namespace, r.name
	kc.Spec.ClusterDomain = r.clusterDomain
	return kc
}

// connected waits until the agent's heartbeat has reached the hub.
func (r *registrar) connected(ctx context.Context) error {
	key := client.ObjectKey{Namespace: r.namespace, Name: r.name}
	return r.hub.until(ctx, func(ctx context.Context) (string, error) {
		kc := &v1alpha1.KubernetesCluster{}
		if err := r.hub.Get(ctx, key, kc); err != nil {
			return "", err
		}
		if meta.IsStatusConditionTrue(kc.Status.Conditions, v1alpha1.ConditionConnected) {
			return "", nil
		}
		return fmt.Sprintf("waiting for the agent to connect to the hub: its log says what keeps it: kubectl -n %s logs deployment/isthmus-agent", v1alpha1.AgentNamespace), nil
	}, changesOf(&v1alpha1.KubernetesClusterList{}, client.InNamespace(r.namespace), client.MatchingFields{"metadata.name": r.name}))
}

// print writes the manifests of both sides.
func (r *registrar) print(ctx context.Context, agent release, at endpoint) error {
	kubernetes := "v" + supportedKubernetes.newest.String()
	if r.member != nil {
		v, err := r.member.serverVersion()
		if err != nil {
			return err
		}
		kubernetes = v
	}
	rendered, err := agent.render(kubernetes)
	if err != nil {
		return err
	}
	objects := []client.Object{restrictedNamespace(v1alpha1.AgentNamespace)}
	note := "# The agent's credential is not in here: run `meshctl cluster rotate-credentials " + r.name + "` once this is applied.\n"
	if r.credential {
		if err := r.registerInHub(ctx); err != nil {
			return err
		}
		secret, err := credential(ctx, r.hub, at, r.name)
		if err != nil {
			return err
		}
		objects = append(objects, secret)
		note = "# This holds a secret: the agent's credential, Secret " + secret.Name + ".\n"
	}
	hubSide, err := documents(r.kubernetesCluster())
	if err != nil {
		return err
	}
	memberSide, err := documents(objects...)
	if err != nil {
		return err
	}
	memberSide = note + memberSide + rendered
	if r.output == "-" {
		manifests(r.Out, "in the hub's cluster", hubSide)
		manifests(r.Out, "in cluster "+r.name, memberSide)
		return nil
	}
	if err := os.MkdirAll(r.output, 0o755); err != nil { //nolint:gosec // a directory of manifests
		return err
	}
	for name, content := range map[string]string{"hub.yaml": hubSide, "member.yaml": memberSide} {
		if err := os.WriteFile(filepath.Join(r.output, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	r.progress.did("Wrote hub.yaml and member.yaml in %s", r.output)
	return nil
}

// documents returns objects as YAML, as `kubectl apply` takes them.
func documents(objects ...client.Object) (string, error) {
	var b bytes.Buffer
	for _, obj := range objects {
		u, err := kube.ToUnstructured(scheme, obj)
		if err != nil {
			return "", err
		}
		out, err := yaml.Marshal(u.Object)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "---\n%s", out)
	}
	return b.String(), nil
}
