// Package validation_test holds the rules in the CustomResourceDefinitions against a real API server.
package validation_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// fingerprint has the length of one.
var fingerprint = strings.Repeat("0", 64)

// TestValidation asks a real API server for its opinion of specs. What is refused is refused in words that name the field
// and what to do; what is right beside it is taken.
func TestValidation(t *testing.T) {
	cluster := testenv.Start(t)
	ic := func(edit string) string {
		return fmt.Sprintf("{virtualMesh: {name: x}, issuance: 1, hosts: [spiffe://x], certOptions: {}, signer: %q, roots: [{fingerprint: %q, certificate: x}], issuedCertificateSecret: {name: cacerts}%s}", fingerprint, fingerprint, edit)
	}
	for _, tc := range []struct {
		kind, name, spec string
		refused          []string // none: taken
	}{
		{"VirtualMesh", "", "{meshes: [{name: a}]}", nil},
		{"VirtualMesh", "", "{meshes: []}", []string{"spec.meshes", "at least 1"}},
		{"VirtualMesh", "", "{meshes: [{namespace: a}]}", []string{"spec.meshes[0].name", "Required"}},
		{"VirtualMesh", "", "{meshes: [{name: a}], mtlsConfig: {shared: {}}}", nil},
		{"VirtualMesh", "", "{meshes: [{name: a}], mtlsConfig: {}}", []string{"spec.mtlsConfig", "exactly one of shared and limited", "leave mtlsConfig out"}},
		{"VirtualMesh", "", "{meshes: [{name: a}], mtlsConfig: {shared: {}, limited: {}}}", []string{"exactly one of shared and limited"}},
		{"VirtualMesh", "", "{meshes: [{name: a}], mtlsConfig: {shared: {rootCertificateAuthority: {generated: {}, secret: {name: x}}}}}", []string{"rootCertificateAuthority", "generated or secret, not both"}},
		{"VirtualMesh", "", "{meshes: [{name: a}], mtlsConfig: {shared: {rootCertificateAuthority: {}, intermediateCertificateAuthority: {vault: {caPath: x, server: 'https://v', tokenSecretRef: {name: t}}}}}}", []string{"not both"}},
		{"VirtualMesh", "", "{meshes: [{name: a}], mtlsConfig: {shared: {intermediateCertificateAuthority: {vault: {caPath: x, server: 'https://v', tokenSecretRef: {name: t}}}}}}", nil},
		{"VirtualMesh", "", "{meshes: [{name: a}], mtlsConfig: {shared: {intermediateCertificateAuthority: {vault: {caPath: x, server: v, tokenSecretRef: {name: t}}}}}}", []string{"server", "https://"}},
		{"VirtualMesh", "", "{meshes: [{name: a}], mtlsConfig: {shared: {intermediateCertificateAuthority: {vault: {caPath: x, server: 'https://v'}}}}}", []string{"exactly one of tokenSecretRef and kubernetesAuth"}},
		{"VirtualMesh", "", "{meshes: [{name: a}], mtlsConfig: {shared: {rootCertificateAuthority: {generated: {rsaKeySizeBytes: 1024}}}}}", []string{"rsaKeySizeBytes", "2048, 3072, 4096 or 8192"}},
		{"VirtualMesh", "", "{meshes: [{name: a}], mtlsConfig: {shared: {rootCertificateAuthority: {generated: {rsaKeySizeBytes: 512, ttlDays: 1, secretRotationGracePeriodRatio: '0.9999'}}}}}", nil},
		{"VirtualMesh", "", "{meshes: [{name: a}], mtlsConfig: {shared: {rootCertificateAuthority: {generated: {ttlDays: 0}}}}}", []string{"ttlDays", "greater than or equal to 1"}},
		{"VirtualMesh", "", "{meshes: [{name: a}], mtlsConfig: {shared: {intermediateCertOptions: {secretRotationGracePeriodRatio: '1.0'}}}}", []string{"secretRotationGracePeriodRatio", "above 0 and below 1"}},
		{"VirtualMesh", "", "{meshes: [{name: a}], mtlsConfig: {shared: {intermediateCertOptions: {secretRotationGracePeriodRatio: '0.00'}}}}", []string{"secretRotationGracePeriodRatio", "above 0 and below 1"}},
		{"VirtualMesh", "", "{meshes: [{name: a}], mtlsConfig: {shared: {}, rotationVerificationMethod: {none: {}, manual: {}}}}", []string{"exactly one of none, manual and automatic"}},
		{"VirtualMesh", "", "{meshes: [{name: a}], mtlsConfig: {shared: {}, rotationStrategy: FAST}}", []string{"rotationStrategy", "MULTI_ROOT"}},
		{"VirtualMesh", "", "{meshes: [{name: a}], federation: {selectors: [{}], hostnameSuffix: mesh.example}, globalAccessPolicy: ENABLED}", nil},
		{"VirtualMesh", "", "{meshes: [{name: a}], federation: {hostnameSuffix: .global}}", []string{"hostnameSuffix", "such as global"}},
		{"VirtualMesh", "", "{meshes: [{name: a}], globalAccessPolicy: true}", []string{"globalAccessPolicy"}},
		{"AccessPolicy", "", "{sourceSelector: [{kubeServiceAccountRefs: {serviceAccounts: [{name: a, namespace: b}]}}], allowedPorts: [80]}", nil},
		{"AccessPolicy", "", "{sourceSelector: [{kubeServiceAccountRefs: {serviceAccounts: [{name: a}]}}]}", []string{"serviceAccounts[0].namespace", "Required"}},
		{"AccessPolicy", "", "{sourceSelector: [{}]}", []string{"sourceSelector", "leave sourceSelector out"}},
		{"AccessPolicy", "", "{allowedPorts: [70000]}", []string{"allowedPorts", "65535"}},
		{"Settings", "settings", "{mtls: {istio: {tlsMode: ISTIO_MUTUAL}}}", nil},
		{"Settings", "mine", "{}", []string{"metadata.name", "\"settings\""}},
		{"KubernetesCluster", "east", "{}", nil},
		{"KubernetesCluster", "system", "{}", []string{"must not be system or agent"}},
		{"KubernetesCluster", "a.b", "{}", []string{"DNS label"}},
		{"KubernetesCluster", strings.Repeat("a", 55), "{}", []string{"54 characters"}},
		{"CertificateVerification", "", "{virtualMesh: {name: x}, rotationID: r1, step: VERIFYING, waive: [{mesh: a.b, reason: gone}]}", nil},
		{"CertificateVerification", "", "{virtualMesh: {name: x}, rotationID: r1, step: VERIFYING, waive: [{mesh: a.b}]}", []string{"waive[0].reason", "Required"}},
		{"IssuedCertificate", "", ic(""), nil},
		{"IssuedCertificate", "", ic(", rotation: {rotationID: r, step: LATER}"), []string{"rotation.step", "ADDING_NEW_ROOT"}},
		{"CertificateRequest", "", "{issuedCertificate: x, issuance: 0, certificateSigningRequest: z}", []string{"issuance", "greater than or equal to 1"}},
	} {
		name := tc.name
		if name == "" {
			name = "x"
		}
		obj := &unstructured.Unstructured{}
		text := fmt.Sprintf("{apiVersion: isthmus.dev/v1alpha1, kind: %s, metadata: {name: %s, namespace: default}, spec: %s}", tc.kind, name, tc.spec)
		if err := yaml.Unmarshal([]byte(text), &obj.Object); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		err := cluster.Client.Create(context.Background(), obj, client.DryRunAll)
		switch {
		case len(tc.refused) == 0 && err != nil:
			t.Errorf("%s %s %s: %v", tc.kind, name, tc.spec, err)
		case len(tc.refused) > 0 && !apierrors.IsInvalid(err):
			t.Errorf("%s %s %s: want it refused, got %v", tc.kind, name, tc.spec, err)
		default:
			for _, want := range tc.refused {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%s %s %s: the error lacks %q: %v", tc.kind, name, tc.spec, want, err)
				}
			}
		}
	}
}

// TestCertificateRequestIsImmutable: what was asked for is the record of what was signed.
func TestCertificateRequestIsImmutable(t *testing.T) {
	cluster := testenv.Start(t)
	cr := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "isthmus.dev/v1alpha1", "kind": "CertificateRequest", "metadata": map[string]any{"name": "x", "namespace": "default"},
		"spec": map[string]any{"issuedCertificate": "x", "issuance": int64(1), "certificateSigningRequest": "y"},
	}}
	ctx := context.Background()
	if err := cluster.Client.Create(ctx, cr); err != nil {
		t.Fatal(err)
	}
	cr.SetLabels(map[string]string{"a": "b"})
	if err := cluster.Client.Update(ctx, cr); err != nil {
		t.Fatal(err)
	}
	if err := unstructured.SetNestedField(cr.Object, int64(2), "spec", "issuance"); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Client.Update(ctx, cr); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "immutable") {
		t.Fatalf("err = %v", err)
	}
}
