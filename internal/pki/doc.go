// Package pki is everything Isthmus knows about certificates: keys, roots and
// bundles of roots, the Secret forms a certificate authority comes in, signing
// requests and what is signed for them, and the plug-in CA files that istiod
// reads from its cacerts Secret.
//
// It is functions over values. It knows no Kubernetes client, no clock but the
// one it is handed and no policy: who may ask for which identity is decided by
// the caller, who says so in a [Template].
//
// All text is PEM (RFC 7468), all certificates are X.509 v3 (RFC 5280). No
// error of this package contains key material.
package pki

import "time"

// ClockSkew is how far before the present a certificate's validity begins, so
// that a machine whose clock is late accepts it at once.
const ClockSkew = 5 * time.Minute

// Keys of the Secrets that hold a certificate authority.
const (
	// CACertKey holds the signing certificate of istiod's plug-in CA.
	CACertKey = "ca-cert.pem"
	// CAKeyKey holds the private key of the certificate in [CACertKey].
	CAKeyKey = "ca-key.pem"
	// CertChainKey holds what istiod sends after every leaf: the signing
	// certificate and what leads from it to the root.
	CertChainKey = "cert-chain.pem"
	// RootCertKey holds the bundle of trusted roots.
	RootCertKey = "root-cert.pem"
	// CACRLKey optionally holds the revocation lists of the chain.
	CACRLKey = "ca-crl.pem"

	// RootKeyKey holds the private key of a root in [RootCertKey].
	RootKeyKey = "key.pem"

	// TLSCertKey, TLSKeyKey and TLSRootKey are the form of cert-manager and of
	// Secrets of type kubernetes.io/tls.
	TLSCertKey = "tls.crt"
	TLSKeyKey  = "tls.key"
	TLSRootKey = "ca.crt"

	// IstioGeneratedKey marks a cacerts Secret that istiod made for its
	// self-signed CA; istiod treats such a Secret as its own.
	IstioGeneratedKey = "istio-generated"
)
