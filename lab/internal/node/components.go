package node

import (
	"fmt"

	"github.com/isthmus-mesh/isthmus/lab/internal/topology"
)

// component is a process of the node that its init keeps running.
type component struct {
	name string
	argv []string
	// afterAPI: started first when the API server is ready. (A controller manager that finds no roles gives up.)
	afterAPI bool
}

// components are those of the node, in the order of their start.
func (s Spec) components() []component {
	c := s.Cluster
	leaderless := []string{"--leader-elect=false", "--bind-address=127.0.0.1", "--cert-dir=" + s.PKI()}
	asItself := func(name string) []string {
		k := s.Kubeconfig(name)
		return []string{"--kubeconfig=" + k, "--authentication-kubeconfig=" + k, "--authorization-kubeconfig=" + k}
	}
	apiserver := []string{"kube-apiserver",
		"--etcd-servers=http://127.0.0.1:2379",
		"--bind-address=0.0.0.0", fmt.Sprintf("--secure-port=%d", topology.APIServerPort),
		"--advertise-address=" + c.NodeIP.String(),
		"--cert-dir=" + s.PKI(),
		"--tls-cert-file=" + s.pki("apiserver.crt"), "--tls-private-key-file=" + s.pki("apiserver.key"),
		"--client-ca-file=" + s.pki("ca.crt"),
		"--kubelet-certificate-authority=" + s.pki("ca.crt"),
		"--kubelet-client-certificate=" + s.pki("admin.crt"), "--kubelet-client-key=" + s.pki("admin.key"),
		// Aggregated API servers trust requests that the API server passes on with this certificate.
		"--proxy-client-cert-file=" + s.pki("front-proxy-client.crt"), "--proxy-client-key-file=" + s.pki("front-proxy-client.key"),
		"--requestheader-client-ca-file=" + s.pki("front-proxy-ca.crt"), "--requestheader-allowed-names=" + frontProxyClient,
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--service-cluster-ip-range=" + c.ServiceCIDR.String(),
		"--service-account-issuer=https://kubernetes.default.svc." + topology.ClusterDomain,
		"--service-account-key-file=" + s.pki("service-account.pub"),
		"--service-account-signing-key-file=" + s.pki("service-account.key"),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--profiling=false",
	}
	controlPlane := []component{
		{name: "etcd", argv: []string{"etcd",
			"--name=" + c.Name, "--data-dir=" + s.Dir + "/etcd",
			"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
			"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
			"--initial-cluster=" + c.Name + "=http://127.0.0.1:2380",
			"--unsafe-no-fsync"}},
		{name: "kube-apiserver", argv: apiserver},
	}
	if s.Options.ControlPlaneOnly {
		return controlPlane
	}
	return append(controlPlane,
		component{name: "containerd", argv: []string{"containerd", "--config=" + s.conf("containerd.toml")}},
		component{name: "kube-controller-manager", afterAPI: true, argv: join(
			[]string{"kube-controller-manager"}, asItself("kube-controller-manager"), leaderless,
			[]string{
				"--use-service-account-credentials=true",
				"--service-account-private-key-file=" + s.pki("service-account.key"),
				"--root-ca-file=" + s.pki("ca.crt"),
				"--cluster-signing-cert-file=" + s.pki("ca.crt"), "--cluster-signing-key-file=" + s.pki("ca.key"),
				"--allocate-node-cidrs=false",
				// The defaults (20 and 30) make the first service accounts' tokens wait for seconds.
				"--kube-api-qps=500", "--kube-api-burst=1000",
				// The only node does not go away: it is slow, or its API server was killed by a test.
				"--node-monitor-grace-period=30m",
			})},
		component{name: "kube-scheduler", afterAPI: true, argv: join([]string{"kube-scheduler"}, asItself("kube-scheduler"), leaderless)},
		component{name: "kubelet", afterAPI: true, argv: []string{"kubelet",
			"--config=" + s.conf("kubelet.yaml"), "--kubeconfig=" + s.Kubeconfig("kubelet"),
			"--hostname-override=" + c.Name, "--node-ip=" + c.NodeIP.String(), "--root-dir=/var/lib/kubelet"}},
		component{name: "kube-proxy", afterAPI: true, argv: []string{"kube-proxy",
			"--config=" + s.conf("kube-proxy.yaml"), "--hostname-override=" + c.Name}},
		// This very program, found although it lies outside of the node's root.
		component{name: "load-balancer", afterAPI: true, argv: append([]string{"/proc/1/exe"}, loadBalancerArgs(s.Dir)...)},
	)
}

func join(lists ...[]string) (all []string) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}
