package certificates

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent/evidence"
	"github.com/isthmus-mesh/isthmus/internal/agent/restart"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// How long the installing half lets things take their course.
const (
	// recheck is when it looks again while something is on its way that cannot be watched: what a TLS server presents.
	recheck = 2 * time.Second
	// review is when it looks again though nothing is known to have changed.
	review = 5 * time.Minute
	// unseen is when it looks again between rotations at proxies that have not answered: the next rotation waits for what is known of
	// them.
	unseen = 30 * time.Second
	// liveControlPlane is how long istiod gets to take changed files, once its pod was touched so that the kubelet projects
	// them at once. istiod itself takes a fraction of a second.
	liveControlPlane = 30 * time.Second
	// liveProxies is how long proxies that follow without a restart get: a kubelet may project the ConfigMap of roots 90 s
	// late.
	liveProxies = 2 * time.Minute
	// following is how long live proxies get before one that was not nudged on its way counts as a laggard.
	following = 5 * time.Second
	// canaryLife is how long a canary is used: less than it is valid.
	canaryLife = 5 * time.Minute
	// WarmUp is for how many seconds an istiod has to be ready before the one that it replaces is ended. They are replaced one after
	// the other: one that ends forgets its endpoints some moments before it closes its port, and proxies that have just lost
	// another one must not find it.
	WarmUp = 5
	// rollouts of workloads at a time.
	rollouts = 4
)

// RootConfigMap is the name of the ConfigMap in which istiod publishes its roots in every namespace, under the key
// root-cert.pem.
const RootConfigMap = "istio-ca-root-cert"

// Installer is the half that works without the hub: it puts what is wanted into cacerts, sees to it that it is used, and
// reports.
type Installer struct {
	// Client of this cluster; reads pods and controllers from its cache.
	Client client.Client
	// Reader reads past the cache: Secrets, and ConfigMaps of roots.
	Reader client.Reader
	// Recorder of events, on cacerts.
	Recorder events.EventRecorder
	// Now is the clock.
	Now func() time.Time

	store   *store
	reports *Reports
	// single: this cluster has one mesh only, so every ConfigMap of roots is its own.
	single bool
	// projection is how late kubelets may project a changed ConfigMap.
	projection time.Duration

	mu sync.Mutex
	// proven holds, by mesh and by the UID of a pod, the order by which its proxy was seen to be.
	proven map[string]map[types.UID]string
	// canaries of each mesh.
	canaries map[string]canaries
}

// canaries are shown to the proxies of a mesh, one for each of its intermediates.
type canaries struct {
	of   string // which intermediates they are under
	made time.Time
	list []evidence.Canary
}

// Reconcile installs what is wanted for the mesh whose name is that of the request.
func (i *Installer) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	w, err := i.store.readWanted(ctx, req.Name)
	if err != nil {
		return ctrl.Result{}, err
	}
	if w == nil {
		i.reports.set(req.Name, nil)
		return ctrl.Result{}, i.listeners(ctx, req.Name)
	}
	report := &Report{Generation: w.Order.Generation}
	install := i.install
	if w.Order.Spec.Purpose == v1alpha1.PurposeGateway {
		install = i.installGateway
	}
	again, err := install(ctx, w, report)
	if err != nil && !errors.As(err, &report.Stall) {
		return ctrl.Result{}, err
	}
	i.reports.set(req.Name, report)
	return ctrl.Result{RequeueAfter: again}, nil
}

