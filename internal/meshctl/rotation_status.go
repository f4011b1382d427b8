package meshctl

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-mesh/isthmus/api/v1alpha1"
)

func newRotationStatus(c *cli) *cobra.Command {
	var output format
	var watch bool
	cmd := &cobra.Command{
		Use:   "status [VIRTUALMESH]",
		Short: "Show how far the replacement of the root has come",
		Long: `Shows the step of the rotation, what it waits for, and how far each mesh has come: its stage, whether its agent has carried the
order out, replicas of istiod that are as ordered, namespaces that hold the ordered roots, and proxies that do what the stage asks.

With --watch it goes on until the rotation is over. Where the output is no terminal, it prints what has changed, line by line.`,
		Args: optionalVirtualMesh,
		RunE: func(cmd *cobra.Command, args []string) error {
			if watch && output != "text" {
				return usagef("--watch shows text; leave --output out")
			}
			ctx, cancel := c.watching(cmd, watch)
			defer cancel()
			hub, vm, err := c.virtualMesh(ctx, args)
			if err != nil {
				return err
			}
			if watch {
				return c.watchRotation(ctx, hub, client.ObjectKeyFromObject(vm), func(v *rotationView) (bool, error) { return !v.UnderWay, nil })
			}
			v, err := hub.rotation(ctx, vm)
			if err != nil {
				return err
			}
			if done, err := output.structured(c.Out, v); done {
				return err
			}
			return v.print(c.Out)
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on until the rotation is over")
	output.add(cmd, "text", "json", "yaml")
	return cmd
}

// optionalVirtualMesh is how commands say that they take the name of a VirtualMesh, which may be left out if there is only one.
func optionalVirtualMesh(cmd *cobra.Command, args []string) error {
	if err := cobra.MaximumNArgs(1)(cmd, args); err != nil {
		return usagef("%w: %s", err, cmd.UseLine())
	}
	return nil
}

// watching is without end, unless --timeout is given; else as waiting.
func (c *cli) watching(cmd *cobra.Command, watch bool) (context.Context, context.CancelFunc) {
	if watch && !cmd.Flags().Changed("timeout") {
		return context.WithCancel(cmd.Context())
	}
	return c.waiting(cmd)
}

// watchRotation shows a rotation, and again whenever something of it has changed, until that is the end.
func (c *cli) watchRotation(ctx context.Context, hub *cluster, key client.ObjectKey, end func(*rotationView) (bool, error)) error {
	s := &screen{w: c.Out, live: isTerminal(c.Out)}
	vm := &v1alpha1.VirtualMesh{}
	return hub.until(ctx, func(ctx context.Context) (string, error) {
		if err := hub.Get(ctx, key, vm); err != nil {
			return "", err
		}
		v, err := hub.rotation(ctx, vm)
		if err != nil {
			return "", err
		}
		c.progress.hide()
		if err := s.show(v); err != nil {
			return "", err
		}
		if over, err := end(v); over || err != nil {
			return "", err
		}
		return v.waitsFor(), nil
	},
		changesOf(&v1alpha1.VirtualMeshList{}, client.InNamespace(key.Namespace), client.MatchingFields{"metadata.name": key.Name}),
		changesOf(&v1alpha1.IssuedCertificateList{}))
}

// screen shows a rotation as it goes on.
type screen struct {
	w    io.Writer
	live bool
	last []string
}

// show draws it anew on a terminal; elsewhere it prints what has changed.
func (s *screen) show(v *rotationView) error {
	lines := v.lines()
	if slices.Equal(lines, s.last) {
		return nil
	}
	last := s.last
	s.last = lines
	if s.live {
		if _, err := fmt.Fprint(s.w, "\x1b[H\x1b[2J"); err != nil {
			return err
		}
		return v.print(s.w)
	}
	for _, line := range lines {
		if slices.Contains(last, line) {
			continue
		}
		if _, err := fmt.Fprintln(s.w, line); err != nil {
			return err
		}
	}
	return nil
}

func (v *rotationView) print(w io.Writer) error {
	d := newDescription()
	d.field("Virtual mesh", v.VirtualMesh)
	d.rotation(v)
	return d.print(w)
}
