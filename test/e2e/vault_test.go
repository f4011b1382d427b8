package e2e

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/pki"
	"github.com/isthmus-mesh/isthmus/internal/testenv"
)

// TestVault follows the guide to intermediates by Vault: an OpenBao server runs in the management cluster, and the agents of both
// clusters ask it, with a token first and then by Kubernetes. The meshes join under a root of it, it is away for a while, and the
// root is replaced there. Not one request may fail.
func TestVault(t *testing.T) {
	takesLong(t)
	w := newWorld(t, "e2e-vault")
	v := startVault(t, w)
	v.prepare(t)
	w.installAs(t, nil, []string{"--set", "kubeletProjection=5s", "--set", "vault.servers={" + v.url + "}"}, management, remote)
	for _, context := range []string{management, remote} {
		w.deploy(t, context, caller)
		w.seesFailures(t, context, caller, "http://ratings:9080")
	}
	inOrder(t, v, []scenario[*vault]{
		{"Adoption", vaultAdoption},
		{"Away", vaultAway},
		{"Login", vaultLogin},
		{"Rotation", vaultRotation},
	})
}

// vault is an OpenBao server in the management cluster, and whoever administers it.
type vault struct {
	*world
	// program is OpenBao's own command; env has it speak to the server.
	program string
	// admin is the world of who administers it: its environment names the server.
	admin *world
	url   string
	// ca verifies the certificate of the server, PEM.
	ca, unsealKey string
	// dir is for files.
	dir string
}

// startVault runs OpenBao as a Deployment behind a load balancer, with a certificate for the address of that.
func startVault(t *testing.T, w *world) *vault {
	t.Helper()
	v := &vault{world: w, program: labProgram(t, "bao-*"), dir: t.TempDir()}
	w.run(t, 2*time.Minute, "lab", "load", "--name", w.name, "--cluster", cluster(management), "--ref", "lab.local/bao:1", "--binary", v.program)
	w.apply(t, management, `
apiVersion: v1
kind: Namespace
metadata: {name: vault}
---
apiVersion: v1
kind: Service
metadata: {name: vault, namespace: vault}
spec: {type: LoadBalancer, selector: {app: vault}, ports: [{name: https, port: 8200}]}
`)
	w.kubectl(t, management, "-n", "vault", "wait", "--for=jsonpath={.status.loadBalancer.ingress[0].ip}", "--timeout=60s", "service/vault")
	address := w.jsonpath(management, "{.status.loadBalancer.ingress[0].ip}", "-n", "vault", "service", "vault")
	v.url = "https://" + address + ":8200"
	ca, cert, key := testenv.ServerCertificate(t, net.ParseIP(address))
	v.ca = string(ca)
	configuration, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]string{"name": "vault", "namespace": "vault"},
		"stringData": map[string]string{"cert.pem": string(cert), "key.pem": string(key), "config.hcl": fmt.Sprintf(`
storage "raft" {
  path    = "/data"
  node_id = "one"
}
listener "tcp" {
  address       = "0.0.0.0:8200"
  tls_cert_file = "/config/cert.pem"
  tls_key_file  = "/config/key.pem"
}
api_addr     = %q
cluster_addr = "https://127.0.0.1:8201" # there is nobody else
`, v.url)},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.apply(t, management, string(configuration))
	w.apply(t, management, fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: vault, namespace: vault}
spec:
  selector: {matchLabels: {app: vault}}
  strategy: {type: Recreate}
  template:
    metadata: {labels: {app: vault}}
    spec:
      containers:
      - name: vault
        image: lab.local/bao:1
        imagePullPolicy: IfNotPresent
        args: [server, -config=/config/config.hcl]
        securityContext: {runAsUser: 0}
        readinessProbe: {tcpSocket: {port: 8200}, periodSeconds: 1}
        volumeMounts: [{name: config, mountPath: /config}, {name: data, mountPath: /data}]
      volumes:
      - {name: config, secret: {secretName: vault}}
      - {name: data, hostPath: {path: /var/lib/vault-%d, type: DirectoryOrCreate}}