// install returns when to look again. A *stall is an error for the report.
func (i *Installer) install(ctx context.Context, w *wanted, report *Report) (time.Duration, error) {
	live, err := i.readCACerts(ctx, w)
	if err != nil {
		return 0, err
	}
	replicas, err := i.replicas(ctx, w)
	if err != nil {
		return 0, err
	}
	if first := w.first(live); first != nil && evidence.MultiRoot(replicas) {
		if live, err = i.writeCACerts(ctx, live, first); err != nil {
			return review, err
		}
		report.Certificate = i.held(live, first)
		if again, err := i.controlPlane(ctx, first, replicas, report); err != nil || !report.InUse {
			return again, err
		}
		report.InUse = false
	}
	if live, err = i.writeCACerts(ctx, live, w); err != nil {
		return review, err
	}
	if live == nil || live.Labels[v1alpha1.LabelManagedBy] != managedBy {
		report.Waiting = &note{v1alpha1.ReasonSuspended, "cacerts is left as it is"}
		return review, nil
	}
	report.Certificate = i.held(live, w)
	if w.Spare != nil {
		report.Prepared = intermediateStatus(w.Spare.Material, w.Spare.Issuance)
	}
	report.Carried = w.Order.Spec.Carried()
	again, err := i.controlPlane(ctx, w, replicas, report)
	if err != nil || !report.InUse {
		return again, err
	}
	return i.proxies(ctx, w, report)
}

// held describes what cacerts holds; nil if that is nothing of use.
func (i *Installer) held(live *corev1.Secret, w *wanted) *v1alpha1.IntermediateStatus {
	if live == nil {
		return nil
	}
	ca, err := pki.ReadCACerts(live.Data, i.Now())
	if err != nil {
		return nil
	}
	s := intermediateStatus(ca.Material, 0)
	if s.Fingerprint == fingerprint(w.CA.Certificate) {
		s.Issuance = w.Issuance
	}
	return s
}

// readCACerts returns cacerts; nil if there is none.
func (i *Installer) readCACerts(ctx context.Context, w *wanted) (*corev1.Secret, error) {
	ref := w.Order.Spec.IssuedCertificateSecret
	live := &corev1.Secret{}
	err := i.Reader.Get(ctx, types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}, live)
	if apierrors.IsNotFound(err) {
		return nil, nil //nolint:nilnil // there is none
	}
	return live, err
}

// replicas of the mesh's istiod.
func (i *Installer) replicas(ctx context.Context, w *wanted) ([]evidence.Replica, error) {
	var pods corev1.PodList
	if err := i.Client.List(ctx, &pods, client.InNamespace(w.Order.Spec.IssuedCertificateSecret.Namespace)); err != nil {
		return nil, err
	}
	return evidence.Replicas(pods.Items), nil
}

// writeCACerts makes cacerts, given as it is, be as wanted, by one write if any, and returns it as it is then; nil if there is
// none.
func (i *Installer) writeCACerts(ctx context.Context, live *corev1.Secret, w *wanted) (*corev1.Secret, error) {
	if w.Order.Spec.Suspend {
		return live, nil
	}
	ref := w.Order.Spec.IssuedCertificateSecret
	next, err := compose(live, w, i.Now())
	if err != nil || next == nil {
		return live, err
	}
	verb := "created"
	if live == nil {
		err = i.Client.Create(ctx, next, client.FieldOwner(managedBy))
	} else {
		verb = "replaced the content of"
		err = i.Client.Update(ctx, next, client.FieldOwner(managedBy)) // of that resource version and no other
	}
	if err != nil {
		return nil, err
	}
	i.Recorder.Eventf(next, nil, corev1.EventTypeNormal, ReasonCACertsReplaced, "Install",
		"%s Secret %s/%s: intermediate %s of issuance %d under root %s", verb, ref.Namespace, ref.Name,
		fingerprint(w.CA.Certificate)[:16], w.Issuance, w.CA.Root.ID().Short())
	return next, nil
}

