// Package finding is how decisions report what they found: values that name the field, the reason and the remedy, and one
// way to turn them into conditions and lists of errors.
//
// It knows neither clients nor what is being decided.
package finding

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Limits of what goes into a status.
const (
	maxErrors = 50
	// MaxMessage is how long a message is at most, in bytes.
	MaxMessage = 4096
)

// Finding is one thing that was found.
type Finding struct {
	// Field is the path of the field at fault, such as "spec.mtlsConfig.limited"; empty where it is no field.
	Field string
	// Reason is one CamelCase word, the reason of conditions and events.
	Reason string
	// Message says what is wrong and what to do about it.
	Message string
	// Mesh, "<name>.<namespace>", is the mesh that it is about; empty where it is about the object as a whole.
	Mesh string
}

func (f Finding) String() string {
	if f.Field == "" {
		return f.Message
	}
	return f.Field + ": " + f.Message
}

// Findings are several of them, in the order in which they were found.
type Findings []Finding

// About returns the findings about one mesh, or for "" those about the object as a whole.
func (fs Findings) About(mesh string) Findings {
	return fs.where(func(f Finding) bool { return f.Mesh == mesh })
}

// With returns the findings of one reason.
func (fs Findings) With(reason string) Findings {
	return fs.where(func(f Finding) bool { return f.Reason == reason })
}

// Without returns the findings of all reasons but one.
func (fs Findings) Without(reason string) Findings {
	return fs.where(func(f Finding) bool { return f.Reason != reason })
}

func (fs Findings) where(keep func(Finding) bool) (out Findings) {
	for _, f := range fs {
		if keep(f) {
			out = append(out, f)
		}
	}
	return out
}

// Errors returns the findings as texts, at most 50, each once.
func (fs Findings) Errors() (out []string) {
	for _, f := range fs {
		if s := f.String(); !slices.Contains(out, s) && len(out) < maxErrors {
			out = append(out, s)
		}
	}
	return out
}

// Condition is True for reason and message if there are no findings; otherwise False for the reason of the first, with all
// of their texts as its message.
func (fs Findings) Condition(conditionType, reason, message string) metav1.Condition {
	c := metav1.Condition{Type: conditionType, Status: metav1.ConditionTrue, Reason: reason, Message: message}
	if len(fs) > 0 {
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, fs[0].Reason, Join(fs.Errors())
	}
	return c
}

// Join makes one message, short enough for a condition, of several.
func Join(messages []string) string {
	return Short(strings.Join(messages, "; "), MaxMessage)
}

// Short is a text of at most so many bytes, of a longer one its beginning.
func Short(text string, limit int) string {
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit-3], "") + "..."
	}
	return text
}

// Conditions completes the wanted conditions for a status: each gets the generation, and the time of its last transition from
// the live condition of its type if that has the same status, or else the present unless it has one.
func Conditions(live []metav1.Condition, generation int64, want ...metav1.Condition) []metav1.Condition {
	now := metav1.Now().Rfc3339Copy()
	for i := range want {
		want[i].ObservedGeneration = generation
		if want[i].LastTransitionTime.IsZero() {
			want[i].LastTransitionTime = now
		}
		if was := meta.FindStatusCondition(live, want[i].Type); was != nil && was.Status == want[i].Status {
			want[i].LastTransitionTime = was.LastTransitionTime
		}
	}
	return want
}

// Recorder sends events; events.EventRecorder of client-go is one.
type Recorder interface {
	Eventf(regarding, related runtime.Object, kind, reason, action, note string, args ...any)
}

// Announce sends an event for each of the conditions that differs from the live one of its type in status or reason: of kind
// Normal where the condition is as it should be, of kind Warning otherwise.
func Announce(r Recorder, obj runtime.Object, live []metav1.Condition, action string, conditions ...metav1.Condition) {
	for _, c := range conditions {
		was := meta.FindStatusCondition(live, c.Type)
		if was != nil && was.Status == c.Status && was.Reason == c.Reason {
			continue
		}
		kind := "Normal"
		if c.Status == metav1.ConditionFalse {
			kind = "Warning"
		}
		r.Eventf(obj, nil, kind, c.Reason, action, "%s", c.Message)
	}
}
