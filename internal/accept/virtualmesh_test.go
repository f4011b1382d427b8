package accept_test

import (
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
	"github.com/isthmus-mesh/isthmus/internal/finding"
)

const hub = v1alpha1.SystemNamespace

func mesh(name, namespace string, edits ...func(*v1alpha1.IstioMesh)) v1alpha1.Mesh {
	m := v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
	m.Spec.Istio = v1alpha1.IstioMesh{
		RootNamespace: "istio-system", TrustDomain: "cluster.local", IstiodServiceAccount: "istiod",
		CertificateAuthority: v1alpha1.CertificateAuthorityIstiod, Topology: v1alpha1.TopologyLocal,
	}
	for _, edit := range edits {
		edit(&m.Spec.Istio)
	}
	return m
}

func virtualMesh(refs ...v1alpha1.ObjectRef) *v1alpha1.VirtualMesh {
	return &v1alpha1.VirtualMesh{
		ObjectMeta: metav1.ObjectMeta{Name: "one", Namespace: hub, Generation: 7},
		Spec:       v1alpha1.VirtualMeshSpec{Meshes: refs, MTLSConfig: &v1alpha1.MTLSConfig{Shared: &v1alpha1.SharedTrust{}}},
	}
}

func ref(name string, namespace ...string) v1alpha1.ObjectRef {
	return v1alpha1.ObjectRef{Name: name, Namespace: strings.Join(namespace, "")}
}

func accepted(refs ...v1alpha1.ObjectRef) *v1alpha1.AcceptedVirtualMesh {
	return &v1alpha1.AcceptedVirtualMesh{Generation: 3, Spec: virtualMesh(refs...).Spec}
}

func world(meshes ...v1alpha1.Mesh) accept.World { return accept.World{Namespace: hub, Meshes: meshes} }

