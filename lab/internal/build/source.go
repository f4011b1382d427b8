package build

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// source is the checkout's directory lab, a Go module with the module of the
// parts below it.
type source string

// findSource looks for the checkout upwards from the program's file (bin/lab)
// and from the working directory (go test, go run).
func findSource() (source, error) {
	var starts []string
	if exe, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(exe))
	}
	if wd, err := os.Getwd(); err == nil {
		starts = append(starts, wd)
	}
	for _, dir := range starts {
		for ; ; dir = filepath.Dir(dir) {
			lab := filepath.Join(dir, "lab")
			if _, err := os.Stat(filepath.Join(lab, "parts", "go.mod")); err == nil {
				return source(lab), nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", fmt.Errorf("lab/parts/go.mod not found above %s: run lab from its checkout", strings.Join(starts, " or "))
}

func (s source) pins() string { return filepath.Join(string(s), "parts") }

func (s source) parts() (Parts, error) {
	version, err := hash(os.DirFS(s.pins()), recipe())
	if err != nil {
		return Parts{}, fmt.Errorf("reading the pins: %w", err)
	}
	root, err := cacheRoot()
	if err != nil {
		return Parts{}, err
	}
	return at(filepath.Join(root, version)), nil
}

// cacheRoot is the directory below which every version has its own.
func cacheRoot() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no place for the built parts, set XDG_CACHE_HOME: %w", err)
	}
	return filepath.Join(cache, "isthmus-lab"), nil
}

// hash returns twelve hexadecimal digits that stand for the content of all pinned
// files (Go's and pip's, whatever else lies there) and for the words of the recipe.
func hash(files fs.FS, recipe []string) (string, error) {
	h := sha256.New()
	for _, word := range recipe {
		fmt.Fprintf(h, "%q\n", word)
	}
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !slices.Contains(pinned, path.Ext(name)) {
			return err
		}
		content, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %x\n", name, sha256.Sum256(content))
		return nil
	})
	return fmt.Sprintf("%x", h.Sum(nil))[:12], err
}

// pinned are the extensions of the files that hash reads.
var pinned = []string{".go", ".mod", ".sum", ".txt"}

// recipe is what decides, besides the pinned files, about what is built.
func recipe() []string {
	return slices.Concat([]string{runtime.GOOS, runtime.GOARCH, linkerFlags(), tags}, compilerFlags)
}
