package criunode

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

//go:embed testdata/memory.c
var memorySource string

// EnvMemory names testdata/memory.c compiled, for a machine without a compiler.
const EnvMemory = "GODWIT_CRIU_MEMORY"

// MemoryName is the name of the processes that StartMemory starts.
const MemoryName = "memory"

// startLimit is how long a program may take to fill its memory.
const startLimit = time.Minute

// StartMemory starts a tree of two processes with megabytes of private memory
// of known content, with shared memory of every kind that CRIU dumps, and with
// sparse and unreadable areas, in an IPC namespace of its own; see testdata/memory.c. It returns the pid of the first in
// the node. An error wraps ErrUnavailable where there is no C compiler.
func (n *Node) StartMemory(ctx context.Context, megabytes int) (pid int, err error) {
	if err := makeMemory(ctx, n.Path("/tmp/"+MemoryName)); err != nil {
		return 0, err
	}
	// A restartable sequences area would change whenever the process is moved to
	// another processor.
	start := n.Command(ctx, "bash", "-c", `GLIBC_TUNABLES=glibc.pthread.rseq=0 unshare --ipc setsid "$@" </dev/null >/dev/null 2>&1 & echo $!`, "start",
		"/tmp/"+MemoryName, "/tmp/memory.log", strconv.Itoa(megabytes))
	out, err := start.Output()
	if err != nil {
		return 0, fmt.Errorf("start the program to dump: %w", err)
	}
	if err := n.Await(ctx, "/tmp/memory.log", "process 0 is ready\n", "process 1 is ready\n"); err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(out)))
}

// Await waits until a file in the node has all the strings.
func (n *Node) Await(ctx context.Context, file string, want ...string) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		b, _ := os.ReadFile(n.Path(file))
		missing := ""
		for _, w := range want {
			if !strings.Contains(string(b), w) {
				missing = w
			}
		}
		if missing == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s has %q, not %q: %w", file, b, missing, ctx.Err())
		case <-tick.C:
		}
	}
}

// makeMemory puts the program that StartMemory starts where path says.
func makeMemory(ctx context.Context, path string) error {
	if built := os.Getenv(EnvMemory); built != "" {
		b, err := os.ReadFile(built)
		if err != nil {
			return fmt.Errorf("the program to dump: %w", err)
		}
		return os.WriteFile(path, b, 0o755)
	}
	return compile(ctx, memorySource, path)
}

// compile makes a program from its source.
func compile(ctx context.Context, source, path string, flags ...string) error {
	if _, err := exec.LookPath("cc"); err != nil {
		return fmt.Errorf("no C compiler, and %s names no compiled program: %w: %w", EnvMemory, err, ErrUnavailable)
	}
	cc := exec.CommandContext(ctx, "cc", append(flags, "-O2", "-static", "-x", "c", "-o", path, "-")...)
	cc.Stdin = strings.NewReader(source)
	if out, err := cc.CombinedOutput(); err != nil {
		return fmt.Errorf("compile the program to dump: %w: %s", err, out)
	}
	return nil
}

// Write has the first process of StartMemory write to a fiftieth of its private
// memory, to pages that it had not touched, and to shared memory, and waits
// until it has, for so many times in all.
func (n *Node) Write(ctx context.Context, pid, times int) error {
	if out, err := n.Command(ctx, "kill", "-USR2", strconv.Itoa(pid)).CombinedOutput(); err != nil {
		return fmt.Errorf("signal the program to dump: %w: %s", err, out)
	}
	return n.Await(ctx, "/tmp/memory.log", fmt.Sprintf("written %d times\n", times))
}

// GiveUp has the first process of StartMemory give up a quarter of its private
// memory, and waits until it has.
func (n *Node) GiveUp(ctx context.Context, pid int) error {
	if out, err := n.Command(ctx, "kill", "-USR1", strconv.Itoa(pid)).CombinedOutput(); err != nil {
		return fmt.Errorf("signal the program to dump: %w: %s", err, out)
	}
	return n.Await(ctx, "/tmp/memory.log", "given up\n")
}
