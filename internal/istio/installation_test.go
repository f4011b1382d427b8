package istio_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/istio"
	"github.com/isthmus-mesh/isthmus/internal/istio/istiotest"
)

func read(t *testing.T, manifest string) *istio.Installation {
	t.Helper()
	return istio.Read(istiotest.Objects(istiotest.Manifest(manifest)...))
}

// TestRead reads what Istio's installer makes.
func TestRead(t *testing.T) {
	for manifest, want := range map[string]struct {
		mesh      string
		injectors []string // revisions
	}{
		"sidecar": {`
rootNamespace: istio-system
trustDomain: cluster.local
clusterDomain: cluster.local
istiodServiceAccount: istiod
certificateAuthority: Istiod
topology: Local
smartDnsProxyingEnabled: true
network: net1
revisions:
- {name: default, deployment: istiod, version: 1.31.1, replicas: 1, multiRootMesh: true, proxyConfigXDSAgent: true}
`, []string{"default"}},
		"revisions": {`
rootNamespace: istio-system
trustDomain: cluster.local
clusterDomain: cluster.local
istiodServiceAccount: istiod-1-30
certificateAuthority: Istiod
topology: Local
network: net1
revisions:
- {name: 1-30, deployment: istiod-1-30, version: 1.30.4, replicas: 1}
- {name: 1-31, deployment: istiod-1-31, version: 1.31.1, replicas: 1, multiRootMesh: true}
`, []string{"1-30", "1-31"}},
		"istio-csr": {`
rootNamespace: istio-system
trustDomain: east.example.org
clusterDomain: cluster.local
istiodServiceAccount: istiod
certificateAuthority: External
certificateAuthorityMessage: istiod of revision default runs no CA (ENABLE_CA_SERVER=false), as with istio-csr
topology: Local
network: net1
revisions:
- {name: default, deployment: istiod, version: 1.31.1, replicas: 1}
`, []string{"default"}},
		"ambient": {`
rootNamespace: istio-system
trustDomain: cluster.local
clusterDomain: cluster.local
istiodServiceAccount: istiod
certificateAuthority: Istiod
topology: Local
network: net1
revisions:
- {name: default, deployment: istiod, version: 1.31.1, replicas: 1}
`, []string{"default"}},
		"remote-url": {`
rootNamespace: istio-system
trustDomain: cluster.local
clusterDomain: cluster.local
istiodServiceAccount: istiod
certificateAuthority: External
certificateAuthorityMessage: the injection webhook calls a control plane in another cluster, which signs the certificates of this one
topology: Remote
network: net1
`, []string{"default"}},
		"remote-service": {`
rootNamespace: istio-system
trustDomain: cluster.local
clusterDomain: cluster.local
istiodServiceAccount: istiod
certificateAuthority: External
certificateAuthorityMessage: the injection webhook calls a control plane in another cluster, which signs the certificates of this one
topology: Remote
network: net1
`, []string{"default"}},
	} {
		t.Run(manifest, func(t *testing.T) {
			var mesh v1alpha1.IstioMesh
			if err := yaml.UnmarshalStrict([]byte(want.mesh), &mesh); err != nil {
				t.Fatal(err)
			}
			in := read(t, manifest)
			if !reflect.DeepEqual(in.Meshes, []v1alpha1.IstioMesh{mesh}) {
				have, _ := yaml.Marshal(in.Meshes)
				t.Errorf("meshes:\n%s", have)
			}
			if len(in.Incomplete) > 0 {
				t.Errorf("incomplete: %v", in.Incomplete)
			}
			var revisions []string
			for _, i := range in.Injectors {
				if i.RootNamespace != "istio-system" {
					t.Errorf("injector of %s", i.RootNamespace)
				}
				revisions = append(revisions, i.Revision)
			}
			if got := slices.Compact(revisions); !slices.Equal(got, want.injectors) {
				t.Errorf("injectors of %v", got)
			}
			if !in.Equal(read(t, manifest)) || in.Equal(istio.Read(istio.Objects{})) {
				t.Error("Equal is wrong")
			}
		})
	}
}

// edit changes an object of a manifest.
func edit[T istiotest.Object](t *testing.T, objs []istiotest.Object, name string, f func(T)) []istiotest.Object {
	t.Helper()
	for _, o := range objs {
		if o, ok := o.(T); ok && o.GetName() == name {
			f(o)
			return objs
		}
	}
	t.Fatalf("no %T %s", *new(T), name)
	return nil
}

