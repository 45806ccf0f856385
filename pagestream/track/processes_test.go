package track

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
)

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

func TestProcessThatCannotBeArmedIsLeftToTheFrozenRound(t *testing.T) {
	p := start(t, "memory")
	refused := errors.New("no")
	allow := false
	k := trackWith(t, p, Options{
		Patience: time.Minute,
		List:     func() ([]Process, error) { return tree(p.pid) },
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
				return Inject(patient(t), pid)
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

func TestReusedProcessIDIsAnotherProcess(t *testing.T) {
	needsUffd(t)
	bin := program(t, "memory")
	var pid int
	tr := New(Options{Patience: time.Minute, Inject: Inject, List: func() ([]Process, error) {
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
