package track

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagemap"
)

const page = pagestream.PageSize

// num tells the target something and returns the number it answers.
func (p *target) num(format string, args ...any) uint64 {
	p.t.Helper()
	answer := p.tell(format, args...)
	n, err := strconv.ParseUint(answer, 16, 64)
	if err != nil || int64(n) < 0 && int64(n) > -4096 {
		p.t.Fatalf("%q: answer %q", fmt.Sprintf(format, args...), answer)
	}
	return n
}

// tracked is a target, its tracker and the copies made of it.
type tracked struct {
	*target
	t  *testing.T
	tr *Tracker
	c  copies
}

func track(t *testing.T) *tracked {
	p := start(t, "memory")
	return trackWith(t, p, itself(p))
}

// itself has the target's own tree tracked, however long a busy machine takes to stop a thread.
func itself(p *target) Options {
	return Options{List: func() ([]Process, error) { return tree(p.pid) }, Inject: Inject, Patience: time.Minute}
}

func trackWith(t *testing.T, p *target, opts Options) *tracked {
	tr := New(opts)
	t.Cleanup(tr.Close)
	return &tracked{target: p, t: t, tr: tr, c: copies{}}
}

// round does a round, copies it and returns it.
func (k *tracked) round() Round {
	k.t.Helper()
	r, err := k.tr.Collect(context.Background())
	if err != nil {
		k.t.Fatal(err)
	}
	k.c.take(k.t, r)
	return r
}

// of returns what a round says of a process.
func of(t *testing.T, r Round, pid int) ProcessRound {
	t.Helper()
	for _, p := range r.Processes {
		if p.PID == pid {
			return p
		}
	}
	t.Fatalf("process %d is not in the round", pid)
	return ProcessRound{}
}

// dirty returns which of n pages from at on are dirty in the round.
func (k *tracked) dirty(r Round, pid int, at uint64, n int) []int {
	k.t.Helper()
	var pages []int
	for _, d := range of(k.t, r, pid).Dirty {
		for a := max(d.Start, at); a < min(d.End(), at+uint64(n)*page); a += page {
			pages = append(pages, int((a-at)/page))
		}
	}
	return pages
}

// want checks which of n pages from at on the next round reports.
func (k *tracked) want(what string, at uint64, n int, pages ...int) {
	k.t.Helper()
	if got := k.dirty(k.round(), k.pid, at, n); !slices.Equal(got, pages) {
		k.t.Errorf("%s: dirty pages %v, want %v", what, got, pages)
	}
}

// finish freezes the target, does the last round and compares.
func (k *tracked) finish() Round {
	k.t.Helper()
	freeze(k.t, k.pid)
	r, err := k.tr.CollectFrozen(context.Background())
	if err != nil {
		k.t.Fatal(err)
	}
	k.c.take(k.t, r)
	procs, _ := tree(k.pid)
	if k.c.compare(k.t, procs) == 0 {
		k.t.Error("nothing was compared")
	}
	thaw(k.pid)
	return r
}

func seq(from, to int) []int {
	var s []int
	for ; from < to; from++ {
		s = append(s, from)
	}
	return s
}

func waitGone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); unix.Kill(pid, 0) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d does not end", pid)
		}
	}
}

func waitExec(t *testing.T, pid, other int) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); sameMemory(pid, other); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d does not call exec", pid)
		}
	}
	waitState(t, pid, "S")
}

func registered(t *testing.T, pid int) bool {
	vmas, err := pagemap.ReadSmaps(pid)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(vmas, func(v pagemap.VMA) bool { return v.Flags&pagemap.FlagUffdWP != 0 })
}