func TestMembers(t *testing.T) {
	remote := func(i *v1alpha1.IstioMesh) { i.Topology = v1alpha1.TopologyRemote }
	external := func(i *v1alpha1.IstioMesh) {
		i.CertificateAuthority, i.CertificateAuthorityMessage = v1alpha1.CertificateAuthorityExternal, "istio-csr"
	}
	east, west := mesh("m-east", "isthmus-east"), mesh("m-west", "isthmus-west")
	both := world(east, west)
	for name, tc := range map[string]struct {
		prev    *v1alpha1.AcceptedVirtualMesh
		refs    []v1alpha1.ObjectRef
		world   accept.World
		members []v1alpha1.ObjectRef
		reason  string // of the only finding
		says    string
	}{
		"by name":                     {nil, []v1alpha1.ObjectRef{ref("m-east")}, both, []v1alpha1.ObjectRef{ref("m-east", "isthmus-east")}, "", ""},
		"by name in the hub":          {nil, []v1alpha1.ObjectRef{ref("m-east", hub)}, both, []v1alpha1.ObjectRef{ref("m-east", "isthmus-east")}, "", ""},
		"by namespace":                {nil, []v1alpha1.ObjectRef{ref("m-east", "isthmus-east")}, both, []v1alpha1.ObjectRef{ref("m-east", "isthmus-east")}, "", ""},
		"twice":                       {nil, []v1alpha1.ObjectRef{ref("m-east"), ref("m-east", hub)}, both, []v1alpha1.ObjectRef{ref("m-east", "isthmus-east")}, "", ""},
		"wrong namespace":             {nil, []v1alpha1.ObjectRef{ref("m-east", "isthmus-west"), ref("m-west")}, both, []v1alpha1.ObjectRef{ref("m-west", "isthmus-west")}, accept.ReasonMeshNotFound, "registered"},
		"a missing one":               {nil, []v1alpha1.ObjectRef{ref("m-north"), ref("m-west")}, both, []v1alpha1.ObjectRef{ref("m-west", "isthmus-west")}, accept.ReasonMeshNotFound, "m-north"},
		"one that went":               {accepted(ref("m-north", "isthmus-north")), []v1alpha1.ObjectRef{ref("m-north"), ref("m-west")}, both, []v1alpha1.ObjectRef{ref("m-north", "isthmus-north"), ref("m-west", "isthmus-west")}, accept.ReasonMeshNotFound, "kept"},
		"ambiguous":                   {nil, []v1alpha1.ObjectRef{ref("m")}, world(mesh("m", "isthmus-b"), mesh("m", "isthmus-a")), nil, accept.ReasonMeshAmbiguous, "isthmus-a/m, isthmus-b/m"},
		"a namesake of one that went": {accepted(ref("m", "isthmus-b")), []v1alpha1.ObjectRef{ref("m")}, world(mesh("m", "isthmus-a")), []v1alpha1.ObjectRef{ref("m", "isthmus-b")}, accept.ReasonMeshNotFound, "kept"},
		"ambiguous since":             {accepted(ref("m", "isthmus-b")), []v1alpha1.ObjectRef{ref("m")}, world(mesh("m", "isthmus-b"), mesh("m", "isthmus-a")), []v1alpha1.ObjectRef{ref("m", "isthmus-b")}, "", ""},
		"remote":                      {nil, []v1alpha1.ObjectRef{ref("m")}, world(mesh("m", "isthmus-a", remote)), nil, accept.ReasonTrustNotShareable, "another cluster"},
		"external CA":                 {nil, []v1alpha1.ObjectRef{ref("m")}, world(mesh("m", "isthmus-a", external)), nil, accept.ReasonTrustNotShareable, "istio-csr"},
		"external CA since":           {accepted(ref("m", "isthmus-a")), []v1alpha1.ObjectRef{ref("m")}, world(mesh("m", "isthmus-a", external)), []v1alpha1.ObjectRef{ref("m", "isthmus-a")}, accept.ReasonTrustNotShareable, "istio-csr"},
		"unknown CA":                  {nil, []v1alpha1.ObjectRef{ref("m")}, world(mesh("m", "isthmus-a", func(i *v1alpha1.IstioMesh) { i.CertificateAuthority = "" })), nil, accept.ReasonTrustNotShareable, "not known"},
		"no SPIFFE ID":                {nil, []v1alpha1.ObjectRef{ref("m")}, world(mesh("m", "isthmus-a", func(i *v1alpha1.IstioMesh) { i.TrustDomain = "a/ns/b" })), nil, v1alpha1.ReasonInvalid, "SPIFFE"},
		"held by another":             {nil, []v1alpha1.ObjectRef{ref("m-east"), ref("m-west")}, holder(both, "m-east.isthmus-east"), []v1alpha1.ObjectRef{ref("m-west", "isthmus-west")}, accept.ReasonMeshTaken, "two.isthmus-system"},
		"other trust domain":          {nil, []v1alpha1.ObjectRef{ref("m-east"), ref("m")}, world(east, mesh("m", "isthmus-a", domain("a.example", "cluster.local"))), []v1alpha1.ObjectRef{ref("m-east", "isthmus-east"), ref("m", "isthmus-a")}, accept.ReasonTrustDomain, "trustDomainAliases: [a.example]"},
		"trust domains as aliases":    {nil, []v1alpha1.ObjectRef{ref("m"), ref("n")}, world(mesh("m", "isthmus-a", domain("a", "b")), mesh("n", "isthmus-b", domain("b", "a"))), []v1alpha1.ObjectRef{ref("m", "isthmus-a"), ref("n", "isthmus-b")}, "", ""},
		"nothing valid, as before":    {accepted(ref("m-west", "isthmus-west")), []v1alpha1.ObjectRef{ref("m-north")}, both, []v1alpha1.ObjectRef{ref("m-west", "isthmus-west")}, accept.ReasonMeshNotFound, ""},
		"nothing valid, and before":   {nil, []v1alpha1.ObjectRef{ref("m-north")}, both, nil, accept.ReasonMeshNotFound, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, fs := accept.VirtualMesh(tc.prev, virtualMesh(tc.refs...), tc.world)
			var members []v1alpha1.ObjectRef
			if got != nil {
				members = got.Spec.Meshes
			}
			if !slices.Equal(members, tc.members) {
				t.Errorf("members %v, want %v", members, tc.members)
			}
			expect(t, fs, tc.reason, tc.says)
		})
	}
}

