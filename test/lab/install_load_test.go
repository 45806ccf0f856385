package lab

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"godwit.dev/godwit/test/pace"
)

// httpLoad asks a Service over and over, each time by a connection of its own.
type httpLoad struct {
	cancel context.CancelFunc
	ended  sync.WaitGroup

	answers map[string]int // by the host name that answered
	failed  int
	longest time.Duration // without an answer
}

const (
	// loadPause is between two requests, loadPatience what one may take: one that is answered later is none.
	loadPause, loadPatience = 10 * time.Millisecond, 500 * time.Millisecond
	// loadGap is how long a Service of several pods, of which some move, may leave a client that asks again without an answer: it may
	// come to a pod that moves again and again, as often as the cluster is slow to hear of that.
	loadGap = 20 * time.Second
)

// askAlways asks until stop is called, or the test ends.
func askAlways(t *testing.T, dial func(ctx context.Context, network, address string) (net.Conn, error), address string) *httpLoad {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &httpLoad{cancel: cancel, answers: map[string]int{}}
	l.ended.Go(func() {
		last := time.Now()
		for tick := time.NewTicker(loadPause); ; {
			one, done := context.WithTimeout(ctx, pace.Stretch(loadPatience))
			name, err := fetch(one, dial, address)
			done()
			if ctx.Err() != nil {
				return
			}
			l.longest = max(l.longest, time.Since(last))
			if err != nil {
				l.failed++
			} else {
				l.answers[name]++
				last = time.Now()
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	t.Cleanup(func() { cancel(); l.ended.Wait() })
	return l
}

// stop ends it, and sees that those that are meant answered all the time, and nobody else.
func (l *httpLoad) stop(t *testing.T, names []string) {
	t.Helper()
	l.cancel()
	l.ended.Wait()
	all := 0
	for name, n := range l.answers {
		all += n
		if !slices.Contains(names, name) {
			t.Errorf("%d requests were answered by %s, which is none of %v", n, name, names)
		}
	}
	t.Logf("%d requests answered, %d failed and were made again; at most %v without an answer", all, l.failed, l.longest.Round(time.Millisecond))
	if all == 0 || l.longest > pace.Stretch(loadGap) {
		t.Errorf("%d requests were answered, at most %v without an answer", all, l.longest)
	}
}
