package certificates

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent/evidence"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/membership"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// gatewaysOwner is the field manager of status.gatewayCertificate of Meshes.
const gatewaysOwner = "isthmus-agent-gateways"

// gatewayReview is when gateways are looked at again though nothing is known to have changed: their Secret is not watched, as the
// agent may read no other one of their namespace.
const gatewayReview = time.Minute

// checkGateway refuses an order for gateways that no agent should carry out, whoever wrote it.
func (r *Requester) checkGateway(o *v1alpha1.IssuedCertificate) error {
	ref := o.Spec.IssuedCertificateSecret
	if ref.Name != v1alpha1.GatewaySecretName || ref.Namespace == r.store.namespace || slices.Contains(r.RootNamespaces, ref.Namespace) {
		return stalled(ReasonInvalidOrder, "the order is for Secret %s/%s, but for gateways this agent writes only Secret %s, in a namespace that is neither its own nor istiod's",
			ref.Namespace, ref.Name, v1alpha1.GatewaySecretName)
	}
	mesh, _ := membership.OrderedFor(o.Name)
	if !slices.ContainsFunc(r.RootNamespaces, func(ns string) bool { return o.Name == membership.GatewayOrder(kube.MeshName(ns, r.Cluster)) }) {
		return stalled(ReasonInvalidOrder, "mesh %s is none of this cluster", mesh)
	}
	return nil
}

// installGateway gives gateways their certificate and looks whether they use it: which they do without a restart, as soon as istiod
// has passed it on. It returns when to look again. A *stall is an error for the report.
func (i *Installer) installGateway(ctx context.Context, w *wanted, report *Report) (time.Duration, error) {
	ref := w.Order.Spec.IssuedCertificateSecret
	live, err := i.readCACerts(ctx, w)
	if err == nil && !w.Order.Spec.Suspend {
		live, err = i.writeGatewaySecret(ctx, live, w)
	}
	if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
		return gatewayReview, stalled(ReasonNoGateways, "the agent cannot write Secret %s/%s: install the chart isthmus-gateways in namespace %s of this cluster (meshctl gateway install): %v",
			ref.Namespace, ref.Name, ref.Namespace, err)
	}
	if err != nil {
		return gatewayReview, err
	}
	identity := w.Order.Spec.Hosts[0]
	report.Certificate = heldByGateways(live, w)
	if w.Spare != nil {
		report.Prepared = intermediateStatus(w.Spare.Material, w.Spare.Issuance)
	}
	report.Carried = w.Order.Spec.Carried()
	if !w.Order.Spec.Suspend {
		if err := i.listeners(ctx, w.Mesh,
			evidence.CredentialListener(ref.Namespace, v1alpha1.GatewayRoleIngress, identity),
			evidence.CredentialListener(ref.Namespace, v1alpha1.GatewayRoleEgress, identity)); err != nil {
			return 0, err
		}
	}
	pods, err := i.gateways(ctx, ref.Namespace)
	if err != nil {
		return 0, err
	}
	views, err := i.viewGateways(ctx, pods, identity, w)
	if err != nil {
		return 0, err
	}
	report.ControlPlane = &v1alpha1.ControlPlaneEvidence{MultiRoot: true, Published: true}
	report.Proxies = &v1alpha1.ProxyEvidence{}
	var behind []string
	for _, v := range views {
		report.ControlPlane.Replicas = append(report.ControlPlane.Replicas, v.status)
		if v.why != "" {
			behind = append(behind, v.status.Pod+": "+v.why)
		}
	}
	report.Gateways = certificateInUse(views, w)
	switch {
	case len(views) == 0:
		report.Waiting = &note{ReasonNoGateways, fmt.Sprintf("no gateway runs in namespace %s: see the Deployments of the chart isthmus-gateways", ref.Namespace)}
		return gatewayReview, nil
	case len(behind) > 0:
		report.Waiting = &note{ReasonInstalling, fmt.Sprintf("%d of %d gateways are not seen to be as ordered yet: %s", len(behind), len(views), behind[0])}
		return recheck, nil
	}
	report.InUse = true
	return gatewayReview, nil
}

