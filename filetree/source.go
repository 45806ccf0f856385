package filetree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Kind says how a tree holds its files.
type Kind int

const (
	// Plain: everything in the directory is the tree.
	Plain Kind = iota
	// Upper: the upper directory of an overlay; the tree is what the overlay changed of its lower layers.
	Upper
)

// Options of a Source. The zero value is usable.
type Options struct {
	// Skip lists paths relative to the root that are left alone, with everything below them: neither sent nor removed.
	// What is mounted below the root is never part of the tree.
	Skip []string
	// AlwaysCompare says of a regular file that its times do not tell whether it changed, so that its content is compared
	// in this Sync. That is so of a file some process has mapped shared and writable: only the first write to a clean
	// page moves the times. A file mapped so during any Sync must be named in SyncFrozen too. It is called from several
	// goroutines. path is relative to the root; dev and ino are those of the file in the root, which on an overlay are not
	// what the processes' stat and /proc/PID/maps show: match by path there. nil: never.
	//
	// On tmpfs, where no write through a mapping moves the times, every Sync compares every file, whatever this says.
	AlwaysCompare func(path string, dev, ino uint64) bool
	// NoXattrs: nothing in the tree has extended attributes that are worth carrying; they are not looked at.
	NoXattrs bool
	// UserXattr: the tree is of an overlay mounted with userxattr, see Overlay.
	UserXattr bool
	// MaxHashBytes bounds the memory that remembers content, 8 bytes for each 64 KiB sent, 0 meaning 64 MiB: enough for
	// 512 GiB. A file beyond that is sent whole when it changes.
	MaxHashBytes int64
}

// Mapped names files that are mapped shared and writable, see Options.AlwaysCompare. Paths are relative to the root or
// begin with a "/" that means the root; those that do not exist (any more) are ignored.
type Mapped struct {
	Paths  []string
	Inodes []FileID
}

// Stats of one Sync.
type Stats struct {
	Entries   int64         // names looked at
	Records   int64         // emitted
	DataBytes int64         // content in them
	ReadBytes int64         // content read, to send or to compare
	Changed   int64         // files and directories that were sent in part or whole
	Removed   int64         // names removed
	Renamed   int64         // files moved at the destination instead of being sent again
	Vanished  int64         // files that were gone when they were to be read
	HashBytes int64         // memory that remembers content, of all Syncs
	Duration  time.Duration // from call to return
}

// Source reads a tree. Its methods must not be called concurrently.
type Source struct {
	kind  Kind
	opts  Options
	dir   *os.File
	skip  map[string]struct{}
	tmpfs bool

	root   *object
	byID   map[FileID]*object // every object but directories
	hashes hashBudget
	syncs  uint64
	broken bool
}

// NewSource opens the tree in the directory root, which is the upper directory itself if kind is Upper. Close releases it.
func NewSource(root string, kind Kind, opts Options) (*Source, error) {
	dir, err := openRoot(root)
	if err != nil {
		return nil, err
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		_ = dir.Close()
		return nil, pathError("file system of", root, err)
	}
	s := &Source{
		kind: kind, opts: opts, dir: dir,
		skip:  make(map[string]struct{}, len(opts.Skip)),
		tmpfs: fs.Type == unix.TMPFS_MAGIC,
		root:  &object{typ: unix.S_IFDIR},
		byID:  make(map[FileID]*object),
	}
	for _, p := range opts.Skip {
		s.skip[relative(p)] = struct{}{}
	}
	limit := opts.MaxHashBytes
	if limit <= 0 {
		limit = 64 << 20
	}
	s.hashes.limit.Store(limit)
	return s, nil
}

// relative turns a path that may start at the root into the form of Record.Path.
func relative(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if p == "" {
		return rootPath
	}
	return p
}

// Close releases the tree and all memory of it.
func (s *Source) Close() error {
	s.root, s.byID, s.broken = nil, nil, true
	return s.dir.Close()
}

