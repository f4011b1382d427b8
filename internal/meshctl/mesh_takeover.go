package meshctl

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/federation"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/legacy"
)

// takeover puts what Isthmus makes in the place of what an older installation has left in one mesh.
type takeover struct {
	*cli
	apply       bool
	hub, member *cluster
	mesh        *v1alpha1.Mesh
}

func newMeshTakeover(c *cli) *cobra.Command {
	t := &takeover{cli: c}
	cmd := &cobra.Command{
		Use:   "takeover MESH",
		Short: "Put what Isthmus makes in the place of what an older installation has left",
		Long: `Lists what an installation of an older generation of the API (Service Mesh Hub, Gloo Mesh) has made of Istio's kinds in the member, with
what is to be done about it and why. With --apply it is done, as far as nothing that works is interrupted:

A ServiceEntry whose name the agent wants is handed over to it, and the agent puts its own in its place; of the first generation
also the DestinationRule, which has the same name. Of others the DestinationRule beside it goes then. By what others call this mesh through, such as gateways, is removed when no cluster calls in the old
way any more; so run it for each mesh, and then once more. What nothing here takes the place of is left to you.

Stopped at any point and run again, it goes on. It is refused while controllers of the older installation run in the member.`,
		Example: `  meshctl mesh takeover istiod-istio-system-east --context hub --member-context east
  meshctl mesh takeover istiod-istio-system-east --context hub --member-context east --apply`,
		Args: oneArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := c.waiting(cmd)
			defer cancel()
			return t.run(ctx, args[0])
		},
	}
	c.memberFlags(cmd)
	cmd.Flags().BoolVar(&t.apply, "apply", false, "do what is listed as `hand over` and `remove`")
	return cmd
}

func (t *takeover) run(ctx context.Context, name string) (err error) {
	if t.hub, err = t.cli.hub(); err != nil {
		return err
	}
	if t.mesh, err = t.hub.mesh(ctx, name); err != nil {
		return err
	}
	if t.member, err = t.memberOf(ctx, t.mesh); err != nil {
		return err
	}
	if !t.apply {
		steps, err := t.plan(ctx)
		if err != nil {
			return err
		}
		return t.print(steps)
	}
	if err := t.allowed(ctx); err != nil {
		return err
	}
	for {
		steps, err := t.plan(ctx)
		if err != nil {
			return err
		}
		done, err := t.carryOut(ctx, steps)
		if err != nil {
			return err
		}
		if !done {
			return t.print(steps)
		}
	}
}

// allowed refuses where two controllers would write the same, and where nothing of Isthmus's can be in force.
func (t *takeover) allowed(ctx context.Context) error {
	if t.mesh.Status.Predecessor == nil {
		return fmt.Errorf("the agent of mesh %s has not told yet what runs there of an older installation: see that it is connected and no older than meshctl, and try again", t.mesh.Name)
	}
	running, err := t.running(ctx)
	if err != nil {
		return err
	}
	if len(running) > 0 {
		return fmt.Errorf("an older installation still runs in the member, and would make again what is removed: %s; scale these Deployments to 0, and try again",
			strings.Join(running, ", "))
	}
	virtualMeshes := &v1alpha1.VirtualMeshList{}
	if err := t.hub.List(ctx, virtualMeshes); err != nil {
		return err
	}
	for i := range virtualMeshes.Items {
		if isMember(&virtualMeshes.Items[i], t.mesh) {
			return nil
		}
	}
	return fmt.Errorf("mesh %s is a member of no VirtualMesh, so that nothing takes the place of what is there: make it one first", t.mesh.Name)
}

// running are those of the controllers that the agent has seen which have replicas now: its report is up to a minute old.
func (t *takeover) running(ctx context.Context) (out []string, err error) {
	for _, name := range t.mesh.Status.Predecessor.Running {
		var key client.ObjectKey
		key.Namespace, key.Name, _ = strings.Cut(name, "/")
		d := &appsv1.Deployment{}
		if err := t.member.Get(ctx, key, d); err != nil {
			if client.IgnoreNotFound(err) == nil {
				continue
			}
			return nil, fmt.Errorf("%s: %w", t.member.role, err)
		}
		if d.Spec.Replicas == nil || *d.Spec.Replicas > 0 {
			out = append(out, name)
		}
	}
	return out, nil
}

