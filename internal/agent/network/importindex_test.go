package network

import (
	"fmt"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

func importKey(cluster string, i int) types.NamespacedName {
	return types.NamespacedName{Namespace: "isthmus-" + cluster, Name: fmt.Sprintf("s%d.shop", i)}
}

func TestShares(t *testing.T) {
	const limit = 3
	x := newImportIndex()
	host := func(cluster string, i int) string { return fmt.Sprintf("s%d.shop.svc.%s.global", i, cluster) }
	admit := func(cluster string, i, size int) string {
		return x.admit(importKey(cluster, i), host(cluster, i), size, limit)
	}
	for i := range limit {
		if reason := admit("west", i, 100); reason != "" {
			t.Fatal(reason)
		}
	}
	if reason := admit("west", 3, 100); reason != ReasonTooManyImports || !x.full(importKey("west", 4), limit) || x.full(importKey("west", 0), limit) {
		t.Errorf("the fourth: %s", reason)
	}
	if reason := admit("north", 0, 100); reason != "" {
		t.Errorf("that of another: %s", reason)
	}
	// What is there may grow within the share of its cluster, and always shrink.
	for _, grow := range []struct {
		size int
		want string
	}{{limit*averageSize - 200, ""}, {limit * averageSize, ReasonImportsTooLarge}, {50, ""}, {1 << 40, ReasonImportsTooLarge}} {
		if reason := admit("west", 0, grow.size); reason != grow.want {
			t.Errorf("%d bytes: %s, want %s", grow.size, reason, grow.want)
		}
	}
	if reason := admit("north", 1, limit*averageSize+1); reason != ReasonImportsTooLarge {
		t.Errorf("a large one: %s", reason)
	}
	// Whoever waits gets the room that is given up, and nobody as long as there is none.
	if next := x.next("isthmus-west", limit); len(next) != 0 {
		t.Errorf("there is no room, and next is %v", next)
	}
	if !x.drop(importKey("west", 1).String(), host("west", 1)) || x.drop(importKey("west", 1).String(), host("west", 1)) {
		t.Error("dropped not once")
	}
	// What waits to grow beyond the share takes no turn from it.
	next := x.next("isthmus-west", limit)
	if len(next) != 1 || next[0].Name != "s3.shop" && next[0].Name != "s4.shop" {
		t.Fatalf("next is %v", next)
	}
	x.come(next[0].NamespacedName)
	if reason := x.admit(next[0].NamespacedName, "new.shop.svc.west.global", 1, limit); reason != "" {
		t.Error(reason)
	}
	x.also(next[0].String(), "new.shop.west")
	if got := x.ofHosts([]string{"new.shop.west"}); !slices.Equal(got, next) {
		t.Errorf("of the short hostname: %v", got)
	}
	if got := x.remove(next[0].String()); !slices.Equal(got, []string{"new.shop.west", "new.shop.svc.west.global"}) || x.remove(next[0].String()) != nil ||
		x.ofHosts([]string{"new.shop.west"}) != nil {
		t.Error("removed not once")
	}
	// Bytes that are given up are a turn for what waits to grow.
	if admit("east", 0, 100) != "" || admit("east", 1, 100) != "" || admit("east", 0, limit*averageSize-50) != ReasonImportsTooLarge || len(x.next("isthmus-east", limit)) != 0 {
		t.Error("it does not wait to grow")
	}
	x.drop(importKey("east", 1).String(), host("east", 1))
	if next := x.next("isthmus-east", limit); len(next) != 1 || next[0].NamespacedName != importKey("east", 0) {
		t.Errorf("next to grow is %v", next)
	}
	admit("east", 0, limit*averageSize)
	if admit("east", 2, 100) != ReasonImportsTooLarge || admit("east", 0, 50) != "" {
		t.Error("a small one is let in where there is no room")
	}
	if next := x.next("isthmus-east", limit); len(next) != 1 || next[0].NamespacedName != importKey("east", 2) {
		t.Errorf("next, where another has become smaller, is %v", next)
	}
}

// TestSharesAddUp: whatever comes and goes, what is counted is what is there.
func TestSharesAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 5
		x := newImportIndex()
		type imported struct {
			host string
			size int
		}
		have := map[types.NamespacedName]imported{}
		short := map[types.NamespacedName]bool{}
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			key := importKey(rapid.SampledFrom([]string{"west", "north"}).Draw(t, "cluster"), rapid.IntRange(0, 9).Draw(t, "service"))
			host := key.Name + "." + key.Namespace + "." + rapid.SampledFrom([]string{"global", "example"}).Draw(t, "suffix")
			was, there := have[key]
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				size := rapid.IntRange(0, 3*averageSize).Draw(t, "size")
				if x.admit(key, host, size, limit) == "" {
					if there && was.host != host {
						x.drop(key.String(), was.host)
					}
					have[key] = imported{host, size}
				}
			case 1:
				if x.drop(key.String(), host) != (there && was.host == host) {
					t.Fatalf("drop of %s %s, which is %v", key, host, was)
				}
				if there && was.host == host {
					delete(have, key)
				}
			case 2:
				var want []string
				if short[key] {
					want = append(want, key.String())
				}
				if there {
					want = append(want, was.host)
				}
				if got := x.remove(key.String()); !slices.Equal(got, want) {
					t.Fatalf("removed %q, want %q", got, want)
				}
				delete(have, key)
				delete(short, key)
			case 3:
				x.full(key, limit)
				x.come(key)
			case 4:
				x.also(key.String(), key.String())
				short[key] = true
			case 5:
				if x.drop(key.String(), key.String()) != short[key] {
					t.Fatalf("drop of the short hostname of %s", key)
				}
				delete(short, key)
			}
		}
		count, size := map[string]int{}, map[string]int{}
		for key, i := range have {
			count[key.Namespace]++
			size[key.Namespace] += i.size
		}
		for namespace, home := range x.byHome {
			if home.count != count[namespace] || home.size != size[namespace] || home.count > limit || home.size > limit*averageSize {
				t.Fatalf("%s: %+v, want %d and %d", namespace, home, count[namespace], size[namespace])
			}
		}
		if x.len() != len(have) || len(x.keys()) != len(have) {
			t.Fatalf("%d imports, want %d", x.len(), len(have))
		}
	})
}
