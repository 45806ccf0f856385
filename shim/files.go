package shim

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/filetree"
	"godwit.dev/godwit/pagestream/wire"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// recordBatch is how many bytes of records gather before they are sent.
const recordBatch = 128 << 10

// fileStream carries the records of file trees to the destination.
type fileStream struct {
	session *wire.Session
	stream  *wire.Stream
	sent    atomic.Uint64

	mu     sync.Mutex // held while a tree is synced: trees do not interleave
	buffer []byte     // guarded by mu
}

func newFileStream(session *wire.Session) *fileStream {
	return &fileStream{session: session, stream: session.Stream(session.Streams() - 1), buffer: make([]byte, 0, recordBatch+filetree.MaxRecord)}
}

// bytes is how much has been sent.
func (f *fileStream) bytes() uint64 { return f.sent.Load() }

// send runs a sync and sends its records on a channel, in order.
func (f *fileStream) send(channel uint32, sync func(emit func(filetree.Record) error) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.buffer = f.buffer[:0]
	err := sync(func(r filetree.Record) error {
		var err error
		if f.buffer, err = filetree.AppendRecord(f.buffer, r); err != nil {
			return err
		}
		if len(f.buffer) < recordBatch {
			return nil
		}
		return f.flushRecords(channel)
	})
	if err != nil {
		return err
	}
	return f.flushRecords(channel)
}

// flushRecords sends what has gathered; mu is held.
func (f *fileStream) flushRecords(channel uint32) error {
	if len(f.buffer) == 0 {
		return nil
	}
	if err := f.stream.Blob(channel, f.buffer); err != nil {
		return err
	}
	f.sent.Add(uint64(len(f.buffer)))
	f.buffer = f.buffer[:0]
	return nil
}

// tree is a file tree of the pod and the channel that it travels on. It is
// synced by one goroutine at a time.
type tree struct {
	source  *filetree.Source
	channel uint32
	// mounts are where the pod's processes see it.
	mounts []treeMount
	// parts: what a process sees at a mount may be a directory below the tree's root.
	parts bool
	// mapped has every file that was seen mapped shared: a write through a
	// mapping need not change a file's times. Paths are relative to the mount.
	mapped map[string]bool
}

// treeMount is a place where processes see a tree.
type treeMount struct {
	// path ends with a slash.
	path string
	// container whose processes see it there; nil for all.
	container *departure
}

// isMapped says whether a file of the tree may be one that was seen mapped. Of a
// tree that is seen in parts it is not known which part it was: every file that
// it can be counts, and is compared once more than it need be.
func (t *tree) isMapped(path string) bool {
	if !t.parts || t.mapped[path] {
		return t.mapped[path]
	}
	for i := range path {
		if path[i] == '/' && t.mapped[path[i+1:]] {
			return true
		}
	}
	return false
}

// openTrees finds the file trees of the pod.
func (s *source) openTrees() error {
	for _, c := range s.containers {
		overlay, err := filetree.FindOverlay(c.container.rootfs())
		if err != nil {
			return fmt.Errorf("container %s: %w", c.id, err)
		}
		c.files = &tree{channel: shimv1.Channel(c.index, shimv1.TreeRootfs), mounts: []treeMount{{"/", c}}}
		if err := c.files.open(overlay.Upper, filetree.Upper, overlay.UserXattr); err != nil {
			return fmt.Errorf("container %s: %w", c.id, err)
		}
	}
	if dir := s.request.GetShmDir(); dir != "" {
		s.link.shm = &tree{channel: shimv1.Channel(0, shimv1.TreeShm), mounts: []treeMount{{"/dev/shm/", nil}}}
		if err := s.link.shm.open(dir, filetree.Plain, false); err != nil {
			return fmt.Errorf("/dev/shm of the pod: %w", err)
		}
	}
	return s.openVolumes()
}

// openVolumes finds the volumes that move with the pod.
func (s *source) openVolumes() error {
	for i, v := range s.request.GetVolumes() {
		t := &tree{channel: shimv1.Channel(uint16(i), shimv1.TreeVolume), parts: true}
		for _, m := range v.GetMounts() {
			if int(m.GetContainer()) >= len(s.containers) {
				return fmt.Errorf("volume %s: the pod has no container %d", v.GetName(), m.GetContainer())
			}
			path, c := strings.TrimSuffix(m.GetPath(), "/"), s.containers[m.GetContainer()]
			t.mounts = append(t.mounts, treeMount{path + "/", c})
			c.copied = append(c.copied, path)
		}
		if err := t.open(v.GetDir(), filetree.Plain, false); err != nil {
			return fmt.Errorf("volume %s: %w", v.GetName(), err)
		}
		s.link.volumes = append(s.link.volumes, t)
	}
	return nil
}

