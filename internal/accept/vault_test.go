package accept_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
)

func TestVaultEndpoints(t *testing.T) {
	bundle := pkitest.NewRoot(t, "CA of Vault", time.Now()).Root().PEM()
	for name, tc := range map[string]struct {
		vault v1alpha1.VaultCA
		want  accept.VaultEndpoints
	}{
		"least": {v1alpha1.VaultCA{Server: "https://Vault.example.com:8200", CAPath: "pki/root/sign-intermediate"},
			accept.VaultEndpoints{Server: "https://vault.example.com:8200", Sign: "pki/root/sign-intermediate", Mount: "pki", Issuer: "default"}},
		"all": {v1alpha1.VaultCA{Server: "http://[::1]:8200/", CAPath: "/v1/team-a/pki/issuer/blue.1/sign-intermediate", CSRPath: "pki_int/intermediate/generate/exported",
			CABundle: slices.Concat(bundle, bundle), KubernetesAuth: &v1alpha1.VaultKubernetesAuth{Role: "r", MountPath: "/v1/auth/k8s/east/"}},
			accept.VaultEndpoints{Server: "http://[::1]:8200", Sign: "team-a/pki/issuer/blue.1/sign-intermediate", Mount: "team-a/pki", Issuer: "blue.1",
				Generate: "pki_int/intermediate/generate/exported", Login: "auth/k8s/east/login"}},
		"defaults of Kubernetes": {v1alpha1.VaultCA{Server: "https://v", CAPath: "a/b/root/sign-intermediate", CSRPath: "x/issuers/generate/intermediate/exported", KubernetesAuth: &v1alpha1.VaultKubernetesAuth{Role: "r"}},
			accept.VaultEndpoints{Server: "https://v", Sign: "a/b/root/sign-intermediate", Mount: "a/b", Issuer: "default", Generate: "x/issuers/generate/intermediate/exported", Login: "auth/kubernetes/login"}},
	} {
		if got, fs := accept.EndpointsOf(&tc.vault); len(fs) > 0 || got != tc.want {
			t.Errorf("%s: %+v, %v", name, got, fs)
		}
	}
	each := &v1alpha1.VaultCA{Server: "https://v", CAPath: "pki/root/sign-intermediate", KubernetesAuth: &v1alpha1.VaultKubernetesAuth{Role: "isthmus-{cluster}", MountPath: "auth/{cluster}/k"}}
	east := accept.VaultFor(each, "east")
	if got, fs := accept.EndpointsOf(east); len(fs) > 0 || got.Login != "auth/east/k/login" || east.KubernetesAuth.Role != "isthmus-east" || each.KubernetesAuth.Role != "isthmus-{cluster}" {
		t.Errorf("for a cluster: %+v, %v", got, fs)
	}
	for _, tc := range []struct {
		field string
		edit  func(*v1alpha1.VaultCA)
	}{
		{"server", func(v *v1alpha1.VaultCA) { v.Server = "https://user@vault" }},
		{"server", func(v *v1alpha1.VaultCA) { v.Server = "https://vault/?x" }},
		{"server", func(v *v1alpha1.VaultCA) { v.Server = "https://vault/v1/pki" }},
		{"server", func(v *v1alpha1.VaultCA) { v.Server = "ftp://vault" }},
		{"server", func(v *v1alpha1.VaultCA) { v.Server = "https://:8200" }},
		{"caPath", func(v *v1alpha1.VaultCA) { v.CAPath = "sys/seal" }},
		{"caPath", func(v *v1alpha1.VaultCA) { v.CAPath = "root/sign-intermediate" }},
		{"caPath", func(v *v1alpha1.VaultCA) { v.CAPath = "../x/root/sign-intermediate" }},
		{"caPath", func(v *v1alpha1.VaultCA) { v.CAPath = "pki/x?y=/root/sign-intermediate" }},
		{"caPath", func(v *v1alpha1.VaultCA) { v.CAPath = "pki//root/sign-intermediate" }},
		{"caPath", func(v *v1alpha1.VaultCA) { v.CAPath = "pki%2f/root/sign-intermediate" }},
		{"csrPath", func(v *v1alpha1.VaultCA) { v.CSRPath = "pki_int/intermediate/generate/internal" }},
		{"kubernetesAuth.mountPath", func(v *v1alpha1.VaultCA) { v.KubernetesAuth.MountPath = "sys/unseal" }},
		{"kubernetesAuth.mountPath", func(v *v1alpha1.VaultCA) { v.KubernetesAuth.MountPath = "auth/../sys" }},
		{"caBundle", func(v *v1alpha1.VaultCA) { v.CABundle = []byte("MIIB") }},
		{"caBundle", func(v *v1alpha1.VaultCA) { v.CABundle = slices.Concat(bundle, []byte("x")) }},
	} {
		v := v1alpha1.VaultCA{Server: "https://v", CAPath: "pki/root/sign-intermediate", KubernetesAuth: &v1alpha1.VaultKubernetesAuth{Role: "r"}}
		tc.edit(&v)
		if _, fs := accept.EndpointsOf(&v); len(fs) != 1 || !strings.HasSuffix(fs[0].Field, ".vault."+tc.field) {
			t.Errorf("%s of %+v: found %v", tc.field, v, fs)
		}
	}
}
