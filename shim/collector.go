package shim

import (
	"math"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

// collectorCalm is how long it is held back after a pod has begun to run: its first faults, and the end of what was frozen, want the
// processors. That takes about as long as the memory of a big pod takes to be filled in.
const collectorCalm = 2 * time.Second

// collectorRoom is how much the heap may grow, bytes, before garbage is collected all the same.
const collectorRoom = 128 << 20

// collector keeps garbage from being collected while a pod stands still: that takes a fifth of what this program does then, and nothing of it is
// needed within the little time.
var collector struct {
	mu      sync.Mutex
	holders int   // guarded by mu
	percent int   // what it was without any; guarded by mu
	limit   int64 // the same of the memory limit; guarded by mu
}

// holdCollector holds garbage collection back until release is called.
func holdCollector() (release func()) {
	collector.mu.Lock()
	defer collector.mu.Unlock()
	if collector.holders++; collector.holders == 1 {
		// First, lest there be a moment without any bound.
		collector.limit = debug.SetMemoryLimit(-1)
		debug.SetMemoryLimit(min(collector.limit, memoryUsed()+collectorRoom))
		collector.percent = debug.SetGCPercent(-1)
	}
	return sync.OnceFunc(releaseCollector)
}

func releaseCollector() {
	collector.mu.Lock()
	defer collector.mu.Unlock()
	if collector.holders--; collector.holders == 0 {
		debug.SetGCPercent(collector.percent)
		debug.SetMemoryLimit(collector.limit)
	}
}

// memoryUsed is what the memory limit bounds, bytes (runtime/debug, SetMemoryLimit).
func memoryUsed() int64 {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	var of [2]uint64
	for i, s := range samples {
		if s.Value.Kind() == metrics.KindUint64 {
			of[i] = s.Value.Uint64()
		}
	}
	return int64(min(of[0]-min(of[0], of[1]), math.MaxInt64-collectorRoom))
}

// holdCollector has no garbage collected until releaseCollector: the pod is about to stand still.
func (s *source) holdCollector() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.collects == nil {
		s.collects = holdCollector()
	}
}

// releaseCollector has garbage collected again, after some time. Who holds it anew meanwhile goes on holding it.
func (s *source) releaseCollector(after time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.collects != nil {
		time.AfterFunc(after, s.collects)
		s.collects = nil
	}
}

// holdCollector has no garbage collected until releaseCollector: a frozen pod is restored.
func (d *destination) holdCollector() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.collects == nil {
		d.collects = holdCollector()
	}
}

// releaseCollector has garbage collected again, after some time. Who holds it anew meanwhile goes on holding it.
func (d *destination) releaseCollector(after time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.collects != nil {
		time.AfterFunc(after, d.collects)
		d.collects = nil
	}
}
