package legacy_test

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
	"github.com/isthmus-mesh/isthmus/internal/legacy"
)

// statusCases are what an object may have to be told. Each is told in the shape of each generation.
var statusCases = []struct {
	name     string
	vm       string // the VirtualMesh in YAML; none if it is empty
	findings finding.Findings
}{
	{name: "nothing is known yet"},
	{name: "not converted, and nothing is in force", findings: finding.Findings{
		{Field: "spec.meshes", Reason: v1alpha1.ReasonInvalid, Message: "is empty: name at least one mesh"},
	}},
	{name: "converted, and not looked at", vm: `
metadata: {name: x, namespace: isthmus-system, generation: 2}
status: {observedGeneration: 1, state: ACCEPTED, conditions: [{type: Ready, status: "True", message: of the last generation}]}
`},
	{name: "certificates are under way", vm: `
metadata: {name: x, namespace: isthmus-system, generation: 1}
status:
  observedGeneration: 1
  state: PENDING
  accepted: {generation: 1, spec: {meshes: []}}
  meshes:
    istiod-istio-system-east.isthmus-east: {state: PENDING}
    istiod-istio-system-west.isthmus-west: {state: ACCEPTED}
  conditions:
  - {type: Ready, status: "False", reason: Progressing, message: "east: the certificate is ordered"}
  - {type: Stalled, status: "False", reason: Progressing}
  - {type: TrustEstablished, status: "False", reason: Progressing, message: "not seen to use an intermediate under the shared root: east"}
`},
	{name: "in force, with a field that has no effect", findings: finding.Findings{
		{Field: "spec.x", Reason: legacy.ReasonUnknownField, Message: "is no field that is known"},
		{Field: "spec.y", Reason: legacy.ReasonChanged, Message: "is z here"},
	}, vm: `
metadata: {name: x, namespace: isthmus-system, generation: 1}
status:
  observedGeneration: 1
  state: ACCEPTED
  accepted: {generation: 1, spec: {meshes: []}}
  meshes:
    istiod-istio-system-east.isthmus-east: {state: ACCEPTED}
    istiod-istio-system-west.isthmus-west: {state: ACCEPTED}
  destinations:
    reviews.bookinfo.isthmus-east: {state: INVALID, errors: [the mesh has no gateway]}
    ratings.bookinfo.isthmus-west: {state: ACCEPTED}
  destinationCounts: {ACCEPTED: 1, INVALID: 1}
  deployedSharedTrust:
    root: "00"
    sharedTrust:
      rotationTrigger: now
      rootCertificateAuthority: {generated: {ttlDays: 30, orgName: o, secretRotationGracePeriodRatio: "0.20"}}
      intermediateCertOptions: {secretRotationGracePeriodRatio: ".5"}
  rotation:
    step: FINISHED
    conditions:
    - {timestamp: "2026-01-02T03:04:05Z", state: ADDING_NEW_ROOT, message: both roots, errors: [late]}
    - {timestamp: "2026-01-02T04:04:05Z", state: FINISHED}
  conditions:
  - {type: Ready, status: "True", reason: Ready, message: in force in 2 meshes}
  - {type: Stalled, status: "False", reason: Ready}
  - {type: TrustEstablished, status: "True", reason: Ready, message: every member was seen to use an intermediate under the shared root}
`},
	{name: "an edit is not converted, and what was before fails", findings: finding.Findings{
		{Field: "spec.meshes", Reason: v1alpha1.ReasonInvalid, Message: "must be a list"},
	}, vm: `
metadata: {name: x, namespace: isthmus-system, generation: 1}
status:
  observedGeneration: 1
  state: FAILED
  accepted: {generation: 1, spec: {meshes: []}}
  meshes:
    istiod-istio-system-east.isthmus-east: {state: FAILED, errors: [cacerts is somebody else's]}
  conditions:
  - {type: Ready, status: "False", reason: CACertsForeign, message: "mesh east: cacerts is somebody else's"}
  - {type: Stalled, status: "True", reason: CACertsForeign, message: "mesh east: cacerts is somebody else's"}
`},
	{name: "an edit is not converted, and what was before is in force", findings: finding.Findings{
		{Field: "spec.meshes", Reason: v1alpha1.ReasonInvalid, Message: "must be a list"},
	}, vm: `
metadata: {name: x, namespace: isthmus-system, generation: 1}
status:
  observedGeneration: 1
  state: ACCEPTED
  accepted: {generation: 1, spec: {meshes: []}}
  conditions:
  - {type: Ready, status: "True", reason: Ready, message: in force in 2 meshes}
`},
	{name: "the mesh is another one's", vm: `
metadata: {name: x, namespace: isthmus-system, generation: 1}
status:
  observedGeneration: 1
  state: INVALID
  meshes:
    istiod-istio-system-east.isthmus-east: {state: INVALID, errors: [the mesh belongs to VirtualMesh one]}
    istiod-istio-system-west.isthmus-system: {state: INVALID, errors: [no Mesh has this name]}
  conditions:
  - {type: Ready, status: "False", reason: MeshTaken, message: "mesh east: the mesh belongs to VirtualMesh one"}
  - {type: Stalled, status: "True", reason: MeshTaken, message: "mesh east: the mesh belongs to VirtualMesh one"}
`},
	{name: "the spec as a whole is refused", vm: `
metadata: {name: x, namespace: isthmus-system, generation: 1}
status:
  observedGeneration: 1
  state: INVALID
  errors: ["spec.mtlsConfig.shared.rootCertificateAuthority.secret: is not there"]
  conditions:
  - {type: Ready, status: "False", reason: Invalid, message: "spec.mtlsConfig.shared.rootCertificateAuthority.secret: is not there"}
  - {type: Stalled, status: "True", reason: Invalid, message: "spec.mtlsConfig.shared.rootCertificateAuthority.secret: is not there"}
`},
	{name: "the root cannot sign", vm: `
metadata: {name: x, namespace: isthmus-system, generation: 1}
status:
  observedGeneration: 1
  state: PENDING
  accepted: {generation: 1, spec: {meshes: []}}
  conditions:
  - {type: Ready, status: "False", reason: RootKeyLost, message: the key is lost}
  - {type: RootReady, status: "False", reason: RootKeyLost, message: the key is lost}
  - {type: Stalled, status: "True", reason: RootKeyLost, message: the key is lost}
  - {type: TrustEstablished, status: "False", reason: Progressing, message: not yet}
`},
	{name: "it is being deleted", vm: `
metadata: {name: x, namespace: isthmus-system, generation: 2, deletionTimestamp: "2026-01-02T03:04:05Z"}
status:
  observedGeneration: 2
  state: ACCEPTED
  accepted: {generation: 1, spec: {meshes: []}}
  conditions:
  - {type: Ready, status: "False", reason: Deleting, message: federation and policies are being taken back in east}
  - {type: Stalled, status: "False", reason: Deleting}
`},
}

