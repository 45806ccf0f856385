package shim

import (
	"os"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
)

// kubelet makes and starts the containers of a pod one after the other, each when
// the start of the one before has returned; all of them must be parked before any
// is restored. So the starts of a pod that kubelet makes are answered when they are
// parked, with a process that is not theirs, and only the last one's lasts until
// the commit: while it does, kubelet probes nothing. Who asks about an answered
// container is told that it runs, until it does, or never will.

// early says whether a start that is about to be parked is answered then. It is
// called with mu held.
func (d *destination) early(c *container) bool {
	if !c.admission.AnswerEarly {
		return false
	}
	started := 1
	for _, a := range d.arrivals {
		if a.state != arrivalExpected && a.state != arrivalEnded {
			started++
		}
	}
	return started < c.admission.ExpectedContainers
}

// answered says whether the container's start was answered and it has not come to
// run, or to fail, since.
func (a *arrival) answered() bool {
	select {
	case <-a.failed:
		return false
	case <-a.started:
		return false
	default:
	}
	select {
	case <-a.parked:
		return a.answeredBy != 0
	default:
		return false
	}
}

// answeredState is what containerd is told of an answered container. The stock
// service would say that it is created, or nothing while it is being restored.
func (a *arrival) answeredState() *taskAPI.StateResponse {
	c := a.container
	return &taskAPI.StateResponse{
		ID: c.id, Bundle: c.bundle, Pid: a.answeredBy, Status: task.Status_RUNNING,
		Stdin: c.stdio.in, Stdout: c.stdio.out, Stderr: c.stdio.err, Terminal: c.terminal,
	}
}

// placeholder is the process that stands for a container that does not run yet:
// the pod's pause process, which is in the same network and lives as long as the
// pod. Nobody signals it by that: signals go through the shim.
func (p *pod) placeholder() uint32 {
	if pid := p.sandboxPID(); pid > 0 {
		return uint32(pid)
	}
	return uint32(os.Getpid())
}
