package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"strings"
)

// maxRequestPEM is several times the size of a request for an RSA-8192 key.
const maxRequestPEM = 16 << 10

// NewRequest is a signing request (PKCS #10, RFC 2986) in PEM. It proves
// possession of the key; organization and mesh are there for those who read it:
// an [Issuer] takes only the public key from it.
func NewRequest(key crypto.Signer, organization, mesh string) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject(organization, mesh)}, key)
	if err != nil {
		return nil, fmt.Errorf("creating a signing request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// subject is the subject of a mesh's intermediate.
func subject(organization, mesh string) pkix.Name {
	return pkix.Name{Organization: attributes(organization), OrganizationalUnit: attributes(mesh)}
}

// CheckRequest reads a signing request from PEM: exactly one block, signed by
// the key it is for, a strong key. What names and extensions it asks for does
// not matter, as an [Issuer] ignores them. The error is an [*InvalidError].
func CheckRequest(text []byte) (*x509.CertificateRequest, error) {
	csr, err := parseRequest(text)
	if err != nil {
		return nil, err
	}
	if err := checkRequest(csr); err != nil {
		return nil, err
	}
	return csr, nil
}

func parseRequest(text []byte) (*x509.CertificateRequest, error) {
	if len(text) > maxRequestPEM {
		return nil, invalid("", ReasonMalformed, "signing request of %d bytes: at most %d are accepted", len(text), maxRequestPEM)
	}
	const begin = "-----BEGIN CERTIFICATE REQUEST-----"
	block, rest := pem.Decode(text)
	if block == nil || len(block.Headers) > 0 ||
		!strings.HasPrefix(strings.TrimSpace(string(text)), begin) || strings.TrimSpace(string(rest)) != "" ||
		strings.Count(string(text), "-----BEGIN") != 1 {
		return nil, invalid("", ReasonMalformed, "the signing request must be exactly one PEM block of type CERTIFICATE REQUEST, and nothing else")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, invalid("", ReasonMalformed, "the signing request cannot be parsed: %v", err)
	}
	return csr, nil
}

// checkRequest makes sure that a parsed request may be signed at all.
func checkRequest(csr *x509.CertificateRequest) error {
	if weak := keyWeakness(csr.PublicKey); weak != "" {
		return invalid("", ReasonWeakKey, "the signing request is for %s: %s", weak, acceptedKeys)
	}
	if !strongSignature(csr.SignatureAlgorithm) {
		return invalid("", ReasonWeakSignature, "the signing request is signed with %s: sign it with SHA-256 or better", csr.SignatureAlgorithm)
	}
	if csr.CheckSignature() != nil {
		return invalid("", ReasonBadSignature, "the signing request is not signed by the key it is for: make a new one with the key")
	}
	return nil
}