// writeGatewaySecret makes the Secret of gateways be as wanted, by one write if any, and returns it as it is then.
func (i *Installer) writeGatewaySecret(ctx context.Context, live *corev1.Secret, w *wanted) (*corev1.Secret, error) {
	ref := w.Order.Spec.IssuedCertificateSecret
	key, err := pki.EncodeKey(w.CA.Key)
	if err != nil {
		return nil, err
	}
	next := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ref.Namespace, Name: ref.Name}, Type: corev1.SecretTypeTLS}
	if live != nil {
		empty := !slices.ContainsFunc(slices.Collect(maps.Values(live.Data)), func(v []byte) bool { return len(v) > 0 })
		if live.Labels[v1alpha1.LabelManagedBy] != managedBy && !empty {
			return live, stalled(ReasonForeignSecret, "Secret %s/%s was made by somebody else: delete it, or install the gateways in another namespace", ref.Namespace, ref.Name)
		}
		next = live.DeepCopy()
	}
	next.Data = map[string][]byte{
		corev1.TLSCertKey: w.CA.Chain().PEM(), corev1.TLSPrivateKeyKey: key, corev1.ServiceAccountRootCAKey: w.CA.Roots.PEM(),
	}
	next.Labels, next.Annotations = with(next.Labels, labels(w.Order.Spec)), with(next.Annotations, map[string]string{
		v1alpha1.LabelVirtualMesh: kube.Qualified(w.Order.Spec.VirtualMesh.Name, w.Order.Spec.VirtualMesh.Namespace),
	})
	switch {
	case live == nil:
		err = i.Client.Create(ctx, next, client.FieldOwner(managedBy))
	case maps.EqualFunc(live.Data, next.Data, slices.Equal) && maps.Equal(live.Labels, next.Labels) && maps.Equal(live.Annotations, next.Annotations):
		return live, nil
	default:
		err = i.Client.Update(ctx, next, client.FieldOwner(managedBy)) // of that resource version and no other
	}
	if err != nil {
		return nil, err
	}
	i.Recorder.Eventf(next, nil, corev1.EventTypeNormal, ReasonGatewaySecretWritten, "Install",
		"Secret %s/%s: certificate of issuance %d under root %s", ref.Namespace, ref.Name, w.Issuance, w.CA.Root.ID().Short())
	return next, nil
}

// ReasonGatewaySecretWritten says in an event that the Secret of gateways was written.
const ReasonGatewaySecretWritten = "GatewaySecretWritten"

// with returns m with all pairs of more.
func with(m, more map[string]string) map[string]string {
	out := maps.Clone(m)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, more)
	return out
}

// heldByGateways describes what the Secret of gateways holds; nil if that is not what is wanted.
func heldByGateways(live *corev1.Secret, w *wanted) *v1alpha1.IntermediateStatus {
	if live == nil || string(live.Data[corev1.TLSCertKey]) != string(w.CA.Chain().PEM()) || string(live.Data[corev1.ServiceAccountRootCAKey]) != string(w.CA.Roots.PEM()) {
		return nil
	}
	return intermediateStatus(w.CA.Material, w.Issuance)
}

