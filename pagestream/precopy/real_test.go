package precopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagemap"
	"godwit.dev/godwit/pagestream/track"
	"godwit.dev/godwit/pagestream/wire"
	"godwit.dev/godwit/pagestream/wire/pki"
)

// receiver is the far end of a wire session: a sink, or with nil nothing.
type receiver struct {
	sink *sink
	mu   sync.Mutex
}

func (r *receiver) Pages(space pagestream.Space, vaddr uint64, data []byte) error {
	if r.sink == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for at := 0; at < len(data); at += chunkBytes {
		part := data[at:min(at+chunkBytes, len(data))]
		run := pagestream.Range{Start: vaddr + uint64(at), Pages: uint64(len(part)) / pagestream.PageSize}
		if err := r.sink.store(0, space, []pagestream.Range{run}, part); err != nil {
			return err
		}
	}
	return nil
}

func (r *receiver) Stored(space pagestream.Space, vaddr uint64, data []byte) error {
	if r.sink == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for at := uint64(0); at < uint64(len(data)); at += pagestream.PageSize {
		copy(data[at:], r.sink.page(space, vaddr+at))
	}
	return nil
}

func (r *receiver) Zero(space pagestream.Space, vaddr, pages uint64) error {
	zero := make([]byte, pagestream.PageSize)
	for i := range pages {
		if err := r.Pages(space, vaddr+i*pagestream.PageSize, zero); err != nil {
			return err
		}
	}
	return nil
}

func (r *receiver) Blob(uint32, []byte) error { return nil }
func (r *receiver) Closed(error)              {}

// flushing has the sink told of a session's flushes.
type flushing struct {
	Session
	sink *sink
}

func (f flushing) Flush(ctx context.Context) error {
	if err := f.Session.Flush(ctx); err != nil {
		return err
	}
	return f.sink.Flush(ctx)
}

// dialTest makes a session over TLS on loopback.
func dialTest(tb testing.TB, r wire.Receiver, streams int) *wire.Session {
	tb.Helper()
	dir := tb.TempDir()
	ca := filepath.Join(dir, "ca")
	must(tb, pki.Init(ca))
	credentials := func(node string) *wire.Credentials {
		must(tb, pki.Issue(ca, node, nil, filepath.Join(dir, node)))
		c, err := wire.LoadCredentials(filepath.Join(dir, node))
		must(tb, err)
		return c
	}
	l, err := wire.Listen("127.0.0.1:0", credentials("b"), wire.WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil))))
	must(tb, err)
	served := make(chan error, 1)
	go func() {
		served <- l.Serve(context.Background(), func(wire.Hello, string) (wire.Receiver, error) { return r, nil })
	}()
	tb.Cleanup(func() { l.Close(); <-served })
	s, err := wire.Dial(context.Background(), wire.DialOptions{
		Address: l.Addr().String(), ServerName: "b", Credentials: credentials("a"), Migration: "test", Streams: streams,
	})
	must(tb, err)
	tb.Cleanup(func() { s.Abort(errors.New("test is over")) })
	return s
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// trackPod tracks a pod and its children.
func trackPod(tb testing.TB, p *pod) *track.Tracker {
	tb.Helper()
	for _, probe := range []func() error{pagemap.ProbeScan, pagemap.ProbeWPAsync} {
		if err := probe(); err != nil {
			tb.Skip(err)
		}
	}
	t := track.New(track.Options{
		List: func() ([]track.Process, error) {
			procs := []track.Process{{PID: p.pid, Space: p.space}}
			for _, pid := range children(tb, p.pid) {
				procs = append(procs, track.Process{PID: pid, Space: pagestream.Space{Kind: pagestream.Process, ID: uint64(pid)}})
			}
			return procs, nil
		},
		Inject: track.Inject,
		Log:    slog.New(slog.NewTextHandler(tb.Output(), nil)),
	})
	tb.Cleanup(t.Close)
	return t
}

// checkFrozen compares every present page of a process' lazy areas with what
// arrived, and returns how many there were.
func checkFrozen(t *testing.T, s *sink, pid int) int {
	t.Helper()
	vmas, _, err := pagemap.ReadMaps(pid, nil, nil)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || len(vmas) == 0 {
		return 0 // a zombie
	}
	must(t, err)
	pm, err := pagemap.Open(pid)
	must(t, err)
	defer pm.Close()
	space := pagestream.Space{Kind: pagestream.Process, ID: uint64(pid)}
	compared := 0
	for _, v := range vmas {
		if !track.Lazy(v) {
			continue
		}
		entries := make([]pagemap.Entry, v.Bytes()/pagestream.PageSize)
		must(t, pm.ReadEntries(v.Start, entries))
		for i, e := range entries {
			if !e.Present() {
				continue
			}
			r := pagestream.Range{Start: v.Start + uint64(i)*pagestream.PageSize, Pages: 1}
			if compared++; !bytes.Equal(memoryOf(t, pid, r), s.page(space, r.Start)) {
				t.Fatalf("process %d, page %s of %+v differs", pid, r, v)
			}
		}
	}
	return compared
}