func domain(name string, aliases ...string) func(*v1alpha1.IstioMesh) {
	return func(i *v1alpha1.IstioMesh) { i.TrustDomain, i.TrustDomainAliases = name, aliases }
}

func holder(w accept.World, mesh string) accept.World {
	w.Holders = map[string]string{mesh: "two.isthmus-system"}
	return w
}

// expect wants one finding of a reason that says something, or none for "".
func expect(t *testing.T, fs finding.Findings, reason, says string) {
	t.Helper()
	switch {
	case reason == "" && len(fs) == 0:
	case len(fs) != 1 || fs[0].Reason != reason || !strings.Contains(fs[0].String(), says):
		t.Errorf("found %v, want %s that says %q", fs, reason, says)
	}
}

func TestTrust(t *testing.T) {
	days := func(n int32) *v1alpha1.RootCertificateAuthority {
		return &v1alpha1.RootCertificateAuthority{Generated: &v1alpha1.CertOptions{TTLDays: &n}}
	}
	secret := func(name string) *v1alpha1.RootCertificateAuthority {
		return &v1alpha1.RootCertificateAuthority{Secret: &v1alpha1.SecretRef{Name: name}}
	}
	generated := sourceOf(&v1alpha1.SharedTrust{}, "")
	provided := sourceOf(&v1alpha1.SharedTrust{RootCertificateAuthority: secret("ca")}, "aa")
	for name, tc := range map[string]struct {
		edit         func(*v1alpha1.SharedTrust)
		inUse        *accept.RootSource
		problem      string
		reason, says string
		kept         bool // what was accepted before stays as a whole
		ttl          int32
	}{
		"defaults":                   {edit: func(*v1alpha1.SharedTrust) {}, ttl: 365},
		"defaults written out":       {edit: func(s *v1alpha1.SharedTrust) { s.RootCertificateAuthority = days(365) }, inUse: &generated, ttl: 365},
		"size in bytes":              {edit: func(s *v1alpha1.SharedTrust) { s.RootCertificateAuthority = size(512) }, inUse: &generated, ttl: 365},
		"other lifetime":             {edit: func(s *v1alpha1.SharedTrust) { s.RootCertificateAuthority = days(10) }, inUse: &generated, ttl: 10},
		"other lifetime, not in use": {edit: func(s *v1alpha1.SharedTrust) { s.RootCertificateAuthority = days(10) }, ttl: 10},
		"other size":                 {edit: func(s *v1alpha1.SharedTrust) { s.RootCertificateAuthority = size(2048) }, inUse: &generated, ttl: 365},
		"trigger":                    {edit: func(s *v1alpha1.SharedTrust) { s.RotationTrigger = "now" }, inUse: &generated, ttl: 365},
		"trigger, not in use":        {edit: func(s *v1alpha1.SharedTrust) { s.RotationTrigger = "now" }, ttl: 365},
		"to a Secret":                {edit: func(s *v1alpha1.SharedTrust) { s.RootCertificateAuthority = secret("ca") }, inUse: &generated, ttl: 365},
		"the same Secret":            {edit: func(s *v1alpha1.SharedTrust) { s.RootCertificateAuthority = secret("ca") }, inUse: &provided, ttl: 365},
		"the same CA elsewhere":      {edit: func(s *v1alpha1.SharedTrust) { s.RootCertificateAuthority = secret("ca2") }, inUse: &provided, ttl: 365},
		"other content":              {edit: func(s *v1alpha1.SharedTrust) { s.RootCertificateAuthority = secret("ca") }, inUse: &provided, ttl: 365},
		"bad Secret":                 {edit: func(s *v1alpha1.SharedTrust) { s.RootCertificateAuthority = secret("ca") }, problem: "expired", reason: v1alpha1.ReasonInvalid, says: "expired", kept: true},
		"bad Secret, already copied": {edit: func(s *v1alpha1.SharedTrust) { s.RootCertificateAuthority = secret("ca") }, inUse: &provided, problem: "expired", reason: v1alpha1.ReasonInvalid, says: "expired", ttl: 365},
		"bad Secret, another in use": {edit: func(s *v1alpha1.SharedTrust) { s.RootCertificateAuthority = secret("ca2") }, inUse: &provided, problem: "expired", reason: v1alpha1.ReasonInvalid, kept: true},
		"bad ratio": {edit: func(s *v1alpha1.SharedTrust) {
			s.IntermediateCertOptions = &v1alpha1.CertOptions{SecretRotationGracePeriodRatio: ".5"}
		}, reason: v1alpha1.ReasonInvalid, says: "secretRotationGracePeriodRatio", kept: true},
		"Vault":                        {edit: vault("https://vault.example.com:8200", "pki/root/sign-intermediate")},
		"Vault where a root is in use": {edit: vault("https://vault.example.com:8200", "pki/root/sign-intermediate"), inUse: &generated, ttl: 365},
		"Vault, a path that does not sign": {edit: vault("https://vault.example.com:8200", "pki/sign/x"), inUse: &generated,
			reason: v1alpha1.ReasonInvalid, says: "intermediateCertificateAuthority.vault.caPath: \"pki/sign/x\" does not sign", kept: true},
		"Vault, a URL that is more than a server's": {edit: vault("https://vault.example.com/v1", "pki/root/sign-intermediate"),
			reason: v1alpha1.ReasonInvalid, says: "vault.server", kept: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := world(mesh("m-east", "isthmus-east"))
			w.Root, w.ProvidedCAProblem = tc.inUse, tc.problem
			vm := virtualMesh(ref("m-east"))
			tc.edit(vm.Spec.MTLSConfig.Shared)
			prev := accepted(ref("m-east", "isthmus-east"))
			got, fs := accept.VirtualMesh(prev, vm, w)
			if tc.reason == v1alpha1.ReasonInvalid {
				fs = fs.With(v1alpha1.ReasonInvalid)
			}
			expect(t, fs, tc.reason, tc.says)
			if kept := got.Generation == prev.Generation; kept != tc.kept {
				t.Fatalf("generation %d is in force", got.Generation)
			}
			if tc.kept {
				return
			}
			if tc.inUse != nil && tc.inUse.Generated != nil {
				if s := sourceOf(got.Spec.MTLSConfig.Shared, ""); s.Generated != nil && *s.Generated.TTLDays != tc.ttl {
					t.Errorf("in force is %+v", got.Spec.MTLSConfig.Shared)
				}
			}
		})
	}
}