// gateways of limited trust that run in a namespace.
func (i *Installer) gateways(ctx context.Context, namespace string) (out []corev1.Pod, err error) {
	var pods corev1.PodList
	if err := i.Client.List(ctx, &pods, client.InNamespace(namespace), client.HasLabels{v1alpha1.LabelGateway}); err != nil {
		return nil, err
	}
	for _, p := range pods.Items {
		if evidence.ProxyContainer(&p.Spec) != nil && p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning && p.Status.PodIP != "" {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// gatewayView is what one gateway was seen to use; why says what it lacks, and is empty if it is as ordered.
type gatewayView struct {
	status v1alpha1.IstiodReplica
	why    string
}

// viewGateways asks gateways what they use. Those that came and went meanwhile are left out.
func (i *Installer) viewGateways(ctx context.Context, pods []corev1.Pod, identity string, w *wanted) (out []gatewayView, err error) {
	canaries := []evidence.Canary{evidence.OwnCanary(w.CA.Material)}
	if w.Spare != nil {
		canaries = append(canaries, evidence.OwnCanary(w.Spare.Material))
	}
	addresses := make([]string, len(pods))
	for k := range pods {
		addresses[k] = pods[k].Status.PodIP
	}
	sights := evidence.AskGateways(ctx, addresses, identity, canaries)
	after, err := i.gateways(ctx, w.Order.Spec.IssuedCertificateSecret.Namespace)
	if err != nil {
		return nil, err
	}
	for k, p := range pods {
		if slices.ContainsFunc(after, func(a corev1.Pod) bool { return a.UID == p.UID && a.Status.PodIP == p.Status.PodIP }) {
			out = append(out, viewGateway(p.Name, sights[k], w, i.Now()))
		}
	}
	return out, nil
}

// viewGateway judges what a gateway showed. A root that the order has counts if a certificate under it was accepted; one that it has
// not counts unless that was refused.
func viewGateway(pod string, seen evidence.Sight, w *wanted, now time.Time) gatewayView {
	v := gatewayView{status: v1alpha1.IstiodReplica{Pod: pod}}
	if seen.Err != nil {
		v.status.Error = fmt.Sprintf("it does not answer as it should at port %d of its pod", evidence.CredentialPort)
		v.why = v.status.Error
		return v
	}
	known := pki.NewBundle(w.CA.Root)
	if w.Spare != nil {
		known = known.Append(w.Spare.Root)
	}
	if signer, ok := seen.Signer(known, now); ok {
		v.status.Signer = signer.String()
	}
	if v.status.Signer != w.CA.Root.ID().String() || !seen.Chain[0].Equal(w.CA.Certificate) {
		v.why = "it presents another certificate"
	}
	for _, root := range w.CA.Roots.Roots() {
		if seen.Answers[root.ID()] == evidence.Accepted {
			v.status.Roots = append(v.status.Roots, root.ID().String())
		} else {
			v.why = "it is not seen to accept certificates under root " + root.ID().Short()
		}
	}
	if w.Spare != nil && !w.CA.Roots.Contains(w.Spare.Root.ID()) && seen.Answers[w.Spare.Root.ID()] != evidence.Refused {
		v.status.Roots = append(v.status.Roots, w.Spare.Root.ID().String())
		v.why = "it is not seen to refuse certificates under root " + w.Spare.Root.ID().Short()
	}
	v.status.Clients = slices.Clone(v.status.Roots)
	return v
}

// certificateInUse is what every gateway was seen to use.
func certificateInUse(views []gatewayView, w *wanted) *v1alpha1.MeshGatewayCertificate {
	vm := w.Order.Spec.VirtualMesh
	out := &v1alpha1.MeshGatewayCertificate{VirtualMesh: kube.Qualified(vm.Name, vm.Namespace)}
	for k, v := range views {
		if k == 0 {
			out.Signer, out.Roots = v.status.Signer, slices.Clone(v.status.Roots)
		}
		if v.status.Signer != out.Signer {
			out.Signer = ""
		}
		out.Roots = slices.DeleteFunc(out.Roots, func(root string) bool { return !slices.Contains(v.status.Roots, root) })
	}
	if out.Signer == w.CA.Root.ID().String() {
		out.NotAfter = new(metav1.NewTime(w.CA.Certificate.NotAfter))
	}
	return out
}

// reportGateways says in the Mesh what its gateways use. While they change over, and after a start until they were looked at, what was
// said before stands.
func (r *Requester) reportGateways(ctx context.Context, o *v1alpha1.IssuedCertificate, report *Report) error {
	if report == nil || report.Gateways == nil {
		return nil
	}
	name, _ := membership.OrderedFor(o.Name)
	mesh := &v1alpha1.Mesh{}
	if err := r.Hub.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: name}, mesh); err != nil {
		return client.IgnoreNotFound(err)
	}
	is := report.Gateways.DeepCopy()
	if was := mesh.Status.GatewayCertificate; was != nil && was.VirtualMesh == is.VirtualMesh && (is.Signer == "" || len(is.Roots) == 0) {
		is = was
	}
	want := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: mesh.Namespace, Name: mesh.Name}}
	want.Status.GatewayCertificate = is
	if err := kube.ApplyStatus(ctx, r.Hub, gatewaysOwner, mesh, want); err != nil && !apierrors.IsConflict(err) {
		return fmt.Errorf("status of Mesh %s: %w", mesh.Name, err)
	}
	return nil
}
