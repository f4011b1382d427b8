package build

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/lab/internal/image"
)

// A userland is a layer of programs of the machine with the shared libraries
// that they need and nothing else, in Debian's merged layout (/bin is /usr/bin).
type userland struct {
	layer image.Layer
	err   error
}

func newUserland() *userland {
	u := &userland{layer: image.Layer{
		"tmp":        {Dir: true, Mode: 0o777 | os.ModeSticky},
		"run":        {Dir: true},
		"var/run":    {Link: "/run"},
		"etc/passwd": {Content: []byte("root:x:0:0:root:/root:/bin/sh\nistio-proxy:x:1337:1337::/:/bin/sh\n")},
		"etc/group":  {Content: []byte("root:x:0:\nistio-proxy:x:1337:\n")},
	}}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		u.layer[dir] = image.File{Link: "usr/" + dir}
		u.layer["usr/"+dir] = image.File{Dir: true}
	}
	return u
}

// program adds a program by the name of its command at usr/DIR/NAME, and links
// to it beside it.
func (u *userland) program(dir, name string, links ...string) {
	file, ok := lookPath(name)
	if !ok {
		u.fail(fmt.Errorf("%s is not installed", name))
		return
	}
	u.layer[path.Join("usr", dir, name)] = image.File{Source: file, Mode: 0o755}
	for _, link := range links {
		if at := path.Join("usr", dir, link); u.layer[at].Source == "" {
			u.layer[at] = image.File{Link: name}
		}
	}
	u.libraries(file)
}

// file adds a file of the machine at the same place.
func (u *userland) file(name string) {
	if _, err := os.Stat(name); err != nil {
		u.fail(err)
		return
	}
	u.layer[strings.TrimPrefix(name, "/")] = image.File{Source: name}
}

// libraries adds what an ELF file is linked with, and what that is linked with.
func (u *userland) libraries(file string) {
	needed, interpreter, err := linkedWith(file)
	if err != nil {
		u.fail(err)
		return
	}
	if interpreter != "" {
		u.layer[inUsr(interpreter)] = image.File{Source: interpreter, Mode: 0o755}
	}
	for _, lib := range needed {
		found, err := findLibrary(lib)
		if err != nil {
			u.fail(fmt.Errorf("%s: %w", file, err))
			continue
		}
		at := inUsr(found)
		if _, ok := u.layer[at]; !ok {
			u.layer[at] = image.File{Source: found, Mode: 0o644}
			u.libraries(found)
		}
	}
}

// plugins adds shared objects that a program loads by itself.
func (u *userland) plugins(pattern string) {
	files, err := filepath.Glob(pattern)
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("no file matches %s", pattern)
	}
	u.fail(err)
	for _, f := range files {
		if _, err := filepath.EvalSymlinks(f); err != nil {
			continue // an extension whose package is not installed
		}
		u.layer[inUsr(f)] = image.File{Source: f, Mode: 0o644}
		u.libraries(f)
	}
}

func (u *userland) fail(err error) { u.err = errors.Join(u.err, err) }

// linkedWith reads the names of the shared libraries and of the dynamic linker
// from an ELF file. A static program has neither.
func linkedWith(file string) (libraries []string, interpreter string, err error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", file, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		name := make([]byte, p.Filesz)
		if _, err := p.ReadAt(name, 0); err != nil {
			return nil, "", fmt.Errorf("%s: %w", file, err)
		}
		interpreter = strings.TrimRight(string(name), "\x00")
	}
	if f.Section(".dynamic") == nil {
		return nil, interpreter, nil
	}
	libraries, err = f.ImportedLibraries()
	return libraries, interpreter, err
}

func findLibrary(name string) (string, error) {
	for _, dir := range []string{"/usr/lib/" + triplet(), "/lib/" + triplet(), "/usr/lib64", "/lib64", "/usr/lib", "/lib"} {
		if file := filepath.Join(dir, name); isFile(file) {
			return file, nil
		}
	}
	return "", fmt.Errorf("library %s not found", name)
}

func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

// inUsr returns the place in an image of a file of the machine: below usr.
func inUsr(name string) string {
	name = strings.TrimPrefix(name, "/")
	if strings.HasPrefix(name, "usr/") {
		return name
	}
	return "usr/" + name
}

// applets returns the commands that the machine's busybox knows.
func applets() ([]string, error) {
	out, err := exec.Command("busybox", "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox --list: %w", err)
	}
	names := strings.Fields(string(out))
	return slices.DeleteFunc(names, func(n string) bool { return n == "busybox" }), nil
}
