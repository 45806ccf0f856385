package filetree

import (
	"errors"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// readAheadItems is how many records of a file wait at most for their turn.
const readAheadItems = 8

// item is a record and the buffer that its data lies in, which is free again once the record was emitted.
type item struct {
	rec Record
	buf []byte
}

// bufferPool keeps buffers of one size between the files of a Sync, and between Syncs: one that sends little takes longer to have its buffers
// than to fill them.
type bufferPool struct{ pool sync.Pool }

func newBufferPool(size int) *bufferPool {
	return &bufferPool{sync.Pool{New: func() any {
		b := make([]byte, size)
		return &b
	}}}
}

func (p *bufferPool) get() []byte { return *p.pool.Get().(*[]byte) }

func (p *bufferPool) put(b []byte) { p.pool.Put(&b) }

var (
	// dataBuffers are of MaxData bytes.
	dataBuffers = newBufferPool(MaxData)
	// nameBuffers are what the kernel lists names into.
	nameBuffers = newBufferPool(32 << 10)
)

// readResult is how the reading of a file went.
type readResult struct {
	records  int  // sent
	vanished bool // the name did not lead to the file any more, nothing was sent
	err      error
}

// fileReader sends what of a regular file the destination has not: a TypeFile with the size and metadata that the scan
// saw, and behind it the blocks whose content is not what was sent. What changes meanwhile is for the next Sync, since the
// scan's times are older than the reading.
type fileReader struct {
	*syncRun
	obj    *object
	path   string
	create bool
	bufs   *bufferPool
	send   func(item) error

	fd      int
	begun   bool // the TypeFile is sent
	records int
}

func (f *fileReader) read() readResult {
	vanished, err := f.readFile()
	switch {
	case err != nil:
		err = pathError("copy", f.path, err)
	case vanished:
		err = f.unfrozen(f.path, unix.ENOENT)
	}
	return readResult{records: f.records, vanished: vanished, err: err}
}

func (f *fileReader) readFile() (vanished bool, err error) {
	c := f.obj.seen.changed
	sparse, err := f.open()
	if err != nil {
		if gone(err) {
			return true, nil
		}
		return false, err
	}
	defer unix.Close(f.fd)
	hashes, budget := &f.obj.content, &f.src.hashes
	if f.create || c.st.size != f.obj.sent.size {
		if err := f.begin(); err != nil {
			return false, err
		}
		hashes.truncate(budget, c.st.size)
	}
	if err := f.extents(c.st.size, sparse); err != nil {
		return false, err
	}
	if !f.begun && !c.meta.equal(&f.obj.meta) {
		if err := f.emit(item{rec: Record{Type: TypeMeta, Path: f.path, Meta: c.meta}}); err != nil {
			return false, err
		}
	}
	return false, f.stillFrozen()
}

// open opens the file that the scan saw, and no other: a device that took its name must not be opened at all.
func (f *fileReader) open() (sparse bool, err error) {
	handle, err := openBeneath(int(f.src.dir.Fd()), f.path, unix.O_PATH)
	if err != nil {
		return false, err
	}
	defer unix.Close(handle)
	var st statter
	if err := st.at(handle, ""); err != nil {
		return false, err
	}
	if st.id() != f.obj.id || st.raw.Mode&unix.S_IFMT != unix.S_IFREG {
		return false, unix.ENOENT
	}
	path := "/proc/self/fd/" + strconv.Itoa(handle)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOATIME|unix.O_CLOEXEC, 0)
	if err == unix.EPERM { // not the owner, and no CAP_FOWNER over the owner
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	f.fd = fd
	return int64(st.raw.Blocks)*512 < int64(st.raw.Size), err
}

// stillFrozen compares the file with what the scan saw. Not its change time: CRIU links deleted files while it dumps.
func (f *fileReader) stillFrozen() error {
	if !f.frozen {
		return nil
	}
	var st statter
	if err := st.at(f.fd, ""); err != nil {
		return err
	}
	now, scanned := st.stat(), f.obj.seen.changed.st
	if now.size != scanned.size || now.mtime != scanned.mtime {
		return ErrNotFrozen
	}
	return nil
}

func (f *fileReader) emit(it item) error {
	if err := f.send(it); err != nil {
		return err
	}
	f.records++
	return nil
}

// begin sends the TypeFile, once.
func (f *fileReader) begin() error {
	if f.begun {
		return nil
	}
	f.begun = true
	c := f.obj.seen.changed
	return f.emit(item{rec: Record{Type: TypeFile, Path: f.path, Create: f.create, Size: c.st.size, Meta: c.meta}})
}

// errShrunk ends the reading of a file that is shorter than the scan saw it.
var errShrunk = errors.New("the file shrank")

// extents goes through the file up to size, in steps that end at block boundaries, and past its holes.
func (f *fileReader) extents(size int64, sparse bool) error {
	for pos := int64(0); pos < size; {
		end := size
		if sparse {
			data, err := unix.Seek(f.fd, pos, unix.SEEK_DATA)
			if err == unix.ENXIO {
				return f.hole(pos, size)
			}
			if err != nil {
				return err
			}
			if start := min(data/blockSize*blockSize, size); start > pos {
				if err := f.hole(pos, start); err != nil {
					return err
				}
				pos = start
				continue
			}
			hole, err := unix.Seek(f.fd, max(pos, data), unix.SEEK_HOLE)
			if err == unix.ENXIO {
				hole, err = size, nil
			}
			if err != nil {
				return err
			}
			end = min((hole+blockSize-1)/blockSize*blockSize, size)
		}
		for ; pos < end; pos += MaxData {
			if err := f.chunk(pos, min(MaxData, end-pos)); err == errShrunk {
				return nil
			} else if err != nil {
				return err
			}
		}
		pos = end
	}
	return nil
}

// hole makes the destination read as zero in a range that begins at a block's start, where it does not already.
func (f *fileReader) hole(from, to int64) error {
	hashes := &f.obj.content
	if hashes.lost {
		if f.create {
			return nil
		}
		return f.zero(from, to)
	}
	end := (to + blockSize - 1) / blockSize
	for b := hashes.nextUsed(from/blockSize, end); b < end; b = hashes.nextUsed(b, end) {
		last := b
		for ; last < end && hashes.get(last) != zeroHash; last++ {
			hashes.set(&f.src.hashes, last, zeroHash)
		}
		if err := f.zero(b*blockSize, min(last*blockSize, to)); err != nil {
			return err
		}
		b = last
	}
	return nil
}

func (f *fileReader) zero(from, to int64) error {
	if err := f.begin(); err != nil {
		return err
	}
	return f.emit(item{rec: Record{Type: TypeZero, Offset: from, Length: to - from}})
}

// chunk reads length bytes, at most MaxData, at a block's start, and sends the runs of blocks that differ.
func (f *fileReader) chunk(pos, length int64) error {
	buf := f.bufs.get()
	n, err := readFull(f.fd, buf[:length], pos)
	f.readBytes.Add(int64(n))
	if err != nil || n == 0 {
		f.bufs.put(buf)
		if err == nil {
			err = errShrunk
			if f.frozen {
				err = ErrNotFrozen
			}
		}
		return err
	}
	records := f.compare(buf[:n], pos)
	if len(records) == 0 {
		f.bufs.put(buf)
	}
	for i, rec := range records {
		if err := f.begin(); err != nil {
			return err
		}
		it := item{rec: rec}
		if i == len(records)-1 {
			it.buf = buf
		}
		if err := f.emit(it); err != nil {
			return err
		}
	}
	if int64(n) < length && !f.frozen {
		return errShrunk
	}
	return nil
}

// compare makes records of the blocks of data, which is at pos, that the destination has not, and notes that it has them.
func (f *fileReader) compare(data []byte, pos int64) []Record {
	const same, zero, differs = 0, 1, 2
	var records []Record
	last := same
	for off := 0; off < len(data); off += blockSize {
		block := data[off:min(off+blockSize, len(data))]
		number := (pos + int64(off)) / blockSize
		hash, known := hashBlock(block), f.obj.content.get(number)
		if f.create && f.obj.content.lost {
			known = zeroHash // it is a new file, of which nothing was sent yet
		}
		state := differs
		switch {
		case hash == known:
			state = same
		case hash == zeroHash:
			state = zero
		}
		at := pos + int64(off)
		if end := at + int64(len(block)); end%blockSize != 0 && end != f.obj.seen.changed.st.size {
			hash = unknownHash // it shrank: of the rest of the block nothing is sent
		}
		if state != same {
			f.obj.content.set(&f.src.hashes, number, hash)
		}
		switch {
		case state == same:
		case state == last && state == differs:
			rec := &records[len(records)-1]
			rec.Data = data[rec.Offset-pos : off+len(block)]
		case state == last:
			records[len(records)-1].Length += int64(len(block))
		case state == differs:
			records = append(records, Record{Type: TypeData, Offset: at, Data: block})
		default:
			records = append(records, Record{Type: TypeZero, Offset: at, Length: int64(len(block))})
		}
		last = state
	}
	return records
}

func readFull(fd int, buf []byte, pos int64) (int, error) {
	n := 0
	for n < len(buf) {
		m, err := unix.Pread(fd, buf[n:], pos+int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, err
		}
		if m == 0 {
			break
		}
		n += m
	}
	return n, nil
}
