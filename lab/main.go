// Command lab runs whole Kubernetes clusters with Istio on one Linux machine, as root and without Docker, out of real
// parts only. README.md tells how.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/isthmus-mesh/isthmus/lab/internal/cli"
	"github.com/isthmus-mesh/isthmus/lab/internal/loadbalancer"
	"github.com/isthmus-mesh/isthmus/lab/internal/node"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	// Inside of nodes this program is what the node itself is made of.
	if len(args) == 2 {
		switch command, dir := args[0], args[1]; command {
		case node.InitCommand:
			return node.Init(dir)
		case node.BootCommand:
			return node.Boot(dir)
		case node.LoadBalancerCommand:
			return balance(dir)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return cli.New().ExecuteContext(ctx)
}

func balance(dir string) error {
	s, err := node.ReadSpec(dir)
	if err != nil {
		return err
	}
	api, err := s.Client("load-balancer")
	if err != nil {
		return err
	}
	loadbalancer.Run(context.Background(), api, s.Cluster.NodeIP.String())
	return nil
}
