// Package image writes container images as archives that "ctr images import"
// and "docker load" read, straight from files, without Docker and without a
// registry.
//
// The format is Docker's image archive (manifest.json, a configuration in the
// form of the OCI image specification, one uncompressed tar per layer). The
// same Spec over the same files gives the same bytes: entries are sorted and
// carry neither the time nor the owner of their source.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Spec says what an image consists of.
type Spec struct {
	// Ref is the name by which the image is found after import, with its tag,
	// such as "lab.local/pause:1".
	Ref string
	// Layers are stacked in this order. What changes often belongs last.
	Layers []Layer

	Entrypoint []string
	Cmd        []string
	// Env holds KEY=VALUE pairs. PATH is set to the usual directories unless
	// it is among them.
	Env []string
	// User is a numeric "uid[:gid]"; empty means root.
	User    string
	WorkDir string
}

// Layer is a set of files by their path in the image ("usr/bin/x", without a
// leading slash). Parent directories that it does not name are made, mode 0755,
// owned by root.
type Layer map[string]File

// File is one entry of a layer. Exactly one of Source, Content, Link and Dir
// decides what sort of entry it is; none of them means an empty file.
type File struct {
	Source  string // a regular file of the host whose content is taken; links are followed
	Content []byte
	Link    string // the target of a symbolic link
	Dir     bool
	// Mode holds permission bits, and os.ModeSticky and its like; 0 means
	// 0755 for a directory or an executable Source, 0644 for the rest.
	Mode     fs.FileMode
	UID, GID int
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Write writes the image to the file name, which appears complete or not at
// all. The reference is written beside it, to name + ".ref".
func Write(name string, s Spec) error {
	if err := s.check(); err != nil {
		return fmt.Errorf("image %s: %w", s.Ref, err)
	}
	if err := s.write(name); err != nil {
		return fmt.Errorf("image %s: %w", s.Ref, err)
	}
	return replace(name+".ref", func(w io.Writer) error {
		_, err := io.WriteString(w, s.Ref+"\n")
		return err
	})
}

func (s Spec) check() error {
	repository, tag, ok := strings.Cut(path.Base(s.Ref), ":")
	if !ok || repository == "" || tag == "" {
		return errors.New("ref must have the form NAME:TAG")
	}
	if len(s.Layers) == 0 {
		return errors.New("layers must not be empty")
	}
	for _, l := range s.Layers {
		for name := range l {
			if !fs.ValidPath(name) || name == "." {
				return fmt.Errorf("layers: %q must be a clean path without a leading slash", name)
			}
		}
	}
	return nil
}

// write lays the layers out in temporary files first, since the configuration
// holds their digests.
func (s Spec) write(name string) error {
	dir, err := os.MkdirTemp(filepath.Dir(name), ".image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	var layers []blob
	for i, l := range s.Layers {
		b, err := writeLayer(filepath.Join(dir, fmt.Sprint(i)), l)
		if err != nil {
			return err
		}
		layers = append(layers, b)
	}
	config, err := s.config(layers)
	if err != nil {
		return err
	}
	configName := fmt.Sprintf("%x.json", sha256.Sum256(config))
	manifest, err := json.Marshal([]manifestEntry{{
		Config:   configName,
		RepoTags: []string{s.Ref},
		Layers:   names(layers),
	}})
	if err != nil {
		return err
	}
	return replace(name, func(w io.Writer) error {
		archive := tar.NewWriter(w)
		if err := addBytes(archive, "manifest.json", manifest); err != nil {
			return err
		}
		if err := addBytes(archive, configName, config); err != nil {
			return err
		}
		written := map[string]bool{}
		for _, l := range layers {
			if written[l.digest] {
				continue
			}
			written[l.digest] = true
			h := header(l.name(), tar.TypeReg, 0o644)
			if err := addFile(archive, h, l.file); err != nil {
				return err
			}
		}
		return archive.Close()
	})
}

// manifestEntry is an element of Docker's manifest.json.
type manifestEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// config returns the image's configuration as the OCI image specification
// defines it (application/vnd.oci.image.config.v1+json).
func (s Spec) config(layers []blob) ([]byte, error) {
	env := s.Env
	if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		env = append([]string{defaultPath}, env...)
	}
	type run struct {
		Entrypoint []string `json:",omitempty"`
		Cmd        []string `json:",omitempty"`
		Env        []string
		User       string `json:",omitempty"`
		WorkingDir string `json:",omitempty"`
	}
	type rootfs struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}
	c := struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
		Created      string `json:"created"`
		Config       run    `json:"config"`
		RootFS       rootfs `json:"rootfs"`
	}{
		Architecture: runtime.GOARCH,
		OS:           "linux",
		Created:      "1970-01-01T00:00:00Z",
		Config:       run{s.Entrypoint, s.Cmd, env, s.User, s.WorkDir},
		RootFS:       rootfs{Type: "layers"},
	}
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, "sha256:"+l.digest)
	}
	return json.Marshal(c)
}

