package delayline

import (
	"encoding/binary"
	"sync"
	"time"
)

// maxFrame bounds one frame: a virtio header, an Ethernet header with tags, and the largest segment that offload makes.
const maxFrame = 10 + 18 + 65536 + 256

// recordHeader precedes a frame in the ring: when it is due (nanoseconds of the ring's clock), and its length.
const recordHeader = 8 + 4

// skip in the length's place says that the rest of the buffer is unused and the next record is at its start.
const skip = ^uint32(0)

// ring is a queue of frames in one piece of memory, for one writer and one reader. A link's content is what is in flight,
// rate times delay, so nothing is allocated for a frame.
type ring struct {
	buf []byte

	mu         sync.Mutex // guards head, tail, used
	notEmpty   sync.Cond
	notFull    sync.Cond
	head, tail int // next record to read, next place to write
	used       int // bytes between them, skipped ones included
}

func newRing(size int) *ring {
	r := &ring{buf: make([]byte, max(size, 4*(maxFrame+recordHeader)))}
	r.notEmpty.L, r.notFull.L = &r.mu, &r.mu
	return r
}

// reserve waits until a frame of any size fits in one piece, and returns the place for it. The caller is the only writer.
func (r *ring) reserve() []byte {
	const need = recordHeader + maxFrame
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used == 0 {
		r.head, r.tail = 0, 0 // stay in the part of the memory that is in the caches
	}
	for {
		if end := len(r.buf) - r.tail; end < need && r.used+end < len(r.buf) {
			if end >= recordHeader {
				binary.NativeEndian.PutUint32(r.buf[r.tail+8:], skip)
			}
			r.used += end
			r.tail = 0
			r.notEmpty.Signal()
		}
		if len(r.buf)-r.tail >= need && len(r.buf)-r.used >= need {
			return r.buf[r.tail+recordHeader : r.tail+need]
		}
		r.notFull.Wait()
	}
}

// commit queues the n bytes that the caller put where reserve said.
func (r *ring) commit(n int, due time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	binary.NativeEndian.PutUint64(r.buf[r.tail:], uint64(due))
	binary.NativeEndian.PutUint32(r.buf[r.tail+8:], uint32(n))
	r.tail += recordHeader + n
	r.used += recordHeader + n
	r.notEmpty.Signal()
}

// next waits for a frame and returns it; it stays valid until release. The caller is the only reader.
func (r *ring) next() (frame []byte, due time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if r.used > 0 {
			end := len(r.buf) - r.head
			if end < recordHeader || binary.NativeEndian.Uint32(r.buf[r.head+8:]) == skip {
				r.head, r.used = 0, r.used-end
				r.notFull.Signal()
				continue
			}
			n := int(binary.NativeEndian.Uint32(r.buf[r.head+8:]))
			at := r.head + recordHeader
			return r.buf[at : at+n], time.Duration(binary.NativeEndian.Uint64(r.buf[r.head:]))
		}
		r.notEmpty.Wait()
	}
}

// release drops the frame that next returned.
func (r *ring) release(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.head += recordHeader + n
	r.used -= recordHeader + n
	r.notFull.Signal()
}
