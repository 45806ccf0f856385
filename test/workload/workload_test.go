package workload

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// built is the image's root file system, compiled once.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "godwit-workload-test-")
	if err != nil {
		return "", err
	}
	builtDir = dir
	return dir, Build(context.Background(), dir)
})

// builtDir is what TestMain removes; empty if no test built the image.
var builtDir string

func TestMain(m *testing.M) {
	code := m.Run()
	if builtDir != "" {
		os.RemoveAll(builtDir)
	}
	os.Exit(code)
}

// start runs a program of the image outside of any pod, its root file system the image's.
func start(t *testing.T, args ...string) (address, root string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a program gets the image as its root file system: needs root")
	}
	root = t.TempDir()
	image, err := built()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(root, os.DirFS(image)); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"dev/shm", "proc"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/"+args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	// An IPC namespace of its own, as a pod has: System V memory would stay on this machine.
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Setpgid: true, Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWIPC}
	cmd.Dir = "/"
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	return "127.0.0.1:" + args[1], root
}

// Two checks with work in between: a program that were wrong at rest, or after it changed something, would say so.
func TestProgramsAreRightWhenNobodyMovesThem(t *testing.T) {
	for _, args := range [][]string{
		{SharedPair, "17101", "8"},
		{Storm, "17102"},
		{Filer, "17103"},
		{Ticker, "17104", "/lines"},
		{Printer, "17105"},
		{Devices, "17106"},
		{Kinds, "17107"},
	} {
		t.Run(args[0], func(t *testing.T) {
			address, _ := start(t, args...)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			for range 3 {
				figures, err := Check(ctx, address)
				if err != nil {
					t.Fatal(err)
				}
				t.Log(figures)
				time.Sleep(300 * time.Millisecond)
			}
		})
	}
}

// A check that cannot fail proves nothing: something is changed behind each program's back.
func TestProgramsNoticeWhatTheyDidNotDo(t *testing.T) {
	for _, c := range []struct {
		args  []string
		spoil func(t *testing.T, root string)
	}{
		{[]string{SharedPair, "17111", "4"}, func(t *testing.T, _ string) {
			spoilMemory(t, "/"+SharedPair+"\x0017111", func(f []string) bool { return f[1] == "rw-s" && len(f) > 5 && f[5] == "/dev/zero" }, 3<<20+77)
		}},
		{[]string{Storm, "17112"}, func(t *testing.T, _ string) {
			// Every private area without a name that can be written: those of the process's threads are among them.
			spoilMemory(t, "/"+Storm+"\x0017112", func(f []string) bool { return f[1] == "rw-p" && len(f) == 5 }, 100)
		}},
		{[]string{Kinds, "17114"}, func(t *testing.T, _ string) {
			spoilMemory(t, "/"+Kinds+"\x0017114", func(f []string) bool { return f[1] == "r--p" && len(f) == 5 }, 100)
		}},
		{[]string{Filer, "17113"}, func(t *testing.T, root string) {
			f, err := os.OpenFile(filepath.Join(root, "work/blocks"), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte("spoilt"), 1<<20); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.args[0], func(t *testing.T) {
			address, root := start(t, c.args...)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if _, err := Check(ctx, address); err != nil {
				t.Fatal(err)
			}
			c.spoil(t, root)
			_, err := Check(ctx, address)
			if !errors.Is(err, ErrWrong) {
				t.Fatalf("something was changed, and the program says: %v", err)
			}
			t.Log(err)
		})
	}
}

// spoilMemory changes a byte in every area of some kind (as the fields of a line of proc_pid_maps(5) say) of all processes
// with a command line that begins so.
func spoilMemory(t *testing.T, commandLine string, kind func(fields []string) bool, offset int64) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	spoilt := 0
	for _, f := range all {
		if b, err := os.ReadFile(f); err != nil || !strings.HasPrefix(string(b), commandLine) {
			continue
		}
		dir := filepath.Dir(f)
		maps, err := os.ReadFile(filepath.Join(dir, "maps"))
		if err != nil {
			continue // it ended
		}
		mem, err := os.OpenFile(filepath.Join(dir, "mem"), os.O_RDWR, 0)
		if err != nil {
			continue
		}
		defer mem.Close()
		for line := range strings.Lines(string(maps)) {
			fields := strings.Fields(line)
			if !kind(fields) {
				continue
			}
			from, _, _ := strings.Cut(fields[0], "-")
			at, err := strconv.ParseInt(from, 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := mem.WriteAt([]byte{0x5a}, at+offset); err == nil {
				spoilt++
			}
		}
	}
	if spoilt == 0 {
		t.Fatalf("no memory of %q", commandLine)
	}
}

func TestAppendedLinesAreOneSequence(t *testing.T) {
	line := func(n string) string { return n + " 1234567890123456789\n" }
	for _, c := range []struct {
		name, text string
		lines      uint64
		right      bool
	}{
		{"whole", line("000000000001") + line("000000000002"), 2, true},
		{"empty", "", 0, true},
		{"lost", line("000000000001") + line("000000000003"), 1, false},
		{"doubled", line("000000000001") + line("000000000001"), 1, false},
		{"torn", line("000000000001") + "00000000", 1, false},
		{"begins late", line("000000000002"), 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, err := CheckAppended(strings.NewReader(c.text))
			if n != c.lines || (err == nil) != c.right {
				t.Fatalf("%d lines, error %v", n, err)
			}
		})
	}
}

func TestLogsOfTwoContainersAreOneSequence(t *testing.T) {
	p := Printed{}
	for _, log := range []string{
		"2026-01-01T00:00:00.0Z stdout F out 000000000001 0123456789abcdef\n2026-01-01T00:00:00.0Z stdout P out 00000\n" +
			"2026-01-01T00:00:00.0Z stderr F err 000000000001\n2026-01-01T00:00:00.0Z stdout F 0000002 0123456789abcdef\n",
		"2026-01-01T00:00:00.0Z stderr F err 000000000002\n",
	} {
		if err := p.ReadLog(strings.NewReader(log)); err != nil {
			t.Fatal(err)
		}
	}
	for _, stream := range []string{"stdout", "stderr"} {
		if err := p.Whole(stream, 2); err != nil {
			t.Error(err)
		}
	}
	if err := p.Whole("stdout", 3); !errors.Is(err, ErrSequence) {
		t.Errorf("a lost end is not noticed: %v", err)
	}
	p["stdout"] = []uint64{1, 2, 2, 3}
	if err := p.Whole("stdout", 3); !errors.Is(err, ErrSequence) {
		t.Errorf("a doubled line is not noticed: %v", err)
	}
}
