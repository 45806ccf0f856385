package precopy

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagehash"
	"godwit.dev/godwit/pagestream/pagemap"
)

// sharedRounds is the last round in which shared memory is looked at: round 0
// copies it, and as that takes longest, round 1 copies what changed meanwhile.
const sharedRounds = 1

// Shared finds shared memory that CRIU will dump whole while its processes are
// frozen, copies it ahead, and remembers a hash of each page sent, so that
// after the dump only pages that changed need to be sent.
//
// That is memory on the kernel's own tmpfs mount: MAP_SHARED|MAP_ANONYMOUS
// areas, mapped memfds and System V segments. CRIU 4.2 names the image of each
// by its inode number (criu/proc_parse.c, vma_get_mapfile and handle_vma: shmid;
// criu/memfd.c, dump_memfd_inode), which for a System V segment is the
// segment's id (ipc/shm.c, newseg), and writes every page that is not a hole,
// with the offset in the segment for an address (criu/shmem.c,
// do_dump_one_shmem). Segments on hugetlbfs are not copied ahead.
//
// The hashes take 8 bytes for each 4 KiB page, 2 MiB for each GiB, and
// pagehash.MaxBytes at most; pages over that are sent after the dump.
type Shared struct {
	device uint64 // st_dev of the kernel's tmpfs mount
	seed   uint64 // of the hashes: not for the pod to know
	log    *slog.Logger

	mu       sync.Mutex // guards segments and closed
	segments map[pagestream.Space]*segment
	closed   bool
}

// segment is one shared memory object of a container.
type segment struct {
	file   *os.File // nil: nobody was found to map it
	hashes *pagehash.Table
}

// NewShared probes the device number of shared memory. Close gives up the
// segments it opened.
func NewShared(log *slog.Logger) (*Shared, error) {
	device, err := shmemDevice()
	if err != nil {
		return nil, fmt.Errorf("find the device of shared memory: %w", err)
	}
	seed, err := pagehash.NewSeed()
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.Default()
	}
	return &Shared{
		device:   device,
		seed:     seed,
		log:      log,
		segments: make(map[pagestream.Space]*segment),
	}, nil
}

// shmemDevice is the device number of the kernel's own tmpfs mount, on which
// shared anonymous memory, memfds and System V segments live.
func shmemDevice() (uint64, error) {
	fd, err := unix.MemfdCreate("godwit-probe", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("memfd_create: %w", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("stat of a memfd: %w", err)
	}
	return st.Dev, nil
}

// Close closes the segments. Close the rounds first.
func (s *Shared) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, g := range s.segments {
		if g.file != nil {
			g.file.Close()
		}
		g.hashes.Release()
	}
	clear(s.segments)
}

// areas finds the segments that the processes map, and returns the content of
// all segments known as areas to copy, of which only changed pages are sent.
// A segment that cannot be opened is left to FinishShared.
func (s *Shared) areas(memories []Memory) []*area {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	for _, m := range memories {
		if err := s.find(m); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			s.log.Warn("shared memory is not copied ahead", "pid", m.PID, "error", err)
		}
	}
	var areas []*area
	for space, g := range s.segments {
		if g.file == nil {
			continue // a carrier sends it
		}
		ranges, err := contentOf(g.file)
		if err != nil {
			s.log.Warn("shared memory is not copied ahead", "space", space, "error", err)
			continue
		}
		areas = append(areas, &area{space: space, source: segmentSource{g.file}, ranges: ranges, sift: g.hashes.Ahead})
	}
	return areas
}

// find opens the segments of a process that are not known yet.
func (s *Shared) find(m Memory) error {
	vmas, _, err := pagemap.ReadMaps(m.PID, nil, nil)
	if err != nil {
		return err
	}
	for _, v := range vmas {
		space := pagestream.Space{Container: m.Space.Container, Kind: pagestream.Shared, ID: v.Inode}
		if unix.Mkdev(v.Major, v.Minor) != s.device || s.reads(space) || space.Valid() != nil {
			continue
		}
		file, err := os.Open(fmt.Sprintf("/proc/%d/map_files/%x-%x", m.PID, v.Start, v.End))
		if err != nil {
			return fmt.Errorf("open segment %s of process %d: %w", space, m.PID, err)
		}
		if err := s.isSegment(file, v.Inode); err != nil {
			file.Close()
			return fmt.Errorf("segment %s of process %d: %w", space, m.PID, err)
		}
		if g := s.segments[space]; g != nil {
			g.file = file
			continue
		}
		s.segments[space] = &segment{file: file, hashes: pagehash.New(s.seed)}
	}
	return nil
}

// reads says whether a segment is open. Callers hold mu.
func (s *Shared) reads(space pagestream.Space) bool {
	g := s.segments[space]
	return g != nil && g.file != nil
}

// isSegment checks that the mapping was not replaced before it was opened.
func (s *Shared) isSegment(file *os.File, inode uint64) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return err
	}
	if st.Dev != s.device || st.Ino != inode {
		return errors.New("the mapping changed meanwhile")
	}
	return nil
}

// hashesOf is what was sent of a space; nil if nothing was.
func (s *Shared) hashesOf(space pagestream.Space) *pagehash.Table {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.segments[space]; g != nil {
		return g.hashes
	}
	return nil
}

// Hashes is what was sent of a space, for somebody else who sends its pages
// and keeps to what the table says was sent before; nil once s is closed.
func (s *Shared) Hashes(space pagestream.Space) *pagehash.Table {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	g := s.segments[space]
	if g == nil {
		g = &segment{hashes: pagehash.New(s.seed)}
		s.segments[space] = g
	}
	return g.hashes
}

// contentOf lists the parts of a segment that are not holes, in whole pages.
func contentOf(file *os.File) ([]pagestream.Range, error) {
	var runs []pagestream.Range
	fd := int(file.Fd())
	for at := int64(0); ; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return runs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("seek data: %w", err)
		}
		hole, err := unix.Seek(fd, data, unix.SEEK_HOLE)
		if errors.Is(err, unix.ENXIO) {
			return runs, nil // truncated since
		}
		if err != nil {
			return nil, fmt.Errorf("seek hole: %w", err)
		}
		start := uint64(data) / pagestream.PageSize * pagestream.PageSize
		pages := (uint64(hole) - start + pagestream.PageSize - 1) / pagestream.PageSize
		runs = pagestream.AppendRun(runs, pagestream.Range{Start: start, Pages: pages})
		at = hole
	}
}

// segmentSource reads a segment through its file: addresses are offsets.
type segmentSource struct{ file *os.File }

// read fills the rest of a last page with zeros. Whoever maps the segment can
// write there too, which only the dump will show.
func (s segmentSource) read(runs []pagestream.Range, buf []byte) ([]pagestream.Range, error) {
	var missing []pagestream.Range
	for _, r := range runs {
		part := buf[:r.Bytes()]
		buf = buf[r.Bytes():]
		n, err := s.file.ReadAt(part, int64(r.Start))
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		clear(part[n:])
		got := (uint64(n) + pagestream.PageSize - 1) / pagestream.PageSize
		if got < r.Pages { // truncated since
			missing = append(missing, pagestream.Range{Start: r.Start + got*pagestream.PageSize, Pages: r.Pages - got})
		}
	}
	return missing, nil
}