// blob is a layer's tar, named by the SHA-256 of its bytes.
type blob struct{ file, digest string }

func (b blob) name() string { return b.digest + "/layer.tar" }

func names(layers []blob) []string {
	var n []string
	for _, l := range layers {
		n = append(n, l.name())
	}
	return n
}

func writeLayer(file string, l Layer) (blob, error) {
	f, err := os.Create(file)
	if err != nil {
		return blob{}, err
	}
	defer f.Close()
	digest := sha256.New()
	w := tar.NewWriter(io.MultiWriter(f, digest))
	for _, name := range l.sorted() {
		entry, named := l[name]
		if !named {
			entry = File{Dir: true}
		}
		if err := entry.add(w, name); err != nil {
			return blob{}, fmt.Errorf("layers: %s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return blob{}, err
	}
	return blob{file, hex.EncodeToString(digest.Sum(nil))}, f.Close()
}

// sorted returns the paths of the layer's entries and of their parents, parents
// first.
func (l Layer) sorted() []string {
	all := map[string]bool{}
	for name := range l {
		for ; name != "."; name = path.Dir(name) {
			all[name] = true
		}
	}
	paths := make([]string, 0, len(all))
	for name := range all {
		paths = append(paths, name)
	}
	slices.SortFunc(paths, func(a, b string) int {
		return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
	})
	return paths
}

func (f File) add(w *tar.Writer, name string) error {
	h := header(name, tar.TypeReg, 0o644)
	h.Uid, h.Gid = f.UID, f.GID
	switch {
	case f.Dir:
		h.Typeflag, h.Name, h.Mode = tar.TypeDir, name+"/", 0o755
	case f.Link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Link, 0o777
	}
	if f.Mode != 0 {
		h.Mode = unixMode(f.Mode)
	}
	if f.Source == "" {
		h.Size = int64(len(f.Content))
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err := w.Write(f.Content)
		return err
	}
	info, err := os.Stat(f.Source)
	if err != nil {
		return err
	}
	if f.Mode == 0 && info.Mode()&0o100 != 0 {
		h.Mode = 0o755
	}
	return addFile(w, h, f.Source)
}

func header(name string, kind byte, mode int64) *tar.Header {
	return &tar.Header{Name: name, Typeflag: kind, Mode: mode, Format: tar.FormatPAX}
}

func addBytes(w *tar.Writer, name string, b []byte) error {
	h := header(name, tar.TypeReg, 0o644)
	h.Size = int64(len(b))
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(w, bytes.NewReader(b))
	return err
}

// addFile appends the content of source under h, whose size it fills in.
func addFile(w *tar.Writer, h *tar.Header, source string) error {
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", source)
	}
	h.Size = info.Size()
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

// unixMode turns Go's mode bits into those of a tar header.
func unixMode(m fs.FileMode) int64 {
	mode := int64(m.Perm())
	for bit, value := range map[fs.FileMode]int64{
		fs.ModeSetuid: 0o4000,
		fs.ModeSetgid: 0o2000,
		fs.ModeSticky: 0o1000,
	} {
		if m&bit != 0 {
			mode |= value
		}
	}
	return mode
}

// replace writes the file name by way of a temporary one beside it.
func replace(name string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".image-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
