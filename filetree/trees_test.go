package filetree

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// canOverlay probes once whether this process may mount an overlay whose upper directory is in the test's directory.
var canOverlay = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "filetree-probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	merged := filepath.Join(dir, "merged")
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	return unix.Unmount(merged, 0)
})

func needOverlay(t testing.TB) {
	t.Helper()
	if err := canOverlay(); err != nil {
		t.Skip(err)
	}
}

// overlay mounts an overlay of its own upper directory over lower.
type overlay struct{ upper, merged string }

func mountOverlay(t testing.TB, lower, extra string) overlay {
	t.Helper()
	needOverlay(t)
	dir := t.TempDir()
	o := overlay{upper: filepath.Join(dir, "upper"), merged: filepath.Join(dir, "merged")}
	work := filepath.Join(dir, "work")
	for _, d := range []string{o.upper, o.merged, work} {
		must(t, os.Mkdir(d, 0o755))
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s%s", lower, o.upper, work, extra)
	must(t, unix.Mount("overlay", o.merged, "overlay", 0, options))
	t.Cleanup(func() {
		if err := unix.Unmount(o.merged, 0); err != nil {
			t.Errorf("unmount %s: %v", o.merged, err)
		}
	})
	return o
}

// copier couples a Source with an Applier through the encoding.
type copier struct {
	t       testing.TB
	src     *Source
	dst     *Applier
	from    string // view of the source to compare
	to      string
	records []Record // of the last sync, without data
	bytes   int64
	buf     []byte
}

func newCopier(t testing.TB, root string, kind Kind, from, to string, opts Options) *copier {
	t.Helper()
	src, err := NewSource(root, kind, opts)
	must(t, err)
	dst, err := NewApplier(to, ApplyOptions{AllowDevices: true})
	must(t, err)
	c := &copier{t: t, src: src, dst: dst, from: from, to: to}
	t.Cleanup(func() {
		must(t, src.Close())
		must(t, dst.Close())
	})
	return c
}

// overlayCopier mounts the overlays of both sides over one lower directory.
func overlayCopier(t testing.TB, lower string, opts Options) *copier {
	t.Helper()
	from, to := mountOverlay(t, lower, ""), mountOverlay(t, lower, "")
	return newCopier(t, from.upper, Upper, from.merged, to.merged, opts)
}

func plainCopier(t testing.TB, opts Options) *copier {
	t.Helper()
	from := t.TempDir()
	return newCopier(t, from, Plain, from, t.TempDir(), opts)
}

func (c *copier) apply(r Record) error {
	var err error
	if c.buf, err = AppendRecord(c.buf[:0], r); err != nil {
		return err
	}
	if len(c.buf) > MaxRecord {
		return fmt.Errorf("%v record of %d bytes", r.Type, len(c.buf))
	}
	got, n, err := DecodeRecord(c.buf)
	if err != nil {
		return err
	}
	if n != len(c.buf) {
		return fmt.Errorf("decoded %d bytes of %d", n, len(c.buf))
	}
	c.bytes += int64(len(got.Data))
	if err := c.dst.Apply(got); err != nil {
		return err
	}
	got.Data = nil
	c.records = append(c.records, got)
	return nil
}

func (c *copier) sync() Stats {
	c.t.Helper()
	c.records, c.bytes = nil, 0
	st, err := c.src.Sync(context.Background(), c.apply)
	must(c.t, err)
	return st
}

func (c *copier) frozen(mapped ...string) Stats {
	c.t.Helper()
	c.records, c.bytes = nil, 0
	st, err := c.src.SyncFrozen(context.Background(), Mapped{Paths: mapped}, c.apply)
	must(c.t, err)
	return st
}

// equal fails the test where the trees differ.
func (c *copier) equal() {
	c.t.Helper()
	lines, err := Diff(c.from, c.to)
	must(c.t, err)
	for _, l := range lines {
		c.t.Error(l)
	}
	if len(lines) > 0 {
		c.t.FailNow()
	}
}

func (c *copier) path(name string) string { return filepath.Join(c.from, name) }

func (c *copier) write(name, content string) {
	c.t.Helper()
	must(c.t, os.WriteFile(c.path(name), []byte(content), 0o644))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// image fills a lower directory.
func image(t testing.TB) string {
	t.Helper()
	lower := t.TempDir()
	for _, d := range []string{"etc/conf.d", "var/log", "opt/app/data", "home"} {
		must(t, os.MkdirAll(filepath.Join(lower, d), 0o755))
	}
	for _, f := range []string{"etc/passwd", "etc/conf.d/a", "etc/conf.d/b", "var/log/old", "opt/app/bin", "opt/app/data/x", "opt/app/data/y", "home/one"} {
		must(t, os.WriteFile(filepath.Join(lower, f), []byte("lower "+f), 0o644))
	}
	must(t, os.Link(filepath.Join(lower, "home/one"), filepath.Join(lower, "home/two")))
	must(t, os.Symlink("passwd", filepath.Join(lower, "etc/link")))
	past := time.Unix(1_600_000_000, 123)
	must(t, filepath.WalkDir(lower, func(p string, _ os.DirEntry, err error) error {
		return errors.Join(err, lutimes(p, past))
	}))
	return lower
}

func lutimes(p string, at time.Time) error {
	ts := unix.NsecToTimespec(at.UnixNano())
	return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// settle waits until no file is so young that its times cannot be trusted.
func settle() { time.Sleep(racyWindow + 20*time.Millisecond) }

func mountTmpfs(t testing.TB) string {
	t.Helper()
	needOverlay(t) // whoever may mount the one may mount the other
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"))
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	return dir
}
