package accept_test

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
)

func TestAccessPolicy(t *testing.T) {
	policy := func(paths ...string) *v1alpha1.AccessPolicy {
		return &v1alpha1.AccessPolicy{ObjectMeta: metav1.ObjectMeta{Generation: 7}, Spec: v1alpha1.AccessPolicySpec{AllowedPaths: paths}}
	}
	for _, paths := range [][]string{nil, {"*"}, {"/a"}, {"/a/*", "*.html"}} {
		got, fs := accept.AccessPolicy(nil, policy(paths...))
		if got == nil || got.Generation != 7 || len(got.Spec.AllowedPaths) != len(paths) {
			t.Errorf("%v: accepted %+v", paths, got)
		}
		if len(fs) != 1 || fs[0].Reason != v1alpha1.ReasonNotYetSupported {
			t.Errorf("%v: that it has no effect yet must be said: %v", paths, fs)
		}
	}
	before := &v1alpha1.AcceptedAccessPolicy{Generation: 6}
	for _, path := range []string{"/a*b", "*/a*", "**"} {
		got, fs := accept.AccessPolicy(before, policy("/ok", path))
		if got != before {
			t.Errorf("%s: an invalid edit must keep what was accepted, got %+v", path, got)
		}
		if len(fs) != 1 || fs[0].Reason != v1alpha1.ReasonInvalid || fs[0].Field != "spec.allowedPaths[1]" || !strings.Contains(fs[0].Message, path) {
			t.Errorf("%s: %v", path, fs)
		}
	}
}

func TestSettings(t *testing.T) {
	s := &v1alpha1.Settings{ObjectMeta: metav1.ObjectMeta{Generation: 3}}
	s.Spec.Discovery = &v1alpha1.DiscoverySettings{ExcludedNamespaces: []string{"legacy"}}
	got, fs := accept.Settings(s)
	if got.Generation != 3 || len(got.Spec.Discovery.ExcludedNamespaces) != 1 || len(fs) != 0 {
		t.Errorf("accepted %+v, findings %v", got, fs)
	}
	s.Spec.MTLS = &v1alpha1.MTLSSettings{Istio: &v1alpha1.IstioMTLSSettings{TLSMode: "ISTIO_MUTUAL"}}
	got, fs = accept.Settings(s)
	if got == nil || len(fs) != 1 || fs[0].Field != "spec.mtls.istio.tlsMode" || fs[0].Reason != v1alpha1.ReasonNotYetSupported {
		t.Errorf("accepted %+v, findings %v", got, fs)
	}
}

func TestCertificateVerification(t *testing.T) {
	fs := accept.CertificateVerification(&v1alpha1.CertificateVerification{})
	if len(fs) != 1 || fs[0].Reason != v1alpha1.ReasonNotYetSupported {
		t.Errorf("without a rotation none is valid: %v", fs)
	}
}