// plan reads what there is.
func (t *takeover) plan(ctx context.Context) ([]legacy.Step, error) {
	clusters, callers, err := t.others(ctx)
	if err != nil {
		return nil, err
	}
	var items []legacy.Item
	for _, kind := range legacy.OutputKinds() {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(kind)
		err := t.member.List(ctx, list)
		if meta.IsNoMatchError(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.member.role, err)
		}
		for i := range list.Items {
			if item := t.item(&list.Items[i], clusters); item.Old || item.Ours {
				items = append(items, item)
			}
		}
	}
	wanted, err := t.wanted(ctx)
	if err != nil {
		return nil, err
	}
	return legacy.Takeover(items, callers, wanted), nil
}

// others are the clusters that have meshes, and which of those beside the member still call in the old way, or have not told: what
// they call through goes when they have told that they do not.
func (t *takeover) others(ctx context.Context) (clusters, callers []string, err error) {
	meshes, registered := &v1alpha1.MeshList{}, &v1alpha1.KubernetesClusterList{}
	if err := errors.Join(t.hub.List(ctx, meshes), t.hub.List(ctx, registered, client.InNamespace(t.namespace))); err != nil {
		return nil, nil, err
	}
	const untold = " (its agent has not told)"
	calls := map[string]string{} // what is to be said of a cluster: "" of one that does not call
	for i := range meshes.Items {
		m := &meshes.Items[i]
		name, ok := kube.ClusterOf(m.Namespace)
		if !ok {
			continue
		}
		clusters = append(clusters, name)
		said := ""
		switch p := m.Status.Predecessor; {
		case p == nil || p.Imports == nil:
			said = name + untold
		case *p.Imports > 0:
			said = name
		}
		calls[name] = max(calls[name], said) // the worst of its meshes
	}
	for _, kc := range registered.Items {
		if _, ok := calls[kc.Name]; !ok {
			calls[kc.Name] = kc.Name + untold
		}
	}
	own, _ := kube.ClusterOf(t.mesh.Namespace)
	delete(calls, own)
	return clusters, slices.DeleteFunc(slices.Collect(maps.Values(calls)), func(said string) bool { return said == "" }), nil
}

// wanted reports of a hostname of the first generation whether the member's agent would make it its own.
func (t *takeover) wanted(ctx context.Context) (func(host string) bool, error) {
	virtualMeshes := &v1alpha1.VirtualMeshList{}
	if err := t.hub.List(ctx, virtualMeshes); err != nil {
		return nil, err
	}
	for i := range virtualMeshes.Items {
		vm := &virtualMeshes.Items[i]
		if !isMember(vm, t.mesh) || vm.Status.Accepted.Spec.Federation == nil || !vm.Status.Accepted.Spec.Federation.ShortHostnames {
			continue
		}
		listed, err := t.member.agentArgument(ctx, "short-hostname-clusters")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.member.role, err)
		}
		return federation.Client{Mesh: t.mesh, ShortHostnameClusters: strings.Split(listed, ",")}.Takes, nil
	}
	return func(string) bool { return false }, nil
}

// item is what a takeover has to know of an object. A ServiceEntry or a DestinationRule is the agent's when the agent has written it.
func (t *takeover) item(o *unstructured.Unstructured, clusters []string) legacy.Item {
	i := legacy.Item{Kind: o.GetKind(), Namespace: o.GetNamespace(), Name: o.GetName()}
	i.Ours = o.GetLabels()[v1alpha1.LabelManagedBy] == networkManager
	switch i.Kind {
	case "ServiceEntry":
		i.Hosts, _, _ = unstructured.NestedStringSlice(o.Object, "spec", "hosts")
		to, _, _ := unstructured.NestedStringSlice(o.Object, "spec", "exportTo")
		i.Private = len(to) == 1 && to[0] == "."
		i.Ours = i.Ours && written(o)
	case "DestinationRule":
		i.Ours = i.Ours && written(o)
		if host, _, _ := unstructured.NestedString(o.Object, "spec", "host"); host != "" {
			i.Hosts = []string{host}
		}
	}
	i.Old = !i.Ours && (legacy.IsOutput(o) ||
		(i.Kind == "ServiceEntry" || i.Kind == "DestinationRule") && i.Namespace == t.mesh.Spec.Istio.RootNamespace && legacy.IsFederatedName(i.Name, clusters))
	return i
}