func TestSameRoot(t *testing.T) {
	generated := func(trigger string, o v1alpha1.CertOptions) accept.RootSource {
		return sourceOf(&v1alpha1.SharedTrust{RotationTrigger: trigger, RootCertificateAuthority: &v1alpha1.RootCertificateAuthority{Generated: &o}}, "")
	}
	provided := func(trigger, secret, certificate string) accept.RootSource {
		ca := &v1alpha1.RootCertificateAuthority{Secret: &v1alpha1.SecretRef{Name: secret}}
		return sourceOf(&v1alpha1.SharedTrust{RotationTrigger: trigger, RootCertificateAuthority: ca}, certificate)
	}
	signed := func(server, certificate string) accept.RootSource {
		s := v1alpha1.SharedTrust{RotationTrigger: server}
		vault(server, "pki/root/sign-intermediate")(&s)
		return sourceOf(&s, certificate)
	}
	for name, tc := range map[string]struct {
		a, b accept.RootSource
		same bool
	}{
		"Vault":               {signed("https://a", "aa"), signed("https://b", "aa"), true},
		"Vault's other root":  {signed("https://a", "aa"), signed("https://a", "bb"), false},
		"Vault or the Secret": {signed("https://a", "aa"), provided("", "ca", "aa"), false},
		"defaults":            {generated("", v1alpha1.CertOptions{}), generated("", v1alpha1.CertOptions{TTLDays: new(int32(365)), OrgName: "isthmus"}), true},
		"size in bytes":       {generated("", v1alpha1.CertOptions{RSAKeySizeBytes: new(int32(512))}), generated("", v1alpha1.CertOptions{}), true},
		"when it is renewed":  {generated("", v1alpha1.CertOptions{SecretRotationGracePeriodRatio: "0.5"}), generated("", v1alpha1.CertOptions{}), true},
		"lifetime":            {generated("", v1alpha1.CertOptions{TTLDays: new(int32(10))}), generated("", v1alpha1.CertOptions{}), false},
		"size":                {generated("", v1alpha1.CertOptions{RSAKeySizeBytes: new(int32(2048))}), generated("", v1alpha1.CertOptions{}), false},
		"name":                {generated("", v1alpha1.CertOptions{OrgName: "x"}), generated("", v1alpha1.CertOptions{}), false},
		"trigger":             {generated("a", v1alpha1.CertOptions{}), generated("b", v1alpha1.CertOptions{}), false},
		"source":              {generated("", v1alpha1.CertOptions{}), provided("", "ca", "aa"), false},
		"elsewhere":           {provided("", "ca", "aa"), provided("x", "ca2", "aa"), true},
		"content":             {provided("", "ca", "aa"), provided("", "ca", "bb"), false},
		"purpose":             {accept.SourceOf(accept.TrustOf(&v1alpha1.MTLSConfig{Limited: &v1alpha1.LimitedTrust{}}), "", hub), generated("", v1alpha1.CertOptions{}), false},
		"unknown":             {accept.RootSource{}, generated("", v1alpha1.CertOptions{}), false},
	} {
		if tc.a.Same(tc.b) != tc.same || tc.b.Same(tc.a) != tc.same {
			t.Errorf("%s: same is %v", name, !tc.same)
		}
	}
}

