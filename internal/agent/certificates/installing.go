package certificates

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent/evidence"
	"github.com/isthmus-mesh/isthmus/internal/agent/restart"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// How long the installing half lets things take their course.
const (
	// recheck is when it looks again while something is on its way that cannot be watched: what a TLS server presents.
	recheck = 2 * time.Second
	// review is when it looks again though nothing is known to have changed.
	review = 5 * time.Minute
	// liveControlPlane is how long istiod gets to take changed files, once its pod was touched so that the kubelet projects
	// them at once. istiod itself takes a fraction of a second.
	liveControlPlane = 30 * time.Second
	// liveProxies is how long proxies that follow without a restart get: a kubelet may project the ConfigMap of roots 90 s
	// late.
	liveProxies = 2 * time.Minute
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
	// shared: this cluster has one mesh only, so every ConfigMap of roots is its own.
	single bool

	mu sync.Mutex
	// proven holds, by the UID of a pod, the root under which its leaf was seen to be.
	proven map[types.UID]string
}

// Reconcile installs what is wanted for the mesh whose name is that of the request.
func (i *Installer) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	w, err := i.store.readWanted(ctx, req.Name)
	if err != nil {
		return ctrl.Result{}, err
	}
	if w == nil {
		i.reports.set(req.Name, nil)
		return ctrl.Result{}, nil
	}
	report := &Report{Generation: w.Order.Generation}
	again, err := i.install(ctx, w, report)
	if err != nil && !errors.As(err, &report.Stall) {
		return ctrl.Result{}, err
	}
	i.reports.set(req.Name, report)
	return ctrl.Result{RequeueAfter: again}, nil
}

// install returns when to look again. A *stall is an error for the report.
func (i *Installer) install(ctx context.Context, w *wanted, report *Report) (time.Duration, error) {
	live, err := i.writeCACerts(ctx, w)
	if err != nil {
		return review, err
	}
	if live == nil || live.Labels[v1alpha1.LabelManagedBy] != managedBy {
		report.Waiting = &note{v1alpha1.ReasonSuspended, "cacerts is left as it is"}
		return review, nil
	}
	if ca, err := pki.ReadCACerts(live.Data, i.Now()); err == nil {
		report.Certificate = intermediateStatus(ca, 0)
		if report.Certificate.Fingerprint == fingerprint(w.CA.Certificate) {
			report.Certificate.Issuance = w.Issuance
		}
	}
	again, err := i.controlPlane(ctx, w, report)
	if err != nil || !report.InUse {
		return again, err
	}
	return i.proxies(ctx, w, report)
}

