package meshctl

import utilversion "k8s.io/apimachinery/pkg/util/version"

// versions is a range of minor versions.
type versions struct{ oldest, newest *utilversion.Version }

// What this version of Isthmus was made for. Older than the oldest Kubernetes it cannot work: it rests on
// ValidatingAdmissionPolicy v1.
var (
	supportedKubernetes = versions{utilversion.MustParseGeneric("1.30.0"), utilversion.MustParseGeneric("1.37.0")}
	supportedIstio      = versions{utilversion.MustParseGeneric("1.24.0"), utilversion.MustParseGeneric("1.31.0")}
)

// contain reports whether a version is in the range, whatever its patch level; false if it is none.
func (v versions) contain(s string) bool {
	parsed, err := utilversion.ParseGeneric(s)
	if err != nil {
		return false
	}
	minor := utilversion.MajorMinor(parsed.Major(), parsed.Minor())
	return minor.AtLeast(v.oldest) && !minor.GreaterThan(v.newest)
}

func (v versions) String() string {
	return utilversion.MajorMinor(v.oldest.Major(), v.oldest.Minor()).String() + " to " + utilversion.MajorMinor(v.newest.Major(), v.newest.Minor()).String()
}
