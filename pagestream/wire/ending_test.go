package wire

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestReceiversErrorComesBackToTheSender(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	full := errors.New("store: no space left: 12 of 12 MiB used")
	r.before = func() error { return full }
	s := c.dial(c.options(c.listen(to(r)).Addr()))
	data := mixture(MaxData / page)
	var err error
	for range 1000 { // far more than the window
		if err = s.Stream(0).Pages(space, 0, data); err != nil {
			break
		}
	}
	var remote *RemoteError
	if !errors.As(err, &remote) || err.Error() != "peer b: "+full.Error() {
		t.Errorf("Pages = %v", err)
	}
	if err := s.Flush(context.Background()); !errors.As(err, &remote) {
		t.Errorf("Flush = %v", err)
	}
	if err := s.Stream(1).Blob(1, nil); !errors.As(err, &remote) {
		t.Errorf("Blob on another stream = %v", err)
	}
	if err := s.Close(); !errors.As(err, &remote) {
		t.Errorf("Close = %v", err)
	}
	if err := r.end(t); !errors.Is(err, full) || !strings.Contains(err.Error(), "peer a: stream 0") {
		t.Errorf("Closed(%v)", err)
	}
}

func TestFrameThatWasSpoiledEndsTheSession(t *testing.T) {
	for name, at := range map[string]int{"checksum": sumOffset, "address space": 24} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			r := newMemory()
			s := c.dial(c.options(c.listen(to(r)).Addr()))
			s.Stream(1).tamper = func(head *[headerSize]byte) { head[at] ^= 4 }
			if err := s.Stream(1).Pages(space, 0, bytes.Repeat([]byte{1}, page)); err != nil {
				t.Fatal(err)
			}
			err := s.Flush(context.Background())
			var remote *RemoteError
			if !errors.As(err, &remote) || !strings.Contains(err.Error(), ErrChecksum.Error()) {
				t.Errorf("Flush = %v", err)
			}
			if err := r.end(t); !errors.Is(err, ErrChecksum) {
				t.Errorf("Closed(%v)", err)
			}
			if r.calls != 0 {
				t.Error("the receiver got it")
			}
		})
	}
}

func TestAbortTellsTheReceiverWhy(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	s := c.dial(c.options(c.listen(to(r)).Addr()))
	cause := errors.New("container has exited")
	s.Abort(cause)
	var remote *RemoteError
	if err := r.end(t); !errors.As(err, &remote) || !strings.Contains(err.Error(), "container has exited") {
		t.Errorf("Closed(%v)", err)
	}
	for name, err := range map[string]error{
		"Blob": s.Stream(0).Blob(1, nil), "Flush": s.Flush(context.Background()), "Close": s.Close(), "Err": s.Err(),
	} {
		if !errors.Is(err, cause) {
			t.Errorf("%s = %v", name, err)
		}
	}
}

func TestAbortFreesACallThatWaits(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	release := make(chan struct{})
	r.before = func() error { <-release; return nil }
	o := c.options(c.listen(to(r)).Addr())
	t.Cleanup(func() { close(release) }) // before the listener is closed, which waits for the receiver
	o.Window = MinWindow
	s := c.dial(o)
	cause := errors.New("cancelled")
	sent := make(chan error, 1)
	data := make([]byte, MaxData)
	fillRandom(data)
	go func() {
		for {
			if err := s.Stream(0).Pages(space, 0, data); err != nil {
				sent <- err
				return
			}
		}
	}()
	for s.Stats().WireBytes < MinWindow/2 {
		runtime.Gosched()
	}
	start := time.Now()
	s.Abort(cause)
	if err := <-sent; !errors.Is(err, cause) {
		t.Errorf("Pages = %v", err)
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("Abort took %v", took)
	}
}

func TestCallsAfterCloseSaySo(t *testing.T) {
	c := newCluster(t)
	s := c.dial(c.options(c.listen(to(newMemory())).Addr()))
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"Blob": s.Stream(0).Blob(1, nil), "Flush": s.Flush(context.Background()), "Err": s.Err(),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s = %v", name, err)
		}
	}
}

func TestListenersCloseEndsSessions(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	l := c.listen(to(r))
	s := c.dial(c.options(l.Addr()))
	if err := s.Stream(0).Blob(1, []byte("x")); err != nil {
		t.Fatal(err)
	}
	l.Close()
	<-s.Done()
	var remote *RemoteError
	if err := s.Err(); !errors.As(err, &remote) || !strings.Contains(err.Error(), ErrShutdown.Error()) {
		t.Errorf("session ended with %v", err)
	}
	select {
	case err := <-r.closed:
		if !errors.Is(err, ErrShutdown) {
			t.Errorf("Closed(%v)", err)
		}
	default:
		t.Error("Close returned before Closed was called")
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	c := newCluster(t)
	l, err := Listen("127.0.0.1:0", c.node("b"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- l.Serve(ctx, to(newMemory())) }()
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve = %v", err)
	}
	if err := l.Serve(context.Background(), to(newMemory())); err == nil {
		t.Error("Serve after Close serves")
	}
}

func TestNothingIsLeftRunning(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	l := c.listen(to(r))
	for _, end := range []func(*Session){
		func(s *Session) { s.Close() },
		func(s *Session) { s.Abort(errors.New("x")) },
		func(s *Session) { s.fail(errors.New("x")); s.Close() },
	} {
		s := c.dial(c.options(l.Addr()))
		s.Stream(0).Pages(space, 0, mixture(100))
		end(s)
		r.end(t)
	}
	l.Close()
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		for _, ours := range []string{"wire.(*Stream)", "wire.(*Session)", "wire.(*inbound)", "wire.(*Listener).handle", "wire.(*reception)"} {
			if strings.Contains(stack, ours) {
				t.Errorf("still runs:\n%s", stack)
			}
		}
	}
}
