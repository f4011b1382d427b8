package node

import (
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}

// show makes a directory of the machine, without what is mounted below it, visible at a path of the node's future root.
func show(source, target string, flags uintptr) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := mount(source, target, "", unix.MS_BIND|flags, ""); err != nil {
		return err
	}
	if flags&unix.MS_RDONLY == 0 {
		return nil
	}
	return mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|flags, "") // a bind mount takes no flags at once
}

// etc are the few files of /etc that the components read.
func (s Spec) etc() map[string]string {
	id := fnv.New128a()
	id.Write([]byte(s.Lab + "/" + s.Cluster.Name))
	return map[string]string{ //nolint:gosec // the file named passwd holds no password
		"hostname":      s.Cluster.Name + "\n",
		"hosts":         fmt.Sprintf("127.0.0.1 localhost\n%s %s\n", s.Cluster.NodeIP, s.Cluster.Name),
		"resolv.conf":   "",
		"machine-id":    fmt.Sprintf("%x\n", id.Sum(nil)),
		"passwd":        "root:x:0:0:root:/root:/bin/sh\n",
		"group":         "root:x:0:\n",
		"nsswitch.conf": "hosts: files dns\n",
		"os-release":    "ID=isthmus-lab\nPRETTY_NAME=\"Isthmus lab\"\n",
		// Without it nft prints protocols by number, and a restarted kube-proxy takes its own entries for strangers'.
		"protocols": "icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nipv6-icmp 58 IPv6-ICMP\nsctp 132 SCTP\n",
	}
}

// sysctls are what the kubelet insists on. They are the machine's, not a namespace's: the kubelet is shown files that hold
// the values that it wants, and the machine is left as it is.
var sysctls = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// buildRoot makes the node's root file system, a tmpfs with /usr and the parts of the machine bound in, and makes it the
// root of this mount namespace.
func (s Spec) buildRoot() error {
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	root := filepath.Join(s.Dir, "root")
	if err := mount("tmpfs", root, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	in := func(path string) string { return filepath.Join(root, path) }
	for _, d := range []string{"proc", "sys", "run", "tmp", "etc/cni/net.d", "root"} {
		if err := os.MkdirAll(in(d), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(in("tmp"), 0o1777); err != nil {
		return err
	}
	for _, l := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+l, in(l)); err != nil {
			return err
		}
	}
	for _, m := range []struct {
		source, target string
		flags          uintptr
	}{
		{"/usr", "usr", unix.MS_REC | unix.MS_RDONLY},
		{"/etc/alternatives", "etc/alternatives", unix.MS_RDONLY}, // Debian's iptables is a link into it
		{"/dev", "dev", unix.MS_REC},
		{filepath.Join(s.Dir, "var"), "var", 0},
		{s.Dir, s.Dir, 0}, // below /var, therefore after it
		{s.Bin, s.Bin, unix.MS_RDONLY},
		{s.CNI, "opt/cni/bin", unix.MS_RDONLY},
	} {
		if err := show(m.source, in(m.target), m.flags); err != nil {
			return err
		}
	}
	if err := os.Symlink("/run", in("var/run")); err != nil && !os.IsExist(err) {
		return err
	}
	for _, m := range []struct{ fstype, target string }{{"tmpfs", "run"}, {"proc", "proc"}, {"sysfs", "sys"}, {"tmpfs", "sys/fs/cgroup"}} {
		if err := mount(m.fstype, in(m.target), m.fstype, 0, ""); err != nil {
			return err
		}
	}
	for _, g := range s.Cgroups {
		if err := g.mount(root); err != nil {
			return err
		}
	}
	for name, text := range s.etc() {
		if err := os.WriteFile(in("etc/"+name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	conflist, err := os.ReadFile(s.conf("cni.conflist"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(in("etc/cni/net.d/10-lab.conflist"), conflist, 0o644); err != nil {
		return err
	}
	for key, value := range sysctls {
		file := in("run/sysctl/" + key)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := mount(file, in("proc/sys/"+key), "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return pivot(root)
}

func pivot(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil { // stacks the old root on the new one, pivot_root(2)
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	// Containers with Bidirectional mounts need a shared root.
	return mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}
