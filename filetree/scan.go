package filetree

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sort"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxParallel bounds the goroutines that walk directories and those that read files.
const maxParallel = 4

func parallel() int { return min(runtime.GOMAXPROCS(0), maxParallel) }

// scanQueue hands directories to the scanning goroutines, the last found first, which keeps it short.
type scanQueue struct {
	mu     sync.Mutex // guards the fields below
	more   sync.Cond  // something was pushed, or all is done
	dirs   []*object
	active int // goroutines that may push yet
	err    error
}

func (q *scanQueue) push(d *object) {
	q.mu.Lock()
	q.dirs = append(q.dirs, d)
	q.mu.Unlock()
	q.more.Signal()
}

// pop waits for a directory; nil means that the scan is over.
func (q *scanQueue) pop() *object {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.active--
	for len(q.dirs) == 0 && q.active > 0 && q.err == nil {
		q.more.Wait()
	}
	if len(q.dirs) == 0 || q.err != nil {
		q.more.Broadcast()
		return nil
	}
	d := q.dirs[len(q.dirs)-1]
	q.dirs = q.dirs[:len(q.dirs)-1]
	q.active++
	return d
}

func (q *scanQueue) fail(err error) {
	q.mu.Lock()
	q.err = errors.Join(q.err, err)
	q.mu.Unlock()
	q.more.Broadcast()
}

// scanner is one scanning goroutine.
type scanner struct {
	*syncRun
	queue *scanQueue
	st    statter
	buf   []byte
}

// scan looks at every name of the tree and leaves in the objects what is to be done. A directory whose times have not moved
// has the names it had; each is looked at still, because a file's content changes without its directory.
func (r *syncRun) scan(ctx context.Context) error {
	q := &scanQueue{active: parallel()}
	q.more.L = &q.mu
	first := &scanner{syncRun: r, queue: q}
	if err := first.rootDir(); err != nil {
		return err
	}
	var wg sync.WaitGroup
	for range parallel() {
		wg.Go(func() {
			w := &scanner{syncRun: r, queue: q, buf: nameBuffers.get()}
			defer nameBuffers.put(w.buf)
			for d := q.pop(); d != nil; d = q.pop() {
				err := ctx.Err()
				if err == nil {
					err = w.dir(d)
				}
				if err != nil {
					q.fail(err)
				}
			}
		})
	}
	wg.Wait()
	return q.err
}

func (w *scanner) rootDir() error {
	now := time.Now()
	fd := int(w.src.dir.Fd())
	if err := w.st.at(fd, ""); err != nil {
		return pathError("look at", rootPath, err)
	}
	_, err := w.subdir(fd, ".", w.src.root, now)
	return err
}

// dir looks at the names in one directory.
func (w *scanner) dir(d *object) error {
	path := d.path()
	if len(path) > MaxPath {
		return fmt.Errorf("directory of %d bytes of path %.60q...: %w", len(path), path, ErrLimit)
	}
	list := d.seen.changed != nil || d.relist || !d.made
	flags := uint64(unix.O_PATH | unix.O_DIRECTORY)
	if list {
		flags = unix.O_RDONLY | unix.O_DIRECTORY
	}
	now := time.Now() // before any look at what is in it
	fd, err := openBeneath(int(w.src.dir.Fd()), path, flags)
	if err == nil {
		defer unix.Close(fd)
		err = w.st.at(fd, "")
	}
	if err == nil && w.st.id() != d.id {
		err = unix.ENOENT // another directory by now
	}
	if err != nil && gone(err) {
		d.relist = true
		return w.unfrozen(path, err)
	}
	if err != nil {
		return pathError("open directory", path, err)
	}
	if list {
		return w.list(d, fd, path, now)
	}
	return w.revisit(d, fd, now)
}

