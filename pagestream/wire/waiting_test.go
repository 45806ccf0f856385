package wire

import (
	"sync"
	"testing"
)

func TestNothingIsLostWhileTheLimitChanges(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	o := c.options(c.listen(to(r)).Addr())
	o.Streams = 2
	s := c.dial(o)
	want := mixture(16)
	changed := make(chan struct{})
	var senders sync.WaitGroup
	for i := range o.Streams {
		senders.Go(func() {
			for again := true; again; { // once more after the last change
				select {
				case <-changed:
					again = false
				default:
				}
				if err := s.Stream(i).Pages(space, uint64(i*len(want)), want); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 50 {
		for _, share := range []struct {
			rate   int64
			held   bool
			urgent bool
		}{{1 << 30, false, false}, {0, true, false}, {0, true, true}, {0, false, false}, {1 << 20, true, false}, {0, false, true}} {
			s.SetShare(share.rate, share.held)
			s.SetUrgent(share.urgent)
		}
	}
	s.SetShare(0, false)
	close(changed)
	senders.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	for i := range o.Streams {
		r.check(t, uint64(i*len(want)), want)
	}
}
