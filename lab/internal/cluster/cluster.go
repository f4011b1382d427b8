// Package cluster brings a node up to a working Kubernetes cluster: images, DNS, the rights of its components. It runs
// on the machine and uses the built kubectl. Of Istio and of workloads it knows nothing.
package cluster

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/isthmus-mesh/isthmus/lab/internal/node"
)

// CoreDNSImage is the reference of the cluster's DNS server.
const CoreDNSImage = "lab.local/coredns:1.15.0"

//go:embed addons
var addons embed.FS

var addonTemplates = template.Must(template.ParseFS(addons, "addons/*"))

// Cluster is a cluster whose node is prepared.
type Cluster struct{ node.Spec }

// WaitReady waits until the API server is ready.
func (c Cluster) WaitReady(ctx context.Context) error {
	api, err := c.Client("admin")
	if err != nil {
		return err
	}
	return api.WaitReady(ctx)
}

// Kubectl runs kubectl as the administrator and returns what it prints.
func (c Cluster) Kubectl(ctx context.Context, args ...string) ([]byte, error) {
	return c.kubectl(ctx, nil, args...)
}

// Apply applies manifests on the server's side.
func (c Cluster) Apply(ctx context.Context, manifests []byte) error {
	_, err := c.kubectl(ctx, bytes.NewReader(manifests), "apply", "--server-side", "--force-conflicts", "-f", "-")
	return err
}

func (c Cluster) kubectl(ctx context.Context, in io.Reader, args ...string) ([]byte, error) {
	return c.Run(ctx, in, "kubectl", args...)
}

// Run runs one of the built client programs on the machine, as the administrator.
func (c Cluster) Run(ctx context.Context, in io.Reader, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.Bin, program), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig("admin"), "NO_PROXY="+c.Cluster.NodeIP.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // nobody is left behind by a killed `lab up`
	cmd.Stdin = in
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return out, fmt.Errorf("%s %s in cluster %s: %w: %s", program, strings.Join(args, " "), c.Cluster.Name, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

// Image is an image's archive and the reference that it holds.
type Image struct{ Archive, Ref string }

// Images lists the built images: NAME.tar beside NAME.tar.ref.
func Images(dir string) ([]Image, error) {
	refs, err := filepath.Glob(filepath.Join(dir, "*.tar.ref"))
	if err != nil {
		return nil, err
	}
	var images []Image
	for _, file := range refs {
		ref, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		images = append(images, Image{Archive: strings.TrimSuffix(file, ".ref"), Ref: strings.TrimSpace(string(ref))})
	}
	return images, nil
}

// Import reads an image archive, which lies anywhere on the machine, into the node's containerd.
func (c Cluster) Import(ctx context.Context, archive string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd, err := c.Enter(ctx, "ctr", "--namespace", "k8s.io", "images", "import", "--local", "--snapshotter", "overlayfs", "-")
	if err != nil {
		return err
	}
	cmd.Stdin = f
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("import %s into cluster %s: %w: %s", archive, c.Cluster.Name, err, out)
	}
	return nil
}

// Addons installs the rights of the components and DNS.
func (c Cluster) Addons(ctx context.Context) error {
	var manifests bytes.Buffer
	for _, t := range addonTemplates.Templates() {
		manifests.WriteString("---\n")
		if err := t.Execute(&manifests, c); err != nil {
			return err
		}
	}
	return c.Apply(ctx, manifests.Bytes())
}

// CoreDNSImage is for the templates.
func (Cluster) CoreDNSImage() string { return CoreDNSImage }

// WaitAvailable waits until Deployments have as many ready pods as they want.
func (c Cluster) WaitAvailable(ctx context.Context, namespace string, deployments ...string) error {
	args := []string{"wait", "--for=condition=Available", "--timeout=-1s", "--namespace", namespace, "deployment"}
	_, err := c.Kubectl(ctx, append(args, deployments...)...)
	return err
}

// WaitContainerd waits until the node's containerd listens.
func (c Cluster) WaitContainerd(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		// The socket, seen from the machine through the root of the node's init.
		conn, err := net.Dial("unix", fmt.Sprintf("/proc/%d/root/run/containerd/containerd.sock", c.PID()))
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("containerd of cluster %s does not listen: %w", c.Cluster.Name, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
