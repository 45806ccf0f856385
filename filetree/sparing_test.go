package filetree

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestOnlyWhatChangedIsSentAgain(t *testing.T) {
	c := overlayCopier(t, image(t), Options{})
	big := randomBytes(10 << 20)
	must(t, os.WriteFile(c.path("big"), big, 0o644))
	must(t, os.Mkdir(c.path("dir"), 0o755))
	c.write("dir/a", "a")
	c.write("dir/b", "b")
	settle()
	c.sync()
	steps := []struct {
		name    string
		do      func()
		bytes   int64 // at most
		records int   // exactly, the end included
	}{
		{"nothing", func() {}, 0, 1},
		{"one byte in the middle", func() { c.patch("big", []byte{1, 2, 3}, 5<<20) }, blockSize, 3},
		{"two bytes at a border", func() { c.patch("big", []byte("xy"), 2*blockSize-1) }, 2 * blockSize, 3},
		{"an end that grows", func() { c.patch("big", randomBytes(100), 10<<20) }, 100, 3},
		{"an end that goes", func() { must(t, os.Truncate(c.path("big"), 9<<20+1)) }, 1, 3},
		{"a hole", func() { c.punch("big", 2*blockSize, 3*blockSize) }, 0, 3},
		{"a new time", func() { must(t, lutimes(c.path("big"), time.Unix(77, 7))) }, 0, 2},
		{"a new mode", func() { must(t, os.Chmod(c.path("big"), 0o4711)) }, 0, 2},
		{"an attribute", func() { must(t, unix.Lsetxattr(c.path("big"), "user.a", []byte("b"), 0)) }, 0, 2},
		{"a rename", func() { must(t, os.Rename(c.path("big"), c.path("dir/big"))) }, 0, 6},
		{"a link", func() { must(t, os.Link(c.path("dir/big"), c.path("big"))) }, 0, 3},
		{"the first name of two goes", func() { must(t, os.Remove(c.path("big"))) }, 0, 3},
		{"a directory's rename", func() { must(t, os.Rename(c.path("dir"), c.path("dir2"))) }, 0, 10},
		{"two names exchanged", func() {
			must(t, unix.Renameat2(unix.AT_FDCWD, c.path("dir2/a"), unix.AT_FDCWD, c.path("dir2/big"), unix.RENAME_EXCHANGE))
		}, 0, 6},
		{"a time set back after a write", func() {
			st, err := os.Stat(c.path("dir2/a"))
			must(t, err)
			c.patch("dir2/a", []byte("sly"), 0)
			must(t, lutimes(c.path("dir2/a"), st.ModTime()))
		}, blockSize, 3},
	}
	for _, s := range steps {
		s.do()
		settle()
		c.sync()
		if c.bytes > s.bytes || len(c.records) != s.records {
			t.Errorf("%s: %d bytes in %d records, want at most %d in %d: %v", s.name, c.bytes, len(c.records), s.bytes, s.records, types(c.records))
		}
		c.equal()
	}
}

func types(records []Record) (s []string) {
	for _, r := range records {
		s = append(s, r.Type.String()+" "+r.Path)
	}
	return s
}

func (c *copier) patch(name string, data []byte, at int64) {
	c.t.Helper()
	f, err := os.OpenFile(c.path(name), os.O_WRONLY, 0)
	must(c.t, err)
	_, err = f.WriteAt(data, at)
	must(c.t, errors.Join(err, f.Close()))
}

func (c *copier) punch(name string, at, length int64) {
	c.t.Helper()
	f, err := os.OpenFile(c.path(name), os.O_WRONLY, 0)
	must(c.t, err)
	err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, length)
	must(c.t, errors.Join(err, f.Close()))
}

func TestRotatedLogsAreMovedNotSent(t *testing.T) {
	c := overlayCopier(t, image(t), Options{})
	for _, n := range []string{"log", "log.1", "log.2"} {
		must(t, os.WriteFile(c.path(n), randomBytes(1<<20), 0o644))
	}
	settle()
	c.sync()
	must(t, os.Remove(c.path("log.2")))
	must(t, os.Rename(c.path("log.1"), c.path("log.2")))
	must(t, os.Rename(c.path("log"), c.path("log.1")))
	c.write("log", "begins again")
	st := c.frozen()
	if c.bytes > 100 || st.Renamed < 2 { // three if the new file has the inode number of the one that went
		t.Errorf("%d bytes sent, %d files moved: %v", c.bytes, st.Renamed, types(c.records))
	}
	c.equal()
}

func TestAFileBeyondTheHashBudgetIsSentWhole(t *testing.T) {
	c := plainCopier(t, Options{MaxHashBytes: 64})
	must(t, os.WriteFile(c.path("big"), randomBytes(2<<20), 0o644))
	f, err := os.OpenFile(c.path("big"), os.O_RDWR, 0)
	must(t, err)
	must(t, f.Truncate(8<<20))
	must(t, f.Close())
	must(t, os.WriteFile(c.path("small"), randomBytes(1<<10), 0o644))
	settle()
	st := c.sync()
	if st.HashBytes > 64 {
		t.Errorf("%d bytes of hashes", st.HashBytes)
	}
	c.patch("big", []byte("x"), 5)
	c.punch("big", 1<<20, 1<<18)
	settle()
	c.sync()
	if c.bytes < 1<<20 {
		t.Errorf("%d bytes sent of a file whose content was forgotten", c.bytes)
	}
	c.equal()
}
