package labs

import (
	"errors"
	"testing"
)

func TestLock(t *testing.T) {
	dir := t.TempDir()
	held := func() bool {
		t.Helper()
		is, err := locked(dir)
		if err != nil {
			t.Fatal(err)
		}
		return is
	}
	if held() {
		t.Error("locked before anybody has locked it")
	}
	unlock, err := lock(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if !held() {
		t.Error("not seen to be locked")
	}
	if _, err := lock(dir, false); !errors.Is(err, errLocked) {
		t.Errorf("locked twice: %v", err)
	}
	waited := make(chan error)
	go func() {
		again, err := lock(dir, true)
		if err == nil {
			again()
		}
		waited <- err
	}()
	unlock()
	if err := <-waited; err != nil {
		t.Error(err)
	}
	if held() {
		t.Error("locked after everybody has let go")
	}
}
