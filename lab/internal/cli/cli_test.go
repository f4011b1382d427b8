package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/isthmus-mesh/isthmus/lab/internal/build"
)

func TestEnvSurvivesTheShell(t *testing.T) {
	const bin = "/a dir/with 'quotes', \"more\", $HOME, `id` and \\"
	var out bytes.Buffer
	if err := printEnv(&out, build.Parts{Bin: bin}); err != nil {
		t.Fatal(err)
	}
	sh := exec.Command("sh", "-c", `eval "$1"; printf '%s\n' "$KUBEBUILDER_ASSETS" "$PATH"`, "sh", out.String())
	sh.Env = []string{"PATH=/usr/bin:/bin"}
	got, err := sh.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if want := bin + "\n" + filepath.Dir(exe) + ":" + bin + ":/usr/bin:/bin\n"; string(got) != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestBinaryImage(t *testing.T) {
	s := binaryImage("lab.local/hub:dev", "/some/bin/isthmus-hub", nil)
	if f := s.Layers[0]["isthmus-hub"]; f.Source != "/some/bin/isthmus-hub" || f.Mode != 0o755 {
		t.Errorf("the program is %+v", f)
	}
	if len(s.Entrypoint) != 1 || s.Entrypoint[0] != "/isthmus-hub" {
		t.Errorf("the entry point is %q", s.Entrypoint)
	}
	if s := binaryImage("r:1", "hub", []string{"/hub", "-v"}); len(s.Entrypoint) != 2 {
		t.Errorf("the entry point is %q although another was given", s.Entrypoint)
	}
}
