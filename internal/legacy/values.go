package legacy

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// decimal is how JSON, YAML and text write the numbers that are read here.
var decimal = regexp.MustCompile(`^[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?$`)

// number reads a number, or text that is one.
func number(value any) (float64, error) {
	switch value.(type) {
	case string, int, int64, uint64, float64:
		if s := fmt.Sprint(value); decimal.MatchString(s) {
			return strconv.ParseFloat(s, 64)
		}
	}
	return 0, errors.New("must be a number")
}

// wholeNumber reads a number that a uint32 can hold.
func wholeNumber(value any) (uint32, error) {
	n, err := number(value)
	if err != nil || n != math.Trunc(n) || n < 0 || n > math.MaxUint32 {
		return 0, errors.New("must be a whole number")
	}
	return uint32(n), nil
}

// keySize is the size of an RSA key in bits; 0 if it is left out.
type keySize int32

func (k *keySize) parse(value any) error {
	n, err := wholeNumber(value)
	if err != nil {
		return err
	}
	if _, err := pki.KeyBits(int32(min(n, math.MaxInt32))); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "rsaKeySizeBytes: "))
	}
	*k = keySize(n)
	return nil
}

// ratio is a part of a lifetime as v1alpha1 writes it; "" if it is left out, which zero means too.
type ratio string

func (r *ratio) parse(value any) error {
	n, err := number(value)
	if err != nil || n < 0 || n >= 1 {
		return errors.New("must be a number above 0 and below 1, such as 0.10")
	}
	text := strconv.FormatFloat(n, 'f', -1, 64)
	if len(text) > 12 {
		return errors.New("has more than 10 decimal places: round it")
	}
	if n > 0 {
		*r = ratio(text)
	}
	return nil
}

// duration is a number of seconds, such as "75s".
type duration time.Duration

func (d *duration) parse(value any) error {
	text, _ := value.(string)
	parsed, err := time.ParseDuration(text)
	if err != nil || parsed < time.Second || parsed%time.Second != 0 {
		return errors.New("must be a duration of whole seconds, at least 1s, such as 75s")
	}
	*d = duration(parsed)
	return nil
}

// octets are written in base64, of whichever alphabet, with padding or without.
type octets []byte

func (o *octets) parse(value any) error {
	text, ok := value.(string)
	text = strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(text), "=")
	decoded, err := base64.RawStdEncoding.DecodeString(text)
	if !ok || err != nil {
		return errors.New("must be base64")
	}
	if len(decoded) > 48<<10 {
		return errors.New("is more than 48 KiB: leave certificates out that are not needed")
	}
	*o = decoded
	return nil
}

// label is a name of a namespace or cluster.
type label string

func (l *label) parse(value any) error {
	text, ok := value.(string)
	if n := utf8.RuneCountInString(text); !ok || n == 0 || n > 63 {
		return errors.New("must be a name of 1 to 63 characters")
	}
	*l = label(text)
	return nil
}

// suffix is the end of federated hostnames.
type suffix string

var suffixForm = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

func (s *suffix) parse(value any) error {
	text, ok := value.(string)
	if !ok || text != "" && (len(text) > 128 || !suffixForm.MatchString(text)) {
		return errors.New("must be a DNS name in lower case without leading or trailing dot, such as global")
	}
	*s = suffix(text)
	return nil
}

// address is a URL of a server.
type address string

func (a *address) parse(value any) error {
	text, ok := value.(string)
	if !ok || utf8.RuneCountInString(text) > 512 || !strings.HasPrefix(text, "https://") && !strings.HasPrefix(text, "http://") {
		return errors.New("must be a URL of at most 512 characters that begins with https:// or http://")
	}
	*a = address(text)
	return nil
}

// oneOf reads an enum: the name of one of its values, or its number, which is its place among them.
func oneOf[E ~string](value any, to *E, values ...E) error {
	if i, err := wholeNumber(value); err == nil && int(i) < len(values) {
		*to = values[i]
		return nil
	}
	text, _ := value.(string)
	if i := slices.IndexFunc(values, func(v E) bool { return strings.EqualFold(string(v), text) }); i >= 0 {
		*to = values[i]
		return nil
	}
	return fmt.Errorf("must be one of %v", values)
}

// accessPolicy is what holds where no policy speaks of a destination.
type accessPolicy v1alpha1.GlobalAccessPolicy

func (p *accessPolicy) parse(value any) error {
	return oneOf(value, (*v1alpha1.GlobalAccessPolicy)(p),
		v1alpha1.GlobalAccessPolicyMeshDefault, v1alpha1.GlobalAccessPolicyEnabled, v1alpha1.GlobalAccessPolicyDisabled)
}

// enforcementPolicy is an accessPolicy that guides write as true or false.
type enforcementPolicy accessPolicy

func (p *enforcementPolicy) parse(value any) error {
	switch value {
	case true:
		*p = enforcementPolicy(v1alpha1.GlobalAccessPolicyEnabled)
		return nil
	case false:
		*p = enforcementPolicy(v1alpha1.GlobalAccessPolicyDisabled)
		return nil
	}
	if err := (*accessPolicy)(p).parse(value); err != nil {
		return fmt.Errorf("%w, or true or false", err)
	}
	return nil
}

// federationMode has one value.
type federationMode string

func (m *federationMode) parse(value any) error { return oneOf(value, m, "PERMISSIVE") }

// rotationStrategy says how a root is replaced.
type rotationStrategy v1alpha1.RotationStrategy

func (s *rotationStrategy) parse(value any) error {
	return oneOf(value, (*v1alpha1.RotationStrategy)(s), v1alpha1.RotationMultiRoot, v1alpha1.RotationNone)
}

// enforcementMode is what servers take.
type enforcementMode v1alpha1.TLSEnforcementMode

func (m *enforcementMode) parse(value any) error {
	return oneOf(value, (*v1alpha1.TLSEnforcementMode)(m),
		v1alpha1.TLSEnforcementUnset, v1alpha1.TLSEnforcementDisable, v1alpha1.TLSEnforcementPermissive, v1alpha1.TLSEnforcementStrict)
}
