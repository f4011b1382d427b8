package build

import (
	"bytes"
	"errors"
	"io"
	"os"
	"time"
)

// installFile copies an executable.
func installFile(src, dst string) error {
	f, err := os.Open(src)
	if err != nil {
		return err
	}
	defer f.Close()
	return install(dst, f)
}

// install writes an executable that appears complete or not at all.
func install(dst string, content io.Reader) error {
	f, err := os.OpenFile(dst+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := io.Copy(f, content); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), dst)
}

// newest returns which of the files was modified last; "" if there is none.
func newest(files []string) string {
	var file string
	var at time.Time
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && info.ModTime().After(at) {
			file, at = f, info.ModTime()
		}
	}
	return file
}

// sameContent compares two files; one that does not exist is like no other.
func sameContent(a, b string) (bool, error) {
	x, err := os.ReadFile(a)
	if err != nil {
		return false, err
	}
	y, err := os.ReadFile(b)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return bytes.Equal(x, y), err
}
