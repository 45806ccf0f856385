// Package census counts what a node of the lab holds: processes, descriptors, mounts, cgroups, network namespaces and links,
// files, memory of tmpfs. Two counts, before and after, say what was left behind.
//
// Names that are new each time (container IDs, migration IDs, numbers) are counted under one pattern, so that a pod which
// came back counts like the one that left. The package judges nothing: what may stay is the caller's to say.
package census

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"godwit.dev/godwit/test/lab"
)

// Census is what a node holds: how many of each thing. The keys begin with the kind: "process", "fd", "mount", "cgroup",
// "netns", "link", "file", "uffd", "frozen", and "tmpfs" with MiB for a number.
type Census map[string]int

// Take counts. Some things come and go while nobody does anything, such as runc's; see Settle.
func Take(n *lab.Node) (Census, error) {
	c := Census{}
	for _, count := range []func(*lab.Node) error{c.processes, c.mounts, c.cgroups, c.network, c.files} {
		if err := count(n); err != nil {
			return nil, fmt.Errorf("census of node %s: %w", n.Name, err)
		}
	}
	return c, nil
}

// Difference is one thing of which there is another number than before.
type Difference struct {
	What          string
	Before, After int
}

func (d Difference) String() string { return fmt.Sprintf("%s: %d, was %d", d.What, d.After, d.Before) }

// More lists what there is more of in after than in c, except where slack allows it.
func (c Census) More(after Census, slack Slack) []Difference {
	var more []Difference
	for _, what := range slices.Sorted(maps.Keys(after)) {
		if d := (Difference{what, c[what], after[what]}); d.After > d.Before+slack.of(what) {
			more = append(more, d)
		}
	}
	return more
}

// Idle is what may differ between two counts though nothing was left behind: connections of containerd and godwit-node that
// wait for their next use, and log files.
func Idle() Slack {
	return Slack{"fd of containerd ": 3, "fd of godwit-node ": 3, "fd of containerd-shim": 2}
}

// Slack says how many more there may be of things whose key begins with a prefix; the longest prefix counts.
type Slack map[string]int

func (s Slack) of(what string) int {
	best, n := -1, 0
	for prefix, slack := range s {
		if len(prefix) > best && strings.HasPrefix(what, prefix) {
			best, n = len(prefix), slack
		}
	}
	return n
}

// Settle counts until there is no more than in before, and returns what there still is more of when ctx ends: cleaning up
// goes on for a moment after a migration has told its end, and a shim takes its time to go.
func Settle(ctx context.Context, n *lab.Node, before Census, slack Slack) ([]Difference, error) {
	for {
		now, err := Take(n)
		if err != nil {
			return nil, err
		}
		more := before.More(now, slack)
		if len(more) == 0 {
			return nil, nil
		}
		if slices.ContainsFunc(more, func(d Difference) bool { return d.What == snapshots }) {
			if err := collect(ctx, n); err != nil && ctx.Err() == nil {
				return nil, err
			}
		}
		select {
		case <-ctx.Done():
			return more, nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// steadyFor is how long a node has to stay the same to be called steady.
const steadyFor = 500 * time.Millisecond

// Steady counts until a node holds the same for a while, or ctx ends, and returns the last count.
func Steady(ctx context.Context, n *lab.Node) (Census, error) {
	last, err := Take(n)
	for err == nil {
		select {
		case <-ctx.Done():
			return last, nil
		case <-time.After(steadyFor):
		}
		var now Census
		if now, err = Take(n); err == nil && maps.Equal(last, now) {
			return now, nil
		}
		last = now
	}
	return nil, err
}

// collect has containerd remove the snapshots of removed containers. It does so by itself, but forgets those that were removed
// while it did so the last time, until the next (containerd: plugins/gc/scheduler.go, run, drops events from before a
// collection's end).
func collect(ctx context.Context, n *lab.Node) error {
	// A lease is deleted together with what nothing refers to.
	const lease = "ctr -n k8s.io leases create --id census && ctr -n k8s.io leases delete --sync census"
	if out, err := n.Exec(ctx, "sh", "-c", lease); err != nil {
		return fmt.Errorf("collect containerd's garbage on node %s: %w: %s", n.Name, err, out)
	}
	return nil
}

// Names that are new each time. Longest first: an ID in hexadecimal may begin with digits.
var (
	migrationID = regexp.MustCompile(`m-[0-9]{8}-[0-9a-f]{10}`)
	uuid        = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	ioDir       = regexp.MustCompile(`/io/[0-9]+(/|$)`) // of any length: containerd takes a random number
	hexID       = regexp.MustCompile(`[0-9a-f]{8,}`)
	number      = regexp.MustCompile(`[0-9]+`)
)

// pattern replaces what is new each time.
func pattern(name string) string {
	name = migrationID.ReplaceAllString(name, "MIGRATION")
	name = uuid.ReplaceAllString(name, "UUID")
	name = ioDir.ReplaceAllString(name, "/io/ID$1")
	name = hexID.ReplaceAllString(name, "ID")
	return number.ReplaceAllString(name, "N")
}
