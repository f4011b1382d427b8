package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"
)

// Commands of the lab program that run in nodes; its main dispatches on them before anything else.
const (
	// InitCommand DIR waits for the word to go, enters a cgroup namespace and becomes BootCommand.
	InitCommand = "node-init"
	// BootCommand DIR is PID 1 of the node.
	BootCommand = "node-boot"
	// LoadBalancerCommand DIR gives Services of type LoadBalancer the node's address.
	LoadBalancerCommand = "node-load-balancer"
)

func loadBalancerArgs(dir string) []string { return []string{LoadBalancerCommand, dir} }

// goWord comes through the pipe when the process is in its control groups. A pipe that closes without it means that
// whoever started the node is gone.
const goWord = "go"

// Init is the first life of a node's PID 1.
func Init(dir string) error {
	if word, err := io.ReadAll(os.NewFile(3, "go")); err != nil || string(word) != goWord {
		return fmt.Errorf("whoever starts this node has gone away")
	}
	// A cgroup namespace has its root where the process is when it enters, and only the calling thread enters; exec then
	// leaves no other.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("new cgroup namespace: %w", err)
	}
	return unix.Exec("/proc/self/exe", []string{os.Args[0], BootCommand, dir}, os.Environ())
}

// Boot is PID 1 of a node: it makes the root file system and the network, starts the components and supervises them
// until it is killed.
func Boot(dir string) error {
	s, err := ReadSpec(dir)
	if err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(s.Cluster.Name)); err != nil {
		return err
	}
	if err := s.buildRoot(); err != nil {
		return err
	}
	for k, v := range map[string]string{"PATH": s.Bin + ":/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "KUBECONFIG": s.Kubeconfig("admin")} {
		if err := os.Setenv(k, v); err != nil {
			return err
		}
	}
	if err := s.configureNetwork(); err != nil {
		return err
	}

	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	sup := &supervisor{logs: s.Logs()}
	control, err := listenControl(s.Dir)
	if err != nil {
		return err
	}
	go serve(control, sup)
	started := make(chan error, 1)
	go func() { started <- s.startComponents(sup) }()
	for {
		select {
		case <-children:
			sup.reap()
		case err := <-started:
			if err != nil {
				return err
			}
			slog.Info("all components started")
			started = nil
		}
	}
}

func serve(l net.Listener, sup *supervisor) {
	slog.Error("control socket", "error", http.Serve(l, sup.handler()))
}

func (s Spec) startComponents(sup *supervisor) error {
	api, err := s.Client("admin")
	if err != nil {
		return err
	}
	ready := false
	for _, c := range s.components() {
		if c.afterAPI && !ready {
			if err := api.WaitReady(context.Background()); err != nil {
				return err
			}
			ready = true
		}
		if err := sup.add(c); err != nil {
			return fmt.Errorf("start %s: %w", c.name, err)
		}
	}
	return nil
}

// configureNetwork gives the node its address, and routes to the pods of the lab's other clusters by their nodes.
func (s Spec) configureNetwork() error {
	for key, value := range map[string]string{
		"net/ipv4/ip_forward":                "1",
		"net/ipv4/conf/all/rp_filter":        "0",
		"net/ipv4/conf/default/rp_filter":    "0",
		"net/bridge/bridge-nf-call-iptables": "1", // there only if the machine has br_netfilter
	} {
		file := "/proc/sys/" + key
		if err := os.WriteFile(file, []byte(value), 0o644); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	commands := [][]string{
		{"link", "set", "lo", "up"},
		{"address", "add", s.Cluster.NodeIP.String() + "/24", "dev", "eth0"},
		{"link", "set", "eth0", "up"},
		{"route", "add", "default", "via", s.Gateway},
	}
	for _, p := range s.Peers {
		commands = append(commands, []string{"route", "add", p.PodCIDR.String(), "via", p.NodeIP.String()})
	}
	for _, c := range commands {
		if out, err := exec.Command("ip", c...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", c, err, out)
		}
	}
	return nil
}
