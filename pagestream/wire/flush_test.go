package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestFlushReturnsAfterEverythingIsStored(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	var stored atomic.Int64
	r.before = func() error {
		time.Sleep(5 * time.Millisecond) // a slow disk
		stored.Add(1)
		return nil
	}
	o := c.options(c.listen(to(r)).Addr())
	o.Streams = 4
	s := c.dial(o)
	for round := range 5 {
		for i := range 4 * 3 {
			if err := s.Stream(i%4).Blob(1, []byte{byte(i)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
		if got := stored.Load(); got != int64(12*(round+1)) {
			t.Errorf("round %d: Flush returned with %d stored", round, got)
		}
	}
}

func TestPageOfALaterRoundWins(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	o := c.options(c.listen(to(r)).Addr())
	o.Streams = 4
	s := c.dial(o)
	data := make([]byte, 64*page)
	for round := range 20 {
		for at := 0; at < len(data); at += 8 {
			binary.LittleEndian.PutUint64(data[at:], uint64(round+1))
		}
		var senders sync.WaitGroup
		for i := range 4 { // another stream carries each part in each round
			senders.Go(func() {
				part := (i + round) % 4 * 16 * page
				if err := s.Stream(i).Pages(space, uint64(part), data[part:part+16*page]); err != nil {
					t.Error(err)
				}
			})
		}
		senders.Wait()
		if err := s.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
		r.check(t, 0, data)
	}
}

func TestFlushGivesUpWithItsContextAndTheSessionGoesOn(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	release := make(chan struct{})
	r.before = func() error { <-release; return nil }
	s := c.dial(c.options(c.listen(to(r)).Addr()))
	if err := s.Stream(0).Blob(1, []byte("x")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := s.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Flush = %v", err)
	}
	close(release)
	if err := s.Flush(context.Background()); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
