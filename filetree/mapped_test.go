package filetree

import (
	"context"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

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
