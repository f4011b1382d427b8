package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// Cgroup is one control group of a node: one per hierarchy of cgroup v1, a single one of v2 (cgroups(7)).
type Cgroup struct {
	// Controllers are as /proc/self/cgroup lists them: "memory", "cpu,cpuacct", "name=systemd"; empty for v2.
	Controllers string `json:"controllers"`
	// Hierarchy is the directory under /sys/fs/cgroup where the hierarchy is mounted; empty for v2.
	Hierarchy string `json:"hierarchy"`
	// Dir is the absolute path of the group.
	Dir string `json:"dir"`
}

// Cgroups plans the control groups of a node: a child named so of every group that this process is in, so that
// whatever limits this process limits the lab. On a machine that mounts v1 controllers the v2 hierarchy has none to give.
func Cgroups(name string) ([]Cgroup, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	return planCgroups(string(own), name)
}

func planCgroups(own, name string) ([]Cgroup, error) {
	var v1, v2 []Cgroup
	for line := range strings.Lines(own) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			return nil, fmt.Errorf("/proc/self/cgroup: cannot read line %q", line)
		}
		hierarchy := strings.TrimPrefix(f[1], "name=")
		g := Cgroup{Controllers: f[1], Hierarchy: hierarchy, Dir: filepath.Join(cgroupRoot, hierarchy, f[2], name)}
		if f[1] == "" {
			v2 = append(v2, g)
		} else {
			v1 = append(v1, g)
		}
	}
	if len(v1) > 0 {
		return v1, nil
	}
	return v2, nil
}

// make creates the group and puts the process into it.
func (g Cgroup) make(pid int) error {
	if err := os.MkdirAll(g.Dir, 0o755); err != nil {
		return err
	}
	if g.Hierarchy == "cpuset" { // a new cpuset is empty and takes no process
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			v, err := os.ReadFile(filepath.Join(filepath.Dir(g.Dir), f))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(g.Dir, f), bytes.TrimSpace(v), 0o644); err != nil {
				return err
			}
		}
	}
	if err := g.weigh(); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(g.Dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644)
}

// weigh gives the node eight times the share of the processor that the kernel gives a group by default. Without it, each kubectl of a
// test on a busy machine counts for as much as a whole cluster.
func (g Cgroup) weigh() error {
	file, weight := "cpu.weight", "800"
	if g.Controllers != "" {
		file, weight = "cpu.shares", "8192"
	}
	f, err := os.OpenFile(filepath.Join(g.Dir, file), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) { // another controller's group
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(weight)
	return errors.Join(err, f.Close())
}

// mount shows the group, as the root of its hierarchy, to a node whose root is at root. The process must be in a cgroup
// namespace of its own already.
func (g Cgroup) mount(root string) error {
	if g.Controllers == "" {
		return g.mountV2(root)
	}
	dir := filepath.Join(root, cgroupRoot, g.Hierarchy)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for c := range strings.SplitSeq(g.Hierarchy, ",") {
		if c != g.Hierarchy {
			if err := os.Symlink(g.Hierarchy, filepath.Join(root, cgroupRoot, c)); err != nil {
				return err
			}
		}
	}
	return mount("cgroup", dir, "cgroup", 0, g.Controllers)
}

// mountV2 also moves this process down a level, because v2 hands controllers only to groups whose parent holds none.
func (g Cgroup) mountV2(root string) error {
	dir := filepath.Join(root, cgroupRoot)
	if err := mount("cgroup2", dir, "cgroup2", 0, ""); err != nil {
		return err
	}
	leaf := filepath.Join(dir, "init")
	if err := os.Mkdir(leaf, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0o644); err != nil {
		return err
	}
	available, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for c := range strings.FieldsSeq(string(available)) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644); err != nil {
			return fmt.Errorf("controller %s: %w", c, err)
		}
	}
	return nil
}

// remove kills whatever is in the group or below, and removes it. A group that is not there is no error. It has to ask again
// and again: the kernel does not tell when the last process of a v1 group is gone.
func (g Cgroup) remove(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := g.tryRemove()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

func (g Cgroup) tryRemove() error {
	var groups []string
	err := filepath.WalkDir(g.Dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			groups = append(groups, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, dir := range slices.Backward(groups) { // children before parents
		killGroup(dir)
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
		}
	}
	return nil
}

func killGroup(dir string) {
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return
	}
	for p := range strings.FieldsSeq(string(procs)) {
		if pid, err := strconv.Atoi(p); err == nil && pid > 1 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}
