package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"godwit.dev/godwit/nodecontroller"
	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
)

// Table prints rows in columns.
func Table(w io.Writer, header string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, strings.ReplaceAll(header, " ", "\t"))
	for _, row := range rows {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}

func newPods(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "pods",
		Short: "List the pods of this node, and what keeps each from being moved",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(func(c nodev1.NodeClient) error {
				r, err := c.Pods(cmd.Context(), &nodev1.PodsRequest{})
				if err != nil {
					return failure(err)
				}
				if a.json {
					return PrintJSON(cmd.OutOrStdout(), podsJSON(r.Pods))
				}
				return printPods(cmd.OutOrStdout(), r.Pods)
			})
		},
	}
}

type jsonPod struct {
	ID          string   `json:"id"`
	Namespace   string   `json:"namespace"`
	Name        string   `json:"name"`
	State       string   `json:"state"`
	Handler     string   `json:"handler"`
	IP          string   `json:"ip"`
	Containers  []string `json:"containers"`
	MemoryBytes uint64   `json:"memory_bytes"`
	Created     string   `json:"created"`
	Obstacle    string   `json:"obstacle,omitempty"`
}

func podsJSON(pods []*nodev1.Pod) []jsonPod {
	list := make([]jsonPod, 0, len(pods))
	for _, p := range pods {
		list = append(list, jsonPod{
			ID: p.Id, Namespace: p.Namespace, Name: p.Name, State: p.State, Handler: p.Handler, IP: p.Ip,
			Containers: p.Containers, MemoryBytes: p.MemoryBytes, Created: stamp(p.CreatedUnixNano), Obstacle: p.Obstacle,
		})
	}
	return list
}

func printPods(w io.Writer, pods []*nodev1.Pod) error {
	rows := make([][]string, 0, len(pods))
	for _, p := range pods {
		can := "yes"
		if p.Obstacle != "" {
			can = "no: " + p.Obstacle
		}
		rows = append(rows, []string{
			p.Namespace + "/" + p.Name, short(p.Id), p.State, Dash(p.Ip), Size(p.MemoryBytes), Dash(strings.Join(p.Containers, ",")), can,
		})
	}
	return Table(w, "POD SANDBOX STATE IP MEMORY CONTAINERS MOVABLE", rows)
}

func newStatus(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status [MIGRATION]",
		Short: "Show the migrations that this node has a part in, and the last that ended",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := new(nodev1.ListRequest)
			if len(args) == 1 {
				req.Migration = args[0]
			}
			return a.call(func(c nodev1.NodeClient) error {
				r, err := c.List(cmd.Context(), req)
				if err != nil {
					return failure(err)
				}
				if len(args) == 1 && len(r.Migrations) == 0 {
					return &exitError{ExitRefused, fmt.Errorf("this node knows no migration %s", args[0])}
				}
				if a.json {
					return PrintJSON(cmd.OutOrStdout(), statusJSON(r.Migrations))
				}
				return printStatus(cmd.OutOrStdout(), r.Migrations, len(args) == 1)
			})
		},
	}
}

type jsonStatus struct {
	Migration string           `json:"migration"`
	Role      string           `json:"role"`
	Pod       string           `json:"pod"`
	From      string           `json:"from"`
	ToNode    string           `json:"to"`
	Phase     string           `json:"phase"`
	Detail    string           `json:"detail,omitempty"`
	InDoubt   bool             `json:"in_doubt"`
	Started   string           `json:"started"`
	Ended     string           `json:"ended,omitempty"`
	Progress  *jsonProgress    `json:"progress,omitempty"`
	To        *jsonDestination `json:"destination,omitempty"`
	Engine    string           `json:"engine,omitempty"`
	Why       string           `json:"engine_reason,omitempty"`
	Result    *jsonResult      `json:"result,omitempty"`
}

