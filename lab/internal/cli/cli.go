// Package cli is the command line of the lab: flags and output. What the commands do is in package labs.
package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/isthmus-mesh/isthmus/lab/internal/build"
	"github.com/isthmus-mesh/isthmus/lab/internal/labs"
)

// New makes the root command.
func New() *cobra.Command {
	root := &cobra.Command{
		Use:           "lab",
		Short:         "Real Kubernetes clusters with Istio on one machine, without Docker",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	name := root.PersistentFlags().String("name", cmp.Or(os.Getenv("ISTHMUS_LAB"), "default"), "which lab (default from ISTHMUS_LAB)")
	root.AddCommand(build.Command(), up(name), down(name), status(name), list(), env(name),
		kill(name), restart(name), partition(name), heal(name), execute(name), load(name))
	return root
}

// env prints shell commands. Without a lab it still leads to the built programs: tests that start API servers of their
// own need no more.
func env(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "env",
		Short: `Print shell commands that lead to the lab: eval "$(lab env)"`,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := labs.Open(*name)
			if errors.Is(err, labs.ErrNotFound) {
				parts, err := build.Default()
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "lab %q is not up: `lab up` starts it\n", *name)
				return printEnv(cmd.OutOrStdout(), parts)
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "export ISTHMUS_LAB=\"%s\"\nexport KUBECONFIG=\"%s\"\n", l.Name, l.Kubeconfig())
			return printEnv(cmd.OutOrStdout(), l.Parts)
		},
	}
}

// printEnv puts the directory of this program, the checkout's bin, on PATH as well: meshctl lies there.
func printEnv(w io.Writer, p build.Parts) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	bin := shell.Replace(p.Bin)
	_, err = fmt.Fprintf(w, "export PATH=\"%s:%s:$PATH\"\nexport KUBEBUILDER_ASSETS=\"%s\"\n", shell.Replace(filepath.Dir(exe)), bin, bin)
	return err
}

// shell makes text literal between double quotes of a POSIX shell.
var shell = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`")
