package legacy

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// samples are two values that each kind of leaf can have, other than its default where there is one.
var samples = map[reflect.Type][2]any{
	reflect.TypeFor[string]():            {"istiod-istio-system-a", "istiod-istio-system-b"},
	reflect.TypeFor[bool]():              {false, true},
	reflect.TypeFor[uint32]():            {7, 8},
	reflect.TypeFor[keySize]():           {2048, 8192},
	reflect.TypeFor[ratio]():             {0.2, 0.3},
	reflect.TypeFor[duration]():          {"75s", "76s"},
	reflect.TypeFor[octets]():            {"c29tZQ==", "b3RoZXI="},
	reflect.TypeFor[label]():             {"some", "other"},
	reflect.TypeFor[suffix]():            {"some.example", "other.example"},
	reflect.TypeFor[address]():           {"https://some.example", "https://other.example"},
	reflect.TypeFor[accessPolicy]():      {"ENABLED", "DISABLED"},
	reflect.TypeFor[enforcementPolicy](): {true, "DISABLED"},
	reflect.TypeFor[federationMode]():    {"PERMISSIVE", "PERMISSIVE"},
	reflect.TypeFor[rotationStrategy]():  {"MULTI_ROOT", "NONE"},
	reflect.TypeFor[enforcementMode]():   {"STRICT", "DISABLE"},
}

// noEffect are fields whose only possible value is the default of their generation, so that it makes no difference.
var noEffect = map[string]string{
	"zephyr spec.federation.mode": "the only mode, and the default",
	"zephyr spec.shared":          "the default",
}

// fieldsOf are the paths of all fields of a type that have a value of their own, in their order; "[]" is an entry of a list. That an
// object is there is a value if it has no fields.
func fieldsOf(t reflect.Type, path ...string) (out [][]string) {
	_, leaf := samples[t]
	switch {
	case leaf || t.Kind() == reflect.Map || t.Kind() == reflect.Struct && t.NumField() == 0:
		return [][]string{path}
	case t.Kind() == reflect.Pointer:
		return fieldsOf(t.Elem(), path...)
	case t.Kind() == reflect.Slice:
		return fieldsOf(t.Elem(), append(slices.Clip(path), "[]")...)
	}
	for _, f := range reflect.VisibleFields(t) {
		if !f.Anonymous {
			out = append(out, fieldsOf(f.Type, append(slices.Clip(path), f.Tag.Get("json"))...)...)
		}
	}
	return out
}

// tree is the least value of a type that has the field of a path. which chooses what the field itself has.
func tree(t reflect.Type, which int, path ...string) any {
	if s, ok := samples[t]; ok {
		if len(path) > 0 {
			panic(t.String() + " has no " + path[0])
		}
		return s[which]
	}
	switch t.Kind() {
	case reflect.Pointer:
		return tree(t.Elem(), which, path...)
	case reflect.Slice:
		if len(path) > 0 {
			path = path[1:]
		}
		return []any{tree(t.Elem(), which, path...)}
	case reflect.Map:
		return map[string]any{"key": tree(t.Elem(), which)}
	case reflect.Struct:
		out := map[string]any{}
		for _, f := range reflect.VisibleFields(t) {
			switch name := f.Tag.Get("json"); {
			case f.Anonymous:
			case len(path) > 0 && name == path[0]:
				out[name] = tree(f.Type, which, path[1:]...)
			case f.Tag.Get("required") != "":
				out[name] = tree(f.Type, 0)
			}
		}
		return out
	}
	panic("no sample of " + t.String())
}

