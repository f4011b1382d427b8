// Package restart restarts the pods of controllers as `kubectl rollout restart` does: by a changed annotation of the pod
// template. The controllers roll at their own pace, so surge, maxUnavailable and PodDisruptionBudgets hold as ever.
//
// It keeps no state of its own. What was restarted is read off the annotation, what is complete off the controller's
// status, so whoever calls again, after a crash or an hour, goes on where things stand. It knows nothing of certificates.
package restart

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Annotation of a pod template that holds the token of its last restart.
const Annotation = "isthmus.dev/restarted-for"

// AnnotationPace of a Deployment holds, in JSON, how its pods were replaced before a restart that goes at a pace of its own.
const AnnotationPace = "isthmus.dev/pace"

// pace is how pods of a Deployment are replaced, in its own fields.
type pace struct {
	MinReadySeconds int32                           `json:"minReadySeconds"`
	RollingUpdate   *appsv1.RollingUpdateDeployment `json:"rollingUpdate,omitempty"`
}

// patch of the spec that has it go at this pace.
func (p pace) patch() map[string]any {
	return map[string]any{"minReadySeconds": p.MinReadySeconds, "strategy": map[string]any{"rollingUpdate": p.RollingUpdate}}
}

// Kind of controller.
type Kind string

// Kinds that can be restarted.
const (
	Deployment  Kind = "Deployment"
	StatefulSet Kind = "StatefulSet"
	DaemonSet   Kind = "DaemonSet"
)

// Target is a controller of pods.
type Target struct {
	Kind      Kind
	Namespace string
	Name      string
}

func (t Target) String() string {
	return strings.ToLower(string(t.Kind)) + "/" + t.Name + "." + t.Namespace
}

// Of returns the controller whose pod is given; false if the pod has none that can be restarted, as a Job's.
func Of(pod *corev1.Pod) (Target, bool) {
	owner := metav1.GetControllerOfNoCopy(pod)
	if owner == nil {
		return Target{}, false
	}
	t := Target{Kind: Kind(owner.Kind), Namespace: pod.Namespace, Name: owner.Name}
	switch {
	case owner.APIVersion != appsv1.SchemeGroupVersion.String():
		return Target{}, false
	case owner.Kind == "ReplicaSet":
		// A Deployment names its ReplicaSets by this label.
		hash := pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
		name, ok := strings.CutSuffix(owner.Name, "-"+hash)
		t.Kind, t.Name = Deployment, name
		return t, ok && hash != ""
	}
	return t, t.Kind == StatefulSet || t.Kind == DaemonSet
}

// Plan is what to restart: wave after wave, each complete before the next begins.
type Plan struct {
	// Waves of controllers.
	Waves [][]Target
	// Token identifies this restart: a controller that carries it already has been restarted.
	Token string
	// Limit is how many controllers may roll at a time. 0 means 1.
	Limit int
	// MinReady, if it is above 0, has pods of Deployments replaced one after the other, each by one that was ready for as many
	// seconds, or for longer where the Deployment asks for that. Those that are to be recreated are. [SetBack] undoes it.
	MinReady int32
}

// Report says how far a plan has come.
type Report struct {
	// Complete controllers have no pod from before the restart.
	Complete []Target
	// Rolling controllers are replacing pods.
	Rolling []Target
	// Waiting controllers have not been restarted yet.
	Waiting []Target
	// Blocked controllers will not get there by themselves, with the reason.
	Blocked map[Target]string
}

// Done reports whether nothing more will happen by itself: all is complete, or what is not is blocked or waits for what is.
func (r Report) Done() bool {
	return len(r.Rolling) == 0 && (len(r.Waiting) == 0 || len(r.Blocked) > 0)
}

// Advance restarts what may be restarted now and reports. It never waits: call it again when a controller has changed.
// A blocked controller holds its place in the limit, so a restart that breaks things stops at Limit controllers.
func (p Plan) Advance(ctx context.Context, c client.Client) (Report, error) {
	report := Report{Blocked: map[Target]string{}}
	ahead := true
	for _, wave := range p.Waves {
		open := ahead
		free := max(p.Limit, 1)
		var waiting []Target
		states := map[Target]state{}
		for _, t := range slices.CompactFunc(slices.Clone(wave), func(a, b Target) bool { return a == b }) {
			s, err := look(ctx, c, t)
			switch {
			case apierrors.IsNotFound(err):
				continue // it is gone and so are its pods
			case err != nil:
				return report, err
			case s.token != p.Token && s.blocked != "":
				report.Blocked[t] = s.blocked // as its owner wants it; nobody else waits for it
			case s.token != p.Token:
				waiting, states[t] = append(waiting, t), s
				ahead = false
			case s.complete:
				report.Complete = append(report.Complete, t)
			case s.blocked != "":
				report.Blocked[t] = s.blocked
				ahead = false
				free--
			default:
				report.Rolling = append(report.Rolling, t)
				ahead = false
				free--
			}
		}
		for _, t := range waiting {
			if !open || free <= 0 {
				report.Waiting = append(report.Waiting, t)
				continue
			}
			if err := p.restart(ctx, c, t, states[t]); err != nil {
				return report, fmt.Errorf("restarting %s: %w", t, err)
			}
			report.Rolling = append(report.Rolling, t)
			free--
		}
	}
	return report, nil
}

// state of a controller.
type state struct {
	token    string
	complete bool
	blocked  string
	// pace of a Deployment whose pods are replaced step by step; before, if it was changed for a restart, what it was.
	pace   *pace
	before string
}

