package lazy

import (
	"bytes"
	"context"
	"encoding/binary"
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

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/pagestream/store"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
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

// base is where testdata/restored.c has the memory of a process.
func base(number int) uint64 { return 0x10000000000 + uint64(number)<<36 }

func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func appendContent(b []byte, addr uint64) []byte {
	for i := uint64(0); i < pageSize; i += 8 {
		b = binary.LittleEndian.AppendUint64(b, mix(addr+i))
	}
	return b
}

// What restored.c expects of a page, by its number: not in the images, in them as
// zero, or with content, which for some pages is in CRIU's own pages file.
func absent(n uint64) bool  { return n%11 == 5 }
func zero(n uint64) bool    { return n%7 == 3 || n/64%5 == 2 }
func present(n uint64) bool { return n/256%7 == 6 }

// sealedStore makes the store and images of processes with so many pages each.
func sealedStore(t testing.TB, processes, pages int, plain bool) string {
	t.Helper()
	s, err := store.Create(filepath.Join(t.TempDir(), "store"), store.Options{Limit: 64<<20 + 2*int64(processes*pages)*pageSize})
	if errors.Is(err, unix.EPERM) {
		t.Skip("no right to mount:", err)
	}
	must(t, err)
	t.Cleanup(func() { must(t, s.Remove()) })
	r := rand.New(rand.NewPCG(1, uint64(pages)))
	for number := 1; number <= processes; number++ {
		fillStore(t, s, r, number, pages, plain)
	}
	must(t, s.Seal())
	return s.Dir()
}

func fillStore(t testing.TB, s *store.Store, r *rand.Rand, number, pages int, plain bool) {
	sp := pagestream.Space{Kind: pagestream.Process, ID: uint64(number)}
	var entries []images.Entry
	var own []byte
	type frame struct {
		at   uint64
		data []byte
	}
	var frames []frame
	for i := range uint64(pages) {
		at := base(number) + i*pageSize
		n := at / pageSize
		e := images.Entry{Vaddr: at, Pages: 1, Flags: images.Lazy}
		switch {
		case plain:
			if i%64 == 0 {
				must(t, s.Pages(sp, at, plainFrame))
			}
		case absent(n):
			continue
		case present(n):
			e.Flags |= images.Present
			if zero(n) {
				own = append(own, make([]byte, pageSize)...)
			} else {
				own = appendContent(own, at)
			}
		case zero(n):
			must(t, s.Zero(sp, at, 1))
		default:
			if k := len(frames) - 1; k >= 0 && frames[k].at+uint64(len(frames[k].data)) == at && r.IntN(10) > 0 {
				frames[k].data = appendContent(frames[k].data, at)
			} else {
				frames = append(frames, frame{at, appendContent(nil, at)})
			}
		}
		if k := len(entries) - 1; k >= 0 && entries[k].End() == at && entries[k].Flags == e.Flags {
			entries[k].Pages++
		} else {
			entries = append(entries, e)
		}
	}
	// Rounds bring pages out of order.
	r.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
	for _, f := range frames {
		must(t, s.Pages(sp, f.at, f.data))
	}
	writeImages(t, s.ImagesDir(0), number, entries, own)
}

// plainFrame is content for benchmarks, which only have to move it.
var plainFrame = bytes.Repeat([]byte("incompressible.."), 64*pageSize/16)

func writeImages(t testing.TB, dir string, number int, entries []images.Entry, own []byte, wiped ...uint64) {
	t.Helper()
	var b bytes.Buffer
	must(t, images.WritePagemap(&b, images.PagesID(number), entries))
	must(t, os.WriteFile(images.PagemapPath(dir, uint64(number)), b.Bytes(), 0o600))
	must(t, os.WriteFile(images.PagesPath(dir, images.PagesID(number)), own, 0o600))
	var mm []byte
	for i := 0; i < len(wiped); i += 2 {
		var v []byte
		for _, f := range []struct {
			num protowire.Number
			v   uint64
		}{{1, wiped[i]}, {2, wiped[i+1]}, {5, 3}, {6, 0x22}, {7, 0x201}, {9, 1 << 18}} {
			v = protowire.AppendVarint(protowire.AppendTag(v, f.num, protowire.VarintType), f.v)
		}
		mm = protowire.AppendBytes(protowire.AppendTag(mm, 14, protowire.BytesType), v)
	}
	img := binary.LittleEndian.AppendUint32(nil, 0x54564319)
	img = binary.LittleEndian.AppendUint32(img, 0x57492820)
	img = append(binary.LittleEndian.AppendUint32(img, uint32(len(mm))), mm...)
	must(t, os.WriteFile(images.MMPath(dir, uint64(number)), img, 0o600))
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