// controlPlane looks whether every istiod uses what is wanted and helps it along.
func (i *Installer) controlPlane(ctx context.Context, w *wanted, replicas []evidence.Replica, report *Report) (time.Duration, error) {
	namespace := w.Order.Spec.IssuedCertificateSecret.Namespace
	views := make([]replicaView, len(replicas))
	for k, seen := range i.ask(ctx, w, replicas) {
		views[k] = viewReplica(replicas[k], seen, w, i.Now())
	}
	published, err := i.rootConfigMaps(ctx, namespace, w.CA.Roots)
	if err != nil {
		return 0, err
	}
	report.ControlPlane = &v1alpha1.ControlPlaneEvidence{RootConfigMaps: published, MultiRoot: evidence.MultiRoot(replicas)}
	for _, v := range views {
		report.ControlPlane.Replicas = append(report.ControlPlane.Replicas, v.status)
	}
	c := change{digest: w.digest(), token: w.token(), restart: w.Order.Spec.Restart.Istiod, nudge: w.CA.Roots.Nudge() > 0}
	plan := planControlPlane(views, c, i.Now())
	if !w.Order.Spec.Suspend {
		for _, pod := range plan.touch {
			if err := i.touch(ctx, pod, c.digest); err != nil {
				return 0, err
			}
		}
	}
	switch {
	case len(plan.behind) == 0 && len(views) > 0 && published.Done == published.Total:
		report.InUse = true
		return 0, i.setBack(ctx, w, views)
	case w.Order.Spec.Suspend:
		return review, nil
	case len(views) == 0:
		report.Waiting = &note{ReasonInstalling, "no replica of istiod is running in namespace " + namespace}
		return review, nil
	case len(plan.behind) == 0:
		report.Waiting = &note{ReasonInstalling, fmt.Sprintf("istiod has published the roots in %d of %d namespaces", published.Done, published.Total)}
		return recheck, nil
	case len(plan.inVain) > 0:
		return review, stalled(ReasonNotUsed, "istiod %s does not use Secret %s/%s although it was restarted; see its log, and whether it signs certificates at all", plan.inVain[0], namespace, CACertsName)
	case len(plan.restart) == 0:
		report.Waiting = &note{ReasonInstalling, fmt.Sprintf("istiod takes the new certificates: %s", plan.behind[0])}
		return recheck, nil
	case !w.Order.Spec.AutoRestartPods:
		report.Restart = fmt.Sprintf("istiod in namespace %s must be restarted (%s): run `meshctl mesh restart %s`, or set spec.mtlsConfig.autoRestartPods: true in the VirtualMesh", namespace, plan.behind[0], w.Mesh)
		return recheck, nil
	}
	return i.restart(ctx, restart.Plan{Waves: [][]restart.Target{plan.restart}, Token: c.token, Limit: rollouts, MinReady: WarmUp}, report, "istiod")
}

// setBack undoes what was changed of istiod's controllers for a restart.
func (i *Installer) setBack(ctx context.Context, w *wanted, views []replicaView) error {
	if w.Order.Spec.Suspend {
		return nil
	}
	var targets []restart.Target
	for _, v := range views {
		if t, ok := restart.Of(v.Pod); ok && v.Pod.Annotations[restart.Annotation] != "" {
			targets = append(targets, t)
		}
	}
	return restart.SetBack(ctx, i.Client, restart.Sort(targets)...)
}

// ask asks replicas of istiod what they use, and where a root was dropped, whether they let clients in under it.
func (i *Installer) ask(ctx context.Context, w *wanted, replicas []evidence.Replica) []evidence.Sight {
	if w.dropped() != "" {
		if canaries := i.canariesOf(w); len(canaries) > 0 {
			return evidence.AskReplicasWith(ctx, replicas, canaries)
		}
	}
	sights := make([]evidence.Sight, len(replicas))
	for k, seen := range evidence.AskReplicas(ctx, replicas) {
		sights[k].Seen = seen
	}
	return sights
}

