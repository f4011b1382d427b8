package meshctl

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/membership"
)

// describer describes one kind of object.
type describer struct {
	use, short string
	aliases    []string
	list       func() client.ObjectList
	// write describes obj; hub is for reading what goes with it.
	write func(ctx context.Context, hub *cluster, obj client.Object, w *description) error
}

func newDescribe(c *cli) *cobra.Command {
	var commands []*cobra.Command
	for _, d := range []describer{
		{"virtualmesh", "Its members, their trust and its roots, what it federates and what it allows", []string{"vmesh"}, func() client.ObjectList { return &v1alpha1.VirtualMeshList{} }, describeVirtualMesh},
		{"mesh", "Its control planes, its CA and its order, its gateways, and what is applied to it", nil, func() client.ObjectList { return &v1alpha1.MeshList{} }, describeMesh},
		{"destination", "A service of a mesh: as what it is federated, and who may call it", []string{"dest"}, func() client.ObjectList { return &v1alpha1.DestinationList{} }, describeDestination},
		{"accesspolicy", "Who may call what, and where that is in force", []string{"accesspol"}, func() client.ObjectList { return &v1alpha1.AccessPolicyList{} }, describeAccessPolicy},
		{"virtualdestination", "One name for a service of several clusters, and which of them serve it in which mesh", []string{"vdest"}, func() client.ObjectList { return &v1alpha1.VirtualDestinationList{} }, describeVirtualDestination},
		{"workload", "A workload of a mesh", []string{"wl"}, func() client.ObjectList { return &v1alpha1.WorkloadList{} }, describeWorkload},
	} {
		commands = append(commands, newDescribeKind(c, d))
	}
	return group("describe", "Show an object and what goes with it", commands...)
}

func newDescribeKind(c *cli, d describer) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:     d.use + " NAME",
		Aliases: d.aliases,
		Short:   d.short,
		Long:    d.short + ".\n\nThe object is looked for in all namespaces, or in that of --namespace if it is given.",
		Args:    oneArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := c.waiting(cmd)
			defer cancel()
			hub, err := c.hub()
			if err != nil {
				return err
			}
			namespace := ""
			if cmd.Flags().Changed("namespace") {
				namespace = c.namespace
			}
			found, err := hub.named(ctx, d, args[0], namespace)
			if err != nil {
				return err
			}
			for i, obj := range found {
				if done, err := output.structured(c.Out, obj); done {
					if err != nil {
						return err
					}
					continue
				}
				if i > 0 {
					_, _ = fmt.Fprintln(c.Out)
				}
				w := newDescription()
				w.field("Name", obj.GetName())
				w.field("Namespace", obj.GetNamespace())
				w.field("Age", age(obj.GetCreationTimestamp()))
				if err := d.write(ctx, hub, obj, w); err != nil {
					return err
				}
				hub.events(ctx, obj, w)
				if err := w.print(c.Out); err != nil {
					return err
				}
			}
			return nil
		},
	}
	output.add(cmd, "text", "json", "yaml")
	return cmd
}

// named returns the objects of a name; a name may occur in several clusters.
func (c *cluster) named(ctx context.Context, d describer, name, namespace string) ([]client.Object, error) {
	list := d.list()
	if err := c.List(ctx, list, client.InNamespace(namespace), client.MatchingFields{"metadata.name": name}); err != nil {
		return nil, c.installed(err)
	}
	items, err := meta.ExtractList(list)
	if err != nil {
		return nil, err
	}
	var found []client.Object
	for _, item := range items {
		obj := item.(client.Object)
		gvk, err := apiutil.GVKForObject(obj, scheme)
		if err != nil {
			return nil, err
		}
		obj.GetObjectKind().SetGroupVersionKind(gvk)
		obj.SetManagedFields(nil)
		found = append(found, obj)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no %s is named %q; `kubectl get %s -A` lists them", d.use, name, d.use)
	}
	return found, nil
}

// events adds the latest events of an object.
func (c *cluster) events(ctx context.Context, obj client.Object, w *description) {
	events := &corev1.EventList{}
	if err := c.List(ctx, events, client.InNamespace(obj.GetNamespace()), client.MatchingFields{"involvedObject.uid": string(obj.GetUID())}); err != nil || len(events.Items) == 0 {
		return // they are a help, and may not be readable
	}
	at := func(e corev1.Event) time.Time {
		if !e.LastTimestamp.IsZero() {
			return e.LastTimestamp.Time
		}
		if e.Series != nil {
			return e.Series.LastObservedTime.Time
		}
		return e.EventTime.Time
	}
	slices.SortFunc(events.Items, func(a, b corev1.Event) int { return at(a).Compare(at(b)) })
	w.section("Events")
	for _, e := range events.Items[max(0, len(events.Items)-10):] {
		w.row(age(metav1.NewTime(at(e))), e.Type, e.Reason, e.Message)
	}
}

