package filetree

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// vandal changes a tree at random. Many of its calls fail, which is as it should be: the tree is full of its own names.
type vandal struct {
	root string
	rnd  *rand.Rand
}

func newVandal(root string, seed, stream uint64) *vandal {
	return &vandal{root: root, rnd: rand.New(rand.NewPCG(seed, stream))}
}

// path is one of a few names at a depth of one to three, so that names meet again.
func (v *vandal) path() string {
	names := []string{"a", "b", "c", "d", "e", "f g", "h\n"}
	p := v.root
	for range 1 + v.rnd.IntN(3) {
		p = filepath.Join(p, names[v.rnd.IntN(len(names))])
	}
	return p
}

func (v *vandal) bytes(limit int) []byte {
	b := make([]byte, v.rnd.IntN(limit))
	if v.rnd.IntN(4) > 0 { // else zeros
		for i := range b {
			b[i] = byte(v.rnd.Uint32())
		}
	}
	return b
}

// write opens with flags and writes at a random place; big makes it megabytes away.
func (v *vandal) write(flags int, big bool) {
	f, err := os.OpenFile(v.path(), flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return
	}
	if flags&os.O_APPEND != 0 {
		_, _ = f.Write(v.bytes(5000))
		return
	}
	at := v.rnd.Int64N(200 << 10)
	if big {
		at = v.rnd.Int64N(40 << 20)
	}
	_, _ = f.WriteAt(v.bytes(100<<10), at)
	if big && v.rnd.IntN(2) == 0 {
		_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, v.rnd.Int64N(1<<20), 1+v.rnd.Int64N(1<<20))
	}
}

// step makes one change.
func (v *vandal) step() {
	p := v.path()
	switch v.rnd.IntN(24) {
	case 0, 1, 2:
		v.write(os.O_WRONLY|os.O_CREATE, false)
	case 3:
		v.write(os.O_WRONLY|os.O_CREATE|os.O_TRUNC, false)
	case 4, 5:
		v.write(os.O_WRONLY|os.O_CREATE|os.O_APPEND, false)
	case 6:
		v.write(os.O_WRONLY|os.O_CREATE, true)
	case 7:
		if st, err := os.Lstat(p); err == nil && st.Mode().IsRegular() {
			_ = os.Truncate(p, v.rnd.Int64N(300<<10))
		}
	case 8, 9:
		_ = os.Rename(p, v.path())
	case 10:
		_ = unix.Renameat2(unix.AT_FDCWD, p, unix.AT_FDCWD, v.path(), unix.RENAME_EXCHANGE)
	case 11, 12:
		_ = os.Link(p, v.path())
	case 13:
		_ = os.Remove(p)
	case 14:
		_ = removeTree(p)
	case 15, 16, 17:
		_ = os.Mkdir(p, 0o700|os.FileMode(v.rnd.IntN(64)))
	case 18:
		// What a container does to hide an image's directory.
		if removeTree(p) == nil {
			_ = os.Mkdir(p, 0o755)
		}
	case 19:
		if st, err := os.Lstat(p); err == nil && st.Mode()&os.ModeSymlink == 0 {
			_ = unix.Chmod(p, v.rnd.Uint32()&0o7777)
		}
	case 20:
		_ = os.Lchown(p, v.rnd.IntN(5), v.rnd.IntN(5))
	case 21:
		name := []string{"user.x", "trusted.y", "user.z"}[v.rnd.IntN(3)]
		if v.rnd.IntN(2) == 0 {
			_ = unix.Lsetxattr(p, name, v.bytes(40), 0)
		} else {
			_ = unix.Lremovexattr(p, name)
		}
	case 22:
		typ := []uint32{unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR}[v.rnd.IntN(3)]
		_ = unix.Mknod(p, typ|0o644, int(unix.Mkdev(1, 3+uint32(v.rnd.IntN(5)))))
	case 23:
		if v.rnd.IntN(2) == 0 {
			_ = os.Symlink([]string{"a", "../b", "/etc/passwd", "c/d"}[v.rnd.IntN(4)], p)
		} else {
			_ = lutimes(p, time.Unix(v.rnd.Int64N(1<<31), v.rnd.Int64N(1e9)))
		}
	}
}

