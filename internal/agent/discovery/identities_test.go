package discovery

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/internal/istio"
)

func TestRetain(t *testing.T) {
	now := time.Unix(1000, 0)
	ago := func(s int) time.Time { return now.Add(-time.Duration(s) * time.Second) }
	many := make([]string, istio.MaxIdentities)
	for i := range many {
		many[i] = fmt.Sprintf("m%02d", i)
	}
	type since = map[string]time.Time
	for _, tc := range []struct {
		name               string
		since              since
		published, present []string
		want               []string
		missing            since
		again              time.Duration
	}{
		{"nothing is gone", nil, []string{"a"}, []string{"a", "b"}, []string{"a", "b"}, nil, 0},
		{"just gone", nil, []string{"a", "b"}, []string{"b"}, []string{"a", "b"}, since{"a": now}, time.Minute},
		{"gone for a while", since{"a": ago(20)}, []string{"a", "b"}, []string{"b"}, []string{"a", "b"}, since{"a": ago(20)}, 40 * time.Second},
		{"two, the first due tells when", since{"a": ago(20)}, []string{"a", "b", "c"}, []string{"c"}, []string{"a", "b", "c"},
			since{"a": ago(20), "b": now}, 40 * time.Second},
		{"due", since{"a": ago(60)}, []string{"a", "b"}, []string{"b"}, []string{"b"}, since{"a": ago(60)}, 0},
		{"removed, and the cache shows it no more", since{"a": ago(60)}, []string{"b"}, []string{"b"}, []string{"b"}, nil, 0},
		{"back in time", since{"a": ago(59)}, []string{"a", "b"}, []string{"a", "b"}, []string{"a", "b"}, nil, 0},
		{"what is present has the room", nil, []string{"a"}, many, many, since{"a": now}, 0},
	} {
		got, missing, again := retain(tc.since, tc.published, tc.present, now, time.Minute)
		if !slices.Equal(got, tc.want) || !maps.Equal(missing, tc.missing) || again != tc.again {
			t.Errorf("%s: %v, %v, %v", tc.name, got, missing, again)
		}
	}
}

// TestRetainNeverForgetsTooEarly: whatever comes and goes, and whenever one looks, an identity is published as long as it is
// present and until the grace has passed since it was last seen to be, and not much longer.
func TestRetainNeverForgetsTooEarly(t *testing.T) {
	all := []string{"a", "b", "c", "d"}
	rapid.Check(t, func(t *rapid.T) {
		l := leaving{grace: time.Minute}
		now := time.Unix(0, 0)
		var published []string
		missed := map[string]time.Time{}
		for range rapid.IntRange(1, 40).Draw(t, "looks") {
			now = now.Add(time.Duration(rapid.IntRange(0, 50).Draw(t, "seconds")) * time.Second)
			present := slices.DeleteFunc(slices.Clone(all), func(string) bool { return rapid.Bool().Draw(t, "gone") })
			got, again := l.keep("d", published, present, now)
			leaving := 0
			for _, id := range all {
				is := slices.Contains(present, id)
				since, was := missed[id]
				switch {
				case is:
					delete(missed, id)
				case slices.Contains(published, id) && !was:
					missed[id], since, was = now, now, true
				}
				in := !is && was && now.Sub(since) < time.Minute
				if in {
					leaving++
				}
				if slices.Contains(got, id) != (is || in) {
					t.Fatalf("at %v: %v of present %v, published %v, missed %v", now, got, present, published, missed)
				}
				if !is && !in {
					delete(missed, id)
				}
			}
			if (again > 0) != (leaving > 0) || again > time.Minute {
				t.Fatalf("%d are leaving, look again after %v", leaving, again)
			}
			published = got
		}
		if l.forget("d"); len(l.since) > 0 {
			t.Fatalf("left over: %v", l.since)
		}
	})
}
