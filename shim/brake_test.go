package shim

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream/precopy"
)

// cpuGroup makes a control group that limits processor time and returns its directories,
// the one with the quota first.
func cpuGroup(t *testing.T, name string) []string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("control groups need root")
	}
	parents := []string{"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpuacct"}
	if cgroups.Mode() == cgroups.Unified {
		parents = []string{"/sys/fs/cgroup"}
		_ = os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+cpu"), 0)
	}
	var dirs []string
	for _, parent := range parents {
		dir := filepath.Join(parent, fmt.Sprintf("godwit-%s-test-%d", name, os.Getpid()))
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			t.Skip(err)
		}
		t.Cleanup(func() {
			// It stays busy for a moment after its last process.
			for unix.Rmdir(dir) == unix.EBUSY {
				time.Sleep(time.Millisecond)
			}
		})
		dirs = append(dirs, dir)
	}
	return dirs
}

// quotaOf is what the group's file says, and its path.
func quotaOf(t *testing.T, dir string) (path, text string) {
	t.Helper()
	path = filepath.Join(dir, "cpu.cfs_quota_us")
	if cgroups.Mode() == cgroups.Unified {
		path = filepath.Join(dir, "cpu.max")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, strings.TrimSpace(string(b))
}

// spinning starts a container that computes all the time.
func spinning(t *testing.T, name string) (d *departure, dir string) {
	t.Helper()
	dirs := cpuGroup(t, name)
	cmd := exec.Command("sh", append([]string{"-c", `for d in "$@"; do echo $$ >"$d/cgroup.procs"; done; echo in; while :; do :; done`, "sh"}, dirs...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	return &departure{container: &container{id: name, bundle: t.TempDir()}, pid: cmd.Process.Pid}, dirs[0]
}

func TestAPodThatIsHeldBackHasItsQuotasBackWhenItIsReleased(t *testing.T) {
	limited, limitedDir := spinning(t, "limited")
	free, freeDir := spinning(t, "free")
	_, without := quotaOf(t, freeDir)
	limitedPath, _ := quotaOf(t, limitedDir)
	if err := os.WriteFile(limitedPath, []byte("60000"), 0); err != nil {
		t.Fatal(err)
	}
	_, with := quotaOf(t, limitedDir)

	b, err := newBrake([]*departure{limited, free}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Measure(); err != nil {
		t.Fatal(err)
	}
	throttle, err := b.Hold([]float64{0.3, 0.2})
	if err != nil {
		t.Fatal(err)
	}
	if cpus := float64(runtime.NumCPU()); math.Abs(throttle.Cores-0.5) > 1e-9 || throttle.Of != min(cpus, 0.6+cpus) {
		t.Errorf("it has %v of %v cores", throttle.Cores, throttle.Of)
	}
	cpus, err := b.Measure()
	if err != nil || cpus[0].Limit != 0.3 || cpus[1].Limit != 0.2 || cpus[0].Foreign || cpus[1].Foreign {
		t.Fatalf("measured %+v, %v", cpus, err)
	}
	for cpus[1].Used == 0 { // it is a busy machine
		if cpus, err = b.Measure(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(throttleRecord(limited.bundle)); err != nil {
		t.Error(err)
	}
	b.release()
	if _, now := quotaOf(t, limitedDir); now != with {
		t.Errorf("the limited container has %q, had %q", now, with)
	}
	if _, now := quotaOf(t, freeDir); now != without {
		t.Errorf("the other container has %q, had %q", now, without)
	}
	if _, err := os.Stat(throttleRecord(limited.bundle)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the record is still there: %v", err)
	}
	if _, err := b.Hold([]float64{0.3, 0.2}); !errors.Is(err, errReleased) {
		t.Errorf("held back after that: %v", err)
	}
	if _, now := quotaOf(t, freeDir); now != without {
		t.Errorf("the other container has %q then", now)
	}
}

func TestAPodThatIsHeldBackKeepsAQuotaThatSomebodyElseSets(t *testing.T) {
	d, dir := spinning(t, "resized")
	b, err := newBrake([]*departure{d}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Hold([]float64{0.3}); err != nil {
		t.Fatal(err)
	}
	path, _ := quotaOf(t, dir)
	if err := os.WriteFile(path, []byte("70000"), 0); err != nil {
		t.Fatal(err)
	}
	_, theirs := quotaOf(t, dir)
	if cpus, err := b.Measure(); err != nil || !cpus[0].Foreign {
		t.Errorf("measured %+v, %v", cpus, err)
	}
	if throttle, err := b.Hold([]float64{0.1}); err != nil || throttle != (precopy.Throttle{}) {
		t.Errorf("held back all the same: %+v, %v", throttle, err)
	}
	b.release()
	if _, now := quotaOf(t, dir); now != theirs {
		t.Errorf("it has %q, and %q was set", now, theirs)
	}
}

func TestAPodThatIsHeldBackIsReleasedInTheDeadShimsStead(t *testing.T) {
	d, dir := spinning(t, "orphan")
	_, was := quotaOf(t, dir)
	dead, err := newBrake([]*departure{d}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dead.Hold([]float64{0.3}); err != nil {
		t.Fatal(err)
	}
	// What the next migration begins with, and containerd's clearing up likewise.
	if _, err := newBrake([]*departure{d}, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if _, now := quotaOf(t, dir); now != was {
		t.Errorf("it has %q, had %q", now, was)
	}
}
