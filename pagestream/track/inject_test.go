package track

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patient is for an injection that succeeds in the end, however long a busy machine takes to stop the target.
func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// injectInto injects and closes the descriptor, and returns how long the target
// stood still.
func injectInto(t testing.TB, pid int) time.Duration {
	t.Helper()
	in, err := Inject(patient(t), pid)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(in.FD)
	link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", in.FD))
	if err != nil || !strings.Contains(link, "userfaultfd") {
		t.Fatalf("the descriptor is %q (%v), want a userfaultfd", link, err)
	}
	return in.Stopped
}

func TestInjectLeavesNothingInABlockedProcess(t *testing.T) {
	for _, wait := range []string{
		"read", "nanosleep", "epoll", "epoll-short", "ppoll", "sigsuspend", "sigwait", "futex", "wait", "recv",
		"pause", "spin", "semop", "epoll-pwait",
	} {
		t.Run(wait, func(t *testing.T) {
			t.Parallel()
			p := start(t, "blocked", wait)
			p.waitInCall(wait)
			before := p.fds()
			for range 20 {
				injectInto(t, p.pid)
			}
			if after := p.fds(); strings.Join(after, "\n") != strings.Join(before, "\n") {
				t.Errorf("descriptors are\n%v\nwere\n%v", after, before)
			}
			if status, err := readStatus(p.pid, p.pid); err != nil || status["TracerPid"] != "0" {
				t.Errorf("tracer %q (%v), want none", status["TracerPid"], err)
			}
			// It ends the wait by the signal or the input it waits for, and says
			// whether the call, the registers and the signal mask were as ever.
			p.waitInCall(wait)
			p.in.WriteString("go\n")
			if wait != "read" && wait != "nanosleep" && wait != "epoll-short" {
				p.cmd.Process.Signal(unix.SIGUSR1)
			}
			p.expect("ok")
		})
	}
}

func TestInjectLosesNoSignal(t *testing.T) {
	for _, mode := range []string{"one", "threads"} {
		t.Run(mode, func(t *testing.T) {
			p := start(t, "storm", mode)
			const signals = 20000
			stop := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				// Queued signals: each must be handled, once.
				for i := range signals {
					for {
						err := sigqueue(p.pid, unix.Signal(34+2+i%8), i)
						if err == nil {
							break
						}
						if !errors.Is(err, unix.EAGAIN) {
							t.Error(err)
							return
						}
					}
				}
				close(stop)
			})
			n := 0
			for done := false; !done; n++ {
				select {
				case <-stop:
					done = true
				default:
				}
				injectInto(t, p.pid)
			}
			wg.Wait()
			t.Logf("%d injections", n)
			// It says what it has handled. On a busy machine one of its threads may have more to handle.
			want := fmt.Sprintf("signals %d sum %d bad 0", signals, signals*(signals-1)/2)
			got := p.tell("count")
			for until := time.Now().Add(time.Minute); got != want && time.Now().Before(until); {
				got = p.tell("count")
			}
			if got != want {
				t.Errorf("%s, want %s", got, want)
			}
			if got := p.tell("count"); got != want {
				t.Errorf("then %s, want %s", got, want)
			}
		})
	}
}

func TestInjectIntoProcessUnderSeccomp(t *testing.T) {
	for _, mode := range []string{"kill", "errno", "strict"} {
		t.Run(mode, func(t *testing.T) {
			p := start(t, "seccomp", mode)
			injectInto(t, p.pid)
			if mode == "strict" {
				p.in.WriteString("go\n")
				p.expect("ok")
				return
			}
			if got := p.tell("still filtered"); got != "filtered" {
				t.Errorf("after the injection the process says %q, want that its filter stands", got)
			}
		})
	}
}

func TestInjectIntoStoppedProcessLeavesItStopped(t *testing.T) {
	p := start(t, "blocked", "read")
	if err := unix.Kill(p.pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	waitState(t, p.pid, "T")
	injectInto(t, p.pid)
	waitState(t, p.pid, "T")
	time.Sleep(10 * time.Millisecond)
	waitState(t, p.pid, "T")
	if err := unix.Kill(p.pid, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	p.in.WriteString("go\n")
	p.expect("ok")
}

func TestInjectDuringStopAndContinue(t *testing.T) {
	p := start(t, "storm", "one")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				unix.Kill(p.pid, unix.SIGCONT)
				return
			default:
				unix.Kill(p.pid, unix.SIGSTOP)
				unix.Kill(p.pid, unix.SIGCONT)
			}
		}
	})
	for range 300 {
		injectInto(t, p.pid)
	}
	close(stop)
	wg.Wait()
	if got := p.tell("count"); got != "signals 0 sum 0 bad 0" {
		t.Errorf("afterwards it says %q", got)
	}
}