`, time.Now().UnixNano()))
	w.kubectl(t, management, "-n", "vault", "rollout", "status", "deploy/vault", "--timeout=90s")
	admin := *w
	admin.env = append(slices.Clone(w.env), "BAO_ADDR="+v.url, "BAO_CACERT="+v.file(t, "ca.pem", v.ca))
	v.admin = &admin
	var keys struct {
		Keys  []string `json:"unseal_keys_b64"`
		Token string   `json:"root_token"`
	}
	if err := json.Unmarshal([]byte(v.bao(t, "operator", "init", "-key-shares=1", "-key-threshold=1", "-format=json")), &keys); err != nil {
		t.Fatal(err)
	}
	v.unsealKey = keys.Keys[0]
	admin.env = append(admin.env, "BAO_TOKEN="+keys.Token)
	v.unseal(t)
	return v
}

func (v *vault) file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(v.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// bao runs OpenBao's command as its administrator.
func (v *vault) bao(t *testing.T, args ...string) string {
	t.Helper()
	return v.admin.run(t, time.Minute, v.program, args...)
}

// unseal has a server that has started serve.
func (v *vault) unseal(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, "Vault is unsealed", func() error {
		_, err := v.admin.try(20*time.Second, v.program, "operator", "unseal", v.unsealKey)
		return err
	})
	eventually(t, time.Minute, "Vault serves", func() error {
		_, err := v.admin.try(20*time.Second, v.program, "token", "lookup")
		return err
	})
}

// prepare does the guide's first part: an engine with a root, and a policy for each cluster.
func (v *vault) prepare(t *testing.T) {
	t.Helper()
	v.bao(t, "secrets", "enable", "pki")
	v.bao(t, "secrets", "tune", "-max-lease-ttl=87600h", "pki")
	v.bao(t, "write", "pki/root/generate/internal", "common_name=Example root 1", "issuer_name=root-1", "ttl=87600h")
	const limits = `
