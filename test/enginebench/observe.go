package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagemap"
	"godwit.dev/godwit/pagestream/track"
	"godwit.dev/godwit/test/e2e/move"
)

// witness knows which pages a process writes from another feature of the kernel than the engine that is watched.
type witness interface {
	// written is how many different pages were written since it was last asked, or since it was made.
	written(ctx context.Context) (uint64, error)
	close()
}

// softDirtyWitness watches WriteProtect by the soft-dirty bits, which that engine does not touch. Between its reading and
// its clearing of the bits writes go unseen, some milliseconds of each round: so it rather tells too few pages.
type softDirtyWitness struct{ pid int }

func newSoftDirtyWitness(pid int) (witness, error) {
	w := softDirtyWitness{pid}
	return w, w.clear()
}

func (w softDirtyWitness) written(context.Context) (uint64, error) {
	n, err := anonymous(w.pid, pagemap.SoftDirty)
	return n, errors.Join(err, w.clear())
}

// clear clears the bits of all pages (proc(5), /proc/PID/clear_refs).
func (w softDirtyWitness) clear() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", w.pid), []byte("4"), 0)
}

func (w softDirtyWitness) close() {}

// protectWitness watches SoftDirty by write-protection. It does not see the few pages that are not left to a lazy restore,
// the stack's and a program's own data: so it rather tells too few pages.
type protectWitness struct{ tracker *track.Tracker }

func newProtectWitness(ctx context.Context, pid int) (witness, error) {
	space := pagestream.Space{Kind: pagestream.Process, ID: uint64(pid)}
	w := protectWitness{track.New(track.Options{
		List:   func() ([]track.Process, error) { return []track.Process{{PID: pid, Space: space}}, nil },
		Inject: track.Inject,
	})}
	_, err := w.written(ctx)
	return w, err
}

func (w protectWitness) written(ctx context.Context) (uint64, error) {
	r, err := w.tracker.Collect(ctx)
	for _, p := range r.Processes {
		err = errors.Join(err, p.Err)
	}
	return r.Pages, err
}

func (w protectWitness) close() { w.tracker.Close() }

// userSpace is where the addresses of processes end.
const userSpace = 1<<47 - pagestream.PageSize

// anonymous counts the pages of a process that have a content of its own, and all of the categories besides.
func anonymous(pid int, mask pagemap.Category) (uint64, error) {
	f, err := pagemap.Open(pid)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var pages uint64
	q := pagemap.Query{
		End: userSpace, Inverted: pagemap.FileBacked | pagemap.ZeroPage,
		Mask: pagemap.Present | pagemap.FileBacked | pagemap.ZeroPage | mask,
	}
	err = f.Walk(q, make([]pagemap.Region, 16<<10), func(regions []pagemap.Region) {
		for _, r := range regions {
			pages += r.Pages()
		}
	})
	return pages, err
}

// observation is what was seen of a move's rounds: how many pages were there to be sent in each.
type observation struct {
	pages []uint64
	err   error
}

// observer watches the rounds of one move.
type observer struct {
	pid     int
	witness witness
	// awaitStop: a round reads which pages are dirty when it stops the process, and not at its begin.
	awaitStop bool
	rounds    int
	begun     chan int // numbers of rounds that have begun
	cancel    context.CancelFunc
	next      int // round of which the begin comes next; hear's alone
	done      chan observation
}

// observe begins to watch a process; hear has to get the move's events.
func observe(ctx context.Context, engine string, pid, rounds int) (*observer, error) {
	o := &observer{pid: pid, rounds: rounds, begun: make(chan int, rounds), done: make(chan observation, 1)}
	var err error
	if engine == softDirty {
		o.awaitStop = true
		o.witness, err = newProtectWitness(ctx, pid)
	} else {
		o.witness, err = newSoftDirtyWitness(pid)
	}
	if err != nil {
		return nil, fmt.Errorf("watch redis: %w", err)
	}
	ctx, o.cancel = context.WithCancel(ctx)
	go func() { o.done <- o.watch(ctx) }() // until finish
	return o, nil
}

// hear takes the begin of each round out of the events.
func (o *observer) hear(e move.Event) {
	if e.Progress == nil || e.Progress.MemoryBytes == 0 {
		return
	}
	for ; o.next < o.rounds && o.next <= e.Progress.Round; o.next++ {
		o.begun <- o.next
	}
}

// finish ends the watch and returns what was seen. The move has ended.
func (o *observer) finish() ([]uint64, error) {
	close(o.begun)
	o.cancel()
	seen := <-o.done
	o.witness.close()
	if errors.Is(seen.err, context.Canceled) || seen.err == nil && len(seen.pages) < o.rounds {
		seen.err = fmt.Errorf("only %d rounds were seen instead of %d", len(seen.pages), o.rounds)
	}
	for i, n := range seen.pages {
		if seen.err == nil && n == 0 {
			seen.err = fmt.Errorf("round %d had nothing to send", i)
		}
	}
	return seen.pages, seen.err
}

// watch asks the witness at each round: in the first one for all there is, later for what was written since.
func (o *observer) watch(ctx context.Context) (seen observation) {
	for n := range o.begun {
		if seen.err != nil {
			continue
		}
		if o.awaitStop {
			seen.err = stopped(ctx, o.pid)
		}
		pages, err := o.witness.written(ctx)
		if n == 0 {
			pages, err = anonymous(o.pid, 0)
		}
		seen.pages, seen.err = append(seen.pages, pages), errors.Join(seen.err, err)
	}
	return seen
}

// stopPoll is how often a process is looked at: nothing tells that another traces it.
const stopPoll = 2 * time.Millisecond

// stopped returns when somebody traces the process.
func stopped(ctx context.Context, pid int) error {
	tick := time.NewTicker(stopPoll)
	defer tick.Stop()
	for {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return fmt.Errorf("await the stop of a round: %w", err)
		}
		if strings.Contains(string(b), "State:\tt") {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// redisOf finds the process of redis in the container, as this PID namespace has it.
func redisOf(container string) (int, error) {
	all, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, path := range all {
		dir := filepath.Dir(path)
		cgroup, _ := os.ReadFile(path)
		name, _ := os.ReadFile(filepath.Join(dir, "comm"))
		if strings.Contains(string(cgroup), container) && strings.TrimSpace(string(name)) == "redis-server" {
			return strconv.Atoi(filepath.Base(dir))
		}
	}
	return 0, fmt.Errorf("container %s runs no redis-server", container)
}
