package kubectl

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/cli"
)

func newList(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List migrations, the newest last",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if all {
				c.namespace = ""
			}
			return a.list(cmd.Context(), c, cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVarP(&all, "all-namespaces", "A", false, "of all namespaces")
	return cmd
}

func (a *app) list(ctx context.Context, c *cluster, w io.Writer) error {
	var list v1alpha1.PodMigrationList
	if err := c.List(ctx, &list, client.InNamespace(c.namespace)); err != nil {
		return failure("PodMigrations", err)
	}
	slices.SortStableFunc(list.Items, func(a, b v1alpha1.PodMigration) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	if a.json {
		list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("PodMigrationList"))
		for i := range list.Items {
			list.Items[i] = *printable(&list.Items[i])
		}
		return cli.PrintJSON(w, &list)
	}
	return printList(w, list.Items, c.namespace == "", time.Now())
}

func printList(w io.Writer, items []v1alpha1.PodMigration, namespaces bool, now time.Time) error {
	header := "NAME POD FROM TO PHASE DOWNTIME AGE MESSAGE"
	if namespaces {
		header = "NAMESPACE " + header
	}
	rows := make([][]string, 0, len(items))
	for i := range items {
		m := &items[i]
		row := []string{
			m.Name, m.Spec.PodName, cli.Dash(m.Status.SourceNode), cli.Dash(destination(m)), phase(m),
			took(m.Status.Downtime), duration.HumanDuration(now.Sub(m.CreationTimestamp.Time)), oneLine(m.Status.Message),
		}
		if namespaces {
			row = append([]string{m.Namespace}, row...)
		}
		rows = append(rows, row)
	}
	return cli.Table(w, header, rows)
}

// destination is where the pod goes, as far as it is known.
func destination(m *v1alpha1.PodMigration) string {
	if m.Status.DestinationNode != "" {
		return m.Status.DestinationNode
	}
	return m.Spec.TargetNode
}

// took is a duration in three digits or so, a dash if there is none.
func took(d *metav1.Duration) string {
	switch {
	case d == nil:
		return "-"
	case d.Duration < 10*time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Millisecond).String()
}

// oneLine is the beginning of a message, for a table.
func oneLine(s string) string {
	const most = 80
	s, _, _ = strings.Cut(s, "\n")
	if r := []rune(s); len(r) > most {
		return fmt.Sprintf("%s...", string(r[:most]))
	}
	return s
}
