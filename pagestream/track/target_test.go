package track

import (
	"bufio"
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

// zeroPage fails on a kernel that gives memory which is only read a page of its own.
func zeroPage() error {
	if pagemap.ZeroFrame() == 0 {
		return errors.New("this kernel has no page of zeros, or does not tell")
	}
	return nil
}

func needsZeroPage(t *testing.T) {
	t.Helper()
	if err := zeroPage(); err != nil {
		t.Skip(err)
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
