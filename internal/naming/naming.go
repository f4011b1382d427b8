// Package naming makes names fit where they are too long or could be taken, so that different names stay different. It is
// functions over values and knows no objects.
package naming

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// hashLen is the number of hexadecimal digits that stand for what is cut off.
const hashLen = 10

// Short returns s if it has at most limit bytes, and Hashed(s, limit) otherwise.
func Short(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return Hashed(s, limit)
}

// Hashed returns s with "-" and a hash of the whole appended, cut before that so that it has at most limit bytes. limit must
// exceed 11.
func Hashed(s string, limit int) string {
	sum := sha256.Sum256([]byte(s))
	return strings.TrimRight(s[:min(len(s), limit-hashLen-1)], "-.") + "-" + hex.EncodeToString(sum[:])[:hashLen]
}