func size(n int32) *v1alpha1.RootCertificateAuthority {
	return &v1alpha1.RootCertificateAuthority{Generated: &v1alpha1.CertOptions{RSAKeySizeBytes: &n}}
}

func vault(server, caPath string) func(*v1alpha1.SharedTrust) {
	return func(s *v1alpha1.SharedTrust) {
		s.IntermediateCertificateAuthority = &v1alpha1.IntermediateCertificateAuthority{Vault: v1alpha1.VaultCA{
			Server: server, CAPath: caPath, TokenSecretRef: &v1alpha1.LocalSecretRef{Name: "token"},
		}}
	}
}

func TestLimitedTrust(t *testing.T) {
	limited := func(edit func(*v1alpha1.VirtualMeshSpec)) *v1alpha1.VirtualMesh {
		vm := virtualMesh(ref("m-east"))
		vm.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Limited: &v1alpha1.LimitedTrust{}}
		edit(&vm.Spec)
		return vm
	}
	for name, tc := range map[string]struct {
		edit    func(*v1alpha1.VirtualMeshSpec)
		problem string
		says    string
	}{
		"defaults": {edit: func(*v1alpha1.VirtualMeshSpec) {}},
		"all": {edit: func(s *v1alpha1.VirtualMeshSpec) {
			s.MTLSConfig.Limited = &v1alpha1.LimitedTrust{RootCertificateAuthority: size(2048), GatewayCertOptions: &v1alpha1.CertOptions{TTLDays: new(int32(1))}, RotationTrigger: "now"}
		}},
		"ratio": {edit: func(s *v1alpha1.VirtualMeshSpec) {
			s.MTLSConfig.Limited.GatewayCertOptions = &v1alpha1.CertOptions{SecretRotationGracePeriodRatio: ".5"}
		}, says: "spec.mtlsConfig.limited.gatewayCertOptions"},
		"size": {edit: func(s *v1alpha1.VirtualMeshSpec) { s.MTLSConfig.Limited.RootCertificateAuthority = size(100) },
			says: "spec.mtlsConfig.limited.rootCertificateAuthority.generated"},
		"Secret": {edit: func(s *v1alpha1.VirtualMeshSpec) {
			s.MTLSConfig.Limited.RootCertificateAuthority = &v1alpha1.RootCertificateAuthority{Secret: &v1alpha1.SecretRef{Name: "ca"}}
		}, problem: "expired", says: "spec.mtlsConfig.limited.rootCertificateAuthority.secret"},
		"flat network": {edit: func(s *v1alpha1.VirtualMeshSpec) { s.Federation = &v1alpha1.Federation{FlatNetwork: true} },
			says: "spec.federation.flatNetwork"},
		"other gateways": {edit: func(s *v1alpha1.VirtualMeshSpec) {
			s.Federation = &v1alpha1.Federation{IngressGatewaySelectors: []v1alpha1.IngressGatewaySelector{{}}}
		}, says: "spec.federation.ingressGatewaySelectors"},
	} {
		t.Run(name, func(t *testing.T) {
			w := world(mesh("m-east", "isthmus-east"))
			w.ProvidedCAProblem = tc.problem
			prev := accepted(ref("m-east", "isthmus-east"))
			got, fs := accept.VirtualMesh(prev, limited(tc.edit), w)
			reason := ""
			if tc.says != "" {
				reason = v1alpha1.ReasonInvalid
			}
			expect(t, fs, reason, tc.says)
			if kept := got.Generation == prev.Generation; kept != (tc.says != "") {
				t.Errorf("generation %d is in force", got.Generation)
			}
		})
	}
	t.Run("whoever signs in the mesh, and whatever it is called", func(t *testing.T) {
		strange, other := mesh("m-east", "isthmus-east"), mesh("m-west", "isthmus-west")
		strange.Spec.Istio.CertificateAuthority, strange.Spec.Istio.TrustDomain = v1alpha1.CertificateAuthorityExternal, "east.example"
		vm := limited(func(s *v1alpha1.VirtualMeshSpec) { s.Meshes = append(s.Meshes, ref("m-west")) })
		got, fs := accept.VirtualMesh(nil, vm, world(strange, other))
		expect(t, fs, "", "")
		if len(got.Spec.Meshes) != 2 {
			t.Errorf("members are %v", got.Spec.Meshes)
		}
	})
}