func TestInjectErrorsLeaveTheProcessAlone(t *testing.T) {
	t.Run("no process", func(t *testing.T) {
		cmd := exec.Command("/bin/true")
		if err := cmd.Run(); err != nil {
			t.Skip(err)
		}
		if _, err := Inject(context.Background(), cmd.Process.Pid); !errors.Is(err, ErrGone) {
			t.Errorf("error %v, want ErrGone", err)
		}
	})
	t.Run("zombie", func(t *testing.T) {
		cmd := exec.Command("/bin/true")
		if err := cmd.Start(); err != nil {
			t.Skip(err)
		}
		waitState(t, cmd.Process.Pid, "Z")
		if _, err := Inject(context.Background(), cmd.Process.Pid); !errors.Is(err, ErrGone) {
			t.Errorf("error %v, want ErrGone", err)
		}
		cmd.Wait()
	})
	t.Run("traced", func(t *testing.T) {
		p := start(t, "blocked", "read")
		traced := make(chan error)
		release := make(chan struct{})
		go onThread(func() bool {
			tr, err := seize(p.pid, p.pid)
			traced <- err
			if err != nil {
				return true
			}
			defer tr.forget()
			<-release
			return false
		})
		if err := <-traced; err != nil {
			t.Fatal(err)
		}
		if _, err := Inject(context.Background(), p.pid); !errors.Is(err, ErrTraced) {
			t.Errorf("error %v, want ErrTraced", err)
		}
		close(release)
		p.in.WriteString("go\n")
		p.expect("ok")
	})
	t.Run("parent of a vfork", func(t *testing.T) {
		p := start(t, "vfork")
		begin := time.Now()
		if _, err := Inject(context.Background(), p.pid); !errors.Is(err, ErrUnreachable) {
			t.Errorf("error %v, want ErrUnreachable", err)
		}
		if took := time.Since(begin); took > time.Minute {
			t.Errorf("gave up after %v", took)
		}
		p.in.WriteString("go\n")
		p.expect("child ok")
		p.expect("parent ok")
		waitUntraced(t, p.pid)
		injectInto(t, p.pid)
	})
	t.Run("killed meanwhile", func(t *testing.T) {
		for range 50 {
			p := start(t, "blocked", "spin")
			var wg sync.WaitGroup
			wg.Go(func() { p.cmd.Process.Kill() })
			in, err := Inject(patient(t), p.pid)
			if err == nil {
				unix.Close(in.FD)
			} else if !errors.Is(err, ErrGone) {
				t.Errorf("error %v, want none or ErrGone", err)
			}
			wg.Wait()
		}
	})
	t.Run("no descriptor free", func(t *testing.T) {
		p := start(t, "blocked", "read")
		none := unix.Rlimit{Cur: 3, Max: 3}
		if err := unix.Prlimit(p.pid, unix.RLIMIT_NOFILE, &none, nil); err != nil {
			t.Skip(err)
		}
		if _, err := Inject(patient(t), p.pid); !errors.Is(err, unix.EMFILE) {
			t.Errorf("error %v, want EMFILE", err)
		}
		p.in.WriteString("go\n")
		p.expect("ok")
	})
}

func TestInjectIntoProcessThatIgnoresTraps(t *testing.T) {
	p := start(t, "blocked", "notrap")
	injectInto(t, p.pid)
	p.in.WriteString("go\n")
	p.expect("ok")
}

func BenchmarkInject(b *testing.B) {
	p := start(b, "blocked", "read")
	var stopped time.Duration
	for b.Loop() {
		stopped += injectInto(b, p.pid)
	}
	b.ReportMetric(float64(stopped.Microseconds())/float64(b.N), "stop-us/op")
}

func TestInjectKeepsRestartableSequences(t *testing.T) {
	p := start(t, "rseq")
	addr, err := strconv.ParseUint(p.line(), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	count := func() uint64 {
		word := make([]byte, 8)
		if readCode(p.pid, addr, word) != 8 {
			t.Fatal("the process cannot be read")
		}
		return binary.LittleEndian.Uint64(word)
	}
	for range 50 {
		before := count()
		injectInto(t, p.pid)
		// The stop itself is one reason to abort; without it in the thread's
		// memory the sequence would never be aborted again.
		for deadline := time.Now().Add(5 * time.Second); count() == before; time.Sleep(100 * time.Microsecond) {
			if time.Now().After(deadline) {
				t.Fatal("the sequence went on as if it had not been interrupted")
			}
		}
	}
}
