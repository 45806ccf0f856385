package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
)

func TestFeedTellsEveryStepInOrderToEverySubscriber(t *testing.T) {
	f := newFeed()
	const steps = 200
	var want []string
	for i := range steps {
		want = append(want, fmt.Sprint(i))
	}
	var subscribers sync.WaitGroup
	got := make([][]string, 3)
	for i := range got {
		subscribers.Go(func() {
			err := f.each(context.Background(), func(e *nodev1.Event) error {
				if e.Kind == "step" {
					got[i] = append(got[i], e.Message)
				}
				return nil
			})
			if err != nil {
				t.Errorf("subscriber %d: %v", i, err)
			}
		})
	}
	for i := range steps {
		f.publish(&nodev1.Event{Kind: "step", Message: fmt.Sprint(i)})
		for range 10 {
			f.publish(&nodev1.Event{Kind: kindProgress})
		}
	}
	f.end()
	subscribers.Wait()
	var late []string
	if err := f.each(context.Background(), func(e *nodev1.Event) error {
		if e.Kind == "step" {
			late = append(late, e.Message)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, g := range append(got, late) {
		if !slices.Equal(g, want) {
			t.Errorf("got %d steps, want all %d in order", len(g), steps)
		}
	}
}

func TestFeedEndsWithItsSubscriber(t *testing.T) {
	f := newFeed()
	f.publish(&nodev1.Event{Kind: "step"})
	broken := errors.New("broken pipe")
	if err := f.each(context.Background(), func(*nodev1.Event) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("each = %v, want what send returned", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	err := f.each(ctx, func(*nodev1.Event) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("each = %v, want the end of its context", err)
	}
}

func TestFeedKeepsTheNewestProgressForTheSlow(t *testing.T) {
	f := newFeed()
	for i := range 5 {
		f.publish(&nodev1.Event{Kind: kindProgress, Progress: &nodev1.Progress{Round: uint32(i)}})
	}
	f.end()
	var got []uint32
	if err := f.each(context.Background(), func(e *nodev1.Event) error {
		got = append(got, e.Progress.GetRound())
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, []uint32{4}) {
		t.Errorf("got progress of rounds %v, want the newest only", got)
	}
}

// The shim tells of its progress by a stream of its own.
func TestNothingIsToldAfterTheEndOfAMigration(t *testing.T) {
	c := newTestCluster(t)
	c.a.run()
	var m *outgoing
	c.fault = &fault{call: "source.CutOver", do: func(c *testCluster) error {
		c.a.daemon.mu.Lock()
		defer c.a.daemon.mu.Unlock()
		for _, m = range c.a.daemon.outgoing {
		}
		return nil
	}}
	if _, err := c.migrate(modeLive); err != nil {
		t.Fatal(err)
	}
	c.settled()
	m.tell(kindProgress, "")
	m.feed.mu.Lock()
	defer m.feed.mu.Unlock()
	if last := m.feed.steps[len(m.feed.steps)-1]; last.Kind != "ended" || m.feed.progress != nil {
		t.Errorf("told last: %v, then %v", last, m.feed.progress)
	}
}
