package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"godwit.dev/godwit/test/e2e/census"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/trial"
)

const (
	// aborts is how many migrations are broken off, abortTries how many are begun for that at most: some have moved the pod
	// before.
	aborts, abortTries = 200, 500
	abortMemory        = 64 << 20
	// abortAfter is by how much later than an event a migration is broken off at most; abortFrozen the same after the freeze,
	// which the cutover takes.
	abortAfter, abortFrozen = 40 * time.Millisecond, 120 * time.Millisecond
	// abortSettle is how long a node may take to be as it was.
	abortSettle = 20 * time.Second
)

// abortStages are the events after which migrations are broken off. Half of them are broken off in their cutover.
var abortStages = []string{"preparing", "created", "tracking", "converged", "freezing", "freezing", "freezing", "freezing"}

// aborted is what came of migrations that were broken off at random stages.
type aborted struct {
	count int
	worst trial.Broken // of those that were broken off
	left  []census.Difference
}

// aborted breaks migrations of a pod under load off, and moves it at last.
func (b *bench) aborted(ctx context.Context) error {
	l, p, err := start(ctx, lab.Shape{}, abortMemory, false)
	if err != nil {
		return err
	}
	defer l.Close()
	for range 2 { // each node has been a source and a destination then
		if _, err := b.move(ctx, p, trial.Config{Rate: rate}); err != nil {
			return err
		}
	}
	before, err := counted(ctx, l)
	if err != nil {
		return err
	}
	a := &aborted{}
	seed := uint64(time.Now().UnixNano())
	fmt.Printf("breaking off %d migrations at random stages, seed %d\n", aborts, seed)
	random, tries := rand.New(rand.NewPCG(seed, 0)), 0
	next := func() (trial.Break, bool) {
		tries++
		return randomBreak(random), a.count < aborts && tries <= abortTries
	}
	verdict, err := p.BreakOff(ctx, other, rate, next, func(r trial.Broken) {
		if r.Moved {
			return
		}
		if a.count++; r.Gap.Length() > a.worst.Gap.Length() {
			a.worst = r
		}
		if a.count%20 == 0 {
			fmt.Printf("  %3d broken off of %3d, longest gap %.1f ms (%v)\n", a.count, tries, ms(a.worst.Gap.Length()), a.worst.Break)
		}
	})
	if err != nil {
		return err
	}
	b.lost, b.wrong = b.lost+verdict.Lost, b.wrong+verdict.Wrong
	if a.count < aborts {
		return fmt.Errorf("only %d of %d migrations were broken off before they had moved the pod", a.count, tries)
	}
	if p.Node().Name != "a" { // as it was counted
		if _, err := b.move(ctx, p, trial.Config{Rate: rate}); err != nil {
			return err
		}
	}
	if a.left, err = leftSince(ctx, l, before); err != nil {
		return err
	}
	for _, d := range a.left {
		fmt.Printf("  left behind: %v\n", d)
	}
	_, err = b.move(ctx, p, trial.Config{Rate: rate})
	b.broken = a
	return err
}

func randomBreak(random *rand.Rand) trial.Break {
	kind, most := abortStages[random.IntN(len(abortStages))], abortAfter
	if kind == "freezing" {
		most = abortFrozen
	}
	return trial.Break{Kind: kind, After: time.Duration(random.Int64N(int64(most)))}
}

// counted is what each node holds.
func counted(ctx context.Context, l *lab.Lab) (map[string]census.Census, error) {
	ctx, cancel := context.WithTimeout(ctx, abortSettle)
	defer cancel()
	all := map[string]census.Census{}
	for _, n := range []string{"a", "b"} {
		var err error
		if all[n], err = census.Steady(ctx, l.Node(n)); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// leftSince is what the nodes hold more than before.
func leftSince(ctx context.Context, l *lab.Lab, before map[string]census.Census) ([]census.Difference, error) {
	ctx, cancel := context.WithTimeout(ctx, abortSettle)
	defer cancel()
	var all []census.Difference
	for n, was := range before {
		more, err := census.Settle(ctx, l.Node(n), was, census.Idle())
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return all, nil
}