func (t *tree) open(dir string, kind filetree.Kind, userXattr bool) error {
	t.mapped = map[string]bool{}
	var err error
	t.source, err = filetree.NewSource(dir, kind, filetree.Options{
		AlwaysCompare: func(path string, _, _ uint64) bool { return t.isMapped(path) },
		UserXattr:     userXattr,
	})
	return err
}

// close lets go of a tree, which may never have been opened: a volume that
// somebody has open cannot be unmounted.
func (t *tree) close() {
	if t != nil && t.source != nil {
		t.source.Close()
	}
}

// trees lists all file trees of the pod.
func (s *source) trees() []*tree {
	var out []*tree
	for _, c := range s.containers {
		out = append(out, c.files)
	}
	if s.link.shm != nil {
		out = append(out, s.link.shm)
	}
	return append(out, s.link.volumes...)
}

// syncFiles sends what changed in all trees while the pod runs.
func (s *source) syncFiles(ctx context.Context) error {
	for _, t := range s.trees() {
		if err := s.findMapped(t); err != nil {
			return err
		}
		err := s.link.files.send(t.channel, func(emit func(filetree.Record) error) error {
			_, err := t.source.Sync(ctx, emit)
			return err
		})
		if err != nil {
			return fmt.Errorf("copy files: %w", err)
		}
	}
	return s.link.session.Flush(ctx)
}

// syncFrozen sends what is left of all trees; the pod is frozen.
func (s *source) syncFrozen(ctx context.Context) error {
	for _, t := range s.trees() {
		if err := s.findMapped(t); err != nil {
			return err
		}
		mapped := filetree.Mapped{Paths: slices.Collect(maps.Keys(t.mapped))}
		err := s.link.files.send(t.channel, func(emit func(filetree.Record) error) error {
			_, err := t.source.SyncFrozen(ctx, mapped, emit)
			return err
		})
		if err != nil {
			return fmt.Errorf("copy the rest of the files: %w", err)
		}
	}
	return nil
}

// findMapped adds the files of a tree that some process has mapped shared now.
func (s *source) findMapped(t *tree) error {
	for _, c := range s.containers {
		paths := t.seenBy(c)
		if len(paths) == 0 {
			continue
		}
		pids, err := c.processes()
		if err != nil {
			return err
		}
		for _, pid := range pids {
			if err := addMapped(t.mapped, pid, paths); err != nil {
				return err
			}
		}
	}
	return nil
}

// seenBy is where a container's processes see the tree.
func (t *tree) seenBy(c *departure) []string {
	var paths []string
	for _, m := range t.mounts {
		if m.container == nil || m.container == c {
			paths = append(paths, m.path)
		}
	}
	return paths
}

// addMapped adds the files below mounts that a process has mapped shared.
func addMapped(mapped map[string]bool, pid int, mounts []string) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if errors.Is(err, os.ErrNotExist) {
		return nil // it ended meanwhile
	}
	if err != nil {
		return fmt.Errorf("memory map of process %d: %w", pid, err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// address perms offset dev inode path
		fields := strings.SplitN(lines.Text(), " ", 6)
		if len(fields) < 6 || len(fields[1]) < 4 || fields[1][3] != 's' {
			continue
		}
		for _, mount := range mounts {
			if path, ok := strings.CutPrefix(strings.TrimLeft(fields[5], " "), mount); ok {
				mapped[path] = true
			}
		}
	}
	if err := lines.Err(); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("memory map of process %d: %w", pid, err)
	}
	return nil
}

// sendImages sends CRIU's images of a container, without what the store has.
func (s *source) sendImages(ctx context.Context, c *departure, skip []string) error {
	channel := shimv1.Channel(c.index, shimv1.TreeImages)
	err := s.link.files.send(channel, func(emit func(filetree.Record) error) error {
		return filetree.SendFlat(ctx, c.images, skip, emit)
	})
	if err != nil {
		return fmt.Errorf("images of container %s: %w", c.id, err)
	}
	return nil
}