// revisit looks at the names that the directory is known to hold.
func (w *scanner) revisit(d *object, fd int, now time.Time) error {
	w.entries.Add(int64(len(d.children)))
	for i, c := range d.children {
		is := c.obj
		if is != whiteout { // one cannot change without the directory
			var err error
			if is, err = w.visit(d, fd, c.name, c.obj, now); err != nil {
				return err
			}
		}
		if is != c.obj && !d.seen.listed {
			d.seen.entries, d.seen.listed = append(make([]child, 0, len(d.children)), d.children[:i]...), true
		}
		if d.seen.listed && is != nil {
			d.seen.entries = append(d.seen.entries, child{c.name, is})
		}
		if is == nil {
			d.relist = true
			if err := w.unfrozen(join(d.path(), c.name), unix.ENOENT); err != nil {
				return err
			}
		}
	}
	if d.seen.listed {
		d.mark()
	}
	return nil
}

// list reads the directory and looks at what is in it.
func (w *scanner) list(d *object, fd int, path string, now time.Time) error {
	names, err := readNames(fd, w.buf)
	if err != nil && gone(err) {
		d.relist = true
		return w.unfrozen(path, err)
	}
	if err != nil {
		return pathError("read directory", path, err)
	}
	w.entries.Add(int64(len(names)))
	sort.Strings(names)
	entries := make([]child, 0, len(names))
	same := len(names) == len(d.children)
	for _, name := range names {
		if len(w.src.skip) > 0 {
			if _, skip := w.src.skip[join(path, name)]; skip {
				continue
			}
		}
		was := lookup(d.children, name)
		is, err := w.visit(d, fd, name, was, now)
		if err != nil {
			return err
		}
		if is == nil {
			continue
		}
		same = same && is == was
		entries = append(entries, child{name, is})
	}
	d.relist = false
	if !same || len(entries) != len(d.children) {
		d.seen.entries, d.seen.listed = entries, true
		d.mark()
	}
	return nil
}

// visit looks at one name and returns its object, nil if nothing is there that belongs to the tree.
func (w *scanner) visit(d *object, fd int, name string, was *object, now time.Time) (*object, error) {
	err := w.st.at(fd, name)
	switch {
	case err != nil && gone(err):
		return nil, nil
	case err != nil:
		return nil, pathError("look at", join(d.path(), name), err)
	case w.st.mountRoot():
		return was, nil // left as it is
	}
	if w.st.raw.Mode&unix.S_IFMT != unix.S_IFDIR {
		return w.leaf(d, fd, name, was, now)
	}
	o := was
	if o == nil || !o.isDir() {
		o = &object{typ: unix.S_IFDIR, parent: d, name: name}
	}
	return w.subdir(fd, name, o, now)
}

// subdir takes in what statx said of a directory that o stands for.
func (w *scanner) subdir(fd int, name string, o *object, now time.Time) (*object, error) {
	st, id := w.st.stat(), w.st.id()
	if o.made && o.id == id && o.sent == st && !o.racy {
		w.queue.push(o)
		return o, nil
	}
	meta, marks, err := w.attributes(fd, name, &st)
	if err == nil {
		err = marks.check(o.path())
	}
	switch {
	case err != nil && gone(err) && o.parent != nil:
		return nil, nil
	case err != nil:
		return nil, pathError("attributes of", o.path(), err)
	}
	if marks.opaque && o.made && !o.opaque {
		// The destination's directory shows what lower layers have in it; this one was made anew and does not.
		o = &object{typ: unix.S_IFDIR, parent: o.parent, name: o.name}
	}
	o.id = id
	o.seen.changed = &change{st: st, meta: meta, racy: st.racy(now), opaque: marks.opaque}
	w.mu.Lock()
	w.changed = append(w.changed, o)
	w.mu.Unlock()
	o.mark()
	w.queue.push(o)
	return o, nil
}

