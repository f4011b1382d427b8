package labs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const lockFile = "lock"

// errLocked says that another process is at work.
var errLocked = errors.New("another lab command is at work on it: wait for that, or stop it")

// lock locks a directory for this process. If wait is false it fails with errLocked where it would have to wait.
func lock(dir string, wait bool) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	command := unix.F_OFD_SETLK
	if wait {
		command = unix.F_OFD_SETLKW
	}
	if err := control(f, command, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}); err != nil {
		f.Close()
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			err = errLocked
		}
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

// locked says whether a process has the lock of a directory. It takes none itself, so that looking disturbs nobody.
func locked(dir string) (bool, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	err = control(f, unix.F_OFD_GETLK, &l)
	return l.Type != unix.F_UNLCK, err
}

func control(f *os.File, command int, l *unix.Flock_t) error {
	for {
		if err := unix.FcntlFlock(f.Fd(), command, l); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