// written reports whether the agent has written an object.
func written(o metav1.Object) bool { return o.GetAnnotations()[v1alpha1.AnnotationDestination] != "" }

// carryOut does what can be done now. It stops after what was handed over, since more can be done then, and reports whether
// anything was done.
func (t *takeover) carryOut(ctx context.Context, steps []legacy.Step) (done bool, err error) {
	give := slices.DeleteFunc(slices.Clone(steps), func(s legacy.Step) bool { return s.Act != legacy.HandOver })
	for _, s := range give {
		if err := t.handOver(ctx, s); err != nil {
			return false, err
		}
	}
	for _, s := range give {
		if err := t.taken(ctx, s); err != nil {
			return false, err
		}
	}
	if len(give) > 0 {
		return true, nil
	}
	for _, s := range steps {
		if s.Act != legacy.Remove {
			continue
		}
		o := object(s)
		if err := t.member.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
			if client.IgnoreNotFound(err) == nil {
				continue
			}
			return false, err
		}
		uid := o.GetUID()
		if err := client.IgnoreNotFound(t.member.Delete(ctx, o, client.Preconditions{UID: &uid})); err != nil {
			return false, fmt.Errorf("%s: %w", t.member.role, err)
		}
		t.progress.did("Removed %s %s/%s: %s", s.Kind, s.Namespace, s.Name, s.Why)
		done = true
	}
	return done, nil
}

// handOver gives an object to the agent.
func (t *takeover) handOver(ctx context.Context, s legacy.Step) error {
	o := object(s)
	if err := t.member.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
		return err
	}
	if err := kube.HandOver(ctx, t.member, networkManager, o); err != nil {
		return fmt.Errorf("%s: %w", t.member.role, err)
	}
	return nil
}

// taken waits until the agent has put its own in the place of what was handed over.
func (t *takeover) taken(ctx context.Context, s legacy.Step) error {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(object(s).GroupVersionKind())
	named := []client.ListOption{client.InNamespace(s.Namespace), client.MatchingFields{metav1.ObjectNameField: s.Name}}
	err := t.member.until(ctx, func(ctx context.Context) (string, error) {
		if err := t.member.List(ctx, list, named...); err != nil {
			return "", err
		}
		switch {
		case len(list.Items) == 0:
			return "", errors.New("it is gone: see the agent's log")
		case written(&list.Items[0]):
			return "", nil
		}
		return fmt.Sprintf("the agent to write %s %s/%s", s.Kind, s.Namespace, s.Name), nil
	}, changesOf(list, named...))
	if err != nil {
		return fmt.Errorf("%s %s/%s was handed over to the agent, and is as it was: %w", s.Kind, s.Namespace, s.Name, err)
	}
	t.progress.did("Handed over %s %s/%s", s.Kind, s.Namespace, s.Name)
	return nil
}

// object of a step, to be read.
func object(s legacy.Step) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	for _, kind := range legacy.OutputKinds() {
		if kind.Kind == s.Kind {
			o.SetGroupVersionKind(kind)
		}
	}
	o.SetNamespace(s.Namespace)
	o.SetName(s.Name)
	return o
}

// print lists what is to be done, or is left.
func (t *takeover) print(steps []legacy.Step) error {
	if len(steps) == 0 {
		t.progress.did("Nothing of an older installation is left in mesh %s", t.mesh.Name)
		return nil
	}
	var rows [][]any
	for _, s := range steps {
		rows = append(rows, []any{string(s.Act), s.Kind, printable(s.Namespace + "/" + s.Name), printable(s.Why)})
	}
	return format("table").table(t.Out, []metav1.TableColumnDefinition{column("Act", 0), column("Kind", 0), column("Object", 0), column("Why", 0)}, rows)
}
