package accept_test

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
)

func TestAccessPolicy(t *testing.T) {
	clusters := []string{"east", "west"}
	source := func(s v1alpha1.IdentitySelector) v1alpha1.AccessPolicySpec {
		return v1alpha1.AccessPolicySpec{SourceSelector: []v1alpha1.IdentitySelector{{KubeIdentityMatcher: &v1alpha1.KubeIdentityMatcher{}}, s}}
	}
	identity := func(k v1alpha1.KubeIdentityMatcher) v1alpha1.AccessPolicySpec {
		return source(v1alpha1.IdentitySelector{KubeIdentityMatcher: &k})
	}
	account := func(name, namespace, cluster string) v1alpha1.AccessPolicySpec {
		return source(v1alpha1.IdentitySelector{KubeServiceAccountRefs: &v1alpha1.KubeServiceAccountRefs{
			ServiceAccounts: []v1alpha1.ClusterObjectRef{{Name: name, Namespace: namespace, ClusterName: cluster}}}})
	}
	token := func(principals ...string) v1alpha1.AccessPolicySpec {
		return source(v1alpha1.IdentitySelector{RequestIdentityMatcher: &v1alpha1.RequestIdentityMatcher{RequestPrincipals: principals, NotRequestPrincipals: principals}})
	}
	destination := func(s v1alpha1.DestinationSelector) v1alpha1.AccessPolicySpec {
		return v1alpha1.AccessPolicySpec{DestinationSelector: []v1alpha1.DestinationSelector{{}, s}}
	}
	matcher := func(m v1alpha1.KubeServiceMatcher) v1alpha1.AccessPolicySpec {
		return destination(v1alpha1.DestinationSelector{KubeServiceMatcher: &m})
	}
	service := func(name, namespace, cluster string) v1alpha1.AccessPolicySpec {
		return destination(v1alpha1.DestinationSelector{KubeServiceRefs: &v1alpha1.KubeServiceRefs{
			Services: []v1alpha1.ClusterObjectRef{{Name: name, Namespace: namespace, ClusterName: cluster}}}})
	}
	paths := func(p ...string) v1alpha1.AccessPolicySpec { return v1alpha1.AccessPolicySpec{AllowedPaths: p} }
	methods := func(m ...string) v1alpha1.AccessPolicySpec { return v1alpha1.AccessPolicySpec{AllowedMethods: m} }
	for _, tc := range []struct {
		spec        v1alpha1.AccessPolicySpec
		field, says string // "" for a valid one
	}{
		{v1alpha1.AccessPolicySpec{}, "", ""},
		{paths("*", "/a", "/a/*", "*.html"), "", ""},
		{paths("/ok", "/a*b"), "spec.allowedPaths[1]", "/a*b"},
		{paths("*/a*"), "spec.allowedPaths[0]", "not at both"},
		{paths("**"), "spec.allowedPaths[0]", "**"},
		{paths("/a/{*}"), "spec.allowedPaths[0]", "{*}"},
		{paths("/a/{**}"), "spec.allowedPaths[0]", "{**}"},
		{paths("reviews"), "spec.allowedPaths[0]", "begins with / or *"},
		{methods("GET", "M-SEARCH", "X_Y"), "", ""},
		{methods("GET", "get"), "spec.allowedMethods[1]", "upper case"},
		{methods("*"), "spec.allowedMethods[0]", `"*"`},
		{methods("GET POST"), "spec.allowedMethods[0]", "GET POST"},
		{identity(v1alpha1.KubeIdentityMatcher{Namespaces: []string{"default"}, Clusters: []string{"west", "east"}}), "", ""},
		{identity(v1alpha1.KubeIdentityMatcher{Clusters: []string{"east", "north"}}), "spec.sourceSelector[1].kubeIdentityMatcher.clusters[1]", "no cluster north is registered"},
		{identity(v1alpha1.KubeIdentityMatcher{Namespaces: []string{"*"}}), "spec.sourceSelector[1].kubeIdentityMatcher.namespaces[0]", "wildcards"},
		{account("sa.x", "default", "east"), "", ""},
		{account("sa", "default", ""), "", ""},
		{account("sa", "default", "north"), "spec.sourceSelector[1].kubeServiceAccountRefs.serviceAccounts[0].clusterName", "north"},
		{account("*", "default", ""), "spec.sourceSelector[1].kubeServiceAccountRefs.serviceAccounts[0]", "service account"},
		{account("sa", "a/sa/b", ""), "spec.sourceSelector[1].kubeServiceAccountRefs.serviceAccounts[0]", "a/sa/b"},
		{token("https://issuer/subject", "issuer/*", "*/subject", "*"), "", ""},
		{matcher(v1alpha1.KubeServiceMatcher{Labels: map[string]string{"a": "b"}, Namespaces: []string{"a"}, Clusters: []string{"east"}}), "", ""},
		{matcher(v1alpha1.KubeServiceMatcher{Clusters: []string{"north"}}), "spec.destinationSelector[1].kubeServiceMatcher.clusters[0]", "north"},
		{matcher(v1alpha1.KubeServiceMatcher{Namespaces: []string{"a*"}}), "spec.destinationSelector[1].kubeServiceMatcher.namespaces[0]", "a*"},
		{service("reviews", "default", "west"), "", ""},
		{service("reviews", "default", "north"), "spec.destinationSelector[1].kubeServiceRefs.services[0].clusterName", "meshctl cluster list"},
		{service("reviews", "*", ""), "spec.destinationSelector[1].kubeServiceRefs.services[0]", "Service"},
	} {
		p := &v1alpha1.AccessPolicy{ObjectMeta: metav1.ObjectMeta{Generation: 7}, Spec: tc.spec}
		before := &v1alpha1.AcceptedAccessPolicy{Generation: 6}
		got, fs := accept.AccessPolicy(before, p, clusters)
		if tc.field == "" {
			if got == nil || got.Generation != 7 || len(fs) > 0 {
				t.Errorf("%+v: accepted %+v, found %v", tc.spec, got, fs)
			}
			continue
		}
		if got != before {
			t.Errorf("%s: an invalid edit must keep what was accepted, got %+v", tc.field, got)
		}
		if len(fs) != 1 || fs[0].Reason != v1alpha1.ReasonInvalid || fs[0].Field != tc.field || !strings.Contains(fs[0].Message, tc.says) {
			t.Errorf("found %v, want %s that says %q", fs, tc.field, tc.says)
		}
	}
	if _, fs := accept.AccessPolicy(nil, &v1alpha1.AccessPolicy{Spec: token("*a*", "a*b")}, nil); len(fs) != 4 {
		t.Errorf("wildcards in principals of tokens: %v", fs)
	}
}
