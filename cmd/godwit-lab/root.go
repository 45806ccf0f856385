package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/lab/nodeinit"
)

// errCommand marks the failure of a command that was run in a node: its exit status becomes ours.
var errCommand = errors.New("command failed")

// asJSON is the flag --json of every command: the same facts for a program.
var asJSON bool

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "godwit-lab",
		Short:         "Nodes on one machine, each with a containerd and a godwit-node of its own",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.PersistentFlags().BoolVar(&asJSON, "json", false, "print JSON")
	root.AddCommand(newSetup(), newUp(), newDown(), newStatus(), newExec(), newKill(), newLogs(), newImage(), newPod(), newKubectl(), newHelm())
	return root
}

// print writes v as JSON, or what human writes.
func print(v any, human func(w *tabwriter.Writer)) error {
	if asJSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	human(w)
	return w.Flush()
}

func newSetup() *cobra.Command {
	var o lab.Options
	cmd := &cobra.Command{
		Use:   "setup",
		Short: "Install what a bare Debian lacks, and fill the cache",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Log = logger()
			return lab.Setup(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVar(&o.Kubernetes, "kubernetes", false, "build Kubernetes too: some minutes, once")
	return cmd
}

func newUp() *cobra.Command {
	var o lab.Options
	var rate string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring the nodes up; those that run are kept, those that died are built again",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if rate != "" {
				var err error
				if o.Shape.Rate, err = lab.ParseRate(rate); err != nil {
					return err
				}
			}
			o.Log = logger()
			l, err := lab.Up(cmd.Context(), o)
			if err != nil {
				return err
			}
			defer l.Close()
			return printStatus(cmd, l)
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.Nodes, "nodes", lab.DefaultNodes, "how many nodes")
	f.StringVar(&rate, "rate", "", "rate of each node's link to the others, such as 1gbit (default: as fast as it goes)")
	f.DurationVar(&o.Shape.Delay, "delay", 0, "one-way delay between two nodes, such as 5ms")
	f.BoolVar(&o.Kubernetes, "kubernetes", false, "make the nodes a Kubernetes cluster; until down it stays one")
	f.BoolVar(&o.Bare, "bare", false, "without anything of Godwit on the nodes: for trying to install it")
	f.StringVar(&o.Bin, "bin", "", "directory of the project's binaries (default: bin of the module, or where this program is)")
	return cmd
}

func newDown() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove the nodes and everything of theirs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return lab.Down(cmd.Context(), "")
		},
	}
}

func newStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the nodes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := lab.Open("")
			if err != nil {
				return err
			}
			defer l.Close()
			return printStatus(cmd, l)
		},
	}
}

func printStatus(cmd *cobra.Command, l *lab.Lab) error {
	status, err := l.Status(cmd.Context())
	if err != nil {
		return err
	}
	return print(status, func(w *tabwriter.Writer) {
		if len(status.Nodes) == 0 {
			fmt.Fprintln(w, "no node is up; see godwit-lab up")
			return
		}
		fmt.Fprintln(w, "NODE\tSTATE\tPID\tADDRESS\tPODS IN\tPODS\tLINK\tCONTAINERD\tGODWIT-NODE")
		for _, n := range status.Nodes {
			if !n.Running {
				fmt.Fprintf(w, "%s\tdead\n", n.Name)
				continue
			}
			fmt.Fprintf(w, "%s\trunning\t%d\t%s\t%s\t%d\t%s\t%s\t%s\n", n.Name, n.PID, n.Addr, n.PodSubnet, n.Pods,
				link(n), service(n, "containerd"), service(n, "godwit-node"))
			if n.Error != "" {
				fmt.Fprintf(w, "  %s\n", n.Error)
			}
		}
		if status.Kubernetes != nil {
			printKubernetes(w, status.Kubernetes)
		}
	})
}

func link(n lab.NodeStatus) string {
	var parts []string
	if !n.LinkUp {
		parts = append(parts, "down")
	}
	if n.Rate > 0 {
		parts = append(parts, fmt.Sprintf("%gmbit", float64(n.Rate)/1e6))
	}
	if n.Delay > 0 {
		parts = append(parts, n.Delay.Round(time.Microsecond).String())
	}
	if len(parts) == 0 {
		return "unshaped"
	}
	return strings.Join(parts, ", ")
}

func service(n lab.NodeStatus, name string) string {
	for _, s := range n.Services {
		if s.Name == name {
			return state(s)
		}
	}
	return "unknown"
}

func state(s nodeinit.ServiceStatus) string {
	var text string
	switch s.State {
	case nodeinit.Running:
		text = "running"
	case nodeinit.Missing:
		text = "not running (binary missing)"
	default:
		text = string(s.State)
	}
	if s.Restarts > 0 {
		text += fmt.Sprintf(" (%d restarts, last: %s)", s.Restarts, s.LastExit)
	}
	return text
}
