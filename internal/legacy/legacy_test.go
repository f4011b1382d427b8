package legacy_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/legacy"
)

const hub = "isthmus-system"

var update = flag.Bool("update", false, "write the .golden files")

// inputs are the manifests in testdata, by the names of their files.
func inputs(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("testdata: %v", err)
	}
	out := map[string][]byte{}
	for _, name := range files {
		if out[name], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// TestManifests: what is converted, and what is said about it.
func TestManifests(t *testing.T) {
	for name, text := range inputs(t) {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".yaml"), func(t *testing.T) {
			var got bytes.Buffer
			for _, o := range legacy.Manifests(text, hub) {
				fmt.Fprintf(&got, "---\n# %s\n", o.Source)
				for _, f := range o.Findings {
					fmt.Fprintf(&got, "# %s %s\n", f.Reason, f)
				}
				if o.VirtualMesh == nil {
					continue
				}
				manifest, err := o.Manifest()
				if err != nil {
					t.Fatal(err)
				}
				out, err := yaml.Marshal(manifest)
				if err != nil {
					t.Fatal(err)
				}
				got.Write(out)
			}
			checkGolden(t, strings.TrimSuffix(name, ".yaml")+".golden", got.Bytes())
		})
	}
}

// checkGolden compares with what a file holds, or with -update writes it.
func checkGolden(t *testing.T, golden string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s (go test ./internal/legacy -update writes it):\n%s\nwant:\n%s", golden, got, want)
	}
}

// TestDefaults: what a generation meant by saying nothing is what the hub does, whether it is written down or the default here.
func TestDefaults(t *testing.T) {
	for name, org := range map[string]string{"zephyr": "service-mesh-hub", "smh": "service-mesh-hub", "gloo": "gloo-mesh"} {
		text := inputs(t)["testdata/"+name+"-least.yaml"]
		vm := legacy.Manifests(text, hub)[0].VirtualMesh
		shared := vm.Spec.MTLSConfig.Shared
		root, intermediate := accept.RootOptions(shared.RootCertificateAuthority.Generated), accept.IntermediateOptions(shared.IntermediateCertOptions)
		if *root.TTLDays != 365 || *root.RSAKeySizeBytes != 4096 || root.OrgName != org || root.SecretRotationGracePeriodRatio != "0.10" {
			t.Errorf("%s: root %+v", name, root)
		}
		if *intermediate.TTLDays != 365 || *intermediate.RSAKeySizeBytes != 4096 || intermediate.OrgName != "Istio" {
			t.Errorf("%s: intermediate %+v", name, intermediate)
		}
		if f := vm.Spec.Federation; len(f.Selectors) != 1 || f.HostnameSuffix != "" && f.HostnameSuffix != "global" {
			t.Errorf("%s: federation %+v", name, f)
		}
		if s := vm.Spec.MTLSConfig.RotationStrategy; s != "" && s != v1alpha1.RotationMultiRoot {
			t.Errorf("%s: rotationStrategy %s", name, s)
		}
	}
}

