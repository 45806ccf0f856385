package wire

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// slowlyClosed is a listener whose first Close ends Accept at once, and takes its time; a second does not wait for it. So are net's when the
// processor is taken away in the middle.
type slowlyClosed struct {
	net.Listener
	asked  atomic.Bool
	closes chan struct{}
	closed atomic.Bool
}

func (l *slowlyClosed) Close() error {
	if l.asked.Swap(true) {
		return net.ErrClosed
	}
	err := l.Listener.Close()
	<-l.closes
	l.closed.Store(true)
	return err
}

// Who is started again in the same process listens there again.
func TestThePortIsFreeWhenServeReturns(t *testing.T) {
	l, err := Listen("127.0.0.1:0", newCluster(t).node("a"))
	if err != nil {
		t.Fatal(err)
	}
	slow := &slowlyClosed{Listener: l.tcp, closes: make(chan struct{})}
	l.tcp = slow
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- l.Serve(ctx, nil) }()
	cancel()
	time.AfterFunc(100*time.Millisecond, func() { close(slow.closes) }) // by then one that does not wait is back
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if !slow.closed.Load() {
		t.Error("Serve has returned, and the port is not closed")
	}
}
