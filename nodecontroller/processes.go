package nodecontroller

import (
	"context"
	"fmt"
	"net/netip"

	"godwit.dev/godwit/cri"
	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/nodecontroller/obstacle"
	"godwit.dev/godwit/nodecontroller/processcheck"
	"godwit.dev/godwit/pagestream/criuversion"
)

// containersOf are a pod's running containers, as package processcheck looks at them.
func containersOf(ctx context.Context, c *cri.Client, pod cri.Pod) ([]processcheck.Container, error) {
	var containers []processcheck.Container
	for _, ct := range pod.Running() {
		pid, err := c.PID(ctx, ct.ID)
		if err != nil {
			return nil, err
		}
		storage, err := c.Storage(ctx, ct.ID)
		if err != nil {
			return nil, err
		}
		containers = append(containers, processcheck.Container{Name: ct.Name, PID: pid, Storage: storage})
	}
	return containers, nil
}

// lookAtProcesses finds what a pod's running processes hold that is in the way of
// a move, after which the destination's pod comes late or not. Nothing of the pod is
// touched.
func lookAtProcesses(ctx context.Context, c *cri.Client, pod cri.Pod, late bool) ([]obstacle.Finding, error) {
	version, err := criuversion.Installed(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("this node cannot dump pods: %w", err)
	}
	move := processcheck.Move{CRIU: version, SourceFirst: late}
	if move.Containers, err = containersOf(ctx, c, pod); err != nil {
		return nil, err
	}
	ip, err := c.IP(ctx, pod.ID)
	if err != nil {
		return nil, err
	}
	if a, err := netip.ParseAddr(ip); err == nil {
		move.Addresses = append(move.Addresses, a)
	}
	return processcheck.Check(ctx, move)
}

// Processes says what of a pod's running processes is in the way of a move; ref
// is as for a migration. It is asked before each migration as well: this is for
// who wants to say all that is in the way at once.
func (d *Daemon) Processes(ctx context.Context, ref string) ([]obstacle.Finding, error) {
	pod, err := d.cri.Find(ctx, ref)
	if err != nil {
		return nil, err
	}
	return d.processes(ctx, pod, false)
}

// clearOfProcesses refuses a pod whose processes are in the way, and returns what
// they only warn of. The processes of one that is being moved are not looked at:
// what is done to them for the move would be found.
func (d *Daemon) clearOfProcesses(ctx context.Context, pod cri.Pod, req *nodev1.MigrateRequest) ([]obstacle.Finding, error) {
	d.mu.Lock()
	claimed := d.claimOn(pod.ID) != nil
	d.mu.Unlock()
	if claimed || obstruction(pod) != nil {
		return nil, nil // claim.refusal says it, now or after a wait
	}
	return d.judgeProcesses(ctx, pod, req)
}

func (d *Daemon) judgeProcesses(ctx context.Context, pod cri.Pod, req *nodev1.MigrateRequest) ([]obstacle.Finding, error) {
	found, err := d.processes(ctx, pod, req.LatePod)
	if err != nil {
		return nil, fmt.Errorf("pod %s: %w", pod.FullName(), err)
	}
	if err := obstacle.Error(pod.FullName(), req.To, found); err != nil {
		return nil, &immovable{err}
	}
	return found, nil
}

// immovable is a refusal as callers know it from package cri.
type immovable struct{ error }

func (e *immovable) Unwrap() []error { return []error{e.error, cri.ErrImmovable} }
