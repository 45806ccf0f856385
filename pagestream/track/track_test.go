package track

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
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

func TestOnlyWrittenPagesAreDirtyAgain(t *testing.T) {
	k := track(t)
	at := k.num("map %x", 100)
	k.num("write %x 50 1", at)
	if r := k.round(); r.New != 1 || len(r.Stops) != 1 || r.Pages == 0 {
		t.Errorf("first round: %d new, %d injections, %d pages", r.New, len(r.Stops), r.Pages)
	} else if got := k.dirty(r, k.pid, at, 100); !slices.Equal(got, seq(0, 0x50)) {
		t.Errorf("first round: pages %v", got)
	}
	k.want("nothing written", at, 100)
	k.num("write %x 1 2", at+7*page)
	k.num("write %x 3 2", at+20*page)
	k.num("write %x 1 2", at+99*page)
	k.num("read %x 64", at)
	k.want("some written", at, 100, 7, 20, 21, 22, 99)
	k.num("write %x 1 3", at+7*page)
	if r := k.finish(); r.New != 0 || len(r.Stops) != 0 {
		t.Errorf("frozen round: %d new, %d injections", r.New, len(r.Stops))
	} else if got := k.dirty(r, k.pid, at, 100); !slices.Equal(got, []int{7}) {
		t.Errorf("frozen round: pages %v, want 7", got)
	}
}

func TestChangedAreasAreDirty(t *testing.T) {
	const none, ro, rw = unix.PROT_NONE, unix.PROT_READ, unix.PROT_READ | unix.PROT_WRITE
	for _, c := range []struct {
		name   string
		change func(k *tracked, at uint64) uint64 // of 16 written pages; returns where to look
		dirty  []int
	}{
		{"mapped anew at the same place", func(k *tracked, at uint64) uint64 {
			k.num("fixed %x 10", at)
			k.num("write %x 4 9", at)
			return at
		}, seq(0, 4)},
		{"unmapped", func(k *tracked, at uint64) uint64 {
			k.num("unmap %x 10", at)
			return at
		}, nil},
		{"grown", func(k *tracked, at uint64) uint64 {
			to := k.num("remap %x 10 20 %x", at, unix.MREMAP_MAYMOVE)
			k.num("write %x 8 9", to+16*page)
			return to + 16*page
		}, seq(0, 8)},
		{"moved", func(k *tracked, at uint64) uint64 {
			to := k.num("map 40")
			k.num("unmap %x 40", to)
			// grown by so much that it must move
			wall := k.num("map 1")
			_ = wall
			return k.num("remap %x 10 4000 %x", at, unix.MREMAP_MAYMOVE)
		}, nil /* all or none, checked by the comparison */},
		{"moved, area left behind", func(k *tracked, at uint64) uint64 {
			return k.num("remap %x 10 10 %x", at, unix.MREMAP_MAYMOVE|unix.MREMAP_DONTUNMAP)
		}, seq(0, 16)},
		{"written where it moved away", func(k *tracked, at uint64) uint64 {
			k.num("remap %x 10 10 %x", at, unix.MREMAP_MAYMOVE|unix.MREMAP_DONTUNMAP)
			k.num("write %x 3 7", at)
			return at
		}, seq(0, 3)},
		{"heap grown", func(k *tracked, at uint64) uint64 {
			end := k.num("brk 8") + page
			end &^= page - 1
			k.num("write %x 4 7", end)
			return end
		}, seq(0, 4)},
		{"made read-only and writable", func(k *tracked, at uint64) uint64 {
			k.num("prot %x 10 %x", at, ro)
			k.num("prot %x 10 %x", at, rw)
			return at
		}, nil},
		{"written and made read-only", func(k *tracked, at uint64) uint64 {
			k.num("write %x 2 7", at)
			k.num("prot %x 10 %x", at, ro)
			return at
		}, seq(0, 2)},
		{"written and made inaccessible", func(k *tracked, at uint64) uint64 {
			k.num("write %x 2 7", at)
			k.num("prot %x 10 %x", at, none)
			return at
		}, seq(0, 2)},
		{"unlocked for a write", func(k *tracked, at uint64) uint64 {
			k.num("prot %x 10 %x", at, ro)
			k.round()
			k.num("prot %x 10 %x", at, rw)
			k.num("write %x 2 7", at)
			k.num("prot %x 10 %x", at, ro)
			return at
		}, seq(0, 2)},
		{"written by a system call", func(k *tracked, at uint64) uint64 {
			k.num("fill %x 2", at+5*page)
			return at
		}, seq(5, 7)},
		{"discarded and written", func(k *tracked, at uint64) uint64 {
			k.num("advise %x 10 %x", at, unix.MADV_DONTNEED)
			k.num("write %x 2 7", at+page)
			return at
		}, seq(1, 3)},
		{"discarded and read", func(k *tracked, at uint64) uint64 {
			k.num("advise %x 10 %x", at, unix.MADV_DONTNEED)
			k.num("read %x 10", at)
			return at
		}, nil},
		{"paged out and in", func(k *tracked, at uint64) uint64 {
			k.num("advise %x 10 %x", at, unix.MADV_PAGEOUT)
			k.num("write %x 1 7", at+3*page)
			return at
		}, seq(3, 4)},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := track(t)
			at := k.num("map 10")
			k.num("write %x 10 5", at)
			k.round()
			at = c.change(k, at)
			if c.dirty != nil || c.name != "moved" {
				k.want(c.name, at, 16, c.dirty...)
			}
			k.finish()
		})
	}
	t.Run("only at the last moment", func(t *testing.T) {
		k := track(t)
		at := k.num("map 10")
		k.num("write %x 10 5", at)
		k.round()
		k.num("write %x 1 6", at)
		k.num("remap %x 10 10 %x", at, unix.MREMAP_MAYMOVE|unix.MREMAP_DONTUNMAP)
		k.num("write %x 1 6", at+page)
		fresh := k.num("map 10")
		k.num("write %x 4 5", fresh)
		k.num("brk 8")
		if r := k.finish(); r.Untracked == 0 {
			t.Error("areas that are not registered count as tracked")
		}
	})
}

