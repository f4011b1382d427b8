package credential

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/kube/hublink"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

func TestRenewal(t *testing.T) {
	cluster := testenv.Start(t) // hub and member in one, with nothing in common but the API server
	ctx := context.Background()
	create := func(objs ...client.Object) {
		t.Helper()
		for _, o := range objs {
			if err := cluster.Client.Create(ctx, o); err != nil {
				t.Fatal(err)
			}
		}
	}
	cluster.Namespace(t, "isthmus-east", nil)
	cluster.Namespace(t, v1alpha1.AgentNamespace, nil)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-east", Name: v1alpha1.AgentName}}
	anchor := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-east", Name: "isthmus-agent-credential"}}
	create(account, anchor,
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-east", Name: "agent"}, Rules: []rbacv1.PolicyRule{{
			APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, ResourceNames: []string{v1alpha1.AgentName}, Verbs: []string{"create"},
		}}},
		&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-east", Name: "agent"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "agent"},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "isthmus-east", Name: v1alpha1.AgentName}},
		})
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: new(int64(3600)),
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Secret", Name: anchor.Name, UID: anchor.UID},
	}}
	if err := cluster.Client.SubResource("token").Create(ctx, account, request); err != nil {
		t.Fatal(err)
	}
	first := request.Status.Token
	key := types.NamespacedName{Namespace: v1alpha1.AgentNamespace, Name: "isthmus-hub-credential"}
	create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}, Data: map[string][]byte{
		hublink.KubeconfigKey: cluster.Kubeconfig(t, &rest.Config{BearerToken: first}, ""),
	}})
	present := func() string {
		t.Helper()
		s := &corev1.Secret{}
		if err := cluster.Client.Get(ctx, key, s); err != nil {
			t.Fatal(err)
		}
		_, auth, err := parse(s.Data[hublink.KubeconfigKey])
		if err != nil {
			t.Fatal(err)
		}
		return auth.Token
	}
	asAgent := func(token string) client.Client {
		t.Helper()
		cfg := rest.AnonymousClientConfig(cluster.Config)
		cfg.BearerToken = token
		c, err := client.New(cfg, client.Options{Scheme: testenv.Scheme()})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	whoami := func(token string) error {
		return asAgent(token).SubResource("token").Create(ctx, account.DeepCopy(), &authenticationv1.TokenRequest{})
	}
	testenv.Eventually(t, "the agent's rights", func() error { return whoami(first) }) // in force some time after they were written
	now := time.Now()
	r := &Renewer{Secret: key, Local: cluster.Client, Reader: cluster.Client, Hub: asAgent(first), Now: func() time.Time { return now }}
	reconcile := func() ctrl.Result {
		t.Helper()
		result, err := r.Reconcile(ctx, ctrl.Request{})
		if err != nil {
			t.Fatal(err)
		}
		return result
	}

	if wait := reconcile().RequeueAfter; wait < 29*time.Minute || wait > 30*time.Minute {
		t.Fatalf("a token of an hour is renewed in %v", wait)
	}
	if present() != first {
		t.Fatal("renewed too early")
	}
	now = now.Add(31 * time.Minute)
	reconcile()
	second := present()
	if second == first {
		t.Fatal("not renewed")
	}
	c, _ := readClaims(second)
	if life := time.Duration(c.Expires-c.IssuedAt) * time.Second; life != Lifetime {
		t.Fatalf("lifetime = %v", life)
	}
	if s := c.Kubernetes.Secret; s == nil || s.Name != anchor.Name || s.UID != anchor.UID {
		t.Fatalf("bound to %+v", s)
	}

	if err := whoami(second); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Client.Delete(ctx, anchor); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the revocation", func() error {
		for _, token := range []string{first, second} {
			if err := whoami(token); !apierrors.IsUnauthorized(err) {
				return &notRevoked{err}
			}
		}
		return nil
	})
	r.Hub = asAgent(second)
	now = now.Add(Lifetime)
	_, err := r.Reconcile(ctx, ctrl.Request{})
	if !apierrors.IsUnauthorized(err) {
		t.Fatalf("err = %v", err)
	}
	if slices.ContainsFunc([]string{first, second}, func(s string) bool { return strings.Contains(err.Error(), s) }) {
		t.Fatal("the error shows a token")
	}
}

type notRevoked struct{ err error }

func (e *notRevoked) Error() string {
	if e.err == nil {
		return "the token still works"
	}
	return e.err.Error()
}

func TestForeignCredentialIsLeftAlone(t *testing.T) {
	for _, token := range []string{"", "opaque", "a.b.c", "e30.e30.e30"} {
		if _, ok := readClaims(token); ok {
			t.Errorf("%q was taken for a ServiceAccount token", token)
		}
	}
}
