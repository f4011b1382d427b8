package legacy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"go.yaml.in/yaml/v2" // what kubectl reads manifests with
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
)

// Converted is what became of one object of a file.
type Converted struct {
	// Source says which object it is: "VirtualMesh service-mesh-hub/virtual-mesh".
	Source string
	// VirtualMesh is nil if there is none.
	VirtualMesh *v1alpha1.VirtualMesh
	Findings    finding.Findings
}

// Manifest is the VirtualMesh as users write it, without status.
func (o Converted) Manifest() (map[string]any, error) {
	manifest, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o.VirtualMesh)
	delete(manifest, "status")
	return manifest, err
}

// Manifests converts the objects of a file, which is YAML of one or several documents, or JSON, for a hub in the given
// namespace. Lists are taken apart. Every object is answered, also those that are passed over.
func Manifests(file []byte, hub string) []Converted {
	f := &reader{hub: hub, sources: map[string]string{}}
	documents := yaml.NewDecoder(bytes.NewReader(file))
	documents.SetStrict(true) // a key that is written twice would be lost
	for n := 1; ; n++ {
		var document any
		err := documents.Decode(&document)
		if errors.Is(err, io.EOF) {
			return f.all
		}
		source := fmt.Sprintf("document %d", n)
		if wrong := (*yaml.TypeError)(nil); errors.As(err, &wrong) {
			f.refuse(source, "", "is no manifest: %s", strings.Join(wrong.Errors, "; "))
			continue
		}
		if err != nil {
			f.refuse(source, "", "is no YAML, and nothing from here on was read: %v", err)
			return f.all
		}
		if document == nil {
			continue
		}
		if tree, err := jsonTree(document); err != nil {
			f.refuse(source, "", "is no manifest: %v", err)
		} else {
			f.add(source, tree)
		}
	}
}

// reader collects what became of the objects of a file.
type reader struct {
	hub     string
	sources map[string]string // by the name that they have here
	all     []Converted
}

func (f *reader) answer(source string, vm *v1alpha1.VirtualMesh, fs ...finding.Finding) {
	f.all = append(f.all, Converted{Source: source, VirtualMesh: vm, Findings: fs})
}

func (f *reader) refuse(source, field, message string, args ...any) {
	f.answer(source, nil, finding.Finding{Field: field, Reason: v1alpha1.ReasonInvalid, Message: fmt.Sprintf(message, args...)})
}

// add converts what is at one place of a file.
func (f *reader) add(place string, value any) {
	object, ok := value.(map[string]any)
	if !ok {
		f.refuse(place, "", "is no object of Kubernetes: take it out")
		return
	}
	apiVersion, _ := object["apiVersion"].(string)
	kind, _ := object["kind"].(string)
	source := name(place, kind, object)
	switch {
	case apiVersion == "" || kind == "":
		f.refuse(source, "", "has no apiVersion or no kind: add them")
	case Known(apiVersion, kind):
		f.convert(source, object)
	case strings.HasSuffix(kind, "List") && object["items"] != nil:
		f.list(source, object)
	default:
		f.answer(source, nil, passedOver(apiVersion, kind))
	}
}

func (f *reader) convert(source string, object map[string]any) {
	vm, fs := Convert(object, f.hub)
	if vm != nil {
		if other, taken := f.sources[vm.Name]; taken {
			f.refuse(source, "metadata.name", "would become %s, as %s does: rename one of the two", vm.Name, other)
			return
		}
		f.sources[vm.Name] = source
	}
	f.answer(source, vm, fs...)
}

func (f *reader) list(source string, object map[string]any) {
	items, ok := object["items"].([]any)
	if !ok {
		f.refuse(source, "items", "must be a list")
		return
	}
	for i, item := range items {
		f.add(fmt.Sprintf("%s, items[%d]", source, i), item)
	}
	for _, key := range slices.Sorted(maps.Keys(object)) {
		if key != "apiVersion" && key != "kind" && key != "metadata" && key != "items" {
			f.refuse(source, key, "is no field of a list: take it out")
		}
	}
}

// passedOver says what to do about an object that is not converted.
func passedOver(apiVersion, kind string) finding.Finding {
	group, version, _ := strings.Cut(apiVersion, "/")
	area, _, _ := strings.Cut(group, ".")
	old := slices.ContainsFunc([]string{".zephyr.solo.io", ".smh.solo.io", ".mesh.gloo.solo.io"}, func(end string) bool { return strings.HasSuffix(group, end) })
	switch what := kind + " of " + apiVersion; {
	case !old:
		return finding.Finding{Reason: ReasonNotCarriedOver, Message: what + " is passed over"}
	case area == "discovery" || area == "certificates" || area == "security":
		return finding.Finding{Reason: ReasonNotCarriedOver, Message: what + " is passed over: the hub and the agents make their own"}
	case kind == "VirtualMesh":
		return finding.Finding{Field: "apiVersion", Reason: ReasonNotConverted, Message: fmt.Sprintf(
			"%s is no version that can be converted: write it in a version that %s had, and try again", version, group)}
	}
	needed := "such as an AccessPolicy"
	if slices.Contains([]string{"AccessPolicy", "CertificateVerification", "Settings", "VirtualDestination"}, kind) {
		needed = "as the kind " + kind
	}
	return finding.Finding{Field: "kind", Reason: ReasonNotConverted, Message: fmt.Sprintf(
		"%s cannot be converted: write by hand what is needed of it, %s of %s", kind, needed, v1alpha1.GroupVersion)}
}

// name names an object, or what is at a place where there is none.
func name(place, kind string, object map[string]any) string {
	metadata, _ := object["metadata"].(map[string]any)
	name, _ := metadata["name"].(string)
	namespace, _ := metadata["namespace"].(string)
	switch {
	case kind == "" || name == "":
		return place
	case namespace == "":
		return kind + " " + name
	}
	return kind + " " + namespace + "/" + name
}

// jsonTree is a document of YAML as JSON has it: its objects have names for keys, and its numbers are finite.
func jsonTree(value any) (any, error) {
	switch v := value.(type) {
	case map[any]any:
		object := map[string]any{}
		for key, value := range v {
			name, err := jsonTree(key)
			if err != nil {
				return nil, err
			}
			if _, ok := name.(string); !ok {
				return nil, fmt.Errorf("the key %v is not text: put it in quotation marks", key)
			}
			if object[name.(string)], err = jsonTree(value); err != nil {
				return nil, err
			}
		}
		return object, nil
	case []any:
		list := make([]any, len(v))
		for i := range v {
			var err error
			if list[i], err = jsonTree(v[i]); err != nil {
				return nil, err
			}
		}
		return list, nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("%v is no number that JSON has", v)
		}
	}
	return value, nil
}
