package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const pidFile = "init.pid"

// killTimeout is how long the kernel may take to end all processes of a node.
const killTimeout = 20 * time.Second

// Start starts the node whose Spec is prepared and whose bridge is there. It returns as soon as init is on its way;
// Wait tells when that has ended.
func (s Spec) Start() (*exec.Cmd, error) {
	log, err := os.OpenFile(filepath.Join(s.Logs(), "init.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	gate, release, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer gate.Close()
	defer release.Close()

	init := exec.Command("/proc/self/exe", InitCommand, s.Dir)
	init.Stdout, init.Stderr = log, log
	init.ExtraFiles = []*os.File{gate}
	init.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	if err := init.Start(); err != nil {
		return nil, fmt.Errorf("start the node's init: %w", err)
	}
	if err := s.admit(init.Process.Pid); err != nil {
		return nil, errors.Join(err, init.Process.Kill(), init.Wait())
	}
	_, err = release.WriteString(goWord)
	return init, err
}

// admit puts a new init into its control groups and gives it its end of a cable.
func (s Spec) admit(pid int) error {
	for _, g := range s.Cgroups {
		if err := g.make(pid); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(s.Dir, pidFile), []byte(strconv.Itoa(pid)), 0o644); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"link", "add", s.Cluster.Veth, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(pid)},
		{"link", "set", s.Cluster.Veth, "master", s.Bridge, "up"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// PID is that of the node's init on the machine, or 0 when the node does not run. A PID that the kernel has given to
// another process is told by its control groups.
func (s Spec) PID() int {
	b, err := os.ReadFile(filepath.Join(s.Dir, pidFile))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(string(b))
	if err != nil || len(s.Cgroups) == 0 {
		return 0
	}
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || !strings.Contains(string(groups), "/"+filepath.Base(s.Cgroups[0].Dir)) {
		return 0
	}
	return pid
}

// Enter is a command that runs inside the node, with the administrator's kubeconfig.
func (s Spec) Enter(ctx context.Context, argv ...string) (*exec.Cmd, error) {
	pid := s.PID()
	if pid == 0 {
		return nil, fmt.Errorf("cluster %s: its node does not run", s.Cluster.Name)
	}
	args := []string{"--target", strconv.Itoa(pid), "--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--root", "--wd", "--"}
	cmd := exec.CommandContext(ctx, "nsenter", append(args, argv...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL} // nobody is left behind by a killed `lab up`
	cmd.Env = []string{"PATH=" + s.Bin + ":/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "KUBECONFIG=" + s.Kubeconfig("admin")}
	return cmd, nil
}

// InNetwork is a command of the machine that runs in the node's network namespace alone.
func (s Spec) InNetwork(ctx context.Context, argv ...string) (*exec.Cmd, error) {
	pid := s.PID()
	if pid == 0 {
		return nil, fmt.Errorf("cluster %s: its node does not run", s.Cluster.Name)
	}
	return exec.CommandContext(ctx, "nsenter", append([]string{"--target", strconv.Itoa(pid), "--net", "--"}, argv...)...), nil
}

// Kill ends the node, whatever state it is in, and removes what it leaves on the machine: control groups and the cable.
// The processes' own mounts and interfaces vanish with their namespaces.
func (s Spec) Kill() error {
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	var errs []error
	if pid := s.PID(); pid != 0 {
		if err := unix.Kill(pid, unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
			errs = append(errs, err)
		}
	}
	for _, g := range s.Cgroups {
		errs = append(errs, g.remove(ctx))
	}
	if _, err := os.Stat("/sys/class/net/" + s.Cluster.Veth); err == nil {
		// The kernel may be removing it at this moment; what counts is that it is gone.
		if out, err := exec.Command("ip", "link", "delete", s.Cluster.Veth).CombinedOutput(); err != nil {
			if _, err := os.Stat("/sys/class/net/" + s.Cluster.Veth); !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("ip link delete %s: %s", s.Cluster.Veth, out))
			}
		}
	}
	return errors.Join(errs...)
}