// Sync emits what changed since the last Sync, everything the first time, and a TypeEnd at last. The tree may be changing:
// what is torn or missed now is sent by the next Sync. emit is called from one goroutine, in the order in which the
// records must be applied; it must not keep Record.Data. A failure of emit, or any other, leaves the Source broken.
//
// Content is read ahead of emit by at most 12 MiB.
func (s *Source) Sync(ctx context.Context, emit func(Record) error) (Stats, error) {
	return s.sync(ctx, Mapped{}, false, emit)
}

// SyncFrozen is a Sync of a tree that nobody writes to any more; after it the destination equals the source. A file that
// changes under it, or a directory that vanishes, is an ErrNotFrozen. New names are not, and it may be called again: CRIU makes
// link_remap files, names of deleted files, while it dumps frozen processes.
func (s *Source) SyncFrozen(ctx context.Context, mapped Mapped, emit func(Record) error) (Stats, error) {
	return s.sync(ctx, mapped, true, emit)
}

func (s *Source) sync(ctx context.Context, mapped Mapped, frozen bool, emit func(Record) error) (Stats, error) {
	if s.broken {
		return Stats{}, fmt.Errorf("sync files of %s: %w", s.dir.Name(), ErrBroken)
	}
	s.broken = true
	start := time.Now()
	s.syncs++
	r := &syncRun{src: s, frozen: frozen, mapped: s.resolve(mapped)}
	err := r.run(ctx, emit)
	stats := r.result()
	stats.Duration = time.Since(start)
	if err != nil {
		return stats, fmt.Errorf("sync files of %s: %w", s.dir.Name(), err)
	}
	s.broken = false
	return stats, nil
}

// resolve finds the inodes of the mapped files.
func (s *Source) resolve(m Mapped) map[FileID]struct{} {
	ids := make(map[FileID]struct{}, len(m.Inodes)+len(m.Paths))
	for _, id := range m.Inodes {
		ids[id] = struct{}{}
	}
	var st statter
	for _, p := range m.Paths {
		fd, err := openBeneath(int(s.dir.Fd()), relative(p), unix.O_PATH)
		if err != nil {
			continue
		}
		if st.at(fd, "") == nil {
			ids[st.id()] = struct{}{}
		}
		_ = unix.Close(fd)
	}
	return ids
}

// syncRun is one Sync.
type syncRun struct {
	src    *Source
	frozen bool
	mapped map[FileID]struct{}

	mu      sync.Mutex // guards src.byID, fresh, and the sightings of objects that are no directories, during the scan
	fresh   []*object  // objects that this scan made
	changed []*object  // guarded by mu during the scan: objects with a change

	stats              Stats        // of the emitting goroutine
	entries, readBytes atomic.Int64 // of the others
}

func (r *syncRun) result() Stats {
	st := r.stats
	st.Entries, st.ReadBytes, st.HashBytes = r.entries.Load(), r.readBytes.Load(), r.src.hashes.used.Load()
	return st
}

// run scans, decides, sends, and then makes what was sent the model.
func (r *syncRun) run(ctx context.Context, emit func(Record) error) error {
	if err := r.scan(ctx); err != nil {
		return err
	}
	plan := r.plan()
	if err := r.send(ctx, plan, emit); err != nil {
		return err
	}
	r.commit(plan)
	return nil
}

// forced says that the file's content is compared whatever its times say.
func (r *syncRun) forced(dir *object, name string, id FileID) bool {
	if r.src.tmpfs {
		return true
	}
	if _, ok := r.mapped[id]; ok {
		return true
	}
	always := r.src.opts.AlwaysCompare
	return always != nil && always(join(dir.path(), name), id.Dev, id.Ino)
}

// unfrozen is the error of a change seen after the freeze; before it there is nothing wrong with one.
func (r *syncRun) unfrozen(path string, cause error) error {
	if !r.frozen {
		return nil
	}
	return pathError("copy", path, errors.Join(ErrNotFrozen, cause))
}
