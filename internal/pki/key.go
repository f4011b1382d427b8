package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
)

const (
	// DefaultKeyBits is the size of an RSA key where none is asked for.
	DefaultKeyBits = 4096

	minRSABits = 2048
	maxRSABits = 8192 // crypto/tls and BoringSSL verify nothing larger

	// minRSAExponent is the least public exponent of FIPS 186-5.
	minRSAExponent = 1<<16 + 1

	// maxKeyPEM is room enough for RSA-8192 and bounds the work of parsing.
	maxKeyPEM = 16 << 10
)

// KeyBits is the size in bits of the RSA key that a certificate option
// rsaKeySizeBytes asks for. Despite its name that field has always held bits:
// 2048, 3072, 4096 and 8192 are taken as bits; 256, 384 and 512 can only be
// bytes. Zero means [DefaultKeyBits]. All else is an error.
func KeyBits(rsaKeySizeBytes int32) (int, error) {
	switch rsaKeySizeBytes {
	case 0:
		return DefaultKeyBits, nil
	case 2048, 3072, 4096, 8192:
		return int(rsaKeySizeBytes), nil
	case 256, 384, 512:
		return int(rsaKeySizeBytes) * 8, nil
	}
	return 0, fmt.Errorf("rsaKeySizeBytes: %d is not a key size: use 2048, 3072, 4096 or 8192 (bits), or 256, 384 or 512 (bytes)", rsaKeySizeBytes)
}

// NewKey generates an RSA key of so many bits.
func NewKey(bits int) (crypto.Signer, error) {
	if bits < minRSABits || bits > maxRSABits {
		return nil, fmt.Errorf("RSA key of %d bits: must be %d to %d", bits, minRSABits, maxRSABits)
	}
	return rsa.GenerateKey(rand.Reader, bits)
}

// EncodeKey is the key as PKCS #8 PEM.
func EncodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a private key: unsupported type %T", key)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseKey reads one private key from PEM: PKCS #1, PKCS #8 or SEC 1, RSA of
// 2048 to 8192 bits or ECDSA on P-256 or P-384. The error is an
// [*InvalidError] without a Secret key.
func ParseKey(text []byte) (crypto.Signer, error) {
	key, err := parseKey("", text)
	if err != nil {
		return nil, err
	}
	return key, nil
}

// parseKey does not pass on the errors of the parsers underneath: they are made
// from the bytes of a key.
func parseKey(field string, text []byte) (crypto.Signer, *InvalidError) {
	if len(text) > maxKeyPEM {
		return nil, invalid(field, ReasonMalformed, "%d bytes are too many for a private key: put exactly one PEM key here", len(text))
	}
	malformed := invalid(field, ReasonMalformed, "is not a private key: put one PEM block of type PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY here")
	block, rest := pem.Decode(text)
	if block != nil && block.Type == "EC PARAMETERS" { // openssl ecparam -genkey writes them first
		block, rest = pem.Decode(rest)
	}
	if block == nil {
		return nil, malformed
	}
	if more, _ := pem.Decode(rest); more != nil {
		return nil, invalid(field, ReasonMalformed, "holds more than one PEM block: keep the private key alone")
	}
	if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
		return nil, invalid(field, ReasonEncrypted, "the private key is encrypted: store it without a passphrase (openssl pkey -in encrypted.pem)")
	}

	var parsed any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, malformed
	}
	if err != nil {
		return nil, malformed
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, invalid(field, ReasonWeakKey, "%s", acceptedKeys)
	}
	if weak := keyWeakness(key.Public()); weak != "" {
		return nil, invalid(field, ReasonWeakKey, "%s: %s", weak, acceptedKeys)
	}
	return key, nil
}

const acceptedKeys = "use RSA with 2048 to 8192 bits or ECDSA on P-256 or P-384"

// keyWeakness says what keeps a public key from being accepted, or nothing.
func keyWeakness(pub crypto.PublicKey) string {
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		if n := pub.N.BitLen(); n < minRSABits || n > maxRSABits {
			return fmt.Sprintf("RSA key of %d bits", n)
		}
		if pub.E < minRSAExponent || pub.E%2 == 0 {
			return fmt.Sprintf("RSA public exponent %d", pub.E)
		}
		return ""
	case *ecdsa.PublicKey:
		if pub.Curve == elliptic.P256() || pub.Curve == elliptic.P384() {
			return ""
		}
		return "ECDSA key on " + pub.Curve.Params().Name
	}
	return "a key that is neither RSA nor ECDSA"
}

// strongSignature tells whether an algorithm is one whose signatures are relied
// on: what crypto/x509 verifies, without SHA-1 and what is older.
func strongSignature(a x509.SignatureAlgorithm) bool {
	switch a {
	case x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
		x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512:
		return true
	}
	return false
}

// samePublicKey tells whether two public keys are one.
func samePublicKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// PublicKeyFingerprint is the SHA-256 of a public key's SubjectPublicKeyInfo
// (RFC 5280, 4.1) in lower-case hexadecimal.
func PublicKeyFingerprint(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("fingerprint of a public key: unsupported type %T", pub)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// PublicKeyName is a DNS label derived from a public key: the first 160 bits of
// its fingerprint. An object named so cannot be about another key.
func PublicKeyName(pub crypto.PublicKey) (string, error) {
	fingerprint, err := PublicKeyFingerprint(pub)
	if err != nil {
		return "", err
	}
	return fingerprint[:40], nil
}

// oversized tells a key whose signatures are not worth looking at: to verify one
// of a few million bits takes minutes.
func oversized(pub crypto.PublicKey) bool {
	k, ok := pub.(*rsa.PublicKey)
	return ok && k.N.BitLen() > maxRSABits
}

// isSelfSigned tells whether a certificate is its own issuer, signature
// included.
func isSelfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer) && !oversized(c.PublicKey) &&
		c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}
