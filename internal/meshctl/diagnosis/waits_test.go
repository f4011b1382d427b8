package diagnosis

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// waits are the texts by which a rotation says what it waits for, as they are written in its package.
func waits(t *testing.T) (texts []string) {
	t.Helper()
	for _, file := range []string{"steering.go", "proof.go"} {
		source, err := os.ReadFile(filepath.Join("..", "..", "rotation", file))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?:find\(m, Reason|findAll\(Reason|lack\((?:v1alpha1\.)?Reason)\w+, "([^"]+)"|Message: "([^"]+)"`).FindAllStringSubmatch(string(source), -1) {
			texts = append(texts, m[1]+m[2])
		}
	}
	if len(texts) < 10 {
		t.Fatalf("only %d waits were found: %q", len(texts), texts)
	}
	return texts
}

// TestWaitsAreInTheRunbook: whoever looks for what the status says finds it, and what helps.
func TestWaitsAreInTheRunbook(t *testing.T) {
	runbook, err := os.ReadFile("../../../docs/operations/rotation.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range waits(t) {
		begins := strings.TrimSpace(regexp.MustCompile(`[%;:,]`).Split(text, 2)[0])
		if !strings.Contains(string(runbook), begins) {
			t.Errorf("docs/operations/rotation.md does not explain %q", text)
		}
	}
}

// TestAwaitsWord: exactly those waits are for a person's word that say what to write.
func TestAwaitsWord(t *testing.T) {
	const id = "r-1"
	found := 0
	for _, text := range waits(t) {
		r := &v1alpha1.RotationStatus{RotationID: id, Step: v1alpha1.StepVerifying, Waits: []string{strings.Replace(text, "%s", id, 1)}}
		want := strings.Contains(text, "whether to CONTINUE")
		if got := AwaitsWord(r); got != want {
			t.Errorf("%q: awaits a word is %v", text, got)
		}
		if want {
			found++
		}
	}
	if found == 0 {
		t.Error("no wait is for a word")
	}
}
