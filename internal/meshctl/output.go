package meshctl

import (
	"encoding/json"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/printers"
	"sigs.k8s.io/yaml"
)

// format is the value of --output.
type format string

func (f *format) add(cmd *cobra.Command, formats ...string) {
	cmd.Flags().StringVarP((*string)(f), "output", "o", formats[0], "output format: "+strings.Join(formats, ", "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if slices.Contains(formats, string(*f)) {
			return nil
		}
		return usagef("--output must be one of %s, not %q", strings.Join(formats, ", "), string(*f))
	}
}

// structured prints v as JSON or YAML, if that is the format; false if it is not.
func (f format) structured(w io.Writer, v any) (bool, error) {
	switch f {
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return true, e.Encode(v)
	case "yaml":
		out, err := yaml.Marshal(v)
		if err == nil {
			_, err = w.Write(out)
		}
		return true, err
	}
	return false, nil
}

// column of a table; those of priority 1 are shown by wide only.
func column(name string, priority int32) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Priority: priority}
}

// table prints as `kubectl get` does.
func (f format) table(w io.Writer, columns []metav1.TableColumnDefinition, rows [][]any) error {
	t := &metav1.Table{ColumnDefinitions: columns}
	for _, cells := range rows {
		t.Rows = append(t.Rows, metav1.TableRow{Cells: cells})
	}
	return printers.NewTablePrinter(printers.PrintOptions{Wide: f == "wide"}).PrintObj(t, w)
}

// age of an object, for people.
func age(t metav1.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t.Time))
}

// printable is text for a terminal: much of what is shown was written by member clusters, which are not trusted to move the
// cursor or to write from right to left.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsPrint(r):
			return r
		case unicode.IsSpace(r):
			return ' '
		}
		return unicode.ReplacementChar
	}, s)
}