func describeVirtualMesh(ctx context.Context, hub *cluster, obj client.Object, w *description) error {
	vm := obj.(*v1alpha1.VirtualMesh)
	w.field("Display name", vm.Spec.DisplayName)
	w.field("State", string(vm.Status.State))
	if accepted := vm.Status.Accepted; accepted == nil {
		w.field("Accepted", "nothing yet")
	} else if accepted.Generation != vm.Generation {
		w.field("Accepted", fmt.Sprintf("generation %d; the present one is %d", accepted.Generation, vm.Generation))
	}
	w.field("Trust", trust(vm.Spec.MTLSConfig))
	w.field("Access", global(vm.Spec.GlobalAccessPolicy))
	w.field("TLS at servers", enforced(vm.Spec.Federation))
	w.conditions(vm.Status.Conditions)
	w.list("Errors", vm.Status.Errors)
	if len(vm.Status.Roots) > 0 {
		w.section("Roots")
		w.row("GENERATION", "ROLE", "SHA-256", "ENDS", "SUBJECT")
		for _, r := range vm.Status.Roots {
			w.row(fmt.Sprint(r.Generation), string(r.Role), r.Fingerprint, date(r.NotAfter), r.Subject)
		}
	}
	orders := &v1alpha1.IssuedCertificateList{}
	if err := hub.List(ctx, orders); err != nil {
		return err
	}
	w.members(vm, orders)
	if vm.Status.Rotation != nil && vm.Status.Rotation.Step != v1alpha1.StepNotRotating {
		w.rotation(viewRotation(vm, orders))
		w.steps(vm.Status.Rotation.Conditions)
	}
	w.federation(vm)
	return nil
}

// members adds how far each member is with the trust of the virtual mesh. Under limited trust that is a matter of its gateways; what
// was once ordered for the CA of a mesh is renewed also then, and told apart.
func (d *description) members(vm *v1alpha1.VirtualMesh, orders *v1alpha1.IssuedCertificateList) {
	trust := accept.TrustIn(vm.Status.Accepted)
	d.section("Members")
	if trust.ByGateways() {
		d.row("MESH", "STATE", "CERTIFICATE", "ROOT", "ENDS", "GATEWAYS")
	} else {
		d.row("MESH", "STATE", "CERTIFICATE", "ROOT", "ENDS", "ISTIOD", "PROXIES")
	}
	told := map[*v1alpha1.IssuedCertificate]bool{}
	for _, m := range vm.Spec.Meshes {
		name, namespace := m.Name, m.Namespace
		for key := range vm.Status.Meshes {
			if namespace == "" && strings.HasPrefix(key, name+".") {
				namespace = strings.TrimPrefix(key, name+".")
			}
		}
		approval := vm.Status.Meshes[kube.Qualified(name, namespace)]
		order := orderOf(orders, trust.Order(name), namespace)
		told[order] = true
		d.row(append([]string{name, string(approval.State)}, orderCells(order)...)...)
		for _, e := range approval.Errors {
			d.row("", e)
		}
	}
	var rows [][]string
	for _, o := range ordersBeside(vm, orders, told) {
		mesh, purpose := membership.OrderedFor(o.Name)
		what := "CA of the mesh"
		if purpose == v1alpha1.PurposeGateway {
			what = "gateways"
		}
		rows = append(rows, append([]string{mesh, what}, orderCells(o)...))
	}
	d.table("Renewed as well", []string{"MESH", "OF", "CERTIFICATE", "ROOT", "ENDS", "", ""}, rows)
}

func orderOf(orders *v1alpha1.IssuedCertificateList, name, namespace string) *v1alpha1.IssuedCertificate {
	for i := range orders.Items {
		if o := &orders.Items[i]; o.Name == name && o.Namespace == namespace {
			return o
		}
	}
	return nil
}