func statusJSON(migrations []*nodev1.Migration) []jsonStatus {
	list := make([]jsonStatus, 0, len(migrations))
	for _, m := range migrations {
		j := jsonStatus{
			Migration: m.Id, Role: m.Role, Pod: m.Pod, From: m.From, ToNode: m.To, Phase: nodecontroller.PhaseName(m.Phase),
			Detail: m.Detail, InDoubt: m.InDoubt, Started: stamp(m.StartedUnixNano), Ended: stamp(m.EndedUnixNano),
			Progress: progressJSON(m.Progress), To: destinationJSON(m.Destination),
			Engine: m.Engine, Why: m.EngineReason,
		}
		if m.Result != nil {
			r := resultJSON(m.Id, m.Phase, m.Result)
			j.Result = &r
		}
		list = append(list, j)
	}
	return list
}

func printStatus(w io.Writer, migrations []*nodev1.Migration, long bool) error {
	rows := make([][]string, 0, len(migrations))
	for _, m := range migrations {
		phase := nodecontroller.PhaseName(m.Phase)
		if m.InDoubt {
			phase += " (IN DOUBT)"
		}
		rows = append(rows, []string{
			m.Id, m.Role, m.Pod, m.From, m.To, phase, time.Unix(0, m.StartedUnixNano).Format(time.TimeOnly), m.Detail,
		})
	}
	if err := Table(w, "MIGRATION ROLE POD FROM TO PHASE STARTED DETAIL", rows); err != nil || !long {
		return err
	}
	for _, m := range migrations {
		switch {
		case m.Result != nil:
			printResult(w, m.Result)
		case m.Engine != "":
			fmt.Fprintf(w, "\n%s: engine %s: %s\n", m.Id, m.Engine, m.EngineReason)
		}
	}
	return nil
}

func newAbort(a *app) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "abort MIGRATION",
		Short: "Break a migration off; the pod runs on here. Returns when both nodes are clean",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(func(c nodev1.NodeClient) error {
				_, err := c.Abort(cmd.Context(), &nodev1.AbortRequest{Migration: args[0], Reason: reason})
				return failure(err)
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the logs")
	return cmd
}

func newResolve(a *app) *cobra.Command {
	req := new(nodev1.ResolveRequest)
	cmd := &cobra.Command{
		Use:   "resolve MIGRATION (--source-is-gone | --abort)",
		Short: "Decide for a destination that is in doubt, its source lost at the moment of the commit, or give up a late pod",
		Long: `A destination whose source was lost at the moment of the commit holds the pod, and does
not let it run: the source may be running it. It asks the source again and again. If you
KNOW that the source node will never run the pod again (it burned, or you have
switched it off and will remove the pod before it is switched on), say --source-is-gone.
If the source runs the pod, say --abort. Saying --source-is-gone while the source runs
makes two copies of the pod.

Where a pod is made only after the commit (a StatefulSet's, say), the destination keeps
it until its cluster has made it. If nobody will, --abort gives it up for good.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Migration = args[0]
			return a.call(func(c nodev1.NodeClient) error {
				_, err := c.Resolve(cmd.Context(), req)
				return failure(err)
			})
		},
	}
	cmd.Flags().BoolVar(&req.SourceIsGone, "source-is-gone", false, "the source will never run the pod again: run it here")
	cmd.Flags().BoolVar(&req.Abort, "abort", false, "the source keeps the pod: drop it here")
	cmd.MarkFlagsMutuallyExclusive("source-is-gone", "abort")
	cmd.MarkFlagsOneRequired("source-is-gone", "abort")
	return cmd
}

func short(id string) string {
	if len(id) > 12 {
		return id[:12]
	}
	return id
}

// Dash is s, or a dash for nothing.
func Dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// Size writes bytes with a unit of 1024's powers.
func Size(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, u := float64(n)/1024, 0
	for v >= 1024 && u < len(units)-1 {
		v /= 1024
		u++
	}
	return fmt.Sprintf("%.1f %ciB", v, units[u])
}
