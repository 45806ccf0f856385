package demand

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"godwit.dev/godwit/pagestream"
)

// Asking is the asking side of a connection, whose hello has been read and answered.
type Asking struct {
	conn net.Conn

	mu     sync.Mutex // guards what follows
	wake   *sync.Cond // on mu
	out    []byte     // not written yet
	closed error
}

// ErrRefused is wrapped by the error of a source that says it can never answer.
var ErrRefused = errors.New("the source cannot give a page that is missing")

// NewAsking asks on a connection.
func NewAsking(conn net.Conn) *Asking {
	a := &Asking{conn: conn}
	a.wake = sync.NewCond(&a.mu)
	return a
}

// Want asks for up to MaxPages pages; waits says that a process waits for them. It does
// not block.
func (a *Asking) Want(process uint32, r pagestream.Range, waits bool) {
	a.put(&frame{kind: want, waits: waits, process: process, start: r.Start, pages: r.Pages})
}

// Status says how far this side is. It does not block.
func (a *Asking) Status(missing, faults uint64) {
	a.put(&frame{kind: status, start: missing, pages: faults})
}

// Done says that nothing more is needed. The other side answers, and that ends the
// connection.
func (a *Asking) Done() { a.put(&frame{kind: done}) }

func (a *Asking) put(f *frame) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed == nil {
		a.out = f.appendTo(a.out)
		a.wake.Signal()
	}
}

// Close ends the connection.
func (a *Asking) Close(why error) {
	a.mu.Lock()
	if a.closed == nil {
		a.closed = why
	}
	a.wake.Signal()
	a.mu.Unlock()
	a.conn.Close()
}

// errBye ends a connection that is needed no more.
var errBye = errors.New("every page is here")

// Run takes what comes, until the connection ends: with nil after Done, else with the reason.
// Pages that lie one behind the other are handed to land, nil for one of zeros, by one
// goroutine; they are valid during the call. beat is called every Beat, by another goroutine, for a Status. An error wraps
// ErrRefused if there is no use in another connection.
func (a *Asking) Run(ctx context.Context, land func(process uint32, start uint64, content [][]byte) error, beat func(*Asking)) error {
	stop := context.AfterFunc(ctx, func() { a.Close(context.Cause(ctx)) })
	defer stop()
	var others sync.WaitGroup
	ended := make(chan struct{})
	others.Go(a.write)
	others.Go(func() {
		ticker := time.NewTicker(Beat)
		defer ticker.Stop()
		for {
			beat(a)
			select {
			case <-ticker.C:
			case <-ended:
				return
			}
		}
	})
	err := a.receive(land)
	a.Close(err)
	close(ended)
	others.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	if errors.Is(a.closed, errBye) {
		return nil
	}
	return a.closed
}

// write writes what is put, until the connection ends.
func (a *Asking) write() {
	var b []byte
	for {
		a.mu.Lock()
		for len(a.out) == 0 && a.closed == nil {
			a.wake.Wait()
		}
		b, a.out = a.out, b[:0]
		over := a.closed != nil
		a.mu.Unlock()
		if over {
			return
		}
		a.conn.SetWriteDeadline(time.Now().Add(Silence))
		if _, err := a.conn.Write(b); err != nil {
			a.Close(fmt.Errorf("ask for missing pages: %w", err))
			return
		}
	}
}

// receive hands pages over until the connection ends.
func (a *Asking) receive(land func(process uint32, start uint64, content [][]byte) error) error {
	var buf []byte
	content := make([][]byte, 0, MaxPages)
	for {
		a.conn.SetReadDeadline(time.Now().Add(Silence))
		f, err := read(a.conn, &buf)
		if err != nil {
			return fmt.Errorf("wait for missing pages: %w", err)
		}
		switch f.kind {
		case echo:
		case parting:
			return errBye
		case refusal:
			return fmt.Errorf("%w: %s", ErrRefused, f.body)
		case pages:
			if err := land(f.process, f.start, f.content(content[:0])); err != nil {
				return err
			}
		default:
			return fmt.Errorf("frame of kind %d from who answers: %w", f.kind, ErrProtocol)
		}
	}
}

// content appends the pages of a frame, nil for one of zeros.
func (f *frame) content(to [][]byte) [][]byte {
	data := f.body
	for i := range f.pages {
		if f.zero&(1<<i) != 0 {
			to = append(to, nil)
			continue
		}
		to, data = append(to, data[:pagestream.PageSize]), data[pagestream.PageSize:]
	}
	return to
}
