package diagnosis

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// TestCodesAreDocumented: people search for a code, and find it in docs/check.md.
func TestCodesAreDocumented(t *testing.T) {
	codes := func(file string) []string {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(`ISTH\d{4}`).FindAllString(string(text), -1)
		slices.Sort(found)
		return slices.Compact(found)
	}
	used, documented := codes("diagnosis.go"), codes("../../../docs/check.md")
	if len(used) == 0 || !slices.Equal(used, documented) {
		t.Errorf("used:       %v\ndocumented: %v", used, documented)
	}
}
