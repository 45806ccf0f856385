package precopy

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagemap"
)

var buildPod = sync.OnceValues(func() (string, error) {
	path := filepath.Join(podDir, "pod")
	out, err := exec.Command("cc", "-O1", "-Wall", "-Werror", "-pthread", "-o", path, "testdata/pod.c").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("compile testdata/pod.c: %w: %s", err, out)
	}
	return path, nil
})

var podDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "precopy")
	if err != nil {
		panic(err)
	}
	podDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// pod is a running testdata/pod.c.
type pod struct {
	pid   int
	start uint64 // address of its memory
	pages int
	space pagestream.Space
	in    *os.File
	out   *bufio.Reader
}

func startPod(tb testing.TB, mode string, pages int) *pod {
	tb.Helper()
	path, err := buildPod()
	if err != nil {
		tb.Skip(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(path, mode, strconv.Itoa(pages))
	cmd.Stdin = r
	// CRIU dumps System V segments only together with their namespace, and no
	// process whose session was made outside of its PID namespace, where these
	// tests themselves may run.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWIPC, Setsid: true}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		tb.Fatal(err)
	}
	r.Close()
	// To measure a pod in a control group beside ours: the group's tasks file.
	if tasks := os.Getenv("POD_CGROUP"); tasks != "" {
		if err := os.WriteFile(tasks, []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
			tb.Fatal(err)
		}
	}
	tb.Cleanup(func() {
		defer w.Close()
		_ = unix.Kill(cmd.Process.Pid, unix.SIGSTOP) // no more children
		for _, pid := range children(tb, cmd.Process.Pid) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	p := &pod{
		pid: cmd.Process.Pid, pages: pages, in: w, out: bufio.NewReader(out),
		space: pagestream.Space{Kind: pagestream.Process, ID: uint64(cmd.Process.Pid)},
	}
	line, err := p.out.ReadString('\n')
	if err == nil && mode != "ticker" {
		p.start, err = strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	}
	if err != nil {
		tb.Fatalf("pod %s says %q: %v", mode, line, err)
	}
	return p
}

// whole is the pod's memory as a tracker would report it.
func (p *pod) whole() []Memory {
	return []Memory{{p.pid, p.space, []pagestream.Range{{Start: p.start, Pages: uint64(p.pages)}}}}
}

// worst is by how many microseconds the ticker was late at most since it was
// asked last.
func (p *pod) worst(tb testing.TB) int {
	tb.Helper()
	fmt.Fprintln(p.in, "?")
	line, err := p.out.ReadString('\n')
	if err != nil {
		tb.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// freeze stops the processes and waits until they have stopped.
func freeze(tb testing.TB, pids ...int) {
	tb.Helper()
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			tb.Fatal(err)
		}
	}
	for _, pid := range pids {
		for !stopped(tb, pid) {
			time.Sleep(time.Millisecond)
		}
	}
}

// stopped says whether a process has stopped, or ended.
func stopped(tb testing.TB, pid int) bool {
	status := statusOf(tb, pid)
	return strings.Contains(status, "State:\tT") || strings.Contains(status, "State:\tZ")
}

func statusOf(tb testing.TB, pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

// children lists the processes whose parent is pid.
func children(tb testing.TB, pid int) []int {
	tb.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, os.ErrNotExist) {
		tb.Fatal(err)
	}
	var pids []int
	for _, f := range strings.Fields(string(b)) {
		n, err := strconv.Atoi(f)
		if err != nil {
			tb.Fatal(err)
		}
		pids = append(pids, n)
	}
	return pids
}

// memoryOf reads memory of a process that does not run.
func memoryOf(tb testing.TB, pid int, r pagestream.Range) []byte {
	tb.Helper()
	buf := make([]byte, r.Bytes())
	missing, err := pagemap.ReadMemory(pid, []pagestream.Range{r}, buf)
	if err != nil || len(missing) > 0 {
		tb.Fatalf("read %s of process %d: %v, missing %v", r, pid, err, missing)
	}
	return buf
}

// ends tells whether a process ends within some seconds.
func ends(tb testing.TB, pidfd int) bool {
	tb.Helper()
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 5000)
		if !errors.Is(err, unix.EINTR) {
			return err == nil && n == 1
		}
	}
}

// A test that is killed closes its end of the pipe, and does nothing else.
func TestAPodEndsWithWhoStartedIt(t *testing.T) {
	for _, mode := range []string{"still", "shared"} {
		p := startPod(t, mode, 64)
		freeze(t, p.pid)
		pids := append(children(t, p.pid), p.pid)
		freeze(t, pids...)
		var fds []int
		for _, pid := range pids {
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			fds = append(fds, fd)
		}
		p.in.Close()
		for i, fd := range fds {
			if !ends(t, fd) {
				t.Errorf("%s: process %d of %v goes on", mode, pids[i], pids)
			}
		}
	}
}
