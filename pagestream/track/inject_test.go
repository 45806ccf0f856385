package track

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream/pagemap"
)

// buildOnce compiles testdata/NAME.c once for all tests.
var (
	buildMu  sync.Mutex // guards buildDir and built
	buildDir string
	built    = map[string]string{}
)

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		serveAsHelper()
		return
	}
	code := m.Run()
	if buildDir != "" {
		os.RemoveAll(buildDir)
	}
	os.Exit(code)
}

// program compiles testdata/NAME.c.
func program(t testing.TB, name string) string {
	t.Helper()
	buildMu.Lock()
	defer buildMu.Unlock()
	if path, ok := built[name]; ok {
		return path
	}
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler to build the test's processes with: ", err)
	}
	if buildDir == "" {
		if buildDir, err = os.MkdirTemp("", "track"); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(buildDir, name)
	out, err := exec.Command(cc, "-O1", "-Wall", "-pthread", "-o", path, filepath.Join("testdata", name+".c")).CombinedOutput()
	if err != nil {
		t.Fatalf("compile %s: %v\n%s", name, err, out)
	}
	built[name] = path
	return path
}

// target is a running test process. It is told what to do by lines on its input
// and answers each with one line.
type target struct {
	t   testing.TB
	cmd *exec.Cmd
	in  *os.File
	out *bufio.Scanner
	pid int

	pipe *os.File // what out reads
}

func start(t testing.TB, name string, args ...string) *target {
	t.Helper()
	needsUffd(t)
	cmd := exec.Command(program(t, name), args...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &target{t: t, cmd: cmd, in: in.(interface{ Fd() uintptr }).(*os.File), out: bufio.NewScanner(out), pid: cmd.Process.Pid, pipe: out.(*os.File)}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	switch line := p.line(); line {
	case "ready":
	default:
		t.Skip("process cannot do its part here: ", line)
	}
	return p
}

func needsUffd(t testing.TB) {
	t.Helper()
	for _, probe := range []func() error{pagemap.ProbeScan, pagemap.ProbeWPAsync} {
		if err := probe(); err != nil {
			t.Skip(err)
		}
	}
}

func (p *target) line() string {
	p.t.Helper()
	if err := p.pipe.SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil { // far beyond what a busy machine takes
		p.t.Fatal(err)
	}
	if !p.out.Scan() {
		call, _ := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", p.pid))
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
		p.t.Fatalf("process %d ended its output, or answers nothing: %v; it is in %s\n%s", p.pid, p.out.Err(), call, status)
	}
	return p.out.Text()
}

func (p *target) expect(want string) {
	p.t.Helper()
	if got := p.line(); got != want {
		p.t.Fatalf("process %d said %q, want %q", p.pid, got, want)
	}
}

// tell sends a command and returns the answer.
func (p *target) tell(format string, args ...any) string {
	p.t.Helper()
	fmt.Fprintf(p.in, format+"\n", args...)
	return p.line()
}

func (p *target) fds() []string {
	p.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", p.pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		p.t.Fatal(err)
	}
	var fds []string
	for _, e := range entries {
		to, _ := os.Readlink(filepath.Join(dir, e.Name()))
		fds = append(fds, e.Name()+" "+to)
	}
	return fds
}

// injectInto injects and closes the descriptor, and returns how long the target
// stood still.
func injectInto(t testing.TB, pid int) time.Duration {
	t.Helper()
	in, err := Inject(context.Background(), pid)
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

// waitInCall waits until the process is in its call, or back in it: a signal that comes between the end of a stop and the start
// of the call again is handled before it, and the call waits for another (arch_do_signal_or_restart only winds back the
// instruction pointer). So it is with every stop, SIGSTOP's too.
func (p *target) waitInCall(call string) {
	p.t.Helper()
	numbers, known := map[string][]int{
		"read": {unix.SYS_READ}, "epoll": {unix.SYS_EPOLL_WAIT}, "ppoll": {unix.SYS_PPOLL}, "sigsuspend": {unix.SYS_RT_SIGSUSPEND},
		"sigwait": {unix.SYS_RT_SIGTIMEDWAIT}, "futex": {unix.SYS_FUTEX}, "wait": {unix.SYS_WAIT4}, "recv": {unix.SYS_RECVFROM},
		"pause": {unix.SYS_PAUSE}, "semop": {unix.SYS_SEMOP, unix.SYS_SEMTIMEDOP}, "epoll-pwait": {unix.SYS_EPOLL_PWAIT},
	}[call]
	if !known {
		time.Sleep(20 * time.Millisecond) // it spins, or waits for a time that is over soon
		return
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", p.pid))
		if err != nil {
			p.t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(b), " ")
		if n, err := strconv.Atoi(first); err == nil && slices.Contains(numbers, n) {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("process %d is not in its call: %s", p.pid, b)
		}
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
			if got, want := p.tell("count"), fmt.Sprintf("signals %d sum %d bad 0", signals, signals*(signals-1)/2); got != want {
				t.Errorf("%s, want %s", got, want)
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

// waitState waits until the process is in the state that /proc names with the
// letter.
func waitState(t testing.TB, pid int, letter string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		status, err := readStatus(pid, pid)
		if err == nil && strings.HasPrefix(status["State"], letter) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("state of process %d is %q (%v), want %s", pid, status["State"], err, letter)
		}
	}
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
		if took := time.Since(begin); took > 4*defaultPatience {
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
			in, err := Inject(context.Background(), p.pid)
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
		if _, err := Inject(context.Background(), p.pid); !errors.Is(err, unix.EMFILE) {
			t.Errorf("error %v, want EMFILE", err)
		}
		p.in.WriteString("go\n")
		p.expect("ok")
	})
}

func waitUntraced(t testing.TB, pid int) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		status, err := readStatus(pid, pid)
		if err == nil && status["TracerPid"] == "0" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still traced by %q (%v)", pid, status["TracerPid"], err)
		}
	}
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