// complete adds to a spec what the rules beyond a single field call for: a mesh, a way to log in to Vault, and that a selector
// selects something.
func complete(value any) {
	switch v := value.(type) {
	case []any:
		for _, e := range v {
			complete(e)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			complete(v[key])
			switch child, _ := v[key].(map[string]any); {
			case key == "vault" && child["kubernetesAuth"] == nil && child["tokenSecretRef"] == nil:
				child["tokenSecretRef"] = map[string]any{"name": "token"}
			case key == "intermediateCertificateAuthority" && child["vault"] == nil:
				child["vault"] = map[string]any{"caPath": "a", "server": "https://v", "tokenSecretRef": map[string]any{"name": "token"}}
			case key == "provided" && child["certificate"] == nil:
				child["certificate"] = map[string]any{"name": "root"}
			case key == "mtlsConfig" && child["limited"] == nil && child["shared"] == nil:
				child["shared"] = map[string]any{}
			}
			list, _ := v[key].([]any)
			for _, e := range list {
				if s, _ := e.(map[string]any); key == "destinationSelectors" && s["kubeServiceRefs"] == nil && s["kubeServiceMatcher"] == nil {
					s["kubeServiceMatcher"] = map[string]any{"namespaces": []any{"x"}}
				}
			}
		}
	}
}

// convertedFields are the values of what a spec is converted to, by their paths, and what is said about it.
func convertedFields(t *testing.T, g *Generation, spec any) (values map[string]any, said []string) {
	t.Helper()
	vm, fs := Convert(map[string]any{
		"apiVersion": g.APIVersion(), "kind": "VirtualMesh", "metadata": map[string]any{"name": "x", "namespace": "old"}, "spec": spec,
	}, "isthmus-system")
	for _, f := range fs {
		said = append(said, f.Reason+" "+f.String())
	}
	if vm == nil {
		return nil, said
	}
	manifest, err := Converted{VirtualMesh: vm}.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	values = map[string]any{}
	flatten("", manifest, values)
	return values, said
}

func flatten(path string, value any, into map[string]any) {
	switch v := value.(type) {
	case map[string]any:
		for key := range v {
			flatten(strings.TrimPrefix(path+"."+key, "."), v[key], into)
		}
		if len(v) == 0 {
			into[path] = "{}"
		}
	case []any:
		for i := range v {
			flatten(fmt.Sprintf("%s[%d]", path, i), v[i], into)
		}
	default:
		into[path] = v
	}
}

// TestFields: every field that a generation has makes a difference to what it is converted to, or to what is said about that. What
// becomes of each is listed in testdata/fields.golden.
func TestFields(t *testing.T) {
	var got bytes.Buffer
	for _, g := range Generations() {
		spec := reflect.TypeOf(g.spec()).Elem()
		for _, path := range fieldsOf(spec) {
			name := g.Name + " spec." + strings.ReplaceAll(strings.Join(path, "."), ".[]", "[]")
			with := tree(spec, 1, path...)
			without := tree(spec, 0, path[:len(path)-1]...)
			for _, s := range []any{with, without} {
				complete(s)
				if object := s.(map[string]any); object["meshes"] == nil {
					object["meshes"] = []any{map[string]any{"name": "istiod-istio-system-a"}}
				}
			}
			was, saidBefore := convertedFields(t, g, without)
			is, said := convertedFields(t, g, with)
			if was == nil || is == nil {
				t.Errorf("%s: what is possible is refused: %v %v", name, saidBefore, said)
			}
			var became []string
			for _, p := range slices.Sorted(maps.Keys(is)) {
				if is[p] != was[p] {
					became = append(became, p)
				}
			}
			for _, s := range said {
				if !slices.Contains(saidBefore, s) {
					became = append(became, s)
				}
			}
			for _, s := range saidBefore {
				if !slices.Contains(said, s) {
					became = append(became, "without it: "+s)
				}
			}
			why, none := noEffect[name]
			if lost := len(became) == 0; lost != none {
				t.Errorf("%s: lost silently: %t, want %t", name, lost, none)
			}
			if none {
				became = []string{"nothing: " + why}
			}
			fmt.Fprintf(&got, "%s\n\t%s\n", name, strings.Join(became, "\n\t"))
		}
	}
	const golden = "testdata/fields.golden"
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("%s (go test ./internal/legacy -update writes it):\n%s", golden, got.String())
	}
}
