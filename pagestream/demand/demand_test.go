package demand

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/linklimit"
)

func pipe(t *testing.T) (asks, answers net.Conn) {
	t.Helper()
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// numbered has pages that begin with their address; every fourth is zero, one cannot be read.
type numbered struct{ bad uint64 }

func (n numbered) ReadPages(_ uint32, start uint64, buf []byte) error {
	clear(buf)
	for i := 0; i < len(buf); i += pagestream.PageSize {
		at := start + uint64(i)
		if n.bad != 0 && at == n.bad {
			return errors.New("no such page")
		}
		if page := at / pagestream.PageSize; page%4 != 0 {
			copy(buf[i:], []byte{byte(page), byte(page >> 8), 1})
		}
	}
	return nil
}

func TestWhatIsAskedForComesAndTheEndIsKnownOnBothSides(t *testing.T) {
	asks, answers := pipe(t)
	var sent uint64
	ended := make(chan error, 1)
	go func() {
		ended <- Answering{Memory: numbered{}, Sent: func(pages, _ uint64) { sent += pages }}.Answer(t.Context(), answers)
	}()
	const pages = 300
	got := make(map[uint64]bool)
	var come atomic.Uint64
	a := NewAsking(asks)
	for at := uint64(0); at < pages; at += MaxPages {
		a.Want(3, pagestream.Range{Start: at * pagestream.PageSize, Pages: min(MaxPages, pages-at)}, at == 128)
	}
	err := a.Run(t.Context(), func(process uint32, start uint64, content [][]byte) error {
		for i, page := range content {
			n := start/pagestream.PageSize + uint64(i)
			want := []byte{byte(n), byte(n >> 8), 1}
			if process != 3 || (page == nil) != (n%4 == 0) || page != nil && !bytes.Equal(page[:3], want) {
				t.Errorf("page %d of process %d: %v", n, process, page == nil)
			}
			got[n] = true
		}
		come.Store(uint64(len(got)))
		if len(got) == pages {
			a.Done()
		}
		return nil
	}, func(a *Asking) { a.Status(pages-come.Load(), 0) })
	if err != nil || len(got) != pages {
		t.Errorf("%d pages, %v", len(got), err)
	}
	if err := <-ended; err != nil || sent != pages {
		t.Errorf("who answers: %d pages, %v", sent, err)
	}
}

// What is held back goes on at once when the hold ends, without anything from the other side.
func TestTheEndOfAHoldIsHeardByWhoWaitsForIt(t *testing.T) {
	limit := linklimit.New(0)
	limit.Set(0, true, time.Now())
	s := &answering{Answering: Answering{Limit: limit}, wake: make(chan struct{}, 1), rest: []request{{pages: 1}}}
	wait, changed := s.paced(false)
	if _, p, _ := s.pick(true, wait == 0); p != pendingRest || changed == nil {
		t.Fatalf("pending %v, waits %v", p, wait)
	}
	next := make(chan task, 1)
	go func() {
		got, _ := s.next()
		next <- got
	}()
	limit.Set(0, false, time.Now())
	if got := <-next; got.pages != 1 || got.urgent {
		t.Errorf("then comes %+v", got)
	}
}

// What nobody waits for stands back, what a process waits for does not.
func TestOnlyWhatAProcessWaitsForPassesWhileTheLinkIsHeld(t *testing.T) {
	asks, answers := pipe(t)
	limit := linklimit.New(0)
	limit.Set(0, true, time.Now())
	ended := make(chan error, 1)
	go func() { ended <- Answering{Memory: numbered{}, Limit: limit}.Answer(t.Context(), answers) }()
	a := NewAsking(asks)
	a.Want(1, pagestream.Range{Start: 0x1000, Pages: 1}, false)
	for i := range uint64(3) {
		a.Want(1, pagestream.Range{Start: (0x10 + i) * pagestream.PageSize, Pages: 1}, true)
	}
	var order []uint64
	err := a.Run(t.Context(), func(_ uint32, start uint64, _ [][]byte) error {
		order = append(order, start/pagestream.PageSize)
		switch len(order) {
		case 3:
			limit.Set(1<<30, false, time.Now())
		case 4:
			a.Done()
		}
		return nil
	}, func(a *Asking) { a.Status(1, 0) })
	if want := []uint64{0x10, 0x11, 0x12, 1}; err != nil || !slices.Equal(order, want) {
		t.Errorf("pages came in the order %v, want %v; %v", order, want, err)
	}
	if err := <-ended; err != nil {
		t.Errorf("who answers: %v", err)
	}
}

func TestTheBackgroundKeepsToALimit(t *testing.T) {
	asks, answers := pipe(t)
	const pages = 8
	limit := linklimit.New(1 << 30)
	ended := make(chan error, 1)
	go func() { ended <- Answering{Memory: numbered{}, Limit: limit}.Answer(t.Context(), answers) }()
	a := NewAsking(asks)
	for i := range uint64(pages) {
		a.Want(1, pagestream.Range{Start: (1 + 4*i) * pagestream.PageSize, Pages: 1}, i%2 == 0)
	}
	come := 0
	err := a.Run(t.Context(), func(uint32, uint64, [][]byte) error {
		if come++; come == pages {
			a.Done()
		}
		return nil
	}, func(a *Asking) { a.Status(1, 0) })
	if err := errors.Join(err, <-ended); err != nil {
		t.Fatal(err)
	}
	// All of it is booked: at a byte a second, what follows waits for it.
	now := time.Now()
	limit.Set(1, false, now)
	if wait, _, _ := limit.Wait(limit.Book(pages*pagestream.PageSize, true, now), true, now); wait > time.Second {
		t.Errorf("an urgent frame waits %v", wait)
	}
	if wait, _, _ := limit.Wait(limit.Book(0, false, now), false, now); wait < pages*time.Second {
		t.Errorf("the background waits %v for what is urgent", wait)
	}
}

func TestAPageThatCannotBeReadIsSaidToBothSides(t *testing.T) {
	asks, answers := pipe(t)
	ended := make(chan error, 1)
	go func() { ended <- Answering{Memory: numbered{bad: 0x2000}}.Answer(t.Context(), answers) }()
	a := NewAsking(asks)
	a.Want(1, pagestream.Range{Start: 0x1000, Pages: 2}, true)
	err := a.Run(t.Context(), func(uint32, uint64, [][]byte) error { return nil }, func(*Asking) {})
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "no such page") {
		t.Errorf("who asks: %v", err)
	}
	if err := <-ended; !errors.Is(err, ErrUnreadable) {
		t.Errorf("who answers: %v", err)
	}
}

