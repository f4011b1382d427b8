package meshctl

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"helm.sh/helm/v3/pkg/releaseutil"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/charts"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/istio"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// gatewaysNamespaceFlag is where the gateways of a member are.
func gatewaysNamespaceFlag(cmd *cobra.Command, namespace *string) {
	cmd.Flags().StringVar(namespace, "gateways-namespace", v1alpha1.GatewaysNamespace, "namespace of the gateways in the member cluster")
}

func newGatewayInstall(c *cli) *cobra.Command {
	var flags chartFlags
	var namespace string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install or upgrade the gateways of a member for limited trust",
		Long: `Installs the two gateways of limited trust in the cluster of --member-context, from the Helm chart isthmus-gateways that is part of
meshctl: isthmus-ingress, by which other meshes reach services of this one, and isthmus-egress, by which this one reaches theirs.
istiod injects their proxies. They serve nobody until a VirtualMesh with mtlsConfig.limited has the mesh as a member. Run again, it
upgrades them; values given earlier stay unless they are given anew.`,
		Example: `  meshctl gateway install --member-context east
  meshctl gateway install --member-context east --set ingress.service.type=NodePort --set replicas=3`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := c.waiting(cmd)
			defer cancel()
			member, err := c.member()
			if err != nil {
				return err
			}
			values, err := flags.merged(nil)
			if err != nil {
				return err
			}
			kubernetes, err := member.serverVersion()
			if err != nil {
				return err
			}
			gateways := release{charts.Gateways, namespace, values}
			upgraded, err := member.upgraded(gateways)
			if err != nil {
				return err
			}
			rendered, err := upgraded.render(kubernetes)
			if err != nil {
				return err
			}
			if dryRun {
				manifests(c.Out, "chart "+gateways.chart+", namespace "+gateways.namespace, rendered)
				return nil
			}
			if err := member.may(ctx,
				right{"create", "", "namespaces", ""},
				right{"create", "apps", "deployments", namespace},
				right{"create", "", "secrets", namespace},
				right{"create", "rbac.authorization.k8s.io", "roles", namespace},
				right{"create", "admissionregistration.k8s.io", "validatingadmissionpolicies", ""},
			); err != nil {
				return err
			}
			if err := member.prepareNamespace(ctx, restrictedNamespace(namespace)); err != nil {
				return err
			}
			if err := member.injects(ctx, namespace, rendered); err != nil {
				return err
			}
			if err := member.apply(ctx, gateways); err != nil {
				return err
			}
			at, err := member.ingressAddress(ctx, namespace)
			if err != nil {
				return err
			}
			c.progress.did("The gateways run in namespace %s of the member cluster; other meshes %s", namespace, at)
			return nil
		},
	}
	c.memberFlags(cmd)
	flags.addValues(cmd, charts.Gateways)
	gatewaysNamespaceFlag(cmd, &namespace)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be applied, and change nothing")
	return cmd
}

// injects finds out whether istiod will make gateways of the pods of rendered Deployments. Else their image would be a name that
// no registry knows.
func (c *cluster) injects(ctx context.Context, namespace, rendered string) error {
	ns, webhooks := &corev1.Namespace{}, &admissionv1.MutatingWebhookConfigurationList{}
	if err := c.Get(ctx, client.ObjectKey{Name: namespace}, ns); err != nil {
		return fmt.Errorf("%s: %w", c.role, err)
	}
	if err := c.List(ctx, webhooks); err != nil {
		return fmt.Errorf("%s: who injects proxies: %w", c.role, err)
	}
	in := istio.Read(istio.Objects{Webhooks: webhooks.Items, Namespaces: []corev1.Namespace{*ns}})
	if len(in.Injectors) == 0 {
		return fmt.Errorf("%s has no istiod that injects proxies: install Istio first", c.role)
	}
	for _, manifest := range releaseutil.SplitManifests(rendered) {
		d := &appsv1.Deployment{}
		if err := yaml.Unmarshal([]byte(manifest), d); err != nil {
			return err
		}
		if d.Kind != "Deployment" || in.Expected(&d.Spec.Template, ns).DataPlane == v1alpha1.DataPlaneGateway {
			continue
		}
		return fmt.Errorf("%s: istiod would inject no proxy into pods of namespace %s: name its revision with --set revision=REVISION, or take the label istio-injection=disabled off the namespace",
			c.role, namespace)
	}
	return nil
}

// ingressAddress says how other meshes reach those of a member.
func (c *cluster) ingressAddress(ctx context.Context, namespace string) (string, error) {
	s := &corev1.Service{}
	if err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "isthmus-ingress"}, s); err != nil {
		return "", fmt.Errorf("%s: %w", c.role, err)
	}
	g := istio.GatewayDetector{}.Describe(istio.Gateway{Service: s, Class: v1alpha1.GatewayLimitedIngress})
	switch {
	case len(g.Addresses) > 0:
		return fmt.Sprintf("reach them at %s, port %d", strings.Join(g.Addresses, ", "), g.Ports[0].ExternalPort), nil
	case s.Spec.Type == corev1.ServiceTypeNodePort:
		return fmt.Sprintf("reach them at its nodes, port %d", s.Spec.Ports[0].NodePort), nil
	}
	return "do not reach them: its Service has no address; see ingress.service of the chart's values", nil
}