func without(objs []istiotest.Object, gone func(istiotest.Object) bool) []istiotest.Object {
	return slices.DeleteFunc(objs, gone)
}

func isIstiod(o istiotest.Object) bool {
	d, ok := o.(*appsv1.Deployment)
	return ok && istio.IsControlPlane(d)
}

func isConfig(o istiotest.Object) bool {
	_, ok := o.(*corev1.ConfigMap)
	return ok && o.GetName() == "istio"
}

// TestIncomplete takes parts of an installation away: what is left is never another mesh, and never nothing.
func TestIncomplete(t *testing.T) {
	for name, gone := range map[string]func(istiotest.Object) bool{
		"istiod is gone":                    isIstiod,
		"mesh configuration is gone":        isConfig,
		"only the configuration is left":    func(o istiotest.Object) bool { return !isConfig(o) },
		"only the webhook is left":          func(o istiotest.Object) bool { return !strings.HasPrefix(o.GetName(), "istio-sidecar-injector") },
		"only istiod's Deployment is there": func(o istiotest.Object) bool { return !isIstiod(o) },
	} {
		t.Run(name, func(t *testing.T) {
			in := istio.Read(istiotest.Objects(without(istiotest.Manifest("sidecar"), gone)...))
			if len(in.Meshes) != 0 || !slices.Equal(in.Incomplete, []string{"istio-system"}) {
				t.Errorf("meshes %+v, incomplete %v", in.Meshes, in.Incomplete)
			}
		})
	}
	if in := istio.Read(istio.Objects{}); len(in.Meshes)+len(in.Incomplete) != 0 {
		t.Errorf("nothing there: %+v", in)
	}
}

// TestSmartDNS: names are resolved in the mesh only if every revision's proxies do so.
func TestSmartDNS(t *testing.T) {
	mesh := func(value string) string {
		return "trustDomain: td\ndefaultConfig:\n  proxyMetadata:\n    ISTIO_META_DNS_CAPTURE: " + value + "\n"
	}
	const none = "trustDomain: td\n"
	config := func(revision, mesh string) *corev1.ConfigMap {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istio", Labels: map[string]string{istio.LabelRevision: revision}}}
		if revision != istio.DefaultRevision {
			cm.Name += "-" + revision
		}
		cm.Data = map[string]string{"mesh": mesh}
		return cm
	}
	remote := func(revisions ...string) []istiotest.Object {
		var out []istiotest.Object
		for _, r := range revisions {
			for _, o := range istiotest.Manifest("remote-url") {
				if hook, ok := o.(*admissionv1.MutatingWebhookConfiguration); ok {
					hook.Labels[istio.LabelRevision] = r
					out = append(out, hook)
				}
			}
		}
		// Its control plane is found by the values that the chart leaves.
		for _, r := range revisions {
			name := "values"
			if r != istio.DefaultRevision {
				name += "-" + r
			}
			out = append(out, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: name}})
		}
		return out
	}
	local := func(manifest string) []istiotest.Object { return without(istiotest.Manifest(manifest), isMeshConfig) }
	for _, tc := range []struct {
		name    string
		objects []istiotest.Object
		configs []*corev1.ConfigMap
		want    bool
	}{
		{"true", local("sidecar"), []*corev1.ConfigMap{config("default", mesh(`"true"`))}, true},
		{"as Go spells it", local("sidecar"), []*corev1.ConfigMap{config("default", mesh(`"TRUE"`))}, true},
		{"1", local("sidecar"), []*corev1.ConfigMap{config("default", mesh(`"1"`))}, true},
		{"false", local("sidecar"), []*corev1.ConfigMap{config("default", mesh(`"false"`))}, false},
		{"what istiod cannot read either", local("sidecar"), []*corev1.ConfigMap{config("default", mesh(`"on"`))}, false},
		{"not set", local("sidecar"), []*corev1.ConfigMap{config("default", none)}, false},
		{"two revisions", local("revisions"), []*corev1.ConfigMap{config("1-30", mesh(`"true"`)), config("1-31", mesh(`"true"`))}, true},
		{"one of two", local("revisions"), []*corev1.ConfigMap{config("1-30", mesh(`"true"`)), config("1-31", none)}, false},
		{"the other of two", local("revisions"), []*corev1.ConfigMap{config("1-30", none), config("1-31", mesh(`"true"`))}, false},
		{"remote", remote("default"), []*corev1.ConfigMap{config("default", mesh(`"true"`))}, true},
		{"remote, nothing said", remote("default"), nil, false},
		{"remote, by revision", remote("1-31"), []*corev1.ConfigMap{config("1-31", mesh(`"true"`))}, true},
		{"remote, one of two", remote("1-30", "1-31"), []*corev1.ConfigMap{config("1-30", mesh(`"true"`)), config("1-31", none)}, false},
	} {
		objs := tc.objects
		for _, cm := range tc.configs {
			objs = append(objs, cm)
		}
		in := istio.Read(istiotest.Objects(objs...))
		if len(in.Meshes) != 1 || in.Meshes[0].SmartDNSProxyingEnabled != tc.want || len(tc.configs) > 0 && in.Meshes[0].TrustDomain != "td" {
			t.Errorf("%s: %+v", tc.name, in.Meshes)
		}
	}
}

