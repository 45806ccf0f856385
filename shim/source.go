package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"godwit.dev/godwit/pagestream/linklimit"
	"godwit.dev/godwit/pagestream/track"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// firstWatch is how soon after Begin somebody has to watch: a daemon that died can not
// leave a pod frozen or tracked for ever.
const firstWatch = 10 * time.Second

var (
	// errUnwatched aborts a migration whose daemon has gone.
	errUnwatched = errors.New("the node daemon no longer watches the migration")
	// errCommitted ends the work of a source whose pod has moved.
	errCommitted = errors.New("the migration is committed")
)

// sourceMoves are the legal moves of a source; every other is an error. What
// leads back to a running pod is legal everywhere before the commit, and
// nowhere after it.
var sourceMoves = map[shimv1.State][]shimv1.State{
	shimv1.State_STATE_UNSPECIFIED:  {shimv1.State_STATE_ROUNDS, shimv1.State_STATE_ABORTED, shimv1.State_STATE_FAILED},
	shimv1.State_STATE_ROUNDS:       {shimv1.State_STATE_CONVERGED, shimv1.State_STATE_ABORTED, shimv1.State_STATE_FAILED},
	shimv1.State_STATE_CONVERGED:    {shimv1.State_STATE_CUTTING_OVER, shimv1.State_STATE_ABORTED, shimv1.State_STATE_FAILED},
	shimv1.State_STATE_CUTTING_OVER: {shimv1.State_STATE_CUT_OVER, shimv1.State_STATE_ABORTED, shimv1.State_STATE_FAILED},
	shimv1.State_STATE_CUT_OVER:     {shimv1.State_STATE_COMMITTED, shimv1.State_STATE_ABORTED, shimv1.State_STATE_FAILED},
}

// source is the sending side of a migration in the shim of the pod that moves.
type source struct {
	id      string
	log     *slog.Logger
	request *shimv1.BeginRequest
	// containers in the order of the pod.
	containers []*departure
	// settings are what the pod was made with, see settled.
	settings string
	link     *link
	// brake holds the pod back where that is asked for; nil otherwise.
	brake   *brake
	changed *broadcast
	// engine finds dirty pages; engineReason says in a sentence why it does. They
	// are begin's, and fixed when that has returned.
	engine       track.Engine
	engineReason string
	// canProtect: the kernel has what WriteProtect needs, whatever was chosen.
	canProtect bool
	// filesWanted is closed, by sendFiles, when the destination has its file trees.
	filesWanted chan struct{}
	wantFiles   sync.Once

	// work is done, with a cause, when rounds and cutover have to stop.
	work   context.Context
	cancel context.CancelCauseFunc
	// running counts what works for this migration: the rounds, the cutover.
	running sync.WaitGroup
	// undone is closed when everything has been put back or cleared away.
	undone chan struct{}
	// unwanted is closed, by remove, when somebody wants a container of the pod gone; killed when a committed pod has been.
	unwanted, killed chan struct{}
	removing         sync.Once

	// connections are those that the pod had shortly before the freeze. They are the cutover's, and fixed when that has returned.
	connections []connection

	mu       sync.Mutex
	state    shimv1.State     // guarded by mu
	err      error            // why it aborted or failed, guarded by mu
	watchers int              // guarded by mu
	thaw     *time.Timer      // ends a freeze in which nothing gets on, guarded by mu
	dumped   int              // containers that CRIU has dumped, guarded by mu
	progress *shimv1.Progress // what the rounds last said, guarded by mu
	copied   bool             // the rounds have ended; guarded by mu
	placing  bool             // the destination's pod is to be made; guarded by mu
	placed   time.Time        // since when, guarded by mu
	use      linkUse          // guarded by mu
	leaves   bool             // what is dirty at the cutover is left here, guarded by mu
	serving  *serving         // gives it to the destination; nil if nothing was left; guarded by mu
	collects func()           // has garbage collected again; nil if it is; guarded by mu
}

