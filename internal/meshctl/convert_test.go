package meshctl_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/isthmus-mesh/isthmus/internal/meshctl"
)

// TestConvert: manifests go to stdout and what is to say about them to stderr; the exit code is for what is left to do.
func TestConvert(t *testing.T) {
	const good = `{apiVersion: networking.smh.solo.io/v1alpha2, kind: VirtualMesh, metadata: {name: a, namespace: old},
  spec: {mtlsConfig: {shared: {}}, meshes: [{name: istiod-istio-system-east, namespace: old}]}}
`
	const unknown = `---
{apiVersion: networking.smh.solo.io/v1alpha2, kind: VirtualMesh, metadata: {name: b, namespace: old},
  spec: {more: 1, meshes: [{name: istiod-istio-system-west}]}}
`
	const refused = `---
{apiVersion: networking.smh.solo.io/v1alpha2, kind: VirtualMesh, metadata: {name: c, namespace: old}, spec: {meshes: "\e[1m"}}
`
	const other = `---
{apiVersion: v1, kind: ConfigMap, metadata: {name: d}}
`
	file := filepath.Join(t.TempDir(), "old.yaml")
	if err := os.WriteFile(file, []byte(good+unknown), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, stdin, args string
		code              int
		out, errOut       []string
		not               string // in neither
	}{
		{"notes", good + other, "-f -", 0,
			[]string{"apiVersion: isthmus.dev/v1alpha1\nkind: VirtualMesh\n", "name: smh-old-a", "namespace: isthmus-system", "orgName: service-mesh-hub"},
			[]string{"VirtualMesh old/a: VirtualMesh isthmus-system/smh-old-a\n", "  note   spec.meshes[0]: ", "ConfigMap d: not converted\n  note "}, "status"},
		{"a field that is not known", "", "-f " + file, 1,
			[]string{"smh-old-a", "---\n", "smh-old-b", `isthmus.dev/not-converted: '{"spec.more":1}'`},
			[]string{"  error  spec.more: "}, "Error:"},
		{"a value that is not valid", good + refused, "-f -", 1, []string{"smh-old-a"}, []string{"VirtualMesh old/c: not converted\n  error  spec.meshes: must be a list"}, "smh-old-c"},
		{"another namespace, JSON", good, "-f - -n hub -o json", 0, []string{`"kind": "List"`, `"namespace": "hub"`}, nil, "isthmus-system"},
		{"nothing, JSON", "", "-f - -o json", 0, []string{`"items": []`}, nil, "null"},
		{"no file", "", "", 2, nil, []string{"--filename is missing"}, ""},
		{"no such file", "", "-f " + file + ".not", 1, nil, []string{"no such file"}, ""},
		{"no such format", good, "-f - -o table", 2, nil, []string{"--output must be one of yaml, json"}, ""},
		{"no YAML", "a: [", "-f -", 1, nil, []string{"document 1: not converted\n  error  is no YAML"}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			streams, in, out, errOut := genericiooptions.NewTestIOStreams()
			in.WriteString(tc.stdin)
			code := meshctl.Run(t.Context(), "meshctl", append([]string{"convert"}, strings.Fields(tc.args)...), streams)
			if code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
			for _, want := range tc.out {
				if !strings.Contains(out.String(), want) {
					t.Errorf("stdout lacks %q", want)
				}
			}
			for _, want := range tc.errOut {
				if !strings.Contains(errOut.String(), want) {
					t.Errorf("stderr lacks %q", want)
				}
			}
			if tc.not != "" && strings.Contains(out.String()+errOut.String(), tc.not) {
				t.Errorf("there is %q", tc.not)
			}
			if t.Failed() {
				t.Logf("stdout:\n%s\nstderr:\n%s", out, errOut)
			}
		})
	}
}
