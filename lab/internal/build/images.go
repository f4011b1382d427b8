package build

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/lab/internal/image"
)

// imageHub is the registry that the images' references name. It does not exist:
// nodes import the images.
const imageHub = "lab.local/istio"

// writeImage writes an image unless it is there and nothing that it consists of
// has changed.
func (b *builder) writeImage(ctx context.Context, t target) error {
	spec, err := b.imageSpec(ctx, t.name)
	if err != nil {
		return fmt.Errorf("%s: %w", t.name, err)
	}
	print, err := fingerprint(spec)
	if err != nil {
		return fmt.Errorf("%s: %w", t.name, err)
	}
	file := filepath.Join(b.parts.Dir, t.files()[0])
	made := file + ".made"
	if old, err := os.ReadFile(made); err == nil && string(old) == print && isFile(file) {
		return nil
	}
	b.report.say("writing image %s", spec.Ref)
	if err := image.Write(file, spec); err != nil {
		return err
	}
	return os.WriteFile(made, []byte(print), 0o644)
}

func (b *builder) imageSpec(ctx context.Context, name string) (image.Spec, error) {
	bin := func(name string) image.File {
		return image.File{Source: filepath.Join(b.parts.Bin, name), Mode: 0o755}
	}
	single := func(ref, name string) image.Spec {
		return image.Spec{Ref: ref, Layers: []image.Layer{{name: bin(name)}}, Entrypoint: []string{"/" + name}}
	}
	switch name {
	case "pause-image":
		return single("lab.local/pause:1", "pause"), nil
	case "coredns-image":
		return single("lab.local/coredns:"+corednsVersion, "coredns"), nil
	case "sample-image":
		return single("lab.local/sample:1", "sample"), nil
	case "pilot-image":
		bootstrap, err := b.envoyBootstrap(ctx)
		return image.Spec{
			Ref: imageHub + "/pilot:" + istioVersion,
			Layers: []image.Layer{{
				"tmp":                           {Dir: true, Mode: 0o777 | os.ModeSticky},
				bootstrapPath:                   bootstrap,
				"usr/local/bin/pilot-discovery": bin("pilot-discovery"),
			}},
			User:       "1337:1337",
			Entrypoint: []string{"/usr/local/bin/pilot-discovery"},
		}, err
	case "proxyv2-image":
		return b.proxySpec(ctx, bin)
	}
	return image.Spec{}, fmt.Errorf("no recipe")
}

// bootstrapPath is where pilot-agent looks for the template of Envoy's bootstrap.
const bootstrapPath = "var/lib/istio/envoy/envoy_bootstrap_tmpl.json"

// proxySpec is the sidecar's and the gateways' image: pilot-agent and Envoy, the
// packet filters that istio-init sets up, and a shell and openssl for people and
// tests that look at certificates.
func (b *builder) proxySpec(ctx context.Context, bin func(string) image.File) (image.Spec, error) {
	bootstrap, err := b.envoyBootstrap(ctx)
	if err != nil {
		return image.Spec{}, err
	}
	base, err := proxyUserland()
	if err != nil {
		return image.Spec{}, err
	}
	envoy := newUserland()
	envoy.libraries(bin("envoy").Source)
	if envoy.err != nil {
		return image.Spec{}, envoy.err
	}
	maps.Copy(base, envoy.layer)
	return image.Spec{
		Ref: imageHub + "/proxyv2:" + istioVersion,
		Layers: []image.Layer{
			base,
			{"usr/local/bin/envoy": bin("envoy")},
			{
				"etc/istio/proxy":           {Dir: true, UID: 1337, GID: 1337},
				"var/lib/istio/data":        {Dir: true, UID: 1337, GID: 1337},
				bootstrapPath:               bootstrap,
				"usr/local/bin/pilot-agent": bin("pilot-agent"),
			},
		},
		Env:        []string{"ISTIO_META_ISTIO_VERSION=" + istioVersion, "ISTIO_META_ISTIO_PROXY_SHA=istio-proxy:upstream"},
		WorkDir:    "/",
		Entrypoint: []string{"/usr/local/bin/pilot-agent"},
	}, nil
}

func proxyUserland() (image.Layer, error) {
	u := newUserland()
	u.program("sbin", "nft")
	for _, multi := range []string{"nft", "legacy"} {
		var links []string
		for _, command := range []string{"iptables", "ip6tables"} {
			for _, action := range []string{"", "-save", "-restore"} {
				links = append(links, command+"-"+multi+action)
				if multi == "nft" { // the plain names mean nf_tables, as in Debian
					links = append(links, command+action)
				}
			}
		}
		u.program("sbin", "xtables-"+multi+"-multi", links...)
	}
	u.plugins("/usr/lib/" + triplet() + "/xtables/*.so")
	for _, database := range []string{"/etc/protocols", "/etc/services", "/etc/ethertypes"} {
		if isFile(database) {
			u.file(database)
		}
	}
	u.program("bin", "openssl")
	u.file("/etc/ssl/openssl.cnf")
	u.layer["usr/lib/ssl/openssl.cnf"] = image.File{Link: "/etc/ssl/openssl.cnf"}
	names, err := applets()
	u.fail(err)
	u.program("bin", "busybox", names...)
	return u.layer, u.err
}

// envoyBootstrap is the template of Envoy's bootstrap of the pinned Istio.
func (b *builder) envoyBootstrap(ctx context.Context) (image.File, error) {
	const template = "tools/packaging/common/envoy_bootstrap.json"
	if b.istio == "" {
		dir, err := b.istioModule(ctx)
		if err != nil {
			return image.File{}, err
		}
		b.istio = dir
	}
	return image.File{Source: filepath.Join(b.istio, template), Mode: 0o644}, nil
}

// istioModule returns the directory of the pinned Istio in Go's module cache.
func (b *builder) istioModule(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-find", "-f", "{{.Module.Dir}}", "istio.io/istio/pilot/cmd/pilot-agent")
	cmd.Dir = b.source.pins()
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=readonly", "GOWORK=off")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("finding Istio's module: %w\n%s", err, lastLines(out))
	}
	return strings.TrimSpace(string(out)), nil
}

// fingerprint changes when the image would: it covers the spec, and size and
// modification time of the files that it takes.
func fingerprint(s image.Spec) (string, error) {
	h := sha256.New()
	layers := s.Layers
	s.Layers = nil
	fmt.Fprintf(h, "%+v\n", s)
	for i, l := range layers {
		for _, name := range slices.Sorted(maps.Keys(l)) {
			f := l[name]
			fmt.Fprintf(h, "%d %q %+v\n", i, name, f)
			if f.Source == "" {
				continue
			}
			info, err := os.Stat(f.Source)
			if err != nil {
				return "", err
			}
			fmt.Fprintln(h, info.Size(), info.ModTime().UnixNano())
		}
	}
	return fmt.Sprintf("%x\n", h.Sum(nil)), nil
}
