package lab

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("1 (init) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 42 0 0"))
	f.Add([]byte("1 (a) b) (c) R 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 42 0 0"))
	f.Add([]byte(") "))
	f.Fuzz(func(t *testing.T, b []byte) { parseStat(b) }) // does not panic
}

func TestStatTellsAProcessFromALaterOneOfItsNumber(t *testing.T) {
	if state, ticks, err := parseStat([]byte("1 (a) b) (c) R 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 42 0 0")); err != nil || state != 'R' || ticks != 42 {
		t.Errorf("state %c, ticks %d, %v", state, ticks, err)
	}
	_, ticks, err := stat(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !sameProcess(os.Getpid(), ticks) || sameProcess(os.Getpid(), ticks+1) || sameProcess(0, 0) {
		t.Error("this process is not recognised")
	}
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, ticks, err = stat(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	awaitEnd(cmd.Process.Pid, 10*time.Second)
	if sameProcess(cmd.Process.Pid, ticks) {
		t.Error("a zombie counts as running")
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}
