package node

import (
	"bytes"
	"embed"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"text/template"

	"github.com/isthmus-mesh/isthmus/lab/internal/kubeapi"
	"github.com/isthmus-mesh/isthmus/lab/internal/kubeconfig"
	"github.com/isthmus-mesh/isthmus/lab/internal/pki"
	"github.com/isthmus-mesh/isthmus/lab/internal/topology"
)

//go:embed files
var files embed.FS

var configs = template.Must(template.ParseFS(files, "files/*"))

// users are those of the API server that the node's components are, by the name of their kubeconfig.
var users = map[string]struct {
	name   string
	groups []string
}{
	"admin":                   {"admin", []string{"system:masters"}},
	"kube-controller-manager": {"system:kube-controller-manager", nil},
	"kube-scheduler":          {"system:kube-scheduler", nil},
	"kube-proxy":              {"system:kube-proxy", nil},
	"load-balancer":           {"lab:load-balancer", nil},
}

// frontProxyClient is who the API server is to aggregated API servers.
const frontProxyClient = "front-proxy-client"

// Prepare fills the cluster's directory: the spec, certificates, kubeconfigs and the components' configuration.
func (s Spec) Prepare() error {
	for _, d := range []string{"pki", "kubeconfig", "conf", "log", "root", "var/lib/kubelet", "var/lib/containerd", "var/lib/cni", "var/log/pods", "var/log/containers"} {
		if err := os.MkdirAll(filepath.Join(s.Dir, d), 0o755); err != nil {
			return err
		}
	}
	spec, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.Dir, specFile), spec, 0o644); err != nil {
		return err
	}
	for _, t := range configs.Templates() {
		var b bytes.Buffer
		if err := t.Execute(&b, s); err != nil {
			return err
		}
		if err := os.WriteFile(s.conf(t.Name()), b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return s.certificates()
}

func (s Spec) certificates() error {
	ca, err := pki.NewCA(s.Cluster.Name + "-kubernetes-ca")
	if err != nil {
		return err
	}
	c, loopback := s.Cluster, netip.AddrFrom4([4]byte{127, 0, 0, 1})
	apiserver, err := ca.Server("kube-apiserver",
		[]string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + topology.ClusterDomain},
		[]netip.Addr{loopback, c.NodeIP, c.KubernetesIP})
	if err != nil {
		return err
	}
	kubeletServer, err := ca.Server(c.Name, []string{c.Name}, []netip.Addr{loopback, c.NodeIP})
	if err != nil {
		return err
	}
	frontProxyCA, err := pki.NewCA(c.Name + "-front-proxy-ca")
	if err != nil {
		return err
	}
	frontProxy, err := frontProxyCA.Client(frontProxyClient)
	if err != nil {
		return err
	}
	tokenKey, tokenPub, err := pki.SigningKey()
	if err != nil {
		return err
	}
	pems := map[string][]byte{
		"ca.crt": ca.Cert, "ca.key": ca.Key,
		"apiserver.crt": apiserver.Cert, "apiserver.key": apiserver.Key,
		"kubelet-server.crt": kubeletServer.Cert, "kubelet-server.key": kubeletServer.Key,
		"front-proxy-ca.crt": frontProxyCA.Cert, "front-proxy-client.crt": frontProxy.Cert, "front-proxy-client.key": frontProxy.Key,
		"service-account.key": tokenKey, "service-account.pub": tokenPub,
	}
	sign := func(file, user string, groups ...string) error {
		pair, err := ca.Client(user, groups...)
		if err != nil {
			return err
		}
		pems[file+".crt"], pems[file+".key"] = pair.Cert, pair.Key
		config, err := kubeconfig.Render(s.entry(file, ca.Cert, pair))
		if err != nil {
			return err
		}
		return os.WriteFile(s.Kubeconfig(file), config, 0o600)
	}
	for file, u := range users {
		if err := sign(file, u.name, u.groups...); err != nil {
			return err
		}
	}
	if err := sign("kubelet", "system:node:"+c.Name, "system:nodes"); err != nil {
		return err
	}
	for name, text := range pems {
		if err := os.WriteFile(s.pki(name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (s Spec) entry(user string, ca []byte, pair pki.Pair) kubeconfig.Entry {
	c := s.Cluster
	return kubeconfig.Entry{Context: c.Context, Cluster: c.Name, User: c.Name + "-" + user, Server: c.Server(), CA: ca, Cert: pair.Cert, Key: pair.Key}
}

// Admin is the administrator's entry of a kubeconfig.
func (s Spec) Admin() (kubeconfig.Entry, error) {
	ca, pair, err := s.credentials("admin")
	return s.entry("admin", ca, pair), err
}

// Client makes a client of the cluster's API server for a user who has a kubeconfig.
func (s Spec) Client(user string) (*kubeapi.Client, error) {
	ca, pair, err := s.credentials(user)
	if err != nil {
		return nil, err
	}
	return kubeapi.New(s.Cluster.Server(), ca, pair.Cert, pair.Key)
}

func (s Spec) credentials(user string) (ca []byte, p pki.Pair, err error) {
	for file, text := range map[string]*[]byte{"ca.crt": &ca, user + ".crt": &p.Cert, user + ".key": &p.Key} {
		if *text, err = os.ReadFile(s.pki(file)); err != nil {
			return nil, pki.Pair{}, err
		}
	}
	return ca, p, nil
}
