package load

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"godwit.dev/godwit/test/pace"
)

// Redis holds what a redis server must hold: for each key the last write that
// was acknowledged, and the last one that was sent. A write that was sent and
// not acknowledged may or may not have happened.
type Redis struct {
	whereabouts
	keys uint32

	mu        sync.Mutex
	acked     []uint32 // by key, guarded by mu
	sent      []uint32 // by key, guarded by mu
	acks      []time.Time
	total     uint64 // acknowledged writes, guarded by mu
	lastError error  // of the last connection that broke, guarded by mu
}

// NewRedis expects a server with that many keys of ValueSize bytes at address,
// host:port.
func NewRedis(address string, keys uint32) *Redis {
	return &Redis{
		whereabouts: serverAt(address, ping),
		keys:        keys, acked: make([]uint32, keys), sent: make([]uint32, keys),
	}
}

// fillBatch is how many commands go out before their replies are read.
const fillBatch = 256

// Fill writes every key once, as fast as the server takes it.
func (r *Redis) Fill(ctx context.Context) error {
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
			out = appendSet(out, k, 1)
		}
		if _, err := conn.Write(out); err != nil {
			return fmt.Errorf("fill redis: %w", err)
		}
		for k := from; k < to; k++ {
			if err := readOK(replies); err != nil {
				return fmt.Errorf("fill redis: %w", err)
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
func (r *Redis) Write(ctx context.Context, rate int) error {
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
func (r *Redis) writeOn(ctx context.Context, conn net.Conn, key *uint32, next *time.Time, interval time.Duration) error {
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
		out = appendSet(out[:0], k, write)
		conn.SetDeadline(time.Now().Add(replyTimeout))
		if _, err := conn.Write(out); err != nil {
			return err
		}
		if err := readOK(replies); err != nil {
			return err
		}
		r.acknowledge(k, write)
		*key = (k + scatter) % r.keys
	}
	return nil
}

// scatter takes the writes to a new page each time: a large prime.
const scatter = 7_368_787

func (r *Redis) begin(key uint32) (write uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent[key]++
	return r.sent[key]
}

func (r *Redis) acknowledge(key, write uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acked[key] = write
	r.acks = append(r.acks, time.Now())
	r.total++
}

func readOK(replies *bufio.Reader) error {
	line, err := replies.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.Equal(line, []byte("+OK\r\n")) {
		return fmt.Errorf("redis answered %q", bytes.TrimSpace(line))
	}
	return nil
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
func (r *Redis) Verify(ctx context.Context) (Verdict, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := Verdict{Acked: r.total}
	conn, err := (&net.Dialer{Timeout: pace.Stretch(5 * time.Second)}).DialContext(ctx, "tcp", r.last())
	if err != nil {
		return v, fmt.Errorf("verify redis: %w", err)
	}
	defer conn.Close()
	replies := bufio.NewReaderSize(conn, 256<<10)
	var out, value []byte
	want := make([]byte, ValueSize)
	for from := uint32(0); from < r.keys; from += fillBatch {
		to := min(from+fillBatch, r.keys)
		out = out[:0]
		for k := from; k < to; k++ {
			out = appendGet(out, k)
		}
		if _, err := conn.Write(out); err != nil {
			return v, fmt.Errorf("verify redis: %w", err)
		}
		for k := from; k < to; k++ {
			if value, err = readBulk(replies, value); err != nil {
				return v, fmt.Errorf("verify redis, key %d: %w", k, err)
			}
			r.judge(&v, k, value, want)
		}
	}
	return v, nil
}

// judge compares one key's value with what was written; mu is held.
func (r *Redis) judge(v *Verdict, key uint32, value, want []byte) {
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

// readBulk reads one bulk string; nil for none.
func readBulk(replies *bufio.Reader, buf []byte) ([]byte, error) {
	line, err := replies.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	line = bytes.TrimSpace(line)
	if len(line) == 0 || line[0] != '$' {
		return nil, fmt.Errorf("redis answered %q", line)
	}
	n, err := strconv.Atoi(string(line[1:]))
	if err != nil || n > 1<<20 {
		return nil, fmt.Errorf("redis answered %q", line)
	}
	if n < 0 {
		return nil, nil
	}
	if cap(buf) < n+2 {
		buf = make([]byte, n+2)
	}
	buf = buf[:n+2]
	if _, err := io.ReadFull(replies, buf); err != nil {
		return nil, err
	}
	return buf[:n], nil
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
func (r *Redis) LongestGap(since time.Time) Gap { return r.LongestGapWithin(since, time.Now()) }

// LongestGapWithin finds the longest time between two acknowledged writes that
// reaches into the time from one moment to another.
func (r *Redis) LongestGapWithin(from, to time.Time) Gap {
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
func (r *Redis) StoodWithin(from, to time.Time, least time.Duration) time.Duration {
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
func (r *Redis) AckedWithin(from, to time.Time) int {
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
func (r *Redis) AwaitAcked(ctx context.Context, total uint64) error {
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
func (r *Redis) Acked() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total
}
