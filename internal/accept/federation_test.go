package accept_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/accept"
)

func selecting(meshes ...v1alpha1.ObjectRef) v1alpha1.FederationSelector {
	return v1alpha1.FederationSelector{Meshes: meshes}
}

func TestFederationSelectors(t *testing.T) {
	east, west := ref("m-east", "isthmus-east"), ref("m-west", "isthmus-west")
	for name, tc := range map[string]struct {
		selectors    []v1alpha1.FederationSelector
		permissive   bool
		want         []v1alpha1.FederationSelector
		reason, says string
	}{
		"to everyone": {selectors: []v1alpha1.FederationSelector{{}}, want: []v1alpha1.FederationSelector{{}}},
		"by name":     {selectors: []v1alpha1.FederationSelector{selecting(ref("m-west"))}, want: []v1alpha1.FederationSelector{selecting(west)}},
		"by name in the hub": {selectors: []v1alpha1.FederationSelector{selecting(ref("m-west", hub), ref("m-west"), ref("m-east", "isthmus-east"))},
			want: []v1alpha1.FederationSelector{selecting(west, east)}},
		"one that is no member": {selectors: []v1alpha1.FederationSelector{selecting(ref("m-north"), ref("m-west"))},
			want: []v1alpha1.FederationSelector{selecting(west)}, reason: accept.ReasonMeshNotMember, says: "spec.federation.selectors[0].meshes[0]: m-north"},
		"none that is a member": {selectors: []v1alpha1.FederationSelector{{}, selecting(ref("m-north"))},
			want: []v1alpha1.FederationSelector{{}}, reason: accept.ReasonMeshNotMember, says: "spec.federation.selectors[1].meshes[0]"},
		"nothing left, beside permissive": {selectors: []v1alpha1.FederationSelector{selecting(ref("m-north"))}, permissive: true,
			reason: accept.ReasonMeshNotMember, says: "no member"},
		"wrong namespace": {selectors: []v1alpha1.FederationSelector{selecting(ref("m-west", "isthmus-east"))},
			reason: accept.ReasonMeshNotMember, says: "no member"},
		"ambiguous": {selectors: []v1alpha1.FederationSelector{selecting(ref("m"))},
			reason: accept.ReasonMeshAmbiguous, says: "spec.federation.selectors[0].meshes[0]: several members have the name m: add the namespace, one of isthmus-a/m, isthmus-b/m"},
	} {
		t.Run(name, func(t *testing.T) {
			vm := virtualMesh(ref("m-east"), ref("m-west"), ref("m", "isthmus-a"), ref("m", "isthmus-b"))
			vm.Spec.Federation = &v1alpha1.Federation{Selectors: tc.selectors}
			if tc.permissive {
				vm.Spec.Federation.Permissive = &v1alpha1.Empty{}
			}
			got, fs := accept.VirtualMesh(nil, vm, world(mesh("m-east", "isthmus-east"), mesh("m-west", "isthmus-west"), mesh("m", "isthmus-a"), mesh("m", "isthmus-b"), mesh("m-north", "isthmus-north")))
			expect(t, fs, tc.reason, tc.says)
			if got == nil || got.Generation != 7 {
				t.Fatalf("in force is %+v", got)
			}
			f := got.Spec.Federation
			if !slices.EqualFunc(f.Selectors, tc.want, func(a, b v1alpha1.FederationSelector) bool { return slices.Equal(a.Meshes, b.Meshes) }) {
				t.Errorf("selectors %+v, want %+v", f.Selectors, tc.want)
			}
			if len(f.Selectors) == 0 && f.Permissive != nil {
				t.Error("permissive is honoured after all: everything is federated to everyone")
			}
		})
	}
}

