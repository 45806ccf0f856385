package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// proxy stands between two nodes and misbehaves on demand.
type proxy struct {
	listener net.Listener
	target   string

	mu     sync.Mutex // guards what follows
	conns  []net.Conn
	frozen chan struct{} // not nil: bytes are held until it is closed
	spoil  int           // so many bytes further a bit is flipped; 0: none
	rate   int           // bytes in a second towards the target; 0: no limit
}

func newProxy(t *testing.T, target net.Addr) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, target: target.String()}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", p.target)
			if err != nil {
				in.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, in, out)
			p.mu.Unlock()
			running.Go(func() { p.copy(out, in, true) })
			running.Go(func() { p.copy(in, out, false) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.kill()
		p.thaw()
		running.Wait()
	})
	return p
}

func (p *proxy) copy(to, from net.Conn, forth bool) {
	defer to.(*net.TCPConn).CloseWrite()
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		frozen, rate := p.frozen, p.rate
		if forth && p.spoil > 0 {
			if p.spoil <= n {
				buffer[p.spoil-1] ^= 1
			}
			p.spoil = max(0, p.spoil-n)
		}
		p.mu.Unlock()
		if frozen != nil {
			<-frozen
		}
		if forth && rate > 0 {
			time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *proxy) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *proxy) freeze() { p.set(func() { p.frozen = make(chan struct{}) }) }

func (p *proxy) thaw() {
	p.set(func() {
		if p.frozen != nil {
			close(p.frozen)
			p.frozen = nil
		}
	})
}

// kill cuts all connections the way a dead machine's kernel would not.
func (p *proxy) kill() {
	p.set(func() {
		for _, conn := range p.conns {
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	})
}

// within fails the test if f takes longer.
func within(t *testing.T, d time.Duration, what string, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took > d {
		t.Errorf("%s took %v, want at most %v", what, took, d)
	}
}

// quiet is the silence after which a peer counts as hung: longer than a busy machine may have a peer wait for a processor.
const quiet = 4 * time.Second

func TestHungPeerIsOneClearError(t *testing.T) {
	for name, use := range map[string]func(*Session) error{
		"in Flush": func(s *Session) error { return s.Flush(context.Background()) },
		"in Close": func(s *Session) error { return s.Close() },
		"in Pages": func(s *Session) error {
			data := make([]byte, MaxData)
			fillRandom(data)
			for {
				if err := s.Stream(0).Pages(space, 0, data); err != nil {
					return err
				}
			}
		},
		"when idle": func(s *Session) error { <-s.Done(); return s.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it waits most of the time
			c := newCluster(t)
			r := newMemory()
			p := newProxy(t, c.listen(to(r), WithLimits(Limits{Silence: quiet})).Addr())
			o := c.options(p.listener.Addr())
			o.Timeout = quiet
			s := c.dial(o)
			if err := s.Flush(context.Background()); err != nil {
				t.Fatal(err)
			}
			p.freeze()
			within(t, time.Minute, "noticing", func() {
				if err := use(s); !errors.Is(err, ErrHung) || !strings.Contains(err.Error(), "peer b") {
					t.Errorf("%v, want ErrHung", err)
				}
			})
			// The receiver hears nothing either.
			if err := r.end(t); !errors.Is(err, ErrHung) {
				t.Errorf("Closed(%v), want ErrHung", err)
			}
		})
	}
}

