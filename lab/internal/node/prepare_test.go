package node

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/lab/internal/topology"
)

func prepared(t *testing.T, o topology.Options) Spec {
	t.Helper()
	lab, err := topology.Plan("default", 0, []string{"a", "b"}, o)
	if err != nil {
		t.Fatal(err)
	}
	s := Spec{Lab: lab.Name, Dir: t.TempDir(), Cluster: lab.Clusters[0], Peers: lab.Others("a"), Gateway: lab.Gateway.String(), Bridge: lab.Bridge, Options: o}
	if err := s.Prepare(); err != nil {
		t.Fatal(err)
	}
	return s
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestKubeletDefaults(t *testing.T) {
	for defaults, fast := range map[bool]bool{false: true, true: false} {
		s := prepared(t, topology.Options{KubeletDefaults: defaults})
		config := read(t, s.conf("kubelet.yaml"))
		if got := strings.Contains(config, "syncFrequency: 1s"); got != fast {
			t.Errorf("kubelet defaults %v: fast sync %v:\n%s", defaults, got, config)
		}
		if !strings.Contains(config, `clusterDNS: ["10.150.0.10"]`) {
			t.Errorf("not the cluster's DNS address:\n%s", config)
		}
	}
}

func TestSpecIsReadAsItWasWritten(t *testing.T) {
	s := prepared(t, topology.Options{IstiodReplicas: 2})
	got, err := ReadSpec(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.Cluster != s.Cluster || got.Gateway != s.Gateway || got.Options.IstiodReplicas != 2 || len(got.Peers) != 1 || got.Peers[0] != s.Peers[0] {
		t.Errorf("got %+v, want %+v", got, s)
	}
}

func TestSecretsAreForRootAlone(t *testing.T) {
	s := prepared(t, topology.Options{})
	for _, dir := range []string{s.PKI(), filepath.Dir(s.Kubeconfig("admin"))} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			t.Errorf("%s is empty", dir)
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s may be read by others: %s", e.Name(), info.Mode())
			}
		}
	}
}

func TestComponentsAreWhoRBACExpects(t *testing.T) {
	s := prepared(t, topology.Options{})
	for file, want := range map[string]string{
		"kubelet": "CN=system:node:a,O=system:nodes", "kube-scheduler": "CN=system:kube-scheduler",
		"kube-controller-manager": "CN=system:kube-controller-manager", "admin": "CN=admin,O=system:masters",
	} {
		block, _ := pem.Decode([]byte(read(t, s.pki(file+".crt"))))
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if got := cert.Subject.String(); got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
}

func TestControlPlaneOnly(t *testing.T) {
	var names []string
	for _, c := range (Spec{Options: topology.Options{ControlPlaneOnly: true}}).components() {
		names = append(names, c.name)
	}
	if got := strings.Join(names, " "); got != "etcd kube-apiserver" {
		t.Errorf("a control plane alone runs %q", got)
	}
}