// TestFederatedToThoseAskedFor: what is accepted federates to exactly the members that the spec names, whatever else it names.
func TestFederatedToThoseAskedFor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var meshes []v1alpha1.Mesh
		vm := virtualMesh()
		for i := range rapid.IntRange(1, 5).Draw(t, "meshes") {
			m := mesh(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name"), "isthmus-"+strconv.Itoa(i))
			meshes = append(meshes, m)
			if i == 0 || rapid.Bool().Draw(t, "member") {
				vm.Spec.Meshes = append(vm.Spec.Meshes, ref(m.Name, m.Namespace))
			}
		}
		members := vm.Spec.Meshes
		vm.Spec.Federation = &v1alpha1.Federation{}
		if rapid.Bool().Draw(t, "permissive") {
			vm.Spec.Federation.Permissive = &v1alpha1.Empty{}
		}
		for range rapid.IntRange(0, 3).Draw(t, "selectors") {
			var s v1alpha1.FederationSelector
			for range rapid.IntRange(0, 3).Draw(t, "refs") {
				s.Meshes = append(s.Meshes, ref(rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "ref"), rapid.SampledFrom([]string{"", hub, "isthmus-0", "isthmus-1"}).Draw(t, "in")))
			}
			vm.Spec.Federation.Selectors = append(vm.Spec.Federation.Selectors, s)
		}
		w := world(meshes...)
		w.Leaving = map[string]bool{"isthmus-4": rapid.Bool().Draw(t, "leaving")}
		prev := accepted(members...)
		vm.Spec.Suspend = rapid.Bool().Draw(t, "suspend")
		if vm.Spec.Suspend {
			prev.Spec.Federation = vm.Spec.Federation.DeepCopy()
		}
		got, _ := accept.VirtualMesh(prev, vm, w)
		members = slices.DeleteFunc(slices.Clone(members), func(m v1alpha1.ObjectRef) bool { return w.Leaving[m.Namespace] })
		if got == nil {
			if len(members) > 0 {
				t.Fatal("nothing is in force")
			}
			return
		}
		if !slices.Equal(got.Spec.Meshes, members) {
			t.Fatalf("members %v, want %v", got.Spec.Meshes, members)
		}
		for _, m := range members {
			asked := vm.Spec.Federation.Permissive != nil && len(vm.Spec.Federation.Selectors) == 0
			for _, s := range vm.Spec.Federation.Selectors {
				asked = asked || len(s.Meshes) == 0 || slices.ContainsFunc(s.Meshes, func(r v1alpha1.ObjectRef) bool { return means(r, members) == m })
			}
			f := got.Spec.Federation
			federated := f.Permissive != nil && len(f.Selectors) == 0 || slices.ContainsFunc(f.Selectors, func(s v1alpha1.FederationSelector) bool {
				return len(s.Meshes) == 0 || slices.Contains(s.Meshes, m)
			})
			if federated != asked {
				t.Fatalf("federated to %v: %v, asked for: %v; by %+v", m, federated, asked, f)
			}
		}
	})
}

// means is the only member that a reference fits.
func means(r v1alpha1.ObjectRef, members []v1alpha1.ObjectRef) (out v1alpha1.ObjectRef) {
	n := 0
	for _, m := range members {
		if m.Name == r.Name && (r.Namespace == "" || r.Namespace == hub || r.Namespace == m.Namespace) {
			n, out = n+1, m
		}
	}
	if n != 1 {
		return v1alpha1.ObjectRef{}
	}
	return out
}

func withMode(mode v1alpha1.IstioTLSMode) *v1alpha1.SettingsSpec {
	return &v1alpha1.SettingsSpec{MTLS: &v1alpha1.MTLSSettings{Istio: &v1alpha1.IstioMTLSSettings{TLSMode: mode}}}
}

func enforcing(mode v1alpha1.TLSEnforcementMode, selectors ...v1alpha1.FederationSelector) *v1alpha1.Federation {
	return &v1alpha1.Federation{Selectors: selectors, TLSEnforcementSettings: &v1alpha1.TLSEnforcementSettings{EnforcementMode: mode}}
}

