package pki

import "fmt"

// Reason says in one CamelCase word why key material or a request was refused.
// It serves as the reason of a Kubernetes condition.
type Reason string

// Reasons of an [InvalidError].
const (
	ReasonMissing         Reason = "Missing"         // a Secret key is absent or empty
	ReasonAmbiguous       Reason = "Ambiguous"       // keys of more than one Secret form
	ReasonMalformed       Reason = "Malformed"       // not the PEM or DER it should be
	ReasonEncrypted       Reason = "Encrypted"       // the key is protected by a passphrase
	ReasonWeakKey         Reason = "WeakKey"         // a key of a kind or size that is not accepted
	ReasonWeakSignature   Reason = "WeakSignature"   // signed with MD5, SHA-1 or an unknown algorithm
	ReasonNotCA           Reason = "NotCA"           // basic constraints do not say CA
	ReasonKeyUsage        Reason = "KeyUsage"        // key usage or extended key usage forbids what is needed
	ReasonPathLength      Reason = "PathLength"      // path length leaves no room for the CAs below
	ReasonNameConstraints Reason = "NameConstraints" // ztunnel rejects name constraints
	ReasonExpired         Reason = "Expired"         // validity is over
	ReasonNotYetValid     Reason = "NotYetValid"     // validity has not begun
	ReasonNotSelfSigned   Reason = "NotSelfSigned"   // a root that is no root
	ReasonKeyMismatch     Reason = "KeyMismatch"     // private key and certificate do not belong together
	ReasonChainBroken     Reason = "ChainBroken"     // no path from the certificate to a root in the bundle
	ReasonRevocation      Reason = "Revocation"      // revocation lists do not cover the chain
	ReasonNames           Reason = "Names"           // other names than were asked for
	ReasonBadSignature    Reason = "BadSignature"    // a request that its own key did not sign
)

// InvalidError says what is wrong with a piece of PKI and what to do about it.
// It never contains key material.
type InvalidError struct {
	// Key is the Secret key at fault, such as "ca-cert.pem"; empty where the
	// subject is no Secret.
	Key string
	// Reason classifies the fault.
	Reason Reason
	// Message says what is wrong and how to put it right.
	Message string
}

func (e *InvalidError) Error() string {
	if e.Key == "" {
		return e.Message
	}
	return e.Key + ": " + e.Message
}

// Passes tells whether time alone mends it.
func (e *InvalidError) Passes() bool { return e.Reason == ReasonNotYetValid }

func invalid(key string, reason Reason, format string, args ...any) *InvalidError {
	return &InvalidError{Key: key, Reason: reason, Message: fmt.Sprintf(format, args...)}
}
