package shim

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestACallThatWaitsForAnExecIsKnown(t *testing.T) {
	const rest = " 0x0 0x0 0x0 0x0 0x0 0x7ffd0 0x7fc54"
	flags := map[uint64]uint64{0x1000: 0x4100, 0x2000: 0x100}
	for call, waits := range map[string]bool{
		"running\n":             true,
		"-1 0x7ffd0 0x7fc54":    false,
		"230 0x0" + rest:        false,
		"58 0x0" + rest:         true,
		"56 0x4011" + rest:      true,
		"56 0x1200011" + rest:   false,
		"435 0x1000" + rest:     true,
		"435 0x2000" + rest:     false,
		"435 0xdead0000" + rest: false,
		"":                      false,
		"nonsense 0x1":          false,
	} {
		got := waitsForExec(call, func(a uint64) (uint64, error) {
			if f, ok := flags[a]; ok {
				return f, nil
			}
			return 0, errors.New("not mapped")
		})
		if got != waits {
			t.Errorf("%q: %v", call, got)
		}
	}
}

// spawner starts a shell command in the cgroup and returns when it has written a line. What is written to the second
// result it can read.
func spawner(t *testing.T, f *freezer, command string, args ...string) (lines *bufio.Reader, stdin io.WriteCloser) {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-c", `echo $$ >"$1/cgroup.procs"; shift; ` + command, "sh", f.dir}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = f.thaw() // or it does not die
		_ = cmd.Wait()
	})
	lines = bufio.NewReader(out)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return lines, stdin
}

func TestAContainerThatSpawnsAllTheTimeIsFrozenAtRest(t *testing.T) {
	for version, f := range freezers(t) {
		t.Run(version, func(t *testing.T) {
			spawner(t, f, "echo in; while :; do /bin/true; done")
			waited := 0
			for range 200 {
				if err := f.freeze(t.Context()); err != nil {
					t.Fatal(err)
				}
				if _, spawning, err := f.spawning(); err != nil {
					t.Fatal(err)
				} else if spawning {
					waited++
				}
				if err := f.thaw(); err != nil {
					t.Fatal(err)
				}
				// On a busy machine a child may wait for a processor at each look.
				_, err := f.freezeAtRest(t.Context())
				for until := time.Now().Add(time.Minute); errors.Is(err, errSpawning) && time.Now().Before(until); {
					_, err = f.freezeAtRest(t.Context())
				}
				if err != nil {
					t.Fatal(err)
				}
				if _, spawning, err := f.spawning(); err != nil || spawning {
					t.Fatalf("frozen at rest, and spawning: %v, %v", spawning, err)
				}
				if err := f.thaw(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Millisecond)
			}
			t.Logf("%d of 200 freezes met a vfork", waited)
		})
	}
}

// vforkTest is set for a process that is between vfork and exec until it reads a byte.
const vforkTest = "GODWIT_TEST_VFORK"

func TestAFreezeBetweenVforkAndExecWaitsForTheExec(t *testing.T) {
	if os.Getenv(vforkTest) != "" {
		vforkAndRead()
		return
	}
	for version, f := range freezers(t) {
		t.Run(version, func(t *testing.T) {
			t.Setenv(vforkTest, "1")
			lines, stdin := spawner(t, f, `exec "$1" -test.run "^$2\$"`, os.Args[0], strings.Split(t.Name(), "/")[0])
			if err := f.freeze(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, spawning, err := f.spawning(); err != nil || !spawning {
				t.Fatalf("spawning: %v, %v", spawning, err)
			}
			if err := f.thaw(); err != nil {
				t.Fatal(err)
			}
			if _, err := f.freezeAtRest(t.Context()); !errors.Is(err, errSpawning) {
				t.Fatalf("never at rest, and frozen: %v", err)
			}
			if _, err := stdin.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := lines.ReadString('\n'); err != nil { // thawed by the failed one
				t.Fatal(err)
			}
			if _, err := f.freezeAtRest(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := f.thaw(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// vforkAndRead spawns a child that reads a byte, and is held up until the child has ended; then it waits for its end.
func vforkAndRead() {
	in, out, b := []byte("in\n"), []byte("out\n"), make([]byte, 1)
	child, _, _ := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_VFORK|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if child == 0 { // nothing of Go's runs in here
		unix.RawSyscall(unix.SYS_WRITE, 1, uintptr(unsafe.Pointer(&in[0])), uintptr(len(in)))
		unix.RawSyscall(unix.SYS_READ, 0, uintptr(unsafe.Pointer(&b[0])), 1)
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	_, _ = os.Stdout.Write(out)
	time.Sleep(time.Hour) // until it is killed
}
