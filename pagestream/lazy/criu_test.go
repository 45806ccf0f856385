package lazy

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/pagestream/store"
	"godwit.dev/godwit/test/criunode"
	"golang.org/x/sys/unix"
)

// node is a machine for CRIU.
type node struct{ *criunode.Node }

// newNode makes a node with the program in which dir is seen as /shared, or skips the test.
func newNode(t *testing.T, dir, program string) *node {
	t.Helper()
	made, err := criunode.New(dir)
	if errors.Is(err, criunode.ErrUnavailable) {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() { must(t, made.Close()) })
	n := &node{made}
	b, err := os.ReadFile(program)
	must(t, err)
	must(t, os.WriteFile(n.Path("/tmp/dumped"), b, 0o755))
	if out, err := n.run("criu", "check", "--feature", "uffd-noncoop"); err != nil {
		t.Skipf("criu cannot restore lazily here: %v: %s", err, out)
	}
	return n
}

// run runs a program in the node.
func (n *node) run(args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	return n.Command(ctx, args...).CombinedOutput()
}

// dump has CRIU dump the program eagerly into images, and kill it. It returns the pids.
func (n *node) dump(t *testing.T) (pids []string) {
	t.Helper()
	if out, err := n.run("bash", "-c", "setsid /tmp/dumped /tmp/out 96 </dev/null >/dev/null 2>&1 &"); err != nil {
		t.Fatalf("start: %v: %s", err, out)
	}
	must(t, n.Await(t.Context(), "/tmp/out", "process 0 is ready", "process 1 is ready"))
	out, err := n.run("pgrep", "-x", "dumped")
	must(t, err)
	pids = strings.Fields(string(out))
	if out, err := n.run("criu", "dump", "-t", pids[0], "-D", "/shared/images/0", "-o", "dump.log", "-v4"); err != nil {
		log, _ := os.ReadFile(n.Path("/shared/images/0/dump.log"))
		t.Fatalf("dump: %v: %s\n%s", err, out, tail(log))
	}
	// CRIU has killed them, and wants their pids back: the node's first process has to have reaped them.
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if out, err := n.run("pgrep", "-x", "dumped"); err != nil && len(out) == 0 {
			return pids
		} else if time.Now().After(end) {
			t.Fatalf("dumped, and still there: %s", out)
		}
	}
}

func tail(b []byte) []byte { return b[max(0, len(b)-3000):] }

// lazyPages counts them in CRIU's images.
func lazyPages(t *testing.T, s *store.Store) (pages uint64) {
	t.Helper()
	maps, err := images.ListPagemaps(s.ImagesDir(0))
	must(t, err)
	for _, l := range maps {
		_, entries, err := images.ReadPagemapFile(l.Path)
		must(t, err)
		for _, e := range entries {
			if e.Lazy() {
				pages += e.Pages
			}
		}
	}
	return pages
}

// takePages moves the lazy pages out of CRIU's images into the store, which is how a
// lazy dump and pages sent ahead would have left both.
func takePages(t *testing.T, s *store.Store) {
	t.Helper()
	dir := s.ImagesDir(0)
	maps, err := images.ListPagemaps(dir)
	must(t, err)
	for _, l := range maps {
		id, entries, err := images.ReadPagemapFile(l.Path)
		must(t, err)
		pages, err := os.ReadFile(images.PagesPath(dir, id))
		must(t, err)
		var rest []byte
		for i, e := range entries {
			data := pages[:e.Range().Bytes()]
			pages = pages[len(data):]
			if !e.Lazy() {
				rest = append(rest, data...)
				continue
			}
			entries[i].Flags = images.Lazy
			sp := pagestream.Space{Kind: pagestream.Process, ID: l.ID}
			must(t, s.Pages(sp, e.Vaddr, data))
		}
		var b bytes.Buffer
		must(t, images.WritePagemap(&b, id, entries))
		must(t, os.WriteFile(l.Path, b.Bytes(), 0o600))
		must(t, os.WriteFile(images.PagesPath(dir, id), rest, 0o600))
	}
}