// TestNamesakes: gateways tell meshes apart by their names, so that one of another's name would be in its way.
func TestNamesakes(t *testing.T) {
	vm := virtualMesh(ref("m", "isthmus-a"), ref("m", "isthmus-b"))
	w := world(mesh("m", "isthmus-a"), mesh("m", "isthmus-b"))
	got, fs := accept.VirtualMesh(nil, vm, w)
	expect(t, fs, "", "")
	if len(got.Spec.Meshes) != 2 {
		t.Errorf("members are %v", got.Spec.Meshes)
	}
	vm.Spec.MTLSConfig = &v1alpha1.MTLSConfig{Limited: &v1alpha1.LimitedTrust{}}
	got, fs = accept.VirtualMesh(nil, vm, w)
	expect(t, fs, accept.ReasonMeshAmbiguous, "isthmus-a")
	if len(got.Spec.Meshes) != 1 || got.Spec.Meshes[0].Namespace != "isthmus-a" {
		t.Errorf("members are %v", got.Spec.Meshes)
	}
}

func TestGatewayOptions(t *testing.T) {
	o := accept.GatewayOptions(nil)
	if *o.TTLDays != 30 || *o.RSAKeySizeBytes != 2048 || o.SecretRotationGracePeriodRatio != "0.5" || o.OrgName != "isthmus" {
		t.Errorf("defaults are %+v", o)
	}
	given := v1alpha1.CertOptions{TTLDays: new(int32(1)), RSAKeySizeBytes: new(int32(384)), SecretRotationGracePeriodRatio: "0.9", OrgName: "x"}
	if o := accept.GatewayOptions(&given); *o.TTLDays != 1 || *o.RSAKeySizeBytes != 3072 || o.SecretRotationGracePeriodRatio != "0.9" || o.OrgName != "x" || *given.RSAKeySizeBytes != 384 {
		t.Errorf("%+v of %+v", o, given)
	}
}

