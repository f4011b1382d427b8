package testenv

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/pki"
)

// Vault is a running OpenBao server, which speaks the API of Vault.
type Vault struct {
	// URL of the server, https://127.0.0.1:<port>.
	URL string
	// CABundle verifies its certificate, PEM.
	CABundle []byte
	// Token is the root token.
	Token string

	binary, dir, unsealKey string
	client                 *http.Client
	process                *exec.Cmd
}

// StartVault starts a server, initialised and unsealed, that ends with the test. It needs a bao-<version> beside the binaries of
// API servers, and does without it what Start does.
func StartVault(t testing.TB) *Vault {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "bao-*"))
	if os.Getenv("KUBEBUILDER_ASSETS") == "" || err != nil || len(found) == 0 {
		const why = "KUBEBUILDER_ASSETS does not name a directory with bao-<version>; run `make test`, or `lab build --only bao` and set it"
		if os.Getenv("CI") != "" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	address := "127.0.0.1:" + FreePorts(t, 1)[0]
	v := &Vault{URL: "https://" + address, binary: found[len(found)-1], dir: t.TempDir()}
	cert, key := v.certify(t)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(v.CABundle)
	v.client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool}}}
	data := filepath.Join(v.dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`
storage "raft" {
  path                   = %q
  node_id                = "one"
  performance_multiplier = 1
}
listener "tcp" {
  address         = %q
  cluster_address = "127.0.0.1:0"
  tls_cert_file   = %q
  tls_key_file    = %q
}
api_addr     = %q
cluster_addr = "https://127.0.0.1:1" # there is nobody else
`, data, address, cert, key, v.URL)
	if err := os.WriteFile(filepath.Join(v.dir, "config.hcl"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	v.Start(t)
	var keys struct {
		Keys  []string `json:"keys"`
		Token string   `json:"root_token"`
	}
	if err := json.Unmarshal(v.raw(t, http.MethodPut, "sys/init", map[string]any{"secret_shares": 1, "secret_threshold": 1}), &keys); err != nil {
		t.Fatal(err)
	}
	v.unsealKey, v.Token = keys.Keys[0], keys.Token
	v.Unseal(t)
	t.Cleanup(func() { v.Stop() })
	return v
}

// Start starts the server again after Stop: sealed, as every server starts.
func (v *Vault) Start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(v.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	v.process = exec.Command(v.binary, "server", "-config", filepath.Join(v.dir, "config.hcl"))
	v.process.Stdout, v.process.Stderr = log, log
	v.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := v.process.Start(); err != nil {
		t.Fatal(err)
	}
	Eventually(t, "OpenBao", func() error {
		resp, err := v.client.Get(v.URL + "/v1/sys/seal-status")
		if err == nil {
			_ = resp.Body.Close()
			return nil
		}
		text, _ := os.ReadFile(filepath.Join(v.dir, "log"))
		return fmt.Errorf("%w\n%s", err, text)
	})
}

// Stop ends the server.
func (v *Vault) Stop() {
	if v.process != nil {
		_ = v.process.Process.Kill()
		_ = v.process.Wait()
		v.process = nil
	}
}

// Pause has the server take connections and answer nothing, until Resume.
func (v *Vault) Pause(t testing.TB) {
	t.Helper()
	_ = v.process.Process.Signal(syscall.SIGSTOP)
	Eventually(t, "OpenBao to stop", func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", v.process.Process.Pid))
		if err == nil && !bytes.Contains(stat, []byte(") T ")) {
			err = errors.New("it runs")
		}
		return err
	})
}

// Resume ends Pause.
func (v *Vault) Resume() { _ = v.process.Process.Signal(syscall.SIGCONT) }

// Seal seals the server.
func (v *Vault) Seal(t testing.TB) { t.Helper(); v.raw(t, http.MethodPut, "sys/seal", nil) }

