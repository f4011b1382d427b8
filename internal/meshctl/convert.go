package meshctl

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/isthmus-mesh/isthmus/internal/legacy"
)

func newConvert(c *cli) *cobra.Command {
	var output format
	var file string
	cmd := &cobra.Command{
		Use:   "convert -f FILE",
		Short: "Convert VirtualMeshes of older generations of the API",
		Long: `Reads manifests and prints those that are VirtualMeshes of networking.zephyr.solo.io/v1alpha1, networking.smh.solo.io/v1alpha2
and networking.mesh.gloo.solo.io/v1 as VirtualMeshes of isthmus.dev/v1alpha1. It needs no cluster and changes none.

What became of each object is said on stderr: errors are what could not be converted, notes what is written in another way.
An object with a value that is not valid is not printed at all.
The exit code is 0 if there are only notes, and 1 if there are errors.`,
		Example: `  meshctl convert -f virtual-mesh.yaml > converted.yaml
  kubectl get virtualmeshes.networking.smh.solo.io -A -o yaml | meshctl convert -f -`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			text, err := c.read(file)
			if err != nil {
				return err
			}
			all := legacy.Manifests(text, c.namespace)
			failed := c.account(all)
			if err := printManifests(c.Out, output, all); err != nil {
				return err
			}
			if failed {
				return errFound
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "filename", "f", "", "file with the manifests; - is stdin")
	output.add(cmd, "yaml", "json")
	return cmd
}

// read reads a file that a flag names.
func (c *cli) read(file string) ([]byte, error) {
	switch file {
	case "":
		return nil, usagef("--filename is missing: name a file, or - for stdin")
	case "-":
		return io.ReadAll(c.In)
	}
	return os.ReadFile(file)
}

// account says what became of each object, and reports whether any of it could not be converted.
func (c *cli) account(all []legacy.Converted) (failed bool) {
	for _, o := range all {
		became := "not converted"
		if o.VirtualMesh != nil {
			became = "VirtualMesh " + o.VirtualMesh.Namespace + "/" + o.VirtualMesh.Name
		}
		_, _ = fmt.Fprintf(c.ErrOut, "%s: %s\n", printable(o.Source), became)
		for _, f := range o.Findings {
			severity := "note"
			if legacy.Problem(f) {
				severity, failed = "error", true
			}
			_, _ = fmt.Fprintf(c.ErrOut, "  %-5s  %s\n", severity, printable(f.String()))
		}
	}
	return failed
}

// printManifests prints what was converted so that it can be applied: YAML documents, or a List in JSON.
func printManifests(w io.Writer, output format, all []legacy.Converted) error {
	items := []any{}
	for _, o := range all {
		if o.VirtualMesh == nil {
			continue
		}
		m, err := o.Manifest()
		if err != nil {
			return err
		}
		items = append(items, m)
	}
	if output == "json" {
		_, err := output.structured(w, map[string]any{"apiVersion": "v1", "kind": "List", "items": items})
		return err
	}
	for i, m := range items {
		if i > 0 {
			if _, err := fmt.Fprintln(w, "---"); err != nil {
				return err
			}
		}
		if _, err := output.structured(w, m); err != nil {
			return err
		}
	}
	return nil
}
