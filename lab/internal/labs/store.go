// Package labs keeps the labs of this machine: it allocates them, so that several never collide, brings them up, tells
// how they are and takes them down without leaving anything.
//
// A lab is a directory under Root. Whatever a lab is going to make on the machine is written down there before it is made,
// so that Down removes it all whenever and however the process that made it ended. A lock on a file in it says that somebody
// is at work on the lab; the kernel releases it with the process.
package labs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/lab/internal/build"
	"github.com/isthmus-mesh/isthmus/lab/internal/cluster"
	"github.com/isthmus-mesh/isthmus/lab/internal/network"
	"github.com/isthmus-mesh/isthmus/lab/internal/node"
	"github.com/isthmus-mesh/isthmus/lab/internal/topology"
)

// Root is where all labs of the machine are.
const Root = "/var/lib/isthmus-lab"

const (
	planFile       = "lab.json"
	readyFile      = "ready"
	kubeconfigFile = "kubeconfig"
)

// ErrNotFound is the error for a lab that does not exist.
var ErrNotFound = errors.New("no such lab")

// Lab is a lab that exists, in whatever state.
type Lab struct {
	topology.Lab
	// Parts are the built parts that it runs.
	Parts build.Parts `json:"parts"`
	// Cgroups are the control groups of each cluster's node.
	Cgroups map[string][]node.Cgroup `json:"cgroups"`
}

func dirOf(name string) string { return filepath.Join(Root, name) }

// Dir is the lab's directory.
func (l *Lab) Dir() string { return dirOf(l.Name) }

// Kubeconfig is the file with the contexts of all its clusters.
func (l *Lab) Kubeconfig() string { return filepath.Join(l.Dir(), kubeconfigFile) }

// Ready says whether the lab was completed.
func (l *Lab) Ready() bool {
	_, err := os.Stat(filepath.Join(l.Dir(), readyFile))
	return err == nil
}

// Open finds a lab.
func Open(name string) (*Lab, error) {
	if err := topology.CheckName("lab", name); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(dirOf(name), planFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("lab %q: %w", name, ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	l := &Lab{}
	if err := json.Unmarshal(b, l); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dirOf(name), planFile), err)
	}
	return l, nil
}

// Names lists the labs, also those of which there is not more than a directory.
func Names() ([]string, error) {
	entries, err := os.ReadDir(Root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// create allocates a lab and returns it locked. The caller is the only one at work on it until unlock is called.
func create(name string, clusters []string, o topology.Options, parts build.Parts) (l *Lab, unlock func(), err error) {
	if err := os.MkdirAll(Root, 0o755); err != nil {
		return nil, nil, fmt.Errorf("%w (the lab needs to run as root)", err)
	}
	allocated, err := lock(Root, true)
	if err != nil {
		return nil, nil, err
	}
	defer allocated()

	others, err := list()
	if err != nil {
		return nil, nil, err
	}
	index, err := freeIndex(others)
	if err != nil {
		return nil, nil, err
	}
	plan, err := topology.Plan(name, index, clusters, o)
	if err != nil {
		return nil, nil, err
	}
	if err := checkWatches(append(others, &Lab{Lab: plan})); err != nil {
		return nil, nil, err
	}
	plan.CreatedAt = time.Now().UTC().Truncate(time.Second)
	l = &Lab{Lab: plan, Parts: parts, Cgroups: map[string][]node.Cgroup{}}
	for _, c := range l.Clusters {
		if l.Cgroups[c.Name], err = node.Cgroups("isthmus-lab-" + name + "-" + c.Name); err != nil {
			return nil, nil, err
		}
	}
	if err := os.MkdirAll(l.Dir(), 0o755); err != nil {
		return nil, nil, err
	}
	if unlock, err = lock(l.Dir(), false); err != nil {
		return nil, nil, err
	}
	if _, err := Open(name); !errors.Is(err, ErrNotFound) {
		unlock()
		return nil, nil, fmt.Errorf("lab %q has been made by another command at this moment", name)
	}
	if err := l.save(); err != nil {
		unlock()
		return nil, nil, err
	}
	return l, unlock, nil
}

func (l *Lab) save() error {
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	file := filepath.Join(l.Dir(), planFile)
	if err := os.WriteFile(file+".new", b, 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// list opens all labs.
func list() ([]*Lab, error) {
	names, err := Names()
	if err != nil {
		return nil, err
	}
	var all []*Lab
	for _, n := range names {
		switch l, err := Open(n); {
		case err == nil:
			all = append(all, l)
		case !errors.Is(err, ErrNotFound):
			return nil, err
		}
	}
	return all, nil
}

func freeIndex(others []*Lab) (int, error) {
	var taken []int
	for _, l := range others {
		taken = append(taken, l.Index)
	}
	busy, err := network.Busy()
	if err != nil {
		return 0, err
	}
	return topology.FreeIndex(taken, busy)
}

// watchesPerNode is how many instances of inotify(7) one node takes: 17 were counted, with Istio and the workloads.
const watchesPerNode = 18

// checkWatches refuses more nodes than the machine has instances of inotify for: their kubelets would not start.
func checkWatches(all []*Lab) error {
	const limit = "/proc/sys/fs/inotify/max_user_instances"
	text, err := os.ReadFile(limit)
	if err != nil {
		return err
	}
	have, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("%s: %w", limit, err)
	}
	nodes := 0
	for _, l := range all {
		if !l.Options.ControlPlaneOnly {
			nodes += len(l.Clusters)
		}
	}
	if need := nodes * watchesPerNode; need > have {
		return fmt.Errorf("%d nodes on this machine need fs.inotify.max_user_instances to be %d, it is %d: raise it with `sysctl -w fs.inotify.max_user_instances=1024`, or take a lab down", nodes, need, have)
	}
	return nil
}

// Cluster is one of the lab's clusters, to work with.
func (l *Lab) Cluster(name string) (cluster.Cluster, error) {
	c, err := l.Lab.Cluster(name)
	return l.cluster(c), err
}

// Select is the named cluster, or all of them if the name is empty.
func (l *Lab) Select(name string) ([]cluster.Cluster, error) {
	if name != "" {
		c, err := l.Cluster(name)
		return []cluster.Cluster{c}, err
	}
	var all []cluster.Cluster
	for _, c := range l.Clusters {
		all = append(all, l.cluster(c))
	}
	return all, nil
}

func (l *Lab) cluster(c topology.Cluster) cluster.Cluster {
	return cluster.Cluster{Spec: node.Spec{
		Lab:     l.Name,
		Dir:     filepath.Join(l.Dir(), c.Name),
		Bin:     l.Parts.Bin,
		CNI:     l.Parts.CNI,
		Cluster: c,
		Peers:   l.Others(c.Name),
		Gateway: l.Gateway.String(),
		Bridge:  l.Bridge,
		Options: l.Options,
		Cgroups: l.Cgroups[c.Name],
	}}
}

// sameAs says whether the lab is what these arguments ask for.
func (l *Lab) sameAs(clusters []string, o topology.Options) bool {
	want, err := topology.Plan(l.Name, l.Index, clusters, o)
	if err != nil {
		return false
	}
	a, errA := json.Marshal(want.Options)
	b, errB := json.Marshal(l.Options)
	return errA == nil && errB == nil && string(a) == string(b) && slices.Equal(want.Clusters, l.Clusters)
}
