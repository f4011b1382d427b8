package hublink_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
	"github.com/isthmus-mesh/isthmus/internal/hub"
	"github.com/isthmus-mesh/isthmus/internal/hub/hubtest"
	"github.com/isthmus-mesh/isthmus/internal/kube/hublink"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
	"github.com/isthmus-mesh/isthmus/internal/version"
)

func destination(cluster, name string, labels map[string]string) *v1alpha1.Destination {
	return &v1alpha1.Destination{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "isthmus-" + cluster, Name: name + ".shop", Labels: labels, Annotations: map[string]string{"example.org/note": "n"},
		},
		Spec: v1alpha1.DestinationSpec{
			Cluster: cluster, Mesh: "istiod-istio-system-" + cluster,
			KubeService: v1alpha1.KubeService{
				Name: name, Namespace: "shop", Labels: map[string]string{"team": "a"}, Selector: map[string]string{"app": name},
				Subsets: map[string]v1alpha1.SubsetValues{"version": {Values: []string{"v1", "v2"}}},
				Ports:   []v1alpha1.KubeServicePort{{Name: "http", Port: 80}},
			},
			Identities: []string{"spiffe://cluster.local/ns/shop/sa/" + name},
		},
	}
}

// TestRights: with the credential and the rights that a registered cluster gets, and no others, the hub's cache holds what
// agents need of it, and of other clusters not more than they need.
func TestRights(t *testing.T) {
	c := testenv.Start(t) // the hub, and the member's API server as well
	ctx := context.Background()
	hubtest.Install(t, c)
	hubtest.Start(t, c, hub.Options{})
	c.Namespace(t, v1alpha1.AgentNamespace, nil)
	create := func(o client.Object) {
		t.Helper()
		if err := c.Client.Create(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"east", "west"} {
		kc := &v1alpha1.KubernetesCluster{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name}}
		create(kc)
		testenv.Eventually(t, "registration of "+name, func() error {
			if err := c.Client.Get(ctx, client.ObjectKeyFromObject(kc), kc); err != nil {
				return err
			}
			if !meta.IsStatusConditionTrue(kc.Status.Conditions, v1alpha1.ConditionReady) {
				return fmt.Errorf("conditions: %+v", kc.Status.Conditions)
			}
			return nil
		})
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-east", Name: v1alpha1.AgentName}}
	token := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Secret", Name: "isthmus-agent-credential"},
	}}
	if err := c.Client.SubResource("token").Create(ctx, account, token); err != nil {
		t.Fatal(err)
	}
	create(credential("hub", c.Kubeconfig(t, &rest.Config{BearerToken: token.Status.Token}, "")))

	federated := map[string]string{v1alpha1.LabelFederated: "true"}
	for _, name := range []string{"east", "west"} {
		create(&v1alpha1.Mesh{
			ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus-" + name, Name: "istiod-istio-system-" + name},
			Spec: v1alpha1.MeshSpec{Cluster: name, Istio: v1alpha1.IstioMesh{
				RootNamespace: "istio-system", TrustDomain: "cluster.local", ClusterDomain: "cluster.local", IstiodServiceAccount: "istiod",
				CertificateAuthority: v1alpha1.CertificateAuthorityIstiod, Topology: v1alpha1.TopologyLocal,
			}},
		})
	}
	shared := destination("west", "shared", federated)
	create(shared)
	shared.Status = v1alpha1.DestinationStatus{
		AppliedFederation: &v1alpha1.AppliedFederation{FederatedToMeshes: []string{"*"}, Subsets: []string{"v1"}}, Errors: []string{"an error"},
	}
	if err := c.Client.Status().Update(ctx, shared); err != nil {
		t.Fatal(err)
	}
	create(destination("west", "private", nil))
	create(destination("east", "own", nil))
	create(&v1alpha1.VirtualMesh{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "vm"},
		Spec:       v1alpha1.VirtualMeshSpec{Meshes: []v1alpha1.ObjectRef{{Name: "istiod-istio-system-east"}}},
	})
	create(&v1alpha1.AccessPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "ap"}})
	create(&v1alpha1.Settings{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: v1alpha1.SettingsName}})

	mgr, err := ctrl.NewManager(c.Config, ctrl.Options{
		Scheme: testenv.Scheme(), Metrics: metricsserver.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: new(true)},
	})
	if err != nil {
		t.Fatal(err)
	}
	link, err := hublink.New(mgr, hublink.Options{
		Cluster: "east", Identity: "rights",
		Source: hublink.SecretSource{Manager: mgr, Key: types.NamespacedName{Namespace: v1alpha1.AgentNamespace, Name: "hub"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	link.Setup(func(context.Context, ctrl.Manager, cluster.Cluster) error { return nil },
		&v1alpha1.Mesh{}, &v1alpha1.Workload{}, &v1alpha1.Destination{}, &v1alpha1.IssuedCertificate{}, &v1alpha1.CertificateRequest{},
		&v1alpha1.VirtualMesh{}, &v1alpha1.AccessPolicy{}, &v1alpha1.Settings{})
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(running) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the manager ended with %v", err)
		}
	})
	testenv.Eventually(t, "the link", func() error {
		if !link.Synced() || !link.Connected() {
			return errors.New("not up")
		}
		return nil
	})

	reader := link.Hub().GetClient()
	names := func(list client.ObjectList, opts ...client.ListOption) []string {
		t.Helper()
		if err := reader.List(ctx, list, opts...); err != nil {
			t.Fatal(err)
		}
		var out []string
		if err := meta.EachListItem(list, func(o runtime.Object) error {
			m, err := meta.Accessor(o)
			if err == nil {
				out = append(out, m.GetNamespace()+"/"+m.GetName())
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		slices.Sort(out)
		return out
	}
	for _, tc := range []struct {
		list client.ObjectList
		want []string
	}{
		{&v1alpha1.MeshList{}, []string{"isthmus-east/istiod-istio-system-east", "isthmus-west/istiod-istio-system-west"}},
		{&v1alpha1.DestinationList{}, []string{"isthmus-east/own.shop", "isthmus-west/shared.shop"}},
		{&v1alpha1.VirtualMeshList{}, []string{"isthmus-system/vm"}},
		{&v1alpha1.AccessPolicyList{}, []string{"isthmus-system/ap"}},
		{&v1alpha1.SettingsList{}, []string{"isthmus-system/" + v1alpha1.SettingsName}},
	} {
		if got := names(tc.list); !slices.Equal(got, tc.want) {
			t.Errorf("%T: %v, want %v", tc.list, got, tc.want)
		}
	}
	if got := names(&v1alpha1.DestinationList{}, client.InNamespace("isthmus-east")); !slices.Equal(got, []string{"isthmus-east/own.shop"}) {
		t.Errorf("in the own namespace: %v", got)
	}

	theirs, own := &v1alpha1.Destination{}, &v1alpha1.Destination{}
	if err := errors.Join(reader.Get(ctx, client.ObjectKey{Namespace: "isthmus-west", Name: "shared.shop"}, theirs),
		reader.Get(ctx, client.ObjectKey{Namespace: "isthmus-east", Name: "own.shop"}, own)); err != nil {
		t.Fatal(err)
	}
	if s := theirs.Spec; theirs.ManagedFields != nil || theirs.Annotations != nil || s.KubeService.Selector != nil || s.KubeService.Subsets != nil ||
		theirs.Status.Errors != nil {
		t.Errorf("of another cluster's there is more than is needed: %+v", theirs)
	}
	if s := theirs.Spec; len(s.Identities) != 1 || s.KubeService.Labels["team"] != "a" || len(s.KubeService.Ports) != 1 ||
		theirs.Status.AppliedFederation == nil || len(theirs.Status.AppliedFederation.Subsets) != 1 {
		t.Errorf("of another cluster's there is less than is needed: %+v", theirs)
	}
	if own.ManagedFields == nil || own.Annotations == nil || own.Spec.KubeService.Selector == nil || own.Spec.KubeService.Subsets == nil {
		t.Errorf("of the own there is not everything: %+v", own)
	}

	delete(shared.Labels, v1alpha1.LabelFederated)
	if err := c.Client.Update(ctx, shared); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "what is federated no more goes from the cache", func() error {
		if err := reader.Get(ctx, client.ObjectKeyFromObject(shared), &v1alpha1.Destination{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
}

// TestAnnotate: the Lease carries what is said at each heartbeat, and nothing that is said no more.
func TestAnnotate(t *testing.T) {
	c := testenv.Start(t)
	c.Namespace(t, "isthmus-east", nil)
	c.Namespace(t, v1alpha1.AgentNamespace, nil)
	ctx := context.Background()
	secret := credential("annotate", c.Kubeconfig(t, c.Config, ""))
	if err := c.Client.Create(ctx, secret); err != nil {
		t.Fatal(err)
	}
	said := make(chan map[string]string, 1)
	said <- map[string]string{v1alpha1.AnnotationExports: "1", "isthmus.dev/other": "x", v1alpha1.AnnotationAgentVersion: "forged"}
	startAgent(t, c, "annotate", func(l *hublink.Link) {
		l.Annotate(func() map[string]string {
			now := <-said
			said <- now
			return now
		})
	})
	lease := &coordinationv1.Lease{}
	has := func(want map[string]string) {
		t.Helper()
		testenv.Eventually(t, "the annotations of the Lease", func() error {
			if err := c.Client.Get(ctx, types.NamespacedName{Namespace: "isthmus-east", Name: v1alpha1.AgentName}, lease); err != nil {
				return err
			}
			for _, k := range []string{v1alpha1.AnnotationExports, "isthmus.dev/other", v1alpha1.AnnotationAgentVersion} {
				if lease.Annotations[k] != want[k] {
					return fmt.Errorf("annotations = %v, want %v", lease.Annotations, want)
				}
			}
			return nil
		})
	}
	// say something, and have the next heartbeat come at once: another credential is in use.
	say := func(now map[string]string) {
		t.Helper()
		<-said
		said <- now
		secret.Annotations = map[string]string{"touched": fmt.Sprint(time.Now().UnixNano())}
		if err := c.Client.Update(ctx, secret); err != nil {
			t.Fatal(err)
		}
	}
	has(map[string]string{v1alpha1.AnnotationExports: "1", "isthmus.dev/other": "x", v1alpha1.AnnotationAgentVersion: version.Version})
	say(map[string]string{v1alpha1.AnnotationExports: "2"})
	has(map[string]string{v1alpha1.AnnotationExports: "2", v1alpha1.AnnotationAgentVersion: version.Version})
	say(nil)
	has(map[string]string{v1alpha1.AnnotationAgentVersion: version.Version})
}
