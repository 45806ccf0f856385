package pageserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/test/criunode"
)

// newNode makes a machine for CRIU with a program to dump, or skips the test.
func newNode(t testing.TB, megabytes int) (n *criunode.Node, dir string, pid int) {
	t.Helper()
	dir = t.TempDir()
	n, err := criunode.New(dir)
	if errors.Is(err, criunode.ErrUnavailable) {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() { must(t, n.Close()) })
	pid, err = n.StartMemory(t.Context(), megabytes)
	if errors.Is(err, criunode.ErrUnavailable) {
		t.Skip(err)
	}
	must(t, err)
	return n, dir, pid
}

// dumpImages has criu dump the program into a new directory, and lets it run on.
// client, if not nil, is the descriptor 3 of criu, and closed.
func dumpImages(t testing.TB, n *criunode.Node, dir string, pid int, client *os.File, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	into, err := os.MkdirTemp(dir, "images")
	must(t, err)
	cmd := n.Command(ctx, append([]string{"criu", "dump", "-R", "-t", strconv.Itoa(pid),
		"-D", "/shared/" + filepath.Base(into), "-o", "dump.log", "-v4"}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if client != nil {
		cmd.ExtraFiles = []*os.File{client}
		defer client.Close()
	}
	if err := cmd.Start(); err != nil {
		return into, err
	}
	if client != nil {
		client.Close() // or the death of criu would not be seen
	}
	if err := cmd.Wait(); err != nil {
		var failed *exec.ExitError
		if !errors.As(err, &failed) {
			return into, err
		}
		log, _ := os.ReadFile(filepath.Join(into, "dump.log"))
		return into, fmt.Errorf("criu: %w: %s\n%s", err, out.Bytes(), log[max(0, len(log)-3000):])
	}
	return into, nil
}

// transport connects a criu in a node with a Serve here.
type transport struct {
	name string
	// dial returns what waits for criu to connect, until it is told that criu has
	// ended, the client's descriptor or nil, and the arguments that tell criu of it.
	dial func(t *testing.T, n *criunode.Node) (accept func() (net.Conn, error), ended func() error, client *os.File, args []string)
}

var transports = []transport{
	{"packet pair", overPair(Pair)},
	{"stream pair", overPair(StreamPair)},
	{"tcp", func(t *testing.T, n *criunode.Node) (func() (net.Conn, error), func() error, *os.File, []string) {
		l := listenIn(t, n)
		port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
		return l.Accept, l.Close, nil, []string{"--page-server", "--address", "127.0.0.1", "--port", port}
	}},
}

func overPair(pair func() (net.Conn, *os.File, error)) func(*testing.T, *criunode.Node) (func() (net.Conn, error), func() error, *os.File, []string) {
	return func(t *testing.T, _ *criunode.Node) (func() (net.Conn, error), func() error, *os.File, []string) {
		conn, client, err := pair()
		must(t, err)
		return func() (net.Conn, error) { return conn, nil }, func() error { return nil }, client, []string{"--page-server", "--ps-socket", "3"}
	}
}

// listenIn listens on the loopback of a node.
func listenIn(t *testing.T, n *criunode.Node) net.Listener {
	t.Helper()
	ns, err := os.Open(n.Path("/proc/1/ns/net"))
	must(t, err)
	defer ns.Close()
	type result struct {
		l   net.Listener
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and the thread ends with the goroutine
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{nil, err}
			return
		}
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		done <- result{l, err}
	}()
	r := <-done
	must(t, r.err)
	t.Cleanup(func() { r.l.Close() })
	return r.l
}

// served runs a dump through a transport into Serve.
func served(t *testing.T, tr transport, n *criunode.Node, dir string, pid int, c Config) (*Round, error, error) {
	t.Helper()
	accept, ended, client, args := tr.dial(t, n)
	type result struct {
		r   *Round
		err error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := accept()
		if err != nil {
			done <- result{nil, err}
			return
		}
		r, err := Serve(t.Context(), conn, c)
		done <- result{r, err}
	}()
	_, criu := dumpImages(t, n, dir, pid, client, args...)
	must(t, ended())
	got := <-done
	return got.r, got.err, criu
}

func TestADumpOfARealTreeIsItsFrozenMemory(t *testing.T) {
	n, dir, pid := newNode(t, 24)
	plain, err := dumpImages(t, n, dir, pid, nil)
	must(t, err)
	want := recordedRound{File: "a dump", Spaces: recordedSpaces(t, plain)}
	if len(want.Spaces) < 5 {
		t.Fatalf("only %d spaces", len(want.Spaces))
	}
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			s := newSink()
			frozen := 0
			r, err, criu := served(t, tr, n, dir, pid, Config{Out: s.streams(2),
				Flush: func(context.Context) error { return nil },
				Veto: func(r *Round) error {
					frozen = compareFrozen(t, n, r, s)
					return nil
				}})
			must(t, err)
			must(t, criu)
			compare(t, want, r, s)
			if frozen < 2*24<<8*9/10 {
				t.Errorf("only %d pages compared", frozen)
			}
			t.Logf("%+v, %d pages compared with frozen memory", r.Stats, frozen)
		})
	}
}