func TestReadOnlyAndInaccessibleMemoryIsTracked(t *testing.T) {
	k := track(t)
	at := k.num("map 20")
	k.num("write %x 20 5", at)
	k.num("prot %x 8 %x", at, unix.PROT_READ)
	k.num("prot %x 8 %x", at+8*page, unix.PROT_NONE)
	if got := k.dirty(k.round(), k.pid, at, 32); !slices.Equal(got, seq(0, 32)) {
		t.Errorf("first round: %v", got)
	}
	k.want("second round", at, 32)
	if r := k.finish(); of(t, r, k.pid).Untracked != 0 {
		t.Errorf("%d pages are not tracked", r.Untracked)
	}
}

func TestWriteToHugePageDirtiesOnePage(t *testing.T) {
	k := track(t)
	at := k.num("huge 400")
	k.num("write %x 400 5", at)
	if smaps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", k.pid)); err != nil || !strings.Contains(string(smaps), "AnonHugePages:      4096 kB") {
		t.Skip("no huge pages here")
	}
	k.round()
	k.want("nothing written", at, 1024)
	k.num("write %x 1 7", at+700*page)
	k.want("one page written", at, 1024, 700)
	k.finish()
}

func TestGuardPagesAreNotSent(t *testing.T) {
	const install, remove = 102, 103
	if err := pagemap.ProbeGuard(); err != nil {
		t.Skip(err)
	}
	k := track(t)
	at := k.num("map 10")
	k.num("write %x 10 5", at)
	k.num("advise %x 4 %x", at, install)
	k.want("guarded", at, 16, seq(4, 16)...)
	k.num("advise %x 2 %x", at, remove)
	k.num("write %x 1 5", at)
	k.want("guard removed and written", at, 16, 0)
	k.finish()
}

func TestChildrenAreTrackedFromTheirFork(t *testing.T) {
	k := track(t)
	at := k.num("map 10")
	k.num("write %x 10 5", at)
	k.round()
	child := int(k.num("fork"))
	k.num("write %x 2 6", at)
	r := k.round()
	if got := k.dirty(r, k.pid, at, 16); !slices.Equal(got, seq(0, 2)) {
		t.Errorf("parent: pages %v, want 0 and 1", got)
	}
	if got := k.dirty(r, child, at, 16); !slices.Equal(got, seq(0, 16)) || !of(t, r, child).New {
		t.Errorf("child: pages %v, new %v, want all of a new one", got, of(t, r, child).New)
	}
	if got := k.dirty(k.round(), child, at, 16); got != nil {
		t.Errorf("child: pages %v in the next round", got)
	}
	k.finish()
	unix.Kill(child, unix.SIGKILL)
	waitGone(t, child)
	if r := k.round(); len(r.Gone) != 1 || r.Gone[0].ID != uint64(child) {
		t.Errorf("gone: %v, want the child's space", r.Gone)
	}
	if r := k.round(); len(r.Gone) != 0 {
		t.Errorf("gone once more: %v", r.Gone)
	}
}