// writeCACerts makes cacerts be as wanted, by one write if any, and returns it as it is then; nil if there is none.
func (i *Installer) writeCACerts(ctx context.Context, w *wanted) (*corev1.Secret, error) {
	ref := w.Order.Spec.IssuedCertificateSecret
	live := &corev1.Secret{}
	err := i.Reader.Get(ctx, types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}, live)
	if apierrors.IsNotFound(err) {
		live, err = nil, nil
	}
	if err != nil || w.Order.Spec.Suspend {
		return live, err
	}
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
func (i *Installer) controlPlane(ctx context.Context, w *wanted, report *Report) (time.Duration, error) {
	namespace := w.Order.Spec.IssuedCertificateSecret.Namespace
	var pods corev1.PodList
	if err := i.Client.List(ctx, &pods, client.InNamespace(namespace)); err != nil {
		return 0, err
	}
	replicas := evidence.Replicas(pods.Items)
	views := make([]replicaView, len(replicas))
	for k, seen := range evidence.AskReplicas(ctx, replicas) {
		views[k] = viewReplica(replicas[k], seen, w.CA, i.Now())
	}
	published, err := i.rootConfigMaps(ctx, namespace, w.CA.Roots)
	if err != nil {
		return 0, err
	}
	report.ControlPlane = &v1alpha1.ControlPlaneEvidence{RootConfigMaps: published}
	for _, v := range views {
		report.ControlPlane.Replicas = append(report.ControlPlane.Replicas, v.status)
	}
	digest := w.digest()
	plan := planControlPlane(views, digest, i.Now())
	switch {
	case len(plan.behind) == 0 && len(views) > 0 && published.Done == published.Total:
		report.InUse = true
		return 0, nil
	case w.Order.Spec.Suspend:
		return review, nil
	case len(views) == 0:
		report.Waiting = &note{ReasonInstalling, "no replica of istiod is running in namespace " + namespace}
		return review, nil
	case len(plan.behind) == 0:
		report.Waiting = &note{ReasonInstalling, fmt.Sprintf("istiod has published the roots in %d of %d namespaces", published.Done, published.Total)}
		return recheck, nil
	case len(plan.inVain) > 0:
		return review, stalled(ReasonNotUsed, "istiod %s does not sign with Secret %s/%s although it was restarted; see its log, and whether it signs certificates at all", plan.inVain[0], namespace, CACertsName)
	}
	for _, pod := range plan.touch {
		if err := i.touch(ctx, pod, digest); err != nil {
			return 0, err
		}
	}
	switch {
	case len(plan.restart) == 0:
		report.Waiting = &note{ReasonInstalling, fmt.Sprintf("istiod takes the new certificates: %s", plan.behind[0])}
		return recheck, nil
	case !w.Order.Spec.AutoRestartPods:
		report.Restart = fmt.Sprintf("istiod in namespace %s must be restarted to use its new certificates, and workloads after it: run `meshctl mesh restart %s`, or set spec.mtlsConfig.autoRestartPods: true in the VirtualMesh", namespace, w.Mesh)
		return recheck, nil
	}
	return i.restart(ctx, restart.Plan{Waves: [][]restart.Target{plan.restart}, Token: digest, Limit: rollouts}, report, "istiod")
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
		for t, why := range progress.Blocked {
			return review, stalled(ReasonRestartBlocked, "%s cannot be restarted: %s", t, why)
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
	if w.InUse.Signer != spec.Signer {
		if spec.Suspend {
			return review, nil
		}
		w.InUse = inUse{Signer: spec.Signer, Since: i.Now().UTC()}
		if err := i.store.writeWanted(ctx, w); err != nil {
			return 0, err
		}
	}
	var pods corev1.PodList
	if err := i.Client.List(ctx, &pods); err != nil {
		return 0, err
	}
	survey := i.survey(ctx, evidence.Proxies(pods.Items, spec.IssuedCertificateSecret.Namespace), w)
	report.Proxies = survey.evidence()
	behind := survey.behind()
	due := behind
	if i.Now().Before(w.InUse.Since.Add(liveProxies)) {
		due = survey.due()
	}
	switch {
	case len(behind) == 0 || spec.Suspend:
		return review, nil
	case len(due) == 0:
		report.Waiting = &note{ReasonInstalling, fmt.Sprintf("%d of %d proxies have not taken a leaf under the new root yet", len(behind), survey.total)}
		return recheck, nil
	case !spec.AutoRestartPods:
		report.Restart = fmt.Sprintf("%d of %d proxies are not known to have a leaf under the new root: run `meshctl mesh restart %s`, or set spec.mtlsConfig.autoRestartPods: true in the VirtualMesh; otherwise they follow when their leaves are renewed", len(behind), survey.total, w.Mesh)
		return again(len(due) < len(behind)), nil
	}
	gateways, workloads, alone := controllers(due)
	if len(gateways)+len(workloads) == 0 {
		report.Restart = fmt.Sprintf("%d proxies are not known to have a leaf under the new root and have no controller that could replace their pods, such as %s: delete and make them anew", len(alone), alone[0])
		return again(len(due) < len(behind)), nil
	}
	token := fmt.Sprintf("%s-%d", spec.Signer[:16], w.InUse.Since.Unix())
	return i.restart(ctx, restart.Plan{Waves: [][]restart.Target{gateways, workloads}, Token: token, Limit: rollouts}, report, "gateways and workloads")
}

// again is when to look again: soon if something is on its way.
func again(moving bool) time.Duration {
	if moving {
		return recheck
	}
	return review
}

// survey asks those proxies of which nothing is known yet.
func (i *Installer) survey(ctx context.Context, proxies []evidence.ProxyPod, w *wanted) survey {
	signer := w.Order.Spec.Signer
	s := survey{signer: signer}
	var ask []evidence.ProxyPod
	i.mu.Lock()
	known := map[types.UID]string{}
	for _, p := range proxies {
		if p.Started.IsZero() {
			continue
		}
		s.total++
		if root, ok := i.proven[p.UID]; ok {
			known[p.UID] = root
		}
		if known[p.UID] == signer || !p.Started.Before(w.InUse.Since.Truncate(time.Second)) {
			s.signed++
			continue
		}
		ask = append(ask, p)
	}
	i.mu.Unlock()
	for k, seen := range evidence.AskProxies(ctx, ask) {
		switch p := ask[k]; {
		case seen.Err != nil:
			s.unknown = append(s.unknown, laggard{p, seen.Err.Error()})
		case seen.SignedBy(w.CA.Root, i.Now()):
			known[p.UID] = signer
			s.signed++
		default:
			s.old = append(s.old, laggard{p, "its leaf is under another root"})
		}
	}
	i.mu.Lock()
	i.proven = known // of pods that are gone nothing is remembered
	i.mu.Unlock()
	return s
}
