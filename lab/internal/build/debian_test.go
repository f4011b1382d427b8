package build

import (
	"slices"
	"testing"
)

func TestMissingPackages(t *testing.T) {
	there := func(commands ...string) func(string) bool {
		return func(c string) bool { return !slices.Contains(commands, c) }
	}
	for _, test := range []struct {
		name   string
		absent []string
		want   []string
	}{
		{"nothing", nil, nil},
		{"a command that is not named as its package", []string{"nft", "ip"}, []string{"iproute2", "nftables"}},
		{"pip", []string{"pip3"}, []string{"python3-pip"}},
	} {
		if got := missingPackages(there(test.absent...)); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}
