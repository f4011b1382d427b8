package build

import (
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/lab/internal/image"
)

// The layer of a dynamic program is closed: whatever a file in it is linked
// with is in it.
func TestUserlandIsClosed(t *testing.T) {
	if _, ok := lookPath("openssl"); !ok {
		t.Skip("openssl is not installed: apt-get install openssl")
	}
	u := newUserland()
	u.program("bin", "openssl", "sslclient")
	if u.err != nil {
		t.Fatal(u.err)
	}
	if link := u.layer["usr/bin/sslclient"].Link; link != "openssl" {
		t.Errorf("the link points to %q", link)
	}
	names := map[string]bool{}
	for name := range u.layer {
		names[filepath.Base(name)] = true
	}
	libraries := 0
	for name, f := range u.layer {
		if f.Source == "" {
			continue
		}
		needed, interpreter, err := linkedWith(f.Source)
		if err != nil {
			t.Fatal(err)
		}
		if interpreter != "" && u.layer[inUsr(interpreter)].Source == "" {
			t.Errorf("%s needs %s", name, interpreter)
		}
		for _, lib := range needed {
			libraries++
			if !names[lib] {
				t.Errorf("%s needs %s", name, lib)
			}
		}
	}
	if libraries < 3 {
		t.Errorf("openssl and its libraries are linked with %d libraries, which cannot be", libraries)
	}
}

// The proxy's image has what Istio and the guide call in it, and no link in it
// leads nowhere.
func TestProxyUserland(t *testing.T) {
	if pkgs := missingPackages(installed); len(pkgs) > 0 {
		t.Skipf("Debian packages are missing: apt-get install %s", strings.Join(pkgs, " "))
	}
	layer, err := proxyUserland()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"usr/sbin/iptables", "usr/sbin/iptables-save", "usr/sbin/iptables-restore",
		"usr/sbin/ip6tables-restore", "usr/sbin/iptables-legacy", "usr/sbin/iptables-nft", "usr/sbin/nft",
		"usr/bin/openssl", "usr/bin/sh", "etc/passwd", "tmp",
	} {
		if _, ok := layer[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	for name, f := range layer {
		if f.Link == "" {
			continue
		}
		to := path.Join(path.Dir("/"+name), f.Link)
		if path.IsAbs(f.Link) {
			to = f.Link
		}
		if _, ok := layer[to[1:]]; !ok {
			t.Errorf("%s leads to %s, which is not there", name, to)
		}
	}
}

func TestUserlandWithoutProgram(t *testing.T) {
	u := newUserland()
	u.program("bin", "no-such-program")
	if u.err == nil || !strings.Contains(u.err.Error(), "no-such-program is not installed") {
		t.Errorf("got %v", u.err)
	}
}

func TestFingerprint(t *testing.T) {
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, []byte("1"), 0o755); err != nil {
		t.Fatal(err)
	}
	of := func(s image.Spec) string {
		t.Helper()
		print, err := fingerprint(s)
		if err != nil {
			t.Fatal(err)
		}
		return print
	}
	spec := func(ref string) image.Spec {
		return image.Spec{Ref: ref, Layers: []image.Layer{{"program": {Source: file}, "motd": {Content: []byte("hello")}}}}
	}
	base := of(spec("x:1"))
	if of(spec("x:1")) != base {
		t.Error("the same image has two fingerprints")
	}
	if of(spec("x:2")) == base {
		t.Error("another reference has the same fingerprint")
	}
	if err := os.WriteFile(file, []byte("22"), 0o755); err != nil {
		t.Fatal(err)
	}
	if of(spec("x:1")) == base {
		t.Error("another program has the same fingerprint")
	}
}
