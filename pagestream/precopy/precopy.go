// Package precopy copies memory while its owner runs: a first full copy, then
// rounds that each copy what became dirty during the one before, until what is
// left is small enough for the owner to be frozen. It holds the rounds, the
// decision when to stop, and the workers that carry pages from processes and
// shared memory to the streams of a session.
//
// Finding dirty pages is package track's subject, sending and storing them
// are wire's and store's; freezing the owner is the caller's.
package precopy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"godwit.dev/godwit/pagestream/track"
)

// Tracker finds the pages that were written, as *track.Tracker does.
type Tracker interface {
	// Collect returns what was written since the collection before, and at
	// the first call everything present. The processes run.
	Collect(ctx context.Context) (track.Round, error)
	// CollectFrozen is the last collection; the processes are frozen.
	CollectFrozen(ctx context.Context) (track.Round, error)
}

// memoriesOf lists the processes of a round with what is to be copied of each.
func memoriesOf(round track.Round) []Memory {
	memories := make([]Memory, len(round.Processes))
	for i, p := range round.Processes {
		memories[i] = Memory{PID: p.PID, Space: p.Space, Ranges: p.Dirty}
	}
	return memories
}

// Config is what rounds need.
type Config struct {
	Policy Policy
	// Tracker is required. If it is a Deferrer, pages that are written all the time
	// are left out of the rounds, unless the rule is S0, which sends all of them.
	Tracker Tracker
	// Carrier does the rounds of running processes; nil: they are copied from
	// what the Tracker collects.
	Carrier Carrier
	Session Session // required
	// Shared is the shared memory to copy ahead; nil: none.
	Shared *Shared
	// Contents is private memory that CRIU dumps itself, to be copied ahead; nil: it is not.
	Contents *Contents
	// WholePages says that no page is sent as what changed in it.
	WholePages bool
	// Brake holds the pod back if Policy.OnStall is SlowDown; nil: it is never held back.
	Brake Brake
	// Pace is how workers share the processors while the pod runs; nil:
	// Background.
	Pace *Pace
	// Progress, if not nil, is called from one goroutine, at changes and
	// otherwise every ProgressInterval (0: DefaultProgressInterval), never
	// more often than every MinProgressInterval.
	Progress         func(Progress)
	ProgressInterval time.Duration
	// Log; nil: slog's default.
	Log *slog.Logger
}

// State is where the rounds stand.
//
//	Idle -> Running -> Converged <-> Keeping
//	 any of Idle, Converged -> Final -> Done
//	 any -> Broken, any -> Closed
type State int

// The states.
const (
	// Idle: nothing has been copied.
	Idle State = iota
	// Running: Run is copying rounds.
	Running
	// Converged: the rounds have ended and wait for the freeze.
	Converged
	// Keeping: Keep is copying further rounds.
	Keeping
	// Final: the frozen memory is being copied.
	Final
	// Done: everything is at the destination.
	Done
	// Broken: a copy failed half-way, so that dirty pages were collected but
	// perhaps not sent. Only a new tracker and new rounds can go on.
	Broken
	// Closed: Close was called.
	Closed
)

// String names the state.
func (s State) String() string {
	names := [...]string{"idle", "running", "converged", "keeping", "final", "done", "broken", "closed"}
	if s < 0 || int(s) >= len(names) {
		return fmt.Sprintf("state(%d)", int(s))
	}
	return names[s]
}

// ErrState is wrapped by the error of a call that the state does not allow.
var ErrState = errors.New("not allowed in this state")

// legal lists the states from which each state may be entered by a call.
// Broken and Closed may be entered from any but Closed.
var legal = map[State][]State{
	Running:   {Idle},
	Converged: {Running, Keeping},
	Keeping:   {Converged},
	Final:     {Idle, Converged},
	Done:      {Final},
}

// Rounds copies the memory of one pod.
type Rounds struct {
	config   Config
	copier   *Copier
	carried  atomic.Uint64 // pages that the carrier has dealt with
	reporter *reporter

	// Whoever is in Running, Keeping or Final owns what follows.
	begun    time.Time // when the first collection began
	lastScan time.Time // when the last collection began
	last     RoundStat // the last round
	limit    uint64    // the dirty limit last applied, in bytes
	sorting  Sorting
	resent   *resent       // nil if a Carrier sends pages that it does not see
	recent   []RoundStat   // round 0 and the last ones
	promised time.Duration // the predicted downtime when Run ended
	braking  braking
	looks    bool    // the round to come only looks, see Look
	dirty    float64 // what was dirty after the first copy, bytes

	mu    sync.Mutex // guards what follows
	state State
	endBy time.Time // see EndBy; zero: only the policy counts
}

// New starts the workers of rounds. They end with Close.
func New(config Config) (*Rounds, error) {
	if config.Tracker == nil || config.Session == nil {
		return nil, errors.New("rounds need a tracker and a session")
	}
	if config.Session.Streams() < 1 {
		return nil, errors.New("rounds need a session with at least one stream")
	}
	if config.Pace == nil {
		config.Pace = &Background
	}
	if config.Log == nil {
		config.Log = slog.Default()
	}
	r := &Rounds{config: config, braking: braking{brake: config.Brake}}
	if config.Carrier == nil {
		var err error
		if r.resent, err = newResent(!config.WholePages); err != nil {
			return nil, err
		}
	}
	r.copier = NewCopier(config.Session)
	r.reporter = newReporter(config, r.handled)
	return r, nil
}

// Close ends the workers and the progress reports and waits for both. Close
// the session first if its peer may have stopped reading.
func (r *Rounds) Close() {
	r.mu.Lock()
	r.state = Closed
	r.mu.Unlock()
	r.copier.Close()
	r.reporter.close()
	if r.resent == nil {
		return
	}
	if err := r.resent.release(); err != nil {
		r.config.Log.Warn("memory of a migration is not given back", "error", err)
	}
}

// State is where the rounds stand now.
func (r *Rounds) State() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// enter moves to a state, or says that it is not allowed.
func (r *Rounds) enter(to State) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, from := range legal[to] {
		if r.state == from {
			r.state = to
			r.reporter.update(func(p *Progress) { p.State = to })
			return nil
		}
	}
	return fmt.Errorf("rounds go from %s to %s: %w", r.state, to, ErrState)
}

// fail moves to Broken and returns err.
func (r *Rounds) fail(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != Closed {
		r.state = Broken
	}
	r.reporter.update(func(p *Progress) { p.State = r.state })
	return err
}
