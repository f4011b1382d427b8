// Package credential keeps the agent's credential for the hub alive: a ServiceAccount token that is bound to a Secret in
// the hub, whose deletion revokes it. At half of its life the agent asks the hub for another one, bound to the same Secret,
// and writes it into the kubeconfig that it found the old one in.
//
// The token appears in no log, event or error. Whoever holds a kubeconfig without such a token renews it himself.
package credential

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/kube/hublink"
)

// Lifetime that is asked for; the hub may grant less.
const Lifetime = 7 * 24 * time.Hour

// fieldOwner is the field manager of the credential's Secret.
const fieldOwner = "isthmus-agent-credential"

var expiry = prometheus.NewGauge(prometheus.GaugeOpts{
	Name: "isthmus_agent_credential_expiry_timestamp_seconds",
	Help: "When the agent's credential for the hub ends, in seconds since the epoch.",
})

func init() { metrics.Registry.MustRegister(expiry) }

// Renewer renews the token in a kubeconfig.
type Renewer struct {
	// Secret with the kubeconfig, in the agent's own cluster.
	Secret types.NamespacedName
	// Local writes the Secret; Reader reads it past any cache.
	Local  client.Client
	Reader client.Reader
	// Hub answers TokenRequests.
	Hub client.Client
	// Now is the clock.
	Now func() time.Time
}

// Setup adds the renewal of the credential to the agent's manager. It works whenever the hub answers.
func Setup(mgr ctrl.Manager, link *hublink.Link, secret types.NamespacedName) error {
	r := &Renewer{Secret: secret, Local: mgr.GetClient(), Reader: mgr.GetAPIReader(), Hub: link.Hub().GetClient(), Now: time.Now}
	return builder.ControllerManagedBy(mgr).Named("credential").
		WithOptions(controller.Options{RateLimiter: kube.Retries[reconcile.Request]()}).
		WatchesMetadata(&corev1.Secret{}, &handler.EnqueueRequestForObject{}, builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
			return client.ObjectKeyFromObject(o) == secret
		}))).
		Complete(r)
}

// Reconcile renews the token if half of its life is over, and comes back when it will be.
func (r *Renewer) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	secret := &corev1.Secret{}
	if err := r.Reader.Get(ctx, r.Secret, secret); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	cfg, auth, err := parse(secret.Data[hublink.KubeconfigKey])
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("Secret %s: %w", r.Secret, err)
	}
	claims, ok := readClaims(auth.Token)
	if !ok {
		return ctrl.Result{}, nil // not a token of this kind
	}
	expiry.Set(float64(claims.Expires))
	if wait := claims.halfLife().Sub(r.Now()); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	token, err := r.request(ctx, claims)
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("renewing the credential for the hub, which ends at %s: %w",
			time.Unix(claims.Expires, 0).UTC().Format(time.RFC3339), err)
	}
	auth.Token = token
	kubeconfig, err := clientcmd.Write(*cfg)
	if err != nil {
		return ctrl.Result{}, errors.New("kubeconfig for the hub cannot be written")
	}
	secret.Data[hublink.KubeconfigKey] = kubeconfig
	if err := r.Local.Update(ctx, secret, client.FieldOwner(fieldOwner)); err != nil {
		return ctrl.Result{}, err
	}
	ctrl.LoggerFrom(ctx).Info("renewed the credential for the hub")
	return ctrl.Result{}, nil // the change of the Secret leads back here
}

// request asks for a token for the same account, bound to the same Secret.
func (r *Renewer) request(ctx context.Context, c claims) (string, error) {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{
		Namespace: c.Kubernetes.Namespace, Name: c.Kubernetes.ServiceAccount.Name,
	}}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: ptr.To(int64(Lifetime / time.Second)),
	}}
	if s := c.Kubernetes.Secret; s != nil {
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Secret", Name: s.Name, UID: s.UID,
		}
	}
	if err := r.Hub.SubResource("token").Create(ctx, account, request); err != nil {
		return "", err
	}
	return request.Status.Token, nil
}

// parse returns a kubeconfig with the credential that its current context uses.
func parse(kubeconfig []byte) (*clientcmdapi.Config, *clientcmdapi.AuthInfo, error) {
	cfg, err := clientcmd.Load(kubeconfig)
	if err != nil {
		// The parser's own error may quote the token.
		return nil, nil, fmt.Errorf("key %s is not a kubeconfig", hublink.KubeconfigKey)
	}
	if c := cfg.Contexts[cfg.CurrentContext]; c != nil {
		if auth := cfg.AuthInfos[c.AuthInfo]; auth != nil {
			return cfg, auth, nil
		}
	}
	return nil, nil, fmt.Errorf("key %s: the kubeconfig has no credential in its current-context", hublink.KubeconfigKey)
}

// claims of a ServiceAccount token (RFC 7519; Kubernetes adds its own under kubernetes.io).
type claims struct {
	IssuedAt   int64 `json:"iat"`
	Expires    int64 `json:"exp"`
	Kubernetes struct {
		Namespace      string `json:"namespace"`
		ServiceAccount struct {
			Name string `json:"name"`
		} `json:"serviceaccount"`
		Secret *struct {
			Name string    `json:"name"`
			UID  types.UID `json:"uid"`
		} `json:"secret"`
	} `json:"kubernetes.io"`
}

func (c claims) halfLife() time.Time {
	return time.Unix(c.IssuedAt+(c.Expires-c.IssuedAt)/2, 0)
}

// readClaims reads what a token says of itself, which only decides when and for whom another one is asked for.
func readClaims(token string) (claims, bool) {
	var c claims
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return c, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &c) != nil {
		return c, false
	}
	return c, c.Expires > c.IssuedAt && c.Kubernetes.ServiceAccount.Name != ""
}
