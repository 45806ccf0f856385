package track

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// helperEnv makes the test binary a helper's process.
const helperEnv = "GODWIT_TRACK_TEST_HELPER"

func serveAsHelper() {
	var err error
	switch os.Getenv(helperEnv) {
	case "serve":
		err = ServeInjectorFD(HelperFD)
	case "die":
		os.Exit(3)
	case "stall":
		unix.Read(HelperFD, make([]byte, 1000))
		unix.Read(HelperFD, make([]byte, 1000))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// helper starts the test binary as a helper's process; how says what it does, and
// is asked at each start. pids gets the process ids.
func helper(t testing.TB, how func() string, pids func(int)) *Helper {
	t.Helper()
	needsUffd(t)
	h := NewHelper(func(socket *os.File) (func() error, error) {
		t.Setenv(helperEnv, how())
		defer os.Unsetenv(helperEnv)
		before := children(os.Getpid())
		wait, err := StartCommand(os.Args[0])(socket)
		for pid := range children(os.Getpid()) {
			if !before[pid] {
				pids(pid)
			}
		}
		return wait, err
	})
	t.Cleanup(h.Close)
	return h
}

func serve() string { return "serve" }

func children(pid int) map[int]bool {
	pids := map[int]bool{}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for _, field := range strings.Fields(string(text)) {
			var child int
			fmt.Sscan(field, &child)
			pids[child] = true
		}
	}
	return pids
}

func TestHelperInjectsFromItsOwnProcess(t *testing.T) {
	h := helper(t, serve, func(int) {})
	p := start(t, "blocked", "read")
	before := p.fds()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5 {
				in, err := h.Inject(patient(t), p.pid)
				if err != nil {
					t.Error(err)
					return
				}
				if err := handshake(in.FD); err != nil {
					t.Errorf("the descriptor is no fresh userfaultfd: %v", err)
				}
				if in.Stopped <= 0 || in.Stopped > 5*time.Second {
					t.Errorf("stopped for %v", in.Stopped)
				}
				unix.Close(in.FD)
			}
		})
	}
	wg.Wait()
	if after := p.fds(); strings.Join(after, "\n") != strings.Join(before, "\n") {
		t.Errorf("descriptors are\n%v\nwere\n%v", after, before)
	}
	p.in.WriteString("go\n")
	p.expect("ok")
	p.cmd.Wait()
	if _, err := h.Inject(patient(t), p.pid); !errors.Is(err, ErrGone) {
		t.Errorf("process that ended: error %v, want ErrGone", err)
	}
}

func TestHelperKeepsTheMeaningOfErrors(t *testing.T) {
	for _, want := range []error{ErrGone, ErrTraced, ErrUnreachable, ErrUnsupported, ErrSeccomp, unix.EMFILE} {
		err := describe(fmt.Errorf("userfaultfd in process 1: %w, it said", want)).err()
		if !errors.Is(err, want) {
			t.Errorf("%v arrived as %v", want, err)
		}
	}
	if err := describe(fmt.Errorf("%s", strings.Repeat("x", 1<<20))).err(); len(err.Error()) > maxMessage {
		t.Errorf("error of %d bytes", len(err.Error()))
	}
}

func TestHelperStartsAgainAfterItDied(t *testing.T) {
	how := "serve"
	var pid int
	h := helper(t, func() string { return how }, func(p int) { pid = p })
	p := start(t, "blocked", "read")
	inject := func() error {
		in, err := h.Inject(patient(t), p.pid)
		if err == nil {
			unix.Close(in.FD)
		}
		return err
	}
	if err := inject(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	how = "die"
	if err := inject(); !errors.Is(err, ErrHelperDied) {
		t.Errorf("killed while idle: error %v, want ErrHelperDied", err)
	}
	if err := inject(); !errors.Is(err, ErrHelperDied) {
		t.Errorf("dies at its start: error %v, want ErrHelperDied", err)
	}
	how = "serve"
	if err := inject(); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	p.in.WriteString("go\n")
	p.expect("ok")
}

func TestHelperIgnoresWhatEndsAProgramPolitely(t *testing.T) {
	var pid int
	h := helper(t, serve, func(p int) { pid = p })
	p := start(t, "blocked", "read")
	for range 3 {
		in, err := h.Inject(patient(t), p.pid)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(in.FD)
		for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT} {
			unix.Kill(pid, sig)
		}
	}
}

func TestHelperCallEndsWithItsContext(t *testing.T) {
	h := helper(t, func() string { return "stall" }, func(int) {})
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := h.Inject(ctx, os.Getpid()); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	if _, err := h.Inject(ctx, os.Getpid()); !errors.Is(err, context.Canceled) {
		t.Errorf("second call: error %v, want context.Canceled", err)
	}
}

func TestHelperProcessEndsWithItsOwner(t *testing.T) {
	var pid int
	h := helper(t, serve, func(p int) { pid = p })
	p := start(t, "blocked", "read")
	in, err := h.Inject(patient(t), p.pid)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(in.FD)
	h.Close() // waits for it
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("process %d is still there: %v", pid, err)
	}
	if _, err := h.Inject(patient(t), p.pid); !errors.Is(err, ErrClosed) {
		t.Errorf("closed helper: error %v, want ErrClosed", err)
	}
}

// TestKilledHelperLeavesNoThreadStopped: what is left of an injection whose
// process was killed may be a crash of the target, but never one that hangs.
func TestKilledHelperLeavesNoThreadStopped(t *testing.T) {
	var pid int
	h := helper(t, serve, func(p int) { pid = p })
	crashed := 0
	for i := range 20 {
		p := start(t, "blocked", "spin")
		in, err := h.Inject(patient(t), p.pid) // so that it runs
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(in.FD)
		var wg sync.WaitGroup
		wg.Go(func() {
			time.Sleep(time.Duration(i) * 20 * time.Microsecond)
			unix.Kill(pid, unix.SIGKILL)
		})
		if in, err = h.Inject(patient(t), p.pid); err == nil {
			unix.Close(in.FD)
		} else if !errors.Is(err, ErrHelperDied) {
			t.Errorf("error %v, want none or ErrHelperDied", err)
		}
		wg.Wait()
		p.cmd.Process.Signal(unix.SIGUSR1)
		done := make(chan bool, 1)
		go func() { done <- p.out.Scan() && p.out.Text() == "ok" }()
		select {
		case ok := <-done:
			if !ok {
				crashed++
			}
		case <-time.After(5 * time.Second):
			t.Fatal("the target hangs")
		}
		if in, err = h.Inject(patient(t), os.Getpid()); err == nil { // starts another
			unix.Close(in.FD)
		}
	}
	t.Logf("%d of 20 targets crashed", crashed)
}

// sigqueue sends a queued signal with a value, as sigqueue(3).
func sigqueue(pid int, sig unix.Signal, value int) error {
	info := struct {
		signo, errno, code, _ int32
		pid, uid              int32
		value                 int64
		_                     [12]int64
	}{signo: int32(sig), code: -1 /* SI_QUEUE */, pid: int32(unix.Getpid()), value: int64(value)}
	_, _, errno := unix.Syscall(unix.SYS_RT_SIGQUEUEINFO, uintptr(pid), uintptr(sig), uintptr(unsafe.Pointer(&info)))
	runtime.KeepAlive(&info)
	if errno != 0 {
		return errno
	}
	return nil
}
