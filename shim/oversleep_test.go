package shim

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"godwit.dev/godwit/timerslack"
)

func TestThreadsMayOversleepAsTheyMight(t *testing.T) {
	pids := make([]int, 3)
	for i := range pids {
		sleeper := exec.Command("sleep", "60")
		if err := sleeper.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() })
		pids[i] = sleeper.Process.Pid
		if err := timerslack.Set(pids[i], uint64(timerslack.Usual)); err != nil {
			t.Skip(err) // a kernel that does not tell, or nobody who may
		}
	}
	images := t.TempDir()
	if err := saveOversleep(images, pids); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(images, oversleepFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something is said of threads that have the usual: %v", err)
	}
	want := []uint64{1, uint64(timerslack.Usual), 1_000_000}
	for i, pid := range pids {
		if err := timerslack.Set(pid, want[i]); err != nil {
			t.Fatal(err)
		}
	}
	gone := 1 << 22 // over every process there is
	if err := saveOversleep(images, append(pids, gone)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(images, oversleepFile))
	if err != nil {
		t.Fatal(err)
	}
	var unusual map[int]uint64
	if err := json.Unmarshal(text, &unusual); err != nil {
		t.Fatal(err)
	}
	if len(unusual) != 2 {
		t.Errorf("it says %s of %v", text, pids)
	}
	for _, pid := range pids {
		if err := timerslack.Set(pid, uint64(timerslack.Usual)); err != nil {
			t.Fatal(err)
		}
	}
	if err := setOversleep(append(pids, gone), unusual); err != nil {
		t.Fatal(err)
	}
	for i, pid := range pids {
		if got, err := timerslack.Of(pid); got != want[i] || err != nil {
			t.Errorf("process %d may oversleep by %d (%v), might by %d", i, got, err, want[i])
		}
	}
}
