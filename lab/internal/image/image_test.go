package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// entry is what a test wants to know of a tar entry.
type entry struct {
	kind    byte
	mode    int64
	link    string
	content string
	uid     int
	time    time.Time
}

func readTar(t *testing.T, r io.Reader) (order []string, entries map[string]entry) {
	t.Helper()
	entries = map[string]entry{}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return order, entries
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := entries[h.Name]; twice {
			t.Errorf("entry %s is there twice", h.Name)
		}
		order = append(order, h.Name)
		entries[h.Name] = entry{h.Typeflag, h.Mode, h.Linkname, string(content), h.Uid, h.ModTime}
	}
}

func example(t *testing.T) Spec {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("\x7fELF"), 0o755); err != nil {
		t.Fatal(err)
	}
	return Spec{
		Ref: "lab.local/example:1",
		Layers: []Layer{
			{
				"tmp":             {Dir: true, Mode: 0o777 | os.ModeSticky},
				"bin":             {Link: "usr/bin"},
				"usr/bin/program": {Source: program},
				"usr/binary":      {Content: []byte("x")},
			},
			{"etc/motd": {Content: []byte("hello\n"), UID: 1337, GID: 1337, Mode: 0o640}},
		},
		Entrypoint: []string{"/usr/bin/program"},
		Env:        []string{"A=B"},
		User:       "1337:1337",
	}
}

func write(t *testing.T, s Spec) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "image.tar")
	if err := Write(name, s); err != nil {
		t.Fatal(err)
	}
	archive, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

func TestWrite(t *testing.T) {
	archive := write(t, example(t))
	_, files := readTar(t, bytes.NewReader(archive))

	var manifest []manifestEntry
	if err := json.Unmarshal([]byte(files["manifest.json"].content), &manifest); err != nil {
		t.Fatal(err)
	}
	if len(manifest) != 1 || !slices.Equal(manifest[0].RepoTags, []string{"lab.local/example:1"}) || len(manifest[0].Layers) != 2 {
		t.Fatalf("manifest: %+v", manifest)
	}
	config := files[manifest[0].Config].content
	if name := fmt.Sprintf("%x.json", sha256.Sum256([]byte(config))); name != manifest[0].Config {
		t.Errorf("configuration is named %s, its digest is %s", manifest[0].Config, name)
	}
	var c struct {
		Architecture, OS string
		Config           struct {
			Entrypoint, Env []string
			User            string
		}
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		t.Fatal(err)
	}
	if c.OS != "linux" || c.Architecture == "" || c.Config.User != "1337:1337" ||
		!slices.Equal(c.Config.Entrypoint, []string{"/usr/bin/program"}) ||
		!slices.Equal(c.Config.Env, []string{defaultPath, "A=B"}) {
		t.Errorf("configuration: %s", config)
	}
	for i, layer := range manifest[0].Layers {
		if id := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(files[layer].content))); c.RootFS.DiffIDs[i] != id {
			t.Errorf("layer %d has diff id %s, its content is %s", i, c.RootFS.DiffIDs[i], id)
		}
	}

	order, first := readTar(t, strings.NewReader(files[manifest[0].Layers[0]].content))
	if want := []string{"bin", "tmp/", "usr/", "usr/bin/", "usr/bin/program", "usr/binary"}; !slices.Equal(order, want) {
		t.Errorf("first layer has %q, want %q", order, want)
	}
	epoch := time.Unix(0, 0)
	for name, want := range map[string]entry{
		"bin":             {kind: tar.TypeSymlink, mode: 0o777, link: "usr/bin"},
		"tmp/":            {kind: tar.TypeDir, mode: 0o1777},
		"usr/bin/":        {kind: tar.TypeDir, mode: 0o755},
		"usr/bin/program": {kind: tar.TypeReg, mode: 0o755, content: "\x7fELF"},
		"usr/binary":      {kind: tar.TypeReg, mode: 0o644, content: "x"},
	} {
		want.time = epoch
		if got := first[name]; got != want {
			t.Errorf("%s is %+v, want %+v", name, got, want)
		}
	}
	_, second := readTar(t, strings.NewReader(files[manifest[0].Layers[1]].content))
	want := entry{kind: tar.TypeReg, mode: 0o640, content: "hello\n", uid: 1337, time: epoch}
	if got := second["etc/motd"]; got != want {
		t.Errorf("etc/motd is %+v, want %+v", got, want)
	}
}

func TestWriteIsReproducible(t *testing.T) {
	s := example(t)
	first := write(t, s)
	source := s.Layers[0]["usr/bin/program"].Source
	if err := os.Chtimes(source, time.Now(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if second := write(t, s); !bytes.Equal(first, second) {
		t.Error("the same files at another time gave another image")
	}
	if err := os.WriteFile(source, []byte("\x7fELG"), 0o755); err != nil {
		t.Fatal(err)
	}
	if third := write(t, s); bytes.Equal(first, third) {
		t.Error("other content gave the same image")
	}
}

func TestWriteSharesEqualLayers(t *testing.T) {
	same := Layer{"a": {Content: []byte("a")}}
	archive := write(t, Spec{Ref: "x:1", Layers: []Layer{same, {"b": {}}, same}})
	order, _ := readTar(t, bytes.NewReader(archive))
	if len(order) != 4 { // manifest, configuration, two layers
		t.Errorf("archive has %q", order)
	}
}

func TestWriteLeavesReference(t *testing.T) {
	name := filepath.Join(t.TempDir(), "image.tar")
	if err := Write(name, Spec{Ref: "x:1", Layers: []Layer{{"a": {}}}}); err != nil {
		t.Fatal(err)
	}
	ref, err := os.ReadFile(name + ".ref")
	if err != nil || string(ref) != "x:1\n" {
		t.Errorf("reference %q, %v", ref, err)
	}
}

func TestWriteErrors(t *testing.T) {
	layers := []Layer{{"a": {}}}
	for _, test := range []struct {
		name string
		spec Spec
		want string
	}{
		{"no tag", Spec{Ref: "lab.local/x", Layers: layers}, "NAME:TAG"},
		{"port is no tag", Spec{Ref: "localhost:5000/x", Layers: layers}, "NAME:TAG"},
		{"no layers", Spec{Ref: "x:1"}, "layers must not be empty"},
		{"absolute path", Spec{Ref: "x:1", Layers: []Layer{{"/a": {}}}}, `"/a"`},
		{"path upwards", Spec{Ref: "x:1", Layers: []Layer{{"../a": {}}}}, `"../a"`},
		{"no source", Spec{Ref: "x:1", Layers: []Layer{{"a": {Source: "/does/not/exist"}}}}, "/does/not/exist"},
		{"source is a directory", Spec{Ref: "x:1", Layers: []Layer{{"a": {Source: "/"}}}}, "not a regular file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			err := Write(filepath.Join(dir, "image.tar"), test.spec)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
			left, err := os.ReadDir(dir)
			if err != nil || len(left) != 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}