// Unseal unseals it, and waits until it serves.
func (v *Vault) Unseal(t testing.TB) {
	t.Helper()
	v.raw(t, http.MethodPut, "sys/unseal", map[string]any{"key": v.unsealKey})
	Eventually(t, "OpenBao to serve", func() error {
		resp, err := v.client.Get(v.URL + "/v1/sys/health")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
}

// Write writes to a path with the root token, and returns data or auth of the answer.
func (v *Vault) Write(t testing.TB, path string, in map[string]any) map[string]any {
	t.Helper()
	var answer struct {
		Data map[string]any `json:"data"`
		Auth map[string]any `json:"auth"`
	}
	if text := v.raw(t, http.MethodPost, path, in); len(text) > 0 {
		if err := json.Unmarshal(text, &answer); err != nil {
			t.Fatal(err)
		}
	}
	if answer.Auth != nil {
		return answer.Auth
	}
	return answer.Data
}

// Delete deletes what is at a path.
func (v *Vault) Delete(t testing.TB, path string) {
	t.Helper()
	v.raw(t, http.MethodDelete, path, nil)
}

// Try writes to a path with a token, and returns the HTTP status.
func (v *Vault) Try(t testing.TB, token, path string, in map[string]any) int {
	t.Helper()
	status, _ := v.send(t, token, http.MethodPost, path, in)
	return status
}

func (v *Vault) raw(t testing.TB, method, path string, in any) []byte {
	t.Helper()
	status, text := v.send(t, v.Token, method, path, in)
	if status >= 300 {
		t.Fatalf("%s %s: %d\n%s", method, path, status, text)
	}
	return text
}

func (v *Vault) send(t testing.TB, token, method, path string, in any) (int, []byte) {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(method, v.URL+"/v1/"+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", token)
	resp, err := v.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, text
}

// PKI mounts a PKI engine with a root of its own, and returns the root.
func (v *Vault) PKI(t testing.TB, mount, name string) pki.Root {
	t.Helper()
	v.Write(t, "sys/mounts/"+mount, map[string]any{"type": "pki", "config": map[string]any{"max_lease_ttl": "87600h"}})
	return v.NewRoot(t, mount, name)
}

// NewRoot makes another root in a PKI engine, under which that signs from then on; the former stays there.
func (v *Vault) NewRoot(t testing.TB, mount, name string) pki.Root {
	t.Helper()
	made := v.Write(t, mount+"/root/generate/internal", map[string]any{"common_name": name, "ttl": "87000h", "key_type": "ec", "key_bits": 256})
	v.Write(t, mount+"/config/issuers", map[string]any{"default": made["issuer_id"]})
	root, err := pki.ParseRoot([]byte(made["certificate"].(string)))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// SignerToken makes a token that may have intermediates signed by a mount, and lives so long.
func (v *Vault) SignerToken(t testing.TB, mount, ttl string) string {
	t.Helper()
	v.Policy(t, "isthmus", mount)
	return v.Write(t, "auth/token/create", map[string]any{"policies": []string{"isthmus"}, "ttl": ttl})["client_token"].(string)
}

// Policy makes a policy that permits what an agent needs of a mount.
func (v *Vault) Policy(t testing.TB, name, mount string) {
	t.Helper()
	v.Write(t, "sys/policies/acl/"+name, map[string]any{"policy": fmt.Sprintf(
		"path %q {\n capabilities = [\"create\", \"update\"]\n}\npath %q {\n capabilities = [\"create\", \"update\"]\n}\npath %q {\n capabilities = [\"create\", \"update\"]\n}\n",
		mount+"/root/sign-intermediate", mount+"/issuer/+/sign-intermediate", mount+"/intermediate/generate/exported")})
}

// certify writes a certificate for the server, under a CA of its own.
func (v *Vault) certify(t testing.TB) (cert, key string) {
	t.Helper()
	write := func(name string, text []byte) string {
		file := filepath.Join(v.dir, name)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	ca, certPEM, keyPEM := ServerCertificate(t, net.IPv4(127, 0, 0, 1))
	v.CABundle = ca
	return write("cert.pem", certPEM), write("key.pem", keyPEM)
}

// ServerCertificate makes a certificate for a server at an address, under a CA of its own. All is PEM.
func ServerCertificate(t testing.TB, address net.IP) (ca, cert, key []byte) {
	t.Helper()
	issue := func(template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if parent == nil {
			parent, parentKey = template, k
		}
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, k.Public(), parentKey)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c, k
	}
	above, aboveKey := issue(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA of the server"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	leaf, leafKey := issue(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "server"}, IPAddresses: []net.IP{address}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, above, aboveKey)
	der, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	return encode("CERTIFICATE", above.Raw), encode("CERTIFICATE", leaf.Raw), encode("PRIVATE KEY", der)
}
