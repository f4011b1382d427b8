package meshctl

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/agent/certificates"
	"github.com/isthmus-mesh/isthmus/internal/agent/evidence"
	"github.com/isthmus-mesh/isthmus/internal/agent/restart"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/rotation"
)

// restarter restarts what has to be restarted in one mesh.
type restarter struct {
	*cli
	limit       int
	force       bool
	hub, member *cluster
	mesh        *v1alpha1.Mesh
	order       *v1alpha1.IssuedCertificate
	// roots of the order.
	roots pki.Bundle
	// token marks what was restarted for what the order brought.
	token string
}

func newMeshRestart(c *cli) *cobra.Command {
	r := &restarter{cli: c}
	cmd := &cobra.Command{
		Use:   "restart MESH",
		Short: "Restart what must be restarted for the mesh to use its new certificates",
		Long: `Restarts istiod and waits until it publishes the new roots; then, if they have to be, the gateways and the workloads. Each is a
rolling restart, as of ` + "`kubectl rollout restart`" + `, so PodDisruptionBudgets and surge hold. What runs since istiod was restarted is
left alone. A mesh that joins a virtual mesh needs istiod's restart twice, at the beginning and at the end: the command stays
until it has joined.

Stopped at any point and run again, it goes on. Where the VirtualMesh has mtlsConfig.autoRestartPods: true, the agent does the
same by itself.`,
		Example: "  meshctl mesh restart istiod-istio-system-east --context hub --member-context east",
		Args:    oneArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := c.waiting(cmd)
			defer cancel()
			return r.run(ctx, args[0])
		},
	}
	c.memberFlags(cmd)
	cmd.Flags().IntVar(&r.limit, "parallel", 4, "how many Deployments, StatefulSets and DaemonSets may roll at a time")
	cmd.Flags().BoolVar(&r.force, "force", false, "restart everything, whether or not it seems to need it")
	return cmd
}

func (r *restarter) run(ctx context.Context, name string) (err error) {
	if r.hub, err = r.cli.hub(); err != nil {
		return err
	}
	if r.mesh, err = r.hub.mesh(ctx, name); err != nil {
		return err
	}
	if r.member, err = r.memberOf(ctx, r.mesh); err != nil {
		return err
	}
	for more := true; more; {
		if err := r.once(ctx); err != nil {
			return err
		}
		r.force = false
		if more, err = r.more(ctx); err != nil {
			return err
		}
	}
	if r.order.Spec.Rotation != nil && !r.order.Spec.Rotation.Closed {
		r.progress.did("Mesh %s: nothing more has to be restarted at this step of the rotation; `meshctl rotation status` shows how it goes on", r.mesh.Name)
		return nil
	}
	r.progress.did("Mesh %s: nothing more has to be restarted", r.mesh.Name)
	return nil
}

// once restarts what the order that stands asks for.
func (r *restarter) once(ctx context.Context) error {
	if err := r.installed(ctx); err != nil {
		return err
	}
	istiod, err := r.istiod(ctx)
	if err != nil {
		return err
	}
	if len(istiod) > 0 {
		if err := r.roll(ctx, "istiod", istiod); err != nil {
			return err
		}
	}
	since, err := r.published(ctx)
	if err != nil {
		return err
	}
	if err := r.seen(ctx); err != nil {
		return err
	}
	r.progress.did("istiod of %s uses its certificates and has published the roots", r.mesh.Name)
	waves, alone, err := r.proxies(ctx, since)
	if err != nil {
		return err
	}
	if len(waves[0])+len(waves[1]) > 0 {
		if err := r.roll(ctx, "gateways and workloads", waves...); err != nil {
			return err
		}
	}
	for _, pod := range alone {
		r.progress.did("Pod %s has no controller that would replace it: delete it and make it anew", pod)
	}
	return nil
}

// more waits, if the mesh joins, until another restart is due; false if it has joined, or does not go on by itself.
func (r *restarter) more(ctx context.Context) (more bool, err error) {
	err = r.hub.until(ctx, func(ctx context.Context) (string, error) {
		order, err := r.hub.order(ctx, r.mesh)
		if err != nil || order == nil {
			return "", err
		}
		r.order = order
		p := order.Spec.Rotation
		if p == nil || p.Closed || !p.Alone {
			return "", nil
		}
		if more = restartPending(order); more {
			return "", nil
		}
		return fmt.Sprintf("the mesh joins: %s", p.Step), nil
	}, changesOf(&v1alpha1.IssuedCertificateList{}, client.InNamespace(r.mesh.Namespace)))
	return more, err
}