// compareFrozen compares every page of every process with its memory while criu
// waits for the answer to its CLOSE.
func compareFrozen(t *testing.T, n *criunode.Node, r *Round, s *sink) (pages int) {
	t.Helper()
	exists := func(e images.Entry) bool { return e.Present() || e.InParent() }
	t.Helper()
	pids, err := n.PIDs(criunode.MemoryName)
	if len(pids) != 2 {
		t.Errorf("processes %v, %v", pids, err)
	}
	for pid, inside := range pids {
		mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
		if err != nil {
			t.Error(err)
			return pages
		}
		defer mem.Close()
		space := process(uint64(inside))
		for _, p := range chosen(r.Map[space], exists) {
			want := make([]byte, p.Bytes())
			if _, err := mem.ReadAt(want, int64(p.Start)); err != nil {
				t.Error(err)
				return pages
			}
			got := s.content(space, p)
			for at := 0; at < len(want); at += pagestream.PageSize {
				if !bytes.Equal(got[at:at+pagestream.PageSize], want[at:at+pagestream.PageSize]) {
					t.Errorf("space %s: page %#x differs from the frozen one", space, p.Start+uint64(at))
				}
			}
			pages += int(p.Pages)
		}
	}
	return pages
}

// Rounds as a migration has them, in both of CRIU's ways to read memory.
func TestRoundsOfARealTreeAddUpToItsFrozenMemory(t *testing.T) {
	for _, mode := range []string{"splice", "read"} {
		t.Run(mode, func(t *testing.T) {
			n, dir, pid := newNode(t, 8)
			if !n.HasSoftDirty(t.Context(), "criu") {
				t.Skip("the kernel has no soft-dirty bits")
			}
			s, x := newSink(), newIndex(t)
			c := Config{Out: s.streams(2), Index: x, Flush: func(context.Context) error { return nil }}
			var sent []uint64
			for i, args := range [][]string{
				{"pre-dump", "--track-mem", "--pre-dump-mode", mode},
				{"pre-dump", "--track-mem", "--pre-dump-mode", mode},
				{"dump", "-R", "--track-mem"},
			} {
				if i > 0 {
					must(t, n.Write(t.Context(), pid, i))
				}
				if i == 2 {
					must(t, n.GiveUp(t.Context(), pid))
					c.Veto = func(r *Round) error {
						if pages := compareFrozen(t, n, r, s); pages < 8<<8 {
							t.Errorf("only %d pages compared", pages)
						}
						return nil
					}
				}
				r := round(t, n, dir, pid, i, c, args)
				gone, err := x.Commit(r)
				must(t, err)
				s.drop(gone)
				sent = append(sent, r.Sent)
				t.Logf("%+v", r.Stats)
			}
			if sent[1]*4 > sent[0] || sent[1] == 0 {
				t.Errorf("pages sent %v: what is clean was sent again", sent)
			}
		})
	}
}

