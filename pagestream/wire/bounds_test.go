package wire

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

func TestSlowReceiverBoundsWhatIsUnderWay(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	release := make(chan struct{})
	r.before = func() error { <-release; return nil }
	o := c.options(c.listen(to(r)).Addr())
	o.Streams, o.Window = 1, MinWindow
	s := c.dial(o)
	data := make([]byte, MaxData)
	fillRandom(data)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const calls = 20
	sent := make(chan error, 1)
	go func() {
		for i := range calls {
			if err := s.Stream(0).Pages(space, uint64(i*MaxData), data); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for until := time.Now().Add(time.Minute); s.Stats().WireBytes-s.Stats().Acked < MinWindow-MaxData && time.Now().Before(until); {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(200 * time.Millisecond) // for what is more than it should
	if under := s.Stats().WireBytes - s.Stats().Acked; under > MinWindow+10*headerSize || under < MaxData {
		t.Errorf("%d bytes under way, the window has %d", under, MinWindow)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	close(release)
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if s.Stats().Blocked < 100*time.Millisecond {
		t.Errorf("blocked for %v", s.Stats().Blocked)
	}
}

func TestBandwidthIsShared(t *testing.T) {
	c := newCluster(t)
	o := c.options(c.listen(to(newMemory())).Addr())
	o.Bandwidth = 8 << 20
	s := c.dial(o)
	data := make([]byte, 128<<10)
	fillRandom(data)
	start := time.Now()
	var senders sync.WaitGroup
	for i := range 2 {
		senders.Go(func() {
			for range 16 {
				if err := s.Stream(i).Blob(1, data); err != nil {
					t.Error(err)
				}
			}
		})
	}
	senders.Wait()
	// 4 MiB at 8 MiB/s, less the frame that may be owed and the burst.
	if took := time.Since(start); took < 400*time.Millisecond {
		t.Errorf("took %v, want half a second or more", took)
	}
	if s.Stats().Throttled == 0 {
		t.Error("no throttling is counted")
	}
	s.SetBandwidth(0)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestUrgentFramesPassWhatIsHeldBack(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	o := c.options(c.listen(to(r)).Addr())
	o.Streams = 3
	s := c.dial(o)
	s.SetShare(0, true)
	bulk, late := make(chan error, 1), make(chan error, 1)
	go func() { bulk <- s.Stream(0).Pages(space, 0, mixture(4)) }()
	go func() { late <- s.Stream(2).Pages(space, 1<<30, mixture(4)) }()
	s.Stream(1).SetUrgent(true)
	if err := s.Stream(1).Pages(space, 1<<20, mixture(4)); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatalf("a flush while bulk is held back: %v", err)
	}
	if sent := s.Stats().Pages; sent == 0 || sent > 4 {
		t.Errorf("%d pages sent, the urgent ones alone were to pass", sent)
	}
	s.Stream(2).SetUrgent(true)
	if err := <-late; err != nil {
		t.Error(err)
	}
	select {
	case err := <-bulk:
		t.Errorf("bulk has passed: %v", err)
	default:
	}
	s.SetBandwidth(0)
	if err := <-bulk; err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
