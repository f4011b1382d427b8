package pki_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/pki/pkitest"
)

func TestKeyBits(t *testing.T) {
	for size, want := range map[int32]int{0: 4096, 2048: 2048, 3072: 3072, 4096: 4096, 8192: 8192, 256: 2048, 384: 3072, 512: 4096} {
		if got, err := pki.KeyBits(size); err != nil || got != want {
			t.Errorf("KeyBits(%d) = %d, %v; want %d", size, got, err, want)
		}
	}
	for _, size := range []int32{-1, 1, 128, 1024, 2047, 5000, 16384, 1 << 30} {
		if got, err := pki.KeyBits(size); err == nil || !strings.Contains(err.Error(), "rsaKeySizeBytes") {
			t.Errorf("KeyBits(%d) = %d, %v; want an error that names the field", size, got, err)
		}
	}
	for _, bits := range []int{0, 1024, 8193} {
		if _, err := pki.NewKey(bits); err == nil {
			t.Errorf("NewKey(%d) made a key", bits)
		}
	}
}

func TestPublicKeyName(t *testing.T) {
	label := regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	seen := map[string]bool{}
	for range 10 {
		key := pkitest.ECKey(t)
		name, err := pki.PublicKeyName(key.Public())
		if err != nil || !label.MatchString(name) || seen[name] {
			t.Errorf("name %q, %v", name, err)
		}
		seen[name] = true
		again, err := pki.ParseKey(encode(t, key))
		if err != nil {
			t.Fatal(err)
		}
		if same, _ := pki.PublicKeyName(again.Public()); same != name {
			t.Errorf("the same key is called %q and %q", name, same)
		}
		if full, _ := pki.PublicKeyFingerprint(key.Public()); len(full) != 64 || !strings.HasPrefix(full, name) {
			t.Errorf("fingerprint %q of %q", full, name)
		}
	}
	if _, err := pki.PublicKeyName("no key"); err == nil {
		t.Error("a string has no key's name")
	}
	_, weak, _ := ed25519.GenerateKey(rand.Reader)
	if _, err := pki.ParseKey(encode(t, weak)); err == nil {
		t.Error("an Ed25519 key was read")
	}
}

func TestRatio(t *testing.T) {
	for text, want := range map[string]pki.Ratio{"": 0.1, "0.10": 0.1, "0.5": 0.5, "0.9999": 0.9999, "0.001": 0.001} {
		if got, err := pki.ParseRatio(text); err != nil || got != want {
			t.Errorf("ParseRatio(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"0", "0.0", "0.000", "1", "1.0", "1.5", "-0.1", "+0.1", ".1", "0.", "1e-1", "0x1p-2", "NaN", "Inf", "10%", " 0.1", "0,1", "0.1234567890"} {
		if got, err := pki.ParseRatio(text); err == nil || !strings.Contains(err.Error(), "secretRotationGracePeriodRatio") {
			t.Errorf("ParseRatio(%q) = %v, %v; want an error that names the field", text, got, err)
		}
	}
	day := &x509.Certificate{NotBefore: now, NotAfter: now.Add(24 * time.Hour)}
	for ratio, want := range map[pki.Ratio]time.Duration{0.5: 12 * time.Hour, 0.25: 18 * time.Hour, 0.9999: 8640 * time.Millisecond} {
		if got := pki.RenewAt(day, ratio).Sub(now); got.Round(time.Millisecond) != want {
			t.Errorf("a day with ratio %v is renewed after %v, want %v", ratio, got, want)
		}
	}
}
