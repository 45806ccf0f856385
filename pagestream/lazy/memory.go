package lazy

import (
	"fmt"

	"godwit.dev/godwit/pagestream"
	"golang.org/x/sys/unix"
)

const (
	// batchPages is how much is filled in between two looks for faults while there
	// are any: 128 KiB, some 40 microseconds. Without faults for calmSteps it is
	// calmPages, which takes a tenth less time.
	batchPages = 32
	calmPages  = 128
	calmSteps  = 16
	// batchZeros is that for zero pages, which take no copying.
	batchZeros = 512
	// nearBytes is what is filled in first around a fault.
	nearBytes = 64 << 10
	// maxNear bounds the faults whose neighbourhood is still to be filled in.
	maxNear = 64
)

// span is a part of the images.
type span struct{ img, end uint64 }

// memory is the address space of one process, reached by its userfaultfd.
type memory struct {
	id     uint64
	fd     int
	source *source
	forked bool

	where   translation
	done    bitmap
	forks   uint64
	journal *journal

	cursor  uint64 // number of the page that the background has come to
	piece   int    // the piece it is in; by the store's order, if that is the background's
	heat    heat   // where it faults most
	near    []span // near recent faults where it does not; the last goes first
	hinted  bool   // foremost has been set
	calm    int    // steps of the background since the last fault
	waiting []uint64
	// foremost is what is still to be filled in before the process runs, by the addresses of the images.
	foremost []pagestream.Range
	absent   []uint64 // addresses of faults whose pages are still at the source
	dead     bool     // the process is gone
	asked    bool     // the keeper has been told that all is in
}

// result says how a call that fills pages ended.
type result uint8

const (
	filled result = iota
	// again: the address space is changing; events have to be read first.
	again
	// short: no memory, for now.
	short
	// gone: the process is.
	gone
	// paced: it is not time yet.
	paced
	// elsewhere: the page is still at the source.
	elsewhere
)

// resetDone counts as done what no window shows, and what the store has given back: that was
// in place, or not wanted, in every memory of the source.
func (m *memory) resetDone() {
	m.done = newBitmap(m.source.pages)
	at := uint64(0)
	for _, w := range m.where.byImg {
		m.forget(at, w.img)
		at = w.imgEnd()
	}
	m.forget(at, ^uint64(0))
	if g := m.source.giver; g != nil {
		m.done.add(g.ledger.free)
	}
}

// forget counts pages between two addresses of the images as done.
func (m *memory) forget(start, end uint64) {
	m.source.each(start, end, m.mark)
}

// apply changes the memory as an event says that is neither fault nor fork.
func (m *memory) apply(e event) {
	for _, w := range m.where.apply(e) {
		m.forget(w.img, w.imgEnd())
		if !m.forked && m.forks == 0 { // else another may want them
			m.source.each(w.img, w.imgEnd(), m.source.from.forget)
		}
	}
	m.waiting, m.absent = append(m.waiting, m.absent...), nil // the pages may be gone
}

// fork returns the memory of a child as it is made: like the parent's, but for
// areas that are wiped.
func (m *memory) fork(id uint64, fd int) *memory {
	c := &memory{id: id, fd: fd, source: m.source, forked: true, where: m.where.clone(), done: m.done.clone()}
	for _, v := range m.source.wiped {
		for _, w := range c.where.removeImage(v.Start, v.End) {
			c.forget(w.img, w.imgEnd())
		}
	}
	return c
}

func (m *memory) snapshot() snapshot {
	return snapshot{id: m.id, pid: m.source.pid, forks: m.forks, windows: m.where.byAddr}
}

// failed is the error of a userfaultfd call that nothing explains.
func (m *memory) failed(what string, addr uint64, errno unix.Errno) error {
	return fmt.Errorf("%s at %#x of process %d (memory %d): %w", what, addr, m.source.pid, m.id, errno)
}

// serve answers a fault. With again or short the thread still waits.
func (m *memory) serve(addr uint64) (result, error) {
	m.calm = 0
	data, zero := []byte(nil), true
	img, _, ok := m.where.image(addr)
	if ok {
		if i := m.source.behind(img); i < len(m.source.pieces) && m.source.pieces[i].img <= img {
			p := m.source.pieces[i]
			n := p.first + (img-p.img)/pageSize
			if m.source.from.next(n, n+1) != n {
				m.source.from.want(n)
				return elsewhere, nil
			}
			given, err := m.given(n)
			if err != nil {
				return filled, err
			}
			// It is in place, or has been discarded without an event and reads as zero.
			if p.data != nil && !given {
				data, zero = p.data[img-p.img:][:pageSize], false
			}
			m.warm(img, n)
		} else {
			ok = false
		}
	}
	var errno unix.Errno
	if zero {
		_, errno = uffdZero(m.fd, addr, pageSize)
	} else {
		_, errno = uffdCopy(m.fd, addr, data)
	}
	switch errno {
	case 0:
	case unix.EEXIST:
		uffdWake(m.fd, addr, pageSize)
	case unix.ENOENT, unix.EINVAL:
		// There is no such memory any more: let the thread look.
		uffdWake(m.fd, addr, pageSize)
		return filled, nil
	case unix.EAGAIN:
		return again, nil
	case unix.ENOMEM:
		return short, nil
	case unix.ESRCH, unix.ENOSPC:
		return gone, nil
	default:
		return filled, m.failed("serve fault", addr, errno)
	}
	if !zero && errno == 0 {
		m.source.placed++
	}
	if ok {
		m.forget(img, img+pageSize)
	}
	return filled, nil
}

