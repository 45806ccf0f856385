package pageserver

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
)

func TestTheClientWaitsWhenTheBufferIsFull(t *testing.T) {
	// On a busy machine the streams may go on before the client has come to wait: then they stand still for longer.
	for pause := 20 * time.Millisecond; ; pause *= 4 {
		r := fillBuffer(t, pause)
		if r.Buffered != minChunks*ChunkBytes {
			t.Errorf("%+v", r.Stats)
		}
		if r.Waited > 0 {
			return
		}
		if pause > 10*time.Second {
			t.Fatalf("the client never waits: %+v", r.Stats)
		}
	}
}

// fillBuffer sends twice what the buffer holds to streams that stand still when it is full, for so long.
func fillBuffer(t *testing.T, pause time.Duration) *Round {
	t.Helper()
	s := newSink()
	s.gate = make(chan struct{})
	handed := 0
	v := serve(t, Layout32, Config{Out: s.streams(1), Buffer: 1, Progress: func(uint64) {
		if handed++; handed == minChunks { // the next one must wait
			time.AfterFunc(pause, func() { close(s.gate) })
		}
	}})
	_, err := v.open(process(1))
	must(t, err)
	data := random(1, 2*minChunks*ChunkBytes/pagestream.PageSize)
	must(t, v.pages(process(1), images.Present, base, data))
	_, err = v.close()
	must(t, err)
	r, err := v.end()
	must(t, err)
	if !bytes.Equal(s.content(process(1), at(0, uint64(len(data)/pagestream.PageSize))), data) {
		t.Error("content differs")
	}
	return r
}

func TestFlushAndVetoComeBeforeTheAnswer(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		name        string
		flush, veto error
	}{{"all well", nil, nil}, {"flush fails", broken, nil}, {"veto", nil, broken}} {
		t.Run(test.name, func(t *testing.T) {
			s, x := newSink(), newIndex(t)
			stored := 0
			v := serve(t, Layout32, Config{Out: s.streams(2), Index: x,
				Flush: func(context.Context) error { stored = s.calls; return test.flush },
				Veto:  func(r *Round) error { return test.veto }})
			_, err := v.open(process(1))
			must(t, err)
			must(t, v.pages(process(1), images.Present, base, random(1, 1000)))
			status, err := v.close()
			must(t, err)
			_, err = v.end()
			bad := test.flush != nil || test.veto != nil
			if (status != 0) != bad || errors.Is(err, broken) != bad {
				t.Errorf("status %d, %v", status, err)
			}
			if stored != 8 {
				t.Errorf("%d calls before the flush", stored)
			}
		})
	}
}

func TestAFailingStreamEndsTheConversation(t *testing.T) {
	s := newSink()
	s.fail = errors.New("no room there")
	v := serve(t, Layout32, Config{Out: s.streams(2), Index: newIndex(t)})
	_, err := v.open(process(1))
	must(t, err)
	_ = v.pages(process(1), images.Present, base, random(1, 20000))
	if status, err := v.close(); err == nil && status == 0 {
		t.Error("criu was told that all is well")
	}
	if _, err := v.end(); !errors.Is(err, s.fail) {
		t.Error(err)
	}
}

func TestADeadSilentOrCancelledClientIsOneError(t *testing.T) {
	cancelled := errors.New("migration cancelled")
	for _, l := range layouts {
		for _, test := range []struct {
			name string
			do   func(*serving, context.CancelCauseFunc)
			want error
		}{
			{"dead at once", func(v *serving, _ context.CancelCauseFunc) { v.Close() }, ErrClientGone},
			{"dead in a message", func(v *serving, _ context.CancelCauseFunc) {
				v.Write(make([]byte, 10))
				v.Close()
			}, ErrClientGone},
			{"dead in a page", func(v *serving, _ context.CancelCauseFunc) {
				v.open(process(1))
				v.entry(process(1), images.Present, at(0, 3))
				v.Write(make([]byte, 5000))
				v.Close()
			}, ErrClientGone},
			{"silent in a page", func(v *serving, _ context.CancelCauseFunc) {
				v.open(process(1))
				v.entry(process(1), images.Present, at(0, 3))
			}, ErrSilent},
			{"cancelled", func(v *serving, cancel context.CancelCauseFunc) {
				v.open(process(1))
				cancel(cancelled)
			}, cancelled},
		} {
			t.Run(l.String()+" "+test.name, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				idle := 10 * time.Second
				if test.want == ErrSilent {
					idle = 50 * time.Millisecond
				}
				v := serveContext(ctx, t, l, Config{Out: newSink().streams(1), Idle: idle})
				test.do(v, cancel)
				if _, err := v.end(); !errors.Is(err, test.want) {
					t.Error(err)
				}
			})
		}
	}
}

func TestWhatIsForgedIsRefused(t *testing.T) {
	entry := func(flags images.Flags, r pagestream.Range) message {
		return message{cmd: cmdAddFlags, flags: flags, pages: r.Pages, vaddr: r.Start, dst: dstOf(process(1))}
	}
	open := message{cmd: cmdOpen, dst: dstOf(process(1))}
	for _, test := range []struct {
		name string
		say  []message
		want string
	}{
		{"unknown command", []message{{cmd: 9, dst: 1}}, "cannot tell"},
		{"unknown command later", []message{open, {cmd: 9}}, "unknown command"},
		{"flags on OPEN", []message{{cmd: cmdOpen2, flags: 1, dst: dstOf(process(1))}}, "flags on a command"},
		{"unknown type", []message{{cmd: cmdOpen2, dst: 1<<8 | 10}}, "unknown type"},
		{"pid 0", []message{{cmd: cmdOpen2, dst: typePID}}, "pid out of"},
		{"shared id of 40 bits", []message{{cmd: cmdOpen2, dst: 1<<48 | typeShmem}}, "id out of"},
		{"space twice", []message{open, {cmd: cmdOpen, dst: dstOf(process(2))}, open}, "opens a space again"},
		{"unaligned", []message{open, entry(images.Lazy, pagestream.Range{Start: 12, Pages: 1})}, "boundary"},
		{"no pages", []message{open, entry(images.Lazy, at(0, 0))}, "no pages"},
		{"beyond memory", []message{open, entry(images.Lazy, pagestream.Range{Start: pagestream.MaxAddress - pagestream.PageSize, Pages: 2})}, "highest address"},
		{"overlapping", []message{open, entry(images.Lazy, at(0, 4)), entry(images.Lazy, at(3, 4))}, "before the end"},
		{"descending", []message{open, entry(images.Lazy, at(8, 1)), entry(images.Lazy, at(3, 1))}, "before the end"},
		{"no flags", []message{open, entry(0, at(0, 1))}, "flags that no CRIU sets"},
		{"present and parent", []message{open, entry(images.Present|images.Parent, at(0, 1))}, "flags that no CRIU sets"},
		{"unknown flag", []message{open, entry(images.Present|8, at(0, 1))}, "flags that no CRIU sets"},
		{"pages without a reader", []message{open, {cmd: cmdGet, pages: 1, vaddr: base, dst: 1}}, "no reader"},
	} {
		for _, l := range layouts {
			t.Run(l.String()+" "+test.name, func(t *testing.T) {
				x := newIndex(t)
				v := serve(t, l, Config{Out: newSink().streams(1), Index: x})
				for _, m := range test.say {
					_ = v.send(m)
				}
				_, err := v.end()
				if !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), test.want) {
					t.Errorf("%v, want %q", err, test.want)
				}
				if x.state != broken {
					t.Error("the index is", x.state)
				}
			})
		}
	}
}