// TestStatus: what each generation is told.
func TestStatus(t *testing.T) {
	var got bytes.Buffer
	for _, tc := range statusCases {
		var vm *v1alpha1.VirtualMesh
		if tc.vm != "" {
			vm = &v1alpha1.VirtualMesh{}
			if err := yaml.UnmarshalStrict([]byte(tc.vm), vm); err != nil {
				t.Fatalf("%s: %v", tc.name, err)
			}
		}
		for _, g := range legacy.Generations() {
			prefix := "istiod"
			if g.Name == "zephyr" {
				prefix = "istio"
			}
			object := map[string]any{
				"apiVersion": g.APIVersion(), "kind": "VirtualMesh",
				"metadata": map[string]any{"name": "x", "namespace": "old", "generation": int64(7)},
				"spec": map[string]any{"unknown": int64(1), "meshes": []any{
					map[string]any{"name": prefix + "-istio-system-east", "namespace": "old"},
					map[string]any{"name": prefix + "-istio-system-west"},
				}},
			}
			before := runtime.DeepCopyJSON(object)
			status, err := legacy.Status(legacy.Account{Object: object, Hub: hub, VirtualMesh: vm, Findings: tc.findings})
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(object, before) {
				t.Errorf("%s: the object was changed", tc.name)
			}
			runtime.DeepCopyJSON(status) // panics at what no JSON has
			text, err := yaml.Marshal(status)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&got, "---\n# %s: %s\n%s", g.Name, tc.name, text)
		}
	}
	checkGolden(t, "testdata/status.golden", got.Bytes())
}

// TestStatusOfWhatCannotBeRead: an object may hold anything, and more errors than a status takes.
func TestStatusOfWhatCannotBeRead(t *testing.T) {
	vm := &v1alpha1.VirtualMesh{Status: v1alpha1.VirtualMeshStatus{Errors: make([]string, 50)}}
	vm.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionStalled, Status: metav1.ConditionTrue, Message: "x"}}
	for _, g := range legacy.Generations() {
		for _, spec := range []any{nil, "text", []any{}, map[string]any{"meshes": "x"}, map[string]any{"meshes": []any{nil, int64(1), map[string]any{"name": int64(1)}}}} {
			object := map[string]any{"apiVersion": g.APIVersion(), "kind": "VirtualMesh", "metadata": map[string]any{"name": "x", "namespace": "old"}, "spec": spec}
			status, err := legacy.Status(legacy.Account{Object: object, Hub: hub, VirtualMesh: vm})
			if err != nil {
				t.Errorf("%s: %v: %v", g.Name, spec, err)
			}
			if errors, _ := status["errors"].([]any); len(errors) > 50 {
				t.Errorf("%d errors", len(errors))
			}
		}
	}
}

// TestNamesFit: whatever the names, there is room for what is named after a VirtualMesh, and different ones stay different.
func TestNamesFit(t *testing.T) {
	seen := map[string]string{}
	for _, g := range legacy.Generations() {
		for _, ns := range []string{"a", "ab", strings.Repeat("n", 63)} {
			for _, name := range []string{"b", "b.c", strings.Repeat("x", 252) + "y", strings.Repeat("x", 252) + "z"} {
				here := g.NameOf(ns, name)
				secret := here + "." + strings.Repeat("n", 63) + ".1000000000"
				if len(secret) > 253 {
					t.Errorf("%s has %d characters", secret, len(secret))
				}
				if other, taken := seen[here]; taken {
					t.Errorf("%s is %s/%s and %s", here, ns, name, other)
				}
				seen[here] = ns + "/" + name
			}
		}
	}
}