path "pki/%s/sign-intermediate" {
  capabilities        = ["create", "update"]
  required_parameters = ["max_path_length", "use_csr_values", "uri_sans"]
  allowed_parameters = {
    "max_path_length" = ["0"]
    "use_csr_values"  = ["false"]
    "uri_sans"        = ["spiffe://cluster.local/ns/istio-system/sa/istiod"]
    "*"               = []
  }
}
`
	for _, context := range []string{management, remote} {
		policy := fmt.Sprintf(limits, "root") + fmt.Sprintf(limits, "issuer/+")
		v.bao(t, "policy", "write", cluster(context), v.file(t, "policy.hcl", policy))
	}
}

// spec is intermediateCertificateAuthority, with a login, and the options of the intermediates, JSON.
func (v *vault) spec(login, organization string) string {
	return fmt.Sprintf(`{"intermediateCertificateAuthority":{"vault":{"server":%q,"caPath":"pki/root/sign-intermediate","caBundle":%q,%s}},`+
		`"intermediateCertOptions":{"ttlDays":90,"orgName":%q}}`, v.url, base64.StdEncoding.EncodeToString([]byte(v.ca)), login, organization)
}

// The ways to log in.
const (
	byToken      = `"tokenSecretRef":{"name":"vault-token"},"kubernetesAuth":null`
	byKubernetes = `"tokenSecretRef":null,"kubernetesAuth":{"mountPath":"/v1/auth/kubernetes-{cluster}","role":"isthmus"}`
)

// root is the root that the engine signs under.
func (v *vault) root(t *testing.T) pki.Root {
	t.Helper()
	r, err := pki.ParseRoot([]byte(v.bao(t, "read", "-field=certificate", "pki/issuer/default")))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// trusted makes sure that all trust the engine's root, and no other: the hub says so, istiods have it published, and what
// workloads present ends there.
func (v *vault) trusted(t *testing.T) {
	t.Helper()
	root := v.root(t)
	if deployed := v.jsonpath(management, "{.status.deployedSharedTrust.root}", "-n", "isthmus-system", "virtualmesh", "virtual-mesh"); deployed != root.ID().String() {
		t.Errorf("deployed is %s, and Vault's root is %s", deployed, root.ID())
	}
	for context, deployment := range map[string]string{management: "reviews-v1", remote: "reviews-v3"} {
		bundle := parse([]byte(v.jsonpath(context, `{.data.root-cert\.pem}`, "-n", "default", "configmap", "istio-ca-root-cert")))
		if len(bundle) != 1 || !root.Certificate().Equal(bundle[0]) {
			t.Errorf("%s: %d roots of trust, or another one than Vault's", context, len(bundle))
		}
		chain, err := v.chain(context, deployment)
		if err != nil {
			t.Fatal(err)
		}
		if err := trusts(root.Certificate(), chain); err != nil {
			t.Errorf("%s: %v", context, err)
		}
	}
}

// renewed waits until each mesh has another intermediate than before, which issuance was read from.
func (v *vault) renewed(t *testing.T, before map[string]string) {
	t.Helper()
	for _, context := range v.contexts {
		eventually(t, 3*time.Minute, "the new intermediate of "+cluster(context), func() error {
			if now := issuance(v.world, cluster(context)); now == before[context] || !strings.HasSuffix(now, "/FINISHED") {
				return errors.New(now)
			}
			return nil
		})
	}
	v.ready(t, "virtual-mesh", 2*time.Minute)
}

func (v *vault) issuances() map[string]string {
	out := map[string]string{}
	for _, context := range v.contexts {
		out[context] = issuance(v.world, cluster(context))
	}
	return out
}

// vaultAdoption: meshes with roots of their own join under that of Vault.
func vaultAdoption(t *testing.T, v *vault) {
	for _, context := range v.contexts {
		token := v.bao(t, "token", "create", "-policy="+cluster(context), "-period=768h", "-field=token")
		v.kubectl(t, context, "-n", "isthmus-agent", "create", "secret", "generic", "vault-token", "--from-literal=token="+token)
	}
	stop := talk(t, v.world, caller, false)
	proxies := v.proxies(t)
	v.apply(t, management, `
apiVersion: isthmus.dev/v1alpha1
kind: VirtualMesh
metadata: {name: virtual-mesh, namespace: isthmus-system}
spec:
  mtlsConfig:
    autoRestartPods: true
    shared: `+v.spec(byToken, "first")+`
  meshes:
  - name: istiod-istio-system-management-plane
  - name: istiod-istio-system-remote-cluster
`)
	v.ready(t, "virtual-mesh", 5*time.Minute)
	stop()
	v.unchanged(t, proxies)
	v.trusted(t)
	acquaint(t, v.world)
}

// vaultAway: while Vault is away, what is in use goes on being used, the status says what is wrong, and what was ordered meanwhile
// comes when it is back. A Vault that was killed comes back sealed.
func vaultAway(t *testing.T, v *vault) {
	stop := talk(t, v.world, caller, true)
	before := v.issuances()
	versions := map[string]string{management: cacertsVersion(v.world, management), remote: cacertsVersion(v.world, remote)}
	says := func(reason, remedy string) {
		t.Helper()
		eventually(t, 2*time.Minute, "the status says "+reason, func() error {
			status, why, message := v.condition("virtual-mesh", "VaultReachable")
			if status != "False" || why != reason || !strings.Contains(message, remedy) {
				return fmt.Errorf("VaultReachable is %s, %s: %s", status, why, message)
			}
			return nil
		})
	}
	v.kubectl(t, management, "-n", "vault", "scale", "deploy/vault", "--replicas=0")
	v.kubectl(t, management, "-n", "vault", "delete", "pods", "--all", "--grace-period=0", "--force")
	reissue(t, v.world, "second")
	says("VaultUnreachable", "see that it runs and is reachable")
	v.kubectl(t, management, "-n", "vault", "scale", "deploy/vault", "--replicas=1")
	says("VaultSealed", "unseal it")
	if out, err := v.try(time.Minute, "meshctl", "check", "--context", management); err == nil || !strings.Contains(out, "unseal it") {
		t.Errorf("meshctl check: %v\n%s", err, out)
	}
	for context, version := range versions {
		if now := cacertsVersion(v.world, context); now != version {
			t.Errorf("%s: cacerts was written while Vault was away", context)
		}
	}
	v.unseal(t)
	v.renewed(t, before)
	eventually(t, 3*time.Minute, "the status says that Vault is back", func() error {
		if status, why, message := v.condition("virtual-mesh", "VaultReachable"); status != "True" {
			return fmt.Errorf("VaultReachable is %s, %s: %s", status, why, message)
		}
		return nil
	})
	stop()
}

// vaultLogin: instead of a token that is stored, each agent logs in with its ServiceAccount. That is no rotation.
func vaultLogin(t *testing.T, v *vault) {
	for _, context := range v.contexts {
		v.apply(t, context, `