func TestAConnectionThatBreaksIsNoEnd(t *testing.T) {
	asks, answers := pipe(t)
	a := NewAsking(asks)
	answers.Close()
	if err := a.Run(t.Context(), nil, func(*Asking) {}); err == nil || errors.Is(err, ErrRefused) {
		t.Errorf("who asks: %v", err)
	}
	asks, answers = pipe(t)
	asks.Close()
	if err := (Answering{Memory: numbered{}}).Answer(t.Context(), answers); !errors.Is(err, io.EOF) {
		t.Errorf("who answers takes a connection that ended for the end: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, answers = pipe(t)
	if err := (Answering{Memory: numbered{}}).Answer(ctx, answers); !errors.Is(err, context.Canceled) {
		t.Errorf("who answers: %v", err)
	}
}

func TestHelloAndWelcomeAreReadAsWritten(t *testing.T) {
	h := Hello{Version: 7, Container: 3, Token: [32]byte{1, 2}, Migration: "m-1"}
	got, err := ReadHello(bytes.NewReader(h.Encode()))
	if err != nil || got != h {
		t.Errorf("%+v, %v", got, err)
	}
	for name, bad := range map[string]Hello{
		"no migration":        {Container: 1},
		"too long":            {Migration: strings.Repeat("m", MaxMigration+1)},
		"too many containers": {Container: pagestream.MaxContainers, Migration: "m"},
	} {
		if _, err := ReadHello(bytes.NewReader(bad.Encode())); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var b bytes.Buffer
	if err := WriteWelcome(&b, ""); err != nil || ReadWelcome(&b) != nil {
		t.Error("a connection that is taken is refused")
	}
	if err := WriteWelcome(&b, strings.Repeat("no", MaxText)); err != nil {
		t.Fatal(err)
	}
	var refused *RefusedError
	if err := ReadWelcome(&b); !errors.As(err, &refused) || len(refused.Text) != MaxText {
		t.Errorf("refused: %v", err)
	}
	if err := WriteWelcome(&b, ""); err != nil {
		t.Fatal(err)
	}
	b.Bytes()[8]++ // the version
	if err := ReadWelcome(&b); !errors.Is(err, ErrVersion) {
		t.Errorf("another version: %v", err)
	}
}

func TestListsOfWhatIsLeftAreReadAsWritten(t *testing.T) {
	space := pagestream.Space{Container: 2, Kind: pagestream.Process, ID: 77}
	var all []pagestream.Range
	for i := range uint64(90_000) {
		all = append(all, pagestream.Range{Start: 0x10000 + i*i%7*pagestream.PageSize + i*40*pagestream.PageSize, Pages: 1 + i%30})
	}
	var got []pagestream.Range
	lists := 0
	for rest := all; len(rest) > 0; lists++ {
		var list []byte
		list, rest = EncodeLeft(space, rest)
		of, ranges, err := DecodeLeft(list)
		if err != nil || of != space {
			t.Fatalf("%v, %v", of, err)
		}
		got = append(got, ranges...)
	}
	if !slices.Equal(got, all) || lists < 2 {
		t.Errorf("%d ranges in %d lists, want %d", len(got), lists, len(all))
	}
}

func FuzzFrames(f *testing.F) {
	zeros := make([]byte, pagestream.PageSize)
	for _, x := range []frame{
		{kind: want, waits: true, process: 1, start: 0x1000, pages: 3},
		{kind: status, start: 5, pages: 6},
		{kind: pages, process: 1, start: 0x1000, pages: 2, zero: 2, body: zeros},
		{kind: refusal, body: []byte("no")},
	} {
		f.Add(x.appendTo(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var buf []byte
		x, err := read(bytes.NewReader(b), &buf)
		if err != nil {
			return
		}
		if again := x.appendTo(nil); !bytes.Equal(again, b[:len(again)]) {
			t.Errorf("%+v is written otherwise", x)
		}
		if x.kind == pages && len(x.content(nil)) != int(x.pages) {
			t.Errorf("%+v has not all pages", x)
		}
	})
}

func FuzzLists(f *testing.F) {
	list, _ := EncodeLeft(pagestream.Space{Kind: pagestream.Process, ID: 1}, []pagestream.Range{{Start: 0x1000, Pages: 2}, {Start: 0x8000, Pages: 1}})
	f.Add(list)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, ranges, err := DecodeLeft(b)
		end := uint64(0)
		for _, r := range ranges {
			if err != nil || r.Valid() != nil || r.Start < end {
				t.Fatalf("%s, %v", r, err)
			}
			end = r.End()
		}
	})
}

func FuzzHellos(f *testing.F) {
	f.Add(Hello{Version: 1, Migration: "m"}.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := ReadHello(bytes.NewReader(b)); err == nil && !bytes.Equal(h.Encode(), b[:len(h.Encode())]) {
			t.Errorf("%+v is written otherwise", h)
		}
	})
}
