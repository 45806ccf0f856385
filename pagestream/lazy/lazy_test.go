package lazy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream/store"
	"golang.org/x/sys/unix"
)

// TestMain runs a server instead of the tests in the processes that tests start.
func TestMain(m *testing.M) {
	if dir := os.Getenv("LAZY_TEST_STORE"); dir != "" {
		if err := serveProcess(dir, os.Getenv("LAZY_TEST_JOURNAL")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if compiled != "" {
		os.RemoveAll(compiled)
	}
	os.Exit(code)
}

func serveProcess(dir, journal string) error {
	conn, err := ServerConn(3)
	if err != nil {
		return err
	}
	server, err := Stand(conn, true)
	if err != nil {
		return err
	}
	defer server.Close()
	if err := server.Expect(journal); err != nil {
		return err
	}
	r, err := store.OpenSealed(dir)
	if err != nil {
		return err
	}
	defer r.Close()
	rate, err := strconv.ParseUint(os.Getenv("LAZY_TEST_RATE"), 10, 64)
	if err != nil {
		return err
	}
	remote, err := fetchAt(os.Getenv("LAZY_TEST_FETCH"))
	if err != nil {
		return err
	}
	return server.Serve(context.Background(), Config{Reader: r, Journal: journal, Rate: rate, Remote: remote, Log: slog.Default()})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// compiled is the directory that compile has made.
var compiled string

var compile = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "lazy-test-")
	if err != nil {
		return "", err
	}
	compiled = dir
	path := filepath.Join(dir, "restored")
	out, err := exec.Command("cc", "-O2", "-Wall", "-Werror", "-pthread", "-o", path, "testdata/restored.c").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// lab is a restore under way: the program that plays CRIU and processes, a keeper, and
// servers as processes of their own or, inside, as goroutines.
type lab struct {
	dir, journal, socket string
	listener             *net.UnixListener
	keeper               *Keeper
	inside               bool
	rate                 uint64
	fetch                string       // where the source is awaited; empty if it has no pages
	out                  bytes.Buffer // what the processes print
	breakOff             bool         // when the processes have ended
	unreleased           bool         // nobody says that the container runs

	// mu guards server and cmd.
	mu     sync.Mutex
	server Process
	cmd    *exec.Cmd // of the last server that was a process
}

func newLab(t testing.TB, dir string, inside bool) *lab {
	t.Helper()
	if err := Probe(); err != nil {
		t.Skip(err)
	}
	// On the store's tmpfs, as in life.
	l := &lab{dir: dir, journal: filepath.Join(dir, "journal"), socket: filepath.Join(t.TempDir(), SocketName), inside: inside}
	var err error
	l.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: l.socket, Net: "unix"})
	must(t, err)
	t.Cleanup(func() { l.listener.Close() })
	l.keeper = NewKeeper(KeeperConfig{Listener: l.listener, Start: l.start, Log: slog.New(slog.DiscardHandler), Restarts: 1000})
	t.Cleanup(func() { must(t, l.keeper.Close()) })
	return l
}

func (l *lab) start(conn *os.File) (Process, error) {
	p, err := l.launch(conn)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.server = p
	return p, err
}

func (l *lab) launch(conn *os.File) (Process, error) {
	if !l.inside {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "LAZY_TEST_STORE="+l.dir, "LAZY_TEST_JOURNAL="+l.journal, "LAZY_TEST_RATE="+strconv.FormatUint(l.rate, 10),
			"LAZY_TEST_FETCH="+l.fetch)
		cmd.Stderr = os.Stderr
		l.mu.Lock()
		l.cmd = cmd
		l.mu.Unlock()
		return StartCommand(cmd, conn)
	}
	fd, err := unix.FcntlInt(conn.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	c, err := ServerConn(fd)
	if err != nil {
		return nil, err
	}
	r, err := store.OpenSealed(l.dir)
	if err != nil {
		return nil, err
	}
	remote, err := fetchAt(l.fetch)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &goroutine{cancel, make(chan error, 1)}
	go func() {
		err := Serve(ctx, Config{Keeper: c, Reader: r, Journal: l.journal, Rate: l.rate, Remote: remote, Log: slog.Default()})
		p.done <- errors.Join(err, r.Close())
	}()
	return p, nil
}

