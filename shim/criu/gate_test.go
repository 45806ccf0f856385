package criu

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// script starts the gate's action script as CRIU would at a stage.
func script(t *testing.T, g *Gate, stage Stage) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(g.Script())
	cmd.Env = append(os.Environ(), "CRTOOLS_SCRIPT_ACTION="+string(stage))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func newGate(t *testing.T, stages ...Stage) *Gate {
	t.Helper()
	g, err := NewGate(t.TempDir(), stages...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

func TestGateHoldsTheScriptUntilTheVerdict(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, verdict := range []Verdict{Go, Stop} {
		g := newGate(t, PreDump, PostDump)
		for _, stage := range []Stage{PreDump, PostDump} {
			cmd := script(t, g, stage)
			a, err := g.Wait(ctx, stage)
			if err != nil {
				t.Fatal(err)
			}
			if a.PID != os.Getpid() {
				t.Errorf("arrival names process %d, CRIU is %d", a.PID, os.Getpid())
			}
			if err := g.Answer(verdict); err != nil {
				t.Fatal(err)
			}
			cmd.Wait()
			if got := cmd.ProcessState.ExitCode(); got != int(verdict) {
				t.Errorf("script at %s exits with %d, verdict was %d", stage, got, verdict)
			}
		}
	}
}

func TestGateWorksWhereNothingCanBeExecuted(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOEXEC, ""); err != nil {
		t.Skip("nothing can be mounted here: ", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	g, err := NewGate(dir, PostRestore)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	for _, verdict := range []Verdict{Go, Stop} {
		cmd := script(t, g, PostRestore)
		if _, err := g.Wait(ctx, PostRestore); err != nil {
			t.Fatal(err)
		}
		if err := g.Answer(verdict); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != int(verdict) {
			t.Errorf("the script exits with %d, verdict was %d", got, verdict)
		}
	}
}

func TestGateLetsOtherStagesPass(t *testing.T) {
	g := newGate(t, PostRestore)
	for _, stage := range []Stage{"setup-namespaces", "pre-resume", PreDump} {
		if err := script(t, g, stage).Wait(); err != nil {
			t.Errorf("script stops at %s: %v", stage, err)
		}
	}
}

func TestGateStopsCRIUBeforeItServesPages(t *testing.T) {
	g := newGate(t, PreDump, PostDump)
	if err := script(t, g, "status-ready").Wait(); err == nil {
		t.Error("CRIU may go on to serve pages")
	}
}

func TestGateThatClosesSaysStop(t *testing.T) {
	g, err := NewGate(t.TempDir(), PostRestore)
	if err != nil {
		t.Fatal(err)
	}
	cmd := script(t, g, PostRestore)
	if _, err := g.Wait(t.Context(), PostRestore); err != nil {
		t.Fatal(err)
	}
	g.Close()
	cmd.Wait()
	if cmd.ProcessState.ExitCode() != int(Stop) {
		t.Errorf("script of a dead gate exits with %d: held processes would run", cmd.ProcessState.ExitCode())
	}
}

func TestGateWaitEndsWithTheCause(t *testing.T) {
	g := newGate(t, PreDump)
	broke := errors.New("runc broke")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(broke)
	if _, err := g.Wait(ctx, PreDump); !errors.Is(err, broke) {
		t.Errorf("got %v", err)
	}
}

func TestGateRefusesAnotherStage(t *testing.T) {
	g := newGate(t, PreDump, PostDump)
	cmd := script(t, g, PostDump)
	if _, err := g.Wait(t.Context(), PreDump); err == nil {
		t.Error("CRIU at post-dump passes for CRIU at pre-dump")
	}
	g.Answer(Stop)
	cmd.Wait()
}
