package vault

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// tokenKey is where a token is, in a Secret or a directory, unless something else is said.
const tokenKey = "token"

// requestedLife of tokens that are requested, in seconds: the least that Kubernetes gives. They are used at once.
const requestedLife = 600

// login sees to a token for what follows. One that was obtained for it is given back by logout.
func (s *session) login(ctx context.Context) (logout func(), err error) {
	if ref := s.ca.TokenSecretRef; ref != nil {
		s.token, err = s.secretToken(ctx, ref.Name)
		return func() {}, err
	}
	k := s.ca.KubernetesAuth
	if k == nil {
		return nil, failed(ReasonInvalid, "vault of the VirtualMesh has neither tokenSecretRef nor kubernetesAuth: say how to log in")
	}
	jwt, err := s.kubernetesToken(ctx, k)
	if err != nil {
		return nil, err
	}
	s.hide(jwt)
	a, err := s.ask(ctx, http.MethodPost, s.at.Login, map[string]any{"role": k.Role, "jwt": jwt})
	if e, ok := errors.AsType[*statusError](err); ok {
		return nil, failed(ReasonLoginRefused, "%s does not let the agent log in as role %s at %s (%d%s): see that the role exists, is bound to the ServiceAccount of the token, "+
			"has audience %s, and that the auth method knows this cluster", s.at.Server, k.Role, s.at.Login, e.code, e.said, s.options.Audience)
	}
	if err != nil {
		return nil, err
	}
	if a.Auth == nil || a.Auth.ClientToken == "" {
		return nil, failed(ReasonInvalidAnswer, "%s gives no token at %s: see that mountPath of the VirtualMesh is that of a Kubernetes auth method", s.at.Server, s.at.Login)
	}
	s.token = a.Auth.ClientToken
	s.hide(s.token)
	return func() { _, _ = s.ask(ctx, http.MethodPost, "auth/token/revoke-self", nil) }, nil // or it ends by itself
}

// Endpoints that are asked about a token.
const (
	lookupSelf = "auth/token/lookup-self"
	renewSelf  = "auth/token/renew-self"
	// mountOf, with a path behind it, tells about the engine there.
	mountOf = "sys/internal/ui/mounts/"
)

// Authenticate proves that the credential is good, without having anything signed. By Kubernetes it logs in, and out again. A
// token of a Secret is looked up; and if it can be renewed, and less than half of its life is left, it is renewed, so that a
// periodic one lives on.
//
// Vault answers 403 alike to a token that is not good and to one whose policies do not let it look itself up, which is no fault.
// mountOf tells them apart: it asks for no policy of its own, and answers any valid token that may do something in the engine. A
// token that is denied that too has ended, was revoked, or could have nothing signed. A server without this endpoint leaves it
// open, and then nothing is said. An error that is worth telling people is an *Error.
func (c *Client) Authenticate(ctx context.Context, ca *v1alpha1.VaultCA) error {
	s, done, err := c.open(ca)
	if err != nil {
		return err
	}
	defer done()
	logout, err := s.login(ctx)
	if err != nil {
		return err
	}
	defer logout()
	if s.ca.TokenSecretRef == nil {
		return nil
	}
	var token struct {
		Renewable   bool  `json:"renewable"`
		TTL         int64 `json:"ttl"`
		CreationTTL int64 `json:"creation_ttl"`
	}
	err = s.get(ctx, lookupSelf, &token)
	if isRefusal(err) {
		return s.knowsToken(ctx)
	}
	if err != nil || !token.Renewable || 2*token.TTL >= token.CreationTTL {
		return err
	}
	if _, err := s.ask(ctx, http.MethodPost, renewSelf, nil); !isRefusal(err) {
		return err
	}
	return nil // it is good until it ends
}

// knowsToken finds out whether the server knows the token where that may not look itself up.
func (s *session) knowsToken(ctx context.Context) error {
	_, err := s.ask(ctx, http.MethodGet, mountOf+s.at.Sign, nil)
	e, ok := errors.AsType[*statusError](err)
	switch {
	case !ok:
		return err
	case e.code == http.StatusForbidden || e.code == http.StatusUnauthorized:
		return failed(ReasonDenied, "%s denies the agent %s and %s (%d%s): its token has ended, was revoked or is none, or may do nothing in that engine: %s",
			s.at.Server, lookupSelf, e.path, e.code, e.said, s.renewal(s.at.Sign, "update"))
	}
	return nil
}

// hide keeps a secret out of errors.
func (s *session) hide(secret string) {
	if secret != "" {
		s.secrets = append(s.secrets, secret)
	}
}

