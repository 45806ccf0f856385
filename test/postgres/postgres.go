// Package postgres is a workload: a PostgreSQL with pgbench in the same container, many processes with shared memory, sockets and files, and
// the questions whose answers tell whether it is whole.
package postgres

import (
	"context"
	_ "embed"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/lab"
)

const (
	// Port is where it listens.
	Port = "5432"
	// Files is the directory with all that it writes, in its container's file system, without a slash at its begin.
	Files = "tmp/postgres"
	// Clients is how many connections pgbench has, and Rate how many transactions a second it makes on all of them.
	Clients = 4
	Rate    = 200
)

const (
	// numbers is a table for a client.
	numbers = "numbers"
	// nobody is a user that every Debian has, by number: a PostgreSQL does not run as root, and the number of a user of its own is known
	// to nobody but the image.
	nobody = 65534
	// scaleBytes is what pgbench's tables and their indices have for each step of its scale: 100,000 accounts.
	scaleBytes = 16 << 20
)

// Program is how it is run.
type Program struct {
	Args []string
	// User is who runs it, by number.
	User int64
}

//go:embed start.sh
var startScript string

// New is a PostgreSQL with so much memory, bytes: half of it shared buffers, half of it its database's files.
func New(ctx context.Context, memory int64) (Program, error) {
	user, library, err := disguise(ctx)
	if err != nil {
		return Program{}, fmt.Errorf("postgres: %w", err)
	}
	buffers, scale := memory/2>>20, max(memory/2/scaleBytes, 1)
	return Program{User: user, Args: []string{
		"bash", "-c", startScript, "bash", "/" + Files, Port, strconv.FormatInt(buffers, 10), strconv.FormatInt(scale, 10),
		strconv.Itoa(Clients), strconv.Itoa(Rate), numbers, library,
	}}, nil
}

// Image gives the lab's nodes the image with it.
func Image(ctx context.Context, l *lab.Lab) (string, error) {
	return l.AddImage(ctx, lab.ImageSpec{Name: "postgres", Debian: []string{"postgresql"}})
}

//go:embed nobody/nobody.c
var nobodySource string

// disguise is who runs a PostgreSQL, and, in base64, a library that makes it believe that nobody does who runs it as root. It has to be root on
// machines in a sandbox: CRIU reads the limits of another user's process with prlimit, which takes CAP_SYS_RESOURCE (kernel: kernel/sys.c,
// check_prlimit_permission). Elsewhere there is no library.
func disguise(ctx context.Context) (user int64, library string, err error) {
	var have [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &have[0]); err != nil {
		return 0, "", fmt.Errorf("capabilities: %w", os.NewSyscallError("capget", err))
	}
	if have[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0 {
		return nobody, "", nil
	}
	dir, err := os.MkdirTemp("", "godwit-postgres-")
	if err != nil {
		return 0, "", err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "nobody.so")
	cc := exec.CommandContext(ctx, "cc", "-shared", "-fPIC", "-nostdlib", "-Os", "-s", "-x", "c", "-o", file, "-")
	cc.Stdin = strings.NewReader(nobodySource)
	if out, err := cc.CombinedOutput(); err != nil {
		return 0, "", fmt.Errorf("compile a library: %w: %s", err, out)
	}
	b, err := os.ReadFile(file)
	return 0, base64.StdEncoding.EncodeToString(b), err
}
