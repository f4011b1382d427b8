package legacy

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
)

// exclusive are fields of which an object has one at most.
var exclusive = [][2]string{
	{"shared", "limited"}, {"builtin", "provided"}, {"generated", "secret"}, {"rootCertificateAuthority", "intermediateCertificateAuthority"},
	{"none", "manual"}, {"tokenSecretRef", "kubernetesAuth"}, {"serviceAccountRef", "mountedSaPath"},
}

// markers are fields that say something by being there.
var markers = []string{"shared", "limited", "permissive", "none", "manual"}

// anySpec is a value that a type can have.
func anySpec(t *rapid.T, of reflect.Type, name string) any {
	if s, ok := samples[of]; ok {
		return rapid.SampledFrom(s[:]).Draw(t, name)
	}
	switch of.Kind() {
	case reflect.Pointer:
		return anySpec(t, of.Elem(), name)
	case reflect.Slice:
		out := []any{}
		if of.Elem() == reflect.TypeFor[label]() { // a set
			return slices.Clone(rapid.SampledFrom([][]any{{"some"}, {"other"}, {"some", "other"}}).Draw(t, name))
		}
		for i := range rapid.IntRange(1, 2).Draw(t, name) {
			out = append(out, anySpec(t, of.Elem(), name))
			if ref, ok := out[i].(map[string]any); ok && of.Elem() == reflect.TypeFor[objectRef]() { // each once
				ref["name"] = samples[reflect.TypeFor[string]()][i]
			}
		}
		return out
	case reflect.Map:
		return map[string]any{"key": anySpec(t, of.Elem(), name)}
	}
	out := map[string]any{}
	for _, f := range reflect.VisibleFields(of) {
		if field := f.Tag.Get("json"); !f.Anonymous && (f.Tag.Get("required") != "" || field == "meshes" && name == "spec" || rapid.Bool().Draw(t, "has "+field)) {
			out[field] = anySpec(t, f.Type, field)
		}
	}
	for _, pair := range exclusive {
		if out[pair[0]] != nil && out[pair[1]] != nil {
			delete(out, pair[rapid.IntRange(0, 1).Draw(t, pair[0]+" or "+pair[1])])
		}
	}
	return out
}

// back writes a VirtualMesh as a generation did.
func back(t *rapid.T, g *Generation, vm *v1alpha1.VirtualMesh) map[string]any {
	spec, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&vm.Spec)
	if err != nil {
		t.Fatal(err)
	}
	trust, _ := spec["mtlsConfig"].(map[string]any)
	switch g.Name {
	case "zephyr":
		for _, model := range []string{"shared", "limited"} {
			if m, ok := trust[model].(map[string]any); ok {
				spec[model] = map[string]any{}
				root := m["rootCertificateAuthority"].(map[string]any)
				if secret, ok := root["secret"]; ok {
					spec["certificateAuthority"] = map[string]any{"provided": map[string]any{"certificate": secret}}
				} else {
					spec["certificateAuthority"] = map[string]any{"builtin": root["generated"]}
				}
			}
		}
		delete(spec, "mtlsConfig")
		spec["federation"] = map[string]any{"mode": "PERMISSIVE"}
		if policy, ok := spec["globalAccessPolicy"]; ok {
			spec["enforceAccessControl"] = policy
			delete(spec, "globalAccessPolicy")
		}
	case "smh":
		spec["federation"] = map[string]any{"permissive": map[string]any{}}
	case "gloo":
		if trust["limited"] != nil {
			trust["limited"] = map[string]any{}
		}
		asGloo(t, spec)
	}
	return spec
}

// asGloo writes ratios as numbers, and durations as seconds.
func asGloo(t *rapid.T, value any) {
	switch v := value.(type) {
	case []any:
		for _, e := range v {
			asGloo(t, e)
		}
	case map[string]any:
		for key, child := range v {
			switch key {
			case "secretRotationGracePeriodRatio":
				n, err := number(child)
				if err != nil {
					t.Fatal(err)
				}
				v[key] = n
			case "time", "interval":
				d, err := time.ParseDuration(child.(string))
				if err != nil {
					t.Fatal(err)
				}
				v[key] = fmt.Sprintf("%.0fs", d.Seconds())
			default:
				asGloo(t, child)
			}
		}
	}
}

func fromSpec(g *Generation, spec any) map[string]any {
	return map[string]any{"apiVersion": g.APIVersion(), "kind": "VirtualMesh", "metadata": map[string]any{"name": "x", "namespace": "old"}, "spec": spec}
}

// roundTrip: whatever is written in a generation is there again when what it is converted to is written as that generation did, or
// something was said about it; and that means the same as what was written first.
func roundTrip(t *rapid.T) {
	g := rapid.SampledFrom(Generations()).Draw(t, "generation")
	spec := anySpec(t, reflect.TypeOf(g.spec()).Elem(), "spec")
	complete(spec)
	vm, fs := Convert(fromSpec(g, spec), "isthmus-system")
	if vm == nil {
		t.Fatalf("what is possible is refused: %v", fs)
	}
	again := back(t, g, vm)
	before, after := map[string]any{}, map[string]any{}
	flatten("spec", spec, before)
	flatten("spec", again, after)
	for _, path := range slices.Sorted(maps.Keys(before)) {
		was := before[path]
		if was == "{}" && !slices.Contains(markers, path[strings.LastIndexByte(path, '.')+1:]) || slices.ContainsFunc(slices.Collect(maps.Keys(after)), func(p string) bool {
			return was == "{}" && strings.HasPrefix(p, path+".")
		}) {
			continue // an object without a value of its own, or one that has more now
		}
		if path == "spec.federation.permissive" && after["spec.federation.selectors[0]"] == "{}" {
			continue // which is how that is written here
		}
		if was == false { // the same as nothing, but for enforceAccessControl
			was = map[bool]any{true: "DISABLED"}[strings.HasSuffix(path, "enforceAccessControl")]
		}
		if was == true && strings.HasSuffix(path, "enforceAccessControl") {
			was = "ENABLED"
		}
		said := slices.ContainsFunc(fs, func(f finding.Finding) bool {
			return f.Field != "" && (path == f.Field || strings.HasPrefix(path, f.Field+".") || strings.HasPrefix(path, f.Field+"["))
		})
		if fmt.Sprint(was) != fmt.Sprint(after[path]) && !said {
			t.Errorf("%s %s was %v, and is %v: %v", g.Name, path, was, after[path], fs)
		}
	}
	vm2, fs2 := Convert(fromSpec(g, again), "isthmus-system")
	if vm2 == nil || !reflect.DeepEqual(vm.Spec, vm2.Spec) {
		t.Errorf("%s: it was %+v, and is %+v: %v", g.Name, vm.Spec, vm2, fs2)
	}
}

func TestRoundTrip(t *testing.T) { rapid.Check(t, roundTrip) }

func FuzzRoundTrip(f *testing.F) { f.Fuzz(rapid.MakeFuzz(roundTrip)) }
