package pageserver

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
)

// DefaultBuffer is how much a server absorbs at most, unless its Config says
// otherwise: a dump of that size never waits for the network.
const DefaultBuffer = 256 << 20

// minChunks let the client and every stream have one, and some to spare.
const minChunks = 8

// defaultBuffer is DefaultBuffer, but no more than a quarter of the memory that
// is free.
func defaultBuffer() int64 {
	available, err := memoryAvailable()
	if err != nil {
		return DefaultBuffer
	}
	return min(DefaultBuffer, available/4)
}

// memoryAvailable is MemAvailable of /proc/meminfo, bytes.
func memoryAvailable() (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("free memory: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "MemAvailable:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("free memory: /proc/meminfo has no MemAvailable")
}

// chunk is pages of one space on their way from the client to a stream.
type chunk struct {
	space pagestream.Space
	runs  []pagestream.Range // capacity MaxRuns
	data  []byte             // capacity ChunkBytes
}

// room is how many pages fit, if they are one run.
func (c *chunk) room() uint64 {
	if len(c.runs) == MaxRuns {
		return 0
	}
	return uint64(cap(c.data)-len(c.data)) / pagestream.PageSize
}

// pool is the memory of a server: chunks of one mapping, which the kernel fills
// with memory as they are first used. The chunk that came back last goes out
// first, so that while the streams keep up only few are used, and those are in
// the processor's cache.
type pool struct {
	memory []byte

	mu     sync.Mutex // guards what follows
	change *sync.Cond // on mu: a chunk came back, or the pool was stopped
	free   []*chunk
	fresh  int // bytes of memory never given out
	out    int // chunks given out
	most   int // the most chunks that were ever given out
	err    error
}

// newPool maps size bytes, rounded to whole chunks.
func newPool(size int64) (*pool, error) {
	n := max(size/ChunkBytes, minChunks)
	memory, err := unix.Mmap(-1, 0, int(n*ChunkBytes), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map a buffer of %d bytes: %w", n*ChunkBytes, err)
	}
	p := &pool{memory: memory}
	p.change = sync.NewCond(&p.mu)
	return p, nil
}

// close gives the memory back. Every chunk must be back or never used again.
func (p *pool) close() error {
	if err := unix.Munmap(p.memory); err != nil {
		return fmt.Errorf("unmap the buffer: %w", err)
	}
	return nil
}

// stop ends all waiting, now and later, with err, if there was no reason before.
func (p *pool) stop(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
	p.change.Broadcast()
}

// get takes an empty chunk, and waits for one if need be. It tells how long.
func (p *pool) get() (*chunk, time.Duration, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var waited time.Duration
	if len(p.free) == 0 && p.fresh == len(p.memory) && p.err == nil {
		began := time.Now()
		for len(p.free) == 0 && p.err == nil {
			p.change.Wait()
		}
		waited = time.Since(began)
	}
	if p.err != nil {
		return nil, waited, p.err
	}
	p.out++
	p.most = max(p.most, p.out)
	if n := len(p.free); n > 0 {
		c := p.free[n-1]
		p.free = p.free[:n-1]
		return c, waited, nil
	}
	c := &chunk{runs: make([]pagestream.Range, 0, MaxRuns), data: p.memory[p.fresh : p.fresh : p.fresh+ChunkBytes]}
	p.fresh += ChunkBytes
	return c, waited, nil
}

// put takes a chunk back.
func (p *pool) put(c *chunk) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.runs, c.data = c.runs[:0], c.data[:0]
	p.free = append(p.free, c)
	p.out--
	p.change.Broadcast()
}

// empty waits until all chunks are back.
func (p *pool) empty() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.out > 0 && p.err == nil {
		p.change.Wait()
	}
	return p.err
}

// buffered is the most bytes that were ever in use.
func (p *pool) buffered() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int64(p.most) * ChunkBytes
}

// stopWith stops the pool when ctx ends; the result takes that back.
func (p *pool) stopWith(ctx context.Context) func() bool {
	return context.AfterFunc(ctx, func() { p.stop(context.Cause(ctx)) })
}