apiVersion: v1
kind: ServiceAccount
metadata: {name: vault-reviewer, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: vault-reviewer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:auth-delegator}
subjects: [{kind: ServiceAccount, name: vault-reviewer, namespace: kube-system}]
---
apiVersion: v1
kind: Secret
metadata: {name: vault-reviewer, namespace: kube-system, annotations: {kubernetes.io/service-account.name: vault-reviewer}}
type: kubernetes.io/service-account-token
`)
		v.kubectl(t, context, "-n", "kube-system", "wait", "--for=jsonpath={.data.token}", "--timeout=60s", "secret/vault-reviewer")
		decoded := func(key string) string {
			return v.kubectl(t, context, "-n", "kube-system", "get", "secret", "vault-reviewer", "-o", `go-template={{index .data "`+key+`" | base64decode}}`)
		}
		server := v.kubectl(t, context, "config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")
		path := "kubernetes-" + cluster(context)
		v.bao(t, "auth", "enable", "-path="+path, "kubernetes")
		v.bao(t, "write", "auth/"+path+"/config", "kubernetes_host="+server, "kubernetes_ca_cert=@"+v.file(t, "cluster-ca.pem", decoded("ca.crt")),
			"token_reviewer_jwt=@"+v.file(t, "reviewer.jwt", decoded("token")), "disable_local_ca_jwt=true")
		v.bao(t, "write", "auth/"+path+"/role/isthmus", "audience=vault", "token_policies="+cluster(context), "token_ttl=10m",
			"bound_service_account_names=isthmus-agent", "bound_service_account_namespaces=isthmus-agent")
	}
	stop := talk(t, v.world, caller, true)
	before, last := v.issuances(), v.rotation().RotationID
	patchVM(t, v.world, `{"spec":{"mtlsConfig":{"shared":`+v.spec(byKubernetes, "third")+`}}}`)
	v.renewed(t, before)
	stop()
	for _, context := range v.contexts {
		v.kubectl(t, context, "-n", "isthmus-agent", "delete", "secret", "vault-token")
	}
	if now := v.rotation().RotationID; now != last {
		t.Errorf("another login began rotation %s", now)
	}
	v.trusted(t)
}

// vaultRotation replaces the root at Vault.
func vaultRotation(t *testing.T, v *vault) {
	stop := talk(t, v.world, caller, true)
	proxies, before, old := v.proxies(t), v.rotation().RotationID, v.root(t)
	start := time.Now()
	v.bao(t, "write", "pki/root/rotate/internal", "common_name=Example root 2", "ttl=87600h", "issuer_name=root-2")
	v.bao(t, "write", "pki/config/issuers", "default=root-2")
	steps := v.finished(t, before, 10*time.Minute)
	t.Logf("finished after %.0f s: %s", time.Since(start).Seconds(), steps)
	v.ready(t, "virtual-mesh", time.Minute)
	v.bao(t, "delete", "pki/issuer/root-1")
	stop()
	v.unchanged(t, proxies)
	if v.root(t).ID() == old.ID() {
		t.Fatal("Vault's root is the same")
	}
	v.trusted(t)
}
