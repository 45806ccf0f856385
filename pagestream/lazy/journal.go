package lazy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// A journal is what a memory's state can be made from again: a snapshot of its
// windows, and the events that were read since. The file, native endian:
//
//	0   magic      8 bytes
//	8   version    u32
//	12  pid        i32
//	16  id         u64
//	24  forks      u64, of this memory up to the snapshot
//	32  windows    u64
//	40  crc        u32, CRC-32C of the windows
//	44  crc        u32, CRC-32C of the header up to here
//	48  windows    {start, end, img u64}
//	    zeros up to a page boundary
//	    slots of 32 bytes, each a struct uffd_msg or zero
//
// The kernel writes into the slots (read(2) of the userfaultfd), and each server that
// begins to read marks so with an event of its own kind. A slot that holds a fault
// means nothing; the others count in their order. When the slots are used
// up, a new file with a new snapshot is renamed over the old one.
const (
	journalMagic   = "GODWITEV"
	journalVersion = 1
	journalHeader  = 48
	windowSize     = 24
	slots          = 512
	slotsSize      = slots * msgSize // four pages
	// readBatch is how many events are read at once at most.
	readBatch = 64
)

// ErrJournal is wrapped by every error about the bytes of a journal.
var ErrJournal = errors.New("bad journal of a fault server")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// snapshot is what a journal begins with.
type snapshot struct {
	id      uint64
	pid     int32
	forks   uint64
	windows []window
}

// size is how much a journal has before its slots.
func (s snapshot) size() int {
	return (journalHeader + windowSize*len(s.windows) + pageSize - 1) / pageSize * pageSize
}

func (s snapshot) encode() []byte {
	b := make([]byte, s.size()+slotsSize)
	s.put(b)
	return b
}

// put writes the snapshot into a journal that has nothing but zeros.
func (s snapshot) put(b []byte) {
	copy(b, journalMagic)
	binary.NativeEndian.PutUint32(b[8:], journalVersion)
	binary.NativeEndian.PutUint32(b[12:], uint32(s.pid))
	binary.NativeEndian.PutUint64(b[16:], s.id)
	binary.NativeEndian.PutUint64(b[24:], s.forks)
	binary.NativeEndian.PutUint64(b[32:], uint64(len(s.windows)))
	w := b[journalHeader:journalHeader]
	for _, x := range s.windows {
		w = binary.NativeEndian.AppendUint64(w, x.start)
		w = binary.NativeEndian.AppendUint64(w, x.end)
		w = binary.NativeEndian.AppendUint64(w, x.img)
	}
	binary.NativeEndian.PutUint32(b[40:], crc32.Checksum(w, castagnoli))
	binary.NativeEndian.PutUint32(b[44:], crc32.Checksum(b[:44], castagnoli))
}

// decodeJournal reads a whole journal: the snapshot, the events since without the
// faults, and how many slots they reach over.
func decodeJournal(b []byte) (s snapshot, events []event, used int, err error) {
	bad := func(format string, args ...any) (snapshot, []event, int, error) {
		return snapshot{}, nil, 0, fmt.Errorf(format+": %w", append(args, ErrJournal)...)
	}
	if len(b) < journalHeader || string(b[:8]) != journalMagic {
		return bad("not a journal")
	}
	if v := binary.NativeEndian.Uint32(b[8:]); v != journalVersion {
		return bad("version %d, this program reads %d", v, journalVersion)
	}
	if crc32.Checksum(b[:44], castagnoli) != binary.NativeEndian.Uint32(b[44:]) {
		return bad("checksum of the header differs")
	}
	s.pid = int32(binary.NativeEndian.Uint32(b[12:]))
	s.id = binary.NativeEndian.Uint64(b[16:])
	s.forks = binary.NativeEndian.Uint64(b[24:])
	n := binary.NativeEndian.Uint64(b[32:])
	if n > uint64(len(b))/windowSize {
		return bad("%d windows in %d bytes", n, len(b))
	}
	at := (journalHeader + windowSize*int(n) + pageSize - 1) / pageSize * pageSize
	if len(b) != at+slotsSize {
		return bad("%d bytes, %d windows need %d", len(b), n, at+slotsSize)
	}
	w := b[journalHeader : journalHeader+windowSize*int(n)]
	if crc32.Checksum(w, castagnoli) != binary.NativeEndian.Uint32(b[40:]) {
		return bad("checksum of the windows differs")
	}
	for ; len(w) > 0; w = w[windowSize:] {
		s.windows = append(s.windows, window{
			binary.NativeEndian.Uint64(w), binary.NativeEndian.Uint64(w[8:]), binary.NativeEndian.Uint64(w[16:])})
	}
	if err := validWindows(s.windows); err != nil {
		return bad("%v", err)
	}
	for i := range slots {
		switch e := decodeEvent(b[at+i*msgSize:]); e.kind {
		case 0, eventFault:
		case eventFork, eventRemap, eventRemove, eventUnmap, eventServer:
			events = append(events, e)
			used = i + 1
		default:
			return bad("unknown event %#x in slot %d", e.kind, i)
		}
	}
	return s, events, used, nil
}

