package precopy

import (
	"slices"
	"sync"
	"time"

	"godwit.dev/godwit/pagestream"
)

// How often Config.Progress is called.
const (
	DefaultProgressInterval = 250 * time.Millisecond
	MinProgressInterval     = 20 * time.Millisecond
)

// rateWindow is the time over which Progress.Rate is taken.
const rateWindow = time.Second

// Progress is how far the rounds have come.
type Progress struct {
	State State
	// Round is the one under way; RoundPages of it are to be copied,
	// RoundPagesDone are.
	Round          int
	RoundPages     uint64
	RoundPagesDone uint64
	Bytes          uint64        // of pages dealt with in all rounds
	Rate           float64       // of that, bytes a second over the last second
	DirtyRate      float64       // bytes a second, before the last round
	ETA            time.Duration // until the rounds end; 0 if it cannot be told
	Unchanged      uint64        // pages that were not sent, as the destination has them
	MemoryBytes    uint64        // what the first full copy found
	Rounds         []RoundStat   // those of Run that ended
	Decisions      []Decision    // after each of Rounds
	Reason         Reason        // why they ended; GoOn until then
	Downtime       time.Duration // predicted if the freeze came now; 0: nothing is known
	Left           uint64        // bytes that the last round left out
	Throttle       Throttle      // how far the pod is held back
}

// reporter calls Config.Progress from one goroutine.
type reporter struct {
	tell     func(Progress)
	interval time.Duration
	copied   func() uint64
	poke     chan struct{}
	quit     chan struct{}
	wg       sync.WaitGroup

	mu         sync.Mutex // guards what follows
	now        Progress
	roundStart uint64        // copied() when the round began
	roundsLeft time.Duration // expected of all rounds not ended, when the last one ended
	leftAsOf   time.Time     // when that was expected
	samples    []sample      // of the last rateWindow, oldest first
}

type sample struct {
	at    time.Time
	pages uint64
}

func newReporter(config Config, copied func() uint64) *reporter {
	r := &reporter{
		tell:     config.Progress,
		interval: config.ProgressInterval,
		copied:   copied,
		poke:     make(chan struct{}, 1),
		quit:     make(chan struct{}),
	}
	if r.interval <= 0 {
		r.interval = DefaultProgressInterval
	}
	r.interval = max(r.interval, MinProgressInterval)
	if r.tell != nil {
		r.wg.Go(r.loop)
	}
	return r
}

func (r *reporter) close() {
	close(r.quit)
	r.wg.Wait()
}

// loop tells at every change and interval, but never two times within
// MinProgressInterval, and once more at the end.
func (r *reporter) loop() {
	ticker := time.NewTicker(r.interval)
	defer ticker.Stop()
	for {
		select {
		case <-r.poke:
		case <-ticker.C:
		case <-r.quit:
			r.tell(r.progress(time.Now()))
			return
		}
		r.tell(r.progress(time.Now()))
		select {
		case <-time.After(MinProgressInterval):
		case <-r.quit:
			r.tell(r.progress(time.Now()))
			return
		}
	}
}

// update changes the progress and has it told.
func (r *reporter) update(change func(*Progress)) {
	r.mu.Lock()
	change(&r.now)
	r.mu.Unlock()
	select {
	case r.poke <- struct{}{}:
	default:
	}
}

// copyEnded books the pages of a copy that were not sent, and has told what was.
func (r *reporter) copyEnded(stats CopyStats) {
	if stats.Unchanged > 0 || stats.Deltas > 0 {
		r.update(func(p *Progress) { p.Unchanged += stats.Unchanged })
	}
}

func (r *reporter) roundBegins(number int, pages uint64) {
	r.update(func(p *Progress) {
		r.roundStart = r.copied()
		p.Round, p.RoundPages = number, pages
		if number == 0 {
			p.MemoryBytes = max(p.MemoryBytes, pages*pagestream.PageSize) // some may be copied ahead
		}
	})
}

// roundFound corrects what a round was begun with.
func (r *reporter) roundFound(stat RoundStat) {
	r.update(func(p *Progress) {
		p.RoundPages = stat.Pages
		if stat.Number == 0 {
			p.MemoryBytes = stat.Bytes()
		}
	})
}

// roundEnds books a round of Run; left is how long those to come are expected
// to take.
func (r *reporter) roundEnds(stat RoundStat, d Decision, left time.Duration) {
	r.update(func(p *Progress) {
		p.Rounds = append(p.Rounds, stat)
		p.Decisions = append(p.Decisions, d)
		p.DirtyRate = stat.DirtyRate()
		p.Reason = d.Reason
		p.foresee(stat, d.Forecast)
		r.roundsLeft, r.leftAsOf = left, time.Now()
	})
}

// keptUp books a round of Keep, of which there may be any number.
func (r *reporter) keptUp(stat RoundStat, f Forecast) {
	r.update(func(p *Progress) {
		p.DirtyRate = stat.DirtyRate()
		p.foresee(stat, f)
	})
}

func (p *Progress) foresee(stat RoundStat, f Forecast) {
	if stat.Number > 0 {
		p.Downtime, p.Left = f.Downtime, stat.Left()
	}
}

// progress is the progress as of now.
func (r *reporter) progress(now time.Time) Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	pages := r.copied()
	r.samples = append(r.samples, sample{now, pages})
	for len(r.samples) > 2 && now.Sub(r.samples[1].at) >= rateWindow {
		r.samples = r.samples[1:]
	}
	oldest := r.samples[0]
	p := r.now
	p.Rounds, p.Decisions = slices.Clone(p.Rounds), slices.Clone(p.Decisions)
	p.Bytes = pages * pagestream.PageSize
	p.RoundPagesDone = min(pages-r.roundStart, p.RoundPages)
	p.Rate = perSecond((pages-oldest.pages)*pagestream.PageSize, now.Sub(oldest.at))
	p.ETA = r.eta(p, now)
	return p
}

// eta is when the rounds are expected to end. In round 0 nothing is known of
// those to come: it is the round's own end then. Callers hold mu.
func (r *reporter) eta(p Progress, now time.Time) time.Duration {
	switch {
	case p.State != Running || p.Reason != GoOn:
		return 0
	case len(p.Rounds) > 0:
		return max(r.roundsLeft-now.Sub(r.leftAsOf), 0)
	case p.Rate > 0:
		left := (p.RoundPages - p.RoundPagesDone) * pagestream.PageSize
		return time.Duration(float64(left) / p.Rate * float64(time.Second))
	}
	return 0
}
