package shim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/demand"
	"godwit.dev/godwit/pagestream/linklimit"
	"godwit.dev/godwit/pagestream/pagemap"
	"godwit.dev/godwit/pagestream/precopy"
	"godwit.dev/godwit/pagestream/wire"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

const (
	// firstRedial and maxRedial are the pauses between attempts to reach the fault server
	// of the destination.
	firstRedial = 10 * time.Millisecond
	maxRedial   = time.Second
	// dialLimit is how long one attempt may take.
	dialLimit = 5 * time.Second
	// reachLimit is how long a commit waits for the fault servers to be reached.
	reachLimit = 10 * time.Second
)

// errUnreached: a pod is not committed whose memory could not be fetched.
var errUnreached = errors.New("the destination does not take the pages that are left here")

// serving gives the destination the pages that were left at the source, from the frozen
// processes: one connection for each container, made by this side, and made again until the
// destination needs nothing more, or a deadline has passed without it.
type serving struct {
	source   *source
	left     uint64 // pages, of all containers
	deadline time.Duration
	pids     []map[uint32]int // of each container
	limit    *linklimit.Limiter

	mu      sync.Mutex // guards what follows
	parts   []servedPart
	began   time.Time     // when a destination first took a connection
	waited  time.Duration // in which the background waited for the limit, of all containers
	changed *broadcast
	lost    error
}

// servedPart is one container.
type servedPart struct {
	reached bool // a connection was made once
	done    bool // the destination needs nothing more of it
	heard   bool // missing is what the destination says
	missing uint64
	faults  uint64
	pages   uint64 // sent
	bytes   uint64 // sent, with what goes around the pages
	before  uint64 // bytes when the rate was last taken
	at      time.Time
	rate    float64
}

func newServing(s *source, memories []precopy.Memory, left uint64) *serving {
	v := &serving{
		source: s, left: left, deadline: reconnectOf(s.request.GetPolicy().GetReconnectMs()),
		pids: make([]map[uint32]int, len(s.containers)), parts: make([]servedPart, len(s.containers)),
		limit: s.use.left, changed: newBroadcast(),
	}
	for i := range v.pids {
		v.pids[i] = make(map[uint32]int)
	}
	for _, m := range memories {
		v.pids[m.Space.Container][uint32(m.Space.ID)] = m.PID
		for _, r := range m.Ranges {
			v.parts[m.Space.Container].missing += r.Pages
		}
	}
	return v
}

// start connects to the destination, which is about to restore the pod.
func (v *serving) start() {
	for i := range v.parts {
		v.source.running.Go(func() { v.keep(v.source.work, uint16(i)) })
	}
}

// keep serves one container until it is done, lost, or ctx ends.
func (v *serving) keep(ctx context.Context, container uint16) {
	alone, pause := time.Now(), firstRedial
	for {
		reached, err := v.serve(ctx, container)
		if ctx.Err() != nil {
			return
		}
		if reached {
			alone, pause = time.Now(), firstRedial
		}
		switch {
		case err == nil:
			v.note(container, func(p *servedPart) { p.done, p.missing = true, 0 })
			return
		case errors.Is(err, demand.ErrUnreadable):
			v.lose(err)
			return
		case v.source.committed() && time.Since(alone) > v.deadline:
			v.lose(fmt.Errorf("node %s was away for %v: %w", v.source.request.GetPeerName(), v.deadline, err))
			return
		}
		if reached {
			v.source.log.Warn("the destination does not fetch pages any more, connecting again", "container", container, "error", err)
		}
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
		case <-ctx.Done():
		case <-v.ended():
			wait.Stop()
			return
		}
		wait.Stop()
		pause = min(2*pause, maxRedial)
	}
}

// ended is closed at some time after another container's pages are lost.
func (v *serving) ended() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.lost != nil {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return nil
}

// serve makes one connection and answers on it. It returns nil when the destination needs
// nothing more of the container.
func (v *serving) serve(ctx context.Context, container uint16) (reached bool, err error) {
	r := v.source.request
	dial, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	credentials, err := wire.LoadCredentials(r.GetPkiDir()) // they may have been renewed
	if err != nil {
		return false, err
	}
	conn, err := wire.DialDemand(dial, r.GetPeerAddress(), r.GetPeerName(), credentials)
	if err != nil {
		return false, err
	}
	conn.SetDeadline(time.Now().Add(dialLimit))
	hello := demand.Hello{Version: demand.Version, Container: uint32(container), Token: [32]byte(r.GetToken()), Migration: v.source.id}
	if _, err = conn.Write(hello.Encode()); err == nil {
		err = demand.ReadWelcome(conn)
	}
	if err != nil {
		conn.Close()
		return false, err
	}
	conn.SetDeadline(time.Time{})
	v.note(container, func(p *servedPart) {
		p.reached = true
		if v.began.IsZero() {
			v.began = time.Now()
		}
	})
	return true, demand.Answering{
		Memory: frozenMemory(v.pids[container]), Limit: v.limit, Waited: v.noteWaited,
		Status: func(missing, faults uint64) { v.hear(container, missing, faults) },
		Sent: func(pages, bytes uint64) {
			v.mu.Lock()
			v.parts[container].pages += pages
			v.parts[container].bytes += bytes
			v.mu.Unlock()
		},
	}.Answer(ctx, conn)
}