// warm puts the neighbourhood of a fault before the rest.
func (m *memory) warm(img, page uint64) {
	if m.heat.add(page, m.source.pages) {
		return
	}
	if len(m.near) == maxNear {
		m.near = append(m.near[:0], m.near[maxNear/2:]...)
	}
	start := m.source.around(img, nearBytes)
	m.near = append(m.near, span{start, start + nearBytes})
}

// fillNear fills in up to a batch where faults are expected: in the part where most have been, then near the last ones; elsewhere if there
// is nothing.
func (m *memory) fillNear() (result, error) {
	if n, res, err := m.fillHot(); n > 0 || res != filled || err != nil {
		return res, err
	}
	for len(m.near) > 0 {
		last := &m.near[len(m.near)-1]
		if n, res, err := m.fillImage(&last.img, last.end); n > 0 || res != filled || err != nil {
			return res, err
		}
		m.near = m.near[:len(m.near)-1]
	}
	return elsewhere, nil
}

// fillHot fills in up to a batch of the hottest part. It returns the number of pages; 0 says that none is hot.
func (m *memory) fillHot() (uint64, result, error) {
	for {
		first, end, ok := m.heat.hottest()
		if !ok {
			return 0, filled, nil
		}
		end = min(end, m.source.pages)
		page := m.fillable(first, end)
		if page == end {
			m.heat.cool()
			continue
		}
		p := m.source.pieces[m.source.pieceOf(page)]
		return m.fillPiece(p, page, min(end, p.first+p.pages))
	}
}

// fillable is the first page from i on that is here and not done, end if there is none
// before.
func (m *memory) fillable(i, end uint64) uint64 {
	for i < end {
		i = m.done.next(i, end)
		here := m.source.from.next(i, end)
		if here == i {
			break
		}
		i = here
	}
	return i
}

// fillImage fills in up to a batch of what is not done between two addresses of the
// images, and moves the first behind it. It returns the number of pages; 0 says
// that nothing is left.
func (m *memory) fillImage(img *uint64, end uint64) (uint64, result, error) {
	for i := m.source.behind(*img); i < len(m.source.pieces) && m.source.pieces[i].img < end; i++ {
		p := m.source.pieces[i]
		from := p.first + (max(*img, p.img)-p.img)/pageSize
		to := p.first + (min(end, p.end())-p.img)/pageSize
		if from = m.fillable(from, to); from == to {
			continue
		}
		n, res, err := m.fillPiece(p, from, to)
		if res == filled {
			*img = p.img + (from+n-p.first)*pageSize
		}
		return n, res, err
	}
	return 0, filled, nil
}

// fillPiece fills in up to a batch of a piece from page number from on, which is not
// done, to page number to at most. It returns the number of pages that are done
// thereby.
func (m *memory) fillPiece(p piece, from, to uint64) (uint64, result, error) {
	batch := uint64(batchPages)
	switch m.calm++; {
	case p.data == nil:
		batch = batchZeros
	case m.calm > calmSteps:
		batch = calmPages
	}
	n := m.done.run(from, min(to, from+batch))
	n = m.source.from.run(from, from+n)
	img := p.img + (from-p.first)*pageSize
	addr, size, ok := m.where.current(img)
	n = min(n, size/pageSize)
	if !ok {
		m.mark(from, n)
		return n, filled, nil
	}
	if _, err := m.given(from); err != nil {
		return 0, filled, err
	}
	var data []byte
	if p.data != nil {
		data = p.data[img-p.img:][:n*pageSize]
	}
	var put uint64
	for size := n; put < n; {
		size = min(size, n-put)
		k, errno := m.put(addr+put*pageSize, size, data, put)
		put += k
		switch errno {
		case 0, unix.EAGAIN:
			if k == 0 && errno == unix.EAGAIN {
				m.mark(from, put)
				return put, again, nil
			}
		case unix.EEXIST:
			put++ // it is there
		case unix.ENOENT, unix.EINVAL, unix.EFAULT:
			// Not one area, or none. Halve until what is left is one page.
			if size > 1 {
				size /= 2
				continue
			}
			if errno == unix.EFAULT {
				return put, filled, m.failed("fill", addr+put*pageSize, errno)
			}
			if m.changing(addr+put*pageSize, data, put) {
				m.mark(from, put)
				return put, again, nil
			}
			put++
		case unix.ENOMEM:
			m.mark(from, put)
			return put, short, nil
		case unix.ESRCH, unix.ENOSPC:
			return put, gone, nil
		default:
			return put, filled, m.failed("fill", addr+put*pageSize, errno)
		}
		size = n
	}
	m.mark(from, put)
	return put, filled, nil
}

// changing says whether a page that is not to be filled in has moved, or gone, by an event
// that is still to be read. The kernel may look for the area before it looks for such an
// event, but not if it is asked again: the event was there before the area went.
func (m *memory) changing(addr uint64, data []byte, at uint64) bool {
	_, errno := m.put(addr, 1, data, at)
	return errno == unix.EAGAIN
}

// put makes one call to fill in n pages at addr, with data from page at on or, if it
// is nil, with zeros. It returns the number of pages filled in.
func (m *memory) put(addr, n uint64, data []byte, at uint64) (uint64, unix.Errno) {
	if data == nil {
		k, errno := uffdZero(m.fd, addr, n*pageSize)
		return k / pageSize, errno
	}
	k, errno := uffdCopy(m.fd, addr, data[at*pageSize:(at+n)*pageSize])
	m.source.placed += k / pageSize
	return k / pageSize, errno
}
