package kubectl

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/cli"
)

func newDescribe(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "describe NAME",
		Short: "Show all that is known of a migration",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			m, err := c.migration(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if a.json {
				return cli.PrintJSON(w, printable(m))
			}
			describe(w, m)
			return c.printEvents(cmd.Context(), w, m)
		},
	}
}

func newCancel(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel NAME",
		Short: "Break a migration off, if it is not committed: the pod runs on where it is",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			m, err := c.migration(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := cancellable(m); err != nil {
				return cli.Exit(cli.ExitRefused, err)
			}
			if err := c.cancel(cmd.Context(), m); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "podmigration %s is asked to stop; see kubectl godwit describe %s -n %s\n", m.Name, m.Name, m.Namespace)
			return nil
		},
	}
}

// cancellable says why it is too late to cancel a migration, if it is.
func cancellable(m *v1alpha1.PodMigration) error {
	switch p := m.Status.Phase; {
	case p == v1alpha1.PhaseMigrationComplete:
		return fmt.Errorf("PodMigration %s is committed: the pod runs on node %s", m.Name, m.Status.DestinationNode)
	case p.Over():
		return fmt.Errorf("PodMigration %s is over: %s", m.Name, p)
	}
	return nil
}

// migration is the object of that name.
func (c *cluster) migration(ctx context.Context, name string) (*v1alpha1.PodMigration, error) {
	m := new(v1alpha1.PodMigration)
	if err := c.Get(ctx, client.ObjectKey{Namespace: c.namespace, Name: name}, m); err != nil {
		return nil, failure(fmt.Sprintf("PodMigration %s in namespace %s", name, c.namespace), err)
	}
	return m, nil
}

// describe writes everything for people.
func describe(w io.Writer, m *v1alpha1.PodMigration) {
	s := &m.Status
	line := func(label, value string) {
		if value != "" {
			fmt.Fprintf(w, "%-14s %s\n", label+":", value)
		}
	}
	line("Name", m.Namespace+"/"+m.Name)
	line("Pod", m.Spec.PodName)
	line("Phase", phase(m))
	line("Message", s.Message)
	line("From", place(s.SourceNode, s.SourcePod))
	line("To", place(destination(m), s.DestinationPod))
	if s.Owner != nil {
		line("Owner", s.Owner.Kind+" "+s.Owner.Name)
	}
	line("Migration", s.Migration)
	line("Asked for", asked(&m.Spec))
	if s.Engine != "" {
		line("Engine", s.Engine+": "+s.EngineReason)
	}
	line("Created", stamp(&m.CreationTimestamp))
	line("Started", stamp(s.StartTime))
	line("Committed", stamp(s.CommitTime))
	line("Ended", stamp(s.CompletionTime))
	if s.Total != nil || s.Downtime != nil {
		line("Took", fmt.Sprintf("%s, downtime %s", took(s.Total), took(s.Downtime)))
	}
	printStages(w, s.Stages)
	if s.MemoryBytes > 0 {
		line("Memory", fmt.Sprintf("%s, sent %s, last at %s/s, dirtied at %s/s", size(s.MemoryBytes), size(s.BytesSent), size(s.Rate), size(s.DirtyRate)))
	}
	line("Compression", s.Compression)
	printRounds(w, s.Rounds)
	line("Rounds ended", s.StopReason)
	for _, c := range s.Containers {
		line("Container", fmt.Sprintf("%s %s %s", c.Name, c.State, c.Image))
	}
	for _, c := range s.Conditions {
		line("Condition", strings.TrimRight(fmt.Sprintf("%s %s since %s: %s", c.Type, c.Status, stamp(&c.LastTransitionTime), c.Message), ": "))
	}
}

// place is a node and a pod on it.
func place(node string, pod *v1alpha1.PodReference) string {
	if pod == nil {
		return node
	}
	text := fmt.Sprintf("%s, pod %s", node, pod.Name)
	if pod.IP != "" {
		text += ", address " + pod.IP
	}
	return text
}

// asked is what a spec asks for.
func asked(s *v1alpha1.PodMigrationSpec) string {
	parts := []string{"mode " + string(s.Mode), "tracker " + string(s.Tracker), "compression " + string(s.Compression)}
	if p := s.PreCopy; p != nil {
		if p.MaxRounds > 0 {
			parts = append(parts, fmt.Sprintf("at most %d rounds", p.MaxRounds))
		}
		if p.MaxDuration != nil {
			parts = append(parts, "rounds for at most "+p.MaxDuration.Duration.String())
		}
		if p.Rule != "" {
			parts = append(parts, "rule "+string(p.Rule))
		}
		if p.OnStall != "" {
			parts = append(parts, "on a stall "+string(p.OnStall))
		}
		if p.DowntimeLimit != nil {
			parts = append(parts, "downtime limit "+p.DowntimeLimit.Duration.String())
		}
		if p.DirtyLimit != nil {
			parts = append(parts, "dirty limit "+p.DirtyLimit.String())
		}
	}
	if s.Timeout != nil {
		parts = append(parts, "timeout "+s.Timeout.Duration.String())
	}
	if s.Bandwidth != nil {
		parts = append(parts, "bandwidth "+s.Bandwidth.String()+"/s")
	}
	if s.Priority != 0 {
		parts = append(parts, fmt.Sprintf("priority %d", s.Priority))
	}
	if s.KeepSourceOnFailure != nil && !*s.KeepSourceOnFailure {
		parts = append(parts, "the source is deleted on failure")
	}
	if s.Cancel {
		parts = append(parts, "cancelled")
	}
	return strings.Join(parts, ", ")
}

func stamp(t *metav1.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.Format(time.DateTime)
}

// printEvents writes what the nodes told of the migration. Who may not see Events
// sees none.
func (c *cluster) printEvents(ctx context.Context, w io.Writer, m *v1alpha1.PodMigration) error {
	var list corev1.EventList
	err := c.List(ctx, &list, client.InNamespace(m.Namespace), client.MatchingFields{"involvedObject.uid": string(m.UID)})
	if err != nil || len(list.Items) == 0 {
		return nil
	}
	slices.SortStableFunc(list.Items, func(a, b corev1.Event) int { return when(&a).Compare(when(&b)) })
	rows := make([][]string, 0, len(list.Items))
	for i := range list.Items {
		e := &list.Items[i]
		rows = append(rows, []string{when(e).Format(time.TimeOnly), e.Type, e.Reason, e.Message})
	}
	fmt.Fprintln(w, "\nEvents:")
	return cli.Table(w, "TIME TYPE REASON MESSAGE", rows)
}

// when an Event happened last, by whichever of its fields says so.
func when(e *corev1.Event) time.Time {
	switch {
	case e.Series != nil:
		return e.Series.LastObservedTime.Time
	case !e.EventTime.IsZero():
		return e.EventTime.Time
	}
	return e.LastTimestamp.Time
}