// canariesOf are the canaries of the mesh's intermediates. One of which none can be made, as it has expired, is left out.
func (i *Installer) canariesOf(w *wanted) []evidence.Canary {
	under := []pki.Material{w.CA.Material}
	of := fingerprint(w.CA.Certificate)
	if w.Spare != nil {
		under = append(under, w.Spare.Material)
		of += fingerprint(w.Spare.Certificate)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if c := i.canaries[w.Mesh]; c.of == of && i.Now().Before(c.made.Add(canaryLife)) {
		return c.list
	}
	c := canaries{of: of, made: i.Now()}
	for _, m := range under {
		if canary, err := evidence.NewCanary(m, w.trustDomain(), i.store.namespace, c.made); err == nil {
			c.list = append(c.list, canary)
		}
	}
	if i.canaries == nil {
		i.canaries = map[string]canaries{}
	}
	i.canaries[w.Mesh] = c
	return c.list
}

// restart carries a plan on and reports how it stands.
func (i *Installer) restart(ctx context.Context, plan restart.Plan, report *Report, what string) (time.Duration, error) {
	progress, err := plan.Advance(ctx, i.Client)
	if apierrors.IsForbidden(err) {
		report.Restart = fmt.Sprintf("%s must be restarted, but this agent may not: %v", what, err)
		return review, nil
	}
	if err != nil {
		return 0, err
	}
	if progress.Done() {
		if blocked := restart.Sort(slices.Collect(maps.Keys(progress.Blocked))); len(blocked) > 0 {
			return review, stalled(ReasonRestartBlocked, "%s cannot be restarted: %s", blocked[0], progress.Blocked[blocked[0]])
		}
	}
	total := len(progress.Complete) + len(progress.Rolling) + len(progress.Waiting) + len(progress.Blocked)
	report.Waiting = &note{ReasonRestarting, fmt.Sprintf("restarting %s: %d of %d done", what, len(progress.Complete), total)}
	return recheck, nil
}

// touch changes an annotation of a pod, upon which its kubelet projects Secrets and ConfigMaps at once.
func (i *Installer) touch(ctx context.Context, pod *corev1.Pod, digest string) error {
	patched := pod.DeepCopy()
	if patched.Annotations == nil {
		patched.Annotations = map[string]string{}
	}
	patched.Annotations[annotationTouched] = touched{digest, i.Now()}.String()
	return client.IgnoreNotFound(i.Client.Patch(ctx, patched, client.MergeFrom(pod), client.FieldOwner(managedBy)))
}

// rootConfigMaps counts the ConfigMaps of roots that hold exactly the given roots.
func (i *Installer) rootConfigMaps(ctx context.Context, namespace string, want pki.Bundle) (*v1alpha1.Progress, error) {
	opts := []client.ListOption{client.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector("metadata.name", RootConfigMap)}}
	if !i.single {
		opts = append(opts, client.InNamespace(namespace))
	}
	var list corev1.ConfigMapList
	if err := i.Reader.List(ctx, &list, opts...); err != nil {
		return nil, err
	}
	p := &v1alpha1.Progress{Total: int32(len(list.Items))}
	for _, cm := range list.Items {
		if b, err := pki.ParseBundle([]byte(cm.Data[pki.RootCertKey])); err == nil && b.SameRoots(want) {
			p.Done++
		}
	}
	return p, nil
}

// proxies looks which proxies are behind and restarts them, or says that somebody must.
func (i *Installer) proxies(ctx context.Context, w *wanted, report *Report) (time.Duration, error) {
	spec := &w.Order.Spec
	if state := w.state(); w.InUse.State != state {
		if spec.Suspend {
			return review, nil
		}
		w.InUse = inUse{State: state, Since: i.Now().UTC()}
		if err := i.store.writeWanted(ctx, w); err != nil {
			return 0, err
		}
	}
	projected := w.InUse.Since
	if addsRoot(spec) {
		projected = projected.Add(i.projection)
	}
	report.ControlPlane.Published = !i.Now().Before(projected)
	pods, err := i.census(ctx, w)
	if err != nil {
		return 0, err
	}
	if err := i.listeners(ctx, w.Mesh, listenersOf(pods)...); err != nil {
		return 0, err
	}
	survey, err := i.survey(ctx, pods, w)
	if err != nil {
		return 0, err
	}
	report.Proxies = survey.evidence()
	behind := survey.behind()
	rotating := spec.Rotation != nil
	moving := &note{ReasonInstalling, fmt.Sprintf("%d of %d proxies are not seen to be as ordered yet", len(behind), len(survey.proxies))}
	switch {
	case spec.Suspend:
		return review, nil
	case len(behind) == 0 && report.ControlPlane.Published:
		return review, nil
	case len(behind) == 0:
		report.Waiting = &note{ReasonInstalling, fmt.Sprintf("kubelets may take until %s to project the new roots", projected.Format(time.RFC3339))}
		return max(recheck, projected.Sub(i.Now())), nil
	case rotating && spec.Rotation.Closed:
		return unseen, nil // nothing is wrong: new pods come and go, and some cannot be asked
	case rotating && !spec.Restart.Workloads:
		report.Waiting = moving
		return recheck, nil
	}
	fresh, err := i.freshListeners(ctx, w.Mesh)
	if err != nil {
		return 0, err
	}
	due := due(behind, !i.Now().Before(w.InUse.Since.Add(liveProxies)), fresh)
	switch {
	case len(due) == 0:
		report.Waiting = moving
		return recheck, nil
	case !spec.AutoRestartPods:
		report.Restart = fmt.Sprintf("%d of %d proxies are not known to be as ordered: run `meshctl mesh restart %s`, or set spec.mtlsConfig.autoRestartPods: true in the VirtualMesh; otherwise they follow when their leaves are renewed", len(behind), len(survey.proxies), w.Mesh)
		return again(rotating || len(due) < len(behind)), nil
	}
	gateways, workloads, alone := controllers(due)
	if len(gateways)+len(workloads) == 0 {
		report.Restart = fmt.Sprintf("%d proxies are not known to be as ordered and have no controller that could replace their pods, such as %s: delete and make them anew", len(alone), alone[0])
		return again(rotating || len(due) < len(behind)), nil
	}
	token := fmt.Sprintf("%s-%d", w.InUse.State[:16], w.InUse.Since.Unix())
	return i.restart(ctx, restart.Plan{Waves: [][]restart.Target{gateways, workloads}, Token: token, Limit: rollouts}, report, "gateways and workloads")
}

