package timerslack

import (
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
		if os.IsNotExist(err) {
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