// restartPending tells whether the agent waits for a restart to carry an order out.
func restartPending(order *v1alpha1.IssuedCertificate) bool {
	return order.Status.ObservedGeneration == order.Generation && meta.IsStatusConditionTrue(order.Status.Conditions, v1alpha1.ConditionRestartPending)
}

// installed waits until what the order asks for is in the Secret of the member, or what the agent wants a restart for on the way to
// it: a restart before would be in vain.
func (r *restarter) installed(ctx context.Context) error {
	err := r.hub.until(ctx, func(ctx context.Context) (string, error) {
		order, err := r.hub.order(ctx, r.mesh)
		if err != nil {
			return "", err
		}
		if order == nil {
			return "", r.unordered(ctx)
		}
		r.order = order
		spec, s := &order.Spec, &order.Status
		switch c := s.Certificate; {
		case s.State == v1alpha1.IssuedCertificateFailed:
			return "", fmt.Errorf("IssuedCertificate %s/%s failed: %s", order.Namespace, order.Name, s.Error)
		case c != nil && restartPending(order):
			return "", nil
		case s.ObservedGeneration != order.Generation || c == nil || c.Issuance != spec.Issuance || c.Signer != spec.Signer || !slices.Equal(c.Roots, fingerprints(spec.Roots)):
			return fmt.Sprintf("waiting for the agent to write the new certificates into Secret %s/%s", spec.IssuedCertificateSecret.Namespace, spec.IssuedCertificateSecret.Name), nil
		}
		return "", nil
	}, changesOf(&v1alpha1.IssuedCertificateList{}, client.InNamespace(r.mesh.Namespace)))
	if err != nil {
		return err
	}
	r.roots = pki.Bundle{}
	for _, root := range r.order.Spec.Roots {
		parsed, err := pki.ParseRoot([]byte(root.Certificate))
		if err != nil {
			return fmt.Errorf("IssuedCertificate %s/%s: %w", r.order.Namespace, r.order.Name, err)
		}
		r.roots = r.roots.Append(parsed)
	}
	brought := r.order.Status.Certificate.Fingerprint + strings.Join(fingerprints(r.order.Spec.Roots), "")
	if p := r.order.Spec.Rotation; p != nil { // a way back brings again what was there before
		brought += p.RotationID + string(p.Stage)
	}
	sum := sha256.Sum256([]byte(brought))
	r.token = "meshctl-" + hex.EncodeToString(sum[:8])
	if r.force {
		r.token += fmt.Sprintf("-%d", time.Now().Unix())
	}
	return nil
}

// unordered says why there is no order for the CA of the mesh.
func (r *restarter) unordered(ctx context.Context) error {
	virtualMeshes := &v1alpha1.VirtualMeshList{}
	if err := r.hub.List(ctx, virtualMeshes); err != nil {
		return err
	}
	for i := range virtualMeshes.Items {
		if vm := &virtualMeshes.Items[i]; isMember(vm, r.mesh) && isLimited(vm) {
			return fmt.Errorf("mesh %s has no order for its CA, and nothing has to be restarted: VirtualMesh %s has mtlsConfig.limited, under which the CA of a mesh is its own, and gateways take up their certificates by themselves",
				r.mesh.Name, kube.Qualified(vm.Name, vm.Namespace))
		}
	}
	return fmt.Errorf("mesh %s has no order for certificates: it is in no VirtualMesh with mtlsConfig, or was released", r.mesh.Name)
}

func fingerprints(roots []v1alpha1.RootCertificate) []string {
	var out []string
	for _, r := range roots {
		out = append(out, r.Fingerprint)
	}
	return out
}

// istiod returns the control planes that have to be restarted: all of the mesh, unless the agent saw every replica use
// what was ordered.
func (r *restarter) istiod(ctx context.Context) ([]restart.Target, error) {
	if inUse(r.order) && !r.force {
		return nil, nil
	}
	pods := &corev1.PodList{}
	if err := r.member.List(ctx, pods, client.InNamespace(r.mesh.Spec.Istio.RootNamespace)); err != nil {
		return nil, err
	}
	var targets []restart.Target
	for _, replica := range evidence.Replicas(pods.Items) {
		if target, ok := restart.Of(replica.Pod); ok {
			targets = append(targets, target)
		}
	}
	if len(targets) == 0 {
		return nil, fmt.Errorf("no istiod runs in namespace %s of the member cluster", r.mesh.Spec.Istio.RootNamespace)
	}
	return restart.Sort(targets), nil
}

