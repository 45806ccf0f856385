package filetree

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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

func TestEveryKindOfChangeOfAnOverlayArrives(t *testing.T) {
	c := overlayCopier(t, image(t), Options{})
	p := c.path
	c.write("etc/passwd", "changed")
	c.write("new file", "new")
	must(t, os.Remove(p("etc/conf.d/a")))
	must(t, os.RemoveAll(p("opt/app/data")))
	must(t, os.Mkdir(p("opt/app/data"), 0o711))
	c.write("opt/app/data/z", "in an opaque directory")
	must(t, os.RemoveAll(p("var/log")))
	must(t, os.Symlink("../../etc", p("var/log")))
	must(t, os.Remove(p("opt/app/bin")))
	must(t, os.Mkdir(p("opt/app/bin"), 0o1777))
	must(t, os.WriteFile(p("home/one"), []byte("no longer linked"), 0o600))
	must(t, os.Link(p("new file"), p("home/another name")))
	must(t, unix.Mkfifo(p("fifo"), 0o640))
	must(t, unix.Mknod(p("socket"), unix.S_IFSOCK|0o755, 0))
	must(t, unix.Mknod(p("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(p("block"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 300))))
	must(t, os.Lchown(p("fifo"), 5, 6))
	must(t, os.Symlink(strings.Repeat("x", 4000), p("long link")))
	must(t, os.Lchown(p("long link"), 1, 2))
	must(t, os.Symlink("loop", p("loop")))
	must(t, os.WriteFile(p("suid"), []byte("#!"), 0o755))
	must(t, os.Chown(p("suid"), 1000, 1001))
	must(t, unix.Chmod(p("suid"), 0o6755))
	must(t, unix.Lsetxattr(p("suid"), "user.note", []byte("kept"), 0))
	must(t, unix.Lsetxattr(p("etc"), "trusted.note", nil, 0))
	must(t, unix.Lsetxattr(p("long link"), "trusted.note", []byte("of a link"), 0))
	capability := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // cap_net_bind_service+ep
	must(t, unix.Lsetxattr(p("new file"), "security.capability", capability, 0))
	acl := []byte{2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255,
		16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255} // u::rw-,u:1000:r--,g::r--,m::r--,o::---
	must(t, unix.Lsetxattr(p("etc/conf.d/b"), "system.posix_acl_access", acl, 0))
	must(t, unix.Lsetxattr(p("home"), "system.posix_acl_default", acl, 0))
	must(t, os.WriteFile(p("home/with default acl"), nil, 0o666))
	must(t, unix.Chmod(p("home"), 0o2775))
	sparse, err := os.Create(p("sparse"))
	must(t, err)
	for _, at := range []int64{0, 1 << 20, 40<<20 + 5, 1<<29 - 3} {
		_, err := sparse.WriteAt([]byte("abc"), at)
		must(t, err)
	}
	must(t, sparse.Truncate(1<<30))
	must(t, sparse.Close())
	// A page in each block: the copy has the whole blocks.
	scattered, err := os.Create(p("scattered"))
	must(t, err)
	for at := int64(0); at < 8*blockSize; at += blockSize {
		_, err := scattered.WriteAt([]byte("abc"), at)
		must(t, err)
	}
	must(t, scattered.Close())
	must(t, os.WriteFile(p("big"), randomBytes(3<<20+77), 0o644))
	must(t, os.WriteFile(p("zeros"), make([]byte, 1<<20), 0o644))
	must(t, os.MkdirAll(p("a/b/c/d"), 0o700))
	must(t, lutimes(p("a/b"), time.Unix(-5, 9)))
	must(t, lutimes(p("new file"), time.Unix(1<<33, 1)))

	c.sync()
	if c.bytes > 5<<20 {
		t.Errorf("%d bytes sent, holes and zeros included", c.bytes)
	}
	c.frozen()
	c.equal()
}

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

func TestAWriteInTheSameTickIsNotMissed(t *testing.T) {
	c := plainCopier(t, Options{})
	for i := range 50 {
		c.write("f", "content "+string(rune('a'+i%26)))
		c.sync()
		c.patch("f", []byte{byte('A' + i%26)}, 3) // same size, within the tick of the first write
		c.frozen()
		c.equal()
	}
}

// mapShared maps the first page of a file.
func (c *copier) mapShared(name string) []byte {
	c.t.Helper()
	f, err := os.OpenFile(c.path(name), os.O_RDWR, 0)
	must(c.t, err)
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(c.t, err)
	c.t.Cleanup(func() { must(c.t, unix.Munmap(m)) })
	return m
}

func TestWritesThroughAMappingArriveIfItIsNamed(t *testing.T) {
	for _, way := range []string{"path", "inode", "option"} {
		t.Run(way, func(t *testing.T) {
			opts := Options{}
			if way == "option" {
				opts.AlwaysCompare = func(path string, _, _ uint64) bool { return path == "dir/mapped" }
			}
			c := overlayCopier(t, image(t), opts)
			must(t, os.Mkdir(c.path("dir"), 0o755))
			must(t, os.WriteFile(c.path("dir/mapped"), randomBytes(1<<20), 0o644))
			m := c.mapShared("dir/mapped")
			m[0]++ // the page is dirty and writable from here on
			settle()
			c.sync()
			m[1]++
			var mapped Mapped
			switch way {
			case "path":
				mapped.Paths = []string{"/dir/mapped", "/not/there"}
			case "inode":
				var st statter
				must(t, st.at(int(c.src.dir.Fd()), "dir/mapped"))
				mapped.Inodes = []FileID{st.id()}
			}
			c.bytes = 0
			_, err := c.src.SyncFrozen(context.Background(), mapped, c.apply)
			must(t, err)
			if c.bytes != blockSize {
				t.Errorf("%d bytes sent, want the changed block", c.bytes)
			}
			c.equal()
		})
	}
}

func TestTmpfsIsComparedThoughNothingIsMappedAnyMore(t *testing.T) {
	from, to := mountTmpfs(t), mountTmpfs(t)
	c := newCopier(t, from, Plain, from, to, Options{})
	must(t, os.WriteFile(c.path("segment"), randomBytes(1<<20), 0o600))
	must(t, os.Chmod(from, 0o1777))
	m := c.mapShared("segment")
	settle()
	c.sync()
	m[100]++
	c.sync()
	if c.bytes != blockSize {
		t.Errorf("%d bytes sent, want the changed block", c.bytes)
	}
	m[200]++
	c.frozen()
	c.equal()
}

func mountTmpfs(t testing.TB) string {
	t.Helper()
	needOverlay(t) // whoever may mount the one may mount the other
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"))
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	return dir
}

func TestSkippedPathsAreLeftAlone(t *testing.T) {
	from := t.TempDir()
	c := newCopier(t, from, Plain, from, t.TempDir(), Options{Skip: []string{"/proc", "a/b/"}})
	must(t, os.MkdirAll(c.path("a/b/c"), 0o755))
	must(t, os.MkdirAll(c.path("proc/1"), 0o755))
	c.write("a/file", "x")
	must(t, os.MkdirAll(filepath.Join(c.to, "proc/2"), 0o755))
	c.sync()
	must(t, os.RemoveAll(c.path("proc")))
	c.frozen()
	if _, err := os.Stat(filepath.Join(c.to, "proc/2")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(c.to, "a/file")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(c.to, "a/b")); !os.IsNotExist(err) {
		t.Errorf("skipped directory was copied: %v", err)
	}
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

func TestACancelledOrFailedSyncBreaksTheSource(t *testing.T) {
	refused := errors.New("refused")
	for name, emit := range map[string]func(context.CancelFunc) error{
		"cancelled": func(cancel context.CancelFunc) error { cancel(); return nil },
		"failed":    func(context.CancelFunc) error { return refused },
	} {
		t.Run(name, func(t *testing.T) {
			c := plainCopier(t, Options{})
			for _, n := range []string{"a", "b", "c"} {
				must(t, os.WriteFile(c.path(n), randomBytes(8<<20), 0o644))
			}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			_, err := c.src.Sync(ctx, func(Record) error { return emit(cancel) })
			if !errors.Is(err, refused) && !errors.Is(err, context.Canceled) {
				t.Fatalf("error %v", err)
			}
			if _, err := c.src.Sync(context.Background(), c.apply); !errors.Is(err, ErrBroken) {
				t.Errorf("then %v, want ErrBroken", err)
			}
		})
	}
}

func TestAFrozenSyncRefusesATreeThatIsWrittenTo(t *testing.T) {
	c := plainCopier(t, Options{})
	must(t, os.WriteFile(c.path("f"), randomBytes(32<<20), 0o644))
	_, err := c.src.SyncFrozen(context.Background(), Mapped{}, func(r Record) error {
		if r.Type == TypeData && r.Offset == 0 {
			return os.Truncate(c.path("f"), 1<<20)
		}
		return nil
	})
	if !errors.Is(err, ErrNotFrozen) {
		t.Errorf("error %v, want ErrNotFrozen", err)
	}
}

func TestMetacopyAndRedirectAreRefused(t *testing.T) {
	for _, x := range []string{"trusted.overlay.metacopy", "trusted.overlay.redirect", "trusted.overlay.nlink"} {
		dir := t.TempDir()
		name := filepath.Join(dir, "f")
		must(t, os.WriteFile(name, nil, 0o644))
		if err := unix.Lsetxattr(name, x, []byte("x"), 0); err != nil {
			t.Skipf("trusted attributes: %v", err)
		}
		src, err := NewSource(dir, Upper, Options{})
		must(t, err)
		if _, err := src.Sync(context.Background(), func(Record) error { return nil }); !errors.Is(err, ErrUnsupportedOverlay) {
			t.Errorf("%s: error %v", x, err)
		}
		must(t, src.Close())
	}
}

func TestAWhiteoutInAttributeFormRemovesTheName(t *testing.T) {
	lower := image(t)
	upper := t.TempDir()
	must(t, os.WriteFile(filepath.Join(upper, "etc"), nil, 0o644))
	if err := unix.Lsetxattr(filepath.Join(upper, "etc"), "trusted.overlay.whiteout", nil, 0); err != nil {
		t.Skipf("trusted attributes: %v", err)
	}
	to := mountOverlay(t, lower, "")
	c := newCopier(t, upper, Upper, upper, to.merged, Options{})
	c.sync()
	if _, err := os.Lstat(filepath.Join(to.merged, "etc")); !os.IsNotExist(err) {
		t.Errorf("the directory is there still: %v", err)
	}
}

func TestFindUpper(t *testing.T) {
	o := mountOverlay(t, image(t), "")
	if got, err := FindUpper(o.merged); err != nil || got != o.upper {
		t.Errorf("upper %q, error %v, want %q", got, err, o.upper)
	}
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(o.merged, link))
	if got, err := FindUpper(link); err != nil || got != o.upper {
		t.Errorf("through a link: upper %q, error %v", got, err)
	}
	for _, dir := range []string{o.upper, "/proc", mountTmpfs(t)} {
		if _, err := FindUpper(dir); !errors.Is(err, ErrNotOverlay) {
			t.Errorf("%s: error %v, want ErrNotOverlay", dir, err)
		}
	}
	for _, tc := range []struct {
		options string
		want    Overlay
		err     error
	}{
		{`rw,lowerdir=/l,upperdir=/a\054\040b\134c,workdir=/w,userxattr`, Overlay{Upper: `/a, b\c`, UserXattr: true}, nil},
		{`rw,lowerdir=/l:/m`, Overlay{}, ErrNotOverlay},
		{`rw,lowerdir=l,upperdir=u,workdir=w`, Overlay{}, ErrUnsupportedOverlay},
	} {
		if got, err := parseOverlay("/m", tc.options); !errors.Is(err, tc.err) || got != tc.want {
			t.Errorf("%s: %+v, error %v", tc.options, got, err)
		}
	}
}

func TestNamesMadeWhileFrozenAreSentByAnotherFrozenSync(t *testing.T) {
	c := overlayCopier(t, image(t), Options{})
	must(t, os.WriteFile(c.path("data"), randomBytes(1<<20), 0o644))
	must(t, os.Link(c.path("data"), c.path("other")))
	settle()
	c.frozen()
	must(t, os.Link(c.path("data"), c.path("home/link_remap.7")))
	must(t, os.Remove(c.path("data")))
	c.frozen()
	if c.bytes != 0 {
		t.Errorf("%d bytes sent of a file that did not change", c.bytes)
	}
	c.equal()
}

func TestAnOverlayWithUserXattrArrives(t *testing.T) {
	lower := image(t)
	from, to := mountOverlay(t, lower, ",userxattr"), mountOverlay(t, lower, ",userxattr")
	o, err := FindOverlay(from.merged)
	must(t, err)
	if !o.UserXattr || o.Upper != from.upper {
		t.Fatalf("found %+v", o)
	}
	c := newCopier(t, o.Upper, Upper, from.merged, to.merged, Options{UserXattr: o.UserXattr})
	must(t, os.RemoveAll(c.path("opt/app")))
	must(t, os.Mkdir(c.path("opt/app"), 0o755))
	must(t, os.Remove(c.path("etc/passwd")))
	must(t, unix.Lsetxattr(c.path("opt/app"), "user.mine", []byte("x"), 0))
	c.frozen()
	c.equal()
}

func TestDiffSeesEveryDifference(t *testing.T) {
	changes := map[string]func(p func(string) string) error{
		"content": func(p func(string) string) error { return os.WriteFile(p("f"), []byte("B"), 0o644) },
		"mode":    func(p func(string) string) error { return os.Chmod(p("f"), 0o600) },
		"owner":   func(p func(string) string) error { return os.Chown(p("f"), 3, 3) },
		"name":    func(p func(string) string) error { return os.Rename(p("f"), p("g")) },
		"link":    func(p func(string) string) error { return errors.Join(os.Remove(p("l")), os.Symlink("y", p("l"))) },
		"type":    func(p func(string) string) error { return errors.Join(os.Remove(p("l")), unix.Mkfifo(p("l"), 0o777)) },
		"group": func(p func(string) string) error {
			return errors.Join(os.Remove(p("h")), os.WriteFile(p("h"), []byte("A"), 0o644))
		},
		"attribute": func(p func(string) string) error { return unix.Lsetxattr(p("f"), "user.x", nil, 0) },
		"time":      func(p func(string) string) error { return lutimes(p("d"), time.Unix(5, 5)) },
		"space": func(p func(string) string) error {
			return os.WriteFile(p("sparse"), bytes.Repeat([]byte{0}, 4<<20), 0o644)
		},
	}
	for name, change := range changes {
		var dirs [2]string
		for i := range dirs {
			dirs[i] = t.TempDir()
			p := func(n string) string { return filepath.Join(dirs[i], n) }
			must(t, os.WriteFile(p("f"), []byte("A"), 0o644))
			must(t, os.Link(p("f"), p("h")))
			must(t, os.Symlink("x", p("l")))
			must(t, os.Mkdir(p("d"), 0o755))
			must(t, os.WriteFile(p("sparse"), nil, 0o644))
			must(t, os.Truncate(p("sparse"), 4<<20))
			if i == 1 {
				must(t, change(p))
			}
			if name != "time" {
				for _, n := range []string{"f", "g", "h", "l", "d", "sparse", "."} {
					if err := lutimes(p(n), time.Unix(9, 9)); err != nil && !os.IsNotExist(err) {
						t.Fatal(err)
					}
				}
			}
		}
		lines, err := Diff(dirs[0], dirs[1])
		if err != nil || len(lines) == 0 {
			t.Errorf("%s: no difference seen, error %v", name, err)
		}
	}
}

func TestWhatIsMountedBelowTheRootIsNotPartOfTheTree(t *testing.T) {
	needOverlay(t)
	root := t.TempDir()
	mnt := filepath.Join(root, "a/mnt")
	must(t, os.MkdirAll(mnt, 0o755))
	must(t, unix.Mount("tmpfs", mnt, "tmpfs", 0, ""))
	defer func() { must(t, unix.Unmount(mnt, unix.MNT_DETACH)) }()
	must(t, os.WriteFile(filepath.Join(mnt, "inside"), nil, 0o644))
	src, err := NewSource(root, Plain, Options{})
	must(t, err)
	for range 2 {
		_, err = src.SyncFrozen(context.Background(), Mapped{}, func(r Record) error {
			if strings.HasPrefix(r.Path, "a/mnt") {
				t.Errorf("%v %s", r.Type, r.Path)
			}
			return nil
		})
		must(t, err)
	}
	must(t, src.Close())
}
