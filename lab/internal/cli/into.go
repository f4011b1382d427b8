package cli

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/isthmus-mesh/isthmus/lab/internal/cluster"
	"github.com/isthmus-mesh/isthmus/lab/internal/image"
	"github.com/isthmus-mesh/isthmus/lab/internal/labs"
)

func execute(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "exec CLUSTER -- COMMAND [ARGUMENT...]",
		Short: "Run a command inside of a cluster's node",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := labs.Open(*name)
			if err != nil {
				return err
			}
			c, err := l.Cluster(args[0])
			if err != nil {
				return err
			}
			inside, err := c.Enter(cmd.Context(), args[1:]...)
			if err != nil {
				return err
			}
			inside.Stdin, inside.Stdout, inside.Stderr = os.Stdin, os.Stdout, os.Stderr
			err = inside.Run()
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				os.Exit(exit.ExitCode()) // as ssh(1) does
			}
			return err
		},
	}
}

func load(name *string) *cobra.Command {
	var in, ref, binary string
	var entrypoint []string
	cmd := &cobra.Command{
		Use:   "load ARCHIVE... | load --ref REF --binary PATH",
		Short: "Bring images into the clusters: archives, or one made of a static binary",
		RunE: func(cmd *cobra.Command, archives []string) error {
			if (ref == "") != (binary == "") || (ref == "") == (len(archives) == 0) {
				return errors.New("give either archives, or --ref and --binary")
			}
			if binary != "" {
				dir, err := os.MkdirTemp("", "isthmus-lab-image-")
				if err != nil {
					return err
				}
				defer os.RemoveAll(dir)
				archive := filepath.Join(dir, "image.tar")
				if err := image.Write(archive, binaryImage(ref, binary, entrypoint)); err != nil {
					return err
				}
				archives = []string{archive}
			}
			return each(*name, in, func(c cluster.Cluster) error {
				var errs []error
				for _, a := range archives {
					errs = append(errs, c.Import(cmd.Context(), a))
				}
				return errors.Join(errs...)
			})
		},
	}
	clusterFlag(cmd, &in, "into which cluster (default: into all)")
	cmd.Flags().StringVar(&ref, "ref", "", "reference of the image, such as isthmus.dev/hub:dev")
	cmd.Flags().StringVar(&binary, "binary", "", "statically linked program to make an image of")
	cmd.Flags().StringSliceVar(&entrypoint, "entrypoint", nil, "command of the image (default: the program)")
	return cmd
}

// binaryImage is an image of one program at its root, which runs as nobody.
func binaryImage(ref, binary string, entrypoint []string) image.Spec {
	program := filepath.Base(binary)
	if len(entrypoint) == 0 {
		entrypoint = []string{"/" + program}
	}
	return image.Spec{
		Ref:        ref,
		Layers:     []image.Layer{{program: {Source: binary, Mode: 0o755}, "tmp": {Dir: true, Mode: os.ModeSticky | 0o777}}},
		Entrypoint: entrypoint,
		User:       "65532:65532",
	}
}
