package meshctl

import (
	"context"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// mesh finds a Mesh by its name, which tells its cluster.
func (c *cluster) mesh(ctx context.Context, name string) (*v1alpha1.Mesh, error) {
	meshes := &v1alpha1.MeshList{}
	if err := c.List(ctx, meshes); err != nil {
		return nil, c.installed(err)
	}
	var known []string
	for i := range meshes.Items {
		if meshes.Items[i].Name == name {
			return &meshes.Items[i], nil
		}
		known = append(known, meshes.Items[i].Name)
	}
	if len(known) == 0 {
		return nil, fmt.Errorf("no mesh is known; register its cluster with `meshctl cluster register`")
	}
	return nil, fmt.Errorf("mesh %q is not known; known are %s", name, strings.Join(known, ", "))
}

// order is the IssuedCertificate for the CA of a mesh; nil if there is none.
func (c *cluster) order(ctx context.Context, mesh *v1alpha1.Mesh) (*v1alpha1.IssuedCertificate, error) {
	return c.orderNamed(ctx, mesh.Namespace, mesh.Name)
}

// gatewayOrder is the IssuedCertificate for the gateways of a mesh; nil if there is none.
func (c *cluster) gatewayOrder(ctx context.Context, mesh *v1alpha1.Mesh) (*v1alpha1.IssuedCertificate, error) {
	return c.orderNamed(ctx, mesh.Namespace, membership.GatewayOrder(mesh.Name))
}

func (c *cluster) orderNamed(ctx context.Context, namespace, name string) (*v1alpha1.IssuedCertificate, error) {
	order := &v1alpha1.IssuedCertificate{}
	err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, order)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return order, err
}

// memberOf connects to the cluster of a mesh and makes sure that it is that one.
func (c *cli) memberOf(ctx context.Context, mesh *v1alpha1.Mesh) (*cluster, error) {
	member, err := c.member()
	if err != nil {
		return nil, err
	}
	name, ok := kube.ClusterOf(mesh.Namespace)
	if !ok {
		return nil, fmt.Errorf("mesh %s is in namespace %s, which is that of no cluster", mesh.Name, mesh.Namespace)
	}
	return member, member.hasAgent(ctx, name)
}

// hasAgent makes sure that a member is the cluster of that name, by its agent.
func (c *cluster) hasAgent(ctx context.Context, name string) error {
	agent, err := c.agentOf(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", c.role, err)
	case agent == "":
		return usagef("--member-context must name cluster %s; the cluster that it names has no agent in namespace %s", name, v1alpha1.AgentNamespace)
	case agent != name:
		return usagef("--member-context must name cluster %s; it names cluster %s", name, agent)
	}
	return nil
}
