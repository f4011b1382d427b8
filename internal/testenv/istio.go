package testenv

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// IstioCRDs is a directory with the CustomResourceDefinitions of Istio, of the version that go.mod names, to be given to Start.
func IstioCRDs(t testing.TB) string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "istio.io/api")
	list.Dir = Root()
	dir, err := list.Output()
	if err != nil {
		t.Fatalf("where is istio.io/api? %v", err)
	}
	return filepath.Join(strings.TrimSpace(string(dir)), "kubernetes")
}
