package criu

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// runHere runs a command as a shim does, without its reaper.
func runHere(_ context.Context, cmd *exec.Cmd) error { return cmd.Run() }

func TestCRIUWorksInsideATimeNamespace(t *testing.T) {
	if _, err := os.Stat("/proc/self/ns/time"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root, and a kernel with time namespaces")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	restored := exec.CommandContext(ctx, "unshare", "--time", "--fork", "--kill-child", "sh", "-c", "echo $$; exec sleep 60")
	out, err := restored.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := restored.Start(); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		_ = restored.Process.Kill()
		_ = restored.Wait()
	})
	said, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(said, &pid); err != nil {
		t.Fatal(err)
	}
	if ns, err := TimeNamespace(ctx, os.Getpid(), runHere); err != nil || ns != "" {
		t.Errorf("to enter our own: %q, %v", ns, err)
	}
	ns, err := TimeNamespace(ctx, pid, runHere)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.Readlink(ns)
	if err != nil {
		t.Fatal(err)
	}

	files, _ := testRelay(t, PreDump)
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "criu"), []byte("#!/bin/sh\necho $$ \"$@\"\nreadlink /proc/self/ns/time\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(files.bin(), standInCRIU), "--version")
	cmd.Args[0] = standInCRIU
	cmd.Env = append(files.environment([]string{"PATH=" + bin + ":" + os.Getenv("PATH")}), EnvTime+"="+ns)
	var answer strings.Builder
	cmd.Stdout, cmd.Stderr = &answer, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	// The process that runc has started is CRIU.
	if got, want := answer.String(), fmt.Sprintf("%d --version\n%s\n", cmd.Process.Pid, want); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if _, err := TimeNamespace(ctx, pid, func(context.Context, *exec.Cmd) error { return exec.ErrNotFound }); err == nil {
		t.Error("a namespace is entered that nothing enters")
	}
}
