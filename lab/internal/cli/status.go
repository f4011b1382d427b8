package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/isthmus-mesh/isthmus/lab/internal/labs"
	"github.com/isthmus-mesh/isthmus/lab/internal/node"
)

func status(name *string) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell how a lab is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := labs.Open(*name)
			if err != nil {
				return err
			}
			st, err := l.Status(cmd.Context())
			if err != nil {
				return err
			}
			switch output {
			case "json":
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(st)
			case "table":
				return printStatus(cmd.OutOrStdout(), st)
			}
			return fmt.Errorf("output %q: use table or json", output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func printStatus(w io.Writer, st labs.Status) error {
	fmt.Fprintf(w, "lab %s: %s (%s)\n\n", st.Name, st.Phase, st.Dir)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CLUSTER\tAPI SERVER\tREADY\tNOT RUNNING\tRESTARTS\tCUT FROM")
	for _, c := range st.Clusters {
		fmt.Fprintf(t, "%s\t%s\t%v\t%s\t%d\t%s\n", c.Name, c.Server, c.Ready, notRunning(c), restarts(c.Components), orNone(c.CutFrom))
	}
	return t.Flush()
}

func notRunning(c labs.ClusterStatus) string {
	if c.PID == 0 {
		return "the node"
	}
	var names []string
	for _, p := range c.Components {
		if p.PID == 0 {
			names = append(names, p.Name)
		}
	}
	return orNone(names)
}

func restarts(cs []node.Component) (n int) {
	for _, c := range cs {
		n += c.Restarts
	}
	return n
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "-"
	}
	return strings.Join(names, ",")
}

func list() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Name the labs of this machine",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			names, err := labs.Names()
			for _, n := range names {
				fmt.Fprintln(cmd.OutOrStdout(), n)
			}
			return err
		},
	}
}