// ordersBeside are the orders of a virtual mesh that were not told yet: those for another trust than the present one, or for meshes
// that are no members any more. They are kept, renewed, and rotate by themselves.
func ordersBeside(vm *v1alpha1.VirtualMesh, orders *v1alpha1.IssuedCertificateList, told map[*v1alpha1.IssuedCertificate]bool) (out []*v1alpha1.IssuedCertificate) {
	for i := range orders.Items {
		o := &orders.Items[i]
		if ref := o.Spec.VirtualMesh; ref.Name == vm.Name && ref.Namespace == vm.Namespace && !told[o] {
			out = append(out, o)
		}
	}
	return out
}

// orderCells are state, root, end, istiods and proxies of an order.
func orderCells(o *v1alpha1.IssuedCertificate) []string {
	if o == nil {
		return []string{"none", "", "", "", ""}
	}
	cells := []string{string(o.Status.State), "", "", "", ""}
	if c := o.Status.Certificate; c != nil {
		cells[1], cells[2] = abbreviated(c.Signer), date(c.NotAfter)
	}
	if cp := o.Status.ControlPlane; cp != nil {
		done := 0
		for _, r := range cp.Replicas {
			if r.Signer == o.Spec.Signer {
				done++
			}
		}
		cells[3] = fmt.Sprintf("%d/%d", done, len(cp.Replicas))
	}
	if p := o.Status.Proxies; p != nil {
		cells[4] = fmt.Sprintf("%d/%d", p.SignedByNew, p.Total)
	}
	return cells
}

func describeMesh(ctx context.Context, hub *cluster, obj client.Object, w *description) error {
	mesh := obj.(*v1alpha1.Mesh)
	istio := mesh.Spec.Istio
	w.field("Cluster", mesh.Spec.Cluster)
	w.field("Root namespace", istio.RootNamespace)
	w.field("Trust domain", istio.TrustDomain)
	w.field("Its aliases", strings.Join(istio.TrustDomainAliases, " "))
	w.field("Cluster domain", istio.ClusterDomain)
	w.field("Network", istio.Network)
	w.field("DNS capture", yes(istio.SmartDNSProxyingEnabled))
	w.field("Signed by", strings.TrimSpace(string(istio.CertificateAuthority)+" "+istio.CertificateAuthorityMessage))
	if len(istio.Revisions) > 0 {
		w.section("Control planes")
		w.row("REVISION", "DEPLOYMENT", "VERSION", "REPLICAS", "LIVE ROOTS", "LIVE PROXIES")
		for _, r := range istio.Revisions {
			w.row(r.Name, r.Deployment, r.Version, fmt.Sprint(r.Replicas), yes(r.MultiRootMesh), yes(r.ProxyConfigXDSAgent))
		}
	}
	if ca := mesh.Status.CertificateAuthority; ca != nil {
		w.section("Certificate authority in use")
		w.row("Source", string(ca.Source))
		w.row("Virtual mesh", ca.VirtualMesh)
		w.row("Signer", ca.Signer)
		w.row("Roots", strings.Join(ca.Roots, " "))
		w.row("Seen at istiod", strings.Join(ca.InUse, " "))
		if ca.NotAfter != nil {
			w.row("Ends", date(*ca.NotAfter))
		}
	}
	if c := mesh.Status.GatewayCertificate; c != nil {
		w.section("Certificate in use by the gateways of limited trust")
		w.row("Virtual mesh", c.VirtualMesh)
		w.row("Signer", c.Signer)
		w.row("Roots", strings.Join(c.Roots, " "))
		if c.NotAfter != nil {
			w.row("Ends", date(*c.NotAfter))
		}
	}
	gateways, err := hub.gatewayOrder(ctx, mesh)
	if err != nil {
		return err
	}
	if gateways != nil {
		w.section("Order of the gateways")
		w.row("State", string(gateways.Status.State))
		w.row("Issuance", fmt.Sprint(gateways.Spec.Issuance))
		w.row("Signer", gateways.Spec.Signer)
		if e := gateways.Status.Error; e != "" {
			w.row("Error", e)
		}
		for _, c := range gateways.Status.Conditions {
			w.row(c.Type, string(c.Status), c.Reason, c.Message)
		}
		if seen := gateways.Status.ControlPlane; seen != nil {
			for _, r := range seen.Replicas {
				w.row("Gateway", r.Pod, abbreviated(r.Signer), r.Error)
			}
		}
	}
	order, err := hub.order(ctx, mesh)
	if err != nil {
		return err
	}
	if order != nil {
		w.section("Order")
		w.row("State", string(order.Status.State))
		w.row("Issuance", fmt.Sprint(order.Spec.Issuance))
		w.row("Signer", order.Spec.Signer)
		for _, c := range order.Status.Conditions {
			w.row(c.Type, string(c.Status), c.Reason, c.Message)
		}
		if p := order.Status.Proxies; p != nil {
			w.row("Proxies", fmt.Sprintf("%d of %d under the signer, %d unknown", p.SignedByNew, p.Total, p.Unknown))
			for _, l := range p.Laggards {
				w.row("", l)
			}
		}
	}
	w.vault(mesh.Status.Vault)
	w.predecessor(mesh.Status.Predecessor)
	w.gateways(istio.Gateways)
	w.applied(mesh)
	w.conditions(mesh.Status.Conditions)
	w.list("Errors", mesh.Status.Errors)
	return nil
}

