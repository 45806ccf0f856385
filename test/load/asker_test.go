package load

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// parrot answers each byte with the same one, on the loopback, until stopped: as a server, or, if it is frozen, never.
func parrot(t *testing.T, frozen bool) (address string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var (
		mu    sync.Mutex
		conns []net.Conn
		work  sync.WaitGroup
	)
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			if !frozen {
				work.Go(func() { _, _ = io.Copy(conn, conn) })
			}
		}
	})
	stop = sync.OnceFunc(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		work.Wait()
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

// squawk asks a parrot.
func squawk(conn net.Conn) error {
	if _, err := conn.Write([]byte{1}); err != nil {
		return err
	}
	var b [1]byte
	_, err := io.ReadFull(conn, b[:])
	return err
}

// awaitAnswers returns when there are so many more answers than now.
func awaitAnswers(t *testing.T, a *Asker, more int) {
	t.Helper()
	want := len(a.Answers()) + more
	for deadline := time.Now().Add(10 * time.Second); len(a.Answers()) < want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d answers, %d are waited for", len(a.Answers()), want)
		}
	}
}

func TestAnAskerFindsItsServerAgainWhereItHasMovedTo(t *testing.T) {
	for name, keep := range map[string]bool{"one connection": true, "a connection for each question": false} {
		t.Run(name, func(t *testing.T) {
			first, stop := parrot(t, false)
			second, _ := parrot(t, false)
			a := NewAsker(first, keep, squawk)
			ctx, cancel := context.WithCancel(t.Context())
			var asking sync.WaitGroup
			asking.Go(func() { a.Ask(ctx, 1000) })
			awaitAnswers(t, a, 5)
			stop()
			a.AlsoAt(second)
			awaitAnswers(t, a, 5)
			cancel()
			asking.Wait()
			all := a.Answers()
			for i := 1; i < len(all); i++ {
				if all[i].Before(all[i-1]) {
					t.Fatalf("answer %d came before the one before it", i)
				}
			}
		})
	}
}

func TestAFrozenServerDoesNotHoldUpTheOneThatAnswers(t *testing.T) {
	frozen, _ := parrot(t, true)
	running, _ := parrot(t, false)
	a := NewAsker(frozen, false, squawk)
	a.AlsoAt(running)
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	began := time.Now()
	asking.Go(func() { a.Ask(ctx, 1000) })
	awaitAnswers(t, a, 1)
	if took := time.Since(began); took > 900*time.Millisecond {
		t.Errorf("the answer took %v", took)
	}
}

func TestAServerThatFreezesIsLookedForElsewhereWhenPatienceEnds(t *testing.T) {
	var frozen atomic.Bool
	freezes := func(conn net.Conn) error {
		if err := squawk(conn); err != nil || !frozen.Load() {
			return err
		}
		var b [1]byte
		_, err := conn.Read(b[:]) // that never comes
		return err
	}
	first, _ := parrot(t, false)
	second, _ := parrot(t, false)
	a := NewAsker(first, true, func(conn net.Conn) error {
		if conn.RemoteAddr().String() == second {
			return squawk(conn)
		}
		return freezes(conn)
	})
	a.GiveUpAfter(50 * time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	asking.Go(func() { a.Ask(ctx, 1000) })
	awaitAnswers(t, a, 5)
	frozen.Store(true)
	a.AlsoAt(second)
	began := time.Now()
	awaitAnswers(t, a, 2)
	if took := time.Since(began); took > 900*time.Millisecond {
		t.Errorf("it took %v", took)
	}
}

func TestAnAskerEndsThoughNobodyAnswers(t *testing.T) {
	frozen, _ := parrot(t, true)
	a := NewAsker(frozen, true, squawk)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	a.Ask(ctx, 1000)
	if took := time.Since(began); took > 900*time.Millisecond || len(a.Answers()) > 0 {
		t.Errorf("it took %v, %d answers", took, len(a.Answers()))
	}
}