func waitGone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); unix.Kill(pid, 0) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d does not end", pid)
		}
	}
}

func TestExecBeginsAnew(t *testing.T) {
	k := track(t)
	k.num("map 10")
	k.round()
	for range 3 {
		k.in.WriteString("exec\n")
		k.expect("ready")
		at := k.num("map 10")
		k.num("write %x 10 5", at)
		r := k.round()
		if p := of(t, r, k.pid); !p.New || p.Err != nil {
			t.Errorf("after exec: new %v, error %v", p.New, p.Err)
		}
		if got := k.dirty(r, k.pid, at, 16); !slices.Equal(got, seq(0, 16)) {
			t.Errorf("after exec: pages %v", got)
		}
		k.want("nothing written", at, 16)
	}
	k.in.WriteString("exec\n")
	k.expect("ready")
	if r := k.finish(); r.Untracked != r.Pages || r.Pages == 0 {
		t.Errorf("frozen after exec: %d pages of which %d untracked, want all", r.Pages, r.Untracked)
	}
}

func TestSharedAddressSpaceIsTrackedOnce(t *testing.T) {
	for _, how := range []string{"share", "shareexec"} {
		t.Run(how, func(t *testing.T) {
			k := track(t)
			at := k.num("map 10")
			k.num("write %x 10 5", at)
			sharer := int(k.num("%s", how))
			r := k.round()
			owner, other := of(t, r, k.pid), of(t, r, sharer)
			if other.Shares == (pagestream.Space{}) {
				owner, other = other, owner
			}
			if other.Shares != owner.Space || other.Pages != 0 || owner.Pages == 0 || r.New != 1 {
				t.Errorf("owner %+v, other %+v", owner, other)
			}
			k.num("write %x 2 6", at)
			r = k.round()
			if got := k.dirty(r, owner.PID, at, 16); !slices.Equal(got, seq(0, 2)) {
				t.Errorf("pages %v, want 0 and 1", got)
			}
			if how == "shareexec" {
				unix.Kill(sharer, unix.SIGUSR1)
				waitExec(t, sharer, k.pid)
				// Either may have to wait for the other's old descriptor.
				k.round()
				r = k.round()
				for _, pid := range []int{k.pid, sharer} {
					if p := of(t, r, pid); p.Err != nil || p.Shares != (pagestream.Space{}) {
						t.Errorf("after exec of one: %+v", p)
					}
				}
				k.finish()
				return
			}
			// The one that is left is tracked on.
			unix.Kill(sharer, unix.SIGKILL)
			waitGone(t, sharer)
			k.round()
			k.round()
			k.num("write %x 3 7", at)
			k.want("after the other's end", at, 16, seq(0, 3)...)
			k.finish()
		})
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

func TestProcessThatCannotBeArmedIsLeftToTheFrozenRound(t *testing.T) {
	p := start(t, "memory")
	refused := errors.New("no")
	allow := false
	k := trackWith(t, p, Options{
		List: func() ([]Process, error) { return tree(p.pid) },
		Inject: func(ctx context.Context, pid int) (Injection, error) {
			if allow {
				return Inject(ctx, pid)
			}
			return Injection{}, refused
		},
	})
	at := k.num("map 10")
	k.num("write %x 10 5", at)
	r := k.round()
	if pr := of(t, r, p.pid); !errors.Is(pr.Err, refused) || pr.Pages != 0 || pr.Untracked < 16 || r.Untracked != pr.Untracked {
		t.Errorf("refused: %+v", pr)
	}
	if r := k.finish(); r.Untracked != r.Pages || r.Pages < 16 {
		t.Errorf("frozen: %d pages, %d untracked", r.Pages, r.Untracked)
	}
	allow = true
	if got := k.dirty(k.round(), k.pid, at, 16); !slices.Equal(got, seq(0, 16)) {
		t.Errorf("armed later: pages %v", got)
	}
	k.want("then", at, 16)
}

// A machine under load may not stop a thread in time. Not every round waits for that again.
func TestAProcessThatCouldNotBeStoppedIsTriedAgainAfterAWhile(t *testing.T) {
	p := start(t, "memory")
	tries := 0
	k := trackWith(t, p, Options{
		List: func() ([]Process, error) { return tree(p.pid) },
		Inject: func(ctx context.Context, pid int) (Injection, error) {
			if tries++; tries > 1 {
				return Inject(ctx, pid)
			}
			<-ctx.Done()
			return Injection{}, context.Cause(ctx)
		},
	})
	began := time.Now()
	pr := of(t, k.round(), p.pid)
	for ; tries == 1; pr = of(t, k.round(), p.pid) {
		if !errors.Is(pr.Err, context.DeadlineExceeded) || pr.Untracked == 0 {
			t.Errorf("after one try: %+v", pr)
		}
		if time.Since(began) > time.Minute {
			t.Fatal("it is not tried again")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if waited := time.Since(began); waited < retryUnreachable {
		t.Errorf("it was tried again after %v", waited)
	}
	if pr.Err != nil || !pr.New || pr.Pages == 0 || tries != 2 {
		t.Errorf("after %d tries: %+v", tries, pr)
	}
}

func TestLostCopiesAreReportedAgain(t *testing.T) {
	k := track(t)
	at := k.num("map 10")
	k.num("write %x 10 5", at)
	r := k.round()
	space := of(t, r, k.pid).Space
	k.tr.Invalidate(space)
	k.want("invalidated", at, 16, seq(0, 16)...)
	k.want("then", at, 16)
	k.num("write %x 1 6", at)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := k.tr.Collect(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled round: error %v", err)
	}
	k.want("after a cancelled round", at, 16, 0)
	k.tr.Invalidate(space)
	if r := k.finish(); len(k.dirty(r, k.pid, at, 16)) != 16 {
		t.Error("frozen round after Invalidate does not have all pages")
	}
	k.want("the frozen round was in vain", at, 16, seq(0, 16)...)
}

func TestCloseLeavesNothingInTheProcess(t *testing.T) {
	k := track(t)
	at := k.num("map 10")
	k.num("write %x 10 5", at)
	before := k.fds()
	k.round()
	if !registered(t, k.pid) {
		t.Error("nothing is registered while tracking")
	}
	// One tracker at a time.
	second := trackWith(t, k.target, k.tr.opts)
	if pr := of(t, second.round(), k.pid); !errors.Is(pr.Err, ErrOtherTracker) || pr.Pages != 0 {
		t.Errorf("second tracker: %+v, want ErrOtherTracker", pr)
	}
	select {
	case <-k.tr.CloseAsync():
	case <-time.After(5 * time.Second):
		t.Fatal("CloseAsync does not end")
	}
	k.tr.Close()
	if _, err := k.tr.Collect(context.Background()); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: error %v", err)
	}
	if registered(t, k.pid) {
		t.Error("areas are registered after Close")
	}
	if after := k.fds(); !slices.Equal(before, after) {
		t.Errorf("descriptors %v, were %v", after, before)
	}
	if got := second.dirty(second.round(), k.pid, at, 16); !slices.Equal(got, seq(0, 16)) {
		t.Errorf("second tracker after the first: %v", got)
	}
	second.finish()
}

func registered(t *testing.T, pid int) bool {
	vmas, err := pagemap.ReadSmaps(pid)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(vmas, func(v pagemap.VMA) bool { return v.Flags&pagemap.FlagUffdWP != 0 })
}

func TestDescriptorsAreNotLeaked(t *testing.T) {
	k := track(t)
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	k.round()
	before := count()
	for range 20 {
		child := int(k.num("fork"))
		k.round()
		unix.Kill(child, unix.SIGKILL)
		waitGone(t, child)
		k.round()
	}
	k.tr.closers.Wait()
	if after := count(); after != before {
		t.Errorf("%d descriptors, were %d", after, before)
	}
}

func TestReusedProcessIDIsAnotherProcess(t *testing.T) {
	needsUffd(t)
	bin := program(t, "memory")
	var pid int
	tr := New(Options{Inject: Inject, List: func() ([]Process, error) {
		return []Process{{PID: pid, Space: pagestream.Space{Kind: pagestream.Process, ID: 1}}}, nil
	}})
	defer tr.Close()
	first := exec.Command(bin, "quiet")
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	pid = first.Process.Pid
	waitState(t, pid, "S")
	if _, err := tr.Collect(context.Background()); err != nil {
		t.Fatal(err)
	}
	first.Process.Kill()
	first.Wait()
	for range 200 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
			t.Skip(err)
		}
		second := exec.Command(bin, "quiet")
		if err := second.Start(); err != nil {
			t.Fatal(err)
		}
		defer second.Wait()
		defer second.Process.Kill()
		if second.Process.Pid != pid {
			continue
		}
		waitState(t, pid, "S")
		r, err := tr.Collect(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Gone) != 1 || len(r.Processes) != 1 || !r.Processes[0].New || r.Processes[0].Pages == 0 {
			t.Errorf("round %+v, want one gone and a new one in its place", r)
		}
		return
	}
	t.Skip("no process got the id again")
}
