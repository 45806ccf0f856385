package load

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"godwit.dev/godwit/test/pace"
)

// Store is a server of keys and values, and holds what it must hold: for each key
// the last write that was acknowledged, and the last one that was sent. A write
// that was sent and not acknowledged may or may not have happened.
type Store struct {
	whereabouts
	dialect
	keys uint32

	mu        sync.Mutex
	acked     []uint32 // by key, guarded by mu
	sent      []uint32 // by key, guarded by mu
	acks      []time.Time
	total     uint64 // acknowledged writes, guarded by mu
	lastError error  // of the last connection that broke, guarded by mu
}

// dialect is how one speaks with a kind of server.
type dialect struct {
	// name is the server's, and greet asks whether it answers at all: a frozen one
	// accepts connections and says nothing.
	name  string
	greet func(net.Conn) error
	// set and get append a command to dst, and stored and value read its answer: a
	// value is nil if there is none, and may be in buf.
	set    func(dst []byte, key, write uint32) []byte
	get    func(dst []byte, key uint32) []byte
	stored func(answers *bufio.Reader) error
	value  func(answers *bufio.Reader, buf []byte) ([]byte, error)
}

// newStore expects a server with that many keys of ValueSize bytes at address,
// host:port.
func newStore(address string, keys uint32, d dialect) *Store {
	return &Store{
		whereabouts: serverAt(address, d.greet), dialect: d,
		keys: keys, acked: make([]uint32, keys), sent: make([]uint32, keys),
	}
}

// fillBatch is how many commands go out before their replies are read.
const fillBatch = 256

