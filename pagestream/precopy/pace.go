package precopy

import (
	"golang.org/x/sys/unix"
)

// Pace says how the workers of a copy share the processors with the pod.
type Pace struct {
	// Nice is the nice value of the workers' threads, 0 (as the process) to
	// 19. It weighs against threads of the same control group only.
	Nice int
	// Batch makes them SCHED_BATCH: their wake-ups do not preempt the pod's.
	Batch bool
}

var (
	// Background is the pace of rounds: the pod runs. Measured with a 1 ms
	// ticker beside a copy of incompressible memory over TLS at 0.8 to 1 GB/s,
	// the receiver on the same two processors: at most 5 to 11 ms late with
	// this, 7 to 19 ms with nice 0. Nice values of 10 and 19 gained nothing
	// over it. On a machine busy with other work the copy gets as much less as
	// the nice value says, and with it the rounds converge later, so it is
	// kept small.
	Background = Pace{Nice: 5, Batch: true}
	// Urgent is the pace while the pod is frozen: nobody is in the way.
	Urgent = Pace{}
)

// setPace puts the worker's thread, which it is locked to, at a pace. A pace
// that may not be had (lowering a nice value takes CAP_SYS_NICE) is not worth
// failing a copy for.
func (w *worker) setPace(p Pace) {
	if p == w.pace {
		return
	}
	if p.Nice != w.pace.Nice {
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, p.Nice)
	}
	if p.Batch != w.pace.Batch {
		_ = unix.SchedSetAttr(0, &unix.SchedAttr{
			Size:   unix.SizeofSchedAttr,
			Policy: policyOf(p),
			Nice:   int32(p.Nice),
		}, 0)
	}
	w.pace = p
}

func policyOf(p Pace) uint32 {
	if p.Batch {
		return unix.SCHED_BATCH
	}
	return unix.SCHED_NORMAL
}
