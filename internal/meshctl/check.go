package meshctl

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/meshctl/diagnosis"
	"github.com/isthmus-mesh/isthmus/internal/version"
)

func newCheck(c *cli) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say what is wrong, and what to do about it",
		Long: `Looks at the hub, the registered clusters, their meshes, the VirtualMeshes, the certificates in use, federation and access
policies, as the agents report them. With --member-context it also looks at that member: at its agent, at gateways of limited trust,
and for the hosts of other clusters that it should have. Every finding has a code, which docs/check.md explains.

The exit code is 1 if an error is among the findings.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := c.waiting(cmd)
			defer cancel()
			hub, err := c.hub()
			if err != nil {
				return err
			}
			state := hub.state(ctx, c.namespace)
			findings := diagnosis.Examine(state)
			if c.memberGiven() {
				member, err := c.member()
				if err != nil {
					return err
				}
				findings = append(findings, diagnosis.ExamineMember(member.memberState(ctx), state)...)
			}
			if findings == nil {
				findings = diagnosis.Findings{}
			}
			if done, err := output.structured(c.Out, findings); !done {
				c.report(findings)
			} else if err != nil {
				return err
			}
			if findings.Failed() {
				return errFound
			}
			return nil
		},
	}
	c.memberFlags(cmd)
	output.add(cmd, "text", "json", "yaml")
	return cmd
}

// report prints findings for people.
func (c *cli) report(findings diagnosis.Findings) {
	count := map[diagnosis.Severity]int{}
	for _, f := range findings {
		count[f.Severity]++
		_, _ = fmt.Fprintf(c.Out, "%-7s %s  %s: %s\n", f.Severity, f.Code, printable(f.Object), printable(f.Message))
		if f.Hint != "" {
			_, _ = fmt.Fprintf(c.Out, "%19s%s\n", "", printable(f.Hint))
		}
	}
	_, _ = fmt.Fprintf(c.Out, "%d errors, %d warnings\n", count[diagnosis.Error], count[diagnosis.Warning])
}

// state reads what is judged of the hub. What cannot be read is part of it.
func (c *cluster) state(ctx context.Context, namespace string) diagnosis.State {
	s := diagnosis.State{
		Now: time.Now(), Namespace: namespace, Version: version.Version,
		SupportedKubernetes: supportedKubernetes.check, SupportedIstio: supportedIstio.check,
	}
	info, err := c.clientset.Discovery().ServerVersion()
	if err != nil {
		s.Unreachable = err
		return s
	}
	s.Kubernetes = info.GitVersion

	if kinds, err := c.clientset.Discovery().ServerResourcesForGroupVersion(v1alpha1.GroupVersion.String()); err == nil || apierrors.IsNotFound(err) {
		s.Kinds = map[string]bool{}
		for _, r := range kinds.APIResources {
			s.Kinds[r.Name+"."+v1alpha1.GroupVersion.Group] = true
		}
	} else {
		s.Unreadable = append(s.Unreadable, err)
	}
	read := func(list client.ObjectList, opts ...client.ListOption) {
		if err := c.List(ctx, list, opts...); err != nil && !meta.IsNoMatchError(err) {
			s.Unreadable = append(s.Unreadable, err)
		}
	}
	bindings := &admissionregistrationv1.ValidatingAdmissionPolicyBindingList{}
	if err := c.List(ctx, bindings); err == nil {
		s.Policies = map[string]bool{}
		for _, b := range bindings.Items {
			s.Policies[b.Name] = true
		}
	} // whoever may not read them is not told about them

	deployment := &appsv1.Deployment{}
	err = c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: hubDeployment}, deployment)
	switch {
	case err == nil:
		s.Hub, s.HubVersion = deployment, imageTag(deployment)
	case !apierrors.IsNotFound(err):
		s.Unreadable = append(s.Unreadable, err)
	}
	var clusters v1alpha1.KubernetesClusterList
	var meshes v1alpha1.MeshList
	var virtualMeshes v1alpha1.VirtualMeshList
	var orders v1alpha1.IssuedCertificateList
	var destinations v1alpha1.DestinationList
	var policies v1alpha1.AccessPolicyList
	var names v1alpha1.VirtualDestinationList
	var settings v1alpha1.SettingsList
	read(&clusters, client.InNamespace(namespace))
	read(&meshes)
	read(&virtualMeshes)
	read(&orders)
	read(&destinations)
	read(&policies)
	read(&names)
	read(&settings)
	s.Clusters, s.Meshes, s.VirtualMeshes, s.Orders = clusters.Items, meshes.Items, virtualMeshes.Items, orders.Items
	s.VirtualDestinations = names.Items
	s.Destinations, s.AccessPolicies, s.Settings = destinations.Items, policies.Items, settings.Items
	return s
}

// memberState reads what is judged of a member.
func (c *cluster) memberState(ctx context.Context) diagnosis.Member {
	m := diagnosis.Member{Name: *c.getter.Context, SupportedKubernetes: supportedKubernetes.check}
	info, err := c.clientset.Discovery().ServerVersion()
	if err != nil {
		m.Unreachable = err
		return m
	}
	m.Kubernetes = info.GitVersion
	deployment := &appsv1.Deployment{}
	err = c.Get(ctx, client.ObjectKey{Namespace: v1alpha1.AgentNamespace, Name: v1alpha1.AgentName}, deployment)
	if err == nil {
		m.Agent = deployment
	}
	gateways := &appsv1.DeploymentList{}
	gatewaysErr := c.List(ctx, gateways, client.HasLabels{v1alpha1.LabelGateway})
	m.Gateways = gateways.Items
	credential := &metav1.PartialObjectMetadata{}
	credential.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	credentialErr := c.Get(ctx, client.ObjectKey{Namespace: v1alpha1.AgentNamespace, Name: credentialSecret}, credential)
	m.Credential = credentialErr == nil
	var hostsErr error
	if m.Cluster, hostsErr = c.agentOf(ctx); hostsErr == nil && m.Cluster != "" {
		m.Hosts, hostsErr = c.hosts(ctx)
	}
	m.Unreadable = errors.Join(client.IgnoreNotFound(err), client.IgnoreNotFound(credentialErr), gatewaysErr, hostsErr)
	return m
}

// hosts are those of other clusters that the agent has made here, as diagnosis.Member wants them.
func (c *cluster) hosts(ctx context.Context) (map[string]bool, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Group: "networking.istio.io", Version: "v1", Kind: "ServiceEntry"})
	err := c.List(ctx, list, client.MatchingLabels{v1alpha1.LabelManagedBy: networkManager})
	if err != nil && !meta.IsNoMatchError(err) {
		return nil, err
	}
	hosts := map[string]bool{}
	for i := range list.Items {
		o := &list.Items[i]
		hosts[o.Namespace+"/"+o.Annotations[v1alpha1.AnnotationDestination]] = true
	}
	return hosts, nil
}

// imageTag is the tag of a Deployment's first image; "" if it has none.
func imageTag(d *appsv1.Deployment) string {
	if len(d.Spec.Template.Spec.Containers) == 0 {
		return ""
	}
	image, _, _ := strings.Cut(d.Spec.Template.Spec.Containers[0].Image, "@")
	name := image[strings.LastIndex(image, "/")+1:]
	_, tag, _ := strings.Cut(name, ":")
	return tag
}