// Fill writes every key once, as fast as the server takes it.
func (r *Store) Fill(ctx context.Context) error {
	conn, err := r.dialAny(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	replies := bufio.NewReaderSize(conn, 64<<10)
	var out []byte
	for from := uint32(0); from < r.keys; from += fillBatch {
		to := min(from+fillBatch, r.keys)
		out = out[:0]
		for k := from; k < to; k++ {
			out = r.set(out, k, 1)
		}
		if _, err := conn.Write(out); err != nil {
			return fmt.Errorf("fill %s: %w", r.name, err)
		}
		for k := from; k < to; k++ {
			if err := r.stored(replies); err != nil {
				return fmt.Errorf("fill %s: %w", r.name, err)
			}
			r.acked[k], r.sent[k] = 1, 1
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// Write writes keys in a scattered order, rate of them a second, until ctx
// ends. When the connection breaks it tries all addresses until one answers.
func (r *Store) Write(ctx context.Context, rate int) error {
	interval := time.Second / time.Duration(rate)
	next := time.Now()
	key := uint32(0)
	for ctx.Err() == nil {
		conn, err := r.dialAny(ctx)
		if err != nil {
			break
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		err = r.writeOn(ctx, conn, &key, &next, interval)
		stop()
		conn.Close()
		r.mu.Lock()
		r.lastError = err
		r.mu.Unlock()
	}
	return nil
}

// replyTimeout is how long a write may take: a server that stands still longer
// is looked for anew.
const replyTimeout = 2 * time.Second

// writeOn writes on one connection until it breaks, one write at a time.
func (r *Store) writeOn(ctx context.Context, conn net.Conn, key *uint32, next *time.Time, interval time.Duration) error {
	replies := bufio.NewReader(conn)
	var out []byte
	for ctx.Err() == nil {
		if wait := time.Until(*next); wait > 0 {
			time.Sleep(wait)
		} else if wait < -100*time.Millisecond {
			*next = time.Now() // do not catch up after a gap
		}
		*next = next.Add(interval)
		k := *key
		write := r.begin(k)
		out = r.set(out[:0], k, write)
		conn.SetDeadline(time.Now().Add(r.limit(replyTimeout)))
		if _, err := conn.Write(out); err != nil {
			return err
		}
		if err := r.stored(replies); err != nil {
			return err
		}
		r.acknowledge(k, write)
		*key = (k + scatter) % r.keys
	}
	return nil
}

// scatter takes the writes to a new page each time: a large prime.
const scatter = 7_368_787

func (r *Store) begin(key uint32) (write uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent[key]++
	return r.sent[key]
}

func (r *Store) acknowledge(key, write uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acked[key] = write
	r.acks = append(r.acks, time.Now())
	r.total++
}

// Verdict is what Verify found.
type Verdict struct {
	// Acked is how many writes were acknowledged, the filling not counted.
	Acked uint64 `json:"acked_writes"`
	// Lost is how many keys hold an older value than was acknowledged, or none.
	Lost uint64 `json:"lost_writes"`
	// Wrong is how many keys hold a value that was never written.
	Wrong uint64 `json:"wrong_values"`
}

// Verify reads every key and judges it. Nobody may be writing.
func (r *Store) Verify(ctx context.Context) (Verdict, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := Verdict{Acked: r.total}
	conn, err := (&net.Dialer{Timeout: pace.Stretch(5 * time.Second)}).DialContext(ctx, "tcp", r.last())
	if err != nil {
		return v, fmt.Errorf("verify %s: %w", r.name, err)
	}
	defer conn.Close()
	replies := bufio.NewReaderSize(conn, 256<<10)
	var out, value []byte
	want := make([]byte, ValueSize)
	for from := uint32(0); from < r.keys; from += fillBatch {
		to := min(from+fillBatch, r.keys)
		out = out[:0]
		for k := from; k < to; k++ {
			out = r.get(out, k)
		}
		if _, err := conn.Write(out); err != nil {
			return v, fmt.Errorf("verify %s: %w", r.name, err)
		}
		for k := from; k < to; k++ {
			if value, err = r.value(replies, value); err != nil {
				return v, fmt.Errorf("verify %s, key %d: %w", r.name, k, err)
			}
			r.judge(&v, k, value, want)
		}
	}
	return v, nil
}

// judge compares one key's value with what was written; mu is held.
func (r *Store) judge(v *Verdict, key uint32, value, want []byte) {
	write, ok := writeOf(value)
	if value == nil || ok && write < r.acked[key] {
		v.Lost++
		return
	}
	if !ok || write > r.sent[key] {
		v.Wrong++
		return
	}
	fillValue(want, key, write)
	if !bytes.Equal(want, value) {
		v.Wrong++
	}
}

// Answers are the moments of all acknowledged writes so far, the oldest first.
func (r *Store) Answers() []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.acks)
}

// LastAnswer is the moment of the last one, zero if there was none.
func (r *Store) LastAnswer() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return last(r.acks)
}

// Gap is the longest time between two acknowledged writes.
type Gap struct {
	// Last acknowledged write before it, First after it.
	Last, First time.Time
}

// Length of the gap: the downtime, as a client sees it.
func (g Gap) Length() time.Duration { return g.First.Sub(g.Last) }

// LongestGap finds the longest time between two acknowledged writes since a
// moment.
func (r *Store) LongestGap(since time.Time) Gap { return r.LongestGapWithin(since, time.Now()) }

// LongestGapWithin finds the longest time between two acknowledged writes that
// reaches into the time from one moment to another.
func (r *Store) LongestGapWithin(from, to time.Time) Gap {
	r.mu.Lock()
	defer r.mu.Unlock()
	var longest Gap
	for i := 1; i < len(r.acks); i++ {
		g := Gap{r.acks[i-1], r.acks[i]}
		if g.First.After(from) && g.Last.Before(to) && g.Length() > longest.Length() {
			longest = g
		}
	}
	return longest
}

// StoodWithin is the sum of the times between two acknowledged writes, both
// between one moment and another, that are at least so long.
func (r *Store) StoodWithin(from, to time.Time, least time.Duration) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	var sum time.Duration
	for i := 1; i < len(r.acks); i++ {
		g := Gap{r.acks[i-1], r.acks[i]}
		if g.Last.After(from) && g.First.Before(to) && g.Length() >= least {
			sum += g.Length()
		}
	}
	return sum
}

// AckedWithin is how many writes were acknowledged from one moment to another.
func (r *Store) AckedWithin(from, to time.Time) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, at := range r.acks {
		if !at.Before(from) && at.Before(to) {
			n++
		}
	}
	return n
}

// AwaitAcked returns when so many writes have been acknowledged.
func (r *Store) AwaitAcked(ctx context.Context, total uint64) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for r.Acked() < total {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("await writes: %w", ctx.Err())
		}
	}
	return nil
}

// Acked is how many writes have been acknowledged.
func (r *Store) Acked() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total
}
