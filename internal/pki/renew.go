package pki

import (
	"crypto/x509"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// Ratio is a part of a certificate's lifetime, greater than 0 and less than 1.
type Ratio float64

// DefaultRatio leaves a tenth of the lifetime for renewal.
const DefaultRatio Ratio = 0.1

var decimalFraction = regexp.MustCompile(`^0\.[0-9]{1,9}$`)

// ParseRatio reads the option secretRotationGracePeriodRatio: a decimal such as
// "0.10", greater than 0 and less than 1. Empty means [DefaultRatio].
func ParseRatio(s string) (Ratio, error) {
	if s == "" {
		return DefaultRatio, nil
	}
	r, err := strconv.ParseFloat(s, 64)
	if err != nil || !decimalFraction.MatchString(s) || r <= 0 {
		return 0, fmt.Errorf("secretRotationGracePeriodRatio: %q must be a decimal between 0 and 1, both excluded, as \"0.10\"", s)
	}
	return Ratio(r), nil
}

// RenewAt is when a certificate is due for renewal: when no more than the given
// part of its lifetime is left.
func RenewAt(c *x509.Certificate, r Ratio) time.Time {
	return c.NotAfter.Add(-time.Duration(float64(c.NotAfter.Sub(c.NotBefore)) * float64(r)))
}
