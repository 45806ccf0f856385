package processcheck

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"godwit.dev/godwit/nodecontroller/obstacle"
)

// Locks finds the locks that processes of containers hold of files that both nodes see.
// It looks at little else than that, for a pod that is frozen: one that takes such locks
// and releases them had none when it was checked, and may have one now. It runs no more,
// so that to see one once is enough.
func Locks(ctx context.Context, containers []Container) ([]obstacle.Finding, error) {
	g := &gatherer{mounts: make(map[string]map[int]Mount)}
	s := new(Snapshot)
	var found []obstacle.Finding
	for _, c := range containers {
		if len(c.Storage) == 0 {
			continue
		}
		state := &ContainerState{Name: c.Name, Storage: c.Storage}
		tree, err := descendants(c.PID)
		if err != nil {
			return nil, fmt.Errorf("processes of container %s: %w", c.Name, err)
		}
		for _, pid := range tree {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			p, err := g.locked(pid)
			if gone(err) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("processes of container %s: process %d: %w", c.Name, pid, err)
			}
			sc := &scope{snapshot: s, container: state, process: &p}
			for i := range p.Files {
				found = append(found, sc.judgeLock(&p.Files[i])...)
			}
		}
	}
	return found, nil
}

// locked is a process with those of its files that are locked.
func (g *gatherer) locked(pid int) (Process, error) {
	p := Process{PID: pid, Namespaces: make(map[string]string)}
	if err := p.readStatus(); err != nil || p.State == 'Z' {
		return p, err
	}
	var err error
	if p.Namespaces["mnt"], err = os.Readlink(proc(pid, "ns", "mnt")); err != nil {
		return p, err
	}
	if p.Mounts, err = g.mountsOf(&p); err != nil {
		return p, err
	}
	entries, err := os.ReadDir(proc(pid, "fd"))
	if err != nil {
		return p, fmt.Errorf("open files: %w", err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		f, err := openFile(pid, fd)
		if err != nil && !gone(err) {
			return p, fmt.Errorf("open file %d: %w", fd, err)
		}
		if err == nil && f.Locked {
			p.Files = append(p.Files, f)
		}
	}
	return p, nil
}
