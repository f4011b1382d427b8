package labs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/isthmus-mesh/isthmus/lab/internal/build"
	"github.com/isthmus-mesh/isthmus/lab/internal/cluster"
	"github.com/isthmus-mesh/isthmus/lab/internal/istio"
	"github.com/isthmus-mesh/isthmus/lab/internal/kubeconfig"
	"github.com/isthmus-mesh/isthmus/lab/internal/network"
	"github.com/isthmus-mesh/isthmus/lab/internal/topology"
	"github.com/isthmus-mesh/isthmus/lab/internal/workloads"
)

// Progress is told what has been reached; cluster is empty for what concerns the whole lab.
type Progress func(cluster, reached string)

// Up brings a lab up and waits until everything in it is ready. A lab that is up already, with the same clusters and
// options, is left as it is. A lab that could not be completed stays as it is, to be looked at.
func Up(ctx context.Context, name string, clusters []string, o topology.Options, parts build.Parts, say Progress) (*Lab, error) {
	if l, err := existing(name, clusters, o); l != nil || err != nil {
		return l, err
	}
	l, unlock, err := create(name, clusters, o, parts)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := l.bringUp(ctx, say); err != nil {
		return l, err
	}
	return l, os.WriteFile(filepath.Join(l.Dir(), readyFile), nil, 0o644)
}

// existing finds the lab if it is up and what is asked for; a lab of that name in any other state is an error.
func existing(name string, clusters []string, o topology.Options) (*Lab, error) {
	l, err := Open(name)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	remedy := "`lab down --name " + name + "` removes it"
	switch phase, err := l.Phase(); {
	case err != nil:
		return nil, err
	case phase == Starting:
		return nil, fmt.Errorf("lab %q is being started or taken down by another command: wait for it", name)
	case phase != Running:
		return nil, fmt.Errorf("lab %q is there but %s: %s", name, phase, remedy)
	case !l.sameAs(clusters, o):
		return nil, fmt.Errorf("lab %q is up with other clusters or options (see `lab status --name %s`): %s", name, name, remedy)
	}
	return l, nil
}

func (l *Lab) bringUp(ctx context.Context, say Progress) error {
	if err := network.AddBridge(l.Lab); err != nil {
		return err
	}
	clusters, err := l.Select("")
	if err != nil {
		return err
	}
	var entries []kubeconfig.Entry
	for _, c := range clusters {
		if err := c.Prepare(); err != nil {
			return err
		}
		admin, err := c.Admin()
		if err != nil {
			return err
		}
		entries = append(entries, admin)
	}
	merged, err := kubeconfig.Render(entries...)
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.Kubeconfig(), merged, 0o600); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for i, c := range clusters {
		g.Go(func() error {
			return l.bringUpCluster(ctx, c, i == 0, func(reached string) { say(c.Cluster.Name, reached) })
		})
	}
	return g.Wait()
}

func (l *Lab) bringUpCluster(ctx context.Context, c cluster.Cluster, first bool, say func(string)) error {
	init, err := c.Start()
	if err != nil {
		return fmt.Errorf("cluster %s: %w", c.Cluster.Name, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		cancel(fmt.Errorf("the node's init ended: %w; its log is %s", init.Wait(), filepath.Join(c.Logs(), "init.log")))
	}()

	if l.Options.ControlPlaneOnly {
		if err := c.WaitReady(ctx); err != nil {
			return err
		}
		say("API server ready")
		return nil
	}
	if err := l.bringUpNode(ctx, c, say); err != nil {
		return err
	}
	if l.Options.NoIstio {
		return nil
	}
	if err := istio.Install(ctx, c); err != nil {
		return err
	}
	say("Istio and its gateways ready")
	if l.Options.NoWorkloads {
		return nil
	}
	if err := workloads.Install(ctx, c, first); err != nil {
		return err
	}
	say("workloads ready")
	return nil
}

// bringUpNode brings a node to the point where it runs pods whose images it has.
func (l *Lab) bringUpNode(ctx context.Context, c cluster.Cluster, say func(string)) error {
	g, both := errgroup.WithContext(ctx)
	g.Go(func() error { return l.importImages(both, c, say) })
	g.Go(func() error {
		if err := c.WaitReady(both); err != nil {
			return err
		}
		say("API server ready")
		return c.Addons(both)
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if err := c.WaitAvailable(ctx, "kube-system", "coredns"); err != nil {
		return err
	}
	say("node and DNS ready")
	return nil
}

func (l *Lab) importImages(ctx context.Context, c cluster.Cluster, say func(string)) error {
	images, err := cluster.Images(l.Parts.Images)
	if err != nil {
		return err
	}
	if err := c.WaitContainerd(ctx); err != nil {
		return err
	}
	for _, i := range images {
		if err := c.Import(ctx, i.Archive); err != nil {
			return err
		}
	}
	say("images imported")
	return nil
}
