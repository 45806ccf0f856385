package precopy

import (
	"fmt"
	"math"
)

// CPU is what one part of a pod, a container, has of the processors, in cores.
type CPU struct {
	// Used is what it used on average since the measurement before.
	Used float64
	// Limit is what it may use now; 0: whatever there is.
	Limit float64
	// Before is what it used when it was first measured, before anything was held.
	Before float64
	// Foreign: somebody else has set its limit meanwhile, which is left alone.
	Foreign bool
}

// Throttle is how far a pod is held back. The zero value: not at all.
type Throttle struct {
	// Cores is what those parts of it may use now that are held back, and Of what they
	// might use otherwise.
	Cores, Of float64
}

// Share is what is left to the pod of its processors, 1 if it is not held back.
func (t Throttle) Share() float64 {
	if t.Of <= 0 {
		return 1
	}
	return t.Cores / t.Of
}

// String says it for people; it is empty if the pod is not held back.
func (t Throttle) String() string {
	if t.Of <= 0 {
		return ""
	}
	percent, cpus := fmt.Sprintf("%.0f", 100*t.Share()), "CPUs"
	if t.Share() < 0.1 {
		percent = fmt.Sprintf("%.1f", 100*t.Share())
	}
	if t.Of == 1 {
		cpus = "CPU"
	}
	return fmt.Sprintf("throttled to %s %% of %.3g %s", percent, t.Of, cpus)
}

// Brake holds a pod back. Who makes it lets go of it, whatever becomes of the rounds.
type Brake interface {
	// Measure tells what each part of the pod has used since the call before, in the
	// same order every time.
	Measure() ([]CPU, error)
	// Hold gives each part a limit, cores; 0 leaves it as it is. It says how far the pod
	// is held back then.
	Hold(cores []float64) (Throttle, error)
}

// A step leaves a part of the pod at least leastKept and at most mostKept of what it used:
// as much as would have it write at half the link's rate, if it writes in proportion to
// what it computes.
const (
	leastKept = 0.4
	mostKept  = 0.7
	headroom  = 0.5
)

// No part is held to less than a tenth of a core, or, if it used little from the beginning,
// than a fifth of that: what computes nothing but to write would not be slowed otherwise.
// One hundredth of a core is the least that kernels can hold a group of processes to in
// their usual period.
const (
	floorCores = 0.1
	floorShare = 0.2
	leastCores = 0.01
)

// worthHolding is how much less than it uses a limit has to be to slow a part down.
const worthHolding = 0.95

// NextLimits are the limits of one more step for a pod whose memory becomes dirty at one
// rate and is copied at another, bytes a second. The limit of a part that is left as it is
// is 0; it returns false if none can be held to less.
func NextLimits(dirty, link float64, parts []CPU) (cores []float64, lower bool) {
	keep := mostKept
	if dirty > 0 && link > 0 {
		keep = min(max(headroom*link/dirty, leastKept), mostKept)
	}
	cores = make([]float64, len(parts))
	for i, p := range parts {
		if p.Foreign {
			continue
		}
		has := p.Used
		if p.Limit > 0 {
			has = min(has, p.Limit)
		}
		next := max(keep*has, p.floor())
		if next < has*worthHolding {
			cores[i], lower = next, true
		}
	}
	return cores, lower
}

// floor is the least limit of a part.
func (c CPU) floor() float64 {
	before := c.Before
	if before == 0 {
		before = math.Inf(1)
	}
	return max(leastCores, min(floorCores, floorShare*before))
}

// braking is a pod that is being held back.
type braking struct {
	brake Brake
	cpus  []CPU // as of the last round
	// since is the first round that a pod held back as it is now was watched in from its
	// beginning; 0: it is not held back.
	since    int
	throttle Throttle
}

// measure notes what the pod used over a round. A pod that cannot be measured is not
// held back.
func (r *Rounds) measure() {
	b := &r.braking
	if b.brake == nil {
		return
	}
	cpus, err := b.brake.Measure()
	if err != nil {
		r.config.Log.Warn("the pod is not held back: its use of processors cannot be told", "error", err)
		b.brake = nil
		return
	}
	for i := range cpus {
		cpus[i].Before = cpus[i].Used
		if i < len(b.cpus) {
			cpus[i].Before = b.cpus[i].Before
		}
	}
	b.cpus = cpus
}

// writing tells whether it is what the pod writes that makes the downtime too long: there is no
// use in holding it back otherwise. What cannot be tracked is copied in the end however slow it is.
func writing(f Forecast, policy Policy) bool {
	tracked := policy.without(f, f.Untracked)
	return tracked > policy.downtimeLimit() && worthwhile(tracked, policy.downtime(0), clearly)
}

// decide judges the rounds, and holds the pod back by a step if they do not converge and
// that is what is to be done about it: then they go on.
func (r *Rounds) decide(history []RoundStat, policy Policy) Decision {
	r.measure()
	b := &r.braking
	d := judge(history, b.since, policy)
	d.Throttle = b.throttle
	if policy.OnStall != SlowDown || b.brake == nil || d.Reason != NoProgress || !d.Stalled() || !writing(d.Forecast, policy) {
		return d
	}
	// All that is written counts, also pages that the rounds leave out as they are written all the time.
	dirty, link := history[len(history)-1].DirtyRate(), copyRate(history)
	cores, lower := NextLimits(dirty, link, b.cpus)
	if !lower {
		return d
	}
	throttle, err := b.brake.Hold(cores)
	if err != nil {
		r.config.Log.Warn("the pod is not held back any further", "error", err)
		return d
	}
	// The next round finds what was written before the step as well.
	b.throttle, b.since = throttle, len(history)+1
	d.Throttle, d.Stop, d.Reason = throttle, false, GoOn
	r.config.Log.Info(throttle.String(), "dirty_rate", int64(dirty), "link_rate", int64(link), "downtime", d.Forecast.Downtime,
		"downtime_limit", d.DowntimeLimit)
	r.reporter.update(func(p *Progress) { p.Throttle = throttle })
	return d
}