// removeTree is os.RemoveAll that does not wait for a writer where a fifo took a directory's name.
func removeTree(p string) error {
	err := unix.Unlink(p)
	if err != unix.EISDIR {
		return err
	}
	fd, err := unix.Open(p, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	names, err := readNames(fd, make([]byte, 4096))
	_ = unix.Close(fd)
	for _, n := range names {
		_ = removeTree(filepath.Join(p, n))
	}
	return errors.Join(err, unix.Rmdir(p))
}

// duringSync runs vandals while Syncs run, with no pause between.
func duringSync(c *copier, seed uint64, syncs int) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for n := range 2 {
		v := newVandal(c.from, seed, uint64(100+n))
		wg.Go(func() {
			for ctx.Err() == nil {
				v.step()
			}
		})
	}
	defer wg.Wait()
	defer cancel()
	for range syncs {
		c.sync()
	}
}

// randomLower has the vandal's names, for it to hide, with hard links and everything.
func randomLower(t *testing.T, seed uint64) string {
	lower := t.TempDir()
	v := newVandal(lower, seed, 1)
	for range 150 {
		v.step()
	}
	return lower
}

func TestRandomChangesArrive(t *testing.T) {
	runs := uint64(30)
	if testing.Short() {
		runs = 5
	}
	base := uint64(time.Now().UnixNano())
	for i := range runs {
		seed := base + i
		for _, kind := range []Kind{Upper, Plain} {
			t.Run(fmt.Sprintf("%v %d", map[Kind]string{Upper: "overlay", Plain: "plain"}[kind], seed), func(t *testing.T) {
				c := randomCopier(t, kind, seed)
				v := newVandal(c.from, seed, 2)
				for range 40 {
					v.step()
				}
				for range 3 {
					duringSync(c, seed, 3)
					for range v.rnd.IntN(60) {
						v.step()
					}
					// With nobody writing, a Sync is as good as a frozen one.
					c.sync()
					c.equal()
				}
				duringSync(c, seed, 2)
				c.frozen()
				c.equal()
				c.noLeftovers()
				modelHolds(t, c.src)
			})
		}
	}
}

func randomCopier(t *testing.T, kind Kind, seed uint64) *copier {
	if kind == Plain {
		return plainCopier(t, Options{})
	}
	return overlayCopier(t, randomLower(t, seed), Options{})
}

// noLeftovers looks for names that a move left in the destination's root.
func (c *copier) noLeftovers() {
	c.t.Helper()
	names, err := sortedNames(c.to)
	must(c.t, err)
	for _, n := range names {
		if strings.HasPrefix(n, ".godwit-") {
			c.t.Errorf("%s is left", n)
		}
	}
}

// modelHolds checks that the Source's memory is of one piece: every name in the tree is a location of its object, every
// object has names, and the hashes counted are those that are there.
func modelHolds(t *testing.T, s *Source) {
	t.Helper()
	names, seen, hashes := map[*object]int{}, map[*object]bool{}, int64(0)
	var walk func(d *object)
	walk = func(d *object) {
		for _, c := range d.children {
			switch o := c.obj; {
			case o == whiteout:
			case o.isDir():
				if o.parent != d || o.name != c.name || !o.made {
					t.Errorf("directory %s is not where its name is", o.path())
				}
				walk(o)
			default:
				if !o.has(location{d, c.name}) {
					t.Errorf("%s is no location of its object", join(d.path(), c.name))
				}
				names[o]++
				if !seen[o] {
					seen[o] = true
					hashes += o.content.size()
				}
				if o.seen.changed != nil || o.seen.queued || o.seen.gained != 0 || o.seen.parked {
					t.Errorf("%s: traces of a sync", join(d.path(), c.name))
				}
			}
		}
	}
	walk(s.root)
	for o, n := range names {
		if n != len(o.locs) {
			t.Errorf("object %v has %d names and %d locations", o.id, n, len(o.locs))
		}
	}
	for id, o := range s.byID {
		if names[o] == 0 {
			t.Errorf("object %v has no name", id)
		}
	}
	if used := s.hashes.used.Load(); used != hashes {
		t.Errorf("%d bytes of hashes counted, %d there", used, hashes)
	}
}