// addsRoot tells whether the order distributes a root that the mesh did not trust before.
func addsRoot(spec *v1alpha1.IssuedCertificateSpec) bool {
	r := spec.Rotation
	return r != nil && !r.Closed && (r.Stage == v1alpha1.StageOldSigns && !r.Back || r.Stage == v1alpha1.StageNewSigns && r.Back)
}

// again is when to look again: soon if something is on its way.
func again(moving bool) time.Duration {
	if moving {
		return recheck
	}
	return review
}

// census finds the proxies of the mesh that run. Of one that should be gone already, as its pod's grace period is over, the node is
// away.
func (i *Installer) census(ctx context.Context, w *wanted) ([]evidence.ProxyPod, error) {
	var pods corev1.PodList
	if err := i.Client.List(ctx, &pods); err != nil {
		return nil, err
	}
	proxies := evidence.Proxies(pods.Items, w.Order.Spec.IssuedCertificateSecret.Namespace)
	return slices.DeleteFunc(proxies, func(p evidence.ProxyPod) bool {
		return p.Started.IsZero() || p.Leaving() && i.Now().After(p.Leaves)
	}), nil
}

// survey asks those proxies that were not seen to be as ordered yet. Who cannot be asked counts as ordered if he has started
// since the control plane is, or if no leaf of before can be alive.
func (i *Installer) survey(ctx context.Context, proxies []evidence.ProxyPod, w *wanted) (survey, error) {
	now, since := i.Now(), w.InUse.Since.Truncate(time.Second)
	order := fmt.Sprintf("%d/%s", w.Order.Spec.Serial, w.digest())
	s := survey{drops: w.dropped() != "", settled: !now.Before(w.InUse.Since.Add(following))}
	var ask []evidence.ProxyPod
	proven := map[types.UID]string{} // of pods that are gone nothing is remembered
	i.mu.Lock()
	for _, p := range proxies {
		if i.proven[w.Mesh][p.UID] == order {
			proven[p.UID] = order
			s.proxies = append(s.proxies, proxyView{ProxyPod: p, seen: true, leaf: true, trusts: true, refuses: true})
		} else {
			ask = append(ask, p)
		}
	}
	i.mu.Unlock()
	if len(ask) == 0 {
		i.remember(w.Mesh, proven)
		return s, nil
	}
	sights := evidence.Probe(ctx, w.trustDomain(), ask, i.canariesOf(w))
	after, err := i.census(ctx, w)
	if err != nil {
		return s, err
	}
	same := map[types.UID]evidence.ProxyPod{}
	for _, p := range after {
		same[p.UID] = p
	}
	for k, p := range ask {
		is, runs := same[p.UID]
		if !runs {
			continue
		}
		if is.IP != p.IP || !is.Started.Equal(p.Started) {
			sights[k].Err = errors.New("it was restarted while it was asked")
		}
		v := viewProxy(p, sights[k], w, now)
		v.until = since.Add(p.LeafTTL)
		switch {
		case v.asOrdered(s.drops):
			proven[p.UID] = order
		case !v.seen && (!p.Started.Before(since) || !now.Before(v.until)):
			v.leaf, v.trusts, v.refuses = true, true, true
		}
		s.proxies = append(s.proxies, v)
	}
	i.remember(w.Mesh, proven)
	return s, nil
}