// noteWaited counts how long the background has waited for the limit.
func (v *serving) noteWaited(d time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.waited += d
}

// hear takes in how far the destination is.
func (v *serving) hear(container uint16, missing, faults uint64) {
	v.note(container, func(p *servedPart) {
		now := time.Now()
		if took := now.Sub(p.at); !p.at.IsZero() && took > 0 {
			p.rate = float64(p.bytes-p.before) / took.Seconds()
		}
		p.before, p.at = p.bytes, now
		p.heard, p.missing, p.faults = true, missing, faults
	})
}

// note changes what is known of a container, and tells.
func (v *serving) note(container uint16, change func(*servedPart)) {
	v.mu.Lock()
	change(&v.parts[container])
	v.mu.Unlock()
	v.changed.signal()
	v.source.changed.signal()
}

// lose gives the pod up.
func (v *serving) lose(why error) {
	v.mu.Lock()
	if v.lost == nil {
		v.lost = why
	}
	v.mu.Unlock()
	v.source.log.Error("pages that were left here cannot be fetched any more: the pod is lost", "error", why)
	v.changed.signal()
	v.source.changed.signal()
}

// over says whether nothing is left to do, and why the pod is lost, if it is.
func (v *serving) over() (bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.lost != nil {
		return true, v.lost
	}
	for _, p := range v.parts {
		if !p.done {
			return false, nil
		}
	}
	return true, nil
}

// await returns when the destination needs nothing more, or will never get it.
func (v *serving) await() error {
	for {
		next := v.changed.wait()
		if over, err := v.over(); over {
			return err
		}
		<-next
	}
}

// reach returns when the destination has taken a connection for each container.
func (v *serving) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reachLimit)
	defer cancel()
	for {
		next := v.changed.wait()
		if v.reached() {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", errUnreached, ctx.Err())
		}
	}
}

func (v *serving) reached() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, p := range v.parts {
		if !p.reached {
			return false
		}
	}
	return true
}

// report adds how far it is to what a watcher is told.
func (v *serving) report(p *shimv1.Progress) {
	over, lost := v.over()
	p.Fetching = !over
	v.mu.Lock()
	defer v.mu.Unlock()
	p.ThrottledUs += uint64(v.waited.Microseconds())
	if !v.began.IsZero() { // the destination asks for more all the time
		p.LinkActiveUs += uint64(time.Since(v.began).Microseconds())
	}
	rate := 0.0
	for _, part := range v.parts {
		p.MissingPages += part.missing
		p.RemoteFaults += part.faults
		p.PagesSent += part.pages
		p.BytesSent += part.pages * pagestream.PageSize
		p.WireBytesSent += part.bytes
		p.LinkBytes += part.bytes
		if !part.done {
			rate += part.rate
		}
	}
	p.Rate = uint64(rate)
	if rate > 0 {
		p.FetchEtaMs = uint64(float64(p.MissingPages*pagestream.PageSize) / rate * 1000)
	}
	if lost != nil {
		p.Lost = lost.Error()
	}
}

// frozenMemory reads the frozen processes of a container, by their pids in it.
type frozenMemory map[uint32]int

func (m frozenMemory) ReadPages(process uint32, start uint64, buf []byte) error {
	pid, ok := m[process]
	if !ok {
		return errors.New("there is no such process")
	}
	r := pagestream.Range{Start: start, Pages: uint64(len(buf) / pagestream.PageSize)}
	missing, err := pagemap.ReadMemory(pid, []pagestream.Range{r}, buf)
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("%s is not there", missing[0])
	}
	return err
}

// awaitReached sees before the commit that the destination can fetch what is left here.
func (s *source) awaitReached(ctx context.Context) error {
	s.mu.Lock()
	v, cut := s.serving, s.state == shimv1.State_STATE_CUT_OVER
	s.mu.Unlock()
	if v == nil || !cut {
		return nil
	}
	return v.reach(ctx)
}

// isServing says whether the destination fetches pages from the frozen processes.
func (s *source) isServing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.serving != nil
}

// isFetchedFrom says whether it does so still.
func (s *source) isFetchedFrom() bool {
	s.mu.Lock()
	v := s.serving
	s.mu.Unlock()
	if v == nil {
		return false
	}
	over, _ := v.over()
	return !over
}

// awaitFetched returns when the destination needs the frozen processes no more.
func (s *source) awaitFetched() {
	s.mu.Lock()
	v := s.serving
	s.mu.Unlock()
	if v == nil {
		return
	}
	if err := v.await(); err == nil {
		s.log.Info("the destination has fetched everything that was left here")
	}
}
