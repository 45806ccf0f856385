// Package cell makes the moves of a benchmark's table: a program on one of two nodes, moved to the other in one way over one
// link, while a client uses it. What the client saw is the cell.
package cell

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"godwit.dev/godwit/test/bench/matrix"
	"godwit.dev/godwit/test/lab"
)

// Config says what to measure.
type Config struct {
	// LabDir is the bench's lab's; there must be none in it.
	LabDir string
	// Memory is what programs have, bytes.
	Memory int64
	// Repeat is how often each move is made; the medians count.
	Repeat int
	// Which cells there are.
	Modes     []matrix.Mode
	Workloads []matrix.Workload
	Links     []matrix.Link
	// Told hears of each cell when it is done.
	Told func(matrix.Row)
}

// limit is how long a move may take with all that belongs to it: as long as a link of 200 Mbit/s takes for the memory six times,
// and two minutes.
func (c Config) limit() time.Duration {
	return 2*time.Minute + time.Duration(6*float64(c.Memory*8)/200e6*float64(time.Second))
}

// Measure makes the moves of all cells, the link changing last. A cell that fails is told with its reason, and the next one begins on new
// nodes. The error is that of ctx, or says why there are no nodes.
func Measure(ctx context.Context, c Config) error {
	for _, link := range c.Links {
		for _, w := range c.Workloads {
			s := scene{Config: c, link: link, workload: w}
			if err := errors.Join(s.measure(ctx), s.finish(ctx)); err != nil {
				return err
			}
		}
		if err := down(ctx, c.LabDir); err != nil {
			return err
		}
	}
	return nil
}

// scene is a workload on nodes that a link connects.
type scene struct {
	Config
	link     matrix.Link
	workload matrix.Workload

	// All of these are nil together, until something is to be moved.
	lab     *lab.Lab
	subject subject
	client  client
}

// measure makes the moves of all modes.
func (s *scene) measure(ctx context.Context) error {
	for _, mode := range s.Modes {
		row, err := s.cell(ctx, mode)
		if err != nil {
			return err
		}
		row.Mode, row.Workload, row.Link = mode.Name, s.workload.Name, s.link.Name
		s.Told(row)
	}
	return nil
}

// cell makes the moves of one mode. A move that fails makes a row that says why; the error is that of ctx, or says why the nodes could not
// be taken down.
func (s *scene) cell(ctx context.Context, mode matrix.Mode) (matrix.Row, error) {
	var moves []matrix.Row
	for range s.Repeat {
		row, err := s.move(ctx, mode)
		if ctx.Err() != nil {
			return row, ctx.Err()
		}
		if err != nil {
			return matrix.Row{Failed: err.Error()}, s.discard(ctx)
		}
		moves = append(moves, row)
	}
	return matrix.Medians(moves), nil
}

// move makes one move, with the program as it is after the one before, if there is one.
func (s *scene) move(ctx context.Context, mode matrix.Mode) (matrix.Row, error) {
	ctx, cancel := context.WithTimeout(ctx, s.limit())
	defer cancel()
	if err := s.prepare(ctx, mode.By); err != nil {
		return matrix.Row{}, err
	}
	s.client.OnlyAt(s.subject.address())
	earlier := len(s.client.Answers())
	using, stop := context.WithCancel(ctx)
	var user sync.WaitGroup
	user.Go(func() { s.client.run(using) })
	m, bytes, err := s.watched(ctx, mode)
	stop()
	user.Wait()
	if err != nil {
		return matrix.Row{}, err
	}
	s.client.OnlyAt(s.subject.address())
	row, err := rowOf(s.client.Answers()[earlier:], m)
	row.Bytes = bytes
	return row, errors.Join(err, s.client.verify(ctx))
}

// warmUp is how long a client works before what it gets counts as undisturbed.
const warmUp = 500 * time.Millisecond

// watched moves what the client uses, and returns when the client has used it for long enough.
func (s *scene) watched(ctx context.Context, mode matrix.Mode) (moved, uint64, error) {
	if err := pause(ctx, warmUp+matrix.Before); err != nil {
		return moved{}, 0, err
	}
	source := s.subject.node()
	before, err := sent(ctx, source)
	if err != nil {
		return moved{}, 0, err
	}
	asked := time.Now()
	m, err := s.subject.move(ctx, mode, s.client.AlsoAt)
	m.Asked = asked
	if err != nil {
		return m, 0, err
	}
	after, err := sent(ctx, source)
	if err != nil {
		return m, 0, err
	}
	// The client's downtime ends after the program runs, at a moment that only the client knows: its first answer since.
	last := m.Ended
	if m.Runs.After(last) {
		last = m.Runs
	}
	if err := s.awaitAnswer(ctx, last); err != nil {
		return m, 0, err
	}
	return m, after - before, pause(ctx, matrix.After)
}

// answerPoll is how often it is looked whether a client was answered.
const answerPoll = 20 * time.Millisecond

// awaitAnswer returns when the client has been answered since a moment.
func (s *scene) awaitAnswer(ctx context.Context, since time.Time) error {
	for !s.client.LastAnswer().After(since) {
		if err := pause(ctx, answerPoll); err != nil {
			return fmt.Errorf("the client was not answered after the move: %w", err)
		}
	}
	return nil
}

// rowOf is what one move came to.
func rowOf(answers []time.Time, m moved) (matrix.Row, error) {
	seen, ok := matrix.See(answers, m.Moments)
	if !ok {
		return matrix.Row{}, errors.New("the client was not answered often enough to say anything")
	}
	row := matrix.Row{
		DowntimeMS: ms(seen.Downtime), WorstMS: ms(seen.Worst), TotalMS: ms(m.Ended.Sub(m.Asked)),
		LostBefore: seen.LostBefore, LostAfter: seen.LostAfter, Samples: matrix.Around(answers, seen.Cut),
	}
	if r := m.result; r != nil {
		row.FrozenMS, row.StopReason = r.DowntimeMS, r.StopReason
		for _, round := range r.Rounds {
			row.Rounds = append(row.Rounds, matrix.Round{DirtyBytes: round.DirtyPages * 4096, WireBytes: round.WireBytes, DurationMS: round.DurationMS})
		}
	}
	return row, nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
