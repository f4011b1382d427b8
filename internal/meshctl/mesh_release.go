package meshctl

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent/certificates"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

func newMeshRelease(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "release MESH",
		Short: "Leave a mesh to itself: its certificates stay, and nobody renews them any more",
		Long: `Deletes the order for the mesh's certificates in the hub and what the agent keeps for it in the member. Secret cacerts stays as it
is, without our labels, like one that somebody made by hand: from then on its intermediate is not renewed. It is refused while
a VirtualMesh has the mesh as a member, unless that is under limited trust, to which the CA of a mesh is no matter; the certificate
of its gateways stays ordered then.`,
		Args: oneArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := c.waiting(cmd)
			defer cancel()
			return c.release(ctx, args[0])
		},
	}
	c.memberFlags(cmd)
	return cmd
}

func (c *cli) release(ctx context.Context, name string) error {
	hub, err := c.hub()
	if err != nil {
		return err
	}
	mesh, err := hub.mesh(ctx, name)
	if err != nil {
		return err
	}
	member, err := c.memberOf(ctx, mesh)
	if err != nil {
		return err
	}
	virtualMeshes := &v1alpha1.VirtualMeshList{}
	if err := hub.List(ctx, virtualMeshes); err != nil {
		return err
	}
	orders := []string{name, membership.GatewayOrder(name)}
	for _, vm := range virtualMeshes.Items {
		switch {
		case !isMember(&vm, mesh):
		case isLimited(&vm):
			orders = orders[:1]
		default:
			return fmt.Errorf("mesh %s is a member of VirtualMesh %s; remove it from spec.meshes first", name, kube.Qualified(vm.Name, vm.Namespace))
		}
	}
	// Whether the member can be written is found out before anything is changed.
	cacerts := types.NamespacedName{Namespace: mesh.Spec.Istio.RootNamespace, Name: certificates.CACertsName}
	if err := member.may(ctx,
		right{"delete", "", "secrets", v1alpha1.AgentNamespace},
		right{"patch", "", "secrets", cacerts.Namespace},
	); err != nil {
		return err
	}
	for _, order := range orders {
		if err := c.withdraw(ctx, hub, member, mesh.Namespace, order); err != nil {
			return err
		}
	}
	if err := member.disown(ctx, cacerts); err != nil {
		return err
	}
	c.progress.did("Secret %s of the member stays as it is", cacerts)
	if ca := mesh.Status.CertificateAuthority; ca != nil && ca.Source == v1alpha1.CASourceIsthmus && ca.NotAfter != nil {
		c.progress.did("Nobody renews its certificate, which ends on %s: give istiod another CA before", ca.NotAfter.UTC().Format(time.DateOnly))
	}
	return nil
}

// withdraw has the hub order something no more, in the namespace of a cluster, and deletes what the agent of that keeps for it.
func (c *cli) withdraw(ctx context.Context, hub, member *cluster, namespace, order string) error {
	switch err := hub.Delete(ctx, &v1alpha1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: order}}); {
	case apierrors.IsNotFound(err):
	case err != nil:
		return err
	default:
		c.progress.did("The hub does not order %s any more", order)
	}
	return member.deleteSecretsOf(ctx, order)
}

// isMember reports whether what was accepted of a VirtualMesh names the mesh.
func isMember(vm *v1alpha1.VirtualMesh, mesh *v1alpha1.Mesh) bool {
	if vm.Status.Accepted == nil {
		return false
	}
	for _, ref := range vm.Status.Accepted.Spec.Meshes {
		if ref.Name == mesh.Name && (ref.Namespace == "" || ref.Namespace == mesh.Namespace || ref.Namespace == vm.Namespace) {
			return true
		}
	}
	return false
}

// deleteSecretsOf deletes what the agent keeps for a mesh, until nothing of it is left.
func (c *cluster) deleteSecretsOf(ctx context.Context, mesh string) error {
	secrets := func() *metav1.PartialObjectMetadataList {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
		return list
	}
	return c.until(ctx, func(ctx context.Context) (string, error) {
		list := secrets()
		if err := c.List(ctx, list, client.InNamespace(v1alpha1.AgentNamespace)); err != nil {
			return "", err
		}
		waitingFor := ""
		for i := range list.Items {
			s := &list.Items[i]
			if s.Annotations[certificates.AnnotationMesh] != mesh {
				continue
			}
			if err := client.IgnoreNotFound(c.Delete(ctx, s, client.Preconditions{UID: &s.UID})); err != nil {
				return "", err
			}
			waitingFor = fmt.Sprintf("waiting for Secret %s/%s to be gone", s.Namespace, s.Name)
		}
		return waitingFor, nil
	}, changesOf(secrets(), client.InNamespace(v1alpha1.AgentNamespace)))
}

// disown takes our labels off a Secret and leaves its content alone.
func (c *cluster) disown(ctx context.Context, key types.NamespacedName) error {
	secret := &metav1.PartialObjectMetadata{}
	secret.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	if err := c.Get(ctx, key, secret); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	was := secret.DeepCopy()
	delete(secret.Labels, v1alpha1.LabelManagedBy)
	delete(secret.Labels, v1alpha1.LabelVirtualMesh)
	if len(secret.Labels) == len(was.Labels) {
		return nil
	}
	return c.Patch(ctx, secret, client.MergeFrom(was), client.FieldOwner(owner))
}
