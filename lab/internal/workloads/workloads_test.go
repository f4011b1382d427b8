package workloads

import (
	"slices"
	"strings"
	"testing"
)

func TestClustersRunWhatTheGuideExpects(t *testing.T) {
	for first, want := range map[bool][]string{
		true:  {"details-v1", "productpage-v1", "ratings-v1", "reviews-v1", "reviews-v2"},
		false: {"ratings-v1", "reviews-v3"},
	} {
		var got []string
		for _, w := range of(first) {
			got = append(got, w.Deployment())
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("first cluster %v: got %q, want %q", first, got, want)
		}
	}
}

func TestServicesAreDeclaredOnce(t *testing.T) {
	m, err := manifests("a", of(true))
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for doc := range strings.SplitSeq(string(m), "\n---\n") {
		kind, name := field(doc, "kind: "), field(doc, "metadata: {name: ")
		count[kind+" "+strings.TrimRight(name, ",}")]++
	}
	for _, object := range []string{"Service reviews", "ServiceAccount bookinfo-reviews", "Deployment reviews-v1", "Deployment reviews-v2", "PeerAuthentication ratings"} {
		if count[object] != 1 {
			t.Errorf("%s is there %d times, among %v", object, count[object], count)
		}
	}
}

// field is the first word after a key of a manifest.
func field(doc, key string) string {
	_, rest, _ := strings.Cut(doc, key)
	word, _, _ := strings.Cut(rest, "\n")
	word, _, _ = strings.Cut(word, " ")
	return word
}
