package meshctl

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/meshctl/diagnosis"
)

func newClusterEvict(c *cli) *cobra.Command {
	var reason string
	var yes bool
	cmd := &cobra.Command{
		Use:   "evict NAME --reason REASON",
		Short: "Shut a compromised or lost cluster out, and have the others replace their root",
		Long: `For a cluster that somebody else may have taken, or that will not come back. In this order:

1. The credential of its agent is revoked.
2. Its meshes are taken out of every VirtualMesh, and where these have shared trust, a rotation of the root begins, without it.
   It begins as well where its meshes were taken out before.
   A VirtualMesh that follows an object of an older generation of the API follows it no more: that would put them back.
3. Its orders for certificates are deleted, so that the hub signs nothing for it any more.

The cluster is not touched. Until the rotation is over, the others go on trusting what it has: its intermediate can name any
identity of the common trust domain. What the cluster's services were called by is gone at once.

Stopped at any point and run again, it goes on.`,
		Args: oneArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(reason) == "" {
				return usagef("--reason is required; it is kept in annotation %s of the KubernetesCluster", diagnosis.AnnotationEvicted)
			}
			ctx, cancel := c.waiting(cmd)
			defer cancel()
			hub, err := c.hub()
			if err != nil {
				return err
			}
			e := &eviction{cli: c, hub: hub, cluster: args[0], reason: reason}
			if err := e.plan(ctx); err != nil {
				return err
			}
			if !yes {
				if err := c.confirm(e.String(), e.cluster); err != nil {
					return err
				}
			}
			return e.run(ctx)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; it is kept")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// confirm has the user type a word.
func (c *cli) confirm(what, word string) error {
	_, _ = fmt.Fprintf(c.ErrOut, "%s\nType %s to go on: ", what, word)
	line, err := bufio.NewReader(c.In).ReadString('\n')
	switch answer := strings.TrimSpace(line); {
	case answer == word:
		return nil
	case err != nil && answer == "":
		return usagef("nobody answers; give --yes to go on without being asked")
	}
	return errors.New("nothing was changed")
}

// eviction shuts one cluster out.
type eviction struct {
	*cli
	hub             *cluster
	cluster, reason string

	kc *v1alpha1.KubernetesCluster
	// since is when this began, by a command before if again says so.
	since time.Time
	again bool
	// orders of the cluster's meshes.
	orders []v1alpha1.IssuedCertificate
	// edits are the VirtualMeshes that have its meshes, or had them and still trust them, without them.
	edits []edit
}

// edit of a VirtualMesh.
type edit struct {
	was, is *v1alpha1.VirtualMesh
	// gone are the meshes that are taken out; none if somebody has done so before.
	gone []string
	// followed is the object of an older generation that it follows no more; "" if there is none.
	followed string
	// noRotation is why no rotation begins; nil if one does.
	noRotation error
}

// plan reads what there is to do, and changes nothing.
func (e *eviction) plan(ctx context.Context) error {
	e.kc = &v1alpha1.KubernetesCluster{}
	if err := e.hub.Get(ctx, client.ObjectKey{Namespace: e.namespace, Name: e.cluster}, e.kc); err != nil {
		return e.hub.installed(err)
	}
	e.since, e.again = evictedAt(e.kc)
	namespace := client.InNamespace(kube.ClusterNamespace(e.cluster))
	meshes, orders, virtualMeshes := &v1alpha1.MeshList{}, &v1alpha1.IssuedCertificateList{}, &v1alpha1.VirtualMeshList{}
	if err := errors.Join(e.hub.List(ctx, meshes, namespace), e.hub.List(ctx, orders, namespace), e.hub.List(ctx, virtualMeshes, client.InNamespace(e.namespace))); err != nil {
		return err
	}
	e.orders = orders.Items
	names := sets.New[string]() // of what may be gone already, too
	for _, m := range meshes.Items {
		names.Insert(m.Name)
	}
	for _, o := range orders.Items {
		mesh, _ := membership.OrderedFor(o.Name)
		names.Insert(mesh)
	}
	for i := range virtualMeshes.Items {
		vm := &virtualMeshes.Items[i]
		edit := without(vm, string(namespace), names)
		switch {
		case vm.Spec.Suspend && (len(edit.gone) > 0 || e.ordered(vm) || countsOn(vm, string(namespace)) != ""):
			return fmt.Errorf("VirtualMesh %s is suspended, so that the hub would leave everything of cluster %s as it is: unset spec.suspend of VirtualMesh %s first; nothing was changed",
				vm.Name, e.cluster, vm.Name)
		case len(edit.gone) == 0 && (!e.ordered(vm) || e.begun(vm)):
			continue
		case len(edit.gone) == 0:
			edit = replacing(vm)
		case len(edit.is.Spec.Meshes) == 0:
			return fmt.Errorf("VirtualMesh %s has no other member than those of cluster %s; delete it, or add another member first", vm.Name, e.cluster)
		}
		e.edits = append(e.edits, edit)
	}
	return nil
}

// evictedAt is when a cluster was evicted first, if it was; else it is now.
func evictedAt(kc *v1alpha1.KubernetesCluster) (at time.Time, before bool) {
	said := kc.Annotations[diagnosis.AnnotationEvicted]
	at, err := time.Parse(time.RFC3339, strings.TrimSuffix(said[strings.LastIndex(said, "(")+1:], ")"))
	if err != nil {
		return time.Now().UTC(), false
	}
	return at, true
}

// ordered tells whether certificates of the cluster's meshes were ordered for a VirtualMesh: these are trusted, though it may not
// have the meshes any more.
func (e *eviction) ordered(vm *v1alpha1.VirtualMesh) bool {
	return slices.ContainsFunc(e.orders, func(o v1alpha1.IssuedCertificate) bool {
		return o.Spec.VirtualMesh == v1alpha1.ObjectRef{Name: vm.Name, Namespace: vm.Namespace}
	})
}

// begun tells whether a rotation was triggered since a command before this one.
func (e *eviction) begun(vm *v1alpha1.VirtualMesh) bool {
	if !e.again || canTrigger(vm) != nil {
		return false
	}
	at, err := time.Parse(time.RFC3339, *rotationTrigger(vm))
	return err == nil && !at.Before(e.since)
}

// replacing is a VirtualMesh with another root.
func replacing(vm *v1alpha1.VirtualMesh) edit {
	out := edit{was: vm, is: vm.DeepCopy(), noRotation: canTrigger(vm)}
	if out.noRotation == nil {
		*rotationTrigger(out.is) = freshTrigger()
	}
	return out
}

// without is a VirtualMesh without the meshes of a cluster's namespace, and with another root. names are those that the cluster
// gives its meshes: they count only where it is not on record whose mesh a name means.
func without(vm *v1alpha1.VirtualMesh, namespace string, names sets.Set[string]) edit {
	its := func(ref v1alpha1.ObjectRef) bool {
		if ref.Namespace != "" && ref.Namespace != vm.Namespace {
			return ref.Namespace == namespace
		}
		if accepted := vm.Status.Accepted; accepted != nil {
			named := func(o v1alpha1.ObjectRef) bool { return o.Name == ref.Name }
			if i := slices.IndexFunc(accepted.Spec.Meshes, named); i >= 0 {
				return accepted.Spec.Meshes[i].Namespace == namespace
			}
		}
		return names.Has(ref.Name)
	}
	out := replacing(vm)
	spec := &out.is.Spec
	for _, ref := range spec.Meshes {
		if its(ref) {
			out.gone = append(out.gone, ref.Name)
		}
	}
	spec.Meshes = slices.DeleteFunc(spec.Meshes, its)
	withoutClients(spec.Federation, its)
	if vm.Labels[v1alpha1.LabelManagedBy] != "" {
		delete(out.is.Labels, v1alpha1.LabelManagedBy)
		out.followed = vm.Annotations[v1alpha1.AnnotationConvertedFrom]
	}
	return out
}

// withoutClients takes meshes out of those to which something is federated. A selector that named no others goes as a whole:
// without meshes, it would mean all of them.
func withoutClients(f *v1alpha1.Federation, its func(v1alpha1.ObjectRef) bool) {
	if f == nil {
		return
	}
	had := len(f.Selectors)
	f.Selectors = slices.DeleteFunc(f.Selectors, func(s v1alpha1.FederationSelector) bool {
		return len(s.Meshes) > 0 && !slices.ContainsFunc(s.Meshes, func(ref v1alpha1.ObjectRef) bool { return !its(ref) })
	})
	for i := range f.Selectors {
		f.Selectors[i].Meshes = slices.DeleteFunc(f.Selectors[i].Meshes, its)
	}
	if had > 0 && len(f.Selectors) == 0 {
		f.Permissive = nil // which counts where there are no selectors
	}
}

// String says what is going to happen.
func (e *eviction) String() string {
	lines := []string{fmt.Sprintf("Cluster %s is shut out: its credential is revoked, and %d orders for its certificates are deleted.", e.cluster, len(e.orders))}
	for _, edit := range e.edits {
		line := fmt.Sprintf("VirtualMesh %s loses %s", edit.is.Name, strings.Join(edit.gone, ", "))
		if len(edit.gone) == 0 {
			line = fmt.Sprintf("VirtualMesh %s has lost its meshes already", edit.is.Name)
		}
		if edit.noRotation == nil {
			line += ", and gets a new root"
		}
		if edit.followed != "" {
			line += "; it follows " + edit.followed + " no more"
		}
		lines = append(lines, line+".")
	}
	return strings.Join(lines, "\n")
}

func (e *eviction) run(ctx context.Context) error {
	if err := e.mark(ctx); err != nil {
		return err
	}
	if err := e.revoke(ctx); err != nil {
		return err
	}
	for _, edit := range e.edits {
		if err := e.hub.edit(ctx, edit.was, edit.is); err != nil {
			return err
		}
		e.progress.did("VirtualMesh %s is without %s", edit.is.Name, cmp.Or(strings.Join(edit.gone, ", "), "meshes of cluster "+e.cluster+" already"))
		if edit.followed != "" {
			e.progress.did("It follows %s no more, which would put that back: go on with the VirtualMesh, and delete that object", edit.followed)
		}
		e.rotates(edit)
	}
	if err := e.letGo(ctx); err != nil {
		return err
	}
	if err := e.deleteOrders(ctx); err != nil {
		return err
	}
	e.progress.did("When nothing of cluster %s is needed any more: `meshctl cluster deregister %s --force`", e.cluster, e.cluster)
	return nil
}

// rotates says what becomes of the root that the cluster knows.
func (e *eviction) rotates(edit edit) {
	if edit.noRotation != nil {
		e.progress.did("No rotation begins by itself: %v", edit.noRotation)
		return
	}
	e.progress.did("It gets a new root; until it has, what cluster %s holds is trusted: see `meshctl rotation status %s --watch`", e.cluster, edit.is.Name)
}

// mark keeps the reason, and when this began.
func (e *eviction) mark(ctx context.Context) error {
	was := e.kc.DeepCopy()
	if e.kc.Annotations == nil {
		e.kc.Annotations = map[string]string{}
	}
	e.kc.Annotations[diagnosis.AnnotationEvicted] = fmt.Sprintf("%s (%s)", e.reason, e.since.Format(time.RFC3339))
	return e.hub.Patch(ctx, e.kc, client.MergeFrom(was), client.FieldOwner(owner))
}

// revoke has every token of the agent refused. Nobody is given another one.
func (e *eviction) revoke(ctx context.Context) error {
	anchor, err := e.hub.anchor(ctx, e.cluster)
	if err == nil {
		err = e.hub.Delete(ctx, anchor, client.Preconditions{UID: &anchor.UID})
	}
	if client.IgnoreNotFound(err) != nil {
		return err
	}
	e.progress.did("All credentials of the agent of %s are revoked", e.cluster)
	return nil
}

// letGo waits until no VirtualMesh counts on the cluster's meshes: until then the hub would order again what is deleted.
func (e *eviction) letGo(ctx context.Context) error {
	return e.hub.until(ctx, func(ctx context.Context) (string, error) {
		virtualMeshes := &v1alpha1.VirtualMeshList{}
		if err := e.hub.List(ctx, virtualMeshes, client.InNamespace(e.namespace)); err != nil {
			return "", err
		}
		for i := range virtualMeshes.Items {
			if waitingFor := countsOn(&virtualMeshes.Items[i], kube.ClusterNamespace(e.cluster)); waitingFor != "" {
				return waitingFor, nil
			}
		}
		return "", nil
	}, changesOf(&v1alpha1.VirtualMeshList{}, client.InNamespace(e.namespace)))
}

func (e *eviction) deleteOrders(ctx context.Context) error {
	for i := range e.orders {
		if err := client.IgnoreNotFound(e.hub.Delete(ctx, &e.orders[i])); err != nil {
			return err
		}
		e.progress.did("The hub signs nothing for mesh %s any more", e.orders[i].Name)
	}
	return nil
}