// vault adds what the agent found at the Vault server of the mesh's virtual mesh; v may be nil.
func (d *description) vault(v *v1alpha1.MeshVault) {
	if v == nil {
		return
	}
	d.section("At Vault")
	d.row("Virtual mesh", v.VirtualMesh)
	d.row("Server", v.Server)
	if v.Namespace != "" {
		d.row("Namespace", v.Namespace)
	}
	d.row("Path", v.CAPath)
	if v.Root != nil {
		d.row("Root", v.Root.Fingerprint)
	}
	if v.Reason != "" {
		d.row("Error", v.Reason+" "+v.Message)
	}
}

// predecessor adds what an older installation has left in the cluster; p may be nil.
func (d *description) predecessor(p *v1alpha1.PredecessorStatus) {
	if p == nil || len(p.Running) == 0 && !p.CACerts && len(p.Kinds) == 0 && len(p.Objects) == 0 {
		return
	}
	d.section("Left by an older installation")
	for _, name := range p.Running {
		d.row("Runs", name)
	}
	if p.CACerts {
		d.row("Has made", "cacerts")
	}
	for _, k := range p.Kinds {
		d.row("Has made", fmt.Sprintf("%d %s", k.Count, k.Kind))
	}
	for _, o := range p.Objects {
		d.row("", o)
	}
}

func describeWorkload(_ context.Context, _ *cluster, obj client.Object, w *description) error {
	spec := obj.(*v1alpha1.Workload).Spec
	w.field("Cluster", spec.Cluster)
	w.field("Mesh", spec.Mesh)
	w.field("Controller", fmt.Sprintf("%s %s", spec.Controller.Kind, kube.Qualified(spec.Controller.Name, spec.Controller.Namespace)))
	w.field("Data plane", string(spec.DataPlane))
	w.field("Revision", spec.Revision)
	w.field("Service account", spec.ServiceAccount)
	w.field("Pod labels", pairs(spec.PodLabels))
	return nil
}

// description is text in aligned columns.
type description struct {
	buffer bytes.Buffer
	tabs   *tabwriter.Writer
}

func newDescription() *description {
	d := &description{}
	d.tabs = tabwriter.NewWriter(&d.buffer, 0, 0, 2, ' ', 0)
	return d
}

func (d *description) print(w io.Writer) error {
	if err := d.tabs.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(d.buffer.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// field writes a name and a value, if there is one.
func (d *description) field(name, value string) {
	if value != "" {
		_, _ = fmt.Fprintf(d.tabs, "%s:\t%s\n", name, printable(value))
	}
}

// section begins a new one, whose columns are aligned by themselves.
func (d *description) section(title string) {
	_ = d.tabs.Flush()
	_, _ = fmt.Fprintf(&d.buffer, "%s:\n", title)
}

func (d *description) row(cells ...string) {
	shown := make([]string, len(cells))
	for i, c := range cells {
		shown[i] = printable(c)
	}
	_, _ = fmt.Fprintf(d.tabs, "  %s\n", strings.Join(shown, "\t"))
}

func (d *description) list(title string, items []string) {
	if len(items) == 0 {
		return
	}
	d.section(title)
	for _, item := range items {
		d.row(item)
	}
}

func (d *description) conditions(conditions []metav1.Condition) {
	if len(conditions) == 0 {
		return
	}
	d.section("Conditions")
	for _, c := range conditions {
		d.row(c.Type, string(c.Status), c.Reason, c.Message)
	}
}

func date(t metav1.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateTime)
}

// abbreviated is the beginning of a fingerprint, enough to tell roots apart.
func abbreviated(fingerprint string) string { return fingerprint[:min(16, len(fingerprint))] }

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func pairs(m map[string]string) string {
	var out []string
	for k, v := range m {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}
