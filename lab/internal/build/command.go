package build

import (
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// Command returns "lab build".
func Command() *cobra.Command {
	var only []string
	var list, prune bool
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Build every program and image of the lab, once, into the cache",
		Long: `Build every program and image of the lab from pinned versions into
$XDG_CACHE_HOME/isthmus-lab/VERSION, where VERSION stands for the pins.

Debian packages that are missing are installed (as root) or named. A build that
was interrupted goes on where it stopped; one that is complete takes a second.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case list:
				return printParts(cmd)
			case prune:
				removed, err := Prune()
				for _, dir := range removed {
					fmt.Fprintln(cmd.OutOrStdout(), "removed", dir)
				}
				return err
			}
			parts, err := Ensure(cmd.Context(), Options{Progress: os.Stderr, Only: only})
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), parts.Dir)
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&only, "only", nil, "build these parts and what they need, `NAME,...`")
	cmd.Flags().BoolVar(&list, "list", false, "show the names of the parts and whether they are there; build nothing")
	cmd.Flags().BoolVar(&prune, "prune", false, "remove the parts of other pins from the cache; build nothing")
	cmd.MarkFlagsMutuallyExclusive("only", "list", "prune")
	return cmd
}

func printParts(cmd *cobra.Command) error {
	parts, err := Default()
	if err != nil {
		return err
	}
	absent := map[string]bool{}
	for _, name := range parts.missing(targets) {
		absent[name] = true
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "NAME\tBUILT\tFILES\n")
	for _, t := range targets {
		built := "yes"
		if absent[t.name] {
			built = "no"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", t.name, built, strings.Join(t.files(), " "))
	}
	return w.Flush()
}
