package shim

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// freezers gives a new cgroup in each hierarchy of this machine that freezes; both versions freeze on a hybrid one.
func freezers(t testing.TB) map[string]*freezer {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("cgroups need root")
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*freezer{}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		unified := f[2] == "cgroup2"
		if !unified && (f[2] != "cgroup" || !hasController(f[3], "freezer")) {
			continue
		}
		made := &freezer{dir: filepath.Join(f[1], "godwit-freezer-test-"+strconv.Itoa(os.Getpid())), unified: unified}
		if err := os.Mkdir(made.dir, 0o755); err != nil {
			t.Logf("%s: %v", f[1], err)
			continue
		}
		if _, err := os.Stat(made.control()); err != nil {
			t.Errorf("a new cgroup cannot be frozen: %v", err)
		}
		t.Cleanup(func() { removeFreezer(t, made) })
		all[map[bool]string{false: "v1", true: "v2"}[unified]] = made
	}
	if len(all) == 0 {
		t.Skip("no cgroup hierarchy can be written to")
	}
	return all
}

func removeFreezer(t testing.TB, f *freezer) {
	t.Helper()
	if err := errors.Join(f.kill(), f.thaw()); err != nil {
		t.Error(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	// A cgroup stays busy for a moment after its last process has ended.
	for unix.Rmdir(f.dir) != nil {
		if time.Now().After(deadline) {
			t.Errorf("%s cannot be removed", f.dir)
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// busy starts a shell in the cgroup that counts and, on a line, says how far it is; the returned function asks for the number.
func busy(t testing.TB, f *freezer) (cmd *exec.Cmd, count func() (int, error)) {
	t.Helper()
	cmd = exec.Command("sh", "-c", `echo $$ >"$1/cgroup.procs"; sleep 1000 & i=0; while :; do i=$((i+1)); echo $i; done`, "sh", f.dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	lines := bufio.NewReader(out)
	pipe := out.(*os.File)
	count = func() (int, error) {
		if err := pipe.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return 0, err
		}
		line, err := lines.ReadString('\n')
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(strings.TrimSpace(line))
	}
	if _, err := count(); err != nil {
		t.Fatal(err)
	}
	return cmd, count
}

// ticks is the processor time that a process has had, in clock ticks (fields 14 and 15 of proc_pid_stat(5)).
func ticks(t testing.TB, pid int) int {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return user + system
}

func TestFreezeReturnsWhenEveryProcessHasStopped(t *testing.T) {
	for version, f := range freezers(t) {
		t.Run(version, func(t *testing.T) {
			cmd, count := busy(t, f)
			pids, err := f.processes()
			if err != nil || len(pids) < 2 {
				t.Fatalf("processes %v, %v; want the shell and its child", pids, err)
			}
			if frozen, err := f.frozen(); frozen || err != nil {
				t.Fatalf("frozen before: %v, %v", frozen, err)
			}
			began := time.Now()
			if err := f.freeze(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Logf("frozen in %v", time.Since(began))
			if frozen, err := f.frozen(); !frozen || err != nil {
				t.Errorf("frozen: %v, %v", frozen, err)
			}
			before := ticks(t, cmd.Process.Pid)
			time.Sleep(100 * time.Millisecond)
			if after := ticks(t, cmd.Process.Pid); after != before {
				t.Errorf("it ran for %d ticks while it was frozen", after-before)
			}
			if err := f.freeze(t.Context()); err != nil {
				t.Errorf("once more: %v", err)
			}
			if err := f.thaw(); err != nil {
				t.Fatal(err)
			}
			// More than a pipe holds: it runs.
			for range 20_000 {
				if _, err := count(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestKilledWhileFrozenNothingRunsAgain(t *testing.T) {
	for version, f := range freezers(t) {
		t.Run(version, func(t *testing.T) {
			cmd, count := busy(t, f)
			if err := f.freeze(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := f.kill(); err != nil {
				t.Fatal(err)
			}
			if err := f.thaw(); err != nil {
				t.Fatal(err)
			}
			// What it had written before is still in the pipe.
			last, err := count()
			for err == nil {
				last, err = count()
			}
			_ = cmd.Wait()
			deadline := time.Now().Add(10 * time.Second)
			for {
				pids, err := f.processes()
				if err != nil {
					t.Fatal(err)
				}
				if len(pids) == 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%v live on", pids)
				}
				time.Sleep(time.Millisecond)
			}
			t.Logf("it ended at %d", last)
		})
	}
}

func TestThawOfWhatIsGoneIsNoError(t *testing.T) {
	f := &freezer{dir: filepath.Join(t.TempDir(), "gone")}
	if err := f.thaw(); err != nil {
		t.Error(err)
	}
	f.unified = true
	if err := f.thaw(); err != nil {
		t.Error(err)
	}
}

func TestOnlyTheFrozenLineSaysFrozen(t *testing.T) {
	for text, want := range map[string]bool{
		"": false, "populated 1\nfrozen 0\n": false, "populated 1\nfrozen 1\n": true, "frozen 1": true,
		"unfrozen 1\n": false, "frozen 10\n": false,
	} {
		if have := saysFrozen([]byte(text)); have != want {
			t.Errorf("%q: %v", text, have)
		}
	}
}

func BenchmarkFreeze(b *testing.B) {
	for version, f := range freezers(b) {
		b.Run(version, func(b *testing.B) {
			cmd := exec.Command("sleep", "1000")
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
			if err := os.WriteFile(filepath.Join(f.dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := f.freeze(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := f.thaw(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
