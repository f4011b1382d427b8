package accept

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/finding"
)

const vaultField = sharedField + ".intermediateCertificateAuthority.vault"

// DefaultVaultMountPath is where Vault's Kubernetes auth method is, unless mountPath says otherwise.
const DefaultVaultMountPath = "/v1/auth/kubernetes"

// VaultEndpoints are the endpoints of Vault's HTTP API that an agent may use, without the leading "/v1/". Nothing else of the
// server can be asked by what a VirtualMesh says: paths end as those of these endpoints do. What an agent asks about its own token
// beside is no VirtualMesh's to say.
type VaultEndpoints struct {
	// Server is the URL, "<scheme>://<host>[:<port>]" in lower case.
	Server string
	// Sign is caPath: it signs the CA of a mesh.
	Sign string
	// Mount of the PKI engine that signs, and Issuer within it: the name of one, or "default".
	Mount, Issuer string
	// Generate is csrPath: it makes a key and exports it; "" if the agent makes keys itself.
	Generate string
	// Login of the Kubernetes auth method; "" if there is a token.
	Login string
}

// ClusterPlaceholder stands in mountPath and role of a Kubernetes auth method for the name of the cluster that logs in: to Vault, each
// cluster is another one.
const ClusterPlaceholder = "{cluster}"

// VaultFor returns what v means in a cluster.
func VaultFor(v *v1alpha1.VaultCA, cluster string) *v1alpha1.VaultCA {
	if v.KubernetesAuth == nil {
		return v
	}
	v = v.DeepCopy()
	for _, s := range []*string{&v.KubernetesAuth.MountPath, &v.KubernetesAuth.Role} {
		*s = strings.ReplaceAll(*s, ClusterPlaceholder, cluster)
	}
	return v
}

// EndpointsOf returns the endpoints that v means in a cluster, and what is wrong with it.
func EndpointsOf(v *v1alpha1.VaultCA) (out VaultEndpoints, fs finding.Findings) {
	fail := func(field, format string, args ...any) {
		fs = append(fs, finding.Finding{Field: vaultField + "." + field, Reason: v1alpha1.ReasonInvalid, Message: fmt.Sprintf(format, args...)})
	}
	var err error
	if out.Server, err = VaultServer(v.Server); err != nil {
		fail("server", "%v", err)
	}
	out.Sign = vaultPath(v.CAPath)
	if m := signPath.FindStringSubmatch(out.Sign); m == nil {
		fail("caPath", "%q does not sign: it must end with /root/sign-intermediate or /issuer/<name>/sign-intermediate, such as pki/root/sign-intermediate", v.CAPath)
	} else {
		out.Mount, out.Issuer = m[1], cmp.Or(m[2], "default")
	}
	if v.CSRPath != "" {
		if out.Generate = vaultPath(v.CSRPath); !generatePath.MatchString(out.Generate) {
			fail("csrPath", "%q exports no key: it must end with /intermediate/generate/exported or /issuers/generate/intermediate/exported; leave it out to have the agent make keys itself", v.CSRPath)
		}
	}
	if k := v.KubernetesAuth; k != nil {
		mount := vaultPath(cmp.Or(k.MountPath, DefaultVaultMountPath))
		if out.Login = mount + "/login"; !loginPath.MatchString(out.Login) {
			fail("kubernetesAuth.mountPath", "%q is no auth method: it must be like %s", k.MountPath, DefaultVaultMountPath)
		}
	}
	if len(v.CABundle) > 0 && !isBundle(v.CABundle) {
		fail("caBundle", "must hold certificates in PEM, and nothing else")
	}
	return out, fs
}

const segment = `[A-Za-z0-9_-][A-Za-z0-9._-]*` // never "." or ".."

var (
	signPath     = regexp.MustCompile(`^(` + segment + `(?:/` + segment + `)*)/(?:root|issuer/(` + segment + `))/sign-intermediate$`)
	generatePath = regexp.MustCompile(`^` + segment + `(?:/` + segment + `)*/(?:intermediate/generate|issuers/generate/intermediate)/exported$`)
	loginPath    = regexp.MustCompile(`^auth(?:/` + segment + `)+/login$`)
)

// vaultPath is a path of the API in the form that people leave out "/v1/" of.
func vaultPath(s string) string {
	return strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(s, "/"), "v1/"), "/")
}

// VaultServer returns the URL of a Vault server in the one form in which two of them can be compared.
func VaultServer(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || !slices.Contains([]string{"https", "http"}, u.Scheme) || u.Hostname() == "":
		return "", errors.New("must be the URL of a server, such as https://vault.example.com:8200")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		return "", errors.New("must be a URL without user, path and query, such as https://vault.example.com:8200")
	}
	return u.Scheme + "://" + strings.ToLower(u.Host), nil
}

func isBundle(text []byte) bool {
	n := 0
	for len(bytes.TrimSpace(text)) > 0 {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil || block.Type != "CERTIFICATE" {
			return false
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return false
		}
		n++
	}
	return n > 0
}