// remember keeps by which orders proxies of a mesh were seen to be.
func (i *Installer) remember(mesh string, proven map[types.UID]string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.proven == nil {
		i.proven = map[string]map[types.UID]string{}
	}
	i.proven[mesh] = proven
}

// listenersOf are what the gateways among proxies are asked at.
func listenersOf(proxies []evidence.ProxyPod) (out []*networkingv1.Gateway) {
	for _, p := range proxies {
		if p.Kind == evidence.Gateway {
			out = append(out, evidence.Listener(p))
		}
	}
	return out
}

// listeners are what gateways are asked at, in a resource Gateway for each; of others, made for the same order, nothing is left.
func (i *Installer) listeners(ctx context.Context, mesh string, gateways ...*networkingv1.Gateway) error {
	var errs []error
	want := map[types.NamespacedName]bool{}
	for _, g := range gateways {
		key := client.ObjectKeyFromObject(g)
		if want[key] {
			continue
		}
		want[key] = true
		g.Labels = map[string]string{v1alpha1.LabelManagedBy: listenersManagedBy}
		g.Annotations = map[string]string{AnnotationMesh: mesh}
		u, err := kube.ToUnstructured(i.Client.Scheme(), g)
		if err == nil {
			_, err = kube.Apply(ctx, i.Client, listenersManagedBy, u)
		}
		if meta.IsNoMatchError(err) {
			return nil // no Istio, or none that takes its configuration from here
		}
		errs = append(errs, err)
	}
	var have metav1.PartialObjectMetadataList
	have.SetGroupVersionKind(networkingv1.SchemeGroupVersion.WithKind("GatewayList"))
	if err := i.Reader.List(ctx, &have, client.MatchingLabels{v1alpha1.LabelManagedBy: listenersManagedBy}); err != nil {
		if meta.IsNoMatchError(err) {
			return nil
		}
		return errors.Join(append(errs, err)...)
	}
	for k := range have.Items {
		if g := &have.Items[k]; g.Annotations[AnnotationMesh] == mesh && !want[client.ObjectKeyFromObject(g)] {
			errs = append(errs, client.IgnoreNotFound(i.Client.Delete(ctx, g, client.Preconditions{UID: &g.UID})))
		}
	}
	return errors.Join(errs...)
}

// freshListeners reports whether a gateway of the mesh was given its listener so lately that it may not have it yet.
func (i *Installer) freshListeners(ctx context.Context, mesh string) (bool, error) {
	var have metav1.PartialObjectMetadataList
	have.SetGroupVersionKind(networkingv1.SchemeGroupVersion.WithKind("GatewayList"))
	if err := i.Reader.List(ctx, &have, client.MatchingLabels{v1alpha1.LabelManagedBy: listenersManagedBy}); err != nil {
		if meta.IsNoMatchError(err) {
			return false, nil
		}
		return false, err
	}
	return slices.ContainsFunc(have.Items, func(g metav1.PartialObjectMetadata) bool {
		return g.Annotations[AnnotationMesh] == mesh && i.Now().Before(g.CreationTimestamp.Add(liveProxies))
	}), nil
}

// listenersManagedBy is the value of the label isthmus.dev/managed-by on the listeners in gateways, and the field manager of
// their writes.
const listenersManagedBy = "isthmus-agent-evidence"
