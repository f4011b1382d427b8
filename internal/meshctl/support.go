package meshctl

import (
	"fmt"

	utilversion "k8s.io/apimachinery/pkg/util/version"
)

// versions is a range of minor versions.
type versions struct{ oldest, newest *utilversion.Version }

// What this version of Isthmus was made for. On Kubernetes before the oldest it cannot work: it rests on
// ValidatingAdmissionPolicy v1.
var (
	supportedKubernetes = versions{utilversion.MustParseGeneric("1.30.0"), utilversion.MustParseGeneric("1.37.0")}
	supportedIstio      = versions{utilversion.MustParseGeneric("1.24.0"), utilversion.MustParseGeneric("1.31.0")}
)

// check returns an error if a version is not in the range, whatever its patch level.
func (v versions) check(s string) error {
	parsed, err := utilversion.ParseGeneric(s)
	if err != nil {
		return fmt.Errorf("version %q is not known", s)
	}
	minor := utilversion.MajorMinor(parsed.Major(), parsed.Minor())
	if minor.LessThan(v.oldest) || minor.GreaterThan(v.newest) {
		return fmt.Errorf("%s is not supported: supported is %s", s, v)
	}
	return nil
}

func (v versions) String() string {
	return fmt.Sprintf("%d.%d to %d.%d", v.oldest.Major(), v.oldest.Minor(), v.newest.Major(), v.newest.Minor())
}
