package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/test/vm/guest"
)

// boot runs a command in a machine, and says what it wrote.
func boot(t *testing.T, ctx context.Context, shell string) (m *machine, wrote string, code int, err error) {
	t.Helper()
	if testing.Short() {
		t.Skip("it boots a machine")
	}
	if os.Geteuid() != 0 {
		t.Skip("it needs root")
	}
	o, err := parseFlags([]string{"-shell", shell, "-memory", "1024", "-out", t.TempDir()}, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	m, err = prepare(t.Context(), o, t.TempDir(), slog.New(slog.DiscardHandler))
	if errors.Is(err, errNoEmulator) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	m.stdout = &out
	code, err = m.run(ctx)
	return m, out.String(), code, err
}

// gone fails the test if an emulator of the machine still runs.
func gone(t *testing.T, m *machine) {
	t.Helper()
	cmdlines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range cmdlines {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), "qemu-system") && strings.Contains(string(b), m.dir) {
			t.Errorf("%s is an emulator of this machine", f)
		}
	}
}

func TestAMachineHasWhatItIsForAndGivesTheExitStatusBack(t *testing.T) {
	m, wrote, code, err := boot(t, t.Context(), `uname -r
cat /sys/fs/cgroup/cgroup.controllers
grep -c ' cgroup ' /proc/mounts
criu check --feature mem_dirty_track
test -x /payload/bin/godwitctl && test -x /payload/workloads/ticker && echo payload
echo come back >/out/file
exit 7`)
	if err != nil {
		t.Fatal(err)
	}
	gone(t, m)
	if code != 7 {
		t.Errorf("exit status %d", code)
	}
	for _, want := range []string{"cloud", "memory", "\n0\n", "mem_dirty_track is supported", "payload"} {
		if !strings.Contains(wrote, want) {
			t.Errorf("no %q in\n%s", want, wrote)
		}
	}
	if b, err := os.ReadFile(filepath.Join(m.out, "file")); err != nil || string(b) != "come back\n" {
		t.Errorf("the file: %q, %v", b, err)
	}
}

func TestAKernelThatPanicsIsAnErrorWithTheConsole(t *testing.T) {
	m, _, _, err := boot(t, t.Context(), "echo c >/proc/sysrq-trigger; sleep 1000")
	if !errors.Is(err, errEnded) || !strings.Contains(err.Error(), "Kernel panic") {
		t.Errorf("%v", err)
	}
	gone(t, m)
}

func TestAMachineThatHangsIsTakenAwayAtItsDeadline(t *testing.T) {
	late := errors.New("too late")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 40*time.Second, late)
	defer cancel()
	m, _, _, err := boot(t, ctx, "sleep 1000")
	if !errors.Is(err, late) {
		t.Errorf("%v", err)
	}
	gone(t, m)
}

func TestAFileThatComesBackStaysInItsDirectory(t *testing.T) {
	dir := t.TempDir()
	m := &machine{out: filepath.Join(dir, "out"), log: slog.New(slog.DiscardHandler)}
	for _, name := range []string{"../x", "/etc/x", "a/../../x", ""} {
		if err := m.save(guest.File{Name: name, Data: []byte("x")}); err == nil {
			t.Errorf("%q was written", name)
		}
	}
	if err := m.save(guest.File{Name: "a/b", Data: []byte("x")}); err != nil {
		t.Error(err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("%d files beside it", len(files)-1)
	}
}

func TestAMessageOfNoStepIsAnError(t *testing.T) {
	m := &machine{log: slog.New(slog.DiscardHandler), stdout: new(bytes.Buffer)}
	for _, step := range []int{-1, 0, 1} {
		if _, _, err := m.heed(guest.Message{Step: step, Ended: &guest.Ended{}}); err == nil {
			t.Errorf("step %d of none has ended", step)
		}
	}
	if done, _, err := m.heed(guest.Message{Done: true}); !done || err != nil {
		t.Error(done, err)
	}
	if _, _, err := m.heed(guest.Message{Failed: "no disk"}); err == nil || !strings.Contains(err.Error(), "no disk") {
		t.Error(fmt.Errorf("failed: %w", err))
	}
}

func TestTheEndBeginsWithTheKernelsComplaint(t *testing.T) {
	long := "booting\n" + strings.Repeat("x\n", 100)
	for text, want := range map[string]int{
		"a\nb":       2,
		long + "end": 40,
		long + "Oops: 0\n" + strings.Repeat("y\n", 90): 92,
		long + "Oops: 0\nKernel panic\n" + long:        104,
	} {
		if have := strings.Count(theEnd(text), "\n") + 1; have != want {
			t.Errorf("%d lines, want %d", have, want)
		}
	}
}
