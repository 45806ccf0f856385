// Package store holds the pages of a migration at its destination, on a tmpfs of
// its own under a limit. Rounds write pages into it, later ones in the place of
// earlier ones; CRIU's other images lie beside them. At the end the store is
// complete by CRIU's pagemaps or says what it lacks, writes CRIU's pages files
// where a restore wants them, and is sealed: files that another process, the
// fault server of package lazy, reads, and gives back as it needs them no more.
//
// How pages travel is package wire's subject, the format of pagemaps package
// images', and who may write at all is decided by who holds the Store.
//
// Beneath the directory given to Create:
//
//	images/CONTAINER/               CRIU's images of the container with this number
//	pages/CONTAINER-KIND-ID.data    pages in the order of their arrival
//	pages/CONTAINER-KIND-ID.index   where each of them is, written by Seal
//	pages/CONTAINER-KIND-ID.recent  which of them came last, written by Seal
//	pages/CONTAINER-KIND-ID.given   what of the data is given back already, see Giving
//	sealed                          written last by Seal
package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	"godwit.dev/godwit/pagestream"
	"golang.org/x/sys/unix"
)

var (
	// ErrFull is wrapped by the error of a store that has reached its limit.
	ErrFull = errors.New("store is full")
	// ErrState is wrapped by the error of a call that the store's state does
	// not allow: writing to a sealed store, anything on a closed one.
	ErrState = errors.New("wrong state of the store")
)

// MaxSpaces is the number of address spaces that a store takes.
const MaxSpaces = 4096

// Options of a store.
type Options struct {
	// Limit is the most memory that the store may take, in bytes: pages,
	// their index, and CRIU's images.
	Limit int64
}

// state is where a store is in its life. The only moves are open to sealed, and
// either of them to closed.
type state uint8

const (
	open   state = iota // takes pages
	sealed              // takes no more; pages can be read
	closed              // unmounted
)

func (s state) String() string { return [...]string{"open", "sealed", "closed"}[s] }

// Store holds the pages of one migration. Its methods may be called
// concurrently, except that whoever writes a page twice must not do so at the
// same time: which of the two would stay is not defined.
type Store struct {
	dir   string
	limit int64
	used  atomic.Int64 // bytes of pages and of their index

	// mu guards state: held for reading while a call works in that state, for
	// writing by a move to another.
	mu    sync.RWMutex
	state state

	// spacesMu guards spaces and broken.
	spacesMu sync.Mutex
	spaces   map[pagestream.Space]*space
	// broken is the write error after which the index claims pages that the
	// data file may not hold. Nothing is taken any more, and nothing restored.
	broken error
}

// Create makes dir, if it is not there, and mounts the store's tmpfs on it, mode
// 0700. It needs CAP_SYS_ADMIN. A dir left by a process that died is Cleanup's
// to remove first.
func Create(dir string, opts Options) (*Store, error) {
	if opts.Limit < 1<<20 {
		return nil, fmt.Errorf("create store %s: a limit of %d bytes is under 1 MiB", dir, opts.Limit)
	}
	if err := mountTmpfs(dir, opts.Limit); err != nil {
		return nil, fmt.Errorf("create store: %w", err)
	}
	s := &Store{dir: dir, limit: opts.Limit, spaces: make(map[pagestream.Space]*space)}
	for _, sub := range []string{imagesDir, pagesDir} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, errors.Join(fmt.Errorf("create store: %w", err), unmount(dir))
		}
	}
	return s, nil
}

const (
	imagesDir = "images"
	pagesDir  = "pages"
)

// Dir is the directory that the store was made in.
func (s *Store) Dir() string { return s.dir }

// ImagesDir is the directory of CRIU's images of a container, which exists with
// mode 0700 after the first call for it.
func (s *Store) ImagesDir(container uint16) string {
	dir := imagesPath(s.dir, container)
	if container < pagestream.MaxContainers {
		s.mu.RLock()
		defer s.mu.RUnlock()
		if s.state != closed {
			// If it cannot be made, whoever writes there is told why.
			_ = os.Mkdir(dir, 0o700)
		}
	}
	return dir
}

// ImagesDir is where the store in dir has CRIU's images of a container, whichever
// process made it.
func ImagesDir(dir string, container uint16) string { return imagesPath(dir, container) }

func imagesPath(dir string, container uint16) string {
	return filepath.Join(dir, imagesDir, strconv.Itoa(int(container)))
}

// enter begins a call that works in one of the states, and leave ends it.
func (s *Store) enter(what string, states ...state) error {
	s.mu.RLock()
	for _, st := range states {
		if s.state == st {
			return nil
		}
	}
	defer s.mu.RUnlock()
	return fmt.Errorf("%s: store %s is %s: %w", what, s.dir, s.state, ErrState)
}

func (s *Store) leave() { s.mu.RUnlock() }