// newSource checks that the pod can be moved; nothing happens to it yet.
func newSource(p *pod, log *slog.Logger, r *shimv1.BeginRequest) (*source, error) {
	if !migrationID.MatchString(r.GetMigration()) {
		return nil, errors.New("malformed migration id")
	}
	s := &source{
		id: r.GetMigration(), log: log.With("migration", r.GetMigration()), request: r,
		changed: newBroadcast(), undone: make(chan struct{}), unwanted: make(chan struct{}), killed: make(chan struct{}), filesWanted: make(chan struct{}), progress: &shimv1.Progress{},
	}
	s.settings = p.madeWith()
	s.use = linkUse{own: int64(r.GetBandwidth()), share: r.GetShare(), left: linklimit.New(0)}
	s.use.apply()
	if !r.GetFilesLater() {
		s.sendFiles()
	}
	s.work, s.cancel = context.WithCancelCause(context.Background())
	if have := len(p.workloads()); have != len(r.GetContainers()) {
		return nil, fmt.Errorf("the pod has %d containers, %d were named: all of them move together", have, len(r.GetContainers()))
	}
	for i, id := range r.GetContainers() {
		c, ok := p.get(id)
		if !ok || c.sandbox {
			return nil, fmt.Errorf("the pod has no container %s", id)
		}
		d, err := newDeparture(c, uint16(i))
		if err != nil {
			return nil, err
		}
		s.containers = append(s.containers, d)
	}
	return s, s.openBrake()
}

// move takes the migration from one state to the next.
func (s *source) move(to shimv1.State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.moveLocked(to)
}

// moveLocked is move with mu held.
func (s *source) moveLocked(to shimv1.State) error {
	for _, legal := range sourceMoves[s.state] {
		if legal != to {
			continue
		}
		s.log.Info("migration moved on", "from", s.state, "to", to)
		s.state = to
		s.changed.signal()
		return nil
	}
	if s.err != nil {
		return fmt.Errorf("migration is %v (%w), it can not become %v", s.state, s.err, to)
	}
	return fmt.Errorf("migration is %v, it can not become %v", s.state, to)
}

// begin connects to the destination, tracks the pod and starts the rounds.
func (s *source) begin(ctx context.Context) error {
	both, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(s.work, func() { cancel(context.Cause(s.work)) })
	defer stop()
	err := s.fitRuntimes(both)
	if err == nil {
		err = s.choose(both)
	}
	if err == nil {
		err = s.connect(both)
	}
	if err != nil {
		s.end(shimv1.State_STATE_FAILED, err)
		return err
	}
	if err := s.move(shimv1.State_STATE_ROUNDS); err != nil {
		return err
	}
	time.AfterFunc(firstWatch, s.checkWatched)
	s.running.Go(func() { s.learnGuards(s.work) })
	copying := s.rounds
	if s.asksToLeave() {
		s.leaveRest()
	}
	if s.cold() {
		s.link.stopKeeping = func() {}
		close(s.link.kept)
		copying = func(ctx context.Context) error { return s.waitForTrees(ctx, s.syncFiles) }
		if !s.request.GetFilesLater() {
			return s.move(shimv1.State_STATE_CONVERGED)
		}
	}
	s.running.Go(func() {
		if err := copying(s.work); err != nil {
			go s.end(shimv1.State_STATE_FAILED, err)
		}
	})
	return nil
}

// sendFiles says that the destination has its file trees.
func (s *source) sendFiles() { s.wantFiles.Do(func() { close(s.filesWanted) }) }

// committed says whether the pod belongs to the destination.
func (s *source) committed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state == shimv1.State_STATE_COMMITTED
}

// watch counts a watcher until the returned function is called.
func (s *source) watch() (unwatch func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers++
	return func() {
		s.mu.Lock()
		s.watchers--
		s.mu.Unlock()
		s.checkWatched()
	}
}

// checkWatched aborts when nobody watches. After the commit the source goes on.
func (s *source) checkWatched() {
	s.mu.Lock()
	unwatched := s.watchers == 0
	if unwatched {
		s.use.letGo()
	}
	s.mu.Unlock()
	if unwatched {
		s.end(shimv1.State_STATE_ABORTED, errUnwatched)
	}
}

// commit records the one decision, after which the source never runs again.
func (s *source) commit() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == shimv1.State_STATE_COMMITTED {
		return nil
	}
	if err := s.moveLocked(shimv1.State_STATE_COMMITTED); err != nil {
		return err
	}
	s.thaw.Stop()
	go s.leave()
	return nil
}

