package validation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/isthmus-mesh/isthmus/internal/legacy"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// TestConvertedIsTaken: an API server takes whatever is converted from an older generation, whatever is written in a field.
func TestConvertedIsTaken(t *testing.T) {
	cluster := testenv.Start(t)
	taken := func(o legacy.Converted) error {
		manifest, err := o.Manifest()
		if err != nil {
			return err
		}
		obj := &unstructured.Unstructured{Object: manifest}
		obj.SetNamespace("default")
		return cluster.Client.Create(context.Background(), obj, client.DryRunAll)
	}

	files, err := filepath.Glob("../../internal/legacy/testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("testdata: %v", err)
	}
	seen, bent := map[string]bool{}, map[string]bool{}
	check := func(what string, o legacy.Converted) {
		if o.VirtualMesh == nil || seen[string(marshal(t, o.VirtualMesh))] {
			return
		}
		seen[string(marshal(t, o.VirtualMesh))] = true
		if err := taken(o); err != nil {
			t.Errorf("%s: %.1000v", what, err)
		}
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range legacy.Manifests(text, "isthmus-system") {
			check(file+": "+o.Source, o)
		}
		var object map[string]any
		if err := yaml.Unmarshal(text, &object); err != nil || object["kind"] != "VirtualMesh" {
			continue // several objects
		}
		bend(object, fmt.Sprint(object["apiVersion"]), bent, func(change string) {
			vm, _ := legacy.Convert(object, "isthmus-system")
			check(file+": "+change, legacy.Converted{VirtualMesh: vm})
		})
	}
	t.Logf("%d different VirtualMeshes", len(seen))
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// bend puts, one after the other, every odd value in the place of every value of a tree whose path is not done yet.
func bend(tree any, path string, done map[string]bool, bent func(change string)) {
	each := func(field string, value any, set func(any)) {
		if !done[field] {
			for i, o := range odd {
				set(o)
				bent(fmt.Sprintf("%s: odd value %d", field, i))
			}
			set(value)
			done[field] = true
		}
		bend(value, field, done, bent)
	}
	switch v := tree.(type) {
	case map[string]any:
		for key, value := range v {
			if key != "apiVersion" && key != "kind" {
				each(path+"."+key, value, func(x any) { v[key] = x })
			}
		}
	case []any:
		for i, value := range v {
			each(path+"[]", value, func(x any) { v[i] = x })
		}
	}
}

// odd are values at, or over, the edge of something.
var odd = []any{
	nil, true, false, 0, 1, 100, 101, 256, 8192, 36500, 36501, -1, 0.5, 1e-9, 1e-10, 1e30,
	"", "x", "X", "a.b", ".global", "Ünï", "true", "1", "0.25", "1s", "1500ms", "1000000h", "NONE", "STRICT",
	"https://v", "http:/v", "Zm9v", "a-b_", "istio-", "istiod-", "istiod-a-istio-system-b", "isthmus-", "isthmus-east",
	strings.Repeat("a", 63), strings.Repeat("é", 63), strings.Repeat("a", 64), strings.Repeat("é", 64), strings.Repeat("a", 65), strings.Repeat("a", 128),
	strings.Repeat("a", 129), strings.Repeat("a", 253), strings.Repeat("é", 253), strings.Repeat("a", 254), strings.Repeat("a", 256), strings.Repeat("a", 257),
	"https://" + strings.Repeat("a", 504), "https://" + strings.Repeat("a", 505), strings.Repeat("a", 300<<10), strings.Repeat("Zm9v", 16<<10), strings.Repeat("Zm9v", 17<<10),
	map[string]any{}, map[string]any{"name": "x"}, map[string]any{"a/b/c": "x"}, map[string]any{"a": strings.Repeat("x", 64)}, labels(32), labels(33),
	[]any{}, []any{nil}, many(map[string]any{}, 16), many(map[string]any{}, 17), many(map[string]any{}, 64), many(map[string]any{}, 65), many("x", 65), []any{"x", "x"},
	many(map[string]any{"name": "istiod-x-y"}, 257), many(map[string]any{"name": "x", "namespace": "y"}, 256), many(map[string]any{"name": "x", "namespace": "y"}, 257),
}

func many(v any, n int) []any { return slices.Repeat([]any{v}, n) }

func labels(n int) map[string]any {
	out := map[string]any{}
	for i := range n {
		out[fmt.Sprintf("l%d", i)] = "x"
	}
	return out
}