// look reads the state of a controller's last rollout as `kubectl rollout status` does.
func look(ctx context.Context, c client.Client, t Target) (state, error) {
	obj := t.object()
	if obj == nil {
		return state{}, fmt.Errorf("%s: a %s cannot be restarted", t, t.Kind)
	}
	if err := c.Get(ctx, client.ObjectKeyFromObject(obj), obj); err != nil {
		return state{}, err
	}
	switch o := obj.(type) {
	case *appsv1.Deployment:
		s := state{token: o.Spec.Template.Annotations[Annotation], before: o.Annotations[AnnotationPace]}
		if u := o.Spec.Strategy.RollingUpdate; u != nil {
			s.pace = &pace{o.Spec.MinReadySeconds, u}
		}
		replicas := int32(1)
		if o.Spec.Replicas != nil {
			replicas = *o.Spec.Replicas
		}
		st := o.Status
		s.complete = st.ObservedGeneration >= o.Generation && st.UpdatedReplicas >= replicas &&
			st.Replicas <= st.UpdatedReplicas && st.AvailableReplicas >= st.UpdatedReplicas
		if o.Spec.Paused {
			s.blocked = "it is paused; resume it with `kubectl rollout resume`"
		}
		for _, cond := range st.Conditions {
			if cond.Type == appsv1.DeploymentProgressing && cond.Reason == "ProgressDeadlineExceeded" &&
				st.ObservedGeneration >= o.Generation && s.token != "" {
				s.blocked = "its new pods do not become ready: " + cond.Message
			}
		}
		return s, nil
	case *appsv1.StatefulSet:
		s := state{token: o.Spec.Template.Annotations[Annotation]}
		replicas := int32(1)
		if o.Spec.Replicas != nil {
			replicas = *o.Spec.Replicas
		}
		st := o.Status
		s.complete = st.ObservedGeneration >= o.Generation && st.ReadyReplicas >= replicas &&
			(st.UpdateRevision == st.CurrentRevision || st.UpdatedReplicas >= replicas)
		switch u := o.Spec.UpdateStrategy; {
		case u.Type == appsv1.OnDeleteStatefulSetStrategyType:
			s.blocked = "its update strategy is OnDelete; delete its pods yourself"
		case u.RollingUpdate != nil && u.RollingUpdate.Partition != nil && *u.RollingUpdate.Partition > 0:
			s.blocked = "its update strategy has a partition; delete the pods below it yourself"
		}
		return s, nil
	case *appsv1.DaemonSet:
		s := state{token: o.Spec.Template.Annotations[Annotation]}
		st := o.Status
		s.complete = st.ObservedGeneration >= o.Generation && st.UpdatedNumberScheduled >= st.DesiredNumberScheduled &&
			st.NumberAvailable >= st.DesiredNumberScheduled
		if o.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
			s.blocked = "its update strategy is OnDelete; delete its pods yourself"
		}
		return s, nil
	}
	panic("unreachable")
}

// restart patches the annotation of the pod template, and the pace.
func (p Plan) restart(ctx context.Context, c client.Client, t Target, s state) error {
	spec := map[string]any{}
	changed := map[string]any{"spec": spec}
	if p.MinReady > 0 && s.pace != nil && s.before == "" {
		before, err := json.Marshal(s.pace)
		if err != nil {
			return err
		}
		changed["metadata"] = map[string]any{"annotations": map[string]string{AnnotationPace: string(before)}}
		spec = pace{max(s.pace.MinReadySeconds, p.MinReady), oneByOne()}.patch()
		changed["spec"] = spec
	}
	spec["template"] = map[string]any{"metadata": map[string]any{"annotations": map[string]string{Annotation: p.Token}}}
	return patch(ctx, c, t, changed)
}

// oneByOne never has more than one pod less or more than is asked for.
func oneByOne() *appsv1.RollingUpdateDeployment {
	return &appsv1.RollingUpdateDeployment{MaxSurge: new(intstr.FromInt32(1)), MaxUnavailable: new(intstr.FromInt32(0))}
}

// SetBack gives Deployments that have been restarted at another pace their own again.
func SetBack(ctx context.Context, c client.Client, targets ...Target) error {
	for _, t := range targets {
		s, err := look(ctx, c, t)
		var before pace
		bad := json.Unmarshal([]byte(s.before), &before)
		switch {
		case apierrors.IsNotFound(err):
			continue
		case err != nil:
			return err
		case bad != nil || !s.complete:
			continue
		}
		if err := patch(ctx, c, t, map[string]any{
			"metadata": map[string]any{"annotations": map[string]any{AnnotationPace: nil}},
			"spec":     before.patch(),
		}); err != nil {
			return fmt.Errorf("after the restart of %s: %w", t, err)
		}
	}
	return nil
}

func patch(ctx context.Context, c client.Client, t Target, changed map[string]any) error {
	text, err := json.Marshal(changed)
	if err != nil {
		return err
	}
	return c.Patch(ctx, t.object(), client.RawPatch(types.MergePatchType, text))
}

func (t Target) object() client.Object {
	meta := metav1.ObjectMeta{Namespace: t.Namespace, Name: t.Name}
	switch t.Kind {
	case Deployment:
		return &appsv1.Deployment{ObjectMeta: meta}
	case StatefulSet:
		return &appsv1.StatefulSet{ObjectMeta: meta}
	case DaemonSet:
		return &appsv1.DaemonSet{ObjectMeta: meta}
	}
	return nil
}

// Sort orders targets by namespace, name and kind and removes duplicates.
func Sort(targets []Target) []Target {
	slices.SortFunc(targets, func(a, b Target) int {
		return strings.Compare(a.Namespace+"/"+a.Name+"/"+string(a.Kind), b.Namespace+"/"+b.Name+"/"+string(b.Kind))
	})
	return slices.Compact(targets)
}
