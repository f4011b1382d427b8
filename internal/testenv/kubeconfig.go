package testenv

import (
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Kubeconfig returns a kubeconfig with the rights of cfg, for the API server of c or, if server is not empty, for that
// address, whose certificate must be the same.
func (c *Cluster) Kubeconfig(t testing.TB, cfg *rest.Config, server string) []byte {
	t.Helper()
	if server == "" {
		server = c.Config.Host
	}
	out, err := clientcmd.Write(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"c": {Server: server, CertificateAuthorityData: c.Config.CAData}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{"u": {
			Token:                 cfg.BearerToken,
			ClientCertificateData: cfg.CertData,
			ClientKeyData:         cfg.KeyData,
		}},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "x",
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