func TestIdleSessionLives(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := newCluster(t)
	r := newMemory()
	o := c.options(c.listen(to(r), WithLimits(Limits{Silence: quiet})).Addr())
	o.Timeout = quiet
	s := c.dial(o)
	select {
	case <-s.Done():
		t.Fatalf("idle session ended: %v", s.Err())
	case err := <-r.closed:
		t.Fatalf("idle session ended: Closed(%v)", err)
	case <-time.After(3 * quiet):
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestSlowLinkIsNotTakenForAHungPeer(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := newCluster(t)
	r := newMemory()
	p := newProxy(t, c.listen(to(r), WithLimits(Limits{Silence: quiet})).Addr())
	o := c.options(p.listener.Addr())
	o.Streams, o.Timeout = 1, quiet
	s := c.dial(o)
	p.set(func() { p.rate = 32 << 10 })
	data := make([]byte, MaxData) // 16 s on this link
	fillRandom(data)
	if err := s.Stream(0).Pages(space, 0, data); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(context.Background()); err != nil {
		t.Error(err)
	}
	r.check(t, 0, data)
}

func TestPeerThatDiesIsOneClearError(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	p := newProxy(t, c.listen(to(r)).Addr())
	s := c.dial(c.options(p.listener.Addr()))
	data := make([]byte, MaxData)
	fillRandom(data)
	calls := 0
	var err error
	within(t, 30*time.Second, "noticing", func() {
		for ; err == nil; calls++ {
			if calls == 20 {
				p.kill()
			}
			err = s.Stream(0).Pages(space, 0, data)
		}
	})
	if calls <= 20 || !strings.Contains(err.Error(), "peer b: stream") || !strings.Contains(err.Error(), "connection lost") {
		t.Errorf("after %d calls: %v", calls, err)
	}
	if err := r.end(t); err == nil || !strings.Contains(err.Error(), "peer a: stream") || !strings.Contains(err.Error(), "connection lost") {
		t.Errorf("Closed(%v)", err)
	}
	if err := s.Close(); err == nil {
		t.Error("Close after the peer's death is fine with it")
	}
}

func TestSenderThatDiesWithoutGoodbyeIsAnError(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	p := newProxy(t, c.listen(to(r)).Addr())
	s := c.dial(c.options(p.listener.Addr()))
	if err := s.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	// An orderly end of the connection without a goodbye is none.
	p.set(func() {
		for _, conn := range p.conns {
			conn.(*net.TCPConn).CloseWrite()
		}
	})
	if err := r.end(t); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Closed(%v)", err)
	}
}

func TestBitFlippedInTransitEndsTheSession(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	p := newProxy(t, c.listen(to(r)).Addr())
	o := c.options(p.listener.Addr())
	o.Streams = 1 // of several, another may be the first that the receiver sees end
	s := c.dial(o)
	if err := s.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	p.set(func() { p.spoil = 5000 })
	data := make([]byte, MaxData)
	fillRandom(data)
	err := s.Stream(0).Pages(space, 0, data) // fails if the answer is there already
	if err == nil {
		err = s.Flush(context.Background())
	}
	if err == nil || !strings.Contains(err.Error(), "bad record MAC") {
		t.Errorf("Flush = %v", err)
	}
	if err := r.end(t); err == nil || !strings.Contains(err.Error(), "bad record MAC") {
		t.Errorf("Closed(%v)", err)
	}
	if r.calls != 0 {
		t.Error("the receiver got it")
	}
}

func TestReceiversErrorArrivesWithAFullPipe(t *testing.T) {
	// The sender is stuck in writing when the receiver gives up: its reason
	// must get through all the same, and not be lost to a reset.
	c := newCluster(t)
	r := newMemory()
	release := make(chan struct{})
	r.before = func() error { <-release; return errors.New("disk full") }
	o := c.options(c.listen(to(r)).Addr())
	o.Window = MaxWindow
	s := c.dial(o)
	failed := make(chan error, 2)
	for i := range 2 {
		go func() {
			data := make([]byte, MaxData)
			fillRandom(data)
			for {
				if err := s.Stream(i).Pages(space, 0, data); err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	for last := uint64(1); last != s.Stats().WireBytes; time.Sleep(100 * time.Millisecond) {
		last = s.Stats().WireBytes
	}
	close(release)
	for range 2 {
		if err := <-failed; err.Error() != "peer b: disk full" {
			t.Errorf("Pages = %v", err)
		}
	}
}