// leaf takes in what statx said of anything but a directory.
func (w *scanner) leaf(d *object, fd int, name string, was *object, now time.Time) (*object, error) {
	st, id := w.st.stat(), w.st.id()
	if w.src.kind == Upper && isWhiteout(&st) {
		return whiteout, nil
	}
	force := st.typ() == unix.S_IFREG && w.forced(d, name, id)
	if was != nil && was.id == id && was.unchanged(&st) && !force {
		return was, nil
	}
	target := ""
	if st.typ() == unix.S_IFLNK {
		var err error
		if target, err = readLink(fd, name); err != nil {
			return nil, vanishedOr("read link", join(d.path(), name), err)
		}
	}
	o, meta, changed := w.known(id, &st, target, force)
	if o != nil && meta == nil {
		if changed {
			d.mark()
		}
		return o, nil
	}
	if meta == nil {
		m, marks, err := w.attributes(fd, name, &st)
		if err == nil {
			err = marks.check(join(d.path(), name))
		}
		if err != nil {
			return nil, vanishedOr("attributes of", join(d.path(), name), err)
		}
		if marks.whiteout && st.size == 0 {
			return whiteout, nil
		}
		meta = &m
	}
	d.mark()
	return w.settle(id, target, &change{st: st, meta: *meta, racy: st.racy(now)}), nil
}

// unchanged says that the destination has the object as st shows it.
func (o *object) unchanged(st *stat) bool { return o.known() && o.sent == *st && !o.racy }

// becomes says that the object can be brought to what st and target say without being made anew.
func (o *object) becomes(st *stat, target string) bool {
	return o.typ == st.typ() && o.sent.rdev == st.rdev && o.target == target
}

// known looks for the object of an inode, whatever its name was. With meta it has that metadata and needs a look at its
// content; without, there is nothing to add to it, and changed tells whether it has a change from another name. A nil
// object means that its metadata must be read.
func (w *scanner) known(id FileID, st *stat, target string, force bool) (o *object, meta *Meta, changed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o = w.src.byID[id]
	switch {
	case o == nil, !o.becomes(st, target):
		return nil, nil, false
	case o.seen.changed != nil:
		return o, nil, true
	case !o.unchanged(st):
		return nil, nil, false
	case force:
		return o, &o.meta, false
	}
	return o, nil, false
}

// settle notes a change of the inode, and makes its object if there is none that can take it. Of two changes seen through
// two names the first stays: either is older than the reading of the content.
func (w *scanner) settle(id FileID, target string, c *change) *object {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.src.byID[id]
	if o == nil || !o.becomes(&c.st, target) {
		o = &object{typ: c.st.typ(), id: id, target: target, sent: stat{rdev: c.st.rdev}}
		w.src.byID[id] = o
		w.fresh = append(w.fresh, o)
	}
	if o.seen.changed == nil {
		o.seen.changed = c
		w.changed = append(w.changed, o)
	}
	return o
}

// attributes reads a file's metadata beyond st, and what overlayfs has noted of it.
func (w *scanner) attributes(dir int, name string, st *stat) (Meta, overlayMarks, error) {
	var marks overlayMarks
	prefix := trustedOverlay
	if w.src.opts.UserXattr {
		prefix = userOverlay
	}
	if w.src.opts.NoXattrs {
		return Meta{UID: st.uid, GID: st.gid, Mode: st.mode & 0o7777, Mtime: st.mtime}, marks, nil
	}
	carried := carriedXattr
	var private func(string, []byte)
	if w.src.kind == Upper {
		carried = func(name string) bool { return carriedXattr(name) && !strings.HasPrefix(name, prefix) }
		private = func(name string, value []byte) { marks.note(prefix, name, value) }
	}
	xattrs, err := xattrRef{path: procPath(dir, name)}.read(carried, private)
	if err != nil {
		return Meta{}, marks, err
	}
	return Meta{UID: st.uid, GID: st.gid, Mode: st.mode & 0o7777, Mtime: st.mtime, Xattrs: xattrs}, marks, nil
}

func readLink(dir int, name string) (string, error) {
	buf := make([]byte, 256)
	for {
		n, err := unix.Readlinkat(dir, name, buf)
		if err != nil {
			return "", err
		}
		if n < len(buf) {
			return string(buf[:n]), nil
		}
		buf = make([]byte, 2*len(buf))
	}
}

// vanishedOr is nil for a name that is gone or became something else; a scan takes it as not there.
func vanishedOr(op, path string, err error) error {
	if gone(err) || errors.Is(err, unix.EINVAL) { // EINVAL: readlink of what is no link any more
		return nil
	}
	return pathError(op, path, err)
}
