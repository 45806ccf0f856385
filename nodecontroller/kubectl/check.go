package kubectl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/cli"
	"godwit.dev/godwit/nodecontroller/nodefacts"
	"godwit.dev/godwit/nodecontroller/preflight"
)

func newCheck(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "check [NODE [NODE]]",
		Short: "Show what nodes have for migrations, or whether pods of one node can run on another",
		Long: `Without a node: all of them, with what each has and lacks. With one: what its checks found, and what to
do about it. With two: whether pods of the first can run on the second.

A node tells about itself when its godwit-node starts and when something changes.`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			ctx, w := cmd.Context(), cmd.OutOrStdout()
			if len(args) == 0 {
				return a.checkAll(ctx, c, w)
			}
			facts := make([]nodefacts.Facts, len(args))
			for i, name := range args {
				if facts[i], err = c.facts(ctx, name); err != nil {
					return err
				}
			}
			if len(args) == 1 {
				return a.printFindings(w, facts[0].Findings)
			}
			return a.printFindings(w, compare(facts[0], facts[1]))
		},
	}
}

// facts are what a node tells about itself.
func (c *cluster) facts(ctx context.Context, name string) (nodefacts.Facts, error) {
	var n corev1.Node
	if err := c.Get(ctx, client.ObjectKey{Name: name}, &n); err != nil {
		return nodefacts.Facts{}, failure("node "+name, err)
	}
	f, there, err := nodefacts.Of(&n)
	switch {
	case err != nil:
		return f, cli.Exit(cli.ExitFailure, err)
	case !there:
		return f, cli.Exit(cli.ExitMissing, fmt.Errorf("node %s says nothing about Godwit: see that godwit-node runs there, with [kubernetes] enabled in its configuration", name))
	}
	return f, nil
}

// compare says whether pods of one node can run on another, and what the other
// lacks anyway.
func compare(from, to nodefacts.Facts) []nodefacts.Finding {
	var found []nodefacts.Finding
	for _, f := range nodefacts.Compare(from.Peer(), to.Peer()) {
		found = append(found, nodefacts.Finding(f))
	}
	for _, f := range []nodefacts.Facts{from, to} {
		for _, g := range f.Lacking() {
			g.Feature = f.Node + ": " + g.Feature
			found = append(found, g)
		}
	}
	return found
}

// printFindings ends with cli.ExitMissing if something that is needed is not there.
func (a *app) printFindings(w io.Writer, found []nodefacts.Finding) error {
	lacking := 0
	list := make([]cli.Finding, 0, len(found))
	for _, f := range found {
		if f.Status == preflight.Missing {
			lacking++
		}
		list = append(list, cli.Finding{Feature: f.Feature, Status: string(f.Status), Detail: f.Detail, Remedy: f.Remedy})
	}
	var said error
	if a.json {
		if err := cli.PrintJSON(w, list); err != nil {
			return err
		}
	} else {
		cli.PrintFindings(w, list)
		said = fmt.Errorf("%d of %d findings keep migrations from working", lacking, len(found))
	}
	if lacking == 0 {
		return nil
	}
	return cli.Exit(cli.ExitMissing, said)
}

// nodeLine is a node in the table of all.
type nodeLine struct {
	Node    string           `json:"node"`
	Ready   bool             `json:"ready"`
	Facts   *nodefacts.Facts `json:"facts,omitempty"`
	Problem string           `json:"problem,omitempty"`
}

func (a *app) checkAll(ctx context.Context, c *cluster, w io.Writer) error {
	var nodes corev1.NodeList
	if err := c.List(ctx, &nodes); err != nil {
		return failure("nodes", err)
	}
	lines := make([]nodeLine, 0, len(nodes.Items))
	for i := range nodes.Items {
		lines = append(lines, line(&nodes.Items[i]))
	}
	if a.json {
		return cli.PrintJSON(w, lines)
	}
	return printNodes(w, lines)
}

func line(n *corev1.Node) nodeLine {
	l := nodeLine{Node: n.Name, Ready: ready(n)}
	f, there, err := nodefacts.Of(n)
	switch {
	case err != nil:
		l.Problem = err.Error()
		return l
	case !there:
		l.Problem = "no Godwit"
		return l
	}
	l.Facts = &f
	var problems []string
	if !l.Ready {
		problems = append(problems, "the node is not Ready")
	}
	for _, g := range f.Lacking() {
		problems = append(problems, g.Feature+": "+g.Detail)
	}
	l.Problem = strings.Join(problems, "; ")
	return l
}

func ready(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func printNodes(w io.Writer, lines []nodeLine) error {
	rows := make([][]string, 0, len(lines))
	for _, l := range lines {
		f := nodefacts.Facts{}
		if l.Facts != nil {
			f = *l.Facts
		}
		can := "yes"
		if l.Problem != "" {
			can = "no: " + oneLine(l.Problem)
		}
		rows = append(rows, []string{l.Node, cli.Dash(f.Version), cli.Dash(f.Kernel), cli.Dash(f.CRIU), cli.Dash(f.Runc), cli.Dash(f.Architecture), can})
	}
	if len(rows) == 0 {
		return cli.Exit(cli.ExitFailure, errors.New("the cluster has no nodes"))
	}
	return cli.Table(w, "NODE GODWIT KERNEL CRIU RUNC ARCH READY", rows)
}
