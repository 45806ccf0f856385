package load

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"

	"godwit.dev/godwit/test/pace"
)

// Asker asks a server that is moved one question after the other, and remembers
// when it was answered.
type Asker struct {
	whereabouts
	ask  func(net.Conn) error
	keep bool

	mu       sync.Mutex
	answered []time.Time
}

// NewAsker asks a server at address, host:port. ask puts a question and reads the
// answer, with the deadline that the connection has; keep says that a connection
// takes more than one question.
func NewAsker(address string, keep bool, ask func(net.Conn) error) *Asker {
	return &Asker{whereabouts: serverAt(address, ask), ask: ask, keep: keep}
}

// Ask asks rate questions a second, until ctx ends. What was missed while nobody
// answered is not made up for.
func (a *Asker) Ask(ctx context.Context, rate int) {
	interval := time.Second / time.Duration(rate)
	next := time.Now()
	for ctx.Err() == nil {
		conn, err := a.dialAny(ctx) // has been answered once
		if err != nil {
			return
		}
		a.note()
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		for next = pause(next, interval); a.keep && ctx.Err() == nil; next = pause(next, interval) {
			conn.SetDeadline(time.Now().Add(a.limit(pace.Stretch(replyTimeout))))
			if a.ask(conn) != nil {
				break
			}
			a.note()
		}
		stop()
		conn.Close()
	}
}

func (a *Asker) note() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answered = append(a.answered, time.Now())
}

// pause waits until next, and returns when the question after it is due.
func pause(next time.Time, interval time.Duration) time.Time {
	switch wait := time.Until(next); {
	case wait > 0:
		time.Sleep(wait)
	case wait < -100*time.Millisecond:
		next = time.Now() // do not catch up after a gap
	}
	return next.Add(interval)
}

// Answers are the moments of all answers so far, the oldest first.
func (a *Asker) Answers() []time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.answered)
}

// LastAnswer is the moment of the last one, zero if there was none.
func (a *Asker) LastAnswer() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return last(a.answered)
}

func last(moments []time.Time) time.Time {
	if len(moments) == 0 {
		return time.Time{}
	}
	return moments[len(moments)-1]
}