// tlsCases are pairs of settings, and the field of the VirtualMesh that contradicts; "" for none. Judged from the Settings'
// side, those for which settings is false are not found.
var tlsCases = map[string]struct {
	federation *v1alpha1.Federation
	mode       *v1alpha1.SettingsSpec
	field      string
	settings   bool
}{
	"nothing":                  {nil, withMode("DISABLE"), "", false},
	"STRICT, no Settings":      {enforcing("STRICT"), nil, "enforcementMode", true},
	"STRICT, mode not set":     {enforcing("STRICT"), &v1alpha1.SettingsSpec{}, "enforcementMode", true},
	"STRICT, DISABLE":          {enforcing("STRICT"), withMode("DISABLE"), "enforcementMode", true},
	"STRICT, ISTIO_MUTUAL":     {enforcing("STRICT"), withMode("ISTIO_MUTUAL"), "", false},
	"DISABLE, no Settings":     {enforcing("DISABLE"), nil, "", false},
	"DISABLE, DISABLE":         {enforcing("DISABLE"), withMode("DISABLE"), "", false},
	"DISABLE, SIMPLE":          {enforcing("DISABLE"), withMode("SIMPLE"), "enforcementMode", true},
	"DISABLE, ISTIO_MUTUAL":    {enforcing("DISABLE"), withMode("ISTIO_MUTUAL"), "enforcementMode", true},
	"DISABLE and federation":   {enforcing("DISABLE", v1alpha1.FederationSelector{}), nil, "enforcementMode", false},
	"DISABLE and permissive":   {&v1alpha1.Federation{Permissive: &v1alpha1.Empty{}, TLSEnforcementSettings: enforcing("DISABLE").TLSEnforcementSettings}, nil, "enforcementMode", false},
	"PERMISSIVE":               {enforcing("PERMISSIVE"), nil, "", false},
	"UNSET":                    {enforcing("UNSET"), withMode("ISTIO_MUTUAL"), "", false},
	"gateways, no Settings":    {&v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{{}}}, nil, "", false},
	"gateways, DISABLE":        {&v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{{}}}, withMode("DISABLE"), "selectors", true},
	"gateways, SIMPLE":         {&v1alpha1.Federation{Permissive: &v1alpha1.Empty{}}, withMode("SIMPLE"), "permissive", true},
	"gateways, ISTIO_MUTUAL":   {&v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{{}}}, withMode("ISTIO_MUTUAL"), "", false},
	"flat, DISABLE":            {&v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{{}}, FlatNetwork: true}, withMode("DISABLE"), "selectors", true},
	"no federation, DISABLE":   {&v1alpha1.Federation{}, withMode("DISABLE"), "", false},
	"flat, SIMPLE, and STRICT": {&v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{{}}, FlatNetwork: true, TLSEnforcementSettings: enforcing("STRICT").TLSEnforcementSettings}, withMode("SIMPLE"), "selectors", true},
}

func TestTLSOfServersAndClients(t *testing.T) {
	for name, tc := range tlsCases {
		t.Run(name, func(t *testing.T) {
			vm := virtualMesh(ref("m-east"))
			vm.Spec.Federation = tc.federation
			w := world(mesh("m-east", "isthmus-east"))
			w.Settings = tc.mode
			prev := accepted(ref("m-east", "isthmus-east"))
			got, fs := accept.VirtualMesh(prev, vm, w)
			if tc.field == "" {
				expect(t, fs, "", "")
				if got.Generation != vm.Generation {
					t.Errorf("in force is %+v", got)
				}
				return
			}
			expect(t, fs, v1alpha1.ReasonInvalid, tc.field)
			if got.Generation != prev.Generation {
				t.Errorf("in force is %+v", got)
			}
			if tc.settings && !strings.Contains(fs[0].Message, "spec.mtls.istio.tlsMode of Settings") {
				t.Errorf("it names one field only: %s", fs[0])
			}
		})
	}
}

func TestSettings(t *testing.T) {
	for name, tc := range tlsCases {
		t.Run(name, func(t *testing.T) {
			if tc.mode == nil {
				return // not to be had of an object
			}
			vm := *virtualMesh(ref("m-east"))
			vm.Status.Accepted = accepted(ref("m-east", "isthmus-east"))
			vm.Status.Accepted.Spec.Federation = tc.federation
			s := &v1alpha1.Settings{ObjectMeta: metav1.ObjectMeta{Generation: 3}, Spec: *tc.mode}
			s.Status.Accepted = &v1alpha1.AcceptedSettings{Generation: 2}
			got, fs := accept.Settings(s, []v1alpha1.VirtualMesh{{}, vm})
			if !tc.settings {
				expect(t, fs, "", "")
				if got.Generation != 3 {
					t.Errorf("in force is %+v", got)
				}
				return
			}
			expect(t, fs, v1alpha1.ReasonInvalid, "spec.mtls.istio.tlsMode")
			if got != s.Status.Accepted {
				t.Errorf("in force is %+v", got)
			}
			for _, says := range []string{"VirtualMesh one." + hub, "spec.federation.", tc.field} {
				if !strings.Contains(fs[0].Message, says) {
					t.Errorf("it does not name %s: %s", says, fs[0])
				}
			}
			vm.DeletionTimestamp = new(metav1.Now())
			_, fs = accept.Settings(s, []v1alpha1.VirtualMesh{vm})
			expect(t, fs, "", "")
		})
	}
}

