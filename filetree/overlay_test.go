package filetree

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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
