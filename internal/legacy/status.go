package legacy

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
)

// Account is what there is to tell to an object of an older generation.
type Account struct {
	// Object as it was read, of which [Known] is true.
	Object map[string]any
	// Hub is the namespace of the hub.
	Hub string
	// VirtualMesh is what the object is here, with its status; nil if it is nothing here.
	VirtualMesh *v1alpha1.VirtualMesh
	// Findings about the object. If one of them is Invalid, VirtualMesh is what an earlier state of the object is.
	Findings finding.Findings
}

// Status returns the status of the object in the shape of its generation, as JSON has it. Beside the fields that the generation
// had there is one of ours, isthmus, which names the VirtualMesh and says what could not be converted.
func Status(a Account) (map[string]any, error) {
	g := generationOf(a.Object)
	in := &account{Account: a, members: g.membersOf(a.Object)}
	metadata := unstructured.Unstructured{Object: a.Object}
	in.generation, in.namespace = metadata.GetGeneration(), metadata.GetNamespace()
	status, err := runtime.DefaultUnstructuredConverter.ToUnstructured(g.status(in))
	if err != nil {
		return nil, fmt.Errorf("status of %s %s/%s: %w", g.APIVersion(), in.namespace, metadata.GetName(), err)
	}
	return status, nil
}

// membersOf are the meshes that an object lists, as far as it can be read.
func (g *Generation) membersOf(object map[string]any) []objectRef {
	given, c := g.spec(), &conversion{aside: map[string]any{}}
	c.read("spec", object["spec"], reflect.ValueOf(given).Elem(), false)
	return given.members()
}

// account is what the statuses of all generations are made of.
type account struct {
	Account
	generation int64
	namespace  string
	members    []objectRef
}

// converted is the field that is ours in the status of each generation.
type converted struct {
	ObservedGeneration int64    `json:"observedGeneration,omitempty"`
	VirtualMesh        string   `json:"virtualMesh,omitempty"`
	Ready              string   `json:"ready,omitempty"`
	Message            string   `json:"message,omitempty"`
	Problems           []string `json:"problems,omitempty"`
	Notes              []string `json:"notes,omitempty"`
}

func (a *account) converted() *converted {
	c := &converted{ObservedGeneration: a.generation, Problems: a.problems().Errors()}
	for _, f := range a.Findings {
		if !Problem(f) {
			c.Notes = append(c.Notes, f.String())
		}
	}
	if a.VirtualMesh != nil {
		c.VirtualMesh = a.VirtualMesh.Name
		if ready := a.condition(v1alpha1.ConditionReady); ready != nil {
			c.Ready, c.Message = string(ready.Status), ready.Message
		}
	}
	return c
}

func (a *account) problems() (out finding.Findings) {
	for _, f := range a.Findings {
		if Problem(f) {
			out = append(out, f)
		}
	}
	return out
}

func (a *account) invalid() bool { return len(a.Findings.With(v1alpha1.ReasonInvalid)) > 0 }

// condition of the VirtualMesh; nil if it has none of that type, or the hub has not looked at it as it is now.
func (a *account) condition(conditionType string) *metav1.Condition {
	if a.VirtualMesh == nil || a.VirtualMesh.Status.ObservedGeneration != a.VirtualMesh.Generation {
		return nil
	}
	return meta.FindStatusCondition(a.VirtualMesh.Status.Conditions, conditionType)
}

// message of the condition Ready, which is about what has to be done first.
func (a *account) message() string {
	if ready := a.condition(v1alpha1.ConditionReady); ready != nil {
		return ready.Message
	}
	return ""
}

// state of the object.
func (a *account) state() v1alpha1.State {
	if a.invalid() {
		return v1alpha1.StateInvalid
	}
	return a.inForce()
}

// inForce is the state of what is in force, which may be an earlier state of the object.
func (a *account) inForce() v1alpha1.State {
	if a.condition(v1alpha1.ConditionReady) == nil || a.VirtualMesh.DeletionTimestamp != nil {
		return v1alpha1.StatePending
	}
	return a.VirtualMesh.Status.State
}

// errors are what somebody has to do something about.
func (a *account) errors() []string {
	out := a.problems().Errors()
	if a.VirtualMesh == nil {
		return out
	}
	out = append(out, a.VirtualMesh.Status.Errors...)
	stalled := a.condition(v1alpha1.ConditionStalled)
	if stalled != nil && stalled.Status == metav1.ConditionTrue && stalled.Message != finding.Join(a.VirtualMesh.Status.Errors) {
		out = append(out, stalled.Message)
	}
	return out[:min(len(out), maxErrors)]
}

// maxErrors are as many as the VirtualMesh has at most.
const maxErrors = 50

// meshes are those that the object lists, by the keys that its generation gave them: name, namespace and cluster, of which the
// last was empty.
func (a *account) meshes() map[string]v1alpha1.ApprovalStatus {
	out := map[string]v1alpha1.ApprovalStatus{}
	for _, old := range a.members {
		out[old.Name+"."+old.Namespace+"."] = a.mesh(old)
	}
	return out
}

// mesh is how a member stands here.
func (a *account) mesh(old objectRef) v1alpha1.ApprovalStatus {
	if a.VirtualMesh != nil {
		ref := (&conversion{hub: a.Hub}).mesh("", old)
		for _, key := range slices.Sorted(maps.Keys(a.VirtualMesh.Status.Meshes)) {
			namespace, found := strings.CutPrefix(key, ref.Name+".")
			if found && (ref.Namespace == "" || ref.Namespace == namespace) {
				return a.VirtualMesh.Status.Meshes[key]
			}
		}
	}
	return v1alpha1.ApprovalStatus{State: v1alpha1.StatePending}
}

// destinations are those of the VirtualMesh under the names that its generation gave them.
func (a *account) destinations() map[string]v1alpha1.ApprovalStatus {
	if a.VirtualMesh == nil {
		return nil
	}
	namespace := a.namespace
	if len(a.members) > 0 && a.members[0].Namespace != "" {
		namespace = a.members[0].Namespace // there the old installation kept what it had discovered
	}
	out := map[string]v1alpha1.ApprovalStatus{}
	for key, status := range a.VirtualMesh.Status.Destinations { // "<service>.<namespace>.<namespace of the cluster>"
		name, cluster := cutLast(key)
		service, of := cutLast(name)
		out[service+"-"+of+"-"+strings.TrimPrefix(cluster, v1alpha1.ClusterNamespacePrefix)+"."+namespace+"."] = status
	}
	return out
}

// cutLast cuts at the last dot.
func cutLast(s string) (before, after string) {
	if i := strings.LastIndexByte(s, '.'); i >= 0 {
		return s[:i], s[i+1:]
	}
	return s, ""
}

// approval is what the statuses of the second and the third generation have in common.
type approval struct {
	ObservedGeneration int64                              `json:"observedGeneration,omitempty"`
	State              v1alpha1.State                     `json:"state,omitempty"`
	Errors             []string                           `json:"errors,omitempty"`
	Meshes             map[string]v1alpha1.ApprovalStatus `json:"meshes,omitempty"`
	Isthmus            *converted                         `json:"isthmus,omitempty"`
}

func (a *account) approval() approval {
	return approval{ObservedGeneration: a.generation, State: a.state(), Errors: a.errors(), Meshes: a.meshes(), Isthmus: a.converted()}
}
