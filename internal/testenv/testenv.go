// Package testenv starts real API servers for tests: a kube-apiserver and an etcd each, with the kinds of Isthmus
// installed. It needs KUBEBUILDER_ASSETS to name a directory that holds both binaries; `make test` sets it to what
// `lab build` made. It is imported by tests only.
package testenv

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

// Cluster is a running API server.
type Cluster struct {
	// Config has the rights of system:masters.
	Config *rest.Config
	// Client is uncached and has the rights of Config.
	Client client.Client
	// Env is the underlying environment, for users of other rights (AddUser).
	Env *envtest.Environment
}

// Root is the root directory of the module.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// Scheme knows the kinds of Kubernetes and of Isthmus.
func Scheme() *kruntime.Scheme {
	s := kruntime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(s))
	utilruntime.Must(v1alpha1.AddToScheme(s))
	return s
}

// Start starts an API server that ends with the test. crdDirs are further directories of CustomResourceDefinitions.
// Without the binaries the test is skipped; CI counts that as a failure by setting CI=true.
func Start(t testing.TB, crdDirs ...string) *Cluster {
	t.Helper()
	c, stop, err := start(crdDirs...)
	if err != nil {
		t.Fatal(err)
	}
	if c == nil {
		const why = "KUBEBUILDER_ASSETS does not name a directory with etcd and kube-apiserver; run `make test`, or `lab build` and set it"
		if os.Getenv("CI") != "" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Log(err)
		}
	})
	return c
}

func start(crdDirs ...string) (*Cluster, func() error, error) {
	lag, err := lagOfAll()
	if err != nil {
		return nil, nil, err
	}
	dir := os.Getenv("KUBEBUILDER_ASSETS")
	for _, b := range []string{"etcd", "kube-apiserver"} {
		if _, err := os.Stat(filepath.Join(dir, b)); dir == "" || err != nil {
			return nil, nil, nil //nolint:nilerr // absence is the answer
		}
	}
	env := &envtest.Environment{
		Scheme:                   Scheme(),
		CRDDirectoryPaths:        append([]string{filepath.Join(Root(), "charts", "isthmus-crds", "files")}, crdDirs...),
		ErrorIfCRDPathMissing:    true,
		BinaryAssetsDirectory:    dir,
		ControlPlaneStartTimeout: 2 * time.Minute,
		ControlPlaneStopTimeout:  20 * time.Second,
	}
	// Revocation of credentials rests on tokens that are bound to Secrets.
	env.ControlPlane.GetAPIServer().Configure().Set("authorization-mode", "RBAC").
		Set("service-cluster-ip-range", "10.0.0.0/16") // the default has no room for a benchmark's Services
	cfg, err := env.Start()
	if err != nil {
		return nil, nil, err
	}
	cfg.QPS, cfg.Burst = -1, 0
	c, err := client.New(cfg, client.Options{Scheme: env.Scheme})
	if err != nil {
		return nil, nil, err
	}
	return &Cluster{Config: Lag(cfg, lag), Client: c, Env: env}, env.Stop, nil
}

// Namespace creates a namespace.
func (c *Cluster) Namespace(t testing.TB, name string, labels map[string]string) {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	if err := client.IgnoreAlreadyExists(c.Client.Create(context.Background(), ns)); err != nil {
		t.Fatal(err)
	}
}

// Eventually polls until f returns nil and fails with f's last error after a minute.
func Eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// FreePorts are ports of 127.0.0.1 at which nobody listens, no two of them the same.
func FreePorts(t testing.TB, n int) (ports []string) {
	t.Helper()
	var held []net.Listener // until all are known
	defer func() {
		for _, l := range held {
			_ = l.Close()
		}
	}()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, l)
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, port)
	}
	return ports
}