func newGatewayUninstall(c *cli) *cobra.Command {
	var namespace string
	var force bool
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove the gateways of a member for limited trust",
		Long: `Removes the gateways of limited trust from the cluster of --member-context, and their certificate. It is refused while a VirtualMesh
under limited trust has a mesh of the cluster as a member: no call to or from other meshes would be answered any more.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := c.waiting(cmd)
			defer cancel()
			member, err := c.member()
			if err != nil {
				return err
			}
			hub, name, err := c.gatewaysIdle(ctx, member)
			switch {
			case err != nil && !force:
				return err
			case err != nil:
				c.progress.did("Removing the gateways nevertheless: %v", err)
			case name != "":
				if err := c.withdrawGateways(ctx, hub, member, name, namespace); err != nil {
					return err
				}
			}
			if err := member.remove(ctx, charts.Gateways, namespace); err != nil {
				return err
			}
			secret := &corev1.Secret{}
			secret.Namespace, secret.Name = namespace, v1alpha1.GatewaySecretName
			if err := client.IgnoreNotFound(member.Delete(ctx, secret)); err != nil {
				return err
			}
			if err := member.removeNamespace(ctx, namespace); err != nil {
				return err
			}
			c.progress.did("The gateways are removed from the member cluster")
			return nil
		},
	}
	c.memberFlags(cmd)
	gatewaysNamespaceFlag(cmd, &namespace)
	cmd.Flags().BoolVar(&force, "force", false, "also if a virtual mesh needs them, or the hub does not answer or does not know the member")
	return cmd
}

// gatewaysIdle returns the hub of a member and the name under which it is registered there, "" if that is nowhere, and an error that
// says who needs its gateways, or why that is not known.
func (c *cli) gatewaysIdle(ctx context.Context, member *cluster) (hub *cluster, name string, err error) {
	if name, err = member.agentOf(ctx); err != nil {
		return nil, "", fmt.Errorf("%s: %w", member.role, err)
	}
	if name == "" {
		return nil, "", nil
	}
	if hub, err = c.hub(); err != nil {
		return nil, "", err
	}
	key := client.ObjectKey{Namespace: c.namespace, Name: name}
	err = hub.Get(ctx, key, &v1alpha1.KubernetesCluster{})
	if apierrors.IsNotFound(err) {
		return nil, "", hub.unknown(key)
	}
	virtualMeshes := &v1alpha1.VirtualMeshList{}
	if err == nil {
		err = hub.List(ctx, virtualMeshes)
	}
	if err != nil {
		return nil, "", fmt.Errorf("who needs the gateways: %w; to remove them nevertheless, use --force", hub.installed(err))
	}
	for i := range virtualMeshes.Items {
		vm := &virtualMeshes.Items[i]
		if !isLimited(vm) {
			continue
		}
		for _, ref := range vm.Status.Accepted.Spec.Meshes {
			if ref.Namespace == kube.ClusterNamespace(name) {
				return nil, "", fmt.Errorf("mesh %s of cluster %s is a member of VirtualMesh %s, which has mtlsConfig.limited: all calls to and from other meshes pass through the gateways; remove the mesh from spec.meshes first, or use --force",
					ref.Name, name, kube.Qualified(vm.Name, vm.Namespace))
			}
		}
	}
	return hub, name, nil
}

// withdrawGateways has the hub order nothing any more for the gateways in a namespace of a member, by the name under which it is
// registered; nobody needs them.
func (c *cli) withdrawGateways(ctx context.Context, hub, member *cluster, name, namespace string) error {
	orders := &v1alpha1.IssuedCertificateList{}
	if err := hub.List(ctx, orders, client.InNamespace(kube.ClusterNamespace(name))); err != nil {
		return err
	}
	for i := range orders.Items {
		o := &orders.Items[i]
		if _, purpose := membership.OrderedFor(o.Name); purpose != v1alpha1.PurposeGateway || o.Spec.IssuedCertificateSecret.Namespace != namespace {
			continue
		}
		if err := c.withdraw(ctx, hub, member, o.Namespace, o.Name); err != nil {
			return err
		}
	}
	return nil
}

// isLimited reports whether what was accepted of a VirtualMesh is limited trust.
func isLimited(vm *v1alpha1.VirtualMesh) bool {
	return accept.TrustIn(vm.Status.Accepted).ByGateways()
}

// restrictedNamespace is a namespace of pods that need no privileges.
func restrictedNamespace(name string) *corev1.Namespace {
	ns := &corev1.Namespace{}
	ns.Name = name
	ns.Labels = map[string]string{
		v1alpha1.LabelManagedBy:              owner,
		"pod-security.kubernetes.io/enforce": "restricted",
	}
	return ns
}

// prepareNamespace makes a namespace. One that a user made is left as it is; one that is being deleted is waited for.
func (c *cluster) prepareNamespace(ctx context.Context, want *corev1.Namespace) error {
	return c.until(ctx, func(ctx context.Context) (string, error) {
		ns := &corev1.Namespace{}
		err := c.Get(ctx, client.ObjectKey{Name: want.Name}, ns)
		switch {
		case apierrors.IsNotFound(err):
			return "", client.IgnoreAlreadyExists(c.Create(ctx, want.DeepCopy(), client.FieldOwner(owner)))
		case err == nil && ns.DeletionTimestamp != nil:
			return "namespace " + ns.Name + " of " + c.role + " is being deleted", nil
		}
		return "", err
	}, changesOf(&corev1.NamespaceList{}, client.MatchingFields{"metadata.name": want.Name}))
}

// removeNamespace deletes a namespace, with all that is in it, if meshctl made it.
func (c *cluster) removeNamespace(ctx context.Context, name string) error {
	ns := &corev1.Namespace{}
	err := c.Get(ctx, client.ObjectKey{Name: name}, ns)
	if err == nil && ns.Labels[v1alpha1.LabelManagedBy] == owner && ns.DeletionTimestamp == nil {
		err = c.Delete(ctx, ns, client.Preconditions{UID: &ns.UID})
	}
	return client.IgnoreNotFound(err)
}