// round runs criu with images of its own for each round, each the next one's
// parent.
func round(t *testing.T, n *criunode.Node, dir string, pid, number int, c Config, args []string) *Round {
	t.Helper()
	conn, client, err := Pair()
	must(t, err)
	into := fmt.Sprintf("round-%d", number)
	must(t, os.Mkdir(filepath.Join(dir, into), 0o700))
	args = append(append([]string{"criu"}, args...), "-t", strconv.Itoa(pid), "-D", "/shared/"+into, "-o", "log", "-v4", "--page-server", "--ps-socket", "3")
	if number > 0 {
		args = append(args, "--prev-images-dir", fmt.Sprintf("../round-%d", number-1))
	}
	cmd := n.Command(t.Context(), args...)
	cmd.ExtraFiles = []*os.File{client}
	must(t, cmd.Start())
	must(t, client.Close())
	r, err := Serve(t.Context(), conn, c)
	if failed := cmd.Wait(); failed != nil {
		log, _ := os.ReadFile(filepath.Join(dir, into, "log"))
		t.Fatalf("criu: %v: %s", failed, log[max(0, len(log)-3000):])
	}
	must(t, err)
	return r
}

func TestAVetoFailsCRIUAndTheTreeRunsOn(t *testing.T) {
	n, dir, pid := newNode(t, 1)
	no := errors.New("the destination has gone")
	for _, tr := range transports {
		x := newIndex(t)
		_, err, criu := served(t, tr, n, dir, pid, Config{Out: newSink().streams(1), Index: x, Veto: func(*Round) error { return no }})
		var failed *exec.ExitError
		if !errors.Is(err, no) || !errors.As(criu, &failed) {
			t.Errorf("%s: Serve says %v, criu says %v", tr.name, err, criu)
		}
	}
	must(t, n.GiveUp(t.Context(), pid)) // it does what it is told
}

// So it is not Serve that may commit a round.
func TestACRIUThatFailsClosesLikeOneThatDoesNot(t *testing.T) {
	n, dir, pid := newNode(t, 1)
	x := newIndex(t)
	r, err, criu := served(t, transports[0], n, dir, pid, Config{Out: newSink().streams(1), Index: x})
	must(t, errors.Join(err, criu))
	_, err = x.Commit(r)
	must(t, err)
	// There is a parent, but criu is given no images of it, and refuses.
	r, err, criu = served(t, transports[0], n, dir, pid, Config{Out: newSink().streams(1), Index: x})
	var failed *exec.ExitError
	if err != nil || !errors.As(criu, &failed) {
		t.Errorf("Serve says %v, criu says %v", err, criu)
	}
	if r.Present == 0 {
		t.Errorf("%+v", r.Stats) // shared memory comes first
	}
	x.Fail()
	_, err, criu = served(t, transports[0], n, dir, pid, Config{Out: newSink().streams(1), Index: x})
	must(t, errors.Join(err, criu))
}

func TestADeadCRIUIsOneErrorAndTheTreeRunsOn(t *testing.T) {
	n, dir, pid := newNode(t, 8)
	s := newSink()
	killed := false
	_, err, criu := served(t, transports[0], n, dir, pid, Config{Out: s.streams(1), Progress: func(uint64) {
		if killed {
			return
		}
		killed = true
		found, err := n.PIDs("criu")
		for pid := range found {
			err = errors.Join(err, unix.Kill(pid, unix.SIGKILL))
		}
		if err != nil {
			t.Error(err)
		}
	}})
	if !errors.Is(err, ErrClientGone) || criu == nil {
		t.Errorf("Serve says %v, criu says %v", err, criu)
	}
	must(t, n.GiveUp(t.Context(), pid))
}
