package criu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Stage is a point at which CRIU calls its action script and waits for it
// (criu/action-scripts.c, action_names).
type Stage string

const (
	// PreDump comes before CRIU looks at any process: nothing needs to be
	// frozen until here.
	PreDump Stage = "pre-dump"
	// PostDump comes when the images are complete and the processes are still
	// stopped. A verdict other than Go lets them run on.
	PostDump Stage = "post-dump"
	// PostRestore comes when all processes exist again and wait inside CRIU's
	// restorer. They run only if CRIU goes on: if it dies here, or gets a
	// verdict other than Go, they never run.
	PostRestore Stage = "post-restore"
	// PreResume is CRIU's last step before it detaches from the processes, and they
	// run. The verdict is only logged here, and a CRIU that dies lets them go: to hold
	// them back it must not be answered, and all of them be killed with it.
	PreResume Stage = "pre-resume"

	// statusReady is where CRIU would begin to serve the pages of a lazy dump (criu/util.c, status_ready).
	// That comes only after a Stop at PostDump. It is always stopped there, and lets go of the processes.
	statusReady Stage = "status-ready"
)

// Verdict is what the action script exits with.
type Verdict int

const (
	// Go lets CRIU continue.
	Go Verdict = 0
	// Stop makes CRIU undo what it did.
	Stop Verdict = 1
)

// gateScript reports each stage and its parent, which is CRIU, and waits for
// the verdict. Without an answer, when the other end has died, it says Stop, as
// it does at statusReady.
const gateScript = `#!/bin/sh
[ "$CRTOOLS_SCRIPT_ACTION" != status-ready ] || exit 1
case " %s " in *" $CRTOOLS_SCRIPT_ACTION "*) ;; *) exit 0 ;; esac
exec 3<'%s' || exit 1
echo "$CRTOOLS_SCRIPT_ACTION $PPID" >'%s' || exit 1
read -r verdict <&3 || exit 1
exit "$verdict"
`

// Arrival says that CRIU waits at a stage.
type Arrival struct {
	Stage Stage
	// PID of the CRIU process that waits.
	PID int
}

// gate holds CRIU at stages until a verdict is given.
type gate interface {
	// Wait returns when CRIU has arrived at the stage. It fails when ctx ends, with
	// its cause, and when CRIU arrives elsewhere first.
	Wait(ctx context.Context, stage Stage) (Arrival, error)
	// Answer gives the verdict of the stage at which CRIU waits, or of the next.
	Answer(v Verdict) error
	// Close takes the gate down; who still waits hears Stop. The directory stays.
	Close()
	// configure has CRIU pass here: it changes what this machine has configured, of which scripts are the lines that name
	// action scripts.
	configure(others, scripts []string) []string
}

// Gate is the gate of a CRIU that calls action scripts. It lives in a directory
// of its own: two FIFOs and an action script, which is in memory if nothing can be
// executed there.
type Gate struct {
	arrivals
	script   string
	memory   *os.File // that the script is in, if not in a file of dir
	up, down *os.File

	closing sync.Once
	reader  sync.WaitGroup
}

// arrivals are where CRIU has come to.
type arrivals chan Arrival

// NewGate makes a gate in dir, which must exist and belong to the caller, that
// stops CRIU at the given stages and lets it pass all others.
func NewGate(dir string, stages ...Stage) (*Gate, error) {
	g := &Gate{arrivals: make(chan Arrival, len(stages))}
	upPath, downPath := filepath.Join(dir, "stage"), filepath.Join(dir, "verdict")
	names := make([]string, len(stages))
	for i, s := range stages {
		names[i] = string(s)
	}
	err := g.place(dir, fmt.Sprintf(gateScript, strings.Join(names, " "), downPath, upPath))
	if err != nil {
		return nil, err
	}
	if g.up, err = openFIFO(upPath); err != nil {
		g.memory.Close()
		return nil, err
	}
	if g.down, err = openFIFO(downPath); err != nil {
		g.memory.Close()
		g.up.Close()
		return nil, err
	}
	g.reader.Add(1)
	go g.read()
	return g, nil
}

// place puts the script where it can be executed: in dir, or in memory if dir is mounted
// noexec, as /run is where an initramfs of initramfs-tools has mounted it.
func (g *Gate) place(dir, script string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("directory for the action script: %w", err)
	}
	if fs.Flags&unix.ST_NOEXEC == 0 {
		g.script = filepath.Join(dir, "action")
		if err := os.WriteFile(g.script, []byte(script), 0o700); err != nil {
			return fmt.Errorf("write action script: %w", err)
		}
		return nil
	}
	memory, err := executable(script)
	if err != nil {
		return fmt.Errorf("action script in memory, as %s is mounted noexec: %w", dir, err)
	}
	g.memory = memory
	g.script = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), memory.Fd())
	return nil
}

// executable makes a file in memory that can be executed: nobody has it open to write.
func executable(text string) (*os.File, error) {
	fd, err := unix.MemfdCreate("godwit-action", unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 all of them could be
		fd, err = unix.MemfdCreate("godwit-action", unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, err
	}
	writable := os.NewFile(uintptr(fd), "action")
	defer writable.Close()
	if _, err := writable.WriteString(text); err != nil {
		return nil, err
	}
	return os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// openFIFO makes a FIFO and opens both its ends, so that neither opening nor
// reading depends on when the script comes.
func openFIFO(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove old fifo: %w", err)
	}
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, fmt.Errorf("make fifo %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open fifo: %w", err)
	}
	return f, nil
}

// configure names our action script last: CRIU calls it first. The network is not locked by CRIU.
func (g *Gate) configure(others, scripts []string) []string {
	return slices.Concat(others, scripts, []string{"action-script " + g.script, "network-lock skip"})
}

// Script is the path to give to CRIU as its action script.
func (g *Gate) Script() string { return g.script }

func (g *Gate) read() {
	defer g.reader.Done()
	defer close(g.arrivals)
	lines := bufio.NewScanner(g.up)
	for lines.Scan() {
		stage, pid, ok := strings.Cut(lines.Text(), " ")
		n, err := strconv.Atoi(pid)
		if !ok || err != nil {
			continue
		}
		g.arrivals <- Arrival{Stage: Stage(stage), PID: n}
	}
}

// Wait returns when CRIU has arrived at the stage. It fails when ctx ends, with
// its cause, and when CRIU arrives elsewhere first.
func (all arrivals) Wait(ctx context.Context, stage Stage) (Arrival, error) {
	select {
	case a, ok := <-all:
		if !ok {
			return Arrival{}, fmt.Errorf("wait for CRIU at %s: gate is closed", stage)
		}
		if a.Stage != stage {
			return a, fmt.Errorf("CRIU arrived at %s where %s was awaited", a.Stage, stage)
		}
		return a, nil
	case <-ctx.Done():
		return Arrival{}, fmt.Errorf("wait for CRIU at %s: %w", stage, context.Cause(ctx))
	}
}

// Answer gives the verdict that the waiting script exits with.
func (g *Gate) Answer(v Verdict) error {
	if _, err := fmt.Fprintf(g.down, "%d\n", v); err != nil {
		return fmt.Errorf("answer CRIU: %w", err)
	}
	return nil
}

// Close takes the gate down; a script that still waits says Stop. The
// directory stays.
func (g *Gate) Close() {
	g.closing.Do(func() {
		g.up.Close()
		g.down.Close()
		g.memory.Close()
		g.reader.Wait()
	})
}
