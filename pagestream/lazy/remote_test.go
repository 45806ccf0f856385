package lazy

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/demand"
	"godwit.dev/godwit/pagestream/linklimit"
	"godwit.dev/godwit/pagestream/store"
)

// fetchDeadline is how long the servers of tests wait for a source; none is ever away so long
// but on purpose.
const fetchDeadline = time.Minute

// fetchAt listens for a source; empty: there is none.
func fetchAt(path string) (*Remote, error) {
	if path == "" {
		return nil, nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	return &Remote{Listener: l, Migration: "m", Token: [32]byte{7}, Deadline: deadline()}, nil
}

// deadline is fetchDeadline, unless a test wants none.
func deadline() time.Duration {
	if os.Getenv("LAZY_TEST_IMPATIENT") != "" {
		return time.Millisecond
	}
	return fetchDeadline
}

// leftStore makes the store of processes of which it has many pages not, or not as they are.
func leftStore(t testing.TB, processes, pages int) string {
	t.Helper()
	s, err := store.Create(filepath.Join(t.TempDir(), "store"), store.Options{Limit: 64<<20 + 2*int64(processes*pages)*pageSize})
	if err != nil {
		t.Skip("no store:", err)
	}
	t.Cleanup(func() { must(t, s.Remove()) })
	r := rand.New(rand.NewPCG(2, uint64(pages)))
	garbage := make([]byte, pageSize)
	for i := range garbage {
		garbage[i] = 0xee
	}
	for number := 1; number <= processes; number++ {
		fillStore(t, s, r, number, pages, false)
		sp := pagestream.Space{Kind: pagestream.Process, ID: uint64(number)}
		var left []pagestream.Range
		for i := range uint64(pages) {
			at := base(number) + i*pageSize
			if i/100%3 == 1 || i%13 == 1 {
				must(t, s.Pages(sp, at, garbage)) // of an earlier round
				left = pagestream.AppendRun(left, pagestream.Range{Start: at, Pages: 1})
			}
		}
		must(t, s.Leave(sp, left))
	}
	must(t, s.Seal())
	return s.Dir()
}

// frozen is the memory of the processes where they were frozen.
type frozen struct{}

func (frozen) ReadPages(process uint32, start uint64, buf []byte) error {
	for i := range uint64(len(buf) / pageSize) {
		at := start + i*pageSize
		if n := at / pageSize; zero(n) {
			clear(buf[i*pageSize:][:pageSize])
		} else {
			copy(buf[i*pageSize:], appendContent(nil, at))
		}
	}
	return nil
}

// origin answers at a server's socket until it is asked for nothing more; cut breaks its connection.
type origin struct {
	mu    sync.Mutex
	conn  net.Conn
	ended chan error
	limit *linklimit.Limiter
}

// startOrigin answers, in the background at so many bytes a second; 0 is without a limit.
func startOrigin(t testing.TB, path string, rate int64) *origin {
	ctx, cancel := context.WithCancel(context.Background())
	o := &origin{ended: make(chan error, 1), limit: linklimit.New(rate)}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for ctx.Err() == nil {
			err := o.answer(ctx, path)
			if err == nil {
				o.ended <- nil
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-stopped })
	return o
}

func (o *origin) answer(ctx context.Context, path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	if _, err := conn.Write(demand.Hello{Version: demand.Version, Token: [32]byte{7}, Migration: "m"}.Encode()); err != nil {
		conn.Close()
		return err
	}
	if err := demand.ReadWelcome(conn); err != nil {
		conn.Close()
		return err
	}
	o.mu.Lock()
	o.conn = conn
	o.mu.Unlock()
	return demand.Answering{Memory: frozen{}, Limit: o.limit}.Answer(ctx, conn)
}

func (o *origin) cut() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conn != nil {
		o.conn.Close()
	}
}

func TestPagesLeftAtTheSourceComeFromThereAndNeverFromAnEarlierRound(t *testing.T) {
	for _, c := range []struct {
		name                                  string
		processes, pages, threads, operations int
		rate                                  int64
		inside                                bool
	}{
		{"one thread reads on", 1, 4000, 1, 0, 0, true},
		{"many threads fault at once", 1, 4000, 16, 0, 0, false},
		{"threads of several processes fork, move and unmap", 3, 2000, 4, 300, 0, true},
		{"they do before much has come", 2, 2000, 4, 300, 16 << 20, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, leftStore(t, c.processes, c.pages), c.inside)
			l.fetch = filepath.Join(t.TempDir(), "fetch.sock")
			o := startOrigin(t, l.fetch, c.rate)
			must(t, l.run(t, c.processes, c.pages, c.threads, c.operations, uint64(time.Now().UnixNano())))
			p := l.keeper.Progress()
			if p.Filled != p.Total || p.Missing != 0 || p.Memories != 0 || p.Lost != 0 || p.Restarts != 0 {
				t.Fatalf("progress %+v", p)
			}
			must(t, <-o.ended) // the source knows that it is needed no more
			t.Logf("%+v", p)
		})
	}
}

func TestPagesLeftAtTheSourceComeAlthoughServersAreKilledAndConnectionsCut(t *testing.T) {
	l := newLab(t, leftStore(t, 2, 3000), false)
	l.fetch = filepath.Join(t.TempDir(), "fetch.sock")
	_, _ = compile()
	o := startOrigin(t, l.fetch, 24<<20)
	stop := make(chan struct{})
	var killer sync.WaitGroup
	killer.Go(func() {
		for i := range 20 {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(5+rand.IntN(40)) * time.Millisecond):
				if i%2 == 0 {
					l.kill()
				} else {
					o.cut()
				}
			}
		}
	})
	err := l.run(t, 2, 3000, 3, 300, uint64(time.Now().UnixNano()))
	close(stop)
	killer.Wait()
	must(t, err)
	must(t, <-o.ended)
	t.Logf("%+v", l.keeper.Progress())
}

func TestASourceThatStaysAwayLosesTheMemory(t *testing.T) {
	t.Setenv("LAZY_TEST_IMPATIENT", "yes")
	l := newLab(t, leftStore(t, 1, 500), true)
	l.fetch = filepath.Join(t.TempDir(), "fetch.sock")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := l.keeper.Run(ctx); !errors.Is(err, ErrSourceLost) {
		t.Fatalf("nobody came: %v", err)
	}
}