// inUse reports whether the agent saw every replica of istiod sign with the certificate in the Secret, and in rotations, hold
// the ordered roots and no others.
func inUse(order *v1alpha1.IssuedCertificate) bool {
	seen := order.Status.ControlPlane
	if seen == nil || len(seen.Replicas) == 0 {
		return false
	}
	if order.Spec.Restart.Istiod && order.Status.State != v1alpha1.IssuedCertificateFinished {
		return false
	}
	observed, err := rotation.Observe(order)
	if err != nil && order.Spec.Rotation != nil {
		return false // nobody follows what makes no sense
	}
	for i, replica := range seen.Replicas {
		if replica.Error != "" || replica.Intermediate != order.Status.Certificate.Fingerprint ||
			order.Spec.Rotation != nil && !observed.Replicas[i].AsOrdered(observed.Order) {
			return false
		}
	}
	return true
}

// roll restarts waves of controllers, one after the other, and waits until they have.
func (r *restarter) roll(ctx context.Context, what string, waves ...[]restart.Target) error {
	plan := restart.Plan{Waves: waves, Token: r.token, Limit: r.limit}
	told := map[restart.Target]bool{}
	if what == "istiod" {
		plan.MinReady = certificates.WarmUp // the agent undoes it
	}
	first := true
	return r.member.until(ctx, func(ctx context.Context) (string, error) {
		report, err := plan.Advance(ctx, r.member)
		if err != nil {
			return "", err
		}
		for _, target := range report.Complete {
			if !told[target] && !first { // what is complete at once was restarted by an earlier call
				r.progress.did("Restarted %s", target)
			}
			told[target] = true
		}
		first = false
		if len(report.Rolling) == 0 && len(report.Blocked) > 0 {
			var reasons []string
			for _, target := range restart.Sort(slices.Collect(maps.Keys(report.Blocked))) {
				reasons = append(reasons, fmt.Sprintf("%s: %s", target, report.Blocked[target]))
			}
			return "", fmt.Errorf("restarting %s cannot go on; %s; then run this command again", what, strings.Join(reasons, "; "))
		}
		if report.Done() {
			return "", nil
		}
		waiting := fmt.Sprintf("restarting %s: %d done, %d to go", what, len(report.Complete), len(report.Rolling)+len(report.Waiting)+len(report.Blocked))
		if len(report.Rolling) > 0 {
			waiting += fmt.Sprintf(", now %s", report.Rolling[0])
		}
		return waiting, nil
	}, changesOf(&appsv1.DeploymentList{}), changesOf(&appsv1.StatefulSetList{}), changesOf(&appsv1.DaemonSetList{}))
}

// seenWithin bounds for how long seen waits.
const seenWithin = 20 * time.Second

// seen waits until the agent has seen that istiod uses its certificates, too: a gateway that shows no certificate counts as
// restarted only if it was after that. An agent that is away is not waited for; it looks when it is back.
func (r *restarter) seen(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, seenWithin)
	defer cancel()
	order := &v1alpha1.IssuedCertificate{}
	err := r.hub.until(ctx, func(ctx context.Context) (string, error) {
		if err := r.hub.Get(ctx, client.ObjectKeyFromObject(r.mesh), order); err != nil {
			return "", client.IgnoreNotFound(err)
		}
		if order.Status.State == v1alpha1.IssuedCertificateFinished {
			return "", nil
		}
		return "waiting for the agent to see that istiod uses its certificates", nil
	}, changesOf(&v1alpha1.IssuedCertificateList{}, client.InNamespace(r.mesh.Namespace)))
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// published waits until no istiod of before is left and the ConfigMaps hold the new roots: a workload restarted earlier
// might get a leaf that nobody trusts, or trust nobody. It returns since when leaves are signed by new replicas only.
func (r *restarter) published(ctx context.Context) (since time.Time, err error) {
	namespace := r.mesh.Spec.Istio.RootNamespace
	scope := []client.ListOption{client.MatchingFields{"metadata.name": certificates.RootConfigMap}}
	others := &v1alpha1.MeshList{}
	if err := r.hub.List(ctx, others, client.InNamespace(r.mesh.Namespace)); err != nil {
		return since, err
	}
	if len(others.Items) > 1 { // each mesh publishes its roots in its own namespaces; that of its istiod is one
		scope = append(scope, client.InNamespace(namespace))
	}
	err = r.member.until(ctx, func(ctx context.Context) (string, error) {
		pods := &corev1.PodList{}
		if err := r.member.List(ctx, pods, client.InNamespace(namespace)); err != nil {
			return "", err
		}
		since = time.Time{}
		replicas := evidence.Replicas(pods.Items)
		if len(replicas) == 0 {
			return "waiting for istiod in namespace " + namespace, nil
		}
		for _, replica := range replicas {
			if replica.Pod.DeletionTimestamp != nil {
				return fmt.Sprintf("waiting for pod %s, an istiod of before, to end", replica.Pod.Name), nil
			}
			if t := signsAlone(replica.Pod); t.After(since) {
				since = t
			}
		}
		configMaps := &corev1.ConfigMapList{}
		if err := r.member.List(ctx, configMaps, scope...); err != nil {
			return "", err
		}
		var behind []string
		for _, cm := range configMaps.Items {
			if b, err := pki.ParseBundle([]byte(cm.Data[pki.RootCertKey])); err != nil || !b.SameRoots(r.roots) {
				behind = append(behind, cm.Namespace)
			}
		}
		if len(behind) > 0 || len(configMaps.Items) == 0 {
			return fmt.Sprintf("waiting for istiod to publish the new roots: ConfigMap %s is behind in %d of %d namespaces; if this lasts, istiod's log says why",
				certificates.RootConfigMap, len(behind), len(configMaps.Items)), nil
		}
		return "", nil
	}, changesOf(&corev1.PodList{}, client.InNamespace(namespace)), changesOf(&corev1.ConfigMapList{}, scope...))
	return since, err
}

