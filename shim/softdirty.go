package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/pagestream/pageserver"
	"godwit.dev/godwit/pagestream/precopy"
	"godwit.dev/godwit/pagestream/track"
	"godwit.dev/godwit/shim/criu"
)

// predumps are the rounds of engine SoftDirty: in each of them CRIU pre-dumps
// every container of the pod into our page server, which sends the pages on.
type predumps struct {
	list       func() ([]track.Process, error)
	containers []*predumped
	streams    []pageserver.Pages
	shared     *precopy.Shared
	// stuckAfter is how long a pre-dump may hold the processes while nothing gets on.
	stuckAfter time.Duration
	log        *slog.Logger
}

// predumped is one container of them. It belongs to the one round at a time.
type predumped struct {
	*departure
	index *pageserver.Index
	// dir holds one images directory for each pre-dump.
	dir   string
	count int
	// last is the directory of the last one that succeeded; empty: there is none
	// to build on.
	last string
	// births are, by their pids in the container, when the processes of that one
	// were started: a pid alone may be somebody else's by now.
	births map[uint64]string
}

func newPredumps(s *source, session pageSession, shared *precopy.Shared) (*predumps, error) {
	p := &predumps{list: s.processes, shared: shared, log: s.log}
	resident, _ := s.resident()
	p.stuckAfter = stuckAfter(s.request.GetPolicy().GetStuckAfterMs(), resident)
	for i := range session.Streams() {
		p.streams = append(p.streams, session.Session.Stream(i))
	}
	for _, c := range s.containers {
		index, err := pageserver.NewIndex()
		if err != nil {
			return nil, err
		}
		d := &predumped{departure: c, index: index, dir: predumpDir(c.bundle)}
		if err := errors.Join(os.RemoveAll(d.dir), os.MkdirAll(d.dir, 0o700)); err != nil {
			return nil, fmt.Errorf("make directory for pre-dumps: %w", err)
		}
		p.containers = append(p.containers, d)
	}
	return p, nil
}

// predumpDir is where a leaving container keeps what CRIU wants of one pre-dump
// for the next. The pages are not there.
func predumpDir(bundle string) string { return filepath.Join(bundle, "godwit", "predumps") }

// close gives up what the rounds needed; they have ended.
func (p *predumps) close() {
	for _, c := range p.containers {
		c.index.Close()
		os.RemoveAll(c.dir)
	}
}

// Processes implements precopy.Carrier.
func (p *predumps) Processes() ([]track.Process, error) { return p.list() }

// Expect implements precopy.Carrier: what is resident and not shared.
func (p *predumps) Expect() uint64 {
	var pages uint64
	for _, c := range p.containers {
		pids, err := c.freezer.processes()
		if err != nil {
			continue
		}
		for _, pid := range pids {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
			var size, resident, shared uint64
			if n, _ := fmt.Sscan(string(b), &size, &resident, &shared); n == 3 && resident > shared {
				pages += resident - shared
			}
		}
	}
	return pages
}

