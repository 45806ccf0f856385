package shim

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

func TestBirthIsReadPastAnyName(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	before, err := birth(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	// The kernel shows 15 bytes of the name.
	name := filepath.Join(t.TempDir(), "a) 1 (2) 3")
	if err := os.Symlink(self, name); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // two of the kernel's ticks
	cmd := exec.Command(name, "-test.run", "^TestWaitsForItsInput$")
	cmd.Env = append(os.Environ(), "GODWIT_TEST_WAIT=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	later, err := birth(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	a, errA := strconv.ParseUint(before, 10, 64)
	b, errB := strconv.ParseUint(later, 10, 64)
	if errA != nil || errB != nil || b <= a || b > a+100*3600 {
		t.Errorf("started at %s, then at %s", before, later)
	}
}

// TestWaitsForItsInput is no test but the process of the one above.
func TestWaitsForItsInput(t *testing.T) {
	if os.Getenv("GODWIT_TEST_WAIT") == "" {
		t.Skip("only as a process of another test")
	}
	io.Copy(io.Discard, os.Stdin)
}
