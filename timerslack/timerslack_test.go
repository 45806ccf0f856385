package timerslack

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAllThreadsButTheCallersMayOversleep(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	runtime.LockOSThread() // and is not unlocked: the thread ends with the test
	const by = 70 * time.Microsecond
	if err := Widen(by); err != nil {
		t.Fatal(err)
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	wide := 0
	for _, thread := range threads {
		text, err := os.ReadFile("/proc/" + thread.Name() + "/timerslack_ns")
		if errors.Is(gone(err), os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		is := strings.TrimSpace(string(text)) == strconv.Itoa(int(by))
		if is {
			wide++
		}
		if is && thread.Name() == strconv.Itoa(unix.Gettid()) {
			t.Error("the calling thread may oversleep")
		}
	}
	if wide == 0 {
		t.Errorf("none of %d threads may oversleep", len(threads))
	}
}

func TestAThreadThatEndsMeanwhileIsGone(t *testing.T) {
	for _, err := range []error{&os.PathError{Err: unix.ESRCH}, &os.PathError{Err: unix.ENOENT}} {
		if !errors.Is(gone(err), os.ErrNotExist) {
			t.Errorf("%v is not taken for a thread that is gone", err)
		}
	}
	if err := gone(unix.EPERM); errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v is taken for a thread that is gone", err)
	}
}
