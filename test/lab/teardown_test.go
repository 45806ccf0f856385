package lab

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestDownLeavesNothingWhateverWasKilled kills one kind of process each time; the cleanup of the lab does the checking.
func TestDownLeavesNothingWhateverWasKilled(t *testing.T) {
	victims := map[string]func(l *Lab) []int{
		"PID 1 of a node": func(l *Lab) []int { return []int{l.Node("a").PID()} },
		"containerd":      func(l *Lab) []int { return []int{l.Node("a").ServicePID("containerd")} },
		"the delay line":  func(l *Lab) []int { return cgroupPIDs(l.linkCgroup("a")) },
		"everything of a node but PID 1": func(l *Lab) []int {
			return slices.DeleteFunc(cgroupPIDs(l.nodeCgroup("a")), func(pid int) bool { return pid == l.Node("a").PID() })
		},
		"nothing, but a pod is frozen": func(l *Lab) []int { freezePods(t, l.Node("a")); return nil },
		"the state":                    func(l *Lab) []int { os.RemoveAll(l.state); return nil },
	}
	for name, find := range victims {
		t.Run(name, func(t *testing.T) {
			o := newTestLab(t)
			o.Shape.Delay = time.Millisecond
			l := upTest(t, o)
			addEcho(t, l, "echo")
			pod := runEcho(t, l.Node("a"), "p")
			wantAnswer(t, fromHost, pod.IP+":7", "hello world")
			for _, pid := range find(l) {
				if pid <= 0 {
					t.Fatal("nothing to kill")
				}
				if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) { // one may take another with it
					t.Fatal(err)
				}
			}
		})
	}
}

func freezePods(t *testing.T, n *Node) {
	frozen := 0
	for _, h := range hierarchies() {
		walkCgroups(filepath.Join(h.mount, n.Cgroup(), "pods"), func(dir string) {
			for file, value := range map[string]string{"freezer.state": "FROZEN", "cgroup.freeze": "1"} {
				path := filepath.Join(dir, file)
				if _, err := os.Stat(path); err == nil && os.WriteFile(path, []byte(value), 0) == nil {
					frozen++
				}
			}
		})
	}
	if frozen == 0 {
		t.Skip("no freezer here")
	}
}

// TestUpCanBeKilledAtAnyMoment kills an up after longer and longer, until one ends by itself. Whatever it left, another up
// works; and the cleanup checks that down finds all of it.
func TestUpCanBeKilledAtAnyMoment(t *testing.T) {
	o := newTestLab(t)
	if _, err := Up(t.Context(), o); err != nil { // the cache is filled now
		t.Fatal(err)
	}
	if err := Down(t.Context(), o.Dir); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := upAlone(t, o).Wait(); err != nil {
		t.Fatal(err)
	}
	whole := time.Since(start)
	for i := 1; ; i++ {
		after := time.Duration(i) * max(whole/32, 15*time.Millisecond)
		if err := Down(t.Context(), o.Dir); err != nil {
			t.Fatal(err)
		}
		wantNoTrace(t, o)
		cmd := upAlone(t, o)
		timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
		err := cmd.Wait()
		timer.Stop()
		if i%3 == 0 || err == nil { // down at once is as good as up first
			l := upTest(t, o)
			if _, err := l.Node("b").Exec(t.Context(), "true"); err != nil {
				t.Fatal(err)
			}
		}
		if err == nil {
			return
		}
	}
}

// upAlone starts an up in a process of its own.
func upAlone(t *testing.T, o Options) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envUp+"="+o.Dir, envUpBin+"="+o.Bin)
	if o.Kubernetes {
		cmd.Env = append(cmd.Env, envUpKubernetes+"=1")
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}
