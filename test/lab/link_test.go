package lab

import (
	"context"
	"io"
	"net"
	"testing"
	"time"
)

func TestLinkIsAsSlowAsAsked(t *testing.T) {
	o := newTestLab(t)
	o.Shape = Shape{Rate: 200_000_000, Delay: 50 * time.Millisecond}
	l := upTest(t, o)
	if rate := measureRate(t, l.Node("a"), l.Node("b"), 2*time.Second); rate > 1.3*200e6 {
		t.Errorf("rate %.0f Mbit/s, want at most 200", rate/1e6)
	}
	if rtt := measureRTT(t, l.Node("a").Dial, l.Node("b")); rtt < 100*time.Millisecond || rtt > time.Second {
		t.Errorf("round trip between nodes %s, want 100ms", rtt)
	}
	if rtt := measureRTT(t, fromHost, l.Node("b")); rtt > 50*time.Millisecond {
		t.Errorf("round trip from the host %s, want it not delayed", rtt)
	}
	// The same nodes, another link.
	o.Shape = Shape{}
	again := upTest(t, o)
	if again.Node("a").PID() != l.Node("a").PID() {
		t.Error("the node was built again")
	}
	if rtt := measureRTT(t, again.Node("a").Dial, again.Node("b")); rtt > 50*time.Millisecond {
		t.Errorf("round trip %s after the delay is gone", rtt)
	}
	if rate := measureRate(t, again.Node("a"), again.Node("b"), time.Second); rate < 1.3*200e6 {
		t.Errorf("rate %.0f Mbit/s after the limit is gone", rate/1e6)
	}
}

// measureRate gives what arrives at one node from another, in bits per second, from the first byte to the last.
func measureRate(t *testing.T, from, to *Node, d time.Duration) float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d+30*time.Second)
	defer cancel()
	listener, err := to.Listen(ctx, "tcp", to.Addr().String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	type result struct {
		bits float64
		err  error
	}
	got := make(chan result, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			got <- result{err: err}
			return
		}
		defer conn.Close()
		start := time.Now()
		n, err := io.Copy(io.Discard, conn)
		got <- result{float64(n) * 8 / time.Since(start).Seconds(), err}
	}()
	conn, err := from.Dial(ctx, "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 256<<10)
	for end := time.Now().Add(d); time.Now().Before(end); {
		if _, err := conn.Write(buf); err != nil {
			t.Fatal(err)
		}
	}
	conn.Close()
	r := <-got
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.bits
}

// measureRTT gives the shortest of a few round trips of one byte.
func measureRTT(t *testing.T, dial func(ctx context.Context, network, address string) (net.Conn, error), to *Node) time.Duration {
	t.Helper()
	listener, err := to.Listen(t.Context(), "tcp", to.Addr().String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := listener.Accept(); err == nil {
			io.Copy(conn, conn)
			conn.Close()
		}
	}()
	defer func() { listener.Close(); <-done }()
	conn, err := dial(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	best := time.Hour
	b := []byte{1}
	for range 5 {
		start := time.Now()
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, b); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(start))
	}
	return best
}

func TestUpRepairsALinkWhoseDelayLineDied(t *testing.T) {
	o := newTestLab(t)
	if haveNetem() {
		t.Skip("this kernel has netem, so there is no delay line")
	}
	o.Shape.Delay = time.Millisecond
	l := upTest(t, o)
	pids := cgroupPIDs(l.linkCgroup("a"))
	kill(pids)
	for _, pid := range pids {
		awaitEnd(pid, 10*time.Second)
	}
	again := upTest(t, o)
	if again.Node("a").PID() != l.Node("a").PID() {
		t.Error("the node was built again")
	}
	if rtt := measureRTT(t, again.Node("a").Dial, again.Node("b")); rtt < 2*time.Millisecond {
		t.Errorf("round trip %s, want 2ms", rtt)
	}
}