func isMeshConfig(o istiotest.Object) bool {
	cm, ok := o.(*corev1.ConfigMap)
	return ok && cm.Data["mesh"] != ""
}

func setEnv(name, value string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) {
		c := istio.Discovery(&d.Spec.Template.Spec)
		c.Env = slices.DeleteFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == name })
		c.Env = append(c.Env, corev1.EnvVar{Name: name, Value: value})
	}
}

func TestExternalCA(t *testing.T) {
	istiod := func(f func(*appsv1.Deployment)) func(*testing.T, []istiotest.Object) []istiotest.Object {
		return func(t *testing.T, o []istiotest.Object) []istiotest.Object { return edit(t, o, "istiod", f) }
	}
	config := func(name, key, value string) func(*testing.T, []istiotest.Object) []istiotest.Object {
		return func(t *testing.T, o []istiotest.Object) []istiotest.Object {
			return edit(t, o, name, func(cm *corev1.ConfigMap) { cm.Data[key] = value })
		}
	}
	for name, tc := range map[string]struct {
		change  func(*testing.T, []istiotest.Object) []istiotest.Object
		message string // a part of it; empty: istiod's own CA
	}{
		"no CA server":          {istiod(setEnv("ENABLE_CA_SERVER", "false")), "ENABLE_CA_SERVER=false"},
		"CA server":             {istiod(setEnv("ENABLE_CA_SERVER", "true")), ""},
		"Kubernetes CSR API":    {istiod(setEnv("EXTERNAL_CA", "ISTIOD_RA_KUBERNETES_API")), "EXTERNAL_CA=ISTIOD_RA_KUBERNETES_API"},
		"certificate provider":  {istiod(setEnv("PILOT_CERT_PROVIDER", "k8s.io/example.org")), "PILOT_CERT_PROVIDER=k8s.io/example.org"},
		"registration auth":     {config("istio", "mesh", "ca: {address: 'ca.example.org:443'}"), "ca.example.org:443"},
		"istio-csr, by values":  {config("istio-sidecar-injector", "values", `{"global":{"caAddress":"cert-manager-istio-csr.cert-manager.svc:443"}}`), "cert-manager-istio-csr"},
		"istiod's own address":  {config("istio-sidecar-injector", "values", `{"global":{"caAddress":"istiod.istio-system.svc:15012"}}`), ""},
		"cloud CA, by values":   {config("istio-sidecar-injector", "values", `{"global":{"caName":"GkeWorkloadCertificate"}}`), "GkeWorkloadCertificate"},
		"cloud CA, by metadata": {config("istio", "mesh", "defaultConfig: {proxyMetadata: {CA_PROVIDER: GoogleCAS}}"), "CA_PROVIDER=GoogleCAS"},
		"SPIRE":                 {config("istio-sidecar-injector", "config", "volumes: [{name: workload-socket, csi: {driver: csi.spiffe.io}}]"), "SPIRE"},
	} {
		t.Run(name, func(t *testing.T) {
			in := istio.Read(istiotest.Objects(tc.change(t, istiotest.Manifest("sidecar"))...))
			if len(in.Meshes) != 1 {
				t.Fatalf("meshes: %+v", in.Meshes)
			}
			want := v1alpha1.CertificateAuthorityIstiod
			if tc.message != "" {
				want = v1alpha1.CertificateAuthorityExternal
			}
			if m := in.Meshes[0]; m.CertificateAuthority != want || !strings.Contains(m.CertificateAuthorityMessage, tc.message) {
				t.Errorf("%s: %q", m.CertificateAuthority, m.CertificateAuthorityMessage)
			}
		})
	}
}

