package shim

import (
	"context"
	"os"

	"godwit.dev/godwit/shim/tmpfs"
)

// What a container's own file systems in memory hold is known long before the freeze, and hardly ever changes: some devices, links and
// directories. The source tells with its first answer, the destination fills what it makes when it starts the restore ahead, and in the
// frozen window the source looks whether anything has changed, and says what. A destination that does not fill them then, which it says,
// gets everything in the window. So does each of a mount that holds much.

// maxContentAhead bounds what is told of a pod, bytes: it goes with calls, each of which may have 4 MiB.
const maxContentAhead = 1 << 20

// contentAhead is, for each container, what its own mounts hold, as the destination is told. They are watched from then on.
func (s *source) contentAhead(ctx context.Context) [][]byte {
	out := make([][]byte, len(s.containers))
	if !s.beginWork() {
		return out
	}
	defer s.running.Done()
	for i, c := range s.containers {
		out[i] = s.watchTmpfs(ctx, c, min(tmpfs.MaxAhead, maxContentAhead/len(s.containers)))
	}
	return out
}

// watchTmpfs opens a container's own mounts and packs what they hold, as far as that takes no more than limit bytes.
func (s *source) watchTmpfs(ctx context.Context, c *departure, limit int) (content []byte) {
	pids, err := c.freezer.processes()
	if err == nil {
		c.tmpfsAhead, err = tmpfs.Open(c.pid, pids, c.own)
	}
	if err != nil {
		s.log.Warn("what is in file systems in memory is sent after the freeze", "container", c.id, "error", err)
		return nil
	}
	for i, m := range c.tmpfsAhead {
		if m == nil {
			continue
		}
		packed, err := m.Ahead(ctx, i, limit-len(content))
		if err != nil {
			s.log.Info("what is in a file system in memory is sent after the freeze", "container", c.id, "error", err)
			continue
		}
		content = append(content, packed...)
	}
	return content
}

// beginWork counts what is done until running.Done as work that an end of the migration waits for; false if it has ended.
func (s *source) beginWork() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.work.Err() != nil || s.err != nil {
		return false
	}
	s.running.Add(1)
	return true
}

// lateFile is a file that is made, or appended to, when something is written.
type lateFile struct {
	path string
	file *os.File
}

func (f *lateFile) Write(p []byte) (int, error) {
	if f.file == nil {
		file, err := os.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return 0, err
		}
		f.file = file
	}
	return f.file.Write(p)
}

func (f *lateFile) close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}
