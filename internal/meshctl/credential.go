package meshctl

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/hub/registration"
	"github.com/isthmus-mesh/isthmus/internal/kube"
	"github.com/isthmus-mesh/isthmus/internal/kube/hublink"
)

const (
	// owner is the field manager of what meshctl writes, and the value of its label isthmus.dev/managed-by.
	owner = "meshctl"
	// hubDeployment is the name of the hub's Deployment.
	hubDeployment = "isthmus-hub"
	// credentialSecret holds the agent's kubeconfig for the hub, in the agent's namespace.
	credentialSecret = "isthmus-hub-credential" //nolint:gosec // a name
	// tokenLifetime is the longest that the hub grants; the agent renews at half of it.
	tokenLifetime = 7 * 24 * time.Hour
)

// hubFlags say how members reach the hub where the user's kubeconfig does not.
type hubFlags struct {
	server, caFile string
}

func (f *hubFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.server, "hub-server", "", "URL of the hub's API server as the member sees it; defaults to that of --context")
	cmd.Flags().StringVar(&f.caFile, "hub-ca", "", "file with the CA of that server, PEM; defaults to that of --context")
}

// endpoint is how an agent reaches the hub's API server.
type endpoint struct {
	server, serverName string
	ca                 []byte
}

// endpoint returns how the member's agent reaches the hub. member may be nil: then nothing is known of it.
func (f *hubFlags) endpoint(ctx context.Context, hub, member *cluster) (endpoint, error) {
	e := endpoint{server: f.server}
	switch {
	case f.caFile != "":
		ca, err := os.ReadFile(f.caFile)
		if err != nil {
			return e, usagef("--hub-ca: %w", err)
		}
		e.ca = ca
	case hub.config.Insecure:
		return e, usagef("the hub's context does not verify its server (insecure-skip-tls-verify), which an agent must; give the CA with --hub-ca")
	default:
		config := rest.CopyConfig(hub.config)
		if err := rest.LoadTLSFiles(config); err != nil {
			return e, fmt.Errorf("%s: %w", hub.role, err)
		}
		e.ca, e.serverName = config.CAData, config.ServerName
	}
	if f.server != "" {
		e.serverName = ""
		return e, nil
	}
	e.server = hub.config.Host
	if member != nil {
		one, err := hub.uid(ctx)
		if err != nil {
			return e, err
		}
		two, err := member.uid(ctx)
		if err != nil {
			return e, err
		}
		root := &corev1.ConfigMap{}
		// Every namespace has the CA under which the API server is seen from inside.
		key := client.ObjectKey{Namespace: "default", Name: "kube-root-ca.crt"}
		if one == two && hub.Get(ctx, key, root) == nil {
			return endpoint{server: inside, ca: []byte(root.Data["ca.crt"])}, nil
		}
		if one != two && loopback(e.server) {
			return e, usagef("the hub's context has the address %s, which no other cluster reaches; give the one that members see with --hub-server", e.server)
		}
	}
	return e, nil
}

// inside is the hub's address for the agent of the hub's own cluster.
const inside = "https://kubernetes.default.svc"

func loopback(server string) bool {
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip.IsLoopback()
}

// answers tries the endpoint from here with the agent's token. An address that only members see need not answer, which is
// why the caller treats the error as a warning.
func (e endpoint) answers(token string) error {
	config := &rest.Config{Host: e.server, BearerToken: token, Timeout: 5 * time.Second}
	config.CAData, config.ServerName = e.ca, e.serverName
	d, err := discovery.NewDiscoveryClientForConfig(config)
	if err == nil {
		_, err = d.ServerVersion()
	}
	return err
}

// kubeconfig for an agent.
func (e endpoint) kubeconfig(cluster, token string) ([]byte, error) {
	return clientcmd.Write(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{
			"hub": {Server: e.server, TLSServerName: e.serverName, CertificateAuthorityData: e.ca},
		},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{"agent": {Token: token}},
		Contexts: map[string]*clientcmdapi.Context{
			"hub": {Cluster: "hub", AuthInfo: "agent", Namespace: kube.ClusterNamespace(cluster)},
		},
		CurrentContext: "hub",
	})
}

// anchor returns the Secret to which the tokens of the cluster's agent are bound.
func (c *cluster) anchor(ctx context.Context, cluster string) (*metav1.PartialObjectMetadata, error) {
	anchor := &metav1.PartialObjectMetadata{}
	anchor.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	return anchor, c.Get(ctx, client.ObjectKey{Namespace: kube.ClusterNamespace(cluster), Name: registration.CredentialName}, anchor)
}

// token asks the hub for a token of the cluster's agent. It is worth nothing once the Secret that it is bound to is gone.
func (c *cluster) token(ctx context.Context, cluster string) (string, error) {
	anchor, err := c.anchor(ctx, cluster)
	if err != nil {
		return "", err
	}
	account := &corev1.ServiceAccount{}
	account.Namespace, account.Name = kube.ClusterNamespace(cluster), v1alpha1.AgentName
	seconds := int64(tokenLifetime / time.Second)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef: &authenticationv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Secret", Name: anchor.Name, UID: anchor.UID,
		},
	}}
	if err := c.SubResource("token").Create(ctx, account, request); err != nil {
		return "", fmt.Errorf("asking the hub for the agent's token: %w", err)
	}
	return request.Status.Token, nil
}

// credential is the Secret for the member's agent, with a new token.
func credential(ctx context.Context, hub *cluster, at endpoint, cluster string) (*corev1.Secret, error) {
	token, err := hub.token(ctx, cluster)
	if err != nil {
		return nil, err
	}
	// The inside name is known inside only.
	if err := at.answers(token); err != nil && at.server != inside {
		hub.progress.did("Note: the hub does not answer at %s from here: %v", at.server, err)
	}
	kubeconfig, err := at.kubeconfig(cluster, token)
	if err != nil {
		return nil, err
	}
	secret := &corev1.Secret{Type: corev1.SecretTypeOpaque, Data: map[string][]byte{hublink.KubeconfigKey: kubeconfig}}
	secret.Namespace, secret.Name = v1alpha1.AgentNamespace, credentialSecret
	secret.Labels = map[string]string{v1alpha1.LabelManagedBy: owner, v1alpha1.LabelCluster: cluster}
	return secret, nil
}

// store writes an object that is meshctl's own.
func (c *cluster) store(ctx context.Context, obj client.Object) error {
	u, err := kube.ToUnstructured(scheme, obj)
	if err != nil {
		return err
	}
	for {
		if _, err = kube.Apply(ctx, c, owner, u); !apierrors.IsConflict(err) {
			return err
		}
		// The agent renews its token in the same Secret; try again on what it wrote.
		if ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
	}
}
