package legacy_test

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/legacy"
)

// leaf is a value in a tree that holds no others.
type leaf struct {
	path  string
	value any
	// set replaces it.
	set func(any)
}

// leaves of a tree that lies in the path, where set replaces it.
func leaves(path string, tree any, set func(any)) (out []leaf) {
	switch v := tree.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			field := key
			if set != nil { // it is not the object itself
				field = path + "." + key
			}
			out = append(out, leaves(field, v[key], func(x any) { v[key] = x })...)
		}
	case []any:
		for i := range v {
			out = append(out, leaves(fmt.Sprintf("%s[%d]", path, i), v[i], func(x any) { v[i] = x })...)
		}
	}
	if len(out) == 0 {
		out = []leaf{{path, tree, set}}
	}
	return out
}

// reported says whether a finding is about a field, or says of one that it lies in that it was left out.
func reported(fs finding.Findings, path string) bool {
	return slices.ContainsFunc(fs, func(f finding.Finding) bool {
		leftOut := f.Reason != legacy.ReasonChanged && f.Reason != legacy.ReasonDefaulted
		return path == f.Field || leftOut && f.Field != "" && (strings.HasPrefix(path, f.Field+".") || strings.HasPrefix(path, f.Field+"["))
	})
}

// convert makes sure that the object is not changed.
func convert(t *testing.T, object map[string]any) (*v1alpha1.VirtualMesh, finding.Findings) {
	t.Helper()
	before := runtime.DeepCopyJSON(object)
	vm, fs := legacy.Convert(object, hub)
	if !reflect.DeepEqual(object, before) {
		t.Fatalf("the object was changed:\n%v\nwas\n%v", object, before)
	}
	if invalid := len(fs.With(v1alpha1.ReasonInvalid)) > 0; invalid == (vm != nil) {
		t.Fatalf("converted: %t, with findings %v", vm != nil, fs)
	}
	return vm, fs
}

// same reports whether two conversions came to the same.
func same(vm, vm2 *v1alpha1.VirtualMesh, fs, fs2 finding.Findings) bool {
	return reflect.DeepEqual(vm, vm2) && reflect.DeepEqual(fs, fs2)
}

// objects are the objects in a file that can be converted.
func objects(text []byte) (out []map[string]any) {
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		var object map[string]any
		if yaml.UnmarshalStrict([]byte(document), &object) != nil {
			continue
		}
		all, ok := object["items"].([]any)
		if !ok {
			all = []any{object}
		}
		for _, item := range all {
			object, _ := item.(map[string]any)
			apiVersion, _ := object["apiVersion"].(string)
			kind, _ := object["kind"].(string)
			if legacy.Known(apiVersion, kind) {
				out = append(out, object)
			}
		}
	}
	return out
}

// FuzzConvert: nothing panics, and no value is lost silently. A value was looked at if something that can be no value, in its
// place, makes a difference; what makes none has to be reported.
func FuzzConvert(f *testing.F) {
	for _, text := range inputs(f) {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, o := range legacy.Manifests(text, hub) {
			if o.Source == "" || o.VirtualMesh == nil && len(o.Findings) == 0 {
				t.Fatalf("an object is not accounted for: %+v", o)
			}
			if o.VirtualMesh != nil {
				if _, err := o.Manifest(); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, object := range objects(text) {
			vm, fs := convert(t, object)
			if vm2, fs2 := convert(t, object); !same(vm, vm2, fs, fs2) {
				t.Fatalf("converted twice, it is another:\n%v %v\n%v %v", vm, fs, vm2, fs2)
			}
			for _, l := range leaves("", object, nil) {
				if l.path == "apiVersion" || l.path == "kind" || l.set == nil {
					continue
				}
				l.set(map[string]any{"no": map[string]any{"such": "value"}})
				vm2, fs2 := convert(t, object)
				l.set(l.value)
				if same(vm, vm2, fs, fs2) && !reported(fs, l.path) {
					t.Errorf("%s is lost silently: %v", l.path, fs)
				}
			}
		}
	})
}

// TestEveryFieldMatters: of every value of the manifests in testdata, another one makes a difference, as does none.
func TestEveryFieldMatters(t *testing.T) {
	for name, text := range inputs(t) {
		for _, object := range objects(text) {
			vm, fs := convert(t, object)
			if vm == nil {
				continue
			}
			for _, l := range leaves("", object, nil) {
				if l.path == "apiVersion" || l.path == "kind" || reported(fs, l.path) || l.path == "spec.shared" { // the default
					continue
				}
				l.set(another(l.value))
				vm2, fs2 := convert(t, object)
				l.set(l.value)
				if reflect.DeepEqual(vm, vm2) && reflect.DeepEqual(fs, fs2) {
					t.Errorf("%s: %s: %v and %v are converted to the same", name, l.path, l.value, another(l.value))
				}
			}
		}
	}
}

// another is a value that may stand where the given one does.
func another(value any) any {
	switch v := value.(type) {
	case bool:
		return !v
	case string:
		for _, values := range [][]string{
			{"ENABLED", "DISABLED", "MESH_DEFAULT"}, {"MULTI_ROOT", "NONE"}, {"STRICT", "PERMISSIVE"}, {"75s", "10s"},
			{"isthmus-system", "elsewhere"}, {"service-mesh-hub", "elsewhere"}, {"gloo-mesh", "elsewhere"},
		} {
			if i := slices.Index(values, v); i >= 0 {
				return values[(i+1)%len(values)]
			}
		}
		return v + "x"
	case float64:
		return map[float64]any{4096: 2048., 2048: 4096.}[v]
	}
	return nil
}