// journal is the journal that a memory's events are being read into.
type journal struct {
	path   string
	mapped []byte // the slots
	whole  []byte // what was mapped with them
	next   int    // slot that is read into next; all before are kept
}

func journalPath(dir string, id uint64) string {
	return filepath.Join(dir, strconv.FormatUint(id, 10)+".journal")
}

// newJournal writes a snapshot in the place of the journal that was there. The server
// with this number is to read on.
func newJournal(dir string, s snapshot, server uint64) (*journal, error) {
	path := journalPath(dir, s.id)
	b := s.encode()
	mark(b[len(b)-slotsSize:], server)
	if err := writeNew(path+".new", b); err != nil {
		return nil, fmt.Errorf("write journal: %w", err)
	}
	j := &journal{path: path, next: 1}
	if err := j.mapSlots(path+".new", len(b)-slotsSize); err != nil {
		return nil, err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return nil, errors.Join(fmt.Errorf("write journal: %w", err), j.close())
	}
	return j, nil
}

func writeNew(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// openJournal reads the journal that a dead server left, and goes on in it.
func openJournal(dir string, id uint64) (*journal, snapshot, []event, error) {
	path := journalPath(dir, id)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, snapshot{}, nil, err
	}
	s, events, used, err := decodeJournal(b)
	if err == nil && s.id != id {
		err = fmt.Errorf("of memory %d: %w", s.id, ErrJournal)
	}
	if err != nil {
		return nil, s, nil, fmt.Errorf("journal %s: %w", path, err)
	}
	j := &journal{path: path, next: used}
	if err := j.mapSlots(path, len(b)-slotsSize); err != nil {
		return nil, s, nil, err
	}
	return j, s, events, nil
}

// mapSlots maps the slots, which begin there.
func (j *journal) mapSlots(path string, at int) error {
	var err error
	if j.whole, err = mapJournal(path, at, slotsSize); err != nil {
		return err
	}
	j.mapped = j.whole
	return nil
}

// mapJournal maps so many bytes of a journal, whose last are the slots, so that the kernel's
// copy into these cannot fail: writing makes the pages, and locking keeps them.
func mapJournal(path string, at, size int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("map journal: %w", err)
	}
	defer f.Close()
	b, err := unix.Mmap(int(f.Fd()), int64(at), size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map journal %s: %w", path, err)
	}
	// No right to lock is no reason to stop: without swap nothing is lost.
	_ = unix.Mlock(b)
	for i := size - slotsSize; i < size; i += pageSize {
		b[i+1] = 0 // reserved in every message
	}
	return b, nil
}

// mark writes an eventServer, so that it is whole or not there.
func mark(slot []byte, server uint64) {
	binary.NativeEndian.PutUint64(slot[8:], server)
	slot[0] = eventServer
}

// readBy notes that the server with this number is to read on. There has to be room.
func (j *journal) readBy(server uint64) {
	slot := j.mapped[j.next*msgSize:][:msgSize]
	clear(slot) // it may have held a fault
	mark(slot, server)
	j.next++
}

// full says that there is no room for another batch, or none for a mark before it.
func (j *journal) full() bool { return j.next+1+readBatch > slots }

// read reads what the userfaultfd has to tell, up to readBatch events, which are
// valid until the next call. The slots behind the last event that is not a fault
// are used again.
func (j *journal) read(fd int) ([]byte, unix.Errno) {
	at := j.next * msgSize
	n, errno := readEvents(fd, j.mapped[at:at+readBatch*msgSize])
	if errno != 0 {
		return nil, errno
	}
	batch := j.mapped[at : at+n*msgSize]
	for i := n - 1; i >= 0; i-- {
		if batch[i*msgSize] != eventFault {
			j.next += i + 1
			break
		}
	}
	return batch, 0
}

// close gives up the mapping and leaves the file.
func (j *journal) close() error {
	if j.whole == nil {
		return nil
	}
	b := j.whole
	j.mapped, j.whole = nil, nil
	return unix.Munmap(b)
}

// remove gives up the journal and its file: nobody will need it.
func (j *journal) remove() error {
	return errors.Join(j.close(), os.Remove(j.path))
}