// leave kills the frozen pod and clears away what the migration needed.
func (s *source) leave() {
	defer close(s.undone)
	serves := s.isServing()
	// Now, not with the pod's end: peers look for the pod while the destination lets it go.
	s.reset(s.connections)
	if !serves {
		s.awaitRemoval()
	}
	s.reset(s.listed())
	if !serves {
		awaitLeisure(processorsWaitedFor)
	}
	s.releaseCollector(collectorCalm)
	if serves {
		s.awaitFetched()
	}
	for _, c := range s.containers {
		// All processes have SIGKILL pending before any of them is thawed.
		if err := c.freezer.kill(); err != nil {
			s.log.Error("kill the committed pod", "container", c.id, "error", err)
		}
	}
	for _, c := range s.containers {
		c.dump.Commit()
		if err := c.freezer.thaw(); err != nil {
			s.log.Error("thaw the killed pod", "container", c.id, "error", err)
		}
	}
	close(s.killed)
	s.cancel(errCommitted)
	s.running.Wait()
	s.release()
	s.log.Info("source pod is gone")
}

// listed are the connections of the pod.
func (s *source) listed() []connection {
	list, err := listConnections(s.containers[0].pid)
	if err != nil {
		s.log.Warn("peers of some connections hear late that these are over", "error", err)
	}
	return list
}

func (s *source) reset(list []connection) {
	if err := resetConnections(s.containers[0].pid, list); err != nil {
		s.log.Warn("peers hear late that their connections are over", "error", err)
	}
}

// lingerLimit is how long a committed pod stands here when nobody asks for its removal. The node daemon does as soon as the pod runs on the
// other node, some tens of milliseconds after the commit.
const lingerLimit = time.Second

// awaitRemoval returns when somebody wants the committed pod gone, or has not come for long. Until then nobody needs its end, which takes
// processors: 5 ms for each 64 MiB of memory. (Those that CRIU traces begin to die when they are killed, frozen or not.)
func (s *source) awaitRemoval() {
	linger := time.NewTimer(lingerLimit)
	defer linger.Stop()
	select {
	case <-s.unwanted:
	case <-linger.C:
	}
}

// remove says that somebody wants the pod gone, which is not so before the commit.
func (s *source) remove() {
	if s.committed() {
		s.removing.Do(func() { close(s.unwanted) })
	}
}

// abort ends the migration before its commit.
func (s *source) abort(reason string) error {
	s.end(shimv1.State_STATE_ABORTED, errors.New(reason))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == shimv1.State_STATE_COMMITTED {
		return errors.New("the migration is committed: the pod belongs to the destination")
	}
	return nil
}

// end puts everything back as it was before the migration, whoever asks first,
// and returns when it is done. After the commit it does nothing.
func (s *source) end(to shimv1.State, cause error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = cause
	}
	if err := s.moveLocked(to); err != nil {
		committed := s.state == shimv1.State_STATE_COMMITTED
		s.mu.Unlock()
		if !committed {
			<-s.undone
		}
		return
	}
	if s.thaw != nil {
		s.thaw.Stop()
	}
	s.mu.Unlock()
	defer close(s.undone)
	s.brake.release()
	s.cancel(cause)
	s.running.Wait()
	s.letGo()
	s.releaseCollector(0)
	s.release()
	s.log.Info("migration ended, the pod runs on", "cause", cause)
}

// letGo has CRIU release the processes and thaws them, all containers at once.
func (s *source) letGo() {
	var all sync.WaitGroup
	for _, c := range s.containers {
		all.Go(func() {
			if err := c.letGo(); err != nil {
				s.log.Error("let the pod run on", "container", c.id, "error", err)
			}
		})
	}
	all.Wait()
}

// over says whether a new migration may begin.
func (s *source) over() bool {
	select {
	case <-s.undone:
		return true
	default:
		return false
	}
}

// report is what a watcher is told.
func (s *source) report() (*shimv1.Progress, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := cloneProgress(s.progress)
	p.State = s.state
	s.use.report(p)
	p.PlacePod = s.placing
	p.AwaitsFiles = s.state == shimv1.State_STATE_ROUNDS && s.copied && !s.treesReady()
	switch s.state {
	case shimv1.State_STATE_ABORTED, shimv1.State_STATE_FAILED:
		p.Error = s.err.Error()
		return p, true
	case shimv1.State_STATE_COMMITTED:
		if s.serving != nil {
			s.serving.report(p)
		}
		return p, !p.Fetching
	}
	return p, false
}