func TestARealPodArrivesByteForByte(t *testing.T) {
	for _, mode := range []string{"sets", "writer", "churn"} {
		t.Run(mode, func(t *testing.T) {
			p := startPod(t, mode, 2048)
			s := newSink(1)
			session := flushing{Over(dialTest(t, &receiver{sink: s}, 2)), s}
			r := newTestRounds(t, Config{Tracker: trackPod(t, p), Session: session, Policy: Policy{DirtyLimit: 128 << 10}})
			res, err := r.Run(t.Context())
			must(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			must(t, r.Keep(ctx, nil))
			pids := append(children(t, p.pid), p.pid)
			freeze(t, pids...)
			pids = append(children(t, p.pid), p.pid)
			freeze(t, pids...)
			stat, err := r.Final(t.Context())
			must(t, err)
			s.check(t)
			compared := 0
			for _, pid := range pids {
				compared += checkFrozen(t, s, pid)
			}
			if compared < 512 {
				t.Errorf("only %d pages were compared", compared)
			}
			for _, round := range res.Rounds {
				t.Logf("round %d: %d pages, window %v, scan %v, copy %v", round.Number, round.Pages, round.Window, round.Scan, round.Copy)
			}
			t.Logf("%s; last copy %d pages, scan %v, copy %v, flush %v; %d processes, %d pages compared", res.Decision.Reason,
				stat.Pages, stat.Scan, stat.Copy, stat.Flush, len(pids), compared)
		})
	}
}

// residentKiB is this process' own memory: VmRSS without shared pages.
func residentKiB(tb testing.TB) int {
	for line := range strings.Lines(statusOf(tb, os.Getpid())) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
			must(tb, err)
			return n
		}
	}
	tb.Fatal("no RssAnon in status")
	return 0
}

// BenchmarkFirstCopyOverTLS copies incompressible memory to loopback beside a
// ticker, at several paces. The receiver works on the same processors.
func BenchmarkFirstCopyOverTLS(b *testing.B) {
	p := startPod(b, "still", 65536)
	ticker := startPod(b, "ticker", 1)
	ticker.worst(b)
	time.Sleep(500 * time.Millisecond)
	b.Logf("without a copy the ticker is %d us late at most", ticker.worst(b))
	for _, pace := range []Pace{Urgent, {Batch: true}, {Nice: 5}, {Nice: 5, Batch: true}, {Nice: 10}, {Nice: 19}} {
		b.Run(fmt.Sprintf("nice%d-batch-%t", pace.Nice, pace.Batch), func(b *testing.B) {
			session := dialTest(b, &receiver{}, 2)
			before := residentKiB(b)
			c := NewCopier(Over(session))
			defer c.Close()
			ticker.worst(b)
			b.SetBytes(int64(pagesOf(p.whole()[0].Ranges) * pagestream.PageSize))
			most := 0
			for b.Loop() {
				_, err := c.Copy(b.Context(), p.whole(), pace)
				must(b, err)
				must(b, session.Flush(b.Context()))
				most = max(most, residentKiB(b)-before)
			}
			b.ReportMetric(float64(ticker.worst(b))/1000, "ms-stall")
			b.ReportMetric(float64(most)/1024, "MiB-grown")
		})
	}
}

// BenchmarkRounds copies 1 GiB into which 5000 KiB a second are written, as
// redis would, over TLS to loopback, and freezes it.
func BenchmarkRounds(b *testing.B) {
	ticker := startPod(b, "ticker", 1)
	for b.Loop() {
		p := startPod(b, "sets", 262144)
		r, err := New(Config{Tracker: trackPod(b, p), Session: Over(dialTest(b, &receiver{}, 2))})
		must(b, err)
		ticker.worst(b)
		res, err := r.Run(b.Context())
		must(b, err)
		stall := ticker.worst(b)
		freeze(b, p.pid)
		stat, err := r.Final(b.Context())
		must(b, err)
		r.Close()
		for _, round := range res.Rounds {
			b.Logf("round %d: %d pages, %.1f MB/s dirty, scan %v, copy %v, %d wire bytes", round.Number, round.Pages,
				round.DirtyRate()/1e6, round.Scan, round.Copy, round.WireBytes)
		}
		b.Logf("%s at a limit of %d: last copy of %d pages: scan %v, copy %v, flush %v", res.Decision.Reason, res.Decision.Limit,
			stat.Pages, stat.Scan, stat.Copy, stat.Flush)
		b.ReportMetric(float64(len(res.Rounds)), "rounds")
		b.ReportMetric(float64(stat.Total().Microseconds())/1000, "ms-final")
		b.ReportMetric(float64(stall)/1000, "ms-stall")
	}
}