// reserve takes n bytes from the limit.
func (s *Store) reserve(n int64) error {
	if now := s.used.Add(n); now > s.limit {
		s.used.Add(-n)
		return s.full(fmt.Sprintf("%d bytes are held, %d more would be too many", now-n, n))
	}
	return nil
}

func (s *Store) full(why string) error {
	return fmt.Errorf("%w: store %s: %s; its limit is %d bytes: raise the memory limit of migrations to this node, or move fewer pods at a time",
		ErrFull, s.dir, why, s.limit)
}

// fileError makes a tmpfs that has no room left the same error as a limit that
// was reached by counting.
func (s *Store) fileError(what string, err error) error {
	if errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("%s: %w", what, s.full("no room on its tmpfs"))
	}
	return fmt.Errorf("%s: %w", what, err)
}

func (s *Store) breakOff(err error) error {
	s.spacesMu.Lock()
	defer s.spacesMu.Unlock()
	if s.broken == nil {
		s.broken = err
	}
	return err
}

// lookup returns a space, nil if the store has none of this name.
func (s *Store) lookup(name pagestream.Space) (*space, error) {
	s.spacesMu.Lock()
	defer s.spacesMu.Unlock()
	return s.spaces[name], s.broken
}

// take returns a space, made if need be.
func (s *Store) take(name pagestream.Space) (*space, error) {
	s.spacesMu.Lock()
	defer s.spacesMu.Unlock()
	if s.broken != nil {
		return nil, s.broken
	}
	if sp := s.spaces[name]; sp != nil {
		return sp, nil
	}
	if err := name.Valid(); err != nil {
		return nil, err
	}
	if len(s.spaces) == MaxSpaces {
		return nil, s.full(fmt.Sprintf("space %s would be the %dst", name, MaxSpaces+1))
	}
	if err := s.reserve(spaceOverhead); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(dataPath(s.dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		s.used.Add(-spaceOverhead)
		return nil, s.fileError("make the data file of space "+name.String(), err)
	}
	sp := &space{name: name, store: s, file: f, index: newIndex()}
	s.spaces[name] = sp
	return sp, nil
}

// DropSpace forgets a space and frees its memory: its process has ended. That
// there is none of this name is no error.
func (s *Store) DropSpace(name pagestream.Space) error {
	if err := s.enter("drop space "+name.String(), open); err != nil {
		return err
	}
	defer s.leave()
	s.spacesMu.Lock()
	sp := s.spaces[name]
	delete(s.spaces, name)
	s.spacesMu.Unlock()
	if sp == nil {
		return nil
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.dropped = true
	err := errors.Join(sp.file.Close(), os.Remove(dataPath(s.dir, name)))
	s.used.Add(-sp.taken())
	if err != nil {
		return fmt.Errorf("drop space %s: %w", name, err)
	}
	return nil
}

// Close unmounts the store, which frees its memory. It waits for calls under
// way. If the tmpfs is in use, memory is freed when the last user has gone. A
// second Close does nothing.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == closed {
		return nil
	}
	s.state = closed
	s.spacesMu.Lock()
	defer s.spacesMu.Unlock()
	var err error
	for name, sp := range s.spaces {
		err = errors.Join(err, sp.file.Close())
		delete(s.spaces, name)
	}
	s.used.Store(0)
	if err = errors.Join(err, unmount(s.dir)); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// Remove closes the store and removes its directory. A second Remove does
// nothing.
func (s *Store) Remove() error {
	return errors.Join(s.Close(), Cleanup(s.dir))
}

// Stats counts what a store holds.
type Stats struct {
	Spaces     int
	DataPages  uint64 // pages with content
	ZeroPages  uint64 // pages of zeros, which take no room
	IndexBytes int64
	Used       int64 // bytes of pages and index, as counted against Limit
	Resident   int64 // bytes that the tmpfs takes, CRIU's images included
	Limit      int64
}

// Stats counts what the store holds now.
func (s *Store) Stats() (Stats, error) {
	if err := s.enter("stats", open, sealed); err != nil {
		return Stats{}, err
	}
	defer s.leave()
	st := Stats{Used: s.used.Load(), Limit: s.limit}
	s.spacesMu.Lock()
	spaces := make([]*space, 0, len(s.spaces))
	for _, sp := range s.spaces {
		spaces = append(spaces, sp)
	}
	s.spacesMu.Unlock()
	st.Spaces = len(spaces)
	for _, sp := range spaces {
		sp.mu.Lock()
		st.DataPages += sp.index.data
		st.ZeroPages += sp.index.zero
		st.IndexBytes += sp.index.bytes
		sp.mu.Unlock()
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(s.dir, &fs); err != nil {
		return st, fmt.Errorf("size of store %s: %w", s.dir, err)
	}
	st.Resident = int64(fs.Blocks-fs.Bfree) * fs.Bsize
	return st, nil
}
