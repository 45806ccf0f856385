// Package byhand is a container that an operator runs with runc, and moves with runc's own commands, CRIU's and tar: what
// Godwit is compared with. It is in the node's network, so that it has the address of the node that it is on.
package byhand

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strconv"

	"godwit.dev/godwit/test/lab"
)

// Spec says what to run.
type Spec struct {
	// Image is one that both nodes have.
	Image string
	// Args are the program and its arguments.
	Args []string
	// User is who runs it, by number: user and group.
	User uint32
	// Files is a directory in the container whose files come along when it is moved, without a slash at its begin: CRIU dumps processes. Empty is none.
	Files string
}

// Container runs on one of two nodes. They have one such container at a time.
type Container struct {
	from, to *lab.Node // it is on from
	files    string    // beside the images, as the scripts want it; empty for none
}

// Start runs it on a node, from which it can be moved to the other one.
func Start(ctx context.Context, on, other *lab.Node, spec Spec) (*Container, error) {
	c := &Container{from: on, to: other}
	if spec.Files != "" {
		c.files = path.Join(rootfs, spec.Files)
	}
	for _, n := range []*lab.Node{on, other} {
		if err := prepare(ctx, n, spec); err != nil {
			return nil, errors.Join(err, c.Remove(context.WithoutCancel(ctx)))
		}
	}
	_, err := on.Exec(ctx, "bash", "-c", `cd "$1" && exec runc run -d "$2" </dev/null >/dev/null 2>&1`, "bash", dir, containerID)
	if err != nil {
		return nil, errors.Join(err, c.Remove(context.WithoutCancel(ctx)))
	}
	return c, nil
}

// Addr is where it can be reached.
func (c *Container) Addr() netip.Addr { return c.from.Addr() }

// Next is where it will be after a move.
func (c *Container) Next() netip.Addr { return c.to.Addr() }

// Node is where it runs.
func (c *Container) Node() *lab.Node { return c.from }

// Remove ends it and takes all of it off both nodes.
func (c *Container) Remove(ctx context.Context) error {
	var errs []error
	for _, n := range []*lab.Node{c.from, c.to} {
		_, err := n.Exec(ctx, "bash", "-c", forget, "bash", dir, containerID)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// moved notes a move's end, and removes the images.
func (c *Container) moved(ctx context.Context) error {
	c.from, c.to = c.to, c.from
	for _, n := range []*lab.Node{c.from, c.to} {
		if _, err := n.Exec(ctx, "bash", "-c", `rm -rf "$1" /tmp/hand-*`, "bash", imagesIn); err != nil {
			return err
		}
	}
	return nil
}

// The scripts of the two ends. Their arguments are the bundle's directory, the container, the number of the checkpoint, that of its parent
// or nothing, and the files that come along or nothing. They travel as they are below that directory, where those of an earlier move go first.
const (
	dumpRound = `set -e; mkdir -p "$1/images"; cd "$1/images"
runc checkpoint --pre-dump --image-path "$1/images/$3" --work-path "/tmp/hand-$3" ${4:+--parent-path "../$4"} "$2" >&2
cd "$1"; tar -cf - "images/$3"`
	takeRound = `set -e; tar -xf - -C "$1"`

	dumpLast = `set -e; mkdir -p "$1/images"; cd "$1/images"
runc checkpoint --image-path "$1/images/$3" --work-path "/tmp/hand-$3" ${4:+--parent-path "../$4"} "$2" >&2
cd "$1"; tar -cf - "images/$3" ${5:+"$5"}`
	restore = `set -e; cd "$1"; [ -z "$5" ] || rm -rf "./$5"; tar -xf -
exec runc restore -d --image-path "$1/images/$3" --work-path /tmp/hand-restore "$2" </dev/null >/dev/null 2>/tmp/hand-restore.err`
)

// PreDump does a round, the first has number 0, and copies it to the other node.
func (c *Container) PreDump(ctx context.Context, round int) error {
	if err := c.pipe(ctx, dumpRound, takeRound, dir, containerID, strconv.Itoa(round), parent(round)); err != nil {
		return fmt.Errorf("pre-dump %d by hand: %w", round, err)
	}
	return nil
}

// Finish does what the container stands still for: the checkpoint after so many rounds, its copy, and the restore, each begun
// by the end of the one before. The container is on the other node then; restored is called when it runs there.
func (c *Container) Finish(ctx context.Context, rounds int, restored func()) error {
	if err := c.pipe(ctx, dumpLast, restore, dir, containerID, strconv.Itoa(rounds), parent(rounds), c.files); err != nil {
		return fmt.Errorf("checkpoint and restore by hand: %w%s", err, c.said(ctx))
	}
	restored()
	return c.moved(ctx)
}

// parent is the number of the round before, as the scripts want it.
func parent(round int) string {
	if round == 0 {
		return ""
	}
	return strconv.Itoa(round - 1)
}

// said is what the logs of a failed move say: what follows the first errors follows from them. That CRIU cannot raise its own
// limit of files is so in every sandbox, and no error.
func (c *Container) said(ctx context.Context) string {
	var all string
	for _, n := range []*lab.Node{c.from, c.to} {
		out, _ := n.Exec(context.WithoutCancel(ctx), "sh", "-c", "tail -n 5 /tmp/hand-restore.err 2>/dev/null; grep -h Error /tmp/hand-*/*.log 2>/dev/null | grep -v RLIMIT_NOFILE | head -n 5")
		if len(out) > 0 {
			all += fmt.Sprintf("\nnode %s: %s", n.Name, out)
		}
	}
	return all
}
