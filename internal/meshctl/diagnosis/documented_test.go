package diagnosis

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestCodesAreDocumented: people search for a code, and find it in docs/check.md.
func TestCodesAreDocumented(t *testing.T) {
	codes := func(pattern string) []string {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		var found []string
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(file, "_test.go") {
				found = append(found, regexp.MustCompile(`ISTH\d{4}`).FindAllString(string(text), -1)...)
			}
		}
		slices.Sort(found)
		return slices.Compact(found)
	}
	used, documented := codes("*.go"), codes("../../../docs/check.md")
	if len(used) == 0 || !slices.Equal(used, documented) {
		t.Errorf("used:       %v\ndocumented: %v", used, documented)
	}
}