// TestValues: how one field may be written.
func TestValues(t *testing.T) {
	const zephyr, smh, gloo = "networking.zephyr.solo.io/v1alpha1", "networking.smh.solo.io/v1alpha2", "networking.mesh.gloo.solo.io/v1"
	root := func(vm *v1alpha1.VirtualMesh) *v1alpha1.CertOptions {
		return vm.Spec.MTLSConfig.Shared.RootCertificateAuthority.Generated
	}
	for _, tc := range []struct {
		version, spec string
		get           func(*v1alpha1.VirtualMesh) any
		want          any // nil: refused
	}{
		{zephyr, "enforceAccessControl: true", func(vm *v1alpha1.VirtualMesh) any { return vm.Spec.GlobalAccessPolicy }, v1alpha1.GlobalAccessPolicyEnabled},
		{zephyr, "enforceAccessControl: false", func(vm *v1alpha1.VirtualMesh) any { return vm.Spec.GlobalAccessPolicy }, v1alpha1.GlobalAccessPolicyDisabled},
		{zephyr, "enforceAccessControl: DISABLED", func(vm *v1alpha1.VirtualMesh) any { return vm.Spec.GlobalAccessPolicy }, v1alpha1.GlobalAccessPolicyDisabled},
		{zephyr, "enforceAccessControl: 1", func(vm *v1alpha1.VirtualMesh) any { return vm.Spec.GlobalAccessPolicy }, v1alpha1.GlobalAccessPolicyEnabled},
		{zephyr, "enforceAccessControl: null", func(vm *v1alpha1.VirtualMesh) any { return vm.Spec.GlobalAccessPolicy }, v1alpha1.GlobalAccessPolicy("")},
		{zephyr, "enforceAccessControl: 3", nil, nil},
		{smh, "globalAccessPolicy: true", nil, nil},
		{smh, "globalAccessPolicy: enabled", func(vm *v1alpha1.VirtualMesh) any { return vm.Spec.GlobalAccessPolicy }, v1alpha1.GlobalAccessPolicyEnabled},
		{smh, "mtls_config: {auto_restart_pods: true, shared: {}}", func(vm *v1alpha1.VirtualMesh) any { return vm.Spec.MTLSConfig.AutoRestartPods }, true},
		{smh, "mtls_config: {shared: {}}, mtlsConfig: {shared: {}}", nil, nil},
		{zephyr, "certificateAuthority: {builtin: {ttlDays: '30'}}", func(vm *v1alpha1.VirtualMesh) any { return *root(vm).TTLDays }, int32(30)},
		{zephyr, "certificateAuthority: {builtin: {ttlDays: 3.0e1}}", func(vm *v1alpha1.VirtualMesh) any { return *root(vm).TTLDays }, int32(30)},
		{zephyr, "certificateAuthority: {builtin: {ttlDays: 0}}", func(vm *v1alpha1.VirtualMesh) any { return root(vm).TTLDays == nil }, true},
		{zephyr, "certificateAuthority: {builtin: {ttlDays: -1}}", nil, nil},
		{zephyr, "certificateAuthority: {builtin: {ttlDays: 40000}}", nil, nil},
		{zephyr, "certificateAuthority: {builtin: {rsaKeySizeBytes: 512}}", func(vm *v1alpha1.VirtualMesh) any { return *root(vm).RSAKeySizeBytes }, int32(512)},
		{zephyr, "certificateAuthority: {builtin: {rsaKeySizeBytes: 4294967296}}", nil, nil},
		{zephyr, "certificateAuthority: {builtin: {}, provided: {certificate: {name: x}}}", nil, nil},
		{zephyr, "certificateAuthority: {provided: {}}", nil, nil},
		{zephyr, "shared: {}, limited: {}", nil, nil},
		{gloo, "mtlsConfig: {shared: {rootCertificateAuthority: {generated: {secretRotationGracePeriodRatio: '0.10'}}}}", func(vm *v1alpha1.VirtualMesh) any { return root(vm).SecretRotationGracePeriodRatio }, "0.1"},
		{gloo, "mtlsConfig: {shared: {rootCertificateAuthority: {generated: {secretRotationGracePeriodRatio: 1e-3}}}}", func(vm *v1alpha1.VirtualMesh) any { return root(vm).SecretRotationGracePeriodRatio }, "0.001"},
		{gloo, "mtlsConfig: {shared: {rootCertificateAuthority: {generated: {secretRotationGracePeriodRatio: 1}}}}", nil, nil},
		{gloo, "mtlsConfig: {shared: {rootCertificateAuthority: {generated: {secretRotationGracePeriodRatio: 1e-30}}}}", nil, nil},
		{gloo, "mtlsConfig: {rotationStrategy: 1, shared: {}}", func(vm *v1alpha1.VirtualMesh) any { return vm.Spec.MTLSConfig.RotationStrategy }, v1alpha1.RotationNone},
		{gloo, "mtlsConfig: {rotationVerificationMethod: {}, shared: {}}", func(vm *v1alpha1.VirtualMesh) any { return vm.Spec.MTLSConfig.RotationVerificationMethod == nil }, true},
		{gloo, "mtlsConfig: {rotationVerificationMethod: {none: {}, manual: {}}, shared: {}}", nil, nil},
		{gloo, "mtlsConfig: {shared: {intermediateCertificateAuthority: {}}}", nil, nil},
		{gloo, "mtlsConfig: {shared: {intermediateCertificateAuthority: {vault: {caPath: a, server: 'https://v'}}}}", nil, nil},
		{gloo, "federation: {}", func(vm *v1alpha1.VirtualMesh) any { return len(vm.Spec.Federation.Selectors) }, 0},
		{gloo, "federation: {hostnameSuffix: .global}", nil, nil},
		{gloo, "federation: {tcpKeepalive: {probes: 0, time: 60s}}", func(vm *v1alpha1.VirtualMesh) any { return vm.Spec.Federation.TCPKeepalive.Probes == nil }, true},
		{gloo, "federation: {selectors: [null]}", nil, nil},
		{gloo, "federation: {selectors: [{destinationSelectors: [{kubeServiceMatcher: {}}]}]}", func(vm *v1alpha1.VirtualMesh) any {
			return vm.Spec.Federation.Selectors[0].DestinationSelectors[0].KubeServiceMatcher != nil
		}, true},
		{gloo, "federation: {eastWestIngressGatewaySelectors: [{portName: https}]}", func(vm *v1alpha1.VirtualMesh) any {
			return vm.Spec.Federation.IngressGatewaySelectors[0].PortName
		}, "https"},
		{gloo, "federation: {east_west_ingress_gateway_selectors: [{portNames: https}]}", nil, nil},
		{smh, "federation: {eastWestIngressGatewaySelectors: [{}]}", nil, nil},
		{gloo, "federation: {tcpKeepalive: {more: 1}}", nil, nil},
		{gloo, "federation: {selectors: [{destinationSelectors: [{}]}]}", nil, nil},
		{gloo, "federation: {ingressGatewaySelectors: [{destinationSelectors: [{kubeServiceMatcher: null}]}]}", nil, nil},
		{gloo, "federation: {selectors: [{destinationSelectors: [{kubeServiceRefs: {services: []}}]}]}", nil, nil},
		{gloo, "federation: {selectors: [{destinationSelectors: [{kubeServiceRefs: {services: [{name: a, namespace: b}]}}]}]}", nil, nil},
	} {
		text := fmt.Sprintf("{apiVersion: %s, kind: VirtualMesh, metadata: {name: x, namespace: old}, spec: {meshes: [{name: istiod-istio-system-a}], %s}}",
			tc.version, tc.spec)
		o := legacy.Manifests([]byte(text), hub)[0]
		switch {
		case tc.want == nil && o.VirtualMesh != nil:
			t.Errorf("%s: want it refused", tc.spec)
		case tc.want != nil && o.VirtualMesh == nil:
			t.Errorf("%s: refused: %v", tc.spec, o.Findings)
		case tc.want != nil && tc.get(o.VirtualMesh) != tc.want:
			t.Errorf("%s: got %v, want %v", tc.spec, tc.get(o.VirtualMesh), tc.want)
		}
	}
}

// TestNamesAreTaken: two objects do not become one.
func TestNamesAreTaken(t *testing.T) {
	const text = `
{apiVersion: networking.mesh.gloo.solo.io/v1, kind: VirtualMesh, metadata: {name: b-c, namespace: a}, spec: {meshes: [{name: istiod-x-y}]}}
---
{apiVersion: networking.mesh.gloo.solo.io/v1, kind: VirtualMesh, metadata: {name: c, namespace: a-b}, spec: {meshes: [{name: istiod-x-z}]}}
`
	all := legacy.Manifests([]byte(text), hub)
	if len(all) != 2 || all[0].VirtualMesh == nil || all[1].VirtualMesh != nil || !strings.Contains(all[1].Findings[0].Message, "VirtualMesh a/b-c does") {
		t.Errorf("%+v", all)
	}
}