type goroutine struct {
	cancel func()
	done   chan error
}

func (g *goroutine) Kill() error { g.cancel(); return nil }

func (g *goroutine) Wait() error { return <-g.done }

// kill has the server at work die.
func (l *lab) kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.server != nil {
		l.server.Kill()
	}
}

// run restores processes and returns how the keeper ended, after checking that the
// processes found all they should.
func (l *lab) run(t testing.TB, processes, pages, threads, operations int, seed uint64) error {
	t.Helper()
	path, err := compile()
	if err != nil {
		t.Skip("no C compiler:", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if !l.unreleased {
		l.keeper.Release()
	}
	kept := make(chan error, 1)
	go func() { kept <- l.keeper.Run(ctx) }()
	cmd := exec.CommandContext(ctx, path, l.socket, strconv.Itoa(processes), strconv.Itoa(pages), strconv.Itoa(threads),
		strconv.Itoa(operations), strconv.FormatUint(seed, 10))
	cmd.Stderr = os.Stderr
	cmd.Stdout = &l.out
	if threads == 0 {
		in, err := cmd.StdinPipe()
		must(t, err)
		defer in.Close()
		must(t, cmd.Start())
		return <-kept
	}
	if err := cmd.Run(); err != nil {
		t.Errorf("restored processes: %v (progress %+v)", err, l.keeper.Progress())
		cancel()
	}
	if l.breakOff {
		cancel()
	}
	return <-kept
}

func TestMemoryIsAsInTheImagesWhateverTheProcessesDo(t *testing.T) {
	for _, c := range []struct {
		name                                  string
		processes, pages, threads, operations int
		rate                                  uint64
		inside                                bool
	}{
		{"one thread reads on", 1, 8000, 1, 0, 0, false},
		{"many threads fault at once", 1, 8000, 16, 0, 0, false},
		{"one thread forks, moves and unmaps", 1, 3000, 1, 1500, 0, true},
		{"threads of several processes do", 3, 3000, 4, 400, 0, false},
		{"they do before much is filled in", 3, 3000, 4, 400, 20e6, true},
		{"they do before hardly anything is", 2, 3000, 2, 300, 2e6, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, sealedStore(t, c.processes, c.pages, false), c.inside)
			l.rate = c.rate
			must(t, l.run(t, c.processes, c.pages, c.threads, c.operations, uint64(time.Now().UnixNano())))
			p := l.keeper.Progress()
			if p.Filled != p.Total || p.Total == 0 || p.Faults == 0 || p.Memories != 0 || p.Lost != 0 || p.Restarts != 0 {
				t.Fatalf("progress %+v", p)
			}
			if _, err := os.Lstat(l.journal); !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("the journal is still there: %v", err)
			}
			t.Logf("%+v", p)
		})
	}
}

func TestMemoryIsAsInTheImagesAlthoughServersAreKilled(t *testing.T) {
	for _, rate := range []uint64{5e6, 20e6, 100e6, 0} {
		t.Run(fmt.Sprint("rate ", rate), func(t *testing.T) {
			l := newLab(t, sealedStore(t, 2, 4000, false), false)
			l.rate = rate
			_, _ = compile() // before the clock runs
			stop := make(chan struct{})
			var killer sync.WaitGroup
			killer.Go(func() {
				for range 20 {
					select {
					case <-stop:
						return
					case <-time.After(time.Duration(1+rand.IntN(60)) * time.Millisecond):
						l.kill()
					}
				}
			})
			err := l.run(t, 2, 4000, 3, 400, uint64(time.Now().UnixNano()))
			close(stop)
			killer.Wait()
			must(t, err)
			p := l.keeper.Progress()
			if p.Restarts == 0 && rate > 0 {
				t.Fatal("no server was killed in time")
			}
			t.Logf("%+v", p)
		})
	}
}
