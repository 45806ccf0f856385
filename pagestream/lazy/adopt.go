package lazy

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// adopt takes over what servers before this one have left: each memory's journal is
// replayed, which gives its windows and those of its children as they were made.
// At the first start there is nothing.
func (s *server) adopt() error {
	a := adoption{server: s, known: make(map[forkOf]handed), open: make(map[uint64]handed), born: make(map[uint64]*memory)}
	for _, h := range s.handed {
		if h.parent != 0 {
			a.known[forkOf{h.parent, h.fork}] = h
		}
		if h.fd >= 0 {
			a.open[h.id] = h
		}
		s.nextID = max(s.nextID, h.id+1)
	}
	s.handed = nil // what is open is a's now
	handed := slices.Collect(maps.Values(a.open))
	for _, h := range handed {
		if err := a.replay(h); err != nil {
			return err
		}
	}
	for _, h := range a.open {
		if s.memories[h.id] != nil {
			continue
		}
		if err := a.unread(h); err != nil {
			return err
		}
	}
	for _, m := range s.memories {
		wakeAll(m.fd)
	}
	return nil
}

// forkOf names a child by its parent.
type forkOf struct{ parent, fork uint64 }

type adoption struct {
	*server
	known map[forkOf]handed
	open  map[uint64]handed
	born  map[uint64]*memory // children as their parents' journals have them
}

// replay takes in a memory whose journal is there.
func (a *adoption) replay(h handed) error {
	j, snap, events, err := openJournal(a.cfg.Journal, h.id)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	src, err := a.source(h.pid)
	if err != nil {
		return errors.Join(err, j.close())
	}
	m := &memory{id: h.id, fd: h.fd, source: src, forked: h.parent != 0, where: newTranslation(snap.windows), forks: snap.forks, journal: j}
	m.resetDone()
	reader := uint64(0) // number of the server that read
	for _, e := range events {
		switch e.kind {
		case eventServer:
			reader = e.a
		case eventFork:
			if err := a.replayFork(m, e, reader); err != nil {
				return errors.Join(err, j.close())
			}
		default:
			m.apply(e)
		}
	}
	if j.full() {
		if err := a.renewJournal(m); err != nil {
			return err
		}
	} else {
		j.readBy(a.number)
	}
	return a.begin(m)
}

// replayFork makes the memory of a child as it was born. One that the keeper does not
// know of is fetched from the holder of the server that read the event and died.
func (a *adoption) replayFork(parent *memory, e event, reader uint64) error {
	name := forkOf{parent.id, parent.forks}
	child, ok := a.known[name]
	parent.forks++
	if !ok {
		fd, err := a.fetch(reader, e.child())
		if err != nil {
			a.progress.Lost++
			a.log.Error("fault server: memory of a forked child is lost: a server died on the fork; end the container",
				"process", parent.source.pid, "memory", parent.id, "error", err)
			return nil
		}
		a.log.Info("fault server: took a forked child over from a server that died on the fork", "process", parent.source.pid, "memory", a.nextID)
		child = handed{message{kind: forkedMsg, id: a.nextID, pid: parent.source.pid, parent: name.parent, fork: name.fork}, fd}
		a.nextID++
		a.tell(child.message, fd)
		a.open[child.id] = child
	}
	if child.fd >= 0 {
		a.born[child.id] = parent.fork(child.id, child.fd)
	}
	return nil
}

// fetch takes a descriptor out of a dead server's table.
func (a *adoption) fetch(server uint64, fd int) (int, error) {
	pidfd, ok := a.held[server]
	if !ok {
		return -1, fmt.Errorf("server %d had no holder of its descriptors", server)
	}
	got, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return -1, fmt.Errorf("descriptor %d of server %d: %w", fd, server, err)
	}
	return got, nil
}

// unread takes in a memory of which no event has been read: it has no journal.
func (a *adoption) unread(h handed) error {
	if h.parent == 0 {
		return a.fresh(h)
	}
	m := a.born[h.id]
	if m == nil {
		return fmt.Errorf("memory %d, child of %d, has no journal and its parent's does not have it: %w", h.id, h.parent, ErrJournal)
	}
	// Which pages its parent had when it was made is not known; those that it
	// has are found to be there.
	m.resetDone()
	return a.take(m)
}