// signsAlone is when the pods that a replica of istiod has replaced have ended at the latest.
func signsAlone(pod *corev1.Pod) time.Time {
	t := pod.CreationTimestamp.Time
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			t = c.LastTransitionTime.Time
		}
	}
	if grace := pod.Spec.TerminationGracePeriodSeconds; grace != nil {
		t = t.Add(time.Duration(*grace) * time.Second)
	}
	return t
}

// followed reports whether no proxy has to be restarted: all were seen to be as ordered, or the rotation asks for none.
func (r *restarter) followed() bool {
	p, spec := r.order.Status.Proxies, &r.order.Spec
	switch {
	case r.force:
		return false
	case spec.Rotation != nil && !spec.Restart.Workloads:
		return true // they follow by themselves
	case !inUse(r.order):
		return false
	}
	return p != nil && p.Total == p.SignedByNew && (spec.Rotation == nil || p.Total == p.TrustsNew)
}

// stepSince is when the step of the rotation began in which the order was given; zero if it belongs to none. A step may want
// leaves of another signer, for which no istiod was restarted.
func (r *restarter) stepSince(ctx context.Context) (time.Time, error) {
	position, ref := r.order.Spec.Rotation, r.order.Spec.VirtualMesh
	if position == nil || position.Closed {
		return time.Time{}, nil
	}
	vm := &v1alpha1.VirtualMesh{}
	if err := r.hub.Get(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, vm); err != nil {
		return time.Time{}, client.IgnoreNotFound(err)
	}
	if s := vm.Status.Rotation; s != nil && s.RotationID == position.RotationID {
		return s.Since.Time, nil
	}
	return time.Time{}, nil
}

// proxies returns the controllers of the proxies that run since before the given time, gateways first; alone are pods
// without one.
func (r *restarter) proxies(ctx context.Context, since time.Time) (waves [][]restart.Target, alone []string, err error) {
	waves = make([][]restart.Target, 2)
	if r.followed() {
		return waves, nil, nil
	}
	if begun, err := r.stepSince(ctx); err != nil {
		return nil, nil, err
	} else if begun.After(since) {
		since = begun
	}
	pods := &corev1.PodList{}
	if err := r.member.List(ctx, pods); err != nil {
		return nil, nil, err
	}
	for _, proxy := range evidence.Proxies(pods.Items, r.mesh.Spec.Istio.RootNamespace) {
		switch {
		case proxy.Leaving():
		case !r.force && (proxy.Started.IsZero() || proxy.Started.After(since)):
		case !proxy.HasController:
			alone = append(alone, proxy.String())
		case proxy.Kind == evidence.Sidecar:
			waves[1] = append(waves[1], proxy.Controller)
		default:
			waves[0] = append(waves[0], proxy.Controller)
		}
	}
	for i := range waves {
		waves[i] = restart.Sort(waves[i])
	}
	return waves, alone, nil
}