func TestControlPlaneFacts(t *testing.T) {
	objs := istiotest.Manifest("sidecar")
	edit(t, objs, "istiod", func(d *appsv1.Deployment) {
		d.Name = "anything" // the name decides nothing
		replicas := int32(3)
		d.Spec.Replicas = &replicas
		d.Spec.Template.Spec.Containers[0].Args = []string{"discovery", "--domain=corp.example"}
	})
	edit(t, objs, "istio", func(cm *corev1.ConfigMap) {
		cm.Data["mesh"] = "trustDomain: td\ntrustDomainAliases: [z, a, z]"
	})
	m := istio.Read(istiotest.Objects(objs...)).Meshes[0]
	if m.TrustDomain != "td" || !slices.Equal(m.TrustDomainAliases, []string{"a", "z"}) || m.ClusterDomain != "corp.example" || m.SmartDNSProxyingEnabled {
		t.Errorf("mesh = %+v", m)
	}
	if r := m.Revisions[0]; r.Deployment != "anything" || r.Replicas != 3 || r.ProxyConfigXDSAgent {
		t.Errorf("revision = %+v", r)
	}
}

func TestVersion(t *testing.T) {
	for image, want := range map[string]string{
		"docker.io/istio/pilot:1.31.1":                          "1.31.1",
		"docker.io/istio/pilot:1.31.1-distroless":               "1.31.1",
		"registry:5000/istio/pilot:1.29.0-debug":                "1.29.0",
		"registry:5000/istio/pilot":                             "",
		"gcr.io/istio-release/pilot:latest":                     "",
		"docker.io/istio/pilot:1.31.1@sha256:0123456789abcdef":  "1.31.1",
		"registry:5000/istio/pilot@sha256:0123456789abcdef":     "1.0.0", // the label of the charts
		"vendor.example/istio/istio-pilot-rhel9:1.26.2-patched": "1.26.2-patched",
	} {
		objs := edit(t, istiotest.Manifest("sidecar"), "istiod", func(d *appsv1.Deployment) {
			d.Spec.Template.Spec.Containers[0].Image = image
		})
		if got := istio.Read(istiotest.Objects(objs...)).Meshes[0].Revisions[0].Version; got != want {
			t.Errorf("%s: version %q, want %q", image, got, want)
		}
	}
}

func TestMeshOf(t *testing.T) {
	second := func(o istiotest.Object) { // another mesh in the same cluster
		o.SetNamespace("other")
		if d, ok := o.(*appsv1.Deployment); ok && istio.IsControlPlane(d) {
			setEnv("REVISION", "blue")(d)
		}
		if cm, ok := o.(*corev1.ConfigMap); ok {
			cm.Name += "-blue"
		}
	}
	both := istiotest.Manifest("sidecar")
	for _, o := range istiotest.Manifest("sidecar") {
		switch o.(type) {
		case *appsv1.Deployment, *corev1.ConfigMap:
			second(o)
			both = append(both, o)
		}
	}
	one, two := read(t, "sidecar"), istio.Read(istiotest.Objects(both...))
	two.Tags["prod"] = "blue"
	for _, tc := range []struct {
		name  string
		in    *istio.Installation
		proxy istio.Proxy
		want  string
	}{
		{"by revision", two, istio.Proxy{Revision: "blue"}, "other"},
		{"by tag", two, istio.Proxy{Revision: "prod"}, "other"},
		{"by the default revision", two, istio.Proxy{}, "istio-system"},
		{"by the control plane's namespace, before the revision", two, istio.Proxy{Revision: "blue", RootNamespace: "istio-system"}, "istio-system"},
		{"a namespace that is no mesh's", two, istio.Proxy{Revision: "blue", RootNamespace: "cert-manager"}, "other"},
		{"a revision that is gone, two meshes", two, istio.Proxy{Revision: "green"}, ""},
		{"a revision that is gone, one mesh", one, istio.Proxy{Revision: "green"}, "istio-system"},
	} {
		m, ok := tc.in.MeshOf(tc.proxy)
		if ok != (tc.want != "") || ok && m.RootNamespace != tc.want {
			t.Errorf("%s: %+v, %v", tc.name, m, ok)
		}
	}
}
