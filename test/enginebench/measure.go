package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/load"
	"godwit.dev/godwit/test/trial"
)

// The ways to move, by the names that godwitctl's --tracker has for the engines.
const (
	writeProtect = "write-protect"
	softDirty    = "soft-dirty"
	runcByHand   = "runc"
)

// moved is what one move came to. Times are in milliseconds.
type moved struct {
	Way string `json:"way"`
	// Downtime is the longest time between two acknowledged writes from the freeze to the end of the restore.
	Downtime float64 `json:"downtime_ms"`
	// Stood is how long redis stood still in the rounds, as the engine has it, and Seen as a client did.
	Stood float64 `json:"stood_ms"`
	Seen  float64 `json:"stood_as_seen_ms"`
	// Pages is what a witness saw that each round had to send; empty in the moves that are timed.
	Pages  []uint64       `json:"witnessed_pages,omitempty"`
	Rounds []move.Round   `json:"rounds,omitempty"`
	Parts  *move.Downtime `json:"parts,omitempty"`
	load.Verdict
}

// bench collects moves.
type bench struct {
	options
	pod   *trial.Pod
	hand  *handRedis
	began time.Time
	moves []moved
}

// errDamaged ends the bench at once.
var errDamaged = errors.New("a move lost or changed data")

// measure makes all moves.
func (b *bench) measure(ctx context.Context) error {
	b.began = time.Now()
	l, err := lab.Up(ctx, lab.Options{Dir: labDir})
	if err != nil {
		return err
	}
	defer l.Close()
	b.say("the nodes are up; filling two redis with %d MiB each\n", b.memory)
	if b.pod, err = trial.Start(ctx, l, trial.Spec{Node: "a", Memory: b.memory << 20}); err != nil {
		return err
	}
	if b.hand, err = startByHand(ctx, l, b.memory<<20); err != nil {
		return err
	}
	b.say("both run\n")
	for range b.turns {
		if err := b.byHand(ctx); err != nil {
			return err
		}
		for _, engine := range []string{writeProtect, softDirty} {
			if err := b.timed(ctx, engine); err != nil {
				return err
			}
		}
	}
	for range b.observed {
		for _, engine := range []string{writeProtect, softDirty} {
			if err := b.watched(ctx, engine); err != nil {
				return err
			}
		}
	}
	return nil
}

// byHand moves by runc's commands. As before every move, the disks get first what was written long before: the kernel would
// spend its time on that some other time.
func (b *bench) byHand(ctx context.Context) error {
	unix.Sync()
	m, err := b.hand.move(ctx, b.rounds, b.rate)
	if err != nil {
		return err
	}
	return b.note(moved{Way: runcByHand, Downtime: ms(m.Gap.Length()), Seen: ms(m.Stood), Verdict: m.Verdict})
}

// timed moves the pod and takes the time.
func (b *bench) timed(ctx context.Context, engine string) error {
	m, err := b.move(ctx, engine, trial.Config{})
	if err != nil {
		return err
	}
	return b.note(m)
}

// watchedRate is how fast a watched pod is sent, bytes a second. It makes rounds long beside the time that the news of their
// begin takes to the witness.
const watchedRate = 8 << 20

// watched moves the pod and counts what it writes, which takes time from it.
func (b *bench) watched(ctx context.Context, engine string) error {
	pod, err := b.pod.Node().FindPod(ctx, trial.PodName)
	if err != nil {
		return err
	}
	pid, err := redisOf(pod.Container("redis").ID)
	if err != nil {
		return err
	}
	o, err := observe(ctx, engine, pid, b.rounds)
	if err != nil {
		return err
	}
	m, err := b.move(ctx, engine, trial.Config{OnEvent: o.hear, Flags: []string{"--bandwidth", fmt.Sprint(watchedRate)}})
	pages, seeing := o.finish()
	if err := errors.Join(err, seeing); err != nil {
		return err
	}
	m.Pages = pages
	return b.note(m)
}

// move moves the pod by an engine with as many rounds as asked for. Pages are not compressed: what is sent is to be compared
// with what there was to send.
func (b *bench) move(ctx context.Context, engine string, c trial.Config) (moved, error) {
	unix.Sync()
	c.To, c.Rate = "b", b.rate
	if b.pod.Node().Name == c.To {
		c.To = "a"
	}
	c.Flags = append(c.Flags,
		"--tracker", engine, "--compression", "none",
		"--max-rounds", fmt.Sprint(b.rounds-1), "--dirty-limit", "1")
	r, err := b.pod.Move(ctx, c)
	if err != nil {
		return moved{}, fmt.Errorf("move by %s: %w", engine, err)
	}
	m := moved{
		Way: engine, Downtime: ms(r.Gap.Length()), Seen: ms(r.Stood),
		Rounds: r.Rounds, Parts: r.Downtime, Verdict: r.Verdict,
	}
	for _, round := range r.Rounds {
		m.Stood += round.StoodMS
	}
	if len(r.Rounds) != b.rounds {
		return m, fmt.Errorf("move by %s: %d rounds (%s) instead of %d: %+v", engine, len(r.Rounds), r.StopReason, b.rounds, r.Rounds)
	}
	return m, nil
}

// note takes over a move and tells about it.
func (b *bench) note(m moved) error {
	b.moves = append(b.moves, m)
	b.say("%-13s downtime %7.1f ms, stood still in the rounds %6.1f ms, by the client's clock %6.1f ms\n", m.Way, m.Downtime, m.Stood, m.Seen)
	if m.Parts != nil {
		fmt.Printf("    %+v\n", *m.Parts)
	}
	for i, r := range m.Rounds {
		fmt.Printf("    round %d: %5d pages found, %5d KiB sent, %7.1f ms, stood %5.1f ms", i, r.DirtyPages, r.WireBytes>>10, r.DurationMS, r.StoodMS)
		if i < len(m.Pages) {
			fmt.Printf("; %5d pages were to be sent", m.Pages[i])
		}
		fmt.Println()
	}
	if m.Lost > 0 || m.Wrong > 0 {
		return fmt.Errorf("%w: %d writes lost, %d values wrong", errDamaged, m.Lost, m.Wrong)
	}
	if m.Acked == 0 {
		return errors.New("no write was acknowledged: nothing was measured")
	}
	if m.Way == softDirty && m.Stood == 0 {
		return errors.New("engine soft-dirty says that it did not stop redis, which cannot be")
	}
	return nil
}

// say prints a line with the time since the begin.
func (b *bench) say(format string, args ...any) {
	fmt.Printf("%4.0f s  "+format, append([]any{time.Since(b.began).Seconds()}, args...)...)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func median[T cmp.Ordered](values []T) T {
	s := slices.Sorted(slices.Values(values))
	return s[len(s)/2]
}