// Carry implements precopy.Carrier: all containers are pre-dumped at once.
func (p *predumps) Carry(ctx context.Context, number int, done func(pages uint64)) (precopy.Carried, error) {
	var (
		work, all = errgroup.WithContext(ctx)
		parts     = make([]precopy.Carried, len(p.containers))
		absorbed  = make([]atomic.Uint64, len(p.containers))
	)
	for i, c := range p.containers {
		note := func(pages uint64) {
			absorbed[i].Store(pages)
			var sum uint64
			for j := range absorbed {
				sum += absorbed[j].Load()
			}
			done(sum)
		}
		work.Go(func() (err error) {
			parts[i], err = p.carry(all, c, note)
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return precopy.Carried{}, err
	}
	return joined(parts), nil
}

// joined sums up the containers, which stood still at the same time.
func joined(parts []precopy.Carried) precopy.Carried {
	var sum precopy.Carried
	for _, c := range parts {
		sum.Pages += c.Pages
		sum.Scan, sum.Stood = max(sum.Scan, c.Scan), max(sum.Stood, c.Stood)
		sum.Copied.Sent += c.Copied.Sent
		sum.SharedCopied.Sent += c.SharedCopied.Sent
		sum.SharedCopied.Unchanged += c.SharedCopied.Unchanged
	}
	return sum
}

// attempts is how often a round is tried: a process that forks or ends at the
// wrong moment makes CRIU fail.
const attempts = 3

// carry pre-dumps one container. What failed has cleared the soft-dirty bits all
// the same, so it is tried again without what was before.
func (p *predumps) carry(ctx context.Context, c *predumped, done func(uint64)) (precopy.Carried, error) {
	var stood precopy.Carried
	for left := attempts; ; left-- {
		got, err := p.attempt(ctx, c, done)
		got.Stood += stood.Stood
		if err == nil {
			return got, nil
		}
		c.forget()
		if ctx.Err() != nil {
			return got, context.Cause(ctx)
		}
		if left == 1 || p.broken(err) {
			return got, fmt.Errorf("container %s: %w", c.id, err)
		}
		p.log.Warn("a pre-dump failed and begins again with all memory", "container", c.id, "error", err)
		stood = got
	}
}

// broken says whether an error is the connection's, so that trying again is no use.
func (p *predumps) broken(err error) bool {
	return !errors.Is(err, pageserver.ErrClientGone) && !errors.Is(err, pageserver.ErrHole) && !errors.Is(err, errPreDump)
}

// errPreDump is wrapped by the errors of CRIU itself.
var errPreDump = errors.New("pre-dump failed")

// forget makes the next pre-dump a full one.
func (c *predumped) forget() {
	c.index.Fail()
	c.last, c.births = "", nil
}

func (p *predumps) attempt(ctx context.Context, c *predumped, done func(uint64)) (precopy.Carried, error) {
	c.count++
	dir := filepath.Join(c.dir, strconv.Itoa(c.count))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return precopy.Carried{}, fmt.Errorf("directory for a pre-dump: %w", err)
	}
	births, err := c.whoLives()
	if err != nil {
		return precopy.Carried{}, err
	}
	round, stats, err := p.converse(ctx, c, dir, done)
	carried := carriedBy(round)
	carried.Stood = stats.Freezing + stats.Frozen
	carried.Scan = carried.Stood
	if err != nil {
		return carried, err
	}
	if _, err := c.index.Commit(round); err != nil {
		return carried, err
	}
	if c.last != "" {
		os.RemoveAll(c.last)
	}
	c.last, c.births = dir, births
	return carried, nil
}

// converse runs CRIU and its page server to their ends.
func (p *predumps) converse(ctx context.Context, c *predumped, dir string, done func(uint64)) (*pageserver.Round, criu.PreDumpStats, error) {
	conn, client, err := pageserver.Pair()
	if err != nil {
		return nil, criu.PreDumpStats{}, err
	}
	var (
		serving  errgroup.Group
		round    *pageserver.Round
		serveErr error
		pages    atomic.Uint64
	)
	serving.Go(func() error {
		round, serveErr = pageserver.Serve(ctx, conn, pageserver.Config{
			Container: c.departure.index, Out: p.streams, Index: c.index, Hashes: p.shared.Hashes,
			Buffer: predumpBuffer, Log: p.log,
			Progress: func(n uint64) { pages.Store(n); done(n) },
		})
		return nil
	})
	standing, forget := breakOffStanding(ctx, c.departure.pid, p.stuckAfter, pages.Load)
	defer forget()
	stats, err := criu.RunPreDump(standing, criu.PreDumpConfig{
		PID: c.departure.pid, Images: dir, Parent: c.last, Pages: client,
		HangUp: func() { conn.Close() },
		Run:    runHandingOver(client),
	})
	client.Close() // if CRIU could not even be started
	serving.Wait()
	if err != nil {
		err = fmt.Errorf("%w: %w", errPreDump, err)
	}
	if serveErr != nil && !(err != nil && errors.Is(serveErr, pageserver.ErrClientGone)) {
		err = errors.Join(serveErr, err)
	}
	return round, stats, err
}

// predumpBuffer is how much of a pre-dump waits in the shim for the network. The
// container is frozen for shared memory alone, all else CRIU reads while it runs.
const predumpBuffer = 64 << 20

// runHandingOver is runReaped for a command that inherits a file of which nobody
// else may have a descriptor: its end is seen by the other side only then.
func runHandingOver(file *os.File) func(context.Context, *exec.Cmd) error {
	return func(ctx context.Context, cmd *exec.Cmd) error {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		p, err := startReaped(cmd)
		file.Close()
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { p.signalGroup(syscall.SIGKILL) })
		defer stop()
		return p.wait()
	}
}

// carriedBy says what a conversation carried.
func carriedBy(r *pageserver.Round) precopy.Carried {
	var c precopy.Carried
	if r == nil {
		return c
	}
	for space, entries := range r.Map {
		if space.Kind == pagestream.Process {
			c.Pages += present(entries)
		}
	}
	c.SharedCopied.Unchanged = r.Unchanged
	c.SharedCopied.Sent = r.Present - c.Pages - r.Unchanged
	c.Copied.Sent = c.Pages
	return c
}

func present(entries []images.Entry) uint64 {
	var n uint64
	for _, e := range entries {
		if e.Present() {
			n += e.Pages
		}
	}
	return n
}

// whoLives lists when the container's processes were started, by their pids in it.
func (c *predumped) whoLives() (map[uint64]string, error) {
	pids, err := c.freezer.processes()
	if err != nil {
		return nil, err
	}
	births := make(map[uint64]string, len(pids))
	for _, pid := range pids {
		id, err := vpid(pid)
		if err != nil {
			continue // it ended meanwhile
		}
		if born, err := birth(pid); err == nil {
			births[uint64(id)] = born
		}
	}
	return births, nil
}

// birth is the start time of a process, in the kernel's own ticks (proc(5),
// /proc/PID/stat, field 22).
func birth(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", fmt.Errorf("start of process %d: %w", pid, err)
	}
	// The name, field 2, is in parentheses and may hold anything.
	_, rest, ok := strings.Cut(string(b[max(0, strings.LastIndexByte(string(b), ')')):]), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return "", fmt.Errorf("start of process %d: malformed stat", pid)
	}
	return fields[19], nil
}

// held says what of a process the destination has since the last pre-dump.
func (p *predumps) held(process track.Process) []pagestream.Range {
	for _, c := range p.containers {
		if c.departure.index != process.Space.Container {
			continue
		}
		born, err := birth(process.PID)
		if err != nil || c.births[process.Space.ID] != born {
			return nil
		}
		return c.index.Held(process.Space)
	}
	return nil
}
