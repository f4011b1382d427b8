package build

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func TestHash(t *testing.T) {
	pins := func(changes ...string) fstest.MapFS {
		m := fstest.MapFS{
			"go.mod":          {Data: []byte("module parts\n")},
			"coredns/main.go": {Data: []byte("package main\n")},
		}
		for i := 0; i < len(changes); i += 2 {
			m[changes[i]] = &fstest.MapFile{Data: []byte(changes[i+1])}
		}
		return m
	}
	of := func(files fstest.MapFS, recipe ...string) string {
		t.Helper()
		h, err := hash(files, recipe)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	base := of(pins(), "-s -w", "linux")
	if len(base) != 12 || strings.Trim(base, "0123456789abcdef") != "" {
		t.Errorf("hash %q is not twelve hexadecimal digits", base)
	}
	if again := of(pins(), "-s -w", "linux"); again != base {
		t.Errorf("the same pins gave %s and %s", base, again)
	}
	if stray := of(pins(".go.mod.swp", "x"), "-s -w", "linux"); stray != base {
		t.Error("a stray file changed the hash")
	}
	for what, other := range map[string]string{
		"a changed file":             of(pins("go.mod", "module other\n"), "-s -w", "linux"),
		"a new file":                 of(pins("go.sum", ""), "-s -w", "linux"),
		"another recipe":             of(pins(), "-s", "linux"),
		"words cut at another place": of(pins(), "-s", "-w linux"),
	} {
		if other == base {
			t.Errorf("%s gave the same hash", what)
		}
	}
}

func TestSelected(t *testing.T) {
	names := func(ts []target) (names []string) {
		for _, t := range ts {
			names = append(names, t.name)
		}
		return names
	}
	all, err := selected(nil)
	if err != nil || len(all) != len(targets)-1 || slices.Contains(names(all), "cert-manager") {
		t.Errorf("no names select %q, %v", names(all), err)
	}
	if aside, err := selected([]string{"cert-manager"}); err != nil || !slices.Equal(names(aside), []string{"cert-manager"}) {
		t.Errorf("selected %q, %v", names(aside), err)
	}
	some, err := selected([]string{"proxyv2-image", "etcd"})
	if want := []string{"etcd", "pilot-agent", "envoy", "proxyv2-image"}; err != nil || !slices.Equal(names(some), want) {
		t.Errorf("selected %q, %v, want %q", names(some), err, want)
	}
	if _, err := selected([]string{"etcd", "docker"}); err == nil || !strings.Contains(err.Error(), `"docker"`) {
		t.Errorf("an unknown part gave %v", err)
	}
}

// Programs of one go build share a directory, so their names must differ, and
// needs must be names.
func TestTargets(t *testing.T) {
	seen := map[string]bool{}
	for _, target := range targets {
		if seen[target.name] {
			t.Errorf("there are two parts %s", target.name)
		}
		for _, need := range target.needs {
			if !seen[need] {
				t.Errorf("%s needs %s, which does not come before it", target.name, need)
			}
		}
		seen[target.name] = true
		compiled := target.kind == program || target.kind == plugin
		if _, pinned := wheelPins[target.name]; pinned != (target.kind == wheel) {
			t.Errorf("%s: pinned as a wheel is %v", target.name, pinned)
		}
		if (compiled || target.kind == own) != (target.pkg != "") {
			t.Errorf("%s: package %q", target.name, target.pkg)
		}
		if compiled && !strings.HasSuffix(target.pkg, "/"+target.name) {
			t.Errorf("%s: go build would name %s otherwise", target.name, target.pkg)
		}
	}
}

func TestMissing(t *testing.T) {
	parts := at(t.TempDir())
	if missing := parts.Missing(); len(missing) != len(targets)-1 {
		t.Errorf("of an empty directory %d of %d parts of a lab are missing", len(missing), len(targets)-1)
	}
}

func TestDefault(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", "/cache")
	parts, err := Default()
	if err != nil {
		t.Fatal(err)
	}
	if want := "/cache/isthmus-lab/" + parts.Version(); parts.Dir != want || parts.CNI != want+"/bin/cni" {
		t.Errorf("parts lie in %+v", parts)
	}
}

// The versions that programs report of themselves are those that are pinned.
func TestVersions(t *testing.T) {
	src, err := findSource()
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile(filepath.Join(src.pins(), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for _, pin := range []string{
		"k8s.io/kubernetes v" + kubernetesVersion,
		"github.com/coredns/coredns v" + corednsVersion,
		"istio.io/api => istio.io/api v" + istioVersion,
	} {
		if !strings.Contains(string(mod), "\t"+pin+"\n") {
			t.Errorf("lab/parts/go.mod does not pin %s", pin)
		}
	}
	wheel, err := os.ReadFile(filepath.Join(string(src), "wheels", "openbao.txt"))
	if err != nil || !strings.Contains(string(wheel), "\nopenbao-cli=="+baoVersion+" ") {
		t.Errorf("lab/wheels/openbao.txt does not pin %s: %v", baoVersion, err)
	}
	mod, err = os.ReadFile(filepath.Join(string(src), "certmanager", "go.mod"))
	if err != nil || !strings.Contains(string(mod), "\tgithub.com/cert-manager/cert-manager v"+certManagerVersion+"\n") {
		t.Errorf("lab/certmanager/go.mod does not pin %s: %v", certManagerVersion, err)
	}
}
