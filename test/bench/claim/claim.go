// Package claim is a bench's hold on the directory that its nodes are in. Benches take down what they find there before they begin and
// when they have ended: two of them in one directory would take each other's nodes away.
package claim

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Env is the environment variable that gives a bench a directory of its own.
const Env = "GODWIT_BENCH_DIR"

// Dir is the directory of the bench's nodes: what Env says, or else the machine's.
func Dir() string { return cmp.Or(os.Getenv(Env), "/var/lib/godwit-bench") }

// ErrHeld is returned for a directory that another bench has.
var ErrHeld = errors.New("another bench has the directory: await its end, or name another directory by " + Env)

// Take claims a directory of nodes until release is called; if nobody calls it, the kernel lets go when the process ends. It fails at once with
// ErrHeld, and with what is known of the other, if another bench has it.
func Take(dir string) (release func() error, err error) {
	file := lockFile(dir)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, fmt.Errorf("claim %s: %w", dir, err)
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("claim %s: %w", dir, err)
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil, errors.Join(fmt.Errorf("%s, %s: %w", dir, holder(f), ErrHeld), f.Close())
	case err != nil:
		return nil, errors.Join(fmt.Errorf("claim %s: lock %s: %w", dir, file, err), f.Close())
	}
	if err := sign(f); err != nil {
		return nil, errors.Join(fmt.Errorf("claim %s: %w", dir, err), f.Close())
	}
	return f.Close, nil
}

// lockFile is beside the directory and stays: the directory goes with the nodes, and a lock on what is gone holds nobody up.
func lockFile(dir string) string { return filepath.Clean(dir) + ".lock" }

// sign writes down who has it, for the error of the next.
func sign(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := fmt.Fprintf(f, "process %d since %s: %s\n", os.Getpid(), time.Now().Format(time.DateTime), strings.Join(os.Args, " "))
	return err
}

// maxSignature is what is read of one, bytes.
const maxSignature = 1 << 10

// holder is who has it. One that has only just taken it may not have signed yet.
func holder(f io.Reader) string {
	text, err := io.ReadAll(io.LimitReader(f, maxSignature))
	if err != nil || len(text) == 0 {
		return "by a process that has not said its name"
	}
	return strings.TrimSpace(string(text))
}