// dumpedStore is a store with what CRIU has dumped in a node.
func dumpedStore(t *testing.T) (*store.Store, *node, []string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "dumped")
	if out, err := exec.Command("cc", "-O2", "-static", "-pthread", "-o", program, "testdata/dumped.c").CombinedOutput(); err != nil {
		t.Skipf("no C compiler: %v: %s", err, out)
	}
	s, err := store.Create(filepath.Join(t.TempDir(), "store"), store.Options{Limit: 1 << 30})
	if errors.Is(err, unix.EPERM) {
		t.Skip("no right to mount:", err)
	}
	must(t, err)
	t.Cleanup(func() { must(t, s.Remove()) })
	s.ImagesDir(0)
	n := newNode(t, s.Dir(), program)
	return s, n, n.dump(t)
}

// verify has both processes look at all of their memory, for the first or another time.
func (n *node) verify(t *testing.T, pids []string, times int) {
	t.Helper()
	if out, err := n.run(append([]string{"kill", "-USR1"}, pids...)...); err != nil {
		t.Fatalf("the processes are gone: %v: %s", err, out)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		b, _ := os.ReadFile(n.Path("/tmp/out"))
		if bytes.Contains(b, []byte("wrong")) || time.Now().After(end) {
			t.Fatalf("the processes say:\n%s", b)
		}
		if bytes.Count(b, []byte("process 0 is right")) >= times && bytes.Count(b, []byte("process 1 is right")) >= times {
			return
		}
	}
}

func TestCRIURestoresLazilyFromTheStore(t *testing.T) {
	for _, c := range []struct {
		name string
		take bool // pages are in the store, else in CRIU's own images
		kill bool
		rate uint64
	}{
		{"pages in the store", true, false, 0},
		{"pages in CRIU's images", false, false, 0},
		{"servers are killed", true, true, 100e6},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, n, pids := dumpedStore(t)
			if pages := lazyPages(t, s); pages < 30000 {
				log, _ := os.ReadFile(filepath.Join(s.ImagesDir(0), "dump.log"))
				t.Fatalf("only %d lazy pages\n%s", pages, tail(log))
			}
			if c.take {
				takePages(t, s)
			}
			missing, err := s.Complete(0)
			must(t, err)
			if len(missing) > 0 {
				t.Fatalf("missing: %v", missing)
			}
			must(t, s.Seal())
			work := filepath.Join(s.Dir(), "work")
			must(t, os.Mkdir(work, 0o700))
			l := newLab(t, s.Dir(), false)
			l.listener.Close()
			l.rate = c.rate
			l.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(work, SocketName), Net: "unix"})
			must(t, err)
			l.keeper.cfg.Listener = l.listener
			kept := make(chan error, 1)
			l.keeper.Release()
			go func() { kept <- l.keeper.Run(t.Context()) }()
			start := time.Now()
			out, err := n.run("criu", "restore", "--lazy-pages", "-d", "-D", "/shared/images/0", "-W", "/shared/work", "-o", "restore.log", "-v4")
			if err != nil {
				log, _ := os.ReadFile(filepath.Join(work, "restore.log"))
				t.Fatalf("restore: %v: %s\n%s", err, out, tail(log))
			}
			t.Logf("restored in %v", time.Since(start))
			if c.kill {
				for range 5 {
					time.Sleep(60 * time.Millisecond)
					l.kill()
				}
			}
			n.verify(t, pids, 1)
			must(t, <-kept)
			n.verify(t, pids, 2)
			p := l.keeper.Progress()
			if p.Filled != p.Total || p.Total < 30000 || p.Lost != 0 || c.kill != (p.Restarts > 0) {
				t.Errorf("progress %+v", p)
			}
			t.Logf("%+v", p)
		})
	}
}

func TestCRIURestoresEagerlyFromFlattenedImages(t *testing.T) {
	s, n, pids := dumpedStore(t)
	takePages(t, s)
	must(t, s.Flatten(0, true))
	if out, err := n.run("criu", "restore", "-d", "-D", "/shared/images/0", "-o", "restore.log", "-v4"); err != nil {
		log, _ := os.ReadFile(n.Path("/shared/images/0/restore.log"))
		t.Fatalf("restore: %v: %s\n%s", err, out, tail(log))
	}
	n.verify(t, pids, 1)
}