func TestKeepalive(t *testing.T) {
	for _, tc := range []struct {
		time, interval time.Duration
		says           string
	}{
		{75 * time.Second, time.Second, ""}, {0, 0, "time"}, {time.Second, 1500 * time.Millisecond, "interval: 1.5s"},
		{-time.Second, time.Second, "tcpKeepalive.time"}, {time.Second, 10 * time.Millisecond, "interval"},
	} {
		vm := virtualMesh(ref("m-east"))
		vm.Spec.Federation = &v1alpha1.Federation{TCPKeepalive: &v1alpha1.TCPKeepalive{
			Time: &metav1.Duration{Duration: tc.time}, Interval: &metav1.Duration{Duration: tc.interval},
		}}
		got, fs := accept.VirtualMesh(nil, vm, world(mesh("m-east", "isthmus-east")))
		if (tc.says == "") != (got != nil) || (tc.says == "") != (len(fs) == 0) || tc.says != "" && !strings.Contains(fs[0].String(), tc.says) {
			t.Errorf("%s, %s: in force %+v, found %v", tc.time, tc.interval, got, fs)
		}
	}
}

func TestLeavingCluster(t *testing.T) {
	east, west := ref("m-east", "isthmus-east"), ref("m-west", "isthmus-west")
	w := world(mesh("m-east", "isthmus-east"), mesh("m-west", "isthmus-west"))
	w.Leaving = map[string]bool{"isthmus-west": true}
	prev := accepted(east, west)
	prev.Spec.Federation = &v1alpha1.Federation{Selectors: []v1alpha1.FederationSelector{selecting(west), selecting(west, east)}}
	for name, edit := range map[string]func(*v1alpha1.VirtualMeshSpec){
		"as before": func(*v1alpha1.VirtualMeshSpec) {},
		"suspended": func(s *v1alpha1.VirtualMeshSpec) { s.Suspend = true },
		"an invalid edit": func(s *v1alpha1.VirtualMeshSpec) {
			s.Federation.TLSEnforcementSettings = enforcing("STRICT").TLSEnforcementSettings
		},
	} {
		t.Run(name, func(t *testing.T) {
			vm := virtualMesh(ref("m-east"), ref("m-west"))
			vm.Spec.Federation = prev.Spec.Federation.DeepCopy()
			edit(&vm.Spec)
			got, fs := accept.VirtualMesh(prev, vm, w)
			if !slices.Equal(got.Spec.Meshes, []v1alpha1.ObjectRef{east}) {
				t.Errorf("members %v", got.Spec.Meshes)
			}
			if s := got.Spec.Federation.Selectors; len(s) != 1 || !slices.Equal(s[0].Meshes, []v1alpha1.ObjectRef{east}) {
				t.Errorf("selectors %+v", s)
			}
			if said := fs.With(accept.ReasonClusterLeaving); !vm.Spec.Suspend && (len(said) != 1 || said[0].Mesh != "m-west.isthmus-west" || said[0].Field != "spec.meshes[1]") {
				t.Errorf("found %v", fs)
			}
		})
	}
	if len(prev.Spec.Meshes) != 2 || len(prev.Spec.Federation.Selectors) != 2 {
		t.Error("the argument was changed")
	}
	w.Leaving["isthmus-east"] = true
	if got, _ := accept.VirtualMesh(prev, virtualMesh(ref("m-east"), ref("m-west")), w); got != nil {
		t.Errorf("in force is %+v", got)
	}
}