// sourceOf is the root that shared trust asks for.
func sourceOf(s *v1alpha1.SharedTrust, certificate string) accept.RootSource {
	return accept.SourceOf(accept.TrustOf(&v1alpha1.MTLSConfig{Shared: s}), certificate, hub)
}

func TestSuspended(t *testing.T) {
	vm := virtualMesh(ref("m-north"))
	vm.Spec.Suspend = true
	prev := accepted(ref("m-east", "isthmus-east"))
	got, fs := accept.VirtualMesh(prev, vm, world())
	expect(t, fs, v1alpha1.ReasonSuspended, "suspend")
	if !got.Spec.Suspend || got.Generation != prev.Generation || !slices.Equal(got.Spec.Meshes, prev.Spec.Meshes) {
		t.Errorf("in force is %+v", got)
	}
	if prev.Spec.Suspend {
		t.Error("the argument was changed")
	}
	if got, _ := accept.VirtualMesh(nil, vm, world()); got != nil {
		t.Errorf("in force is %+v", got)
	}
	vm.Spec.Suspend = false // and invalid
	if got, _ := accept.VirtualMesh(got, vm, world()); got.Spec.Suspend {
		t.Error("it stays suspended")
	}
}

func TestHolders(t *testing.T) {
	named := func(name string, in *v1alpha1.AcceptedVirtualMesh, refs ...v1alpha1.ObjectRef) v1alpha1.VirtualMesh {
		vm := *virtualMesh(refs...)
		vm.Name, vm.Status.Accepted = name, in
		return vm
	}
	m := ref("m", "isthmus-a")
	order := v1alpha1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Name: "m", Namespace: "isthmus-a"}}
	order.Spec.VirtualMesh = v1alpha1.ObjectRef{Name: "two", Namespace: hub}
	plugged := mesh("m", "isthmus-a")
	plugged.Status.CertificateAuthority = &v1alpha1.MeshCertificateAuthority{VirtualMesh: "two.isthmus-system"}
	for name, tc := range map[string]struct {
		all    []v1alpha1.VirtualMesh
		meshes []v1alpha1.Mesh
		orders []v1alpha1.IssuedCertificate
		holder string
	}{
		"nobody":                  {[]v1alpha1.VirtualMesh{named("two", nil, m)}, nil, nil, ""},
		"who accepted it":         {[]v1alpha1.VirtualMesh{named("two", accepted(m), m)}, nil, nil, "two.isthmus-system"},
		"for whom it was ordered": {[]v1alpha1.VirtualMesh{named("two", nil, ref("m"))}, nil, []v1alpha1.IssuedCertificate{order}, "two.isthmus-system"},
		"whose CA it has":         {[]v1alpha1.VirtualMesh{named("two", nil, ref("m"))}, []v1alpha1.Mesh{plugged}, nil, "two.isthmus-system"},
		"not who gave it up":      {[]v1alpha1.VirtualMesh{named("two", nil, ref("n"))}, []v1alpha1.Mesh{plugged}, []v1alpha1.IssuedCertificate{order}, ""},
		"not oneself":             {[]v1alpha1.VirtualMesh{named("one", accepted(m), m)}, nil, nil, ""},
		"not who is gone":         {nil, []v1alpha1.Mesh{plugged}, []v1alpha1.IssuedCertificate{order}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := accept.Holders(virtualMesh(m), tc.all, tc.meshes, tc.orders)["m.isthmus-a"]; got != tc.holder {
				t.Errorf("held by %q, want %q", got, tc.holder)
			}
		})
	}
}