// secretToken reads a token of Vault. What the agent keeps itself is none, nor is a token of Kubernetes.
func (s *session) secretToken(ctx context.Context, name string) (string, error) {
	secret := &corev1.Secret{}
	err := s.reader.Get(ctx, types.NamespacedName{Namespace: s.namespace, Name: name}, secret)
	if apierrors.IsNotFound(err) {
		return "", failed(ReasonCredentialMissing, "tokenSecretRef: there is no Secret %s/%s in this cluster: make it, with a token of Vault under the key %s", s.namespace, name, tokenKey)
	}
	if err != nil {
		return "", err
	}
	if secret.Labels[v1alpha1.LabelManagedBy] != "" || secret.Type == corev1.SecretTypeServiceAccountToken {
		return "", failed(ReasonCredentialMissing, "tokenSecretRef: Secret %s/%s is no token of Vault: make one for that", s.namespace, name)
	}
	token := strings.TrimSpace(string(secret.Data[tokenKey]))
	if token == "" {
		return "", failed(ReasonCredentialMissing, "tokenSecretRef: Secret %s/%s has no key %s: put a token of Vault there", s.namespace, name, tokenKey)
	}
	s.hide(token)
	return token, nil
}

// kubernetesToken finds or requests the token of a ServiceAccount.
func (s *session) kubernetesToken(ctx context.Context, k *v1alpha1.VaultKubernetesAuth) (string, error) {
	ref := k.ServiceAccountRef
	switch {
	case ref == nil:
		return s.mountedToken(k)
	case !slices.Contains(s.options.ServiceAccounts, ref.Name):
		return "", failed(ReasonCredentialMissing, "kubernetesAuth.serviceAccountRef: this cluster does not let its agent use ServiceAccount %s: list it in vault.serviceAccounts of the chart isthmus-agent here, which has %q",
			ref.Name, s.options.ServiceAccounts)
	case k.SecretTokenKey != "":
		return s.serviceAccountSecret(ctx, ref.Name, k.SecretTokenKey)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: ref.Name}}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences: []string{s.options.Audience}, ExpirationSeconds: new(int64(requestedLife)),
	}}
	err := s.kube.SubResource("token").Create(ctx, account, request)
	switch {
	case apierrors.IsNotFound(err):
		return "", failed(ReasonCredentialMissing, "kubernetesAuth.serviceAccountRef: there is no ServiceAccount %s/%s in this cluster: make it", s.namespace, ref.Name)
	case apierrors.IsForbidden(err):
		return "", failed(ReasonCredentialMissing, "kubernetesAuth.serviceAccountRef: the agent may not request tokens of ServiceAccount %s/%s: list it in vault.serviceAccounts of the chart isthmus-agent", s.namespace, ref.Name)
	case err != nil:
		return "", err
	}
	return request.Status.Token, nil
}

// serviceAccountSecret reads the token in a Secret that Kubernetes fills for a ServiceAccount.
func (s *session) serviceAccountSecret(ctx context.Context, account, key string) (string, error) {
	list := &corev1.SecretList{}
	if err := s.reader.List(ctx, list, client.InNamespace(s.namespace), client.MatchingFields{"type": string(corev1.SecretTypeServiceAccountToken)}); err != nil {
		return "", err
	}
	for i := range list.Items {
		if token := string(list.Items[i].Data[key]); list.Items[i].Annotations[corev1.ServiceAccountNameKey] == account && token != "" {
			return token, nil
		}
	}
	return "", failed(ReasonCredentialMissing, "kubernetesAuth.secretTokenKey: ServiceAccount %s/%s has no Secret of type %s with key %s: make one, or leave secretTokenKey out to have a token requested",
		s.namespace, account, corev1.SecretTypeServiceAccountToken, key)
}

// mountedToken reads the token that is projected into the agent. Whatever path is given, and wherever links lead, it is one
// below the directory that is for that.
func (s *session) mountedToken(k *v1alpha1.VaultKubernetesAuth) (string, error) {
	dir := s.options.TokenDir
	given := filepath.Join(cmp.Or(k.MountedSAPath, dir), cmp.Or(k.SecretTokenKey, tokenKey))
	below, err := filepath.Rel(dir, given)
	if err != nil || !filepath.IsLocal(below) {
		return "", failed(ReasonCredentialMissing, "kubernetesAuth.mountedSaPath: %s is not below %s, where this agent has tokens for Vault: leave mountedSaPath out", given, dir)
	}
	f, err := os.OpenInRoot(dir, below)
	if err != nil {
		return "", failed(ReasonCredentialMissing, "kubernetesAuth.mountedSaPath: there is no token at %s in the agent: set vault.servers of the chart isthmus-agent here, upon which it is projected", given)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxAnswer))
	if token := strings.TrimSpace(string(text)); err == nil && token != "" {
		return token, nil
	}
	return "", failed(ReasonCredentialMissing, "kubernetesAuth.mountedSaPath: the token at %s cannot be read, or is empty", given)
}
