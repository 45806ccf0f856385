package filetree

import (
	"bytes"
	"context"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// sender emits a plan, in one goroutine; files are read ahead in others.
type sender struct {
	*syncRun
	ctx    context.Context
	emitTo func(Record) error
	bufs   *bufferPool
	reads  <-chan *reading
}

// send carries the plan out and ends the sync.
func (r *syncRun) send(ctx context.Context, p *plan, emit func(Record) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	s := &sender{syncRun: r, ctx: ctx, emitTo: emit, bufs: dataBuffers}
	s.reads = r.readAhead(ctx, p.ops, s.bufs, &wg)
	for i := range p.ops {
		if err := s.op(&p.ops[i]); err != nil {
			return err
		}
	}
	// The count is of the records before this one.
	return s.emit(Record{Type: TypeEnd, Sync: r.src.syncs, Count: uint64(r.stats.Records), Frozen: r.frozen})
}

func (s *sender) emit(rec Record) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	if err := s.emitTo(rec); err != nil {
		return err
	}
	s.stats.Records++
	s.stats.DataBytes += int64(len(rec.Data))
	return nil
}

func (s *sender) op(o *op) error {
	switch o.kind {
	case opSalvage:
		s.stats.Renamed++
		return s.emit(Record{Type: TypeRename, Target: o.at().path(), Path: o.obj.locs[0].path()})
	case opRemove:
		s.stats.Removed++
		return s.emit(Record{Type: TypeRemove, Path: o.at().path()})
	case opDir:
		return s.directory(o.obj)
	case opPlace:
		return s.place(o)
	default:
		return s.update(o, false)
	}
}

func (s *sender) directory(d *object) error {
	c := d.seen.changed
	if !d.made || !c.meta.equal(&d.meta) {
		s.stats.Changed++
		if err := s.emit(Record{Type: TypeDir, Path: d.path(), Opaque: c.opaque && !d.made, Meta: c.meta}); err != nil {
			return err
		}
	}
	d.made, d.opaque = true, d.opaque || c.opaque
	d.sent, d.meta, d.racy = c.st, c.meta, c.racy
	return nil
}

// place gives a file the name.
func (s *sender) place(o *op) error {
	obj, at := o.obj, o.at()
	if len(obj.locs) == 0 {
		return s.update(o, true)
	}
	rec := Record{Type: TypeLink, Path: at.path(), Target: obj.locs[0].path()}
	if obj.seen.parked {
		rec.Type = TypeRename
		obj.seen.parked, obj.locs = false, obj.locs[:0]
	}
	if err := s.emit(rec); err != nil {
		return err
	}
	obj.locs = append(obj.locs, at)
	return s.update(o, false)
}

// update brings the file up to date at the name, or makes it there.
func (s *sender) update(o *op, create bool) error {
	obj := o.obj
	if obj.typ == unix.S_IFREG {
		return s.content(o, create)
	}
	c := obj.seen.changed
	if c == nil || !create && !o.change {
		return nil
	}
	rec := Record{Type: TypeMeta, Path: o.at().path(), Meta: c.meta}
	if create {
		rec.Type = TypeNode
		rec.NodeType, rec.Major, rec.Minor = obj.typ, unix.Major(c.st.rdev), unix.Minor(c.st.rdev)
		if obj.typ == unix.S_IFLNK {
			rec = Record{Type: TypeSymlink, Path: rec.Path, Target: obj.target, Meta: c.meta}
		}
	}
	if create || !c.meta.equal(&obj.meta) {
		s.stats.Changed++
		if err := s.emit(rec); err != nil {
			return err
		}
	}
	s.sent(o, create)
	return nil
}

// sent notes that the destination has what the scan saw.
func (s *sender) sent(o *op, create bool) {
	obj, c := o.obj, o.obj.seen.changed
	obj.sent, obj.meta, obj.racy = c.st, c.meta, c.racy
	if create {
		obj.locs = append(obj.locs, o.at())
	}
}

// content sends what was read ahead for the step. A file that was gone under its first name is read under the next.
func (s *sender) content(o *op, create bool) error {
	var done readResult
	switch {
	case o.change:
		rd, ok := <-s.reads
		if !ok {
			return s.ctx.Err()
		}
		for it := range rd.items {
			if err := s.emitItem(it); err != nil {
				return err
			}
		}
		done = rd.result
	case create && o.obj.seen.changed != nil:
		f := &fileReader{syncRun: s.syncRun, obj: o.obj, path: o.at().path(), create: true, bufs: s.bufs, send: s.emitItem}
		done = f.read()
	default:
		return nil
	}
	if done.err != nil {
		return done.err
	}
	if done.vanished {
		s.stats.Vanished++
		if create { // what the name held before is not to stay
			return s.emit(Record{Type: TypeRemove, Path: o.at().path()})
		}
		return nil
	}
	if done.records > 0 {
		s.stats.Changed++
	}
	s.sent(o, create)
	return nil
}

func (s *sender) emitItem(it item) error {
	err := s.emit(it.rec)
	if it.buf != nil {
		s.bufs.put(it.buf)
	}
	return err
}

func (m *Meta) equal(o *Meta) bool {
	return m.UID == o.UID && m.GID == o.GID && m.Mode == o.Mode && m.Mtime == o.Mtime &&
		slices.EqualFunc(m.Xattrs, o.Xattrs, func(a, b Xattr) bool { return a.Name == b.Name && bytes.Equal(a.Value, b.Value) })
}

// reading is the content of one file, read ahead of its turn.
type reading struct {
	items  chan item
	result readResult // to be read after items is closed
}

// readAhead starts goroutines, which end with ctx and which wg waits for, that read the files of ops in parallel. The
// readings come in the order of the steps.
func (r *syncRun) readAhead(ctx context.Context, ops []op, bufs *bufferPool, wg *sync.WaitGroup) <-chan *reading {
	type task struct {
		*op
		*reading
	}
	inOrder, tasks := make(chan *reading, parallel()), make(chan task)
	files := 0
	for i := range ops {
		if ops[i].reads() {
			files++
		}
	}
	if files == 0 {
		return nil
	}
	wg.Go(func() {
		defer close(tasks)
		defer close(inOrder)
		for i := range ops {
			if !ops[i].reads() {
				continue
			}
			t := task{&ops[i], &reading{items: make(chan item, readAheadItems)}}
			select {
			case inOrder <- t.reading:
			case <-ctx.Done():
				return
			}
			select {
			case tasks <- t:
			case <-ctx.Done():
				t.result.err = ctx.Err()
				close(t.items)
				return
			}
		}
	})
	for range min(files, parallel()) {
		wg.Go(func() {
			for t := range tasks {
				f := &fileReader{syncRun: r, obj: t.obj, path: t.at().path(), create: t.create, bufs: bufs}
				f.send = func(it item) error {
					select {
					case t.items <- it:
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				t.result = f.read()
				close(t.items)
			}
		})
	}
	return inOrder
}
